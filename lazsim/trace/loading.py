"""Load the trace of a run: read a file, cut a stretch out of it, cap its nodes."""

import dataclasses
import math
import os
import re
from pathlib import Path

import numpy as np

from lazsim.errors import LazsimError, SpecError, unknown_name
from lazsim.files.reading import STDIN
from lazsim.limits import CAPS
from lazsim.loads import check_whole
from lazsim.specs import catalog_names
from lazsim.trace.cap import cap_trace
from lazsim.trace.generate import generate_trace
from lazsim.trace.readers import read_trace
from lazsim.trace.reading.mapping import NO_MAPPING, TraceMapping, refuse_mapping
from lazsim.trace.recipes import load_recipe
from lazsim.trace.table import NUMBERS, Trace
from lazsim.units import format_duration


def cut_trace(
    trace: Trace,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    max_nodes: int | None = None,
    cap: str | None = None,
    seed: int = 0,
) -> Trace:
    """Cut a stretch out of a trace, then cap its nodes.

    Parameters
    ----------
    trace
        The whole trace.
    start_s, duration_s
        The stretch, by default to the end of the trace. A longer one ends with the trace.
    max_nodes, cap
        See `lazsim.trace.cap_trace`; the first of `lazsim.limits.CAPS` when None.
    seed
        Seed of the cap's draws.

    Raises
    ------
    LazsimError
        When the stretch starts at or after the end of the trace or has no length, or the cap is not valid or has no
        maximum.
    """
    for name, seconds in (("start", start_s), ("duration", 0.0 if duration_s is None else duration_s)):
        if not isinstance(seconds, NUMBERS) or math.isnan(seconds):
            raise LazsimError(f"`{name}`: expected a number of seconds, found {seconds!r:.200}")
    if start_s < 0:
        raise LazsimError(f"`start` {start_s:.12g} s: give 0 or more")
    if duration_s is not None and duration_s <= 0:
        raise LazsimError(f"`duration` {duration_s:.12g} s: give more than 0")
    if start_s > 0 and start_s >= trace.duration_s:
        span = format_duration(trace.duration_s)
        raise LazsimError(f"`start` {format_duration(start_s)}: {trace.name} spans only {span}; start before its end")
    cut = trace.window(start_s, duration_s) if start_s > 0 or duration_s is not None else trace
    if max_nodes is None and cap is not None:
        raise LazsimError("`cap` has no effect without `max_nodes`: add that, or leave `cap` out")
    if max_nodes is None:
        return cut
    return cap_trace(cut, max_nodes, cap or CAPS[0], np.random.default_rng(seed).spawn(2)[1])


def refuse_unknown(name: str, path: str) -> None:
    """Raise a SpecError, which suggests the nearest recipe, for a name that could be one and leads to no file."""
    if re.fullmatch(r"[\w -]*", name) and name != STDIN and not (name and os.path.exists(path)):
        raise SpecError(unknown_name("trace", name, catalog_names("traces"), "a file of node events"))


def load_trace(
    path: Path | str,
    *,
    format: str = "auto",  # noqa: A002
    start_s: float = 0.0,
    duration_s: float | None = None,
    max_nodes: int | None = None,
    cap: str | None = None,
    seed: int = 0,
    lenient: bool = False,
    mapping: TraceMapping = NO_MAPPING,
) -> Trace:
    """Read or generate a trace, cut a stretch out of it and cap its nodes.

    Parameters
    ----------
    path, format, lenient, mapping
        A recipe (see `load_recipe`), or a file (see `lazsim.trace.read_trace`).
    start_s, duration_s, max_nodes, cap
        See `cut_trace`; a note says so if the trace ends before the stretch.
    seed
        Seed of two random streams: one is for a recipe, or what a file leaves open; one is for the cap.

    Raises
    ------
    LazsimError
        When the file, the stretch or the cap is not valid.
    """
    name, seed = str(path), check_whole("seed", seed, least=0)
    if not isinstance(mapping, TraceMapping):
        raise SpecError(f"`mapping`: expected a TraceMapping, found {type(mapping).__name__}")
    if name.endswith(".toml") or name in catalog_names("traces"):
        refuse_mapping(name, mapping, format)
        trace = generate_trace(load_recipe(name), np.random.default_rng(seed), Path(name).name.removesuffix(".toml"))
    else:
        refuse_unknown(name, name)
        trace = read_trace(name, format=format, seed=seed, lenient=lenient, mapping=mapping)
    cut = cut_trace(trace, start_s=start_s, duration_s=duration_s, max_nodes=max_nodes, cap=cap, seed=seed)
    if duration_s is None or start_s + duration_s <= trace.duration_s:
        return cut
    note = f"{format_duration(duration_s)} asked for, but the trace ends after {format_duration(cut.duration_s)}"
    return dataclasses.replace(cut, notes=(*cut.notes, note))
