"""Hold layouts of searches against published ones, for docs/measured/steps.md: ``python -m tests.measure_layouts``."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from lazsim.grouping import grouped
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.memory import memory_bytes
from lazsim.stepmodel.predict import predict_step
from lazsim.stepmodel.search import search_layouts
from lazsim.study.verify.cells import OWN
from lazsim.study.verify.measured_runs import MeasuredRun, read_runs

KINDS = {"full": "graphs of the full iteration", "partial": "partial graphs", "none": "no graphs"}
GROK = "no graphs, Grok on H100"

COMPARED = ("tensor", "pipeline", "virtual_stages", "expert", "micro_batch", "recompute")
"""Fields that layouts have in common if they are the same: rows also name recomputed modules, and even stages."""

MUCH = 0.85
"""Share of the memory above which layouts are counted."""


class Found(NamedTuple):
    """A row, whether its layout is the one found, how much faster that is, and shares of memory of both."""

    row: str
    kind: str
    same: bool
    speedup: float
    memory: float
    found_memory: float


def fastest_rows() -> list[MeasuredRun]:
    """Return the fastest row of each model, layers, system, number of GPUs and precision, with graphs or without."""
    runs = [run for run in read_runs() if run.inputs is not None and run.settings["inputs"] == OWN]
    groups = grouped((_group_of(run), run) for run in runs)
    return [max(some, key=lambda run: run.tokens_per_s_per_gpu) for some in groups.values()]


def _group_of(run: MeasuredRun) -> tuple[object, ...]:
    inputs, names = run.inputs, ("model_key", "system", "precision")
    return *map(run.settings.get, names), inputs.model.num_layers, inputs.num_gpus, run.settings["graphs"] != "none"


def kind_of(run: MeasuredRun) -> str:
    """Return the line of the table that a row counts to."""
    return GROK if run.settings["model_key"].startswith("grok") else KINDS[run.settings["graphs"]]


def search_for(run: MeasuredRun) -> Found:
    """Search with the settings of a row."""

    def share(inputs: StepInputs) -> float:
        return math.fsum(memory_bytes(inputs).values()) / inputs.gpu.memory_bytes

    inputs, best = run.inputs, search_layouts(run.inputs, most=1).candidates[0]
    same = all(getattr(best.parallel, name) == getattr(inputs.parallel, name) for name in COMPARED)
    speedup = predict_step(inputs).step_s / best.time.step_s
    return Found(run.id, kind_of(run), same, speedup, share(inputs), share(replace(inputs, parallel=best.parallel)))


def table(found: Iterable[Found]) -> list[str]:
    """Return the lines of the table."""
    lines = []
    for kind, some in grouped((one.kind, one) for one in found).items():
        speeds, *memories = zip(*(one[3:] for one in some), strict=True)
        shares = " | ".join(f"{100 * statistics.median(each):.0f} %" for each in memories)
        lines.append(
            f"| {kind} | {len(some)} | {sum(one.same for one in some)} | {min(speeds):.2f} to {max(speeds):.2f}, "
            f"median {statistics.median(speeds):.2f} | {shares} |"
        )
    return lines


def main() -> None:
    """Print what a search finds for each row, the table, and how many layouts take much memory."""
    found = []
    for run in fastest_rows():
        found.append(search_for(run))
        print(found[-1], flush=True)
    print(*table(found), sep="\n")
    rows, layouts = sum(one.memory > MUCH for one in found), sum(one.found_memory > MUCH for one in found)
    print(f"above {MUCH:.0%} of the memory: {rows} rows, {layouts} found")


if __name__ == "__main__":
    main()
