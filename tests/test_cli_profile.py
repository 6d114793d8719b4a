import json
import os
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from lazsim.cli.base.torch_needed import COMPILED_VARIABLE, require_torch
from lazsim.costmodel.profile import ProfilePoint, profile_names, save_profile
from lazsim.specs import ModelSpec, load_spec
from tests.conftest import ROOT
from tests.models import HEADER

TINY = """name = "tiny"
num_layers = 12
num_moe_layers = 12
d_model = 64
d_ff_expert = 96
matrices_per_expert = 2
num_experts = 8
top_k = 1
attention_params = 16384
attention_score_dim = 128
sequence_length = 16
vocab_size = 101
num_vocab_matrices = 1
"""
TRACE = ROOT / "traces" / "fail-every-5min.csv"
RUN = ("run", "--trace", TRACE, "--system", "lazarus")
NEEDS_TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch: pip install 'lazsim[live]'")


@pytest.fixture(scope="module")
def quickly_measured():
    """Few repetitions of small sizes, and peaks that take no time: no machine is too busy for the budget."""
    pytest.importorskip("torch", reason="needs torch: pip install 'lazsim[live]'")
    from lazsim.profiling import communication, compute, rank_loads, session, storage, timing

    def small(header):
        measurements, unknown = compute.compute_measurements(header)
        # Those of the optimizer are numbers of parameters, the others tokens.
        return [one for one in measurements if one.size <= 2 ** (14 if one.kernel == "optimizer" else 8)], unknown

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "MOST_REPETITIONS", 12)
        patch.setattr(compute, "cache_bytes", lambda _: 2**20)
        patch.setattr(session, "compute_measurements", small)
        patch.setattr(session, "group_measurements", lambda *_: [])
        patch.setattr(storage, "STORAGE_SIZES", (2**20,))
        patch.setattr(communication, "CI_WIDTH", float("inf"))
        patch.setattr(communication, "MESSAGE_SIZES", (1024, 4096))
        for module in (rank_loads, session):
            patch.setattr(module, "measure_peaks", lambda *_: (1e11, 1e10))
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory, quickly_measured):
    """The path of a profile of a tiny model, measured on this machine within seconds, and the model's."""
    from lazsim.cli import main

    folder = tmp_path_factory.mktemp("profile")
    (folder / "tiny.toml").write_text(TINY)
    arguments = ["--device", "cpu", "--threads", 1, "--model", folder / "tiny.toml", "--budget", "2min"]
    arguments += ["--out", folder / "tiny.csv", "--checkpoint-path", folder / "storage", "--note", "a test"]
    with pytest.raises(SystemExit) as stopped:
        main(["profile", *map(str, arguments)])
    assert stopped.value.code == 0
    return folder / "tiny.csv", folder / "tiny.toml"


def test_a_profile_is_measured_shown_and_checked(lazsim, answered, measured, tmp_path):
    path, _ = measured
    code, out, _ = lazsim("profile", "show", path, "--out", tmp_path)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80 or "note" in out
    for kernel in ("expert", "grouped", "gate", "schedule", "permute", "reorder", "attention", "head", "optimizer"):
        assert kernel in out
    assert {file.name for file in tmp_path.glob("[!.]*")} == {"profile.png", "profile.pdf"}
    found = answered("profile", "show", path)
    assert found["header"]["conditions"]["note"] == "a test"
    assert {point["kernel"] for point in found["points"]} >= {"expert", "reorder", "all_to_all", "checkpoint_save"}
    assert all(point["num_repetitions"] >= 3 for point in found["points"])
    checked = answered("profile", "check", path)
    lines = lazsim("profile", "check", path)[1].splitlines()
    assert f"{checked['median_error']:.1%}" in next(line for line in lines if line.startswith("all "))
    assert [one["kernel"] for one in checked["reached"]] == ["grouped", "permute"]
    assert lines[-1].startswith(f"permute: {checked['reached'][1]['share']:.0%} of the rate of the copy, at ")
    assert checked["num_held_out"] == sum(kernel["num_held_out"] for kernel in checked["kernels"])
    assert lazsim("profile", "check", path)[0] == 0


def test_an_interval_far_below_a_percent_is_not_shown_as_none(lazsim):
    # Of the H200 and gpt-s, the 95 % interval of the first point of `schedule` is 1.251854 % of its median.
    profile = ROOT / "lazsim/catalog/profiles/h200/gpt-s.csv"
    line = next(line for line in lazsim("profile", "show", profile)[1].splitlines() if line.startswith("schedule "))
    assert line.split()[5] == "0.6%"
    halves = [line.split()[-1] for line in lazsim("profile", "check", profile)[1].splitlines()[1:10]]
    assert all(half.endswith("%") and float(half[:-1]) > 0 for half in halves)


