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


def plain_costs(is_shared: bool = True, sorts: bool = True) -> DispatcherCosts:
    """Return the costs of a plain exchange.

    A rank alone has neither counts nor probabilities of others, if it `is_shared` by none, and a rank of one expert
    `sorts` no tokens (``preprocess`` and ``num_local_experts`` of ``MoEAlltoAllTokenDispatcher``).
    """
    before, sort, unsort = 5 + 6 * is_shared, 2 * sorts + is_shared, (2 + is_shared) * sorts
    return DispatcherCosts(((before, 1), (sort, sorts + is_shared), (unsort, int(sorts)), (1, 1)), 1 + 3 * is_shared)


DISPATCHERS: Mapping[str, DispatcherCosts] = {
    "all_gather": DispatcherCosts(((0, 0), (12, 7), (3, 3), (0, 0)), 1),
    "all_to_all": plain_costs(),
    "deepep": DispatcherCosts(((0, 0), (9, 5), (2, 2), (0, 0)), 0, "deepep_slowdown", 20),
    "hybridep": DispatcherCosts(
        ((0, 0), (5, 1), (1, 1), (0, 0)), 0, "hybridep_slowdown", 16, aligns=True, gathers_choices=True
    ),
}
