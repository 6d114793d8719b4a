import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lazsim
from lazsim.errors import LazsimError
from lazsim.inputs import Shared, make_trace
from lazsim.study.collect import collect, show_nothing
from lazsim.study.simulation import simulate_point
from lazsim.study.sweep.result import SweepResult
from lazsim.study.sweep.run import resolve_points, run_sweep
from lazsim.study.sweep.spec import TYPES, load_sweep, parse_sweep
from lazsim.trace import generate_trace, load_recipe

BASE = {"trace": "fail-every-5min", "routing": "uniform", "duration": "10min"}
SMALL = parse_sweep({"base": BASE, "grid": {"seed": "0-2", "job.fault_threshold": [1, 2]}})
SPEC = """
[base]
trace = "fail-every-5min"
routing = "uniform"
duration = "10min"
[grid]
model = ["gpt-s", "gpt-l"]
seed = "0-9"
"""


def ids(folder):
    return [json.loads(line)["id"] for line in (folder / "rows.jsonl").read_bytes().splitlines()]


def has_processes(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def square(number):
    if number < 0:
        raise LazsimError(f"{number} is below 0")
    return {"square": number * number}


def test_nodes_of_a_trace_beyond_those_of_the_cluster_are_told_before_anything_runs():
    told: list[str] = []

    def run(num_done, num_runs):
        told.append("runs")
        return show_nothing(num_done, num_runs)

    base = {"trace": "llama-3", "duration": "1min", "routing": "uniform", "system": "ds"}
    sweep = parse_sweep({"base": base, "grid": {"seed": [0, 1], "max_nodes": [8, 12]}})
    run_sweep(sweep, progress=run, tell=told.append, num_workers=1)
    assert told == ["the trace has up to 12 nodes, rtx3090x10 has 10; `max_nodes` 10 keeps to that", "runs"]


@pytest.mark.parametrize("system", ["lazarus", "ds-ft", "tutel"])
def test_a_row_is_what_a_single_run_gives(system):
    sweep = parse_sweep(
        {"base": {"trace": "fail-every-5min", "trace_seed": 4, "system": system, "seed": 2, "model": "gpt-l"}}
    )
    row = run_sweep(sweep, num_workers=1).rows[0]
    trace = generate_trace(load_recipe("fail-every-5min"), np.random.default_rng(4), "any")
    run = lazsim.simulate(trace, model="gpt-l", systems=[system], seed=2).to_json()["runs"][0]
    # A row has what the spec does not say, and no table of failures.
    del run["recoveries"], run["setting"], run["published"], run["best"]
    ledger = {f"{bucket}_s": seconds for bucket, seconds in run.pop("ledger_s").items()}
    expected = run | ledger | {"placement": None, "nodes_lost": 5, "most_nodes": 10}
    expected["memory_bytes"] = run["memory_bytes"]["total"]
    assert {key: value for key, value in row.items() if key != "id"} == expected


def test_a_run_on_a_profile_goes_beyond_it_where_asked_to(tmp_path):
    (tmp_path / "mine.csv").write_text("kernel,size,time_s\nexpert,1,1e-6\nexpert,64,64e-6\n")
    path = tmp_path / "mine.toml"
    base = {"trace": "fail-every-5min", "system": "lazarus", "profile": "mine.csv"}

    def sweep(**changes):
        keys = "".join(f"{key} = {json.dumps(value)}\n" for key, value in (base | changes).items())
        path.write_text("[base]\n" + keys)
        return run_sweep(load_sweep(path), num_workers=1)

    ((_, said),) = sweep().failures
    assert "or `extrapolate` it by the analytic model" in said
    row = sweep(extrapolate=True).rows[0]
    trace = generate_trace(load_recipe("fail-every-5min"), np.random.default_rng(0), "any")
    profile = str(tmp_path / "mine.csv")
    run = lazsim.simulate(trace, systems=["lazarus"], profile=profile, extrapolate=True).to_json()["runs"][0]
    assert (row["samples"], row["extrapolated_s"]) == (run["samples"], run["extrapolated_s"])
    lacking = parse_sweep({"base": {"trace": "fail-every-5min", "extrapolate": True}})
    with pytest.raises(LazsimError, match="`extrapolate` has no effect without a profile"):
        run_sweep(lacking, num_workers=1)


def test_a_chosen_placement_is_scored_and_plain_expert_parallelism_runs_once_without():
    base = BASE | {"score_plans": True, "trace.num_left": 8}
    grid = {"placement": ["mro", "compact"], "system": ["lazarus", "ds"]}
    rows = run_sweep(parse_sweep({"base": base, "grid": grid}), num_workers=1).rows
    names = [("lazarus", "mro"), ("ds", None), ("lazarus", "compact")]
    assert [(row["system"], row["placement"]) for row in rows] == names
    trace = generate_trace(load_recipe("fail-every-5min"), np.random.default_rng(0), "any")
    alone = lazsim.simulate(
        trace, systems=["lazarus"], placements=["mro", "compact"], routing="uniform", duration=600
    ).runs
    assert rows[0]["samples"] == alone[0].samples
    assert rows[0]["plan_recovery_prob"] == alone[0].plan_recovery.recovery_prob
    assert rows[2]["plan_recovery_prob"] < rows[0]["plan_recovery_prob"]


def test_an_axis_of_the_name_of_an_outcome_keeps_its_points_apart():
    # Whole plans are quick here, so that both runs make them, and the outcome calls each `exact`.
    result = run_sweep(parse_sweep({"base": BASE, "grid": {"planning": ["auto", "exact"], "system": ["ds"]}}))
    assert [row["planning"] for row in result.rows] == ["auto", "exact"]
    assert [row["planning"] for row in result.means()] == ["auto", "exact"]


def test_tables_have_the_same_bytes_whatever_the_number_of_workers(tmp_path):
    one, two = (run_sweep(SMALL, tmp_path / str(number), num_workers=number) for number in (1, 2))
    assert one == two
    assert (tmp_path / "1" / "table.csv").read_bytes() == (tmp_path / "2" / "table.csv").read_bytes() == one.table()
    assert sorted(ids(tmp_path / "1")) == sorted(ids(tmp_path / "2"))


def test_ray_gives_the_same_bytes(tmp_path, run_script):
    pytest.importorskip("ray", reason="Ray is optional")
    script = (
        "import sys; from pathlib import Path\n"
        "from lazsim.study.sweep.run import run_sweep; from lazsim.study.sweep.spec import load_sweep\n"
        "run_sweep(load_sweep(sys.argv[1]), Path(sys.argv[2]), backend='ray', num_workers=1)"
    )
    spec = tmp_path / "sweep.toml"
    spec.write_text(SPEC.replace("0-9", "0-1"))
    run_script(script, spec, tmp_path / "ray")
    assert (tmp_path / "ray" / "table.csv").read_bytes() == run_sweep(load_sweep(spec), num_workers=1).table()


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    sweep = SMALL.changed({"seed": 0})
    first = run_sweep(sweep, tmp_path, num_workers=1)
    larger = run_sweep(SMALL, tmp_path, num_workers=1)
    assert len(ids(tmp_path)) == len(set(ids(tmp_path))) == len(larger.rows) == 18
    monkeypatch.setattr("lazsim.study.sweep.run.run_scenario", None)
    assert run_sweep(SMALL, tmp_path, num_workers=1) == larger
    assert run_sweep(sweep, tmp_path, num_workers=1) == first
    assert (tmp_path / "table.csv").read_bytes() == first.table()


def test_rows_of_another_numpy_are_made_anew_under_the_same_ids_of_runs_and_a_line_says_so(tmp_path, monkeypatch):
    told = []
    first = collect(square, [2, 3], tmp_path, num_workers=1, tell=told.append)
    monkeypatch.setattr("lazsim.study.collect.version", lambda _library: "99.0")
    collect(square, [4], tmp_path, num_workers=1, tell=told.append)
    assert told == []
    for _ in range(2):
        again = collect(square, [2, 3], tmp_path, num_workers=1, tell=told.append)
    assert told == [f"{tmp_path}: runs there are of another version of lazsim, numpy or scipy, and are made again"]
    assert len(set(ids(tmp_path))) == 5
    assert [task.id for task in again.tasks] == [task.id for task in first.tasks]


def test_equal_runs_of_several_points_are_made_once(tmp_path):
    grid = {"job.checkpoint_interval_steps.ds": [20, 40], "system": ["lazarus", "ds"]}
    rows = run_sweep(parse_sweep({"base": BASE, "grid": grid}), tmp_path, num_workers=1).rows
    assert [row["system"] for row in rows] == ["lazarus", "ds", "lazarus", "ds"]
    assert len({row["id"] for row in rows}) == len(ids(tmp_path)) == 3


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The file, table and rows of a sweep that nothing has killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    spec = folder / "sweep.toml"
    spec.write_text(SPEC)
    table = run_sweep(load_sweep(spec), folder, num_workers=1).table()
    return spec, table, sorted((folder / "rows.jsonl").read_bytes().splitlines())


@pytest.mark.parametrize("num_rows", [0, 40])
def test_a_sweep_killed_at_any_moment_goes_on_without_losing_or_repeating_a_run(
    tmp_path, num_rows, undisturbed, start_process
):
    spec, table, lines = undisturbed
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "lazsim", "sweep", spec, "--out", folder, "--jobs", "2"]
    sweep = start_process(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = folder / "rows.jsonl"
    while sweep.poll() is None and (not rows.exists() or rows.read_bytes().count(b"\n") < num_rows):
        time.sleep(0.005)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    while has_processes(sweep.pid):
        time.sleep(0.005)
    before = rows.read_bytes()
    run_sweep(load_sweep(spec), folder, num_workers=1)
    assert rows.read_bytes().startswith(before)
    assert len(ids(folder)) == len(set(ids(folder))) == 60
    assert (folder / "table.csv").read_bytes() == table
    assert sorted(rows.read_bytes().splitlines()) == lines


@pytest.mark.parametrize("kept", [-1, -2, -300, 5])
def test_a_torn_last_line_is_made_anew_and_a_whole_one_without_its_end_is_kept(tmp_path, kept):
    whole = run_sweep(SMALL, tmp_path, num_workers=1)
    rows = tmp_path / "rows.jsonl"
    lines = rows.read_bytes().splitlines(keepends=True)
    rows.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
    assert run_sweep(SMALL, tmp_path, num_workers=1) == whole
    assert rows.read_bytes() == b"".join(lines)


def test_a_line_that_is_no_row_is_named(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "value": 1}\nnot a row\n{"id": "b", "value": 2}\n')
    with pytest.raises(LazsimError, match=r"rows\.jsonl, line 2: not a row of a sweep; delete the line"):
        collect(square, [2], tmp_path, num_workers=1)


def test_only_one_sweep_writes_to_a_folder(tmp_path):
    def nested(_number):
        return collect(square, [2], tmp_path, num_workers=1).values[0]

    outcomes = collect(nested, [1], tmp_path, num_workers=1)
    assert outcomes.values == (None,)
    assert "another run is writing to it" in outcomes.failures[0][1]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_run_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path, num_workers):
    outcomes = collect(square, [3, -1, 4], tmp_path, num_workers=num_workers)
    assert outcomes.values == ({"square": 9}, None, {"square": 16})
    assert outcomes.failures == (("-1", "-1 is below 0"),)
    assert len(ids(tmp_path)) == 2
    assert collect(square, [3, -1, 4], tmp_path, num_workers=num_workers) == outcomes


