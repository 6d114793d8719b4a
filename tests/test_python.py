"""The functions and results of ``import lazsim``, as a script uses them."""

import math
import pickle
import re

import numpy as np
import pytest

import lazsim
from lazsim.errors import SpecError, TraceFormatError
from lazsim.placement.baselines import place_compact, place_spread
from lazsim.specs.catalog import read_spec_bytes
from lazsim.study.collect import collect
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
