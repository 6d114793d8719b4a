"""Time build and server on the demo where it is, and the build of a synthetic database of PATIENTS patients."""

import http.client
import json
import os
import resource
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pddgraph.server import examples
from tests.conftest import PDD, SHARED

SMALL = "SELECT ?o WHERE { patient:10006 pdd:gender ?o }"


def build(tables, vocabulary, out):
    start = time.monotonic()
    subprocess.run([*PDD, "build", "--mimic", tables, "--drugbank", vocabulary, "--out", out], check=True)
    took, rows = time.monotonic() - start, sum(json.loads((out / "pdd.json").read_text())["rows"].values())
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{rows:,} rows in {took:.1f} s; so far {usage.ru_utime:.1f} s of CPU, {usage.ru_maxrss >> 10:,} MiB")


def ask(host, query, times):
    """Ask a query again and again over one connection; return the 95th percentile of the milliseconds."""
    connection, took = http.client.HTTPConnection(host), []
    for _ in range(times):
        start = time.perf_counter()
        connection.request("POST", "/sparql", query, {"Content-Type": "application/sparql-query"})
        connection.getresponse().read()
        took.append(1000 * (time.perf_counter() - start))
    return sorted(took)[int(0.95 * times)]


with tempfile.TemporaryDirectory() as name:
    sample, graph, demo = (Path(name) / one for one in ("sample", "graph", "demo"))
    subprocess.run([*PDD, "sample", "--out", sample, "--patients", os.environ.get("PATIENTS", "2000")], check=True)
    if SHARED.is_dir():
        build(SHARED / "mimic-iii-demo", SHARED / "drugbank_vocabulary.csv", demo)
    build(sample, sample / "drugbank_vocabulary.csv", graph)
    command = [*PDD, "serve", "--graph", demo if demo.is_dir() else graph, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        host = server.stdout.readline().split("/")[2]
        for title, query in examples().items():
            print(f"p95 {ask(host, query, 200):6.2f} ms  {title}")
        start = time.monotonic()
        with ThreadPoolExecutor(4) as clients:
            list(clients.map(lambda _: ask(host, SMALL, 500), range(4)))
        print(f"{2000 / (time.monotonic() - start):,.0f} small requests/s of 4 clients")
        server.terminate()
