"""Options that would do harm, or have no effect: without or beside another one, or given twice."""

import os
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import click
from click.core import ParameterSource, augment_usage_errors

from lazsim.cli.base.kinds import OutPath
from lazsim.errors import shorten
from lazsim.limits import OF_MAPPINGS


class Need(NamedTuple):
    """Options that have no effect without another one: `needed`, with one of `values` if not with any.

    It binds each command that has all of them, or only the one of the name `command`, and where there is another
    option `beside` them, only where that is given.
    """

    options: tuple[str, ...]
    needed: str
    values: tuple[str, ...] = ("",)
    beside: str = ""
    command: str = ""


_READING = ("trace_format", *OF_MAPPINGS, "lenient")

NEEDS = (
    Need((*_READING, "start", "duration", "cap"), "trace_path"),
    Need(_READING, "trace"),
    Need(("speedup",), "trace_path", command="live"),
    Need(("cap",), "num_nodes", command="advise"),
    Need(("shape", "batch_share"), "mtbf_s", command="advise"),
    Need(("cluster",), "batch_share", beside="num_nodes", command="generate"),
    Need(("work", "in_time_prob"), "goal", ("deadline=TIME",)),
    Need(("price",), "goal", ("cost", "deadline=TIME")),
    Need(("address",), "backend", ("ray",)),
    Need(("gpu",), "model"),
    Need(("gpus", "refit"), "kernels", command="verify"),
    Need(("all_mappings",), "lose"),
    Need(("move_cost",), "old"),
)
"""What has no effect without another option, by the names of fields; `lazsim.settings.NEEDS` has the settings of a run.
"""

EXCLUSIONS = (
    ("paths", "kernels"),
    ("only", "refit"),
    ("mtbf_s", "trace"),
    ("cap", "mtbf_s"),
    ("repair_s", "trace"),
    ("trace_path", "listen"),
)
"""Pairs of options of which the first has no effect beside the second."""


def refuse_arguments(context: click.Context, arguments: Sequence[str]) -> None:
    """Raise a UsageError where an option is empty, as of an unset variable, or is repeated without effect."""
    # A value that is missing, or too many, is refused here already.
    with augment_usage_errors(context):
        values, _, order = context.command.make_parser(context).parse_args(list(arguments))
    if any(one.is_eager for one in order):
        return
    for option, times in Counter(order).items():
        if not isinstance(option, click.Option):
            continue
        if times > 1 and not (option.multiple or option.is_flag):
            raise click.UsageError(f"{flag(option)} takes one value: give it once", context)
        given = values[option.name] if option.multiple else [values[option.name]]
        if "" in given:
            raise click.UsageError(f"{flag(option)} '': give a value, or leave it out", context)
        # 1 and 1.0 are one number.
        read = option.type_cast_value(context, given) if option.multiple else ()
        if twice := next((given[at] for at, value in enumerate(read) if value in read[:at]), None):
            raise click.UsageError(f"{flag(option)} {shorten(twice)} is given twice: give it once", context)


def refuse_idle_options(context: click.Context) -> None:
    """Raise a UsageError where an option of a command that has been parsed has no effect."""
    options = {one.name: one for one in context.command.params if isinstance(one, click.Option)}
    for name, other in EXCLUSIONS:
        if name in options and other in options and is_given(context, name) and is_given(context, other):
            first, second = flag(options[name]), flag(options[other])
            raise click.UsageError(f"{first} has no effect beside {second}: leave one of them out", context)
    for need in NEEDS:
        if need.command not in ("", context.info_name) or need.needed not in options:
            continue
        found = context.params[need.needed]
        is_met = bool(found) and str(found).startswith(tuple(value.partition("=")[0] for value in need.values))
        if is_met or (need.beside and not context.params[need.beside]):
            continue
        beside = f" beside {flag(options[need.beside])}" if need.beside else ""
        needed = f"{flag(options[need.needed])} {' or '.join(need.values)}".strip()
        for name in filter(options.__contains__, need.options):
            if is_given(context, name):
                given = flag(options[name])
                raise click.UsageError(
                    f"{given} has no effect without {needed}{beside}: add that, or leave {given} out", context
                )


def refuse_own_input(context: click.Context) -> None:
    """Raise a UsageError where a command would write over a file that it reads, or reads two files from stdin."""
    given = {one: context.params.get(one.name or "") for one in context.command.params}
    texts = {one: value for one, value in given.items() if isinstance(value, str | Path)}
    read = {one: value for one, value in texts.items() if not isinstance(one.type, OutPath)}
    for first, second in pairwise(flag(one) for one, value in read.items() if str(value) == "-"):
        raise click.UsageError(f"{first} and {second} are both stdin: give one of them as a file", context)
    for option, out in given.items():
        if not (isinstance(option.type, OutPath) and option.type.is_file and isinstance(out, Path) and out.exists()):
            continue
        if any(os.path.exists(value) and os.path.samefile(value, out) for value in read.values()):
            raise click.UsageError(f"{flag(option)} {out}: is the file that is read; give another name", context)


def flag(option: click.Parameter) -> str:
    """Return an option as a user writes it."""
    return max(option.opts, key=len)


def is_given(context: click.Context, name: str) -> bool:
    """Return whether the user gave an option, if only in the environment."""
    return context.get_parameter_source(name) in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
