"""Experiments: short scripts over lazsim, found by name, and the context that they run in.

A script is a file ``experiment.py``. The first line of its docstring is its title. It has

- ``SETTINGS``, a dict of plain data, and ``SMALL``, the settings that differ in its small version;
- ``run(context, settings)``, which returns an `Outcome`;
- for other experiments, where it compares systems, ``advantages(context, settings)``, the table of
  `lazsim_experiments.shared.compare`, and ``rows(context, settings)``, a row for each run.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from lazsim import __version__
from lazsim.errors import LazsimError, SpecError, prefix_errors, unknown_name
from lazsim.files.reading import read_bytes
from lazsim.files.writing import write_whole
from lazsim.specs import sha256
from lazsim.study.collect import Function, Outcomes, ShowRuns, collect, show_nothing
from lazsim.study.intervals import MIN_SAMPLES
from lazsim.study.notes.told import count_notes
from lazsim.study.sweep.run import run_sweep
from lazsim.study.sweep.spec import parse_sweep
from lazsim.trace import Trace, trace_bytes
from lazsim.trace.fetch import cached_path
from lazsim.trace.recipes import PublicSpec, load_recipe

if TYPE_CHECKING:
    import pandas as pd

SCRIPT = "experiment.py"

GENERATED, RECORDED = "generated", "recorded"
"""Sources of expert loads: lazsim's generator, and the recording that it is fitted to."""

RECORDED_ROUTING = "routing/smartmoe.npz"
RECORDED_TRACES = {"bamboo-p3": "traces/bamboo/p3-trace.csv"}
"""Files of the reference data: SmartMoE's run, and public traces by the name that `lazsim trace fetch` has for them."""

TOO_FEW = f"no interval where seeds are fewer than {MIN_SAMPLES}"
NO_LOADS = "no recorded loads at hand: generated ones only"


@dataclass(frozen=True, eq=False)
class Outcome:
    """Results of an experiment."""

    tables: Mapping[str, pd.DataFrame]
    """Tables by name; the first one holds the answer."""
    figures: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    """Pictures by name, each as bytes by file type."""
    notes: tuple[str, ...] = ()
    """Which data were used, which are missing, and remarks on the runs."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Version, settings, and hashes of recorded data."""


