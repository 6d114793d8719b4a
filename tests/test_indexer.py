"""The indexer of sparse attention, against its arithmetic by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lazsim.errors import SpecError
from lazsim.specs import ModelSpec, load_spec
from lazsim.specs.overrides import override
from lazsim.stepmodel.blocks import blocks_of
from lazsim.stepmodel.indexer import indexer_bytes
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.loading import load_inputs
from lazsim.stepmodel.memory import memory_bytes
from lazsim.stepmodel.operations import Item
from lazsim.stepmodel.predict import flop_per_token
from lazsim.stepmodel.remarks import kernel_remarks


def attention_of(model: str, sequence: int = 4096, **layout) -> tuple[StepInputs, Item]:
    given = load_inputs(model, "h100x256", None, {"global_batch": 4096, "expert": 64, "pipeline": 4} | layout, 2048)
    inputs = replace(given, model=override(given.model, {"sequence_length": sequence}, model))
    return inputs, blocks_of(inputs)["attention"]


def seconds(operations, part: str) -> float:
    return math.fsum(operation.gpu_s for operation in operations if operation.part == part)


@pytest.mark.parametrize(("sequence", "topk"), [(4096, 2048), (8192, 2048), (1000, 2048), (131072, 2048)])
def test_each_token_sees_those_before_it_or_as_many_as_are_chosen(sequence, topk):
    heads = override(load_spec(ModelSpec, "deepseek-v3.2"), {"attention.index_topk": topk}, "m").attention
    before = np.arange(1, sequence + 1)
    assert heads.chosen_share(sequence) == pytest.approx(np.minimum(before, topk).sum() / before.sum(), rel=1e-3)


def test_chosen_keys_are_read_as_latent_vectors_where_that_is_less_work():
    # Heads of 192 and 128, or of 576 and 512 for the chosen: 2/64 of all pairs, less a quarter of the square of it.
    heads = load_spec(ModelSpec, "deepseek-v3.2").attention
    assert heads.score_widths(4096) == (128 * 192, 128 * 128)
    assert heads.score_widths(131072) == pytest.approx((128 * 576 * 127 / 4096, 128 * 512 * 127 / 4096))


def test_an_indexer_scores_all_keys_learns_from_chosen_ones_and_has_no_gradient_for_its_input():
    _, dense = attention_of("deepseek-v3")
    _, sparse = attention_of("deepseek-v3.2")
    dense_s = seconds(dense.forward, "attention")
    # 64 heads of 128 beside 128 heads of 192 and 128, a fifth; the keys of these once more; three quarters of the pairs
    # have chosen keys: 1024 + 2048 of 4096.
    assert seconds(sparse.forward, "attention") == pytest.approx((1 + 0.2 + 0.6) * dense_s)
    more_s = seconds(sparse.backward, "attention") - seconds(dense.backward, "attention")
    assert more_s == pytest.approx(3 * 0.75 * 0.2 * dense_s)
    for one, other in ((dense.forward, sparse.forward), (dense.backward, sparse.backward)):
        matmuls = [sum(operation.part == "dense_matmul" for operation in some) for some in (one, other)]
        assert matmuls[1] - matmuls[0] == 3


def test_each_tensor_parallel_rank_indexes_all_tokens():
    dense_s = seconds(attention_of("deepseek-v3", tensor=2)[1].forward, "attention")
    sparse = attention_of("deepseek-v3.2", tensor=2)[1]
    assert seconds(sparse.forward, "attention") == pytest.approx((1 + 2 * 0.2 + 0.6) * dense_s)
    assert seconds(sparse.forward, "tensor_exchange") > seconds(
        attention_of("deepseek-v3", tensor=2)[1].forward, "tensor_exchange"
    )


def test_an_indexer_has_the_parameters_of_its_projections_on_each_rank_and_keeps_what_it_learns_from():
    # arXiv 2412.19437: queries from a latent vector of 1536; 61 layers.
    each = 1536 * 64 * 128 + 7168 * 128 + 7168 * 64
    dense, sparse = load_spec(ModelSpec, "deepseek-v3"), load_spec(ModelSpec, "deepseek-v3.2")
    assert sparse.total_params - dense.total_params == 61 * each
    # 64 queries and a key of 128, 64 weights; 2048 keys, their scores and targets in 4 bytes.
    assert indexer_bytes(sparse.attention, 4096, 2) == 2 * (2 * (65 * 128 + 64) + 2048 * 12)
    assert indexer_bytes(dense.attention, 4096, 2) == 0
    inputs, _ = attention_of("deepseek-v3.2", tensor=2)
    held, held_dense = (memory_bytes(one) for one in (inputs, attention_of("deepseek-v3", tensor=2)[0]))
    stage = round((held["parameters"] - held_dense["parameters"]) / 2 / each)
    assert held["parameters"] - held_dense["parameters"] == pytest.approx(2 * stage * each)
    per_token = 6 * each + 6 * 64 * 128 * 2048
    assert flop_per_token(inputs) - flop_per_token(replace(inputs, model=dense)) == pytest.approx(61 * per_token)


def test_long_sequences_take_less_time_with_an_indexer():
    dense_s, sparse_s = (
        seconds(attention_of(name, 131072)[1].backward, "attention") for name in ("deepseek-v3", "deepseek-v3.2")
    )
    assert sparse_s < 0.2 * dense_s


def test_an_indexer_says_that_nothing_was_measured_and_refuses_what_it_lacks():
    assert any("no kernel of sparse attention was measured" in one for one in kernel_remarks(attention_of("glm-5")[0]))
    with pytest.raises(SpecError, match="context"):
        attention_of("deepseek-v3.2", context=2)
    with pytest.raises(SpecError, match="index_topk: only latent attention has it"):
        override(load_spec(ModelSpec, "mixtral-8x7b"), {"attention.index_topk": 2048}, "m")
    with pytest.raises(SpecError, match="index_dim is missing"):
        override(load_spec(ModelSpec, "deepseek-v3"), {"attention.index_heads": 64}, "m")
