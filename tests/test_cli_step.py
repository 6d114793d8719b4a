"""``lazsim step`` and ``lazsim verify`` as a user calls them."""

import csv
import io
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from importlib import resources

import msgspec
import numpy as np
import pytest

from lazsim.output.plots import step as pictures
from lazsim.output.plots import verify as verify_pictures
from lazsim.specs import ModelSpec, ParallelSpec, StepConstants, load_spec
from lazsim.stepmodel.experts import exchange_s
from lazsim.stepmodel.memory import memory_bytes
from lazsim.stepmodel.predict import predict_step
from lazsim.study.verify.measured_remarks import LEFT_OUT
from lazsim.study.verify.measured_runs import MeasuredRun, read_runs
from lazsim.study.verify.orders import NOISE, find_pairs, rank_runs
from lazsim.study.verify.verification import held_out_share, range_of, verify
from tests.conftest import ROOT
from tests.measure_layouts import fastest_rows, kind_of, search_for

LAYOUT = ("--layout", "expert=8", "--layout", "global_batch=256", "--layout", "gradient_bytes=2")

MEASURED = resources.files("lazsim") / "catalog" / "measured" / "training.csv"


@pytest.fixture(scope="module")
def board():
    return verify([str(MEASURED)])


def complete(board):
    """Rows whose inputs are all known."""
    return [row for row in board.predicted_rows if row.settings["inputs"] == "all known"]


def test_a_step_is_told_part_by_part(lazsim):
    status, out, err = lazsim(
        "step", "--model", "qwen3-30b-a3b", "--cluster", "dgx-h100", "--gpus", "16", *LAYOUT, "--json"
    )
    step = json.loads(out)
    assert status == 0
    assert err == ""
    assert step["fits"] is True
    assert sum(step["exposed_s"].values()) == pytest.approx(step["step_s"])
    # 256 sequences of 4096 tokens on 16 GPUs.
    assert step["tokens_per_s_per_gpu"] == pytest.approx(256 * 4096 / step["step_s"] / 16)
    low, high = step["tokens_per_s_per_gpu_range"]
    assert low < step["tokens_per_s_per_gpu"] < high
    assert {"parameters", "gradients", "optimizer", "activations"} <= step["memory_bytes"].keys()
    assert (step["layout"]["data"], step["layout"]["sequence_length"]) == (16, 4096)


def test_a_layout_that_does_not_fit_is_told(lazsim):
    _, out, err = lazsim("step", "--model", "mixtral-8x22b", "--cluster", "dgx-h100", "--gpus", "8", "--layout",
                         "global_batch=64")  # fmt: skip
    assert "the layout does not fit" in err
    assert "--search finds one that does" in err
    assert "memory of the fullest GPU" in out
    assert out.startswith("mixtral-8x22b on 8 GPUs of dgx-h100: does not fit, as it takes ")


def test_what_stands_in_for_measurements_is_told(lazsim, tmp_path):
    text = (resources.files("lazsim") / "catalog" / "models" / "qwen3-30b-a3b.toml").read_text()
    (tmp_path / "long.toml").write_text(text.replace("sequence_length = 4096", "sequence_length = 65536"))
    layout = ("--layout", "pipeline=2", "--layout", "schedule=dualpipe", "--layout", "offloaded=optimizer")
    _, _, err = lazsim("step", "--model", str(tmp_path / "long.toml"), "--cluster", "dgx-h100", "--gpus", "16", *LAYOUT,
                       *layout)  # fmt: skip
    assert "attention was measured up to 16,384 tokens" in err
    assert "states of the optimizer move" in err


def test_kernels_of_another_gpu_are_told_where_a_step_takes_them(lazsim):
    told = "note: {}: times of h100 stand in for those of h200"
    cluster = ("--cluster", "h200x64", "--layout", "expert=64")
    _, _, err = lazsim("step", "--model", "deepseek-v3", *cluster, "--layout", "pipeline=8")
    assert [line for line in err.splitlines() if "stand in" in line] == [told.format("attention_latent")]
    _, _, err = lazsim("step", "--model", "qwen3-30b-a3b", *cluster, "--layout", "dispatcher=deepep")
    assert [line for line in err.splitlines() if "stand in" in line] == [told.format("exchange_deepep")]
    _, _, err = lazsim("step", "--model", "qwen3-30b-a3b", *cluster)
    assert "stand in" not in err


def test_without_a_layout_the_fastest_that_fits_is_taken(lazsim):
    _, out, _ = lazsim("step", "--model", "gpt-oss-20b", "--cluster", "dgx-h100", "--gpus", "8", "--json")
    step = json.loads(out)
    assert step["search"][0]["layout"] == {key: value for key, value in step["layout"].items() if key != "data"}
    assert sum(step["memory_bytes"].values()) < step["memory_of_gpu_bytes"]
    assert step["searched"]["num_fitting"] <= step["searched"]["num_valid"]


def test_a_search_says_which_sizes_it_tried_and_takes_batches_too_small_for_data_parallelism_alone(lazsim):
    place = ("step", "--model", "qwen3-30b-a3b", "--cluster", "dgx-h100", "--gpus", "64")
    status, out, _ = lazsim(*place, "--layout", "global_batch=32", "--search")
    told = "tried powers of two: tensor, pipeline and expert up to 64, parts of a stage up to 8"
    assert (status, told in " ".join(out.split())) == (0, True)
    # A third of 24 GPUs is left over by every power of two.
    status, _, err = lazsim(*place[:-1], "24", "--layout", "global_batch=7", "--search")
    assert (status, "global_batch (7) must be a multiple of" in err) == (2, True)


def test_a_search_chooses_the_stages_of_dualpipe(answered):
    options = ["--layout", "schedule=dualpipe", "--layout", "global_batch=512"]
    found = answered("step", "--model", "qwen3-30b-a3b", "--cluster", "dgx-h100", "--gpus", "32", *options, "--search")
    assert {each["layout"]["schedule"] for each in found["search"]} == {"dualpipe"}
    assert all(each["layout"]["pipeline"] % 2 == 0 for each in found["search"])


def test_a_search_says_that_its_layout_takes_more_memory_than_published_runs(answered):
    for gpus, batch in ((8, 64), (64, 1024)):
        place = ("step", "--model", "qwen3-30b-a3b", "--cluster", "dgx-h100", "--gpus", str(gpus), "--search")
        step = answered(*place, "--layout", f"global_batch={batch}")
        share = sum(step["memory_bytes"].values()) / step["memory_of_gpu_bytes"]
        # As many as the next test counts.
        warning = f"the layout takes {share:.0%} of the memory, without fragments; 6 of 108 published runs take more"
        told = warning in " ".join(step["notes"])
        assert told == (share > 0.88)


def test_few_published_runs_take_as_much_memory_as_a_search_warns_of():
    runs = [run.inputs for run in read_runs() if run.inputs is not None and run.settings["inputs"] == "all known"]
    shares = [sum(memory_bytes(one).values()) / one.gpu.memory_bytes for one in runs]
    assert (len(shares), sum(share > 0.88 for share in shares)) == (108, 6)


def test_the_page_of_steps_has_the_groups_whose_layouts_a_search_is_held_against():
    rows = fastest_rows()
    lines = [line.split(" | ") for line in (ROOT / "docs/measured/steps.md").read_text().splitlines()]
    told = {line[0].removeprefix("| "): line[1:4] for line in lines if len(line) == 6 and line[1].isdigit()}
    groups = Counter(map(kind_of, rows))
    assert {kind: int(some[0]) for kind, some in told.items()} == groups
    # Three of them; the script prints the table of all.
    for run in [run for run in rows if run.id in ("r005", "r006", "r043")]:
        found = search_for(run)
        least, most = re.findall(r"[\d.]+", told[found.kind][2])[:2]
        assert float(least) - 0.005 <= found.speedup <= float(most) + 0.005
        assert found.found_memory <= 0.92


def test_the_page_of_steps_has_its_figures_that_are_no_rows(answered):
    def step_of(model, gpus, *layout):
        options = [word for field in layout for word in ("--layout", field)]
        job = ["--job", model] * (model == "deepseek-v3")
        step = answered("step", "--model", model, "--cluster", "dgx-h100", "--gpus", gpus, *job, *options)
        return step["step_s"], step["exposed_s"]

    text = (ROOT / "docs/measured/steps.md").read_text().partition("## Figures that are no rows")[2]
    for told, overlap in (("exchange alone, share of a step", "false"), ("the same behind another pass", "true")):
        step_s, parts = step_of("deepseek-v3", "1024", f"overlap_expert={overlap}")
        assert f"{told} | {100 * parts['expert_exchange'] / step_s:.0f} % |" in text
    layout = ("expert=16", "global_batch=1024")
    alone_s, beside_s = (
        step_of("qwen3-30b-a3b", "16", *layout, f"overlap_expert={one}")[0] for one in ("false", "true")
    )
    assert f"gain of overlap | {alone_s / beside_s:.2f} times |" in text
    assert f"takes {alone_s:.1f} s without overlap" in text
    _, parts = step_of("qwen3.5-35b-a3b", "16", *layout, "dispatcher=hybridep")
    shown = parts["expert_exchange"], parts["dense_matmul"] + parts["expert_matmul"], parts["idle"]
    assert "exchanges / matmuls / idle | {:.1f} / {:.1f} / {:.1f} s |".format(*shown) in text
    others = sum(parts[name] for name in ("state_space", "memory", "attention", "router"))
    assert f"take {others:.1f} s in the model" in text
    assert f"{parts['state_space']:.1f} of the {others:.1f} s" in text


