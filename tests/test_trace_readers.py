import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.errors import LazsimError, TraceFormatError
from lazsim.trace import READERS, Event, TraceMapping, build_trace, read_trace, trace_bytes
from lazsim.trace.reading.events import Sample, events_from_counts
from tests.conftest import refusal

SAMPLES = {
    "bamboo": "0,add,a\r\n0,add,b\r\n60000,remove,a\r\n",
    "gcloud": "2021-12-11, 11:00:00, 2\n2021-12-11, 11:01:00, 1\n2021-12-11, 11:03:00, 1\n",
    "skypilot": '{"metadata": {"gap_seconds": 60}, "data": [2, 1, 1]}',
    "infinitehbd": json.dumps(
        [
            {"node_id": "x", "event_time": 1.0, "event_type": "fault_start", "fault_type": {"Level": "Other Failure"}},
            {"node_id": "x", "event_time": 2.0, "event_type": "fault_end", "fault_type": {"Level": "Other Failure"}},
        ],
        indent=1,
    ),
    "parcae": '[0, "add", {"nodes": ["a", "b"], "duration": 60000}]\n'
    '[60000, "no-op", {"nodes": [], "duration": 60000}]\n'
    '[120000, "migration", {"nodes": [], "duration": 60000}]\n[180000, "remove", {"nodes": ["a"], "duration": 60000}]',
    "table": "when;what;host\n2025-03-01 00:00:00;JOIN;a\n2025-03-01 00:00:00;JOIN;b\n2025-03-01 00:01:00;LEAVE;a\n",
    "google-machine-events": "0,5,0,PA,0.5,0.25\n0,6,0,PA,0.5,\n60000000,6,2,PA,0.5,0.25\n60000000,5,1,PA,0.5,0.25\n",
    "google-machine-events-2019": "time,machine_id,type,switch_id,platform_id\n0,5,1,s,p\n0,6,1,s,p\n60000000,6,3,s,p\n"
    "60000000,5,2,s,p\n",
    "lanl": "System,nodes,nodenum,Prob Started (mm/dd/yy hh:mm),Prob Fixed (mm/dd/yy hh:mm)\n"
    "9,2,1,6/21/2005 10:54,6/21/2005 10:55\n",
    "sacctmgr": "Cluster|NodeName|TimeStart|TimeEnd|State\nc1||2025-03-01T00:00:00|Unknown|\n"
    "c1|gpu-2|2025-03-01T00:00:00|2025-03-01T00:01:00|DOWN*\nc1|gpu-1|2025-03-01T00:00:30|Unknown|DOWN*\n",
    "slurm": "[2025-03-01T00:00:00.000] Node gpu-1 now responding\n"
    "[2025-03-01T00:01:00.000] error: Nodes gpu-1 not responding, setting DOWN\n",
    "kubernetes": '{"kind": "List", "items": [\n{"kind": "Event", "reason": "NodeNotReady", "lastTimestamp": '
    '"2025-03-01T00:01:00Z", "involvedObject": {"kind": "Node", "name": "gpu-1"}}]}',
    "prometheus": '{"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {"__name__": "up", '
    '"instance": "gpu-1:9100"}, "values": [[1740787200, "1"], [1740787260, "0"]]}]}}',
    "aws": '{"Activities": [{"Description": "Terminating EC2 instance: i-0a", "StartTime": "2025-03-01T00:01:00Z", '
    '"StatusCode": "Successful"}]}',
    "gcp": '[{"operationType": "compute.instances.preempted", "startTime": "2025-03-01T00:00:00.000-08:00", '
    '"status": "DONE", "targetLink": "https://www.googleapis.com/compute/v1/projects/p/zones/z/instances/gpu-1"}]',
    "lazsim": "# format: lazsim-trace 1\n# duration_s: 90\ntime_s,event,nodes\n0,add,a b\n60,remove,a\n",
}
PARCAE_COUNTS = "0,1\n0,2\n60000,1\n"


def batches(trace):
    return [(batch.time_s, set(batch.removed), set(batch.added)) for batch in trace.batches()]


@pytest.mark.parametrize("name", SAMPLES)
def test_format_is_told_from_content_whatever_the_file_is_called(write, name):
    assert read_trace(write(SAMPLES[name], "data.bin")).format == name


