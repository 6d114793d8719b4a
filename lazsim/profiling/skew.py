"""What skewed loads cost, measured and predicted: one device computes the share of every virtual rank in turn.

Axes: E experts, N virtual ranks.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from lazsim import __version__
from lazsim.costmodel.profile import profile_paths, read_profile, require_header
from lazsim.costmodel.tables import Table, table_of
from lazsim.dispatch import Ints
from lazsim.errors import SpecError
from lazsim.files import json_bytes
from lazsim.placement.allocation import allocate
from lazsim.placement.expert_parallel import ep_size, place_ep_on_most
from lazsim.placement.policies import place
from lazsim.placement.request import PlacementRequest
from lazsim.profiling.compute import Device
from lazsim.profiling.machine import conditions, measure_peaks, peak_budget_s
from lazsim.profiling.shares import KERNELS, MeasuredShares, check_conditions, measure_shares
from lazsim.pytorch.device import choose_device, choose_dtype
from lazsim.specs import ModelSpec, load_spec

LEAST_ADDED = 0.05
"""Part of the even layer's time that skew has to add before it is said how much of that is won back."""

FAULT_THRESHOLD = 2
"""Least replicas of an expert under allocation: the default of Lazarus (arXiv 2407.04656)."""


@dataclass(frozen=True)
class SkewOptions:
    """What is asked for; see ``lazsim profile skew --help``."""

    device: str = "auto"
    dtype: str = "auto"
    profile: str | None = None
    width: int = 1024
    experts: int = 8
    nodes: int = 10
    slots: int = 6
    tokens: int = 4096
    skews: tuple[float, ...] = ()
    threads: int | None = None
    budget: float = 600.0
    seed: int = 0


class SkewRow(msgspec.Struct, frozen=True, kw_only=True):
    """A layer, forward and backward, when one expert draws `skew` times its even share of the tokens.

    `even` is expert parallelism with equal replicas, `allocated` Lazarus's allocation with flexible dispatch.
    """

    skew: float
    even_measured_s: float
    even_predicted_s: float
    allocated_measured_s: float
    allocated_predicted_s: float
    won_back: float | None


@dataclass(frozen=True)
class SkewResult:
    """Rows by skew, and what they were measured with."""

    inputs: dict[str, Any]
    rows: tuple[SkewRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"inputs": self.inputs, "rows": self.rows}

    def files(self, folder: Path) -> dict[Path, bytes]:
        """Return the numbers and pictures by path."""
        from lazsim.output.plots.profile import skew_figure

        content = json_bytes(self.to_json())
        pictures = {folder / f"skew.{kind}": picture for kind, picture in skew_figure(self).items()}
        return {folder / "skew.json": content, **pictures}

    def table(self) -> list[str]:
        """Return lines of at most 80 columns."""
        lines = [f"{'':>6}{'even replicas, EP':>22}{'allocated, flexible dispatch':>32}"]
        lines.append(f"{'skew':>6}{'measured':>12}{'predicted':>10}{'measured':>22}{'predicted':>10}{'won back':>10}")
        for row in self.rows:
            even, allocated = (
                f"{f'{measured * 1e3:.4g} ms':>12}{predicted / measured - 1:>+10.1%}"
                for measured, predicted in (
                    (row.even_measured_s, row.even_predicted_s),
                    (row.allocated_measured_s, row.allocated_predicted_s),
                )
            )
            won = f"{row.won_back:.0%}" if row.won_back is not None else "-"
            lines.append(f"{row.skew:>6g}{even}{'':>10}{allocated}{won:>10}")
        return [*lines, "predicted: off the measured time by so much; won back: of what skew added"]


def skewed_loads(num_experts: int, skew: float, num_tokens: int) -> Ints:
    """Let the first expert draw `skew` times its even share, and the others the same of the rest; shape (E,).

    Examples
    --------
    >>> skewed_loads(4, 2.0, 120).tolist()
    [60, 20, 20, 20]
    """
    first = min(round(num_tokens * skew / num_experts), num_tokens)
    cuts = np.arange(num_experts) * (num_tokens - first) // (num_experts - 1)
    return np.concatenate([[first], np.diff(cuts)])


def even_shares(load_E: Ints, num_nodes: int, num_slots: int) -> list[list[int]]:
    """Return the tokens of each expert on each rank under expert parallelism; loads are those of one rank."""
    plan = place_ep_on_most(1, len(load_E), num_nodes, num_slots)
    group = ep_size(len(load_E), num_slots)
    return [[int(load_E[expert]) * group for expert in slots if expert >= 0] for slots in plan.slots_LNS[0]]


