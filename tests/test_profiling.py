"""Measuring: kernels against plain references, the method against a fake clock, profiles that go on where they were."""

# ruff: noqa: E402

import dataclasses
import json
import resource
import signal
import sys
import time

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs torch: pip install 'lazsim[live]'")

from lazsim.costmodel.measured import TimeTable
from lazsim.costmodel.profile import ProfilePoint, read_profile
from lazsim.dispatch import dispatch_tokens
from lazsim.errors import LazsimError, SpecError
from lazsim.profiling import compute, machine, session, storage
from lazsim.profiling.compute import Target, check_kernel, implementations, measure_kernel
from lazsim.profiling.kernels import Random, arrived_rows_kernel, kernels_of, own_rows_kernel, uneven_counts
from lazsim.profiling.rank_loads import measure_rank_loads
from lazsim.profiling.scheduler import Measurement, Scheduler
from lazsim.profiling.session import Options, Session, begin
from lazsim.profiling.storage import storage_measurements
from lazsim.profiling.timing import BATCH, HOLD_MARGIN, MOST_HOLD_S, ci_width, measure
from lazsim.pytorch import device, fused
from lazsim.pytorch.device import DTYPES
from lazsim.pytorch.dispatch import inverse_of, schedule, sort_and_unsort, there_and_back
from lazsim.pytorch.operators import grouped_mm_fault, use_grouped_mm
from lazsim.specs import AttentionSpec, ModelSpec, catalog_names, load_spec
from tests.models import TINY, TINY_SWIGLU

CPU = Target("cpu", "float32", 1e11, 1e10)


def arrays_EI(most: int):
    """Draw numbers of three experts on four ranks."""
    return st.lists(st.integers(0, most), min_size=12, max_size=12).map(lambda drawn: np.reshape(drawn, (3, 4)))


@given(arrays_EI(40), arrays_EI(3), st.integers(0, 3), st.randoms(use_true_random=False))
def test_the_schedule_on_the_device_sends_what_the_host_would(tokens_EI, replicas_EJ, rank, random):
    replicas_EJ = replicas_EJ.copy()
    replicas_EJ[:, 1] += replicas_EJ.sum(axis=1) == 0
    experts = [expert for expert in range(3) for _ in range(tokens_EI[expert, rank])]
    random.shuffle(experts)
    experts_A = torch.tensor(experts, dtype=torch.int64)
    tensors = torch.from_numpy(tokens_EI), torch.from_numpy(replicas_EJ)
    rows, sent_EJ = schedule(experts_A, *tensors, rank)
    expected_EJ = dispatch_tokens(tokens_EI, replicas_EJ)[:, rank]
    assert sent_EJ.tolist() == expected_EJ.tolist()
    # The buffer that is sent: ranks one after the other, and for each the experts one after the other.
    wanted = [expert for target in range(4) for expert in range(3) for _ in range(expected_EJ[expert, target])]
    assert experts_A[rows.by_expert[inverse_of(rows.row)]].tolist() == wanted
    assert rows.row_of.tolist() == inverse_of(rows.by_expert[inverse_of(rows.row)]).tolist()


def kernel_of(name, model=TINY, use_grouped_mm=False):
    return next(kernel for kernel in kernels_of(model, use_grouped_mm=use_grouped_mm)[0] if kernel.name == name)


def test_the_schedule_never_waits_for_the_device():
    # On the device meta there are no values: whatever would need one on the host fails.
    integers = {"dtype": torch.int64, "device": "meta"}
    rows, sent = schedule(torch.empty(64, **integers), torch.empty(5, 8, **integers), torch.empty(5, 8, **integers), 3)
    found = [rows.by_expert, rows.row, rows.row_of, sent]
    assert [tuple(tensor.shape) for tensor in found] == [(64,), (64,), (64,), (5, 8)]


