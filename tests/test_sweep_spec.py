import itertools
from pathlib import Path

import msgspec
import pytest

from lazsim.errors import LazsimError, SpecError
from lazsim.specs import ClusterSpec, JobSpec, load_spec
from lazsim.specs.overrides import override
from lazsim.study.sweep.run import resolve_points
from lazsim.study.sweep.spec import load_sweep, parse_sweep
from tests.conftest import ROOT


def points(document):
    return parse_sweep(document).points()


def find(base, folder="."):
    document = {"base": {"trace": "fail-every-5min"} | base}
    _, scenarios = resolve_points(parse_sweep(document, name="my.toml", folder=Path(folder)))
    return scenarios[0]


def test_a_grid_is_every_combination_and_its_last_key_varies_fastest():
    grid = {"model": ["gpt-s", "gpt-l"], "seed": "3-5", "system": ["ds", "lazarus"]}
    found = points({"base": {"trace": "fail-every-5min"}, "grid": grid})
    asked = list(itertools.product(["gpt-s", "gpt-l"], [3, 4, 5], ["ds", "lazarus"]))
    assert [(point["model"], point["seed"], point["system"]) for point in found] == asked


def test_several_grids_are_joined_and_a_point_that_two_have_is_there_once():
    base = {"trace": "fail-every-5min", "system": "ds"}
    found = points({"base": base, "grid": [{"seed": [0, 1]}, {"seed": [1, 2], "planning": "auto"}, {"max_nodes": 8}]})
    assert [(point["seed"], point["max_nodes"]) for point in found] == [(0, None), (1, None), (2, None), (0, 8)]


def test_without_systems_those_of_the_published_comparison_run():
    assert [point["system"] for point in points({"base": {"trace": "spot-p3-like"}})] == ["lazarus", "ds-ft", "ds"]


