"""The order of measured runs, of pairs that differ in one setting and of all of one model: as predicted, and by chance.

The same settings differ in what was measured, by noise that no model could know. So a model without any error gets some
orders wrong, too.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lazsim.grouping import grouped
from lazsim.placement.plan import Floats
from lazsim.study.verify.cells import OWN
from lazsim.study.verify.measured_runs import MeasuredRun

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

TEAMS = 0.055
"""Median by which two teams differ with the same recipe: nine pairs of published runs of MCore's recipes."""

MEDIAN_OF_NORMAL = 0.6745
"""Median of a normal number without its sign."""

DRAWS_OF_PAIR, DRAWS_OF_ORDER = 10_000, 1000

MIN_RUNS = 5
"""Runs below which an order says little."""


def draw_noise(runs: Sequence[MeasuredRun], size: tuple[int, ...]) -> Floats:
    """Draw the shares by which two runs with the same settings differ, as often below 0 as above.

    They differ as releases do, and where the runs come from more than one source, also as teams do.
    """
    generator = np.random.default_rng(0)
    noise = np.interp(generator.random(size), *RELEASES) * generator.choice([-1, 1], size)
    if len({run.settings["source_family"] for run in runs}) > 1:
        noise += generator.normal(0.0, TEAMS / MEDIAN_OF_NORMAL, size)
    return np.asarray(noise)


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
        if _differ(*pair, SAME):
            continue
        differing = [setting for setting, names in SETTINGS.items() if _differ(*pair, names)]
        faster, slower = sorted(pair, key=lambda run: -run.tokens_per_s_per_gpu)
        measured = faster.tokens_per_s_per_gpu / slower.tokens_per_s_per_gpu
        if len(differing) == 1 and measured > 1 + NOISE:
            ratio = predicted[faster.id] / predicted[slower.id]
            noise = draw_noise(pair, (DRAWS_OF_PAIR,))
            perfect = float(np.mean(measured > 1 + noise))
            pairs.append(Pair(differing[0], faster.id, slower.id, measured, ratio, ratio > 1, perfect))
    return pairs


@dataclass(frozen=True)
class Ranking:
    """Runs of a model and system."""

    group: str
    """Model and system."""
    num_runs: int
    """Those with all inputs known."""
    spearman: float
    """Rank correlation of predicted and measured throughput."""
    perfect: float
    perfect_low: float
    """What a model without any error would get: mean of drawn noise, and a twentieth is below the second. Since
    measured differences hold noise already, it would get a little less."""


def rank_runs(runs: Sequence[MeasuredRun], predicted: Mapping[str, float]) -> list[Ranking]:
    """Rank the runs of each model and system that has `MIN_RUNS` with all inputs known.

    A perfect model predicts the mean of runs with the same settings. Runs differ from it as releases do, and also as
    teams do where a group is from several sources.
    """
    groups = grouped(
        (f"{run.settings['model_key']} {run.settings['system']}", run)
        for run in runs
        if run.id in predicted and run.settings["inputs"] == OWN
    )
    return [_ranking(name, some, predicted) for name, some in groups.items() if len(some) >= MIN_RUNS]


def _ranking(group: str, runs: Sequence[MeasuredRun], predicted: Mapping[str, float]) -> Ranking:
    measured = np.array([run.tokens_per_s_per_gpu for run in runs])
    names = (*SAME, *itertools.chain(*SETTINGS.values()))
    truth = np.array([np.mean(measured[[not _differ(one, other, names) for other in runs]]) for one in runs])
    # Published differences are those of two runs, each with its own noise.
    noise = draw_noise(runs, (DRAWS_OF_ORDER, len(runs)))
    drawn = _spearman(truth, truth * (1 + noise / np.sqrt(2)))
    (found,) = _spearman(np.array([predicted[run.id] for run in runs]), measured[None])
    return Ranking(group, len(runs), float(found), float(np.mean(drawn)), float(np.quantile(drawn, 0.05)))


def _differ(one: MeasuredRun, other: MeasuredRun, columns: Sequence[str]) -> bool:
    """Return whether two rows differ in any of the columns, once these are in plain words."""
    return any(one.columns.get(name, "") != other.columns.get(name, "") for name in columns)


def _spearman(one: Floats, others: Floats) -> Floats:
    """Correlate the ranks of values with those of each row of others; equal values have no order, which gives 0.

    Examples
    --------
    >>> others = np.array([[1.0, 2.0, 2.0, 9.0], [4.0, 3.0, 3.0, 1.0]])
    >>> _spearman(np.array([1.0, 2.0, 2.0, 4.0]), others).round(9).tolist()
    [1.0, -1.0]
    """
    from scipy.stats import rankdata

    if not np.ptp(one) or not np.ptp(others, axis=1).all():
        return np.zeros(len(others))
    # `spearmanr` of scipy would correlate the others with one another, too.
    ranks = rankdata(np.vstack([one, others]), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    ranks /= np.linalg.norm(ranks, axis=1, keepdims=True)
    found: Floats = np.clip(ranks[1:] @ ranks[0], -1, 1)
    return found
