"""Serve a graph by the SPARQL 1.1 protocol over HTTP, read-only, with a page to ask queries on."""

import html
import json
import resource
import socket
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qs

import pyoxigraph as ox
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from pddgraph.build import OPEN_LICENCES, open_graph
from pddgraph.rdf import PREFIXES, iri
from pddgraph.tables import PddError
from pddgraph.worker import GRAPHS, Pool, QueryError, negotiate

DATA = Path(__file__).parent / "data"
MAX_REQUEST_BYTES = 1 << 20
MAX_CLIENTS = 2000  # Connections, idle or with a query that waits for a process; more get status 503.
LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
LOCAL_PAGES = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
FORM = "application/x-www-form-urlencoded"
DIRECT = {"application/sparql-query": "query", "application/sparql-update": "update"}
RESULTS = "SPARQL_Results_JSON SPARQL_Results_XML SPARQL_Results_CSV SPARQL_Results_TSV Turtle N-Triples RDF_XML"


def examples() -> dict[str, str]:
    """Return the example queries by the comment that each begins with."""
    texts = [path.read_text("utf-8") for path in sorted((DATA / "queries").glob("*.rq"))]
    return {text.splitlines()[0].removeprefix("# "): text for text in texts}


@lru_cache
def accepted(header: str) -> list[str]:
    """Return the media types of an Accept header, best first."""
    ranked = []
    for part in (part.strip().lower() for part in header.split(",") if part.strip()):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        try:
            ranked.append((-float(quality), len(ranked), media))
        except ValueError:
            raise QueryError(400, f"malformed Accept header: {part}") from None
    return [media for quality, _, media in sorted(ranked) if quality < 0] if ranked else ["*/*"]


async def asked(request: Request) -> dict | None:
    """Return the query and the dataset that a request asks for, or None when it has no query."""
    try:
        parameters = parse_qs(request.scope["query_string"].decode(), errors="strict", max_num_fields=1000)
        if request.method == "POST":
            body = bytearray()
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_REQUEST_BYTES:
                    raise QueryError(413, f"send at most {MAX_REQUEST_BYTES:,} bytes")
            kind, text = request.headers.get("content-type", "").split(";")[0].strip().lower(), body.decode()
            if kind != FORM and kind not in DIRECT:
                raise QueryError(415, f"send {FORM} or application/sparql-query")
            sent = {DIRECT[kind]: [text]} if kind in DIRECT else parse_qs(text, errors="strict", max_num_fields=1000)
            parameters = {key: parameters.get(key, []) + sent.get(key, []) for key in parameters.keys() | sent.keys()}
    except ValueError as error:
        raise QueryError(400, f"malformed parameters: {error}") from None
    if "update" in parameters:
        raise QueryError(403, "this endpoint is read-only")
    if request.method != "POST" and not request.scope["query_string"]:
        return None
    queries = parameters.get("query", [])
    if len(queries) != 1:
        raise QueryError(400, "give one query")
    default, named = parameters.get("default-graph-uri", []), parameters.get("named-graph-uri", [])
    return {"query": queries[0], "default_graph": default, "named_graphs": named}


async def sparql(request: Request) -> Response:
    """Answer a query, or describe the service when there is none."""
    accept, state = accepted(request.headers.get("accept", "")), request.app.state
    query = await asked(request)
    if query:
        media, body = await state.pool.ask({**query, "accept": accept})
    else:
        media, body = describe(str(request.url.replace(query=None)), state.manifest["quads"], accept)
    return Response(body, media_type=media, headers={"Vary": "Accept", "X-Content-Type-Options": "nosniff"})


def describe(address: str, names: Iterable[str], accept: list[str]) -> tuple[str, bytes]:
    """Describe the service by the vocabulary of SPARQL 1.1 Service Description."""
    graphs = " , ".join(f"[ a sd:NamedGraph ; sd:name {iri(f'graph:{name}')} ]" for name in names)
    formats = " , ".join(f"<http://www.w3.org/ns/formats/{name}>" for name in RESULTS.split())
    turtle = f"""@prefix sd: <http://www.w3.org/ns/sparql-service-description#> .
        [] a sd:Service ; sd:endpoint <{address}> ; sd:supportedLanguage sd:SPARQL11Query ;
          sd:feature sd:UnionDefaultGraph ; sd:resultFormat {formats} ;
          sd:defaultDataset [ a sd:Dataset ; sd:defaultGraph [ a sd:Graph ] ; sd:namedGraph {graphs} ] ."""
    media, name = negotiate([*accept, "text/turtle"], GRAPHS)
    return media, ox.serialize(ox.parse(turtle, format=ox.RdfFormat.TURTLE), format=getattr(ox.RdfFormat, name))


async def page(request: Request) -> Response:
    """Show the page with the editor and the example queries."""
    prefixes, manifest = [f"PREFIX {prefix}: <{name}>" for prefix, name in PREFIXES.items()], request.app.state.manifest
    about = f"{sum(manifest['quads'].values()):,} quads; licence of the tables: {manifest['licence'] or 'unknown'}"
    text = (DATA / "page.html").read_text("utf-8").replace("{{prefixes}}", html.escape("\n".join(prefixes)))
    text = text.replace("{{examples}}", json.dumps(examples()).replace("<", "\\u003c"))
    return HTMLResponse(text.replace("{{about}}", html.escape(about)))


async def refuse(_: Request, error: QueryError) -> Response:
    """Answer with one line why there is no result."""
    return PlainTextResponse(f"{error}\n", error.status)


def application(pool: Pool, allow_origin: str, local: bool) -> Starlette:
    """Return the application.

    Web pages of `allow_origin` may ask (`*`: any; empty: any if the tables have an open licence), and always those of
    this machine. If no others may and the server is `local`, names that another site had resolved to it are refused.
    """
    manifest = open_graph(pool.folder)
    allow_origin = allow_origin or ("*" if manifest["licence"] in OPEN_LICENCES else "none")
    cors = {"allow_origins": [allow_origin], "allow_origin_regex": LOCAL_PAGES, "allow_headers": ["Content-Type"]}
    middleware = [Middleware(CORSMiddleware, allow_methods=["GET", "HEAD", "POST"], **cors)]
    if local and allow_origin != "*":
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK, www_redirect=False))
    routes = [Route("/", page), Route("/sparql", sparql, methods=["GET", "POST"])]
    app = Starlette(routes=routes, middleware=middleware, exception_handlers={QueryError: refuse})
    app.state.pool, app.state.manifest = pool, manifest
    return app


async def serve(pool: Pool, host: str, port: int, allow_origin: str) -> None:
    """Serve until the process is told to stop."""
    app = application(pool, allow_origin, host in LOOPBACK)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise PddError(f"cannot listen on {host}:{port}: {error.strerror or error}; give another --port") from None
    quiet = {"log_level": "error", "access_log": False, "lifespan": "off", "ws": "none"}
    limits = {"limit_concurrency": MAX_CLIENTS, "timeout_graceful_shutdown": 3}
    server = uvicorn.Server(uvicorn.Config(app, http="httptools", proxy_headers=False, **limits, **quiet))
    async with pool:
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"
        print(f"{address} serves {pool.folder}; SPARQL at {address}sparql; Ctrl-C ends it", flush=True)
        await server.serve(sockets=[listener])
