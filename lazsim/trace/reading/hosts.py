"""Expand lists of hosts as Slurm writes them, such as ``gpu-[01-03,07]``."""

import re

from lazsim.errors import LONGEST_CAUSE, shorten
from lazsim.limits import MAX_NODES

PART = re.compile(r"(.*\d\w*)([-_./: ]+)(gpu|device|card|nic)[\W_]*(\d|1[0-5])", re.IGNORECASE | re.ASCII)
"""Names such as ``n1:gpu0`` of parts of a node, of which none has over 16 (DGX-2), and such as ``zone1/gpu-1``, which
may be nodes of their own."""
_RANGES = re.compile(r"\[([^\[\]]*)\]")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)
_MOST_DIGITS = 20
_NAMES = re.compile(r"[^\s!&^@%()]+")


def expand_hosts(text: str) -> list[str]:
    """Return the names in a list of hosts, in its order, but by number in brackets; a ValueError says that it is none.

    Examples
    --------
    >>> expand_hosts("login,gpu-[01-03,07]")
    ['login', 'gpu-01', 'gpu-02', 'gpu-03', 'gpu-07']
    """
    parts = re.split(r",(?![^\[]*\])", text)
    if not all(map(_NAMES.fullmatch, parts)):
        raise ValueError(f"{shorten(text)!r} is no list of hosts, such as gpu-[01-03,07]")
    # The library makes every number of a range, whatever its size.
    if sum(map(_size, parts)) > MAX_NODES:
        raise ValueError(f"{shorten(text)!r} has more than {MAX_NODES:,} hosts")
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

    try:
        # It sorts what it is given at once.
        return list(dict.fromkeys(str(host) for part in parts for host in NodeSet(part, resolver=RESOLVER_NOGROUP)))
    except NodeSetException as error:
        raise ValueError(f"{shorten(text)!r} is no list of hosts ({shorten(error, LONGEST_CAUSE)})") from None


def whole_node(name: str) -> str:
    """Return the node of a part of one, such as ``n1:gpu0``, or else the name itself."""
    found = PART.fullmatch(name)
    return found[1] if found and found[2] == ":" else name


def natural_order(name: str) -> tuple[str, str]:
    """Return the key that sorts names as people do, by the numbers in them.

    Examples
    --------
    >>> sorted(["gpu-10", "gpu-9", "10.0.0.10", "10.0.0.9"], key=natural_order)
    ['10.0.0.9', '10.0.0.10', 'gpu-9', 'gpu-10']
    """
    # Names that differ by leading zeros alone need an order, too.
    return re.sub(r"\d+", lambda number: number[0].zfill(_MOST_DIGITS), name), name


def _size(name: str) -> int:
    """Return how many hosts a name with ranges stands for."""
    size = 1
    for ranges in _RANGES.findall(name):
        found = [_RANGE.fullmatch(one) for one in ranges.split(",")]
        size *= sum(1 + int(one[2] or one[1]) - int(one[1]) for one in found if one)
    return size