def allocated_shares(load_E: Ints, num_nodes: int, num_slots: int) -> list[list[int]]:
    """Return the tokens of each replica on each rank under allocation, MRO and flexible dispatch."""
    total_LE = load_E[None] * num_nodes
    replicas_LE = allocate(total_LE, num_nodes * num_slots, FAULT_THRESHOLD)
    plan = place("mro", PlacementRequest(replicas_LE, num_nodes, num_slots, load_LE=total_LE))
    quota_E = total_LE[0] / plan.replicas_LE[0]
    return [[math.ceil(quota_E[expert]) for expert in slots if expert >= 0] for slots in plan.slots_LNS[0]]


def measure_skew(options: SkewOptions, progress: Callable[[Iterable[str]], Iterable[str]] = iter) -> SkewResult:
    """Measure and predict a layer under growing skew.

    Raises
    ------
    LazsimError
        When a skew is more than all tokens, the experts do not fit, or the profile is of other experts.
    """
    begin_s = time.monotonic()
    skews = options.skews or tuple(2.0**power for power in range(int(math.log2(options.experts)) + 1))
    for skew in skews:
        if skew > options.experts:
            raise SpecError(f"--skew {skew:g}: {options.experts} experts have an even share of 1/{options.experts}")
    model = msgspec.structs.replace(
        load_spec(ModelSpec, "gpt-s"), name=f"layer of width {options.width}", d_model=options.width,
        d_ff_expert=4 * options.width, num_experts=options.experts,
    )  # fmt: skip
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    name = choose_device(options.device)
    dtype = choose_dtype(options.dtype, name)
    loads = [skewed_loads(options.experts, skew, options.tokens) for skew in skews]
    shares = [
        [split(load, options.nodes, options.slots) for split in (even_shares, allocated_shares)] for load in loads
    ]
    tables = _tables_of(options.profile, model, name, dtype) if options.profile is not None else {}
    device = Device(name, dtype, *measure_peaks(name, dtype, peak_budget_s(options.budget)))
    ranks = [rank for pair in shares for split in pair for rank in split]
    measured = measure_shares(model, device, ranks, options.tokens, tables, options.budget, begin_s, progress)
    rows = [_row(skew, pair, measured) for skew, pair in zip(skews, shares, strict=True)]
    first = rows[0].even_measured_s
    rows = [_won(row, first) for row in rows]
    kept = {name: value for name, value in vars(options).items() if name != "skews"}
    inputs = kept | {"device": name, "dtype": dtype, "version": __version__, "conditions": conditions(name)}
    return SkewResult(inputs, tuple(rows))


def _row(skew: float, pair: Sequence[Sequence[Sequence[int]]], found: MeasuredShares) -> SkewRow:
    even, allocated = (max(map(found.measured_s, ranks)) for ranks in pair)
    even_predicted_s, allocated_predicted_s = (max(map(found.predicted_s, ranks)) for ranks in pair)
    return SkewRow(
        skew=skew,
        even_measured_s=even,
        even_predicted_s=even_predicted_s,
        allocated_measured_s=allocated,
        allocated_predicted_s=allocated_predicted_s,
        won_back=None,
    )


def _won(row: SkewRow, first_s: float) -> SkewRow:
    """Say which part of what skew added to the even layer allocation takes away, where it added anything."""
    added_s = row.even_measured_s - first_s
    is_enough = row.skew > 1 and added_s > LEAST_ADDED * first_s
    won = (row.even_measured_s - row.allocated_measured_s) / added_s if is_enough else None
    return msgspec.structs.replace(row, won_back=won)


def _tables_of(name: str, model: ModelSpec, device: str, dtype: str) -> dict[str, Table]:
    profiles = [read_profile(path) for path in profile_paths(name)]
    fitting = [one for one in profiles if _widths(require_header(one).model) == _widths(model)]
    if not fitting:
        widths = ", ".join(map(str, sorted({require_header(one).model.d_model for one in profiles})))
        raise SpecError(
            f"--profile {name}: measured for experts of other shapes, of width {widths}; give one of those by --width, "
            "or leave the profile out"
        )
    profile = fitting[0]
    check_conditions(name, profile.header, device, dtype)
    return {kernel: table_of(profile.of(kernel)) for kernel in KERNELS if len(profile.of(kernel)) > 1}


def _widths(model: ModelSpec) -> tuple[int, int, int]:
    return model.d_model, model.d_ff_expert, model.matrices_per_expert
