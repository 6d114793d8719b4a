"""Which nodes of a trace are neighbours: what their names or a list of nodes say, whatever fails first."""

import itertools
import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.engine.nodes import Nodes
from lazsim.engine.plan_reliability import count_losses
from lazsim.errors import SpecError, TraceFormatError
from lazsim.scenario import resolve
from lazsim.study.deadline import switch_to_on_demand
from lazsim.study.result import flat_row
from lazsim.study.simulation import run_scenario
from lazsim.trace import (
    CAP_RULES,
    Event,
    TraceMapping,
    build_trace,
    cut_trace,
    make_mapping,
    read_trace,
    trace_bytes,
    write_trace,
)
from lazsim.trace.generate import generate_trace
from lazsim.trace.recipes import MtbfSpec
from lazsim.units import DAY_S, HOUR_S

FAILING = ("gpu-10", "gpu-2", "gpu-1")
"""In the order of their first failures, at 1, 2 and 3 o'clock."""

HOURS = list(enumerate(FAILING, start=1))
STARTS = [(f"2025-03-01T0{hour}:00:00", node) for hour, node in HOURS]
KUBERNETES = [
    {"involvedObject": {"kind": "Node", "name": node}, "reason": "NodeNotReady", "lastTimestamp": f"{start}Z"}
    for start, node in STARTS
]
CALLS = [
    {
        "eventSource": "ec2.amazonaws.com", "eventName": "BidEvictedEvent", "eventTime": f"{start}Z",
        "serviceEventDetails": {"instanceIdSet": [f"i-{node[4:]}"]},
    }
    for start, node in STARTS
]  # fmt: skip
SOURCES = {
    "outages": "node,start,end\n" + "".join(f"{node},{start},\n" for start, node in STARTS),
    "losses": "instance,preempted_at\n" + "".join(f"{node},{start}\n" for start, node in STARTS),
    "states": "time,node,state\n"
    + "".join(f"{start},{node},down\n{start[:-1]}5,{node},up\n" for start, node in STARTS),
    "slurm": "".join(f"[{start}.000] error: Nodes {node} not responding, setting DOWN\n" for start, node in STARTS),
    "kubernetes": json.dumps({"items": KUBERNETES}),
    "infinitehbd": json.dumps(
        [{"node_id": node, "event_time": hour / 24, "event_type": "fault_start"} for hour, node in HOURS]
    ),
    "samples": "Time,gpu-10,gpu-2,gpu-1\n2025-03-01T00:00:00,1,1,1\n2025-03-01T01:00:00,0,1,1\n"
    "2025-03-01T02:00:00,0,0,1\n2025-03-01T03:00:00,0,0,1\n",
    "cloudtrail": json.dumps({"Records": CALLS}),
}


def places(trace):
    """Return the nodes that are there at the start, or away, in their order: the trace begins with its first event."""
    return tuple(dict.fromkeys(event.node for event in trace.events() if not event.time_s))


def outages(*rows, end="2025-03-02"):
    return "node,start,end\n" + "".join(f"{node},{start},{end}\n" for node, start in rows)


def neighbours_lost(trace):
    """Return the instants that lose two nodes, and those of which the two stand side by side, by the engine's seats."""
    nodes, num_pairs, num_neighbours = Nodes(trace.places), 0, 0
    for batch in trace.batches():
        seats = {node: seat for seat, node in enumerate(nodes.in_order())}
        if len(batch.removed) == 2:
            num_pairs += 1
            num_neighbours += abs(seats[batch.removed[0]] - seats[batch.removed[1]]) == 1
        nodes.apply(batch)
    return num_pairs, num_neighbours


@pytest.mark.parametrize("source", SOURCES)
def test_nodes_stand_in_the_order_of_their_names_whatever_fails_first(write, source):
    trace = read_trace(write(SOURCES[source]))
    assert [name.rpartition("-")[2] for name in places(trace)] == ["1", "2", "10"]


@pytest.mark.parametrize("source", [source for source in SOURCES if source != "cloudtrail"])
def test_a_list_of_nodes_tells_the_order_of_all(write, source):
    names = ("gpu-2", "spare", "gpu-10", "gpu-3", "gpu-1")
    trace = read_trace(write(SOURCES[source]), mapping=TraceMapping(cluster_nodes=names))
    assert (places(trace), trace.is_drawn) == (names, False)


