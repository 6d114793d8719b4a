"""Make the TOML of a model from the ``config.json`` of Hugging Face Transformers."""

import json
import re
from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any

from lazsim.decoding import convert, decode_json
from lazsim.errors import SpecError, prefix_errors
from lazsim.limits import MAX_LAYERS
from lazsim.specs.model import ModelSpec

SEQUENCE_LENGTH = 4096
"""Tokens of a training sequence, which no config tells: *assumption*, as of the other models of the catalogue."""

NESTED = ("text_config", "language_config", "llm_config", "ffn_config", "attn_config")
"""Parts of a config that describe the language model."""

OTHER_PARTS = ("vision_config", "audio_config", "index_n_heads")
"""Parts of a model that are not counted."""

SHAPING = re.compile(
    r".*_(size|dim|rank|heads?|groups?|layers?|channels|interval|period|step|enum|offset|frequency|modules|topk)"
    r"|(num|n)_.*|.*(expert|moe|mlp|residual|cla$|attn_type).*"
)
"""Names of fields that may change the shapes of a model."""

HARMLESS = re.compile(
    r"(max|min|original|pretraining|num_(beam|return|labels|logits|media)|index|vit|image|moe_use)_?.*"
    r"|.*(rotary|rope|dropout|coef|loss|bias|jitter|capacity|norm|ngram|scal|chunk_size|impl|token|router).*"
    r"|(ep|tp|batch|qk_head)_(size|dim)"
)
"""Of these, names of fields that do not, or that `OTHER_PARTS` covers."""

TOP_K = (
    "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_k", "moe_topk", "moe_top_k"
)  # fmt: skip
"""Names of the number of experts that a token goes to."""

NORMED = ("qwen3", "olmoe")
"""Families that norm each query and key head, of which their configs say nothing."""

LINEAR = ("linear_attention", "mamba", "conv", "recurrent")
"""Kinds of layers that lazsim has no shapes of."""


