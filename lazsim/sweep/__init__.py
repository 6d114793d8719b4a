"""Grids of runs: what is asked for, what is done already, where the rest runs, and the table that comes of it."""

from lazsim.sweep.collect import Outcomes, collect
from lazsim.sweep.result import SweepResult
from lazsim.sweep.run import run_sweep
from lazsim.sweep.spec import Sweep, load_sweep, parse_sweep

__all__ = ["Outcomes", "Sweep", "SweepResult", "collect", "load_sweep", "parse_sweep", "run_sweep"]
