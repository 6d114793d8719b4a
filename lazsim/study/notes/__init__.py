"""Notes on runs: repairs, doubtful inputs, and all that makes a number not hold.

A new note is a function in `inputs`, `runs` (what they did) or `basis` (what numbers rest on), and its name in a list
here. `told` puts texts together.
"""

from lazsim.grouping import grouped
from lazsim.study.notes import basis, inputs, runs
from lazsim.study.notes.told import Pairs

OF_RUNS = (
    runs.tell_gaps,
    runs.tell_departures,
    runs.tell_recovery,
    basis.tell_empty_batches,
    basis.tell_without_source,
    basis.tell_assumed,
    basis.tell_model,
    basis.tell_layout,
    basis.tell_measured,
    basis.tell_without_effect,
    basis.tell_scores,
)
"""Notes on all runs, each of which comes behind its scenario."""

OF_A_RUN = (runs.tell_idle, runs.tell_exposed, runs.tell_unused, runs.tell_shortcuts)
"""Notes on a run and its scenario; a text stands once for all runs that share it."""


def describe_runs(pairs: Pairs) -> list[str]:
    """Return remarks on the inputs and the results of runs."""
    shared = grouped((text, run.name) for one, run in pairs for tell in OF_A_RUN for text in tell(one, run))
    each = (f"{', '.join(names)}: {text}" for text, names in shared.items())
    others = (text for tell in OF_RUNS for text in tell(pairs))
    return list(dict.fromkeys([*inputs.tell_inputs(pairs), *runs.tell_memory(pairs), *each, *others]))
