"""Set-ups of published outcomes under failures: each function runs the engine and takes the metric from the runs.

Every one takes numbers by name, as they stand in the column ``inputs`` of a table of outcomes (see
`lazsim.study.outcomes`), and returns the figures that were published.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np

from lazsim.costmodel.fixed import FixedCosts, fixed_costs
from lazsim.engine.simulate import SystemRun, simulate_system
from lazsim.engine.systems import SYSTEMS, System
from lazsim.engine.systems.spare import SPARE
from lazsim.errors import SpecError
from lazsim.placement.mro import place_mro
from lazsim.placement.plan import PlacementPlan
from lazsim.placement.policies import NamedPolicy
from lazsim.placement.request import PlacementRequest
from lazsim.routing import RecordedRouting
from lazsim.study.repair_shop import MINUTE_S, RepairShop, run_shop
from lazsim.trace.generate import generate_trace
from lazsim.trace.recipes import MtbfSpec
from lazsim.trace.table import Event, Trace, build_trace, check_size
from lazsim.units import DAY_S

SEED = 0

NEVER = 0
"""Steps between checkpoints of a job that makes none."""

REPLACED_S, NOTICED_S = 1.0, 2.0
"""A failed node is replaced before its failure is noticed: there is no queue."""

MOST_BLOCKS = 64

SHOP_DRAWS = 8
"""Jobs with a repair shop that are drawn for one outcome."""

MOST_WAYS = 10_000
"""Ways to lose nodes that are all simulated, each in milliseconds."""


def loads_of(costs: FixedCosts, loads: Sequence[int] = ()) -> RecordedRouting:
    """Return loads of the experts that do not change; even where none are given."""
    load_E = np.array(loads or [1] * costs.model.num_experts)
    return RecordedRouting(np.array([0]), np.tile(load_E, (1, costs.model.num_moe_layers, 1)))


def failing(times_s: Sequence[float], names: Sequence[str], num_nodes: int, back_s: float, duration_s: float) -> Trace:
    """Return a trace of nodes that fail at given times, and are back some time later."""
    events = [Event(0.0, "add", f"n{index}") for index in range(num_nodes)]
    for time_s, name in zip(times_s, names, strict=True):
        events += [Event(time_s, "remove", name), Event(time_s + back_s, "add", name)]
    events = [event for event in events if event.time_s < duration_s]
    return build_trace(sorted(events, key=lambda event: event.time_s), duration_s=duration_s)


def losing(num_nodes: int, lost: Sequence[Sequence[int]], gap_s: float) -> Trace:
    """Return a trace that loses groups of nodes, one group after each gap."""
    events = [Event(0.0, "add", f"n{index}") for index in range(num_nodes)]
    for count, nodes in enumerate(lost, 1):
        events += [Event(count * gap_s, "remove", f"n{node}") for node in nodes]
    return build_trace(events, duration_s=(len(lost) + 2) * gap_s)


def _series(
    system: str,
    nodes: float,
    rate: float,
    days: float,
    interval_s: float = 0.0,
    step_s: float = 5.0,
    restart_s: float = 0.0,
    storage_s: float = 0.0,
) -> SystemRun:
    """Run a job that every failure of a node stops; `rate` is failures of a node in 1000 days."""
    # Memoryless failures of some nodes are those of one node at the sum of their rates: fewer run faster.
    blocks = min(int(nodes), MOST_BLOCKS)
    costs = fixed_costs(blocks, step_s, detect_s=NOTICED_S, restart_s=restart_s, storage_s=storage_s, unit_nodes=blocks)
    recipe = MtbfSpec(
        num_nodes=blocks,
        mtbf_s=1000 * DAY_S / rate * blocks / nodes,
        repair_s=REPLACED_S,
        repair_sigma=0.0,
        duration_s=days * DAY_S,
    )
    trace = generate_trace(recipe, np.random.default_rng(SEED))
    interval_steps = max(1, round(interval_s / step_s)) if interval_s else NEVER
    return simulate_system(trace, SYSTEMS[system], costs, loads_of(costs), interval_steps=interval_steps)


def time_to_failure(nodes: float, rate: float, days: float) -> list[float]:
    """Return the hours between the failures of a job that restarts at once."""
    run = _series("checkpoint", nodes, rate, days, step_s=600.0)
    return [run.wall_s / run.counts["failures"] / 3600]


def ettr(
    nodes: float,
    rate: float,
    days: float,
    interval_s: float,
    restart_s: float,
    save_s: float = 0.0,
    step_s: float = 5.0,
) -> list[float]:
    """Return the share of productive time of a checkpointed job; a restart has its load in it."""
    rest_s = restart_s - NOTICED_S - save_s
    if rest_s < 0:
        raise SpecError(
            f"`restart_s` {restart_s:g}: give {NOTICED_S + save_s:g} or more, the time to notice and to load"
        )
    run = _series("checkpoint", nodes, rate, days, interval_s, step_s, restart_s=rest_s, storage_s=save_s)
    return [run.ettr]


def ettr_gap(rate: float, days: float, interval_s: float, restart_s: float, **nodes: float) -> list[float]:
    """Return how far the share of productive time is from its closed form for small losses, at most."""
    gaps = []
    for number in nodes.values():
        closed = 1 - number * rate / 1000 / DAY_S * (restart_s + interval_s / 2)
        gaps.append(abs(ettr(number, rate, days, interval_s, restart_s)[0] / closed - 1))
    return [max(gaps)]


def interruptions(nodes: float, days: float, failures: float) -> list[float]:
    """Return the hours between failures of a job with a given number of them at random times."""
    check_size("generated", 0, int(nodes), int(2 * failures))
    rng = np.random.default_rng(SEED)
    duration_s = days * DAY_S
    times = np.sort(rng.uniform(0, duration_s, int(failures)))
    names = [f"n{index}" for index in rng.permutation(int(nodes))[: int(failures)]]
    costs = fixed_costs(int(nodes), 60.0, detect_s=NOTICED_S, unit_nodes=int(nodes))
    trace = failing(times.tolist(), names, int(nodes), REPLACED_S, duration_s)
    run = simulate_system(trace, SYSTEMS["checkpoint"], costs, loads_of(costs), interval_steps=NEVER)
    return [run.wall_s / run.counts["failures"] / 3600]


def _dropped(groups: int, step_s: float, period_s: float, absent_s: float, hours: float) -> tuple[float, float]:
    """Return the shares of steps that commit, and of groups in them; in each period a group fails, never the first."""
    rng = np.random.default_rng(SEED)
    duration_s = hours * 3600
    check_size("generated", 0, groups, int(2 * duration_s / period_s))
    times_s = np.arange(period_s, duration_s, period_s)
    names = [f"n{index}" for index in rng.integers(1, groups, len(times_s))]
    trace = failing(times_s.tolist(), names, groups, absent_s, duration_s)
    costs = fixed_costs(groups, step_s)
    run = simulate_system(trace, SYSTEMS["replica-drop"], costs, loads_of(costs), interval_steps=NEVER)
    # Each failure discards the step under way.
    return run.steps / (run.steps + run.counts["failures"]), run.samples / run.steps / groups


def commit_share(groups: float, step_s: float, period_s: float, absent_s: float, hours: float) -> list[float]:
    """Return the percentage of steps that commit when a group fails in every period."""
    return [100 * _dropped(int(groups), step_s, period_s, absent_s, hours)[0]]


def drop_efficiency(groups: float, step_s: float, period_s: float, absent_s: float, hours: float) -> list[float]:
    """Return the percentage of steps that commit times that of groups that take part."""
    committed, taking_part = _dropped(int(groups), step_s, period_s, absent_s, hours)
    return [100 * committed * taking_part]


def failures_to_wipe_out(groups: float, stacks: float, runs: float) -> list[float]:
    """Return the mean number of failed groups until a shard of data has none left."""
    check_size("generated", 0, int(groups), int(groups * runs))
    rng = np.random.default_rng(SEED)
    orders = (rng.permutation(int(groups)) for _ in range(int(runs)))
    return [float(np.mean([_first_restart(int(groups), int(stacks), order.tolist()) for order in orders])) - 1]


def redundancy(groups: float) -> list[float]:
    """Return the neighbouring groups after whose failures the published optimum of stacked shards fails."""
    return [float(_first_restart(int(groups), 0, list(range(int(groups)))))]


def _first_restart(groups: int, stacks: int, order: Sequence[int]) -> int:
    """Return after how many failures, one after the other, stacked shards restart."""
    costs = fixed_costs(groups, 1.0)
    # All fail in the end, so that some failure is the last that is borne; a bisection finds it in a few runs.
    low, high = 0, groups - 1
    system = replace(SPARE, num_stacks=stacks)
    while high - low > 1:
        middle = (low + high) // 2
        run = simulate_system(
            losing(groups, [order[:middle]], 10.0), system, costs, loads_of(costs), interval_steps=NEVER
        )
        low, high = (low, middle) if run.counts["restarts"] else (middle, high)
    return high


def stacks_after_failures(groups: float, failed: float) -> list[float]:
    """Return the time of a step after failures over that before."""
    costs = fixed_costs(int(groups), 1.0)
    trace = losing(int(groups), [range(int(failed))], 1000.0)
    run = simulate_system(trace, SPARE, costs, loads_of(costs), interval_steps=NEVER)
    rates = [state.samples_per_s for state in run.states if state.samples_per_s]
    return [rates[0] / rates[-1]]


def _place_plan_a(request: PlacementRequest) -> PlacementPlan:
    """Place four experts so that just the published pairs of five nodes hold all; fewer nodes as Lazarus does."""
    if request.num_nodes != 5:
        return place_mro(request.replicas_LE, request.num_nodes, request.num_slots)
    holders = ((0, 1), (1, 2, 3), (0, 3, 4), (0, 1, 2, 3))
    slots_NE = np.full((5, len(holders)), -1)
    for expert, nodes in enumerate(holders):
        slots_NE[list(nodes), expert] = expert
    return PlacementPlan(slots_NE[None], len(holders))


def _survived(costs: FixedCosts, system: System, lost: int, loads: Sequence[int] = ()) -> float:
    """Return the share of all ways to lose nodes after which the job goes on without its start."""
    nodes = costs.cluster.num_nodes
    if math.comb(nodes, lost) > MOST_WAYS:
        raise SpecError(f"`lost` {lost} of {nodes} nodes: give numbers with at most {MOST_WAYS:,} ways to lose them")
    ways = list(itertools.combinations(range(nodes), lost))
    kept = 0
    for way in ways:
        run = simulate_system(losing(nodes, [way], 100.0), system, costs, loads_of(costs, loads), interval_steps=NEVER)
        kept += not any(event.event == "rolled_back" and event.step == 0 for event in run.events)
    return kept / len(ways)


def expert_survival(nodes: float, slots: float, lost: float, **loads: float) -> list[float]:
    """Return the probability that Lazarus goes on from its survivors, placed for loads of the experts."""
    costs = fixed_costs(int(nodes), 1.0, num_experts=len(loads), slots=int(slots), rebalance_interval_steps=50)
    return [_survived(costs, SYSTEMS["lazarus"], int(lost), [int(load) for load in loads.values()])]


def expert_loss(nodes: float, slots: float, lost: float, **loads: float) -> list[float]:
    """Return the probability that Lazarus does not."""
    return [1 - expert_survival(nodes, slots, lost, **loads)[0]]


def spread_survival(lost: float) -> list[float]:
    """Return the probability that experts survive whose pairs of nodes are those of the published plan A."""
    costs = fixed_costs(5, 1.0, num_experts=4, slots=4)
    system = replace(SYSTEMS["lazarus"], policy=NamedPolicy("plan A", _place_plan_a))
    return [_survived(costs, system, int(lost))]


def copies_survival(nodes: float, lost: float) -> list[float]:
    """Return the probability that the copies in the memory of other nodes survive."""
    return [_survived(fixed_costs(int(nodes), 1.0), SYSTEMS["gemini"], int(lost))]


def wasted_time(save_s: float, days: float, between_failures_s: float, step_s: float) -> list[float]:
    """Return the minutes that a failure costs a job that writes one checkpoint after the other."""
    rate = 1000 * DAY_S / between_failures_s
    run = _series("async-checkpoint", 1, rate, days, save_s, step_s, storage_s=save_s)
    return [(run.ledger_s["lost_work"] + run.ledger_s["restart"]) / run.counts["failures"] / 60]


def restart_times(base_s: float, per_rank_s: float, ranks_per_node: float, **ranks: float) -> list[float]:
    """Return the seconds of a restart at several sizes."""
    times = []
    for number in ranks.values():
        nodes = round(number / ranks_per_node)
        costs = fixed_costs(
            nodes, 1.0, restart_s=base_s, restart_per_node_s=per_rank_s * ranks_per_node, detect_s=NOTICED_S
        )
        trace = failing([100.0], ["n0"], nodes, REPLACED_S, 1e4)
        run = simulate_system(trace, SYSTEMS["checkpoint"], costs, loads_of(costs), interval_steps=NEVER)
        times.append(run.ledger_s["restart"])
    return times


def detection(detect_s: float, without_s: float) -> list[float]:
    """Return the seconds until a failure is noticed, with and without inspection."""
    found = []
    for seconds in (detect_s, without_s):
        costs = fixed_costs(8, 1.0, detect_s=seconds)
        run = simulate_system(losing(8, [[0]], 1e4), SYSTEMS["checkpoint"], costs, loads_of(costs), interval_steps=100)
        found.append(run.ledger_s["detect"])
    return found


def step_time(nodes: float, samples: float, samples_per_s: float) -> list[float]:
    """Return the seconds of a step whose throughput is given."""
    costs = fixed_costs(int(nodes), samples / samples_per_s)
    trace = losing(int(nodes), [], 1e4)
    run = simulate_system(trace, SYSTEMS["checkpoint"], costs, loads_of(costs), interval_steps=NEVER)
    return [nodes / max(state.samples_per_s for state in run.states)]


@lru_cache(maxsize=1)
def _repaired(shop: RepairShop) -> tuple[dict[str, float], SystemRun]:
    """Draw a job whose servers go to a repair shop several times, and replay the draw that is nearest to the mean.

    Returns the mean counts of the draws, too.
    """
    draws = [run_shop(shop, SEED + number) for number in range(SHOP_DRAWS)]
    mean = float(np.mean([len(draw.times_s) for draw in draws]))
    drawn = min(draws, key=lambda draw: abs(len(draw.times_s) - mean))
    events = [Event(0.0, "add", "n0")]
    for time_s, wait_s in zip(drawn.times_s, drawn.waits_s, strict=True):
        events += [Event(time_s, "remove", "n0"), Event(time_s + max(wait_s, REPLACED_S), "add", "n0")]
    trace = build_trace(events, duration_s=drawn.end_s)
    costs = fixed_costs(1, MINUTE_S, detect_s=NOTICED_S, restart_s=MINUTE_S * shop.recovery - NOTICED_S)
    counts = {name: float(np.mean([draw.counts[name] for draw in draws])) for name in drawn.counts}
    return counts, simulate_system(trace, SYSTEMS["checkpoint"], costs, loads_of(costs), interval_steps=NEVER)


def _shop_metric(metric: str, **inputs: float) -> list[float]:
    try:
        shop = RepairShop(**inputs)
    except TypeError as error:
        raise SpecError(f"`inputs`: {error}") from None
    counts, run = _repaired(shop)
    # The published simulator loses no work.
    trained_s = run.ledger_s["compute"] + run.ledger_s["lost_work"]
    found = {
        "hours": run.wall_s / trained_s * shop.days * DAY_S / 3600,
        "ettr": trained_s / run.wall_s,
        "failures": run.counts["failures"],
        "run_minutes": trained_s / run.counts["failures"] / MINUTE_S,
        "recovery_hours": run.ledger_s["restart"] / 3600 + run.ledger_s["detect"] / 3600,
        **counts,
    }
    return [float(found[metric])]


SHOP_METRICS = ("hours", "ettr", "failures", "run_minutes", "recovery_hours", "systematic", "escalated", "failed")


REPLAYS: Mapping[str, Callable[..., list[float]]] = {
    function.__name__: function
    for function in (
        time_to_failure, ettr, ettr_gap, interruptions, commit_share, drop_efficiency, failures_to_wipe_out, redundancy,
        stacks_after_failures, expert_survival, expert_loss, spread_survival, copies_survival, wasted_time,
        restart_times, detection, step_time,
    )
} | {f"shop_{metric}": partial(_shop_metric, metric) for metric in SHOP_METRICS}  # fmt: skip
"""Every set-up by its name in the column ``replay``."""

ECHOES = ("interruptions", "restart_times", "detection", "step_time")
"""Set-ups whose figure is an input, or a line through the published figures: they show what the engine charges, and
predict nothing."""
