"""Answer SPARQL queries in a process of their own, which can be killed: nothing else stops a query of pyoxigraph.

A request is a line of JSON; an answer is a line with status, media type and length, and the body of that length.
"""

import asyncio
import ctypes
import io
import json
import re
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pyoxigraph as ox

from pddgraph.rdf import PREFIXES
from pddgraph.tables import PddError

RESULTS = "application/sparql-results"
TABLES = {f"{RESULTS}+json": "JSON", f"{RESULTS}+xml": "XML", "text/csv": "CSV", "text/tab-separated-values": "TSV"}
"""Formats for results of SELECT and ASK; the first is what `*/*` gets."""
GRAPHS = {
    "text/turtle": "TURTLE", "application/n-triples": "N_TRIPLES", "application/rdf+xml": "RDF_XML",
    "application/ld+json": "JSON_LD",
}  # fmt: skip
"""Formats for results of CONSTRUCT and DESCRIBE."""
LOOSE = {"application/json": "json", "application/xml": "xml", "text/xml": "xml", "text/plain": ("csv", "triples")}
"""Media types that stand for the first one whose name ends so."""
SKIPPED = re.compile(
    r'"""(?:[^\\]|\\.)*?"""|' r"'''(?:[^\\]|\\.)*?'''|" r'"(?:[^"\\\n\r]|\\.)*"|' r"'(?:[^'\\\n\r]|\\.)*'|"
    r"<[^\x00-\x20<>\"{}|^`\\]*>|#[^\n\r]*|\\.",
    re.DOTALL,
)  # fmt: skip
"""Strings, IRIs, comments and escapes: what stands in them is no keyword."""
ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})")
MAX_MEMORY = 8 << 30  # Address space of a process that answers queries, bytes.
PR_SET_PDEATHSIG = 1
READY = b"ready\n"


class QueryError(PddError):
    """Report a query that has no answer, with the HTTP status that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Sink(io.BytesIO):
    """Takes the bytes of a result up to a limit; more stop the query."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def write(self, chunk: bytes) -> int:
        """Keep a chunk of the result."""
        if self.tell() + len(chunk) > self.limit:
            raise QueryError(413, f"the result has more than {self.limit:,} bytes: add a LIMIT or ask for less")
        return super().write(chunk)


def has_keyword(query: str, word: str) -> bool:
    """Say whether a keyword stands in a query, outside of strings, IRIs, comments and names; also when escaped."""
    unescaped = ESCAPE.sub(lambda match: chr(min(int(match[1] or match[2], 16), 0x10FFFF)), query)
    keyword = re.compile(rf"(?<![\w:?$@.-]){word}(?![\w:-])", re.IGNORECASE)
    return any(keyword.search(SKIPPED.sub(" ", text)) for text in {query, unescaped})


def negotiate(accept: Sequence[str], formats: dict[str, str]) -> tuple[str, str]:
    """Return the first acceptable media type and its format."""
    for wanted in accept:
        for media, name in formats.items():
            if wanted in (media, "*/*", f"{media.split('/')[0]}/*") or media.endswith(LOOSE.get(wanted, "?")):
                return media, name
    raise QueryError(406, f"no such format for this kind of query; there are {', '.join(formats)}")


def answer(store: ox.Store, request: dict, limit: int) -> tuple[int, str, bytes]:
    """Run one query and return the HTTP status, media type and bytes of its result, or of the reason for none."""
    query = request["query"]
    try:
        if has_keyword(query, "SERVICE"):
            raise QueryError(400, "SERVICE is not allowed: this endpoint asks no other")
        graphs = {key: list(map(ox.NamedNode, request.get(key, ()))) for key in ("default_graph", "named_graphs")}
        chosen = graphs if any(graphs.values()) else {}
        union = not chosen and not has_keyword(query, "FROM")
        results = store.query(query, prefixes=PREFIXES, use_default_graph_as_union=union, **chosen)
        graph = isinstance(results, ox.QueryTriples)
        media, name = negotiate(request["accept"], GRAPHS if graph else TABLES)
        sink = Sink(limit)
        results.serialize(sink, format=getattr(ox.RdfFormat if graph else ox.QueryResultsFormat, name))
        return 200, media, sink.getvalue()
    except QueryError as error:
        return error.status, "text/plain", str(error).encode()
    except (SyntaxError, ValueError, OSError, RuntimeError) as error:
        fault = "malformed query" if isinstance(error, SyntaxError) else "the query failed"
        return 400, "text/plain", f"{fault}: {error}".encode()


def main() -> None:
    """Answer the requests on stdin until it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # No query outlives a server that was killed.
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    store, limit, out = ox.Store.read_only(sys.argv[1]), int(sys.argv[2]), sys.stdout.buffer
    out.write(READY)
    out.flush()
    for line in sys.stdin.buffer:
        status, media, body = answer(store, json.loads(line), limit)
        out.write(f"{status} {media} {len(body)}\n".encode() + body)
        out.flush()


class Pool:
    """Processes that answer queries of a graph, `size` at the same time; a query that takes too long ends its own."""

    def __init__(self, folder: Path, size: int, timeout_s: float, max_bytes: int) -> None:
        self.folder, self.size, self.timeout_s, self.max_bytes = folder, size, timeout_s, max_bytes
        self._idle: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()

    async def __aenter__(self) -> "Pool":
        for process in await asyncio.gather(*(self._spawn() for _ in range(self.size))):
            self._idle.put_nowait(process)
        return self

    async def __aexit__(self, *_: object) -> None:
        while not self._idle.empty():
            await self._end(self._idle.get_nowait())

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def _spawn(self) -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "pddgraph.worker", str(self.folder / "store"), str(self.max_bytes)]
        pipe, own = asyncio.subprocess.PIPE, {"stderr": asyncio.subprocess.DEVNULL, "start_new_session": True}
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, **own)
        if await process.stdout.readline() != READY:
            raise QueryError(500, f"the store in {self.folder} cannot be opened: build the graph again")
        return process

    async def ask(self, request: dict) -> tuple[str, bytes]:
        """Return the media type and the result of a query; raise `QueryError` when there is none."""
        process = await self._idle.get()
        try:
            if process.returncode is not None:
                process = await self._spawn()
            async with asyncio.timeout(self.timeout_s):
                process.stdin.write(json.dumps(request).encode() + b"\n")
                status, media, length = (await process.stdout.readline()).split()
                body = await process.stdout.readexactly(int(length))
        except BaseException as error:
            await self._end(process)
            process = await self._spawn()
            if isinstance(error, TimeoutError):
                raise QueryError(503, f"the query took more than {self.timeout_s:g} s and was stopped") from None
            if isinstance(error, ValueError | OSError | asyncio.IncompleteReadError):
                raise QueryError(500, "the query ended its process: too much memory, or nested too deep") from None
            raise
        finally:
            self._idle.put_nowait(process)
        if status != b"200":
            raise QueryError(int(status), body.decode())
        return media.decode(), body


if __name__ == "__main__":
    main()
