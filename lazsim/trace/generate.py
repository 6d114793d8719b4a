"""Generate traces from recipes."""

import math
from collections.abc import Iterable

import msgspec
import numpy as np

from lazsim.errors import SpecError
from lazsim.trace.mtbf import mtbf_events
from lazsim.trace.readers.lazsim import trace_bytes
from lazsim.trace.recipes import MtbfSpec, PublicSpec, Recipe, ScheduleSpec, SpotSpec, WeibullSpec
from lazsim.trace.table import Event, Trace, build_trace, check_size


def generate_trace(recipe: Recipe, rng: np.random.Generator, name: str = "generated") -> Trace:
    """Generate a trace from a recipe.

    Parameters
    ----------
    recipe
        A `SpotSpec`, a `MtbfSpec` or a `ScheduleSpec`.
    rng
        Source of all draws; the same state gives the same trace.
    name
        Name of the trace.

    Raises
    ------
    LazsimError
        When the recipe is the address of a public trace, or makes too many events.

    Examples
    --------
    >>> recipe = ScheduleSpec(num_nodes=3, num_left=2, interval_s=60.0, duration_s=120.0)
    >>> [(e.time_s, e.kind, e.node) for e in generate_trace(recipe, np.random.default_rng(0)).events()]
    [(0.0, 'add', 'node1'), (0.0, 'add', 'node2'), (0.0, 'add', 'node3'), (60.0, 'remove', 'node2')]
    """
    if isinstance(recipe, PublicSpec):
        raise SpecError(f"{name}: a published trace, not a recipe; get it with lazsim trace fetch {name}")
    if isinstance(recipe, SpotSpec):
        events = _spot_events(recipe, rng, name)
    elif isinstance(recipe, MtbfSpec):
        events = mtbf_events(recipe, rng, name)
    else:
        events = _schedule_events(recipe, rng)
    return build_trace(events, duration_s=recipe.duration_s, name=name, format="lazsim")


def generated_bytes(recipe: Recipe, seed: int, name: str) -> bytes:
    """Generate a trace in lazsim's format; the header has the recipe and the seed."""
    trace = generate_trace(recipe, np.random.default_rng(seed), name)
    header = {"recipe": name, "seed": str(seed), "spec": msgspec.json.encode(recipe).decode()}
    return trace_bytes(trace, header)


def _schedule_events(spec: ScheduleSpec, rng: np.random.Generator) -> list[Event]:
    alive = [f"node{index + 1}" for index in range(spec.num_nodes)]
    events = [Event(0.0, "add", node) for node in alive]
    for failure in range(1, spec.num_nodes - spec.num_left + 1):
        if failure * spec.interval_s > spec.duration_s:
            break
        events.append(Event(failure * spec.interval_s, "remove", alive.pop(int(rng.random() * len(alive)))))
    return events


def draw_weibull(law: WeibullSpec, unit: float, rng: np.random.Generator) -> int:
    """Draw from a discrete Weibull law: whole steps, at least 1, of the size `unit` in the unit of the law's scale."""
    return max(1, math.ceil(law.scale / unit * math.pow(-math.log1p(-rng.random()), 1 / law.shape)))


def _spot_events(spec: SpotSpec, rng: np.random.Generator, name: str) -> list[Event]:
    """Run two clocks in whole ticks: losses while any node is alive, grants while the target is not reached."""
    born: dict[str, int] = {f"node{index + 1}": 0 for index in range(spec.initial_nodes)}
    events = [Event(0.0, "add", node) for node in born]
    num_names = len(born)
    now, last = 0, math.floor(spec.duration_s / spec.tick_s)
    loss_at: int | None = None
    grant_at: int | None = None
    while True:
        if loss_at is None and born:
            loss_at = now + draw_weibull(spec.loss_gap, spec.tick_s, rng)
        if grant_at is None and len(born) < spec.target_nodes:
            grant_at = now + draw_weibull(spec.refill_gap, spec.tick_s, rng)
        now = min(at for at in (loss_at, grant_at) if at is not None)
        if now > last:
            return events
        check_size(name, 0, len(born), len(events))
        if now == loss_at:
            loss_at = None
            for node in _victims(spec, born, now, rng):
                del born[node]
                events.append(Event(now * spec.tick_s, "remove", node))
        if now == grant_at:
            grant_at = None
            size = min(draw_weibull(spec.refill_size, 1.0, rng), spec.target_nodes - len(born))
            names = [f"node{num_names + index + 1}" for index in range(size)]
            num_names += size
            born |= dict.fromkeys(names, now)
            events += [Event(now * spec.tick_s, "add", node) for node in names]


def _victims(spec: SpotSpec, born: dict[str, int], now: int, rng: np.random.Generator) -> Iterable[str]:
    """Draw the nodes of a loss without replacement, by weights that are a power of their ages.

    The smallest exponential draws divided by the weights are such a sample: Efraimidis and Spirakis, Information
    Processing Letters 97 (2006) 181.
    """
    nodes = list(born)
    if rng.random() < spec.take_all_prob:
        return nodes
    size = min(draw_weibull(spec.loss_size, 1.0, rng), len(nodes))
    ages = np.array([now - born[node] for node in nodes]) + 1.0
    keys = -np.log1p(-rng.random(len(nodes))) / ages**spec.age_exponent
    return [nodes[index] for index in np.sort(np.argsort(keys, kind="stable")[:size])]