def test_a_search_says_where_the_host_decides_what_it_finds(lazsim):
    place = ("step", "--model", "qwen3-30b-a3b", "--cluster", "dgx-h100", "--gpus", "16", "--json", "--search")
    eager, graphed = (json.loads(lazsim(*place, "--layout", f"graphs={one}")[1])["notes"] for one in ("none", "full"))
    assert any("the host launches every kernel" in note for note in eager)
    assert not any("the host launches every kernel" in note for note in graphed)


def test_the_layout_found_is_a_job_that_runs_as_it_stands(lazsim, tmp_path):
    place = ("--model", "gpt-oss-20b", "--cluster", "h100x1")
    _, out, _ = lazsim("step", *place, "--json", "--out", str(tmp_path / "found"))
    job = ("--job", str(tmp_path / "found" / "job.toml"))
    _, again, _ = lazsim("step", *place, *job, "--json")
    assert json.loads(again)["step_s"] == json.loads(out)["step_s"]
    assert 'recompute = "' in (text := (tmp_path / "found" / "job.toml").read_text())
    assert "# full, none, selective" in text


def test_a_job_with_a_layout_needs_its_batch_alone_and_gives_the_sequence(lazsim, tmp_path):
    (tmp_path / "job.toml").write_text("[parallel]\nglobal_batch = 64\nexpert = 8\nsequence_length = 2048\n")
    arguments = ("step", "--cluster", "h100x1", "--job", str(tmp_path / "job.toml"), "--json")
    _, out, _ = lazsim(*arguments, "--model", "gpt-oss-20b")
    text = (resources.files("lazsim") / "catalog" / "models" / "gpt-oss-20b.toml").read_text()
    (tmp_path / "model.toml").write_text(text.replace("sequence_length = 4096", "sequence_length = 2048"))
    (tmp_path / "job.toml").write_text("[parallel]\nglobal_batch = 64\nexpert = 8\n")
    _, same, _ = lazsim(*arguments, "--model", str(tmp_path / "model.toml"))
    assert json.loads(out)["step_s"] == json.loads(same)["step_s"]


def test_a_step_is_drawn(lazsim, tmp_path):
    arguments = ("step", "--model", "qwen3-30b-a3b", "--cluster", "dgx-h100", "--gpus", "16", *LAYOUT)
    assert lazsim(*arguments, "--out", str(tmp_path / "one"))[0] == 0
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        ".lazsim.json",
        "job.toml",
        "step.json",
        "step.pdf",
        "step.png",
    ]
    lazsim(*arguments, "--out", str(tmp_path / "two"))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_the_picture_of_a_step_names_what_is_hidden_as_a_whole(lazsim, tmp_path, figures, monkeypatch):
    draw = pictures.step_figure

    def draw_without_exposed_gradients(result):
        exposed_s = {name: seconds for name, seconds in result.time.exposed_s.items() if name != "gradient_exchange"}
        return draw(replace(result, time=replace(result.time, exposed_s=exposed_s)))

    monkeypatch.setattr(pictures, "step_figure", draw_without_exposed_gradients)
    lazsim(
        "step", "--model", "qwen3-30b-a3b", "--cluster", "dgx-h100", "--gpus", "16", *LAYOUT, "--out", tmp_path / "o"
    )
    assert "gradient exchange" in [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "nosuch", "--cluster", "dgx-h100"), "unknown model 'nosuch'"),
        (("--model", "gpt-oss-20b", "--cluster", "rtx3090x10"), "no measured kernels of this GPU"),
        (
            ("--model", "gpt-oss-20b", "--cluster", "dgx-h100", "--gpus", "800000"),
            "--gpus 800000: give at most 131,072, on 16,384 nodes",
        ),
        (("--model", "gpt-oss-20b", "--cluster", "dgx-h100", "--gpus", "12"), "--gpus 12: give a multiple of the 8"),
        (
            ("--model", "gpt-oss-20b", "--cluster", "dgx-h100", "--job", "testbed-a"),
            "testbed-a: has no table [parallel]",
        ),
        (
            ("--model", "gpt-oss-20b", "--cluster", "dgx-h100", "--search", "--layout", "tensor=4"),
            "--layout tensor has no effect beside --search",
        ),
        (("--model", "gpt-oss-20b", "--cluster", "dgx-h100", "--layout", "tensor"), "--layout tensor: give a field"),
        (("--model", "gpt-oss-20b", "--cluster", "dgx-h100", "--layout", "tensor=two"), "tensor"),
        (
            ("--model", "gpt-oss-20b", "--cluster", "dgx-h100", "--layout", "tensor=2", "--layout", "tensor = 4"),
            "--layout tensor = 4: tensor is given twice",
        ),
        (("--model", "gpt-oss-20b", "--cluster", "dgx-h100", "--layout", "tensor=3"), "must divide"),
        (("--model", "gpt-l", "--cluster", "dgx-h100", "--layout", "expert=8"), "no heads of attention"),
    ],
)
def test_bad_input_of_a_step_is_one_line(refused, arguments, message):
    assert message in refused("step", *arguments)


def test_predictions_are_as_near_to_measured_runs_as_the_page_says(board):
    rows = complete(board)
    errors = np.array([row.error for row in rows])
    assert len(rows) > 100
    assert np.median(abs(errors)) < 0.10
    graphs = np.array([row.error for row in rows if row.settings["cuda_graph"] == "full_iteration"])
    assert np.median(abs(graphs)) < 0.08
    assert np.mean(abs(graphs) < 0.2) > 0.9


def test_the_band_of_the_picture_holds_the_rows_that_the_summary_counts_within_20_percent(board, figures):
    verify_pictures.verify_figure(board)
    (band,) = [one for one in figures[0].axes[0].collections if one.get_label() == "within 20 %"]
    measured, predicted = band.get_paths()[0].vertices.T
    assert {round(float(ratio), 6) for ratio in predicted / measured} == {0.8, 1.2}


def test_the_range_of_a_prediction_holds_for_models_and_sources_that_it_was_not_made_from(board):
    rows = complete(board) + board.nearest_rows
    for graphs, stated in load_spec(StepConstants, "training").measured_over_predicted.items():
        found = range_of([row for row in rows if row.settings["graphs"] == graphs])
        assert stated == pytest.approx(found, abs=0.006), graphs
    assert held_out_share(rows, "model_key") > 0.9
    assert held_out_share(rows, "source_family") > 0.9
    # The note on full graphs: a further row of n is neither the least nor the most with a chance of (n - 1) / (n + 1).
    full = [row for row in rows if row.settings["graphs"] == "full"]
    assert (len(full) - 1) / (len(full) + 1) == pytest.approx(8 / 9)
    assert held_out_share(full, "source_family") == pytest.approx(7 / 8, abs=0.06)


def test_layouts_of_a_model_and_cluster_are_ranked_as_measured(board):
    groups = {}
    for row in complete(board):
        groups.setdefault(row.group, []).append(row)
    right = wrong = 0
    for rows in groups.values():
        for index, one in enumerate(rows):
            for other in rows[:index]:
                # Rows nearer than the noise of releases have no order.
                if abs(one.measured / other.measured - 1) > 0.1:
                    agrees = (one.measured > other.measured) == (one.predicted > other.predicted)
                    right, wrong = right + agrees, wrong + (not agrees)
    assert right / (right + wrong) > 0.8


def test_settings_change_throughput_in_the_measured_direction(board):
    assert len(board.pairs) >= 50
    assert np.mean([pair.right for pair in board.pairs]) > 0.7
    # Six predictions are no nearer to one direction than to the other.
    apart = [pair for pair in board.pairs if abs(pair.predicted - 1) > NOISE]
    assert np.mean([pair.right for pair in apart]) > 0.8
    assert {"precision", "dispatcher", "graphs", "exchange", "recompute", "stages"} <= {
        pair.setting for pair in board.pairs
    }


def test_rows_with_settings_of_another_recipe_are_told_apart_by_the_columns_of_the_data(tmp_path):
    rows = {row["row_id"]: row for row in csv.DictReader(io.StringIO(MEASURED.read_text()))}
    some = [dict(rows["r062"], row_id=name, config_match=match, completeness=known) for name, match, known in (
        ("own", "exact", "full"), ("source", "source itself", "full"), ("near", "mismatch mbs:4!=1", "full"),
        ("none", "none", "full"), ("gaps", "mismatch mbs:4!=1", "gaps:mbs"), ("silent", "", ""),
    )]  # fmt: skip
    # Nobody says whether this run computed activations again.
    some.append(dict(some[-1], row_id="left out", recompute=""))
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, some[0])
        writer.writeheader()
        writer.writerows(some)
    result = verify([str(tmp_path / "rows.csv")])
    assert {row.id: row.settings["inputs"] for row in result.rows} == {
        "own": "all known", "source": "all known", "near": "of the nearest recipe", "none": "of the nearest recipe",
        "gaps": "some unknown", "silent": "all known", "left out": "some unknown",
    }  # fmt: skip
    assert result.summary()["complete"]["num_rows"] == 3
    assert result.summary()["nearest_recipe"]["num_rows"] == 2


