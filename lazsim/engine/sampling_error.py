"""How far the samples of a run are off in which windows stand for others; see `lazsim.engine.sampling`.

All errors are seconds of training by which a run that makes every plan would be ahead or behind.
"""

import math
from collections import defaultdict

import numpy as np

ROUNDING = 1e-9
"""Share of the time below which what blocks have in common is rounding."""

NUM_ERRORS = 1.96
"""Standard errors of a 95 % interval."""


class SamplingError:
    """Estimates the error of a run from what its blocks of windows took, and from what may have gone another way.

    Examples
    --------
    Survivors of a failure hold every expert with a probability of 3/4. Here they did not, which cost 30 s.

    >>> error = SamplingError()
    >>> error.spend(0, (8, 8), num_steps=10, seconds=0.0)
    >>> error.may_lose(30.0, 0.75, loses=True, keeps_rest=True)
    >>> error.variance_s2() == 3 / 4 * 30.0**2
    True
    """

    def __init__(self) -> None:
        self._spent: defaultdict[tuple[int, int], dict[int, list[float]]] = defaultdict(dict)
        self._doubts_s2 = self._rollbacks_s2 = 0.0

    def spend(self, block: int, nodes: tuple[int, int], num_steps: int, seconds: float) -> None:
        """Note steps made in a block, and the seconds of these or of a rebalance, on such numbers of nodes."""
        spent = self._spent[nodes].setdefault(block, [0.0, 0.0])
        spent[0] += num_steps
        spent[1] += seconds

    def misplace(self, step_s: float, interval_s: float = 0.0) -> None:
        """Note a stop at an unknown place of a step, and a rollback from one of an interval of checkpoints.

        Notes
        -----
        Two places at random are ``span**2 / 6`` apart in mean square; of an interval, no further than the run is off.
        Rollbacks leave it whole intervals off, which tells nothing of its place in the next one.
        """
        if self._spent:
            self._doubts_s2 += step_s**2 / 6
            self._rollbacks_s2 += min(self._places_s2(), interval_s**2 / 6)

    def may_lose(self, loss_s: float, survival_prob: float, *, loses: bool, keeps_rest: bool) -> None:
        """Note a failure that costs `loss_s` under some plans, and whether it did under the one of this run.

        Notes
        -----
        A run that makes every plan has the same probability to lose nothing. Where a checkpoint `keeps_rest`, it loses
        as much else. Without one it loses all that it has, and with that goes how far it was off; where it keeps what
        this run loses, it is taken to have been ahead.
        """
        if keeps_rest:
            self._doubts_s2 += (survival_prob if loses else 1 - survival_prob) * loss_s**2
        elif loses:
            self._doubts_s2 = survival_prob * (math.sqrt(self._doubts_s2) + loss_s) ** 2
        else:
            self._doubts_s2 = survival_prob * self._doubts_s2 + (1 - survival_prob) * loss_s**2

    def variance_s2(self) -> float:
        """Return the mean square of the seconds that the run may be off; 0 where no window stood for others."""
        return self._places_s2() + self._rollbacks_s2 if self._spent else 0.0

    def share(self, training_s: float) -> float:
        """Return half of the 95 % interval of the samples kept, as a share, from the seconds that training took."""
        return NUM_ERRORS * math.sqrt(self.variance_s2()) / training_s if training_s else 0.0

    def _places_s2(self) -> float:
        """Return the mean square but for whole intervals."""
        return self._windows_s2() + self._doubts_s2

    def _windows_s2(self) -> float:
        """Return the variance of the time of all blocks.

        Notes
        -----
        The time of a block, relative to the mean over blocks on the same nodes, is that of its middle. In mean square
        it is off by half of the squared difference between neighbours where these have nothing in common, and by less
        where they drift: the middle of a random walk misses a twelfth. Differences over two blocks would tell how much
        drifts, but those of sixteen blocks tell it so badly that one interval in ten was too narrow.

        A block is part of the mean that it is held against. Of blocks that have shares ``w`` of the steps on the same
        nodes, squares are too small by the factor ``1 - sum(w**2)``, and as many of them are free: few tell a variance
        so roughly that Student's t is wider. Where all blocks are on other nodes, squares say nothing, and the whole
        time counts as unknown.
        """
        from scipy.special import stdtrit

        made: defaultdict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
        free_s = 0.0
        for blocks in self._spent.values():
            steps, seconds = map(math.fsum, zip(*blocks.values(), strict=True))
            if steps:
                free_s += seconds * (1 - math.fsum((block_steps / steps) ** 2 for block_steps, _ in blocks.values()))
            for block, (block_steps, block_s) in blocks.items():
                made[block][0] += block_s
                made[block][1] += block_steps * (seconds / steps if steps else 0.0)
        number_B = np.array(sorted(block for block, (_, expected_s) in made.items() if expected_s))
        spent_B, expected_B = np.array([made[block] for block in number_B.tolist()]).reshape(-1, 2).T
        ratio_B = spent_B / expected_B
        squares = np.diff(ratio_B)[np.diff(number_B) == 1] ** 2
        total_s = float(spent_B.sum())
        whole_s2 = float((spent_B**2).sum())
        if not len(squares) or free_s < ROUNDING * total_s:
            return whole_s2
        free = free_s / total_s
        wider = float(stdtrit(free * len(spent_B), 0.975)) / NUM_ERRORS
        return whole_s2 * min(1.0, float(squares.mean()) / 2 / free * wider**2)
