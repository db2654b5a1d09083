"""What a model is made of: its plain modules, and how image and question come into its decoder.

In comes a model of any framework; out goes its `Anatomy`, and beside it what is asked of a
module's call: its arguments by name, hooks that do not stay, masks of token pairs. Families differ
here and in `pid_lens.adapters`, nowhere else. Nothing here knows an intervention or a readout.

`dissect` asks the framework's adapter (`frameworks`); `decoder_inputs` are the ways into a
decoder, `families` those besides its embeddings; `hooks`, `call_arguments`, `masks`, `indices`
are tools for one module's call; `preconditions` says which models cannot be hooked, `precision`
how far rounding may move what they compute.
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
