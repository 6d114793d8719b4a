"""Records of loads, as JSON and PyTorch files have them: find their parts by name, and add them up."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lazsim.errors import shorten
from lazsim.limits import MAX_EXPERTS
from lazsim.placement.plan import Floats
from lazsim.routing.source import ROLES, LoadReading, LoadSource, LoadTable, refuse_gaps, roles_of, whole

EXPECTED = (
    "loads by layer and expert, such as tokens, count, tokens_per_expert, logical_count or logical_expert_load, or the "
    "experts of each token, such as topk_ids"
)

SEVERAL = Mapping, list, tuple, np.ndarray
"""Types of several loads."""

PLACES = {"step", "layer", "expert", "part"}
"""What a number in the name of loads may be of."""


class RecordReader(LoadTable):
    """Adds up records: arrays, or mappings with loads or routes, which may have the fields step, layer and expert.

    Records of a part that have all layers and no step follow each other; others without a step are of one. Loads may be
    a mapping of experts, of layers, or of steps to layers; see `places_in`. A record without loads is skipped; it may
    tell the number of experts.
    """

    def __init__(self, source: LoadSource) -> None:
        super().__init__(source)
        self._told_experts = self._num_skipped = self._row_length = self._num_repeats = self._num_added = 0
        # The step of the next record of each part, and the places that names have had in it.
        self._steps = defaultdict[object, int](int)
        self._named = defaultdict[object, set[tuple[object, ...]]](set)
        self._are_local = False
        self._seen: set[tuple[object, ...]] = set()
        self._file_part: str | None = None

    def begin_file(self, name: str) -> None:
        """Take the records that follow for those of the rank in a file's name, unless they name one."""
        rank = re.search(r"rank\D?(\d{1,9})", Path(name).name) if len(self._source.files) > 1 else None
        self._file_part = rank[1] if rank else None

    def add_record(self, where: int | str, record: Any) -> None:
        """Add a record; its faults are those of the source."""
        try:
            parts = _parts(record) if isinstance(record, Mapping) else {"loads": record}
            self.are_named &= isinstance(record, Mapping)
            self._told_experts = whole(parts.get("experts", self._told_experts), MAX_EXPERTS)
            self._add(where, parts)
        except (ValueError, TypeError, OverflowError) as error:
            self._source.fault(where, f"expected {EXPECTED} ({shorten(error)})")

    def records(self) -> LoadReading:
        """Return the loads of all records."""
        if not self._rows and not self._routes:
            raise self._source.refuse("", f"no loads in it; expected {EXPECTED}")
        if self._are_local and (self._num_repeats or self._num_parts() > 1):
            what = (
                "num_local_experts, and several records of a step and layer; give num_experts and the rank, too, since "
                "each rank may have experts of its own"
            )
            raise self._source.refuse("", what)
        notes = [f"records without loads, which are left out: {self._num_skipped}"] if self._num_skipped else []
        if self._num_repeats:
            notes.append(f"records of the same step and layer as another, whose loads add up: {self._num_repeats}")
        if self._num_added:
            notes.append(f"layers with several rows of loads, such as micro-batches, which add up: {self._num_added}")
        return self.reading(*notes, num_experts=self._told_experts)

    def _add(self, where: int | str, parts: Mapping[str, Any]) -> None:
        part = parts.get("part", self._file_part)
        self.part = own_part = None if part is None else str(part)
        step, layer = parts.get("step", self._steps[own_part]), parts.get("layer")
        loads, routes = parts.get("loads"), parts.get("routes", parts.get("expert"))
        if loads is not None and parts.keys() & {"layer", "step"}:
            key = str(step), str(layer), str(parts.get("expert")), own_part
            self._num_repeats += key in self._seen
            self._seen.add(key)
        if loads is not None and "local" in parts:
            loads = self._placed(loads, parts, part)
        if isinstance(loads, Mapping):
            self._add_named(where, parts, loads)
        elif loads is not None and layer is not None:
            self._add_row(where, step, layer, loads, parts.get("expert", 0))
        elif loads is not None and np.ndim(step) == 1:
            if np.ndim(loads) != 3 or len(step) != len(loads):
                raise ValueError(f"steps of shape {np.shape(step)}, and loads of shape {np.shape(loads)}")
            for one, layers in zip(step, loads, strict=True):
                self.add_layers(where, one, layers)
        elif loads is not None:
            self._steps[own_part] = self.add_layers(where, step, loads)
        elif routes is not None and layer is not None:
            self.add_routes(where, step, layer, routes)
        elif routes is not None:
            for number, experts in enumerate(np.atleast_2d(np.asarray(routes, dtype=np.float64))):
                self.add_routes(where, step, number, experts)
        else:
            self._num_skipped += 1

    def _add_named(self, where: int | str, parts: Mapping[str, Any], loads: Mapping[Any, Any]) -> None:
        """Add loads by the names of their experts, layers or steps; where places come again, the next step begins."""
        rows, own_part = [*named_rows(loads, parts)], self.part
        named = {tuple(places.get(role) for role in PLACES) for places, _ in rows}
        if len(named) < len(rows):
            raise ValueError(
                "two names are of the same step, layer and expert; name what differs, as layer_3 or rank_0"
            )
        if not parts.keys() & {"step", "layer"}:
            if not named.isdisjoint(self._named[own_part]):
                self._steps[own_part] += 1
                self._named[own_part].clear()
            self._named[own_part] |= named
        for places, row in rows:
            step, layer = places.get("step", self._steps[own_part]), places.get("layer")
            self.part = str(places["part"]) if "part" in places else own_part
            if layer is None and "expert" not in places:
                self.add_layers(where, step, row)
            else:
                self._add_row(where, step, layer or 0, row, places.get("expert", 0))

    def _placed(self, loads: Any, parts: Mapping[str, Any], part: object) -> Any:
        """Return the loads of a rank's own experts as those of all, which come rank by rank."""
        num_local = whole(parts["local"], MAX_EXPERTS)
        if "experts" not in parts:
            # Configs of Hugging Face call all experts local, those of Megatron the ones of a rank.
            self._are_local, self._told_experts = True, num_local
            return loads
        values = np.asarray(loads, dtype=np.float64)
        num_others = self._told_experts - values.shape[-1]
        if not num_others:
            return loads
        before = whole(part, MAX_EXPERTS) * num_local
        if values.shape[-1] != num_local or before > num_others:
            raise ValueError(f"rank {part} of {num_local} experts each, {self._told_experts} in all")
        return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(before, num_others - before)])

    def _add_row(self, where: int | str, step: object, layer: object, loads: Any, expert: object) -> None:
        """Add the loads of a layer, which have to be of as many experts as in other layers, or that of one expert."""
        if isinstance(loads, SEVERAL) and (length := (shape := (0, *np.asarray(loads).shape))[-1]):
            if length != (self._row_length or length):
                raise ValueError(f"{length} experts; {self._row_length} in rows before")
            self._row_length = length
            self._num_added += math.prod(shape[1:-1]) > 1
        self.add(where, step, layer, loads, expert)


