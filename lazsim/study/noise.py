"""How much the measured throughput of the same settings differs, without anything that a model could know."""

import numpy as np
import numpy.typing as npt

RELEASES = ((0.0, 0.5, 0.75, 0.9, 1.0), (0.0, 0.016, 0.047, 0.065, 0.144))
"""Shares of 65 groups of published runs with the same settings, and by how much their releases differ at most; what
releases gained is in it, and one pair at 56 %, whose settings are wrong, is not."""

TEAMS = 0.055
"""Median by which two teams differ with the same recipe: nine pairs of published runs of MCore's recipes."""

MEDIAN_OF_NORMAL = 0.6745
"""Median of a normal number without its sign."""


def draw_differences(
    generator: np.random.Generator, size: tuple[int, ...], several_teams: bool
) -> npt.NDArray[np.float64]:
    """Draw by what share two runs with the same settings differ: as releases do, and as teams do if there are several.

    Returns
    -------
    numpy.ndarray
        Shares of this size, as often below 0 as above.
    """
    releases = np.interp(generator.random(size), *RELEASES) * generator.choice([-1, 1], size)
    teams = generator.normal(0.0, TEAMS / MEDIAN_OF_NORMAL, size) if several_teams else 0.0
    return np.asarray(releases + teams)
