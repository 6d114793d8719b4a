"""Training state in blocks that move as one: the dense part, and each expert of each layer.

A block is one array: parameters, then Adam's two moments, of the same length each.
"""

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lazsim.grouping import grouped
from lazsim.live.messages import HeldState
from lazsim.live.spec import LiveSpec
from lazsim.pytorch.device import CPU, Device
from lazsim.pytorch.group import ProcessGroup
from lazsim.pytorch.reduce import exchange_pieces, piece
from lazsim.pytorch.transformer import dense_shapes, expert_shapes

Key = tuple[int, int]
"""MoE layer and expert."""

DENSE: Key = (-1, -1)
"""The block of all parameters outside experts; every node in use holds it."""

INITIAL_STD = 0.02
"""GPT-2 draws initial weights with this standard deviation."""


def block_size(spec: LiveSpec, key: Key) -> int:
    """Count the parameters of a block."""
    return sum(math.prod(shape) for _, shape, _ in _slices(spec, key))


def _slices(spec: LiveSpec, key: Key) -> Iterator[tuple[str, tuple[int, ...], slice]]:
    """Yield the name, shape and place of each parameter in a block."""
    start = 0
    shapes = dense_shapes(spec.model) if key == DENSE else expert_shapes(spec.model)
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        yield name, shape, slice(start, stop)
        start = stop


class Block:
    """A block of the training state on a device: parameters and moments, shape (3, P), and a gradient, shape (P,).

    The `parameters` are leaves of the graph: views of the first row, whose gradients are views of `gradient`.
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
    """The blocks that a rank holds, all after `step` steps.

    Once `prepared`, their gradients are those of the next step, summed over all ranks of a `generation`.
    """

    def __init__(self, spec: LiveSpec, device: Device = CPU) -> None:
        self.spec, self.device = spec, device
        self.blocks: dict[Key, Block] = {}
        self.step = self.generation = 0
        self.prepared = False

    def held(self) -> HeldState:
        """Describe the state to the controller."""
        numbers = frozenset(number for number, key in enumerate(all_keys(self.spec)) if key in self.blocks)
        return HeldState(self.step, self.prepared, numbers, self.generation)

    def replace(self, blocks: Mapping[Key, Block], step: int) -> None:
        """Replace all blocks."""
        self.blocks, self.step, self.prepared = dict(blocks), step, False

    def add(self, values: Mapping[Key, Tensor]) -> None:
        """Add blocks of given parameters and moments."""
        self.blocks |= {key: Block(self.spec, key, value.to(self.device.torch)) for key, value in values.items()}

    def fetch(self, group: ProcessGroup, holds: Sequence[Collection[Key]], wants: Sequence[Collection[Key]]) -> None:
        """Add the blocks that this rank wants and does not hold, and send others theirs.

        All owners of a block send equal pieces to each rank that lacks it.
        """
        owners = grouped((key, rank) for rank, keys in enumerate(holds) for key in keys)
        sizes = {key: 3 * block_size(self.spec, key) for key in owners}

        def pieces(sender: int, receiver: int) -> list[tuple[Key, slice]]:
            return [
                (key, piece(sizes[key], len(owners[key]), owners[key].index(sender)))
                for key in sorted(set(wants[receiver]) - set(holds[receiver]))
                if sender in owners[key]
            ]

        sent = [pieces(group.rank, receiver) for receiver in range(group.size)]
        due = [pieces(sender, group.rank) for sender in range(group.size)]
        own = {key: block.values.reshape(-1) for key, block in self.blocks.items()}
        empty = torch.empty(0, dtype=getattr(torch, self.spec.dtype), device=self.device.torch)
        fetched = {key: empty.new_empty(sizes[key]) for parts in due for key, _ in parts}
        for key, part, values in exchange_pieces(group, own, sent, due, empty):
            fetched[key][part] = values
        group.confirm()
        self.add({key: values.view(3, -1) for key, values in fetched.items()})

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
    """List every block of a model, the dense one first, then the experts layer by layer."""
    model = spec.model
    return [DENSE, *((layer, expert) for layer in range(model.num_moe_layers) for expert in range(model.num_experts))]
