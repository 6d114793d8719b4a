"""Advise on the settings of a job: the best, what cannot be told from it, and what would change the advice."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import Any, NamedTuple

from lazsim.engine.systems import find_system, system_names
from lazsim.errors import SpecError, prefix_errors, unknown_name
from lazsim.placement.policies import policy_input
from lazsim.scenario import Scenario, resolve
from lazsim.settings import AUTO, Settings
from lazsim.specs.effects import why_without_effect
from lazsim.specs.overrides import SHARES
from lazsim.study.advise.formulas import hold_against_formulas
from lazsim.study.advise.goal import find_goal, parse_goal
from lazsim.study.advise.question import (
    CHOICES,
    FOR_ELASTIC,
    MOST_STEPS,
    Question,
    distinct,
    name_choice,
    name_value,
    stays,
    without_choices,
)
from lazsim.study.advise.result import Advice, Off, Turn, Turns
from lazsim.study.advise.search import Alternative, Choice, Search
from lazsim.study.checkpoint_interval import UNTESTED, mean_between_s
from lazsim.study.collect import Advance, ShowRuns, show_nothing
from lazsim.study.comparison import Ranked, mean_over_seeds
from lazsim.study.deadline import BOTH, ON_DEMAND, SPOT, on_demand_usd
from lazsim.study.intervals import MIN_SAMPLES, Interval, few_failures_note
from lazsim.study.notes.inputs import draw_notes
from lazsim.study.notes.told import count_notes
from lazsim.study.sensitivity import FACTORS, Assumption, constant_paths
from lazsim.study.simulation import ALL, distinct_names, refuse_same_names
from lazsim.units import counted

MOST_RIVALS = 3
"""Alternatives, the nearest first, for which each assumption is changed, as far as there are runs for them."""

VARIED_SHARE = 0.3
"""Share of the runs that changes these assumptions, if that is enough for one of the alternatives."""

RACED_SHARE, FOUND_SHARE = 0.5, 0.75
"""Share of all runs that the race may take, and of those beside these changes after which others judge what is found.
"""

RACED = (0.5, 1.0, 2.0)
"""Intervals between checkpoints that race, as multiples of Young's."""

MOST_TUNED = 3
"""Choices whose interval is tuned, the best first."""

NUM_CLIMBED = 10
"""Intervals for which there must be runs to tune a choice beside the best."""

NUM_BESIDE = 2
"""Neighbours of the best for which there must be runs."""

LONG_RUN_STEPS = 2 * MOST_STEPS
"""Steps above which a run may take seconds, and a search is told to take long."""

NOT_ASSUMED = ("fault_threshold", "checkpoint_interval_steps")
"""Constants that are chosen."""

TRACE_PATHS = {
    "node_mtbf": "trace.mtbf_s",
    "repair": "trace.repair_s",
    "batch_share": "trace.batch_share",
    "failure_gap": "trace.interval_s",
    "loss_gap": "trace.loss_gap.scale",
    "refill_gap": "trace.refill_gap.scale",
    "load_skew": "routing.skew",
}
"""Assumptions on the failures and the loads, where they are generated."""


