import csv
import hashlib
import os
import re
import threading

import pytest

from lazsim.output.run import unfit_notes

SPEC = """
[base]
trace = "fail-every-5min"
routing = "uniform"
duration = "10min"
[grid]
cluster.recovery.detect_s = [15.0, "x2"]
seed = [0, 1]
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(SPEC)
    return path


def test_a_table_for_people_and_one_of_every_run(lazsim, spec, tmp_path):
    code, out, _ = lazsim("sweep", spec, "--out", tmp_path / "out", "--jobs", 1)
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[3].split() == ["cluster.recovery.detect_s", "lazarus", "ds-ft", "ds"]
    assert [line.split()[0] for line in lines[4:6]] == ["15.0", "x2"]
    assert (tmp_path / "out" / "comparison.png").stat().st_size
    table = (tmp_path / "out" / "table.csv").read_text().splitlines()
    assert len(table) == 1 + 2 * 2 * 3
    assert table[0].startswith("system,placement,cluster.recovery.detect_s,seed,steps,samples,")


def test_files_of_a_sweep_are_the_same_however_many_workers_make_its_runs(lazsim, spec, tmp_path):
    for folder, workers in (("one", ["--jobs", 1]), ("two", ["--backend=loky", "--jobs=2"])):
        assert lazsim("sweep", spec, "--out", tmp_path / folder, *workers)[0] == 0
    # Rows are kept in the order in which runs end.
    names = {path.name for path in (tmp_path / "one").iterdir()} - {"rows.jsonl"}
    assert {"table.csv", "report.html"} < names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_the_page_has_the_hash_of_the_specification_also_of_a_pipe(lazsim, tmp_path):
    pipe, content = tmp_path / "s.toml", SPEC.encode()
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[content])
    writer.start()
    assert lazsim("sweep", pipe, "--out", tmp_path / "out", "--jobs", 1)[0] == 0
    writer.join()
    assert hashlib.sha256(content).hexdigest() in (tmp_path / "out" / "report.html").read_text()


def test_a_picture_of_another_program_is_not_written_over(refused, spec, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "comparison.png").write_bytes(b"mine")
    told = refused("sweep", spec, "--out", tmp_path / "out", "--jobs", 1)
    assert "holds comparison.png, which lazsim did not write there" in told
    assert (tmp_path / "out" / "comparison.png").read_bytes() == b"mine"


def test_runs_whose_layouts_differ_say_which_they_have(lazsim, tmp_path):
    (tmp_path / "grid.toml").write_text(
        'base = {trace = "mtbf.toml", duration = "1h", system = ["checkpoint", "gemini"], model = "mixtral-8x7b"}\n'
        'grid = {"trace.num_nodes" = [4, 8], cluster = "h100x8", seed = [0, 1]}\n'
    )
    (tmp_path / "mtbf.toml").write_text(
        'kind = "mtbf"\nnum_nodes = 4\nmtbf_s = 3e9\nrepair_s = 1e3\nduration_s = 3600.0\n'
    )
    code, out, err = lazsim("sweep", tmp_path / "grid.toml", "--out", tmp_path / "out", "--jobs", 1)
    assert code == 0, err
    told = re.findall(r"layout of ([^:]*): (.*)", re.sub(r"\n  +", " ", out))
    # Neither seeds nor these systems change it where no node is lost.
    assert [name for name, _ in told] == ["num_nodes 4", "num_nodes 8"]
    with (tmp_path / "out/table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(f"num_nodes {row['trace.num_nodes']}", row["layout"]) for row in rows} == set(told)
    # A field of the job that is not of its layout says nothing of it.
    spec = (tmp_path / "grid.toml").read_text()
    (tmp_path / "grid.toml").write_text(
        spec.replace("grid = {", 'grid = {"job.checkpoint_interval_steps" = [50, 90], ')
    )
    out = lazsim("sweep", tmp_path / "grid.toml", "--out", tmp_path / "other", "--jobs", 1)[1]
    assert re.findall(r"layout of ([^:]*): (.*)", re.sub(r"\n  +", " ", out)) == told
    (tmp_path / "grid.toml").write_text(spec.replace("[4, 8]", "4"))
    assert "layout of" not in lazsim("sweep", tmp_path / "grid.toml", "--out", tmp_path / "out", "--jobs", 1)[1]


@pytest.mark.parametrize(
    ("models", "unfit"),
    # 46.7 G parameters take 493 GiB of each GPU of 24 GiB without a layout.
    [('["mixtral-8x7b"]', "all runs"), ('["gpt-s", "mixtral-8x7b"]', "model mixtral-8x7b")],
)
def test_runs_that_do_not_fit_are_named_by_what_tells_them_apart(lazsim, tmp_path, models, unfit):
    (tmp_path / "grid.toml").write_text(
        'base = {trace = "mtbf.toml", duration = "1h", system = "checkpoint"}\n'
        f'grid = {{model = {models}, "trace.num_nodes" = [4, 5]}}\n'
    )
    (tmp_path / "mtbf.toml").write_text(
        'kind = "mtbf"\nnum_nodes = 4\nmtbf_s = 1e6\nrepair_s = 1e3\nduration_s = 3600.0\n'
    )
    out = lazsim("sweep", tmp_path / "grid.toml", "--out", tmp_path / "out", "--jobs", 1)[1]
    assert f"only: {unfit}\n" in re.sub(r"\n  +", " ", out)


def test_of_many_runs_that_do_not_fit_some_are_named():
    [note] = unfit_notes(f"nodes {count}" for count in range(1, 31))
    assert note.endswith("nodes 19; nodes 20 and 10 more")


def test_json_has_every_row_and_the_means(answered, spec, tmp_path):
    answer = answered("sweep", spec, "--out", tmp_path / "out", "--jobs", 1)
    assert len(answer["rows"]) == 12
    assert [row["run"] for row in answer["summary"]] == ["lazarus", "ds-ft", "ds"] * 2
    assert answer["failures"] == []
    assert answer["comparison"]["contests"][0]["among"] == {}


def test_a_sweep_whose_runs_all_fail_prints_and_writes_no_results(lazsim, spec, tmp_path):
    # More steps than can be simulated.
    spec.write_text(SPEC.replace('"10min"', '"30000000min"'))
    code, out, err = lazsim("sweep", spec, "--out", tmp_path / "out", "--jobs", 1)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith("12 of 12 runs failed; mend them and start it again")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rows.jsonl"]


def test_runs_that_fail_are_named_and_the_others_kept(lazsim, spec, tmp_path):
    (tmp_path / "own.py").write_text(
        "from lazsim.placement.baselines import place_spread\n"
        "def policy(request):\n"
        "    if request.num_nodes < 10:\n"
        "        raise ValueError('no')\n"
        "    return place_spread(request.replicas_LE, request.num_nodes, request.num_slots)\n"
    )
    spec.write_text(SPEC + 'system = ["lazarus", "ds"]\nplacement = "own.py:policy"\n')
    code, _, err = lazsim("sweep", spec, "--out", tmp_path / "out", "--jobs", 1)
    assert code == 2
    assert "system = lazarus, placement = own.py:policy, " in err
    assert err.splitlines()[-1].endswith("4 of 8 runs failed; mend them and start it again")
    assert len((tmp_path / "out" / "table.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--backend", "dask"], "--backend: unknown value 'dask': known: loky, ray"),
        (["--address", "here:1"], "--address has no effect without --backend ray"),
        (["--jobs", "0"], "--jobs: expected a whole number from 1 to"),
    ],
)
def test_wrong_options_are_one_line_and_code_2(refused, spec, tmp_path, options, complaint):
    assert complaint in refused("sweep", spec, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_wrong_spec_leaves_nothing_behind(lazsim, spec, tmp_path):
    spec.write_text(SPEC + "job.fault_treshold = 2\n")
    code, out, err = lazsim("sweep", spec, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    unknown = "job.fault_treshold = 2: unknown field 'fault_treshold': did you mean 'fault_threshold'? known: name, "
    assert err.startswith(f"lazsim: {spec}: {unknown}")
    assert err.endswith(" more\n")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_spec_and_a_folder_that_is_a_file_are_refused(lazsim, refused, spec, tmp_path):
    code, _, err = lazsim("sweep", tmp_path / "none.toml", "--out", tmp_path / "out")
    assert (code, err) == (
        2,
        f"lazsim: {tmp_path}/none.toml: cannot be read (No such file or directory); check the path\n",
    )
    assert "cannot be written" in refused("sweep", spec, "--out", spec)
