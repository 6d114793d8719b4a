"""Reliability of the plans in force against the failures of a trace.

The score of a run is the probability that every expert is still there when nodes next go, averaged over the time in
which nodes were in use. Axes: L layers, E experts, N nodes.
"""

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from lazsim.placement.plan import PlacementPlan
from lazsim.reliability import BatchFailures, SurvivalEstimate, recovery_prob
from lazsim.specs import sha256
from lazsim.trace.table import Trace

OnPlan = Callable[[float, PlacementPlan | None, int], None]
"""Called with a time, the plan in force from then on (None while no node is in use) and the number of nodes alive."""


def batch_sizes(trace: Trace, wall_s: float) -> Mapping[int, int]:
    """Count the failures in a trace before a time, by the number of nodes that go at once.

    Examples
    --------
    >>> from lazsim.trace.table import Event, build_trace
    >>> adds = [Event(0, "add", name) for name in "abc"]
    >>> gone = [Event(60, "remove", "a"), Event(60, "remove", "b"), Event(90, "remove", "c")]
    >>> dict(batch_sizes(build_trace([*adds, *gone]), wall_s=100))
    {2: 1, 1: 1}
    """
    return Counter(len(batch.removed) for batch in trace.batches() if batch.removed and batch.time_s < wall_s)


class PlanReliability:
    """Averages the recovery probability of plans over the time in which each is in force.

    `sizes` counts failures by the nodes that go at once; see `batch_sizes`.

    Notes
    -----
    What comes next is one of the batches in which nodes go in the replayed stretch of the trace, each as likely as any
    other, whatever the time. It takes that number of the nodes alive, any of them as likely as any other, and all where
    they are fewer. Nodes that are alive but not in use (they wait to join, or fill no whole group) may be among them
    and take nothing with them. The same failures threaten every run: scores differ by plans and their time in force,
    ``sum(seconds[i] * P(plan[i] keeps every expert)) / sum(seconds)`` over plans and nodes alive.

    A plan is in force from when nodes begin to train under it until the next plan takes its place, a node that takes
    part fails, a restart sets in or the run ends. Detection, recovery, restarts and waiting, during which no node is in
    use, do not count; checkpoints and pauses for a rebalance do. It is the plan that is scored: a system that restarts
    at every failure makes no use of what its plan would keep, and one with a plan that never loses an expert must still
    restart when too few nodes are left.

    Examples
    --------
    Two nodes share four experts for 30 s, then each of them holds all for 10 s; then there are none. One node fails.

    >>> reliability = PlanReliability({1: 5})
    >>> reliability.record(0.0, PlacementPlan(np.array([[[0, 1], [2, 3]]]), num_experts=4), num_alive=2)
    >>> reliability.record(30.0, PlacementPlan(np.array([[[0, 1, 2, 3], [3, 2, 1, 0]]]), num_experts=4), num_alive=2)
    >>> reliability.record(40.0, None, num_alive=0)
    >>> reliability.average(now_s=100.0).recovery_prob
    0.25
    """

    def __init__(self, sizes: Mapping[int, int]) -> None:
        self._sizes = np.array(list(sizes), dtype=np.int64)
        self._weights = np.array(list(sizes.values()), dtype=np.float64)
        self._plan: PlacementPlan | None = None
        self._num_alive = 0
        self._since_s = 0.0
        self._found: dict[tuple[int, int, str], SurvivalEstimate] = {}
        self._seconds: dict[tuple[int, int, str], float] = {}

    def record(self, now_s: float, plan: PlacementPlan | None, num_alive: int) -> None:
        """Record the plan in force from now on, if any, and the number of nodes alive."""
        if plan is self._plan and num_alive == self._num_alive:
            return
        if self._plan is not None and now_s > self._since_s and len(self._sizes):
            digest = sha256(np.packbits(self._plan.holds_LEN).tobytes())
            key = (self._num_alive, self._plan.num_nodes, digest)
            if key not in self._found:
                # To lose a node that is not in use is to lose one that holds nothing.
                num_unused = self._num_alive - self._plan.num_nodes
                holds_LEN = np.pad(self._plan.holds_LEN, ((0, 0), (0, 0), (0, num_unused)))
                failures = BatchFailures(np.minimum(self._sizes, self._num_alive), self._weights)
                self._found[key] = recovery_prob(holds_LEN, failures)
            self._seconds[key] = self._seconds.get(key, 0.0) + now_s - self._since_s
        self._plan, self._num_alive, self._since_s = plan, num_alive, now_s

    def average(self, now_s: float) -> SurvivalEstimate | None:
        """Return the average up to now; None where no plan was in force or no node ever goes.

        Plans that were sampled have intervals. The mean of these is at least as wide as need be: the standard error of
        a sum is at most the sum of standard errors.
        """
        self.record(now_s, None, 0)
        if not self._seconds:
            return None
        seconds = np.array(list(self._seconds.values()))
        found = [self._found[key] for key in self._seconds]
        values = np.array([(one.recovery_prob, one.ci_low, one.ci_high) for one in found])
        prob, ci_low, ci_high = np.minimum(seconds @ values / seconds.sum(), 1.0).tolist()
        is_exact = all(one.method == "exact" for one in found)
        return SurvivalEstimate(prob, ci_low, ci_high, "exact" if is_exact else "montecarlo")
