"""Serve a graph by the SPARQL 1.1 protocol over HTTP, read-only, with a page to ask queries on."""

import asyncio
import contextlib
import html
import json
import resource
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyoxigraph as ox
from aiohttp import web

from pddgraph.build import OPEN_LICENCES, open_graph
from pddgraph.rdf import PREFIXES, iri
from pddgraph.tables import PddError
from pddgraph.worker import GRAPHS, Pool, QueryError, negotiate

DATA = Path(__file__).parent / "data"
MAX_REQUEST_BYTES = 1 << 20
LOOPBACK = ("localhost", "127.0.0.1", "::1")
FORM = "application/x-www-form-urlencoded"
METHODS = "GET, HEAD, POST, OPTIONS"
RESULTS = "SPARQL_Results_JSON SPARQL_Results_XML SPARQL_Results_CSV SPARQL_Results_TSV Turtle N-Triples RDF_XML"
"""Formats of results, as https://www.w3.org/ns/formats/ calls them."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def examples() -> dict[str, str]:
    """Return the example queries by the comment that each begins with."""
    texts = [path.read_text("utf-8") for path in sorted((DATA / "queries").glob("*.rq"))]
    return {text.splitlines()[0].removeprefix("# "): text for text in texts}


def accepted(header: str) -> list[str]:
    """Return the media types of an Accept header, best first.

    Examples
    --------
    >>> accepted("text/csv;q=0.5, application/json, */*;q=0.1, text/html;q=0")
    ['application/json', 'text/csv', '*/*']
    """
    ranked = []
    for part in (part.strip().lower() for part in header.split(",") if part.strip()):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        try:
            ranked.append((-float(quality), len(ranked), media))
        except ValueError:
            raise QueryError(400, f"malformed Accept header: {part}") from None
    return [media for quality, _, media in sorted(ranked) if quality < 0] if ranked else ["*/*"]


def hostname(address: str) -> str:
    """Return the host of an address, or nothing when it is malformed."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


async def request_of(request: web.Request) -> dict | None:
    """Return the query and the dataset that a request asks for, or None when it has no query."""
    try:
        parameters = parse_qs(request.rel_url.raw_query_string, errors="strict", max_num_fields=1000)
        if request.method == "POST":
            text = (await request.read()).decode("utf-8")
            if request.content_type == FORM:
                for name, values in parse_qs(text, errors="strict", max_num_fields=1000).items():
                    parameters.setdefault(name, []).extend(values)
            elif request.content_type in ("application/sparql-query", "application/sparql-update"):
                parameters.setdefault(request.content_type.removeprefix("application/sparql-"), []).append(text)
            else:
                raise QueryError(415, f"send {FORM} or application/sparql-query")
    except ValueError as error:
        raise QueryError(400, f"malformed parameters: {error}") from None
    if "update" in parameters:
        raise QueryError(403, "this endpoint is read-only")
    queries = parameters.get("query", [])
    if not queries and request.method != "POST":
        return None
    if len(queries) != 1:
        raise QueryError(400, "give one query")
    default, named = parameters.get("default-graph-uri", []), parameters.get("named-graph-uri", [])
    return {"query": queries[0], "default_graph": default, "named_graphs": named}


