"""Bytes that layouts keep, against what Megatron-LM and TransformerEngine save for the backward pass."""

import math
from dataclasses import replace

import msgspec
import pytest

from lazsim.stepmodel.experts import imbalance
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.loading import load_inputs
from lazsim.stepmodel.memory import memory_bytes, vocabulary_parameters
from lazsim.stepmodel.pipeline import parts_of
from lazsim.stepmodel.predict import predict_step

MAVERICK = {"tensor": 4, "expert": 32, "global_batch": 512}
QWEN = {"expert": 8, "global_batch": 256}
DEEPSEEK = {"expert": 64, "tensor": 2, "global_batch": 512}


def inputs_of(model: str, num_gpus: int, layout, **of_model) -> StepInputs:
    inputs = load_inputs(model, "dgx-h100", None, layout | {"stages": ""}, num_gpus)
    parallel = msgspec.structs.replace(inputs.parallel, stages=layout.get("stages", ""))
    return replace(inputs, model=msgspec.structs.replace(inputs.model, **of_model), parallel=parallel)


def activations(model: str, num_gpus: int, layout, **of_model) -> float:
    return memory_bytes(inputs_of(model, num_gpus, layout, **of_model))["activations"]


def saved(model: str, num_gpus: int, layout, *modules: str) -> float:
    """Return what recomputation of modules frees for each token that a GPU has to itself."""
    again = layout | {"recompute": "selective", "recomputed": list(modules)}
    own_tokens = inputs_of(model, num_gpus, layout).own_tokens
    return (activations(model, num_gpus, layout) - activations(model, num_gpus, again)) / own_tokens


def test_a_dense_block_that_runs_again_keeps_its_input_and_nothing_else():
    # 24 dense layers of 48: the norm is part of the first projection, whose operand of 5,120 numbers goes, as do gate,
    # up and their product of 16,384; the 5,120 that the norm reads stay.
    freed = 24 * 2 * (5120 + 3 * 16384)
    assert saved("llama4-maverick", 128, MAVERICK, "dense_block") == pytest.approx(freed)
    # Norms of 48 blocks of attention and 24 of experts, beside those in dense blocks. That before the head stays.
    norms = (48 + 24) * 2 * 5120
    assert saved("llama4-maverick", 128, MAVERICK, "norm", "dense_block") == pytest.approx(freed + norms)


def test_projections_from_latent_vectors_that_run_again_keep_the_vectors_and_not_their_norm():
    # 128 heads: queries and keys of 192, values of 128; the norms of the vectors of 1,536 and 512 are part of the
    # projections up. What stays are these vectors and the 64 of positions.
    assert saved("deepseek-v3", 64, DEEPSEEK, "latent_up") == pytest.approx(61 * 2 * (128 * (192 + 192 + 128) + 2048))
    # Norms of blocks: 61 of attention, 58 of experts, of 7,168.
    assert saved("deepseek-v3", 64, DEEPSEEK, "norm") == pytest.approx((61 + 58) * 2 * 7168)


@pytest.mark.parametrize(("precision", "freed"), [("bf16", 0), ("fp8", 2 * 4096)])
def test_attention_that_runs_again_keeps_what_the_next_projection_reads(precision, freed):
    # In 16 bits its output is that operand. Of 8 bits, the operand is another tensor, and the output of 32 x 128 goes.
    assert saved("qwen3-30b-a3b", 8, QWEN | {"precision": precision}, "attention_core") == pytest.approx(48 * freed)


def test_an_activation_that_runs_again_keeps_what_it_reads():
    # 8 experts of a token: the product of 768 numbers goes, gate and up stay.
    assert saved("qwen3-30b-a3b", 8, QWEN, "expert_activation") == pytest.approx(48 * 8 * 2 * 768)


def test_norms_of_queries_and_keys_keep_what_they_read():
    plain = msgspec.structs.replace(inputs_of("qwen3-30b-a3b", 16, QWEN).model.attention, normed=False)
    normed, without = activations("qwen3-30b-a3b", 16, QWEN), activations("qwen3-30b-a3b", 16, QWEN, attention=plain)
    # 48 layers, 4,096 tokens, 32 heads of queries and 4 of keys of 128 numbers of 2 bytes, beside what attention reads.
    assert normed - without == pytest.approx(48 * 2 * (4096 + 512) * 4096)


