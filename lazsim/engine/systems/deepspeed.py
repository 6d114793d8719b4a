"""DeepSpeed-MoE (arXiv 2201.05596) and Tutel (arXiv 2206.03382), and both as the paper of Lazarus extends them."""

from dataclasses import replace

from lazsim.engine.systems.system import System

DS = System(
    "ds",
    "DeepSpeed-MoE: expert parallelism, padded; every failure is a restart from the checkpoint",
    padded=True,
    masked_reorder=True,
    is_live=True,
)

TUTEL = System("tutel", "Tutel: as ds, with unpadded and faster dispatch and combine", is_live=True)


def with_regrouping(system: System) -> System:
    """Return the fault-tolerant variant of a system (arXiv 2407.04656, section 6.1)."""
    return replace(
        system,
        name=f"{system.name}-ft",
        description=f"as {system.name}, but survivors that hold every expert regroup and go on",
        survives="failures that leave a whole group with every expert",
        needs="two groups or more, whole optimizer states",
        recovers_from_peers=True,
    )


DS_FT, TUTEL_FT = with_regrouping(DS), with_regrouping(TUTEL)
