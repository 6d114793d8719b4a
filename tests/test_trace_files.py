"""Files as people have them: what they say of nodes is worked out here by intervals, or they are refused."""

import json

import pytest

from lazsim.trace import make_mapping, read_trace, trace_stats
from tests.conftest import refusal

HOUR_S = 3600.0
START = 1740787200
"""2025-03-01, in seconds since 1970."""


def said(num_nodes, hours, *outages):
    """Return the span in seconds, losses and node-seconds of nodes that are away in stretches of hours, by node."""
    num_losses, away_h = 0, 0.0
    for node in {node for node, _, _ in outages}:
        end_h = -1.0
        for begin_h, until_h in sorted((begin, min(until, hours)) for name, begin, until in outages if name == node):
            num_losses += begin_h > end_h
            away_h += max(0.0, until_h - max(begin_h, end_h))
            end_h = max(end_h, until_h)
    return hours * HOUR_S, num_losses, (num_nodes * hours - away_h) * HOUR_S


def found(path, **options):
    trace = read_trace(path, mapping=make_mapping(**options))
    stats = trace_stats(trace)
    return trace, pytest.approx((stats.span_s, stats.num_removals, stats.node_hours * HOUR_S), abs=0.01)


def day(rows):
    """Return rows with the times of a day in place of numbers of hours in braces."""
    for hour in range(10):
        rows = rows.replace(f"{{{hour}}}", f"2025-03-01 0{hour}:00")
    return rows


COUNTED = said(8, 2, ("a", 1, 2))
OUTAGES = said(2, 4, ("a", 0, 2), ("b", 3, 4))
ONCE = said(3, 2, ("a", 0, 9), ("b", 1, 9), ("c", 2, 9))
TWICE = said(1, 3, ("a", 0, 1), ("a", 2, 3))
GPUS = "n1{0}gpu0,{{0}},{{2}}\nn1{0}gpu1,{{1}},{{3}}\nn2{0}gpu5,{{4}},{{5}}\n"


