"""A run as tables and files."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from operator import itemgetter
from typing import Any

from lazsim.costmodel.memory import MemoryUse
from lazsim.engine.ledger import BUCKETS
from lazsim.engine.simulate import SystemRun
from lazsim.files.writing import json_bytes
from lazsim.grouping import told_apart
from lazsim.output.maps import plan_maps
from lazsim.output.model import size_text
from lazsim.output.plots.style import name_pictures
from lazsim.output.recovery import format_prob
from lazsim.output.report import Report, timeline_of
from lazsim.output.table import Column, Part, Table, key
from lazsim.study.memory import fits_memory
from lazsim.study.result import RunResult
from lazsim.study.simulation import plan_of
from lazsim.units import GIB, counted, format_duration, share_text

MOST_WITH_DURATIONS = 3
"""Systems up to which durations stand beside shares."""

MOST_COMPARED = 3
"""Systems up to which a sentence holds the best against each of the others."""

MOST_NAMED = 20
"""Rows that a note names."""

MAP_CAPTION = "The plans are those on all nodes at the first rebalance; each next change of nodes brings another."

SHORT_BUCKETS = {"checkpoint": "ckpt", "lost_work": "lost", "reconfigure": "reconf", "rebalance": "rebal"}
"""Headings of a table with a column for each bucket."""


def run_parts(result: RunResult) -> Iterator[Part]:
    """Show the work and the use of time of each system; with placements, also the reliability of their plans."""
    trace, inputs = result.trace, result.inputs
    model = inputs["model"]
    size = size_text(model["total_params"], model["active_params"])
    fewest, most = trace["fewest_nodes"], trace["most_nodes"]
    nodes = f"{fewest} to {most} nodes" if fewest < most else counted(most, "node")
    yield (
        f"{model['name']} ({size}) on {inputs['cluster']['name']}, {trace['name']}: "
        f"{format_duration(inputs['duration_s'])}, {nodes}, {trace['nodes_lost']:,} lost"
    )
    yield _outcome_table(result)
    if result.published or result.best:
        yield _settings_table(result.best or result.runs, result.published or result.runs)
    yield _ledger_by_run_table(result) if result.compares_placements else _ledger_table(result)
    yield _hours_table(result)
    yield _memory_table(result)


def run_files(result: RunResult) -> dict[str, bytes]:
    """Return the content of every file of ``lazsim run --out``, by name."""
    from lazsim.output.chrome_trace import chrome_trace
    from lazsim.output.plots.run import placements_figure, throughput_figure

    contents = {
        "summary.json": json_bytes({key: value for key, value in result.to_json().items() if key != "inputs"}),
        "timeline.csv": result.timeline().to_csv(index=False, lineterminator="\n").encode(),
        "events.csv": result.events().to_csv(index=False, lineterminator="\n").encode(),
        "recoveries.csv": result.recoveries().to_csv(index=False, lineterminator="\n").encode(),
        "trace.json": chrome_trace(result),
        **name_pictures("throughput", throughput_figure(result)),
        "run.json": json_bytes({"id": result.id, **result.inputs, "notes": list(result.notes)}),
    }
    if any(run.plan_recovery for run in result.runs):
        contents |= name_pictures("placements", placements_figure(result))
    return contents


def run_report(result: RunResult) -> Report:
    """Return what the page of a run says."""
    best, *others = sorted(result.runs, key=lambda run: -run.samples)
    rivals = [run for run in others if run.samples]
    # The next and the last tell the range of many.
    rivals = rivals if len(rivals) <= MOST_COMPARED else [rivals[0], rivals[-1]]
    trains = f"{best.name} keeps {best.goodput_samples_per_s:.2f} samples/s"
    trains += "".join(f", {best.samples / run.samples:.2f} times {run.name}'s" for run in rivals)
    if best.samples_error:
        trains += f" (95 % interval +- {share_text(best.samples_error, '.2%')} for plans that were sampled)"
    if best.lost_token_share:
        trains += f", of which {share_text(best.lost_token_share, '.2%')} lost their updates of experts"
    trains += f"; {share_text(best.ettr, '.1%')} of its time is productive (ETTR)"
    found = {run.name: plan_of(one) for run, one in zip(result.runs, result.scenarios, strict=True)}
    plans = {name: plan for name, plan in found.items() if plan is not None}
    return Report(
        f"{result.inputs['model']['name']} on {result.inputs['cluster']['name']} under {result.trace['name']}",
        f"Over {format_duration(best.wall_s)}, {trains if best.samples else 'no system keeps a sample'}.",
        "One replay of one stretch of a trace: a failure may by luck hit just before a checkpoint, or just after it. "
        "lazsim sweep with several seeds or starts gives intervals.",
        result.inputs,
        timeline_of({run.name: run for run in result.runs}),
        maps=plan_maps(plans, MAP_CAPTION) if plans else None,
        details=[_failure_table(result)] if any(run.failures for run in result.runs) else (),
    )


def _failure_table(result: RunResult) -> Table:
    """Return a row for each failure that a system felt."""
    rows = [
        (run.name, one.time_s, " ".join(one.nodes), one.decision or None, one.why or None,
         None if one.trains_at_s is None else one.trains_at_s - one.time_s, one.lost_steps, one.experts_moved)
        for run in result.runs for one in run.failures
    ]  # fmt: skip
    columns = [
        key("system"),
        Column("at", lambda time_s: str(timedelta(seconds=round(time_s)))),
        Column("nodes", kind="text"),
        Column("decision", kind="text"),
    ]
    columns += [Column("why", kind="text"), Column("until training", format_duration), Column("lost steps", ",d")]
    return Table([*columns, Column("experts moved", ",d")], rows, "failure by failure")


def _outcome_table(result: RunResult) -> Table:
    """Return the work of each system, or with placements also the reliability of its plans."""
    system, rate = key("system"), Column("samples/s", ".2f", of="goodput_samples_per_s")
    columns = [system, Column("samples", ","), rate, Column("ETTR", ".1%", of="ettr")]
    if result.compares_placements:
        survival = Column("survival probability", of=_survival_text)
        columns = [system, key("placement"), rate, survival]
    columns += [Column("failures", ",", of="num_failures"), Column("reconf.", ",", of="num_reconfigurations")]
    columns += [Column("restarts", ",", of="num_restarts"), Column("lost steps", ",")]
    if any(run.lost_token_share is not None for run in result.runs):
        # Samples whose updates are gone count among the samples.
        columns.append(Column("lost tokens", ".2%", of="lost_token_share"))
    layouts = layout_notes([({"system": row["system"]}, row["layout"]) for row in result.rows], itemgetter("system"))
    runs = zip(result.scenarios, result.runs, strict=True)
    unfit = unfit_notes(run.name for one, run in runs if not fits_memory(one, run))
    return Table.of(result.rows, columns, notes=[*layouts, *unfit])


def _survival_text(row: Mapping[str, Any]) -> str | None:
    prob, low, high = (row[f"plan_recovery_{name}"] for name in ("prob", "ci_low", "ci_high"))
    return None if prob is None else format_prob(prob, certain=low == high)


def layout_notes(
    layouts: Sequence[tuple[Mapping[str, Any], str | None]], name: Callable[[Mapping[str, Any]], str]
) -> list[str]:
    """Say below a table which layout the steps of its rows have, where these differ; None stands for no layout."""
    found = told_apart(layouts)
    return [
        f"layout of {_listed(map(name, settings))}: {layout or 'none, steps as without measured kernels'}"
        for layout, settings in found.items()
        if len(found) > 1
    ]


def unfit_notes(names: Iterable[str]) -> list[str]:
    """Say below a table which of its runs do not fit into memory, if any."""
    told = _listed(dict.fromkeys(names))
    return [f"do not fit into memory, and hold for larger GPUs or nodes only: {told}"] if told else []


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    return "; ".join(known[:MOST_NAMED]) + f" and {len(known) - MOST_NAMED} more" * (len(known) > MOST_NAMED)


def _settings_table(bests: Sequence[SystemRun], published: Sequence[SystemRun]) -> Table:
    """Return the chosen setting of each run that trains against the published one, the best run first."""
    columns = [key("run"), Column("samples/s", ".2f"), Column("published", ".2f"), Column("change", "+.1%")]
    columns += [Column("chosen setting", kind="text"), Column("published setting", kind="text")]
    pairs = sorted(zip(bests, published, strict=True), key=lambda pair: -pair[0].samples)
    rows = [
        (
            best.name,
            best.goodput_samples_per_s,
            other.goodput_samples_per_s,
            best.samples / other.samples - 1 if other.samples else None,
            _setting_text(best),
            "the same" if _setting_text(other) == _setting_text(best) else _setting_text(other),
        )
        for best, other in pairs
        if best.samples or other.samples
    ]
    behind = _listed(best.name for best, other in pairs if best.samples < other.samples)
    notes = [f"no gain on this trace, so that the better setting cannot be told: {behind}"] if behind else []
    return Table(columns, rows, "settings that simulations choose, against the published ones", notes)


def _setting_text(run: SystemRun) -> str:
    """Return the interval between checkpoints, what else the system leaves to choose, and what updates that loses."""
    others = [_say(name.replace("_", " "), value) for name, value in run.setting.items()]
    if run.lost_token_share is not None:
        others.append(f"loses {share_text(run.lost_token_share, '.2%')} of tokens")
    saves = counted(run.interval_steps, "step") if run.interval_steps else "no checkpoints"
    return ", ".join([saves, *others])


def _say(words: str, value: object) -> str:
    """Say what a field of a system is set to: 0 is as published, and what is not done is `no`."""
    if isinstance(value, bool):
        return words if value else f"no {words}"
    return f"{words} {value or 'as published'}"


def _ledger_by_run_table(result: RunResult) -> Table:
    """Return shares of time with a row for each run, of which there may be many."""
    columns = [key("run"), *(Column(SHORT_BUCKETS.get(bucket, bucket), _share) for bucket in BUCKETS)]
    rows = [(run.name, *(run.ledger_s[bucket] / run.wall_s for bucket in BUCKETS)) for run in result.runs]
    return Table(columns, rows, "where the time went, %")


def _hours_table(result: RunResult) -> Table:
    """Return the node-hours and GPU-hours of each run, and their cost where prices are known."""
    columns = [key("run", of="name"), Column("node-hours", ",.1f", of="node_hours_held")]
    columns += [Column("used", ",.1f", of="node_hours_used"), Column("idle", ",.1f", of="node_hours_idle")]
    columns += [Column("GPU-hours", ",.1f", of=lambda run: run.node_hours_held * run.gpus_per_node)]
    title = "node-hours held, used and idle"
    if (price := result.runs[0].price_usd_per_node_hour) is not None:
        title += f"; {price:,.4g} $ for each in the mean"
        columns += [Column("$", ",.2f", of="cost_usd"), Column("$/M samples", ",.2f", of="usd_per_million_samples")]
        columns += [Column("$/B tokens", ",.2f", of="usd_per_billion_tokens")]
    return Table.of(result.runs, columns, title)


def _memory_table(result: RunResult) -> Table:
    """Return what the fullest GPU of each run that trains holds at the peak."""
    parts = [field.name for field in dataclasses.fields(MemoryUse)]
    columns = [key("run", of="name")]
    columns += (Column(part.partition("_")[0], _gib, of=f"memory.{part}") for part in (*parts, "total"))
    has = f"{result.inputs['gpu']['name']} has {result.gpu_memory_bytes / GIB:,.1f}"
    runs = [run for run in result.runs if run.memory]
    return Table.of(runs, columns, f"memory of the fullest GPU at its peak, GiB; {has}")


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:,.1f}"


def _share(share: float) -> str:
    return share_text(share, ".1%").replace("%", "") if share else "-"


def _ledger_table(result: RunResult) -> Table:
    has_durations = len(result.runs) <= MOST_WITH_DURATIONS

    def amount(seconds: float, wall_s: float) -> str:
        share = share_text(seconds / wall_s, ".1%")
        return "-" if not seconds else f"{format_duration(seconds)} {share:>6}" if has_durations else share

    columns = [key("bucket"), *(Column(run.system, has_name=True) for run in result.runs)]
    rows = [
        (bucket.replace("_", " "), *(amount(run.ledger_s[bucket], run.wall_s) for run in result.runs))
        for bucket in BUCKETS
    ]
    return Table(columns, rows, "where the time went")
