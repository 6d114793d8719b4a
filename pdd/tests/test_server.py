import json
import shutil
import socket
import subprocess
import time
import urllib.parse
from pathlib import Path

import pytest
import rdflib
import requests
from SPARQLWrapper import CSV, JSON, TURTLE, XML, SPARQLWrapper

from pddgraph.server import examples
from pddgraph.worker import has_keyword
from tests.conftest import CASES, PDD

COUNT = "SELECT (COUNT(?patient) AS ?n) WHERE { ?patient a pdd:Patient }"
ENDLESS = "SELECT (COUNT(*) AS ?n) WHERE { ?a ?b ?c . ?d ?e ?f . ?g ?h ?i }"
DESCRIPTION = "http://www.w3.org/ns/sparql-service-description#"


def send(address, query=None, accept="*/*", method=None, headers=None, path="", **parameters):
    """Send a query by POST, or the parameters or a path by GET; return status, headers and body."""
    method, data = (method or "GET", None) if query is None else ("POST", {"query": query})
    asked = {"headers": {"Accept": accept, **(headers or {})}, "params": parameters, "data": data}
    answer = requests.request(method, f"{address}sparql{path}", timeout=20, **asked)
    return answer.status_code, answer.headers, answer.content.decode()


def test_a_client_of_the_protocol_gets_every_kind_of_result(server):
    client = SPARQLWrapper(f"{server}sparql")

    def ask(query, form):
        client.setQuery(query)
        client.setReturnFormat(form)
        return client.queryAndConvert()

    for method in ("GET", "POST"):
        client.setMethod(method)
        assert ask(COUNT, JSON)["results"]["bindings"][0]["n"]["value"] == "12"
        assert ask(COUNT, CSV) == b"n\r\n12\r\n"
        assert ask(COUNT, XML).getElementsByTagName("binding")[0].getAttribute("name") == "n"
    assert ask("ASK { ?patient a pdd:Patient }", JSON) == {"head": {}, "boolean": True}
    turtle = ask("CONSTRUCT { ?patient a ?kind } WHERE { ?patient a ?kind FILTER(?kind = pdd:Patient) }", TURTLE)
    assert len(rdflib.Graph().parse(data=turtle, format="turtle")) == 12


@pytest.mark.parametrize(("accept", "answer"), CASES["media"])
def test_media_types_are_negotiated(server, accept, answer):
    status, headers, _ = send(server, COUNT, accept)
    assert answer in (status, headers.get("Content-Type"))


def test_the_service_describes_itself(server):
    status, _, body = send(server, accept="text/turtle")
    described = rdflib.Graph().parse(data=body, format="turtle")
    endpoint = next(described.objects(predicate=rdflib.URIRef(f"{DESCRIPTION}endpoint")))
    assert (status, str(endpoint)) == (200, f"{server}sparql")
    assert len(list(described.objects(predicate=rdflib.URIRef(f"{DESCRIPTION}name")))) == 5


def test_pages_of_other_sites_may_ask_only_for_open_data(server, graph, tmp_path, serve):
    def allowed(address, origin, **options):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        return send(address, headers=asked, **options)[1].get("Access-Control-Allow-Origin")

    assert allowed(server, "https://other.example") == allowed(server, "https://other.example", method="OPTIONS") == "*"
    closed = shutil.copytree(graph, tmp_path / "closed")
    manifest = json.loads((closed / "pdd.json").read_text()) | {"licence": ""}
    (closed / "pdd.json").write_text(json.dumps(manifest))
    address = serve(closed, "--workers", "1")
    assert allowed(address, "https://other.example") is None
    assert allowed(address, "http://localhost:8000", method="OPTIONS") == "http://localhost:8000"
    assert send(address, COUNT, headers={"Host": "rebound.example"})[0] == 400


def test_graphs_of_the_dataset_can_be_chosen(server):
    graph = "https://pdd.example/graph/"
    for query, default, answer in (
        (COUNT, f"{graph}mimic", '"12"'),
        (COUNT, f"{graph}drugbank", '"0"'),
        (COUNT.replace("WHERE", "FROM graph:drugbank WHERE"), [], '"0"'),
        (COUNT, "no iri", "Invalid IRI"),
    ):
        assert answer in send(server, **{"query": query, "default-graph-uri": default})[2]


FAULTS = CASES["requests"] | {
    "a deep query": ((400, 500), {"query": "SELECT * { " + "{" * 100_000 + "}" * 100_000 + " }"}),
    "a large request": (413, {"query": "x" * 2_000_000}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_request_without_an_answer_gets_one_line_and_the_server_goes_on(server, fault):
    statuses, request = FAULTS[fault]
    got, _, body = send(server, **request)
    assert got in (statuses if isinstance(statuses, tuple) else (statuses,))
    assert body.strip()
    assert "Traceback" not in body
    assert send(server, COUNT)[0] == 200


def test_the_time_limit_ends_the_process_that_works(server, graph):
    def workers():
        paths = Path("/proc").glob("[0-9]*/cmdline")
        lines = {path: subprocess.run(["cat", path], capture_output=True).stdout for path in paths}
        return {path for path, line in lines.items() if f"{graph}/store".encode() in line}

    before, start = workers(), time.monotonic()
    assert send(server, ENDLESS)[0] == 503
    assert time.monotonic() - start < 6
    assert (len(before), len(workers()), len(before - workers())) == (2, 2, 1)


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


@pytest.mark.parametrize(("options", "query", "fault"), CASES["commands"])
def test_a_command_that_cannot_go_on_ends_with_one_line(server, graph, options, query, fault):
    command = [*PDD, *options.format(port=urllib.parse.urlsplit(server).port).split(), "--graph", graph]
    got = subprocess.run(command, input=query, capture_output=True, text=True, timeout=30)
    assert (got.returncode, got.stderr.count("\n"), got.stdout) == (2, 1, "")
    assert fault in got.stderr


@pytest.mark.parametrize(("query", "found"), CASES["keywords"])
def test_keywords_are_found_where_they_are_keywords(query, found):
    assert has_keyword(query, "SERVICE") is found


@pytest.mark.parametrize("name", examples())
def test_the_example_queries_answer_over_http_and_on_the_command_line(name, server, graph):
    status, _, body = send(server, examples()[name], "text/csv")
    assert status == 200
    assert len(body.splitlines()) > 1
    command = [*PDD, "query", "-", "--graph", graph]
    assert subprocess.run(command, input=examples()[name].encode(), capture_output=True).stdout.decode() == body


def test_the_page_runs_every_example_and_shows_errors(server):
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {error.message.splitlines()[0]}")
        page, faults = browser.new_page(), []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(server)
        assert page.locator("#examples option").all_text_contents() == list(examples())
        for option in examples():
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
