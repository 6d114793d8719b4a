import os
import subprocess
import sys
from pathlib import Path

import pytest

from pddgraph import build, drugs, sample

SHARED = Path(os.environ.get("PDD_SHARED") or Path(__file__).parents[3] / "shared" / "pdd")


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    """A synthetic database of twelve patients, with its vocabulary."""
    folder = tmp_path_factory.mktemp("tables")
    sample.write(folder, 12, 1)
    return folder


@pytest.fixture(scope="session")
def graph(tables, tmp_path_factory):
    out = tmp_path_factory.mktemp("graphs") / "graph"
    build.build(tables, drugs.read_vocabulary(tables / "drugbank_vocabulary.csv"), out, lambda *_: None)
    return out


@pytest.fixture(scope="session")
def server(graph):
    """The address of a server with a time limit of two seconds and results of at most a megabyte."""
    options = ["--port", "0", "--timeout", "2", "--max-bytes", "1000000"]
    command = [sys.executable, "-m", "pddgraph", "serve", "--graph", str(graph), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().split()[0]
    process.terminate()
    assert process.wait(10) == 0


@pytest.fixture(scope="session")
def demo():
    """The folder of the MIMIC-III demo and DrugBank's vocabulary."""
    if not (SHARED / "mimic-iii-demo").is_dir():
        pytest.skip(f"{SHARED} has no mimic-iii-demo; PDD_SHARED names the folder of it and of drugbank_vocabulary.csv")
    return SHARED
