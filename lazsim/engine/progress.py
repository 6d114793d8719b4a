"""Steps and samples trained, and the part of them that a checkpoint keeps."""

import math
from dataclasses import dataclass, field, replace

from lazsim.limits import MAX_WHOLE

ROUNDING = 1e-9
"""Share of a step by which rounding may misplace its end."""


@dataclass
class Made:
    """Steps made one after the other, all equally long."""

    start_s: float
    num_steps: int
    step_s: float
    samples_per_step: int

    def split(self, num_steps: int) -> "tuple[Made, Made]":
        """Return the first of these steps, and the others."""
        later_s = self.start_s + num_steps * self.step_s
        return replace(self, num_steps=num_steps), replace(self, start_s=later_s, num_steps=self.num_steps - num_steps)


@dataclass
class Saved:
    """A state that was saved."""

    step: int = 0
    """Steps that it holds."""
    counts_at_s: float = 0.0
    """Time from which on it can be used."""
    since: list[Made] = field(default_factory=list)
    """Steps made since."""


@dataclass(frozen=True)
class Lost:
    """Steps that a rollback made worthless, their seconds, and the time at which the first of them began."""

    steps: int
    seconds: float
    since_s: float


class Progress:
    """Steps and samples trained, and those that a save keeps: one is due every `interval_steps`, unless that is 0.

    Examples
    --------
    >>> progress = Progress()
    >>> progress.add(Made(0.0, num_steps=10, step_s=0.5, samples_per_step=4))
    >>> progress.save(now_s=5.0)
    >>> progress.add(Made(5.0, num_steps=2, step_s=0.5, samples_per_step=4))
    >>> progress.roll_back(now_s=6.0), progress.step, progress.samples
    (Lost(steps=2, seconds=1.0, since_s=5.0), 10, 40)
    """

    def __init__(self, interval_steps: int = 0) -> None:
        self._interval_steps = interval_steps
        self.step = 0
        self.samples = 0
        self._saved = Saved()
        self._pending: Saved | None = None
        self._copied_step = 0

    @property
    def saved_step(self) -> int:
        """Step of the last save, also of one that does not count yet."""
        return (self._pending or self._saved).step

    @property
    def is_save_due(self) -> bool:
        """Whether a multiple of the interval was reached since the last save."""
        interval = self._interval_steps
        return interval > 0 and self.step // interval > self.saved_step // interval

    @property
    def steps_to_save(self) -> int:
        """Steps up to the next multiple of the interval; without one, more than any run makes."""
        return self._interval_steps - self.step % self._interval_steps if self._interval_steps else MAX_WHOLE

    def save_must_wait(self, now_s: float, step_s: float, persist_s: float) -> bool:
        """Tell whether one of the saves of the next steps comes before the one before it is written."""
        is_late = self.written_at_s() > now_s + self.steps_to_save * step_s
        return is_late or persist_s > self._interval_steps * step_s

    def add(self, made: Made) -> None:
        """Count steps made."""
        self.step += made.num_steps
        self.samples += made.num_steps * made.samples_per_step
        for saved in (self._saved, self._pending):
            if saved is not None:
                saved.since.append(made)

    def add_saving(self, made: Made, persist_s: float, *, saves_last: bool) -> int:
        """Count steps made, and save between them when that is due, also after the last if it `saves_last`.

        Returns
        -------
        The number of saves.
        """
        interval = self._interval_steps
        num_saves = (self.step + made.num_steps - (not saves_last)) // interval - self.step // interval
        last = self.step // interval + num_saves
        # Of those before the last one, only the newest may still matter.
        for number in range(last - min(num_saves, 2) + 1, last + 1):
            before, made = made.split(number * interval - self.step)
            self.add(before)
            self.save(made.start_s, persist_s)
        self.add(made)
        return num_saves

    def save(self, now_s: float, persist_s: float = 0.0) -> None:
        """Keep all that is trained so far, once it is written."""
        if self._pending is not None:
            self._saved = self._pending
        self._pending = Saved(self.step, now_s + persist_s)

    def fail(self, now_s: float) -> bool:
        """Give up a save that is not written yet, as nodes have failed; tell whether there was one."""
        pending, self._pending = self._pending, None
        if pending is not None and pending.counts_at_s <= now_s:
            self._saved = pending
        return pending is not None and pending.counts_at_s > now_s

    def written_at_s(self) -> float:
        """Return when the last save is written."""
        return (self._pending or self._saved).counts_at_s

    def copied_step(self, lag_steps: int) -> int:
        """Return the step of the newest copy in the memory of other nodes, made every `lag_steps`.

        It is the last but one multiple of them, as the last is under way, or the copy that the job went back to.
        """
        return max(self._copied_step, (self.step // lag_steps - 1) * lag_steps)

    def roll_back(self, now_s: float, copied_step: int = 0) -> Lost:
        """Go back to the last save that counts, or to a copy in memory of a later step."""
        self.fail(now_s)
        saved, undone = self._saved, list[Made]()
        self._copied_step = copied_step if copied_step > saved.step else 0
        num_steps = left = self.step - max(saved.step, copied_step)
        while left:
            made = saved.since.pop()
            kept, lost = made.split(max(0, made.num_steps - left))
            if kept.num_steps:
                saved.since.append(kept)
            undone.append(lost)
            left -= lost.num_steps
        self.step -= num_steps
        self.samples -= sum(made.num_steps * made.samples_per_step for made in undone)
        seconds = math.fsum(made.num_steps * made.step_s for made in undone)
        return Lost(num_steps, seconds, min((made.start_s for made in undone), default=now_s))


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
