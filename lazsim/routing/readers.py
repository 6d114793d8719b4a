"""Read recorded loads: SmartMoE's logs, ``.npz``, and lazsim's CSV."""

import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from lazsim.errors import RoutingFormatError
from lazsim.files import Faults, numbered_lines, read_array, read_bytes
from lazsim.limits import MAX_LOADS
from lazsim.routing.table import Floats, Ints, RecordedRouting, check_tokens
from lazsim.specs import sha256

BYTES_PER_LOAD = 8

CSV_HEADER = "# lazsim-routing 1"
CSV_COLUMNS = "step,layer,expert,tokens"
CSV_ROW = re.compile(r"(\d{1,15}),(\d{1,15}),(\d{1,15}),(\d{1,15})", re.ASCII)
LOG_NAME = re.compile(r"table_iter(\d{1,15})_rank(\d{1,15})\.log", re.ASCII)
LOG_LAYER = re.compile(r"(\d{1,15}):(\[.*\])", re.ASCII)

FORMATS = (
    f"known are .npz with iteration and tokens, SmartMoE's table_iter<i>_rank<r>.log, and CSV after {CSV_HEADER!r}"
)


def read_routing(path: str, lenient: bool = False) -> RecordedRouting:
    """Read recorded loads in any of the known formats.

    Parameters
    ----------
    path
        A ``.npz`` file with ``iteration (S,)`` and ``tokens (S, L, E)``; a SmartMoE log ``table_iter<i>_rank<r>.log``
        or a folder of them, with ranks and micro-batches summed; or a CSV of `write_csv`.
    lenient
        Repair faults and count the repairs in the notes: drop lines and loads that are not whole numbers from 0 up and
        repeated rows, sort steps, and repeat the step before where a layer has no tokens.

    Raises
    ------
    RoutingFormatError
        When the format is unknown, a line is bad, or a layer has no tokens.
    """
    faults = Faults(path, RoutingFormatError, lenient)
    if os.path.isdir(path):
        return _read_logs(faults, sorted(Path(path).iterdir()))
    if LOG_NAME.fullmatch(Path(path).name):
        return _read_logs(faults, [Path(path)])
    content = read_bytes(path)
    if content.startswith(b"PK"):
        return _recording(faults, *_parse_npz(path, content), content)
    if content.removeprefix(b"\xef\xbb\xbf").startswith(CSV_HEADER.encode()):
        return _recording(faults, *_parse_csv(faults, content), content)
    raise RoutingFormatError(
        f"{path}: " + (f"not a format of expert loads; {FORMATS}" if content else "the file is empty")
    )


def _recording(faults: Faults, steps: Floats, tokens_SLE: Floats, content: bytes, *notes: str) -> RecordedRouting:
    whole_S, whole_SLE = check_tokens(faults, steps, tokens_SLE)
    return RecordedRouting(whole_S, whole_SLE, faults.name, sha256(content), (*notes, *faults.notes()))


