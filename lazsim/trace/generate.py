"""Generate traces from recipes: of spot nodes, of nodes that fail and are repaired, or by a schedule."""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator

import msgspec
import numpy as np

from lazsim.errors import SpecError
from lazsim.trace.pool import draw_pool
from lazsim.trace.readers.lazsim import trace_bytes
from lazsim.trace.recipes import MarketSpec, MtbfSpec, PoolSpec, PublicSpec, Recipe, ScheduleSpec, SpotSpec, WeibullSpec
from lazsim.trace.table import Event, Trace, build_trace, check_size
from lazsim.units import HOUR_S


def generate_trace(recipe: Recipe, rng: np.random.Generator, name: str = "generated", end_s: float = math.inf) -> Trace:
    """Generate a trace from a recipe.

    Parameters
    ----------
    recipe
        Any but the address of a public trace.
    rng
        Source of all draws; the same state gives the same trace.
    name
        Name of the trace.
    end_s
        Time up to which events are needed; later ones may be left out.

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
        events = _spot_events(recipe, rng, name, end_s)
    elif isinstance(recipe, MtbfSpec):
        events = _mtbf_events(recipe, rng, name, end_s)
    elif isinstance(recipe, MarketSpec):
        events = _market_events(recipe, rng, name)
    elif isinstance(recipe, PoolSpec):
        drawn = draw_pool(recipe, rng, name)
        return build_trace(drawn.events, duration_s=drawn.end_s, name=name, format="lazsim")
    else:
        events = _schedule_events(recipe, rng, name, end_s)
    return build_trace(events, duration_s=recipe.duration_s, name=name, format="lazsim")


def generated_bytes(recipe: Recipe, seed: int, name: str) -> bytes:
    """Generate a trace in lazsim's format; the header has the recipe and the seed."""
    trace = generate_trace(recipe, np.random.default_rng(seed), name)
    header = {"recipe": name, "seed": str(seed), "spec": msgspec.json.encode(recipe).decode()}
    return trace_bytes(trace, header)


def _schedule_events(spec: ScheduleSpec, rng: np.random.Generator, name: str, end_s: float) -> list[Event]:
    end_s = min(spec.duration_s, end_s)
    if spec.absent_s:
        check_size(name, 0, spec.num_nodes, int(2 * end_s / spec.interval_s))
    alive = [f"node{index + 1}" for index in range(spec.num_nodes)]
    events = [Event(0.0, "add", node) for node in alive]
    away: deque[Event] = deque()

    def take_back(until_s: float) -> None:
        while away and away[0].time_s <= until_s:
            events.append(away.popleft())
            alive.append(events[-1].node)

    for now_s in _failure_times(spec, rng):
        take_back(min(now_s, end_s))
        if now_s > end_s or (len(alive) == spec.num_left and not spec.absent_s):
            break
        if len(alive) > spec.num_left:
            events.append(Event(now_s, "remove", alive.pop(int(rng.random() * len(alive)))))
            if spec.absent_s:
                away.append(Event(now_s + spec.absent_s, "add", events[-1].node))
    return events


def _failure_times(spec: ScheduleSpec, rng: np.random.Generator) -> Iterator[float]:
    now_s = 0.0
    for number in itertools.count(1):
        now_s = now_s + spec.interval_s * (1 + spec.jitter * rng.uniform(-1, 1)) if spec.jitter else (
            number * spec.interval_s
        )  # fmt: skip
        yield now_s


def _market_events(spec: MarketSpec, rng: np.random.Generator, name: str) -> list[Event]:
    """Let each node come and go by itself, and put all events in order."""
    hours = math.ceil(spec.duration_s / HOUR_S)
    check_size(name, 0, spec.num_nodes, hours * spec.num_nodes)
    grant_probs = rng.random(hours).tolist()
    events: list[Event] = []
    for index in range(spec.num_nodes):
        node, now_s, is_there = f"node{index + 1}", 0.0, rng.random() < grant_probs[0]
        if is_there:
            events.append(Event(0.0, "add", node))
        while now_s < spec.duration_s:
            if rng.random() < (spec.loss_prob if is_there else grant_probs[int(now_s / HOUR_S)]):
                at_s = _to_ms(now_s + HOUR_S * rng.random())
                if at_s < spec.duration_s:
                    events.append(Event(at_s, "remove" if is_there else "add", node))
                now_s, is_there = at_s, not is_there
            else:
                now_s = now_s + HOUR_S if is_there else (int(now_s / HOUR_S) + 1) * HOUR_S
    return sorted(events, key=lambda event: event.time_s)


def draw_weibull(law: WeibullSpec, unit: float, rng: np.random.Generator) -> int:
    """Draw from a discrete Weibull law: whole steps, at least 1, of the size `unit` in the unit of the law's scale."""
    return max(1, math.ceil(law.scale / unit * math.pow(-math.log1p(-rng.random()), 1 / law.shape)))


