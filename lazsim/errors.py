"""What can be wrong with what a user gave: one line each, exit code 2.

A broken invariant inside lazsim is never one of these: it is an ``AssertionError`` and a bug.
"""


class LazsimError(Exception):
    """Report bad input in one line: which file and line or option, what was expected and what to do."""


class TraceFormatError(LazsimError):
    """Report a trace that cannot be read: unknown format, bad line, impossible event."""


class RoutingFormatError(LazsimError):
    """Report expert loads that cannot be read, or that do not fit the model."""


class SpecError(LazsimError):
    """Report an unknown name, or a specification with a wrong or unknown key."""


class InfeasiblePlanError(LazsimError):
    """Report that the experts do not fit on the nodes."""


class CostRangeError(LazsimError):
    """Report a size outside the range that a measured profile covers."""


class RecoveryError(LazsimError):
    """Report a failure model that does not fit the nodes, or a recovery probability that cannot be had as asked."""
