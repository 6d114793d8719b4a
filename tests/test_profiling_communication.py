"""Exchanges between real processes: right data, and none of them left behind whatever happens."""

# ruff: noqa: E402

import os
import signal
from contextlib import nullcontext
from types import SimpleNamespace

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'lazsim[live]'")

from lazsim.costmodel.profile import Header
from lazsim.errors import LazsimError
from lazsim.profiling import communication, exchanges
from lazsim.profiling.communication import (
    RankProcesses,
    choose_ranks,
    exchange_measurements,
)
from lazsim.profiling.exchanges import EXCHANGES, RankWorker, link_bytes
from lazsim.profiling.merge import label_of
from lazsim.profiling.timing import HostClock
from lazsim.specs import ModelSpec, load_spec

HEADER = Header(
    format_version=1, lazsim="0.1.0", torch="2", device="cpu", dtype="float32", model=load_spec(ModelSpec, "gpt-s"),
    conditions={}, matmul_flop_per_s=1e11, copy_bytes_per_s=1e10,
)  # fmt: skip

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs a torch with gloo")


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids_of(ranks: RankProcesses) -> list[int]:
    return [process.pid for process in ranks._processes]


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


def test_buffers_that_cannot_be_had_are_noticed_before_the_exchange(monkeypatch):
    # More than any address space: 2^60 bytes.
    with RankProcesses(2, "gloo", "cpu") as ranks:
        assert ranks.ask("trying", "fits", "all_reduce", 2**60, 1) == [False, False]
        assert ranks.ask("trying", "fits", "all_reduce", 1024, 2) == [True, True]


def test_gloo_does_not_send_from_a_gpu_and_says_so(monkeypatch):
    monkeypatch.setattr(communication, "cache_bytes", lambda _: 2**20)
    header = msgspec.structs.replace(HEADER, device="cuda")
    task = communication._exchange("point_to_point", 1024, None, header, 2, "gloo")
    assert task.skip_reason() == "gloo sends from the host's memory only"
    assert label_of(task.kernel, task.num_ranks) == "point_to_point over 2"


def test_a_process_killed_in_mid_measurement_ends_all_with_one_line():
    with RankProcesses(2, "gloo", "cpu") as ranks:
        pids = pids_of(ranks)
        # The others are told to start; the victim is gone before it can take part, so that they wait for it.
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(LazsimError) as caught:
            ranks.ask("measuring all_reduce of 1048576 bytes", "exchange", "all_reduce", 2**20, 1, 10**6)
    said = "process of rank 0 died (SIGKILL) while measuring all_reduce of 1048576 bytes"
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert not any(is_running(pid) for pid in pids)


def test_a_process_killed_while_all_are_busy_is_noticed_at_once():
    with RankProcesses(2, "gloo", "cpu") as ranks:
        pids = pids_of(ranks)
        for connection in ranks._connections:
            connection.send(("exchange", "all_to_all", 2**20, 1, 10**6))
        ranks.doing = "measuring all_to_all of 1048576 bytes"
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(LazsimError, match=r"rank 1 died \(SIGKILL\) while measuring all_to_all"):
            ranks._gather(60.0)
    assert not any(is_running(pid) for pid in pids)


def test_a_process_that_stands_still_runs_into_the_timeout():
    with RankProcesses(2, "gloo", "cpu") as ranks:
        pids = pids_of(ranks)
        os.kill(pids[1], signal.SIGSTOP)
        ranks.timeout_s = 0.5
        with pytest.raises(LazsimError, match=r"rank .*1 gave no answer in 0 s while measuring all_reduce"):
            ranks.ask("measuring all_reduce of 1024 bytes", "exchange", "all_reduce", 1024, 1, 1)
    assert not any(is_running(pid) for pid in pids)


def test_an_error_in_a_process_is_told_in_one_line():
    with (
        RankProcesses(1, "gloo", "cpu") as ranks,
        pytest.raises(LazsimError, match="rank 0 failed while trying: KeyErr"),
    ):
        ranks.ask("trying", "exchange", "pigeons", 1024, 1, 1)


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
    if arguments[2] == "mpi" and torch.distributed.is_mpi_available():
        pytest.skip("this torch has mpi")
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


def test_processes_share_gpus_where_there_are_fewer(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(exchanges, "TCPStore", lambda *_, **__: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(RankWorker, "_meet", lambda _: None)
    for rank in range(3):
        RankWorker(rank, 3, "gloo", "cuda").join(0)
    assert taken == [0, 1, 0]


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
    worker = exchanges.RankWorker(0, 2, backend, "cpu")
    monkeypatch.setattr(worker, "_make", lambda *_: made)
    # One run that is checked and one to warm up; the time of lining up does not count.
    assert worker.exchange("all_reduce", 4, 1, 2) == ([7.0, 7.0], 0.0)
    assert calls == ["run", *3 * ["barrier", *line_up, "run"]]


def test_a_device_that_cannot_be_had_is_told_in_one_line():
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    ranks = RankProcesses(1, "gloo", "cuda")
    pids = pids_of(ranks)
    with pytest.raises(LazsimError, match="process of rank 0 failed while starting: "), ranks:
        pass
    assert not any(is_running(pid) for pid in pids)
