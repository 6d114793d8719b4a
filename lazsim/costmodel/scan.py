"""Work of the scan of a state-space layer: Mamba-2, or the gated delta rule of linear attention."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from lazsim.specs import StateSpaceSpec

CHUNKS = {"mamba": 128, "gated_delta": 64}
"""Tokens of a chunk of the scan (arXiv 2405.21060; fla-core 0.6.0)."""


class ScanCounts(NamedTuple):
    """How often a scan, forward and backward, multiplies or moves what has one of the widths of `scan_work`."""

    matmuls: Mapping[str, tuple[int, int]]
    """Matmuls of a token with those of its chunk, or with a ``state``; ``keys`` and ``inner`` are the other axis."""
    passes: Mapping[str, tuple[int, int]]
    """Reads and writes of 2 bytes a number."""
    kernels: tuple[int, int]


SCANS = {
    # Forward, products of keys and with inputs, states made and used. Backward, keys and states again, and the
    # gradients of each operand. Counted in ``mamba_split_conv1d_scan_combined`` (state-spaces/mamba 2.2): convolution;
    # states, made in 4 bytes and used in 2; products in fp32; gate and norm. Backward, all but the norm is made again.
    "mamba": ScanCounts(
        {"keys": (1, 3), "inner": (1, 3), "state": (2, 5)},
        {"states": (6, 17), "convolved": (2, 5), "inner": (9, 22), "keys": (4, 14), "chunk": (4, 12)},
        (10, 29),
    ),
    # Forward, keys by keys, what is solved with them (``w``, ``u``), queries by keys, values by these; states by ``w``,
    # made and read. Backward, ``w``, ``u`` and states again, the gradients of each operand and of what was solved.
    # Counted in ``chunk_gated_delta_rule`` (fla-core 0.6.0) and in ``GatedDeltaNet`` around it (Megatron-LM 0.19):
    # convolution, norms, keys repeated for each head of values, copies without strides, gate.
    "gated_delta": ScanCounts(
        {"keys": (3, 9), "inner": (2, 5), "state": (3, 8), "chunk": (0, 2)},
        {
            "states": (2, 4),
            "convolved": (2, 7),
            "inner": (15, 25),
            "keys": (9, 25),
            "grouped": (10, 12),
            "chunk": (2, 2),
        },
        (18, 22),
    ),
}
"""By the kind of a layer."""


def scan_work(space: StateSpaceSpec) -> tuple[tuple[int, float], tuple[int, float]]:
    """Return the operations and the bytes moved for a token in one layer, forward and backward."""
    chunk, counts = CHUNKS[space.kind], SCANS[space.kind]
    grouped = space.num_groups * space.state_dim
    delta = space.kind == "gated_delta"
    # Heads of the delta rule have keys of their own; those of Mamba-2 share the products of a group's keys.
    of_heads = space.num_heads if delta else space.num_groups
    widths = {
        "keys": of_heads * space.state_dim, "inner": space.inner_dim, "grouped": grouped,
        "chunk": of_heads * chunk, "convolved": space.inner_dim + 2 * grouped,
        "states": space.inner_dim * space.state_dim / chunk,
    }  # fmt: skip

    def work(way: int) -> tuple[int, float]:
        flop = 0
        for name, times in counts.matmuls.items():
            length = space.state_dim * space.inner_dim if name == "state" else chunk * int(widths[name])
            flop += 2 * times[way] * length
        return flop, 2 * math.fsum(times[way] * widths[name] for name, times in counts.passes.items())

    return work(0), work(1)