def _spot_events(spec: SpotSpec, rng: np.random.Generator, name: str, end_s: float) -> list[Event]:
    """Run two clocks in whole ticks: losses while any node is alive, grants while the target is not reached."""
    born: dict[str, int] = {f"node{index + 1}": 0 for index in range(spec.initial_nodes)}
    events = [Event(0.0, "add", node) for node in born]
    num_names = len(born)
    now, last = 0, math.floor(min(spec.duration_s, end_s) / spec.tick_s)
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


def weibull_scale(mean: float, shape: float) -> float:
    """Return the scale of a Weibull law with a mean.

    Examples
    --------
    >>> weibull_scale(100.0, 1.0), weibull_scale(100.0, 0.5)
    (100.0, 50.0)
    """
    return mean / math.gamma(1 + 1 / shape)


def _mtbf_events(spec: MtbfSpec, rng: np.random.Generator, name: str, end_s: float) -> list[Event]:
    """Draw the events of a recipe, to a millisecond, up to its end.

    Notes
    -----
    Failures of a node by itself have a mean of ``mtbf_s / (1 - batch_share)`` of its time alive, and batches come in a
    Poisson process that hits each node every ``mtbf_s / batch_share``. A batch leaves a node's own clock as it is, so
    that the two rates add up to ``1 / mtbf_s`` for every law.
    """
    nodes = [f"node{index + 1}" for index in range(spec.num_nodes)]
    events = [Event(0.0, "add", node) for node in nodes]
    own_mean_s = spec.mtbf_s / (1 - spec.batch_share) if spec.batch_share < 1 else math.inf
    scale_s = weibull_scale(own_mean_s, spec.shape)
    # The time to the next renewal of a process that has run for long has the density S(t) / mean.
    first = rng.weibull(spec.shape, spec.num_nodes) if spec.new_nodes else (
        rng.gamma(1 / spec.shape, size=spec.num_nodes) ** (1 / spec.shape)
    )  # fmt: skip
    due_s = [_to_ms(scale_s * one) for one in first.tolist()]
    left_s = list(due_s)
    alive = [True] * spec.num_nodes
    changes = [(due, index) for index, due in enumerate(due_s)]
    heapq.heapify(changes)
    batch_gap_s = _batch_gap(spec)
    batch_s = _to_ms(rng.exponential(batch_gap_s)) if spec.batch_share else math.inf
    num_cycles = spec.num_nodes * spec.duration_s / (spec.mtbf_s + spec.repair_s)
    # A batch takes time to draw, though it may find no node alive.
    check_size(name, 0, spec.num_nodes, int(2 * num_cycles + spec.duration_s / batch_gap_s))
    while min(changes[0][0], batch_s) <= min(spec.duration_s, end_s):
        check_size(name, 0, spec.num_nodes, len(events))
        lost: list[int] = []
        if batch_s < changes[0][0]:
            now_s = batch_s
            batch_s = _to_ms(batch_s + rng.exponential(batch_gap_s))
            lost = [index for index in _batch(spec, rng) if alive[index]]
            for index in lost:
                left_s[index] = due_s[index] - now_s
        else:
            now_s, index = heapq.heappop(changes)
            if now_s != due_s[index]:
                continue  # a batch came first
            if alive[index]:
                lost = [index]
                left_s[index] = scale_s * rng.weibull(spec.shape)
            else:
                alive[index] = True
                events.append(Event(now_s, "add", nodes[index]))
                due_s[index] = _to_ms(now_s + left_s[index])
                heapq.heappush(changes, (due_s[index], index))
        back_s = _to_ms(now_s + _repair(spec, rng)) if lost else now_s
        for index in lost:
            alive[index] = False
            events.append(Event(now_s, "remove", nodes[index]))
            due_s[index] = back_s
            heapq.heappush(changes, (back_s, index))
    return events


def _batch_gap(spec: MtbfSpec) -> float:
    """Return the mean seconds between batches of the whole cluster."""
    if not spec.batch_share:
        return math.inf
    num_batches = len(_domains(spec)) or spec.num_nodes / spec.batch_nodes
    return spec.mtbf_s / spec.batch_share / num_batches


def _batch(spec: MtbfSpec, rng: np.random.Generator) -> list[int]:
    """Draw the nodes of a batch: a domain, or any nodes."""
    domains = _domains(spec)
    if not domains:
        return sorted(rng.choice(spec.num_nodes, spec.batch_nodes, replace=False).tolist())
    return list(domains[int(rng.integers(len(domains)))])


def _domains(spec: MtbfSpec) -> list[range]:
    """Return the nodes of each domain; none where a batch is drawn from the whole cluster."""
    if spec.nodes_per_domain:
        edges = [*range(0, spec.num_nodes, spec.nodes_per_domain), spec.num_nodes]
    else:
        edges = [-(-one * spec.num_nodes // max(1, spec.num_domains)) for one in range(spec.num_domains + 1)]
    return [range(*each) for each in itertools.pairwise(edges)]


def _repair(spec: MtbfSpec, rng: np.random.Generator) -> float:
    if spec.repair_sigma is None:
        return rng.exponential(spec.repair_s)
    return float(spec.repair_s * math.exp(rng.normal(-(spec.repair_sigma**2) / 2, spec.repair_sigma)))


def _to_ms(time_s: float) -> float:
    return round(time_s, 3)
