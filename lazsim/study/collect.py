"""Do what is not done yet, keep each result as it comes, and return all of them in order."""

import functools
import hashlib
import inspect
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import lazsim
from lazsim.errors import LazsimError
from lazsim.specs import sha256, unknown_name
from lazsim.study.backends import BACKENDS
from lazsim.study.store import Row, Store, encode_row

BATCH_S = 0.1
"""Time that a batch should take: runs of a few milliseconds are not handed out one by one, and a kill costs little."""

FRONT = ("cli", "experiments", "live", "output", "profiling", "pytorch")
"""Parts of lazsim on which a result depends only where its function stands there."""

Function = Callable[[Any], Mapping[str, Any]]
"""From an argument to plain data; found by its name where it is called."""

Progress = Callable[[int, int], AbstractContextManager[Callable[[int], None]]]
"""From the runs done before and all runs to a context, in which it is called with the number of runs just done."""


class Task(NamedTuple):
    """A run to make.

    Attributes
    ----------
    id : str
        The hash of its inputs, under which its result is kept; see `task_id`.
    label : str
        What errors call it.
    inputs : Any
        All that the result depends on, plain data.
    argument : Any
        What the function is called with: the inputs, and where files are.
    """

    id: str
    label: str
    inputs: Any
    argument: Any


@dataclass(frozen=True)
class Outcomes:
    """What came of tasks.

    Attributes
    ----------
    values : tuple
        What the function returned, in the order of the tasks; None where it failed.
    failures : tuple of (str, str)
        Label and error of each that failed.
    """

    values: tuple[Any, ...]
    failures: tuple[tuple[str, str], ...]


class _Done(NamedTuple):
    """What a worker sends back: ids with rows or errors, and how long that took."""

    results: list[tuple[str, bytes | None, str]]
    seconds: float


def collect(
    function: Function,
    inputs: Sequence[Any],
    folder: Path | None = None,
    *,
    backend: str = "loky",
    num_workers: int | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> Outcomes:
    """Call a function with each of many inputs, but not with those for which a folder holds the result.

    Parameters
    ----------
    function
        A function of a module, which returns plain data that depends on nothing but its argument; bad input is a
        `LazsimError`.
    inputs
        Plain data.
    folder
        Where results are kept, each as soon as it is there; nowhere when None.
    backend, num_workers, address
        See `run_tasks`.
    progress
        Shows how far it is.

    Raises
    ------
    LazsimError
        When the folder or the backend cannot be used.

    Examples
    --------
    >>> collect(len, [[], [1, 2]], num_workers=1).values
    (0, 2)
    """
    tasks = [Task(task_id(function, each), str(each), each, each) for each in inputs]
    return run_tasks(
        function, tasks, folder, backend=backend, num_workers=num_workers, address=address, progress=progress
    )


def run_tasks(
    function: Function,
    tasks: Sequence[Task],
    folder: Path | None = None,
    *,
    backend: str = "loky",
    num_workers: int | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> Outcomes:
    """Do tasks; see `collect`.

    Parameters
    ----------
    backend
        ``loky``, processes of this machine, or ``ray``.
    num_workers
        Processes; as many as there are cores when None. One is this process, unless on Ray.
    address
        Of a Ray cluster.
    """
    if backend not in BACKENDS:
        raise LazsimError(unknown_name("backend", backend, list(BACKENDS)))
    num_workers = num_workers or len(os.sched_getaffinity(0))
    by_id = {task.id: task for task in tasks}
    errors: dict[str, str] = {}
    with Store(folder) if folder else nullcontext() as store:
        values = store.read(by_id) if store else {}
        todo = [task for task in by_id.values() if task.id not in values]
        with (progress or _silent)(len(values), len(by_id)) as advance:
            for done in _do(function, todo, backend, num_workers, address):
                lines = [line for _, line, _ in done.results if line is not None]
                if store:
                    store.append(lines)
                values |= {row.id: row.value for row in (msgspec.json.decode(line, type=Row) for line in lines)}
                errors |= {task: error for task, line, error in done.results if line is None}
                advance(len(done.results))
    failures = tuple((task.label, errors[task.id]) for task in tasks if task.id in errors)
    return Outcomes(tuple(values.get(task.id) for task in tasks), failures)


def task_id(function: Function, inputs: Any) -> str:
    """Hash what a result depends on: the function, the code of lazsim, and the inputs."""
    made_by = [f"{function.__module__}.{function.__qualname__}", lazsim.__version__, _code_sha256(function)]
    return sha256(msgspec.json.encode([made_by, inputs], order="deterministic"))[:16]


@functools.cache
def _code_sha256(function: Function) -> str:
    """Hash the sources that a function may use: its own file or room of lazsim, and lazsim without `FRONT`."""
    root = Path(lazsim.__file__).parent
    files = {path for path in root.rglob("*.py") if path.relative_to(root).parts[0] not in FRONT}
    if inspect.isfunction(function) and (own := inspect.getsourcefile(function)):
        files |= set(Path(own).parent.glob("*.py")) if root in Path(own).parents else {Path(own)}
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _silent(_num_done: int, _num_total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _: None)


def _do(
    function: Function, tasks: Sequence[Task], backend: str, num_workers: int, address: str | None
) -> Iterator[_Done]:
    """Do tasks in batches, and yield what came of each batch as it is done."""
    make = functools.partial(_run_batch, function)
    batches = Batches(tasks, num_workers)
    if not tasks:
        return
    results: Iterator[_Done]
    if num_workers == 1 and backend == "loky":
        results = map(make, ([task] for task in tasks))
    else:
        results = BACKENDS[backend](make, batches, num_workers, address)
    for done in results:
        batches.note(len(done.results), done.seconds)
        yield done


class Batches:
    """Tasks in batches of about `BATCH_S`, from the times of those that are done; smaller ones towards the end."""

    def __init__(self, tasks: Sequence[Task], num_workers: int) -> None:
        self._tasks = tasks
        self._num_workers = num_workers
        self._num_done, self._seconds = 0, 0.0

    def note(self, num_tasks: int, seconds: float) -> None:
        """Learn how long so many tasks took."""
        self._num_done += num_tasks
        self._seconds += seconds

    def __iter__(self) -> Iterator[Sequence[Task]]:
        start = 0
        while start < len(self._tasks):
            stop = start + self._size(len(self._tasks) - start)
            yield self._tasks[start:stop]
            start = stop

    def _size(self, num_left: int) -> int:
        fit = int(BATCH_S * self._num_done / self._seconds) if self._seconds else 1
        return max(1, min(fit, num_left // (4 * self._num_workers)))


def _run_batch(function: Function, tasks: Sequence[Task]) -> _Done:
    start_s = time.perf_counter()
    results = [_run_task(function, task) for task in tasks]
    return _Done(results, time.perf_counter() - start_s)


def _run_task(function: Function, task: Task) -> tuple[str, bytes | None, str]:
    try:
        value = function(task.argument)
    except LazsimError as error:
        return task.id, None, str(error)
    return task.id, encode_row(task.id, task.inputs, value), ""