def test_a_perfect_model_ranks_runs_as_well_as_noise_lets_it():
    def runs(*throughputs: float, **settings: str) -> list[MeasuredRun]:
        known = {"inputs": "all known", "model_key": "m", "system": "s", "source_family": "one", **settings}
        return [
            MeasuredRun(str(number), "", known, {"ep": str(number)}, tokens_per_s, None)
            for number, tokens_per_s in enumerate(throughputs)
        ]

    def ranking(some: list[MeasuredRun], *predicted: float):
        (found,) = rank_runs(some, {run.id: tokens_per_s for run, tokens_per_s in zip(some, predicted, strict=True)})
        return found

    # Each is twice the one before, which no noise turns round; 1 - 6 * sum of squares of (1, 1) / (5 * 24) = 0.9.
    far = ranking(runs(1.0, 2.0, 4.0, 8.0, 16.0), 1.0, 4.0, 2.0, 8.0, 16.0)
    assert (far.spearman, far.perfect, far.perfect_low) == (pytest.approx(0.9), pytest.approx(1.0), pytest.approx(1.0))
    # Nearer than a hundredth of the noise, any order is as likely as another.
    near = ranking(runs(*(1 + 1e-5 * number for number in range(8))), *range(8))
    assert near.spearman == pytest.approx(1.0)
    assert abs(near.perfect) < 0.05
    assert near.perfect_low < -0.5
    # All predicted alike: no order.
    assert ranking(runs(1.0, 2.0, 3.0, 4.0, 5.0), *[1.0] * 5).spearman == 0.0
    # Too few for an order.
    assert not rank_runs(runs(1.0, 2.0, 3.0, 4.0), dict.fromkeys("0123", 1.0))


def test_what_assumptions_weigh_is_told_by_the_step_with_the_least_and_the_most_of_each(answered):
    step = answered(
        "step", "--model", "qwen3-30b-a3b", "--cluster", "gb200-nvl72", "--gpus", "16", "--layout", "expert=16",
        "--layout", "global_batch=512", "--layout", "graphs=full", "--layout", "precision=mxfp8",
    )  # fmt: skip
    weights = {one["name"]: (one["low_change"], one["high_change"]) for one in step["assumptions"]}
    # Matmuls and attention are the work at the rate of the clock, beside sums of gradients and casts: 0.95 of their
    # time is left where no GPU is slower than the others.
    clocked_s = sum(step["exposed_s"][part] for part in ("dense_matmul", "expert_matmul", "attention"))
    whole = (0.95 / 1 - 1) * clocked_s / step["step_s"]
    assert whole < weights["slowest_gpu_rate"][1] < 0.7 * whole
    assert weights["block_weight_gradient_slowdown"][0] < 0 < weights["block_weight_gradient_slowdown"][1]
    # Half as long, and half as long again.
    fixed = 0.5 * step["exposed_s"]["fixed"] / step["step_s"]
    assert weights["fixed_s"] == (pytest.approx(-fixed), pytest.approx(fixed))
    largest = [max(map(abs, each)) for each in weights.values()]
    assert largest == sorted(largest, reverse=True)
    # One graph of all leaves the host nothing to launch one by one.
    assert "host_launch_s" not in weights


def test_pairs_differ_in_one_setting_and_by_more_than_noise():
    def run(name: str, tokens_per_s: float, inputs: str = "all known", **columns: str) -> MeasuredRun:
        row = {"model_key": "m", "system": "s", "precision": "bf16", "cuda_graph": "none", "ep": "8"} | columns
        return MeasuredRun(name, "", {"inputs": inputs, "source_family": "one"}, row, tokens_per_s, None)

    runs = [
        run("plain", 100.0),
        run("graphs", 120.0, cuda_graph="full_iteration"),
        run("eight bits", 130.0, precision="mxfp8"),
        run("both", 150.0, precision="mxfp8", cuda_graph="full_iteration"),
        run("noise", 101.0, ep="16"),
        run("another model", 200.0, model_key="n"),
        run("unknown", 300.0, "some unknown", ep="4"),
    ]
    predicted = {run.id: run.tokens_per_s_per_gpu for run in runs} | {"both": 125.0}
    found = {(pair.faster, pair.slower): (pair.setting, pair.right) for pair in find_pairs(runs, predicted)}
    assert found == {
        ("graphs", "plain"): ("graphs", True),
        ("eight bits", "plain"): ("precision", True),
        ("both", "graphs"): ("precision", True),
        ("both", "eight bits"): ("graphs", False),
    }


def test_noise_leaves_a_pair_of_near_runs_in_doubt():
    # Releases differ by over 4.7 % in a quarter of the groups of runs with the same settings, half of these the other
    # way, and by over 14.4 % in none.
    def run(name: str, source: str, tokens_per_s: float, precision: str) -> MeasuredRun:
        settings = {"inputs": "all known", "source_family": source}
        return MeasuredRun(name, "", settings, {"model_key": "m", "precision": precision}, tokens_per_s, None)

    def perfect(*runs: MeasuredRun) -> float:
        (pair,) = find_pairs(runs, dict.fromkeys((run.id for run in runs), 1.0))
        return pair.perfect

    slow = run("slow", "one", 100.0, "bf16")
    assert perfect(slow, run("near", "one", 104.7, "mxfp8")) == pytest.approx(7 / 8, abs=0.02)
    assert perfect(slow, run("far", "one", 115.0, "mxfp8")) == 1.0
    assert perfect(slow, run("other team", "two", 104.7, "mxfp8")) < 0.8


def test_verify_names_the_pairs_that_are_predicted_the_other_way(lazsim):
    _, out, _ = lazsim("verify", "--only", "gpt_oss_120b", "--json")
    pairs = json.loads(out)["pairs"]
    right, perfect = (sum(pair[name] for pair in pairs) for name in ("right", "perfect"))
    found = json.loads(out)["summary"]["pairs"]
    assert found == {"num_pairs": len(pairs), "num_right": right, "perfect": pytest.approx(perfect)}
    status, out, _ = lazsim("verify", "--only", "gpt_oss_120b")
    assert status == 0
    assert "pairs of runs differ in one setting" in out
    assert "pairs in the other direction" in out


def test_verify_prints_errors_and_exits_by_tolerance(lazsim, answered):
    result = answered("verify", "--only", "grok1")
    assert result["summary"]["num_rows"] >= 18
    row = next(row for row in result["rows"] if row["error"] is not None)
    assert row["error"] == pytest.approx(row["predicted"] / row["measured"] - 1)
    assert {"id", "group", "metric", "predicted", "measured", "error", "skipped"} <= row.keys()
    assert lazsim("verify", "--only", "grok1", "--tolerance", "0.5")[0] == 0
    assert lazsim("verify", "--only", "grok1", "--tolerance", "0.001")[0] == 1


def test_rows_of_a_file_find_models_and_systems_beside_it(lazsim, tmp_path):
    lines = MEASURED.read_text().splitlines()
    line = next(line for line in lines if line.startswith("r043,"))
    (tmp_path / "runs.csv").write_text("\n".join([lines[0], line.replace("qwen3_30b_a3b", "mine")]) + "\n")
    status, out, _ = lazsim("verify", "--rows", str(tmp_path / "runs.csv"), "--json")
    assert "no model 'mine' in the catalogue" in json.loads(out)["rows"][0]["skipped"]
    assert "r043: no model 'mine' in the catalogue" in lazsim("verify", "--rows", str(tmp_path / "runs.csv"))[1]
    columns = {
        "model_key": "mine", "layers_total": 48, "moe_layers": 48, "d_model": 2048, "heads": 32, "kv_heads": 4,
        "head_dim": 128, "experts": 128, "topk": 8, "expert_d_ff": 768, "mats_per_expert": 3, "vocab": 151936,
        "qk_norm": 1,
    }  # fmt: skip
    text = ",".join(columns) + "\n" + ",".join(map(str, columns.values())) + "\n"
    (tmp_path / "models.csv").write_text(text)
    status, out, _ = lazsim("verify", "--rows", str(tmp_path / "runs.csv"), "--json")
    mine = json.loads(out)["rows"][0]
    catalogued = json.loads(lazsim("verify", "--only", "r043", "--json")[1])["rows"][0]
    assert status == 0
    assert mine["predicted"] == pytest.approx(catalogued["predicted"], rel=1e-6)
    columns["attn_type"] = "compressed sparse MQA (CSA/HCA)"
    (tmp_path / "models.csv").write_text(f"{','.join(columns)}\n{','.join(map(str, columns.values()))}\n")
    (mine,) = json.loads(lazsim("verify", "--rows", str(tmp_path / "runs.csv"), "--json")[1])["rows"]
    assert mine["predicted"] is None
    assert mine["skipped"] == (
        "attn_type 'compressed sparse MQA (CSA/HCA)' of mine is not modelled; expected one of MHA, GQA, MQA, MLA"
    )