def test_dotted_names_may_be_quoted_or_not(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(
        '[base]\ntrace = "spot-p3-like"\n[grid]\njob.fault_threshold = [1, 2]\n"cluster.slots_per_gpu" = 4\n'
    )
    found = load_sweep(path).points()
    assert {(point["job.fault_threshold"], point["cluster.slots_per_gpu"]) for point in found} == {(1, 4), (2, 4)}


def test_changed_values_stand_in_for_those_of_base_and_grids():
    sweep = parse_sweep({"base": {"trace": "a.csv"}, "grid": [{"seed": "0-9", "system": "ds"}, {"system": "lazarus"}]})
    found = sweep.changed({"seed": [7, 8], "trace": "fail-every-5min"}).points()
    assert [(point["system"], point["seed"]) for point in found] == [
        ("ds", 7),
        ("ds", 8),
        ("lazarus", 7),
        ("lazarus", 8),
    ]
    assert {point["trace"] for point in found} == {"fail-every-5min"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[grid]\nseeds = [1]", "unknown key 'seeds': did you mean 'seed'?"),
        ("[grid]\nnode.count = 3", "unknown key 'node.count'"),
        ("[grid]\nseed = []", "seed has no values; give at least one"),
        ("[grid]\nseed = [3, 1, 3]", "seed has 3 twice; give each value once"),
        ("grid = []", "grid is an empty list"),
        ("[grid]\nseed = '0-99999999999'", "seed has 100,000,000,000 values; give at most 100,000"),
        ("[grid]\ninterval = [[1, 2]]", "interval: expected a whole number or a number or text or null, got a list"),
        ("[grid]\nseed = 'one'", "seed: expected a whole number, got text"),
        ("[grid]\nseed = -1", "seed: expected a whole number >= 0"),
        ("[grid]\nsystem = ['dss']", "unknown system 'dss': did you mean 'ds'?"),
        ("[grid]\nlenient = 3", "lenient: expected true or false"),
        ("[grids]\nseed = 3", "`grids`: unknown field: did you mean 'grid'?"),
        ("[base]\nseed = 3", "trace is missing"),
        ("[base]\nseed = ", "Invalid value"),
        ("[base]\njob = 'testbed-a'\njob.fault_threshold = 2", "write dotted names in quotes"),
        (
            "[base]\ntrace.interval_s = 2",
            "or a file; trace.interval_s changes one of these, and a whole recipe takes a",
        ),
        ("[[grid]]\nseed = 1\n[grid]\nseed = 2", "a field is given twice (at line 3, column 6); mend it there"),
        ("[grid]\njob = ['a']\njob.x = 1", "a field is given twice"),
        ("[base]\njob.join_wait_s = 2\n'job.join_wait_s' = 3", "job.join_wait_s is given twice"),
    ],
)
def test_what_a_spec_cannot_say_is_one_line_with_its_file_and_key(tmp_path, text, complaint):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    with pytest.raises(SpecError) as found:
        load_sweep(path).points()
    assert str(found.value).startswith(f"{path}: ")
    assert complaint in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("base", "complaint"),
    [
        ({"model": "gtp-s"}, "my.toml: `model`: unknown model 'gtp-s': did you mean 'gpt-s'?"),
        ({"cluster": "none.toml"}, "my.toml: `cluster`: none.toml: cannot be read"),
        ({"gpu": "rtx"}, "my.toml: `gpu`: unknown gpu 'rtx'"),
        ({"trace": "spot.csv"}, "my.toml: `trace`: spot.csv: cannot be read"),
        ({"trace": "bamboo-p3"}, "my.toml: `trace`: bamboo-p3: a published trace"),
        ({"trace": "parcae-gpt-6.7b-hl"}, "my.toml: `trace`: parcae-gpt-6.7b-hl: a published trace"),
        ({"routing": "even"}, "my.toml: `routing`: unknown routing 'even'"),
        ({"placement": "mor"}, "my.toml: `placement`: unknown policy 'mor': did you mean 'mro'?"),
        ({"duration": "80"}, "my.toml: `duration`: '80' is not a duration"),
        ({"duration": "0s"}, "my.toml: `duration`: 0 s: choose more than 0"),
        ({"start": "2h"}, "my.toml: `trace`: `start` 120 min"),
        ({"cap": "of", "max_nodes": 8}, "my.toml: `trace`: unknown cap rule 'of'"),
        ({"profile": "mine.csv"}, "my.toml: `profile`: mine.csv: cannot be read"),
        ({"job.threshold": 2}, "job.threshold = 2: unknown field 'threshold': did you mean 'fault_threshold'?"),
        ({"job.fault_threshold": "two"}, "my.toml: job.fault_threshold = 'two': expected a whole number, got text"),
        ({"job.fault_threshold": 0}, "my.toml: job.fault_threshold = 0: expected a whole number >= 1"),
        ({"job.name.first": "a"}, "my.toml: job.name.first = 'a': name has no fields"),
        # The job of the catalogue that stands in for one that is not given has no layout.
        ({"job.parallel.pipeline": 2}, "job.parallel.pipeline = 2: there is no table parallel to change"),
        ({"trace.num_nodes": 0}, "my.toml: trace.num_nodes = 0: expected a whole number >= 1"),
        ({"routing": "uniform", "routing.skew": 2.0}, "my.toml: routing.skew: uniform"),
        ({"cluster.num_nodes": 1, "model": "gpt-l", "trace.num_nodes": 1, "trace.num_left": 0},
         "my.toml: `cluster` = 'rtx3090x10': gpt-l does not fit on rtx3090x10"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_before_anything_runs(base, complaint):
    with pytest.raises(LazsimError) as found:
        find(base)
    assert complaint in str(found.value)
    assert "\n" not in str(found.value)


def test_fields_are_set_and_multiplied():
    job = load_spec(JobSpec, "testbed-a")
    assert override(job, {"fault_threshold": 3}, "job") == msgspec.structs.replace(job, fault_threshold=3)
    cluster = load_spec(ClusterSpec, "rtx3090x10")
    changed = override(cluster, {"recovery.detect_s": "x0.5", "slots_per_gpu": "x0.01"}, "cluster")
    assert changed.recovery.detect_s == cluster.recovery.detect_s / 2
    assert changed.slots_per_gpu == 1


def test_values_that_are_lists_stand_in_a_list(tmp_path):
    (tmp_path / "known.toml").write_text(
        'name = "known"\nsequences_per_gpu = 1\n[times]\nstep_s = 1.0\nstorage_s = 1.0\ntransfer_s = 1.0\n'
    )
    base = {"trace": "fail-every-5min", "system": "ds", "routing": "uniform", "job": "known.toml"}
    sweep = parse_sweep({"base": base, "grid": {"job.times.step_s": [[3.0, 1.5], [2.0], 1.0]}}, folder=tmp_path)
    points, scenarios = resolve_points(sweep)
    assert [one.job.times.step_s for one in scenarios] == [(3.0, 1.5), (2.0,), 1.0]
    # As in the file.
    assert [str(point["job.times.step_s"]) for point in points] == ["[3.0, 1.5]", "[2.0]", "1.0"]


def test_fields_that_depend_on_each_other_are_set_together():
    recipe = find({"trace.num_nodes": 3, "trace.num_left": 1}).trace.recipe
    assert (recipe.num_nodes, recipe.num_left) == (3, 1)


def test_an_interval_for_all_systems_is_that_of_the_system_that_runs():
    base = {"system": "ds-ft", "job.checkpoint_interval_steps": 77}
    assert find(base).job.checkpoint_interval_steps == {"ds-ft": 77}
    assert find(base | {"job.checkpoint_interval_steps": "x2"}).job.checkpoint_interval_steps == {"ds-ft": 500}


def test_another_systems_interval_is_no_input():
    assert find({"system": "lazarus", "job.checkpoint_interval_steps.ds": 9}).id == find({"system": "lazarus"}).id


def test_the_trace_has_the_seed_of_the_run_unless_it_has_its_own():
    assert find({"seed": 5}).trace.seed == 5
    assert find({"seed": 5, "trace_seed": 6}).trace.seed == 6


def test_paths_begin_at_the_folder_of_the_file_that_names_them(tmp_path, monkeypatch):
    """A sweep names all kinds of files, its cluster names a GPU elsewhere, and this the tables of its kernels."""
    catalog, all_here = ROOT / "lazsim/catalog", tmp_path / "here"
    changed = {
        "study/parts/cluster.toml": ("clusters/h100x16.toml", 'gpu = "h100"', 'gpu = "../gpus/gpu.toml"'),
        "study/gpus/gpu.toml": ("gpus/h100.toml", 'kernels = "h100"', 'kernels = "tables.csv"'),
        "study/gpus/tables.csv": ("kernels/h100.csv", "", ""),
        "study/model.toml": ("models/qwen3-30b-a3b.toml", "", ""),
        "study/job.toml": ("jobs/testbed-a.toml", "", ""),
        "study/step.toml": ("steps/training.toml", "", ""),
        "study/recipe.toml": ("traces/fail-every-5min.toml", "", ""),
        "study/loads.toml": ("routing/smartmoe-fit.toml", "", ""),
    }
    for name, (source, old, new) in changed.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text((catalog / source).read_text().replace(old, new))
    (tmp_path / "study/one.csv").write_text("0,add,a\n0,add,b\n0,add,c\n0,add,d\n60000,remove,a\n")
    (tmp_path / "study/names.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "study/mine.py").write_text("from lazsim.engine.systems import LAZARUS\nMINE = LAZARUS\n")
    text = """
        [base]
        model = "model.toml"
        cluster = "parts/cluster.toml"
        step = "step.toml"
        system = "mine.py:MINE"
        routing = "loads.toml"
        job = "job.toml"
        [[grid]]
        trace = ["recipe.toml", "one.csv"]
        [[grid]]
        trace = "one.csv"
        cluster_nodes = "names.txt"
        [[grid]]
        trace = "one.csv"
        "cluster.gpu" = "gpus/gpu.toml"
        "gpu.kernels" = "gpus/tables.csv"
        """
    (tmp_path / "study/sweep.toml").write_text(text)

    def resolved(folder, path):
        monkeypatch.chdir(folder)
        return [one.id for one in resolve_points(load_sweep(path))[1]]

    all_here.mkdir()
    ids = resolved(tmp_path / "study", "sweep.toml")
    assert len(set(ids)) == 3, "the fields of the last grid are those of the files"
    assert resolved(all_here, "../study/sweep.toml") == resolved(tmp_path, tmp_path / "study/sweep.toml") == ids
