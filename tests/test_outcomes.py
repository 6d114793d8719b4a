"""Published outcomes under failures, replayed by the engine."""

import dataclasses
import json
import math

import numpy as np
import pytest

from lazsim.errors import LazsimError, SpecError
from lazsim.study.outcomes import is_within, outcome_of, read_outcomes, replay_outcome
from lazsim.study.repair_shop import RepairShop, run_shop
from lazsim.study.replays import REPLAYS
from lazsim.study.verify import verify

QUICK = ("OOB-12", "SP-03", "SP-06", "LAZ-01", "LAZ-02", "LAZ-03", "GEM-02", "RST-01", "BYD-01")

HEAD = "id,metric,value,unit,tolerance_hint,replay,inputs\n"


def row(**changes):
    plain = {"id": "mine", "metric": "ETTR", "value": "0.9", "unit": "share", "tolerance_hint": "0.02"}
    return plain | {"replay": "detection", "inputs": "detect_s=10; without_s=20"} | changes


@pytest.mark.parametrize("name", QUICK)
def test_a_published_outcome_comes_out_within_its_tolerance(name):
    outcome = next(outcome for outcome in read_outcomes() if outcome.id == name)
    assert replay_outcome(outcome).within is True


def test_productive_time_follows_the_renewal_model():
    # 100 nodes, one failure of each in 10 days: one of the job in 8640 s. A restart takes 600 s, and 1200 s of work lie
    # between saves that take none: Daly 2006, M exp(R / M) (exp(tau / M) - 1) of wall time for each tau of work.
    between_s, restart_s, interval_s = 8640.0, 600.0, 1200.0
    wall_s = between_s * math.exp(restart_s / between_s) * math.expm1(interval_s / between_s)
    found = REPLAYS["ettr"](nodes=100, rate=100, days=60, step_s=12.0, interval_s=interval_s, restart_s=restart_s)[0]
    assert found == pytest.approx(interval_s / wall_s, abs=0.01)


def test_a_repair_shop_mends_bad_servers_until_only_chance_is_left():
    shop = RepairShop(
        servers=100, pool=120, spares=10, rate=0.5, bad=0.2, multiple=4, recovery=10, auto=60, manual=600,
        auto_fails=0.3, manual_fails=0.1, days=60,
    )  # fmt: skip
    runs = [run_shop(shop, seed) for seed in range(20)]
    mean = {name: np.mean([run.counts[name] for run in runs]) for name in runs[0].counts}
    failures = np.mean([len(run.times_s) for run in runs])
    # All 24 bad servers are met. A repair fails in 0.2 * 0.3 + 0.8 * 0.1 of all cases, so that a bad server fails
    # 1 / 0.86 times, four times in five for what is bad about it; the others fail 100 * 0.5 * 60 times.
    assert mean["systematic"] == pytest.approx(24 / 0.86 * 0.8, rel=0.1)
    assert failures == pytest.approx(3000 + mean["systematic"], rel=0.02)
    assert mean["escalated"] == pytest.approx(0.8 * failures, rel=0.02)
    assert mean["failed"] == pytest.approx(0.14 * failures, rel=0.05)
    # The job is stopped for ten minutes by each.
    for run in runs:
        stopped_s = 600 * len(run.times_s) + sum(run.waits_s)
        assert run.end_s == pytest.approx(60 * 86400 + stopped_s)
    with pytest.raises(SpecError, match="`pool` 90: give as many"):
        run_shop(dataclasses.replace(shop, pool=90), 0)


def test_the_engine_takes_as_long_as_the_repair_shop_says(monkeypatch):
    monkeypatch.setattr("lazsim.study.replays.SHOP_DRAWS", 1)
    inputs = {"servers": 100, "pool": 120, "rate": 0.1, "bad": 0.2, "multiple": 4, "recovery": 10, "auto_fails": 0.3}
    inputs |= {"manual_fails": 0.1, "days": 20}
    drawn = run_shop(RepairShop(**inputs), 0)
    assert REPLAYS["shop_hours"](**inputs)[0] == pytest.approx(drawn.end_s / 3600, rel=0.005)
    assert REPLAYS["shop_failures"](**inputs) == [len(drawn.times_s)]


def test_a_replay_out_of_its_tolerance_says_why_where_that_is_known():
    catalogue = {"mine": row(notes="the sets overlap")}
    for value, why in (("11 / 20", "the sets overlap"), ("10 / 20", "")):
        assert replay_outcome(outcome_of(row(value=value, tolerance_hint="3%", replay=""), catalogue)).why == why


