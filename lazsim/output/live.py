"""Live runs as text and files."""

from collections.abc import Iterator
from dataclasses import fields

import numpy as np

from lazsim.files.writing import csv_bytes
from lazsim.live.record import LiveReport, LiveRun, StepRecord
from lazsim.output.plots.style import name_pictures
from lazsim.output.table import Column, Part, Table, key
from lazsim.units import counted, share_text

NUM_STEPS_SHOWN = 6
COUNTS = ("failures", "reconfigurations", "rebalances", "restarts", "lost_steps")
RECOVERY_PARTS = ("detect", "rebuild", "transfer", "resume")


def live_parts(run: LiveRun) -> Iterator[Part]:
    """Show a live run: some of its steps, and every recovery."""
    total = run.run
    by = (("exchanged", run.exchanged_by), ("rows added up", run.rows_by))
    backends = "".join(f", {what} by {' and '.join(names)}" for what, names in by if names)
    counts = ", ".join(counted(total.counts[name], name.replace("_", " ").removesuffix("s")) for name in COUNTS)
    ettr = f"ETTR {share_text(total.ettr, '.1%')}" if run.steps else "no step done"
    yield [
        f"{total.system}: {counted(total.steps, 'step')}, {counted(total.samples, 'sample')} in {total.wall_s:.1f} s, "
        f"{ettr}{backends}",
        counts,
    ]
    if run.steps:
        shown = np.unique(np.linspace(0, len(run.steps) - 1, NUM_STEPS_SHOWN).astype(int))
        columns = [key("step", kind="number"), Column("nodes", of="num_nodes")]
        columns += [Column("step time", _ms, of="step_s"), Column("loss", ".4f")]
        yield Table.of([run.steps[index] for index in shown], columns)
    if run.recoveries:
        # A recovery that found no peers with all states became a restart.
        columns = [key("recovery", of=lambda one: "restart" if one.is_restart else one.cause)]
        columns += [key("at", "{:.1f} s".format, "number", of="at_s"), Column("nodes", of="num_nodes")]
        columns += [Column(part, _ms, of=f"{part}_s") for part in RECOVERY_PARTS[:-1]]
        # The run may have ended before.
        columns.append(Column("resume", _ms, of=lambda one: one.resume_s if one.complete else None))
        yield Table.of(run.recoveries, columns)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def live_files(report: LiveReport) -> dict[str, bytes]:
    """Return the files of ``lazsim live --out`` beside its JSON, by name."""
    from lazsim.output.plots.live import live_figure

    names = [field.name for field in fields(StepRecord)]
    cells = ([getattr(step, name) for name in names] for step in report.result.steps)
    rows = ([f"{cell:.6f}" if isinstance(cell, float) else cell for cell in row] for row in cells)
    return {
        "steps.csv": csv_bytes(names, rows),
        **name_pictures("live", live_figure(report.result)),
    }
