"""Loads of one step, for a placement: by name, of a list, a recording or a generator. Axes: L layers, E experts."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lazsim.errors import SpecError, prefix_errors
from lazsim.loads import FINEST, whole_loads
from lazsim.placement.plan import Ints
from lazsim.routing.loading import UNIFORM, is_generator, load_routing, unknown_loads
from lazsim.routing.readers import read_routing
from lazsim.routing.table import RecordedRouting, top_experts
from lazsim.specs import sha256
from lazsim.units import read_number

ZIPF = "zipf"


@dataclass(frozen=True, eq=False)
class StepLoads:
    """Tokens routed to each expert at one step."""

    load_LE: Ints
    """Only ratios within a layer count."""
    name: str
    sha256: str
    """Where they come from, and its hash."""
    has_layers: bool = False
    """Whether the layers are real ones; otherwise one stands for any."""
    is_drawn: bool = False
    """Whether a seed decides them."""
    notes: tuple[str, ...] = ()


def get_loads(
    source: str | Sequence[float],
    num_experts: int | None,
    num_layers: int | None,
    step: int | None,
    seed: int,
    lenient: bool = False,
) -> StepLoads:
    """Get loads by name or path, or from a list.

    Parameters
    ----------
    source
        ``uniform``; ``zipf:S``; the tokens or shares of each expert; a recording; or a generator of loads, by name or
        as a ``.toml`` file.
    num_experts
        Experts of a layer; of a larger recording the fullest are taken. By default all of a recording or list.
    num_layers
        Layers, the first ones of a recording; by default all of it, and 1 of anything else.
    step
        Training step of a recording or generator; by default the first.
    seed
        Seed of every draw.
    lenient
        Repair defects of a recording where possible.

    Raises
    ------
    LazsimError
        When there are no such loads, or they do not fit the number of experts.
    """
    if not isinstance(source, str):
        return _listed(source, num_experts, num_layers, step)
    if not source.strip():
        raise SpecError(f"`loads` {source!r}: names no loads; give uniform, zipf:1.2, tokens by expert, or a file")
    if not is_made(source):
        return _recorded(source, num_experts, num_layers, step, lenient)
    is_zipf = _is_zipf(source)
    if not (source == UNIFORM or is_zipf or is_generator(source)):
        with prefix_errors("`loads`"):
            raise unknown_loads(source, f"{ZIPF}:S")
    if num_experts is None:
        needed = "give `replicas` 2,2,3,..., `experts` E, the `model` that has them, or a file of loads"
        raise SpecError(f"`loads` {source} are for any number of experts: {needed}")
    if is_zipf or source == UNIFORM:
        _refuse_step(source, step)
    if is_zipf:
        load_LE = _zipf(source, num_experts, num_layers or 1, seed)
        # The order of experts is drawn from the second layer on.
        return StepLoads(load_LE, source, sha256(source.encode()), num_layers is not None, len(load_LE) > 1)
    with prefix_errors("`loads`"):
        routing = load_routing(source, num_layers or 1, num_experts, seed, lenient)
    return StepLoads(
        routing.loads([step or 0])[0], Path(routing.name).name, routing.sha256, num_layers is not None,
        is_generator(source), routing.notes,
    )  # fmt: skip


def is_made(source: str | Sequence[float]) -> bool:
    """Return whether loads are made for a number of experts, and not those of a list or a recording."""
    return isinstance(source, str) and (source.endswith(".toml") or source == UNIFORM or not os.path.exists(source))


def _is_zipf(source: str) -> bool:
    return source.partition(":")[0] == ZIPF


def _refuse_step(source: str, step: int | None) -> None:
    if step is not None:
        raise SpecError(f"`step` {step}: loads {source} are the same at every step; leave it out, or give a recording")


def _recorded(
    source: str, num_experts: int | None, num_layers: int | None, step: int | None, lenient: bool
) -> StepLoads:
    with prefix_errors("`loads`"):
        recorded = read_routing(source, lenient)
    for option, asked, has in (
        ("`experts`", num_experts, recorded.num_experts),
        ("`layers`", num_layers, recorded.num_layers),
    ):
        if asked is not None and asked > has:
            raise SpecError(f"{option} {asked}: {source} has {has}; give at most {has}")
    with prefix_errors("`loads`"):
        taken = top_experts(recorded, num_layers or recorded.num_layers, num_experts or recorded.num_experts)
    asked_step = int(taken.steps[0]) if step is None else step
    notes = (*taken.notes, *_step_notes(taken, step))
    return StepLoads(taken.loads([asked_step])[0], Path(source).name, taken.sha256, True, notes=notes)


def _step_notes(recorded: RecordedRouting, step: int | None) -> tuple[str, ...]:
    """Say which of several recorded steps was taken, unless it is the one asked for."""
    if len(recorded.steps) == 1 or step in recorded.steps:
        return ()
    if step is None:
        return (f"loads of step {recorded.steps[0]}, the first of {len(recorded.steps)}; `step` chooses another",)
    row = max(0, int(np.searchsorted(recorded.steps, step, side="right")) - 1)
    return (f"nothing is recorded at step {step}; its loads are those of step {recorded.steps[row]}",)


def _listed(source: Sequence[float], num_experts: int | None, num_layers: int | None, step: int | None) -> StepLoads:
    text = ",".join(f"{load:.15g}" for load in source)
    _refuse_step(text, step)
    if min(source) < 0:
        raise SpecError(f"`loads` {text}: give tokens from 0 up")
    if not any(source):
        raise SpecError(f"`loads` {text}: no expert has any tokens; give at least one a load, or uniform")
    if num_experts not in (None, len(source)):
        raise SpecError(f"`loads` {text}: {len(source)} loads for `experts` {num_experts}; give one for each")
    with prefix_errors("`loads`"):
        load_LE, _ = whole_loads(np.tile(np.array(source, dtype=np.float64), (num_layers or 1, 1)))
    return StepLoads(load_LE, "list", sha256(text.encode()), num_layers is not None)


def _zipf(source: str, num_experts: int, num_layers: int, seed: int) -> Ints:
    """Give the expert of rank ``i`` a load of ``i**-S``; layers after the first rank their experts at random."""
    try:
        exponent = read_number(source.removeprefix(f"{ZIPF}:"))
    except ValueError:
        exponent = math.nan
    if not 0 <= exponent <= 100:
        raise SpecError(f"`loads` {source}: expected zipf:S with an exponent S from 0 to 100, as zipf:1.2")
    share = np.arange(1, num_experts + 1, dtype=np.float64) ** -exponent
    load_LE = np.tile(np.rint(share / share.sum() * FINEST).astype(np.int64), (num_layers, 1))
    load_LE[1:] = np.random.default_rng(seed).permuted(load_LE[1:], axis=1)
    return load_LE
