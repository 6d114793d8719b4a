"""Whatever peers send to a controller, and a controller to a worker, over real sockets, the training goes on."""

import asyncio
import base64
import errno
import gc
import json
import os
import socket
import threading
import time
import warnings
from contextlib import suppress
from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="live training needs torch: pip install 'lazsim[live]'")

from lazsim.live import controller_client, generation, messages, worker_server
from lazsim.live.checkpoint import job_hash
from lazsim.live.controller_client import ControllerClient, DisconnectedError
from lazsim.live.generation import Worker
from lazsim.live.messages import GenerationPlan, Heartbeat, HeldState, Hello, LiveError, MessageAuth, Stop, Welcome
from lazsim.live.run import prepare
from lazsim.live.worker_server import WorkerServer
from tests.live_jobs import descriptors_left, tiny_spec

SECRET = b"0123456789abcdef"
HELLO = 32 + 64
"""Bytes in which a worker proves itself: 16 random ones and an HMAC-SHA256, in hexadecimal."""


class Seen:
    """A handler that keeps what it is told."""

    def __init__(self):
        self.joined, self.messages, self.left = [], [], []

    def on_join(self, worker):
        self.joined.append(worker.name)

    def on_message(self, worker, message):
        self.messages.append((worker.name, message))

    def on_leave(self, worker):
        self.left.append(worker.name)


OPENED: list[asyncio.StreamWriter] = []
"""Connections to end with the test."""


async def connect(server):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    OPENED.append(writer)
    return reader, writer


async def disconnect_all():
    for writer in OPENED:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in OPENED), return_exceptions=True)
    OPENED.clear()


class Peer:
    """A peer that has the secret, and says what it likes."""

    async def connect(self, server, secret=SECRET):
        self.reader, self.writer = await connect(server)
        nonce = messages.new_nonce()
        self.auth = MessageAuth(secret, await self.reader.readexactly(32) + nonce, "worker")
        self.writer.write(nonce + self.auth.prove())
        self.auth.check(await self.reader.readexactly(64))
        return self

    async def join(self, server, name="worker"):
        await self.connect(server)
        self.say(Hello(name, "instance", HeldState()))
        return self.auth.verify(await self.reader.readline())

    def say(self, message):
        self.writer.write(self.auth.sign(message))

    def say_raw(self, body: bytes):
        self.writer.write(self.auth.prove(body) + b" " + body + b"\n")


async def is_cut_off(reader):
    try:
        async with asyncio.timeout(5):
            while await reader.read(2**16):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


async def until(condition, within_s=5.0):
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


def serve(script, **changes):
    """Run a script against a server; return what the server's handler saw."""
    seen = Seen()

    async def run():
        server = WorkerServer(tiny_spec(**changes), SECRET)
        await server.open(seen)
        try:
            await script(server)
            assert (server.stopped, server.bug) == (None, None), "the job goes on"
        finally:
            await server.close()
            await disconnect_all()

    asyncio.run(run())
    return seen


def test_of_idle_strangers_a_few_are_held_for_a_short_time_and_workers_still_join(monkeypatch):
    monkeypatch.setattr(worker_server, "MAX_STRANGERS", 8)
    monkeypatch.setattr(worker_server, "ACCEPT_INTERVAL_S", 0.0005)
    monkeypatch.setattr(worker_server, "PROOF_TIMEOUT_S", 1.0)

    async def script(server):
        before = len(os.listdir("/proc/self/fd"))
        strangers = [await connect(server) for _ in range(100)]
        peer = Peer()
        assert isinstance(await peer.join(server), messages.Welcome)
        # A hundred ends here, eight there, and both of the worker's.
        assert len(os.listdir("/proc/self/fd")) <= before + 100 + 8 + 2
        assert all(await asyncio.gather(*(is_cut_off(reader) for reader, _ in strangers)))
        # The worker needs no other proof.
        assert not peer.reader.at_eof()

    assert serve(script).joined == ["worker"]


