"""``lazsim trace``: inspect, convert, generate, fit, fetch and plot traces of node events."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.messages import CommandGroup
from lazsim.cli.base.options import json_option, kept, options, seed_option
from lazsim.cli.base.replay import max_nodes_option, rate_options, read_stretch, replay_options
from lazsim.cli.base.results import note, print_json, print_parts, show, told, write_out
from lazsim.trace import load_recipe, trace_bytes, trace_stats
from lazsim.trace.fetch import BASE_URL, BASE_URL_VARIABLE
from lazsim.trace.stats import rate_note
from lazsim.units import counted, format_duration

reading_options = options(click.argument("path", metavar="FILE"), replay_options, max_nodes_option, seed_option)
"""FILE, and the options of reading, cutting and capping it."""


@click.group(cls=CommandGroup)
def command() -> None:
    """Inspect, convert, generate, fit, fetch and plot traces. FILE may also be a recipe."""


@command.command()
@reading_options
@json_option
def info(**reading: Any) -> None:
    """Print the statistics of FILE, and a sparkline of its nodes over time."""
    from lazsim.output.trace import sparkline, trace_parts

    trace = read_stretch(**reading)
    stats = trace_stats(trace)
    notes = [*trace.notes, *rate_note(stats)]
    head = {"name": trace.name, "format": trace.format, "sha256": trace.sha256, "num_events": len(trace)}
    found = {**head, **dataclasses.asdict(stats), "notes": notes, "sparkline": sparkline(trace)}
    show(found, lambda _: trace_parts(trace, stats), notes)


@command.command()
@reading_options
@click.option("--to", type=kinds.OneOf(("lazsim",)), default="lazsim", expose_value=False, help="Format to write.")
@click.option("--out", required=True, type=kinds.OUT_FILE_OR_STDOUT, help="File to write; - is stdout.")
def convert(out: Path, **reading: Any) -> None:
    """Write FILE, or a stretch of it, in lazsim's own format."""
    trace = read_stretch(**reading)
    trace = dataclasses.replace(trace, notes=tuple(map(told, trace.notes)))
    write_out(out, trace_bytes(trace, {"source": Path(trace.name).name, "source_sha256": trace.sha256}))
    found = f"{counted(len(trace), 'event')} of {counted(len(trace.names), 'node')}"
    note(*trace.notes, f"{out}: {found} over {format_duration(trace.duration_s)}")


mtbf_options = options(
    click.option("--nodes", "num_nodes", type=kinds.NODES, help="Nodes of the cluster."),
    rate_options,
    click.option("--new-nodes", is_flag=True, default=None, help="All nodes are new: infant failures come first."),
    click.option(
        "--repair-sigma", type=kinds.Number(0), help="Spread of a log-normal repair time; default: exponential."
    ),
    click.option(
        "--batch-share", type=kinds.Number(0, 1), help="Share of a node's failures that take a batch of nodes with it."
    ),
    click.option("--domains", "num_domains", type=kinds.NODES, help="Racks or the like: a batch is all nodes of one."),
    click.option("--cluster", metavar="NAME|TOML", help="Has the nodes, and the domains that --batch-share lets fail."),
    click.option("--batch-nodes", type=kinds.NODES, help="Nodes of a batch, anywhere in the cluster."),
    click.option("--duration", "duration_s", type=kinds.DURATION, help="Length of the trace; default: 30d, or SPEC's."),
)
"""Fields of a recipe of failures and repairs; an option's name is that of the field."""


@command.command()
@click.argument("spec", required=False)
@mtbf_options
@seed_option
@click.option(
    "--out", default="-", show_default=False, type=kinds.OUT_FILE_OR_STDOUT, help="File to write; default: stdout."
)
def generate(spec: str | None, seed: int, cluster: str | None, out: Path, **fields: Any) -> None:
    """Make a trace, in lazsim's own format.

    SPEC is a recipe of the catalogue or a TOML file, and options change its fields. Without it, give --nodes,
    --node-mtbf and --repair.
    """
    from lazsim.specs import ClusterSpec, load_spec
    from lazsim.trace.generate import generated_bytes
    from lazsim.trace.recipes import change_recipe

    name = "mtbf" if spec is None else Path(spec).stem if spec.endswith(".toml") else spec
    nodes = None if cluster is None else load_spec(ClusterSpec, cluster, "cluster")
    recipe = change_recipe(spec, {field: value for field, value in fields.items() if value is not None}, nodes)
    write_out(out, generated_bytes(recipe, seed, name))
    note(f"{out}: recipe {name}, seed {seed}")