def test_a_file_of_names_tells_the_order_of_all_by_its_lines(write):
    names = write("gpu-10  # rack 1\ngpu-7\ngpu-2\n\ngpu-1\n", "names.txt")
    trace = read_trace(write(SOURCES["slurm"]), mapping=make_mapping(cluster_nodes=str(names)))
    assert places(trace) == ("gpu-10", "gpu-7", "gpu-2", "gpu-1")


@pytest.mark.parametrize("text", [
    "gpu-1,rack1\ngpu-2,rack1\n", "gpu-[1,2],rack1\ngpu-10,rack2\n", "NODELIST\ngpu-1\n",
    "NAME    STATUS   ROLES\ngpu-1   Ready    <none>\n",
])  # fmt: skip
def test_a_table_of_nodes_does_not_make_nodes_of_its_racks_or_header(write, text):
    with pytest.raises(SpecError, match="seems a table; give names of nodes alone"):
        make_mapping(cluster_nodes=str(write(text, "names.txt")))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gpu-2,gpu-1", ("gpu-2", "gpu-1")),
        ("a[1,3]\na[5,7]\n", ("a1", "a3", "a5", "a7")),
        ("a[1-2],b\na3,a4,c\n", ("a1", "a2", "b", "a3", "a4", "c")),
        ("a1 slots=8\nb1 slots=8\n", ("a1", "b1")),
    ],
)
def test_a_file_of_lists_has_their_names(write, text, names):
    assert make_mapping(cluster_nodes=str(write(text, "names.txt"))).cluster_nodes == names


@pytest.mark.parametrize(
    "names",
    [
        ("10.0.0.9", "10.0.0.10", "10.0.1.1"),
        ("rack2-node1", "rack2-node10", "rack10-node2"),
        # Cases and zeros make other names, and each pair has an order.
        ("A1", "a01", "a1", "a1b"),
        ("i-0a", "i-0b", "i-1a"),
        ("n1", "n" + "9" * 19, "n1" + "0" * 19),
        ("-", "1", "x"),
    ],
)
def test_names_are_in_the_order_of_their_numbers_and_only_in_that(write, names):
    found = set()
    for order in itertools.permutations(names):
        starts = enumerate(order, start=1)
        faults = [{"node_id": node, "event_time": day, "event_type": "fault_start"} for day, node in starts]
        found.add(places(read_trace(write(json.dumps(faults)))))
    assert len(found) == 1
    assert found == {names}


@pytest.mark.parametrize("num_nodes", [10, 40])
def test_two_nodes_that_fail_together_are_neighbours_as_often_as_any_two(write, num_nodes):
    path = write(outages(("a", "2025-03-01"), ("b", "2025-03-01"), ("c", "2025-03-01T06:00")))
    mapping, num_seeds = TraceMapping(cluster_nodes=num_nodes, span=("2025-02-28", "2025-03-03")), 300
    found = [neighbours_lost(read_trace(path, seed=seed, mapping=mapping)) for seed in range(num_seeds)]
    assert {pairs for pairs, _ in found} == {1}
    # Two of n nodes are neighbours in n - 1 of n (n - 1) / 2 cases. Of three pairs in the order of names, those of the
    # first and the last never are; so the others have 3 x 2 / n between them.
    chance = 3 * 2 / num_nodes / 2
    spread = (num_seeds * chance * (1 - chance)) ** 0.5
    assert abs(sum(neighbours for _, neighbours in found) - num_seeds * chance) < 4 * spread


def test_nodes_that_fail_share_a_rack_with_each_other_as_often_as_any_two(write):
    # Of 24 nodes in racks of 4, a node shares its rack with 3 of 23 others. Healthy nodes at the end would make that 1,
    # and two nodes that are spread evenly 0.
    path, num_seeds = write(outages(("a", "2025-03-01"), ("b", "2025-03-01"))), 300
    num_shared = 0
    for seed in range(num_seeds):
        names = places(read_trace(path, seed=seed, mapping=TraceMapping(cluster_nodes=24)))
        num_shared += names.index("a") // 4 == names.index("b") // 4
    assert abs(num_shared - num_seeds * 3 / 23) < 4 * (num_seeds * 3 / 23 * 20 / 23) ** 0.5