def test_rows_name_models_by_files_beside_them_and_systems_by_their_size(tmp_path):
    # The public numbers of Qwen3-30B-A3B, whose TOML file the catalogue has.
    config = {
        "model_type": "qwen3_moe", "hidden_size": 2048, "moe_intermediate_size": 768, "intermediate_size": 6144,
        "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
        "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151936, "tie_word_embeddings": False,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    rows = [
        ("own", "config.json", "h200x64"), ("known", "qwen3_30b_a3b", "h200x64"), ("sized", "qwen3_30b_a3b", "H200x2"),
        ("lost", "other.json", "h200x64"), ("wrong", "qwen3_30b_a3b", "h300x2"),
    ]  # fmt: skip
    (tmp_path / "rows.csv").write_text(
        "row_id,model_key,system,gpus,gbs,mbs,seq,tp,pp,ep,tok_s_gpu\n"
        + "".join(f"{','.join(row)},16,128,1,4096,1,1,8,9000\n" for row in rows)
    )
    own, known, sized, lost, wrong = read_runs(str(tmp_path / "rows.csv"))
    assert {run.inputs.model.total_params for run in (own, known, sized)} == {known.inputs.model.total_params}
    assert {predict_step(run.inputs).step_s for run in (own, known, sized)} == {predict_step(known.inputs).step_s}
    assert f"{tmp_path / 'other.json'}: " in lost.skipped
    assert wrong.skipped == "no system 'h300x2' in the catalogue or beside the file: did you mean 'h200x32'?"


def test_a_row_that_is_a_hundred_times_slower_than_its_prediction_asks_for_its_units(lazsim, tmp_path):
    # 256 sequences of 4,096 tokens on 64 GPUs at 5,000 tokens/s each take 3.28 s.
    settings = "mixtral-8x7b,dgx-h100,64,256,1,4096,1,4,8"
    (tmp_path / "rows.csv").write_text(
        "row_id,step_s,model_key,system,gpus,gbs,mbs,seq,tp,pp,ep\n"
        + "".join(f"{row},{step_s},{settings}\n" for row, step_s in (("in_s", 3.28), ("in_ms", 3280)))
    )
    err = lazsim("verify", "--rows", str(tmp_path / "rows.csv"))[2]
    assert "check the units: tok_s_gpu in tokens/s of one GPU, step_s in s (in_ms)" in err


def test_linear_attention_of_a_row_is_that_of_the_model_in_the_catalogue_or_refused(tmp_path):
    lines = MEASURED.read_text().splitlines()
    line = next(line for line in lines if line.startswith("r193,")).replace(",24,", ",8,")
    columns = {
        "layers_total": 48, "attn_layers": 12, "moe_layers": 48, "mamba_or_linear_layers": 36, "d_model": 2048,
        "heads": 16, "kv_heads": 2, "head_dim": 256, "experts": 512, "topk": 10, "expert_d_ff": 512,
        "shared_experts": 1, "shared_expert_ff_total": 512, "vocab": 151936, "qk_norm": 1,
    }  # fmt: skip

    def run_of(name: str) -> MeasuredRun:
        (tmp_path / "runs.csv").write_text(f"{lines[0]}\n{line.replace('qwen3_30b_a3b', name)}\n")
        table = {"model_key": name, **columns}
        (tmp_path / "models.csv").write_text(f"{','.join(table)}\n{','.join(map(str, table.values()))}\n")
        (run,) = read_runs(str(tmp_path / "runs.csv"))
        return run

    model, catalogued = run_of("qwen3_next_80b_a3b").inputs.model, load_spec(ModelSpec, "qwen3-next-80b-a3b")
    assert model == msgspec.structs.replace(catalogued, name=model.name)
    assert run_of("mine").skipped.startswith("the linear attention of mine is not modelled: no mamba_heads")


def test_a_model_beside_a_table_has_what_columns_lack_of_the_catalogues_with_the_begin_of_its_name(tmp_path):
    # GPT-OSS-20B with the vocabulary of MLPerf.
    columns = {
        "layers_total": 24, "moe_layers": 24, "d_model": 2880, "heads": 64, "kv_heads": 8, "head_dim": 64,
        "experts": 32, "topk": 4, "expert_d_ff": 2880, "vocab": 128256, "sliding_window": 128, "sliding_layers": 12,
    }  # fmt: skip
    told(tmp_path, "precision", "bf16").write_text(f"{PLAIN}\n{MINE.replace('qwen3_30b_a3b', 'GPT_OSS_20B_MLPerf')}\n")
    (tmp_path / "models.csv").write_text(
        f"model_key,{','.join(columns)}\nGPT_OSS_20B_MLPerf,{','.join(map(str, columns.values()))}\n"
    )
    (run,) = read_runs(str(tmp_path / "rows.csv"))
    model, catalogued = run.inputs.model, load_spec(ModelSpec, "gpt-oss-20b")
    changed = {"name": model.name, "vocab_size": 128256, "sequence_length": 8192, "d_ff_shared": model.d_ff_shared}
    assert model == msgspec.structs.replace(catalogued, **changed)
    assert (
        "unknown, and taken to be",
        "what models.csv does not tell of GPT_OSS_20B_MLPerf as gpt-oss-20b has it",
    ) in (run.remarks)
    # Another size is another model, though its name begins alike.
    for path in tmp_path.glob("*.csv"):
        path.write_text(path.read_text().replace("GPT_OSS_20B_MLPerf", "GPT_OSS_20B8"))
    (other,) = read_runs(str(tmp_path / "rows.csv"))
    assert not other.inputs.model.attention.sinks
    assert not any("models.csv" in text for _, text in other.remarks)


def test_a_text_that_no_row_has_is_refused(refused):
    assert "--only nosuch: none of the 333 rows has this text" in refused("verify", "--only", "nosuch")


def test_a_table_without_a_needed_column_is_refused(refused, tmp_path):
    (tmp_path / "runs.csv").write_text("row_id,model_key\n1,a\n")
    assert "has no column system" in refused("verify", "--rows", str(tmp_path / "runs.csv"))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("gpus", "-4", "gpus '-4': give a number from 0 to 1e12"),
        ("gpus", "2.5", "gpus 2.5: give a whole number"),
        ("gpus", "12", "gpus 12: give a multiple of the 8 GPUs of a node"),
        ("gpus", "unknown", "gpus is unknown; give 1 or more"),
        ("gpus", "0", "gpus is 0; give 1 or more"),
        ("mbs", "two", "mbs: 'two' is no number"),
        ("gpus", "1,024", "gpus: '1,024' has a separator of thousands; write 1024"),
        ("tok_s_gpu", "-5", "tok_s_gpu '-5': give a number"),
        ("tok_s_gpu", "", "no measured throughput"),
        ("recompute", "some", "recompute 'some' is none of selective, full"),
        ("cuda_graph", "whole", "cuda_graph 'whole' is none of full_iteration, full, transformer_engine"),
        ("a2a_overlap", "partly", "a2a_overlap 'partly' is none of 0, 1"),
        ("sharding", "zero2", "sharding 'zero2' is none of zero1_dist_optimizer"),
        ("optimizer", "sgd", "optimizer 'sgd' is none of adam"),
        ("token_routing", "even", "token_routing 'even': 'even' is none of balanced"),
        ("token_routing", "router", "token_routing 'router' has none of balanced"),
        ("token_routing", "drop_free", "token_routing 'drop_free': 'free' is none of balanced"),
        ("token_routing", "no drop", "token_routing 'no drop': 'no' is none of balanced"),
        ("cuda_graph_scope", "flash_attn", "cuda_graph_scope 'flash_attn': 'flash_attn' is none of attn"),
        ("distributed_optimizer", "maybe", "distributed_optimizer 'maybe' is none of 0, 1"),
        ("activation_offload", "all", "activation_offload 'all': 'all' is none of optimizer"),
        ("vp", "DualPipe", "`layout`: dualpipe needs an even number of stages without virtual_stages, not 1"),
        ("tok_s_gpu", "26000000", "times the peak of the GPU: give tokens/s of one GPU"),
    ],
)
def test_a_row_says_which_cell_cannot_be_read(tmp_path, column, value, message):
    row = {**next(row for row in read_runs() if row.id == "r043").columns, column: value}
    (tmp_path / "runs.csv").write_text(",".join(row) + "\n" + ",".join(f'"{cell}"' for cell in row.values()))
    skipped = verify([str(tmp_path / "runs.csv")]).rows[0].skipped
    assert message in skipped
    assert len(skipped) < 150


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda head, line: [head, line, line], "line 3: a second row with the row_id r043"),
        (lambda head, line: [head, line.replace("r043", " ", 1)], "line 2: row_id is empty"),
        (lambda head, line: [head, line + ",more"], "line 2: 39 cells; give one for each of the 38 columns"),
        (lambda head, line: [head, "r043,short"], "line 2: 2 cells"),
        (lambda head, line: [head], "has no rows"),
        (lambda head, line: [head.replace(",mbs,", ",gbs,"), line], "has two columns gbs"),
        (lambda head, line: [head.replace("precision", "precission"), line], "column precission, which is not read"),
        (lambda head, line: [head.replace(",vp,", ",VP,"), line], "column VP, which is not read; name it vp"),
        (lambda head, line: [head + ",dp_replicates", line + ",2"], "which is not read; name it dp_replicate"),
        (
            lambda head, line: [head.replace(",tok_s_gpu,", ",tok_s_gpu (1/s),"), line],
            "column tok_s_gpu (1/s), which is not read; name it tok_s_gpu",
        ),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_in_a_line(refused, tmp_path, change, message):
    head, *lines = MEASURED.read_text().splitlines()
    line = next(line for line in lines if line.startswith("r043,"))
    (tmp_path / "runs.csv").write_text("\n".join(change(head, line)) + "\n")
    assert message in refused("verify", "--rows", tmp_path / "runs.csv")


