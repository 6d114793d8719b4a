"""Published outcomes under failures, replayed by the engine."""

import csv
import json
import math
from pathlib import Path

import pytest

from lazsim.errors import LazsimError, SpecError
from lazsim.study.verify.outcome_inputs import overruled_words, read_inputs, unread_words
from lazsim.study.verify.outcomes import is_within, outcome_of, read_outcomes, replay_outcome
from lazsim.study.verify.replays import scale_of
from lazsim.study.verify.setups import find_setup, load_setups, variants
from lazsim.study.verify.verification import verify

QUICK = ("OOB-12", "SP-03", "SP-06", "LAZ-01", "LAZ-02", "LAZ-03", "GEM-02", "RST-01", "BYD-01", "CBL-05", "MOC-02")

HEAD = "id,metric,value,unit,tolerance_hint,replay,inputs\n"


def row(**changes):
    plain = {"id": "mine", "metric": "detection time", "value": "10 / 20", "unit": "s", "tolerance_hint": "3%"}
    return plain | {"replay": "detection", "inputs": "detect=10,20"} | changes


@pytest.mark.parametrize("name", QUICK)
def test_a_published_outcome_comes_out_within_its_tolerance(name):
    outcome = next(outcome for outcome in read_outcomes() if outcome.id == name)
    assert replay_outcome(outcome).within is True


def test_productive_time_follows_the_renewal_model():
    # 100 nodes, one failure of each in 10 days: one of the job in 8640 s. A restart takes 600 s, and 1200 s of work lie
    # between saves that take none: Daly 2006, M exp(R / M) (exp(tau / M) - 1) of wall time for each tau of work.
    between_s, restart_s, interval_s = 8640.0, 600.0, 1200.0
    wall_s = between_s * math.exp(restart_s / between_s) * math.expm1(interval_s / between_s)
    inputs = "r_f=100; nodes=100; dt_cp=20 min; u0=10 min"
    asked = row(metric="ETTR", value=f"{interval_s / wall_s}", tolerance_hint="0.01", replay="ettr", inputs=inputs)
    assert replay_outcome(outcome_of(asked | {"unit": "share"}, {})).within
    in_percent = {"value": f"{100 * interval_s / wall_s}", "tolerance_hint": "±1%", "unit": "%"}
    assert replay_outcome(outcome_of(asked | in_percent, {})).within


def test_times_are_in_the_unit_of_the_row_and_shares_are_no_times():
    assert replay_outcome(outcome_of(row(value="0.5", unit="min", inputs="detect=30 s"), {})).predicted == 0.5
    assert replay_outcome(outcome_of(row(value="30", unit="seconds", inputs="detect=0.5 minutes"), {})).predicted == 30
    assert replay_outcome(outcome_of(row(value="5", unit="ms", inputs="detect=5 ms"), {})).within
    with pytest.raises(SpecError, match="`unit` 'h': the figure mean_nodes is no time and no share"):
        scale_of("mean_nodes", "h")
    with pytest.raises(SpecError, match="mine: `unit` '%': the figure is in s"):
        replay_outcome(outcome_of(row(value="0.5", unit="%", inputs="detect=30 s"), {}))


def test_jobs_of_few_nodes_have_as_many_failures_as_there_are_in_thirty_years():
    # One failure in 111 days, of which each takes an hour and five hours of work.
    asked = row(metric="ETTR", value="0.9978", tolerance_hint="0.0008", unit="", replay="ettr")
    assert replay_outcome(outcome_of(asked | {"inputs": "r_f=1; nodes=9; dt_cp=10 h; u0=1 hour"}, {})).within


def test_the_fewest_stacks_are_those_of_failures_that_the_groups_bear():
    # The published bound: 4 groups of 10 cover the batch with ceil(10 / 4) stacks; other six failures wipe a shard out.
    asked = row(metric="stacks", value="3", unit="stacks", tolerance_hint="exact", replay="stacks-after-failures")
    assert replay_outcome(outcome_of(asked | {"inputs": "N=10, k=6"}, {})).predicted == 3


@pytest.mark.parametrize("text", [
    "6.5/1000 node-days", "6.50 failures per 1000 node-days", "0.0065 per node-day", "0.65/100 node-days",
    "2.3725/node-year",
])  # fmt: skip
def test_rates_are_those_of_a_thousand_node_days(text):
    [rate] = read_inputs(load_setups().setups["ettr"], f"r_f={text}; nodes=5")["r_f"]
    assert rate == pytest.approx(6.5)


