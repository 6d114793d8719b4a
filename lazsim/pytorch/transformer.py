"""A GPT-2-shaped MoE transformer as a function of its parameters, dropping no token.

It is made of the operators that ``lazsim profile`` measures. Projections have no biases: the bias of keys has no effect
on the loss, so that its gradient is rounding alone, which Adam would blow up to a full step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lazsim.placement.plan import Ints
from lazsim.pytorch.dispatch import (
    ExchangePlan,
    assign_rows,
    count_tokens,
    gate,
    inverse_of,
    pack_and_combine,
    plan_exchange,
    sort_and_unsort,
)
from lazsim.pytorch.group import ProcessGroup
from lazsim.pytorch.operators import attention_block, expert, head_loss, looped_experts
from lazsim.pytorch.reduce import ExpertKey
from lazsim.specs import AttentionSpec, ModelSpec


@dataclass(frozen=True, eq=False)
class RankDispatch:
    """How ranks dispatch tokens: to which replicas, inside which groups if any, and whether buffers are padded."""

    replicas_LEJ: Ints
    group_J: Ints | None = None
    padded: bool = False


class _AllToAll(torch.autograd.Function):
    """An all-to-all whose gradient goes the way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: ProcessGroup, counts_in: list[int], counts_out: list[int]) -> Tensor:
        ctx.way_back = (group, counts_out, counts_in)
        return group.all_to_all(rows, counts_in, counts_out)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return all_to_all(gradient, *ctx.way_back), None, None, None


def all_to_all(rows: Tensor, group: ProcessGroup, counts_in: list[int], counts_out: list[int]) -> Tensor:
    """Exchange rows so that gradients go the way back."""
    received: Tensor = _AllToAll.apply(rows, group, counts_in, counts_out)  # type: ignore[no-untyped-call]
    return received


class Transformer:
    """The part of a model that one rank computes, from the parameters that it holds: `dense` ones, and some experts'.

    In the last call of `loss`, `loads` are the tokens of each expert of each MoE layer over all ranks.
    """

    def __init__(
        self,
        model: ModelSpec,
        num_heads: int,
        dense: Mapping[str, Tensor],
        experts: Mapping[ExpertKey, Mapping[str, Tensor]],
        group: ProcessGroup,
        dispatch: RankDispatch,
    ) -> None:
        self.model = model
        self.heads = AttentionSpec(num_heads=num_heads, num_kv_heads=num_heads, head_dim=model.d_model // num_heads)
        self.group, self.dispatch = group, dispatch
        self._dense, self._experts = dense, experts
        self.loads: list[list[int]] = []

    def loss(self, sequences: Tensor, num_sequences: int, balance_weight: float) -> Tensor:
        """Return this rank's part of the mean loss over the tokens of all ranks, which have `num_sequences`.

        Own sequences, each with the token that follows, have shape (B, S + 1). The auxiliary loss that evens out expert
        loads has a weight (Switch Transformer, arXiv 2101.03961).
        """
        model, dense = self.model, self._dense
        num_tokens = num_sequences * model.sequence_length
        self.loads = []
        x = (dense["embedding"][sequences[:, :-1]] + dense["positions"]).reshape(-1, model.d_model)
        balance = x.new_zeros(())
        for layer in range(model.num_layers):
            x, normed = attention_block(
                x,
                (dense[f"{layer}.qkv"], dense[f"{layer}.out"]),
                model.sequence_length,
                self.heads,
                norms=(self._norm(f"{layer}.norm1"), self._norm(f"{layer}.norm2")),
            )
            if layer not in model.moe_layers:
                out = expert(normed, dense[f"{layer}.up"], dense[f"{layer}.down"])
            else:
                out, unevenness = self._moe(model.moe_layers.index(layer), normed, dense[f"{layer}.gate"], num_tokens)
                balance = balance + unevenness
            x = x + out
        targets = sequences[:, 1:].reshape(-1)
        entropy: Tensor = head_loss(x, dense["embedding"], targets, self._norm("final"), reduction="sum")
        return entropy / num_tokens + balance_weight * balance

    def _norm(self, name: str) -> tuple[Tensor, Tensor]:
        return self._dense[f"{name}.gain"], self._dense[f"{name}.bias"]

    def _moe(self, layer: int, x: Tensor, gate_weight: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Return the output of the experts, and how unevenly they are loaded: 1 over all ranks if evenly."""
        num_experts, top_k, dispatch = self.model.num_experts, self.model.top_k, self.dispatch
        weights, chosen, probs = gate(x, gate_weight, top_k)
        if top_k > 1:
            weights = weights / weights.sum(dim=1, keepdim=True)
        experts_A = chosen.flatten()
        # The host plans with these counts, so they go by the transport that it can trust.
        counts = self.group.all_gather(count_tokens(experts_A, num_experts).cpu())
        tokens_EI = counts.numpy().T
        load_E = tokens_EI.sum(axis=1)
        self.loads.append(load_E.tolist())
        plan = plan_exchange(
            tokens_EI, dispatch.replicas_LEJ[layer], dispatch.group_J, self.group.rank, padded=dispatch.padded
        )
        # The host has the numbers to send for the exchange, so that the device need not compute them again.
        rows = assign_rows(experts_A, torch.from_numpy(plan.sent_EJ).to(x.device))

        def exchange(packed: Tensor, _row: Tensor, _back: Tensor) -> Tensor:
            return self._exchange(layer, packed, plan)

        out: Tensor = pack_and_combine(x, rows, top_k, weights, exchange)
        share_E = torch.as_tensor(load_E / load_E.sum(), dtype=x.dtype, device=x.device)
        return out, num_experts * (share_E * probs.sum(dim=0)).sum() / num_tokens

    def _exchange(self, layer: int, packed: Tensor, plan: ExchangePlan) -> Tensor:
        """Send packed rows to their experts, and return the results in the same order."""
        place = None if plan.row_in_buffer is None else torch.from_numpy(plan.row_in_buffer).to(packed.device)
        if place is not None:
            packed = packed.new_zeros(sum(plan.counts_in), packed.shape[1]).index_copy(0, place, packed)
        received = all_to_all(packed, self.group, plan.counts_in, plan.counts_out)
        order = torch.from_numpy(plan.order).to(packed.device)
        held = np.flatnonzero(plan.counts_by_expert)
        weights = [weight for one in held.tolist() for weight in self._experts[layer, one].values()]

        def compute(rows: Tensor) -> Any:
            return looped_experts(rows, torch.from_numpy(plan.counts_by_expert[held]), *weights) if len(held) else rows

        computed = sort_and_unsort(received, order, inverse_of(order), compute)
        results = all_to_all(computed, self.group, plan.counts_out, plan.counts_in)
        return results if place is None else results[place]


def dense_shapes(model: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return the shapes of parameters outside experts by name; names of vectors end in ``gain`` or ``bias``."""
    width = model.d_model
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (model.vocab_size, width),
        "positions": (model.sequence_length, width),
        "final.gain": (width,),
        "final.bias": (width,),
    }
    for layer in range(model.num_layers):
        shapes |= {f"{layer}.{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("gain", "bias")}
        shapes |= {f"{layer}.qkv": (width, 3 * width), f"{layer}.out": (width, width)}
        if layer in model.moe_layers:
            shapes[f"{layer}.gate"] = (width, model.num_experts)
        else:
            shapes |= {f"{layer}.up": (width, model.d_ff_dense), f"{layer}.down": (model.d_ff_dense, width)}
    return shapes


def expert_shapes(model: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an expert's parameters by name."""
    return {"up": (model.d_model, model.d_ff_expert), "down": (model.d_ff_expert, model.d_model)}
