"""All that makes a number not hold is said, with its cause. GPT-L has 16 experts; a node of rtx3090x10 has 6 slots."""

import json
import re
from importlib.resources import files

import msgspec
import numpy as np
import pytest

import lazsim
from lazsim.cli.base.messages import in_a_line
from lazsim.cli.base.results import note
from lazsim.costmodel.profile import PROFILES, ProfilePoint, read_profile, require_header, save_profile
from lazsim.errors import InfeasiblePlanError, SpecError
from lazsim.output.run import run_files, run_parts
from lazsim.output.table import render
from lazsim.reliability.comparison import compare_plans
from lazsim.reliability.failure_scenarios import build_scenarios
from lazsim.reliability.survival import assess_plans
from lazsim.reliability.task import build_task
from lazsim.scenario import resolve
from lazsim.specs import ModelSpec, StepConstants, load_spec
from lazsim.study.notes.basis import profile_notes
from lazsim.study.notes.told import count_notes
from lazsim.study.sensitivity import sensitivity
from lazsim.study.simulation import simulate, simulate_scenarios
from lazsim.study.sweep.run import run_sweep
from lazsim.study.sweep.spec import parse_sweep
from lazsim.trace import read_trace
from lazsim.trace.table import Event, build_trace
from tests.test_model_import import DEEPSEEK

SYSTEMS = ("lazarus", "ds")
ANALYTIC = "costs are analytic: no profile was given"
ASSUMED = (
    "numbers that no source tells: 6 of rtx3090, 7 of rtx3090x10 (`assumed` in their files); `lazsim sensitivity` "
    "tells what they weigh"
)


def nodes_at(time_s, num_nodes, duration_s=600.0, *more):
    events = [Event(time_s, "add", f"n{index}") for index in range(num_nodes)]
    return build_trace([*events, *more], duration_s=duration_s)


def notes_of(trace, systems=SYSTEMS, model="gpt-l", **settings):
    return list(simulate(trace, systems=systems, model=model, **({"routing": "uniform"} | settings)).notes)


def test_a_run_with_too_few_nodes_says_how_many_suffice():
    # 16 experts take 3 nodes of 6 slots; in equal chunks of at most 6 they take 4 nodes of 4.
    assert notes_of(nodes_at(0.0, 2)) == [
        "lazarus: nothing trained: 3 nodes are needed, and the trace has at most 2",
        "ds: nothing trained: 4 nodes are needed, and the trace has at most 2",
        ASSUMED,
        ANALYTIC,
    ]


def test_a_run_that_long_has_too_few_nodes_says_for_how_long():
    # ds takes 4 nodes, as above, lazarus 3. One of 4 goes for the second half of an hour.
    told = "training stands still while there are fewer nodes than a system takes: fewer than 4 for 50% of the time: ds"
    told += "; more nodes help, or a `job` that takes fewer"
    assert told in notes_of(nodes_at(0.0, 4, 3600.0, Event(1800.0, "remove", "n0")))


@pytest.mark.parametrize(("name", "is_told"), [("deepseek_v3", True), ("other_v3", False)])
def test_a_model_named_almost_as_a_job_of_the_catalogue_is_told_of_it(tmp_path, name, is_told):
    (tmp_path / "config.json").write_text(json.dumps(DEEPSEEK | {"_name_or_path": name}))
    notes = notes_of(nodes_at(0.0, 64), ["checkpoint"], str(tmp_path / "config.json"), cluster="h200x16")
    (note,) = (note for note in notes if note.startswith("steps are those of a layout (chosen for the nodes of"))
    assert ("; the catalogue has a `job` deepseek-v3)" in note) == is_told


@pytest.mark.parametrize(("model", "num_nodes", "job"), [
    ("deepseek-v3", 127, "deepseek-v3"), ("qwen3-235b-a22b", 63, "qwen3-235b"), ("mixtral-8x7b", 63, ""),
])  # fmt: skip
def test_a_model_whose_own_job_is_not_taken_on_too_few_nodes_is_told_of_it(model, num_nodes, job):
    # One node more would hold two replicas of 512 and 256 GPUs, and another layout with other steps would count.
    notes = notes_of(nodes_at(0.0, num_nodes), ["checkpoint"], model, cluster="h200x16")
    (note,) = (note for note in notes if note.startswith("steps are those of a layout (chosen for the nodes of"))
    assert note.partition(" has a `job` ")[2].partition(")")[0] == job


def test_a_job_that_a_gpu_cannot_run_is_not_told_of():
    # An A100 has no matmuls of 8 bits.
    notes = notes_of(nodes_at(0.0, 128), ["checkpoint"], "deepseek-v3", cluster="dgx-a100-80g")
    (note,) = (note for note in notes if note.startswith("steps are those of a layout (chosen for the nodes of"))
    assert "has a `job`" not in note


@pytest.mark.parametrize(("lost_s", "is_told"), [(590.0, True), (550.0, False)])
def test_a_run_that_ends_before_a_failure_is_noticed_says_so(lost_s, is_told):
    # A failure takes 15 s to notice, and the run ends at 600 s.
    notes = notes_of(nodes_at(0.0, 4, 600.0, Event(lost_s, "remove", "n0")), systems=["ds"])
    told = "ds: the run ends 10 s after a failure that is not noticed yet: what it loses is not counted"
    assert (told in notes) == is_told


