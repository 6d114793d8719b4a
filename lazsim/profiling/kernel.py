"""What a kernel is: random inputs, what is run on them, and the same by plain means."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Random:
    """Makes random inputs on a device; on the device ``meta`` it only tells their shapes."""

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
        """Draw a matrix that keeps the variance of what it multiplies."""
        return self.normal(*shape, scale=shape[-2] ** -0.5)


@dataclass(frozen=True)
class Kernel:
    """A kernel of a model.

    Attributes
    ----------
    sizes : tuple of int
        What is measured: tokens, or what docs/profiles.md says.
    inputs : callable
        ``(size, random) -> tensors``; gradients are taken of all that are not whole numbers.
    forward, reference : callable
        The kernel, and the same by plain means, which is run in float64; both take the tensors.
    flop : callable
        ``size -> operations``, forward and backward.
    inner_elements : callable
        ``size -> elements`` held between forward and backward, to judge whether there is memory enough.
    traffic_bytes : callable, optional
        ``(size, bytes of an element) -> bytes`` that have to be moved, where that is not each input and output once in
        each direction.
    has_backward : bool
        Whether gradients are taken.
    checked_as : Kernel, optional
        The same code on less, which is compared with its reference in place of this one: float64 takes much memory.
    """

    name: str
    sizes: tuple[int, ...]
    inputs: Callable[[int, Random], tuple[Any, ...]]
    forward: Callable[..., Any]
    reference: Callable[..., Any]
    flop: Callable[[int], float]
    inner_elements: Callable[[int], float]
    traffic_bytes: Callable[[int, int], float] | None = None
    has_backward: bool = True
    checked_as: "Kernel | None" = None