def test_a_bug_in_a_run_is_raised_and_what_is_done_is_kept(tmp_path):
    with pytest.raises(TypeError):
        collect(square, [3, "four"], tmp_path, num_workers=1)
    assert len(ids(tmp_path)) == 1


def test_a_file_that_changes_while_a_sweep_runs_is_noticed_by_the_processes_that_read_it_again(tmp_path, monkeypatch):
    path = tmp_path / "nodes.csv"
    path.write_text("0,add,a\n0,add,b\n0,add,c\n0,add,d\n600000,remove,a\n")
    sweep = parse_sweep({"base": {"trace": str(path), "routing": "uniform", "system": "ds"}})
    scenario = resolve_points(sweep)[1][0]
    path.write_text("0,add,a\n0,add,b\n0,add,c\n0,add,d\n500000,remove,a\n")
    assert scenario.load_trace().duration_s == 600.0
    monkeypatch.setattr("lazsim.scenario.shared_trace", Shared(make_trace, 1))
    with pytest.raises(LazsimError, match="changed after it was first read"):
        simulate_point(scenario)


def test_history_is_that_of_the_runs():
    sweep = parse_sweep({"base": BASE | {"history": True, "seed": [0, 1], "trace_seed": 0}})
    result = run_sweep(sweep, num_workers=1)
    trace = generate_trace(load_recipe("fail-every-5min"), np.random.default_rng(0), "any")
    alone = lazsim.simulate(trace, routing="uniform", duration=600, seed=1)
    for ours, theirs in ((result.timeline(), alone.timeline()), (result.events(), alone.events())):
        mine = ours[ours["seed"] == 1].reset_index(drop=True)
        assert mine[list(theirs.columns)].to_dict("records") == theirs.to_dict("records")
    assert alone.summary()["samples"].tolist() == [run.samples for run in alone.runs]
    # What a Python prompt shows is for people: not each event.
    assert len(repr(alone)) < 2000 * len(alone.runs)


