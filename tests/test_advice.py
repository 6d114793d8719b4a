import inspect
import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from lazsim.engine.interval import daly_interval_s, young_interval_s
from lazsim.errors import LazsimError
from lazsim.output.advise import FORECAST_ERROR, _in_time, advice_parts
from lazsim.output.table import render
from lazsim.scenario import resolve
from lazsim.study.advise import advice
from lazsim.study.advise.advice import advise, refuse_few_runs
from lazsim.study.advise.formulas import Start, hold_against_formulas
from lazsim.study.advise.goal import GOODPUT, Goal, find_goal
from lazsim.study.advise.question import NUM_STRETCHES, Question
from lazsim.study.advise.result import Off
from lazsim.study.advise.search import Alternative, Search, fit_interval
from lazsim.study.checkpoint_interval import UNTESTED, mean_between_s
from lazsim.study.comparison import rank
from lazsim.study.deadline import BOTH, ON_DEMAND, Due, compare_purchases, due_samples
from lazsim.study.intervals import MIN_SAMPLES, Interval
from lazsim.study.simulation import run_scenario
from lazsim.trace import write_trace
from lazsim.trace.recipes import change_recipe
from lazsim.trace.table import Event, build_trace
from tests.conftest import ROOT

EVEN = {"routing": "uniform", "model": "gpt-s", "cluster": "rtx3090x10"}
BETWEEN_S = 400.0


def poisson(num_failures):
    """Ten nodes, one of which fails every 400 s in the mean and is back within a second."""
    fields = {"num_nodes": 10, "mtbf_s": 10 * BETWEEN_S, "repair_s": 1.0, "repair_sigma": 0.0}
    return change_recipe(None, {**fields, "duration_s": BETWEEN_S * num_failures})


def one_failure():
    """Six nodes for an hour, of which one goes after 25 minutes."""
    events = [Event(0, "add", f"node{index}") for index in range(6)]
    return build_trace([*events, Event(1500, "remove", "node0")], duration_s=3600)


def test_the_interval_found_is_dalys_where_failures_are_exponential_and_every_one_rolls_back():
    trace = poisson(num_failures=40)
    settings = {**EVEN, "trace": trace, "duration": trace.duration_s, "job.num_micro_batches": 16}
    found = advise(settings, {"system": ["checkpoint"]}, max_runs=60, num_workers=1)
    assert found.formulas.between_s == pytest.approx(BETWEEN_S, rel=0.15)
    daly_s = daly_interval_s(found.formulas.stall_s, found.formulas.between_s)
    assert found.formulas.found_s.value == pytest.approx(daly_s, rel=0.05)
    assert found.formulas.found_s.low < daly_s < found.formulas.found_s.high
    assert found.seconds(found.best) == pytest.approx(daly_s, rel=0.05)
    assert found.formulas.reasons[0].startswith("Daly's is within")
    off = {one.what: one.behind for one in found.off}

    def time(interval_s):
        """Time for the same work under exponential failures, but for a constant factor."""
        return math.expm1((interval_s + found.formulas.stall_s) / found.formulas.between_s) / interval_s

    for what, ratio in {"interval halved": 0.5, "interval doubled": 2.0}.items():
        assert off[what].value == pytest.approx(time(ratio * daly_s) / time(daly_s), abs=0.02)


@pytest.mark.parametrize("save_s", [0.005, 0.02, 0.05])
def test_the_fitted_interval_is_within_2_percent_of_the_best_of_the_exact_curve(save_s):
    # The share of useful time under exponential failures each 1 s: t / (exp(t + save) - 1), but for a constant factor.
    def useful(interval_s):
        return interval_s / math.expm1(interval_s + save_s)

    best = max(np.linspace(0.01, 2, 20_000), key=useful)
    tried = [round(1000 * best * ratio) for ratio in (0.5, 0.7, 1.0, 1.4, 2.0)]
    fitted = fit_interval({steps: {0: useful(steps / 1000)} for steps in tried})
    assert fitted.value / 1000 == pytest.approx(best, rel=0.021)
    assert fitted.value / 1000 == pytest.approx(daly_interval_s(save_s, 1.0), rel=0.025)
    assert fitted.value / 1000 < young_interval_s(save_s, 1.0)


def test_the_fitted_interval_has_a_bound_where_seeds_agree_and_none_where_there_is_no_maximum():
    rising = {steps: dict.fromkeys(range(6), 100.0 - 1 / steps) for steps in (4, 8, 16)}
    assert fit_interval({steps: dict.fromkeys(range(6), 100 - 64 / steps - steps) for steps in (4, 8, 16)})[1:] == (
        pytest.approx(8.0), pytest.approx(8.0)
    )  # fmt: skip
    # Fewer than six seeds bear out no bound.
    assert np.isnan(fit_interval({steps: {0: 100 - 64 / steps - steps} for steps in (4, 8, 16)})[1:]).all()
    assert fit_interval({steps: dict.fromkeys(range(6), 100.0 + steps) for steps in (4, 8, 16)}) is None
    assert fit_interval({4: {0: 1.0}, 8: {0: 2.0}}) is None
    # Dollars and samples: of an interval at which nothing is trained, no curve is fitted.
    assert fit_interval({4: {0: (9.0, 0.0)}, 8: {0: (8.0, 4.0)}, 16: {0: (9.0, 3.0)}}, sign=-1) is None
    assert fit_interval(rising) is None or fit_interval(rising).value > 16


def test_alternatives_are_held_against_the_one_that_is_given_at_the_seeds_of_both():
    values = {"a": {0: 2.0, 1: 4.0}, "b": {0: 4.0, 1: 8.0}, "c": {0: 6.0}}
    assert [(one.name, one.behind.value) for one in rank(values, "b")] == [
        ("b", 1.0), ("c", pytest.approx(4 / 6)), ("a", 2.0)
    ]  # fmt: skip


def of(*systems):
    return [(("system", system),) for system in systems]


def question(trace, *choices, due=None):
    return Question({**EVEN, "trace": trace}, None, due, choices, {})


def test_nodes_on_which_no_job_fits_lengthen_no_runs():
    trace = change_recipe(None, {"num_nodes": 10, "mtbf_s": 36e3, "repair_s": 600.0})
    # 10 nodes have a failure each 3600 s; the one on which 16 experts find no room has one each 36,000 s.
    few, many = ((("system", "lazarus"), ("num_nodes", number)) for number in (1, 10))
    for choices in ([many], [few, many]):
        asked = Question({"trace": trace, "model": "gpt-l"}, None, None, choices, {})
        assert asked.scenario(many, 0).wall_s() == 30 * 3600.0


def test_a_race_that_nobody_ends_says_why_those_that_began_do_not():
    def measure(wanted, _change):
        return ["too long"] * len(wanted)

    search = Search(measure, GOODPUT, 100, 10)
    search.refused[of("other")[0]] = "has no room"
    with pytest.raises(LazsimError, match="too long"):
        search.race([Alternative(of("ds")[0], 10)])


