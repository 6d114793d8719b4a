"""The base of specifications: a frozen record, read from TOML, and the ranges of its numbers."""

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec
import msgspec.inspect
from msgspec import Meta

from lazsim import limits
from lazsim.errors import prefix_errors
from lazsim.units import QUANTITIES, parse_quantity

_FAULT = re.compile(r"(.*) - at `\$\.(\w+)`")


def name_field(error: msgspec.ValidationError) -> str:
    """Return what msgspec says of a value with its field in front, as errors of lazsim have it."""
    return _FAULT.sub(r"`\2`: \1", str(error))


def tell_choices(error: msgspec.MsgspecError, spec_type: Any) -> str:
    """Return what msgspec says of a value; where it is none of several words, these are named.

    Examples
    --------
    >>> from typing import Literal
    >>> class Layout(msgspec.Struct):
    ...     recompute: Literal["none", "full"]
    >>> try:
    ...     msgspec.convert({"recompute": "all"}, Layout)
    ... except msgspec.ValidationError as error:
    ...     tell_choices(error, Layout)
    "Invalid enum value 'all', expected one of full, none - at `$.recompute`"
    """
    text = str(error)
    found = re.fullmatch(r"(Invalid enum value .*)( - at `\$(.*)`)", text)
    if found is None:
        return text
    kinds = [msgspec.inspect.type_info(spec_type)]
    for part in re.findall(r"\.\w+|\[[^]]*\]", found[3]):
        kinds = [inner for kind in _alternatives(kinds) for inner in _parts(kind, part)]
    words = sorted(
        str(word)
        for kind in _alternatives(kinds)
        if isinstance(kind, msgspec.inspect.LiteralType)
        for word in kind.values
    )
    return f"{found[1]}, expected one of {', '.join(words)}{found[2]}" if words else text


def _alternatives(kinds: Iterable[msgspec.inspect.Type]) -> Iterator[msgspec.inspect.Type]:
    for kind in kinds:
        yield from kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)


def _parts(kind: msgspec.inspect.Type, part: str) -> list[msgspec.inspect.Type]:
    """Return the types at ``.field`` or ``[...]`` of a type."""
    if part.startswith("."):
        fields = getattr(kind, "fields", ())
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
