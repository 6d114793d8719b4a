"""What shows that rows may tell of other things than nodes that come and go: the name of a column, or nothing."""

import itertools
import re
from collections.abc import Iterable, Sequence

from lazsim.errors import literal
from lazsim.trace.reading.columns import (
    BACK_WORDS,
    COUNTED,
    FINAL_WORDS,
    LIVES,
    OUTAGES,
    ROLES,
    TableColumn,
    are_gone,
    header_of,
    is_gone,
    most,
    words_of,
)
from lazsim.trace.reading.guess import Guess, are_several
from lazsim.trace.reading.mapped import OF_PARTS
from lazsim.trace.reading.mapping import JOIN_DAY
from lazsim.trace.reading.times import CLOCK
from lazsim.trace.reading.words import OPEN_WORDS

SOME_WORDS = {"active", "running", "available"}
IDLE_WORDS = {"idle", "free", "spare", "standby", "reserved", "allocated", "mixed", "busy"}
"""Words of the names of columns that may count only some of the nodes that are there, and others of them."""

LAST = re.compile("since|last|updated|changed|modified|transition")
"""Words of the name of a time at which a node came into the state that it has."""

SUBJECTS = {"kind", "type", "what", "object", "resource", "entity", "target", "unit", "level", "scope"}
"""Words of the names of columns that tell what rows are of: a node, or a part of one."""

PARTS = {"gpu", "gpus", "device", "card", "nic"}
RUNNING = {"job", "task", "pod", "container", "process", "actor", "rank", "run", "service", "check", "sensor"}
"""Words of the names of columns that tell parts of a node, or what is on it: when one is mended, another may still be
broken."""


def _column_of_parts(guess: Guess) -> str:
    """Find what tells parts of a node apart, or what runs on it; outages of parts may overlap."""
    if (node := guess.of("node")) is None:
        return ""
    names = {text.partition("/")[0].lower() for text in node.texts if "/" in text}
    if names & RUNNING or (node.words & (PARTS | RUNNING) and "node" not in map(ROLES.get, node.words)):
        return node.name
    if guess.roles.end is not None or guess.roles.duration is not None:
        return ""
    event, start = guess.of("event"), guess.of("start")
    gone = {*filter(is_gone, {*event.texts})} if event else set()
    goes = [text in gone for text in (event or node).texts]
    for other in (one for one in guess.others if one.texts):
        rows = [*zip(node.texts, other.texts, goes, strict=True)]
        told = {row for row in rows if row[1]}
        back = {(name, text) for name, text, went in told if not went}
        # Several samples at a time are refused, whatever tells them apart. What fails with a node ran on it.
        are_parts = back and other.words & PARTS and are_several({row[:2] for row in told})
        are_running = back and other.words & RUNNING and (start or (event and are_several(back)))
        if are_parts or are_running:
            return other.name
        if event and other.role != "cluster" and (_returns_twice(rows) or _tells_parts(other, back)):
            return other.name
    return ""


def _tells_parts(column: TableColumn, back: Iterable[tuple[str, str]]) -> bool:
    """Return whether a column tells what rows are of, and texts in it beside nodes that are back name parts."""
    is_of_nodes = "node" in map(ROLES.get, column.words) or OUTAGES.search(column.name.lower())
    if is_of_nodes or not column.words & SUBJECTS:
        return False
    return any(words and words <= PARTS | RUNNING for words in (words_of(text) for _, text in back))


def _returns_twice(rows: Sequence[tuple[str, str, bool]]) -> bool:
    """Return whether a node is back, and once more, by rows of two other texts, with each of which it had gone."""
    # The newest rows may come first.
    for ordered in (rows, rows[::-1]):
        went: set[tuple[str, str]] = set()
        back: dict[str, str] = {}
        for name, text, goes in ordered:
            if goes and text:
                went.add((name, text))
                back.pop(name, None)
            elif (name, text) in went:
                went.remove((name, text))
                if back.setdefault(name, text) != text:
                    return True
    return False