@pytest.mark.parametrize(
    ("cells", "change"),
    [
        ("selective,mla_up_proj+mlp,,1,,,", {"recomputed": ("latent_up", "dense_block")}),
        ("selective,moe_act+moe,,1,,,", "recompute_modules 'moe_act+moe': 'moe' is none of mla_up_proj, core_attn"),
        ("selective,selective AC,,1,,,", {}),
        ("selective,layernorm (not moe_act),,1,,,", {"recomputed": ("norm",)}),
        ("selective,mlp/layernorm (adds moe_act),,1,,,", {"recomputed": ("norm", "expert_activation", "dense_block")}),
        (",,expert_fc1+paged_stash,1,,,", {"offloaded": ("expert_input",)}),
        (",,,0,,,", {}),
        (",,,1,zero3,,", {"sharding": "full"}),
        (",,,1,none (Muon),,", {"sharding": "none"}),
        (",,,1,,token_drop,1.25 (of 8)", {"capacity_factor": 1.25}),
        (",,,1,,capacity_padded_drop,1.0", {"capacity_factor": 1.0, "pad_to_capacity": True}),
        (",,,1,,token_drop,1.0 (Pad to capacity)", {"capacity_factor": 1.0, "pad_to_capacity": True}),
        (",,,1,,balanced_dropless,1.25", {}),
        (",,,1,,balance loss,", {"routing": "learned"}),
        (",,,1,,token_drop,1.2.3", "capacity_factor: '1.2.3' is no number"),
        (",,,DualPipe,,,", "dualpipe needs an even number of stages without virtual_stages, not 1"),
        (",,,DualPipeV,,,", "dualpipe needs an even number of stages without virtual_stages, not 1"),
        (",,,ZBV,,,", "vp: 'zbv' is no number"),
    ],
)  # fmt: skip
def test_words_of_a_row_are_settings_of_a_layout_or_refused(tmp_path, cells, change):
    table = tmp_path / "rows.csv"
    head = "row_id,model_key,system,gpus,gbs,mbs,seq,tp,pp,ep,tok_s_gpu"
    texts = "recompute,recompute_modules,activation_offload,vp,sharding,token_routing,capacity_factor"
    table.write_text(f"{head},{texts}\nmine,qwen3_30b_a3b,dgx-b200,8,64,1,8192,1,1,8,19487,{cells}\n")
    (run,) = read_runs(str(table))
    if isinstance(change, str):
        assert change in run.skipped
    else:
        plain = ParallelSpec(global_batch=64, expert=8)
        if "recomputed" in change:
            change = {"recompute": "selective", **change}
        assert run.inputs.parallel == msgspec.structs.replace(plain, **change)


PLAIN = "row_id,model_key,system,gpus,gbs,mbs,seq,tp,pp,ep,tok_s_gpu"
MINE = "mine,qwen3_30b_a3b,dgx-h100,16,64,1,8192,2,1,8,9000"


def told(tmp_path, columns, cells):
    table = tmp_path / "rows.csv"
    table.write_text(f"{PLAIN},{columns}\n{MINE},{cells}\n")
    return table


def test_words_of_a_row_are_read_in_any_case_and_flags_in_any_word(tmp_path):
    columns = "precision,dispatcher,recompute,recompute_modules,cuda_graph,a2a_overlap,grad_reduce_overlap,pp_layout"
    cells = [
        "fp8_sc,deepep,selective,mlp+moe_act,full_iteration,1,0,",
        " FP8_SC ,DeepEP,Selective,MOE_ACT+MLP,Full_Iteration,Yes,no,NaN",
        "fp8-sc,Deep-EP,selective,moe-act & mlp,full,on,off,unknown",
    ]
    plain, *others = (read_runs(str(told(tmp_path, columns, one)))[0] for one in cells)
    assert plain.inputs is not None
    for other in others:
        assert (other.inputs.parallel, other.settings) == (plain.inputs.parallel, plain.settings)
        # Pairs differ in columns: rows that say the same differ in none.
        words = [
            {name: run.columns[name] for name in columns.split(",") if name != "pp_layout"} for run in (plain, other)
        ]
        assert words[0] == words[1]


@pytest.mark.parametrize(
    ("column", "one", "other"),
    [
        ("precision", "bf16", "bfloat16"),
        ("sharding", "ZeRO-1", "zero1_dist_optimizer"),
        ("cuda_graph", "partial", "transformer engine"),
    ],
)
def test_synonyms_are_one_word(tmp_path, column, one, other):
    runs = [read_runs(str(told(tmp_path, column, cell)))[0] for cell in (one, other)]
    assert runs[0].columns == runs[1].columns


def test_whole_numbers_may_have_the_fraction_that_tables_with_empty_cells_give_them(tmp_path):
    table = told(tmp_path, "vp,a2a_overlap", "1,1")
    (plain,) = read_runs(str(table))
    table.write_text(
        f"{PLAIN},vp,a2a_overlap\nmine,qwen3_30b_a3b,dgx-h100,16.0,64.0,1.0,8192.0,2.0,1.0,8.0,9000,1.0,1.0\n"
    )
    (run,) = read_runs(str(table))
    assert (run.inputs.parallel, run.settings) == (plain.inputs.parallel, plain.settings)


def test_a_row_names_the_schedule_of_deepseek_v3(tmp_path):
    table = told(tmp_path, "vp", "DualPipe")
    table.write_text(table.read_text().replace(",2,1,8,9000", ",1,4,4,9000"))
    (run,) = read_runs(str(table))
    # 4 stages leave 4 data-parallel ranks of 16 GPUs, each with 16 micro-batches.
    assert (run.inputs.parallel.schedule, run.inputs.num_micro_batches) == ("dualpipe", 16)


@pytest.mark.parametrize("name", ["MEGATRON-BRIDGE", "megatron bridge 26.08"])
def test_the_recipes_of_a_source_are_known_in_any_spelling(tmp_path, name):
    # The recipes of Megatron-Bridge reduce gradients in 16 bits.
    (run,) = read_runs(str(told(tmp_path, "source_family", name)))
    assert run.inputs.parallel.gradient_bytes == 2


def test_a_source_that_is_not_known_is_named(tmp_path):
    (run,) = read_runs(str(told(tmp_path, "source_family", "Megatron-Brigde")))
    assert ("not read", "source_family Megatron-Brigde, which is none of measured/sources.toml") in run.remarks
    assert not [text for run in read_runs() for _, text in run.remarks if "source_family" in text]


@pytest.mark.parametrize(("optimizer", "width"), [("adam", 2), ("muon", 4)])
def test_the_recipe_of_deepseek_v3_has_16_bits_for_the_moments_of_adam_alone(tmp_path, optimizer, width):
    # ``deepseek_v3.py`` of Megatron-Bridge 0.3.1; Megatron has no such moments of other optimizers.
    table = told(tmp_path, "source_family,optimizer", f"Megatron-Bridge,{optimizer}")
    table.write_text(table.read_text().replace("qwen3_30b_a3b", "deepseek_v3"))
    (run,) = read_runs(str(table))
    assert run.inputs.parallel.moment_bytes == width


def test_settings_that_a_row_leaves_out_are_told_with_what_stands_for_them(tmp_path):
    notes = verify([str(told(tmp_path, "precision,cuda_graph", "bf16,none"))]).notes
    assert (
        "left out, and taken to be: recompute none, dispatcher alltoall, cp 1, etp 1, sharding zero1, optimizer adam, "
        "token_routing balanced, a2a_overlap 0, grad_reduce_overlap 1, param_gather_overlap 1, tp_comm_overlap 0, "
        "source_family of no known recipes (mine)"
    ) in notes


@pytest.mark.parametrize(
    ("micro_batch", "cells", "recompute", "remark"),
    [
        (1, "unknown,,zero1", "none", "recompute none"),
        (8, "none,,zero1", "none", ""),
        (8, "unknown,,zero1", "full", "recompute full"),
        (8, ",,fsdp2", "full", "recompute full"),
        (8, "selective,selective AC,fsdp2", "full", "predicted as full"),
    ],
)  # fmt: skip
def test_a_row_that_says_nothing_of_recomputation_has_the_least_that_fits_into_memory(
    tmp_path, micro_batch, cells, recompute, remark
):
    # The shape of a published run of torchtitan, which recomputes.
    mine = f"mine,qwen3_30b_a3b,dgx-b200,8,64,{micro_batch},8192,1,1,8,19487"
    table = tmp_path / "rows.csv"
    table.write_text(f"{PLAIN},recompute,recompute_modules,sharding\n{mine},{cells}\n")
    (run,) = read_runs(str(table))
    assert run.inputs.parallel.recompute == recompute
    assert run.inputs.parallel.recompute_stops_early == (recompute == "full" and "fsdp2" in cells)
    assert remark in " ".join(text for _, text in run.remarks)


