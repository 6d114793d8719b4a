"""Run a job through a trace."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from lazsim.costmodel.costs import CostModel
from lazsim.costmodel.memory import MemoryUse
from lazsim.engine.clock import Clock
from lazsim.engine.job import Job
from lazsim.engine.log import FailureRecord, JobEvent, State, TimeSpan
from lazsim.engine.memory import peak_memory, sizes_held
from lazsim.engine.nodes import NO_SPARES, Spares
from lazsim.engine.plan_reliability import PlanReliability, count_losses
from lazsim.engine.planner import Planner
from lazsim.engine.systems import System
from lazsim.errors import InfeasiblePlanError
from lazsim.reliability import SurvivalEstimate
from lazsim.routing import Routing
from lazsim.trace.prices import ONE, Prices, node_hours
from lazsim.trace.table import Trace
from lazsim.units import counted

TIMES_TOLD = 100
"""Times at which a run tells how far it is, at most."""


@dataclass(frozen=True)
class SystemRun:
    """The work that a system got done, and the use of its time."""

    system: str
    placement: str | None
    """Its placement policy; None under plain expert parallelism."""
    name: str
    """The system, with the policy where that was chosen, which tells runs of one system apart."""
    wall_s: float
    """Simulated time."""
    steps: int
    samples: int
    """Steps and sequences trained and kept."""
    ledger_s: Mapping[str, float]
    """Seconds by bucket; they add up to `wall_s`."""
    counts: Mapping[str, int]
    """``failures``, ``reconfigurations``, ``restarts``, ``rebalances``, ``checkpoints`` and ``lost_steps``."""
    states: tuple[State, ...] = field(repr=False)
    events: tuple[JobEvent, ...] = field(repr=False)
    """Changes of state over time, and events."""
    failures: tuple[FailureRecord, ...] = field(default=(), repr=False)
    """Every failure that the job felt, and the way back to training."""
    phases: tuple[TimeSpan, ...] = field(default=(), repr=False)
    node_spans: tuple[TimeSpan, ...] = field(default=(), repr=False)
    """The buckets of the ledger over time, and the times at which each node is in use or spare; of too many, the
    longest."""
    plan_recovery: SurvivalEstimate | None = None
    """The probability that every expert survives when nodes next go, where it was asked for; see
    `lazsim.engine.plan_reliability`."""
    below_threshold_s: float = 0.0
    """Seconds of steps, later lost ones included, under plans that keep some expert on fewer nodes than the job's fault
    threshold. A system without flexible dispatch keeps none, and has 0."""
    steps_s: Mapping[tuple[int, int], float] = field(default_factory=dict, repr=False)
    """Seconds of steps, later lost ones included, by the nodes that make them and those of their plan as it was made:
    more where these go on in their places."""
    steps_made: Mapping[tuple[float, int], int] = field(default_factory=dict, repr=False)
    """Number of steps, later lost ones included, by the seconds and the samples of each."""
    extrapolated_s: float | None = None
    """Seconds of steps, later lost ones included, from beyond the sizes of a profile, where that is allowed."""
    memory: MemoryUse | None = None
    """Bytes that a GPU needs at the peak; None where the job never trains. See `lazsim.engine.memory`."""
    lost_token_share: float | None = None
    """Share of the tokens trained whose updates of experts were lost; None for systems that lose none."""
    interval_steps: int = 0
    """Steps between checkpoints; 0 where none are made."""
    host_bytes: float = 0.0
    """Bytes of a node's own memory that copies and logs take at the peak."""
    setting: Mapping[str, int] = field(default_factory=dict)
    """Values of the fields of the system that a search may change; see `System.choices`."""
    planning: str = "exact"
    """``exact`` where every plan was made, or ``sampled``; see `lazsim.engine.sampling`."""
    samples_error: float = 0.0
    """Share of the samples by which 95 % of runs that make every plan are off at most; 0 where planning is exact."""
    samples_error_beyond: float = 0.0
    """The share by which the other 5 % are off on average."""
    gpus_per_node: int = 1
    tokens_per_sample: int = 1
    """GPUs of a node, and tokens of a sequence."""
    prices: Prices | None = None
    """Prices of a node, where they are known."""

    @property
    def node_hours_held(self) -> float:
        """Hours of all nodes alive together."""
        return self._node_hours("num_alive")

    @property
    def node_hours_used(self) -> float:
        """Hours of the nodes that trained together, saves and steps that were lost later included."""
        return self._node_hours("num_used")

    @property
    def node_hours_idle(self) -> float:
        """Hours of nodes alive and not training: spares, those too many, and all while the job recovers or waits."""
        return self.node_hours_held - self.node_hours_used

    @property
    def cost_usd(self) -> float | None:
        """US dollars of all nodes alive; None where prices are not known."""
        return None if self.prices is None else self._node_hours("num_alive", self.prices)

    @property
    def price_usd_per_node_hour(self) -> float | None:
        """Mean price paid for an hour of a node; None without prices or nodes."""
        if self.prices is None or not self.node_hours_held:
            return None
        # What is above the least price is nothing where it never changes, so that the mean is exact.
        least_usd = float(self.prices.usd_per_hour.min())
        above = replace(self.prices, usd_per_hour=self.prices.usd_per_hour - least_usd)
        return least_usd + self._node_hours("num_alive", above) / self.node_hours_held

    @property
    def usd_per_million_samples(self) -> float | None:
        """US dollars for a million samples kept; None without prices or samples."""
        return self.cost_usd / self.samples * 1e6 if self.cost_usd is not None and self.samples else None

    @property
    def usd_per_billion_tokens(self) -> float | None:
        """US dollars for a billion tokens of samples kept; None without prices or samples."""
        per_million = self.usd_per_million_samples
        return per_million and per_million / self.tokens_per_sample * 1e3

    @property
    def most_nodes_used(self) -> int:
        """The most nodes that trained at once."""
        return max(state.num_used for state in self.states)

    @property
    def goodput_samples_per_s(self) -> float:
        """Kept samples over wall time."""
        return self.samples / self.wall_s

    @property
    def ettr(self) -> float:
        """Productive time over wall time, 0 to 1; 0 where no step counts."""
        return self.ledger_s["compute"] / self.wall_s if self.steps else 0.0

    def _node_hours(self, what: str, prices: Prices = ONE) -> float:
        times_s, counts = ([getattr(state, field) for state in self.states] for field in ("time_s", what))
        return node_hours(times_s, counts, self.wall_s, prices)


