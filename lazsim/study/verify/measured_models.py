"""Models and systems of measured runs: rows beside a table, else those of the catalogue."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lazsim.errors import SpecError, did_you_mean
from lazsim.files.decoding import convert
from lazsim.files.reading import path_from
from lazsim.files.tables import Cells
from lazsim.specs import AttentionSpec, ClusterSpec, GpuSpec, ModelSpec, catalog_names, load_spec
from lazsim.specs.catalog import sized_cluster
from lazsim.specs.overrides import override
from lazsim.stepmodel.loading import with_gpus
from lazsim.study.verify.cells import UNKNOWN, cell_flag, cell_number, cell_whole

GPU_SHARE = 0.1
"""Share by which sources differ on the rates of one GPU: the memory of a B200 has 7.7 or 8 TB/s."""

OTHER_NAME = "give yours another name"

LINK_SHARE = 0.7
"""Share of the line rate of NVLink that an all-to-all reaches.

316 of 450 GB/s on an H100, 203 of 300 on an A100, 563 of 900 on a B200 (ai-dynamo/aiconfigurator).
"""

ATTENTION_TYPES = ("MHA", "GQA", "MQA", "MLA")


@dataclass(frozen=True)
class Lookup:
    """Models and systems by name: those beside a file, its rows or files of their own, else those of the catalogue."""

    models: Mapping[str, Cells]
    systems: Mapping[str, Cells]
    folder: Path = Path()
    """Folder from which paths go."""

    def model(self, name: str) -> ModelSpec:
        """Find a model."""
        known = self._specified("model", name)
        if name not in self.models:
            return load_spec(ModelSpec, known)
        alike = known or self.relative(name)
        return _model_of(name, self.models[name], load_spec(ModelSpec, alike) if alike else None)

    def relative(self, name: str) -> str:
        """Return the other model of the catalogue with whose name that of a row begins; empty where there is none."""
        known = catalog_names("models") if name in self.models else ()
        begins = [one for one in known if f"{catalogued_name(name)}-".startswith(f"{one}-")]
        found = max(begins, key=len, default="")
        return "" if found == catalogued_name(name) else found

    def cluster(self, name: str, num_gpus: int) -> tuple[ClusterSpec, GpuSpec]:
        """Find a system, cut or grown to a number of GPUs, and its GPU."""
        row = self.systems.get(name, {})
        if known := self._specified("system", name):
            cluster = load_spec(ClusterSpec, known)
            gpu = load_spec(GpuSpec, cluster.gpu)
            server = cluster.gpus_per_node * cluster.nodes_per_server
            of_nodes = {
                "gpus_per_node": cluster.gpus_per_node, "gpus_per_nvlink_domain": cluster.gpus_per_domain or server,
                "nic_Gbps_per_gpu": cluster.network.nic_bytes_per_s * 8 / 1e9 / server,
            }  # fmt: skip
            _refuse_others(row, of_nodes, OTHER_NAME)
            if (told := row.get("gpu", "").lower()) not in (*UNKNOWN, cluster.gpu):
                raise SpecError(f"systems.csv has gpu {told} of {name}, and the catalogue {cluster.gpu}: {OTHER_NAME}")
        else:
            cluster, gpu = _system_of(row)
        of_gpu = {
            "peak_bf16_TF": gpu.peak_flop_per_s / 1e12, "peak_fp8_TF": gpu.peak_fp8_flop_per_s / 1e12,
            "hbm_TBps": gpu.memory_bytes_per_s / 1e12,
        }  # fmt: skip
        _refuse_others(row, of_gpu, f"kernels of another {gpu.name} were not measured")
        return with_gpus(cluster, num_gpus, "gpus"), gpu

    def _specified(self, kind: str, name: str) -> str:
        """Return how `load_spec` names a model or system; empty for one that only a row beside the file has."""
        if name.endswith((".toml", ".json")):
            return path_from(self.folder, name)
        catalogued = catalogued_name(name)
        if catalogued in (known := catalog_names("models" if kind == "model" else "clusters")):
            return catalogued
        if kind == "system" and sized_cluster(catalogued):
            return catalogued
        beside = self.models if kind == "model" else self.systems
        if name not in beside:
            near = did_you_mean(catalogued, [*known, *beside])
            raise SpecError(f"no {kind} {name!r} in the catalogue or beside the file{near and f': {near.strip()}'}")
        return ""


def catalogued_name(name: str) -> str:
    """Return a name as the catalogue writes it, such as dgx-h100 for ``DGX H100``, without who published a model."""
    return re.sub(r"[\s_]+", "-", name.lower().rpartition("/")[2])


def _system_of(row: Cells) -> tuple[ClusterSpec, GpuSpec]:
    """Build a system from its row, with everything that a step does not need from the catalogue's nearest one."""
    gpu_name = (row.get("gpu") or "").lower()
    if gpu_name not in catalog_names("gpus"):
        raise SpecError(f"the catalogue has no GPU {gpu_name!r}")
    gpu = load_spec(GpuSpec, gpu_name)
    per_node, domain = cell_whole(row, "gpus_per_node", 8), cell_whole(row, "gpus_per_nvlink_domain", 8)
    like = "gb200-nvl72" if domain > per_node else "dgx-h100"
    changes: dict[str, Any] = {
        "gpus_per_node": per_node,
        "gpus_per_domain": domain,
        "gpu": gpu_name,
        "network.nic_bytes_per_s": cell_number(row, "nic_Gbps_per_gpu") * 1e9 / 8 * per_node,
        "network.local_bytes_per_s": LINK_SHARE * cell_number(row, "nvlink_GBps_per_dir") * 1e9,
    }
    return override(load_spec(ClusterSpec, like), changes, row["system"]), gpu