def test_nodes_held_as_spares_do_not_count_among_those_that_train():
    assert "ds: nothing trained: 4 nodes are needed, and at most 3 train beside the spares" in notes_of(
        nodes_at(0.0, 5), spares=2
    )


@pytest.mark.parametrize("system", ["oobleck", "recycle", "replica-drop"])
def test_a_system_of_two_replicas_says_where_the_trace_has_nodes_for_one_alone(system):
    # In equal chunks the experts take 4 nodes.
    most = 7 if system == "oobleck" else 4
    told = f"{system}: two model replicas take 8 nodes, and at most {most} train: every failure is a restart"
    assert told in notes_of(nodes_at(0.0, 7), systems=[system])
    assert told not in notes_of(nodes_at(0.0, 8), systems=[system])


@pytest.mark.parametrize(
    ("system", "nodes", "why"),
    [
        # In equal chunks the experts take 4 nodes, in a group: 8 nodes are two groups, whose published number of
        # shards is floor(log2(2) + 0.833) = 1.
        ("spare", 8, "each of 2 groups has one shard of data only (`num_stacks`; `interval` auto tries more)"),
        ("ds-ft", 4, "two model replicas take 8 nodes, and at most 4 train"),
    ],
)
def test_a_system_that_keeps_none_of_its_promises_on_so_few_nodes_says_so(system, nodes, why):
    few, more = (nodes_at(0.0, num, 600.0, Event(300.0, "remove", "n0")) for num in (nodes, nodes + 4))
    said = f"{system}: {why}: every failure is a restart"
    assert said in notes_of(few, systems=[system])
    assert said not in notes_of(more, systems=[system])
    for trace, num_restarts in ((few, 1), (more, 0)):
        run = simulate(trace, systems=[system], model="gpt-l", routing="uniform").runs[0]
        assert (run.counts["restarts"] or run.ledger_s["waiting"] > 0) == num_restarts


