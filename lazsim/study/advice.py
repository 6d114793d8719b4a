"""Advise on the settings of a job: the best, what cannot be told from it, and what would change the advice."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from lazsim.engine.interval import daly_interval_s, steady_step_s, young_interval_s
from lazsim.engine.systems import DEFAULT_SYSTEMS, SYSTEMS, find_system
from lazsim.errors import SpecError
from lazsim.limits import LONGEST_S
from lazsim.scenario import Scenario, Settings, resolve
from lazsim.specs import unknown_name
from lazsim.study.checkpoint_interval import AUTO
from lazsim.study.collect import Progress
from lazsim.study.comparison import BySeed, Ranked, paired_ratio
from lazsim.study.intervals import MIN_SAMPLES, Interval, mean_interval
from lazsim.study.notes import count_notes
from lazsim.study.search import (
    DOLLARS,
    GOALS,
    GOODPUT,
    MOST_TUNED,
    NODE_HOURS,
    ON_DEMAND,
    SPOT,
    Alternative,
    Changes,
    Choice,
    Goal,
    Round,
    Search,
    Start,
    ToSettings,
    distinct,
    name_value,
)
from lazsim.study.sensitivity import FACTORS, constant_paths
from lazsim.study.simulation import ALL
from lazsim.trace.recipes import MtbfSpec, change_recipe
from lazsim.units import format_duration

NUM_FAILURES = 30
"""Failures that a run of a generated trace is to meet, where its length is not given."""

MOST_STEPS = 200_000
"""Steps of such a run, so that it takes under a second; it is longer where it would meet fewer than `MIN_FAILURES`."""

MIN_FAILURES = 5

MOST_RIVALS = 3
"""Alternatives, the nearest first, for which each assumption is changed, as far as there are runs for them."""

KEPT_SHARE = 0.3
"""Share of the runs that is kept for these changes, if that is enough for one of the alternatives."""

CHOICES = ("system", "fault_threshold", "num_nodes", "spares", "placement", "purchase")
"""What may be chosen beside the interval, in the order in which it is named."""

NOT_ASSUMED = ("fault_threshold", "checkpoint_interval_steps")
"""Constants that are chosen."""

TRACE_PATHS = {
    "node_mtbf": "trace.mtbf_s",
    "repair": "trace.repair_s",
    "failure_gap": "trace.interval_s",
    "loss_gap": "trace.loss_gap.scale",
    "refill_gap": "trace.refill_gap.scale",
    "load_skew": "routing.skew",
}
"""Assumptions on the failures and the loads, where they are generated."""

NEGLIGIBLE, CLUMPED, FEW_STEPS = 0.1, 0.3, 3
"""From where on there is a reason why an interval differs from Young's: relative differences of seconds and of the
variation of gaps, and steps of an interval."""


@dataclass(frozen=True)
class Off:
    """What it costs to be off by a step in one choice: the best over this, at the same seeds."""

    what: str
    alternative: Alternative
    behind: Interval


@dataclass(frozen=True)
class Turn:
    """An assumption that changes the advice: multiplied by a factor, it makes another alternative better.

    `gain` is the value of that over the value of the best, both with the changed assumption.
    """

    assumption: str
    factor: float
    alternative: Alternative
    gain: Interval


@dataclass(frozen=True)
class Turns:
    """Assumptions that change the advice, how many were halved and raised by half, and why not more."""

    found: tuple[Turn, ...]
    num_changed: int
    why_not: str = ""


@dataclass(frozen=True)
class Formulas:
    """The interval found, and those of formulas, in seconds.

    Attributes
    ----------
    found_s : Interval
        Where the fitted curve is highest; NaN where the best interval is at an end of those tried.
    young_s, daly_s : float
        From the seconds that a save stops training, and the mean time between instants at which nodes go; NaN where a
        save stops nothing, which formulas do not cover.
    stall_s, between_s : float
        These two.
    reasons : tuple of str
        Why they differ from the interval found.
    """

    found_s: Interval
    young_s: float
    daly_s: float
    stall_s: float
    between_s: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Advice:
    """The advice, and what it rests on.

    Attributes
    ----------
    goal : Goal
        What is to be as great as possible.
    best : Alternative
        The best setting.
    ranking : tuple of Ranked
        Every choice at its best interval, the best first.
    formulas : Formulas
        The interval beside those of Young and Daly.
    off : tuple of Off
        Costs of being off.
    turns : Turns
        Assumptions that change the advice.
    curves : mapping
        For each choice that was tuned, the value with its interval by steps between checkpoints.
    starts : mapping
        What each choice begins with: seconds of a step, of a save, and between failures.
    rows : tuple of mapping
        The runs of the best setting, as those of a sweep.
    rounds, num_runs, refused
        Rounds of the race, runs made, and choices that cannot run, with the reason.
    inputs : mapping
        Every input of the first run of the best setting.
    notes : tuple of str
        Remarks on the runs.
    """

    goal: Goal
    best: Alternative
    ranking: tuple[Ranked[Alternative], ...]
    formulas: Formulas
    off: tuple[Off, ...]
    turns: Turns
    curves: Mapping[Choice, Mapping[int, Interval]]
    starts: Mapping[Choice, Start]
    rows: tuple[Mapping[str, Any], ...]
    rounds: tuple[Round, ...]
    num_runs: int
    refused: Mapping[Choice, str]
    inputs: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def ties(self) -> tuple[Ranked[Alternative], ...]:
        """The choices that cannot be told from the best."""
        return tuple(one for one in self.ranking[1:] if one.is_tie)

    def mean(self, column: str) -> Interval:
        """Return the mean of a column over the runs of the best setting."""
        return mean_interval(float(row[column]) for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the shape that ``lazsim advise --json`` prints."""

        def describe(one: Alternative) -> dict[str, Any]:
            steps = {"interval_steps": one.interval_steps, "interval_s": self.seconds(one)}
            return {**dict(one.choice), **steps}

        def ranked(one: Ranked[Alternative]) -> dict[str, Any]:
            measured = {**_bounds("value", one.mean), **_bounds("behind", one.behind)}
            return {**describe(one.name), "num_seeds": one.num_seeds, **measured, "is_tie": one.is_tie}

        of_best = {name: self.mean(name).value for name in ("goodput_samples_per_s", "ettr")}
        formulas = {**vars(self.formulas), "found_s": self.formulas.found_s.value, "reasons": self.formulas.reasons}
        return {
            "goal": self.goal.name,
            "best": ranked(self.ranking[0]) | of_best,
            "ties": [ranked(one) for one in self.ties],
            "evidence": {
                "ranking": [ranked(one) for one in self.ranking],
                "off": [
                    {"what": one.what, **describe(one.alternative), **_bounds("behind", one.behind)} for one in self.off
                ],
                "interval": formulas | dict(zip(("low_s", "high_s"), self.formulas.found_s[1:], strict=True)),
                "num_assumptions": self.turns.num_changed,
                "turns": [
                    {"assumption": one.assumption, "factor": one.factor}
                    | {**describe(one.alternative), **_bounds("gain", one.gain)}
                    for one in self.turns.found
                ],
                "rounds": [vars(one) for one in self.rounds],
                "num_runs": self.num_runs,
                "refused": [{**dict(choice), "reason": reason} for choice, reason in self.refused.items()],
            },
            "inputs": dict(self.inputs),
            "notes": list(self.notes),
        }

    def seconds(self, one: Alternative) -> float:
        """Return the interval of an alternative in seconds of training on all nodes."""
        return one.interval_steps * self.starts[one.choice].step_s


