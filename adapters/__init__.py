"""Adapters for transformers, nnsight and TransformerLens, imported as ``pid_lens.adapters.*``.

In comes a framework's own model; out go its parts (an `Anatomy`) and, for nnsight and
TransformerLens, attention knockout, noise ablation and readouts: as calls inside a trace, or as
hooks for the hook points of a bridge.

The rest of the package finds an adapter by the class of the model at hand (`pid_lens.model`,
`frameworks`) and imports it then, so that frameworks stay optional. Two are for users, too, and
are imported on first access:

Example:
    >>> import pid_lens
    >>> pid_lens.adapters.nnsight.knockout.__name__
    'knockout'
"""

from importlib import import_module
from types import ModuleType

FOR_USERS = ("nnsight", "transformer_lens")


def __dir__() -> list[str]:
    return list(FOR_USERS)


def __getattr__(name: str) -> ModuleType:
    if name not in FOR_USERS:
        raise AttributeError(f"module 'pid_lens.adapters' has no attribute {name!r}")
    return import_module(f"pid_lens.adapters.{name}")
