"""Predict the time of a checkpoint, a migration and a restart."""

import numpy as np

from lazsim.costmodel.costs import CostModel
from lazsim.placement.plan import Floats, Ints, PlacementPlan
from lazsim.row_blocks import row_blocks


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
    (pytorch/pytorch#135267); a process connects to one peer after the other. All holders of a state send, as in Lazarus
    (arXiv 2407.04656), and each is a peer. A node that takes a free place could fetch as fast from one holder, as a
    spare of MoEvement does: `lazsim.engine.systems.seats` leaves that connection out.
    """
    if not bytes_NN.any():
        return 0.0
    sends = bytes_NN > 0
    num_peers_N = np.count_nonzero(sends | sends.T, axis=1)
    connect_s = costs.cluster.recovery.connect_s * int(num_peers_N.max())
    return connect_s + flow_s(costs, bytes_NN, server_N, server_N)


def flow_s(costs: CostModel, bytes_NR: Floats, server_N: Ints, server_R: Ints) -> float:
    """Return the seconds in which nodes send bytes to receivers, all at once, from the server of each.

    Notes
    -----
    Nodes of a server share its NICs, which send and receive at the same time. The busiest direction of the busiest
    server takes as long as all: where transfers may be divided, some order of them leaves it no gap (Gonzalez and
    Sahni, Journal of the ACM 23, 1976, 665: open shops with preemption).
    """
    if not bytes_NR.any():
        return 0.0
    # Bytes between servers, and inside them.
    sent_2N, received_2R = np.zeros((2, len(server_N))), np.zeros((2, len(server_R)))
    for some in row_blocks(*bytes_NR.shape):
        local = bytes_NR[some] * (server_N[some, None] == server_R)
        for kind, part in enumerate((bytes_NR[some] - local, local)):
            sent_2N[kind, some] = part.sum(axis=1)
            # One row after the other, so that the size of blocks changes no digit.
            received_2R[kind] = np.concatenate([received_2R[kind : kind + 1], part]).sum(axis=0)
    nic = max(np.bincount(server_N, sent_2N[0]).max(), np.bincount(server_R, received_2R[0]).max())
    busiest_local = max(sent_2N[1].max(), received_2R[1].max()) / costs.cluster.gpus_per_node
    return float(costs.communication.transfer_s(nic, busiest_local))


def checkpoint_save_s(costs: CostModel, num_nodes: int, experts_share: float = 1.0) -> float:
    """Return the seconds to write the training state, or a share of its experts, once to the shared storage.

    Notes
    -----
    As in DeepSpeed (``_save_moe_checkpoint``), the ranks of one expert-parallel group write, each its own experts, and
    one data-parallel rank of each stage the dense state beside. What ranks divide, each writes its part of. Of the
    replicas of a system without groups as many ranks write. Known seconds of a whole save count by their bytes.
    """
    num_bytes = costs.dense_state_bytes + experts_share * costs.expert_states_bytes
    if costs.job.checkpoint_save_s is not None:
        return costs.job.checkpoint_save_s * num_bytes / (costs.dense_state_bytes + costs.expert_states_bytes)
    return costs.communication.save_s(num_bytes, costs.saved_bytes(num_nodes, 1, experts_share))


def held_bytes(costs: CostModel, plan: PlacementPlan) -> tuple[Floats, Floats]:
    """Return the bytes of the dense state that each node holds, a part of that of its stage, and of its experts."""
    stage_N = costs.grid.stage_N(plan.num_nodes)
    experts_N = plan.num_held_N * float(costs.expert_state_bytes) + costs.further_expert_bytes_S[stage_N]
    return costs.stage_bytes(costs.cluster.gpus_per_node)[0][stage_N], experts_N


def checkpoint_load_bytes(costs: CostModel, plan: PlacementPlan) -> Floats:
    """Return the bytes that each node reads: the states that it holds.

    Where nodes divide states among them, each reads its share; see `kept_shares` of the costs.
    """
    dense_share, expert_share = costs.kept_shares(plan.num_nodes, costs.cluster.gpus_per_node)
    dense_N, experts_N = held_bytes(costs, plan)
    return dense_share * dense_N + expert_share * experts_N


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