def test_all_alternatives_meet_the_same_failures_at_a_seed_and_others_at_the_next():
    made = question(poisson(5), *of("ds", "lazarus"))
    first, other = (made.scenario(choice, 3).load_trace() for choice in of("ds", "lazarus"))
    assert first.events_sha256 == other.events_sha256
    assert first.events_sha256 != made.scenario(of("ds")[0], 4).load_trace().events_sha256


def test_more_replicas_than_nodes_have_room_for_are_told_and_not_run():
    few, many = ((("system", "lazarus"), ("fault_threshold", number)) for number in (1, 11))
    made = question(poisson(5), few, many)
    assert made.start(few, "auto") == ""
    # An expert on eleven of ten nodes.
    assert made.start(many, "auto").startswith("f 11 does not fit: on 10 nodes, some expert is on ")
    assert list(made.starts) == [few]


def test_what_does_not_fit_into_memory_is_told_and_not_run():
    choices = of("lazarus", "tutel")
    asked = {**EVEN, "trace": poisson(5), "model": "gpt-l", "routing": "smartmoe-fit", "job.sequences_per_gpu": 16}
    made = Question(asked, None, None, choices, {})
    assert made.start(choices[0], "auto") == ""
    told = made.start(choices[1], "auto")
    assert told.startswith("tutel does not fit: gpt-l takes ")
    assert list(made.starts) == [choices[0]]
    # With what would help.
    most = int(told.split("; job.sequences_per_gpu = ")[1].removesuffix(" would fit"))
    for sequences, fits in ((most, True), (most + 1, False)):
        made = Question({**asked, "job.sequences_per_gpu": sequences}, None, None, choices, {})
        assert (not made.start(choices[1], "auto")) is fits


def test_advice_without_checkpoints_tries_none(lazsim, answered):
    options = ("--nodes", 10, "--node-mtbf", "10h", "--repair", "1h", "--model", "gpt-s", "--routing", "uniform")
    options += ("--system", "lazarus", "--duration", "1h", "--runs", 20, "--interval")
    code, out, err = lazsim("advise", *options, 0)
    assert code == 0, err
    assert out.startswith("advice for goodput: lazarus, nodes 10, no checkpoints")
    found = answered("advise", *options, "0")
    assert found["best"]["interval_steps"] == 0
    assert not any(one["what"].startswith("interval") for one in found["evidence"]["off"])


def test_rows_whose_layouts_differ_say_which_they_have(lazsim, answered):
    # Eight GPUs of 80 GB cannot hold what sixteen do; the layouts are those that a run on as many nodes takes.
    # Nodes of which none is lost for long, so that the layout is that of all.
    options = ("--model", "mixtral-8x7b", "--cluster", "h100x8", "--nodes", "4,8", "--node-mtbf", "2000d", "--repair")
    options += ("4h", "--system", "checkpoint", "--system", "gemini", "--duration", "2d", "--interval", 200)
    code, out, err = lazsim("advise", *options, "--runs", 24)
    assert code == 0, err
    told = dict(re.findall(r"layout of ([^:]*): (.*)", re.sub(r"\n  +", " ", out)))
    ran = {
        f"nodes {number}": resolve({"model": "mixtral-8x7b", "cluster": f"h100x{number}", "system": "checkpoint"})
        for number in (4, 8)
    }
    layouts = {name: one.job.parallel for name, one in ran.items()}
    assert layouts["nodes 4"] != layouts["nodes 8"]
    assert told == {name: one.description for name, one in layouts.items()}
    assert all(f"pipeline {one.pipeline}," in told[name] and "precision bf16" in told[name]
               for name, one in layouts.items())  # fmt: skip
    found = answered("advise", *options, "--runs", 24)
    assert {f"nodes {one['num_nodes']}": one["layout"] for one in found["evidence"]["ranking"]} == told


def test_ties_are_told_beside_what_too_few_seeds_leave_open():
    found = Made(noisy).advise(of("ds", "lazarus", "checkpoint"), 300)
    best, second, third = found.ranking
    ranking = (best, replace(second, is_tie=True), replace(third, is_tie=None, num_seeds=2))
    answer, *lines = render(advice_parts(replace(found, ranking=ranking)), 300).splitlines()
    shown = " ".join([answer, *lines])
    assert answer.startswith("advice for goodput: ")
    assert "; 1 other may be as good; 1 choice has fewer than 6 seeds, too few to tell whether it is as good" in answer
    assert "a difference without an interval is of fewer than 6 seeds, and may be chance" in shown


@pytest.mark.parametrize(
    ("ahead", "is_tie", "is_told"),
    [(1.039, False, True), (0.97, False, True), (1.041, False, False), (math.inf, False, False), (1.01, True, False)],
)
def test_choices_nearer_to_the_best_than_forecasts_were_to_live_runs_are_told(ahead, is_tie, is_told):
    found = Made(noisy).advise(of("ds", "lazarus"), 300)
    best, second = found.ranking
    ranking = (best, replace(second, behind=Interval(ahead, ahead, ahead), is_tie=is_tie))
    shown = render(advice_parts(replace(found, ranking=ranking)), 300)
    assert ("a difference of less than 4 % is within the median error of forecasts" in shown) == is_told


def test_the_error_that_advice_tells_is_the_median_of_the_live_runs_on_idle_cores():
    table = (ROOT / "docs/measured/live.md").read_text().split("| two idle cores |")[1].split("\n\n")[0]
    errors = [int(one) for row in table.splitlines()[2:] for one in re.findall(r"\d+", row.split("|")[2])]
    assert (len(errors), np.median(errors) / 100) == (33, FORECAST_ERROR)


def test_what_it_costs_to_be_off_is_a_tie_where_its_interval_holds_nothing():
    intervals = (Interval(0.97, 0.92, 1.03), Interval(1.1, 1.02, 1.2), Interval(0.85, math.nan, math.nan))
    found = Made(noisy).advise(of("ds"), 100)
    off = [Off(f"case {number}", found.best, one) for number, one in enumerate(intervals)]
    assert [one.is_tie for one in off] == [True, False, None]
    lines = render(advice_parts(replace(found, off=tuple(off))), 200).splitlines()
    assert [line.endswith("(tie)") for line in lines if line.startswith("case")] == [True, False, False]


def test_the_answer_names_the_choices_beside_the_best_that_are_better_beyond_chance():
    found = Made(noisy).advise(of("ds"), 100)
    other, longer = (Alternative((*of("ds")[0], *more), 9) for more in ([("spares", 1)], []))
    sure, chance, few = Interval(0.9, 0.85, 0.95), Interval(0.9, 0.8, 1.01), Interval(0.9, math.nan, math.nan)
    off = [Off("f 1", other, sure), Off("f 2", other, chance), Off("f 3", other, few), Off("spares 1", other, sure)]
    off.append(Off("interval doubled", longer, sure))
    answer, *_ = render(advice_parts(replace(found, off=tuple(off))), 300).splitlines()
    # A longer interval is better wherever no failure goes back to a checkpoint by luck.
    assert answer.endswith("); f 1 or spares 1 would be better")
    given, *_ = render(advice_parts(replace(found, off=tuple(off), is_interval_given=True)), 300).splitlines()
    assert given.endswith("); f 1 or spares 1 or interval doubled would be better")


