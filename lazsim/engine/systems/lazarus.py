"""Lazarus (arXiv 2407.04656): adaptive expert replicas, flexible dispatch, reconfiguration."""

from lazsim.engine.systems.system import System
from lazsim.placement.policies import find_policy

LAZARUS = System(
    "lazarus",
    "Lazarus: adaptive replicas, MRO placement, flexible dispatch, reconfiguration",
    survives="every failure that leaves a node with each expert",
    needs="room for replicas, whole optimizer states",
    policy=find_policy("mro"),
    recovers_from_peers=True,
)