@pytest.mark.parametrize("k", [1, 2])
def test_a_reorder_and_its_inverse_change_nothing_forward_or_backward(k):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(12, 4, generator=generator, requires_grad=True)
    experts_A = torch.randint(5, (12 * k,), generator=generator)
    counts = torch.bincount(experts_A, minlength=5)[:, None].expand(-1, 3)
    rows, _ = schedule(experts_A, counts, torch.ones(5, 3, dtype=torch.int64), 1)
    back = there_and_back(x, rows, k)
    # The `k` copies of a token are added up, which is exact for one and two.
    assert torch.equal(back, k * x)
    (gradient,) = torch.autograd.grad(back.sum(), x)
    assert torch.equal(gradient, torch.full_like(x, k))


@pytest.mark.parametrize("k", [1, 3])
def test_weighted_rows_are_added_up_with_the_gradients_of_rows_and_weights(k):
    generator = torch.Generator().manual_seed(4)
    x, weights = (torch.randn(12, n, generator=generator, dtype=torch.float64, requires_grad=True) for n in (4, k))
    experts_A = torch.randint(5, (12 * k,), generator=generator)
    counts = torch.bincount(experts_A, minlength=5)[:, None].expand(-1, 3)
    rows, _ = schedule(experts_A, counts, torch.ones(5, 3, dtype=torch.int64), 1)
    # Each copy is the token itself, so that its weights alone decide.
    torch.testing.assert_close(there_and_back(x, rows, k, weights), x * weights.sum(1, keepdim=True))
    assert torch.autograd.gradcheck(lambda *both: there_and_back(both[0], rows, k, both[1]), (x, weights))


def test_rows_that_arrived_are_sorted_by_expert_and_put_back():
    kernel = arrived_rows_kernel(TINY, 3)
    arrived, order, inverse = kernel.inputs(50, Random("cpu", torch.float64))
    # From each of eight ranks come up to seven rows, in three runs: one for each expert here.
    runs = (np.arange(50) % 7) * 3 // 7
    assert runs[order.numpy()].tolist() == sorted(runs.tolist())
    assert torch.equal(sort_and_unsort(arrived, order, inverse), arrived)


def test_a_rank_takes_its_own_rows_those_it_receives_and_its_experts_at_the_median_of_all_passes(monkeypatch):
    # Of three passes the second is five times as slow as the first, and the third three times.
    slow = {0: 1.0, 1: 5.0, 2: 3.0}
    seen: dict[tuple[str, int], int] = {}

    def timed(kernel, size, *_):
        tokens = kernel.inputs(size, Random("cpu", torch.float32))[0].shape[0]
        passed = seen.setdefault((kernel.name, tokens), 0)
        seen[kernel.name, tokens] += 1
        seconds = {"grouped": 100.0, "permute": 10.0, "reorder": 1.0}[kernel.name] * tokens * slow[passed % 3]
        return ProfilePoint(kernel=kernel.name, size=size, time_s=seconds)

    monkeypatch.setattr(compute, "measure_kernel", timed)
    monkeypatch.setattr("lazsim.profiling.rank_loads.measure_kernel", lambda *_: None)
    table = TimeTable("expert", np.array([1.0, 64.0]), np.array([1.0, 64.0]))
    tables = {"expert": table, "reorder": table}
    model = msgspec.structs.replace(TINY, top_k=1)
    loads = [[8, 4, 0], [2, 0, 0], [0, 0, 0]]
    found = measure_rank_loads(model, CPU, loads, 16, tables, Scheduler("cpu", 1e9))
    # The medians are those of the third pass.
    assert found.measured_s([8, 4, 0]) == pytest.approx(3 * (16 + 10 * 12 + 100 * 12))
    assert found.measured_s([0, 0, 0]) == pytest.approx(3 * 16)
    # The simulator: every replica, and a reorder of the mean rank's 16 tokens; the table takes a second for a token.
    assert found.predicted_s([8, 4, 0]) == pytest.approx(8 + 4 + 16)


@pytest.mark.parametrize("k", [1, 2])
def test_both_parts_of_a_reorder_agree_with_their_references(k):
    model = msgspec.structs.replace(TINY, top_k=k)
    for kernel in (own_rows_kernel(model), arrived_rows_kernel(model, 3)):
        assert check_kernel(kernel, CPU) < 1e-5


