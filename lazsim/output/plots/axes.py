"""Numbers of axes, and colours of amounts."""

import math

import matplotlib
import numpy as np
from matplotlib.axis import Axis
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

MOST_DECADES_IN_PARTS = 2.5
"""Decades up to which a logarithmic axis also has numbers at 2 and 5."""


FEWEST_DECADES = 0.7
"""Decades up to which numbers at equal distances are needed, since 1, 2 and 5 may be no two of them."""


def amounts_map() -> Colormap:
    """Return colours from little to much, without the darkest, on which no text can be read."""
    return ListedColormap(matplotlib.colormaps["YlGnBu"](np.linspace(0.03, 0.82, 256)))


def plain_number(value: float) -> str:
    """Write the number of a tick in few letters.

    Examples
    --------
    >>> [plain_number(value) for value in (0.05, 250.0, 20_000.0, 2e-6)]
    ['0.05', '250', '20 k', '2 µ']
    """
    return f"{value:g}" if value == 0 or 1e-3 <= abs(value) < 1e4 else EngFormatter(sep=" ")(value)


def number_log_axis(axis: Axis, unit: str = "") -> None:
    """Write numbers on a logarithmic axis whose data are drawn, with a prefix of the unit.

    Text is drawn as it is, so that powers of ten would show as formulas.
    """
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low)
    parts = LogLocator(10, (1, 2, 5) if decades < MOST_DECADES_IN_PARTS else (1,))
    axis.set_major_locator(parts if decades > FEWEST_DECADES else MaxNLocator(4))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(EngFormatter(unit) if unit else FuncFormatter(lambda value, _: plain_number(value)))
