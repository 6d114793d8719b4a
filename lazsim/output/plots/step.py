"""The picture of a predicted step: its parts, its memory, its stages and one layer over time."""

import math

import matplotlib
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from lazsim.grouping import grouped
from lazsim.output.plots.style import COLORS, MORE_COLORS, STYLE, new_figure, to_files
from lazsim.study.step import StepResult
from lazsim.units import GIB

LETTER_SHARE = 0.012
"""Width of a letter of a name on a bar, as a share of the bar: a part that is wide enough has its name on it."""

EDGE, EDGE_SHARE = 0.3, 100
"""Width of the white edges of passes in points, and at most: a quarter of the shortest, by its share of the axis."""

PIECES = {
    "attention": "attention", "experts": "expert_matmul", "dispatch": "expert_exchange", "combine": "expert_exchange",
}  # fmt: skip
"""Pieces of a layer, without their direction, by the part of a step whose colour they have."""

BACKWARD_ALPHA = 0.7

STREAMS = ("host", "kernels", "exchanges")

PARTS = (
    "expert_matmul", "dense_matmul", "expert_exchange", "attention", "bubble", "memory", "router", "overlap_slowdown",
    "gradient_exchange", "fixed", "optimizer", "idle", "tensor_exchange", "context_exchange", "offload",
    "launch", "wait",
)  # fmt: skip
"""Parts of a step that have the same colour in every picture; others take those that are left."""

PASS_COLORS = {"forward": "#a9cbe6", "backward": "#f2c594", "both at once": "#b9b9b9"}
"""Lighter than the colours of parts, which are others."""


@matplotlib.rc_context(STYLE)
def step_figure(result: StepResult) -> dict[str, bytes]:
    """Draw the step as a bar of its parts, what is hidden above it, and memory; stages and a layer over time below."""
    stages = result.inputs.parallel.pipeline
    figure = new_figure(7.2, 5.6 + min(1.6, 0.12 * stages))
    heights = [1.0, 0.8, 0.6 + 0.12 * min(stages, 16), 1.0]
    above, below, passes, layer = figure.subplots(4, 1, gridspec_kw={"height_ratios": heights})
    exposed, hidden = (
        {name: seconds for name, seconds in sorted(parts.items(), key=lambda part: -part[1]) if seconds > 0}
        for parts in (result.time.exposed_s, result.time.hidden_s)
    )
    part_colors = dict(zip(dict.fromkeys((*PARTS, *exposed, *hidden)), (*COLORS, *MORE_COLORS) * 2, strict=False))
    # What is hidden as a whole is in the legend, too.
    palette = {name: part_colors[name] for name in (*exposed, *hidden)}
    _draw_bar(above, 0, exposed, palette, result.time.step_s)
    _draw_bar(above, 1, hidden, palette, result.time.step_s, alpha=0.45)
    above.set_yticks([0, 1], ["step", "hidden\nbehind it"])
    above.invert_yaxis()
    above.set(
        xlabel="seconds of a step",
        title=f"{result.inputs.model.name} on {result.inputs.num_gpus:,} {result.inputs.gpu.name}",
    )
    memory = {name: size / GIB for name, size in result.time.memory_bytes.items() if size}
    # Kinds of memory are no parts of a step, and have greys: no colour is left that means nothing else here.
    colors = {name: f"{0.2 + 0.45 * place / len(memory):.2f}" for place, name in enumerate(memory)}
    total = result.inputs.gpu.memory_bytes / GIB
    _draw_bar(below, 0, memory, colors, max(total, math.fsum(memory.values())))
    below.axvline(total, color="black", linewidth=1)
    below.annotate(
        "memory of a GPU", (total, 0.5), ha="right", va="bottom", fontsize=7, xytext=(-3, 0), textcoords="offset points"
    )
    below.set_yticks([0], ["memory"])
    below.set(xlabel="GiB of the fullest GPU", ylim=(-0.6, 0.8))
    _draw_passes(passes, result)
    _draw_layer(layer, result, part_colors)
    return to_files(figure)


