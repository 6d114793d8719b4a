"""The largest inputs, and the words that some settings take.

A slip in a number or a hostile file must cost neither the memory nor an hour: it is refused first. Every limit stands
here with its reason, is far above what is in use, and is checked where inputs come in.
"""

MAX_FILE_BYTES = 64 << 20
"""Bytes of an input. The largest public trace or recording has one; text of this size takes seconds to read."""

MAX_RECORDING_BYTES = 256 << 20
"""Bytes of recorded loads. The largest public recording, of vLLM, has 223 MB."""

MAX_SPEC_BYTES = 16 << 10
"""Bytes of a specification. The largest of the catalogue has five thousand, and Python's reader of TOML takes memory by
the square of the depth: a quarter of a GiB where all of this is one dotted name."""

MAX_CONFIG_BYTES = 1 << 20
"""Bytes of a config.json. Those of quantised models list every layer, in tens of thousands."""

MAX_NODES = 1 << 14
"""Nodes at once. The largest clusters, of 100,000 GPUs, have 12,500 nodes of eight."""

MAX_GPUS_PER_NODE = 1 << 10
"""GPUs of a node; the largest NVLink domain announced has 576."""

MAX_SLOTS = 1 << 24
"""Replica slots of a plan, all layers and nodes together. A plan with this number takes seconds and 128 MiB."""

MAX_PLAN_CELLS = 1 << 26
"""Layers times experts times nodes of a plan, which fill 512 MiB; DeepSeek-V3 on 4,500 nodes has as many."""

MAX_EXPERTS = 1 << 16
"""Routed experts of a layer; the largest model trained, Switch-C, has 2,048."""

MAX_LAYERS = 1 << 12
"""Layers of a model; 1,000 have been trained (DeepNet, arXiv 2203.00555)."""

MAX_MODEL_EXPERTS = 1 << 17
"""Routed experts of all layers; Kimi K2 has 23,040."""

MAX_DIMENSION = 1 << 26
"""Widths, lengths and counts of a model or a step, 64 million: products of them stay within floats."""

MAX_PARAMS = 1 << 52
"""Parameters of one part of a model: floats count them exactly."""

MAX_LOADS = 1 << 26
"""Loads of a recording, 512 MiB: 4,000 steps of DeepSeek-V3 have as many."""

MAX_EVENTS = 1 << 20
"""Node events of a trace: 16,384 nodes fail and return 32 times. The largest public trace has 4,000."""

MAX_ROWS = 1 << 21
"""Rows of a table that a trace is read from: a poll each 15 s for a year."""

MAX_COLUMNS = 1 << 10
"""Columns of such a table; the widest public one has 26."""

MAX_STRETCHES = 1 << 19
"""Stretches of steps that a run simulates, each in up to a millisecond: 26 million steps of loads that drift, which are
stretches of up to 50, beyond any job."""

MAX_SWEEP_POINTS = 100_000
"""Runs of a sweep: days of computing for one machine."""

MAX_COMPARED = 10_000
"""Generated traces or recordings to compare one with: an interval needs a thousand."""

MAX_WORKERS = 1 << 10
"""Worker processes; the largest servers have 512 cores."""

MAX_WHOLE = 1 << 53
"""Any other whole number, such as a seed: larger ones are not exact in JSON."""

MOST_USD_PER_HOUR = 1e6
"""Price of a node; a rack of 72 GB200 costs a thousandth of it."""

LONGEST_S = 100 * 365.25 * 86400.0
"""A century: a longer time is a mistake of units."""

SHORTEST_S = 1e-9
"""A nanosecond: a shorter time is a mistake of units, and a rate from it overflows."""

CAPS = ("members", "offset", "clip", "first")
"""Rules that hold a trace to a number of nodes, the default first; see `lazsim.trace.cap_trace`."""

OF_MAPPINGS = ("columns", "where", "time_unit", "time_format", "time_zone", "cluster_nodes", "span")
"""Settings that say what the file of a trace does not; see `lazsim.trace.make_mapping`."""

PLANNINGS = ("auto", "exact", "sampled")
"""Sample where making every plan takes much longer than `lazsim.engine.sampling.EXACT_S`; make every plan; or sample
wherever windows suffice."""
