import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.errors import LazsimError
from lazsim.trace import Event, build_trace, cap_trace, cut_trace, load_trace, read_trace

# each instant toggles some of eight nodes: one that is alive goes, one that is not comes
toggles = st.lists(st.sets(st.integers(0, 7), min_size=1), min_size=1, max_size=15)


def make_trace(instants):
    """Make a trace in which odd nodes are away from the start, unless they are there."""
    alive, events = set(), [Event(0.0, "away", f"n{node}") for node in (1, 3, 5, 7) if node not in instants[0]]
    for minute, nodes in enumerate(instants):
        for node in sorted(nodes):
            events.append(Event(60.0 * minute, "remove" if node in alive else "add", f"n{node}"))
            alive ^= {node}
    return build_trace(events, duration_s=60.0 * len(instants))


def count_at(trace, time_s):
    return int(trace.change[trace.time_s <= time_s].sum())


def alive_at(trace, time_s):
    alive = set()
    for event in trace.events():
        if event.time_s <= time_s:
            (alive.add if event.kind == "add" else alive.discard)(event.node)
    return alive


@given(instants=toggles, most=st.integers(1, 9), seed=st.integers(0, 5))
def test_offset_shows_the_count_less_a_constant_at_every_instant(instants, most, seed):
    trace = make_trace(instants)
    capped = cap_trace(trace, most, "offset", np.random.default_rng(seed))
    constant = max(0, trace.num_alive()[1].max() - most)
    for minute in range(len(instants)):
        assert count_at(capped, 60.0 * minute) == max(0, count_at(trace, 60.0 * minute) - constant)


@given(instants=toggles, most=st.integers(1, 9), seed=st.integers(0, 5))
def test_offset_feels_every_loss(instants, most, seed):
    trace = make_trace(instants)
    capped = {b.time_s: b for b in cap_trace(trace, most, "offset", np.random.default_rng(seed)).batches()}
    constant = max(0, trace.num_alive()[1].max() - most)
    before = 0
    for batch in trace.batches():
        shown_before, shown_after = max(0, before - constant), max(0, before - len(batch.removed) - constant)
        lost = len(capped[batch.time_s].removed) if batch.time_s in capped else 0
        assert lost == shown_before - shown_after
        before += len(batch.added) - len(batch.removed)


@pytest.mark.parametrize("trace_s", [60.0, 120.0])
def test_nodes_that_come_as_the_stretch_ends_leave_offset_as_it_is(trace_s):
    # Of three nodes, two are shown until 60 s, when a fourth comes.
    events = [*(Event(0.0, "add", name) for name in "abc"), Event(60.0, "add", "d")]
    trace = build_trace(events, duration_s=trace_s)
    capped = cut_trace(trace, duration_s=60.0, max_nodes=2, cap="offset")
    assert [count_at(capped, time_s) for time_s in (0.0, 59.0, 60.0)] == [2, 2, 2]


@given(instants=toggles, most=st.integers(1, 9))
def test_clip_shows_the_lesser_of_count_and_maximum(instants, most):
    trace = make_trace(instants)
    capped = cap_trace(trace, most, "clip", np.random.default_rng(0))
    for minute in range(len(instants)):
        assert count_at(capped, 60.0 * minute) == min(most, count_at(trace, 60.0 * minute))


@given(instants=toggles, most=st.integers(1, 9))
def test_first_follows_the_first_names_only(instants, most):
    trace = make_trace(instants)
    capped = cap_trace(trace, most, "first", np.random.default_rng(0))
    followed = trace.names[:most]
    assert list(capped.events()) == [event for event in trace.events() if event.node in followed]


rules = st.sampled_from(["offset", "clip", "members", "first"])


@given(instants=toggles, rule=rules, more=st.integers(0, 3), start_s=st.integers(0, 20))
def test_a_cap_that_the_trace_never_exceeds_leaves_it_as_it_is(instants, rule, more, start_s):
    trace = make_trace(instants).window(20.0 * start_s)
    alive = {0.0, *trace.time_s.tolist()}
    most = len(trace.names) if rule == "first" else max(len(alive_at(trace, time_s)) for time_s in alive)
    capped = cap_trace(trace, max(1, most) + more, rule, np.random.default_rng(0))
    assert list(capped.events()) == list(trace.events())
    assert (capped.places, capped.is_drawn) == (trace.places, False)


@given(instants=toggles, most=st.integers(1, 7), rule=rules)
def test_nodes_of_a_job_stand_side_by_side_at_first_and_it_loses_none_before_it_begins(instants, most, rule):
    trace = make_trace(instants)
    capped = cap_trace(trace, most, rule, np.random.default_rng(0))
    if (len(trace.names) if rule == "first" else trace.num_alive()[1].max()) > most:
        first = [event.node for event in capped.events() if not event.time_s]
        assert [capped.places[node] for node in first] == list(range(len(first)))
        followed = trace.names[:most] if rule == "first" else ()
        assert capped.away == tuple(node for node in trace.away if node in followed)


