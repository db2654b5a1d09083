"""TransformerLens: whatever is private of it, in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pid_lens.adapters.versions import require

from pid_lens.anatomy import Anatomy
from pid_lens.frameworks import dissect_plain
from pid_lens.frameworks import unwatched as plainly

TRIED = "4.3", "4.4"
"""Versions that were tried: from the first on, below the second."""


def dissect(bridge: Any) -> Anatomy:
    """The parts of the plain model behind a bridge.

    Raises:
        ImportError: a version of TransformerLens that was not tried.
    """
    require("transformer-lens", *TRIED)
    return dissect_plain(bridge.original_model)


def unwatched(component: Any) -> Callable[..., Any]:
    """The forward of the plain module that a component of a bridge wraps: no hook point fires."""
    return plainly(component.original_component)
