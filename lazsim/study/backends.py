"""Backends that run tasks: processes of this machine (loky), or a Ray cluster."""

import functools
import logging
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from lazsim.errors import LazsimError, first_line
from lazsim.processes import ORDERS, check_processes, signals_blocked, signals_held, start_trackers

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

AHEAD = 2
"""Tasks, or batches of short ones, handed out to each worker at once, so that no worker waits for its next one."""

REACH_S = 10.0
"""Time that a cluster has to answer."""

NO_CLUSTER = "no Ray cluster at {!r} ({}); start one, or give another address"

WORKER_LOST = "a worker process was killed, perhaps for want of memory; start again with fewer `num_workers`"

WORKER_ENDED = "A worker stopped while some jobs were given to the executor"
"""How loky tells that a worker ended, idle for five minutes or grown too large, just as it got a task."""

WORKER = {"each_bytes": 128 * 2**20, "each_tasks": 4, "each_descriptors": 4}
"""A worker: 120 MiB after some simulations, with the threads and pipes of loky."""

WATCH_S = 0.5
"""Time between checks that the parent process still runs."""


def on_loky(
    function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT], num_workers: int, _address: str | None
) -> Iterator[ResultT]:
    """Run tasks in processes of this machine, each with one thread for linear algebra."""
    from joblib import Parallel, delayed, parallel_config  # type: ignore[import-untyped, unused-ignore]
    from joblib.externals import loky  # type: ignore[import-untyped, unused-ignore]

    check_processes("num_workers", num_workers, "workers", **WORKER)
    # loky warns in the thread that then starts another worker. As an error, as under ``python -W error``, the warning
    # would end that thread, and the results would never come. Only a filter that stays holds there.
    warnings.filterwarnings("ignore", WORKER_ENDED, UserWarning)
    start_trackers(loky.backend.resource_tracker.ensure_running)
    # Rows of a few kilobytes need no memory mapping.
    options = {"return_as": "generator_unordered", "max_nbytes": None}
    with parallel_config("loky", n_jobs=num_workers, inner_max_num_threads=1):
        # As a context it would start new workers where it ends early.
        parallel = Parallel(pre_dispatch=f"{AHEAD}*n_jobs", **options)
    results = None
    try:
        # Held as well as blocked: the main thread also handles what another thread receives.
        with signals_held(), signals_blocked(*ORDERS):
            results = parallel(delayed(_call)(function, task, os.getpid()) for task in tasks)
        for result in results:  # noqa: UP028 - so that an end by the caller comes here first
            yield result
    except loky.process_executor.TerminatedWorkerError:
        raise LazsimError(WORKER_LOST) from None
    finally:
        with warnings.catch_warnings():
            # An interrupt leaves tasks undone, which is no news.
            warnings.simplefilter("ignore")
            if results is not None:
                results.close()


def _call(function: Callable[[TaskT], ResultT], task: TaskT, parent: int) -> ResultT:
    _end_with(parent)
    return function(task)


@functools.cache
def _end_with(parent: int) -> None:
    """End this process soon after its parent: a parent that is killed cannot end it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def on_ray(
    function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT], num_workers: int, address: str | None
) -> Iterator[ResultT]:
    """Run tasks on the Ray cluster at the address or at ``RAY_ADDRESS``, or of a new local one."""
    ray, is_mine = _connect(num_workers, address)
    try:
        # Ray accepts functions, but not every callable.
        remote = ray.remote(num_cpus=1)(lambda task: function(task))
        source = iter(tasks)
        pending = [remote.remote(task) for task in islice(source, AHEAD * num_workers)]
        while pending:
            done, pending = ray.wait(pending)
            for reference in done:
                yield ray.get(reference)
                pending += [remote.remote(task) for task in islice(source, 1)]
    finally:
        if is_mine:
            ray.shutdown()


def _connect(num_workers: int, address: str | None) -> tuple[Any, bool]:
    """Connect to Ray; return it, and whether this call connected it."""
    try:
        import ray  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise LazsimError("`backend` ray needs Ray: pip install 'lazsim[sweep]', or leave the option out") from None
    if ray.is_initialized():
        return ray, False
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _reach(address)
    else:
        check_processes("num_workers", num_workers, "workers", **WORKER)
    here: dict[str, Any] = {"address": "local", "num_cpus": num_workers, "include_dashboard": False}
    try:
        ray.init(**({"address": address} if address else here), log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise LazsimError(NO_CLUSTER.format(address, first_line(error))) from None
    return ray, True


def _reach(address: str) -> None:
    """Fail at once where nothing answers: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port[:9])), timeout=REACH_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise LazsimError(NO_CLUSTER.format(address, error)) from None


BACKENDS: Mapping[str, Callable[..., Iterator[ResultT]]] = {"loky": on_loky, "ray": on_ray}
"""By name: from function, tasks, number of workers and address to results, as they come."""
