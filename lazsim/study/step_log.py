"""Read the log of a run: which step was done when."""

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

from lazsim.errors import LazsimError, shorten
from lazsim.files.decoding import decode_json
from lazsim.files.faults import Faults
from lazsim.files.reading import decode_text, numbered_lines, read_bytes, unpack
from lazsim.files.tables import Row, read_table
from lazsim.grouping import grouped
from lazsim.limits import LONGEST_S, MAX_ROWS, MAX_WHOLE
from lazsim.specs import sha256
from lazsim.trace.reading.times import (
    EPOCHS_S,
    HOURS,
    ROUNDED,
    is_date,
    is_read_by,
    read_date,
    read_length,
    split_unit,
    stamp_unit,
    to_seconds,
)
from lazsim.units import UNIT_OF_WORD, counted, read_number

FEWEST_LINES = 3

DATE = r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)"
MEGATRON = re.compile(rf"{DATE}\]?\s+iteration\s+(\d+)/")
TORCHTITAN = re.compile(rf"{DATE}.*?(?<!validate )\bstep:\s*(\d+(?:,\d{{3}})*)\b")
NEMO = re.compile(rf"{DATE}.*?\bglobal_step[:=]\s*(\d+)\b")
DEEPSPEED = re.compile(rf"{DATE}.*?\bstep=(\d+), skipped=")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
MLPERF = ":::MLLOG"
WRITERS_OF_LINES = (
    re.compile(r"\s*(\[\d+,\d+\](?=<\w+>)|\[pod/[\w./-]+\]|\[[\w.-]+\](?=:)|[\w.-]+(\[\d+\])?(?=:\s))"),
    re.compile(r".*?(rank\W{0,2}\d+)", re.IGNORECASE),
)
"""Who wrote a line: what `mpirun`, `kubectl`, `torchrun`, `srun` and `pdsh` put before it, and the first rank in it."""
LOG_PREFIX = re.compile(r"\s*\[(?!\s*[\[{])")
"""A line of a log that begins as an array of JSON would, such as ``[rank0]``."""

HEADLESS = (
    (re.compile(r"1\d{12} \S+ \d+\s*\n"), ("timestamp_ms", "value", "step"), "MLflow: ms since 1970, value and step"),
    (
        re.compile(r"\s*\[\s*\[\s*1\d{9}(?:\.\d*)?\s*,\s*\d+\s*,[^,]*\]"),
        ("wall_time_s", "step", "value"),
        "TensorBoard: seconds since 1970, step and value",
    ),
    (
        re.compile(r"\d+(?:\.0)?,1\d{12}(?:\.\d*)?,[^,\n]*\n"),
        ("step", "timestamp_ms", "value"),
        "Neptune: step, ms since 1970 and value",
    ),
)
"""First row and columns of tables of one metric without a header: of ``mlruns``, TensorBoard's JSON, Neptune's CSV."""

TIMES = (
    *("timestamp", "walltime", "wall_time", "time", "datetime", "elapsed", "runtime", "seconds"),
    *("relative_time__wall", "relative_time__process"),
)
"""Names of columns with a time, in small letters and without a unit: of several, the first of these counts, since the
`_runtime` of W&B, its time of a process, stands still between runs of a job, and the `elapsed` of others is that of a
step."""
COUNTS = {
    **dict.fromkeys(("step", "steps", "iteration", "global_step", "trainer_global_step", "train_global_step"), "steps"),
    **dict.fromkeys(("samples", "consumed_samples"), "samples"),
}
"""Names of columns with a count, and what it counts."""
NO_VALUE = ("", "nan", "none", "null")
NO_JSON = re.compile(r"(?<=[:\s])(NaN|-?Infinity)(?=\s*[,}])")
"""Values that Python writes into JSON, which has none of them."""
WRITERS = (
    *("rank", "global_rank", "process", "process_index", "worker", "host", "hostname", "node"),
    *("key", "metricname", "metric_name", "tag", "attribute_path"),
)
"""Columns with who wrote the row: a rank, or a metric of those that MLflow, Comet, TensorBoard and Neptune export
together."""

BACK_SHARE, TURNS_SHARE = 0.25, 0.25
"""Share of lines that step back from which on they are of several ranks that nothing tells apart; and turns between a
rank and others at which no step is new, as a share of its lines, up to which they tell of other steps. *Assumption*."""

LATE_TIMES, LATE_LINES, LATE_SHARE = 2.0, 2, 0.5
"""Times that ranks behind another one are at most as far behind as usual; most lines that they are where times alone
put them so, or tell no steps apart; and the share of the time of these steps that the job may lose meanwhile: doing
them again takes more, as it stops before. *Assumption*."""


