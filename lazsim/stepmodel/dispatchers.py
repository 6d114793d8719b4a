"""What dispatchers take beside the bytes that they send; to add one, add an entry, and its name to `ParallelSpec`."""

from collections.abc import Mapping
from typing import NamedTuple


class DispatcherCosts(NamedTuple):
    """Kernels and copies of a dispatcher of NVIDIA/Megatron-LM 0.16, and what it takes from kernels beside it."""

    permute_kernels: tuple[tuple[int, int], ...]
    """Kernels before and after a dispatch and before and after a combine, each forward and backward.

    Counted with fused permutation (NVIDIA/TransformerEngine 2.9): sums and exchange of counts, maps, permutation and
    sort by expert, exchange of probabilities; backward, maps are there already.
    """
    count_copies: int
    """Copies of these counts to the host. A plain exchange has four tensors of them (``_maybe_dtoh_and_synchronize``),
    and the host reads those of DeepEP and HybridEP where their kernels write them (``HybridEPDispatch``: "pinned
    memory")."""
    slowdown: str = "nccl_slowdown"
    """The constant of `lazsim.specs.StepConstants` by which kernels are slower beside it."""
    multiprocessors: int = 0
    """Those that it takes by default (``TransformerConfig``); 0 where a layout does not choose them."""
    aligns: bool = False
    """Whether it places tokens such that each expert has a multiple of what 8-bit matmuls take."""
    gathers_choices: bool = False
    """Whether all ranks gather the map of choices before it."""


DISPATCHERS: Mapping[str, DispatcherCosts] = {
    "all_gather": DispatcherCosts(((0, 0), (12, 7), (3, 3), (0, 0)), 1),
    "all_to_all": DispatcherCosts(((11, 1), (3, 2), (3, 1), (1, 1)), 4),
    "deepep": DispatcherCosts(((0, 0), (9, 5), (2, 2), (0, 0)), 0, "deepep_slowdown", 20),
    "hybridep": DispatcherCosts(
        ((0, 0), (5, 1), (1, 1), (0, 0)), 0, "hybridep_slowdown", 16, aligns=True, gathers_choices=True
    ),
}