def test_the_summary_pairs_runs_by_seed():
    result = run_sweep(SMALL.changed({"seed": list(range(6))}), num_workers=1)
    frame = result.to_frame()
    mean = result.summary().set_index(["job.fault_threshold", "run"]).loc[(2, "ds")]
    chosen = frame[frame["job.fault_threshold"] == 2].pivot_table("samples", "seed", "system")
    ratio = chosen["ds"].sum() / chosen["lazarus"].sum()
    assert (chosen["ds"] / chosen["lazarus"]).mean() != pytest.approx(ratio, rel=1e-6)
    assert mean["num_runs"] == 6
    assert mean["samples_mean"] == pytest.approx(chosen["ds"].mean())
    assert mean["ratio_mean"] == pytest.approx(ratio)
    for bound, sign in (("ratio_ci_low", 1), ("ratio_ci_high", -1)):
        apart = chosen["ds"] - mean[bound] * chosen["lazarus"]
        # Student's t of 5 degrees of freedom, 97.5 %: 2.5706 in every table of it.
        assert apart.mean() == pytest.approx(sign * 2.5706 * apart.std() / 6**0.5, rel=1e-4)


def test_ratios_are_those_to_the_first_run_and_a_setting_without_it_has_none():
    base = {"system": "ds", "placement": None, "seed": 0, "num_failures": 9}
    found = [("a", "ds", 100), ("a", "lazarus", 150), ("b", "lazarus", 300), ("b", "ds-ft", 600)]
    rows = tuple({**base, "model": model, "system": system, "samples": samples} for model, system, samples in found)
    summary = SweepResult(("model",), rows, (), (), (("", ()),) * 4).summary()
    assert summary["ratio_mean"].tolist() == pytest.approx([1.0, 1.5, math.nan, math.nan], nan_ok=True)


