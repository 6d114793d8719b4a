"""Work that is due: on nodes of a trace, on nodes that stay, or on the first until it takes the others."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lazsim.engine.simulate import SystemRun
from lazsim.errors import LazsimError, prefix_errors
from lazsim.limits import LONGEST_S
from lazsim.scenario import Scenario
from lazsim.specs import ClusterSpec
from lazsim.study.checkpoint_interval import num_rollbacks
from lazsim.study.notes import describe_runs
from lazsim.study.result import flat_row
from lazsim.study.simulation import run_scenario
from lazsim.trace.prices import ONE, Prices, node_hours
from lazsim.trace.table import Event, Trace, build_trace
from lazsim.units import counted, parse_duration, parse_price

ROUNDS = 10
"""Halvings of the time in which the switch to on-demand nodes is searched: it is found to a thousandth of the deadline.
"""

SPOT, ON_DEMAND, BOTH = "spot", "on-demand", "spot, then on-demand"


@dataclass(frozen=True)
class Due:
    """Work that is due."""

    work_s: float
    """The work, as the time that it takes the first system on nodes that stay."""
    deadline_s: float
    """When it is due."""
    on_demand_usd_per_node_hour: float | None
    """Price of a node that stays."""


@dataclass(frozen=True)
class Purchase:
    """One way to buy the nodes for the work."""

    nodes: str
    """Those of the trace (``spot``), as many that stay (``on-demand``), or the first until the work only just ends in
    time with the second."""
    finish_s: float | None
    """When the work is done; None where it is not by the deadline."""
    done_share: float
    """The part of the work done by the deadline, 0..1."""
    switch_s: float | None
    """When on-demand nodes take over; None where they never do."""
    spot_node_hours: float
    on_demand_node_hours: float
    """Hours of the nodes held, until the work is done or else until the deadline."""
    cost_usd: float | None
    """Their cost; None where one of the prices is not known."""


def on_demand_usd(price: str | float | None, cluster: ClusterSpec) -> float | None:
    """Return the price for an hour of a node that stays: as asked for, or else the cluster's."""
    if price is None:
        return cluster.on_demand_usd_per_node_hour
    with prefix_errors("`on_demand_price`"):
        return parse_price(str(price), cluster.gpus_per_node)


def parse_due(work: str | float, deadline: str | float, on_demand_usd: float | None, scenario: Scenario) -> Due:
    """Return the work that is asked for.

    Raises
    ------
    LazsimError
        When the scenario has spares, or the work takes longer than the deadline.
    """
    if scenario.num_spares:
        raise LazsimError("`spares`: nodes for work that is due have none, as on-demand nodes stay; leave them out")
    times_s = []
    for name, value in (("work", work), ("goal", deadline)):
        with prefix_errors(f"`{name}`"):
            seconds = parse_duration(value) if isinstance(value, str) else value
        times_s.append(seconds)
        if not 0 < seconds <= LONGEST_S:
            raise LazsimError(f"`{name}` {seconds:.12g} s: choose more than 0 and up to 100 years")
    work_s, deadline_s = times_s
    if work_s > deadline_s:
        raise LazsimError(f"`work` {work}: no node makes it by the deadline {deadline}; give less work, or more time")
    return Due(work_s, deadline_s, on_demand_usd)


