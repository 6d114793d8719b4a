"""Readers of traces: each module here reads the format of its name."""

from importlib import import_module
from pathlib import Path

import numpy as np

from lazsim.errors import TraceFormatError
from lazsim.files import module_names, read_bytes
from lazsim.specs import sha256, unknown_name
from lazsim.trace.source import Reader, Source
from lazsim.trace.table import Trace, build_trace

READERS: dict[str, Reader] = {
    name: import_module(f"{__name__}.{name}").READER for name in module_names("trace/readers")
}
"""Reader by name of the format. To add a format, add a module with a `READER`; nothing else lists them."""


def decode_text(name: str, content: bytes) -> str:
    """Decode the bytes of a file, or raise TraceFormatError when it is empty or binary."""
    if not content.strip():
        raise TraceFormatError(f"{name}: the file is empty; give a trace with at least one node event")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise TraceFormatError(f"{name}: the file is binary; give a trace in text ({', '.join(READERS)})")
    return text


def detect_format(name: str, text: str) -> str:
    """Return the format that the content fits best, or raise TraceFormatError when none fits at least half.

    Examples
    --------
    >>> detect_format("sample", "0,add,node1")
    'bamboo'
    """
    fits = {format_name: reader.recognise(text) for format_name, reader in READERS.items()}
    best = max(fits, key=lambda format_name: fits[format_name])
    if fits[best] < 0.5:
        raise TraceFormatError(f"{name}: not one of the known formats ({', '.join(READERS)}); force one with `format`")
    return best


def read_trace(path: Path | str, format: str = "auto", seed: int = 0, lenient: bool = False) -> Trace:  # noqa: A002
    """Read a trace of node events.

    Parameters
    ----------
    path
        A file in one of the formats of `READERS`.
    format
        A name of `READERS`, or ``auto`` to choose by the content.
    seed
        Seed for naming the nodes of a trace that only counts them.
    lenient
        Repair faults where possible, and count the repairs in the notes.

    Raises
    ------
    TraceFormatError
        When the file is empty, binary, of no known format, has a bad line or no node event at all.
    LazsimError
        When the file cannot be read.
    """
    name, content = str(path), read_bytes(path)
    if format != "auto" and format not in READERS:
        raise TraceFormatError(unknown_name("trace format", format, ["auto", *READERS]))
    text = decode_text(name, content)
    chosen = detect_format(name, text) if format == "auto" else format
    source = Source(name, TraceFormatError, lenient, text=text, rng=np.random.default_rng(seed).spawn(1)[0])
    reading = READERS[chosen].read(source)
    trace = build_trace(
        reading.events, duration_s=reading.duration_s, name=name, format=chosen, sha256=sha256(content),
        notes=(*reading.notes, *source.notes()), lenient=lenient,
    )  # fmt: skip
    if not len(trace):
        raise TraceFormatError(
            f"{name}: no node event in it (read as {chosen}); give a trace in which nodes come or go"
        )
    return trace
