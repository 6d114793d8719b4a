"""Put together what has something in common."""

from collections.abc import Iterable
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
