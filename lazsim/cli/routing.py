"""``lazsim routing``: expert loads, recorded and generated."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lazsim.cli.common import OUT, json_option, note, print_json, seed_option

if TYPE_CHECKING:
    from lazsim.routing import RecordedRouting

lenient_option = click.option("--lenient", is_flag=True, help="Repair what is repairable and say how often.")


@click.group()
def command() -> None:
    """Inspect, fit, generate, convert and plot expert loads."""


@command.command()
@click.argument("file")
@lenient_option
@json_option
def info(file: str, lenient: bool, as_json: bool) -> None:
    """Say what a recording of expert loads looks like."""
    from lazsim.routing import read_routing
    from lazsim.routing.fit import routing_stats

    recorded = read_routing(file, lenient)
    num_steps, num_layers, num_experts = recorded.tokens_SLE.shape
    facts: dict[str, float | str] = {
        "steps recorded": num_steps,
        "first step": int(recorded.steps[0]),
        "last step": int(recorded.steps[-1]),
        "layers": num_layers,
        "experts": num_experts,
    }
    if num_steps > 2:
        facts |= routing_stats(recorded.steps, recorded.tokens_SLE)
    _notes(recorded)
    _print_facts(facts, as_json)


@command.command()
@click.argument("file")
@lenient_option
@click.option(
    "--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Generated runs to compare with."
)
@json_option
def fit(file: str, lenient: bool, seeds: int, as_json: bool) -> None:
    """Fit a generator to a recording; print its TOML, and the recording beside what the generator makes."""
    import msgspec

    from lazsim.routing import fit_routing, read_routing
    from lazsim.routing.fit import compare

    recorded = read_routing(file, lenient)
    spec = fit_routing(recorded)
    rows = compare(recorded, spec, seeds)
    _notes(recorded)
    if as_json:
        print_json({"spec": msgspec.to_builtins(spec), "statistics": rows})
        return
    for name, value in msgspec.to_builtins(spec).items():
        line = f"{name} = {json.dumps(value)}"
        click.echo(click.wrap_text(line, 80, subsequent_indent="  "))
    click.echo(f"\n# {'statistic':30} {'recorded':>9} {'generated, least':>17} {'median':>8} {'most':>8}")
    for name, row in rows.items():
        click.echo(f"# {name:30} {row['recorded']:9.3f} {row['least']:17.3f} {row['median']:8.3f} {row['most']:8.3f}")


@command.command()
@click.argument("spec")
@click.option("--layers", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--experts", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=5000, show_default=True, help="Training steps to cover.")
@seed_option
@click.option("--out", type=OUT, required=True, metavar="FILE.csv")
def generate(spec: str, layers: int, experts: int, steps: int, seed: int, out: Path) -> None:
    """Draw loads from a generator of the catalogue or a .toml file, and keep them as CSV."""
    from lazsim.files import write_whole
    from lazsim.routing.loading import record
    from lazsim.routing.readers import write_csv

    recorded = record(spec, layers, experts, steps, seed)
    write_whole(out, write_csv(recorded))
    note(f"{len(recorded.steps)} steps of {layers} layers and {experts} experts are in {out}")


@command.command()
@click.argument("file")
@lenient_option
@click.option("--layers", type=click.IntRange(min=1), help="Take the first so many layers.")
@click.option("--experts", type=click.IntRange(min=1), help="Take the so many fullest experts of each layer.")
@click.option("--every", type=click.IntRange(min=1), default=1, help="Take the first record of each so many.")
@click.option("--out", type=OUT, required=True, metavar="FILE.csv")
def convert(file: str, lenient: bool, layers: int | None, experts: int | None, every: int, out: Path) -> None:
    """Turn a recording into our CSV, whole or its first layers and fullest experts."""
    from lazsim.files import write_whole
    from lazsim.routing import read_routing, top_experts
    from lazsim.routing.readers import write_csv

    recorded = read_routing(file, lenient)
    _, num_layers, num_experts = recorded.tokens_SLE.shape
    taken = top_experts(recorded, layers or num_layers, experts or num_experts)
    write_whole(out, write_csv(replace(taken, steps=taken.steps[::every], tokens_SLE=taken.tokens_SLE[::every])))
    _notes(taken)


@command.command()
@click.argument("file")
@lenient_option
@click.option(
    "--layer", "layers", type=click.IntRange(min=0), multiple=True, help="Repeats; default: first, middle, last."
)
@click.option("--out", type=OUT, required=True, metavar="FILE.png|pdf")
def plot(file: str, lenient: bool, layers: tuple[int, ...], out: Path) -> None:
    """Draw how the experts of some layers share the tokens over training."""
    from lazsim.errors import LazsimError
    from lazsim.files import write_whole
    from lazsim.output.plots.routing import share_figure
    from lazsim.routing import read_routing

    recorded = read_routing(file, lenient)
    num_layers = recorded.tokens_SLE.shape[1]
    chosen = layers or tuple(dict.fromkeys((0, num_layers // 2, num_layers - 1)))
    if max(chosen) >= num_layers:
        raise LazsimError(f"--layer {max(chosen)}: {file} has layers 0 to {num_layers - 1}")
    kind = out.suffix.removeprefix(".")
    if kind not in ("png", "pdf"):
        raise LazsimError(f"--out {out}: give a name that ends in .png or .pdf")
    write_whole(out, share_figure(recorded, chosen, kind))
    _notes(recorded)


def _notes(recorded: "RecordedRouting") -> None:
    for text in recorded.notes:
        note(text)


def _print_facts(facts: dict[str, float | str], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        click.echo(f"{name:32} {value:.3f}" if isinstance(value, float) else f"{name:32} {value}")