class Endpoint:
    """The pages of the server.

    Web pages of the origin `allow_origin` may ask, of every origin if it is ``*``, and always those of this machine.
    `local` says whether the server listens to this machine alone.
    """

    def __init__(self, pool: Pool, manifest: dict, allow_origin: str, local: bool) -> None:
        self.pool, self.manifest, self.allow_origin, self.local = pool, manifest, allow_origin, local

    def application(self) -> web.Application:
        """Return the application with its routes."""
        application = web.Application(middlewares=[self.guard], client_max_size=MAX_REQUEST_BYTES)
        application.router.add_get("/", self.page)
        application.router.add_get("/sparql", self.sparql)
        application.router.add_post("/sparql", self.sparql)
        return application

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let other pages in as `allow_origin` says, answer preflights, and turn errors into one line.

        Where pages of this machine alone may ask, a host name that another page had resolved to it is refused.
        """
        origin, free = request.headers.get("Origin", ""), self.allow_origin == "*"
        try:
            if not free and self.local and hostname(f"//{request.host}") not in LOOPBACK:
                raise QueryError(403, "this server answers as localhost only")
            options = request.method == "OPTIONS"
            response = web.Response(status=204, headers={"Allow": METHODS}) if options else await handler(request)
        except QueryError as error:
            response = web.Response(status=error.status, text=f"{error}\n")
        except web.HTTPException as error:
            known = {404: "no such page; the endpoint is /sparql", 413: f"send at most {MAX_REQUEST_BYTES:,} bytes"}
            response = web.Response(status=error.status, text=f"{known.get(error.status, error.reason)}\n")
        if free or (origin and (origin == self.allow_origin or hostname(origin) in LOOPBACK)):
            response.headers["Access-Control-Allow-Origin"] = "*" if free else origin
            response.headers["Access-Control-Allow-Methods"] = METHODS
            response.headers["Access-Control-Allow-Headers"] = "Accept, Content-Type"
        response.headers["Vary"] = "Accept, Origin"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    async def sparql(self, request: web.Request) -> web.Response:
        """Answer a query, or describe the service when there is none."""
        accept = accepted(", ".join(request.headers.getall("Accept", [])))
        asked = await request_of(request)
        if asked is None:
            return self.description(request, accept)
        media, body = await self.pool.ask({**asked, "accept": accept})
        return web.Response(body=body, content_type=media, charset="utf-8" if media.startswith("text/") else None)

    def description(self, request: web.Request, accept: list[str]) -> web.Response:
        """Describe the service by the vocabulary of SPARQL 1.1 Service Description."""
        graphs = " , ".join(f"[ a sd:NamedGraph ; sd:name {iri(f'graph:{name}')} ]" for name in self.manifest["quads"])
        formats = " , ".join(f"<http://www.w3.org/ns/formats/{name}>" for name in RESULTS.split())
        turtle = f"""@prefix sd: <http://www.w3.org/ns/sparql-service-description#> .
            [] a sd:Service ; sd:endpoint <{request.url.with_query(None)}> ; sd:supportedLanguage sd:SPARQL11Query ;
              sd:feature sd:UnionDefaultGraph ; sd:resultFormat {formats} ;
              sd:defaultDataset [ a sd:Dataset ; sd:defaultGraph [ a sd:Graph ] ; sd:namedGraph {graphs} ] ."""
        media, name = negotiate([*accept, "text/turtle"], GRAPHS)
        triples = ox.parse(turtle, format=ox.RdfFormat.TURTLE)
        return web.Response(body=ox.serialize(triples, format=getattr(ox.RdfFormat, name)), content_type=media)

    async def page(self, request: web.Request) -> web.Response:
        """Show the page with the editor and the example queries."""
        prefixes = "\n".join(f"PREFIX {prefix}: <{name}>" for prefix, name in PREFIXES.items())
        size, licence = sum(self.manifest["quads"].values()), self.manifest["licence"] or "unknown"
        text = (DATA / "page.html").read_text("utf-8")
        text = text.replace("{{examples}}", json.dumps(examples()).replace("<", "\\u003c"))
        text = text.replace("{{prefixes}}", html.escape(prefixes))
        text = text.replace("{{about}}", html.escape(f"{size:,} quads; licence of the tables: {licence}"))
        return web.Response(text=text, content_type="text/html")


async def serve(pool: Pool, host: str, port: int, allow_origin: str, ready: Callable[[str], None]) -> None:
    """Serve until the process is told to stop; `ready` gets the address."""
    manifest = open_graph(pool.folder)
    if not allow_origin:
        allow_origin = "*" if manifest["licence"] in OPEN_LICENCES.values() else "none"
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    application = Endpoint(pool, manifest, allow_origin, host in LOOPBACK).application()
    runner = web.AppRunner(application, handler_cancellation=True, access_log=None, max_line_size=1 << 16)
    await runner.setup()
    stop = asyncio.Event()
    for one in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(one, stop.set)
    try:
        try:
            await web.TCPSite(runner, host, port, backlog=1024).start()
            await pool.start()
        except OSError as error:
            raise PddError(f"cannot listen on {host}:{port}: {error.strerror or error}; give another --port") from None
        except QueryError as error:
            raise PddError(str(error)) from None
        ready(f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}/")
        await stop.wait()
    finally:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(runner.cleanup(), 3)
        await pool.stop()
