"""The specification of a live job, which every worker receives."""

from typing import Literal

from lazsim.errors import SpecError
from lazsim.specs import JobSpec, ModelSpec, Spec
from lazsim.specs.record import Count, PositiveSeconds, Quantity, Seed, Share

SMALL_MODEL = ModelSpec(
    name="live-small",
    num_layers=4,
    num_moe_layers=4,
    d_model=128,
    d_ff_expert=512,
    matrices_per_expert=2,
    num_experts=8,
    top_k=1,
    attention_params=4 * 128 * 128,
    attention_score_dim=2 * 128,
    sequence_length=64,
    vocab_size=256,
    num_vocab_matrices=1,
    num_learned_positions=64,
)
"""GPT-2 in shape, bytes for vocabulary; small enough for several workers on two cores."""


class LiveSpec(Spec, frozen=True, kw_only=True):
    """A live job; the vocabulary of its model is bytes, 256."""

    model: ModelSpec
    job: JobSpec
    """Fault threshold, intervals of checkpoints and rebalances, time to collect new nodes."""
    system: str = "lazarus"
    """A name of `lazsim.engine.systems.LIVE_SYSTEMS`."""
    slots_per_node: Count = 4
    """Expert replicas that a node holds per layer."""
    num_heads: Count = 4
    global_batch: Count = 16
    """Sequences per step, divided among the nodes in use."""
    learning_rate: Quantity = 1e-3
    beta1: Share = 0.9
    beta2: Share = 0.95
    epsilon: Quantity = 1e-8
    """Of Adam, as the three before."""
    balance_weight: Quantity = 0.01
    """Weight of the auxiliary loss that evens out expert loads (Switch Transformer, arXiv 2101.03961)."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Device of the workers; ``auto`` is a GPU where a worker finds one."""
    dtype: Literal["float32", "float64"] = "float32"
    """Number type of the training state and of all arithmetic."""
    num_steps: Count | None = None
    """Steps after which the job saves its state and ends; none where only time ends it."""
    seed: Seed = 0
    """Seed of initial parameters and of the order of the text."""
    text: str = ""
    """Path of the training text; empty for the reference that Python's ``help`` shows, which differs by its version."""
    text_sha256: str = ""
    """Hash of the text: every worker must have the same."""
    checkpoint_folder: str = ""
    """A folder that all workers share."""
    heartbeat_s: PositiveSeconds = 0.5
    silence_s: PositiveSeconds = 10.0
    """Time between heartbeats, and the silence after which a worker counts as dead."""

    @property
    def checkpoint_interval_steps(self) -> int:
        """Steps between checkpoints of this system; 0 where it makes one at its end only."""
        return self.job.checkpoint_interval_steps[self.system]


def check_model(model: ModelSpec, num_heads: int) -> None:
    """Raise a SpecError for a model that is not GPT-2 in shape, which live workers cannot build."""
    if model.num_shared_experts or model.matrices_per_expert != 2:
        raise SpecError(f"{model.name}: live training has experts of two matrices, none shared; choose a GPT-2 shape")
    if model.d_model % num_heads:
        raise SpecError(f"{model.name}: d_model {model.d_model} is not a multiple of {num_heads} heads; choose others")
