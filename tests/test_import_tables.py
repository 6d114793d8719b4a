"""Kernel tables from times that others measured: what is repaired, filled in, left out and told."""

import gzip
import itertools
import json

import numpy as np
import pytest

from lazsim.errors import SpecError
from lazsim.specs.catalog import read_spec_bytes
from lazsim.stepmodel.check_tables import check_tables
from lazsim.stepmodel.import_tables import import_tables
from lazsim.stepmodel.tables import KERNELS, holds_tables, load_tables, parse_tables

GEMM = "gpu,dtype,m,n,k,time_us\n"
HEAD = "kernel,size,columns,inner,num_ranks,time_us\n"

# The layout of nccl-tests' README and of its print statements (src/common.cu).
NCCL_TESTS = """\
# nThread 1 nGpus 2 minBytes 8 maxBytes 1024 step: 2(factor) warmup iters: 5 iters: 20 agg iters: 1 validate: 1 graph: 0
#
# Using devices
#  Rank  0 Group  0 Pid   1234 on      node0 device  0 [0x07] NVIDIA A100-SXM4-80GB
#  Rank  1 Group  0 Pid   1234 on      node0 device  1 [0x0b] NVIDIA A100-SXM4-80GB
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
           0             0     float     sum      -1     4.00    0.00    0.00      0     4.00    0.00    0.00      0
         256            64     float     sum      -1    10.50    0.02    0.02      0     9.00    0.03    0.03      0
         512           128     float     sum      -1    11.00    0.05    0.05      0     9.00    0.06    0.06      0
        1024           256     float     sum      -1    12.25    0.08    0.08      0     9.00    0.11    0.11      0
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 0.05
"""


def matmuls(gpu="x1", change=None):
    """Times of `gemm.csv` in proportion to the work: log-linear along each size."""
    sizes = itertools.product((64, 128, 256, 512, 1024), repeat=3)
    points = {(m, n, k): m * n * k / 1e4 for m, n, k in sizes} | (change or {})
    return [f"{gpu},bf16,{m},{n},{k},{time}" for (m, n, k), time in points.items() if time]


def write_gemm(folder, *rows, head="gpu,dtype,m,n,k,time_us"):
    (folder / "gemm.csv").write_text("\n".join([head, *rows]) + "\n")
    return str(folder)


def write_nccl(folder, rows):
    path = folder / "nccl_single_node.csv"
    path.write_text("\n".join(["gpu,op,num_gpus,nbytes,time_us", *rows]))
    return str(path)


def write_attention(folder, points):
    rows = [f"x1,1,{seq},{heads},8,128,{time}" for (heads, seq), time in points.items()]
    text = "\n".join(["gpu,batch,seq,heads,kv_heads,head_dim,time_us", *rows]) + "\n"
    (folder / "attention_prefill.csv").write_text(text)
    return str(folder)


def told(imported, text):
    return [note for note in imported.notes if text in note]


def test_times_come_through_and_what_is_not_there_is_told(tmp_path):
    imported = import_tables(write_gemm(tmp_path, *matmuls()))
    grid = parse_tables("x1", imported.text.encode()).grids["matmul_bf16"]
    assert grid.time_s(128, 256, 64) == pytest.approx(128 * 256 * 64 / 1e4 * 1e-6, rel=1e-3)
    assert imported.gpu == "x1"
    assert imported.num_points == 125
    assert imported.text.startswith("# x1: forward only; backward, a matmul is two of its shapes")
    assert len(told(imported, "not in")) == 6
    assert imported.median_error < 1e-3  # the line through the neighbours is exact


def test_repeated_rows_become_their_median_and_the_smaller_of_two_releases_counts(tmp_path):
    rows = [f"x1,bf16,{m},{n},{k},{time},{earlier}" for m, n, k in itertools.product((64, 128), repeat=3)
            for time, earlier in ((7, ""), (9, 8), (50, ""))]  # fmt: skip
    imported = import_tables(write_gemm(tmp_path, *rows, head="gpu,dtype,m,n,k,time_us,earlier_time_us"))
    assert "matmul_bf16,64,128,64,,8\n" in imported.text


