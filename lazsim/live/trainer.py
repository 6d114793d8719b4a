"""One rank's part of training: prepare a step with the others, then commit it.

A step is *prepared* on a rank once its gradients are summed over all ranks. The last collective of a step is a vote.
Its end on one rank means that every rank had prepared. So a failure leaves ranks at most one step apart, and those
behind hold all that they need to catch up.
"""

from dataclasses import dataclass

import torch

from lazsim.live.state import DENSE, TrainingState, block_size
from lazsim.live.text import own_part, sequences
from lazsim.pytorch.group import Group
from lazsim.pytorch.reduce import ExpertReduction
from lazsim.pytorch.transformer import Layout, Transformer


@dataclass(frozen=True)
class Vote:
    """The outcome of a step for all ranks: the loss of the global batch, and whether to pause or to save."""

    loss: float
    pause: bool
    save: bool


class Trainer:
    """Trains a state with the ranks of a group.

    Parameters
    ----------
    state
        State of this rank, with the experts of the layout.
    group, layout
        The ranks, and the placement of experts on them.
    text
        The training text.
    """

    def __init__(self, state: TrainingState, group: Group, layout: Layout, text: bytes) -> None:
        self.state, self.group, self._text = state, group, text
        experts = {key: block.parameters for key, block in state.blocks.items() if key != DENSE}
        dense = state.blocks[DENSE].parameters
        self._model = Transformer(state.spec.model, state.spec.num_heads, dense, experts, group, layout)
        holders = {
            (layer, expert): torch.from_numpy(layout.replicas_LEJ[layer, expert]).nonzero().reshape(-1).tolist()
            for layer, expert in experts
        }
        size = block_size(state.spec, (0, 0))
        self._reduce = ExpertReduction(group, holders, dict.fromkeys(holders, size))

    @property
    def loads(self) -> list[list[int]]:
        """Tokens of each expert of each layer in the last step, over all ranks."""
        return self._model.loads

    def prepare(self) -> float:
        """Compute the next step's gradients, summed over all ranks; return this rank's part of the loss."""
        state, spec, group = self.state, self.state.spec, self.group
        state.prepared = False
        for block in state.blocks.values():
            block.gradient.zero_()
        length = spec.model.sequence_length
        batch = sequences(self._text, state.step, spec.global_batch, length, spec.seed)
        own = torch.from_numpy(batch[own_part(spec.global_batch, group.rank, group.size)].astype("int64"))
        own = own.to(state.blocks[DENSE].values.device)
        loss = self._model.loss(own, spec.global_batch, spec.balance_weight)
        torch.autograd.backward(loss)
        group.all_reduce(state.blocks[DENSE].gradient)
        experts = {key: block.gradient for key, block in state.blocks.items() if key != DENSE}
        self._reduce(experts)
        state.prepared = True
        return float(loss.detach())

    def vote(self, loss: float, *, pause: bool = False, save: bool = False) -> Vote:
        """Agree that every rank has prepared the step; share the loss, and requests to pause or save."""
        ballot = torch.tensor([loss, float(pause), float(save)], dtype=torch.float64)
        self.group.all_reduce(ballot)
        return Vote(loss=float(ballot[0]), pause=bool(ballot[1] > 0), save=bool(ballot[2] > 0))
