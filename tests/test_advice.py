import inspect
import json
import math

import numpy as np
import pytest

from lazsim.engine.interval import daly_interval_s, young_interval_s
from lazsim.study import advice, search
from lazsim.study.advice import advise, failures_trace
from lazsim.study.checkpoint_interval import fit_interval
from lazsim.study.comparison import rank
from lazsim.study.intervals import MIN_SAMPLES
from lazsim.study.search import NUM_STRETCHES, Alternative, Search
from lazsim.trace import write_trace
from lazsim.trace.table import Event, build_trace

EVEN = {"routing": "uniform", "model": "gpt-s", "cluster": "rtx3090x10"}
BETWEEN_S = 400.0


def poisson(num_failures, num_nodes=10):
    """Ten nodes, one of which fails every 400 s in the mean and is back within a second."""
    fields = {"mtbf_s": BETWEEN_S * num_nodes, "repair_s": 1.0, "repair_sigma": 0.0}
    return failures_trace([num_nodes], {**fields, "duration_s": BETWEEN_S * num_failures})


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
    assert fit_interval({steps: dict.fromkeys(range(6), 100.0 + steps) for steps in (4, 8, 16)}) is None
    assert fit_interval({4: {0: 1.0}, 8: {0: 2.0}}) is None
    assert fit_interval(rising) is None or fit_interval(rising).value > 16


def test_alternatives_are_held_against_the_one_that_is_given_at_the_seeds_of_both():
    values = {"a": {0: 2.0, 1: 4.0}, "b": {0: 4.0, 1: 8.0}, "c": {0: 6.0}}
    assert [(one.name, one.behind.value) for one in rank(values, "b")] == [
        ("b", 1.0), ("c", pytest.approx(4 / 6)), ("a", 2.0)
    ]  # fmt: skip


def of(*systems):
    return [(("system", system),) for system in systems]


def to_settings(choice):
    return dict(choice)


def test_all_alternatives_meet_the_same_failures_at_a_seed_and_others_at_the_next():
    made = Search({**EVEN, "trace": poisson(5)}, to_settings, 10, {})
    first, other = (made.scenario(choice, 3).load_trace() for choice in of("ds", "lazarus"))
    assert first.events_sha256 == other.events_sha256
    assert first.events_sha256 != made.scenario(of("ds")[0], 4).load_trace().events_sha256


def test_more_replicas_than_nodes_have_room_for_are_told_and_not_run():
    made = Search({**EVEN, "trace": poisson(5)}, advice._to_settings({**EVEN, "trace": poisson(5)}, None), 10, {})
    few, many = ((("system", "lazarus"), ("fault_threshold", number)) for number in (1, 11))
    assert made.start(few, "auto") is not None
    # An expert on eleven of ten nodes.
    assert made.start(many, "auto") is None
    assert made.refused[many].startswith("f 11 does not fit: on 10 nodes, some expert is on ")
    assert few not in made.refused


def test_the_stretches_of_a_recorded_trace_add_up_to_it(tmp_path):
    path = tmp_path / "nodes.csv"
    write_trace(one_failure(), path)
    made = Search({**EVEN, "trace": str(path)}, to_settings, 10, {})
    stretches = [made.scenario(of("ds")[0], seed).load_trace() for seed in range(NUM_STRETCHES)]
    assert [stretch.duration_s for stretch in stretches] == [600.0] * NUM_STRETCHES
    # A node goes after 25 minutes, in the third ten of them.
    assert [stretch.nodes_lost(600.0) for stretch in stretches] == [0, 0, 1, 0, 0, 0]
    assert [stretch.num_alive()[1][0] for stretch in stretches] == [6, 6, 6, 5, 5, 5]


class Made(Search):
    """A search whose runs are numbers."""

    def __init__(self, number, max_runs):
        super().__init__({**EVEN, "trace": poisson(5)}, to_settings, max_runs, {})
        self._number = number

    def most_seeds(self, choices):
        return 1000

    def start(self, choice, interval):
        self.starts[choice] = search.Start(100, 1.0, 10.0, 0.0, 500.0, 1.0, 1e6)
        return self.starts[choice]

    def run(self, alternatives, seeds, changes=()):
        wanted = {(one, seed) for one in alternatives for seed in seeds}
        new = [pair for pair in wanted if pair[1] not in self.rows.get((pair[0], changes), {})]
        if len(new) > self.num_left:
            return False
        self.num_runs += len(new)
        for one, seed in new:
            row = {"goodput_samples_per_s": self._number(one, seed, changes), "num_failures": 0}
            self.rows.setdefault((one, changes), {})[seed] = row
            self.notes[one] = []
        return True


