"""Turn the fields that a message of the library names into options of the command line."""

import re
from collections.abc import Sequence

import click

FIELD = re.compile(r"`(\w+)`")
"""How the library names a field in a message; see `lazsim.errors`."""


def with_options(text: str, commands: Sequence[click.Command]) -> str:
    """Write each field as the option that sets it; a field that no command has stays a plain word.

    `commands` are the command that runs, after the groups that it belongs to.

    Examples
    --------
    >>> options = [click.Option(["--gpus-per-node"]), click.Option(["--policy", "chosen"])]
    >>> command = click.Command("place", params=options)
    >>> with_options("`gpus_per_node` 3: does not divide `slots`; see `policy`", [command])
    '--gpus-per-node 3: does not divide slots; see --policy'
    """
    options: dict[str, str] = {}
    for command in commands:
        for option in command.params:
            if isinstance(option, click.Option):
                flag = max(option.opts, key=len)
                options |= {name.lstrip("-").replace("-", "_"): name for name in option.opts}
                options.setdefault(option.name or "", flag)
    return FIELD.sub(lambda field: options.get(field[1], field[1]), text)


def called_commands(group: click.Group, context: click.Context, arguments: Sequence[str]) -> list[click.Command]:
    """Return the commands that arguments call, outermost first."""
    for argument in arguments:
        command = group.get_command(context, argument)
        if command is not None:
            return [
                command,
                *(called_commands(command, context, arguments) if isinstance(command, click.Group) else ()),
            ]
    return []
