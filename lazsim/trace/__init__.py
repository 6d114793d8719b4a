"""Read, cap, generate, fit and fetch traces of node events.

`table` has the trace that all else works on, with the places of its nodes, and `stats` what it holds. A file becomes
one through a module of `readers`, whose interface is `source` and whose tools are in `reading`; `order` mends rows out
of order, and `prices` are those of nodes over time. `recipes`, `generate` and `pool` make traces without a file,
`fetch` gets public ones, and `fit` makes recipes of traces. `loading` reads, cuts and, by `cap`, limits what a run asks
for.
"""

from lazsim.trace.cap import CAP_RULES, cap_trace
from lazsim.trace.generate import generate_trace
from lazsim.trace.loading import cut_trace, load_trace
from lazsim.trace.readers import READERS, read_trace
from lazsim.trace.readers.lazsim import trace_bytes, write_trace
from lazsim.trace.reading.mapping import TraceMapping, make_mapping
from lazsim.trace.recipes import load_recipe
from lazsim.trace.stats import trace_stats
from lazsim.trace.table import Event, Trace, build_trace

__all__ = [
    "CAP_RULES",
    "READERS",
    "Event",
    "Trace",
    "TraceMapping",
    "build_trace",
    "cap_trace",
    "cut_trace",
    "generate_trace",
    "load_recipe",
    "load_trace",
    "make_mapping",
    "read_trace",
    "trace_bytes",
    "trace_stats",
    "write_trace",
]
