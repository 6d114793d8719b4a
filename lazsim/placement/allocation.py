"""Allocate replicas to experts. Axes: L layers, E experts."""

import numpy as np

from lazsim.errors import InfeasiblePlanError
from lazsim.loads import check_loads, check_whole
from lazsim.placement.plan import Ints


def allocate(load_LE: Ints, num_slots: int, fault_threshold: int) -> Ints:
    """Give each expert replicas in proportion to its load, but at least `fault_threshold`; see `prepare_loads`.

    Parameters
    ----------
    load_LE
        Tokens routed to each expert, integers from 0 up, shape (L, E).
    num_slots
        Replica slots of one layer on all nodes, ``N * c``.
    fault_threshold
        ``f``; where ``E * f`` replicas do not fit, the largest threshold that fits.

    Returns
    -------
    ndarray of int64, shape (L, E)
        Replicas. Those of a layer add up to `num_slots` and ascend with load; equal loads by index.

    Raises
    ------
    InfeasiblePlanError
        When there are fewer slots than experts.
    SpecError
        When loads are refused by `lazsim.loads.check_loads`, or a number is no whole one from 1 up.

    Notes
    -----
    Lazarus (arXiv 2407.04656), section 4: walk from the lightest expert up and give expert ``e``
    ``max(floor(t[e] / sum(t[e:]) * slots left), f)``. Integer division loses no replica to rounding. A layer without
    tokens counts as evenly loaded.

    Examples
    --------
    >>> allocate(np.array([[10, 30, 60]]), num_slots=10, fault_threshold=1).tolist()
    [[1, 3, 6]]
    """
    num_slots = check_whole("num_slots", num_slots)
    load_LE = prepare_loads(load_LE, num_slots)
    num_layers, num_experts = load_LE.shape
    threshold = max(1, min(check_whole("fault_threshold", fault_threshold), num_slots // num_experts))
    order = np.argsort(load_LE, axis=1, kind="stable")
    layer = np.arange(num_layers)[:, None]
    ascending = np.ascontiguousarray(load_LE[layer, order].T)
    rest = ascending[::-1].cumsum(axis=0)[::-1]
    replicas = np.empty((num_experts, num_layers), dtype=np.int64)
    left = np.full(num_layers, num_slots)
    for load, total, chosen in zip(ascending, rest, replicas, strict=True):
        chosen[:] = np.maximum(load * left // total, threshold)
        left -= chosen
    allocated = np.empty((num_layers, num_experts), dtype=np.int64)
    allocated[layer, order] = replicas.T
    return allocated


def prepare_loads(load_LE: Ints, num_slots: int) -> Ints:
    """Check the loads of an allocation, and give the experts of a layer without tokens one token each.

    An `InfeasiblePlanError` says that a layer has more experts than slots, and errors of `lazsim.loads.check_loads`
    what is wrong with loads.
    """
    load_LE = check_loads(load_LE, num_slots)
    num_experts = load_LE.shape[1]
    if num_experts > num_slots:
        raise InfeasiblePlanError(f"{num_experts} experts need as many slots, but the nodes have {num_slots}")
    filled_LE: Ints = load_LE + (load_LE.sum(axis=1, keepdims=True) == 0)
    return filled_LE