class Mark(NamedTuple):
    """A line of a log: the steps, or samples, done at a time."""

    line: int
    time_s: float
    done: float
    writer: str = ""
    """Who wrote it, such as ``rank0``; empty where nothing says so."""


Reading = tuple[str, list[Mark], tuple[str, ...]]
"""Whether a log counts steps or samples, its lines, and what is taken for granted."""


class StepLog(NamedTuple):
    """What a log tells of, in the order of its file: of one rank, and of others only where they tell of other steps."""

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
    # Crashes, file systems and names in other encodings leave bytes in logs that are no text.
    text = ESCAPES.sub("", decode_text(unpack(str(path), content), errors="replace"))
    dated = (partial(_dated, pattern) for pattern in (MEGATRON, TORCHTITAN, DEEPSPEED, NEMO))
    readers: list[Callable[[str, str], Reading]] = [_mlperf, *dated, _table]
    for reader in readers:
        unit, marks, told = reader(str(path), text)
        if marks:
            break
    with_count = [one for one in marks if not math.isnan(one.done)]
    num_without = len(marks) - len(with_count)
    marks, notes = _of_one_writer(with_count)
    notes = (*told, *notes)
    notes += (f"rows without a count of {unit}, which do not count: {num_without}",) * (num_without > 0)
    if len(marks) >= FEWEST_LINES:
        ordered = _in_order(marks)
        notes += ("lines are not in the order of their times, and count by these",) * (ordered != marks)
        marks, late = _without_late(ordered)
        notes += late
    if len(marks) < FEWEST_LINES:
        raise LazsimError(
            f"{path}: no log of steps; give a table with columns time and step or samples, such as a tracker's history "
            "of one metric with its times, or the log of MLPerf, or of torchtitan, Megatron, NeMo or DeepSpeed with a "
            f"date in each line, with {FEWEST_LINES} steps or more"
        )
    notes += _refuse_disorder(path, marks, is_cut=not text.endswith("\n"))
    return StepLog(unit, marks, sha256(content), notes)


def _refuse_disorder(path: Path | str, marks: Sequence[Mark], *, is_cut: bool) -> tuple[str, ...]:
    """Refuse lines that cannot be those of one run; return a note where steps go back without a stop."""
    if marks[-1].done < marks[-2].done and is_cut:
        raise LazsimError(f"{path}, line {marks[-1].line}: the last line has no end, and steps back; leave it out")
    if len(marks) > MAX_ROWS:
        raise LazsimError(f"{path}: more than {MAX_ROWS:,} steps; give every tenth")
    for before, after in pairwise(marks):
        if before.time_s > after.time_s:
            raise LazsimError(
                f"{path}, line {after.line}: its time is before that of the line above; sort the log, keep one "
                "run of several, or write its times in UTC if the clock was set back"
            )
    back_s = [after.time_s - before.time_s for before, after in pairwise(marks) if after.done < before.done]
    if len(back_s) >= FEWEST_LINES and len(back_s) > BACK_SHARE * len(marks):
        raise LazsimError(
            f"{path}: {len(back_s)} of {len(marks)} lines step back, as where several ranks write into one log; keep "
            "the lines of one rank"
        )
    usual_s = median(after.time_s - before.time_s for before, after in pairwise(marks))
    at_once = sum(seconds <= usual_s for seconds in back_s)
    if marks[-1].time_s - marks[0].time_s > LONGEST_S:
        raise LazsimError(f"{path}: its times span more than a century; give them in seconds, or as dates")
    if marks[-1].time_s > EPOCHS_S[1]:
        raise LazsimError(
            f"{path}: its times are no seconds since 1970, and their column names no other unit, such as timestamp_ms; "
            "name it, or give dates"
        )
    told = f"steps step back {counted(at_once, 'time')} without a stop: they are no lost work if each epoch counts anew"
    return (told,) * (at_once > 0)


def _of_one_writer(marks: Sequence[Mark]) -> tuple[list[Mark], tuple[str, ...]]:
    """Return the lines of the writer with the most, and of those that tell of other steps; and a note on others."""
    by_writer = grouped((one.writer, one) for one in marks)
    if len(by_writer) == len(marks):
        return list(marks), ()  # Such as numbers of lines.
    kept: list[Mark] = []
    for lines in sorted(by_writer.values(), key=len, reverse=True):
        both = sorted([*kept, *lines], key=lambda one: one.time_s)
        # Lines of one process under several labels, such as those of its levels, go on where the others end.
        num_turns = sum(
            (before.writer == lines[0].writer) != (after.writer == lines[0].writer) and after.done <= before.done
            for before, after in pairwise(both)
        )
        if num_turns <= TURNS_SHARE * len(lines):
            kept += lines
    kept.sort(key=lambda one: one.line)
    writers = sorted({one.writer for one in kept})
    told = f"the log has lines of {len(by_writer)} ranks or metrics: those of {shorten(', '.join(writers))} count"
    return kept, (told,) * (len(by_writer) > len(writers))


