"""The command line as a program: ``python -m lazsim``, and the script ``lazsim``."""

import os
import signal

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) != signal.SIG_IGN:
        # Before the command line takes over, and after it, an end at once loses nothing; a traceback would be noise.
        signal.signal(number, lambda number, _: os._exit(128 + number))

from lazsim.cli import main  # noqa: E402 - not before

if __name__ == "__main__":
    main()
