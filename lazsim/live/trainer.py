"""One rank's part of training: prepare a step on its sequences of the text with the others, then commit it.

A step is *prepared* on a rank once its gradients are summed over all ranks. The last collective of a step is a vote.
Its end on one rank means that every rank had prepared. So a failure leaves ranks at most one step apart, and those
behind hold all that they need to catch up.
"""

import functools
from collections.abc import Sequence
from pydoc_data.topics import topics

import numpy as np
import numpy.typing as npt
import torch

from lazsim.files.reading import read_bytes
from lazsim.live.state import DENSE, TrainingState, block_size
from lazsim.pytorch.group import ProcessGroup
from lazsim.pytorch.reduce import ExpertReduction
from lazsim.pytorch.transformer import RankDispatch, Transformer


@functools.cache
def load_text(path: str) -> bytes:
    """Read a file, or where `path` is empty the reference of the language that Python's ``help`` shows."""
    return read_bytes(path) if path else "\n\n".join(topics.values()).encode()


def sequences(text: bytes, step: int, global_batch: int, length: int, seed: int) -> npt.NDArray[np.uint8]:
    """Draw a step's sequences, each with the byte after it: shape (global_batch, length + 1), the same on every node.

    Examples
    --------
    >>> sequences(b"0123456789", step=3, global_batch=2, length=3, seed=0).tobytes()
    b'34566789'
    """
    rng = np.random.default_rng([seed, step])
    starts = rng.integers(0, len(text) - length, size=global_batch)
    drawn: npt.NDArray[np.uint8] = np.frombuffer(text, dtype=np.uint8)[starts[:, None] + np.arange(length + 1)]
    return drawn


class Trainer:
    """Trains a state, which has the experts that `dispatch` gives this rank, with the ranks of a group.

    Each rank trains some `sequences` of the global batch. The loss is the mean over those of all ranks.
    """

    def __init__(
        self, state: TrainingState, group: ProcessGroup, dispatch: RankDispatch, sequences: Sequence[Sequence[int]]
    ) -> None:
        self._own, self._num_sequences = list(sequences[group.rank]), sum(map(len, sequences))
        self._state, self._group, self._text = state, group, load_text(state.spec.text)
        experts = {key: block.parameters for key, block in state.blocks.items() if key != DENSE}
        dense = state.blocks[DENSE].parameters
        self._model = Transformer(state.spec.model, state.spec.num_heads, dense, experts, group, dispatch)
        holders = {
            (layer, expert): torch.from_numpy(dispatch.replicas_LEJ[layer, expert]).nonzero().reshape(-1).tolist()
            for layer, expert in experts
        }
        self._reduce = ExpertReduction(group, holders, block_size(state.spec, (0, 0)))

    def prepare(self) -> tuple[float, list[list[int]]]:
        """Compute the next step's gradients, summed over all ranks.

        Returns this rank's part of the loss, and the tokens of each expert of each layer over all ranks.
        """
        state, spec, group = self._state, self._state.spec, self._group
        state.prepared = False
        for block in state.blocks.values():
            block.gradient.zero_()
        length = spec.model.sequence_length
        batch = sequences(self._text, state.step, spec.global_batch, length, spec.seed)
        own = torch.from_numpy(batch[self._own].astype("int64"))
        loss = self._model.loss(own.to(state.device.torch), self._num_sequences, spec.balance_weight)
        torch.autograd.backward(loss)
        group.all_reduce(state.blocks[DENSE].gradient)
        self._reduce({key: block.gradient for key, block in state.blocks.items() if key != DENSE})
        state.prepared = True
        return float(loss.detach()), self._model.loads

    def vote(self, loss: float, *, pause: bool, save: bool) -> tuple[float, bool, bool]:
        """Agree that every rank has prepared; return the loss of all ranks, and whether any asks to pause or save."""
        ballot = torch.tensor([loss, float(pause), float(save)], dtype=torch.float64)
        self._group.all_reduce(ballot)
        return float(ballot[0]), bool(ballot[1] > 0), bool(ballot[2] > 0)
