"""Readers of traces: each module here reads the format of its name."""

import itertools
import re
from dataclasses import replace
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import numpy as np

from lazsim.errors import FileSizeError, TraceFormatError, prefix_errors, unknown_name
from lazsim.extensions import module_names
from lazsim.files.reading import decode_text, read_bytes, unpack
from lazsim.files.tables import PARQUET, find_separator
from lazsim.specs import catalog_names, sha256
from lazsim.trace.reading.catalogued import mapping_reader, open_head
from lazsim.trace.reading.guess import guess_columns
from lazsim.trace.reading.hosts import natural_order
from lazsim.trace.reading.mapping import NO_MAPPING, TraceMapping
from lazsim.trace.reading.refusals import BINARY_BYTES, GIVE, explain_binary, explain_text
from lazsim.trace.source import GUESSED, TraceReader, TraceReading, TraceSource
from lazsim.trace.stats import rate_note, trace_stats
from lazsim.trace.table import Event, Trace, build_trace, check_size
from lazsim.units import counted, format_duration

LEAST_GAP_S = 1.0
LEAST_SPAN_S = 30.0
"""Median time between two instants, and span; a trace with less has its times in another unit (assumption)."""

READERS: dict[str, TraceReader] = {
    **{name: import_module(f"{__name__}.{name}").READER for name in module_names("trace/readers")},
    **{name: mapping_reader(name) for name in catalog_names("mappings")},
}
"""Reader by name of the format: modules with a `READER` here, then mappings of the catalogue, which are less certain.
Nothing else lists them."""


def _text_of(name: str, content: bytes) -> str:
    """Decode the bytes of a file, or raise TraceFormatError when it is empty or binary."""
    if not content.strip():
        raise TraceFormatError(f"{name}: the file is empty; give a trace with at least one node event")
    try:
        text = decode_text(content)
    except UnicodeDecodeError as error:
        if b"\0" not in content and explain_binary(content) is None:
            line = content.count(b"\n", 0, error.start) + 1
            raise TraceFormatError(f"{name}, line {line}: not in UTF-8; save it as UTF-8") from None
        text = "\0"
    if "\0" in text:
        what = explain_binary(content) or f"the file is binary; give a trace in text ({', '.join(sorted(READERS))})"
        raise TraceFormatError(f"{name}: {what}")
    return text


def detect_format(name: str, text: str) -> str:
    """Return the format that the content fits best, or raise TraceFormatError when it is no trace.

    None fits at least half then, or one that guesses what columns mean though the file is known to be something else.

    Examples
    --------
    >>> detect_format("sample", "0,add,node1")
    'bamboo'
    """
    fits = {format_name: reader.recognise(text) for format_name, reader in READERS.items()}
    best = max(fits, key=lambda format_name: fits[format_name])
    is_unknown = fits[best] < 0.5
    if fits[best] <= GUESSED and (what := explain_text(text, is_unknown=is_unknown)):
        raise TraceFormatError(f"{name}: {what}")
    if is_unknown:
        if len((table := open_head(text)).header) > 1 and find_separator(text) is not None:
            with prefix_errors(name):
                guess_columns(table)
        raise TraceFormatError(
            f"{name}: not one of the known formats, as lazsim list formats has them; {GIVE}; or force one with "
            "`format`, or name the `columns` of a table"
        )
    return best


def read_trace(
    path: Path | str,
    format: str = "auto",  # noqa: A002
    seed: int = 0,
    lenient: bool = False,
    mapping: TraceMapping = NO_MAPPING,
) -> Trace:
    """Read a trace of node events.

    Parameters
    ----------
    path
        A file in one of the formats of `READERS`, also when packed by gzip, bzip2, xz, zip or zstd; ``-`` is stdin.
    format
        A name of `READERS`, a path of a ``.toml`` file with a `TraceMapping`, or ``auto`` to choose by the content.
    seed
        Seed of what a file leaves open: which nodes go, if it only counts them, and where those stand that it does not
        name.
    lenient
        Repair faults where possible, and count the repairs in the notes.
    mapping
        What the file does not say, such as its unit of time; it goes before what the format says.

    Raises
    ------
    TraceFormatError
        When the file is empty, binary, of no known format, has a bad line, no node event at all or a span that cannot
        be.
    LazsimError
        When the file cannot be read.
    """
    name = str(path)
    try:
        packed = read_bytes(path)
    except FileSizeError as error:
        head = error.head.decode("utf-8-sig", "replace").rpartition("\n")[0]
        if what := explain_text(head, is_whole=False):
            raise TraceFormatError(f"{name}: {what}") from None
        raise
    if b"\0" in packed[:BINARY_BYTES] and (what := explain_binary(packed)):
        raise TraceFormatError(f"{name}: {what}")
    content = unpack(name, packed)
    is_parquet = content.startswith(PARQUET)
    text = "" if is_parquet else _text_of(name, content)
    if format == "auto":
        is_table = is_parquet or mapping.columns is not None
        format = "table" if is_table else detect_format(name, text)  # noqa: A001
    reader = mapping_reader(format) if format.endswith(".toml") else READERS.get(format)
    if reader is None:
        known = ["auto", *sorted(READERS)]
        raise TraceFormatError(unknown_name("trace format", format, known, "a path to a .toml file"))
    for field in mapping.given():
        if field not in reader.options:
            raise TraceFormatError(f"{name}: read as {format}, which has no use for `{field}`; leave it out")
    rng = np.random.default_rng(seed).spawn(1)[0]
    undrawn = rng.bit_generator.state
    source = TraceSource(name, TraceFormatError, lenient, text=text, content=content, rng=rng, asked=mapping)
    reading = _of_cluster(reader.read(source), source)
    # Hosts have names without case, and with a domain or not, and spreadsheets cut zeros off, but other things have
    # names that differ by it. What lazsim wrote was told when it was read.
    is_counted = reading.names == "none" or format == "lazsim"
    nodes = set() if is_counted else {event.node for event in reading.events}
    hosts = {re.sub(r"(?<!\d)0+(?=\d)", "", node.lower()) for node in nodes}
    num_alike = len(nodes) - sum("." not in host or host.partition(".")[0] not in hosts for host in hosts)
    notes = reading.notes
    if num_alike:
        alike = counted(num_alike, "name differs", "names differ")
        notes += (f"{alike} from another by case, zeros or domain alone: taken for other nodes; give each one name",)
    trace = build_trace(
        reading.events, duration_s=reading.duration_s, name=name, format=Path(format).stem, sha256=sha256(packed),
        notes=(*notes, *source.notes()), lenient=lenient, prices=reading.prices,
        places=reading.places,
    )  # fmt: skip
    if not len(trace):
        raise TraceFormatError(
            f"{name}: no node event in it (read as {format}); give a trace in which nodes come or go"
        )
    notes = trace.notes
    gone = {event.node for event in reading.events if event.kind == "remove" and reading.names == "some"}
    if num_away := len(gone.intersection(trace.away)):
        goes = counted(num_away, "node goes", "nodes go")
        span = "; a `span` that begins before makes it one" * ("span" in reader.options)
        notes += (f"{goes} at the very start, which is no loss of the trace{span}",)
    if (unit := reading.assumed_unit) is not None:
        _check_unit(trace, unit)
        notes += (f"times are read in {unit}, as {format} has them: nothing in the file says so; else give their unit",)
    return replace(trace, notes=notes, is_drawn=rng.bit_generator.state != undrawn)


