"""Time build and server, on the demo where it is, and the build of a synthetic database of PATIENTS patients."""

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

from pddgraph.server import examples
from tests.conftest import SHARED

PDD = [sys.executable, "-m", "pddgraph"]
CLIENTS = 8


def build(tables, vocabulary, out):
    start = time.monotonic()
    subprocess.run([*PDD, "build", "--mimic", tables, "--drugbank", vocabulary, "--out", out], check=True)
    took, rows = time.monotonic() - start, sum(json.loads((out / "pdd.json").read_text())["rows"].values())
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"build: {took:.1f} s, {rows:,} rows, {rows / took:,.0f} rows/s, peak memory so far {memory:,.0f} MiB")


def ask(address, query, times):
    """Ask a query again and again over one connection; return the seconds of each answer."""
    host, port = urllib.parse.urlsplit(address).netloc.split(":")
    body = query.encode()
    head = "POST /sparql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/sparql-query\r\n"
    head += f"Content-Length: {len(body)}"
    took = []
    with socket.create_connection((host, int(port))) as connection, connection.makefile("rb") as answers:
        for _ in range(times):
            start = time.perf_counter()
            connection.sendall(f"{head}\r\n\r\n".encode() + body)
            lines = list(iter(answers.readline, b"\r\n"))
            assert b" 200 " in lines[0], lines[0]
            answers.read(next(int(line.split()[1]) for line in lines if line.startswith(b"Content-Length")))
            took.append(time.perf_counter() - start)
    return sorted(took)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables, vocabulary = SHARED / "mimic-iii-demo", SHARED / "drugbank_vocabulary.csv"
        patients = os.environ.get("PATIENTS", "2000")
        subprocess.run([*PDD, "sample", "--out", folder / "sample", "--patients", patients], check=True)
        if not tables.is_dir():
            tables, vocabulary = folder / "sample", folder / "sample" / "drugbank_vocabulary.csv"
        build(tables, vocabulary, folder / "graph")
        command = [*PDD, "serve", "--graph", str(folder / "graph"), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            address = process.stdout.readline().split()[0]
            for title, query in examples().items():
                ask(address, query, 20)
                print(f"p95 {ask(address, query, 200)[189] * 1000:6.2f} ms  {title}")
            small = "SELECT ?o WHERE { patient:10006 pdd:gender ?o }"
            threads = [threading.Thread(target=ask, args=(address, small, 500)) for _ in range(CLIENTS)]
            start = time.monotonic()
            for one in (*threads, None):
                one.start() if one else [thread.join() for thread in threads]
            print(f"{CLIENTS * 500 / (time.monotonic() - start):,.0f} small requests/s of {CLIENTS} clients")
            process.terminate()
        build(folder / "sample", folder / "sample" / "drugbank_vocabulary.csv", folder / "large")


if __name__ == "__main__":
    main()
