"""Change a plan only as far as the gain is worth the moves.

Axes: L layers, E experts and a last row for empty slots, G GPUs, K slots of a GPU, N nodes, C candidate changes.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lazsim.blocks import row_blocks
from lazsim.errors import SpecError
from lazsim.placement.plan import Bools, Floats, Ints, PlacementPlan

MOVE_COST = 0.1
"""What moving every replica of a layer must gain: the busiest GPU's load, as a share of the mean. An assumption.

Fetching all 9 slots of a GPU takes 8 ms a layer for DeepSeek-V3 (44 MB an expert in 8 bits, 48 GB/s between nodes).
With 0.3 ms of expert computation in a layer's step and 1,000 steps until the next plan, that is a share of 0.03.
Fetching also slows other work down.
"""

PATIENCE = 8
"""Changes in a row without a better plan after which the search ends: a gain takes two where two GPUs are busiest."""


NUM_PARTNERS = 4
"""Lightest GPUs that are tried first as partners of the busiest one: the work of a change hardly grows with GPUs."""

ROUNDING = 1e-12
"""Smallest relative gain, far above the rounding of sums of loads."""


@dataclass(frozen=True, eq=False)
class Rules:
    """What every changed plan must keep."""

    node_G: Ints
    """Node of each GPU."""
    fewest_nodes: int = 1
    """Distinct nodes of each expert, at least."""
    num_groups: int = 1
    """Groups of experts, each on one node; 1 where they need not be kept together."""


@dataclass(frozen=True)
class PlanChange:
    """What a change of plan moves and gains."""

    num_moved: int
    num_slots: int
    """Replicas that a GPU has now and had not, in all layers, and all slots."""
    moved_bytes: float
    """Size of the replicas moved."""
    busiest_before: float
    busiest_after: float
    """Load of the busiest GPU over the mean of all, averaged over layers; before, infinite where an expert has no
    replica."""

    def __str__(self) -> str:
        """Tell it in a line."""
        gain = f"busiest GPU {self.busiest_before:.3f} -> {self.busiest_after:.3f} of the mean"
        return f"{self.num_moved:,} of {self.num_slots:,} replicas moved; {gain}"


def gpu_slots(plan: PlacementPlan, gpus_per_node: int) -> Ints:
    """Return the slots of a plan by GPU, shape (L, G, K); slot ``s`` of a node belongs to GPU ``s % gpus_per_node``."""
    num_layers, num_nodes, _ = plan.slots_LNS.shape
    by_gpu = plan.slots_LNS.reshape(num_layers, num_nodes, -1, gpus_per_node).swapaxes(2, 3)
    return by_gpu.reshape(num_layers, num_nodes * gpus_per_node, -1)


def node_slots(slots_LGK: Ints, num_experts: int, gpus_per_node: int) -> PlacementPlan:
    """Undo `gpu_slots`."""
    num_layers, num_gpus, per_gpu = slots_LGK.shape
    by_node = slots_LGK.reshape(num_layers, num_gpus // gpus_per_node, gpus_per_node, per_gpu).swapaxes(2, 3)
    return PlacementPlan(by_node.reshape(num_layers, num_gpus // gpus_per_node, -1), num_experts)


def tell_change(held_LGK: Ints, slots_LGK: Ints, load_LE: Ints, expert_bytes: float = 0.0) -> PlanChange:
    """Tell what a change from one plan to another moves and gains, with replicas of `expert_bytes`.

    Plans and loads are as for `keep_steady`.

    Examples
    --------
    The second GPU fetches expert 0 in place of expert 1. Loads of 45 and 25 become 30 and 40.

    >>> held, slots = np.array([[[0, 1], [1, 2]]]), np.array([[[0, 1], [0, 2]]])
    >>> print(tell_change(held, slots, np.array([[40, 10, 20]])))
    1 of 4 replicas moved; busiest GPU 1.286 -> 1.143 of the mean
    """
    rules = Rules(np.zeros(held_LGK.shape[1], dtype=np.int64))
    num_moved, before, after = 0, [], []
    for held, slots, load in zip(held_LGK, slots_LGK, load_LE, strict=True):
        layer = _Layer(held, load, rules)
        before.append(layer.busiest())
        layer.take(slots)
        after.append(layer.busiest())
        num_moved += layer.num_moved
    moved_bytes = num_moved * expert_bytes
    return PlanChange(num_moved, slots_LGK.size, moved_bytes, float(np.mean(before)), float(np.mean(after)))


def keep_steady(held_LGK: Ints, fresh_LGK: Ints, load_LE: Ints, rules: Rules, move_cost: float = MOVE_COST) -> Ints:
    """Change the plan that the GPUs hold, only as far as the gain is worth the moves.

    Parameters
    ----------
    held_LGK
        Expert in each slot of each GPU, -1 where it is empty.
    fresh_LGK
        A plan made afresh, which keeps the rules as far as possible.
    load_LE
        Tokens routed to each expert, shared evenly by its replicas, shape (L, E).
    rules
        What the plan must keep.
    move_cost
        See the notes; from 0 up.

    Returns
    -------
    ndarray of int64, shape (L, G, K)
        Expert in each slot; replicas that stay on a GPU keep their slots.

    Notes
    -----
    The cost of a layer's plan is the load of the busiest GPU over the mean of all GPUs, plus `move_cost` times the
    share of the layer's slots whose replica the GPU has to fetch. First the plan is repaired: an expert on too few
    nodes gets a replica, and so does an empty slot. Then one change after another is made that lowers the load of the
    busiest GPU: a replica is replaced, or two change places. The plan of least cost on the way is taken, or the fresh
    plan where its cost is less, laid onto nodes and GPUs such that most replicas stay.

    So the result never costs more than the repaired plan or the fresh one. Where nothing needs repair, the share of
    slots that move is at most the gain divided by `move_cost`. The busiest GPU has at most `move_cost` times the mean
    more than with the fresh plan.
    """
    laid_LGK = lay_on(fresh_LGK, held_LGK, rules.node_G)
    steady_LGK = np.empty_like(laid_LGK)
    for layer, (held, laid, load) in enumerate(zip(held_LGK, laid_LGK, load_LE, strict=True)):
        steady_LGK[layer] = _steady_layer(held, laid, load, rules, move_cost)
    return steady_LGK


def even_out(slots_LGK: Ints, load_LE: Ints, rules: Rules) -> Ints:
    """Lower the load of the busiest GPU by the changes of `keep_steady`, at no cost of moves."""
    layers = (_Layer(slots, load, rules) for slots, load in zip(slots_LGK, load_LE, strict=True))
    return np.array([layer.improved(0.0)[1] if layer.repair() else layer.slots_GK for layer in layers])


def check_move_cost(name: str, value: Any) -> float:
    """Return a cost of moves, or raise SpecError that names the argument when it is no finite number from 0 up."""
    try:
        fits = math.isfinite(value) and value >= 0
    except (TypeError, OverflowError):
        fits = False
    if not fits:
        raise SpecError(f"{name}: expected a finite number from 0 up, found {value!r}")
    return float(value)


def lay_on(fresh_LGK: Ints, held_LGK: Ints, node_G: Ints, *, together: bool = False) -> Ints:
    """Give the nodes of a plan, then the GPUs of each, to those that hold most of their replicas.

    Nodes take the place of others with as many GPUs, the same in all layers where they move `together`. Replicas that
    stay on a GPU keep their slots.
    """
    from scipy.optimize import linear_sum_assignment

    size_N = np.bincount(node_G)
    first_N = np.searchsorted(node_G, np.arange(len(size_N)))
    num_experts = int(max(fresh_LGK.max(), held_LGK.max())) + 1
    pairs = [[_counts(slots, num_experts)[:-1] for slots in layer] for layer in zip(fresh_LGK, held_LGK, strict=True)]
    stay_LNN = np.array([_overlap(*(np.add.reduceat(counts, first_N, axis=1) for counts in pair)) for pair in pairs])
    if together:
        stay_LNN[:] = stay_LNN.sum(axis=0)
    stay_LNN[:, size_N[:, None] != size_N] = -np.inf
    laid_LGK = np.empty_like(fresh_LGK)
    for layer, (fresh_EG, held_EG) in enumerate(pairs):
        for node, place in zip(*linear_sum_assignment(stay_LNN[layer], maximize=True), strict=True):
            gpus, places = (first_N[one] + np.arange(size_N[one]) for one in (node, place))
            chosen = linear_sum_assignment(_overlap(fresh_EG[:, gpus], held_EG[:, places]), maximize=True)[1]
            for gpu, at in zip(gpus, places[chosen], strict=True):
                laid_LGK[layer, at] = _in_place(fresh_LGK[layer, gpu], held_LGK[layer, at])
    return laid_LGK


def _counts(slots_GK: Ints, num_experts: int) -> Ints:
    """Count the replicas of each expert on each GPU, shape (E + 1, G); the last row counts empty slots."""
    num_gpus = len(slots_GK)
    row_GK = np.where(slots_GK < 0, num_experts, slots_GK)
    bins = row_GK * num_gpus + np.arange(num_gpus)[:, None]
    return np.bincount(bins.ravel(), minlength=(num_experts + 1) * num_gpus).reshape(-1, num_gpus)


def _overlap(fresh_EG: Ints, held_EG: Ints) -> Floats:
    """Count the replicas that stay where each column of one plan takes the place of each column of the other."""
    return np.array([np.minimum(column[:, None], held_EG).sum(axis=0) for column in fresh_EG.T], dtype=np.float64)


def _in_place(new_K: Ints, old_K: Ints) -> Ints:
    """Order the replicas of a GPU so that those that it held keep their slots."""
    left = new_K.tolist()
    slots = []
    for expert in old_K.tolist():
        stays = expert in left
        slots.append(expert if stays else None)
        if stays:
            left.remove(expert)
    return np.array([left.pop(0) if expert is None else expert for expert in slots], dtype=np.int64)


def _steady_layer(held_GK: Ints, laid_GK: Ints, load_E: Ints, rules: Rules, move_cost: float) -> Ints:
    if (held_GK < 0).all():
        return laid_GK
    fresh = _Layer(held_GK, load_E, rules)
    fresh.take(laid_GK)
    held = _Layer(held_GK, load_E, rules)
    if not held.repair():
        return laid_GK
    cost, slots_GK = held.improved(move_cost)
    if cost > fresh.cost(move_cost):
        return laid_GK
    # A replica may have left a GPU and come back.
    return np.array([_in_place(new_K, old_K) for new_K, old_K in zip(slots_GK, held_GK, strict=True)])


class _Changes(NamedTuple):
    """Candidate changes of a layer, each with what follows from it; arrays of shape (C,).

    `expert_C` replaces the expert of `slot_C`, which moves on to `other_C` where that is no -1. Then the busiest GPU
    has the load `busiest_C`, the loads have the sum of squares `squares_C`, and `moved_C` more replicas are fetched.
    """

    expert_C: Ints
    slot_C: Ints
    other_C: Ints
    busiest_C: Floats
    squares_C: Floats
    moved_C: Ints


class _Layer:
    """The plan of a layer while it is changed, and the replicas that GPUs held before."""

    def __init__(self, held_GK: Ints, load_E: Ints, rules: Rules) -> None:
        self.load_E: Floats = np.append(load_E if load_E.any() else load_E + 1, 0).astype(np.float64)
        self.mean = self.load_E.sum() / len(held_GK)
        self.rules = rules
        self.take(held_GK)
        self.held_EG = self.on_EG
        self.keeps_groups, self.may_EN = self._allowed()

    def take(self, slots_GK: Ints) -> None:
        """Take the expert of each slot, and count all anew."""
        self.slots_GK = slots_GK.copy()
        self.on_EG = _counts(slots_GK, len(self.load_E) - 1)
        self.replicas_E = self.on_EG.sum(axis=1)
        self.share_E = self.load_E / np.maximum(self.replicas_E, 1)
        self.load_G: Floats = self.share_E @ self.on_EG
        node_G = self.rules.node_G
        self.on_EN = np.add.reduceat(self.on_EG, np.searchsorted(node_G, np.arange(node_G[-1] + 1)), axis=1)
        self.nodes_E = (self.on_EN > 0).sum(axis=1)
        # A replica that its expert does not need for the distinct nodes that are asked for; an empty slot, always.
        self.spare_EG: Bools = self.nodes_E[:, None] - (self.on_EN[:, node_G] == 1) >= self.rules.fewest_nodes
        self.spare_EG[-1] = True

    @property
    def num_moved(self) -> int:
        """Replicas that GPUs have now and did not hold before."""
        return int(np.maximum(self.on_EG - self.held_EG, 0)[:-1].sum())

    def busiest(self) -> float:
        """Return the load of the busiest GPU over the mean; infinite where an expert with load has no replica."""
        is_lost = ((self.replicas_E == 0) & (self.load_E > 0)).any()
        return math.inf if is_lost else float(self.load_G.max() / self.mean)

    def cost(self, move_cost: float) -> float:
        """Return the cost of `keep_steady`."""
        return self.busiest() + move_cost * self.num_moved / self.slots_GK.size

    def repair(self) -> bool:
        """Give experts the nodes that they lack, then empty slots a replica; tell whether that was possible."""
        if not self.keeps_groups:
            return False
        while (lacking := self.nodes_E[:-1] < self.rules.fewest_nodes).any():
            expert = int(np.where(lacking, self.load_E[:-1], -1.0).argmax())
            lacks_G = self.on_EN[expert, self.rules.node_G] == 0
            changes = self._replacements(np.array([expert]), np.flatnonzero(lacks_G))
            if not len(changes.slot_C):
                return False
            self._make(changes, changes.busiest_C)
        while (empty_G := (self.slots_GK < 0).any(axis=1)).any():
            gpu = np.flatnonzero(empty_G)[:1]
            changes = self._replacements(np.arange(len(self.load_E) - 1), gpu)
            into_empty = self.slots_GK.ravel()[changes.slot_C] < 0
            if not into_empty.any():
                return False
            self._make(changes, np.where(into_empty, changes.busiest_C, np.inf))
        return True

    def improved(self, move_cost: float) -> tuple[float, Ints]:
        """Make changes that lower the load of the busiest GPU; return the least cost on the way, and its plan."""
        best = self.cost(move_cost), self.slots_GK
        since_best = 0
        while since_best < PATIENCE and self._step(move_cost):
            cost = self.cost(move_cost)
            since_best += 1
            if cost < best[0]:
                best, since_best = (cost, self.slots_GK), 0
        return best

    def _step(self, move_cost: float) -> bool:
        """Make the best change of the busiest GPU, if one lowers its load, or the unevenness at the same load.

        Its partners are the lightest GPUs, which have most room. Where these do not help, it is all others, and lighter
        experts on the busiest GPU itself.
        """
        order = np.argsort(self.load_G, kind="stable")
        gpu, others = order[-1:], order[:-1]
        limit, squares = float(self.load_G[gpu[0]]), self.load_G @ self.load_G
        for is_first, partners in ((True, others[:NUM_PARTNERS]), (False, others[NUM_PARTNERS:])):
            own = np.unique(self.slots_GK[gpu])
            found = [self._swaps(gpu, partners), self._replacements(own[own >= 0], partners, limit)]
            if not is_first:
                found.append(self._replacements(np.arange(len(self.load_E) - 1), gpu, limit))
            changes = _Changes(*map(np.concatenate, zip(*found, strict=True)))
            lower = changes.busiest_C < limit * (1 - ROUNDING)
            lower |= (changes.busiest_C <= limit) & (changes.squares_C < squares * (1 - ROUNDING))
            if lower.any():
                cost_C = changes.busiest_C / self.mean + move_cost * changes.moved_C / self.slots_GK.size
                self._make(changes, np.where(lower, cost_C, np.inf))
                return True
        return False

    def _make(self, changes: "_Changes", rank_C: Floats) -> None:
        """Make the change of the lowest rank, the one with the most even GPUs of several."""
        chosen = np.lexsort((changes.squares_C, rank_C))[0]
        slots = self.slots_GK.flatten()
        slot, other = changes.slot_C[chosen], changes.other_C[chosen]
        if other >= 0:
            slots[other] = slots[slot]
        slots[slot] = changes.expert_C[chosen]
        self.take(slots.reshape(self.slots_GK.shape))

    def _slots_of(self, gpus: Ints) -> tuple[Ints, Ints, Ints]:
        """Return the numbers of the slots of GPUs, counted over all GPUs, their GPUs and their experts."""
        per_gpu = self.slots_GK.shape[1]
        return (gpus[:, None] * per_gpu + np.arange(per_gpu)).ravel(), gpus.repeat(per_gpu), self.slots_GK[gpus].ravel()

    def _swaps(self, gpu: Ints, partners: Ints) -> "_Changes":
        """List the exchanges of a replica of a GPU with a lighter one of others that the rules allow."""
        (mine, _, out), (theirs, at, into) = self._slots_of(gpu), self._slots_of(partners)
        node, node_at = self.rules.node_G[gpu], self.rules.node_G[at]
        out = out[:, None]
        possible = (self.share_E[out] > self.share_E[into]) & (out >= 0) & (into >= 0)
        possible &= (self.on_EG[out, at] == 0) & (self.on_EG[into, gpu] == 0)
        possible &= self.may_EN[out, node_at] & self.may_EN[into, node]
        for expert, source, target in ((out, node, node_at), (into, node_at, node)):
            left = self.nodes_E[expert] - (self.on_EN[expert, source] == 1) + (self.on_EN[expert, target] == 0)
            possible &= (source == target) | (left >= self.rules.fewest_nodes)
        row, column = possible.nonzero()
        mine, out, theirs, at, into = mine[row], out[row, 0], theirs[column], at[column], into[column]
        less = self.share_E[out] - self.share_E[into]
        load, load_at = self.load_G[gpu] - less, self.load_G[at] + less
        order = np.argsort(-self.load_G, kind="stable")
        # The busiest GPU that takes no part; the first one does.
        second, third = np.append(self.load_G[order], [0.0, 0.0])[1:3]
        busiest = np.maximum(np.maximum(load, load_at), np.where(at == order[min(1, len(order) - 1)], third, second))
        squares = self.load_G @ self.load_G + load**2 + load_at**2 - self.load_G[gpu] ** 2 - self.load_G[at] ** 2
        return _Changes(into, mine, theirs, busiest, squares, self._moved(into, mine) + self._moved(out, theirs))

    def _replacements(self, experts: Ints, gpus: Ints, limit: float = math.inf) -> "_Changes":
        """List the replacements of a replica of GPUs, or of an empty slot, by one of experts that the rules allow.

        Those that load their GPU beyond the limit are left out.
        """
        slot, at, out = self._slots_of(gpus)
        free = self.spare_EG[out, at]
        slot, at, out = slot[free], at[free], out[free]
        may = self.may_EN[experts][:, self.rules.node_G[at]] & (self.on_EG[experts][:, at] == 0)
        row, column = may.nonzero()
        new_E = self.load_E / (self.replicas_E + 1)
        fits = self.load_G[at[column]] - self.share_E[out[column]] + new_E[experts[row]] <= limit
        row, column = row[fits], column[fits]
        expert, slot, at, out = experts[row], slot[column], at[column], out[column]
        new = new_E[expert]
        left = np.where(self.replicas_E[out] > 1, self.load_E[out] / np.maximum(self.replicas_E[out] - 1, 1), 0.0)
        busiest, squares = np.empty((2, len(expert)))
        for some in row_blocks(len(expert), len(self.load_G)):
            load = self.load_G + self.on_EG[expert[some]] * (new - self.share_E[expert])[some, None]
            load += self.on_EG[out[some]] * (left - self.share_E[out])[some, None]
            load[np.arange(len(load)), at[some]] += new[some] - left[some]
            busiest[some], squares[some] = load.max(axis=1), np.einsum("cg,cg->c", load, load)
        return _Changes(expert, slot, np.full(len(slot), -1), busiest, squares, self._moved(expert, slot))

    def _moved(self, expert_C: Ints, slot_C: Ints) -> Ints:
        """Count the replicas to fetch that each replacement adds: none for one that the GPU held."""
        gpu_C, out_C = slot_C // self.slots_GK.shape[1], self.slots_GK.ravel()[slot_C]
        fetched = self.on_EG[expert_C, gpu_C] >= self.held_EG[expert_C, gpu_C]
        dropped = (out_C >= 0) & (self.on_EG[out_C, gpu_C] > self.held_EG[out_C, gpu_C])
        moved_C: Ints = fetched.astype(np.int64) - dropped
        return moved_C

    def _allowed(self) -> tuple[bool, Bools]:
        """Tell whether each group is on one node, and then which nodes may hold each expert, shape (E + 1, N)."""
        may_EN = np.ones(self.on_EN.shape, dtype=np.bool_)
        if self.rules.num_groups == 1:
            return True, may_EN
        groups = self.on_EN[:-1].reshape(self.rules.num_groups, -1, self.on_EN.shape[1])
        holds: Bools = np.asarray(groups.any(axis=1))
        may_EN[:-1] = holds.repeat(groups.shape[1], axis=0)
        return bool((holds.sum(axis=1) == 1).all()), may_EN
