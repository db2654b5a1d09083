"""What is remembered of an object of a caller's, for as long as it lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch.utils.weak import WeakIdKeyDictionary

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class PerObject(Generic[Value]):
    """One value for each model, bridge or processor, made when it is first asked for.

    By identity: equal objects have a value each, and an object without a hash has one, too.
    Weakly: no object is kept alive, and its value goes when it goes. A value must not hold its
    object, which would then live as long as the process.

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
    """Makes the value of an object that nothing is remembered of, such as ``dict``."""
    _values: WeakIdKeyDictionary = field(
        default_factory=WeakIdKeyDictionary, init=False, repr=False
    )

    def of(self, thing: object) -> Value:
        """An object's value, the same one at every call: what is written to it is remembered.

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
        """How many living objects something is remembered of."""
        return len(self._values)
