"""An order to end reaches a coroutine wherever its event loop is."""

import asyncio
import linecache
import signal
import sys
from pathlib import Path

import pytest

from lazsim.live import worker_pool
from lazsim.live.orders import run_until_ordered
from lazsim.processes import ORDERS


class OrderToEndError(Exception):
    """What this process does at an order."""


@pytest.fixture
def raising():
    def on_order(number, _frame):
        raise OrderToEndError(number)

    before = {number: signal.signal(number, on_order) for number in (*ORDERS, signal.SIGALRM)}
    yield on_order
    assert all(signal.getsignal(number) is on_order for number in before)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [*ORDERS, signal.SIGALRM])
def test_an_order_just_before_the_step_of_a_task_cancels_it_and_is_then_handled(number, raising):
    done = []

    def order(frame, event, _arg):
        if frame.f_code.co_name != "_run_once":
            return None
        if event == "line" and "handle._run()" in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            sys.settrace(None)
            frame.f_trace = None
            signal.raise_signal(number)
        return order

    async def train():
        # The loop's own frame began before: only a trace that it has itself sees its lines.
        frame = sys._getframe()
        while frame.f_code.co_name != "_run_once":
            frame = frame.f_back
        try:
            sys.settrace(order)
            frame.f_trace = order
            await asyncio.sleep(0)
            await asyncio.Event().wait()
        finally:
            done.append("cleared")

    with pytest.raises(OrderToEndError):
        run_until_ordered(train())
    assert done == ["cleared"]


def test_a_signal_that_comes_twice_at_once_is_one_order(raising):
    # As `timeout` sends it: to the command, and to its group. A second order would end this process.
    done = []

    async def train():
        try:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            done.append("cleared")

    with pytest.raises(OrderToEndError):
        run_until_ordered(train())
    assert done == ["cleared"]


def test_a_coroutine_without_an_order_returns_and_raises_as_it_does(raising):
    async def value():
        return 7

    async def failure():
        raise ValueError("of its own")

    assert run_until_ordered(value()) == 7
    with pytest.raises(ValueError, match="of its own"):
        run_until_ordered(failure())


def test_a_worker_whose_start_an_order_ends_is_known_to_its_pool_which_ends_it(raising, monkeypatch):
    pool = worker_pool.WorkerPool()
    monkeypatch.setattr(worker_pool, "_start", lambda _worker: signal.raise_signal(signal.SIGALRM))
    with pytest.raises(OrderToEndError):
        pool.start("node0", ("127.0.0.1", 1), b"", 0, Path("workers.log"))
    assert pool._workers.keys() == {"node0"}
