"""Experiments: short scripts over lazsim, found by name, and what they are run with.

A script is a file ``experiment.py``. The first line of its docstring is its title. It has

- ``SETTINGS``, a dict of plain data, and ``SMALL``, the settings that differ in its small version;
- ``run(context, settings)``, which returns an `Outcome`;
- ``advantages(context, settings)``, where it compares systems: the table of `lazsim.study.comparison.compare`.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from lazsim import __version__
from lazsim.errors import LazsimError, SpecError, prefix_errors
from lazsim.files import read_bytes, write_whole
from lazsim.specs import sha256, unknown_name
from lazsim.study.collect import Function, Progress, collect
from lazsim.study.sweep import run_sweep
from lazsim.study.sweep_spec import parse_sweep
from lazsim.trace import Trace, trace_bytes
from lazsim.trace.recipes import PublicSpec, load_recipe

if TYPE_CHECKING:
    import pandas as pd

SCRIPT = "experiment.py"

GENERATED, RECORDED = "generated", "recorded"
"""Sources of expert loads: lazsim's generator, and the recording that it is fitted to."""

RECORDED_ROUTING = "routing/smartmoe.npz"
"""The recording of SmartMoE's run, in the reference data."""

RECORDED_TRACES = {"bamboo-p3": "traces/bamboo/p3-trace.csv"}
"""Public traces, by the name under which `lazsim trace fetch` has them, in the reference data."""

NO_LOADS = "no recorded loads at hand: generated ones only"


