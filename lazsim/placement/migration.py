"""From what nodes hold to what a plan wants of them.

Axes: L layers, E experts, H nodes at hand, N nodes of the plan.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lazsim.placement.plan import Bools, Ints

Floats = npt.NDArray[np.float64]


def num_missing(has_LEH: Bools, wants_LEN: Bools) -> Ints:
    """Count the expert states that each node at hand would have to fetch to become each node of the plan.

    Returns
    -------
    ndarray of int64, shape (H, N)
    """
    has = has_LEH.reshape(-1, has_LEH.shape[2]).astype(np.float32)
    wants = wants_LEN.reshape(-1, wants_LEN.shape[2]).astype(np.float32)
    # float32 counts exactly up to 2**24, far above layers times experts.
    kept = (has.T @ wants).astype(np.int64)
    total: Ints = wants.sum(axis=0).astype(np.int64)
    return total - kept


def map_greedily(missing_HN: Ints) -> Ints:
    """Bind nodes at hand to nodes of a plan, each time the pair with the fewest states to fetch.

    Parameters
    ----------
    missing_HN
        States to fetch for each pair, shape (H, N) with ``H >= N``.

    Returns
    -------
    ndarray of int64, shape (N,)
        The node at hand that becomes each node of the plan.

    Notes
    -----
    The greedy rule of Lazarus (arXiv 2407.04656); equal pairs by the order of the nodes at hand, then of the plan.

    Examples
    --------
    >>> map_greedily(np.array([[2, 0], [1, 3], [0, 1]])).tolist()
    [2, 0]
    """
    num_hand, num_plan = missing_HN.shape
    assert num_hand >= num_plan, "as many nodes at hand as the plan has"
    bound = [-1] * num_plan
    free = [True] * num_hand
    left = num_plan
    pairs = np.divmod(np.argsort(missing_HN, axis=None, kind="stable"), num_plan)
    for hand, plan in zip(*map(np.ndarray.tolist, pairs), strict=True):
        if free[hand] and bound[plan] < 0:
            bound[plan] = hand
            free[hand] = False
            left -= 1
            if not left:
                break
    return np.array(bound, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Migration:
    """What moves so that nodes hold what a plan wants.

    Attributes
    ----------
    bytes_NN : ndarray of float64, shape (N, N)
        Bytes that each node sends to each other.
    num_states : int
        Expert states fetched.
    """

    bytes_NN: Floats
    num_states: int


def migrate(has_LEN: Bools, wants_LEN: Bools, state_bytes: float, has_dense_N: Bools, dense_bytes: float) -> Migration:
    """Fetch each missing expert state, and the dense state where a node lacks it, from the nodes that have it.

    Parameters
    ----------
    has_LEN, wants_LEN
        What each node holds and what the plan wants of it, shape (L, E, N).
    state_bytes
        Training state of one expert of one layer.
    has_dense_N
        Which nodes hold the training state outside the experts, shape (N,).
    dense_bytes
        Size of that state.

    Notes
    -----
    All owners of a state share the sending of it evenly (system of Lazarus, arXiv 2407.04656).

    Raises
    ------
    AssertionError
        When a state that is wanted is on no node: the caller must have restarted from a checkpoint.
    """
    num_nodes = has_LEN.shape[2]
    has = has_LEN.reshape(-1, num_nodes)
    missing = wants_LEN.reshape(-1, num_nodes) & ~has
    # Most plans move the states of few experts.
    moving = missing.any(axis=1)
    has, missing = has[moving], missing[moving]
    owners = has.sum(axis=1, dtype=np.float32)
    assert owners.all(), "every wanted expert has an owner"
    # In float32, which is fast at scale: a millionth of a transfer is nothing.
    parts = has.astype(np.float32)
    parts /= owners[:, None]
    bytes_NN = (parts.T @ missing.astype(np.float32)) * np.float64(state_bytes)
    if not has_dense_N.all():
        assert has_dense_N.any(), "some node holds the dense state"
        bytes_NN += np.outer(has_dense_N / has_dense_N.sum(), ~has_dense_N) * dense_bytes
    return Migration(bytes_NN, int(missing.sum()))
