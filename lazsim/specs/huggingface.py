"""Make the TOML of a model from the ``config.json`` of Hugging Face Transformers."""

import itertools
import re
from collections import ChainMap
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from lazsim.errors import SpecError, prefix_errors, shorten
from lazsim.files.decoding import convert, decode_json
from lazsim.files.reading import CATALOG
from lazsim.files.writing import toml_text
from lazsim.limits import MAX_LAYERS
from lazsim.specs.model import ModelSpec

SEQUENCE_LENGTH = 4096
"""Tokens of a training sequence, which no config tells: *assumption*, as of the other models of the catalogue."""

TEXT = ("text_config", "language_config", "llm_config")
"""Parts of a config of several models that describe the language model."""

SCALINGS = ("rope_scaling", "rope_parameters")
"""How rotations by position are scaled, in Transformers 4 and 5."""

NESTED = (*TEXT, "ffn_config", "attn_config")
"""Parts of a config that describe the language model, or parts of it."""

THINKER = "thinker_config"
"""Part of a config of Qwen3-Omni that has those."""

SIZED = {"hidden_size", "d_model", "model_type", "num_hidden_layers", "width"}
"""Fields of which one is in the config of each model; those that are not the language model are not counted."""

SHAPING = re.compile(
    r".*_(size|dim|rank|heads?|groups?|layers?|channels|interval|period|step|replace|enum|offset|frequency|modules|topk)"
    r"|(num|n)_.*|.*(expert|moe|mlp|residual|cla$|attn_type|gate).*"
)
"""Names of fields that may change the shapes of a model."""

HARMLESS = re.compile(
    r"(max|min|original|pretraining|num_(beam|return|labels|logits|media)|vit|image|moe_use)_?.*"
    r"|.*(rotary|rope|dropout|coef|loss|bias|jitter|capacity|norm|ngram|scal|chunk_size|impl|token|router|overlap|conv_kernel|combine).*"
    r"|(ep|tp|batch|qk_head)_(size|dim)"
)
"""Of these, names of fields that do not, or that describe how a model sees and hears."""

EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts", "num_routed_experts")
"""Names of the number of routed experts of a layer."""

TOP_K = (
    "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_k", "moe_topk", "moe_top_k"
)  # fmt: skip
"""Names of the number of experts that a token goes to."""

DENSE_WIDTHS = (
    "intermediate_size_mlp", "mlp_intermediate_size", "prefix_dense_intermediate_size", "dense_intermediate_size"
)  # fmt: skip
"""Names of the width of dense blocks where `intermediate_size` is that of experts."""

FURTHER = ("num_nextn_predict_layers", "num_mtp_layers", "num_mtp_modules", "mtp_num_hidden_layers")
"""Names of the number of layers that predict further tokens."""

STARTS = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
"""Names of the first layer with experts."""

KINDS = ("layer_types", "layers_block_type")
"""Names of the list of kinds of layers."""

NULLABLE = (
    "q_lora_rank", "num_key_value_heads", "head_dim", "sliding_window", "attention_chunk_size", "n_shared_experts"
)  # fmt: skip
"""Fields of which a null says something: none, or what follows from others. Any other null is a missing field."""

ATTENTION = ("attention", "full_attention", "sliding_attention", "chunked_attention")
"""Kinds of layers that have attention."""

LINEAR = ("linear_attention", "mamba", "conv", "recurrent")
"""Kinds of layers without attention."""

PATTERN = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}
"""Letters of the layers of Nemotron-H."""


@cache
def families() -> dict[str, dict[str, Any]]:
    """Return what is known of families beside their configs, by the begin of their `model_type`."""
    return msgspec.toml.decode((CATALOG / "families.toml").read_bytes(), type=dict[str, dict[str, Any]])


