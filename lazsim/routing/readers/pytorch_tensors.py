"""PyTorch's ``.pt``, such as dumps of SGLang's recorder."""

import re
from pathlib import Path

from lazsim.routing.records import RecordReader
from lazsim.routing.source import Reader, Reading, Source
from lazsim.routing.tensors import load_tensors

SGLANG = re.compile(r"expert_distribution_recorder_(\d+(?:\.\d+)?)(?:_\d+)?\.pt", re.ASCII)


def recognise(content: bytes) -> bool:
    """Return whether a file is an archive of PyTorch, or a pickle."""
    return content[:1] == b"\x80" or (content.startswith(b"PK") and b"/data.pkl" in content)


def read(source: Source) -> Reading:
    """Read dumps in the order of their times: arrays, or mappings such as SGLang's ``logical_count`` or ``records``."""
    reader = RecordReader(source)
    for name, content in sorted(source.files, key=_time):
        try:
            dump = load_tensors(content)
        except ValueError as error:
            raise source.refuse(Path(name).name if len(source.files) > 1 else "", str(error)) from None
        records = dump.get("records", dump) if isinstance(dump, dict) else dump
        if not isinstance(records, list):
            reader.add(Path(name).name, records)
            continue
        beside = {key: value for key, value in dump.items() if key != "records"} if isinstance(dump, dict) else {}
        for number, record in enumerate(records, start=1):
            # SGLang writes the experts of the slots once, beside the records.
            reader.add(f"record {number}", {**beside, **record} if isinstance(record, dict) else record)
    return reader.reading()


def _time(file: tuple[str, bytes]) -> float:
    found = SGLANG.search(file[0])
    return float(found[1]) if found else 0.0


LOOKS = ".pt of tensors, such as SGLang's expert_distribution_recorder_<time>.pt with logical_count or records"
READER = Reader(LOOKS, recognise, read, names="expert_distribution_recorder_*.pt")