def test_notes_count_the_runs_that_they_are_about():
    sweep = parse_sweep({"base": BASE | {"cluster.num_nodes": 8}, "grid": {"system": ["lazarus", "ds"]}})
    notes = run_sweep(sweep, num_workers=1).notes
    nodes, assumed, costs, restarts = notes
    assert nodes == "the trace has up to 10 nodes, rtx3090x10 has 8; `max_nodes` 8 keeps to that"
    # Only `ds` restarts at each failure.
    assert restarts.startswith("the time of a restart decides much: 48.2 s on 10 nodes")  # 26.9 + 10 x 2.13 s
    assert restarts.endswith("(1 of 2 runs)")
    assert assumed.startswith("numbers that no source tells: 6 of rtx3090, 7 of rtx3090x10 ")
    assert costs == "costs are analytic: no profile was given"


def test_an_axis_that_changes_no_result_is_told():
    # A trace gives the nodes, not the cluster; a system that restarts loses more steps where it saves less often.
    grid = {"cluster.num_nodes": [10, 12], "interval": [50, 500], "seed": [0, 1]}
    notes = run_sweep(parse_sweep({"base": BASE | {"system": "ds"}, "grid": grid}), num_workers=1).notes
    told = "changes no result: all of its values give the same"
    assert [note for note in notes if told in note] == [f"cluster.num_nodes {told}"]
    # Nothing is drawn: an interval over these seeds is none over chance.
    base = {"trace": "fail-every-5min", "trace_seed": 1, "routing": "uniform", "system": "ds"}
    notes = run_sweep(parse_sweep({"base": base, "grid": {"seed": [0, 1]}}), num_workers=1).notes
    assert [note for note in notes if told in note] == [f"seed {told}"]


