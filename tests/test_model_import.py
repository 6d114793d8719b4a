"""Models of Hugging Face: configs made here of the public numbers, not copied."""

import json
import tomllib

import msgspec
import pytest

from lazsim.errors import SpecError
from lazsim.files.decoding import convert
from lazsim.specs import ModelSpec, catalog_names, load_spec
from lazsim.specs.huggingface import TEXT, families, import_config
from tests.conftest import ROOT

MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2,
    "vocab_size": 32000, "tie_word_embeddings": False, "sliding_window": None,
}  # fmt: skip
QWEN3 = {
    "model_type": "qwen3_moe", "intermediate_size": 6144, "head_dim": 128, "num_attention_heads": 32,
    "num_key_value_heads": 4, "num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "vocab_size": 151936, "sliding_window": 4096, "use_sliding_window": False,
}  # fmt: skip
DEEPSEEK = {
    "model_type": "deepseek_v3", "intermediate_size": 18432, "moe_intermediate_size": 2048, "hidden_size": 7168,
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "moe_layer_freq": 1, "n_group": 8,
    "topk_group": 4, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "num_nextn_predict_layers": 1, "vocab_size": 129280,
}  # fmt: skip
GLM = {
    "model_type": "glm4_moe", "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536,
    "num_hidden_layers": 92, "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128,
    "n_routed_experts": 160, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "n_group": 1,
    "topk_group": 1, "num_nextn_predict_layers": 1, "vocab_size": 151552,
    "use_qk_norm": True,
}  # fmt: skip
GPT_OSS = {
    "model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 64, "num_experts_per_tok": 4, "sliding_window": 128, "vocab_size": 201088,
    "max_position_embeddings": 131072, "rope_scaling": {"rope_type": "yarn", "factor": 32.0},
}  # fmt: skip
LLAMA4 = {
    "model_type": "llama4_text", "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
    "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
    "num_experts_per_tok": 1, "attention_chunk_size": 8192, "vocab_size": 202048,
    "use_qk_norm": False,
}  # fmt: skip
CONFIGS = {
    "mixtral-8x7b": MIXTRAL,
    "mixtral-8x22b": MIXTRAL | {
        "hidden_size": 6144, "intermediate_size": 16384, "num_hidden_layers": 56, "num_attention_heads": 48,
    },
    "qwen3-30b-a3b": QWEN3 | {"hidden_size": 2048, "moe_intermediate_size": 768, "num_hidden_layers": 48},
    "qwen3-235b-a22b": QWEN3 | {
        "hidden_size": 4096, "moe_intermediate_size": 1536, "num_hidden_layers": 94, "num_attention_heads": 64,
    },
    "qwen2-57b-a14b": {
        "model_type": "qwen2_moe", "hidden_size": 3584, "intermediate_size": 18944, "moe_intermediate_size": 2560,
        "shared_expert_intermediate_size": 20480, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "num_experts": 64, "num_experts_per_tok": 8, "decoder_sparse_step": 1,
        "vocab_size": 151936, "sliding_window": 65536, "use_sliding_window": False,
    },
    "deepseek-v3": DEEPSEEK,
    "deepseek-v2": DEEPSEEK | {
        "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536, "num_hidden_layers": 60,
        "n_routed_experts": 160, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
        "topk_group": 3, "num_nextn_predict_layers": 0, "vocab_size": 102400,
    },
    "deepseek-v2-lite": DEEPSEEK | {
        "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_hidden_layers": 27,
        "num_attention_heads": 16, "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6,
        "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "q_lora_rank": None,
        "num_nextn_predict_layers": None, "vocab_size": 102400,
    },
    "kimi-k2": DEEPSEEK | {
        "model_type": "kimi_k2", "num_attention_heads": 64, "n_routed_experts": 384, "first_k_dense_replace": 1,
        "n_group": 1, "topk_group": 1, "num_nextn_predict_layers": 0, "vocab_size": 163840,
    },
    "glm-4.5": GLM,
    "glm-4.5-air": GLM | {
        "hidden_size": 4096, "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_hidden_layers": 46,
        "n_routed_experts": 128, "first_k_dense_replace": 1, "use_qk_norm": False,
    },
    "gpt-oss-120b": GPT_OSS | {
        "num_hidden_layers": 36, "num_local_experts": 128, "layer_types": ["sliding_attention", "full_attention"] * 18,
    },
    "gpt-oss-20b": GPT_OSS | {"num_hidden_layers": 24, "num_local_experts": 32},
    "llama4-maverick": {
        "model_type": "llama4", "vision_config": {"hidden_size": 1408, "num_hidden_layers": 34},
        "text_config": LLAMA4 | {"num_local_experts": 128, "interleave_moe_layer_step": 2},
    },
    "llama4-scout": {
        "text_config": LLAMA4 | {
            "num_local_experts": 16, "interleave_moe_layer_step": 1, "moe_layers": list(range(48)),
            "use_qk_norm": True,
            "no_rope_layers": [1, 1, 1, 0] * 12,
        },
    },
    "olmoe-1b-7b": {
        "model_type": "olmoe", "hidden_size": 2048, "intermediate_size": 1024, "num_hidden_layers": 16,
        "num_attention_heads": 16, "num_experts": 64, "num_experts_per_tok": 8, "vocab_size": 50304,
    },
    "phi-3.5-moe": {
        "model_type": "phimoe", "hidden_size": 4096, "intermediate_size": 6400, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 16, "num_experts_per_tok": 2,
        "vocab_size": 32064, "sliding_window": 131072, "max_position_embeddings": 131072,
    },
}  # fmt: skip
NEMOTRON = {
    "model_type": "nemotron_h", "head_dim": 128, "mamba_head_dim": 64, "mlp_hidden_act": "relu2", "n_groups": 8,
    "n_shared_experts": 1, "num_attention_heads": 32, "num_key_value_heads": 2, "ssm_state_size": 128,
    "vocab_size": 131072,
}  # fmt: skip
CONFIGS |= {
    "nemotron-3-nano": NEMOTRON | {
        "hidden_size": 2688, "hybrid_override_pattern": "ME" * 23 + "*" * 6, "mamba_num_heads": 64,
        "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712, "n_routed_experts": 128,
        "num_experts_per_tok": 6, "num_hidden_layers": 52,
    },
    "nemotron-3-super": NEMOTRON | {
        "hidden_size": 4096, "layers_block_type": ["linear_attention", "moe"] * 40 + ["full_attention"] * 8,
        "mamba_num_heads": 128, "moe_intermediate_size": 2688, "moe_latent_size": 1024,
        "moe_shared_expert_intermediate_size": 5376, "n_routed_experts": 512, "num_experts_per_tok": 22,
    },
}  # fmt: skip


