"""Times of kernels by shape, interpolated in the measured tables of one GPU."""

import bisect
import codecs
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from lazsim.errors import SpecError, prefix_errors, unknown_name
from lazsim.files.reading import CATALOG, read_bytes
from lazsim.specs import catalog_names
from lazsim.units import read_number

KERNELS = CATALOG / "kernels"

MICROSECOND = 1e-6

NCCL_COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
"""Collectives that were measured over several numbers of GPUs."""

COLLECTIVES = (*NCCL_COLLECTIVES, "exchange_deepep", "exchange_hybridep")
"""Kernels that were measured over several GPUs."""

KERNEL_AXES: Mapping[str, tuple[str, ...]] = (
    {f"matmul_{precision}": ("rows", "columns", "inner") for precision in ("bf16", "fp8", "fp8_block")}
    | {f"attention_{kind}": ("heads", "sequence") for kind in ("64", "128", "latent")}
    | {"quantise": ("elements",)}
    | dict.fromkeys(NCCL_COLLECTIVES, ("bytes", "GPUs"))
    | {"exchange_hybridep": ("bytes",)}
    | {"exchange_deepep": ("tokens", "bytes of a token", "multiprocessors")}
)
"""Every kernel of a table, and its sizes: attention has the heads of all sequences and the length of each."""


def work_axes(kernel: str) -> list[int]:
    """Return the sizes of a kernel that make its work; of what does it, one number is enough."""
    return [axis for axis, name in enumerate(KERNEL_AXES[kernel]) if name not in ("multiprocessors", "GPUs")]


COLUMNS = ("kernel", "size", "columns", "inner", "num_ranks", "time_us")


