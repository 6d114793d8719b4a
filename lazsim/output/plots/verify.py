"""The picture of predictions against measurements."""

import itertools

import numpy as np
from matplotlib.figure import Figure

from lazsim.grouping import grouped
from lazsim.output.plots.charts import number_log_axis
from lazsim.output.plots.style import LOOKS, STYLE, new_figure, picture
from lazsim.study.verify.cells import APART
from lazsim.study.verify.verification import Verification


@picture(STYLE)
def verify_figure(result: Verification) -> Figure:
    """Draw predicted over measured throughput, a mark for each model, hollow if counted apart; the band is 20 %."""
    # The layout for panels of equal sides: others leave a label beyond the border.
    figure = new_figure(5.8, 4.2, "compressed")
    axes = figure.subplots()
    rows = [*result.predicted_rows, *result.apart_rows]
    kinds = grouped(((row.settings["model_key"], row.settings["inputs"] == APART), row) for row in rows)
    looks = dict(zip(sorted({model for model, _ in kinds}), itertools.cycle(LOOKS), strict=False))
    for model, is_apart in sorted(kinds):
        some = [(row.measured, row.predicted) for row in kinds[model, is_apart]]
        axes.plot(
            *np.array(some, dtype=np.float64).T, color=looks[model].color, marker=looks[model].marker, markersize=3.5,
            linewidth=0, fillstyle="none" if is_apart else "full", label=model.replace("_", "-") + ", apart" * is_apart,
        )  # fmt: skip
    values = [value for row in rows for value in (row.measured, row.predicted) if value]
    line = np.array([min(values) / 1.3, max(values) * 1.3])
    axes.plot(line, line, color="0.3", linewidth=0.8, label="as measured")
    axes.fill_between(line, line * 0.8, line * 1.2, color="0.85", linewidth=0, label="within 20 %")
    axes.set(xlim=line, ylim=line)
    axes.set(xscale="log", yscale="log", xlabel="measured tokens/s a GPU", ylabel="predicted tokens/s a GPU")
    axes.set_aspect("equal")
    number_log_axis(axes.xaxis)
    number_log_axis(axes.yaxis)
    axes.legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure
