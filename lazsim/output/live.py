"""Live runs and validations as text and files."""

import csv
import io
from dataclasses import fields
from pathlib import Path

import numpy as np

from lazsim.files import json_bytes
from lazsim.live.record import LiveReport, LiveRun, Recovery, StepRecord
from lazsim.live.validate import Validation
from lazsim.output.plots.live import live_figure
from lazsim.output.table import Column, Part, Table, key, render

NUM_STEPS_SHOWN = 6
COUNTS = ("failures", "reconfigurations", "rebalances", "restarts", "lost_steps")
RECOVERY_PARTS = ("detect", "rebuild", "transfer", "resume")


def live_text(run: LiveRun) -> str:
    """Return the tables of a live run: some of its steps, and every recovery."""
    total = run.run
    backends = f", exchanged by {' and '.join(run.exchanged_by)}" if run.exchanged_by else ""
    parts: list[Part] = [
        f"{total.system}: {total.steps} steps, {total.samples:,} samples in {total.wall_s:.1f} s, "
        f"ETTR {total.ettr:.1%}{backends}\n"
        + ", ".join(f"{total.counts[name]} {name.replace('_', ' ')}" for name in COUNTS)
    ]
    if run.steps:
        shown = np.unique(np.linspace(0, len(run.steps) - 1, NUM_STEPS_SHOWN).astype(int))
        columns = [key("step", kind="number"), Column("nodes"), Column("step time", _ms), Column("loss", ".4f")]
        steps = [run.steps[index] for index in shown]
        parts.append(Table(columns, [[one.step, one.num_nodes, one.step_s, one.loss] for one in steps]))
    if run.recoveries:
        columns = [key("recovery"), key("at", "{:.1f} s".format, "number"), Column("nodes")]
        columns += [Column(part, _ms) for part in RECOVERY_PARTS]
        parts.append(Table(columns, [_recovery_row(one) for one in run.recoveries]))
    return render(parts)


def _recovery_row(recovery: Recovery) -> list[str | float]:
    # A recovery that found no peers with all states became a restart.
    outcome = "restart" if recovery.source in ("checkpoint", "initial") else recovery.cause
    seconds = [getattr(recovery, f"{part}_s") for part in RECOVERY_PARTS]
    return [outcome, recovery.at_s, recovery.num_nodes, *seconds]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def live_files(report: LiveReport, folder: Path) -> dict[Path, bytes]:
    """Return the content of every file of a live run's folder."""
    files = {folder / "live.json": json_bytes(report.to_json()), folder / "steps.csv": _steps_csv(report.result)}
    return files | {folder / f"live.{kind}": content for kind, content in live_figure(report.result).items()}


def _steps_csv(run: LiveRun) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(StepRecord))
    for step in run.steps:
        writer.writerow([step.step, f"{step.at_s:.6f}", step.num_nodes, f"{step.step_s:.6f}", f"{step.loss:.6f}"])
    return text.getvalue().encode()


def validation_text(validation: Validation) -> str:
    """Return the table of a validation: each component measured and predicted, and the drift of the machine."""
    run = validation.measured.run
    model = validation.inputs["spec"]["model"]["name"]
    summary = (
        f"{run.system}, {model}: {run.wall_s:.0f} s, {run.counts['failures']} failures, "
        f"{run.counts['reconfigurations']} reconfigurations, {run.counts['restarts']} restarts"
    )
    columns = [key(""), Column("measured", ".4g"), Column("predicted", ".4g"), Column("error", "+.1%")]
    rows = [[one.name, one.measured, one.predicted, one.error] for one in validation.components]
    drift = validation.calibration.drift
    change = f"{abs(drift):.1%} {'longer' if drift > 0 else 'less'}"
    note = f"steps of the calibration after the run took {change} than those before it"
    return render([summary, Table(columns, rows), note])


def validation_files(validation: Validation, folder: Path) -> dict[Path, bytes]:
    """Return the content of every file of a validation's folder."""
    pictures = live_figure(validation.measured, validation.predicted)
    return {folder / "validate.json": json_bytes(validation.to_json())} | {
        folder / f"validate.{kind}": content for kind, content in pictures.items()
    }
