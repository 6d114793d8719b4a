"""Which replica computes a token, and how much of the traffic crosses a NIC.

Axes: L layers, E experts, I source nodes, J target nodes, N nodes, V servers.
"""

from dataclasses import dataclass
from functools import cached_property

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


@dataclass(frozen=True, eq=False)
class Partition:
    """Nodes by server, or by group.

    Attributes
    ----------
    part_N : ndarray of int64, shape (N,)
        Part of each node, 0 .. V - 1.

    Examples
    --------
    >>> Partition(np.array([0, 1, 0])).add_up(np.array([[1.0, 2.0, 4.0]])).tolist()
    [[5.0, 2.0]]
    """

    part_N: Ints

    @cached_property
    def sizes_V(self) -> Ints:
        """Nodes of each part."""
        return np.bincount(self.part_N)

    @cached_property
    def is_trivial(self) -> bool:
        """Whether every node is a part of its own, in order."""
        return len(self.sizes_V) == len(self.part_N) and bool((np.diff(self.part_N) > 0).all())

    @cached_property
    def _membership_NV(self) -> Floats:
        membership: Floats = (self.part_N[:, None] == np.arange(len(self.sizes_V))).astype(np.float64)
        return membership

    def add_up(self, values: Floats) -> Floats:
        """Sum over the nodes of each part, from shape (..., N) to (..., V); a trivial partition changes nothing."""
        if self.is_trivial:
            return values
        # One large product is several times faster than many small ones.
        summed: Floats = values.reshape(-1, len(self.part_N)) @ self._membership_NV
        return summed.reshape(*values.shape[:-1], -1)


def flexible_traffic(replicas_LEN: Ints, total_LE: Ints, servers: Partition, gpus_per_node: int) -> Traffic:
    """Return the expected traffic of flexible dispatch: that of `dispatch_tokens`, not rounded.

    Parameters
    ----------
    replicas_LEN, total_LE
        Replicas of each expert on each node, shape (L, E, N), and over all nodes.
    servers
        The server of each node.
    gpus_per_node
        GPUs over which a node's tokens are spread evenly.
    """
    num_nodes = replicas_LEN.shape[2]
    # At scale these arrays are large: they are reused instead of made anew.
    left = replicas_LEN * (1 / total_LE)[:, :, None]
    own = np.minimum(left, 1 / num_nodes)
    left -= own
    local_V, left_V = servers.add_up(own), servers.add_up(left)
    over_V = servers.sizes_V / num_nodes - local_V
    local_V *= (gpus_per_node - 1) / gpus_per_node
    if not servers.is_trivial:
        # All capacities add up to all tokens, so that what is over fits exactly into what is left. A server of one node
        # has nothing over for itself.
        inside_V = over_V * left_V
        inside_V /= np.maximum(over_V.sum(axis=2, keepdims=True), SMALLEST_SHARE)
        over_V -= inside_V
        left_V -= inside_V
        local_V += inside_V
    return Traffic(leaving_LEV=over_V, entering_LEV=left_V, local_LEV=local_V)


def grouped_traffic(replicas_LEN: Ints, groups: Partition, servers: Partition, gpus_per_node: int) -> Traffic:
    """Return the traffic of expert parallelism: tokens go to the replicas inside their own group of nodes.

    Parameters
    ----------
    replicas_LEN, servers, gpus_per_node
        See `flexible_traffic`.
    groups
        The group of each node; each group holds every expert.
    """
    num_nodes = replicas_LEN.shape[2]
    group_N, server_N = groups.part_N, servers.part_N
    # From one source in the group, a target's part of an expert's tokens.
    part = replicas_LEN / groups.add_up(replicas_LEN.astype(np.float64))[:, :, group_N] / num_nodes
    arriving = part * groups.sizes_V[group_N]
    same = (server_N[:, None] == server_N) & (group_N[:, None] == group_N)
    inside = part * same.sum(axis=0)
    part_V = servers.add_up(part)
    return Traffic(
        leaving_LEV=servers.sizes_V / num_nodes - servers.add_up(inside),
        entering_LEV=servers.add_up(arriving - inside),
        local_LEV=servers.add_up(inside - part) + part_V * (gpus_per_node - 1) / gpus_per_node,
    )
