"""A run's own log beside simulations, as tables."""

from collections.abc import Iterator

from lazsim.output.table import Column, Part, Table, key
from lazsim.study.observed import ObservedComparison, Phases
from lazsim.units import format_duration

ROWS = (
    ("steps kept, with checkpoints", "training_s"),
    ("steps done again", "lost_s"),
    ("standing still", "stopped_s"),
    ("median stop", "stop_s"),
)


def observed_parts(found: ObservedComparison) -> Iterator[Part]:
    """Show the parts of the log and of each simulation with their errors, and what would make stops agree."""
    columns = [key("", kind="text"), Column("observed", kind="text")]
    for name in found.simulated:
        columns += [Column(name, has_name=True, kind="text"), Column("error", "+.1%")]
    yield Table(columns, list(_rows(found)))
    lines = [
        f"{name}: `cluster.recovery.{one.field}` = {one.seconds:.3g} instead of {one.instead_of_s:.3g} s"
        for name, offers in found.offers.items()
        for one in offers
    ]
    if lines:
        yield "\n".join(["each alone would make the median stop that of the log; nothing was changed", *lines])


def _rows(found: ObservedComparison) -> Iterator[list[str | float | None]]:
    def row(label: str, field: str, seconds: bool) -> list[str | float | None]:
        def text(phases: Phases) -> str:
            value = getattr(phases, field)
            return format_duration(value) if seconds else f"{value:,.0f}"

        cells: list[str | float | None] = [label, text(found.observed)]
        true = getattr(found.observed, field)
        for phases in found.simulated.values():
            cells += [text(phases), (getattr(phases, field) - true) / true if true else None]
        return cells

    yield row(f"{found.unit} kept", "done", seconds=False)
    for label, field in ROWS:
        yield row(label, field, seconds=True)
    yield row("stops", "num_stops", seconds=False)
