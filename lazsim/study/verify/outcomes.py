"""Outcomes under failures that others published, replayed by the engine.

A row of a table has an `id`, what was published (`metric`, `value`, `unit`), how near a replay has to come
(`tolerance_hint`), and its inputs in words (`inputs`). `lazsim.study.verify.setups` has the set-ups: a row names one
(`replay`), or it is that of the catalogue's row of the same id, or of rows of the same `group` and `metric`.
"""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lazsim.errors import LazsimError, SpecError, prefix_errors, unknown_name
from lazsim.files.reading import CATALOG, read_bytes
from lazsim.files.tables import Cells
from lazsim.study.verify.cells import APART, OWN, UNKNOWN_INPUTS, read_rows
from lazsim.study.verify.outcome_inputs import overruled_words, read_inputs, refuse_unread, unread_words
from lazsim.study.verify.replays import MissingError, replay, scale_of
from lazsim.study.verify.setups import Setup, figures_of, find_setup, load_setups
from lazsim.units import counted

OUTCOMES = "measured/outcomes.csv"

NEEDED = ("id", "metric", "value", "tolerance_hint")
"""Columns that a table of outcomes must have."""

FIGURE = re.compile(r"\s*[<>~=]*\s*(?P<number>\d+(\.\d+)?([eE][+-]?\d+)?)\s*(?P<unit>\D*)")
"""A figure of a row, with its unit or without; a bound before it is left out."""

TOLERANCE = re.compile(r"(?:±|\+/-)?(?P<bound>[<>]=?)?\s*(?P<number>\d+(\.\d+)?)\s*(?P<unit>%|points|h)?(?: \(.*\))?")
LARGER_OF = re.compile(r"max\((?P<percent>[\d.]+)%, (?P<times>[\d.]+) sd\); sd=(?P<deviation>[\d.]+)(?: .*)?")
"""The larger of a share of the figure, and of a multiple of the deviation of published runs."""

REFERENCE = re.compile(r"\bas ([\w.-]*\w)(?:[,;]? (?:but|with)\b)?")
"""Another row, whose inputs are those of a row, too."""

UNKNOWN_REFERENCE = re.compile(r"(?:^|;)\s*(as [\w.-]*\w)(?=[,;]? (?:but|with)\b|\s*(?:;|$))")
"""Words at the begin of a clause that refer to a row, where those that there are have been left out."""

ROUNDING = 1e-9


@dataclass(frozen=True)
class PublishedOutcome:
    """A published outcome."""

    id: str
    group: str
    metric: str
    unit: str
    source: str
    published: tuple[float, ...]
    """Figures in `unit`: one, or several that one replay gives. Times and shares are converted to it."""
    tolerance: str
    """``3%`` of the figure, ``0.01`` or ``2 points`` beside it, ``exact``, a bound such as ``>=0.9``, or ``max(2%, 2
    sd); sd=4``."""
    setup: Setup | None = None
    figures: tuple[str, ...] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    """Arguments of `lazsim.study.verify.replays.replay`; no set-up where the row cannot be replayed."""
    unread: tuple[str, ...] = ()
    """Words of the inputs with a number that the set-up does not read: the replay is counted apart."""
    place: str = ""
    """File, line and row, for messages."""
    names_setup: bool = False
    """Whether the row names its set-up, so that one that cannot be simulated is a mistake. The inputs of other rows are
    prose that others wrote: they are skipped."""
    skipped: str = ""
    """Reason why not."""
    why: str = ""
    """Reason why a replay differs, where it is known."""


@dataclass(frozen=True)
class Prediction:
    """A row of a table, and what lazsim predicts for it."""

    id: str
    """Name of the row."""
    group: str
    """Rows that it belongs to."""
    metric: str
    """What was measured or published."""
    predicted: float | None
    measured: float | None
    error: float | None
    """Values in the unit of the metric, and ``predicted / measured - 1``; none where the row was skipped."""
    skipped: str
    """Reason why there is no prediction."""
    source: str
    """Where it is from."""


@dataclass(frozen=True)
class ReplayedOutcome(Prediction):
    """A published outcome and its replay; of several figures, the values are those that are furthest off."""

    unit: str
    tolerance: str
    within: bool | None
    """Whether every figure is within the tolerance."""
    echoes: bool
    """Whether the figure is an input of the replay."""
    inputs: str
    """How well the inputs are known: `OWN`, `APART` where some of their numbers are not read, or `UNKNOWN_INPUTS`."""
    why: str = ""
    """Reason why the replay is not within the tolerance, where it is known."""


