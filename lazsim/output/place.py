"""Plans, and what moves from an old plan or when nodes fail, as tables and files."""

from collections.abc import Iterator, Mapping
from typing import Any

from lazsim.output.maps import LayerMap, layer_maps, text_maps, with_equals
from lazsim.output.plots.style import name_pictures
from lazsim.output.table import Column, Part, Table, key, terminal_width
from lazsim.reliability.comparison import NodeLoss, PlanComparison, PlanScore
from lazsim.units import GIB, MIB, counted

MOST_LOST_SHOWN = 8
"""Lost experts that are named."""


MAPPING_OF_RUNS = ("greedy", "even")
"""How simulated jobs map nodes to a new plan, and share the sending; see `lazsim.engine.reconfiguration`."""


def comparison_parts(comparison: PlanComparison, *, all_mappings: bool = False) -> Iterator[Part]:
    """Compare plans, tell the consequences of the loss of nodes, and show the maps of small plans.

    Of the mappings of nodes to the new plan, that of runs is shown, or all.
    """
    yield _score_table(comparison)
    if comparison.memory:
        yield _memory_line(comparison.memory)
    if comparison.changes:
        yield _change_table(comparison)
    if comparison.lost:
        yield from _loss_parts(comparison, all_mappings=all_mappings)
    maps = list(text_maps(_maps(comparison), terminal_width()))
    if maps:
        yield "experts on each node; * the most endangered one, of several that with most load; - an empty slot"
        yield from maps


def comparison_files(comparison: PlanComparison) -> dict[str, bytes]:
    """Return the files of ``lazsim place --out`` beside its JSON, by name."""
    from lazsim.output.plots.placement import placement_figure

    return name_pictures("placement", placement_figure(_maps(comparison)))


def _maps(comparison: PlanComparison) -> list[LayerMap]:
    return layer_maps(comparison.task, comparison.plans, comparison.layer)


def _score_table(comparison: PlanComparison) -> Table:
    has_layers = comparison.task.has_layers

    def fatal_sets(score: PlanScore) -> str:
        return f"{score.num_deadly} of {score.num_sets if score.num_sets < 100_000 else format(score.num_sets, '.1e')}"

    def endangered(score: PlanScore) -> str:
        return with_equals(f"{score.layer}/{score.expert}" if has_layers else score.expert, score.num_as_endangered)

    columns = [
        key("policy"),
        Column("slots used", ".1%", of=lambda score: score.num_slots_used / score.num_slots),
        Column("fewest nodes of an expert", of="guaranteed"),
        Column("fatal sets of that size", of=fatal_sets),
        Column("most endangered layer/expert" if has_layers else "most endangered expert", of=endangered),
        Column("load of node max/mean", ".3f", of="max_mean_load"),
    ]
    notes = ["fewer failures than the fewest nodes of an expert are always survived; a fatal set of nodes holds all "
             "replicas of an expert"]  # fmt: skip
    return Table.of(comparison.scores, columns, notes=notes)


def _change_table(comparison: PlanComparison) -> Table:
    columns = [
        key("policy"),
        Column("replicas moved", ",d", of="num_moved"),
        Column("of all", ".1%", of=lambda one: one.num_moved / one.num_slots),
        Column("MiB moved", ",.1f", of=lambda one: one.moved_bytes / MIB),
        Column("GPU max/mean before", ".3f", of="busiest_before"),
        Column("after", ".3f", of="busiest_after"),
    ]
    state = f"{comparison.state_bytes / MIB:.4g} MiB for each expert of {comparison.model}"
    return Table.of(comparison.changes, columns, f"from the old plan ({state})")


def _memory_line(memory: Mapping[str, Any]) -> str:
    gib = {part.replace("_", " "): f"{num_bytes / GIB:,.1f}" for part, num_bytes in memory["memory_bytes"].items()}
    total, parts = gib.pop("total"), ", ".join(f"{part} {amount}" for part, amount in gib.items())
    has = f"; {memory['gpu']} has {memory['gpu_memory_bytes'] / GIB:,.1f}" if "gpu" in memory else ""
    return f"{memory['model']} takes {total} GiB of each GPU before activations ({parts}){has}"


def _loss_parts(comparison: PlanComparison, *, all_mappings: bool) -> Iterator[Part]:
    nodes, num_lost = ", ".join(map(str, comparison.lost)), len(comparison.lost)
    left = counted(comparison.task.num_nodes - num_lost, "node")
    yield f"after the loss of {'node' if num_lost == 1 else 'nodes'} {nodes}, planned anew on {left}"
    keys = [key("policy"), *((key("mapping"), key("sharing")) if all_mappings else ())]
    columns = [*keys, Column("experts")]
    columns += [Column(name, ",.1f") for name in ("total", "sends", "receives", "bound")]
    rows = [
        (*(name, row.mapping, row.sharing)[: len(keys)], row.num_states, row.total_bytes / MIB,
         row.busiest_sender_bytes / MIB, row.busiest_receiver_bytes / MIB, row.bound_bytes / MIB)
        for name, loss in comparison.losses.items() if loss.report is not None for row in loss.report.rows
        if all_mappings or (row.mapping, row.sharing) == MAPPING_OF_RUNS
    ]  # fmt: skip
    if rows:
        state = f"{comparison.state_bytes / MIB:.4g} MiB for each expert of {comparison.model}"
        title = f"MiB that move: in total, and most for one node ({state})"
        mapping, sharing = MAPPING_OF_RUNS
        others = f"nodes are mapped to the new plan as in runs: {mapping}, sending shared {sharing}"
        yield Table(columns, rows, title, [] if all_mappings else [others])
    has_layers = comparison.task.has_layers
    yield [f"{name}: {text}" for name, loss in comparison.losses.items() for text in _loss_lines(loss, has_layers)]


def _loss_lines(loss: NodeLoss, has_layers: bool) -> Iterator[str]:
    lost = [f"{layer}/{expert}" if has_layers else str(expert) for layer, expert in loss.lost_experts]
    if lost:
        shown = ", ".join(lost[:MOST_LOST_SHOWN]) + (", ..." if len(lost) > MOST_LOST_SHOWN else "")
        what = "layer/expert" if has_layers else "expert"
        yield f"{what} {shown} lost ({len(lost):,} in all); training restarts from a checkpoint"
    elif loss.report is not None:
        least, bound = loss.report.least_bytes / MIB, loss.report.bound_bytes / MIB
        yield f"no expert lost; at least {least:,.1f} MiB move, {bound:,.1f} MiB over the busiest link"
    if loss.refusal:
        yield f"no plan for the survivors: {loss.refusal}"
