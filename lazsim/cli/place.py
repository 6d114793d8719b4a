"""``lazsim place``: which expert goes where, by each policy, and what the loss of nodes moves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from lazsim.cli.common import OUT, json_option, note, print_json, seed_option

Function = TypeVar("Function", bound=Callable[..., Any])


def planning_options(function: Function) -> Function:
    """Add the options that say what is to be placed where, and by which policies."""
    decorators = (
        click.option("--nodes", type=click.IntRange(min=1), required=True, help="Nodes; they fail as a whole."),
        click.option("--slots", type=click.IntRange(min=1), required=True, help="Replica slots of a node in a layer."),
        click.option(
            "--gpus-per-node", type=click.IntRange(min=1), default=1, show_default=True,
            help="GPUs of a node; slot s belongs to GPU s modulo this.",
        ),
        click.option("--replicas", metavar="2,2,3,...", help="Replicas of each expert; they fill all slots."),
        click.option("--experts", type=click.IntRange(min=1), help="Experts of a layer, in place of --replicas."),
        click.option(
            "--loads", metavar="uniform|zipf:S|T,T,...|FILE|SPEC",
            help="Their loads: even, by rank to the power of -S, tokens of each, recorded, or a generator as of "
            "lazsim list routing. Default: uniform.",
        ),
        click.option("--min-replicas", type=click.IntRange(min=1), help="Fewest replicas of an expert; default 2."),
        click.option("--layers", type=click.IntRange(min=1), help="Layers: the first of a FILE, or so many generated."),
        click.option(
            "--step", "--iteration", "step", type=click.IntRange(min=0), help="Training step of a FILE or SPEC to take."
        ),
        click.option("--lenient", is_flag=True, help="Repair what is repairable in a file, and say so."),
        click.option(
            "--policy", "policies", multiple=True, metavar="NAME|PATH.py:FUNCTION",
            help="Repeats; default: all that apply. See lazsim list policies.",
        ),
        seed_option,
    )  # fmt: skip
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


@click.command()
@planning_options
@click.option("--lose", metavar="0,3", help="Let these nodes fail; plan anew on the others and say what moves.")
@click.option("--model", default="gpt-s", show_default=True, metavar="NAME|TOML", help="Whose experts move.")
@click.option("--layer", type=click.IntRange(min=0), help="The layer to show; default: each plan's most endangered.")
@click.option("--out", type=OUT, metavar="DIR", help="Keep the plans and a picture there.")
@json_option
def command(
    policies: tuple[str, ...],
    lose: str | None,
    model: str,
    layer: int | None,
    out: Path | None,
    as_json: bool,
    **planning: Any,
) -> None:
    """Place experts on nodes by one or more policies.

    Prints how each plan spreads experts and load, and the plans themselves where they are small; --out keeps
    place.json, placement.png and .pdf.
    """
    from lazsim.files import check_folder, write_all
    from lazsim.reliability.comparison import place_and_score
    from lazsim.reliability.task import PlanningOptions

    if out is not None:
        check_folder(out)
    placed = place_and_score(PlanningOptions(**planning), policies, lose, model, layer)
    if out is not None:
        write_all(placed.files(out))
    for text in placed.notes:
        note(text)
    if as_json:
        print_json(placed.to_json())
    else:
        from lazsim.output.reliability import place_report, print_tables

        print_tables(place_report(placed))
    if out is not None:
        note(f"results are in {out}/: place.json, placement.png, placement.pdf")
