"""Training runs that others measured: rows of CSV to inputs of a step.

A row has the columns of ``lazsim/catalog/measured/training.csv``: docs/guides/measurements.md explains them. Models and
systems are names of the catalogue, or rows of ``models.csv`` and ``systems.csv`` beside the file.
"""

import contextlib
import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lazsim.errors import ALIKE, LazsimError, SpecError
from lazsim.files.reading import CATALOG, read_bytes
from lazsim.files.tables import Cells
from lazsim.specs.overrides import override
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.loading import load_constants, tables_of
from lazsim.stepmodel.predict import flop_per_token, predict_step
from lazsim.stepmodel.search import MICRO_BATCHES, RECOMPUTES, fits
from lazsim.study.verify.cells import (
    APART,
    NEAREST,
    OWN,
    UNKNOWN,
    UNKNOWN_INPUTS,
    cell_number,
    cell_whole,
    read_rows,
)
from lazsim.study.verify.measured_layouts import layout_of
from lazsim.study.verify.measured_models import Lookup
from lazsim.study.verify.measured_remarks import ASSUMED, INSTEAD, refuse_contradictions, remarks_on
from lazsim.study.verify.measured_words import MODULES, SIZES, plain_words

RUNS = "measured/training.csv"

NEEDED = ("row_id", "model_key", "system", "gpus", "gbs", "seq")
"""Columns that a table must have; the first names a row."""


@dataclass(frozen=True)
class MeasuredRun:
    """A measured run."""

    id: str
    source: str
    """Name of the row and where it is from."""
    settings: Mapping[str, str]
    """Model, system, precision, dispatcher, graphs and others, by which runs are grouped."""
    columns: Cells
    tokens_per_s_per_gpu: float
    inputs: StepInputs | None
    """Inputs of the step; none where the row cannot be predicted."""
    slowest: StepInputs | None = None
    """Those with the slowest micro-batch that fits, if the row does not tell its own; `inputs` has the fastest."""
    skipped: str = ""
    """Reason why not."""
    remarks: tuple[tuple[str, str], ...] = ()
    """What of the row a prediction leaves out or takes for granted: see `lazsim.study.verify.measured_remarks`."""


def read_runs(path: str | None = None) -> list[MeasuredRun]:
    """Read measured runs from a file, or the catalogue's; one that cannot be predicted has `MeasuredRun.skipped`.

    Raises
    ------
    LazsimError
        When the file cannot be read or lacks columns. A row that cannot be predicted says so in `MeasuredRun.skipped`.
    """
    catalogued = read_rows(RUNS, (CATALOG / RUNS).read_bytes(), NEEDED)
    if path is None:
        return [_run(row, Lookup({}, {})) for row in catalogued.values()]
    beside = Path(path).parent
    models, systems = (
        {row[key]: row for row in read_rows(str(file), read_bytes(file), [key]).values()} if file.is_file() else {}
        for file, key in ((beside / "models.csv", "model_key"), (beside / "systems.csv", "system"))
    )
    lookup = Lookup(models, systems, beside)
    rows = read_rows(path, read_bytes(path), NEEDED)
    columns, known = (next(iter(table.values())).keys() for table in (rows, catalogued))
    # In another case, or with a unit behind the name.
    unread = {re.split(r"\W", one.lower())[0]: one for one in sorted(columns - known)}
    for column in sorted({*known, *SIZES.values()} - columns):
        if alike := difflib.get_close_matches(column, unread, 1, ALIKE):
            raise SpecError(f"{path}: has a column {unread[alike[0]]}, which is not read; name it {column}")
    return [_run(row, lookup) for row in rows.values()]


def _told_tokens_per_s(row: Cells) -> float:
    """Return the measured tokens per second of a GPU, or what the time of a step makes them; nan without either."""
    told, step_s = cell_number(row, "tok_s_gpu"), cell_number(row, "step_s")
    if math.isnan(told) and step_s > 0:
        told = cell_number(row, "gbs") * cell_number(row, "seq") / step_s / (cell_number(row, "gpus") or math.nan)
    return told or math.nan