def test_each_place_is_that_of_a_healthy_node_equally_often(write):
    path, num_seeds = write(outages(("a", "2025-03-01"), ("b", "2025-03-01"))), 300
    traces = (read_trace(path, seed=seed, mapping=TraceMapping(cluster_nodes=8)) for seed in range(num_seeds))
    healthy = sum(np.array([name.startswith("healthy") for name in places(trace)], int) for trace in traces)
    # 6 of 8 places; the standard deviation is 7.5.
    assert np.abs(healthy - num_seeds * 6 / 8).max() < 4 * 7.5


def test_places_are_drawn_by_the_seed_where_only_the_number_of_nodes_is_known(write):
    path = write(SOURCES["slurm"])
    drawn = [read_trace(path, seed=seed, mapping=TraceMapping(cluster_nodes=40)) for seed in (0, 0, 1)]
    assert drawn[0].events_sha256 == drawn[1].events_sha256
    assert places(drawn[0]) != places(drawn[2])
    assert [name for name in places(drawn[2]) if name in FAILING] == ["gpu-1", "gpu-2", "gpu-10"]
    assert all(trace.is_drawn and any("at which places is drawn" in note for note in trace.notes) for trace in drawn)
    for mapping in (TraceMapping(), TraceMapping(cluster_nodes=3), TraceMapping(cluster_nodes=("gpu-[1-40]",))):
        settled = [read_trace(path, seed=seed, mapping=mapping) for seed in (0, 1)]
        assert settled[0].events_sha256 == settled[1].events_sha256
        assert not any(trace.is_drawn or any("drawn" in note for note in trace.notes) for trace in settled)


def test_rows_of_one_instant_may_come_in_any_order(write):
    rows = [(node, "2025-03-01") for node in ("n3", "n20", "n1", "n11")] + [("n7", "2025-03-01T12:00")]
    found = set()
    for order in itertools.permutations(rows):
        trace = read_trace(write(outages(*order)), mapping=TraceMapping(span=("2025-02-28", "2025-03-03")))
        found.add((trace.events_sha256, trace.names))
    assert len(found) == 1
    # All are back at the same time, and take places in the order of their names again.
    assert list(trace.batches())[-1].added == ("n1", "n3", "n7", "n11", "n20")


def test_a_file_that_says_when_each_node_came_keeps_its_order(write):
    rows = "time_s,event,node\n0,add,n10\n0,add,n2\n0,add,n1\n60,remove,n10\n90,add,n10\n"
    assert places(read_trace(write(rows))) == ("n10", "n2", "n1")


def test_converting_a_trace_keeps_its_places(write, tmp_path):
    for number, nodes in enumerate((None, 9, ("gpu-[1-12]",))):
        trace = read_trace(write(SOURCES["outages"]), seed=3, mapping=TraceMapping(cluster_nodes=nodes))
        write_trace(trace, tmp_path / f"{number}.csv")
        again = read_trace(tmp_path / f"{number}.csv", seed=8)
        assert list(again.batches()) == list(trace.batches())
        assert (again.names, again.is_drawn) == (trace.names, False)


def test_a_stretch_keeps_the_order_of_nodes_that_were_lost_before_it_and_came_back():
    adds = [Event(0.0, "add", f"n{number}") for number in range(5)]
    both = [Event(60.0, "remove", "n0"), Event(60.0, "remove", "n3"), Event(70.0, "remove", "n2")]
    back = [Event(90.0, "add", "n3"), Event(90.0, "add", "n0"), Event(95.0, "add", "new")]
    trace = build_trace([*adds, *both, *back], duration_s=600.0)
    assert places(trace.window(100.0)) == ("n0", "n1", "n3", "n4", "new")


def rack_losses(trace):
    """Return the failures that take whole racks of four nodes, by the engine's places, and all of several nodes."""
    losses = count_losses(trace, trace.duration_s, nodes_per_domain=4)
    whole = sum(times for (_, is_whole), times in losses.items() if is_whole)
    return whole, sum(times for (number, is_whole), times in losses.items() if is_whole or number > 1)


