"""Kernel tables from what others measured: CSV files in the columns of aiconfigurator's extracts, or nccl-tests output.

A file has points at sizes of its own choice and bad ones among them. Here they become full grids, and everything that
was left out, filled in or changed on the way is told. docs/guides/measurements.md lists the files.
"""

import itertools
import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lazsim.errors import SpecError, prefix_errors, printable, unknown_name
from lazsim.files.reading import decode_text, read_bytes, unpack
from lazsim.files.tables import Cells, read_cells
from lazsim.specs import catalog_names
from lazsim.stepmodel.check_tables import TablesCheck, check_tables
from lazsim.stepmodel.experts import distinct_ranks
from lazsim.stepmodel.full_grid import Points, full_grid
from lazsim.stepmodel.tables import (
    COLUMNS,
    KERNEL_AXES,
    MICROSECOND,
    NCCL_COLLECTIVES,
    KernelTables,
    load_tables,
    parse_tables,
    positive_number,
    work_axes,
)

UNLIKELY_FACTOR = 10.0
"""Times of a kernel this far from those of all GPUs of the catalogue, at the median, may have another unit."""

MOST_COMPARED = 200
"""Points of a kernel that are compared with the catalogue."""

COPY_SHARE = 0.5
"""Share of identical times from which a table counts as a copy; tables of different GPUs share up to 1.5 %."""

FORWARD_ONLY = (
    "forward only; backward, a matmul is two of its shapes in these tables, and attention takes its forward time by a "
    "factor of the catalogue (lazsim/catalog/steps)"
)


@dataclass(frozen=True)
class TableSource:
    """Rows of a file that hold one family of kernels."""

    kernel: str
    """Name of the kernel, with columns of the row in braces."""
    sizes: Callable[[Mapping[str, float]], tuple[float, ...]]
    """Sizes of the kernel from a row, in the order of `KERNEL_AXES`."""
    columns: tuple[str, ...]
    """Columns that `sizes` needs."""
    fixed: Mapping[str, str] = field(default_factory=dict)
    """Values that rows must have."""
    chosen: tuple[str, ...] = ()
    """Columns of which one value is taken, in this order: the one with the most rows, then the largest."""
    ranks: str = ""
    time: str = "time_us"
    """Columns of the number of GPUs and of the time."""


def _exchanged_bytes(row: Mapping[str, float], ranks: float, tokens: float) -> float:
    """Bytes that a rank sends to others in a combine of 16 bits: one copy for each rank of a token."""
    copies = distinct_ranks(int(row["topk"]), int(row["experts"]), ranks) * (1 - 1 / ranks)
    return int(copies * 2 * row["hidden"] * tokens)


def _attention_source(kernel: str, **fixed: str) -> TableSource:
    return TableSource(kernel, lambda row: (row["batch"] * row["heads"], row["seq"]), ("batch", "heads", "seq"), fixed)


DEEPSEEK = {"topk": "8", "experts": "256"}
"""Experts of the exchanges that were measured on all GPUs."""

SOURCES: Mapping[str, TableSource] = {
    "gemm.csv": TableSource("matmul_{dtype}", lambda row: (row["m"], row["n"], row["k"]), ("m", "n", "k")),
    "attention_prefill.csv": _attention_source("attention_{head_dim}", kv_heads="8"),
    "mla_prefill.csv": _attention_source("attention_latent", what="kernel"),
    "fp8_quantise.csv": TableSource(
        "quantise", lambda row: (row["m"] * row["k"],), ("m", "k"), fixed={"op": "apply_scale"}
    ),
    "nccl_single_node.csv": TableSource(
        "{op}", lambda row: (row["nbytes"], row["num_gpus"]), ("nbytes", "num_gpus"), ranks="num_gpus"
    ),
    "deepep_normal.csv": TableSource(
        "exchange_deepep",
        lambda row: (row["tokens_per_rank"], _exchanged_bytes(row, row["gpus"], 1), row["sms"]),
        ("gpus", "topk", "experts", "hidden", "tokens_per_rank", "sms"),
        fixed={"nodes": "1", **DEEPSEEK},
        chosen=("version",),
        ranks="gpus",
        time="combine_transmit_us",
    ),
    "nvlink_alltoall.csv": TableSource(
        "exchange_hybridep",
        lambda row: (_exchanged_bytes(row, row["ep"], row["tokens_per_rank"]),),
        ("ep", "topk", "experts", "hidden", "tokens_per_rank"),
        fixed={"strategy": "NVLinkOneSided", "phase": "combine", "hidden": "7168", **DEEPSEEK},
        chosen=("ep",),
        ranks="ep",
    ),
}
"""Every file that is read, and the kernels in it."""

