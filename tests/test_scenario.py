"""Scenarios: every input resolved once, hashed once, and replaced one at a time."""

import dataclasses
import re
from unittest.mock import Mock

import msgspec
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import lazsim
from lazsim import inputs
from lazsim.engine.simulate import simulate_system
from lazsim.errors import LazsimError, SpecError
from lazsim.scenario import resolve
from lazsim.settings import NEEDS
from lazsim.specs import ClusterSpec, load_spec
from lazsim.study.sweep.run import resolve_points
from lazsim.study.sweep.spec import parse_sweep
from lazsim.trace.table import Event, build_trace
from tests.conftest import ROOT, refusal

SPOT = str(ROOT / "traces" / "spot-p3-like.csv")


def test_a_run_takes_the_profile_of_the_catalogue_of_its_gpu_and_model_unless_told_otherwise():
    shipped = {"model": "gpt-s", "cluster": "h200x4"}
    chosen = resolve({**shipped, "profile": "h200", "extrapolate": True})
    assert resolve(shipped).id == resolve({**shipped, "extrapolate": True}).id == chosen.id
    assert resolve({**shipped, "gpu.memory_bytes_per_s": 1e12}).profile_sha256 == chosen.profile_sha256
    without = (
        {"profile": "analytic"},  # asked for
        {"gpu": "rtx3090"},  # no profile of the GPU
        {"model.top_k": 2},  # not the model that was measured
        {"model": "deepseek-v3", "cluster": "h200x64"},  # has a layout, and kernels of its own
    )
    for change in without:
        assert resolve({**shipped, **change}).profile_sha256 is None


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, None),  # Those of testbed-a, 250 for lazarus, are for its own steps: Young's takes their place.
        ({"job.checkpoint_interval_steps": 50}, 50),
        ({"job.checkpoint_interval_steps.lazarus": 60}, 60),
        ({"job.checkpoint_interval_steps.ds": 70}, None),
        ({"job": "testbed-a"}, 250),
    ],
)
def test_a_chosen_layout_has_no_steps_between_checkpoints_but_those_asked_for(changes, steps):
    scenario = resolve({"model": "qwen3-30b-a3b", "cluster": "h100x64", "system": "lazarus", **changes})
    assert scenario.job.checkpoint_interval_steps.get("lazarus") == steps


def test_a_factor_of_steps_between_checkpoints_that_a_job_leaves_open_is_refused():
    with pytest.raises(SpecError, match="there is no number to multiply; give one"):
        resolve({"model": "qwen3-30b-a3b", "cluster": "h100x64", "job.checkpoint_interval_steps.lazarus": "x0.5"})


@pytest.mark.parametrize("profile", ["h200", "analytic"])
def test_a_layout_refuses_a_profile_and_the_lack_of_one(profile):
    with pytest.raises(SpecError, match="`profile`: a job with a layout takes the kernels of its GPU"):
        resolve({"model": "deepseek-v3", "cluster": "h200x128", "job": "deepseek-v3", "profile": profile}).costs()


def test_a_profile_that_is_given_takes_no_job_with_a_layout_that_nobody_gave():
    chosen = resolve({"model": "deepseek-v3", "cluster": "h200x128", "profile": "analytic"})
    assert (chosen.job.name, chosen.job.parallel) == ("testbed-a", None)


def test_a_new_field_with_a_default_changes_no_id():
    before = resolve({"cluster": "rtx3090x10"})
    newer = msgspec.defstruct("Newer", [("further", int, 7)], bases=(type(before.job),), frozen=True, kw_only=True)
    fields = msgspec.structs.asdict(before.job)
    assert dataclasses.replace(before, job=newer(**fields)).id == before.id
    assert dataclasses.replace(before, job=newer(**fields, further=8)).id != before.id