def noisy(one, seed, _changes=()):
    """Value of a system by the length of its name, less a percent away from 100 steps, and noise that all share."""
    chance = np.random.default_rng(seed).normal(1, 0.2)
    own = np.random.default_rng([seed, len(one.choice[0][1]), one.interval_steps]).normal(0, 0.002)
    return (10 + len(one.choice[0][1]) - abs(math.log(one.interval_steps / 100)) * 0.1) * chance * (1 + own)


def test_a_race_drops_what_is_worse_beyond_chance_and_keeps_the_best():
    made = Made(noisy, 1000)
    raced = made.race(of("a", "bb", "ccc"))
    assert raced[0].name.choice == of("ccc")[0]
    assert {one.name.choice for one in raced} == set(of("ccc"))
    assert [one.num_alternatives for one in made.rounds][:1] == [9]
    assert made.rounds[0].num_seeds == MIN_SAMPLES
    assert made.num_runs <= 500


def test_a_race_of_many_alternatives_begins_with_few_seeds_and_halves():
    made = Made(noisy, 400)
    names = ["a" * length for length in range(1, 21)]
    raced = made.race(of(*names))
    assert [(one.num_alternatives, one.num_seeds) for one in made.rounds][:2] == [(60, 1), (30, 2)]
    assert raced[0].name.choice == of(names[-1])[0]
    assert made.num_runs <= 200
    with pytest.raises(search.SpecError, match="`max_runs` 50: give at least 120, or fewer alternatives"):
        Made(noisy, 50).race(of(*names))


def test_tuning_walks_to_an_interval_far_from_youngs():
    def value(one, seed, _changes=()):
        return 100 - 64_000 / one.interval_steps - one.interval_steps / 100 + 0.01 * seed

    made = Made(value, 1000)
    (choice,) = of("ds")
    made.start(choice, "auto")
    best, fitted = made.tune(choice, 100, MIN_SAMPLES)
    # sqrt(64,000 x 100) steps.
    assert best.interval_steps == pytest.approx(2530, rel=0.02)
    assert fitted.value == pytest.approx(2529.8, rel=0.02)


def test_an_assumption_that_makes_a_rival_better_is_named_and_no_other():
    def value(one, seed, changes=()):
        is_slow = dict(one.choice)["system"] == "ds"
        rebuild = dict(changes).get("cluster.recovery.rebuild_s", "x1")
        return (10.0 if is_slow else {"x0.5": 12.0, "x1": 11.0, "x1.5": 9.0}[rebuild]) + 0.001 * seed

    made = Made(value, 1000)
    best, rival = (Alternative(choice, 100) for choice in of("lazarus", "ds"))
    made.run([best, rival], range(MIN_SAMPLES))
    turns = advice._turns(made, best, [rival])
    assert [(one.assumption, one.factor, one.alternative) for one in turns.found] == [("rebuild_s", 1.5, rival)]
    assert turns.found[0].gain.value == pytest.approx(10 / 9, rel=1e-3)
    # The trace is generated: its rates are assumptions, too.
    assert turns.num_changed > 25
    too_few = Made(value, 2 * MIN_SAMPLES)
    too_few.run([best, rival], range(MIN_SAMPLES))
    assert "that takes `max_runs`" in advice._turns(too_few, best, [rival]).why_not


def test_the_default_runs_reach_assumptions_however_hard_alternatives_are_to_tell_apart():
    def value(one, seed, changes=()):
        slower = dict(changes).get("cluster.recovery.rebuild_s") == "x1.5" and dict(one.choice)["system"] == "lazarus"
        is_far = dict(one.choice)["system"] == "ds"
        own = np.random.default_rng([seed, len(one.choice[0][1]), one.interval_steps]).normal(0, 0.2)
        return 100 + own - (3 if is_far else 0) - (10 if slower else 0)

    made = Made(value, inspect.signature(advise).parameters["max_runs"].default)
    found = advice._advise(made, of("lazarus", "ds-ft", "checkpoint", "ds"), "auto")
    assert found.turns.num_changed > 25
    assert made.num_runs <= 1000
    few = advice._advise(Made(value, 100), of("lazarus", "ds"), "auto")
    enough = int(few.turns.why_not.split("`max_runs` ")[1])
    assert advice._advise(Made(value, enough), of("lazarus", "ds"), "auto").turns.num_changed > 25


