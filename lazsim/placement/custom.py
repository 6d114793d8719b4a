"""Custom placement policies: call them, and check their plans."""

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from lazsim.errors import InfeasiblePlanError, SpecError
from lazsim.extensions import in_a_line, printing_to_stderr
from lazsim.placement.plan import PlacementPlan
from lazsim.placement.request import PlacementRequest


def call_policy(name: str, function: Callable[..., Any], request: PlacementRequest) -> PlacementPlan:
    """Call a custom policy, which returns a plan or an array of its slots, and check its plan.

    Its own `InfeasiblePlanError` says that it does not apply. Any other error, and a bad plan, is a `SpecError`.
    """
    try:
        with printing_to_stderr():
            result = function(request)
    except (Exception, SystemExit) as error:
        kind = InfeasiblePlanError if isinstance(error, InfeasiblePlanError) else SpecError
        path = getattr(getattr(function, "__code__", None), "co_filename", None)
        raise kind(f"policy {name!r}: {in_a_line(error, path)}") from error
    num_layers, num_experts = request.replicas_LE.shape
    return checked_plan(name, result, (num_layers, request.num_nodes, request.num_slots), num_experts)


def checked_plan(name: str, result: Any, shape: tuple[int, int, int], num_experts: int) -> PlacementPlan:
    """Turn the result of a policy, a plan or its slots, into a plan of a shape (L, N, S), or with fewer slots.

    Raise SpecError when the shape is wrong, a slot holds an unknown expert, or an expert of a layer has no replica.

    Examples
    --------
    >>> checked_plan("mine", [[[0, 0], [1, -1]]], (1, 2, 2), num_experts=3)
    Traceback (most recent call last):
    ...
    lazsim.errors.SpecError: policy 'mine' returned an invalid plan: expert 2 of layer 0 is on no node
    """

    def refuse(offence: str) -> NoReturn:
        raise SpecError(f"policy {name!r} returned an invalid plan: {offence}")

    try:
        slots = np.asarray(result.slots_LNS if isinstance(result, PlacementPlan) else result)
    except (TypeError, ValueError) as error:
        refuse(f"expected an array of (layers, nodes, slots), which numpy cannot make of it: {in_a_line(error)}")
    if slots.ndim != 3 or slots.shape[:2] != shape[:2] or slots.shape[2] > shape[2]:
        found = f"an array of {slots.shape}" if slots.ndim else type(result).__name__
        refuse(f"expected (layers, nodes, slots) of {shape}, or fewer slots, not {found}")
    if not np.issubdtype(slots.dtype, np.integer):
        refuse(f"slots hold {slots.dtype}, not integers; -1 stands for an empty slot")
    for layer, node, slot in np.argwhere((slots < -1) | (slots >= num_experts))[:1]:
        known = f"experts are 0 to {num_experts - 1}, -1 stands for an empty slot"
        refuse(f"slot {slot} of node {node} in layer {layer} holds {slots[layer, node, slot]}; {known}")
    plan = PlacementPlan(slots.astype(np.int64), num_experts)
    for layer, expert in np.argwhere(plan.replicas_LE == 0)[:1]:
        refuse(f"expert {expert} of layer {layer} is on no node")
    return plan
