import os
from pathlib import Path

import pytest
from hypothesis import settings

# Machines are shared and slow at times: no test depends on how long it takes.
settings.register_profile("lazsim", deadline=None)
settings.load_profile("lazsim")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real traces, routing and measurements; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("LAZSIM_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the reference data in {folder}; set LAZSIM_SHARED to where it lies")
    return folder


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
