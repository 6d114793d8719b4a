"""Maps of plans: which expert is in which slot of which node. Axes: N nodes, S slots of a node, E experts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lazsim.errors import printable
from lazsim.output.names import shown_names
from lazsim.placement.plan import Floats, Ints, PlacementPlan
from lazsim.reliability.comparison import most_endangered
from lazsim.reliability.task import PlanningTask

MAX_TEXT_NODES = 16
"""Nodes up to which maps are printed."""

NAME_WIDTH = 18

MOST_CELLS = 100_000
"""Slots of all plans that a page holds: half a megabyte."""


@dataclass(frozen=True, eq=False)
class LayerMap:
    """One layer of a plan, to be drawn."""

    title: str
    """The policy's name, shortened, with the layer where there are several."""
    slots_NS: Ints
    share_E: Floats
    """Expert in each slot, -1 where it is empty; and the part of the layer's tokens that each expert gets."""
    expert: int
    num_as_endangered: int
    num_nodes: int
    """The layer's most endangered expert, how many are on as few nodes, and the number of these nodes."""


def with_equals(expert: object, num_as_endangered: int) -> str:
    """Name the most endangered expert, and say how many others are on as few nodes."""
    return f"{expert}" + f" and {num_as_endangered - 1:,} more" * (num_as_endangered > 1)


def layer_maps(task: PlanningTask, plans: Mapping[str, PlacementPlan], layer_shown: int | None) -> list[LayerMap]:
    """Return the layer to show of each plan; without any, the most endangered one."""
    load_LE = task.load_LE
    maps = []
    shown = shown_names(plans, NAME_WIDTH)
    for name, plan in plans.items():
        layer, expert, _ = most_endangered(plan, load_LE, layer_shown)
        *_, num_as_endangered = most_endangered(plan, load_LE, layer)
        title = f"{shown[name]}, layer {layer}" if plan.num_layers > 1 else shown[name]
        num_nodes = int(plan.holds_LEN[layer, expert].sum())
        share_E = load_LE[layer] / load_LE[layer].sum()
        maps.append(LayerMap(title, plan.slots_LNS[layer], share_E, expert, num_as_endangered, num_nodes))
    return maps


def plan_maps(plans: Mapping[str, PlacementPlan], caption: str) -> dict[str, Any]:
    """Return plans by name as the data of a page: of each the layers, the least safe one, and their slots.

    Plans that do not fit into a page have their least safe layers only.
    """
    most = max(1, MOST_CELLS // sum(plan.slots_LNS[0].size for plan in plans.values()))
    shown = []
    for name, plan in plans.items():
        by_safety = plan.holds_LEN.sum(axis=2).min(axis=1).argsort(kind="stable")
        layers = sorted(by_safety[:most].tolist())
        slots = plan.slots_LNS[layers].tolist()
        shown.append({"name": name, "layers": layers, "least": layers.index(by_safety[0]), "slots": slots})
    if any(plan.num_layers > most for plan in plans.values()):
        caption += f" Of each plan there are the {most} layers whose experts are on the fewest nodes."
    return {"plans": shown, "caption": caption}


def text_maps(maps: Sequence[LayerMap], width: int) -> Iterator[list[str]]:
    """Write maps of few nodes side by side, as many as fit."""
    if max(len(one.slots_NS) for one in maps) > MAX_TEXT_NODES:
        return
    blocks = [_text_map(one) for one in maps]
    block_width = max(len(line) for block in blocks for line in block)
    abreast = max(1, (width + 3) // (block_width + 3))
    for start in range(0, len(blocks), abreast):
        rows = zip(*blocks[start : start + abreast], strict=True)
        yield ["   ".join(line.ljust(block_width) for line in lines).rstrip() for lines in rows]


def _text_map(one: LayerMap) -> list[str]:
    digits = len(str(len(one.share_E) - 1))
    lines = [printable(one.title)]
    for node, experts in enumerate(one.slots_NS.tolist()):
        cells = (
            f"{expert if expert >= 0 else '-':>{digits}}{'*' if expert == one.expert else ' '}" for expert in experts
        )
        lines.append(f"{node:>3}: {''.join(cells)}")
    return lines
