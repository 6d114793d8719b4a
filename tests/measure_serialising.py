"""Measure how fast one process serialises a checkpoint: ``python -m tests.measure_serialising``.

Processor time counts, so that a busy machine does no harm. The files go to the memory of the machine.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lazsim.live.checkpoint import save_blocks

EXPERT_PARAMS = 2 * 1024 * 4096
"""Of an expert of gpt-l."""

NUM_EXPERTS = 3


def processor_s(call: Callable[[], object]) -> float:
    """Return the least processor time of three calls."""
    times_s = []
    for _ in range(3):
        begun_s = time.process_time()
        call()
        times_s.append(time.process_time() - begun_s)
    return min(times_s)


def main() -> None:
    """Print GB/s of torch.save with few and with many tensors, of torch.load, and of a live job's own checkpoints."""
    torch.set_num_threads(1)
    num_params = NUM_EXPERTS * EXPERT_PARAMS
    parts = {"weight": torch.float16, "master": torch.float32, "mean": torch.float32, "square": torch.float32}
    states = {name: torch.ones(num_params, dtype=dtype) for name, dtype in parts.items()}
    many = {name: list(state.clone().split(1 << 16)) for name, state in states.items()}
    many = {name: [part.clone() for part in split] for name, split in many.items()}
    num_many = sum(map(len, many.values()))
    num_bytes = sum(state.nbytes for state in states.values())
    blocks = {(0, index): torch.ones(3 * EXPERT_PARAMS) for index in range(NUM_EXPERTS)}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        timed = {
            "torch.save, 4 tensors": (lambda: torch.save(states, folder / "few"), num_bytes),
            f"torch.save, {num_many} tensors": (lambda: torch.save(many, folder / "many"), num_bytes),
            "torch.load": (lambda: torch.load(folder / "few", mmap=False), num_bytes),
            "live": (lambda: save_blocks(folder, 1, "aa", blocks), sum(block.nbytes for block in blocks.values())),
        }  # fmt: skip
        for what, (call, size) in timed.items():
            print(f"{what}: {size / processor_s(call) / 1e9:.2f} GB/s")


if __name__ == "__main__":
    main()
