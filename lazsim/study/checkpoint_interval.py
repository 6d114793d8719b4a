"""The setting of a system: published, given, by a formula, or the best that simulations find."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from lazsim.engine.interval import fewest_steps, interval_steps, steady_step_s
from lazsim.engine.simulate import SystemRun
from lazsim.engine.systems import System
from lazsim.inputs import shared_trace
from lazsim.limits import MAX_DIMENSION
from lazsim.scenario import Scenario
from lazsim.study.memory import find_obstacle
from lazsim.study.runs import ScenarioRuns, Setting

UNTESTED = "no failure lost steps since a checkpoint; the interval is chosen as if one had, at a random instant"
"""Why runs cannot tell what a long interval loses."""

NUM_DRAWS = 2
"""Draws of the failures on which a setting is chosen."""

REFINEMENTS = (2.0, math.sqrt(2))
"""Ratios of neighbouring intervals in each round of a search. At the best interval saves and lost work take as long as
each other, and an interval that is off by half of the last ratio costs 1.5 % of them."""

MOST_ROUNDS = 3
"""Steps of one ratio, at most: an interval of more than twenty times Young's is that of a lucky trace."""


def choose_setting(runs: ScenarioRuns, interval: str | int | float | None) -> Setting:
    """Return the setting of scenarios with an interval.

    Where it is ``auto``, it is the one of the most samples on all traces together that simulations find, with one
    rollback more; see `_search`. Else the system is as published. The interval is the one given, the job's own, or
    Young's where that has none.
    """
    scenario = runs.scenario
    system, own = scenario.find_system(), scenario.job.checkpoint_interval_steps.get(scenario.system)
    if isinstance(interval, int):
        return Setting(system, interval)
    if interval is None and own is not None:
        return Setting(system, own)
    costs, loads = scenario.costs(), scenario.load_routing()
    num_nodes = max(one.most_in_service() for one in runs.scenarios)
    if not system.usable_nodes(costs, num_nodes):
        # The simulation says why.
        return Setting(system, own or 1)
    if isinstance(interval, float):
        return Setting(system, max(1, round(interval / steady_step_s(system, costs, loads, num_nodes))))
    steps = own or interval_steps(system, costs, loads, num_nodes, mean_between_s(runs.scenarios))
    start = Setting(system, steps)
    return start if interval is None else _search(start, runs, num_nodes)


def _search(start: Setting, runs: ScenarioRuns, num_nodes: int) -> Setting:
    """Find the setting that trains most samples: first each field of the system, then the interval.

    What does not fit into the memory of the nodes or their GPUs is not tried, beside the start. Of settings that
    lose more updates than the system may, the one that loses least is best.

    No interval is tried that is shorter than a save takes to be written, as the next save waits for it.

    Notes
    -----
    One more failure at a random instant counts as gone back to a checkpoint than did, and loses half of an interval. Of
    an interval that few such failures have tested, some lose little by luck; where none has, a run that never saves
    trains most, and loses all on another trace. With saves of a constant time, Young's interval for one failure is
    best then: `mean_between_s`, too, takes one failure for none. None shorter than the published one is tried there,
    since it trains less on the trace.
    """
    scenario = runs.scenario

    def score(setting: Setting) -> float:
        made = runs.runs(setting)
        lost = math.fsum(run.lost_token_share or 0.0 for run in made) / len(made)
        if lost > setting.system.most_lost_tokens:
            return -lost
        return math.fsum(run.samples * (1 - rollback_share(run.interval_steps, run.steps) / len(made)) for run in made)

    def fewest(system: System) -> int:
        return fewest_steps(system, scenario.costs(), scenario.load_routing(), num_nodes)

    best = start
    for name, values in start.system.choices().items():
        others = [replace(best.system, **dict[str, Any]({name: value})) for value in values]
        fitting = [one for one in others if not find_obstacle(scenario, one, num_nodes)]
        settings = [Setting(one, max(best.interval_steps, fewest(one))) for one in fitting]
        best = max((best, *settings), key=score)
    least = fewest(best.system)
    if not any(map(num_rollbacks, runs.runs(best))):
        least = max(least, best.interval_steps)
    fixed = best

    def scores(intervals: Iterable[int]) -> dict[int, float]:
        return {steps: score(replace(fixed, interval_steps=steps)) for steps in intervals}

    found = replace(best, interval_steps=climb(best.interval_steps, scores, least))
    # Where nothing trains, all settings are as good.
    return found if any(run.samples for run in runs.runs(found)) else start


