import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import rdflib
from SPARQLWrapper import CSV, JSON, TURTLE, XML, SPARQLWrapper

from pddgraph import server as serving
from pddgraph.worker import has_keyword

COUNT = "SELECT (COUNT(?patient) AS ?n) WHERE { ?patient a pdd:Patient }"
ENDLESS = "SELECT (COUNT(*) AS ?n) WHERE { ?a ?b ?c . ?d ?e ?f . ?g ?h ?i }"


def send(address, query=None, accept="*/*", method=None, headers=None, **parameters):
    """Send a query by POST, or the parameters by GET; return status, headers and body."""
    data = urllib.parse.urlencode({"query": query}).encode() if query is not None else None
    url = f"{address}sparql?{urllib.parse.urlencode(parameters, doseq=True)}"
    request = urllib.request.Request(url, data, {"Accept": accept, **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def test_a_client_of_the_protocol_gets_every_kind_of_result(server):
    client = SPARQLWrapper(f"{server}sparql")
    for method in ("GET", "POST"):
        client.setMethod(method)
        client.setQuery(COUNT)
        client.setReturnFormat(JSON)
        assert client.queryAndConvert()["results"]["bindings"][0]["n"]["value"] == "12"
        client.setReturnFormat(CSV)
        assert client.queryAndConvert() == b"n\r\n12\r\n"
        client.setReturnFormat(XML)
        assert client.queryAndConvert().getElementsByTagName("binding")[0].getAttribute("name") == "n"
    client.setQuery("ASK { ?patient a pdd:Patient }")
    client.setReturnFormat(JSON)
    assert client.queryAndConvert() == {"head": {}, "boolean": True}
    client.setQuery("CONSTRUCT { ?patient a ?kind } WHERE { ?patient a ?kind FILTER(?kind = pdd:Patient) }")
    client.setReturnFormat(TURTLE)
    assert len(rdflib.Graph().parse(data=client.queryAndConvert(), format="turtle")) == 12


def test_media_types_are_negotiated(server):
    for accept, media in (
        ("text/tab-separated-values", "text/tab-separated-values; charset=utf-8"),
        ("text/html, */*;q=0.1", "application/sparql-results+json"),
        ("application/xml", "application/sparql-results+xml"),
    ):
        assert send(server, COUNT, accept)[1]["Content-Type"] == media
    assert send(server, COUNT, "image/png")[0] == 406


def test_the_service_describes_itself(server):
    status, _, body = send(server, accept="text/turtle")
    described = rdflib.Graph().parse(data=body, format="turtle")
    prefix = "http://www.w3.org/ns/sparql-service-description#"
    endpoint = next(described.objects(predicate=rdflib.URIRef(f"{prefix}endpoint")))
    assert (status, str(endpoint)) == (200, f"{server}sparql")
    assert len(list(described.objects(predicate=rdflib.URIRef(f"{prefix}name")))) == 5


def test_pages_of_other_sites_may_ask_only_for_open_data(server, graph, tmp_path, request):
    assert send(server, COUNT, headers={"Origin": "https://other.example"})[1]["Access-Control-Allow-Origin"] == "*"
    assert send(server, method="OPTIONS")[1]["Access-Control-Allow-Methods"] == serving.METHODS
    closed = shutil.copytree(graph, tmp_path / "closed")
    manifest = json.loads((closed / "pdd.json").read_text()) | {"licence": ""}
    (closed / "pdd.json").write_text(json.dumps(manifest))
    command = [sys.executable, "-m", "pddgraph", "serve", "--graph", str(closed), "--port", "0", "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    request.addfinalizer(process.kill)
    address = process.stdout.readline().split()[0]
    assert "Access-Control-Allow-Origin" not in send(address, COUNT, headers={"Origin": "https://other.example"})[1]
    local = "http://localhost:8000"
    assert send(address, COUNT, headers={"Origin": local})[1]["Access-Control-Allow-Origin"] == local
    assert send(address, COUNT, headers={"Host": "rebound.example"})[0] == 403
    process.terminate()
    assert process.wait(10) == 0


def test_graphs_of_the_dataset_can_be_chosen(server):
    graph = "https://pdd.example/graph/mimic"
    assert '"12"' in send(server, **{"query": COUNT, "default-graph-uri": graph})[2]
    assert '"0"' in send(server, **{"query": COUNT, "default-graph-uri": "https://pdd.example/graph/drugbank"})[2]
    assert '"0"' in send(server, COUNT.replace("WHERE", "FROM graph:drugbank WHERE"))[2]
    assert send(server, **{"query": COUNT, "default-graph-uri": "no iri"})[0] == 400


@pytest.mark.parametrize(
    ("status", "query"),
    [
        (400, "SELEC"), (400, ""), (400, "SELECT * { ?s"), (400, "INSERT DATA { <a:a> <a:b> <a:c> }"),
        (400, "SELECT * { SERVICE <http://127.0.0.1:1/> { ?s ?p ?o } }"), (400, "SELECT * { service?s{} }"),
        (413, "SELECT * WHERE { ?s ?p ?o }"), (413, "x" * 2_000_000), (503, ENDLESS),
    ],
)  # fmt: skip
def test_a_query_without_an_answer_gets_one_line_and_the_server_goes_on(server, status, query):
    got, _, body = send(server, query)
    assert got == status
    assert body.strip()
    assert send(server, COUNT)[0] == 200


def test_a_query_that_ends_its_process_is_an_error_and_the_server_goes_on(server):
    status, _, body = send(server, "SELECT * { " + "{" * 100_000 + "}" * 100_000 + " }")
    assert status in (400, 500)
    assert "Traceback" not in body
    assert send(server, COUNT)[0] == 200


def test_updates_and_other_requests_are_refused(server):
    assert send(server, update="DROP ALL")[0] == 403
    assert send(server, query=None, headers={"Content-Type": "application/sparql-update"}, method="POST")[0] == 403
    assert send(server, "x", headers={"Content-Type": "text/html"})[0] == 415
    assert send(server, method="PUT")[0] == 405
    raw = http.client.HTTPConnection(urllib.parse.urlsplit(server).netloc)
    for path in ("/sparql?query=%ff", "/sparql?query=SELECT&query=ASK"):
        raw.request("GET", path)
        answer = raw.getresponse()
        assert (answer.status, answer.read().count(b"\n")) == (400, 1)


def test_the_time_limit_ends_the_process_that_works(server, graph):
    def workers():
        return {path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if str(graph).encode() in read(path)}

    def read(path):
        with contextlib.suppress(OSError):
            return path.read_bytes()
        return b""

    before, start = workers(), time.monotonic()
    assert send(server, ENDLESS)[0] == 503
    assert time.monotonic() - start < 6
    assert (len(before), len(workers()), len(before - workers())) == (3, 3, 1)


def test_500_idle_clients_do_not_stop_others(server):
    host, port = urllib.parse.urlsplit(server).netloc.split(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(500)]
    for one in idle[:250]:
        one.sendall(b"POST /sparql HTTP/1.1\r\nHost: localhost\r\n")
    start = time.monotonic()
    assert send(server, COUNT)[0] == 200
    assert time.monotonic() - start < 2
    for one in idle:
        one.close()


def test_a_port_in_use_is_one_line(server, graph):
    port = urllib.parse.urlsplit(server).netloc.split(":")[1]
    command = [sys.executable, "-m", "pddgraph", "serve", "--graph", str(graph), "--port", port]
    got = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (got.returncode, got.stderr.count("\n")) == (2, 1)
    assert f"cannot listen on 127.0.0.1:{port}" in got.stderr


def test_keywords_are_found_where_they_are_keywords():
    for query in (
        "SERVICE <a:b> {}",
        "{}service{}",
        r"\u0053ERVICE ?x {}",
        "# '\nSERVICE <a:b>",
        "(?a<?b)SERVICE<http://x/>{}",
    ):
        assert has_keyword(query, "SERVICE"), query
    for query in (
        "?service",
        "ex:service",
        "service:x",
        "'SERVICE'",
        "<http://SERVICE/>",
        "# SERVICE",
        '"""a"SERVICE"""',
    ):
        assert not has_keyword(query, "SERVICE"), query


@pytest.mark.parametrize("name", serving.examples())
def test_the_example_queries_answer_over_http_and_on_the_command_line(name, server, graph):
    query = serving.examples()[name]
    status, _, body = send(server, query, "text/csv")
    assert status == 200
    assert len(body.splitlines()) > 1
    command = [sys.executable, "-m", "pddgraph", "query", "-", "--graph", str(graph)]
    assert subprocess.run(command, input=query.encode(), capture_output=True, check=True).stdout.decode() == body


def test_the_page_runs_every_example_and_shows_errors(server):
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {error.message.splitlines()[0]}")
        page = browser.new_page()
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(server)
        options = page.locator("#examples option").all_text_contents()
        assert options == list(serving.examples())
        for option in options:
            page.select_option("#examples", option)
            page.click("button")
            page.wait_for_selector("#answer table tbody tr")
            assert "rows" in page.text_content("#status")
        page.fill("#query", "SELEC")
        page.click("button")
        page.wait_for_selector("#answer .error")
        assert "malformed query" in page.text_content("#answer")
        assert not faults
        browser.close()
