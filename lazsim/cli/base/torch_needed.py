"""What commands that need torch do before they import it."""

import importlib.util
import os

import click

from lazsim.errors import LazsimError

COMPILED_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""Environment variable of the folder in which torch keeps what it compiles."""


def require_torch(doing: str) -> None:
    """Refuse to go on without torch, and say how to install it."""
    if importlib.util.find_spec("torch") is None:
        raise LazsimError(f"{doing} torch, which is not installed: pip install 'lazsim[live]'")
    if COMPILED_VARIABLE not in os.environ:
        from lazsim.files.writing import scratch_folder

        # Torch makes a folder for what it compiles, which is nothing here, and leaves it.
        context = click.get_current_context()
        os.environ[COMPILED_VARIABLE] = str(context.with_resource(scratch_folder()))
        context.call_on_close(lambda: os.environ.pop(COMPILED_VARIABLE, None))
