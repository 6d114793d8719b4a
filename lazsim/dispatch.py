"""Which replica computes a token, and how much of the traffic crosses a NIC.

Axes: L layers, E experts, I source nodes, J target nodes, N nodes, V servers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def dispatch_tokens(tokens_LEI: Ints, replicas_LEJ: Ints) -> Ints:
    """Decide how many tokens each rank sends to each rank for each expert.

    Parameters
    ----------
    tokens_LEI
        Tokens routed to each expert at each source rank, shape (..., E, I).
    replicas_LEJ
        Replicas of each expert on each rank, with ``I == J`` and at least one replica of each expert.

    Returns
    -------
    ndarray of int64, shape (..., E, I, J)
        Tokens sent. Every token is sent exactly once, and a rank receives its quota ``t / r * R`` rounded.

    Notes
    -----
    Flexible dispatch of Lazarus (arXiv 2407.04656): a rank keeps its own tokens up to its capacity and spreads what is
    over in proportion to the capacity that the others have left. Ranks take turns, each in proportion to what is left
    after those before it, so that integers add up in both directions.

    Examples
    --------
    >>> dispatch_tokens(np.array([[4, 0]]), np.array([[1, 1]])).tolist()
    [[[2, 2], [0, 0]]]
    """
    total = tokens_LEI.sum(axis=-1, keepdims=True)
    num_replicas = replicas_LEJ.sum(axis=-1, keepdims=True)
    shares = replicas_LEJ.cumsum(axis=-1) * total // num_replicas
    capacity = np.diff(shares, axis=-1, prepend=0)
    own = np.minimum(tokens_LEI, capacity)
    over, left = tokens_LEI - own, capacity - own
    sent = np.zeros((*tokens_LEI.shape, replicas_LEJ.shape[-1]), dtype=np.int64)
    ranks = np.arange(tokens_LEI.shape[-1])
    sent[..., ranks, ranks] = own
    for source in ranks:
        spread = over[..., source, None] * left.cumsum(axis=-1) // np.maximum(left.sum(axis=-1, keepdims=True), 1)
        part = np.diff(spread, axis=-1, prepend=0)
        sent[..., source, :] += part
        left = left - part
    return sent


SMALLEST_SHARE = 1e-12
"""Share of an expert's tokens below which what is over is rounding."""


@dataclass(frozen=True, eq=False)
class Traffic:
    """Where an expert's tokens go when every node routes an equal share of them, as fractions of its tokens.

    Attributes
    ----------
    leaving_LEV, entering_LEV : ndarray of float64, shape (L, E, V)
        Tokens that leave and enter each server through its NICs.
    local_LEV : ndarray of float64, shape (L, E, V)
        Tokens that go from one GPU to another of the same server.
    """

    leaving_LEV: Floats
    entering_LEV: Floats
    local_LEV: Floats


def flexible_traffic(replicas_LEN: Ints, server_N: Ints, gpus_per_node: int) -> Traffic:
    """Return the expected traffic of flexible dispatch: that of `dispatch_tokens`, not rounded.

    Parameters
    ----------
    replicas_LEN
        Replicas of each expert on each node, shape (L, E, N).
    server_N
        Server of each node, 0 .. V - 1, shape (N,).
    gpus_per_node
        GPUs over which a node's tokens are spread evenly.
    """
    num_nodes = len(server_N)
    # At scale these arrays are large: they are reused instead of made anew.
    left = replicas_LEN * (1 / replicas_LEN.sum(axis=2, keepdims=True))
    own = np.minimum(left, 1 / num_nodes)
    left -= own
    own_V, left_V = by_server(own, server_N), by_server(left, server_N)
    over_V = np.bincount(server_N) / num_nodes - own_V
    local_V = own_V
    local_V *= (gpus_per_node - 1) / gpus_per_node
    if over_V.shape[2] < num_nodes:
        # All capacities add up to all tokens, so that what is over fits exactly into what is left. A server of one node
        # has nothing over for itself.
        inside_V = over_V * left_V / np.maximum(over_V.sum(axis=2, keepdims=True), SMALLEST_SHARE)
        over_V, left_V, local_V = over_V - inside_V, left_V - inside_V, local_V + inside_V
    return Traffic(leaving_LEV=over_V, entering_LEV=left_V, local_LEV=local_V)


def grouped_traffic(replicas_LEN: Ints, group_N: Ints, server_N: Ints, gpus_per_node: int) -> Traffic:
    """Return the traffic of expert parallelism: tokens go to the replicas inside their own group of nodes.

    Parameters
    ----------
    replicas_LEN, server_N, gpus_per_node
        See `flexible_traffic`.
    group_N
        Group of each node, 0 .. up, ascending; each group holds every expert, shape (N,).
    """
    num_nodes = len(server_N)
    replicas_G = by_server(replicas_LEN, group_N)
    size_G = np.bincount(group_N)
    # From one source in the group, a target's part of an expert's tokens.
    part = replicas_LEN / replicas_G[:, :, group_N] / num_nodes
    arriving = part * size_G[group_N]
    same = (server_N[:, None] == server_N) & (group_N[:, None] == group_N)
    inside = part * same.sum(axis=0)
    return Traffic(
        leaving_LEV=np.bincount(server_N) / num_nodes - by_server(inside, server_N),
        entering_LEV=by_server(arriving - inside, server_N),
        local_LEV=by_server(inside - part, server_N) + by_server(part, server_N) * (gpus_per_node - 1) / gpus_per_node,
    )


def by_server(values_LEN: npt.NDArray[Any], server_N: Ints) -> npt.NDArray[Any]:
    """Sum over the nodes of each server, shape (L, E, V); as they are where every node is a server of its own."""
    num_servers = int(server_N.max()) + 1
    if num_servers == len(server_N) and (np.diff(server_N) > 0).all():
        return values_LEN
    membership = (server_N[:, None] == np.arange(num_servers)).astype(np.float64)
    summed: Floats = values_LEN.reshape(-1, len(server_N)) @ membership
    return summed.reshape(*values_LEN.shape[:2], num_servers)
