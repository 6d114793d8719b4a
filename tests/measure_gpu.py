"""Do all that needs a GPU, in slices, and go on where the last slice ended: ``python -m tests.measure_gpu``.

It runs from the checkout and installs nothing. What the interpreter lacks comes from the wheels in ``wheels/``, which
``make wheels`` fetches on a machine with a network.
"""

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import io
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazsim.files.writing import write_all

ROOT = Path(__file__).parent.parent
WHEELS = ROOT / "wheels"
MODULES = (
    "click", "hypothesis", "msgspec", "numpy", "pandas", "pytest", "rich", "scipy", "simpy", "threadpoolctl", "torch",
)  # fmt: skip
"""Modules without which lazsim measures nothing, or its tests do not run."""

QUERY = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem,clocks.sm,clocks.mem,temperature.gpu"
TAIL_CHARACTERS = 6000
LAST_S = 10.0
"""Time kept at the end of a slice to pack the results."""

PR_SET_PDEATHSIG = 1
"""Of Linux's ``prctl``: the signal that a process gets when its parent ends."""

FIND_S = 120.0
"""Longest time in which torch finds the devices: a driver that hangs answers never. *Assumption*."""

START_S = 20.0
"""Time in which a command passes its budget while it starts, checks and writes."""

EXTRA_S = 4.0
"""Time that a command takes beyond its seconds: of a profile 2 to 10 s on two cores, 4 s at the median."""

TOO_SHORT = re.compile(r"too short; give (\d+)s")
"""What a command says that asks for more time, which it gets once."""

REHEARSAL = (
    "a rehearsal on a CPU: kernels are timed by the processor time of one thread; exchanges and validation take wall "
    "time, and are as far off as other programs disturb them; none of it is a time of a GPU"
)
"""What the figures of a CPU do not hold for."""

SLICE_SHARE = 0.9
"""Share of a whole slice that does for a task that takes longer than one."""

FIRST_MODELS = ("gpt-l", "deepseek-v3", "gpt-m", "gpt-s", "qwen3-30b-a3b", "mixtral-8x7b", "deepseek-v2-lite")
"""Models that the published evaluation and the guides run come first; then all others."""


