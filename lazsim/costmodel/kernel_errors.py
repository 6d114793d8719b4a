"""Errors of the catalogue: one row for each measured GPU, kernel or collective, model and range of sizes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lazsim.costmodel.compute import fused_gpu
from lazsim.costmodel.fit import (
    COLLECTIVES,
    KERNEL_PARAMETERS,
    ErrorSummary,
    expert_times_s,
    fit_kernels,
    fit_links,
    fit_memory,
    held_out,
    large_exchanges,
    matmul_times_s,
    read_measurements,
    summarise,
    tokens_per_expert,
)
from lazsim.costmodel.times import Floats
from lazsim.errors import LazsimError
from lazsim.specs import ClusterSpec, GpuSpec, catalog_names, load_spec

if TYPE_CHECKING:
    import pandas as pd

MIN_TOKENS = 512
"""Errors from this size up are shown apart: experts of a training job rarely get fewer tokens."""

BALANCED = "balanced"
"""The distribution of expert loads to compare, where it was measured; otherwise all of them."""

Masks = Mapping[str, npt.NDArray[np.bool_]]

Refit = dict[str, dict[str, float | dict[str, float]]]


@dataclass(frozen=True)
class KernelRow:
    """The error of one model over some points.

    `group` is the GPU, and `metric` the kernel or collective whose time was measured. `model` is ``catalogue`` (the
    constants that are shipped), ``this fit`` (a fit to this very table) or ``own fit`` (the same formula fitted to this
    kind of kernel alone, where several kinds share their constants).
    """

    id: str
    group: str
    metric: str
    model: str
    points: str
    error: ErrorSummary

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return {name: value for name, value in (vars(self) | vars(self.error)).items() if name != "error"}


@dataclass(frozen=True)
class KernelErrors:
    """Rows of errors, the constants of a new fit for each TOML file, and measured GPUs outside the catalogue.

    A value of `refit` is a number, or a table of numbers that has its own name in the file.
    """

    rows: Sequence[KernelRow] = ()
    refit: Refit = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def compare_kernels(folder: Path, names: Iterable[str] = (), only: str = "") -> KernelErrors:
    """Compare the models of GPUs with measured tables, and fit them anew.

    A `LazsimError` says that a table cannot be read, a named GPU is unknown or was not measured, none was, or no row
    has the text.

    Parameters
    ----------
    folder
        Folder of `lazsim.costmodel.fit.TABLES`.
    names
        GPUs: names in the catalogue or paths to TOML files; by default, all measured GPUs in the catalogue.
    only
        Keep rows with this text in their name.
    """
    tables = read_measurements(folder)
    measured = sorted({str(gpu) for table in tables.values() for gpu in table["gpu"]})
    gpus = [
        load_spec(GpuSpec, name, "gpu")
        for name in names or [name for name in catalog_names("gpus") if name in measured]
    ]
    for gpu in gpus:
        if gpu.name not in measured:
            raise LazsimError(f"`gpu` {gpu.name}: not in the measurements; measured are {', '.join(measured)}")
    if not gpus:
        raise LazsimError(
            f"none of the measured GPUs ({', '.join(measured)}) is in the catalogue; give `gpu` FILE.toml"
        )
    rows, refit = list[KernelRow](), Refit()
    for gpu in gpus:
        mine = {name: table[table["gpu"] == gpu.name] for name, table in tables.items()}
        for name, compare in COMPARISONS.items():
            if name in mine and len(mine[name]):
                rows += compare(gpu, mine[name], refit)
    wanted = [row for row in rows if only.lower() in row.id.lower()]
    if only and not wanted:
        raise LazsimError(f"`only` {only}: none of the {len(rows)} rows has this text; give another one")
    return KernelErrors(wanted, refit, () if names else tuple(sorted({*measured} - {gpu.name for gpu in gpus})))


def _rows(
    gpu: str, metric: str, predicted_s: Mapping[str, Floats], table: "pd.DataFrame", masks: Masks
) -> Iterator[KernelRow]:
    """Summarise the errors of each model over each set of points that has some."""
    for model, times_s in predicted_s.items():
        for points, mask in masks.items():
            if mask.any():
                name, error = f"{gpu} {metric}, {model}, {points}", summarise(times_s[mask], table[mask])
                yield KernelRow(name, gpu, metric, model, points, error)


def _held_out(table: "pd.DataFrame", tokens: object) -> Masks:
    hidden = held_out(len(table))
    return {"held out": hidden, f"held out, m >= {MIN_TOKENS}": hidden & (np.asarray(tokens) >= MIN_TOKENS)}


def _compare_matmuls(gpu: GpuSpec, table: "pd.DataFrame", refit: Refit) -> Iterator[KernelRow]:
    fitted = fit_memory(fit_kernels(gpu, table), table)
    values = {name: getattr(fitted, name) for name in (*KERNEL_PARAMETERS, "memory_efficiency")}
    refit.setdefault(f"gpus/{gpu.name}", {}).update(values)
    predicted_s = {"catalogue": matmul_times_s(gpu, table), "this fit": matmul_times_s(fitted, table)}
    yield from _rows(gpu.name, "matmul", predicted_s, table, _held_out(table, table["m"]))


def _compare_experts(gpu: GpuSpec, table: "pd.DataFrame", refit: Refit) -> Iterator[KernelRow]:
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
    predicted_s = {model: expert_times_s(spec, table) for model, spec in models.items()}
    yield from _rows(gpu.name, "experts", predicted_s, table, _held_out(table, tokens_per_expert(table)))


def _compare_collectives(gpu: GpuSpec, table: "pd.DataFrame", refit: Refit) -> Iterator[KernelRow]:
    # That of the first cluster of the catalogue with several of these GPUs in a node.
    clusters = (load_spec(ClusterSpec, name) for name in catalog_names("clusters"))
    network = next((one.network for one in clusters if one.gpu == gpu.name and one.gpus_per_node > 1), None)
    fields: dict[str, float] = {}
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
        sizes = (mine["nbytes"], mine["num_gpus"])
        predicted_s = {model: collective.times_s(*sizes, *links) for model, links in models.items()}
        yield from _rows(gpu.name, operation, predicted_s, mine, {"whole node": whole, "part of a node": ~whole})


Compare = Callable[[GpuSpec, "pd.DataFrame", Refit], Iterator[KernelRow]]

COMPARISONS: Mapping[str, Compare] = {
    "gemm_bf16.csv": _compare_matmuls,
    "fused_moe_bf16.csv": _compare_experts,
    "nccl_single_node.csv": _compare_collectives,
}
"""Comparison by name of the measured file."""
