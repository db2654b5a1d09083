"""What a caller hands over, and where its tokens stand.

In come images and questions, or a mapping of a model's own inputs, with whatever the caller says
of them. Out go a `Batch` (inputs, spans, options, labels, ids) and `Samples`: the same with
nothing left open, for all that looks at tokens later. Nothing here knows a model's modules.

`build_batch` renders images and questions with a processor (`prompts/` is how); `spans` and
`samples` find what a batch does not say; `options` are the tokens of answers; `sample_ids` names
samples by their content; `regions/` finds the tokens that see a part of an image.
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