def _of_cluster(reading: TraceReading, source: TraceSource) -> TraceReading:
    """Put the nodes of a cluster in order, with those that a file does not name, and leave out all others.

    At each instant, nodes come in the order of `cluster_nodes`, or else of their names: in the order of failures, those
    that fail together would be neighbours. Nodes without a name are at places among them that are drawn: at the end or
    evenly spread, they would make too many or too few neighbours of those that fail. Names of the user are in the order
    of their places.
    """
    events, nodes = reading.events, reading.cluster_nodes if (asked := source.asked.cluster_nodes) is None else asked
    named = {event.node for event in events}
    if nodes is None and (reading.names != "some" or not named):
        return reading
    if not named and not reading.duration_s:
        return reading._replace(events=[])
    if reading.names == "none":
        raise source.refuse("", "counts all nodes that are alive; leave `cluster_nodes` out")
    notes = []
    order = list(nodes) if isinstance(nodes, tuple) else sorted(named, key=natural_order)
    if nodes is None:
        notes.append(
            f"the file names {counted(len(named), 'node')}, and no others count; if others stayed throughout, "
            "`cluster_nodes` says how many nodes there are in all"
        )
    if isinstance(nodes, int):
        if nodes < len(named):
            raise source.refuse("", f"names {len(named)} nodes; give `cluster_nodes` of at least that")
        check_size(source.name, 0, nodes, nodes)
        fresh = (name for number in itertools.count(1) if (name := f"healthy-{number:03d}") not in named)
        for place in sorted(source.rng.choice(nodes, nodes - len(named), replace=False).tolist()):
            order.insert(place, next(fresh))
    others, strangers = [node for node in order if node not in named], named.difference(order)
    if strangers and strangers == named:
        shown = ", ".join(sorted(strangers)[:3])
        raise source.refuse("", f"none of the nodes of `cluster_nodes` is in it, but {shown}; give its names")
    if strangers:
        notes.append(f"{counted(len(strangers), 'node')} of the file not among `cluster_nodes`: left out")
    if others:
        is_drawn = isinstance(nodes, int)
        drawn = "; at which places is drawn, unless `cluster_nodes` has all names in their order" if is_drawn else ""
        notes.append(
            f"{counted(len(named - strangers), 'node appears', 'nodes appear')}; "
            f"{counted(len(others), 'more is', 'more are')} taken to be healthy throughout ({len(order)} in all){drawn}"
        )
    places = {node: place for place, node in enumerate(order)}
    events = [*(Event(0.0, "add", node) for node in others), *(event for event in events if event.node in places)]
    instants = itertools.groupby(events, key=attrgetter("time_s"))
    in_order = [event for _, instant in instants for event in sorted(instant, key=lambda event: places[event.node])]
    given = places if isinstance(nodes, tuple) else None
    return reading._replace(events=in_order, notes=(*reading.notes, *notes), places=given)


def _check_unit(trace: Trace, unit: str) -> None:
    """Refuse a trace that is too fast for the unit of time that its format has, and that nothing in the file says."""
    times_s = np.unique([*trace.time_s, trace.duration_s])
    span_s = float(times_s[-1] - times_s[0])
    if span_s == 0.0:
        return
    if np.median(np.diff(times_s)) < LEAST_GAP_S or span_s < LEAST_SPAN_S or rate_note(trace_stats(trace)):
        span = format_duration(span_s)
        raise TraceFormatError(
            f"{trace.name}: its times span {span} if they are in {unit}, as {trace.format} has them; give `time_unit`"
        )