def test_every_row_of_the_catalogue_is_replayed_or_says_why_not():
    for outcome in read_outcomes():
        assert (outcome.replay is None) == bool(outcome.skipped)


@pytest.mark.parametrize(("predicted", "published", "tolerance", "expected"), [
    (103.0, 100.0, "3%", True), (103.1, 100.0, "3%", False), (0.94, 0.93, "0.01", True), (0.95, 0.93, "0.01", False),
    (80.4, 82.3, "2 points", True), (1.0, 1.0, "exact", True), (1.0001, 1.0, "exact", False),
    (0.05, 0.1, "<=0.1", True), (0.2, 0.1, "<=0.1", False),
])  # fmt: skip
def test_tolerances_are_shares_differences_or_bounds(predicted, published, tolerance, expected):
    assert is_within(predicted, published, tolerance) is expected


def test_of_several_figures_the_one_furthest_off_counts():
    replayed = replay_outcome(outcome_of(row(value="10 / 21", tolerance_hint="3%"), {}))
    assert (replayed.predicted, replayed.measured, replayed.within) == (20, 21, False)


@pytest.mark.parametrize(("changes", "message"), [
    ({"replay": "nosuch"}, "mine: unknown `replay` 'nosuch'; known: time_to_failure"),
    ({"inputs": "detect_s"}, "`inputs` 'detect_s': expected a name, = and a number"),
    ({"inputs": "detect_s=0; without_s=1"}, "a number above 0"),
    ({"inputs": "detect_s=1"}, "missing a required argument: 'without_s'"),
    ({"inputs": "detect_s=1; without_s=2; more=3"}, "unexpected keyword argument 'more'"),
])  # fmt: skip
def test_a_set_up_that_there_is_not_is_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        outcome_of(row(**changes), {})


@pytest.mark.parametrize(("replay", "inputs", "message"), [
    ("ettr", "nodes=9; rate=4; days=6; interval_s=60; restart_s=1", "mine: `restart_s` 1: give 2 or more"),
    ("copies_survival", "nodes=99; lost=50", "mine: `lost` 50 of 99 nodes: give numbers with at most 10,000 ways"),
    ("commit_share", "groups=30; step_s=9; period_s=0.01; absent_s=9; hours=99", "mine: generated: more than"),
])  # fmt: skip
def test_inputs_that_cannot_be_simulated_are_refused(replay, inputs, message):
    with pytest.raises(LazsimError, match=message):
        replay_outcome(outcome_of(row(replay=replay, inputs=inputs), {}))


@pytest.mark.parametrize(("changes", "message"), [
    ({"value": "no"}, "is no number"),
    ({"tolerance_hint": "qualitative"}, "is none of 3%"),
    ({"replay": ""}, "no set-up"),
])  # fmt: skip
def test_a_row_that_cannot_be_judged_is_skipped_with_the_reason(changes, message):
    outcome = outcome_of(row(**changes), {})
    assert outcome.replay is None
    assert message in outcome.skipped


def test_a_file_of_outcomes_takes_the_set_ups_of_the_catalogue(tmp_path):
    (tmp_path / "mine.csv").write_text(HEAD + "SP-06,stacks,3,stacks,exact,,\nBYD-01,time,30 / 600,s,exact,,\n")
    result = verify([str(tmp_path / "mine.csv")])
    assert [replayed.within for replayed in result.outcomes] == [False, True]
    # The time of detection is an input: it comes back, and is no prediction.
    assert result.summary()["outcomes"] == {"num_rows": 1, "num_within": 0, "num_echoes": 1}


def test_verify_exits_by_the_tolerances_of_outcomes(lazsim, tmp_path):
    (tmp_path / "bad.csv").write_text(HEAD + "SP-06,stacks,3,stacks,exact,,\n")
    assert lazsim("verify", "--only", "SP-06", "--tolerance", "0.1")[0] == 0
    assert lazsim("verify", "--rows", str(tmp_path / "bad.csv"))[0] == 0
    status, out, _ = lazsim("verify", "--rows", str(tmp_path / "bad.csv"), "--tolerance", "0.1", "--json")
    assert status == 1
    assert json.loads(out)["rows"][0]["within"] is False
    assert lazsim("verify", "--only", "SP-06", "--out", str(tmp_path / "out"))[0] == 0
    assert "stacks" in (tmp_path / "out" / "verify.csv").read_text()