def test_a_repair_pool_is_charged_as_it_is_drawn():
    # Half of 100 servers fail in a day, each stops the job for 10 min: 500 failures in 10 days.
    inputs = "servers=100; standbys=9; pool=120; spares=9; r=0.5; bad=0; multiple=0; recovery=10 min; auto=1 min; "
    rest = "escalates=0; auto_fails=0; manual_fails=0; days=10"
    asked = row(metric="total training time", replay="repair-pool", tolerance_hint="3%", value="323.3", unit="h")
    outcome = outcome_of({**asked, "inputs": inputs + rest}, {})
    assert replay_outcome(outcome).within  # 240 h + 500 * 10 min
    counted = {**asked, "metric": "total failures", "value": "500", "unit": "", "tolerance_hint": "9%"}
    assert replay_outcome(outcome_of({**counted, "inputs": inputs + rest}, {})).within


PROSE = (
    ("RSC", "expected ETTR", "r_f=6.50/1000 node-days; dt_cp=5 min; u0 = 2 min (source: 5); 500 nodes",
     {"r_f": [6.5], "dt_cp": [300], "u0": [120], "nodes": [500]}),
    ("RSC", "job MTTF at 16 GPUs", "r_f=6.50 failures per 1000 node-days; nodes=16384/8",
     {"r_f": [6.5], "nodes": [2048]}),
    ("SPARE-CF", "mean failures masked before wipe-out", "N=600, r=20; more", {"N": [600], "r": [20]}),
    ("AIRESIM", "total failures", "4096-server job + 16 warm standbys, working pool 4160, spare pool 200; r=0.01 "
     "failures/server-day, 15% bad servers with +5r; recovery 20 min; silent-fail 0.40 auto / 0.20 manual; 256-day job",
     {"servers": [4096], "standbys": [16], "pool": [4160], "spares": [200], "r": [0.01], "bad": [0.15],
      "multiple": [5], "recovery": [1200], "auto_fails": [0.4], "manual_fails": [0.2], "days": [22_118_400]}),
    ("GEMINI", "P(recover from CPU memory)", "16 machines; m=3 replicas, k=3 machines lost at once: P>=1-N/(m*C(N,k))",
     {"nodes": [16], "m": [3], "k": [3]}),
    ("GEMINI", "P(recover from CPU memory)", "nodes=16 machines; k=2 machines", {"nodes": [16], "k": [2]}),
    ("RSC", "expected ETTR", "16,000 GPU = 2,000 nodes; r_f: 6.5e-3 per node-day; u0=5 min (5-20)",
     {"nodes": [2000], "r_f": [6.5], "u0": [300]}),
    ("RSC", "job MTTF", "failure rate 0.65% per node-day; nodes=131k/8", {"r_f": [6.5], "nodes": [16_375]}),
    ("GEMINI", "mean wasted time per failure", "save 1,024 s; interval = save time; load 20 min",
     {"save": [1024], "load": [1200]}),
    ("MOC", "PLT limit", "lost tokens kept below 1% by raising K; K=2, N=16", {"limit": [0.01], "K": [2], "N": [16]}),
    ("RESTART-SCALE", "init time", "nodes=8, 16,32", {"nodes": [8, 16, 32]}),
    ("TORCHFT", "committed steps / attempted steps",
     "20 replica groups, failure every 1.5 min, mean step 5 s; runs 2 d",
     {"groups": [20], "period": [90], "step": [5], "hours": [172_800]}),
    ("AIRESIM", "total failures", "recovery 1200 s; host selection 0.1 h; repair Exp(2 h)/Exp(2 d)",
     {"recovery": [1200], "selection": [360], "auto": [7200], "manual": [172_800]}),
    ("AIRESIM-SENS", "total training time", "4096+16 of working pool 4600, spare 200; r=0.02/server-day (2x), bad 8% "
     "with +20r; recovery 60 min; auto/manual silent-fail 0.60/0.75; 14-day job; varied: "
     "multiplier of bad-server rate=3",
     {"servers": [4096], "standbys": [16], "pool": [4600], "spares": [200], "r": [0.02], "bad": [0.08],
      "multiple": [3], "recovery": [3600], "auto_fails": [0.6], "manual_fails": [0.75], "days": [1_209_600]}),
)  # fmt: skip


