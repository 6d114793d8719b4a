"""Predict the time of a checkpoint, a migration and a restart."""

import numpy as np

from lazsim.costmodel.step import CostModel
from lazsim.dispatch import Floats, Ints
from lazsim.placement.plan import PlacementPlan


def transfer_s(costs: CostModel, bytes_NN: Floats, server_N: Ints) -> float:
    """Return the seconds of transfers between nodes, all at once, and of the connections that they need.

    Parameters
    ----------
    bytes_NN
        Bytes from each node to each other, shape (N, N).
    server_N
        Server of each node; nodes of one server share its NICs and its internal links.

    Notes
    -----
    Every plan has new communicators, and NCCL connects two peers when the first message between them is sent
    (pytorch/pytorch#135267); a process connects to one peer after the other.
    """
    if not bytes_NN.any():
        return 0.0
    local = bytes_NN * (server_N[:, None] == server_N)
    across = bytes_NN - local
    # Sent and received by each server.
    nic = np.maximum(np.bincount(server_N, across.sum(axis=1)), np.bincount(server_N, across.sum(axis=0))).max()
    busiest_local = np.maximum(local.sum(axis=1), local.sum(axis=0)).max() / costs.cluster.gpus_per_node
    is_peer = (bytes_NN + bytes_NN.T > 0).sum(axis=1)
    connect_s = costs.cluster.recovery.connect_s * int(is_peer.max())
    return connect_s + float(costs.communication.transfer_s(nic, busiest_local))


def checkpoint_save_s(costs: CostModel, experts_share: float = 1.0) -> float:
    """Return the seconds to write the training state, or a share of its experts, once to the shared storage.

    Notes
    -----
    As in DeepSpeed (``_save_moe_checkpoint``), the ranks of one expert-parallel group write, each its own experts, and
    one rank of each stage the dense state beside. Of the replicas of a system without groups as many ranks write.
    """
    model, grid, gpus = costs.model, costs.grid, costs.cluster.gpus_per_node
    experts = experts_share * model.num_moe_layers * model.num_experts * costs.expert_state_bytes
    of_writer = costs.dense_state_bytes / (grid.num_stages * gpus) + experts / (grid.replica_nodes * gpus)
    return costs.communication.save_s(costs.dense_state_bytes + experts, of_writer)


def checkpoint_load_bytes(costs: CostModel, plan: PlacementPlan) -> Floats:
    """Return the bytes that each node reads: its part of the dense state of its stage, and the states of its experts.

    Where nodes divide states among them, each reads its share; see `read_shares` of the costs.
    """
    dense_share, expert_share = costs.read_shares(plan.num_nodes)
    held_N = plan.num_held_N.astype(np.float64)
    return dense_share * costs.dense_bytes_per_node + expert_share * held_N * float(costs.expert_state_bytes)


def checkpoint_load_s(costs: CostModel, plan: PlacementPlan) -> float:
    """Return the seconds in which every node reads these."""
    return read_s(costs, checkpoint_load_bytes(costs, plan))


def read_s(costs: CostModel, bytes_N: Floats) -> float:
    """Return the seconds in which each node reads its bytes from the shared storage."""
    return costs.communication.load_s(float(bytes_N.sum()), float(bytes_N.max()) / costs.cluster.gpus_per_node)


def restart_s(costs: CostModel, num_nodes: int) -> float:
    """Return the seconds to restart the job on `num_nodes`, without the load of the checkpoint."""
    recovery = costs.cluster.recovery
    return recovery.restart_base_s + recovery.restart_per_node_s * num_nodes
