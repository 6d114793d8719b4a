"""Forecasts and live runs beside each other, as text and files."""

import math
from collections.abc import Iterator

from lazsim.live.validate import NEGLIGIBLE_SHARE, ComparedQuantity, Validation
from lazsim.output.plots.style import name_pictures
from lazsim.output.report import Report, timeline_of
from lazsim.output.table import Column, Part, Table, key, number_text
from lazsim.units import counted


def validation_parts(validation: Validation) -> Iterator[Part]:
    """Show a validation: each component measured and predicted, and the drift of the machine."""
    run = validation.measured.run
    model = validation.inputs["spec"]["model"]["name"]
    yield (
        f"{run.system}, {model}: {run.wall_s:.0f} s, {counted(run.counts['failures'], 'failure')}, "
        f"{counted(run.counts['reconfigurations'], 'reconfiguration')}, {counted(run.counts['restarts'], 'restart')}"
    )
    columns = [key("", of="name"), Column("measured", ".4g"), Column("predicted", ".4g")]
    columns += [Column("error", _error), Column("judged", of=lambda one: _judge(one, validation.tolerance))]
    yield Table.of(validation.components, columns)
    yield [
        f"judged: at least {NEGLIGIBLE_SHARE:.0%} of the run's time; within {100 * validation.tolerance:.10g}%: "
        f"{'yes' if validation.has_passed else 'no'}",
        f"steps of the calibration after the run took {_drift(validation.drift)} than those before it",
    ]


def _drift(drift: float) -> str:
    return f"{abs(drift):.1%} {'longer' if drift > 0 else 'less'}"


def _judge(component: ComparedQuantity, tolerance: float) -> str:
    return ("passed" if abs(component.error) <= tolerance else "failed") if component.is_judged else ""


def _error(error: float) -> str:
    return f"{error:+.1%}" if math.isfinite(error) else "not measured"


def validation_files(validation: Validation) -> dict[str, bytes]:
    """Return the files of ``lazsim validate --out`` beside its JSON, by name."""
    from lazsim.output.plots.live import live_figure

    return name_pictures("validate", live_figure(validation.measured, validation.predicted))


def validation_report(validation: Validation) -> Report:
    """Return what the page of a validation says."""
    worst, run = validation.worst(), validation.measured.run
    verdict = "within" if validation.has_passed else "not within"
    return Report(
        f"Forecast and measurement of {run.system}, {validation.inputs['spec']['model']['name']}",
        f"The forecast is {verdict} {100 * validation.tolerance:.10g}%: the worst of the judged rows, {worst.name}, is "
        f"off by {_error(worst.error)} (measured {number_text(worst.measured, '.4g')}, "
        f"predicted {number_text(worst.predicted, '.4g')}).",
        "One run on one machine. Steps of a second calibration, after the run, took "
        f"{_drift(validation.drift)} than those before it; the luck of where failures fall within a step is not told.",
        validation.inputs,
        timeline_of({"measured": run, "predicted": validation.predicted}),
        pictures={"measured and predicted": "validate.png"},
    )
