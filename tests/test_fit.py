import itertools

import msgspec
import numpy as np
import pytest

from lazsim.costmodel.fit import (
    KERNEL_PARAMETERS,
    expert_times_s,
    fit_kernels,
    fit_links,
    fit_memory,
    held_out,
    large_exchanges,
    matmul_times_s,
    read_measurements,
    read_timings,
    summarise_errors,
)
from lazsim.errors import LazsimError
from lazsim.specs import GpuSpec, load_spec
from tests.conftest import refusal
from tests.models import IDEAL

MADE_UP = msgspec.structs.replace(
    IDEAL, name="made-up", matmul_efficiency=0.7, matmul_fill_outputs=3e5, matmul_fill_k=200.0,
    matmul_memory_efficiency=0.6, memory_efficiency=0.6, kernel_overhead_s=7e-6,
)  # fmt: skip
UNFITTED = msgspec.structs.replace(
    IDEAL, name="made-up", matmul_fill_outputs=1.0, matmul_fill_k=1.0, memory_efficiency=0.6, kernel_overhead_s=1e-6
)


def write_matmuls(folder, spoil=None):
    """Times that the made-up GPU would show, by the formula of its docstring."""
    lines = ["gpu,m,n,k,time_us"]
    for m, n, k in itertools.product([16, 64, 256, 1024, 8192], [512, 2048, 8192], [512, 2048, 8192]):
        compute = 2 * (m * n + 3e5) * (k + 200) / 70e12
        memory = 2 * (m * k + k * n + m * n) / 0.6e12
        seconds = max(compute, memory) + 7e-6
        if (m, n, k) == spoil:
            seconds *= 5
        lines.append(f"made-up,{m},{n},{k},{seconds * 1e6:.6f}")
    path = folder / "gemm_bf16.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def parameters(gpu):
    return [getattr(gpu, name) for name in KERNEL_PARAMETERS]


def test_a_fit_finds_the_parameters_that_made_the_times(tmp_path):
    table = read_timings(write_matmuls(tmp_path))
    fitted = fit_kernels(UNFITTED, table)
    assert parameters(fitted) == pytest.approx(parameters(MADE_UP), rel=1e-3)
    assert summarise_errors(matmul_times_s(fitted, table), table).max < 1e-3


def test_one_point_five_times_too_slow_hardly_moves_a_fit(tmp_path):
    table = read_timings(write_matmuls(tmp_path, spoil=(1024, 2048, 2048)))
    assert parameters(fit_kernels(UNFITTED, table)) == pytest.approx(parameters(MADE_UP), rel=0.15)


def test_held_out_points_do_not_touch_the_fit(tmp_path):
    table = read_timings(write_matmuls(tmp_path))
    before = fit_kernels(UNFITTED, table)
    table.loc[held_out(len(table)), "time_us"] *= 10
    assert fit_kernels(UNFITTED, table) == before


def test_memory_efficiency_is_the_best_share_that_a_large_matmul_reaches(tmp_path):
    path = tmp_path / "gemm_bf16.csv"
    # 2 (1 * 10_000 + 10_000 * 10_000 + 10_000) = 200_040_000 bytes in 250 us of 1e12 per second; the small is cached
    path.write_text("gpu,m,n,k,time_us\nx,1,10000,10000,250.05\nx,1,100,100,0.001\n")
    assert fit_memory(MADE_UP, read_timings(path)).memory_efficiency == pytest.approx(0.8)
    path.write_text("gpu,m,n,k,time_us\nx,1,100,100,0.001\n")
    assert fit_memory(MADE_UP, read_timings(path)) == MADE_UP


def test_an_expert_layer_is_three_matmuls_for_each_expert(write):
    path = write(
        "gpu,num_tokens,hidden_size,inter_size,topk,num_experts,moe_ep_size,distribution,time_us\n"
        "made-up,4096,1024,4096,2,8,1,balanced,1000\n",
        "fused_moe_bf16.csv",
    )
    # 1024 tokens an expert: compute of up and gate 2 (1024 * 4096 + 3e5) (1024 + 200) / 70e12 and overhead, and so on
    up = 2 * (1024 * 4096 + 3e5) * (1024 + 200) / 70e12 + 7e-6
    down = 2 * (1024 * 1024 + 3e5) * (4096 + 200) / 70e12 + 7e-6
    assert expert_times_s(MADE_UP, read_timings(path)) == pytest.approx([8 * (2 * up + down)])


