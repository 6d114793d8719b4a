"""The published evaluation, made again, and the arena of all systems.

Each experiment is a folder, with its script and what came out of it.
"""

NAMES = (
    "expert-loads",
    "toy-placement",
    "failures-5min",
    "failures-40min",
    "node-failures",
    "spot",
    "load-ratio",
    "tutel",
    "time-breakdown",
    "large-scale",
    "uncertainty",
    "summary",
    "arena",
)
"""In the order in which experiments are listed and run."""
