"""Figures of expert loads: skew by layer and step, and the shares of one layer over training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from lazsim.output.plots.export import to_files
from lazsim.output.plots.paper import COLUMN_INCHES, LOOKS, PAPER

if TYPE_CHECKING:
    import pandas as pd


def layers_figure(layers: pd.DataFrame) -> dict[str, bytes]:
    """Draw the share of each layer's two fullest experts: a panel for each source, a line for each step."""
    sources, steps = list(layers["loads"].unique()), list(layers["step"].unique())
    with plt.rc_context(PAPER):
        figure, axes = plt.subplots(
            1, len(sources), figsize=(COLUMN_INCHES, 1.7), sharey=True, layout="constrained", squeeze=False
        )
        for source, panel in zip(sources, axes[0], strict=True):
            for step, look in zip(steps, LOOKS, strict=False):
                rows = layers[(layers["loads"] == source) & (layers["step"] == step)]
                panel.plot(
                    rows["layer"], rows["top2_share"], label=f"step {step}", color=look.color, marker=look.marker,
                    linestyle=look.line, markersize=2.5, linewidth=0.8,
                )  # fmt: skip
            panel.set_title(source)
            panel.set_ylim(0, 1)
            panel.set_xlabel("layer")
        axes[0, 0].set_ylabel("share of the two\nfullest experts")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)))
        return to_files(figure)


def drift_figure(drift: pd.DataFrame, layer: int) -> dict[str, bytes]:
    """Stack the shares of one layer's experts over training, the fullest at the bottom: a panel for each source."""
    sources = list(drift["loads"].unique())
    with plt.rc_context(PAPER | {"axes.grid": False}):
        figure, axes = plt.subplots(
            1, len(sources), figsize=(COLUMN_INCHES, 1.6), sharey=True, layout="constrained", squeeze=False
        )
        for source, panel in zip(sources, axes[0], strict=True):
            shares = drift[drift["loads"] == source].pivot_table(index="rank", columns="step", values="share")
            greys = [str(round(grey, 3)) for grey in np.linspace(0.25, 0.95, len(shares))]
            steps = shares.columns.to_numpy()
            panel.stackplot(steps, shares.to_numpy(), colors=greys, edgecolor="white", linewidth=0.2)
            panel.set_xlim(steps[0], steps[-1])
            panel.set_ylim(0, 1)
            panel.set_title(f"{source}, layer {layer}")
            panel.set_xlabel("step")
        axes[0, 0].set_ylabel("share of tokens")
        return to_files(figure)
