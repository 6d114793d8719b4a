"""Plan experts for serving through the interface of DeepSeek's balancer, which vLLM and SGLang call.

Axes: L layers, E logical experts, P physical experts (slots of all GPUs), X most replicas of an expert, N nodes.
"""

import operator
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from lazsim.errors import InfeasiblePlanError, RoutingFormatError, SpecError
from lazsim.loads import MAX_TOKENS
from lazsim.placement.balanced import replicate_evenly
from lazsim.placement.gpus import pack_gpus
from lazsim.placement.plan import Bools, Ints, PlacementPlan
from lazsim.placement.policies import place
from lazsim.placement.request import PlacementRequest

FINEST = 2**32
"""Resolution of loads that are not counts: the heaviest load of a layer becomes this integer."""


def rebalance_experts(
    weight: Any,
    num_replicas: int,
    num_groups: int,  # noqa: ARG001
    num_nodes: int,
    num_gpus: int,
    *,
    policy: str = "balanced",
    fault_threshold: int = 1,
    live_nodes: Any = None,
) -> tuple[Any, Any, Any]:
    """Assign experts to the slots of all GPUs.

    Parameters
    ----------
    weight : array or torch tensor of shape (L, E)
        Load of each expert. A layer without load counts as evenly loaded.
    num_replicas
        Slots of one layer on all GPUs, a multiple of `num_gpus`, those of dead nodes included.
    num_groups
        Groups of experts in group-limited routing. Accepted for the interface only: no policy keeps the experts of a
        group together, so such routing may cross more nodes than with DeepSeek's balancer.
    num_nodes, num_gpus
        Nodes, and GPUs of all nodes together, a multiple of `num_nodes`. GPUs of node 0 come first.
    policy
        A name for `lazsim.placement.policies.find_policy`.
    fault_threshold
        Fewest replicas of each expert; ``balanced`` and ``euclid`` put them on distinct nodes, so that the failure of
        fewer nodes loses no expert. Where slots or live nodes do not suffice, the largest number that fits. It costs
        balance: slots that keep light experts safe are lost to the heavy ones. Policies that allocate by themselves
        (``eplb``, ``ep``) ignore it.
    live_nodes : array, sequence or torch tensor of bool, shape (N,), optional
        Nodes to use; all by default.

    Returns
    -------
    physical_to_logical : of int64, shape (L, P)
        Expert in each slot, GPU by GPU; -1 in slots of dead nodes, and where a policy leaves a slot empty.
    logical_to_physical : of int64, shape (L, E, X)
        Slots of each expert, ascending, padded with -1.
    logical_count : of int64, shape (L, E)
        Replicas of each expert, at least one.

        All three are tensors on the device of `weight` if that is one, else arrays.

    Raises
    ------
    RoutingFormatError
        When a weight is negative or no finite number, or weights are no matrix.
    SpecError
        When numbers are not whole or do not divide one another, the mask does not fit, or there is no such policy.
    InfeasiblePlanError
        When the live nodes have fewer slots than there are experts.

    Notes
    -----
    Signature and result are those of ``rebalance_experts`` of EPLB (github.com/deepseek-ai/EPLB); the arguments after
    ``*`` are added. Counts of tokens are used as they are, up to `lazsim.loads.MAX_TOKENS` of a layer; other weights
    are rounded to 2**-32 of the heaviest weight of their layer.

    Examples
    --------
    >>> physical, slots, count = rebalance_experts([[60, 30, 10]], 4, 1, 2, 2)
    >>> physical.tolist(), slots.tolist(), count.tolist()
    ([[0, 1, 0, 2]], [[[0, 2], [1, -1], [3, -1]]], [[2, 1, 1]])
    """
    load_LE = _integer_loads(_as_array(weight))
    num_replicas, num_nodes = _whole("num_replicas", num_replicas), _whole("num_nodes", num_nodes)
    num_gpus, fault_threshold = _whole("num_gpus", num_gpus), _whole("fault_threshold", fault_threshold)
    _require_multiple("num_gpus", num_gpus, "num_nodes", num_nodes)
    _require_multiple("num_replicas", num_replicas, "num_gpus", num_gpus)
    if fault_threshold < 1:
        raise SpecError(f"fault_threshold: expected 1 or more, found {fault_threshold}")
    live_N = _live(live_nodes, num_nodes)
    slots_LP = _fill(load_LE, num_replicas // num_nodes, num_gpus // num_nodes, live_N, policy, fault_threshold)
    return _like(weight, slots_LP, *_invert(slots_LP, load_LE.shape[1]))


def _fill(load_LE: Ints, num_slots: int, gpus_per_node: int, live_N: Bools, policy: str, fault_threshold: int) -> Ints:
    """Return the expert in each slot of all nodes, shape (L, P); -1 on dead ones."""
    num_live = int(live_N.sum())
    # A threshold above the number of nodes cannot be met.
    replicas_LE = replicate_evenly(load_LE, num_live * num_slots, min(fault_threshold, num_live))
    request = PlacementRequest(replicas_LE, num_live, num_slots, gpus_per_node, load_LE)
    plan = place(policy, request)
    if plan.slots_LNS.shape[2] < num_slots:
        empty = np.full((*plan.slots_LNS.shape[:2], num_slots - plan.slots_LNS.shape[2]), -1)
        plan = PlacementPlan(np.concatenate([plan.slots_LNS, empty], axis=2), plan.num_experts)
    slots = np.full((len(load_LE), len(live_N), num_slots), -1, dtype=np.int64)
    slots[:, live_N] = pack_gpus(plan, load_LE, gpus_per_node).reshape(len(load_LE), num_live, num_slots)
    return slots.reshape(len(load_LE), -1)


def _invert(slots_LP: Ints, num_experts: int) -> tuple[Ints, Ints]:
    """Return the slots of each expert, shape (L, E, X), and their number, shape (L, E)."""
    num_layers = len(slots_LP)
    layer, slot = (slots_LP >= 0).nonzero()
    expert = layer * num_experts + slots_LP[layer, slot]
    count = np.bincount(expert, minlength=num_layers * num_experts)
    order = np.argsort(expert, kind="stable")
    found = np.full((len(count), count.max()), -1, dtype=np.int64)
    found[np.arange(found.shape[1]) < count[:, None]] = slot[order]
    return found.reshape(num_layers, num_experts, -1), count.astype(np.int64).reshape(num_layers, num_experts)


def _as_array(value: Any) -> npt.NDArray[Any]:
    """Convert rows or a tensor on any device to an array."""
    if not _is_tensor(value):
        try:
            return np.asarray(value)
        except ValueError as error:
            raise RoutingFormatError(f"expected rows of equal length: {error}") from error
    value = value.detach().cpu()
    # numpy has no bfloat16.
    array: npt.NDArray[Any] = (value.double() if value.is_floating_point() else value).numpy()
    return array


def _like(value: Any, *arrays: Ints) -> tuple[Any, ...]:
    """Return the arrays, as tensors on the device of `value` if that is a tensor."""
    if not _is_tensor(value):
        return arrays
    torch = sys.modules["torch"]
    return tuple(torch.from_numpy(array).to(value.device) for array in arrays)


def _is_tensor(value: object) -> bool:
    """Return whether a value is a tensor, without importing torch."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(value, tensor)


def _integer_loads(weight: npt.NDArray[Any]) -> Ints:
    """Turn weights into integers, shape (L, E); see the notes of `rebalance_experts`."""
    if weight.ndim != 2 or not weight.size or weight.dtype.kind not in "biuf":
        found = f"{weight.dtype} of shape {weight.shape}"
        raise RoutingFormatError(f"weight: expected numbers of shape (layers, experts), found {found}")
    weight_LE = weight.astype(np.float64)
    for layer, expert in np.argwhere(~(np.isfinite(weight_LE) & (weight_LE >= 0)))[:1]:
        raise RoutingFormatError(
            f"weight of expert {expert} in layer {layer} is {weight[layer, expert]}; expected a finite number from 0 up"
        )
    if weight_LE.sum(axis=1).max() <= MAX_TOKENS and (weight_LE == np.rint(weight_LE)).all():
        return weight_LE.astype(np.int64)
    heaviest_L = weight_LE.max(axis=1, keepdims=True)
    return np.rint(weight_LE / np.where(heaviest_L > 0, heaviest_L, 1.0) * FINEST).astype(np.int64)


def _live(live_nodes: Any, num_nodes: int) -> Bools:
    if live_nodes is None:
        return np.ones(num_nodes, dtype=np.bool_)
    mask = _as_array(live_nodes)
    if mask.shape != (num_nodes,) or mask.dtype != np.bool_:
        found = f"{mask.dtype} of shape {mask.shape}"
        raise SpecError(f"live_nodes: expected a mask of {num_nodes} booleans, one for each node, found {found}")
    if not mask.any():
        raise InfeasiblePlanError("live_nodes: no node is alive")
    return mask


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise SpecError(f"{name}: expected a whole number, found {value!r}") from None


def _require_multiple(name: str, value: int, of_name: str, of: int) -> None:
    if of < 1 or value < 1 or value % of:
        raise SpecError(f"{name}: expected a multiple of {of_name}, which is {of}, found {value}")
