"""``lazsim routing``: expert loads, recorded and generated."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.messages import CommandGroup
from lazsim.cli.base.options import json_option, kept, layers_from_option, options, seed_option
from lazsim.cli.base.results import note, print_json, show, write_out
from lazsim.routing.loading import DRAWN, load_recording
from lazsim.units import counted

reading_options = options(
    click.argument("source", metavar="FILE|SPEC"),
    click.option("--lenient", is_flag=True, help="Repair defects where possible, and report them."),
    layers_from_option,
)
csv_option = click.option(
    "--out", type=kinds.OUT_FILE_OR_STDOUT, required=True, metavar="FILE.csv", help="File to write; - is stdout."
)


@click.group(cls=CommandGroup)
def command() -> None:
    """Inspect, fit, generate, convert and plot expert loads. SPEC is a generator of lazsim list routing."""


@command.command()
@reading_options
@json_option
def info(**reading: Any) -> None:
    """Print the statistics of a recording of expert loads."""
    from lazsim.output.routing import balance_table, facts_table
    from lazsim.routing.fit import layer_balance, routing_stats

    recorded = load_recording(**reading)
    num_steps, num_layers, num_experts = recorded.tokens_SLE.shape
    facts: dict[str, Any] = {
        "num_steps": num_steps,
        "first_step": int(recorded.steps[0]),
        "last_step": int(recorded.steps[-1]),
        "num_layers": num_layers,
        "num_experts": num_experts,
    }
    if num_steps > 2:
        facts |= routing_stats(recorded.steps, recorded.tokens_SLE)
    balance = layer_balance(recorded)
    parts = [facts_table(facts), balance_table(balance)]
    show({**facts, "per_layer": balance}, lambda _: parts, recorded.notes)


@command.command()
@reading_options
@click.option("--seeds", type=kinds.COMPARED, default=5, help="Generated runs to compare with.")
@json_option
def fit(seeds: int, **reading: Any) -> None:
    """Fit a generator to a recording; print its TOML, and compare generated loads with the recording."""
    import msgspec

    from lazsim.output.routing import fit_toml
    from lazsim.routing import fit_routing
    from lazsim.routing.fit import compare_loads

    recorded = load_recording(**reading)
    spec = fit_routing(recorded)
    rows = compare_loads(recorded, spec, seeds)
    if kept("as_json"):
        print_json({"spec": msgspec.to_builtins(spec), "statistics": rows, "notes": list(recorded.notes)})
    else:
        click.echo(fit_toml(msgspec.to_builtins(spec), rows))
    note(*recorded.notes)


@command.command()
@click.argument("spec")
@click.option("--layers", type=kinds.LAYERS, default=DRAWN[0], help="MoE layers.")
@click.option("--experts", type=kinds.EXPERTS, default=DRAWN[1], help="Experts of a layer.")
@click.option("--steps", type=kinds.COUNT, default=DRAWN[2], help="Training steps to cover.")
@seed_option
@csv_option
def generate(spec: str, layers: int, experts: int, steps: int, seed: int, out: Path) -> None:
    """Draw loads from a generator of the catalogue or a .toml file, and write them as CSV."""
    from lazsim.routing.loading import record
    from lazsim.routing.table import write_csv

    recorded = record(spec, layers, experts, steps, seed)
    write_out(out, write_csv(recorded))
    note(
        f"{out}: {counted(len(recorded.steps), 'step')} of {counted(layers, 'layer')} and {counted(experts, 'expert')}"
    )


@command.command()
@reading_options
@click.option("--layers", type=kinds.LAYERS, help="Keep this many layers, the first ones.")
@click.option("--experts", type=kinds.EXPERTS, help="Keep this many experts of each layer, the fullest ones.")
@click.option("--every", type=kinds.COUNT, default=1, help="Keep every N-th record.")
@csv_option
def convert(layers: int | None, experts: int | None, every: int, out: Path, **reading: Any) -> None:
    """Convert a recording to lazsim's CSV, whole or only its first layers and fullest experts."""
    from lazsim.routing import top_experts
    from lazsim.routing.table import write_csv

    recorded = load_recording(**reading)
    _, num_layers, num_experts = recorded.tokens_SLE.shape
    taken = top_experts(recorded, layers or num_layers, experts or num_experts)
    write_out(out, write_csv(replace(taken, steps=taken.steps[::every], tokens_SLE=taken.tokens_SLE[::every])))
    note(*taken.notes)


@command.command()
@reading_options
@click.option("--layer", "layers", type=kinds.LAYER, multiple=True, help="Repeats; default: first, middle, last.")
@click.option("--out", type=kinds.OUT_PICTURE, required=True, metavar="FILE.png|pdf", help="Picture to write.")
def plot(layers: tuple[int, ...], out: Path, **reading: Any) -> None:
    """Plot how the experts of some layers share the tokens over training."""
    from lazsim.errors import LazsimError
    from lazsim.output.plots.routing import share_figure
    from lazsim.routing.table import spans

    recorded = load_recording(**reading)
    numbers = recorded.layer_numbers
    chosen = layers or tuple(dict.fromkeys((numbers[0], numbers[len(numbers) // 2], numbers[-1])))
    for layer in set(chosen) - set(numbers):
        raise LazsimError(f"`layer` {layer}: {reading['source']} has layers {spans(numbers)}")
    write_out(out, share_figure(recorded, chosen)[out.suffix[1:]])
    note(*recorded.notes, f"{out}: written")
