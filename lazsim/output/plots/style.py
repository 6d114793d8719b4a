"""One look for every picture, and one way to begin a figure and to turn it into files."""

from __future__ import annotations

import functools
import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

from lazsim.engine.systems import SYSTEMS
from lazsim.placement.policies import POLICIES

if TYPE_CHECKING:
    # The looks are known without it, since it takes longer to load than a short run.
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


P = ParamSpec("P")


class Look(NamedTuple):
    """How a series is told from others: by colour, and without it by marker, line style and hatch."""

    color: str
    marker: Any
    line: Any
    hatch: str


LOOKS = (
    Look("#1b6ca8", "o", "-", ""),
    Look("#d1761a", "s", "--", "////"),
    Look("#555555", "^", ":", "...."),
    Look("#2f8f5b", "D", "-.", "\\\\\\\\"),
    Look("#a23b72", "v", (0, (3, 1, 1, 1, 1, 1)), "xxxx"),
    Look("#7a5c2e", "P", (0, (5, 1)), "----"),
    Look("#5b4fa3", "X", (0, (1, 1)), "++++"),
    Look("#c2a300", "*", (0, (4, 2, 1, 2)), "||||"),
    Look("#9a9a9a", "<", (0, (7, 2)), "oo"),
    Look("#0c8f8f", ">", (0, (2, 1)), "//"),
    Look("#8c1c13", "p", (0, (6, 1, 1, 1)), ".."),
    Look("#6e9a1f", "h", (0, (1, 3)), "\\\\"),
    Look("#d67fb0", "d", (0, (8, 1)), "xx"),
    Look("#1f3d7a", (4, 1, 0), (0, (3, 3)), "--"),
    Look("#e0a273", "H", (0, (5, 2, 2, 2)), "++"),
    Look("#00b3e6", (3, 1, 0), (0, (9, 3, 1, 3)), "**"),
    Look("#3b2a1a", "8", (0, (2, 2, 4, 2)), "OO"),
    Look("#ff5a36", (6, 1, 0), (0, (1, 5)), "||"),
)
"""In the order in which series are drawn: the first five colours are distinct also in grey, and every marker is filled,
and seen without an edge."""

STYLE: Any = {
    # A name such as a$b$ is no formula.
    "text.parse_math": False,
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.3,
    "grid.color": "0.85",
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "pdf.fonttype": 42,
}
"""Settings for `matplotlib.rc_context`, whose type names each of its keys."""

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
"""The same for figures in papers, one column wide."""

RED = "#b3261e"
"""What is lost or in danger, which no series of numbers is."""

DOTS_PER_INCH = 200

NO_STAMPS = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
"""Metadata to leave out: the time of drawing and the version of matplotlib."""


FIRST = ("lazarus", "ds-ft", "ds", "tutel-ft", "tutel", "dropless-ft", "dropless")
FIRST_POLICIES = ("mro", "spread", "compact", "euclid", "ep", "eplb")
SYSTEM_LOOKS, POLICY_LOOKS = (
    dict(zip(dict.fromkeys((*first, *names)), LOOKS, strict=False))
    for first, names in ((FIRST, SYSTEMS), (FIRST_POLICIES, POLICIES))
)
"""A system, and a placement policy, looks the same in every figure."""

BUCKET_COLORS = {
    "compute": "#f0ead6", "checkpoint": "#f2a23a", "lost_work": "#d4705a", "detect": "#eeccff",
    "reconfigure": "#9cf08c", "transfer": "#7f9bd6", "rebalance": "#fff04d", "restart": "#a276ef", "waiting": "#8a9797",
}  # fmt: skip
"""What a job does, in colours that are not those of systems. Colour-blind readers can tell them apart, too: any two
differ by 20 and more in CIE L*a*b*, also as Machado et al. 2009 simulate protanopia and deuteranopia."""

LIGHTEST = 0.45
"""Share of white in the last of the colours of one system."""


