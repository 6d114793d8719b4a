"""Training runs that others measured: rows of CSV to inputs of a step.

A row has the columns of ``lazsim/catalog/measured/training.csv``: docs/guides/steps.md explains them. Models and
systems are names of the catalogue, or rows of ``models.csv`` and ``systems.csv`` beside the file.
"""

import contextlib
import difflib
import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lazsim.errors import LazsimError, SpecError
from lazsim.files.decoding import convert
from lazsim.files.reading import CATALOG, read_bytes
from lazsim.files.tables import Cells
from lazsim.specs import ParallelSpec, Spec, read_toml
from lazsim.specs.overrides import override
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.loading import load_constants, tables_of
from lazsim.stepmodel.memory import memory_bytes
from lazsim.stepmodel.predict import flop_per_token, predict_step
from lazsim.stepmodel.search import MICRO_BATCHES, RECOMPUTES, fits
from lazsim.study.verify.cells import (
    UNKNOWN,
    cell_choice,
    cell_flag,
    cell_number,
    cell_whole,
    cell_words,
    read_rows,
)
from lazsim.study.verify.measured_models import Lookup, catalogued_name

RUNS, SOURCES = "measured/training.csv", "measured/sources.toml"

HYBRIDS = ("hsdp", "hybrid_shard")

CHOICES = {
    "precision": {
        "fp8_cs": "fp8", "fp8_ds": "fp8", "fp8_sc": "fp8_block", "bf16": "bf16", "mxfp8": "mxfp8", "nvfp4": "nvfp4",
    },
    "recompute": {"selective": "selective", "full": "full"},
    "dispatcher": {"alltoall": "all_to_all", "allgather": "all_gather", "deepep": "deepep", "hybridep": "hybridep"},
    "cuda_graph": {"full_iteration": "full", "full": "full", "transformer_engine": "partial", "partial": "partial"},
    "sharding": {
        "zero1_dist_optimizer": "optimizer", "zero1": "optimizer", "optimizer": "optimizer",
        **dict.fromkeys(("fsdp", "fsdp2", "megatron_fsdp", "zero3", "full", *HYBRIDS), "full"), "none": "none",
    },
    "optimizer": {"adam": "adam", "adamw": "adam", "muon": "muon", "muonh": "muon"},
}  # fmt: skip
"""Columns of one word, in any spelling such as all-to-all, behind which brackets may tell more."""

FORMATS = {
    "mxfp8": r"mx.?fp8|fp8.?mx|1x32|e8m0", "nvfp4": "nvfp4", "fp8_sc": r"block|128x128|sub.?channel|fp8.?sc",
    "fp8_cs": r"current|delayed|tensor.?wise|per.?tensor|fp8.?[cd]s", "bf16": "b(float|f)16",
}  # fmt: skip
"""Words of a recipe that tell its precision; of MXFP8 and NVFP4, whose scales are of blocks too, the first."""

BARE_8_BITS = r"(fp|float)8([\W_].*)?"
NEAREST_WORDS = {
    "precision": {BARE_8_BITS: "fp8_cs", r"mxfp8.grouped.only": "mxfp8"},
    "sharding": {r"hsdp.*|hybrid.?shard.*|fsdp2? in.rack.*": "fsdp"},
    "vp": {r"dualpipe.?v": "dualpipe"},
    "dispatcher": {r"fused.*": "alltoall"},
}
"""What is predicted in place of words that tell too little or of what is not modelled: bare 8 bits have scales of
tensors, hybrids are sharded over all ranks, stages of DualPipeV are held twice, and exchanges stay apart from matmuls.
"""

MODULES = {
    "mla_up_proj": "latent_up", "core_attn": "attention_core", "layernorm": "norm", "moe_act": "expert_activation",
    "mlp": "dense_block",
}  # fmt: skip

NO_MODULES = ("", "selective", "activation", "rematerialisation", "ac")
"""Words of the column of modules that name none."""

OFFLOADED = {"optimizer": "optimizer", "expert_fc1": "expert_input", "moe_act": "expert_activation"}
NOT_OFFLOADED = ("", "0", "paged_stash", "fused_group_mlp", "fine_grained", "states")
"""Words of the same column that move nothing to the host, or tell no more."""

