"""Exchanges between real processes: right data, and none of them left behind whatever happens."""

# ruff: noqa: E402

import os
import re
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'lazsim[live]'")

from lazsim.errors import LazsimError
from lazsim.profiling import communication, exchanges
from lazsim.profiling.communication import (
    RankProcesses,
    choose_ranks,
    exchange_measurements,
    group_cycle,
    group_measurements,
    rank_counts,
)
from lazsim.profiling.exchanges import (
    EXCHANGES,
    SPLITS,
    leave_group,
    link_bytes,
)
from lazsim.profiling.session import label_of
from lazsim.profiling.timing import HostClock
from tests.conftest import refusal
from tests.models import HEADER

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs a torch with gloo")


def pids_of(ranks):
    return [process.pid for process in ranks._processes]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_exchange_delivers_what_was_sent_and_is_timed():
    with exchange_measurements(HEADER, 3, "gloo") as tasks:
        points = [task.measure(0.0) for task in tasks if task.size == 4096]
    assert [point.kernel for point in points] == list(EXCHANGES)
    for point in points:
        assert point.reference_error == 0
        assert point.moved_bytes == link_bytes(point.kernel, 3, 4096)
        assert point.num_ranks == 3


def test_wrong_data_is_noticed(monkeypatch):
    ranks = SimpleNamespace(ask=lambda *command, **_: [([1e-3] * 6, 1.0)])
    monkeypatch.setattr(communication, "RankProcesses", lambda *_: nullcontext(ranks))
    with exchange_measurements(HEADER, 2, "gloo") as tasks, pytest.raises(LazsimError, match="delivered wrong data"):
        tasks[0].measure(0.0)


@pytest.fixture
def pair():
    """Two processes with a group, none of which is left behind whatever a test does to them."""
    with RankProcesses(2, "gloo", "cpu") as ranks:
        pids = pids_of(ranks)
        ranks.ask("forming a group", "join", "test", 2)
        yield ranks
    assert not any(is_running(pid) for pid in pids)


def test_errors_in_processes_a_lack_of_memory_and_one_that_stands_still_are_told_in_one_line(pair):
    told = refusal(lambda: pair.ask("trying", "exchange", "unknown", 1024, 1, 1))
    assert re.fullmatch(r"process of rank \d failed while trying: KeyError: 'unknown'", told)
    # More than any address space: 2^60 bytes.
    assert pair.ask("trying", "fits", "all_reduce", 2**60, 1) == [False, False]
    assert pair.ask("trying", "fits", "all_reduce", 1024, 2) == [True, True]
    os.kill(pids_of(pair)[0], signal.SIGSTOP)
    pair.timeout_s = 0.5
    told = refusal(lambda: pair.ask("measuring broadcast of 1024 bytes", "exchange", "broadcast", 1024, 1, 1))
    assert told.startswith("process of rank 0, 1 gave no answer in 0 s while measuring broadcast")


def test_only_processes_of_this_machine_reach_the_store_at_which_ranks_meet(pair):
    port = f":{pair._store.port:04X}"
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    # 127.0.0.1 as the kernel writes it, and the state LISTEN.
    assert [row[1] for row in rows if row[1].endswith(port) and row[3] == "0A"] == [f"0100007F{port}"]


def test_a_group_is_formed_again_after_losing_a_member():
    created_s, recreated_s = group_cycle(3, "gloo", "cpu")
    assert created_s > 0
    assert recreated_s > 0


@pytest.mark.parametrize(("num_ranks", "expected"), [(2, 3), (4, 4)])
def test_a_group_that_loses_a_member_has_two_left(num_ranks, expected):
    tasks = group_measurements(HEADER, num_ranks, "gloo")
    assert [(task.kernel, task.size, task.num_ranks) for task in tasks] == [
        ("group_create", expected, expected),
        ("group_recreate", expected, expected),
    ]


@pytest.mark.parametrize(("backend", "left_by"), [("nccl", "abort"), ("gloo", "destroy")])
def test_nccl_does_not_wait_for_the_dead(monkeypatch, backend, left_by):
    said = []
    distributed = torch.distributed
    monkeypatch.setattr(
        distributed.distributed_c10d, "_abort_process_group", lambda: said.append("abort"), raising=False
    )
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: said.append("destroy"))
    leave_group(backend)
    assert said == [left_by]


@pytest.mark.parametrize(("num_ranks", "expected"), [(2, [2]), (3, [2, 3]), (8, [2, 4, 8])])
def test_exchanges_are_measured_over_powers_of_two_and_all(num_ranks, expected):
    assert rank_counts(num_ranks) == expected


def test_an_exchange_is_over_when_its_slowest_rank_is_done():
    def ask(_doing, command, *_arguments, **_expected):
        return [True, True] if command == "fits" else [([1.0, 2.0] * 3, 0.0), ([3.0, 1.0] * 3, 0.0)]

    task = communication._exchange("all_reduce", 1024, lambda: SimpleNamespace(ask=ask), HEADER, 2, "gloo")
    # Half of the runs take 3 s, the others 2 s.
    assert task.measure(0.0).time_s == 2.5


