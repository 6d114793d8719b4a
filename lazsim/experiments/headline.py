"""What every comparison of systems comes to: its rows and its headline, the advantage of the first system."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from lazsim.errors import SpecError
from lazsim.experiments.bench import Bench
from lazsim.experiments.campaign import SETTING, Campaign, compare, run_campaign
from lazsim.experiments.large_scale import POINT, LargeScale, large_scale_rows
from lazsim.experiments.sparing import Sparing, sparing_rows
from lazsim.experiments.throughput import Throughput

if TYPE_CHECKING:
    import pandas as pd


def _throughput_rows(spec: Campaign, bench: Bench, changes: Mapping[str, Any] | None = None) -> pd.DataFrame:
    return run_campaign(spec, bench, changes).rows


class Headline(NamedTuple):
    """How the rows of a kind of campaign are made and compared.

    Attributes
    ----------
    rows : callable
        From specification, bench and changed keys to a row for each run.
    setting : list of str
        Columns that tell settings apart.
    value : str
        What is compared.
    less_is_better : bool
        Whether less of it is better.
    """

    rows: Callable[..., pd.DataFrame]
    setting: list[str]
    value: str = "samples"
    less_is_better: bool = False


HEADLINES: Mapping[type[Campaign], Headline] = {
    Throughput: Headline(_throughput_rows, SETTING),
    Sparing: Headline(sparing_rows, [*SETTING, "checkpoints"]),
    LargeScale: Headline(large_scale_rows, [*SETTING, *POINT], "hours", less_is_better=True),
}
"""Kinds of campaigns that have a headline."""


def headline_of(name: str, spec: Any) -> Headline:
    """Return how a campaign is compared.

    Raises
    ------
    SpecError
        When it is none.
    """
    if type(spec) not in HEADLINES:
        raise SpecError(f"{name}: compares no systems, and has no advantage to speak of")
    return HEADLINES[type(spec)]


def advantages(name: str, spec: Any, bench: Bench, changes: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Return the table of a campaign as `compare` makes it; a key that is changed to several values is a column."""
    headline = headline_of(name, spec)
    rows = headline.rows(spec, bench, changes)
    axes = [key for key, value in (changes or {}).items() if isinstance(value, list) and key in rows]
    setting = [*axes, *headline.setting]
    return compare(rows, setting, headline.value, less_is_better=headline.less_is_better)
