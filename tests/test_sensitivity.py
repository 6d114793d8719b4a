import math

import numpy as np
import pytest

from lazsim.costmodel.recovery_times import checkpoint_save_s
from lazsim.errors import SpecError
from lazsim.scenario import resolve
from lazsim.specs import ClusterSpec, load_spec, read_spec_bytes
from lazsim.specs.effects import why_without_effect
from lazsim.specs.overrides import scale
from lazsim.study.sensitivity import constant_paths, sensitivity
from lazsim.study.simulation import simulate
from lazsim.trace.table import Event, build_trace


def make_trace(num_nodes=4, failures_s=(), duration_s=1800):
    """So many nodes from the start, of which one fails at each of some times."""
    events = [Event(0, "add", f"node{i}") for i in range(num_nodes)]
    events += [Event(at_s, "remove", f"node{i}") for i, at_s in enumerate(failures_s)]
    return build_trace(events, duration_s=duration_s)


def vary(trace, *constants, systems=("lazarus", "ds"), **setup):
    """Vary these constants of a run under even loads; returns the changes by constant and factor."""
    settings = {"trace": trace, "routing": "uniform", **setup}
    result = sensitivity(settings, systems=systems, constants=constants)
    return {(change.constant, change.factor): change for change in result.changes}


def write_cluster_of_two(path):
    """Two nodes of 6 slots, which hold 8 experts; of 3 slots they do not."""
    path.write_text(read_spec_bytes("clusters", "rtx3090x10").decode().replace("num_nodes = 10", "num_nodes = 2"))
    return path


def test_halving_the_storage_rate_doubles_the_seconds_that_the_bytes_of_a_checkpoint_take():
    scenario = resolve({})
    varied = scenario.replace(constant_paths([])["storage_bytes_per_s"], "x0.5")
    more_s = checkpoint_save_s(varied.costs(), 10) - checkpoint_save_s(scenario.costs(), 10)
    # 521 M parameters of 14 bytes at 0.9 GB/s.
    assert more_s == pytest.approx(14 * scenario.model.total_params / 0.9e9)
    assert scenario.cluster == load_spec(ClusterSpec, "rtx3090x10")


@pytest.mark.parametrize(
    ("constant", "factor", "kind", "name", "line", "changed"),
    [
        ("storage_bytes_per_s", 0.5, "cluster", "rtx3090x10", "storage_bytes_per_s = 0.9e9", "4.5e8"),
        ("detect_s", 1.5, "cluster", "rtx3090x10", "detect_s = 15.0", "22.5"),
        ("checkpoint_interval_steps.ds", 1.5, "job", "testbed-a", "ds = 50", "75"),
        ("reorder_kernels", 0.5, "job", "testbed-a", "reorder_kernels = 24.0", "12.0"),
    ],
)
def test_a_change_does_what_the_same_change_in_a_file_does(tmp_path, constant, factor, kind, name, line, changed):
    text = read_spec_bytes(kind + "s", name).decode()
    assert text.count(line) == 1
    own = tmp_path / "own.toml"
    own.write_text(text.replace(line, f"{line.split('=')[0]}= {changed}"))
    trace = make_trace(failures_s=[700, 1100])
    expected = simulate(trace, systems=["lazarus", "ds"], routing="uniform", **{kind: str(own)})
    change = vary(trace, constant)[constant, factor]
    assert change.samples == {run.system: run.samples for run in expected.runs}
    assert change.value == pytest.approx(float(changed))


@pytest.mark.parametrize("constant", ["detect_s", "rebuild_s", "restart_base_s", "restart_per_node_s", "join_wait_s"])
def test_times_around_failures_do_not_matter_without_failures(constant):
    changes = vary(make_trace(), constant)
    assert [change.effect for change in changes.values()] == [0, 0]


@pytest.mark.parametrize("constant", ["local_bytes_per_s", "local_latency_s", "local_all_reduce_bytes_per_s"])
def test_links_inside_a_server_do_not_matter_where_a_server_is_one_gpu(constant):
    changes = vary(make_trace(16, [600]), constant, cluster="a10gx16", job="testbed-b", model="gpt-l")
    assert [change.effect for change in changes.values()] == [0, 0]


def test_the_checkpoint_interval_of_a_system_leaves_the_others_alone():
    change = vary(make_trace(), "checkpoint_interval_steps.ds")["checkpoint_interval_steps.ds", 0.5]
    assert change.samples_change["lazarus"] == 0
    assert change.samples_change["ds"] < 0
    # lazarus stays, ds becomes 1 + x: the ratio becomes 1 / (1 + x)
    assert change.ratio_change == {"ds": pytest.approx(1 / (1 + change.samples_change["ds"]) - 1)}