LEARNED = ("real", "aux", "learned")
ROUTINGS = ("balance", "drop", *LEARNED, "fake")
"""Words of which a routing of tokens must have one, such as ``forced_balance_dropless`` or ``token_drop``."""

XLA, KEPT = "(xla)", r".* \((no.reshard\w*( after (fwd|forward))?|reshard_after_forward ?= ?false)\)"

OWN, NEAREST, UNKNOWN_INPUTS, APART = "all known", "of the nearest recipe", "some unknown", "counted apart"
"""How well the inputs of a row are known, its setting `inputs`."""

NEEDED = ("row_id", "model_key", "system", "gpus", "gbs", "seq")
"""Columns that a table must have; the first names a row."""

ASSUMED, LEFT_OUT, UNREAD = "unknown, and taken to be", "left out, and taken to be", "not read"
INSTEAD = "not told or not modelled, predicted as the nearest and counted apart"
STANDS_IN = "kernels that were not measured as a row has them"
TOO_LARGE = "more than the memory of a GPU, so that a setting was another one"
"""Kinds of remarks on a row."""

DEFAULTS = {
    "precision": "bf16", "recompute": "none", "dispatcher": "alltoall", "cuda_graph": "none",
    "cuda_graph_scope": "attn+moe_router+moe_preprocess", "vp": "1", "cp": "1",
    "etp": "1", "sharding": "zero1", "optimizer": "adam", "activation_offload": "none", "token_routing": "balanced",
    "a2a_overlap": "0", "grad_reduce_overlap": "1", "param_gather_overlap": "1", "tp_comm_overlap": "0",
}  # fmt: skip
"""What stands for an unknown setting; where nothing recomputed does not fit into memory, `_inputs` takes more."""

SIZES = {
    "tensor": "tp", "pipeline": "pp", "context": "cp", "expert": "ep", "expert_tensor": "etp", "micro_batch": "mbs",
    "data_replicate": "dp_replicate",
}  # fmt: skip
OVERLAPS = {
    "overlap_expert": "a2a_overlap", "overlap_gradients": "grad_reduce_overlap",
    "overlap_parameters": "param_gather_overlap", "overlap_tensor": "tp_comm_overlap",
}  # fmt: skip
"""Fields of a layout, and the columns that have them."""

FLAGS = (*OVERLAPS.values(), "sequence_parallel", "distributed_optimizer", "delay_wgrad")
FLAG_WORDS = {"false": "0", "no": "0", "off": "0", "none": "0", "true": "1", "yes": "1", "on": "1"}
WORDS = {*DEFAULTS, *FLAGS, "recompute_modules", "cuda_graph_scope", "completeness", "config_match", "status"}
"""Columns whose words mean the same in any case."""

GRAPH_SCOPES = ("attn", "mamba", "mlp", "moe", "moe_router", "moe_preprocess", "full_iteration")
"""Words of the parts of a layer that graphs of Transformer Engine hold."""

STEP_SHARE = 0.05
"""Share by which a step time may differ from that of the tokens per second before the row is remarked on: that is the
noise between teams that measured the same."""

ALIKE = 0.85
"""Likeness from which the name of a column is taken for a slip."""


class Recipes(Spec, frozen=True, kw_only=True):
    """Settings of the recipes of a source that no column has."""

    gradient_bytes: Literal[2, 4] = 4
    """Bytes in which a gradient is reduced."""
    state_bytes: Literal[2, 4] = 4
    reshard_after_forward: bool = True
    """See `lazsim.specs.ParallelSpec`."""
    is_tuned: bool = False
    """Whether they are the ``perf_recipes`` of NVIDIA-NeMo/Megatron-Bridge."""


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
    """What of the row a prediction leaves out or takes for granted: one of the kinds above, and what."""


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