@pytest.mark.parametrize("start_s", [0.0, 5 * DAY_S])
def test_racks_that_fail_as_one_stay_racks_though_nodes_come_back_in_another_order(start_s):
    spec = MtbfSpec(
        num_nodes=24, mtbf_s=30 * HOUR_S, repair_s=4 * HOUR_S, batch_share=0.4, nodes_per_domain=4,
        duration_s=20 * DAY_S,
    )  # fmt: skip
    for seed in range(3):
        # Names are node1, node2 and so on, and racks are those of successive names.
        trace = generate_trace(spec, np.random.default_rng(seed)).window(start_s)
        whole, several = rack_losses(trace)
        # Single nodes fail at no time of another one, so that all losses of several nodes are those of a rack.
        assert whole == several > 10
        assert all(node == f"node{place + 1}" for node, place in trace.places.items())


def test_a_new_node_takes_the_lowest_place_to_which_no_other_comes_back():
    adds = [Event(0.0, "add", node) for node in "abcd"]
    lost = [Event(10.0, "remove", node) for node in "bcd"]
    # "c" comes back, so that "x" and "y" take the places of "b" and "d", and "z" the next one; "x" goes for good.
    later = [*(Event(20.0, "add", node) for node in "xyz"), Event(30.0, "remove", "x"), Event(40.0, "add", "w")]
    trace = build_trace([*adds, *lost, *later, Event(50.0, "add", "c")])
    assert trace.places == {"a": 0, "b": 1, "c": 2, "d": 3, "x": 1, "y": 3, "z": 4, "w": 1}
    # At 45 s, "b", "d" and "x" are gone for good, and "c" is yet to come back.
    assert trace.window(45.0).places == {"a": 0, "c": 2, "y": 3, "z": 4, "w": 1}
    assert build_trace([Event(0.0, "away", "a"), *adds[1:], Event(9.0, "add", "x")]).places["x"] == 0
    # "x" comes and goes at one instant, and leaves its place to "y".
    instant = [Event(10.0, "add", "x"), Event(10.0, "remove", "x"), Event(10.0, "add", "y")]
    trace = build_trace([*adds, *instant])
    assert trace.window(5.0).places == trace.places == dict(zip("abcdxy", [0, 1, 2, 3, 4, 4], strict=True))


@pytest.mark.parametrize("duration_s", [200.0, 100.0])
def test_racks_stay_racks_in_a_stretch_though_a_node_was_lost_for_good_before_it(duration_s):
    adds = [Event(0.0, "add", f"n{number}") for number in range(8)]
    rack = [f"n{number}" for number in range(4, 8)]
    both = [*(Event(100.0, "remove", node) for node in rack), *(Event(130.0, "add", node) for node in rack)]
    trace = build_trace([*adds, Event(10.0, "remove", "n1"), *both], duration_s=300.0)
    # A note on a stretch, and a stretch of it, leave it what it is.
    stretch = replace(trace.window(50.0, duration_s), notes=("cut",)).window(5.0)
    assert count_losses(stretch, 200.0, nodes_per_domain=4) == {(1, True): 1}


def test_nodes_stand_as_in_the_whole_trace_until_others_that_stay_take_their_places():
    adds = [Event(0.0, "add", node) for node in "abc"]
    # "a" comes back after the switch, so that "x" has a place of its own before it.
    trace = build_trace([*adds, Event(10.0, "remove", "a"), Event(20.0, "add", "x"), Event(90.0, "add", "a")])
    switched = switch_to_on_demand(trace, 50.0, 2, 100.0)
    assert switched.places == {"a": 0, "b": 1, "c": 2, "x": 3, "on-demand-0": 0, "on-demand-1": 1}


def test_servers_of_the_published_fault_list_are_neighbours_by_chance(shared):
    trace = read_trace(shared / "traces" / "infinitehbd" / "fault_trace.json")
    num_pairs, num_neighbours = neighbours_lost(trace)
    # 2 of 400 pairs of any two nodes, and 2 of 231 of those in the order of names without a healthy one between them:
    # of 19 pairs, three would be neighbours with a probability below 0.001. In the order of failures, 9 were.
    assert (num_pairs, len(trace.names)) == (19, 400)
    assert num_neighbours < 3


