"""The interface of a reader of expert loads: its input, its result, and the table that readers fill."""

import fnmatch
import functools
import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lazsim.files.faults import Faults
from lazsim.files.reading import decode_text
from lazsim.limits import MAX_EXPERTS, MAX_LAYERS, MAX_LOADS, MAX_WHOLE
from lazsim.placement.plan import Floats
from lazsim.units import read_number

NAMES = {
    "step": "step steps iteration iterations iter it globalstep trainstep trainingstep forwardpassid",
    "layer": "layer layerid layeridx layerindex layernumber layerno layernum moelayer",
    "expert": "expert expertid expertidx expertindex logicalexpert logicalexpertid",
    "loads": "tokens count counts load loads numtokens tokencount tokensperexpert localtokensperexpert "
    "globaltokensperexpert expertload expertloads expertcount expertcounts logicalexpertload logicalcount "
    "loadperexpert share shares fraction fractions percent percentage frequency freq hits activations numactivations "
    "activationcount",
    "physical": "globalphysicalcount",
    "map": "physicaltologicalmap lastphysicaltologicalmap",
    "routes": "topkids topkidx topkindices topkexperts selectedexperts routedexperts expertids expertindices experts",
    "part": "rank eprank dprank tprank pprank worker gpu microbatch",
    "token": "token tokenid tokenidx tokenindex position pos",
    "experts": "numexperts nroutedexperts",
    "local": "numlocalexperts",
}
"""Names under which stacks write each part of a record, in small letters and without punctuation."""

ROLES = {name: role for role, names in NAMES.items() for name in names.split()}


@functools.lru_cache(1 << 12)
def role_of(name: str) -> str:
    """Return the part of a record that a name stands for; empty for an unknown one.

    Numbered names are loads of one expert, such as e0 or expert_0, or one of the experts of a token, as topk_ids_0.

    Examples
    --------
    >>> role_of("layer_id"), role_of("Tokens per expert"), role_of("seed"), role_of("expert_12")
    ('layer', 'loads', '', 'loads')
    """
    plain = re.sub(r"[\W_]", "", name).lower()
    bare = plain.rstrip("0123456789")
    role = {"e": "expert", "top": "routes"}.get(bare, ROLES.get(bare, ""))
    if bare == plain:
        return ROLES.get(plain, "")
    return {"expert": "loads", "loads": "loads", "routes": "routes"}.get(role, "")


