"""A worker process, one node of a live job: ``python -m lazsim.live.worker --controller HOST:PORT --name NAME``.

The secret of the run comes in the environment.
"""

import argparse
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import NoReturn

from lazsim.errors import LazsimError, printable
from lazsim.processes import ORDERS, told_by

LAST_PORT = 65535


def end_on_signals() -> None:
    """Let orders to end that it does not ignore end this process with one line, and exit code 130, 143 or 129.

    Nothing is cleared away: to the others, the end of a worker is a failure, whatever the reason.
    """

    def end(number: int, _frame: object) -> None:
        with suppress(OSError):
            os.write(2, told_by(number).encode())
        os._exit(128 + number)

    for number in ORDERS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


def run_worker(address: tuple[str, int], name: str, secret: bytes, host: str, local_rank: int) -> NoReturn:
    """Be a worker, and end this process."""
    import torch

    from lazsim.live.generation import Worker

    torch.set_num_threads(1)
    worker = Worker(address, name, secret, host, local_rank)
    try:
        reason = worker.run()
    except LazsimError as error:
        reason = str(error)
    if reason:
        print(printable(f"lazsim: {reason}"), file=sys.stderr, flush=True)
    # At once, while it is still held: its groups that are stuck wait for up to a minute when they are dropped.
    os._exit(1 if reason else 0)


def check_own_address(host: str) -> None:
    """Raise a LazsimError where a host is not of this machine: others would fail with this worker at every attempt."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        found = []
    # Of several addresses, gloo takes the first to which it can bind.
    for family, _, _, _, address in found:
        with suppress(OSError), socket.socket(family) as probe:
            probe.bind(address)
            return
    raise LazsimError(f"--host {host}: is no address or name of this machine; give one")


def main() -> None:
    """Parse the command line, run a worker and exit."""
    # Before imports that take seconds.
    end_on_signals()
    from lazsim.live.messages import MAX_TEXT_LENGTH, secret_from_environment
    from lazsim.pytorch.device import local_rank_from_environment

    parser = argparse.ArgumentParser(prog="python -m lazsim.live.worker", description="One node of a live job.")
    parser.add_argument("--controller", required=True, metavar="HOST:PORT")
    parser.add_argument("--name", default=f"{socket.gethostname()}-{os.getpid()}", help="unique in the job")
    parser.add_argument("--host", default="", help="address for other workers; default: the one the controller sees")
    parser.add_argument(
        "--local-rank",
        type=int,
        default=local_rank_from_environment(),
        help="number of this worker on its machine, which chooses its GPU; default: from torchrun or Slurm, or 0",
    )
    arguments = parser.parse_args()
    host, _, port = arguments.controller.rpartition(":")
    try:
        if not host or not port.isdecimal() or not 0 < int(port[:9]) <= LAST_PORT:
            raise LazsimError(f"--controller {arguments.controller!r}: give HOST:PORT")
        if not 0 < len(arguments.name) <= MAX_TEXT_LENGTH:
            raise LazsimError(f"--name has {len(arguments.name)} characters; give 1 to {MAX_TEXT_LENGTH}")
        secret = secret_from_environment()
        if arguments.host:
            check_own_address(arguments.host)
    except LazsimError as error:
        print(printable(f"lazsim: {error}"), file=sys.stderr)
        sys.exit(2)
    run_worker((host, int(port)), arguments.name, secret, arguments.host, arguments.local_rank)


if __name__ == "__main__":
    main()