@pytest.mark.parametrize(("samples", "value"), [
    ("1,024", 1024), ("12k", 12_000), ("12 K", 12_000), ("1,024,000", 1_024_000),
])  # fmt: skip
def test_a_number_of_words_is_read_whole(samples, value):
    setup = load_setups().setups["spot-market"]
    assert read_inputs(setup, f"{samples} samples/step; 12 stages") == {"samples": [value], "stages": [12]}


@pytest.mark.parametrize("samples", ["1,02", "256-512", "512/1024", "2^11", "16_384"])
def test_a_number_that_is_none_is_told(samples):
    setup = load_setups().setups["spot-market"]
    text = f"{samples} samples/step; 12 stages"
    assert read_inputs(setup, text) == {"stages": [12]}
    assert unread_words(setup, text) == [f"{samples} samples/step"]


def test_a_throughput_of_some_numbers_of_nodes_is_not_taken_for_that_of_another():
    setup, table = load_setups().setups["step-at-throughput"], "throughput 5.24 samples/s at 28-30 nodes, 5.10 at 24-27"
    assert read_inputs(setup, f"1024 samples/step; {table}") == {"samples": [1024.0]}
    assert read_inputs(setup, "1024 samples/step; throughput 5.10 samples/s")["samples_per_s"] == [5.1]


@pytest.mark.parametrize(("text", "message"), [
    ("nodes=128,256,512", "one number or a list"), ("128,256,512 nodes", "one number or a list"),
    ("nodes=16,384", "one number or a list"), ("nodes=1,02", "one number or a list"),
    ("nodes=16_384", "expected a number"), ("u0=500 \u00b5s", "expected a time in"), ("u0=5/10 min", "expected a time"),
    ("u0=5, 10 min", "give a unit with each number"), ("u0=1.5\u20132 min", "no range"),
    ("r_f=6.5/1000 GPU-days", "expected a rate"), ("r_f=6.5/1000 node days", "expected a rate"),
    ("u0=1e400 s", "expected a number"), ("512 nodes or more", "no range"), ("u0=9 s at most", "no range"),
    ("r_f=0.65%", "expected a rate"), ("r_f=6.5 per 1000 node-weeks", "/node-weeks is not read"),
])  # fmt: skip
def test_what_can_be_read_in_two_ways_is_refused(text, message):
    with pytest.raises(SpecError, match=message):
        read_inputs(load_setups().setups["ettr"], text)


def test_what_stands_in_brackets_takes_no_place_of_what_does_not():
    assert read_inputs(load_setups().setups["ettr"], "nodes=2000 (of 2048 nodes)") == {"nodes": [2000]}


@pytest.mark.parametrize("text", ["p=0.1/node-hour", "p=10 %/node-hour", "p=0.1 per node-hour", "p=0.1"])
def test_a_probability_for_a_node_hour_is_no_rate_of_a_thousand_node_days(text):
    assert read_inputs(load_setups().setups["spot-market"], text) == {"p": [pytest.approx(0.1)]}


@pytest.mark.parametrize(("group", "metric", "text", "expected"), PROSE)
def test_inputs_are_read_from_the_words_of_a_row(group, metric, text, expected):
    setup = load_setups().setups[find_setup(group, metric, "")]
    assert read_inputs(setup, text) == {name: pytest.approx(values) for name, values in expected.items()}


@pytest.mark.parametrize(("text", "overruled"), [
    ("512 nodes; r_f=6.5; 16 nodes spare", ["512 nodes"]),
    ("512 nodes, then 0.5k nodes; 512 nodes left", ["0.5k nodes"]),
    ("512 nodes (of 600 nodes); nodes: 512", []), ("512 nodes; r_f=6.5; 16 nodes", []),
    ("512 nodes; r_f=6.5; varied: nodes=16", []), ("512 nodes; u0=9 s; varied: nodes=16, u0=8 s", []),
    ("varied: nodes=16; nodes=512", ["nodes=16"]), ("u0=9 s (512 nodes, 16 nodes)", ["512 nodes"]),
])  # fmt: skip
def test_an_input_given_twice_in_prose_is_told_unless_the_row_says_that_it_changes(text, overruled):
    assert overruled_words(load_setups().setups["ettr"], text) == overruled


