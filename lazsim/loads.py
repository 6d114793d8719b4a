"""The largest loads whose arithmetic is exact. Axes: L layers, E experts."""

import math
import operator
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from lazsim.errors import SpecError

MAX_TOKENS = 1 << 43
"""Most tokens of a layer, 8.8e12. Times `MAX_SLOTS`, the largest product of an allocation, they are 2**62, which int64
holds. Counts and their sums are below 2**53, so that float64 holds them, too."""

MAX_SLOTS = 1 << 19
"""Most replica slots of a layer."""

MAX_SENT_TOKENS = 1 << 31
"""Most tokens of an expert that are dispatched at once: their square is 2**62."""


FINEST = 1 << 24
"""Tokens of a layer of loads that are shares: smaller ones than a sixteen-millionth round to none."""


def is_tensor(value: object) -> bool:
    """Return whether a value is a tensor, without importing torch."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(value, tensor)


def as_array(name: str, value: Any) -> npt.NDArray[Any]:
    """Return rows, or a tensor on any device, as an array; a `SpecError` names rows that are not equally long."""
    if is_tensor(value):
        value = value.detach().cpu()
        # numpy has no bfloat16.
        value = (value.double() if value.is_floating_point() else value).numpy()
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise SpecError(f"`{name}`: expected rows of equal length, of which numpy makes an array: {told}") from None


def as_floats(name: str, values: Any) -> npt.NDArray[np.float64]:
    """Return one number or several as an array of float64; a `SpecError` says that they are none."""
    numbers = np.atleast_1d(as_array(name, values))
    if numbers.dtype.kind not in "biuf":
        raise SpecError(f"`{name}`: expected numbers, found {numbers.dtype} of shape {numbers.shape}")
    return numbers.astype(np.float64)


def check_whole(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number as an int, whose products cannot overflow; a `SpecError` says that it is none, or less."""
    try:
        number = int(operator.index(value))
    except TypeError:
        number = least - 1
    if number < least:
        raise SpecError(f"`{name}`: expected a whole number from {least} up, found {' '.join(repr(value).split())}")
    return number


def check_amount(name: str, value: Any) -> float:
    """Return a finite number from 0 up as a float; a `SpecError` says that it is none."""
    try:
        fits = math.isfinite(value) and value >= 0
    except (TypeError, OverflowError):
        fits = False
    if not fits:
        raise SpecError(f"`{name}`: expected a finite number from 0 up, found {value!r}")
    return float(value)


def check_replicas(
    replicas_LE: npt.ArrayLike, num_nodes: int, num_slots: int, *, fills: bool = False
) -> tuple[npt.NDArray[np.int64], int, int]:
    """Return the replicas of each expert, which nodes of `num_slots` slots have room for, as int64, and both numbers.

    A `SpecError` says that an expert has none, or that those of a layer do not fit; where they are to fill all slots,
    `fills`, also that there are too few.

    Examples
    --------
    >>> check_replicas([[2, 2], [3, 2]], num_nodes=2, num_slots=2)
    Traceback (most recent call last):
    ...
    lazsim.errors.SpecError: `replicas`: 5 in layer 1 for 4 slots; give at most 4
    """
    num_nodes, num_slots = check_whole("num_nodes", num_nodes), check_whole("num_slots", num_slots)
    room = num_nodes * num_slots
    replicas = check_counts("replicas", replicas_LE, least=1)
    # As floats, which cannot overflow and hold all sums that fit.
    placed_L = replicas.sum(axis=1, dtype=np.float64)
    is_wrong_L = placed_L != room if fills else placed_L > room
    if is_wrong_L.any():
        layer = int(is_wrong_L.argmax())
        most = "" if fills else "at most "
        raise SpecError(f"`replicas`: {placed_L[layer]:.17g} in layer {layer} for {room} slots; give {most}{room}")
    return replicas.astype(np.int64, copy=False), num_nodes, num_slots


