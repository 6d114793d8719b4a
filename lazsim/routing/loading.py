"""Load the routing of a model from a name or a path."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from lazsim.errors import SpecError, unknown_name
from lazsim.files.faults import check_lenient
from lazsim.files.reading import STDIN
from lazsim.limits import MAX_LOADS
from lazsim.loads import check_whole
from lazsim.routing.generator import GeneratedRouting, Routing, RoutingSpec
from lazsim.routing.readers import read_routing
from lazsim.routing.table import RecordedRouting, top_experts
from lazsim.specs import catalog_names, read_spec_bytes, read_toml, sha256

UNIFORM = "uniform"

DRAWN = 12, 16, 5000
"""Layers, experts and steps of loads that are drawn to be looked at."""


def load_routing(
    source: Path | str, num_layers: int, num_experts: int, seed: int = 0, lenient: bool = False, layers_from: int = 0
) -> Routing:
    """Load the routing of a model; a `LazsimError` says that no file or name is such, or a recording is too small.

    Parameters
    ----------
    source
        A recording (see `read_routing`), a generator by name or as a ``.toml`` file, or ``uniform``.
    num_layers, num_experts
        MoE layers of the model and experts of a layer; `top_experts` cuts a larger recording.
    seed
        Seed of generated loads.
    lenient, layers_from
        How a recording is read; see `read_routing`.
    """
    source = str(source)
    num_layers, num_experts = check_whole("num_layers", num_layers), check_whole("num_experts", num_experts)
    if source == UNIFORM:
        return _uniform(num_layers, num_experts)
    if is_generator(source):
        content = read_spec_bytes("routing", source)
        return GeneratedRouting(read_toml(source, content, RoutingSpec), num_layers, num_experts, seed, sha256(content))
    return _with_note(top_experts(load_recording(source, lenient, layers_from), num_layers, num_experts))


def load_recording(source: str, lenient: bool = False, layers_from: int = 0) -> RecordedRouting:
    """Load recorded loads, or draw `DRAWN` ones where the source is a generator; for both see `load_routing`."""
    if source != UNIFORM and not is_generator(source):
        if source != STDIN and not os.path.exists(source):
            raise unknown_loads(source)
        return read_routing(source, lenient, layers_from)
    check_lenient(lenient)
    if layers_from:
        raise SpecError(f"`layers_from`: {source} has MoE layers alone; leave it out")
    if source == UNIFORM:
        return _uniform(*DRAWN[:2])
    note = "drawn with seed 0: {} layers of {} experts over {:,} steps".format(*DRAWN)
    return replace(record(source, *DRAWN, seed=0), notes=(note,))


def unknown_loads(source: str, *others: str) -> SpecError:
    """Return the error that loads are neither a file nor one of the names, `others` among them."""
    names = [UNIFORM, *others, *catalog_names("routing")]
    return SpecError(unknown_name("routing", source, names, "a file of recorded loads"))


def _uniform(num_layers: int, num_experts: int) -> RecordedRouting:
    even = np.ones((1, num_layers, num_experts), dtype=np.int64)
    return RecordedRouting(np.zeros(1, dtype=np.int64), even, UNIFORM, sha256(UNIFORM.encode()))


def is_generator(source: str) -> bool:
    """Tell whether loads are those of a generator, of the catalogue or of a TOML file."""
    return source.endswith(".toml") or source in catalog_names("routing")


def _with_note(recorded: RecordedRouting) -> RecordedRouting:
    """Say where a recording stands for steps that it does not have."""
    first = int(recorded.steps[0])
    if len(recorded.steps) == 1:
        note = f"the loads of step {first}, the only one recorded, stand for all steps"
    elif first > recorded.interval_steps:
        note = f"the recorded loads begin at step {first}; earlier steps use the first ones"
    else:
        return recorded
    return replace(recorded, notes=(*recorded.notes, note))


def record(source: str, num_layers: int, num_experts: int, num_steps: int, seed: int) -> RecordedRouting:
    """Generate the loads of some training steps as a recording; a LazsimError for no generator, or too many loads."""
    content = UNIFORM.encode() if source == UNIFORM else read_spec_bytes("routing", source)
    spec = None if source == UNIFORM else read_toml(source, content, RoutingSpec)
    num_loads = (-(-num_steps // spec.interval_steps) if spec else 1) * num_layers * num_experts
    if num_loads > MAX_LOADS:
        raise SpecError(f"{source}: {num_loads:,} loads to generate; at most {MAX_LOADS:,} can be kept")
    if spec is None:
        return _uniform(num_layers, num_experts)
    steps = np.arange(0, num_steps, spec.interval_steps)
    loads = GeneratedRouting(spec, num_layers, num_experts, seed).loads(steps)
    return RecordedRouting(steps, loads, spec.name, sha256(content))
