"""Large arrays a part at a time: what fits into a processor's cache takes half the time."""

CACHED_ELEMENTS = 32_768
"""Elements, of 8 bytes, of which a few arrays stay in the cache of a core: 512 KiB and more in server processors."""


def chunks(num_rows: int, row_elements: int) -> list[slice]:
    """Cut rows into parts of so few elements; a row is never cut.

    Examples
    --------
    >>> chunks(5, CACHED_ELEMENTS // 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size = max(1, CACHED_ELEMENTS // max(row_elements, 1))
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