@pytest.mark.parametrize(("cluster", "inputs", "overruled"), [
    ("512 nodes of 2048 nodes", "r_f=6.5; u0=9 s", ["512 nodes"]), ("512 nodes", "as other with u0=8 s", ["u0=6 s"]),
    ("512 nodes", "r_f=6.5; u0=9 s; on 600 nodes", ["512 nodes"]), ("512 nodes", "r_f=6.5; u0=9 s; 600 nodes", []),
    ("512 nodes", "as third and as fourth", ["as third"]), ("512 nodes", "as fifth", ["as third"]),
    ("512 nodes", "as third; of as many as 600 nodes", ["of as many as 600 nodes"]),
    ("512 nodes", "as third, u0=0.05/0.1", ["/0.1"]),
    ("512 nodes", "as third; k=3, k=4 nodes die: P>=1-N*C(2)", ["k=3", "k=4 nodes die:"]),
    ("512 nodes", "as row3 with r_f=6.5; u0=9 s", ["as row3"]),
    ("512 nodes", "as MTBF-3 with r_f=6.5; u0=9 s", ["as MTBF-3 with"]),
    ("512 nodes", "as above; as third", ["as above"]),
])  # fmt: skip
def test_two_values_and_unread_words_are_told_of_the_cluster_and_of_the_row_referred_to_too(cluster, inputs, overruled):
    row = dict.fromkeys(("system", "source"), "") | {
        "id": "mine", "group": "RSC", "metric": "ETTR", "value": "0.9", "unit": "ratio", "tolerance_hint": "3%",
        "cluster": cluster, "inputs": inputs,
    }  # fmt: skip
    others = {
        "other": "r_f=6.5; u0=6 s; now u0=9 s", "third": "r_f=6.5; u0=9 s", "fourth": "r_f=4; u0=9 s",
        "fifth": "as third with r_f=4; u0=9 s",
    }  # fmt: skip
    rows = {name: row | {"id": name, "inputs": told} for name, told in others.items()}
    assert list(outcome_of(row, {}, rows).unread) == overruled


@pytest.mark.parametrize(
    "bound", ["up to", "at least", "fewer than", "Above", "at most about", "as many as", "a maximum of", ">", "up to ~"]
)
def test_a_bound_is_no_value(bound):
    setup, text = load_setups().setups["ettr"], f"{bound} 200 nodes; r_f=6.5"
    assert read_inputs(setup, text) == {"r_f": [6.5]}
    assert unread_words(setup, text) == [f"{bound} 200 nodes"]


POOL = "4096+16 of working pool 4600, spare 200; r=0.02/server-day; auto/manual silent-fail 0.60/0.75; varied: "


@pytest.mark.parametrize(("varied", "expected"), [
    ("spare pool=100", {"spares": 100, "pool": 4600}), ("working pool size=4300", {"spares": 200, "pool": 4300}),
    ("bad-server fraction=9%", {"bad": 0.09}), ("job length=28 days", {"days": 2_419_200}),
    ("auto silent-fail=0.3", {"auto_fails": 0.3, "manual_fails": 0.75}), ("base failure rate=0.03", {"r": 0.03}),
])  # fmt: skip
def test_the_input_in_which_rows_differ_is_read(varied, expected):
    found = read_inputs(load_setups().setups["repair-pool"], POOL + varied)
    assert {name: found[name] for name in expected} == {name: [value] for name, value in expected.items()}


@pytest.mark.parametrize("varied", [
    "retirement threshold=3", "systematic failure rate multiplier=3", "failure rate per hour=3",
])  # fmt: skip
def test_a_row_that_differs_in_what_the_replay_does_not_have_is_not_replayed_without_it(varied):
    with pytest.raises(SpecError, match=f"'varied: {varied}': no input of this replay"):
        read_inputs(load_setups().setups["repair-pool"], POOL + varied)


def test_formulas_are_no_inputs_and_arguments_no_comments():
    text = "mu=Gamma(1/r)/r*N^(1-1/r); T=t+1/(2f); P>=1-N*C(N-m,k-m)/(m*C(N,k)), gaps U(0,30) s (of 5); q=3*2"
    assert unread_words(load_setups().setups["replica-groups"], text) == ["gaps U(0,30) s", "q=3*2"]


