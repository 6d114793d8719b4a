"""Plan experts in the place of the balancers of vLLM and SGLang, as these call them.

Written for vLLM 0.33.0 and SGLang 0.5.23. Neither is imported.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from lazsim.errors import SpecError
from lazsim.placement.serving import rebalance_experts


class VllmPolicy:
    """A policy for ``vllm.distributed.eplb.policy.EPLB_POLICIES``; a subclass may set other `options`."""

    options: ClassVar[Mapping[str, Any]] = {}
    """Further arguments of `rebalance_experts`, such as ``{"fault_threshold": 2}``."""

    @classmethod
    def rebalance_experts(
        cls,
        weight: Any,
        num_replicas: int,
        num_groups: int,
        num_nodes: int,
        num_ranks: int,
        old_global_expert_indices: Any = None,
    ) -> Any:
        """Return the expert in each slot, shape (L, P), as a tensor where `weight` is one.

        Arguments are those of `lazsim.placement.serving.rebalance_experts`. Versions of vLLM that expect three maps can
        call that function itself.
        """
        arguments = weight, num_replicas, num_groups, num_nodes, num_ranks, old_global_expert_indices
        return rebalance_experts(*arguments, **cls.options)[0]


def sglang_rebalance_experts(
    tokens_per_expert: Any,
    num_physical_experts: int,
    num_local_physical_experts: int,
    num_groups: int | None,
    num_nodes: int,
    algorithm: Any = None,
    *,
    enable_hierarchical: bool | None = None,
    active_ranks: Any = None,
    **options: Any,
) -> tuple[Any, Any, Any]:
    """Plan in the place of ``rebalance_experts`` of ``sglang.srt.eplb.eplb_algorithms``, or of its ``deepseek_vec``.

    Errors are those of `lazsim.placement.serving.rebalance_experts`.

    Parameters
    ----------
    tokens_per_expert : array or torch tensor of shape (steps, L, E)
        Tokens routed to each expert, which are summed over steps.
    num_physical_experts, num_local_physical_experts
        Slots of one layer on all GPUs, and on one.
    num_groups, num_nodes, active_ranks
        As for `lazsim.placement.serving.rebalance_experts`.
    algorithm
        A member of SGLang's ``EplbAlgorithm`` or its name. Those that end in ``_hierarchical`` keep each group on one
        node, the others do not. Those that start with ``elasticity_aware`` need `active_ranks`.
    enable_hierarchical
        The same without an algorithm. By default as for DeepSeek's EPLB.
    **options
        Further arguments of that function, such as the old placement.

    Returns
    -------
    tuple
        As for that function, but slots of GPUs that are not used have expert 0, since SGLang takes them for indices.

    Raises
    ------
    LazsimError
        As that function does.
    """
    if getattr(tokens_per_expert, "ndim", 0) != 3:
        shape = tuple(getattr(tokens_per_expert, "shape", ()))
        raise SpecError(f"`tokens_per_expert`: expected shape (steps, layers, experts), found {shape}")
    if num_local_physical_experts < 1 or num_physical_experts % num_local_physical_experts:
        text = f"a divisor of num_physical_experts, which is {num_physical_experts}"
        raise SpecError(f"`num_local_physical_experts`: expected {text}, found {num_local_physical_experts}")
    if algorithm is not None:
        name = getattr(algorithm, "name", str(algorithm))
        enable_hierarchical = name.endswith("_hierarchical")
        if name.startswith("elasticity_aware") and active_ranks is None:
            raise SpecError(f"`active_ranks`: expected the mask of ranks that {name} needs, found None")
    physical, slots, count = rebalance_experts(
        tokens_per_expert.sum(0),
        num_physical_experts,
        num_groups,
        num_nodes,
        num_physical_experts // num_local_physical_experts,
        enable_hierarchical=enable_hierarchical,
        active_ranks=active_ranks,
        **options,
    )
    return physical + (physical < 0), slots, count
