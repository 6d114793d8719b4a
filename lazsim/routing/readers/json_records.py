"""JSON: vLLM's load history, counts by layer, and token routes; one document, or a record in each line."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from lazsim.files.decoding import decode_json
from lazsim.routing.records import RecordReader
from lazsim.routing.source import LoadReader, LoadReading, LoadSource, text_of

LOOKS = '{"load_history": [{"logical_expert_load": [[...]]}, ...]}, or lines of {"layer": 3, "topk_ids": [5, 17]}'


def recognise(content: bytes) -> bool:
    """Return whether a text begins as JSON does, and not with a date in brackets, as lines of a log do."""
    return re.match(rb"[\xef\xbb\xbf\s]*(\{|\[(?!\d+[-/:]))", content) is not None


def read(source: LoadSource) -> LoadReading:
    """Read the records of all files."""
    reader = RecordReader(source)
    for name, content in source.files:
        reader.begin_file(name)
        file = replace(source, name=name)
        for where, raw in _records(text_of(file, content).strip().encode()):
            try:
                record = decode_json(raw)
            except ValueError as error:
                file.fault(where, f"not valid JSON ({error})")
                continue
            reader.add_record(where, record)
    return reader.records()


def _records(text: bytes) -> Iterator[tuple[int | str, Any]]:
    """Yield the place and the JSON of each record, so that memory is taken for one of them at a time."""
    import msgspec

    lines = text.split(b"\n")
    if len(lines) > 1 and _is_json(lines[0], msgspec.Raw):
        yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
        return
    fields = {"": text}
    if _is_json(text, dict[str, msgspec.Raw]):
        fields = decode_json(text, dict[str, msgspec.Raw])
    for name, value in fields.items():
        if _is_json(value, list[msgspec.Raw]):
            elements = decode_json(value, list[msgspec.Raw])
            if elements and bytes(elements[0])[:1] == b"{":
                if len(fields) > 1:
                    # The fields beside a list of records may tell the number of experts.
                    yield "", msgspec.json.encode({key: other for key, other in fields.items() if key != name})
                yield from ((f"record {number} {name}".strip(), raw) for number, raw in enumerate(elements, start=1))
                return
    yield "", text


def _is_json(text: Any, expected: Any) -> bool:
    try:
        decode_json(text, expected)
    except ValueError:
        return False
    return True


READER = LoadReader(LOOKS, recognise, read, names="*rank*.json*")