def advise(
    settings: Settings,
    choices: Mapping[str, Sequence[Any]],
    *,
    goal: str = "goodput",
    work: str | float | None = None,
    in_time_prob: float = 0.9,
    interval: Any = AUTO,
    on_demand_price: str | float | None = None,
    max_runs: int = 1000,
    progress: ShowRuns = show_nothing,
    tell: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Advice:
    """Find the best setting of a job.

    Parameters
    ----------
    settings
        Trace, model and all else that the runs share; see `lazsim.settings.Defaults`. A generated trace is another at
        each seed; a recorded one is cut into as many stretches as there are seeds. Where the trace is a `MtbfSpec`, it
        lasts as long as a run: the duration given, or one in which there are `NUM_FAILURES`.
    choices
        Values of each of `CHOICES` that may be chosen; those that are missing are as the settings have them, and all
        systems where those name none.
    goal
        ``goodput``, ``cost``, or ``deadline=80h``: the least cost at which work is done in time.
    work, in_time_prob
        Work that is due, as ``64h`` of the first system on nodes that stay, and the probability with which it must be
        done by the deadline; see `lazsim.study.deadline`.
    interval
        Between checkpoints; ``auto`` looks for the best.
    on_demand_price
        As the setting ``price``, of a node that stays, by default the cluster's; where it is known, such nodes may be
        chosen in place of those of the trace, and before a deadline also after them.
    max_runs
        Runs to make at most.
    progress, tell
        Shows runs made and runs at most; is told before the runs if they may take long, or a folder has others.
    **options
        Folder, backend and workers; see `lazsim.study.collect.collect`.

    Raises
    ------
    LazsimError
        When an input is not valid, or no alternative can run.
    """
    for name in choices:
        if name not in CHOICES:
            raise SpecError(unknown_name("choice", name, list(CHOICES)))
    plain = resolve(without_choices(settings))
    if settings.get("interval") is not None:
        raise SpecError("`interval` has no effect among the settings: give it beside them")
    staying_usd = on_demand_usd(on_demand_price, plain.cluster)
    name, due = parse_goal(goal, work, in_time_prob, staying_usd, plain)
    chosen = {"system": [settings.get("system") or ALL], **choices}
    if due is not None and any(chosen.get("spares", ())):
        raise SpecError("`spares`: nodes for work that is due have none; leave them out")
    if staying_usd is not None:
        chosen["purchase"] = (SPOT, ON_DEMAND) if due is None else (SPOT, ON_DEMAND, BOTH)
    combined, given = _combine(chosen)
    # To find which of them can run, and with which layouts, may take minutes.
    num_raced = sum(1 if interval != AUTO or stays(choice) else len(RACED) for choice in combined)
    refuse_few_runs(max_runs, len(combined), num_raced)
    with progress(0, max_runs) as advance:

        def go_on(num_done: int, _num_total: int) -> AbstractContextManager[Advance]:
            """Show the runs of all rounds in one bar."""
            advance(num_done)
            return nullcontext(advance)

        options |= {"progress": go_on, "tell": functools.cache(tell)}
        question = Question(settings, staying_usd, due, combined, options, given)
        found = find_goal(name, in_time_prob, [question.scenario(choice, 0) for choice in combined])
        # Those that find and those that judge.
        most_seeds = question.most_seeds or 2 * max_runs
        search = Search(question.measure, found, max_runs, most_seeds)
        return _advise(question, search, combined, interval, tell)


def _combine(chosen: Mapping[str, Sequence[Any]]) -> tuple[list[Choice], dict[tuple[str, Any], Any]]:
    """Return every combination of what may be chosen, by names, and what was given for the names that stand for it."""
    chosen = dict(chosen)
    if ALL in chosen["system"]:
        chosen["system"] = [*system_names(), *(one for one in chosen["system"] if one != ALL)]
    with prefix_errors("`system`"):
        systems = {one: find_system(one).name for one in chosen["system"]}
    refuse_same_names(systems.items())
    with prefix_errors("`placement`"):
        policies = distinct_names({one: policy_input(one)["name"] for one in chosen.get("placement", ())})
    if 0 in chosen.get("fault_threshold", ()):
        raise SpecError("`fault_threshold` 0: give 1 or more")
    axes = [[(name, value) for value in dict.fromkeys(chosen[name])] for name in CHOICES if name in chosen]
    names = {"system": systems, "placement": policies}
    asked = distinct(itertools.product(*axes))
    combined = [tuple((key, names.get(key, {}).get(value, value)) for key, value in choice) for choice in asked]
    for option in FOR_ELASTIC:
        if chosen.get(option) and not any(option in dict(choice) for choice in combined):
            told = "plain expert parallelism plans no replicas"
            raise SpecError(f"`{option}` has no effect: {told}; leave it out, or add a system such as lazarus")
    return combined, {(key, name): value for key, named in names.items() for value, name in named.items()}


def _advise(
    question: Question, search: Search, choices: Sequence[Choice], interval: Any, tell: Callable[[str], None]
) -> Advice:
    """Give advice in five steps. Each but the last ends in time to leave the next ones their runs.

    Race: each choice runs at a few intervals; those that are worse than the best beyond chance go. Tune: the best
    choices left climb to their best intervals. Judge: each choice runs at its best interval and new seeds. Settle: the
    best of these is that which does what is due, at as many seeds as that takes, and its neighbours run. Vary: the best
    and its rivals run with each assumption changed.
    """
    max_runs = search.most_runs
    most_raced, most_tuned, most_judged = _budget(max_runs, question.scenario(choices[0], 0))
    contenders = list(_contenders(question, search, choices, interval))
    _tell_of_long_runs(question, max_runs, contenders, tell)
    search.most_runs = most_raced
    raced = search.race(contenders)
    search.most_runs = most_tuned
    tuned = _tune(question, search, raced, contenders, interval)
    search.most_runs = most_judged
    in_order, remarks = _judge(search, tuned)
    best, neighbours = _settle(question, search, in_order)
    ranking = _rank(search, choices, in_order, best)
    off, left_out = _costs_off(search, best, neighbours)
    search.most_runs = max_runs
    rivals = [one.name for one in ranking[1:] if one.is_tie is False]
    rivals += [one.alternative for one in off if search.is_better(best, one.alternative)]
    turns = _turns(question, search, best, list(dict.fromkeys(rivals)))
    untested = [f"{name_choice(best.choice)}: {UNTESTED}"] if best in tuned.untested else []
    remarks = [*left_out, *remarks, *untested, *filter(None, [turns.why_not])]
    return _advice(question, search, tuned, ranking, off, turns, remarks, interval)


def _budget(max_runs: int, scenario: Scenario) -> tuple[int, int, int]:
    """Return the runs after which the race, the tuning and the judging of a search end; assumptions have the others.

    Where these are too few to change each assumption of a scenario, judges have them, too.
    """
    num_varied = int(VARIED_SHARE * max_runs)
    is_enough = num_varied >= _num_screened(len(assumptions(scenario)), 1)
    most_judged = max_runs - num_varied if is_enough else max_runs
    return int(RACED_SHARE * max_runs), int(FOUND_SHARE * most_judged), most_judged


class Tuned(NamedTuple):
    """Choices, each at the best interval tried, the best first."""

    ahead: list[Alternative]
    """Those that are judged first."""
    behind: list[Alternative]
    """Those that are judged as far as runs suffice."""
    fitted: dict[Alternative, Interval | None]
    """Steps at which the curve through the intervals of a choice is highest, where it was tuned."""
    curves: dict[Choice, dict[int, Interval]]
    """Mean value of these choices, by steps."""
    untested: list[Alternative]
    """Those of which no failure went back to a checkpoint."""


def _advice(
    question: Question,
    search: Search,
    tuned: Tuned,
    ranking: Sequence[Ranked[Alternative]],
    off: Sequence[Off],
    turns: Turns,
    remarks: Sequence[str],
    interval: Any,
) -> Advice:
    """Put together what the steps have found."""
    best = ranking[0].name
    shown = dict.fromkeys([*(one.name for one in ranking), *(one.alternative for one in off)])
    rows = {one: tuple(search.rows[one, None].values()) for one in shown}
    failures = {} if stays(best.choice) else {"the best": [row["num_failures"] for row in rows[best]]}
    gone_s = mean_between_s([question.scenario(best.choice, seed) for seed in search.rows[best, None]])
    start, found = question.starts[best.choice], tuned.fitted.get(best)
    return Advice(
        goal=search.goal,
        best=best,
        ranking=tuple(ranking),
        formulas=hold_against_formulas(start, best.interval_steps, found, rows[best], gone_s),
        off=tuple(off),
        turns=turns,
        curves=tuned.curves,
        starts=question.starts,
        rows=rows,
        rounds=tuple(search.rounds),
        num_runs=search.num_runs,
        refused=search.refused,
        scenario=question.scenario(best.choice, 0, best.interval_steps),
        notes=(
            *count_notes(question.notes[best]), *question.remarks, *remarks, *few_failures_note(failures),
            *draw_notes([question.whole(one.name.choice) for one in ranking]),
        ),
        is_interval_given=interval != AUTO,
    )  # fmt: skip


def refuse_few_runs(max_runs: int, num_choices: int, num_alternatives: int) -> None:
    """Refuse a search whose race has fewer runs than alternatives, if all choices can run."""
    needed, fewest = (math.ceil(num / RACED_SHARE) for num in (num_alternatives, num_choices))
    if needed > max_runs:
        given = f", or an `interval`, for which {fewest} are enough" if fewest <= max_runs else ""
        fewer = ", or fewer choices, as of `system`" if num_choices > 1 else ""
        raise SpecError(f"`max_runs` {max_runs}: give {needed} or more{fewer}{given}")


def _tell_of_long_runs(
    question: Question, max_runs: int, contenders: Sequence[Alternative], tell: Callable[[str], None]
) -> None:
    most_steps = max((question.starts[one.choice].most_steps for one in contenders), default=0)
    if most_steps > LONG_RUN_STEPS:
        tell(
            f"runs are up to {most_steps:,} steps long, and there are up to {max_runs:,}: this may take hours; "
            "a smaller `max_runs` or `duration` bounds it"
        )


def _tune(
    question: Question,
    search: Search,
    raced: Sequence[Ranked[Alternative]],
    contenders: Sequence[Alternative],
    interval: Any,
) -> Tuned:
    """Tune the interval of the best of the choices that are left of a race, and of the next if there are runs."""
    num_seeds = raced[0].num_seeds
    found, fitted = dict[Choice, Alternative](), dict[Alternative, Interval | None]()
    for one in [*raced, *search.rank(contenders)]:
        found.setdefault(one.name.choice, one.name)
    num_ahead = min(MOST_TUNED, len({one.name.choice for one in raced}))
    for place, (choice, begun) in enumerate(list(found.items())[:num_ahead]):
        is_enough = place == 0 or search.num_left >= NUM_CLIMBED * num_seeds
        if interval == AUTO and begun.interval_steps and is_enough:
            found[choice], most = search.tune(begun, question.starts[choice].most_steps, num_seeds)
            fitted[found[choice]] = most
    curves = {
        one.choice: {
            tried.interval_steps: mean_over_seeds(search.goal.values(search.rows[tried, None]))
            for tried in search.tried(one.choice, num_seeds)
        }
        for one in fitted
    }
    untested = [one for one in fitted if not search.has_gone_back(one.choice)]
    in_order = list(found.values())
    return Tuned(in_order[:num_ahead], in_order[num_ahead:], fitted, curves, untested)


def _settle(
    question: Question, search: Search, ordered: Sequence[Alternative]
) -> tuple[Alternative, dict[str, Alternative]]:
    """Return the best of some, at as many seeds as bear out that it is in time, and its neighbours at a few."""
    best = search.make_sure(search.better_first(ordered))
    around = _neighbours(question, search, best)
    for one in around.values():
        search.run([one], min(MIN_SAMPLES, len(search.rows[best, None])))
    return best, around


def _rank(
    search: Search, choices: Sequence[Choice], finalists: Sequence[Alternative], best: Alternative
) -> list[Ranked[Alternative]]:
    """Order finalists, those that are equal as their choices are; each shows what it costs, also where that is late."""
    ranking = search.rank(sorted(finalists, key=lambda one: choices.index(one.choice)), best)
    return [replace(one, mean=mean_over_seeds(search.goal.values(search.rows[one.name, None]))) for one in ranking]


def _judge(search: Search, tuned: Tuned) -> tuple[list[Alternative], list[str]]:
    """Run what was tuned at seeds of which it knew nothing; return it in the order of its own seeds, and remarks."""
    ahead, behind = ([one.name for one in search.rank(group)] for group in (tuned.ahead, tuned.behind))
    in_order = [*ahead, *behind]
    is_short = search.num_left < MIN_SAMPLES * (len(ahead) + NUM_BESIDE)
    if is_short or not search.begin_anew():
        why = f"`max_runs` are too few for {MIN_SAMPLES} others" if is_short else "the trace has no others"
        return in_order, [f"the seeds that choose the best also judge it, which flatters it: {why}"]
    search.run(ahead, MIN_SAMPLES)
    num_out = sum(not search.run([one], MIN_SAMPLES) for one in behind)
    left_out = f"left out, as `max_runs` are too few: {counted(num_out, 'choice')} behind the first in the race"
    return in_order, [left_out] * (num_out > 0)


def _contenders(question: Question, search: Search, choices: Sequence[Choice], interval: Any) -> Iterator[Alternative]:
    """Yield the intervals of each choice that race; the first that can run says how much the work is that is due."""
    for choice in choices:
        if why_not := question.start(choice, interval):
            search.refused[choice] = why_not
            continue
        if len(question.starts) == 1:
            question.size_work(choice)
        steps = question.starts[choice].steps
        ratios = RACED if interval == AUTO else (1.0,)
        yield from dict.fromkeys(Alternative(choice, max(min(1, steps), round(steps * ratio))) for ratio in ratios)


def _neighbours(question: Question, search: Search, best: Alternative) -> dict[str, Alternative]:
    """Return what is a step off the best in each choice that has steps, by what it is."""
    steps = best.interval_steps
    around = {}
    if steps:
        around["interval halved"] = best._replace(interval_steps=max(1, round(steps / 2)))
        around["interval doubled"] = best._replace(interval_steps=2 * steps)
    present = question.scenario(best.choice, 0)
    steppable = {"fault_threshold": (present.job.fault_threshold, 1), "spares": (present.num_spares, 0)}
    if not present.find_system().is_elastic:
        del steppable["fault_threshold"]
    if stays(best.choice) or search.goal.done is not None:
        del steppable["spares"]
    for name, (value, least) in steppable.items():
        for near in (value - 1, value + 1):
            if near >= least:
                around[name_value(name, near)] = Alternative(_with(dict(best.choice), name, near), steps)
    for one in around.values():
        if one.choice not in question.starts and (why_not := question.start(one.choice, AUTO)):
            search.refused[one.choice] = why_not
    return {what: one for what, one in around.items() if one != best and one.choice not in search.refused}


def _costs_off(search: Search, best: Alternative, around: Mapping[str, Alternative]) -> tuple[list[Off], list[str]]:
    """Return what it costs to be off, and a remark on what runs did not suffice for."""
    off = [Off(what, one, search.better_by(best, one)) for what, one in around.items() if search.values(one)]
    left_out = ", ".join(what for what, one in around.items() if not search.values(one))
    told = f"what it costs to be off is left out, as `max_runs` are too few: {left_out}"
    return off, [told] if left_out else []


def _with(chosen: Mapping[str, Any], name: str, value: Any) -> Choice:
    return tuple((key, {**chosen, name: value}[key]) for key in CHOICES if key in chosen or key == name)


def assumptions(scenario: Scenario) -> list[Assumption]:
    """Return the assumptions of a scenario, each with each factor: its constants, and rates of what is generated."""
    paths = {name: path for name, path in constant_paths([]).items() if name not in NOT_ASSUMED} | TRACE_PATHS
    found = []
    for name, path in paths.items():
        present = scenario.field(path)
        if not present or why_without_effect(path, scenario.without_effect):
            continue
        most = max(1.0, 1 / present) if path.endswith(SHARES) else math.inf
        for factor in (min(one, most) for one in FACTORS if most > 1 or one < 1):
            # What is beyond the range of a field is no assumption.
            with suppress(SpecError):
                assumption = Assumption(name, factor, path)
                assumption.apply(scenario)
                found.append(assumption)
    return found


def _num_screened(num_changes: int, num_rivals: int) -> int:
    """Return the runs that tell which changes may make rivals better, and make sure of one for each."""
    return num_changes * (1 + num_rivals) + 2 * MIN_SAMPLES * num_rivals


def _turns(question: Question, search: Search, best: Alternative, rivals: Sequence[Alternative]) -> Turns:
    """Find the assumptions that make a rival better than the best: at one seed, then at those of an interval."""
    behind = {one: search.better_by(best, one).value for one in rivals}
    rivals = sorted(rivals, key=behind.__getitem__)[:MOST_RIVALS]
    if not rivals:
        return Turns((), 0, "no assumption was changed, as no alternative is known to be worse than the best")
    changes = assumptions(question.scenario(best.choice, 0))
    while rivals and _num_screened(len(changes), len(rivals)) > search.num_left:
        rivals.pop()
    if not rivals:
        enough = math.ceil(_num_screened(len(changes), 1) / VARIED_SHARE)
        return Turns((), 0, f"no assumption was changed: that takes `max_runs` {enough:,}")
    suspects: list[tuple[float, Assumption, Alternative]] = []
    for change in changes:
        search.run([best, *rivals], 1, change)
        for rival in rivals:
            at_first, changed = (search.better_by(rival, best, what, 1).value for what in (None, change))
            excess = search.better_by(rival, best).value * changed - at_first
            if excess > 0:
                suspects.append((excess, change, rival))
    num_assumptions = len({one.constant for one in changes})
    found: list[Turn] = []
    # The most likely first, for when runs do not suffice.
    for _, change, rival in sorted(suspects, key=lambda one: -one[0]):
        if not search.run([best, rival], MIN_SAMPLES, change):
            why_not = "the runs did not suffice to make sure of all assumptions that may change the advice"
            return Turns(tuple(found), num_assumptions, why_not)
        if search.is_better(rival, best, change):
            # Many changes are tried, and at six seeds some seem to matter by chance: more seeds must confirm it.
            search.run([best, rival], 2 * MIN_SAMPLES, change)
        if search.is_better(rival, best, change):
            gain = search.better_by(rival, best, change)
            found.append(Turn(change.constant, change.factor, rival, gain))
    return Turns(tuple(found), num_assumptions)