NCCL_TESTS = "nccl_single_node.csv"
NCCL_TESTS_OPS = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "alltoall": 1}
"""Collectives; of ``n`` GPUs, nccl-tests prints this times ``(n - 1) / n`` of algbw as busbw (its PERFORMANCE.md)."""
NCCL_TESTS_ROUNDING = 0.02
"""GB/s by which the rates of a row, printed with two digits, may not fit together."""
NCCL_TESTS_RANK = r"#\s+Rank\s+(\d+)\b(?:\s+Group\s+(\d+))?.*?\bon\s+(\S+)(?:\s+device\s+\d+\s+\[[^\]]*\]\s+(.+?)\s*$)?"
NCCL_TESTS_TIMESTAMP = r"\s+\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\S*\s*$"
NCCL_TESTS_PREFIX = r"\[[^\]]*\]<std\w+>: ?|\s*\d+: "
"""Tags of ranks by ``mpirun --tag-output`` and ``srun --label``."""
NCCL_TESTS_RIGHT = r"0|N/A|-1|0e\+00|\d+e-\d+"
"""No wrong results, no check, or as older releases have it, an error below 1; a million wrong results are 1e+06."""
NCCL_TESTS_COLUMNS = 11
"""Size, count and type, then time, two rates and wrong results, out of place and in place."""


