"""Plain data and JSON as records; faults are told in plain words, the field first."""

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec
import msgspec.inspect

from lazsim.errors import SpecError, did_you_mean, known_names, nearest_name
from lazsim.files.reading import in_utf8
from lazsim.limits import LONGEST_S

RecordT = TypeVar("RecordT")

MOST_NAMED = 8
"""Unknown fields that a message names."""

_AT = re.compile(r"(.*?)(?: - at `(?:key in )?\$(.*)`)?", re.DOTALL)
_PART = re.compile(r"\.\w+|\[[^]]*\]")
_KIND = re.compile(r"`([a-z |]+)`")
_BYTE = re.compile(r"(?:JSON is malformed: )?(.*) \(byte (\d+)\)", re.DOTALL)

HUGE = "a number has thousands of digits"
"""A fault that each library words in its own way."""

WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table of fields",
    "null": "null",
}
"""Types of msgspec, in plain words."""


def tell_fault(error: msgspec.MsgspecError, spec_type: Any, inside: str = "", value: Any = None) -> str:
    """Return what msgspec says of a value as errors of lazsim have it: the field first, then what it may be.

    Parameters
    ----------
    error
        The error of decoding or converting to `spec_type`.
    inside
        Name of the specification; the name of a field begins with it.
    value
        What was converted, if known: its tag tells which of several types it is.

    Examples
    --------
    >>> from typing import Literal
    >>> class Layout(msgspec.Struct, forbid_unknown_fields=True):
    ...     recompute: Literal["none", "full"] = "none"
    ...     tensor: int = 1
    >>> for value in ({"recompute": "all"}, {"tensor": "2"}, {"tensr": 2}):
    ...     try:
    ...         msgspec.convert(value, Layout)
    ...     except msgspec.ValidationError as error:
    ...         tell_fault(error, Layout, "layout")
    "`layout.recompute`: expected one of full, none, found 'all'"
    '`layout.tensor`: expected a whole number, got text'
    "`layout.tensr`: unknown field: did you mean 'tensor'? known: recompute, tensor"
    """
    found = _AT.fullmatch(str(error))
    assert found is not None, "every text matches"
    text, path = found[1].replace("Integer value out of range", HUGE), found[2] or ""
    kinds = list(_alternatives([msgspec.inspect.type_info(spec_type)]))
    if isinstance(value, dict):
        structs = [kind for kind in kinds if isinstance(kind, msgspec.inspect.StructType) and kind.tag_field]
        tagged = [kind for kind in structs if value.get(str(kind.tag_field)) == kind.tag]
        kinds = [*tagged] or kinds
    inner = kinds
    for part in _PART.findall(path):
        inner = list(_alternatives(found for kind in inner for found in _parts(kind, part)))
    field, words = path.replace("[...]", "").lstrip("."), sorted(literals_of(inner))
    if named := re.fullmatch(r"Object missing required field `(.*)`", text):
        missing = list(_missing(kinds, value))
        tags = [str(getattr(kind, "tag", "")) for kind in inner if getattr(kind, "tag_field", None) == named[1]]
        field = f"{field}.{named[1]}".lstrip(".")
        text = f"is missing; give one of {', '.join(tags)}" if tags else "is missing"
        if len(missing) > 1:
            field, text = f"{', '.join(missing[:-1])} and {missing[-1]}", "are missing"
    elif named := re.fullmatch(r"Object contains unknown field `(.*)`", text):
        field, text = _tell_unknown(field, named[1], _table_at(value, path), inner)
    elif told := re.fullmatch(r"Invalid (?:enum )?value (.*)", text):
        text = f"expected one of {', '.join(words)}, found {told[1]}" if words else text
    elif text.startswith("Expected ") and words:
        text = f"expected one of {', '.join(words)}"
    elif "= " in text and (durations := [kind for kind in inner if getattr(kind, "le", None) == LONGEST_S]):
        # A number out of the range of durations.
        least = "1 ns" if getattr(durations[0], "ge", 0) else "0 s"
        text = f"expected a duration of {least} to 100 years"
    elif text.startswith("Expected "):
        plain = _KIND.sub(lambda kind: " or ".join(WORDS.get(one, one) for one in kind[1].split(" | ")), text)
        text = f"e{plain[1:]}".replace("whole number, got a number", "whole number, got a decimal number")
    field = ".".join(part for part in (inside, field) if part).replace(".[", "[")
    return f"`{field}`: {text}" if field else text