def _parts(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a record by their roles; see `roles_of`."""
    values = list(record.values())
    names = list(map(str, record))
    found = roles_of(names)
    refuse_gaps([names[at] for at in found.get("loads", ())])
    parts = {role: [values[at] for at in ats] if len(ats) > 1 else values[ats[0]] for role, ats in found.items()}
    if len(found.get("loads", ())) > 1 and any(isinstance(load, SEVERAL) for load in parts["loads"]):
        raise ValueError("a field of one expert has several loads")
    if [*record] == ["weight"]:
        # As EPLB calls the loads; beside others, it may be that of a route.
        return {"loads": record["weight"]}
    if not parts and record and all(re.search(r"\d", str(name)) for name in record):
        return {"loads": record}
    if "physical" in parts:
        parts["loads"] = logical_loads(parts["physical"], parts.get("map"))
    return parts


def logical_loads(physical_LP: Any, logical_LP: Any) -> Floats:
    """Add up the loads of replicas, shape (L, P), by the expert that each replica is of; a ValueError for no such map.

    Examples
    --------
    >>> logical_loads([[5, 1, 2]], [[1, 0, 1]]).tolist()
    [[1.0, 7.0]]
    """
    loads, experts = np.asarray(physical_LP, dtype=np.float64), np.asarray(logical_LP)
    if loads.shape != experts.shape or loads.ndim != 2 or not loads.size or experts.dtype.kind not in "iu":
        raise ValueError(f"counts of shape {loads.shape} and a map of shape {experts.shape}")
    num_experts = whole(int(experts.max()), MAX_EXPERTS - 1) + 1
    whole(int(experts.min()), num_experts)
    sums = np.zeros((len(loads), num_experts))
    np.add.at(sums, (np.arange(len(loads))[:, None], experts), loads)
    return sums


def named_rows(loads: Mapping[Any, Any], parts: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield loads that names within names tell apart, each with `parts` and the places that its names tell."""
    for name, row in loads.items():
        told = places_in(name, _kind_of(row, parts))
        if twice := parts.keys() & told.keys():
            raise ValueError(f"{shorten(name)!r} is in another {min(twice)}")
        places = {**parts, **told}
        if isinstance(row, Mapping):
            yield from named_rows(row, places)
        elif "expert" in places and np.size(row) > 1:
            raise ValueError(f"{shorten(name)!r} of one expert has several loads")
        else:
            yield places, row


def _kind_of(row: Any, parts: Mapping[str, Any]) -> str:
    """Return what the number in the name of some loads is of, where it does not say so."""
    if not isinstance(row, SEVERAL):
        return "expert"
    if "layer" in parts:
        return "step"
    if "step" in parts or (isinstance(row, Mapping) and not any(isinstance(one, SEVERAL) for one in row.values())):
        return "layer"
    return "step" if isinstance(row, Mapping) or np.ndim(row) > 1 else "layer"


def places_in(name: object, kind: str) -> dict[str, str]:
    """Return step, layer, expert and part in a name.

    `kind` is what a number alone is of, and the first of several after other words. Two without words are step and
    layer. A ValueError says that a name has no number, or others.

    Examples
    --------
    >>> places_in("v3.layers.4.experts.12", "layer"), places_in("100_4", "layer"), places_in("h.4.mlp.fc1", "layer")
    ({'layer': '4', 'expert': '12'}, {'step': '100', 'layer': '4'}, {'layer': '4'})
    """
    text = str(name).strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return {kind: text}
    found = re.findall(r"([a-z]*)[^a-z0-9]*([0-9]+)", text)
    if told := {role: number for word, number in found if (role := ROLES.get(word.removesuffix("s"), "")) in PLACES}:
        return told
    numbers = [number for _, number in found]
    if len(numbers) == 1 or (numbers and re.search("[a-z]", text)):
        return {kind: numbers[0]}
    if len(numbers) != 2 or kind == "expert":
        raise ValueError(f"{shorten(name)!r} names no step, layer or expert; write such as layer_3")
    return {"step": numbers[0], "layer": numbers[1]}
