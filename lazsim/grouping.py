"""Put together what has something in common, and spread what has not."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

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


def told_apart(pairs: Sequence[tuple[Mapping[str, Any], KeyT]]) -> dict[KeyT, list[dict[str, Any]]]:
    """Return for each value the settings that have it, without what makes no difference to it.

    Examples
    --------
    >>> told_apart([({"system": "ds", "nodes": 2}, "bf16"), ({"system": "ds", "nodes": 4}, "fp8")])
    {'bf16': [{'nodes': 2}], 'fp8': [{'nodes': 4}]}
    """
    keys = list(dict.fromkeys(key for setting, _ in pairs for key in setting))
    for key in reversed(keys):
        others = [one for one in keys if one != key]
        values = grouped((tuple(setting.get(one) for one in others), value) for setting, value in pairs)
        keys = keys if any(len(set(each)) > 1 for each in values.values()) else others
    short = (({key: setting[key] for key in keys if key in setting}, value) for setting, value in pairs)
    found = grouped((value, tuple(setting.items())) for setting, value in short)
    return {value: [dict(items) for items in dict.fromkeys(settings)] for value, settings in found.items()}


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
