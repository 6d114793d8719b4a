"""Turn the fields that a message of the library names into options of the command line."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from lazsim.cli.base.effects import flag, is_given, refuse_arguments, refuse_idle_options, refuse_own_input
from lazsim.errors import did_you_mean, printable, unknown_name
from lazsim.limits import OF_MAPPINGS

ELSEWHERE = {
    "--nodes": "--max-nodes", "--max-nodes": "--nodes",
    "--fault-threshold": "--min-replicas", "--min-replicas": "--fault-threshold",
}  # fmt: skip
"""Options that other commands have under another name."""

RATES = {"--trace": "lazsim trace generate makes a file of it, for --trace; "}
INSTEAD = {
    "--node-mtbf": RATES, "--repair": RATES, "--shape": RATES,
    "--model": {"--experts": "lazsim list models NAME tells num_experts, for --experts; "},
}  # fmt: skip
"""Options that other commands have, and by the option that does in their place, what to give that."""

LONGEST = 400
"""Characters of a message, the longest text that is read at a glance."""

SHORTEST_NAME = 60
"""Characters that are left of the longest name in it, such as a path."""

UNBROKEN = "\N{NON-BREAKING HYPHEN}"
"""What stands for a hyphen, at which no line may break, until a text is wrapped."""

FIELD = r"`(?P<field>[\w.-]+)`"
"""How the library names a field in a message; see `lazsim.errors`."""

QUOTED = r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(?!\w)"""
"""How it quotes what a user wrote, which stays as it is."""


def with_options(text: str, commands: Sequence[click.Command], arguments: Sequence[str] = ()) -> str:
    """Write each field as the option that sets it, by any of its names; a field that no command has stays a plain word.

    `commands` are the command that runs, after the groups that it belongs to, and `arguments` those of the user, which
    stay as they are. A command that reads traces without options for them is told those of ``lazsim trace convert``.

    Examples
    --------
    >>> options = [click.Option(["--gpus-per-node"]), click.Option(["--policy", "chosen"])]
    >>> command = click.Command("place", params=options)
    >>> with_options("`gpus_per_node` 3: does not divide `slots`; see `policy`", [command])
    '--gpus-per-node 3: does not divide slots; see --policy'
    >>> with_options("`max_nodes` 10 keeps to that", [click.Command("advise", params=[click.Option(["--nodes"])])])
    '--nodes 10 keeps to that'
    >>> with_options("`policy` `slots`: unknown policy '`slots`'", [command], ["place", "--policy", "`slots`"])
    "--policy `slots`: unknown policy '`slots`'"
    """
    if "`" not in text:
        return text
    options: dict[str, str] = {}
    for command in commands:
        for option in command.params:
            if isinstance(option, click.Option):
                options |= {name.lstrip("-").replace("-", "_"): name for name in option.opts}
                options.setdefault(option.name or "", flag(option))
    for name, elsewhere in ELSEWHERE.items():
        if elsewhere in options.values():
            options.setdefault(name[2:].replace("-", "_"), elsewhere)
    if "failures_from" in options and "columns" not in options:
        options |= {field: f"--{field.replace('_', '-')} of lazsim trace convert" for field in OF_MAPPINGS}
    if "routing" in options:
        options.setdefault("lenient", "--lenient of lazsim routing convert")
    own = {one for given in arguments for one in (given, given.partition("=")[2], Path(given).name) if "`" in one}
    kept = "|".join((*map(re.escape, sorted(own, key=len, reverse=True)), QUOTED))

    def written(found: re.Match[str]) -> str:
        field = found["field"]
        return found[0] if field is None else options.get(field, field)

    return re.sub(f"{kept}|{FIELD}", written, text)