@dataclass(frozen=True, eq=False)
class Outcome:
    """Results of an experiment.

    Attributes
    ----------
    tables : mapping of DataFrame
        Tables by name; the first one holds the answer.
    figures : mapping
        Pictures by name, each as bytes by file type.
    notes : tuple of str
        Which data were used, and which are missing.
    inputs : mapping
        Version, settings, and hashes of recorded data.
    """

    tables: Mapping[str, pd.DataFrame]
    figures: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of a sweep, with a column for every setting that tells runs apart.

    Attributes
    ----------
    rows : DataFrame
        A row for each run, as of `lazsim.study.sweep_result.SweepResult.to_frame`.
    timeline : DataFrame
        Changes of state of all runs, where the sweep keeps them.
    histories : sequence of mapping
        ``states`` and ``events`` for each row, where the sweep keeps them.
    """

    rows: pd.DataFrame
    timeline: pd.DataFrame
    histories: Sequence[Mapping[str, Sequence[Any]]]

    def where(self, **labels: Any) -> Runs:
        """Return the rows and the timeline of the runs whose columns have these values, without histories."""
        rows, timeline = self.rows, self.timeline
        for column, value in labels.items():
            rows, timeline = rows[rows[column] == value], timeline[timeline[column] == value]
        return Runs(rows, timeline, ())

    @classmethod
    def join(cls, parts: Sequence[Runs]) -> Runs:
        """Put runs of several sweeps into one table."""
        import pandas as pd

        return cls(
            pd.concat([part.rows for part in parts], ignore_index=True),
            pd.concat([part.timeline for part in parts], ignore_index=True),
            [history for part in parts for history in part.histories],
        )


@dataclass(frozen=True)
class Context:
    """How experiments run.

    Attributes
    ----------
    name : str
        The experiment that runs.
    small : bool
        Whether experiments run in their small versions.
    store : Path, optional
        Folder that keeps finished runs, so that none is made twice.
    num_workers : int, optional
        Processes; all cores when None, and 1 stays in this process.
    backend : str
        ``loky`` or ``ray``; see `lazsim.study.backends`.
    reference : Path, optional
        Folder of recorded data; see `find_reference`.
    progress : callable, optional
        A progress bar; see `lazsim.study.collect`.
    recorded : bool
        Whether recorded data are used; generated ones alone where not.
    """

    name: str = ""
    small: bool = False
    store: Path | None = None
    num_workers: int | None = 1
    backend: str = "loky"
    reference: Path | None = None
    progress: Progress | None = None
    recorded: bool = True

    def sweep(self, base: Mapping[str, Any], grids: Sequence[Mapping[str, Any]], **labels: Any) -> Runs:
        """Run a sweep.

        Parameters
        ----------
        base, grids
            As in the file of a sweep.
        labels
            More columns, such as the source of the loads; they take the place of a sweep's own of the same name.

        Raises
        ------
        LazsimError
            When a run fails.
        """
        sweep = parse_sweep({"base": dict(base), "grid": [dict(grid) for grid in grids]})
        result = run_sweep(
            sweep, self._folder, backend=self.backend, num_workers=self.num_workers, progress=self.progress
        )
        _require_all(result.failures)
        # A sweep leaves out the keys that have one value in all its runs.
        fixed = {key: values[0] for grid in sweep.grids for key, values in grid.items()}

        def label(frame: pd.DataFrame) -> pd.DataFrame:
            return frame.assign(**{key: value for key, value in fixed.items() if key not in frame} | labels)

        return Runs(label(result.to_frame()), label(result.timeline()), result.histories)

    def replay(
        self,
        base: Mapping[str, Any],
        models: Sequence[str],
        systems: Sequence[str],
        seeds: Sequence[int],
        traces: Mapping[str, str],
    ) -> Runs:
        """Run systems through the same failures, under all loads and traces at hand.

        Parameters
        ----------
        base
            Settings that all runs share, as in the file of a sweep.
        models, systems, seeds
            Every model is trained under every system with every seed.
        traces
            Traces by a label; a public one that is not at hand is left out, see `missing`.

        Returns
        -------
        Runs
            With columns ``loads`` and ``trace``, the label.
        """
        grid = {"model": models, "seed": seeds, "system": systems}
        parts = []
        for (loads, routing), (label, name) in itertools.product(self.routings().items(), traces.items()):
            if path := self.find_trace(name):
                keys = {**base, "trace": path, "routing": routing, "history": True}
                parts.append(self.sweep(keys, [grid], loads=loads, trace=label))
        return Runs.join(parts)

    def collect(self, function: Function, inputs: Sequence[Any]) -> list[Any]:
        """Call a function with each of the inputs in the workers; see `lazsim.study.collect.collect`.

        Raises
        ------
        LazsimError
            When a call fails.
        """
        outcomes = collect(
            function,
            inputs,
            self._folder,
            backend=self.backend,
            num_workers=self.num_workers,
            progress=self.progress,
        )
        _require_all(outcomes.failures)
        return list(outcomes.values)

    @property
    def _folder(self) -> Path | None:
        """Folder of the experiment's own runs, apart from others: what is read to resume stays small."""
        return None if self.store is None else self.store / self.name

    def routings(self) -> dict[str, str]:
        """Return the sources of expert loads at hand: the generator, and the recording where there is one."""
        routings = {GENERATED: "smartmoe-fit"}
        if self.recorded and self.reference and (path := self.reference / RECORDED_ROUTING).is_file():
            routings[RECORDED] = str(path)
        return routings

    @property
    def best_loads(self) -> str:
        """The source of expert loads that figures show: the recording where there is one."""
        return list(self.routings())[-1]

    def find_trace(self, name: str) -> str | None:
        """Return a trace as a sweep takes it; for a public one the path of its file, or None where that is missing."""
        if name not in RECORDED_TRACES:
            return name
        if not self.recorded:
            return None
        public = load_recipe(name)
        assert isinstance(public, PublicSpec), "recorded traces are public ones"
        for path in (*([self.reference / RECORDED_TRACES[name]] if self.reference else []), _fetched(public)):
            if path.is_file() and sha256(path.read_bytes()) == public.sha256:
                return str(path)
        return None

    def missing(self, traces: Iterable[str] = ()) -> tuple[str, ...]:
        """Return a note on each recorded source that is not at hand: some traces, and the loads."""
        lost = [name for name in traces if not self.find_trace(name)]
        notes = [f"trace {name} is not at hand: lazsim trace fetch {name}" for name in lost]
        return (*notes, *(() if RECORDED in self.routings() else (NO_LOADS,)))

    def keep_trace(self, trace: Trace) -> str:
        """Write a trace where runs can read it, and return its path, which is named by its content."""
        content = trace_bytes(trace)
        folder = Path(tempfile.gettempdir(), "lazsim-traces") if self.store is None else self.store / "traces"
        path = (folder / f"{trace.name}-{sha256(content)[:12]}.csv").absolute()
        if not path.exists():
            write_whole(path, content)
        return str(path)

    def recorded_hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each recorded file at hand, by its name."""
        found = [self.routings().get(RECORDED), *map(self.find_trace, RECORDED_TRACES)]
        return {Path(path).name: sha256(Path(path).read_bytes()) for path in found if path is not None}


@dataclass(frozen=True)
class Experiment:
    """A script, loaded.

    Attributes
    ----------
    name, title : str
        What it is called, and a line for people.
    script : module
        Its functions and settings.
    """

    name: str
    title: str
    script: ModuleType

    def has(self, part: str) -> bool:
        """Return whether the script has a function or a constant."""
        return hasattr(self.script, part)

    def settings(self, *, small: bool = False, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the settings, or those of the small version, with changes laid over them.

        Raises
        ------
        SpecError
            When there are no settings, or none of a name that changes.
        """
        settings = self._part("SETTINGS")
        for over in (getattr(self.script, "SMALL", {}) if small else {}, changes or {}):
            for key in over:
                if key not in settings:
                    raise SpecError(f"{self.script.__file__}: {unknown_name('setting', key, list(settings))}")
            settings = overlay(settings, over)
        return _Settings(settings)

    def call(self, function: str, context: Context, changes: Mapping[str, Any] | None = None) -> Any:
        """Call a function of the script with a context and the settings.

        Parameters
        ----------
        function
            Its name, such as ``run``.
        context
            How to run; its name becomes that of this experiment.
        changes
            Settings to lay over those of the script.

        Raises
        ------
        LazsimError
            When there is no such function, a setting is missing or not valid, or a run fails.
        """
        settings = self.settings(small=context.small, changes=changes)
        with prefix_errors(f"{self.script.__file__}"):
            return self._part(function)(replace(context, name=self.name), settings)

    def run(self, context: Context) -> Outcome:
        """Run the experiment, and record what its outcome was made from."""
        outcome = self.call("run", context)
        if not isinstance(outcome, Outcome):
            raise SpecError(f"{self.script.__file__}: run returned {type(outcome).__name__}; return an Outcome")
        settings = self.settings(small=context.small)
        recorded = context.recorded_hashes()
        inputs = {"version": __version__, "small": context.small, "spec": settings, "recorded": recorded}
        return replace(outcome, inputs=inputs)

    def _part(self, name: str) -> Any:
        if not self.has(name):
            raise SpecError(f"{self.script.__file__}: has no {name}; see lazsim.study.experiment for what a script has")
        return getattr(self.script, name)


