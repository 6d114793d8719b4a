"""``lazsim experiment``."""

import json

import numpy as np
import pandas as pd
import pytest

from lazsim.output.experiment import outcome_text
from lazsim.study.experiment import Outcome, experiment_titles
from tests.conftest import ROOT

NAMES = list(experiment_titles())


@pytest.fixture(autouse=True)
def nothing_recorded(monkeypatch, tmp_path):
    """Let no data of this machine into a test that does not ask for them."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("LAZSIM_SHARED", str(tmp_path / "empty"))


def test_experiments_are_listed_in_their_order(lazsim, answered):
    code, out, _ = lazsim("list", "experiments")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "][:-1] == NAMES
    for arguments in (("experiment", "list"), ("list", "experiments")):
        assert list(answered(*arguments)["experiments"]) == NAMES


def test_a_run_leaves_tables_figures_and_inputs_and_is_not_repeated(lazsim, tmp_path):
    arguments = ("experiment", "run", "failures-5min", "--small", "--jobs", 1, "--out", tmp_path / "out")
    code, out, err = lazsim(*arguments)
    assert code == 0, err
    assert "lazarus" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "no recorded loads at hand" in err
    folder = tmp_path / "out" / "failures-5min"
    names = {path.name for path in folder.iterdir()}
    assert {"samples.csv", "samples.md", "samples.png", "samples.pdf", "throughput.png", "run.json"} <= names
    assert json.loads((folder / "run.json").read_text())["spec"]["models"] == ["gpt-s"]
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert lazsim(*arguments)[0] == 0
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_a_foreign_folder_of_a_later_experiment_is_refused_before_the_first_runs(refused, tmp_path):
    (tmp_path / "out" / "expert-loads").mkdir(parents=True)
    (tmp_path / "out" / "expert-loads" / "run.json").write_text("mine")
    told = refused("experiment", "run", "failures-5min", "expert-loads", "--small", "--out", tmp_path / "out")
    assert "expert-loads: holds run.json, which lazsim did not write there" in told
    assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == ["expert-loads"]


def test_recorded_loads_are_used_where_they_are_at_hand(answered, tmp_path):
    routing = tmp_path / "data" / "routing"
    routing.mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.savez(routing / "smartmoe.npz", iteration=[1, 11], tokens=rng.integers(1, 99, (2, 24, 32)))
    run = ("experiment", "run", "expert-loads", "--small", "--jobs", 1, "--out", tmp_path / "out")
    done = answered(*run, "--reference", tmp_path / "data")["experiments"]["expert-loads"]
    assert {row["loads"] for row in done["tables"]["layers"]} == {"generated", "recorded"}
    assert list(done["inputs"]["recorded"]) == ["smartmoe.npz"]
    done = answered(*run)["experiments"]["expert-loads"]
    assert {row["loads"] for row in done["tables"]["layers"]} == {"generated"}
    assert done["inputs"]["recorded"] == {}


def test_the_real_spot_trace_is_replayed_where_it_is_at_hand(lazsim, shared, tmp_path):
    code, out, _ = lazsim(
        "experiment", "run", "spot", "--small", "--jobs", 1, "--json", "--reference", shared, "--out", tmp_path / "out"
    )
    assert code == 0
    rows = json.loads(out)["experiments"]["spot"]["tables"]["samples"]
    assert {(row["loads"], row["trace"]) for row in rows} == {
        (loads, trace) for loads in ("generated", "recorded") for trace in ("generated", "recorded")
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["spot", "spot"], "spot is given twice: give it once"),
        (["failures-5mins"], "did you mean 'failures-5min'?"),
        (["nowhere.py"], "nowhere.py: cannot be read"),
        (["spot", "--reference", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(refused, tmp_path, arguments, message):
    assert message in refused("experiment", "run", *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def own_script(tmp_path, old, new):
    script = tmp_path / "mine" / "experiment.py"
    script.parent.mkdir()
    text = (ROOT / "experiments" / "load-ratio" / "experiment.py").read_text()
    assert old in text
    script.write_text(text.replace(old, new))
    return script


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"ratios": [1,', '"ratios": [9,', "less than the number of experts"),
        ('"ratios": [1, 1', '"rations": [1, 1', "'ratios'"),
        ("SETTINGS = ", "SETTING = ", "SETTINGS"),
        ("def run(", "def walk(", "run"),
        ("import numpy as", "import numpys as", "line 11: ModuleNotFoundError"),
        ("def run(", "def (", "SyntaxError"),
        ("return Outcome(", "return (", "return an Outcome"),
        (
            '"throughput": lines_figure(',
            '"throughput": {"csv": b""}, "other": lines_figure(',
            "a figure 'throughput' as csv",
        ),
    ],
)
def test_a_wrong_script_is_refused_with_its_path_and_what_is_wrong(refused, tmp_path, old, new, message):
    script = own_script(tmp_path, old, new)
    told = refused("experiment", "run", script, "--out", tmp_path / "out")
    assert str(script) in told
    assert message in told


def test_one_s_own_script_is_an_experiment(lazsim, tmp_path):
    script = own_script(tmp_path, '"num_experts": 8', '"num_experts": 10')
    code, out, err = lazsim("experiment", "run", script, "--out", tmp_path / "out", "--small")
    assert code == 0, err
    assert "One layer under ever more skewed loads" in out
    assert (tmp_path / "out" / "mine" / "throughput.csv").exists()
    assert json.loads((tmp_path / "out" / "mine" / "run.json").read_text())["spec"]["num_experts"] == 10


def test_reference_data_beside_the_current_checkout_are_found(lazsim, tmp_path, monkeypatch):
    monkeypatch.delenv("LAZSIM_SHARED")
    (tmp_path / "shared" / "routing").mkdir(parents=True)
    tokens = np.random.default_rng(0).integers(1, 99, (2, 24, 32))
    np.savez(tmp_path / "shared" / "routing" / "smartmoe.npz", iteration=[1, 11], tokens=tokens)
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    out = lazsim("experiment", "run", "expert-loads", "--small", "--jobs", 1, "--json", "--out", tmp_path / "out")[1]
    rows = json.loads(out)["experiments"]["expert-loads"]["tables"]["layers"]
    assert {row["loads"] for row in rows} == {"generated", "recorded"}


def test_values_that_cannot_be_compared_are_shown():
    table = pd.DataFrame({"node": [0, 1], "held": [{"a": 1}, {"b": 2}]})
    text = outcome_text(Outcome({"plan": table}), 80)
    assert "{'a': 1}" in text
    assert "{'b': 2}" in text