def _refuse_others(row: Cells, own: Mapping[str, float], remedy: str) -> None:
    """Refuse a row of a system of which a column is another than the catalogue has, where it has one."""
    for column, value in own.items():
        if value and abs(cell_number(row, column) / value - 1) > GPU_SHARE:
            raise SpecError(
                f"systems.csv has {column} {row[column]} of {row['system']}, and the catalogue {value:g}: {remedy}"
            )


def _model_of(name: str, row: Cells, known: ModelSpec | None) -> ModelSpec:
    """Build a model from its row; what it has no column for is that of a model of the catalogue, if one is alike."""
    latent, windows = cell_whole(row, "kv_lora_rank") > 0, cell_whole(row, "sliding_layers")
    if missing := [column for column in ("layers_total", "d_model", "heads", "vocab") if not cell_whole(row, column)]:
        raise SpecError(f"the architecture of {name} is unknown: no {missing[0]}")
    if (kind := row.get("attn_type") or "") not in (*UNKNOWN, *ATTENTION_TYPES):
        raise SpecError(f"attn_type {kind!r} of {name} is not modelled; expected one of {', '.join(ATTENTION_TYPES)}")
    if kind not in UNKNOWN and (kind == "MLA") != latent:
        raise SpecError(
            f"attn_type {kind} of {name}, and kv_lora_rank {row.get('kv_lora_rank') or 'unknown'}; correct one"
        )
    if cell_whole(row, "sliding_window") and math.isnan(cell_number(row, "sliding_layers")):
        raise SpecError(f"sliding_window of {name} without sliding_layers, the number of layers that have it")
    alike = known.attention if known is not None else None
    attention = _latent_attention(row) if latent else _attention(row, windows, alike)
    shared = "shared_expert_ff_total"
    fields: dict[str, Any] = {
        "name": name,
        "num_layers": cell_whole(row, "layers_total"),
        "num_moe_layers": cell_whole(row, "moe_layers"),
        "num_first_dense_layers": known.num_first_dense_layers if known is not None else None,
        "d_model": cell_whole(row, "d_model"),
        "d_ff_expert": cell_whole(row, "expert_d_ff"),
        "d_ff_dense": cell_whole(row, "dense_d_ff"),
        "matrices_per_expert": cell_whole(row, "mats_per_expert", 3),
        "num_experts": cell_whole(row, "experts"),
        "expert_bias": cell_flag(row, "expert_bias", known is not None and known.expert_bias),
        "clamped_activation": cell_flag(row, "clamped_activation", known is not None and known.clamped_activation),
        "num_shared_experts": cell_whole(row, "shared_experts"),
        # Where it is unknown, each has the width of another expert.
        "d_ff_shared": None if math.isnan(cell_number(row, shared)) else cell_whole(row, shared),
        "d_expert": cell_whole(row, "moe_latent_dim") or None,
        "top_k": cell_whole(row, "topk"),
        "num_expert_groups": cell_whole(row, "n_group") or 1,
        "num_groups_per_token": cell_whole(row, "topk_group") or 1,
        "vocab_size": cell_whole(row, "vocab"),
        "num_vocab_matrices": 1 if cell_whole(row, "tied_embeddings") else 2,
        "attention": attention,
    }
    if mixers := cell_whole(row, "mamba_or_linear_layers"):
        fields["num_attention_layers"] = cell_whole(row, "attn_layers")
        fields["state_space"] = {**_state_space_of(name, row, known), "num_layers": mixers}
        # Layers with a mixer and experts count as one in such tables, and as two here.
        if mixers + fields["num_attention_layers"] == fields["num_layers"] == fields["num_moe_layers"]:
            fields["num_layers"] *= 2
    nothing = dict.fromkeys(("attention_params", "attention_score_dim", "num_learned_positions"), 0)
    return convert(msgspec.to_builtins(load_spec(ModelSpec, "gpt-s")) | fields | nothing, ModelSpec, name)


