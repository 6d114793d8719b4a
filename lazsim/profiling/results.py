"""Results of measuring virtual ranks, as plain data."""

import math
from dataclasses import dataclass
from typing import Any

import msgspec


class LayerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A layer, forward and backward: its slowest rank, measured and predicted, and its modelled exchanges.

    `error` and `worst_rank_error` are ``predicted / measured - 1``, of the slowest rank and of the rank that is
    furthest off; `spread` is the slowest rank's time over the mean of all.
    """

    layer: int
    measured_s: float
    predicted_s: float
    error: float
    worst_rank_error: float
    measured_rank: int
    predicted_rank: int
    spread: float
    modelled_exchange_s: float


@dataclass(frozen=True)
class RankResult:
    """Rows by layer, and the inputs and conditions of the measurement."""

    inputs: dict[str, Any]
    rows: tuple[LayerRow, ...]

    @property
    def error(self) -> float:
        """Predicted over measured time of the slowest ranks of all layers, less 1."""
        return math.fsum(row.predicted_s for row in self.rows) / math.fsum(row.measured_s for row in self.rows) - 1

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"inputs": self.inputs, "error": self.error, "layers": self.rows}


class SkewRow(msgspec.Struct, frozen=True, kw_only=True):
    """A layer, forward and backward, when one expert draws `skew` times its even share of the tokens.

    `even` is expert parallelism with equal replicas, `allocated` Lazarus's allocation with flexible dispatch, and
    `won_back` the share of the time added by skew that allocation saves.
    """

    skew: float
    even_measured_s: float
    even_predicted_s: float
    allocated_measured_s: float
    allocated_predicted_s: float
    won_back: float | None


@dataclass(frozen=True)
class SkewResult:
    """Rows by skew, and the inputs and conditions of the measurement."""

    inputs: dict[str, Any]
    rows: tuple[SkewRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"inputs": self.inputs, "rows": self.rows}
