"""Generate loads that are skewed, drift, and differ between layers.

Axes: B requested steps, K grid points of a block, L layers, E experts.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Annotated

import numpy as np
from msgspec import Meta

from lazsim.errors import SpecError
from lazsim.limits import MAX_PLAN_CELLS, MAX_STRETCHES
from lazsim.loads import FINEST, check_whole
from lazsim.placement.plan import Floats, Ints
from lazsim.routing.table import RecordedRouting
from lazsim.row_blocks import CACHED_ELEMENTS
from lazsim.specs import Spec
from lazsim.specs.record import Count, Factor, NumExperts, Share

BLOCK_POINTS = 32
"""Grid points generated at once; each block has a separate random stream."""

SHAPE_SCORES = tuple(score / 2 for score in range(-6, 7))
"""Standard normal scores, -3 to 3, of the quantiles in `RoutingSpec.shape`."""

FINE_SCORES = tuple(score / 10 for score in range(-30, 31))
"""Scores of the quantiles of a part of that distribution."""

MAX_POINTS = 128
"""Grid points of which loads are kept."""

MAX_WALKS = 2
"""Blocks of which all points are kept."""

MAX_STARTS = 256
"""Starts of blocks that are kept. One in two goes when there are more: to walk again through a few blocks is cheap."""


Steps = Annotated[float, Meta(ge=1e-6, le=1e12)]
"""Steps in which something decays."""


class RoutingSpec(Spec, frozen=True, kw_only=True):
    """Parameters of generated loads.

    The logarithm of an expert's load, relative to its layer, follows one distribution, scaled to the layer's standard
    deviation. Over training it follows a Gaussian process with a fast and a slow part.
    """

    name: str
    skew: Factor
    skew_spread: float
    """Mean and standard deviation, over layers, of the standard deviation of log loads."""
    num_experts: NumExperts
    """Experts of a layer in the recording. A model with fewer experts gets the most loaded ones; in a model with more
    experts, loads spread no further."""
    shape: tuple[Annotated[float, Meta(ge=-1e6, le=1e6)], ...]
    """Quantiles of log loads in units of the layer's standard deviation, at the normal scores `SHAPE_SCORES`."""
    start_share: Share
    """Share of a layer's skew at step 0."""
    ramp_steps: Steps
    """Steps in which the missing skew falls to 1/e."""
    fast_share: Share
    """Share of the fast part in the variance."""
    fast_steps: Steps
    slow_steps: Steps
    """Steps in which the autocorrelation of each part falls to 1/e."""
    interval_steps: Count
    """Steps for which loads stay the same."""
    source: str
    """Recording behind the parameters, and quality of the fit."""

    def __post_init__(self) -> None:
        if len(self.shape) != len(SHAPE_SCORES):
            raise ValueError(f"shape must be {len(SHAPE_SCORES)} numbers")
        if any(above < below for below, above in itertools.pairwise(self.shape)):
            raise ValueError("shape must not fall")
        if not 0 <= self.skew_spread < self.skew:
            raise ValueError("skew_spread must be from 0 up and below skew")