def _clock_of_a_day(guess: Guess) -> str:
    """Find times of day beside times that are days alone."""
    when = guess.of("time") or guess.of("start")
    if when is None or when.kind != "date" or any(re.search(r":|T\d", text) for text in when.texts):
        return ""
    others = (one for one in guess.others if any(one.texts) and one.role != "duration")
    return next((one.name for one in others if most(one.texts, lambda text: bool(CLOCK.fullmatch(text)))), "")


def _time_of_list(guess: Guess) -> str:
    """Find a time as each node of a list has one; events of a node come one after another."""
    time, node, event = guess.of("time"), guess.of("node"), guess.of("event")
    if time is None or node is None:
        return ""
    num_pairs, num_nodes = len({*zip(node.texts, time.texts, strict=True)}), len({*node.texts})
    name = re.sub(r"since[\W_]*[a-z].*", "", time.name.lower())
    of_nodes = LIVES.search(name) or (LAST.search(name) and not (event and are_gone(event.texts)))
    return time.name if of_nodes and (num_pairs == num_nodes or num_pairs < len(node.texts)) else ""


def _columns_beside_spans(guess: Guess) -> str:
    """Find columns beside a start and an end of which none says outage, or one that a node was there, or lived."""
    if len(guess.span) < 2 or OUTAGES.search(header_of(guess.span)):
        return ""
    rows = [zip(one.texts, guess.span[1].texts, strict=True) for one in guess.others if one.kind == "word"]
    texts = {(text.lower(), end.lower() in OPEN_WORDS) for text, end in itertools.chain(*rows) if text}
    past = {text for text, is_open in texts if not is_open} - BACK_WORDS
    are_states = any(text in FINAL_WORDS or not is_gone(text) for text in past)
    is_told = not guess.lacks_outages or any(is_gone(text) for text, _ in texts)
    return ", ".join(literal(one.name) for one in guess.others[:5]) if are_states or not is_told else ""


def _end_of_losses(guess: Guess) -> str:
    """Find what may say when nodes are back, beside events which all say that they go."""
    event = guess.of("event")
    told = {*BACK_WORDS, "repair", "mttr", "lasted"}
    ends = [one for one in guess.others if one.role in ("end", "duration") or one.words & told]
    ends = [one for one in ends if one.kind != "text" or one.is_sampled]
    return ends[0].name if event and ends and are_gone(event.texts) else ""


def _count_of_others(guess: Guess) -> str:
    """Find a count of nodes that are there, beside one that may not have them."""
    count = guess.of("count")
    others = [one for one in guess.others if one.words & IDLE_WORDS and one.words <= IDLE_WORDS | COUNTED]
    return others[0].name if others and count and count.words & SOME_WORDS else ""


DOUBTS = {
    _column_of_parts: (
        "its rows are of parts of a node (column {found!r}) or of what runs on it, " + OF_PARTS + " {give}"
    ),
    _clock_of_a_day: f"column {{found!r}} has times without a day; {JOIN_DAY}, or if they do not count, {{give}}",
    _time_of_list: "rows have a time in {found!r}, as a list of nodes has; if something happened then, {give}",
    _columns_beside_spans: (
        "rows with a start and an end may be outages or, beside {found}, who used a node or how it was; if a node is "
        "gone from start to end, {give}"
    ),
    _end_of_losses: (
        "rows say that nodes go, and {found!r} may say for how long; give `columns` of outages (node, start, and end "
        "or duration), or if it does not, {give}"
    ),
    _count_of_others: "nodes of {found!r} are there, too; give `columns` with a count of all, or if it is, {give}",
}
"""What a guess may be wrong about, each with how to say that it is right."""


def doubt_about(guess: Guess) -> str:
    """Return what may be wrong about a guess, and how to say that it is right; empty where nothing is."""
    doubts = ((find(guess), told) for find, told in DOUBTS.items())
    return next((told.format(found=found, give=f"give `columns` {guess}") for found, told in doubts if found), "")