def check_counts(what: str, counts: npt.ArrayLike, least: int) -> npt.NDArray[np.int64]:
    """Return numbers for each expert of each layer, shape (L, E); a `SpecError` says that one is less, or none.

    Examples
    --------
    >>> check_counts("replicas", [[2, 0]], least=1)
    Traceback (most recent call last):
    ...
    lazsim.errors.SpecError: `replicas`: expert 1 of layer 0 has 0; give each at least 1
    """
    found = as_array(what, counts)
    if found.ndim != 2 or not found.size or found.dtype.kind not in "iu":
        told = f"{found.dtype} of shape {found.shape}"
        raise SpecError(f"`{what}`: expected integers of shape (layers, experts), found {told}")
    if found.min() < least:
        layer, expert = np.argwhere(found < least)[0]
        raise SpecError(
            f"`{what}`: expert {expert} of layer {layer} has {found[layer, expert]}; give each at least {least}"
        )
    return found


def check_loads(load_LE: npt.ArrayLike, num_slots: int) -> npt.NDArray[np.int64]:
    """Return the tokens of each expert as int64.

    Parameters
    ----------
    load_LE
        Tokens routed to each expert, shape (L, E).
    num_slots
        Replica slots of a layer, among which tokens are shared.

    Examples
    --------
    >>> check_loads([[2**43, 1]], num_slots=4)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    lazsim.errors.SpecError: loads: layer 0 has 8.796e+12 tokens; give at most 8,796,093,022,208: ...
    """
    loads = check_counts("loads", load_LE, least=0)
    if num_slots > MAX_SLOTS:
        raise SpecError(f"{num_slots:,} slots in a layer; give at most {MAX_SLOTS:,}")
    check_layer_totals(loads.sum(axis=1, dtype=np.float64))
    return loads.astype(np.int64, copy=False)


def check_layer_totals(total_L: npt.NDArray[np.float64]) -> None:
    """Raise SpecError when a layer has too many tokens for exact arithmetic."""
    if total_L.max() > MAX_TOKENS:
        layer = int(total_L.argmax())
        raise SpecError(
            f"loads: layer {layer} has {total_L[layer]:.4g} tokens; give at most {MAX_TOKENS:,}: only ratios count"
        )


def whole_loads(loads: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], int]:
    """Return loads as whole numbers, and the number by which all were multiplied for that.

    Parameters
    ----------
    loads
        Numbers from 0 up, not all 0, shape (..., L, E). Only ratios within a layer matter.

    Returns
    -------
    whole
        The loads themselves where all are whole. Fractions, such as shares or means, are multiplied by the power of two
        that gives the fullest layer up to `FINEST` tokens, by a smaller power of ten where only that makes them whole.
        What is then left of fractions is rounded.
    factor
        The factor, 1 for whole loads.

    Raises
    ------
    SpecError
        When the fullest layer has more than `MAX_TOKENS`, or less than their inverse.

    Examples
    --------
    >>> whole_loads(np.array([[0.75, 0.25]])), whole_loads(np.array([[0.8, 0.2]]))
    ((array([[12582912,  4194304]]), 16777216), (array([[8, 2]]), 10))
    """
    total_L = loads.sum(axis=-1).reshape(-1, loads.shape[-2]).max(axis=0)
    check_layer_totals(total_L)
    total = float(total_L.max())
    if total < 1 / MAX_TOKENS:
        raise SpecError(f"loads: {total:.4g} tokens in the fullest layer; give 1e-12 or more")
    finest = FINEST / total
    tens = (10**digits for digits in range(1, 1 + int(math.log10(finest))))
    factors = 1, 2 ** max(0, math.floor(math.log2(finest))), *tens
    factor = next((one for one in factors if _are_whole(loads * one)), factors[1])
    return np.rint(loads * factor).astype(np.int64), factor


def _are_whole(numbers: npt.NDArray[np.float64]) -> bool:
    """Tell whether numbers are whole but for the rounding of a float and of its product."""
    return bool((np.abs(numbers - np.rint(numbers)) <= numbers * np.finfo(np.float64).eps).all())