@dataclass(frozen=True)
class Task:
    """A command, the seconds that it gets where all tasks get theirs, and whether it goes on when run again.

    It comes after the task that it `needs`, also where that has failed: a profile keeps the points that it has.

    In a command, ``BUDGET`` stands for the seconds that are given, and ``PROFILES`` for the folder of profiles.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    goes_on: bool = False
    needs: str = ""


def tasks(device: str, models: list[str], num_gpus: int) -> list[Task]:
    """Return everything that needs a GPU, in order of value."""

    # One thread is timed by its own processor time: whatever else a rehearsal runs beside takes none of it.
    on = ("--device", device) if device == "cuda" else ("--device", device, "--threads", "1")

    def lazsim(*words: str) -> tuple[str, ...]:
        return ("-m", "lazsim", *words)

    def profile(model: str, seconds: float, *more: str, suffix: str = "") -> Task:
        out = f"PROFILES/{model}{suffix}.csv"
        # Exchanges are those of any model, and to start their processes takes longer than most models get.
        more = more or (() if num_gpus == 1 or model == FIRST_MODELS[0] else ("--ranks", "1"))
        measured = ("profile", *on, "--model", model, "--budget", "BUDGET", "--out", out, *more)
        return Task(f"profile {model}{suffix}", lazsim(*measured), seconds, goes_on=True)

    def check(model: str) -> Task:
        command = lazsim("profile", "check", f"PROFILES/{model}.csv", "--json")
        return Task(f"check {model}", command, 4, needs=f"profile {model}")

    fewer = () if device == "cuda" else ("--tokens", "64")
    how = (*on, "--budget", "BUDGET", "--json", *fewer)
    found = [Task("tests", ("-m", "pytest", "-rs", "-p", "no:cacheprovider", "tests/test_gpu.py"), 120)]
    first = [model for model in FIRST_MODELS if model in models]
    found += [profile(model, 90) for model in first[:2]] + [check(model) for model in first[:2]]

    def virtual(kind: str, model: str, *more: str) -> Task:
        # A CPU does not measure all the tokens of a large model, and predicts from tables measured on the way.
        tables = ("--profile", f"PROFILES/{model}.csv") if device == "cuda" or model == "gpt-l" else ()
        # Fewer tokens do not make up for a CPU: most of the time is weights.
        most_s = 60 if device == "cuda" else 180
        needs = f"profile {model}" if tables else ""
        return Task(f"{kind} {model}", lazsim("profile", kind, *more, *tables, *how), most_s, needs=needs)

    # On a CPU, 256 ranks of large experts take a quarter of an hour; fewer of a smaller model ask for the same work.
    many, cluster = ("deepseek-v3", "h200x32") if device == "cuda" else ("deepseek-v2-lite", "h200x4")
    layer = ("--model", many, "--cluster", cluster, "--layers", "1")
    # What one slice is to tell, before further models: a single one has no time left for validation.
    found += [virtual("ranks", "gpt-l"), virtual("skew", "gpt-l"), virtual("ranks", many, *layer)]
    validate = ("validate", "--device", device, "--nodes", "4", "--tolerance", "1000", "--json")
    found.append(Task("validate", lazsim(*validate), 240))
    found += [profile(model, 35) for model in first[2:]] + [check(model) for model in first[2:]]
    if num_gpus > 1:
        more = ("--ranks", str(num_gpus), "--backend", "nccl", "--kernel", "all_to_all")
        found.insert(1, profile("gpt-l", 60, *more, suffix="-nccl"))
    rest = [model for model in models if model not in first]
    return found + [task for model in rest for task in (profile(model, 20), check(model))]


def scale_to(total_s: float, found: list[Task]) -> float:
    """Return the factor of all seconds with which the tasks take a total: as many as the catalogue has models."""
    return total_s / math.fsum(task.seconds + EXTRA_S for task in found)


class Session:
    """The state of the measurements in a folder: ``report.json``, ``summary.txt``, ``profiles.zip`` and ``log.txt``."""

    def __init__(self, folder: Path, environment: dict[str, str], device: str, scale: float) -> None:
        self.folder, self.environment, self.scale = folder, environment, scale
        self.code = hash_code()
        self.profiles = folder / "profiles"
        self.report: dict[str, Any] = {"device": device, "conditions": [], "tasks": {}}
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "report.json").exists():
            self.report = json.loads((folder / "report.json").read_text("utf-8"))
            if self.report["device"] != device:
                sys.exit(f"{folder}: holds measurements of {self.report['device']}; give another --state")
        if not self.profiles.exists() and (folder / "profiles.zip").exists():
            # What came back from a machine that is gone; the folder has its name once all of it is there.
            part = folder / "profiles.part"
            shutil.rmtree(part, ignore_errors=True)
            with zipfile.ZipFile(folder / "profiles.zip") as packed:
                packed.extractall(part)
            part.rename(self.profiles)
        self.profiles.mkdir(exist_ok=True)

    def is_done(self, name: str) -> bool:
        """Say whether a task has ended: well, or badly with the code as it is now."""
        noted = self.report["tasks"].get(name, {})
        return noted.get("status") == "done" or (noted.get("status") == "failed" and noted.get("code") == self.code)

    def wanted_s(self, task: Task) -> float:
        """Return the seconds that a task gets in all."""
        asked_s: float = self.report["tasks"].get(task.name, {}).get("asked_s", 0.0)
        return max(15.0 * ("BUDGET" in task.command), task.seconds * self.scale, asked_s)

    def run(self, task: Task, left_s: float) -> None:
        """Run a task, for as long as it has or the slice lasts, and note what it printed."""
        before = self.report["tasks"].get(task.name, {})
        noted = {"seconds": 0.0, "measured_s": 0.0, "kills": 0, "asked_s": 0.0}
        noted |= before if before.get("status") == "cut" else {}
        wanted_s = self.wanted_s(task)
        limit_s = min(left_s, 2 * wanted_s + 60)
        open_s = wanted_s - noted["measured_s"]
        budget_s = max(5.0, min(open_s, limit_s - START_S))
        words = {"BUDGET": f"{budget_s:.0f}s", "PROFILES": str(self.profiles)}
        command = [sys.executable, *task.command]
        for name, value in words.items():
            command = [word.replace(name, value) for word in command]
        print(f"{task.name}: up to {limit_s:.0f} s", flush=True)
        begun_s = time.monotonic()
        clocks = clocks_now()
        status, out, err = run_command(command, self.environment, limit_s)
        seconds = time.monotonic() - begun_s
        was_cut = status is None and not noted["kills"]
        is_part = status == 0 and task.goes_on and budget_s < open_s
        asks = None if noted["asked_s"] else TOO_SHORT.search(err)
        noted["asked_s"] = float(asks[1]) if asks else noted["asked_s"]
        noted["measured_s"] += budget_s * is_part
        noted["seconds"] += seconds
        noted["kills"] += status is None
        noted["status"] = "cut" if was_cut or is_part or asks else "done" if status == 0 else "failed"
        noted["code"] = self.code
        noted["command"] = " ".join(["python", *command[1:]])
        noted["exit_status"], noted["clocks"] = status, [clocks, clocks_now()]
        noted["said"] = (out if not is_json(out) else "")[-TAIL_CHARACTERS:] + err[-TAIL_CHARACTERS:]
        if is_json(out):
            noted["result"] = json.loads(out)
        # Only now: a task that a signal ends is as it was before.
        self.report["tasks"][task.name] = noted
        why = (err.split("\n") if noted["status"] == "failed" else [])[-2:-1]
        print(": ".join([task.name, f"{noted['status']} after {seconds:.0f} s", *why]), flush=True)
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"\n== {task.name} ({noted['status']}, {seconds:.0f} s): {noted['command']}\n{out}\n{err}\n")

    def save(self, out: Path | None) -> None:
        """Write the report and pack the profiles; copy all to a folder from which they are fetched.

        A machine may be taken away at any moment: files are replaced whole.
        """
        zipped = io.BytesIO()
        with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in sorted(self.profiles.glob("[!.]*.*")):
                packed.write(path, path.name)
        files = {
            "report.json": json.dumps(self.report, indent=1).encode() + b"\n",
            "summary.txt": "".join(f"{line}\n" for line in summarise(self.report)).encode(),
            "profiles.zip": zipped.getvalue(),
        }
        write_all({self.folder / name: content for name, content in files.items()})
        if out is not None and out.resolve() != self.folder.resolve():
            log = self.folder / "log.txt"
            files |= {log.name: log.read_bytes()} if log.exists() else {}
            write_all({out / name: content for name, content in files.items()})


def summarise(report: dict[str, Any]) -> Iterator[str]:
    """Yield the figures that a session is for, what has failed and why, and what time has cut."""
    for one in report["conditions"]:
        versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        gpus = "; ".join(one["nvidia_smi"] or one["gpus"]) or "no GPU"
        yield f"{one['at']}: {gpus}; {one['machine']}; {versions}"
    if report.get("device") == "cpu":
        yield REHEARSAL
    for name, noted in report["tasks"].items():
        if noted["exit_status"] == 0:
            found = "; ".join([*points(noted["said"]), ", ".join(figures(noted.get("result", {})))]).strip("; ")
            goes_on = " so far" * (noted["status"] == "cut")
            yield f"{name}{goes_on}: {found or last_line(noted['said']) or 'done'}"
        else:
            ending = "no time was left" if noted["exit_status"] is None else f"exit status {noted['exit_status']}"
            yield f"{name}: {noted['status'].upper()}, {ending}: {last_line(noted['said'])}"


def last_line(said: str) -> str:
    """Return the last line of what a command said."""
    return (said.strip().split("\n") or [""])[-1]


def points(said: str) -> Iterator[str]:
    """Yield what ``profile`` has measured, the kernels of which it lacked time or memory for sizes, and all others."""
    # Commands wrap what they say for a terminal.
    for found in re.findall(r"has (\d+\s+points\s+of\s+\d+\s+kernels)", said):
        yield " ".join(found.split())
        skipped = re.findall(r"^note: skipped: ([^:]+): (.*)", said, re.MULTILINE)
        for words, what in (
            (r"\d: budget\b", "too little time for all sizes of"),
            (r"\d: memory\b", "too little memory for all sizes of"),
            # A reason for the kernel itself has no sizes.
            (r"^(?!\d[\d, ]*: )", "none of"),
        ):
            if kernels := [name for name, why in skipped if re.search(words, why)]:
                yield f"{what} {', '.join(kernels)}"


def figures(result: dict[str, Any]) -> Iterator[str]:
    """Yield the figures of a result of ``profile check``, ``profile ranks``, ``profile skew`` or ``validate``."""
    if "median_error" in result:
        yield f"interpolation error {result['median_error']:.1%} (wanted: 5 %)"
        wanted = {"grouped": "85 %", "permute": "80 %"}
        for one in result["reached"]:
            at = f"{one['kernel']} {one['share']:.0%} of {one['of']} at {one['size']:g}"
            yield f"{at} (wanted: {wanted[one['kernel']]})"
    for layer in result.get("layers", ()):
        slowest = f"slowest rank {layer['error']:+.1%}, worst {layer['worst_rank_error']:+.1%}"
        yield f"layer {layer['layer']} predicted over measured: {slowest}"
    for row in result.get("rows", ()):
        even, allocated = (row[f"{kind}_predicted_s"] / row[f"{kind}_measured_s"] - 1 for kind in ("even", "allocated"))
        won = "" if row["won_back"] is None else f", {row['won_back']:.0%} won back"
        yield f"skew {row['skew']:g} predicted over measured: even {even:+.1%}, allocated {allocated:+.1%}{won}"
    for one in result.get("components", ()):
        if one["judged"]:
            error = one["relative_error"]
            yield f"{one['name']} {one['measured']:.4g}" + ("" if error is None else f" {error:+.1%}")


def hash_code() -> str:
    """Hash what the commands run."""
    files = sorted(path for folder in ("lazsim", "tests") for path in (ROOT / folder).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def is_json(text: str) -> bool:
    """Say whether a command printed one JSON object."""
    with contextlib.suppress(ValueError):
        return isinstance(json.loads(text), dict)
    return False


def run_command(command: list[str], environment: dict[str, str], limit_s: float) -> tuple[int | None, str, str]:
    """Run a command at most so long; its processes end with it, and it with this one. Time ends it: no status."""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, preexec_fn=end_with_parent,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=limit_s)
            return process.returncode, out, err
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            return None, out, err
        except BaseException:
            # It may just have ended by itself.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise


def end_with_parent() -> None:
    """Let this process end with its parent, also where that is killed: else it would disturb the next slice."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def find_environment(folder: Path) -> dict[str, str]:
    """Return the environment of commands: the checkout, and the wheels of modules that are missing here."""
    unpacked = folder / "packages"
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}; taken from {WHEELS.name}/", flush=True)
        for wheel in sorted(WHEELS.glob("*.whl")):
            if importlib.util.find_spec(wheel.name.split("-")[0].lower()) is None:
                with zipfile.ZipFile(wheel) as packed:
                    packed.extractall(unpacked)
    path = os.pathsep.join(filter(None, (str(ROOT), str(unpacked), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    # A wheel of another Python is found, and cannot be imported.
    find = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    found = subprocess.run([sys.executable, "-c", find, *missing], env=environment, capture_output=True, text=True)
    if found.returncode:
        version = ".".join(platform.python_version_tuple()[:2])
        fetch = f"run make wheels GPU_PYTHON={version} where there is a network"
        sys.exit(f"{last_line(found.stderr)} (not installed, and none that works in {WHEELS}); {fetch}")
    return environment


def clocks_now() -> list[str]:
    """Return a line of nvidia-smi for each GPU: name, driver, memory, limits, clocks, temperature."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
    return []


CONDITIONS = """
import importlib, importlib.util, json, torch, torch.distributed
installed = [name for name in ("torch", "numpy", "triton") if importlib.util.find_spec(name)]
versions = {name: getattr(importlib.import_module(name), "__version__", "") for name in installed}
gpus = [str(torch.cuda.get_device_properties(one)) for one in range(torch.cuda.device_count())]
has_nccl = gpus and torch.distributed.is_nccl_available()
nccl = ".".join(map(str, torch.cuda.nccl.version())) if has_nccl else ""
print(json.dumps({"versions": versions, "gpus": gpus, "cuda": torch.version.cuda, "nccl": nccl}))
"""


def conditions(environment: dict[str, str]) -> dict[str, Any]:
    """Return what the times depend on: devices, driver, clocks and versions."""
    status, out, err = run_command([sys.executable, "-c", CONDITIONS], environment, FIND_S)
    if status != 0:
        ending = f"no answer in {FIND_S:.0f} s" if status is None else f"exit status {status}"
        sys.exit(f"torch does not work here: {last_line(err) or ending}")
    found: dict[str, Any] = json.loads(out)
    machine = {"python": platform.python_version(), "machine": platform.platform(), "cores": os.cpu_count()}
    return {**found, **machine, "nvidia_smi": clocks_now(), "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def seconds(text: str) -> float:
    """Read a time such as ``9min`` or ``540s``."""
    for unit, factor in (("min", 60.0), ("h", 3600.0), ("s", 1.0)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)


def pending(session: Session, found: list[Task], end_s: float, slice_s: float) -> Iterator[tuple[Task, float]]:
    """Yield the tasks that are open and fit into what is left of a slice, with the time left.

    One that takes longer than a slice comes where nearly all of the slice is left.
    """
    for task in found:
        left_s = end_s - time.monotonic()
        needed_s = min(session.wanted_s(task) + START_S, SLICE_SHARE * slice_s)
        can_begin = not task.needs or session.is_done(task.needs)
        if can_begin and not session.is_done(task.name) and left_s > needed_s:
            yield task, left_s


def hold(folder: Path) -> None:
    """Keep other slices out of a folder until this process ends: two at once would disturb each other's times."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"{folder}: another slice is at work there; wait for its end, or give another --state")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.measure_gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a rehearsal")
    parser.add_argument("--budget", type=seconds, default=540.0, help="length of this slice, as 9min")
    parser.add_argument("--total", type=seconds, default=1500.0, help="of all slices together, as 25min")
    parser.add_argument(
        "--state", type=Path, default=ROOT / "runs" / "gpu", help="folder that a later slice goes on from"
    )
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"), help="folder of copies; default: $OUT")
    options = parser.parse_args()
    end_s = time.monotonic() + options.budget - LAST_S
    hold(options.state)
    environment = find_environment(options.state)
    found_here = conditions(environment)
    if options.device == "cuda" and not found_here["gpus"]:
        sys.exit("torch finds no GPU here; --device cpu rehearses everything on the CPU")
    models = sorted(path.stem for path in (ROOT / "lazsim" / "catalog" / "models").glob("*.toml"))
    found = tasks(options.device, models, len(found_here["gpus"]))
    session = Session(options.state, environment, options.device, scale_to(options.total, found))
    session.report["conditions"].append(found_here)
    has_run = False
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup it goes on when the terminal is closed.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        for task, left_s in pending(session, found, end_s, end_s - time.monotonic()):
            session.run(task, left_s)
            session.save(options.out)
            has_run = True
    finally:
        # Ended by a signal, too: the task that ran has kept some points.
        session.save(options.out)
    left = [task.name for task in found if not session.is_done(task.name)]
    failed = [name for name, noted in session.report["tasks"].items() if noted["status"] == "failed"]
    print(f"{len(found) - len(left)} of {len(found)} tasks have ended; failed: {', '.join(failed) or 'none'}")
    ending = "to go on, run it again" if has_run else "none of the rest fits into this slice; give a longer budget"
    print(f"results are in {options.state}" + (f"; {ending} ({len(left)} left)" if left else ""))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
