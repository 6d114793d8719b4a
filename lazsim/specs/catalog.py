"""Specifications by name, from ``lazsim/catalog/<kind>/``, or by the path of a TOML file of the same shape."""

import copy
import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from lazsim.errors import SpecError, prefix_errors, unknown_name
from lazsim.files.decoding import HUGE, convert
from lazsim.files.reading import CATALOG, decode_text, path_from, read_bytes
from lazsim.limits import MAX_CONFIG_BYTES, MAX_NODES, MAX_SPEC_BYTES
from lazsim.specs.hardware import ClusterSpec, GpuSpec
from lazsim.specs.huggingface import import_config
from lazsim.specs.job import JobSpec
from lazsim.specs.model import ModelSpec
from lazsim.specs.record import Spec, with_units
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

PATHS: Mapping[type[Any], str] = {ClusterSpec: "gpu", GpuSpec: "kernels"}
"""Field that may be the path of a file, by kind."""

SIZED_CLUSTERS: Mapping[str, str] = {
    "a100": "a100x16",
    "h100": "h100x16",
    "h200": "h200x64",
    "b200": "b200x16",
    "b300": "dgx-b300",
    "gb200": "gb200-nvl72",
    "gb300": "gb300-nvl72",
}
"""Cluster of the catalogue from which those of other sizes are made, by GPU; nodes of NVL72 are trays of four GPUs."""

OWN_FILE = "a path to a .toml file"
OTHER_NAMES: Mapping[str, str] = {
    "clusters": f"{', '.join(SIZED_CLUSTERS)} with up to {MAX_NODES:,} nodes, as h100x64; or {OWN_FILE}",
    "models": f"{OWN_FILE} or a config.json of Hugging Face (see lazsim list models)",
}
"""Names that are no entry of the catalogue, by kind."""

EXAMPLES: Mapping[type[Any], str] = {ClusterSpec: "clusters h200x128", GpuSpec: "gpus h200", ModelSpec: "models gpt-s"}
"""Arguments of ``lazsim list`` that print a whole file of a kind with many fields."""


@functools.cache
def catalog_names(kind: str, suffix: str = ".toml") -> tuple[str, ...]:
    """List the names of a folder of the catalogue, sorted."""
    return tuple(sorted(path.stem for path in (CATALOG / kind).glob(f"*{suffix}")))


GIVEN_TWICE = re.compile(r"Cannot (overwrite a value|(mutate immutable namespace|declare) \(.*?\)( twice)?)")
"""How the reader of TOML says so."""


def read_toml(path: Path | str, text: bytes, spec_type: type[DecodedT]) -> DecodedT:
    """Decode a specification; a `SpecError` names a key that is missing, unknown or of a wrong type or value."""
    try:
        plain = msgspec.toml.decode(decode_text(text))
        if not plain:
            raise SpecError(f"{path}: the file is empty; give at least one field")
        # A sweep has settings by dotted names, for which the specifications that they change know the units.
        if isinstance(plain, dict) and spec_type != dict[str, Any]:
            with prefix_errors(str(path)):
                plain = with_units(plain)
        return with_path(convert(plain, spec_type, path=path), functools.partial(path_from, Path(path).parent))
    except SpecError as error:
        is_config = spec_type is ModelSpec and "unknown field" in str(error)
        hint = "; lazsim model import makes one of a config.json of Hugging Face" if is_config else ""
        if spec_type in EXAMPLES and str(error).endswith("missing"):
            hint = f"; lazsim list {EXAMPLES[spec_type]} prints a whole one, to be changed"
        raise SpecError(f"{error}{hint}") from None
    except RecursionError:
        raise SpecError(f"{path}: nested too deeply; write tables that contain no more than numbers and text") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: no text in UTF-8; give a TOML file") from None
    except msgspec.DecodeError as error:
        told = GIVEN_TWICE.sub("a field is given twice", str(error))
        raise SpecError(f"{path}: not TOML: {told}; mend it there") from None
    except ValueError:
        # Python refuses to read whole numbers of more than 4,300 digits.
        raise SpecError(f"{path}: {HUGE}; write a smaller one") from None