def test_a_single_bad_point_is_put_on_the_line_of_its_neighbours_and_told(tmp_path):
    right = 256 * 128 * 512 / 1e4
    imported = import_tables(write_gemm(tmp_path, *matmuls(change={(256, 128, 512): 7 * right})))
    assert f"matmul_bf16,256,128,512,,{right:.4g}\n" in imported.text
    (note,) = told(imported, "off by more than 2")
    assert note.startswith(f"matmul_bf16 256 x 128 x 512: {7 * right:.4g} us")


def test_a_step_along_one_size_is_no_bad_point(tmp_path):
    slow = {
        (m, n, k): 5 * m * n * k / 1e4 for m, n, k in itertools.product((64, 128, 256, 512, 1024), repeat=3) if m > 128
    }
    assert not told(import_tables(write_gemm(tmp_path, *matmuls(change=slow))), "off by more than 2")


def test_points_that_are_not_monotone_are_told_and_kept(tmp_path):
    right = 512 * 256 * 256 / 1e4  # of half the rows
    imported = import_tables(write_gemm(tmp_path, *matmuls(change={(1024, 256, 256): 0.85 * right})))
    assert told(imported, "matmul_bf16: 1 of 125 points take under 90 % of a smaller size; they are kept")
    assert f"matmul_bf16,1024,256,256,,{0.85 * right:.4g}\n" in imported.text


def test_a_copy_of_another_gpu_is_told(tmp_path):
    own = matmuls("x2", dict.fromkeys(itertools.product((64,), (64, 128), (64, 128)), 3.0))
    folder = write_gemm(tmp_path, *matmuls("x1"), *own)
    assert told(import_tables(folder, "x2"), "matmul_bf16: 121 of 125 times of x2 are those of x1; one is a copy")
    sizes = itertools.product((64, 128, 256, 512, 1024), repeat=3)
    slower = matmuls("x3", {(m, n, k): 1.1 * m * n * k / 1e4 for m, n, k in sizes})
    assert not told(import_tables(write_gemm(tmp_path, *matmuls("x1"), *slower), "x3"), "one is a copy")


def test_a_copy_of_the_catalogue_is_told(tmp_path):
    grid = load_tables("h100").grids["all_reduce"]
    points = zip(itertools.product(*grid.axes), np.ravel(grid.times_s), strict=True)
    rows = [f"x1,all_reduce,{gpus:.0f},{size:.0f},{1e6 * time:.4g}" for (size, gpus), time in points]
    imported = import_tables(write_nccl(tmp_path, rows))
    assert told(imported, "all_reduce: 63 of 63 times of x1 are those of h100 of the catalogue")


def test_sequences_of_more_heads_than_were_measured_take_time_in_proportion_to_them(tmp_path):
    points = {(heads, seq): heads * seq for heads in (8, 16, 32) for seq in (1024, 2048, 4096)}
    del points[32, 4096]
    imported = import_tables(write_attention(tmp_path, points))
    assert f"attention_128,32,4096,,,{2 * 16 * 4096:.4g}\n" in imported.text
    assert told(imported, "attention_128: 1 of 9 points were not measured")


def test_points_of_many_heads_that_are_left_out_come_back_as_they_were_measured(shared, tmp_path):
    path = shared / "measured" / "kernels" / "attention_prefill.csv"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    head, *rows = [line for line in path.read_text().splitlines() if line.startswith(("gpu", "b200,"))]
    kept, measured = [], {}
    for row in rows:
        _, batch, seq, heads, kv_heads, width, time_us, *_ = row.split(",")
        many = int(batch) * int(heads)
        if (kv_heads, width) == ("8", "128") and many >= 512 and int(seq) >= 4096:
            measured[f"attention_128,{many},{seq}"] = float(time_us)
        else:
            kept.append(row)
    (tmp_path / "attention_prefill.csv").write_text("\n".join([head, *kept]) + "\n")
    lines = [line.rpartition(",,,") for line in import_tables(str(tmp_path)).text.splitlines()]
    errors = [abs(float(time_us) / measured[sizes] - 1) for sizes, _, time_us in lines if sizes in measured]
    # By the square of the length of shorter sequences, they would be 39 % too slow at the median.
    assert len(errors) == 12
    assert np.median(errors) < 0.05


