"""What a command tells: its result, on stdout and in the folder of ``--out``, and notes on stderr."""

import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.messages import with_options
from lazsim.cli.base.options import WORKER_OPTIONS, kept
from lazsim.errors import printable

if TYPE_CHECKING:
    from lazsim.output.report import Report
    from lazsim.output.table import Part

REPORT = "report.html"

MESSAGES = {"notes", "error", "skipped", "why", "reason", "no_plan", "remarks"}
"""Fields of results that hold messages."""


def told(text: str) -> str:
    """Return a text for the user: fields that it names are the options of the command that runs."""
    context, commands = click.get_current_context(silent=True), list[click.Command]()
    while context is not None:
        commands.insert(0, context.command)
        context = context.parent
    return with_options(text, commands, arguments())


def note(*texts: str) -> None:
    """Tell the user something on stderr, once."""
    context = click.get_current_context(silent=True)
    known = set() if context is None else context.meta.setdefault("lazsim.notes", set())
    new = [text for text in dict.fromkeys(texts) if text not in known]
    known.update(new)
    for text in new:
        say(printable(f"note: {told(text)}"))


def say(line: str) -> None:
    """Write a line on stderr, on a terminal without a broken word."""
    if sys.stderr.isatty():
        from lazsim.output.table import wrap

        line = "\n".join(wrap(line, shutil.get_terminal_size().columns, "  "))
    click.echo(line, err=True)


def arguments() -> list[str]:
    """Return the arguments of the user; none outside a command."""
    context = click.get_current_context(silent=True)
    return [] if context is None else list(context.meta.get("lazsim.arguments", ()))


def print_parts(parts: "Iterable[Part]") -> None:
    """Print the tables and paragraphs of a report on stdout."""
    from lazsim.output.table import render

    click.echo(render(map(_told_part, parts)))


def _told_part(part: "Part") -> "Part":
    from lazsim.output.table import Table

    if isinstance(part, str):
        return told(part)
    if not isinstance(part, Table):
        return list(map(told, part))
    return replace(part, title=told(part.title), notes=[told(text) for text in part.notes])


def show(
    result: Any,
    parts: "Callable[[Any], Iterable[Part]]",
    notes: Iterable[str] | None = None,
    *,
    kept_as: str = "",
    files: Callable[[Any], Mapping[str, bytes]] = lambda _: {},
    report: "Callable[[Any], Report] | None" = None,
    beside: Iterable[str] = (),
) -> None:
    """Print a result on stdout as JSON or as tables and paragraphs, then tell the notes on it on stderr.

    A result is plain data, or has it as `to_json`; its notes are its own where none are given. Its JSON where it has a
    name to be kept as, its files, and a report where there is one, are written to the folder of ``--out`` first, in
    place of those of the command's earlier result, `beside` files that are there.
    """
    from lazsim.files.writing import json_bytes

    if isinstance(result, dict) and notes is not None:
        result = result | {"notes": list(notes)}
    notes = getattr(result, "notes", ()) if notes is None else notes
    out: Path | None = kept("out")
    written: list[str] = []
    try:
        if out is not None:
            contents = {kept_as: json_bytes(_plain(result))} if kept_as else {}
            contents |= files(result)
            if report is not None:
                contents[REPORT] = page(report(result), parts(result), notes, contents)
            written = write_results(out, click.get_current_context().command_path, contents)
    finally:
        # Where its files cannot be written, as on a full disk, the result of minutes is not lost.
        if kept("as_json"):
            print_json(_plain(result))
        else:
            print_parts(parts(result))
        note(*notes)
    if out is not None:
        note(f"results are in {out}/: {', '.join([*beside, *written])}")


def _plain(result: Any) -> Any:
    return result if isinstance(result, dict) else result.to_json()


def page(report: "Report", parts: "Iterable[Part]", notes: Iterable[str], files: Mapping[str, bytes]) -> bytes:
    """Return the page of a result with these files; the folder that it is written to is no part of it."""
    from lazsim.output.report import report_page

    return report_page(report, map(_told_part, parts), [told(text) for text in notes], _command_line(), files)


def write_results(folder: Path, kind: str, contents: Mapping[str, bytes]) -> list[str]:
    """Write the files of a result, and return their names; texts in JSON name options, as those on stderr do."""
    from lazsim.files.folders import write_folder

    texts = {name: _told_json(content) for name, content in contents.items() if name.endswith(".json")}
    return write_folder(folder, kind, {**contents, **texts})


def _told_json(content: bytes) -> bytes:
    """Return JSON whose messages name options; names of files and nodes stay, whatever they are."""
    # A large file without any is not read.
    if b"`" not in content:
        return content
    import json

    from lazsim.files.writing import json_bytes

    return json_bytes(json.loads(content, object_hook=_told_object))


def _told_object(value: dict[str, Any]) -> dict[str, Any]:
    for name in MESSAGES & value.keys():
        if isinstance(value[name], str):
            value[name] = told(value[name])
        elif isinstance(value[name], list):
            value[name] = [told(one) if isinstance(one, str) else one for one in value[name]]
    return value


def _command_line() -> str:
    """Return the command line that is being run, with DIR for the folder of results, without what makes no result."""
    shown, given = ["lazsim"], iter(arguments())
    for argument in given:
        name, equals, _ = argument.partition("=")
        is_out = name == "--out"
        if (is_out or name in WORKER_OPTIONS) and not equals:
            next(given)
        if is_out:
            shown += ["--out", "DIR"]
        elif name not in WORKER_OPTIONS:
            shown.append(argument)
    return shlex.join(shown)


def write_out(path: Path, content: bytes) -> None:
    """Write a file completely or not at all, or to stdout where the path is ``-``."""
    if str(path) == kinds.STDOUT:
        click.echo(content, nl=False)
        return
    from lazsim.files.writing import write_whole

    write_whole(path, content)


def print_json(value: Any) -> None:
    """Print one JSON object on stdout, keys in the order given; arrays become lists."""
    from lazsim.files.writing import json_bytes

    click.echo(_told_json(json_bytes(value)), nl=False)
