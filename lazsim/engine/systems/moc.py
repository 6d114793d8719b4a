"""Partial expert checkpoints (MoC-System, ASPLOS 2025, arXiv 2408.04307)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lazsim.costmodel.recovery_times import checkpoint_save_s
from lazsim.costmodel.step import CostModel
from lazsim.engine.systems.system import Save, System, copy_to_host_s, node_state_bytes


@dataclass(frozen=True)
class PartialExperts(System):
    """Saves all that is dense and a few experts in turn; after a failure each expert goes back to its own newest save.

    Attributes
    ----------
    num_turns : int
        Checkpoints in which every expert is saved once: each has an equal share of the experts (published: 16).

    Notes
    -----
    Steps are replayed as from a whole checkpoint. What the experts saved longer ago had learned since is gone: see
    `lost_token_share`.
    """

    num_turns: int = 16
    most_lost_tokens: float = 0.0375

    def save(self, costs: CostModel, step_s: float) -> Save:
        """Return what a checkpoint takes: its copy hides behind a step, and it is written beside training."""
        model = costs.model
        experts = model.num_moe_layers * model.num_experts * model.expert_state_bytes
        saved = model.dense_state_bytes + experts / self.num_turns
        copy_s = copy_to_host_s(costs, costs.grid.replica_nodes) * saved / (model.dense_state_bytes + experts)
        return Save(max(0.0, copy_s - step_s), copy_s + checkpoint_save_s(costs, 1 / self.num_turns))

    def lost_token_share(self, interval_steps: int, num_rollbacks: int, num_steps: int) -> float:
        """See `System.lost_token_share`.

        Notes
        -----
        Of ``n`` saves in turn, an expert's own is ``(n - 1) / 2`` saves older than the last, on average: the updates
        of those steps are gone at each rollback, while the steps still count.
        """
        stale_steps = (self.num_turns - 1) / 2 * interval_steps
        return num_rollbacks * stale_steps / max(1, num_steps)

    def host_bytes(self, costs: CostModel, num_nodes: int, step_s: float) -> float:
        """Return the bytes of three buffers of what a node saves."""
        return 3 / self.num_turns * node_state_bytes(costs)

    def choices(self) -> Mapping[str, Sequence[int]]:
        """See `System.choices`."""
        return {"num_turns": (1, 2, 4, 8, 16)}


MOC = PartialExperts(
    "moc",
    "MoC: checkpoints of a part of the experts each, of all in turn; trades updates of experts for time",
    survives="nothing: every failure is a restart, and experts lose the updates since their own save",
    needs="storage, a model that bears lost updates",
)
