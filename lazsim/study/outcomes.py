"""Outcomes under failures that others published, replayed by the engine.

A row of a table has an `id`, what was published (`metric`, `value`, `unit`), how near a replay has to come
(`tolerance_hint`), and the set-up: a function of `lazsim.study.replays` (`replay`) with its numbers (`inputs`). Rows of
other tables without a set-up take that of the catalogue's row of the same id.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from inspect import signature

from lazsim.errors import SpecError, prefix_errors
from lazsim.files import read_bytes
from lazsim.limits import MAX_WHOLE
from lazsim.study.measured_runs import Row, read_table
from lazsim.study.replays import ECHOES, REPLAYS

CATALOG = "measured/outcomes.csv"

NEEDED = ("id", "metric", "value", "tolerance_hint")
"""Columns that a table of outcomes must have."""

TOLERANCE = re.compile(r"(?P<bound>[<>]=?)?\s*(?P<number>\d+(\.\d+)?)\s*(?P<unit>%|points|h)?")

ROUNDING = 1e-9


@dataclass(frozen=True)
class Outcome:
    """A published outcome.

    Attributes
    ----------
    published : tuple of float
        Figures in `unit`: one, or several that one replay gives.
    tolerance : str
        ``3%`` of the figure, ``0.01`` or ``2 points`` beside it, ``exact``, or a bound such as ``>=0.9``.
    replay : callable or None
        Makes the figures anew; none where the row cannot be replayed.
    skipped : str
        Reason why not.
    echoes : bool
        Whether the figure is an input of the replay, which then predicts nothing.
    why : str
        Reason why a replay differs, where it is known.
    """

    id: str
    group: str
    metric: str
    unit: str
    source: str
    published: tuple[float, ...]
    tolerance: str
    replay: Callable[[], Sequence[float]] | None
    skipped: str = ""
    echoes: bool = False
    why: str = ""


@dataclass(frozen=True)
class ReplayedOutcome:
    """A published outcome and its replay.

    Attributes
    ----------
    predicted, measured, error : float or None
        The replayed figure, the published one, and ``predicted / measured - 1``. Of several figures, those that are
        furthest off. None where the row was skipped.
    within : bool or None
        Whether every figure is within the tolerance.
    echoes : bool
        Whether the figure is an input of the replay.
    why : str
        Reason why the replay is not within the tolerance, where it is known.
    """

    id: str
    group: str
    metric: str
    predicted: float | None
    measured: float | None
    error: float | None
    skipped: str
    source: str
    unit: str
    tolerance: str
    within: bool | None
    echoes: bool
    why: str = ""


def read_outcomes(path: str | None = None) -> list[Outcome]:
    """Read published outcomes from a file, or the catalogue's.

    Raises
    ------
    LazsimError
        When the file cannot be read, lacks columns, or has a set-up that there is not.
    """
    content = (resources.files("lazsim") / "catalog" / CATALOG).read_bytes()
    catalogue = {row["id"]: row for row in read_table(CATALOG, content, NEEDED)}
    if path is None:
        return [outcome_of(row, catalogue) for row in catalogue.values()]
    rows = read_table(path, read_bytes(path), NEEDED)
    with prefix_errors(path):
        return [outcome_of(row, catalogue) for row in rows]


def has_outcomes(path: str) -> bool:
    """Tell whether a file has the columns of outcomes, not those of measured runs."""
    head = read_bytes(path).partition(b"\n")[0].decode("utf-8", "replace").split(",")
    return {"metric", "value"} <= {column.strip().strip('"') for column in head}


def outcome_of(row: Row, catalogue: Mapping[str, Row]) -> Outcome:
    """Read a row of a table; `catalogue` has the catalogue's rows by id."""
    known = catalogue.get(row["id"], {})
    setup = row if row.get("replay") else known
    published = tuple(map(_number, re.split(r"[,/]", row["value"])))
    replay, skipped = None, known.get("notes") or "no set-up (`replay`) is given, and the catalogue has none of this id"
    if setup.get("replay"):
        replay, skipped = _replay_of(row["id"], setup), ""
        if any(map(math.isnan, published)):
            replay, skipped = None, f"value {row['value']!r} is no number"
        elif row["tolerance_hint"] != "exact" and not TOLERANCE.fullmatch(row["tolerance_hint"]):
            replay, skipped = None, f"tolerance {row['tolerance_hint']!r} is none of 3%, 0.01, 2 points, exact, >=0.9"
    return Outcome(
        row["id"], row.get("group", ""), row["metric"], row.get("unit", ""), row.get("source", ""), published,
        row["tolerance_hint"], replay, skipped, setup.get("replay") in ECHOES, setup.get("notes", "") if replay else "",
    )  # fmt: skip


