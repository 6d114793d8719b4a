"""Specifications by name, from ``lazsim/catalog/<kind>/``, or by the path of a TOML file of the same shape."""

import difflib
import hashlib
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TypeVar

import msgspec

from lazsim.errors import SpecError
from lazsim.files import read_bytes
from lazsim.limits import MAX_SPEC_BYTES
from lazsim.specs.hardware import ClusterSpec, GpuSpec
from lazsim.specs.job import JobSpec
from lazsim.specs.model import ModelSpec
from lazsim.specs.record import Spec
from lazsim.specs.step import StepConstants

SpecT = TypeVar("SpecT", bound=Spec)
DecodedT = TypeVar("DecodedT")

CATALOG_KINDS: Mapping[type[Spec], str] = {
    ModelSpec: "models",
    GpuSpec: "gpus",
    ClusterSpec: "clusters",
    JobSpec: "jobs",
    StepConstants: "steps",
}
"""Folder of the catalogue for each kind of specification."""


def unknown_name(what: str, name: str, known: list[str], or_else: str = "") -> str:
    """Return the message that a name is unknown, with the nearest known name where one is near.

    `or_else` is the kind of path that may be given in place of a name; a path of another kind is not called unknown.

    Examples
    --------
    >>> unknown_name("model", "gtp-l", ["gpt-s", "gpt-l"])
    "unknown model 'gtp-l': did you mean 'gpt-l'? known: gpt-s, gpt-l"
    >>> unknown_name("model", "/", ["gpt-s", "gpt-l"], "a path to a .toml file")
    '/: a folder, no model; give a path to a .toml file, or one of gpt-s, gpt-l'
    """
    names = ", ".join(known)
    if or_else and os.path.exists(name):
        return f"{name}: a {'folder' if Path(name).is_dir() else 'file'}, no {what}; give {or_else}, or one of {names}"
    near = difflib.get_close_matches(name, known, n=1) or [one for one in known if name and one.startswith(name)]
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {name!r}: {hint}known: {names}{f'; or {or_else}' if or_else else ''}"


def catalog_names(kind: str) -> list[str]:
    """List the names of a folder of the catalogue, sorted."""
    folder = resources.files("lazsim") / "catalog" / kind
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_toml(path: Path | str, text: bytes, spec_type: type[DecodedT]) -> DecodedT:
    """Decode a specification; a `SpecError` names a key that is missing, unknown or of a wrong type or value."""
    try:
        return msgspec.toml.decode(text, type=spec_type)
    except RecursionError:
        raise SpecError(f"{path}: nested too deeply; write tables that contain no more than numbers and text") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: {error}") from None
    except ValueError:
        # Python refuses to read whole numbers of more than 4,300 digits.
        raise SpecError(f"{path}: a number has thousands of digits; write a smaller one") from None


def load_spec(spec_type: type[SpecT], name: str) -> SpecT:
    """Read a specification from the catalogue, or from a path that ends in ``.toml``.

    Errors are those of `read_spec_bytes` and `read_toml`.

    Examples
    --------
    >>> load_spec(ModelSpec, "gpt-s").num_experts
    8
    """
    return read_toml(name, read_spec_bytes(CATALOG_KINDS[spec_type], name), spec_type)


def read_spec_bytes(kind: str, name: str) -> bytes:
    """Read the bytes of a catalogue entry, or of a path that ends in ``.toml``.

    Raises
    ------
    LazsimError
        When there is no such entry, or the file cannot be read.
    """
    if name.endswith(".toml"):
        return read_bytes(name, MAX_SPEC_BYTES)
    known = catalog_names(kind)
    if name not in known:
        raise SpecError(unknown_name(kind.removesuffix("s"), name, known, "a path to a .toml file"))
    return (resources.files("lazsim") / "catalog" / kind / f"{name}.toml").read_bytes()


def sha256(content: bytes) -> str:
    """Return the SHA-256 of an input, with which results identify it."""
    return hashlib.sha256(content).hexdigest()
