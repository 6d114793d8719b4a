"""Plan experts for serving through the interface of DeepSeek's balancer, which vLLM and SGLang call.

Axes: L layers, E logical experts, P physical experts (slots of all GPUs), X most replicas of an expert, N nodes, G GPUs
used, K slots of a GPU.
"""

import logging
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lazsim.errors import InfeasiblePlanError, SpecError
from lazsim.loads import MAX_TOKENS, as_array, check_amount, check_whole, is_tensor
from lazsim.placement.allocation import prepare_loads
from lazsim.placement.balanced import most_distinct, place_on_uneven
from lazsim.placement.eplb import place_groups, replicate_greedily
from lazsim.placement.gpus import pack_gpus
from lazsim.placement.local_search import Rules
from lazsim.placement.plan import Bools, Floats, Ints
from lazsim.placement.policies import place
from lazsim.placement.request import PlacementRequest
from lazsim.placement.steady import MOVE_COST, PlanChange, even_out, keep_steady, tell_change

log = logging.getLogger(__name__)

FINEST_BITS = 32
"""Bits of the heaviest load of a layer where loads are not counts."""


def rebalance_experts(
    weight: Any,
    num_replicas: int,
    num_groups: int | None,
    num_nodes: int,
    num_gpus: int | Sequence[int] | None = None,
    old_global_expert_indices: Any = None,
    active_ranks: Any = None,
    *,
    num_ranks: int | None = None,
    enable_hierarchical: bool | None = None,
    policy: str | None = None,
    fault_threshold: int = 1,
    live_nodes: Any = None,
    move_cost: float = MOVE_COST,
) -> tuple[Any, Any, Any]:
    """Assign experts to the slots of all GPUs.

    Parameters
    ----------
    weight : array or torch tensor of shape (L, E)
        Load of each expert. A layer without load counts as evenly loaded.
    num_replicas
        Slots of one layer on all GPUs, a multiple of `num_gpus`, those of GPUs that are not used included.
    num_groups
        Groups of experts in group-limited routing, or None. Where it is a multiple of `num_nodes`, each group is kept
        on one node; see `enable_hierarchical`.
    num_nodes, num_gpus
        Nodes, and GPUs of all nodes together, a multiple of `num_nodes`. GPUs of node 0 come first. Where nodes have
        different numbers of GPUs: a sequence of these, one for each node.
    old_global_expert_indices : of int, shape (L, P), optional
        Expert in each slot now, -1 where it is empty. Then replicas move only as far as the gain is worth it; see
        `move_cost`. It may be of another number of GPUs with as many slots each, of which the first are compared.
    active_ranks : of bool or of 0 and 1, shape (G,), optional
        GPUs to use; all by default.
    num_ranks
        Another name of `num_gpus`, which vLLM uses.
    enable_hierarchical
        Whether to keep each group on one node. By default, where `num_groups` is a multiple of `num_nodes`, the policy
        is the default or ``eplb``, and `fault_threshold` is 1. Groups are split where whole ones do not fit on the
        nodes that are left.
    policy
        A name for `lazsim.placement.policies.find_policy`. By default ``eplb`` where groups are kept on one node, and
        ``balanced`` elsewhere.
    fault_threshold
        Fewest replicas of each expert; ``balanced`` and ``euclid`` put them on distinct nodes, so that the failure of
        fewer nodes loses no expert. Where slots or live nodes do not suffice, the largest number that fits. It costs
        balance: slots that keep light experts safe are lost to the heavy ones. Policies that allocate by themselves
        (``eplb``, ``ep``) ignore it.
    live_nodes : array, sequence or torch tensor of bool, shape (N,), optional
        Nodes to use; all by default.
    move_cost
        See `lazsim.placement.steady.keep_steady`; larger numbers move less, and 0 moves for any gain.

    Returns
    -------
    physical_to_logical : of int64, shape (L, P)
        Expert in each slot, GPU by GPU; -1 in slots of GPUs that are not used, and where a policy leaves a slot empty.
    logical_to_physical : of int64, shape (L, E, X)
        Slots of each expert, ascending, padded with -1.
    logical_count : of int64, shape (L, E)
        Replicas of each expert, at least one.

        All three are tensors on the device of `weight` if that is one, else arrays.

    Raises
    ------
    SpecError
        When a weight is negative or no finite number, weights are no matrix, numbers are not whole or do not divide one
        another, a mask or the old placement does not fit, there is no such policy, or arguments exclude each other.
    InfeasiblePlanError
        When the GPUs used have fewer slots than there are experts, or the policy does not plan for such nodes.

    Warns
    -----
    UserWarning
        When the experts of a group may come to be on several nodes, unless `enable_hierarchical` is False.

    Notes
    -----
    The first five arguments and the result are those of ``rebalance_experts`` of EPLB (github.com/deepseek-ai/EPLB).
    vLLM gives the old placement as the sixth, and SGLang gives `enable_hierarchical`, by name or as the sixth, and
    `active_ranks`. The other arguments are added. `lazsim.placement.adapters` returns what these stacks expect.

    Counts of tokens are used as they are, up to `lazsim.loads.MAX_TOKENS` of a layer; other weights are rounded to
    2**-31 of the heaviest weight of their layer. The change from an old placement is logged at level INFO.

    A second replica on a GPU takes no load off it. So an expert gets at most as many replicas as there are GPUs, where
    a GPU has no more slots than there are experts, and ``balanced`` puts all of them on different ones. Where groups
    are kept, it gets at most as many as its node has GPUs, unless the busiest GPU of EPLB's own plan has less load.
    What an old placement has twice on a GPU may stay.

    Examples
    --------
    >>> physical, slots, count = rebalance_experts([[60, 30, 10]], 4, 1, 2, 2)
    >>> physical.tolist(), slots.tolist(), count.tolist()
    ([[0, 1, 0, 2]], [[[0, 2], [1, -1], [3, -1]]], [[2, 1, 1]])
    """
    if isinstance(old_global_expert_indices, bool):
        enable_hierarchical, old_global_expert_indices = old_global_expert_indices, None
    load_LE = _integer_loads(weight)
    num_replicas, num_nodes = check_whole("num_replicas", num_replicas), check_whole("num_nodes", num_nodes)
    load_LE = prepare_loads(load_LE, num_replicas)
    gpus_N = _gpus_of_nodes(num_replicas, num_nodes, num_gpus, num_ranks)
    gpus = _Gpus(gpus_N, num_replicas // int(gpus_N.sum()), _live(gpus_N, live_nodes, active_ranks))
    fault_threshold = check_whole("fault_threshold", fault_threshold)
    move_cost = check_amount("move_cost", move_cost)
    num_experts = load_LE.shape[1]
    old = old_global_expert_indices
    held_LGK = None if old is None else gpus.slots(_placement("old_global_expert_indices", old, load_LE.shape))
    kept_groups = _kept_groups(num_groups, num_nodes, num_experts, enable_hierarchical, policy, fault_threshold)
    slots_LGK, rules = _fill(load_LE, gpus, policy or "balanced", fault_threshold, kept_groups)
    if held_LGK is not None:
        slots_LGK = keep_steady(held_LGK, slots_LGK, load_LE, rules, move_cost)
        if log.isEnabledFor(logging.INFO):
            log.info("%s", tell_change(held_LGK, slots_LGK, load_LE))
    slots_LP = gpus.physical(slots_LGK)
    return _like(weight, slots_LP, *_invert(slots_LP, num_experts))


def placement_change(
    old_placement: Any, new_placement: Any, weight: Any, num_gpus: int, expert_bytes: float = 0.0
) -> PlanChange:
    """Tell what a change of placement moves and gains; an error says that arguments do not fit together.

    Parameters
    ----------
    old_placement, new_placement : of int, shape (L, P)
        Expert in each slot, -1 where it is empty, as `rebalance_experts` returns it.
    weight, num_gpus
        As for `rebalance_experts`.
    expert_bytes
        Size of the weights of an expert of one layer.

    Raises
    ------
    SpecError
        When arguments do not fit together.

    Examples
    --------
    >>> change = placement_change([[0, 1]], [[0, 0]], [[40, 0]], 2, expert_bytes=10.0)
    >>> change.num_moved, change.moved_bytes, change.busiest_before, change.busiest_after
    (1, 10.0, 2.0, 1.0)
    """
    load_LE = _integer_loads(weight)
    old, new = (
        _placement(name, value, load_LE.shape)
        for name, value in (("old_placement", old_placement), ("new_placement", new_placement))
    )
    gpus_N = _gpus_of_nodes(new.shape[1], 1, num_gpus, None)
    gpus = _Gpus(gpus_N, new.shape[1] // int(gpus_N[0]), np.ones(int(gpus_N[0]), dtype=np.bool_))
    return tell_change(gpus.slots(old), gpus.slots(new), load_LE, check_amount("expert_bytes", expert_bytes))


@dataclass(frozen=True, eq=False)
class _Gpus:
    """GPUs of each node, shape (N,), slots of a GPU, and which GPUs are used, shape (all GPUs,)."""

    gpus_N: Ints
    slots_per_gpu: int
    live: Bools

    @property
    def node_G(self) -> Ints:
        """Node of each GPU used; nodes that have one are counted from 0."""
        node = np.arange(len(self.gpus_N)).repeat(self.gpus_N)[self.live]
        return np.unique(node, return_inverse=True)[1].reshape(-1)

    def slots(self, placement_LP: Ints) -> Ints:
        """Return the expert in each slot of the GPUs used, shape (L, G, K), of a placement on fewer or more GPUs."""
        num_layers, per_gpu = len(placement_LP), self.slots_per_gpu
        _require_multiple("slots of the old placement", placement_LP.shape[1], "slots of a GPU", per_gpu)
        slots = np.full((num_layers, len(self.live), per_gpu), -1, dtype=np.int64)
        given = placement_LP.reshape(num_layers, -1, per_gpu)[:, : len(self.live)]
        slots[:, : given.shape[1]] = given
        return slots[:, self.live]

    def physical(self, slots_LGK: Ints) -> Ints:
        """Return the expert in each slot of all GPUs, shape (L, P); -1 on those that are not used."""
        slots = np.full((len(slots_LGK), len(self.live), self.slots_per_gpu), -1, dtype=np.int64)
        slots[:, self.live] = slots_LGK
        return slots.reshape(len(slots_LGK), -1)


def _fill(load_LE: Ints, gpus: _Gpus, policy: str, fault_threshold: int, num_groups: int) -> tuple[Ints, Rules]:
    """Return the expert in each slot of the GPUs used, shape (L, G, K), and the rules that changes of it must keep."""
    num_experts, node_G = load_LE.shape[1], gpus.node_G
    gpus_N = np.bincount(node_G)
    slots_N, most_gpus = gpus_N * gpus.slots_per_gpu, int(gpus_N.max())
    # A threshold above the nodes that an expert can be on cannot be met.
    fault_threshold = min(fault_threshold, max(1, most_distinct(num_experts, slots_N)))
    # A second replica on a GPU takes no load off it.
    replicas_LE = replicate_greedily(load_LE, int(slots_N.sum()), fault_threshold, len(node_G))
    plan, is_uneven = None, (gpus_N != most_gpus).any()
    if num_groups > 1:
        try:
            plan = own = place_groups(load_LE, num_groups, slots_N, gpus_N)
            if (own.replicas_LEN > gpus_N).any():
                plan = place_groups(load_LE, num_groups, slots_N, gpus_N, apart=True)
        except InfeasiblePlanError as error:
            _warn_of_split_groups(str(error))
            num_groups = 1
    if plan is None and is_uneven:
        if policy != "balanced":
            counts = ", ".join(map(str, gpus_N))
            raise InfeasiblePlanError(f"policy {policy!r} plans for nodes of equal size, but they have {counts} GPUs")
        plan = place_on_uneven(replicas_LE, load_LE, slots_N, [fault_threshold])
    elif plan is None:
        plan = own = place(policy, PlacementRequest(replicas_LE, len(gpus_N), int(slots_N[0]), most_gpus, load_LE))
    plan = plan.with_slots(int(slots_N.max()))
    is_used = np.arange(most_gpus) < gpus_N[:, None]
    slots_LGK = pack_gpus(plan, load_LE, most_gpus, gpus_N)[:, is_used]
    if num_groups > 1 or policy == "eplb":
        # It costs balance to keep replicas of an expert apart. EPLB's own GPUs stay where they have one slot each and,
        # of groups, where their busiest has less load.
        filled = [(own.slots_LNS[:, node, :num], gpus_N[node]) for node, num in enumerate(slots_N)]
        own_LGK = np.concatenate([one.reshape(len(one), -1, num).swapaxes(1, 2) for one, num in filled], axis=1)
        own_L = _busiest(load_LE / own.replicas_LE, own_LGK)
        packed_L = _busiest(load_LE / plan.replicas_LE, slots_LGK)
        keeps_L = (own_L < packed_L) & (num_groups > 1) | (gpus.slots_per_gpu == 1)
        slots_LGK[keeps_L] = own_LGK[keeps_L]
    rules = Rules(node_G, min(fault_threshold, plan.fewest_nodes), num_groups)
    if is_uneven and num_groups == 1:
        slots_LGK = even_out(slots_LGK, load_LE, rules)
    return slots_LGK, rules


def _busiest(share_LE: Floats, slots_LGK: Ints) -> Floats:
    """Return the load of the busiest GPU of each layer, of replicas that have these loads."""
    share_LP = np.take_along_axis(share_LE, slots_LGK.reshape(len(slots_LGK), -1), axis=1)
    load_L: Floats = share_LP.reshape(slots_LGK.shape).sum(axis=2).max(axis=1)
    return load_L


def _kept_groups(
    num_groups: int | None,
    num_nodes: int,
    num_experts: int,
    enable_hierarchical: bool | None,
    policy: str | None,
    fault_threshold: int,
) -> int:
    """Return the number of groups of which each is to be kept on one node; 1 for none."""
    if enable_hierarchical not in (None, True, False):
        raise SpecError(f"`enable_hierarchical`: expected True, False or None, found {enable_hierarchical!r}")
    if num_groups is None:
        if enable_hierarchical:
            raise SpecError("`num_groups`: expected a number of groups with `enable_hierarchical`, found None")
        return 1
    num_groups = check_whole("num_groups", num_groups)
    if enable_hierarchical is not None and not enable_hierarchical:
        return 1
    obstacle = ""
    if num_groups % num_nodes:
        obstacle = f"{num_groups} groups are no multiple of {num_nodes} nodes"
    elif num_experts % num_groups:
        raise SpecError(f"`num_groups`: expected a number that divides the {num_experts} experts, found {num_groups}")
    elif policy not in (None, "eplb"):
        obstacle = f"policy {policy!r} does not keep them together"
    elif fault_threshold > 1:
        obstacle = f"`fault_threshold` {fault_threshold} puts an expert on several nodes"
    if num_nodes == 1 or not obstacle:
        return num_groups if num_nodes > 1 else 1
    if enable_hierarchical:
        raise SpecError(f"`enable_hierarchical`: {obstacle}")
    if num_groups > 1:
        _warn_of_split_groups(obstacle)
    return 1


def _warn_of_split_groups(why: str) -> None:
    warnings.warn(f"`num_groups`: experts of a group may be on several nodes: {why}", stacklevel=4)


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


def _like(value: Any, *arrays: Ints) -> tuple[Any, ...]:
    """Return the arrays, as tensors on the device of `value` if that is a tensor."""
    if not is_tensor(value):
        return arrays
    torch = sys.modules["torch"]
    return tuple(torch.from_numpy(array).to(value.device) for array in arrays)


def _integer_loads(value: Any) -> Ints:
    """Turn weights into integers, shape (L, E); see the notes of `rebalance_experts`."""
    weight = as_array("weight", value)
    if weight.ndim != 2 or not weight.size or weight.dtype.kind not in "biuf":
        found = f"{weight.dtype} of shape {weight.shape}"
        raise SpecError(f"`weight`: expected numbers of shape (layers, experts), found {found}")
    weight_LE = weight.astype(np.float64)
    for layer, expert in np.argwhere(~(np.isfinite(weight_LE) & (weight_LE >= 0)))[:1]:
        raise SpecError(
            f"`weight` of expert {expert} in layer {layer} is {weight[layer, expert]}; expected a number from 0 up"
        )
    if (weight_LE / MAX_TOKENS).sum(axis=1).max() <= 1 and (weight_LE == np.rint(weight_LE)).all():
        return weight_LE.astype(np.int64)
    # By a power of two, which keeps the ratios of weights.
    bits = min(FINEST_BITS, int(math.log2(MAX_TOKENS / weight_LE.shape[1])))
    _, exponent_L = np.frexp(weight_LE.max(axis=1, keepdims=True))
    load_LE: Ints = np.rint(np.ldexp(weight_LE, bits - exponent_L)).astype(np.int64)
    return load_LE


def _placement(name: str, value: Any, shape: tuple[int, ...]) -> Ints:
    """Check a placement of the layers and experts of a shape (L, E), and return it."""
    placement_LP = as_array(name, value)
    expected = f"integers from -1 to {shape[1] - 1} of shape ({shape[0]}, slots)"
    if placement_LP.ndim != 2 or len(placement_LP) != shape[0] or placement_LP.dtype.kind not in "iu":
        raise SpecError(f"`{name}`: expected {expected}, found {placement_LP.dtype} of shape {placement_LP.shape}")
    outside = placement_LP[(placement_LP < -1) | (placement_LP >= shape[1])]
    if len(outside):
        raise SpecError(f"`{name}`: expected {expected}, found {outside[0]}")
    return placement_LP.astype(np.int64)


def _gpus_of_nodes(
    num_replicas: int, num_nodes: int, num_gpus: int | Sequence[int] | None, num_ranks: int | None
) -> Ints:
    """Return the GPUs of each node, shape (N,), which share the replicas evenly."""
    if num_gpus is not None and num_ranks is not None:
        raise SpecError(
            f"`num_ranks`: expected this or `num_gpus`, which is the same, found {num_ranks} and {num_gpus}"
        )
    if isinstance(num_gpus, list | tuple | np.ndarray):
        gpus_N = np.array([check_whole("num_gpus", count) for count in num_gpus], dtype=np.int64)
        if len(gpus_N) != num_nodes:
            raise SpecError(f"`num_gpus`: expected a number from 1 up for each of {num_nodes} nodes, found {num_gpus}")
        _require_multiple("`num_replicas`", num_replicas, "`num_gpus`", int(gpus_N.sum()))
        return gpus_N
    name, number = ("num_gpus", num_gpus) if num_ranks is None else ("num_ranks", num_ranks)
    number = check_whole(name, number)
    _require_multiple(f"`{name}`", number, "`num_nodes`", num_nodes)
    _require_multiple("`num_replicas`", num_replicas, f"`{name}`", number)
    return np.full(num_nodes, number // num_nodes)


def _live(gpus_N: Ints, live_nodes: Any, active_ranks: Any) -> Bools:
    """Return which GPUs are used, shape (all GPUs,)."""
    live = np.ones(int(gpus_N.sum()), dtype=np.bool_)
    if live_nodes is not None:
        mask = as_array("live_nodes", live_nodes)
        if mask.shape != gpus_N.shape or mask.dtype != np.bool_:
            found = f"{mask.dtype} of shape {mask.shape}"
            raise SpecError(
                f"`live_nodes`: expected a mask of {len(gpus_N)} booleans, one for each node, found {found}"
            )
        live &= mask.repeat(gpus_N)
    if active_ranks is not None:
        mask = as_array("active_ranks", active_ranks)
        if mask.shape != live.shape or mask.dtype.kind not in "biu" or not np.isin(mask, (0, 1)).all():
            found = f"{mask.dtype} of shape {mask.shape}"
            raise SpecError(f"`active_ranks`: expected 0 or 1 for each of {len(live)} GPUs, found {found}")
        live &= mask.astype(np.bool_)
    if not live.any():
        masks = {"`live_nodes`": live_nodes, "`active_ranks`": active_ranks}
        names = " and ".join(name for name, mask in masks.items() if mask is not None)
        raise InfeasiblePlanError(f"{names}: no {'node' if active_ranks is None else 'GPU'} is alive")
    return live


def _require_multiple(name: str, value: int, of_name: str, of: int) -> None:
    if of < 1 or value < 1 or value % of:
        raise SpecError(f"{name}: expected a multiple of {of_name}, which is {of}, found {value}")