def with_path(value: DecodedT, change: Callable[[str], str]) -> DecodedT:
    """Return a specification with the path that it has in `PATHS` changed by a function; all else as it is."""
    field, spec = PATHS.get(type(value)), cast(Any, value)
    return value if field is None else msgspec.structs.replace(spec, **{field: change(getattr(spec, field))})


def sized_cluster(name: str) -> bytes | None:
    """Return the TOML of a cluster by GPU and number of nodes, such as ``h100x64``; none for another name.

    It is the cluster of that GPU in the catalogue, with another number of nodes and the storage in proportion.
    """
    gpu, _, nodes = name.rpartition("x")
    if gpu not in SIZED_CLUSTERS or not re.fullmatch(r"[1-9]\d{0,4}", nodes, re.ASCII) or int(nodes) > MAX_NODES:
        return None
    base = (CATALOG / "clusters" / f"{SIZED_CLUSTERS[gpu]}.toml").read_text("utf-8")
    spec = msgspec.toml.decode(base)
    storage = spec["network"]["storage_bytes_per_s"] * int(nodes) / spec["num_nodes"]
    values = {"name": f'"{name}"', "num_nodes": nodes, "storage_bytes_per_s": f"{storage:.4g}"}
    text = re.sub(r"\A#.*", f"# {nodes} nodes of {SIZED_CLUSTERS[gpu]}, storage in proportion.", base)
    for key, value in values.items():
        text = re.sub(rf"(?m)^{key} = \S+", f"{key} = {value}", text)
    return text.encode()


def load_spec(spec_type: type[SpecT], name: Path | str, field: str = "") -> SpecT:
    """Read a specification of a type in `CATALOG_KINDS` by name, or from a path that ends in ``.toml``.

    Errors are those of `read_spec_bytes` and `read_toml`, behind the field of the call that has the name, if any.

    Examples
    --------
    >>> load_spec(ModelSpec, "gpt-s").num_experts
    8
    """
    if spec_type not in CATALOG_KINDS:
        known = ", ".join(one.__name__ for one in CATALOG_KINDS)
        raise SpecError(f"`spec_type`: expected one of {known}, found {getattr(spec_type, '__name__', spec_type)}")
    with prefix_errors(f"`{field}`" if field else ""):
        shared = _spec_of(str(name), read_spec_bytes(CATALOG_KINDS[spec_type], str(name)), spec_type)
    # A frozen record may have a dictionary, which is not.
    return cast(SpecT, copy.deepcopy(shared))


@functools.lru_cache(1 << 8)
def _spec_of(name: str, text: bytes, spec_type: type[Spec]) -> Spec:
    """Decode a specification once, for all who read the same bytes."""
    return read_toml(name, text, spec_type)


def read_spec_bytes(kind: str, name: str) -> bytes:
    """Read the TOML of a catalogue entry or of a path that ends in ``.toml``.

    A cluster may also be named by its size, as ``h100x64``, and a model by the path of a ``config.json``.

    Raises
    ------
    LazsimError
        When there is no such entry, or the file cannot be read.
    """
    if name.endswith(".toml"):
        return read_bytes(name, MAX_SPEC_BYTES)
    if kind == "models" and name.endswith(".json"):
        return import_config(name, read_bytes(name, MAX_CONFIG_BYTES))[0]
    known = catalog_names(kind)
    if name not in known:
        sized = sized_cluster(name) if kind == "clusters" else None
        if sized is None:
            others = (one.removesuffix("s") for one in CATALOG_KINDS.values() if name in catalog_names(one))
            told = "".join(f"{name} is the name of a {other}; " for other in others)
            raise SpecError(told + unknown_name(kind.removesuffix("s"), name, known, OTHER_NAMES.get(kind, OWN_FILE)))
        return sized
    return (CATALOG / kind / f"{name}.toml").read_bytes()


def describe_spec(kind: str, name: str) -> str:
    """Return the first comment of a catalogue entry, which describes it in one line."""
    return decode_text(read_spec_bytes(kind, name)).split("\n", 1)[0].lstrip("# ")


def sha256(content: bytes) -> str:
    """Return the SHA-256 of an input, with which results identify it."""
    return hashlib.sha256(content).hexdigest()


def hash_id(inputs: Any) -> str:
    """Return the short hash by which a result is known: equal inputs, equal hash."""
    return sha256(msgspec.json.encode(inputs, order="deterministic"))[:16]
