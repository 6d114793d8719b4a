"""A result as one page to send on: `report.html`, which takes nothing from the network."""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lazsim import __version__
from lazsim.engine.log import FailureRecord, TimeSpan, longest
from lazsim.engine.simulate import SystemRun
from lazsim.output.names import shown_names
from lazsim.output.plots.style import BUCKET_COLORS, DOTS_PER_INCH, Look, looks_of
from lazsim.output.table import Column, Part, Table, cell_text, key
from lazsim.output.windows import time_unit, windows
from lazsim.units import counted, format_duration

TEMPLATE, SCRIPT = (Path(__file__).with_name(name) for name in ("report.html.jinja", "report.js"))

MOST_MARKS = 20_000
"""Failures and phases of all systems that a timeline shows, each the longest: 1 MB of text."""

MOST_LINES = 6
"""Systems whose lines a timeline shows at first: more can hardly be told apart."""

MOST_NAMES = 8
"""Names that stand side by side as headings; with more, a table has a row for each."""

MOST_ROWS, MOST_OPEN_ROWS = 1000, 40
"""Rows of a table that a page shows, and shows before one asks: what follows more of them would not be found."""

PICTURE_DOTS_PER_INCH = 120

STOP_COLORS = {what: color for what, color in BUCKET_COLORS.items() if what != "compute"}
"""What a job does beside training."""

DASHES: Mapping[str, list[int]] = {"-": [], "--": [7, 3], ":": [2, 3], "-.": [7, 3, 2, 3]}
"""Pixels that a line drawn by a name has and leaves out in turn."""

SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Report:
    """The content of a page beside the tables of the terminal and the notes."""

    title: str
    answer: str
    certainty: str
    """What was asked, the answer in a sentence, and how sure it is."""
    inputs: Mapping[str, Any]
    """Every input by name; those that are files have their ``sha256``."""
    timeline: Mapping[str, Any] | None = None
    maps: Mapping[str, Any] | None = None
    points: Mapping[str, Any] | None = None
    """What can be explored; see `timeline_of`, `lazsim.output.maps.plan_maps`, `lazsim.output.sweep.sweep_points`."""
    details: Sequence[Part] = ()
    """Parts that follow those of the terminal."""
    pictures: Mapping[str, str] = field(default_factory=dict)
    """Name of a PNG of the result by its caption, which also stands for the picture where it is not seen."""


def report_page(
    report: Report, parts: Iterable[Part], notes: Sequence[str], command: str, files: Mapping[str, bytes]
) -> bytes:
    """Return a page; `command` is what makes the result again, and `files` are those beside the page."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    pictures = {caption: _picture(files[name]) for caption, name in report.pictures.items()}
    explored = {name: getattr(report, name) for name in ("timeline", "maps", "points") if getattr(report, name)}
    columns = [key("input"), Column("value", kind="text"), Column("SHA-256", kind="text")]
    title = "every input, with the SHA-256 of those that are files"
    page = environment.from_string(TEMPLATE.read_text("utf-8")).render(
        page={**vars(report), "pictures": pictures},
        parts=[shown for part in (*parts, *report.details) if (shown := _part(part)) != report.answer],
        inputs=_part(Table(columns, list(_inputs(report.inputs)), title)),
        notes=notes,
        command=command,
        version=__version__,
        explored_json=jinja2.utils.htmlsafe_json_dumps(explored, dumps=_dumps) if explored else "",
        scripts=Markup(_bokeh_js() + SCRIPT.read_text("utf-8")) if explored else "",
    )
    return page.encode()


def _picture(png: bytes) -> tuple[str, int]:
    """Return a PNG as text, and its width on a page, at which its letters are as large as those around it."""
    dots = int.from_bytes(png[16:20], "big")
    return base64.b64encode(png).decode(), round(dots * PICTURE_DOTS_PER_INCH / DOTS_PER_INCH)


def _dumps(value: Any, **_: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _bokeh_js() -> str:
    """Return the scripts of Bokeh, from its package and without importing it."""
    spec = find_spec("bokeh")
    assert spec, "lazsim depends on bokeh"
    folder = Path(str(spec.origin)).parent / "server" / "static" / "js"
    return "\n".join((folder / name).read_text("utf-8") for name in ("bokeh.min.js", "bokeh-api.min.js"))


def _part(part: Part) -> Any:
    """Return a paragraph as it is, and a table with its cells as text."""
    if not isinstance(part, Table):
        return part if isinstance(part, str) else "\n".join(part)
    columns = part.columns
    texts = [[cell_text(value, one.format) for value, one in zip(row, columns, strict=True)] for row in part.rows]
    if len(columns) > MOST_NAMES + 1 and all(one.has_name for one in columns[1:]):
        names, *cells = zip([columns[0].heading, *(one.heading for one in columns[1:])], *texts, strict=True)
        return _part(replace(part, columns=[key(""), *map(Column, names[1:])], rows=cells))
    shown = [
        {"heading": one.heading, "kind": one.kind, "is_key": one.is_key and index == 0}
        for index, one in enumerate(columns)
    ]
    rows = [list(zip(row, shown, strict=True)) for row in texts[:MOST_ROWS]]
    more = len(texts) - len(rows)
    notes = [*part.notes, *([f"{counted(more, 'more row is', 'more rows are')} in the other files"] if more else [])]
    is_long = len(rows) > MOST_OPEN_ROWS
    return {"title": part.title, "columns": shown, "rows": rows, "notes": notes, "is_long": is_long}


def _inputs(inputs: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the name, value and hash of each input; what is nested has a dotted name."""
    for name, value in inputs.items():
        if value is None:
            continue
        if isinstance(value, Mapping) and "sha256" not in value:
            yield from _inputs(value, f"{prefix}{name}.")
            continue
        sha256 = ""
        if isinstance(value, Mapping):
            sha256 = value["sha256"] or value.get("events_sha256", "")
            value = {key: one for key, one in value.items() if key != "sha256" and one not in (None, "", sha256)}
        elif isinstance(value, str) and SHA256.fullmatch(value):
            value, sha256 = "", value
        yield prefix + name, _text(value), sha256


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, Mapping) and "name" in value:
        others = (f"{key} {_text(one)}" for key, one in value.items() if key != "name" and one is not None)
        return ", ".join((str(value["name"]), *others))
    return value if isinstance(value, str) else _dumps(value)


