"""The training text as bytes, and the sequences of each step."""

import ast
import functools
import sysconfig
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lazsim.files.reading import read_bytes

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
    """Read a file, or where `path` is empty the documentation strings of `DOCUMENTED`."""
    if path:
        return read_bytes(path)
    folder = Path(sysconfig.get_path("stdlib"))
    modules = [folder / f"{name}.py" for name in DOCUMENTED]
    packages = [folder / name / "__init__.py" for name in DOCUMENTED]
    trees = (ast.parse(source.read_bytes()) for source in modules + packages if source.exists())
    nodes = (node for tree in trees for node in ast.walk(tree))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = (ast.get_docstring(node) for node in nodes if isinstance(node, documented))
    return "\n\n".join(doc for doc in docs if doc).encode()


def sequences(text: bytes, step: int, global_batch: int, length: int, seed: int) -> npt.NDArray[np.uint8]:
    """Draw a step's sequences, each with the byte after it: shape (global_batch, length + 1), the same on every node.

    Examples
    --------
    >>> sequences(b"0123456789", step=3, global_batch=2, length=3, seed=0).tobytes()
    b'34566789'
    """
    rng = np.random.default_rng([seed, step])
    starts = rng.integers(0, len(text) - length, size=global_batch)
    drawn: npt.NDArray[np.uint8] = np.frombuffer(text, dtype=np.uint8)[starts[:, None] + np.arange(length + 1)]
    return drawn