def returning(instants, away):
    """Make a trace in which each instant toggles nodes, some of which are away from the start."""
    alive, events = set(), [Event(0.0, "away", f"n{node}") for node in sorted(away - instants[0])]
    for minute, nodes in enumerate(instants):
        for node in sorted(nodes, key=lambda node: node * 7 % 11):
            events.append(Event(60.0 * minute, "remove" if node in alive else "add", f"n{node}"))
            alive ^= {node}
    return build_trace(events, duration_s=60.0 * len(instants))


some = st.sets(st.integers(0, 7))


@given(instants=st.lists(some, min_size=2, max_size=15), away=some, cut=st.tuples(*[st.floats(0.0, 0.9)] * 4),
       cap=st.sampled_from([None, *CAP_RULES]))  # fmt: skip
def test_a_stretch_and_the_file_of_it_are_the_same_trace(tmp_path_factory, instants, away, cut, cap):
    trace, path = returning(instants, away), tmp_path_factory.mktemp("stretch") / "trace.csv"
    start_s, duration_s, _, less_s = (share * trace.duration_s for share in cut)
    part = trace.window(start_s, trace.duration_s - start_s - 0.1 * duration_s)
    write_trace(part, path)
    if not len(part):
        return
    again = read_trace(path)
    rest = {"start_s": cut[2] * part.duration_s, "duration_s": max(1.0, part.duration_s - less_s)}
    rest |= {} if cap is None else {"max_nodes": 3, "cap": cap}
    for one, other in ((part, again), (cut_trace(part, **rest), cut_trace(again, **rest))):
        assert (one.events_sha256, one.names, one.places) == (other.events_sha256, other.names, other.places)
        assert one.duration_s == other.duration_s
    # No two nodes that are there at once share a place, and nodes stand where they do in the whole trace.
    alive = set()
    for batch in part.batches():
        alive = alive - set(batch.removed) | set(batch.added)
        assert len({part.places[node] for node in alive}) == len(alive)
    assert part.places.items() <= trace.places.items()


def test_a_run_of_a_stretch_and_one_of_its_file_are_the_same(tmp_path):
    racks = MtbfSpec(
        num_nodes=16, mtbf_s=5 * HOUR_S, repair_s=3 * HOUR_S, batch_share=0.5, nodes_per_domain=4, duration_s=2 * DAY_S
    )
    write_trace(generate_trace(racks, np.random.default_rng(0)), tmp_path / "whole.csv")
    write_trace(read_trace(tmp_path / "whole.csv").window(DAY_S), tmp_path / "part.csv")
    rows = (tmp_path / "part.csv").read_text().splitlines(keepends=True)
    (tmp_path / "bare.csv").write_text("".join(row for row in rows if not row.startswith("# places: ")))
    settings = {"model": "gpt-s", "placement": "domains", "cluster.nodes_per_domain": 4, "duration": 4 * HOUR_S}

    def row_of(**asked):
        asked["trace"] = str(tmp_path / asked["trace"])
        scenario = resolve(settings | asked)
        run = run_scenario(scenario)
        return {**flat_row(scenario, run), "id": ""}

    row = row_of(trace="whole.csv", start=DAY_S)
    assert row_of(trace="part.csv") == row != row_of(trace="bare.csv")
    assert row_of(trace="part.csv", max_nodes=12) == row_of(trace="whole.csv", start=DAY_S, max_nodes=12)


HEAD = "# format: lazsim-trace 1\n# places: {}\ntime_s,event,nodes\n"
ROWS = "0,add,a b:1\n60,remove,a\n90,add,c\n"


def test_a_file_may_say_where_its_nodes_stand(write):
    trace = read_trace(write(HEAD.format("c:4 b:1:0 a:4") + ROWS))
    assert trace.places == {"a": 4, "b:1": 0, "c": 4}
    assert trace_bytes(trace).decode().splitlines()[2] == "# places: a:4 b:1:0 c:4"
    assert trace.events_sha256 != read_trace(write(HEAD.format("") + ROWS)).events_sha256
    # Their order says the same.
    trace = read_trace(write(HEAD.format("a:0 b:1:1 c:0") + ROWS))
    assert trace.events_sha256 == read_trace(write(HEAD.format("") + ROWS)).events_sha256
    assert "places" not in trace_bytes(trace).decode()