def test_a_replaced_field_is_the_only_difference():
    before = resolve({"cluster": "rtx3090x10"})
    after = before.replace("cluster.network.nic_latency_s", 1e-3)
    network = msgspec.structs.replace(before.cluster.network, nic_latency_s=1e-3)
    assert after.cluster == msgspec.structs.replace(before.cluster, network=network)
    changed = {name for name, value in after.inputs.items() if value != before.inputs[name]}
    assert changed == {"cluster"}
    assert after.id != before.id


def test_factors_multiply_the_present_value():
    twice = resolve({}).replace("job.fault_threshold", 6).replace("job.fault_threshold", "x0.5")
    assert twice.job.fault_threshold == 3
    detect_s = load_spec(ClusterSpec, "rtx3090x10").recovery.detect_s
    halved = resolve({"cluster.recovery.detect_s": "x0.5"}).replace("cluster.recovery.detect_s", "x0.5")
    assert halved.cluster.recovery.detect_s == detect_s / 4


def test_replaced_fields_survive_the_replacement_of_another_setting():
    scenario = resolve({}).replace("cluster.slots_per_gpu", 9).replace("seed", 4)
    assert (scenario.cluster.slots_per_gpu, scenario.seed) == (9, 4)


def test_a_cluster_brings_its_gpu_unless_another_one_is_asked_for():
    assert resolve({"cluster": "h200x32"}).gpu.name == "h200"
    assert resolve({"cluster": "h200x32", "gpu": "h100"}).gpu.name == "h100"
    assert resolve({}).replace("cluster.gpu", "a100").gpu.name == "a100"
    assert resolve({"gpu": "h100"}).replace("cluster", "h200x32").gpu.name == "h100"


def test_equal_inputs_have_equal_ids_wherever_their_files_are(tmp_path):
    (tmp_path / "copy.csv").write_bytes((ROOT / "traces" / "spot-p3-like.csv").read_bytes())
    here, there = resolve({"trace": SPOT}), resolve({"trace": str(tmp_path / "copy.csv")})
    assert here.trace.sha256 == there.trace.sha256
    assert here.replace("seed", 0).id == here.id
    assert here.replace("seed", 1).id != here.id


def test_a_trace_a_path_and_a_resolved_scenario_give_the_same_run():
    trace = lazsim.load_trace(SPOT, duration_s=3600, max_nodes=10)
    options = {"systems": ["ds-ft"], "routing": "uniform", "duration": 3600}
    by_trace = lazsim.simulate(trace, **options).runs[0]
    by_path = lazsim.simulate(SPOT, max_nodes=10, **options).runs[0]
    settings = {"trace": SPOT, "duration": "1h", "max_nodes": 10, "routing": "uniform", "system": "ds-ft"}
    scenario = resolve(settings)
    direct = simulate_system(
        scenario.load_trace(), scenario.find_system(), scenario.costs(), scenario.load_routing(), 3600
    )
    assert by_trace.events == by_path.events == direct.events
    assert by_trace.ledger_s == by_path.ledger_s == direct.ledger_s


def test_changes_of_fields_reach_a_run():
    options = {"systems": ["ds"], "routing": "uniform", "duration": 1800}
    plain = lazsim.simulate("fail-every-5min", **options)
    slower = lazsim.simulate("fail-every-5min", **{"cluster.recovery.restart_base_s": "x2"}, **options)
    assert slower.runs[0].ledger_s["restart"] > plain.runs[0].ledger_s["restart"]
    assert slower.inputs["changes"] == {"cluster.recovery.restart_base_s": "x2"}
    assert slower.id != plain.id


def test_a_run_that_must_fit_is_another_than_one_that_need_not():
    loose, strict = (resolve({"strict": strict}) for strict in (False, True))
    assert (loose.id == strict.id, "strict" in loose.inputs) == (False, False)