def replay_outcome(outcome: Outcome) -> ReplayedOutcome:
    """Replay a published outcome."""
    predicted = error = within = None
    measured: float | None = outcome.published[0]
    if outcome.replay is not None:
        with prefix_errors(outcome.id):
            found = outcome.replay()
        if len(found) != len(outcome.published):
            raise SpecError(f"{outcome.id}: its replay gives {len(found)} figures, and `value` has another number")
        pairs = list(zip(found, outcome.published, strict=True))
        within = all(is_within(one, figure, outcome.tolerance) for one, figure in pairs)
        predicted, measured = max(pairs, key=lambda pair: abs(pair[0] - pair[1]) / abs(pair[1] or 1.0))
        error = predicted / measured - 1 if measured else None
    elif math.isnan(outcome.published[0]):
        measured = None
    return ReplayedOutcome(
        outcome.id, outcome.group, outcome.metric, predicted, measured, error, outcome.skipped, outcome.source,
        outcome.unit, outcome.tolerance, within, outcome.echoes, outcome.why if within is False else "",
    )  # fmt: skip


def is_within(predicted: float, published: float, tolerance: str) -> bool:
    """Tell whether a figure is as near to the published one as a tolerance says.

    Examples
    --------
    >>> is_within(1.78, 1.8, "3%"), is_within(81.2, 82.3, "2 points"), is_within(0.89, 0.9, ">=0.90")
    (True, True, False)
    """
    if tolerance == "exact":
        return math.isclose(predicted, published, rel_tol=ROUNDING)
    found = TOLERANCE.fullmatch(tolerance)
    assert found is not None, "the row was read"
    number = float(found["number"])
    if found["bound"]:
        return predicted >= number if found["bound"][0] == ">" else predicted <= number
    return abs(predicted - published) <= number * (abs(published) / 100 if found["unit"] == "%" else 1) + ROUNDING


def _replay_of(row_id: str, setup: Row) -> Callable[[], Sequence[float]]:
    name = setup["replay"]
    if name not in REPLAYS:
        raise SpecError(f"{row_id}: unknown `replay` {name!r}; known: {', '.join(REPLAYS)}")
    inputs: dict[str, float] = {}
    for part in filter(None, map(str.strip, setup.get("inputs", "").split(";"))):
        key, _, value = (text.strip() for text in part.partition("="))
        inputs[key] = _number(value)
        if not 0 < inputs[key] < MAX_WHOLE:
            raise SpecError(f"{row_id}: `inputs` {part!r}: expected a name, = and a number above 0")
    try:
        signature(REPLAYS[name]).bind(**inputs)
    except TypeError as error:
        raise SpecError(f"{row_id}: `inputs` of {name}: {error}") from None
    return lambda: REPLAYS[name](**inputs)


def _number(text: str) -> float:
    """Return the number that a text begins with; a bound before it is left out."""
    found = re.match(r"\s*[<>~=]*\s*(\d+(\.\d+)?([eE][+-]?\d+)?)", text)
    return float(found[1]) if found else math.nan
