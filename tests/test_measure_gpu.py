"""The slices of ``make gpu``, without a GPU."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests import measure_gpu
from tests.conftest import ROOT
from tests.measure_gpu import MODULES, Session, Task, find_environment, hold, pending, scale_to, summarise, tasks

PRINT = "import json, sys; json.dump({'out': sys.argv[1:]}, sys.stdout)"


@pytest.fixture
def begin(tmp_path):
    return lambda: Session(tmp_path / "state", dict(os.environ), "cpu", scale=1.0)


def test_every_model_of_the_catalogue_is_measured_once_and_then_checked():
    models = sorted(path.stem for path in (ROOT / "lazsim" / "catalog" / "models").glob("*.toml"))
    names = [task.name for task in tasks("cuda", models, num_gpus=1)]
    assert len(set(names)) == len(names)
    assert names[0] == "tests"
    for model in models:
        assert names.index(f"profile {model}") < names.index(f"check {model}")


def test_one_slice_of_nine_minutes_tells_all_that_a_gpu_is_wanted_for_but_the_validation():
    models = sorted(path.stem for path in (ROOT / "lazsim" / "catalog" / "models").glob("*.toml"))
    found, taken_s, first = tasks("cuda", models, num_gpus=1), 0.0, []
    scale = scale_to(1500.0, found)
    for task in found:
        # Twenty seconds go for the start of a command, and ten of nine minutes for packing.
        if taken_s + scale * task.seconds + 20 < 530:
            taken_s += scale * task.seconds + 4
            first.append(task.name)
    wanted = ["tests", "profile gpt-l", "profile deepseek-v3", "check gpt-l", "check deepseek-v3"]
    assert first[:8] == [*wanted, "ranks gpt-l", "skew gpt-l", "ranks deepseek-v3"]
    assert next(task.name for task in found if task.name not in first) == "validate"


def test_all_tasks_share_the_total_however_many_there_are():
    one, other = Task("one", (), 90), Task("other", (), 36)
    # Each takes four seconds beyond its own: 94 s, and 134 s together.
    assert scale_to(188.0, [one]) == 2.0
    assert scale_to(67.0, [one, other]) == 0.5


def test_exchanges_by_nccl_are_measured_where_there_are_several_gpus():
    assert "profile gpt-l-nccl" not in [task.name for task in tasks("cuda", ["gpt-l"], num_gpus=1)]
    found = {task.name: task for task in tasks("cuda", ["gpt-l"], num_gpus=4)}
    assert "--ranks 4 --backend nccl" in " ".join(found["profile gpt-l-nccl"].command)


@pytest.mark.parametrize(("device", "num_gpus"), [("cpu", 0), ("cuda", 1), ("cuda", 4)])
def test_exchanges_are_measured_with_one_model_alone(device, num_gpus):
    found = {task.name: task.command for task in tasks(device, ["gpt-l", "gpt-s", "olmoe-1b-7b"], num_gpus)}
    assert "--ranks" not in found["profile gpt-l"]
    for name in ("profile gpt-s", "profile olmoe-1b-7b"):
        # One GPU has no exchanges, and the profile says so.
        assert ("--ranks 1" in " ".join(found[name])) is (num_gpus != 1)


def test_a_session_goes_on_from_what_came_back_of_another_machine(begin, tmp_path):
    session, task = begin(), Task("one", ("-c", PRINT, "BUDGET", "PROFILES/a.csv"), 30)
    session.run(task, 100)
    (session.profiles / "a.csv").write_text("kernel\n")
    session.save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "log.txt", "profiles.zip", "report.json", "summary.txt"
    ]  # fmt: skip

    (tmp_path / "out").rename(tmp_path / "fetched")
    later = Session(tmp_path / "fetched", dict(os.environ), "cpu", scale=1.0)
    assert later.is_done("one")
    assert (later.profiles / "a.csv").read_text() == "kernel\n"
    report = json.loads((tmp_path / "fetched" / "report.json").read_text())
    assert report["tasks"]["one"]["result"] == {"out": ["30s", str(tmp_path / "state" / "profiles" / "a.csv")]}


def test_what_time_has_cut_is_tried_again_once_and_what_fails_is_told(begin):
    session = begin()
    endless, broken = Task("endless", ("-c", "while True: pass"), 30), Task("broken", ("-c", "sys.exit(3)"), 30)
    statuses = []
    for task, left_s in ((endless, 0.2), (endless, 0.2), (broken, 60)):
        session.run(task, left_s)
        statuses.append(session.report["tasks"][task.name]["status"])
    assert statuses == ["cut", "failed", "failed"]
    assert "NameError" in session.report["tasks"]["broken"]["said"]


def test_the_summary_has_every_figure_and_every_reason():
    def ended(status, said="", exit_status=0, **result):
        return {"status": status, "said": said, "exit_status": exit_status, "result": result}

    grouped = {"kernel": "grouped", "share": 0.834, "of": "one expert", "size": 4096.0}
    layer = {"layer": 0, "error": 0.004, "worst_rank_error": -0.14}
    row = {
        "skew": 4.0, "even_predicted_s": 0.97, "even_measured_s": 1.0, "allocated_predicted_s": 1.03,
        "allocated_measured_s": 1.0, "won_back": 0.38,
    }  # fmt: skip
    component = {"name": "ETTR", "measured": 0.671, "relative_error": 0.02, "judged": True}
    profiled = (
        "gpt-l.csv has 134 points of 11\n  kernels; lazsim profile show gpt-l.csv\n"
        "note: skipped: head: 1024: budget; 2048: memory\nnote: skipped: all_reduce over 4: 64, 128: budget\n"
        "note: skipped: attention: 18 layers see 128 tokens, for which torch has no kernel\n"
        "note: gpt-l.csv: cannot drive a run of gpt-l\n"
    )
    found = summarise({
        "conditions": [
            {"at": "now", "nvidia_smi": ["NVIDIA H100"], "gpus": [], "machine": "Linux", "versions": {"torch": "2.11"}},
            {"at": "then", "nvidia_smi": [], "gpus": ["name='H100'"], "machine": "Linux", "versions": {}},
            {"at": "here", "nvidia_smi": [], "gpus": [], "machine": "Linux", "versions": {}},
        ],
        "tasks": {
            "profile gpt-l": ended("done", profiled),
            "tests": ended("done", "3 passed\n"),
            "check gpt-l": ended("done", median_error=0.017, reached=[grouped]),
            "ranks gpt-l": ended("done", layers=[layer]),
            "skew gpt-l": ended("done", rows=[row]),
            "validate": ended("done", components=[component, component | {"judged": False}]),
            "profile gpt-s": ended("failed", "note\nlazsim: too little memory\n", 2),
            "profile gpt-m": ended("cut", "", None),
            "profile arctic": ended("cut", "arctic.csv has 9 points of 2 kernels; lazsim profile show arctic.csv\n"),
        },
    })  # fmt: skip
    assert list(found) == [
        "now: NVIDIA H100; Linux; torch 2.11",
        "then: name='H100'; Linux; ",
        "here: no GPU; Linux; ",
        "profile gpt-l: 134 points of 11 kernels; too little time for all sizes of head, all_reduce over 4; "
        "too little memory for all sizes of head; none of attention",
        "tests: 3 passed",
        "check gpt-l: interpolation error 1.7% (wanted: 5 %), grouped 83% of one expert at 4096 (wanted: 85 %)",
        "ranks gpt-l: layer 0 predicted over measured: slowest rank +0.4%, worst -14.0%",
        "skew gpt-l: skew 4 predicted over measured: even -3.0%, allocated +3.0%, 38% won back",
        "validate: ETTR 0.671 +2.0%",
        "profile gpt-s: FAILED, exit status 2: lazsim: too little memory",
        "profile gpt-m: CUT, no time was left: ",
        "profile arctic so far: 9 points of 2 kernels",
    ]


def begins(session, found, left_s):
    return [task.name for task, _ in pending(session, found, time.monotonic() + left_s, 540.0)]


def test_a_slice_begins_only_what_fits_into_it(begin):
    session = begin()
    found = [Task("hour", (), 3600), Task("long", (), 240), Task("short", (), 5)]
    # Twenty seconds go for the start of a command, and fifteen is the least that a measurement gets.
    assert begins(session, found, left_s=24) == []
    assert begins(session, found, left_s=26) == ["short"]
    assert begins(session, [Task("measured", ("BUDGET",), 5)], left_s=34) == []
    assert begins(session, [Task("measured", ("BUDGET",), 5)], left_s=36) == ["measured"]
    assert begins(session, found, left_s=261) == ["long", "short"]
    # Longer than a slice, so that nine tenths of one do: 486 s.
    assert begins(session, found, left_s=487) == ["hour", "long", "short"]


def test_a_profile_that_a_slice_has_shortened_goes_on_in_the_next(begin):
    session, budgets = begin(), []
    # The second does not end in its slice.
    for code, left_s in ((PRINT, 70), ("while True: pass", 0.2), (PRINT, 500)):
        session.run(Task("profile", ("-c", code, "BUDGET"), 90, goes_on=True), left_s)
        budgets.append(session.report["tasks"]["profile"]["result"]["out"])
    # Twenty seconds before the end of the slice, and then the rest of 90 s, whatever the other slice took.
    assert [budgets[0], budgets[2]] == [["50s"], ["40s"]]
    assert session.is_done("profile")


def test_a_command_that_asks_for_more_time_gets_it_once(begin):
    session = begin()
    ask = "import sys; print(sys.argv[1], file=sys.stderr); sys.exit('lazsim: --budget: too short; give 304s, about')"
    task, statuses = Task("ranks", ("-c", ask, "BUDGET"), 60), []
    for _ in range(2):
        session.run(task, 500)
        noted = session.report["tasks"]["ranks"]
        statuses.append((noted["status"], noted["said"].split()[0]))
        assert begins(session, [task], left_s=325) == (["ranks"] if noted["status"] == "cut" else [])
        assert begins(session, [task], left_s=323) == []
    assert statuses == [("cut", "60s"), ("failed", "304s")]


def test_what_has_failed_is_tried_again_once_the_code_has_changed(begin, tmp_path):
    session, broken = begin(), Task("broken", ("-c", "sys.exit(3)"), 30)
    session.run(broken, 60)
    assert session.is_done("broken")
    session.code = "mended"
    assert begins(session, [broken], left_s=100) == ["broken"]
    session.run(Task("broken", ("-c", PRINT), 30), 60)
    session.code = "changed again"
    assert session.is_done("broken")


def test_a_task_waits_for_what_it_needs_and_comes_also_where_that_failed(begin):
    session = begin()
    profile, check = Task("profile", ("-c", "sys.exit(3)"), 30), Task("check", ("-c", PRINT), 5, needs="profile")
    assert begins(session, [check], left_s=100) == []
    session.run(profile, 60)
    assert begins(session, [check], left_s=100) == ["check"]


def test_nothing_is_unpacked_where_all_modules_are_installed(tmp_path):
    assert {"torch", "msgspec"} <= set(MODULES)
    environment = find_environment(tmp_path)
    assert environment["PYTHONPATH"].startswith(str(ROOT))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "said"),
    [("while True: pass", "no answer in 0 s"), ("import os; os._exit(3)", "exit status 3"), ("1 / 0", "ZeroDivision")],
)
def test_a_torch_that_finds_no_devices_or_does_not_answer_is_told(monkeypatch, code, said):
    monkeypatch.setattr(measure_gpu, "FIND_S", 0.4 if "while" in code else 60.0)
    monkeypatch.setattr(measure_gpu, "CONDITIONS", code)
    with pytest.raises(SystemExit, match=f"torch does not work here: .*{said}"):
        measure_gpu.conditions(dict(os.environ))


SLICE = """
import tests.measure_gpu as measured
write = "open(sys.argv[1] + '/half.csv', 'w').write('kernel'); open(sys.argv[2], 'w').write(str(os.getpid()))"
begun = f"import os, sys, time; {write}; time.sleep(600)"
tasks = [measured.Task("done", ("-c", ""), 15), measured.Task("begun", ("-c", begun, "PROFILES", PID), 15)]
measured.tasks = lambda *_: tasks
measured.conditions = lambda _: {"gpus": [], "nvidia_smi": [], "machine": "", "at": "now", "versions": {}}
measured.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_slice_that_is_ended_leaves_whole_files_and_no_process(start_process, tmp_path, number):
    pid, state, out = tmp_path / "pid", tmp_path / "state", tmp_path / "out"
    options = ["--device", "cpu", "--state", str(state), "--out", str(out)]
    code = SLICE.replace("PID", repr(str(pid)))
    process = start_process(sys.executable, "-c", code, *options, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."})
    while not (pid.exists() and pid.read_text().strip()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait() == (-number if number == signal.SIGKILL else 128 + number)
    while alive(int(pid.read_text())):
        time.sleep(0.05)

    report = json.loads((out / "report.json").read_text())
    assert {name: noted["status"] for name, noted in report["tasks"].items()} == {"done": "done"}
    with zipfile.ZipFile(out / "profiles.zip") as packed:
        # What the task had measured comes back, too, unless the slice had no time to pack it.
        assert packed.namelist() == ([] if number == signal.SIGKILL else ["half.csv"])
    later = Session(state, dict(os.environ), "cpu", scale=1.0)
    assert (later.profiles / "half.csv").read_text() == "kernel"
    assert [later.is_done(name) for name in ("done", "begun")] == [True, False]


def alive(pid):
    """Tell whether a process runs: one that has ended may wait for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_profiles_that_came_back_are_unpacked_anew_where_a_slice_was_killed_meanwhile(begin, tmp_path):
    state = tmp_path / "state"
    (state / "profiles.part").mkdir(parents=True)
    (state / "profiles.part" / "a.csv").write_text("ker")
    (state / "report.json").write_text('{"device": "cpu", "conditions": [], "tasks": {}}')
    with zipfile.ZipFile(state / "profiles.zip", "w") as packed:
        packed.writestr("a.csv", "kernel")
        packed.writestr("b.csv", "kernel")
    session = begin()
    assert {path.name: path.read_text() for path in session.profiles.iterdir()} == {
        "a.csv": "kernel",
        "b.csv": "kernel",
    }


def test_a_second_slice_at_the_same_time_is_refused(tmp_path):
    code = f"import pathlib, tests.measure_gpu as measured; measured.hold(pathlib.Path({str(tmp_path)!r}))"
    for is_held in (False, True):
        if is_held:
            hold(tmp_path)
        found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert (found.returncode, "another slice" in found.stderr) == (is_held, is_held)


def test_a_wheel_that_does_not_work_here_is_named_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(measure_gpu, "MODULES", ("no_such_module",))
    monkeypatch.setattr(measure_gpu, "WHEELS", tmp_path)
    with zipfile.ZipFile(tmp_path / "no_such_module-1.0-py3-none-any.whl", "w") as packed:
        packed.writestr("no_such_module.py", "import of_another_python")
    with pytest.raises(SystemExit, match=r"No module named 'of_another_python'.*make wheels GPU_PYTHON=3\."):
        find_environment(tmp_path / "state")
