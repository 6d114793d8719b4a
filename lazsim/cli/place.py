"""``lazsim place``: place experts by each policy, and tell what a loss of nodes moves."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lazsim.cli.common import OUT, json_option, note, note_written, print_json, print_parts, seed_option
from lazsim.cli.parsing import parse_counts, parse_loads, parse_option

if TYPE_CHECKING:
    from lazsim.reliability.task import PlanningTask

Function = TypeVar("Function", bound=Callable[..., Any])


def planning_options(function: Function) -> Function:
    """Add the options that describe the experts, the nodes and the policies."""
    decorators = (
        click.option("--nodes", type=click.IntRange(min=1), required=True, help="Nodes; a node fails as a whole."),
        click.option("--slots", type=click.IntRange(min=1), required=True, help="Replica slots of a node in a layer."),
        click.option(
            "--gpus-per-node", type=click.IntRange(min=1), default=1, show_default=True,
            help="GPUs of a node; slot s belongs to GPU s modulo this number.",
        ),
        click.option("--replicas", metavar="2,2,3,...", help="Replicas of each expert; they must fill all slots."),
        click.option("--experts", type=click.IntRange(min=1), help="Experts of a layer, in place of --replicas."),
        click.option(
            "--loads", metavar="uniform|zipf:S|T,T,...|FILE|SPEC",
            help="Loads of the experts: even, proportional to 1 over the rank to the power of S, tokens of each, a "
            "recording, or a generator (see lazsim list routing). Default: uniform.",
        ),
        click.option("--min-replicas", type=click.IntRange(min=1), help="Fewest replicas of an expert; default 2."),
        click.option("--layers", type=click.IntRange(min=1), help="Layers: the first of a FILE, or their number."),
        click.option(
            "--step", "--iteration", "step", type=click.IntRange(min=0), help="Training step of a FILE or SPEC."
        ),
        click.option("--lenient", is_flag=True, help="Repair defects of files where possible, and report them."),
        click.option(
            "--policy", "policies", multiple=True, metavar="NAME|PATH.py:FUNCTION",
            help="Repeats; default: all that apply. See lazsim list policies.",
        ),
        seed_option,
    )  # fmt: skip
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def read_task(planning: dict[str, Any]) -> "PlanningTask":
    """Make a task of the options of `planning_options`."""
    from lazsim.reliability.task import build_task

    parsed = {
        "replicas": parse_option("`replicas`", planning["replicas"], parse_counts),
        "loads": parse_option("`loads`", planning["loads"], parse_loads),
    }
    return build_task(**(planning | parsed))


@click.command()
@planning_options
@click.option("--lose", metavar="0,3", help="Let these nodes fail; plan anew on the others and show what moves.")
@click.option("--model", default="gpt-s", show_default=True, metavar="NAME|TOML", help="Model whose experts move.")
@click.option("--layer", type=click.IntRange(min=0), help="The layer to show; default: each plan's most endangered.")
@click.option("--out", type=OUT, metavar="DIR", help="Write the plans and a picture to this folder.")
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

    Prints how each plan spreads experts and load, and the plans themselves where they are small. --out writes
    place.json, placement.png and placement.pdf.
    """
    from lazsim.files import check_folder
    from lazsim.reliability.comparison import compare_plans

    if out is not None:
        check_folder(out)
    lost = parse_option("`lose`", lose, parse_counts) or ()
    comparison = compare_plans(read_task(planning), policies, lost, model, layer)

    from lazsim.output.folder import write_folder
    from lazsim.output.reliability import comparison_files, comparison_parts

    written = [] if out is None else write_folder(out, comparison_files(comparison))
    for text in comparison.notes:
        note(text)
    if as_json:
        print_json(comparison.to_json())
    else:
        print_parts(comparison_parts(comparison))
    if out is not None:
        note_written(out, written)