def test_every_format_has_a_sample_here():
    assert set(SAMPLES) == set(READERS)


def test_readers_list_what_a_file_is_with_a_line_each():
    assert all(reader.looks and "\n" not in reader.looks for reader in READERS.values())


def test_bamboo_times_are_milliseconds_and_windows_line_ends_are_fine(write):
    trace = read_trace(write(SAMPLES["bamboo"]))
    assert batches(trace) == [(0.0, set(), {"a", "b"}), (60.0, {"a"}, set())]
    assert trace.duration_s == 60.0


def test_ticks_last_for_a_gap_each(write):
    assert read_trace(write(SAMPLES["skypilot"])).duration_s == 180.0


def test_gcloud_trace_is_observed_until_its_last_row(write):
    trace = read_trace(write(SAMPLES["gcloud"]))
    assert trace.duration_s == 180.0
    assert trace.num_alive()[1].tolist() == [2, 1]


def test_gcloud_rows_out_of_order_and_repeated_stamps_are_mended_and_told(write):
    rows = ["2021-12-11, 11:02:00, 3", "2021-12-11, 11:00:00, 2", "2021-12-11, 11:02:00, 1"]
    trace = read_trace(write("\n".join(rows)))
    assert trace.num_alive()[0].tolist() == [0.0, 120.0]
    assert trace.num_alive()[1].tolist() == [2, 1]
    assert any("1 row steps back" in note for note in trace.notes)
    assert any("1 row repeats" in note for note in trace.notes)


def test_parcae_rows_carry_the_duration(write):
    trace = read_trace(write(SAMPLES["parcae"]))
    assert batches(trace) == [(0.0, set(), {"a", "b"}), (180.0, {"a"}, set())]
    assert trace.duration_s == 240.0


def test_parcae_counts_become_one_batch_per_instant(write):
    trace = read_trace(write(PARCAE_COUNTS))
    assert trace.format == "parcae"
    assert [(len(batch.removed), len(batch.added)) for batch in trace.batches()] == [(0, 2), (1, 0)]


def fault(node, day, kind):
    return {"node_id": node, "event_time": day, "event_type": f"fault_{kind}"}


def test_infinitehbd_servers_without_faults_are_there_throughout(write):
    trace = read_trace(write(SAMPLES["infinitehbd"]), mapping=TraceMapping(cluster_nodes=400))
    assert len(trace.names) == 400
    assert trace.num_alive()[1].tolist() == [400, 399, 400]
    assert trace.num_alive()[0].tolist() == [0.0, 86400.0, 172800.0]


def test_fault_list_of_another_cluster_has_no_servers_of_the_published_one(write):
    trace = read_trace(write(SAMPLES["infinitehbd"]))
    assert trace.names == ("x",)
    assert any("`cluster_nodes` says how many" in note for note in trace.notes)


def test_infinitehbd_overlapping_faults_are_one_absence(write):
    faults = [fault("x", 1, "start"), fault("x", 2, "start"), fault("x", 3, "end"), fault("x", 4, "end")]
    trace = read_trace(write(json.dumps(faults)))
    assert [batch[0] / 86400 for batch in trace.batches()] == [0, 1, 4]
    assert any(note.startswith("1 outage begins while another") for note in trace.notes)


def test_infinitehbd_fault_of_no_length_interrupts_the_node(write):
    trace = read_trace(write(json.dumps([fault("x", 1, "start"), fault("x", 1, "end")])))
    assert batches(trace)[1] == (86400.0, {"x"}, {"x"})