def simulate_system(
    trace: Trace,
    system: System,
    costs: CostModel,
    routing: Routing,
    duration_s: float | None = None,
    *,
    planner: Planner | None = None,
    score_plans: bool = False,
    interval_steps: int | None = None,
    planning: str = "exact",
    prices: Prices | None = None,
    spares: Spares = NO_SPARES,
    on_time: Callable[[float], None] = lambda _time_s: None,
) -> SystemRun:
    """Simulate one job.

    Parameters
    ----------
    trace
        Events of nodes; training begins on those that it adds at time 0.
    system, costs, routing
        The system simulated, the costs of everything it does, and the loads of its experts.
    duration_s
        Simulated time; past the trace's end nodes stay as they are. The trace's own duration when not given.
    planner
        Makes the plans of the system and times their steps; may be shared with other runs of it that have the same
        costs and routing.
    score_plans
        Whether to find the recovery probability of every plan that is put in force, which takes time.
    interval_steps
        Steps between checkpoints, 0 for none; those of the job when not given.
    planning
        Whether to make every plan; one of `lazsim.limits.PLANNINGS`.
    prices
        Prices of a node, where they are known.
    spares
        Nodes of the trace that stand by.
    on_time
        Called with the simulated time now and then, and at the end.

    Raises
    ------
    InfeasiblePlanError
        When neither the whole cluster nor the most nodes that the trace has at once can hold every expert, or when the
        policy does not apply to them.
    SpecError
        When a user's policy fails, a plan would fill the memory, or there are too many steps to simulate.
    """
    wall_s = trace.duration_s if duration_s is None else duration_s
    most_nodes = max(costs.cluster.num_nodes, trace.most_nodes())
    require_fit(system, costs, most_nodes)
    env = Clock(on_time, wall_s / TIMES_TOLD)
    reliability = PlanReliability(count_losses(trace, wall_s, costs.cluster.nodes_per_domain)) if score_plans else None
    on_plan = reliability.record if reliability else None
    planner = planner or Planner(system, costs, routing)
    job = Job(
        env, trace, system, planner, wall_s, on_plan=on_plan, interval_steps=interval_steps, planning=planning,
        spares=spares,
    )  # fmt: skip
    env.process(job.play())
    env.run()
    on_time(wall_s)
    ledger_s = job.ledger.seconds()
    # Checkpoints and rebalances also come with steps that are lost later.
    made_s, stops_s = ledger_s["compute"] + ledger_s["lost_work"], ledger_s["checkpoint"] + ledger_s["rebalance"]
    error, error_beyond = job.plans.error.shares(ledger_s["compute"] * (1 + stops_s / made_s) if made_s else 0.0)
    return SystemRun(
        system=system.name,
        placement=(system.placement or system.policy.name) if system.policy is not None else None,
        name=system.run_name,
        wall_s=wall_s,
        steps=job.progress.step,
        samples=job.progress.samples,
        ledger_s=ledger_s,
        counts=job.log.counts,
        states=tuple(job.log.states),
        events=tuple(job.log.events),
        failures=tuple(job.log.failures),
        phases=job.log.phases.until(wall_s),
        node_spans=job.log.node_spans.until(wall_s),
        plan_recovery=reliability.average(wall_s) if reliability else None,
        below_threshold_s=job.below_threshold_s,
        steps_s=job.steps_s,
        steps_made=job.steps_made,
        extrapolated_s=job.extrapolated_s if costs.measured_part is not None else None,
        lost_token_share=job.lost_token_share,
        interval_steps=job.interval_steps,
        host_bytes=job.host_bytes,
        setting={name: getattr(system, name) for name in system.choices()},
        memory=_peak_memory(system, costs, routing, job),
        planning="sampled" if job.plans.sampler.is_on else "exact",
        samples_error=error,
        samples_error_beyond=error_beyond,
        gpus_per_node=costs.cluster.gpus_per_node,
        tokens_per_sample=costs.model.sequence_length,
        prices=prices,
    )