def _latent_attention(row: Cells) -> dict[str, Any]:
    columns = {"num_heads": "heads", "query_rank": "q_lora_rank", "kv_rank": "kv_lora_rank", "nope_dim": "qk_nope_dim"}
    columns |= {"rope_dim": "qk_rope_dim", "value_dim": "v_head_dim"}
    return {"kind": "latent"} | {ours: cell_whole(row, theirs) for ours, theirs in columns.items()}


def _attention(row: Cells, num_windows: int, alike: AttentionSpec | None) -> dict[str, Any]:
    """Return the fields of the attention of a row; what it has no column for is as in one that is alike."""
    columns = {"num_heads": "heads", "num_kv_heads": "kv_heads", "head_dim": "head_dim"}
    return {
        **{ours: cell_whole(row, theirs) for ours, theirs in columns.items()},
        "normed": cell_flag(row, "qk_norm", alike is not None and alike.normed),
        **{
            name: alike is not None and getattr(alike, name)
            for name in ("scaled_positions", "sinks", "gated", "chunked")
        },
        "window": cell_whole(row, "sliding_window") if num_windows else 0,
        "num_window_layers": num_windows,
    }


def _state_space_of(name: str, row: Cells, known: ModelSpec | None) -> dict[str, Any]:
    """Return the fields of the mixers of a row, or those of a model of the catalogue where it tells none."""
    names = {"num_heads": "mamba_heads", "head_dim": "mamba_head_dim", "state_dim": "mamba_state"}
    names |= {"num_groups": "mamba_groups"}
    heads = {ours: cell_whole(row, theirs) for ours, theirs in names.items()}
    if any(heads.values()):
        return heads
    if known is None or known.state_space is None:
        raise SpecError(
            f"the linear attention of {name} is not modelled: no mamba_heads, and no model of this name in the "
            "catalogue; Mamba-2 and the gated delta rule are"
        )
    return msgspec.structs.asdict(known.state_space)