def test_measuring_again_adds_nothing_that_is_there(lazsim, measured):
    path, model = measured
    before = path.read_text().splitlines()
    code, _, _ = lazsim("profile", "--device", "cpu", "--model", model, "--budget", "1ms", "--ranks", 1, "--out", path)
    assert code == 0
    assert set(before) <= set(path.read_text().splitlines())


def test_a_kernel_is_measured_again_and_the_others_stay(lazsim, measured, tmp_path):
    path, model = measured
    copy = tmp_path / "copy.csv"
    for suffix in (".csv", ".json"):
        shutil.copy(path.with_suffix(suffix), copy.with_suffix(suffix))
    options = ("--device", "cpu", "--threads", 1, "--model", model, "--budget", "2min", "--kernel", "gate")
    assert lazsim("profile", *options, "--fresh", "--out", copy)[0] == 0
    before, after = (file.read_text().splitlines() for file in (path, copy))
    old, new = ([row for row in rows if row.startswith("gate,")] for rows in (before, after))
    assert [row for row in after if row not in new] == [row for row in before if row not in old]
    assert new
    assert not set(old) & set(new)
    headers = [json.loads(file.with_suffix(".json").read_text()) for file in (path, copy)]
    others = [{name: why for name, why in header["skipped"].items() if name != "gate"} for header in headers]
    assert others[0] == others[1]


def test_only_the_kernels_that_are_named_are_measured(lazsim, measured, tmp_path):
    options = ("--device", "cpu", "--threads", 1, "--model", measured[1], "--budget", "2min")
    code, out, _ = lazsim(
        "profile", *options, "--kernel", "gate", "--kernel", "schedule", "--out", tmp_path / "two.csv"
    )
    # The path that the line begins with may break it anywhere.
    assert (code, "of 2 kernels" in " ".join(out.split())) == (0, True)
    header = json.loads((tmp_path / "two.json").read_text())
    assert set(header["kernels"]) == {"gate", "schedule"} >= set(header["skipped"])


@pytest.mark.parametrize(("name", "before", "now", "told"), [
    ("dtype", "float32", "bfloat16", ("dtype", "float32", "bfloat16")),
    ("num_threads", 2, 1, ("num_threads", 2, 1)),
    ("float32_matmul_precision", "highest", "high", ("float32_matmul_precision", "highest", "high")),
    ("model", HEADER.model, load_spec(ModelSpec, "gpt-m"), ("model", "gpt-s", "gpt-m")),
    ("model", HEADER.model, msgspec.structs.replace(HEADER.model, d_ff_expert=64), ("model.d_ff_expert", 3072, 64)),
    ("rows", "torch", "triton", ("rows", "torch", "triton")),
    ("rows", None, "triton", None),  # old profiles do not tell how rows were added up
    ("driver_version", "580", "590", ("driver_version", "580", "590")),
    ("driver_version", "580", None, None),  # nvidia-smi may give no answer in time
])  # fmt: skip
@NEEDS_TORCH
def test_a_profile_goes_on_only_under_the_conditions_that_it_was_measured_in(name, before, now, told):
    from lazsim.profiling.session import difference

    if hasattr(HEADER, name):
        found = difference(msgspec.structs.replace(HEADER, **{name: before}), {name: now}, {})
    else:
        found = difference(msgspec.structs.replace(HEADER, conditions={name: before}), {}, {name: now})
    assert found == told


def test_a_run_on_a_profile_says_what_was_measured(lazsim, measured):
    path, model = measured
    code, out, err = lazsim(*RUN, "--model", model, "--profile", path, "--extrapolate", "--json")
    assert code == 0
    assert all(0 <= run["extrapolated_s"] <= run["wall_s"] for run in json.loads(out)["runs"])
    assert "measured on cpu, float32" in err


def bare_profile(tmp_path, most_tokens: int):
    rows = [f"expert,{size},{size * 1e-6}" for size in (1, most_tokens)]
    path = tmp_path / "bare.csv"
    path.write_text("\n".join(["kernel,size,time_s", *rows]) + "\n")
    return path