def _plain(row: Cells) -> tuple[Cells, list[str]]:
    """Return a row with its words in small letters, flags as 0 and 1, and nearest words, of which it tells."""
    small = {column: cell.lower() for column, cell in row.items()}
    cells = {name: word if name in WORDS or word in UNKNOWN else row[name] for name, word in small.items()}
    for column in CHOICES.keys() & cells.keys():
        known = {_letters(name): name for name in CHOICES[column]}
        word, bracket, more = cells[column].partition(" (")
        cells[column] = known.get(_letters(word), word) + bracket + more
    cells |= {column: FLAG_WORDS.get(cells[column], cells[column]) for column in FLAGS if column in cells}
    instead = []
    for column, words in NEAREST_WORDS.items():
        cell = cells.get(column, "")
        if cell.partition(" (")[0] in CHOICES.get(column, ()):
            continue
        word = next((word for pattern, word in words.items() if re.fullmatch(pattern, cell)), "")
        told = _formats(f"{cell} {cells.get('precision_recipe', '')}") if column == "precision" else []
        # Scales of tensors, the last in the list, leave it open which the others are of.
        if word == "fp8_cs" and (told := [one for one in told if one != "bf16"]) and word not in told[1:]:
            cells[column] = told[0]
        elif word:
            instead.append(f"{column} {cell!r} as {word}")
            cells[column] = word
    if (sharding := cells.get("sharding", "")).startswith(HYBRIDS) and cells.get("dp_replicate", "") in UNKNOWN:
        instead.append(f"sharding {sharding!r} as fsdp")
    return cells, instead


def _formats(text: str) -> list[str]:
    return [name for name, words in FORMATS.items() if re.search(words, text.lower())]


def _tokens_per_s_per_gpu(row: Cells) -> float:
    """Return the measured tokens per second of a GPU, or what the time of a step makes them."""
    told, step_s = cell_number(row, "tok_s_gpu"), cell_number(row, "step_s")
    if math.isnan(told) and step_s > 0:
        told = cell_number(row, "gbs") * cell_number(row, "seq") / step_s / (cell_number(row, "gpus") or math.nan)
    return told or math.nan


def _run(row: Cells, lookup: Lookup) -> MeasuredRun:
    row, instead = _plain(row)
    names = ("model_key", "system", "precision", "dispatcher", "cuda_graph", "recompute", "source_family")
    settings = {name: row.get(name) or "unknown" for name in names}
    settings["inputs"] = _known_inputs(row)
    settings["exchange"] = "behind compute" if row.get("a2a_overlap") == "1" else "alone"
    settings["pipeline"] = "pp = 1" if row.get("pp", "") in (*UNKNOWN, "1") else "pp > 1"
    inputs, slowest, skipped, measured, remarks = None, None, "", math.nan, list[tuple[str, str]]()
    try:
        measured = _tokens_per_s_per_gpu(row)
        possible = _possible_inputs(row, lookup)
        inputs, slowest = possible[0], possible[-1]
        if row.get("mbs", "") in UNKNOWN and inputs.num_micro_batches != cell_number(row, "microbatches_per_step"):
            mbs, *others = (str(one.parallel.micro_batch) for one in possible)
            why = "the fastest that fits" if fits(inputs) else "though none fits"
            instead.append(f"mbs as {mbs}, {why}{', before ' * bool(others)}{', '.join(others)}")
        settings["inputs"] = APART if instead else settings["inputs"]
        remarks += [(INSTEAD, text) for text in instead]
        if math.isnan(measured):
            reported = 1e9 * cell_number(row, "flops_per_tok_reported_G")
            flop, whose = (reported, "as reported") if reported > 0 else (flop_per_token(inputs), "as lazsim counts")
            measured = 1e12 * cell_number(row, "reported_tflops_gpu") / flop
            remarks.append((ASSUMED, f"tok_s_gpu of TFLOP/s by {flop / 1e9:.4g} GFLOP a token, {whose}"))
        if not measured > 0:
            raise SpecError("no measured throughput: give tok_s_gpu, step_s or reported_tflops_gpu")
        settings["graphs"] = inputs.parallel.graphs
        _refuse_contradictions(row, inputs)
        remarks += [(ASSUMED, text) for text in _defaults(row, inputs, "unknown", "nan")]
        if alike := lookup.relative(row["model_key"]):
            remarks.append((ASSUMED, f"what models.csv does not tell of {row['model_key']} as {alike} has it"))
        has_further = lookup.model(row["model_key"]).num_mtp_layers > 0
        left_out = [
            *_defaults(row, inputs, ""),
            *["mtp_layers 0"] * (has_further and row.get("mtp_layers", "") in UNKNOWN),
            *["source_family of no known recipes"] * (not row.get("source_family")),
        ]
        remarks += [(LEFT_OUT, ", ".join(left_out))] * bool(left_out)
        remarks += [(UNREAD, text) for text in _unread(row, inputs)]
        remarks += [(STANDS_IN, text) for text in inputs.kernel_remarks]
        share = math.fsum(memory_bytes(inputs).values()) / inputs.gpu.memory_bytes
        remarks += [(TOO_LARGE, f"{share:.3g} times")] * (share > 1)
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
    inputs = StepInputs(model, gpu, cluster, _layout(row), tables_of(gpu), load_constants())
    if row.get("recompute") == "none" or inputs.parallel.recompute != "none":
        return inputs
    # Of a row that does not say what is recomputed, it is the least of what a search tries that fits into memory.
    for recompute, modules in RECOMPUTES:
        words = "+".join(theirs for theirs, ours in MODULES.items() if ours in modules)
        parallel = _layout({**row, "recompute": recompute, "recompute_modules": words})
        if fits(inputs := replace(inputs, parallel=parallel)):
            break
    return inputs


