"""The published evaluation, made again: each experiment from its specification to tables and figures.

What is asked and with which inputs stands in ``experiments/<name>/spec.toml``; a kind of experiment is a module here.
"""

from lazsim.experiments.bench import Bench, find_reference
from lazsim.experiments.kinds import KINDS, run_experiment
from lazsim.experiments.outcome import Outcome
from lazsim.experiments.specs import experiment_titles

__all__ = ["KINDS", "Bench", "Outcome", "experiment_titles", "find_reference", "run_experiment"]
