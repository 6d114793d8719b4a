"""Profiles as the simulator reads them: files, interpolation, what is beyond the measured sizes."""

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.costmodel.compute import AnalyticCompute
from lazsim.costmodel.measured import (
    MeasuredCommunication,
    MeasuredCompute,
    TimeTable,
    communication_tables,
    compute_tables,
    table_of,
)
from lazsim.costmodel.network import AnalyticCommunication
from lazsim.costmodel.profile import (
    Profile,
    ProfilePoint,
    find_profile,
    profile_names,
    read_profile,
    save_profile,
)
from lazsim.errors import CostRangeError, SpecError
from lazsim.output.plots.profile import profile_figure
from lazsim.profiling.check import held_out_errors, modelled_errors, reached_shares
from lazsim.specs import ClusterSpec, GpuSpec, JobSpec, ModelSpec, StepConstants, load_spec
from tests.conftest import ROOT
from tests.models import HEADER

GPT_S = load_spec(ModelSpec, "gpt-s")
CLUSTER = load_spec(ClusterSpec, "rtx3090x10")
PARTS = CLUSTER, load_spec(JobSpec, "testbed-a"), load_spec(StepConstants, "training")
ANALYTIC = AnalyticCompute(GPT_S, load_spec(GpuSpec, "rtx3090"), *PARTS)
LINKS = AnalyticCommunication(CLUSTER.network, CLUSTER.host)


def measured_compute(*tables) -> MeasuredCompute:
    return MeasuredCompute(GPT_S, load_spec(GpuSpec, "rtx3090"), *PARTS, *tables)


UNITS = {"optimizer": "params", "reorder": "assignments", "all_to_all": "bytes", "all_reduce": "bytes"}


def points(kernel: str, times_s: dict[float, float], num_ranks: int = 1) -> list[ProfilePoint]:
    unit = UNITS.get(kernel, "tokens")
    return [
        ProfilePoint(kernel=kernel, size=size, size_unit=unit, num_ranks=num_ranks, time_s=time_s)
        for size, time_s in times_s.items()
    ]


def profile_of(*parts: list[ProfilePoint]) -> Profile:
    return Profile("p.csv", "", HEADER, tuple(point for part in parts for point in part))


LARGE = points("optimizer", {2**28: 0.123456789})
EXPERT = points("expert", {1: 1e-4, 64: 2e-4, 4096: 8e-3})


def test_a_profile_survives_being_written(tmp_path):
    save_profile(tmp_path / "p.csv", HEADER, [*EXPERT, *LARGE])
    found = read_profile(tmp_path / "p.csv")
    # Sizes are whole, times keep seven digits.
    assert found.points == (*EXPERT, msgspec.structs.replace(LARGE[0], time_s=0.1234568))
    assert found.header == msgspec.structs.replace(HEADER, kernels=["expert", "optimizer"])


def edit_header(**fields):
    def edit(folder):
        path = folder / "p.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return edit


def edit_csv(old: str, new: str):
    def edit(folder):
        path = folder / "p.csv"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (edit_header(format_version=2), r"p.json: format_version is 2, expected 1; measure again"),
        (edit_header(kernels=["expert", "gate"]), r"p.csv: no rows of gate, which p.json lists"),
        (edit_header(device=3), r"p.json: device: expected text, got a whole number"),
        (edit_header(matmul_flop_per_s=0.0), r"p.json: .*matmul_flop_per_s: expected a number >= 1.0"),
        (edit_header(copy_bytes_per_s=-1.0), r"p.json: .*copy_bytes_per_s: expected a number >= 1.0"),
        (edit_csv("0.0002", "nan"), r"p.csv, line 3: time_s: expected a duration of 1 ns to 100 years"),
        (edit_csv("0.0002", "-1"), r"p.csv, line 3: time_s: expected a duration of 1 ns to 100 years"),
        (edit_csv("0.0002", "fast"), r"p.csv, line 3: time_s: expected a number, got text"),
        (edit_csv("expert,64", "expert,1"), r"p.csv, line 3: a second time for expert of size 1"),
        (edit_csv("expert,64", "exprt,64"), r"p.csv, line 3: unknown kernel 'exprt': did you mean 'expert'"),
        (edit_csv("64,tokens", "64,bytes"), r"p.csv, line 3: the size of expert counts tokens, not bytes"),
        (edit_csv("num_ranks", "ranks"), r"p.csv: has no column num_ranks; it needs kernel"),
        (lambda folder: (folder / "p.json").unlink(), r"p.json: cannot be read"),
        (lambda folder: (folder / "p.csv").write_bytes(b"\xff"), r"p.csv: is no table of comma-separated UTF-8 text"),
        (lambda folder: (folder / "p.csv").write_text("kernel,size,time_s\n"), r"p.csv: has no rows"),
    ],
)
def test_a_profile_that_cannot_be_used_says_where_and_why(tmp_path, edit, said):
    save_profile(tmp_path / "p.csv", HEADER, EXPERT)
    edit(tmp_path)
    with pytest.raises(SpecError if "cannot" not in said else Exception, match=said):
        read_profile(tmp_path / "p.csv")