def _refuse_contradictions(row: Cells, inputs: StepInputs) -> None:
    """Refuse a row that says the same thing twice, and not alike."""
    system, gpu = row["system"], inputs.gpu.name.lower()
    # Words such as "H100" or "h100-sxm5", and none of "NVIDIA" or "80GB".
    names = re.findall(r"[a-z]+\d\w*", row.get("gpu", "").lower())
    if names and not any(name.startswith(gpu) for name in names):
        raise SpecError(f"gpu {row['gpu']!r}, and system {system!r} has {gpu}; correct one of them")
    for column, own in (("gpus_per_node", inputs.cluster.gpus_per_node), ("nvlink_domain", inputs.domain)):
        told = cell_number(row, column)
        if told > 0 and min(told, inputs.num_gpus) != min(own, inputs.num_gpus):
            raise SpecError(f"{column} {told:g}, and system {system!r} has {own}; correct one, or name another system")
    modules = row.get("recompute_modules", "")
    if row.get("recompute") == "none" and any(module in modules for module in MODULES):
        raise SpecError(f"recompute 'none', and recompute_modules {modules!r}; expected 'selective', or no modules")
    sharding, divides = inputs.parallel.sharding, row.get("distributed_optimizer")
    if (sharding, divides) in (("none", "1"), ("optimizer", "0")):
        raise SpecError(f"sharding {row.get('sharding')!r}, and distributed_optimizer {divides}; correct one of them")


def _defaults(row: Cells, inputs: StepInputs, *said: str) -> Iterator[str]:
    """Name the settings of which a row says this, with what stands for each; most rows leave offloading out."""
    parallel = inputs.parallel
    idle = {
        "vp": parallel.pipeline == 1, "dispatcher": parallel.expert == 1, "tp_comm_overlap": parallel.tensor == 1,
        "cuda_graph_scope": parallel.graphs != "partial", "activation_offload": said == ("",),
    }  # fmt: skip
    for column, default in DEFAULTS.items():
        if row.get(column, "") in said and not idle.get(column):
            yield f"{column} {_recomputation(parallel) if column == 'recompute' else default}"


def _recomputation(parallel: ParallelSpec) -> str:
    return " ".join([parallel.recompute, *["of", " and ".join(parallel.recomputed)] * bool(parallel.recomputed)])