def _bounds(what: str, found: Interval) -> dict[str, float]:
    return {what: found.value, f"{what}_ci_low": found.low, f"{what}_ci_high": found.high}


def advise(
    settings: Settings,
    choices: Mapping[str, Sequence[Any]],
    *,
    goal: str = "goodput",
    interval: Any = AUTO,
    on_demand_price: str | float | None = None,
    max_runs: int = 1000,
    progress: Progress | None = None,
    **options: Any,
) -> Advice:
    """Find the best setting of a job.

    Parameters
    ----------
    settings
        Trace, model and all else that the runs share; see `lazsim.scenario.Defaults`. A generated trace is another at
        each seed; a recorded one is cut into as many stretches as there are seeds. Where the trace is a `MtbfSpec`, it
        lasts as long as a run: the duration given, or one in which there are `NUM_FAILURES`.
    choices
        Values of each of `CHOICES` that may be chosen; those that are missing are as the settings have them.
    goal
        One of `GOALS`.
    interval
        Between checkpoints; ``auto`` looks for the best.
    on_demand_price
        As the setting ``price``, of a node that stays; where it is given, such nodes may be chosen in place of those of
        the trace.
    max_runs
        Runs to make at most.
    progress
        Shows runs made and runs at most.
    **options
        Folder, backend and workers; see `lazsim.study.collect.run_tasks`.

    Raises
    ------
    LazsimError
        When an input is not valid, or no alternative can run.
    """
    for name in choices:
        if name not in CHOICES:
            raise SpecError(unknown_name("choice", name, list(CHOICES)))
    chosen = {"system": DEFAULT_SYSTEMS, **choices}
    if ALL in chosen["system"]:
        chosen["system"] = tuple(SYSTEMS)
    if on_demand_price is not None:
        chosen["purchase"] = (SPOT, ON_DEMAND)
    axes = [[(name, value) for value in dict.fromkeys(chosen[name])] for name in CHOICES if name in chosen]
    alternatives = distinct(itertools.product(*axes))
    to_settings = _to_settings(settings, on_demand_price)
    if isinstance(settings["trace"], MtbfSpec):
        wall_s = settings.get("duration") or _duration_s(settings, [to_settings(choice) for choice in alternatives])
        settings = {**settings, "duration": wall_s, "trace.duration_s": wall_s}
    with _one_bar(progress, max_runs) as bar:
        search = Search(settings, to_settings, max_runs, {**options, "progress": bar})
        search.goal = _find_goal(goal, [search.scenario(choice, 0) for choice in alternatives])
        return _advise(search, alternatives, interval)


