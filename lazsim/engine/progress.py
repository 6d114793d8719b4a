"""Steps and samples trained, and the part of them that a checkpoint keeps."""

import math

ROUNDING = 1e-9
"""Share of a step by which rounding may misplace its end."""


class Progress:
    """Steps and samples trained, and those that the last checkpoint holds.

    Examples
    --------
    >>> progress = Progress()
    >>> progress.add(num_steps=10, samples_per_step=4, step_s=0.5)
    >>> progress.save()
    >>> progress.add(num_steps=2, samples_per_step=4, step_s=0.5)
    >>> progress.roll_back(), progress.step, progress.samples
    ((2, 1.0), 10, 40)
    """

    def __init__(self) -> None:
        self.step = 0
        self.samples = 0
        self.saved_step = 0
        self._saved_samples = 0
        self._unsaved_s = 0.0

    def add(self, num_steps: int, samples_per_step: int, step_s: float) -> None:
        """Count steps made."""
        self.step += num_steps
        self.samples += num_steps * samples_per_step
        self._unsaved_s += num_steps * step_s

    def save(self) -> None:
        """Keep all that is trained so far."""
        self.saved_step, self._saved_samples, self._unsaved_s = self.step, self.samples, 0.0

    def roll_back(self) -> tuple[int, float]:
        """Go back to what was saved; return the steps lost and the seconds that they took."""
        lost_steps, lost_s = self.step - self.saved_step, self._unsaved_s
        self.step, self.samples, self._unsaved_s = self.saved_step, self._saved_samples, 0.0
        return lost_steps, lost_s

    def is_due(self, interval_steps: int, last_step: int) -> bool:
        """Tell whether a multiple of the interval was reached since a step."""
        return self.step // interval_steps > last_step // interval_steps


def steps_in(spent_s: float, step_s: float) -> int:
    """Return the whole steps in a time; one that ends at its very end counts, whatever rounding says.

    Examples
    --------
    >>> steps_in(0.3, 0.1), 0.3 // 0.1
    (3, 2.0)
    """
    return math.floor(spent_s / step_s + ROUNDING)


def steps_begun(spent_s: float, step_s: float) -> int:
    """Return the steps in a time, one under way included."""
    return math.ceil(spent_s / step_s - ROUNDING)