def test_points_between_measured_ones_are_filled_in_though_a_bad_one_is_beside_them(tmp_path):
    right = 128 * 128 * 256 / 1e4
    change = {(128, 128, 256): None, (64, 256, 1024): None, (256, 128, 256): 7 * 2 * right}
    imported = import_tables(write_gemm(tmp_path, *matmuls(change=change)))
    assert told(imported, "matmul_bf16: 2 of 125 points were not measured: on the lines through their neighbours")
    assert f"matmul_bf16,128,128,256,,{right:.4g}\n" in imported.text
    assert f"matmul_bf16,256,128,256,,{2 * right:.4g}\n" in imported.text
    assert imported.num_points == 125


def test_points_drawn_by_chance_and_left_out_come_back_as_they_were_measured(shared, tmp_path):
    path = shared / "measured" / "kernels" / "gemm.csv"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    head, *rows = [line for line in path.read_text().splitlines() if line.startswith(("gpu", "h100,"))]
    rows = [row for row in rows if ",bf16," in row]
    is_kept = np.random.default_rng(0).random(len(rows)) > 0.1
    imported = import_tables(write_gemm(tmp_path, *itertools.compress(rows, is_kept), head=head))
    grid = parse_tables("h100", imported.text.encode()).grids["matmul_bf16"]
    columns = head.split(",")
    left_out = [dict(zip(columns, row.split(","), strict=True)) for row in itertools.compress(rows, ~is_kept)]
    errors = [
        abs(1e6 * grid.time_s(*(float(row[size]) for size in "mnk")) / float(row["time_us"]) - 1) for row in left_out
    ]
    assert len(errors) > 100
    assert np.median(errors) < 0.05


def test_sizes_with_holes_are_left_out_and_told(tmp_path):
    holes = {(m, 1024, k): None for m in (64, 128, 256, 512, 1024) for k in (64, 128, 256)} | {(64, 64, 64): None}
    imported = import_tables(write_gemm(tmp_path, *matmuls(change=holes)))
    assert told(imported, "matmul_bf16: columns 1024 left out")
    assert told(imported, "left out, since too few") != told(imported, "columns 1024")
    parse_tables("x1", imported.text.encode())  # a full grid


def test_rows_of_another_gpu_stand_in_where_asked(tmp_path):
    folder = write_gemm(tmp_path, *matmuls("x1"))
    write_attention(tmp_path, {(heads, seq): heads * seq for heads in (8, 16) for seq in (1024, 2048)})
    text = (tmp_path / "attention_prefill.csv").read_text().replace("x1", "x2")
    (tmp_path / "attention_prefill.csv").write_text(text)
    imported = import_tables(folder, "x1", {"attention_prefill.csv": "x2"})
    assert "attention_128,8,1024,,,8192\n" in imported.text
    assert told(imported, "attention_prefill.csv: rows of x2 stand in for those of x1")
    remark = "attention_128: times of x2 stand in for those of x1"
    assert parse_tables("x1", imported.text.encode()).remarks[1:] == (remark,)


def test_the_output_of_nccl_tests_becomes_a_table(tmp_path, lazsim):
    path, out = tmp_path / "all_reduce.txt", tmp_path / "out.csv"
    path.write_text(NCCL_TESTS)
    assert lazsim("profile", "import", path, "--gpu", "mine", "--out", out)[0] == 0
    tables = load_tables(str(out))
    assert tables.collective_ranks == {"all_reduce": 2}
    # Out of place; the empty message is none. Over 8 GPUs at the same bus bandwidth: (7 / 8) / (1 / 2) times as long.
    assert tables.grids["all_reduce"].axes == ([256.0, 512.0, 1024.0], [2.0])
    assert tables.collective_s("all_reduce", 1024, 8) == pytest.approx(1.75 * 12.25e-6)