def closed_lazarus(num_nodes, num_lost, sizes):
    """Ways, of all to lose nodes, in which all of one of the disjoint groups are lost."""
    ways = sum(math.comb(num_nodes - size, num_lost - size) for size in sizes if size <= num_lost)
    return ways / math.comb(num_nodes, num_lost)


@pytest.mark.parametrize(("metric", "words", "expected"), [
    ("P(recover without checkpoint)", "least popular expert has r1=3 nodes; 4 of 6 nodes fail at random",
     1 - closed_lazarus(6, 4, [3])),
    ("P(not recoverable)", "two disjoint groups whose rarest experts have 2 and 6 nodes; 4 of 8 fail",
     closed_lazarus(8, 4, [2, 6])),
])  # fmt: skip
def test_experts_are_placed_as_the_row_says(metric, words, expected):
    asked = {"id": "new", "group": "LAZARUS-PLACE", "inputs": words, "metric": metric, "value": str(expected)}
    replayed = replay_outcome(outcome_of(asked | {"unit": "prob", "tolerance_hint": "exact"}, {}))
    assert replayed.within


def test_groups_that_fail_together_do_not_count_too_few():
    # Cyclic shards on 3 of 24 groups: 7.74 in the mean of 500 draws, counted without the engine, spread 2.4.
    asked = row(metric="mean failures masked before wipe-out", value="7.74", unit="", tolerance_hint="1.5")
    assert replay_outcome(outcome_of(asked | {"replay": "stacked-shards", "inputs": "N=24; r=3"}, {})).within


def test_times_of_steps_are_those_of_the_numbers_of_pipelines():
    setup = load_setups().setups["spot-market"]
    words = "512 samples/step, step 2.5/3/6 s at 3/2/1 pipelines; 10,000 steps; p=0.1"
    (found,) = variants(setup, read_inputs(setup, words))
    assert (found.times["step_s"], found.constants["steps"]) == ([6, 3, 2.5], 10_000)
    with pytest.raises(SpecError, match="expected times such as"):
        variants(setup, read_inputs(setup, words.replace("3/2/1", "4/2/1")))


def test_a_row_that_is_not_in_the_catalogue_takes_the_set_up_of_its_group_and_metric(tmp_path):
    columns = ["id", "group", "system", "cluster", "inputs", "metric", "value", "unit", "tolerance_hint"]
    rows = [
        # Of 8 nodes in pairs, losing 2 takes both of a pair in 4 of 28 ways.
        ["new-1", "GEMINI", "Gemini", "8 machines", "k=2 machines lost at once", "P(recover from CPU memory)",
         f"{24 / 28}", "prob", "0.001"],
        ["new-2", "SPARE-CF", "SPARe", "", "N=9,k=1", "stacks", "2", "stacks", "exact"],
        ["new-3", "SPARE-CF", "SPARe", "", "as new-2", "stacks", "2", "stacks", "exact"],
        ["new-4", "RSC", "", "", "nodes=9", "job MTTF", "2", "h", "3%"],
        ["new-5", "OTHER", "", "", "", "happiness", "2", "", "3%"],
        ["new-6", "CANTBELATE", "greedy", "", "C=48 h", "mean hours on-demand / spot", "1 / 2", "h", "1.5 h"],
    ]  # fmt: skip
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    found = verify([str(tmp_path / "rows.csv")]).outcomes
    assert [one.within for one in found] == [True, True, True, None, None, None]
    assert "do not give r_f, which time-to-failure needs" in found[3].skipped
    assert all("no set-up is known for the metric" in one.skipped for one in found[4:])


def test_a_trace_that_is_not_at_hand_is_asked_for():
    asked = row(metric="mean throughput / cost", replay="spot-trace", inputs="trace=none.csv")
    assert "trace none.csv is missing" in replay_outcome(outcome_of(asked, {})).skipped
    # The paths of a file begin at its folder.
    told = replay_outcome(outcome_of(asked, {}, folder=Path("rows"))).skipped
    assert told.endswith("the trace rows/none.csv is missing: put it there")


