"""Change a plan only as far as the gain is worth the moves. Axes: L layers, E experts, G GPUs, K slots of a GPU."""

from dataclasses import dataclass

import numpy as np

from lazsim.placement.gpus import swap_apart
from lazsim.placement.local_search import Layer, Rules, improve, repair
from lazsim.placement.mapping import keep_slots, lay_on
from lazsim.placement.plan import Ints

MOVE_COST = 0.1
"""What moving every replica of a layer must gain: the busiest GPU's load, as a share of the mean. An assumption.

Fetching all 9 slots of a GPU takes 8 ms a layer for DeepSeek-V3 (44 MB an expert in 8 bits, 48 GB/s between nodes).
With 0.3 ms of expert computation in a layer's step and 1,000 steps until the next plan, that is a share of 0.03.
Fetching also slows other work down.
"""


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
    for held_GK, slots_GK, load_E in zip(held_LGK, slots_LGK, load_LE, strict=True):
        held, new = Layer(held_GK, load_E, rules), Layer(slots_GK, load_E, rules)
        before.append(held.busiest())
        after.append(new.busiest())
        num_moved += new.num_moved(held.on_EG)
    moved_bytes = num_moved * expert_bytes
    return PlanChange(num_moved, slots_LGK.size, moved_bytes, float(np.mean(before)), float(np.mean(after)))


def keep_steady(held_LGK: Ints, fresh_LGK: Ints, load_LE: Ints, rules: Rules, move_cost: float) -> Ints:
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


def _steady_layer(held_GK: Ints, laid_GK: Ints, load_E: Ints, rules: Rules, move_cost: float) -> Ints:
    if (held_GK < 0).all():
        return laid_GK
    held, laid = Layer(held_GK, load_E, rules), Layer(laid_GK, load_E, rules)
    repaired, is_whole = repair(held)
    if not is_whole:
        return laid_GK
    best = improve(repaired, held.on_EG, move_cost)
    if best.cost(held.on_EG, move_cost) > laid.cost(held.on_EG, move_cost):
        return laid_GK
    # A replica may have left a GPU and come back.
    return np.array([keep_slots(new_K, old_K) for new_K, old_K in zip(best.slots_GK, held_GK, strict=True)])


def even_out(slots_LGK: Ints, load_LE: Ints, rules: Rules) -> Ints:
    """Put replicas of an expert on different GPUs, and lower the load of the busiest as `keep_steady`, for no moves."""
    evened = []
    for slots_GK, load_E in zip(slots_LGK.copy(), load_LE, strict=True):
        swap_apart(slots_GK, Layer(slots_GK, load_E, rules).share_E)
        layer, is_whole = repair(Layer(slots_GK, load_E, rules))
        evened.append((improve(layer, layer.on_EG, 0.0) if is_whole else layer).slots_GK)
    return np.array(evened)
