"""Recorded expert loads.

Axes: B requested steps, S recorded steps, L layers, E experts.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lazsim.errors import SpecError, prefix_errors
from lazsim.files.faults import Faults
from lazsim.limits import MAX_WHOLE
from lazsim.loads import as_array, whole_loads
from lazsim.placement.plan import Floats, Ints


@dataclass(frozen=True, eq=False)
class RecordedRouting:
    """Loads recorded at some steps; each record applies until the next.

    Raises
    ------
    SpecError
        When steps do not ascend, or loads are no whole numbers from 0 up of shape (S, L, E).

    Examples
    --------
    >>> recorded = RecordedRouting(np.array([1, 11]), np.array([[[3, 1]], [[0, 4]]]))
    >>> recorded.loads([0, 10, 11, 99]).tolist()
    [[[3, 1]], [[3, 1]], [[0, 4]], [[0, 4]]]
    """

    steps: Ints
    """Recorded steps, ascending; the first record applies to all steps before it, too. Shape (S,)."""
    tokens_SLE: Ints
    """Tokens routed to each expert, whole numbers from 0 up, shape (S, L, E)."""
    name: str = ""
    sha256: str = ""
    notes: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    """Number of each layer in its model, where dense layers count, too; empty where layers are numbered from 0."""

    def __post_init__(self) -> None:
        """Check that there is a step for each record; loads of a file have been checked."""
        steps, tokens = as_array("steps", self.steps), as_array("tokens_SLE", self.tokens_SLE)
        is_whole = steps.dtype.kind in "iu" and tokens.dtype.kind in "iu" and tokens.ndim == 3
        if not is_whole or steps.shape != (len(tokens),) or (np.diff(steps.astype(np.int64)) <= 0).any():
            raise SpecError(
                "`steps`: expected ascending whole numbers, one for each record of `tokens_SLE`, whole numbers "
                f"of shape (steps, layers, experts), found shapes {steps.shape} and {tokens.shape}"
            )
        if tokens.min(initial=0) < 0:
            raise SpecError("`tokens_SLE`: expected whole numbers from 0 up, found one below 0")
        object.__setattr__(self, "steps", steps.astype(np.int64, copy=False))
        object.__setattr__(self, "tokens_SLE", tokens.astype(np.int64, copy=False))

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """Number of each layer in its model."""
        return self.layers or tuple(range(self.num_layers))

    @property
    def num_layers(self) -> int:
        """Layers."""
        return int(self.tokens_SLE.shape[1])

    @property
    def num_experts(self) -> int:
        """Experts of a layer."""
        return int(self.tokens_SLE.shape[2])

    @functools.cached_property
    def is_even(self) -> bool:
        """Whether all experts of a layer get the same at all steps, so that no plan and no step ever changes."""
        return bool((self.tokens_SLE == self.tokens_SLE[:1, :, :1]).all())

    @property
    def interval_steps(self) -> int:
        """Median distance of recorded steps; 1 where there is one step only."""
        return int(np.median(np.diff(self.steps))) if len(self.steps) > 1 else 1

    @property
    def last_step(self) -> int | None:
        """The last step recorded; none where one record stands for all steps."""
        return int(self.steps[-1]) if len(self.steps) > 1 else None

    def loads(self, steps: Sequence[int] | Ints) -> Ints:
        """Return the tokens of each expert at each of the steps, shape (B, L, E); only ratios within a layer matter."""
        return self.tokens_SLE[self._rows(steps)]

    def since(self, step: int) -> int:
        """Return the first step that has the loads of a step."""
        row = int(self._rows([step])[0])
        return int(self.steps[row]) if row else 0

    def _rows(self, steps: Sequence[int] | Ints) -> Ints:
        return np.maximum(np.searchsorted(self.steps, np.asarray(steps), side="right") - 1, 0)


def check_tokens(faults: Faults, steps: Floats, tokens_SLE: Floats, layers: tuple[int, ...]) -> RecordedRouting:
    """Check the loads of a file, repair them when lenient, and convert steps and loads to whole numbers.

    Layers without tokens at all steps are dense: they are left out, as are steps without any tokens. Loads that are
    fractions, such as shares, are multiplied by one number; see `lazsim.loads.whole_loads`. A `SpecError` says
    that a load is no number from 0 up, a layer has tokens at some steps only or too many, or steps do not ascend.
    """
    bad = ~((tokens_SLE >= 0) & np.isfinite(tokens_SLE))
    if bad.any():
        row, layer, expert = np.argwhere(bad)[0].tolist()
        what = f"step {steps[row]:.12g}, layer {layers[layer]}, expert {expert} must be a number from 0 up"
        faults.fault("", what, "count it as 0", int(bad.sum()))
        tokens_SLE = np.where(bad, 0.0, tokens_SLE)
    bad_steps = ~((steps >= 0) & (steps < MAX_WHOLE) & (steps == np.rint(steps)))
    if bad_steps.any():
        faults.fault("", "steps must be whole numbers from 0 up", "leave such steps out", int(bad_steps.sum()))
        steps, tokens_SLE = steps[~bad_steps], tokens_SLE[~bad_steps]
    if (np.diff(steps) <= 0).any():
        faults.fault("", "steps must ascend", "sort them and keep the first of several")
        steps, rows = np.unique(steps, return_index=True)
        tokens_SLE = tokens_SLE[rows]
    is_numbered = len(steps) > 1 and (steps == np.arange(len(steps))).all()
    steps, tokens_SLE, layers, notes = _without_empty(steps, tokens_SLE, layers)
    if is_numbered:
        notes.append(
            "records are of steps 0, 1, 2 and so on, of which a run takes 25, 75, 125 and so on: if they are further "
            "apart, give their steps, as iteration"
        )
    empty = tokens_SLE.sum(axis=2) == 0
    if empty.any():
        row, layer = np.argwhere(empty)[0].tolist()
        empty_S = empty.any(axis=1)
        what = f"step {steps[row]:.12g}, layer {layers[layer]} has no tokens at all, but has some at other steps"
        faults.fault("", what, "hold the step before it", int(empty_S.sum()))
        steps, tokens_SLE = steps[~empty_S], tokens_SLE[~empty_S]
    growth = np.diff(tokens_SLE, axis=0)
    if len(growth) > 1 and (growth >= 0).all() and growth.any(axis=(1, 2)).all():
        notes.append("no load ever falls: if these are counters since the start, give their differences instead")
    if not tokens_SLE.size:
        raise SpecError(f"{faults.name}: no loads; give at least one step in which every layer has tokens")
    with prefix_errors(faults.name):
        whole_SLE, factor = whole_loads(tokens_SLE)
    if factor > 1:
        notes.append(f"loads are fractions: all are multiplied by {factor:,} and rounded")
    return RecordedRouting(steps.astype(np.int64), whole_SLE, faults.name, notes=tuple(notes), layers=layers)


def _without_empty(
    steps: Floats, tokens_SLE: Floats, layers: tuple[int, ...]
) -> tuple[Floats, Floats, tuple[int, ...], list[str]]:
    """Leave out layers and steps without any tokens; return what remains, and notes."""
    used_SL = tokens_SLE.max(axis=2, initial=0.0) > 0
    used_L, used_S = used_SL.max(axis=0), used_SL.max(axis=1)
    kept = tuple(layers[at] for at in used_L.nonzero()[0].tolist())
    notes = []
    dense = sorted(set(range(layers[-1] + 1)) - set(kept))
    if kept and dense:
        notes.append(f"MoE layers are those numbered {spans(kept)}; {spans(dense)} are taken for dense")
    if used_S.any() and not used_S.all():
        notes.append(f"steps without any tokens, which are left out: {int((~used_S).sum())}")
    return steps[used_S], tokens_SLE[used_S][:, used_L], kept, notes


def spans(numbers: Sequence[int]) -> str:
    """Write ascending numbers as spans.

    Examples
    --------
    >>> spans([0, 1, 2, 5])
    '0-2, 5'
    """
    texts: list[str] = []
    for _, group in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        first, *others = [number for _, number in group]
        texts.append(f"{first}-{others[-1]}" if others else str(first))
    return ", ".join(texts)


def top_experts(routing: RecordedRouting, num_layers: int, num_experts: int) -> RecordedRouting:
    """Take a smaller model's loads from a larger one's recording; a `SpecError` says that it is too small.

    They are those of the first `num_layers` layers, and in each of the `num_experts` experts with the highest total
    load over the recording, by number.

    Examples
    --------
    >>> recorded = RecordedRouting(np.array([0, 1]), np.array([[[5, 0, 1]], [[0, 0, 9]]]))
    >>> top_experts(recorded, 1, 2).tokens_SLE.tolist()
    [[[5, 1]], [[0, 9]]]
    """
    _, has_layers, has_experts = routing.tokens_SLE.shape
    if has_layers < num_layers or has_experts < num_experts:
        raise SpecError(
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
        raise SpecError(
            f"{routing.name}: the {num_experts} most loaded experts of layer {layer} have no tokens at step "
            f"{routing.steps[step]}; take more of them"
        )
    note = f"loads of {num_experts} fullest of {has_experts} experts, in the first {num_layers} of {has_layers} layers"
    return replace(routing, tokens_SLE=taken, notes=(*routing.notes, note), layers=routing.layer_numbers[:num_layers])


CSV_HEADER = "# lazsim-routing 1"
CSV_COLUMNS = "step,layer,expert,tokens"


def write_csv(routing: RecordedRouting) -> bytes:
    """Return recorded loads as lazsim's CSV: a header line, then ``step,layer,expert,tokens`` without the zeros.

    The last expert of the last layer is always there, so that a reader knows the numbers of layers and experts.
    """
    lines = [CSV_HEADER, CSV_COLUMNS]
    keep = routing.tokens_SLE > 0
    keep[:, -1, -1] = True
    for row, layer, expert in np.argwhere(keep).tolist():
        tokens = routing.tokens_SLE[row, layer, expert]
        lines.append(f"{routing.steps[row]},{routing.layer_numbers[layer]},{expert},{tokens}")
    return ("\n".join(lines) + "\n").encode()