@pytest.mark.parametrize("model", [TINY, TINY_SWIGLU], ids=lambda model: model.name)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_kernel_agrees_with_its_reference(model, dtype):
    kernels, skipped = kernels_of(model, use_grouped_mm=False)
    assert skipped == {}
    device = dataclasses.replace(CPU, dtype=dtype)
    errors = {kernel.name: check_kernel(kernel, device) for kernel in kernels}
    assert {"expert", "grouped", "gate", "schedule", "permute", "reorder", "attention", "head", "optimizer"} <= set(
        errors
    )


@pytest.mark.parametrize(
    "model", [TINY, TINY_SWIGLU, load_spec(ModelSpec, "deepseek-v3")], ids=lambda model: model.name
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_no_kernel_waits_for_the_device_or_leaves_it(model, dtype):
    # On the device meta there are no values, and it does not mix with others. Its grouped matmul knows bfloat16 only.
    kernels, _ = kernels_of(model, use_grouped_mm=dtype == "bfloat16")
    kernels += [own_rows_kernel(model), arrived_rows_kernel(model, 3), kernel_of("grouped", model)]
    for kernel in kernels:
        tensors = kernel.inputs(next(size for size in kernel.sizes if size >= 64), Random("meta", DTYPES[dtype]))
        for stage in compute._stages(kernel, [tensors]):
            stage(0)


@pytest.mark.parametrize("name", catalog_names("models"))
def test_every_kernel_of_every_model_of_the_catalogue_has_inputs(name):
    kernels, _ = kernels_of(load_spec(ModelSpec, name), use_grouped_mm=True)
    for kernel in kernels:
        assert all(tensor.numel() for tensor in kernel.inputs(kernel.sizes[0], Random("meta", DTYPES["bfloat16"])))


def test_gradients_of_a_large_vocabulary_are_not_lost_in_float16():
    model = msgspec.structs.replace(TINY, vocab_size=50257, d_model=16)
    # 0.0004; 0.0017 where the loss is not scaled.
    assert check_kernel(kernel_of("head", model), dataclasses.replace(CPU, dtype="float16")) < 1e-3


def test_a_kernel_that_computes_something_else_is_refused():
    right = kernel_of("expert")
    wrong = dataclasses.replace(right, forward=lambda *tensors: 1.01 * right.forward(*tensors))
    with pytest.raises(LazsimError, match=r"expert in float32 on cpu is wrong by 0\.01"):
        check_kernel(wrong, CPU)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (msgspec.structs.replace(TINY, attention_params=4 * 64 * 65), "tell the shapes of tiny's attention"),
        # 18 of its 36 layers see 128 of 4,096 tokens.
        (load_spec(ModelSpec, "gpt-oss-120b"), "18 layers of gpt-oss-120b see 128 tokens"),
    ],
)
def test_attention_that_torch_cannot_run_is_skipped_with_the_reason(model, why):
    kernels, skipped = kernels_of(model, use_grouped_mm=False)
    assert "attention" not in [kernel.name for kernel in kernels]
    assert why in skipped["attention"]


@pytest.mark.parametrize(
    ("heads", "params"),
    [
        # Queries of 4 heads, keys and values of 2 each, all 16 wide, and the way back from 64.
        (AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=16, normed=True), 64 * (4 + 2 + 2) * 16 + 64 * 64),
        # Queries by way of 24; keys and values by way of 20 beside 8 for positions; 4 heads of 12 + 8, values of 16.
        (
            AttentionSpec(kind="latent", num_heads=4, query_rank=24, kv_rank=20, nope_dim=12, rope_dim=8, value_dim=16),
            64 * 24 + 24 * 4 * 20 + 64 * 28 + 20 * 4 * (12 + 16) + 64 * 64,
        ),
    ],
    ids=["grouped", "latent"],
)
def test_attention_by_shared_and_by_latent_heads_agrees_with_its_definition(heads, params):
    kernel = kernel_of("attention", msgspec.structs.replace(TINY, attention=heads))
    weights = kernel.inputs(16, Random("cpu", torch.float64))[1:]
    assert sum(weight.numel() for weight in weights) == params
    assert check_kernel(kernel, CPU) < 1e-5


