"""How far the samples of a run are off in which windows stand for others; see `lazsim.engine.sampling`.

All errors are seconds of training by which a run that makes every plan would be ahead of this one.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable

import numpy as np

from lazsim.placement.plan import Floats

NUM_DRAWS = 1000
"""Runs drawn. Of the 95th percentile of these, the standard error is 0.7 percentage points."""


Fork = Callable[[Floats, np.random.Generator], Floats]
"""Draws by how much each run is ahead after something that may have gone another way, from how far it was before."""


class SamplingError:
    """Draws runs that make every plan from what the blocks of this one took, and from what may have gone another way.

    Examples
    --------
    Survivors of a failure hold every expert with a probability of 3/4, and did. A run in which they did not lost 30 s.

    >>> error = SamplingError()
    >>> error.spend(0, "steps", num_times=10, seconds=0.0)
    >>> error.fail(0.25, since_s=20.0, restart_s=10.0, loses=False)
    >>> np.unique(error.draw_ahead_s()).tolist()
    [-30.0, 0.0]
    """

    def __init__(self) -> None:
        self._spent: defaultdict[tuple[Hashable, int], Floats] = defaultdict(lambda: np.zeros(2))
        # Each with the seconds of this run in each block after it; at the start, all go the same way.
        self._forks: list[tuple[Fork, defaultdict[int, float]]] = [(lambda ahead_D, _: ahead_D, defaultdict(float))]

    def spend(self, block: int, kind: Hashable, num_times: int, seconds: float) -> None:
        """Note what was done `num_times` in a block, of a kind that takes as long but for its plans and loads."""
        self._spent[kind, block] += num_times, seconds
        self._forks[-1][1][block] += seconds

    def misplace(self, step_s: float) -> None:
        """Note a stop at an unknown place of a step."""
        self._fork(lambda ahead_D, rng: ahead_D + step_s * (rng.random(NUM_DRAWS) - rng.random(NUM_DRAWS)))

    def fail(
        self, lose_prob: float, since_s: float, restart_s: float = 0.0, interval_s: float = 0.0, *, loses: bool
    ) -> None:
        """Note a failure after which a run restarts with a probability, and whether this one did.

        Parameters
        ----------
        lose_prob
            Probability that survivors lack a state.
        since_s, restart_s
            Seconds since the last save of this run, and those of a restart.
        interval_s
            Seconds between saves; 0 where none was made, so that a restart loses all.
        loses
            Whether survivors of this run lacked a state.

        Notes
        -----
        Runs that restart go back to the last save of their own, so that they are whole intervals apart.
        """
        loss_s = since_s + restart_s

        def draw(ahead_D: Floats, rng: np.random.Generator) -> Floats:
            saved_D = (since_s % interval_s + ahead_D) // interval_s * interval_s if interval_s else 0.0
            loses_D = rng.random(NUM_DRAWS) < lose_prob
            return np.where(loses_D, saved_D, ahead_D + loss_s) - (0.0 if loses else loss_s)

        self._fork(draw)

    def draw_ahead_s(self) -> Floats:
        """Return by how much each of `NUM_DRAWS` runs that make every plan is ahead in the end, the same each time."""
        rng, ahead_D = np.random.default_rng(0), np.zeros(NUM_DRAWS)
        ratios_D = self._draw_ratios(rng)
        for draw, then_s in self._forks:
            ahead_D = draw(ahead_D, rng)
            ahead_D = sum((seconds * ratios_D[block] for block, seconds in then_s.items()), ahead_D)
        return ahead_D

    def shares(self, training_s: float) -> tuple[float, float]:
        """Return how far runs that make every plan are off, as shares of the seconds that training took.

        Returns
        -------
        By how much 95 % of them are off at most, and the others on average: rare losses make these much larger.
        """
        off_D = np.sort(np.abs(self.draw_ahead_s()))
        half_s, others_s = np.quantile(off_D, 0.95), off_D[math.ceil(0.95 * NUM_DRAWS) :].mean()
        return (float(half_s) / training_s, float(others_s) / training_s) if training_s else (0.0, 0.0)

    def _fork(self, draw: Fork) -> None:
        if self._spent:
            self._forks.append((draw, defaultdict(float)))

    def _draw_ratios(self, rng: np.random.Generator) -> dict[int, Floats]:
        """Draw by which share of its time each block of each run is ahead.

        Notes
        -----
        The time of a block, relative to the mean over blocks of the same kinds, is that of its middle. In mean square
        it is off by half of the squared difference between neighbours where these have nothing in common, and by less
        where they drift: the middle of a random walk misses a twelfth. Differences over two blocks would tell how much
        drifts, but those of sixteen blocks tell it so badly that one interval in ten was too narrow.

        A block is part of the mean that it is held against. Of blocks that have shares ``w`` of the times of a kind,
        squares are too small by the factor ``1 - sum(w**2)``, and as many of them are free: few tell a variance
        so roughly that shares have Student's t. Where each kind is in one block only, squares say nothing, and the
        whole time counts as unknown.
        """
        row = {kind: index for index, kind in enumerate(dict.fromkeys(kind for kind, _ in self._spent))}
        block_B, column = np.unique([block for _, block in self._spent], return_inverse=True)
        times_KB, seconds_KB = spent_KB = np.zeros((2, len(row), len(block_B)))
        spent_KB[:, [row[kind] for kind, _ in self._spent], column] = np.array([*self._spent.values()]).T
        share_KB = times_KB / np.maximum(1, times_KB.sum(axis=1, keepdims=True))
        mean_KB = share_KB * seconds_KB.sum(axis=1, keepdims=True)
        spent_B, expected_B = seconds_KB.sum(axis=0), mean_KB.sum(axis=0)
        is_known_B = expected_B > 0
        ratio_B = spent_B[is_known_B] / expected_B[is_known_B]
        squares = np.diff(ratio_B)[np.diff(block_B[is_known_B]) == 1] ** 2
        free = float((mean_KB * (1 - share_KB)).sum() / spent_B.sum()) if len(squares) else 0.0
        ratio_BD = rng.standard_normal((NUM_DRAWS, len(block_B))).T
        if free:
            num_free, spread = free * len(spent_B), math.sqrt(float(squares.mean()) / 2 / free)
            ratio_BD *= np.minimum(1.0, spread * np.sqrt(num_free / rng.chisquare(num_free, NUM_DRAWS)))
        return dict(zip(block_B.tolist(), ratio_BD, strict=True))
