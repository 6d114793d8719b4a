"""The command line: one file per command, loaded only when it is called."""

import os
import sys
from typing import NoReturn


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 a bug, 2 bad input or usage, 130 interrupted."""
    # Threads of the linear algebra would only wait for each other over matrices as small as these.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        # Not before: an interrupt while click is loaded is one line, too.
        from lazsim.cli.group import run_command

        sys.exit(run_command(arguments))
    except KeyboardInterrupt:
        sys.stderr.write("lazsim: interrupted\n")
        sys.exit(130)