@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        # n1 is gone while one of its GPUs is, n2 for the last hour.
        ("node,start,end\n" + GPUS.format(":"), said(2, 5, ("n1", 0, 3), ("n2", 4, 5))),
        ("Time,n1:gpu0,n1:gpu1\n{0},1,1\n{1},0,1\n{2},1,0\n{3},1,1\n", said(1, 3, ("n1", 1, 3))),
        (
            "time,host,up\n{0},n1:gpu0,1\n{0},n1:gpu1,1\n{1},n1:gpu0,0\n{1},n1:gpu1,1\n{2},n1:gpu0,1\n{2},n1:gpu1,1\n",
            said(1, 2, ("n1", 1, 2)),
        ),
        *(
            (f"timestamp,{name}\n{{0}},8\n{{1}},7\n{{2}},8\n", COUNTED)
            for name in ("nodes (total)", "live nodes (p3.2xlarge)", "nodes [us-east-1a]", "available nodes (of 8)")
        ),
        ("time,nodes (total),nodes (up)\n{0},8,8\n{1},8,7\n{2},8,8\n", COUNTED),
        ("time,total_nodes,up_nodes\n{0},8,8\n{1},8,7\n{2},8,8\n", COUNTED),
        # A state that nothing calls a loss is none, and one without an end goes on.
        (
            "NodeName|TimeStart|TimeEnd|State\n"
            + "".join(
                f"n{number}|{{{number}}}|{{{number + 1}}}|{state}\n"
                for number, state in enumerate(("DOWN*", "RESERVED", "COMPLETING", "ALLOCATED", "MIXED+PLANNED"))
            )
            + "n6|{3}|Unknown|MAINT\n|{0}|Unknown|\n",
            said(2, 3, ("n0", 0, 1), ("n6", 3, 9)),
        ),
        ("time,node,state\n{0},a,idle\n{0},b,resv\n{1},a,comp\n{1},b,down\n{2},b,completing\n", said(2, 2, (1, 1, 2))),
        ("node,start,end,duration_h\na,{0},{2},2.1\nb,{3},{4},1\n", OUTAGES),
        ('node,start,end,reason\na,{0},{2},"lost,\nb,{0},{1},c"\nb,{3},{4},lost\n', OUTAGES),
        ("node,start,end\na,{0}+0100,{2}+0100\nb,{4}+0200,{5}+0200\n", OUTAGES),
        (f"node,start,end\na,{START}000,{START + 7200}000\nb,{START + 10800}000,{START + 14400}000\n", OUTAGES),
        ("Zeit;Knoten;Status\n{0};a;up\n{1};a;down\n{2};a;up\n", said(1, 2, ("a", 1, 2))),
        # Hosts of a rack or a cluster are no GPUs of a node.
        *(
            (f"node,start,end\n{name}1,{{0}},{{2}}\n{name}2,{{1}},{{3}}\n", said(2, 3, ("a", 0, 2), ("b", 1, 3)))
            for name in ("rack1:gpu-0", "us-east-1:gpu2", "prod:gpu", "rack1-gpu-")
        ),
        # Losses, each of another node, whatever their time is called.
        *(
            (f"{name},node,event\n{{0}},a,preempted\n{{1}},b,lost\n{{2}},c,killed\n", ONCE)
            for name in ("occurred_at", "preempted_at", "Zeit", "time since start", "time since boot", "down since")
        ),
        ("created_at,node,status\n{0},a,up\n{0},b,up\n{1},a,down\n{2},a,up\n", said(2, 2, ("a", 1, 2))),
        # One loss in two words, and a state that is written again.
        ("time,node,event\n{0},a,preempted\n{1},a,terminated\n{1},b,preempted\n{2},c,lost\n", ONCE),
        ("time,node,state\n{0},a,down\n{1},a,down\n{1},b,down\n{2},c,down\n", ONCE),
        # A queue or a pool that is a number is no name of one.
        *((f"time,nodes,{name}\n{{0}},8,3\n{{1}},7,5\n{{2}},8,1\n", COUNTED) for name in ("queue", "pool")),
        ("time,node,up,xid\n{0},a,1,0\n{1},a,0,79\n{2},a,1,0\n", said(1, 2, ("a", 1, 2))),
        # The job that a failure hit.
        ("time,node,event,job_id\n{0},a,down,7\n{1},a,up,\n{2},a,down,8\n{3},a,up,\n", TWICE),
        (
            "NodeName|TimeStart|TimeEnd|State\n"
            + "".join(
                f"n{number}|{{{number}}}|{{{number + 1}}}|{state}\n"
                for number, state in enumerate(("down", "Drained", "idle+drain", "ERROR", "IDLE~", "IDLE*", "resv"))
            ),
            said(6, 6, *((number, number, number + 1) for number in range(6))),
        ),
        (f"node,start,downtime\na,{START},2h\nb,{START + 10800},1h\n", OUTAGES),
    ],
)  # fmt: skip
def test_file_says_what_its_rows_do(write, rows, outcome):
    assert found(write(day(rows)))[1] == outcome


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        ("time,event,node\n{0},up,n1:gpu0\n{0},up,n1:gpu1\n{1},down,n1:gpu0\n", {}, "'n1:gpu0' is a part of a node"),
        ("time,node,service,state\n{0},a,sshd,up\n{0},a,nfs,up\n{1},a,sshd,down\n", {}, "of what runs on it"),
        ("pod,node,event,time\np1,a,started,{0}\np2,a,started,{0}\np1,a,killed,{1}\n", {}, "(column 'pod')"),
        ("time,zone,nodes\n{0},a,4\n{1},b,5\n{2},a,4\n", {},
         "choose one with `where` 'zone=a', or if each row counts all nodes, give `columns`, such as time=1,count=2"),
        *(
            (f"node,state,{name}\na,down,{{0}}\nb,idle,{{3}}\n", {}, f"rows have a time in '{name}', as a list of")
            for name in ("since", "last heartbeat", "boot_time", "created_at", "LaunchTime")
        ),
        ("InstanceId,LaunchTime,State\na,{0},running\nb,{1},running\na,{0},stopped\n", {}, "as a list of nodes has"),
        ("node,start,end\n1.23457E+22,{0},{2}\n1.23457E+22,{3},{4}\n", {}, "line 2: '1.23457E+22' is rounded"),
        ('[{"node": 12345678901234567890123.0, "start": "{0}", "end": "{1}"}]', {}, "is rounded"),
        ("node,start,end,duration_min\na,{0},{2},120\nb,{3},{4},60\n", {"time_unit": "h"}, "leave `time_unit` out"),
        ("Time,n1 problem,n2 problem\n{0},0,0\n{1},1,0\n{2},0,0\n", {}, "do not tell which nodes"),
        *(
            (f"time,nodes ({name})\n{{0}},8\n{{1}},7\n", {}, "do not tell which nodes")
            for name in ("down", "requested", "x1000", "p95", "q90", "lost-1h", "avg5m", "%")
        ),
        ("time,node,event\n{0},a,failure\n{2},b,failure\n{3},a,failure\n", {}, "some more than once, and not when"),
        ("created_at,node,event\n{0},a,started\n{0},a,stopped\n{1},b,started\n", {}, "as a list of nodes has"),
        ("time,node,event,job\n{0},a,started,1\n{1},a,stopped,1\n{2},a,started,2\n", {}, "or of what runs on it"),
        (
            '{"data": {"resultType": "matrix", "result": [{"metric": {"status": "false"}, "values": [[0, "0"]]}]}}',
            {},
            "a count of nodes that are not ready",
        ),
        # Jobs are no nodes, whatever their columns are called.
        ("User|State|Start|End|NodeList\nme|NODE_FAIL|{0}|{1}|n[1-2]\n", {}, "do not tell which nodes"),
        ("run,host,started,ended,state\nr1,a,{0},{1},crashed\nr2,b,{0},{2},finished\n", {}, "who used a node"),
        ("job_name,task_name,inst_id,status,start_time,end_time,machine\nj,t,i,Failed,9,9,m\n", {}, "a job log"),
    ],
)  # fmt: skip
def test_file_that_may_say_something_else_is_refused_in_one_line(write, rows, options, told):
    assert told in refusal(lambda: found(write(day(rows)), **options))


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        ("node,start,end,minutes\na,{0},{2},30\nb,{3},{4},60\n", {"columns": "node=1,start=2,end=3,duration=4"},
         "1 outage has a length that is not that from its start to its end: the end counts"),
        ("node,start,end,duration\na,{0},{2},7200\nb,{3},{4},3600\n", {"time_unit": "ms"}, "2 outages have a length"),
        ("node,start,end\n" + GPUS.format("-"), {}, "'n1-gpu0' is taken for a node; a part of one is written as n1:"),
        ("node,start,end\n" + GPUS.format(":"), {}, "'n1:gpu0' names a part: a node is gone while one of its"),
        ("Time,n1,n2\n{0},0,0\n{1},1,0\n{2},0,0\n", {}, "nodes are gone at most of their samples; if 1 says"),
        ("time,node,event\n{0},a,lost\n{1},b,lost\n", {}, "no row says that a node is back: those that go stay away"),
        ("day,nodes\n1,8\n2,7\n3,8\n", {}, "no node is there before the first count, at 86400 s"),
        ("time,event,node\n{0},up,01\n{1},down,1\n{2},up,01\n", {}, "1 name differs from another by case, zeros or"),
        ("time,event,node\n{0},add,a\n{1},remove,a\n{2},add,A\n", {}, "1 name differs from another by case, zeros or"),
        ("time,event,node\n{0},add,a\n{1},add,b\n{1},remove,b\n", {}, "1 node comes and goes at the same instant"),
    ],
)  # fmt: skip
def test_what_is_assumed_of_a_file_is_told(write, rows, options, told):
    trace, _ = found(write(day(rows)), **options)
    assert any(note.startswith(told) for note in trace.notes), trace.notes