@pytest.mark.parametrize("num_turns", range(5))
def test_a_connection_that_comes_while_the_controller_closes_is_closed_too(num_turns):
    async def script():
        server = WorkerServer(tiny_spec(), SECRET)
        await server.open(Seen())
        await asyncio.sleep(0.01)
        with socket.create_connection(("127.0.0.1", server.port)):
            # The event loop is at another point of the acceptance after each number of turns.
            for _ in range(num_turns):
                await asyncio.sleep(0)
            await server.close()

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        asyncio.run(script())
        gc.collect()
    assert [str(one.message) for one in seen] == []


def test_a_stranger_that_sends_much_is_not_read(monkeypatch):
    """57 MiB each were held before."""

    async def script(server):
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", server.port)) as stranger:
            stranger.setblocking(False)
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(loop.sock_sendall(stranger, b"x" * 57 * 2**20), 5)

    assert serve(script).joined == []


@pytest.mark.parametrize("part", [b"", b"x", b"x" * (HELLO - 1)])
def test_a_stranger_that_sends_too_little_is_not_waited_for(monkeypatch, part):
    monkeypatch.setattr(worker_server, "PROOF_TIMEOUT_S", 0.2)

    async def script(server):
        peer = Peer()
        peer.reader, writer = await connect(server)
        writer.write(part)
        assert await is_cut_off(peer.reader)

    assert serve(script).joined == []


def test_a_peer_that_has_proved_itself_and_says_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(worker_server, "PROOF_TIMEOUT_S", 0.2)

    async def script(server):
        assert await is_cut_off((await Peer().connect(server)).reader)

    serve(script)


def text(message, **fields):
    return json.dumps({"type": message} | fields).encode()


LOADS = [[96, 0, 0, 0], [96, 0, 0, 0]]
"""Six sequences of sixteen tokens in each of two layers of four experts: what the tiny job has."""

STEP = {"generation": 1, "step": 1, "loss": 1.0, "step_s": 1.0, "loads": LOADS}
HELD = {"step": 0, "prepared": False, "blocks": []}