def load(folder, config):
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return load_spec(ModelSpec, str(path))


def imported(config):
    toml, _ = import_config("config.json", json.dumps(config).encode(), is_checked=True)
    return convert(tomllib.loads(toml.decode()), ModelSpec)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_imported_model_is_the_one_of_the_catalogue(tmp_path, name):
    imported = msgspec.structs.asdict(load(tmp_path, CONFIGS[name]))
    catalogued = msgspec.structs.asdict(load_spec(ModelSpec, name))
    # The name is that of the family; published step times of DeepSeek-V3 are without its further-token layer.
    # Configs do not tell which layers for further tokens share weights.
    skipped = {"name", "mtp_use_repeated_layer", *["num_mtp_layers"] * (name == "deepseek-v3")}
    assert {key for key in imported if imported[key] != catalogued[key]} <= skipped


# Published totals and active parameters, in billions, and what they count beside the layers: the embedding at the input
# ("in"), at the output ("out"), and one further-token layer ("mtp").
PUBLISHED = {
    "mixtral-8x7b": (46.7, "in out", 12.9, "in out"),  # arXiv 2401.04088
    "mixtral-8x22b": (141, "in out", 39, "in out"),  # release notes
    "qwen3-30b-a3b": (30.5, "in out", 3.3, "in out"),  # model card
    "qwen3-235b-a22b": (235, "in out", 22, "in out"),
    "qwen2-57b-a14b": (57.4, "in out", 14.2, "in out"),  # arXiv 2407.10671
    "deepseek-v3": (671, "in out", 37, "out"),  # arXiv 2412.19437
    "deepseek-v2": (236, "in out", 21, "in out"),  # arXiv 2405.04434
    "deepseek-v2-lite": (15.7, "in out", None, ""),
    "kimi-k2": (1043, "in out mtp", 32, "out"),  # arXiv 2507.20534; model card
    "glm-4.5": (355, "mtp", 32, ""),  # arXiv 2508.06471, note of table 1
    "gpt-oss-120b": (116.83, "in out", 5.13, "out"),  # model card, table 1
    "gpt-oss-20b": (20.91, "in out", 3.61, "out"),
    "llama4-maverick": (400, "in out", 17, "in out"),  # model card
    "llama4-scout": (109, "in out vision", 17, "in out"),
    "olmoe-1b-7b": (6.92, "in out", 1.28, "in out"),  # arXiv 2409.02060
    "phi-3.5-moe": (41.9, "in out", 6.6, "in out"),  # model card
}
# 34 layers of width 1408 with four attention and two feed-forward matrices, and the projectors to the text's width.
LLAMA4_VISION = 34 * (4 * 1408**2 + 2 * 1408 * 5632) + 5632 * 4096 + 4096**2 + 4096 * 5120


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones_to_half_a_percent(name):
    model = load_spec(ModelSpec, name)
    total, counted, active, counted_active = PUBLISHED[name]
    matrix = model.vocab_size * model.d_model
    further = msgspec.structs.replace(model, num_mtp_layers=1).mtp_params
    parts = {"in": matrix, "out": matrix, "mtp": further, "vision": LLAMA4_VISION}
    layers = model.total_params - 2 * matrix
    assert layers + sum(parts[part] for part in counted.split()) == pytest.approx(total * 1e9, rel=0.005)
    if active is not None:
        layers = model.active_params - 2 * matrix
        found = layers + sum(parts[part] for part in counted_active.split())
        # Some are published with two digits, rounded or cut off.
        unit = 10 ** -len(str(active).partition(".")[2])
        assert -unit / 2 < found / 1e9 - active < unit