@dataclass(frozen=True, eq=False)
class KernelGrid:
    """Times on a grid of sizes, interpolated linearly in the logarithms of sizes and times.

    Below the smallest size a time stays as it is, since the kernel does not fill the GPU; beyond the largest one it
    grows in proportion.

    Examples
    --------
    >>> grid = KernelGrid(([1.0, 4.0],), [1e-6, 4e-6])
    >>> [round(1e6 * grid.time_s(size), 9) for size in (0.5, 2, 8)]
    [1.0, 2.0, 8.0]
    """

    axes: tuple[Sequence[float], ...]
    times_s: npt.ArrayLike

    @cached_property
    def _logs(self) -> tuple[list[list[float]], list[int], list[float]]:
        logs = np.log(np.asarray(self.times_s, dtype=np.float64))
        strides = [stride // logs.itemsize for stride in np.ascontiguousarray(logs).strides]
        return [[math.log(value) for value in axis] for axis in self.axes], strides, logs.ravel().tolist()

    @cached_property
    def sustained_rate(self) -> float:
        """The rate of the longest matmuls over the best rate of shorter ones: the clock falls under load.

        Those above 2**43 operations, about 5 to 10 ms, are compared with the best octave below, medians both.
        """
        rows, columns, inner = (np.array(axis) for axis in self.axes)
        flop = 2 * rows[:, None, None] * columns[:, None] * inner
        rate = flop / np.asarray(self.times_s)
        large = (rows[:, None, None] >= 2048) & (columns[:, None] >= 4096) & (inner >= 4096)
        octave = np.floor(np.log2(flop))
        octaves = {int(exponent) for exponent in octave[large] if 37 <= exponent <= 43}
        medians = {exponent: float(np.median(rate[large & (octave == exponent)])) for exponent in octaves}
        longest = medians.pop(43, math.inf)
        return min(1.0, longest / max(medians.values(), default=longest))

    def time_s(self, *sizes: float) -> float:
        """Return the time of a kernel of the given sizes; one of size 0 is not launched."""
        if not min(sizes):
            return 0.0
        axes, strides, logs = self._logs
        # The corners around the sizes, each with its share.
        scale, corners, shares = 0.0, [0], [1.0]
        for axis, stride, size in zip(axes, strides, sizes, strict=True):
            position = math.log(size)
            low = max(0, bisect.bisect_right(axis, position) - 1)
            corners = [corner + low * stride for corner in corners]
            if axis[low] < position < axis[-1]:
                weight = (position - axis[low]) / (axis[low + 1] - axis[low])
                corners += [corner + stride for corner in corners]
                shares = [share * part for part in (1 - weight, weight) for share in shares]
            elif position > axis[-1]:
                scale += position - axis[-1]
        return math.exp(scale + math.fsum(map(operator.mul, shares, map(logs.__getitem__, corners))))


@dataclass(frozen=True, eq=False)
class KernelTables:
    """Measured kernels of one GPU."""

    name: str
    """The GPU."""
    grids: Mapping[str, KernelGrid]
    """Times by kernel: matmuls over rows, columns and inner size; attention over heads of all sequences and their
    length; ``quantise`` over elements; collectives over bytes and GPUs, DeepEP over tokens, the bytes that each sends
    and the multiprocessors that send them."""
    collective_ranks: Mapping[str, int]
    """GPUs over which each collective was measured, at most."""
    remarks: tuple[str, ...] = ()
    """Comments at the head of the file."""
    _times: dict[tuple[object, ...], float] = field(default_factory=dict)

    def faster(self, speedup: float) -> "KernelTables":
        """Return tables whose kernels, but for those over several GPUs, are faster by a factor."""
        if speedup == 1:
            return self
        grids = {
            name: grid if name in COLLECTIVES else KernelGrid(grid.axes, np.asarray(grid.times_s) / speedup)
            for name, grid in self.grids.items()
        }
        return KernelTables(self.name, grids, self.collective_ranks, self.remarks)

    def time_s(self, kernel: str, *sizes: float) -> float:
        """Return the time of a kernel; a `SpecError` says which ones the tables have."""
        key = kernel, *sizes
        time_s = self._times.get(key)
        if time_s is None:
            time_s = self._times[key] = self._grid(kernel).time_s(*sizes)
        return time_s

    def attention_s(self, kernel: str, heads: float, sequence: float) -> float:
        """Return the time of attention; beyond the longest sequence, it has as many rows of scores, each longer.

        So a sequence of twice the length takes as long as two, with twice the keys for each query. Fewer heads than
        were measured take no longer than the same scores in parts: twice the heads over half the sequence, twice.
        """
        fewest, lengths = self._grid(kernel).axes[0][0], self._grid(kernel).axes[1]
        longer = max(1.0, sequence / lengths[-1])
        heads, sequence = longer * heads, sequence / longer
        most = max(1.0, min(fewest / heads, sequence / lengths[0]))
        parts = [most, *(1 << halvings for halvings in range(int(math.log2(most)) + 1))]
        return longer * min(part * self.time_s(kernel, part * heads, sequence / part) for part in parts)

    def collective_s(self, kernel: str, num_bytes: float, num_ranks: float) -> float:
        """Return the time of a collective; beyond the ranks that it was measured over, at its bus bandwidth."""
        ranks = self._grid(kernel).axes[1]
        nearest = min(max(num_ranks, ranks[0]), ranks[-1])
        return self.time_s(kernel, num_bytes, nearest) * (1 - 1 / num_ranks) / (1 - 1 / nearest)

    def sent_s(self, tokens: float, token_bytes: float, multiprocessors: float) -> float:
        """Return the time of an exchange by DeepEP; no more multiprocessors send than it was measured with."""
        most = self._grid("exchange_deepep").axes[2][-1]
        return self.time_s("exchange_deepep", tokens, token_bytes, min(multiprocessors, most))

    def ranks_of(self, kernel: str) -> int:
        """Return the GPUs over which a collective was measured, at most; a `SpecError` says that it was not."""
        self._grid(kernel)
        return self.collective_ranks[kernel]

    def sustained_rate(self, kernel: str) -> float:
        """Return that of a matmul; see `KernelGrid`."""
        return self._grid(kernel).sustained_rate

    def _grid(self, kernel: str) -> KernelGrid:
        if kernel not in self.grids:
            raise SpecError(
                f"no times of {kernel} in the tables of {self.name}; take a GPU measured with it, or add its times by "
                "lazsim profile import"
            )
        return self.grids[kernel]


def load_tables(name: str) -> KernelTables:
    """Read the tables of a GPU from the catalogue, or from a path that ends in ``.csv``.

    A `LazsimError` says that the catalogue has none of this GPU, or that the file cannot be read or holds no tables.
    """
    return parse_tables(name, read_tables(name))


def read_tables(name: str) -> bytes:
    """Return the text of tables; names and errors are those of `load_tables`."""
    if name.endswith(".csv"):
        return read_bytes(name)
    if name not in (known := catalog_names("kernels", ".csv")):
        raise SpecError(unknown_name("GPU with kernel tables", name, known, "a path to a .csv file"))
    return (KERNELS / f"{name}.csv").read_bytes()


def holds_tables(content: bytes) -> bool:
    """Whether a file begins as kernel tables do, and not as a profile."""
    lines = content.removeprefix(codecs.BOM_UTF8).splitlines()
    first = next((line for line in lines if line.strip() and not line.startswith(b"#")), b"")
    return first.strip() == ",".join(COLUMNS).encode()


@lru_cache(maxsize=32)
def parse_tables(name: str, content: bytes) -> KernelTables:
    """Build tables from CSV rows of ``kernel,size,columns,inner,num_ranks,time_us``; lines of ``#`` are remarks.

    A `SpecError` says that a row has no known kernel, not its sizes or no time, or that a kernel's grid has holes.
    """
    if not holds_tables(content):
        raise SpecError(f"{name}: no kernel tables; they begin with a line {','.join(COLUMNS)}")
    try:
        lines = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise SpecError(f"{name}: no text in UTF-8 ({error})") from None
    points: dict[str, dict[tuple[float, ...], float]] = {}
    ranks: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if line.startswith("#") or line in ("", ",".join(COLUMNS)):
            continue
        with prefix_errors(f"{name}, line {number}"):
            kernel, sizes, num_ranks, time_us = _parse_row(line.split(","))
            if sizes in points.setdefault(kernel, {}):
                raise SpecError(f"a second time for {kernel} of this size; keep one")
            if kernel not in NCCL_COLLECTIVES and ranks.get(kernel, num_ranks) != num_ranks:
                raise SpecError(f"{kernel} over {num_ranks} GPUs after {ranks[kernel]}; keep those of one number")
            ranks[kernel] = max(num_ranks, ranks.get(kernel, 0))
        points[kernel][sizes] = time_us * MICROSECOND
    if not points:
        raise SpecError(f"{name}: no times of any kernel; give rows below the line {','.join(COLUMNS)}")
    remarks = tuple(line[1:].strip() for line in lines if line.startswith("#"))
    with prefix_errors(name):
        grids = {kernel: _grid(kernel, times) for kernel, times in points.items()}
    return KernelTables(name, grids, {kernel: ranks[kernel] for kernel in points if kernel in COLLECTIVES}, remarks)


def _parse_row(cells: Sequence[str]) -> tuple[str, tuple[float, ...], int, float]:
    if len(cells) != len(COLUMNS):
        raise SpecError(f"{len(cells)} columns; give {','.join(COLUMNS)}")
    kernel = cells[0]
    if kernel not in KERNEL_AXES:
        raise SpecError(unknown_name("kernel", kernel, sorted(KERNEL_AXES)))
    sizes = tuple(positive_number(cell) for cell in cells[1:4] if cell)
    named = KERNEL_AXES[kernel][: 1 if kernel in NCCL_COLLECTIVES else None]
    if len(sizes) != len(named):
        raise SpecError(f"{kernel} has the sizes {', '.join(named)}, not {len(sizes)} of them")
    num_ranks = positive_number(cells[4]) if kernel in COLLECTIVES else 0
    if num_ranks != int(num_ranks) or num_ranks == 1:
        raise SpecError(f"`num_ranks` {cells[4]}: give a whole number of at least 2 GPUs")
    if kernel in NCCL_COLLECTIVES:
        sizes += (num_ranks,)
    return kernel, sizes, int(num_ranks), positive_number(cells[5])


def positive_number(text: str) -> float:
    """Read a number above 0, at most 1e18; a `SpecError` says what else it is."""
    try:
        number = read_number(text)
    except ValueError as error:
        raise SpecError(str(error)) from None
    if not 1e-6 <= number <= 1e18:
        raise SpecError(f"{text!r} is no number from 1e-6 to 1e18")
    return number


def _grid(kernel: str, times: Mapping[tuple[float, ...], float]) -> KernelGrid:
    axes = tuple(sorted(set(axis)) for axis in zip(*times, strict=True))
    if missing := math.prod(map(len, axes)) - len(times):
        raise SpecError(f"{kernel}: {missing} points of its grid are missing; give them, or import the tables again")
    if min(len(axes[axis]) for axis in work_axes(kernel)) < 2:
        raise SpecError(f"{kernel}: one size has a single value; give two or more, or leave the kernel out")
    return KernelGrid(axes, np.reshape([times[sizes] for sizes in sorted(times)], [len(axis) for axis in axes]))
