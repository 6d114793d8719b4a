"""Times of kernels and links, analytic or measured: the methods that subclasses override, and that take no time here.

Axes: any; all times broadcast over arrays.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class ComputeTimes:
    """Seconds of work on one GPU, forward and backward together."""

    def dense_s(self, num_tokens: float) -> float:
        """Everything but experts and dispatch, all layers, for a node's micro-batch of `num_tokens`."""
        return 0.0

    def expert_s(self, num_tokens: Floats) -> Floats:
        """One expert of one layer."""
        return np.zeros_like(num_tokens)

    def reorder_s(self, num_tokens: Floats) -> Floats:
        """Gate, token reorder and its inverse in one layer, for the token assignments of one GPU."""
        return np.zeros_like(num_tokens)

    def masked_reorder_s(self, num_tokens: float, capacity: Floats) -> Floats:
        """Reorder by a matmul with a one-hot mask over ``num_experts * capacity`` buffer rows."""
        return np.zeros_like(capacity)

    def optimizer_s(self, num_params: Floats) -> Floats:
        """One optimizer step."""
        return 0.0 * num_params


class CommunicationTimes:
    """Seconds of a collective, from the bytes that the busiest link carries in its busier direction.

    ``nic_bytes`` go through the NICs of a server, ``local_bytes`` through the link of a GPU inside a server.
    """

    def all_to_all_s(self, nic_bytes: Floats, local_bytes: Floats) -> Floats:
        """One all-to-all."""
        return 0.0 * nic_bytes

    def all_reduce_s(self, nic_bytes: Floats, local_bytes: Floats, nic_hops: Floats, local_hops: Floats) -> Floats:
        """All-reduces one after the other, of messages in sequence: `nic_hops` between servers, `local_hops` inside."""
        return 0.0 * nic_bytes

    def transfer_s(self, nic_bytes: Floats, local_bytes: Floats) -> Floats:
        """Point-to-point transfers at the same time."""
        return 0.0 * nic_bytes

    def save_s(self, num_bytes: float, writer_bytes: float) -> float:
        """Write to the shared storage, all processes together; the busiest one writes `writer_bytes`."""
        return 0.0

    def load_s(self, num_bytes: float, reader_bytes: float) -> float:
        """Read from the shared storage, all processes together; the busiest one reads `reader_bytes`."""
        return 0.0