def _run(row: Cells, lookup: Lookup) -> MeasuredRun:
    row, instead = plain_words(row)
    names = ("model_key", "system", "precision", "dispatcher", "cuda_graph", "recompute", "source_family")
    settings = {name: row.get(name) or "unknown" for name in names}
    settings["inputs"] = _known_inputs(row)
    settings["exchange"] = "behind compute" if row.get("a2a_overlap") == "1" else "alone"
    settings["pipeline"] = "pp = 1" if row.get("pp", "") in (*UNKNOWN, "1") else "pp > 1"
    inputs, slowest, skipped, measured, remarks = None, None, "", math.nan, list[tuple[str, str]]()
    try:
        measured = told = _told_tokens_per_s(row)
        possible = _possible_inputs(row, lookup)
        inputs, slowest = possible[0], possible[-1]
        if row.get("mbs", "") in UNKNOWN and inputs.num_micro_batches != cell_number(row, "microbatches_per_step"):
            mbs, *others = (str(one.parallel.micro_batch) for one in possible)
            why = "the fastest that fits" if fits(inputs) else "though none fits"
            instead.append(f"mbs as {mbs}, {why}{', before ' * bool(others)}{', '.join(others)}")
        settings["inputs"] = APART if instead else settings["inputs"]
        remarks += [(INSTEAD, text) for text in instead]
        if math.isnan(told):
            reported = 1e9 * cell_number(row, "flops_per_tok_reported_G")
            flop, whose = (reported, "as reported") if reported > 0 else (flop_per_token(inputs), "as lazsim counts")
            measured = 1e12 * cell_number(row, "reported_tflops_gpu") / flop
            remarks.append((ASSUMED, f"tok_s_gpu of TFLOP/s by {flop / 1e9:.4g} GFLOP a token, {whose}"))
        if not measured > 0:
            raise SpecError("no measured throughput: give tok_s_gpu, step_s or reported_tflops_gpu")
        settings["graphs"] = inputs.parallel.graphs
        refuse_contradictions(row, inputs)
        remarks += remarks_on(row, inputs, lookup, told)
    except LazsimError as error:
        inputs, slowest, skipped, remarks = None, None, str(error), []
    source = row.get("source", "")
    return MeasuredRun(row["row_id"], source, settings, row, measured, inputs, slowest, skipped, tuple(remarks))


def _known_inputs(row: Cells) -> str:
    """Tell how well inputs are known; where the recipe that was found is of another run, it is the nearest one."""
    # Of a row that says nothing of its `completeness`; a setting may be known to be none.
    decisive = [row.get(column, "") for column in ("precision", "recompute", "dispatcher", "cuda_graph")]
    is_told = set(decisive).isdisjoint({*UNKNOWN} - {"none"})
    if (row.get("completeness") or ("full" if is_told else "")) != "full":
        return UNKNOWN_INPUTS
    return OWN if (row.get("config_match") or "source itself") in ("exact", "source itself") else NEAREST


def _possible_inputs(row: Cells, lookup: Lookup) -> list[StepInputs]:
    """Build the inputs of a row; if it does not tell its micro-batch, those of all that a search tries and that fit.

    The fastest comes first: who publishes a throughput has tried sizes, and a search takes the fastest, too. A number
    of micro-batches tells their size.
    """
    if row.get("mbs", "") not in UNKNOWN:
        return [_inputs(row, lookup)]
    first, *others = ({**row, "mbs": str(size)} for size in MICRO_BATCHES)
    found = [_inputs(first, lookup)]
    for other in others:
        with contextlib.suppress(SpecError):  # sizes that do not divide the batch
            found.append(_inputs(other, lookup))
    told = [one for one in found if one.num_micro_batches == cell_number(row, "microbatches_per_step")]
    some = told or [one for one in found if fits(one)] or found[:1]
    return sorted(some, key=lambda one: predict_step(one).step_s)


def _inputs(row: Cells, lookup: Lookup) -> StepInputs:
    for column in ("gpus", "gbs", "seq", "mbs", "tp", "pp", "ep"):
        if not cell_whole(row, column):
            raise SpecError(f"{column} is {row.get(column) or 'unknown'}; give 1 or more")
    model = lookup.model(row["model_key"])
    changes: dict[str, Any] = {
        "sequence_length": cell_whole(row, "seq"),
        "num_mtp_layers": cell_whole(row, "mtp_layers"),
    }
    if layers := cell_whole(row, "layers_override"):
        if model.state_space is not None:
            raise SpecError(
                f"layers_override {layers}: which kinds of layers of {row['model_key']} are left is unknown"
            )
        # The first layers stay as they are; those behind them are cut in proportion.
        first = model.moe_layers[0]
        share = model.num_moe_layers / (model.num_layers - first)
        changes |= {"num_layers": layers, "num_moe_layers": max(1, round((layers - first) * share))}
        if model.attention and (windows := model.attention.num_window_layers):
            changes["attention.num_window_layers"] = round(windows * layers / model.num_layers)
    model = override(model, changes, row["model_key"])
    cluster, gpu = lookup.cluster(row["system"], cell_whole(row, "gpus"))
    inputs = StepInputs(model, gpu, cluster, layout_of(row), tables_of(gpu), load_constants())
    if row.get("recompute") == "none" or inputs.parallel.recompute != "none":
        return inputs
    # Of a row that does not say what is recomputed, it is the least of what a search tries that fits into memory.
    for recompute, modules in RECOMPUTES:
        words = "+".join(theirs for theirs, ours in MODULES.items() if ours in modules)
        parallel = layout_of({**row, "recompute": recompute, "recompute_modules": words})
        if fits(inputs := replace(inputs, parallel=parallel)):
            break
    return inputs
