"""Pages that are made when the documentation is built: the command line, and lists of modules.

A page asks for them by a comment: ``<!-- commands -->``, ``<!-- public names -->`` or ``<!-- modules of PACKAGE -->``.
"""

import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import click

import lazsim
from lazsim.cli.base.group import cli

MODULES = re.compile(r"<!-- modules of (\S+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what a page asks for; called by MkDocs for each page."""
    if "<!-- commands -->" in markdown:
        context = click.Context(cli, info_name="lazsim", show_default=True)
        markdown = markdown.replace("<!-- commands -->", "\n\n".join(describe_command(context)))
    if "<!-- public names -->" in markdown:
        markdown = markdown.replace(
            "<!-- public names -->",
            "\n\n".join(map(describe_name, sorted(lazsim.__all__, key=lambda name: (not name[0].islower(), name)))),
        )
    return MODULES.sub(lambda match: "\n\n".join(describe_modules(match[1])), markdown)


def describe_command(context: click.Context) -> Iterator[str]:
    """Yield a section for a command and for each command below it."""
    command = context.command
    yield f"{'#' * (context.command_path.count(' ') + 2)} {context.command_path}"
    yield "```text\n" + command.get_help(context) + "\n```"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from describe_command(click.Context(child, parent=context, info_name=name, max_content_width=100))


def describe_name(name: str) -> str:
    """Return the directive for a name that ``lazsim`` exports."""
    found = getattr(lazsim, name)
    if not hasattr(found, "__qualname__"):
        return f"## `lazsim.{name}`\n\n`{found!r}`"
    options = [
        f"heading: lazsim.{name}",
        f"toc_label: {name}",
        "show_root_heading: true",
        "skip_local_inventory: true",  # The page of its package is the one that links lead to.
    ]
    return directive(f"{found.__module__}.{found.__qualname__}", options)


def describe_modules(package: str) -> Iterator[str]:
    """Yield the directive for each module of a package, in alphabetical order."""
    for module in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
        if not module.name.rpartition(".")[2].startswith("_"):
            yield directive(module.name, ["show_root_heading: true", "show_root_full_path: true"])
            if module.ispkg:
                yield from describe_modules(module.name)


def directive(path: str, options: list[str]) -> str:
    """Return the lines that make mkdocstrings show the docstrings of an object."""
    return "\n".join([f"::: {path}", "    options:", *(f"      {option}" for option in options)])
