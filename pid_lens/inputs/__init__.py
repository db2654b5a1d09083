"""TODO room inputs."""

from pid_lens.inputs.batch_record import (
    SAID,
    Batch,
    as_batch,
    as_batches,
    attended_tokens,
    described,
)
from pid_lens.inputs.build_batch import batch
from pid_lens.inputs.options import as_lists, one_a_sample, option_table, text_tokens
from pid_lens.inputs.prompts.locate import find_answer, find_image
from pid_lens.inputs.regions.boxes import region
from pid_lens.inputs.sample_ids import content_ids
from pid_lens.inputs.samples import Samples, find_spans, recognise
from pid_lens.inputs.spans import Spans, UnknownSpan

__all__ = [
    "SAID",
    "Batch",
    "Samples",
    "Spans",
    "UnknownSpan",
    "as_batch",
    "as_batches",
    "as_lists",
    "attended_tokens",
    "batch",
    "content_ids",
    "described",
    "find_answer",
    "find_image",
    "find_spans",
    "one_a_sample",
    "option_table",
    "recognise",
    "region",
    "text_tokens",
]