def looks_of(names: Sequence[str]) -> dict[str, Look]:
    """Give each series its look: that of the system or policy of its name, else the next free one.

    Series of one system among others, as ``lazarus:mro`` or ``lazarus, nodes 4``, have shades of its colour. Where all
    are one system with a policy, they are told apart by the policy.

    Examples
    --------
    >>> [look.marker for look in looks_of(["mine", "mro"]).values()]
    ['s', 'o']
    >>> looks_of(["lazarus:spread"])["lazarus:spread"] == looks_of(["spread"])["spread"]
    True
    >>> [look.color for look in looks_of(["ds, nodes 4", "ds, nodes 8", "mine, nodes 4"]).values()]
    ['#555555', '#a2a2a2', '#1b6ca8']
    """
    policies = [name.partition(":")[2] for name in names]
    if len({name.partition(":")[0] for name in names}) == 1 and all(policies):
        return dict(zip(names, looks_of(policies).values(), strict=True))
    series: dict[str, list[str]] = {}
    for name in names:
        owner, system = name.partition(", ")[0], re.split("[:,]", name)[0]
        series.setdefault(system if system in SYSTEM_LOOKS else owner, []).append(name)
    known = {owner: look for owner, look in (SYSTEM_LOOKS | POLICY_LOOKS).items() if owner in series}
    free = itertools.cycle([look for look in LOOKS if look not in known.values()] or LOOKS)
    looks = {owner: known.get(owner) or next(free) for owner in series}
    found = {name: look for owner, of_owner in series.items() for name, look in _shades(looks[owner], of_owner)}
    return {name: found[name] for name in names}


def _shades(look: Look, names: Sequence[str]) -> Iterator[tuple[str, Look]]:
    """Yield names with looks in lighter and lighter shades, each with other marks; the first has the look itself."""
    first, parts = LOOKS.index(look), [int(look.color[at : at + 2], 16) for at in (1, 3, 5)]
    for index, name in enumerate(names):
        white = LIGHTEST * index / max(1, len(names) - 1)
        color = "#" + "".join(f"{round(part + white * (255 - part)):02x}" for part in parts)
        yield name, LOOKS[(first + index) % len(LOOKS)]._replace(color=color)


def new_figure(width: float, height: float, layout: Any = "constrained") -> Figure:
    """Return an empty figure of a size in inches that belongs to no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def begin_at_0(*panels: Axes) -> None:
    """Let the vertical axis that panels share begin at 0, with room above all that is drawn."""
    top = max(panel.dataLim.y1 for panel in panels)
    panels[0].set_ylim(0, 1.05 * top if top > 0 else 1)


def ink(color: Any) -> str:
    """Return black or white, whichever is easier to read on a colour.

    Examples
    --------
    >>> ink("#56b4e9"), ink("#0072b2")
    ('black', 'white')
    """
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(color)
    # Rec. 601 luma.
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def write_beside(
    axes: Axes,
    text: str,
    place: tuple[float, float],
    points: tuple[float, float],
    of: Any = "axes fraction",
    **style: Any,
) -> None:
    """Write a small text some points beside a place, which is a share of the axes unless `of` says otherwise."""
    shown: Any = {"fontsize": 7, "color": "0.3"} | style
    axes.annotate(text, place, points, xycoords=of, textcoords="offset points", **shown)


def add_legend(figure: Figure, axes: Axes) -> None:
    """Explain the series of some axes above all panels in as few lines as fit; the figure grows by these."""
    handles, labels = axes.get_legend_handles_labels()
    for num_lines in range(1, len(labels) + 1):
        columns = -(-len(labels) // num_lines)
        legend = figure.legend(handles, labels, loc="outside upper center", ncols=columns)
        extent = legend.get_window_extent()
        if columns == 1 or extent.width <= figure.bbox.width:
            figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)
            return
        legend.remove()


def picture(style: Any, *, tight: bool = False) -> Callable[[Callable[P, Figure]], Callable[P, dict[str, bytes]]]:
    """Let a function that draws a figure do so in a style, and return its files by type instead; see `to_files`."""

    def decorate(draw: Callable[P, Figure]) -> Callable[P, dict[str, bytes]]:
        @functools.wraps(draw)
        def drawn(*given: P.args, **named: P.kwargs) -> dict[str, bytes]:
            import matplotlib

            with matplotlib.rc_context(style):
                return to_files(draw(*given, **named), tight=tight)

        return drawn

    return decorate


def to_files(figure: Figure, *, tight: bool = False) -> dict[str, bytes]:
    """Return a figure by file type, ``png`` and ``pdf``: the same bytes for the same figure.

    `tight` cuts off empty borders.
    """
    files = {}
    # Places are found once, for all files: that takes as long as to draw, and may come out otherwise a second time.
    figure.set_dpi(DOTS_PER_INCH)
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)
    for file_type, stamps in NO_STAMPS.items():
        stream, box = io.BytesIO(), "tight" if tight else None
        figure.savefig(stream, format=file_type, metadata=stamps, dpi=DOTS_PER_INCH, bbox_inches=box)
        files[file_type] = stream.getvalue()
    return files


def name_pictures(name: str, pictures: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return a picture's files by their names.

    Examples
    --------
    >>> name_pictures("trace", {"png": b"...", "pdf": b"..."})
    {'trace.png': b'...', 'trace.pdf': b'...'}
    """
    return {f"{name}.{file_type}": content for file_type, content in pictures.items()}
