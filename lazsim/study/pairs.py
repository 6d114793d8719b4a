"""Pairs of measured runs that differ in one setting: whether predictions go the way that was measured."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lazsim.study.measured_runs import OWN, MeasuredRun

SETTINGS: Mapping[str, tuple[str, ...]] = {
    "precision": ("precision",),
    "dispatcher": ("dispatcher",),
    "exchange": ("a2a_overlap",),
    "graphs": ("cuda_graph", "cuda_graph_scope"),
    "recompute": ("recompute", "recompute_modules"),
    "offload": ("activation_offload",),
    "parallelism": ("tp", "pp", "cp", "ep", "etp"),
    "stages": ("vp", "pp_layout"),
    "batch": ("gbs", "mbs"),
    "GPUs": ("gpus",),
    "sharding": ("sharding",),
    "optimizer": ("optimizer",),
    "routing": ("token_routing", "capacity_factor"),
}
"""Settings in which the runs of a pair may differ, and the columns of each, of which one or more differ."""

SAME = ("model_key", "system", "layers_override", "mtp_layers", "seq")
"""Columns that the runs of a pair share."""

RELEASES = ((0.0, 0.5, 0.75, 0.9, 1.0), (0.0, 0.016, 0.047, 0.065, 0.144))
"""Shares of 65 groups of published runs with the same settings, and by how much their releases differ at most; what
releases gained is in it, and one pair at 56 %, whose settings are wrong, is not."""

NOISE = RELEASES[1][1]
"""Share by which the same settings differ at the median: a nearer pair has no direction."""


@dataclass(frozen=True)
class Pair:
    """Two runs that differ in one setting, the faster first."""

    setting: str
    faster: str
    slower: str
    """What differs, and names of the rows."""
    measured: float
    predicted: float
    """Throughput of the first over that of the second."""
    right: bool
    """Whether the first is predicted to be faster, too."""


def find_pairs(runs: Sequence[MeasuredRun], predicted: Mapping[str, float]) -> list[Pair]:
    """Pair the runs with all inputs known that differ in one setting, and by more than the noise in throughput.

    Parameters
    ----------
    predicted
        Throughput by the name of a row, of those that have a prediction.
    """
    known = [run for run in runs if run.id in predicted and run.settings["inputs"] == OWN]
    pairs = []
    for one, other in itertools.combinations(known, 2):
        if any(one.columns.get(name) != other.columns.get(name) for name in SAME):
            continue
        differing = [
            setting
            for setting, names in SETTINGS.items()
            if any(one.columns.get(name) != other.columns.get(name) for name in names)
        ]
        faster, slower = sorted((one, other), key=lambda run: -run.tokens_per_s_per_gpu)
        measured = faster.tokens_per_s_per_gpu / slower.tokens_per_s_per_gpu
        if len(differing) == 1 and measured > 1 + NOISE:
            ratio = predicted[faster.id] / predicted[slower.id]
            pairs.append(Pair(differing[0], faster.id, slower.id, measured, ratio, ratio > 1))
    return pairs
