"""``lazsim trace``: inspect, convert, generate, fit, fetch and plot traces of node events."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lazsim.cli.common import OUT, json_option, note, print_json, seed_option
from lazsim.cli.replay import max_nodes_option, read_stretch, replay_options
from lazsim.errors import LazsimError
from lazsim.files import write_whole
from lazsim.trace import Trace, load_recipe, trace_bytes, trace_stats
from lazsim.trace.fetch import BASE_URL, BASE_URL_VARIABLE
from lazsim.trace.stats import TraceStats, sparkline
from lazsim.units import format_duration

if TYPE_CHECKING:
    from rich.table import Table

Function = TypeVar("Function", bound=Callable[..., Any])
WIDTH = 80
WRITERS = {"lazsim": trace_bytes}


def reading_options(function: Function) -> Function:
    """Add the argument FILE and the options of reading, cutting and capping it."""
    for decorate in (seed_option, max_nodes_option, replay_options, click.argument("path", metavar="FILE")):
        function = decorate(function)
    return function


def _tell_notes(trace: Trace) -> None:
    for text in trace.notes:
        note(text)


@click.group()
def command() -> None:
    """Inspect, convert, generate, fit, fetch and plot traces."""


@command.command()
@reading_options
@json_option
def info(as_json: bool, **reading: Any) -> None:
    """Print the statistics of FILE and a sparkline of its nodes over time."""
    trace = read_stretch(**reading)
    stats = trace_stats(trace)
    _tell_notes(trace)
    if as_json:
        head = {"name": trace.name, "format": trace.format, "sha256": trace.sha256, "num_events": len(trace)}
        print_json({**head, **dataclasses.asdict(stats), "notes": trace.notes, "sparkline": sparkline(trace)})
        return
    table = _table(f"{Path(trace.name).name} ({trace.format})", "", "")
    for label, value in _stats_rows(stats):
        table.add_row(label, value)
    _print(table)
    click.echo(f"nodes alive, 0 to {stats.peak_nodes}, over {format_duration(stats.span_s)}:\n{sparkline(trace, 76)}")


def _stats_rows(stats: TraceStats) -> list[tuple[str, str]]:
    per_hour = stats.removals_per_node_hour
    mean = _known(stats.mean_nodes, ".4g")
    alive = f"{mean} mean, {stats.min_nodes} to {stats.peak_nodes}, {stats.initial_nodes} at the start"
    return [
        ("span", format_duration(stats.span_s)),
        ("distinct nodes", f"{stats.num_nodes}"),
        ("nodes alive", alive),
        ("node hours", f"{stats.node_hours:.4g}"),
        ("losses", f"{stats.num_losses} instants, {stats.num_removals} nodes"),
        ("lost per node-hour", f"{_known(per_hour, '.4g')}  ({_known(per_hour * 24e3, '.4g')} per 1000 node-days)"),
        ("nodes per loss", f"{_known(stats.loss_size_mean, '.3g')} mean, {stats.loss_size_max} at most"),
        ("losses that take all", _known(stats.take_all_share, ".1%")),
        ("life time, ended", f"{_duration(stats.lifetime_median_s)} median, {_duration(stats.lifetime_mean_s)} mean"),
        ("alive at the end", f"{stats.num_censored} nodes, not in the life times"),
        (
            "between losses",
            f"{_duration(stats.loss_gap_mean_s)} mean, coefficient of variation {_known(stats.loss_gap_cv, '.2f')}",
        ),
        ("burstiness", f"{_known(stats.burstiness, '+.2f')}  (-1 clock, 0 Poisson, +1 bursts)"),
    ]


def _known(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _duration(seconds: float) -> str:
    return "-" if math.isnan(seconds) else format_duration(seconds)


def _table(title: str, *columns: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=any(columns), box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index and any(columns) else "left")
    return table


def _print(table: "Table") -> None:
    from rich.console import Console

    Console(width=WIDTH, highlight=False).print(table)


@command.command()
@reading_options
@click.option("--to", type=click.Choice(list(WRITERS)), default="lazsim", show_default=True, help="Format to write.")
@click.option("--out", required=True, type=OUT, help="File to write.")
def convert(to: str, out: Path, **reading: Any) -> None:
    """Write FILE, or a stretch of it, in lazsim's own format."""
    trace = read_stretch(**reading)
    write_whole(out, WRITERS[to](trace, {"source": Path(trace.name).name, "source_sha256": trace.sha256}))
    _tell_notes(trace)
    note(f"{out}: {len(trace)} events of {len(trace.names)} nodes over {format_duration(trace.duration_s)}")


