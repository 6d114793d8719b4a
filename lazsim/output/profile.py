"""Tables and files of measured costs: profiles, how well they interpolate, virtual ranks and skewed loads."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lazsim.costmodel.profile import SIZE_UNITS, Profile, require_header
from lazsim.errors import literal
from lazsim.output.plots.style import name_pictures
from lazsim.output.table import Column, Part, Table, key, number_text
from lazsim.placement.plan import Floats
from lazsim.profiling.check import Modelled, ProfileInterpolation, RateShare
from lazsim.profiling.results import RankResult, SkewResult
from lazsim.stepmodel.check_tables import TablesCheck
from lazsim.units import format_duration, share_text

SHOWN = ("gpu", "processor", "num_processors", "num_threads", "clock", "driver_version", "cuda", "load_average", "note")

DONE_BY = {"grouped": "several experts by", "rows": "rows added up by"}
"""Conditions that name what does a work, and what they are called."""

ERRORS = {"median": "median", "90 %": "p90", "worst": "worst"}
"""Errors at held-out points: headings, and the names of their fields."""


def profile_parts(profile: Profile) -> list[Part]:
    """Report a profile: its conditions, then the smallest and the largest size of each kernel."""
    header = require_header(profile)
    found = {name: literal(str(header.conditions[name])) for name in SHOWN if name in header.conditions}
    conditions = ", ".join(f"{name} {value}" for name, value in found.items())
    head = [
        f"{header.model.name} on {header.device}, {header.dtype}; torch {header.torch}, lazsim {header.lazsim}",
        conditions,
        *_done_by(header.conditions),
        f"peaks: matmul {number_text(header.matmul_flop_per_s / 1e12, '.3g')} TFLOP/s, "
        f"copy {number_text(header.copy_bytes_per_s / 1e9, '.3g')} GB/s",
    ]
    columns = [
        key("kernel"),
        key("size", ",.0f", "number"),
        Column("unit", kind="name", of="size_unit"),
        Column("time", _short, of="time_s"),
        Column("+-CI", _half, of="median_ci_share"),
        Column("matmul", _share, of="matmul_peak_share"),
        Column("copy", _share, of="copy_peak_share"),
        Column("roof", _share, of="roofline_share"),
    ]
    by_kernel = [profile.of(kernel) for kernel in profile.kernels]
    shown = [point for points in by_kernel for point in ([points[0], points[-1]] if len(points) > 1 else points)]
    notes = (
        "+-CI: half the 95 % interval of the median",
        "matmul, copy: share of the measured peak; roof: share of the rate that the two allow",
    )
    skipped = [f"skipped: {kernel}: {reason}" for kernel, reason in header.skipped.items()]
    return [head, Table.of(shown, columns, notes=notes), skipped]


def profile_files(profile: Profile) -> dict[str, bytes]:
    """Return the pictures of ``lazsim profile show --out``, by name."""
    from lazsim.output.plots.profile import profile_figure

    return name_pictures("profile", profile_figure(profile))


def check_parts(
    errors: Sequence[ProfileInterpolation], together: Floats, reached: Sequence[RateShare], modelled: Sequence[Modelled]
) -> list[Part]:
    """Report the error of the interpolation at held-out points, how near kernels come to plain ones, and the model."""
    columns = [
        key("kernel"),
        Column("held out", of="num_held_out"),
        *_errors(),
        Column("at size", ",.0f", of="worst_size"),
        Column("+-CI", _half, of="median_ci_share"),
    ]
    table = Table.of(errors, columns, notes=["+-CI: half the measured 95 % interval of the median"])
    total = ["all", len(together), np.median(together), np.quantile(together, 0.9), together.max(), None, None]
    lines = [
        f"{one.kernel}: {share_text(one.share, '.0%')} of the rate of {one.of}, at {one.size:,.0f} "
        f"{SIZE_UNITS[one.kernel]}"
        for one in reached
    ]
    parts: list[Part] = [replace(table, rows=[*table.rows, total]), lines]
    if modelled:
        columns = [
            key("kernel"),
            *(Column(f"{end} size", ",.0f", of=end) for end in ("smallest", "largest")),
            Column("points", of="num_points"),
            *(Column(heading, "+.0%", of=heading) for heading in ("median", "lowest", "highest")),
        ]
        parts.append(Table.of(modelled, columns, notes=["analytic time over the measured one, less one"]))
    return parts


def tables_parts(found: Mapping[str, Any]) -> list[Part]:
    """Report what kernel tables hold."""
    columns = [
        key("kernel"),
        Column("points", ","),
        Column("GPUs"),
        Column("size", kind="name"),
        *(Column(heading, ",.0f") for heading in ("smallest", "largest")),
        *(Column(heading, _short) for heading in ("shortest", "longest")),
    ]
    rows = [
        [one["kernel"], one["num_points"], one["num_ranks"], size, smallest, largest, *one["time_s"]]
        for one in found["kernels"]
        for size, (smallest, largest) in one["sizes"].items()
    ]
    return [found["remarks"], Table(columns, rows)]


def tables_check_parts(check: TablesCheck) -> list[Part]:
    """Report the error of kernel tables at held-out points."""
    columns = [key("kernel"), Column("points", ",", of="num_points")]
    columns += [Column("held out", ",", of="num_held_out"), *_errors()]
    notes = ["errors of interpolating every second value of each size in turn from the others"]
    if check.median_error is not None:
        notes.append(f"median of the kernels' medians: {check.median_error:.1%}")
    return [Table.of(check.kernels, columns, notes=notes)]


def rank_parts(result: RankResult) -> list[Part]:
    """Report the slowest rank of each layer, measured and predicted."""
    columns = [
        key("layer", kind="number"),
        Column("measured", _ms, of="measured_s"),
        Column("predicted", _ms, of="predicted_s"),
        Column("error", "+.1%"),
        Column("worst rank's error", "+.1%", of="worst_rank_error"),
        Column("rank measured", of="measured_rank"),
        Column("rank predicted", of="predicted_rank"),
        Column("over mean", ".2f", of="spread"),
        Column("exchange modelled", _ms, of="modelled_exchange_s"),
    ]
    note = f"all layers: predicted {result.error:+.1%} off the measured time of the slowest ranks"
    notes = [note, *_done_by(result.inputs["conditions"])]
    return [Table.of(result.rows, columns, "slowest rank of each layer", notes)]


def skew_parts(result: SkewResult) -> list[Part]:
    """Report a layer under growing skew, without and with allocation."""
    columns = [
        key("skew", "g", "number"),
        Column("even measured", _ms, of="even_measured_s"),
        Column("predicted", "+.1%", of=lambda row: row.even_predicted_s / row.even_measured_s - 1),
        Column("allocated measured", _ms, of="allocated_measured_s"),
        Column("predicted", "+.1%", of=lambda row: row.allocated_predicted_s / row.allocated_measured_s - 1),
        Column("won back", ".0%"),
    ]
    notes = [
        "even: even replicas, expert parallelism; allocated: replicas by load, flexible dispatch",
        "predicted: off the measured time by that share; won back: share of the time that skew added",
        *_done_by(result.inputs["conditions"]),
    ]
    return [Table.of(result.rows, columns, notes=notes)]


def skew_files(result: SkewResult) -> dict[str, bytes]:
    """Return the pictures of ``lazsim profile skew --out``, by name."""
    from lazsim.output.plots.profile import skew_figure

    return name_pictures("skew", skew_figure(result))


def _done_by(conditions: Mapping[str, Any]) -> list[str]:
    """Return a line on what computed the times, as far as that is known: early profiles do not tell all."""
    told = ", ".join(f"{what} {literal(str(conditions[name]))}" for name, what in DONE_BY.items() if name in conditions)
    return [told] if told else []


def _errors() -> list[Column]:
    return [Column(heading, ".1%", of=f"{name}_error") for heading, name in ERRORS.items()]


def _half(share: float) -> str:
    return f"{share / 2:.1%}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms"


def _share(value: float) -> str:
    return share_text(value, ".0%") if value else "-"


def _short(seconds: float) -> str:
    return format_duration(seconds, smallest="us")
