"""Times of collectives: closed forms of a latency and a bandwidth.

Sizes follow the convention of NCCL's tests (PERFORMANCE.md): ``num_bytes`` is the buffer of one rank. Of it an
all-reduce passes ``2 (n - 1) / n`` and an all-to-all ``(n - 1) / n`` through each rank's link, in each direction.
"""

import numpy as np
import numpy.typing as npt

from lazsim.costmodel.times import Floats

Rate = float | Floats


def ring_all_reduce_s(num_bytes: npt.ArrayLike, num_ranks: npt.ArrayLike, bytes_per_s: Rate, latency_s: Rate) -> Floats:
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


def all_to_all_s(num_bytes: npt.ArrayLike, num_ranks: npt.ArrayLike, bytes_per_s: Rate, latency_s: Rate) -> Floats:
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