def test_a_system_that_cannot_run_is_told_apart_and_comes_first(tmp_path):
    result = sensitivity(
        {
            "trace": make_trace(2),
            "cluster": str(write_cluster_of_two(tmp_path / "two.toml")),
            "routing": "uniform",
        },
        systems=["lazarus"],
        constants=["storage_bytes_per_s", "detect_s", "slots_per_gpu"],
    )
    assert [(change.constant, change.factor) for change in result.changes] == [
        ("slots_per_gpu", 0.5),
        ("slots_per_gpu", 1.5),
        ("storage_bytes_per_s", 0.5),
        ("storage_bytes_per_s", 1.5),
        ("detect_s", 0.5),
        ("detect_s", 1.5),
    ]
    assert result.changes[0].samples == {"lazarus": None}
    assert result.changes[0].effect == math.inf
    assert math.isnan(result.changes[0].samples_change["lazarus"])


@pytest.mark.parametrize("system", ["ds", "lazarus"])
def test_every_number_of_a_cluster_and_its_gpu_and_job_is_varied_once(system):
    scenario = resolve({"system": system})
    names = constant_paths([system])
    network, recovery = scenario.cluster.network, scenario.cluster.recovery
    # The GPU: 16 fields less 3 texts, 5 of the datasheet, the rate of borrowed kernels and its fused ones. The job: 13
    # less name, batch (2), fewest nodes, kind of kernels, layout and intervals, plus 1. The network: all but its pods
    # and their share. The host: its clock, and the rate at which it serialises. The step: all but its name, those that
    # are assumed, what scans were measured on, two curves, a range and the clock that its launches are of.
    of_cluster = 1 + len(network.__struct_fields__) - 2 + len(recovery.__struct_fields__) + 2
    of_step = len(scenario.step.__struct_fields__) - 7
    assert len(names) == of_cluster + (16 - 10) + (13 - 7 + 1) + of_step
    for name, path in names.items():
        assert path.endswith(f".{name}")
        if why_without_effect(path, scenario.without_effect):
            continue
        before, after = scenario.field(path), scenario.replace(path, "x1.5").field(path)
        # A whole number is rounded and stays at least 1; of several, each is multiplied; a share is no more than 1.
        expected = 1.5 * np.asarray(before)
        if name.endswith(("_efficiency", "_share")):
            expected = min(expected, 1)
        assert after == pytest.approx(expected, abs=0.5 if isinstance(before, int) else 0), name


def test_a_share_is_raised_to_1_at_most_and_the_study_says_so():
    """Matmuls of the RTX 3090 reach 0.836 of its peak: 1.1 times that is 0.92, and 1.5 times 1.25."""
    settings = {"trace": make_trace(), "routing": "uniform"}
    result = sensitivity(settings, systems=["ds"], constants=["matmul_efficiency"], factors=[1.1, 1.5])
    within, beyond = result.changes
    assert (within.value, beyond.value) == (pytest.approx(1.1 * 0.836), 1)
    told = "taken as 1, as no factor takes a share beyond that"
    assert (within.notes, beyond.notes) == ((), (told,))
    assert f"matmul_efficiency x1.5: {told}" in result.notes
    [cut] = simulate(systems=["ds"], **settings, **{"gpu.matmul_efficiency": "x1.5"}).runs
    [full] = simulate(systems=["ds"], **settings, **{"gpu.matmul_efficiency": 1.0}).runs
    assert beyond.samples == {"ds": cut.samples} == {"ds": full.samples}


@pytest.mark.parametrize(("value", "is_told"), [("x1.1", False), ("x0.5", False), ("x1.5", True), (1.0, False)])
def test_a_run_says_that_a_factor_takes_no_share_beyond_1(value, is_told):
    result = simulate(make_trace(), systems=["ds"], routing="uniform", **{"gpu.matmul_efficiency": value})
    told = "`gpu.matmul_efficiency` x1.5: taken as 1, as no factor takes a share beyond that"
    assert (told in result.notes) == is_told


def test_a_share_that_is_above_1_stays_what_it_is():
    """A network that adds up itself may exceed its line rate in an all-reduce."""
    scenario = resolve({"cluster.network.all_reduce_efficiency": 1.2})
    raised = scenario.replace("cluster.network.all_reduce_efficiency", "x1.5")
    assert raised.cluster.network.all_reduce_efficiency == 1.2


def test_constants_of_a_layout_are_varied_only_where_there_is_one():
    trace = make_trace(failures_s=[700])
    plain = {"trace": trace, "model": "gpt-s", "cluster": "rtx3090x10", "routing": "uniform"}
    varied = {change.constant for change in sensitivity(plain, systems=["ds"], factors=[2.0]).changes}
    assert {"host_launch_s", "host_wait_s"} <= varied
    assert "deduplicated_nic_share" not in varied


def test_a_step_of_a_layout_depends_on_its_constants():
    """Twice the fixed part of 50 ms makes every step 50 ms longer."""
    scenario = resolve({"model": "deepseek-v3", "cluster": "h100x64"})
    costs = scenario.costs(), scenario.replace("step.fixed_s", "x2").costs()
    before, after = (one.step_s(64, np.ones(1)).item() for one in costs)
    assert after - before == pytest.approx(scenario.step.fixed_s)


