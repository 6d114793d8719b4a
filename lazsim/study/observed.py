"""Hold a run's own log of steps against simulations of the same failures.

A log says when which step was done. Where it stands still or steps back, the job stood: the time until training went
on, and the steps done again, are those of a failure. What a stop was spent on, a log does not say.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC
from itertools import groupby, pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from lazsim.engine.simulate import SystemRun
from lazsim.errors import LazsimError, shorten
from lazsim.files.decoding import decode_json
from lazsim.files.faults import Faults
from lazsim.files.reading import decode_text, numbered_lines, read_bytes, unpack
from lazsim.files.tables import read_table
from lazsim.limits import LONGEST_S, MAX_ROWS, MAX_WHOLE
from lazsim.specs import sha256
from lazsim.study.collect import ShowRuns, show_nothing
from lazsim.study.simulation import resolve_runs, simulate_scenarios
from lazsim.trace.reading.times import EPOCHS_S, ROUNDED, read_date
from lazsim.units import MINUTE_S, counted, format_duration, read_number

STOP_FACTOR, STOP_S = 3.0, 5.0
"""Times the usual time of its steps, and seconds beyond it, after which an interval has a stop. *Assumption*."""

FEWEST_SAVES, SAVED_SHARE, MOST_SPACINGS = 3, 0.8, 5
"""Stops at multiples of one number of steps from which on these are saves, share of the multiples that have one, and
numbers of steps that are tried, the commonest first. *Assumption*."""

FEWEST_LINES = 3

SLOWEST_STEP_S = 10 * MINUTE_S
"""Seconds of a step from which on times may be in another unit. *Assumption*."""

DATE = r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?)"
MEGATRON = re.compile(rf"{DATE}\]?\s+iteration\s+(\d+)/")
TORCHTITAN = re.compile(rf"{DATE}.*?(?<!validate )\bstep:\s*(\d+(?:,\d{{3}})*)\b")
NEMO = re.compile(rf"{DATE}.*?\bglobal_step[:=]\s*(\d+)\b")
DEEPSPEED = re.compile(rf"{DATE}.*?\bstep=(\d+), skipped=")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
MLPERF = ":::MLLOG"
WRITER = re.compile(r"rank\W{0,2}\d+|^\s*\[?[\w.-]+(?:\[\d+\])?\]?(?=:\s)", re.IGNORECASE)
"""Who wrote a line: a rank wherever it is named, or what `srun`, `torchrun` and `pdsh` put before each line."""
LOG_PREFIX = re.compile(r"\s*\[(?!\s*[\[{])")
"""A line of a log that begins as an array of JSON would, such as ``[rank0]``."""

TIMES = ("time", "time_s", "timestamp", "seconds", "wall_time")
COUNTS = {
    **dict.fromkeys(("step", "steps", "iteration", "global_step", "trainer_global_step"), "steps"),
    **dict.fromkeys(("samples", "consumed_samples"), "samples"),
}
WRITERS = ("rank", "global_rank", "process", "process_index", "worker", "host", "hostname", "node")
"""Columns of a table with a time, and with a count of steps or samples, also as TensorBoard and W&B export them; and
with who wrote the row."""

BACK_SHARE, TURNS_SHARE = 0.25, 0.25
"""Share of lines that step back from which on they are of several ranks that nothing tells apart; and turns between a
rank and others, as a share of its lines, up to which it writes while they do not. *Assumption*."""


class Mark(NamedTuple):
    """A line of a log: the steps, or samples, done at a time."""

    line: int
    time_s: float
    done: float
    writer: str = ""
    """Who wrote it, such as ``rank0``; empty where nothing says so."""


class Pause(NamedTuple):
    """An interval between two lines that takes longer than its steps do, and by how much."""

    before: Mark
    after: Mark
    seconds: float


@dataclass(frozen=True)
class Phases:
    """A run in the parts that its log shows."""

    wall_s: float
    training_s: float
    lost_s: float
    stopped_s: float
    """All of it; steps that were kept, with checkpoints between them; steps done again; and standing still."""
    num_stops: int
    """Times that it stood still."""
    stop_s: float
    """Median of these; 0 without any."""
    done: float
    """Steps, or samples, kept."""


@dataclass(frozen=True)
class Offer:
    """A constant of the cluster's file that would make the median stop of a simulation that of the log."""

    field: str
    seconds: float
    instead_of_s: float


