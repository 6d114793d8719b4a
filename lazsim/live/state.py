"""Training state in blocks that move as one: the dense part, and each expert of each layer.

A block is one array: parameters, then Adam's two moments, of the same length each.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from lazsim.live.spec import LiveSpec

Key = tuple[int, int]
"""MoE layer and expert."""

DENSE: Key = (-1, -1)
"""The block of all parameters outside experts; every node in use holds it."""

INITIAL_STD = 0.02
"""GPT-2 draws initial weights with this standard deviation."""


def block_shapes(spec: LiveSpec, key: Key) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of a block's parameters by name; names of vectors end in ``gain`` or ``bias``."""
    model = spec.model
    width, inner = model.d_model, model.d_ff_expert
    if key != DENSE:
        return {"up": (width, inner), "down": (inner, width)}
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (model.vocab_size, width),
        "positions": (model.sequence_length, width),
        "final.gain": (width,),
        "final.bias": (width,),
    }
    for layer in range(model.num_layers):
        shapes |= {f"{layer}.{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("gain", "bias")}
        shapes |= {f"{layer}.qkv": (width, 3 * width), f"{layer}.out": (width, width)}
        if layer >= spec.first_moe_layer:
            shapes[f"{layer}.gate"] = (width, model.num_experts)
        else:
            shapes |= {f"{layer}.up": (width, model.d_ff_dense), f"{layer}.down": (model.d_ff_dense, width)}
    return shapes


def block_size(spec: LiveSpec, key: Key) -> int:
    """Count the parameters of a block."""
    return sum(math.prod(shape) for shape in block_shapes(spec, key).values())


def _slices(spec: LiveSpec, key: Key) -> Iterator[tuple[str, tuple[int, ...], slice]]:
    """Yield the name, shape and place of each parameter in a block."""
    start = 0
    for name, shape in block_shapes(spec, key).items():
        stop = start + math.prod(shape)
        yield name, shape, slice(start, stop)
        start = stop


class Block:
    """A block of the training state on a device.

    Attributes
    ----------
    values : Tensor, shape (3, P)
        Parameters and moments.
    gradient : Tensor, shape (P,)
        Sum of the backward pass.
    parameters : mapping
        Leaves of the graph: views of the first row, whose gradients are views of `gradient`.
    """

    def __init__(self, spec: LiveSpec, key: Key, values: Tensor) -> None:
        self.values = values
        self.gradient = torch.zeros_like(values[0])
        self.parameters: dict[str, Tensor] = {}
        for name, shape, part in _slices(spec, key):
            leaf = values[0, part].view(shape).requires_grad_()
            leaf.grad = self.gradient[part].view(shape)
            self.parameters[name] = leaf

    def update(self, spec: LiveSpec, step: int) -> None:
        """Apply Adam (arXiv 1412.6980) with the gradient of a step, counted from 0."""
        with torch.no_grad():
            parameters, mean, square = self.values
            mean.lerp_(self.gradient, 1 - spec.beta1)
            square.mul_(spec.beta2).addcmul_(self.gradient, self.gradient, value=1 - spec.beta2)
            scale = spec.learning_rate / (1 - spec.beta1 ** (step + 1))
            spread = (square / (1 - spec.beta2 ** (step + 1))).sqrt_().add_(spec.epsilon)
            parameters.addcdiv_(mean, spread, value=-scale)


class TrainingState:
    """The blocks that a rank holds.

    Attributes
    ----------
    blocks : dict
        Blocks by key, all after `step` steps.
    step : int
        Steps committed.
    prepared : bool
        Whether the gradients in the blocks are those of the next step, summed over all ranks.
    """

    def __init__(self, spec: LiveSpec) -> None:
        self.spec = spec
        self.blocks: dict[Key, Block] = {}
        self.step = 0
        self.prepared = False

    def replace(self, blocks: Mapping[Key, Block], step: int) -> None:
        """Replace all blocks."""
        self.blocks, self.step, self.prepared = dict(blocks), step, False

    def commit(self) -> None:
        """Apply the prepared update."""
        assert self.prepared, "only a prepared step is committed"
        # If memory runs out halfway, half-updated blocks must not be offered to others.
        blocks, self.blocks = self.blocks, {}
        for block in blocks.values():
            block.update(self.spec, self.step)
        self.blocks = blocks
        self.step += 1
        self.prepared = False


def initial_values(spec: LiveSpec, key: Key) -> Tensor:
    """Draw the initial state of a block, the same on every node."""
    digest = hashlib.sha256(f"{spec.seed}/{key[0]}/{key[1]}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    values = torch.zeros(3, block_size(spec, key), dtype=getattr(torch, spec.dtype))
    for name, _, part in _slices(spec, key):
        if name.endswith(".gain"):
            values[0, part] = 1.0
        elif not name.endswith(".bias"):
            values[0, part].normal_(0.0, INITIAL_STD, generator=generator)
    return values


def all_keys(spec: LiveSpec) -> list[Key]:
    """List every block of a model, the dense one first."""
    return [DENSE, *expert_keys(spec)]


def expert_keys(spec: LiveSpec) -> list[Key]:
    """List the experts of all layers."""
    return [(layer, expert) for layer in range(spec.model.num_moe_layers) for expert in range(spec.model.num_experts)]


def block_number(spec: LiveSpec, key: Key) -> int:
    """Return the number of a block: 0 is the dense one, experts follow layer by layer."""
    return 0 if key == DENSE else 1 + key[0] * spec.model.num_experts + key[1]


def block_key(spec: LiveSpec, number: int) -> Key:
    """Return the block of a number; see `block_number`."""
    return DENSE if number == 0 else ((number - 1) // spec.model.num_experts, (number - 1) % spec.model.num_experts)