class GeneratedRouting:
    """Loads drawn from a `RoutingSpec`: they depend on seed and step alone, and are made in blocks.

    Notes
    -----
    Each part is an Ornstein-Uhlenbeck process, sampled exactly on the grid: ``x[k+1] = rho x[k] + sqrt(1 - rho^2) e``.
    Their sum ``g``, of unit variance, becomes a log load by interpolation: ``skew * interp(g, SHAPE_SCORES, shape)``.
    Beyond the last score the last quantile applies: 0.1 % of experts at each end. A model with fewer experts than the
    specification gets the most loaded ones, as in the published evaluation (see `top_experts`): its experts follow the
    upper ``num_experts / spec.num_experts`` of the distribution at every step. In a model with more experts, loads stay
    within the medians of the largest and the smallest load of ``spec.num_experts`` experts (*assumption*).
    """

    last_step: int | None = None
    is_even = False
    notes: tuple[str, ...] = ()

    def __init__(self, spec: RoutingSpec, num_layers: int, num_experts: int, seed: int, sha256: str = "") -> None:
        self.name = spec.name
        self.sha256 = sha256
        self._spec = spec
        self.num_layers = num_layers = check_whole("num_layers", num_layers)
        self.num_experts = num_experts = check_whole("num_experts", num_experts)
        self.interval_steps = spec.interval_steps
        self._seed = check_whole("seed", seed, least=0)
        self._shape_at = _quantiles(spec, num_experts)
        rng = self._stream(0)
        # Log-normal over layers, with the mean and the standard deviation of the specification.
        variance = math.log1p((spec.skew_spread / spec.skew) ** 2)
        self._skew_L = rng.lognormal(math.log(spec.skew) - variance / 2, math.sqrt(variance), num_layers)
        self._starts = {0: rng.standard_normal((2, num_layers, num_experts))}
        # As many points at once as fit into the cache, a power of two.
        points = max(1, min(BLOCK_POINTS, CACHED_ELEMENTS // (num_layers * num_experts)))
        self._piece_points = 1 << points.bit_length() - 1
        self._walk = functools.lru_cache(MAX_WALKS)(self._walk_through)
        self._piece = functools.lru_cache(MAX_POINTS // self._piece_points)(self._tokens_of)
        self._most_blocks = min(MAX_STRETCHES // BLOCK_POINTS, MAX_PLAN_CELLS // (num_layers * num_experts))

    def loads(self, steps: Sequence[int] | Ints) -> Ints:
        """Return the tokens of each expert at each of the steps, shape (B, L, E).

        Loads of a step follow from those of all steps before it: `SpecError` beyond some millions of steps.
        """
        points = [int(step) // self._spec.interval_steps for step in steps]
        if max(points, default=0) >= self._most_blocks * BLOCK_POINTS:
            most = self._most_blocks * BLOCK_POINTS * self._spec.interval_steps
            raise SpecError(f"{self.name}: loads are generated for the first {most:,} steps; ask for these")
        tokens_BLE = np.empty((len(points), self.num_layers, self.num_experts), dtype=np.int64)
        for tokens, point in zip(tokens_BLE, points, strict=True):
            piece, place = divmod(point, self._piece_points)
            tokens[:] = self._piece(piece)[place]
        return tokens_BLE

    def since(self, step: int) -> int:
        """Return the first step that has the loads of a step."""
        return step - step % self.interval_steps

    def _stream(self, number: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(number,)))

    def _walk_through(self, block: int) -> Floats:
        """Return both parts at the points of a block and at the first point of the next, shape (K + 1, 2, L, E)."""
        spec, shape = self._spec, (BLOCK_POINTS + 1, 2, self.num_layers, self.num_experts)
        known = max(start for start in self._starts if start <= block)
        start = self._starts[known]
        for before in range(known, block):
            start = self._walk(before)[-1]
        decay = np.exp(-spec.interval_steps / np.array([spec.fast_steps, spec.slow_steps]))[:, None, None]
        spread = np.sqrt(1 - decay**2)
        parts = self._stream(block + 1).standard_normal(shape)
        parts[0] = start
        for part, following in itertools.pairwise(parts):
            following *= spread
            following += decay * part
        if block + 1 not in self._starts:
            self._starts[block + 1] = parts[-1].copy()
        if len(self._starts) > MAX_STARTS:
            self._starts = dict(list(self._starts.items())[::2])
        return parts

    def _tokens_of(self, piece: int) -> Ints:
        """Return the tokens at the points of a piece, which are of one block."""
        spec, points = self._spec, np.arange(self._piece_points) + piece * self._piece_points
        block, first = divmod(int(points[0]), BLOCK_POINTS)
        parts = self._walk(block)[first : first + len(points)]
        gaussian = math.sqrt(spec.fast_share) * parts[:, 0] + math.sqrt(1 - spec.fast_share) * parts[:, 1]
        ramp = 1 - (1 - spec.start_share) * np.exp(-points * spec.interval_steps / spec.ramp_steps)
        log_load = np.interp(gaussian, FINE_SCORES, self._shape_at)
        log_load *= ramp[:, None, None] * self._skew_L[:, None]
        load = np.exp(log_load - log_load.max(axis=2, keepdims=True))
        load *= FINEST / load.sum(axis=2, keepdims=True)
        tokens: Ints = np.rint(load).astype(np.int64)
        return tokens


Routing = RecordedRouting | GeneratedRouting
"""Loads of every layer's experts at any step; the same step always has the same loads."""


def _quantiles(spec: RoutingSpec, num_experts: int) -> Floats:
    """Return quantiles of log loads at `FINE_SCORES` for layers of `num_experts`."""
    normal = NormalDist()
    share = min(1.0, num_experts / spec.num_experts)
    scores = np.array([-normal.inv_cdf(share * normal.cdf(-score)) for score in FINE_SCORES])
    if num_experts > spec.num_experts:
        # The median of the largest of spec.num_experts scores: no recording shows loads of more experts.
        reach = normal.inv_cdf(math.exp(math.log(0.5) / spec.num_experts))
        scores = scores.clip(-reach, reach)
    quantiles: Floats = np.interp(scores, SHAPE_SCORES, spec.shape)
    return quantiles
