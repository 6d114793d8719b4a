"""Where live workers compute, and by what they exchange; NCCL itself is replaced where there are no GPUs."""

import queue
import threading
from contextlib import suppress
from datetime import timedelta
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="live training needs torch: pip install 'lazsim[live]'")

from lazsim.errors import LazsimError  # noqa: E402
from lazsim.live.fault_injector import LocalNodes  # noqa: E402
from lazsim.profiling import exchanges  # noqa: E402
from lazsim.pytorch.device import (  # noqa: E402
    CPU,
    LOCAL_RANK_VARIABLES,
    Device,
    local_rank_from_environment,
    take_device,
)
from lazsim.pytorch.group import Nccl, ProcessGroup  # noqa: E402


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=f"id{device.index}"))
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)


def test_workers_of_a_machine_take_its_gpus_in_turn(two_gpus):
    found = [take_device("auto", local_rank) for local_rank in range(3)]
    assert [device.torch for device in found] == [torch.device("cuda", number) for number in (0, 1, 0)]
    assert [device.gpu for device in found] == ["GPU-id0", "GPU-id1", "GPU-id0"]
    assert take_device("cpu", 1) == CPU


def test_processes_that_exchange_take_the_gpus_of_a_machine_in_turn(two_gpus, monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    for name in ("end_with_parent", "survive_failed_collectives"):
        monkeypatch.setattr(exchanges, name, lambda: None)
    ours, theirs = Pipe()
    theirs.close()
    for rank in range(3):
        exchanges.serve(ours, rank, 0, "nccl", "cuda", 1.0)
    assert taken == [torch.device("cuda", number) for number in (0, 1, 0)]


def test_without_nccl_no_rank_offers_its_gpu_for_it(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    assert take_device("cuda", 0).gpu == ""


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LazsimError, match="`device` cuda: torch finds no GPU"):
        take_device("cuda", 0)
    assert take_device("auto", 0) == Device(torch.device("cpu"), may_differ=True)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 0),
        ({"LOCAL_RANK": "3"}, 3),
        ({"SLURM_LOCALID": "2"}, 2),
        ({"LOCAL_RANK": "", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}, 1),
    ],
)
def test_launchers_tell_the_local_rank(monkeypatch, environment, expected):
    for name in LOCAL_RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert local_rank_from_environment() == expected


def test_the_next_worker_takes_the_gpu_of_a_dead_one():
    started = []
    pool = SimpleNamespace(
        start=lambda name, _address, _secret, rank, _log: started.append((name, rank)), kill=lambda _: None
    )
    server = SimpleNamespace(host="127.0.0.1", port=1, secret=b"")
    coordinator = SimpleNamespace(server=server, record=SimpleNamespace(killed_s={}, started_s={}), now_s=lambda: 0.0)
    nodes = LocalNodes(coordinator, pool, Path("log"))
    for node in ("a", "b", "c"):
        nodes.start(node)
    nodes.kill("b")
    nodes.kill("a")
    nodes.start("d")
    nodes.start("b")
    assert started == [("a", 0), ("b", 1), ("c", 2), ("d", 0), ("b#2", 1)]


