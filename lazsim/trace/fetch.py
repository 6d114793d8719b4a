"""Fetch public traces at fixed commits, check their bytes, and cache them."""

import logging
from pathlib import Path

from lazsim.errors import LazsimError, SpecError
from lazsim.files.reading import read_bytes
from lazsim.files.writing import scratch_folder, write_whole
from lazsim.specs import sha256
from lazsim.trace.recipes import PublicSpec, load_recipe

BASE_URL = "https://raw.githubusercontent.com"
BASE_URL_VARIABLE = "LAZSIM_FETCH_URL"
TIMEOUT_S = 30


def cached_path(public: PublicSpec, cache: Path | str | None = None) -> Path:
    """Return where a fetched trace is kept: in a folder, by default the user's cache folder."""
    import pooch

    folder = pooch.os_cache("lazsim") if cache is None else cache
    return Path(folder, f"{public.sha256[:12]}-{Path(public.path).name}")


def fetch_trace(name: str, base_url: str = BASE_URL, cache: Path | str | None = None) -> bytes:
    """Fetch a public trace, or read it from the cache.

    Parameters
    ----------
    name
        A public trace of the catalogue, or a TOML file of the same shape.
    base_url
        Address of the repositories; a mirror has the layout of raw.githubusercontent.com.
    cache
        Folder of the cache; by default the user's cache folder.

    Returns
    -------
    bytes
        The file, whose SHA-256 is the one in the catalogue.

    Raises
    ------
    LazsimError
        When the file cannot be fetched or its hash differs; then nothing is cached.
    SpecError
        When there is no public trace of that name.
    """
    import pooch

    public = load_recipe(name)
    if not isinstance(public, PublicSpec):
        raise SpecError(f"{name}: a recipe, nothing to fetch; make it with lazsim trace generate {name}")
    url = "/".join([base_url.rstrip("/"), public.repository, public.commit, public.path])
    kept = cached_path(public, cache)
    if kept.is_file() and sha256(content := read_bytes(kept)) == public.sha256:
        return content
    pooch.get_logger().setLevel(logging.ERROR)
    try:
        # The folder of the cache is made once there is a file for it.
        with scratch_folder() as folder:
            path = pooch.retrieve(
                url, known_hash=f"sha256:{public.sha256}", fname=kept.name, path=folder,
                # Not streamed: these files are small, and a failed stream leaves its socket open.
                downloader=pooch.HTTPDownloader(stream=False, timeout=TIMEOUT_S),
            )  # fmt: skip
            content = read_bytes(path)
    except ValueError as error:
        differs = "hash" in str(error).lower()
        what = "the file is not the one that was pinned (SHA-256 differs)" if differs else "not an address of a file"
        raise LazsimError(f"{url}: {what}; nothing was kept, check the source or `base_url`") from None
    except OSError as error:
        reason = _reason(error)
        raise LazsimError(f"{url}: cannot be fetched ({reason}); check network or `base_url`") from None
    write_whole(kept, content)
    return content


def _reason(error: OSError) -> str:
    """Name the cause in a few words; the text of network errors holds whole chains of causes."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    names = {"ConnectionError": "no connection", "ReadTimeout": "timed out", "ConnectTimeout": "timed out"}
    return error.strerror or names.get(type(error).__name__, type(error).__name__)