def test_a_row_without_a_micro_batch_has_the_fastest_that_fits_and_is_counted_apart(lazsim, tmp_path):
    # 64 sequences on 8 data-parallel ranks: up to 8 of them at once, and 16 no longer divide the batch.
    names = {"1": "one", "2": "two", "4": "four", "8": "eight", "unknown": "apart", "": "silent"}
    mine = "{},qwen3_30b_a3b,dgx-b200,8,64,{},8192,1,1,8,{}"
    rows = [mine.format(name, size, 1000) for size, name in names.items()]
    (tmp_path / "rows.csv").write_text("\n".join([f"{PLAIN},recompute", *(f"{row},unknown" for row in rows)]))
    result = verify([str(tmp_path / "rows.csv")])
    told = {row.id: row.predicted for row in result.predicted_rows}
    assert told.keys() == {"one", "two", "four", "eight"}
    for row in result.apart_rows:
        assert (row.predicted, row.slowest) == (max(told.values()), min(told.values()))
    assert result.summary()["apart"]["num_rows"] == 2
    assert result.summary()["num_rows"] == 4
    assert all(row["slowest"] is None or row["id"] in ("apart", "silent") for row in result.to_json()["rows"])
    (note,) = (note for note in result.notes if note.startswith("not told or not modelled"))
    assert "the fastest that fits, before" in note
    assert "(apart, silent)" in note
    _, out, _ = lazsim("verify", "--rows", str(tmp_path / "rows.csv"), "--only", "silent")
    assert "counted apart: not all is told or modelled" in out
    assert "no row has a prediction" not in out


@pytest.mark.parametrize(("number", "micro_batch", "inputs"), [("4", 2, "some unknown"), ("3", 1, "counted apart")])
def test_a_number_of_micro_batches_tells_their_size(tmp_path, number, micro_batch, inputs):
    # 64 sequences on 8 data-parallel ranks, 8 each: 4 micro-batches have 2, and 3 do not divide them.
    columns = f"{PLAIN},recompute,microbatches_per_step"
    (tmp_path / "rows.csv").write_text(f"{columns}\n{MINE.replace(',64,1,', ',64,,')},none,{number}\n")
    (run,) = read_runs(str(tmp_path / "rows.csv"))
    assert run.settings["inputs"] == inputs
    assert run.inputs.parallel.micro_batch == micro_batch
    unfit = [text for kind, text in run.remarks if kind == "not read"]
    assert unfit == ["microbatches_per_step 3, where the layout has 8"] * (number == "3")


def test_a_row_without_a_micro_batch_that_fits_has_the_smallest_and_says_that_none_fits(lazsim, tmp_path):
    # 671e9 parameters on 16 GPUs of 80 GB: weights of 16 bits alone are 84 GB each.
    row = MINE.replace("qwen3_30b_a3b", "deepseek-v3").replace(",64,1,", ",64,,").replace("9000", "90")
    (tmp_path / "rows.csv").write_text(f"{PLAIN},recompute\n{row},none\n")
    status, out, notes = lazsim("verify", "--rows", str(tmp_path / "rows.csv"), "--tolerance", "1e6")
    assert status == 1
    assert "every prediction is counted apart, and none held to a tolerance" in out
    assert "mbs as 1, though none fits (mine)" in notes
    assert "the fastest that fits (mine)" not in notes


def test_rows_counted_apart_have_hollow_marks_and_say_so_in_json(tmp_path, figures):
    rows = [MINE.replace("mine", name).replace(",64,1,", f",64,{size},") for name, size in (("one", "1"), ("open", ""))]
    (tmp_path / "rows.csv").write_text("\n".join([f"{PLAIN},recompute", *(f"{row},none" for row in rows)]))
    result = verify([str(tmp_path / "rows.csv")])
    assert {row["id"]: row["inputs"] for row in result.to_json()["rows"]} == {
        "one": "some unknown", "open": "counted apart",
    }  # fmt: skip
    verify_pictures.verify_figure(result)
    styles = {line.get_label(): line.get_fillstyle() for line in figures[0].axes[0].lines if line.get_linewidth() == 0}
    assert styles == {"qwen3-30b-a3b": "full", "qwen3-30b-a3b, apart": "none"}


def test_a_micro_batch_that_does_not_fit_into_memory_is_not_taken(tmp_path):
    rows = [
        MINE.replace("mine", name).replace(",64,1,", f",256,{size},")
        for name, size in zip("ab", ("8", ""), strict=True)
    ]
    (tmp_path / "rows.csv").write_text("\n".join([f"{PLAIN},recompute", *(f"{row},none" for row in rows)]))
    large, chosen = read_runs(str(tmp_path / "rows.csv"))
    assert "more than the memory" in " ".join(kind for kind, _ in large.remarks)
    assert "more than the memory" not in " ".join(kind for kind, _ in chosen.remarks)
    assert chosen.inputs.parallel.micro_batch < 8


@pytest.mark.parametrize(
    ("precision", "recipe", "expected", "is_apart"),
    [
        ("fp8", "", "fp8", True),
        ("FP8", "hybrid", "fp8", True),
        ("float8 rowwise", "", "fp8", True),
        ("fp8", "fp8 delayed scaling", "fp8", False),
        ("fp8", "per-tensor", "fp8", False),
        ("float8", "tensorwise", "fp8", False),
        ("fp8", "blockwise 1x128", "fp8_block", False),
        ("FP8-SC", "", "fp8_block", False),
        ("fp8", "MXFP8BlockScaling", "mxfp8", False),
        ("FP8-MX", "", "mxfp8", False),
        ("FP8_CS", "", "fp8", False),
        ("FP8-DS", "delayed", "fp8", False),
        ("fp8 (attention in bf16)", "", "fp8", True),
        ("fp8", "delayed and blockwise", "fp8", True),
        ("fp8", "tensorwise; no block scaling", "fp8", True),
        ("fp8", "MXFP8 of 1x32 blocks", "mxfp8", False),
        ("mxfp8_grouped_only", "mxfp8 on grouped GEMM only", "mxfp8", True),
        ("MXFP8 (1x32)", "", "mxfp8", False),
        ("unknown", "mxfp8 (1x32 E8M0)", "mxfp8", False),
        ("", "mxfp8; attention in bf16", "bf16", False),
        ("bfloat16", "", "bf16", False),
    ],
)
def test_eight_bits_have_the_scales_that_a_row_tells_or_those_of_tensors_and_are_counted_apart(
    tmp_path, precision, recipe, expected, is_apart
):
    table = told(tmp_path, "precision,precision_recipe", f"{precision},{recipe}")
    table.write_text(table.read_text().replace("dgx-h100", "dgx-b200"))
    (run,) = read_runs(str(table))
    assert run.inputs.parallel.precision == expected
    assert (run.settings["inputs"] == "counted apart") == is_apart


@pytest.mark.parametrize(
    ("column", "cell", "field", "value"),
    [
        ("sharding", "HSDP", "sharding", "full"),
        ("sharding", "hybrid_shard", "sharding", "full"),
        ("sharding", "fsdp in-rack + replicas over 2 racks", "sharding", "full"),
        ("vp", "DualPipeV", "schedule", "dualpipe"),
        ("sharding", "EP64", "sharding", "full"),
        ("dispatcher", "fused (all-gather)", "dispatcher", "all_to_all"),
        ("status", "known_regression", "expert", 4),
    ],
)
def test_what_is_not_modelled_is_predicted_as_the_nearest_and_told(tmp_path, column, cell, field, value):
    table = told(tmp_path, column, cell)
    table.write_text(table.read_text().replace(",2,1,8,9000", ",1,4,4,9000"))
    result = verify([str(table)])
    (run,) = read_runs(str(table))
    assert getattr(run.inputs.parallel, field) == value
    assert not result.predicted_rows
    assert any(f"{column} {cell.lower()!r} as" in note for note in result.notes)


def test_a_row_tells_of_replicas_and_of_parameters_that_stay_gathered(tmp_path):
    table = told(tmp_path, "sharding,dp_replicate", "HSDP (no reshard after fwd),2")
    table.write_text(table.read_text().replace(",2,1,8,9000", ",1,1,8,9000"))
    (run,) = read_runs(str(table))
    parallel = run.inputs.parallel
    assert (parallel.sharding, parallel.data_replicate, parallel.reshard_after_forward) == ("full", 2, False)
    assert run.settings["inputs"] != "counted apart"
    assert not any(kind in ("not read", "not told") for kind, _ in run.remarks)
    rows = {run.id: run.inputs.parallel for run in read_runs() if run.inputs is not None}
    # The published run names it; the others have the default of their framework, and torchtitan's frees parameters.
    assert [rows[name].reshard_after_forward for name in ("r300", "r302", "r417")] == [False, False, True]


def test_heads_of_ulysses_are_a_context_whose_ranks_exchange_heads(tmp_path):
    # 16 GPUs in stages of 8 that share sequences leave one data-parallel rank of two stages.
    table = told(tmp_path, "sequence_parallel,dp", "Ulysses SP8 attention,1")
    table.write_text(table.read_text().replace(",2,1,8,9000", ",1,2,8,9000"))
    (run,) = read_runs(str(table))
    assert (run.inputs.parallel.context, run.inputs.parallel.context_exchange) == (8, "all_to_all")
    assert not any(kind == "not read" for kind, _ in run.remarks)


def test_graphs_of_attention_hold_gated_delta_nets_which_stand_in_its_place(tmp_path):
    table = told(tmp_path, "cuda_graph,cuda_graph_scope", "transformer_engine,attn+moe_router+moe_preprocess")
    table.write_text(table.read_text().replace("qwen3_30b_a3b", "qwen3_next_80b_a3b"))
    (run,) = read_runs(str(table))
    assert run.inputs is not None
    assert not any(kind == "not read" for kind, _ in run.remarks)