def test_the_price_of_a_node_follows_its_gpus():
    four, eight = (resolve({"cluster": "h100x16", "cluster.gpus_per_node": gpus, "price": "3/gpu"}) for gpus in (4, 8))
    assert four.replace("cluster.gpus_per_node", 8).usd_per_node_hour == eight.usd_per_node_hour == 24.0


@pytest.mark.parametrize(("setting", "thing", "code"), [
    ("system", "OWN", "import dataclasses, lazsim.engine.systems as of\nOWN = dataclasses.replace(of.SYSTEMS['ds'])\n"),
    ("placement", "own", "own = lambda *given: None\n"),
])  # fmt: skip
def test_a_file_that_changes_after_it_was_resolved_is_refused(tmp_path, setting, thing, code):
    (tmp_path / "own.py").write_text(code)
    scenario = resolve({setting: f"{tmp_path}/own.py:{thing}"})
    scenario.find_system()
    (tmp_path / "own.py").write_text(f"{code}# Changed.\n")
    with pytest.raises(SpecError, match=r"own.py:.*changed after it was first read; start again"):
        scenario.find_system()


@pytest.mark.parametrize("seed", [0, 5])
def test_a_run_reads_its_files_once_and_a_later_one_what_they_hold_by_then(tmp_path, monkeypatch, seed):
    readers = [Mock(wraps=inputs.read_trace), Mock(wraps=inputs.load_routing)]
    for name, reader in zip(("read_trace", "load_routing"), readers, strict=True):
        monkeypatch.setattr(inputs, name, reader)
    trace, loads = tmp_path / "trace.csv", tmp_path / "loads.csv"
    loads.write_text("layer,expert,tokens\n" + "".join(f"{at // 16},{at % 16},5\n" for at in range(192)))
    for num_runs, num_nodes in ((1, 3), (2, 4)):
        trace.write_text("".join(f"0,add,node{node}\n" for node in range(num_nodes)) + "600000,remove,node0\n")
        result = lazsim.simulate(trace, systems=["ds", "ds-ft"], routing=str(loads), seed=seed)
        assert result.trace["most_nodes"] == num_nodes
        assert [reader.call_count for reader in readers] == [num_runs, num_runs]


def test_systems_of_one_name_are_refused(tmp_path):
    for name in ("ds", "ds-ft"):
        code = f"from lazsim.engine.systems import SYSTEMS\nSYSTEM = SYSTEMS[{name!r}]\n"
        (tmp_path / f"{name}.py").write_text(code)
    paths = [f"{tmp_path}/{name}.py:SYSTEM" for name in ("ds", "ds-ft")]
    with pytest.raises(SpecError, match=r"`system`: .*ds.py:SYSTEM and .*ds-ft.py:SYSTEM are both named 'SYSTEM'"):
        lazsim.simulate("fail-every-5min", systems=paths, duration=60)