WRONG = {
    "no JSON": b"",
    "half": b'{"type":',
    "nested": b'{"type":"Heartbeat","x":' + b"[" * 20000 + b"]" * 20000 + b"}",
    "nested where a number is due": b'{"type":"Reached","generation":' + b"[" * 20000 + b"]" * 20000 + b"}",
    "not UTF-8": b'{"type":"Reached","generation":1,"stage":"idle","held":{},"error":"\xff\xfe"}',
    "not UTF-8 in a name": b'{"type":"\xff"}',
    "unknown": text("Overthrow"),
    "of a controller": text("Stop", reason="because"),
    "without its fields": text("Reached", stage="ready", held=HELD),
    "a text for a number": text("Reached", stage="ready", held=HELD, generation="one"),
    "a negative number": text("Reached", stage="ready", held=HELD, generation=-1),
    "5,000 digits": b'{"type":"Reached","generation":' + b"9" * 5000 + b"}",
    "1e999": b'{"type":"CheckpointWritten","generation":1,"step":1,"seconds":1.0,"stall_s":1e999}',
    "a step of 2^60": text("CheckpointWritten", generation=1, step=2**60, seconds=1.0, stall_s=1.0),
    "a block that the model lacks": text("Reached", generation=1, stage="idle", held=HELD | {"blocks": [9]}),
    "an expert too few": text("StepDone", **STEP | {"loads": [[96, 0, 0], [96, 0, 0]]}),
    "a layer too few": text("StepDone", **STEP | {"loads": LOADS[:1]}),
    "a token too few in a layer": text("StepDone", **STEP | {"loads": [[95, 0, 0, 0], [96, 0, 0, 0]]}),
    "a token too many": text("StepDone", **STEP | {"loads": [[97, 0, 0, 0], [96, 0, 0, 0]]}),
    "a stage that does not exist": text("Reached", stage="asleep", held=HELD, generation=1),
    "a backend that torch lacks": text("StepDone", **STEP, backend="pigeon"),
    "a note of a megabyte": text("Note", generation=1, key="k", value=base64.b64encode(b"x" * 2**20).decode()),
    "a line without an end": b"x" * 2**20,
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_a_peer_with_the_secret_that_sends_nonsense_is_dropped_and_the_others_stay(body):
    async def script(server):
        good, bad = Peer(), Peer()
        await good.join(server, "good")
        await bad.join(server, "bad")
        bad.say_raw(body)
        assert await is_cut_off(bad.reader)
        await until(lambda: [worker.name for worker in server.workers] == ["good"])
        good.say(messages.Reached(1, "ready", HeldState()))
        await until(lambda: server._handler.messages)

    seen = serve(script)
    assert (seen.left[0], seen.messages) == ("bad", [("good", messages.Reached(1, "ready", HeldState()))])


def test_a_fault_of_the_controller_is_not_taken_for_one_of_a_worker():
    class Faulty(Seen):
        def on_message(self, worker, message):
            raise ValueError("a bug")

    async def run():
        server = WorkerServer(tiny_spec(), SECRET)
        await server.open(Faulty())
        peer = Peer()
        await peer.join(server)
        peer.say(messages.Reached(1, "idle", HeldState()))
        await until(lambda: server.stopped is not None)
        await server.close()
        await disconnect_all()
        return server

    server = asyncio.run(run())
    assert (server.stopped, str(server.bug)) == ("a bug of the controller", "a bug")


def test_every_true_message_fits_and_is_taken():
    """The longest that a worker of the largest live model can send: all blocks, all loads, an error, an address."""
    held = HeldState(10**9, True, frozenset(range(1 + 2 * 4)))
    true = [
        messages.StepDone(1, 1, 1.0, 1.0, LOADS),
        messages.Reached(1, "idle", held, "\x00" * messages.MAX_TEXT_LENGTH),
        messages.Note(1, "0/1", b"x" * messages.MAX_ADDRESS_BYTES),
        messages.CheckpointWritten(1, 1, 1.0, 1.0),
    ]

    async def script(server):
        peer = Peer()
        await peer.join(server)
        for message in true:
            peer.say(message)
        await until(lambda: len(server._handler.messages) == len(true))

    assert [message for _, message in serve(script).messages] == true


def test_a_peer_that_floods_the_controller_takes_turns_with_the_others():
    async def script(server):
        flood, other = Peer(), Peer()
        await flood.join(server, "flood")
        await other.join(server, "other")
        for _ in range(5000):
            flood.say(messages.Reached(1, "ready", HeldState()))
        other.say(messages.Reached(2, "ready", HeldState()))
        handled = server._handler.messages
        await until(lambda: ("other", messages.Reached(2, "ready", HeldState())) in handled, 20)
        assert handled.index(("other", messages.Reached(2, "ready", HeldState()))) < 2500

    serve(script)


def test_a_worker_that_reads_nothing_counts_as_dead(monkeypatch):
    monkeypatch.setattr(worker_server, "MAX_UNREAD_BYTES", 2**20)

    async def script(server):
        await Peer().join(server)
        worker = server.workers[0]
        for _ in range(400):
            # The kernel takes some megabytes.
            worker.send(messages.Note(1, "key", b"x" * 2**16))
            await asyncio.sleep(0)
        await until(lambda: not server.workers)

    assert serve(script).left == ["worker"]


def test_a_worker_that_is_half_open_counts_as_dead():
    async def script(server):
        await Peer().join(server)
        await until(lambda: not server.workers)

    assert serve(script, silence_s=0.3, heartbeat_s=0.05).left == ["worker"]


def test_a_line_that_comes_a_byte_at_a_time_keeps_no_worker_alive():
    async def script(server):
        peer = Peer()
        await peer.join(server)
        for byte in peer.auth.sign(Heartbeat())[:20]:
            peer.writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
        await until(lambda: not server.workers)

    assert serve(script, silence_s=0.3, heartbeat_s=0.05).left == ["worker"]


def test_a_worker_with_the_state_of_another_job_is_told_so_and_one_with_that_of_this_job_is_taken():
    async def script(server):
        answers = []
        # The first names a block that the model of this job does not have.
        for job, block in (("another", 10**6), (job_hash(tiny_spec(seed=1)), 0), (job_hash(tiny_spec()), 0)):
            peer = await Peer().connect(server)
            peer.say(Hello(f"worker-{len(answers)}", "instance", HeldState(blocks=frozenset([block])), job))
            answers.append(peer.auth.verify(await peer.reader.readline()))
        told = "holds the state of another job; end it, and start a worker for this one"
        assert answers[:2] == [Stop(f"worker-{number}: {told}") for number in range(2)]
        assert isinstance(answers[2], Welcome)

    assert serve(script).joined == ["worker-2"]


def test_a_worker_tells_the_job_of_the_state_that_it_holds():
    said = []
    answered = SimpleNamespace(send=said.append, inbox=SimpleNamespace(get=lambda timeout: Stop("over")))
    worker = Worker(("127.0.0.1", 1), "worker", SECRET, "", 0)
    worker._serve(answered)
    worker._state = SimpleNamespace(held=HeldState, spec=tiny_spec(seed=1))
    assert worker._serve(answered) == "over"
    assert [one.job for one in said] == ["", job_hash(tiny_spec(seed=1))]


def test_one_more_worker_than_descriptors_allow_is_told_so():
    async def script(server):
        server.max_workers = 1
        await Peer().join(server, "first")
        answer = await Peer().join(server, "second")
        assert "descriptors for 1 worker;" in answer.reason

    assert serve(script).joined == ["first"]


def test_a_controller_without_descriptors_accepts_workers_once_it_has_some():
    async def script(server):
        # Made before, so that only the controller lacks one.
        early = socket.socket()
        holes = [os.dup(0) for _ in range(20)]
        with descriptors_left(0):
            early.connect(("127.0.0.1", server.port))
            await asyncio.sleep(0.3)
        for hole in holes:
            os.close(hole)
        early.close()
        await Peer().join(server)

    assert serve(script).joined == ["worker"]


class Controller(threading.Thread):
    """Another program that listens where a worker looks for its controller."""

    def __init__(self, talk):
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self._talk = talk
        self.start()

    def run(self):
        connection, _ = self._listener.accept()
        with connection, self._listener, suppress(OSError):
            self._talk(connection)


def trickle(connection):
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


@pytest.mark.parametrize(
    "talk",
    [
        lambda connection: time.sleep(2),
        lambda connection: connection.sendall(b"x" * 2**16),
        lambda connection: connection.sendall(b"\xff" * (32 + 64)),
        trickle,
    ],
    ids=["silent", "long", "wrong", "slow"],
)
def test_a_worker_leaves_a_controller_that_does_not_prove_itself(monkeypatch, talk):
    monkeypatch.setattr(controller_client, "WELCOME_TIMEOUT_S", 0.3)
    with pytest.raises(DisconnectedError):
        ControllerClient(Controller(talk).address, SECRET, lambda: None)


@pytest.mark.parametrize(
    ("talk", "said"),
    [
        (None, r"no controller at 127.0.0.1:\d+ \(.*\); is it running\?"),
        (trickle, r"the controller at 127.0.0.1:\d+ does not answer; LAZSIM_LIVE_SECRET"),
    ],
    ids=["nobody", "another program"],
)
def test_a_worker_says_why_it_gives_up(monkeypatch, talk, said):
    monkeypatch.setattr(controller_client, "WELCOME_TIMEOUT_S", 0.3)
    monkeypatch.setattr(generation, "RECONNECT_TIMEOUT_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname() if talk is None else Controller(talk).address
    with pytest.raises(LiveError, match=f"mine: {said}"):
        Worker(address, "mine", SECRET, "", 0).run()


@pytest.mark.parametrize("reason", ["the disk is full", None])
def test_a_worker_that_waits_for_others_to_be_ready_hears_that_the_job_is_over(monkeypatch, reason):
    monkeypatch.setattr(generation, "RECONNECT_TIMEOUT_S", 0.0)
    spec = prepare(tiny_spec())
    plan = GenerationPlan("initial", 0, ["mine"], 1, [frozenset()], [[[0, 1, 2, 3]]] * 2, None, False, [[*range(6)]])

    def talk(connection):
        connection.sendall(nonce := messages.new_nonce())
        hello = connection.recv(HELLO, socket.MSG_WAITALL)
        auth = MessageAuth(SECRET, nonce + hello[:32], "controller")
        auth.check(hello[32:])
        connection.sendall(auth.prove())
        reader = connection.makefile("rb")
        for message in (Welcome(spec), messages.StartGeneration(1, plan, reuse=False, draft="aa")):
            connection.sendall(auth.sign(message))
        while getattr(auth.verify(reader.readline()), "stage", "") != "ready":
            pass
        if reason is not None:
            connection.sendall(auth.sign(Stop(reason)))

    worker = Worker(Controller(talk).address, "mine", SECRET, "127.0.0.1", 0)
    if reason is None:
        # The controller is gone.
        with pytest.raises(LiveError, match="the controller at"):
            worker.run()
    else:
        assert worker.run() == reason


def test_a_worker_says_so_where_the_name_of_its_controller_is_none(monkeypatch):
    monkeypatch.setattr(generation, "RECONNECT_TIMEOUT_S", 0.0)
    with pytest.raises(LiveError, match=r"^mine: no controller at no\.\.host:1 \(.*; is it running\?$"):
        Worker(("no..host", 1), "mine", SECRET, "", 0).run()


def test_a_worker_reads_no_line_without_end(monkeypatch):
    monkeypatch.setattr(messages, "MAX_PLAN_BYTES", 2**16)

    def talk(connection):
        connection.sendall(nonce := messages.new_nonce())
        auth = MessageAuth(SECRET, nonce + connection.recv(HELLO, socket.MSG_WAITALL)[:32], "controller")
        connection.sendall(auth.prove())
        while True:
            connection.sendall(b"x" * 2**16)

    client = ControllerClient(Controller(talk).address, SECRET, lambda: None)
    assert client.inbox.get(timeout=600) is None
    client.close()


def test_a_worker_knows_that_its_controller_is_gone_also_where_its_group_cannot_be_aborted(monkeypatch):
    told = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: told.set())

    def talk(connection):
        connection.sendall(nonce := messages.new_nonce())
        auth = MessageAuth(SECRET, nonce + connection.recv(HELLO, socket.MSG_WAITALL)[:32], "controller")
        connection.sendall(auth.prove())

    def abort():
        raise OSError(errno.EMFILE, "no descriptor is left to look for sockets")

    client = ControllerClient(Controller(talk).address, SECRET, abort)
    assert client.inbox.get(timeout=600) is None
    assert told.wait(5), "the log of the worker has the error"
    client.close()


def test_a_nonce_and_a_proof_have_the_size_that_both_ends_read():
    auth = MessageAuth(SECRET, b"", "worker")
    assert (len(messages.new_nonce()), len(auth.prove())) == (32, 64)


def test_a_proof_counts_once():
    worker, controller = (MessageAuth(SECRET, b"nonces", side) for side in ("worker", "controller"))
    proof = worker.prove()
    controller.check(proof)
    with pytest.raises(LiveError):
        controller.check(proof)


def test_a_proof_of_another_version_is_none(monkeypatch):
    worker = MessageAuth(SECRET, b"nonces", "worker")
    monkeypatch.setattr(messages, "__version__", "0.0.9")
    old = MessageAuth(SECRET, b"nonces", "worker").prove()
    monkeypatch.undo()
    with pytest.raises(LiveError):
        MessageAuth(SECRET, b"nonces", "controller").check(old)
    MessageAuth(SECRET, b"nonces", "controller").check(worker.prove())


@pytest.mark.parametrize(
    ("stopped", "told"), [(None, "the controller has ended before the job"), ("", ""), ("the disk is full",) * 2]
)
def test_a_worker_of_a_job_that_is_broken_off_ends_with_a_reason(stopped, told):
    async def script():
        server = WorkerServer(tiny_spec(), SECRET)
        await server.open(Seen())
        peer = Peer()
        await peer.join(server)
        if stopped is not None:
            server.stop(stopped)
        closing = asyncio.create_task(server.close())
        said = peer.auth.verify(await peer.reader.readline())
        await asyncio.gather(closing, disconnect_all())
        return said

    assert asyncio.run(script()) == Stop(told)
