"""Fit the cost model to measured tables, and tell the errors of the catalogue and of the fit.

A folder of measurements holds up to three CSV files with a header; any tables with the same columns work. Times are in
microseconds; GPUs have their names in the catalogue. Other columns are ignored.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from lazsim.costmodel.compute import fused_gpu, matmul_s
from lazsim.costmodel.network import all_to_all_s, ring_all_reduce_s
from lazsim.errors import LazsimError
from lazsim.files.reading import read_bytes
from lazsim.files.tables import read_cells
from lazsim.placement.plan import Bools, Floats
from lazsim.specs import WEIGHT_BYTES_PER_PARAM, ClusterSpec, GpuSpec, catalog_names, load_spec
from lazsim.units import MIB

if TYPE_CHECKING:
    import pandas as pd

    Columns = pd.DataFrame | Mapping[str, npt.NDArray[Any]]

TABLES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gemm_bf16.csv": (("gpu",), ("m", "n", "k", "time_us")),
    "fused_moe_bf16.csv": (
        ("gpu", "distribution"),
        ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_ep_size", "time_us"),
    ),
    "nccl_single_node.csv": (("gpu", "op_name"), ("num_gpus", "nbytes", "time_us")),
}
"""File -> columns of text and of positive numbers. The ``distribution`` is how skewed expert loads are, and ``op_name``
is ``all_reduce``, ``alltoall``, ..."""

LEAST, MOST = 1e-6, 1e15
"""Range of numbers in a table: products and quotients of a few of them stay finite."""

HOLD_OUT_EVERY = 7
"""Every seventh point, in the order of the sizes, is held out. Seven shares no factor with the numbers of sizes along
``n`` and ``k``, 5 or 6 in a grid, so that each size is held out somewhere."""

OUTLIER_SCALE = 0.1
"""Larger residuals of the logarithm count linearly: some measured points are five times their neighbours."""

MIN_STREAM_BYTES = 100e6
"""Larger operands do not fit into the L2 cache (40 MB on A100, 50 MB on H100)."""

MIN_EXCHANGE_BYTES = MIB
"""Smallest collective in a fit: smaller ones are all latency, and no step depends on them."""

MIN_TOKENS = 512
"""Errors from this size up are shown apart: experts of a training job rarely get fewer tokens."""

BALANCED = "balanced"
"""The distribution of expert loads to compare, where it was measured; otherwise all of them."""

# parameter -> (lowest, start, highest): shares of a peak stay below 1, the other ranges are wide.
KERNEL_PARAMETERS: Mapping[str, tuple[float, float, float]] = {
    "matmul_efficiency": (0.01, 0.9, 1.0),
    "matmul_fill_outputs": (1.0, 2e5, 1e8),
    "matmul_fill_k": (1.0, 100.0, 1e4),
    "matmul_memory_efficiency": (0.01, 0.8, 1.0),
    "kernel_overhead_s": (1e-8, 4e-6, 1e-3),
}

KernelModel = Callable[[GpuSpec, "Columns"], Floats]

Masks = Mapping[str, Bools]

Refit = dict[str, dict[str, float | dict[str, float]]]


@dataclass(frozen=True)
class ErrorSummary:
    """Relative errors ``|predicted / measured - 1|`` over some points; `bias` is the median with its sign."""

    num_points: int
    median: float
    p90: float
    max: float
    bias: float
    within_25_percent: float


COLLECTIVES: Mapping[str, tuple[Callable[..., Floats], tuple[str, str]]] = {
    "alltoall": (all_to_all_s, ("local_bytes_per_s", "local_latency_s")),
    "all_reduce": (ring_all_reduce_s, ("local_all_reduce_bytes_per_s", "local_all_reduce_latency_s")),
}
"""Model by name of the operation in the table, and the fields of `lazsim.specs.NetworkSpec` that hold its bandwidth and
latency."""


def read_timings(path: Path | str) -> "pd.DataFrame":
    """Read one of the `TABLES`, sorted by GPU and size.

    Raise LazsimError, with the line, when the file cannot be read, a column is missing, or a number is out of range.
    """
    import pandas as pd

    path = Path(path)
    texts, numbers = TABLES[path.name]
    rows = read_cells(path, read_bytes(path), (*texts, *numbers))
    table = pd.DataFrame({column: [row[column] for row in rows.values()] for column in (*texts, *numbers)})
    for column in numbers:
        values = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        bad = np.flatnonzero(~((values >= LEAST) & (values <= MOST)))
        if len(bad):
            text = table[column].iloc[bad[0]]
            needed = f"give a number from {LEAST} to {MOST}, without separators of thousands"
            raise LazsimError(f"{path}, line {list(rows)[bad[0]]}: {column} is {text!r}; {needed}")
        table[column] = values
    return table.sort_values([*texts, *numbers], kind="stable", ignore_index=True)


def read_measurements(folder: Path | str) -> dict[str, "pd.DataFrame"]:
    """Read all `TABLES` in a folder, or raise LazsimError when it has none of them, or one is not valid."""
    paths = [Path(folder) / name for name in TABLES]
    present = [path for path in paths if os.path.exists(path)]
    if not present:
        raise LazsimError(f"`kernels` {folder}: holds none of {', '.join(TABLES)}; give a folder of them")
    return {path.name: read_timings(path) for path in present}


def held_out(num_points: int) -> Bools:
    """Mark every seventh point, to hold it out of a fit.

    Examples
    --------
    >>> held_out(8).astype(int).tolist()
    [0, 0, 0, 1, 0, 0, 0, 0]
    """
    mask: Bools = np.arange(num_points) % HOLD_OUT_EVERY == HOLD_OUT_EVERY // 2
    return mask


def summarise_errors(predicted_s: Floats, table: "pd.DataFrame") -> ErrorSummary:
    """Summarise the errors of predicted seconds against the ``time_us`` of a table."""
    signed = predicted_s / _measured_s(table) - 1.0
    error = np.abs(signed)
    return ErrorSummary(
        num_points=len(error),
        median=float(np.median(error)),
        p90=float(np.quantile(error, 0.9)),
        max=float(error.max()),
        bias=float(np.median(signed)),
        within_25_percent=float(np.mean(error <= 0.25)),
    )


def matmul_times_s(gpu: GpuSpec, table: "Columns") -> Floats:
    """Predict each matmul of a table with columns m, n and k."""
    return matmul_s(gpu, *(table[column] for column in "mnk"))


def tokens_per_expert(table: "Columns") -> Floats:
    """Return the mean tokens of an expert in each row of a table of expert layers."""
    tokens, top_k, experts = (np.asarray(table[name]) for name in ("num_tokens", "topk", "num_experts"))
    return np.asarray(tokens * top_k / experts, dtype=np.float64)


def expert_times_s(gpu: GpuSpec, table: "Columns") -> Floats:
    """Predict each whole expert layer of a table: three matmuls for each expert, forward, one after the other.

    Every expert is taken to get the mean number of tokens, and all experts of the layer to be on the one GPU.
    """
    tokens = tokens_per_expert(table)
    hidden, inner, experts = (np.asarray(table[name]) for name in ("hidden_size", "inter_size", "num_experts"))
    up_and_gate = 2.0 * matmul_s(gpu, tokens, inner, hidden)
    return np.asarray(experts * (up_and_gate + matmul_s(gpu, tokens, hidden, inner)), dtype=np.float64)


def fit_kernels(gpu: GpuSpec, table: "pd.DataFrame", times_s: KernelModel = matmul_times_s) -> GpuSpec:
    """Fit the `KERNEL_PARAMETERS` of a GPU to its measured times, held-out points left aside.

    Least squares of the logarithm of predicted over measured time, robust against outliers (soft L1), so that a
    relative error weighs the same at every size. `times_s` is `matmul_times_s` or `expert_times_s`.
    """
    fitted = table[~held_out(len(table))]
    low, start, high = np.log(np.array(list(KERNEL_PARAMETERS.values())).T)
    # A fit asks thousands of times, and pandas takes longer to find a column than numpy for all its times.
    columns = {str(name): fitted[name].to_numpy() for name in fitted}

    def spec(logarithms: Floats) -> GpuSpec:
        values = dict(zip(KERNEL_PARAMETERS, np.exp(logarithms).tolist(), strict=True))
        return msgspec.structs.replace(gpu, **values)

    return spec(_fit_logarithms(lambda x: times_s(spec(x), columns), _measured_s(fitted), low, start, high))


def fit_memory(gpu: GpuSpec, table: "pd.DataFrame") -> GpuSpec:
    """Set `memory_efficiency` to the highest share of the bandwidth that a large measured matmul reaches.

    An element-wise kernel can reach at least what a matmul does, so this is a lower bound. Without large matmuls
    nothing changes.
    """
    fitted = table[~held_out(len(table))]
    m, n, k = (fitted[column].to_numpy() for column in "mnk")
    num_bytes = WEIGHT_BYTES_PER_PARAM * (m * k + k * n + m * n)
    shares = (num_bytes / _measured_s(fitted) / gpu.memory_bytes_per_s)[num_bytes >= MIN_STREAM_BYTES]
    if not len(shares):
        return gpu
    return msgspec.structs.replace(gpu, memory_efficiency=min(1.0, float(shares.max())))


def large_exchanges(table: "pd.DataFrame", operation: str) -> "pd.DataFrame":
    """Select the rows of one of the `COLLECTIVES` from `MIN_EXCHANGE_BYTES` up; one GPU alone exchanges nothing."""
    is_large = (table["nbytes"] >= MIN_EXCHANGE_BYTES) & (table["num_gpus"] > 1)
    return table[(table["op_name"] == operation) & is_large]


def fit_links(operation: str, table: "pd.DataFrame") -> tuple[float, float]:
    """Fit bandwidth and latency of one of the `COLLECTIVES` to its times over the most GPUs of a table.

    Smaller groups are held out: they show how well the fit carries over. The table is of one kind of node; see
    `large_exchanges`.
    """
    whole_node = table[table["num_gpus"] == table["num_gpus"].max()]
    low, start, high = np.log(np.array([[1e8, 1e11, 1e13], [1e-8, 1e-5, 1e-2]]).T)
    times_s, _ = COLLECTIVES[operation]

    def predict(logarithms: Floats) -> Floats:
        return times_s(whole_node["nbytes"], whole_node["num_gpus"], *np.exp(logarithms))

    bytes_per_s, latency_s = np.exp(_fit_logarithms(predict, _measured_s(whole_node), low, start, high)).tolist()
    return bytes_per_s, latency_s


def _measured_s(table: "pd.DataFrame") -> Floats:
    return np.asarray(table["time_us"], dtype=np.float64) * 1e-6


def _fit_logarithms(
    predict: Callable[[Floats], Floats], measured_s: Floats, low: Floats, start: Floats, high: Floats
) -> Floats:
    from scipy.optimize import least_squares

    def residuals(logarithms: Floats) -> Floats:
        return np.log(predict(logarithms) / measured_s)

    result = least_squares(
        residuals, start, bounds=(low, high), loss="soft_l1", f_scale=OUTLIER_SCALE, ftol=1e-12, xtol=1e-12,
        max_nfev=2000,
    )  # fmt: skip
    return np.asarray(result.x, dtype=np.float64)


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
                name, error = f"{gpu} {metric}, {model}, {points}", summarise_errors(times_s[mask], table[mask])
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
    for operation, (times_s, names) in COLLECTIVES.items():
        mine = large_exchanges(table, operation)
        if not len(mine):
            continue
        fitted = fit_links(operation, mine)
        fields |= zip(names, fitted, strict=True)
        refit[f"clusters of {gpu.name}"] = {"network": fields}
        models = {"this fit": fitted}
        if network is not None:
            models = {"catalogue": tuple(getattr(network, name) for name in names)} | models
        whole = (mine["num_gpus"] == mine["num_gpus"].max()).to_numpy()
        sizes = (mine["nbytes"], mine["num_gpus"])
        predicted_s = {model: times_s(*sizes, *links) for model, links in models.items()}
        yield from _rows(gpu.name, operation, predicted_s, mine, {"whole node": whole, "part of a node": ~whole})


COMPARISONS: Mapping[str, Callable[[GpuSpec, "pd.DataFrame", Refit], Iterator[KernelRow]]] = {
    "gemm_bf16.csv": _compare_matmuls,
    "fused_moe_bf16.csv": _compare_experts,
    "nccl_single_node.csv": _compare_collectives,
}
"""Comparison by name of the measured file."""
