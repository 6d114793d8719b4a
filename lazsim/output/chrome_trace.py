"""A run as a trace that Perfetto and Chrome show: Google's Trace Event Format, in JSON.

Each system is a process. Its first track has what the job does and what happens to it; each node has a track of its
own. Times of the format are microseconds.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec

from lazsim.engine.log import State, TimeSpan, longest
from lazsim.engine.simulate import SystemRun
from lazsim.output.windows import windows
from lazsim.study.result import RunResult, failure_row

MOST_ENTRIES = 60_000
"""Slices of all systems together, and likewise instants, changes of nodes and changes of rates: 40 MB of text."""

MOST_TRACKS = 1000
"""Nodes with a track: those alive longest."""

PROCESS = 10_000
"""Number of the first system. Viewers take a track with the number of its process, or 0, for the main one."""

ROUTINE = ("nodes", "rebalanced")
"""Events that are left out first."""

Entry = dict[str, Any]


def chrome_trace(result: RunResult) -> bytes:
    """Return the trace of all systems of a run; of too many slices the longest, of too many changes every n-th."""
    most = MOST_ENTRIES // len(result.runs)
    entries = [entry for pid, run in enumerate(result.runs, start=1) for entry in _process(pid * PROCESS, run, most)]
    about = {"id": result.id, "trace": result.trace["name"], "version": result.inputs["version"]}
    return msgspec.json.encode({"displayTimeUnit": "ms", "otherData": about, "traceEvents": entries}) + b"\n"


def _process(pid: int, run: SystemRun, most: int) -> Iterator[Entry]:
    """Yield what one system does."""
    tracks = _tracks(pid, run.node_spans)
    yield _entry("M", pid, pid, 0.0, "process_name", args={"name": run.name})
    for name, track in tracks.items():
        yield _entry("M", pid, track, 0.0, "thread_name", args={"name": name or "job"})
        yield _entry("M", pid, track, 0.0, "thread_sort_index", args={"sort_index": track})
    for span in longest([*run.phases, *(span for span in run.node_spans if span.node in tracks)], most):
        dur = _us(span.end_s) - _us(span.start_s)
        yield _entry("X", pid, tracks[span.node], span.start_s, span.what, dur=dur)
    for failure in run.failures[:most]:
        yield _entry("i", pid, pid, failure.time_s, "failure", s="t", args=failure_row(failure))
        for node in failure.nodes:
            if node in tracks:
                yield _entry("i", pid, tracks[node], failure.time_s, "failure", s="t")
    events = sorted((one for one in run.events if one.event != "failure"), key=lambda one: one.event in ROUTINE)
    for event in events[:most]:
        yield _entry("i", pid, pid, event.time_s, event.event, s="t", args=event._asdict())
    changes = [next(same) for _, same in groupby(run.states, key=lambda state: state[1:3])]
    for state in changes[:: -(-len(changes) // most)]:
        yield _entry("C", pid, pid, state.time_s, "nodes", args={"alive": state.num_alive, "in use": state.num_used})
    for time_s, kept, lost in _rates(run.states, run.wall_s, most):
        yield _entry("C", pid, pid, time_s, "samples/s", args={"kept": kept, "lost again": lost})


def _entry(kind: str, pid: int, tid: int, time_s: float, name: str, **others: Any) -> Entry:
    return {"ph": kind, "pid": pid, "tid": tid, "ts": _us(time_s), "name": name, **others}


def _us(time_s: float) -> int:
    """Return whole microseconds: rounded lengths would make slices overlap, which are then dropped."""
    return round(time_s * 1e6)


def _tracks(pid: int, spans: Sequence[TimeSpan]) -> dict[str, int]:
    """Give the job and the nodes their tracks, by name."""
    alive_s: dict[str, float] = {}
    for span in spans:
        alive_s[span.node] = alive_s.get(span.node, 0.0) + span.end_s - span.start_s
    shown = set(sorted(alive_s, key=lambda node: -alive_s[node])[:MOST_TRACKS])
    return {node: track for track, node in enumerate(["", *(node for node in alive_s if node in shown)], start=pid)}


def _rates(states: Sequence[State], wall_s: float, most: int) -> Iterator[tuple[float, float, float]]:
    """Yield times and the rates of kept and lost samples from then on; means over windows where there are too many."""
    if len(states) <= most:
        yield from ((state.time_s, state.samples_per_s, state.lost_samples_per_s) for state in states)
        return
    bounds_s, kept, lost = windows(states, wall_s)
    yield from zip(bounds_s.tolist(), kept.tolist(), lost.tolist(), strict=False)
