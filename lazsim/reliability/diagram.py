"""Exact survival probability by a binary decision diagram: decide node after node, merge states with equal futures.

Axes: M failure sets, n nodes, S states, O open sets (failure sets with nodes both decided and undecided).
"""

from dataclasses import dataclass

import numpy as np

from lazsim.placement.plan import Bools, Floats, Ints, unique_rows

LOST = -1
"""In place of the next state: an expert is lost."""

MAX_STATES = 1 << 17
"""States of one node: bounds memory to some hundred MiB."""

MAX_NODES = 1 << 11
"""Nodes to put in order: eigenvectors of this number take seconds, and their time grows with its cube."""


@dataclass(frozen=True, eq=False)
class Diagram:
    """Fate of the experts, node by node."""

    order: Ints
    """Nodes in the order in which they are decided. Shape (n,)."""
    next_states: tuple[Ints, ...]
    """For each node in that order: where each state leads when the node lives, and when it fails, or `LOST`. One state
    is left after the last node: all experts survive. Shape (2, S)."""

    def survival_by_count(self) -> Floats:
        """Return the share of the subsets of each size 0..n that are survived, shape (n + 1,).

        Notes
        -----
        Of ``m`` undecided nodes, ``k`` of which fail at random, the next one fails with probability ``k / m``. Shares
        are never counted in absolute numbers, so that no size is too large, and 0 and 1 come out exactly.
        """
        # Row -1 belongs to LOST.
        share = np.array([[1.0], [0.0]])
        for num_nodes, (lives, fails) in enumerate(reversed(self.next_states), start=1):
            next_share = np.zeros((len(lives) + 1, num_nodes + 1))
            failed = next_share[:-1]
            failed[:, 1:] = share[fails]
            lived = np.zeros_like(failed)
            lived[:, :-1] = share[lives]
            failed += (lived - failed) * (1 - np.arange(num_nodes + 1) / num_nodes)
            share = next_share
        root: Floats = share[0]
        return root

    def survival_prob(self, fail_prob_n: Floats) -> float:
        """Return the probability that all experts survive when nodes fail independently."""
        prob = np.array([1.0, 0.0])
        for fail_prob, (lives, fails) in zip(fail_prob_n[self.order][::-1], reversed(self.next_states), strict=True):
            prob = np.append(prob[fails] + (prob[lives] - prob[fails]) * (1 - fail_prob), 0.0)
        return float(prob[0])


def build_diagram(sets_Mn: Bools, max_work: float) -> Diagram | None:
    """Build the diagram of failure sets, none of which is empty or contains another.

    It is None beyond `MAX_NODES` or `MAX_STATES`, or `max_work` operations, the sum over nodes of ``O**2 * (S + n)``.

    Notes
    -----
    A state is the family of open sets that all failed so far, without those that contain another of them in their
    undecided nodes. The future depends on nothing else, and differs between any two states: the diagram is
    the reduced one of its node order (Bryant, IEEE Trans. Computers C-35, 1986). Nodes are ordered so that sets are
    close to intervals, which keeps few of them open; where all can be intervals, as in groups placed side by side in
    each layer, there are no more states than nodes.

    Examples
    --------
    >>> build_diagram(np.array([[1, 1, 0], [0, 1, 1]], dtype=bool), max_work=1e6).survival_by_count().round(3).tolist()
    [1.0, 1.0, 0.333, 0.0]
    """
    if sets_Mn.shape[1] > MAX_NODES:
        return None
    order = seriate(sets_Mn)
    sets = sets_Mn[:, order]
    num_nodes = sets.shape[1]
    first, last = sets.argmax(axis=1), num_nodes - 1 - sets[:, ::-1].argmax(axis=1)
    open_sets = np.zeros(0, dtype=np.int64)
    failed_SO = np.ones((1, 0), dtype=np.bool_)
    next_states = []
    work = 0
    for node in range(num_nodes):
        num_states = len(failed_SO)
        opening = np.flatnonzero(first == node)
        lives = np.pad(failed_SO & ~sets[open_sets, node], ((0, 0), (0, len(opening))))
        fails = np.pad(failed_SO, ((0, 0), (0, len(opening))), constant_values=True)
        open_sets = np.append(open_sets, opening)
        closing = last[open_sets] == node
        lost = fails[:, closing].any(axis=1)
        used = ~closing & fails.any(axis=0)
        open_sets = open_sets[used]
        work += len(open_sets) ** 2 * (2 * num_states + num_nodes)
        if work > max_work or num_states > MAX_STATES:
            return None
        going_on = np.concatenate([lives, fails[~lost]])[:, used]
        failed_SO, index = unique_rows(_undominated(going_on, sets[open_sets, node + 1 :]))
        leads = np.full((2, num_states), LOST)
        leads[0] = index[:num_states]
        leads[1, ~lost] = index[num_states:]
        next_states.append(leads)
    return Diagram(order, tuple(next_states))


def _undominated(failed_SO: Bools, undecided_On: Bools) -> Bools:
    """Forget, in each state, the sets that contain another one of it in their undecided nodes."""
    num_open = len(undecided_On)
    sets = undecided_On.astype(np.float32)
    size = undecided_On.sum(axis=1)
    contains = sets @ sets.T == size[:, None]
    # Of sets that are alike from here on, the first one stays.
    dominates = contains & ((size[:, None] < size) | (np.arange(num_open)[:, None] < np.arange(num_open)))
    forgotten: Bools = failed_SO.astype(np.float32) @ dominates.astype(np.float32) > 0
    return failed_SO & ~forgotten


def seriate(sets_Mn: Bools) -> Ints:
    """Order nodes so that those of a set are close together.

    Notes
    -----
    By the eigenvector of the second smallest eigenvalue of the Laplacian of how many sets two nodes share: where some
    order makes every set of a connected family an interval, this one does, unless nodes tie in it (Atkins, Boman and
    Hendrickson, SIAM J. Comput. 28, 1998).
    """
    member = sets_Mn.astype(np.float64)
    shared = member.T @ member
    _, vectors = np.linalg.eigh(np.diag(shared.sum(axis=1)) - shared)
    position = vectors[:, min(1, len(shared) - 1)]
    return np.argsort(position, kind="stable")