def _unread(row: Cells, inputs: StepInputs) -> Iterator[str]:
    """Name what a row says and a prediction does not follow."""
    parallel = inputs.parallel
    cells = {column: cell for column, cell in row.items() if cell not in UNKNOWN}
    shown = {column: f"{column} {cell}" for column, cell in cells.items()}
    if cells.get("status", "keep") != "keep":
        yield f"{shown['status']}, which counts as any other row"
    precision, recipe = (cells.get(column, "").lower() for column in ("precision", "precision_recipe"))
    if (formats := _formats(recipe)) and parallel.precision not in [CHOICES["precision"][one] for one in formats]:
        yield f"precision_recipe {recipe!r} beside precision {precision}"
    spread = cells.get("sequence_parallel", "1")
    if (spread not in ("0", "1") and parallel.context_exchange == "ring") or (spread == "0" and parallel.tensor > 1):
        yield f"{shown['sequence_parallel']}, predicted as 1"
    if cells.get("delay_wgrad", "0") != "0":
        yield shown["delay_wgrad"]
    if parallel.schedule == "dualpipe" and cells.get("a2a_overlap") == "0":
        yield "a2a_overlap 0 with DualPipe, which hides exchanges"
    if cells.get("recompute") == "selective" and not cell_words(row, "recompute_modules", MODULES, NO_MODULES):
        yield f"recompute selective without modules that lazsim knows, predicted as {_recomputation(parallel)}"
    modules = {*re.findall(r"\w+", cells.get("recompute_modules", ""))} - {*NO_MODULES, "block", "full", "uniform"}
    if modules and cells.get("recompute") == "full":
        yield f"{shown['recompute_modules']} with recompute full"
    if "recompute" not in cells and row.get("recompute") != "none" and "recompute_modules" in cells:
        yield f"{shown['recompute_modules']} without recompute"
    if parallel.pipeline == 1 and cell_number(row, "vp") > 1:
        yield f"{shown['vp']} with pp 1"
    scope = cells.get("cuda_graph_scope", "")
    if strange := {*re.findall(r"\w+", scope)} - {*GRAPH_SCOPES}:
        yield f"cuda_graph_scope {min(strange)}"
    elif scope and parallel.graphs == "none":
        yield f"cuda_graph_scope {scope} without cuda_graph"
    elif scope and parallel.graphs == "partial":
        # Megatron-LM has gated delta nets in place of attention.
        mixers = ["attn", *["mamba"] * bool((space := inputs.model.state_space) and space.kind == "mamba")]
        held = [*mixers * parallel.graph_attention, "moe_router", "moe_preprocess"]
        if {*held} != {*re.findall(r"\w+", scope)} - ({"mamba"} - {*mixers}):
            yield f"cuda_graph_scope {scope}, predicted as {'+'.join(held)}"
    drops = "drop" in cells.get("token_routing", "").replace("dropless", "")
    if drops and not parallel.capacity_factor:
        yield f"{shown['token_routing']} without capacity_factor"
    elif cells.get("capacity_factor", "")[:1].isdigit() and not drops:
        yield f"{shown['capacity_factor']} with a token_routing that drops nothing"
    for column in CHOICES:
        if " (" in cells.get(column, "") and not (XLA in cells[column] or re.fullmatch(KEPT, cells[column])):
            yield f"words in brackets of {shown[column]}"
    ranks, micro_batches = cell_number(row, "dp"), cell_number(row, "microbatches_per_step")
    if ranks > 0 and ranks not in (inputs.data, inputs.data * parallel.context):
        yield f"{shown['dp']}, where the layout has {inputs.data}"
    elif micro_batches > 0 and micro_batches != inputs.num_micro_batches:
        yield f"{shown['microbatches_per_step']}, where the layout has {inputs.num_micro_batches}"
    tokens_per_s = _tokens_per_s_per_gpu(row) * inputs.num_gpus
    step_s = parallel.global_batch * inputs.model.sequence_length / tokens_per_s
    if (told_s := cell_number(row, "step_s")) > 0 and abs(told_s / step_s - 1) > STEP_SHARE:
        yield f"{shown['step_s']}, where tok_s_gpu gives {step_s:.4g} s"


