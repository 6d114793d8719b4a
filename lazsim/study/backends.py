"""Where batches of runs are done: in this process, in processes of this machine (loky), or on a Ray cluster."""

import functools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from lazsim.errors import LazsimError

BatchT = TypeVar("BatchT")
ResultT = TypeVar("ResultT")

AHEAD = 2
"""Batches handed out for each worker, so that none waits for the next."""

REACH_S = 10.0
"""Time in which a cluster answers, or is not there."""

NO_CLUSTER = "no Ray cluster at {!r} ({}); start one, or give another address"

WATCH_S = 0.5
"""Time between looks at whether the parent process is there."""


def on_loky(
    function: Callable[[BatchT], ResultT], batches: Iterable[BatchT], num_workers: int, _address: str | None
) -> Iterator[ResultT]:
    """Do batches in processes of this machine, each with one thread of linear algebra."""
    from joblib import Parallel, delayed, parallel_config  # type: ignore[import-untyped, unused-ignore]

    with parallel_config("loky", n_jobs=num_workers, inner_max_num_threads=1):
        # Batches are sized already, and rows of a few kilobytes are nothing to map into memory.
        parallel = Parallel(
            return_as="generator_unordered", batch_size=1, pre_dispatch=f"{AHEAD}*n_jobs", max_nbytes=None
        )
        yield from parallel(delayed(_call)(function, batch, os.getpid()) for batch in batches)


def _call(function: Callable[[BatchT], ResultT], batch: BatchT, parent: int) -> ResultT:
    _end_with(parent)
    return function(batch)


@functools.cache
def _end_with(parent: int) -> None:
    """End this process soon after its parent, which may be killed and then cannot see to that."""
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(1)


def on_ray(
    function: Callable[[BatchT], ResultT], batches: Iterable[BatchT], num_workers: int, address: str | None
) -> Iterator[ResultT]:
    """Do batches as tasks of a Ray cluster: the one at the address, that of ``RAY_ADDRESS``, or a new one here."""
    ray, is_mine = _connect(num_workers, address)
    try:
        # Ray takes functions only, not all that can be called.
        remote = ray.remote(num_cpus=1)(lambda batch: function(batch))
        source = iter(batches)
        pending = [remote.remote(batch) for batch in islice(source, AHEAD * num_workers)]
        while pending:
            done, pending = ray.wait(pending)
            for reference in done:
                yield ray.get(reference)
                pending += [remote.remote(batch) for batch in islice(source, 1)]
    finally:
        if is_mine:
            ray.shutdown()


def _connect(num_workers: int, address: str | None) -> tuple[Any, bool]:
    """Return Ray, connected, and whether it was connected here."""
    try:
        import ray  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise LazsimError("`backend` ray needs Ray: pip install 'lazsim[sweep]', or leave the option out") from None
    if ray.is_initialized():
        return ray, False
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _reach(address)
    here: dict[str, Any] = {"address": "local", "num_cpus": num_workers, "include_dashboard": False}
    try:
        ray.init(**({"address": address} if address else here), log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LazsimError(NO_CLUSTER.format(address, first)) from None
    return ray, True


def _reach(address: str) -> None:
    """Find out at once whether anything answers: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except (OSError, OverflowError) as error:
        raise LazsimError(NO_CLUSTER.format(address, error)) from None


BACKENDS: Mapping[str, Callable[..., Iterator[ResultT]]] = {"loky": on_loky, "ray": on_ray}
"""Name -> (function, batches, number of workers, address) -> results, as they come."""