def test_beyond_the_profile_is_refused_unless_asked_for(answered, refused, tmp_path):
    arguments = (*RUN, "--routing", "uniform")
    told = refused(*arguments, "--profile", bare_profile(tmp_path, 16))
    assert told.startswith("the profile has expert from 1 to 16, but")
    far, near = (
        answered(*arguments, "--profile", bare_profile(tmp_path, most), "--extrapolate") for most in (16, 10**6)
    )
    assert [any("is extrapolated" in note for note in one["notes"]) for one in (far, near)] == [True, False]
    far, near = far["runs"][0], near["runs"][0]
    # Nothing of a profile that covers all is extrapolated; of one that ends at 16 tokens, all that experts take is.
    assert near["extrapolated_s"] == pytest.approx(0, abs=1e-6)
    assert 0 < far["extrapolated_s"] < far["wall_s"]
    assert answered(*arguments)["runs"][0]["extrapolated_s"] is None


def test_a_run_without_a_profile_says_that_its_costs_are_analytic(lazsim, tmp_path):
    said = "costs are analytic: no profile was given"
    arguments = (*RUN, "--routing", "uniform", "--duration", "4min")
    assert lazsim(*arguments)[2].count(said) == 1
    assert said not in lazsim(*arguments, "--profile", bare_profile(tmp_path, 10**6))[2]


def test_all_time_that_a_profile_misses_is_counted_as_extrapolated(answered, write):
    # Dense work takes 1000 s a step beyond the profile: hardly anything else is left.
    path = write("kernel,size,time_s\ndense,1024,250\ndense,2048,500\n", "dense.csv")
    found = answered(*RUN, "--profile", path, "--extrapolate", "--duration", "4min")
    run = found["runs"][0]
    assert "lazarus: 99.9% of the time of steps is extrapolated beyond measured sizes" in found["notes"]
    assert run["extrapolated_s"] == pytest.approx(run["ledger_s"]["compute"] + run["ledger_s"]["lost_work"], rel=0.01)


def test_a_shipped_profile_is_used_by_name(lazsim):
    name = profile_names()[0]
    code, out, err = lazsim(*RUN, "--profile", name, "--extrapolate", "--json")
    assert code == 0
    assert json.loads(out)["inputs"]["profile"]["name"] == name
    assert "gpt-s.csv: measured on cpu" in err
    assert lazsim("profile", "check", name)[0] == 0


def test_a_shipped_profile_runs_its_model_without_going_beyond_it(lazsim):
    code, out, err = lazsim("run", "--trace", TRACE, "--model", "gpt-s", "--profile", profile_names()[0], "--json")
    assert code == 0, err
    assert [run.get("extrapolated_s") for run in json.loads(out)["runs"]] == [None, None, None]


def test_skew_is_measured_and_predicted(answered, tmp_path, quickly_measured):
    small = (
        "--device", "cpu", "--width", 64, "--experts", 4, "--nodes", 4, "--slots", 2, "--tokens", 64, "--threads", 1,
        "--budget", "120s",
    )  # fmt: skip
    rows = answered("profile", "skew", *small, "--out", tmp_path)["rows"]
    assert [row["skew"] for row in rows] == [1, 2, 4]
    assert all(row[key] > 0 for row in rows for key in row if key.endswith("_s"))
    assert {file.name for file in tmp_path.glob("[!.]*")} == {"skew.json", "skew.png", "skew.pdf"}


@NEEDS_TORCH
def test_time_is_won_back_from_what_skew_adds_also_where_skews_begin_later(monkeypatch):
    from lazsim.profiling import ranks

    # Each rank takes a second for a token.
    times = SimpleNamespace(measured_s=sum, predicted_s=sum)
    monkeypatch.setattr(ranks, "measure_ranks_on_device", lambda *_: (times, {}))
    options = ranks.SkewOptions(experts=4, nodes=6, slots=3, tokens=64, skews=(4.0,))
    (row,) = ranks.measure_skew(options, iter).rows
    # One of two nodes computes the tokens of both; allocation uses four of six nodes. Even loads take 64 s.
    assert (row.even_measured_s, row.allocated_measured_s, row.won_back) == (128, 96, 0.5)


@NEEDS_TORCH
def test_ranks_of_a_layout_have_its_tokens_and_no_others(lazsim):
    job = ("--model", "deepseek-v3", "--job", "deepseek-v3", "--cluster", "h100x128")
    code, _, err = lazsim("profile", "ranks", "--device", "cpu", *job, "--layers", 1, "--tokens", 64)
    assert (code, err) == (2, "lazsim: --tokens 64: deepseek-v3 has a layout with its own; leave it out\n")


