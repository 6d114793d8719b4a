"""A GPT-2-shaped MoE transformer as a function of its parameters, dropping no token.

Projections have no biases: the bias of keys has no effect on the loss, so that its gradient is rounding alone, which
Adam would blow up to a full step.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lazsim.dispatch import Ints
from lazsim.pytorch.group import Group
from lazsim.pytorch.reduce import ExpertKey
from lazsim.pytorch.route import Route, plan_route
from lazsim.specs import ModelSpec


@dataclass(frozen=True, eq=False)
class Layout:
    """How ranks share the experts.

    Attributes
    ----------
    replicas_LEJ : ndarray of int64, shape (L, E, J)
        Replicas on each rank.
    group_J : ndarray of int64 or None
        Groups of expert parallelism.
    padded : bool
        Whether expert buffers are padded to the fullest.
    """

    replicas_LEJ: Ints
    group_J: Ints | None = None
    padded: bool = False


class _AllToAll(torch.autograd.Function):
    """An all-to-all whose gradient goes the way back."""

    @staticmethod
    def forward(ctx: object, rows: Tensor, group: Group, counts_in: list[int], counts_out: list[int]) -> Tensor:
        ctx.way_back = (group, counts_out, counts_in)  # type: ignore[attr-defined]
        return group.all_to_all(rows, counts_in, counts_out)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return all_to_all(gradient, *ctx.way_back), None, None, None  # type: ignore[attr-defined]


def all_to_all(rows: Tensor, group: Group, counts_in: list[int], counts_out: list[int]) -> Tensor:
    """Exchange rows so that gradients go the way back."""
    received: Tensor = _AllToAll.apply(rows, group, counts_in, counts_out)  # type: ignore[no-untyped-call]
    return received


class Transformer:
    """The part of a model that one rank computes.

    Parameters
    ----------
    model, num_heads
        Shapes of the model, and the heads of its attention.
    dense
        Parameters outside the experts, by name.
    experts
        Parameters of each expert that this rank holds.
    group, layout
        The other ranks, and who holds what.

    Attributes
    ----------
    loads : list of list of int
        Tokens of each expert of each MoE layer over all ranks, in the last call of `loss`.
    """

    def __init__(
        self,
        model: ModelSpec,
        num_heads: int,
        dense: Mapping[str, Tensor],
        experts: Mapping[ExpertKey, Mapping[str, Tensor]],
        group: Group,
        layout: Layout,
    ) -> None:
        self.model, self.num_heads = model, num_heads
        self.group, self.layout = group, layout
        self._dense, self._experts = dense, experts
        self._first_moe_layer = model.num_layers - model.num_moe_layers
        self.loads: list[list[int]] = []

    def loss(self, sequences: Tensor, global_batch: int, balance_weight: float) -> Tensor:
        """Return this rank's part of the mean loss over the tokens of the global batch.

        Parameters
        ----------
        sequences
            Sequences of this rank, each with the token that follows, shape (B, S + 1).
        global_batch
            Sequences of all ranks.
        balance_weight
            Weight of the auxiliary loss that evens out expert loads (Switch Transformer, arXiv 2101.03961).
        """
        model, dense = self.model, self._dense
        tokens, targets = sequences[:, :-1], sequences[:, 1:]
        num_tokens = global_batch * model.sequence_length
        self.loads = []
        x = dense["embedding"][tokens] + dense["positions"]
        balance = x.new_zeros(())
        for layer in range(model.num_layers):
            x = x + self._attention(layer, self._norm(x, f"{layer}.norm1"))
            flat = self._norm(x, f"{layer}.norm2").reshape(-1, model.d_model)
            if layer < self._first_moe_layer:
                out = F.gelu(flat @ dense[f"{layer}.up"]) @ dense[f"{layer}.down"]
            else:
                out, unevenness = self._moe(layer, flat, num_tokens)
                balance = balance + unevenness
            x = x + out.view_as(x)
        logits = self._norm(x, "final") @ dense["embedding"].T
        entropy = F.cross_entropy(logits.reshape(-1, model.vocab_size), targets.reshape(-1), reduction="sum")
        return entropy / num_tokens + balance_weight * balance

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self._dense[f"{name}.gain"], self._dense[f"{name}.bias"])

    def _attention(self, layer: int, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = (x @ self._dense[f"{layer}.qkv"]).view(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return mixed.transpose(1, 2).reshape(batch, length, width) @ self._dense[f"{layer}.out"]

    def _moe(self, layer: int, x: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Return the output of the experts and how unevenly they are loaded, 1 over all ranks where evenly."""
        num_experts, top_k = self.model.num_experts, self.model.top_k
        chances = (x @ self._dense[f"{layer}.gate"]).softmax(dim=1)
        weights, chosen = chances.topk(top_k, dim=1)
        if top_k > 1:
            weights = weights / weights.sum(dim=1, keepdim=True)
        counts_E = torch.bincount(chosen.reshape(-1), minlength=num_experts)
        # The host plans with them, so they go by what it can trust.
        tokens_EI = self.group.all_gather(counts_E.cpu()).numpy().T
        load_E = tokens_EI.sum(axis=1)
        self.loads.append(load_E.tolist())
        moe_layer = layer - self._first_moe_layer
        layout = self.layout
        route = plan_route(
            tokens_EI, layout.replicas_LEJ[moe_layer], layout.group_J, self.group.rank, padded=layout.padded
        )
        out = self._dispatch(moe_layer, x, weights.reshape(-1), chosen.reshape(-1), route)
        share_E = torch.as_tensor(load_E / load_E.sum(), dtype=x.dtype, device=x.device)
        return out, num_experts * (share_E * chances.sum(dim=0)).sum() / num_tokens

    def _dispatch(self, moe_layer: int, x: Tensor, weights: Tensor, chosen: Tensor, route: Route) -> Tensor:
        """Send each assignment to the replica that computes it, and add up what comes back by token."""
        group, device = self.group, x.device
        source, place, by_expert = (
            torch.from_numpy(index).to(device) for index in (route.source, route.place, route.by_expert)
        )
        assignment = torch.argsort(chosen, stable=True)[source]
        token = assignment // self.model.top_k
        rows = x.new_zeros(sum(route.counts_in), x.shape[1]).index_copy(0, place, x[token])
        received = all_to_all(rows, group, route.counts_in, route.counts_out)
        computed = self._compute(moe_layer, received[by_expert], route.counts_by_expert)
        back = torch.empty_like(received).index_copy(0, by_expert, computed)
        results = all_to_all(back, group, route.counts_out, route.counts_in)[place]
        return torch.zeros_like(x).index_add(0, token, results * weights[assignment, None])

    def _compute(self, moe_layer: int, rows: Tensor, counts: list[int]) -> Tensor:
        """Run each local expert over its rows."""
        outputs = [rows[:0]]
        for expert, part in enumerate(torch.split(rows, counts)):
            if len(part):
                own = self._experts[moe_layer, expert]
                outputs.append(F.gelu(part @ own["up"] + own["up.bias"]) @ own["down"] + own["down.bias"])
        return torch.cat(outputs)


def replicas_on_ranks(slots_LNS: Ints, num_experts: int) -> Ints:
    """Count the replicas on each rank, shape (L, E, J)."""
    counts: Ints = (slots_LNS[:, None] == np.arange(num_experts)[:, None, None]).sum(axis=3)
    return counts
