"""The base of specifications: a frozen record, read from TOML, and the ranges of its numbers."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from lazsim import limits
from lazsim.errors import prefix_errors
from lazsim.units import QUANTITIES, parse_quantity


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An immutable record read from TOML; unknown keys are errors."""


def require_numbers(record: Spec, names: Iterable[str]) -> None:
    """Raise a `ValueError` at the first dotted name under `assumed` that is no number of a record."""
    for name in names:
        value: Any = record
        for field in name.split("."):
            value = getattr(value, field, None)
        if not isinstance(value, int | float):
            raise ValueError(f"assumed: {name} is no constant of one number; take its name from those of this file")


def with_units(value: Any, field: str = "") -> Any:
    """Turn text such as "400Gbps" into the number of a field whose name ends in a quantity; see `parse_quantity`.

    Errors name the field with the tables that it is in, of which `field` is the outermost.

    Examples
    --------
    >>> with_units({"name": "mine", "network": {"nic_bytes_per_s": "400Gbps"}})
    {'name': 'mine', 'network': {'nic_bytes_per_s': 50000000000.0}}
    """
    if isinstance(value, dict):
        return {name: with_units(one, f"{field}.{name}".lstrip(".")) for name, one in value.items()}
    if isinstance(value, str) and field.endswith(tuple(QUANTITIES)):
        with prefix_errors(field):
            return parse_quantity(field, value)
    return value


def given_fields(value: Any) -> Any:
    """Return the plain data of a record, without fields that have their defaults: a new one changes no hash.

    Examples
    --------
    >>> class Part(Spec, frozen=True, kw_only=True):
    ...     size: int
    ...     step: int = 1
    >>> given_fields(Part(size=2, step=1)), given_fields(Part(size=2, step=3))
    ({'size': 2}, {'size': 2, 'step': 3})
    """
    if isinstance(value, Mapping):
        return {key: given_fields(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [given_fields(own) for own in value]
    if not isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    config = value.__struct_config__
    found: dict[str, Any] = {config.tag_field: config.tag} if config.tag_field else {}
    for field in msgspec.structs.fields(value):
        own = getattr(value, field.name)
        made = field.default_factory
        if own != (field.default if made is msgspec.NODEFAULT else made()):
            found[field.encode_name] = given_fields(own)
    return found


Count = Annotated[int, Meta(ge=1, le=limits.MAX_DIMENSION)]
Amount = Annotated[int, Meta(ge=0, le=limits.MAX_DIMENSION)]
Params = Annotated[int, Meta(ge=0, le=limits.MAX_PARAMS)]
NumNodes = Annotated[int, Meta(ge=1, le=limits.MAX_NODES)]
NumSpares = Annotated[int, Meta(ge=0, le=limits.MAX_NODES)]
NumExperts = Annotated[int, Meta(ge=1, le=limits.MAX_EXPERTS)]
NumLayers = Annotated[int, Meta(ge=1, le=limits.MAX_LAYERS)]
LayerNumber = Annotated[int, Meta(ge=0, le=limits.MAX_LAYERS)]
Seed = Annotated[int, Meta(ge=0, le=limits.MAX_WHOLE)]

AnyNumber = Annotated[int, Meta(ge=-limits.MAX_WHOLE, le=limits.MAX_WHOLE)] | float
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
