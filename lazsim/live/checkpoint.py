"""Checkpoints in a folder that all workers share: a plain ``.npy`` file for each block, and ``complete.json``.

The ranks of a generation write a draft, a folder that no other generation knows: a rank that hangs and then wakes
writes into no checkpoint that others have made meanwhile. The draft takes the name of the checkpoint once it is whole.
"""

import io
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from lazsim.errors import LazsimError
from lazsim.files.decoding import decode_json
from lazsim.files.reading import read_array, read_bytes
from lazsim.files.writing import TEMPORARY, write_whole
from lazsim.live.spec import LiveSpec
from lazsim.live.state import Key, all_keys, block_size
from lazsim.specs import sha256

COMPLETE = "complete.json"
STEP = re.compile(r"step-(\d{9,15})(\.[0-9a-f]+)?", re.ASCII)
"""Name of the folder of a checkpoint, or of a draft."""

LOCK = ".lazsim.checkpoints.lock"
"""Lock of the folder of checkpoints, which may be that of a result."""

OWN = re.compile(rf"{COMPLETE}|dense\.npy|layer-\d+-expert-\d+\.npy|({re.escape(TEMPORARY)}|\.nfs).*", re.ASCII)
"""All that a checkpoint has, beside what NFS calls a file that is deleted while it is open. A folder with anything else
stays: others call theirs ``step-...``, too."""

DEPENDS_ON = (
    "model", "num_heads", "global_batch", "learning_rate", "beta1", "beta2", "epsilon", "balance_weight", "dtype",
    "seed", "text_sha256",
)  # fmt: skip
"""Fields that the parameters after a step depend on."""


def checkpoint_path(folder: Path, step: int, draft: str = "") -> Path:
    """Return the folder of the checkpoint after `step` steps, or of a draft of it."""
    return folder / (f"step-{step:09}.{draft}" if draft else f"step-{step:09}")


def save_blocks(folder: Path, step: int, draft: str, values: Mapping[Key, Tensor]) -> None:
    """Write a rank's part of a draft."""
    for key, value in values.items():
        stream = io.BytesIO()
        np.save(stream, value.detach().cpu().numpy(), allow_pickle=False)
        write_whole(checkpoint_path(folder, step, draft) / _name(key), stream.getvalue())


class BackgroundWriter:
    """Copies and writes values in a thread of its own, one save after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._copied: Future[None] = Future()
        self._copied.set_result(None)
        self._written = self._copied

    def start(self, values: Mapping[Key, Tensor], write: Callable[[Mapping[Key, Tensor]], None]) -> None:
        """Begin to copy values, and to write the copies after that."""
        copies: list[dict[Key, Tensor]] = []

        def copy() -> None:
            copies.append({key: value.detach().clone() for key, value in values.items()})

        def save() -> None:
            copied.result()
            write(copies.pop())

        copied = self._copied = self._thread.submit(copy)
        self._written = self._thread.submit(save)

    def wait_for_copy(self) -> None:
        """Wait until the values may change."""
        self._copied.exception()

    def wait(self) -> None:
        """Wait until all is written; raise the error that kept it from that."""
        self._written.result()


def job_hash(spec: LiveSpec) -> str:
    """Hash the fields that identify a job, whatever its nodes, system and plan."""
    return sha256(msgspec.json.encode([getattr(spec, name) for name in DEPENDS_ON]))


def complete(spec: LiveSpec, step: int, draft: str) -> None:
    """Make a checkpoint of a draft and drop older ones; raise a LazsimError where a part of it is not here."""
    folder = Path(spec.checkpoint_folder)
    path, whole = checkpoint_path(folder, step, draft), checkpoint_path(folder, step)
    names = [_name(key) for key in all_keys(spec)]
    if missing := next((name for name in names if not (path / name).exists()), None):
        raise LazsimError(f"{missing} was written and is not here; give a folder that all workers share")
    write_whole(path / COMPLETE, msgspec.json.encode({"step": step, "job": job_hash(spec), "blocks": names}))
    if not (whole / COMPLETE).exists():
        # Otherwise the job has gone on from that checkpoint and saves the same once more, as at its end.
        try:
            path.rename(whole)
        except OSError as error:
            what = f"{path.name} cannot be called {whole.name} ({error.strerror})"
            raise LazsimError(f"{what}; move what has that name, or choose another folder") from None
    _drop(older for number, older in _by_step(folder) if number < step or (number == step and older != whole))


def drop_unfinished(folder: Path) -> None:
    """Drop all but the last checkpoint: nobody finishes drafts when no job runs."""
    last = checkpoint_path(folder, last_step(folder))
    _drop(path for _, path in _by_step(folder) if path != last)


def _drop(checkpoints: Iterable[Path]) -> None:
    for path in checkpoints:
        if all(OWN.fullmatch(file.name) for file in path.glob("*")):
            # The list goes first, so that a half-removed checkpoint does not count.
            (path / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)


def _by_step(folder: Path) -> list[tuple[int, Path]]:
    """Return the steps and folders of checkpoints and drafts."""
    found = [(STEP.fullmatch(path.name), path) for path in folder.glob("step-*") if path.is_dir()]
    return [(int(name[1]), path) for name, path in found if name is not None]


def last_step(folder: Path) -> int:
    """Return the step of the last checkpoint, 0 where there is none."""
    whole = (step for step, path in _by_step(folder) if path == checkpoint_path(folder, step))
    return max((step for step in whole if (checkpoint_path(folder, step) / COMPLETE).exists()), default=0)


def refuse_other_jobs(spec: LiveSpec) -> None:
    """Raise a LazsimError where the last checkpoint in the folder belongs to another job, or cannot be read."""
    folder = Path(spec.checkpoint_folder)
    if step := last_step(folder):
        path = checkpoint_path(folder, step) / COMPLETE
        try:
            found = decode_json(read_bytes(path), dict[str, Any])
        except ValueError as error:
            raise LazsimError(f"{path}: is not the list of a checkpoint ({error}); remove its folder") from None
        if (found.get("job"), found.get("step")) != (job_hash(spec), step):
            raise LazsimError(
                f"{folder}: has a checkpoint of another job (model, text, batch, seed or optimizer differ) or step; "
                "choose another `checkpoints` folder, or empty it"
            )


def load_blocks(spec: LiveSpec, step: int, keys: Iterable[Key]) -> dict[Key, Tensor]:
    """Read blocks of a checkpoint; raise a LazsimError where a file is missing or has not the values of its block."""
    values = {}
    for key in keys:
        path, shape = checkpoint_path(Path(spec.checkpoint_folder), step) / _name(key), (3, block_size(spec, key))
        try:
            with path.open("rb") as stream:
                read = read_array(stream, path.stat().st_size)
            if (read.shape, read.dtype) != (shape, spec.dtype) or not np.isfinite(read).all():
                raise ValueError
        except (OSError, ValueError, TypeError) as error:
            why = getattr(error, "strerror", None) or f"no {spec.dtype} array of {shape} with finite values"
            raise LazsimError(f"{path}: {why}; the checkpoint is damaged, remove its folder") from None
        values[key] = torch.from_numpy(read)
    return values


def _name(key: Key) -> str:
    return "dense.npy" if key[0] < 0 else f"layer-{key[0]}-expert-{key[1]}.npy"
