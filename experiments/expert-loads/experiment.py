"""Expert loads over layers and over training.

How unevenly do tokens fall on the experts of each layer, and how does that change while training?

Axes: B steps, L layers, E experts.
"""

import numpy as np
import pandas as pd

from lazsim import ModelSpec, load_routing, load_spec
from lazsim.output.plots.charts import lines_figure, panel_grid, stack_shares
from lazsim.output.plots.style import PAPER, picture
from lazsim.study.experiment import Outcome

SETTINGS = {
    "model": "gpt-l",
    # Steps at which all layers are described.
    "steps": [0, 200, 1000, 4000],
    # One layer is followed over training, at this distance of steps.
    "layer": 5,
    "curve_steps": 50,
    "seed": 0,
}

SMALL = {"model": "gpt-s", "steps": [0, 200, 400]}


def run(context, settings):
    """Describe the loads of every source at hand."""
    model, steps, layer = load_spec(ModelSpec, settings["model"]), settings["steps"], settings["layer"]
    along = np.arange(0, max(steps) + 1, settings["curve_steps"])
    by_layer, drift = [], []
    for source, routing in context.routings().items():
        loads = load_routing(routing, model.num_moe_layers, model.num_experts, settings["seed"])
        by_layer.append(skew_by_layer(steps, sorted_shares(loads.loads(steps))).assign(loads=source))
        drift.append(shares_over_time(along, loads.loads(along)[:, layer]).assign(loads=source))
    layers = pd.concat(by_layer, ignore_index=True)
    layers = layers[["loads", "step", "layer", "max_over_mean", "top2_share", "lightest_half_share"]]
    curves = pd.concat(drift, ignore_index=True)[["loads", "step", "rank", "share"]]
    figures = {
        "layers": lines_figure(
            layers.assign(at="step " + layers["step"].astype(str)), x="layer", y="top2_share", series="at",
            panels=("loads",), x_label="layer", y_label="share of the\ntwo fullest experts", limits=(0, 1),
        ),
        "drift": drift_figure(curves, layer),
    }  # fmt: skip
    return Outcome({"layers": layers, "summary": ranges(layers), "drift": curves}, figures, context.missing())


@picture(PAPER | {"axes.grid": False})
def drift_figure(curves, layer):
    """Stack the shares of the experts of a layer over training, the fullest at the bottom, for each source of loads."""
    sources = list(curves["loads"].unique())
    figure, axes = panel_grid(len(sources), len(sources))
    for source, place in zip(sources, axes[0], strict=True):
        shares = curves[curves["loads"] == source].pivot_table(index="rank", columns="step", values="share")
        stack_shares(place, shares.columns.to_numpy(), shares.to_numpy())
        place.set_title(f"{source}, layer {layer}")
        place.set_xlabel("step")
    axes[0, 0].set_ylabel("share of tokens")
    return figure


def sorted_shares(load_BLE):
    """Return each expert's share of its layer's tokens, fullest first.

    Examples
    --------
    >>> sorted_shares(np.array([[[1, 3]]])).tolist()
    [[[0.75, 0.25]]]
    """
    ordered = np.sort(load_BLE, axis=2)[:, :, ::-1]
    return ordered / ordered.sum(axis=2, keepdims=True)


def skew_by_layer(steps, shares_BLE):
    """Return measures of skew, a row for each step and layer."""
    num_experts = shares_BLE.shape[2]
    return pd.DataFrame(
        {
            "step": step,
            "layer": layer,
            "max_over_mean": shares[0] * num_experts,
            "top2_share": shares[:2].sum(),
            "lightest_half_share": shares[num_experts // 2 :].sum(),
        }
        for step, shares_LE in zip(steps, shares_BLE, strict=True)
        for layer, shares in enumerate(shares_LE)
    )


def ranges(layers):
    """Return least, median and most over the layers."""
    grouped = layers.groupby(["loads", "step"], sort=False)[["max_over_mean", "top2_share"]]
    summary = grouped.agg(["min", "median", "max"])
    summary.columns = ["_".join(column) for column in summary.columns.to_flat_index()]
    return summary.reset_index()


def shares_over_time(steps, load_BE):
    """Return the shares of one layer's experts, ranked by their share of all tokens."""
    order = np.argsort(-load_BE.sum(axis=0), kind="stable")
    share_BE = load_BE[:, order] / load_BE.sum(axis=1, keepdims=True)
    return pd.DataFrame(
        {"step": int(step), "rank": rank + 1, "share": share}
        for step, share_E in zip(steps, share_BE, strict=True)
        for rank, share in enumerate(share_E)
    )