def test_young_and_daly_do_not_apply_where_a_save_stops_nothing():
    made = Made(noisy, 100)
    (choice,) = of("async-checkpoint")
    made.starts[choice] = search.Start(9, 40.0, 0.0, 350.0, 500.0, 1.0, 1e6)
    found = advice._formulas(made, Alternative(choice, 9), None, [])
    assert math.isnan(found.young_s)
    assert math.isnan(found.daly_s)
    assert [reason.startswith("Young's and Daly's do not apply") for reason in found.reasons] == [True]


SMALL = ("--system", "checkpoint", "--routing", "uniform", "--nodes", 6, "--node-mtbf", "1h", "--repair", "10s")
SHORT = ("--duration", "10min", "--jobs", 1)


def test_a_search_that_was_stopped_goes_on_and_the_same_question_has_the_same_answer(lazsim, tmp_path):
    arguments = ("advise", *SMALL, *SHORT, "--runs", 30, "--interval", 60, "--json", "--out", tmp_path / "out")
    code, out, err = lazsim(*arguments)
    assert code == 0, err
    assert "results are in" in err
    found = json.loads(out)
    assert set(found) == {"goal", "best", "ties", "evidence", "inputs", "notes"}
    assert (found["best"]["system"], found["best"]["interval_steps"]) == ("checkpoint", 60)
    assert {one["what"] for one in found["evidence"]["off"]} == {"interval halved", "interval doubled", "spares 1"}
    rows = (tmp_path / "out" / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out" / "rows.jsonl").write_bytes(b"".join(rows[:4]))
    assert lazsim(*arguments)[1] == out
    assert sorted((tmp_path / "out" / "rows.jsonl").read_bytes().splitlines(keepends=True)) == sorted(rows)
    assert (tmp_path / "out" / "advice.png").stat().st_size
    assert json.loads((tmp_path / "out" / "advice.json").read_text()) | {"notes": found["notes"]} == found


def test_nodes_that_stay_cost_their_price_over_the_other_where_none_goes(lazsim, tmp_path):
    path = tmp_path / "nodes.csv"
    events = [Event(0, "add", f"node{index}") for index in range(6)]
    write_trace(build_trace(events, duration_s=1800), path)
    asked = ("--trace", path, *SMALL[:4], "--interval", 1000, "--goal", "cost", "--price", 2, "--on-demand-price", 7)
    code, out, err = lazsim("advise", *asked, "--jobs", 1, "--runs", 48, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["best"]["purchase"] == "spot"
    (other,) = found["evidence"]["ranking"][1:]
    assert (other["purchase"], other["behind"]) == ("on-demand", pytest.approx(3.5))
    # 6 nodes at 2 $/h: samples for a dollar are samples/s x 3600 / 12.
    assert found["best"]["value"] == pytest.approx(found["best"]["goodput_samples_per_s"] * 300, rel=1e-6)
    shown = lazsim("advise", *asked, "--jobs", 1, "--runs", 48)[1]
    assert f"{1e6 / found['best']['value']:,.2f}" in shown.splitlines()[1]
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "without a recipe, give --nodes and --node-mtbf and --repair"),
        (("--nodes", 4), "give --node-mtbf and --repair"),
        (("--trace", "llama-3", "--repair", "1h"), "--node-mtbf, --repair and --shape make a trace"),
        (("--trace", "no-such-file"), "no-such-file"),
        ((*SMALL[4:], "--system", "dss"), "unknown system 'dss': did you mean 'ds'"),
        ((*SMALL, "--interval", "often"), "--interval"),
        ((*SMALL, "--goal", "fun"), "'fun' is not one of"),
        ((*SMALL, "--runs", 3), "--runs 3: give at least 6, or fewer alternatives"),
        ((*SMALL, "--on-demand-price", "x", "--goal", "cost"), "'x': give US dollars"),
        ((*SMALL, "--on-demand-price", "3", "--goal", "cost"), "--price: only some of the nodes have one"),
        ((*SMALL[:4], "--nodes", 2, "--node-mtbf", "1h", "--repair", "1h", "--model", "gpt-l"), "does not fit"),
        ((*SMALL, "--address", "x:1"), "add --backend ray"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused_in_a_line(lazsim, options, message):
    code, out, err = lazsim("advise", *options, "--duration", "10min")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1, err
