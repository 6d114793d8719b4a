"""Signals, closed streams and readers that leave: one line or silence, the right exit code, and nothing left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench_signals import SWEEP, end_after, processes_of

PROGRAM = (sys.executable, "-m", "lazsim")

BEGUN = "import os, signal, time\nfrom lazsim.cli.base.ending import Ending, acknowledge\nwith Ending():\n    try:\n"
# An interrupt that is not acknowledged is raised again once its exception is gone.
HEARD = "    except KeyboardInterrupt:\n        acknowledge()\n        print('heard')\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.3, 1.5])
def test_a_command_ends_when_it_is_told_also_while_it_starts(number, delay_s, start_process, tmp_path):
    job = ("--model", "deepseek-v3", "--job", "testbed-a", "--cluster", "h200x128")
    command = ("run", "--trace", "spot-p3-like", "--duration", "300d", *job)
    ended = end_after(start_process, (*command, "--out", tmp_path / "out"), number, delay_s)
    assert ended.problem(tmp_path / "out") == ""
    assert ended.err or delay_s < 1
    assert ended.code == 128 + number
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_sweep_ends_with_its_workers(number, start_process, write, tmp_path):
    spec = write(SWEEP, "sweep.toml")
    command = ("sweep", spec, "--out", tmp_path / "out", "--jobs", "2")
    rows = tmp_path / "out" / "rows.jsonl"
    # All processes get the signal, as from a terminal.
    ended = end_after(start_process, command, number, lambda: rows.exists() and rows.stat().st_size, to_all=True)
    assert ended.problem() == ""
    assert ended.code == 128 + number
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["rows.jsonl"]


def test_a_worker_that_is_killed_is_one_line(start_process, write, tmp_path):
    spec = write(SWEEP, "sweep.toml")
    command = (*PROGRAM, "sweep", spec, "--out", tmp_path / "out", "--jobs", "2")
    sweep = start_process(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    rows = tmp_path / "out" / "rows.jsonl"
    while not (rows.exists() and rows.stat().st_size):
        time.sleep(0.02)
    command_of = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_of(sweep.pid)}
    os.kill(next(pid for pid, line in command_of.items() if b"popen_loky_posix" in line), signal.SIGKILL)
    out, err = sweep.communicate(timeout=600)
    assert (sweep.returncode, out) == (2, "")
    assert err == "lazsim: a worker process was killed, perhaps for want of memory; start again with fewer --jobs\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_python_itself_ends_changes_no_exit_code(number, run_process):
    # Workers are cleared away by what is registered meanwhile.
    script = (
        "import lazsim.__main__ as program, atexit, os, sys\n"
        "import lazsim.cli.base.group as group\n"
        "run = group.run_command\n"
        "def run_command(arguments):\n"
        f"    atexit.register(os.kill, os.getpid(), {int(number)})\n"
        "    return run(arguments)\n"
        "group.run_command = run_command\n"
        "sys.argv = ['lazsim', 'list', 'policies']\n"
        "program.main()"
    )
    done = run_process(sys.executable, "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert "mro" in done.stdout


def test_an_interrupt_that_python_loses_is_raised_again(run_process):
    # Python reports an exception in a finaliser, and goes on.
    script = (
        "import os, signal, time\n"
        "from lazsim.cli.base.ending import Ending, acknowledge\n"
        "class Lost:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        for _ in range(1000): pass\n"
        "with Ending():\n"
        "    try:\n"
        "        Lost()\n"
        "        time.sleep(60)\n"
    ) + HEARD
    ended = run_process(sys.executable, "-c", script)
    assert (ended.stdout, ended.stderr) == ("heard\n", "")


def test_an_interrupt_that_a_library_drops_is_raised_again_and_does_not_disturb_the_way_out(run_process):
    # Compiled code that calls a hash, as msgspec does, clears any exception of it.
    script = (
        f"{BEGUN}        try:\n"
        "            try:\n"
        "                os.kill(os.getpid(), signal.SIGINT)\n"
        "                time.sleep(60)\n"
        "            except KeyboardInterrupt:\n"
        "                pass\n"
        "            time.sleep(60)\n"
        "        finally:\n"
        "            time.sleep(0.2)\n"
        "            print('cleared')\n"
    ) + HEARD
    ended = run_process(sys.executable, "-c", script)
    assert (ended.stdout, ended.stderr) == ("cleared\nheard\n", "")


@pytest.mark.parametrize(("pause_s", "code", "out"), [(0.0, 0, "cleared\nheard\n"), (0.5, 130, "")])
def test_two_signals_at_once_are_one_order_and_a_later_one_ends_the_process(pause_s, code, out, run_process):
    # `timeout` sends one to the command and one to its group.
    script = (
        f"{BEGUN}        try:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "            time.sleep(60)\n"
        "        finally:\n"
        f"            time.sleep({pause_s})\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "            print('cleared')\n"
    ) + HEARD
    ended = run_process(sys.executable, "-c", script, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, out, "")


@pytest.mark.parametrize("hangs", [False, True])
def test_a_second_order_frees_folders_and_a_third_ends_what_hangs(hangs, run_process, tmp_path):
    order = f"os.kill(os.getpid(), {int(signal.SIGTERM)})"
    script = (
        "from pathlib import Path\nfrom lazsim.files.folders import hold_folder\n"
        "from lazsim.processes import clearing\n"
        f"hang = lambda: {hangs} and (time.sleep(0.5), {order}, time.sleep(60))\n"
        f"{BEGUN}        with hold_folder(Path({str(tmp_path / 'out')!r})), clearing(hang):\n"
        "            try:\n"
        f"                {order}\n"
        "                time.sleep(60)\n"
        "            finally:\n"
        "                time.sleep(0.5)\n"
        f"                {order}\n"
    ) + HEARD
    ended = run_process(sys.executable, "-c", script, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "", "")
    assert bool(os.listdir(tmp_path)) is hangs


@pytest.mark.parametrize(("num_orders", "code", "out"), [(1, 0, "heard\n"), (2, 130, "")])
def test_an_order_while_a_command_clears_away_leaves_nothing(num_orders, code, out, run_process, tmp_path):
    # The first one comes when one of two new folders is gone.
    script = (
        "from pathlib import Path\nfrom lazsim.files.folders import hold_folder\n"
        "rmdir = Path.rmdir\n"
        "def rmdir_and_order(path):\n"
        "    rmdir(path)\n"
        "    Path.rmdir = rmdir\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        f"        if {num_orders} == 2:\n"
        "            time.sleep(0.5)\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "Path.rmdir = rmdir_and_order\n"
        f"{BEGUN}        with hold_folder(Path({str(tmp_path)!r}) / 'a' / 'b'):\n"
        "            pass\n"
        "        time.sleep(60)\n"
    ) + HEARD
    ended = run_process(sys.executable, "-c", script, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, out, "")
    assert list(tmp_path.iterdir()) == []


def test_a_second_order_takes_temporary_files_and_folders_along(run_process, tmp_path):
    # The first one comes during a write, and the second one before what the first has begun to clear away is gone.
    script = (
        "from pathlib import Path\nfrom lazsim.files.writing import scratch_folder, write_whole\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"{BEGUN}        with scratch_folder(folder) as scratch:\n"
        "            write_whole(scratch / 'state', b'1')\n"
        "            def chmod(*_):\n"
        "                assert len(list(folder.glob('.lazsim-*'))) == 2\n"
        "                try:\n"
        "                    os.kill(os.getpid(), signal.SIGINT)\n"
        "                    time.sleep(60)\n"
        "                finally:\n"
        "                    time.sleep(0.5)\n"
        "                    os.kill(os.getpid(), signal.SIGINT)\n"
        "            os.chmod = chmod\n"
        "            write_whole(folder / 'out', b'2')\n"
    ) + HEARD
    ended = run_process(sys.executable, "-c", script, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")
    assert list(tmp_path.iterdir()) == []


def test_the_second_of_two_signals_at_once_does_not_disturb_what_is_written_after_an_order(run_process):
    script = (
        # Also where this machine has no time for the process between the two.
        "import lazsim.processes as processes\nprocesses.SAME_S = 60.0\n"
        f"{BEGUN}        os.kill(os.getpid(), signal.SIGINT)\n        time.sleep(60)\n"
        f"{HEARD}    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(0.3)\n    print('written')\n"
    )
    ended = run_process(sys.executable, "-c", script)
    assert (ended.stdout, ended.stderr) == ("heard\nwritten\n", "")


def test_the_end_of_a_terminal_that_is_told_again_later_is_one_order(run_process):
    # A shell passes it on, and then the system tells all processes of the terminal, however long that takes.
    script = (
        f"{BEGUN}        try:\n            os.kill(os.getpid(), signal.SIGHUP)\n            time.sleep(60)\n"
        "        finally:\n            time.sleep(0.5)\n            os.kill(os.getpid(), signal.SIGHUP)\n"
        "            print('cleared')\n"
    ) + HEARD
    ended = run_process(sys.executable, "-c", script)
    assert (ended.stdout, ended.stderr) == ("cleared\nheard\n", "")


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_threads_that_an_interrupt_breaks_say_nothing(is_interrupted, run_process):
    script = (
        "import os, signal, sys, threading, time\n"
        "from lazsim.cli.base.ending import Ending\n"
        "with Ending():\n"
        "    try:\n"
        f"        {is_interrupted} and os.kill(os.getpid(), signal.SIGINT)\n"
        "    finally:\n"
        "        thread = threading.Thread(target=lambda: {}[1])\n"
        "        thread.start()\n"
        "        thread.join()\n"
        "        os._exit(0)\n"
    )
    assert ("KeyError" in run_process(sys.executable, "-c", script).stderr) != is_interrupted


def test_an_interrupt_waits_until_a_module_is_imported(run_process, tmp_path):
    (tmp_path / "slow.py").write_text(
        "import os, signal\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    for _ in range(1000): pass\n"
        "except BaseException:\n"
        "    raise ImportError('broken')\n"
    )
    script = (
        "import time\n"
        "from lazsim.cli.base.ending import Ending, acknowledge\n"
        "with Ending():\n"
        "    try:\n"
        "        import slow\n"
        "        time.sleep(60)\n"
    ) + HEARD
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    assert run_process(sys.executable, "-c", script, env={**os.environ, "PYTHONPATH": paths}).stdout == "heard\n"


def test_an_interrupt_while_torch_is_imported_ends_the_process_and_leaves_nothing(run_process, tmp_path):
    (package := tmp_path / "torch").mkdir()
    (package / "__init__.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    (folder := tmp_path / "temporary").mkdir()
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(folder)}
    ended = run_process(*PROGRAM, "live", "--steps", "1", env=environment, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "lazsim: interrupted\n")
    assert os.listdir(folder) == []


@pytest.mark.parametrize("step", ["register semlock", "register folder", "unregister folder"])
def test_an_interrupt_waits_until_workers_are_started_or_cleared_away(step, run_process):
    # What is half registered is lost, and loky's tracker tells so. Another thread receives what the main one blocks.
    script = (
        "import os, signal, sys, threading, time\n"
        "from joblib.externals.loky.backend import resource_tracker\n"
        "from lazsim.cli.base.ending import Ending, acknowledge\n"
        "from lazsim.study.backends import on_loky\n"
        "name, interrupted = sys.argv[1:]\n"
        "register = getattr(resource_tracker, name)\n"
        "def and_interrupt(path, kind):\n"
        "    register(path, kind)\n"
        "    if kind == interrupted:\n"
        "        setattr(resource_tracker, name, register)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(0.1)\n"
        "setattr(resource_tracker, name, and_interrupt)\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "with Ending():\n"
        "    try:\n"
        "        sorted(on_loky(str, range(4), 2, None))\n"
        "        time.sleep(60)\n"
    ) + HEARD
    ended = run_process(sys.executable, "-c", script, *step.split())
    assert (ended.stdout, ended.stderr) == ("heard\n", "")


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("$LAZSIM list systems --json 2>&-", 0),
        ("$LAZSIM list systems --json </dev/null", 0),
        ("$LAZSIM list systems --json <&- 2>&-", 0),
        ("$LAZSIM list systems --json >&-", 0),
        ("$LAZSIM list systems --json <&- >&- 2>&-", 0),
        ("$LAZSIM list systems --json 2>/dev/full", 0),
        ("$LAZSIM list nothing 2>&-", 2),
        ("$LAZSIM list nothing 2>/dev/full", 2),
        ("$LAZSIM trace generate spot-p3-like --out - 2>/dev/full >/dev/null", 0),
        ("$LAZSIM list systems | true", 0),
        ("$LAZSIM --help | true", 0),
        ("$LAZSIM list nothing 2>&1 | true", 2),
        ("$LAZSIM trace generate spot-p3-like --out - | head -1 > /dev/null", 0),
        ("$LAZSIM list systems > /dev/full", 1),
        ("$LAZSIM --version > /dev/full", 1),
    ],
)
def test_streams_that_are_closed_full_or_left_do_no_harm(script, code, run_process):
    environment = {**os.environ, "LAZSIM": " ".join(PROGRAM)}
    found = run_process("bash", "-c", f"set -o pipefail; {script}", env=environment, check=False)
    assert found.returncode == code, found.stderr
    full = ["lazsim: stdout: cannot be written (No space left on device); choose another place"]
    assert [line for line in found.stderr.splitlines() if not line.startswith("note: ")] == (full if code == 1 else [])
    if "--json" in script and ">&-" not in script.replace("2>&-", ""):
        assert found.stdout.startswith("{")


def test_a_file_does_not_get_what_is_meant_for_a_closed_stream(run_process, tmp_path):
    path = tmp_path / "t.csv"
    command = f"{' '.join(PROGRAM)} trace generate fail-every-5min --out {path} <&- >&- 2>&-"
    run_process("bash", "-c", command)
    assert all(line.startswith(b"#") or b"," in line for line in path.read_bytes().splitlines())


def test_text_that_a_terminal_cannot_show_is_escaped(run_process, write):
    path = write("0,add,node1\n600000,remove,node1\n", "\u00e9\u4e2d.csv")
    for arguments in (("trace", "info", path), ("trace", "info", path, "--json")):
        run_process(*PROGRAM, *arguments, env={**os.environ, "PYTHONIOENCODING": "ascii"})


def test_a_sparkline_is_of_digits_where_the_encoding_has_no_bars(run_process, write):
    path = write(
        "# format: lazsim-trace 1\n# duration_s: 7600\ntime_s,event,nodes\n0,add,a b\n3800,remove,a\n", "\u00e9.csv"
    )
    poor = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    lines = run_process(*PROGRAM, "trace", "info", path, env=poor, encoding="latin-1").stdout.splitlines()
    assert lines[0] == "\u00e9.csv (lazsim)"
    # Two nodes for the first half of the time, one of two for the second.
    assert lines[-1] == "8" * 38 + "4" * 38


def test_a_group_without_a_command_shows_its_help(lazsim):
    for arguments in ((), ("trace",)):
        _, out, err = lazsim(*arguments)
        assert len((out + err).splitlines()) > 10


def test_an_interrupt_while_help_is_written_is_one_line(lazsim, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lazsim.cli.base.group.LazyGroup.format_commands", stop)
    assert lazsim("--help") == (130, "", "lazsim: interrupted\n")


def test_a_run_writes_its_files_without_a_word_where_no_home_and_no_utf_8_are(run_process, tmp_path):
    poor = {"HOME": "/proc/none", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    arguments = ("run", "--trace", "fail-every-5min", "--duration", "1min", "--system", "ds", "--out", tmp_path / "out")
    ended = run_process(*PROGRAM, *arguments, env={**os.environ, **poor})
    assert ended.returncode == 0
    assert all(line.startswith("note: ") for line in ended.stderr.splitlines())
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("num_orders", [1, 2])
def test_a_command_whose_exit_hangs_ends_when_it_is_told_and_loses_no_output(num_orders, start_process):
    # Python waits for a thread, as for those of a pool of workers. After one order that takes a while, after two not.
    script = (
        "import lazsim.__main__ as program, lazsim.cli.base.ending as ending, sys, threading, time\n"
        f"ending.CLEAR_S = {(0.2, 600.0)[num_orders - 1]}\n"
        "def hang():\n"
        "    threading.main_thread().join()\n"
        "    print('clearing away', flush=True)\n"
        "    time.sleep(600)\n"
        "threading.Thread(target=hang).start()\n"
        "sys.argv = ['lazsim', 'list', 'policies']\n"
        "program.main()"
    )
    running = start_process(sys.executable, "-c", script, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    shown = list(iter(running.stdout.readline, "clearing away\n"))
    for _ in range(num_orders):
        running.send_signal(signal.SIGTERM)
        # Two that come at once count as one.
        time.sleep(0.5)
    assert running.communicate(timeout=600) == ("", "")
    assert running.returncode == 0
    assert "mro" in "".join(shown)
