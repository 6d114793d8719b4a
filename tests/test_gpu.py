"""What only a GPU can show: kernels on it, exchanges between processes that have one, and a job trained on it.

All of it is also tested on the CPU, in the files of the same names.
"""

# ruff: noqa: E402

import json

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'lazsim[live]'")

from lazsim.costmodel.profile import Header, read_profile
from lazsim.profiling.communication import choose_ranks, exchange_measurements, group_cycle
from lazsim.profiling.compute import Target, check_kernel, measure_kernel
from lazsim.profiling.exchanges import EXCHANGES
from lazsim.profiling.kernels import kernels_of
from lazsim.pytorch import fused
from lazsim.pytorch.device import DTYPES
from lazsim.pytorch.operators import no_waiting, use_grouped_mm
from lazsim.specs import ModelSpec, load_spec
from tests.conftest import ROOT
from tests.live_jobs import NUM_STEPS, Script, largest_difference, run_live, tiny_spec
from tests.models import TINY, TINY_SWIGLU

NUM_GPUS = torch.cuda.device_count()

pytestmark = [
    pytest.mark.skipif(not NUM_GPUS, reason="needs a GPU"),
    # torch warns of what it does by itself, as of a context that a thread lacks.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

two_gpus = pytest.mark.skipif(NUM_GPUS < 2, reason="needs two GPUs")
three_gpus = pytest.mark.skipif(NUM_GPUS < 3, reason="needs three GPUs")

HEADER = Header(
    format_version=1, lazsim="0.1.0", torch="2", device="cuda", dtype="float32", model=TINY, conditions={},
    matmul_flop_per_s=1e13, copy_bytes_per_s=1e12,
)  # fmt: skip


def gpu(dtype: str = "float32") -> Target:
    return Target("cuda", dtype, 1e13, 1e12)


@pytest.mark.parametrize("model", [TINY, TINY_SWIGLU], ids=lambda model: model.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kernel_agrees_with_its_reference_and_is_timed(model, dtype):
    kernels, skipped = kernels_of(model, use_grouped_mm=use_grouped_mm(model, "cuda", DTYPES[dtype]))
    assert skipped == {}
    for kernel in kernels:
        point = measure_kernel(kernel, kernel.sizes[-8:][0], gpu(dtype), 0.0, check_kernel(kernel, gpu(dtype)))
        assert point.forward_s > 0
        assert (point.backward_s > 0) is kernel.has_backward


def test_bfloat16_experts_go_by_grouped_matmuls():
    if torch.cuda.get_device_capability() not in ((9, 0), (10, 0)):
        pytest.skip("torch has grouped matmuls for H100, H200, B200 and GB200; elsewhere it loops and waits")
    assert use_grouped_mm(load_spec(ModelSpec, "gpt-l"), "cuda", torch.bfloat16)


@pytest.mark.parametrize("name", ["gate", "schedule", "permute", "reorder", "expert", "grouped"])
def test_the_host_never_waits_for_the_device(name):
    kernel = next(kernel for kernel in kernels_of(TINY, use_grouped_mm=False)[0] if kernel.name == name)
    tensors = kernel.inputs(64, gpu().random(0))
    leaves = [one.requires_grad_() if one.is_floating_point() else one for one in tensors]

    def run():
        out = kernel.forward(*leaves)
        if kernel.has_backward:
            wanted = [one for one in leaves if one.requires_grad]
            torch.autograd.grad(out, wanted, torch.ones_like(out))

    # The first run compiles, and may wait for that.
    run()
    torch.cuda.synchronize()
    with no_waiting("cuda"):
        run()


def test_it_is_told_why_torch_does_the_work_of_triton(monkeypatch):
    def fail(*_):
        raise OSError("no compiler\nfor C")

    monkeypatch.setattr(fused, "sum_rows", fail)
    assert fused.why_not.__wrapped__(torch.device("cuda")) == "OSError: no compiler"


@pytest.mark.parametrize("width", [40, 1024, 7168])
@pytest.mark.parametrize("k", [1, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_sums_of_rows_by_one_pass_equal_those_by_torch(width, k, dtype):
    assert fused.works_on(torch.device("cuda"))
    random = gpu().random(0)
    rows, gradient = random.normal(33 * k, width, dtype=dtype), random.normal(33, width, dtype=dtype)
    weights = random.normal(33, k, dtype=torch.promote_types(dtype, torch.float32))
    row_of = torch.randperm(33 * k, device="cuda").view(33, k)
    picked, allowed = rows[row_of].double(), 1e-12 if dtype == torch.float64 else 1e-2
    to_rows, to_weights = fused.spread_rows(gradient, rows, row_of, weights)
    pairs = [
        (fused.sum_rows(rows, row_of, None), picked.sum(1)),
        (fused.sum_rows(rows, row_of, weights), (picked * weights[..., None].double()).sum(1)),
        (to_rows[row_of], gradient.double()[:, None] * weights[..., None].double()),
        (to_weights, (picked * gradient.double()[:, None]).sum(-1)),
    ]
    assert all(float((a - b).norm() / b.norm()) < allowed for a, b in pairs)


def test_a_profile_of_a_gpu_serves_a_run(lazsim, tmp_path):
    path = tmp_path / "gpt-s.csv"
    arguments = ["--device", "cuda", "--model", "gpt-s", "--budget", "40s", "--ranks", 1, "--out", path]
    code, _, err = lazsim("profile", *arguments)
    assert (code, "Traceback" in err) == (0, False)
    header = read_profile(path).header
    assert header.conditions["gpu"] == torch.cuda.get_device_name()
    assert {"expert", "grouped", "reorder", "attention", "optimizer"} <= set(header.kernels)
    code, _, _ = lazsim("profile", "check", path)
    assert code == 0
    trace = ROOT / "traces" / "fail-every-5min.csv"
    run = ["--model", "gpt-s", "--cluster", "a10gx16", "--profile", path, "--extrapolate", "--json"]
    code, out, err = lazsim("run", "--trace", trace, *run)
    assert (code, "measured on cuda" in err) == (0, True)
    assert all(found["samples"] > 0 for found in json.loads(out)["runs"])


def test_processes_that_share_a_gpu_exchange_by_gloo():
    with exchange_measurements(HEADER, 2, "gloo") as tasks:
        points = [task.measure(0.0) for task in tasks if task.size == 4096 and task.skip_reason() is None]
    assert {point.kernel for point in points} == set(EXCHANGES) - {"point_to_point"}
    assert all(point.reference_error == 0 for point in points)


@two_gpus
def test_every_exchange_by_nccl_delivers_what_was_sent():
    with exchange_measurements(HEADER, *choose_ranks("cuda", 2, None)[:2]) as tasks:
        points = [task.measure(0.0) for task in tasks if task.size == 4096]
    assert [point.kernel for point in points] == list(EXCHANGES)
    assert all(point.reference_error == 0 for point in points)


@three_gpus
def test_nccl_forms_a_group_again_after_losing_a_member():
    assert min(group_cycle(3, "nccl", "cuda")) > 0


def same_as_on_the_cpu(pool, script: Script, top_k: int) -> None:
    spec = tiny_spec(top_k=top_k, slots_per_node=4)
    _, calm = run_live(spec, Script(2), pool)
    run, blocks = run_live(msgspec.structs.replace(spec, silence_s=20.0, device="cuda"), script, pool)
    assert run.run.steps == NUM_STEPS
    assert run.run.counts["failures"] == 1
    assert largest_difference(blocks, calm) < 1e-9


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_job_on_one_gpu_loses_nothing_when_a_worker_is_killed(pool, top_k):
    # More workers than GPUs, so that some share one.
    same_as_on_the_cpu(pool, Script(NUM_GPUS + 1, {("stepped", 5): [("kill", "n0")]}), top_k)


@three_gpus
def test_a_job_over_nccl_loses_nothing_when_a_worker_is_killed(pool):
    same_as_on_the_cpu(pool, Script(3, {("stepped", 5): [("kill", "n0")]}), 1)