@pytest.mark.parametrize("depth", [1, 3])
def test_each_layer_for_further_tokens_has_a_pass_of_the_head_of_its_own(depth):
    none, some = (
        memory_bytes(
            inputs_of(
                "qwen3-30b-a3b", 64, QWEN | {"pipeline": 4, "stages": f"Et*6|t*6|t*6|t*30{'m' * number}L"},
                num_mtp_layers=number,
            )
        )
        for number in (0, depth)
    )  # fmt: skip
    # 151,936 tokens of a vocabulary: the softmax of each pass in fp32 until it goes backward, and one set in 16 bits.
    assert none["logits"] == pytest.approx((4 + 2) * 151936 * 4096)
    assert some["logits"] == pytest.approx((4 * (1 + depth) + 2) * 151936 * 4096)


@pytest.mark.parametrize("sharding", ["none", "optimizer"])
def test_passes_for_further_tokens_share_weights_and_not_what_they_compute(sharding):
    layout = QWEN | {"pipeline": 4, "sharding": sharding, "overlap_gradients": False, "overlap_parameters": False}
    one, shared, own = (
        inputs_of(
            "qwen3-30b-a3b", 64, layout | {"stages": f"Et*6|t*6|t*6|t*30{'m' * number}L"}, num_mtp_layers=number,
            mtp_use_repeated_layer=repeated,
        )
        for number, repeated in ((1, True), (2, True), (2, False))
    )  # fmt: skip
    # The projection of two vectors of 2,048, attention with 32 and 4 heads of 128, a gate, and 128 or here 16 experts.
    dense, expert = 2 * 2048**2 + 2 * (32 + 4) * 128 * 2048 + 128 * 2048, 3 * 2048 * 768
    assert shared.model.mtp_params == one.model.mtp_params == own.model.mtp_params / 2 == dense + 128 * expert
    # 16 GPUs of a stage have the same dense parameters, and two of them the same experts.
    owned = dense + 16 * expert if sharding == "none" else dense / 16 + 16 * expert / 2
    for part, number_bytes in (("parameters", 2 * (dense + 16 * expert)), ("gradients", 4 * (dense + 16 * expert)),
                               ("optimizer", 12 * owned)):  # fmt: skip
        first, once, twice = (memory_bytes(inputs)[part] for inputs in (one, shared, own))
        assert (once - first, twice - first) == pytest.approx((0, number_bytes), abs=1)
    assert memory_bytes(shared)["activations"] == memory_bytes(own)["activations"] > memory_bytes(one)["activations"]
    first, once, twice = (predict_step(inputs).exposed_s for inputs in (one, shared, own))
    for part in ("gradient_exchange", "optimizer"):
        assert first[part] == once[part] < twice[part]
    # Each pass computes all: 49 and 50 layers of experts.
    assert once["expert_matmul"] == twice["expert_matmul"] == pytest.approx(first["expert_matmul"] * 50 / 49)


@pytest.mark.parametrize(("matrices", "pipeline", "copies"), [(2, 4, 1), (1, 4, 0), (2, 1, 0)])
def test_a_last_stage_that_predicts_further_tokens_has_a_copy_of_the_embedding(matrices, pipeline, copies):
    stages = "Et*6|t*6|t*6|t*30mL" if pipeline > 1 else ""
    layout = QWEN | {"pipeline": pipeline, "sharding": "none", "stages": stages}
    fields = {"num_mtp_layers": 1, "num_vocab_matrices": matrices}
    memory = memory_bytes(inputs_of("qwen3-30b-a3b", 64, layout, **fields))
    # 16 of 128 experts; attention with 32 and 4 heads of 128; a gate. The further layer joins two vectors of 2,048.
    layer = 16 * 3 * 2048 * 768 + 2 * (32 + 4) * 128 * 2048 + 128 * 2048
    layers = (30 if pipeline > 1 else 48) + 1
    # Stages with the head have its matrix: a copy where it is tied to the embedding of another stage.
    own = 1 if pipeline > 1 else matrices
    held = layers * layer + 2 * 2048**2 + (own + copies) * 151936 * 2048
    assert memory["parameters"] == pytest.approx(2 * held)
    assert memory["gradients"] == pytest.approx(4 * held)