class _Settings(dict[str, Any]):
    def __missing__(self, key: str) -> Any:
        raise SpecError(f"SETTINGS has no {key!r}; add it")


def experiment_titles() -> dict[str, str]:
    """Return the published experiments in their order, each with its title."""
    package = _published()
    return {name: _title((package.folder / name / SCRIPT).read_text()) for name in package.names}


def load_experiment(name: str) -> Experiment:
    """Load a published experiment by its name, or a script by its path.

    Raises
    ------
    SpecError
        When there is no such experiment, or the script cannot be run.
    """
    if name.endswith(".py"):
        path = Path(name)
        name = path.resolve().parent.name if path.name == SCRIPT else path.stem
    else:
        folder, known = _published()
        if name not in known:
            raise SpecError(unknown_name("experiment", name, list(known)) + "; or give the path of a script")
        path = folder / name / SCRIPT
    # Nobody else's module has such a name. Where it is no longer registered, functions of the script travel to workers
    # by value, and these need not find the script.
    script = ModuleType(f"lazsim_experiment:{path}")
    script.__file__ = str(path)
    source = read_bytes(path)
    sys.modules[script.__name__] = script
    try:
        exec(compile(source, path, "exec"), vars(script))
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        raise SpecError(f"{where}: {type(error).__name__}: {error}") from error
    finally:
        del sys.modules[script.__name__]
    return Experiment(name, _title(source.decode()), script)


def find_reference(given: Path | None) -> Path | None:
    """Return the folder of recorded data: the one given, else ``../shared`` as seen from a checkout, else none.

    Raises
    ------
    LazsimError
        When the one given is no folder.
    """
    if given is not None and not given.is_dir():
        raise LazsimError(f"{given}: no such folder; `reference` takes the folder of recorded traces and loads")
    beside = Path.cwd().parent / "shared"
    return given or (beside if beside.is_dir() else None)


def overlay(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a mapping over another one, mappings in them likewise.

    Examples
    --------
    >>> overlay({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 4}})
    {'a': 1, 'b': {'c': 4, 'd': 3}}
    """
    changed = dict(base)
    for key, value in changes.items():
        inner = changed.get(key)
        changed[key] = overlay(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return changed


def axes_of(base: Mapping[str, Any]) -> list[str]:
    """Return the keys of a sweep that have several values.

    Examples
    --------
    >>> axes_of({"job": "testbed-a", "gpu.memory_efficiency": ["x0.5", "x2"]})
    ['gpu.memory_efficiency']
    """
    return [key for key, value in base.items() if isinstance(value, list)]


class _Published(NamedTuple):
    folder: Path
    names: tuple[str, ...]


def _published() -> _Published:
    """Find the package of published experiments, which lies beside lazsim's own where that is installed."""
    try:
        package = importlib.import_module("lazsim_experiments")
    except ModuleNotFoundError:
        raise LazsimError("the published experiments are not installed; install lazsim, or give a script") from None
    return _Published(Path(package.__path__[0]), package.NAMES)


def _title(source: str) -> str:
    """Return the first line of a script's docstring, without running the script."""
    text = ast.get_docstring(ast.parse(source)) or ""
    return text.partition("\n")[0].removesuffix(".")


def _fetched(public: PublicSpec) -> Path:
    import pooch

    return Path(pooch.os_cache("lazsim")) / f"{public.sha256[:12]}-{Path(public.path).name}"


def _require_all(failures: Iterable[tuple[str, str]]) -> None:
    for label, text in failures:
        raise LazsimError(f"{label}: {text}")
