import math

import pytest

from lazsim.costmodel.recovery_times import checkpoint_save_s
from lazsim.errors import SpecError
from lazsim.specs import ClusterSpec, GpuSpec, JobSpec, ModelSpec, load_spec, read_spec_bytes
from lazsim.study.sensitivity import Setup, constant_paths, scale, sensitivity
from lazsim.study.simulation import build_costs, simulate
from lazsim.trace.table import Event, build_trace


def make_trace(num_nodes=4, failures_s=(), duration_s=1800):
    """So many nodes from the start, of which one fails at each of some times."""
    events = [Event(0, "add", f"node{i}") for i in range(num_nodes)]
    events += [Event(at_s, "remove", f"node{i}") for i, at_s in enumerate(failures_s)]
    return build_trace(events, duration_s=duration_s)


def vary(trace, *constants, systems=("lazarus", "ds"), **setup):
    """Vary these constants of a run under even loads; returns the changes by constant and factor."""
    result = sensitivity(trace, systems=systems, routing="uniform", constants=constants, **setup)
    return {(change.constant, change.factor): change for change in result.changes}


def write_cluster_of_two(path):
    """Two nodes of 6 slots, which hold 8 experts; of 3 slots they do not."""
    path.write_text(read_spec_bytes("clusters", "rtx3090x10").decode().replace("num_nodes = 10", "num_nodes = 2"))
    return path


@pytest.fixture
def setup():
    cluster = load_spec(ClusterSpec, "rtx3090x10")
    return Setup(
        model=load_spec(ModelSpec, "gpt-s"),
        gpu=load_spec(GpuSpec, cluster.gpu),
        cluster=cluster,
        job=load_spec(JobSpec, "testbed-a"),
    )


def test_halving_the_storage_rate_doubles_the_seconds_of_a_checkpoint(setup):
    varied = scale(setup, constant_paths([])["storage_bytes_per_s"], 0.5)
    before, after = (build_costs(s.model, s.gpu, s.cluster, s.job) for s in (setup, varied))
    assert checkpoint_save_s(after) == pytest.approx(2 * checkpoint_save_s(before))
    assert setup.cluster == load_spec(ClusterSpec, "rtx3090x10")


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
        make_trace(2),
        cluster=str(write_cluster_of_two(tmp_path / "two.toml")),
        systems=["lazarus"],
        routing="uniform",
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


def test_every_number_of_a_cluster_and_its_gpu_and_job_is_varied_once(setup):
    names = constant_paths(["ds", "lazarus"])
    network, recovery = setup.cluster.network, setup.cluster.recovery
    # The GPU: 12 fields less 2 texts, 3 of the datasheet and its fused kernels. The job: 11 less name, batch (2), kind
    # of kernels and intervals, plus 2.
    assert len(names) == 1 + len(network.__struct_fields__) + len(recovery.__struct_fields__) + 6 + (11 - 5 + 2)
    for name, path in names.items():
        assert name == ".".join(path[1:]).removeprefix("network.").removeprefix("recovery.")
        assert scale(setup, path, 1.5) != setup, name


def test_whole_numbers_stay_whole_and_above_0():
    assert scale({"a": {"b": 1, "c": 2.0}}, ("a", "b"), 0.5) == {"a": {"b": 1, "c": 2.0}}
    assert scale(250, (), 1.5) == 375


def test_a_factor_of_1_changes_nothing():
    result = sensitivity(make_trace(failures_s=[700]), systems=["lazarus", "ds"], routing="uniform", factors=[1.0])
    assert [change.effect for change in result.changes] == [0] * len(constant_paths(["lazarus", "ds"]))


def test_an_unknown_constant_is_refused_and_the_nearest_offered():
    with pytest.raises(SpecError, match="unknown constant 'detect': did you mean 'detect_s'"):
        vary(make_trace(), "detect")


def test_the_same_inputs_give_the_same_answer():
    trace = make_trace(failures_s=[700])
    first, second = (
        sensitivity(trace, systems=["ds"], routing="uniform", constants=["rebuild_s", "logit_passes"]) for _ in range(2)
    )
    assert first.to_json() == second.to_json()