def _find_goal(name: str, scenarios: Sequence[Scenario]) -> Goal:
    """Return the goal of a name; costs are in node-hours where no price is known."""
    if name not in GOALS:
        raise SpecError(unknown_name("goal", name, list(GOALS)))
    if name == "goodput":
        return GOODPUT
    priced = {one.prices(one.load_trace()) is not None for one in scenarios}
    if len(priced) > 1:
        raise SpecError("`price`: only some of the nodes have one; give it, too")
    return DOLLARS if priced == {True} else NODE_HOURS


def failures_trace(num_nodes: Sequence[int] | None, fields: Mapping[str, float | None]) -> MtbfSpec:
    """Return the recipe of a trace of failures and repairs; see `lazsim.trace.recipes.change_recipe`."""
    given = {name: value for name, value in fields.items() if value is not None}
    recipe = change_recipe(None, given | ({"num_nodes": num_nodes[0]} if num_nodes else {}))
    assert isinstance(recipe, MtbfSpec)
    return recipe


@contextmanager
def _one_bar(progress: Progress | None, max_runs: int) -> Iterator[Progress | None]:
    """Show the runs of all rounds in one bar."""
    if progress is None:
        yield None
        return
    with progress(0, max_runs) as advance:

        def go_on(num_done: int, _num_total: int) -> AbstractContextManager[Callable[[int], None]]:
            advance(num_done)
            return nullcontext(advance)

        yield go_on


def _to_settings(settings: Settings, on_demand_price: str | float | None) -> ToSettings:
    """Return what turns a choice into settings."""
    is_sized = resolve(settings).field("trace.num_nodes") is not None

    def to_settings(choice: Choice) -> Settings:
        found: dict[str, Any] = {}
        for name, value in choice:
            if name == "fault_threshold":
                found["job.fault_threshold"] = value
            elif name == "num_nodes" and is_sized:
                found |= {"trace.num_nodes": value, "cluster.num_nodes": value}
            elif name == "num_nodes":
                found["max_nodes"] = value
            elif name == "purchase":
                found |= {"price": on_demand_price} if value == ON_DEMAND else {}
            else:
                found[name] = value
        return found

    return to_settings


def _duration_s(settings: Settings, choices: Sequence[Settings]) -> float:
    """Return how long a run must be to meet `NUM_FAILURES`, as far as its steps are no more than `MOST_STEPS`."""
    found_s = 0.0
    for choice in choices:
        scenario = resolve({**settings, **choice})
        system, costs, num_nodes = scenario.find_system(), scenario.costs(), scenario.field("trace.num_nodes")
        gap_s = scenario.field("trace.mtbf_s") / num_nodes
        wall_s = NUM_FAILURES * gap_s
        if system.usable_nodes(costs, num_nodes):
            step_s = steady_step_s(system, costs, scenario.load_routing(), num_nodes)
            wall_s = min(wall_s, max(MIN_FAILURES * gap_s, MOST_STEPS * step_s))
        found_s = max(found_s, wall_s)
    return min(found_s, LONGEST_S)


