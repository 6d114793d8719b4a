"""The probability that every expert survives failures: exact where that takes little time, else with an interval.

Axes: L layers, E experts, N nodes, M failure sets, F numbers of failures.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lazsim.errors import SpecError
from lazsim.loads import as_array, check_amount
from lazsim.placement.plan import Bools, Floats, Ints, PlacementPlan
from lazsim.reliability import exact
from lazsim.reliability.failure_models import (
    BatchFailures,
    FailureModel,
    IndependentFailures,
    checked_failures,
    checked_probs,
    count_distribution,
    independent_counts,
)
from lazsim.reliability.failure_sets import domain_holds, guaranteed_failures, minimal_failure_sets
from lazsim.reliability.montecarlo import Estimate, sample_curve, sample_independent

Method = Literal["auto", "exact", "montecarlo"]
NodeDomains = Sequence[int] | Sequence[str] | npt.NDArray[Any]

HALF_WIDTH = 0.001
NEGLIGIBLE_PROB = 2.0**-60
"""Less likely numbers of failures are ignored: their sum is less than the rounding of a probability near 1."""

MAX_EXACT_WORK = 5e10
"""Operations on a diagram when only an exact answer will do: seconds."""


@dataclass(frozen=True, eq=False)
class SurvivalCurve:
    """Probability that all experts survive, by the number of nodes that fail together."""

    failures: Ints
    """Failed nodes, or failed domains. Shape (F,)."""
    recovery_prob: Floats
    ci_low: Floats
    ci_high: Floats
    """Probability that every expert of every layer survives, and the 95 % interval of each on its own; all three are
    the same where `method` is ``exact``, not ``montecarlo``. Shape (F,)."""
    method: str
    guaranteed: int
    """The fault threshold that holds: the fewest failures that can lose an expert. Fewer are always survived."""


@dataclass(frozen=True)
class SurvivalEstimate:
    """Probability that all experts survive under a failure model; fields as in `SurvivalCurve`, one number each."""

    recovery_prob: float
    ci_low: float
    ci_high: float
    method: str


def recovery_curve(
    holds_LEN: Bools | PlacementPlan,
    failures: int | Sequence[int] | Ints,
    method: Method = "auto",
    rng: np.random.Generator | int | None = None,
    half_width: float = HALF_WIDTH,
    domain_N: NodeDomains | None = None,
) -> SurvivalCurve:
    """Return the probability that every expert of every layer survives k random node failures.

    Parameters
    ----------
    holds_LEN
        A plan, or whether a node holds a replica, shape (L, E, N), as `PlacementPlan.holds_LEN` has it; counts of
        replicas will do, too.
    failures
        Numbers of failed nodes, or one number, each 0..N; of failed domains where `domain_N` is given.
    method
        ``exact``, ``montecarlo``, or ``auto``: exact if that takes little time, else by sampling.
    rng
        Source of samples, or its seed; by default 0.
    half_width
        Half the width that an interval may have.
    domain_N
        The failure domain (rack, zone, shared NIC) of each node, by number or name; its nodes fail together.

    Raises
    ------
    SpecError
        When `holds_LEN` is neither, a number of failures is not within 0..N, `domain_N` is not as long as there are
        nodes, `method` is unknown, an exact answer would take too long, or `half_width` is not within 0..0.5.

    Notes
    -----
    ``auto`` is exact up to 28 nodes, and far beyond where the nodes of an expert are side by side in some order of the
    nodes, as they are under `mro`, `spread` and `compact`.

    Examples
    --------
    Two nodes hold all four experts, the third none.

    >>> holds = np.array([[[True, True, False]] * 4])
    >>> recovery_curve(holds, [0, 1, 2, 3]).recovery_prob.round(3).tolist()
    [1.0, 1.0, 0.667, 0.0]
    """
    sets, unit = _failure_sets(holds_LEN, domain_N)
    _check(method, half_width)
    asked = checked_failures(failures, sets.shape[1], unit)
    curve, found_by = _curve(sets, asked, method, np.random.default_rng(0 if rng is None else rng), half_width)
    return SurvivalCurve(asked, *curve, found_by, guaranteed_failures(sets))


def recovery_prob(
    holds_LEN: Bools | PlacementPlan,
    model: FailureModel,
    method: Method = "auto",
    rng: np.random.Generator | int | None = None,
    half_width: float = HALF_WIDTH,
    domain_N: NodeDomains | None = None,
) -> SurvivalEstimate:
    """Return the probability that every expert of every layer survives under a failure model.

    Parameters
    ----------
    holds_LEN, method, rng, half_width, domain_N
        See `recovery_curve`.
    model
        Failures of nodes, or of domains where `domain_N` is given, in the order in which that names them first.

    Raises
    ------
    SpecError
        See `recovery_curve`; also when the model does not fit the nodes.

    Notes
    -----
    Nodes that fail independently and equally likely are a mixture of numbers of failures, as batches are, with the
    weights of the binomial distribution. With unequal probabilities, see `sample_independent` for sampling.

    The interval of a mean over numbers of failures is the mean of their intervals, which is wide enough: the standard
    error of a sum is at most the sum of standard errors.

    Examples
    --------
    >>> holds = np.array([[[True, True, False]]])
    >>> recovery_prob(holds, IndependentFailures([0.5, 0.1, 0.9])).recovery_prob
    0.95
    """
    sets, unit = _failure_sets(holds_LEN, domain_N)
    _check(method, half_width)
    rng = np.random.default_rng(0 if rng is None else rng)
    if isinstance(model, IndependentFailures):
        probs = checked_probs(model, sets.shape[1], unit)
        if (probs != probs[:1]).any():
            found, found_by = _answer(
                sets,
                method,
                lambda max_work: exact.survival_prob(sets, probs, max_work),
                lambda: sample_independent(sets, probs, rng, half_width),
            )
            return SurvivalEstimate(float(found.prob[0]), float(found.ci_low[0]), float(found.ci_high[0]), found_by)
        # A table of all rows fills the memory for thousands of nodes.
        (weights,) = deque(independent_counts(probs), maxlen=1)
        counts = np.flatnonzero(weights > NEGLIGIBLE_PROB)
        weights = weights[counts]
    elif isinstance(model, BatchFailures):
        counts, weights = count_distribution(model, sets.shape[1], unit)
    else:
        raise SpecError(
            f"`model`: expected IndependentFailures([...]), with a probability for each of {sets.shape[1]} {unit}, or "
            f"BatchFailures([...]), with numbers of {unit} that fail together, found {type(model).__name__}"
        )
    found, found_by = _curve(sets, counts, method, rng, half_width)
    # Rounding would make what is certain 1e-16 less than that.
    prob, ci_low, ci_high = (float((each * weights).sum().clip(each.min(), each.max())) for each in found)
    return SurvivalEstimate(prob, ci_low, ci_high, found_by)


def _failure_sets(holds: Bools | PlacementPlan, domain_N: NodeDomains | None) -> tuple[Bools, str]:
    """Return the minimal failure sets, and the unit of failure: nodes or domains."""
    holds_LEN = as_array("holds_LEN", holds.holds_LEN if isinstance(holds, PlacementPlan) else holds)
    if holds_LEN.ndim != 3 or not holds_LEN.size or holds_LEN.dtype.kind not in "biu":
        found = f"{holds_LEN.dtype} of shape {holds_LEN.shape}"
        raise SpecError(f"`holds_LEN`: expected a plan, or booleans of shape (layers, experts, nodes), found {found}")
    if holds_LEN.min(initial=0) < 0:
        raise SpecError("`holds_LEN`: expected booleans or counts of replicas, found -1 as in slots; give the plan")
    if domain_N is None:
        return minimal_failure_sets(holds_LEN), "nodes"
    domains, num_nodes = as_array("domain_N", domain_N), holds_LEN.shape[-1]
    if domains.shape != (num_nodes,):
        raise SpecError(f"{domains.size} failure domains named for {num_nodes} nodes: expected one for each node")
    return minimal_failure_sets(domain_holds(holds_LEN, domains)), "failure domains"


def _check(method: str, half_width: float) -> None:
    if method not in ("auto", "exact", "montecarlo"):
        raise SpecError(f"unknown method {method!r}: expected auto, exact or montecarlo")
    if not 0 < check_amount("half_width", half_width) < 0.5:
        raise SpecError(f"`half_width` {half_width:g}: an interval needs more than 0, and less than 0.5")


def _curve(
    sets_MN: Bools, failures: Ints, method: Method, rng: np.random.Generator, half_width: float
) -> tuple[Estimate, str]:
    # A larger set is not lost to the failures asked for.
    sets = sets_MN[sets_MN.sum(axis=1) <= failures.max(initial=0)]

    def solve(max_work: float) -> Floats | None:
        share = exact.survival_by_count(sets, max_work)
        return None if share is None else share[failures]

    return _answer(sets, method, solve, lambda: sample_curve(sets, failures, rng, half_width))


def _answer(
    sets_MN: Bools, method: Method, solve: Callable[[float], Floats | float | None], sample: Callable[[], Estimate]
) -> tuple[Estimate, str]:
    """Answer by the method; an expert that no node holds leaves nothing to sample."""
    if method != "montecarlo" or guaranteed_failures(sets_MN) == 0:
        prob = solve(MAX_EXACT_WORK if method == "exact" else exact.MAX_WORK)
        if prob is not None:
            return Estimate(*(np.array(prob, ndmin=1) for _ in range(3))), "exact"
        if method == "exact":
            raise SpecError("an exact recovery probability would take too long here: use method auto or montecarlo")
    return sample(), "montecarlo"
