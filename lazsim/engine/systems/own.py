"""Systems of users: what their methods raise, or return wrongly, is told in a line."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_origin, get_type_hints

import numpy as np

from lazsim.costmodel.memory import MemoryUse
from lazsim.engine.ledger import BUCKETS
from lazsim.engine.protocol import Action, Decision, StoppedJob
from lazsim.engine.systems.system import Pace, Save, System
from lazsim.errors import ALIKE, SpecError, did_you_mean, prefix_errors, shorten
from lazsim.extensions import own_code, require_repeats
from lazsim.units import counted

REPEATABLE = int, float, Save, Pace, Mapping, Decision
"""Types of values that are compared with those of a second call."""


def guarded(system: System, name: str) -> System:
    """Return a user's system, named as its object, whose methods raise a `SpecError` where they fail.

    Raises
    ------
    SpecError
        When a part of its class would have no effect: a slip in a name would leave the system as it was. Or when its
        constructor does not take its fields.
    """
    of_user, where = type(system), f"system {name!r}"
    values = {field.name: getattr(system, field.name) for field in fields(system) if field.init}
    bases = filter(_is_of_lazsim, reversed(of_user.__mro__))
    declared = {key: value for base in bases for key, value in vars(base).items() if not key.startswith("_")}
    with prefix_errors(where):
        _refuse_without_effect(system, declared)
    kind: Any = type(of_user.__name__, (of_user,), {})
    for key in declared.keys() - values.keys():
        if inspect.getattr_static(of_user, key) is not declared[key]:
            setattr(kind, key, _guarded(kind, key, declared[key], where, inspect.getfile(of_user)))
    # Frozen, too: a system that counts, say, would make of the same inputs another run each time.
    dataclass(frozen=True, init=False, repr=False, eq=False)(kind)
    with own_code(what=f"{where}: give a frozen dataclass whose constructor takes its fields"):
        # Names tell runs apart, and intervals of a job go by them.
        guarded_system: System = kind(**{**values, "name": name.rpartition(":")[2]})
    return guarded_system


def _refuse_without_effect(system: System, declared: Iterable[str]) -> None:
    """Refuse a value of a class for a field, which its constructor sets, and a method that lazsim does not call."""
    of_user, names = type(system), {field.name for field in fields(system)}
    for field in fields(system):
        value = getattr(of_user, field.name, field.default)
        if value is not field.default and not hasattr(value, "__get__"):
            declare = "declare it there with its type, under @dataclass(frozen=True)"
            raise SpecError(f"its class sets {field.name!r} without effect: {declare}")
    known = {*declared, *(field.name for field in fields(System))}
    for base in of_user.__mro__:
        if issubclass(base, System) and not _is_of_lazsim(base):
            # Functions and properties; constants and classes in a class are its own, unless one has a slip in its name.
            own = {key: hasattr(vars(base).get(key), "__get__") for key in (*vars(base), *base.__annotations__)}
            for key in sorted(key for key in own if key[0] != "_" and key not in known):
                if own[key] and key not in names:
                    told = f"lazsim calls no method {key!r}: {did_you_mean(key, sorted(known))}"
                elif alike := difflib.get_close_matches(key, known, 1, ALIKE):
                    told = f"lazsim reads no {key!r}: did you mean {alike[0]!r}? "
                else:
                    continue
                raise SpecError(f"{told}Begin the name of one of your own with _")


def _is_of_lazsim(kind: type) -> bool:
    """Tell whether a class is of lazsim; modules of users' files have names of their own."""
    return kind.__module__.startswith("lazsim.") and ":" not in kind.__module__


def _guarded(kind: type, method: str, declared: Any, where: str, path: str) -> Any:
    """Return a method or a property of a user in the place of the one that is declared."""
    is_property = isinstance(declared, property)
    check, what = _check_of(method, declared.fget if is_property else declared), f"{where}: {method}"

    def call(system: Any, *arguments: Any, **named: Any) -> Any:
        def ask() -> Any:
            found = getattr(super(kind, system), method)
            return _plain(found if is_property else found(*arguments, **named))

        with own_code(path, what):
            value = ask()
            expected = check(value, system, *arguments, **named)
            if not expected and isinstance(value, REPEATABLE):
                require_repeats(what, lambda: bool(ask() == value))
            if expected:
                raise SpecError(f"{what} returned {shorten(repr(value))}; {expected}")
        return value

    return property(call) if is_property else call


