"""The outcome of an experiment as text and as files."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lazsim.files.writing import json_bytes
from lazsim.output.plots.style import name_pictures
from lazsim.output.table import Column, Table, render

if TYPE_CHECKING:
    import pandas as pd

    from lazsim.study.experiment import Outcome

DIGITS = "%.6g"
"""Format of the numbers in tables for machines."""

MOST_ROWS = 50
"""Rows of a table that a terminal shows."""


def outcome_files(outcome: Outcome, name: str) -> dict[str, bytes]:
    """Return every file by name: tables as CSV and Markdown, figures as PNG and PDF, and all inputs."""
    contents = {"run.json": json_bytes({"experiment": name, **outcome.inputs, "notes": list(outcome.notes)})}
    for table, frame in outcome.tables.items():
        contents |= {f"{table}.csv": frame_csv(frame), f"{table}.md": markdown(frame).encode()}
    for figure, pictures in outcome.figures.items():
        contents |= name_pictures(figure, pictures)
    return contents


def frame_csv(frame: pd.DataFrame) -> bytes:
    """Write a table for machines, numbers with six digits."""
    return frame.to_csv(index=False, lineterminator="\n", float_format=DIGITS).encode()


def markdown(frame: pd.DataFrame) -> str:
    r"""Write a table for people.

    Examples
    --------
    >>> import pandas as pd
    >>> print(markdown(pd.DataFrame({"system": ["ds"], "samples_mean": [12345.6], "ratio": [0.1234]})))
    | system | samples_mean | ratio |
    | --- | ---: | ---: |
    | ds | 12,346 | 0.123 |
    <BLANKLINE>
    """
    lines = [list(map(str, frame.columns)), ["---:" if _is_number(frame[name]) else "---" for name in frame.columns]]
    lines += [list(map(_cell, row)) for row in frame.itertuples(index=False)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def outcome_text(outcome: Outcome, width: int | None = None, title: str = "") -> str:
    """Return a title and the first table of an outcome for a terminal; see `lazsim.output.table.render`."""
    name, frame = next(iter(outcome.tables.items()))
    table = _table(frame)
    if (num_left := len(frame) - MOST_ROWS) > 0:
        table = replace(table, rows=table.rows[:MOST_ROWS], notes=[*table.notes, f"{num_left:,} more in {name}.csv"])
    return render([title, table] if title else [table], width)


def _table(frame: pd.DataFrame) -> Table:
    """Take the first columns that tell rows apart for keys, and say once what keys all rows have in common."""
    # As texts, since a script of a user may have values that cannot be compared.
    names, texts = list(frame.columns), frame.astype(str)
    num_keys = next((count for count in range(1, len(names)) if not texts.duplicated(names[:count]).any()), 1)
    common = [name for name in names[:num_keys] if len(frame) > 1 and len(set(texts[name])) == 1]
    shown = frame.drop(columns=common)
    columns = [Column(str(name), _cell, _kind(shown[name]), is_key=name in names[:num_keys]) for name in shown]
    values = [f"{name} {text}" for name in common if (text := _cell(frame[name].tolist()[0]))]
    notes = [f"in all rows: {', '.join(values)}"] if values else []
    return Table(columns, shown.to_numpy(dtype=object).tolist(), notes=notes)


def _kind(values: pd.Series[Any]) -> Any:
    if _is_number(values):
        return "number"
    return "text" if values.astype(str).str.contains(" ").any() else "name"


def _is_number(values: pd.Series[Any]) -> bool:
    return values.dtype.kind in "if"


def _cell(value: Any) -> str:
    """Write a number with three digits, or as a whole one from 1000 on; nothing for a missing one."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return str(value)
    if isinstance(value, float) and abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if math.isfinite(value) else "infinite"
