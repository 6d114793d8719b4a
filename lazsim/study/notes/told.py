"""What notes have in common: texts with the names of those that share them, and notes of many runs."""

import re
from collections.abc import Iterable, Sequence

from lazsim.engine.simulate import SystemRun
from lazsim.grouping import grouped
from lazsim.scenario import Scenario
from lazsim.units import counted

Pairs = Sequence[tuple[Scenario, SystemRun]]
"""Runs, each behind its scenario, that share all but system and placement."""

NUMBER = re.compile(r"\d[\d.,]*")


def listed(what: str, items: Sequence[str]) -> list[str]:
    """Return a note that lists items, or none where there are none."""
    return [f"{what}: {', '.join(items)}"] if items else []


def by_text(pairs: Iterable[tuple[str, str]]) -> str:
    """Return texts in a line, each with the names of those that share it."""
    return "; ".join(f"{text}: {', '.join(dict.fromkeys(names))}" for text, names in grouped(pairs).items())


def count_notes(notes_by_run: Sequence[Iterable[str]]) -> tuple[str, ...]:
    """Return each remark once, with the number of its runs if not all have it; those that differ in numbers are one.

    Examples
    --------
    >>> count_notes([["seed 0", "analytic", "late"], ["seed 1", "analytic"]])
    ('seed 0 (numbers of the first run)', 'analytic', 'late (1 of 2 runs)')
    """
    found = grouped((without_numbers(note), note) for notes in notes_by_run for note in notes)
    num_runs = len(notes_by_run)

    def told(same: Sequence[str]) -> str:
        some = f"{len(same)} of {counted(num_runs, 'run')}" if len(same) < num_runs else ""
        first = "numbers of the first run" if len(set(same)) > 1 else ""
        about = "; ".join(filter(None, (some, first)))
        return f"{same[0]} ({about})" if about else same[0]

    return tuple(map(told, found.values()))


def without_numbers(note: str) -> str:
    """Return what a remark says whatever its numbers."""
    return NUMBER.sub("#", note)
