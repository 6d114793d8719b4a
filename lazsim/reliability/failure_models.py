"""Models of nodes that fail together. Axes: N nodes or failure domains, K batch sizes."""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lazsim.errors import SpecError
from lazsim.loads import as_floats
from lazsim.placement.plan import Floats, Ints


@dataclass(frozen=True, eq=False)
class IndependentFailures:
    """Each node fails independently, with probabilities of shape (N,)."""

    fail_prob_N: Sequence[float] | Floats


@dataclass(frozen=True, eq=False)
class BatchFailures:
    """As many nodes fail as in a batch of a trace, all equally likely; ``BatchFailures([k])`` is any `k` of them.

    Examples
    --------
    Two single failures and one of three nodes:

    >>> count_distribution(BatchFailures([1, 3, 1]), num_nodes=4)[1].round(3).tolist()
    [0.667, 0.333]
    """

    sizes: int | Sequence[int] | Ints
    """Nodes that failed in each batch observed, or each distinct number of them; 0..N."""
    weights: Sequence[float] | Floats | None = None
    """Number of times that each was observed; once by default."""


FailureModel = IndependentFailures | BatchFailures


def count_distribution(model: BatchFailures, num_nodes: int, unit: str = "nodes") -> tuple[Ints, Floats]:
    """Return the numbers of nodes that may fail together, and the probability of each; refuse a model that has none."""
    sizes = checked_failures(model.sizes, num_nodes, unit)
    weights = np.ones(len(sizes)) if model.weights is None else as_floats("weights", model.weights)
    if len(sizes) == 0:
        raise SpecError("no batch of failures is given: expected at least one")
    if weights.shape != sizes.shape:
        raise SpecError(f"{weights.size} weights for {len(sizes)} batch sizes: expected one for each")
    if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.sum() > 0):
        raise SpecError("weights of batch sizes must be numbers from 0 up, and not all be 0")
    distinct, index = np.unique(sizes, return_inverse=True)
    return distinct, np.bincount(index, weights) / weights.sum()


def independent_counts(fail_prob_N: Floats) -> Iterator[Floats]:
    """Yield the probability that 0..N of the first 0, 1, .. N nodes fail independently, each of shape (N + 1,).

    This is the Poisson binomial distribution, and the binomial one where all probabilities are equal.

    Examples
    --------
    >>> [counts.tolist() for counts in independent_counts(np.array([0.5, 0.5]))]
    [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.5, 0.25]]
    """
    counts = np.zeros(len(fail_prob_N) + 1)
    counts[0] = 1.0
    yield counts
    for prob in fail_prob_N:
        before, counts = counts, counts * (1 - prob)
        counts[1:] += before[:-1] * prob
        yield counts


def checked_failures(failures: int | Sequence[int] | Ints, num_nodes: int, unit: str) -> Ints:
    """Return one number of failures or several as an array; refuse what is not a whole number within 0..N."""
    try:
        numbers = [operator.index(number) for number in np.atleast_1d(np.asarray(failures))]
    except (TypeError, ValueError):
        raise SpecError(f"failures must be whole numbers, not {' '.join(repr(failures).split())}") from None
    wrong = [number for number in numbers if not 0 <= number <= num_nodes]
    if wrong:
        raise SpecError(
            f"{wrong[0]} failures are impossible: expected 0 to {num_nodes}, as there are {num_nodes} {unit}"
        )
    return np.array(numbers, dtype=np.int64)


def checked_probs(model: IndependentFailures, num_nodes: int, unit: str) -> Floats:
    """Return the probabilities as an array; refuse others than one for each node within 0..1."""
    probs = as_floats("fail_prob_N", model.fail_prob_N)
    if probs.shape != (num_nodes,):
        raise SpecError(f"{probs.size} failure probabilities for {num_nodes} {unit}: expected one for each")
    wrong = probs[~((probs >= 0) & (probs <= 1))]
    if len(wrong):
        raise SpecError(f"{wrong[0]:g} is not a failure probability: expected a number from 0 to 1")
    return probs
