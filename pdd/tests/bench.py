"""Time build and server on the demo where it is, and the build of a synthetic database of PATIENTS patients."""

import http.client
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pddgraph.server import examples
from tests.conftest import SHARED

PDD = [sys.executable, "-m", "pddgraph"]
SMALL = "SELECT ?o WHERE { patient:10006 pdd:gender ?o }"


def build(tables, vocabulary, out):
    start = time.monotonic()
    subprocess.run([*PDD, "build", "--mimic", tables, "--drugbank", vocabulary, "--out", out], check=True)
    took, rows = time.monotonic() - start, sum(json.loads((out / "pdd.json").read_text())["rows"].values())
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    print(f"build: {took:.1f} s, {rows:,} rows, {rows / took:,.0f} rows/s, peak memory {memory:,} MiB", flush=True)


def ask(address, query, times):
    """Ask a query again and again over one connection; return the 95th percentile of the milliseconds."""
    connection, took = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc), []
    for _ in range(times):
        start = time.perf_counter()
        connection.request("POST", "/sparql", query, {"Content-Type": "application/sparql-query"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
        took.append(1000 * (time.perf_counter() - start))
    return sorted(took)[int(0.95 * times)]


def main():
    with tempfile.TemporaryDirectory() as name:
        sample, graph = Path(name) / "sample", Path(name) / "graph"
        patients = os.environ.get("PATIENTS", "2000")
        subprocess.run([*PDD, "sample", "--out", sample, "--patients", patients], check=True)
        demo = SHARED if SHARED.is_dir() else sample
        build(demo / "mimic-iii-demo" if demo == SHARED else sample, demo / "drugbank_vocabulary.csv", graph)
        with subprocess.Popen(
            [*PDD, "serve", "--graph", graph, "--port", "0"], stdout=subprocess.PIPE, text=True
        ) as server:
            address = server.stdout.readline().split()[0]
            for title, query in examples().items():
                print(f"p95 {ask(address, query, 200):6.2f} ms  {title}")
            start = time.monotonic()
            with ThreadPoolExecutor(4) as clients:
                list(clients.map(lambda _: ask(address, SMALL, 500), range(4)))
            print(f"{2000 / (time.monotonic() - start):,.0f} small requests/s of 4 clients")
            server.terminate()
        build(sample, sample / "drugbank_vocabulary.csv", graph)


if __name__ == "__main__":
    main()