def test_the_stretches_of_a_recorded_trace_add_up_to_it(tmp_path):
    path = tmp_path / "nodes.csv"
    write_trace(one_failure(), path)
    made = question(str(path))
    stretches = [made.scenario(of("ds")[0], seed).load_trace() for seed in range(NUM_STRETCHES)]
    assert [stretch.duration_s for stretch in stretches] == [600.0] * NUM_STRETCHES
    # A node goes after 25 minutes, in the third ten of them.
    assert [stretch.nodes_lost(600.0) for stretch in stretches] == [0, 0, 1, 0, 0, 0]
    assert [stretch.num_alive()[1][0] for stretch in stretches] == [6, 6, 6, 5, 5, 5]


def test_all_runs_of_a_choice_have_the_layout_of_the_whole_trace(tmp_path):
    path = tmp_path / "nodes.csv"
    events = [Event(0, "add", f"node{index}") for index in range(8)]
    events += [Event(1800, "remove", f"node{index}") for index in range(4)]
    write_trace(build_trace(events, duration_s=3600), path)
    settings = {"model": "mixtral-8x7b", "cluster": "h100x8", "trace": str(path)}
    (spot,) = of("checkpoint")
    made = Question(settings, None, None, [spot], {})
    alone = resolve({**settings, "system": "checkpoint"}).job.parallel
    runs = [made.scenario(spot, seed) for seed in range(NUM_STRETCHES)]
    # 16 sequences for each of the 64 GPUs that whole replicas fill; the last stretches have 32 GPUs.
    assert alone.global_batch == 1024
    assert [one.job.parallel for one in runs] == [alone] * len(runs)
    assert runs[NUM_STRETCHES - 1].most_in_service() == 4
    (told,) = (note for note in made.remarks if "layout" in note) if not made.start(spot, 20) else ()
    assert told == (
        "a choice of nodes that go has one layout in all runs: that of the whole trace, of which all is known"
    )


@pytest.mark.parametrize("is_recorded", [True, False])
def test_nodes_that_stay_have_the_layout_that_trains_most_on_them(tmp_path, is_recorded):
    settings = {"model": "mixtral-8x7b", "cluster": "h100x8", "trace": "spot-p3-like", "max_nodes": 24}
    if is_recorded:
        write_trace(resolve(settings).load_trace(), tmp_path / "spot.csv")
        settings["trace"] = str(tmp_path / "spot.csv")
    staying, both = [(("system", "checkpoint"), ("purchase", one)) for one in (ON_DEMAND, BOTH)]
    made = Question(settings, 3.0, None, [staying, both], {})
    runs = [made.scenario(staying, seed) for seed in range(2)]
    nodes = build_trace([Event(0, "add", f"node{index}") for index in range(24)], duration_s=runs[0].wall_s())
    alone = resolve({"model": "mixtral-8x7b", "cluster": "h100x8", "trace": nodes, "system": "checkpoint"})
    assert [one.job.parallel for one in runs] == [alone.job.parallel] * 2
    # The job that goes on after spot nodes has the layout of these, which trains a third less on nodes that stay.
    kept = replace(alone, model=(spot := made.scenario(both, 0)).model, job=spot.job)
    assert run_scenario(runs[0]).samples == run_scenario(alone).samples > 1.5 * run_scenario(kept).samples
    assert not made.start(staying, 20)
    assert "nodes that stay have a layout of their own, by which they train most" in made.remarks


