"""The places of nodes, which say what servers and racks they share."""

import heapq
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lazsim.errors import TraceFormatError
from lazsim.files.faults import Faults
from lazsim.limits import MAX_EVENTS
from lazsim.placement.plan import Floats

REPAIR = "number places by the order of nodes"


def lowest_places(
    time_s: Floats, change: npt.NDArray[np.int8], node: npt.NDArray[np.int32], names: Sequence[str]
) -> dict[str, int]:
    """Return the place of each node, where nothing but their order says on which they stand.

    Nodes that are there at the start, or away, stand in their order. A node keeps its place while it is away. One that
    comes for the first time takes the lowest place to which no other comes back. See `lazsim.trace.Trace` for the
    parameters.

    Examples
    --------
    >>> from lazsim.trace.table import Event, build_trace
    >>> first = [Event(0, "add", "a"), Event(0, "add", "b"), Event(60, "remove", "a"), Event(60, "remove", "b")]
    >>> build_trace([*first, Event(90, "add", "c"), Event(95, "add", "b"), Event(99, "add", "d")]).places
    {'a': 0, 'b': 1, 'c': 0, 'd': 2}
    """
    # Nodes are numbered by first appearance: at the same time, those before a new one have a place to leave.
    order = np.lexsort((node, time_s))
    changes, nodes, num_first = change[order].tolist(), node[order].tolist(), int(np.count_nonzero(time_s == 0.0))
    last = {one: index for index, one in enumerate(nodes)}
    places, free, further = dict[int, int](), list[int](), itertools.count()
    for index, one in enumerate(nodes):
        if one not in places:
            places[one] = heapq.heappop(free) if free and index >= num_first else next(further)
        if changes[index] <= 0 and last[one] == index:
            heapq.heappush(free, places[one])
    return {name: places[number] for number, name in enumerate(names)}


def check_places(
    places: Mapping[str, int],
    time_s: Floats,
    change: npt.NDArray[np.int8],
    node: npt.NDArray[np.int32],
    names: Sequence[str],
    lines: Sequence[int],
    faults: Faults,
) -> dict[str, int] | None:
    """Return the places of these nodes; None, after a fault, where one has none or shares its place.

    `lines` are those of the events in their file; see `lazsim.trace.Trace` for the others.

    Raises
    ------
    TraceFormatError
        When a place is no whole number from 0 up.
    """
    kept: dict[str, int] = {}
    for name in names:
        place = places.get(name)
        if place is None:
            faults.fault("places", f"node {name!r} has none", REPAIR)
            return None
        if not isinstance(place, int | np.integer) or not 0 <= place <= MAX_EVENTS:
            expected = f"a whole number from 0 to {MAX_EVENTS:,}"
            raise TraceFormatError(f"`places`: expected {expected} for node {name!r}, found {place!r:.200}")
        kept[name] = int(place)
    place_M = np.array([*kept.values()], dtype=np.int64)[node]
    order = np.lexsort((change, time_s, place_M))
    time_s, place_M, total = time_s[order], place_M[order], np.cumsum(change[order], dtype=np.int64)
    begins = np.flatnonzero(np.diff(place_M, prepend=-1))
    before = np.concatenate([[0], total])[begins]
    held = total - np.repeat(before, np.diff(begins, append=len(total)))
    # Within an instant, a node may come before the one goes whose place it takes.
    is_settled = (np.diff(time_s, append=np.inf) != 0) | (np.diff(place_M, append=-1) != 0)
    if len(shared := np.flatnonzero(is_settled & (held > 1))):
        first = shared[time_s[shared].argmin()]
        newest = names[node[order[first]]]
        what = f"node {newest!r} comes to place {place_M[first]}, which then has {held[first]} nodes at once"
        faults.fault(lines[order[first]], what, REPAIR)
        return None
    return kept