@dataclass(frozen=True)
class Context:
    """How experiments run."""

    name: str = ""
    small: bool = False
    """Whether experiments run in their small versions."""
    store: Path | None = None
    """Folder that keeps finished runs, so that none is made twice."""
    num_workers: int | None = 1
    backend: str = "loky"
    progress: ShowRuns = show_nothing
    tell: Callable[[str], None] = lambda _: None
    """See `lazsim.study.collect.collect`."""
    reference: Path | None = None
    """Folder of recorded data; see `find_reference`."""
    recorded: bool = True
    """Whether recorded data are used; generated ones alone where not."""
    run_notes: list[tuple[str, Sequence[str]]] = field(default_factory=list)

    def sweep(self, base: Mapping[str, Any], grids: Sequence[Mapping[str, Any]], **labels: Any) -> pd.DataFrame:
        """Run a sweep and return a row for each run; one that fails is an error.

        Parameters
        ----------
        base, grids
            As in the file of a sweep.
        labels
            More columns, such as the source of the loads; they replace a sweep's own of the same name.

        Returns
        -------
        DataFrame
            With a column for every key of the grids, and ``states`` and ``events`` where the sweep keeps them.

        Raises
        ------
        LazsimError
            When a run fails.
        """
        import pandas as pd

        sweep = parse_sweep({"base": dict(base), "grid": [dict(grid) for grid in grids]})
        result = self._with_workers(run_sweep, sweep)
        self.run_notes.extend(result.run_notes)
        # A sweep leaves out the keys that have one value in all its runs.
        fixed = {key: values[0] for grid in sweep.grids for key, values in grid.items()}
        histories: Sequence[Mapping[str, Any]] = result.histories
        rows = [fixed | row | history | labels for row, history in zip(result.rows, histories, strict=True)]
        return pd.DataFrame(rows)

    def replay(
        self,
        base: Mapping[str, Any],
        models: Sequence[str],
        systems: Sequence[str],
        seeds: Sequence[int],
        traces: Mapping[str, str],
    ) -> pd.DataFrame:
        """Train every model under every system with every seed, under all loads and traces at hand.

        `traces` are by a label; a public one that is not at hand is left out, see `missing`. The rows are those of
        `sweep`, with ``loads`` and ``trace``, the label.
        """
        import pandas as pd

        grid = {"model": models, "seed": seeds, "system": systems}
        frames = []
        for (loads, routing), (label, name) in itertools.product(self.routings().items(), traces.items()):
            if path := self.find_trace(name):
                keys = {**base, "trace": path, "routing": routing, "history": True}
                frames.append(self.sweep(keys, [grid], loads=loads, trace=label))
        return pd.concat(frames, ignore_index=True)

    def collect(self, function: Function, inputs: Sequence[Any]) -> Sequence[Any]:
        """Call a function with each of the inputs in the workers; see `lazsim.study.collect.collect`."""
        outcomes: Outcomes = self._with_workers(collect, function, inputs)
        return outcomes.values  # noqa: PD011 - no frame

    def _with_workers(self, work: Callable[..., Any], *arguments: Any) -> Any:
        # Runs are kept apart by experiment, so that little is read to resume one.
        folder = None if self.store is None else self.store / self.name
        options = {"backend": self.backend, "num_workers": self.num_workers, "progress": self.progress}
        result = work(*arguments, folder, tell=self.tell, **options)
        for label, text in result.failures:
            raise LazsimError(f"{label}: {text}")
        return result

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
        public = load_recipe(name)
        assert isinstance(public, PublicSpec), "recorded traces are public ones"
        places = [cached_path(public)]
        if self.reference:
            places.insert(0, self.reference / RECORDED_TRACES[name])
        for path in places if self.recorded else ():
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
    """A script, loaded: its name, its title, and the module with its functions and settings.

    An error in a published one is a bug; in another one it is told in one line.
    """

    name: str
    title: str
    script: ModuleType
    is_published: bool

    def settings(self, *, small: bool = False, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the settings, or those of the small version, with changes laid over them."""
        settings, smaller = self._part("SETTINGS"), getattr(self.script, "SMALL", {})
        for name, value in (("SETTINGS", settings), ("SMALL", smaller)):
            try:
                msgspec.convert(msgspec.to_builtins(value), dict[str, Any])
            except (msgspec.ValidationError, TypeError, ValueError, OverflowError, RecursionError) as error:
                raise SpecError(f"{self.script.__file__}: {name} is no dict of plain data ({error})") from None
        for over in (smaller if small else {}, changes or {}):
            for key in over:
                if key not in settings:
                    raise SpecError(f"{self.script.__file__}: {unknown_name('setting', key, list(settings))}")
            settings = overlay(settings, over)
        return _Settings(settings)

    def call(self, function: str, context: Context, changes: Mapping[str, Any] | None = None) -> Any:
        """Call a function of the script, such as ``rows``, with its settings, to some of which changes are made.

        Raises
        ------
        LazsimError
            When there is no such function, a setting is missing or not valid, or a run fails.
        """
        settings = self.settings(small=context.small, changes=changes)
        called = self._part(function)
        try:
            with prefix_errors(f"{self.script.__file__}"):
                return called(replace(context, name=self.name), settings)
        except LazsimError:
            raise
        except (Exception, SystemExit) as error:
            if self.is_published:
                raise
            raise _script_error(str(self.script.__file__), error) from error

    def run(self, context: Context) -> Outcome:
        """Run the experiment, and record the inputs of its outcome."""
        context = replace(context, run_notes=[])
        outcome = self.call("run", context)
        if not isinstance(outcome, Outcome):
            raise SpecError(f"{self.script.__file__}: run returned {type(outcome).__name__}; return an Outcome")
        with prefix_errors(f"{self.script.__file__}: run"):
            _check_outcome(outcome)
        settings = self.settings(small=context.small)
        recorded = context.recorded_hashes()
        inputs = {"version": __version__, "small": context.small, "spec": settings, "recorded": recorded}
        bounds = [frame[name] for frame in outcome.tables.values() for name in frame if str(name).endswith("_low")]
        notes = (TOO_FEW,) if any(column.isna().any() for column in bounds) else ()
        return replace(outcome, notes=(*outcome.notes, *notes, *count_notes(context.run_notes)), inputs=inputs)

    def _part(self, name: str) -> Any:
        if not hasattr(self.script, name):
            raise SpecError(f"{self.script.__file__}: has no {name}; see lazsim.study.experiment for what a script has")
        return getattr(self.script, name)


class _Settings(dict[str, Any]):
    def __missing__(self, key: str) -> Any:
        raise SpecError(f"SETTINGS has no {key!r}; add it")


def experiment_titles() -> dict[str, str]:
    """Return the published experiments in their order, each with its title."""
    return {name: _title(path.read_bytes()) for name, path in _published().items()}


def load_experiment(name: str) -> Experiment:
    """Load a published experiment by its name, or a script by its path.

    Raises
    ------
    SpecError
        When there is no such experiment, or the script cannot be run.
    """
    is_published = not name.endswith(".py")
    if not is_published:
        path = Path(name)
        name = path.resolve().parent.name if path.name == SCRIPT else path.stem
    else:
        known = _published()
        if name not in known:
            raise SpecError(unknown_name("experiment", name, list(known), "the path of a script"))
        path = known[name]
    source = read_bytes(path)
    script = ModuleType(f"lazsim_experiment:{path}")
    script.__file__ = str(path)
    # Classes look up their module while they are made. Later it is not registered: functions of the script then travel
    # to workers by value, and workers need not find the script.
    sys.modules[script.__name__] = script
    try:
        exec(compile(source, path, "exec"), vars(script))
    except (Exception, SystemExit) as error:
        raise _script_error(str(path), error) from error
    finally:
        del sys.modules[script.__name__]
    return Experiment(name, _title(source), script, is_published)


def _script_error(path: str, error: BaseException) -> SpecError:
    """Tell an error of a script in one line, with the last line of the script that ran."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    where = f"{path}, line {lines[-1]}" if lines else path
    return SpecError(" ".join(f"{where}: {type(error).__name__}: {error}".split()))


def _check_outcome(outcome: Outcome) -> None:
    """Raise SpecError where an outcome holds something else than its attributes say."""
    import pandas as pd

    name = Annotated[str, msgspec.Meta(pattern=r"^\w[\w .-]*$", max_length=100)]
    parts = {
        "tables": Annotated[dict[name, pd.DataFrame], msgspec.Meta(min_length=1)],
        "figures": dict[name, dict[name, bytes]],
        "notes": tuple[str, ...],
    }
    for part, kind in parts.items():
        try:
            msgspec.convert(getattr(outcome, part), kind)
        except msgspec.ValidationError as error:
            raise SpecError(f"returned `{part}` of another kind: {error}") from None
    for title, frame in outcome.tables.items():
        if not frame.columns.is_unique or not len(frame.columns):
            raise SpecError(f"returned a table {title!r} without columns, or with two of one name")
    for title, pictures in outcome.figures.items():
        if taken := {"csv", "md", "json"}.intersection(pictures):
            raise SpecError(f"returned a figure {title!r} as {min(taken)}, a type of tables and inputs; give a picture")


def find_reference(given: Path | None) -> Path | None:
    """Return the folder of recorded data: the one given, else ``../shared`` as seen from a checkout, else none."""
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


def _published() -> dict[str, Path]:
    """Return the script of each published experiment, in their order."""
    try:
        package = importlib.import_module("lazsim_experiments")
    except ModuleNotFoundError:
        raise LazsimError("the published experiments are not installed; install lazsim, or give a script") from None
    return {name: Path(package.__path__[0], name, SCRIPT) for name in package.NAMES}


def _title(source: bytes) -> str:
    """Return the first line of a script's docstring, without running the script."""
    text = ast.get_docstring(ast.parse(source)) or ""
    return text.partition("\n")[0].removesuffix(".")
