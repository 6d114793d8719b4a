"""Simulate alternatives at the same seeds, drop what is clearly worse, and find the interval of what is left."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lazsim.engine.interval import between_failures_s, interval_steps, steady_step_s
from lazsim.engine.simulate import require_fit
from lazsim.engine.systems import find_system
from lazsim.errors import InfeasiblePlanError, LazsimError, SpecError
from lazsim.scenario import Resolver, Scenario, Settings
from lazsim.study.checkpoint_interval import AUTO, choose_setting, fit_interval
from lazsim.study.collect import Task, run_tasks, task_id
from lazsim.study.comparison import BySeed, Ranked, paired_ratio, rank
from lazsim.study.intervals import MIN_SAMPLES, Interval
from lazsim.study.sweep import simulate_point
from lazsim.trace import Event, Trace, build_trace, trace_stats
from lazsim.trace.recipes import Recipe

NUM_STRETCHES = MIN_SAMPLES
"""Stretches into which a recorded trace is cut, one for each seed: as long as they can be where there is to be an
interval over them."""

RACED = (0.5, 1.0, 2.0)
"""Intervals between checkpoints that race, as multiples of Young's."""

TUNED = (0.5, 2**-0.5, 1.0, 2**0.5, 2.0)
"""Intervals around the best so far from which the best is found."""

MOST_ROUNDS = 6
"""Rounds of tuning at most: each moves an interval by up to a factor of 2."""

STEADY = 0.1
"""Relative change of an interval at which tuning ends."""

MOST_TUNED = 3
"""Choices whose interval is tuned, the best first."""

CLOSE = 1.002
"""Ratio up to which alternatives are equally good to all who choose, so that no more runs tell them apart."""

MIN_GAPS = 10
"""Failures of a run from which on the times between them tell their law."""

RACE_SHARE = 0.5
"""Share of the runs that the race may take."""

SPOT, ON_DEMAND = "spot", "on-demand"
"""Nodes that may be bought: those of the trace, or as many that stay."""

FOR_ELASTIC = ("fault_threshold", "placement")
"""Choices without effect on systems of plain expert parallelism."""

Choice = tuple[tuple[str, Any], ...]
"""The name of everything that may be chosen, but the interval, with the value chosen."""

Value = Callable[[Mapping[str, Any]], float]
"""From a row of a sweep to what is to be as great as possible."""

ToSettings = Callable[[Choice], Settings]
"""From a choice to the settings that it stands for."""

Changes = tuple[tuple[str, str], ...]
"""Fields of the scenario, and the factors by which they are multiplied, as text such as ``x0.5``."""


class Alternative(NamedTuple):
    """A choice, and the steps between checkpoints."""

    choice: Choice
    interval_steps: int


class Start(NamedTuple):
    """What a choice begins with.

    Attributes
    ----------
    steps : int
        The interval asked for, or Young's.
    step_s, stall_s, persist_s : float
        Seconds of a step on all nodes, of a save, and until it is written.
    between_s, gaps_cv : float
        Mean time between instants at which nodes go, and the coefficient of variation of these times: 1 for a Poisson
        process, NaN where there are too few.
    wall_s : float
        Length of a run.
    """

    steps: int
    step_s: float
    stall_s: float
    persist_s: float
    between_s: float
    gaps_cv: float
    wall_s: float

    @property
    def most_steps(self) -> int:
        """An interval in which a run never saves."""
        return math.ceil(self.wall_s / self.step_s)


@dataclass(frozen=True)
class Round:
    """A round of the race: alternatives, seeds of each, and how many were left."""

    num_alternatives: int
    num_seeds: int
    num_left: int


@dataclass(frozen=True)
class Goal:
    """What is to be as great as possible, and what people call it.

    Attributes
    ----------
    value : callable
        From the row of a run.
    heading, format : str
        Heading of what is shown, and its format.
    cost_of : int
        Samples whose cost is shown in place of a value of samples for each unit of cost; 0 where the value is shown.
    """

    name: str
    heading: str
    format: str
    value: Value
    cost_of: int = 0

    def shown(self, value: Interval) -> Interval:
        """Return what is shown of a value."""
        if not self.cost_of:
            return value
        return Interval(*(self.cost_of / bound if bound else math.inf for bound in (value.value, *value[:0:-1])))


