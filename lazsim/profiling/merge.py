"""Merge profiles of one model on one device, keeping the fastest of each point."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lazsim.costmodel.profile import Header, ProfilePoint, read_profile, require_header
from lazsim.errors import SpecError
from lazsim.grouping import grouped
from lazsim.specs import ModelSpec

SAME = (
    "processor", "num_processors", "num_threads", "float32_matmul_precision", "gpu", "driver_version", "grouped", "rows"
)  # fmt: skip
"""Conditions that all times of a profile share."""

MAY_BE_UNKNOWN = ("driver_version", "rows")
"""Those of them that nvidia-smi may not tell at times, or that profiles of before did not."""


def merge_profiles(paths: Sequence[Path]) -> tuple[Header, list[ProfilePoint]]:
    """Merge profiles measured alike; the header is the last with the highest peaks, from which shares are taken."""
    headers: list[Header] = []
    points: list[ProfilePoint] = []
    for path in paths:
        profile = read_profile(path)
        header = require_header(profile)
        headers.append(header)
        same = {name: getattr(headers[0], name) for name in ("torch", "device", "dtype", "model")}
        if other := difference(header, same, headers[0].conditions):
            what, mine, first = other
            raise SpecError(
                f"{path}: measured with {what} {mine}, {paths[0]} with {first}; merge only what was measured alike"
            )
        for point in profile.points:
            keep_fastest(points, point)
    matmul = max(header.matmul_flop_per_s for header in headers)
    copy = max(header.copy_bytes_per_s for header in headers)
    header = msgspec.structs.replace(
        headers[-1], matmul_flop_per_s=matmul, copy_bytes_per_s=copy, skipped=_skipped(headers, points)
    )
    return header, [with_shares(point, matmul, copy) if point.roofline_share else point for point in in_order(points)]


def with_shares(point: ProfilePoint, matmul_flop_per_s: float, copy_bytes_per_s: float) -> ProfilePoint:
    """Take the shares of a point from these peaks."""
    matmul = point.flop / matmul_flop_per_s / point.time_s
    copy = point.moved_bytes / copy_bytes_per_s / point.time_s
    return msgspec.structs.replace(
        point, matmul_peak_share=matmul, copy_peak_share=copy, roofline_share=max(matmul, copy)
    )


def keep_fastest(points: list[ProfilePoint], point: ProfilePoint) -> None:
    """Add a point, or replace a slower one: other work on the machine only adds time."""
    index = next((index for index, one in enumerate(points) if one.key == point.key), None)
    if index is None:
        points.append(point)
    elif point.time_s < points[index].time_s:
        points[index] = point


def in_order(points: Sequence[ProfilePoint]) -> list[ProfilePoint]:
    """Sort by kernel, as they first appear, number of ranks and size."""
    rank = {kernel: index for index, kernel in enumerate(dict.fromkeys(point.kernel for point in points))}
    return sorted(points, key=lambda point: (rank[point.kernel], point.num_ranks, point.size))


def difference(header: Header, same: Mapping[str, Any], conditions: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """Return the first field that differs but must not: its name, its value in the header, and the other value."""
    pairs = {name: (getattr(header, name), now) for name, now in same.items()}
    pairs |= {name: (header.conditions.get(name), conditions.get(name)) for name in SAME}
    for name, (before, now) in pairs.items():
        if before != now and isinstance(before, ModelSpec):
            field = next(one for one in before.__struct_fields__ if getattr(before, one) != getattr(now, one))
            name = "model" if field == "name" else f"model.{field}"
            before, now = getattr(before, field), getattr(now, field)
        if before != now and not (name in MAY_BE_UNKNOWN and None in (before, now)):
            return name, before, now
    return None


def format_skipped(sizes: Iterable[tuple[int, str]]) -> str:
    """Write which sizes were skipped and why.

    Examples
    --------
    >>> format_skipped([(16, "memory"), (32, "memory"), (8, "budget")])
    '16, 32: memory; 8: budget'
    """
    by_reason = grouped((reason, str(size)) for size, reason in sizes)
    return "; ".join(f"{', '.join(known)}: {reason}" for reason, known in by_reason.items())


def parse_skipped(text: str) -> list[tuple[int, str]]:
    """Read a text of `format_skipped`; empty if it names no sizes.

    Examples
    --------
    >>> parse_skipped("16, 32: memory; 8: budget")
    [(16, 'memory'), (32, 'memory'), (8, 'budget')]
    >>> parse_skipped("ranks 1")
    []
    """
    found = []
    for part in text.split("; "):
        sizes, _, reason = part.partition(": ")
        found += [(int(size), reason) for size in sizes.split(", ") if size.isdigit()]
    return found


def label_of(kernel: str, size: float, num_ranks: int) -> str:
    """Name a kernel, with its number of ranks unless that is its size."""
    return kernel if num_ranks in (1, size) else f"{kernel} over {num_ranks}"


def _skipped(headers: Sequence[Header], points: Sequence[ProfilePoint]) -> dict[str, str]:
    """Return the sizes that no profile has, each with the last reason given."""
    measured = {(label_of(point.kernel, point.size, point.num_ranks), point.size) for point in points}
    skipped: dict[str, str] = {}
    for label in dict.fromkeys(label for header in headers for label in header.skipped):
        texts = [header.skipped[label] for header in headers if label in header.skipped]
        sizes = {size: reason for text in texts for size, reason in parse_skipped(text)}
        missing = [(size, sizes[size]) for size in sorted(sizes) if (label, size) not in measured]
        if missing:
            skipped[label] = format_skipped(missing)
        elif not sizes and len(texts) == len(headers):
            skipped[label] = texts[-1]
    return skipped