@given(st.integers(1, 70000), st.integers(1, 300))
def test_uneven_counts_keep_every_token(mean, num_experts):
    counts = uneven_counts(mean, num_experts)
    assert sum(counts) == mean * num_experts
    assert min(counts) >= 0
    assert counts == sorted(counts, reverse=True)


@pytest.mark.skipif(not hasattr(torch.nn.functional, "grouped_mm"), reason="needs a torch with grouped_mm")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("matrices", [2, 3])
def test_grouped_matmuls_are_used_where_torch_has_them_and_are_right(dtype, matrices):
    model = msgspec.structs.replace(TINY, matrices_per_expert=matrices)
    assert use_grouped_mm(model, "cpu", DTYPES[dtype])
    grouped, device = kernel_of("grouped", model, use_grouped_mm=True), dataclasses.replace(CPU, dtype=dtype)
    check_kernel(grouped, device)
    # The gradient in rotation is as contiguous as grouped_mm wants it, down to experts without a token.
    assert measure_kernel(grouped, 1, device, 0.0, 0.0).backward_s > 0


def test_a_gpu_that_goes_the_slower_way_has_the_reason_in_its_conditions(monkeypatch):
    monkeypatch.setattr(fused, "why_not", lambda _: "CompilationError: no compiler")
    monkeypatch.setattr("lazsim.profiling.compute.why_looped", lambda *_: "")
    found = {"grouped": "grouped_mm", "rows": "torch", "rows_why": "CompilationError: no compiler"}
    assert implementations(TINY, "cuda", "bfloat16") == found
    assert implementations(TINY, "cpu", "float32") == {"grouped": "grouped_mm", "rows": "torch"}


@pytest.mark.skipif(not hasattr(torch.nn.functional, "grouped_mm"), reason="needs a torch with grouped_mm")
def test_grouped_matmuls_that_fail_leave_the_loop_and_the_reason(monkeypatch):
    def fail(*_, **__):
        raise NotImplementedError("not on this device\nnor others")

    monkeypatch.setattr("lazsim.pytorch.operators.grouped_experts", fail)
    assert grouped_mm_fault.__wrapped__("cpu", torch.float32) == "NotImplementedError: not on this device"


def test_widths_that_grouped_matmuls_refuse_go_by_the_loop():
    # Rows have to be multiples of 16 bytes: 4 numbers of float32, 8 of half precision.
    for width, dtype, expected in ((60, "float32", True), (60, "bfloat16", False), (62, "float32", False)):
        model = msgspec.structs.replace(TINY, d_model=width)
        assert use_grouped_mm(model, "cpu", DTYPES[dtype]) is expected


class FakeClock:
    """Stages tell how long they take; nothing is waited for."""

    def __init__(self):
        self.now_s = 0.0
        self.held_s = []

    def hold(self, seconds):
        self.held_s.append(seconds)

    def mark(self):
        return self.now_s

    def elapsed_s(self, first, second):
        return second - first


def test_repetitions_end_when_the_median_is_known():
    clock, buffers = FakeClock(), []

    def stage(index):
        buffers.append(index)
        clock.now_s += 0.5

    samples_s = measure([stage, stage], 3, clock, end_s=1e9, now_s=clock.mark)
    assert samples_s.tolist() == [[0.5, 0.5]] * BATCH
    # Two warm-ups and six repetitions of two stages, over three buffers in turn.
    assert buffers == [turn % 3 for turn in range(8) for _ in range(2)]


