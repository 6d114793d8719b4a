import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.costmodel.compute import AnalyticCompute, matmul_s, memory_s
from lazsim.specs import ClusterSpec, GpuSpec, JobSpec, ModelSpec, StepConstants, load_spec
from tests.models import IDEAL

JOB = load_spec(JobSpec, "testbed-a"), load_spec(StepConstants, "training")
REAL = msgspec.structs.replace(
    IDEAL, name="real", matmul_efficiency=0.5, matmul_fill_outputs=1e6, matmul_fill_k=100.0,
    matmul_memory_efficiency=0.5, memory_efficiency=0.8, kernel_overhead_s=5e-6,
)  # fmt: skip
sizes = st.floats(1, 1e5)


def test_a_large_matmul_without_losses_takes_its_operations_at_peak():
    # 2 * 10_000**3 operations at 1e14 per second; its 600 MB of operands would take only 0.6 ms.
    assert matmul_s(IDEAL, 10_000, 10_000, 10_000) == pytest.approx(0.02)


def test_a_matmul_of_one_row_takes_reading_its_weights():
    # 2 (1 * 10_000 + 10_000 * 10_000 + 1 * 10_000) bytes at 1e12 per second
    assert matmul_s(IDEAL, 1, 10_000, 10_000) == pytest.approx(200.04e-6)


def test_each_loss_enters_as_the_formula_says():
    # 2 (1000 * 1000 + 1e6) (900 + 100) operations at 5e13 per second, and 5 us
    assert matmul_s(REAL, 1000, 1000, 900) == pytest.approx(80e-6 + 5e-6)


def test_no_rows_take_no_time():
    assert matmul_s(REAL, [0.0, 1.0], 10, 10)[0] == 0.0
    assert matmul_s(REAL, 0, 10, 10) == 0.0
    assert memory_s(REAL, [0.0, 8e5]).tolist() == pytest.approx([0.0, 1e-6 + 5e-6])


def test_sizes_broadcast():
    times = matmul_s(REAL, np.arange(1, 4)[:, None], [10, 20], 30)
    assert times.shape == (3, 2)
    assert times[2, 1] == matmul_s(REAL, 3, 20, 30)


def test_the_rows_given_are_left_as_they_were():
    rows = np.array([0.0, 5.0])
    matmul_s(REAL, rows, 10, 10)
    assert rows.tolist() == [0.0, 5.0]


@given(sizes, sizes, sizes, st.floats(1, 10))
def test_more_of_any_dimension_never_takes_less(m, n, k, factor):
    before = matmul_s(REAL, m, n, k)
    for larger in ((m * factor, n, k), (m, n * factor, k), (m, n, k * factor)):
        assert matmul_s(REAL, *larger) >= before * (1 - 1e-12)


@given(sizes, sizes, sizes)
def test_no_matmul_is_faster_than_the_datasheet(m, n, k):
    assert matmul_s(REAL, m, n, k) >= matmul_s(IDEAL, m, n, k)


def test_experts_narrower_than_the_model_cost_and_send_by_their_own_width():
    wide = load_spec(ModelSpec, "nemotron-3-super")
    parts = load_spec(ClusterSpec, "h100x16"), *JOB
    # With a memory that costs nothing: 1024 of 4096 is a quarter of the operations, and of the bytes of a token.
    free = msgspec.structs.replace(IDEAL, memory_bytes_per_s=1e24)
    models = wide, msgspec.structs.replace(wide, d_expert=None)
    narrow_s, wide_s = (float(AnalyticCompute(one, free, *parts).expert_s(np.array(32768.0))) for one in models)
    assert wide_s / narrow_s == pytest.approx(wide.d_model / 1024)
    narrow_s, wide_s = (float(AnalyticCompute(one, IDEAL, *parts).reorder_s(np.array(32768.0))) for one in models)
    assert wide_s / narrow_s == pytest.approx(4)


def test_a_hybrid_pays_for_scores_in_its_attention_layers_alone():
    hybrid = load_spec(ModelSpec, "nemotron-3-nano")
    parts = load_spec(GpuSpec, "h100"), load_spec(ClusterSpec, "h100x16"), *JOB
    more = msgspec.structs.replace(hybrid, num_attention_layers=2 * hybrid.attention_layers)
    one, two = (AnalyticCompute(model, *parts).dense_s(8192) for model in (hybrid, more))
    assert one < two < 1.2 * one


def test_scans_of_a_hybrid_take_on_an_h200_what_was_measured_there():
    # Nemotron 3 Nano, 32,768 tokens: 1.7 ms forward and 5.4 ms backward in each of 23 layers, 8.0 ms with the norm
    # (docs/measured/h200.md). One GPU a node, so that it does not share them.
    hybrid = load_spec(ModelSpec, "nemotron-3-nano")
    free = msgspec.structs.replace(hybrid, state_space=msgspec.structs.replace(hybrid.state_space, num_layers=1))
    parts = load_spec(GpuSpec, "h200"), load_spec(ClusterSpec, "h200x64"), *JOB
    # Eight GPUs share the tokens of their node. All else of 22 layers are projections.
    projections = 22 * hybrid.block_params["state_space"]
    more = msgspec.structs.replace(free, d_ff_shared=hybrid.d_ff_shared + projections / 23 / 2 / hybrid.d_model)
    seconds = [AnalyticCompute(model, *parts).dense_s(8 * 32768) for model in (hybrid, more)]
    assert seconds[0] - seconds[1] == pytest.approx(22 * 8.0e-3, rel=0.1)