def write_collectives(folder):
    """Times of a node whose all-reduces get another bandwidth and latency than its all-to-alls."""
    lines = ["gpu,op_name,num_gpus,nbytes,time_us"]
    for ranks, num_bytes in itertools.product([2, 8], [2**10, 2**20, 2**24, 2**28]):
        ring = 2 * (ranks - 1) * (num_bytes / ranks / 300e9 + 3e-6)
        exchange = (ranks - 1) / ranks * num_bytes / 200e9 + 9e-6
        lines.append(f"made-up,all_reduce,{ranks},{num_bytes},{ring * 1e6:.6f}")
        lines.append(f"made-up,alltoall,{ranks},{num_bytes},{exchange * 1e6:.6f}")
    path = folder / "nccl_single_node.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(("operation", "expected"), [("alltoall", (200e9, 9e-6)), ("all_reduce", (300e9, 3e-6))])
def test_a_fit_finds_bandwidth_and_latency_of_each_collective(tmp_path, operation, expected):
    table = read_timings(write_collectives(tmp_path))
    links = fit_links(operation, large_exchanges(table, operation))
    assert links == pytest.approx(expected, rel=1e-3)


def test_a_link_fit_leaves_small_messages_and_small_groups_aside(tmp_path):
    table = read_timings(write_collectives(tmp_path))
    large = large_exchanges(table, "alltoall")
    assert sorted(set(large["nbytes"])) == [2**20, 2**24, 2**28]
    before = fit_links("alltoall", large)
    assert fit_links("alltoall", large[large["num_gpus"] == 8]) == before


def test_errors_are_relative_to_what_was_measured(tmp_path):
    table = read_timings(write_collectives(tmp_path)).iloc[:4]
    measured_s = table["time_us"].to_numpy() * 1e-6
    error = summarise_errors(measured_s * np.array([0.9, 1.0, 1.2, 2.0]), table)
    assert (error.num_points, error.max, error.within_25_percent) == (4, pytest.approx(1.0), 0.75)
    assert error.median == pytest.approx(0.15)  # of 0, 0.1, 0.2, 1
    assert error.bias == pytest.approx(0.1)  # of -0.1, 0, 0.2, 1


def test_the_order_of_rows_does_not_matter(tmp_path):
    path = write_matmuls(tmp_path)
    before = fit_kernels(UNFITTED, read_timings(path))
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(rows)]))
    assert fit_kernels(UNFITTED, read_timings(path)) == before


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("gpu,m,n,time_us\nx,1,2,3\n", "has no column k; it needs gpu, m, n, k, time_us"),
        ("gpu,m,n,k,time_us\nx,1,2,3,4\nx,1,2,3,-4\n", "line 3: time_us is '-4'; give a number from 1e-06 to"),
        ("gpu,m,n,k,time_us\nx,1,2,three,4\n", "line 2: k is 'three'"),
        ("gpu,m,n,k,time_us\nx,1,2,,4\n", "line 2: k is ''"),
        ("gpu,m,n,k,time_us\nx,1,2,nan,4\n", "line 2: k is 'nan'"),
        ("", "is empty; it needs gpu, m, n, k, time_us"),
    ],
)
def test_a_bad_table_is_refused_with_its_line(write, content, complaint):
    path = write(content, "gemm_bf16.csv")
    told = refusal(lambda: read_timings(path))
    assert complaint in told
    assert str(path) in told


def test_a_binary_file_is_refused(write):
    path = write(bytes(range(256)), "gemm_bf16.csv")
    with pytest.raises(LazsimError, match="is no table of comma-separated UTF-8 text"):
        read_timings(path)


@pytest.mark.parametrize("name", ["a100", "h100", "h200"])
def test_the_shipped_parameters_are_what_a_new_fit_gives(shared, name):
    table = read_measurements(shared / "measurements")["gemm_bf16.csv"]
    gpu, mine = load_spec(GpuSpec, name), table[table["gpu"] == name]
    fitted = fit_memory(fit_kernels(gpu, mine), mine)
    names = [*KERNEL_PARAMETERS, "memory_efficiency"]
    assert [getattr(gpu, n) for n in names] == pytest.approx([getattr(fitted, n) for n in names], rel=0.01)


@pytest.mark.parametrize(("name", "p90"), [("a100", 0.25), ("h100", 0.16), ("h200", 0.16)])
def test_nine_of_ten_matmuls_kept_from_the_fit_are_predicted_as_the_documentation_says(shared, name, p90):
    table = read_measurements(shared / "measurements")["gemm_bf16.csv"]
    mine = table[table["gpu"] == name]
    kept = mine[held_out(len(mine))]
    assert summarise_errors(matmul_times_s(load_spec(GpuSpec, name), kept), kept).p90 < p90
