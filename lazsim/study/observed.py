"""Hold a run's own log of steps against simulations of the same failures.

A log says when which step was done. Where it stands still or steps back, the job stood: the time until training went
on, and the steps done again, are those of a failure. What a stop was spent on, a log does not say.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from lazsim.engine.interval import steady_step_s
from lazsim.engine.log import TimeSpan
from lazsim.engine.simulate import SystemRun
from lazsim.errors import LazsimError, prefix_errors
from lazsim.scenario import Scenario
from lazsim.study.collect import ShowRuns
from lazsim.study.simulation import resolve_runs, simulate_scenarios
from lazsim.study.step_log import Mark, read_log
from lazsim.units import counted, format_duration

STOP_FACTOR, STOP_S = 3.0, 5.0
"""Times the usual time of its steps, and seconds beyond it, after which an interval has a stop. *Assumption*."""

FEWEST_SAVES, SAVED_SHARE, MOST_SPACINGS = 3, 0.8, 5
"""Stops at multiples of one number of steps from which on these are saves, share of the multiples that have one, and
numbers of steps that are tried, the commonest first. *Assumption*."""

MOST_TIMES = 100.0
"""Times that a step of the log takes that of a simulation, or a simulation that of the log, from which on times may be
in another unit. *Assumption*."""


class Pause(NamedTuple):
    """An interval between two lines that takes longer than its steps do, and by how much."""

    before: Mark
    after: Mark
    seconds: float


@dataclass(frozen=True)
class Phases:
    """A run in the parts that its log shows."""

    wall_s: float
    training_s: float
    lost_s: float
    stopped_s: float
    """All of it; steps that were kept, with checkpoints between them; steps done again; and standing still."""
    num_stops: int
    """Times that it stood still, also where it still does at its end."""
    stop_s: float | None
    """Median of those that ended; None without any."""
    done: float
    """Steps, or samples, kept."""
    step_s: float | None
    """Median of the seconds of one, between lines of a log or of those that a simulation made; None without any."""


@dataclass(frozen=True)
class Offer:
    """A constant of the cluster's file that would make the median stop of a simulation that of the log."""

    field: str
    seconds: float
    instead_of_s: float


