"""What is kept of a live run: everything that went into it, what came of it, and its picture."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from lazsim import __version__
from lazsim.files import json_bytes
from lazsim.live.record import LiveRun, StepRecord
from lazsim.live.spec import LiveSpec
from lazsim.profiling.machine import machine
from lazsim.trace.table import Trace

LIVE_FILES = ("live.json", "steps.csv", "live.png", "live.pdf")


def live_inputs(spec: LiveSpec, device: str, trace: Trace | None, replay: Mapping[str, Any]) -> dict[str, Any]:
    """Record what a live run is made of.

    Parameters
    ----------
    spec
        The job, with the hash of its text.
    device
        What was asked for: ``auto``, ``cpu`` or ``cuda``.
    trace
        What happens to the nodes, in its own time; none where others start and end the workers.
    replay
        How the trace was cut from its file, and how much faster than in its own time it is played.
    """
    return {
        "version": __version__,
        "torch": str(torch.__version__),
        "device": device,
        "machine": machine("cuda" if torch.cuda.is_available() else "cpu"),
        "trace": None if trace is None else _trace_json(trace),
        "replay": dict(replay),
        "spec": msgspec.to_builtins(spec),
    }


def _trace_json(trace: Trace) -> dict[str, str]:
    return {
        "name": Path(trace.name).name,
        "format": trace.format,
        "sha256": trace.sha256,
        "events_sha256": trace.events_sha256,
    }


@dataclass(frozen=True)
class LiveReport:
    """A live run, and what it was made of; `interrupted` where it is what there was by then."""

    inputs: Mapping[str, Any]
    found: LiveRun
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"inputs": self.inputs, "interrupted": self.interrupted, **self.found.to_json()}

    def files(self, folder: Path) -> dict[Path, bytes]:
        """Return the content of every file of a live run's folder, pictures included."""
        from lazsim.output.plots.live import live_figure

        return {
            folder / "live.json": json_bytes(self.to_json()),
            folder / "steps.csv": _steps_csv(self.found),
        } | {folder / f"live.{kind}": content for kind, content in live_figure(self.found).items()}


def _steps_csv(found: LiveRun) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(StepRecord.__dataclass_fields__)
    for step in found.steps:
        writer.writerow([step.step, f"{step.at_s:.6f}", step.num_nodes, f"{step.step_s:.6f}", f"{step.loss:.6f}"])
    return text.getvalue().encode()