@dataclass(frozen=True)
class ObservedComparison:
    """A log beside simulations by name, with constants on offer that nothing was changed for."""

    unit: str
    observed: Phases
    offers: Mapping[str, tuple[Offer, ...]]
    inputs: Mapping[str, Any]
    simulated: Mapping[str, Phases]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the shape that ``lazsim compare --json`` prints."""
        return asdict(self)


class StepLog(NamedTuple):
    """What a log tells of, in the order of its file: of one rank, and of others only while it does not write."""

    unit: str
    """``steps`` or ``samples``."""
    marks: list[Mark]
    sha256: str
    """That of the file."""
    notes: tuple[str, ...]


def read_log(path: Path | str) -> StepLog:
    """Read a log of steps: a table with a time and steps or samples, or lines of one of the usual trainers.

    Raises
    ------
    LazsimError
        When it is none of these, too short, or cut short, its times step back, or its steps do at every few lines.
    """
    content = read_bytes(path)
    try:
        text = ESCAPES.sub("", decode_text(unpack(str(path), content)))
    except UnicodeDecodeError:
        raise LazsimError(f"{path}: not a text; give a log of steps") from None
    for reader in (_mlperf, *map(_dated, (MEGATRON, TORCHTITAN, DEEPSPEED, NEMO)), _table):
        unit, marks = reader(str(path), text)
        if marks:
            break
    marks, notes = _of_one_writer(marks)
    if len(marks) < FEWEST_LINES:
        raise LazsimError(
            f"{path}: no log of steps; give a table with columns time and step or samples, or the log of MLPerf, or of "
            f"torchtitan, Megatron, NeMo or DeepSpeed with a date in each line, with {FEWEST_LINES} steps or more"
        )
    if marks[-1].done < marks[-2].done and not text.endswith("\n"):
        raise LazsimError(f"{path}, line {marks[-1].line}: the last line has no end, and steps back; leave it out")
    if len(marks) > MAX_ROWS:
        raise LazsimError(f"{path}: more than {MAX_ROWS:,} steps; give every tenth")
    for before, after in pairwise(marks):
        if before.time_s > after.time_s:
            raise LazsimError(
                f"{path}, line {after.line}: its time is before that of the line above; sort the log, or write "
                "its times in UTC if the clock was set back"
            )
    back_s = [after.time_s - before.time_s for before, after in pairwise(marks) if after.done < before.done]
    if len(back_s) >= FEWEST_LINES and len(back_s) > BACK_SHARE * len(marks):
        raise LazsimError(
            f"{path}: {len(back_s)} of {len(marks)} lines step back, as where several ranks write into one log; keep "
            "the lines of one rank"
        )
    usual_s = median(after.time_s - before.time_s for before, after in pairwise(marks))
    if back_s and max(back_s) <= usual_s:
        num_times = counted(len(back_s), "time")
        notes += (f"steps step back {num_times} without a stop: they are no lost work if each epoch counts anew",)
    if marks[-1].time_s - marks[0].time_s > LONGEST_S:
        raise LazsimError(f"{path}: its times span more than a century; give them in seconds, or as dates")
    if marks[-1].time_s > EPOCHS_S[1]:
        raise LazsimError(f"{path}: its times are no seconds since 1970, but perhaps ms; give seconds, or dates")
    return StepLog(unit, marks, sha256(content), notes)


def _of_one_writer(marks: Sequence[Mark]) -> tuple[list[Mark], tuple[str, ...]]:
    """Return the lines of the writer with the most, and of those that write while it does not; and a note on others."""
    by_writer: dict[str, list[Mark]] = {}
    for one in marks:
        by_writer.setdefault(one.writer, []).append(one)
    kept: list[Mark] = []
    for lines in sorted(by_writer.values(), key=len, reverse=True):
        both = sorted([*kept, *lines], key=lambda one: one.time_s)
        num_turns = sum(
            (before.writer == lines[0].writer) != (after.writer == lines[0].writer) for before, after in pairwise(both)
        )
        if num_turns <= TURNS_SHARE * len(lines):
            kept += lines
    kept.sort(key=lambda one: one.line)
    writers = sorted({one.writer for one in kept})
    num_others = len(by_writer) - len(writers)
    told = f"the log has lines of {counted(len(by_writer), 'rank')}: those of {shorten(', '.join(writers))} count"
    return kept, (told,) * (num_others > 0)


def _writer(text: str) -> str:
    return "".join(re.findall(r"\w", found[0])).lower() if (found := WRITER.search(text)) else ""


def _dated(pattern: re.Pattern[str]) -> Callable[[str, str], tuple[str, list[Mark]]]:
    def read(name: str, text: str) -> tuple[str, list[Mark]]:
        found = ((line, pattern.search(content)) for line, content in numbered_lines(text))
        return "steps", [
            _mark(name, line, match[1], match[2], _writer(match.string[: match.end()]))
            for line, match in found
            if match
        ]

    return read


def _mlperf(name: str, log: str) -> tuple[str, list[Mark]]:
    """Read the lines of MLPerf that tell of samples, else those that tell of steps."""
    marks: dict[str, list[Mark]] = {"samples": [], "steps": []}
    for line, text in numbered_lines(log):
        if MLPERF not in text:
            continue
        try:
            entry = decode_json(text.partition(MLPERF)[2].strip().encode())
            told, time_s = entry["metadata"], float(entry["time_ms"]) / 1e3
            is_evaluation = str(entry.get("key")).startswith("eval")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise LazsimError(f"{name}, line {line}: not a line of MLPerf's log; mend it, or leave it out") from None
        for unit, keys in (("samples", ("samples_count",)), ("steps", ("step_num", "step"))):
            done = next((told[key] for key in keys if isinstance(told, dict) and key in told), None)
            if done is not None and not is_evaluation:
                marks[unit].append(_mark(name, line, repr(time_s), str(done), _writer(text.partition(MLPERF)[0])))
    unit = max(marks, key=lambda unit: len(marks[unit]))
    return unit, marks[unit]


def _table(name: str, text: str) -> tuple[str, list[Mark]]:
    """Read the columns of a time and of steps or samples; no marks where they are missing."""
    if LOG_PREFIX.match(text):
        return "steps", []
    header, rows, _ = read_table(text, Faults(name, LazsimError), lambda fields: _columns(fields) is not None)
    found = _columns(header)
    if found is None:
        return "steps", []
    time_column, count_column, writer_columns, unit = found
    marks = []
    for line, fields in rows:
        if len(fields) <= max(time_column, count_column, *writer_columns) or any(fields[len(header) :]):
            raise LazsimError(f"{name}, line {line}: expected {len(header)} columns; mend it, or leave it out")
        writer = " ".join(fields[column] for column in writer_columns)
        marks.append(_mark(name, line, fields[time_column], fields[count_column], writer))
    return unit, marks


def _columns(header: Sequence[str]) -> tuple[int, int, list[int], str] | None:
    """Return the first columns of a time and of a count, those of who writes, and what is counted; None without one."""
    names = [re.sub(r"\W", "_", field.lower()).strip("_") for field in header]
    times, counts, writers = (
        [place for place, name in enumerate(names) if name in known] for known in (TIMES, COUNTS, WRITERS)
    )
    return (times[0], counts[0], writers, COUNTS[names[counts[0]]]) if times and counts else None


def _mark(name: str, line: int, time: str, done: str, writer: str) -> Mark:
    """Read a time, in seconds or as a date, and a count of steps or samples."""
    try:
        if ":" in time and "-" in time[1:]:
            date = read_date(time.replace(",", "."))
            # A date without a zone is in none that changes with summer time.
            time_s = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        elif ROUNDED.fullmatch(time.strip()):
            raise ValueError(f"{shorten(time)!r} is rounded, as spreadsheets show long numbers; save all digits")
        elif not math.isfinite(time_s := read_number(time)):
            raise ValueError(f"{shorten(time)!r} is no number")
    except (ValueError, OverflowError) as error:
        raise LazsimError(f"{name}, line {line}: expected a time in seconds or a date: {error}") from None
    try:
        number = read_number(done)
    except ValueError as error:
        raise LazsimError(f"{name}, line {line}: expected a count of steps or samples: {error}") from None
    if not 0 <= number <= MAX_WHOLE:
        raise LazsimError(f"{name}, line {line}: expected a count of steps or samples, found {shorten(done)!r}")
    return Mark(line, time_s, number, writer)


def observed_phases(marks: list[Mark]) -> Phases:
    """Take a log apart.

    Notes
    -----
    The usual pace is the median over the intervals in which the count rises. After a step back, the first line is
    taken to come as many steps after the checkpoint as lines are apart: by so much lost steps may be off. Saves are
    training; see `saves_in`.

    Examples
    --------
    A step a second; after 5 s, 20 s until the job is at step 4 again, 3 steps after its checkpoint at 3.

    >>> marks = [Mark(0, float(t), t) for t in range(6)] + [Mark(0, 25.0 + i, 4.0 + i) for i in range(4)]
    >>> observed_phases(marks)
    Phases(wall_s=28.0, training_s=7.0, lost_s=2.0, stopped_s=19.0, num_stops=1, stop_s=19.0, done=7.0)
    """
    last = marks[-1]
    # A count that is written again says nothing, but that the job still stands where the log ends.
    marks = [marks[0], *(after for before, after in pairwise(marks) if after.done != before.done or after is last)]
    rising = [(after.time_s - before.time_s, after.done - before.done) for before, after in pairwise(marks)]
    paces = [seconds / done for seconds, done in rising if done > 0 and seconds > 0]
    if not paces:
        raise LazsimError("`observed`: its steps never rise; give a log of a run that trains")
    pace_s, apart = median(paces), median([done for _, done in rising if done > 0])
    pauses, lost = [], 0.0
    for (seconds, done), (before, after) in zip(rising, pairwise(marks), strict=True):
        if done < 0:
            lost += apart - done
        made_s = (done if done > 0 else apart) * pace_s
        if done < 0 or seconds > max(STOP_FACTOR * made_s, made_s + STOP_S):
            pauses.append(Pause(before, after, max(0.0, seconds - made_s)))
    saves = saves_in(pauses, marks)
    stops_s = [one.seconds for one in pauses if one not in saves]
    wall_s, lost_s, stopped_s = marks[-1].time_s - marks[0].time_s, lost * pace_s, math.fsum(stops_s)
    training_s = max(0.0, wall_s - lost_s - stopped_s)
    middle_s = median(stops_s) if stops_s else 0.0
    return Phases(wall_s, training_s, lost_s, stopped_s, len(stops_s), middle_s, marks[-1].done - marks[0].done)


def saves_in(pauses: Sequence[Pause], marks: Sequence[Mark]) -> set[Pause]:
    """Return the pauses that are saves: those without a step back at nearly all multiples of one number of steps.

    Those that take far longer than usual are stops.
    """
    rising = [one for one in pauses if one.after.done >= one.before.done]
    lines = {done: float(at) for at, done in enumerate(sorted({one.done for one in marks}))}
    # By steps; or, since samples rise by batches of several sizes, by lines, of which the first may be any.
    return _saves_at(rising, {done: done for done in lines}, 0) or _saves_at(rising, lines, None)


def _saves_at(rising: Sequence[Pause], places: Mapping[float, float], first: float | None) -> set[Pause]:
    """Return the pauses at multiples of one distance from a first place, which is any of the pauses' if not given."""
    least, most = min(places.values()), max(places.values())
    spacings = Counter(places[later.before.done] - places[sooner.before.done] for sooner, later in pairwise(rising))
    for every, _ in spacings.most_common(MOST_SPACINGS):
        if every <= 0:
            continue
        phases = Counter(places[one.before.done] % every for one in rising)
        phase = phases.most_common(1)[0][0] if first is None else first
        at = {one: (places[one.after.done] - phase) // every for one in rising}
        at = {one: number for one, number in at.items() if number * every + phase >= places[one.before.done]}
        if len(set(at.values())) >= max(FEWEST_SAVES, SAVED_SHARE * (most // every - least // every)):
            most_s = STOP_FACTOR * median(one.seconds for one in at)
            return {one for one in at if one.seconds <= most_s}
    return set()


TRAINING = ("compute", "checkpoint", "rebalance")
"""What a job does while its log goes on, beside steps that are lost later."""

CONSTANTS = {"detect_s": "detect", "restart_base_s": "restart", "rebuild_s": "reconfigure"}
"""Constants of the cluster's file that may be offered, and what a job does meanwhile."""

AGREEMENT = 0.02
"""How far from that of the log the median stop may be in a simulation with a constant on offer, as a share of it."""


def simulated_phases(run: SystemRun, unit: str) -> Phases:
    """Return a simulated run in the same parts."""
    spent_s = run.ledger_s
    stops_s = [seconds for seconds, _ in _stops(run)]
    training_s = math.fsum(spent_s[what] for what in TRAINING)
    return Phases(
        run.wall_s,
        training_s,
        spent_s["lost_work"],
        run.wall_s - training_s - spent_s["lost_work"],
        len(stops_s),
        median(stops_s) if stops_s else 0.0,
        float(run.steps if unit == "steps" else run.samples),
    )


def _stops(run: SystemRun) -> Iterator[tuple[float, set[str]]]:
    """Yield the seconds of each time that a run stands still, and what it does; none before it trains, and after."""
    for is_training, group in groupby(run.phases, key=lambda span: span.what in TRAINING):
        spans = list(group)
        if not is_training and spans[0].start_s > 0 and spans[-1].end_s < run.wall_s:
            yield spans[-1].end_s - spans[0].start_s, {span.what for span in spans}


def offer(observed: Phases, simulated: Phases, run: SystemRun, recovery: Any) -> tuple[Offer, ...]:
    """Return the constants each of which alone would make the median stop of a simulation that of the log.

    That holds where the system waits for all of what it does and stops stay apart, which only a simulation tells.
    """
    if not (observed.num_stops and simulated.num_stops):
        return ()
    more_s, stops, found = observed.stop_s - simulated.stop_s, list(_stops(run)), []
    for field, what in CONSTANTS.items():
        changed_s = median(seconds + more_s * (what in doing) for seconds, doing in stops)
        one = Offer(field, getattr(recovery, field) + more_s, getattr(recovery, field))
        # Nodes join without detection, and not all stops are restarts.
        if one.seconds >= 0 and math.isclose(changed_s, observed.stop_s):
            found.append(one)
    return tuple(found)


def compare_observed(
    path: Path | str,
    settings: Mapping[str, Any],
    systems: Sequence[str],
    progress: ShowRuns = show_nothing,
) -> ObservedComparison:
    """Simulate what a log tells of under some systems, for as long as the log lasts unless a duration is given.

    Raises
    ------
    LazsimError
        When an input is not valid, or the log never trains.
    """
    unit, marks, hashed, notes = read_log(path)
    observed = observed_phases(marks)
    asked = {**settings, "duration": settings.get("duration") or observed.wall_s}
    scenarios, left_out = resolve_runs(asked, systems, ())
    result = simulate_scenarios(scenarios, progress, left_out=left_out)
    simulated = {run.name: simulated_phases(run, unit) for run in result.runs}
    recovery = scenarios[0].cluster.recovery

    def agrees(one: Offer, system: str) -> bool:
        changed, _ = resolve_runs({**asked, f"cluster.recovery.{one.field}": one.seconds}, [system], ())
        run = simulate_scenarios(changed).runs[0]
        return math.isclose(simulated_phases(run, unit).stop_s, observed.stop_s, rel_tol=AGREEMENT)

    offers = {}
    for scenario, run in zip(scenarios, result.runs, strict=True):
        found = offer(observed, simulated[run.name], run, recovery)
        offers[run.name] = tuple(one for one in found if agrees(one, scenario.settings["system"]))
    return ObservedComparison(
        unit,
        observed,
        offers,
        {"observed": {"name": Path(path).name, "sha256": hashed}, **result.inputs},
        simulated,
        (*notes, *_log_notes(unit, marks, observed, simulated, result.runs), *result.notes),
    )


def _log_notes(
    unit: str, marks: list[Mark], observed: Phases, simulated: Mapping[str, Phases], runs: Sequence[SystemRun]
) -> Iterator[str]:
    """Yield what limits the comparison, and how large steps are, which a log need not tell."""
    apart = median(after.done - before.done for before, after in pairwise(marks) if after.done > before.done)
    step_s = observed.training_s / max(observed.done, 1.0)
    if observed.wall_s < MINUTE_S or (unit == "steps" and step_s > SLOWEST_STEP_S):
        span, each = format_duration(observed.wall_s), format_duration(step_s)
        yield f"the log spans {span}, and one of its {unit} takes {each}: its times are taken for seconds"
    if observed.lost_s:
        yield f"the log has a line each {apart:,.0f} {unit}: what each stop lost may be off by as many"
    numbers = {name: phases.num_stops for name, phases in simulated.items() if phases.num_stops != observed.num_stops}
    if numbers:
        told = ", ".join(f"{name} {number}" for name, number in numbers.items())
        yield (
            f"the log stops {observed.num_stops} times, simulations otherwise ({told}): `trace` is taken to begin with "
            "the first line of the log, and `start` moves it"
        )
    batches = " or ".join(sorted({f"{run.samples / run.steps:,.4g}" for run in runs if run.steps}))
    if unit == "steps" and batches:
        yield f"a simulated step has {batches} samples in the mean: steps of the log are taken to be as large"
