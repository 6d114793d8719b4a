"""Read recorded loads: SmartMoE's logs, ``.npz``, and a CSV of our own."""

import csv
import io
import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lazsim.errors import RoutingFormatError
from lazsim.files import read_bytes
from lazsim.routing.table import RecordedRouting, check_tokens
from lazsim.specs import sha256

Floats = npt.NDArray[np.float64]

CSV_HEADER = "# lazsim-routing 1"
CSV_COLUMNS = ["step", "layer", "expert", "tokens"]
LOG_NAME = re.compile(r"table_iter(\d+)_rank(\d+)\.log")

FORMATS = (
    f"known are .npz with iteration and tokens, SmartMoE's table_iter<i>_rank<r>.log, and CSV after {CSV_HEADER!r}"
)


def read_routing(path: str) -> RecordedRouting:
    """Read recorded loads, whatever their format.

    Parameters
    ----------
    path
        A ``.npz`` file with ``iteration (S,)`` and ``tokens (S, L, E)``; a SmartMoE log ``table_iter<i>_rank<r>.log``
        or a folder of them, whose ranks and micro-batches are summed; or a CSV as `write_csv` makes it.

    Raises
    ------
    RoutingFormatError
        When the format is unknown, a line is bad, or a layer has no tokens.
    """
    if Path(path).is_dir():
        return _read_logs(path, sorted(Path(path).iterdir()))
    if LOG_NAME.fullmatch(Path(path).name):
        return _read_logs(path, [Path(path)])
    content = read_bytes(path)
    if content.startswith(b"PK"):
        return _read_npz(path, content)
    if content.startswith(CSV_HEADER.encode()):
        return _read_csv(path, content)
    raise RoutingFormatError(
        f"{path}: " + (f"not a format of expert loads; {FORMATS}" if content else "the file is empty")
    )


def _read_npz(path: str, content: bytes) -> RecordedRouting:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            steps, tokens = arrays["iteration"].astype(np.int64), arrays["tokens"].astype(np.float64)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise RoutingFormatError(f"{path}: not a .npz with iteration and tokens ({error})") from None
    if steps.ndim != 1 or tokens.ndim != 3 or len(steps) != len(tokens) or 0 in tokens.shape[1:]:
        raise RoutingFormatError(f"{path}: iteration must have shape (S,) and tokens (S, L, E)")
    return RecordedRouting(steps, check_tokens(path, steps, tokens), path, sha256(content))


def _read_logs(path: str, files: Iterable[Path]) -> RecordedRouting:
    by_step: dict[int, Floats] = {}
    ranks: dict[int, int] = {}
    contents = b""
    for file in files:
        name = LOG_NAME.fullmatch(file.name)
        if not name:
            continue
        content = read_bytes(file)
        contents += content
        step, tokens = int(name[1]), _parse_log(str(file), content)
        if step in by_step and by_step[step].shape != tokens.shape:
            raise RoutingFormatError(f"{file}: other layers or experts than the logs before it")
        by_step[step] = by_step.get(step, np.zeros_like(tokens)) + tokens
        ranks[step] = ranks.get(step, 0) + 1
    if not by_step:
        raise RoutingFormatError(f"{path}: no file named table_iter<i>_rank<r>.log in the folder")
    if len({tokens.shape for tokens in by_step.values()}) > 1:
        raise RoutingFormatError(f"{path}: the logs have different numbers of layers or experts")
    steps = np.array(sorted(by_step), dtype=np.int64)
    all_tokens = np.stack([by_step[step] for step in steps.tolist()])
    note = f"loads are the sum of {min(ranks.values())} ranks"
    return RecordedRouting(steps, check_tokens(path, steps, all_tokens), path, sha256(contents), (note,))


def _parse_log(path: str, content: bytes) -> Floats:
    rows: list[Floats] = []
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        raise RoutingFormatError(f"{path}: not a text file; expected SmartMoE's layer:[[loads], ...] lines") from None
    for number, line in enumerate(filter(None, lines), start=1):
        layer, _, batches = line.partition(":")
        try:
            loads = np.array(json.loads(batches), dtype=np.float64)
            assert int(layer) == len(rows) and loads.ndim == 2  # noqa: PT018
        except (ValueError, AssertionError):
            raise RoutingFormatError(f"{path}, line {number}: expected {len(rows)}:[[loads], ...]") from None
        rows.append(loads.sum(axis=0))
    if not rows or len({len(row) for row in rows}) > 1:
        raise RoutingFormatError(f"{path}: expected a line for each layer, with as many experts in each")
    return np.stack(rows)


def _read_csv(path: str, content: bytes) -> RecordedRouting:
    try:
        reader = csv.reader(io.StringIO(content.decode()))
    except UnicodeDecodeError:
        raise RoutingFormatError(f"{path}: not a text file") from None
    next(reader)
    if next(reader, None) != CSV_COLUMNS:
        raise RoutingFormatError(f"{path}, line 2: expected {','.join(CSV_COLUMNS)}")
    counts: dict[tuple[int, int, int], float] = {}
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        try:
            step, layer, expert, tokens = *map(int, row[:3]), float(row[3])
            if min(step, layer, expert) < 0 or len(row) != 4:
                raise ValueError
        except (ValueError, IndexError):
            raise RoutingFormatError(f"{where}: expected four numbers from 0 up, {','.join(CSV_COLUMNS)}") from None
        if (step, layer, expert) in counts:
            raise RoutingFormatError(f"{where}: a second row for step {step}, layer {layer}, expert {expert}; keep one")
        counts[step, layer, expert] = tokens
    if not counts:
        raise RoutingFormatError(f"{path}: no loads; give at least one step")
    steps = np.array(sorted({step for step, _, _ in counts}), dtype=np.int64)
    index = {step: row for row, step in enumerate(steps.tolist())}
    tokens_SLE = np.zeros((len(steps), *(1 + max(key[axis] for key in counts) for axis in (1, 2))))
    for (step, layer, expert), tokens in counts.items():
        tokens_SLE[index[step], layer, expert] = tokens
    return RecordedRouting(steps, check_tokens(path, steps, tokens_SLE), path, sha256(content))


def write_csv(routing: RecordedRouting) -> bytes:
    """Return recorded loads as our CSV: a header line, then ``step,layer,expert,tokens`` without the zeros.

    The last expert of the last layer is always written, so that the number of layers and experts can be read back.
    """
    lines = [CSV_HEADER, ",".join(CSV_COLUMNS)]
    keep = routing.tokens_SLE > 0
    keep[:, -1, -1] = True
    for row, layer, expert in np.argwhere(keep).tolist():
        lines.append(f"{routing.steps[row]},{layer},{expert},{routing.tokens_SLE[row, layer, expert]}")
    return ("\n".join(lines) + "\n").encode()
