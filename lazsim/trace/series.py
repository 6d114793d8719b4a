"""Samples of nodes at common times, each a series with labels, as Prometheus and Grafana have them."""

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from lazsim.errors import TraceFormatError

QUERIES = 'up{job="..."} or kube_node_status_condition{condition="Ready",status="true"}'
METRICS = ("", "up", "probe_success", "kube_node_status_condition")
NODE_LABELS = ("node", "nodename", "hostname", "host", "kubernetes_node", "instance")

SamplesT = TypeVar("SamplesT")

IS_THERE = "a node changed some time before the sample that shows it, and is gone where it has no sample"


def read_labels(name: str) -> dict[str, str]:
    r"""Return the labels in the name of a series; a name without any is that of a node.

    Examples
    --------
    >>> read_labels('up{instance="a:9100", job="node"}')
    {'__name__': 'up', 'instance': 'a:9100', 'job': 'node'}
    >>> read_labels("node-1")
    {'node': 'node-1'}
    """
    found = re.fullmatch(r"\s*([\w:]*)\s*\{(.*)\}\W*", name)
    if not found:
        return {"node": name}
    return {"__name__": found[1], **dict(re.findall(r'(\w+)\s*=[\\"]*([^",}\\]*)', found[2]))}


def find_node(labels: Mapping[str, Any]) -> str:
    """Return the node that labels name, without a port, or an empty text."""
    return re.sub(r":\d+$", "", next((str(labels[label]) for label in NODE_LABELS if labels.get(label)), ""))


def refusal(name: str, what: str) -> TraceFormatError:
    """Return what to raise where a file is not the answer to a query that tells of nodes."""
    return TraceFormatError(f"{name}: {what}; ask /api/v1/query_range for {QUERIES}")


def choose_series(
    series: Iterable[tuple[Mapping[str, Any], SamplesT]], where: Iterable[str], name: str
) -> list[tuple[Mapping[str, Any], SamplesT]]:
    """Return the series whose labels fit ``LABEL=PATTERN``, of readiness where they are of conditions.

    Raises
    ------
    TraceFormatError
        When there is none, one is of a metric that does not tell of nodes, or they are of several jobs.
    """
    wanted = list(where)
    series = list(series)
    for labels, _ in series:
        if (metric := str(labels.get("__name__", ""))) not in METRICS:
            raise refusal(name, f"Prometheus's {metric[:40]}, which does not say whether a node is there")
    chosen = [one for one in series if _is_chosen(one[0], wanted)]
    if not chosen:
        raise refusal(name, "no series of a node in it")
    jobs = sorted({str(labels.get("job", "")) for labels, _ in chosen if labels.get("__name__") == "up"})
    if len(jobs) > 1:
        what = f"targets of the jobs {', '.join(jobs)[:80]}, one of which may fail without its node"
        raise TraceFormatError(f"{name}: {what}; choose one with `where` 'job={jobs[0]}'")
    return chosen


def _is_chosen(labels: Mapping[str, Any], where: Sequence[str]) -> bool:
    pairs = (text.partition("=") for text in [*where, *(["condition=Ready"] if "condition" in labels else [])])
    return all(
        fnmatch.fnmatchcase(str(labels.get(name.removesuffix("!"), "")), pattern) != name.endswith("!")
        for name, _, pattern in pairs
    )