def _in_order(marks: list[Mark]) -> list[Mark]:
    """Return lines with dates by time, unless the count then steps back by more than in the file.

    Such are the lines of ranks that write into one file, of logs that were put together, and of newest lines first. A
    clock that was set back mixes lines of which each steps back, or puts more steps at a sooner time.
    """
    is_sorted = all(before.time_s <= after.time_s for before, after in pairwise(marks))
    if is_sorted or min(one.time_s for one in marks) < EPOCHS_S[0]:
        return marks

    def lost(lines: list[Mark]) -> float:
        return math.fsum(max(0.0, before.done - after.done) for before, after in pairwise(lines))

    ordered = sorted(marks, key=lambda one: (one.time_s, one.done))
    return ordered if lost(_without_late(ordered, LATE_LINES)[0]) <= lost(marks) else marks


def _without_late(marks: list[Mark], most_lines: float = math.inf) -> tuple[list[Mark], tuple[str, ...]]:
    """Leave out the lines of ranks that are behind another one; return the other lines, and a note if any went.

    Such a rank writes step 10 after another rank has written step 11. The log then steps back, and goes on at the pace
    from before: there was no time to do a step again. If most steps back that are as small cost more time than that,
    the job restarts there, and all lines stay. So does the first line after a stop, if there was time to do its step
    and those after it again.
    """
    records = [0]
    for at, one in enumerate(marks):
        records += [at] * (one.done > marks[records[-1]].done)
    stretches = [marks[before : after + 1] for before, after in pairwise(records)]
    if not stretches:
        return marks, ()
    step_s = median((one[-1].time_s - one[0].time_s) / (one[-1].done - one[0].done) for one in stretches)
    if not step_s:
        most_lines = LATE_LINES  # Stamps that are coarser than a step do not tell whether there was time.
    apart = median(one[-1].done - one[0].done for one in stretches)
    most = most_lines * apart
    backs, late, again = list[float](), list[float](), set[Mark]()
    for first, *between, last in stretches:
        new = last.done - first.done
        if back := first.done - min((one.done for one in between), default=first.done):
            backs.append(back)
            goes_on = last.time_s - first.time_s <= (new + LATE_SHARE * back) * step_s
            late += [back] * (goes_on and back <= most)
        for before, after in pairwise([first, *between]):
            is_stop = after.time_s - before.time_s > (1 + LATE_SHARE) * apart * step_s > 0
            if is_stop and last.time_s - after.time_s > (new + LATE_SHARE * (first.done - after.done)) * step_s:
                again.add(after)
    most = min(most, LATE_TIMES * median(late)) if late else 0.0
    if len(late) < FEWEST_LINES or 2 * len(late) <= sum(back <= most for back in backs):
        return marks, ()
    kept = marks[:1]
    for one in marks[1:]:
        kept += [one] * (one in again or not 0 <= kept[-1].done - one.done <= most)
    return kept, (f"lines of ranks behind another one, which do not count: {len(marks) - len(kept)}",)


def _writer(text: str) -> str:
    found = (match[1] for pattern in WRITERS_OF_LINES if (match := pattern.match(text)))
    return " ".join(dict.fromkeys(re.sub(r"[^\w.,/-]", "", one).lower() for one in found))


def _dated(pattern: re.Pattern[str], name: str, text: str) -> Reading:
    found = ((line, pattern.search(content)) for line, content in numbered_lines(text))
    marks = [
        _mark(name, line, match[1], match[2], _writer(match.string[: match.end()])) for line, match in found if match
    ]
    return "steps", marks, ()


def _mlperf(name: str, log: str) -> Reading:
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
    return unit, marks[unit], ()


