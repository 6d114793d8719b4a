"""Where a search for the best interval between checkpoints begins, and what it finds beside the formulas of others."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lazsim.engine.interval import daly_interval_s, interval_steps, steady_step_s, young_interval_s
from lazsim.scenario import Scenario
from lazsim.study.checkpoint_interval import choose_setting, mean_between_s
from lazsim.study.intervals import MIN_SAMPLES, Interval
from lazsim.study.runs import ScenarioRuns
from lazsim.trace import trace_stats
from lazsim.units import format_duration

MIN_GAPS = 10
"""Failures of a run from which on the times between them tell their law."""

NEGLIGIBLE, CLUMPED, FEW_STEPS = 0.1, 0.3, 3
"""From where on there is a reason why an interval differs from Young's: relative differences of seconds and of the
variation of gaps, and steps of an interval."""


class Start(NamedTuple):
    """Where a search for the best interval begins, and what formulas of it take."""

    steps: int
    """The interval asked for, or Young's; no longer than lets a system lose as many updates as it may."""
    step_s: float
    stall_s: float
    persist_s: float
    """Seconds of a step on all nodes, of a save, and until it is written."""
    between_s: float
    gaps_cv: float
    """Mean time between instants at which nodes go, and the coefficient of variation of these times: 1 for a Poisson
    process, NaN where there are too few."""
    wall_s: float
    """Length of a run."""

    @property
    def most_steps(self) -> int:
        """An interval in which a run never saves."""
        return math.ceil(self.wall_s / self.step_s)

    @property
    def is_rare(self) -> bool:
        """Whether nodes go once at most in the runs from which `between_s` is, which takes none for one."""
        return round(MIN_SAMPLES * self.wall_s / self.between_s) <= 1


def find_start(scenarios: Sequence[Scenario], num_nodes: int) -> Start:
    """Return where a search for the interval begins, on up to `num_nodes` nodes; scenarios differ in their traces."""
    scenario = scenarios[0]
    system, costs, loads = scenario.find_system(), scenario.costs(), scenario.load_routing()
    wall_s, between_s = scenario.wall_s(), mean_between_s(scenarios)
    step_s = steady_step_s(system, costs, loads, num_nodes)
    save = system.save(costs, system.usable_nodes(costs, num_nodes), step_s)
    if scenario.interval is None:
        steps = interval_steps(system, costs, loads, num_nodes, between_s)
        if lost := system.stale_steps(1):
            # A failure loses as many updates as its interval is long.
            steps = max(1, min(steps, int(system.most_lost_tokens * between_s / step_s / lost)))
    else:
        steps = choose_setting(ScenarioRuns([scenario]), scenario.interval).interval_steps
    # Few gaps look regular, whatever their law.
    is_enough = wall_s > MIN_GAPS * between_s
    gaps_cv = math.nan
    if is_enough:
        gaps_cv = math.fsum(trace_stats(one.load_trace()).loss_gap_cv for one in scenarios) / len(scenarios)
    return Start(steps, step_s, save.stall_s, save.persist_s, between_s, gaps_cv, wall_s)


@dataclass(frozen=True)
class Formulas:
    """The interval found, and those of formulas, in seconds."""

    found_s: Interval
    """Where the fitted curve is highest; NaN where that is beyond those tried, of which the best is at an end."""
    young_s: float
    daly_s: float
    """From the two below; NaN where a save stops nothing, which formulas do not cover."""
    stall_s: float
    between_s: float
    """Seconds that a save stops training, and mean time between instants at which nodes go."""
    reasons: tuple[str, ...]
    """Why they differ from the interval found."""


def hold_against_formulas(
    start: Start, steps: int, found: Interval | None, rows: Sequence[Mapping[str, Any]], gone_s: float
) -> Formulas:
    """Hold the best interval in steps, and the one of the fitted curve, against Young's and Daly's.

    `rows` are those of the runs at the best interval, as in a sweep; in their traces nodes go every `gone_s`.
    """
    stall_s, between_s = start.stall_s, start.between_s
    found_s = Interval(*((bound * start.step_s for bound in found) if found else (math.nan,) * 3))
    young_s = young_interval_s(stall_s, between_s) if stall_s else math.nan
    daly_s = daly_interval_s(stall_s, between_s) if stall_s else math.nan
    reasons = tuple(_reasons(start, found_s, daly_s, steps, rows, gone_s))
    return Formulas(found_s, young_s, daly_s, stall_s, between_s, reasons)


def _reasons(
    start: Start, found_s: Interval, daly_s: float, steps: int, rows: Sequence[Mapping[str, Any]], gone_s: float
) -> Iterator[str]:
    """Say why the interval found differs from those of formulas: which of what they take for granted does not hold."""
    if not start.stall_s:
        yield (
            "Young's and Daly's do not apply, as a save stops nothing; it is written in "
            f"{format_duration(start.persist_s)} beside training, and the next waits for it"
        )
        return
    if found_s.low <= daly_s <= found_s.high:
        yield "Daly's is within the interval of the one found: they do not differ beyond chance"
        return
    failures = sum(row["num_failures"] for row in rows)
    if not failures:
        yield "no failure hit training, so that any save is one too many"
        return
    if steps >= start.most_steps:
        yield f"the best never saves in the {format_duration(start.wall_s)} of a run: longer runs may tell more"
    lost_s, half_s = math.fsum(row["lost_work_s"] for row in rows) / failures, steps * start.step_s / 2
    if half_s and abs(lost_s / half_s - 1) > NEGLIGIBLE:
        yield (
            f"they take it that a failure loses half an interval, {format_duration(half_s)} here; it loses "
            f"{format_duration(lost_s)} in the mean"
        )
    hit_s = math.fsum(row["wall_s"] for row in rows) / failures
    if hit_s > (1 + NEGLIGIBLE) * gone_s:
        switched = any(row.get("switch_s") is not None for row in rows)
        why = "on-demand nodes, which stay, take over" if switched else "nodes that are not in use fail, too"
        yield (
            f"nodes go every {format_duration(gone_s)} of these runs, but a failure hits training every "
            f"{format_duration(hit_s)}: {why}"
        )
    if abs(start.gaps_cv - 1) > CLUMPED:
        yield (
            f"they take failures to come at random; the times between them vary by {start.gaps_cv:.1f} times their "
            "mean, where 1 is random and more is bursts"
        )
    if start.persist_s > daly_s:
        yield f"a save is written in {format_duration(start.persist_s)} beside training, and the next waits for it"
    if 0 < steps <= FEW_STEPS:
        yield "an interval is a whole number of steps"