def test_a_node_that_comes_and_goes_at_the_start_is_away_from_it(write):
    trace, _ = found(write(day("time,event,node\n{0},add,a\n{0},add,b\n{0},remove,b\n{1},add,b\n")))
    assert [note for note in trace.notes if "comes and goes" in note] == []
    assert trace.most_nodes(0.0) == 1


def test_cloud_logs_say_what_happened(write):
    warnings = [
        {"detail-type": "EC2 Spot Instance Interruption Warning", "time": f"2025-03-01T1{hour}:00:00Z",
         "detail": {"instance-id": f"i-0{hour}", "instance-action": "terminate"}} for hour in (2, 3)
    ]  # fmt: skip
    # Each is lost two minutes after its warning.
    path = write("\n".join(map(json.dumps, warnings)), "notices.json")
    assert found(path)[1] == said(2, 31 / 30, ("a", 1 / 30, 9), ("b", 31 / 30, 9))
    values = {"n1": "1001", "n2": "1111"}
    series = [
        {"metric": {"__name__": "kube_node_status_condition", "node": node, "condition": condition, "status": status},
         "values": [[START + 60 * place, str(int((value == "1") == (status == "true")))]
                    for place, value in enumerate(values[node] if condition == "Ready" else "0000")]}
        for node in values for condition in ("Ready", "DiskPressure") for status in ("true", "false")
    ]  # fmt: skip
    path = write(json.dumps({"data": {"resultType": "matrix", "result": series}}), "range.json")
    assert found(path)[1] == said(2, 0.05, ("n1", 1 / 60, 0.05))


def test_a_loss_that_a_mapping_calls_a_state_may_repeat(write):
    path = write(day("time,node,event\n{0},a,lost\n{1},a,lost\n{1},b,lost\n{2},c,lost\n"))
    given = write("states = true\n[columns]\ntime = 1\nnode = 2\nevent = 3\n", "mine.toml")
    stats = trace_stats(read_trace(path, str(given)))
    assert (stats.span_s, stats.num_removals, stats.node_hours * HOUR_S) == pytest.approx(ONCE)


@pytest.mark.parametrize(("status", "is_read"), [("true", True), ("Ready", True), ("false", False), ("unknown", False)])
def test_counts_of_nodes_that_are_not_ready_are_refused(write, status, is_read):
    series = {"metric": {"status": status}, "values": [[START, "4"], [START + 60, "3"]]}
    path = write(json.dumps({"data": {"resultType": "matrix", "result": [series]}}), "range.json")
    if is_read:
        assert found(path)[1] == (60, 1, 240)
    else:
        assert "not ready" in refusal(lambda: found(path))


def test_condition_on_a_column_that_is_not_there_leaves_no_row_out(write):
    path = write(day("time,node,event\n{0},a,up\n{1},a,down\n"))
    for pattern in ("", "*", "x"):
        assert found(path, where=f"kind!={pattern}")[1] == said(1, 1, ("a", 1, 2))