def _tell_unknown(table: str, name: str, given: Iterable[str], kinds: list[msgspec.inspect.Type]) -> tuple[str, str]:
    """Return the field of a table that is unknown, or the table where several `given` ones are, and what is known."""
    known = list(dict.fromkeys(field.encode_name for kind in kinds for field in getattr(kind, "fields", ())))
    tags = [str(getattr(kind, "tag_field", "")) for kind in kinds]
    unknown = [one for one in given if one not in known and one not in tags]
    if len(unknown) <= 1:
        return f"{table}.{name}".lstrip("."), f"unknown field: {did_you_mean(name, known)}{known_names(known)}"
    near = [(one, nearest_name(one, known)) for one in unknown[:MOST_NAMED]]
    told = ", ".join(f"{one} ({alike}?)" if alike else one for one, alike in near)
    return table, f"unknown fields {told}; {known_names(known)}"


def _table_at(value: Any, path: str) -> dict[str, Any]:
    """Return the table at a path of fields; an empty one where there is none."""
    for part in _PART.findall(path):
        value = value.get(part[1:]) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _missing(kinds: Iterable[msgspec.inspect.Type], value: Any, inside: str = "") -> Iterator[str]:
    """Name the fields that a table and those in it lack."""
    structs = [kind for kind in _alternatives(kinds) if isinstance(kind, msgspec.inspect.StructType)]
    if len(structs) != 1 or not isinstance(value, dict):
        return
    for field in structs[0].fields:
        name = f"{inside}{field.encode_name}"
        if field.encode_name in value:
            yield from _missing([field.type], value[field.encode_name], f"{name}.")
        elif field.required:
            yield name


def _alternatives(kinds: Iterable[msgspec.inspect.Type]) -> Iterator[msgspec.inspect.Type]:
    for kind in kinds:
        yield from kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)


def literals_of(kinds: Iterable[msgspec.inspect.Type]) -> list[str]:
    """Return the words, or the few numbers, that fields of such types take."""
    literals = [kind for kind in _alternatives(kinds) if isinstance(kind, msgspec.inspect.LiteralType)]
    return list(dict.fromkeys(str(word) for kind in literals for word in kind.values))


def _parts(kind: msgspec.inspect.Type, part: str) -> list[msgspec.inspect.Type]:
    """Return the types at ``.field`` or ``[...]`` of a type."""
    if part.startswith("."):
        fields = getattr(kind, "fields", ())
        if isinstance(kind, msgspec.inspect.StructType) and kind.tag_field == part[1:]:
            return [msgspec.inspect.LiteralType((kind.tag,))]
        return [field.type for field in fields if field.encode_name == part[1:]]
    return [getattr(kind, name) for name in ("item_type", "value_type") if hasattr(kind, name)]


def convert(value: Any, kind: type[RecordT], inside: str = "", *, path: object = "", strict: bool = True) -> RecordT:
    """Make a record of plain data; a `SpecError` says what does not fit, see `tell_fault`.

    Parameters
    ----------
    value, kind
        The data, and the type to make.
    inside
        Name of the record; see `tell_fault`.
    path
        The file that the data is from, if any. Fields of a file are no options, though some have their names.
    strict
        Whether text is refused where a number is expected.
    """
    try:
        return msgspec.convert(value, kind, strict=strict, str_keys=True)
    except msgspec.ValidationError as error:
        told = tell_fault(error, kind, inside, value)
        raise SpecError(f"{path}: {told.replace('`', '')}" if path else told) from None


def _once(pairs: list[tuple[str, Any]]) -> None:
    if twice := next((name for name, times in Counter(name for name, _ in pairs).items() if times > 1), ""):
        raise ValueError(f"{twice} is given twice; keep one of them")


def decode_json(content: bytes | str | msgspec.Raw, kind: Any = Any) -> Any:
    """Decode JSON of a type of msgspec; a ValueError says what is wrong, also where it is nested too deeply.

    A field that is there twice is refused in tables of any fields, which people edit; else the last one counts.
    """
    if isinstance(content, bytes):
        content = in_utf8(content).removeprefix(codecs.BOM_UTF8)
    try:
        found = msgspec.json.decode(content, type=kind)
        if kind == dict[str, Any]:
            text = bytes(content) if isinstance(content, msgspec.Raw) else content
            json.loads(text, object_pairs_hook=_once, parse_int=float)
        return found
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("no text in UTF-8") from None
    except msgspec.ValidationError as error:
        raise ValueError(tell_fault(error, kind).replace("`", "")) from None
    except msgspec.DecodeError as error:
        found = _BYTE.search(str(error))
        if found is None:
            raise ValueError("ends too early" if "truncated" in str(error) else str(error)) from None
        text = content.encode() if isinstance(content, str) else bytes(content)
        before = text[: int(found[2])].decode(errors="replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        place = f"line {line}, column {column}" if line > 1 else f"column {column}"
        raise ValueError(f"{found[1]} at {place}") from None