def read_outcomes(path: str | None = None) -> list[PublishedOutcome]:
    """Read published outcomes from a file, or the catalogue's.

    Raises
    ------
    LazsimError
        When the file cannot be read, lacks columns, or has a set-up that there is not.
    """
    content = (CATALOG / OUTCOMES).read_bytes()
    catalogue = {row["id"]: row for row in read_rows(OUTCOMES, content, NEEDED).values()}
    if path is None:
        return [outcome_of(row, {}) for row in catalogue.values()]
    rows = read_rows(path, read_bytes(path), NEEDED)
    # The catalogue has the reading of what is said to be so or not.
    rows = {
        line: catalogue[row["id"]] if row["id"] in catalogue and row["value"] in ("yes", "no") else row
        for line, row in rows.items()
    }
    by_id = {**catalogue, **{row["id"]: row for row in rows.values()}}
    folder = Path(path).parent
    return [outcome_of(row, catalogue, by_id, folder, f"{path}, line {line}: ") for line, row in rows.items()]


def has_outcomes(path: str) -> bool:
    """Tell whether a file has the columns of outcomes, not those of measured runs."""
    head = read_bytes(path).partition(b"\n")[0].decode("utf-8-sig", "replace").split(",")
    return {"metric", "value"} <= {column.strip().strip('"') for column in head}


def outcome_of(
    row: Cells,
    catalogue: Mapping[str, Cells],
    rows: Mapping[str, Cells] | None = None,
    folder: Path = Path(),
    place: str = "",
) -> PublishedOutcome:
    """Read a row of a table.

    Parameters
    ----------
    catalogue, rows
        The catalogue's rows by id, and all to which a row may refer.
    folder
        Where files of traces are.
    place
        Begin of messages.
    """
    known = catalogue.get(row["id"], {})
    group = row.get("group") or known.get("group", "")
    published = tuple(map(_number, _parts(row["value"])))
    outcome = PublishedOutcome(
        row["id"], group, row["metric"], row.get("unit", ""), row.get("source", ""), published, _tolerance(row),
        place=f"{place}{row['id']}", names_setup=bool(row.get("replay")),
    )  # fmt: skip
    with prefix_errors(outcome.place):
        try:
            return _with_setup(outcome, row, known, rows or {}, folder)
        except MissingError as missing:
            return replace(outcome, skipped=str(missing))
        except SpecError as error:
            if outcome.names_setup:
                raise
            return replace(outcome, skipped=str(error))


def _tolerance(row: Cells) -> str:
    """Return how near a replay has to come: a value such as ``<0.05``, and that of a limit, is a bound."""
    tolerance, value = row["tolerance_hint"], row["value"].strip()
    bound = value[:1] if value[:1] in ("<", ">") else "<=" if row["metric"].endswith(" limit") else ""
    is_bound = tolerance[:1] in ("<", ">")
    is_known = is_within(0.0, 0.0, tolerance) is not None
    return f"{bound}{_number(value):g}" if bound and not is_bound and is_known else tolerance


def _with_setup(
    outcome: PublishedOutcome, row: Cells, known: Cells, rows: Mapping[str, Cells], folder: Path
) -> PublishedOutcome:
    """Return an outcome with its set-up; a MissingError says why there is none."""
    setups = load_setups().setups
    name = row.get("replay") or known.get("replay")
    if not name and ((row.get("notes") and "replay" in row) or known):
        # The catalogue says of its own rows why they are not replayed.
        raise MissingError((known or row).get("notes") or "no set-up is known")
    name = name or find_setup(outcome.group, outcome.metric, row.get("system", ""))
    if not name:
        raise MissingError(
            f"no set-up is known for the metric {outcome.metric!r} of group {outcome.group!r}: name one (`replay`)"
        )
    if name not in setups:
        raise SpecError(unknown_name("`replay`", name, list(setups)))
    setup = setups[name]
    figures = figures_of(setup, outcome.metric)
    if figures is None:
        raise SpecError(f"`metric` {outcome.metric!r}: {name} gives {', '.join(map(repr, setup.figures))}")
    figures_told = [FIGURE.fullmatch(one) for one in _parts(row["value"])]
    if not all(one and one["unit"].strip() in ("", "%", outcome.unit) for one in figures_told):
        raise MissingError(f"value {row['value']!r} is no number from 0 up")
    if "%" in row["value"] and outcome.unit != "%":
        raise MissingError(f"value {row['value']!r} is in %, and `unit` is {outcome.unit!r}")
    own, referred = _own_inputs(row, rows)
    names = re.findall(r"(?:^|;)\s*(\w+)\s*=", own)
    if outcome.names_setup and (strange := [one for one in names if one not in setup.inputs]):
        raise SpecError("`inputs`: " + unknown_name(f"input of {name}", strange[0], list(setup.inputs)))
    tolerance = outcome.tolerance
    if is_within(0.0, 0.0, tolerance) is None:
        raise MissingError(f"tolerance {tolerance!r} is none of 3%, 0.01, 2 points, exact, >=0.9, max(2%, 2 sd); sd=4")
    others = [rows[name] for name in referred]
    inputs = read_inputs(setup, "; ".join((*map(_told, others), known.get("inputs", ""), _told(row))))
    if outcome.names_setup:
        refuse_unread(setup, own)
    missing = [name for name, one in setup.inputs.items() if one.is_needed and name not in inputs]
    if missing:
        raise MissingError(f"`inputs` do not give {', '.join(missing)}, which {name} needs")
    found = TOLERANCE.fullmatch(tolerance)
    if found and found["unit"] in ("points", "h") and outcome.unit != {"points": "%", "h": "h"}[found["unit"]]:
        raise MissingError(f"tolerance {tolerance!r}, and `unit` is {outcome.unit!r}; give both in one unit")
    why = row.get("notes", "") if "replay" in row else known.get("notes", "")
    texts, further = zip(*(_own_inputs(one, rows) for one in (*others, row)), strict=True)
    # The last of several rows counts, and rows to which these refer do not.
    unread = [f"as {name}" for names in (referred[:-1], *further[:-1]) for name in names]
    unread += unread_words(setup, "; ".join(texts))
    for one, text in zip((*others, row), texts, strict=True):
        unread += [name for name in UNKNOWN_REFERENCE.findall(text) if not any(name in words for words in unread)]
        unread += overruled_words(setup, _told({**one, "inputs": text}))
    return replace(outcome, setup=setup, figures=figures, inputs=inputs, folder=folder, why=why, unread=tuple(unread))


