"""Custom placement policies: find them, call them, and check their plans."""

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import numpy as np

from lazsim.errors import InfeasiblePlanError, LazsimError, SpecError
from lazsim.placement.plan import PlacementPlan
from lazsim.placement.request import PlacementRequest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "lazsim.policies"
"""Group of entry points under which a package offers policies."""


def installed_policies() -> Mapping[str, "EntryPoint"]:
    """Return the policies that installed packages offer, by name, without importing them.

    Raise SpecError when two packages offer different policies of one name.
    """
    from importlib.metadata import entry_points

    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            offers = f"{origin(other)}, and {origin(entry)}"
            raise SpecError(f"policy {entry.name!r} is offered twice: {offers}; uninstall one of them")
    return found


def origin(entry: "EntryPoint") -> str:
    """Name the function and the package of an entry point."""
    return f"{entry.value} of {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def load_installed(entry: "EntryPoint") -> Callable[..., Any]:
    """Import the function of an entry point, or raise SpecError when it is none or cannot be imported."""
    try:
        with _printing_to_stderr():
            function = entry.load()
    except (Exception, SystemExit) as error:
        raise SpecError(f"policy {entry.name!r} ({origin(entry)}) cannot be imported: {_in_a_line(error)}") from error
    return _callable(entry.name, function)


def load_from_file(name: str) -> Callable[..., Any]:
    """Run a Python file and take a function from it; `name` is ``path.py:function``.

    Raise SpecError when there is no such file or function, or the file does not run.
    """
    import importlib.util

    path, _, attribute = name.rpartition(":")
    if not path.endswith(".py") or not attribute:
        raise SpecError(f"policy {name!r}: expected path.py:function, the function to call in that file")
    if not os.path.isfile(path):
        raise SpecError(f"policy {name!r}: no file {path}; give path.py:function")
    # A name that no other module has: classes of the file look their module up.
    module_name = f"lazsim.placement.policies:{Path(path).resolve()}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        with _printing_to_stderr():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise SpecError(f"policy {name!r}: {path} cannot be run: {_in_a_line(error, module.__file__)}") from error
    if not hasattr(module, attribute):
        offered = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module_name]
        raise SpecError(f"policy {name!r}: no function {attribute!r} in {path}, which has: {', '.join(offered) or '-'}")
    return _callable(name, getattr(module, attribute))


def call_policy(name: str, function: Callable[..., Any], request: PlacementRequest) -> PlacementPlan:
    """Call a custom policy, which returns a plan or an array of its slots, and check its plan.

    Raises
    ------
    InfeasiblePlanError
        When the policy raises it because it does not apply.
    SpecError
        When it raises anything else, or its plan is invalid.
    """
    try:
        with _printing_to_stderr():
            result = function(request)
    except (Exception, SystemExit) as error:
        kind = InfeasiblePlanError if isinstance(error, InfeasiblePlanError) else SpecError
        path = getattr(getattr(function, "__code__", None), "co_filename", None)
        raise kind(f"policy {name!r}: {_in_a_line(error, path)}") from error
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
        refuse(f"expected an array of (layers, nodes, slots), which numpy cannot make of it: {_in_a_line(error)}")
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


def _printing_to_stderr() -> redirect_stdout[TextIO]:
    """Send the prints of a custom policy to stderr: stdout carries lazsim's own output."""
    return redirect_stdout(sys.stderr)


def _callable(name: str, function: object) -> Callable[..., Any]:
    if not callable(function):
        raise SpecError(f"policy {name!r} is no function but of type {type(function).__name__}")
    return function


def _in_a_line(error: BaseException, path: str | None = None) -> str:
    """Describe an error in one line, with its line number where the file is given."""
    if isinstance(error, LazsimError):
        return str(error)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = f" (line {lines[-1]})" if lines else ""
    return " ".join(f"{type(error).__name__}{where}: {error}".split())
