"""The functions and results of ``import lazsim``, as a script uses them."""

import json
import math
import pickle
import re

import numpy as np
import pytest

import lazsim
from lazsim.errors import SpecError, TraceFormatError
from lazsim.placement.baselines import place_compact, place_spread
from lazsim.placement.policies import POLICIES, call_policy, place
from lazsim.placement.serving import placement_change
from lazsim.specs.catalog import read_spec_bytes
from lazsim.study.collect import collect
from lazsim.study.sweep.run import run_sweep
from lazsim.study.sweep.spec import parse_sweep
from tests.conftest import refusal

FOUR = [lazsim.Event(0, "add", f"node{number}") for number in range(4)]


@pytest.mark.parametrize(
    "event", [lazsim.Event(60, "joined", "a"), (0, "add", "a"), lazsim.Event("0", "add", "a"), FOUR[0]._replace(node=1)]
)
@pytest.mark.parametrize("lenient", [False, True])
def test_an_event_of_an_unknown_kind_is_refused_and_no_removal(event, lenient):
    told = refusal(lambda: lazsim.build_trace([*FOUR, event], lenient=lenient), TraceFormatError)
    assert (
        told
        == f"`events`: expected Event(seconds, 'add' or 'remove', name of a node), or 'away' at 0 s, found {event!r}"
    )


@pytest.mark.parametrize("duration_s", [math.nan, "600"])
def test_a_duration_that_is_no_number_is_refused(duration_s):
    assert "`duration_s`: expected a number" in refusal(lambda: lazsim.build_trace(FOUR, duration_s=duration_s))


def test_a_trace_is_shown_in_a_line_and_has_a_table_of_its_events():
    trace = lazsim.build_trace([*FOUR, lazsim.Event(60.5, "remove", "node2")], duration_s=600, name="small.csv")
    assert repr(trace) == "<Trace 'small.csv': 4 nodes, 5 events in 10 min>"
    assert trace.to_frame().to_dict("list") == {
        "time_s": [0, 0, 0, 0, 60.5],
        "kind": ["add", "add", "add", "add", "remove"],
        "node": ["node0", "node1", "node2", "node3", "node2"],
    }


def test_what_holds_arrays_is_equal_by_its_values_also_after_pickling():
    def make(duration_s=600.0, usd=3.0):
        return lazsim.build_trace(FOUR, duration_s=duration_s, prices=lazsim.Prices.constant(usd))

    trace, copy = make(), pickle.loads(pickle.dumps(make()))
    assert trace == copy
    assert hash(trace) == hash(copy)
    assert trace != make(duration_s=601.0)
    assert trace != make(usd=4.0)
    run, again = (lazsim.simulate(trace, systems=["lazarus"], price=3.0) for _ in range(2))
    assert run == again == pickle.loads(pickle.dumps(run))
    assert run != lazsim.simulate(trace, systems=["lazarus"], price=4.0)


def test_nodes_of_one_price_are_not_those_of_another():
    prices = lazsim.Prices(np.array([0.0, 60.0]), np.array([1.0, 2.0]))
    assert prices == lazsim.Prices(np.array([0.0, 60.0]), np.array([1.0, 2.0]))
    assert prices not in (lazsim.Prices(np.array([0.0, 61.0]), np.array([1.0, 2.0])), None)


PLACERS = [lazsim.place_mro, lazsim.place_euclid, place_spread, place_compact]


