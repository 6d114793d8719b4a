"""Cap the nodes of a trace: rules by which a job of fewer nodes feels the failures of more."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from lazsim.errors import LazsimError, unknown_name
from lazsim.limits import CAPS
from lazsim.loads import check_whole
from lazsim.trace.table import Event, Trace
from lazsim.units import counted


def _follow_count(trace: Trace, visible_count: Callable[[int], int], rng: np.random.Generator) -> list[Event]:
    """Show `visible_count` of the nodes alive, after removals and again after additions.

    A visible node that dies is removed by its name. Where the rule then shows fewer, visible nodes drawn uniformly are
    hidden; where it shows more, new nodes are shown first, then hidden ones by age.
    """
    visible: dict[str, None] = {}
    hidden: dict[str, None] = {}
    events: list[Event] = []

    def show(candidates: Iterable[str], time_s: float) -> None:
        room = visible_count(len(visible) + len(hidden)) - len(visible)
        for node in list(candidates)[: max(0, room)]:
            del hidden[node]
            visible[node] = None
            events.append(Event(time_s, "add", node))

    def hide(time_s: float) -> None:
        excess = len(visible) - visible_count(len(visible) + len(hidden))
        if excess <= 0:
            return
        order = list(visible)
        for index in sorted(rng.choice(len(order), size=excess, replace=False).tolist()):
            del visible[order[index]]
            hidden[order[index]] = None
            events.append(Event(time_s, "remove", order[index]))

    for batch in trace.batches():
        for node in batch.removed:
            if node in visible:
                del visible[node]
                events.append(Event(batch.time_s, "remove", node))
            else:
                del hidden[node]
        hide(batch.time_s)
        show(hidden, batch.time_s)
        hidden.update(dict.fromkeys(batch.added))
        show(batch.added, batch.time_s)
        show(hidden, batch.time_s)
    return events


CappedEvents = tuple[list[Event], str]


def _offset(trace: Trace, max_nodes: int, rng: np.random.Generator) -> CappedEvents:
    constant = max(0, trace.most_nodes(trace.duration_s) - max_nodes)
    what = f"{constant} subtracted from the count of nodes, so that its peak is at most {max_nodes}"
    # Nodes that come as the trace ends are more than its peak.
    return _follow_count(trace, lambda num_alive: min(max_nodes, max(0, num_alive - constant)), rng), what


def _clip(trace: Trace, max_nodes: int, rng: np.random.Generator) -> CappedEvents:
    events = _follow_count(trace, lambda num_alive: min(num_alive, max_nodes), rng)
    what = f"at most {counted(max_nodes, 'node')}; the others, which the job does not pay for, replace those lost"
    return events, what


def _first(trace: Trace, max_nodes: int, _rng: np.random.Generator) -> CappedEvents:
    followed = set(trace.names[:max_nodes])
    return [event for event in trace.events() if event.node in followed], f"the first {counted(max_nodes, 'name')} only"


def _members(trace: Trace, max_nodes: int, rng: np.random.Generator) -> CappedEvents:
    members: set[str] = set()
    events: list[Event] = []
    for batch in trace.batches():
        lost = [node for node in batch.removed if node in members]
        members.difference_update(lost)
        granted, room = list(batch.added), max_nodes - len(members)
        if len(granted) > room:
            granted = [granted[index] for index in sorted(rng.choice(len(granted), room, replace=False).tolist())]
        members.update(granted)
        events += [Event(batch.time_s, "remove", node) for node in lost]
        events += [Event(batch.time_s, "add", node) for node in granted]
    what = (
        f"a job of at most {counted(max_nodes, 'node')}, which replaces those that it loses by newly granted ones only"
    )
    return events, what


CapRule = Callable[[Trace, int, np.random.Generator], CappedEvents]

CAP_RULES: dict[str, CapRule] = dict(zip(CAPS, (_members, _offset, _clip, _first), strict=True))
"""Rules by name: from a trace, the most nodes and a random generator to events and a note.

By default a node of the job fails as often as one of the trace, and what fails is gone until another one is granted:
``offset`` makes a few nodes feel the failures of all, and ``clip`` takes everything beyond them for a spare.
"""


def cap_trace(trace: Trace, max_nodes: int, rule: str, rng: np.random.Generator) -> Trace:
    """Cap a trace at ``max_nodes`` nodes.

    Parameters
    ----------
    trace
        The stretch to replay; its peak sets the constant of ``offset``.
    max_nodes
        Most nodes at any instant.
    rule
        ``offset`` subtracts the constant ``peak - max_nodes`` from the count, so that the peak becomes the maximum and
        every loss counts: ``max(0, alive - constant)`` nodes are visible, and the death of a hidden node hides a
        visible one, drawn uniformly. ``clip`` shows ``min(alive, max_nodes)`` nodes: hidden ones, oldest first, replace
        lost ones at once. ``members`` are nodes that the job was granted: they are replaced by nodes that come later,
        never by those that were there before and were turned away. ``first`` follows the first names of the trace only.
    rng
        Draws the visible nodes that are hidden (``offset``), and the new members among nodes that come at one instant.

    Returns
    -------
    Trace
        The same node names; a node that is hidden and shown again joins as a new one. Nodes of the job stand side by
        side at first, and none of them is away from the start but by ``first``. A trace that has no more nodes stays
        as it is.

    Raises
    ------
    LazsimError
        When the rule is unknown or ``max_nodes`` is not positive.

    Examples
    --------
    >>> from lazsim.trace.table import build_trace
    >>> adds = [Event(0.0, "add", name) for name in "abc"]
    >>> trace = build_trace([*adds, Event(60.0, "remove", "b")])
    >>> capped = cap_trace(trace, 2, "clip", np.random.default_rng(0))
    >>> [batch[1:] for batch in capped.batches()]
    [((), ('a', 'b')), (('b',), ('c',))]
    """
    if rule not in CAP_RULES:
        raise LazsimError(unknown_name("cap rule", rule, list(CAP_RULES)))
    max_nodes = check_whole("max_nodes", max_nodes)
    before = rng.bit_generator.state
    events, what = CAP_RULES[rule](trace, max_nodes, rng)
    places = None
    if (len(trace.names) if rule == "first" else trace.most_nodes()) <= max_nodes:
        events, places = list(trace.events()), trace.places
    is_drawn = rng.bit_generator.state != before
    note = f"cap {rule}: {what}{'; which of several nodes is drawn' * is_drawn}"
    capped = trace.with_events(events, trace.duration_s, note, places=places)
    return replace(capped, is_drawn=trace.is_drawn or is_drawn)
