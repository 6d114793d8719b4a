"""Advice as text, tables and a picture."""

import math
from collections.abc import Iterator
from pathlib import Path

from lazsim.output.maps import plan_maps
from lazsim.output.plots.style import name_pictures
from lazsim.output.report import Report
from lazsim.output.run import MAP_CAPTION, layout_notes
from lazsim.output.table import Column, Part, Table, key, percent_above, with_interval
from lazsim.study.advise.question import name_apart, name_choice
from lazsim.study.advise.result import Advice
from lazsim.study.advise.search import Alternative
from lazsim.study.intervals import MIN_SAMPLES
from lazsim.study.memory import gather_obstacles
from lazsim.study.simulation import plan_of
from lazsim.units import counted, divide, format_duration, share_text

MOST_RANKED = 12
"""Choices that are shown; ``--json`` has all of them."""

FORECAST_ERROR = 0.04
"""How far forecasts of the samples of live runs on idle cores were off at the median (docs/measured/live.md)."""

RACED = " (raced)"

TIE, FEW_SEEDS = " (tie)", f"a difference without an interval is of fewer than {MIN_SAMPLES} seeds, and may be chance"


def advice_parts(advice: Advice) -> Iterator[Part]:
    """Show the advice in a sentence, then what it rests on."""
    yield _answer(advice)
    yield _ranking_table(advice)
    if advice.off:
        yield _off_table(advice)
    yield _interval_table(advice)
    yield from _assumptions(advice)


def advice_files(advice: Advice) -> dict[str, bytes]:
    """Return the files of ``lazsim advise --out`` beside its JSON and the runs, by name."""
    from lazsim.output.plots.advise import advice_figure

    return name_pictures("advice", advice_figure(advice))


def advice_report(advice: Advice) -> Report:
    """Return what a page says of advice beside its tables."""
    scenario = advice.scenario
    plan = plan_of(scenario)
    files = {
        part: {"name": Path(scenario.settings[part] or getattr(scenario, part).name).name, "sha256": sha256}
        for part, sha256 in scenario.hashes.items()
    }
    up_to = "up to " * (len({one.num_seeds for one in advice.ranking}) > 1)
    seeds = f"{up_to}{counted(advice.ranking[0].num_seeds, 'seed')}"
    drawn = "how far other choices are behind"
    if advice.curves:
        drawn = f"what each interval between checkpoints gives at the seeds that choose it, and {drawn}"
    return Report(
        f"Which setting is best? Goal: {advice.goal.name}",
        "\n".join(_answer(advice)),
        f"Means over {seeds}, at which every choice meets the same failures; {advice.num_runs:,} runs in all. "
        f"+- is half of a 95 % interval, which takes {MIN_SAMPLES} seeds.",
        {"file": files, **scenario.inputs},
        maps=plan_maps({_name(advice, advice.best): plan}, MAP_CAPTION) if plan else None,
        pictures={drawn: "advice.png"},
    )


def _answer(advice: Advice) -> list[str]:
    best, goal = advice.best, advice.goal
    fault, name = advice.fault(best), _name(advice, best)
    if fault == "loses updates":
        lost = share_text(advice.mean("lost_token_share").value, ".1%")
        no_setting = "no setting loses as few updates of tokens as its system may"
        return [no_setting, f"nearest: {name}; it loses {lost}"]
    if fault:
        no_setting = f"no setting is done in time with a probability of {100 * goal.least_prob:.10g}%"
        return [no_setting, f"nearest: {name}; in time in {_in_time(advice, best)}"]
    value = with_interval(advice.ranking[0].mean, goal.format)
    ettr = with_interval(advice.mean("ettr", most=1.0), ".1%")
    num_ties = len(advice.ties)
    told = f"; {counted(num_ties, 'other')} may be as good" if num_ties else ""
    if untold := sum(one.is_tie is None for one in advice.ranking[1:]):
        others, are = counted(untold, "choice has", "choices have"), "it is" if untold == 1 else "they are"
        told += f"; {others} fewer than {MIN_SAMPLES} seeds, too few to tell whether {are} as good"
    if beside := [one.what for one in advice.better_beside]:
        told += f"; {' or '.join(beside)} would be better"
    in_time = "" if goal.done is None else f"in time in {_in_time(advice, best)}, "
    seeds = counted(advice.ranking[0].num_seeds, "seed")
    worth = f"{value} {goal.heading}{_in_tokens(advice)}, {in_time}ETTR {ettr}, over {seeds}"
    return [f"advice for {goal.name}: {name}{told}", worth]


def _in_tokens(advice: Advice) -> str:
    """Return the value of the best in tokens, to hold against what is known of the model elsewhere."""
    goal, scenario, value = advice.goal, advice.scenario, advice.ranking[0].mean.value
    tokens = scenario.costs().model.sequence_length
    if goal.done is not None:
        return ""
    if goal.less_is_better:
        return f" ({1e3 * value / tokens:{goal.format}} {goal.heading.replace('M samples', 'B tokens')})"
    num_gpus = scenario.most_in_service() * scenario.cluster.gpus_per_node
    return f" ({value * tokens:,.0f} tokens/s, {divide(value * tokens, num_gpus, 0):,.0f} a GPU)"


def _in_time(advice: Advice, one: Alternative) -> str:
    rows = advice.rows[one]
    share, low, high = advice.goal.in_time(rows)
    between = f"{share_text(low, '.1%')} to {share_text(high, '.1%')}".replace("%", "")
    return f"{round(share * len(rows)):,} of {counted(len(rows), 'run')} (95 %: {between} %)"