@pytest.mark.parametrize("place", PLACERS)
def test_placements_take_lists_as_they_take_arrays(place):
    replicas = [[1, 1, 4], [2, 2, 2]]
    plan = place(replicas, 3, 2)
    assert plan.replicas_LE.tolist() == replicas
    assert (plan.slots_LNS == place(np.array(replicas), 3, 2).slots_LNS).all()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (([[1, 0, 4]], 3, 2), "`replicas`: expert 1 of layer 0 has 0; give each at least 1"),
        (([[1, 2, 4]], 3, 2), "`replicas`: 7 in layer 0 for 6 slots; give at most 6"),
        (([[1, 2.5]], 3, 2), "`replicas`: expected integers of shape (layers, experts), found float64 of shape (1, 2)"),
        (([1, 2], 3, 2), "`replicas`: expected integers of shape (layers, experts), found int64 of shape (2,)"),
        (([[1, 2], [1]], 3, 2), "`replicas`: expected rows of equal length"),
        (([[1, 2]], 3, 0), "`num_slots`: expected a whole number from 1 up, found 0"),
        (([[1, 2]], 3.0, 2), "`num_nodes`: expected a whole number from 1 up, found 3.0"),
    ],
)
@pytest.mark.parametrize("place", PLACERS)
def test_replicas_that_cannot_be_placed_are_refused(place, arguments, expected):
    assert refusal(lambda: place(*arguments), SpecError).startswith(expected)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: lazsim.place_ep(1, 8, 3, 1, 6), "`num_nodes` 3: groups of 2 GPUs hold every expert; give a multiple"),
        (lambda: lazsim.place_ep(1, 8, 4, 1, 0), "`slots_per_gpu`: expected a whole number from 1 up, found 0"),
        (lambda: lazsim.place_ep(1, 0, 4, 1, 2), "`num_experts`: expected a whole number from 1 up, found 0"),
        (lambda: lazsim.place_ep(0, 8, 4, 1, 6), "`num_layers`: expected a whole number from 1 up, found 0"),
        (lambda: lazsim.allocate([[1, 2]], 4.5, 1), "`num_slots`: expected a whole number from 1 up, found 4.5"),
        (lambda: lazsim.allocate([[1, 2]], 4, 1.5), "`fault_threshold`: expected a whole number from 1 up, found 1.5"),
        (lambda: lazsim.dispatch_tokens([[4, 1]], [[0, 0]]), "`replicas_LEJ`: expert 0 has no replica; give each at l"),
        (lambda: lazsim.dispatch_tokens([[4.9, 1]], [[1, 1]]), "`tokens_LEI`: expected whole numbers from 0 up of sha"),
        (lambda: lazsim.dispatch_tokens([[4, -1]], [[1, 1]]), "`tokens_LEI`: expected whole numbers from 0 up"),
        (lambda: lazsim.dispatch_tokens([[4, 1]], [[2, -1]]), "`replicas_LEJ`: expected whole numbers from 0 up"),
        (lambda: lazsim.dispatch_tokens([4, 1], [1, 1]), "`tokens_LEI`: expected whole numbers from 0 up"),
        (lambda: lazsim.dispatch_tokens([[4, 1]], [[1, 1, 1]]), "`replicas_LEJ`: expected the experts and ranks of"),
        (lambda: lazsim.dispatch_tokens([[4, 0]], [[2**40, 1]]), "replicas: an expert has more than 524,288; give the"),
        (
            lambda: placement_change([[0]], [[0]], [[1]], 1, -1.0),
            "`expert_bytes`: expected a finite number from 0 up",
        ),
        (lambda: lazsim.PlacementPlan([[[0, 2]], [[0, 1]]], 2), "`slots_LNS`: slot 1 of node 0 in layer 0 holds 2; ex"),
        (lambda: lazsim.PlacementPlan([[[0, -2]]], 2), "`slots_LNS`: slot 1 of node 0 in layer 0 holds -2; experts ar"),
        (lambda: lazsim.PlacementPlan([[0, 1]], 2), "`slots_LNS`: expected shape (layers, nodes, slots), found (1, 2)"),
        (lambda: lazsim.PlacementPlan([[[0.5]]], 2), "`slots_LNS`: slots hold float64, not integers"),
        (lambda: lazsim.PlacementPlan([[[0]]], 0), "`num_experts`: expected a whole number from 1 up, found 0"),
    ],
)
def test_what_public_functions_cannot_take_is_refused_with_the_argument_at_fault(call, expected):
    assert refusal(call, SpecError).startswith(expected)


def test_tokens_of_lists_and_of_several_layers_are_dispatched_as_those_of_arrays():
    assert lazsim.dispatch_tokens([[4, 0]], [[1, 1]]).tolist() == [[[2, 2], [0, 0]]]
    assert lazsim.dispatch_tokens([[[4, 0]]] * 2, [[1, 1]]).tolist() == [[[[2, 2], [0, 0]]]] * 2


def test_a_plan_of_lists_or_of_other_integers_counts_as_one_of_arrays():
    for slots in ([[[0, 1], [1, -1]]], np.array([[[0, 1], [1, -1]]], dtype=np.int8)):
        assert lazsim.PlacementPlan(slots, 2).replicas_LEN.tolist() == [[[1, 0], [1, 1]]]
    assert lazsim.PlacementPlan(np.zeros((1, 1, 1), dtype=np.uint64), 1).replicas_LE.tolist() == [[1]]