def test_collectives_take_what_was_measured_over_their_number_of_gpus(tmp_path):
    # Over 2 GPUs as long as over 8, though they send 4/7 as much.
    times = {(gpus, size): size / 1e3 for gpus in (2, 8) for size in (65536, 1048576)}
    rows = [f"x1,all_gather,{gpus},{size},{time}" for (gpus, size), time in times.items()]
    tables = parse_tables("x1", import_tables(write_nccl(tmp_path, rows)).text.encode())
    assert tables.collective_ranks == {"all_gather": 8}
    seconds = [tables.collective_s("all_gather", 1048576, gpus) for gpus in (2, 4, 8, 16)]
    # Between two numbers that were measured, on the line through both; beyond them, at the bus bandwidth of the last.
    assert seconds == pytest.approx([1.048576e-3] * 3 + [1.048576e-3 * (15 / 16) / (7 / 8)], rel=1e-3)


def test_nccl_tests_may_name_its_program(tmp_path):
    path = tmp_path / "log"
    path.write_text("# Collective test starting: alltoall_perf\n" + NCCL_TESTS)
    assert "all_to_all,256,,,2,10.5\n" in import_tables(str(path), "mine").text


def test_times_in_another_unit_are_told_and_those_of_a_slow_gpu_are_not(tmp_path):
    matmul = load_tables("a100").grids["matmul_bf16"]
    sizes = list(itertools.product(*(axis[::4] for axis in matmul.axes)))
    # A third of an A100; in milliseconds and seconds, nearest to the fastest; in nanoseconds, to the slowest.
    for factor, note in (
        (3e6, ""),
        (1e3, "times those of gb200"),
        (1.0, "times those of gb200"),
        (1e9, "times those of l40s"),
    ):
        rows = [f"x1,bf16,{m:.0f},{n:.0f},{k:.0f},{factor * matmul.time_s(m, n, k):.9g}" for m, n, k in sizes]
        notes = told(import_tables(write_gemm(tmp_path, *rows)), "in microseconds")
        assert note in notes[0] if note else not notes


def test_points_with_several_times_are_told(tmp_path):
    imported = import_tables(write_gemm(tmp_path, *matmuls(), *matmuls(), "x1,bf16,64,64,64,52.4288"))
    assert told(imported, "matmul_bf16: 1 of 125 points have several times, up to a factor of 2 apart")


def test_rows_that_repeat_others_are_told(tmp_path):
    rows = matmuls()
    assert told(
        import_tables(write_gemm(tmp_path, *rows, rows[0], rows[1], rows[0])), "matmul_bf16: 3 of 128 rows repeat"
    )
    assert not told(import_tables(write_gemm(tmp_path, *rows)), "rows repeat")


@pytest.mark.parametrize("content", [NCCL_TESTS.encode("utf-16"), gzip.compress(NCCL_TESTS.encode())])
def test_the_output_of_nccl_tests_may_be_packed_or_in_utf_16(tmp_path, content):
    (tmp_path / "all_reduce.txt").write_text(NCCL_TESTS)
    (tmp_path / "all_reduce.out").write_bytes(content)
    packed, plain = (import_tables(str(tmp_path / f"all_reduce.{end}"), "mine") for end in ("out", "txt"))
    assert packed.text.splitlines()[1:] == plain.text.splitlines()[1:]


def test_nccl_tests_with_timestamps_and_groups_are_read_as_without(tmp_path):
    plain, stamped = tmp_path / "all_reduce.txt", tmp_path / "all_reduce_stamped.txt"
    plain.write_text(NCCL_TESTS)
    # Two pairs of GPUs at the same time (NCCL_TESTS_SPLIT), and --report_timestamps.
    ranks = [line for line in NCCL_TESTS.splitlines() if "Rank" in line]
    more = [
        line.replace(f"Rank  {one}", f"Rank  {one + 2}").replace("Group  0", "Group  1")
        for one, line in enumerate(ranks)
    ]
    text = NCCL_TESTS.replace(ranks[1], "\n".join([ranks[1], *more])).replace(
        "      0\n", "      0  2026-01-31 10:11:12\n"
    )
    stamped.write_text(text)
    tables = [import_tables(str(path), "mine") for path in (plain, stamped)]
    assert tables[0].text == tables[1].text
    assert told(tables[0], "all_reduce.txt: of NVIDIA A100-SXM4-80GB")