def test_the_device_is_held_up_for_longer_than_the_host_takes_to_give_it_work():
    clock = FakeClock()
    measure([lambda _: time.sleep(0.002)], 1, clock, end_s=0.0)
    # Nothing is known before the first warm-up.
    assert clock.held_s[0] == 0
    assert min(clock.held_s[1:]) >= 0.002 * HOLD_MARGIN
    slow = FakeClock()
    measure([lambda _: time.sleep(0.03)], 1, slow, end_s=0.0)
    assert set(slow.held_s[1:]) == {MOST_HOLD_S}


@pytest.mark.parametrize(("end_s", "num_repetitions"), [(0.0, 3), (20.0, 18), (100.0, 102)])
def test_repetitions_end_when_the_budget_does(end_s, num_repetitions):
    # Times alternate between 0.5 and 1.5 s, so that the interval of the median never narrows. Warm-ups take 2 s, six
    # repetitions 6 s: 20 s are reached after 3 times six, 100 s after 17 times.
    clock, turns = FakeClock(), iter(range(10**6))

    def stage(_):
        clock.now_s += 0.5 + next(turns) % 2

    samples_s = measure([stage], 1, clock, end_s, now_s=clock.mark)
    assert len(samples_s) == num_repetitions


def test_the_interval_of_the_median_is_that_of_order_statistics():
    # Of 1 to 100, n/2 -+ 1.96 sqrt(n)/2 = 40.2 and 59.8 (61 with the upper bound's 1): values 40 to 61 of median 50.5.
    assert ci_width(np.arange(1.0, 101.0)) == pytest.approx((61 - 40) / 50.5)


def test_a_point_holds_its_share_of_the_peaks():
    kernel = kernel_of("expert")
    point = measure_kernel(kernel, 8, CPU, 0.0, 0.0)
    # Forward and backward: three times 2 operations for each of 2 x 64 x 96 weights and each token.
    assert point.flop == 3 * 2 * 2 * 64 * 96 * 8
    assert point.matmul_peak_share == pytest.approx(point.flop / point.time_s / 1e11)
    # Two passes read 8 x 64 tokens and the weights of 4 bytes each, one writes their gradients; the output comes too,
    # and its gradient.
    assert point.moved_bytes == 4 * (3 * (8 * 64 + 2 * 64 * 96) + 2 * 8 * 64)
    assert point.roofline_share == max(point.matmul_peak_share, point.copy_peak_share)
    assert 0 < point.forward_s < point.time_s
    assert point.time_q25_s <= point.time_s <= point.time_q75_s


def test_buffers_together_exceed_the_cache(monkeypatch):
    monkeypatch.setattr(compute, "cache_bytes", lambda _: 10**6)
    kernel = kernel_of("expert")
    point = measure_kernel(kernel, 8, CPU, 0.0, 0.0)
    # One buffer: 8 x 64 inputs and 2 x 64 x 96 weights of 4 bytes, 51,200 bytes; 40 of them pass twice 1 MB.
    assert (point.num_buffers, point.buffers_bytes) == (40, 40 * 51200)


def fake_measurement(
    size: int, calls: list[int], predicted_s: float = 0.0, skip_reason: str | None = None
) -> Measurement:
    def take(_: float):
        calls.append(size)
        return msgspec.structs.replace(measure_kernel(kernel_of("expert"), 1, CPU, 0.0), size=size)

    return Measurement("expert", size, 1, lambda _: predicted_s, take, lambda: skip_reason)


def run(one: Session, measurements) -> None:
    one.run(measurements, end_s=one.scheduler.begin_s + one.scheduler.budget_s)


def new_session(path, budget_s: float = 1e6, model: ModelSpec = TINY, dtype: str = "float32") -> Session:
    return begin(path, Options("cpu", dtype, budget_s=budget_s), model)


@pytest.fixture
def quick_peaks(monkeypatch):
    monkeypatch.setattr(session, "measure_peaks", lambda *_: (1e11, 1e10))


