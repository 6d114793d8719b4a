"""Synchronous checkpoints: training waits for each, and every failure goes back to the last."""

from lazsim.engine.systems.system import System

CHECKPOINT = System(
    "checkpoint", "checkpoints that training waits for; a restart takes in all nodes that are alive, spares as well"
)
