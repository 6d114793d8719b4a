"""Readers of recorded loads: each module here reads the format of its name."""

import os
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from lazsim.errors import SpecError
from lazsim.extensions import module_names
from lazsim.files.reading import read_bytes, unpack
from lazsim.limits import MAX_RECORDING_BYTES
from lazsim.routing.source import LoadReader, LoadSource, are_routes
from lazsim.routing.table import RecordedRouting, check_tokens
from lazsim.specs import sha256

READERS: dict[str, LoadReader] = {
    name: import_module(f"{__name__}.{name}").READER for name in module_names("routing/readers")
}
"""Reader by name of the format. To add a format, add a module with a `READER`; nothing else lists them."""


def read_routing(path: str, lenient: bool = False, layers_from: int = 0) -> RecordedRouting:
    """Read recorded loads in any of the formats of `READERS`.

    A `SpecError` says that the format is unknown, a line is bad, or there are no loads.

    Parameters
    ----------
    path
        A file, also when packed by gzip, bzip2, xz or zstd; or a folder whose files belong together, such as one for
        each rank; ``-`` is stdin.
    lenient
        Repair faults and count the repairs in the notes: drop lines and loads that are no numbers from 0 up and
        repeated rows, sort steps, and repeat the step before where a layer has no tokens.
    layers_from
        The first MoE layer, where a file numbers layers as the model does; those before it are dense, and left out.
    """
    reader, files = _find(path)
    source = LoadSource(path, SpecError, lenient, files=files)
    found = reader.read(source)
    if not found.are_named and are_routes(found.tokens_SLE):
        raise source.refuse(
            "",
            "its numbers have no name, and look like the experts of tokens (topk_ids), not loads of shape (steps, "
            "layers, experts); give routes as CSV with layer,topk_ids, or loads as an .npz with tokens",
        )
    first = next((at for at, number in enumerate(found.layers) if number >= layers_from), len(found.layers))
    if first == len(found.layers):
        raise SpecError(f"`layers_from` {layers_from}: {path} has layers up to {found.layers[-1]}")
    recorded = check_tokens(source, found.steps, found.tokens_SLE[:, first:], found.layers[first:])
    digest = sha256(b"".join(content for _, content in files))
    return replace(recorded, sha256=digest, notes=(*found.notes, *source.notes(), *recorded.notes))


def _find(path: str) -> tuple[LoadReader, tuple[tuple[str, bytes], ...]]:
    """Return the reader of a file or folder, and the names and contents of its files."""
    if os.path.isdir(path):
        # Editors and file systems leave hidden files, such as ._dump.json and .nfs0042.
        names = sorted(map(str, Path(path).glob("[!.]*")), key=_numbered)
        for reader in READERS.values():
            if files := tuple((name, _read(name)) for name in names if reader.belongs(name)):
                return reader, files
        patterns = ", ".join(reader.names for reader in READERS.values() if reader.names)
        raise SpecError(f"{path}: no file of loads in the folder ({patterns})")
    content = _read(path)
    if not content.strip():
        raise SpecError(f"{path}: the file is empty; give loads of at least one step")
    for reader in READERS.values():
        if reader.belongs(path) or reader.recognise(content):
            return reader, ((path, content),)
    raise SpecError(
        f"{path}: not a format of expert loads; give CSV with layer,expert,tokens, or one of lazsim list load-formats"
    )


def _numbered(name: str) -> tuple[list[tuple[str, int]], str]:
    """Return the key by which step_9 comes before step_10."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name, re.ASCII)], name


def _read(path: str) -> bytes:
    content = read_bytes(path, MAX_RECORDING_BYTES)
    # Arrays and tensors are zip archives themselves.
    is_array = content.startswith(b"PK") and not path.endswith(".zip")
    return content if is_array else unpack(path, content, MAX_RECORDING_BYTES)
