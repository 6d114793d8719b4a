"""Profiles: a CSV of measured times and a JSON header beside it; docs/guides/profiles.md explains them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from lazsim.errors import SpecError, unknown_name
from lazsim.files.decoding import convert, decode_json
from lazsim.files.reading import CATALOG, read_bytes
from lazsim.files.tables import read_cells
from lazsim.files.writing import csv_bytes, json_bytes, write_all
from lazsim.specs import ModelSpec, sha256
from lazsim.specs.record import Amount, AnyNumber, Count, PositiveSeconds, Quantity, Rate, Seconds
from lazsim.units import THOUSANDS, read_number

FORMAT_VERSION = 1

PROFILES = CATALOG / "profiles"

SIZE_UNITS = {
    "dense": "tokens",
    "attention": "tokens",
    "feed_forward": "tokens",
    "head": "tokens",
    "expert": "tokens",
    "grouped": "tokens",
    "gate": "tokens",
    "schedule": "assignments",
    "permute": "assignments",
    "reorder": "assignments",
    "optimizer": "params",
    "all_to_all": "bytes",
    "all_to_all_skewed": "bytes",
    "all_to_all_empty": "bytes",
    "all_reduce": "bytes",
    "point_to_point": "bytes",
    "broadcast": "bytes",
    "group_create": "ranks",
    "group_recreate": "ranks",
    "checkpoint_save": "bytes",
    "checkpoint_load": "bytes",
}
"""Every kernel of a profile, and the unit of its size."""

BARE_KERNELS = ("dense", "expert", "reorder", "optimizer")
"""Kernels of a table without a header: their sizes need no conditions."""

BARE_COLUMNS = ("kernel", "size", "time_s")


class ProfilePoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One kernel at one size: a row of the CSV, whose columns docs/measured/method.md explains."""

    kernel: str
    size: Annotated[float, Meta(ge=1e-6, le=1e24)]
    size_unit: str = ""
    num_ranks: Count = 1
    time_s: PositiveSeconds
    time_q25_s: Seconds = 0.0
    time_q75_s: Seconds = 0.0
    forward_s: Seconds = 0.0
    backward_s: Seconds = 0.0
    median_ci_share: Quantity = 0.0
    num_repetitions: Amount = 0
    num_buffers: Amount = 0
    buffers_bytes: Quantity = 0.0
    flop: Quantity = 0.0
    moved_bytes: Quantity = 0.0
    matmul_peak_share: Quantity = 0.0
    copy_peak_share: Quantity = 0.0
    roofline_share: Quantity = 0.0
    reference_error: Quantity = 0.0

    def __post_init__(self) -> None:
        if self.kernel not in SIZE_UNITS:
            raise ValueError(unknown_name("kernel", self.kernel, list(SIZE_UNITS)))
        if self.size_unit not in ("", SIZE_UNITS[self.kernel]):
            raise ValueError(f"the size of {self.kernel} counts {SIZE_UNITS[self.kernel]}, not {self.size_unit}")

    @property
    def key(self) -> tuple[str, int, float]:
        """Identity of the point in its profile."""
        return self.kernel, self.num_ranks, self.size


COLUMNS = ProfilePoint.__struct_fields__


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Conditions of a measurement, and the peaks of the device."""

    format_version: int
    """Version of the files."""
    lazsim: str
    torch: str
    """Versions of the software."""
    device: str
    dtype: str
    """``cpu`` or ``cuda``, and the type of the tensors."""
    model: ModelSpec
    """Model whose shapes the kernels have."""
    conditions: dict[str, str | AnyNumber | bool | None]
    """Name of the device, driver, clocks, threads, caches, as far as they can be read."""
    matmul_flop_per_s: Rate
    copy_bytes_per_s: Rate
    """Measured peaks of the device, to which shares refer."""
    kernels: list[str] = []
    """Kernels that have rows."""
    skipped: dict[str, str] = {}
    """Kernels and sizes that were not measured, and why."""


@dataclass(frozen=True)
class Profile:
    """Points and their header; a bare table of ``kernel,size,time_s`` has no header."""

    name: str
    sha256: str
    header: Header | None
    points: tuple[ProfilePoint, ...]

    @property
    def kernels(self) -> list[str]:
        """Kernels with points, in the order of the file."""
        return list(dict.fromkeys(point.kernel for point in self.points))

    def of(self, kernel: str) -> list[ProfilePoint]:
        """Return the points of one kernel by size, those over the most processes."""
        points = [point for point in self.points if point.kernel == kernel]
        most = max((point.num_ranks for point in points), default=1)
        kept = points if SIZE_UNITS.get(kernel) == "ranks" else [point for point in points if point.num_ranks == most]
        return sorted(kept, key=lambda point: point.size)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"header": self.header, "points": self.points}


def header_path(path: Path) -> Path:
    """Name the header of a profile.

    Examples
    --------
    >>> header_path(Path("h200.csv")).name
    'h200.json'
    """
    if path.suffix != ".csv":
        raise SpecError(f"{path}: a profile's name ends in .csv; its header lies beside it as .json")
    return path.with_suffix(".json")


def save_profile(path: Path, header: Header, points: Sequence[ProfilePoint]) -> None:
    """Write both files of a profile, or none."""
    kernels = list(dict.fromkeys(point.kernel for point in points))
    head = msgspec.structs.replace(header, kernels=kernels)
    rows = (map(_short, msgspec.structs.astuple(point)) for point in points)
    write_all({path: csv_bytes(COLUMNS, rows), header_path(path): json_bytes(head)})


def _short(value: str | float) -> str | float:
    """Keep whole numbers whole, and seven digits of others."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else f"{value:.7g}"
    return value


