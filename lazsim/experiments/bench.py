"""What experiments are run with: workers, a store of finished runs, and the recorded data that are at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lazsim.errors import LazsimError
from lazsim.specs import sha256
from lazsim.study.collect import collect
from lazsim.study.sweep import run_sweep
from lazsim.study.sweep_spec import parse_sweep
from lazsim.trace.recipes import PublicSpec, load_recipe

if TYPE_CHECKING:
    from lazsim.study.sweep_result import SweepResult

GENERATED, RECORDED = "generated", "recorded"
"""Where expert loads and traces come from: lazsim's generators, or the real ones that these are fitted to."""

RECORDED_ROUTING = "routing/smartmoe.npz"
"""The recording of SmartMoE's run, in the reference data."""

RECORDED_TRACES = {"bamboo-p3": "traces/bamboo/p3-trace.csv"}
"""Public traces by the name under which `lazsim trace fetch` has them, in the reference data."""


@dataclass(frozen=True)
class Bench:
    """How to run.

    Attributes
    ----------
    store : Path, optional
        Folder in which finished runs are kept, so that none is made twice; none keeps nothing.
    num_workers : int, optional
        Processes; all cores by default, and 1 stays in this process.
    backend : str
        ``loky`` or ``ray``; see `lazsim.study`.
    reference : Path, optional
        Folder of recorded data; `find_reference` finds it.
    progress : callable, optional
        A progress bar; see `lazsim.study.run_sweep`.
    generated_only : bool
        Whether recorded data are left aside.
    """

    store: Path | None = None
    num_workers: int | None = 1
    backend: str = "loky"
    reference: Path | None = None
    progress: Any = None
    generated_only: bool = False

    def sweep(self, name: str, base: Mapping[str, Any], grids: Sequence[Mapping[str, Any]]) -> SweepResult:
        """Run a sweep.

        Raises
        ------
        LazsimError
            When a run fails.
        """
        sweep = parse_sweep({"base": dict(base), "grid": [dict(grid) for grid in grids]}, name=name)
        result = run_sweep(
            sweep, self._place(name), backend=self.backend, num_workers=self.num_workers, progress=self.progress
        )
        _require_all(name, result.failures)
        return result

    def collect(
        self, name: str, function: Callable[[dict[str, Any]], dict[str, Any]], inputs: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Call a pure function with each of the inputs, as the runs of a sweep.

        Raises
        ------
        LazsimError
            When a call fails.
        """
        outcomes = collect(
            function,
            inputs,
            self._place(name),
            backend=self.backend,
            num_workers=self.num_workers,
            progress=self.progress,
        )
        _require_all(name, outcomes.failures)
        return [value for value in outcomes.values if value is not None]

    def _place(self, name: str) -> Path | None:
        """Return where runs of an experiment are kept, apart from others: what is read to resume stays small."""
        return None if self.store is None else self.store / name

    def routings(self) -> dict[str, str]:
        """Name the sources of expert loads at hand: the generator, and the recording it is fitted to where it is."""
        recording = None if self.reference is None or self.generated_only else self.reference / RECORDED_ROUTING
        recorded = {RECORDED: str(recording)} if recording is not None and recording.is_file() else {}
        return {GENERATED: "smartmoe-fit"} | recorded

    def recorded_trace(self, name: str) -> str | None:
        """Return the path of a public trace, from the reference data or as it was fetched; none where it is neither."""
        if self.generated_only:
            return None
        public = load_recipe(name)
        assert isinstance(public, PublicSpec), "only public traces are recorded"
        candidates = [] if self.reference is None else [self.reference / RECORDED_TRACES[name]]
        for path in [*candidates, _fetched(public)]:
            if path.is_file() and sha256(path.read_bytes()) == public.sha256:
                return str(path)
        return None

    def recorded_hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each recorded file at hand, by its name."""
        routing = self.routings().get(RECORDED)
        paths = [routing, *(self.recorded_trace(name) for name in RECORDED_TRACES)]
        return {Path(path).name: sha256(Path(path).read_bytes()) for path in paths if path is not None}


def _fetched(public: PublicSpec) -> Path:
    import pooch

    return Path(pooch.os_cache("lazsim")) / f"{public.sha256[:12]}-{Path(public.path).name}"


def find_reference(given: Path | None) -> Path | None:
    """Return the folder of recorded data: the one given, else ``shared`` beside a checkout of lazsim, else none.

    Raises
    ------
    LazsimError
        When the one given is no folder.
    """
    if given is not None and not given.is_dir():
        raise LazsimError(f"{given}: no such folder; `reference` takes the folder of recorded traces and loads")
    beside = Path(__file__).resolve().parents[3] / "shared"
    return given or (beside if beside.is_dir() else None)


def _require_all(name: str, failures: Iterable[tuple[str, str]]) -> None:
    for label, text in failures:
        raise LazsimError(f"{name}: {label}: {text}")
