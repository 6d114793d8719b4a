"""Names as pictures and maps show them, which have little room."""

import re
from collections.abc import Iterable, Sequence

from rich.cells import cell_len, chop_cells

NAME_LETTERS = 24
"""Letters of the name of a run beside what is drawn."""

LEAST_WIDTH = 8
"""Columns that a name gets at least."""

FILES = re.compile(r"[^:]*\.py:|[^:]*/")
"""What a name can lose first: a run's keeps its system."""


def shown_names(names: Iterable[str], width: int = NAME_LETTERS) -> dict[str, str]:
    """Return each name as it is shown: shortened where it is wider than a width, and distinct from all others.

    The width is 8 at least. Folders, and files of Python before a colon, go first; then the end, or as much of the
    middle as it takes.

    Examples
    --------
    >>> shown_names(["ds", "lazarus:a_folder/my_placement.py:rarest_first"])
    {'ds': 'ds', 'lazarus:a_folder/my_placement.py:rarest_first': 'lazarus:rarest_first'}
    >>> list(shown_names(["lazarus-compact", "lazarus-compact-2", "lazarus"], 10).values())
    ['lazarus-…t', 'lazarus-…2', 'lazarus']
    >>> list(shown_names(["gpt-s-smartmoe-16", "gpt-l-smartmoe-16"], 8).values())
    ['gpt-s-s…', 'gpt-l-s…']
    """
    width = max(width, LEAST_WIDTH)
    distinct = list(dict.fromkeys(names))
    if all(cell_len(name) <= width for name in distinct):
        return dict(zip(distinct, distinct, strict=True))
    short = [name if cell_len(name) <= width else FILES.sub("", name) or name for name in distinct]
    if len(set(short)) < len(distinct):
        short = distinct
    for num_last in range(width - 1):
        cut = [_cut(name, width, num_last) for name in short]
        if len(set(cut)) == len(distinct):
            break
    else:
        cut = _numbered(short, width)
    return dict(zip(distinct, cut, strict=True))


def _cut(name: str, width: int, num_last: int) -> str:
    if cell_len(name) <= width:
        return name
    last = name[len(name) - num_last :]
    while cell_len(last) > width - 2:
        last = last[1:]
    first = chop_cells(name, width - 1 - cell_len(last))[0]
    return f"{first}…{last}"


def _numbered(names: Sequence[str], width: int) -> list[str]:
    """Tell names apart by a number where neither their beginnings nor their ends do."""
    taken = {name for name in names if cell_len(name) <= width}
    found = []
    for name in names:
        short, number = _cut(name, width, 0), 1
        while cell_len(name) > width and short in taken:
            number += 1
            short = f"{chop_cells(name, width - 1 - len(str(number)))[0]}…{number}"
        taken.add(short)
        found.append(short)
    return found
