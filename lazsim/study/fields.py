"""Fields of specifications by dotted names, set or multiplied."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from lazsim.engine.systems import SYSTEMS
from lazsim.errors import SpecError, prefix_errors
from lazsim.specs import SpecT, unknown_name
from lazsim.study.sensitivity import scale

FACTOR = re.compile(r"x(\d+(?:\.\d*)?(?:e[+-]?\d+)?)", re.ASCII)
"""A number by which the one of the catalogue is multiplied."""


def change_fields(spec: SpecT, key: str, changes: Iterable[tuple[str, Any]], system: str = "") -> SpecT:
    """Return a copy of a specification with other values of some fields, all set before any is checked.

    Parameters
    ----------
    spec
        The specification.
    key
        What errors call it.
    changes
        Fields, dotted where they are in a part of the specification, and their values: what stands there then, or text
        such as ``x0.5`` that multiplies a number, as `lazsim.study.sensitivity.scale` does.
    system
        Whose value is changed in a table by systems.

    Raises
    ------
    SpecError
        When there is no such field, or they cannot have these values.

    Examples
    --------
    >>> from lazsim.specs import JobSpec, load_spec
    >>> job = change_fields(load_spec(JobSpec, "testbed-a"), "job", [("join_wait_s", 60), ("fault_threshold", "x2")])
    >>> job.join_wait_s, job.fault_threshold
    (60.0, 4)
    """
    plain = msgspec.to_builtins(spec)
    for field, value in changes:
        with prefix_errors(f"{key}.{field} = {value!r}"):
            _set(plain, field.split("."), value, system)
    with prefix_errors(", ".join(f"{key}.{field} = {value!r}" for field, value in changes)):
        try:
            return msgspec.convert(plain, type=type(spec))
        except msgspec.ValidationError as error:
            raise SpecError(str(error)) from None


def _set(plain: dict[str, Any], path: list[str], value: Any, system: str) -> None:
    *parts, last = path
    if isinstance(_at(plain, path), dict):
        parts, last = path, system
    table = _at(plain, parts)
    if not isinstance(table, dict):
        raise SpecError(f"{'.'.join(parts)} has no fields")
    if not (last in table or (parts and last in SYSTEMS)):
        raise SpecError(unknown_name("field", last, list(table)))
    factor = FACTOR.fullmatch(value) if isinstance(value, str) else None
    old = table.get(last)
    table[last] = scale(old, (), float(factor[1])) if factor and isinstance(old, int | float) else value


def _at(table: Any, path: list[str]) -> Any:
    for part in path:
        table = table.get(part) if isinstance(table, dict) else None
    return table