@pytest.mark.parametrize("num_workers", [0, -1, 1.5])
def test_a_number_of_workers_below_one_is_refused_and_does_not_mean_all_cores(num_workers):
    told = refusal(lambda: collect(len, [[]], num_workers=num_workers), SpecError)
    assert told == f"`num_workers`: expected a whole number from 1 up, found {num_workers}"


@pytest.mark.parametrize("interval", [600.0, np.float64(600)])
def test_an_interval_without_a_unit_that_is_no_integer_is_refused_with_both_that_it_could_be(interval):
    told = refusal(lambda: lazsim.simulate(lazsim.build_trace(FOUR, duration_s=600), interval=interval), SpecError)
    assert told == "`interval`: 600.0: give 600 for steps, or '600s' for a time"


def test_plans_that_are_scored_without_a_choice_of_placements_compare_none():
    trace = lazsim.build_trace(FOUR, duration_s=600)
    assert not lazsim.simulate(trace, systems=["lazarus"], score_plans=True).compares_placements
    assert lazsim.simulate(trace, systems=["lazarus"], placements=["mro"]).compares_placements


def test_the_tables_of_states_have_the_columns_that_their_guide_names():
    timeline = lazsim.simulate(lazsim.build_trace(FOUR, duration_s=600), systems=["lazarus"]).timeline()
    told = re.search("``(time_s, .*)``", lazsim.RunResult.timeline.__doc__)
    assert list(timeline) == told[1].split(", ")


def test_a_notebook_shows_a_result_as_a_table_and_a_shell_in_a_line():
    result = lazsim.simulate("fail-every-5min", systems=["lazarus"], duration="2min")
    assert "\n" not in repr(result)
    assert f"lazarus {result.runs[0].samples:,}" in repr(result)
    assert "<td>lazarus</td>" in result._repr_html_()


def test_no_trace_and_a_number_as_a_path_are_refused_in_a_line():
    with pytest.raises(lazsim.LazsimError, match=r"^give a `trace`"):
        lazsim.simulate(None)
    with pytest.raises(lazsim.LazsimError, match=r"^unknown trace '3'"):
        lazsim.load_trace(3)
    with pytest.raises(lazsim.LazsimError, match=r"^`trace`: expected a `Trace`, a file or a recipe, got int$"):
        lazsim.simulate(3)


def test_a_path_works_wherever_the_name_of_a_file_does(tmp_path):
    path = tmp_path / "m.toml"
    path.write_bytes(read_spec_bytes("models", "gpt-m"))
    by_path = lazsim.simulate("fail-every-5min", model=path, systems=["ds"], duration="1min")
    by_name = lazsim.simulate("fail-every-5min", model="gpt-m", systems=["ds"], duration="1min")
    assert by_path.runs[0].samples == by_name.runs[0].samples


NARROW = [np.int8, np.uint8, np.int16, np.uint16, np.int64]


@pytest.mark.parametrize("kind", NARROW)
@pytest.mark.parametrize("name", POLICIES)
def test_numbers_of_narrow_types_are_placed_as_those_of_python(name, kind):
    # 12 slots times 100 experts and 40 nodes times 12 slots do not fit into a byte.
    num_nodes, num_slots, num_experts = 40, 12, 100
    replicas = np.full((2, num_experts), 4)
    replicas[:, :80] += 1
    loads = np.arange(1, num_experts + 1)[None].repeat(2, axis=0)
    racks = np.arange(num_nodes) // 4

    def slots(number, array):
        request = lazsim.PlacementRequest(
            array(replicas), number(num_nodes), number(num_slots), number(4), array(loads), number(3), domain_N=racks
        )
        return place(name, request).slots_LNS

    assert np.array_equal(slots(kind, lambda array: array.astype(kind)), slots(int, np.asarray))


@pytest.mark.parametrize("kind", NARROW)
def test_allocations_and_plain_expert_parallelism_take_narrow_types(kind):
    assert lazsim.allocate(np.array([[10, 30, 60]], dtype=kind), kind(100), kind(2)).tolist() == [[10, 30, 60]]
    # Groups of 60 GPUs, two experts on each, over 120 nodes of 8 GPUs.
    plan = lazsim.place_ep(kind(1), kind(120), kind(120), kind(8), kind(2))
    assert plan.slots_LNS.shape == (1, 120, 16)
    assert (plan.replicas_LE == 16).all()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"gpus_per_node": 0}, "`gpus_per_node`: expected a whole number from 1 up, found 0"),
        ({"num_groups": 2.0}, "`num_groups`: expected a whole number from 1 up, found 2.0"),
        ({"seed": None}, "`seed`: expected a whole number from 0 up, found None"),
        ({"move_cost": math.nan}, "`move_cost`: expected a finite number from 0 up, found nan"),
        ({"domain_N": "abcd"}, "`domains`: 1 named for 4 nodes; name one for each"),
        ({"domain_N": [[0, 1]] * 4}, "`domains`: 8 named for 4 nodes; name one for each"),
        ({"old": [[[0]]]}, "`old`: expected a plan, found list"),
    ],
)
def test_a_request_that_no_policy_could_plan_for_is_refused(fields, expected):
    assert refusal(lambda: lazsim.PlacementRequest([[2, 2]], 4, 1, **fields), SpecError) == expected


