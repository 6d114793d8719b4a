"""Logs of clusters that people run: Slurm, Kubernetes, Prometheus, AWS and Google Cloud."""

import json

import pytest

from lazsim.errors import LazsimError, TraceFormatError
from lazsim.trace import TraceMapping, read_trace
from lazsim.trace.reading.hosts import expand_hosts
from tests.conftest import refusal


@pytest.fixture
def read(tmp_path):
    def read_text(text, lenient=False, **asked):
        path = tmp_path / "log"
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        return read_trace(path, lenient=lenient, mapping=TraceMapping(**asked))

    return read_text


def history(trace):
    """Return the batches of a trace: the time, the nodes that go, or are away from the start, and those that come."""
    gone = [(sorted(batch.removed if batch.time_s else trace.away), batch) for batch in trace.batches()]
    return [(batch.time_s, away, sorted(batch.added)) for away, batch in gone if away or batch.added]


def lines(rows):
    return "\n".join(map(json.dumps, rows))


def slurm(*rows):
    return "\n".join(f"[2025-03-01T{row}" for row in ("00:00:00.000] slurmctld version 23.02.7 started", *rows))


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("gpu-[01-03,07]", ["gpu-01", "gpu-02", "gpu-03", "gpu-07"]),
        ("gpu-1", ["gpu-1"]),
        ("a1,b[9-10]", ["a1", "b9", "b10"]),
        ("b2,a[3-4],b2,a1", ["b2", "a3", "a4", "a1"]),
        ("rack[1-2]n[08-09]", ["rack1n08", "rack1n09", "rack2n08", "rack2n09"]),
    ],
)
def test_list_of_hosts_is_expanded_as_slurm_means_it(text, hosts):
    assert expand_hosts(text) == hosts


@pytest.mark.parametrize(
    "text", ["gpu-[01-", "gpu-[3-1]", "a b", "@all", "a!b", "n[1-999999999]", "n[1-200]m[1-200]", "", "a,,b"]
)
def test_text_that_is_no_list_of_hosts_or_a_huge_one_is_refused(text):
    with pytest.raises(ValueError, match="hosts"):
        expand_hosts(text)


def test_slurm_log_says_when_nodes_go_down_and_come_back(read):
    trace = read(slurm(
        "00:00:01.000] Node gpu-01 now responding",
        "00:00:01.000] Node gpu-02 now responding",
        "00:10:00.000] error: Nodes gpu-[01-02] not responding",
        "00:11:00.500] error: Nodes gpu-[01-02] not responding, setting DOWN",
        "00:11:00.501] requeue job JobId=7 due to failure of node gpu-01",
        "00:20:00.000] node gpu-01 returned to service",
        "00:30:00.000] Node gpu-02 now responding",
        "01:00:00.000] sched: Allocate JobId=8 NodeList=gpu-[01-02] #CPUs=256",
    ))  # fmt: skip
    assert trace.format == "slurm"
    assert history(trace) == [
        (1.0, [], ["gpu-01", "gpu-02"]), (660.5, ["gpu-01", "gpu-02"], []), (1200.0, [], ["gpu-01"]),
        (1800.0, [], ["gpu-02"]),
    ]  # fmt: skip
    assert trace.duration_s == 3600.0


def test_slurm_log_may_come_from_the_journal(read):
    trace = read(
        "2025-03-01T00:00:00+0100 head systemd[1]: Started Slurm controller daemon.\n"
        "2025-03-01T00:00:00+0100 head slurmctld[7]: slurmctld: slurmctld version 23.02.7 started\n"
        "2025-03-01T00:01:00+0100 head slurmctld[7]: slurmctld: error: Nodes gpu-[1-2] not responding, setting DOWN\n"
    )
    assert history(trace) == [(0.0, [], ["gpu-1", "gpu-2"]), (60.0, ["gpu-1", "gpu-2"], [])]


def test_slurm_node_that_drains_is_lost_when_it_is_drained_or_down(read):
    trace = read(slurm(
        "00:01:00.000] update_node: node gpu-[1-3] state set to DRAINING",
        "00:02:00.000] update_node: node gpu-1 state set to DRAINED",
        "00:03:00.000] update_node: node gpu-2 state set to DOWN",
        "00:04:00.000] update_node: node gpu-3 state set to IDLE",
        "00:05:00.000] update_node: node gpu-[1-2] state set to RESUME",
        "00:06:00.000] error: Setting node gpu-3 state to DOWN with reason:GPU fell off the bus",
        "00:07:00.000] validate_node_specs: Node gpu-1 unexpectedly rebooted boot_time=1740787200",
    ))  # fmt: skip
    assert [one for one in history(trace) if one[1]] == [
        (120.0, ["gpu-1"], []), (180.0, ["gpu-2"], []), (360.0, ["gpu-3"], []), (420.0, ["gpu-1"], []),
    ]  # fmt: skip
    assert any(note.startswith("3 nodes begin to drain") for note in trace.notes)


