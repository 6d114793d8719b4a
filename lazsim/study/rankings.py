"""Runs of one model and system in the order of their throughput: as predicted, and by a perfect model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lazsim.study.measured_runs import OWN, MeasuredRun
from lazsim.study.noise import draw_differences
from lazsim.study.pairs import SAME, SETTINGS, from_several_teams

Numbers = npt.NDArray[np.float64]

MIN_RUNS = 5
"""Runs below which an order says little."""

NUM_DRAWS = 1000

COLUMNS = (*SAME, *(name for names in SETTINGS.values() for name in names))


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


def rank(runs: Sequence[MeasuredRun], predicted: dict[str, float]) -> list[Ranking]:
    """Rank the runs of each model and system that has `MIN_RUNS` with all inputs known.

    A perfect model predicts the mean of runs with the same settings. Runs differ from it as releases do, and also as
    teams do where a group is from several sources.
    """
    groups: dict[str, list[MeasuredRun]] = {}
    for run in runs:
        if run.id in predicted and run.settings["inputs"] == OWN:
            groups.setdefault(f"{run.settings['model_key']} {run.settings['system']}", []).append(run)
    return [_ranking(name, some, predicted) for name, some in groups.items() if len(some) >= MIN_RUNS]


def _ranking(group: str, runs: Sequence[MeasuredRun], predicted: dict[str, float]) -> Ranking:
    measured = np.array([run.tokens_per_s_per_gpu for run in runs])
    alike = [tuple(run.columns.get(name) for name in COLUMNS) for run in runs]
    truth = np.array([np.mean(measured[[other == one for other in alike]]) for one in alike])
    # Published differences are those of two runs, each with its own noise.
    noise = draw_differences(np.random.default_rng(0), (NUM_DRAWS, len(runs)), from_several_teams(runs))
    drawn = _spearman(truth, truth * (1 + noise / np.sqrt(2)))
    (found,) = _spearman(measured, np.array([[predicted[run.id] for run in runs]]))
    return Ranking(group, len(runs), float(found), float(np.mean(drawn)), float(np.quantile(drawn, 0.05)))


def _spearman(one: Numbers, others: Numbers) -> Numbers:
    """Correlate the ranks of values with those of each row of others; equal values have no order, which gives 0."""
    from scipy.stats import spearmanr

    if not np.ptp(one) or not np.ptp(others, axis=1).all():
        return np.zeros(len(others))
    # Of two variables, a number; of more, a matrix.
    return np.atleast_2d(spearmanr(np.vstack([one, others]), axis=1).statistic)[0, -len(others) :]
