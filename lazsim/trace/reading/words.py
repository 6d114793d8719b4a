"""Words and numbers in the cells of tables, and what they say of nodes."""

import re

from lazsim.errors import shorten
from lazsim.trace.reading.mapping import NO_MAPPING, TraceMapping
from lazsim.trace.reading.times import is_number
from lazsim.trace.table import EventKind

WORDS: dict[EventKind, str] = {
    "add": (
        "add added up join joined start started launch launched running ready online active available "
        "healthy alive repaired fixed restored recovered recovery resumed created idle allocated alloc mixed "
        "mix comp completing resv reserved faultend ok connected inservice poweredon"
    ),
    "remove": (
        "remove removed down leave left stop stopped terminate terminated preempt preempted preemption fail failed "
        "unhealthy dead failure lost offline notready unavailable evicted eviction killed deleted "
        "interrupted interruption termination crash crashed drained faultstart revoked unreachable unreach unavail "
        "maint maintenance disconnected inactive outofservice poweredoff poweroff shutdown shuttingdown"
    ),
}
"""Usual words for what happened to a node, also as Kubernetes and Slurm have them, without signs and a word for it."""

_KINDS = {word: kind for kind, words in WORDS.items() for word in words.split()}

GONE_SIGN = re.compile(r"[*~#%^$]$")
"""Signs behind a state of Slurm, of a node that does not respond, is powered off or restarted, or is maintained; ``@``
and ``!`` say that it will be (man page of sinfo)."""

EVENT_NEEDED = "event; name it in `add`, `remove` or `ignore` of a mapping, a TOML file for `format`"

CHANGE_WORDS = {"add", "remove", "added", "removed"}
"""Words for changes; all others may also be read as states."""

OPEN_WORDS = ("", "unknown", "none", "null", "nan", "nat", "-", "ongoing", "n/a", "\\n")
"""Ends of outages that go on."""

SAMPLES = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
"""Words of samples beside those of events."""

NO_SAMPLE = ("", "nan", "null", "none", "-", "n/a", "undefined")


def event_kind(text: str, mapping: TraceMapping = NO_MAPPING) -> EventKind | None:
    """Return what an event says, None where it is to be ignored; a ValueError says that it is unknown."""
    word = text.strip().lower()
    given: tuple[tuple[tuple[str, ...], EventKind | None], ...] = (
        (mapping.ignore, None), (mapping.add, "add"), (mapping.remove, "remove"),
    )  # fmt: skip
    for words, kind in given:
        if any(word == one.lower() for one in words):
            return kind
    plain = re.sub(r"^(node|host|instance|machine|vm)(?=.)|[\s_-]|[!@]$", "", word)
    known = _KINDS.get(GONE_SIGN.sub("", plain))
    if known is None:
        raise ValueError(f"{shorten(text)!r} is no {EVENT_NEEDED}")
    return "remove" if GONE_SIGN.search(plain) else known


def sampled_value(text: str, mapping: TraceMapping = NO_MAPPING) -> float | None:
    """Return 1 where a sample says that a node is there, 0 where not, None where there is none; else a ValueError."""
    word = text.strip().lower()
    if word in NO_SAMPLE:
        return None
    if word in SAMPLES:
        return SAMPLES[word]
    if is_number(word):
        if float(word) in (0, 1):
            return float(word)
        raise ValueError(f"{shorten(text)!r} is neither 0 nor 1, as a sample of a node is")
    kind = event_kind(text, mapping)
    return None if kind is None else float(kind == "add")