def _own_inputs(row: Cells, rows: Mapping[str, Cells]) -> tuple[str, list[str]]:
    """Return the inputs of a row without the names of other rows to which it refers, and these names."""
    told = row.get("inputs", "")
    names = [name for name in dict.fromkeys(REFERENCE.findall(told)) if name in rows and name != row["id"]]
    return REFERENCE.sub(lambda found: "" if found[1] in names else found[0], told), names


def _told(row: Cells) -> str:
    """Return what a row says of its inputs."""
    return f"{row.get('cluster', '')}; {row.get('inputs', '')}"


def replay_outcome(outcome: PublishedOutcome) -> ReplayedOutcome:
    """Replay a published outcome."""
    predicted = error_share = within = None
    measured: float | None = None if math.isnan(outcome.published[0]) else outcome.published[0]
    skipped = outcome.skipped
    if outcome.setup is not None:
        try:
            with prefix_errors(outcome.place):
                replayed = replay(outcome.setup, outcome.figures, outcome.inputs, outcome.folder)
                scales = [scale_of(figure, outcome.unit) for figure in outcome.figures]
                found = [figure * scale for figure, scale in zip(replayed, itertools.cycle(scales), strict=False)]
                if len(found) != len(outcome.published):
                    told = f"`value` has {counted(len(outcome.published), 'figure')}, of which a comma or / parts two"
                    raise SpecError(f"{told}, and its replay gives {len(found)}")
        except LazsimError as error:
            if outcome.names_setup and not isinstance(error, MissingError):
                raise
            skipped = str(error).removeprefix(f"{outcome.place}: ")
        else:
            pairs = list(zip(found, outcome.published, strict=True))
            within = all(is_within(one, figure, outcome.tolerance) for one, figure in pairs)
            predicted, measured = max(pairs, key=lambda pair: abs(pair[0] - pair[1]) / abs(pair[1] or 1.0))
            error_share = predicted / measured - 1 if measured else None
    return ReplayedOutcome(
        outcome.id, outcome.group, outcome.metric, predicted, measured, error_share, skipped, outcome.source,
        outcome.unit, outcome.tolerance, within, outcome.setup is not None and outcome.setup.echoes,
        UNKNOWN_INPUTS if predicted is None else APART if outcome.unread else OWN,
        outcome.why if within is False else "",
    )  # fmt: skip


def is_within(predicted: float, published: float, tolerance: str) -> bool | None:
    """Tell whether a figure is as near to the published one as a tolerance says; None where it is no tolerance.

    Examples
    --------
    >>> is_within(1.78, 1.8, "3%"), is_within(81.2, 82.3, "2 points"), is_within(0.89, 0.9, ">=0.90")
    (True, True, False)
    >>> is_within(95, 100, "max(2%, 2 sd); sd=3 over 8 reps")
    True
    """
    if tolerance == "exact":
        return math.isclose(predicted, published, rel_tol=ROUNDING)
    if larger := LARGER_OF.fullmatch(tolerance):
        share, deviations = float(larger["percent"]) / 100 * abs(published), float(larger["times"])
        most = max(share, deviations * float(larger["deviation"]))
    elif found := TOLERANCE.fullmatch(tolerance):
        most = float(found["number"])
        if found["bound"]:
            return predicted >= most if found["bound"][0] == ">" else predicted <= most
        most *= abs(published) / 100 if found["unit"] == "%" else 1
    else:
        return None
    return abs(predicted - published) <= most + ROUNDING


def _parts(value: str) -> list[str]:
    """Return the figures of a row; what stands in brackets is a comment."""
    return re.split(r"[,/]", re.sub(r"\(.*?\)", "", value))


def _number(text: str) -> float:
    """Return the number that a text begins with."""
    found = FIGURE.match(text)
    return float(found["number"]) if found else math.nan
