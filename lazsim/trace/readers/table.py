"""Any table whose columns can be told: by `columns`, or from the header or what stands in it."""

from lazsim.errors import TraceFormatError
from lazsim.tables import HEAD_LINES
from lazsim.trace.guess import explain_columns, guess_mapping, open_head
from lazsim.trace.mapped import open_table, read_mapped
from lazsim.trace.mapping import NO_MAPPING, TraceMapping
from lazsim.trace.source import Reader, Reading, Source

LOOKS = (
    "any table of times and live counts; of times, events and nodes; of nodes and the start and end, or duration, of "
    "outages; or of samples, 1 where a node is up, as Grafana exports them"
)


def recognise(text: str) -> float:
    """Return how surely the first rows tell which column is which."""
    guess = guess_mapping(open_head(text))
    return 0.0 if guess is None else guess[1]


def read(source: Source) -> Reading:
    """Read the rows by the columns that the user names, or else by a guess."""
    table = open_table(source)
    if source.asked.columns is not None:
        return read_mapped(source, table, NO_MAPPING)
    guess = guess_mapping(table._replace(rows=table.rows[:HEAD_LINES]))
    if guess is None:
        raise TraceFormatError(f"{source.name}: {explain_columns(table)}")
    return read_mapped(source, table, guess[0])


READER = Reader(LOOKS, recognise, read, tuple(TraceMapping.__struct_fields__))
