"""Profiles of one model on one device put together: of each point the fastest."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lazsim.costmodel.profile import Header, Point, read_profile, require_header
from lazsim.errors import SpecError

SAME = ("processor", "num_processors", "num_threads", "gpu", "driver_version", "grouped")
"""Conditions under which times can stand in one profile."""


def merge_profiles(paths: Sequence[Path]) -> tuple[Header, list[Point]]:
    """Put profiles together; the header is that of the last, with the highest peaks, from which all shares are taken.

    Raises
    ------
    LazsimError
        When one cannot be read, or was measured otherwise than the first.
    """
    headers: list[Header] = []
    points: list[Point] = []
    for path in paths:
        profile = read_profile(path)
        header = require_header(profile)
        if headers and (other := difference(header, identity(headers[0]), headers[0].conditions)):
            what, mine, first = other
            raise SpecError(
                f"{path}: measured with {what} {mine}, {paths[0]} with {first}; merge only what was measured alike"
            )
        headers.append(header)
        for point in profile.points:
            keep_fastest(points, point)
    matmul = max(header.matmul_flop_per_s for header in headers)
    copy = max(header.copy_bytes_per_s for header in headers)
    header = msgspec.structs.replace(
        headers[-1], matmul_flop_per_s=matmul, copy_bytes_per_s=copy, left_out=_left_out(headers, points)
    )
    return header, [_with_shares(point, matmul, copy) for point in in_order(points)]


def _with_shares(point: Point, matmul_flop_per_s: float, copy_bytes_per_s: float) -> Point:
    """Take the shares of a point from these peaks; one that was not held against any has none."""
    if not point.roofline_share:
        return point
    matmul = point.flop / matmul_flop_per_s / point.time_s
    copy = point.moved_bytes / copy_bytes_per_s / point.time_s
    return msgspec.structs.replace(
        point, matmul_peak_share=matmul, copy_peak_share=copy, roofline_share=max(matmul, copy)
    )


def keep_fastest(points: list[Point], point: Point) -> None:
    """Add a point, or put it in the place of a slower one: what others do on the machine only adds."""
    index = next((index for index, one in enumerate(points) if one.key == point.key), None)
    if index is None:
        points.append(point)
    elif point.time_s < points[index].time_s:
        points[index] = point


def in_order(points: Sequence[Point]) -> list[Point]:
    """Sort by kernel, as they first appear, number of ranks and size."""
    rank = {kernel: index for index, kernel in enumerate(dict.fromkeys(point.kernel for point in points))}
    return sorted(points, key=lambda point: (rank[point.kernel], point.num_ranks, point.size))


def identity(header: Header) -> dict[str, Any]:
    """Return the fields that all sittings of a profile share."""
    return {name: getattr(header, name) for name in ("torch", "device", "dtype", "model")}


def difference(header: Header, same: Mapping[str, Any], conditions: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Tell the first of what has to be the same that is not: its name, as in the header, and as it should be."""
    pairs = {name: (getattr(header, name), now) for name, now in same.items()}
    pairs |= {name: (header.conditions.get(name), conditions.get(name)) for name in SAME}
    for name, (before, now) in pairs.items():
        if before != now:
            return (name, before.name, now.name) if name == "model" else (name, before, now)
    return None


def say_left_out(sizes: Iterable[tuple[int, str]]) -> str:
    """Say which sizes were left out and why.

    Examples
    --------
    >>> say_left_out([(16, "memory"), (32, "memory"), (8, "--budget")])
    '16, 32: memory; 8: --budget'
    """
    by_reason: dict[str, list[str]] = {}
    for size, reason in sizes:
        by_reason.setdefault(reason, []).append(str(size))
    return "; ".join(f"{', '.join(known)}: {reason}" for reason, known in by_reason.items())


def read_left_out(text: str) -> list[tuple[int, str]]:
    """Read what `say_left_out` says; empty where sizes are not what is said.

    Examples
    --------
    >>> read_left_out("16, 32: memory; 8: --budget")
    [(16, 'memory'), (32, 'memory'), (8, '--budget')]
    >>> read_left_out("--ranks 1")
    []
    """
    found = []
    for part in text.split("; "):
        sizes, _, reason = part.partition(": ")
        found += [(int(size), reason) for size in sizes.split(", ") if size.isdigit()]
    return found


def label_of(kernel: str, size: float, num_ranks: int) -> str:
    """Name a kernel, and over how many ranks where its size is not that."""
    return kernel if num_ranks in (1, size) else f"{kernel} over {num_ranks}"


def _left_out(headers: Sequence[Header], points: Sequence[Point]) -> dict[str, str]:
    """Return what no profile has; of several reasons for a size the last."""
    measured = {(label_of(point.kernel, point.size, point.num_ranks), point.size) for point in points}
    left_out: dict[str, str] = {}
    for label in dict.fromkeys(label for header in headers for label in header.left_out):
        texts = [header.left_out[label] for header in headers if label in header.left_out]
        sizes = {size: reason for text in texts for size, reason in read_left_out(text)}
        missing = [(size, sizes[size]) for size in sorted(sizes) if (label, size) not in measured]
        if missing:
            left_out[label] = say_left_out(missing)
        elif not sizes and len(texts) == len(headers):
            left_out[label] = texts[-1]
    return left_out
