"""Make the TOML of a model from the ``config.json`` of Hugging Face Transformers."""

import json
import re
from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any

from lazsim.errors import SpecError, prefix_errors
from lazsim.files.decoding import convert, decode_json
from lazsim.limits import MAX_LAYERS
from lazsim.specs.model import ModelSpec

SEQUENCE_LENGTH = 4096
"""Tokens of a training sequence, which no config tells: *assumption*, as of the other models of the catalogue."""

NESTED = ("text_config", "language_config", "llm_config", "ffn_config", "attn_config")
"""Parts of a config that describe the language model."""

THINKER = "thinker_config"
"""Part of a config of Qwen3-Omni that has those."""

OTHER_PARTS = ("vision_config", "audio_config", "talker_config", "code2wav_config")
"""Parts of a model that are not counted."""

SHAPING = re.compile(
    r".*_(size|dim|rank|heads?|groups?|layers?|channels|interval|period|step|enum|offset|frequency|modules|topk)"
    r"|(num|n)_.*|.*(expert|moe|mlp|residual|cla$|attn_type).*"
)
"""Names of fields that may change the shapes of a model."""

HARMLESS = re.compile(
    r"(max|min|original|pretraining|num_(beam|return|labels|logits|media)|vit|image|moe_use)_?.*"
    r"|.*(rotary|rope|dropout|coef|loss|bias|jitter|capacity|norm|ngram|scal|chunk_size|impl|token|router|overlap|conv_kernel|combine).*"
    r"|(ep|tp|batch|qk_head)_(size|dim)"
)
"""Of these, names of fields that do not, or that `OTHER_PARTS` covers."""

TOP_K = (
    "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_k", "moe_topk", "moe_top_k"
)  # fmt: skip
"""Names of the number of experts that a token goes to."""

FAMILIES = (
    "afmoe", "aria", "axk1", "bailing_moe", "beam", "cohere2_moe", "dbrx", "deepseek_v2", "deepseek_v3", "dots1",
    "ernie4_5_moe", "exaone_moe", "flex_olmo", "flint", "glm4_moe", "glm4v_moe", "glm_moe_dsa", "gpt_oss", "granitemoe",
    "grok-1", "hunyuan", "hy_v3", "kimi_k2", "kolibri1", "llama4", "mellum", "minimax_m2", "minimax_m3", "mistral4",
    "mixtral", "nemotron_h", "olmoe", "phimoe", "qwen2_moe", "qwen3_5_moe", "qwen3_moe", "qwen3_next",
    "qwen3_omni_moe", "qwen3_vl_moe", "sarvam", "solar_open", "unlimited_ocr",
)  # fmt: skip
"""Begins of the `model_type` of families whose counts were compared with their models in Transformers 5.24, or with
those published. Others may have the same fields and other layers."""

NORMED = (
    "afmoe", "beam", "dots1", "exaone_moe", "flex_olmo", "flint", "hunyuan", "hy_v3", "kolibri1", "mellum", "minimax_m",
    "olmoe", "qwen3",
)  # fmt: skip
"""Families that norm each query and key head, of which their configs say nothing."""

GATED = ("afmoe", "beam", "qwen3_5_moe", "qwen3_next")
"""Families with a gate at the output of attention, of which their configs say nothing."""

TIED = ("cohere2_moe", "ernie4_5_moe", "jetmoe")
"""Families whose embeddings are tied where their configs say nothing: Transformers 4 leaves defaults out."""

HYBRIDS = ("granitemoehybrid", "nemotron_h", "qwen3_5_moe", "qwen3_next")
"""Families whose layers without attention have the shapes of a `StateSpaceSpec`."""

ATTENTION = ("attention", "full_attention", "sliding_attention", "chunked_attention")
"""Kinds of layers that have attention."""

LINEAR = ("linear_attention", "mamba", "conv", "recurrent")
"""Kinds of layers without attention."""

PATTERN = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}
"""Letters of the layers of Nemotron-H."""


