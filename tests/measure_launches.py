"""Count the kernels that a training step launches: ``python -m tests.measure_launches``.

The operators of lazsim.pytorch run on the CPU under torch's profiler. One that moves or computes data launches one
kernel on a GPU; views and allocations launch none. A layer is the difference between models of two layers and of one.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from lazsim.placement.expert_parallel import place_ep
from lazsim.pytorch.operators import expert
from lazsim.pytorch.transformer import RankDispatch, Transformer, dense_shapes, expert_shapes
from lazsim.specs import ModelSpec, load_spec

NO_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "resize_", "set_", "item", "_local_scalar_dense"),
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "as_strided", "expand", "expand_as", "t", "transpose"),
    *("permute", "select", "slice", "narrow", "split", "split_with_sizes", "chunk", "unbind", "unsqueeze", "squeeze"),
    *("detach", "detach_", "alias", "unflatten", "flatten", "to", "contiguous", "result_type", "lift_fresh"),
    *("resolve_conj", "resolve_neg", "promote_types", "zeros_like", "ones_like", "_to_copy", "view_as", "zeros"),
    *("new_zeros", "empty_permuted", "ones"),
}  # fmt: skip


class Alone:
    """The only rank: exchanges are copies, which are counted apart."""

    rank, size = 0, 1

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.reshape(1, *tensor.shape)

    def all_to_all(self, rows: torch.Tensor, counts_in: list[int], counts_out: list[int]) -> torch.Tensor:
        return rows.clone()


def launches(name: str) -> bool:
    """Tell whether an operator moves or computes data."""
    return name.startswith("aten::") and name.removeprefix("aten::") not in NO_KERNEL


def descendants(event: Any) -> Iterator[Any]:
    """Yield the operators that an operator calls."""
    for child in event.cpu_children:
        yield child
        yield from descendants(child)


def count(run: profile) -> int:
    """Count the kernels of a run under the profiler."""
    return sum(
        launches(event.name) and not any(launches(one.name) for one in descendants(event)) for event in run.events()
    )


def count_passes(forward: Callable[[], torch.Tensor]) -> tuple[int, int]:
    """Count the kernels of a forward pass that ends in one number, and of its backward pass."""
    with profile(activities=[ProfilerActivity.CPU]) as there:
        loss = forward()
    with profile(activities=[ProfilerActivity.CPU]) as back:
        loss.backward()
    return count(there), count(back)


def draw(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Draw parameters."""
    return {name: torch.randn(shape).mul(0.1).requires_grad_() for name, shape in shapes.items()}


def count_step(num_layers: int, *, padded: bool) -> tuple[int, int, int]:
    """Count forward and backward kernels of a small model with a MoE layer in every layer, and its experts in use."""
    model = msgspec.structs.replace(
        load_spec(ModelSpec, "gpt-s"), num_layers=num_layers, num_moe_layers=num_layers, num_experts=4,
        d_model=64, d_ff_expert=128, sequence_length=64, vocab_size=128,
    )  # fmt: skip
    torch.manual_seed(0)
    dense = draw(dense_shapes(model))
    experts = {(layer, one): draw(expert_shapes(model)) for layer in range(num_layers) for one in range(4)}
    plan = place_ep(num_layers, 4, 1, 1, 4)
    group = np.zeros(1, dtype=np.int64) if padded else None
    dispatch = RankDispatch(plan.replicas_LEN, group, padded)
    transformer = Transformer(model, 4, dense, experts, Alone(), dispatch)  # type: ignore[arg-type]
    sequences = torch.randint(model.vocab_size, (8, model.sequence_length + 1))
    passes = count_passes(lambda: transformer.loss(sequences, 8, 0.01))
    return *passes, sum(load > 0 for loads in transformer.loads for load in loads) if not padded else 4 * num_layers


def main() -> None:
    """Print the kernels of a layer without its experts, and of each expert."""
    tokens, weights = torch.randn(16, 64, requires_grad=True), (torch.randn(64, 128), torch.randn(128, 64))
    weights = tuple(weight.requires_grad_() for weight in weights)
    nothing = count_passes(lambda: (tokens * 1.0).sum())
    with_expert = count_passes(lambda: expert(tokens * 1.0, *weights).sum())
    of_expert = [more - less for more, less in zip(with_expert, nothing, strict=True)]
    print(f"an expert: {of_expert[0]} forward, {of_expert[1]} backward")
    for padded in (False, True):
        one, two = count_step(1, padded=padded), count_step(2, padded=padded)
        layer = [two[way] - one[way] - of_expert[way] * (two[2] - one[2]) for way in (0, 1)]
        print(f"a layer, {'padded' if padded else 'uneven'}: {layer[0]} forward, {layer[1]} backward")


if __name__ == "__main__":
    main()