@dataclass(frozen=True)
class ImportedTables(TablesCheck):
    """Kernel tables of one GPU, and how well they interpolate."""

    gpu: str
    """The GPU."""
    text: str
    """The file."""
    num_points: int
    """Points of all kernels."""
    notes: list[str]
    """Everything that was left out, filled in, changed, or looks wrong."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"gpu": self.gpu, "forward_only": True, **super().to_json(), "notes": self.notes}


def import_tables(path: str, gpu: str | None = None, stand_ins: Mapping[str, str] | None = None) -> ImportedTables:
    """Read a folder of the files in `SOURCES`, one such file, or the text output of a program of nccl-tests.

    Rows of one GPU are taken; without `gpu`, of the only one in the files. nccl-tests tells none, so it is a name then.
    The `stand_ins` are other GPUs whose rows are taken, by file name. A `LazsimError` says that a file cannot be read
    or lacks columns, that a number is none, or that no kernel of the GPU is found.
    """
    stand_ins = stand_ins or {}
    notes: list[str] = []
    files = _read_files(path, notes)
    known = sorted({row["gpu"] for rows in files.values() for row in rows if row["gpu"]})
    if gpu is None:
        if len(known) != 1:
            raise SpecError(f"`gpu`: give the name of one, of {', '.join(known) or 'your choice'}")
        gpu = known[0]
    catalogue = {name: load_tables(name) for name in catalog_names("kernels", ".csv")}
    unnamed = {name: tables for name, tables in catalogue.items() if name not in known}
    head, lines = [f"{printable(gpu)}: {FORWARD_ONLY}"], []
    for file, rows in files.items():
        taken = stand_ins.get(file, gpu)
        if taken != gpu:
            notes.append(f"{file}: rows of {taken} stand in for those of {gpu}")
        beside = {other: _kernels(SOURCES[file], rows, other, []) for other in known if other not in (gpu, taken)}
        kernels = _kernels(SOURCES[file], rows, taken, notes)
        if not kernels:
            notes.append(f"{file}: no rows of {taken} are of use")
        for kernel, (points, ranks) in kernels.items():
            others = {other: found[kernel][0] for other, found in beside.items() if kernel in found}
            notes += _copies(kernel, gpu, points, others | _catalogued(kernel, unnamed))
            notes += _unlikely(kernel, points, catalogue)
            axes, times = full_grid(kernel, points, notes)
            if min(times.shape[axis] for axis in work_axes(kernel)) < 2:
                notes.append(f"{kernel}: left out, since one of its sizes has a single value")
                continue
            if (nodes := rows[0].get("nodes", "1")) != "1" and file == NCCL_TESTS:
                head.append(f"{kernel}: times across {nodes} nodes count as those of one domain of NVLink")
            device = rows[0].get("device", "") if file == NCCL_TESTS and gpu in catalogue else ""
            is_other = device and not re.search(rf"\b{re.escape(gpu)}\b", device.lower())
            measured = device if is_other else taken
            if measured != gpu:
                head.append(f"{kernel}: times of {printable(measured)} stand in for those of {printable(gpu)}")
            for index, time_us in np.ndenumerate(times):
                sizes = [f"{axis[i]:.15g}" for axis, i in zip(axes, index, strict=True)]
                over = sizes.pop() if kernel in NCCL_COLLECTIVES else str(ranks or "")
                lines.append(",".join([kernel, *[*sizes, "", ""][:3], over, f"{time_us:.4g}"]))
    if not lines:
        unknown = known and gpu not in known
        why = unknown_name("GPU", gpu, known) if unknown else f"no kernel of {gpu} can be used: {'; '.join(notes)}"
        raise SpecError(f"{path}: {why}")
    text = "\n".join([*(f"# {remark}" for remark in head), ",".join(COLUMNS), *lines]) + "\n"
    return ImportedTables(check_tables(parse_tables(gpu, text.encode())).kernels, gpu, text, len(lines), notes)


def parse_stand_ins(texts: Iterable[str]) -> dict[str, str]:
    """Read ``FILE=GPU`` texts.

    Examples
    --------
    >>> parse_stand_ins(["deepep_normal.csv=h100"])
    {'deepep_normal.csv': 'h100'}
    """
    found: dict[str, str] = {}
    for text in texts:
        file, _, gpu = text.partition("=")
        if file not in SOURCES or not gpu:
            raise SpecError(f"`stand_in` {file}: give FILE=GPU, where FILE is one of {', '.join(SOURCES)}")
        if file in found:
            raise SpecError(f"`stand_in` {text}: {file} is given twice; keep one of them")
        found[file] = gpu
    return found


def _read_files(path: str, notes: list[str]) -> dict[str, list[Cells]]:
    if Path(path).is_dir():
        found = [name for name in SOURCES if (Path(path) / name).exists()]
        if not found:
            raise SpecError(f"{path}: no file of kernel times; it may have {', '.join(SOURCES)}")
        notes += [f"{name}: not in {path}" for name in SOURCES if name not in found]
        return {name: _read_csv(Path(path) / name, SOURCES[name]) for name in found}
    if Path(path).suffix == ".csv":
        name = Path(path).name
        if name not in SOURCES:
            raise SpecError(f"{path}: " + unknown_name("file of kernel times", name, list(SOURCES)))
        return {name: _read_csv(Path(path), SOURCES[name])}
    return {NCCL_TESTS: _read_nccl_tests(path, notes)}


def _read_csv(path: Path, source: TableSource) -> list[Cells]:
    named = re.findall(r"\{(\w+)\}", source.kernel)
    needed = dict.fromkeys(["gpu", *named, *source.columns, *source.fixed, *source.chosen, source.time])
    rows = read_cells(path, read_bytes(path), needed)
    if nameless := next((line for line, row in rows.items() if not row["gpu"]), None):
        raise SpecError(f"{path}, line {nameless}: names no GPU; give each row one in the column gpu")
    return [{**row, "line": f"{path}, line {line}"} for line, row in rows.items()]


def _read_nccl_tests(path: str, notes: list[str]) -> list[Cells]:
    """Read the table that a program of nccl-tests prints: out-of-place times, which come first."""
    lines = [
        line[tag.end() :] if (tag := re.match(NCCL_TESTS_PREFIX, line)) else line
        for line in decode_text(unpack(path, read_bytes(path)), errors="replace").splitlines()
    ]
    if any(re.match(r"#\s+size\b.*\bcputime\b", line) for line in lines):
        raise SpecError(f"{path}: has times of the CPU; run nccl-tests without --report_cputime")
    ranks = [found.groups() for line in lines if (found := re.match(NCCL_TESTS_RANK, line))]
    if len(set(Counter(rank for rank, *_ in ranks).values())) > 1:
        raise SpecError(f"{path}: holds outputs over different numbers of GPUs; give each a file of its own")
    # Groups exchange at the same time, each its own buffer.
    groups = {group for _, group, *_ in ranks}
    num_gpus, rest = divmod(len({rank for rank, *_ in ranks}), max(1, len(groups)))
    if rest:
        raise SpecError(f"{path}: has groups of different numbers of GPUs; give the output of equal ones")
    notes += [f"{path}: of {name}" for name in dict.fromkeys(name for *_, name in ranks if name)]
    rows: list[Cells] = []
    for number, line in enumerate(lines, start=1):
        where, cells = f"{path}, line {number}", re.sub(NCCL_TESTS_TIMESTAMP, "", line).split()
        if not re.match(r"\s*\d+(\s+\d+\s+[a-z]|(\s+\d+)?\s*$)", line) or cells[0] == "0":
            continue
        # Older releases have no root, and name no reduction where there is none: columns count from the end.
        if len(cells) < NCCL_TESTS_COLUMNS:
            raise SpecError(f"{where}: is cut short; remove the line, or give the whole output")
        time_us, algbw, busbw, wrong = cells[-8:-4]
        if not re.fullmatch(NCCL_TESTS_RIGHT, wrong):
            notes.append(f"{where}: left out, since {wrong} results are wrong")
        else:
            rows.append({"nbytes": cells[0], "time_us": time_us, "algbw": algbw, "busbw": busbw, "line": where})
    if not rows and any(note.endswith(" results are wrong") for note in notes):
        raise SpecError(f"{path}: all of its results are wrong, as nccl-tests says; measure again")
    if not rows:
        raise SpecError(f"{path}: neither a folder, a .csv file nor the text output of nccl-tests; check the path")
    told = set(re.findall(r"(\w+)_perf\b", "\n".join(lines))) or set(
        re.findall("|".join(NCCL_TESTS_OPS), Path(path).name)
    )
    known = ", ".join(NCCL_TESTS_OPS)
    if not told:
        raise SpecError(f"{path}: does not tell the collective; name the file after it, one of {known}")
    if len(told) > 1 or told.isdisjoint(NCCL_TESTS_OPS):
        raise SpecError(f"{path}: is of {', '.join(sorted(told))}; give the output of one of {known}")
    if num_gpus < 2:
        raise SpecError(f"{path}: has {num_gpus} lines '# Rank ...'; keep the head of the output, of at least 2 GPUs")
    factor = NCCL_TESTS_OPS[min(told)] * (num_gpus - 1) / num_gpus
    for row in rows:
        # Rates have two digits, too few below 1 GB/s.
        if re.fullmatch(r"[1-9]\d*\.\d+", row["algbw"]):
            with prefix_errors(row["line"]):
                alg, bus = map(positive_number, (row["algbw"], row["busbw"]))
                if abs(bus - factor * alg) > NCCL_TESTS_ROUNDING:
                    expected = f"not {factor:.3g} times as over the {num_gpus} GPUs of the '# Rank' lines"
                    raise SpecError(f"busbw is {bus / alg:.3g} times algbw, {expected}; give the whole output")
    if (nodes := len({place for _, _, place, _ in ranks})) > 1:
        notes.append(f"{path}: {nodes} nodes take part; they must be in one domain of NVLink, as tables are for")
    common = {"gpu": "", "num_gpus": str(num_gpus), "op": min(told), "nodes": str(nodes), "device": ranks[0][3] or ""}
    return [{**row, **common} for row in rows]


def _kernels(source: TableSource, rows: Iterable[Cells], gpu: str, notes: list[str]) -> dict[str, tuple[Points, int]]:
    """Return times of a GPU's kernels by sizes, medians of repeated rows, and the GPUs that took part."""
    families: dict[str, list[Cells]] = defaultdict(list)
    for row in rows:
        if row["gpu"] in (gpu, "") and all(row[column] == value for column, value in source.fixed.items()):
            name = source.kernel.format_map(row)
            families["all_to_all" if name == "alltoall" else name].append(row)
    kernels = {}
    for kernel, family in families.items():
        if kernel not in KERNEL_AXES:
            notes.append(f"{kernel}: left out, since no step uses it")
            continue
        for column in source.chosen:
            family = _with_chosen(column, family)
        times: dict[tuple[float, ...], list[float]] = defaultdict(list)
        for row in family:
            with prefix_errors(row["line"]):
                numbers = {column: positive_number(row[column]) for column in source.columns}
                # The smaller of two releases: other work, and a bad choice of kernel, only add to times.
                both = [row[column] for column in (source.time, "earlier_time_us") if row.get(column)]
                times[source.sizes(numbers)].append(min(map(positive_number, both or [""])))
        whole = [frozenset(item for item in row.items() if item[0] != "line") for row in family]
        if again := len(whole) - len(set(whole)):
            notes.append(
                f"{kernel}: {again} of {len(whole)} rows repeat others exactly; leave out those that no one measured"
            )
        ranks = int(positive_number(family[0][source.ranks])) if source.ranks else 0
        apart = [max(some) / min(some) for some in times.values() if max(some) > min(some)]
        if apart:
            notes.append(
                f"{kernel}: {len(apart)} of {len(times)} points have several times, up to a factor of {max(apart):.3g} "
                "apart; their medians count"
            )
        kernels[kernel] = {sizes: statistics.median(times[sizes]) for sizes in sorted(times)}, ranks
    return kernels


