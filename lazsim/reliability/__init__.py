"""Probability that every expert survives when nodes fail together.

`curve` answers from `failure_sets` under one of the `failure_models`: by `exact` ways, which are `lattice` and
`diagram`, or by `montecarlo`. For the command line, `task` and `failure_scenarios` say what is asked; `comparison`
makes plans, and it and `survival` weigh them.
"""

from lazsim.reliability.curve import SurvivalCurve, SurvivalEstimate, recovery_curve, recovery_prob
from lazsim.reliability.failure_models import BatchFailures, IndependentFailures
from lazsim.reliability.failure_sets import guaranteed_failures, minimal_failure_sets

__all__ = [
    "BatchFailures",
    "IndependentFailures",
    "SurvivalCurve",
    "SurvivalEstimate",
    "guaranteed_failures",
    "minimal_failure_sets",
    "recovery_curve",
    "recovery_prob",
]
