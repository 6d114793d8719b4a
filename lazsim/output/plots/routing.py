"""The picture of expert loads: shares of a layer's tokens over training."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from lazsim.output.plots.export import new_figure, to_files
from lazsim.output.plots.style import STYLE
from lazsim.routing import RecordedRouting


def share_figure(routing: RecordedRouting, layers: Sequence[int], kind: str) -> bytes:
    """Draw some layers side by side, as a picture of the given file type."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(2.6 * len(layers), 2.2)
        axes = figure.subplots(1, len(layers), sharey=True, squeeze=False)
        for layer, panel in zip(layers, axes[0], strict=True):
            plot_shares(routing, layer, panel)
        axes[0, 0].set_ylabel("share of the layer's tokens")
        return to_files(figure, [kind])[kind]


def plot_shares(routing: RecordedRouting, layer: int, axes: Axes) -> None:
    """Stack the experts of a layer, the fullest over the whole recording at the bottom."""
    tokens = routing.tokens_SLE[:, layer].astype(np.float64)
    shares = tokens / tokens.sum(axis=1, keepdims=True)
    order = np.argsort(-shares.sum(axis=0), kind="stable")
    greys = [str(round(grey, 3)) for grey in np.linspace(0.25, 0.95, len(order))]
    axes.stackplot(routing.steps, shares[:, order].T, colors=greys, edgecolor="white", linewidth=0.2)
    axes.set_xlim(routing.steps[0], max(routing.steps[-1], routing.steps[0] + 1))
    axes.set_ylim(0, 1)
    axes.set_xlabel("step")
    axes.set_title(f"layer {layer}")