def _table(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    if not isinstance(value, dict | None):
        raise SpecError(f"{name}: expected a table of fields, found {shorten(value)!r}")
    return value or {}


class _Config:
    """The fields of a config; a field has one of several names, by model family."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        nested = [_table(fields, name) for name in NESTED if _table(fields, name)]
        for part, name in itertools.product((fields, *nested), SCALINGS):
            _table(part, name)
        self.fields = ChainMap(*nested, dict(fields))
        is_wrapper = any(isinstance(fields.get(name), dict) for name in TEXT)
        self.of_text = ChainMap(*nested) if is_wrapper else self.fields
        self.asked = set(NESTED)
        self.model_type = next((str(one["model_type"]) for one in (*nested, fields) if one.get("model_type")), "")
        known = max((one for one in families() if self.model_type.startswith(one)), key=len, default="")
        family = families().get(known, {})
        self.traits: Sequence[str] = family.get("traits", ())
        self.defaults = {key: value for key, value in family.items() if key != "traits"}
        """What Transformers takes for fields that a config lacks."""
        self.moe_layers: list[int] = []
        """Layers with experts."""
        self.taken: dict[str, Any] = {}
        """Of these, those that were taken."""
        is_odd = not known or "not_compared" in self.traits
        self.odd = [f"model_type {self.model_type or '(none)'}"] if is_odd else []
        """What a model has that lazsim does not know, beside fields."""
        tied = [one.get("tie_word_embeddings") for one in (fields, *nested)]
        if "tied_by_either" in self.traits:
            self.fields = self.fields.new_child({"tie_word_embeddings": next(filter(None, tied), False)})
        elif "tied_by_wrapper" in self.traits or (nested and fields.get("tie_word_embeddings") is not None):
            self.fields = self.fields.new_child({"tie_word_embeddings": tied["tied_by_text" in self.traits] or False})

    def given(self, names: Sequence[str]) -> list[tuple[str, Any]]:
        """List the fields of a config that have these names; else what Transformers takes for the first of them."""
        self.asked |= {*names}
        found = [(name, self.fields[name]) for name in names if self.fields.get(name) is not None]
        if not found and not any(name in self.fields and name in NULLABLE for name in names):
            found = [(name, self.defaults[name]) for name in names if name in self.defaults][:1]
            self.taken |= found
        for name, value in found:
            if str(value).lower() in ("true", "false") and not isinstance(value, bool):
                raise SpecError(f"{name}: expected true or false without quotes, found {value!r}")
        return found

    def number(self, *names: str, default: int | None = None, least: int = 0, one_thing: bool = False) -> int:
        """Return the first field that is there and not null: a whole number from `least` up, or some that are equal.

        Names of `one_thing` have one number.
        """
        found: dict[str, int] = {}
        for name, value in self.given(names):
            if isinstance(value, list) and value and all(one == value[0] for one in value):
                value = value[0]
            if value is not False:
                if not isinstance(value, int) or isinstance(value, bool) or value < least:
                    raise SpecError(f"{name}: expected a whole number from {least} up, found {shorten(value)!r}")
                found[name] = value
        if found:
            (name, value), *others = found.items()
            for other, number in others:
                if number != value and one_thing:
                    raise SpecError(f"{other} {number}, but {name} {value}: names of one thing; leave one out")
            return value
        if default is None:
            known = f" ({shorten(self.odd[0])} is not known)" if self.odd else ""
            raise SpecError(
                f"no {' or '.join(names)}{known}: expected config.json of an MoE model; else write its TOML file"
            )
        return default

    def layers(self, *names: str, each: int = 0) -> list[Any]:
        """Return a list, with an element for `each` layer if any number is given; empty where it is missing.

        Some configs have elements for further-token layers at the end, which are left out.
        """
        for name, value in self.given(names):
            if isinstance(value, str) and re.fullmatch(r"\d+(,\d+)+", value, re.ASCII):
                value = [int(one[:9]) for one in value.split(",")]
            if not isinstance(value, list) or not all(isinstance(one, int | str) for one in value):
                raise SpecError(f"{name}: expected a list of numbers or words, found {shorten(value)!r}")
            further = self.number(*FURTHER, default=0)
            if each and value and not each <= len(value) <= each + further:
                raise SpecError(f"{name}: expected an element for each of {each} layers, found {len(value)}")
            return value[: each or MAX_LAYERS]
        return []

    def has(self, name: str) -> bool:
        """Return whether a field is there and neither null nor false."""
        return any(bool(value) for _, value in self.given([name]))

    def unknown(self) -> list[str]:
        """Name what lazsim does not know: kinds, and fields that may shape the model and were not asked for."""
        return self.odd + [
            name
            for name, value in self.of_text.items()
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
    parts = [
        name for name, value in config.fields.items()
        if name.endswith("_config") and name not in NESTED and isinstance(value, dict) and SIZED & {*value}
    ]  # fmt: skip
    taken = [f"{name} {str(value).lower()}" for name, value in config.taken.items()]
    dense = {*range(model.num_layers)} - {*config.moe_layers} if model.num_dense_layers else set()
    elsewhere = sorted(dense & {*model.moe_layers})
    found = {
        "not counted": parts,
        "layers without experts, which lazsim spreads evenly behind the first ones": [*map(str, elsewhere)],
        "not in the config, and taken as Transformers 5.24 does": taken,
        "not known, and may shape the model": unknown,
    }
    left_out = [f"{what}: {', '.join(names)}." for what, names in found.items() if names]
    return _toml(values, model, left_out), left_out


def _model(config: _Config) -> dict[str, Any]:
    if config.has("is_encoder_decoder"):
        raise SpecError("is_encoder_decoder: an encoder and a decoder; lazsim has models of one stack of layers")
    num_experts = config.number(*EXPERTS, least=1, one_thing=True)
    num_groups, groups_of_token = (config.number(name, default=1, least=1) for name in ("n_group", "topk_group"))
    # Of one group, configs have any number for a token.
    if num_experts % num_groups or groups_of_token > num_groups > 1:
        raise SpecError(
            f"n_group {num_groups}, topk_group {groups_of_token}: expected groups that divide the {num_experts} "
            "experts, and no more of them for a token"
        )
    kinds = _kinds(config)
    num_layers = config.number("num_hidden_layers", "n_layers", default=len(kinds) or None)
    if not 0 < num_layers <= MAX_LAYERS:
        raise SpecError(f"num_hidden_layers: expected 1 to {MAX_LAYERS}, found {num_layers}")
    d_model = config.number("hidden_size", "d_model", least=1)
    d_ff = config.number("intermediate_size", "ffn_hidden_size", default=0)
    widths = ("moe_intermediate_size", "expert_ffn_hidden_size")
    d_ff_expert = config.number(*widths, default=d_ff) or config.number(*widths, "intermediate_size", least=1)
    d_ff_dense = config.number(*DENSE_WIDTHS, default=d_ff)
    config.moe_layers = _moe_layers(config, num_layers)
    num_moe_layers = len(config.moe_layers)
    if not num_moe_layers:
        raise SpecError("no layer has experts, as first_k_dense_replace or a list of layers says: expected one")
    if num_moe_layers < num_layers and not d_ff_dense and "hybrid" not in config.traits:
        raise SpecError(f"no intermediate_size: the width of the {num_layers - num_moe_layers} dense layers is missing")
    if config.layers(*KINDS, each=num_layers):
        kinds = kinds[:num_layers]
    values: dict[str, Any] = {
        "name": _name(config),
        "num_layers": num_layers,
        "num_moe_layers": num_moe_layers,
        "d_model": d_model,
        "d_ff_expert": d_ff_expert,
        "d_ff_dense": d_ff_dense if num_moe_layers < num_layers else 0,
        "matrices_per_expert": 2 if "two_matrices" in config.traits else 3,
        "num_experts": num_experts,
        "top_k": config.number(*TOP_K, least=1, one_thing=True),
        "num_expert_groups": num_groups,
        "num_groups_per_token": min(groups_of_token, num_groups),
        "num_mtp_layers": config.number(*FURTHER, default=0),
        "sequence_length": min(config.number("max_position_embeddings", default=10**9, least=1), SEQUENCE_LENGTH),
        "vocab_size": config.number("vocab_size", least=1),
        "num_vocab_matrices": 1 if config.has("tie_word_embeddings") else 2,
    }
    if (first := config.moe_layers[0]) < num_layers - num_moe_layers:
        values["num_first_dense_layers"] = first
    if width := config.number("moe_latent_size", default=0):
        values["d_expert"] = width
    values |= {trait: True for trait in ("expert_bias", "clamped_activation") if trait in config.traits}
    # Before the attention: a hybrid model that is refused may have heads that lazsim does not know, too.
    hybrid = _hybrid(config, kinds, num_layers, num_moe_layers)
    values |= _shared_experts(config) | {"attention": _attention(config, num_layers, d_model, kinds)}
    return values | hybrid


def _name(config: _Config) -> str:
    name = str(config.fields.get("_name_or_path") or config.model_type or "model")
    return re.sub(r"[^A-Za-z0-9._-]", "-", name.rstrip("/").rpartition("/")[2])[:60].lower() or "model"


def _kinds(config: _Config) -> list[str]:
    """Return the kind of each layer; nothing where all are alike."""
    pattern = config.fields.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return [PATTERN.get(letter, letter) for letter in pattern[:MAX_LAYERS]]
    kinds = [str(kind) for kind in config.layers(*KINDS)]
    # MiniMax has a 1 for each layer of full attention, and a 0 for each of linear attention.
    kinds += [LINEAR[0] for kind in config.layers("attn_type_list") if kind == 0]
    if not kinds and (period := config.number("full_attention_interval", default=0)):
        number = config.number("num_hidden_layers")
        return [LINEAR[0] if layer % period else ATTENTION[1] for layer in range(1, number + 1)]
    return kinds


def _hybrid(config: _Config, kinds: list[str], num_layers: int, num_moe_layers: int) -> dict[str, Any]:
    """Return the layers of a hybrid model, each a state space, attention or experts; nothing where none is linear."""
    if kinds:
        config.asked |= {"full_attention_interval", "global_attn_every_n_layers"}
    num_linear = sum(any(word in kind for word in LINEAR) for kind in kinds)
    field = next((name for name in config.fields if name.startswith(("linear_", "mamba_", "hybrid_"))), None)
    if not num_linear and not field:
        known = {*ATTENTION, *(["indexed_attention"] if "indexer" in config.traits else [])}
        config.odd += [f"layer_types {kind}" for kind in sorted({*kinds} - known)]
        return {}
    if "hybrid" not in config.traits:
        told = [field, *(name for name in (*KINDS, "attn_type_list") if name in config.fields), KINDS[0]]
        raise SpecError(
            f"{next(filter(None, told))}: layers of several kinds, such as linear attention or state spaces, are "
            "imported of Granite 4, Nemotron 3, Qwen3-Next and Qwen3.5 only; write a TOML file with them"
        )
    is_single = "single_blocks" in config.traits
    if is_single:
        num_moe_layers = kinds.count("moe")
        num_dense = len(kinds) - num_linear - num_moe_layers - sum(kind in ATTENTION for kind in kinds)
    else:
        num_dense = num_layers - num_moe_layers
    if num_dense or (num_layers != len(kinds)):
        raise SpecError(
            f"{num_dense or abs(num_layers - len(kinds))} of the layers are none of state space, attention or experts: "
            "lazsim has no shapes of others, such as dense blocks, in a hybrid model"
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
            "num_heads": config.number("mamba_num_heads", "mamba_n_heads", "linear_num_value_heads", least=1),
            "head_dim": config.number("mamba_head_dim", "mamba_d_head", "linear_value_head_dim", least=1),
            "state_dim": config.number("ssm_state_size", "mamba_d_state", "linear_key_head_dim", least=1),
            "num_groups": config.number("n_groups", "mamba_n_groups", "linear_num_key_heads", default=1, least=1),
        },
    }


def _moe_layers(config: _Config, num_layers: int) -> list[int]:
    """Return the layers whose feed-forward block has experts, by the rule of the model's family."""
    steps, first = ["interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_interval"], 1
    lists = ["mlp_layer_types", "moe_layer_freq"]
    if isinstance(config.fields.get("moe_layer_freq"), int):
        # DeepSeek's is a step, and counts layers from 0; others have an element for each layer.
        steps, first, lists = ["moe_layer_freq"], 0, ["mlp_layer_types"]
    period = config.number(*steps, default=1)
    if period == 0:
        raise SpecError("a step of 0 between MoE layers: a model without experts")
    config.asked |= {*STARTS, "mlp_only_layers"}
    if kinds := config.layers(*lists, each=num_layers):
        if odd := next((kind for kind in kinds if kind not in ("sparse", "moe", "dense", "mlp", 0, 1)), None):
            raise SpecError(f"{lists[0]}: lazsim has no shapes of feed-forward blocks of the kind {shorten(odd)!r}")
        return [layer for layer, kind in enumerate(kinds) if kind in ("sparse", "moe", 1)]
    if chosen := config.layers("moe_layers", "moe_layers_enum"):
        return [layer for layer in range(num_layers) if layer in chosen]
    start, dense = config.number(*STARTS, default=0), config.layers("mlp_only_layers")
    # ERNIE has -1 for the last layer.
    is_last = config.fields.get("moe_layer_end_index") == -1
    end = num_layers if is_last else min(num_layers, config.number("moe_layer_end_index", default=num_layers) + 1)
    return [layer for layer in range(start, end) if (layer + first) % period == 0 and layer not in dense]


def _shared_experts(config: _Config) -> dict[str, int]:
    # Llama 4 and Hunyuan have one, of which their configs say nothing.
    has_one = config.has("interleave_moe_layer_step") or config.has("use_mixed_mlp_moe")
    default = 1 if has_one or "one_shared_expert" in config.traits else 0
    names = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
    number = config.number(*names, default=default)
    width = config.number(
        "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size",
        "share_expert_dim", default=0,
    )  # fmt: skip
    if config.has("moe_shared_expert_intermediate_size"):
        # Nemotron-H has one block of this width for any number of shared experts.
        return {"num_shared_experts": number, "d_ff_shared": width if number else 0}
    if width:
        return {"num_shared_experts": max(1, number), "d_ff_shared": max(1, number) * width}
    return {"num_shared_experts": number}


def _attention(config: _Config, num_layers: int, d_model: int, kinds: list[str]) -> dict[str, Any]:
    num_heads = config.number("num_attention_heads", "n_heads", least=1)
    num_kv_heads = config.number("num_key_value_heads", "kv_n_heads", default=num_heads, least=1)
    if config.has("kv_lora_rank"):
        # Transformers 5 writes the width of rotated heads, or of all of a head, too.
        config.asked |= {"head_dim"}
        return {
            "kind": "latent",
            "num_heads": num_heads,
            "query_rank": config.number("q_lora_rank", default=0),
            "kv_rank": config.number("kv_lora_rank"),
            "nope_dim": config.number("qk_nope_head_dim", least=1),
            "rope_dim": config.number("qk_rope_head_dim", least=1),
            "value_dim": config.number("v_head_dim", least=1),
        } | _indexer(config)
    if num_heads % num_kv_heads:
        raise SpecError(f"num_key_value_heads {num_kv_heads}: expected a number that divides {num_heads} heads")
    heads: dict[str, Any] = {
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": config.number("head_dim", "attention_head_dim", default=d_model // num_heads, least=1),
    }
    heads |= {
        ours: True for ours, name in (("normed", "use_qk_norm"), ("gated", "attn_output_gate")) if config.has(name)
    }
    heads |= {trait: True for trait in ("normed", "gated", "sinks") if trait in config.traits}
    # Transformers 5 has `rope_parameters`, in some models for each kind of layer.
    scalings = [config.fields.get(name) for name in SCALINGS]
    scalings += [one for scaling in scalings if isinstance(scaling, dict) for one in scaling.values()]
    if any("yarn" in (one.get("rope_type"), one.get("type")) for one in scalings if isinstance(one, dict)):
        heads["scaled_positions"] = True
    return heads | _windows(config, num_layers, kinds)


def _indexer(config: _Config) -> dict[str, int]:
    """Return the indexer of sparse attention, which each layer has; nothing in a family without."""
    if "indexer" not in config.traits:
        return {}
    # GLM may let layers share what one chose: by a list, by letters or by a period.
    modes = [*config.layers("indexer_types"), *str(config.fields.get("index_topk_pattern") or "")]
    if not {*modes} <= {"full", "F"} or config.number("index_topk_freq", default=1) > 1:
        config.odd.append("indexer_types")
    names = {"index_heads": "index_n_heads", "index_dim": "index_head_dim", "index_topk": "index_topk"}
    return {ours: config.number(theirs, least=1) for ours, theirs in names.items()}


def _windows(config: _Config, num_layers: int, kinds: list[str]) -> dict[str, Any]:
    """Return the window of attention and the number of layers that have it; nothing where all see the sequence."""
    window = config.number("attention_chunk_size", "sliding_window", default=0)
    if not window or any(not value for _, value in config.given(["use_sliding_window"])):
        return {}
    if window >= config.number("max_position_embeddings", default=window + 1):
        return {}
    if not kinds and "windows_by_layer" in config.traits:
        raise SpecError(
            f"no layer_types, which say for this family what layers have the window of {window} tokens; "
            "give them, or a sliding_window of null if none has"
        )
    if kinds:
        num_windows = sum(kind in ("sliding_attention", "chunked_attention") for kind in kinds)
    elif config.has("attention_chunk_size"):
        # Llama 4 has chunks in the layers with rotary positions, three of four.
        rotary = config.layers("no_rope_layers", each=num_layers) or [(layer + 1) % 4 for layer in range(num_layers)]
        num_windows = sum(map(bool, rotary))
    else:
        # gpt-oss alternates.
        num_windows = (num_layers + 1) // 2 if "alternates" in config.traits else num_layers
    found = {"window": window, "num_window_layers": num_windows}
    return (found | {"chunked": True} if config.has("attention_chunk_size") else found) if num_windows else {}


def _toml(values: Mapping[str, Any], model: ModelSpec, left_out: Sequence[str]) -> bytes:
    """Write a model as TOML; comments tell its size, what was assumed, and which fields are not in it."""
    size = f"{model.total_params / 1e9:.2f} B parameters, {model.active_params / 1e9:.2f} B active"
    above = [f"From config.json: {size}.", *(f"{one[0].upper()}{one[1:]}" for one in left_out)]
    behind = {"sequence_length": "*assumption*: no config tells it"}
    behind |= {"matrices_per_expert": "SwiGLU"} if model.matrices_per_expert == 3 else {}
    return toml_text(values, above, behind).encode()
