import csv
import json
import os
import re
import sys

import pytest

from lazsim.cli.run import RUN_FILES
from tests.conftest import P3_LIKE, ROOT

FAST = ("--trace", P3_LIKE, "--max-nodes", 10, "--duration", "80min")

REAL_TRACES = [
    "bamboo/p3-trace.csv",
    "bamboo/a100x1-east1b.txt",
    "skypilot/availability-16node-us-east-2b_v100_1.json",
    "skypilot/preemption-1node-us-east-1f_v100_1.json",
    "skypilot/preemption-4node-us-east-1f_v100_1.json",
    "infinitehbd/fault_trace.json",
    "parcae/gpt-6.7b-trace_hl_15_25.txt",
    "parcae/p3.csv",
]


def test_json_has_the_promised_keys_and_its_ledger_adds_up(answered):
    answer = answered("run", *FAST)
    assert [run["system"] for run in answer["runs"]] == ["lazarus", "ds-ft", "ds"]
    for run in answer["runs"]:
        promised = {"steps", "samples", "goodput_samples_per_s", "ettr", "num_reconfigurations", "num_restarts"}
        assert promised | {"lost_steps", "wall_s", "ledger_s"} <= set(run)
        assert sum(run["ledger_s"].values()) == pytest.approx(run["wall_s"]) == 4800
        assert run["goodput_samples_per_s"] == pytest.approx(run["samples"] / 4800)


def test_the_same_command_writes_the_same_bytes(lazsim, tmp_path):
    outputs = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        _, out, _ = lazsim("run", *FAST, "--system", "lazarus", "--seed", 3, "--json", "--out", folder)
        outputs.append((out, {path.name: path.read_bytes() for path in folder.glob("[!.]*")}))
    assert outputs[0] == outputs[1]
    names = set(RUN_FILES)
    assert set(outputs[0][1]) == names


def test_another_seed_gives_other_loads(lazsim):
    ids = {
        json.loads(lazsim("run", *FAST, "--system", "lazarus", "--seed", seed, "--json")[1])["id"] for seed in (0, 1)
    }
    assert len(ids) == 2


@pytest.mark.parametrize(("option", "name"), [
    (("--interval", "9"), "interval"), (("--spares", "1"), "num_spares"), (("--price", "3"), "usd_per_node_hour"),
])  # fmt: skip
def test_an_input_that_changes_a_run_changes_its_id_and_is_among_its_inputs(lazsim, option, name):
    plain, changed = (json.loads(lazsim("run", *FAST, "--system", "ds", *more, "--json")[1]) for more in ((), option))
    assert plain["id"] != changed["id"]
    assert name in changed["inputs"].keys() - plain["inputs"].keys()


