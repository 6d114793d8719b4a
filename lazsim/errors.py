"""Errors of bad input: one line each, exit code 2. Only a `FailedError` is none, and has 1.

A message names fields of the call in backquotes, as in "`duration` 0 s: give more than 0". The command line writes the
option that sets such a field in its place. What a user wrote stays as it is where it is quoted; see `literal`.

A broken invariant inside lazsim is never one of these: it is an ``AssertionError`` and a bug.
"""

import difflib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

WORD_ENDS = re.compile(r"[\W_]+")

ABBREVIATIONS = {
    "tp": "tensor", "pp": "pipeline", "cp": "context", "ep": "expert", "etp": "expert_tensor", "vp": "virtual_stages",
    "vpp": "virtual_stages", "gbs": "global_batch", "mbs": "micro_batch", "seq": "sequence_length", "zero": "sharding",
    "zero_stage": "sharding", "fsdp": "sharding", "dtype": "precision", "dp_replicate": "data_replicate",
    "hsdp": "data_replicate", "num_distributed_optimizer_instances": "data_replicate", "exp_avg_dtype": "moment_bytes",
}  # fmt: skip
"""Names in Megatron, DeepSpeed and torchtitan that are not like those here."""

LONGEST_TEXT = 60
"""Characters of a text that a message quotes."""

LONGEST_CAUSE = 80
"""Characters of what a library says of an error."""

LONGEST_LIST = 160
"""Characters of the names that a message lists."""


class LazsimError(Exception):
    """Report bad input in one line: which file and line or field, what was expected and what to do."""


class FailedError(LazsimError):
    """Report work that failed with good input, as where a process is lost; the exit code is 1."""


class FileSizeError(LazsimError):
    """Report a file that is larger than inputs may be; `head` has its first bytes."""

    head = b""


class TraceFormatError(LazsimError):
    """Report a trace that cannot be read: unknown format, bad line, impossible event."""


class SpecError(LazsimError):
    """Report an unknown name, a wrong or unknown key of a specification, or loads or failures that do not fit."""


class InfeasiblePlanError(LazsimError):
    """Report that the experts do not fit on the nodes."""


class CostRangeError(LazsimError):
    """Report a size outside the range that a measured profile covers."""


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


def shorten(text: object, longest: int = LONGEST_TEXT) -> str:
    """Return a text of a file, a user or a library for a message, cut where it is long.

    Examples
    --------
    >>> shorten("node7 " * 20)
    'node7 node7 node7 node7 node7 node7 node7 node7 node7 nod...'
    """
    text = str(text)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def first_line(error: BaseException) -> str:
    r"""Return the first line of what a library says of an error, or its kind where it says nothing.

    Examples
    --------
    >>> first_line(RuntimeError("CUDA error: out of memory\nCompile with ...")), first_line(OSError())
    ('CUDA error: out of memory', 'OSError')
    """
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)


def literal(text: str) -> str:
    """Return a text of a user for a message, in quotes where it could be taken for one that names a field.

    Examples
    --------
    >>> literal("by hand"), literal("`start` is that of the job")
    ('by hand', "'`start` is that of the job'")
    """
    return repr(text) if "`" in text else text


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


ALIKE = 0.85
"""Likeness from which a name that is free to choose is taken for a slip of a known one. *Assumption*."""


def nearest_name(name: str, known: Sequence[str]) -> str:
    """Return the known name that is nearest to another; empty where none is near.

    Examples
    --------
    >>> nearest_name("tensor_model_parallel_size", ["tensor", "pipeline"]), nearest_name("pp", ["tensor", "pipeline"])
    ('tensor', 'pipeline')
    """
    # Case counts in names, as it does in files, but not for what is near. A slip rarely changes the first letter.
    lower = {one.lower(): one for one in known}
    typed = name.lower()
    near = [one for one in [ABBREVIATIONS.get(typed, "")] if one in lower]
    near = near or difflib.get_close_matches(typed, [one for one in lower if one[:1] == typed[:1]], n=1)
    near = near or difflib.get_close_matches(typed, lower, n=1, cutoff=0.8)
    near = near or [one for one in lower if typed and (one.startswith(typed) or typed in WORD_ENDS.split(one))]
    near = near or [one for one in lower if one in WORD_ENDS.split(typed)]
    return lower[near[0]] if near else ""


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return the question for the known name that is nearest, with a blank behind it; empty where none is near.

    Examples
    --------
    >>> did_you_mean("swep", ["run", "sweep"]), did_you_mean("walk", ["run", "sweep"])
    ("did you mean 'sweep'? ", '')
    """
    near = nearest_name(name, known)
    return f"did you mean {near!r}? " if near else ""


def first_names(names: Sequence[str], longest: int = LONGEST_LIST) -> str:
    """Return names for a message, the first of them where there are many.

    Examples
    --------
    >>> first_names(["gpt-s", "gpt-l"]), first_names([f"model-{number}" for number in range(100, 130)])[-21:]
    ('gpt-s, gpt-l', 'model-113 and 16 more')
    """
    text = ", ".join(names)
    if len(text) <= longest or len(names) == 1:
        return text
    num_shown = max(1, sum(end <= longest for end in itertools.accumulate(len(f"{name}, ") for name in names)))
    return f"{', '.join(names[:num_shown])} and {len(names) - num_shown} more"


def known_names(names: Sequence[str]) -> str:
    """Return known names for the end of a message."""
    return f"known: {first_names(names)}"


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
    '/: a folder, no model; give a path to a .toml file, or a name; known: gpt-s, gpt-l'
    """
    if or_else and os.path.exists(name):
        found = "folder" if os.path.isdir(name) else "file"
        return f"{name}: a {found}, no {what}; give {or_else}, or a name; {known_names(known)}"
    others = f"; or {or_else}" if or_else else ""
    return f"unknown {what} {name!r}: {did_you_mean(name, known)}{known_names(known)}{others}"