@NEEDS_TORCH
def test_loads_of_virtual_ranks_add_up():
    from lazsim.profiling.ranks import loads_under_skew, skewed_loads

    load_E = skewed_loads(8, 4.0, 4096)
    assert (int(load_E[0]), int(load_E.sum())) == (2048, 4096)
    # Expert parallelism over pairs: each rank has half the experts, and a pair the tokens of both.
    even, allocated = loads_under_skew(load_E, 10, 6)
    assert sum(map(sum, even)) == 10 * 4096
    assert sum(even[0]) + sum(even[1]) == 2 * 4096
    # Replicas compute their quota each, rounded up.
    assert 10 * 4096 <= sum(map(sum, allocated)) <= 10 * 4096 + 60


SMALL_MODEL = """
name = "small"
num_layers = 2
num_moe_layers = 2
d_model = 32
d_ff_expert = 64
matrices_per_expert = 2
num_experts = 8
top_k = 2
attention_params = 4096
attention_score_dim = 64
sequence_length = 32
vocab_size = 256
num_vocab_matrices = 1
num_learned_positions = 32
"""


def test_every_rank_of_a_plan_is_measured_and_predicted(lazsim, answered, refused, write, tmp_path, quickly_measured):
    model = write(SMALL_MODEL, "small.toml")
    small = ("--model", model, "--tokens", 32, "--layers", 2, "--threads", 1, "--budget", "120s")
    found = answered("profile", "ranks", "--device", "cpu", *small, "--out", tmp_path / "out")
    assert [row["layer"] for row in found["layers"]] == [0, 1]
    for row in found["layers"]:
        assert row["error"] == pytest.approx(row["predicted_s"] / row["measured_s"] - 1)
        assert row["spread"] >= 1
        assert row["modelled_exchange_s"] > 0
    assert json.loads((tmp_path / "out" / "ranks.json").read_text()) == found
    profile = tmp_path / "other.csv"
    point = ProfilePoint(kernel="expert", size=1, time_s=1e-3)
    header = msgspec.structs.replace(HEADER, model=load_spec(ModelSpec, str(model)), conditions={"num_threads": 64})
    save_profile(profile, header, [point, msgspec.structs.replace(point, size=64.0)])
    told = refused("profile", "ranks", "--device", "cpu", *small, "--profile", profile)
    assert "measured with --threads 64, now it is 1; give --threads 64, or leave the profile out" in told
    code, out, _ = lazsim("profile", "ranks", "--device", "cpu", *small, "--tolerance", 0)
    assert code == 1
    assert max(map(len, out.splitlines())) <= 80
    # Whether this torch has grouped matmuls for a CPU depends on its version; Triton needs a GPU.
    assert re.search(r"\nseveral experts by (grouped_mm|loop), rows added up by torch$", out.rstrip())