def num_rollbacks(run: SystemRun) -> int:
    """Count the failures of a run that went back to a checkpoint on storage, and tell what a longer interval loses.

    One just after a save does not: `gemini` has no newer copy then, and would else have gone back to it.
    """
    # With a save after each step, nothing is lost at all.
    saves_all = run.interval_steps == 1
    return sum(
        failure.source != "memory" and (failure.lost_steps > 0 or (saves_all and failure.source == "checkpoint"))
        for failure in run.failures
    )


def rollback_share(interval_steps: int, num_steps: int) -> float:
    """Return the share of its steps that a run loses in the mean to a rollback at a random instant: half an interval.

    Examples
    --------
    >>> rollback_share(2, 50), rollback_share(500, 50)
    (0.02, 1.0)
    """
    return min(1.0, interval_steps / 2 / num_steps) if num_steps else 0.0


def search_notes(pairs: Sequence[tuple[Scenario, SystemRun]]) -> Iterator[str]:
    """Say which failures choose the best settings of scenarios, and where none tells what a long interval loses."""
    yield choice_note(pairs[0][0])
    if untested := [run.name for _, run in pairs if run.counts["checkpoints"] and not num_rollbacks(run)]:
        yield f"{', '.join(untested)}: {UNTESTED}"


def other_draws(scenario: Scenario) -> Sequence[Scenario]:
    """Return a scenario under other draws of its failures, on which to choose its setting; of a file, itself."""
    source = scenario.trace
    if source is None or source.recipe is None:
        return [scenario]
    seeds = np.random.SeedSequence(source.seed).generate_state(NUM_DRAWS).tolist()
    draws = [msgspec.structs.replace(source, seed=seed) for seed in seeds]
    return [scenario.under(shared_trace(draw, None)) for draw in draws]


def choice_note(scenario: Scenario) -> str:
    """Say which failures choose the best setting of a scenario."""
    judge, draws = scenario.load_trace(), [one.load_trace() for one in other_draws(scenario)]
    if all(trace.events_sha256 == judge.events_sha256 for trace in draws):
        return "the failures that choose the best setting also judge it, which flatters it: there are no other draws"
    if all(np.array_equal(trace.time_s, judge.time_s) for trace in draws):
        return "the best setting is chosen on failures at the same times, which flatters it, but of other nodes"
    return f"the best setting is chosen on {NUM_DRAWS} other draws of the failures, and may do worse on this one"


def mean_between_s(scenarios: Iterable[Scenario]) -> float:
    """Return the mean time between instants at which nodes go in the traces of scenarios: all where none goes."""
    found = [(one.load_trace().batches(), one.wall_s()) for one in scenarios]
    num_losses = sum(bool(batch.removed) and batch.time_s < wall_s for batches, wall_s in found for batch in batches)
    return math.fsum(wall_s for _, wall_s in found) / max(1, num_losses)


def climb(
    start: int,
    scores: Callable[[Iterable[int]], Mapping[int, float]],
    least: int = 1,
    most: int = MAX_DIMENSION,
    most_rounds: int = MOST_ROUNDS,
) -> int:
    """Climb from a start to the integer of the highest score, by smaller and smaller ratios; ties go to the larger.

    `scores` returns those of some integers, without those for which there is none. None outside `least` and `most` is
    tried, but for the start, and no more than `most_rounds` of one ratio.
    """
    best = start
    for ratio in REFINEMENTS:
        for _ in range(most_rounds):
            around = {best, *(min(most, max(least, round(steps))) for steps in (best / ratio, best * ratio))}
            known = scores(sorted(around))
            found = max(known, key=lambda steps: (known[steps], steps), default=best)
            if found == best:
                break
            best = found
    return best