@command.command()
@reading_options
@click.option(
    "--kind",
    type=kinds.OneOf(("auto", "spot", "mtbf")),
    default="auto",
    help="spot: the recipe grants new nodes. mtbf: its nodes fail and are repaired. auto: mtbf where nodes come back "
    "by name.",
)
@click.option("--seeds", type=kinds.COMPARED, default=20, help="Traces to compare with.")
@click.option("--out", type=kinds.OUT_FILE, help="TOML file to write the recipe to.")
@json_option
def fit(kind: str, seeds: int, out: Path | None, **reading: Any) -> None:
    """Find a recipe for FILE; print it, and compare its traces with FILE."""
    import msgspec

    from lazsim.output.trace import fit_table
    from lazsim.trace.fit import compare_fit, fit_notes, fit_recipe
    from lazsim.trace.recipes import recipe_toml

    trace = read_stretch(**reading)
    recipe = fit_recipe(trace, kind)
    frame = compare_fit(trace, recipe, range(seeds))
    notes = [*trace.notes, *fit_notes(trace, recipe, frame)]
    if out is not None:
        write_out(out, recipe_toml(recipe, [f"Trace like {Path(trace.name).name}."]).encode())
    if kept("as_json"):
        found = {"recipe": msgspec.to_builtins(recipe), "seeds": seeds, "fit": frame.to_dict(orient="index")}
        print_json({**found, "notes": notes})
    else:
        click.echo(recipe_toml(recipe))
        print_parts([fit_table(trace, frame, seeds)])
    note(*notes)


@command.command()
@click.argument("name")
@click.option(
    "--base-url", default=BASE_URL, envvar=BASE_URL_VARIABLE, show_envvar=True,
    help="Where to fetch from: a mirror of GitHub's raw files.",
)  # fmt: skip
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of fetched files; default: the user's cache.")
@click.option("--out", type=kinds.OUT_FILE_OR_STDOUT, help="File to write, - is stdout; default: its name, here.")
def fetch(name: str, out: Path | None, base_url: str, cache: Path | None) -> None:
    """Fetch the public trace NAME at its pinned commit and check its SHA-256."""
    from lazsim.trace.fetch import fetch_trace
    from lazsim.trace.recipes import PublicSpec

    content = fetch_trace(name, base_url, cache)
    public = load_recipe(name)
    assert isinstance(public, PublicSpec)
    target = Path(Path(public.path).name) if out is None else out
    write_out(target, content)
    note(f"{target}: {len(content)} bytes from {public.repository} at {public.commit}, licence: {public.licence}")


@command.command("list")
@json_option
def list_command() -> None:
    """List the recipes and public traces of the catalogue."""
    from lazsim.output.table import Column, Part, Table, key
    from lazsim.specs import describe_spec
    from lazsim.trace.recipes import PublicSpec, list_recipes

    recipes = list_recipes()
    tags = {name: str(type(recipe).__struct_config__.tag) for name, recipe in recipes.items()}
    told = {name: {"kind": kind, "description": describe_spec("traces", name)} for name, kind in tags.items()}
    parts: list[Part] = []
    for title, is_public in (("generate", False), ("fetch", True)):
        names = [name for name, recipe in recipes.items() if isinstance(recipe, PublicSpec) == is_public]
        rows = [(name, told[name]["description"]) for name in names]
        parts.append(Table([key(""), Column("", kind="text")], rows, f"lazsim trace {title} NAME"))
    parts.append("To add a recipe, write a .toml file of the same shape; lazsim trace fit --out F.toml writes one.")
    show({"traces": told}, lambda _: parts)


@command.command()
@reading_options
@click.option("--out", required=True, type=kinds.OUT_PICTURE, help="Picture to write: .png or .pdf.")
def plot(out: Path, **reading: Any) -> None:
    """Draw the nodes alive over time in FILE, with losses marked."""
    from lazsim.output.plots.trace import trace_figure

    trace = read_stretch(**reading)
    write_out(out, trace_figure(trace)[out.suffix[1:]])
    note(*trace.notes, f"{out}: written")
