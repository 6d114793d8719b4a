"""Interfaces for the times of kernels and links, analytic or measured.

Axes: any; all times broadcast over arrays.
"""

from typing import Protocol

from lazsim.placement.plan import Floats


class ComputeTimes(Protocol):
    """Seconds of work on one GPU, forward and backward together."""

    def dense_s(self, num_tokens: float) -> float:
        """Everything but experts and dispatch, all layers, for a node's micro-batch of `num_tokens`."""

    def expert_s(self, num_tokens: Floats) -> Floats:
        """One expert of one layer."""

    def reorder_s(self, num_tokens: Floats) -> Floats:
        """Gate, token reorder and its inverse in one layer, for the token assignments of one GPU."""

    def masked_reorder_s(self, num_tokens: float, capacity: Floats) -> Floats:
        """Reorder by a matmul with a one-hot mask over ``num_experts * capacity`` buffer rows."""

    def optimizer_s(self, num_params: Floats) -> Floats:
        """One optimizer step."""


class CommunicationTimes(Protocol):
    """Seconds of a collective, from the bytes that the busiest link carries in its busier direction.

    ``nic_bytes`` go through the NICs of a server, ``local_bytes`` through the link of a GPU inside a server.
    """

    def all_to_all_s(self, nic_bytes: Floats, local_bytes: Floats) -> Floats:
        """One all-to-all."""

    def all_reduce_s(self, nic_bytes: Floats, local_bytes: Floats, nic_hops: Floats, local_hops: Floats) -> Floats:
        """All-reduces one after the other, of messages in sequence: `nic_hops` between servers, `local_hops` inside."""

    def transfer_s(self, nic_bytes: Floats, local_bytes: Floats) -> Floats:
        """Point-to-point transfers at the same time."""

    def save_s(self, num_bytes: float, writer_bytes: float) -> float:
        """Write to the shared storage, all processes together; the busiest one writes `writer_bytes`."""

    def load_s(self, num_bytes: float, reader_bytes: float) -> float:
        """Read from the shared storage, all processes together; the busiest one reads `reader_bytes`."""