def _parse_npz(path: str, content: bytes) -> tuple[Floats, Floats]:
    problems = (KeyError, ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
    arrays: list[Floats] = []
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in ("iteration", "tokens"):
                with archive.open(f"{name}.npy") as member:
                    arrays.append(read_array(member, MAX_LOADS * BYTES_PER_LOAD))
    except problems as error:
        what = f"not a readable .npz with iteration and tokens ({error})"
        raise RoutingFormatError(f"{path}: {what}; write it again") from None
    steps, tokens = arrays
    if steps.ndim != 1 or tokens.ndim != 3 or len(steps) != len(tokens) or 0 in tokens.shape[1:]:
        raise RoutingFormatError(f"{path}: iteration must have shape (S,) and tokens (S, L, E)")
    return steps.astype(np.float64), tokens.astype(np.float64)


def _read_logs(faults: Faults, files: Iterable[Path]) -> RecordedRouting:
    by_step: dict[int, Floats] = {}
    ranks: dict[int, int] = {}
    contents = []
    for file in files:
        name = LOG_NAME.fullmatch(file.name)
        if not name:
            continue
        contents.append(read_bytes(file))
        step, tokens_LE = int(name[1]), _parse_log(replace(faults, name=str(file)), contents[-1])
        if by_step and next(iter(by_step.values())).shape != tokens_LE.shape:
            raise RoutingFormatError(f"{file}: other layers or experts than the logs before it; keep those of one run")
        by_step[step] = by_step.get(step, 0.0) + tokens_LE
        ranks[step] = ranks.get(step, 0) + 1
    if not by_step:
        raise RoutingFormatError(f"{faults.name}: no file named table_iter<i>_rank<r>.log in the folder")
    few, many = min(ranks.values()), max(ranks.values())
    note = f"loads are the sum of {few}{f' to {many}, as files there are,' if few < many else ''} ranks"
    steps = np.array(sorted(by_step), dtype=np.float64)
    tokens_SLE = np.stack([by_step[step] for step in sorted(by_step)])
    return _recording(faults, steps, tokens_SLE, b"".join(contents), note)


def _parse_log(faults: Faults, content: bytes) -> Floats:
    rows: list[Floats] = []
    for number, line in _lines(faults.name, content):
        row = LOG_LAYER.fullmatch(line)
        try:
            # As a float, a very long number becomes infinite and counts with the other bad loads.
            loads = np.array(json.loads(row[2], parse_int=float), dtype=np.float64) if row else np.zeros(0)
        except (ValueError, TypeError, RecursionError):
            loads = np.zeros(0)
        if row is None or int(row[1]) != len(rows) or loads.ndim != 2 or (rows and len(rows[0]) != loads.shape[1]):
            experts = f"{len(rows[0])} loads" if rows else "loads"
            raise RoutingFormatError(f"{faults.name}, line {number}: expected {len(rows)}:[[{experts}], ...]")
        # Before the sum, in which an infinity would hide the other loads.
        bad = ~((loads >= 0) & np.isfinite(loads))
        if bad.any():
            faults.fault(number, "loads that are no numbers from 0 up", "leave them out")
        rows.append(np.where(bad, 0.0, loads).sum(axis=0))
    if not rows:
        raise RoutingFormatError(
            f"{faults.name}: the file is empty; expected a line layer:[[loads], ...] for each layer"
        )
    return np.stack(rows)


def _lines(name: str, content: bytes) -> Iterator[tuple[int, str]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RoutingFormatError(f"{name}: not a text file; expected expert loads as text") from None
    return numbered_lines(text)


def _parse_csv(faults: Faults, content: bytes) -> tuple[Floats, Floats]:
    lines = _lines(faults.name, content)
    next(lines)
    number, columns = next(lines, (2, ""))
    if columns != CSV_COLUMNS:
        raise RoutingFormatError(f"{faults.name}, line {number}: expected {CSV_COLUMNS}")
    loads: dict[tuple[int, int, int], int] = {}
    latest = 0
    for number, line in lines:
        row = CSV_ROW.fullmatch(line)
        if row is None:
            faults.fault(number, f"expected four whole numbers from 0 up, {CSV_COLUMNS}, found {line[:40]!r}")
            continue
        step, layer, expert, tokens = map(int, row.groups())
        if step < latest:
            faults.fault(number, f"step {step} comes after step {latest}", "sort the steps")
        if (step, layer, expert) in loads:
            found = f"a second row for step {step}, layer {layer}, expert {expert}"
            faults.fault(number, found, "keep the first of several")
            continue
        latest = max(latest, step)
        loads[step, layer, expert] = tokens
    return _scatter(faults.name, loads)


def _scatter(name: str, loads: dict[tuple[int, int, int], int]) -> tuple[Floats, Floats]:
    if not loads:
        raise RoutingFormatError(f"{name}: no loads; give at least one step")
    keys: Ints = np.array(list(loads), dtype=np.int64)
    steps, rows = np.unique(keys[:, 0], return_inverse=True)
    num_layers, num_experts = (keys[:, 1:].max(axis=0) + 1).tolist()
    if len(steps) * num_layers * num_experts > MAX_LOADS:
        size = f"{len(steps)} steps of {num_layers} layers of {num_experts} experts"
        raise RoutingFormatError(f"{name}: {size} are too many; number layers and experts from 0 on")
    tokens_SLE = np.zeros((len(steps), num_layers, num_experts))
    tokens_SLE[rows, keys[:, 1], keys[:, 2]] = list(loads.values())
    return steps.astype(np.float64), tokens_SLE


def write_csv(routing: RecordedRouting) -> bytes:
    """Return recorded loads as lazsim's CSV: a header line, then ``step,layer,expert,tokens`` without the zeros.

    The last expert of the last layer is always there, so that a reader knows the numbers of layers and experts.
    """
    lines = [CSV_HEADER, CSV_COLUMNS]
    keep = routing.tokens_SLE > 0
    keep[:, -1, -1] = True
    for row, layer, expert in np.argwhere(keep).tolist():
        lines.append(f"{routing.steps[row]},{layer},{expert},{routing.tokens_SLE[row, layer, expert]}")
    return ("\n".join(lines) + "\n").encode()
