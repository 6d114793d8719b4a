"""Compare the catalogue with measurements: one row for each GPU, kernel or collective, model and range of sizes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lazsim.costmodel.compute import fused_gpu
from lazsim.costmodel.fit import (
    COLLECTIVES,
    KERNEL_PARAMETERS,
    ErrorSummary,
    KernelModel,
    expert_times_s,
    fit_kernels,
    fit_links,
    fit_memory,
    held_out,
    large_exchanges,
    matmul_times_s,
    summarise,
    tokens_per_expert,
)
from lazsim.errors import LazsimError
from lazsim.specs import ClusterSpec, GpuSpec, NetworkSpec, catalog_names, load_spec

if TYPE_CHECKING:
    import pandas as pd

MIN_TOKENS = 512
"""Errors from this size up are shown apart: experts of a training job rarely get fewer tokens."""

BALANCED = "balanced"
"""The distribution of expert loads to compare, where it was measured; otherwise all of them."""

Refit = dict[str, dict[str, float | dict[str, float]]]


@dataclass(frozen=True)
class CalibrationRow:
    """The error of one model over some points.

    `model` is ``catalogue`` (the constants that are shipped), ``this fit`` (a fit to this very table) or ``own fit``
    (the same formula fitted to this kind of kernel alone, where several kinds share their constants).
    """

    gpu: str
    kind: str
    model: str
    points: str
    error: ErrorSummary


@dataclass(frozen=True)
class CalibrationReport:
    """Rows of errors, the constants of a new fit for each TOML file, and measured GPUs outside the catalogue.

    A value of `refit` is a number, or a table of numbers that has its own name in the file.
    """

    rows: list[CalibrationRow] = field(default_factory=list)
    refit: Refit = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return plain values, None for errors that are undefined."""
        rows = []
        for row in self.rows:
            numbers = {name: None if np.isnan(value) else value for name, value in vars(row.error).items()}
            rows.append({"gpu": row.gpu, "kind": row.kind, "model": row.model, "points": row.points} | numbers)
        return {"rows": rows, "refit": self.refit, "unknown": self.unknown}


def calibrate(tables: Mapping[str, "pd.DataFrame"], names: Iterable[str] = ()) -> CalibrationReport:
    """Compare the models of GPUs with measured tables, and fit them anew.

    Parameters
    ----------
    tables
        Result of `lazsim.costmodel.fit.read_measurements`.
    names
        GPUs: names in the catalogue or paths to TOML files; by default, all measured GPUs in the catalogue.

    Raises
    ------
    LazsimError
        When a named GPU is unknown or was not measured, or none was.
    """
    measured = sorted({str(gpu) for table in tables.values() for gpu in table["gpu"]})
    gpus = [load_spec(GpuSpec, name) for name in names or [name for name in catalog_names("gpus") if name in measured]]
    for gpu in gpus:
        if gpu.name not in measured:
            raise LazsimError(f"`gpu` {gpu.name}: not in the measurements; measured are {', '.join(measured)}")
    if not gpus:
        raise LazsimError(
            f"none of the measured GPUs ({', '.join(measured)}) is in the catalogue; give `gpu` FILE.toml"
        )
    calibration = CalibrationReport(unknown=() if names else tuple(sorted({*measured} - {gpu.name for gpu in gpus})))
    for gpu in gpus:
        mine = {name: table[table["gpu"] == gpu.name] for name, table in tables.items()}
        for name, compare in COMPARISONS.items():
            if name in mine and len(mine[name]):
                rows = compare(gpu, mine[name], calibration.refit)
                calibration.rows.extend(row for row in rows if row.error.num_points)
    return calibration


def _kernel_rows(
    gpu: GpuSpec, kind: str, models: Mapping[str, GpuSpec], times_s: KernelModel, table: "pd.DataFrame", tokens: object
) -> Iterator[CalibrationRow]:
    hidden, large = held_out(len(table)), np.asarray(tokens) >= MIN_TOKENS
    for model, spec in models.items():
        predicted = times_s(spec, table)
        for points, mask in {"held out": hidden, f"held out, m >= {MIN_TOKENS}": hidden & large}.items():
            yield CalibrationRow(gpu.name, kind, model, points, summarise(predicted[mask], table[mask]))


def _compare_matmuls(gpu: GpuSpec, table: "pd.DataFrame", refit: Refit) -> Iterator[CalibrationRow]:
    fitted = fit_memory(fit_kernels(gpu, table), table)
    values = {name: getattr(fitted, name) for name in (*KERNEL_PARAMETERS, "memory_efficiency")}
    refit.setdefault(f"gpus/{gpu.name}", {}).update(values)
    models = {"catalogue": gpu, "this fit": fitted}
    yield from _kernel_rows(gpu, "matmul", models, matmul_times_s, table, table["m"])


def _compare_experts(gpu: GpuSpec, table: "pd.DataFrame", refit: Refit) -> Iterator[CalibrationRow]:
    table = table[table["moe_ep_size"] == 1]
    if (table["distribution"] == BALANCED).any():
        table = table[table["distribution"] == BALANCED]
    if not len(table):
        return
    fitted = fit_kernels(gpu, table, expert_times_s)
    values = {name: getattr(fitted, name) for name in KERNEL_PARAMETERS}
    refit.setdefault(f"gpus/{gpu.name}", {})["fused_experts"] = values
    models = {"catalogue": gpu, "own fit": fitted}
    if gpu.fused_experts is not None:
        models["fused"] = fused_gpu(gpu, gpu.fused_experts)
    yield from _kernel_rows(gpu, "experts", models, expert_times_s, table, tokens_per_expert(table))


def _compare_collectives(gpu: GpuSpec, table: "pd.DataFrame", refit: Refit) -> Iterator[CalibrationRow]:
    network, fields = _node_network(gpu.name), dict[str, float]()
    for operation, collective in COLLECTIVES.items():
        mine = large_exchanges(table, operation)
        if not len(mine):
            continue
        fitted = fit_links(operation, mine)
        fields |= zip(collective.fields, fitted, strict=True)
        refit[f"clusters of {gpu.name}"] = {"network": fields}
        models = {"this fit": fitted}
        if network is not None:
            models = {"catalogue": tuple(getattr(network, name) for name in collective.fields)} | models
        whole = (mine["num_gpus"] == mine["num_gpus"].max()).to_numpy()
        for model, links in models.items():
            predicted = collective.times_s(mine["nbytes"], mine["num_gpus"], *links)
            for points, mask in {"whole node": whole, "part of a node": ~whole}.items():
                yield CalibrationRow(gpu.name, operation, model, points, summarise(predicted[mask], mine[mask]))


def _node_network(gpu: str) -> NetworkSpec | None:
    """Return the network of the first cluster of the catalogue with several of these GPUs in a node."""
    for name in catalog_names("clusters"):
        cluster = load_spec(ClusterSpec, name)
        if cluster.gpu == gpu and cluster.gpus_per_node > 1:
            return cluster.network
    return None


Compare = Callable[[GpuSpec, "pd.DataFrame", Refit], Iterator[CalibrationRow]]

COMPARISONS: Mapping[str, Compare] = {
    "gemm_bf16.csv": _compare_matmuls,
    "fused_moe_bf16.csv": _compare_experts,
    "nccl_single_node.csv": _compare_collectives,
}
"""Comparison by name of the measured file."""
