"""Prometheus: the answer of ``query_range`` on ``up`` or ``kube_node_status_condition``."""

import fnmatch
import re
from collections.abc import Callable, Iterator
from typing import Any

from lazsim.errors import TraceFormatError
from lazsim.trace.clock import EPOCHS_S
from lazsim.trace.events import RULE, Sample, events_from_counts
from lazsim.trace.source import Reader, Reading, Source, count, matching_json, number
from lazsim.trace.states import StateLog, json_records

LOOKS = 'query_range: {"data": {"resultType": "matrix", "result": [{"metric": {...}, "values": [[s, "1"], ...]}, ...]}}'
QUERIES = 'up{job="..."} or kube_node_status_condition{condition="Ready",status="true"}'
METRICS = ("", "up", "probe_success", "kube_node_status_condition")
NODE_LABELS = ("node", "nodename", "hostname", "host", "kubernetes_node", "instance")


def read(source: Source) -> Reading:
    """Read the series: a node is there while all its series are 1, and gone where one is 0, NaN or has no sample."""
    chosen = [series for series in _series(source) if _is_chosen(series["metric"], source)]
    if not chosen:
        raise _refusal(source, "no series of a node in it")
    if len(chosen) == 1 and not _node(chosen[0]["metric"]):
        return _read_counts(source, chosen[0])
    jobs = sorted({str(one["metric"].get("job", "")) for one in chosen if one["metric"].get("__name__") == "up"})
    if len(jobs) > 1:
        what = f"targets of the jobs {', '.join(jobs)[:80]}, one of which may fail without its node"
        raise TraceFormatError(f"{source.name}: {what}; choose one with `where` 'job={jobs[0]}'")
    log = StateLog(source)
    found: dict[str, list[dict[float, bool]]] = {}
    for series in chosen:
        there = 0.0 if series["metric"].get("status") in ("false", "unknown") else 1.0
        samples = {time: value == there for time, value in _samples(source, series, number)}
        found.setdefault(_node(series["metric"]), []).append(samples)
    log.say_sampled(found)
    return log.reading("a node changed some time before the sample that shows it, and is gone where it has no sample")


def _series(source: Source) -> list[dict[str, Any]]:
    """Return the series of a range of a metric that tells of nodes."""
    found: list[Any] = []
    for _, record in json_records(source):
        data = record.get("data", record)
        if "error" in record:
            raise _refusal(source, f"an error of Prometheus ({str(record['error'])[:80]})")
        if not isinstance(data, dict) or data.get("resultType", "matrix") != "matrix":
            raise _refusal(source, "an answer of Prometheus for one instant")
        found += data["result"] if isinstance(data.get("result"), list) else [data]
    for series in found:
        if not isinstance(series, dict) or not isinstance(series.get("metric"), dict) or "values" not in series:
            raise _refusal(source, f"a series without a metric or values, which are expected as {LOOKS}")
        name = str(series["metric"].get("__name__", ""))
        if name not in METRICS:
            raise _refusal(source, f"Prometheus's {name[:40]}, which does not say whether a node is there")
    return found


def _refusal(source: Source, what: str) -> TraceFormatError:
    return TraceFormatError(f"{source.name}: {what}; ask /api/v1/query_range for {QUERIES}")


def _is_chosen(labels: dict[str, Any], source: Source) -> bool:
    """Return whether a series is not of another condition than readiness, and has the labels that the user asks for."""
    wanted = [*source.asked.where, *(["condition=Ready"] if "condition" in labels else [])]
    pairs = (text.partition("=") for text in wanted)
    return all(fnmatch.fnmatchcase(str(labels.get(name, "")), pattern) for name, _, pattern in pairs)


def _node(labels: dict[str, Any]) -> str:
    return re.sub(r":\d+$", "", next((str(labels[label]) for label in NODE_LABELS if labels.get(label)), ""))


def _samples(source: Source, series: dict[str, Any], read_value: Callable[[Any], Any]) -> Iterator[tuple[float, Any]]:
    for pair in series["values"] if isinstance(series["values"], list) else ():
        try:
            time, value = number(pair[0]), read_value(pair[1])
            if not 0 <= time <= EPOCHS_S[1]:
                raise ValueError(f"{time:g} is no time")
            yield time, value
        except (TypeError, KeyError, IndexError, ValueError) as error:
            source.fault(f"series {str(series['metric'])[:60]}", f'expected [seconds, "value"]: {str(error)[:60]}')


def _read_counts(source: Source, series: dict[str, Any]) -> Reading:
    """Read one series that names no node, such as of ``sum(up)``, as live counts."""
    samples = [Sample(time, value) for time, value in sorted(_samples(source, series, count))]
    samples = [sample._replace(time_s=sample.time_s - samples[0].time_s) for sample in samples]
    events = events_from_counts(samples, source.rng, source.name)
    return Reading(events, samples[-1].time_s if samples else None, (RULE, "one series, which names no node"))


READER = Reader(LOOKS, matching_json(r'"resultType"|"metric"\s*:\s*\{'), read, ("where", "cluster_nodes"))
