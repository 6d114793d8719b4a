"""The picture of a predicted step: its parts one after the other, and the memory of a GPU."""

import matplotlib
from matplotlib.axes import Axes

from lazsim.output.plots.style import COLORS, MORE_COLORS, STYLE, new_figure, to_files
from lazsim.study.step import StepResult

GIB = 2**30

MIN_LABEL_SHARE = 0.05
"""Share of the bar from which a part has its name on it."""


@matplotlib.rc_context(STYLE)
def step_figure(result: StepResult) -> dict[str, bytes]:
    """Draw the step as a bar of its parts, what is hidden above it, and memory below.

    Returns
    -------
    dict
        The picture by file type, ``png`` and ``pdf``; the same bytes for the same numbers.
    """
    figure = new_figure(7.2, 3.4)
    above, below = figure.subplots(2, 1)
    exposed = {name: seconds for name, seconds in result.time.exposed_s.items() if seconds > 0}
    order = sorted(exposed, key=lambda name: -exposed[name])
    palette = dict(zip(order, (*COLORS, *MORE_COLORS) * 2, strict=False))
    _draw_bar(above, 0, {name: exposed[name] for name in order}, palette, result.time.step_s)
    hidden = {name: seconds for name, seconds in result.time.hidden_s.items() if seconds > 0}
    _draw_bar(above, 1, hidden, {name: palette.get(name, "0.7") for name in hidden}, result.time.step_s, alpha=0.45)
    above.set_yticks([0, 1], ["step", "behind it"])
    above.set(
        xlabel="seconds of a step",
        title=f"{result.inputs.model.name} on {result.inputs.num_gpus} {result.inputs.gpu.name}",
    )
    memory = {name: size / GIB for name, size in result.time.memory_bytes.items() if size}
    colors = dict(zip(memory, (*COLORS, *MORE_COLORS), strict=False))
    total = result.inputs.gpu.memory_bytes / GIB
    _draw_bar(below, 0, memory, colors, max(total, sum(memory.values())))
    below.axvline(total, color="black", linewidth=1)
    below.annotate(
        "memory of a GPU", (total, 0.5), ha="right", va="bottom", fontsize=7, xytext=(-3, 0), textcoords="offset points"
    )
    below.set_yticks([0], ["memory"])
    below.set(xlabel="GiB of the fullest GPU", ylim=(-0.6, 0.8))
    return to_files(figure)


def _draw_bar(
    axes: Axes, row: int, values: dict[str, float], colors: dict[str, str], whole: float, alpha: float = 1.0
) -> None:
    left = 0.0
    for name, value in values.items():
        axes.barh(row, value, left=left, color=colors[name], alpha=alpha, height=0.6, edgecolor="white", linewidth=0.4)
        if value >= MIN_LABEL_SHARE * whole:
            text = name.replace("_", "\n")
            axes.text(
                left + value / 2,
                row,
                text,
                ha="center",
                va="center",
                fontsize=5.5,
                color="white" if alpha == 1 else "black",
            )
        left += value