def _with_chosen(column: str, rows: Sequence[Cells]) -> list[Cells]:
    counts = Counter(row[column] for row in rows)
    chosen = max(counts, key=lambda value: (counts[value], [int(part) for part in re.findall(r"\d+", value)]))
    return [row for row in rows if row[column] == chosen]


def _catalogued(kernel: str, catalogue: Mapping[str, KernelTables]) -> dict[str, Points]:
    """Return the times of a kernel in the catalogue, by GPU."""
    grids = {name: tables.grids[kernel] for name, tables in catalogue.items() if kernel in tables.grids}
    return {
        f"{name} of the catalogue": dict(
            zip(itertools.product(*grid.axes), (np.ravel(grid.times_s) / MICROSECOND).tolist(), strict=True)
        )
        for name, grid in grids.items()
    }


def _unlikely(kernel: str, points: Points, catalogue: Mapping[str, KernelTables]) -> list[str]:
    """Tell that times of a kernel are far from those of all GPUs of the catalogue."""
    some = list(points.items())[:: math.ceil(len(points) / MOST_COMPARED)]
    factors = {
        name: statistics.median(time_us * MICROSECOND / tables.time_s(kernel, *sizes) for sizes, time_us in some)
        for name, tables in catalogue.items()
        if kernel in tables.grids
    }
    name, factor = min(factors.items(), key=lambda item: abs(math.log(item[1])), default=("", 1.0))
    if 1 / UNLIKELY_FACTOR < factor < UNLIKELY_FACTOR:
        return []
    return [
        f"{kernel}: times are {factor:.2g} times those of {name}, the nearest GPU of the catalogue; check that they "
        "are in microseconds"
    ]


def _copies(kernel: str, gpu: str, points: Points, others: Mapping[str, Points]) -> list[str]:
    notes = []
    for other, times in others.items():
        shared = [sizes for sizes in points if sizes in times]
        same = sum(f"{points[sizes]:.4g}" == f"{times[sizes]:.4g}" for sizes in shared)
        if len(shared) > 2 and same > COPY_SHARE * len(shared):
            notes.append(f"{kernel}: {same} of {len(shared)} times of {gpu} are those of {other}; one is a copy")
    return notes