@dataclass(frozen=True)
class ObservedComparison:
    """A log beside simulations by name, with constants on offer that nothing was changed for."""

    unit: str
    observed: Phases
    offers: Mapping[str, tuple[Offer, ...]]
    inputs: Mapping[str, Any]
    simulated: Mapping[str, Phases]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the shape that ``lazsim compare --json`` prints."""
        return asdict(self)


def observed_phases(marks: list[Mark]) -> Phases:
    """Take a log apart.

    Notes
    -----
    The usual pace is the median over the intervals in which the count rises. After a step back, the first line is
    taken to come as many steps after the checkpoint as lines are apart: by so much lost steps may be off. Saves are
    training; see `saves_in`.

    Examples
    --------
    A step a second; after 5 s, 20 s until the job is at step 4 again, 3 steps after its checkpoint at 3.

    >>> marks = [Mark(0, float(t), t) for t in range(6)] + [Mark(0, 25.0 + i, 4.0 + i) for i in range(4)]
    >>> observed_phases(marks)
    Phases(wall_s=28.0, training_s=7.0, lost_s=2.0, stopped_s=19.0, num_stops=1, stop_s=19.0, done=7.0, step_s=1.0)
    """
    last = marks[-1]
    # A count that is written again says nothing, but that the job still stands where the log ends.
    marks = [marks[0], *(after for before, after in pairwise(marks) if after.done != before.done or after is last)]
    rising = [(after.time_s - before.time_s, after.done - before.done) for before, after in pairwise(marks)]
    paces = [seconds / done for seconds, done in rising if done > 0 and seconds > 0]
    if not paces:
        raise LazsimError("`observed`: its steps or their times never rise; give a log of a run that trains")
    if last.done <= marks[0].done:
        told = f"it ends at {last.done:,.10g} and begins at {marks[0].done:,.10g}"
        raise LazsimError(f"`observed`: {told}, so that no step is kept; give counts that do not begin anew")
    pace_s, apart = median(paces), median([done for _, done in rising if done > 0])
    pauses, lost = [], 0.0
    for (seconds, done), (before, after) in zip(rising, pairwise(marks), strict=True):
        if done < 0:
            lost += apart - done
        made_s = (done if done > 0 else apart) * pace_s
        if done < 0 or seconds > max(STOP_FACTOR * made_s, made_s + STOP_S):
            pauses.append(Pause(before, after, max(0.0, seconds - made_s)))
    saves = saves_in(pauses, marks)
    stops = [one for one in pauses if one not in saves]
    wall_s, lost_s, stopped_s = (
        marks[-1].time_s - marks[0].time_s,
        lost * pace_s,
        math.fsum(one.seconds for one in stops),
    )
    training_s = max(0.0, wall_s - lost_s - stopped_s)
    ended_s = [one.seconds for one in stops if one.after is not marks[-1] or one.after.done != one.before.done]
    done = marks[-1].done - marks[0].done
    return Phases(wall_s, training_s, lost_s, stopped_s, len(stops), _median(ended_s), done, pace_s)


def saves_in(pauses: Sequence[Pause], marks: Sequence[Mark]) -> set[Pause]:
    """Return the pauses that are saves: those without a step back at nearly all multiples of one number of steps.

    Those that take far longer than usual are stops.
    """
    rising = [one for one in pauses if one.after.done >= one.before.done]
    lines = {done: float(at) for at, done in enumerate(sorted({one.done for one in marks}))}
    # By steps; or, since samples rise by batches of several sizes, by lines, of which the first may be any.
    return _saves_at(rising, {done: done for done in lines}, 0) or _saves_at(rising, lines, None)


def _saves_at(rising: Sequence[Pause], places: Mapping[float, float], first: float | None) -> set[Pause]:
    """Return the pauses at multiples of one distance from a first place, which is any of the pauses' if not given."""
    least, most = min(places.values()), max(places.values())
    spacings = Counter(places[later.before.done] - places[sooner.before.done] for sooner, later in pairwise(rising))
    for every, _ in spacings.most_common(MOST_SPACINGS):
        if every <= 0:
            continue
        phases = Counter(places[one.before.done] % every for one in rising)
        phase = phases.most_common(1)[0][0] if first is None else first
        at = {one: (places[one.after.done] - phase) // every for one in rising}
        at = {one: number for one, number in at.items() if number * every + phase >= places[one.before.done]}
        if len(set(at.values())) >= max(FEWEST_SAVES, SAVED_SHARE * (most // every - least // every)):
            most_s = STOP_FACTOR * median(one.seconds for one in at)
            return {one for one in at if one.seconds <= most_s}
    return set()


TRAINING = ("compute", "checkpoint", "rebalance")
"""What a job does while its log goes on, beside steps that are lost later."""

CONSTANTS = {"detect_s": "detect", "restart_base_s": "restart", "rebuild_s": "reconfigure"}
"""Constants of the cluster's file that may be offered, and what a job does meanwhile."""

AGREEMENT = 0.02
"""How far from that of the log the median stop may be in a simulation with a constant on offer, as a share of it."""


def simulated_phases(run: SystemRun, unit: str) -> Phases:
    """Return a simulated run in the same parts."""
    spent_s = run.ledger_s
    stops = list(_stops(run))
    training_s = math.fsum(spent_s[what] for what in TRAINING)
    return Phases(
        run.wall_s,
        training_s,
        spent_s["lost_work"],
        run.wall_s - training_s - spent_s["lost_work"],
        len(stops),
        _median([seconds for seconds, _ in stops if seconds is not None]),
        float(run.steps if unit == "steps" else run.samples),
        _median_step_s(run, unit),
    )


def _median_step_s(run: SystemRun, unit: str) -> float | None:
    """Return the median of the seconds of each step, or of each sample, that a simulated run made; None without any."""
    if not run.steps_made:
        return None
    step_s, samples, num_steps = np.array([(*one, num) for one, num in run.steps_made.items()]).T
    each_s, numbers = (step_s, num_steps) if unit == "steps" else (step_s / samples, samples * num_steps)
    order = np.argsort(each_s)
    through = np.cumsum(numbers[order])
    return float(each_s[order][np.searchsorted(through, through[-1] / 2)])


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _stops(run: SystemRun) -> Iterator[tuple[float | None, Counter[str]]]:
    """Yield the seconds of each time that a run stands still, and how often it does what; none before it trains.

    The seconds of one that has not ended are None.
    """
    # Long runs keep no short spans: training between two stops may be missing.
    stops = list[list[TimeSpan]]()
    for span in run.phases:
        if span.what not in TRAINING:
            if not stops or stops[-1][-1].end_s < span.start_s:
                stops.append([])
            stops[-1].append(span)
    for spans in stops:
        if spans[0].start_s > 0:
            ended_s = spans[-1].end_s - spans[0].start_s if spans[-1].end_s < run.wall_s else None
            yield ended_s, Counter(what for what, _ in groupby(span.what for span in spans))


def offer(observed: Phases, simulated: Phases, run: SystemRun, recovery: Any) -> tuple[Offer, ...]:
    """Return the constants each of which alone would make the median stop of a simulation that of the log.

    That holds where the system waits for all of what it does and stops stay apart, which only a simulation tells. What
    a stop does several times may take longer each time, or the last time, where failures end the others.
    """
    if observed.stop_s is None or simulated.stop_s is None:
        return ()
    stops, found = [(seconds, doing) for seconds, doing in _stops(run) if seconds is not None], list[Offer]()
    for field, what in CONSTANTS.items():
        before_s = getattr(recovery, field)
        for times in sorted({1, *(doing[what] for _, doing in stops)} - {0}):
            more_s = (observed.stop_s - simulated.stop_s) / times
            changed_s = median(seconds + more_s * min(times, doing[what]) for seconds, doing in stops)
            # Nodes join without detection, and not all stops are restarts.
            if before_s + more_s >= 0 and math.isclose(changed_s, observed.stop_s):
                found.append(Offer(field, before_s + more_s, before_s))
    return tuple(found)


def compare_observed(
    path: Path | str,
    settings: Mapping[str, Any],
    systems: Sequence[str],
    progress: ShowRuns,
    tell: Callable[[str], None],
) -> ObservedComparison:
    """Simulate what a log tells of under some systems: all of it, or as many seconds as `duration` has.

    `tell` is told before the runs if the times of the log may be in another unit: they would take long.

    Raises
    ------
    LazsimError
        When an input is not valid, or the log never trains or ends before the duration does.
    """
    unit, marks, hashed, notes = read_log(path)
    observed = observed_phases(marks)
    if (duration_s := settings.get("duration")) is not None:
        with prefix_errors(f"`duration` {format_duration(duration_s)}"):
            if duration_s > observed.wall_s:
                raise LazsimError(f"the log spans {observed.wall_s:,.10g} s; give no more, or leave it out")
            marks = [one for one in marks if one.time_s - marks[0].time_s <= duration_s]
            observed = observed_phases(marks)
    asked = {**settings, "duration": observed.wall_s}
    scenarios, left_out = resolve_runs(asked, systems, ())
    doubts = _doubtful_units(unit, observed, scenarios[0])
    for doubt in doubts:
        tell(doubt)
    result = simulate_scenarios(scenarios, progress, left_out=left_out)
    simulated = {run.name: simulated_phases(run, unit) for run in result.runs}
    recovery = scenarios[0].cluster.recovery

    def agrees(one: Offer, system: str) -> bool:
        changed, _ = resolve_runs({**asked, f"cluster.recovery.{one.field}": one.seconds}, [system], ())
        run = simulate_scenarios(changed).runs[0]
        found_s = simulated_phases(run, unit).stop_s
        wanted_s = observed.stop_s
        return not (found_s is None or wanted_s is None) and math.isclose(found_s, wanted_s, rel_tol=AGREEMENT)

    if any(scenario.has_chosen_layout for scenario in scenarios):
        notes = (*notes, "steps and stops are those of a layout that lazsim chose, not the log's: give that with `job`")
    offers = {}
    for scenario, run in zip(scenarios, result.runs, strict=True):
        found = offer(observed, simulated[run.name], run, recovery)
        offers[run.name] = tuple(one for one in found if agrees(one, scenario.settings["system"]))
    return ObservedComparison(
        unit,
        observed,
        offers,
        {"observed": {"name": Path(path).name, "sha256": hashed}, **result.inputs},
        simulated,
        (*notes, *doubts, *_log_notes(unit, marks, observed, simulated, result.runs), *result.notes),
    )


def _doubtful_units(unit: str, observed: Phases, scenario: Scenario) -> list[str]:
    """Say that a log's times may not be seconds, where its steps take far more or less than simulated ones."""
    system, costs = scenario.find_system(), scenario.costs()
    num_nodes = system.usable_nodes(costs, scenario.most_in_service())
    if not num_nodes:
        return []
    samples = costs.samples_per_step(num_nodes) if unit == "samples" else 1
    simulated_s = steady_step_s(system, costs, scenario.load_routing(), num_nodes) / samples
    observed_s = observed.step_s or 0.0
    if 1 / MOST_TIMES < observed_s / simulated_s < MOST_TIMES:
        return []
    takes = f"takes {format_duration(observed_s)}, and of a simulation {format_duration(simulated_s)}"
    return [f"one of the {unit} of the log {takes}: the log's times are taken for seconds"]


def _log_notes(
    unit: str, marks: list[Mark], observed: Phases, simulated: Mapping[str, Phases], runs: Sequence[SystemRun]
) -> Iterator[str]:
    """Yield what limits the comparison, and how large steps are, which a log need not tell."""
    apart = median(after.done - before.done for before, after in pairwise(marks) if after.done > before.done)
    if observed.lost_s:
        far = counted(round(apart), unit.removesuffix("s"))
        yield f"lines of the log are {far} apart: what each stop lost may be off by as many"
    yield "`trace` is taken to begin with the first line of the log, whatever the dates in both; `start` moves it"
    numbers = {name: phases.num_stops for name, phases in simulated.items() if phases.num_stops != observed.num_stops}
    if numbers:
        told = ", ".join(f"{name} {number}" for name, number in numbers.items())
        yield (
            f"the log stops {counted(observed.num_stops, 'time')}, simulations otherwise ({told}): the trace may begin "
            "with another line, or have lost nodes that stay idle, which stop no simulation"
        )
    batches = " or ".join(sorted({f"{run.samples / run.steps:,.4g}" for run in runs if run.steps}))
    if unit == "steps" and batches:
        yield f"a simulated step has {batches} samples in the mean: steps of the log are taken to be as large"
