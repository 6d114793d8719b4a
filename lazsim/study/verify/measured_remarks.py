"""What a row of a measured run leaves open or contradicts, and what a prediction of it takes for granted."""

import re
from collections.abc import Iterator

from lazsim.errors import SpecError
from lazsim.files.tables import Cells
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.remarks import kernel_remarks
from lazsim.stepmodel.search import needed_bytes
from lazsim.study.verify.cells import UNKNOWN, cell_number, words_of
from lazsim.study.verify.measured_layouts import (
    KEPT,
    PADDED,
    SOURCES,
    XLA,
    divides_optimizer,
    list_of,
    recipes_of,
    recomputation,
    routing_of,
)
from lazsim.study.verify.measured_models import Lookup
from lazsim.study.verify.measured_words import CHOICES, DEFAULTS, LISTS, formats_told

ASSUMED, LEFT_OUT, UNREAD = "unknown, and taken to be", "left out, and taken to be", "not read"
INSTEAD = "not told or not modelled, predicted as the nearest and counted apart"
STANDS_IN = "kernels that were not measured as a row has them"
TOO_LARGE = "more than the memory of a GPU, so that a setting was another one"
"""Kinds of remarks on a row."""

STEP_SHARE = 0.05
"""Share by which a step time may differ from that of the tokens per second before the row is remarked on: that is the
noise between teams that measured the same."""


def refuse_contradictions(row: Cells, inputs: StepInputs) -> None:
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
    if row.get("recompute") == "none" and list_of(row, "recompute_modules"):
        modules = row["recompute_modules"]
        raise SpecError(f"recompute 'none', and recompute_modules {modules!r}; expected 'selective', or no modules")
    if (inputs.parallel.sharding, divides_optimizer(row)) in (("none", True), ("optimizer", False)):
        divides = row["distributed_optimizer"]
        raise SpecError(f"sharding {row.get('sharding')!r}, and distributed_optimizer {divides}; correct one of them")


def remarks_on(
    row: Cells, inputs: StepInputs, lookup: Lookup, told_tokens_per_s_per_gpu: float
) -> Iterator[tuple[str, str]]:
    """Yield what of a row a prediction leaves out or takes for granted: one of the kinds above, and what.

    Tokens per second are those that the row tells, or nan.
    """
    model = row["model_key"]
    yield from ((ASSUMED, text) for text in _defaults(row, inputs, *{*UNKNOWN} - {""}))
    if alike := lookup.relative(model):
        yield ASSUMED, f"what models.csv does not tell of {model} as {alike} has it"
    has_further = lookup.model(model).num_mtp_layers > 0
    left_out = [
        *_defaults(row, inputs, ""),
        *["mtp_layers 0"] * (has_further and row.get("mtp_layers", "") in UNKNOWN),
        *["source_family of no known recipes"] * (not row.get("source_family")),
    ]
    if left_out:
        yield LEFT_OUT, ", ".join(left_out)
    yield from ((UNREAD, text) for text in _unread(row, inputs))
    yield from ((UNREAD, text) for text in _other_numbers(row, inputs, told_tokens_per_s_per_gpu))
    yield from ((STANDS_IN, text) for text in kernel_remarks(inputs))
    share = needed_bytes(inputs) / inputs.gpu.memory_bytes
    if share > 1:
        yield TOO_LARGE, f"{share:.3g} times"


def _defaults(row: Cells, inputs: StepInputs, *said: str) -> Iterator[str]:
    """Name the settings of which a row says this, with what stands for each; most rows leave offloading out.

    Where nothing stands for a setting, one that does not apply is none of these.
    """
    parallel = inputs.parallel
    idle = {
        "vp": parallel.pipeline == 1, "dispatcher": parallel.expert == 1, "tp_comm_overlap": parallel.tensor == 1,
        "cuda_graph_scope": parallel.graphs != "partial", "activation_offload": said == ("",),
    }  # fmt: skip
    for column, default in DEFAULTS.items():
        cell = row.get(column, "").partition(" (")[0]
        is_nothing = cell in CHOICES.get(column, ()) or (cell in ("n/a", "none") and default in ("0", "1", "none"))
        if cell in said and not (is_nothing or idle.get(column)):
            yield f"{column} {recomputation(parallel) if column == 'recompute' else default}"