def test_the_timeline_has_the_promised_columns_and_never_more_nodes_used_than_alive(lazsim, tmp_path):
    lazsim("run", *FAST, "--out", tmp_path)
    with (tmp_path / "timeline.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    columns = ["time_s", "system", "nodes_alive", "nodes_used", "samples_per_s", "lost_samples_per_s"]
    assert list(rows[0]) == columns
    assert all(0 <= int(row["nodes_used"]) <= int(row["nodes_alive"]) <= 10 for row in rows)


def test_table_json_and_timeline_of_the_run_in_the_readme_agree(lazsim, tmp_path):
    systems = [part for name in ("lazarus", "dropless-ft", "tutel-ft", "ds-ft", "ds") for part in ("--system", name)]
    _, table, _ = lazsim("run", *FAST, "--model", "gpt-l", *systems, "--out", tmp_path)
    timeline = list(csv.DictReader((tmp_path / "timeline.csv").read_text().splitlines()))
    for run in json.loads((tmp_path / "summary.json").read_text())["runs"]:
        rows = [row for row in timeline if row["system"] == run["system"]]
        ends_s = [float(row["time_s"]) for row in rows[1:]] + [run["wall_s"]]
        spans_s = [end_s - float(row["time_s"]) for row, end_s in zip(rows, ends_s, strict=True)]
        kept = sum(float(row["samples_per_s"]) * span_s for row, span_s in zip(rows, spans_s, strict=True))
        assert kept == pytest.approx(run["samples"])
        assert f"{run['samples']:,}" in table
        # Its lost steps, and those alone, show as lost; at most one unfinished step a failure is lost work besides.
        lost_s = sum(s for row, s in zip(rows, spans_s, strict=True) if float(row["lost_samples_per_s"]))
        least_s = 0.9 * run["ledger_s"]["lost_work"] if run["lost_steps"] else 0.0
        assert least_s <= lost_s < run["ledger_s"]["lost_work"]


def test_run_json_names_every_input_with_its_hash(lazsim, tmp_path):
    lazsim("run", *FAST, "--seed", 5, "--out", tmp_path)
    inputs = json.loads((tmp_path / "run.json").read_text())
    for name in ("trace", "model", "cluster", "gpu", "job", "routing"):
        assert len(inputs[name]["sha256"]) == 64
    assert (inputs["seed"], inputs["version"], inputs["duration_s"]) == (5, "0.1.0", 4800)
    assert inputs["replay"] == {"start_s": 0, "max_nodes": 10, "cap": "members", "lenient": False}


def test_the_table_fits_80_columns(lazsim):
    systems = [part for name in ("lazarus", "ds-ft", "ds", "tutel-ft", "dropless-ft") for part in ("--system", name)]
    for chosen in ([], systems):
        _, out, _ = lazsim("run", *FAST, *chosen)
        assert max(map(len, out.splitlines())) <= 80
        assert "where the time went" in out


def test_a_toml_file_works_wherever_a_name_does(lazsim, tmp_path):
    model = tmp_path / "mine.toml"
    model.write_text((ROOT / "lazsim/catalog/models/gpt-s.toml").read_text())
    named, mine = (json.loads(lazsim("run", *FAST, "--model", name, "--json")[1]) for name in ("gpt-s", model))
    assert named["runs"] == mine["runs"]


def test_measured_times_replace_the_analytic_ones(lazsim, tmp_path):
    # Dense work of a micro-batch of 4096 tokens takes 10 s: no step can be shorter.
    profile = tmp_path / "profile.csv"
    profile.write_text("kernel,size,time_s\ndense,4096,10\n")
    run = json.loads(lazsim("run", *FAST, "--system", "lazarus", "--profile", profile, "--json")[1])["runs"][0]
    assert run["steps"] * 10 <= run["ledger_s"]["compute"]
    assert run["steps"] > 0


@pytest.mark.parametrize("name", REAL_TRACES)
def test_every_real_trace_can_be_replayed(lazsim, shared, name):
    arguments = ["run", "--trace", shared / "traces" / name, "--model", "gpt-l", "--max-nodes", 10]
    code, out, _ = lazsim(*arguments, "--duration", "80min", "--json")
    assert code == 0
    for run in json.loads(out)["runs"]:
        assert sum(run["ledger_s"].values()) == pytest.approx(4800)


def test_the_published_replay_loses_4_nodes_at_once_at_minute_34(lazsim, shared, tmp_path):
    trace = shared / "traces" / "bamboo" / "p3-trace.csv"
    lazsim("run", "--trace", trace, "--max-nodes", 10, "--cap", "offset", "--duration", "80min", "--out", tmp_path)
    with (tmp_path / "events.csv").open() as stream:
        lost = [row for row in csv.DictReader(stream) if row["time_s"] == "2040.0" and row["nodes_lost"] != "0"]
    assert {row["nodes_lost"] for row in lost} == {"4"}
    assert {row["nodes_alive"] for row in lost} == {"6"}


BAD_INPUTS = {
    "no such file": (["--trace", "missing.csv"], "missing.csv: cannot be read"),
    "unknown model": (["--model", "gtp-l"], "did you mean 'gpt-l'?"),
    "name in capitals": (["--model", "GPT-L"], "did you mean 'gpt-l'?"),
    "no trace, as of an unset variable": (["--trace", ""], "--trace '': give a value"),
    "no job, as of an unset variable": (["--job="], "--job '': give a value, or leave it out"),
    "unknown recipe": (["--trace", "fail-every-5mins"], "did you mean 'fail-every-5min'?"),
    "dense layers of loads that are drawn": (["--layers-from", "3"], "smartmoe-fit has MoE layers alone"),
    "dense layers of even loads": (["--routing", "uniform", "--layers-from", "3"], "leave it out"),
    "unknown cluster": (["--cluster", "rtx3090x1"], "did you mean 'rtx3090x10'?"),
    "unknown system": (["--system", "lazaru"], "did you mean 'lazarus'?"),
    "name of a run for a system": (["--system", "lazarus:eplb"], "give lazarus, and eplb by --placement"),
    "unknown routing": (["--routing", "smartmoefit"], "did you mean 'smartmoe-fit'?"),
    "unknown format": (["--format", "bambo"], "did you mean 'bamboo'?"),
    "duration without unit": (["--duration", "80"], "give a number with a unit"),
    "endless duration": (["--duration", "1e300s"], "more than a century"),
    "negative duration": (["--duration", "-5min"], "-5min"),
    "start past the end": (["--start", "30d"], "start before its end"),
    "no nodes": (["--max-nodes", "0"], "--max-nodes"),
    "experts that do not fit": (["--model", "deepseek-v3"], "256 experts for 192 slots of 32 nodes"),
    "missing profile": (["--profile", "missing.csv"], "missing.csv: cannot be read"),
    "kernel tables as a profile": (
        ["--profile", str(ROOT / "lazsim/catalog/kernels/h100.csv")],
        "kernel tables, no profile; a GPU's TOML file names them, as kernels",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_clear_line_and_exit_code_2(refused, tmp_path, monkeypatch, case):
    arguments, expected = BAD_INPUTS[case]
    monkeypatch.chdir(tmp_path)
    given = [] if "--trace" in arguments else ["--trace", P3_LIKE]
    assert expected in refused("run", *given, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


BAD_TRACES = {
    "empty": (b"", "empty"),
    "binary": (b"\x00\x01\xff\xfe" * 50, ""),
    "unknown": (b"hello\nworld\n", "format"),
    "bad line": (b"0,add,a\r\nsoon,add,b\r\n", "line 2"),
    "out of order": (b"0,add,a\n5000,add,b\n1000,add,c\n", "line 3"),
    "negative time": (b"-5,add,a\n", "line 1"),
    "not a number": (b"0,add,a\nnan,add,b\n", "line 2"),
    "a time of millions of years": (b"0,add,a\n100000000000000000,remove,a\n", "line 2"),
    "a count that is none": (b'{"metadata": {"gap_seconds": 60}, "data": [1, 100000000]}', "100,000,000 nodes"),
    "added twice": (b"0,add,a\n1000,add,a\n", "line 2"),
    "nothing after its start": (b"0,add,a\n", "give a duration (--duration)"),
    "removed while absent": (b"0,add,a\n1000,remove,b\n", "line 2"),
}


@pytest.mark.parametrize("case", BAD_TRACES)
def test_a_bad_trace_is_one_clear_line_and_exit_code_2(refused, tmp_path, case):
    content, expected = BAD_TRACES[case]
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    told = refused("run", "--trace", path, "--out", tmp_path / "out")
    assert "bad.csv" in told
    assert expected in told
    assert not (tmp_path / "out").exists()


def test_lenient_repairs_what_it_can_and_says_how_often(lazsim, tmp_path):
    path = tmp_path / "trace.csv"
    path.write_bytes(b"0,add,a\n0,add,b\n0,add,b\n60000,remove,z\n300000,remove,b\n")
    code, _, err = lazsim("run", "--trace", path, "--lenient", "--duration", "5min")
    assert code == 0
    assert "2 times: drop events of nodes added twice or removed while absent" in err


def test_a_duration_past_the_end_of_the_trace_is_warned_of(lazsim):
    code, _, err = lazsim("run", "--trace", P3_LIKE, "--duration", "24h", "--system", "ds")
    assert code == 0
    assert "24 h asked for, but the trace ends after 11.4 h" in err


@pytest.mark.parametrize(("out", "says"), [("a" * 300, "cannot be written"), ("", "--out '': give a value")])
def test_an_impossible_folder_is_one_line_and_exit_code_2(refused, tmp_path, monkeypatch, out, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused("run", *FAST, "--out", out)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_holds_the_files_of_one_run_only(lazsim, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    lazsim("run", *FAST, "--system", "lazarus", "--placement", "mro", "--out", tmp_path)
    assert (tmp_path / "placements.png").exists()
    lazsim("run", *FAST, "--system", "lazarus", "--out", tmp_path)
    names = set(RUN_FILES)
    assert {path.name for path in tmp_path.glob("[!.]*")} == names | {"mine.txt"}


def test_more_nodes_than_the_cluster_has_are_told_of(lazsim):
    # The bundled trace peaks at 32 nodes, as its recipe says; the cluster has 10.
    assert "also where it has more than the cluster" in " ".join(lazsim("run", "--help")[1].split())
    code, _, err = lazsim("run", "--trace", P3_LIKE, "--duration", "80min", "--system", "lazarus")
    assert code == 0
    assert "--max-nodes 10 keeps to that" in err


@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_an_interrupt_during_start_up_is_one_line_too(run_process):
    script = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from lazsim.cli import main\n"
        "main(['list', 'models'])\n"
    )
    ended = run_process(sys.executable, "-c", script, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "lazsim: interrupted\n")


def test_the_name_of_a_file_breaks_no_line_and_steers_no_terminal(lazsim, tmp_path):
    path = tmp_path / "a\nb\x1b[31m.csv"
    path.write_text("0,add,node0\n600000,remove,node0\n")
    head = lazsim("run", "--trace", path, "--system", "ds")[1].partition("\n\n")[0]
    assert r"a\nb\x1b[31m.csv" in head.replace("\n ", "")
    converted = lazsim("trace", "convert", path, "--out", "-")[1]
    assert r"# source: a\nb\x1b[31m.csv" in converted.splitlines()


def test_a_run_of_systems_with_other_layouts_says_which_each_has_below_its_table(lazsim):
    run = ("run", "--trace", "fail-every-40min", "--model", "qwen3-30b-a3b", "--cluster", "h100x16", "--duration", "1h")
    systems = ("lazarus", "checkpoint", "gemini")
    asked = [word for name in systems for word in ("--system", name)]
    _, out, err = lazsim(*run, *asked, "--json")
    layouts = {row["system"]: row["layout"] for row in json.loads(out)["runs"]}
    assert layouts["lazarus"] != layouts["checkpoint"] == layouts["gemini"]
    assert "as --job gives none: one for each system)" in err
    told = dict(re.findall(r"layout of ([^:]*): (.*)", re.sub(r"\n  +", " ", lazsim(*run, *asked)[1])))
    assert told == {"lazarus": layouts["lazarus"], "checkpoint; gemini": layouts["gemini"]}
    # One layout of all is told once, among the notes.
    _, out, err = lazsim(*run, *asked[2:])
    assert "layout of" not in out
    assert f"as --job gives none: {layouts['gemini']})" in err
