"""The published evaluation: what each experiment leaves."""

import configparser
import doctest
import io
from collections import Counter
from functools import cache

import matplotlib.image
import pandas as pd
import pytest

from lazsim.output.experiment import frame_csv, outcome_text
from lazsim.output.plots.style import COLUMN_INCHES, LOOKS, POLICY_LOOKS, SYSTEM_LOOKS
from lazsim.study.experiment import TOO_FEW, Context, Outcome, experiment_titles, load_experiment
from tests.conftest import ROOT
from tests.golden_experiments import FOLDER
from tests.golden_experiments import small as run_small

NAMES = list(experiment_titles())

small = cache(run_small)


@pytest.mark.parametrize("name", NAMES)
def test_a_small_experiment_comes_to_the_tables_kept_of_it(name):
    outcome = small(name)
    kept = {path.name.split(".")[1] for path in FOLDER.glob(f"{name}.*.csv")}
    assert set(outcome.tables) == kept
    for table, frame in outcome.tables.items():
        found = pd.read_csv(io.BytesIO(frame_csv(frame)))
        pd.testing.assert_frame_equal(found, pd.read_csv(FOLDER / f"{name}.{table}.csv"), check_dtype=False, rtol=1e-4)
    bounds = [frame[name] for frame in outcome.tables.values() for name in frame if name.endswith(("_low", "_high"))]
    assert (TOO_FEW in outcome.notes) == any(column.isna().any() for column in bounds)
    for kinds in outcome.figures.values():
        assert kinds["png"].startswith(b"\x89PNG")
        assert kinds["pdf"].startswith(b"%PDF")


def test_every_published_scenario_has_an_experiment():
    published = {
        "failures-5min", "failures-40min", "node-failures", "spot", "load-ratio", "time-breakdown", "tutel",
        "large-scale",
    }  # fmt: skip
    assert published <= set(experiment_titles())


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_says_what_is_asked_how_and_what_came_out(name):
    folder = ROOT / "experiments" / name
    text = (folder / "README.md").read_text()
    assert f"lazsim experiment run {name}" in text
    for heading in ("## Question", "## Command", "## What came out", "## What to make of it"):
        assert heading in text
    data = {"uncertainty": ["assumptions.toml"]}
    assert sorted(entry.name for entry in folder.iterdir()) == ["README.md", *data.get(name, []), "experiment.py"]


@pytest.mark.parametrize("name", NAMES)
def test_the_small_version_changes_settings_that_there_are(name):
    experiment = load_experiment(name)
    assert set(experiment.settings(small=True)) == set(experiment.settings())


@pytest.mark.parametrize(("name", "answer"), [("toy-placement", "recovery_prob"), ("uncertainty", "holds_throughout")])
@pytest.mark.parametrize("width", [40, 80])
def test_the_answer_is_in_the_table_on_a_terminal_of_any_width(name, answer, width):
    table = next(iter(small(name).tables.values()))
    text = outcome_text(small(name), width)
    assert max(map(len, text.splitlines())) <= width
    assert all(part in text for part in answer.split("_"))
    cells = Counter(f"{value:.3g}" if isinstance(value, float) else str(value) for value in table[answer])
    assert cells <= Counter(text.split())


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_in_a_script_hold(name):
    assert doctest.testmod(load_experiment(name).script).failed == 0


def test_headings_of_a_table_are_said_once_where_all_rows_have_the_same():
    frame = pd.DataFrame({"trace": ["random", "random"], "system": ["lazarus", "ds"], "samples": [12345.6, 99.0]})
    assert outcome_text(Outcome({"samples": frame}), 80).splitlines() == [
        "system   samples",
        "lazarus   12,346",
        "ds            99",
        "in all rows: trace random",
    ]


def test_a_terminal_shows_the_first_rows_of_a_long_table_and_says_where_the_rest_are():
    frame = pd.DataFrame({"node": range(1, 63), "samples": 5.0})
    head, *rows, rest = outcome_text(Outcome({"per-node": frame}), 80).splitlines()
    assert [row.split()[0] for row in (head, rows[0], rows[-1])] == ["node", "1", "50"]
    assert rest == "12 more in per-node.csv"


def test_workers_run_functions_of_a_script_that_they_cannot_import(tmp_path):
    settings = load_experiment("node-failures").settings(small=True) | {"failures": [2], "steps": [200]}
    script = tmp_path / "mine" / "experiment.py"
    script.parent.mkdir()
    source = (ROOT / "experiments" / "node-failures" / "experiment.py").read_text()
    script.write_text(f"{source}\n\nSMALL = {settings!r}\n")
    experiment = load_experiment(str(script))
    alone, together = (
        experiment.run(Context(small=True, num_workers=number, recorded=False, store=tmp_path / str(number)))
        for number in (1, 2)
    )
    for table, frame in alone.tables.items():
        pd.testing.assert_frame_equal(frame, together.tables[table])


def test_every_part_of_the_package_is_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = setup["options"]["packages"].split()
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "lazsim").rglob("__init__.py")}
    assert set(packages) == {".".join(folder.parts) for folder in folders} | {"lazsim_experiments"}
    assert setup["options"]["package_dir"].split() == ["lazsim_experiments", "=", "experiments"]
    patterns = setup["options.package_data"]["lazsim_experiments"].split()
    files = {path for path in (ROOT / "experiments").rglob("*") if path.is_file() and path.parent.name in NAMES}
    assert files == {path for pattern in patterns for path in (ROOT / "experiments").glob(pattern)}
    assert {path.parent.name for path in files} == set(NAMES)


def test_figures_are_one_column_wide():
    picture = io.BytesIO(small("load-ratio").figures["throughput"]["png"])
    assert matplotlib.image.imread(picture).shape[1] == pytest.approx(COLUMN_INCHES * 200, abs=1)


def test_the_same_experiment_gives_the_same_bytes():
    assert small("toy-placement").figures == run_small("toy-placement").figures


def test_series_can_be_told_apart_without_colour():
    for part in ("marker", "line", "hatch"):
        assert len({str(getattr(look, part)) for look in LOOKS}) == len(LOOKS)
    for looks in (SYSTEM_LOOKS, POLICY_LOOKS):
        assert len(set(map(str, looks.values()))) == len(looks)