def require_layout(system: System, costs: CostModel, most_nodes: int) -> None:
    """Refuse a job for which `most_nodes` nodes, or its stages and model replicas on these, are too few."""
    parallel = costs.job.parallel
    if system.stage_use and costs.grid.num_stages < 2:
        field, fewest = "pipeline" if costs.job.times is None else "num_stages", 2
        has = "the job has one"
        if parallel is not None and parallel.stages_of_part > 1:
            fewest, has = 2 * parallel.stages_of_part, "each node of the job has all, as two of dualpipe share one"
        give = f"set its `{field}` to {fewest} or more"
        if parallel is None and costs.job.times is None:
            has, give = "a job without a layout has one", "give a `job` whose layout, `parallel`, has two or more"
        elif parallel is not None and most_nodes < 2:
            has, give = "each takes a node", "give two nodes or more"
        raise InfeasiblePlanError(f"{system.name} {system.stage_use}, and {has}: {give}")
    needed = 2 * costs.grid.replica_nodes
    if system.takes_two_replicas and most_nodes < needed:
        give = "more nodes" if parallel is None else "fewer GPUs for each (`parallel`), or more nodes"
        raise InfeasiblePlanError(
            f"{system.name} takes two model replicas, {needed} nodes, and there are {most_nodes}: give {give}"
        )
    if 0 < (usable := system.usable_nodes(costs, most_nodes)) < costs.job.min_nodes:
        of_all = f"of {counted(most_nodes, 'node')}, {system.name} uses {usable}"
        raise InfeasiblePlanError(f"`min_nodes` {costs.job.min_nodes}: {of_all}; give as many, or more nodes")


def require_fit(system: System, costs: CostModel, most_nodes: int) -> None:
    """Refuse a model that `most_nodes` nodes cannot hold, and say why."""
    require_layout(system, costs, most_nodes)
    if system.usable_nodes(costs, most_nodes):
        return
    model, cluster = costs.model, costs.cluster
    who = f"{model.name} does not fit on {cluster.name} under {system.name}"
    num_slots, fewest = most_nodes * cluster.slots_per_node, system.fewest_nodes(costs)
    if num_slots < model.num_experts:
        raise InfeasiblePlanError(
            f"{who}: {model.num_experts} experts for {counted(num_slots, 'slot')} of "
            f"{counted(most_nodes, 'node')}; use a cluster of "
            f"{counted(fewest, 'node')} or more, or a smaller model"
        )
    if system.is_elastic:
        # The policy says why it does not apply.
        system.plan_evenly(costs, most_nodes)
    if costs.job.parallel is not None:
        takes, helps = "a model replica takes", "give fewer GPUs for one (`parallel`), or more nodes"
    else:
        takes = f"equal chunks of {model.num_experts} experts, at most {cluster.slots_per_gpu} on a GPU, take groups of"
        helps = f"use a larger cluster, or leave {system.name} out"
    raise InfeasiblePlanError(f"{who}: {takes} {counted(fewest, 'node')}, and there are {most_nodes}; {helps}")


def _peak_memory(system: System, costs: CostModel, routing: Routing, job: Job) -> MemoryUse | None:
    """Return what the fullest GPU needed at the peak of a job that has run; None where it never trained."""
    if not job.steps_s:
        return None
    # With fewer nodes, each has a larger share of what all of them hold together.
    sizes = sizes_held(system, costs, min(job.steps_s)[0], max(num_seats for _, num_seats in job.steps_s))
    return peak_memory(system, costs, routing, sizes, job.progress.step)
