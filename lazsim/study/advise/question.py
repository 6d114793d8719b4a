"""The scenarios that choices stand for, and their runs under the same events and loads."""

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lazsim.engine.interval import steady_step_s
from lazsim.engine.systems import find_system
from lazsim.errors import SpecError
from lazsim.inputs import Reads
from lazsim.limits import LONGEST_S
from lazsim.scenario import Scenario, resolve
from lazsim.settings import AUTO, Settings
from lazsim.study.advise.formulas import Start, find_start
from lazsim.study.advise.goal import RunRow
from lazsim.study.advise.search import Alternative, Choice
from lazsim.study.collect import collect
from lazsim.study.deadline import BOTH, ON_DEMAND, Buyer, Due, due_samples, simulate_due, switch_to_on_demand
from lazsim.study.intervals import MIN_SAMPLES
from lazsim.study.memory import find_obstacle
from lazsim.study.notes.runs import threshold_note
from lazsim.study.sensitivity import Assumption
from lazsim.study.simulation import simulate_point
from lazsim.study.sweep.spec import SEEDS
from lazsim.trace.recipes import MtbfSpec
from lazsim.units import counted, format_duration

CHOICES = ("system", "fault_threshold", "num_nodes", "spares", "placement", "purchase")
"""Choices beside the interval, in the order in which they are named."""

NUM_FAILURES = 30
"""Failures that a run of a generated trace is to meet, where its length is not given."""

MOST_STEPS = 200_000
"""Steps of such a run, so that it takes under a second; it is longer where it would meet fewer than `MIN_FAILURES`."""

MIN_FAILURES = 5

NUM_STRETCHES = MIN_SAMPLES
"""Stretches into which a recorded trace is cut, one for each seed: as long as they can be where there is to be an
interval over them, and more where they only last up to a deadline."""

FOR_ELASTIC = ("fault_threshold", "placement")
"""Choices without effect on systems of plain expert parallelism."""


def stays(choice: Choice) -> bool:
    """Tell whether no node of a choice ever goes."""
    return ("purchase", ON_DEMAND) in choice


def distinct(choices: Iterable[Choice]) -> list[Choice]:
    """Return choices once each where some of what is chosen has no effect."""
    found: dict[Choice, None] = {}
    for choice in choices:
        system = dict(choice).get("system")
        is_plain = system is not None and not find_system(system).is_elastic
        without = (*(FOR_ELASTIC if is_plain else ()), *(("spares",) if stays(choice) else ()))
        found[tuple((name, value) for name, value in choice if name not in without)] = None
    return list(found)


def without_choices(settings: Settings) -> Settings:
    """Return the settings without those that only have an effect with a choice, which tells whether they have."""
    return {**settings, "cap": None, "spare_start": None}


