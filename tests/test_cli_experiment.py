"""``lazsim experiment``."""

import json

import numpy as np
import pytest

from lazsim.experiments import experiment_titles
from lazsim.experiments.specs import experiments_folder

NAMES = list(experiment_titles())


@pytest.fixture(autouse=True)
def nothing_recorded(monkeypatch, tmp_path):
    """Let no data of this machine into a test that does not ask for them."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("LAZSIM_SHARED", str(tmp_path / "empty"))


def test_experiments_are_listed_in_their_order(lazsim):
    code, out, _ = lazsim("experiment", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[:-1]] == NAMES
    for arguments in (("experiment", "list", "--json"), ("list", "experiments", "--json")):
        assert list(json.loads(lazsim(*arguments)[1])["experiments"]) == NAMES


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


def test_recorded_loads_are_used_where_they_are_at_hand(lazsim, tmp_path):
    routing = tmp_path / "data" / "routing"
    routing.mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.savez(routing / "smartmoe.npz", iteration=[1, 11], tokens=rng.integers(1, 99, (2, 24, 32)))
    run = ("experiment", "run", "expert-loads", "--small", "--jobs", 1, "--json", "--out", tmp_path / "out")
    done = json.loads(lazsim(*run, "--reference", tmp_path / "data")[1])["experiments"]["expert-loads"]
    assert {row["loads"] for row in done["tables"]["layers"]} == {"generated", "recorded"}
    assert list(done["inputs"]["recorded"]) == ["smartmoe.npz"]
    done = json.loads(lazsim(*run)[1])["experiments"]["expert-loads"]
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
        (["failures-5mins"], "did you mean 'failures-5min'?"),
        (["nowhere.toml"], "nowhere.toml: cannot be read"),
        (["spot", "--reference", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(lazsim, tmp_path, arguments, message):
    code, _, err = lazsim("experiment", "run", *arguments, "--out", tmp_path / "out")
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def own_spec(tmp_path, old, new):
    spec = tmp_path / "mine" / "spec.toml"
    spec.parent.mkdir()
    text = (experiments_folder() / "load-ratio" / "spec.toml").read_text()
    assert old in text
    spec.write_text(text.replace(old, new))
    return spec


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ratios = [1,", "ratios = [9,", "below the number of experts"),
        ("ratios", "rations", "rations"),
        ('kind = "load-ratio"', 'kind = "load"', "kind"),
        ("number = 7", "", "has no number"),
    ],
)
def test_a_wrong_specification_is_refused_with_file_and_key(lazsim, tmp_path, old, new, message):
    spec = own_spec(tmp_path, old, new)
    code, _, err = lazsim("experiment", "run", spec, "--out", tmp_path / "out")
    assert code == 2
    assert str(spec) in err
    assert message in err


def test_one_s_own_specification_is_an_experiment(lazsim, tmp_path):
    spec = own_spec(tmp_path, "num_experts = 8", "num_experts = 10")
    code, _, err = lazsim("experiment", "run", spec, "--out", tmp_path / "out", "--small")
    assert code == 0, err
    assert (tmp_path / "out" / "mine" / "throughput.csv").exists()