def test_a_latency_before_a_rate_is_no_bad_point(tmp_path):
    # 10 us, then 1 GB/s: with sizes so far apart, the middle one lies far below the line through the others.
    times = {1024: 11.024, 2**20: 1058.576, 2**30: 1073751.824}
    rows = [f"x1,all_reduce,8,{size},{time}" for size, time in times.items()]
    imported = import_tables(write_nccl(tmp_path, rows))
    assert "all_reduce,1048576,,,8,1059\n" in imported.text
    assert not told(imported, "off by more than 2")
    # Less than the smaller message takes is an error of the measurement.
    rows[1] = rows[1].replace("1058.576", "5")
    assert told(import_tables(write_nccl(tmp_path, rows)), "all_reduce 1048576 x 8: 5 us is off by more than 2")


@pytest.mark.parametrize(
    ("op", "busbw", "num_ranks", "is_refused"),
    [
        # Of n GPUs, busbw is 2 (n - 1) / n of algbw for all_reduce, (n - 1) / n for the others: 200 GB/s over 8 GPUs.
        ("all_reduce", 350.0, 8, False),
        ("all_reduce", 350.0, 2, True),
        ("all_reduce", 350.0, 7, True),
        ("alltoall", 175.0, 8, False),
        ("alltoall", 175.0, 7, True),
        ("all_gather", 175.0, 2, True),
        ("reduce_scatter", 175.0, 8, False),
        ("all_gather", 350.0, 8, True),
    ],
)
def test_nccl_tests_whose_head_lacks_ranks_that_its_rates_tell_of_are_refused(
    tmp_path, op, busbw, num_ranks, is_refused
):
    path = tmp_path / f"{op}.txt"
    names = "\n".join(f"#  Rank  {rank} Pid 7 on node0 device  {rank} [0x07] NVIDIA H100" for rank in range(num_ranks))
    time_us = 2**30 / 200e3
    rows = [f"{size} 1 float sum -1 {size / 2**30 * time_us:.1f} 200.00 {busbw:.2f} 0 9.00 1.00 1.00 0"
            for size in (2**28, 2**29, 2**30)]  # fmt: skip
    path.write_text("\n".join([names, *rows]) + "\n")
    if is_refused:
        with pytest.raises(SpecError, match=rf"{op}.txt, line {num_ranks + 1}: busbw is .* give the whole output"):
            import_tables(str(path), "mine")
    else:
        assert f",,,{num_ranks}," in import_tables(str(path), "mine").text


def test_releases_of_nccl_tests_without_roots_and_reductions_are_read(tmp_path):
    path = tmp_path / "all_gather.txt"
    path.write_text(NCCL_TESTS.replace("     sum      -1", "                ").replace("      0\n", "    N/A\n"))
    assert "all_gather,512,,,2,11\n" in import_tables(str(path), "mine").text


@pytest.mark.parametrize(
    ("cell", "is_taken"),
    [("0", True), ("N/A", True), ("-1", True), ("3e-07", True), ("1.04858e+06", False), ("1e+00", False)],
)
def test_rows_of_nccl_tests_count_unless_results_are_wrong(tmp_path, cell, is_taken):
    # `%5g` of src/common.cu prints 2**20 wrong results as 1.04858e+06, `%7.0le` of older releases an error.
    path = tmp_path / "all_reduce.txt"
    path.write_text(NCCL_TESTS.replace("0.05    0.05      0", f"0.05    0.05  {cell}"))
    imported = import_tables(str(path), "mine")
    assert ("all_reduce,512," in imported.text) == is_taken == (not told(imported, f"since {cell} results are wrong"))


def test_nccl_tests_of_which_all_results_are_wrong_say_so(tmp_path):
    path = tmp_path / "all_reduce.txt"
    path.write_text(NCCL_TESTS.replace("      0     ", "      7     "))
    with pytest.raises(SpecError, match="all of its results are wrong, as nccl-tests says"):
        import_tables(str(path), "mine")