def test_intervals_of_a_system_that_is_not_there_are_told(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text("[checkpoint_interval_steps]\nds = 5\ngemini = 7\ndeepspeed = 9")
    told = "of no effect: job.checkpoint_interval_steps of deepspeed, which no system is called"
    assert told in notes_of(nodes_at(0.0, 8), job=str(path))


def test_a_model_that_no_cluster_of_this_size_holds_is_refused_with_the_nodes_that_suffice():
    # 256 experts: 42 nodes have 252 slots.
    with pytest.raises(InfeasiblePlanError, match="for 60 slots of 10 nodes; use a cluster of 43 nodes or more"):
        notes_of(nodes_at(0.0, 4), model="deepseek-v3")


def test_kernels_of_another_gpu_are_told_where_the_layout_of_a_run_takes_them():
    told = "attention_latent: times of h100 stand in for those of h200"
    for cluster, is_told in (("h200x64", True), ("h100x64", False)):
        assert (told in notes_of(nodes_at(0.0, 64), model="deepseek-v3", cluster=cluster)) == is_told


def test_costs_without_a_layout_on_a_gpu_with_measured_kernels_say_why_and_which_profile_they_take():
    told = (
        "h200 has measured kernels, but no layout can be chosen by them: gpt-s: its TOML file has no heads of attention"
    )
    notes = notes_of(nodes_at(0.0, 4), ("ds",), model="gpt-s", cluster="h200x4")
    [profile] = [
        note for note in notes if note.startswith("gpt-s.csv of the catalogue (`profile` analytic leaves it out)")
    ]
    assert profile.endswith("; analytic: dense, masks of ds, links between servers, storage")
    assert not any("extrapolated" in note for note in notes)
    assert any(note.startswith(told) for note in notes)
    for chosen in ({"cluster": "rtx3090x10"}, {"cluster": "h200x4", "job": "testbed-a"}):
        assert not any("measured kernels" in note for note in notes_of(nodes_at(0.0, 4), ("ds",), "gpt-s", **chosen))


def test_a_layout_that_comes_with_the_name_of_the_model_is_told_apart_from_one_that_was_asked_for():
    told = "(job deepseek-v3, named as the model)"
    for job, is_told in ((None, True), ("deepseek-v3", False)):
        notes = notes_of(nodes_at(0.0, 128), ("checkpoint",), "deepseek-v3", cluster="h100x128", job=job)
        assert any(told in note for note in notes) == is_told


def test_a_run_says_which_systems_change_the_layout_and_so_its_steps():
    notes = notes_of(nodes_at(0.0, 64), ("lazarus", "checkpoint"), "deepseek-v3", cluster="h200x64")
    told = (
        "recovery from nodes, or padding, takes another layout than the job's, with other steps: sharding none: lazarus"
    )
    assert told in notes


def test_a_run_whose_nodes_come_too_late_says_so_and_not_that_they_are_too_few():
    # A restart takes 30 s and 0.6 s a node.
    why = "are there for at most 95 s in a row, and a start takes 120 s of collecting new nodes and"
    first, second, *_ = notes_of(nodes_at(5.0, 8, 100.0), routing="uniform")
    assert first.startswith(f"lazarus: nothing trained: the nodes needed (3) {why}")
    assert second.startswith(f"ds: nothing trained: the nodes needed (4) {why}")


def test_a_run_that_outlasts_its_trace_says_once_when_the_trace_ends():
    note = "400 s asked for, but the trace ends after 100 s: nodes alive then stay for the other 300 s"
    assert note in notes_of(nodes_at(5.0, 8, 100.0), duration=400)
    # A recipe of 30 minutes.
    for trace in ("fail-every-5min", lazsim.load_trace("fail-every-5min", duration_s=2400)):
        assert sum("ends after" in one for one in simulate(trace=trace, duration=2400).notes) == 1


def test_nodes_lost_as_the_trace_ends_are_told_to_count_nothing():
    note = "2 nodes lost as the trace ends: no number here counts that"
    lost = [Event(time_s, "remove", f"n{number}") for number, time_s in enumerate((300.0, 600.0, 600.0))]
    trace = nodes_at(0.0, 8, 600.0, *lost)
    assert note in notes_of(trace)
    for duration in (599, 600, 700):
        assert not any("as the trace ends" in one for one in notes_of(trace, duration=duration))


def test_a_run_that_spends_a_tenth_of_its_time_in_restarts_says_how_long_one_takes():
    # On testbed A's 10 nodes a restart takes 26.9 + 10 x 2.13 s. One in 10 min is a tenth with the load, not in 1 h.
    def told(duration_s):
        failure = Event(300.0, "remove", "n0")
        return [
            note for note in notes_of(nodes_at(0.0, 10, duration_s, failure)) if note.startswith("the time of a re")
        ]

    [note] = told(600.0)
    assert "48.2 s on 10 nodes" in note
    # The trace says how many nodes there are, also where the cluster has more: 26.9 + 6 x 2.13 s.
    fewer = notes_of(nodes_at(0.0, 6, 300.0, Event(150.0, "remove", "n0")))
    assert any("39.7 s on 6 nodes" in note for note in fewer)
    assert ": ds " in note
    assert "lazarus" not in note
    assert told(3600.0) == []


def test_a_run_that_never_reaches_a_checkpoint_says_that_it_keeps_no_step():
    # Under ds, any failure is a restart from a checkpoint, the first of which is after 50 steps.
    changes = [Event(20.0 * turn, kind, "n0") for turn in range(1, 30) for kind in ("remove", "add")]
    notes = notes_of(nodes_at(0.0, 4, 600.0, *changes), ("ds",))
    assert notes[0].startswith("ds: nothing kept of ")
    assert notes[0].endswith(" steps: no failure leaves time for a checkpoint after 50")


def test_a_run_without_checkpoints_says_where_its_restarts_begin():
    none = {"job.checkpoint_interval_steps.ds": 0}
    changes = [Event(20.0 * turn, kind, "n0") for turn in range(1, 30) for kind in ("remove", "add")]
    notes = notes_of(nodes_at(0.0, 4, 600.0, *changes), ("ds",), **none)
    assert notes[0].startswith("ds: nothing kept of ")
    assert notes[0].endswith(" steps: there are no checkpoints")
    assert "makes no checkpoints, so that a restart goes back to step 0: ds" in notes


def test_a_run_shorter_than_a_step_says_so_and_has_no_productive_time():
    found = simulate(nodes_at(0.0, 6), systems=SYSTEMS, model="gpt-l", routing="uniform", duration=0.01)
    assert "lazarus, ds: nothing trained: no step ends before the run or a failure does" in found.notes
    # It computes all along, and no step of it counts.
    assert [(run.samples, run.ettr, run.ledger_s["compute"]) for run in found.runs] == [(0, 0.0, 0.01)] * 2


def test_nodes_that_make_no_group_are_told_once_for_all_systems_that_leave_them_idle():
    # A GPU holds 6 slots, and equal chunks of 16 experts that fit are of 4: groups have 4 nodes, so that 5 to 7 nodes
    # have one group, and 8 nodes two. `lazarus` uses any number.
    most = "4 train, the most that make equal groups that hold every expert"
    told = f"ds, tutel: with 7 nodes, {most}; the others stay idle"
    systems = ("lazarus", "ds", "tutel")
    idle = [note for note in notes_of(nodes_at(0.0, 7), systems) if most in note]
    assert idle == [f"{told}, and more train from 8 on"]
    assert not [note for note in notes_of(nodes_at(0.0, 8), systems) if most in note]
    # In 5 of 10 min, one of 5 nodes is idle: (5 min x 1) / (5 min x 5 + 5 min x 4) is 11 % of the node-hours.
    half = nodes_at(0.0, 4, 600.0, Event(300.0, "add", "n9"))
    assert [note for note in notes_of(half, ("ds",)) if most in note]
    # In 4 of 10 min it is 4 / (6 x 4 + 4 x 5), 9 %, which decides little.
    late = nodes_at(0.0, 4, 600.0, Event(360.0, "add", "n9"))
    assert not [note for note in notes_of(late, ("ds",)) if most in note]


@pytest.mark.parametrize(("system", "num_nodes"), [("bamboo", 4), ("recycle", 8)])
def test_nodes_that_go_on_in_their_places_are_not_told_as_idle(system, num_nodes, tmp_path):
    # Pipelines of four nodes. Without one, the others go on: on 3 nodes no pipeline could begin, and on 7 only one.
    lost = nodes_at(0.0, num_nodes, 86_400.0, Event(3600.0, "remove", "n1"))
    job = tmp_path / "stages.toml"
    layout = "[parallel]\ntensor = 1\npipeline = 4\nexpert = 8\nglobal_batch = 512\n"
    job.write_text(f"fault_threshold = 1\nrebalance_interval_steps = 200\njoin_wait_s = 120\n{layout}")
    found = simulate(lost, systems=[system], model="qwen3-30b-a3b", cluster="h100x8", job=str(job))
    assert found.runs[0].states[-1].num_used == num_nodes - 1
    assert not [note for note in found.notes if "stay idle" in note]


def test_a_plan_that_does_not_keep_the_fault_threshold_is_told_and_whether_it_fits_at_all():
    # Two replicas of 16 experts take 32 slots: 6 nodes have 36, and 5 nodes 30.
    note = (
        "lazarus: in 100.0% of the time of steps, some expert is on fewer than 2 nodes (`fault_threshold`); "
        "f 2 does not fit: on 5 nodes, some expert is on 1 only"
    )
    assert notes_of(nodes_at(0.0, 5), ("lazarus",)) == [note, ASSUMED, ANALYTIC]
    assert notes_of(nodes_at(0.0, 6), ("lazarus",)) == [ASSUMED, ANALYTIC]
    # Three take 48 slots, which 8 nodes have. In groups of 3 nodes, 6 experts each, the last 4 experts are on 2 nodes.
    (found,) = (
        note for note in notes_of(nodes_at(0.0, 8), ("lazarus",), **{"job.fault_threshold": 3}) if "f 3" in note
    )
    assert found.endswith("f 3 does not fit: on 8 nodes, some expert is on 2 only; it fits with `placement` euclid")
    lost = nodes_at(0.0, 6, 600.0, Event(300.0, "remove", "n0"))
    never = {"job.checkpoint_interval_steps.lazarus": 10**6, "job.rebalance_interval_steps": 10**6}
    run = simulate(lost, systems=["lazarus"], model="gpt-l", routing="uniform", **never).runs[0]
    # All steps but those of the 300 s before the failure.
    assert run.below_threshold_s == pytest.approx(run.ledger_s["compute"] + run.ledger_s["lost_work"] - 300)


@pytest.mark.parametrize(
    ("steps", "note"),
    [
        ([0, 1], "the recorded loads end at step 1; later steps use the last ones"),
        ([30, 31], "the recorded loads begin at step 30; earlier steps use the first ones"),
        ([7], "the loads of step 7, the only one recorded, stand for all steps"),
    ],
)
def test_loads_that_stand_for_steps_beyond_their_recording_are_told(steps, note, tmp_path):
    path = tmp_path / "loads.npz"
    np.savez(path, iteration=np.array(steps), tokens=np.ones((len(steps), 12, 16), dtype=np.int64))
    assert note in notes_of(nodes_at(0.0, 6), ("lazarus",), routing=str(path))


def test_the_notes_of_a_run_are_on_stderr_in_its_json_and_in_its_folder(lazsim, tmp_path, monkeypatch):
    monkeypatch.setattr("lazsim.output.plots.run.throughput_figure", lambda _result: {})
    trace = tmp_path / "trace.csv"
    trace.write_text("# format: lazsim-trace 1\n# duration_s: 600\ntime_s,event,nodes\n0,add,n0 n1\n")
    _, out, err = lazsim("run", "--trace", trace, "--model", "gpt-l", "--system", "ds", "--json")
    files = run_files(simulate(trace, systems=["ds"], model="gpt-l"))
    note = "ds: nothing trained: 4 nodes are needed, and the trace has at most 2"
    assert f"note: {note}\n" in err
    for text in (out, files["summary.json"], files["run.json"]):
        # Fields that are no options are named without backquotes on the command line.
        told = [one.replace("`assumed`", "assumed") for one in json.loads(text)["notes"]]
        assert told == [note, ASSUMED.replace("`assumed`", "assumed"), ANALYTIC]


def test_a_long_note_is_told_whole_while_an_error_is_shortened(capsys):
    text = "a name of a system, " * 50
    note(text)
    assert capsys.readouterr().err == f"note: {text}\n"
    assert len(in_a_line(text)) == 400


def test_a_sweep_tells_the_notes_of_its_runs_and_of_how_many():
    base = {"trace": "fail-every-5min", "duration": "1min", "model": "gpt-l", "routing": "uniform"}
    grid = {"system": list(SYSTEMS), "max_nodes": [2, 6]}
    notes = run_sweep(parse_sweep({"base": base, "grid": grid}), num_workers=1).notes
    assert "ds: nothing trained: 4 nodes are needed, and the trace has at most 2 (1 of 4 runs)" in notes
    assert {ASSUMED, ANALYTIC} <= set(notes)


def test_a_trace_with_fewer_nodes_than_the_cluster_or_than_asked_for_is_told_of(tmp_path):
    # The answer is of eight nodes, whatever the name of the cluster says; a spare is one of the trace's.
    eight = tmp_path / "eight.csv"
    eight.write_text("# format: lazsim-trace 1\n# duration_s: 600\ntime_s,event,nodes\n0,add,a b c d e f g h\n")
    eight = str(eight)
    (told,) = [note for note in notes_of(eight, cluster="p3x32") if "never there" in note]
    assert told.startswith("the trace has up to 8 nodes, p3x32 has 32: ")
    assert "lazsim trace fit FILE --out like.toml, then lazsim trace generate like.toml --nodes 32" in told
    assert any("8 nodes, `max_nodes` asks for 9: " in note for note in notes_of(eight, cluster="p3x32", max_nodes=9))
    for settings in ({}, {"cluster": "p3x32", "max_nodes": 8}, {"cluster": "p3x32", "max_nodes": 7, "spares": 1}):
        assert not any("never there" in note for note in notes_of(eight, **settings))


def test_rivals_that_all_pad_are_told_with_one_that_does_not():
    def told(*systems):
        notes = lazsim.simulate("fail-every-5min", systems=systems, model="gpt-s").notes
        return [note.partition(":")[0] for note in notes if "pads none" in note]

    assert told("lazarus", "ds-ft", "ds") == ["ds-ft, ds"]
    for systems in (["lazarus"], ["ds"], ["lazarus", "ds", "dropless-ft"], ["lazarus", "dropless"]):
        assert told(*systems) == []


QWEN3 = {"model": "qwen3-235b-a22b", "cluster": "dgx-h100", "job": "qwen3-235b"}


def test_micro_batches_that_a_global_batch_leaves_empty_are_told_for_each_system():
    # A rank takes 16 GPUs, and multiples of 8 micro-batches of a sequence. lazarus uses 96 of 100 nodes, as 8 stages
    # share them evenly: 48 ranks have 2048 / 48 = 42.67 sequences each and take 48, so that 1 in 9 is empty. Of oobleck
    # 25 stages make two pipelines of 8, of up to 12 of 94 layers, and one of 9, of up to 11. Were layers alike, they
    # would end 42, 42 and 45 micro-batches in (42 + 7) * 12: the 16 ranks of each have 2048 / 16 = 128, and of 129
    # 0.8 % is empty. Where 41, 41 and 46 end first, none is.
    found = notes_of(nodes_at(0.0, 100), ["lazarus", "oobleck"], **QWEN3)
    told = (
        "data-parallel ranks take whole micro-batches, interleaved stages whole rounds of them, which "
        "job.parallel.global_batch does not fill on these nodes; share that stays empty: lazarus 11.1%, oobleck "
    )
    shares = [note.replace("`", "").partition(told)[2] for note in found if "stays empty" in note]
    assert [0.0 <= float(share.rstrip("%")) <= 0.8 for share in shares] == [True]
    # Without one of 128, bamboo and three replicas of replica-drop go on in their places, of which each rank has 2048 /
    # 64 = 32 as before; lazarus uses 120, of which 60 ranks take 40 where they have 34.13: 14.7 %.
    lost = nodes_at(0.0, 128, 36_000.0, Event(1.0, "remove", "n5"))
    told = notes_of(lost, ["bamboo", "replica-drop", "lazarus"], **QWEN3)
    assert "bamboo 0.0%, replica-drop 0.0%, lazarus 14.7%" in " ".join(told)
    # Without five, the pipelines of bamboo form anew on three model replicas, the 96 nodes of above.
    five = nodes_at(0.0, 128, 360_000.0, *(Event(1.0, "remove", f"n{index}") for index in range(5)))
    assert "empty: bamboo 11.1%" in " ".join(notes_of(five, ["bamboo"], **QWEN3))
    # 64 ranks have 32 each.
    whole = notes_of(nodes_at(0.0, 128), ["lazarus", "oobleck"], **QWEN3)
    assert "empty" not in " ".join(whole)


def steps_that_hang_on_nics(runs):
    """Return the notes on the rate of plain all-to-alls."""
    return [note for note in runs.notes if note.startswith("`step.all_to_all_nic_share`")]


def test_what_an_assumed_constant_weighs_in_the_steps_of_a_layout_is_told():
    share, systems = "step.all_to_all_nic_share", ["checkpoint", "ds"]

    def trained(**changes):
        # A day without failures, and without checkpoints: samples go inversely with the time of a step.
        day = nodes_at(0.0, 64, 86_400.0)
        return simulate(day, systems=systems, interval=0, **(QWEN3 | {"routing": "uniform"} | changes))

    as_is, low, high = trained(), trained(**{share: 0.26}), trained(**{share: 0.72})
    (note,) = steps_that_hang_on_nics(as_is)
    assert note.startswith(f"`{share}` 0.5 is assumed; at 0.26 and 0.72, steps under even loads change by ")
    for index, run in enumerate(as_is.runs):
        told = re.search(rf"(\S+)% and (\S+)%: {run.name}\b", note)
        assert told is not None
        for percent, changed in zip(told.groups(), (low, high), strict=True):
            # What precedes the first step takes the same time in all.
            assert 1 + float(percent) / 100 == pytest.approx(run.samples / changed.runs[index].samples, rel=0.01)
    # A value that is given is none to assume.
    assert not steps_that_hang_on_nics(low) + steps_that_hang_on_nics(high)


@pytest.mark.parametrize(("line", "told"), [
    ("fast_nics = [1, 2]", "assumed: fast_nics is no constant of one number"),
    ("host_expert_s = [1, 2]", "assumed: host_expert_s is no constant of one number"),
    ("fixed_s = [0.2, 0.1]", "assumed: fixed_s has 0.2 to 0.1; give the least first"),
])  # fmt: skip
def test_assumed_constants_that_are_none_or_have_no_range_are_refused(line, told, tmp_path):
    text = (files("lazsim.catalog") / "steps" / "training.toml").read_text()
    (tmp_path / "mine.toml").write_text(
        re.sub(r"(?m)^fixed_s = \[.*", "", text).replace("[assumed]", f"[assumed]\n{line}")
    )
    with pytest.raises(SpecError, match=re.escape(told)):
        load_spec(StepConstants, str(tmp_path / "mine.toml"))


def test_no_weight_is_told_of_an_assumption_that_steps_hardly_hang_on():
    # DeepEP sends a copy once to a node; its rate is measured.
    runs = simulate(nodes_at(0.0, 128), systems=["checkpoint"], model="deepseek-v3", cluster="h100x128")
    assert not any("is assumed; at" in note for note in runs.notes)


def test_a_weight_names_the_systems_only_whose_steps_hang_on_it():
    # Experts of one layout stay in a node, those of the other do not.
    systems = ["checkpoint", "bamboo"]
    runs = simulate(nodes_at(0.0, 64), systems=systems, model="deepseek-v3", cluster="h100x64")
    (note,) = steps_that_hang_on_nics(runs)
    assert (re.search(r"\bbamboo\b", note) is None) != (re.search(r"\bcheckpoint\b", note) is None)


def test_a_job_that_fits_on_the_fewest_nodes_is_told_on_which_it_does_not():
    # On 4 and 5 nodes lazarus takes up to 14.6 GiB, and on 6, where whole replicas fit worse, 14.9.
    lost = [Event(600.0 * each, "remove", f"n{each}") for each in (1, 2)]
    result = simulate(
        nodes_at(0.0, 6, 1800.0, *lost), systems=["lazarus"], model="gpt-l", **{"gpu.memory_bytes": 14.75 * 2**30}
    )
    (told,) = [note for note in result.notes if "does not fit" in note]
    share = share_of_steps(result.runs[0], until_s=600.0)
    assert f"lazarus does not fit on 6 nodes ({share:.1%} of the time of steps): gpt-l takes 14.9 GiB" in told


def test_tokens_whose_updates_of_experts_are_lost_stand_beside_the_samples_they_count_in():
    lost = [Event(600.0, "remove", "n0")]
    result = simulate(nodes_at(0.0, 6, 1800.0, *lost), systems=["moc", "checkpoint"], model="gpt-l", interval=50)
    moc, checkpoint = (run.lost_token_share for run in result.runs)
    assert moc > 0
    assert checkpoint is None
    shown = render(run_parts(result)).partition("where the time went")[0].splitlines()
    assert [line.split()[-1] for line in shown if line.startswith(("moc ", "checkpoint "))] == [f"{moc:.2%}", "-"]
    alone = simulate(nodes_at(0.0, 6, 1800.0, *lost), systems=["checkpoint"], model="gpt-l", interval=50)
    assert "tokens" not in render(run_parts(alone)).partition("where the time went")[0]


def share_of_steps(run, until_s):
    """Return the share of the time of steps that begin before a time."""
    steps = [span for span in run.phases if span.what == "compute"]
    seconds = [
        sum(span.end_s - span.start_s for span in steps if (span.start_s < until_s) == early) for early in (0, 1)
    ]
    return seconds[1] / sum(seconds)


def test_a_layout_that_fits_on_all_nodes_only_is_told_with_the_numbers_of_nodes_and_their_share():
    # Replicas of two nodes keep a state once on 12 nodes, and again on 2, where each GPU has six times the share of it.
    # The layout of other nodes stays, which all are there all the time.
    lost = [Event(395_000.0, "remove", f"n{index}") for index in range(10)]
    settings = {"model": "deepseek-v2-lite", "cluster": "dgx-h100", "interval": 100}
    chosen = resolve(settings | {"system": "checkpoint", "trace": nodes_at(0.0, 12)})
    # It would wait for others there.
    result = simulate_scenarios([chosen.replace("job.min_nodes", 0).under(nodes_at(0.0, 12, 400_000.0, *lost))])
    late = 1 - share_of_steps(result.runs[0], until_s=3.95e5)
    told = f"does not fit on 2 nodes ({late:.1%} of the time of steps): deepseek-v2-lite takes"
    (note,) = [note for note in result.notes if told in note]
    assert "the layout was chosen for the whole trace: `lazsim step --search --out` finds others for `job`" in note
    assert "does not fit" not in " ".join(simulate_scenarios([chosen]).notes)


def test_nodes_that_a_job_waits_for_are_told_also_where_the_cluster_has_fewer():
    # Of 6 nodes on a cluster of 4, three are away for the second half.
    gone = [Event(50_000.0, "remove", f"n{index}") for index in range(3)]
    trace = nodes_at(0.0, 6, 100_000.0, *gone)
    settings = {"job.min_nodes": 5, "cluster.num_nodes": 4}
    notes = notes_of(trace, systems=["ds"], model="gpt-s", cluster="rtx3090x10", **settings)
    assert any("(`min_nodes`) for 50% of the time: ds" in note for note in notes)


def test_notes_that_differ_in_numbers_only_are_told_once():
    assert count_notes([("ds", ["a 1.5 %", "b"]), ("ds", ["a 2 %"]), ("ds", [])]) == (
        "a 1.5 % (2 of 3 runs; numbers of the first run)",
        "b (1 of 3 runs)",
    )


def test_notes_that_differ_in_the_name_of_their_run_only_are_told_once_with_all_names():
    runs = [("ds", ["ds: a", "ds-ft is better"]), ("ds-ft", ["ds-ft: a"]), ("lazarus:mro", ["share: lazarus:mro 14%"])]
    assert count_notes([*runs, ("ds", ["share: ds 14%"]), ("ds-ft", ["share: ds-ft 15%"])]) == (
        "ds, ds-ft: a (2 of 5 runs)",
        "ds-ft is better (1 of 5 runs)",
        "share: lazarus:mro, ds 14% (2 of 5 runs)",
        "share: ds-ft 15% (1 of 5 runs)",
    )


def test_the_name_of_a_run_is_no_word_or_number_of_a_note():
    restarts = "reads a checkpoint. Share in restarts: {} 11%".format
    found = [("V1", ["V1: a 5"]), ("V2", ["V2: a 7"]), ("checkpoint", ["checkpoint does not fit", "ds/a.csv: b"])]
    found = [*found, ("ds", ["ds does not fit", "ds/a.csv: b"])]
    found = [(name, [*notes, restarts(name)]) for name, notes in found]
    assert count_notes(found) == (
        "V1: a 5 (1 of 4 runs)",
        "reads a checkpoint. Share in restarts: V1, V2, checkpoint, ds 11%",
        "V2: a 7 (1 of 4 runs)",
        "checkpoint, ds: each does not fit (2 of 4 runs)",
        "ds/a.csv: b (2 of 4 runs)",
    )


def test_a_sensitivity_study_tells_what_a_changed_constant_adds():
    settings = {"trace": nodes_at(0.0, 6), "model": "gpt-l", "routing": "uniform"}
    found = sensitivity(settings, systems=["lazarus"], constants=["slots_per_gpu", "detect_s"], factors=[0.5, 1.0])
    # Six nodes of 3 slots hold each of 16 experts once.
    few, *added = (note for note in found.notes if note not in found.base.notes)
    assert few.startswith("failures: lazarus 0; fewer than 10 tell little")
    assert [note.partition(" of the time")[0] for note in added] == ["slots_per_gpu x0.5: lazarus: in 100.0%"]
    assert found.to_json()["notes"] == list(found.notes)


def test_policies_that_put_an_expert_on_too_few_nodes_are_named():
    # 8 experts twice in 16 slots; packed in order, an expert has both on one node of 4.
    comparison = compare_plans(build_task(4, 4, experts=8, loads="uniform"), ["mro", "compact"])
    assert comparison.notes == ("some expert is on fewer than 2 nodes under compact",)
    # Where 2 of each do not fit, 1 of each is asked for.
    assert "fewer" not in " ".join(compare_plans(build_task(3, 4, experts=8, loads="uniform"), ["compact"]).notes)


def test_a_profile_that_lacks_sizes_or_kernels_of_a_run_says_which(tmp_path):
    # docs/guides/profiles.md: gpt-s runs on this profile, gpt-l stops at 2^29 parameters of the optimizer.
    folder = PROFILES / "epyc-2cores"
    assert list(profile_notes(folder / "gpt-s.csv", "gpt-s")) == []
    (note,) = profile_notes(folder / "gpt-l.csv", "gpt-l")
    assert (
        "cannot drive a run of gpt-l on rtx3090x10, lazarus: the profile has optimizer from 4,096 to 536,870,912"
        in note
    )
    whole, path = read_profile(folder / "gpt-s.csv"), tmp_path / "part.csv"
    save_profile(path, require_header(whole), [one for one in whole.points if one.kernel not in ("head", "reorder")])
    assert list(profile_notes(path, "gpt-s")) == [
        f"{path}: a run takes analytic times for dense: measure two sizes or more of head",
        f"{path}: a run takes analytic times for reorder: measure two sizes or more of reorder",
    ]


def test_a_profile_of_blocks_that_none_can_have_says_so(tmp_path):
    # Nemotron has Mamba-2 blocks, and a shared expert that is wider than its others.
    model, path = load_spec(ModelSpec, "nemotron-3-nano"), tmp_path / "part.csv"
    header = msgspec.structs.replace(require_header(read_profile(PROFILES / "epyc-2cores" / "gpt-s.csv")), model=model)
    save_profile(path, header, [ProfilePoint(kernel="optimizer", size=size, time_s=size * 1e-9) for size in (1, 2**40)])
    note, *_ = profile_notes(path, "nemotron-3-nano")
    assert note == f"{path}: a run takes analytic times for dense: no profile has state_space, shared_experts"


@pytest.mark.parametrize(
    ("model", "num_nodes", "note"),
    [
        ("gpt-oss-20b", 10, "sliding windows count as attention to the whole sequence"),
        ("glm-5", 256, "the choice of keys and what the indexer learns from count nothing"),
    ],
)
def test_a_block_that_runs_do_not_price_is_told(model, num_nodes, note):
    settings = {"model": model, "cluster": "dgx-h100", "duration": "1min", "systems": ["checkpoint"]}
    assert any(note in one for one in simulate(nodes_at(0.0, num_nodes), job="testbed-a", **settings).notes)
    # Steps of a layout have it.
    assert not any(note in one for one in simulate(nodes_at(0.0, num_nodes), **settings).notes)


def test_systems_that_train_nothing_for_one_reason_share_a_note_and_keep_their_settings():
    asked = {"systems": ["lazarus", "ds", "tutel"], "model": "gpt-l", "routing": "uniform"}
    own, found = (simulate(nodes_at(0.0, 2), **asked, interval=interval) for interval in (None, "auto"))
    # Expert parallelism takes 4 nodes, with replicas 3, as above.
    assert "ds, tutel: nothing trained: 4 nodes are needed, and the trace has at most 2" in found.notes
    assert [run.interval_steps for run in found.runs] == [run.interval_steps for run in own.runs]
    assert "best setting" not in render(run_parts(found), width=100)


@pytest.mark.parametrize(("missing_s", "is_told"), [(0.0, False), (1.0, True)])
def test_a_trace_is_told_to_be_too_short_but_not_where_its_parts_end_a_rounding_apart(missing_s, is_told):
    whole = lazsim.build_trace([lazsim.Event(0, "add", f"node{node}") for node in range(4)], duration_s=61e3)
    for number in range(6):
        part = whole.window(number * 61e3 / 6, 61e3 / 6)
        run = lazsim.simulate(part, systems=["ds"], duration=61e3 / 6 + missing_s, routing="uniform")
        assert any("but the trace ends after" in note for note in run.notes) is is_told


def test_a_seed_that_draws_nothing_is_told(tmp_path):
    trace = build_trace([Event(0, "add", f"n{at}") for at in range(4)], duration_s=600)

    def is_told(**asked):
        asked = {"trace": trace, "systems": ["lazarus"], "routing": "uniform", "seed": 7, "duration": 600} | asked
        return any("`seed` 7 has no effect" in note for note in simulate(**asked).notes)

    assert (is_told(), is_told(placements=["mro"])) == (True, True)
    # Placements, loads, or the nodes that fail are drawn.
    drawn = ({"placements": ["mro", "random"]}, {"routing": None}, {"trace": "fail-every-5min"})
    assert [is_told(**one) for one in drawn] == [False, False, False]
    # Four nodes come at once, and two of them are drawn, unless the first or all are taken.
    path = tmp_path / "trace.csv"
    path.write_text("time_s,event,node\n" + "".join(f"0,add,n{at}\n" for at in range(4)) + "600,remove,n0\n")
    two = {"trace": path, "time_unit": "s", "max_nodes": 2}
    capped = (two, two | {"cap": "first"}, two | {"cap": "clip"}, two | {"max_nodes": 4})
    assert [is_told(**one) for one in capped] == [False, True, True, True]
    # Which node of a file that only counts them goes is drawn as it is read, and not again in a run.
    path.write_text("time_s,count\n0,4\n600,3\n")
    assert [is_told(trace=one) for one in (path, read_trace(path))] == [False, True]


def test_a_seed_that_draws_nothing_of_plans_is_told():
    def is_told(failures_from=None, method="auto", policy="mro", **asked):
        task = build_task(**{"nodes": 6, "slots": 4, "experts": 8, "seed": 7} | asked)
        notes = assess_plans(task, build_scenarios(6, failures_from=failures_from, method=method), [policy]).notes
        placed = compare_plans(task, [policy]).notes
        return [any("`seed` 7 has no effect" in note for note in some) for some in (notes, placed)]

    assert is_told() == is_told(loads="zipf:1") == [True, True]
    assert is_told(seed=0) == is_told(policy="random") == is_told(loads="smartmoe-fit") == [False, False]
    assert is_told(loads="zipf:1", layers=2) == [False, False]
    # Sets of failures, nodes of layers and a trace are drawn, and no plan.
    assert is_told(method="montecarlo") == is_told(layers=2) == is_told("fail-every-5min") == [False, True]