GOODPUT = Goal("goodput", "samples/s", ".2f", lambda row: float(row["goodput_samples_per_s"]))
DOLLARS = Goal("cost", "$/M samples", ",.2f", lambda row: _share(row["samples"], row["cost_usd"]), 10**6)
NODE_HOURS = Goal(
    "cost", "node-hours/M samples", ",.1f", lambda row: _share(row["samples"], row["node_hours_held"]), 10**6
)
GOALS = ("goodput", "cost")


class Search:
    """The runs of a search: each is made once, and all meet the same events and loads at the same seed.

    Parameters
    ----------
    settings
        What all runs share; see `lazsim.scenario.Defaults`.
    to_settings
        What a choice stands for.
    max_runs
        Runs at most.
    options
        Of `lazsim.study.collect.run_tasks`.
    """

    def __init__(
        self,
        settings: Settings,
        to_settings: ToSettings,
        max_runs: int,
        options: Mapping[str, Any],
    ) -> None:
        self.rows: dict[tuple[Alternative, Changes], dict[int, Mapping[str, Any]]] = {}
        self.notes: dict[Alternative, list[Sequence[str]]] = {}
        self.starts: dict[Choice, Start] = {}
        self.refused: dict[Choice, str] = {}
        self.rounds: list[Round] = []
        self.num_runs = self.num_kept = 0
        self.goal = GOODPUT
        self.max_runs = max_runs
        self._settings, self._to_settings, self._options = settings, to_settings, options
        self._resolver = Resolver()
        self._whole: dict[Choice, Trace] = {}

    @property
    def num_left(self) -> int:
        """Runs that may still be made, without the `num_kept` for later."""
        return self.max_runs - self.num_runs - self.num_kept

    def scenario(self, choice: Choice, seed: int, interval_steps: Any = None) -> Scenario:
        """Return the scenario of a choice at a seed; a recorded trace has one stretch for each."""
        settings = {**self._settings, **self._to_settings(choice), "interval": interval_steps}
        scenario = self._resolver.resolve({**settings, "seed": settings.get("seed", 0) + seed})
        assert scenario.trace is not None, "a search has a trace"
        stays = dict(choice).get("purchase") == ON_DEMAND
        if scenario.trace.recipe is not None and not stays:
            return scenario
        if scenario.trace.recipe is not None:
            whole = trace = scenario.load_trace()
            wall_s = scenario.wall_s(whole)
        else:
            if choice not in self._whole:
                self._whole[choice] = scenario.load_trace()
            whole = self._whole[choice]
            wall_s = scenario.wall_s(whole) / NUM_STRETCHES
            trace = whole.window(seed * wall_s, wall_s)
        if stays:
            nodes = range(whole.most_nodes(scenario.wall_s(whole)))
            events = [Event(0.0, "add", f"{ON_DEMAND}-{number}") for number in nodes]
            trace = build_trace(events, duration_s=wall_s, name=ON_DEMAND)
        whole_trace = {"start": 0.0, "max_nodes": None, "trace_format": "auto"} | ({"spares": 0} if stays else {})
        own = {name: None for name in scenario.settings if name.startswith("trace.")}
        return self._resolver.resolve({**scenario.settings, **whole_trace, **own, "trace": trace, "duration": wall_s})

    def most_seeds(self, choices: Iterable[Choice]) -> int:
        """Return how many seeds there are: those of the stretches where a trace is recorded."""
        are_generated = all(isinstance(_recipe(self.scenario(choice, 0)), Recipe) for choice in choices)
        return self.max_runs if are_generated else NUM_STRETCHES

    def start(self, choice: Choice, interval: Any) -> Start | None:
        """Find what a choice begins with; None, and a reason in `refused`, where it cannot run."""
        first = self.scenario(choice, 0, None if interval == AUTO else interval)
        system, costs, loads = first.find_system(), first.costs(), first.load_routing()
        traces = [self.scenario(choice, seed).load_trace() for seed in range(MIN_SAMPLES)]
        wall_s = first.wall_s(traces[0])
        most_nodes = max(trace.most_nodes(wall_s) for trace in traces) - first.num_spares
        num_nodes = max(first.cluster.num_nodes, most_nodes)
        try:
            require_fit(system, costs, num_nodes)
        except InfeasiblePlanError as error:
            self.refused[choice] = str(error)
            return None
        # Runs go on with the most replicas that fit: a greater number would be the same alternative again.
        asked, used = dict(choice).get("fault_threshold"), system.usable_nodes(costs, num_nodes)
        if asked and (fewest := system.plan_evenly(costs, used).fewest_nodes) < asked:
            told = f"f {asked} does not fit: on {used} nodes, some expert is on {fewest} only"
            self.refused[choice] = told
            return None
        # A trace without a failure has one at its end.
        between_s = len(traces) / sum(1 / between_failures_s(trace, wall_s) for trace in traces)
        step_s = steady_step_s(system, costs, loads, num_nodes)
        save = system.save(costs, step_s)
        if interval == AUTO:
            steps = interval_steps(system, costs, loads, num_nodes, between_s)
        else:
            steps = choose_setting(first, traces[0], loads).interval_steps
        # Few gaps look regular, whatever their law.
        is_enough = wall_s > MIN_GAPS * between_s
        gaps_cv = sum(trace_stats(trace).loss_gap_cv for trace in traces) / len(traces) if is_enough else math.nan
        self.starts[choice] = Start(steps, step_s, save.stall_s, save.persist_s, between_s, gaps_cv, wall_s)
        return self.starts[choice]

    def run(self, alternatives: Iterable[Alternative], seeds: Iterable[int], changes: Changes = ()) -> bool:
        """Make the runs that were not made yet, if there are enough left; tell whether there were."""
        seeds = list(seeds)
        wanted = [
            (one, seed)
            for one in dict.fromkeys(alternatives)
            for seed in seeds
            if one.choice not in self.refused and seed not in self.rows.get((one, changes), {})
        ]
        if len(wanted) > self.num_left:
            return False
        tasks = []
        for one, seed in wanted:
            scenario = self.scenario(one.choice, seed, one.interval_steps)
            for path, factor in changes:
                scenario = scenario.replace(path, factor) if scenario.field(path) is not None else scenario
            label = f"{name_alternative(one)}, seed {seed}"
            tasks.append(Task(task_id(simulate_point, scenario.inputs), label, scenario.inputs, scenario))
        outcomes = run_tasks(simulate_point, tasks, **self._options)
        self.num_runs += len(tasks)
        reasons = dict(outcomes.failures)
        for (one, seed), task, value in zip(wanted, tasks, outcomes.values, strict=True):
            if value is None:
                if not changes:
                    self.refused[one.choice] = reasons[task.label]
            else:
                self.rows.setdefault((one, changes), {})[seed] = value["row"]
                if not changes:
                    self.notes.setdefault(one, []).append(value["notes"])
        return True

    def values(self, one: Alternative, changes: Changes = ()) -> BySeed:
        """Return the value of an alternative at each seed that it has."""
        return {seed: self.goal.value(row) for seed, row in self.rows.get((one, changes), {}).items()}

    def rank(self, alternatives: Iterable[Alternative], best: Alternative | None = None) -> list[Ranked[Alternative]]:
        """Order alternatives that have run; see `lazsim.study.comparison.rank`."""
        values = {one: found for one in alternatives if one.choice not in self.refused and (found := self.values(one))}
        return list(rank(values, best)) if values else []

    def race(self, choices: Sequence[Choice], interval: Any = AUTO) -> list[Ranked[Alternative]]:
        """Run all choices at a few seeds, then those that may be the best at more; return these, the best first.

        With fewer seeds than an interval takes, the worse half goes (successive halving: Karnin, Koren and Somekh,
        ICML 2013); with more, those that are worse than the best beyond chance at the same seeds (racing: Maron and
        Moore, NIPS 1993).

        Raises
        ------
        LazsimError
            When there are more alternatives than runs, or none can run.
        """
        ratios = RACED if interval == AUTO else (1.0,)
        alive = []
        for choice in choices:
            if (start := self.start(choice, interval)) is not None:
                alive += [Alternative(choice, max(1, round(start.steps * ratio))) for ratio in ratios]
        alive = list(dict.fromkeys(alive))
        budget = int(RACE_SHARE * self.max_runs)
        if len(alive) > budget:
            raise SpecError(f"`max_runs` {self.max_runs}: give at least {2 * len(alive)}, or fewer alternatives")
        most_seeds = self.most_seeds(choices)
        # Where not all get as many seeds as an interval takes, half of the runs are for later rounds.
        is_enough = MIN_SAMPLES * len(alive) <= budget
        num_seeds = MIN_SAMPLES if is_enough else max(1, budget // (2 * len(alive)))
        ranking: list[Ranked[Alternative]] = []
        while alive and num_seeds <= most_seeds and self.num_runs + len(alive) * num_seeds <= budget:
            before = len(alive)
            self.run(alive, range(num_seeds))
            ranking = self.rank(alive)
            if num_seeds < MIN_SAMPLES:
                ranking = ranking[: -(-len(ranking) // 2)]
            else:
                ranking = [one for one in ranking if one.is_tie]
            alive = [one.name for one in ranking]
            self.rounds.append(Round(before, num_seeds, len(alive)))
            is_settled = len({one.choice for one in alive}) < 2 or all(one.behind.high < CLOSE for one in ranking)
            if is_settled and num_seeds >= MIN_SAMPLES:
                break
            num_seeds = MIN_SAMPLES if num_seeds < MIN_SAMPLES < 2 * num_seeds else 2 * num_seeds
        if not ranking:
            raise LazsimError(next(iter(self.refused.values()), "no run ended well"))
        return ranking

    def tune(self, choice: Choice, steps: int, num_seeds: int) -> tuple[Alternative, Interval | None]:
        """Find the best interval of a choice from one that is near; return it, and the maximum of the fitted curve."""
        found: Interval | None = None
        most_steps = self.starts[choice].most_steps
        for _ in range(MOST_ROUNDS):
            grid = {Alternative(choice, min(most_steps, max(1, round(steps * ratio)))) for ratio in TUNED}
            if not self.run(sorted(grid), range(num_seeds)):
                break
            values = {one.interval_steps: self.values(one) for one in self.tried(choice, num_seeds)}
            values = {tried: by_seed for tried, by_seed in values.items() if steps / 2.1 <= tried <= steps * 2.1}
            if not values:
                break
            found = fit_interval(values)
            best = rank(values)[0].name
            target = best if found is None else max(min(values), min(max(values), round(found.value)))
            is_steady = abs(target - steps) <= max(STEADY * steps, 0.5)
            steps = target
            if is_steady:
                break
        tuned = Alternative(choice, steps)
        self.run([tuned], range(num_seeds))
        tried = self.tried(choice, num_seeds)
        if not tried:
            return tuned, None
        best_tried = self.rank(tried)[0].name
        # The curve knows more than the best of a few runs, unless the runs say otherwise beyond chance.
        if tuned not in tried or paired_ratio(self.values(best_tried), self.values(tuned)).low > 1:
            return best_tried, None
        return tuned, found

    def tried(self, choice: Choice, num_seeds: int = 1) -> list[Alternative]:
        """Return the alternatives of a choice with runs at `num_seeds` seeds or more, by interval."""
        found = (one for (one, changes), rows in self.rows.items() if not changes and len(rows) >= num_seeds)
        return sorted(one for one in found if one.choice == choice)


def _share(amount: float, cost: float) -> float:
    return amount / cost if cost else 0.0


def _recipe(scenario: Scenario) -> Recipe | None:
    assert scenario.trace is not None, "a search has a trace"
    return scenario.trace.recipe


def distinct(choices: Iterable[Choice]) -> list[Choice]:
    """Return choices once each where some of what is chosen has no effect."""
    found: dict[Choice, None] = {}
    for choice in choices:
        system = dict(choice).get("system")
        is_plain = system is not None and not find_system(system).is_elastic
        stays = dict(choice).get("purchase") == ON_DEMAND
        without = (*(FOR_ELASTIC if is_plain else ()), *(("spares",) if stays else ()))
        found[tuple((name, value) for name, value in choice if name not in without)] = None
    return list(found)


def name_alternative(one: Alternative) -> str:
    """Name an alternative in a line."""
    return ", ".join([*(name_value(name, value) for name, value in one.choice), f"interval {one.interval_steps}"])


def name_value(name: str, value: Any) -> str:
    """Name a value that was chosen; one that is no name says what it is of.

    Examples
    --------
    >>> name_value("system", "ds"), name_value("num_nodes", 2), name_value("fault_threshold", 2)
    ('ds', 'nodes 2', 'f 2')
    """
    if name == "fault_threshold":
        return f"f {value}"
    return value if isinstance(value, str) else f"{name.removeprefix('num_').replace('_', ' ')} {value}"
