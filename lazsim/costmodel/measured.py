"""Replace analytic times by measured ones, kernel by kernel; kernels without a measurement stay analytic.

Tables interpolate between sizes in log space, and extrapolate on request only.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lazsim.costmodel.compute import AnalyticCompute
from lazsim.costmodel.network import AnalyticCommunication
from lazsim.costmodel.profile import BARE_KERNELS, Profile, ProfilePoint
from lazsim.errors import CostRangeError, SpecError
from lazsim.placement.plan import Floats
from lazsim.specs import ModelSpec

Beyond = Literal["raise", "analytic", "nothing"]
"""Beyond the measured sizes: refuse, follow the analytic times scaled to meet the table, or count no time.

The last shows how much of a time is extrapolated.
"""


@dataclass(frozen=True, eq=False)
class TimeTable:
    """Times of one kernel by size, both ascending.

    Examples
    --------
    >>> table = TimeTable("expert", np.array([100.0, 400.0]), np.array([1e-3, 4e-3]))
    >>> round(float(table.time_s(np.array(200.0))), 6)
    0.002
    """

    kernel: str
    sizes: Floats
    times_s: Floats

    def time_s(
        self, size: Floats, analytic_s: Callable[[Floats], Floats] = np.zeros_like, beyond: Beyond = "raise"
    ) -> Floats:
        """Interpolate linearly between logarithms; size 0 takes no time and a fraction of one unit counts as one.

        The analytic times are for sizes `beyond` the measured ones; where these are refused, a `CostRangeError` says
        which one is needed.
        """
        size = np.asarray(size, dtype=np.float64)
        busy = size > 0
        asked = np.where(busy, np.maximum(size, 1.0), self.sizes[0])
        inside = np.clip(asked, self.sizes[0], self.sizes[-1])
        times_s: Floats = np.exp(np.interp(np.log(inside), np.log(self.sizes), np.log(self.times_s)))
        if (inside != asked).any():
            if beyond == "raise":
                worst = asked.max() if asked.max() > self.sizes[-1] else asked.min()
                raise CostRangeError(
                    f"the profile has {self.kernel} from {self.sizes[0]:,.10g} to {self.sizes[-1]:,.10g}, "
                    f"but {worst:,.10g} is needed; measure that size too, or `extrapolate` it by the analytic model"
                )
            times_s *= analytic_s(asked) / analytic_s(inside) if beyond == "analytic" else asked == inside
        return np.where(busy, times_s, 0.0)


def table_of(points: Sequence[ProfilePoint]) -> TimeTable:
    """Build the table of one kernel; times never fall with size.

    A smaller size takes no longer than a larger one, to which its work could be padded: other work on the machine only
    adds to times, and some libraries have a slower kernel for a single row.
    """
    ordered = sorted(points, key=lambda point: point.size)
    sizes = np.array([point.size for point in ordered])
    return TimeTable(ordered[0].kernel, sizes, np.minimum.accumulate([point.time_s for point in ordered[::-1]])[::-1])


def sum_of(kernel: str, parts: Sequence[tuple[float, TimeTable]]) -> TimeTable | None:
    """Add up multiples of tables, over the sizes that all of them cover.

    Examples
    --------
    >>> one = TimeTable("a", np.array([1.0, 4.0]), np.array([1.0, 4.0]))
    >>> two = TimeTable("b", np.array([2.0, 8.0]), np.array([1.0, 1.0]))
    >>> whole = sum_of("c", [(2, one), (1, two)])
    >>> whole.sizes.tolist(), whole.times_s.round(9).tolist()
    ([2.0, 4.0], [5.0, 9.0])
    """
    low = max(table.sizes[0] for _, table in parts)
    high = min(table.sizes[-1] for _, table in parts)
    if math.isclose(low, high) or low > high:
        return None
    sizes = np.unique(np.concatenate([table.sizes for _, table in parts]))
    sizes = sizes[(sizes >= low) & (sizes <= high)]
    times_s = sum((count * table.time_s(sizes) for count, table in parts), np.zeros(len(sizes)))
    return TimeTable(kernel, sizes, times_s)


@dataclass(frozen=True)
class MeasuredCompute(AnalyticCompute):
    """Times from tables of ``dense``, ``expert``, ``reorder`` and ``optimizer``, or some of them; else analytic.

    See `Beyond` for sizes outside the tables. A reorder by a matmul with a mask stays analytic.
    """

    tables: Mapping[str, TimeTable]
    beyond: Beyond = "raise"

    def dense_s(self, num_tokens: float) -> float:
        """Everything but the experts and the dispatch."""
        analytic_s = np.vectorize(super().dense_s, otypes=[np.float64])
        return float(self._measured("dense", np.array(num_tokens), analytic_s))

    def expert_s(self, num_tokens: Floats) -> Floats:
        """One expert of one layer."""
        return self._measured("expert", num_tokens, super().expert_s)

    def reorder_s(self, num_tokens: Floats) -> Floats:
        """Gate, token reorder and its inverse."""
        return self._measured("reorder", num_tokens, super().reorder_s)

    def optimizer_s(self, num_params: Floats) -> Floats:
        """One optimizer step."""
        return self._measured("optimizer", num_params, super().optimizer_s)

    def _measured(self, kernel: str, size: Floats, analytic_s: Callable[[Floats], Floats]) -> Floats:
        if kernel not in self.tables:
            return analytic_s(size)
        return self.tables[kernel].time_s(size, analytic_s, self.beyond)


@dataclass(frozen=True, eq=False)
class MeasuredCommunication(AnalyticCommunication):
    """Times of links inside a server from tables, by the bytes on a link; NICs and storage stay analytic.

    There are tables of ``all_to_all`` and ``point_to_point`` by bytes through the busiest link, and of one hop of an
    ``all_reduce`` by the bytes of its message; or some of them.

    Notes
    -----
    The profile's processes share one server. A message below the smallest measured one takes as long as that one,
    since only latency is left. NIC and link transfers overlap, as in `lazsim.costmodel.network`.
    """

    tables: Mapping[str, TimeTable]
    beyond: Beyond = "raise"

    def all_to_all_s(self, nic_bytes: Floats, local_bytes: Floats) -> Floats:
        """One all-to-all."""
        return self._measured_s("all_to_all", super().all_to_all_s, nic_bytes, local_bytes)

    def all_reduce_s(self, nic_bytes: Floats, local_bytes: Floats, nic_hops: Floats, local_hops: Floats) -> Floats:
        """All-reduces one after the other; hops of rings inside a server are measured."""
        reduce_s = super().all_reduce_s
        analytic_s = reduce_s(nic_bytes, local_bytes, nic_hops, local_hops)
        if "all_reduce" not in self.tables:
            return analytic_s
        inside = (np.asarray(nic_bytes) <= 0) & (np.asarray(local_bytes) > 0)
        message = np.where(inside, local_bytes, 0.0) / np.maximum(local_hops, 1.0)

        def hop_s(size: Floats) -> Floats:
            return reduce_s(np.zeros_like(size), size, np.zeros_like(size), np.ones_like(size))

        return np.where(inside, local_hops * self._local_s("all_reduce", message, hop_s), analytic_s)

    def transfer_s(self, nic_bytes: Floats, local_bytes: Floats) -> Floats:
        """Point-to-point transfers at the same time."""
        return self._measured_s("point_to_point", super().transfer_s, nic_bytes, local_bytes)

    def _measured_s(
        self, kernel: str, analytic_s: Callable[[Floats, Floats], Floats], nic_bytes: Floats, local_bytes: Floats
    ) -> Floats:
        if kernel not in self.tables:
            return analytic_s(nic_bytes, local_bytes)
        local = np.asarray(local_bytes, dtype=np.float64)
        local_s = self._local_s(kernel, local, lambda size: analytic_s(np.zeros_like(size), size))
        return np.maximum(analytic_s(nic_bytes, np.zeros_like(local)), local_s)

    def _local_s(self, kernel: str, size: Floats, analytic_s: Callable[[Floats], Floats]) -> Floats:
        table = self.tables[kernel]
        floored = np.where(size > 0, np.maximum(size, table.sizes[0]), 0.0)
        return table.time_s(floored, analytic_s, self.beyond)


def compute_tables(profile: Profile, model: ModelSpec, gpus_per_node: int) -> dict[str, TimeTable]:
    """Pick the tables for the simulation of a model, or raise SpecError when the profile is of a model of other shapes.

    ``dense`` is the sum of the blocks of all layers and the head, where all of them were measured and a node has one
    GPU: dense work that several GPUs share was not measured.
    """
    if profile.header is not None:
        _check_model(profile, profile.header.model, model)
    points = {name: profile.of(name) for name in profile.kernels}
    tables = {name: table_of(some) for name, some in points.items() if profile.header is None or len(some) > 1}
    picked = {name: tables[name] for name in BARE_KERNELS if name in tables}
    if "dense" not in picked and gpus_per_node == 1:
        needed = _dense_kernels(model)
        if needed.keys() <= tables.keys():
            dense = sum_of("dense", [(count, tables[name]) for name, count in needed.items()])
            if dense is not None:
                picked["dense"] = dense
    return picked


def missing_kernels(profile: Profile, model: ModelSpec) -> dict[str, list[str]]:
    """Return the parts of a step that stay analytic, each with the kernels that lack points of two sizes in common."""
    tables = compute_tables(profile, model, gpus_per_node=1)
    missing = {}
    for part in BARE_KERNELS:
        if part not in tables:
            kernels = list(_dense_kernels(model)) if part == "dense" else [part]
            missing[part] = [kernel for kernel in kernels if len(profile.of(kernel)) < 2] or kernels
    return missing


def _dense_kernels(model: ModelSpec) -> dict[str, int]:
    """Return the kernels of dense work, and how often a step has each.

    No profile has the last three, so that the dense work of models with such blocks stays analytic.
    """
    counts = {
        "attention": model.attention_layers,
        "head": 1,
        "feed_forward": model.num_dense_layers,
        "expert": model.num_moe_layers * model.num_shared_experts,
        "state_space": 0 if model.state_space is None else model.state_space.num_layers,
        "narrow_experts": 0 if model.d_expert is None else model.num_moe_layers,
        "shared_experts": int(model.shared_dim != model.num_shared_experts * model.d_ff_expert),
    }
    return {name: count for name, count in counts.items() if count}


def communication_tables(profile: Profile) -> dict[str, TimeTable]:
    """Pick the tables of links, and convert bytes of a rank's buffer to bytes on its busiest link.

    In an all-to-all of even parts, ``(n - 1) / n`` of the buffer leaves a rank; an all-reduce over ``n`` ranks takes
    ``2 (n - 1)`` hops of an ``n``-th each (Thakur et al. 2005).
    """
    tables = {}
    for kernel in ("all_to_all", "all_reduce", "point_to_point"):
        points = profile.of(kernel)
        if len(points) > 1:
            table, ranks = table_of(points), points[0].num_ranks
            share, hops = {
                "all_to_all": ((ranks - 1) / ranks, 1),
                "all_reduce": (1 / ranks, 2 * (ranks - 1)),
                "point_to_point": (1.0, 1),
            }[kernel]
            tables[kernel] = TimeTable(kernel, table.sizes * share, table.times_s / hops)
    return tables


def _check_model(profile: Profile, measured: ModelSpec, model: ModelSpec) -> None:
    for field in measured.__struct_fields__:
        one, other = getattr(measured, field), getattr(model, field)
        if field != "name" and one != other:
            raise SpecError(
                f"{profile.name}: measured for {measured.name} with {field} = {one}, but {model.name} has {other}; "
                "measure that model with lazsim profile"
            )
