"""Even out the GPUs of a layer by changes of single replicas, a local search.

A `Layer` lists its neighbours, `swaps` and `replacements`, and the loads that each leads to. `repair` makes a plan that
keeps the rules, and `improve` goes from the busiest GPU's best neighbour to the next, while that is worth it.

Axes: E experts and a last row for empty slots, G GPUs, K slots of a GPU, P slots of all GPUs, N nodes, C changes to
choose from.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lazsim.placement.plan import Bools, Floats, Ints, count_replicas
from lazsim.row_blocks import row_blocks

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


class SlotChanges(NamedTuple):
    """Changes of a layer to choose from; arrays of shape (C,).

    `slot_C` gets the expert `expert_C`. Its own goes to the slot `other_C`, or away where that is -1. Then the busiest
    GPU has the load `busiest_C`, and the loads have the sum of squares `squares_C`.
    """

    slot_C: Ints
    expert_C: Ints
    other_C: Ints
    busiest_C: Floats
    squares_C: Floats


class Layer:
    """The plan of a layer and its loads, which never change, and the changes that the rules allow."""

    def __init__(self, slots_GK: Ints, load_E: Ints | Floats, rules: Rules) -> None:
        """Count replicas and loads; `load_E` has no entry for empty slots."""
        num_gpus, per_gpu = slots_GK.shape
        self.slots_GK, self.rules = slots_GK, rules
        self.expert_P = slots_GK.ravel()
        self.gpu_P = np.arange(num_gpus).repeat(per_gpu)
        self.node_P = rules.node_G[self.gpu_P]
        self.load_E: Floats = np.append(load_E if load_E.any() else load_E + 1, 0).astype(np.float64)
        self.on_EG = count_replicas(slots_GK, len(load_E))
        self.replicas_E = self.on_EG.sum(axis=1)
        self.share_E = self.load_E / np.maximum(self.replicas_E, 1)
        self.load_G: Floats = self.share_E @ self.on_EG
        self.mean = self.load_E.sum() / num_gpus
        self.on_EN = np.add.reduceat(self.on_EG, np.unique(rules.node_G, return_index=True)[1], axis=1)
        self.nodes_E = (self.on_EN > 0).sum(axis=1)
        self.may_EN: Bools = np.ones(self.on_EN.shape, dtype=np.bool_)
        if rules.num_groups > 1:
            by_group = self.on_EN[:-1].reshape(rules.num_groups, -1, self.on_EN.shape[1])
            self.may_EN[:-1] = by_group.any(axis=1).repeat(by_group.shape[1], axis=0)
        self.keeps_groups = rules.num_groups == 1 or bool((self.may_EN[:-1].sum(axis=1) == 1).all())

    def busiest(self) -> float:
        """Return the load of the busiest GPU over the mean; infinite where an expert with load has no replica."""
        is_lost = ((self.replicas_E == 0) & (self.load_E > 0)).any()
        return math.inf if is_lost else float(self.load_G.max() / self.mean)

    def num_moved(self, held_EG: Ints) -> int:
        """Count the replicas that GPUs did not hold before."""
        return int(np.maximum(self.on_EG - held_EG, 0)[:-1].sum())

    def cost(self, held_EG: Ints, move_cost: float) -> float:
        """Return the cost of `lazsim.placement.steady.keep_steady`."""
        return self.busiest() + move_cost * self.num_moved(held_EG) / self.slots_GK.size

    def replacements(self, experts: Ints, slots: Ints, limit: float = math.inf) -> SlotChanges:
        """List the ways to put one of the experts into one of the slots that load its GPU up to the limit."""
        can_go = (self.expert_P[slots] < 0) | self._keeps_nodes(self.expert_P[slots], self.node_P[slots])
        expert, slot = _pairs(experts, slots[can_go])
        (fits,) = self._may_come(expert, slot).nonzero()
        expert, slot = expert[fits], slot[fits]
        out, gpu = self.expert_P[slot], self.gpu_P[slot]
        share = self.load_E[expert] / (self.replicas_E[expert] + 1)
        (fits,) = (self.load_G[gpu] - self.share_E[out] + share <= limit).nonzero()
        expert, slot, out, gpu, share = (one[fits] for one in (expert, slot, out, gpu, share))
        left = np.where(self.replicas_E[out] > 1, self.load_E[out] / np.maximum(self.replicas_E[out] - 1, 1), 0.0)
        # All GPUs that hold one of the two experts have another load.
        busiest, squares = np.empty((2, len(slot)))
        for some in row_blocks(len(slot), len(self.load_G)):
            load = self.load_G + self.on_EG[expert[some]] * (share - self.share_E[expert])[some, None]
            load += self.on_EG[out[some]] * (left - self.share_E[out])[some, None]
            load[np.arange(len(load)), gpu[some]] += share[some] - left[some]
            busiest[some], squares[some] = load.max(axis=1), np.einsum("cg,cg->c", load, load)
        return SlotChanges(slot, expert, np.full(len(slot), -1), busiest, squares)

    def swaps(self, gpu: int, others: Ints) -> SlotChanges:
        """List the exchanges of a replica of a GPU with a lighter one in one of the slots of other GPUs."""
        slot, other = _pairs(np.flatnonzero(self.gpu_P == gpu), others)
        out, into = self.expert_P[slot], self.expert_P[other]
        allowed = (self.share_E[out] > self.share_E[into]) & (out >= 0) & (into >= 0)
        for expert, source, target in ((out, slot, other), (into, other, slot)):
            node, node_after = self.node_P[source], self.node_P[target]
            keeps_nodes = self._keeps_nodes(expert, node, self.on_EN[expert, node_after] == 0)
            allowed &= self._may_come(expert, target) & ((node == node_after) | keeps_nodes)
        slot, other, out, into = slot[allowed], other[allowed], out[allowed], into[allowed]
        less = self.share_E[out] - self.share_E[into]
        before, other_before = self.load_G[gpu], self.load_G[self.gpu_P[other]]
        after, other_after = before - less, other_before + less
        # The busiest of the GPUs that take no part.
        second, third = -np.sort(np.append(-np.delete(self.load_G, gpu), [0.0, 0.0]))[:2]
        busiest = np.maximum(np.maximum(after, other_after), np.where(other_before == second, third, second))
        squares = self.load_G @ self.load_G + after**2 + other_after**2 - before**2 - other_before**2
        return SlotChanges(slot, into, other, busiest, squares)

    def _may_come(self, expert_C: Ints, slot_C: Ints) -> Bools:
        """Tell whether the GPU of a slot lacks an expert, and its node may have it."""
        allowed: Bools = (self.on_EG[expert_C, self.gpu_P[slot_C]] == 0) & self.may_EN[expert_C, self.node_P[slot_C]]
        return allowed

    def _keeps_nodes(self, expert_C: Ints, node_C: Ints, num_new_C: Ints | Bools | int = 0) -> Bools:
        """Tell whether an expert has enough nodes where a node loses a replica of it, and new nodes get one."""
        num_C: Ints = self.nodes_E[expert_C] - (self.on_EN[expert_C, node_C] == 1) + num_new_C
        return num_C >= self.rules.fewest_nodes

    def num_fetched(self, changes: SlotChanges, held_EG: Ints) -> Ints:
        """Count the replicas by which each change adds to those that GPUs did not hold before."""
        num_C = np.zeros(len(changes.slot_C), dtype=np.int64)
        ends = (changes.expert_C, changes.slot_C), (self.expert_P[changes.slot_C], changes.other_C)
        for expert_C, slot_C in ends:
            gpu_C, out_C = self.gpu_P[slot_C], self.expert_P[slot_C]
            is_fetched = self.on_EG[expert_C, gpu_C] >= held_EG[expert_C, gpu_C]
            is_dropped = (out_C >= 0) & (self.on_EG[out_C, gpu_C] > held_EG[out_C, gpu_C])
            num_C += (slot_C >= 0) * (is_fetched.astype(np.int64) - is_dropped)
        return num_C

    def changed(self, changes: SlotChanges, rank_C: Floats) -> "Layer":
        """Return the layer after the change of the lowest rank, the one with the most even GPUs of several."""
        chosen = np.lexsort((changes.squares_C, rank_C))[0]
        slot, other = changes.slot_C[chosen], changes.other_C[chosen]
        expert_P = self.expert_P.copy()
        if other >= 0:
            expert_P[other] = expert_P[slot]
        expert_P[slot] = changes.expert_C[chosen]
        return Layer(expert_P.reshape(self.slots_GK.shape), self.load_E[:-1], self.rules)


def repair(layer: Layer) -> tuple[Layer, bool]:
    """Give experts the nodes that they lack, then empty slots a replica; tell whether that was possible."""
    experts, load_E, rules = np.arange(len(layer.load_E) - 1), layer.load_E[:-1], layer.rules
    if not layer.keeps_groups:
        return layer, False
    while True:
        lacking = layer.nodes_E[:-1] < rules.fewest_nodes
        empty = np.flatnonzero(layer.expert_P < 0)
        if lacking.any():
            expert = np.array([np.where(lacking, load_E, -1.0).argmax()])
            changes = layer.replacements(expert, np.flatnonzero(layer.on_EN[expert[0], layer.node_P] == 0))
        elif len(empty):
            changes = layer.replacements(experts, empty[:1])
        else:
            return layer, True
        if not len(changes.slot_C):
            return layer, False
        layer = layer.changed(changes, changes.busiest_C)


def improve(layer: Layer, held_EG: Ints, move_cost: float) -> Layer:
    """Make changes that lower the load of the busiest GPU; return the layer of least cost on the way."""
    best, best_cost, since_best = layer, layer.cost(held_EG, move_cost), 0
    while since_best < PATIENCE and (after := best_change(layer, held_EG, move_cost)):
        layer, since_best = after, since_best + 1
        if (cost := layer.cost(held_EG, move_cost)) < best_cost:
            best, best_cost, since_best = layer, cost, 0
    return best


def best_change(layer: Layer, held_EG: Ints, move_cost: float) -> Layer | None:
    """Make the best change of the busiest GPU, if one lowers its load, or the unevenness at the same load.

    Its partners are the lightest GPUs, which have most room. Where these do not help, it is all others, and lighter
    experts on the busiest GPU itself.
    """
    *others, gpu = np.argsort(layer.load_G, kind="stable").tolist()
    per_gpu = layer.slots_GK.shape[1]
    slots_GK = np.arange(layer.slots_GK.size).reshape(-1, per_gpu)
    limit, squares = float(layer.load_G[gpu]), layer.load_G @ layer.load_G
    held = np.unique(layer.slots_GK[gpu])
    held, every = held[held >= 0], np.arange(len(layer.load_E) - 1)
    for partners, onto_itself in ((others[:NUM_PARTNERS], every[:0]), (others[NUM_PARTNERS:], every)):
        slots = slots_GK[partners].ravel()
        found = (
            layer.swaps(gpu, slots),
            layer.replacements(held, slots, limit),
            layer.replacements(onto_itself, slots_GK[gpu], limit),
        )
        columns: Any = map(np.concatenate, zip(*found, strict=True))
        changes = SlotChanges(*columns)
        lower = changes.busiest_C < limit * (1 - ROUNDING)
        lower |= (changes.busiest_C <= limit) & (changes.squares_C < squares * (1 - ROUNDING))
        if lower.any():
            moves_C = move_cost * layer.num_fetched(changes, held_EG) / layer.slots_GK.size
            return layer.changed(changes, np.where(lower, changes.busiest_C / layer.mean + moves_C, np.inf))
    return None


def _pairs(first: Ints, second: Ints) -> tuple[Ints, Ints]:
    """Pair all members of two arrays."""
    return first.repeat(len(second)), np.tile(second, len(first))