def _table(name: str, text: str) -> Reading:
    """Read the columns of a time and of steps or samples; no marks where they are missing.

    The size of stamps since 1970 tells their unit where their column does not.
    """
    if LOG_PREFIX.match(text):
        return "steps", [], ()
    text = NO_JSON.sub("null", text)
    # A job that is killed leaves a part of a line, and others write between.
    faults = Faults(name, LazsimError, lenient=True)
    header, rows, _ = read_table(text, faults, lambda fields: _columns(fields) is not None)
    notes: tuple[str, ...] = ()
    if num_faults := faults.repairs.total():
        notes = (f"lines that cannot be read, which do not count: {num_faults}",)
    for first_row, columns, told in HEADLESS:
        if first_row.match(text):
            header = columns
            notes += (f"taken for a metric of {told}",)
    found = _columns(header, rows)
    if found is None:
        return "steps", [], ()
    time_column, count_column, writer_columns, unit = found
    if len(several := [field for field in header if (one := _columns(("time", field))) and one[3] == unit]) > 1:
        notes += (f"of the columns {shorten(', '.join(several))}, {header[count_column]} counts",)
    if header[count_column].rpartition(" - ")[2].strip() == "_step":
        notes += ("the _step of W&B counts calls and never steps back: steps done again show in a global_step alone",)
    time_unit = split_unit(header[time_column])[1]
    if time_unit is None:
        times = [fields[time_column] for _, fields in rows if len(fields) > time_column]
        time_unit = stamp_unit([float(time) for time in times if is_read_by(float, time)]) or "s"
        notes += (f"times are in {time_unit} since 1970, which their size tells",) * (time_unit != "s")
    marks = []
    for line, fields in rows:
        if len(fields) <= max(time_column, count_column, *writer_columns) or any(fields[len(header) :]):
            raise LazsimError(f"{name}, line {line}: expected {len(header)} columns; mend it, or leave it out")
        writer = " ".join(fields[column] for column in writer_columns)
        marks.append(_mark(name, line, fields[time_column], fields[count_column], writer, time_unit))
    return unit, marks, notes


def _columns(header: Sequence[str], rows: Sequence[Row] = ()) -> tuple[int, int, list[int], str] | None:
    """Return the columns of a time, of a count, and of who writes, and what is counted; None without these.

    What has a number with decimals is no header, but a line such as ``steps: 10 iter time (s): 2.500``.
    """
    if any(re.fullmatch(r"-?\d+\.\d+", field) for field in header):
        return None
    # Charts of W&B have the name of a run before that of a column: ``run-7 - train/global_step``.
    names = [re.sub(r"\W", "_", field.lower().rpartition(" - ")[2]).strip("_") for field in header]
    plain = [re.sub(rf"_+({'|'.join(UNIT_OF_WORD)})$", "", name) for name in names]
    times = [plain.index(name) for name in TIMES if name in plain]
    counts = [place for place, name in enumerate(names) if name in COUNTS]
    # The step of W&B is one for each call, which may be one in many steps of Lightning or Transformers.
    counts.sort(key=lambda place: "global_step" not in names[place])

    texts = {at: [row.fields[at] if at < len(row.fields) else "" for row in rows] for at in (*times, *counts)}
    num_values = {place: sum(map(_has_value, found)) for place, found in texts.items()}
    # Trackers keep a column for each name that was ever logged, such as those of an evaluation.
    times.sort(key=lambda place: num_values[place] < FEWEST_LINES)
    counts.sort(key=lambda place: num_values[place] < FEWEST_LINES)
    if not (times and counts):
        return None

    writers = [place for place, name in enumerate(names) if name in WRITERS]
    return times[0], counts[0], writers, COUNTS[names[counts[0]]]


def _has_value(field: str) -> bool:
    return field.strip().lower() not in NO_VALUE


def _mark(name: str, line: int, time: str, done: str, writer: str, unit: str = "s") -> Mark:
    """Read a time, in a unit or as a date, and a count of steps or samples; both are NaN where there is no count."""
    if not _has_value(done):
        return Mark(line, math.nan, math.nan)
    try:
        if HOURS.fullmatch(time.strip()):
            time_s = read_length(time, None)
        elif is_date(plain := time.replace(",", ".")):
            date = read_date(plain)
            # A date without a zone is in none that changes with summer time.
            time_s = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        elif ROUNDED.fullmatch(time.strip()):
            raise ValueError(f"{shorten(time)!r} is rounded, as spreadsheets show long numbers; save all digits")
        elif not math.isfinite(time_s := to_seconds(read_number(time), unit)):
            raise ValueError(f"{shorten(time)!r} is no number")
    except (ValueError, OverflowError) as error:
        raise LazsimError(f"{name}, line {line}: expected a time in seconds or a date of ISO 8601: {error}") from None
    try:
        number = read_number(done)
    except ValueError as error:
        raise LazsimError(f"{name}, line {line}: expected a count of steps or samples: {error}") from None
    if not 0 <= number <= MAX_WHOLE:
        raise LazsimError(f"{name}, line {line}: expected a count of steps or samples, found {shorten(done)!r}")
    return Mark(line, time_s, number, writer)
