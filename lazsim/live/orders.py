"""Orders to end a process whose event loop runs."""

import asyncio
import signal
import threading
import time
from collections.abc import Coroutine
from types import FrameType
from typing import TypeVar

from lazsim.processes import ORDERS, end_at_once, is_second_order

T = TypeVar("T")


def run_until_ordered(main: Coroutine[object, object, T]) -> T:
    """Run a coroutine, which an order to end cancels; then do what the process does at such orders.

    SIGALRM, by which the command line raises an earlier order again, is one, too.

    Notes
    -----
    An exception that a signal raises within the event loop can lose the step of a task that was next: the task then
    waits for ever, also once it is cancelled. So what handles the order elsewhere is called after the loop. A second
    order ends the process at once.
    """
    handlers = {number: signal.getsignal(number) for number in (*ORDERS, signal.SIGALRM)}
    orders: list[tuple[int, float]] = []

    async def lead() -> T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None, "a coroutine that runs is a task"

        def on_order(number: int, _frame: FrameType | None) -> None:
            if orders and is_second_order(number, orders[0][1]):
                end_at_once(128 + number)
            orders.append((number, time.monotonic()))
            if len(orders) == 1 and not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)

        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if callable(handler):
                    signal.signal(number, on_order)
        return await main

    try:
        return asyncio.run(lead())
    except asyncio.CancelledError:
        if not orders:
            raise
        # What handles the order below raises.
        raise KeyboardInterrupt from None
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)
        for order, _ in orders[:1]:
            handler = handlers[signal.Signals(order)]
            assert callable(handler), "no other handler was replaced"
            handler(order, None)
