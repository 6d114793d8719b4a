"""Any table whose columns can be told: by `columns`, or from the header or what stands in it."""

import itertools

from lazsim.errors import TraceFormatError, literal, prefix_errors
from lazsim.trace.reading.catalogued import open_head
from lazsim.trace.reading.doubts import doubt_about
from lazsim.trace.reading.guess import UNNAMED, guess_columns
from lazsim.trace.reading.mapped import read_mapped
from lazsim.trace.reading.mapping import NO_MAPPING, TraceMapping
from lazsim.trace.reading.rows import choose_rows, open_table
from lazsim.trace.source import GUESSED, TraceReader, TraceReading, TraceSource

LOOKS = (
    "any table of times and live counts; of times, events and nodes; of nodes and the start and end, or duration, of "
    "outages; or of samples, 1 where a node is up, as Grafana exports them"
)


def recognise(text: str) -> float:
    """Return how surely the first rows tell which column is which."""
    try:
        guess = guess_columns(open_head(text))
        return UNNAMED if doubt_about(guess) else guess.fit
    except TraceFormatError:
        return 0.0


def read(source: TraceSource) -> TraceReading:
    """Read the rows by the columns that the user names, or else by a guess."""
    table = open_table(source)
    if source.asked.columns is not None:
        return read_mapped(source, table, NO_MAPPING)
    with prefix_errors(source.name):
        # What is in doubt about all rows may not be about those that the user chooses.
        guess = guess_columns(choose_rows(table, source.asked.conditions()))
        if doubt := doubt_about(guess):
            raise TraceFormatError(doubt)
    reading = read_mapped(source, table, TraceMapping(columns=guess.roles))
    others = [column.name for column in guess.others]
    if guess.lacks_outages and not others:
        told = "each row is taken for an outage, though no column is named so: its node is gone from start to end"
        reading = reading._replace(notes=(told, *reading.notes))
    asked = {condition.column for condition in itertools.chain(*source.asked.conditions())}
    others = [name for name in others if name not in asked]
    if others or (guess.fit < GUESSED and table.header and guess.roles.nodes is None):
        left_out = f"; left out: {', '.join(map(literal, others[:5]))}" * bool(others)
        reading = reading._replace(notes=(*reading.notes, f"columns are taken for {guess}{left_out}"))
    return reading


READER = TraceReader(LOOKS, recognise, read, tuple(TraceMapping.__struct_fields__))
