"""The result of a run: plain data, and tables of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lazsim.engine.layout import LayoutCosts
from lazsim.engine.ledger import RECOVERY_BUCKETS
from lazsim.engine.log import FailureRecord
from lazsim.engine.simulate import SystemRun
from lazsim.scenario import Scenario
from lazsim.study.memory import fits_memory
from lazsim.trace.table import Trace

if TYPE_CHECKING:
    import pandas as pd

HISTORIES = {
    "states": ("time_s", "nodes_alive", "nodes_used", "samples_per_s", "lost_samples_per_s"),
    "events": (
        "time_s",
        "event",
        "step",
        "nodes_alive",
        "nodes_used",
        "nodes_lost",
        "nodes_joined",
        "lost_steps",
        "lost_samples",
    ),
}
"""Columns of the histories of a run."""


@dataclass(frozen=True, repr=False)
class RunResult:
    """The results of replaying one trace under several systems."""

    id: str
    """Hash of every input: equal inputs, equal result."""
    inputs: Mapping[str, Any]
    """Every input by name, with its SHA-256 where it is a file; seed and version."""
    trace: Mapping[str, Any]
    """Description of the replayed stretch of the trace; see `describe_trace`."""
    runs: tuple[SystemRun, ...]
    """One for each system, in the order asked for; systems with flexible dispatch once for each placement asked for."""
    gpu_memory_bytes: float
    """Memory of one GPU."""
    notes: tuple[str, ...]
    """Remarks on the inputs and the results."""
    published: tuple[SystemRun, ...] | None = None
    """The same runs at the published settings, where `runs` are at the best that simulations find."""
    best: tuple[SystemRun, ...] | None = None
    """The same runs at the best settings, where `runs` are at the published ones and every system was asked for."""
    scenarios: tuple[Scenario, ...] = field(default=(), compare=False)
    """The scenario of each run."""

    def __repr__(self) -> str:
        samples = ", ".join(f"{run.name} {run.samples:,}" for run in self.runs)
        return f"<RunResult {self.id} on {self.trace['name'] or 'a trace'}: samples of {samples}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return str(self.summary().T.to_html(header=False))

    @property
    def compares_placements(self) -> bool:
        """Whether placement policies were chosen, and plans scored."""
        return bool(self.inputs.get("placements"))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row for each run, for JSON and tables; see `run_row`."""
        return list(map(run_row, self.scenarios, self.runs))

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data, the shape that ``lazsim run --json`` prints."""
        runs = self.rows
        for row, run in zip(runs, self.runs, strict=True):
            row |= {"recoveries": list(map(failure_row, run.failures)), "setting": setting_of(run)}
            row["published"] = row["best"] = None
        for name, others in (("published", self.published), ("best", self.best)):
            for row, run in zip(runs, others or (), strict=False):
                kept = ("goodput_samples_per_s", "ettr", "lost_token_share")
                row[name] = {"setting": setting_of(run), **{key: getattr(run, key) for key in kept}}
        return {
            "id": self.id,
            "trace": dict(self.trace),
            "runs": runs,
            "gpu_memory_bytes": self.gpu_memory_bytes,
            "inputs": dict(self.inputs),
            "notes": list(self.notes),
        }

    def summary(self) -> "pd.DataFrame":
        """Return one row for each run: counts, rates, and seconds by bucket."""
        return frame_of_rows([flat_row(*each) for each in zip(self.scenarios, self.runs, strict=True)])

    def timeline(self) -> "pd.DataFrame":
        """Return changes of state, each of which holds until the next of its system.

        The columns are ``time_s, system, nodes_alive, nodes_used, samples_per_s, lost_samples_per_s``: samples trained
        per second that count in the end, and those that a failure takes back, 0 while nothing trains.
        Where placements were chosen, a system stands there with each, as in ``lazarus:spread``.
        """
        return self._history("states")

    def events(self) -> "pd.DataFrame":
        """Return what happened: ``time_s, system, event, step`` and node counts; systems as in `timeline`."""
        return self._history("events")

    def recoveries(self) -> "pd.DataFrame":
        """Return one row for each failure that a system felt; see `failure_row`. Systems as in `timeline`."""
        import pandas as pd

        rows = [{"system": run.name, **flat_failure_row(failure)} for run in self.runs for failure in run.failures]
        # Columns keep their types where there is no failure.
        like = {"system": "", **flat_failure_row(FailureRecord(0.0, (), detected_s=0.0, trains_at_s=0.0))}
        return (
            pd.DataFrame([like, *rows])[1:]
            .astype({"experts_moved": "Int64", "bytes_moved": "Int64"})
            .reset_index(drop=True)
        )

    def _history(self, what: str) -> "pd.DataFrame":
        import pandas as pd

        time, *others = HISTORIES[what]
        rows = [(entry[0], run.name, *entry[1:]) for run in self.runs for entry in getattr(run, what)]
        return pd.DataFrame(rows, columns=[time, "system", *others])


TEXTS = ("placement", "layout", "plan_recovery_method")
"""Columns of runs that have texts where they apply; others that need not apply have numbers."""


def frame_of_rows(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """Return rows of runs as a table; numbers that apply to no run are NaN, as those that apply to some."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    return frame.astype({name: float for name in frame if name not in TEXTS and frame[name].isna().all()})