def at_once(*calls):
    """Make calls, each in a thread, and wait for their ends."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert not any(thread.is_alive() for thread in threads)


def meet(devices):
    """Let ranks meet, each in a thread; return them."""
    store = torch.distributed.HashStore()
    ranks = [
        ProcessGroup(store, "test", rank, len(devices), "127.0.0.1", device) for rank, device in enumerate(devices)
    ]
    at_once(*(group.connect for group in ranks))
    return ranks


def on_gpu(name):
    # It computes on the processor; only what it tells the others counts here.
    return Device(torch.device("cpu"), name, may_differ=True)


@pytest.mark.parametrize("names", [("", ""), ("GPU-a", ""), ("GPU-a", "GPU-a")])
def test_ranks_without_a_gpu_each_agree_on_gloo(names):
    ranks = meet([on_gpu(name) for name in names])
    assert [group.by for group in ranks] == ["gloo", "gloo"]
    sums = [torch.ones(2), torch.ones(2)]
    at_once(*(partial(group.all_reduce, own) for group, own in zip(ranks, sums, strict=True)))
    assert [own.tolist() for own in sums] == [[2.0, 2.0], [2.0, 2.0]]


def test_ranks_with_a_gpu_each_agree_on_nccl(monkeypatch):
    met = []

    def meet_by_nccl(self, _meeting, rank, size, _host):
        met.append((self.device, rank, size))

    monkeypatch.setattr(Nccl, "meet", meet_by_nccl)
    ranks = meet([on_gpu("GPU-a"), on_gpu("GPU-b")])
    assert [group.by for group in ranks] == ["nccl", "nccl"]
    assert sorted(met, key=lambda one: one[1]) == [(torch.device("cpu"), 0, 2), (torch.device("cpu"), 1, 2)]
    # What decides how the job goes on stays on the host, and never goes by NCCL.
    at_once(*(group.confirm for group in ranks))


def test_a_rank_that_was_called_away_while_others_met_is_not_waited_for(monkeypatch):
    """Called away after gloo had met, while NCCL is made: it must hear of it, too."""
    cut = queue.Queue()

    def meet_by_nccl(self, _meeting, rank, _size, _host):
        if rank == 0:
            ranks[0].abort()

    monkeypatch.setattr(Nccl, "meet", meet_by_nccl)
    monkeypatch.setattr(Nccl, "abort", lambda self: cut.put(self))
    store = torch.distributed.HashStore()
    ranks = [ProcessGroup(store, "test", rank, 2, "127.0.0.1", on_gpu(f"GPU-{rank}")) for rank in (0, 1)]

    def connect_the_other():
        with suppress(RuntimeError):
            ranks[1].connect()

    other = threading.Thread(target=connect_the_other)
    other.start()
    with pytest.raises(RuntimeError, match="called away"):
        ranks[0].connect()
    other.join()
    assert cut.get(timeout=600) is ranks[0]._nccl


class FakeNccl:
    """A collective that ends when it is told to, as the GPU would see it."""

    def __init__(self, monkeypatch):
        self.is_done, self.aborted = False, threading.Event()
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
        monkeypatch.setattr(torch.cuda, "Event", lambda: self)

    def allreduce(self, _tensors):
        return SimpleNamespace(wait=lambda: None)  # At once: NCCL's has the stream wait, and not the host.

    def record(self, stream):
        assert stream == torch.device("cuda", 1)

    def query(self):
        return self.is_done

    def abort(self):
        self.aborted.set()


@pytest.fixture
def nccl(monkeypatch):
    nccl = Nccl(torch.device("cuda", 1))
    nccl._group = FakeNccl(monkeypatch)
    return nccl


def test_a_collective_by_nccl_is_waited_for_until_the_gpu_has_done_it(nccl):
    threading.Timer(0.1, lambda: setattr(nccl._group, "is_done", True)).start()
    nccl.all_reduce(torch.ones(1))
    assert nccl._group.is_done


def test_an_aborted_rank_trusts_nothing_that_came_by_nccl(nccl):
    group = nccl._group
    group.is_done = True
    nccl.abort()
    with pytest.raises(RuntimeError, match="closed"):
        nccl.all_reduce(torch.ones(1))
    assert group.aborted.wait(10)


def test_a_call_by_nccl_that_waits_for_a_lost_rank_can_be_aborted(nccl):
    threading.Timer(0.1, nccl.abort).start()
    with pytest.raises(RuntimeError, match="called away"):
        nccl.all_reduce(torch.ones(1))
    assert nccl._group.aborted.wait(10)


def test_an_exchange_by_nccl_times_out(nccl, monkeypatch):
    monkeypatch.setattr("lazsim.pytorch.group.TIMEOUT", timedelta(seconds=0.1))
    with pytest.raises(RuntimeError, match="did not exchange"):
        nccl.all_reduce(torch.ones(1))
    assert nccl._group.aborted.wait(10)


def test_the_end_of_a_group_that_hangs_is_not_waited_for(nccl, monkeypatch):
    monkeypatch.setattr("lazsim.pytorch.group.CLOSE_S", 0.1)
    forever = threading.Event()
    nccl._group.abort = forever.wait
    nccl.close()
    assert nccl._group is None
    forever.set()