# Configs of models that are not in the catalogue, and their published totals and active parameters, as above.
FURTHER = {
    "qwen1.5-moe-a2.7b": (  # model card
        {
            "model_type": "qwen2_moe", "hidden_size": 2048, "intermediate_size": 5632, "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16,
            "num_key_value_heads": 16, "num_experts": 60, "num_experts_per_tok": 4, "vocab_size": 151936,
        },
        14.3, 2.7, 2,
    ),
    "dbrx": (  # model card
        {
            "model_type": "dbrx", "d_model": 6144, "n_heads": 48, "n_layers": 40, "vocab_size": 100352,
            "attn_config": {"kv_n_heads": 8},
            "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
        },
        132, 36, 2,
    ),
    "granite-3.0-1b-a400m": (  # model card: 1.3 B, 400 M
        {
            "model_type": "granitemoe", "hidden_size": 1024, "intermediate_size": 512, "num_hidden_layers": 24,
            "num_attention_heads": 16, "num_key_value_heads": 8, "num_local_experts": 32, "num_experts_per_tok": 8,
            "vocab_size": 49155, "tie_word_embeddings": True,
        },
        1.33, 0.4, 1,
    ),
    "granite-3.0-3b-a800m": (  # model card: 3.3 B, 800 M
        {
            "model_type": "granitemoe", "hidden_size": 1536, "intermediate_size": 512, "num_hidden_layers": 32,
            "num_attention_heads": 24, "num_key_value_heads": 8, "num_local_experts": 40, "num_experts_per_tok": 8,
            "vocab_size": 49155, "tie_word_embeddings": True,
        },
        3.3, 0.8, 1,
    ),
    "dots.llm1": (  # arXiv 2506.05767
        {
            "model_type": "dots1", "hidden_size": 4096, "intermediate_size": 10944, "moe_intermediate_size": 1408,
            "num_hidden_layers": 62, "num_attention_heads": 32, "num_key_value_heads": 32, "n_routed_experts": 128,
            "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1, "vocab_size": 152064,
        },
        142, 14, 2,
    ),
    "moonlight-16b-a3b": (  # arXiv 2502.16982, without embeddings
        CONFIGS["deepseek-v2-lite"] | {"vocab_size": 163840}, 15.29, 2.24, 0,
    ),
    "phi-mini-moe": (  # model card
        CONFIGS["phi-3.5-moe"] | {"intermediate_size": 960}, 7.6, 2.4, 2,
    ),
    "ling-lite": (  # arXiv 2503.05139
        {
            "model_type": "bailing_moe", "hidden_size": 2048, "intermediate_size": 5632, "moe_intermediate_size": 1408,
            "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128,
            "num_experts": 64, "num_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 0,
            "vocab_size": 126464,
        },
        16.8, 2.75, 2,
    ),
    "ling-mini-2.0": (  # model card: 789 M active without embeddings
        {
            "model_type": "bailing_moe_v2", "hidden_size": 2048, "intermediate_size": 5120,
            "moe_intermediate_size": 512, "num_hidden_layers": 20, "num_attention_heads": 16, "num_key_value_heads": 4,
            "head_dim": 128, "num_experts": 256, "num_shared_experts": 1, "num_experts_per_tok": 8,
            "first_k_dense_replace": 1, "vocab_size": 157184,
        },
        16.26, 1.43, 2,
    ),
    "grok-1": (  # release notes: 314 B; a quarter of the weights, which is not the count of what a token uses
        {
            "model_type": "grok-1", "hidden_size": 6144, "intermediate_size": 32768, "num_hidden_layers": 64,
            "num_attention_heads": 48, "num_key_value_heads": 8, "num_experts": 8, "num_experts_per_tok": 2,
            "vocab_size": 131072, "tie_word_embeddings": True,
        },
        314, None, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FURTHER)
def test_counts_of_other_families_are_the_published_ones(tmp_path, name):
    config, total, active, num_matrices = FURTHER[name]
    model = load(tmp_path, config)
    left_out = (model.num_vocab_matrices - num_matrices) * model.vocab_size * model.d_model
    assert (model.total_params - left_out) / 1e9 == pytest.approx(total, rel=0.007)
    if active is not None:
        unit = 10 ** -len(str(active).partition(".")[2])
        assert -unit / 2 < (model.active_params - left_out) / 1e9 - active < unit


def test_a_part_of_a_config_whose_type_is_empty_names_no_model(tmp_path):
    # As in the files of databricks/dbrx-base.
    config = FURTHER["dbrx"][0]
    empty = {part: {"model_type": "", **config[part]} for part in ("attn_config", "ffn_config")}
    assert load(tmp_path, config | empty).name == load(tmp_path, config).name == "dbrx"


TRANSFORMERS = json.loads((ROOT / "tests" / "golden" / "transformers.json").read_text())
"""By family, a config of six layers as Transformers 5.24 has it by default, less fields of training, and the parameters
of the model that it builds of it (with two axes or more, less convolutions and biases): all, and those of experts."""


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_counts_of_a_family_are_those_of_the_model_that_transformers_builds_by_default(family):
    config, total, experts = (TRANSFORMERS[family][name] for name in ("config", "total", "experts"))
    model = imported(config)
    assert model.params["routed experts"] == experts
    dense = total - experts
    # A gate vector of a shared expert is left out.
    assert 0.999 * dense < model.dense_params <= dense
    assert family.startswith("qwen") or model.dense_params == dense
    assert model.active_params == model.dense_params + experts * model.top_k // model.num_experts


def language_model(config):
    return next((config[name] for name in TEXT if name in config), config)


# Edits of the configs above: of the language model, of the model around it, and what Transformers 5.24 builds of that,
# by the same count. None leaves a field out. DeepSeek's port to Transformers has no `moe_layer_freq`.
EDITED = {
    "experts every second layer": ("llama4", {"moe_layers": None, "interleave_moe_layer_step": 2}, {}, 9618964480, 3),
    "experts to the last layer": (
        "ernie4_5_moe", {"moe_layer_end_index": -1, "moe_layer_interval": 2}, {}, 2978447360, 3,
    ),
    "dense layers by step and list": (
        "qwen3_moe", {"decoder_sparse_step": 2, "mlp_only_layers": [0, 3]}, {}, 2038431744, 2,
    ),
    "dense layers of their own width": (
        "cohere2_moe", {"mlp_layer_types": ["dense"] * 2 + ["sparse"] * 4, "prefix_dense_intermediate_size": 777}, {},
        21462958080, 4,
    ),
    "the same of MiniMax-M3": (
        "minimax_m3_vl",
        {"mlp_layer_types": ["dense"] * 2 + ["sparse"] * 4, "dense_intermediate_size": 777, "layer_types": None}, {},
        32349425664, 4,
    ),
    "the model around ties": (
        "qwen3_5_moe", {"tie_word_embeddings": False}, {"tie_word_embeddings": True},
        # Less the vectors of six shared experts.
        5558120448 - 6 * 2048, 6,
    ),
    "the model around does not say": (
        "qwen3_vl_moe", {"tie_word_embeddings": True}, {"tie_word_embeddings": None}, 3838001152, 6,
    ),
    "the text ties": ("llama4", {"tie_word_embeddings": True}, {"tie_word_embeddings": False}, 14247034880, 6),
    "the text does not tie": ("llama4", {"tie_word_embeddings": False}, {"tie_word_embeddings": True}, 15281520640, 6),
    "either ties": ("glm4v_moe", {"tie_word_embeddings": True}, {"tie_word_embeddings": False}, 12131500032, 5),
    "either ties MiniMax-M3": (
        "minimax_m3_vl", {"tie_word_embeddings": True}, {"tie_word_embeddings": False}, 45701922816, 6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITED)
def test_counts_of_an_edited_config_are_those_of_the_model_that_transformers_builds(name):
    family, of_text, around, total, num_moe_layers = EDITED[name]
    config = json.loads(json.dumps(TRANSFORMERS[family]["config"]))
    for fields, edits in ((language_model(config), of_text), (config, around)):
        fields |= edits
        for field in [field for field, value in edits.items() if value is None]:
            del fields[field]
    model = imported(config)
    assert (model.total_params, model.num_moe_layers) == (total, num_moe_layers)


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_a_missing_field_is_what_transformers_takes_and_told(family):
    config = TRANSFORMERS[family]["config"]
    whole, _ = import_config("c", json.dumps(config).encode(), is_checked=True)
    known = max((one for one in families() if language_model(config)["model_type"].startswith(one)), key=len)
    for field in families()[known].keys() & language_model(config).keys():
        lacking = json.loads(json.dumps(config))
        del language_model(lacking)[field]
        toml, left_out = import_config("c", json.dumps(lacking).encode(), is_checked=True)
        assert tomllib.loads(toml.decode()) == tomllib.loads(whole.decode()), field
        if toml != whole:
            told = next(one for one in left_out if one.startswith("not in the config, and taken as Transformers"))
            assert field in told


def test_layers_with_windows_are_not_guessed(refused, write):
    config = TRANSFORMERS["kolibri1"]["config"]
    path = write(json.dumps({field: value for field, value in config.items() if field != "layer_types"}), "config.json")
    window = "no layer_types, which say for this family what layers have the window of 513 tokens"
    assert window in refused("model", "import", path)
    path.write_text(json.dumps(config | {"layer_types": ["full_attention"] * 5}))
    assert "layer_types: expected an element for each of 6 layers, found 5" in refused("model", "import", path)


@pytest.mark.parametrize("family", ["flint", "granitemoe_swa", "gpt_oss"])
def test_families_with_sinks_have_them(family):
    # `self.sinks` in modeling_flint.py, modeling_granitemoe_swa.py and modeling_gpt_oss.py.
    assert imported(TRANSFORMERS[family]["config"]).attention.sinks


def test_every_family_that_is_taken_as_known_was_compared():
    compared = [*TRANSFORMERS, *(config.get("model_type", "") for config in CONFIGS.values())]
    compared += [config["model_type"] for config, *_ in FURTHER.values()]
    for family, known in families().items():
        is_compared = any(one.startswith(family) for one in compared)
        assert is_compared != ("not_compared" in known.get("traits", ())), family


def test_counts_are_those_of_the_published_files():
    # Parameters of the files on the Hugging Face Hub, less norms and biases: 65 and 64 * 4 + 33 vectors.
    assert load_spec(ModelSpec, "mixtral-8x7b").total_params == 46_702_792_704 - 65 * 4096
    glm = load_spec(ModelSpec, "glm-4.5")
    # The files of GLM hold both embeddings again for the further-token layer.
    files = glm.total_params + glm.mtp_params + 2 * glm.vocab_size * glm.d_model
    assert files == pytest.approx(358_337_791_296, rel=1e-5)


def test_parts_add_up_to_the_closed_form():
    # As in the config: attention, gates, experts, embeddings of Mixtral 8x7B.
    attention = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024)
    model = load_spec(ModelSpec, "mixtral-8x7b")
    assert model.params == {
        "attention": attention, "state space": 0, "dense blocks": 0, "shared experts": 0, "gates": 32 * 4096 * 8,
        "routed experts": 32 * 8 * 3 * 4096 * 14336, "embeddings": 2 * 32000 * 4096,
    }  # fmt: skip
    assert model.total_params == 46_702_526_464
    assert model.active_params == attention + 32 * 4096 * 8 + 32 * 2 * 3 * 4096 * 14336 + 2 * 32000 * 4096


@pytest.mark.parametrize(
    ("rule", "num_moe_layers"),
    [
        ({}, 8),
        ({"first_k_dense_replace": 3}, 5),
        ({"decoder_sparse_step": 2}, 4),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [1, 2]}, 3),
        ({"interleave_moe_layer_step": 4}, 2),
        ({"moe_layers": [1, 3, 5]}, 3),
        ({"moe_layer_freq": [0, 1, 1, 1, 1, 1, 1, 1]}, 7),
        ({"moe_layer_freq": 1, "first_k_dense_replace": 3}, 5),
        # Layers 2, 4 and 6: modeling_deepseek.py takes those whose number is a multiple.
        ({"moe_layer_freq": 2, "first_k_dense_replace": 1}, 3),
        ({"mlp_layer_types": ["dense", *["sparse"] * 7]}, 7),
    ],
)
def test_dense_layers_follow_the_rule_of_the_family(tmp_path, rule, num_moe_layers):
    config = MIXTRAL | {"num_hidden_layers": 8, "moe_intermediate_size": 512} | rule
    model = load(tmp_path, config)
    assert (model.num_layers, model.num_moe_layers) == (8, num_moe_layers)
    assert model.d_ff_dense == (14336 if num_moe_layers < 8 else 0)


