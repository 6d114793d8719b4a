"""The base of specifications: a frozen record, read from TOML, with checked numbers."""

import math

import msgspec


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An immutable record read from TOML; unknown keys are errors."""


def require_positive(spec: msgspec.Struct, *fields: str) -> None:
    """Raise ValueError unless all fields are positive numbers."""
    for field in fields:
        if not 0 < getattr(spec, field) < math.inf:
            raise ValueError(f"{field} must be positive, not {getattr(spec, field)}")


def require_not_negative(spec: msgspec.Struct, *fields: str) -> None:
    """Raise ValueError unless all fields are numbers from 0 up."""
    for field in fields:
        if not 0 <= getattr(spec, field) < math.inf:
            raise ValueError(f"{field} must be a number from 0 up, not {getattr(spec, field)}")
