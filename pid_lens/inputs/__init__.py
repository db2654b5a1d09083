"""Model inputs: token ids, pixels, and the token positions of image, question and answer.

In come images and questions, or a mapping of a model's own inputs (``input_ids``,
``attention_mask``, ``pixel_values``), with what the caller states about them. Out go a `Batch`
(inputs, span masks, option tokens, labels, ids) and `Samples`: the same with nothing left open,
for interventions and readouts, which address tokens by span. Nothing here knows a model's modules.

`build_batch` applies a processor's chat template to images and questions (`prompts/` is how);
`spans` are boolean masks of token positions; `samples` finds what a batch does not state;
`options` are the token ids of the answers on offer; `sample_ids` hashes each sample's content;
`regions/` finds the image tokens that cover a box of the image.
"""

from pid_lens.inputs.batch_record import (
    Batch,
    as_batch,
    as_batches,
    attended_tokens,
    describe_batch,
)
from pid_lens.inputs.build_batch import batch
from pid_lens.inputs.options import as_lists, as_option_rows, option_table, text_tokens
from pid_lens.inputs.prompts.token_spans import find_answer, find_image
from pid_lens.inputs.regions.boxes import region
from pid_lens.inputs.sample_ids import content_ids
from pid_lens.inputs.samples import Samples, find_spans, resolve_samples
from pid_lens.inputs.spans import Spans, UnknownSpan

__all__ = [
    "Batch",
    "Samples",
    "Spans",
    "UnknownSpan",
    "as_batch",
    "as_batches",
    "as_lists",
    "as_option_rows",
    "attended_tokens",
    "batch",
    "content_ids",
    "describe_batch",
    "find_answer",
    "find_image",
    "find_spans",
    "option_table",
    "region",
    "resolve_samples",
    "text_tokens",
]