def test_full_recomputation_keeps_what_further_tokens_read_and_the_pass_of_their_head():
    layout = QWEN | {"recompute": "full"}
    none, one = (activations("qwen3-30b-a3b", 16, layout, num_mtp_layers=number) for number in (0, 1))
    # Of 2 bytes: the layer's input, the embedding, both that are joined, and the final norm before and after.
    assert one - none == pytest.approx(2 * 2048 * (1 + 1 + 2 + 2) * 4096)


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, 1.0),  # forced to be even
        ({"routing": "consecutive"}, 1.0),
        ({"routing": "learned"}, 1.15),
        ({"routing": "learned", "capacity_factor": 1.05}, 1.05),
        ({"routing": "learned", "capacity_factor": 1.5}, 1.15),
        ({"capacity_factor": 0.5}, 0.5),
        ({"capacity_factor": 1.5, "pad_to_capacity": True}, 1.5),
    ],
)
def test_the_fullest_gpu_keeps_the_rows_of_the_busiest_rank(changes, rows):
    even, some = activations("qwen3-30b-a3b", 16, QWEN), activations("qwen3-30b-a3b", 16, QWEN | changes)
    # 8 experts of a token each keep an input of 2,048 and 3 inner vectors of 768, in 48 layers.
    assert some - even == pytest.approx((rows - 1) * 48 * 4096 * 8 * 2 * (2048 + 3 * 768))
    # The time of experts takes the same rows, and those of chance.
    inputs = inputs_of("qwen3-30b-a3b", 16, QWEN | changes)
    assert imbalance(inputs) == pytest.approx(rows, rel=0.02)


def test_rows_that_a_capacity_drops_are_not_computed_and_told(lazsim):
    whole, half = (predict_step(inputs_of("qwen3-30b-a3b", 16, QWEN | more)) for more in ({}, {"capacity_factor": 0.5}))
    # Of a token, 8 experts of 3 x 2048 x 768 in 48 layers, all other parameters but the embedding, causal attention.
    experts = 48 * 8 * 3 * 2048 * 768
    others = 48 * (2 * (32 + 4) * 128 * 2048 + 128 * 2048) + 151936 * 2048 + 48 * 2 * 32 * 128 * 4096 / 2
    share = (others + experts / 2) / (others + experts)
    assert half.mfu / whole.mfu == pytest.approx(share * half.tokens_per_s_per_gpu / whole.tokens_per_s_per_gpu)
    assert math.fsum(half.memory_bytes.values()) < math.fsum(whole.memory_bytes.values())
    options = ("step", "--model", "qwen3-30b-a3b", "--cluster", "dgx-h100", "--gpus", "16")
    layout = ("--layout", "expert=8", "--layout", "global_batch=256", "--layout", "capacity_factor=0.5")
    _, _, err = lazsim(*options, *layout)
    assert "capacity_factor 0.5 drops 50% or more of what experts would compute" in " ".join(err.split())


def test_four_bits_and_a_scale_for_sixteen_numbers_keep_fewer_bytes_than_eight():
    cluster = ("gb200-nvl72", None)
    eight, four = (
        memory_bytes(load_inputs("qwen3-30b-a3b", *cluster, QWEN | {"precision": precision}, 16))["activations"]
        for precision in ("mxfp8", "nvfp4")
    )
    # Of 48 layers: what two norms give, the output of 32 heads of 128, and of 8 experts inputs and products.
    operands = 48 * (2 * 2048 + 4096 + 8 * (2048 + 768)) * 4096
    # A scale of 8 bits comes with 32 numbers of eight, and with 16 of four.
    assert eight - four == pytest.approx(((8 + 8 / 32) - (4 + 8 / 16)) / 8 * operands)


