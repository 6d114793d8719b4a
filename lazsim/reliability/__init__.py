"""Probability that every expert survives when nodes fail together."""

from lazsim.reliability.curve import SurvivalCurve, SurvivalEstimate, recovery_curve, recovery_prob
from lazsim.reliability.failure_models import BatchFailures, FailureModel, IndependentFailures, UniformFailures
from lazsim.reliability.failure_sets import guaranteed_failures, minimal_failure_sets

__all__ = [
    "BatchFailures",
    "FailureModel",
    "IndependentFailures",
    "SurvivalCurve",
    "SurvivalEstimate",
    "UniformFailures",
    "guaranteed_failures",
    "minimal_failure_sets",
    "recovery_curve",
    "recovery_prob",
]
