"""What a command tells the user on stderr, in the words of the command line."""

import shutil
import sys

import click

from lazsim.cli.base.messages import with_options
from lazsim.errors import printable


def told(text: str) -> str:
    """Return a text for the user: fields that it names are the options of the command that runs."""
    context, commands = click.get_current_context(silent=True), list[click.Command]()
    while context is not None:
        commands.insert(0, context.command)
        context = context.parent
    return with_options(text, commands, arguments())


def note(*texts: str) -> None:
    """Tell the user something on stderr, once, on a terminal without a broken word."""
    context = click.get_current_context(silent=True)
    known = set() if context is None else context.meta.setdefault("lazsim.notes", set())
    new = [text for text in dict.fromkeys(texts) if text not in known]
    known.update(new)
    for text in new:
        line = printable(f"note: {told(text)}")
        if sys.stderr.isatty():
            from lazsim.output.table import wrap

            line = "\n".join(wrap(line, shutil.get_terminal_size().columns, "  "))
        click.echo(line, err=True)


def arguments() -> list[str]:
    """Return the arguments of the user; none outside a command."""
    context = click.get_current_context(silent=True)
    return [] if context is None else list(context.meta.get("lazsim.arguments", ()))
