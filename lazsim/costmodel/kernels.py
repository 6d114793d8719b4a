"""Times of one kernel on one GPU: datasheet peaks times an efficiency that depends on size.

The model is a roofline with two losses, both visible in measured matmuls: few outputs do not fill all processors, and
each output tile has a start and an end, which weigh more the shorter the inner dimension is. Its parameters are fields
of `lazsim.specs.GpuSpec`; `lazsim.costmodel.fit` finds them from measurements.
"""

import numpy as np
import numpy.typing as npt

from lazsim.costmodel.times import Floats
from lazsim.specs import WEIGHT_BYTES_PER_PARAM, GpuSpec


def matmul_s(gpu: GpuSpec, m: npt.ArrayLike, n: npt.ArrayLike, k: npt.ArrayLike) -> Floats:
    """Predict the seconds of a dense half-precision matmul ``m x k @ k x n``.

    Parameters
    ----------
    gpu : GpuSpec
        Datasheet peaks and fitted efficiencies.
    m : array_like
        Rows: tokens, also fractions of one; 0 means that no kernel runs and takes 0 s.
    n, k : array_like
        Columns of the result and inner dimension; all three broadcast.

    Returns
    -------
    ndarray of float64
        Seconds, of the broadcast shape.

    Notes
    -----
    ``overhead + max(2 (m n + fill_outputs) (k + fill_k) / (efficiency peak), bytes / bandwidth)`` with
    ``bytes = 2 (m k + k n + m n)``. The roofline is Williams, Waterman and Patterson 2009; the two saturating terms are
    Hockney's half-performance length (1982) in the number of outputs and in ``k``.

    Examples
    --------
    A GPU of 100 TFLOP/s without losses: ``2 * 10240**3 / 100e12`` seconds.

    >>> gpu = GpuSpec(name="ideal", peak_flop_per_s=100e12, memory_bytes_per_s=1e12, memory_bytes=16e9,
    ...     matmul_efficiency=1.0, matmul_fill_outputs=0.0, matmul_fill_k=0.0, matmul_memory_efficiency=1.0,
    ...     memory_efficiency=1.0, kernel_overhead_s=0.0, source="assumption")
    >>> [round(float(seconds), 6) for seconds in matmul_s(gpu, [0, 10240], 10240, 10240)]
    [0.0, 0.021475]
    """
    rows = np.asarray(m, dtype=np.float64)
    # Arithmetic on plain numbers costs a tenth of that on arrays of one element.
    columns, inner = (
        float(size) if isinstance(size, int | float) else np.asarray(size, dtype=np.float64) for size in (n, k)
    )
    # Both sides of the roofline are a line in the rows: few passes over the array, since this runs in the main loop.
    operation = (inner + gpu.matmul_fill_k) * (2.0 / (gpu.matmul_efficiency * gpu.peak_flop_per_s))
    seconds: Floats = rows * (columns * operation)
    seconds += gpu.matmul_fill_outputs * operation
    element = WEIGHT_BYTES_PER_PARAM / (gpu.matmul_memory_efficiency * gpu.memory_bytes_per_s)
    memory = rows * ((columns + inner) * element)
    memory += columns * inner * element
    seconds = np.maximum(seconds, memory)
    seconds += gpu.kernel_overhead_s
    seconds *= rows > 0
    return seconds


def memory_s(gpu: GpuSpec, num_bytes: npt.ArrayLike) -> Floats:
    """Predict the seconds of an element-wise kernel or a copy, which reads and writes `num_bytes`; none for 0 bytes."""
    moved = np.asarray(num_bytes, dtype=np.float64)
    seconds: Floats = (moved / gpu.moved_bytes_per_s + gpu.kernel_overhead_s) * (moved > 0)
    return seconds