def test_a_profile_goes_on_where_it_was(tmp_path, quick_peaks):
    path, calls = tmp_path / "a.csv", []
    one = new_session(path)
    run(one, [fake_measurement(1, calls), fake_measurement(2, calls)])
    one.save()
    again = new_session(path)
    run(again, [fake_measurement(size, calls) for size in (1, 2, 4)])
    again.save()
    # Three times each, one after the other; what is there already is not measured again.
    assert calls == 3 * [1, 2] + 3 * [4]
    assert [point.size for point in read_profile(path).of("expert")] == [1, 2, 4]


def test_of_several_times_the_fastest_is_kept(tmp_path, quick_peaks):
    times_s = {1: iter([3.0, 1.0, 2.0]), 2: iter([4.0, 5.0, 6.0])}

    def task(size):
        def take(_):
            return ProfilePoint(kernel="expert", size=size, time_s=next(times_s[size]))

        return Measurement("expert", size, 1, lambda _: 0.0, take)

    one = new_session(tmp_path / "a.csv")
    run(one, [task(1), task(2)])
    assert [(point.size, point.time_s) for point in one.scheduler.points.values()] == [(1, 1.0), (2, 4.0)]


def test_a_header_of_something_else_is_not_overwritten(tmp_path, quick_peaks):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(SpecError, match=r"a\.json: has no a\.csv beside it; remove it, choose another"):
        new_session(tmp_path / "a.csv")


def test_the_peak_is_that_of_a_matmul_that_the_budget_does_for(monkeypatch):
    sizes = []

    def slow(size, *_):
        sizes.append(size)
        return 1e-9 * size**3

    monkeypatch.setattr(machine, "_matmul_s", slow)
    # Five of 512^3 take 0.7 s, five of 1024^3 5.4 s.
    assert machine._peak_size("cpu", "float32", None, 1.0) == 512
    assert sizes == [128, 256, 512]
    assert machine._peak_size("cpu", "float32", None, 1e3) == 2048


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": "bfloat16"}, "dtype float32, now it is bfloat16"),
        ({"model": load_spec(ModelSpec, "gpt-m")}, "model tiny, now it is gpt-m"),
    ],
)
def test_other_conditions_are_not_mixed_into_a_profile(tmp_path, quick_peaks, change, said):
    first = new_session(tmp_path / "a.csv")
    run(first, [fake_measurement(1, [])])
    first.save()
    with pytest.raises(SpecError, match=said):
        new_session(tmp_path / "a.csv", **change)


def test_points_that_do_not_fit_into_memory_or_budget_are_skipped_and_named(tmp_path, quick_peaks):
    calls = []
    one = new_session(tmp_path / "a.csv", budget_s=1e3)
    large, slow = fake_measurement(2, calls, skip_reason="memory"), fake_measurement(4, calls, predicted_s=1e6)
    run(one, [fake_measurement(1, calls), large, slow])
    one.save()
    assert calls == [1, 1, 1]
    assert json.loads((tmp_path / "a.json").read_text())["skipped"] == {"expert": "2: memory; 4: budget"}


def test_what_comes_before_a_kernels_first_point_does_not_slow_down_what_is_expected_of_the_others(
    tmp_path, quick_peaks
):
    one = new_session(tmp_path / "a.csv")
    point = ProfilePoint(kernel="expert", size=1, time_s=1e-3)
    run(one, [Measurement("expert", 1, 1, lambda _: 0.0, lambda _: point, prepare=lambda: time.sleep(0.1))])
    assert one.scheduler.wall_s < 0.1


@pytest.mark.parametrize("top_k", [1, 2, 6, 8])
def test_reorders_are_measured_for_as_many_tokens_as_the_rest(top_k):
    model = msgspec.structs.replace(TINY, num_experts=8, top_k=top_k)
    for kernel in kernels_of(model, use_grouped_mm=False)[0]:
        if kernel.name in ("permute", "reorder", "schedule"):
            assert kernel.sizes == tuple(top_k * 2**power for power in range(17))