@pytest.mark.parametrize("tag", ["[1,0]<stdout>:", "[prterun-node0-71@1,0]<stdout>: ", " 0: "])
def test_nccl_tests_are_read_with_the_tags_of_ranks_that_launchers_put_before_lines(tmp_path, tag):
    path = tmp_path / "all_reduce.txt"
    path.write_text("".join(tag + line for line in NCCL_TESTS.splitlines(keepends=True)))
    assert "all_reduce,512,,,2,11\n" in import_tables(str(path), "mine").text


def test_rows_of_wrong_results_and_ranks_on_several_nodes_are_told(tmp_path):
    path = tmp_path / "all_reduce.txt"
    text = NCCL_TESTS.replace("0.08    0.08      0", "0.08    0.08      7").replace("0x0b", "0x07")
    path.write_text(text.replace("node0 device  1", "node1 device  0"))
    imported = import_tables(str(path), "mine")
    assert told(imported, "line 13: left out, since 7 results are wrong")
    assert told(imported, "2 nodes take part")
    # Steps that take the table tell its remarks.
    remark = "all_reduce: times across 2 nodes count as those of one domain of NVLink"
    assert remark in parse_tables("mine", imported.text.encode()).remarks
    # The output names the GPU.
    other = "all_reduce: times of NVIDIA A100-SXM4-80GB stand in for those of h100"
    for gpu in ("mine", "a100", "h100"):
        remarks = parse_tables(gpu, import_tables(str(path), gpu).text.encode()).remarks
        assert (other in remarks) == (gpu == "h100")
    assert "all_reduce,1024" not in imported.text


def test_held_out_points_are_every_second_of_each_size():
    # Times of a 4 x 3 grid in proportion to the sizes, but at (2, 10), held out along both: 1.5 times as long.
    rows = [
        f"attention_64,{a},{b},,,{a * b * (1.5 if (a, b) == (2, 10) else 1)}" for a in (1, 2, 4, 8) for b in (5, 10, 20)
    ]
    (error,) = check_tables(parse_tables("x", (HEAD + "\n".join(rows)).encode())).kernels
    assert (error.num_points, error.num_held_out) == (12, 3 + 4)  # heads 2; sequence 10
    assert error.worst_error == pytest.approx(1 - 1 / 1.5)
    # Of heads: 2 x 5, 2 x 20 exact and 2 x 10; of sequences: 1, 4, 8 x 10 exact and 2 x 10.
    assert error.median_error == pytest.approx(0, abs=1e-9)


def test_import_show_and_check_agree(tmp_path, lazsim):
    out = tmp_path / "x1.csv"
    code, printed, notes = lazsim("profile", "import", write_gemm(tmp_path, *matmuls()), "--out", out, "--json")
    imported = json.loads(printed)
    assert (code, imported["gpu"], imported["forward_only"]) == (0, "x1", True)
    # Six files are not there, and such times are no GPU's.
    assert len(imported["notes"]) == 7
    assert "mla_prefill.csv: not in" in notes
    checked = json.loads(lazsim("profile", "check", out, "--json")[1])
    assert checked == {"kernels": imported["kernels"], "median_error": imported["median_error"]}
    shown = json.loads(lazsim("profile", "show", out, "--json")[1])
    assert shown["kernels"][0]["sizes"]["columns"] == [64, 1024]
    assert "forward only" in shown["remarks"][0]
    assert "matmul_bf16" in lazsim("profile", "show", out)[1]
    assert "median of the kernels' medians" in lazsim("profile", "check", out)[1]


