"""What the fork server of workers imports and reads before it forks: each of them would take seconds for it."""

# ruff: noqa: F401

import os

# Workers train in one thread each; libraries look when they are loaded.
os.environ["OMP_NUM_THREADS"] = "1"

import lazsim.live.generation
from lazsim.live.text import load_text
from lazsim.live.worker_pool import TEXT_VARIABLE

load_text(os.environ.get(TEXT_VARIABLE, ""))
