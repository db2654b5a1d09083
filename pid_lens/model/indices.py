"""Numbers of layers and of attention heads, as users write them."""

from __future__ import annotations

from collections.abc import Iterable


def resolve_indices(
    given: Iterable[int] | int | None, count: int, name: str = "layers", of: object = None
) -> tuple[int, ...]:
    """Resolve numbers: sorted, each once, negative ones counted from the last; all for None.

    Args:
        given: one number, or several, or None.
        count: how many there are.
        name: of what, in the plural, for errors.
        of: whose they are, for errors; left out by default.

    Raises:
        TypeError: a string in place of numbers.
        ValueError: a number that is not there, or none at all.

    Example:
        >>> resolve_indices([-1, 0], count=6)
        (0, 5)
    """
    if isinstance(given, str):
        raise TypeError(
            f"{name} must be a list of {name.removesuffix('s')} numbers; got {given!r}"
        )
    if given is None:
        return tuple(range(count))
    asked = [given] if isinstance(given, int) else list(given)
    chosen = sorted({number + count if number < 0 else number for number in asked})
    if not chosen or chosen[0] < 0 or chosen[-1] >= count:
        whose = "" if of is None else f"{of!r}: "
        raise ValueError(
            f"{whose}{name} must lie in 0..{count - 1} (or -{count}..-1); got {asked}"
        )
    return tuple(chosen)
