"""Nothing starts more processes than the machine holds."""

import errno
from types import SimpleNamespace

import pytest

from lazsim import processes
from lazsim.errors import LazsimError
from lazsim.study.collect import collect

GIB = 2**30


@pytest.fixture
def machine(monkeypatch):
    """Ten GiB, a thousand tasks and a hundred descriptors."""
    for name, value in (("free_memory_bytes", 10 * GIB), ("free_tasks", 1000), ("free_descriptors", 100)):
        monkeypatch.setattr(processes, name, lambda value=value: value)


@pytest.mark.parametrize(
    ("each", "most", "why"),
    [
        # Four fifths of ten GiB; 1000 / 300 tasks; 100 / 2 descriptors.
        ({"each_bytes": GIB}, 8, "80% of 10 GiB of free memory, 1024 MiB each"),
        ({"each_bytes": 1, "each_tasks": 300}, 3, "1000 more processes and threads, 300 each"),
        ({"each_bytes": 1, "each_descriptors": 2}, 50, "100 more open files, 2 each"),
    ],
)
def test_the_tightest_limit_decides_and_is_told(machine, each, most, why):
    processes.check_processes("nodes", most, "workers", **each)
    with pytest.raises(LazsimError) as refused:
        processes.check_processes("nodes", most + 1, "workers", **each)
    expected = f"`nodes` {most + 1}: this machine holds at most {most} workers ({why}); give fewer"
    assert str(refused.value) == expected


def test_this_machine_holds_the_process_that_asks():
    assert processes.free_memory_bytes() > 2**20
    assert processes.free_tasks() > 1
    assert processes.free_descriptors() > 1


def test_limits_of_a_container_count(monkeypatch, tmp_path):
    for name, text in (
        ("memory.max", "3000000"),
        ("memory.current", "2500000"),
        ("memory.stat", "anon 1\ninactive_file 100000\n"),
        ("pids.max", "50"),
        ("pids.current", "8"),
    ):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(processes, "GROUP", tmp_path)
    # Of 3.0 MB, 2.5 are used, and the kernel frees 0.1 of these on demand.
    assert processes.free_memory_bytes() == 600_000
    assert processes.free_tasks() == 42


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("live", "--nodes", 1000), "--nodes 1000"),
        (("live", "--trace", "hundred.csv", "--nodes", 100), "--nodes 100"),
        (("validate", "--nodes", 1000), "--nodes 1000"),
        (("profile", "--ranks", 12, "--out", "profile.csv"), "--ranks 12"),
    ],
)
def test_commands_that_train_refuse_more_processes_than_the_machine_holds(
    machine, lazsim, monkeypatch, tmp_path, arguments, option
):
    pytest.importorskip("torch", reason="live training needs torch: pip install 'lazsim[live]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("subprocess.Popen", None)
    monkeypatch.setattr(processes, "free_memory_bytes", lambda: 2 * GIB)
    trace = "".join(f"0,add,n{node}\n" for node in range(100))
    trace = f"# format: lazsim-trace 1\n# duration_s: 600\ntime_s,event,nodes\n{trace}600,remove,n1\n"
    (tmp_path / "hundred.csv").write_text(trace)
    code, out, err = lazsim(*arguments)
    said = [line for line in err.splitlines() if not line.startswith("note:")]
    assert (code, out, len(said)) == (2, "", 1), err
    assert f"{option}: this machine holds at most" in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["hundred.csv"]


def test_a_sweep_refuses_more_workers_than_the_machine_holds(machine):
    with pytest.raises(LazsimError, match="`num_workers` 100000: this machine holds at most"):
        collect(len, [[], [1], [2, 3]], num_workers=100_000)


@pytest.mark.parametrize("end_s", [64.0, 66.0])
def test_a_call_is_made_again_for_five_seconds_from_its_first_shortage_on(monkeypatch, end_s):
    now_s = [0.0]

    def wait(seconds):
        now_s[0] += seconds

    def call():
        if not now_s[0]:
            # The first one takes a minute until it finds that there is none.
            wait(60.0)
        if now_s[0] < end_s:
            raise BlockingIOError(errno.EAGAIN, "no process is left")
        return "made"

    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=lambda: now_s[0], sleep=wait))
    if end_s < 65.0:
        assert processes.when_possible(call) == "made"
    else:
        with pytest.raises(BlockingIOError, match="no process is left"):
            processes.when_possible(call)
        assert 65.0 < now_s[0] < 65.2
