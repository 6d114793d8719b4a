"""What an experiment leaves: tables, figures, and the files that keep both."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lazsim.files import json_bytes

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 80
"""Columns of a terminal."""

DIGITS = "%.6g"
"""Of the numbers in tables for machines."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came out.

    Attributes
    ----------
    tables : mapping
        Frames by name; the first one holds what the experiment is about.
    figures : mapping
        Pictures by name, each by file type.
    notes : tuple of str
        What the reader should know: which data were used, what is missing.
    name : str
        The experiment that it is of.
    inputs : mapping
        All that it was made from, with hashes of files.
    """

    tables: Mapping[str, pd.DataFrame]
    figures: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    name: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def report(self) -> str:
        """Return the first table for people, within 80 columns."""
        return text_table(next(iter(self.tables.values())))

    def files(self, folder: Path) -> dict[Path, bytes]:
        """Return the content of every file: tables as CSV and Markdown, figures as PNG and PDF."""
        record = {"experiment": self.name, **self.inputs, "notes": list(self.notes)}
        contents = {folder / "run.json": json_bytes(record)}
        for name, frame in self.tables.items():
            contents[folder / f"{name}.csv"] = csv_bytes(frame)
            contents[folder / f"{name}.md"] = markdown(frame).encode()
        for name, pictures in self.figures.items():
            contents |= {folder / f"{name}.{kind}": content for kind, content in pictures.items()}
        return contents


def csv_bytes(frame: pd.DataFrame) -> bytes:
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
    numeric = [frame[name].dtype.kind in "if" for name in frame.columns]
    lines = [list(map(str, frame.columns)), ["---:" if right else "---" for right in numeric]]
    lines += [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def text_table(frame: pd.DataFrame) -> str:
    """Write a table for a terminal: as many columns as fit within `WIDTH`, without those that are the same in all rows.

    Examples
    --------
    >>> import pandas as pd
    >>> print(text_table(pd.DataFrame({"system": ["ds", "lazarus"], "samples": [12345.6, 99.0]})))
    system  samples
    ds       12,346
    lazarus      99
    """
    shown = frame[[name for name in frame.columns if len(frame) == 1 or len(set(frame[name])) > 1]]
    lines = [list(map(str, shown.columns)), *([_cell(value) for value in row] for row in shown.itertuples(index=False))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    count = sum(total <= WIDTH for total in itertools.accumulate(width + 1 for width in widths))
    right = [shown[name].dtype.kind in "if" for name in shown.columns[:count]]
    text = "\n".join(
        " ".join(
            f"{cell:{'>' if is_right else '<'}{width}}"
            for cell, width, is_right in zip(line, widths, right, strict=False)
        ).rstrip()
        for line in lines
    )
    if count == len(widths):
        return text
    left_out = f"more in the files: {', '.join(shown.columns[count:])}"
    return f"{text}\n{textwrap.fill(left_out, WIDTH)}"


def _cell(value: Any) -> str:
    """Write a number with three digits, or as a whole one from 1000 on."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, float) and abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if math.isfinite(value) else "infinite"
