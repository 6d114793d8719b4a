"""The picture of expert loads: shares of a layer's tokens over training."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lazsim.output.plots.charts import MOST_BESIDE, panel_grid, stack_shares
from lazsim.output.plots.style import STYLE, picture
from lazsim.routing import RecordedRouting


@picture(STYLE)
def share_figure(routing: RecordedRouting, layers: Sequence[int]) -> Figure:
    """Draw some layers, three side by side.

    Layers are numbers in the model. Experts are stacked, the fullest over the whole recording at the bottom; those of a
    single step stand side by side.
    """
    columns = min(len(layers), MOST_BESIDE)
    figure, axes = panel_grid(len(layers), columns, 2.6 * columns, 1.9)
    for layer, panel in zip(layers, axes.flat, strict=False):
        tokens = routing.tokens_SLE[:, routing.layer_numbers.index(layer)].astype(np.float64)
        shares = tokens / tokens.sum(axis=1, keepdims=True)
        order = np.argsort(-shares.sum(axis=0), kind="stable")
        if len(routing.steps) == 1:
            panel.bar(range(1, 1 + routing.num_experts), shares[0, order], width=0.9, color="0.25")
            panel.set_xlabel("experts, fullest first")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        else:
            stack_shares(panel, routing.steps, shares[:, order].T)
            panel.set_xlabel("step")
        panel.set_title(f"layer {layer}")
    for panel in axes[:, 0]:
        panel.set_ylabel("share of the layer's tokens" + "\n(a band: an expert)" * (len(routing.steps) > 1))
    return figure