def test_slurm_node_that_is_drained_is_away_until_its_state_is_set_though_it_responds(read):
    trace = read(slurm(
        "00:01:00.000] update_node: node gpu-1 state set to DRAINED",
        "00:01:00.000] error: Nodes gpu-2 not responding, setting DOWN",
        "00:02:00.000] Nodes gpu-[1-2] now responding",
        "00:05:00.000] update_node: node gpu-1 state set to IDLE",
    ))  # fmt: skip
    assert history(trace)[1:] == [
        (60.0, ["gpu-1", "gpu-2"], []), (120.0, [], ["gpu-2"]), (300.0, [], ["gpu-1"]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "reason",
    ["Xid 79", "XID 94 on GPU 3", "NVRM: GPU has fallen off the bus", "NODE_FAIL", "GPU 3 is lost",
     "gres/gpu count reported lower than configured (7 < 8)"],
)  # fmt: skip
def test_slurm_node_that_drains_since_a_gpu_failed_is_lost_at_once(read, reason):
    trace = read(slurm(
        f"00:01:00.000] update_node: node gpu-1 reason set to: {reason}",
        "00:01:00.000] update_node: node gpu-1 state set to DRAINING",
        "00:02:00.000] update_node: node gpu-2 state set to DRAINING",
        f"00:02:00.000] update_node: node gpu-2 reason set to: {reason}",
        "00:03:00.000] update_node: node gpu-3 reason set to: swap the rack, new kernel",
        "00:03:00.000] update_node: node gpu-3 state set to DRAINING",
        "00:04:00.000] update_node: node gpu-1 state set to DRAINED",
        "00:05:00.000] update_node: node gpu-[1-3] state set to RESUME",
        # The old reason is no reason any more.
        "00:06:00.000] update_node: node gpu-1 state set to DRAINING",
    ))  # fmt: skip
    assert [one[:2] for one in history(trace) if one[1]] == [(60.0, ["gpu-1"]), (120.0, ["gpu-2"])]
    assert any(note.startswith("2 nodes drain since a GPU failed") for note in trace.notes)
    assert any(note.startswith("2 nodes begin to drain, which is no loss") for note in trace.notes)
    rows = read(
        "NodeName|TimeStart|TimeEnd|State|Reason\n"
        f"gpu-1|2025-03-01T00:00:00|2025-03-01T01:00:00|DRAINING|{reason}\n"
        "gpu-2|2025-03-01T01:00:00|2025-03-01T02:00:00|DRAIN|new kernel\n"
        f"gpu-2|2025-03-01T03:00:00|2025-03-01T04:00:00|DRAIN*|{reason}\n"
    )
    assert [one[:2] for one in history(rows) if one[1]] == [(0.0, ["gpu-1"]), (10800.0, ["gpu-2"])]
    assert any(note.startswith("1 row is left out") for note in rows.notes)


def test_slurm_nodes_that_are_down_at_the_start_come_later_and_a_drain_that_is_told_twice_is_one(read):
    trace = read(slurm(
        "00:00:01.000] Down nodes: gpu-[1-2]",
        "00:10:00.000] Node gpu-1 now responding",
        "00:20:00.000] error: Setting node gpu-3 state to INVAL with reason:gres/gpu count reported lower (7 < 8)",
        "00:30:00.000] error: Setting node gpu-4 state to DRAIN with reason:Xid 79",
        "00:30:00.000] drain_nodes: node gpu-4 state set to DRAIN",
        "00:40:00.000] update_node: node gpu-5 state set to RESUME",
        "01:00:00.000] update_node: node gpu-2 state set to RESUME",
    ))  # fmt: skip
    assert [one for one in history(trace) if one[0] > 1] == [
        (600.0, [], ["gpu-1"]), (1200.0, ["gpu-3"], []), (1800.0, ["gpu-4"], []), (2400.0, [], ["gpu-5"]),
        (3600.0, [], ["gpu-2"]),
    ]  # fmt: skip
    assert any(note.startswith("2 nodes drain since a GPU failed") for note in trace.notes)
    assert "1 node is first seen to come later: taken to be away until then" in trace.notes


def test_sacctmgr_node_that_drains_beside_its_jobs_is_no_loss_in_any_spelling(read):
    rows = "NodeName|TimeStart|TimeEnd|State|Reason\n" + "".join(
        f"gpu-{hour}|2025-03-01T0{hour}:00:00|2025-03-01T0{hour}:30:00|{state}|maintenance\n"
        for hour, state in enumerate(
            ("DOWN*+DRAIN", "MIXED+DRAIN", "ALLOCATED+DRAIN", "IDLE+DRAIN", "DRAINED*", "PLANNED")
        )
    )
    assert [removed for _, removed, _ in history(read(rows)) if removed] == [["gpu-0"], ["gpu-3"], ["gpu-4"]]


def test_sacctmgr_without_reasons_is_read_by_its_states(read):
    trace = read(
        "NodeName|TimeStart|TimeEnd|State\n"
        "gpu-1|2025-03-01T00:00:00|2025-03-01T01:00:00|DRAIN\n"
        "gpu-1|2025-03-01T01:00:00|2025-03-01T02:00:00|DRAINED\n"
    )
    assert trace.duration_s == 3600.0


def test_sacctmgr_without_states_is_said_to_count_nodes_that_drain(read):
    trace = read("NodeName|TimeStart|TimeEnd\ngpu-1|2025-03-01T00:00:00|2025-03-01T01:00:00\n")
    assert "no column Reason or State, by which some rows are left out: all count" in trace.notes


def test_log_is_observed_for_as_long_as_is_said(read):
    log = slurm("00:01:00.000] Nodes gpu-1 not responding, setting DOWN", "01:00:00.000] Node gpu-1 now responding")
    trace = read(log, span=("2025-02-28", "2025-03-02"))
    assert trace.duration_s == 2 * 86400.0
    assert history(trace) == [(0.0, [], ["gpu-1"]), (86460.0, ["gpu-1"], []), (90000.0, [], ["gpu-1"])]
    with pytest.raises(TraceFormatError, match="has rows up to 60 min after what `span` says"):
        read(log, span=("", "2025-03-01"))


def test_log_with_lines_of_a_clock_that_was_not_set_is_refused(read):
    log = "[1970-01-01T00:00:09.000] slurmctld version 23.02.7 started\n" + slurm(
        "00:01:00.000] Nodes gpu-1 not responding, setting DOWN"
    )
    with pytest.raises(TraceFormatError, match="nothing happens for 55 years after the row at 0 s; leave out rows"):
        read(log)


def test_nothing_that_happens_to_a_cluster_is_a_trace_where_it_was_observed(read):
    drains = "NodeName|TimeStart|TimeEnd|State\ngpu-1|2025-03-01T00:00:00|2025-03-01T01:00:00|DRAIN\n"
    trace = read(drains, cluster_nodes=4, span=("2025-03-01", "2025-03-02"))
    assert (trace.num_alive()[1].tolist(), trace.duration_s) == ([4], 86400.0)
    with pytest.raises(TraceFormatError, match="no node event in it"):
        read(drains, cluster_nodes=4)
    with pytest.raises(TraceFormatError, match="no node event in it"):
        read(drains.replace("2025", "soon").replace("DRAIN", "DOWN"), lenient=True, cluster_nodes=4)


def test_slurm_clock_that_is_set_back_is_refused_unless_the_zone_is_given(read):
    log = (
        "[2025-11-02T01:50:00.000] error: Nodes gpu-1 not responding, setting DOWN\n"
        "[2025-11-02T01:10:00.000] Node gpu-1 now responding\n"
        "[2025-11-02T02:00:00.000] error: Nodes gpu-1 not responding, setting DOWN\n"
    )
    with pytest.raises(TraceFormatError, match="line 2: steps back by 40 min; give `time_zone`"):
        read(log)
    # 01:50 EDT is 05:50 UTC, 01:10 EST is 06:10 UTC and 02:00 EST is 07:00 UTC
    assert [one[0] for one in history(read(log, time_zone="America/New_York"))] == [0.0, 1200.0, 4200.0]


def test_threads_may_write_the_lines_of_a_slurm_log_a_little_out_of_order(read):
    log = slurm("00:01:00.020] Nodes gpu-1 not responding, setting DOWN", "00:01:00.010] Node gpu-2 now responding")
    assert [one[0] for one in history(read(log))] == [0.0, 60.01, 60.02]


def test_threads_may_write_the_lines_out_of_order_in_the_hour_that_comes_twice(read):
    rows = [
        "01:10:00.020] error: Nodes gpu-1 not responding, setting DOWN", "01:10:00.010] Node gpu-2 now responding",
        "01:40:00.000] Node gpu-1 now responding", "01:05:00.000] Node gpu-3 now responding",
    ]  # fmt: skip
    trace = read("\n".join(f"[2025-11-02T{row}" for row in rows), time_zone="America/New_York")
    # From 01:10 EDT it is half an hour to 01:40 EDT, and 25 min more to 01:05 EST.
    assert [one[0] for one in history(trace)] == [0.0, 0.01, 1799.99, 3299.99]


def test_nodes_that_a_log_does_not_name_are_given_by_number_or_by_name(read):
    log = slurm("00:01:00.000] Nodes gpu-2,login1 not responding, setting DOWN")
    assert read(log, cluster_nodes=4).num_alive()[1].tolist() == [4, 2]
    named = read(log, cluster_nodes=("gpu-[1-4]",))
    assert set(named.names) == {"gpu-1", "gpu-2", "gpu-3", "gpu-4"}
    assert any(note.startswith("1 node of the file not among `cluster_nodes`") for note in named.notes)
    with pytest.raises(LazsimError, match="none of the nodes"):
        read(log, cluster_nodes=("cpu-[1-4]",))
    with pytest.raises(LazsimError, match=r"100,000 nodes at once; at most 16,384"):
        read(log, cluster_nodes=100_000)


def event(reason, node, first, last=None, **fields):
    stamps = {"firstTimestamp": f"2025-03-01T{first}Z", "lastTimestamp": f"2025-03-01T{last or first}Z"}
    return {"kind": "Event", "reason": reason, "involvedObject": {"kind": "Node", "name": node}, **stamps, **fields}


POD = {"involvedObject": {"kind": "Pod", "name": "trainer"}}


def test_kubernetes_events_in_any_order_tell_when_nodes_are_not_ready(read):
    pod = event("Killing", "trainer", "02:00:00") | POD
    trace = read({"kind": "List", "items": [
        event("NodeReady", "b", "00:30:00"), event("NodeNotReady", "b", "00:20:00"), pod,
        event("RegisteredNode", "c", "00:00:00"), event("RegisteredNode", "b", "00:25:00"),
        event("NodeReady", "a", "00:00:00"), event("RemovingNode", "a", "01:00:00"),
        event("NodeNotSchedulable", "c", "00:40:00"),
    ]})  # fmt: skip
    assert trace.format == "kubernetes"
    assert history(trace) == [(0.0, [], ["a", "b", "c"]), (1200.0, ["b"], []), (1800.0, [], ["b"]), (3600.0, ["a"], [])]
    assert trace.duration_s == 7200.0


def test_kubernetes_event_that_stands_for_several_counts_at_its_first_and_last_time(read):
    trace = read({"items": [
        event("NodeNotReady", "a", "00:00:10", "01:00:10", count=3),
        event("NodeReady", "a", "00:00:50", "01:00:50", count=3),
    ]})  # fmt: skip
    assert [one[0] for one in history(trace) if one[1]] == [0.0, 3600.0]
    assert any(note.startswith("2 events without a time, between") for note in trace.notes)


def test_warnings_on_nodes_of_kubernetes_tell_no_loss_and_are_not_silent(read):
    warnings = [event(reason, "b", "00:10:00", type="Warning") for reason in ("KernelOops", "GPUXid", "GPUXid")]
    # Kubernetes says of type Normal that a node is ready or is not: a list of warnings alone leaves that out.
    for found in (warnings, [*warnings, event("BackOff", "", "00:20:00", type="Warning") | POD]):
        with pytest.raises(TraceFormatError, match="no node event in it"):
            read({"items": found})
    pods = [event("BackOff", "", at, type="Warning") | POD for at in ("00:00:00", "01:00:00")]
    for found in (pods, [*warnings, *pods]):
        trace = read({"items": found}, cluster_nodes=("a", "b"))
        assert (history(trace), trace.duration_s) == ([(0.0, [], ["a", "b"])], 3600.0)
        told = "its events are all warnings: losses are missing, unless it was listed with those of type Normal"
        assert any(note.startswith(told) for note in trace.notes)
    # A kubelet that starts warns of its disk; other events show that all were listed.
    found = [*warnings, event("Scheduled", "", "02:10:00", type="Normal") | POD]
    trace = read({"items": found}, cluster_nodes=("a", "b"))
    assert (history(trace), trace.duration_s) == ([(0.0, [], ["a", "b"])], 7200.0)
    trace = read({"items": [event("NodeReady", "a", "00:00:00"), event("NodeNotReady", "a", "00:20:00"), *warnings]})
    assert history(trace) == [(0.0, [], ["a"]), (1200.0, ["a"], [])]
    told = "3 entries tell of no loss and do not count (KernelOops, GPUXid)"
    assert told in trace.notes


KUBERNETES = {
    "a node that was deleted is back when it is registered": (
        [event("NodeReady", "a", "00:00:00"), event("RemovingNode", "a", "00:10:00"),
         event("NodeReady", "b", "00:00:00"), event("NodeNotReady", "b", "00:10:00"),
         event("RegisteredNode", "a", "00:20:00"), event("RegisteredNode", "b", "00:20:00")],
        [(0.0, [], ["a", "b"]), (600.0, ["a", "b"], []), (1200.0, [], ["a"])],
    ),
    "a reboot is a loss though the node is back at once": (
        [event("NodeReady", "a", "00:00:00"), event("Rebooted", "a", "00:05:00")],
        [(0.0, [], ["a"]), (300.0, ["a"], ["a"])],
    ),
    "events within a second are in the order that is possible": (
        [event("NodeReady", "a", "00:00:00"), event("NodeReady", "a", "00:05:00"),
         event("NodeNotReady", "a", "00:05:00")],
        [(0.0, [], ["a"]), (300.0, ["a"], ["a"])],
    ),
    "events of the newer API": (
        [{"kind": "Event", "reason": reason, "regarding": {"kind": "Node", "name": "a"}, "note": "",
          "eventTime": f"2025-03-01T00:0{minute}:00.000000Z", "deprecatedFirstTimestamp": None}
         for minute, reason in ((0, "NodeReady"), (1, "NodeNotReady"))],
        [(0.0, [], ["a"]), (60.0, ["a"], [])],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", KUBERNETES)
def test_events_of_kubernetes_in_a_list_and_a_line_each_tell_losses(read, what):
    rows, expected = KUBERNETES[what]
    assert history(read({"items": rows})) == history(read(lines(rows))) == expected


def test_kubernetes_nodes_tell_when_they_were_made_and_last_changed(read):
    def node(name, status, changed):
        ready = {
            "type": "Ready",
            "status": status,
            "lastTransitionTime": changed,
            "lastHeartbeatTime": "2025-03-03T00:00:00Z",
        }
        meta = {"name": name, "creationTimestamp": "2025-03-01T00:00:00Z"}
        return {"kind": "Node", "metadata": meta, "status": {"conditions": [{"type": "DiskPressure"}, ready]}}

    trace = read({"items": [node("a", "True", "2025-03-01T00:01:00Z"), node("b", "Unknown", "2025-03-02T00:00:00Z")]})
    assert history(trace) == [(0.0, [], ["a", "b"]), (86400.0, ["b"], [])]
    assert trace.duration_s == 2 * 86400.0


def test_a_watch_of_kubernetes_nodes_tells_of_each_change_and_of_nodes_that_are_deleted(read):
    def line(kind, name, status, changed, seen):
        ready = {"type": "Ready", "status": status, "lastTransitionTime": changed, "lastHeartbeatTime": seen}
        meta = {"name": name, "creationTimestamp": "2025-03-01T00:00:00Z"}
        return {"type": kind, "object": {"kind": "Node", "metadata": meta, "status": {"conditions": [ready]}}}

    # As `kubectl get nodes -o json -w --output-watch-events` has it: a is away for an hour, and then b is deleted.
    first, away, back = (f"2025-03-02T0{hour}:00:00Z" for hour in range(3))
    rows = [
        *(line("ADDED", name, "True", "2025-03-01T00:00:00Z", first) for name in "ab"),
        line("MODIFIED", "a", "Unknown", away, away),
        line("MODIFIED", "a", "True", back, back),
        line("DELETED", "b", "True", "2025-03-01T00:00:00Z", first),
    ]
    trace = read(lines(rows))
    assert history(trace) == [(0.0, [], ["a", "b"]), (90000.0, ["a"], []), (93600.0, ["b"], ["a"])]
    told = "2 nodes tell only of the first and the last change before the watch: losses before it are missing, and "
    assert told + "`start` leaves that time out" in trace.notes


def test_a_kubernetes_node_that_is_deleted_before_any_date_is_refused(read):
    rows = [{"type": kind, "object": {"kind": "Node", "metadata": {"name": "a"}}} for kind in ("ADDED", "DELETED")]
    with pytest.raises(LazsimError, match="entry 2: a is deleted, and no entry up to here has a date"):
        read(lines(rows))


def series(values, start_s=1740787200, step_s=60, **labels):
    pairs = [[start_s + index * step_s, value] for index, value in enumerate(values) if value is not None]
    return {"metric": labels, "values": pairs}


def matrix(*found):
    return {"status": "success", "data": {"resultType": "matrix", "result": list(found)}}


def test_prometheus_target_is_gone_where_it_is_down_or_has_no_sample(read):
    trace = read(matrix(
        series(["1", "0", "1", "1", "1"], __name__="up", job="node", instance="a:9100"),
        series(["1", "1", "1", None, "1"], __name__="up", job="node", instance="b:9100"),
        series([None, "1", "1", "NaN", "0"], __name__="up", job="node", instance="c:9100"),
    ))  # fmt: skip
    assert trace.format == "prometheus"
    assert history(trace) == [
        (0.0, [], ["a", "b"]), (60.0, ["a"], ["c"]), (120.0, [], ["a"]), (180.0, ["b", "c"], []), (240.0, [], ["b"]),
    ]  # fmt: skip
    assert trace.duration_s == 240.0


def test_parts_of_a_long_range_of_prometheus_are_of_the_same_series(read):
    labels = {"__name__": "up", "job": "node", "instance": "a:9100"}
    parts = [series("111", **labels), series("101", start_s=1740787200 + 120, **labels)]
    trace = read(lines(map(matrix, parts)))
    assert history(trace) == [(0.0, [], ["a"]), (180.0, ["a"], []), (240.0, [], ["a"])]
    counted = [series("88", job="node"), series("87", start_s=1740787200 + 60, job="node")]
    assert read(lines(map(matrix, counted))).nodes_lost() == 1


def test_series_goes_on_with_another_when_its_exporter_is_replaced(read):
    ready = {"__name__": "kube_node_status_condition", "condition": "Ready"}
    values = {"true": "110101", "false": "001010", "unknown": "000000"}
    pods = (("10.0.0.1:8080", slice(0, 3)), ("10.0.0.2:8080", slice(3, 6)))
    parts = [
        series([value if place in range(6)[part] else None for place, value in enumerate(text)],
               **ready, status=status, node="a", instance=pod)
        for pod, part in pods for status, text in values.items()
    ]  # fmt: skip
    # a is not ready at the third and the fifth minute, and with one pod or two the same trace comes out.
    trace = read(matrix(*parts))
    assert [batch.time_s for batch in trace.batches() if batch.removed] == [120.0, 240.0]
    whole = [series(list(text), **ready, status=status, node="a", instance="x:1") for status, text in values.items()]
    assert list(trace.batches()) == list(read(matrix(*whole)).batches())


def test_two_ports_of_a_node_that_differ_are_refused_in_an_answer_of_prometheus(read):
    of_ports = [series(values, __name__="up", job="node", instance=name)
                for name, values in (("a:9100", "1111"), ("a:9400", "1011"), ("b:9100", "1111"))]  # fmt: skip
    with pytest.raises(TraceFormatError, match=r"sample of 'a' .* choose with `where`, such as 'instance=..9400'"):
        read(matrix(*of_ports))
    assert read(matrix(*of_ports), where=("instance=*:9100",)).nodes_lost() == 0


def test_export_of_victoriametrics_has_milliseconds_apart_from_the_values(read):
    stamps = [1000 * (1740787200 + 60 * minute) for minute in range(4)]
    series = [
        {
            "metric": {"__name__": "up", "job": "node", "instance": f"{node}:9100"},
            "values": values,
            "timestamps": stamps,
        }
        for node, values in (("a", [1, 0, 1, 1]), ("b", [1, 1, None, 1]))
    ]
    trace = read("\n".join(map(json.dumps, series)))
    assert (trace.duration_s, [batch.removed for batch in trace.batches() if batch.removed]) == (
        180.0,
        [("a",), ("b",)],
    )
    series[0]["timestamps"] = stamps[1:]
    with pytest.raises(TraceFormatError, match=r"expected .seconds"):
        read("\n".join(map(json.dumps, series)))


def test_prometheus_gap_of_all_series_is_an_outage_of_prometheus_and_no_loss(read):
    values = ["1", "1", None, None, "1"]
    trace = read(matrix(*(series(values, __name__="up", instance=name) for name in ("a:1", "b:1"))))
    assert history(trace) == [(0.0, [], ["a", "b"])]
    assert trace.duration_s == 240.0
    told = "no node has a sample in 1 gap of time: all are taken to have stayed as they were"
    assert told in trace.notes


def test_prometheus_target_that_never_was_up_is_away_and_no_healthy_node_of_the_cluster(read):
    found = [series(values, __name__="up", job="node", instance=values) for values in ("101", "000")]
    trace = read(matrix(*found), cluster_nodes=4)
    # Of four nodes, one is away for all three samples, and one for the second.
    assert (trace.away, trace.num_alive()[1].tolist()) == (("000",), [3, 2, 3])
    with pytest.raises(TraceFormatError, match="no sample says that a node is there; give those of healthy nodes"):
        read(matrix(found[1]), cluster_nodes=4)


def test_prometheus_node_is_ready_while_no_condition_says_otherwise(read):
    labels = {"__name__": "kube_node_status_condition", "instance": "kube-state-metrics:8080", "job": "ksm"}
    states = {"true": ["1", "0", "1"], "false": ["0", "0", "0"], "unknown": ["0", "1", "0"]}
    trace = read(matrix(
        *(series(values, **labels, node="a", condition="Ready", status=status) for status, values in states.items()),
        series(["0", "0", "0"], **labels, node="a", condition="MemoryPressure", status="true"),
    ))  # fmt: skip
    assert history(trace) == [(0.0, [], ["a"]), (60.0, ["a"], []), (120.0, [], ["a"])]


def test_prometheus_sum_is_read_as_live_counts(read):
    counts = matrix(series(["8", "7", "8"]))
    assert read(counts).num_alive()[1].tolist() == [8, 7, 8]
    with pytest.raises(TraceFormatError, match="counts all nodes that are alive; leave `cluster_nodes` out"):
        read(counts, cluster_nodes=9)


def test_prometheus_sum_of_two_counts_at_a_time_is_refused_and_the_first_counts_where_lenient(read):
    counts = {"metric": {}, "values": [[0, "8"], [60, "7"], [60, "6"], [120, "8"]]}
    with pytest.raises(TraceFormatError, match="another count at the time 60"):
        read(matrix(counts))
    assert read(matrix(counts), lenient=True).num_alive()[1].tolist() == [8, 7, 8]


@pytest.mark.parametrize(("parts", "says"), [
    (["101", ["1", "0.5", "1"]], "'0.5' is neither 0 nor 1"), (["11", "10"], "sample of 'a' at the time 1740787260"),
])  # fmt: skip
def test_prometheus_sample_that_says_neither_is_refused(read, parts, says):
    found = [series(values, __name__="up", job="node", instance="a:1") for values in parts]
    assert says in refusal(lambda: read(lines(map(matrix, found))))


def test_prometheus_jobs_are_not_mixed(read):
    found = matrix(*(series(["1", "0"], __name__="up", job=job, instance="a:1") for job in ("dcgm", "node")))
    with pytest.raises(TraceFormatError, match="`where` 'job=dcgm'"):
        read(found)
    assert history(read(found, where=("job=node",)))[1] == (60.0, ["a"], [])


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (matrix(series(["93"], __name__="DCGM_FI_DEV_GPU_UTIL", gpu="0")), "DCGM_FI_DEV_GPU_UTIL, which does not say"),
        ({"status": "success", "data": {"resultType": "vector", "result": []}}, "for one instant"),
        (
            {"status": "error", "errorType": "bad_data", "error": "parse error", "data": {"resultType": ""}},
            "parse error",
        ),
        (matrix(), "no series of a node"),
    ],
)
def test_prometheus_of_something_else_is_refused_with_the_query_that_is_needed(read, found, said):
    told = refusal(lambda: read(found))
    assert said in told
    assert "kube_node_status_condition" in told


def activity(text, start, end=None, status="Successful"):
    times = {"StartTime": f"2025-03-01T{start}.123000+00:00"} | ({"EndTime": f"2025-03-01T{end}+00:00"} if end else {})
    return {"ActivityId": "1", "AutoScalingGroupName": "g", "Description": text, "StatusCode": status, **times}


def test_aws_scaling_activities_newest_first_tell_launches_and_terminations(read):
    trace = read({"Activities": [
        activity("Launching a new EC2 instance.  Status Reason: no capacity", "00:40:00", status="Failed"),
        activity("Terminating EC2 instance: i-0b", "00:30:00", "00:31:00"),
        activity("Terminating EC2 instance: i-0a", "00:20:00", status="InProgress"),
        activity("Launching a new EC2 instance: i-0b", "00:00:00", "00:00:30"),
    ]})  # fmt: skip
    assert trace.format == "aws"
    # the first date is 0.123 s past midnight
    assert history(trace) == [
        (0.0, [], ["i-0a"]),
        (29.877, [], ["i-0b"]),
        (1200.0, ["i-0a"], []),
        (1800.0, ["i-0b"], []),
    ]
    assert trace.duration_s == 2400.0


def notice(kind, minute, node="i-1", second=0, **detail):
    stamp = f"2025-03-01T00:{minute:02}:{second:02}Z"
    detail |= {"instance-id": node}
    return {"version": "0", "detail-type": kind, "source": "aws.ec2", "time": stamp, "detail": detail}


def changed(state, *when):
    return notice("EC2 Instance State-change Notification", *when, state=state)


def warned(minute, action):
    return notice("EC2 Spot Instance Interruption Warning", minute, **{"instance-action": action})


def test_aws_spot_instance_is_lost_two_minutes_after_the_warning(read):
    rows = [
        changed("running", 0), notice("EC2 Instance Rebalance Recommendation", 5), warned(10, "terminate"),
        changed("terminated", 13),
    ]  # fmt: skip
    expected = [(0.0, [], ["i-1"]), (720.0, ["i-1"], [])]
    assert history(read(lines(rows))) == expected
    assert history(read({"events": [{"timestamp": 1, "message": json.dumps(row)} for row in rows]})) == expected


def test_a_log_tells_which_of_its_entries_are_no_loss(read):
    advice = [notice("EC2 Instance Rebalance Recommendation", minute) for minute in (5, 50)]
    moved = [audit("b", "compute.instances.migrateOnHostMaintenance", hour) for hour in (2, 3)]
    for rows, name in (
        (advice, "EC2 Instance Rebalance Recommendation"),
        (moved, moved[0]["protoPayload"]["methodName"]),
    ):
        trace = read(json.dumps(rows), cluster_nodes=4)
        assert trace.nodes_lost() == 0
        assert f"2 entries tell of no loss and do not count ({name})" in trace.notes


def test_a_loss_with_which_a_log_begins_is_none_of_the_trace_and_a_note_says_so(read):
    rows = [audit(node, "compute.instances.preempted", hour) for node, hour in (("a", 1), ("b", 2))]
    told = "1 node goes at the very start, which is no loss of the trace; a `span` that begins before makes it one"
    assert (read(json.dumps(rows)).nodes_lost(), told in read(json.dumps(rows)).notes) == (1, True)
    trace = read(json.dumps(rows), span=("2025-03-01", ""))
    assert (trace.nodes_lost(), any("very start" in note for note in trace.notes)) == (2, False)


def test_an_answer_that_says_that_more_pages_follow_is_not_taken_for_all(read):
    pages = [{"events": [{"message": json.dumps(changed("running", at))}], "nextToken": "more"} for at in (0, 5)]
    with pytest.raises(LazsimError, match="says that more pages follow; fetch all of them"):
        read(lines(pages))
    del pages[-1]["nextToken"]
    assert len(read(lines(pages))) == 1


def test_aws_spot_instance_that_stops_and_starts_again_within_its_warning_stays(read):
    # Stopped after one minute, and running again in the next.
    rows = [
        changed("running", 0), warned(10, "stop"), changed("stopped", 11), changed("running", 11, "i-1", 30),
        changed("running", 20, "i-2"),
    ]  # fmt: skip
    expected = [(0.0, [], ["i-1"]), (660.0, ["i-1"], []), (690.0, [], ["i-1"]), (1200.0, [], ["i-2"])]
    assert history(read(lines(rows))) == expected


def operation(kind, name, start, end, zone="us-central1-a", **fields):
    link = f"https://www.googleapis.com/compute/v1/projects/p/zones/{zone}/instances/{name}"
    times = {"insertTime": f"2025-03-01T{start}.000-08:00", "endTime": f"2025-03-01T{end}.000-08:00"}
    return {"kind": "compute#operation", "operationType": kind, "targetLink": link, "status": "DONE", **times, **fields}


def test_gcp_operations_tell_preemptions_and_restarts(read):
    trace = read([
        operation("insert", "g1", "00:00:00", "00:00:20"),
        operation("compute.instances.preempted", "g1", "01:00:00", "01:00:30"),
        operation("start", "g1", "01:10:00", "01:10:10"),
        operation("compute.instances.migrateOnHostMaintenance", "g1", "01:20:00", "01:21:00"),
        operation("insert", "g2", "01:30:00", "01:30:01", error={"errors": [{"code": "ZONE_RESOURCE_POOL_EXHAUSTED"}]}),
        operation("reset", "g1", "02:00:00", "02:00:05"),
    ])  # fmt: skip
    assert trace.format == "gcp"
    assert history(trace) == [
        (20.0, [], ["g1"]), (3600.0, ["g1"], []), (4210.0, [], ["g1"]), (7200.0, ["g1"], []), (7205.0, [], ["g1"]),
    ]  # fmt: skip


def test_gcp_instances_of_one_name_in_two_zones_are_two_nodes(read):
    trace = read([operation("insert", "g", "00:00:00", "00:00:00", zone) for zone in ("us-a", "us-b")])
    assert trace.names == ("us-a/g", "us-b/g")


@pytest.mark.parametrize(
    "text",
    [
        '{"items": [{"kind": "Event", "reason": "NodeReady", "involvedObject": {"kind": "Node"}}]}',
        '{"items": [{"involvedObject": {"kind": "Node", "name": "a"}, "reason": "NodeReady", "eventTime": "soon"}]}',
        '{"items": [{"involvedObject": 3}]}',
        '{"Activities": [{"Description": "Terminating EC2 instance: i-1", "StartTime": 3}]}',
        '{"Activities": [{"Description": "Terminating',
        '[{"operationType": "stop", "targetLink": "/zones/a/instances/b"}]',
        '{"data": {"resultType": "matrix", "result": [{"metric": {"instance": "a"}, "values": [[1]]}]}}',
        '{"data": {"resultType": "matrix", "result": [3]}}',
        slurm("00:00:99.000] Node a now responding"),
        slurm("00:01:00.000] Node a[ now responding"),
    ],
)
def test_broken_log_of_a_cluster_is_one_line(read, text):
    refusal(lambda: read(text), TraceFormatError)


@pytest.mark.parametrize(
    ("file", "asked", "batches"),
    [
        ("kubernetes-node-events/events.json", {},
         [(0.0, 0, 2), (4205.0, 1, 0), (6760.0, 0, 1), (10800.0, 1, 0)]),
        ("slurm-node-states/slurmctld.log", {}, [(0.0, 0, 2), (4205.12, 1, 0), (6760.0, 0, 1), (18000.0, 2, 0)]),
        ("slurm-node-states/events.txt", {"cluster_nodes": 4},
         [(0.0, 1, 3), (2555.0, 0, 1), (13795.0, 1, 0)]),
    ],
)  # fmt: skip
def test_reference_log_of_a_cluster_has_the_losses_that_its_description_derives(shared, file, asked, batches):
    trace = read_trace(shared / "cases" / file, mapping=TraceMapping(**asked))
    assert [(time_s, len(gone), len(come)) for time_s, gone, come in history(trace)] == batches


@pytest.mark.parametrize(
    ("file", "said"),
    [("acme.csv", "0.01562 per node-hour"), ("helios.csv", "NODE_FAIL"), ("philly.json", "--node-mtbf D")],
)
def test_reference_job_log_is_refused_as_one(shared, file, said):
    told = refusal(lambda: read_trace(shared / "cases" / "job-logs-are-not-node-traces" / file))
    assert "a job log, in which no node comes or goes" in told
    assert said in told


@pytest.mark.parametrize("name", ["acme", "philly"])
def test_job_log_that_is_too_large_is_told_from_its_beginning(tmp_path, monkeypatch, name):
    first, row = {
        "acme": ("job_id,user,node_num,state,start_time,duration\n", "a,u,8,NODE_FAIL,2023-05-17 11:01:08,3600\n"),
        "philly": ("[\n", '{"status": "Pass", "jobid": "a1", "attempts": [{"start_time": "2017-10-07"}]},\n'),
    }[name]
    (tmp_path / "jobs").write_text(first + row * 4000)
    monkeypatch.setattr("lazsim.files.reading.read_bytes.__defaults__", (1 << 17,))
    told = refusal(lambda: read_trace(tmp_path / "jobs"))
    assert "job log" in told
    assert "--node-mtbf D" in told


REFUSED = {
    "acme": ("job_id,user,node_num,state,start_time,duration\na,u,8,FAILED,2023-05-17 11:01:08,3600\n"
             "b,u,8,NODE_FAIL,2023-05-17 13:21:00,7200\n", "job log", "in 24 node-hours, 0.04167 per node-hour"),
    "helios": ("job_id,user,vc,gpu_num,node_num,state,submit_time,start_time,end_time,duration,queue\n"
               "1,u,v,8,1,COMPLETED,2020-06-09 18:41:01,2020-06-09 18:41:01,2020-06-10 04:55:09,36848,0\n",
               "job log", "--node-mtbf D"),
    # Two jobs of 40 nodes and 12 h: 960 node-hours with one failure.
    "sacct of few columns": ("JobID|State|NNodes|ElapsedRaw\n1|NODE_FAIL|40|43200\n2|COMPLETED|40|43200\n", "job log",
                             "in 960 node-hours, 0.001042 per node-hour"),
    # 40 nodes for 1 day and 12 h, and for 12 h by the dates: 1,920 node-hours with one failure.
    "sacct as people ask for it": ("JobID|State|NNodes|Elapsed\n1|NODE_FAIL|40|1-12:00:00\n2|COMPLETED|40|12:00:00\n",
                                   "job log", "in 1920 node-hours, 0.0005208 per node-hour"),
    "sacct with dates": ("JobID|AllocNodes|State|Start|End\n1|40|NODE_FAIL|2025-03-01T00:00:00|2025-03-02T12:00:00\n"
                         "2|40|CANCELLED by 1000|2025-03-03T00:00:00|2025-03-03T12:00:00\n"
                         "3|40|RUNNING|2025-03-03T12:00:00|Unknown\n",
                         "job log", "in 1920 node-hours, 0.0005208 per node-hour"),
    # 4 nodes for 1 h and for 24 h: 100 node-hours; the steps of the first ran on its nodes.
    "sacct with steps": ("JobID|State|NNodes|ElapsedRaw\n7|NODE_FAIL|4|3600\n7.batch|CANCELLED|1|3600\n"
                         "7.extern|COMPLETED|4|3600\n7.0|NODE_FAIL|4|3600\n8_1|COMPLETED|4|86400\n",
                         "1 of its 2 jobs", "in 100 node-hours, 0.01 per node-hour"),
    "sacct in columns": ("JobID           State   NNodes    Elapsed \n------------ ---------- -------- ---------- \n"
                         "101           COMPLETED       64   01:00:00 \n102           NODE_FAIL       64   02:00:00 \n",
                         "1 of its 2 jobs", "in 192 node-hours"),
    "sacct as it prints by itself": ("JobID           JobName  Partition    Account  AllocCPUS      State ExitCode \n"
                                     "------------ ---------- ---------- ---------- ---------- ---------- -------- \n"
                                     "101               train        gpu        acc       3072  NODE_FAIL      0:1 \n",
                                     "job log", "--node-mtbf D"),
    # Only the second tells how long it ran: 40 nodes for a day.
    "sacct with gaps": ("JobID|AllocNodes|State|Start|End|Elapsed\n1|40|NODE_FAIL||2025-03-02T12:00:00|\n"
                        "2|40|NODE_FAIL|2025-03-03T00:00:00Z|2025-03-04T00:00:00|\n", "job log", "in 960 node-hours"),
    "lengths in another unit than seconds": ("job_id,node_num,state,start_time,end_time,duration\n"
                                             "a,8,NODE_FAIL,2023-05-17 11:00:00,2023-05-17 13:00:00,120\n", "job log",
                                             "in 16 node-hours"),
    "short rows": ("job_id,node_num,state,start_time,duration\na,8,NODE_FAIL,2023-05-17\n", "job log", "mtbf D"),
    "philly": ('[{"status": "Pass", "jobid": "a1", "attempts": [{"start_time": "2017-10-07"}]}]', "job log", "D"),
    "sacct": ("JobID|JobName|NNodes|State|Start|End\n1|a|4|COMPLETED|2025-03-01T00:00:00|2025-03-01T01:00:00\n",
              "job log", "sacctmgr"),
    "sinfo": ("PARTITION AVAIL TIMELIMIT NODES STATE NODELIST\ngpu up infinite 2 idle gpu-[1-2]\n", "sinfo", "slurm"),
    "sinfo -R": ("REASON      USER   TIMESTAMP           NODELIST\nXid 79      root  2025-03-02T05:00:00 gpu-17\n",
                 "sinfo", "sacctmgr"),
    "hosts": ("gpu-01 slots=8\ngpu-02 slots=8\n", "host names", "`cluster_nodes`"),
    "kubectl": ("NAME  STATUS  ROLES   AGE  VERSION\na1    Ready   <none>  5d   v1\n", "kubectl get nodes", "events"),
    "kubectl events": ("LAST SEEN   TYPE     REASON         OBJECT\n12m         Normal   NodeNotReady   node/a\n",
                       "events of Kubernetes without dates", "-o json"),
    "journal": ("Mar  1 00:00:01 h slurmctld[1]: error: Nodes a not responding, setting DOWN\n", "a journal", "iso"),
    "kernel": ("[Sun Mar  1 00:10:05 2026] NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.\n",
               "log of a kernel", "a table such as"),
    "dcgm": ("timestamp,Hostname,gpu,DCGM_FI_DEV_XID_ERRORS\n2026-03-01,a,0,79\n", "counters of DCGM", "table"),
    "nagios": ("[1772323200] HOST ALERT: gpu-01;DOWN;HARD;3;CRITICAL\n", "log of Nagios", "a table such as"),
    "azure": ('{"DocumentIncarnation": 2, "Events": [{"EventType": "Preempt", "Resources": ["a"]}]}', "Azure", "row"),
    "azure, an event in each line": ('{"EventType": "Preempt", "NotBefore": "x"}\n' * 2, "Azure", "row"),
    "scontrol as JSON": ('{"nodes": [{"name": "a", "slurmd_start_time": {"number": 1}}]}', "sinfo", "sacctmgr"),
    "aws, states of instances": (
        '{"InstanceStatuses": [{"Events": [{"Code": "instance-stop", "NotBefore": "x"}], "InstanceId": "i-1"}]}',
        "a list of nodes at one instant (aws ec2 describe-instances, -instance-status or -spot-instance-requests)",
        "describe-scaling-activities",
    ),
    "aws, requests of spot instances": (
        '{"SpotInstanceRequests": [{"InstanceId": "i-1", "State": "closed", "Status": {"UpdateTime": "x"}}]}',
        "a list of nodes at one instant (aws ec2 describe-instances, -instance-status or -spot-instance-requests)",
        "describe-scaling-activities",
    ),
    "sinfo as JSON": ('{"sinfo": [{"nodes": {"total": 3}}]}', "a list of nodes at one instant", "sacctmgr"),
    "sacct as JSON": ('{"meta": {}, "jobs": [{"account": "a", "job_id": 5}]}', "a job log", "sacctmgr"),
    "operations in a table": ("NAME   TYPE                         TARGET      STATUS\n"
    "op-1   compute.instances.preempted  z/a         DONE\n", "Google Cloud", "--format=json"),
    "log without years": ("[Mar 01 00:00:00.000000] slurmctld started\n", "log without years", "LogTimeFormat"),
    "CloudWatch": ('@timestamp,@message\n2025-03-01 00:00:00.000,"{""a"": 1}"\n', "CloudWatch", "filter-log-events"),
    "text of aws": ("ACTIVITIES\tid\tgroup\tLaunching a new EC2 instance: i-0a\n", "text of aws", "--output json"),
    "YAML": ("apiVersion: v1\nitems:\n- kind: Event\n  reason: NodeNotReady\n", "YAML", "-o json"),
    "YAML of a list": ("- insertId: a\n  timestamp: '2025-03-01T00:00:00Z'\n", "YAML", "--format=json"),
    "no events of Kubernetes": ('{"apiVersion": "v1", "items": [], "kind": "List"}', "Kubernetes", "get events"),
    "sinfo -N of some columns": ("HOSTNAMES STATE\na1 idle\na2 down*\n", "sinfo", "slurmctld.log"),
    "squeue": ("JOBID PARTITION  NAME  USER ST     TIME  NODES NODELIST(REASON)\n"
               "  123 gpu        a     me   R   1:00:00      8 gpu-[01-08]\n", "job log", "--node-mtbf D"),
    "promtool": ('up{instance="a:9100"} =>\n1 @[1740787200]\n0 @[1740787500]\n', "as Prometheus prints", "-o json"),
    "advisor": ('{"spot_advisor": {"us-east-1": {"Linux": {"p5": {"s": 40, "r": 2}}}}}', "spot advisor", "mtbf"),
    "prometheus": ('{"status": "error", "errorType": "bad_data"}', "error of Prometheus", "ask again"),
    "Megatron-LM": ("using world size: 64\n [2025-03-01 00:00:10] iteration       10/  500000 | consumed samples: 9",
                    "training log", "lazsim compare --observed"),
    "torchtitan": ("[rank0]:2025-03-01 00:00:10,123 - root - INFO - \x1b[31mstep:  1  \x1b[32mloss: 12.2  \x1b[39m\n",
                   "training log", "lazsim compare --observed"),
    "history of a tracker": ("step,wall_time,loss\n1,1740787200,3.5\n", "training log", "lazsim compare --observed"),
    "page": ("<!DOCTYPE html>\n<html></html>\n", "web page", "raw file"),
    "pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94.", "pickle", "CSV"),
    "pt": (b"PK\x03\x04" + b"\0" * 26 + b"archive/data.pkl" + b"\x80\x02", "PyTorch", "routing"),
    "npz": (b"PK\x03\x04" + b"\0" * 26 + b"loads.npy" + b"\x93NUMPY", "numpy", "routing"),
    "tar": (b"a.csv".ljust(257, b"\0") + b"ustar\0" + b"\0" * 249, "tar", "unpack"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_file_that_is_no_trace_is_named_with_what_is_needed(write, name):
    content, what, needed = REFUSED[name]
    path = write(content)
    told = refusal(lambda: read_trace(path))
    assert what in told
    assert needed in told
    assert len(told) - len(str(path)) < 360


def test_table_of_nodes_may_have_what_a_training_log_has(read):
    down = "time,node,event,step,loss,message\n2025-03-01 00:00,a,down,9,3.4,global_step=9\n"
    trace = read(down + "2025-03-01 01:00,a,up,9,3.4,iteration 9/ 50\n")
    assert history(trace)[1:] == [(3600.0, [], ["a"])]
    assert "give `columns`" in refusal(lambda: read("began,finish,hostname,step,loss\n1,2,a,5,3.1\n"))


def audit(instance, method, hour, **operation):
    name = f"projects/p/zones/z/instances/{instance}"
    payload = {"@type": "type.googleapis.com/google.cloud.audit.AuditLog", "methodName": method, "resourceName": name}
    return {"protoPayload": payload, "timestamp": f"2025-03-01T{hour:02d}:00:00Z", "operation": operation}


def test_audit_log_of_google_cloud_tells_of_preemptions_and_of_starts_when_they_end(read):
    whole = {"first": True, "last": True}
    entries = [
        audit("a", "compute.instances.preempted", 1, **whole),
        audit("b", "compute.instances.migrateOnHostMaintenance", 2, **whole),
        audit("a", "v1.compute.instances.start", 3, first=True),
        audit("a", "v1.compute.instances.start", 4, last=True),
        audit("a", "compute.instances.hostError", 5, **whole),
        audit("b", "compute.instances.preempted", 6, **whole),
    ]
    trace = read(json.dumps(entries[::-1]))
    assert [(time_s / 3600, *names) for time_s, *names in history(trace)[1:]] == [
        (3, [], ["a"]), (4, ["a"], []), (5, ["b"], []),
    ]  # fmt: skip


def test_entry_of_another_shape_is_refused_in_plain_words(read):
    whole = audit("a", "compute.instances.preempted", 1)
    told = refusal(lambda: read([whole, whole | {"protoPayload": None}]), TraceFormatError)
    assert "entry 2: expected an operation of Compute Engine" in told
    told = refusal(lambda: read('{"events": [{"message": "7", "detail-type": ""}]}'), TraceFormatError)
    assert "entry 1: expected a table of fields" in told


def test_cloudtrail_tells_of_spot_interruptions_and_of_calls_that_did_not_fail(read):
    instances = {"instancesSet": {"items": [{"instanceId": "i-0a"}, {"instanceId": "i-0b"}]}}
    records = [
        {"eventName": "RunInstances", "eventTime": "2025-03-01T00:00:00Z", "responseElements": instances},
        {"eventName": "StopInstances", "eventTime": "2025-03-01T00:30:00Z", "errorCode": "Client.UnauthorizedOperation",
         "requestParameters": instances},
        {"eventName": "BidEvictedEvent", "eventTime": "2025-03-01T01:00:00Z",
         "serviceEventDetails": {"instanceIdSet": ["i-0a"]}},
    ]  # fmt: skip
    found = [record | {"eventSource": "ec2.amazonaws.com"} for record in records]
    looked_up = [{"EventName": one["eventName"], "CloudTrailEvent": json.dumps(one)} for one in found]
    for text in (json.dumps({"Records": found}), json.dumps({"Events": looked_up})):
        assert history(read(text))[-1] == (3600.0, ["i-0a"], [])
