"""Traces in the forms that people have, each with what was derived from it by hand."""

import gzip
import json

import pytest

CASES = {
    # File and options: span in s, losses, nodes lost, node-seconds. Derivations stand beside the files.
    "plain-csv-with-dates/counts.csv": (600, 1, 1, 4500),
    "plain-csv-with-dates/header.csv": (60, 1, 1, 120),
    "plain-csv-with-dates/upper.csv": (60, 1, 1, 120),
    "plain-csv-with-dates/tabs.tsv": (60, 1, 1, 120),
    "compressed-trace/trace.csv.gz": (60, 1, 1, 120),
    "clock-steps-back/padded.txt": (210, 2, 4, 10 * 60 + 8 * 30 + 6 * 120),
    "clock-steps-back/dst_fall.txt --time-zone America/New_York": (8100, 1, 4, 8 * 4500 + 4 * 3600),
    "counts-in-seconds-or-hours/seconds.csv --time-unit s": (3600, 1, 1, 6600),
    "counts-in-seconds-or-hours/hours.csv --time-unit h": (3600, 1, 1, 6600),
    "google-machine-events/machine_events.csv": (7200, 2, 2, 20700),
    "lanl-outages/lanl.csv": (90360, 2, 2, 346680),
    "restart-within-one-stamp/add_first.csv": (120, 2, 2, 240),
    "restart-within-one-stamp/add_first.csv --lenient": (120, 2, 2, 240),
    "restart-within-one-stamp/remove_first.csv": (120, 2, 2, 240),
    # gpu-02 away for 2555 s, gpu-01 from 05:00:00, which is the last time; the two others throughout.
    "slurm-node-states/events.txt --cluster-nodes 4": (13795, 2, 2, 4 * 13795 - 2555),
}


@pytest.mark.parametrize("case", CASES)
def test_case_reads_as_derived_by_hand(shared, answered, case):
    name, *options = case.split()
    info = answered("trace", "info", shared / "cases" / name, *options)
    found = (info["span_s"], info["num_losses"], info["num_removals"], info["node_hours"] * 3600)
    assert found == pytest.approx(CASES[case], rel=1e-6)


REFUSED = {
    "clock-steps-back/dst_fall.txt": ("line 5: steps back by 45 min", "--time-zone"),
    "counts-in-seconds-or-hours/seconds.csv": ("3.6 s", "--time-unit"),
    "counts-in-seconds-or-hours/hours.csv": ("1 ms", "--time-unit"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("command", ["trace info", "trace fit", "run --model gpt-s --max-nodes 2 --trace"])
def test_case_that_cannot_be_read_without_more_is_refused_in_one_line(shared, refused, case, command):
    told = refused(*command.split(), shared / "cases" / case)
    assert all(text in told for text in REFUSED[case])


@pytest.mark.parametrize("command", ["info", "convert --out t.csv"])
def test_commands_take_the_options_of_a_table(lazsim, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    rows = ["when up", *(f"{hour} {4 - hour % 2}" for hour in range(20))]
    (tmp_path / "log.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    name, *rest = command.split()
    code, _, err = lazsim("trace", name, "log.gz", "--columns", "time=when,count=up", "--time-unit", "h", *rest)
    assert code == 0, err


def test_run_takes_the_options_of_a_table_and_keeps_them_with_the_result(lazsim, tmp_path):
    (tmp_path / "log.csv").write_text("0,8\n600,7\n1200,8\n")
    options = ["--time-unit", "s", "--system", "ds", "--duration", "2min", "--json"]
    code, out, err = lazsim("run", "--trace", tmp_path / "log.csv", *options)
    assert code == 0, err
    assert json.loads(out)["inputs"]["replay"]["time_unit"] == "s"


def test_rate_of_a_list_of_outages_is_that_of_the_span_in_which_nodes_were_observed(lazsim, write):
    path = write("node,start,downtime (h)\na,2025-02-01,12\nb,2025-03-01,12\n", "outages.csv")
    options = ("--cluster-nodes", 10, "--span", "2025-01-01..2025-04-11", "--json")
    code, out, err = lazsim("trace", "info", path, *options)
    assert code == 0, err
    info = json.loads(out)
    # 100 days of ten nodes, less one day.
    assert (info["span_s"], info["node_hours"]) == (100 * 86400, pytest.approx(999 * 24))
    assert "the trace begins 2025-01-01 and ends 2025-04-11, as --span says" in info["notes"]
    code, out, err = lazsim("run", "--trace", path, *options, "--system", "ds", "--max-nodes", 4, "--duration", "1h")
    assert code == 0, err
    assert json.loads(out)["inputs"]["replay"]["span"] == ["2025-01-01", "2025-04-11"]


def test_a_recipe_refuses_what_only_files_have(refused):
    told = refused("trace", "info", "fail-every-5min", "--time-unit", "s")
    assert "fail-every-5min: a recipe has no use for --time-unit" in told