def test_one_group_of_experts_is_no_limit_whatever_the_groups_of_a_token(tmp_path):
    model = load(tmp_path, DEEPSEEK | {"n_group": 1, "topk_group": 4})
    assert (model.num_expert_groups, model.num_groups_per_token) == (1, 1)


def test_tied_embeddings_short_contexts_and_windows_are_read(tmp_path):
    config = MIXTRAL | {"tie_word_embeddings": True, "max_position_embeddings": 2048, "sliding_window": 512}
    model = load(tmp_path, config)
    assert (model.num_vocab_matrices, model.sequence_length) == (1, 2048)
    assert (model.attention.window, model.attention.num_window_layers) == (512, 32)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "not a config.json of Transformers"),
        ('{"num_experts": 8, "num_experts": 4}', "num_experts is given twice; keep one of them"),
        ("[1]", "not a config.json of Transformers"),
        ({"hidden_size": 4096}, "no num_local_experts or n_routed_experts"),
        ({**MIXTRAL, "num_local_experts": None}, "expected config.json of an MoE model"),
        ({**MIXTRAL, "hidden_size": "wide"}, "hidden_size: expected a whole number from 1 up, found 'wide'"),
        ({**MIXTRAL, "moe_layer_freq": 0}, "a step of 0 between MoE layers"),
        ({**MIXTRAL, "mlp_only_layers": [{}]}, "mlp_only_layers: expected a list of numbers or words, found '[{}]'"),
        ({**MIXTRAL, "mlp_only_layers": "3"}, "mlp_only_layers: expected a list of numbers or words, found '3'"),
        ({**MIXTRAL, "hidden_size": -1}, "hidden_size: expected a whole number from 1 up, found '-1'"),
        ({**MIXTRAL, "num_hidden_layers": 10**6}, "num_hidden_layers: expected 1 to 4096"),
        ({**MIXTRAL, "num_experts_per_tok": 9}, "top_k (9) exceeds num_experts (8)"),
        ({**MIXTRAL, "tie_word_embeddings": "false"}, "tie_word_embeddings: expected true or false without quotes"),
        ({**MIXTRAL, "hidden_size": "4096"}, "hidden_size: expected a whole number from 1 up, found '4096'"),
        ({**MIXTRAL, "num_experts": 64}, "num_experts 64, but num_local_experts 8: names of one thing; leave one out"),
        ({**MIXTRAL, "num_key_value_heads": 7}, "num_key_value_heads 7: expected a number that divides 32 heads"),
        ({**MIXTRAL, "rope_scaling": "yarn"}, "rope_scaling: expected a table of fields, found 'yarn'"),
        ({**MIXTRAL, "text_config": [1]}, "text_config: expected a table of fields, found '[1]'"),
        ({**DEEPSEEK, "n_group": 7}, "n_group 7, topk_group 4: expected groups that divide the 256 experts"),
        ({**DEEPSEEK, "n_group": 2}, "n_group 2, topk_group 4: expected groups that divide the 256 experts"),
        ({**MIXTRAL, "decoder_sparse_step": 0}, "a step of 0 between MoE layers"),
        ({**MIXTRAL, "first_k_dense_replace": 32}, "no layer has experts, as first_k_dense_replace or"),
        ({**MIXTRAL, "layer_types": ["linear_attention"] * 32}, "layers of several kinds, such as linear attention"),
        ({**MIXTRAL, "mamba_num_heads": 8}, "mamba_num_heads: layers of several kinds"),
        ({**MIXTRAL, "attn_type_list": [0, 1]}, "attn_type_list: layers of several kinds"),
        ({**MIXTRAL, "is_encoder_decoder": True}, "is_encoder_decoder: an encoder and a decoder"),
        ({**MIXTRAL, "moe_intermediate_size": [512, 1024]}, "moe_intermediate_size: expected a whole number from 0 up"),
    ],
)
def test_a_config_that_is_none_of_an_moe_model_is_refused_in_one_line(refused, write, tmp_path, config, said):
    path = write(config if isinstance(config, str) else json.dumps(config), "config.json")
    told = refused("model", "import", path, "--out", tmp_path / "mine.toml")
    assert told.startswith(f"{path}: ")
    assert said in told
    assert not (tmp_path / "mine.toml").exists()