def test_what_is_frozen_has_arrays_that_nobody_can_write_to():
    request = lazsim.PlacementRequest([[2, 2]], 4, 1, domain_N=["a", "a", "b", "b"], old=place_spread([[2, 2]], 4, 1))
    arrays = [request.replicas_LE, request.load_LE, request.domain_N, request.old.slots_LNS]
    trace = lazsim.build_trace(FOUR, prices=lazsim.Prices([0, 60], [1, 2]))
    arrays += [trace.time_s, trace.change, trace.node, trace.prices.time_s, trace.prices.usd_per_hour]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0


def test_a_policy_may_write_each_plan_into_the_same_array():
    slots = np.zeros((1, 2, 2), dtype=np.int64)

    def mine(request):
        slots[0] = [[0, 1], [request.seed, request.seed]]
        return slots

    plans = [call_policy("mine", mine, lazsim.PlacementRequest([[2, 2]], 2, 2, seed=seed)) for seed in (0, 1)]
    assert [plan.slots_LNS.tolist() for plan in plans] == [[[[0, 1], [0, 0]]], [[[0, 1], [1, 1]]]]


def test_a_policy_that_plans_otherwise_when_asked_again_is_refused():
    calls = []

    def turning(request):
        calls.append(request)
        return [[[0, 1], [0, 1]]] if len(calls) % 2 else [[[1, 0], [1, 0]]]

    told = refusal(lambda: call_policy("turning", turning, lazsim.PlacementRequest([[2, 2]], 2, 2)), SpecError)
    assert told.startswith(
        "policy 'turning' answers otherwise when asked the same again, so that no run would repeat: "
    )


def test_prices_take_lists_and_refuse_what_no_node_costs():
    assert lazsim.Prices([0, 60], [1, 2]) == lazsim.Prices(
        np.array([0.0, 60.0]), np.array([1.0, 2.0], dtype=np.float32)
    )
    for arguments, told in (
        (([0, 60], [1]), "`usd_per_hour`: expected one price for each of `time_s`, found shape (1,) for times of (2,)"),
        (([60, 0], [1, 2]), "`time_s`: expected ascending times of prices; sort them"),
        (([0, 60], [1, -2]), "`usd_per_hour`: expected finite numbers from 0 up, found -2"),
        (([0, 60], [1, math.inf]), "`usd_per_hour`: expected finite numbers from 0 up, found inf"),
        (([0], ["24.48"]), "`usd_per_hour`: expected numbers, found <U5 of shape (1,)"),
    ):
        assert refusal(lambda given=arguments: lazsim.Prices(*given), SpecError) == told
    assert refusal(lambda: lazsim.build_trace(FOUR, prices=24.48)).startswith(
        "`prices`: expected Prices, as Prices.con"
    )


DAY = {"num_nodes": 10, "mtbf_s": 86400.0, "repair_s": 3600.0, "duration_s": 86400.0}


def test_a_recipe_made_in_python_has_numbers_of_numpy_and_times_with_units():
    def samples(recipe):
        return lazsim.simulate(recipe, systems=["ds"], seed=1).runs[0].samples

    expected = samples(lazsim.MtbfSpec(**DAY))
    assert samples(lazsim.MtbfSpec(**DAY | {"num_nodes": np.int64(10), "mtbf_s": np.float32(86400)})) == expected
    assert samples(lazsim.MtbfSpec(**DAY | {"mtbf_s": "1d", "repair_s": "60min"})) == expected


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (lazsim.MtbfSpec(**DAY | {"repair_s": -5.0}), "`trace.repair_s`: expected a duration of 1 ns to 100 years"),
        (lazsim.MarketSpec(num_nodes=9, loss_prob=7, duration_s=60), "`trace.loss_prob`: expected a number <= 1.0"),
        (
            lazsim.MarketSpec(num_nodes=9.5, loss_prob=0, duration_s=60),
            "`trace.num_nodes`: expected a whole number, got",
        ),
        (lazsim.JobSpec(), "`trace`: expected a `Trace`, a file or a recipe, got JobSpec"),
    ],
)
def test_a_recipe_made_in_python_is_checked_where_it_is_used(recipe, expected):
    assert refusal(lambda: lazsim.simulate(recipe), SpecError).startswith(expected)