def test_the_seed_of_a_trace_is_among_the_inputs_of_a_run_where_it_is_given():
    plain, drawn = (
        lazsim.simulate("fail-every-5min", systems=["ds"], duration=60, **seed) for seed in ({}, {"trace_seed": 3})
    )
    assert drawn.inputs["trace_seed"] == 3
    assert "trace_seed" not in plain.inputs
    assert drawn.id != plain.id


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"modell": "gpt-s"}, "unknown setting 'modell': did you mean 'model'?"),
        (
            {"network.nic_latency_s": 1},
            "network.nic_latency_s: only model, gpu, cluster",
        ),
        ({"cluster.nic": 1}, "cluster.nic = 1: unknown field 'nic'"),
        ({"cluster.network.nic_latency_s": "x-1"}, "cluster.network.nic_latency_s: 'x-1' is not a duration"),
        ({"cluster": "rtx"}, "`cluster`: unknown cluster 'rtx': did you mean"),
        ({"duration": "0s"}, "`duration`: 0 s: choose more than 0"),
        (
            {"extrapolate": True},
            "`extrapolate` has no effect without a profile: give `profile`, or leave `extrapolate` ",
        ),
        ({"extrapolate": True, "profile": "analytic"}, "`extrapolate` has no effect without a profile"),
        ({"extrapolate": True, "model": "deepseek-v3", "cluster": "h200x64"}, "`extrapolate` has no effect without a "),
        ({"spares": -1}, "`spares`: expected a whole number >= 0"),
        ({"spares": 1.5}, "`spares`: expected a whole number, got a decimal number"),
        ({"spares": 1, "spare_start": -5.0}, "`spare_start`: -5 s: choose 0 or more"),
        ({"trace": "fail-every-5min", "start": -5.0}, "`start`: -5 s: choose 0 or more"),
        ({"strict": "no"}, "`strict`: expected true or false, got text"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(settings, complaint):
    with pytest.raises(LazsimError) as found:
        resolve(settings)
    assert complaint in str(found.value)
    assert "\n" not in str(found.value)


FOUR_NODES = build_trace([Event(0, "add", f"n{index}") for index in range(4)], duration_s=100.0)

VALUES = {
    "cap": "members", "max_nodes": 2, "spare_start": "1min", "spares": 0,
    "trace": "fail-every-5min", "trace_format": "bamboo", "columns": "time=1", "where": "a=b", "time_unit": "h",
    "time_format": "%d", "time_zone": "UTC", "cluster_nodes": 4, "span": "2025-01-01..2025-06-30", "trace_seed": 0,
    "start": "1min",
}  # fmt: skip
"""A value of each setting that has no effect by itself, and of those that it needs."""


@pytest.mark.parametrize(("name", "needed"), NEEDS.items())
def test_a_setting_without_effect_is_refused_wherever_it_is_resolved(name, needed):
    told = f"`{name}` has no effect without `{needed}`"
    with pytest.raises(SpecError, match=f"^{told}: add that, or leave `{name}` out$"):
        resolve({name: VALUES[name]})
    if needed == "trace":
        return
    base = {"trace": "fail-every-5min", name: VALUES[name]}
    with pytest.raises(SpecError, match=f"^my.toml: {told}"):
        resolve_points(parse_sweep({"base": base}, name="my.toml"))
    with pytest.raises(SpecError, match=told):
        lazsim.simulate(**base)


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ({"interval": 100}, {"job.checkpoint_interval_steps.lazarus": 50}),
        ({"interval": "auto"}, {"job.checkpoint_interval_steps": 50}),
        ({"price": "3/gpu"}, {"cluster.usd_per_node_hour": 24.0}),
        ({"gpu": "h100"}, {"cluster.gpu": "h200"}),
    ],
)
def test_a_field_is_refused_beside_the_setting_that_says_the_same(setting, field):
    (name,), (path,) = setting, field
    told = refusal(lambda: resolve(setting | field))
    assert re.fullmatch(rf"{path}[.\w]* has no effect beside `{name}`: leave it out", told)
    if name == "interval":
        # So is one that a sensitivity study or advice would change.
        assert name in refusal(lambda: resolve(setting).replace("job.checkpoint_interval_steps.lazarus", 50))


@pytest.mark.parametrize("name", [name for name, needed in NEEDS.items() if needed == "trace"])
def test_a_trace_is_taken_as_it_is_and_settings_that_would_cut_it_are_refused(name):
    with pytest.raises(SpecError, match="has no effect on a Trace, which is taken as it is: leave `"):
        lazsim.simulate(FOUR_NODES, **{name: VALUES[name]})


def test_a_sweep_over_spares_may_say_how_long_they_take_to_start():
    base = {"trace": "fail-every-5min", "duration": "10min", "system": "ds", "spare_start": "1min"}
    _, scenarios = resolve_points(parse_sweep({"base": base, "grid": {"spares": [0, 1]}}))
    assert [one.num_spares for one in scenarios] == [0, 1]


