"""Read plans that ``lazsim place`` has written. Axes: L layers, N nodes, S slots of a node."""

import os
from typing import Annotated, Any

import msgspec
import numpy as np

from lazsim.errors import SpecError
from lazsim.files.decoding import convert, decode_json
from lazsim.files.reading import read_bytes
from lazsim.limits import MAX_EXPERTS
from lazsim.placement.plan import PlacementPlan

Slots = list[Annotated[int, msgspec.Meta(ge=0, le=MAX_EXPERTS)] | None]


class PlanFile(msgspec.Struct):
    """What is read of the JSON of ``lazsim place``."""

    plans: dict[str, Any]


def read_plan(name: str, shape: tuple[int, int, int], num_experts: int) -> tuple[PlacementPlan, bytes]:
    """Read a plan from the JSON of ``lazsim place``; return it and the content of the file.

    A `LazsimError` says that the file cannot be read, has no such plan, or one of another shape or other experts.

    Parameters
    ----------
    name
        Path of the file, with ``:policy`` behind it where it has plans of several policies.
    shape
        Layers, nodes and slots that the plan must have, (L, N, S).
    num_experts
        Experts of a layer.
    """
    path, _, policy = (name, "", "") if os.path.exists(name) else name.rpartition(":")
    content = read_bytes(path or name)
    try:
        plans = decode_json(content, PlanFile).plans
    except ValueError as error:
        raise SpecError(f"{path or name}: not the JSON of lazsim place ({error})") from None
    if not policy and len(plans) == 1:
        (policy,) = plans
    if policy not in plans:
        example = f"{path or name}:{next(iter(plans), 'policy')}"
        raise SpecError(f"{name}: has plans of {', '.join(plans) or 'no policy'}; name one of them, as in {example}")
    layers = _filled(plans[policy], f"plans.{policy}", path or name)
    try:
        slots_LNS = np.array(layers, dtype=np.int64)
    except ValueError:
        raise SpecError(f"{name}: nodes have unequal numbers of slots; write null for an empty one") from None
    if slots_LNS.shape != shape:
        found, expected = (" x ".join(map(str, one)) for one in (slots_LNS.shape, shape))
        raise SpecError(f"{name}: has {found} layers x nodes x slots; give a plan of {expected}")
    if slots_LNS.max() >= num_experts:
        raise SpecError(f"{name}: has expert {slots_LNS.max()} where experts are 0 to {num_experts - 1}")
    return PlacementPlan(slots_LNS, num_experts), content


def _filled(plan: Any, inside: str, path: str) -> list[list[list[int]]]:
    """Return the slots of each layer and node, -1 where they are empty; a plan of one layer may lack that axis."""
    nodes = convert(plan, list[list[Any]], inside, path=path)
    has_layers = any(isinstance(slot, list) for node in nodes for slot in node)
    kind: Any = list[list[Slots]] if has_layers else list[Slots]
    layers = convert(nodes, kind, inside, path=path)
    return [[[-1 if expert is None else expert for expert in node] for node in layer]
            for layer in (layers if has_layers else [layers])]  # fmt: skip