def _unread(row: Cells, inputs: StepInputs) -> Iterator[str]:
    """Name what a row says and a prediction does not follow."""
    parallel = inputs.parallel
    cells = {column: cell for column, cell in row.items() if cell not in UNKNOWN}
    shown = {column: f"{column} {cell}" for column, cell in cells.items()}
    if cells.get("status", "keep") != "keep":
        yield f"{shown['status']}, which counts as any other row"
    if "source_family" in cells and recipes_of(row) is None:
        yield f"{shown['source_family']}, which is none of {SOURCES}"
    precision, recipe = (cells.get(column, "").lower() for column in ("precision", "precision_recipe"))
    if recipe and parallel.precision not in [CHOICES["precision"][one] for one in formats_told(recipe)]:
        yield f"precision_recipe {recipe!r} beside precision {precision}"
    spread = cells.get("sequence_parallel", "1")
    if (spread not in ("0", "1") and parallel.context_exchange == "ring") or (spread == "0" and parallel.tensor > 1):
        yield f"{shown['sequence_parallel']}, predicted as 1"
    if cells.get("delay_wgrad", "0") != "0":
        yield shown["delay_wgrad"]
    if parallel.schedule == "dualpipe" and cells.get("a2a_overlap") == "0":
        yield "a2a_overlap 0 with DualPipe, which hides exchanges"
    if cells.get("recompute") == "selective" and not list_of(row, "recompute_modules"):
        yield f"recompute selective without modules that lazsim knows, predicted as {recomputation(parallel)}"
    nothing = {name for name, meaning in LISTS["recompute_modules"].items() if not meaning}
    if cells.get("recompute") == "full" and words_of(cells.get("recompute_modules", "")) - nothing:
        yield f"{shown['recompute_modules']} with recompute full"
    if "recompute" not in cells and row.get("recompute") != "none" and "recompute_modules" in cells:
        yield f"{shown['recompute_modules']} without recompute"
    if parallel.pipeline == 1 and cell_number(row, "vp") > 1:
        yield f"{shown['vp']} with pp 1"
    scope = cells.get("cuda_graph_scope", "")
    if scope and parallel.graphs == "none":
        yield f"cuda_graph_scope {scope} without cuda_graph"
    elif scope and parallel.graphs == "partial":
        # Megatron-LM has gated delta nets in place of attention.
        mixers = ["attn", *["mamba"] * bool((space := inputs.model.state_space) and space.kind == "mamba")]
        held = [*mixers * parallel.graph_attention, "moe_router", "moe_preprocess"]
        if {*held} != words_of(scope) - ({"mamba"} - {*mixers}):
            yield f"cuda_graph_scope {scope}, predicted as {'+'.join(held)}"
    drops = "drop" in routing_of(row)
    if drops and not parallel.capacity_factor:
        yield f"{shown['token_routing']} without capacity_factor"
    elif "dropless" not in cells.get("capacity_factor", "dropless") and not drops:
        yield f"{shown['capacity_factor']} with a token_routing that drops nothing"
    read = {"cuda_graph": rf".*{re.escape(XLA)}", "sharding": KEPT, "capacity_factor": rf"{PADDED}|.*dropless\)"}
    for column in (*CHOICES, *LISTS, "token_routing", "capacity_factor"):
        if " (" in cells.get(column, "") and not re.fullmatch(read.get(column, ""), cells[column]):
            yield f"words in brackets of {shown[column]}"


def _other_numbers(row: Cells, inputs: StepInputs, told_tokens_per_s_per_gpu: float) -> Iterator[str]:
    """Name the numbers of a row that are others than the rest of it makes them."""
    ranks, micro_batches = cell_number(row, "dp"), cell_number(row, "microbatches_per_step")
    if ranks > 0 and ranks not in (inputs.data, inputs.data * inputs.parallel.context):
        yield f"dp {row['dp']}, where the layout has {inputs.data}"
    elif micro_batches > 0 and micro_batches != inputs.num_micro_batches:
        yield f"microbatches_per_step {row['microbatches_per_step']}, where the layout has {inputs.num_micro_batches}"
    tokens_per_s = told_tokens_per_s_per_gpu * inputs.num_gpus
    step_s = inputs.parallel.global_batch * inputs.model.sequence_length / tokens_per_s
    if (told_s := cell_number(row, "step_s")) > 0 and abs(told_s / step_s - 1) > STEP_SHARE:
        yield f"step_s {row['step_s']}, where tok_s_gpu gives {step_s:.4g} s"
