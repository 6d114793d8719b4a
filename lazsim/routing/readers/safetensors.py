"""``.safetensors``: arrays by name, after a header in JSON."""

from pathlib import Path
from typing import Any

import numpy as np

from lazsim.errors import LONGEST_CAUSE, shorten
from lazsim.files.decoding import decode_json
from lazsim.limits import MAX_LOADS
from lazsim.routing.records import RecordReader
from lazsim.routing.source import LoadReader, LoadReading, LoadSource, read_bf16, whole

TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1",
    "U16": "<u2", "U32": "<u4", "U64": "<u8",
}  # fmt: skip
"""Type in numpy by its name in the header; BF16, which numpy lacks, is read on its own."""

LENGTH_BYTES = 8
"""The header's length comes first."""


def recognise(content: bytes) -> bool:
    """Return whether a header in JSON follows its length."""
    begins = content[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"
    return begins and int.from_bytes(content[:LENGTH_BYTES], "little") < len(content)


def read(source: LoadSource) -> LoadReading:
    """Read the arrays of each file as one record."""
    reader = RecordReader(source)
    for name, content in source.files:
        try:
            arrays = _arrays(content)
        except (ValueError, KeyError, TypeError) as error:
            cause = shorten(error, LONGEST_CAUSE)
            raise source.refuse("", f"not a readable .safetensors ({cause}); write it again") from None
        reader.begin_file(name)
        reader.add_record(Path(name).name, arrays)
    return reader.records()


def _arrays(content: bytes) -> dict[str, Any]:
    begin = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    header = decode_json(content[LENGTH_BYTES:begin], dict[str, dict[str, Any]])
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = (begin + whole(offset, 8 * MAX_LOADS) for offset in entry["data_offsets"])
        part = content[start:end]
        values = read_bf16(part) if entry["dtype"] == "BF16" else np.frombuffer(part, TYPES[entry["dtype"]])
        arrays[name] = values.reshape(entry["shape"])
    return arrays


LOOKS = ".safetensors of arrays, such as weight (L, E) or tokens (S, L, E), or of TensorRT-LLM, by <step>_<layer>"
READER = LoadReader(LOOKS, recognise, read, names="*rank*.safetensors")
