"""A run's own log beside simulations, as tables."""

from collections.abc import Callable, Iterator

from lazsim.output.table import Column, Part, Table, key
from lazsim.study.observed import AGREEMENT, ObservedComparison
from lazsim.units import format_duration

ROWS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("median {one}", "step_s", format_duration),
    ("{unit} kept", "done", "{:,.0f}".format),
    ("steps kept, with checkpoints", "training_s", format_duration),
    ("steps done again", "lost_s", format_duration),
    ("standing still", "stopped_s", format_duration),
    ("median stop that ended", "stop_s", format_duration),
    ("stops", "num_stops", "{:,.0f}".format),
)
"""Labels, fields of `Phases`, and how each is written."""


def observed_parts(found: ObservedComparison) -> Iterator[Part]:
    """Show the parts of the log and of each simulation with their errors, and what would make stops agree."""
    columns = [key("", kind="text"), Column("observed", kind="text")]
    for name in found.simulated:
        columns += [Column(name, has_name=True, kind="text"), Column("error", "+.1%")]
    yield Table(columns, list(_rows(found)))
    lines = [
        f"{name}: `cluster.recovery.{one.field}` = {float(f'{one.seconds:.3g}'):g} instead of {one.instead_of_s:g} s"
        for name, offers in found.offers.items()
        for one in offers
    ]
    if lines:
        yield ["each alone would make the median stop that of the log; nothing was changed", *lines]
    true_s = found.observed.stop_s
    none = [
        name
        for name, phases in found.simulated.items()
        if true_s
        and phases.stop_s is not None
        and not found.offers[name]
        and abs(phases.stop_s / true_s - 1) > AGREEMENT
    ]
    if none:
        yield f"no constant found would alone make the median stop that of the log: {', '.join(none)}"


def _rows(found: ObservedComparison) -> Iterator[list[str | float | None]]:
    for label, field, write in ROWS:
        true = getattr(found.observed, field)
        cells: list[str | float | None] = [label.format(unit=found.unit, one=found.unit.removesuffix("s"))]
        cells.append("none" if true is None else write(true))
        for phases in found.simulated.values():
            value = getattr(phases, field)
            has_error = true and value is not None
            cells += ["none" if value is None else write(value), (value - true) / true if has_error else None]
        yield cells
