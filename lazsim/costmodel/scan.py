"""Work of the scan of a state-space layer (Mamba-2)."""

import math

from lazsim.specs import StateSpaceSpec

SCAN_CHUNK = 128
"""Tokens of a chunk of the state-space scan (arXiv 2405.21060)."""

SCAN_MATMULS = ((1, 2), (3, 5))
"""Forward and backward, matmuls over the tokens of a chunk and over its states: products of keys, and with inputs;
states made and used. Backward, keys and states again, and the gradients of each operand."""

SCAN_PASSES = {
    "states": (6, 17),
    "convolved": (2, 5),
    "inner": (9, 22),
    "grouped": (4, 14),
    "chunk": (4, 12),
}
"""Reads and writes of 2 bytes a number, forward and backward, by what is read or written: states of all chunks, what is
convolved, the inner width, keys of the groups, and their products in a chunk.

Counted in ``mamba_split_conv1d_scan_combined`` (state-spaces/mamba 2.2): convolution; states, made in 4 bytes and used
in 2; products in fp32; gate and norm. Backward, all but the norm is made again, and each operand gets its gradient."""


def scan_work(space: StateSpaceSpec) -> tuple[tuple[int, float], tuple[int, float]]:
    """Return the operations and the bytes moved for a token in one layer, forward and backward."""
    grouped = space.num_groups * space.state_dim
    in_chunk = 2 * SCAN_CHUNK * (grouped + space.inner_dim)
    of_states = 2 * space.state_dim * space.inner_dim
    widths = {
        "states": space.inner_dim * space.state_dim / SCAN_CHUNK, "convolved": space.inner_dim + 2 * grouped,
        "inner": space.inner_dim, "grouped": grouped, "chunk": space.num_groups * SCAN_CHUNK,
    }  # fmt: skip

    def work(way: int) -> tuple[int, float]:
        over_tokens, over_states = SCAN_MATMULS[way]
        moved = 2 * math.fsum(passes[way] * widths[name] for name, passes in SCAN_PASSES.items())
        return over_tokens * in_chunk + over_states * of_states, moved

    return work(0), work(1)
