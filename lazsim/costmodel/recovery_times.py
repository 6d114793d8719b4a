"""Predict the time of a checkpoint, a migration and a restart."""

import numpy as np

from lazsim.costmodel.step import CostModel
from lazsim.dispatch import Floats, Ints
from lazsim.placement.plan import PlacementPlan


def transfer_s(costs: CostModel, bytes_NN: Floats, server_N: Ints) -> float:
    """Return the seconds of transfers between nodes, all at once.

    Parameters
    ----------
    bytes_NN
        Bytes from each node to each other, shape (N, N).
    server_N
        Server of each node; nodes of one server share its NICs and its internal links.
    """
    if not bytes_NN.any():
        return 0.0
    local = bytes_NN * (server_N[:, None] == server_N)
    across = bytes_NN - local
    # Sent and received by each server.
    nic = np.maximum(np.bincount(server_N, across.sum(axis=1)), np.bincount(server_N, across.sum(axis=0))).max()
    busiest_local = np.maximum(local.sum(axis=1), local.sum(axis=0)).max() / costs.cluster.gpus_per_node
    return float(costs.communication.transfer_s(nic, busiest_local))


def checkpoint_save_s(costs: CostModel) -> float:
    """Return the seconds to write the training state once to the shared storage, while training waits."""
    model = costs.model
    num_states = model.num_moe_layers * model.num_experts
    return costs.communication.storage_s(model.dense_state_bytes + num_states * model.expert_state_bytes)


def checkpoint_load_bytes(costs: CostModel, plan: PlacementPlan) -> float:
    """Return the bytes of the dense state of its stage and the states of its experts that every node reads."""
    num_states = float(plan.holds_LEN.sum())
    dense_bytes = costs.model.dense_state_bytes / costs.grid.num_stages
    return plan.num_nodes * dense_bytes + num_states * costs.model.expert_state_bytes


def checkpoint_load_s(costs: CostModel, plan: PlacementPlan) -> float:
    """Return the seconds in which every node reads these."""
    return costs.communication.storage_s(checkpoint_load_bytes(costs, plan))


def restart_s(costs: CostModel, num_nodes: int) -> float:
    """Return the seconds to restart the job on `num_nodes`, without the load of the checkpoint."""
    recovery = costs.cluster.recovery
    return recovery.restart_base_s + recovery.restart_per_node_s * num_nodes