def roles_of(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the positions of the names of each part of a record: all numbered ones by their number, else the first.

    Examples
    --------
    >>> roles_of(["layer", "tokens", "e1", "e0", "seed"])
    {'layer': [0], 'loads': [3, 2]}
    """
    first: dict[str, list[int]] = {}
    numbered: dict[str, dict[int, int]] = {}
    for at, name in enumerate(names):
        if number := re.search(r"\d{1,9}$", name.strip(), re.ASCII):
            numbered.setdefault(role_of(name), {})[int(number[0])] = at
        else:
            first.setdefault(role_of(name), [at])
    if "token" in first and "expert" not in first and "loads" in numbered:
        # With a token in each record, expert_0 and expert_1 are its experts.
        numbered["routes"] = numbered.pop("loads")
    found = first | {role: [at for _, at in sorted(ats.items())] for role, ats in numbered.items()}
    return {role: ats for role, ats in found.items() if role}


def refuse_gaps(names: Sequence[str]) -> None:
    """Raise ValueError where the numbers in the names of loads leave one out, or begin with neither 0 nor 1."""
    numbers = [int(found[0]) for name in names if (found := re.search(r"\d{1,9}$", name.strip(), re.ASCII))]
    if len(numbers) > 1 and (lacking := set(range(min(1, *numbers), max(numbers))) - set(numbers)):
        raise ValueError(f"no load of expert {min(lacking)}, but of {max(numbers)}; write 0 for those without")


class LoadReading(NamedTuple):
    """Result of a reader: recorded steps (S,), loads (S, L, E), numbers of the layers, notes."""

    steps: Floats
    tokens_SLE: Floats
    layers: tuple[int, ...]
    notes: tuple[str, ...] = ()
    are_named: bool = True
    """Whether the file says that these are loads."""


FEWEST_ROUTES, MOST_ROUTED = 8, 1024
"""Rows from which on, and number of experts up to which, numbers without a name may be the experts of tokens; the
largest published layers have 512 experts. *Assumption*."""


def are_routes(rows: Floats) -> bool:
    """Tell whether numbers of shape (S, L, E) are rather the experts of tokens, of which each has others.

    Loads of a step have the same sum in each layer, and in many rows some experts have equal loads.
    """
    rows = rows.reshape(-1, rows.shape[-1]) if 1 in rows.shape[:2] else rows
    sums = rows.sum(axis=-1)
    flat = np.sort(rows.reshape(-1, rows.shape[-1]), axis=-1)
    return bool(
        len(flat) >= FEWEST_ROUTES
        and (sums != sums[..., :1]).any()
        and (flat == np.rint(flat)).all()
        and flat.max() < MOST_ROUTED
        and ((np.diff(flat) > 0) | (flat[:, 1:] < 0)).all()
    )


@dataclass(frozen=True, kw_only=True)
class LoadSource(Faults):
    """One or more files to read together: names, contents, and faults."""

    files: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class LoadReader:
    """A format of expert loads."""

    looks: str
    """The format, in words for people."""
    recognise: Callable[[bytes], bool]
    """Returns whether a content is of this format."""
    read: Callable[[LoadSource], LoadReading]
    """Reads one or more files into loads."""
    names: str = ""
    """Names of files of this format, with ``*``; those of a folder are read together. None where empty."""

    def belongs(self, path: str) -> bool:
        """Return whether a file is of this format by its name, also when compressed."""
        name = re.sub(r"\.(gz|bz2|xz|zst)$", "", Path(path).name)
        return fnmatch.fnmatchcase(name, self.names)


FEWEST_FROM_1 = 8
"""Experts of all layers of which all but those of number 0 have loads, so that they count from 1: fewer may lack it by
chance."""


class LoadTable:
    """Loads by step and layer, added in any order; those of the same step, layer and expert add up."""

    def __init__(self, source: LoadSource) -> None:
        self._source = source
        self._rows: dict[tuple[int, int], Floats] = {}
        self._num_experts = 1
        self._num_told = 0
        self._routes: dict[tuple[int, int], array[int]] = {}
        self.numbers: set[int] = set()
        """Experts from which on loads were added: all but 0 where they may count from 1."""
        self._parts: dict[int, set[object]] = {}
        self.are_named = True
        """Whether what is added is said to be loads."""
        self.part: object = None
        """The part of the job, such as a rank, of what is added from now on, if it is told; all parts add up."""

    def add(self, where: int | str, step: object, layer: object, loads: Any, expert: object = 0) -> None:
        """Add the loads of the experts of a layer from `expert` on, shape (E,), or of parts of it, shape (..., E)."""
        values = np.atleast_1d(np.asarray(loads, dtype=np.float64))
        values = values.reshape(-1, values.shape[-1]).sum(axis=0)
        first = whole(expert, MAX_WHOLE)
        self._num_told += len(values)
        self.numbers.add(first)
        row = self._row(where, self._key(step, layer), first + len(values))
        row[first : first + len(values)] += values

    def add_layers(self, where: int | str, step: object, loads: Any) -> int:
        """Add the loads of all layers, shape (L, E), or of steps from `step` on, (S, L, E); return the step after."""
        values = np.atleast_2d(np.asarray(loads, dtype=np.float64))
        if values.ndim > 3:
            raise self._source.refuse(where, f"loads of shape {values.shape}; expected (steps, layers, experts)")
        first = whole(step, MAX_WHOLE)
        for offset, layers in enumerate(values if values.ndim == 3 else [values]):
            for layer, row in enumerate(layers):
                self.add(where, first + offset, layer, row)
        return first + (len(values) if values.ndim == 3 else 1)

    def add_routes(self, where: int | str, step: object, layer: object, experts: Any) -> None:
        """Count the experts that tokens were sent to, of any shape; negative numbers pad."""
        if not (isinstance(experts, list) and all(type(one) is int for one in experts)):
            numbers = np.asarray(experts, dtype=np.float64).reshape(-1)
            if not (numbers == np.rint(numbers)).all():
                raise ValueError("an expert's number is a fraction")
            # Larger numbers are too large as well, and fit the type.
            experts = np.clip(numbers, -2 * MAX_EXPERTS, 2 * MAX_EXPERTS).astype(np.int64).tolist()
        if max(experts, default=0) >= MAX_EXPERTS or min(experts, default=0) < -MAX_EXPERTS:
            raise ValueError(f"an expert's number is {MAX_EXPERTS:,} or more")
        # Counted at the end, since files have millions of tokens, each in a row of its own.
        self._routes.setdefault(self._key(step, layer), array("i")).extend(experts)

    def _key(self, step: object, layer: object) -> tuple[int, int]:
        """Return a step and layer as numbers, and keep the part that has them."""
        key = whole(step, MAX_WHOLE), whole(layer, MAX_WHOLE)
        if self.part is not None:
            self._parts.setdefault(key[0], set()).add(self.part)
        return key

    def reading(self, *notes: str, num_experts: int = 0) -> LoadReading:
        """Return all loads; those that were not added are 0. A layer has at least `num_experts`."""
        if self._routes and all(sorted(one) == list(range(max(2, len(one)))) for one in self._routes.values()):
            what = "each expert of a layer stands once, and nothing is known as its load; name that tokens"
            raise self._source.refuse("", what)
        self.part = None
        for (step, layer), experts in self._routes.items():
            numbers = np.array(experts, dtype=np.int64)
            self.add("", step, layer, np.bincount(numbers[numbers >= 0], minlength=1))
        if not self._rows:
            raise self._source.refuse("", "no loads; give at least one step")
        steps, layers = (sorted({key[axis] for key in self._rows}) for axis in (0, 1))
        shape = len(steps), len(layers), max(self._num_experts, num_experts)
        self._check_size("", shape)
        if shape[2] == 1:
            notes += ("loads of one expert in each layer: nothing names several",)
        if num_padding := sum(one < 0 for experts in self._routes.values() for one in experts):
            notes += (f"numbers below 0 in routes, which pad and are no experts: {num_padding}",)
        if self._routes and not num_experts:
            notes += (
                "no loads but routes: each expert of a row counts as one token",
                f"{shape[2]} experts: the highest number in the routes, plus one",
            )
        num_parts = self._num_parts()
        if num_parts > 1:
            notes += (f"loads are the sum of {num_parts} ranks or other parts, expert by expert",)
            if num_lacking := sum(len(parts) < num_parts for parts in self._parts.values()):
                notes += (f"steps that lack some of these parts, whose loads are of the others alone: {num_lacking}",)
        are_many = self._num_experts > 2 and len(layers) * (self._num_experts - 1) >= FEWEST_FROM_1
        is_whole = are_many and self.numbers == set(range(1, self._num_experts))
        # Files that tell as many experts as the highest number and one more count from 0.
        if is_whole and num_experts < self._num_experts and not self._routes:
            self._rows = {key: loads[1:] for key, loads in self._rows.items()}
            shape = *shape[:2], self._num_experts - 1
            notes += (f"experts are numbered from 1 to {self._num_experts - 1}",)
        num_untold = shape[0] * shape[1] * shape[2] - self._num_told
        if num_untold > 0 and not self._routes and not num_experts:
            notes += (f"experts of a layer at a step that no row tells of, taken to have no tokens: {num_untold}",)
        tokens_SLE = np.zeros(shape)
        row_of, column_of = ({number: at for at, number in enumerate(numbers)} for numbers in (steps, layers))
        for (step, layer), loads in self._rows.items():
            tokens_SLE[row_of[step], column_of[layer], : len(loads)] = loads[: shape[2]]
        return LoadReading(np.array(steps, dtype=np.float64), tokens_SLE, tuple(layers), notes, self.are_named)

    def _num_parts(self) -> int:
        return len(set().union(*self._parts.values()))

    def _row(self, where: int | str, key: tuple[int, int], num_experts: int) -> Floats:
        """Return the loads of a layer at a step, with room for at least `num_experts`."""
        row = self._rows.get(key, np.zeros(0))
        self._num_experts = max(self._num_experts, num_experts)
        if len(row) < num_experts:
            if key[1] > MAX_LAYERS:
                raise self._source.refuse(where, f"layer {key[1]}: too many layers; number them from 0 on")
            self._check_size(where, (1, len(self._rows) + 1, self._num_experts))
            # Twice the room, so that rows that arrive expert by expert are seldom copied.
            self._rows[key] = np.zeros(max(num_experts, 2 * len(row)))
            self._rows[key][: len(row)] = row
        return self._rows[key]

    def _check_size(self, where: int | str, shape: tuple[int, int, int]) -> None:
        if shape[2] > MAX_EXPERTS or shape[0] * shape[1] * shape[2] > MAX_LOADS:
            size = f"{shape[0]} steps of {shape[1]} layers of {shape[2]} experts"
            raise self._source.refuse(where, f"{size} are too many; number layers and experts from 0 on")


def whole(value: object, most: int) -> int:
    """Turn a number or text into a whole number from 0 up, or raise ValueError."""
    if type(value) is int and 0 <= value <= most:
        return value
    if isinstance(value, str):
        value = read_number(value)
    number = float(value) if isinstance(value, int | float | np.number) else -1.0
    if not (0 <= number <= most and number.is_integer()):
        raise ValueError(f"{value!r} is no whole number from 0 to {most:,}")
    return int(number)


def read_bf16(content: bytes) -> Floats:
    """Return numbers of 16 bits of the type bfloat16, which numpy lacks: the upper half of a float of 32 bits."""
    return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4")


def text_of(source: LoadSource, content: bytes) -> str:
    """Decode a text file, or raise SpecError."""
    try:
        return decode_text(content)
    except UnicodeDecodeError:
        raise source.refuse("", "not a text file; expected expert loads as text") from None
