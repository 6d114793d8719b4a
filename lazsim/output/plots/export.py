"""Begin a figure, and turn a finished one into the content of files: the same bytes for the same figure."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DOTS_PER_INCH = 200

NO_STAMPS = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
"""Metadata to leave out: the time of drawing and the version of matplotlib."""


def new_figure(width: float, height: float, layout: Any = "constrained") -> Figure:
    """Return an empty figure of a size in inches that belongs to no window."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def subplots(rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """Return a new figure with a grid of axes; options are those of `Figure.subplots`."""
    figure = new_figure(*figsize)
    return figure, figure.subplots(rows, columns, **options)


def to_files(figure: Figure, file_types: Sequence[str] = tuple(NO_STAMPS), *, tight: bool = False) -> dict[str, bytes]:
    """Return a figure by file type, ``png`` and ``pdf``; `tight` cuts off empty borders."""
    return {file_type: _to_file(figure, file_type, "tight" if tight else None) for file_type in file_types}


def _to_file(figure: Figure, file_type: str, box: str | None) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=file_type, metadata=NO_STAMPS[file_type], dpi=DOTS_PER_INCH, bbox_inches=box)
    return stream.getvalue()
