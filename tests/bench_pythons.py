"""Hold the output of commands in this Python against that of others: ``python -m tests.bench_pythons PYTHON ...``.

Each of them needs the libraries of `constraints.txt`. The hashes of texts, and so the order of sets, differ from one to
the other.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT

JOB = "--model gpt-s --cluster a10gx16"
RUN = f"run --trace spot-a100-like --duration 6h {JOB} --max-nodes 16 --cap clip"
RECOVERY = "recovery --nodes 10 --slots 6 --experts 8 --loads zipf:0.5 --min-replicas 2"
STEP = "step --model qwen3-30b-a3b --cluster dgx-h100 --gpus 16"
COMMANDS = (
    f"{RUN} --system all --seed 3 --json",
    f"{RUN} --system lazarus --placement mro --placement compact --json",
    f"run --trace fail-every-5min {JOB} --system gemini --system moc --price 12 --interval auto --out OUT",
    f"{RECOVERY} --json",
    f"{RECOVERY} --method montecarlo --json",
    f"{STEP} --json",
    f"{STEP} --search --json",
    "step --model deepseek-v3 --cluster gb200-nvl72 --gpus 256 --layout expert=64 --layout pipeline=4 --json",
    "place --nodes 10 --slots 6 --experts 8 --loads zipf:0.5 --policy mro --policy eplb --policy euclid --json",
    "verify --json",
    "trace info spot-p3-like --json",
    "trace fit spot-p3-like --json",
    f"advise --trace fail-every-5min --duration 2h {JOB} --json",
    f"sensitivity --trace fail-every-5min --duration 1h {JOB} --json",
    "sweep SWEEP --out OUT --json",
    *(f"experiment run {name} --small --out OUT" for name in ("node-failures", "load-ratio", "spot", "arena")),
)
"""Of every kind that gives numbers."""

SWEEP = """[base]
trace = "spot-a100-like"
duration = "6h"
model = "gpt-s"
cluster = "a10gx16"
seed = "0-3"
[grid]
system = ["lazarus", "ds-ft", "moc"]
"""


def digest(python: str, command: str, seed: int) -> tuple[str, str]:
    """Return the hash of what a command prints and of the tables that it writes, and its error."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sweep.toml").write_text(SWEEP)
        words = [{"SWEEP": "sweep.toml", "OUT": "out"}.get(word, word) for word in command.split()]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(seed), "COLUMNS": "200"}
        made = subprocess.run([python, "-m", "lazsim", *words], cwd=folder, env=environment, capture_output=True)
        found = hashlib.sha256(made.stdout)
        for path in sorted(Path(folder).rglob("out/**/*")):
            if path.suffix in (".csv", ".json"):
                found.update(path.read_bytes())
        return found.hexdigest()[:12], made.stderr.decode() if made.returncode else ""


def main(others: list[str], only: str) -> int:
    """Compare all commands, and return the number of those that differ or fail."""
    num_wrong = 0
    for command in (command for command in COMMANDS if only in command):
        found = [digest(python, command, seed) for seed, python in enumerate((sys.executable, *others), 1)]
        errors = [error.strip().rpartition("\n")[2] for _, error in found if error]
        same = len({hashed for hashed, _ in found}) == 1 and not errors
        num_wrong += not same
        print("same     " if same else "DIFFERENT", *(hashed for hashed, _ in found), command, *errors, flush=True)
    return num_wrong


if __name__ == "__main__":
    named = [one for one in sys.argv[1:] if "/" in one]
    sys.exit(main(named, " ".join(one for one in sys.argv[1:] if "/" not in one)))
