"""How likely every expert is kept when nodes die together."""

from lazsim.reliability.curve import RecoveryCurve, RecoveryEstimate, per_layer, recovery_curve, recovery_prob
from lazsim.reliability.failure_models import BatchFailures, FailureModel, IndependentFailures, UniformFailures
from lazsim.reliability.failure_sets import guaranteed_failures, minimal_failure_sets

__all__ = [
    "BatchFailures",
    "FailureModel",
    "IndependentFailures",
    "RecoveryCurve",
    "RecoveryEstimate",
    "UniformFailures",
    "guaranteed_failures",
    "minimal_failure_sets",
    "per_layer",
    "recovery_curve",
    "recovery_prob",
]