def test_memory_is_judged_before_it_is_taken(tmp_path, quick_peaks, monkeypatch):
    monkeypatch.setattr(compute, "free_bytes", lambda _: 2 * 10**7)
    monkeypatch.setattr(compute, "cache_bytes", lambda _: 10**5)
    one = new_session(tmp_path / "a.csv")
    tasks = [task for task in compute.compute_measurements(one.header)[0] if task.kernel == "expert"]
    fitting = [task.size for task in tasks if task.skip_reason() is None]
    # 64 k tokens of width 64 alone are 16 MiB; 1024 of them are 256 KiB, and as much again 4 to 30 times inside.
    assert 1024 in fitting
    assert 65536 not in fitting


PEAK = """
import resource
import sys
import time
import torch
from lazsim.profiling import compute
from lazsim.profiling.kernels import kernels_of
from lazsim.specs import ModelSpec, load_spec

compute.cache_bytes = lambda _: 1  # one buffer, so that a repetition is most of what is taken
torch.set_num_threads(1)
kernels = {kernel.name: kernel for kernel in kernels_of(load_spec(ModelSpec, "gpt-l"), use_grouped_mm=False)[0]}
kernel, size, target = kernels[sys.argv[1]], 8192, compute.Target("cpu", "float32", 1e11, 1e10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
compute.measure_kernel(kernel, size, target, time.monotonic() + 0.5)
taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(taken, compute.memory_of(kernel, size, target).total_bytes)
"""


@pytest.mark.skipif(not device.keeps_memory("cpu"), reason="needs a C library that can keep memory")
@pytest.mark.parametrize("name", ["permute", "reorder"])
def test_a_kernel_takes_no_more_memory_of_the_host_than_is_counted(run_process, name):
    taken, counted = map(float, run_process(sys.executable, "-c", PEAK, name).stdout.split())
    assert 0 < taken < counted


def test_a_check_against_float64_counts_as_memory_too(tmp_path, quick_peaks, monkeypatch):
    # The smallest sizes of TINY fit into 1 MB. In float64, 128 logits of 101 words and as many of their parts do not.
    monkeypatch.setattr(compute, "free_bytes", lambda _: 5 * 10**5)
    monkeypatch.setattr(compute, "cache_bytes", lambda _: 1)
    one = new_session(tmp_path / "a.csv")
    head = next(task for task in compute.compute_measurements(one.header)[0] if task.kernel == "head")
    kernel = kernel_of("head")
    assert not compute.too_large(kernel, head.size, CPU)
    assert head.skip_reason() == "memory"


def test_few_experts_stand_for_all_in_the_check():
    # 256 experts of DeepSeek-V3 in float64 would take 256 x 3 x 7168 x 2048 x 8 bytes = 90 GB, and gradients as much.
    grouped = kernel_of("grouped", load_spec(ModelSpec, "deepseek-v3"), use_grouped_mm=True)
    assert compute.check_bytes(grouped, CPU) < 10e9


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    ],
)
def test_running_out_of_memory_leaves_a_point_out(tmp_path, quick_peaks, error):
    def fail(_):
        raise error

    one = new_session(tmp_path / "a.csv")
    run(one, [dataclasses.replace(fake_measurement(1, []), measure=fail)])
    assert one.skipped == {"expert": [(1, "memory")]}


def test_an_error_that_is_not_about_memory_is_not_swallowed(tmp_path, quick_peaks):
    def fail(_):
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        run(new_session(tmp_path / "a.csv"), [dataclasses.replace(fake_measurement(1, []), measure=fail)])


def test_peaks_are_not_measured_where_memory_would_not_do(monkeypatch):
    monkeypatch.setattr(device, "free_bytes", lambda _: 2**28)
    with pytest.raises(LazsimError, match=r"measuring the peaks takes 0\.5 GiB, and 80% of the 0\.25 GiB"):
        machine.measure_peaks("cpu", "float32", 100.0)