def drawn(name: str, look: Look) -> dict[str, Any]:
    """Return how a page draws a series: its name, colour and dashes, those of pictures."""
    dash = DASHES[look.line] if isinstance(look.line, str) else [2 * part for part in look.line[1]]
    return {"name": name, "color": look.color, "dash": dash}


def timeline_of(runs: Mapping[str, SystemRun]) -> dict[str, Any]:
    """Return runs of one trace by name as the data of a timeline, in the unit of its axis."""
    first = next(iter(runs.values()))
    unit, unit_s = time_unit(first.wall_s)
    looks, shown = looks_of(list(runs)), shown_names(runs)
    drawn_first = sorted(runs, key=lambda name: -runs[name].samples)[:MOST_LINES]
    most = MOST_MARKS // len(runs)
    systems = []
    for name, run in runs.items():
        bounds_s, kept, _ = windows(run.states, run.wall_s)
        failures = run.failures[:most]
        before = np.maximum(bounds_s.searchsorted([one.time_s for one in failures]) - 1, 0)
        rates = kept.round(4).tolist()
        stops = [span for span in run.phases if span.what in STOP_COLORS]
        systems.append(
            {
                **drawn(shown[name], looks[name]),
                "visible": name in drawn_first,
                "x": (bounds_s / unit_s).round(6).tolist(),
                "rate": [*rates, rates[-1]],
                "failures": _columns(
                    [_failure(one, unit_s, rates[window]) for one, window in zip(failures, before, strict=True)],
                    FAILURE_COLUMNS,
                ),
                "phases": _columns([_phase(span, unit_s) for span in longest(stops, most)], PHASE_COLUMNS),
            }
        )
    alive = [(state.time_s / unit_s, state.num_alive) for state in first.states]
    alive = [one for one, before in zip(alive, [(0.0, -1), *alive], strict=False) if one[1] != before[1]]
    alive = alive[:: -(-len(alive) // MOST_MARKS)]
    end = first.wall_s / unit_s
    nodes = {"x": [*(round(at, 6) for at, _ in alive), end], "alive": [*(num for _, num in alive), alive[-1][1]]}
    drawn_phases = {span.what for run in runs.values() for span in run.phases}
    phases = {what.replace("_", " "): color for what, color in STOP_COLORS.items() if what in drawn_phases}
    found = {"unit": unit, "end": end, "systems": systems, "nodes": nodes, "phases": phases}
    return found | {"num_drawn": len(drawn_first)}


FAILURE_COLUMNS = ("time", "rate", "nodes", "decision", "why", "outage", "lost_steps")
PHASE_COLUMNS = ("start", "end", "what", "seconds", "color")


def _columns(rows: Sequence[Sequence[Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}


def _failure(failure: FailureRecord, unit_s: float, rate: float) -> tuple[Any, ...]:
    outage = "never" if failure.trains_at_s is None else format_duration(failure.trains_at_s - failure.time_s)
    named = " ".join(failure.nodes[:8]) + (f" and {len(failure.nodes) - 8} more" if len(failure.nodes) > 8 else "")
    decision = f"{failure.decision or 'failed again before it was noticed'} {failure.source}".strip()
    return round(failure.time_s / unit_s, 6), rate, named, decision, failure.why, outage, failure.lost_steps


def _phase(span: TimeSpan, unit_s: float) -> tuple[Any, ...]:
    seconds = round(span.end_s - span.start_s, 3)
    start, end = round(span.start_s / unit_s, 6), round(span.end_s / unit_s, 6)
    return start, end, span.what.replace("_", " "), seconds, STOP_COLORS[span.what]