def test_the_time_of_a_step_tells_the_tokens_per_second_where_no_column_does(tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text(f"{PLAIN.replace('tok_s_gpu', 'step_s')}\n{MINE.replace('9000', '3.2')}\n")
    (row,) = verify([str(table)]).rows
    assert row.measured == 64 * 8192 / 3.2 / 16


@pytest.mark.parametrize(("count", "giga", "whose"), [("", 27.91, "as lazsim counts"), (",30", 30, "as reported")])
def test_operations_a_second_tell_the_tokens_per_second_by_the_count_of_the_source_or_else_of_the_model(
    tmp_path, count, giga, whose
):
    table = tmp_path / "rows.csv"
    head = PLAIN.replace("tok_s_gpu", "reported_tflops_gpu") + ",flops_per_tok_reported_G" * bool(count)
    table.write_text(f"{head}\n{MINE.replace('9000', '279.1')}{count}\n")
    result = verify([str(table)])
    # A published count of this model at this length: flops_per_tok_calc_G of PithTrain's row.
    assert result.rows[0].measured == pytest.approx(279.1e12 / (giga * 1e9), rel=1e-3)
    told = f"tok_s_gpu of TFLOP/s by {giga} GFLOP a token, {whose} (mine)"
    assert any(told in note for note in result.notes)


def test_words_in_brackets_tell_more_of_a_setting_and_programs_of_xla_need_no_launches(tmp_path):
    (run,) = read_runs(str(told(tmp_path, "dispatcher,cuda_graph", "alltoall (fixed capacity),n/a (XLA)")))
    assert (run.inputs.parallel.dispatcher, run.inputs.parallel.graphs) == ("all_to_all", "full")


@pytest.mark.parametrize(
    ("columns", "cells", "message"),
    [
        ("gpu", "A100", "gpu 'A100', and system 'dgx-h100' has h100"),
        ("gpu", "NVIDIA GH200 480GB", "gpu 'NVIDIA GH200 480GB', and system 'dgx-h100' has h100"),
        ("gpus_per_node", "4", "gpus_per_node 4, and system 'dgx-h100' has 8"),
        ("nvlink_domain", "72", "nvlink_domain 72, and system 'dgx-h100' has 8"),
        ("recompute,recompute_modules", "none,mlp+moe_act", "recompute 'none', and recompute_modules 'moe_act+mlp'"),
        ("sharding,distributed_optimizer", "none,1", "sharding 'none', and distributed_optimizer 1"),
        ("sharding,distributed_optimizer", "zero1,0", "sharding 'zero1', and distributed_optimizer 0"),
    ],
)
def test_a_row_that_contradicts_itself_is_not_predicted_and_says_why(lazsim, tmp_path, columns, cells, message):
    _, out, _ = lazsim("verify", "--rows", str(told(tmp_path, columns, cells)), "--json")
    (row,) = json.loads(out)["rows"]
    assert (row["id"], row["predicted"]) == ("mine", None)
    assert row["skipped"].startswith(message)


@pytest.mark.parametrize(
    ("columns", "cells", "remark"),
    [
        ("gpu", "NVIDIA H100 80GB HBM3", None),
        ("gpu", "h100-sxm5", None),
        ("gpu", "Hopper", None),
        ("gpus_per_node,nvlink_domain,dp", "8,8,8", None),
        ("precision,precision_recipe", "fp8_sc,fp8 blockwise 1x128/128x128", None),
        ("precision,precision_recipe", "bf16,mxfp8 (1x32)", "not read: precision_recipe 'mxfp8 (1x32)'"),
        ("precision,precision_recipe", "fp8_cs,fp8 blockwise", "not read: precision_recipe 'fp8 blockwise' beside"),
        ("precision,precision_recipe", "fp8_sc,fp8 per-tensor current scaling", "not read: precision_recipe 'fp8 per"),
        ("precision,precision_recipe", "fp8_ds,fp8 hybrid delayed scaling", None),
        ("precision,precision_recipe", "fp8_ds,hybrid", "not read: precision_recipe 'hybrid' beside precision fp8_ds"),
        ("precision,precision_recipe", "fp8_cs,Float8CurrentScaling on tensor cores", None),
        ("step_s", "3.64", None),  # 64 * 8192 / (9000 * 16) = 3.641 s
        ("step_s", "7.3", "not read: step_s 7.3, where tok_s_gpu gives 3.641 s (mine)"),
        ("dp", "2", "not read: dp 2, where the layout has 8 (mine)"),
        ("microbatches_per_step", "4", "not read: microbatches_per_step 4, where the layout has 8 (mine)"),
        ("sequence_parallel", "0", "not read: sequence_parallel 0, predicted as 1 (mine)"),
        ("vp", "3", "not read: vp 3 with pp 1 (mine)"),
        ("a2a_overlap,delay_wgrad", "1,1", "not read: delay_wgrad 1 (mine)"),
        ("token_routing,capacity_factor", "balanced_dropless,1.25", "not read: capacity_factor 1.25 with a"),
        ("status", "repeat", "not read: status repeat, which counts as any other row (mine)"),
        ("token_routing,capacity_factor", "balanced_dropless,inf", "not read: capacity_factor inf with a"),
        ("token_routing,capacity_factor", "balanced_dropless,rank buffer 1.5 (dropless)", None),
        ("recompute", "unknown", "unknown, and taken to be: recompute none (mine)"),
        ("dispatcher", "none", "unknown, and taken to be: dispatcher alltoall (mine)"),
        ("optimizer", "n/a", "unknown, and taken to be: optimizer adam (mine)"),
        ("cuda_graph,a2a_overlap,sharding,recompute", "n/a,n/a,none,none", None),
        ("cuda_graph_scope", "attn", "not read: cuda_graph_scope attn without cuda_graph (mine)"),
        ("cuda_graph,cuda_graph_scope", "transformer_engine,attn+mamba+moe_router+moe_preprocess", None),
        (
            "cuda_graph,cuda_graph_scope", "transformer_engine,mlp",
            "not read: cuda_graph_scope mlp, predicted as moe_router+moe_preprocess (mine)",
        ),
        ("recompute,recompute_modules", "full,block", None),
        ("recompute,recompute_modules", "full,block 4", "not read: recompute_modules block 4 with recompute full"),
        ("recompute,recompute_modules", "selective,layernorm (not mlp)", "not read: words in brackets of recomp"),
        ("token_routing,capacity_factor", "token_drop,1.0", None),
        ("token_routing,capacity_factor", "token_drop,1.0 (of 8)", "not read: words in brackets of capacity_fac"),
        ("token_routing", "capacity_padded_drop", "not read: token_routing capacity_padded_drop without capacity_f"),
        ("cuda_graph", "n/a (XLA)", None),
        ("dispatcher", "alltoall (dedup)", "not read: words in brackets of dispatcher alltoall (dedup) (mine)"),
        ("sharding", "fsdp (no reshard; cpu offload)", "not read: words in brackets of sharding fsdp (no reshard; cpu"),
        ("optimizer", "adam (bf16 states)", "not read: words in brackets of optimizer adam (bf16 states) (mine)"),
    ],
)  # fmt: skip
def test_what_a_prediction_does_not_follow_is_noted(tmp_path, columns, cells, remark):
    result = verify([str(told(tmp_path, columns, cells))])
    assert result.rows[0].predicted is not None
    notes = [note for note in result.notes if note.startswith(("not read", "unknown"))]
    assert not notes if remark is None else notes[0].startswith(remark)


def test_kernels_that_stand_in_for_those_of_rows_are_told_once(tmp_path):
    table = tmp_path / "rows.csv"
    cells = "qwen3_30b_a3b,gb300-nvl72,8,64,1,8192,1,1,8,30000"
    table.write_text(f"{PLAIN}\none,{cells}\nother,{cells}\n")
    begin = "kernels that were not measured as a row has them: "
    told = [note for note in verify([str(table)]).notes if note.startswith(begin)]
    assert told == [begin + "kernels of gb300 are taken to be 1.06 times as fast as those of b300 (one, other)"]


MODEL = {
    "model_key": "mine", "layers_total": 8, "moe_layers": 8, "d_model": 2048, "heads": 16, "kv_heads": 8,
    "head_dim": 128, "attn_type": "GQA", "experts": 16, "topk": 2, "shared_experts": 2, "expert_d_ff": 1024,
    "vocab": 32000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"vocab": ""}, "the architecture of mine is unknown: no vocab"),
        ({"attn_type": "MLA"}, "attn_type MLA of mine, and kv_lora_rank unknown"),
        ({"sliding_window": 128}, "sliding_window of mine without sliding_layers"),
        ({"peak_bf16_TF": 756}, "systems.csv has peak_bf16_TF 756 of dgx-h100, and the catalogue 989"),
        ({"hbm_TBps": 2.0}, "systems.csv has hbm_TBps 2.0 of dgx-h100, and the catalogue 3.35"),
        ({"hbm_TBps": 3.4}, ""),
    ],
)
def test_a_model_or_gpu_that_is_not_told_whole_is_not_predicted(tmp_path, change, message):
    model = {**MODEL, **change}
    (tmp_path / "models.csv").write_text(f"{','.join(model)}\n{','.join(map(str, model.values()))}\n")
    system = {"system": "dgx-h100", "gpu": "H100", "peak_bf16_TF": 989, "hbm_TBps": 3.35}
    system |= {column: value for column, value in change.items() if column in system}
    (tmp_path / "systems.csv").write_text(f"{','.join(system)}\n{','.join(map(str, system.values()))}\n")
    (tmp_path / "rows.csv").write_text(f"{PLAIN}\n{MINE.replace('qwen3_30b_a3b', 'mine')}\n")
    (run,) = read_runs(str(tmp_path / "rows.csv"))
    assert run.skipped.startswith(message)
    assert (run.inputs is None) == bool(message)
    if not message:
        # Both shared experts are as wide as another one.
        assert run.inputs.model.shared_dim == 2 * 1024


