"""Parts that several commands share: options, notes, progress, results on stdout and in folders."""

import functools
import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.messages import OneOf, with_options
from lazsim.errors import LazsimError, printable

if TYPE_CHECKING:
    from lazsim.output.report import Report
    from lazsim.output.table import Part

REPORT = "report.html"

MESSAGES = {"notes", "error", "skipped", "why", "reason", "no_plan", "remarks"}
"""Fields of results that hold messages."""

STATUS = "lazsim.status"
"""Place in the context of a command of what it shows until its progress bar."""

ItemT = TypeVar("ItemT")


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
    metavar="N",
    help="First MoE layer, where loads number layers as the model does; dense layers before it are left out.",
)
seed_option = click.option("--seed", type=kinds.WHOLE, default=0, help="Seed of every draw.")


def out_option(text: str, *names: str, **others: Any) -> Callable[[Any], Any]:
    """Return the option of a folder for files of these names; see `lazsim.cli.base.kinds.OutFolder`."""
    given: dict[str, Any] = {"expose_value": False, "callback": keep, "metavar": "DIR"} | others
    return click.option("--out", type=kinds.OutFolder(*names), help=text, **given)


def options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return one decorator that adds several options, in the order given."""
    return lambda function: functools.reduce(lambda made, add: add(made), reversed(decorators), function)


def options_of(command: click.Command, without: Collection[str]) -> list[click.Parameter]:
    """Return the options of a command, but those of some names, for another command."""
    return [option for option in command.params if option.name not in without]


jobs_option = click.option(
    "--jobs", "num_workers", type=kinds.WORKERS, metavar="N", help="Worker processes; default: one for each core."
)
backend_option = click.option(
    "--backend", type=OneOf(("loky", "ray")), default="loky", help="Processes of this machine, or a Ray cluster."
)
worker_options = options(
    backend_option,
    jobs_option,
    click.option("--address", metavar="ADDRESS", help="An existing Ray cluster; default: RAY_ADDRESS, else a new one."),
)
WORKER_OPTIONS = ("--backend", "--jobs", "--address")
"""These say who makes the runs, on which no result depends."""


def told(text: str) -> str:
    """Return a text for the user: fields that it names are the options of the command that runs."""
    context, commands = click.get_current_context(silent=True), list[click.Command]()
    while context is not None:
        commands.insert(0, context.command)
        context = context.parent
    return with_options(text, commands, _arguments())


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


def _arguments() -> list[str]:
    context = click.get_current_context(silent=True)
    return [] if context is None else list(context.meta.get("lazsim.arguments", ()))


def _can_show_progress() -> bool:
    """Tell whether stderr is a terminal that can go back."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def working(doing: str = "reading inputs and choosing layouts") -> Iterator[None]:
    """Show on stderr, where that is a terminal that can go back, what is being done, until a progress bar follows."""
    if not _can_show_progress():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(doing) as status:
        click.get_current_context().meta[STATUS] = status
        yield


@contextmanager
def progress_bar(num_done: int, num_total: int | None, doing: str = "runs") -> Iterator[Callable[..., None]]:
    """Show on stderr, where that is a terminal that can go back, the runs that are done and the time for the others.

    Yield what is called with the runs, or parts of them, done since the last call, and the name of the next if it is to
    be told. How many there are need not be known.
    """
    if not _can_show_progress():
        yield lambda *_: None
        return
    from rich import progress as rich
    from rich.console import Console

    if (status := click.get_current_context().meta.pop(STATUS, None)) is not None:
        status.stop()
    name, left = rich.TextColumn("{task.description}", markup=False), rich.TextColumn("left")
    times = (rich.TimeElapsedColumn(), rich.TimeRemainingColumn(), left)
    columns = (name, rich.BarColumn(), rich.MofNCompleteColumn(), *times)
    with rich.Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=60) as bar:
        task = bar.add_task(doing, total=num_total, completed=num_done)

        def advance(number: float, item: str = "") -> None:
            bar.update(task, advance=number, description=f"{doing} {printable(item)}" if item else None)

        yield advance


def progress(items: Iterable[ItemT], doing: str = "simulating") -> Iterable[ItemT]:
    """Yield items behind a progress bar, which tells their names."""
    items = list(items)
    with progress_bar(0, len(items), doing) as advance:
        for item in items:
            advance(0, item if isinstance(item, str) else "")
            yield item
            advance(1)


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
) -> None:
    """Print a result on stdout as JSON or as tables and paragraphs, then tell the notes on it on stderr.

    A result is plain data, or has it as `to_json`; its notes are its own where none are given. Its JSON where it has a
    name to be kept as, its files, and a report where there is one, are written to the folder of ``--out`` first, in
    place of those of the command's earlier result.
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
        note(f"results are in {out}/: {', '.join(written)}")


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
    shown, given = ["lazsim"], iter(_arguments())
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


COMPILED_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""Environment variable of the folder in which torch keeps what it compiles."""


def require_torch(doing: str) -> None:
    """Refuse to go on without torch, and say how to install it."""
    if importlib.util.find_spec("torch") is None:
        raise LazsimError(f"{doing} torch, which is not installed: pip install 'lazsim[live]'")
    if COMPILED_VARIABLE not in os.environ:
        from lazsim.files.writing import scratch_folder

        # Torch makes a folder for what it compiles, which is nothing here, and leaves it.
        context = click.get_current_context()
        os.environ[COMPILED_VARIABLE] = str(context.with_resource(scratch_folder()))
        context.call_on_close(lambda: os.environ.pop(COMPILED_VARIABLE, None))


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
