"""From a finished figure to the content of files: the same bytes for the same figure."""

import io

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

DOTS_PER_INCH = 200

NO_STAMPS = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
"""What would tell when and by what version a picture was made."""


def to_file(figure: Figure, file_type: str, *, tight: bool = False) -> bytes:
    """Close a figure and return it as a file.

    Parameters
    ----------
    figure
        What to save; nothing can be added afterwards.
    file_type
        ``png`` or ``pdf``.
    tight
        Whether to cut off empty borders.
    """
    stream = io.BytesIO()
    figure.savefig(
        stream,
        format=file_type,
        metadata=NO_STAMPS[file_type],
        dpi=DOTS_PER_INCH,
        bbox_inches="tight" if tight else None,
    )
    plt.close(figure)
    return stream.getvalue()


def to_files(figure: Figure, *, tight: bool = False) -> dict[str, bytes]:
    """Close a figure and return it by file type, ``png`` and ``pdf``; see `to_file`."""
    return {file_type: to_file(figure, file_type, tight=tight) for file_type in NO_STAMPS}
