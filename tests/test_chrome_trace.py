"""trace.json against the rules of Google's Trace Event Format, and against the run that it shows."""

import itertools
import json

import pytest

import lazsim
from lazsim.engine import log
from lazsim.output import chrome_trace
from lazsim.output.chrome_trace import chrome_trace as trace_of
from tests.conftest import P3_LIKE


@pytest.fixture(scope="module")
def result():
    return lazsim.simulate(P3_LIKE, max_nodes=10, duration="80min", systems=["lazarus", "ds"])


def entries_of(result, kind=None):
    entries = json.loads(trace_of(result))["traceEvents"]
    return [entry for entry in entries if kind in (None, entry["ph"])]


PIDS = (10_000, 20_000)

REQUIRED = {"X": {"dur"}, "i": {"s"}, "C": {"args"}, "M": {"args"}}
"""Fields that each phase of the format needs beside ph, pid, tid, ts and name."""


def test_every_entry_has_the_fields_of_its_kind(result):
    for entry in entries_of(result):
        assert {"ph", "pid", "tid", "ts", "name"} | REQUIRED[entry["ph"]] <= set(entry)
        assert all(isinstance(entry[field], int) and entry[field] >= 0 for field in ("pid", "tid", "ts"))
        assert entry.get("dur", 0) >= 0
        assert entry.get("s", "t") in "gpt"
        if entry["ph"] == "C":
            assert all(isinstance(value, int | float) for value in entry["args"].values())


def test_slices_of_a_track_follow_each_other_without_overlap(result):
    # Viewers drop a slice that begins inside another and ends after it.
    slices = sorted(entries_of(result, "X"), key=lambda entry: (entry["pid"], entry["tid"], entry["ts"]))
    for before, after in itertools.pairwise(slices):
        if (before["pid"], before["tid"]) == (after["pid"], after["tid"]):
            assert before["ts"] + before["dur"] <= after["ts"]


def test_every_system_is_a_process_whose_tracks_are_the_job_and_the_nodes(result):
    names = {(one["pid"], one["tid"]): one["args"]["name"] for one in entries_of(result, "M") if "name" in one["args"]}
    assert {one["args"]["name"] for one in entries_of(result, "M") if one["name"] == "process_name"} == {
        "lazarus",
        "ds",
    }
    assert [names[pid, pid] for pid in PIDS] == ["job", "job"]
    assert {names[pid, track] for pid, track in names} == {"job", *(one.node for one in result.runs[0].node_spans)}
    assert {(entry["pid"], entry["tid"]) for entry in entries_of(result, "X")} <= set(names)


def test_phases_add_up_to_the_ledger_and_failures_to_its_count(result):
    for pid, run in zip(PIDS, result.runs, strict=True):
        spent = dict.fromkeys(run.ledger_s, 0.0)
        for one in entries_of(result, "X"):
            if (one["pid"], one["tid"]) == (pid, pid):
                spent[one["name"]] += one["dur"] / 1e6
        # Work is told to be lost only afterwards: until then it counted as computing.
        spent["lost_work"], spent["compute"] = run.ledger_s["lost_work"], spent["compute"] - run.ledger_s["lost_work"]
        assert spent == pytest.approx(dict(run.ledger_s), abs=0.01)
        instants = [one for one in entries_of(result, "i") if (one["pid"], one["tid"]) == (pid, pid)]
        assert sum(one["name"] == "failure" for one in instants) == run.counts["failures"]


def test_a_node_is_alive_on_its_track_exactly_while_it_is_in_the_trace(result):
    # Read from the file: node9 of the bundled trace goes at 480 s.
    alive = [one for one in result.runs[0].node_spans if one.node == "node9"]
    assert (alive[0].start_s, alive[-1].end_s) == (0.0, 480.0)
    nodes = [one for one in entries_of(result, "C") if one["name"] == "nodes" and one["pid"] == PIDS[0]]
    for entry in nodes:
        at_s = entry["ts"] / 1e6
        spans = [one for one in result.runs[0].node_spans if one.start_s <= at_s < one.end_s]
        assert len(spans) == entry["args"]["alive"] or at_s == result.runs[0].wall_s


def test_large_runs_keep_the_longest_slices(result, monkeypatch):
    monkeypatch.setattr(chrome_trace, "MOST_ENTRIES", 40)
    kept = entries_of(result, "X")
    assert len(kept) == 2 * 20
    assert len(entries_of(result)) < 8 * 40 + 4 * len({one["tid"] for one in entries_of(result, "M")})
    shortest = min(one["dur"] for one in kept if one["pid"] == PIDS[0])
    spans = (*result.runs[0].phases, *result.runs[0].node_spans)
    assert sum((one.end_s - one.start_s) * 1e6 > shortest + 1 for one in spans) < 20


def test_a_run_with_endless_changes_keeps_a_bounded_number_of_spans(monkeypatch):
    monkeypatch.setattr(log, "MOST_SPANS", 10)
    spans = log.Spans()
    for second in range(1000):
        spans.change(float(second), f"state {second % 2}")
    assert len(spans.until(5000.0)) == 10
    # The last one is the longest.
    assert spans.until(5000.0)[-1] == log.TimeSpan(999.0, 5000.0, "state 1")
