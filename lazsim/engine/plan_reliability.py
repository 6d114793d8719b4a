"""Reliability of the plans in force against the failures of a trace.

The score of a run is the probability that every expert is still there when nodes next go, averaged over the time in
which nodes were in use. Axes: L layers, E experts, N nodes.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lazsim.engine.nodes import Nodes
from lazsim.placement.plan import Ints, PlacementPlan, with_more_nodes
from lazsim.reliability import BatchFailures, SurvivalEstimate, recovery_prob
from lazsim.specs import sha256
from lazsim.trace.table import Trace

OnPlan = Callable[[float, PlacementPlan | None, Sequence[int]], None]
"""Called with a time, the plan in force from then on (None while no node is in use) and the failure domain of each node
alive, those of the plan first; any numbers where the cluster has no domains."""

Loss = tuple[int, bool]
"""Nodes that go at once, by their number; or whole failure domains, where the second is true."""


def count_losses(trace: Trace, wall_s: float, nodes_per_domain: int = 0) -> Mapping[Loss, int]:
    """Count the failures in a trace before a time, by the number of nodes or domains that go at once.

    A batch counts domains where it takes all that is alive of some, several nodes of one of them at least, and no other
    node. Nodes have the places of the trace.

    Examples
    --------
    >>> from lazsim.trace.table import Event, build_trace
    >>> adds = [Event(0, "add", name) for name in "abcd"]
    >>> gone = [Event(60, "remove", "a"), Event(60, "remove", "b"), Event(90, "remove", "c")]
    >>> trace = build_trace([*adds, *gone])
    >>> dict(count_losses(trace, 100)), dict(count_losses(trace, 100, nodes_per_domain=2))
    ({(2, False): 1, (1, False): 1}, {(1, True): 1, (1, False): 1})
    """
    found: Counter[Loss] = Counter()
    nodes = Nodes(trace.places)
    for batch in trace.batches():
        if batch.time_s >= wall_s:
            break
        if batch.removed:
            alive = Counter(nodes.domains(nodes.in_order(), nodes_per_domain or 1))
            gone = Counter(nodes.domains(batch.removed, nodes_per_domain or 1))
            are_whole = max(gone.values()) > 1 and all(alive[domain] == number for domain, number in gone.items())
            found[(len(gone), True) if are_whole else (len(batch.removed), False)] += 1
        nodes.apply(batch)
    return found


class PlanReliability:
    """Averages the recovery probability of plans over the time in which each is in force.

    `losses` counts failures by the number of nodes or domains that go at once; see `count_losses`.

    Notes
    -----
    What comes next is one of the batches in which nodes go in the replayed stretch of the trace, each as likely as any
    other, whatever the time. It takes that number of the nodes alive, or of the failure domains that have any, each of
    them as likely as any other, and all where they are fewer. Nodes that are alive but not in use (they wait to join,
    or fill no whole group) may be among them and take nothing with them. The same failures threaten every run: scores
    differ by plans and their time in force, ``sum(seconds[i] * P(plan[i] keeps every expert)) / sum(seconds)`` over
    plans and nodes alive.

    A plan is in force from when nodes begin to train under it until the next plan takes its place, a node that takes
    part fails, a restart sets in or the run ends. Detection, recovery, restarts and waiting, during which no node is in
    use, do not count; checkpoints and pauses for a rebalance do. It is the plan that is scored: a system that restarts
    at every failure makes no use of what its plan would keep, and one with a plan that never loses an expert must still
    restart when too few nodes are left.

    Examples
    --------
    Two nodes share four experts for 30 s, then each of them holds all for 10 s; then there are none. One node fails.

    >>> reliability = PlanReliability({(1, False): 5})
    >>> reliability.record(0.0, PlacementPlan(np.array([[[0, 1], [2, 3]]]), num_experts=4), [0, 1])
    >>> reliability.record(30.0, PlacementPlan(np.array([[[0, 1, 2, 3], [3, 2, 1, 0]]]), num_experts=4), [0, 1])
    >>> reliability.record(40.0, None, [])
    >>> reliability.average(now_s=100.0).recovery_prob
    0.25
    """

    def __init__(self, losses: Mapping[Loss, int]) -> None:
        self._losses = losses
        self._plan: PlacementPlan | None = None
        self._domains: tuple[int, ...] = ()
        self._since_s = 0.0
        self._scores: dict[tuple[tuple[int, ...], int, str], tuple[SurvivalEstimate, float]] = {}

    def record(self, now_s: float, plan: PlacementPlan | None, domains: Sequence[int]) -> None:
        """Record the plan in force from now on, if any, and the domains of the nodes alive, those of the plan first."""
        if plan is self._plan and tuple(domains) == self._domains:
            return
        if self._plan is not None and now_s > self._since_s and self._losses:
            key = self._domains, self._plan.num_nodes, sha256(np.packbits(self._plan.holds_LEN).tobytes())
            score, seconds = self._scores.get(key) or (self._estimate(self._plan, np.array(self._domains)), 0.0)
            self._scores[key] = score, seconds + now_s - self._since_s
        self._plan, self._domains, self._since_s = plan, tuple(domains), now_s

    def _estimate(self, plan: PlacementPlan, domain_N: Ints) -> SurvivalEstimate:
        """Return the mean of the probabilities under losses of nodes, and of domains, by how often each comes."""
        # To lose a node that is not in use is to lose one that holds nothing.
        holds_LEN = with_more_nodes(plan.holds_LEN, len(domain_N) - plan.num_nodes)
        found, weights = [], []
        for of_domains in (False, True):
            counts = {number: times for (number, whole), times in self._losses.items() if whole == of_domains}
            if not counts:
                continue
            most = len(np.unique(domain_N)) if of_domains else len(domain_N)
            failures = BatchFailures(np.minimum(list(counts), most), np.array(list(counts.values()), dtype=np.float64))
            found.append(recovery_prob(holds_LEN, failures, domain_N=domain_N if of_domains else None))
            weights.append(sum(counts.values()))
        return found[0] if len(found) == 1 else _mean(found, np.array(weights))

    def average(self, now_s: float) -> SurvivalEstimate | None:
        """Return the average up to now; None where no plan was in force or no node ever goes.

        Plans that were sampled have intervals. The mean of these is at least as wide as need be: the standard error of
        a sum is at most the sum of standard errors.
        """
        self.record(now_s, None, ())
        if not self._scores:
            return None
        scores, seconds = zip(*self._scores.values(), strict=True)
        return _mean(scores, np.array(seconds))


def _mean(found: Sequence[SurvivalEstimate], weights: npt.NDArray[Any]) -> SurvivalEstimate:
    values = np.array([(one.recovery_prob, one.ci_low, one.ci_high) for one in found])
    mean = weights @ values / weights.sum()
    # Rounding would make what is certain 1e-16 less than that.
    prob, ci_low, ci_high = mean.clip(values.min(axis=0), values.max(axis=0)).tolist()
    is_exact = all(one.method == "exact" for one in found)
    return SurvivalEstimate(prob, ci_low, ci_high, "exact" if is_exact else "montecarlo")