def test_a_point_that_moves_nothing_is_not_drawn_under_the_roofline(tmp_path):
    still = [msgspec.structs.replace(point, flop=1.0) for point in EXPERT]
    moving = [msgspec.structs.replace(point, flop=1.0, moved_bytes=8.0) for point in points("gate", {1: 1e-4, 2: 2e-4})]
    assert profile_figure(profile_of(still, moving)).keys() == {"png", "pdf"}


def test_a_bare_table_needs_no_header(tmp_path):
    (tmp_path / "bare.csv").write_text("kernel,size,time_s,remark\ndense,4096,10,mine\n")
    found = read_profile(tmp_path / "bare.csv")
    assert (found.header, [point.time_s for point in found.points]) == (None, [10.0])
    (tmp_path / "bare.csv").write_text("kernel,size,time_s\nall_to_all,4096,10\n")
    with pytest.raises(SpecError, match="line 2: a table without a header has dense, expert, reorder, optimizer"):
        read_profile(tmp_path / "bare.csv")


@given(
    st.dictionaries(st.integers(1, 10**6), st.floats(1e-6, 10), min_size=2, max_size=8),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_interpolated_times_never_fall_with_size_and_stay_between_neighbours(times_s, first, second):
    table = table_of(points("expert", times_s))
    low, high = sorted(table.sizes[0] * (table.sizes[-1] / table.sizes[0]) ** share for share in (first, second))
    low, high = (float(np.clip(size, table.sizes[0], table.sizes[-1])) for size in (low, high))
    times = table.time_s(np.array([low, high]))
    assert times[0] <= times[1] * (1 + 1e-12)
    right = min(int(np.searchsorted(table.sizes, low)), len(table.sizes) - 1)
    assert table.times_s[max(right - 1, 0)] * (1 - 1e-9) <= times[0] <= table.times_s[right] * (1 + 1e-9)


def test_a_power_law_is_met_exactly_between_points():
    table = table_of(points("expert", {1: 1e-4, 100: 1e-4 * 100**0.7}))
    assert float(table.time_s(np.array(10.0))) == pytest.approx(1e-4 * 10**0.7)


def test_nothing_takes_no_time_and_a_part_of_a_token_counts_as_one():
    assert table_of(EXPERT).time_s(np.array([0.0, 0.25, 1.0])).tolist() == pytest.approx([0, 1e-4, 1e-4])


@pytest.mark.parametrize("size", [5000.0, 1.0])
def test_beyond_the_measured_sizes_is_refused(size):
    table = table_of(EXPERT[1:])
    with pytest.raises(CostRangeError, match=r"has expert from 64 to 4,096, but .* is needed; .*`extrapolate`"):
        table.time_s(np.array([size]))


def test_extrapolated_times_follow_the_analytic_ones_from_the_nearest_point():
    measured = measured_compute(compute_tables(profile_of(EXPERT), GPT_S, 1), "analytic")
    sizes = np.array([4096.0, 8192.0, 40960.0])
    expected = 8e-3 * ANALYTIC.expert_s(sizes) / ANALYTIC.expert_s(np.array([4096.0]))
    assert measured.expert_s(sizes) == pytest.approx(expected)
    # The part that was measured: what is beyond counts nothing.
    part = measured_compute(measured.tables, "nothing")
    assert part.expert_s(sizes).tolist() == pytest.approx([8e-3, 0, 0])
    assert part.optimizer_s(sizes) == pytest.approx(ANALYTIC.optimizer_s(sizes))


def test_dense_work_is_put_together_from_its_parts():
    attention, head = points("attention", {1024: 1.0, 4096: 4.0}), points("head", {1024: 0.5, 2048: 1.0, 4096: 2.0})
    tables = compute_tables(profile_of(attention, head), GPT_S, gpus_per_node=1)
    # Twelve layers and one head; 2048 lies between two points of the attention, on a line.
    assert measured_compute(tables).dense_s(2048) == pytest.approx(12 * 2.0 + 1.0)
    assert "dense" not in compute_tables(profile_of(attention, head), GPT_S, gpus_per_node=8)
    assert "dense" not in compute_tables(profile_of(attention), GPT_S, gpus_per_node=1)


def test_a_profile_of_another_model_is_refused():
    with pytest.raises(SpecError, match="measured for gpt-s with d_model = 768, but gpt-l has 1024"):
        compute_tables(profile_of(EXPERT), load_spec(ModelSpec, "gpt-l"), 1)


def test_measured_links_replace_those_inside_a_server_only():
    # Over 4 ranks, 3/4 of a buffer leaves a rank in an all-to-all; an all-reduce is 6 hops of a quarter each.
    exchange = points("all_to_all", {1024: 1e-3, 4096: 4e-3}, num_ranks=4)
    reduce = points("all_reduce", {1024: 6e-3, 4096: 24e-3}, num_ranks=4)
    measured = MeasuredCommunication(CLUSTER.network, CLUSTER.host, communication_tables(profile_of(exchange, reduce)))
    nothing, some = np.array(0.0), np.array(1536.0)
    assert float(measured.all_to_all_s(nothing, some)) == pytest.approx(2e-3)
    assert float(measured.all_to_all_s(some, nothing)) == float(LINKS.all_to_all_s(some, nothing))
    # Below the smallest message there is only latency.
    assert float(measured.all_to_all_s(nothing, np.array(1.0))) == pytest.approx(1e-3)
    # A ring over 2 nodes: 2 hops of 512 bytes, each of which took 2 ms.
    assert float(measured.all_reduce_s(nothing, np.array(1024.0), nothing, np.array(2.0))) == pytest.approx(2 * 2e-3)
    across = (np.array(1e6), nothing, np.array(8.0), np.array(10.0))
    assert float(measured.all_reduce_s(*across)) == float(LINKS.all_reduce_s(*across))
    assert float(measured.transfer_s(nothing, some)) == float(LINKS.transfer_s(nothing, some))
    assert measured.save_s(1e9, 1e8) == LINKS.save_s(1e9, 1e8)
    with pytest.raises(CostRangeError, match="all_to_all from 768 to 3,072, but 4,000 is needed"):
        measured.all_to_all_s(nothing, np.array(4000.0))


def test_the_error_at_held_out_points_is_that_of_the_line_between_the_others():
    # At 10, the line from (1, 1) to (100, 100) gives 10: 10/8 - 1 = 25 % too much. The ends and (100, 100) are kept.
    kernel = points("expert", {1: 1.0, 10: 8.0, 100: 100.0, 1000: 1000.0, 10000: 10000.0})
    (found, *_), together = held_out_errors(profile_of(kernel))
    assert (found.num_held_out, found.worst_size) == (2, 10)
    assert found.worst_error == pytest.approx(0.25)
    assert found.median_error == pytest.approx(0.125)
    assert together == pytest.approx([0.25, 0])


def test_grouped_experts_are_held_against_one_and_moved_tokens_against_a_copy():
    def point(kernel, size, time_s, flop, **more):
        return ProfilePoint(kernel=kernel, size=size, time_s=time_s, flop=flop, **more)

    # One expert: 2, 2.5 and 4 operations a second. Four grouped ones: 4, 1.5 and 3.6, of which the first are too small.
    single = [point("expert", size, size / rate, size) for size, rate in ((1024, 2.0), (4096, 2.5), (8192, 4.0))]
    several = [point("grouped", size, size / rate, size) for size, rate in ((1024, 4.0), (4096, 1.5), (8192, 3.6))]
    moved = [point("permute", size, 1.0, 0.0, copy_peak_share=share) for size, share in ((64, 0.9), (4096, 0.7))]
    found = [(one.kernel, one.size, one.share) for one in reached_shares(profile_of(single, several, moved))]
    assert found == [("grouped", 4096, pytest.approx(1.5 / 2.5)), ("permute", 4096, 0.7)]
    # An eighth of the second is the schedule, so that the moves alone reach 8/7 of 0.7.
    found = reached_shares(profile_of(moved, [point("schedule", 4096, 0.125, 0.0)]))
    assert [one.share for one in found] == [pytest.approx(0.8)]
    # A busy machine may measure a schedule that takes longer than the whole. Then nothing is said of the moves.
    for schedule_s in (1.0, 1.5):
        assert reached_shares(profile_of(moved, [point("schedule", 4096, schedule_s, 0.0)])) == []
    # Where no more than 1,024 tokens for each were measured, those have to do.
    found = reached_shares(profile_of(single, several[:1]))
    assert [(one.kernel, one.size, one.share) for one in found] == [("grouped", 1024, pytest.approx(2.0))]
    assert reached_shares(profile_of(EXPERT)) == []


def test_the_analytic_model_is_held_against_a_profile_for_few_and_many_tokens():
    analytic = AnalyticCompute(GPT_S, load_spec(GpuSpec, "h200"), *PARTS)
    # Measured as modelled for few tokens, and twice as long for many.
    times_s = {size: float(analytic.expert_s(np.array(float(size)))) * (2 if size >= 512 else 1) for size in (16, 4096)}
    found = modelled_errors(profile_of(points("expert", times_s)), analytic.gpu)
    assert [(one.kernel, one.largest, pytest.approx(one.median)) for one in found] == [
        ("expert", 16, 0.0),
        ("expert", 4096, -0.5),
    ]


def test_one_row_takes_no_longer_than_the_rows_to_which_it_can_be_padded():
    # A library's kernel for a single row may be slower than that for two.
    table = table_of(points("expert", {1: 3.0, 2: 1.0, 4: 2.0}))
    assert table.times_s.tolist() == [1.0, 1.0, 2.0]


def test_a_profile_too_small_to_hold_anything_out_says_so():
    with pytest.raises(SpecError, match="no kernel has three points"):
        held_out_errors(profile_of(EXPERT[:2]))


def test_every_shipped_profile_covers_a_default_run():
    assert profile_names()
    for path in sorted((ROOT / "lazsim" / "catalog" / "profiles").glob("*/*.csv")):
        profile = read_profile(find_profile(path.parent.name, path.stem))
        assert profile.header is not None
        assert profile.header.conditions["note"]
        tables = compute_tables(profile, load_spec(ModelSpec, path.stem), gpus_per_node=1)
        assert {"expert", "reorder", "optimizer"} <= set(tables)
        # A GPU's micro-batch in the catalogue's jobs: four sequences of 1024. What is missing, --extrapolate fills in.
        for kernel, fewest in (("expert", 1), ("reorder", profile.header.model.top_k)):
            assert tables[kernel].sizes[0] <= fewest
            assert tables[kernel].sizes[-1] >= 4096


def test_an_unknown_profile_names_those_that_there_are():
    with pytest.raises(SpecError, match=r"unknown profile 'nowhere': .*known: .*or a path to a .csv file"):
        find_profile("nowhere", "gpt-s")
    with pytest.raises(SpecError, match=r"but not deepseek-v3; measure it"):
        find_profile(profile_names()[0], "deepseek-v3")


def test_a_table_remembers_its_kernel():
    assert TimeTable("gate", np.array([1.0]), np.array([2.0])).time_s(np.array(1.0)) == 2.0