def test_whole_numbers_stay_whole_and_above_0():
    assert (scale(1, 0.5), scale(250, 1.5), scale(2.0, 1.5)) == (1, 375, 3.0)


def test_a_factor_of_1_changes_nothing():
    settings = {"trace": make_trace(failures_s=[700]), "routing": "uniform"}
    result = sensitivity(settings, systems=["lazarus", "ds"], factors=[1.0])
    paths = constant_paths(["lazarus", "ds"]).values()
    num_others = sum(not path.startswith("step.") for path in paths)
    assert [change.effect for change in result.changes] == [0] * (num_others + 2)


def test_a_remark_that_holds_of_all_runs_is_not_told_of_changed_ones():
    """The job names the interval of neither system: one remark tells both."""
    settings = {"trace": make_trace(failures_s=[700]), "routing": "uniform"}
    result = sensitivity(settings, systems=["checkpoint", "async-checkpoint"], constants=["detect_s"])
    assert any("not given by the job: checkpoint" in note and ", async-" in note for note in result.base.notes)
    assert [note for change in result.changes for note in change.notes] == []


def test_a_remark_of_a_search_that_holds_of_all_runs_is_not_told_of_changed_ones():
    """No run loses a node: nothing tests an interval that is looked for, whatever the constant."""
    settings = {"trace": make_trace(duration_s=600), "routing": "uniform", "interval": "auto"}
    result = sensitivity(settings, systems=["checkpoint", "ds"], constants=["detect_s"])
    assert any(note.startswith("checkpoint, ds: no failure lost steps") for note in result.base.notes)
    assert [note for change in result.changes for note in change.notes] == []


def test_placements_and_profiles_are_varied_like_any_other_run():
    settings = {
        "trace": make_trace(failures_s=[700]),
        "routing": "uniform",
        "profile": "epyc-2cores",
        "extrapolate": True,
    }
    result = sensitivity(
        settings, systems=["lazarus", "ds"], placements=["mro", "compact"], constants=["detect_s"], factors=[4.0]
    )
    (change,) = result.changes
    assert list(change.samples) == ["lazarus:mro", "lazarus:compact", "ds"]
    # Detection takes 45 s more after the one failure, and every run loses those of its 1800 s.
    assert all(-0.2 < share < 0 for share in change.samples_change.values())


OWN_SYSTEM = """
from dataclasses import replace
from lazsim.engine.systems import find_system
own = replace(find_system("ds"), name="own")
"""


def test_the_interval_of_a_users_own_system_is_varied_by_its_name(tmp_path):
    path, job = tmp_path / "mine.py", read_spec_bytes("jobs", "testbed-a").decode()
    path.write_text(OWN_SYSTEM)
    for steps in (40, 60):
        (tmp_path / f"{steps}.toml").write_text(job.replace("ds = 50", f"own = {steps}\nds = 50"))
    trace, systems = make_trace(failures_s=[700]), [f"{path}:own"]
    changes = vary(trace, "checkpoint_interval_steps.own", systems=systems, job=tmp_path / "40.toml")
    # 60 is half as much again as 40.
    (run,) = simulate(trace, systems=systems, routing="uniform", job=tmp_path / "60.toml").runs
    assert run.interval_steps == 60
    assert changes["checkpoint_interval_steps.own", 1.5].samples == {"own": run.samples}


def test_the_intervals_of_all_systems_are_varied():
    trace = make_trace(failures_s=[700])
    (one, other) = (
        vary(trace, "checkpoint_interval_steps.ds", systems=systems)["checkpoint_interval_steps.ds", 0.5].samples
        for systems in (["ds"], ["all"])
    )
    assert len(other) > 1
    assert one == {"ds": other["ds"]}


def test_an_unknown_constant_is_refused_and_the_nearest_offered():
    with pytest.raises(SpecError, match="`constant`: unknown constant 'detect': did you mean 'detect_s'"):
        vary(make_trace(), "detect")


def test_the_same_inputs_give_the_same_answer():
    settings = {"trace": make_trace(failures_s=[700]), "routing": "uniform"}
    first, second = (sensitivity(settings, systems=["ds"], constants=["rebuild_s", "logit_passes"]) for _ in range(2))
    assert first.to_json() == second.to_json()


def test_constants_that_a_job_does_not_give_are_not_varied():
    # The job has no interval between checkpoints, so that systems take Young's.
    settings = {"trace": "meta-rsc-1", "max_nodes": 64, "duration": 3600.0, "model": "deepseek-v3"}
    settings |= {"cluster": "dgx-h100", "job": "deepseek-v3"}
    told = sensitivity(settings, systems=["ds-ft"], factors=[2.0])
    assert "checkpoint_interval_steps.ds-ft" not in {change.constant for change in told.changes}
    with pytest.raises(SpecError, match=r"`constant`: .*\.ds-ft: the runs have no such constant"):
        sensitivity(settings, systems=["ds-ft"], constants=["checkpoint_interval_steps.ds-ft"])
