"""PyTorch's ``.pt``, such as dumps of SGLang's recorder.

It is read without PyTorch and without running what is in it: plain data, and tensors as arrays.
"""

import io
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from lazsim.limits import MAX_FILE_BYTES, MAX_LOADS
from lazsim.routing.records import RecordReader
from lazsim.routing.source import LoadReader, LoadReading, LoadSource, read_bf16

NUMPY_TYPES = {
    "Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": "bf16", "Long": "i8", "Int": "i4", "Short": "i2",
    "Char": "i1", "Byte": "u1", "Bool": "?",
}  # fmt: skip
"""Type in numpy by PyTorch's storage class; numpy has no bf16."""

FORBIDDEN = ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "EXT1", "EXT2", "EXT4")
"""Instructions of a pickle that make or change objects; tensors, lists and mappings of them need none."""

SGLANG = re.compile(r"expert_distribution_recorder_(\d+(?:\.\d+)?)(?:_\d+)?\.pt", re.ASCII)


def recognise(content: bytes) -> bool:
    """Return whether a file is an archive of PyTorch, or a pickle."""
    return content[:1] == b"\x80" or (content.startswith(b"PK") and b"/data.pkl" in content)


def read(source: LoadSource) -> LoadReading:
    """Read dumps in the order of their times: arrays, or mappings such as SGLang's ``logical_count`` or ``records``."""
    reader = RecordReader(source)
    for name, content in sorted(source.files, key=_time):
        try:
            dump = load_tensors(content)
        except ValueError as error:
            raise source.refuse(Path(name).name if len(source.files) > 1 else "", str(error)) from None
        records = dump.get("records", dump) if isinstance(dump, dict) else dump
        if not isinstance(records, list) or all(np.ndim(record) == 1 for record in records):
            # Not a list of steps: an array, or one of each layer.
            reader.add_record(Path(name).name, records)
            continue
        beside = {key: value for key, value in dump.items() if key != "records"} if isinstance(dump, dict) else {}
        for number, record in enumerate(records, start=1):
            # SGLang writes the experts of the slots once, beside the records.
            reader.add_record(f"record {number}", {**beside, **record} if isinstance(record, dict) else record)
    return reader.records()


def _time(file: tuple[str, bytes]) -> float:
    found = SGLANG.search(file[0])
    return float(found[1]) if found else 0.0


def load_tensors(content: bytes) -> Any:
    """Return the value that ``torch.save`` wrote; a ValueError says that it is damaged, or no plain data."""
    if not content.startswith(b"PK"):
        raise ValueError(
            "a bare pickle may run code, so it is not read; write it with torch.save of PyTorch 1.6 or later"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            member = next(one for one in archive.namelist() if one.endswith("/data.pkl"))
            return _Tensors(archive, member).load()
    except Exception as error:  # Whatever a damaged pickle makes Python raise.
        raise ValueError(f"not a readable file of tensors ({error}); write it again") from None


class _Tensors(pickle.Unpickler):
    """Reads plain data and tensors, which become arrays; a pickle that names any other function is refused."""

    def __init__(self, archive: zipfile.ZipFile, member: str) -> None:
        with archive.open(member) as stream:
            code = stream.read(MAX_FILE_BYTES)
        for instruction, argument, _ in pickletools.genops(code):
            # A place in the memo costs memory even where it is empty.
            if instruction.name in FORBIDDEN or ("PUT" in instruction.name and int(argument or 0) > len(code)):
                raise pickle.UnpicklingError(f"{instruction.name} is not allowed")
        super().__init__(io.BytesIO(code))
        self._archive, self._folder = archive, member.removesuffix("data.pkl")

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name: a type of storage, a function that makes an array, or a mapping."""
        if module == "torch" and name.removesuffix("Storage") in NUMPY_TYPES:
            return NUMPY_TYPES[name.removesuffix("Storage")]
        allowed = {
            ("torch._utils", "_rebuild_tensor_v2"): _array,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("collections", "OrderedDict"): dict,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is no tensor")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Return the numbers of a storage."""
        _, kind, key, _, _ = pid
        with self._archive.open(f"{self._folder}data/{key}") as member:
            content = member.read(8 * MAX_LOADS)
        if kind == "bf16":
            return read_bf16(content)
        return np.frombuffer(content, f"<{kind}")


def _array(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    """Return a tensor as an array; numpy checks that it lies within its storage."""
    if np.prod([float(one) for one in size]) > MAX_LOADS:
        raise pickle.UnpicklingError(f"a tensor of shape {size} is too large")
    width = storage.itemsize
    return np.ndarray(size, storage.dtype, storage, offset * width, [one * width for one in stride])


LOOKS = ".pt of tensors, such as SGLang's expert_distribution_recorder_<time>.pt with logical_count or records"
READER = LoadReader(LOOKS, recognise, read, names="expert_distribution_recorder_*.pt")