def test_what_simulate_takes_a_list_of_is_no_setting_of_it_and_plans_are_scored_where_asked_for():
    for name in ("system", "placement"):
        with pytest.raises(SpecError, match=f"^`{name}` has no effect here: give it among `{name}s`$"):
            lazsim.simulate(FOUR_NODES, **{name: "ds"})
    with pytest.raises(SpecError, match=r"^`systems` is empty: name one or more$"):
        lazsim.simulate(FOUR_NODES, systems=[])
    for name in ("systems", "placements"):
        with pytest.raises(SpecError, match=f"^`{name}` 'ds': give a list of names$"):
            lazsim.simulate(FOUR_NODES, **{name: "ds"})
    assert [run.name for run in lazsim.simulate(FOUR_NODES, systems=["ds", "ds"]).runs] == ["ds"]
    trace = build_trace([*FOUR_NODES.events(), Event(50, "remove", "n3")], duration_s=100.0)
    asked = {"systems": ["lazarus"], "routing": "uniform"}
    (run,) = lazsim.simulate(trace, **asked, score_plans=True).runs
    # The published policy is mro, and a comparison of policies scores their plans.
    (other,) = lazsim.simulate(trace, **asked, placements=["mro"]).runs
    assert 0 < run.plan_recovery.recovery_prob == other.plan_recovery.recovery_prob < 1


def test_numbers_of_numpy_are_numbers():
    assert resolve({"seed": np.int64(3)}).id == resolve({"seed": 3}).id


def test_a_run_sums_products_in_one_thread_whatever_the_program_has(monkeypatch):
    """Several threads sum in another order: the same inputs would give other last digits on other machines."""
    seen = set()

    def spy(*arguments, **options):
        seen.update(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
        return simulate_system(*arguments, **options)

    monkeypatch.setattr("lazsim.study.runs.simulate_system", spy)
    with threadpool_limits(2, user_api="blas"):
        lazsim.simulate(SPOT, systems=["ds"], duration="10min")
    assert seen == {1}


def test_known_times_of_a_job_take_the_place_of_kernels_and_links():
    trace = build_trace([Event(0, "add", f"n{index}") for index in range(4)], duration_s=100.0)
    settings = {"trace": trace, "model": "gpt-s", "routing": "uniform", "system": "checkpoint"}
    # Four nodes are two model replicas of two: a step takes 2.5 s.
    times = {"step_s": [4.0, 2.5], "samples_per_step": 8, "nodes_per_stage": 2}
    asked = {name: value for name, value in settings.items() if name != "system"}
    known = lazsim.simulate(**asked, **{"job.times": times}, systems=["checkpoint"], interval="1h")
    assert (known.runs[0].steps, known.runs[0].samples) == (40, 320)
    assert "times" not in resolve(settings).inputs["job"]
    # Eight experts on six slots take groups of two nodes, whether that is said or not.
    unsaid = {"step_s": 2.5, "samples_per_step": 8}
    grouped = lazsim.simulate(**asked, **{"job.times": unsaid}, systems=["ds"], interval="1h")
    assert (grouped.runs[0].steps, grouped.runs[0].samples) == (40, 320)
    with pytest.raises(SpecError, match="equal chunks of 8 experts, at most 6 on a GPU, fill 2: give a multiple"):
        resolve({**settings, "job.times": {**unsaid, "nodes_per_stage": 3}}).costs()
    with pytest.raises(SpecError, match="`times`: 99 stages for"):
        resolve({**settings, "job.times": {"step_s": 1, "num_stages": 99}}).costs()
    with pytest.raises(SpecError, match="need one step_s or more"):
        resolve({**settings, "job.times": {"step_s": []}})


def test_a_field_of_even_loads_is_refused_without_calling_them_a_file():
    with pytest.raises(SpecError, match=r"routing\.skew: uniform has no such field"):
        resolve({"trace": "fail-every-5min", "routing": "uniform", "routing.skew": 1.0})
