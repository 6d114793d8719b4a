"""The style sheet of figures for papers: one column wide, legible in print and in grey."""

import itertools
from typing import Any, NamedTuple

from lazsim.output.plots.style import COLORS, MARKERS, STYLE

COLUMN_INCHES = 3.33
"""Width of one column of a two-column page, as in ACM's and USENIX's templates."""

PAPER: Any = STYLE | {
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "axes.titlelocation": "left",
    "axes.titlepad": 3,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.handlelength": 2.0,
    "legend.columnspacing": 1.0,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "errorbar.capsize": 1.5,
}
"""Settings for `matplotlib.rc_context`."""


class Look(NamedTuple):
    """How a series is told from others: by colour, and without it by marker, line style and hatch."""

    color: str
    marker: str
    line: Any
    hatch: str


HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++", "||||", "oo")
LINES: Any = ("-", "--", ":", "-.", (0, (3, 1, 1, 1, 1, 1)), (0, (5, 1)), (0, (1, 1)), (0, (4, 2, 1, 2)), (0, (7, 2)))
MORE_COLORS = ("#7a5c2e", "#5b4fa3", "#c2a300", "#9a9a9a")

LOOKS = tuple(
    Look(color, marker, line, hatch)
    for color, marker, line, hatch in zip((*COLORS, *MORE_COLORS), (*MARKERS, "<"), LINES, HATCHES, strict=True)
)
"""In the order in which series are drawn."""

SYSTEM_LOOKS = {name: LOOKS[index] for index, name in enumerate(("lazarus", "ds-ft", "ds", "tutel-ft", "tutel"))}
"""A system looks the same in every figure."""

POLICY_LOOKS = {name: LOOKS[index] for index, name in enumerate(("mro", "spread", "compact", "euclid", "ep", "eplb"))}
"""A placement policy looks the same in every figure."""


def looks_of(names: list[str]) -> dict[str, Look]:
    """Give each series its look: that of the system or policy of its name, else the next free one.

    Examples
    --------
    >>> [look.marker for look in looks_of(["mine", "mro"]).values()]
    ['s', 'o']
    """
    known = {name: look for name, look in (SYSTEM_LOOKS | POLICY_LOOKS).items() if name in names}
    free = itertools.cycle([look for look in LOOKS if look not in known.values()] or LOOKS)
    return {name: known.get(name) or next(free) for name in names}
