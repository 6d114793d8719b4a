"""The published evaluation: what each experiment leaves."""

import io

import matplotlib.image
import pandas as pd
import pytest

from lazsim.experiments import experiment_titles
from lazsim.experiments.outcome import csv_bytes
from lazsim.experiments.specs import experiments_folder
from lazsim.output.plots.paper import COLUMN_INCHES, LOOKS, POLICY_LOOKS, SYSTEM_LOOKS
from tests.golden_experiments import FOLDER, small

NAMES = list(experiment_titles())


@pytest.mark.parametrize("name", NAMES)
def test_a_small_experiment_comes_to_the_tables_kept_of_it(name):
    outcome = small(name)
    kept = {path.name.split(".")[1] for path in FOLDER.glob(f"{name}.*.csv")}
    assert set(outcome.tables) == kept
    for table, frame in outcome.tables.items():
        found = pd.read_csv(io.BytesIO(csv_bytes(frame)))
        pd.testing.assert_frame_equal(found, pd.read_csv(FOLDER / f"{name}.{table}.csv"), check_dtype=False, rtol=1e-4)
    for kinds in outcome.figures.values():
        assert kinds["png"].startswith(b"\x89PNG")
        assert kinds["pdf"].startswith(b"%PDF")


def test_every_published_scenario_has_an_experiment():
    letters = [title.split()[0] for title in experiment_titles().values() if title.startswith("(")]
    assert sorted(letters) == [f"({letter})" for letter in "abcdefgh"]


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_says_what_is_asked_how_and_what_came_out(name):
    folder = experiments_folder() / name
    text = (folder / "README.md").read_text()
    assert f"lazsim experiment run {name}" in text
    for heading in ("## Question", "## Command", "## What came out", "## What to make of it"):
        assert heading in text
    assert sorted(entry.name for entry in folder.iterdir()) == ["README.md", "spec.toml"]


def test_figures_are_one_column_wide():
    picture = io.BytesIO(small("load-ratio").figures["throughput"]["png"])
    assert matplotlib.image.imread(picture).shape[1] == pytest.approx(COLUMN_INCHES * 200, abs=1)


def test_the_same_experiment_gives_the_same_bytes():
    assert small("toy-placement").figures == small("toy-placement").figures


def test_series_can_be_told_apart_without_colour():
    for part in ("marker", "line", "hatch"):
        assert len({str(getattr(look, part)) for look in LOOKS}) == len(LOOKS)
    for looks in (SYSTEM_LOOKS, POLICY_LOOKS):
        assert len(set(map(str, looks.values()))) == len(looks)
