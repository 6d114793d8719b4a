"""The picture of a predicted step: its parts, its memory, its stages and one layer over time."""

import itertools
import math
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lazsim.grouping import grouped
from lazsim.output.plots.style import LOOKS, STYLE, ink, new_figure, picture, write_beside
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

STREAMS = ("host", "kernels", "exchanges")

PARTS = (
    "expert_matmul", "dense_matmul", "expert_exchange", "attention", "memory", "bubble", "idle", "optimizer",
    "gradient_exchange", "router", "overlap_slowdown", "fixed", "tensor_exchange", "context_exchange", "offload",
    "launch", "wait",
)  # fmt: skip
"""Parts of a step that look the same in every picture; others take what is left."""


class Fill(NamedTuple):
    """How a part of a bar is told from others: by colour and hatch, the fields as matplotlib has them."""

    facecolor: str
    hatch: str
    edgecolor: str = "white"


UNIVERSAL_COLORS = (
    "#0072b2", "#e69f00", "#d55e00", "#009e73", "#56b4e9", "#999999", "#cc79a7", "#000000", "#f0e442",
)  # fmt: skip
"""Colours that colour-blind readers can tell apart: Okabe and Ito, Color Universal Design, 2008, and a grey."""

FILLS = tuple(Fill(color, hatch) for hatch, color in itertools.product(("", "////", "...."), UNIVERSAL_COLORS))

MEMORY_FILLS = tuple(Fill("#e4e4e4", look.hatch, "#606060") for look in LOOKS)
"""Kinds of memory are no parts of a step: no colour is left that means nothing else here."""

PASS_COLORS = {"forward": "#a9cbe6", "backward": "#f2c594", "both at once": "#8f8f8f"}
"""Lighter than the colours of parts, which are others."""


@picture(STYLE)
def step_figure(result: StepResult) -> Figure:
    """Draw the step as a bar of its parts, what is hidden above it, and memory; stages and a layer over time below."""
    stages = result.inputs.parallel.pipeline
    figure = new_figure(7.2, 5.6 + min(1.6, 0.12 * stages))
    heights = [1.0, 0.8, 0.6 + 0.12 * min(stages, 16), 1.0]
    above, below, passes, layer = figure.subplots(4, 1, gridspec_kw={"height_ratios": heights})
    exposed, hidden = (
        {name: seconds for name, seconds in sorted(parts.items(), key=lambda part: -part[1]) if seconds > 0}
        for parts in (result.time.exposed_s, result.time.hidden_s)
    )
    part_fills = dict(zip(dict.fromkeys((*PARTS, *exposed, *hidden)), FILLS, strict=False))
    rows = {"step": exposed, "hidden\nbehind it": hidden} if hidden else {"step": exposed}
    for row, values in enumerate(rows.values()):
        _draw_bar(above, row, values, part_fills, result.time.step_s)
    # What is hidden as a whole is in the legend, too.
    _add_legend(above, {name: part_fills[name] for name in (*exposed, *hidden)})
    above.set_yticks(range(len(rows)), list(rows))
    above.invert_yaxis()
    above.set(
        xlabel="seconds of a step",
        title=f"{result.inputs.model.name} on {result.inputs.num_gpus:,} {result.inputs.gpu.name}",
    )
    memory = {name: size / GIB for name, size in result.time.memory_bytes.items() if size}
    kinds = dict(zip(memory, MEMORY_FILLS, strict=False))
    total = result.inputs.gpu.memory_bytes / GIB
    _draw_bar(below, 0, memory, kinds, max(total, math.fsum(memory.values())))
    _add_legend(below, kinds)
    below.axvline(total, color="black", linewidth=1)
    style = {"ha": "right", "va": "bottom", "color": "black"}
    write_beside(below, "memory of a GPU", (total, 0.5), (-3, 0), "data", **style)
    below.set_yticks([0], ["memory"])
    below.set(xlabel="GiB of the fullest GPU", ylim=(-0.6, 0.8))
    _draw_passes(passes, result)
    _draw_layer(layer, result, part_fills)
    return figure


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
    each = f", each in {chunks} parts of a stage" if chunks > 1 else ""
    axes.set(
        xlabel=f"seconds: {forward // chunks} of {result.inputs.num_micro_batches} micro-batches{each}", ylabel="stage",
        ylim=(pipeline - 0.4, -0.6),
    )  # fmt: skip
    axes.set_yticks(range(0, pipeline, max(1, pipeline // 8)))
    axes.legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1.0, 1.02))


def _draw_layer(axes: Axes, result: StepResult, palette: dict[str, Fill]) -> None:
    """Draw what the host and the streams of the GPU do in one layer, forward and backward, with the looks of a step."""
    spans = result.spans
    streams = [name for name in STREAMS if any(span.stream == name for span in spans)]
    end_s = max(span.end_s for span in spans)
    parts = dict.fromkeys(_piece(span.part) for span in spans)
    named = {part: PIECES.get(part, part.replace(" ", "_")) for part in parts}
    # What only a layer has gets looks that are left.
    free = (fill for fill in FILLS if fill not in palette.values())
    fills = {part: palette.get(name) or next(free) for part, name in named.items()}
    bars: dict[tuple[int, Fill], list[tuple[float, float]]] = {}
    for span in spans:
        fill = fills[_piece(span.part)]
        start_s, length_s = max(span.start_s, 0.0), span.end_s - max(span.start_s, 0.0)
        row = streams.index(span.stream)
        bars.setdefault((row, fill), []).append((1e3 * start_s, 1e3 * length_s))
        text = span.part.replace("_", "\n").replace(" ", "\n")
        _name_part(axes, 1e3 * (start_s + length_s / 2), row, text, length_s / end_s, 6, fill)
    axes.set_yticks(range(len(streams)), streams)
    for (row, fill), some in bars.items():
        axes.broken_barh(some, (row - 0.35, 0.7), linewidth=0.2, **fill._asdict())
    parts_of = grouped((fill, part.replace("_", " ")) for part, fill in fills.items())
    _add_legend(axes, {", ".join(same): fill for fill, same in parts_of.items()})
    axes.set(xlabel="milliseconds of a layer, forward and backward", xlim=(0, 1e3 * end_s))
    axes.invert_yaxis()


def _piece(part: str) -> str:
    return part.removesuffix(" forward").removesuffix(" backward")


def _draw_bar(axes: Axes, row: int, values: dict[str, float], fills: dict[str, Fill], whole: float) -> None:
    left = 0.0
    for name, value in values.items():
        axes.barh(row, value, left=left, height=0.6, linewidth=0.4, **fills[name]._asdict())
        _name_part(axes, left + value / 2, row, name.replace("_", "\n"), value / whole, 6.5, fills[name])
        left += value


def _add_legend(axes: Axes, fills: dict[str, Fill]) -> None:
    marks = [Patch(label=name.replace("_", " "), **fill._asdict()) for name, fill in fills.items()]
    axes.legend(handles=marks, fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.05))


def _name_part(axes: Axes, x: float, y: float, text: str, share: float, size: float, fill: Fill) -> None:
    """Write a name on a part of a bar where it fits, on a plain ground."""
    if share >= LETTER_SHARE * max(map(len, text.split("\n"))):
        ground = {"facecolor": fill.facecolor, "edgecolor": "none", "pad": 0.6} if fill.hatch else None
        axes.text(x, y, text, ha="center", va="center", fontsize=size, color=ink(fill.facecolor), bbox=ground)
