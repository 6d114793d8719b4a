import itertools
import json
import re
import tracemalloc
from statistics import NormalDist

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.errors import LazsimError, SpecError
from lazsim.routing import (
    GeneratedRouting,
    RecordedRouting,
    RoutingSpec,
    fit_routing,
    load_routing,
    read_routing,
    top_experts,
)
from lazsim.routing.fit import autocorrelation, log_loads, moved_share, routing_stats
from lazsim.routing.generator import SHAPE_SCORES
from lazsim.routing.table import write_csv
from lazsim.specs import catalog_names, read_spec_bytes, read_toml
from tests.conftest import refusal

SPEC = read_toml("smartmoe-fit", read_spec_bytes("routing", "smartmoe-fit"), RoutingSpec)


def recorded(tokens, steps=None):
    tokens = np.array(tokens)
    return RecordedRouting(np.arange(len(tokens)) if steps is None else np.array(steps), tokens, "mine")


def write_log(folder, step, rank, layers):
    """A log of SmartMoE: a line for each layer, with a list of loads for each micro-batch."""
    lines = [f"{layer}:{json.dumps([[float(x) for x in batch] for batch in batches])}" for layer, batches in layers]
    (folder / f"table_iter{step}_rank{rank}.log").write_text("\n".join(lines) + "\n")


def test_recorded_loads_count_until_the_next_record_and_are_held_at_both_ends():
    routing = recorded([[[1, 2]], [[3, 4]]], steps=[10, 20])
    assert routing.loads([0, 10, 19, 20, 1000]).tolist() == [[[1, 2]]] * 3 + [[[3, 4]]] * 2
    assert routing.last_step == 20


def test_logs_are_summed_over_ranks_and_micro_batches(tmp_path):
    write_log(tmp_path, 1, 0, [(0, [[1, 2], [3, 4]]), (1, [[5, 0], [0, 0]])])
    write_log(tmp_path, 1, 1, [(0, [[10, 0], [0, 0]]), (1, [[0, 7], [0, 0]])])
    write_log(tmp_path, 11, 0, [(0, [[1, 1], [1, 1]]), (1, [[2, 2], [2, 2]])])
    routing = read_routing(str(tmp_path))
    assert routing.steps.tolist() == [1, 11]
    assert routing.tokens_SLE.tolist() == [[[14, 6], [5, 7]], [[2, 2], [4, 4]]]
    alone = read_routing(str(tmp_path / "table_iter11_rank0.log"))
    assert alone.tokens_SLE.tolist() == [[[2, 2], [4, 4]]]


def test_an_npz_file_is_read_whole(tmp_path):
    tokens = np.arange(1, 13, dtype=np.float64).reshape(2, 2, 3)
    np.savez(tmp_path / "loads.npz", iteration=np.array([1, 11]), tokens=tokens)
    routing = read_routing(str(tmp_path / "loads.npz"))
    assert routing.steps.tolist() == [1, 11]
    assert (routing.tokens_SLE == tokens).all()


@given(st.data())
def test_our_csv_reads_back_what_was_written(tmp_path_factory, data):
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)))
    size = int(np.prod(shape))
    tokens = np.array(data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))).reshape(shape)
    tokens[:, :, 0] += 1
    path = tmp_path_factory.mktemp("routing") / "loads.csv"
    path.write_bytes(write_csv(recorded(tokens, steps=np.arange(shape[0]) * 7)))
    routing = read_routing(str(path))
    assert (routing.tokens_SLE == tokens).all()
    assert routing.steps.tolist() == [7 * row for row in range(shape[0])]


