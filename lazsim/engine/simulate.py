"""Run a job through a trace."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import simpy

from lazsim.costmodel.step import CostModel
from lazsim.engine.job import Activity, Job
from lazsim.engine.log import Event, State
from lazsim.engine.systems import System
from lazsim.errors import InfeasiblePlanError
from lazsim.routing import Routing
from lazsim.trace.table import Batch, Trace


@dataclass(frozen=True)
class SystemRun:
    """What a system got done, and where the time went.

    Attributes
    ----------
    system : str
        Its name.
    wall_s : float
        Simulated time.
    steps, samples : int
        Steps and sequences trained and kept.
    ledger_s : mapping
        Seconds by bucket; they add up to `wall_s`.
    counts : mapping
        ``failures``, ``reconfigurations``, ``restarts``, ``rebalances``, ``checkpoints`` and ``lost_steps``.
    states, events : tuple
        Changes of state over time, and what happened.
    """

    system: str
    wall_s: float
    steps: int
    samples: int
    ledger_s: Mapping[str, float]
    counts: Mapping[str, int]
    states: tuple[State, ...]
    events: tuple[Event, ...]

    @property
    def goodput_samples_per_s(self) -> float:
        """Kept samples over wall time."""
        return self.samples / self.wall_s

    @property
    def ettr(self) -> float:
        """Productive time over wall time, 0 to 1."""
        return self.ledger_s["compute"] / self.wall_s


def simulate_system(
    trace: Trace, system: System, costs: CostModel, routing: Routing, duration_s: float | None = None
) -> SystemRun:
    """Simulate one job.

    Parameters
    ----------
    trace
        What happens to nodes; those that it adds at time 0 are trained on from the start.
    system, costs, routing
        What is run, what it takes and what the gate asks for.
    duration_s
        How long; past the trace's end nodes stay as they are. The trace's own duration when not given.

    Raises
    ------
    InfeasiblePlanError
        When neither the whole cluster nor the most nodes that the trace has at once can hold every expert.
    """
    wall_s = trace.duration_s if duration_s is None else duration_s
    most_nodes = max(costs.cluster.num_nodes, int(trace.num_alive()[1].max()))
    if not system.usable_nodes(costs, most_nodes):
        num_slots = most_nodes * costs.cluster.slots_per_node
        raise InfeasiblePlanError(
            f"{costs.model.name} does not fit on {costs.cluster.name} under {system.name}: {costs.model.num_experts} "
            f"experts, but {most_nodes} nodes have {num_slots} slots; use a larger cluster or a smaller model"
        )
    env = simpy.Environment()
    job = Job(env, system, costs, routing)
    env.process(_play(env, job, trace.batches(), wall_s))
    env.run()
    return SystemRun(
        system=system.name,
        wall_s=wall_s,
        steps=job.step,
        samples=job.samples,
        ledger_s=job.ledger.seconds(),
        counts=job.log.counts,
        states=tuple(job.log.states),
        events=tuple(job.log.events),
    )


def _play(env: simpy.Environment, job: Job, batches: Iterator[Batch], wall_s: float) -> Activity:
    begun = False
    for batch in batches:
        if batch.time_s >= wall_s:
            break
        if not begun:
            job.begin(batch if batch.time_s == 0 else Batch(0.0, (), ()))
            begun = True
            if batch.time_s == 0:
                continue
        yield env.timeout(batch.time_s - env.now)
        job.change(batch)
    if not begun:
        job.begin(Batch(0.0, (), ()))
    yield env.timeout(wall_s - env.now)
    job.end()
