"""The base of specifications: a frozen record, read from TOML, and the ranges of its numbers."""

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec
import msgspec.inspect
from msgspec import Meta

from lazsim import limits
from lazsim.errors import did_you_mean, prefix_errors
from lazsim.units import QUANTITIES, parse_quantity

_AT = re.compile(r"(.*?)(?: - at `(?:key in )?\$(.*)`)?", re.DOTALL)
_PART = re.compile(r"\.\w+|\[[^]]*\]")
_KIND = re.compile(r"`([a-z |]+)`")

WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}
"""Types of msgspec, in plain words."""


def tell_fault(error: msgspec.MsgspecError, spec_type: Any, inside: str = "") -> str:
    """Return what msgspec says of a value as errors of lazsim have it: the field first, then what it may be.

    Parameters
    ----------
    error
        The error of decoding or converting to `spec_type`.
    inside
        Name of the specification; the name of a field begins with it.

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
    text, path = found[1], found[2] or ""
    kinds = list(_alternatives([msgspec.inspect.type_info(spec_type)]))
    for part in _PART.findall(path):
        kinds = list(_alternatives(inner for kind in kinds for inner in _parts(kind, part)))
    field = path.replace("[...]", "").lstrip(".")
    if named := re.fullmatch(r"Object (contains unknown|missing required) field `(.*)`", text):
        field = f"{field}.{named[2]}".lstrip(".")
        text = "is missing"
        if named[1].startswith("contains"):
            fields = [field for kind in kinds for field in getattr(kind, "fields", ())]
            known = dict.fromkeys(one.encode_name for one in fields)
            text = f"unknown field: {did_you_mean(named[2], list(known))}known: {', '.join(known)}"
    elif told := re.fullmatch(r"Invalid (?:enum )?value (.*)", text):
        words = sorted({str(word) for kind in kinds for word in _values(kind)})
        text = f"expected one of {', '.join(words)}, found {told[1]}" if words else text
    elif text.startswith("Expected "):
        plain = _KIND.sub(lambda kind: " or ".join(WORDS.get(one, one) for one in kind[1].split(" | ")), text)
        text = f"e{plain[1:]}"
    field = ".".join(part for part in (inside, field) if part)
    return f"`{field}`: {text}" if field and (path or named) else text


def _alternatives(kinds: Iterable[msgspec.inspect.Type]) -> Iterator[msgspec.inspect.Type]:
    for kind in kinds:
        yield from kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)


def _values(kind: msgspec.inspect.Type) -> Iterable[object]:
    return kind.values if isinstance(kind, msgspec.inspect.LiteralType) else ()


def _parts(kind: msgspec.inspect.Type, part: str) -> list[msgspec.inspect.Type]:
    """Return the types at ``.field`` or ``[...]`` of a type."""
    if part.startswith("."):
        fields = getattr(kind, "fields", ())
        if isinstance(kind, msgspec.inspect.StructType) and kind.tag_field == part[1:]:
            return [msgspec.inspect.LiteralType((kind.tag,))]
        return [field.type for field in fields if field.encode_name == part[1:]]
    return [getattr(kind, name) for name in ("item_type", "value_type") if hasattr(kind, name)]


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An immutable record read from TOML; unknown keys are errors."""


def with_units(value: Any, field: str = "") -> Any:
    """Turn text such as "400Gbps" into the number of a field whose name ends in a quantity; see `parse_quantity`.

    Examples
    --------
    >>> with_units({"name": "mine", "network": {"nic_bytes_per_s": "400Gbps"}})
    {'name': 'mine', 'network': {'nic_bytes_per_s': 50000000000.0}}
    """
    if isinstance(value, dict):
        return {name: with_units(one, name) for name, one in value.items()}
    if isinstance(value, str) and field.endswith(tuple(QUANTITIES)):
        with prefix_errors(field):
            return parse_quantity(field, value)
    return value


Count = Annotated[int, Meta(ge=1, le=limits.MAX_DIMENSION)]
Amount = Annotated[int, Meta(ge=0, le=limits.MAX_DIMENSION)]
Params = Annotated[int, Meta(ge=0, le=limits.MAX_PARAMS)]
NumNodes = Annotated[int, Meta(ge=1, le=limits.MAX_NODES)]
NumSpares = Annotated[int, Meta(ge=0, le=limits.MAX_NODES)]
NumExperts = Annotated[int, Meta(ge=1, le=limits.MAX_EXPERTS)]
NumLayers = Annotated[int, Meta(ge=1, le=limits.MAX_LAYERS)]
LayerNumber = Annotated[int, Meta(ge=0, le=limits.MAX_LAYERS)]
Seed = Annotated[int, Meta(ge=0, le=limits.MAX_WHOLE)]

Number = Annotated[int, Meta(ge=-limits.MAX_WHOLE, le=limits.MAX_WHOLE)] | float
"""Any number that a field may have; the field checks its own range."""

Seconds = Annotated[float, Meta(ge=0, le=limits.LONGEST_S)]
PositiveSeconds = Annotated[float, Meta(ge=limits.SHORTEST_S, le=limits.LONGEST_S)]
Price = Annotated[float, Meta(ge=0, le=limits.MOST_USD_PER_HOUR)]
Share = Annotated[float, Meta(ge=0, le=1)]
Quantity = Annotated[float, Meta(ge=0, le=1e24)]
"""A number of bytes, operations and the like: a yottabyte is beyond all machines, and products of ten stay finite."""
Rate = Annotated[float, Meta(ge=1, le=1e24)]
"""The same in a second, and at least one, so that its inverse stays finite."""
Factor = Annotated[float, Meta(ge=1e-6, le=1e6)]
"""A factor such as an efficiency; a sensitivity study also takes those above 1."""
