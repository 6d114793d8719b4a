"""Options that several commands share."""

import functools
from collections.abc import Callable, Collection
from typing import Any

import click

from lazsim.cli.base import kinds


def keep(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Keep the value of ``--json`` or ``--out`` of a command for `show`, so that no command passes it on."""
    context.meta[f"lazsim.{option.name}"] = value
    return value


def kept(name: str) -> Any:
    """Return a value kept by `keep`; None where the command has no such option."""
    return click.get_current_context().meta.get(f"lazsim.{name}")


json_option = click.option(
    "--json", "as_json", is_flag=True, expose_value=False, callback=keep, help="Print one JSON object on stdout."
)
layers_from_option = click.option(
    "--layers-from",
    type=kinds.LAYER,
    default=0,
    show_default=False,
    help="First MoE layer, where loads number layers as the model does; dense layers before it are left out.",
)
seed_option = click.option("--seed", type=kinds.WHOLE, default=0, help="Seed of every draw.")


def out_option(text: str, *names: str, **others: Any) -> Callable[[Any], Any]:
    """Return the option of a folder for files of these names; see `lazsim.cli.base.kinds.OutFolder`."""
    given: dict[str, Any] = {"expose_value": False, "callback": keep} | others
    return click.option("--out", type=kinds.OutFolder(*names), help=text, **given)


def options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return one decorator that adds several options, in the order given."""
    return lambda function: functools.reduce(lambda made, add: add(made), reversed(decorators), function)


def options_of(command: click.Command, without: Collection[str]) -> list[click.Parameter]:
    """Return the options of a command, but those of some names, for another command."""
    return [option for option in command.params if option.name not in without]


jobs_option = click.option(
    "--jobs", "num_workers", type=kinds.WORKERS, help="Worker processes; default: one for each core."
)
backend_option = click.option(
    "--backend", type=kinds.OneOf(("loky", "ray")), default="loky", help="Processes of this machine, or a Ray cluster."
)
worker_options = options(
    backend_option,
    jobs_option,
    click.option("--address", metavar="ADDRESS", help="An existing Ray cluster; default: RAY_ADDRESS, else a new one."),
)
WORKER_OPTIONS = ("--backend", "--jobs", "--address")
"""These say who makes the runs, on which no result depends."""