def _advise(search: Search, choices: Sequence[Choice], interval: Any) -> Advice:
    """Race, tune, and look around the best."""
    num_changes = len(_changes(search.scenario(choices[0], 0)))
    kept = min(int(KEPT_SHARE * search.max_runs), _num_screened(num_changes, MOST_RIVALS))
    search.num_kept = kept if kept >= _num_screened(num_changes, 1) else 0
    raced = search.race(choices, interval)
    num_seeds = raced[0].num_seeds
    tuned: dict[Alternative, Interval | None] = {}
    for choice in list(dict.fromkeys(one.name.choice for one in raced))[:MOST_TUNED]:
        steps = next(one.name.interval_steps for one in raced if one.name.choice == choice)
        best, found = search.tune(choice, steps, num_seeds) if interval == AUTO else (Alternative(choice, steps), None)
        tuned[best] = found
    best = search.rank(tuned)[0].name
    of_choice = {choice: search.rank(search.tried(choice))[0].name for choice in choices if search.tried(choice)}
    ranking = search.rank((of_choice | {one.choice: one for one in tuned}).values(), best)
    off = list(_look_around(search, best, num_seeds))
    rivals = [one.name for one in ranking[1:] if one.is_tie is False]
    rivals += [one.alternative for one in off if one.behind.low > 1 and one.alternative not in rivals]
    turns = _turns(search, best, rivals)
    first = search.scenario(best.choice, 0, best.interval_steps)
    rows = tuple(search.rows[best, ()].values())
    return Advice(
        goal=search.goal,
        best=best,
        ranking=tuple(ranking),
        formulas=_formulas(search, best, tuned[best], rows),
        off=tuple(off),
        turns=turns,
        curves={
            one.choice: {
                tried.interval_steps: mean_interval(search.values(tried).values())
                for tried in search.tried(one.choice, num_seeds)
            }
            for one in tuned
        },
        starts=search.starts,
        rows=rows,
        rounds=tuple(search.rounds),
        num_runs=search.num_runs,
        refused=search.refused,
        inputs=first.inputs,
        notes=(*count_notes(search.notes[best]), *([turns.why_not] if turns.why_not else [])),
    )


def _look_around(search: Search, best: Alternative, num_seeds: int) -> Iterator[Off]:
    """Yield what it costs to be off by a step in each choice that has steps."""
    steps = best.interval_steps
    around = {"interval halved": best._replace(interval_steps=max(1, round(steps / 2)))}
    around["interval doubled"] = best._replace(interval_steps=2 * steps)
    chosen = dict(best.choice)
    present = search.scenario(best.choice, 0)
    steppable = {"fault_threshold": (present.job.fault_threshold, 1), "spares": (present.num_spares, 0)}
    if not find_system(present.paths.get("system", present.system)).is_elastic:
        del steppable["fault_threshold"]
    if chosen.get("purchase") == ON_DEMAND:
        del steppable["spares"]
    for name, (value, least) in steppable.items():
        for near in (value - 1, value + 1):
            if near >= least:
                around[name_value(name, near)] = Alternative(_with(chosen, name, near), steps)
    for what, one in around.items():
        if one == best:
            continue
        if one.choice not in search.starts:
            search.start(one.choice, AUTO)
        if search.run([one], range(num_seeds)) and search.values(one):
            yield Off(what, one, paired_ratio(search.values(best), search.values(one)))


def _with(chosen: Mapping[str, Any], name: str, value: Any) -> Choice:
    return tuple((key, {**chosen, name: value}[key]) for key in CHOICES if key in chosen or key == name)


def _changes(scenario: Scenario) -> list[tuple[str, float, Changes]]:
    """Return each assumption of a scenario with each factor, and the change that this is."""
    paths = {name: path for name, path in constant_paths([]).items() if name not in NOT_ASSUMED} | TRACE_PATHS
    return [
        (name, factor, ((path, f"x{factor!r}"),))
        for name, path in paths.items()
        if scenario.field(path)
        for factor in FACTORS
    ]


def _num_screened(num_changes: int, num_rivals: int) -> int:
    """Return the runs that tell which changes may make rivals better, and make sure of one for each."""
    return num_changes * (1 + num_rivals) + 2 * MIN_SAMPLES * num_rivals


