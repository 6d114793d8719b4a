"""Systems: ways to survive failures, one file each. `System` says what a system answers."""

from collections.abc import Mapping

from lazsim.engine.systems.async_checkpoint import ASYNC_CHECKPOINT
from lazsim.engine.systems.bamboo import BAMBOO
from lazsim.engine.systems.checkpoint import CHECKPOINT
from lazsim.engine.systems.deepspeed import DS, DS_FT, TUTEL, TUTEL_FT
from lazsim.engine.systems.gemini import GEMINI
from lazsim.engine.systems.lazarus import LAZARUS
from lazsim.engine.systems.moc import MOC
from lazsim.engine.systems.moevement import MOEVEMENT
from lazsim.engine.systems.oobleck import OOBLECK
from lazsim.engine.systems.recycle import RECYCLE
from lazsim.engine.systems.replica_drop import REPLICA_DROP
from lazsim.engine.systems.spare import SPARE
from lazsim.engine.systems.system import System as System

SYSTEMS: Mapping[str, System] = {
    system.name: system
    for system in (
        LAZARUS,
        DS,
        DS_FT,
        TUTEL,
        TUTEL_FT,
        CHECKPOINT,
        ASYNC_CHECKPOINT,
        GEMINI,
        MOEVEMENT,
        MOC,
        REPLICA_DROP,
        OOBLECK,
        BAMBOO,
        RECYCLE,
        SPARE,
    )
}
"""Every system by name."""

DEFAULT_SYSTEMS = ("lazarus", "ds-ft", "ds")
"""The systems of the published comparison."""

LIVE_SYSTEMS: Mapping[str, System] = {name: system for name, system in SYSTEMS.items() if system.is_live}
"""The systems that the live mode carries out."""