class _Config:
    """The fields of a config; a field has one of several names, by model family."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        nested = [fields[name] for name in NESTED if isinstance(fields.get(name), dict)]
        self.fields = ChainMap(*nested, dict(fields))
        self.asked = set(NESTED)
        # A wrapper of several models decides whether the embeddings of its language model are tied.
        if fields.get("tie_word_embeddings") is not None:
            self.fields = self.fields.new_child({"tie_word_embeddings": fields["tie_word_embeddings"]})
        self.family = next((str(one["model_type"]) for one in (*nested, fields) if one.get("model_type")), "")
        self.odd = [] if self.family.startswith(FAMILIES) or not self.family else [f"model_type {self.family}"]
        """What a model has that lazsim does not know, beside fields."""

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
            known = f" ({self.odd[0][:60]} is not known)" if self.odd else ""
            raise SpecError(
                f"no {' or '.join(names)}{known}: expected config.json of an MoE model; else write its TOML file"
            )
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
        """Name what lazsim does not know: kinds, and fields that may shape the model and were not asked for."""
        return self.odd + [
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
    """
    with prefix_errors(path):
        try:
            fields = decode_json(content, dict[str, Any])
        except ValueError as error:
            raise SpecError(f"not a config.json of Transformers ({error})") from None
        thinker = fields.get(THINKER)
        config = _Config({**fields, **thinker} if isinstance(thinker, dict) else fields)
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
    kinds = _kinds(config)
    num_layers = config.number("num_hidden_layers", "n_layers", default=len(kinds) or None)
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
        "matrices_per_expert": 2 if config.family.startswith("nemotron_h") else 3,
        "num_experts": num_experts,
        "top_k": config.number(*TOP_K),
        "num_expert_groups": config.number("n_group", default=1),
        "num_groups_per_token": config.number("topk_group", default=1),
        "num_mtp_layers": config.number("num_nextn_predict_layers", "num_mtp_layers", "num_mtp_modules", default=0),
        "sequence_length": min(SEQUENCE_LENGTH, config.number("max_position_embeddings", default=SEQUENCE_LENGTH)),
        "vocab_size": config.number("vocab_size"),
        "num_vocab_matrices": 1 if config.has("tie_word_embeddings") else 2,
    }
    if config.fields.get("tie_word_embeddings") is None and config.family.startswith(TIED):
        values["num_vocab_matrices"] = 1
    if width := config.number("moe_latent_size", default=0):
        values["d_expert"] = width
    if config.family.startswith("gpt_oss"):
        values |= {"expert_bias": True, "clamped_activation": True}
    values |= _shared_experts(config) | {"attention": _attention(config, num_layers, d_model, kinds)}
    return values | _hybrid(config, kinds, num_layers, num_moe_layers)


def _name(config: _Config) -> str:
    name = str(config.fields.get("_name_or_path") or config.fields.get("model_type") or "model")
    return re.sub(r"[^A-Za-z0-9._-]", "-", name.rstrip("/").rpartition("/")[2])[:60].lower() or "model"


def _kinds(config: _Config) -> list[str]:
    """Return the kind of each layer; nothing where all are alike."""
    pattern = config.fields.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return [PATTERN.get(letter, letter) for letter in pattern[:MAX_LAYERS]]
    kinds = [str(kind) for kind in config.layers("layer_types", "layers_block_type")]
    # MiniMax has a 1 for each layer of full attention, and a 0 for each of linear attention.
    kinds += [LINEAR[0] for kind in config.layers("attn_type_list") if kind == 0]
    if not kinds and config.family.startswith(("qwen3_next", "qwen3_5_moe")):
        period = config.number("full_attention_interval", default=4)
        number = config.number("num_hidden_layers")
        return [LINEAR[0] if not period or layer % period else ATTENTION[1] for layer in range(1, number + 1)]
    return kinds


def _hybrid(config: _Config, kinds: list[str], num_layers: int, num_moe_layers: int) -> dict[str, Any]:
    """Return the layers of a hybrid model, each a state space, attention or experts; nothing where none is linear."""
    if kinds:
        config.asked |= {"full_attention_interval", "global_attn_every_n_layers"}
    num_linear = sum(any(word in kind for word in LINEAR) for kind in kinds)
    field = next((name for name in config.fields if name.startswith(("linear_", "mamba_", "hybrid_"))), None)
    if not num_linear and not field:
        config.odd += sorted({f"layer_types {kind}" for kind in kinds} - {f"layer_types {kind}" for kind in ATTENTION})
        return {}
    if not config.family.startswith(HYBRIDS):
        raise SpecError(
            f"{field or 'layer_types'}: layers of several kinds, such as linear attention or state spaces, are "
            "imported of Granite 4, Nemotron 3, Qwen3-Next and Qwen3.5 only; write a TOML file with them"
        )
    is_single = config.family.startswith("nemotron_h")
    if is_single:
        num_moe_layers = kinds.count("moe")
        num_dense = len(kinds) - num_linear - num_moe_layers - sum(kind in ATTENTION for kind in kinds)
    else:
        num_dense = num_layers - num_moe_layers
    if num_dense or (num_layers != len(kinds)):
        raise SpecError(
            f"{num_dense or abs(num_layers - len(kinds))} layers beside those of state space, attention and experts, "
            "such as dense blocks: lazsim has no shapes of them in a hybrid model"
        )
    further = config.layers("mtp_layers_block_type") or [*str(config.fields.get("mtp_hybrid_override_pattern", "*E"))]
    if further not in (["full_attention", "moe"], ["attention", "moe"], ["*", "E"]):
        config.odd.append("mtp_layers_block_type")
    return {
        "num_layers": num_layers if is_single else num_layers + num_moe_layers,
        "num_moe_layers": num_moe_layers,
        "d_ff_dense": 0,
        "num_attention_layers": len(kinds) - num_linear - (num_moe_layers if is_single else 0),
        "state_space": {
            "kind": "gated_delta" if config.has("linear_num_value_heads") else "mamba",
            "num_layers": num_linear,
            "num_heads": config.number("mamba_num_heads", "mamba_n_heads", "linear_num_value_heads"),
            "head_dim": config.number("mamba_head_dim", "mamba_d_head", "linear_value_head_dim"),
            "state_dim": config.number("ssm_state_size", "mamba_d_state", "linear_key_head_dim"),
            "num_groups": config.number("n_groups", "mamba_n_groups", "linear_num_key_heads", default=1),
        },
    }


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
        if odd := next((kind for kind in kinds if kind not in ("sparse", "moe", "dense", "mlp", 0, 1)), None):
            raise SpecError(f"{lists[0]}: lazsim has no shapes of feed-forward blocks of the kind {str(odd)[:40]!r}")
        return [layer for layer, kind in enumerate(kinds[:num_layers]) if kind in ("sparse", "moe", 1)]
    if chosen := config.layers("moe_layers", "moe_layers_enum"):
        return [layer for layer in range(num_layers) if layer in chosen]
    end = min(num_layers, config.number("moe_layer_end_index", default=num_layers) + 1)
    return [layer for layer in range(start, end) if (layer + first) % period == 0 and layer not in dense]