def usage_message(error: click.ClickException) -> str:
    """Say what is wrong with the arguments as errors of lazsim do: the option first, then what it may be."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        known = [name for option in error.ctx.command.params for name in option.opts if name.startswith("--")]
        near = did_you_mean(error.option_name.lstrip("-"), [name[2:] for name in known]).replace("'", "'--", 1)
        if (elsewhere := ELSEWHERE.get(error.option_name)) in known:
            near = f"did you mean '{elsewhere}'? "
        near = next((told for name, told in INSTEAD.get(error.option_name, {}).items() if name in known), near)
        return f"unknown option {error.option_name!r}: {near}see {error.ctx.command_path} --help"
    param = error.param if isinstance(error, click.BadParameter) else None
    if isinstance(error, click.BadOptionUsage) and error.ctx is not None:
        param = next((one for one in error.ctx.command.get_params(error.ctx) if error.option_name in one.opts), None)
        if isinstance(param, click.Option) and param.is_flag:
            return f"{error.option_name} takes no value: give it alone"
    name = max(param.opts, key=len) if isinstance(param, click.Option) else param and param.human_readable_name
    if isinstance(error, click.MissingParameter | click.BadOptionUsage) and error.ctx is not None and name:
        words = f": {', '.join(map(str, param.type.choices))}" if param and isinstance(param.type, click.Choice) else ""
        kind = f" {param.metavar or param.type.name.upper()}" if isinstance(param, click.Option) and not words else ""
        return f"give {name}{kind}{words}; see {error.ctx.command_path} --help"
    if isinstance(error, click.BadParameter) and param:
        return f"{name}: {error.message}"
    # Choices stand in lines of their own.
    return error.format_message().replace("\n\t", " ")


def in_a_line(text: str) -> str:
    r"""Write a message in one line; in one that is too long, the longest name loses its middle, then the line.

    Examples
    --------
    >>> in_a_line("a\nb: cannot be read"), len(in_a_line("a" * 100_000 + ": cannot be read"))
    ('a\\nb: cannot be read', 400)
    >>> told = in_a_line(f"{'folder/' * 20}t.csv: {'no node is told, ' * 18} --columns node=who says which")
    >>> told[:15], len(told), told[-19:]
    ('folder/folder/f', 400, 'node=who says which')
    """
    text = printable(text)
    name = max(text.split(), key=len, default="")
    shorter = _without_middle(name, max(SHORTEST_NAME, len(name) - len(text) + LONGEST))
    return _without_middle(text.replace(name, shorter, 1), LONGEST)


def _without_middle(text: str, longest: int) -> str:
    first, last = longest // 2, longest - longest // 2 - len(" ... ")
    return text if len(text) <= longest else f"{text[:first]} ... {text[-last:]}"


class HelpFormatter(click.HelpFormatter):
    """Help that breaks no name at its hyphens, with less room on the left of a narrow terminal."""

    def write_text(self, text: str) -> None:
        """Write paragraphs."""
        super().write_text(text.replace("-", UNBROKEN))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write options or commands."""
        unbroken = [(name, text.replace("-", UNBROKEN)) for name, text in rows]
        super().write_dl(unbroken, min(col_max, max(self.width - 48, 11)), col_spacing)

    def getvalue(self) -> str:
        """Return the text."""
        return super().getvalue().replace(UNBROKEN, "-")


class HelpContext(click.Context):
    """The context of a command whose help breaks no name."""

    formatter_class = HelpFormatter


class Checked(click.Command):
    """A command that refuses options without effect, and arguments of no option."""

    allow_extra_args = True
    context_class = HelpContext

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, and check that each option has an effect."""
        if not ctx.resilient_parsing:
            refuse_arguments(ctx, args)
        left = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            if left and not isinstance(self, click.Group):
                words = f"argument{'s' * (len(left) > 1)} ({' '.join(left)})"
                raise click.UsageError(f"unexpected {words}: no option takes it; see {ctx.command_path} --help", ctx)
            refuse_idle_options(ctx)
            refuse_own_input(ctx)
        return left


class CommandGroup(Checked, click.Group):
    """A group that names the command nearest to one that it does not have."""

    command_class = Checked

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with all of their first sentences, which click cuts at the end of a line."""
        with formatter.section("Commands"):
            found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
            formatter.write_dl([(name, command.get_short_help_str(1000)) for name, command in found if command])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that arguments call."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            raise click.UsageError(unknown_name("command", name, self.list_commands(ctx)), ctx)
        for option in self.params:
            if is_given(ctx, option.name or ""):
                raise click.UsageError(
                    f"{flag(option)} has no effect on {ctx.command_path} {name}: give it after {name}, or leave it out"
                )
        return super().resolve_command(ctx, args)


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