def _draw_passes(axes: Axes, result: StepResult) -> None:
    """Draw the passes of the first micro-batches over the stages."""
    schedule, pipeline = result.time.schedule, result.inputs.parallel.pipeline
    stages = grouped(((slot.kind, slot.stage), (slot.start_s, slot.end_s - slot.start_s)) for slot in schedule.slots)
    end_s = max(slot.end_s for slot in schedule.slots)
    for (kind, stage), spans in stages.items():
        edge = min(EDGE, EDGE_SHARE * min(length_s for _, length_s in spans) / end_s)
        axes.broken_barh(spans, (stage - 0.42, 0.84), facecolor=PASS_COLORS[kind], edgecolor="white", linewidth=edge)
    for kind in dict.fromkeys(kind for kind, _ in stages):
        axes.barh(0, 0, color=PASS_COLORS[kind], label=kind)
    forward = sum(slot.kind != "backward" for slot in schedule.slots if slot.stage == 0)
    chunks = result.inputs.parallel.virtual_stages
    each = f", each in {chunks} chunks of a stage" if chunks > 1 else ""
    axes.set(
        xlabel=f"seconds: {forward // chunks} of {result.inputs.num_micro_batches} micro-batches{each}", ylabel="stage",
        ylim=(pipeline - 0.4, -0.6),
    )  # fmt: skip
    axes.set_yticks(range(0, pipeline, max(1, pipeline // 8)))
    axes.legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1.0, 1.02))


def _draw_layer(axes: Axes, result: StepResult, palette: dict[str, str]) -> None:
    """Draw what the host and the streams of the GPU do in one layer, forward and backward, in the colours of a step."""
    spans = result.spans
    streams = [name for name in STREAMS if any(span.stream == name for span in spans)]
    end_s = max(span.end_s for span in spans)
    parts = dict.fromkeys(span.part for span in spans)
    named = {part: PIECES.get(_piece(part), part.replace(" ", "_")) for part in parts}
    known = {part: palette[name] for part, name in named.items() if name in palette}
    # What only a layer has, such as launches, gets colours that are left, first those that the step does not have.
    left = [color for color in (*COLORS, *MORE_COLORS) if color not in known.values()]
    free = iter(sorted(left, key=lambda color: color in palette.values()))
    colors = {part: known.get(part) or next(free) for part in parts}
    bars: dict[tuple[int, str, float], list[tuple[float, float]]] = {}
    for span in spans:
        color = colors[span.part]
        start_s, length_s = max(span.start_s, 0.0), span.end_s - max(span.start_s, 0.0)
        row = streams.index(span.stream)
        alpha = BACKWARD_ALPHA if span.part.endswith(" backward") else 1.0
        bars.setdefault((row, color, alpha), []).append((1e3 * start_s, 1e3 * length_s))
        text = span.part.replace("_", "\n").replace(" ", "\n")
        _name_part(axes, 1e3 * (start_s + length_s / 2), row, text, length_s / end_s, 6, "white")
    axes.set_yticks(range(len(streams)), streams)
    for (row, color, alpha), some in bars.items():
        axes.broken_barh(some, (row - 0.35, 0.7), facecolor=color, alpha=alpha, edgecolor="white", linewidth=0.2)
    for color in dict.fromkeys(colors.values()):
        pieces = dict.fromkeys(_piece(part).replace("_", " ") for part, other in colors.items() if other == color)
        axes.barh(0, 0, color=color, label=", ".join(pieces))
    axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.05))
    axes.set(xlabel="milliseconds of a layer, forward and backward", xlim=(0, 1e3 * end_s))
    axes.invert_yaxis()


def _piece(part: str) -> str:
    return part.removesuffix(" forward").removesuffix(" backward")


def _draw_bar(
    axes: Axes, row: int, values: dict[str, float], colors: dict[str, str], whole: float, alpha: float = 1.0
) -> None:
    left, ink = 0.0, "white" if alpha == 1 else "black"
    for name, value in values.items():
        axes.barh(row, value, left=left, color=colors[name], alpha=alpha, height=0.6, edgecolor="white", linewidth=0.4)
        _name_part(axes, left + value / 2, row, name.replace("_", "\n"), value / whole, 6.5, ink)
        left += value
    if alpha == 1:
        marks = [Patch(color=color, label=name.replace("_", " ")) for name, color in colors.items()]
        axes.legend(handles=marks, fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.05))


def _name_part(axes: Axes, x: float, y: float, text: str, share: float, size: float, color: str) -> None:
    """Write a name on a part of a bar where it fits."""
    if share >= LETTER_SHARE * max(map(len, text.split("\n"))):
        axes.text(x, y, text, ha="center", va="center", fontsize=size, color=color)