def test_systems_and_placements_are_names_in_any_collection_and_no_functions():
    def runs(systems, placements=()):
        return [run.name for run in lazsim.simulate(lazsim.build_trace(FOUR, duration_s=60), systems=systems,
                                                    placements=placements).runs]  # fmt: skip

    assert runs(iter(["lazarus"]), np.array(["mro", "spread"])) == ["lazarus:mro", "lazarus:spread"]
    for systems, placements, told in (
        ([len], (), "`systems`: expected a list of names, or of path.py:object, found [<built-in function len>]"),
        (None, (), "`systems`: expected a list of names, or of path.py:object, found None"),
        (["ds"], [lazsim.place_mro], "`placements`: expected a list of names, or of path.py:object, found [<function"),
    ):
        assert refusal(lambda given=systems, two=placements: runs(given, two), SpecError).startswith(told)


def test_a_scenario_changes_a_field_to_a_number_of_numpy_as_it_is_resolved_with_one():
    scenario = lazsim.resolve({"job.fault_threshold": np.int64(3)})
    assert lazsim.resolve({}).replace("job.fault_threshold", np.int64(3)).id == scenario.id


def test_chances_are_drawn_from_a_seed_or_a_generator():
    # Each of 32 of 64 nodes holds one expert, the others none: 2 failures spare all in 32 * 31 of 64 * 63 cases.
    holds = np.eye(32, 64, dtype=bool)[None, :, np.random.default_rng(0).permutation(64)]
    by_seed, again, other = (
        lazsim.recovery_curve(holds, 2, "montecarlo", rng) for rng in (7, np.random.default_rng(7), 8)
    )
    assert by_seed.recovery_prob == again.recovery_prob != other.recovery_prob
    assert by_seed.ci_low < 32 * 31 / (64 * 63) < by_seed.ci_high
    assert refusal(lambda: lazsim.recovery_curve(np.zeros((1, 3, 0), bool), 0), SpecError).startswith("`holds_LEN`")


def test_specifications_and_loads_are_read_by_path_and_others_refused(tmp_path):
    (tmp_path / "m.toml").write_bytes(read_spec_bytes("models", "gpt-m"))
    (tmp_path / "r.toml").write_bytes(read_spec_bytes("routing", "smartmoe-fit"))
    assert lazsim.load_spec(lazsim.ModelSpec, tmp_path / "m.toml") == lazsim.load_spec(lazsim.ModelSpec, "gpt-m")
    # 110 layers of 120 experts do not fit into two bytes of loads.
    by_path = lazsim.load_routing(tmp_path / "r.toml", np.int8(110), np.int8(120), np.int8(1)).loads([5])
    assert (by_path == lazsim.load_routing("smartmoe-fit", 110, 120, 1).loads([5])).all()
    assert (
        refusal(lambda: lazsim.load_routing("smartmoe-fit", 4, 8, None), SpecError)
        == "`seed`: expected a whole number from 0 up, found None"
    )
    assert refusal(lambda: lazsim.load_routing("uniform", 4, 8.0, 0)).startswith(
        "`num_experts`: expected a whole number"
    )
    assert refusal(lambda: lazsim.load_spec(lazsim.MtbfSpec, "meta-rsc-1")) == (
        "`spec_type`: expected one of ModelSpec, GpuSpec, ClusterSpec, JobSpec, StepConstants, found MtbfSpec"
    )


def test_recorded_loads_made_in_python_are_checked():
    recorded = lazsim.RecordedRouting([1, 11], np.array([[[3, 1]], [[0, 4]]], dtype=np.int8))
    assert recorded.loads([0, 10, 11]).tolist() == [[[3, 1]], [[3, 1]], [[0, 4]]]
    for steps, tokens in (([11, 1], [[[3]], [[4]]]), ([1], [[[3]], [[4]]]), ([1], [[3]]), ([1.0], [[[3]]])):
        told = refusal(lambda given=(steps, tokens): lazsim.RecordedRouting(*given), SpecError)
        assert told.startswith("`steps`: expected ascending whole numbers, one for each record of `tokens_SLE`")
    told = refusal(lambda: lazsim.RecordedRouting([1], [[[3, -1]]]), SpecError)
    assert told == "`tokens_SLE`: expected whole numbers from 0 up, found one below 0"


