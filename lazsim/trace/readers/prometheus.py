"""Prometheus: the answer of ``query_range`` on ``up`` or ``kube_node_status_condition``."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

from lazsim.errors import LONGEST_CAUSE, shorten
from lazsim.trace.reading.events import RULE, Sample, events_from_counts
from lazsim.trace.reading.states import IS_THERE, NOT_READY, StateLog, choose_series, find_node, json_records, refusal
from lazsim.trace.reading.times import EPOCHS_S
from lazsim.trace.reading.words import sampled_value
from lazsim.trace.source import TraceReader, TraceReading, TraceSource, count, matching_json, number

LOOKS = 'query_range: {"data": {"resultType": "matrix", "result": [{"metric": {...}, "values": [[s, "1"], ...]}, ...]}}'


def read(source: TraceSource) -> TraceReading:
    """Read the series: a node is there while all its series are 1, and gone where one is 0, NaN or has no sample."""
    series = [(one["metric"], one) for one in _series(source)]
    chosen = choose_series(series, itertools.chain(*source.asked.conditions()), source)
    if len(chosen) == 1 and not find_node(chosen[0][0]):
        if chosen[0][0].get("status") in NOT_READY:
            raise refusal(source, f"a count of nodes that are not ready ({shorten(dict(chosen[0][0]))})")
        return _read_counts(source, chosen[0][1])
    log = StateLog(source)
    log.say_series((labels, _samples(source, one, lambda value: sampled_value(str(value)))) for labels, one in chosen)
    return log.reading(IS_THERE)


def _series(source: TraceSource) -> list[dict[str, Any]]:
    """Return the series of a range of a metric that tells of nodes."""
    found: list[Any] = []
    for _, record in json_records(source):
        data = record.get("data", record)
        if "error" in record:
            raise refusal(source, f"an error of Prometheus ({shorten(record['error'], LONGEST_CAUSE)})")
        if not isinstance(data, dict) or data.get("resultType", "matrix") != "matrix":
            raise refusal(source, "an answer of Prometheus for one instant")
        found += data["result"] if isinstance(data.get("result"), list) else [data]
    series: dict[str, dict[str, Any]] = {}
    for one in found:
        if not isinstance(one, dict) or not isinstance(one.get("metric"), dict) or "values" not in one:
            raise refusal(source, f"a series without a metric or values, which are expected as {LOOKS}")
        # Long ranges are asked for in parts, each of which has a part of the same series.
        same = series.setdefault(json.dumps(one["metric"], sort_keys=True), {**one, "values": []})
        values, stamps = ([] if not isinstance(each, list) else each for each in (one["values"], one.get("timestamps")))
        # VictoriaMetrics exports milliseconds, in a list of their own.
        same["values"] += (
            [(f"{stamp}e-3", value) for stamp, value in itertools.zip_longest(stamps, values)] if stamps else values
        )
    return list(series.values())


def _samples(
    source: TraceSource, series: dict[str, Any], read_value: Callable[[Any], Any]
) -> Iterator[tuple[str, float, Any]]:
    """Yield the place of each sample for faults, its time and its value."""
    where = f"series {shorten(series['metric'])}"
    for pair in series["values"]:
        try:
            time, value = number(pair[0]), read_value(pair[1])
            if not 0 <= time <= EPOCHS_S[1]:
                raise ValueError(f"{time:g} is no time")
            yield where, time, value
        except (TypeError, KeyError, IndexError, ValueError) as error:
            source.fault(where, f'expected [seconds, "value"]: {shorten(error)}')


def _read_counts(source: TraceSource, series: dict[str, Any]) -> TraceReading:
    """Read one series that names no node, such as of ``sum(up)``, as live counts."""
    counts: dict[float, int] = {}
    for where, time, value in _samples(source, series, count):
        if counts.setdefault(time, value) != value:
            source.fault(where, f"another count at the time {time:.15g}", "take the first sample of a time")
    samples = [Sample(time, value) for time, value in sorted(counts.items())]
    samples = [sample._replace(time_s=sample.time_s - samples[0].time_s) for sample in samples]
    events = events_from_counts(samples, source.rng, source.name)
    notes = (RULE, "one series, which names no node")
    return TraceReading(events, samples[-1].time_s if samples else None, notes, names="none")


READER = TraceReader(LOOKS, matching_json(r'"resultType"|"metric"\s*:\s*\{'), read, ("where", "cluster_nodes"))