class _Config:
    """The fields of a config; a field has one of several names, by model family."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        nested = [fields[name] for name in NESTED if isinstance(fields.get(name), dict)]
        self.fields = ChainMap(*nested, dict(fields))
        self.asked = set(NESTED)
        self.family = str(self.fields.get("model_type"))

    def number(self, *names: str, default: int | None = None) -> int:
        """Return the first field that is there and not null: a whole number from 0 up, or a list of equal ones."""
        self.asked |= {*names}
        for name in names:
            value = self.fields.get(name)
            if isinstance(value, list) and value and all(one == value[0] for one in value):
                value = value[0]
            if value is not None and value is not False:
                if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                    raise SpecError(f"{name}: expected a whole number from 0 up, found {str(value)[:40]!r}")
                return value
        if default is None:
            raise SpecError(f"no {' or '.join(names)}: expected config.json of an MoE model; else write its TOML file")
        return default

    def layers(self, *names: str) -> list[Any]:
        """Return a list with an element for each layer, or for some of them; empty where it is missing."""
        self.asked |= {*names}
        for name in names:
            value = self.fields.get(name)
            if isinstance(value, str) and re.fullmatch(r"\d+(,\d+)+", value, re.ASCII):
                value = [int(one[:9]) for one in value.split(",")]
            if value is not None:
                if not isinstance(value, list) or not all(isinstance(one, int | str) for one in value):
                    raise SpecError(f"{name}: expected a list of numbers or words, found {str(value)[:40]!r}")
                return value[:MAX_LAYERS]
        return []

    def has(self, name: str) -> bool:
        """Return whether a field is there and neither null nor false."""
        self.asked.add(name)
        return bool(self.fields.get(name))

    def unknown(self) -> list[str]:
        """Name the fields that may change the shapes of the model and were not asked for."""
        return [
            name
            for name, value in self.fields.items()
            if name not in self.asked
            and SHAPING.fullmatch(name)
            and not HARMLESS.fullmatch(name)
            # A null, false, 0 or 1 adds nothing, and texts choose among programs.
            and (value is True or isinstance(value, list) or (isinstance(value, int) and value > 1))
            and self.fields.get(f"use_{name.partition('_')[0]}") is not False
        ]


def import_config(path: str, content: bytes, *, is_checked: bool = False) -> tuple[bytes, list[str]]:
    """Return the TOML of a model as the catalogue has them, and what it leaves out of the ``config.json``.

    A field that may shape the model and that lazsim does not know is left out where the caller checks the parameters;
    else the config is refused, as its model would be wrong in silence.

    Raises
    ------
    SpecError
        When it is no config of an MoE model, or one whose layers lazsim has no shapes of.
    """
    with prefix_errors(path):
        try:
            fields = decode_json(content, dict[str, Any])
        except ValueError as error:
            raise SpecError(f"not a config.json of Transformers ({error})") from None
        config = _Config(fields)
        values = _model(config)
        unknown = config.unknown()
        if unknown and not is_checked:
            raise SpecError(
                f"{unknown[0]}: may shape the model, and lazsim does not know it; "
                "lazsim model import CONFIG.json --out mine.toml, check its parameters and give mine.toml"
            )
    model = convert(values, ModelSpec, path=path)
    parts = [name for name in OTHER_PARTS if config.has(name)]
    found = {"not counted": parts, "not known, and may shape the model": unknown}
    left_out = [f"{what}: {', '.join(names)}." for what, names in found.items() if names]
    return _toml(values, model, left_out), left_out


def _model(config: _Config) -> dict[str, Any]:
    if config.has("is_encoder_decoder"):
        raise SpecError("is_encoder_decoder: an encoder and a decoder; lazsim has models of one stack of layers")
    num_experts = config.number(
        "num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts", "num_routed_experts"
    )
    num_layers = config.number("num_hidden_layers", "n_layers")
    if not 0 < num_layers <= MAX_LAYERS:
        raise SpecError(f"num_hidden_layers: expected 1 to {MAX_LAYERS}, found {num_layers}")
    d_model = config.number("hidden_size", "d_model")
    d_ff = config.number("intermediate_size", "ffn_hidden_size", default=0)
    d_ff_expert = config.number("moe_intermediate_size", "expert_ffn_hidden_size", default=d_ff)
    d_ff_dense = config.number("intermediate_size_mlp", "mlp_intermediate_size", default=d_ff)
    num_moe_layers = len(_moe_layers(config, num_layers))
    values: dict[str, Any] = {
        "name": _name(config),
        "num_layers": num_layers,
        "num_moe_layers": num_moe_layers,
        "d_model": d_model,
        "d_ff_expert": d_ff_expert,
        "d_ff_dense": d_ff_dense if num_moe_layers < num_layers else 0,
        "matrices_per_expert": 3,
        "num_experts": num_experts,
        "top_k": config.number(*TOP_K),
        "num_expert_groups": config.number("n_group", default=1),
        "num_groups_per_token": config.number("topk_group", default=1),
        "num_mtp_layers": config.number("num_nextn_predict_layers", "num_mtp_layers", "num_mtp_modules", default=0),
        "sequence_length": min(SEQUENCE_LENGTH, config.number("max_position_embeddings", default=SEQUENCE_LENGTH)),
        "vocab_size": config.number("vocab_size"),
        "num_vocab_matrices": 1 if config.has("tie_word_embeddings") else 2,
    }
    if config.family.startswith("gpt_oss"):
        values |= {"expert_bias": True, "clamped_activation": True}
    return values | _shared_experts(config) | {"attention": _attention(config, num_layers, d_model)}


def _name(config: _Config) -> str:
    name = str(config.fields.get("_name_or_path") or config.fields.get("model_type") or "model")
    return re.sub(r"[^A-Za-z0-9._-]", "-", name.rstrip("/").rpartition("/")[2])[:60].lower() or "model"


def _moe_layers(config: _Config, num_layers: int) -> list[int]:
    """Return the layers whose feed-forward block has experts, by the rule of the model's family."""
    start = config.number("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", default=0)
    dense = set(config.layers("mlp_only_layers"))
    steps, first = ["interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_interval"], 1
    lists = ["mlp_layer_types", "moe_layer_freq"]
    if isinstance(config.fields.get("moe_layer_freq"), int):
        # DeepSeek's is a step, and counts layers from 0; others have an element for each layer.
        steps, first, lists = ["moe_layer_freq"], 0, ["mlp_layer_types"]
    period = config.number(*steps, default=1)
    if period == 0:
        raise SpecError("a step of 0 between MoE layers: a model without experts")
    if kinds := config.layers(*lists):
        return [layer for layer, kind in enumerate(kinds[:num_layers]) if kind in ("sparse", "moe", 1)]
    if chosen := config.layers("moe_layers", "moe_layers_enum"):
        return [layer for layer in range(num_layers) if layer in chosen]
    end = min(num_layers, config.number("moe_layer_end_index", default=num_layers) + 1)
    return [layer for layer in range(start, end) if (layer + first) % period == 0 and layer not in dense]


