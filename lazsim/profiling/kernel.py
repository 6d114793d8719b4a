"""A kernel: random inputs, the code that is timed, and a plain reference."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Random:
    """Draws inputs on a device; on the device ``meta`` they have shapes only."""

    device: str
    dtype: Any
    generator: Any = None

    def normal(self, *shape: int, scale: float = 1.0, dtype: Any = None) -> Any:
        """Draw from a normal distribution."""
        return torch.randn(shape, device=self.device, dtype=dtype or self.dtype, generator=self.generator) * scale

    def integers(self, high: int, count: int) -> Any:
        """Draw whole numbers below `high`."""
        return torch.randint(high, (count,), device=self.device, generator=self.generator)

    def weight(self, *shape: int) -> Any:
        """Draw a matrix that keeps the variance of its input."""
        return self.normal(*shape, scale=shape[-2] ** -0.5)


@dataclass(frozen=True)
class Kernel:
    """A kernel of a model.

    Attributes
    ----------
    sizes : tuple of int
        Sizes to measure: tokens, or what docs/guides/profiles.md says.
    inputs : callable
        ``(size, random) -> tensors``; gradients are taken of all that are not whole numbers.
    forward, reference : callable
        The timed code, and a plain version that runs in float64; both take the tensors.
    flop : callable
        ``size -> operations``, forward and backward.
    inner_elements : callable
        ``size -> elements`` held between forward and backward.
    traffic_bytes : callable, optional
        ``(size, bytes of an element) -> bytes`` that have to be moved; by default each input and output once in each
        direction.
    has_backward : bool
        Whether gradients are taken.
    checked_as : Kernel, optional
        The same code on less data, compared with its reference in place of this kernel: float64 takes much memory.
    """

    name: str
    sizes: tuple[int, ...]
    inputs: Callable[[int, Random], tuple[Any, ...]]
    forward: Callable[..., Any]
    reference: Callable[..., Any]
    flop: Callable[[int], float] = lambda _: 0.0
    inner_elements: Callable[[int], float] = lambda _: 0.0
    traffic_bytes: Callable[[int, int], float] | None = None
    has_backward: bool = True
    checked_as: "Kernel | None" = None
