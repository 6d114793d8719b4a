"""What notes have in common: texts with the names of those that share them, and notes of many runs."""

import itertools
import re
from collections.abc import Iterable, Sequence

from lazsim.engine.simulate import SystemRun
from lazsim.grouping import grouped
from lazsim.scenario import Scenario
from lazsim.units import counted

Pairs = Sequence[tuple[Scenario, SystemRun]]
"""Runs, each behind its scenario, that share all but system and placement."""

NUMBER = re.compile(r"\d[\d.,]*")

RUN = "\0"
"""What stands in a remark for the name of its run, until remarks that differ in it alone are one."""


def listed(what: str, items: Sequence[str]) -> list[str]:
    """Return a note that lists items, or none where there are none."""
    return [f"{what}: {', '.join(items)}"] if items else []


def by_text(pairs: Iterable[tuple[str, str]]) -> str:
    """Return texts in a line, each with the names of those that share it."""
    return "; ".join(f"{text}: {', '.join(dict.fromkeys(names))}" for text, names in grouped(pairs).items())


def count_notes(notes_by_run: Sequence[tuple[str, Iterable[str]]]) -> tuple[str, ...]:
    """Return each remark once, with the number of its runs if not all have it; those that differ in numbers are one.

    Runs come with their names. Remarks that differ in the name of their run are one, too, with the names of all.

    Examples
    --------
    >>> count_notes([("ds", ["seed 0", "analytic", "ds: late"]), ("tutel", ["seed 1", "analytic", "tutel: late"])])
    ('seed 0 (numbers of the first run)', 'analytic', 'ds, tutel: late')
    """
    named = ((name, note) for name, notes in notes_by_run for note in notes)
    # Numbers in the name itself tell systems apart.
    found = grouped((without_numbers(_without_name(*one)).replace(RUN, one[0]), one) for one in named)
    # Of those that differ in numbers, the first; what names no run has one name, of whichever run it is.
    shared = grouped((_without_name(*same[0]), same) for same in found.values())
    num_runs = len(notes_by_run)

    def told(text: str, groups: Sequence[Sequence[tuple[str, str]]]) -> str:
        num_told = sum(map(len, groups))
        some = f"{num_told} of {counted(num_runs, 'run')}" if num_told < num_runs else ""
        first = "numbers of the first run" if any(len({note for _, note in same}) > 1 for same in groups) else ""
        about = "; ".join(filter(None, (some, first)))
        if len(groups) > 1:
            text = re.sub(rf"^{RUN} ", f"{RUN}: each ", text)
        text = text.replace(RUN, ", ".join(same[0][0] for same in groups))
        return f"{text} ({about})" if about else text

    return tuple(itertools.starmap(told, shared.items()))


def _without_name(name: str, note: str) -> str:
    """Put `RUN` where a remark has a name at its start or in a list: elsewhere it may be a word, or part of a path."""
    return re.sub(rf"(?:^|(?<=[:;,] )){re.escape(name)}(?=:? |[;,]|$)", RUN, note)


def without_numbers(note: str) -> str:
    """Return what a remark says whatever its numbers."""
    return NUMBER.sub("#", note)