def test_an_import_prints_the_counts_and_writes_a_model_that_a_run_takes(lazsim, tmp_path):
    path, mine = tmp_path / "config.json", tmp_path / "mine.toml"
    path.write_text(json.dumps(MIXTRAL))
    code, out, err = lazsim("model", "import", path, "--out", mine)
    assert code == 0
    assert out.startswith("mixtral: 46.70 B parameters, 12.88 B active\n")
    assert ["total", "46.7", "12.88"] in [line.split() for line in out.splitlines()]
    assert f"note: the model is in {mine}" in err
    assert load_spec(ModelSpec, str(mine)) == load_spec(ModelSpec, str(path))
    answer = json.loads(lazsim("model", "import", path, "--json")[1])
    assert (answer["total_params"], answer["active_params"]) == (46_702_526_464, 12_879_659_008)
    for model in (mine, path):
        run = ("run", "--trace", "fail-every-5min", "--duration", "1min", "--cluster", "h100x16", "--system", "ds")
        code, out, err = lazsim(*run, "--model", model)
        assert code == 0, err
        assert out.startswith(f"{model.name} (46.70 B parameters, 12.88 B active) on h100x16")
    assert "mixtral: training sequences of 4096 tokens are assumed" in err


# Arctic's dense block beside the experts, Hunyuan-Large's keys shared by two layers, JetMoE's experts of attention.
@pytest.mark.parametrize("field", [{"parallel_attn_mlp_res": True}, {"use_cla": True}, {"kv_channels": 128}])
def test_a_field_that_may_shape_the_model_is_told_on_import_and_refused_where_nobody_looks(
    lazsim, refused, tmp_path, field
):
    path, (name,) = tmp_path / "config.json", field
    path.write_text(json.dumps(MIXTRAL | field))
    code, _, err = lazsim("model", "import", path, "--out", tmp_path / "mine.toml")
    assert (code, f"note: not known, and may shape the model: {name}. Compare" in err) == (0, True)
    assert load_spec(ModelSpec, str(tmp_path / "mine.toml")) == load(tmp_path, MIXTRAL)
    path.write_text(json.dumps(MIXTRAL | field))
    told = refused("model", "show", path)
    assert told.startswith(f"{path}: {name}: may shape the model, and lazsim does not know it")