@pytest.mark.parametrize(
    ("precision", "in_eight_bits", "of_weight"),
    [
        # One copy along each axis in place of 16 bits, or beside them.
        ("fp8", True, 1 + 1),
        ("mxfp8", True, 2 * (1 + 1 / 32)),
        ("fp8_block", True, 2 * (1 + 4 / 128)),
        ("fp8_block", False, 2 + 2 * (1 + 4 / 128)),
        ("nvfp4", True, 2 + 2 * (0.5 + 1 / 16)),
    ],
)
def test_weights_have_copies_of_fewer_bits_along_both_axes_and_words_have_none(precision, in_eight_bits, of_weight):
    cluster = "gb200-nvl72" if precision in ("mxfp8", "nvfp4") else "dgx-h100"
    layout = QWEN | {"precision": precision, "eight_bit_parameters": in_eight_bits}
    inputs = load_inputs("qwen3-30b-a3b", cluster, None, layout, 8)
    words, weights = 2 * 151936 * 2048, inputs.model.total_params - 2 * 151936 * 2048
    weights -= 48 * (128 - 128 // inputs.parallel.expert) * 3 * 2048 * 768
    assert memory_bytes(inputs)["parameters"] == pytest.approx(2 * words + of_weight * weights)


@pytest.mark.parametrize(("pipeline", "copies"), [(1, 0), (8, 1)])
def test_a_copy_of_the_embedding_for_a_further_token_is_of_words(pipeline, copies):
    # The last of eight stages looks up the words of a further token in a copy of the embedding.
    layout = {"global_batch": 512, "expert": 32, "pipeline": pipeline}
    inputs = inputs_of("deepseek-v3", 512, layout, num_mtp_layers=1)
    words = vocabulary_parameters(inputs.model, inputs.parallel, parts_of(inputs.model, inputs.parallel))
    assert words == (2 + copies) * 129280 * 7168


def test_parts_of_a_stage_divided_sequences_and_divided_experts_keep_what_published_formulas_say():
    layout = {"tensor": 2, "context": 2, "pipeline": 2, "virtual_stages": 2, "expert": 4, "expert_tensor": 2}
    memory = memory_bytes(inputs_of("mixtral-8x7b", 32, layout | {"global_batch": 64}))
    # The first of two stages: 16 layers with 2 of 8 experts, of which it has half the matrices, and the embedding.
    width, inner, vocabulary = 4096, 14336, 32000
    attention = (2 * 4096 + 2 * 1024) * width
    dense = 16 * (attention / 2 + 8 * width) + vocabulary * width / 2
    expert = 16 * 2 / 2 * 3 * width * inner
    assert memory["parameters"] == pytest.approx(2 * (dense + expert), rel=1e-3)
    # ZeRO-1: 8 GPUs hold the same dense parameters, those of 4 replicas and 2 parts of a sequence; 2 the same experts.
    assert memory["optimizer"] == pytest.approx(12 * (dense / 8 + expert / 2), rel=1e-3)
    # Numbers of 2 bytes for each of a GPU's own tokens, a quarter of the sequence: norms of both blocks, queries, keys,
    # values and output; scores; tokens of 2 choices from both GPUs of an expert, with half of gate, up and product.
    of_layer = 2 * (2 * width + 2 * 4096 + 2 * 1024 + 2 * width + 2 * 8 + 2 * 2 * (width + 3 * inner / 2))
    # Interleaved 1F1B: p v + p - 1 parts of 8 layers are on their way (arXiv 2205.05198, section 4.2.3).
    sequence = inputs_of("mixtral-8x7b", 32, layout | {"global_batch": 64}).model.sequence_length
    assert memory["activations"] == pytest.approx((2 * 2 + 2 - 1) * 8 * of_layer * sequence / 4, rel=1e-3)


def test_gradients_that_pass_through_a_layer_and_what_it_makes_again_need_room_for_a_moment():
    plain, again, apart = (
        memory_bytes(inputs_of("qwen3-30b-a3b", 8, QWEN | more, vocab_size=1024))
        for more in (
            {}, {"recompute": "selective", "recomputed": ["norm", "expert_activation"]}, {"tensor": 2, "expert": 8},
        )
    )  # fmt: skip
    # Gradients of the residual stream, and of a token in 8 experts as it goes back and as it came: 2,048 numbers each.
    # Those of gate, up and product, 768 each, are fewer than these, as are those of 32 + 2 x 4 heads of 128 and output.
    gradients = 2 * (2048 + 8 * 2 * 2048)
    assert plain["backward"] == pytest.approx(gradients * 4096)
    # Modules run again one after the other: the products of 8 experts are more than what two norms give.
    assert again["backward"] == pytest.approx((gradients + 2 * max(8 * 768, 2 * 2048)) * 4096)
    # Two ranks have half of the tokens each, of which attention's input and its gradient are whole, and no wider.
    assert apart["backward"] == pytest.approx(gradients * 2048)


@pytest.mark.parametrize(("overlap", "is_there"), [(False, False), (True, True)])
def test_logits_are_gone_when_layers_go_backward_unless_two_passes_run_at_once(overlap, is_there):
    memory = memory_bytes(inputs_of("qwen3-30b-a3b", 8, QWEN | {"overlap_expert": overlap}))
    assert memory["logits"] == pytest.approx((4 + 2) * 151936 * 4096)
    assert (memory["backward"] > 0) == is_there


def test_hybridep_has_room_for_all_tokens_of_all_ranks():
    layout = {"expert": 64, "global_batch": 512, "dispatcher": "hybridep"}
    ways = {}, {"expert": 16, "expert_tensor": 4}, {"expert": 1}
    room = [memory_bytes(inputs_of("deepseek-v3", 64, layout | more))["exchange"] for more in ways]
    # Two buffers of 64 x 4,096 tokens of 7,168 numbers of 2 bytes.
    assert room == [2 * 64 * 4096 * 7168 * 2, 2 * 64 * 4096 * 7168 * 2, 0]