@command.command()
@click.argument("spec")
@seed_option
@click.option("--out", required=True, type=OUT, help="File to write.")
def generate(spec: str, seed: int, out: Path) -> None:
    """Make a trace from SPEC, a recipe of the catalogue or a TOML file, in lazsim's own format."""
    from lazsim.trace.generate import generated_bytes

    write_whole(out, generated_bytes(load_recipe(spec), seed, Path(spec).stem if spec.endswith(".toml") else spec))
    note(f"{out}: recipe {spec}, seed {seed}")


@command.command()
@reading_options
@click.option("--seeds", type=click.IntRange(min=1), default=20, show_default=True, help="Traces to compare with.")
@click.option("--out", type=OUT, help="TOML file to write the recipe to.")
@json_option
def fit(seeds: int, out: Path | None, as_json: bool, **reading: Any) -> None:
    """Find a spot recipe for FILE; print it and how its traces compare with FILE."""
    import msgspec

    from lazsim.trace.fit import fit_spot, fit_table
    from lazsim.trace.recipes import recipe_toml

    trace = read_stretch(**reading)
    recipe = fit_spot(trace)
    frame = fit_table(trace, recipe, range(seeds))
    if out is not None:
        write_whole(out, f"# Spot trace like {Path(trace.name).name}.\n{recipe_toml(recipe)}".encode())
    _tell_notes(trace)
    if as_json:
        print_json({"recipe": msgspec.to_builtins(recipe), "seeds": seeds, "fit": frame.to_dict(orient="index")})
        return
    click.echo(recipe_toml(recipe))
    table = _table(f"{Path(trace.name).name} against {seeds} generated traces", "statistic", *frame.columns)
    for name, *values in frame.itertuples():
        table.add_row(str(name), *(f"{value:.4g}" for value in values))
    _print(table)


@command.command()
@click.argument("name")
@click.option("--out", type=OUT, help="File to write; by default the file's own name, here.")
@click.option(
    "--base-url", default=BASE_URL, envvar=BASE_URL_VARIABLE, show_default=True, show_envvar=True,
    help="Where repositories lie: a mirror with the layout of raw.githubusercontent.com.",
)  # fmt: skip
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of fetched files; by default the user's cache.")
def fetch(name: str, out: Path | None, base_url: str, cache: Path | None) -> None:
    """Fetch the public trace NAME at its pinned commit and check its SHA-256."""
    from lazsim.trace.fetch import fetch_trace
    from lazsim.trace.recipes import PublicSpec

    content = fetch_trace(name, base_url, cache)
    public = load_recipe(name)
    assert isinstance(public, PublicSpec)
    target = Path(Path(public.path).name) if out is None else out
    write_whole(target, content)
    note(f"{target}: {len(content)} bytes from {public.repository} at {public.commit}, licence: {public.licence}")


@command.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the recipes and public traces of the catalogue."""
    from lazsim.trace.recipes import describe_recipe, list_recipes

    recipes = list_recipes()
    if as_json:
        kinds = {name: str(type(recipe).__struct_config__.tag) for name, recipe in recipes.items()}
        print_json({"traces": {name: {"kind": kinds[name], "description": describe_recipe(name)} for name in recipes}})
        return
    for title, tags in (("generate", ("spot", "schedule")), ("fetch", ("public",))):
        table = _table(f"lazsim trace {title} NAME", "", "")
        for name, recipe in recipes.items():
            if type(recipe).__struct_config__.tag in tags:
                table.add_row(name, describe_recipe(name))
        _print(table)
        click.echo()
    click.echo("One's own: a .toml file of the same shape; lazsim trace fit --out F.toml writes one.")


@command.command()
@reading_options
@click.option("--out", required=True, type=OUT, help="Picture to write: .png or .pdf.")
def plot(out: Path, **reading: Any) -> None:
    """Draw the nodes alive over time in FILE, with losses marked."""
    file_type = out.suffix.removeprefix(".").lower()
    if file_type not in ("png", "pdf"):
        raise LazsimError(f"--out {out}: give a name that ends in .png or .pdf")
    from lazsim.output.plots.trace import draw_trace

    trace = read_stretch(**reading)
    write_whole(out, draw_trace(trace, file_type))
    _tell_notes(trace)
    note(f"{out}: written")