def test_values_of_an_axis_that_mean_the_same_are_told():
    grid = {"interval": ["2min", "60s", "120s"], "system": ["ds", "ds-ft"]}
    notes = run_sweep(parse_sweep({"base": BASE, "grid": grid}), num_workers=1).notes
    assert [note for note in notes if "the same" in note] == ["interval: these values give the same: 2min, 120s"]


def test_workers_compute_with_one_thread_each():
    found = collect(threads, [0, 1], num_workers=2).values
    assert found == ({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},) * 2


def threads(_number):
    return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def test_workers_that_end_early_hang_no_sweep_where_warnings_are_errors(run_process):
    # Workers that end as soon as nothing waits for them end with tasks on their way to them.
    script = (
        "import functools, joblib\n"
        "joblib.parallel_config = functools.partial(joblib.parallel_config, idle_worker_timeout=1e-6)\n"
        "from lazsim.study.backends import on_loky\n"
        "print(sorted(on_loky(abs, range(-200, 0), 2, None)))\n"
    )
    ended = run_process(sys.executable, "-W", "error", "-c", script)
    assert (ended.stdout, ended.stderr) == (f"{list(range(1, 201))}\n", "")


@pytest.mark.parametrize("host", ["127.0.0.1", "no..host"])
def test_a_ray_cluster_that_is_not_there_is_one_line(host):
    pytest.importorskip("ray", reason="Ray is optional")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(LazsimError, match=f"no Ray cluster at '{host}:{port}' .*; start one, or give another"):
        collect(square, [1], backend="ray", address=f"{host}:{port}")


def test_an_unknown_backend_is_refused():
    with pytest.raises(LazsimError, match="unknown backend 'lokey': did you mean 'loky'"):
        collect(square, [1], backend="lokey")


GUIDE = (Path(__file__).parent.parent / "docs" / "guides" / "sweeps.md").read_text()


def test_the_guide_has_a_row_for_every_key():
    rows = re.findall(r"^\| (`.*?) \| ", GUIDE, re.MULTILINE)
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row)} == set(TYPES)


def test_the_example_of_the_documentation_runs(tmp_path):
    (tmp_path / "sweep.toml").write_text(GUIDE.split("```toml\n")[1].split("```")[0])
    assert load_sweep(tmp_path / "sweep.toml").points()
