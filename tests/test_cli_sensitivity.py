import json

import pytest

from lazsim.trace import write_trace
from tests.test_sensitivity import make_trace, vary, write_cluster_of_two


@pytest.fixture
def trace_file(tmp_path):
    path = tmp_path / "nodes.csv"
    write_trace(make_trace(failures_s=[500], duration_s=900), path)
    return path


def test_tables_of_all_systems_fit_a_terminal(lazsim, trace_file):
    systems = [word for name in ("lazarus", "ds", "ds-ft", "dropless", "dropless-ft") for word in ("--system", name)]
    # One that counts, one that does not, and the longest name of those with an effect.
    constants = ("storage_bytes_per_s", "connect_s", "local_all_reduce_bytes_per_s")
    chosen = [word for name in constants for word in ("--constant", name)]
    code, out, _ = lazsim("sensitivity", "--trace", trace_file, "--routing", "uniform", *systems, *chosen)
    assert code == 0
    lines = out.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert lines[0] == "change of samples trained"
    assert {"constant", "x0.5", "x1.5", "lazarus", "ds", "ds-ft", "dropless", "dropless-ft"} <= set(out.split())
    assert "change of the ratio lazarus : other" in lines
    assert "connect_s" in out[out.index("under 0.1%") :]


def test_json_holds_both_factors_of_a_constant(answered, trace_file):
    answer = answered("sensitivity", "--trace", trace_file, "--routing", "uniform", "--constant", "storage_bytes_per_s")
    assert set(answer["samples"]) == {"lazarus", "ds-ft", "ds"}
    assert [(change["factor"], change["value"]) for change in answer["changes"]] == [(0.5, 0.45e9), (1.5, 1.35e9)]
    assert all(set(change["ratio_change"]) == {"ds-ft", "ds"} for change in answer["changes"])


def test_factors_that_differ_have_headings_that_differ(lazsim, trace_file):
    asked = ("--constant", "storage_bytes_per_s", "--factor", "1.50001", "--factor", "1.50002")
    out = lazsim("sensitivity", "--trace", trace_file, "--routing", "uniform", "--system", "ds", *asked)[1]
    assert {"x1.50001", "x1.50002"} <= set(out.split())


def test_constants_that_no_source_tells_are_marked_unless_they_are_given(lazsim, answered, trace_file):
    # The file of rtx3090x10 names the second under `assumed`, and Lazarus publishes the first.
    asked = ("sensitivity", "--trace", trace_file, "--routing", "uniform", "--system", "ds")
    asked += ("--constant", "detect_s", "--constant", "storage_bytes_per_s", "--factor", "0.1")
    _, out, err = lazsim(*asked)
    assert {line.split("  ")[0] for line in out.splitlines()[2:4]} == {"detect_s", "storage_bytes_per_s *"}
    assert "*: assumed, as no source tells it" in out
    assert "failures: ds 1; fewer than 10 tell little of what failures cost: give more time" in err
    marks = {change["constant"]: change["is_assumed"] for change in answered(*asked)["changes"]}
    assert marks == {"detect_s": False, "storage_bytes_per_s": True}
    given = vary(make_trace(), "storage_bytes_per_s", **{"cluster.network.storage_bytes_per_s": 9e8})
    assert not any(change.is_assumed for change in given.values())


def test_a_constant_may_be_named_as_in_a_sweep(lazsim, trace_file):
    asked = ("sensitivity", "--trace", trace_file, "--routing", "uniform", "--system", "ds", "--json", "--constant")
    assert lazsim(*asked, "cluster.recovery.detect_s") == lazsim(*asked, "detect_s")


def test_a_system_that_cannot_run_says_none(lazsim, tmp_path):
    path = tmp_path / "two.csv"
    write_trace(make_trace(2, duration_s=900), path)
    cluster = write_cluster_of_two(tmp_path / "two.toml")
    arguments = ["--cluster", cluster, "--routing", "uniform", "--system", "lazarus", "--constant", "slots_per_gpu"]
    code, out, _ = lazsim("sensitivity", "--trace", path, *arguments)
    assert code == 0
    assert out.splitlines()[2].split()[:2] == ["slots_per_gpu", "none"]
    code, out, _ = lazsim("sensitivity", "--trace", path, *arguments, "--json")
    assert json.loads(out)["changes"][0]["samples"] == {"lazarus": None}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--constant", "storage"], "--constant: unknown constant 'storage'"),
        (["--constant", "cluster.recovery.detct_s"], "'cluster.recovery.detct_s': did you mean 'detect_s'?"),
        (["--system", "dss"], "did you mean 'ds'"),
        (["--cluster", "rtx3090"], "did you mean 'rtx3090x10'"),
        (["--out", "x"], "unknown option '--out': see lazsim sensitivity --help"),
        (["--factor", "0"], "--factor: expected a number above 0, found '0'"),
        (["--factor", "1e300"], "--factor: cluster.slots_per_gpu = "),
    ],
)
def test_bad_input_is_one_line_and_code_2(refused, trace_file, options, complaint):
    assert complaint in refused("sensitivity", "--trace", trace_file, "--routing", "uniform", *options)
