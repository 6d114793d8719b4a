"""Expert loads over training: what every source of loads offers, and recorded loads.

Axes: B steps asked for, S recorded steps, L layers, E experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lazsim.errors import RoutingFormatError

Ints = npt.NDArray[np.int64]


class Routing(Protocol):
    """Loads of every layer's experts at any step."""

    @property
    def name(self) -> str:
        """Where they come from."""

    @property
    def sha256(self) -> str:
        """The hash of where they come from."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed, a line each."""

    @property
    def last_step(self) -> int | None:
        """The last step known, after which loads are held; none where loads never end."""

    def loads(self, steps: Sequence[int] | Ints) -> Ints:
        """Return the tokens of each expert at each of the steps, shape (B, L, E).

        Only ratios within a layer count. The same step always has the same loads.
        """


@dataclass(frozen=True, eq=False)
class RecordedRouting:
    """Loads that were recorded at some steps and count until the next one.

    Attributes
    ----------
    steps : ndarray of int64, shape (S,)
        Steps recorded, ascending; the first counts for all steps before it, too.
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
    def last_step(self) -> int | None:
        """The last step recorded; none where one record stands for all steps."""
        return int(self.steps[-1]) if len(self.steps) > 1 else None

    def loads(self, steps: Sequence[int] | Ints) -> Ints:
        """Return the tokens of each expert at each of the steps, shape (B, L, E)."""
        rows = np.searchsorted(self.steps, np.asarray(steps), side="right") - 1
        return self.tokens_SLE[np.maximum(rows, 0)]


def check_tokens(name: str, steps: Ints, tokens_SLE: npt.NDArray[np.float64]) -> Ints:
    """Check what a file says, and count whole tokens.

    Raises
    ------
    RoutingFormatError
        When a count is negative, no number or not whole, a layer of a step has no tokens, or steps do not ascend.
    """
    if not len(steps):
        raise RoutingFormatError(f"{name}: no loads; give at least one step")
    if (np.diff(steps) <= 0).any() or steps[0] < 0:
        raise RoutingFormatError(f"{name}: steps must ascend from 0 up; sort them and drop duplicates")
    bad = ~(np.isfinite(tokens_SLE) & (tokens_SLE >= 0) & (tokens_SLE == np.rint(tokens_SLE)))
    for problem, at in (
        ("must be a whole number from 0 up", np.argwhere(bad)),
        ("has no tokens at all", np.argwhere(np.nan_to_num(tokens_SLE).sum(axis=2) == 0)),
    ):
        if len(at):
            step, layer, *expert = at[0].tolist()
            where = f"step {steps[step]}, layer {layer}" + (f", expert {expert[0]}" if expert else "")
            raise RoutingFormatError(f"{name}: {where} {problem}; mend the file")
    return tokens_SLE.astype(np.int64)


def top_experts(routing: RecordedRouting, num_layers: int, num_experts: int) -> RecordedRouting:
    """Take a smaller model's loads from a larger one's recording.

    Parameters
    ----------
    routing
        The recording.
    num_layers
        The first so many layers are taken.
    num_experts
        In each of them, the experts with the highest total load over the recording, in the order of their numbers.

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
    order = np.argsort(-tokens.sum(axis=0), axis=1, kind="stable")[:, :num_experts]
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
