"""Systems against each other over many seeds: means, and how many times better the first one is, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lazsim.study.intervals import mean_interval, ratio_interval

if TYPE_CHECKING:
    import pandas as pd

COUNTS = ("num_failures", "num_reconfigurations", "num_restarts", "lost_steps", "ettr")


def compare(
    rows: pd.DataFrame, setting: Sequence[str], value: str = "samples", *, less_is_better: bool = False
) -> pd.DataFrame:
    """Compare the first system with every other, in each setting.

    Parameters
    ----------
    rows
        A row for each run: `setting`, ``system``, ``seed`` and `value`, such as those of a sweep. In each setting all
        systems have the same seeds.
    setting
        Columns that tell settings apart.
    value
        Column that is compared.
    less_is_better
        Whether the system with less of it is the better one, as for a time.

    Returns
    -------
    DataFrame
        A row for each setting and system: mean and 95 % interval over seeds of the value, means of counts, and
        ``advantage``, the total of the first system over that of this one (the other way round where less is better),
        with its interval.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = pd.DataFrame({"system": ["a", "b"] * 2, "seed": [0, 0, 1, 1], "model": "m", "samples": [4, 2, 8, 4]})
    >>> compare(rows, ["model"])[["system", "samples", "advantage"]].values.tolist()
    [['a', 6.0, 1.0], ['b', 3.0, 2.0]]
    """
    import pandas as pd

    found = []
    for key, group in rows.groupby(list(setting), sort=False):
        by_system = {
            system: part.set_index("seed").sort_index() for system, part in group.groupby("system", sort=False)
        }
        first = next(iter(by_system.values()))[value].tolist()
        for system, part in by_system.items():
            mean, low, high = mean_interval(part[value].tolist())
            pair = (part[value].tolist(), first) if less_is_better else (first, part[value].tolist())
            times, times_low, times_high = ratio_interval(*pair)
            found.append(
                dict(zip(setting, key, strict=True))
                | {"system": system, "runs": len(part), value: mean, "ci_low": low, "ci_high": high}
                | {"advantage": times, "advantage_low": times_low, "advantage_high": times_high}
                | {count: float(part[count].mean()) for count in COUNTS if count in part}
            )
    return pd.DataFrame(found)


def average(rows: pd.DataFrame, setting: Sequence[str], value: str) -> pd.DataFrame:
    """Return the mean of a value in each setting with its 95 % interval, ``ci_low`` and ``ci_high``."""
    import pandas as pd

    found = []
    for key, group in rows.groupby(list(setting), sort=False):
        mean, low, high = mean_interval(group[value].tolist())
        found.append(dict(zip(setting, key, strict=True)) | {value: mean, "ci_low": low, "ci_high": high})
    return pd.DataFrame(found)


def advantage_change(table: pd.DataFrame, column: str, before: str, after: str, setting: Sequence[str]) -> pd.DataFrame:
    """Return by how much the advantage over each system changes from one value of a column to another.

    `table` is that of `compare`. `setting` has the other columns that tell settings apart; settings that lack either
    value are left out.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"loads": ["even", "odd"] * 2, "system": ["a", "a", "b", "b"], "advantage": [1, 1, 2, 3]})
    >>> advantage_change(table, "loads", "even", "odd", []).values.tolist()
    [['b', 2, 3, 0.5]]
    """
    keys = [*setting, "system"]
    sides = [
        table[table[column] == value].set_index(keys)["advantage"].rename(value).to_frame() for value in (before, after)
    ]
    joined = sides[0].join(sides[1], how="inner").reset_index()
    others: pd.DataFrame = joined[joined["system"] != table["system"].iloc[0]]
    return others.assign(change=others[after] / others[before] - 1)