def _shared_experts(config: _Config) -> dict[str, int]:
    # Llama 4 has one, of which its config says nothing.
    has_one = config.has("interleave_moe_layer_step") or config.has("use_mixed_mlp_moe")
    default = 1 if has_one or config.family.startswith("llama4") else 0
    names = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
    number = config.number(*names, default=default)
    width = config.number(
        "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size",
        "share_expert_dim", default=0,
    )  # fmt: skip
    if width:
        return {"num_shared_experts": max(1, number), "d_ff_shared": max(1, number) * width}
    return {"num_shared_experts": number}


def _attention(config: _Config, num_layers: int, d_model: int) -> dict[str, Any]:
    kinds = [str(kind) for kind in config.layers("layer_types", "layers_block_type")]
    # MiniMax has a 1 for each layer of full attention, and a 0 for each of linear attention.
    kinds += [LINEAR[0] for kind in config.layers("attn_type_list") if kind == 0]
    hybrid = next((name for name in config.fields if name.startswith(("linear_", "mamba_", "hybrid_"))), None)
    if hybrid or any(word in kind for kind in kinds for word in LINEAR):
        found = hybrid or "layer_types"
        raise SpecError(
            f"{found}: layers of several kinds, such as linear attention or state spaces, are not imported; "
            "write a TOML file with them"
        )
    num_heads = config.number("num_attention_heads", "n_heads")
    num_kv_heads = config.number("num_key_value_heads", "kv_n_heads", default=num_heads)
    if config.has("kv_lora_rank"):
        return {
            "kind": "latent",
            "num_heads": num_heads,
            "query_rank": config.number("q_lora_rank", default=0),
            "kv_rank": config.number("kv_lora_rank"),
            "nope_dim": config.number("qk_nope_head_dim"),
            "rope_dim": config.number("qk_rope_head_dim"),
            "value_dim": config.number("v_head_dim"),
        }
    heads: dict[str, Any] = {
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": config.number("head_dim", "attention_head_dim", default=d_model // max(1, num_heads)),
    }
    if config.has("use_qk_norm") or config.family.startswith(NORMED):
        heads["normed"] = True
    scaling = config.fields.get("rope_scaling")
    if isinstance(scaling, dict) and "yarn" in (scaling.get("rope_type"), scaling.get("type")):
        heads["scaled_positions"] = True
    if config.family.startswith("gpt_oss"):
        heads["sinks"] = True
    return heads | _windows(config, num_layers, kinds)


def _windows(config: _Config, num_layers: int, kinds: list[str]) -> dict[str, int]:
    """Return the window of attention and the number of layers that have it; nothing where all see the sequence."""
    window = config.number("attention_chunk_size", "sliding_window", default=0)
    if not window or config.fields.get("use_sliding_window") is False:
        return {}
    if kinds:
        num_windows = sum(kind in ("sliding_attention", "chunked_attention") for kind in kinds)
    elif config.has("attention_chunk_size"):
        # Llama 4 has chunks in the layers with rotary positions, three of four.
        rotary = config.layers("no_rope_layers") or [(layer + 1) % 4 for layer in range(num_layers)]
        num_windows = sum(map(bool, rotary))
    else:
        # gpt-oss alternates.
        num_windows = (num_layers + 1) // 2 if config.family.startswith("gpt_oss") else num_layers
    if window >= config.number("max_position_embeddings", default=window + 1):
        return {}
    return {"window": window, "num_window_layers": num_windows} if num_windows else {}


def _toml(values: Mapping[str, Any], model: ModelSpec, left_out: Sequence[str]) -> bytes:
    """Write a model as TOML; comments tell its size, what was assumed, and which fields are not in it."""
    size = f"{model.total_params / 1e9:.2f} B parameters, {model.active_params / 1e9:.2f} B active"
    lines = [f"# From config.json: {size}.", *(f"# {one[0].upper()}{one[1:]}" for one in left_out)]
    comments = {"sequence_length": "*assumption*: no config tells it", "matrices_per_expert": "SwiGLU"}
    for name, value in values.items():
        if not isinstance(value, dict):
            lines.append(f"{name} = {json.dumps(value)}" + (f"  # {comments[name]}" if name in comments else ""))
    lines += ["", "[attention]", *(f"{name} = {json.dumps(value)}" for name, value in values["attention"].items()), ""]
    return "\n".join(lines).encode()
