"""Errors of bad input: one line each, exit code 2.

A message names fields of the call in backquotes, as in "`duration` 0 s: give more than 0". The command line writes the
option that sets such a field in its place.

A broken invariant inside lazsim is never one of these: it is an ``AssertionError`` and a bug.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class LazsimError(Exception):
    """Report bad input in one line: which file and line or field, what was expected and what to do."""


class FileSizeError(LazsimError):
    """Report a file that is larger than inputs may be; `head` has its first bytes."""

    head = b""


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


class ReliabilityError(LazsimError):
    """Report a failure model that does not fit the nodes, or a recovery probability that cannot be had as asked."""


def printable(text: str) -> str:
    r"""Write characters that break lines, steer a terminal or are no text, such as lone surrogates, as escapes.

    Examples
    --------
    >>> print(printable("a\nb\u2028\x1b[31m"))
    a\nb\u2028\x1b[31m
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


@contextmanager
def prefix_errors(prefix: str) -> Iterator[None]:
    """Begin the message of every error that leaves the block with the file or field that it is about, if any.

    Examples
    --------
    >>> with prefix_errors("`failures`"):
    ...     raise SpecError("too many")
    Traceback (most recent call last):
    ...
    lazsim.errors.SpecError: `failures`: too many
    """
    try:
        yield
    except LazsimError as error:
        raise type(error)(f"{prefix}: {error}" if prefix else str(error)) from error.__cause__
