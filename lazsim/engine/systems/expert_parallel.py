"""Plain expert parallelism: DeepSpeed-MoE, Tutel and dropless training, also as the paper of Lazarus extends them."""

from dataclasses import replace

from lazsim.engine.systems.system import System

DS = System(
    "ds",
    "DeepSpeed-MoE: expert parallelism; every buffer is as large as the fullest expert's",
    padded=True,
    masked_reorder=True,
)
"""arXiv 2201.05596."""

TUTEL = System(
    "tutel",
    "Tutel: as ds, with sparse kernels instead of masks, and the exchange behind the experts in up to 8 chunks",
    padded=True,
    most_chunks=8,
)
"""arXiv 2206.03382. With a capacity factor of 0 every buffer is as large as the fullest expert."""

DROPLESS = System(
    "dropless", "dropless expert parallelism: as ds, unpadded: grouped GEMM, uneven all-to-all (MegaBlocks, Megatron)"
)
"""arXiv 2211.15841, and the dropless dispatchers of Megatron-Core."""


def with_regrouping(system: System) -> System:
    """Return the fault-tolerant variant of a system (arXiv 2407.04656, section 6.1).

    It has the runtime of Lazarus, so that new nodes join by a reconfiguration. The text rules that out only for nodes
    which it had dropped; `lazsim.specs.JobSpec.regrouped_joins` has the other reading.
    """
    return replace(
        system,
        name=f"{system.name}-ft",
        description=f"as {system.name}, but survivors that hold every expert regroup and go on",
        survives="failures that leave a whole group with every expert",
        needs="two groups or more, whole optimizer states",
        recovers_from_peers=True,
        regroups_joins=True,
    )


DS_FT, TUTEL_FT, DROPLESS_FT = map(with_regrouping, (DS, TUTEL, DROPLESS))
