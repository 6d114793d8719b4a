"""Layouts of measured runs: a row in plain words to the settings of parallel training."""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from lazsim.errors import SpecError
from lazsim.files.decoding import convert
from lazsim.files.reading import CATALOG
from lazsim.files.tables import Cells
from lazsim.specs import ParallelSpec, Spec, read_toml
from lazsim.study.verify.cells import UNKNOWN, cell_choice, cell_flag, cell_number, cell_whole, cell_words, words_of
from lazsim.study.verify.measured_models import catalogued_name
from lazsim.study.verify.measured_words import CHOICES, DEFAULTS, HYBRIDS, LISTS, OVERLAPS, ROUTINGS, SIZES, letters_of

SOURCES = "measured/sources.toml"

XLA, KEPT = "(xla)", r".* \((no.reshard\w*( after (fwd|forward))?|reshard_after_forward ?= ?false)\)"
PADDED = r".* \(pad(ded)? to capacity\)"
"""Brackets that tell settings."""


class Recipes(Spec, frozen=True, kw_only=True):
    """Settings of the recipes of a source that no column has."""

    gradient_bytes: Literal[2, 4] = 4
    """Bytes in which a gradient is reduced."""
    state_bytes: Literal[2, 4] = 4
    reshard_after_forward: bool = True
    """See `lazsim.specs.ParallelSpec`."""
    is_tuned: bool = False
    """Whether they are the ``perf_recipes`` of NVIDIA-NeMo/Megatron-Bridge."""


def layout_of(row: Cells) -> ParallelSpec:
    """Return the layout of a row; a `SpecError` names the column that has none."""
    stages, routing, scope = row.get("pp_layout", ""), routing_of(row), list_of(row, "cuda_graph_scope")
    is_dual = letters_of(row.get("vp", "")) == "dualpipe"
    parts = 1 if is_dual else cell_whole(row, "vp") or 1
    recompute = _choice(row, "recompute", "none")
    recomputed = list_of(row, "recompute_modules") if recompute == "selective" else []
    capacity = row.get("capacity_factor", "").partition(" ")[0] if "drop" in routing else ""
    capacity_factor = cell_number({"capacity_factor": capacity}, "capacity_factor")
    recipes, in_pytorch = recipes_of(row) or Recipes(), row.get("sharding", "").startswith(("fsdp", *HYBRIDS))
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
        "sharding": _choice(row, "sharding", "none" if divides_optimizer(row) is False else "optimizer"),
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
        "offloaded": list_of(row, "activation_offload"),
        # Without expert parallelism there is nothing to dispatch, whatever a row says.
        "dispatcher": _choice(row, "dispatcher", "all_to_all") if sizes["expert"] > 1 else "all_to_all",
        # The host starts a program of XLA once, and C++ launches its kernels.
        "graphs": "full" if XLA in row.get("cuda_graph", "") else _choice(row, "cuda_graph", "none"),
        "graph_attention": "attn" in scope or not scope,
        # Such gates number experts through (FakeBalancedGate of NVIDIA-NeMo/Automodel).
        "routing": "learned" if "learned" in routing else "consecutive" if "fake" in routing else "balanced",
        "capacity_factor": 0.0 if math.isnan(capacity_factor) else capacity_factor,
        "pad_to_capacity": capacity_factor > 0
        and ("padded" in routing or re.fullmatch(PADDED, row["capacity_factor"]) is not None),
    }
    tuned = _tuned_fields(row, fields) if recipes.is_tuned else {}
    return convert(fields | tuned, ParallelSpec, "layout")


def list_of(row: Cells, column: str) -> list[str]:
    """Return what the words of a column of several stand for."""
    return cell_words(row, column, LISTS[column])


def routing_of(row: Cells) -> list[str]:
    """Return what the words of a routing of tokens stand for."""
    told = cell_words(row, "token_routing", ROUTINGS, r"[\W\d_]+")
    if not told and words_of(row.get("token_routing", "")):
        raise SpecError(
            f"token_routing {row['token_routing']!r} has none of {', '.join(filter(ROUTINGS.get, ROUTINGS))}"
        )
    return told


def divides_optimizer(row: Cells) -> bool | None:
    """Tell whether data-parallel ranks share the states of the optimizer; nothing where a row does not."""
    return {"0": False, "1": True}.get(cell_choice(row, "distributed_optimizer", {"0": "0", "1": "1"}, ""))


def _choice(row: Cells, column: str, default: str) -> str:
    return cell_choice(row, column, CHOICES[column], default)


def _tuned_fields(row: Cells, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the recipes of Megatron-Bridge compute in 8 bits beside the matmuls of layers, and multiprocessors.

    Mxfp8 with graphs of the full iteration includes attention (``fp8_dot_product_attention``), but for DeepSeek-V3 on
    GB200, and the head of DeepSeek-V3 and GPT-OSS (``fp8_output_proj``). The dispatcher has those of
    ``moe_hybridep_num_sms``, but for Nemotron 3 Nano and 3.5 Lightning. DeepSeek-V3 has the precision-aware optimizer
    (``deepseek_v3.py`` of 0.3.1).
    """
    model, system = catalogued_name(row["model_key"]), catalogued_name(row["system"])
    is_wide = row.get("dispatcher") == "hybridep" and not model.startswith(("nemotron-3-nano", "nemotron-3-5"))
    parts = ["attention"] * ((model, system) != ("deepseek-v3", "gb200-nvl72"))
    parts += ["head"] * model.startswith(("deepseek-v3", "gpt-oss"))
    has_parts = (fields["precision"], fields["graphs"]) == ("mxfp8", "full")
    moments = 2 if model.startswith("deepseek-v3") and fields["optimizer"] == "adam" else 4
    return {"eight_bit_parts": parts * has_parts, "exchange_multiprocessors": 32 * is_wide, "moment_bytes": moments}


def recipes_of(row: Cells) -> Recipes | None:
    """Return the settings of the recipes of a row's source; None where the source is unknown."""
    letters = letters_of(row.get("source_family", ""))
    return next((found for begin, found in _sources().items() if letters.startswith(letters_of(begin))), None)


@functools.cache
def _sources() -> Mapping[str, Recipes]:
    return read_toml(SOURCES, (CATALOG / SOURCES).read_bytes(), dict[str, Recipes])


def recomputation(parallel: ParallelSpec) -> str:
    """Name what a layout computes again."""
    return " ".join([parallel.recompute, *["of", " and ".join(parallel.recomputed)] * bool(parallel.recomputed)])
