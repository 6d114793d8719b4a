"""Sweeps in TOML: settings that all runs share, and grids of settings that vary."""

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import numpy as np

from lazsim.engine.systems import DEFAULT_SYSTEMS, find_system
from lazsim.errors import SpecError, prefix_errors, shorten, unknown_name
from lazsim.files.decoding import convert
from lazsim.files.reading import read_bytes
from lazsim.limits import MAX_SPEC_BYTES, MAX_SWEEP_POINTS
from lazsim.settings import DEFAULTS, PARTS_WITH_FIELDS, Defaults, plain
from lazsim.specs import Spec, read_toml, sha256
from lazsim.specs.record import AnyNumber

Point = Mapping[str, Any]
"""Settings of a run by key, and the dotted names of fields; None where a value follows from others."""

SPAN = re.compile(r"(\d{1,18})-(\d{1,18})", re.ASCII)
"""A span of whole numbers, both ends included: short for a list of seeds."""

TYPES = {**get_type_hints(Defaults, include_extras=True), "trace": str, "start": str, "duration": str | None}
"""Types of settings in a file, where times are text with a unit."""

SEEDS = ("seed", "trace_seed")

FIELD = AnyNumber | bool | str
"""Types of the values of fields, which may also be lists of them."""

MOST_DOTS = 3
"""Depth of the deepest field of a specification."""


class ListValue(tuple[Any, ...]):
    """A value that is a list, which is written as in TOML."""

    def __repr__(self) -> str:
        return json.dumps(self, ensure_ascii=False)


class _Document(Spec, frozen=True, kw_only=True):
    """A sweep as a file has it."""

    base: dict[str, Any] = msgspec.field(default_factory=dict)
    grid: dict[str, Any] | list[dict[str, Any]] = msgspec.field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep; `name` is that in errors, the path of its file, and relative paths begin at `folder`.

    `sha256` is the hash of the file, empty without one.

    Examples
    --------
    >>> sweep = parse_sweep({"base": {"trace": "fail-every-5min", "system": "lazarus"}, "grid": {"seed": "0-2"}})
    >>> [point["seed"] for point in sweep.points()]
    [0, 1, 2]
    """

    name: str
    folder: Path
    base: Mapping[str, tuple[Any, ...]]
    """Values that hold in every grid, a tuple for each key."""
    grids: tuple[Mapping[str, tuple[Any, ...]], ...]
    """Values that vary, a tuple for each key. Every combination of a grid's values with the base is a point."""
    sha256: str = ""

    def points(self) -> tuple[Point, ...]:
        """Return every point once, in the order of the file: in a grid, the last key varies fastest."""
        found: dict[frozenset[Any], Point] = {}
        named = {key for grid in self.grids for key in grid if key in DEFAULTS}
        for grid in self.grids:
            axes = {**self.base, **grid}
            for values in itertools.product(*axes.values()):
                chosen = dict(zip(axes, values, strict=True))
                point = chosen | {key: value for key, value in DEFAULTS.items() if key in named - chosen.keys()}
                found.setdefault(frozenset(point.items()), point)
        return tuple(found.values())

    def changed(self, values: Mapping[str, Any]) -> "Sweep":
        """Return the sweep with other values of some keys, in the base and in every grid that names them.

        Examples
        --------
        >>> sweep = parse_sweep({"base": {"trace": "fail-every-5min"}, "grid": {"seed": "0-9"}})
        >>> len(sweep.changed({"seed": 0, "system": ["ds", "ds-ft"]}).points())
        2
        """
        with prefix_errors(self.name):
            new = _axes(values)
        grids = tuple({key: new.get(key, old) for key, old in grid.items()} for grid in self.grids)
        return replace(self, base={**self.base, **new}, grids=grids)


