"""Put together what has something in common, and spread what has not."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


def grouped(pairs: Iterable[tuple[KeyT, ValueT]]) -> dict[KeyT, list[ValueT]]:
    """Return all values of each key, keys and values in the order in which they come.

    Examples
    --------
    >>> grouped([("spot", 1), ("mtbf", 2), ("spot", 3)])
    {'spot': [1, 3], 'mtbf': [2]}
    """
    found: dict[KeyT, list[ValueT]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def interleaved(kinds: Sequence[tuple[str, int]]) -> list[str]:
    """Spread as many of each kind evenly over a list.

    Examples
    --------
    >>> interleaved([("dense", 1), ("moe", 3)])
    ['moe', 'dense', 'moe', 'moe']
    """
    places = [
        ((index + 0.5) / count, order, kind) for order, (kind, count) in enumerate(kinds) for index in range(count)
    ]
    return [kind for _, _, kind in sorted(places)]