def test_a_field_with_the_same_number_for_each_layer_is_that_number(tmp_path):
    each = {"moe_intermediate_size": [512] * 32, "moe_topk": [2] * 32, "num_experts_per_tok": None}
    once = MIXTRAL | {"moe_intermediate_size": 512}
    assert load(tmp_path, MIXTRAL | each) == load(tmp_path, once)
    # Hunyuan-A13B: 80 B in all, 13 B active (model card).
    config = MIXTRAL | {
        "num_local_experts": 64, "moe_intermediate_size": [3072] * 32, "moe_topk": [8] * 32,
        "num_shared_expert": [1] * 32,
        "num_experts_per_tok": None, "vocab_size": 128167, "tie_word_embeddings": True, "use_mixed_mlp_moe": True,
        "n_group": False, "use_cla": False, "cla_share_factor": 2,
    }  # fmt: skip
    model = load(tmp_path, config)
    assert (round(model.total_params / 1e9), round(model.active_params / 1e9)) == (80, 13)


def test_widths_of_dense_blocks_that_no_layer_has_change_nothing(tmp_path):
    # MiniMax-M2: 230 B in all, 10 B active (model card), which may leave out embeddings of 1.2 B.
    config = {
        "model_type": "minimax_m2", "attn_type_list": [1] * 62, "head_dim": 128, "hidden_size": 3072,
        "intermediate_size": 1536, "mlp_intermediate_size": 8192, "num_attention_heads": 48, "num_experts_per_tok": 8,
        "num_hidden_layers": 62, "num_key_value_heads": 8, "num_local_experts": 256, "num_mtp_modules": 3,
        "vocab_size": 200064,
    }  # fmt: skip
    model = load(tmp_path, config)
    assert model.total_params / 1e9 == pytest.approx(230, rel=0.01)
    assert model.active_params / 1e9 == pytest.approx(10 + 2 * 3072 * 200064 / 1e9, rel=0.05)


def test_any_model_shows_its_counts(lazsim, tmp_path):
    assert "further-token layers have 3.988 more" in lazsim("model", "show", "glm-4.5")[1]
    assert json.loads(lazsim("model", "show", "gpt-s", "--json")[1])["mtp_params"] == 0


def test_a_toml_file_with_the_keys_of_hugging_face_is_told_what_is_needed(write):
    path = write('name = "m"\nnum_hidden_layers = 32\nhidden_size = 4096\n', "keys.toml")
    with pytest.raises(
        SpecError,
        match=r"unknown fields num_hidden_layers \(num_moe_layers\?\), hidden_size; known: name, .*model import",
    ):
        load_spec(ModelSpec, str(path))


def test_published_counts_of_shared_models_are_met(shared):
    rows = shared / "measured" / "training" / "models.csv"
    if not rows.exists():
        pytest.skip("no models.csv")
    import pandas as pd

    known = {name.replace("-", "_"): name for name in catalog_names("models")}
    table = pd.read_csv(rows).dropna(subset=["published_total_B"])
    found = {
        key: total for key, total in zip(table["model_key"], table["published_total_B"], strict=True) if key in known
    }
    assert len(found) >= 14
    for key, total in found.items():
        model = load_spec(ModelSpec, known[key])
        extra = {"kimi_k2": msgspec.structs.replace(model, num_mtp_layers=1).mtp_params, "llama4_scout": LLAMA4_VISION}
        # Grok-1 and Nemotron 3 Super are published rounded.
        share = {"grok1_314b": 0.006, "nemotron_3_super": 0.01}.get(key, 0.005)
        assert (model.total_params + extra.get(key, 0)) / 1e9 == pytest.approx(total, rel=share), key


SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 6,
    "num_key_value_heads": 2, "num_experts_per_tok": 2, "tie_word_embeddings": False, "vocab_size": 1000,
}  # fmt: skip
LINEAR = ["linear_attention"]
QWEN3_NEXT = SMALL | {
    "decoder_sparse_step": 1, "head_dim": 32, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 16,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_value_head_dim": 24, "mlp_only_layers": [],
    "model_type": "qwen3_next", "moe_intermediate_size": 48, "num_experts": 8, "shared_expert_intermediate_size": 40,
}  # fmt: skip
GRANITE = SMALL | {
    "layer_types": LINEAR * 4 + ["full_attention"] + LINEAR, "mamba_chunk_size": 256, "mamba_conv_bias": True,
    "mamba_d_conv": 4, "mamba_d_head": 16, "mamba_d_state": 12, "mamba_expand": 2, "mamba_n_groups": 2,
    "mamba_n_heads": 8, "model_type": "granitemoehybrid", "num_local_experts": 8, "shared_intermediate_size": 80,
    "tie_word_embeddings": True,
}  # fmt: skip
# Configs as Transformers 5.24 writes them, less fields of training. The counts are those of parameters with two or more
# axes, less convolutions and biases, of `AutoModelForCausalLM.from_config` on the meta device of PyTorch: all of them,
# and those below `experts`.
COUNTED = {
    # Less what lazsim does not count: a vector for the gate of the shared expert of 6 layers.
    "qwen3_next": (QWEN3_NEXT, 767_872 - 6 * 64, 442_368),
    "qwen3_next with layer_types": (
        QWEN3_NEXT | {"layer_types": LINEAR * 3 + ["full_attention"] + LINEAR * 2},
        767_872 - 6 * 64, 442_368,
    ),
    "granitemoehybrid": (GRANITE, 1_197_056, 884_736),
    "granitemoehybrid of Transformers 4": (
        GRANITE | {"layer_types": ["mamba"] * 4 + ["attention"] + ["mamba"]}, 1_197_056, 884_736,
    ),
    "nemotron_h with narrow experts": (
        SMALL | {
            "head_dim": 20, "layers_block_type": ["linear_attention", "moe", "full_attention", "moe", *LINEAR, "moe"],
            "mamba_head_dim": 10, "mamba_num_heads": 8, "model_type": "nemotron_h", "moe_intermediate_size": 48,
            "moe_latent_size": 32, "moe_shared_expert_intermediate_size": 80, "moe_shared_expert_overlap": True,
            "mtp_layers_block_type": ["full_attention", "moe"], "n_groups": 2, "n_routed_experts": 8,
            "n_shared_experts": 1, "num_nextn_predict_layers": 1, "ssm_state_size": 12,
        },
        299_520, 73_728,
    ),
    "afmoe": (
        SMALL | {
            "global_attn_every_n_layers": 4, "head_dim": 16, "model_type": "afmoe", "moe_intermediate_size": 48,
            "layer_types": ["sliding_attention"] * 3 + ["full_attention"] + ["sliding_attention"] * 2,
            "num_dense_layers": 2, "num_experts": 8, "num_shared_experts": 1, "sliding_window": 1024,
        },
        596_992, 294_912,
    ),
    "ernie4_5_moe": (
        SMALL | {
            "model_type": "ernie4_5_moe", "moe_intermediate_size": 48, "moe_k": 2, "moe_layer_end_index": 4,
            "moe_layer_interval": 2, "moe_layer_start_index": 1, "moe_num_experts": 8, "moe_num_shared_experts": 2,
            "tie_word_embeddings": None,
        },
        396_800, 147_456,
    ),
    "hunyuan_v1_moe": (
        SMALL | {"head_dim": 16, "model_type": "hunyuan_v1_moe", "moe_topk": 2, "num_experts": 8}, 1_200_128, 884_736,
    ),
    "deepseek_v3": (
        SMALL | {
            "first_k_dense_replace": 2, "head_dim": 8, "kv_lora_rank": 16, "model_type": "deepseek_v3",
            "moe_intermediate_size": 48, "n_group": 4, "n_routed_experts": 8, "n_shared_experts": 2,
            "num_nextn_predict_layers": 1, "q_lora_rank": 24, "qk_head_dim": 24, "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8, "topk_group": 2, "v_head_dim": 12,
            "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
        },
        596_992, 294_912,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_counts_are_those_of_the_model_that_transformers_builds(tmp_path, name):
    config, total, experts = COUNTED[name]
    model = load(tmp_path, config)
    assert (model.total_params, model.params["routed experts"]) == (total, experts)
    assert model.active_params == total - experts + experts * model.top_k // model.num_experts


def test_the_defaults_of_qwen3_next_count_as_the_model_does(tmp_path):
    # Qwen3-Next-80B-A3B: 79,672,999,936 parameters by the same count, less the vectors of 48 shared experts. Of its
    # experts of 77,309,411,328 a token visits 10 of 512.
    config = QWEN3_NEXT | {
        "head_dim": 256, "hidden_size": 2048, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
        "linear_num_value_heads": 32, "linear_value_head_dim": 128, "moe_intermediate_size": 512,
        "num_attention_heads": 16, "num_experts": 512, "num_experts_per_tok": 10, "num_hidden_layers": 48,
        "shared_expert_intermediate_size": 512, "vocab_size": 151936,
    }  # fmt: skip
    model = load(tmp_path, config)
    catalogued = load_spec(ModelSpec, "qwen3-next-80b-a3b")
    assert model == msgspec.structs.replace(catalogued, name=model.name, sequence_length=model.sequence_length)
    assert model.total_params == 79_672_999_936 - 48 * 2048
    assert model.active_params == model.total_params - 77_309_411_328 * 502 // 512


def test_a_wrapper_decides_whether_the_embeddings_of_its_language_model_are_tied(tmp_path):
    # Qwen3VLMoeForConditionalGeneration has a head of its own though its text_config says that both are tied.
    config = {"model_type": "qwen3_vl_moe", "tie_word_embeddings": False, "text_config": {
        **QWEN3, "hidden_size": 64, "num_hidden_layers": 2, "moe_intermediate_size": 48, "tie_word_embeddings": True,
    }}  # fmt: skip
    assert load(tmp_path, config).num_vocab_matrices == 2


def test_scaled_positions_are_read_from_the_field_of_transformers_5(tmp_path):
    old = GPT_OSS | {"num_hidden_layers": 24, "num_local_experts": 32}
    yarn = old["rope_scaling"]
    for scaling in (yarn, {"full_attention": yarn}):
        assert load(tmp_path, old | {"rope_scaling": None, "rope_parameters": scaling}) == load(tmp_path, old)
    plain = load(tmp_path, old | {"rope_scaling": None, "rope_parameters": {"rope_type": "default"}})
    assert not plain.attention.scaled_positions


# DeepSeek-V3.2 has projections that choose keys; Zaya, which no field tells, convolutions and deeper gates.
@pytest.mark.parametrize(
    ("config", "said"),
    [
        (DEEPSEEK | {"index_n_heads": 64}, "index_n_heads"),
        # GLM may let layers share the keys that another chose.
        (DEEPSEEK | {"model_type": "glm_moe_dsa", "index_topk_freq": 4}, "indexer_types"),
        (DEEPSEEK | {"model_type": "glm_moe_dsa", "index_topk_pattern": "FSSS"}, "indexer_types"),
        (MIXTRAL | {"model_type": "zaya"}, "model_type zaya"),
        (MIXTRAL | {"model_type": None}, "model_type (none)"),
        (MIXTRAL | {"first_dense_replace": 2}, "first_dense_replace"),
        (MIXTRAL | {"use_head_wise_attn_gate": True}, "use_head_wise_attn_gate"),
        (MIXTRAL | {"layer_types": ["full_attention", "hybrid"] * 16}, "layer_types hybrid"),
    ],
)
def test_parts_and_families_that_were_not_counted_are_refused_where_nobody_looks(lazsim, write, config, said):
    path = write(json.dumps(config), "config.json")
    code, _, err = lazsim("model", "import", path)
    assert (code, f"note: not known, and may shape the model: {said}. Compare" in err) == (0, True)
    code, out, err = lazsim("model", "show", path)
    assert (code, out) == (2, "")
    assert f"{said}: may shape the model, and lazsim does not know it" in err


@pytest.mark.parametrize(
    ("config", "said"),
    [
        # Jamba has Mamba-1; LongCat counts num_layers of two attentions each; DeepSeek-V4 chooses experts by a hash.
        (SMALL | {"model_type": "jamba", "mamba_d_state": 16, "num_experts": 8}, "Qwen3-Next and Qwen3.5 only"),
        (MIXTRAL | {"model_type": "longcat_flash", "num_hidden_layers": None}, "(model_type longcat_flash is not"),
        (MIXTRAL | {"mlp_layer_types": ["hash_moe"] * 32}, "feed-forward blocks of the kind 'hash_moe'"),
        (QWEN3_NEXT | {"mlp_only_layers": [0]}, "1 of the layers are none of state space, attention or experts"),
    ],
)
def test_models_that_lazsim_has_no_shapes_of_are_refused_with_the_reason(refused, write, config, said):
    path = write(json.dumps(config), "config.json")
    assert said in refused("model", "import", path)


def test_dense_layers_keep_their_places_or_are_told(write, tmp_path):
    config = SMALL | {"model_type": "qwen3_moe", "num_experts": 8, "intermediate_size": 64}
    alternating = load(tmp_path, config | {"num_hidden_layers": 8, "decoder_sparse_step": 2})
    assert alternating.moe_layers == [1, 3, 5, 7]
    path = write(json.dumps(config | {"num_hidden_layers": 8, "mlp_only_layers": [0, 7]}), "config.json")
    _, left_out = import_config("c", path.read_bytes())
    # One behind the first goes to the middle.
    assert load_spec(ModelSpec, str(path)).moe_layers == [1, 2, 3, 5, 6, 7]
    assert "layers without experts, which lazsim spreads evenly behind the first ones: 7." in left_out


def test_gates_of_attention_are_read(tmp_path):
    # A gate as wide as the heads, 32 of 128 numbers here, in each of 32 layers.
    gated = load(tmp_path, MIXTRAL | {"attn_output_gate": True})
    assert gated.total_params - load(tmp_path, MIXTRAL).total_params == 32 * 4096 * 32 * 128


def test_further_token_layers_of_qwen_are_read(tmp_path):
    # config.json of Qwen3.5 has them by this name.
    config = json.loads(json.dumps(TRANSFORMERS["qwen3_5_moe"]["config"]))
    without = load(tmp_path, config)
    language_model(config)["mtp_num_hidden_layers"] = 1
    assert (without.num_mtp_layers, load(tmp_path, config).num_mtp_layers) == (0, 1)


def test_an_imported_hybrid_keeps_its_linear_attention_and_runs(lazsim, tmp_path):
    path, mine = tmp_path / "config.json", tmp_path / "mine.toml"
    path.write_text(json.dumps(QWEN3_NEXT))
    code, _, err = lazsim("model", "import", path, "--out", mine)
    assert code == 0, err
    model = load_spec(ModelSpec, str(mine))
    assert model.state_space.kind == "gated_delta"
    assert model == load_spec(ModelSpec, str(path))
    # Six layers, each of a mixer and experts.
    assert (model.num_layers, model.num_moe_layers) == (12, 6)
    assert (model.attention_layers, model.state_space.num_layers) == (1, 5)
    run = ("run", "--trace", "fail-every-5min", "--duration", "1min", "--cluster", "h100x16", "--system", "ds")
    code, _, err = lazsim(*run, "--model", path)
    assert code == 0, err