def load_sweep(path: Path | str) -> Sweep:
    """Read a sweep from a TOML file; paths in it are relative to its folder.

    Raises
    ------
    LazsimError
        When the file cannot be read, or has an unknown key or value; the message names file and key.
    """
    path = Path(path)
    content = read_bytes(path, MAX_SPEC_BYTES)
    try:
        document = read_toml(path, content, dict[str, Any])
    except SpecError as error:
        hint = "; write dotted names in quotes, and several grids as [[grid]]" if "given twice" in str(error) else ""
        raise SpecError(f"{error}{hint}") from None
    return replace(parse_sweep(document, name=str(path), folder=path.parent), sha256=sha256(content))


def parse_sweep(document: Mapping[str, Any], *, name: str = "sweep", folder: Path = Path()) -> Sweep:
    """Make a sweep from plain data: ``base`` and ``grid``, as in a file.

    Raises
    ------
    SpecError
        When a key is unknown, a value has a wrong type, a list is empty, or there is no trace.
    """
    with prefix_errors(name):
        try:
            checked = convert(document, _Document)
        except SpecError as error:
            raise SpecError(f"{error}; expected a table [base] and one or more tables [grid]") from None
        base = _axes(checked.base)
        tables = [checked.grid] if isinstance(checked.grid, dict) else checked.grid
        if not tables:
            raise SpecError("grid is an empty list; leave it out, or give [[grid]] tables")
        systems = {} if "system" in base else {"system": DEFAULT_SYSTEMS}
        # The default systems vary fastest; a grid that names systems keeps them in its own order.
        grids = tuple(own if "system" in own else own | systems for own in map(_axes, tables))
        num_points = sum(math.prod(map(len, (base | grid).values())) for grid in grids)
        if num_points > MAX_SWEEP_POINTS:
            raise SpecError(f"the grids have {num_points:,} points; give at most {MAX_SWEEP_POINTS:,}")
        if nameless := [base | grid for grid in grids if "trace" not in base | grid]:
            fields = [key for key in nameless[0] if key.startswith("trace.")]
            hint = f"; {fields[0]} changes one of these, and a whole recipe takes a TOML file" if fields else ""
            raise SpecError(f"trace is missing; name a recipe of lazsim list traces, or a file{hint}")
        return Sweep(name, folder, base, grids)


def _axes(table: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return the tuple of values of each key of a table, checked as far as possible without other files."""
    axes: dict[str, tuple[Any, ...]] = {}
    for key, value in _flatten(table):
        head, dot, _ = key.partition(".")
        if key not in TYPES and not (dot and head in PARTS_WITH_FIELDS):
            fields = f"or a field of {', '.join(PARTS_WITH_FIELDS)}, as job.fault_threshold"
            raise SpecError(f"{unknown_name('key', key, list(TYPES))}; {fields}")
        if key in axes:
            raise SpecError(f"{key} is given twice in one table; keep one of them")
        values = _values(key, value)
        if len(values) > MAX_SWEEP_POINTS:
            raise SpecError(f"{key} has {len(values):,} values; give at most {MAX_SWEEP_POINTS:,}")
        axes[key] = tuple(_check_value(key, each) for each in values)
        if twice := [str(each) for each, times in Counter(axes[key]).items() if times > 1]:
            raise SpecError(f"{key} has {shorten(', '.join(twice))} twice; give each value once")
        if not axes[key]:
            raise SpecError(f"{key} has no values; give at least one")
    return axes


def _flatten(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and above.count(".") < MOST_DOTS:
            yield from _flatten(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _values(key: str, value: Any) -> Sequence[Any]:
    if isinstance(value, list | tuple | range | np.ndarray):
        return list(map(plain, value))
    span = SPAN.fullmatch(value) if key in SEEDS and isinstance(value, str) else None
    return range(int(span[1]), int(span[2]) + 1) if span else [plain(value)]


def _check_value(key: str, value: Any) -> Any:
    kind: Any = TYPES.get(key, FIELD | tuple[FIELD, ...])
    with prefix_errors(key):
        checked: Any = convert(value, kind)
    if key == "system" and ":" not in str(checked):
        find_system(str(checked))
    return ListValue(checked) if isinstance(checked, tuple) else checked