def test_published_rows_with_all_inputs_are_replayed(shared):
    path = shared / "measured" / "outcomes" / "outcomes.csv"
    rows = {outcome.id: outcome for outcome in read_outcomes(str(path))}
    with path.open(newline="") as file:
        complete = [one["id"] for one in csv.DictReader(file) if one["inputs_suffice"] == "yes"]
    missing = {name for name in complete if rows[name].setup is None}
    assert missing == {"CBL-02", "CBL-03"}  # traces without a licence


def test_inputs_read_from_published_prose_are_those_of_the_catalogue(shared):
    catalogue = {outcome.id: outcome for outcome in read_outcomes()}
    found = {}
    for outcome in read_outcomes(str(shared / "measured" / "outcomes" / "outcomes.csv")):
        known = catalogue[outcome.id].inputs
        found |= {(outcome.id, name): (outcome.inputs.get(name), known[name])
                  for name in known if outcome.inputs.get(name) != known[name]}  # fmt: skip
    # The rounded time of the text, and the one that its bytes and rate give.
    assert found == {("GEM-01", "save"): ([42 * 60], [42.4 * 60])}


def test_a_value_with_a_sign_and_that_of_a_limit_are_bounds():
    limit = row(metric="detection time limit", value="3.75", tolerance_hint="exact")
    assert outcome_of(limit, {}).tolerance == "<=3.75"
    assert outcome_of(row(value="<0.05", tolerance_hint="0.05"), {}).tolerance == "<0.05"
    assert outcome_of(row(value=">0.9", tolerance_hint=">=0.90"), {}).tolerance == ">=0.90"


def test_a_figure_that_no_run_has_is_told(tmp_path):
    columns = "id,group,metric,value,unit,tolerance_hint,inputs"
    (tmp_path / "rows.csv").write_text(f"{columns}\nnew,RSC,job MTTF at 1 GPU,9,h,4%,r_f=0.03; nodes=1\n")
    [found] = verify([str(tmp_path / "rows.csv")]).outcomes
    assert "a run with 0 failures" in found.skipped


def test_prose_that_cannot_be_replayed_leaves_the_other_rows(tmp_path):
    rows = 'new-1,SPARE-CF,stacks,2,stacks,exact,"N=4, k=9"\nnew-2,SPARE-CF,stacks,2,stacks,exact,"N=9, k=1"\n'
    (tmp_path / "rows.csv").write_text("id,group,metric,value,unit,tolerance_hint,inputs\n" + rows)
    first, second = verify([str(tmp_path / "rows.csv")]).outcomes
    assert "9 of 4 nodes cannot be lost" in first.skipped
    assert second.within


def test_a_replay_out_of_its_tolerance_says_why_where_that_is_known():
    catalogue = {"mine": row(notes="the sets overlap")}
    for value, why in (("11 / 20", "the sets overlap"), ("10 / 20", "")):
        asked = row(value=value)
        del asked["replay"]
        assert replay_outcome(outcome_of(asked, catalogue)).why == why


def test_every_row_of_the_catalogue_is_replayed_or_says_why_not():
    for outcome in read_outcomes():
        assert (outcome.setup is None) == bool(outcome.skipped)


@pytest.mark.parametrize(("predicted", "published", "tolerance", "expected"), [
    (103.0, 100.0, "3%", True), (103.1, 100.0, "3%", False), (0.94, 0.93, "0.01", True), (0.95, 0.93, "0.01", False),
    (80.4, 82.3, "2 points", True), (1.0, 1.0, "exact", True), (1.0001, 1.0, "exact", False),
    (0.05, 0.1, "<=0.1", True), (0.2, 0.1, "<=0.1", False), (94.0, 100.0, "max(2%, 2 sd); sd=3 over 8 reps", True),
    (93.9, 100.0, "max(2%, 2 sd); sd=3", False), (98.0, 100.0, "max(2%, 2 sd); sd=0.1", True),
])  # fmt: skip
def test_tolerances_are_shares_differences_or_bounds(predicted, published, tolerance, expected):
    assert is_within(predicted, published, tolerance) is expected


def test_of_several_figures_the_one_furthest_off_counts():
    replayed = replay_outcome(outcome_of(row(value="10 / 21", tolerance_hint="3%"), {}))
    assert (replayed.predicted, replayed.measured, replayed.within) == (20, 21, False)


