"""TODO room model."""

from pid_lens.model.anatomy import Anatomy
from pid_lens.model.call_arguments import (
    HARMLESS,
    cached_tokens,
    carries_numbers,
    named_arguments,
    refuse_ways_around,
    ways_around,
)
from pid_lens.model.decoder_inputs import (
    EMBEDDINGS,
    Entrance,
    Entry,
    at_site,
    beside_tokens,
    embedded,
    embeddings_of,
    entering,
    standing_for,
)
from pid_lens.model.dissection import dissect, dissect_plain
from pid_lens.model.families import CrossAttention, DeepStack, QuestionAwareImage
from pid_lens.model.frameworks import (
    ADAPTERS,
    TRANSFORMERS,
    WRAPPINGS,
    adapter_of,
    by_hand,
    name_of,
    plain_name,
    processor_of,
    unwatched,
)
from pid_lens.model.hooks import After, Before, hooked, without
from pid_lens.model.indices import resolve_indices
from pid_lens.model.masks import forbidden, unwritten
from pid_lens.model.preconditions import refuse_checkpointing, refuse_compiled, refuse_unloaded

__all__ = [
    "ADAPTERS",
    "EMBEDDINGS",
    "HARMLESS",
    "TRANSFORMERS",
    "WRAPPINGS",
    "After",
    "Anatomy",
    "Before",
    "CrossAttention",
    "DeepStack",
    "Entrance",
    "Entry",
    "QuestionAwareImage",
    "adapter_of",
    "at_site",
    "beside_tokens",
    "by_hand",
    "cached_tokens",
    "carries_numbers",
    "dissect",
    "dissect_plain",
    "embedded",
    "embeddings_of",
    "entering",
    "forbidden",
    "hooked",
    "name_of",
    "named_arguments",
    "plain_name",
    "processor_of",
    "refuse_checkpointing",
    "refuse_compiled",
    "refuse_unloaded",
    "refuse_ways_around",
    "resolve_indices",
    "standing_for",
    "unwatched",
    "unwritten",
    "ways_around",
    "without",
]
