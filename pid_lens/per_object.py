"""Weak cache: one value per object of the caller, for as long as the object lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch.utils.weak import WeakIdKeyDictionary

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class PerObject(Generic[Value]):
    """Weak cache of one value per model, bridge or processor, made when it is first asked for.

    By identity: equal objects have a value each, and an object without a hash has one, too.
    Weakly: no object is kept alive, and its value is dropped with it. A value must not hold its
    object, which would then live as long as the process.

    Attributes:
        make: makes the value of an object that has none yet, such as ``dict``.

    Example:
        >>> import torch
        >>> known: PerObject[dict[str, bool]] = PerObject(dict)
        >>> model, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        >>> known.of(model)["sound"] = True
        >>> known.of(model), known.of(other), len(known)
        ({'sound': True}, {}, 2)
        >>> del model
        >>> len(known)
        1
    """

    make: Callable[[], Value]
    _values: WeakIdKeyDictionary = field(
        default_factory=WeakIdKeyDictionary, init=False, repr=False
    )

    def of(self, thing: object) -> Value:
        """Return an object's value, the same one at every call: changes to it are kept.

        Raises:
            TypeError: the object cannot be weakly referenced, so its end would go unnoticed.
        """
        new = self.make()
        try:
            value: Value = self._values.setdefault(thing, new)
        except TypeError:
            raise TypeError(
                f"nothing can be remembered of a {type(thing).__name__}, which cannot be weakly "
                "referenced: if it is a class with __slots__, add '__weakref__' to them"
            ) from None
        return value

    def __len__(self) -> int:
        """Count the living objects that have a value."""
        return len(self._values)