def test_memory_that_torch_holds_in_reserve_is_free(monkeypatch):
    for name, value in (("mem_get_info", (100, 1000)), ("memory_reserved", 70), ("memory_allocated", 20)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert device.free_bytes("cuda") == 100 + 70 - 20


def test_the_reorder_moves_every_token_eight_times():
    kernel = kernel_of("permute")
    # Packed, sorted, put back and unpacked, forward and backward; each reads and writes.
    assert kernel.traffic_bytes(10, 4) == 8 * 2 * 10 * 64 * 4
    assert kernel.traffic_bytes(10, 2) == 8 * 2 * 10 * 64 * 2
    assert kernel.inputs(10, Random("meta", torch.float32))[0].shape == (5, 64)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_optimizer_moves_28_bytes_of_a_parameter_in_any_type(dtype):
    # Weights and two moments of 4 bytes, read and written, are 24. To them come a gradient of 4 bytes; or one of 2, and
    # a weight of 2 to write.
    kernel = kernel_of("optimizer")
    point = measure_kernel(kernel, 4096, dataclasses.replace(CPU, dtype=dtype), 0.0, 0.0)
    assert point.moved_bytes == 28 * 4096


def test_checkpoints_are_timed_and_cleaned_up(tmp_path):
    tasks = [task for task in storage_measurements(tmp_path / "new") if task.size == 2**20]
    points = [task.measure(0.0) for task in tasks]
    assert [point.kernel for point in points] == ["checkpoint_save", "checkpoint_load"]
    assert all(point.moved_bytes == 2**20 for point in points)
    assert list(tmp_path.iterdir()) == []


def test_a_save_ends_on_the_disk_and_a_load_begins_there(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(storage.os, "fsync", lambda _: calls.append("fsync"))
    monkeypatch.setattr(storage.os, "posix_fadvise", lambda *_: calls.append("forget"), raising=False)
    save, load = storage_measurements(tmp_path)[:2]
    num_saves = save.measure(0.0).num_repetitions
    # A save before, and at least one warm-up of each.
    assert calls.count("fsync") > num_saves + 1
    calls.clear()
    num_loads = load.measure(0.0).num_repetitions
    assert calls[0] == "fsync"
    assert calls.count("forget") > num_loads


def test_the_peaks_count_two_operations_of_each_product_and_each_byte_read_and_written(monkeypatch):
    monkeypatch.setattr(machine, "PEAK_MATMUL_SIZE", {"cpu": 64})
    monkeypatch.setattr(machine, "PEAK_COPY_BYTES", {"cpu": 4096})
    monkeypatch.setattr(machine, "SMALLEST_MATMUL_SIZE", 64)
    # Each takes half a second.
    monkeypatch.setattr(machine, "measure", lambda *_, **_options: np.array([[0.5]]))
    assert machine.measure_peaks("cpu", "float32", 1.0) == (2 * 64**3 / 0.5, 2 * 4096 / 0.5)


def test_a_load_is_compared_once_and_not_in_its_time(tmp_path, monkeypatch):
    compared = []
    monkeypatch.setattr(storage.torch, "equal", lambda *tensors: not compared.append(tensors))
    load = next(task for task in storage_measurements(tmp_path) if task.kernel == "checkpoint_load")
    assert load.measure(0.0).num_repetitions >= 3
    assert len(compared) == 1
    monkeypatch.setattr(storage.torch, "equal", lambda *_: False)
    with pytest.raises(LazsimError, match="what was read is not what was written"):
        load.measure(0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_in_mid_save_is_one_line(tmp_path):
    task = storage_measurements(tmp_path)[0]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, hard))
    try:
        with pytest.raises(LazsimError, match=r"cannot be written \(.*\); choose another `checkpoint_path`") as caught:
            task.measure(0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LazsimError, match="not a writable folder"):
        storage_measurements(tmp_path / "file")


def test_a_kernel_on_the_host_is_timed_without_the_pages_of_its_results_as_on_a_gpu():
    def fault_pages():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(8):
            # More than the C library keeps by itself.
            torch.ones(2**23) + torch.ones(2**23)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    given_back = fault_pages()
    with device.memory_kept("cpu"):
        # The first time takes the pages.
        fault_pages()
        kept = fault_pages()
    assert kept < given_back / 4