BAD = {
    "bamboo kind": ("0,add,a\n60000,vanish,a\n", "line 2"),
    "bamboo number": ("0,add,a\nsoon,remove,a\n", "line 2"),
    "bamboo NaN": ("0,add,a\nnan,remove,a\n", "line 2"),
    "bamboo negative": ("-1,add,a\n", "line 1"),
    "bamboo order": ("60000,add,a\n\n0,add,b\n", "line 3"),
    "bamboo twice": ("0,add,a\n0,add,a\n", "line 2"),
    "bamboo absent": ("0,add,a\n0,remove,b\n", "line 2"),
    "bamboo no name": ("0,add,a\n0,add,\n", "line 2"),
    "gcloud count": ("2021-12-11, 11:00:00, 2\n2021-12-11, 11:00:00, -2\n", "line 2"),
    "gcloud date": ("2021-12-11, 11:00:00, 2\n2021-13-11, 11:00:00, 2\n", "line 2"),
    "skypilot tick": ('{"metadata": {"gap_seconds": 60}, "data": [2, 1.5]}', "line 1, tick 1"),
    "skypilot later tick": ('{"metadata": {"gap_seconds": 60},\n"data": [1,\n2,\n-1,3]}', "line 4, tick 2"),
    "skypilot count": ('{"metadata": {"gap_seconds": 60}, "data":\n[1, 100000000]}', "line 2: 100,000,000 nodes"),
    "skypilot gap": ('{"metadata": {"gap_seconds": 0}, "data": [2]}', "line 1"),
    "skypilot cut short": ('{"metadata": {"gap_seconds": 60},\n "data": [2, 1', "line 2"),
    "infinitehbd entry": (
        '[{"node_id": "x", "event_time": 1, "event_type": "fault_start"},\n{"node_id": 3}]',
        "line 2",
    ),
    **{
        f"infinitehbd {level!r} as level": (
            json.dumps([fault("x", 1, "start"), fault("x", 2, "end") | {"fault_type": {"Level": level}}], indent=0),
            "line 7",
        )
        for level in (None, 3, {})
    },
    "infinitehbd end": (json.dumps([fault("x", 1, "end")]), "line 1"),
    "infinitehbd huge": (json.dumps([fault("x", 10**400, "start")]), "line 1"),
    "parcae nodes of a no-op": (SAMPLES["parcae"].replace('[], "duration"', '["c"], "duration"', 1), "line 2"),
    "parcae JSON": ('[0, "add", {"nodes": ["a"], "duration": 1}]\n[1, "add", {"nodes"\n', "line 2"),
    "parcae count": ("0,1\n60000,1.5\n", "line 2"),
    "parcae order": ("0,1\n60000,2\n1,3\n", "line 3"),
    "lazsim row": (SAMPLES["lazsim"] + "61,remove\n", "line 6"),
    "lazsim version": (SAMPLES["lazsim"].replace("trace 1", "trace 9"), "line 1"),
    "lazsim early end": (SAMPLES["lazsim"].replace(": 90", ": 30"), "line 5"),
    "lazsim duration": (SAMPLES["lazsim"].replace(": 90", ": nan"), "duration_s"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_line_is_numbered_in_one_line(write, name):
    text, place = BAD[name]
    assert place in refusal(lambda: read_trace(write(text)))


KINDS = ("kind", "number", "NaN", "order", "twice", "absent", "tick", "level", "end")
REPAIRABLE = [name for name in BAD if name.split()[-1] in KINDS]


@pytest.mark.parametrize("name", REPAIRABLE)
def test_lenient_repairs_and_counts(write, name):
    trace = read_trace(write(BAD[name][0]), lenient=True)
    assert [note for note in trace.notes if note.startswith("lenient: 1 time: ")]
    assert np.all(np.diff(trace.time_s) >= 0)


@pytest.mark.parametrize("name", BAD)
def test_lenient_reads_a_valid_trace_or_gives_one_clear_line(write, name):
    try:
        trace = read_trace(write(BAD[name][0]), lenient=True)
    except TraceFormatError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is fine, a traceback is not
    else:
        build_trace(trace.events())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "picture"),
        (b"0\x00,\x00", "binary"),
        (b"once upon a time\n", "give slurmctld.log, .* or a table such as 2025"),
        (b"[]", "known formats"),
        (b'{"metadata": {"gap_seconds": 60}, "data": [0, 0]}', "no node event"),
        (b"\xef\xbb\xbfonce", "known formats"),
    ],
)
def test_what_is_no_trace_is_refused_in_one_line(write, content, says):
    with pytest.raises(TraceFormatError, match=says):
        read_trace(write(content))


def test_unknown_format_offers_the_nearest(write):
    with pytest.raises(TraceFormatError, match="did you mean 'bamboo'"):
        read_trace(write(SAMPLES["bamboo"]), format="bambo")


def test_missing_file_is_one_line(tmp_path):
    with pytest.raises(LazsimError, match="cannot be read"):
        read_trace(tmp_path / "nowhere.csv")


counts = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=20)