@pytest.mark.parametrize(("changes", "message"), [
    ({"replay": "nosuch"}, "mine: unknown `replay` 'nosuch'.*known: time-to-failure"),
    ({"inputs": "detect=10,20; foo=3"}, "`inputs`: unknown input of detection 'foo': known: detect"),
    ({"unit": "GPUs"}, "`unit` 'GPUs': the figure is in s"),
    ({"inputs": "detect=no"}, "`inputs` detect = 'no': expected a number"),
    ({"metric": "happiness"}, "`metric` 'happiness': detection gives 'detection time'"),
    ({"replay": "copies-in-memory", "metric": "P(recover from CPU memory)", "inputs": "nodes=1,2; k=1,2"},
     "nodes and k: only one of them can have several values"),
    ({"replay": "ettr", "metric": "ETTR", "inputs": "r_f=0; nodes=1; u0=1"},
     "`inputs` r_f = 0: expected a number above 0"),
    ({"replay": "copies-in-memory", "metric": "P(recover from CPU memory)", "inputs": "nodes=99; k=50"},
     "mine: 50 of 99 nodes: give numbers with at most 10,000 ways"),
    ({"replay": "replica-groups", "metric": "committed steps", "inputs": "groups=30; step=9; period=0.01; hours=99"},
     "mine: outcome: more than"),
    ({"replay": "copies-in-memory", "metric": "P(recover from CPU memory)", "inputs": "nodes=9; k=1.5"},
     "mine: `inputs`: .*a whole number"),
])  # fmt: skip
def test_what_cannot_be_simulated_is_refused(changes, message):
    changes = {**changes, "metric": {"committed steps": "committed steps / attempted steps"}.get(
        changes.get("metric"), changes.get("metric", "detection time"))}  # fmt: skip
    with pytest.raises(LazsimError, match=message):
        replay_outcome(outcome_of(row(**changes), {}))


@pytest.mark.parametrize(("inputs", "message"), [
    ("detect=10,20 and some more", "'20 and some more' is not read; expected name=number"),
    ("detect=10,20; no standbys", "'no standbys' is not read"),
    ("about detect=10,20", "'about' is not read"),
    ("detect=10; detect=20", "`inputs` give detect twice"),
    ("detect=10 weeks", "`inputs` detect = '10 weeks': expected a time in d, day"),
    ("detect=60m", "`inputs` detect = '60m': expected a number"),
    ("detect=10%", "`inputs` detect = '10%': expected a time"),
    ("detect=10/week", "`inputs` detect = '10/week': /week is not read"),
])  # fmt: skip
def test_inputs_of_which_some_words_are_not_read_are_refused_with_file_and_line(refused, tmp_path, inputs, message):
    table = tmp_path / "rows.csv"
    table.write_text(HEAD + f'mine,detection time,10 / 20,s,3%,detection,"{inputs}"\n')
    told = refused("verify", "--rows", table)
    assert told.startswith(f"{table}, line 2: mine: ")
    assert message.replace("`", "") in told


@pytest.mark.parametrize("inputs", ["detect=10 s, 20 s", "detect=10,20 (measured; twice)", "detect = 10,20 ;"])
def test_units_and_comments_in_brackets_are_read(inputs):
    assert replay_outcome(outcome_of(row(inputs=inputs), {})).within


@pytest.mark.parametrize(("inputs", "rate"), [("r=0.02/server-day", 0.02), ("r=0.01 failures/server-day, more", 0.01)])
def test_a_rate_of_the_inputs_own_unit_is_read_and_another_is_not(inputs, rate):
    setup = load_setups().setups["repair-pool"]
    assert read_inputs(setup, inputs)["r"] == [rate]
    with pytest.raises(SpecError, match="/server-week is not read; expected a number/server-day"):
        read_inputs(setup, inputs.replace("-day", "-week"))


def test_numbers_that_are_no_times_have_no_unit_of_time():
    with pytest.raises(SpecError, match="`inputs` nodes = '5 min': expected a number that is no time"):
        read_inputs(load_setups().setups["ettr"], "nodes=5 min")