@given(instants=toggles, most=st.integers(1, 9), rule=rules, seed=st.integers(0, 5))
def test_no_rule_shows_too_many_nodes_or_nodes_that_are_not_alive(instants, most, rule, seed):
    trace = make_trace(instants)
    capped = cap_trace(trace, most, rule, np.random.default_rng(seed))
    assert capped.duration_s == trace.duration_s
    for minute in range(len(instants)):
        shown = alive_at(capped, 60.0 * minute)
        assert len(shown) <= most
        assert shown <= alive_at(trace, 60.0 * minute)


@given(instants=toggles, most=st.integers(1, 9), seed=st.integers(0, 5))
def test_members_are_replaced_by_nodes_that_come_later_only(instants, most, seed):
    trace = make_trace(instants)
    capped = {batch.time_s: batch for batch in cap_trace(trace, most, "members", np.random.default_rng(seed)).batches()}
    members = set()
    for batch in trace.batches():
        shown = capped.pop(batch.time_s, None)
        removed, added = (set(shown.removed), set(shown.added)) if shown else (set(), set())
        assert removed == members & set(batch.removed)
        members -= removed
        # As many as there are places for, of those that come at this instant.
        assert added <= set(batch.added)
        assert len(added) == min(len(batch.added), most - len(members))
        members |= added
    assert not capped


def test_any_node_may_become_a_member():
    trace = build_trace([Event(0.0, "add", name) for name in "abcd"])
    drawn = [alive_at(cap_trace(trace, 2, "members", np.random.default_rng(seed)), 0.0) for seed in range(40)]
    assert {frozenset(pair) for pair in drawn} == {frozenset(pair) for pair in ("ab", "ac", "ad", "bc", "bd", "cd")}


def test_a_job_held_to_fewer_nodes_loses_as_large_a_share_of_them_unless_told_otherwise():
    # One of eight nodes goes: it is one of the two of the job with a probability of 1/4, whatever the seed draws.
    trace = build_trace([*(Event(0.0, "add", name) for name in "abcdefgh"), Event(60.0, "remove", "c")])
    capped = [cut_trace(trace, max_nodes=2, seed=seed) for seed in range(400)]
    hit = sum(any(event.kind == "remove" for event in one.events()) for one in capped)
    assert abs(hit - 100) < 4 * math.sqrt(400 * 1 / 4 * 3 / 4)


def test_spare_steps_in_at_the_instant_of_the_loss():
    trace = build_trace([Event(0.0, "add", name) for name in "abcd"] + [Event(60.0, "remove", "a")])
    assert list(cap_trace(trace, 2, "clip", np.random.default_rng(0)).batches())[1][1:] == (("a",), ("c",))


def test_death_of_a_hidden_node_takes_a_shown_one_out():
    # four nodes, at most two: the constant is 2, so c and d are shown first or a and b are; then a hidden one dies
    events = [Event(0.0, "add", name) for name in "abcd"]
    shown = alive_at(cap_trace(build_trace(events), 2, "offset", np.random.default_rng(0)), 0.0)
    hidden = next(name for name in "abcd" if name not in shown)
    capped = cap_trace(build_trace([*events, Event(60.0, "remove", hidden)]), 2, "offset", np.random.default_rng(0))
    batch = list(capped.batches())[1]
    assert len(batch.removed) == 1
    assert set(batch.removed) <= shown


def test_same_seed_gives_the_same_cap():
    trace = make_trace([{0, 1, 2, 3, 4, 5}, {0}, {1}, {0, 2}, {3}])
    one, two = (list(cap_trace(trace, 3, "offset", np.random.default_rng(4)).events()) for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("most", "rule", "says"), [(2, "offest", "did you mean 'offset'"), (0, "clip", "from 1 up, found 0")]
)
def test_bad_cap_is_refused_in_one_line(most, rule, says):
    with pytest.raises(LazsimError, match=says):
        cap_trace(make_trace([{0}]), most, rule, np.random.default_rng(0))


@pytest.mark.parametrize("duration_s", [None, 4800.0])
def test_published_ten_node_replay_loses_four_nodes_at_minute_34(shared, duration_s):
    trace = load_trace(shared / "traces/bamboo/p3-trace.csv", duration_s=duration_s, max_nodes=10, cap="offset")
    assert count_at(trace, 33 * 60.0) == 10
    assert count_at(trace, 34 * 60.0) == 6
    lost = next(batch for batch in trace.batches() if batch.time_s == 34 * 60.0)
    assert (len(lost.removed), len(lost.added)) == (4, 0)


def test_trace_that_ends_early_is_told():
    trace = load_trace("fail-every-5min", duration_s=7200.0)
    assert trace.duration_s == 1800.0
    assert "120 min asked for, but the trace ends after 30 min" in trace.notes


@pytest.mark.parametrize(("options", "says"), [({"start_s": 120.0}, "`start`"), ({"duration_s": 0.0}, "`duration`")])
def test_stretch_outside_the_trace_is_refused(options, says):
    with pytest.raises(LazsimError, match=says):
        cut_trace(make_trace([{0}, {1}]), **options)


def test_load_draws_names_and_cap_from_separate_streams(shared):
    path = shared / "traces/parcae/p3.csv"
    capped = load_trace(path, seed=3, max_nodes=10)
    assert set(capped.names) <= set(read_trace(path, seed=3).names)
    assert list(capped.events()) == list(load_trace(path, seed=3, max_nodes=10).events())
