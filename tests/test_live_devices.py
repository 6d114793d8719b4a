"""Where live workers compute, and by what they exchange; NCCL itself is replaced where there are no GPUs."""

import queue
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="live training needs torch: pip install 'lazsim[live]'")

from lazsim.errors import LazsimError  # noqa: E402
from lazsim.live.device import CPU, Device, local_rank_from_environment, take_device  # noqa: E402
from lazsim.live.gloo import Gloo  # noqa: E402
from lazsim.live.group import Group, serve_store  # noqa: E402
from lazsim.live.nccl import Nccl  # noqa: E402
from lazsim.live.play import Machine  # noqa: E402


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


def test_without_nccl_no_rank_offers_its_gpu_for_it(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    assert take_device("cuda", 0).gpu == ""


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LazsimError, match="--device cuda: torch finds no GPU"):
        take_device("cuda", 0)
    assert take_device("auto", 0) == Device(torch.device("cpu"), may_differ=True)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, 0), ({"LOCAL_RANK": "3"}, 3), ({"SLURM_LOCALID": "2"}, 2), ({"LOCAL_RANK": "", "SLURM_LOCALID": "1"}, 1)],
)
def test_torchrun_and_slurm_say_which_gpu_is_ones_own(monkeypatch, environment, expected):
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert local_rank_from_environment() == expected


def test_who_comes_for_a_dead_worker_takes_its_gpu():
    born = []
    nursery = SimpleNamespace(start=lambda birth: born.append((birth.name, birth.local_rank)), kill=lambda _: None)
    controller = SimpleNamespace(
        host="127.0.0.1", port=1, secret=b"", record=SimpleNamespace(killed_s={}), now_s=lambda: 0.0
    )
    machine = Machine(controller, nursery, Path("log"))
    for node in ("a", "b", "c"):
        machine.start(node)
    machine.kill("b")
    machine.kill("a")
    machine.start("d")
    machine.start("b")
    assert born == [("a", 0), ("b", 1), ("c", 2), ("d", 0), ("b#2", 1)]


def meet(devices):
    """Let ranks meet, each in a thread; return them."""
    store, port = serve_store("127.0.0.1")
    ranks = [
        Group(("127.0.0.1", port), "test", rank, len(devices), "127.0.0.1", device)
        for rank, device in enumerate(devices)
    ]
    threads = [threading.Thread(target=group.connect) for group in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    del store
    return ranks


def on_gpu(name):
    # It computes on the processor; only what it tells the others counts here.
    return Device(torch.device("cpu"), name, may_differ=True)


@pytest.mark.parametrize("names", [("", ""), ("GPU-a", ""), ("GPU-a", "GPU-a")])
def test_ranks_without_a_gpu_each_agree_on_gloo(names):
    ranks = meet([on_gpu(name) for name in names])
    assert [type(group._transport) for group in ranks] == [Gloo, Gloo]
    sums = [torch.ones(2), torch.ones(2)]
    threads = [threading.Thread(target=group.all_reduce, args=(own,)) for group, own in zip(ranks, sums, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [own.tolist() for own in sums] == [[2.0, 2.0], [2.0, 2.0]]


def test_ranks_with_a_gpu_each_agree_on_nccl(monkeypatch):
    met = []

    def meet_by_nccl(self, _meeting, rank, size, _host):
        met.append((self.device, rank, size))
        return "group"

    monkeypatch.setattr(Nccl, "meet", meet_by_nccl)
    ranks = meet([on_gpu("GPU-a"), on_gpu("GPU-b")])
    assert [type(group._transport) for group in ranks] == [Nccl, Nccl]
    assert sorted(met, key=lambda one: one[1]) == [(torch.device("cpu"), 0, 2), (torch.device("cpu"), 1, 2)]


class FakeWork:
    def wait(self):
        """Return at once, as NCCL's does: it has the stream wait, and not the host."""


def test_what_nccl_received_counts_only_if_nobody_was_called_away(monkeypatch):
    waited, closed = [], queue.Queue()
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: SimpleNamespace(synchronize=lambda: waited.append(device))
    )
    nccl = Nccl(torch.device("cuda", 1))
    nccl._group = SimpleNamespace(abort=lambda: closed.put("abort"), shutdown=lambda: closed.put("shutdown"))
    nccl.wait(FakeWork())
    assert waited == [torch.device("cuda", 1)]
    # While all goes well, others may still be receiving.
    nccl.close()
    assert closed.get(timeout=10) == "shutdown"
    nccl.cut()
    assert closed.get(timeout=10) == "abort"
    with pytest.raises(RuntimeError, match="called away"):
        nccl.wait(FakeWork())