def test_a_recorded_trace_has_a_stretch_for_each_deadline_that_fits_and_six_in_a_row_are_from_all_over_it(tmp_path):
    path, num_hours = tmp_path / "nodes.csv", 20
    events = [Event(0.0, "add", f"n{hour}") for hour in range(num_hours)]
    events += [Event(3600.0 * hour + 1800, "remove", f"n{hour}") for hour in range(num_hours)]
    write_trace(build_trace(events, duration_s=num_hours * 3600.0), path)
    made = Question({**EVEN, "trace": str(path)}, None, Due(1800.0, 3600.0, None), of("ds"), {})
    stretches = [made.scenario(of("ds")[0], seed).load_trace() for seed in range(made.most_seeds)]
    # In each hour, the node of its name goes.
    lost = [int(name[1:]) for one in stretches for batch in one.batches() for name in batch.removed]
    assert sorted(lost) == list(range(num_hours))
    for first in range(num_hours - 5):
        # Any quarter of the trace has a stretch.
        assert {hour // 5 for hour in lost[first : first + 6]} == {0, 1, 2, 3}


class Made:
    """A question whose runs are numbers."""

    def __init__(self, number, num_rollbacks=1, num_steps=10**9):
        self._number, self._num_rollbacks, self._num_steps = number, num_rollbacks, num_steps
        self._asked = question(poisson(5), *of("ds"))
        self.starts, self.notes, self.remarks = {}, {}, {}

    def scenario(self, choice, seed, interval=None):
        return self._asked.scenario(choice, seed, interval)

    def whole(self, choice):
        return self._asked.whole(choice)

    def start(self, choice, _interval):
        self.starts[choice] = Start(100, 1.0, 10.0, 0.0, 500.0, 1.0, 1e6)
        return ""

    def size_work(self, choice):
        """Nothing is due."""

    def measure(self, wanted, change):
        self.notes |= {one: [] for one, _ in wanted}
        assumed = {} if change is None else {change.constant: change.factor}
        return [
            {"goodput_samples_per_s": self._number(one, seed, assumed), "num_failures": 0, "ettr": 1.0}
            | {"num_rollbacks": self._num_rollbacks, "steps": self._num_steps}
            for one, seed in wanted
        ]

    def search(self, max_runs):
        return Search(self.measure, GOODPUT, max_runs, 1000)

    def advise(self, choices, max_runs):
        return advice._advise(self, self.search(max_runs), choices, "auto", print)


def thrice(*systems):
    """Each system at three intervals."""
    return [Alternative(choice, steps) for choice in of(*systems) for steps in (50, 100, 200)]


def noisy(one, seed, _change):
    """Value of a system by the length of its name, less a percent away from 100 steps, and noise that all share."""
    chance = np.random.default_rng(seed).normal(1, 0.2)
    own = np.random.default_rng([seed, len(one.choice[0][1]), one.interval_steps]).normal(0, 0.002)
    return (10 + len(one.choice[0][1]) - abs(math.log(one.interval_steps / 100)) * 0.1) * chance * (1 + own)


def test_a_race_drops_what_is_worse_beyond_chance_and_keeps_the_best():
    made = Made(noisy).search(500)
    raced = made.race(thrice("a", "bb", "ccc"))
    assert raced[0].name.choice == of("ccc")[0]
    assert {one.name.choice for one in raced} == set(of("ccc"))
    assert [one.num_alternatives for one in made.rounds][:1] == [9]
    assert made.rounds[0].num_seeds == MIN_SAMPLES
    assert made.num_runs <= 500


def test_a_race_of_many_alternatives_begins_with_few_seeds_and_halves():
    made = Made(noisy).search(200)
    names = ["a" * length for length in range(1, 21)]
    raced = made.race(thrice(*names))
    assert [(one.num_alternatives, one.num_seeds) for one in made.rounds][:2] == [(60, 1), (30, 2)]
    assert raced[0].name.choice == of(names[-1])[0]
    assert made.num_runs <= 200
    told = "`max_runs` 50: give 120 or more, or fewer choices, as of `system`, or an `interval`, for which 40 are"
    with pytest.raises(LazsimError, match=f"^{told} enough$"):
        refuse_few_runs(50, len(names), len(thrice(*names)))
    refuse_few_runs(120, len(names), len(thrice(*names)))


def test_tuning_walks_to_an_interval_far_from_youngs():
    def value(one, seed, _change):
        return 100 - 64_000 / one.interval_steps - one.interval_steps / 100 + 0.01 * seed

    (choice,) = of("ds")
    best, fitted = Made(value).search(1000).tune(Alternative(choice, 100), 10**6, MIN_SAMPLES)
    # sqrt(64,000 x 100) steps.
    assert best.interval_steps == pytest.approx(2530, rel=0.02)
    assert fitted.value == pytest.approx(2529.8, rel=0.02)


def test_an_interval_that_no_failure_has_tested_is_youngs_for_one_failure_in_all_runs():
    def value(one, seed, _change):
        # A save takes as long as a step, and no failure loses a thing: never to save would be best.
        return (100 + 0.01 * seed) * (1 - 1 / one.interval_steps)

    (choice,) = of("ds")
    search = Made(value, num_rollbacks=0, num_steps=30_000).search(1000)
    best, fitted = search.tune(Alternative(choice, 100), 10**6, MIN_SAMPLES)
    # sqrt(2 x 1 x 6 x 30,000) steps.
    assert best.interval_steps == pytest.approx(600, rel=0.02)
    assert fitted.value == pytest.approx(600, rel=0.02)
    # Seeds without a failure agree. The rate has an exponential distribution, whose quantiles of p are -log(1 - p).
    assert fitted[1:] == pytest.approx([600 / math.sqrt(-math.log(p)) for p in (0.025, 0.975)], rel=0.02)


def test_a_remark_says_that_no_failure_has_tested_the_best_interval():
    for num_rollbacks in (1, 0):
        found = Made(noisy, num_rollbacks).advise(of("ds", "lazarus"), 300)
        told = f"lazarus: {UNTESTED}"
        assert (told in found.notes) is (num_rollbacks == 0)


def test_an_assumption_that_makes_a_rival_better_is_named_and_no_other():
    def value(one, seed, changes):
        is_slow = dict(one.choice)["system"] == "ds"
        rebuild = changes.get("rebuild_s", 1)
        return (10.0 if is_slow else {0.5: 12.0, 1: 11.0, 1.5: 9.0}[rebuild]) + 0.001 * seed

    made = Made(value)
    best, rival = (Alternative(choice, 100) for choice in of("lazarus", "ds"))
    search = made.search(1000)
    search.run([best, rival], MIN_SAMPLES)
    turns = advice._turns(made, search, best, [rival])
    assert [(one.assumption, one.factor, one.alternative) for one in turns.found] == [("rebuild_s", 1.5, rival)]
    assert turns.found[0].gain.value == pytest.approx(10 / 9, rel=1e-3)
    # The trace is generated: its rates are assumptions, too.
    assert turns.num_changed > 25
    too_few = made.search(2 * MIN_SAMPLES)
    too_few.run([best, rival], MIN_SAMPLES)
    assert "that takes `max_runs`" in advice._turns(made, too_few, best, [rival]).why_not


def test_the_default_runs_reach_assumptions_however_hard_alternatives_are_to_tell_apart():
    def value(one, seed, changes):
        slower = changes.get("rebuild_s") == 1.5 and dict(one.choice)["system"] == "lazarus"
        is_far = dict(one.choice)["system"] == "ds"
        own = np.random.default_rng([seed, len(one.choice[0][1]), one.interval_steps]).normal(0, 0.2)
        return 100 + own - (3 if is_far else 0) - (10 if slower else 0)

    default = inspect.signature(advise).parameters["max_runs"].default
    found = Made(value).advise(of("lazarus", "ds-ft", "checkpoint", "ds"), default)
    assert found.turns.num_changed > 25
    assert found.num_runs <= 1000
    few = Made(value).advise(of("lazarus", "ds"), 100)
    enough = int(few.turns.why_not.split("`max_runs` ")[1])
    assert Made(value).advise(of("lazarus", "ds"), enough).turns.num_changed > 25


def test_the_value_of_the_best_is_that_of_seeds_that_did_not_choose_it():
    """Twelve alternatives of the same mean 100: the luckiest of six seeds is 100.65 at its own (1.6 / sqrt(6))."""
    found = []
    for draw in range(8):

        def value(one, seed, _change, draw=draw):
            chance = np.random.default_rng([draw, seed, len(one.choice[0][1]), one.interval_steps])
            return float(chance.normal(100, 1))

        advised = Made(value).advise(of("ds", "lazarus", "checkpoint", "ds-ft"), 150)
        found.append(advised.ranking[0].mean.value)
    # Eight means of six: a standard deviation of 1 / sqrt(48), 0.14.
    assert np.mean(found) == pytest.approx(100, abs=0.4)


def test_fewer_seeds_than_an_interval_takes_judge_nothing_and_a_remark_says_so():
    def value(one, seed, _change):
        return 10.0 + len(one.choice[0][1]) + 0.01 * seed

    # Two race at six seeds, and the best is judged with its neighbours: five times six runs.
    for max_runs, first_seed in ((29, 0), (30, MIN_SAMPLES)):
        made = Made(value)
        search = made.search(max_runs)
        found = advice._advise(made, search, of("ds", "lazarus"), 100, print)
        assert (search.seeds[0], found.ranking[0].num_seeds) == (first_seed, MIN_SAMPLES)
        told = "the seeds that choose the best also judge it, which flatters it: `max_runs` are too few for 6 others"
        assert (told in found.notes) == (first_seed == 0)


def test_neighbours_of_the_best_are_judged_or_a_remark_says_that_they_are_not():
    for max_runs in (60, 80, 120, 200, 400):
        found = Made(noisy).advise(of("ds", "lazarus", "checkpoint", "ds-ft", "gemini"), max_runs)
        left_out = [note for note in found.notes if note.startswith("what it costs to be off is left out")]
        num_told = len(found.off) + sum(note.count("interval") + note.count("spares") for note in left_out)
        assert num_told == 3, (max_runs, found.off, left_out)
    assert not left_out
    assert all(one.num_seeds >= MIN_SAMPLES for one in found.ranking)


def test_a_choice_that_fails_at_a_later_seed_is_refused_and_the_others_are_judged():
    for late in (MIN_SAMPLES - 1, MIN_SAMPLES, MIN_SAMPLES + 1):
        made = Made(noisy)
        measure = made.measure
        made.measure = lambda wanted, change, measure=measure, late=late: [
            "breaks" if one.choice == of("lazarus")[0] and seed == late else row
            for (one, seed), row in zip(wanted, measure(wanted, change), strict=True)
        ]
        found = made.advise(of("ds", "lazarus"), 200)
        assert (found.best.choice, found.refused) == (of("ds")[0], {of("lazarus")[0]: "breaks"})
        with pytest.raises(LazsimError, match=r"^breaks$"):
            made.advise(of("lazarus"), 200)


def test_a_choice_that_fails_while_it_is_tuned_takes_no_other_out():
    made = Made(noisy)
    measure = made.measure
    made.measure = lambda wanted, change: [
        "breaks" if one.choice == of("tutel")[0] and one.interval_steps not in (50, 100, 200) else row
        for (one, _), row in zip(wanted, measure(wanted, change), strict=True)
    ]
    found = made.advise(of("ds-ft", "tutel", "ds"), 400)
    assert (list(found.refused), [one.name.choice for one in found.ranking]) == (of("tutel"), of("ds-ft", "ds"))


def test_choices_that_lost_the_race_are_not_tuned_and_marked_and_those_that_tie_are():
    five = Made(noisy).advise(of("ds", "lazarus", "checkpoint", "ds-ft", "gemini"), 300)
    assert [list(five.curves), five.is_raced(five.best)] == [of("checkpoint"), False]
    shown = render(advice_parts(five), 200)
    assert shown.count(" (raced)") == 4
    assert "raced: the best of three intervals, not tuned" in shown
    # Names of one length are of one value.
    two = Made(noisy).advise(of("ds-ft", "tutel"), 300)
    assert set(two.curves) == set(of("ds-ft", "tutel"))
    assert "raced" not in render(advice_parts(two), 200)


def test_a_recorded_trace_has_no_other_seeds_to_judge_by_and_a_remark_says_so():
    made = Made(noisy)
    search = Search(made.measure, GOODPUT, 200, NUM_STRETCHES)
    found = advice._advise(made, search, of("ds", "lazarus"), 100, print)
    assert found.notes[0] == (
        "the seeds that choose the best also judge it, which flatters it: the trace has no others"
    )
    assert all(len(rows) == NUM_STRETCHES for rows in found.rows.values())


def test_young_and_daly_do_not_apply_where_a_save_stops_nothing():
    found = hold_against_formulas(Start(9, 40.0, 0.0, 350.0, 500.0, 1.0, 1e6), 9, None, [], 500.0)
    assert math.isnan(found.young_s)
    assert math.isnan(found.daly_s)
    assert [reason.startswith("Young's and Daly's do not apply") for reason in found.reasons] == [True]


def test_nodes_that_are_not_in_use_fail_only_where_more_go_in_the_same_runs_than_hit_training():
    # A search met a failure every 500 s; its judges met one every 1000 s, each in training, or one in two of 500 s.
    start, row = Start(9, 40.0, 8.0, 0.0, 500.0, 1.0, 1e6), {"num_failures": 5, "lost_work_s": 900.0, "wall_s": 5000.0}
    for gone_s, is_told in ((1000.0, False), (500.0, True)):
        reasons = hold_against_formulas(start, 9, None, [row], gone_s).reasons
        assert any("nodes that are not in use" in reason for reason in reasons) is is_told
    # On-demand nodes are no nodes of the trace, and none of them goes.
    reasons = hold_against_formulas(start, 9, None, [{**row, "switch_s": 2000.0}], 500.0).reasons
    assert any(reason.endswith("on-demand nodes, which stay, take over") for reason in reasons)
    assert not any("nodes that are not in use" in reason for reason in reasons)


SMALL = ("--system", "checkpoint", "--routing", "uniform", "--nodes", 6, "--node-mtbf", "1h", "--repair", "10s")
SHORT = ("--duration", "10min", "--jobs", 1)


def test_a_search_that_was_stopped_goes_on_and_the_same_question_has_the_same_answer(lazsim, tmp_path):
    arguments = ("advise", *SMALL, *SHORT, "--runs", 30, "--interval", 60, "--json", "--out", tmp_path / "out")
    code, out, err = lazsim(*arguments)
    assert code == 0, err
    assert "results are in" in err
    found = json.loads(out)
    assert set(found) == {"goal", "unit", "best", "ties", "evidence", "inputs", "notes"}
    assert (found["best"]["system"], found["best"]["interval_steps"]) == ("checkpoint", 60)
    off = found["evidence"]["off"]
    assert {one["what"] for one in off} == {"interval halved", "interval doubled", "spares 1"}
    # Steps are those of no layout, as the GPU has no measured kernels.
    assert [one["layout"] for one in off] == [None] * 3
    rows = (tmp_path / "out" / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out" / "rows.jsonl").write_bytes(b"".join(rows[:4]))
    assert lazsim(*arguments)[1] == out
    assert sorted((tmp_path / "out" / "rows.jsonl").read_bytes().splitlines(keepends=True)) == sorted(rows)
    assert (tmp_path / "out" / "advice.png").stat().st_size
    assert json.loads((tmp_path / "out" / "advice.json").read_text()) | {"notes": found["notes"]} == found


def test_nodes_that_stay_need_no_checkpoint(lazsim, answered, spot):
    asked = ("--trace", spot, *SMALL[:4], "--goal", "cost", "--price", 2, "--on-demand-price", 2, "--jobs", 1)
    found = answered("advise", *asked, "--runs", 120)
    assert (found["best"]["purchase"], found["best"]["interval_steps"]) == ("on-demand", 0)
    # All of the time is steps that count, and the nodes are no others where they are to save all the same.
    assert found["best"]["ettr"] == pytest.approx(1.0, abs=1e-3)
    saving = answered("advise", *asked, "--runs", 120, "--interval", 100)["evidence"]["ranking"]
    assert all(one["value"] > found["best"]["value"] for one in saving)
    assert not any("as if one had" in note for note in found["notes"])
    # Young's and Daly's grow with the time between failures beyond all bounds.
    shown = lazsim("advise", *asked, "--runs", 120)[1]
    assert "on-demand, no checkpoints\n" in shown
    assert "nodes never go\n" in shown
    assert re.findall(r"^(best|Young|Daly) +(\S.*?)  ", shown, re.MULTILINE) == [
        ("best", "none"), ("Young", "none"), ("Daly", "none")
    ]  # fmt: skip


def test_nodes_that_stay_cost_their_price_over_the_other_where_none_goes(lazsim, answered, tmp_path, figures):
    path = tmp_path / "nodes.csv"
    events = [Event(0, "add", f"node{index}") for index in range(6)]
    write_trace(build_trace(events, duration_s=1800), path)
    asked = ("--trace", path, *SMALL[:4], "--interval", 1000, "--goal", "cost", "--price", 2, "--on-demand-price", 7)
    found = answered("advise", *asked, "--jobs", 1, "--runs", 48)
    assert found["best"]["purchase"] == "spot"
    (other,) = found["evidence"]["ranking"][1:]
    assert (other["purchase"], other["behind"]) == ("on-demand", pytest.approx(3.5))
    # 6 nodes at 2 $/h are 12 / 3600 $/s.
    cost = 1e6 * 12 / 3600 / found["best"]["goodput_samples_per_s"]
    assert (found["unit"], found["best"]["value"]) == ("$/M samples", pytest.approx(cost, rel=1e-6))
    shown = lazsim("advise", *asked, "--jobs", 1, "--runs", 48, "--out", tmp_path / "out")[1]
    assert f"{found['best']['value']:,.2f} +- 0.00 $/M samples" in shown.splitlines()[1]
    # An interval that is given is not called the best, and there are no others to draw.
    assert "alternatives, at the interval given" in shown
    assert re.search(r"^given +\d", shown, re.MULTILINE)
    (choices,) = figures[0].axes
    assert choices.get_xlabel().startswith("$/M samples, % of the best choice\n")
    assert [line.get_xdata()[0] for line in choices.lines if len(line.get_xdata())] == pytest.approx([100, 350])
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give --trace, or --node-mtbf and --repair"),
        (("--nodes", 4), "give --trace, or --node-mtbf and --repair"),
        (("--trace", "llama-3", "--repair", "1h"), "--repair has no effect beside --trace"),
        (("--trace", "no-such-file"), "no-such-file"),
        ((*SMALL[4:], "--system", "dss"), "--system: unknown system 'dss': did you mean 'ds'"),
        ((*SMALL, "--interval", "often"), "--interval"),
        ((*SMALL, "--fault-threshold", "0-2"), "--fault-threshold 0: give 1 or more"),
        ((*SMALL, "--goal", "fun"), "--goal fun: give goodput, cost, or deadline=TIME"),
        ((*SMALL, "--runs", 3), "--runs 3: give 6 or more, or an --interval, for"),
        ((*SMALL, "--on-demand-price", "x", "--goal", "cost"), "--on-demand-price: 'x': give US dollars"),
        ((*SMALL, "--on-demand-price", "3", "--goal", "cost"), "--price: only some of the nodes have one"),
        ((*SMALL[:4], "--nodes", 2, "--node-mtbf", "1h", "--repair", "1h", "--model", "gpt-l"), "does not fit"),
        ((*SMALL, "--address", "x:1"), "--address has no effect without --backend ray"),
        ((*SMALL, "--batch-share", "0.5"), "--batch-share: rtx3090x10 has no failure domains"),
        ((*SMALL, "--batch-share", "2"), "--batch-share: expected a number from 0 to 1, found '2'"),
        ((*SMALL, "--goal", "deadline"), "--goal deadline: give goodput, cost, or deadline=TIME, as deadline=80h"),
        ((*SMALL, "--goal", "deadline=2h"), "--goal deadline=2h: give the --work that is due, too"),
        ((*SMALL, "--work", "2h"), "--work has no effect without --goal deadline=TIME"),
        ((*SMALL, "--goal", "deadline=1h", "--work", "2h"), "--duration: a run with a deadline lasts until then"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused_in_a_line(refused, options, message):
    assert message in refused("advise", *options, "--duration", "10min")


TEN_MINUTES = Goal(
    "deadline", "$", ".2f", lambda row: row["cost"], less_is_better=True, done=lambda row: row["done"], least_prob=0.9
)


def due(run, *names, goal=TEN_MINUTES, max_runs=1000):
    """Return a search whose runs are a cost, and the part done in time, by name and seed; and what it chooses among."""

    def measure(wanted, _change):
        found = [run(one.choice[0][1], seed) for one, seed in wanted]
        return [{"cost": cost, "done": done} for cost, done in found]

    return Search(measure, goal, max_runs, 1000), [Alternative(choice, 1) for choice in of(*names)]


def test_the_cheapest_that_is_in_time_often_enough_is_the_best_and_one_that_misses_at_more_seeds_gives_way():
    costs = {"a": 10.0, "bb": 5.0, "ccc": 20.0, "dddd": 30.0}

    def run(name, seed):
        """Of "a" every fourth run is late, from the seventh on; "bb" always is; "ccc" and "dddd" never are."""
        is_late = name == "bb" or (name == "a" and seed > 5 and seed % 4 == 0)
        return costs[name] + 0.01 * seed, 0.5 if is_late else 1.0

    made, alternatives = due(run, *costs)
    raced = made.race(alternatives)
    assert [one.name.choice for one in raced] == of("a")
    assert [one.name.choice for one in made.rank(alternatives)] == of("a", "ccc", "dddd", "bb")
    best = made.make_sure(alternatives)
    assert best.choice == of("ccc")[0]
    # 0.9 to the power of 29 is the first below 5 %.
    assert len(made.rows[best, None]) == 29
    assert made.goal.in_time(made.rows[best, None].values()).value == 1.0
    assert [one.name.choice for one in made.rank(alternatives[:2])] == of("a", "bb")


def test_of_alternatives_that_all_miss_the_one_that_does_most_of_the_work_comes_first():
    done = {"a": 0.5, "bb": 0.7, "ccc": 0.6}
    made, alternatives = due(lambda name, _: (1.0, done[name]), *done)
    raced = made.race(alternatives)
    assert raced[0].name.choice == of("bb")[0]
    assert made.make_sure([raced[0].name]) == raced[0].name


def test_one_late_run_of_six_is_too_few_to_leave_the_cheapest_out():
    def run(name, seed):
        """The first of "a" is late, and no other: one of six misses nine tenths, and one of 29 does not."""
        return {"a": 1.0, "bb": 2.0}[name], 0.5 if (name, seed) == ("a", 0) else 1.0

    made, (cheap, dear) = due(run, "a", "bb")
    made.run([cheap, dear], MIN_SAMPLES)
    assert made.make_sure(made.better_first([cheap, dear])) == cheap
    assert len(made.rows[cheap, None]) == 29


@pytest.mark.parametrize("every", [10, 5])
def test_one_that_its_late_runs_rule_out_leaves_the_runs_to_the_next(every):
    def run(name, seed):
        """Of "a", which is cheaper, some runs are late, the seventh first, and of "bb" none."""
        return {"a": 1.0, "bb": 2.0}[name], 0.5 if name == "a" and seed in range(6, 999, every) else 1.0

    made, (late, sure) = due(run, "a", "bb", goal=replace(TEN_MINUTES, least_prob=0.99), max_runs=400)
    made.run([late, sure], MIN_SAMPLES)
    # Clopper and Pearson as scipy has it; 0.99 to the power of 299 is the first below 5 %.
    num_late = {num: len(range(6, num, every)) for num in (6, 12, 24, 48)}
    ruled_out = [num for num, of in num_late.items() if binomtest(num - of, num).proportion_ci().high < 0.99]
    assert made.make_sure([late, sure]) == sure
    assert [len(made.rows[one, None]) for one in (late, sure)] == [ruled_out[0], 299]


def test_one_that_six_runs_rule_out_takes_no_more():
    made, (late,) = due(lambda _name, seed: (1.0, 0.5 if seed < 3 else 1.0), "a", max_runs=2 * MIN_SAMPLES)
    made.run([late], MIN_SAMPLES)
    assert (made.make_sure([late]), made.num_left) == (late, MIN_SAMPLES)


def test_without_runs_left_the_only_one_is_the_best():
    made, (only,) = due(lambda _name, _seed: (1.0, 1.0), "a", max_runs=MIN_SAMPLES)
    made.run([only], MIN_SAMPLES)
    assert (made.make_sure([only]), made.num_left) == (only, 0)


def test_what_samples_cost_is_the_rate_of_totals_over_seeds_as_every_ratio():
    # Ten dollars for one sample and twenty for four are 6 a sample; the mean of 10 and 5 is 7.5, which "bb" is below.
    goal = find_goal("cost", 0.9, [resolve({"trace": "fail-every-5min", "price": "2"})])
    paid = {"a": [(10, 1), (20, 4)] * 3, "bb": [(20, 4), (31, 4)] * 3}

    def measure(wanted, _change):
        return [dict(zip(("cost_usd", "samples"), paid[one.choice[0][1]][seed], strict=True)) for one, seed in wanted]

    made = Search(measure, goal, 99, 99)
    alternatives = [Alternative(choice, 1) for choice in of("a", "bb")]
    made.run(alternatives, MIN_SAMPLES)
    best, other = made.rank(alternatives)
    assert [one.name for one in (best, other)] == alternatives
    assert [one.mean.value for one in (best, other)] == pytest.approx([1e6 * 30 / 5, 1e6 * 51 / 8])
    assert other.behind.value == pytest.approx((51 / 8) / (30 / 5))
    assert made.better_by(*alternatives, num_seeds=1).value == pytest.approx((20 / 4) / (10 / 1))


def test_what_is_better_beyond_chance_at_the_seeds_that_judge_is_the_best_and_a_tie_is_not():
    def value(one, seed, _change):
        return {"ds": 10.0, "ds-ft": 11.0, "lazarus": 12.0, "moc": 10.0}[one.choice[0][1]] + 0.01 * seed

    found, good, better, tie = (Alternative(choice, 1) for choice in of("ds", "ds-ft", "lazarus", "moc"))
    made = Made(value).search(1000)
    made.run([found, good, better, tie], MIN_SAMPLES - 1)
    # Five seeds bear out no interval.
    assert made.better_first([found, good, better, tie])[0] == found
    made.run([found, good, better, tie], MIN_SAMPLES)
    assert made.better_first([found, good, better, tie]) == [better, found, good, tie]
    assert made.better_first([found, tie]) == [found, tie]


def test_a_setting_that_loses_more_updates_than_its_system_may_is_worse_than_all_others():
    def measure(wanted, _change):
        """Of "a", more steps between checkpoints train more and lose more; half of its intervals may not be."""
        return [
            {"goodput_samples_per_s": 10.0 + one.interval_steps, "lost_token_share": 0.01 * one.interval_steps}
            | {"most_lost_tokens": 0.035}
            if one.choice == of("a")[0]
            else {"goodput_samples_per_s": 5.0, "lost_token_share": None, "most_lost_tokens": 1.0}
            for one, _ in wanted
        ]

    made = Search(measure, GOODPUT, 1000, 1000)
    alternatives = [Alternative(choice, steps) for choice in of("a", "bb") for steps in (2, 3, 4, 8)]
    made.run(alternatives, MIN_SAMPLES)
    ranked = [one.name for one in made.rank(alternatives)]
    assert ranked[0] == Alternative(of("a")[0], 3)
    assert set(ranked[-2:]) == {Alternative(of("a")[0], 4), Alternative(of("a")[0], 8)}
    assert made.make_sure(alternatives[2:]) == Alternative(of("bb")[0], 2)
    # Where all lose too much, the one that loses the least is the nearest.
    assert made.make_sure(alternatives[2:4]) == Alternative(of("a")[0], 4)


def test_who_loses_too_many_updates_in_time_is_not_late():
    rows = [{"cost": 1.0, "done": 1.0, "lost_token_share": 0.05, "most_lost_tokens": 0.035}] * MIN_SAMPLES
    assert (TEN_MINUTES.is_late(rows), TEN_MINUTES.is_missed(rows)) == (False, True)


def test_tokens_whose_updates_are_lost_count_for_goodput_and_cost_as_they_do_in_a_run():
    row = {"goodput_samples_per_s": 100.0, "samples": 1000, "cost_usd": 5.0, "lost_token_share": 0.01}
    priced = resolve({"trace": poisson(5), "price": 1.0})
    assert (GOODPUT.value(row), find_goal("cost", 0.9, [priced]).value(row)) == (100.0, (5e6, 1000))


def test_tuning_takes_the_longest_interval_that_loses_no_more_updates_than_a_system_may():
    def measure(wanted, _change):
        """More steps between checkpoints train more, and from 260 on lose more than a hundredth."""
        return [
            {"goodput_samples_per_s": 100 - 100 / one.interval_steps, "steps": 10**9, "num_rollbacks": 9}
            | {"lost_token_share": one.interval_steps / 26_000, "most_lost_tokens": 0.01}
            for one, _ in wanted
        ]

    (choice,) = of("moc")
    best, fitted = Search(measure, GOODPUT, 1000, 1000).tune(Alternative(choice, 100), 10**6, MIN_SAMPLES)
    # From 100 by twos, then by the root of two.
    assert (best.interval_steps, fitted) == (200, None)


def test_moc_begins_at_an_interval_that_keeps_its_budget_of_lost_updates():
    made = question(poisson(5), *of("moc"))
    assert made.start(of("moc")[0], "auto") == ""
    start = made.starts[of("moc")[0]]
    # Of 16 saves in turn, an expert's own is 7.5 intervals old on average, and 3.75 % of the steps between failures may
    # be lost.
    assert start.steps == int(0.0375 * start.between_s / start.step_s / 7.5)


def test_settings_of_a_question_hold_where_they_are_no_choices(tmp_path):
    asked = {**EVEN, "trace": poisson(3), "duration": 600.0, "system": "checkpoint"}
    found = advise(asked, {}, interval=100, max_runs=12, num_workers=1)
    assert found.best.choice == of("checkpoint")[0]
    with pytest.raises(LazsimError, match=r"^`interval` has no effect among the settings: give it beside them$"):
        advise({**asked, "interval": 50}, {})
    with pytest.raises(LazsimError, match=r"^`cap` has no effect without `max_nodes`"):
        advise({**asked, "cap": "clip"}, {}, interval=100)
    # A seed of the trace alone goes on from seed to seed, too.
    made = Question({**asked, "trace_seed": 5}, None, None, of("ds"), {})
    first, second = (made.scenario(of("ds")[0], seed).load_trace() for seed in (0, 1))
    assert first.events_sha256 != second.events_sha256
    assert first.events_sha256 == resolve({**asked, "trace_seed": 5, "duration": 600.0}).load_trace().events_sha256


def test_a_recorded_trace_is_read_as_the_settings_say_and_cut_into_stretches_once(tmp_path):
    path = tmp_path / "own.csv"
    rows = [*(f"0,up,n{index}" for index in range(6)), "0.5,down,n0", "1,up,n6", "1,up,n6"]
    path.write_text("when,what,who\n" + "".join(f"{row}\n" for row in rows))
    reading = {"columns": "time=when,event=what,node=who", "time_unit": "h", "lenient": True, "cap": "first"}
    choice = (("system", "ds"), ("num_nodes", 4))
    made = Question({**EVEN, "trace": str(path), **reading}, None, None, [choice], {})
    stretches = [made.scenario(choice, seed).load_trace() for seed in range(NUM_STRETCHES)]
    # An hour of the first four nodes, of which one goes after half of it, at the start of the fourth stretch.
    assert [stretch.duration_s for stretch in stretches] == [600.0] * NUM_STRETCHES
    assert [stretch.num_alive()[1][0] for stretch in stretches] == [4, 4, 4, 3, 3, 3]


@pytest.fixture
def spot(tmp_path):
    """Ten nodes that all go after 20 minutes, every half an hour, for three hours."""
    ticks = ([10] * 20 + [0] * 10) * 6
    path = tmp_path / "spot.json"
    path.write_text(json.dumps({"metadata": {"gap_seconds": 60}, "data": ticks}))
    return path


def test_advice_for_a_deadline_agrees_with_the_ways_to_buy_nodes_for_one_stretch(lazsim, spot):
    asked = ("--trace", spot, "--system", "checkpoint", "--interval", 20, "--routing", "uniform", "--work", "21min")
    asked += ("--price", 1, "--on-demand-price", 3, "--json")
    code, out, err = lazsim("advise", *asked, "--goal", "deadline=30min", "--runs", 36, "--jobs", 1)
    assert code == 0, err
    ranking = {one["purchase"]: one for one in json.loads(out)["evidence"]["ranking"]}
    # Each stretch of 30 minutes is one period, so that all seeds are the run of the first.
    scenario = resolve(
        {**EVEN, "trace": str(spot), "system": "checkpoint", "interval": 20, "price": 1, "duration": 1800.0}
    )
    due = Due(21 * 60.0, 1800.0, 3.0)
    work = due_samples(due, scenario, 10)
    told = f"the work is {work:,} samples, which checkpoint with interval 20 trains in 21 min on 10 nodes that stay"
    assert f"note: {told}\n" in err
    for way in compare_purchases(due, scenario, run_scenario(scenario)):
        found = ranking[way.nodes]
        assert found["value"] == pytest.approx(way.cost_usd / way.done_share, rel=1e-3)
        assert found["misses_deadline"] == (way.finish_s is None)
    assert ranking["spot"]["misses_deadline"]
    assert list(ranking) == ["spot, then on-demand", "on-demand", "spot"]


def test_advice_without_a_setting_in_time_says_so_and_names_the_nearest(lazsim, spot):
    asked = ("--trace", spot, "--system", "checkpoint", "--interval", 20, "--routing", "uniform", "--work", "28min")
    code, out, err = lazsim("advise", *asked, "--goal", "deadline=30min", "--runs", 36, "--jobs", 1)
    assert code == 0, err
    assert out.startswith(
        "no setting is done in time with a probability of 90%\nnearest: checkpoint, a checkpoint every 20"
    )
    assert "\n-: it misses the goal, as the best setting does\n" in out
    assert "node-hours" in out
    assert lazsim("advise", *asked, "--goal", "deadline=4h")[2].startswith("lazsim: --goal: the trace lasts 3 h, and")


def test_a_chance_short_of_all_is_not_told_as_all(lazsim, spot):
    one, rows = Alternative((), 1), [{"done": 1.0}] * 299 + [{"done": 0.5}]
    goal = Goal("deadline", "$", ".0f", lambda row: 1.0, done=lambda row: row["done"])
    # Clopper and Pearson as scipy has it. Rounded to whole per cent, 299 of 300 would be all.
    low, high = binomtest(299, 300).proportion_ci()
    assert (round(100 * low, 1), round(100 * high, 1)) == (98.2, 100.0)
    assert _in_time(SimpleNamespace(goal=goal, rows={one: rows}), one) == "299 of 300 runs (95 %: 98.2 to >99.9 %)"
    asked = ("--trace", spot, "--system", "checkpoint", "--interval", 20, "--routing", "uniform", "--work", "28min")
    asked = (*asked, "--goal", "deadline=30min", "--runs", 6, "--jobs", 1, "--in-time-prob", 0.999)
    assert lazsim("advise", *asked)[1].startswith("no setting is done in time with a probability of 99.9%\n")


def test_racks_of_the_cluster_fail_in_the_traces_of_advice_and_assumptions_stay_in_their_range():
    racks = resolve({**EVEN, "cluster.nodes_per_domain": 4}).cluster
    fields = {"num_nodes": 10, "mtbf_s": 4000.0, "repair_s": 60.0, "batch_share": 0.8, "duration_s": 4000.0}
    trace = change_recipe(None, fields, racks)
    made = question(trace, *of("ds"))
    sizes = {len(batch.removed) for batch in made.scenario(of("ds")[0], 0).load_trace().batches()}
    # Racks of four, four and two nodes, and single nodes.
    assert {4} < sizes <= {0, 1, 2, 3, 4}
    assumed = [one.factor for one in advice.assumptions(made.scenario(of("ds")[0], 0)) if one.constant == "batch_share"]
    # A share of 0.8 times 1.25 is all.
    assert assumed == [0.5, 1.25]
    # A cluster smaller than a rack is one rack.
    assert change_recipe(None, {**fields, "num_nodes": 3}, racks).nodes_per_domain == 4


def test_a_search_of_long_runs_says_so_before_it_begins():
    # 20 nodes that fail each 500 days in the mean: five failures take 125 days, of steps of less than a second.
    recipe = change_recipe(None, {"mtbf_s": 500 * 86400.0, "repair_s": 3600.0, "num_nodes": 20})
    told = []

    def stop(text):
        told.append(text)
        raise LazsimError("enough")

    with pytest.raises(LazsimError, match="enough"):
        advise({**EVEN, "trace": recipe}, {"system": ["ds"]}, max_runs=60, tell=stop)
    assert "steps long, and there are up to 60: " in told[0]
    assert "`max_runs`" in told[0]


def test_stretches_without_a_loss_count_as_none_in_the_time_between_losses():
    there = [Event(0.0, "add", "a")]
    lost = build_trace([*there, Event(30.0, "remove", "a")], duration_s=60.0)
    traces = [*[build_trace(there, duration_s=60.0)] * 5, lost]
    scenario = resolve({"trace": lost})
    scenarios = [scenario.under(one) for one in traces]
    # Six minutes with one loss; five without any are all that is known.
    assert mean_between_s(scenarios) == 360.0
    assert mean_between_s(scenarios[:5]) == 300.0