def _shared_experts(config: _Config) -> dict[str, int]:
    # Llama 4 and Hunyuan have one, of which their configs say nothing.
    has_one = config.has("interleave_moe_layer_step") or config.has("use_mixed_mlp_moe")
    default = 1 if has_one or config.family.startswith(("llama4", "hunyuan_v1_moe")) else 0
    names = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
    number = config.number(*names, default=default)
    width = config.number(
        "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size",
        "share_expert_dim", default=0,
    )  # fmt: skip
    if config.family.startswith("nemotron_h"):
        return {"num_shared_experts": number, "d_ff_shared": width if number else 0}
    if width:
        return {"num_shared_experts": max(1, number), "d_ff_shared": max(1, number) * width}
    return {"num_shared_experts": number}


def _attention(config: _Config, num_layers: int, d_model: int, kinds: list[str]) -> dict[str, Any]:
    num_heads = config.number("num_attention_heads", "n_heads")
    num_kv_heads = config.number("num_key_value_heads", "kv_n_heads", default=num_heads)
    if config.has("kv_lora_rank"):
        # Transformers 5 writes the width of rotated heads, or of all of a head, too.
        config.asked |= {"head_dim"}
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
    if config.family.startswith(GATED):
        heads["gated"] = True
    # Transformers 5 has `rope_parameters`, in some models for each kind of layer.
    scalings = [config.fields.get(name) for name in ("rope_scaling", "rope_parameters")]
    scalings += [one for scaling in scalings if isinstance(scaling, dict) for one in scaling.values()]
    if any("yarn" in (one.get("rope_type"), one.get("type")) for one in scalings if isinstance(one, dict)):
        heads["scaled_positions"] = True
    if config.family.startswith("gpt_oss"):
        heads["sinks"] = True
    return heads | _windows(config, num_layers, kinds)


def _windows(config: _Config, num_layers: int, kinds: list[str]) -> dict[str, Any]:
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
    found = {"window": window, "num_window_layers": num_windows}
    return (found | {"chunked": True} if config.has("attention_chunk_size") else found) if num_windows else {}


def _toml(values: Mapping[str, Any], model: ModelSpec, left_out: Sequence[str]) -> bytes:
    """Write a model as TOML; comments tell its size, what was assumed, and which fields are not in it."""
    size = f"{model.total_params / 1e9:.2f} B parameters, {model.active_params / 1e9:.2f} B active"
    lines = [f"# From config.json: {size}.", *(f"# {one[0].upper()}{one[1:]}" for one in left_out)]
    comments = {"sequence_length": "*assumption*: no config tells it"}
    comments |= {"matrices_per_expert": "SwiGLU"} if model.matrices_per_expert == 3 else {}
    for name, value in values.items():
        if not isinstance(value, dict):
            lines.append(f"{name} = {json.dumps(value)}" + (f"  # {comments[name]}" if name in comments else ""))
    for name, value in values.items():
        if isinstance(value, dict):
            lines += ["", f"[{name}]", *(f"{key} = {json.dumps(one)}" for key, one in value.items())]
    return "\n".join([*lines, ""]).encode()