class Question:
    """The scenarios that choices stand for, and their runs: all meet the same events and loads at the same seed."""

    def __init__(
        self,
        settings: Settings,
        on_demand_usd: float | None,
        due: Due | None,
        choices: Sequence[Choice],
        options: Mapping[str, Any],
        given: Mapping[tuple[str, Any], Any] | None = None,
    ) -> None:
        # What was given for names in choices that stand for a user's own system or policy.
        self._given = given or {}
        self.starts: dict[Choice, Start] = {}
        """The state of each choice that can run, before its first run."""
        self.notes: dict[Alternative, list[tuple[str, Sequence[str]]]] = {}
        """Remarks on each run of an alternative."""
        self._settings, self._on_demand_usd, self._due, self._options = settings, on_demand_usd, due, options
        self._resolve = functools.partial(resolve, reads=Reads())
        self._whole: dict[Choice, Scenario] = {}
        self._samples_due = 0
        plain = self._resolve(without_choices(settings))
        assert plain.trace is not None, "a question has a trace"
        recipe = plain.trace.recipe
        self.remarks: dict[str, None] = {}
        """Remarks on all runs, as keys."""
        self.most_seeds = NUM_STRETCHES if recipe is None else None
        """Stretches of a recorded trace; None where others can be generated."""
        if recipe is None and due is not None:
            self.most_seeds = max(NUM_STRETCHES, int(plain.wall_s() / due.deadline_s))
        self._is_sized = plain.field("trace.num_nodes") is not None
        if plain.cluster.nodes_per_domain and plain.field("trace.batch_share") == 0:
            size = plain.cluster.nodes_per_domain
            self.remarks[f"no failure domain of {size} nodes fails as a whole: `batch_share` lets them"] = None
        own_s = plain.field("trace.duration_s")
        if due is not None and recipe is not None:
            self._settings = {**settings, "duration": due.deadline_s, "trace.duration_s": max(own_s, due.deadline_s)}
        elif isinstance(settings["trace"], MtbfSpec):
            wall_s = settings.get("duration") or self._long_enough_s(choices)
            self._settings = {**settings, "duration": wall_s, "trace.duration_s": wall_s}

    def _long_enough_s(self, choices: Sequence[Choice]) -> float:
        """Return how long runs must be to meet `NUM_FAILURES`, as far as their steps are no more than `MOST_STEPS`.

        Choices that cannot run count where none can.
        """
        longest_s = {True: 0.0, False: 0.0}
        for choice in choices:
            scenario = self._resolve({**self._settings, **self._settings_of(choice)})
            system, costs, num_nodes = scenario.find_system(), scenario.costs(), scenario.field("trace.num_nodes")
            gap_s = scenario.field("trace.mtbf_s") / num_nodes
            wall_s = NUM_FAILURES * gap_s
            if can_run := system.usable_nodes(costs, num_nodes) > 0:
                step_s = steady_step_s(system, costs, scenario.load_routing(), num_nodes)
                wall_s = min(wall_s, max(MIN_FAILURES * gap_s, MOST_STEPS * step_s))
            longest_s[can_run] = max(longest_s[can_run], wall_s)
        return min(longest_s[True] or longest_s[False], LONGEST_S)

    def _settings_of(self, choice: Choice) -> Settings:
        found: dict[str, Any] = {}
        for name, value in choice:
            if name == "fault_threshold":
                found["job.fault_threshold"] = value
            elif name == "num_nodes" and self._is_sized:
                found |= {"trace.num_nodes": value, "cluster.num_nodes": value}
            elif name == "num_nodes":
                found["max_nodes"] = value
            elif name == "purchase":
                found |= {"price": self._on_demand_usd, "spares": 0} if value == ON_DEMAND else {}
            else:
                found[name] = self._given.get((name, value), value)
        return found

    def _asked(self, choice: Choice, seed: int, interval: Any = None) -> Scenario:
        """Return the scenario of a choice at a seed, under the whole trace."""
        settings = {**self._settings, **self._settings_of(choice), "interval": interval}
        seeds = {name: settings[name] + seed for name in SEEDS if settings.get(name) is not None}
        return self._resolve({**settings, "seed": seed, **seeds})

    def whole(self, choice: Choice, seed: int = 0) -> Scenario:
        """Return the scenario of a choice under its trace; a recorded one before it is cut into stretches."""
        if self.most_seeds is None:
            return self._asked(choice, seed)
        if choice not in self._whole:
            asked = self._asked(choice, 0)
            # It is read once for all choices.
            self._whole[choice] = asked.under(asked.load_trace())
        return self._whole[choice]

    def scenario(self, choice: Choice, seed: int, interval: Any = None) -> Scenario:
        """Return the scenario of a choice at a seed; a recorded trace has one stretch for each."""
        asked = self._asked(choice, seed, interval)
        if self.most_seeds is None and not stays(choice):
            return asked
        whole = self.whole(choice, seed)
        trace, wall_s = whole.load_trace(), whole.wall_s()
        if self.most_seeds is not None:
            start_s, wall_s = self._stretch(seed, wall_s, self.most_seeds)
            trace = trace.window(start_s, wall_s)
        if not stays(choice):
            return asked.on(trace, wall_s)
        made = asked.on(switch_to_on_demand(trace, 0.0, whole.most_in_service(), wall_s), wall_s)
        # A layout for nodes that go would make those that stay look worse than they are.
        chosen = self.scenario(choice, 0, interval) if seed else self._resolve(made.settings)
        return replace(made, model=chosen.model, job=chosen.job)

    def _stretch(self, seed: int, whole_s: float, num_stretches: int) -> tuple[float, float]:
        """Return where the stretch of a seed begins, and how long it is: up to a deadline, or as long as can be."""
        if self._due is None:
            return seed * whole_s / NUM_STRETCHES, whole_s / NUM_STRETCHES
        deadline_s = self._due.deadline_s
        if deadline_s > whole_s:
            lasts = f"the trace lasts {format_duration(whole_s)}"
            raise SpecError(
                f"`goal`: {lasts}, and the deadline is after {format_duration(deadline_s)}; give a longer trace, or a "
                "recipe of ones like it (`lazsim trace fit`)"
            )
        if deadline_s * num_stretches > whole_s:
            self.remarks[f"the {num_stretches} stretches of the trace overlap: their runs are too much alike"] = None
        # Any few seeds in a row are of times from all over the trace.
        ahead = next(
            one for one in itertools.count(num_stretches // NUM_STRETCHES) if math.gcd(one, num_stretches) == 1
        )
        return seed * ahead % num_stretches * (whole_s - deadline_s) / (num_stretches - 1), deadline_s

    def start(self, choice: Choice, interval: Any) -> str:
        """Find what a choice begins with; return why it cannot run, if so."""
        asked = interval if interval != AUTO else 0 if stays(choice) else None
        first = self.scenario(choice, 0, asked)
        scenarios = [first, *(self.scenario(choice, seed) for seed in range(1, MIN_SAMPLES))]
        num_nodes = max(one.most_in_service() for one in scenarios) or first.cluster.num_nodes
        if first.has_chosen_layout and stays(choice):
            self.remarks["nodes that stay have a layout of their own, by which they train most"] = None
        elif first.has_chosen_layout and self.most_seeds is not None:
            of = "that of the whole trace, of which all is known"
            self.remarks[f"a choice of nodes that go has one layout in all runs: {of}"] = None
        if obstacle := find_obstacle(first, first.find_system(), num_nodes, first.wall_s(), helps=True):
            return obstacle
        # Runs go on with the most replicas that fit: a greater number would be the same alternative again.
        if "fault_threshold" in dict(choice) and (told := threshold_note(first, num_nodes)):
            return told
        found = find_start(scenarios, num_nodes)
        self.starts[choice] = found._replace(between_s=math.inf) if stays(choice) else found
        return ""

    def size_work(self, choice: Choice) -> None:
        """Find the samples of the work that is due: what a choice trains on nodes that stay."""
        if self._due is None:
            return
        staying = tuple({**dict(choice), "purchase": ON_DEMAND}.items())
        scenario = self.scenario(staying, 0, self.starts[choice].steps)
        num_staying = self.whole(choice).most_in_service()
        self._samples_due = due_samples(self._due, scenario, num_staying)
        made = f"in {format_duration(self._due.work_s)} on {counted(num_staying, 'node')}"
        first = f"{scenario.find_system().run_name} with interval {self.starts[choice].steps:,} trains {made}"
        self.remarks[f"the work is {self._samples_due:,} samples, which {first} that stay"] = None

    def measure(self, wanted: Sequence[tuple[Alternative, int]], change: Assumption | None) -> list[RunRow | str]:
        """Make runs; see `lazsim.study.advise.search.Measure`."""
        scenarios = [self.scenario(one.choice, seed, one.interval_steps) for one, seed in wanted]
        if change is not None:
            scenarios = list(map(change.apply, scenarios))
        labels = [f"{name_choice(one.choice)}, interval {one.interval_steps}, seed {seed}" for one, seed in wanted]
        if self._due is None:
            outcomes = collect(simulate_point, scenarios, labels=labels, **self._options)
        else:
            buyers = [self._buyer(one.choice, scenario) for (one, _), scenario in zip(wanted, scenarios, strict=True)]
            outcomes = collect(simulate_due, buyers, labels=labels, **self._options)
        rows: list[RunRow | str] = []
        for (one, _), scenario, result in zip(wanted, scenarios, outcomes.results(), strict=True):
            if isinstance(result, str):
                rows.append(result)
                continue
            if change is None:
                self.notes.setdefault(one, []).append((result["name"], result["notes"]))
            most_lost, num_rollbacks = scenario.find_system().most_lost_tokens, result["num_rollbacks"]
            rows.append({**result["row"], "num_rollbacks": num_rollbacks, "most_lost_tokens": most_lost})
        return rows

    def _buyer(self, choice: Choice, scenario: Scenario) -> Buyer:
        """Return who buys nodes for the work that is due; only where a choice says so, on-demand nodes take over."""
        assert self._due is not None, "work is due"
        num_staying = self.whole(choice).most_in_service() if dict(choice).get("purchase") == BOTH else 0
        return Buyer(scenario, self._due, self._samples_due, num_staying)


def name_choice(choice: Iterable[tuple[str, Any]]) -> str:
    """Name all that was chosen, in a line."""
    return ", ".join(name_value(name, value) for name, value in choice)


def name_apart(choices: Sequence[Choice]) -> tuple[list[str], str]:
    """Name choices by what differs among them, and what all have in common.

    Examples
    --------
    >>> name_apart([(("system", "ds"), ("num_nodes", 2)), (("system", "ds"), ("num_nodes", 4))])
    (['nodes 2', 'nodes 4'], 'ds')
    """
    common = [part for part in choices[0] if len(choices) > 1 and all(part in choice for choice in choices)]
    return [name_choice([part for part in choice if part not in common]) for choice in choices], name_choice(common)


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
