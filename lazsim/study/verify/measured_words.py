"""Words of measured runs, whoever wrote them: a row in the words that are read, and what stands for unknown ones."""

import re
from collections.abc import Iterable

from lazsim.files.tables import Cells
from lazsim.study.verify.cells import UNKNOWN, words_of

HYBRIDS = ("hsdp", "hybrid_shard")

CHOICES = {
    "precision": {
        "fp8_cs": "fp8", "fp8_ds": "fp8", "fp8_sc": "fp8_block", "bf16": "bf16", "bfloat16": "bf16", "mxfp8": "mxfp8",
        "nvfp4": "nvfp4",
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

SYNONYMS = {
    "precision": {"bfloat16": "bf16"}, "cuda_graph": {"full": "full_iteration", "partial": "transformer_engine"},
    "sharding": {"zero1_dist_optimizer": "zero1", "optimizer": "zero1"},
}  # fmt: skip
"""Words that mean the same: rows that differ in them alone do not differ."""

MODULES = {
    "mla_up_proj": "latent_up", "core_attn": "attention_core", "layernorm": "norm", "moe_act": "expert_activation",
    "mlp": "dense_block",
}  # fmt: skip

LISTS = {
    "recompute_modules": {
        **MODULES,
        **dict.fromkeys(("selective", "activation", "rematerialisation", "ac", "block", "full", "uniform"), ""),
    },
    "activation_offload": {
        "optimizer": "optimizer", "expert_fc1": "expert_input", "moe_act": "expert_activation",
        **dict.fromkeys(("0", "paged_stash", "fused_group_mlp", "fine_grained", "states"), ""),
    },
    "cuda_graph_scope": {
        name: name for name in ("attn", "mamba", "mlp", "moe", "moe_router", "moe_preprocess", "full_iteration")
    },
}  # fmt: skip
"""Columns of several words, and what each stands for: some for nothing, or nothing more than other columns tell."""

ROUTINGS = {
    "balanced": "balanced", "balance": "balanced", "dropless": "dropless", "drop": "drop", "padded": "padded",
    "fake": "fake", **dict.fromkeys(("real", "learned", "aux", "loss", "bias"), "learned"),
    **dict.fromkeys(("forced", "token", "tokens", "capacity", "router", "gate", "with"), ""),
}  # fmt: skip
"""Words of a routing of tokens, such as ``forced_balance_dropless`` or ``token_drop``; gates learn by loss or bias."""

FORMATS = {
    "mxfp8": r"mx.?fp8|fp8.?mx|1x32|e8m0", "nvfp4": "nvfp4", "fp8_sc": r"block|128x128|sub.?channel|fp8.?sc",
    "fp8_cs": r"current|delayed|tensor.?wise|per.?tensor|fp8.?[cd]s", "bf16": "b(float|f)16",
}  # fmt: skip
"""Words of a recipe that tell its precision; of MXFP8 and NVFP4, whose scales are of blocks too, the first."""

NEAREST_WORDS = {
    "precision": {r"(fp|float)8([\W_].*)?": "fp8_cs", r"mxfp8.grouped.only": "mxfp8"},
    "sharding": {r"hsdp.*|hybrid.?shard.*|fsdp2? in.rack.*|ep\d+": "fsdp"},
    "vp": {r"dualpipe.?v": "dualpipe"},
    "dispatcher": {r"fused.*": "alltoall"},
    "status": {r"instrumented|known.regression": "keep"},
}
"""What is predicted in place of words that tell too little or of what is not modelled: bare 8 bits have scales of
tensors, hybrids and all beside experts are sharded over all ranks, stages of DualPipeV are held twice, exchanges stay
apart from matmuls, and neither profilers nor known faults of a release slow a step down."""

DEFAULTS = {
    "precision": "bf16", "recompute": "none", "dispatcher": "alltoall", "cuda_graph": "none",
    "cuda_graph_scope": "attn+moe_router+moe_preprocess", "vp": "1", "cp": "1",
    "etp": "1", "sharding": "zero1", "optimizer": "adam", "activation_offload": "none", "token_routing": "balanced",
    "a2a_overlap": "0", "grad_reduce_overlap": "1", "param_gather_overlap": "1", "tp_comm_overlap": "0",
}  # fmt: skip
"""What stands for an unknown setting; where nothing recomputed does not fit into memory, more of it is."""

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
WORDS = {
    *DEFAULTS, *FLAGS, *LISTS, "capacity_factor", "distributed_optimizer", "completeness", "config_match", "status",
}  # fmt: skip
"""Columns whose words mean the same in any case."""


def plain_words(row: Cells) -> tuple[Cells, list[str]]:
    """Return a row with its words in small letters, flags as 0 and 1, and nearest words, of which it tells.

    Whole numbers lose the ``.0`` that tables get where a column has empty cells.
    """
    small = {column: cell.lower() for column, cell in row.items()}
    cells = {name: word if name in WORDS or word in UNKNOWN else row[name] for name, word in small.items()}
    cells |= {name: re.sub(r"^(\d+)\.0+$", r"\1", cell) for name, cell in cells.items() if name != "row_id"}
    for column in CHOICES.keys() & cells.keys():
        synonyms = SYNONYMS.get(column, {})
        known = {letters_of(name): synonyms.get(name, name) for name in CHOICES[column]}
        word, bracket, more = cells[column].partition(" (")
        cells[column] = known.get(letters_of(word), word) + bracket + more
    cells |= {column: in_order(cells[column], LISTS[column]) for column in LISTS.keys() & cells.keys()}
    cells |= {column: FLAG_WORDS.get(cells[column], cells[column]) for column in FLAGS if column in cells}
    instead = []
    for column, words in NEAREST_WORDS.items():
        cell = cells.get(column, "")
        if cell.partition(" (")[0] in CHOICES.get(column, ()):
            continue
        word = next((word for pattern, word in words.items() if re.fullmatch(pattern, cell)), "")
        told = formats_told(f"{cell} {cells.get('precision_recipe', '')}") if column == "precision" else []
        if cell in UNKNOWN and len(told) == 1:
            cells[column] = told[0]
        # Scales of tensors, the last in the list, leave it open which the others are of.
        if word == "fp8_cs" and (told := [one for one in told if one != "bf16"]) and word not in told[1:]:
            cells[column] = told[0]
        elif word:
            instead.append(f"{column} {cell!r} as {word}")
            cells[column] = word
    if (sharding := cells.get("sharding", "")).startswith(HYBRIDS) and cells.get("dp_replicate", "") in UNKNOWN:
        instead.append(f"sharding {sharding!r} as fsdp")
    return cells, instead


def in_order(cell: str, names: Iterable[str]) -> str:
    """Return a list with its words as in `names` and in their order; one with other words stays.

    Examples
    --------
    >>> in_order("mlp, moe-act (paper adds layernorm)", ("layernorm", "moe_act", "mlp"))
    'layernorm+moe_act+mlp'
    """
    whole = re.sub(r" \((?:paper )?adds ([^)]*)\)$", r"+\1", cell)
    told = {letters_of(word) for word in words_of(whole)}
    found = [name for name in names if letters_of(name) in told]
    _, bracket, more = whole.partition(" (")
    return "+".join(found) + bracket + more if found and len(found) == len(told) else cell


def formats_told(text: str) -> list[str]:
    """Return the formats of numbers that a text tells, by their names among precisions."""
    return [name for name, words in FORMATS.items() if re.search(words, text.lower())]


def letters_of(text: str) -> str:
    """Return the letters and digits of a text, in small letters."""
    return re.sub(r"[\W_]", "", text).lower()