def named_counts(run: SystemRun) -> dict[str, int]:
    """Return what a run counts by the names that it has in results."""
    return {name if name == "lost_steps" else f"num_{name}": number for name, number in run.counts.items()}


def setting_of(run: SystemRun) -> dict[str, int]:
    """Return the values that a search for the best setting may change: of the system, and the interval."""
    return {"interval_steps": run.interval_steps, **run.setting}


def run_row(scenario: Scenario, run: SystemRun) -> dict[str, Any]:
    """Return one run as ``lazsim run --json`` prints it; None stands for what does not apply."""

    def fields(*names: str) -> dict[str, Any]:
        return {name: getattr(run, name) for name in names}

    value = fields("system", "placement", "steps", "samples", "goodput_samples_per_s", "ettr") | named_counts(run)
    value |= {"wall_s": run.wall_s, "ledger_s": dict(run.ledger_s)}
    value |= fields("planning", "samples_error", "samples_error_beyond") | _hours(run)
    value |= fields("price_usd_per_node_hour", "cost_usd", "usd_per_million_samples", "usd_per_billion_tokens")
    costs = scenario.costs()
    value["layout"] = costs.layout.description if isinstance(costs, LayoutCosts) else None
    value["memory_bytes"] = run.memory and {**run.memory.parts, "total": run.memory.total}
    value["fits_memory"] = fits_memory(scenario, run)
    value |= {"extrapolated_s": run.extrapolated_s, "host_memory_bytes": run.host_bytes or None}
    value["lost_token_share"] = run.lost_token_share
    scores = {"prob": "recovery_prob", "ci_low": "ci_low", "ci_high": "ci_high", "method": "method"}
    return value | {f"plan_recovery_{key}": getattr(run.plan_recovery, name, None) for key, name in scores.items()}


def _hours(run: SystemRun) -> dict[str, float]:
    node_hours = {what: getattr(run, f"node_hours_{what}") for what in ("held", "used", "idle")}
    by_unit = {"node": 1, "gpu": run.gpus_per_node}
    return {
        f"{unit}_hours_{what}": many * hours for unit, many in by_unit.items() for what, hours in node_hours.items()
    }


def flat_row(scenario: Scenario, run: SystemRun) -> dict[str, Any]:
    """Return the same with a column for each bucket of the ledger, and the memory in all."""
    row = run_row(scenario, run)
    row["memory_bytes"] = run.memory and run.memory.total
    return row | {f"{bucket}_s": seconds for bucket, seconds in row.pop("ledger_s").items()}


def failure_row(failure: FailureRecord) -> dict[str, Any]:
    """Return a failure and the way back to training as plain data; seconds to the microsecond."""
    row = dataclasses.asdict(failure)
    row["seconds"] = {bucket: round(failure.seconds.get(bucket, 0.0), 6) for bucket in RECOVERY_BUCKETS}
    return row


def flat_failure_row(failure: FailureRecord) -> dict[str, Any]:
    """Return the same with a column for each bucket, and the nodes in one text."""
    row = failure_row(failure)
    row["nodes"] = " ".join(failure.nodes)
    return row | {f"{bucket}_s": seconds for bucket, seconds in row.pop("seconds").items()}


def describe_trace(trace: Trace, wall_s: float) -> dict[str, Any]:
    """Return what the simulated stretch of a trace looks like, as plain data."""
    times_s, num_nodes = trace.num_alive()
    return {
        "name": Path(trace.name).name,
        "format": trace.format,
        "sha256": trace.sha256,
        "duration_s": trace.duration_s,
        "num_nodes": len(trace.names),
        "num_events": len(trace),
        "most_nodes": trace.most_nodes(wall_s),
        "fewest_nodes": int(num_nodes[times_s < wall_s].min()),
        "nodes_lost": trace.nodes_lost(wall_s),
    }