def test_a_specification_or_loads_in_place_of_a_name_are_refused_with_what_to_give():
    model, loads = lazsim.load_spec(lazsim.ModelSpec, "gpt-s"), lazsim.RecordedRouting([0], [[[1, 2]]])
    for setting, given, kind in (("model", model, "ModelSpec"), ("routing", loads, "RecordedRouting")):
        told = refusal(lambda one={setting: given}: lazsim.resolve(one), SpecError)
        assert told == f"`{setting}`: expected a name or the path of a file, found a {kind}; write it to a file"


def test_equal_times_make_equal_ids_and_results_whatever_their_type():
    trace = lazsim.build_trace(FOUR, duration_s=900)
    by_type = [lazsim.simulate(trace, systems=["ds"], duration=given) for given in ("10min", 600, 600.0, np.int64(600))]
    assert len({result.id for result in by_type}) == 1
    assert len({json.dumps(result.to_json()) for result in by_type}) == 1
    for equal in (("5min", "300s"), (300, "300", np.int64(300))):
        assert len({lazsim.resolve({"trace": trace, "interval": interval}).id for interval in equal}) == 1


def test_columns_of_tables_keep_their_types_where_nothing_failed_and_nothing_applies():
    failing = [*FOUR, lazsim.Event(60, "remove", "node1"), lazsim.Event(90, "add", "node1")]
    some, none = (
        lazsim.simulate(lazsim.build_trace(events, duration_s=300), systems=["ds", "lazarus"], placements=placements)
        for events, placements in ((failing, ["mro"]), (FOUR, []))
    )
    assert len(some.recoveries()) > 0 == len(none.recoveries())
    for table in (lazsim.RunResult.recoveries, lazsim.RunResult.events, lazsim.RunResult.timeline):
        if len(table(none)):
            assert (table(some).dtypes == table(none).dtypes).all()
    numbers = some.recoveries().select_dtypes("number")
    assert list(none.recoveries().select_dtypes("number")) == list(numbers)
    assert (none.recoveries()[list(numbers)].dtypes == numbers.dtypes).all()
    assert set(some.summary().select_dtypes("number")) >= {"plan_recovery_prob", "lost_token_share", "cost_usd"}
    assert list(some.summary().select_dtypes("number")) == list(none.summary().select_dtypes("number"))


def test_a_function_without_a_file_is_refused_as_its_results_could_not_be_told_apart():
    made = {}
    exec(compile("def mine(number):\n    return number", "<cell>", "exec"), made)
    told = refusal(lambda: collect(made["mine"], [1], num_workers=1))
    assert told == "`function` mine: define it in a file, by which its results are known"


def test_a_sweep_takes_numbers_of_numpy_ranges_and_paths(tmp_path):
    def samples(**grid):
        base = {"trace": "fail-every-5min", "duration": "5min", "system": "ds"}
        return run_sweep(parse_sweep({"base": base, "grid": grid}), str(tmp_path), num_workers=1).to_frame()["samples"]

    expected = samples(seed=[0, 1], model="gpt-m").tolist()
    (tmp_path / "gpt-m.toml").write_bytes(read_spec_bytes("models", "gpt-m"))
    for seeds in (np.arange(2), range(2), [np.int8(0), np.int64(1)]):
        assert samples(seed=seeds, model=tmp_path / "gpt-m.toml").tolist() == expected


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        ({"start_s": -1.0}, "`start` -1 s: give 0 or more"),
        ({"start_s": None}, "`start`: expected a number of seconds, found None"),
        ({"start_s": "1h"}, "`start`: expected a number of seconds, found '1h'"),
        ({"duration_s": math.nan}, "`duration`: expected a number of seconds, found nan"),
        ({"seed": None}, "`seed`: expected a whole number from 0 up, found None"),
        ({"max_nodes": 8.0}, "`max_nodes`: expected a whole number from 1 up, found 8.0"),
        ({"mapping": {"time_unit": "s"}}, "`mapping`: expected a TraceMapping, found dict"),
    ],
)
def test_a_stretch_that_is_none_and_a_seed_that_would_draw_anew_each_time_are_refused(cut, expected):
    assert refusal(lambda: lazsim.load_trace("spot-p3-like", **cut)) == expected