def _layout(row: Cells) -> ParallelSpec:
    scope, stages, routing = (row.get(name, "") for name in ("cuda_graph_scope", "pp_layout", "token_routing"))
    is_dual = _letters(row.get("vp", "")) == "dualpipe"
    parts = 1 if is_dual else cell_whole(row, "vp") or 1
    if routing not in UNKNOWN and not any(word in routing for word in ROUTINGS):
        raise SpecError(f"token_routing {routing!r} has none of {', '.join(ROUTINGS)}")
    is_learned = any(word in routing.partition(" (")[0] for word in LEARNED)
    recompute = _choice(row, "recompute", "none")
    recomputed = cell_words(row, "recompute_modules", MODULES, NO_MODULES) if recompute == "selective" else []
    capacity = row.get("capacity_factor", "").partition(" ")[0] if "drop" in routing.replace("dropless", "") else ""
    capacity_factor = cell_number({"capacity_factor": capacity}, "capacity_factor")
    recipes, in_pytorch = _recipes(row.get("source_family", "")), row.get("sharding", "").startswith(("fsdp", *HYBRIDS))
    sizes: dict[str, Any] = {ours: cell_whole(row, theirs) or 1 for ours, theirs in SIZES.items()}
    ulysses = re.search(r"ulysses\D*(\d+)", row.get("sequence_parallel", "").lower())
    if ulysses and sizes["context"] in (1, int(ulysses[1])):
        sizes |= {"context": int(ulysses[1]), "context_exchange": "all_to_all"}
    fields: dict[str, Any] = {
        **sizes,
        **{ours: cell_flag(row, theirs, DEFAULTS[theirs] == "1") for ours, theirs in OVERLAPS.items()},
        "schedule": "dualpipe" if is_dual else "1f1b",
        "virtual_stages": parts if sizes["pipeline"] > 1 else 1,
        "stages": "" if stages in UNKNOWN else stages,
        "global_batch": cell_whole(row, "gbs"),
        "sharding": _choice(row, "sharding", "none" if row.get("distributed_optimizer") == "0" else "optimizer"),
        "optimizer": _choice(row, "optimizer", "adam"),
        "state_bytes": recipes.state_bytes,
        "reshard_after_forward": recipes.reshard_after_forward and not re.fullmatch(KEPT, row.get("sharding", "")),
        "gradient_bytes": recipes.gradient_bytes,
        "precision": (precision := _choice(row, "precision", "bf16")),
        # So the recipes of Megatron-Bridge 0.6.2 and NeMo 2.1.0 have it; torchao gathers 16 bits by default.
        "eight_bit_parameters": precision != "fp8_block" and not in_pytorch,
        "recompute": recompute if recomputed or recompute == "full" else "none",
        "recomputed": recomputed,
        # A framework that shards with PyTorch recomputes with it, too.
        "recompute_stops_early": recompute == "full" and in_pytorch,
        "offloaded": cell_words(row, "activation_offload", OFFLOADED, NOT_OFFLOADED),
        # Without expert parallelism there is nothing to dispatch, whatever a row says.
        "dispatcher": _choice(row, "dispatcher", "all_to_all") if sizes["expert"] > 1 else "all_to_all",
        # The host starts a program of XLA once, and C++ launches its kernels.
        "graphs": "full" if XLA in row.get("cuda_graph", "") else _choice(row, "cuda_graph", "none"),
        "graph_attention": "attn" in scope or scope in UNKNOWN,
        # Such gates number experts through (FakeBalancedGate of NVIDIA-NeMo/Automodel).
        "routing": "learned" if is_learned else "consecutive" if "fake" in routing else "balanced",
        "capacity_factor": 0.0 if math.isnan(capacity_factor) else capacity_factor,
        "pad_to_capacity": capacity_factor > 0 and "padded" in routing,
    }
    tuned = _tuned_fields(row, fields) if recipes.is_tuned else {}
    return convert(fields | tuned, ParallelSpec, "layout")


def _choice(row: Cells, column: str, default: str) -> str:
    return cell_choice(row, column, CHOICES[column], default)


def _tuned_fields(row: Cells, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the recipes of Megatron-Bridge compute in 8 bits beside the matmuls of layers, and multiprocessors.

    Mxfp8 with graphs of the full iteration includes attention (``fp8_dot_product_attention``), but for DeepSeek-V3 on
    GB200, and the head of DeepSeek-V3 and GPT-OSS (``fp8_output_proj``). The dispatcher has those of
    ``moe_hybridep_num_sms``, but for Nemotron 3 Nano. DeepSeek-V3 has the precision-aware optimizer (``deepseek_v3.py``
    of 0.3.1).
    """
    model, system = catalogued_name(row["model_key"]), catalogued_name(row["system"])
    is_wide = row.get("dispatcher") == "hybridep" and not model.startswith("nemotron-3-nano")
    parts = ["attention"] * ((model, system) != ("deepseek-v3", "gb200-nvl72"))
    parts += ["head"] * model.startswith(("deepseek-v3", "gpt-oss"))
    has_parts = (fields["precision"], fields["graphs"]) == ("mxfp8", "full")
    moments = 2 if model.startswith("deepseek-v3") and fields["optimizer"] == "adam" else 4
    return {"eight_bit_parts": parts * has_parts, "exchange_multiprocessors": 32 * is_wide, "moment_bytes": moments}


@functools.cache
def _recipes(source: str) -> Recipes:
    recipes, letters = read_toml(SOURCES, (CATALOG / SOURCES).read_bytes(), dict[str, Recipes]), _letters(source)
    return next((found for begin, found in recipes.items() if letters.startswith(_letters(begin))), Recipes())


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text).lower()
