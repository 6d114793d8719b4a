"""How skewed expert loads are over layers, and how they change over training.

Axes: B steps asked for, L layers, E experts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lazsim.experiments.bench import RECORDED, Bench
from lazsim.experiments.outcome import Outcome
from lazsim.experiments.specs import Experiment
from lazsim.placement.plan import Ints
from lazsim.routing import load_routing
from lazsim.specs import ModelSpec, load_spec

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]


class ExpertLoads(Experiment, frozen=True, kw_only=True, tag="expert-loads"):
    """Which model's loads, at which steps.

    Attributes
    ----------
    model : str
        Whose layers and experts.
    steps : tuple of int
        Steps at which layers are described.
    curve_steps : int
        Distance of the steps at which one layer is followed.
    layer : int
        The layer that is followed.
    seed : int
        Of the generated loads.
    """

    model: str
    steps: tuple[int, ...]
    curve_steps: int
    layer: int
    seed: int


def run_expert_loads(spec: ExpertLoads, bench: Bench) -> Outcome:
    """Describe the loads of every source at hand."""
    import pandas as pd

    from lazsim.output.plots.experiments_loads import drift_figure, layers_figure

    model = load_spec(ModelSpec, spec.model)
    by_layer, drift = [], []
    for source, routing in bench.routings().items():
        loads = load_routing(routing, model.num_moe_layers, model.num_experts, spec.seed)
        shares_BLE = sorted_shares(loads.loads(spec.steps))
        by_layer.append(_by_layer(source, spec.steps, shares_BLE))
        along = np.arange(0, max(spec.steps) + 1, spec.curve_steps)
        drift.append(_drift(source, along, loads.loads(along)[:, spec.layer]))
    layers, curves = pd.concat(by_layer, ignore_index=True), pd.concat(drift, ignore_index=True)
    figures = {
        "layers": layers_figure(layers),
        "drift": drift_figure(curves, layer=spec.layer),
    }
    missing = () if RECORDED in bench.routings() else ("no recorded loads at hand: generated ones only",)
    return Outcome({"layers": layers, "summary": _summary(layers), "drift": curves}, figures, missing)


def sorted_shares(
    load_BLE: Ints,
) -> Floats:
    """Return each expert's share of its layer's tokens, fullest first.

    Examples
    --------
    >>> sorted_shares(np.array([[[1, 3]]])).tolist()
    [[[0.75, 0.25]]]
    """
    ordered = np.sort(load_BLE, axis=2)[:, :, ::-1]
    shares: Floats = ordered / ordered.sum(axis=2, keepdims=True)
    return shares


def _by_layer(source: str, steps: tuple[int, ...], shares_BLE: Floats) -> pd.DataFrame:
    import pandas as pd

    num_experts = shares_BLE.shape[2]
    rows = [
        {
            "loads": source,
            "step": step,
            "layer": layer,
            "max_over_mean": shares[0] * num_experts,
            "top2_share": shares[:2].sum(),
            "lightest_half_share": shares[num_experts // 2 :].sum(),
        }
        for step, shares_LE in zip(steps, shares_BLE, strict=True)
        for layer, shares in enumerate(shares_LE)
    ]
    return pd.DataFrame(rows)


def _summary(layers: pd.DataFrame) -> pd.DataFrame:
    """Return median, least and most over the layers."""
    grouped = layers.groupby(["loads", "step"], sort=False)[["max_over_mean", "top2_share"]]
    summary = grouped.agg(["min", "median", "max"])
    summary.columns = ["_".join(column) for column in summary.columns.to_flat_index()]
    return summary.reset_index()


def _drift(
    source: str,
    steps: Ints,
    load_BE: Ints,
) -> pd.DataFrame:
    """Return the shares of a layer's experts over training, experts by their share of all tokens."""
    import pandas as pd

    order = np.argsort(-load_BE.sum(axis=0), kind="stable")
    share_BE = load_BE[:, order] / load_BE.sum(axis=1, keepdims=True)
    rows = [
        {"loads": source, "step": int(step), "rank": rank + 1, "share": share}
        for step, share_E in zip(steps, share_BE, strict=True)
        for rank, share in enumerate(share_E)
    ]
    return pd.DataFrame(rows)