@pytest.mark.parametrize(
    ("padded", "expected"),
    [
        # Two nodes of two GPUs, 40 tokens on each: of the 160, expert 1 draws 120, 40 for each of its three replicas,
        # and expert 0 draws 40, 13 1/3 each, rounded up. Slots 0 and 2 of a node are its first GPU's; the last one is
        # empty.
        (False, [[40, 40], [40, 0], [14, 14], [14, 0]]),
        # Padded, expert 0 computes as many as expert 1.
        (True, [[40, 40], [40, 0], [40, 40], [40, 0]]),
    ],
)
@NEEDS_TORCH
def test_ranks_compute_the_quotas_of_their_slots(padded, expected):
    from lazsim.placement.plan import PlacementPlan
    from lazsim.profiling.ranks import plan_loads

    plan = PlacementPlan(np.array([[[1, 1, 1, -1], [0, 0, 0, -1]]]), num_experts=2)
    assert plan_loads(plan, np.array([[1, 3]]), 40, 2, padded=padded).tolist() == [expected]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give --out, or a command: show"),
        (("--out", "profile.txt"), "profile.txt: a profile's name ends in .csv"),
        (("--out", "a.csv", "--model", "gtp-s"), "did you mean 'gpt-s'?"),
        (("--out", "a.csv", "--kernel", "gates"), "--kernel: unknown kernel 'gates': did you mean 'gate'?"),
        (
            ("--out", "a.csv", "--device", "cpu", "--budget", "2s", "--kernel", "checkpoint_save"),
            "as --checkpoint-path",
        ),
        (
            ("--out", "a.csv", "--device", "cpu", "--budget", "2s", "--kernel", "broadcast", "--ranks", "1"),
            "--kernel broadcast: --ranks 1 is one process, which exchanges nothing",
        ),
        (("--out", "a.csv", "--device", "cpu", "--budget", "2s", "--kernel", "feed_forward"), "gpt-s has none"),
        (("--out", "a.csv", "--budget", "10"), "give a number with a unit"),
        (("--out", "a.csv", "--device", "tpu"), "--device: unknown value 'tpu': known: auto, cpu"),
        (("--out", "a.csv", "--ranks", "0"), "--ranks"),
        (("--out", "a.csv", "--device", "cpu", "--backend", "pigeons"), "--backend pigeons: not built into this torch"),
        (("--out", "a.csv", "--device", "cuda"), "--device cuda: torch finds no GPU"),
        (("show", "missing.csv"), "missing.csv: cannot be read"),
        (("check", "missing"), "unknown profile 'missing'"),
        (("skew", "--device", "cpu", "--skew", "nan"), "expected a number"),
        (("ranks", "--device", "cpu", "--tolerance", "nan"), "expected a number"),
        (("ranks", "--device", "cpu", "--layers", "99"), "--layers 99: gpt-l has 12 MoE layers"),
        (("--out", "a.csv", "--device", "cpu", "--ranks", "100000"), "--ranks: expected a whole number from 1 to"),
        (("skew", "--device", "cpu", "--skew", "9"), "--skew 9: 8 experts have an even share of 1/8"),
        (
            ("skew", "--device", "cpu", "--width", "64", "--budget", "1ms"),
            "--budget 0.001s: too short; give ",
        ),
        (
            ("skew", "--device", "cpu", "--width", "512", "--profile", "epyc-2cores"),
            "of width 768, 1024; give one of those",
        ),
        (
            ("skew", "--device", "cpu", "--threads", 2, "--width", 768, "--tokens", 999999, "--profile", "epyc-2cores"),
            "--profile: it has expert up to",
        ),
        (
            ("--device", "cpu", "--budget", "1ms", "--ranks", "1", "--out", "a.csv"),
            "--budget: 0.001 s did not do for one point",
        ),
        (("ranks", "--device", "cpu", "--system", "lazarsu"), "did you mean 'lazarus'?"),
        (("ranks", "--device", "cpu", "--model", "deepseek-v3"), "deepseek-v3 does not fit on rtx3090x10"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(refused, tmp_path, monkeypatch, arguments, said):
    torch = pytest.importorskip("torch", reason="needs torch: pip install 'lazsim[live]'")
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    monkeypatch.chdir(tmp_path)
    assert said in refused("profile", *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kernel", ["checkpoint_save", "feed_forward"])
@NEEDS_TORCH
def test_a_kernel_that_cannot_be_measured_is_refused_before_any_work(lazsim, tmp_path, monkeypatch, kernel):
    measured = []
    monkeypatch.setattr("lazsim.profiling.session.measure_peaks", lambda *_: measured.append(1) or (1.0, 1.0))
    assert lazsim("profile", "--out", tmp_path / "a.csv", "--device", "cpu", "--kernel", kernel)[0] == 2
    assert not measured


def test_without_torch_it_says_how_to_get_it(refused, tmp_path, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest)
    )
    told = refused("profile", "--out", tmp_path / "a.csv")
    assert told == "measuring takes torch, which is not installed: pip install 'lazsim[live]'"


def test_a_profile_is_shown_with_what_computed_experts_and_rows(lazsim):
    out = lazsim("profile", "show", "h200", "--model", "gpt-l")[1]
    assert "\nseveral experts by grouped_mm, rows added up by triton\n" in out


def test_looking_at_profiles_needs_no_torch(lazsim, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for command in ("show", "check"):
        assert lazsim("profile", command, profile_names()[0])[0] == 0


@NEEDS_TORCH
def test_a_command_that_takes_torch_leaves_no_folder_of_what_torch_compiles(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv(COMPILED_VARIABLE, raising=False)
    made = []

    @click.command()
    def command():
        require_torch("this takes")
        made.append(Path(os.environ[COMPILED_VARIABLE]))
        assert made[0].is_dir()

    CliRunner().invoke(command, catch_exceptions=False)
    assert made[0].parent == tmp_path
    assert not list(tmp_path.iterdir())
    assert COMPILED_VARIABLE not in os.environ