def _plain(value: Any) -> Any:
    """Return a value with numbers of Python where it has those of numpy, and tuples where it has lists."""
    if isinstance(value, Decision):
        return replace(value, **{field.name: _plain(getattr(value, field.name)) for field in fields(value)})
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return getattr(type(value), "_make", tuple)(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def _is_amount(*values: Any) -> bool:
    return all(type(value) in (int, float) and 0 <= value < math.inf for value in values)


def _check_decision(decision: Any, system: System, costs: Any, stopped: StoppedJob) -> str:
    if not isinstance(decision, Decision):
        return "return a Decision"
    return _check_parts(decision, stopped) or _check_action(decision, system, costs, stopped)


def _check_parts(decision: Decision, stopped: StoppedJob) -> str:
    """Say which action, nodes, seats or phases of a decision there cannot be, whatever it does with them."""
    for name, kind in get_type_hints(Decision).items():
        if expected := _unlike(kind, getattr(decision, name)):
            return f"its {name}: give {expected}"
    if gone := set(decision.nodes).difference(stopped.alive):
        return f"its nodes {', '.join(sorted(map(repr, gone)))} are not alive"
    held = stopped.held
    if taken := set(decision.seats).difference(set(range(held.num_seats)).difference(held.seats)):
        return f"its seats {', '.join(sorted(map(repr, taken)))} are not free"
    for bucket, seconds in decision.phases:
        if bucket not in BUCKETS or not _is_amount(seconds):
            return f"its phase {bucket!r} of {seconds!r} s: give seconds of {', '.join(BUCKETS)}"
    return ""


def _check_action(decision: Decision, system: System, costs: Any, stopped: StoppedJob) -> str:
    """Say what the action of a decision needs and its parts, or the job that stopped, do not have."""
    action, nodes, number, held = decision.action, decision.nodes, decision.num_nodes, stopped.held
    num_kept = len(nodes) - len(decision.seats)
    if action in (Action.RECONFIGURE, Action.CONTINUE) and not held.nodes:
        return "no node holds a state from which to go on: restart or wait"
    if action is Action.CONTINUE and (num_kept < 1 or not set(nodes[:num_kept]) <= set(held.nodes)):
        return "those of its nodes that hold no state come last, each with a free seat (`seats`)"
    if action is Action.CONTINUE and len(nodes) < held.num_seats and type(system).pace is System.pace:
        left = counted(held.num_seats - len(nodes), "seat stays", "seats stay")
        return f"{left} free: override `pace` to say how fast the other nodes train"
    if action is Action.RECONFIGURE and (nodes[: len(held.nodes)] != held.nodes or not stopped.hold_everything(nodes)):
        return "a new plan starts from all nodes that hold a state, in their order (`held.nodes`), which hold every one"
    if action in (Action.RECONFIGURE, Action.RESTART):
        if not 0 < number <= len(nodes) or (action is Action.RESTART and number < len(nodes)):
            return "a new plan takes some of its nodes, after a restart all: give their number (`num_nodes`)"
        if not _fills_replicas(system, costs, number):
            return f"a new plan takes {system.fewest_nodes(costs)} nodes for each model replica, not {number}"
    if action is Action.RESTART and decision.source not in ("checkpoint", "memory", "initial"):
        return "a restart is from a `source`: 'checkpoint', 'memory' or 'initial'"
    if action is Action.RESTART and decision.source == "memory" and not stopped.has_newer_copy:
        return "no copy in memory is newer than the last checkpoint (`has_newer_copy`): restart from 'checkpoint'"
    if action is Action.RESTART and decision.source == "initial" and stopped.checkpoint_step:
        return "there is a checkpoint: restart from 'checkpoint'"
    if action is Action.RESUME and not stopped.paused:
        return "a job resumes after a pause only (`paused`)"
    return ""


def _check_usable(count: Any, system: System, costs: Any, num_nodes: int) -> str:
    if type(count) is not int or not 0 <= count <= num_nodes:
        return f"return 0 to {num_nodes}"
    if not _fills_replicas(system, costs, count):
        return f"return a multiple of {system.fewest_nodes(costs)}, the nodes of a model replica"
    return ""


def _check_seats(count: Any, system: System, costs: Any, num_nodes: int) -> str:
    most = num_nodes + system.fewest_nodes(costs) - 1
    return "" if type(count) is int and num_nodes <= count <= most else f"return {num_nodes} to {most}"


def _check_newcomers(nodes: Any, _system: System, _costs: Any, held: Any, alive: Any, *_: Any) -> str:
    return "" if set(nodes) <= set(alive) - set(held.nodes) else "return nodes that are alive and not in use"


def _fills_replicas(system: System, costs: Any, num_nodes: int) -> bool:
    """Tell whether nodes have seats in whole model replicas, of which each has nodes of its own; all do if elastic."""
    return system.is_elastic or system.num_seats(costs, num_nodes) % system.fewest_nodes(costs) == 0


def _check_load(num_bytes: Any, *arguments: Any) -> str:
    plan = arguments[-1]
    is_array = isinstance(num_bytes, np.ndarray) and num_bytes.shape == (plan.num_nodes,)
    return "" if is_array and _is_amount(*num_bytes.tolist()) else f"return an array of {plan.num_nodes} numbers"


def _check_choices(found: Any, system: System) -> str:
    is_fine = isinstance(found, Mapping) and {field.name for field in fields(system)}.issuperset(found)
    is_fine = is_fine and all(isinstance(values, tuple | range) for values in found.values())
    return "" if is_fine else "return the values to try by fields of the system, as {'min_replicas': (1, 2)}"


def _check_extra(found: Any, *_: Any) -> str:
    names = {field.name for field in fields(MemoryUse)}
    is_fine = isinstance(found, Mapping) and names.issuperset(found) and _is_amount(*found.values())
    return "" if is_fine else f"return bytes by part of {', '.join(sorted(names))}"


CHECKS: Mapping[str, Callable[..., str]] = {
    "decide": _check_decision,
    "usable_nodes": _check_usable,
    "num_seats": _check_seats,
    "newcomers": _check_newcomers,
    "load_bytes": _check_load,
    "fewest_nodes": lambda count, *_: "" if type(count) is int and count >= 1 else "return a whole number of 1 or more",
    "choices": _check_choices,
    "extra_gpu_bytes": _check_extra,
}
"""By method, says what is wrong with what it returns, which is followed by its arguments."""

EXPECTED: Mapping[Any, tuple[Callable[[Any], bool], str]] = {
    Save: (lambda save: isinstance(save, Save) and _is_amount(*save), "a Save of seconds of 0 or more"),
    Pace: (
        lambda pace: isinstance(pace, Pace) and _is_amount(*pace) and 0 not in pace,
        "a Pace of a factor and a share of more than 0",
    ),
    float: (_is_amount, "a number of 0 or more"),
    float | None: (lambda value: value is None or _is_amount(value), "a number of 0 or more, or None"),
    int | None: (lambda one: one is None or (type(one) is int and one >= 1), "whole steps of 1 or more, or None"),
    int: (lambda one: type(one) is int and one >= 0, "a whole number of 0 or more"),
    Action: (lambda one: one in tuple(Action), f"one of {', '.join(map(str, Action))}"),
}
"""Tells whether what a method of a system returns, or a part of a decision, is fine, and what it should be: by type."""


def _unlike(kind: Any, value: Any) -> str:
    """Say what a value of a type should be, where it is not."""
    plain_kind = get_origin(kind) or kind
    any_of = (lambda one: isinstance(one, plain_kind)), f"a value of type {plain_kind.__name__}"
    is_fine, expected = EXPECTED.get(kind, any_of)
    return "" if is_fine(value) else expected


def _check_of(method: str, declared: Callable[..., Any]) -> Callable[..., str]:
    """Return what says what is wrong with a value, which is followed by the arguments of the method."""
    if method in CHECKS:
        return CHECKS[method]
    kind = get_type_hints(declared)["return"]
    return lambda value, *_, **__: (expected := _unlike(kind, value)) and f"return {expected}"
