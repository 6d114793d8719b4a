"""Synchronous checkpoints: training waits for each, and every failure goes back to the last."""

from lazsim.engine.systems.system import System

CHECKPOINT = System(
    "checkpoint",
    "checkpoints that training waits for; nodes alive and not in use are hot spares",
)
