"""Other values for fields of a specification, named by dotted paths."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from lazsim.errors import SpecError, prefix_errors, unknown_name
from lazsim.files.decoding import convert
from lazsim.limits import MAX_WHOLE
from lazsim.specs.catalog import SpecT
from lazsim.specs.record import with_units

FACTOR = re.compile(r"x(\d+(?:\.\d*)?(?:e[+-]?\d+)?)", re.ASCII)
"""Text that multiplies a number, such as ``x0.5``."""

SHARES = "_efficiency", "_share", "_prob", "slowest_gpu_rate"
"""Ends of the names of shares of a whole, which no factor takes beyond it."""


def override(
    spec: SpecT, changes: Mapping[str, Any], name: str = "", system: str = "", systems: Collection[str] = ()
) -> SpecT:
    """Return a copy of a specification with other values of some fields, all set before any is checked.

    Parameters
    ----------
    changes
        Values by field; a dot leads into a part of the specification. Text such as ``x0.5`` multiplies a number.
    name
        How errors name the specification, if at all.
    system, systems
        In a table by systems, the entry that changes when a path names the whole table; entries that it may gain.

    Raises
    ------
    SpecError
        When there is no such field, or the fields cannot have these values.

    Examples
    --------
    >>> from lazsim.specs import JobSpec, load_spec
    >>> job = override(load_spec(JobSpec, "testbed-a"), {"join_wait_s": 60, "fault_threshold": "x2"}, "job")
    >>> job.join_wait_s, job.fault_threshold
    (60.0, 4)
    """
    if not changes:
        return spec
    # Also fields that are left out where they have their defaults.
    plain = msgspec.structs.asdict(spec) | msgspec.to_builtins(spec)
    told = [f"{name}.{field} = {value!r}".lstrip(".") for field, value in changes.items()]
    for (field, value), change in zip(changes.items(), told, strict=True):
        with prefix_errors(change):
            _set(plain, field.split("."), value, system, systems)
    try:
        return convert(with_units(plain, name), type(spec), name)
    except SpecError as error:
        # A change that is alone is named already.
        only = f"`{told[0].partition(' ')[0]}`: " if len(told) == 1 else ""
        raise SpecError(f"{', '.join(told)}: {str(error).removeprefix(only)}") from None


def scale(value: Any, factor: float, name: str = "") -> Any:
    """Multiply a constant, each of several; a whole number, such as of steps, is rounded and stays 1 or more, or 0.

    A share, by its name, becomes 1 at most, or stays what it is above that.

    Examples
    --------
    >>> scale(7, 1.5), scale(5.0, 0.5), scale(0, 2.0), scale((1.0, 3.0), 2.0)
    (10, 2.5, 0, [2.0, 6.0])
    >>> scale(0.78, 1.5, "matmul_efficiency")
    1.0
    """
    if isinstance(value, list | tuple):
        return [scale(one, factor, name) for one in value]
    if name.endswith(SHARES):
        return min(value * factor, max(value, 1.0))
    # An endless product becomes a number that is too large for any field.
    return max(min(value, 1), round(min(MAX_WHOLE, value * factor))) if isinstance(value, int) else value * factor


def share_note(path: str, factor: float, value: Any) -> str:
    """Say that a factor left a share at its most, by its path and what it became; else return an empty text.

    Examples
    --------
    >>> share_note("gpu.matmul_efficiency", 1.5, 1.0), share_note("gpu.matmul_efficiency", 1.5, 0.9)
    ('taken as 1, as no factor takes a share beyond that', '')
    """
    if factor <= 1 or not path.endswith(SHARES) or value < 1:
        return ""
    return f"taken as {value:g}, as no factor takes a share beyond that"


def field_at(value: Any, path: str) -> Any:
    """Return the field at a dotted path, or None where there is none.

    Examples
    --------
    >>> field_at({"network": {"nic_latency_s": 1e-5}}, "network.nic_latency_s")
    1e-05
    """
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return value


def _set(plain: dict[str, Any], path: list[str], value: Any, system: str, systems: Collection[str]) -> None:
    *parents, last = path
    if isinstance(field_at(plain, ".".join(path)), dict):
        parents, last = path, system
    table = field_at(plain, ".".join(parents)) if parents else plain
    if table is None:
        raise SpecError(f"there is no table {'.'.join(parents)} to change: give a file that has one")
    if not isinstance(table, dict):
        raise SpecError(f"{'.'.join(parents)} has no fields")
    if not (last in table or (parents and last in systems)):
        raise SpecError(unknown_name("field", last, list(table)))
    factor = FACTOR.fullmatch(value) if isinstance(value, str) else None
    old = table.get(last)
    if factor and old is None:
        raise SpecError("there is no number to multiply; give one")
    numbers = old if isinstance(old, list | tuple) else [old]
    is_scaled = factor is not None and all(isinstance(one, int | float) for one in numbers)
    table[last] = scale(old, float(factor[1]), last) if factor and is_scaled else value