@given(steps=counts, seed=st.integers(0, 9))
def test_counts_become_events_with_just_those_counts_and_fresh_names(steps, seed):
    times = np.cumsum([gap for gap, _ in steps]).astype(float).tolist()
    samples = [Sample(time_s, num) for time_s, (_, num) in zip(times, steps, strict=True)]
    events = events_from_counts(samples, np.random.default_rng(seed))
    trace = build_trace(events)  # refuses impossible events
    added = [event.node for event in events if event.kind == "add"]
    assert len(set(added)) == len(added)
    last = {sample.time_s: sample.num_nodes for sample in samples}
    for time_s, num in last.items():
        assert int(trace.change[trace.time_s <= time_s].sum()) == num


def test_count_rule_draws_victims_uniformly():
    gone = [
        events_from_counts([Sample(0.0, 4), Sample(1.0, 3)], np.random.default_rng(seed))[-1].node
        for seed in range(2000)
    ]
    shares = np.unique(gone, return_counts=True)[1] / 2000
    # four nodes, 2000 draws: standard deviation of a share is sqrt(0.25 * 0.75 / 2000) = 0.0097
    assert np.all(np.abs(shares - 0.25) < 4 * 0.0097)


names = st.text(max_size=8)
instants = st.lists(
    st.tuples(st.floats(0, 1e9), st.lists(names, min_size=1, max_size=4, unique=True)), min_size=1, max_size=8
)


@given(instants=instants, tail=st.floats(0, 1e6))
def test_native_format_reads_back_exactly_what_was_written(tmp_path_factory, instants, tail):
    events, alive = [], set()
    for time_s, nodes in sorted(instants, key=lambda item: item[0]):
        for node in nodes:
            events.append(Event(time_s, "remove" if node in alive else "add", node))
            alive ^= {node}
    trace = build_trace(events, duration_s=events[-1].time_s + tail)
    path = tmp_path_factory.mktemp("native") / "trace.csv"
    path.write_bytes(trace_bytes(trace))
    again = read_trace(path)
    assert [event[:3] for event in again.events()] == [event[:3] for event in trace.events()]
    assert again.duration_s == trace.duration_s
    assert trace_bytes(again) == trace_bytes(trace)


def test_native_format_keeps_what_was_assumed(write):
    trace = read_trace(write(SAMPLES["skypilot"]))
    assert read_trace(write(trace_bytes(trace), "again")).notes == trace.notes


# Events, distinct nodes, peak and span of the reference data, as its description states them.
REFERENCE = {
    "bamboo/p3-trace.csv": ("bamboo", 344, 32, 40920.0),
    "parcae/p3.csv": ("parcae", 344, 32, 40920.0),
    "parcae/gpt-6.7b-trace_hl_15_25.txt": ("parcae", None, 32, 3600.0),
    "bamboo/a100x1-east1b.txt": ("gcloud", None, 64, None),
    "skypilot/availability-16node-us-east-2b_v100_1.json": ("skypilot", None, 16, 3247 * 300.0),
    "skypilot/preemption-4node-us-east-1f_v100_1.json": ("skypilot", None, 4, 3664 * 300.0),
    "skypilot/preemption-1node-us-east-1f_v100_1.json": ("skypilot", None, 1, 19961 * 32.0),
    "infinitehbd/fault_trace.json": ("infinitehbd", None, 400, None),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_trace_reads_as_described(shared, name):
    form, num_events, peak, span_s = REFERENCE[name]
    trace = read_trace(shared / "traces" / name)
    assert trace.format == form
    assert num_events in (None, len(trace))
    assert trace.num_alive()[1].max() == peak
    assert span_s in (None, trace.duration_s)


def test_both_copies_of_the_p3_trace_count_the_same(shared):
    named = read_trace(shared / "traces/bamboo/p3-trace.csv")
    counted = read_trace(shared / "traces/parcae/p3.csv", seed=7)
    assert [part.tolist() for part in named.num_alive()] == [part.tolist() for part in counted.num_alive()]


def test_our_format_must_name_itself(write):
    # Three columns of milliseconds would be read as seconds.
    path = write("0,add,node1\n60000,remove,node1\n", "p3.csv")
    with pytest.raises(TraceFormatError, match="line 1: expected a line '# format: lazsim-trace 1' before"):
        read_trace(path, format="lazsim")
