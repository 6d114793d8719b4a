"""Notes on runs: repairs, doubtful inputs, and all that makes a number not hold.

A new note is a function in `inputs`, `runs` (what they did) or `basis` (what numbers rest on); nothing lists it. One
whose name begins with ``about_`` takes all runs, each behind its scenario, and yields texts; with ``of_run_``, it takes
the scenario and the run alone, and its texts stand once for all runs that share them. `told` puts texts together.
"""

import itertools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from lazsim.grouping import grouped
from lazsim.study.memory import memory_notes
from lazsim.study.notes import basis, inputs, runs
from lazsim.study.notes.told import Pairs


def describe_runs(pairs: Pairs) -> list[str]:
    """Return remarks on the inputs and the results of runs."""
    shared = grouped((text, run.name) for one, run in pairs for text in _tell(runs, "of_run_", one, run))
    each = (f"{', '.join(names)}: {text}" for text, names in shared.items())
    first, *others = (_tell(part, "about_", pairs) for part in (inputs, runs, basis))
    return list(dict.fromkeys([*first, *memory_notes(pairs), *each, *itertools.chain(*others)]))


def _tell(part: ModuleType, begin: str, *about: Any) -> Iterator[str]:
    """Yield the texts of the functions of a module with names that begin so, in their order."""
    for name, function in vars(part).items():
        if name.startswith(begin):
            yield from function(*about)
