"""``lazsim place``: place experts by each policy, and tell what a loss of nodes moves."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.kinds import Parsed, parse_counts, parse_domains, parse_loads, parse_spans
from lazsim.cli.base.messages import Checked
from lazsim.cli.base.options import json_option, options, out_option, seed_option
from lazsim.cli.base.results import show

planning_options = options(
    click.option("--nodes", type=kinds.NODES, help="Nodes; a node fails as a whole."),
    click.option("--slots", type=kinds.SLOTS, help="Replica slots of a node in a layer."),
    click.option(
        "--gpus-per-node", type=kinds.GPUS,
        help="GPUs of a node; slot s belongs to GPU s modulo this number. Default: 1, or the cluster's.",
    ),
    click.option(
        "--cluster", metavar="NAME|TOML", help="Gives nodes, slots, GPUs and domains, unless other options do.",
    ),
    click.option(
        "--domains", type=Parsed(parse_domains), metavar="FILE|0,0,1,1,...",
        help="Failure domain of each node, such as its rack; a domain fails as a whole. See the policy domains.",
    ),
    click.option(
        "--replicas", type=Parsed(parse_counts), metavar="2,2,3,...",
        help="Replicas of each expert; they must fill all slots.",
    ),
    click.option("--experts", type=kinds.EXPERTS, help="Experts of a layer, in place of --replicas."),
    click.option(
        "--model", metavar="NAME|TOML|JSON",
        help="Model that has the experts and layers, unless other options do. lazsim place also shows its memory on "
        "each GPU, and what of it moves; default there: gpt-s.",
    ),
    click.option(
        "--loads", type=Parsed(parse_loads), metavar="uniform|zipf:S|T,T,...|FILE|SPEC",
        help="Loads of the experts: even, proportional to 1 over the rank to the power of S, tokens of each, a "
        "recording, or a generator (see lazsim list routing). Default: uniform.",
    ),
    click.option(
        "--groups", type=kinds.EXPERTS, default=1,
        help="Groups of experts in group-limited routing: eplb keeps each on one node, for a multiple of --nodes.",
    ),
    click.option("--min-replicas", type=kinds.SLOTS, help="Fewest replicas of an expert; default 2."),
    click.option("--layers", type=kinds.LAYERS, help="Layers: the first of a FILE, or their number."),
    click.option(
        "--step", "--iteration", "step", type=kinds.WHOLE, help="Training step of a FILE or SPEC."
    ),
    click.option("--lenient", is_flag=True, help="Repair defects of files where possible, and report them."),
    click.option(
        "--policy", "policies", multiple=True, metavar="NAME|PATH.py:FUNCTION",
        help="Repeats; default: all that apply. See lazsim list policies.",
    ),
    seed_option,
)  # fmt: skip
"""Options that describe the experts, the nodes and the policies."""


@click.command(cls=Checked)
@planning_options
@click.option(
    "--lose", type=Parsed(parse_spans), default=(), metavar="0-3,8",
    help="Let these nodes fail; plan anew on the others and show what moves.",
)  # fmt: skip
@click.option(
    "--all-mappings", is_flag=True,
    help="After --lose, show every way to map nodes to the new plan, not only that of runs.",
)  # fmt: skip
@click.option(
    "--old",
    metavar="FILE[:POLICY]",
    help="The plan that the nodes hold, from --out or --json: show what each policy moves and gains.",
)
@click.option(
    "--move-cost", type=kinds.Number(min=0),
    help="Gain that the policy steady asks for moving all replicas: load of the busiest GPU, as a share of the mean; "
    "default 0.1.",
)  # fmt: skip
@click.option("--gpu", metavar="NAME|TOML", help="GPU whose memory must hold the states of --model.")
@click.option("--layer", type=kinds.LAYER, help="The layer to show; default: each plan's most endangered.")
@out_option("Write the plans and a picture to this folder.", "place.json", "placement.png", "placement.pdf")
@json_option
def command(
    policies: tuple[str, ...],
    lose: Sequence[int],
    old: str | None,
    model: str | None,
    gpu: str | None,
    layer: int | None,
    all_mappings: bool,
    **planning: Any,
) -> None:
    """Place experts on nodes by one or more policies.

    Prints how each plan spreads experts and load, and the plans themselves where they are small. --out writes
    place.json, placement.png and placement.pdf.
    """
    from lazsim.errors import LazsimError
    from lazsim.files.faults import check_lenient
    from lazsim.output.place import comparison_files, comparison_parts
    from lazsim.placement.policies import DOMAINS, POLICIES, STEADY
    from lazsim.reliability.comparison import compare_plans
    from lazsim.reliability.task import build_task, with_old_plan
    from lazsim.study.memory import with_memory

    check_lenient(planning["lenient"], planning["loads"])
    for name, policy in (("move_cost", STEADY), ("domains", DOMAINS)):
        # A policy of the user's own may heed it, too.
        if planning[name] is not None and policies and POLICIES.keys() - {policy} >= set(policies):
            raise LazsimError(f"`{name}` has no effect without `policy` {policy}: add that, or leave `{name}` out")
    task = build_task(**planning, model=model)
    if old is not None:
        task = with_old_plan(task, old)
    comparison = compare_plans(task, policies, lose, model or "gpt-s", layer)
    if model:
        comparison = with_memory(comparison, model, gpu)
    parts = partial(comparison_parts, all_mappings=all_mappings)
    show(comparison, parts, kept_as="place.json", files=comparison_files)