def find_profile(name: str, model: str) -> Path:
    """Return the file of a profile: a path that ends in ``.csv``, or a device of the catalogue that has the model.

    A `SpecError` says that the catalogue has no such device, or no profile of the model on it.
    """
    if name.endswith(".csv"):
        return Path(name)
    paths = {path.stem: path for path in profile_paths(name)}
    if model not in paths:
        raise SpecError(f"the profile {name} has {', '.join(paths)}, but not {model}; measure it with lazsim profile")
    return paths[model]


def own_profile(gpu: str, model: str) -> str | None:
    """Return the name of the profile of a GPU that the catalogue has for a model, or None."""
    is_there = gpu in profile_names() and model in [path.stem for path in profile_paths(gpu)]
    return gpu if is_there else None


def profile_paths(name: str) -> list[Path]:
    """List the files of a profile: the path that ends in ``.csv``, or those of all models on a device of the catalogue.

    Raise SpecError when the catalogue has no such device.
    """
    if name.endswith(".csv"):
        return [Path(name)]
    if name not in profile_names():
        raise SpecError(unknown_name("profile", name, profile_names(), "a path to a .csv file"))
    return sorted((PROFILES / name).glob("*.csv"))


def profile_names() -> list[str]:
    """List the devices that the catalogue has profiles of."""
    return sorted({path.parent.name for path in PROFILES.glob("*/*.csv")})


def read_profile(path: Path | str) -> Profile:
    """Read a profile, or a bare table of ``kernel,size,time_s``.

    A `SpecError` says that the version differs, a kernel of the header has no rows, or a number is missing or bad.
    """
    path = Path(path)
    content = read_bytes(path)
    points = _read_points(path, content)
    bare = not points[0].size_unit
    head = header_path(path)
    if bare and not head.exists():
        return Profile(path.name, sha256(content), None, tuple(points))
    header = _read_header(head)
    found = {point.kernel for point in points}
    missing = [kernel for kernel in header.kernels if kernel not in found]
    if missing:
        raise SpecError(f"{path}: no rows of {', '.join(missing)}, which {head.name} lists; measure again")
    return Profile(path.name, sha256(content + read_bytes(head)), header, tuple(points))


def require_header(profile: Profile) -> Header:
    """Return the header, or raise SpecError when the profile is a bare table."""
    if profile.header is None:
        raise SpecError(f"{profile.name}: a table without a header; measure with lazsim profile")
    return profile.header


def _read_header(path: Path) -> Header:
    content = read_bytes(path)
    try:
        fields = decode_json(content, dict[str, Any])
    except ValueError as error:
        raise SpecError(f"{path}: not the header of a profile ({error}); measure again") from None
    version = fields.get("format_version")
    if version != FORMAT_VERSION:
        raise SpecError(f"{path}: format_version is {version}, expected {FORMAT_VERSION}; measure again")
    if "left_out" in fields:
        # The name in files of lazsim 0.1.0.
        fields["skipped"] = fields.pop("left_out")
    return convert(fields, Header, path=path)


def _read_points(path: Path, content: bytes) -> list[ProfilePoint]:
    bare = b"size_unit" not in content.partition(b"\n")[0]
    columns = BARE_COLUMNS if bare else COLUMNS
    points: dict[tuple[str, int, float], ProfilePoint] = {}
    for line, row in read_cells(path, content, columns).items():
        where = f"{path}, line {line}"
        try:
            for name in columns:
                if THOUSANDS.fullmatch(row[name]):
                    read_number(row[name])
        except ValueError as error:
            raise SpecError(f"{where}: {error}") from None
        point = convert({name: row[name] for name in columns}, ProfilePoint, path=where, strict=False)
        if bare and point.kernel not in BARE_KERNELS:
            raise SpecError(f"{where}: a table without a header has {', '.join(BARE_KERNELS)}, not {point.kernel}")
        if point.key in points:
            raise SpecError(f"{where}: a second time for {point.kernel} of size {point.size:,.10g}; keep one")
        points[point.key] = point
    return list(points.values())
