"""Recovery probability without sampling, for all numbers of failed nodes at once.

Failure sets that share no node, not even through other sets, are independent: each connected component is solved on
its own, in the way that is cheapest for it. Axes: M failure sets, N nodes, n nodes of a component.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lazsim.placement.plan import Bools, Floats, Ints
from lazsim.reliability.diagram import Diagram, build_diagram
from lazsim.reliability.lattice import Lattice, build_lattice

SMALL_LATTICE_NODES = 20
MAX_LATTICE_NODES = 28
"""Up to the first a lattice takes about a millisecond, up to the second 32 MiB and about a second."""

MAX_WORK = 1e9
"""Operations on a diagram before giving up: about a tenth of a second."""


@dataclass(frozen=True)
class SingleSet:
    """One failure set: survived unless all its nodes fail, ``((1 + x)**n - x**n)`` as a generating function."""

    num_nodes: int

    def survival_by_count(self) -> Floats:
        """Return the share of the subsets of each size 0..n that are survived, shape (n + 1,)."""
        return np.append(np.ones(self.num_nodes), 0.0)

    def survival_prob(self, fail_prob_n: Floats) -> float:
        """Return the probability that all experts survive when nodes fail independently."""
        return float(1 - fail_prob_n.prod())


Component = SingleSet | Lattice | Diagram
"""Failure sets on some nodes, solved."""


def survival_by_count(sets_MN: Bools, max_work: float = MAX_WORK) -> Floats | None:
    """Return the probability that all experts survive when 0..N random nodes fail, shape (N + 1,).

    It is None where no exact way is cheap enough: where a component's diagram takes more than `max_work` operations.

    Notes
    -----
    The number of survived sets of ``k`` failed nodes is the coefficient of ``x**k`` in a polynomial, which is the
    product of those of the components and of ``(1 + x)`` for each node in no failure set. Coefficients are kept as
    shares of the ``C(n, k)`` subsets, and multiplied with hypergeometric weights: nothing overflows at any ``N``.

    Examples
    --------
    The published example: the least replicated expert is on 2 of 5 nodes; 3 failures are survived in 7 of 10 cases.

    >>> survival_by_count(np.array([[1, 1, 0, 0, 0]], dtype=bool)).round(3).tolist()
    [1.0, 1.0, 0.9, 0.7, 0.4, 0.0]
    """
    if not sets_MN.any(axis=1).all():
        return np.zeros(sets_MN.shape[1] + 1)
    share = np.ones(np.count_nonzero(~sets_MN.any(axis=0)) + 1)
    for _, component in _solve(sets_MN, max_work):
        if component is None:
            return None
        share = _multiply(share, component.survival_by_count())
    return share


def survival_prob(sets_MN: Bools, fail_prob_N: Floats, max_work: float = MAX_WORK) -> float | None:
    """Return the probability that all experts survive when nodes fail independently, as `survival_by_count` does.

    Examples
    --------
    >>> survival_prob(np.array([[1, 1, 0]], dtype=bool), np.array([0.5, 0.1, 0.9]))
    0.95
    """
    if not sets_MN.any(axis=1).all():
        return 0.0
    prob = 1.0
    for nodes, component in _solve(sets_MN, max_work):
        if component is None:
            return None
        prob *= component.survival_prob(fail_prob_N[nodes])
    return prob


def solve_component(sets_Mn: Bools, max_work: float) -> Component | None:
    """Choose the cheapest exact way for connected failure sets, none empty and none containing another."""
    num_sets, num_nodes = sets_Mn.shape
    if num_sets == 1:
        return SingleSet(num_nodes)
    if num_nodes <= SMALL_LATTICE_NODES:
        return build_lattice(sets_Mn)
    if num_nodes <= MAX_LATTICE_NODES:
        return build_diagram(sets_Mn, min(max_work, MAX_WORK)) or build_lattice(sets_Mn)
    return build_diagram(sets_Mn, max_work)


def _solve(sets_MN: Bools, max_work: float) -> Iterator[tuple[Ints, Component | None]]:
    """Yield the nodes and the solution of each component, small ones first."""
    if not len(sets_MN):
        return
    component_M, component_N = _components(sets_MN)
    sizes = np.bincount(component_N)[: component_M.max() + 1]
    for component in np.argsort(sizes, kind="stable").tolist():
        nodes = np.flatnonzero(component_N == component)
        yield nodes, solve_component(sets_MN[component_M == component][:, nodes], max_work)


def _components(sets_MN: Bools) -> tuple[Ints, Ints]:
    """Return the connected component, from 0 up, of each set and of each node; a node in no set has one of its own."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    num_sets, size = len(sets_MN), sum(sets_MN.shape)
    # The oldest scipy that lazsim takes finds no components by indices of 64 bits.
    sets, nodes = (index.astype(np.int32) for index in sets_MN.nonzero())
    joined = coo_array((np.ones(len(sets)), (sets, num_sets + nodes)), (size, size))
    # They are numbered as their first set is.
    component_M, component_N = np.split(connected_components(joined, directed=False)[1].astype(np.int64), [num_sets])
    return component_M, component_N


def _multiply(share_a: Floats, share_b: Floats) -> Floats:
    """Multiply two polynomials whose coefficients are shares of ``C(a, i)`` and of ``C(b, j)`` subsets."""
    num_a, num_b = len(share_a) - 1, len(share_b) - 1
    log_factorial = np.append(0.0, np.cumsum(np.log(np.arange(1, num_a + num_b + 1))))
    size = np.arange(num_a + 1)[:, None] + np.arange(num_b + 1)
    log_weight = _log_choose(log_factorial, num_a)[:, None] + _log_choose(log_factorial, num_b)
    weight = np.exp(log_weight - _log_choose(log_factorial, num_a + num_b)[size])
    # Divided by its own sum, so that a share of 1 stays just that.
    total = np.bincount(size.ravel(), weight.ravel())
    product: Floats = np.bincount(size.ravel(), (weight * share_a[:, None] * share_b).ravel()) / total
    return product


def _log_choose(log_factorial: Floats, num_nodes: int) -> Floats:
    """Return the logarithms of ``C(num_nodes, 0..num_nodes)``."""
    upto = log_factorial[: num_nodes + 1]
    log_choose: Floats = upto[-1] - upto - upto[::-1]
    return log_choose