def test_names_of_the_user_are_in_the_order_of_their_places_also_where_they_come_later(write):
    path = write("time_s,event,node\n0,add,n1\n0,add,n4\n100,add,n3\n200,remove,n1\n300,add,n5\n")
    trace = read_trace(path, mapping=make_mapping(cluster_nodes="n[1-5]"))
    assert trace.places == {"n1": 0, "n2": 1, "n3": 2, "n4": 3, "n5": 4}


def test_nodes_on_demand_are_none_of_the_trace_whatever_its_names():
    trace = build_trace([Event(0.0, "add", name) for name in ("a", "b", "on-demand-0")], duration_s=100.0)
    switched = switch_to_on_demand(trace, 60.0, 2, 100.0)
    assert switched.places == {**trace.places, "on-demand-1": 0, "on-demand-2": 1}
    assert [len(batch.added) for batch in switched.batches()] == [3, 2]


def test_a_header_needs_no_blanks(write):
    trace = read_trace(
        write("#format:lazsim-trace 1\n#places:a:4 b:1:0 c:4\n# duration_s :7200\ntime_s,event,nodes\n" + ROWS)
    )
    assert (trace.places, trace.duration_s) == ({"a": 4, "b:1": 0, "c": 4}, 7200.0)


@pytest.mark.parametrize(
    ("places", "fault"),
    [
        ("a:0 b:1:x c:2", "# places: expected node:place, each node once, with places from 0 to .*, found 'b:1:x'"),
        ("a:0 b:1:-1 c:2", "found 'b:1:-1'"),
        ("a:0 b:1:1.5 c:2", "found 'b:1:1.5'"),
        ("a:0 b:1:1 c", "found 'c'"),
        ("a:0 b:1:1 c:1e30", "found 'c:1e30'"),
        ("a:0 b:1:1 c:2 a:3", "found 'a:3'"),
        ("a:0 b:1:1", "places: node 'c' has none"),
        ("a:0 b:1:1\n# places: c:2", "line 3: a second line '# places:'"),
        ("a:0 b:1:1 c:1", "line 6: node 'c' comes to place 1, which then has 2 nodes at once"),
        ("a:0 b:1:0 c:1", "line 4: node 'b:1' comes to place 0, which then has 2 nodes at once"),
    ],
)
def test_places_that_cannot_be_are_refused_and_left_out_when_lenient(write, places, fault):
    path = write(HEAD.format(places) + ROWS)
    with pytest.raises(TraceFormatError, match=fault):
        read_trace(path)
    trace = read_trace(path, lenient=True)
    assert trace.places == {"a": 0, "b:1": 1, "c": 0}
    assert any("number places by the order of nodes" in note for note in trace.notes)


@given(instants=st.lists(some, min_size=1, max_size=8), away=some, at=st.lists(st.integers(0, 6), min_size=8))
def test_places_are_refused_if_and_only_if_two_nodes_stand_on_one(instants, away, at):
    trace, places = returning(instants, away), {f"n{node}": at[node] for node in range(8)}
    alive, shared = set(), False
    for batch in trace.batches():
        alive = alive - set(batch.removed) | set(batch.added)
        shared |= len({places[node] for node in alive}) < len(alive)
    with pytest.raises(TraceFormatError, match=r"has . nodes at once") if shared else nullcontext():
        assert build_trace(trace.events(), places=places).places.items() <= places.items()


@pytest.mark.parametrize("places", [[0], "a:0"])
def test_places_are_a_dict(places):
    with pytest.raises(TraceFormatError, match="`places`: expected a dict"):
        build_trace([Event(0.0, "add", "a")], places=places)


@pytest.mark.parametrize("place", [-1, 0.5, "0", 10**30])
def test_a_place_is_a_whole_number(place):
    with pytest.raises(TraceFormatError, match=r"`places`: expected a whole number from 0 to .* for node 'a'"):
        build_trace([Event(0.0, "add", "a")], places={"a": place})