def _turns(search: Search, best: Alternative, rivals: Sequence[Alternative]) -> Turns:
    """Find the assumptions that make a rival better than the best: at one seed, then at those of an interval."""
    rivals = sorted(rivals, key=lambda one: -mean_interval(search.values(one).values()).value)[:MOST_RIVALS]
    if not rivals:
        return Turns((), 0, "no alternative is told from the best, so that no assumption was changed")
    changes = _changes(search.scenario(best.choice, 0))
    search.num_kept = 0
    while rivals and _num_screened(len(changes), len(rivals)) > search.num_left:
        rivals.pop()
    if not rivals:
        enough = math.ceil(_num_screened(len(changes), 1) / KEPT_SHARE)
        return Turns((), 0, f"no assumption was changed: that takes `max_runs` {enough:,}")
    suspects: list[tuple[float, str, float, Alternative, Changes]] = []
    for name, factor, change in changes:
        search.run([best, *rivals], [0], change)
        for rival in rivals:
            at_first, changed = (
                paired_ratio(_at(search, rival, what), _at(search, best, what)) for what in ((), change)
            )
            before = paired_ratio(search.values(rival), search.values(best))
            excess = before.value * changed.value - at_first.value
            if excess > 0:
                suspects.append((excess, name, factor, rival, change))
    num_assumptions = len(changes) // len(FACTORS)
    found: list[Turn] = []
    # The most likely first, for when runs do not suffice.
    for _, name, factor, rival, change in sorted(suspects, key=lambda one: -one[0]):
        if not search.run([best, rival], range(MIN_SAMPLES), change):
            why_not = "the runs did not suffice to make sure of all assumptions that may change the advice"
            return Turns(tuple(found), num_assumptions, why_not)
        gain = paired_ratio(search.values(rival, change), search.values(best, change))
        if gain.low > 1:
            found.append(Turn(name, factor, rival, gain))
    return Turns(tuple(found), num_assumptions)


def _at(search: Search, one: Alternative, change: Changes) -> BySeed:
    """Return the value at the first seed."""
    return {seed: value for seed, value in search.values(one, change).items() if seed == 0}


def _formulas(search: Search, best: Alternative, found: Interval | None, rows: Sequence[Mapping[str, Any]]) -> Formulas:
    """Hold the interval found against Young's and Daly's, and say why they differ."""
    start = search.starts[best.choice]
    step_s, stall_s, between_s = start.step_s, start.stall_s, start.between_s
    found_s = Interval(*((bound * step_s for bound in found) if found else (math.nan,) * 3))
    young_s = young_interval_s(stall_s, between_s) if stall_s else math.nan
    daly_s = daly_interval_s(stall_s, between_s) if stall_s else math.nan
    reasons = _reasons(start, found_s, daly_s, best.interval_steps, rows)
    return Formulas(found_s, young_s, daly_s, stall_s, between_s, tuple(reasons))


def _reasons(
    start: Start, found_s: Interval, daly_s: float, steps: int, rows: Sequence[Mapping[str, Any]]
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
    if steps >= start.most_steps:
        yield f"the best never saves in the {format_duration(start.wall_s)} of a run: longer runs may tell more"
    failures = sum(row["num_failures"] for row in rows)
    if not failures:
        yield "no failure hit training, so that any save is one too many"
        return
    lost_s, half_s = sum(row["lost_work_s"] for row in rows) / failures, steps * start.step_s / 2
    if abs(lost_s / half_s - 1) > NEGLIGIBLE:
        yield (
            f"they take it that a failure loses half an interval, {format_duration(half_s)} here; it loses "
            f"{format_duration(lost_s)} in the mean"
        )
    hit_s = sum(row["wall_s"] for row in rows) / failures
    if abs(hit_s / start.between_s - 1) > NEGLIGIBLE:
        yield (
            f"nodes go every {format_duration(start.between_s)}, but a failure hits training every "
            f"{format_duration(hit_s)}: nodes that are not in use fail, too"
        )
    if abs(start.gaps_cv - 1) > CLUMPED:
        yield (
            f"they take failures to come at random; the times between them vary by {start.gaps_cv:.1f} times their "
            "mean, where 1 is random and more is bursts"
        )
    if start.persist_s > daly_s:
        yield f"a save is written in {format_duration(start.persist_s)} beside training, and the next waits for it"
    if steps <= FEW_STEPS:
        yield "an interval is a whole number of steps"