def test_a_number_in_prose_that_no_replay_reads_is_noted(tmp_path):
    (tmp_path / "rows.csv").write_text(
        HEAD.replace("replay", "group") + 'new,stacks,2,,exact,SPARE-CF,"N=9, k=1, q=3"\n'
    )
    result = verify([str(tmp_path / "rows.csv")])
    assert result.outcomes[0].within
    assert "of `inputs`, not read: q=3 (new)" in result.notes
    # It may matter: the row is counted apart, and says so itself.
    assert result.summary()["outcomes"] == {"num_rows": 0, "num_within": 0, "num_echoes": 0, "num_apart": 1}
    [told] = result.to_json()["rows"]
    assert (told["inputs"], told["remarks"]) == ("counted apart", ["of `inputs`, not read: q=3"])


def test_bamboo_s_job_is_that_of_the_row():
    words = "8 stages; desired 32 nodes; node creation 50 s; global rendezvous 1 min, local 25 s; p=0.1"
    setup = load_setups().setups["spot-market"]
    (found,) = variants(setup, read_inputs(setup, words))
    assert (found.times["num_stages"], found.settings["model.num_layers"], found.trace.num_nodes) == (8, 8, 32)
    recovery = [found.settings[f"cluster.recovery.{name}"] for name in ("restart_base_s", "rebuild_s")]
    assert (recovery, found.settings["job.join_wait_s"]) == ([60, 25], 50)


@pytest.mark.parametrize(("changes", "message"), [
    ({"value": "no"}, "is no number"),
    ({"value": "-1"}, "value '-1' is no number from 0 up"),
    ({"value": "93%"}, "value '93%' is in %, and `unit` is 's'"),
    ({"value": "10 min / 20"}, "value '10 min / 20' is no number"),
    ({"value": "10-20"}, "value '10-20' is no number"),
    ({"tolerance_hint": "2 points"}, "tolerance '2 points', and `unit` is 's'; give both in one unit"),
    ({"tolerance_hint": "1 h"}, "tolerance '1 h', and `unit` is 's'"),
    ({"tolerance_hint": "qualitative"}, "is none of 3%"),
    ({"replay": "", "metric": "happiness"}, "no set-up"),
])  # fmt: skip
def test_a_row_that_cannot_be_judged_is_skipped_with_the_reason(changes, message):
    outcome = outcome_of(row(**changes), {})
    assert outcome.setup is None
    assert message in outcome.skipped


def test_a_file_of_outcomes_takes_the_set_ups_of_the_catalogue(tmp_path):
    (tmp_path / "mine.csv").write_text(HEAD + "SP-06,stacks,3,,exact,,\nBYD-01,detection time,30 / 600,s,exact,,\n")
    result = verify([str(tmp_path / "mine.csv")])
    assert [replayed.within for replayed in result.outcomes] == [False, True]
    # The time of detection is an input: it comes back, and is no prediction.
    assert result.summary()["outcomes"] == {
        "num_rows": 1, "num_within": 0, "num_echoes": 1, "num_apart": 0,
    }  # fmt: skip


@pytest.mark.parametrize(("cells", "message"), [
    ("expected ETTR,x,ratio,0.01", "value 'x' is no number"), ("expected ETTR,,ratio,0.01", "value '' is no number"),
    ("happiness,0.93,ratio,0.01", "`metric` 'happiness': ettr gives"),
    ("expected ETTR,0.93,GPUs,0.01", "`unit` 'GPUs': the figure is in ratio"),
])  # fmt: skip
def test_a_row_named_as_one_of_the_catalogue_is_judged_by_what_it_says_itself(tmp_path, cells, message):
    (tmp_path / "mine.csv").write_text(f"{HEAD}RSC-05,{cells},,\n")
    (found,) = verify([str(tmp_path / "mine.csv")]).outcomes
    assert found.within is None
    assert message in found.skipped


def test_verify_exits_by_the_tolerances_of_outcomes(lazsim, tmp_path):
    (tmp_path / "bad.csv").write_text(HEAD + "SP-06,stacks,3,stacks,exact,,\n")
    assert lazsim("verify", "--only", "SP-06", "--tolerance", "0.1")[0] == 0
    assert lazsim("verify", "--rows", str(tmp_path / "bad.csv"))[0] == 0
    status, out, _ = lazsim("verify", "--rows", str(tmp_path / "bad.csv"), "--tolerance", "0.1", "--json")
    assert status == 1
    assert json.loads(out)["rows"][0]["within"] is False
    assert lazsim("verify", "--only", "SP-06", "--out", str(tmp_path / "out"))[0] == 0
    assert "stacks" in (tmp_path / "out" / "verify.csv").read_text()
