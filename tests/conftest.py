import builtins
import contextlib
import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before numpy and torch come: two processes of tests share two cores, and threads of products that small only wait.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before Triton comes: without a GPU, its interpreter runs its kernels.
if not os.path.exists("/dev/nvidiactl"):
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
from hypothesis import settings

# Machines are shared and slow at times: no test depends on how long it takes. Nor does it on chance: each version of a
# test has the same examples in each run, and pytest --hypothesis-profile=others draws new ones.
settings.register_profile("others", deadline=None)
settings.register_profile("lazsim", deadline=None, derandomize=True)
settings.load_profile("lazsim")

ROOT = Path(__file__).parent.parent
P3_LIKE = ROOT / "traces" / "spot-p3-like.csv"
PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


plain_sum = sum


# The parameters are those of ``sum``, for PyTorch, which compiles calls of it.
def sum_of_no_floats(iterable, /, start=0):
    """Refuse to sum floats in lazsim: Python 3.12 compensates the rounding of ``sum``, and earlier ones do not.

    ``math.fsum``, which rounds the exact sum, gives the same digits in all of them.
    """
    items = list(iterable)
    if sys._getframe(1).f_globals["__name__"].startswith("lazsim"):
        assert not any(isinstance(item, float) for item in items), "use math.fsum"
    return plain_sum(items, start)


builtins.sum = sum_of_no_floats


def pytest_configure() -> None:
    # Fixtures end the processes of a test also when the tests themselves are ended from outside.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    # All that is collected stays: to look for garbage in it takes a third of the time.
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def start_process() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start processes that end with the test, however it ends: each is the leader of a session and killed with it.

    Signals reach them also where the tests themselves ignore these, as under nohup, or in the background of a script.
    """
    started = []

    def start(*command: object, **options: object) -> "subprocess.Popen[str]":
        started.append(start_session(*command, **options))
        return started[-1]

    yield start
    for process in started:
        end_session(process)


def _prepare_process() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if PRCTL is not None:
        # Fixtures end nothing when the tests are killed; the kernel then ends the leader, and its workers follow it.
        PRCTL(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def start_session(*command: object, **options: object) -> "subprocess.Popen[str]":
    """Start a process as the leader of a session; `end_session` ends it."""
    return subprocess.Popen(
        list(map(str, command)), text=True, start_new_session=True, preexec_fn=_prepare_process, **options
    )


def end_session(process: "subprocess.Popen[str]") -> None:
    """Kill a process and all that it has started in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


@pytest.fixture
def run_process(start_process) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a process to its end; one that hangs is killed with all that it has started."""

    def run(*command: object, check: bool = True, timeout_s: float = 300, **options: object):
        process = start_process(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        out, err = process.communicate(timeout=timeout_s)
        assert process.returncode == 0 or not check, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture
def run_script(run_process) -> Callable[[str], str]:
    """Run Python code in a process of its own; returns what it prints."""
    return lambda script, *arguments: run_process(sys.executable, "-c", script, *arguments).stdout.strip()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real traces, routing and measurements; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("LAZSIM_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the reference data in {folder}; set LAZSIM_SHARED to where it lies")
    return folder


@pytest.fixture(scope="module")
def pool():
    """The worker processes of live jobs, whose start takes seconds."""
    from lazsim.live.worker_pool import WorkerPool

    with WorkerPool() as pool:
        yield pool


@pytest.fixture
def write(tmp_path):
    """Write a file into the folder of the test; returns its path."""

    def write_file(content: str | bytes, name: str = "table") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install the modules of the test's folder as a package that offers entries; a plain folder on the path will do."""

    def install_package(package: str, version: str, entries: str) -> None:
        module = package.replace("-", "_")
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"{entries}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install_package


@pytest.fixture
def lazsim(monkeypatch, capsys):
    """Call the command line in this process: returns exit code, stdout and stderr."""
    from lazsim.cli import main

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


@pytest.fixture
def refused(lazsim):
    """Call the command line with bad input: returns its one line, without the name of the program."""

    def call(*arguments: object) -> str:
        code, out, err = lazsim(*arguments)
        assert (code, out, err.count("\n"), err[:8]) == (2, "", 1, "lazsim: "), err
        return err.removeprefix("lazsim: ").removesuffix("\n")

    return call


def refusal(call: Callable[[], object], kind: type[Exception] = Exception) -> str:
    """Return the one line with which a call is refused; by default the error is any of lazsim's."""
    from lazsim.errors import LazsimError

    with pytest.raises(LazsimError if kind is Exception else kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def answered(lazsim):
    """Call the command line with ``--json``: returns the answer of a command that does what it is asked for."""

    def call(*arguments: object) -> Any:
        code, out, err = lazsim(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, in place of their files."""
    drawn = []
    files = {"png": b"", "pdf": b""}
    monkeypatch.setattr("lazsim.output.plots.style.to_files", lambda figure, **_: drawn.append(figure) or files)
    return drawn
