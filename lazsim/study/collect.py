"""Run tasks on all cores or a Ray cluster, keep each result as it comes, and return all of them in order."""

import functools
import hashlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

import lazsim
from lazsim.errors import LazsimError, unknown_name
from lazsim.files.folders import hold_folder
from lazsim.loads import check_whole
from lazsim.specs import hash_id, sha256
from lazsim.study.backends import BACKENDS
from lazsim.study.store import LOCK, Store, StoredRow, encode_plain, encode_row

NOT_SIMULATED = ("cli", "output", "live", "profiling", "pytorch")
"""Packages on which a simulation does not depend: they show results, or are applications of their own."""

LIBRARIES = ("numpy", "scipy")
"""Their versions decide results, too: a numpy generator may draw other numbers from the same seed in each release (NEP
19), and scipy's optimizers may end elsewhere. Results of other versions are not kept results, yet of the same run."""

Function = Callable[[Any], Mapping[str, Any]]
"""From an argument to plain data; a function of a module."""


class Advance(Protocol):
    """Moves a progress bar."""

    def __call__(self, num_done: float, name: str = "") -> None:
        """Tell of newly finished runs, or parts of one, and the name of the next where it has one."""
        ...


ShowRuns = Callable[[int, int], AbstractContextManager[Advance]]
"""From finished runs and all runs to a context whose value is called as they go on."""


def show_nothing(num_done: int, num_total: int) -> AbstractContextManager[Advance]:  # noqa: ARG001 (one interface)
    """Show no progress."""
    return nullcontext(lambda num_done, name="": None)  # noqa: ARG005


class Task(NamedTuple):
    """A call to make."""

    id: str
    """Hash of the function, the code and the inputs; see `task_id`."""
    key: str
    """Under which a folder keeps the result: hash of the id and of the libraries; see `LIBRARIES`."""
    label: str
    """Name of the task in errors."""
    inputs: Any
    argument: Any
    """Everything that the result depends on, as plain data; the same as the function takes it, with places of files."""


@dataclass(frozen=True)
class Outcomes:
    """Tasks with the result of each, None where it failed, and why it did."""

    tasks: tuple[Task, ...]
    values: tuple[Any, ...]
    errors: tuple[str, ...]

    @property
    def failures(self) -> tuple[tuple[str, str], ...]:
        """Label and error of each failed task."""
        return tuple((task.label, error) for task, error in zip(self.tasks, self.errors, strict=True) if error)

    def results(self) -> list[Any]:
        """Return for each task its result, or as text why there is none."""
        return [error or value for value, error in zip(self.values, self.errors, strict=True)]


def collect(
    function: Function,
    inputs: Sequence[Any],
    folder: Path | None = None,
    *,
    labels: Iterable[str] | None = None,
    backend: str = "loky",
    num_workers: int | None = None,
    address: str | None = None,
    progress: ShowRuns = show_nothing,
    tell: Callable[[str], None] = lambda _: None,
) -> Outcomes:
    """Call a function with each input whose result the folder does not hold yet.

    Parameters
    ----------
    function
        A function of a module that returns plain data and depends on its argument alone; bad input is a `LazsimError`.
    inputs
        Plain data, or objects that have all that a result depends on as ``inputs``, such as scenarios.
    labels
        Names of the inputs in errors; the inputs as text when None.
    folder
        Keeps each result as soon as it is there; None keeps nothing.
    backend
        ``loky``, processes of this machine, or ``ray``.
    num_workers
        Number of processes, from 1 up; all cores when None. With 1, loky runs the tasks in this process.
    address
        Address of a Ray cluster.
    progress
        Shows the progress.
    tell
        Is told where the folder has runs of another version.

    Examples
    --------
    >>> collect(len, [[], [1, 2]], num_workers=1).values
    (0, 2)
    """
    plain = [getattr(one, "inputs", one) for one in inputs]
    calls = zip(map(str, inputs) if labels is None else labels, plain, inputs, strict=True)
    versions = {name: version(name) for name in LIBRARIES}
    tasks = [
        Task(run_id := task_id(function, data), hash_id([run_id, versions]), label, data, argument)
        for label, data, argument in calls
    ]
    if backend not in BACKENDS:
        raise LazsimError(unknown_name("backend", backend, list(BACKENDS)))
    num_workers = len(os.sched_getaffinity(0)) if num_workers is None else check_whole("num_workers", num_workers)
    by_key = {task.key: task for task in tasks}
    errors: dict[str, str] = {}
    with ExitStack() as stack:
        store: Store | None = None
        if folder is not None:
            stack.enter_context(hold_folder(folder, LOCK))
            store = stack.enter_context(closing(Store(folder)))
        values, others = store.read(by_key) if store else ({}, set())
        todo = [task for task in by_key.values() if task.key not in values]
        if others and any(sha256(encode_plain(task.inputs)) in others for task in todo):
            tell(f"{folder}: runs there are of another version of lazsim, numpy or scipy, and are made again")
        with progress(len(values), len(by_key)) as advance:
            run = functools.partial(_run_task, function)
            if not todo or (num_workers == 1 and backend == "loky"):
                done: Iterable[tuple[str, bytes | None, str]] = map(run, todo)
            else:
                done = BACKENDS[backend](run, todo, num_workers, address)
            for key, line, error in done:
                if line is None:
                    errors[key] = error
                else:
                    if store:
                        store.append(line)
                    values[key] = msgspec.json.decode(line, type=StoredRow).decode()
                advance(1)
    return Outcomes(
        tuple(tasks), tuple(values.get(one.key) for one in tasks), tuple(errors.get(one.key, "") for one in tasks)
    )


def task_id(function: Function, inputs: Any) -> str:
    """Hash the function, the code of lazsim, and the inputs: equal on every machine and under every library."""
    made_by = [f"{function.__module__}.{function.__qualname__}", lazsim.__version__, _code_sha256(function)]
    return hash_id([made_by, inputs])


@functools.cache
def _code_sha256(function: Function) -> str:
    """Hash the sources that may decide a result: those of the function's own folder or file, and lazsim's.

    A result does not depend on how it is shown, nor on applications other than the function's own.
    """
    root = Path(lazsim.__file__).parent
    files = {path for path in root.rglob("*.py") if path.relative_to(root).parts[0] not in NOT_SIMULATED}
    if inspect.isfunction(function):
        if not os.path.exists(own := inspect.getsourcefile(function) or ""):
            raise LazsimError(f"`function` {function.__name__}: define it in a file, by which its results are known")
        files |= set(Path(own).parent.glob("*.py")) if root in Path(own).parents else {Path(own)}
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _run_task(function: Function, task: Task) -> tuple[str, bytes | None, str]:
    """Return the key of a task, and the line of its result, or why there is none."""
    try:
        value = function(task.argument)
    except LazsimError as error:
        return task.key, None, str(error)
    return task.key, encode_row(task.key, task.inputs, value), ""
