"""Pairs of measured runs that differ in one setting: whether predictions go the way that was measured."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lazsim.study.measured_runs import OWN, MeasuredRun
from lazsim.study.noise import RELEASES, draw_differences

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

NOISE = RELEASES[1][1]
"""Share by which the same settings differ at the median: a nearer pair has no direction."""

NUM_DRAWS = 10_000


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
    perfect: float
    """How likely a model without any error is right, since what was measured has noise."""


def find_pairs(runs: Sequence[MeasuredRun], predicted: Mapping[str, float]) -> list[Pair]:
    """Pair the runs with all inputs known that differ in one setting, and by more than the noise in throughput.

    Parameters
    ----------
    predicted
        Throughput by the name of a row, of those that have a prediction.
    """
    known = [run for run in runs if run.id in predicted and run.settings["inputs"] == OWN]
    pairs = []
    for pair in itertools.combinations(known, 2):
        one, other = pair
        if any(one.columns.get(name) != other.columns.get(name) for name in SAME):
            continue
        differing = [
            setting
            for setting, names in SETTINGS.items()
            if any(one.columns.get(name) != other.columns.get(name) for name in names)
        ]
        faster, slower = sorted(pair, key=lambda run: -run.tokens_per_s_per_gpu)
        measured = faster.tokens_per_s_per_gpu / slower.tokens_per_s_per_gpu
        if len(differing) == 1 and measured > 1 + NOISE:
            ratio = predicted[faster.id] / predicted[slower.id]
            noise = draw_differences(np.random.default_rng(0), (NUM_DRAWS,), from_several_teams(pair))
            perfect = float(np.mean(measured > 1 + noise))
            pairs.append(Pair(differing[0], faster.id, slower.id, measured, ratio, ratio > 1, perfect))
    return pairs


def from_several_teams(runs: Sequence[MeasuredRun]) -> bool:
    """Tell whether runs come from more than one source."""
    return len({run.settings["source_family"] for run in runs}) > 1
