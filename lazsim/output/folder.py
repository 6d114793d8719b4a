"""Names of the files of a result."""

from collections.abc import Mapping


def name_pictures(name: str, pictures: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return a picture's files by their names.

    Examples
    --------
    >>> name_pictures("trace", {"png": b"...", "pdf": b"..."})
    {'trace.png': b'...', 'trace.pdf': b'...'}
    """
    return {f"{name}.{file_type}": content for file_type, content in pictures.items()}