@pytest.mark.parametrize("model", ["Qwen3-30B-A3B", "Qwen/Qwen3-30B-A3B"])
def test_names_of_the_catalogue_are_known_in_the_usual_spellings(tmp_path, model):
    row = MINE.replace("qwen3_30b_a3b", model).replace("dgx-h100", "DGX H100")
    (tmp_path / "rows.csv").write_text(f"{PLAIN}\n{row}\n")
    (run,) = read_runs(str(tmp_path / "rows.csv"))
    assert (run.inputs.model.name, run.inputs.cluster.gpu) == ("qwen3-30b-a3b", "h100")


def test_a_row_with_a_kernel_that_was_not_measured_on_its_gpu_leaves_others_predicted(tmp_path):
    # The tables of an A100 have no exchanges of DeepEP.
    table = told(tmp_path, "dispatcher", "deepep")
    other = MINE.replace("mine", "other").replace("dgx-h100", "dgx-a100-80g")
    table.write_text(f"{table.read_text()}{other},deepep\n")
    known, unknown = verify([str(table)]).rows
    assert known.predicted is not None
    assert unknown.predicted is None
    assert unknown.skipped.startswith("no times of exchange_deepep in the tables of a100")


def test_an_optimizer_that_is_not_distributed_needs_no_word_on_sharding(tmp_path):
    (run,) = read_runs(str(told(tmp_path, "distributed_optimizer", "0")))
    assert run.inputs.parallel.sharding == "none"


def test_a_system_beside_the_file_that_is_another_than_the_catalogues_is_not_taken_for_it(tmp_path):
    (tmp_path / "systems.csv").write_text("system,gpu,gpus_per_node,nic_Gbps_per_gpu\ndgx-h100,H100,8,200\n")
    (run,) = read_runs(str(told(tmp_path, "gpu", "H100")))
    assert "systems.csv has nic_Gbps_per_gpu 200 of dgx-h100, and the catalogue 400" in run.skipped


def test_a_system_beside_the_file_exchanges_at_the_rate_of_its_links(tmp_path):
    # Those of a DGX H100 have 450 GB/s in each direction, of which an exchange reaches 0.7 or less.
    names = {"dgx-h100": 0, "whole": 450, "cut": 200}
    rows = [MINE.replace("mine", name).replace("dgx-h100", name).replace(",2,1,8,", ",1,1,8,") for name in names]
    (tmp_path / "rows.csv").write_text("\n".join([PLAIN, *rows]))
    lines = [f"{name},H100,8,8,{rate},400" for name, rate in names.items() if rate]
    columns = "system,gpu,gpus_per_node,gpus_per_nvlink_domain,nvlink_GBps_per_dir,nic_Gbps_per_gpu"
    (tmp_path / "systems.csv").write_text("\n".join([columns, *lines]))
    runs = read_runs(str(tmp_path / "rows.csv"))
    known_s, whole_s, cut_s = (exchange_s(run.inputs) for run in runs)
    assert whole_s == known_s
    # Bytes take 316 / 140 times as long; what does not grow is the time of a short message.
    assert 2 < cut_s / whole_s < 316 / (0.7 * 200)


def test_published_rows_of_every_status_are_read(shared):
    folder = shared / "measured" / "training"
    runs = read_runs(str(folder / "training_throughput.csv"))
    assert len(runs) == len((folder / "training_throughput.csv").read_text().splitlines()) - 1
    # Batches of 2 rows are unknown, the layers of 3 not published, and a layout of 1 not to be understood.
    assert sum(run.inputs is None for run in runs) == 6
    # 48 rows do not tell their micro-batch, of which 2 no batch; 3 are of a profiler or of a known fault.
    assert sum(run.settings["inputs"] == "counted apart" for run in runs) == 49


def test_a_row_without_expert_parallelism_needs_no_dispatcher(tmp_path):
    table = tmp_path / "rows.csv"
    for ep, word, refused in ((1, "none", False), (8, "mine", True)):
        table.write_text(
            "row_id,model_key,system,gpus,gbs,mbs,seq,tp,pp,ep,sharding,dispatcher,tok_s_gpu\n"
            f"mine,qwen3_30b_a3b,dgx-b200,8,64,8,8192,1,1,{ep},fsdp2,{word} (EP{ep}),19487\n"
        )
        (run,) = read_runs(str(table))
        assert run.skipped.startswith("dispatcher 'mine (ep8)'") == refused
        assert (run.inputs is None) == refused


def test_a_row_with_fewer_layers_has_windows_in_their_share(tmp_path):
    (tmp_path / "rows.csv").write_text(
        "row_id,model_key,system,gpus,gbs,mbs,seq,tp,pp,ep,layers_override,tok_s_gpu\n"
        "mine,gpt_oss_20b,dgx-b200,8,64,1,4096,1,1,8,6,20000\n"
        "hybrid,nemotron_3_nano,dgx-b200,8,64,1,4096,1,1,8,6,20000\n"
        "alternating,llama4_maverick,dgx-b200,8,64,1,4096,1,1,8,24,20000\n"
        "dense first,deepseek_v3,dgx-b200,8,64,1,4096,1,1,8,8,20000\n"
    )
    run, hybrid, alternating, first = read_runs(str(tmp_path / "rows.csv"))
    assert alternating.inputs.model.moe_layers == list(range(1, 24, 2))
    assert first.inputs.model.moe_layers == [3, 4, 5, 6, 7]
    assert hybrid.skipped == "layers_override 6: which kinds of layers of nemotron_3_nano are left is unknown"
    # 12 of 24 layers have a window.
    assert (run.inputs.model.num_layers, run.inputs.model.attention.num_window_layers) == (6, 3)


def test_rows_that_no_gpu_has_the_memory_for_are_told(tmp_path):
    # 671 B parameters take 1.3 TB in 16 bits alone, and eight H100 have 0.7 TB.
    (tmp_path / "rows.csv").write_text(
        "row_id,model_key,system,gpus,gbs,mbs,seq,tp,pp,ep,tok_s_gpu\n"
        "large,deepseek_v3,dgx-h100,8,64,1,4096,1,1,8,100\n"
        "small,olmoe_1b_7b,dgx-h100,8,64,1,4096,1,1,8,9000\n"
    )
    (note,) = (note for note in verify([str(tmp_path / "rows.csv")]).notes if note.startswith("more than the memory"))
    assert "(large)" in note
    assert "small" not in note


def test_rows_that_say_nothing_of_the_further_token_layers_of_their_model_are_told(tmp_path):
    # config.json of GLM-4.5-Air has num_nextn_predict_layers 1, and that of Mixtral none.
    (tmp_path / "rows.csv").write_text(
        "row_id,model_key,system,gpus,gbs,mbs,seq,tp,pp,ep,mtp_layers,tok_s_gpu\n"
        "one,glm_4.5_air,h200x8,64,64,1,4096,1,1,16,,900\n"
        "said,glm_4.5_air,h200x8,64,64,1,4096,1,1,16,0,900\n"
        "none,mixtral_8x7b,h200x8,64,64,1,4096,1,1,8,,900\n"
    )
    assert ["mtp_layers 0" in dict(run.remarks)[LEFT_OUT] for run in read_runs(str(tmp_path / "rows.csv"))] == [
        True, False, False,
    ]  # fmt: skip


def test_files_do_not_share_names_of_rows(refused, tmp_path):
    (copy := tmp_path / "training.csv").write_bytes(MEASURED.read_bytes())
    assert "--rows: two files have a row r002" in refused("verify", "--rows", MEASURED, "--rows", copy)


def test_the_board_is_drawn(lazsim, tmp_path):
    assert lazsim("verify", "--only", "grok1", "--out", str(tmp_path))[0] == 0
    names = [".lazsim.json", "verify.csv", "verify.json", "verify.pdf", "verify.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    rows = list(csv.DictReader(io.StringIO((tmp_path / "verify.csv").read_text())))
    assert all("grok1" in row["model_key"] for row in rows)


def test_the_catalogue_carries_the_reference_rows(shared, tmp_path):
    folder = shared / "measured" / "training"
    for name in ("training_throughput.csv", "models.csv", "systems.csv"):
        shutil.copy(folder / name, tmp_path)
    # The reference leaves out what the recipe of r012 has: `mtp_num_layers` 2 (Megatron-Bridge 0.6.0).
    rows = (tmp_path / "training_throughput.csv").read_text()
    assert rows.count(",nemotron_3_5_lightning,,,") == 1
    filled = rows.replace(",nemotron_3_5_lightning,,,", ",nemotron_3_5_lightning,,2,")
    (tmp_path / "training_throughput.csv").write_text(filled)
    beside = {row.id: row for row in verify([str(tmp_path / "training_throughput.csv")]).predicted_rows}
    for row in verify([str(MEASURED)]).predicted_rows:
        assert beside[row.id].predicted == pytest.approx(row.predicted, rel=0.02), row.id
