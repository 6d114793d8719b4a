import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pddgraph import build, sample

SHARED = Path(os.environ.get("PDD_SHARED") or Path(__file__).parents[3] / "shared" / "pdd")
CASES = tomllib.loads((Path(__file__).parent / "cases.toml").read_text("utf-8"))
PDD = [sys.executable, "-m", "pddgraph.cli"]


def make(tables, out, vocabulary="drugbank_vocabulary.csv"):
    return build.build(tables, tables / vocabulary, out)


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    """A synthetic database of twelve patients, with its vocabulary."""
    folder = tmp_path_factory.mktemp("tables")
    sample.write(folder, 12, 1)
    return folder


@pytest.fixture(scope="session")
def graph(tables, tmp_path_factory):
    out = tmp_path_factory.mktemp("graphs") / "graph"
    make(tables, out)
    return out


@pytest.fixture(scope="session")
def serve():
    """A function that starts a server of a graph and returns its address; all end with the tests."""
    processes = []

    def start(graph, *options):
        command = [*PDD, "serve", "--graph", str(graph), "--port", "0", *options]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return processes[-1].stdout.readline().split()[0]

    yield start
    for process in processes:
        process.terminate()
    assert [process.wait(10) for process in processes] == [143] * len(processes)


@pytest.fixture(scope="session")
def server(graph, serve):
    """The address of a server with a time limit of two seconds and results of at most a megabyte."""
    return serve(graph, "--timeout", "2", "--max-bytes", "1000000")


@pytest.fixture(scope="session")
def demo():
    """The folder of the MIMIC-III demo and DrugBank's vocabulary."""
    if not (SHARED / "mimic-iii-demo").is_dir():
        pytest.skip(f"{SHARED} has no mimic-iii-demo; PDD_SHARED names the folder of it and of drugbank_vocabulary.csv")
    return SHARED