HEAD = "# lazsim-routing 1\nstep,layer,expert,tokens\n"
LOG = "table_iter1_rank0.log"
CELLS = "expected step,layer,expert,tokens, numbers from 0 up"
# Those without a suffix are logs of SmartMoE.
BAD_FILES = {
    "empty.csv": ("", "the file is empty"),
    "binary.csv": (b"\x00\x01\xff", "not a format of expert loads"),
    "columns.csv": ("# lazsim-routing 1\nstep,expert\n", "line 2: expected step,layer,expert,tokens"),
    "bytes.csv": (HEAD.encode() + b"0,0,0,\xff\n", "not a text file"),
    "word.csv": (HEAD + "0,0,0,5\n0,0,one,5\n", f"line 4: {CELLS}"),
    "short.csv": (HEAD + "\n0,0,5\n", f"line 4: {CELLS}"),
    "negative.csv": (HEAD + "0,0,0,5\n0,0,1,-5\n", f"line 4: {CELLS}"),
    "nan.csv": (HEAD + "0,0,0,nan\n", f"line 3: {CELLS}"),
    "twice.csv": (HEAD + "0,0,0,5\n0,0,0,5\n", "line 4: a second row"),
    "order.csv": (HEAD + "7,0,0,5\n0,0,0,5\n", "line 4: step 0 comes after step 7"),
    "idle.csv": (HEAD + "0,0,0,5\n0,1,0,0\n1,0,0,5\n1,1,0,5\n", "step 0, layer 1 has no tokens at all"),
    "missing.csv": (HEAD + "0,0,0,5\n0,1,0,5\n1,0,0,5\n", "step 1, layer 1 has no tokens at all"),
    "slip.csv": (HEAD + "0,0,99999999999,5\n", "1 layers of 100000000000 experts are too many"),
    "none.csv": (HEAD, "no loads"),
    "broken.npz": ("PK\x03\x04broken", "not a readable .npz with iteration and tokens"),
    "cut": ("0:[[1.0, 2.0]]\n\n1:[[1.0,\n", "line 3: expected 1:[[2 loads], ...]"),
    "ragged": ("0:[[1.0, 2.0], [3.0]]\n", "line 1: expected 0:[[loads], ...]"),
    "object": ('0:{"a": 1}\n', "line 1: expected 0:[[loads], ...]"),
    "jump": ("1:[[1.0, 2.0]]\n", "line 1: expected 0:[[loads], ...]"),
    "minus": ("0:[[-1.0, 2.0]]\n", "line 1: loads that are no numbers from 0 up"),
    "nan": ("0:[[1.0, NaN]]\n", "line 1: loads that are no numbers from 0 up"),
    "long": ("0:[[1, 9" + "9" * 400 + "]]\n", "line 1: loads that are no numbers from 0 up"),
    "idle": ("0:[[0.0]]\n1:[[0.0]]\n", "no loads"),
    "void": ("", "the file is empty"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_one_line(write, name):
    content, said = BAD_FILES[name]
    path = write(content, name if "." in name else LOG)
    told = refusal(lambda: read_routing(str(path)), SpecError)
    assert path.name in told
    assert said in told


GOOD_NPZ = {"iteration": np.array([1, 11]), "tokens": np.ones((2, 3, 4))}
BAD_ARRAYS = {
    "tokens are text": ({"tokens": np.full((2, 3, 4), "x")}, "must be numbers"),
    "tokens are complex": ({"tokens": np.full((2, 3, 4), 1j)}, "must be numbers"),
    "tokens are objects": ({"tokens": np.full((2, 3, 4), None)}, "must be numbers"),
    "tokens have no layers": ({"tokens": np.ones((2, 4))}, "must have shape"),
    "a load is negative": ({"tokens": np.full((2, 3, 4), -1)}, "step 1, layer 0, expert 0 must be a number from 0 up"),
    "a load is no number": ({"tokens": np.full((2, 3, 4), np.nan)}, "layer 0, expert 0 must be a number from 0 up"),
    "a layer has too many": (
        {"tokens": np.full((2, 3, 4), 2**41 + 1)},
        "loads: layer 0 has 8.796e.12 tokens; give at most 8,796,093,022,208: only ratios count",
    ),
    "a load is past counting": ({"tokens": np.full((2, 3, 4), 1e300)}, "layer 0 has 4e.300 tokens; give at most"),
    "layers are idle": ({"tokens": np.zeros((2, 3, 4))}, "no loads"),
    "steps are no numbers": ({"iteration": np.array([1, np.nan])}, "steps must be whole numbers"),
    "steps are out of order": ({"iteration": np.array([11, 1])}, "steps must ascend"),
    "steps are too few": ({"iteration": np.array([11])}, "must have shape"),
}


@pytest.mark.parametrize("what", BAD_ARRAYS)
def test_bad_arrays_are_refused_in_one_line(tmp_path, what):
    arrays, expected = BAD_ARRAYS[what]
    np.savez(tmp_path / "loads.npz", **{**GOOD_NPZ, **arrays})
    assert re.search(expected, refusal(lambda: read_routing(str(tmp_path / "loads.npz")), SpecError))


def test_lenient_reading_repairs_a_csv_and_counts_what_it_repaired(tmp_path):
    # Step 7 comes first; a bad line; a second row; step 9 leaves layer 1 without tokens, so step 7 holds on.
    rows = ["7,0,0,5", "7,1,0,6", "0,0,0,1", "0,1,0,2", "0,0,0,-3", "7,0,0,9", "9,0,0,8"]
    (tmp_path / "loads.csv").write_text(HEAD + "\n".join(rows) + "\n")
    routing = read_routing(str(tmp_path / "loads.csv"), lenient=True)
    assert routing.steps.tolist() == [0, 7]
    assert routing.tokens_SLE.tolist() == [[[1], [2]], [[5], [6]]]
    assert routing.notes == (
        "loads of one expert in each layer: nothing names several",
        "experts of a layer at a step that no row tells of, taken to have no tokens: 1",
        "lenient: 2 times: sort the steps",
        "lenient: 1 time: skip what cannot be read",
        "lenient: 1 time: keep the first of several",
        "lenient: 1 time: hold the step before it",
    )


def test_lenient_reading_repairs_arrays_and_logs(tmp_path):
    tokens = np.ones((3, 1, 2))
    tokens[1, 0, 1] = np.nan
    np.savez(tmp_path / "loads.npz", iteration=np.array([21, 11, 1]), tokens=tokens)
    routing = read_routing(str(tmp_path / "loads.npz"), lenient=True)
    assert routing.steps.tolist() == [1, 11, 21]
    assert routing.tokens_SLE.tolist() == [[[1, 1]], [[1, 0]], [[1, 1]]]
    (tmp_path / LOG).write_text("0:[[1.0, -2.0], [NaN, 4.0]]\n")
    assert read_routing(str(tmp_path / LOG), lenient=True).tokens_SLE.tolist() == [[[1, 4]]]


def test_no_repair_makes_loads_from_nothing(tmp_path):
    (tmp_path / "loads.csv").write_text(HEAD + "0,0,0,nan\n")
    with pytest.raises(SpecError, match="no loads"):
        read_routing(str(tmp_path / "loads.csv"), lenient=True)


def test_loads_tell_their_size_and_the_grid_on_which_they_are_constant():
    routing = recorded([[[1, 2, 3]] * 2] * 3, steps=[1, 11, 21])
    assert (routing.num_layers, routing.num_experts, routing.interval_steps) == (2, 3, 10)
    generated = GeneratedRouting(SPEC, 4, 5, seed=0)
    assert (generated.num_layers, generated.num_experts) == (4, 5)
    within = generated.loads(range(generated.interval_steps))
    assert (within == within[0]).all()
    assert [routing.since(step) for step in (0, 10, 11, 20, 21, 99)] == [0, 0, 11, 11, 21, 21]
    interval = generated.interval_steps
    assert [generated.since(step) for step in (0, interval - 1, interval, 2 * interval + 1)] == [
        0,
        0,
        interval,
        2 * interval,
    ]


def test_generated_loads_of_a_long_run_stay_small_in_memory():
    # 100 blocks of 32 points, 2 parts, 4 layers, 64 experts: 13 MB if all were kept; starts of blocks are 0.4 MB.
    generated = GeneratedRouting(SPEC, 4, 64, seed=0)
    tracemalloc.start()
    generated.loads([100 * 32 * SPEC.interval_steps])
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2e6


def test_totals_of_a_long_recording_do_not_overflow():
    # 2**21 steps of 2**42 tokens are 2**63.
    steps = 2**21 + 1
    tokens = np.broadcast_to(np.array([2, 2**42, 1]), (steps, 1, 3))
    routing = RecordedRouting(np.arange(steps), tokens)
    assert top_experts(routing, 1, 2).tokens_SLE[0].tolist() == [[2, 2**42]]


def test_the_top_experts_are_those_with_most_tokens_over_the_whole_recording_in_their_order():
    # Layer totals: experts 0 to 3 get 3, 30, 12 and 20.
    routing = recorded([[[1, 30, 2, 20], [1, 1, 1, 1]], [[2, 0, 10, 0], [1, 1, 1, 1]]])
    assert top_experts(routing, 1, 3).tokens_SLE.tolist() == [[[30, 2, 20]], [[0, 10, 0]]]


def test_a_recording_smaller_than_the_model_is_refused():
    with pytest.raises(SpecError, match="1 layers of 2 experts, but the model has 12 of 16"):
        top_experts(recorded([[[1, 2]]]), 12, 16)


def test_generated_loads_do_not_depend_on_the_order_of_questions():
    steps = [0, 49, 50, 1599, 1600, 5000, 100_000, 20]
    forward = GeneratedRouting(SPEC, 3, 8, seed=1).loads(steps)
    again = GeneratedRouting(SPEC, 3, 8, seed=1)
    backward = np.concatenate([again.loads([step]) for step in reversed(steps)])[::-1]
    assert (forward == backward).all()
    assert (forward != GeneratedRouting(SPEC, 3, 8, seed=2).loads(steps)).any()


@given(st.integers(1, 4), st.integers(2, 64), st.integers(0, 2**32), st.integers(0, 10**6))
def test_every_layer_has_tokens_at_every_step(num_layers, num_experts, seed, step):
    loads = GeneratedRouting(SPEC, num_layers, num_experts, seed).loads([step])
    assert loads.shape == (1, num_layers, num_experts)
    assert (loads >= 0).all()
    assert (loads.sum(axis=2) > 0).all()


def test_generated_loads_start_even_and_become_skewed_and_differ_between_layers():
    loads = GeneratedRouting(SPEC, 24, 32, seed=0).loads([0, 1000])
    over_mean = loads.max(axis=2) / loads.mean(axis=2)
    assert over_mean[0].max() < 2 < 4 < np.median(over_mean[1])
    assert len({tuple(layer) for layer in loads[1].tolist()}) == 24


def normal_shape(spread=1.0):
    """Quantiles that make log loads normal, up to three standard deviations."""
    return tuple(spread * score for score in SHAPE_SCORES)


def test_generated_drift_has_the_autocorrelation_of_its_parameters():
    # Two parts with shares 0.3 and 0.7: 0.3 exp(-500 / 400) + 0.7 exp(-500 / 4000) = 0.704.
    spec = msgspec.structs.replace(
        SPEC, shape=normal_shape(), num_experts=100, fast_share=0.3, fast_steps=400.0, slow_steps=4000.0, skew=1.0,
        skew_spread=0.0,
    )  # fmt: skip
    loads = GeneratedRouting(spec, 40, 100, seed=0).loads(np.arange(1000, 9000, 500))
    assert autocorrelation(log_loads(loads), 1) == pytest.approx(0.704, abs=0.02)


def test_drift_is_that_over_steps_where_records_are_missing_or_closer():
    # Expert 0 of two has 1/4 + step / 8000 of the tokens: after 1000 steps, 1/8 of them go to another expert.
    steps = np.concatenate([np.arange(0, 1000, 50), np.arange(1000, 3001, 200)])
    first = 2000 + steps
    tokens = np.stack([first, 8000 - first], axis=1)[:, None, :]
    stats = routing_stats(steps, tokens)
    assert stats["share_moved_50_steps"] == pytest.approx(50 / 8000)
    assert stats["share_moved_1000_steps"] == pytest.approx(1000 / 8000)
    # No two of the powers of two are as far apart as any other two.
    loads = GeneratedRouting(SPEC, 2, 8, seed=0).loads(np.arange(0, 3600, 100))
    with pytest.raises(SpecError, match=r"records are 1 to \d+ steps apart; a fit needs most at multiples of"):
        fit_routing(recorded(loads, steps=2 ** np.arange(36)))


def test_generated_log_loads_have_the_quantiles_of_their_shape():
    # With one skew for all layers, log loads over the skew are quantiles of the shape, less each layer's mean.
    spec = msgspec.structs.replace(SPEC, skew=1.0, skew_spread=0.0, num_experts=4096, start_share=1.0)
    logs = log_loads(GeneratedRouting(spec, 4, 4096, seed=0).loads([0]))[0]
    below = np.array([NormalDist().cdf(score) for score in SHAPE_SCORES[1:-1]])
    expected = np.array(SPEC.shape[1:-1])
    found = np.quantile(logs, below)
    assert found - found.mean() == pytest.approx(expected - expected.mean(), abs=0.1)


def test_a_model_of_fewer_experts_gets_the_fullest_of_those_that_the_spec_describes():
    # By brute force: draw all 64, keep the fullest 16 of each layer and step; and draw 16 at once.
    spec = msgspec.structs.replace(SPEC, num_experts=64, skew=1.0, skew_spread=0.0)
    steps = np.arange(2000, 400_000, 20_000)
    brute = np.sort(GeneratedRouting(spec, 40, 64, seed=0).loads(steps), axis=2)[:, :, -16:]
    drawn = np.sort(GeneratedRouting(spec, 40, 16, seed=1).loads(steps), axis=2)
    shares = [(tokens / tokens.sum(axis=2, keepdims=True)).mean(axis=(0, 1)) for tokens in (brute, drawn)]
    assert shares[1] == pytest.approx(shares[0], rel=0.1)


def test_more_experts_than_the_spec_describes_keep_the_multiple_of_the_mean():
    # A top-8 gate gives an expert an eighth of the assignments at most, 32 times the mean of 256.
    steps = np.arange(2000, 400_000, 20_000)
    multiples = []
    for num_experts in (SPEC.num_experts, 8 * SPEC.num_experts):
        loads = GeneratedRouting(SPEC, 20, num_experts, seed=0).loads(steps)
        multiples.append(np.median(loads.max(axis=2) / loads.mean(axis=2)))
    assert multiples[0] / 1.5 < multiples[1] < min(32, multiples[0] * 1.5)


def test_a_fit_finds_the_parameters_that_made_the_loads():
    made = msgspec.structs.replace(
        SPEC, shape=normal_shape(), num_experts=64, skew=1.5, skew_spread=0.3, fast_share=0.2, fast_steps=200.0,
        slow_steps=3000.0, start_share=0.5,
    )  # fmt: skip
    steps = np.arange(0, 40_000, 50)
    found = fit_routing(recorded(GeneratedRouting(made, 40, 64, seed=0).loads(steps), steps))
    assert found.skew == pytest.approx(1.5, rel=0.1)
    assert found.skew_spread == pytest.approx(0.3, rel=0.3)
    assert found.num_experts == 64
    assert found.shape == pytest.approx(made.shape, abs=0.15)
    assert found.fast_share == pytest.approx(0.2, rel=0.2)
    assert found.fast_steps == pytest.approx(200, rel=0.25)
    assert found.slow_steps == pytest.approx(3000, rel=0.25)


def test_the_ramp_of_a_fit_is_that_between_the_first_two_records():
    # A fifth of the time between the same two loads is a fifth of the ramp.
    steps = np.arange(0, 4000, 100)
    loads = GeneratedRouting(SPEC, 2, 8, seed=0).loads(steps)
    closer = np.concatenate([[80], steps[1:]])
    ramps = [fit_routing(recorded(loads, steps=one)).ramp_steps for one in (steps, closer)]
    assert ramps[1] == pytest.approx(ramps[0] / 5, rel=1e-3)


def test_a_fit_needs_enough_steps():
    with pytest.raises(SpecError, match="2 steps recorded; a fit needs 30"):
        fit_routing(recorded([[[1, 2]], [[2, 1]]]))


@pytest.mark.parametrize("layers", [[[5, 5]], [[5, 5], [1, 99]], [[7, 8]] * 9 + [[1, 10**6]]])
def test_a_fit_refuses_even_layers_and_layers_too_different_for_one_generator(layers):
    with pytest.raises(SpecError, match="log loads of a layer have standard deviations of"):
        fit_routing(recorded([layers] * 40))


def test_loads_that_stay_even_have_statistics_but_no_correlation():
    found = routing_stats(np.arange(0, 400, 10), np.full((40, 2, 4), 3))
    assert found["share_moved_50_steps"] == 0
    assert np.isnan(found["autocorrelation_50_steps"])


def test_loads_come_from_a_name_a_file_or_nowhere(tmp_path):
    assert "smartmoe-fit" in catalog_names("routing")
    assert load_routing("smartmoe-fit", 12, 16, 0).loads([5]).shape == (1, 12, 16)
    assert (load_routing("uniform", 2, 3, 0).loads([5]) == 1).all()
    (tmp_path / "mine.toml").write_bytes(read_spec_bytes("routing", "smartmoe-fit"))
    named, mine = (load_routing(source, 2, 3, 0) for source in ("smartmoe-fit", str(tmp_path / "mine.toml")))
    assert (named.loads([7]) == mine.loads([7])).all()
    with pytest.raises(LazsimError, match="did you mean 'smartmoe-fit'"):
        load_routing("smartmoefit", 2, 3, 0)


@pytest.mark.parametrize(
    ("field", "value"), [("skew", 0.0), ("fast_share", 1.5), ("interval_steps", 0), ("num_experts", 0)]
)
def test_impossible_parameters_are_refused(field, value):
    text = read_spec_bytes("routing", "smartmoe-fit").decode()
    current = getattr(SPEC, field)
    with pytest.raises(LazsimError, match=field):
        read_toml("mine.toml", text.replace(f"{field} = {current}", f"{field} = {value}").encode(), RoutingSpec)


@pytest.mark.parametrize("shape", [normal_shape()[:-1], normal_shape(-1.0)], ids=["too short", "falls"])
def test_an_impossible_shape_is_refused(shape):
    with pytest.raises(ValueError, match="shape must"):
        RoutingSpec(**{**msgspec.structs.asdict(SPEC), "shape": shape})


def test_the_shipped_generator_is_what_a_fit_to_the_real_run_gives(shared):
    found = fit_routing(read_routing(str(shared / "routing" / "smartmoe.npz")))
    for field in ("skew", "skew_spread", "start_share", "ramp_steps", "fast_share", "fast_steps", "slow_steps"):
        assert getattr(found, field) == pytest.approx(getattr(SPEC, field), rel=1e-2)
    assert found.shape == pytest.approx(SPEC.shape, abs=1e-2)
    assert found.num_experts == SPEC.num_experts == 32


@pytest.mark.parametrize("num_experts", [8, 12, 16])
def test_generated_loads_are_as_skewed_as_the_fullest_experts_of_the_real_run(shared, num_experts):
    # The fit saw all 32 experts; that the fullest of them come out right, too, is a prediction.
    real = top_experts(read_routing(str(shared / "routing" / "smartmoe.npz")), 12, num_experts)
    steps = np.arange(201, 5002, 50)
    loads = [GeneratedRouting(SPEC, 12, num_experts, seed).loads(steps) for seed in range(20)]
    top2 = [
        np.median(np.sort(tokens / tokens.sum(axis=2, keepdims=True), axis=2)[:, :, -2:].sum(axis=2))
        for tokens in (real.loads(steps), np.concatenate(loads, axis=1))
    ]
    assert top2[1] == pytest.approx(top2[0], abs=0.05)


def test_generated_loads_drift_as_far_as_those_of_the_real_run(shared):
    real = read_routing(str(shared / "routing" / "smartmoe.npz"))
    steps = np.arange(201, 5002, 50)
    generated = np.concatenate([GeneratedRouting(SPEC, 24, 32, seed).loads(steps) for seed in range(5)], axis=1)
    for lag in (1, 4, 20):
        found, known = (
            moved_share(tokens / tokens.sum(axis=2, keepdims=True), lag) for tokens in (generated, real.loads(steps))
        )
        assert found == pytest.approx(known, rel=0.15)


def test_the_real_run_is_as_skewed_as_is_known(shared):
    # Median over layers of the fullest expert over the mean, at iterations 1, 11, 201, 501 and 5001.
    routing = read_routing(str(shared / "routing" / "smartmoe.npz"))
    loads = routing.loads([1, 11, 201, 501, 5001])
    found = np.median(loads.max(axis=2) / loads.mean(axis=2), axis=1)
    assert found.tolist() == pytest.approx([1.5, 15.8, 10.3, 8.0, 14.6], abs=0.05)


def test_the_real_logs_of_some_ranks_are_part_of_the_whole(shared):
    whole = read_routing(str(shared / "routing" / "smartmoe.npz"))
    part = read_routing(str(shared / "routing" / "smartmoe-raw"))
    assert part.steps.tolist() == [1, 11, 201]
    assert (part.tokens_SLE <= whole.loads(part.steps)).all()
    # 4 of 16 ranks.
    assert (part.tokens_SLE.sum(axis=2) * 4 == whole.loads(part.steps).sum(axis=2)).all()


def test_routing_commands_make_files_that_a_run_takes(lazsim, tmp_path):
    made, taken = tmp_path / "made.csv", tmp_path / "taken.csv"
    assert lazsim("routing", "generate", "smartmoe-fit", "--steps", 2000, "--out", made)[0] == 0
    assert lazsim("routing", "convert", made, "--layers", 12, "--experts", 8, "--out", taken)[0] == 0
    facts = json.loads(lazsim("routing", "info", taken, "--json")[1])
    assert (facts["num_layers"], facts["num_experts"], facts["last_step"]) == (12, 8, 1950)
    thin = tmp_path / "thin.csv"
    assert lazsim("routing", "convert", made, "--every", 4, "--out", thin)[0] == 0
    whole, every_fourth = read_routing(str(made)), read_routing(str(thin))
    assert every_fourth.steps.tolist() == whole.steps[::4].tolist()
    assert (every_fourth.tokens_SLE == whole.tokens_SLE[::4]).all()
    answer = json.loads(lazsim("routing", "fit", made, "--seeds", 1, "--json")[1])
    assert set(answer) == {"spec", "statistics", "notes"}
    code, out, err = lazsim("run", "--trace", "traces/fail-every-5min.csv", "--routing", taken, "--json")
    assert code == 0
    assert json.loads(out)["inputs"]["routing"]["name"].endswith("taken.csv")
    # Some 1,950 recorded steps do not last for 30 minutes of half-second steps: said where it matters.
    if any(run["steps"] > 1950 for run in json.loads(out)["runs"]):
        assert "later steps use the last ones" in err


def test_routing_commands_take_names_and_draw_what_generate_writes(lazsim, tmp_path):
    made = tmp_path / "made.csv"
    assert lazsim("routing", "generate", "smartmoe-fit", "--out", made)[0] == 0
    of_name, of_file = (lazsim("routing", "info", source, "--json") for source in ("smartmoe-fit", made))
    facts, of_made = (json.loads(one[1]) for one in (of_name, of_file))
    assert facts["per_layer"][5]["max_over_mean"] == pytest.approx(of_made["per_layer"][5]["max_over_mean"], rel=1e-9)
    assert "drawn with seed 0: 12 layers of 16 experts over 5,000 steps" in of_name[2]
    assert json.loads(lazsim("routing", "info", "uniform", "--json")[1])["per_layer"][0]["max_over_mean"] == 1
    even = lazsim("routing", "generate", "uniform", "--layers", 1, "--experts", 2, "--out", "-")
    assert even[1].splitlines()[-2:] == ["0,0,0,1", "0,0,1,1"]
    _, _, err = lazsim("routing", "plot", "smartmo", "--out", tmp_path / "a.png")
    assert "unknown routing 'smartmo': did you mean 'smartmoe-fit'?" in err


def test_a_run_takes_the_loads_that_were_recorded_of_a_live_job(lazsim):
    short = ("--system", "lazarus", "--duration", "2min", "--json")
    loads = "traces/routing/live-deep.csv"
    code, out, err = lazsim("run", "--trace", "traces/fail-every-5min.csv", "--routing", loads, *short)
    assert code == 0, err
    assert json.loads(out)["runs"][0]["steps"] > 0


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_a_plot_is_the_same_bytes_each_time(lazsim, write, tmp_path, kind):
    source = write(write_csv(recorded([[[3, 1], [1, 1]], [[1, 3], [2, 1]]])), "loads.csv")
    pictures = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.{kind}"
        code, _, err = lazsim("routing", "plot", source, "--out", out)
        assert (code, err.endswith(f"{out}: written\n")) == (0, True)
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1]
    for left, right in itertools.pairwise([b"\x89PNG" if kind == "png" else b"%PDF", pictures[0][:4]]):
        assert left == right


def test_loads_that_no_row_tells_of_are_told(tmp_path):
    told = "experts of a layer at a step that no row tells of, taken to have no tokens"
    (tmp_path / "loads.csv").write_text("layer,expert,tokens\n0,0,5\n0,1,4\n0,2,3\n1,0,6\n1,2,7\n")
    routing = read_routing(str(tmp_path / "loads.csv"))
    assert (routing.tokens_SLE.tolist(), routing.notes) == ([[[5, 4, 3], [6, 0, 7]]], (f"{told}: 1",))
    (tmp_path / "routes.jsonl").write_text('{"layer": 0, "topk_ids": [[0, 1], [2, -1], [1, -1]]}\n')
    notes = read_routing(str(tmp_path / "routes.jsonl")).notes
    assert "numbers below 0 in routes, which pad and are no experts: 2" in notes
    (tmp_path / "gpus.csv").write_text("layer,gpu,tokens\n0,0,5\n0,1,4\n")
    assert "loads of one expert in each layer: nothing names several" in read_routing(str(tmp_path / "gpus.csv")).notes
