"""Analytic communication times: latency plus the bytes of the busiest link over its rate; closed forms of collectives.

Sizes of collectives follow the convention of NCCL's tests (PERFORMANCE.md): ``num_bytes`` is the buffer of one rank. Of
it an all-reduce passes ``2 (n - 1) / n`` and an all-to-all ``(n - 1) / n`` through each rank's link, each direction.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lazsim.placement.plan import Floats
from lazsim.specs import HostSpec, NetworkSpec

Broadcastable = float | Floats


@dataclass(frozen=True, eq=False)
class AnalyticCommunication:
    """Seconds of collectives, from the bytes that the busiest link carries in its busier direction.

    ``nic_bytes`` go through the NICs of a server, ``local_bytes`` through the link of a GPU inside a server. Both
    overlap, latency comes on top. The host serialises what goes to the storage and comes from it.

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
        """Ring all-reduces of messages in sequence, by hops between servers and inside: each waits for that before."""
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
        """Write to the shared storage, all processes together; the busiest one writes `writer_bytes`.

        It serialises, then flushes: a file is small against the page cache, so that its bytes leave as it is closed.
        """
        return writer_bytes / self.host.serialise_bytes_per_s + num_bytes / self.network.storage_bytes_per_s

    def load_s(self, num_bytes: float, reader_bytes: float) -> float:
        """Read from the shared storage, all processes together, and make tensors; the busiest reads `reader_bytes`."""
        rate = self.network.storage_read_bytes_per_s or self.network.storage_bytes_per_s
        return num_bytes / rate + reader_bytes / self.host.serialise_bytes_per_s

    def _overlapped_s(self, nic_bytes: Floats, local_bytes: Floats, efficiency: float) -> Floats:
        network = self.network
        nic_s = (network.nic_latency_s + nic_bytes / (network.nic_bytes_per_s * efficiency)) * (nic_bytes > 0)
        local_s = (network.local_latency_s + local_bytes / network.local_bytes_per_s) * (local_bytes > 0)
        seconds: Floats = np.maximum(nic_s, local_s)
        return seconds


@dataclass(frozen=True)
class FixedTransfers:
    """Every transfer, and every save or load, takes as long; collectives are part of a step."""

    transfer_time_s: float
    storage_time_s: float

    def transfer_s(self, nic_bytes: Floats, local_bytes: Floats) -> Floats:
        """See `AnalyticCommunication`."""
        return self.transfer_time_s + 0.0 * nic_bytes

    def save_s(self, num_bytes: float, writer_bytes: float) -> float:
        """See `AnalyticCommunication`."""
        return self.storage_time_s

    def load_s(self, num_bytes: float, reader_bytes: float) -> float:
        """See `AnalyticCommunication`."""
        return self.storage_time_s


def ring_all_reduce_s(
    num_bytes: npt.ArrayLike, num_ranks: npt.ArrayLike, bytes_per_s: Broadcastable, latency_s: Broadcastable
) -> Floats:
    """Predict the seconds of a ring all-reduce.

    Parameters
    ----------
    num_bytes : array_like
        Buffer of one rank, bytes; 0 takes 0 s.
    num_ranks : array_like
        Ranks of the ring; 1 takes 0 s.
    bytes_per_s : float or ndarray
        Rate of a rank's link in one direction; both directions are used at once.
    latency_s : float or ndarray
        Latency of one hop.

    Returns
    -------
    ndarray of float64
        Seconds, of the broadcast shape.

    Notes
    -----
    ``2 (n - 1) (num_bytes / (n bytes_per_s) + latency_s)``: a reduce-scatter and an all-gather of ``n - 1`` hops each
    (Thakur, Rabenseifner and Gropp 2005; Patarasuk and Yuan 2009).

    Examples
    --------
    >>> float(ring_all_reduce_s(4e9, 4, 1e9, 0.5))
    9.0
    """
    buffer, ranks = np.asarray(num_bytes, dtype=np.float64), np.asarray(num_ranks, dtype=np.float64)
    hops = 2.0 * (ranks - 1.0) * (buffer > 0)
    seconds: Floats = hops * (buffer / (ranks * bytes_per_s) + latency_s)
    return seconds


def all_to_all_s(
    num_bytes: npt.ArrayLike, num_ranks: npt.ArrayLike, bytes_per_s: Broadcastable, latency_s: Broadcastable
) -> Floats:
    """Predict the seconds of an all-to-all of equal parts; see `ring_all_reduce_s` for the arguments.

    `num_bytes` is what one rank sends to all, itself included; the latency is that of the exchange.

    Notes
    -----
    ``(n - 1) / n * num_bytes / bytes_per_s + latency_s``. The latency counts once since the messages to all peers are
    in flight together: in the measured nodes the floor of 8 GPUs is 1.3 to 1.8 times that of 2, not 7 times.

    Examples
    --------
    >>> float(all_to_all_s(4e9, 4, 1e9, 0.5))
    3.5
    """
    buffer, ranks = np.asarray(num_bytes, dtype=np.float64), np.asarray(num_ranks, dtype=np.float64)
    share = (ranks - 1.0) / ranks
    seconds: Floats = (share * buffer / bytes_per_s + latency_s) * ((buffer > 0) & (ranks > 1))
    return seconds