def test_a_step_runs_on_tables_of_its_own(tmp_path, lazsim, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_bytes((KERNELS / "h100.csv").read_bytes())
    gpu = read_spec_bytes("gpus", "h100").decode()
    (tmp_path / "gpu.toml").write_text(gpu.replace('kernels = "h100"', 'kernels = "mine.csv"'))
    cluster = read_spec_bytes("clusters", "dgx-h100").decode()
    (tmp_path / "cluster.toml").write_text(cluster.replace('gpu = "h100"', 'gpu = "gpu.toml"'))

    def step(name):
        fields = ("--layout", "expert=8", "--layout", "global_batch=256", "--gpus", 16, "--json")
        return lazsim("step", "--model", "qwen3-30b-a3b", "--cluster", name, *fields)

    code, printed, notes = step("cluster.toml")
    assert code == 0, notes
    assert json.loads(printed)["step_s"] == json.loads(step("dgx-h100")[1])["step_s"]
    assert "kernels of h100 are those of mine.csv" in notes
    # A table of one kernel cannot carry a step: one line says which is missing.
    rows = [f"matmul_bf16,{m},{n},{k},,{m * n * k}" for m, n, k in itertools.product((64, 128), repeat=3)]
    (tmp_path / "gpu.toml").write_text(gpu.replace('kernels = "h100"', 'kernels = "small.csv"'))
    (tmp_path / "small.csv").write_text(HEAD + "\n".join(rows))
    code, _, error = step("cluster.toml")
    assert code == 2
    assert "no times of " in error
    assert "in the tables of small.csv; take a GPU measured with it, or add its times by lazsim profile import" in error


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("matmul,1,1,1,,1", "line 2: unknown kernel 'matmul': did you mean"),
        ("matmul_bf16,1,1,,,1", "line 2: matmul_bf16 has the sizes rows, columns, inner, not 2 of them"),
        ("quantise,1,,,,nan", "line 2: 'nan' is no number from"),
        ("quantise,1,,,,", "line 2: '' is no number"),
        ("quantise,1,,", "line 2: 4 columns; give kernel,size"),
        ("", "no times of any kernel; give rows below the line kernel,size"),
        ("all_reduce,1,,,1,1", "line 2: `num_ranks` 1: give a whole number"),
        ("exchange_hybridep,1,,,2,1\nexchange_hybridep,2,,,4,1", "line 3: exchange_hybridep over 4 GPUs after 2"),
        ("all_reduce,1,,,2,1\nall_reduce,2,,,4,1", "all_reduce: 2 points of its grid are missing"),
        ("quantise,1,,,,1\nquantise,1,,,,2", "line 3: a second time for quantise"),
        ("quantise,1,,,,1", "quantise: one size has a single value"),
        ("attention_64,1,1,,,1\nattention_64,2,2,,,1", "attention_64: 2 points of its grid are missing"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_in_a_line(rows, message):
    with pytest.raises(SpecError) as raised:
        parse_tables("f.csv", (HEAD + rows).encode())
    assert str(raised.value).startswith(f"f.csv{',' if message.startswith('line') else ':'} {message}")


@pytest.mark.parametrize(
    ("name", "text", "arguments", "message"),
    [
        ("gemm.csv", "gpu,dtype,m,n,k\nx1,bf16,1,1,1\n", (), "has no column time_us; it needs gpu, dtype, m, n, k"),
        ("gemm.csv", GEMM + "x1,bf16,64,64,64,fast\n", (), "gemm.csv, line 2: 'fast' is no number"),
        ("gemm.csv", GEMM + "x1,bf16,64,64,64,1\n", ("--gpu", "x2"), "unknown GPU 'x2'"),
        ("gemm.csv", GEMM + ",bf16,64,64,64,1\n", ("--gpu", "x1"), "gemm.csv, line 2: names no GPU"),
        (
            "gemm.csv",
            GEMM + "x1,bf16,1,1,1,1\nx2,bf16,1,1,1,1\n",
            (),
            "--gpu: give the name of one, of x1",
        ),
        ("gemm.csv", GEMM + "x1,bf16,64,64,64,1\n", (), "one of its sizes has a single value"),
        ("gemm.csv", GEMM + "x1,bf16,64,64,64,1,234\n", (), "line 2: 7 cells; give one for each of the 6 columns"),
        ("gemm.csv", "time_us," + GEMM + "1,x1,bf16,64,64,64,2\n", (), "has two columns time_us; keep one of them"),
        ("matmul.csv", "gpu\n", (), "unknown file of kernel times 'matmul.csv'"),
        ("gemm.csv", "gpu\n", ("--stand-in", "gemm=x1"), "--stand-in gemm: give FILE=GPU"),
        ("gemm.csv", "gpu\n", ("--stand-in", "gemm.csv=x1", "--stand-in", "gemm.csv=x2"), "gemm.csv is given twice"),
        ("some.txt", "no table", (), "neither a folder, a .csv file nor the text output of nccl-tests"),
        ("some.txt", NCCL_TESTS, ("--gpu", "x1"), "does not tell the collective"),
        ("all_reduce.txt", NCCL_TESTS.replace("Rank", "rank"), ("--gpu", "x1"), "has 0 lines '# Rank ...'"),
        ("all_reduce.txt", NCCL_TESTS[: NCCL_TESTS.index("0.08")], ("--gpu", "x1"), "line 13: is cut short"),
        ("all_reduce.txt", NCCL_TESTS + "     104857", ("--gpu", "x1"), "is cut short"),
        ("gemm.csv", "", (), "is empty; it needs gpu, dtype"),
        ("all_reduce.txt", NCCL_TESTS.replace("root     time", "root  cputime"), (), "has times of the CPU"),
        ("all_reduce.txt", NCCL_TESTS + NCCL_TESTS.replace("#  Rank  1", "#"), (), "over different numbers of GPUs"),
        (
            "all_reduce.txt",
            NCCL_TESTS.replace("Group  0 Pid   1234", "Group  1 Pid", 1),
            (),
            "has 1 lines '# Rank ...'",
        ),
        ("log", "broadcast_perf\n" + NCCL_TESTS, ("--gpu", "x1"), "is of broadcast; give the output of one of"),
        ("log", "all_gather_perf\nalltoall_perf\n" + NCCL_TESTS, ("--gpu", "x1"), "is of all_gather, alltoall"),
    ],
)
def test_files_that_cannot_be_imported_are_refused_in_a_line(tmp_path, refused, name, text, arguments, message):
    (tmp_path / name).write_text(text)
    out = tmp_path / "out.csv"
    assert message in refused("profile", "import", tmp_path / name, *arguments, "--out", out)
    assert not out.exists()


def test_a_table_of_bad_points_is_refused(tmp_path):
    rows = [f"x1,all_reduce,8,{1024 * size},{1 + 99 * (size % 2)}" for size in range(1, 400)]
    with pytest.raises(SpecError, match="all_reduce: 100 points are off by more than 2 from their neighbours"):
        import_tables(write_nccl(tmp_path, rows))


def test_tables_are_read_as_spreadsheets_and_editors_save_them():
    """With a byte order mark, lines of Windows, blank lines and blanks at the end of lines."""
    rows = HEAD + "quantise,16,,,,1\nquantise,32,,,,2\n"
    for text in ("\ufeff# a remark\n" + rows, rows.replace("\n", " \r\n"), "\n" + rows):
        content = text.encode()
        assert holds_tables(content)
        assert parse_tables("x", content).time_s("quantise", 32) == pytest.approx(2e-6)


def test_points_that_fill_too_little_of_their_grid_are_refused(tmp_path):
    rows = [f"x1,bf16,{i},{i},{i},1" for i in range(1, 2000)]
    with pytest.raises(SpecError, match="matmul_bf16: 1999 points fill too little"):
        import_tables(write_gemm(tmp_path, *rows))


def test_tables_with_a_huge_sparse_grid_take_no_memory():
    rows = "\n".join(f"matmul_bf16,{i},{i},{i},,1" for i in range(1, 20_000))
    with pytest.raises(SpecError, match="points of its grid are missing"):
        parse_tables("f.csv", (HEAD + rows).encode())


def test_matmuls_without_long_ones_are_taken_at_their_rate():
    rows = [f"matmul_bf16,{m},{n},{k},,{m * n * k}" for m, n, k in itertools.product((64, 128), repeat=3)]
    assert parse_tables("x", (HEAD + "\n".join(rows)).encode()).sustained_rate("matmul_bf16") == 1.0


def test_shipped_tables_are_what_the_command_makes_of_the_reference(shared):
    folder = shared / "measured" / "kernels"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    imported = import_tables(str(folder), "a100")
    assert imported.text == (KERNELS / "a100.csv").read_text()
    assert imported.median_error < 0.05


@pytest.mark.parametrize("gpu", ["a100", "h100", "h200", "b200", "gb200"])
def test_shipped_tables_predict_held_out_points_within_five_per_cent(gpu):
    assert check_tables(load_tables(gpu)).median_error < 0.05
