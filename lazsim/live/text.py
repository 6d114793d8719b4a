"""The training text as bytes, and the sequences of each step."""

import ast
import functools
import hashlib
import sysconfig
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lazsim.errors import LazsimError
from lazsim.files import read_bytes

DOCUMENTED = (  # noqa: SIM905
    "argparse ast bisect calendar cmd codecs configparser contextlib copy csv datetime dataclasses decimal difflib dis "
    "doctest enum fileinput fractions ftplib functools getopt gettext glob gzip heapq hmac imaplib inspect ipaddress "
    "locale lzma mailbox mimetypes netrc numbers operator optparse pathlib pdb pickle pickletools platform plistlib "
    "poplib pprint profile pydoc queue random re sched secrets selectors shelve shlex shutil smtplib socket "
    "socketserver statistics string subprocess symtable tarfile tempfile textwrap threading timeit tokenize trace "
    "traceback turtle types typing uuid warnings wave weakref zipapp"
).split()
"""Modules of the standard library; their documentation is the default text."""


@functools.cache
def load_text(path: str) -> bytes:
    """Read a file, or where `path` is empty the documentation strings of `DOCUMENTED`.

    Raises
    ------
    LazsimError
        When the file cannot be read.
    """
    if path:
        return read_bytes(path)
    folder = Path(sysconfig.get_path("stdlib"))
    sources = (folder / f"{name}.py" for name in DOCUMENTED)
    packages = (folder / name / "__init__.py" for name in DOCUMENTED)
    return "\n\n".join(
        doc for source in (*sources, *packages) if source.exists() for doc in _documentation(source)
    ).encode()


def _documentation(source: Path) -> list[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source.read_bytes())) if isinstance(node, documented)]
    return [doc for node in nodes if (doc := ast.get_docstring(node))]


def text_hash(text: bytes) -> str:
    """Return the hash that tells workers whether they have the same text."""
    return hashlib.sha256(text).hexdigest()


def check_length(text: bytes, sequence_length: int, name: str) -> None:
    """Refuse a text that is shorter than a sequence and the byte after it."""
    if len(text) < sequence_length + 2:
        raise LazsimError(
            f"{name}: {len(text)} bytes are too few for sequences of {sequence_length}; give a longer text"
        )


def sequences(text: bytes, step: int, global_batch: int, length: int, seed: int) -> npt.NDArray[np.uint8]:
    """Draw the sequences of a step, the same on every node.

    Returns
    -------
    ndarray of uint8, shape (global_batch, length + 1)
        Each with the byte that follows it.

    Examples
    --------
    >>> sequences(b"0123456789", step=3, global_batch=2, length=3, seed=0).tobytes()
    b'34566789'
    """
    rng = np.random.default_rng([seed, step])
    starts = rng.integers(0, len(text) - length, size=global_batch)
    drawn: npt.NDArray[np.uint8] = np.frombuffer(text, dtype=np.uint8)[starts[:, None] + np.arange(length + 1)]
    return drawn


def own_part(global_batch: int, rank: int, num_ranks: int) -> slice:
    """Return the slice of a step's sequences that belongs to a rank.

    Examples
    --------
    >>> [own_part(8, rank, 3) for rank in range(3)]
    [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
    """
    return slice(global_batch * rank // num_ranks, global_batch * (rank + 1) // num_ranks)