def test_gloo_does_not_send_from_a_gpu_and_says_so(monkeypatch):
    monkeypatch.setattr(communication, "cache_bytes", lambda _: 2**20)
    header = msgspec.structs.replace(HEADER, device="cuda")
    task = communication._exchange("point_to_point", 1024, None, header, 2, "gloo")
    assert task.skip_reason() == "gloo sends from the host's memory only"
    assert label_of(task.kernel, task.size, task.num_ranks) == "point_to_point over 2"


def test_a_process_killed_in_mid_measurement_ends_all_with_one_line(pair):
    # The others are told to start; the victim is gone before it can take part, so that they wait for it.
    os.kill(pids_of(pair)[0], signal.SIGKILL)
    doing = "measuring all_reduce of 1048576 bytes"
    told = refusal(lambda: pair.ask(doing, "exchange", "all_reduce", 2**20, 1, 10**6))
    assert told.startswith(f"process of rank 0 died (SIGKILL) while {doing}")


def test_a_process_killed_while_all_are_busy_is_noticed_at_once(pair):
    for connection in pair._connections:
        connection.send(("exchange", "all_to_all", 2**20, 1, 10**6))
    pair.doing = "measuring all_to_all of 1048576 bytes"
    os.kill(pids_of(pair)[1], signal.SIGKILL)
    with pytest.raises(LazsimError, match=r"rank 1 died \(SIGKILL\) while measuring all_to_all"):
        pair._gather(60.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cpu", 2, "nccl"), "`backend` nccl: not built into this torch"),
        (("cpu", 2, "mpi"), "`backend` mpi: not built into this torch"),
        (("cpu", 2, "pigeons"), "`backend` pigeons: not built into this torch, which has gloo"),
        (("cuda", None, "nccl"), "`backend` nccl: "),
        (("cuda", 1, "pigeons"), "`backend` pigeons: not built into this torch, which has gloo"),
    ],
)
def test_a_backend_that_is_not_there_is_refused(arguments, said):
    if arguments[2] == "nccl" and torch.distributed.is_nccl_available():
        pytest.skip("this torch has nccl")
    with pytest.raises(LazsimError, match=said):
        choose_ranks(*arguments)


def test_a_gpu_alone_exchanges_nothing_and_says_so():
    if torch.cuda.device_count() > 1:
        pytest.skip("needs a machine with fewer than two GPUs")
    ranks, backend, why_not = choose_ranks("cuda", None, None)
    assert (ranks, backend) == (1, "nccl")
    assert why_not.startswith("nccl takes a GPU for each process")


def test_nccl_needs_gpus_enough_and_to_be_asked_for_on_gpus(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(LazsimError, match="`backend` nccl: exchanges between GPUs only"):
        choose_ranks("cpu", 1, "nccl")
    with pytest.raises(LazsimError, match="`backend` nccl: nccl takes a GPU for each process, and there are 1"):
        choose_ranks("cuda", None, "nccl")
    with pytest.raises(LazsimError, match="`ranks` 2: nccl takes a GPU for each process, and there are 1"):
        choose_ranks("cuda", 2, None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert choose_ranks("cuda", None, None) == (4, "nccl", "")


@pytest.mark.parametrize(("backend", "line_up"), [("nccl", ["line up"]), ("gloo", [])])
def test_an_exchange_between_gpus_begins_when_all_of_them_do(monkeypatch, backend, line_up):
    now_s, calls = [0.0], []

    class Clock(HostClock):
        def mark(self):
            return now_s[0]

    def take(name, seconds):
        calls.append(name)
        now_s[0] += seconds

    fake = SimpleNamespace(barrier=lambda: take("barrier", 1.0), all_reduce=lambda _: take("line up", 30.0))
    made = exchanges.Exchange(lambda: (torch.zeros(1),), lambda _: take("run", 7.0), lambda: torch.zeros(1))
    monkeypatch.setattr(exchanges, "dist", fake)
    monkeypatch.setattr(exchanges, "clock_of", lambda _: Clock())
    worker = exchanges.RankWorker(0, 0, backend, "cpu", 1.0)
    monkeypatch.setattr(worker, "_make", lambda *_: made)
    # One run that is checked and one to warm up; the time of lining up does not count.
    assert worker.exchange("broadcast", 4, 1, 2) == ([7.0, 7.0], 0.0)
    assert calls == ["run", *3 * ["barrier", *line_up, "run"]]


def test_a_device_that_cannot_be_had_is_told_in_one_line():
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    ranks = RankProcesses(1, "gloo", "cuda")
    pids = pids_of(ranks)
    with pytest.raises(LazsimError, match="process of rank 0 failed while starting: "), ranks:
        pass
    assert not any(is_running(pid) for pid in pids)


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("count", [0, 1, 7, 256])
def test_parts_add_up(split, count):
    for num_ranks in (1, 2, 5):
        parts = split(num_ranks, count)
        assert (len(parts), sum(parts)) == (num_ranks, count)
        assert min(parts) >= 0


def test_parts_are_even_halved_or_one():
    assert {kernel: split(3, 8) for kernel, split in SPLITS.items()} == {
        "all_to_all": [3, 3, 2], "all_to_all_skewed": [4, 2, 2], "all_to_all_empty": [8, 0, 0]
    }  # fmt: skip