@dataclass(frozen=True)
class Buyer:
    """Buys the nodes for the work of a scenario, which is simulated up to the deadline.

    Notes
    -----
    The setting is that of Can't Be Late (Wu et al., NSDI 2024). A run that goes on with on-demand nodes switches at the
    last time from which it still ends by the deadline, which is what their safety net does: from then on all is known.
    At the switch all nodes are replaced at once: the job goes back to its last checkpoint.
    """

    scenario: Scenario
    """Its trace has the spot nodes."""
    due: Due
    samples: int
    """The samples that the work is."""
    num_nodes: int
    """On-demand nodes that may take over; 0 where they may not."""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Everything that its runs depend on."""
        return self.scenario.inputs | {"due": asdict(self.due), "work": [self.samples, self.num_nodes]}

    def switch(self, nodes: str, switch_s: float) -> tuple[SystemRun, Purchase]:
        """Let on-demand nodes take over at a time."""
        trace = switch_to_on_demand(self.scenario.load_trace(), switch_s, self.num_nodes, self.due.deadline_s)
        run = run_scenario(self.scenario.under(trace))
        return run, self.describe(run, nodes, switch_s)

    def switch_in_time(self, spot: SystemRun) -> tuple[SystemRun, Purchase]:
        """Let on-demand nodes take over as late as they can where the run on spot nodes is late."""
        best = spot, self.describe(spot, BOTH)
        if best[1].finish_s is not None:
            return best
        best = self.switch(BOTH, 0.0)
        # The latest switch that ends in time, between one that does and one that does not.
        early_s, late_s = 0.0, self.due.deadline_s
        for _ in range(ROUNDS if best[1].finish_s is not None else 0):
            switch_s = (early_s + late_s) / 2
            later = self.switch(BOTH, switch_s)
            if later[1].finish_s is None:
                late_s = switch_s
            else:
                early_s, best = switch_s, later
        return best

    def describe(self, run: SystemRun, nodes: str, switch_s: float | None = None) -> Purchase:
        """Tell when a run has done the work, and what its nodes cost until then."""
        done_s = finish_s(run.states, run.events, run.wall_s, self.samples)
        end_s = self.due.deadline_s if done_s is None else done_s
        times_s, alive = ([getattr(state, field) for state in run.states] for field in ("time_s", "num_alive"))
        change_s = end_s if switch_s is None else min(switch_s, end_s)

        def spent(at: Prices) -> tuple[float, float]:
            """Return what the nodes before and after the switch take."""
            before = node_hours(times_s, alive, change_s, at) if change_s else 0.0
            return before, node_hours(times_s, alive, end_s, at) - before

        spot_hours, on_demand_hours = spent(ONE)
        spot_prices, staying_price = self.scenario.prices(), self.due.on_demand_usd_per_node_hour
        costs = (
            0.0 if not spot_hours else None if spot_prices is None else spent(spot_prices)[0],
            0.0 if not on_demand_hours else None if staying_price is None else on_demand_hours * staying_price,
        )
        return Purchase(
            nodes=nodes,
            finish_s=done_s,
            done_share=1.0 if done_s is not None else min(1.0, run.samples / self.samples),
            switch_s=switch_s,
            spot_node_hours=spot_hours,
            on_demand_node_hours=on_demand_hours,
            cost_usd=None if None in costs else math.fsum(cost or 0.0 for cost in costs),
        )


def compare_purchases(due: Due, scenario: Scenario, spot: SystemRun) -> list[Purchase]:
    """Return the three ways to get work done by the deadline; see `Purchase` and `Buyer`.

    `spot` is the run of the scenario up to the deadline.
    """
    num_nodes = scenario.load_trace().most_nodes(due.deadline_s)
    same = replace(scenario, interval=spot.interval_steps, score_plans=False)
    samples = due_samples(due, same, num_nodes)
    buyer = Buyer(replace(same, duration_s=due.deadline_s), due, samples, num_nodes)
    return [buyer.switch(ON_DEMAND, 0.0)[1], buyer.describe(spot, SPOT), buyer.switch_in_time(spot)[1]]


def due_samples(due: Due, scenario: Scenario, num_nodes: int) -> int:
    """Return the samples that a scenario trains on nodes that stay in the time that the work takes.

    Raises
    ------
    LazsimError
        When there are none.
    """
    staying = switch_to_on_demand(scenario.load_trace(), 0.0, num_nodes, due.work_s)
    run = run_scenario(replace(scenario, duration_s=due.work_s).under(staying))
    if not run.samples:
        told = f"{run.name} trains nothing in {due.work_s:.12g} s on {counted(num_nodes, 'on-demand node')}"
        raise LazsimError(f"`work`: {told}; give more work, or another system first")
    return run.samples


def simulate_due(buyer: Buyer) -> Mapping[str, Any]:
    """Simulate work that is due; the row is that of `simulate_point`, but for costs, which end with the work."""
    scenario, run = buyer.scenario, run_scenario(buyer.scenario)
    bought = buyer.describe(run, SPOT)
    if buyer.num_nodes:
        run, bought = buyer.switch_in_time(run)
    hours = bought.spot_node_hours + bought.on_demand_node_hours
    costs = {"node_hours_held": hours, "cost_usd": bought.cost_usd}
    ends = {"finish_s": bought.finish_s, "done_share": bought.done_share, "switch_s": bought.switch_s}
    told = {"name": run.name, "notes": describe_runs([(scenario, run)]), "num_rollbacks": num_rollbacks(run)}
    return {"row": flat_row(scenario, run) | costs | ends, **told}


def finish_s(
    states: Iterable[Sequence[float]], events: Iterable[Sequence[Any]], wall_s: float, num_samples: float
) -> float | None:
    """Return when a run had trained a number of samples, lost or not later; None where it never had.

    Parameters
    ----------
    states, events
        Rows of `lazsim.engine.log.State` and `lazsim.engine.log.JobEvent`; ascending. Rollbacks take samples away:
        without events none are.
    wall_s
        End of the run.

    Examples
    --------
    8 samples in each of two steps of 10 s, which are lost after 25 s; training goes on 5 s later.

    >>> states = [(0.0, 2, 2, 0.0, 0.8), (20.0, 2, 2, 0.0, 0.0), (25.0, 2, 0, 0.0, 0.0), (30.0, 2, 2, 0.8, 0.0)]
    >>> events = [(25.0, "rolled_back", 0, 2, 0, 0, 0, 2, 16)]
    >>> [finish_s(states, events, 100.0, samples) for samples in (16, 24, 99)]
    [20.0, 60.0, None]
    """
    begins = [tuple(state) for state in states]
    rollbacks = [(event[0], event[-1]) for event in events if event[-1]]
    made = 0.0
    for (start_s, *_, rate, lost_rate), end_s in zip(begins, [*(row[0] for row in begins[1:]), wall_s], strict=True):
        while rollbacks and rollbacks[0][0] <= start_s:
            made -= rollbacks.pop(0)[1]
        made += (rate + lost_rate) * (end_s - start_s)
        if made >= num_samples - ROUNDING:
            return float(end_s - max(0.0, made - num_samples) / (rate + lost_rate))
    return None


ROUNDING = 1e-6
"""Samples by which a sum over stretches may miss their number."""


def switch_to_on_demand(trace: Trace, switch_s: float, num_nodes: int, duration_s: float) -> Trace:
    """Return the trace up to a time, at which nodes that stay take the place of all others."""
    events = [event for event in trace.events() if event.time_s < switch_s]
    is_alive = {event.node: event.kind == "add" for event in events}
    events += [Event(switch_s, "remove", node) for node in is_alive if is_alive[node]]
    fresh = (name for number in itertools.count() if (name := f"{ON_DEMAND}-{number}") not in trace.places)
    staying = dict(zip(fresh, range(num_nodes), strict=False))
    events += [Event(switch_s, "add", node) for node in staying]
    # Until then nodes stand as they do in the trace that goes on.
    places = {**trace.places, **staying}
    return build_trace(events, duration_s=duration_s, name=trace.name, prices=trace.prices, places=places)
