"""Errors of bad input: one line each, exit code 2. Only a `FailedError` is none, and has 1.

A message names fields of the call in backquotes, as in "`duration` 0 s: give more than 0". The command line writes the
option that sets such a field in its place.

A broken invariant inside lazsim is never one of these: it is an ``AssertionError`` and a bug.
"""

import difflib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class LazsimError(Exception):
    """Report bad input in one line: which file and line or field, what was expected and what to do."""


class FailedError(LazsimError):
    """Report work that failed with good input, as where a process is lost; the exit code is 1."""


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


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return the question for the known name that is nearest, with a blank behind it; empty where none is near.

    Examples
    --------
    >>> did_you_mean("swep", ["run", "sweep"]), did_you_mean("walk", ["run", "sweep"])
    ("did you mean 'sweep'? ", '')
    """
    # Case counts in names, as it does in files, but not for what is near.
    lower = {one.lower(): one for one in known}
    near = [lower[one] for one in difflib.get_close_matches(name.lower(), lower, n=1)] or [
        one for one in known if name and one.startswith(name)
    ]
    return f"did you mean {near[0]!r}? " if near else ""


def unknown_name(what: str, name: str, known: Sequence[str], or_else: str = "") -> str:
    """Return the message that a name is unknown, with the nearest known name where one is near.

    `or_else` is the kind of path that may be given in place of a name; a path of another kind is not called unknown.

    Examples
    --------
    >>> unknown_name("model", "gtp-l", ["gpt-s", "gpt-l"])
    "unknown model 'gtp-l': did you mean 'gpt-l'? known: gpt-s, gpt-l"
    >>> unknown_name("model", "GPT-L", ["gpt-s", "gpt-l"])
    "unknown model 'GPT-L': did you mean 'gpt-l'? known: gpt-s, gpt-l"
    >>> unknown_name("model", "/", ["gpt-s", "gpt-l"], "a path to a .toml file")
    '/: a folder, no model; give a path to a .toml file, or one of gpt-s, gpt-l'
    """
    names = ", ".join(known)
    if or_else and os.path.exists(name):
        return f"{name}: a {'folder' if os.path.isdir(name) else 'file'}, no {what}; give {or_else}, or one of {names}"
    return f"unknown {what} {name!r}: {did_you_mean(name, known)}known: {names}{f'; or {or_else}' if or_else else ''}"