def _name(advice: Advice, one: Alternative) -> str:
    steps, every = one.interval_steps, format_duration(advice.seconds(one))
    saves = f"a checkpoint every {counted(steps, 'step')} ({every})" if steps else "no checkpoints"
    return f"{name_choice(one.choice)}, {saves}"


def _ranking_table(advice: Advice) -> Table:
    goal = advice.goal
    columns = [key("choice", kind="text"), Column("interval, steps"), Column(goal.heading)]
    columns += [Column("best is better by"), Column("seeds")]
    columns += [Column("in time")] if goal.done is not None else []
    rows, shown = [], advice.ranking[:MOST_RANKED]
    names, common = name_apart([one.name.choice for one in shown])
    for place, (one, chosen) in enumerate(zip(shown, names, strict=True)):
        behind = (advice.fault(one.name) or percent_above(one.behind) + TIE * bool(one.is_tie)) if place else None
        row = [
            chosen,
            f"{one.name.interval_steps:,}{RACED * advice.is_raced(one.name)}",
            with_interval(one.mean, goal.format),
            behind,
            one.num_seeds,
        ]
        if goal.done is not None:
            row += [round(goal.in_time(advice.rows[one.name]).value * one.num_seeds)]
        rows.append(row)
    left = len(advice.ranking) - len(rows)
    notes = [f"in all rows: {common}"] if common else []
    layouts = [(dict(one.name.choice), advice.layout(one.name)) for one in shown]
    notes += layout_notes(layouts, lambda setting: name_choice(setting.items()))
    if any(advice.is_raced(one.name) for one in shown):
        notes.append("raced: the best of three intervals, not tuned, so that another may do better")
    # A tie is told as one already.
    untied = [one for one in shown[1:] if not one.is_tie and not advice.fault(one.name)]
    if any(abs(one.behind.value - 1) < FORECAST_ERROR for one in untied):
        notes.append(
            f"a difference of less than {100 * FORECAST_ERROR:g} % is within the median error of forecasts of live "
            "runs: the order holds where forecasts of both choices are off alike"
        )
    notes += [FEW_SEEDS] if any(one.is_tie is None and not advice.fault(one.name) for one in shown) else []
    if len({one.num_seeds for one in shown}) > 1:
        notes.append("values are those of the seeds of their row; the best is compared at the same seeds")
    losses = {name: advice.mean("lost_token_share", of=one.name).value for one, name in zip(shown, names, strict=True)}
    told = ", ".join(f"{name or common} {share_text(share, '.2%')}" for name, share in losses.items() if share)
    notes += [f"samples count tokens, too, whose updates of experts rollbacks lost: {told}"] if told else []
    notes += [f"{left} more are in --json"] if left else []
    refused = {(str(dict(choice).get("system", "")), reason): None for choice, reason in advice.refused.items()}
    notes += [f"cannot run: {why}" for why in gather_obstacles(refused)]
    at = "at the interval given" if advice.is_interval_given else "each at the best interval tried"
    return Table(columns, rows, f"alternatives, {at}", notes)


def _off_table(advice: Advice) -> Table:
    late = "late" if advice.goal.done is not None else "all"
    rows = [
        (one.what, late if math.isinf(one.behind.value) else percent_above(one.behind) + TIE * bool(one.is_tie))
        for one in advice.off
    ]
    is_short = any(math.isnan(one.behind.low) and math.isfinite(one.behind.value) for one in advice.off)
    notes = [FEW_SEEDS] if is_short else []
    notes += ["-: it misses the goal, as the best setting does"] if advice.fault(advice.best) else []
    return Table([key("what"), Column("costs")], rows, "what it costs to be off", notes)


def _interval_table(advice: Advice) -> Table:
    found, chosen = advice.formulas, "given" if advice.is_interval_given else "best"
    low, high = found.found_s[1:]
    between = f"{format_duration(low)} to {format_duration(high)}" if low > 0 else f"up to {format_duration(high)}"
    if math.isinf(high):
        between = f"{format_duration(low)} or more" if low > 0 else "any"
    best_s = advice.seconds(advice.best)
    best = (chosen, best_s or "none", None if math.isnan(low) else between)
    formulas = {"Young": found.young_s, "Daly": found.daly_s}
    rows = [best, *((name, "none" if math.isinf(at_s) else at_s, None) for name, at_s in formulas.items())]
    stops = f"stops training for {format_duration(found.stall_s)}" if found.stall_s else "stops nothing"
    often = "once at most in" if advice.starts[advice.best.choice].is_rare else "every"
    go = "never go" if math.isinf(found.between_s) else f"go {often} {format_duration(found.between_s)}"
    title = f"interval between checkpoints; a save {stops}, nodes {go}"
    return Table([key(""), Column("interval", format_duration), Column("95 %")], rows, title, found.reasons)


def _assumptions(advice: Advice) -> Iterator[Part]:
    turns = advice.turns
    title = f"assumptions that change the advice, of {turns.num_changed} halved and raised by half"
    if turns.found:
        columns = [key("assumption"), key("", of=lambda one: f"x{one.factor:g}")]
        columns += [Column("better then", kind="text", of=lambda one: _name(advice, one.alternative))]
        yield Table.of(turns.found, [*columns, Column("by", of=lambda one: percent_above(one.gain))], title)
    elif turns.num_changed:
        yield f"{title}: none"
