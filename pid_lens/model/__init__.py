"""Model anatomy: decoder layers, final norm, unembedding, and all inputs of the decoder.

In comes a model of transformers, nnsight or TransformerLens; out goes its `Anatomy`, the plain
modules to hook. There are tools for a module's forward call, too: its arguments by name,
hooks as a context manager, causal and attention masks. Model families differ here and in
`pid_lens.adapters`, nowhere else. Nothing here knows an intervention or a readout.

`dissect` asks the framework's adapter (`frameworks`); `decoder_inputs` are the entries into a
decoder (embeddings, image features), `families` those besides its embeddings (DeepStack,
cross-attention, Q-Former); `hooks`, `call_arguments`, `masks`, `indices` serve one module's call;
`preconditions` rejects models that cannot be hooked, `precision` bounds rounding errors by dtype.
"""

from pid_lens.model.anatomy import Anatomy
from pid_lens.model.call_arguments import (
    cached_tokens,
    has_floats,
    named_arguments,
    require_known_pathways,
)
from pid_lens.model.decoder_inputs import (
    Entry,
    ImagePathway,
    embed_arguments,
    entries_of,
    spans_beside_tokens,
)
from pid_lens.model.dissection import dissect, dissect_plain
from pid_lens.model.families import CrossAttention, DeepStack, QuestionAwareImage
from pid_lens.model.frameworks import (
    adapter_of,
    forward_without_hooks,
    is_user_call,
    name_of,
    processor_of,
)
from pid_lens.model.hooks import After, Before, hooked, without_method
from pid_lens.model.indices import resolve_indices
from pid_lens.model.masks import causal_mask, mask_pairs
from pid_lens.model.precision import tolerances_of
from pid_lens.model.preconditions import (
    require_loaded,
    require_no_checkpointing,
    require_uncompiled,
)

__all__ = [
    "After",
    "Anatomy",
    "Before",
    "CrossAttention",
    "DeepStack",
    "Entry",
    "ImagePathway",
    "QuestionAwareImage",
    "adapter_of",
    "cached_tokens",
    "causal_mask",
    "dissect",
    "dissect_plain",
    "embed_arguments",
    "entries_of",
    "forward_without_hooks",
    "has_floats",
    "hooked",
    "is_user_call",
    "mask_pairs",
    "name_of",
    "named_arguments",
    "processor_of",
    "require_known_pathways",
    "require_loaded",
    "require_no_checkpointing",
    "require_uncompiled",
    "resolve_indices",
    "spans_beside_tokens",
    "tolerances_of",
    "without_method",
]
