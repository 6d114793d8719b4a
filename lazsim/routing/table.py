"""Expert loads over training: the interface of all sources, and recorded loads.

Axes: B requested steps, S recorded steps, L layers, E experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lazsim.errors import RoutingFormatError, prefix_errors
from lazsim.files import Faults
from lazsim.loads import check_layer_totals

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Routing(Protocol):
    """Loads of every layer's experts at any step."""

    @property
    def name(self) -> str:
        """Source of the loads."""

    @property
    def sha256(self) -> str:
        """Hash of the source."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Assumptions and repairs, a line each."""

    @property
    def num_layers(self) -> int:
        """Layers."""

    @property
    def num_experts(self) -> int:
        """Experts of a layer."""

    @property
    def interval_steps(self) -> int:
        """Steps for which loads stay the same: the median, where distances differ."""

    @property
    def last_step(self) -> int | None:
        """Last known step, after which loads stay the same; none where loads never end."""

    def loads(self, steps: Sequence[int] | Ints) -> Ints:
        """Return the tokens of each expert at each of the steps, shape (B, L, E).

        Only ratios within a layer matter. The same step always has the same loads.
        """


@dataclass(frozen=True, eq=False)
class RecordedRouting:
    """Loads recorded at some steps; each record applies until the next.

    Attributes
    ----------
    steps : ndarray of int64, shape (S,)
        Recorded steps, ascending; the first record applies to all steps before it, too.
    tokens_SLE : ndarray of int64, shape (S, L, E)
        Tokens routed to each expert.

    Examples
    --------
    >>> recorded = RecordedRouting(np.array([1, 11]), np.array([[[3, 1]], [[0, 4]]]))
    >>> recorded.loads([0, 10, 11, 99]).tolist()
    [[[3, 1]], [[3, 1]], [[0, 4]], [[0, 4]]]
    """

    steps: Ints
    tokens_SLE: Ints
    name: str = ""
    sha256: str = ""
    notes: tuple[str, ...] = ()

    @property
    def num_layers(self) -> int:
        """Layers."""
        return int(self.tokens_SLE.shape[1])

    @property
    def num_experts(self) -> int:
        """Experts of a layer."""
        return int(self.tokens_SLE.shape[2])

    @property
    def interval_steps(self) -> int:
        """Median distance of recorded steps; 1 where there is one step only."""
        return int(np.median(np.diff(self.steps))) if len(self.steps) > 1 else 1

    @property
    def last_step(self) -> int | None:
        """The last step recorded; none where one record stands for all steps."""
        return int(self.steps[-1]) if len(self.steps) > 1 else None

    def loads(self, steps: Sequence[int] | Ints) -> Ints:
        """Return the tokens of each expert at each of the steps, shape (B, L, E)."""
        rows = np.searchsorted(self.steps, np.asarray(steps), side="right") - 1
        return self.tokens_SLE[np.maximum(rows, 0)]


MAX_WHOLE = 2.0**53
"""Floats above this skip whole numbers."""


def check_tokens(faults: Faults, steps: Floats, tokens_SLE: Floats) -> tuple[Ints, Ints]:
    """Check the loads of a file, repair them when lenient, and convert steps and loads to whole numbers.

    Raise RoutingFormatError when a count is not a whole number from 0 up, a layer of a step has no tokens or more than
    `lazsim.loads.MAX_TOKENS`, or steps do not ascend.
    """
    bad = ~_is_whole(tokens_SLE)
    if bad.any():
        row, layer, expert = np.argwhere(bad)[0].tolist()
        what = f"step {steps[row]:g}, layer {layer}, expert {expert} must be a whole number from 0 up"
        faults.fault("", what, "count it as 0", int(bad.sum()))
        tokens_SLE = np.where(bad, 0.0, tokens_SLE)
    bad_steps = ~_is_whole(steps)
    if bad_steps.any():
        faults.fault("", "steps must be whole numbers from 0 up", "leave such steps out", int(bad_steps.sum()))
        steps, tokens_SLE = steps[~bad_steps], tokens_SLE[~bad_steps]
    if (np.diff(steps) <= 0).any():
        faults.fault("", "steps must ascend", "sort them and keep the first of several")
        steps, rows = np.unique(steps, return_index=True)
        tokens_SLE = tokens_SLE[rows]
    total_SL = tokens_SLE.sum(axis=2)
    with prefix_errors(faults.name):
        check_layer_totals(total_SL.max(axis=0, initial=0.0))
    empty = total_SL == 0
    if empty.any():
        row, layer = np.argwhere(empty)[0].tolist()
        empty_S = empty.any(axis=1)
        what = f"step {steps[row]:g}, layer {layer} has no tokens at all"
        faults.fault("", what, "hold the step before it", int(empty_S.sum()))
        steps, tokens_SLE = steps[~empty_S], tokens_SLE[~empty_S]
    if not len(steps):
        raise RoutingFormatError(f"{faults.name}: no loads; give at least one step in which every layer has tokens")
    return steps.astype(np.int64), tokens_SLE.astype(np.int64)


def _is_whole(values: Floats) -> npt.NDArray[np.bool_]:
    whole: npt.NDArray[np.bool_] = (values >= 0) & (values < MAX_WHOLE) & (values == np.rint(values))
    return whole


def top_experts(routing: RecordedRouting, num_layers: int, num_experts: int) -> RecordedRouting:
    """Take a smaller model's loads from a larger one's recording.

    Parameters
    ----------
    routing
        The recording.
    num_layers
        Layers to take, from the first.
    num_experts
        Experts to take of each layer: those with the highest total load over the recording, by number.

    Raises
    ------
    RoutingFormatError
        When the recording has fewer layers or experts.

    Examples
    --------
    >>> recorded = RecordedRouting(np.array([0, 1]), np.array([[[5, 0, 1]], [[0, 0, 9]]]))
    >>> top_experts(recorded, 1, 2).tokens_SLE.tolist()
    [[[5, 1]], [[0, 9]]]
    """
    _, has_layers, has_experts = routing.tokens_SLE.shape
    if has_layers < num_layers or has_experts < num_experts:
        raise RoutingFormatError(
            f"{routing.name}: {has_layers} layers of {has_experts} experts, but the model has {num_layers} of "
            f"{num_experts}; choose a smaller model, or generated loads"
        )
    if (has_layers, has_experts) == (num_layers, num_experts):
        return routing
    tokens = routing.tokens_SLE[:, :num_layers]
    # As floats, which a long recording cannot overflow.
    order = np.argsort(-tokens.sum(axis=0, dtype=np.float64), axis=1, kind="stable")[:, :num_experts]
    taken = np.take_along_axis(tokens, np.sort(order, axis=1)[None], axis=2)
    empty = np.argwhere(taken.sum(axis=2) == 0)
    if len(empty):
        step, layer = empty[0].tolist()
        raise RoutingFormatError(
            f"{routing.name}: the {num_experts} most loaded experts of layer {layer} have no tokens at step "
            f"{routing.steps[step]}; take more of them"
        )
    note = f"loads of {num_experts} fullest of {has_experts} experts, in the first {num_layers} of {has_layers} layers"
    return RecordedRouting(routing.steps, taken, routing.name, routing.sha256, (*routing.notes, note))
