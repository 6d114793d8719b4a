"""The functions and results of ``import lazsim``, as a script uses them."""

import math
import pickle

import numpy as np
import pytest

import lazsim
from lazsim.errors import TraceFormatError

FOUR = [lazsim.Event(0, "add", f"node{number}") for number in range(4)]


def refusal(call, kind=lazsim.LazsimError):
    """Return the one line with which a call is refused."""
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "event", [lazsim.Event(60, "joined", "a"), (0, "add", "a"), lazsim.Event("0", "add", "a"), FOUR[0]._replace(node=1)]
)
@pytest.mark.parametrize("lenient", [False, True])
def test_an_event_of_an_unknown_kind_is_refused_and_no_removal(event, lenient):
    told = refusal(lambda: lazsim.build_trace([*FOUR, event], lenient=lenient), TraceFormatError)
    assert told == f"`events`: expected Event(seconds, 'add' or 'remove', name of a node), found {event!r}"


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
