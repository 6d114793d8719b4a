"""Analytic communication times: latency plus the bytes of the busiest link over its rate."""

from dataclasses import dataclass

import numpy as np

from lazsim.costmodel.times import Floats
from lazsim.specs import HostSpec, NetworkSpec


@dataclass(frozen=True)
class AnalyticCommunication:
    """Times of a `NetworkSpec`: transfers through NICs and inside servers overlap, latency comes on top.

    The host serialises what goes to the storage and comes from it.

    Notes
    -----
    The alpha-beta model (Hockney 1994). The cluster's catalogue entry has the share of the line rate that each kind of
    transfer reaches, with its source.
    """

    network: NetworkSpec
    host: HostSpec

    def all_to_all_s(self, nic_bytes: Floats, local_bytes: Floats) -> Floats:
        """One all-to-all; its messages to different peers are in flight together, so latency counts once."""
        return self._overlapped_s(nic_bytes, local_bytes, self.network.all_to_all_efficiency)

    def all_reduce_s(self, nic_bytes: Floats, local_bytes: Floats, nic_hops: Floats, local_hops: Floats) -> Floats:
        """Ring all-reduces one after the other; each hop waits for the one before."""
        network = self.network
        nic_s = np.asarray(nic_bytes / (network.nic_bytes_per_s * network.all_reduce_efficiency))
        local_s = np.asarray(local_bytes / network.local_all_reduce_bytes_per_s)
        latency_s = nic_hops * network.nic_latency_s + local_hops * network.local_all_reduce_latency_s
        seconds: Floats = np.maximum(nic_s, local_s) + latency_s
        return seconds

    def transfer_s(self, nic_bytes: Floats, local_bytes: Floats) -> Floats:
        """Point-to-point transfers at the same time."""
        return self._overlapped_s(nic_bytes, local_bytes, self.network.point_to_point_efficiency)

    def save_s(self, num_bytes: float, writer_bytes: float) -> float:
        """Serialise, then flush: a file is small against the page cache, so that its bytes leave as it is closed."""
        return writer_bytes / self.host.serialise_bytes_per_s + num_bytes / self.network.storage_bytes_per_s

    def load_s(self, num_bytes: float, reader_bytes: float) -> float:
        """Read from the shared storage, and make tensors of it."""
        rate = self.network.storage_read_bytes_per_s or self.network.storage_bytes_per_s
        return num_bytes / rate + reader_bytes / self.host.serialise_bytes_per_s

    def _overlapped_s(self, nic_bytes: Floats, local_bytes: Floats, efficiency: float) -> Floats:
        network = self.network
        nic_s = (network.nic_latency_s + nic_bytes / (network.nic_bytes_per_s * efficiency)) * (nic_bytes > 0)
        local_s = (network.local_latency_s + local_bytes / network.local_bytes_per_s) * (local_bytes > 0)
        seconds: Floats = np.maximum(nic_s, local_s)
        return seconds
