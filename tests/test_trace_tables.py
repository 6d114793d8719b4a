"""Traces from tables: their forms, their times, and the order of their rows."""

import bz2
import gzip
import io
import json
import lzma
import re
import sys
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.errors import LazsimError, SpecError, TraceFormatError
from lazsim.files.reading import unpack
from lazsim.trace import Event, TraceMapping, build_trace, make_mapping, read_trace, trace_stats, write_trace
from lazsim.trace.reading.events import Sample, settle
from tests.conftest import refusal

COUNTS = "timestamp,num_instances\n2025-03-01 00:00:00,8\n2025-03-01 00:05:00,7\n2025-03-01 00:10:00,8\n"
# 8 nodes for 300 s, then 7 for 300 s.
COUNTED = (600.0, 1, 4500.0)
EVENTS = "2025-03-01 00:00:00,up,a\n2025-03-01 00:00:00,up,b\n2025-03-01 01:00:00,down,b\n2025-03-01 02:00:00,up,b\n"
# a for two hours, b for one.
HAPPENED = (7200.0, 1, 10800.0)
OUTAGES = "host,down since,up at\na,2025-03-01 00:00,2025-03-01 01:00\nb,2025-03-01 03:00,\n"
# a is away for the first of three hours; b goes as the trace ends.
AWAY = (10800.0, 2, 2 * 10800.0 - 3600.0)


def outcome(trace):
    """Return span in seconds, nodes lost, and node-seconds."""
    stats = trace_stats(trace)
    return pytest.approx((stats.span_s, stats.num_removals, stats.node_hours * 3600), abs=0.01)


def frame_bytes(text):
    stream = io.BytesIO()
    frame = pd.read_csv(io.StringIO(text))
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], utc=True)
    frame.to_parquet(stream)
    return stream.getvalue()


def json_lines(text):
    header, *rows = [line.split(",") for line in text.splitlines()]
    return "\n".join(json.dumps(dict(zip(header, row, strict=True))) for row in rows)


def zipped(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, COUNTS)
    return stream.getvalue()


def tar_of(name):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return gzip.compress(stream.getvalue(), mtime=0)


FORMS = {
    "comma": lambda: (COUNTS, COUNTED),
    "tab": lambda: (COUNTS.replace(",", "\t"), COUNTED),
    "semicolon": lambda: (COUNTS.replace(",", ";"), COUNTED),
    "no header": lambda: (COUNTS.split("\n", 1)[1], COUNTED),
    "mark of the byte order and Windows line ends": lambda: ("\ufeff" + COUNTS.replace("\n", "\r\n"), COUNTED),
    "comments and blank lines": lambda: ("# by cron\n\n" + COUNTS.replace("\n", "\n\n# on\n"), COUNTED),
    "JSON lines": lambda: (json_lines(COUNTS), COUNTED),
    "JSON array": lambda: ("[" + ",\n".join(json_lines(COUNTS).splitlines()) + "]", COUNTED),
    "JSON array in one line, of many rows": lambda: (
        json.dumps([json.loads(line) for line in json_lines(COUNTS).splitlines() for _ in range(300)]),
        COUNTED,
    ),
    **{
        f"{orient} of pandas": lambda orient=orient: (pd.read_csv(io.StringIO(COUNTS)).to_json(orient=orient), COUNTED)
        for orient in ("split", "columns", "index", "records", "table", "values")
    },
    "Parquet": lambda: (frame_bytes(COUNTS), COUNTED),
    "UTF-16": lambda: (COUNTS.encode("utf-16"), COUNTED),
    "carriage returns": lambda: (COUNTS.replace("\n", "\r").encode(), COUNTED),
    "gzip": lambda: (gzip.compress(COUNTS.encode()), COUNTED),
    "gzip members": lambda: (gzip.compress(COUNTS[:70].encode()) + gzip.compress(COUNTS[70:].encode()), COUNTED),
    "bzip2": lambda: (bz2.compress(COUNTS.encode()), COUNTED),
    "xz": lambda: (lzma.compress(COUNTS.encode()), COUNTED),
    "zip": lambda: (zipped("data.csv"), COUNTED),
    "zip of macOS, with a file of attributes": lambda: (zipped("data.csv", "__MACOSX/._data.csv"), COUNTED),
    "zstd": lambda: (pytest.importorskip("zstandard").compress(COUNTS.encode()), COUNTED),
    "events": lambda: (EVENTS, HAPPENED),
    "events separated by spaces": lambda: (EVENTS.replace(" ", "T").replace(",", "  "), HAPPENED),
    "events under a header in another order": lambda: (
        "host;what\tof it;when\n".replace("what\tof it", "state")
        + "\n".join(";".join(line.split(",")[column] for column in (2, 1, 0)) for line in EVENTS.splitlines()),
        HAPPENED,
    ),
    "events without the last cells, which are empty": lambda: ("when,state,host,zone,notes\n" + EVENTS, HAPPENED),
    "outages": lambda: (OUTAGES, AWAY),
    "outages of lists of hosts": lambda: (
        'host,down since,up at\n"n-[1,3-4]",2025-03-01 00:00,2025-03-01 01:00\nb,2025-03-01 03:00,\n',
        # Four nodes for three hours, but three of them for two, and b goes as the trace ends.
        (10800.0, 4, 4 * 10800.0 - 3 * 3600.0),
    ),
    "events of lists of hosts": lambda: (
        "when,state,host\n2025-03-01 00:00,up,n-[1-3]\n2025-03-01 01:00,failure,n-2\n2025-03-01 02:00,repaired,n-2\n",
        (7200.0, 1, 3 * 7200.0 - 3600.0),
    ),
    "dates without separators": lambda: (
        "timestamp,count\n20250301T000000Z,8\n20250301T000500Z,7\n20250301T001000Z,8\n",
        COUNTED,
    ),
    "outages in Markdown": lambda: (
        "# Incidents\n\n"
        + "".join(f"| {' | '.join(line.split(','))} |\n" for line in OUTAGES.splitlines()).replace(
            " |\n", " |\n| --- | :---: | ---: |\n", 1
        ),
        AWAY,
    ),
    "outages as a terminal of MySQL draws them": lambda: (
        "+---+---+---+\n"
        + "".join(f"| {' | '.join(line.split(','))} |\n" for line in OUTAGES.splitlines()).replace(
            " |\n", " |\n+---+---+---+\n", 1
        )
        + "+---+---+---+\n",
        AWAY,
    ),
    "dates from the first of 1970 on, newest first": lambda: (
        "\n".join(EVENTS.replace("2025-03", "1970-01").splitlines()[::-1]),
        HAPPENED,
    ),
    "events, newest first": lambda: ("\n".join(EVENTS.splitlines()[::-1]), HAPPENED),
    "a row that only repeats an earlier one": lambda: (COUNTS + COUNTS.splitlines()[2] + "\n", COUNTED),
    "an end and a length of outages, of which the end counts": lambda: (
        "node,start,end,duration_min\na,2025-03-01 00:00,2025-03-01 01:00,7\nb,2025-03-01 03:00,,\n",
        AWAY,
    ),
    "outages with an empty cell beyond the header": lambda: (OUTAGES.replace("01:00\n", "01:00,\n"), AWAY),
    "outages with cells beyond a header whose last name counts nothing": lambda: (
        OUTAGES.replace("up at\n", "up at,reason\n").replace("01:00\n", "01:00,gpu lost, nvlink\n"),
        AWAY,
    ),
    "samples with a gap of all": lambda: (
        "Time,a,b\n2025-03-01 00:00,1,1\n2025-03-01 00:01,,\n2025-03-01 00:02,1,1\n",
        (120.0, 0, 240.0),
    ),
    "incidents whose numbers begin with the sign of comments": lambda: (
        OUTAGES.replace("host", "incident,host").replace("\na", "\n# of May\n#1,a").replace("\nb", "\n#2,b"),
        AWAY,
    ),
    "outages without a header": lambda: (OUTAGES.split("\n", 1)[1].replace(",\n", ",2025-03-01 03:00\n"), AWAY),
}


def test_a_unit_that_the_header_contradicts_is_told(write):
    path = write("time_h,count\n0,4\n60,3\n90,4\n")
    # 60 min of the 90 without a loss, then 30 of 3 nodes.
    found = read_trace(path, mapping=make_mapping(time_unit="min"))
    assert outcome(found) == (5400.0, 1, 4 * 3600.0 + 3 * 1800.0)
    assert "times are in min, as `time_unit` says, though their column says h" in found.notes
    assert not any("time_unit" in note for note in read_trace(path, mapping=make_mapping(time_unit="h")).notes)


@pytest.mark.parametrize(
    ("times", "span", "is_idle"),
    [
        (("0", "60"), None, True),
        (("2025-03-01T08:00Z", "2025-03-01T09:00+01:00"), None, True),
        (("2025-03-01 08:00", "2025-03-01T09:00Z"), None, False),
        (("2025-03-01T08:00Z", "2025-03-01T08:10Z"), "2025-03-01 08:30..", False),
    ],
)
def test_a_zone_that_no_time_needs_is_told(write, times, span, is_idle):
    rows = "".join(f"{time},{kind},a\n" for time, kind in zip(times, ("add", "remove"), strict=True))
    unit = None if ":" in times[0] else "s"
    asked = make_mapping(columns="time=1,event=2,node=3", time_unit=unit, time_zone="Europe/Berlin", span=span)
    notes = read_trace(write(f"time,event,node\n{rows}"), mapping=asked).notes
    assert ("`time_zone` changes nothing: no time is a date without a zone" in notes) == is_idle


def test_names_of_nodes_may_stand_under_their_plural(write):
    assert outcome(read_trace(write("time,event,nodes\n" + EVENTS))) == HAPPENED


def test_other_names_beside_those_of_nodes_are_left_out(write):
    rows = "".join(f"{row},i-{row[-1]}\n" for row in EVENTS.splitlines())
    assert outcome(read_trace(write(f"time,event,node,instances\n{rows}"))) == HAPPENED


@pytest.mark.parametrize("form", FORMS)
def test_table_of_any_form_is_read_alike(write, form):
    content, expected = FORMS[form]()
    assert outcome(read_trace(write(content))) == expected


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(COUNTS.encode(), mtime=0)[:-9], "cannot be unpacked"),
        (zipped("a.csv", "b.csv"), "an archive of 2 files"),
        (b"PAR1 and no more", "not valid Parquet"),
        ("once upon a time\nthere was a trace\n", "known formats"),
        ("time,event,node\n", "no row follows the header (time, event, node)"),
        ("time,event,node\n0,add,a\n9,remove,caf\xe9\n".encode("latin-1"), "line 3: not in UTF-8; save it as UTF-8"),
        ("zone,count\na,5\n", "its columns (zone, count) do not tell which nodes come and go; give `columns`"),
        ("time,count\n0,100%\n60,90%\n", "column 'count' has '100%', which is no number of nodes; give whole ones"),
        (
            "time,host,state\n0,a,fine\n60,a,poorly\n",
            "column 'state' has 'fine', which is no event; name it in ",
        ),
        (json_lines(COUNTS) + "\n{", "line 4: not valid JSON"),
        (COUNTS + "2025-03-01 00:15:00\n", "line 5: 1 column, too few"),
        (COUNTS + "2025-03-01 00:15:00,7.5\n", "line 5: '7.5' is not a count of nodes"),
        ("Time (h);count\n0,5;8\n28,25;7\n", "line 2: '0,5' has a decimal comma; write 0.5"),
        ("Time (h);count\n1.128,5;8\n", "line 2: '1.128,5' has a decimal comma; write 1128.5"),
        ("Time (h);count\n0;8\n28,125;7\n", "line 3: '28,125' has a separator of thousands; write 28125, or 28.125 if"),
        (COUNTS + "900,7\n", "line 5: '900' is not a date, as the times before are"),
        (
            "time,count\n3/1/2025 0:00,8\n",
            "line 2: '3/1/2025 0:00' is neither a number nor a date of ISO 8601; `time_format`",
        ),
        (COUNTS + "soon,7\n", "line 5: 'soon' is neither a number nor a date of ISO 8601"),
        (EVENTS + "2025-03-01 02:00:00,vanish,a\n", "line 5: 'vanish' is no event"),
        (EVENTS + "2025-03-01 02:00:00,up,\n", "line 5: no node is named"),
        ("Node,Down,Up\na,3/1/2025 8:00,3/1/2025 9:30\n", "column 'Down' has '3/1/2025 8:00', which is no date of ISO"),
        ("node,start,end\na,2025-03-01 00:00\n", "line 2 has 2 cells, and the header 3 (node, start, end); mend it"),
        ("at,was,of\n2025-03-01 00:00,down\n", "line 2 has 2 cells, and the header 3 (at, was, of); mend it"),
        ("failed at,note,host\n2025-03-01 00:00,a\n", "line 2 has 2 cells, and the header 3 (failed at, note, host)"),
        (
            "node,start,end\na,2025-03-01 00:00\nb,2025-03-01 01:00,2025-03-01 02:00\n",
            "line 2: 2 columns, too few: 'a 2025-03-01 00:00'",
        ),
        (
            "time,note,count\n2025-03-01 00:00,full,8\n2025-03-01 00:05,lost gpu-1, 2,7\n",
            "line 3: 4 cells, and the header has 3; quote texts with separators in them",
        ),
        ("time_s,count\n1,0,8\n2,60,7\n", "line 2: 3 cells, and the header has 2; quote texts"),
        (OUTAGES + "a,2025-03-01 02:00,2025-03-01 01:00\n", "line 4: the outage ends, at '2025-03-01 01:00', before"),
        (tar_of("data.csv"), "an archive of tar"),
        ("timestamp,instances\n1.74E+12,8\n1.74E+12,7\n", "line 2: '1.74E+12' is rounded"),
        ("ms,action,nodelist\n0,add,a1 b2\n60000,remove,a1 b2\n", "line 2: 'a1 b2' may be several nodes"),
        (OUTAGES.replace("\na,", '\n"gpu-[1-2,x]",'), "line 2: 'gpu-[1-2,x]' is no list of hosts"),
    ],
)
def test_broken_table_is_refused_in_one_line(write, content, says):
    assert says in refusal(lambda: read_trace(write(content)))


@pytest.mark.parametrize(("module", "content"), [("pyarrow", b"PAR1"), ("zstandard", b"\x28\xb5\x2f\xfd")])
def test_file_that_takes_a_library_says_what_to_install(write, monkeypatch, module, content):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(LazsimError, match=rf"takes {module} to \w+; pip install 'lazsim\[files\]'"):
        read_trace(write(content))


def test_file_that_unpacks_to_more_than_a_file_may_have_is_refused():
    with pytest.raises(LazsimError, match=r"bomb\.gz: unpacks to more than 1 KiB"):
        unpack("bomb.gz", gzip.compress(b" " * 1025), 1024)


# Times.


@pytest.mark.parametrize(
    "rows",
    ["time_s,live\n0,2\n60,1\n", "Time (min),live\n0,2\n1,1\n", "hours since start;live\n0;2\n0.016666666666666666;1\n",
     "ts_ms,live\n1614600000000,2\n1614600060000,1\n", "when,live\n1614600000,2\n1614600060,1\n",
     "when,live\n1614600000000000,2\n1614600060000000,1\n",
     "when,live\n2021-03-01T12:00:00Z,2\n2021-03-01T13:01+01:00,1\n",
     "when,live\n2021/03/01 12:00:00 UTC,2\n2021/03/01 12:01:00 UTC,1\n"],
)  # fmt: skip
def test_unit_is_told_by_the_header_or_by_stamps_since_1970_and_zones_by_dates(write, rows):
    assert outcome(read_trace(write(rows))) == (60.0, 1, 120.0)


@pytest.mark.parametrize("unit", ["s", "min", "h"])
def test_unit_that_the_user_gives_goes_before_all_others(write, unit):
    trace = read_trace(write("0,2\n60,1\n"), mapping=TraceMapping(time_unit=unit))
    assert trace.duration_s == 60 * {"s": 1, "min": 60, "h": 3600}[unit]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("0,2\n600,1\n1200,2\n", "its times span 1.2 s if they are in ms, as parcae has them; give `time_unit`"),
        ("0,add,a\n0,add,b\n3600,remove,b\n", "its times span 3.6 s if they are in ms, as bamboo has them"),
        ("0,add,a\n30000,remove,a\n", "give `time_unit`"),  # 120 losses an hour
        ("what,when,node\nup,0,a\ndown,600,a\n", "from 0 to 600 have no unit; give `time_unit` (ms: 600 ms, s: 10"),
        ("time,live\n1970-01-01 00:00:00,2\n2025-03-01 00:00:00,2\n", "nothing happens for 55 years"),
    ],
)  # fmt: skip
def test_span_or_rate_that_cannot_be_is_refused_before_anything_is_simulated(write, rows, says):
    assert says in refusal(lambda: read_trace(write(rows)))


def test_states_of_nodes_in_numbers_are_not_taken_for_changes_in_milliseconds(write):
    path = write("time,event,node\n1740787200,down,a\n1740787800,up,a\n1740788000,down,b\n")
    # Of four nodes one is away for the first 600 s, and one goes at the end.
    assert outcome(read_trace(path, mapping=make_mapping(cluster_nodes="4"))) == (800, 2, 3 * 600 + 4 * 200)
    with pytest.raises(TraceFormatError, match="times from 0 to 3600 have no unit"):
        read_trace(write("0,up,a\n3600,down,a\n"))


def test_columns_and_formats_of_dates_can_be_named(write):
    rows = "day,clock,kind,up\n01.03.2025,00:00,gpu,2\n01.03.2025,00:00,cpu,9\n01.03.2025,01:00,gpu,1\n"
    options = {"columns": "time=day+clock,count=up", "where": ["kind=g*"], "time_format": "%d.%m.%Y %H:%M"}
    assert outcome(read_trace(write(rows), mapping=make_mapping(**options))) == (3600.0, 1, 7200.0)


def test_first_row_of_a_table_without_a_header_counts_whatever_form_its_dates_have(write):
    events = "01.03.2025 00:00;up;a\n01.03.2025 01:00;down;a\n01.03.2025 03:00;up;b\n"
    asked = {"columns": "time=1,event=2,node=3", "time_format": "%d.%m.%Y %H:%M"}
    assert outcome(read_trace(write(events), mapping=make_mapping(**asked))) == (3 * 3600.0, 1, 3600.0)
    joined = events.replace(" ", ";")
    write("time_format = ['%d.%m.%Y %H:%M']\n[columns]\ntime = [1, 2]\nevent = 3\nnode = 4\n", "mine.toml")
    path = write(joined)
    assert outcome(read_trace(path, format=str(path.with_name("mine.toml")))) == (3 * 3600.0, 1, 3600.0)


def test_whole_numbers_that_json_and_parquet_have_as_floats_are_read_as_such(write):
    rows = [(1740787200000000000.0, "add", 1.0), (1740787200000000000.0, "add", 2.0), (1.74078726e18, "remove", 2.0)]
    text = "\n".join(json.dumps(dict(zip(("time", "event", "node"), row, strict=True))) for row in rows)
    trace = read_trace(write(text))
    assert (outcome(trace), trace.names) == ((60.0, 1, 120.0), ("1", "2"))


@pytest.mark.parametrize(
    "rows",
    [
        "time_s,cluster,count\n0,a,8\n600,a,7\n1200,a,8\n7200,b,4\n",
        "time,cluster,count\n2026-01-01T00:00Z,a,8\n2026-01-01T00:20Z,a,7\n2026-01-01T05:00Z,b,8\n",
        "time,node,up,cluster\n2026-01-01T00:00Z,n1,1,a\n2026-01-01T00:20Z,n1,1,a\n2026-01-01T05:00Z,m1,1,b\n",
    ],
)
def test_a_trace_whose_last_rows_do_not_count_ends_with_those_that_do_and_says_so(write, rows):
    trace = read_trace(write(rows), mapping=make_mapping(where="cluster=a"))
    assert trace.duration_s == 1200
    assert any("counts" in note and "end" in note for note in trace.notes), trace.notes


def test_counts_of_several_zones_are_not_taken_for_one(write):
    rows = "time,{},count\n2025-03-01 00:00,a,2\n2025-03-01 00:{},b,5\n2025-03-01 01:00,a,2\n"
    with pytest.raises(
        TraceFormatError, match=r"line 3: a second count for the time of line 2; choose rows .* `where`"
    ):
        read_trace(write(rows.format("sort", "00")))
    # Where their times differ, too.
    for name in ("zone", "instance type", "partition"):
        with pytest.raises(TraceFormatError, match=rf"line 3: {name} is 'a' before and 'b' here.* `where` '{name}=a'"):
            read_trace(write(rows.format(name, "01")))
        assert read_trace(write(rows.format(name, "01")), mapping=make_mapping(where=f"{name}=a")).duration_s == 3600.0


def test_mapping_names_words_and_says_whether_they_are_states(write):
    words = 'add = ["granted"]\nremove = ["Taken"]\nignore = ["asked"]\nstates = true\n'
    write(words + "[columns]\ntime = 2\nevent = 1\nnode = 3\n", "mine.toml")
    rows = "asked,2025-03-01 00:00,a\ngranted,2025-03-01 00:00,a\ntaken,2025-03-01 01:00,b\ntaken,2025-03-01 02:00,b\n"
    path = write(rows)
    # b is there for the first of two hours, though only its loss is in the file.
    assert outcome(read_trace(path, format=str(path.with_name("mine.toml")))) == (7200.0, 1, 10800.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"columns": "time=1"}, "`columns` time=1: name the columns of one shape"),
        ({"columns": "when=1,count=2"}, "`when`: unknown field: known: time, count"),
        ({"columns": "time=0,count=2"}, ">= 1"),
        ({"columns": "time=1,count=3"}, "line 1: 2 columns, too few"),
        ({"columns": "time=day,count=2"}, "no column 'day'"),
        ({"where": "zone"}, "`where` 'zone': write COLUMN=PATTERN"),
        ({"where": "2=9"}, "none of its 3 rows has 2=9; change `where`"),
        ({"where": "0=9"}, "`where` '0=9': write COLUMN=PATTERN, with the name of a column or its number from 1"),
        ({"time_zone": "Mars/Base"}, "`time_zone` 'Mars/Base': no such zone"),
        ({"time_format": "%Y %Y"}, "`time_format` '%Y %Y': redefinition"),
        # Nights would count as 0 days, and every day as the same.
        ({"time_format": "%H:%M"}, "`time_format` '%H:%M' has no day, as in"),
        ({"time_format": "%d.%m.%Y"}, "is not a time as '%d.%m.%Y'"),
        # Python reads 10:45 PM as a quarter to eleven in the morning by the first of these.
        ({"time_format": "%m/%d/%Y %H:%M %p"}, "%I, hours up to 12, and %p, AM or PM, go together"),
        ({"time_format": "%m/%d/%Y %I:%M"}, "go together"),
        ({"time_unit": "s"}, "its times are dates, not numbers; leave `time_unit` out"),
        ({"cluster_nodes": 4}, "leave `cluster_nodes` out"),
    ],
)
def test_wrong_option_is_refused_in_one_line(write, options, says):
    assert says in refusal(lambda: read_trace(write(COUNTS.split("\n", 1)[1]), mapping=make_mapping(**options)))


@pytest.mark.parametrize(
    "rows",
    [
        "time,gpus\n2025-03-01 00:00,64\n2025-03-01 01:00,56\n",
        "date,global_step\n2025-03-01 00:00,200\n2025-03-01 01:00,150\n",
        "Time,node1_down,node2_down\n2025-03-01 00:00,0,0\n2025-03-01 00:05,0,1\n",
        'Time,"{alertname=""NodeDown"",instance=""a""}"\n2025-03-01 00:00,0\n2025-03-01 00:05,1\n',
        "Time,alertname,instance,Value\n2025-03-01 00:00,NodeDown,a,0\n2025-03-01 00:05,NodeDown,a,1\n",
        "time,count,state\n2025-03-01 00:00,0,down\n2025-03-01 01:00,3,down\n",
        # Six columns, as of a format that has no names.
        "ticket,host,gpu,opened,closed,text\n1,n1,0,a,b,c\n2,n2,0,a,b,c\n3,n1,1,a,b,c\n",
        # What is in brackets counts others than nodes that are there.
        "time,count(up == 0)\n2025-03-01 00:00,0\n2025-03-01 01:00,3\n",
        "time,count(up != 1)\n2025-03-01 00:00,0\n2025-03-01 01:00,3\n",
        "time,nodes (down)\n2025-03-01 00:00,0\n2025-03-01 01:00,3\n",
        "time,available (%)\n2025-03-01 00:00,100\n2025-03-01 01:00,98\n",
        # Percent of the time, or processes, of each node.
        "time,node,available\n2025-03-01 00:00,a,100\n2025-03-01 01:00,a,99\n",
        "time,host,running\n2025-03-01 00:00,a,8\n2025-03-01 01:00,b,7\n",
        # Parcae's counts, which have no header, are in milliseconds.
        "time,num_gpus\n0,8\n600,7\n1200,6\n",
    ],
)
def test_columns_whose_names_do_not_tell_that_they_are_nodes_have_to_be_named(write, rows):
    with pytest.raises(TraceFormatError, match="do not tell which nodes come and go; give `columns`"):
        read_trace(write(rows))


def test_column_that_counts_nodes_may_say_in_which_state_they_are(write):
    rows = "Timestamp,GroupDesiredCapacity,GroupInServiceInstances\n2025-03-01 00:00,8,8\n2025-03-01 01:00,8,7\n"
    trace = read_trace(write(rows))
    assert outcome(trace) == (3600.0, 1, 8 * 3600.0)
    told = "columns are taken for time=Timestamp,count=GroupInServiceInstances; left out: GroupDesiredCapacity"
    assert told in trace.notes
    for name in ("count(up == 1)", "nodes (ready)"):
        assert outcome(read_trace(write(rows.replace("GroupInServiceInstances", name)))) == (3600.0, 1, 8 * 3600.0)


@pytest.mark.parametrize("indent", [None, 4])
def test_an_array_of_rows_may_stand_in_an_object_as_cloudwatch_writes_it(write, indent):
    points = [{"Timestamp": f"2025-03-01T0{hour}:00:00Z", "Average": count} for hour, count in ((1, 7), (0, 8))]
    path = write(json.dumps({"Label": "GroupInServiceInstances", "Datapoints": points}, indent=indent))
    assert outcome(read_trace(path, mapping=make_mapping(columns="time=Timestamp,count=Average"))) == (
        3600.0,
        1,
        8 * 3600.0,
    )


def test_clock_that_began_long_before_the_first_count_starts_with_it(write):
    trace = read_trace(write("time_s,count\n8123456,8\n8124456,7\n8125456,8\n"))
    assert outcome(trace) == (2000.0, 1, 8 * 1000.0 + 7 * 1000.0)
    assert any("count from the first one, 8123456 s" in note for note in trace.notes)


@pytest.mark.parametrize("first", ["20250301", "20250301000500"])
def test_dates_that_are_written_as_numbers_ask_for_their_format(write, first):
    with pytest.raises(TraceFormatError, match=f"times from {first} to .* if they are dates, give `time_format`"):
        read_trace(write(f"time,count\n{first},8\n{int(first) + 1},7\n"))


def test_events_of_the_gpus_of_a_node_are_not_taken_for_those_of_the_node(write):
    rows = "time,host,gpu,event\n0,n1,{},fail\n60,n1,{},fail\n90,n1,{},repaired\n240,n1,{},repaired\n"
    with pytest.raises(TraceFormatError, match=r"parts of a node .column 'gpu'.*give outages"):
        read_trace(write(rows.format(0, 1, 0, 1)), mapping=TraceMapping(time_unit="s"))
    samples = "time_s,host,gpu,up\n0,n1,0,1\n30,n1,1,1\n60,n1,0,0\n90,n1,1,1\n"
    with pytest.raises(TraceFormatError, match=r"parts of a node .column 'gpu'"):
        read_trace(write(samples))
    # The first rows are of one GPU alone.
    first = "".join(f"{hour * 3600},n1,0,{('fail', 'repaired')[hour % 2]}\n" for hour in range(30))
    late = f"time_s,host,gpu,event\n{first}200000,n1,1,fail\n200001,n1,2,fail\n200002,n1,1,repaired\n"
    with pytest.raises(TraceFormatError, match=r"parts of a node .column 'gpu'"):
        read_trace(write(late))
    # These rows are of whole nodes: the column says which kind of GPU they have, or which GPU made the node fail.
    for cells in (["H200"] * 4, [3, 3, "", ""]):
        whole = read_trace(write(rows.format(*cells)), mapping=TraceMapping(time_unit="s"))
        assert trace_stats(whole).num_removals == 1


@pytest.mark.parametrize(
    ("head", "text"),
    [("host,failure_time,recovery_time,failure_type", ",GPU"), ("node,failed,repaired", ""),
     ("host,detected,resolved,severity", ",2"), ("node,fault start,restored at", ""), ("host,down,up", ""),
     ("host,started_at,resolved_at", ""), ("host,fail_time,fix_time", "")],
)  # fmt: skip
def test_outages_are_known_by_the_usual_names_of_their_begin_and_end(write, head, text):
    rows = f"a,2025-03-01 00:00 UTC,2025-03-01 01:00 UTC{text}\nb,2025-03-01 03:00 UTC,{text}\n"
    assert outcome(read_trace(write(f"{head}\n{rows}"))) == AWAY


def test_columns_that_are_nodes_are_not_said_to_be_left_out(write):
    trace = read_trace(write("Time,a:9100,b:9100\n2025-03-01 00:00,1,1\n2025-03-01 01:00,1,0\n"))
    assert "columns are taken for nodes: a, b (2 in all)" in trace.notes
    assert not any("left out" in note for note in trace.notes)


def test_table_of_a_terminal_may_have_a_rule_under_its_header(write):
    rows = (
        "   Cluster   NodeName           TimeStart             TimeEnd  State  Reason\n"
        "---------- ---------- ------------------- ------------------- ------ -------\n"
        "     atlas     gpu-02 2025-03-01T01:00:00 2025-03-01T02:00:00  DOWN*    none\n"
        "     atlas     gpu-01 2025-03-01T05:00:00             Unknown   DOWN    none\n"
    )
    # gpu-02 is away for the first of four hours, and gpu-01 goes at the end.
    assert outcome(read_trace(write(rows))) == (4 * 3600.0, 2, 7 * 3600.0)


@pytest.mark.parametrize("zone", ["GMT", "UTC"])
def test_zone_of_a_date_goes_before_the_one_that_is_given(write, zone):
    rows = f"node,start,end\na,1 Mar 2025 08:00 {zone},1 Mar 2025 09:00 {zone}\n"
    asked = {"time_format": "%d %b %Y %H:%M %Z", "time_zone": "Europe/Berlin", "span": "2025-03-01T08:00Z.."}
    # The span begins with the outage, an hour that would lie before it in Berlin's time.
    assert read_trace(write(rows), mapping=make_mapping(**asked)).duration_s == 3600.0
    with pytest.raises(TraceFormatError, match="is not a time as"):
        read_trace(write(rows.replace(zone, "CET")), mapping=make_mapping(**asked))


# The order of rows.


def dated(*rows):
    return "".join(f"2021-11-07 {clock},{num}\n" for clock, num in rows)


def losses(trace):
    gone = [(batch.time_s, len(batch.removed if batch.time_s else trace.away)) for batch in trace.batches()]
    return [loss for loss in gone if loss[1]]


DISORDERS = {
    "a later observation overtakes one that was written ahead": (
        [("10:00", 9), ("10:01", 9), ("10:02", 9), ("10:01:30", 7), ("10:02:30", 7)], [(90.0, 2)], 150.0,
    ),
    "observations that overlap do not flap beside a row in disorder": (
        [("10:00", 9), ("10:01", 9), ("10:00:30", 7), ("10:01:30", 7), ("10:01", 6), ("10:02", 6), ("09:00", 5),
         ("09:01", 5)], [(3630.0, 2), (3660.0, 1)], 3720.0,
    ),
    "rows in mere disorder are sorted": (
        [("12:00", 8), ("13:00", 7), ("10:00", 9), ("11:00", 9)], [(7200.0, 1), (10800.0, 1)], 10800.0,
    ),
    "newest rows come first": ([("12:00", 6), ("11:00", 7), ("10:00", 8)], [(3600.0, 1), (7200.0, 1)], 7200.0),
}  # fmt: skip


@pytest.mark.parametrize("disorder", DISORDERS)
def test_counts_in_disorder_are_put_in_order(write, disorder):
    rows, lost, span_s = DISORDERS[disorder]
    trace = read_trace(write(dated(*rows)))
    assert (losses(trace), trace.duration_s) == (lost, span_s)


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 9)), min_size=1, max_size=30), st.integers(1, 4))
def test_observations_written_several_times_ahead_count_once_each(observations, num_copies):
    times_s = np.cumsum([gap_s for gap_s, _ in observations]).tolist()
    samples = [Sample(time_s, num) for time_s, (_, num) in zip(times_s, observations, strict=True)]
    written = [sample._replace(time_s=sample.time_s + 60 * copy) for sample in samples for copy in range(num_copies)]
    kept, _ = settle(written)
    grid = np.arange(times_s[0], times_s[-1] + 1)
    once, several = (
        np.array([sample.num_nodes for sample in rows])[
            np.searchsorted([sample.time_s for sample in rows], grid, "right") - 1
        ]
        for rows in (samples, kept)
    )
    assert once.tolist() == several.tolist()


AUTUMN = dated(("00:50", 8), ("01:20", 8), ("01:50", 8), ("01:05", 4), ("02:05", 4))


def test_step_back_of_local_time_is_refused_with_its_line(write):
    with pytest.raises(TraceFormatError, match=r"line 4: steps back by 45 min, .* `time_zone`"):
        read_trace(write(AUTUMN))
    assert sum(num for _, num in losses(read_trace(write(AUTUMN), lenient=True))) == 4


def test_step_back_of_local_time_is_read_right_in_its_zone(write):
    trace = read_trace(write(AUTUMN), mapping=TraceMapping(time_zone="America/New_York"))
    # From 00:50 EDT, 75 min to 01:05 EST and 135 min to 02:05 EST.
    assert losses(trace) == [(75 * 60.0, 4)]
    assert trace.duration_s == 135 * 60.0


@pytest.mark.parametrize("lenient", [False, True])
def test_step_back_of_local_time_is_read_right_in_its_zone_from_the_newest_row_on(write, lenient):
    newest_first = "\n".join(AUTUMN.splitlines()[::-1])
    trace = read_trace(write(newest_first), mapping=TraceMapping(time_zone="America/New_York"), lenient=lenient)
    assert (losses(trace), trace.duration_s) == ([(75 * 60.0, 4)], 135 * 60.0)
    events = "2021-11-07 01:05,up,a\n2021-11-07 01:50,down,a\n2021-11-07 00:50,up,a\n2021-11-06 09:00,up,b\n"
    trace = read_trace(write(events), mapping=TraceMapping(time_zone="America/New_York"), lenient=lenient)
    # From 9:00 EDT it is 15 h and 50 min to 00:50 EDT, an hour more to 01:50 EDT, and 15 min more to 01:05 EST.
    assert [event.time_s / 60 for event in trace.events()][1:] == [950, 1010, 1025]


def test_step_back_of_local_time_asks_for_its_zone_from_the_newest_row_on(write):
    with pytest.raises(TraceFormatError, match=r"line 2: steps back by 45 min, .* `time_zone`"):
        read_trace(write("\n".join(AUTUMN.splitlines()[::-1])))


def test_spring_has_no_hour_that_the_clock_leaves_out(write):
    rows = "2021-03-14 01:50,8\n2021-03-14 03:05,7\n"
    assert read_trace(write(rows), mapping=TraceMapping(time_zone="America/New_York")).duration_s == 15 * 60.0


def test_events_that_step_back_in_local_time_ask_for_the_zone(write):
    rows = "2021-11-07 00:50,up,a\n2021-11-07 01:50,down,a\n2021-11-07 01:05,up,a\n"
    with pytest.raises(TraceFormatError, match=r"line 3: steps back by 45 min, .* `time_zone`"):
        read_trace(write(rows))
    trace = read_trace(write(rows), mapping=TraceMapping(time_zone="America/New_York"))
    assert [(event.time_s / 60, event.kind) for event in trace.events()] == [(0, "add"), (60, "remove"), (75, "add")]


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("kinds", [("add", "remove"), ("remove", "add")])
def test_node_that_restarts_within_one_stamp_is_lost_and_back_whatever_the_order(kinds, lenient):
    events = [Event(0.0, "add", "b"), *(Event(60.0, kind, "b") for kind in kinds), Event(120.0, "remove", "b")]
    trace = build_trace(events, lenient=lenient)
    assert [batch[1:] for batch in trace.batches()] == [((), ("b",)), (("b",), ("b",)), (("b",), ())]


def test_node_that_comes_and_goes_within_the_first_stamp_is_away_from_the_start():
    trace = build_trace([Event(0.0, "remove", "a"), Event(0.0, "add", "a"), Event(0.0, "add", "b")])
    assert (trace.away, trace.names, trace.nodes_lost()) == (("a",), ("a", "b"), 0)


@pytest.mark.parametrize("away", ["0,add,a\n0,away,b\n", "0,add,a b\n0.001,remove,b\n"])
def test_own_format_says_which_nodes_are_away_from_the_start_and_reads_how_it_did_before(write, tmp_path, away):
    trace = read_trace(write(f"# format: lazsim-trace 1\ntime_s,event,nodes\n{away}60,add,b\n90,remove,a\n"))
    assert [batch[:] for batch in trace.batches()] == [(0.0, (), ("a",)), (60.0, (), ("b",)), (90.0, ("a",), ())]
    assert (trace.away, trace.num_alive()[1].tolist(), trace.nodes_lost()) == (("b",), [1, 2, 1], 1)
    write_trace(trace, tmp_path / "again.csv")
    assert list(read_trace(tmp_path / "again.csv").events()) == list(trace.events())
    assert "0,away,b\n" in (tmp_path / "again.csv").read_text()


def test_node_is_away_from_the_start_only_and_else_removed(write):
    with pytest.raises(TraceFormatError, match="line 4: expected 'time_s,event,nodes', found '60,away,a'"):
        read_trace(write("# format: lazsim-trace 1\ntime_s,event,nodes\n0,add,a\n60,away,a\n"))
    with pytest.raises(TraceFormatError, match="or 'away' at 0 s, found"):
        build_trace([Event(0.0, "add", "a"), Event(60.0, "away", "a")])


def test_name_that_returns_after_its_loss_is_the_same_node(write):
    trace = read_trace(write("0,add,a\n60000,remove,a\n120000,add,a\n180000,add,b\n"))
    assert trace.names == ("a", "b")
    assert trace.num_alive()[1].tolist() == [1, 0, 1, 2]


# Outages.


def test_outages_of_a_node_that_overlap_or_touch_are_one_and_those_of_no_length_interrupt_it(write):
    rows = "node,start,end\n" + "".join(
        f"{node},2025-03-01 0{start},2025-03-01 0{end}\n"
        for node, start, end in (
            ("a", "2:00", "3:00"),
            ("a", "1:00", "2:30"),
            ("a", "3:00", "4:00"),
            ("b", "5:00", "5:00"),
        )
    )
    trace = read_trace(write(rows), mapping=TraceMapping(cluster_nodes=4))
    changes = [(batch.time_s / 3600, batch.removed, batch.added) for batch in trace.batches()][1:]
    assert trace.away == ("a",)
    assert changes == [(3.0, (), ("a",)), (4.0, ("b",), ("b",))]
    assert trace.num_alive()[1].max() == 4


def test_file_that_names_more_nodes_than_the_cluster_has_is_refused(write):
    with pytest.raises(TraceFormatError, match="names 2 nodes; give `cluster_nodes` of at least that"):
        read_trace(write(OUTAGES), mapping=TraceMapping(cluster_nodes=1))


def test_nodes_that_a_mapping_does_not_name_are_left_out(write):
    path = write("node,start,end\na,2025-03-01,2025-03-02\nb,2025-03-03,2025-03-04\n")
    write('cluster_nodes = ["a", "z"]\n[columns]\nnode = 1\nstart = 2\nend = 3\n', "mine.toml")
    trace = read_trace(path, format=str(path.with_name("mine.toml")))
    assert set(trace.names) == {"a", "z"}
    assert any(note.startswith("1 node of the file not among") for note in trace.notes)


def test_outages_of_several_clusters_are_not_taken_for_one(write):
    rows = "System,nodes,nodenum,Prob Started,Prob Fixed\n2,4,1,6/21/05 10:54,6/21/05 11:00\n20,9,1,6/22/05 10:54,\n"
    with pytest.raises(TraceFormatError, match="line 3: System is '2' before and '20' here"):
        read_trace(write(rows))
    trace = read_trace(write(rows), mapping=make_mapping(where="System=2"))
    assert (len(trace.names), trace.duration_s) == (4, 360.0)


@pytest.mark.parametrize("header", ["", "when what\n"])
def test_several_clusters_in_a_column_without_a_name_are_told_by_its_number(write, header):
    columns = {"columns": "time=1,event=2,node=3,cluster=4", "time_unit": "s"}
    path = write(f"{header}5 add n1 x\n9 add n2 y\n")
    with pytest.raises(TraceFormatError, match=r"4 is 'x' before and 'y' here.* `where` '4=x'"):
        read_trace(path, mapping=make_mapping(**columns))
    assert read_trace(path, mapping=make_mapping(**columns, where="4=x")).names == ("n1",)


@pytest.mark.parametrize("row", ["2025-03-01 5", "2025-03-01 add n1", "5 add n1"])
def test_a_header_with_fewer_names_than_columns_names_none_of_them(write, row):
    for lenient in (False, True):
        with pytest.raises(TraceFormatError):
            read_trace(write(f"host\n{row}\n{row}\n"), format="table", lenient=lenient)


@pytest.mark.parametrize("between", [" ", "; ", "/", " and ", " & "])
def test_nodes_in_one_cell_are_not_taken_for_one(write, between):
    with pytest.raises(TraceFormatError, match=r"line 2: 'gpu-01.*gpu-02' may be several nodes"):
        read_trace(write(OUTAGES.replace("\na,", f"\ngpu-01{between}gpu-02,")))
    for name in ("gpu01-gpu03", "gpu-01 to gpu-03", "gpu-01..03", "gpu-*", "all", "All nodes"):
        with pytest.raises(TraceFormatError, match=r"line 2: .* may be several nodes"):
            read_trace(write(OUTAGES.replace("\na,", f"\n{name},")))
    for name in ("zone1/gpu-01", "Node 7", "1/2", "rack1-3", "ip-10-0-0-1", "allegro"):
        assert name in read_trace(write(OUTAGES.replace("\na,", f"\n{name},"))).names


@pytest.mark.parametrize("name", ["A", "b.example.com"])
def test_names_that_differ_by_case_or_domain_alone_are_told(write, name):
    trace = read_trace(write(EVENTS + f"2025-03-01 02:00:00,up,{name}\n"))
    assert (
        "1 name differs from another by case, zeros or domain alone: taken for other nodes; give each one name"
        in trace.notes
    )


def test_fault_that_ends_though_it_never_started_began_before_the_trace(write):
    faults = [{"node_id": "x", "event_time": 1.0, "event_type": "fault_end"}]
    trace = read_trace(write(json.dumps(faults)), lenient=True)
    assert outcome(trace) == (86400.0, 1, 0.0)


# Lengths of outages.


@pytest.mark.parametrize(
    ("header", "text", "minutes"),
    [
        ("duration_s", "5400", 90), ("duration_min", "90", 90), ("downtime (hours)", "1.5", 90),
        ("Duration [d]", "2", 2880),
        ("outage (hh:mm:ss)", "01:30:00", 90), ("duration", "1 02:03:30", 24 * 60 + 123.5), ("ttr", "1-00:00:00", 1440),
        ("downtime", "1 day, 2:00:00", 26 * 60), ("duration", "2.5h", 150), ("duration", "1h 30min", 90),
        ("duration", "1 hour, 30 minutes", 90), ("downtime_min", "2h", 120), ("down for", "45s", 0.75),
        ("minutes_down", "90", 90), ("duration", "P1DT2H30M", 26.5 * 60),
    ],
)  # fmt: skip
def test_outage_has_a_length_in_the_unit_of_its_header_or_of_its_text(write, header, text, minutes):
    rows = f'node,start,{header}\na,2025-03-01 00:00,"{text}"\nb,2025-03-05 00:00,0 s\n'
    # Two nodes for four days, of which one is away.
    assert outcome(read_trace(write(rows))) == (4 * 86400.0, 2, 8 * 86400.0 - 60 * minutes)


def test_outage_without_an_end_lasts_as_long_as_its_length_says(write):
    rows = "node,start,end,downtime (h),outage\na,2025-03-01 00:00,2025-03-01 01:00,1,GPU\n"
    rows += "b,2025-03-01 02:00,,0.5,GPU\na,2025-03-01 05:00,2025-03-01 06:00,1,GPU\n"
    # Two nodes for six hours, away for 1 h, 0.5 h and 1 h.
    assert outcome(read_trace(write(rows))) == (6 * 3600.0, 3, 9.5 * 3600.0)
    says = "line 3: 'still down' is neither a number nor a date .* if the outage goes on, leave its end empty"
    with pytest.raises(TraceFormatError, match=says):
        read_trace(write(rows.replace(":00,,", ":00,still down,")))
    # A length of 0 is that of one which is not mended: b is away for four hours.
    assert outcome(read_trace(write(rows.replace(",0.5,", ",0,")))) == (6 * 3600.0, 3, 6 * 3600.0)


def test_header_of_files_that_were_put_behind_one_another_is_no_row(write):
    again = COUNTS.replace("03-01", "03-02")
    assert len(read_trace(write(COUNTS + again))) == len(read_trace(write(COUNTS + again.partition("\n")[2])))


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ("node,date,time,event\na,{0},00:10:00,down\na,{0},00:20:00,up\n", "time=date+time,event=event,node=node"),
        (
            "node,start date,start time,end date,end time,cause\na,{0},00:10,{0},00:20,GPU\n",
            "node=node,start=start date+start time,end=end date+end time",
        ),
    ],
)
def test_time_in_another_column_than_its_day_is_said_to_be_joined_to_it(write, rows, columns):
    path = write(rows.format("2025-03-01"))
    assert "if another column has the day, join both in `columns`, as time=day+clock" in refusal(
        lambda: read_trace(path)
    )
    assert read_trace(path, mapping=make_mapping(columns=columns)).duration_s == 600.0


UNITLESS = "node,start,duration\na,2025-03-01 00:00,90\nb,2025-03-01 03:00,\n"


def test_length_of_an_outage_without_a_unit_asks_for_it(write):
    with pytest.raises(TraceFormatError, match="line 2: '90' is a duration without a unit; give `time_unit`"):
        read_trace(write(UNITLESS))
    trace = read_trace(write(UNITLESS), mapping=TraceMapping(time_unit="min"))
    # b goes as the trace ends, and an empty length goes on.
    assert outcome(trace) == (10800.0, 2, 2 * 10800.0 - 5400.0)


def test_unit_that_is_given_is_that_of_lengths_where_times_are_stamps_since_1970(write):
    rows = "node,start,duration\na,1740787200,90\nb,1740798000,30\n"
    trace = read_trace(write(rows), mapping=TraceMapping(time_unit="min"))
    assert outcome(trace) == (10800.0 + 1800.0, 2, 2 * 12600.0 - 5400.0 - 1800.0)


@pytest.mark.parametrize("text", ["2:30", "-1h", "3 fortnights", "1M", "P1M", "PT", "1,5h", "nan h", "9999999d"])
def test_length_that_may_mean_several_things_is_refused(write, text):
    with pytest.raises(TraceFormatError, match=r"line 2: .* is no duration, such as 90 in a unit, 2.5h or 1 02:03:04"):
        read_trace(write(f'node,start,duration\na,2025-03-01,"{text}"\n'))


# From when to when nodes were observed.


@pytest.mark.parametrize(
    ("observed", "span_d", "away_d"),
    [
        (None, 3, 2), ("2025-02-01..2025-05-01", 89, 2), ("..2025-03-03 12:00", 2.5, 1.5), ("2025-02-28..", 4, 2),
        ("2025-02-28T00:00:00+00:00..2025-03-31", 31, 2),
    ],
)  # fmt: skip
def test_outages_are_observed_for_as_long_as_is_said(write, observed, span_d, away_d):
    rows = "node,start,end\na,2025-03-01,2025-03-02\nb,2025-03-03,2025-03-04\n"
    trace = read_trace(write(rows), mapping=make_mapping(span=observed))
    assert outcome(trace) == (86400 * span_d, 2, 86400 * (2 * span_d - away_d))
    said = observed.partition("..")[2] or "with the last one" if observed else "`span` says from when"
    assert any(said in note for note in trace.notes)


def test_span_is_written_as_the_file_writes_times_or_as_iso_does(write):
    rows = "node,start,duration_h\na,01.03.2025 00:00,24\n"
    for observed in ("01.02.2025 00:00..01.04.2025 00:00", "2025-02-01..2025-04-01"):
        mapping = make_mapping(time_format="%d.%m.%Y %H:%M", span=observed)
        assert outcome(read_trace(write(rows), mapping=mapping)) == (59 * 86400.0, 1, 58 * 86400.0)
    hours = write("node,start_h,end_h\na,10,20\n")
    assert outcome(read_trace(hours, mapping=make_mapping(span="0..100"))) == (100 * 3600.0, 1, 90 * 3600.0)


def test_events_of_states_are_observed_for_as_long_as_is_said(write):
    rows = "time,event,node\n2025-03-01,down,a\n2025-03-02,up,a\n"
    trace = read_trace(write(rows), mapping=make_mapping(span="2025-02-27..2025-03-05"))
    assert outcome(trace) == (6 * 86400.0, 1, 5 * 86400.0)


@pytest.mark.parametrize("nodes", ["-3", "4.5", "+4"])
def test_a_number_of_nodes_that_is_no_whole_one_is_not_taken_for_a_name(nodes):
    with pytest.raises(SpecError, match=re.escape(f"`cluster_nodes` {nodes}: give a whole number from 1 up, or names")):
        make_mapping(cluster_nodes=nodes)


def test_addresses_are_names_of_nodes():
    assert make_mapping(cluster_nodes="10.0.0.1").cluster_nodes == ("10.0.0.1",)


@pytest.mark.parametrize(
    ("rows", "observed", "says"),
    [
        ("node,start,end\na,2025-03-01,2025-03-02\n", "2025-03-01..2025-02-01", "`span` ends before it begins"),
        ("node,start,end\na,2025-03-01,2025-03-02\n", "2025-02-01..2025-02-02", "has rows up to 27 d after"),
        ("node,start,end\na,2025-03-01,2025-03-02\n", "2025-03-02..", "has rows up to 24 h before"),
        ("node,start,end\na,2025-03-01,2025-03-02\n", "2025-03-01", "write FROM..TO"),
        ("node,start,end\na,2025-03-01,2025-03-02\n", "5..9", "`span`: '5' is not a date"),
        ("node,start_h,end_h\na,5,6\n", "3..9", "its times count from 0"),
        (COUNTS, "2025-01-01..", "leave `span` out"),
        ("0,add,a\n90000,remove,a\n", "..9", "has rows up to 90 s after"),
    ],
)
def test_span_that_a_file_contradicts_is_refused(write, rows, observed, says):
    assert says in refusal(lambda: read_trace(write(rows), mapping=make_mapping(span=observed)))


# Samples.

SAMPLED = [("a", "1101"), ("b", "1110"), ("c", " 111")]
"""Nodes and their samples, a minute apart: two are lost, a and b, and c comes."""
STAMPS = [f"2025-03-01 00:0{minute}:00" for minute in range(4)]


def wide(names, text, start="Time"):
    rows = ["".join(row) for row in zip(*(samples for _, samples in SAMPLED), strict=True)]
    lines = [",".join([stamp, *(text[cell] for cell in row)]) for stamp, row in zip(STAMPS, rows, strict=True)]
    return "\n".join([",".join([start, *names]), *lines]) + "\n"


def long(header, name):
    rows = [
        f'{stamp},"{name.format(node)}",{value}'
        for node, samples in SAMPLED
        for stamp, value in zip(STAMPS, samples, strict=True)
        if value != " "
    ]
    return "\n".join([header, *rows]) + "\n"


DIGITS = {"1": "1", "0": "0", " ": ""}
SAMPLES = {
    "columns": wide("abc", DIGITS),
    "words": wide("abc", {"1": "up", "0": "down", " ": ""}),
    "blanks": wide("abc", {"1": "1.0", "0": "", " ": ""}),
    "NaN": wide("abc", {"1": "1", "0": "0", " ": "NaN"}),
    "labels": wide([f'"up{{instance=""{node}:9100"", job=""node""}}"' for node in "abc"], DIGITS, '"Time"'),
    "Excel": "sep=,\r\n" + wide("abc", DIGITS).replace("\n", "\r\n"),
    "rows": long("Time,instance,Value", "{}:9100"),
    "rows of series": long("Time,Metric,Value", 'up{{instance=""{}:9100""}}'),
    "poll": long("time,host,alive", "{}"),
    "poll in JSON": "\n".join(
        json.dumps({"ts": stamp, "host": node, "healthy": value == "1"})
        for node, samples in SAMPLED
        for stamp, value in zip(STAMPS, samples, strict=True)
        if value != " "
    ),
}


@pytest.mark.parametrize("form", SAMPLES)
def test_node_is_gone_while_its_samples_are_0_or_missing(write, form):
    trace = read_trace(write(SAMPLES[form]))
    assert losses(trace) == [(120.0, 1), (180.0, 1)]
    # a for two minutes, b for three, c for two.
    assert outcome(trace) == (180.0, 2, 60.0 * (2 + 3 + 2))
    assert sorted(trace.names) == ["a", "b", "c"]


def test_columns_that_are_nodes_are_named_by_a_pattern_and_series_by_their_labels(write):
    rows = wide(["gpu-1", "gpu-2", "load"], DIGITS).replace("load", "load of all")
    trace = read_trace(write(rows), mapping=make_mapping(columns="time=Time,nodes=gpu-*"))
    assert trace.names == ("gpu-1", "gpu-2")
    two = [f'"up{{instance=""{node}"",job=""{job}""}}"' for node, job in (("a", "dcgm"), ("a", "node"), ("b", "node"))]
    with pytest.raises(TraceFormatError, match=r"jobs dcgm, node, .* choose one with `where` 'job=dcgm'"):
        read_trace(write(wide(two, DIGITS)))
    assert read_trace(write(wide(two, DIGITS)), mapping=make_mapping(where="job=node")).names == ("a", "b")


def test_status_that_is_not_ready_is_a_loss(write):
    name = '"kube_node_status_condition{{condition=""Ready"",node=""{}"",status=""{}""}}"'
    rows = f"Time,{name.format('a', 'false')},{name.format('b', 'true')}\n{STAMPS[0]},0,1\n{STAMPS[1]},1,1\n"
    assert losses(read_trace(write(rows))) == [(60.0, 1)]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            "Time,a,b\n2025-03-01 00:00,1,1\n2025-03-01 00:01,3,1\n2025-03-01 00:02,1,1\n",
            "line 3: '3' is neither 0 nor 1",
        ),
        ("Time,a,b\n2025-03-01 00:00,1,1\n2025-03-01 00:01,1\n", "line 3: 2 columns, too few"),
        # Counts of two kinds of nodes, or loads.
        (
            "Time,a,b\n2025-03-01 00:00,3,1\n2025-03-01 00:01,3,2\n",
            "or of samples time=when,nodes=gpu-* (or node=host,value=up)",
        ),
        ('Time,"load{node=""a""}"\n2025-03-01 00:00,1\n', "Prometheus's load, which does not say"),
        # Which of the two is it at 00:00?
        ("time,node,job,value\n2025-03-01,a,x,1\n2025-03-01,a,y,0\n", "line 3: another sample of 'a' at the time 0"),
        ("time,node,state\n2025-03-01,a,1\n2025-03-02,a,0\n", "give `columns` with value=state if 1"),
        # Polled one after the other.
        (
            "time,node,value\n0,a,1\n1,b,1\n60,a,1\n61,b,0\n120,a,1\n121,b,1\n",
            "no node has samples at more than 60% of",
        ),
    ],
)
def test_samples_that_do_not_say_which_node_is_there_are_refused_in_one_line(write, rows, says):
    mapping = make_mapping(time_unit="s") if "\n0," in rows else TraceMapping()
    assert says in refusal(lambda: read_trace(write(rows), mapping=mapping))


KUBE = "Time,condition,node,status,Value\n"


@pytest.mark.parametrize(
    "series",
    [
        {"Ready,{},true": "1011"}, {"Ready,{},false": "0100"}, {"Ready,{},true": "1011", "Ready,{},unknown": "0100"},
        {"Ready,{},true": "1011", "DiskPressure,{},true": "0000", "MemoryPressure,{},true": "0001"},
    ],
)  # fmt: skip
def test_labels_of_kube_state_metrics_may_stand_in_columns_of_their_own(write, series):
    always = {"Ready,b,true": "1111"}
    rows = [
        f"{stamp},{labels},{value}\n"
        for labels, values in ({name.format("a"): values for name, values in series.items()} | always).items()
        for stamp, value in zip(STAMPS, values, strict=True)
    ]
    # a is not ready for one minute of three.
    assert outcome(read_trace(write(KUBE + "".join(rows)))) == (180.0, 1, 300.0)


def test_samples_of_other_conditions_are_refused(write):
    rows = "".join(f"{stamp},DiskPressure,a,true,{value}\n" for stamp, value in zip(STAMPS, "0010", strict=True))
    assert "no series of a node in it" in refusal(lambda: read_trace(write(KUBE + rows)))


def test_samples_of_two_ports_of_a_node_that_differ_are_refused(write):
    says = "another sample of 'a' at the time {}; choose with `where`, such as 'node=*:9400'"
    path = write(wide(["a:9100", "a:9400", "b:9100"], DIGITS))
    assert says.format(120) in refusal(lambda: read_trace(path))
    assert read_trace(path, mapping=make_mapping(where="node=*:9100")).names == ("a", "b")
    labelled = [f'"{{instance=""{name}""}}"' for name in ("a:9100", "a:9400", "b:9100")]
    assert says.format(120).replace("node=", "instance=") in refusal(lambda: read_trace(write(wide(labelled, DIGITS))))
    rows = "".join(f"{stamp},a:{port},{job},{int(job != 'dcgm' or stamp != STAMPS[1])}\n"
                   for stamp in STAMPS for port, job in ((9100, "node"), (9400, "dcgm")))  # fmt: skip
    path = write("Time,instance,job,Value\n" + rows + f"{STAMPS[-1]},b:9100,node,1\n")
    assert says.format(60) in refusal(lambda: read_trace(path))
    assert losses(read_trace(path, mapping=make_mapping(where="job=node"))) == []


def test_ports_that_are_sampled_in_turns_do_not_make_other_nodes_seem_gone(write):
    # Each port has two of three times, of a and, at other times than those of b, of a.
    rows = "".join(f"{stamp},{name},1\n{stamp[:-2]}30,a:9400,1\n" for stamp in STAMPS for name in ("a:9100", "b:9100"))
    assert "take samples of all nodes at the same times" in refusal(
        lambda: read_trace(write("Time,instance,Value\n" + rows))
    )


def test_an_object_nested_too_deeply_in_the_first_of_many_lines_is_one_line(write):
    with pytest.raises(TraceFormatError):
        read_trace(write('{"a":' * 100_000 + "}" * 100_000 + "\n1,2\n" * 2))


def test_one_of_the_conditions_in_a_list_must_hold(write):
    rows = "host,down since,up at,kind\n" + "".join(
        f"{kind},2025-03-01 0{hour}:00,2025-03-01 0{hour}:30,{kind}\n"
        for hour, kind in enumerate(["gpu", "net", "test"])
    )
    path = write(rows)
    write('where = [["kind=g*", "kind=n*"]]\n[columns]\nnode = 1\nstart = 2\nend = 3\n', "mine.toml")
    trace = read_trace(path, format=str(path.with_name("mine.toml")))
    assert set(trace.names) == {"gpu", "net"}
    assert "1 row is left out (1 with kind test): only those with kind=g* or kind=n* count" in trace.notes


def test_counts_under_a_header_are_in_milliseconds_only_if_it_says_so(write):
    rows = "".join(f"{600 * minute},{8 - minute % 3}\n" for minute in range(9))
    with pytest.raises(TraceFormatError, match="have no unit"):
        read_trace(write(f"time,nodes\n{rows}"))
    assert read_trace(write(f"time_ms,nodes\n{rows}")).duration_s == 4.8


@pytest.mark.parametrize("rows", ["a,down b,up", "a,up a,down b,up", "b,up a,down"])
def test_states_of_the_first_instant_may_stand_in_any_order(write, rows):
    first = "".join(f"2025-03-01 10:00,{row}\n" for row in rows.split())
    trace = read_trace(write(f"time,node,state\n{first}2025-03-01 11:00,a,up\n2025-03-01 12:00,b,down\n"))
    changes = [(batch.time_s, batch.removed, batch.added) for batch in trace.batches()][1:]
    assert trace.away == ("a",)
    assert changes == [(3600.0, (), ("a",)), (7200.0, ("b",), ())]


SPANS = "a,2025-03-01 00:00,2025-03-01 05:00,{0}\nb,2025-03-01 02:00,2025-03-01 09:00,{0}\n"


@pytest.mark.parametrize("column", ["user", "job", "owner", "reservation", "tenant", "price", "état", "state"])
def test_rows_that_may_say_who_used_a_node_are_no_outages_unless_columns_say_so(write, column):
    path = write(f"node,from,to,{column}\n{SPANS.format('x')}")
    told, named = refusal(lambda: read_trace(path)), "node=node,start=from,end=to"
    assert column in told
    assert f"if a node is gone from start to end, give `columns` {named}" in told
    assert len(losses(read_trace(path, mapping=make_mapping(columns=named)))) == 2


@pytest.mark.parametrize(("names", "is_told"), [("from,to", True), ("down_from,to", False)])
def test_rows_of_nodes_and_times_alone_are_outages_and_a_note_says_so_where_no_name_does(write, names, is_told):
    trace = read_trace(write(f"node,{names}\n{SPANS.replace(',{0}', '')}"))
    assert len(losses(trace)) == 2
    assert trace.notes[0].startswith("each row is taken for an outage, though no column is named so") == is_told


@pytest.mark.parametrize("column", ["reason", "Root cause", "error_code", "state"])
def test_rows_that_speak_of_outages_are_such_and_a_note_names_what_is_left_out(write, column):
    trace = read_trace(write(f"node,from,to,{column}\n{SPANS.format('down')}"))
    assert len(losses(trace)) == 2
    taken = "columns are taken for node=node,start=from,end=to; left out: "
    assert any(note.replace("'", "") == taken + column for note in trace.notes)


RULED = """\
   Cluster        NodeName           TimeStart             TimeEnd  State                         Reason       User
---------- --------------- ------------------- ------------------- ------ ------------------------------ ----------
        c1                 2025-03-01T00:00:00 2025-03-01T06:00:00        Cluster Registered TRES
        c1          gpu-02 2025-03-01T01:00:00 2025-03-01T01:30:00  DOWN* Not responding                 slurm(450+
        c1          gpu-01 2025-03-01T05:00:00             Unknown   DOWN Node unexpectedly rebooted     slurm(450+
"""


def test_columns_of_fixed_width_are_cut_under_their_rule_and_not_at_blanks(write):
    assert losses(read_trace(write(RULED))) == [(0.0, 1), (4 * 3600.0, 1)]


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("  DOWN*", " DRAIN+"),
        ("Node unexpectedly rebooted    ", "gres/gpu count reported lower+"),
        (" gpu-02", "gpu-02+"),
    ],
)
def test_text_that_is_cut_to_its_column_is_refused_where_it_counts(write, text, cut):
    path = write(RULED.replace(text, cut))
    with pytest.raises(TraceFormatError, match="is cut to the width of its column"):
        read_trace(path)
    assert any("cut as they stand" in note for note in read_trace(path, lenient=True).notes)


def test_text_that_runs_into_the_next_column_is_refused(write):
    with pytest.raises(TraceFormatError, match="line 4: a text is wider than its column"):
        read_trace(write(RULED.replace("gpu-02 2025", "gpu-02-2025")))


HOURLY = "".join(
    f"2025-11-02 {hour}:00:00,{num}\n" for hour, num in (("00", 8), ("01", 8), ("01", 4), ("02", 4), ("03", 4))
)


def test_hour_that_comes_twice_in_hourly_counts_takes_a_zone(write):
    path = write(HOURLY)
    with pytest.raises(TraceFormatError, match="line 3: repeats the time of the row before, as local time does"):
        read_trace(path)
    trace = read_trace(path, mapping=TraceMapping(time_zone="America/New_York"))
    assert (losses(trace), trace.duration_s) == ([(7200.0, 4)], 4 * 3600.0)


def test_rows_in_a_little_disorder_or_written_twice_are_of_the_same_hour_though_it_comes_twice(write):
    zone = TraceMapping(time_zone="America/New_York")
    rows = [("00:50", 8), ("01:20", 7), ("01:20", 7), ("01:50", 6), ("01:20", 5), ("01:20", 5), ("02:05", 5)]
    trace = read_trace(write(dated(*rows)), mapping=zone)
    # From 00:50 EDT to 01:20 and 01:50 EDT, and to 01:20 and 02:05 EST.
    assert (losses(trace), trace.duration_s) == ([(1800.0, 1), (3600.0, 1), (5400.0, 1)], 8100.0)
    rows = "2021-11-07 00:50,up,a\n2021-11-07 01:20:09,up,b\n2021-11-07 01:20:03,up,c\n2021-11-07 01:50,up,d\n"
    with pytest.raises(TraceFormatError, match="line 3: time 1803 s comes after 1809 s, 6 s back"):
        read_trace(write(rows), mapping=zone)
    trace = read_trace(write(rows), mapping=zone, lenient=True)
    assert [event.time_s for event in trace.events()] == [0.0, 1803.0, 1809.0, 3600.0]


def test_last_count_that_may_be_cut_is_told(write):
    rows = dated(("10:00", 18), ("10:05", 17), ("10:10", 1)).removesuffix("\n")
    assert any("the file may be cut" in note for note in read_trace(write(rows)).notes)
    assert not any("be cut" in note for note in read_trace(write(rows + "\n")).notes)


@pytest.mark.parametrize("state", ["down*", "DOWN", "drained"])
def test_states_of_slurm_in_a_log_of_polls_are_known(write, state):
    rows = "time,node,state\n{0} 00:00,a,idle\n{0} 00:00,b,mixed\n{0} 00:05,a,allocated\n{0} 00:05,b,{1}\n"
    assert losses(read_trace(write(rows.format("2025-03-01", state)))) == [(300.0, 1)]


def test_log_of_polls_tells_that_a_node_without_a_row_stays_as_it_was(write):
    rows = "time,node,state\n" + "".join(
        f"2025-03-01 00:0{minute},{node},idle\n" for minute in range(6) for node in "ab"[: 1 if minute == 3 else 2]
    )
    trace = read_trace(write(rows))
    assert any("where it has no row, it stays as it was; if it was gone then, give" in note for note in trace.notes)
    samples = read_trace(write(rows), mapping=make_mapping(columns="time=time,node=node,value=state"))
    assert (losses(trace), losses(samples)) == ([], [(180.0, 1)])


@pytest.mark.parametrize(
    "text",
    [
        ",timestamp,instances\n0,2025-03-01 00:00:00,8\n1,2025-03-01 00:05:00,7\n",
        "| timestamp | instances |\n|---|---|\n| 2025-03-01 00:00:00 | 8 |\n| 2025-03-01 00:05:00 | 7 |\n",
    ],
    ids=["pandas", "Markdown"],
)
def test_column_without_a_name_is_no_time(write, text):
    assert losses(read_trace(write(text))) == [(300.0, 1)]


@pytest.mark.parametrize("words", [("1", "2", "3"), ("ADD", "REMOVE", "UPDATE")])
@pytest.mark.parametrize("form", [str, json_lines])
def test_machine_events_of_google_2019_are_read_as_bigquery_exports_them(write, words, form):
    add, remove, update = words
    rows = [(0, 5, add), (0, 6, add), (3600, 6, remove), (4500, 6, add), (5000, 5, update), (7200, 5, remove)]
    lines = (f"{seconds * 10**6},{machine},{kind},switch,platform" for seconds, machine, kind in rows)
    trace = read_trace(write(form("time,machine_id,type,switch_id,platform_id\n" + "\n".join(lines))))
    assert outcome(trace) == (7200.0, 2, 7200.0 + 3600.0 + 2700.0)


@pytest.mark.parametrize("names", ["created,deleted", "launch_time,terminate_time", "vmcreated,vmdeleted"])
def test_lives_of_nodes_are_not_taken_for_outages_and_the_way_is_told(write, names):
    with pytest.raises(TraceFormatError, match="if rows say from when to when a node was there, give two rows of each"):
        read_trace(write(f"instance,{names}\na,2025-03-01 00:00,2025-03-01 01:00\n"))


def test_a_node_that_is_away_and_said_to_be_so_again_as_it_returns_is_back(write):
    rows = "".join(f"{at},{node},{state}\n" for at, node, state in [
        (0, "a", "up"), (0, "b", "up"), (100, "a", "down"), (200, "a", "down"), (200, "a", "up"), (300, "b", "down"),
    ])  # fmt: skip
    trace = read_trace(write(f"time_s,node,state\n{rows}"))
    assert [(batch.time_s, batch.removed, batch.added) for batch in trace.batches()][1:] == [
        (100.0, ("a",), ()), (200.0, (), ("a",)), (300.0, ("b",), ()),
    ]  # fmt: skip


def test_table_with_a_header_is_not_taken_for_a_format_without_one(write):
    rows = "0,add,a\n0,add,b\n60000,remove,a\n"
    assert "have no unit; give `time_unit`" in refusal(lambda: read_trace(write("time,event,node\n" + rows)))
    assert read_trace(write("time_s,event,node\n" + rows)).duration_s == 60000
    assert read_trace(write("time_ms,event,node\n" + rows)).duration_s == 60
    assert read_trace(write(rows)).format == "bamboo"


def test_nodes_that_are_added_take_no_name_that_the_file_has(write):
    rows = "node,start_s,end_s\nhealthy-001,0,60\nb,90,120\n"
    trace = read_trace(write(rows), mapping=make_mapping(cluster_nodes="4"))
    assert {event.node for event in trace.events()} == {"healthy-001", "b", "healthy-002", "healthy-003"}


def test_file_whose_first_rows_are_out_of_order_is_not_read_from_its_end(write):
    starts = [f"2025-03-01T00:00:{second:02d}Z,add,n{second}\n" for second in range(24, 0, -1)]
    text = "time,event,node\n" + "".join(starts) + "2025-03-01T05:00:00Z,remove,n1\n"
    assert "line 3: time 22 s comes after 23 s" in refusal(lambda: read_trace(write(text)))


# Lists of losses, and what may be taken for something else.


@pytest.mark.parametrize(
    "name",
    ["preempted_at", "terminatedAt", "failed on", "interrupted", "Eviction Time", "revoked_at", "down since",
     "spot_interruption_ts"],
)  # fmt: skip
def test_each_row_is_a_loss_where_the_name_of_a_time_says_so(write, name):
    text = f"instance_id,{name},reason\ni-1,2025-03-01T00:00Z,capacity\ni-2,2025-03-01T02:00Z,capacity\ni-3,,\n"
    trace = read_trace(write(text))
    # i-1 is gone from the start, i-2 at the end, and nothing happens to i-3.
    expected = (7200.0, 2, 2 * 7200.0)
    assert (outcome(trace), len(trace.names)) == (expected, 3)
    assert "no row says that a node is back: those that go stay away" in trace.notes
    stamps = text.replace("2025-03-01T00:00Z", "1740787200").replace("2025-03-01T02:00Z", "1740794400")
    assert outcome(read_trace(write(stamps))) == expected
    assert outcome(read_trace(write(text), mapping=make_mapping(columns="node=1,start=2"))) == expected


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("host,last_failed_at", "do not tell"), ("host,backup_failed_at", "do not tell"),
        ("name,left", "do not tell"), ("node,date", "do not tell"), ("node,started_at", "do not tell"),
        ("node,failed_at,restarted", "do not tell"), ("node,created_at,terminated_at", "do not tell"),
        ("node,failed_at,job_id", "or of what runs on it"), ("name,killed", "do not tell"),
        ("node,maintenance_date", "do not tell"), ("series,deleted_at,note", "or neither for losses)"),
    ],
)  # fmt: skip
def test_times_of_other_things_are_not_taken_for_losses(write, names, says):
    cells = [",2025-03-01 00:00" if "job" not in name else ",7" for name in names.split(",")[1:]]
    assert says in refusal(lambda: read_trace(write(f"{names}\na{''.join(cells)}\nb{''.join(cells)}\n")))


def test_losses_of_a_node_at_several_times_are_refused(write):
    rows = "node,failed_at\na,2025-03-01 00:00\na,2025-03-01 00:00\nb,2025-03-01 02:00\n"
    assert outcome(read_trace(write(rows))) == (7200.0, 2, 7200.0)
    told = refusal(lambda: read_trace(write(rows + "a,2025-03-01 03:00\n")))
    assert "nodes go, some more than once, and not when they are back" in told


@pytest.mark.parametrize(
    ("gone", "there"),
    [
        ("Not Ready", "Ready"), ("out-of-service", "IN_SERVICE"), ("powered_off", "powered_on"), ("idle~", "idle@"),
        ("IDLE*", "mixed"), ("maint", "MIXED-"), ("unreach", "ok"), ("shut down", "running"),
        ("node_down", "node_up"), ("Instance terminated", "InstanceLaunched"), ("host unreachable", "Host up"),
    ],
)  # fmt: skip
def test_states_are_known_whatever_their_case_and_signs(write, gone, there):
    rows = "time,node,state\n2025-03-01 00:00,a,{1}\n2025-03-01 01:00,a,{0}\n2025-03-01 02:00,a,{1}\n"
    assert outcome(read_trace(write(rows.format(gone, there)))) == (7200.0, 1, 3600.0)


@pytest.mark.parametrize("state", ["draining", "IDLE+DRAIN", "pending", "rebooted", "closed_Full", "critical"])
def test_states_that_may_mean_either_are_refused(write, state):
    rows = f"time,node,state\n2025-03-01 00:00,a,up\n2025-03-01 01:00,a,{state}\n2025-03-01 02:00,a,up\n"
    assert f"{state!r} is no event" in refusal(lambda: read_trace(write(rows)))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        # A row for each state that a node had, and the lives of nodes.
        ("node,state,start,end\na,down,{0}1,{0}2\na,up,{0}2,{0}5\nb,down,{0}5,{0}6\n", "beside state, who used a node"),
        ("vm,status,start,end,cause\na,ok,{0}1,{0}2,\na,offline,{0}2,{0}5,host\n", "beside status, cause, who used"),
        ("node_id,state,start,end\na,DEAD,{0}1,{0}5\nb,DEAD,{0}1,{0}6\n", "beside state, who used a node or how it"),
        ("vm,state,start,end,reason\na,terminated,{0}1,{0}5,price\nb,terminated,{0}1,{0}6,x\n", "beside state, reason"),
        ("vm,start,end,preempted\na,{0}1,{0}5,yes\nb,{0}1,{0}6,no\n", "beside preempted, who used a node"),
        ("vm,start,end,exit_reason\na,{0}1,{0}5,price\nb,{0}1,{0}6,user\n", "beside exit_reason, who used a node"),
        # The state may be that of today.
        ("node,failed_at,state\na,{0}1,running\nb,{0}2,terminated\n", "do not tell which nodes come and go"),
        ("node,recovered_at,state\na,{0}1,up\nb,{0}2,down\n", "do not tell which nodes come and go"),
        # The end of each loss is in another column.
        ("time,node,event,repair_hours\n{0}1,a,failed,2\n{0}5,b,failed,9\n", "'repair_hours' may say for how long"),
        ("time,node,event,resolved\n{0}1,a,failed,yes\n{0}5,b,failed,no\n", "'resolved' may say for how long"),
        ("time,node,event,downtime_min\n{0}1,a,failed,60\n{0}5,b,failed,9\n", "'downtime_min' may say for how long"),
        ("time,node,event,recovered_at\n{0}1,a,failed,{0}2\n{0}5,b,failed,\n", "'recovered_at' may say for how long"),
        # A GPU, a pod or a job is no node.
        ("time,reason,object\n{0}1,Evicted,pod/x\n{0}2,Killed,pod/y\n", "or of what runs on it"),
        ("time,job,state\n{0}1,j1,running\n{0}2,j1,failed\n", "column 'job') or of what runs on it"),
        ("time,gpu,state\n{0}1,3,up\n{0}2,3,failed\n", "its rows are of parts of a node (column 'gpu')"),
        ("time,node,kind,event\n{0}1,a,gpu,down\n{0}5,a,gpu,up\n", "of parts of a node (column 'kind')"),
        ("time,node,what,state\n{0}1,a,Pod,failed\n{0}5,a,Pod,running\n", "(column 'what') or of what runs on it"),
        # Power supplies and disks of one node, and two monitors of it.
        ("time,node,unit,state\n{0}1,a,psu,down\n{0}2,a,disk,down\n{0}3,a,psu,up\n{0}5,a,disk,up\n", "(column 'unit')"),
        ("time,node,unit,state\n{0}5,a,psu,up\n{0}3,a,disk,up\n{0}2,a,disk,down\n{0}1,a,psu,down\n", "(column 'unit')"),
        ("time,node,by,state\n{0}1,a,ping,down\n{0}2,a,slurm,down\n{0}3,a,ping,up\n{0}5,a,slurm,up\n", "(column 'by')"),
        # Nodes of two clusters, and days without their hours.
        ("time,cluster,node,event\n{0}1,A,a,down\n{0}2,A,a,up\n{0}5,B,a,down\n", "cluster is 'A' before and 'B' here"),
        ("time,region_id,node,event\n{0}1,A,a,down\n{0}2,A,a,up\n{0}5,B,a,down\n", "with `where` 'region_id=A'"),
        ("rack,node,down_at,up_at\nr1,a,{0}1,{0}5\nr2,a,{0}2,{0}3\n", "a name is of one node in both, give `columns`"),
        ("time,host,nodes\n{0}1,a,8\n{0}2,b,7\n", "choose one with `where` 'host=a'"),
        ("time,cluster_id,nodes\n{0}1,1,8\n{0}2,2,7\n", "choose one with `where` 'cluster_id=1'"),
        ("day,clock,node,state\n2025-03-01,08:00,a,down\n2025-03-01,9:30 PM,a,up\n", "'clock' has times without a day"),
        ("node,down_at,local,up_at\na,2025-03-01,08:00,2025-03-02\n", "if another column has the day, join both"),
        # Active nodes do work, and idle ones are there.
        ("time,active_nodes,idle_nodes\n{0}1,6,2\n{0}2,4,3\n", "nodes of 'idle_nodes' are there, too"),
        ("time,available,busy\n{0}1,6,2\n{0}2,4,3\n", "nodes of 'busy' are there, too"),
    ],
)  # fmt: skip
def test_rows_that_may_tell_of_something_else_are_refused_in_one_line(write, rows, says):
    assert says in refusal(lambda: read_trace(write(rows.format("2025-03-01T0"))))


@pytest.mark.parametrize(
    "column",
    [
        # A partition and a kind of node, and causes, which a row of the return may repeat.
        ("partition", "gpu", "gpu", "gpu"), ("node_type", "gpu", "gpu", "gpu"), ("reason", "gpu", "nic", "nic"),
        ("reason", "ping", "ssh", ""), ("kind", "gpu", "nic", ""), ("user", "root", "slurm", "ann"),
        ("message", "gpu", "gpu", "gpu"), ("sku", "gpu", "gpu", "gpu"), ("component", "psu", "nic", "nic"),
        ("fix", "gpu", "nic", "service"),
        # A node may be in two partitions, but not in two racks.
        ("queue", "long", "debug", "long"), ("rack", "r1", "r1", ""), ("lasted", "00:30", "00:30", ""),
    ],
)  # fmt: skip
def test_a_column_beside_events_of_whole_nodes_does_not_count(write, column):
    name, first, second, back = column
    rows = f"{name},node,time,event\n{first},a,2025-03-01 00:00,down\n{second},a,2025-03-01 00:30,down\n"
    trace = read_trace(write(f"{rows}{back},a,2025-03-01 01:00,up\n{first},b,2025-03-01 02:00,down\n"))
    # a is gone for the first of two hours.
    assert outcome(trace) == (7200.0, 2, 3 * 3600.0)


def test_a_node_in_two_partitions_that_both_have_its_state_is_read(write):
    states = [("00", "idle"), ("01", "down"), ("02", "idle")]
    rows = "".join(f"2025-03-01 {hour}:00,a,{part},{state}\n" for hour, state in states for part in ("gpu", "debug"))
    assert outcome(read_trace(write("time,node,partition,state\n" + rows))) == (7200.0, 1, 3600.0)


def test_one_of_the_clusters_that_have_nodes_of_one_name_is_chosen_by_where_alone(write):
    rows = ("A,a,{0}1:00,{0}2:00", "B,a,{0}1:30,{0}4:00", "A,b,{0}5:00,{0}5:30")
    path = write("cluster,node,down_at,up_at\n" + "\n".join(rows).format("2025-03-01T0"))
    # a is gone for the first of 4.5 hours, and b for half an hour at the end.
    assert outcome(read_trace(path, mapping=make_mapping(where="cluster=A"))) == (4.5 * 3600, 2, 7.5 * 3600)


@pytest.mark.parametrize(
    ("column", "one", "other"), [("by", "slurm", "ping"), ("gpu", "0", "1"), ("kind", "node", "gpu"), ("job", "7", "8")]
)
def test_only_rows_that_are_chosen_may_tell_of_parts_of_a_node(write, column, one, other):
    rows = [(1, one, "down"), (2, other, "down"), (3, other, "up"), (5, one, "up")]
    text = "".join(f"2025-03-01T0{hour}:00,a,{what},{state}\n" for hour, what, state in rows)
    path = write(f"time,node,{column},state\n{text}2025-03-01T06:00,b,{one},down\n")
    assert f"column {column!r}" in refusal(lambda: read_trace(path))
    # a is gone from 1 to 5, and b from 6 on.
    assert outcome(read_trace(path, mapping=make_mapping(where=f"{column}={one}"))) == (5 * 3600.0, 2, 6 * 3600.0)
    assert "column" in refusal(lambda: read_trace(path, mapping=make_mapping(where="node=a")))


def test_a_count_of_nodes_beside_the_host_that_counts_is_read(write):
    assert outcome(read_trace(write("time,host,nodes\n2025-03-01 00:00,head,8\n2025-03-01 01:00,head,7\n"))) == (
        3600.0, 1, 8 * 3600.0,
    )  # fmt: skip


def test_a_length_beside_days_is_no_time_of_day(write):
    rows = "time,node,event,duration\n2025-03-01,a,down,\n2025-03-02,a,up,24:00\n2025-03-03,b,down,\n"
    assert outcome(read_trace(write(rows))) == (2 * 86400.0, 2, 3 * 86400.0)


def test_a_row_that_is_too_short_for_where_is_told_by_its_line(write):
    path = write("time,node,event,by\n2025-03-01 00:00,a,down,x\n2025-03-01 01:00,a\n")
    assert "line 3: 2 columns, too few" in refusal(lambda: read_trace(path, mapping=make_mapping(where="by=x")))


def test_rows_behind_the_first_ones_may_say_that_a_table_is_no_list_of_losses(write):
    rows = "".join(f"i-{hour},2025-03-01 {hour:02}:00,terminated\n" for hour in range(24))
    assert trace_stats(read_trace(write(f"instance,preempted_at,state\n{rows}"))).num_removals == 24
    with pytest.raises(TraceFormatError, match="do not tell which nodes come and go"):
        read_trace(write(f"instance,preempted_at,state\n{rows}i-99,2025-03-02 00:00,running\n"))


def test_milliseconds_behind_a_comma_are_no_counts_of_nodes(write):
    with pytest.raises(TraceFormatError, match="not one of the known formats"):
        read_trace(write("2025-03-01 00:00:00,120\n2025-03-01 01:12:09,533\n2025-03-01 03:12:09,007\n"))


@pytest.mark.parametrize("open_end", ["-", "N/A", "Unknown", ""])
@pytest.mark.parametrize("times", [("2025-03-01 00:00", "2025-03-01 01:00", "2025-03-01 03:00"),
                                   ("1740787200", "1740790800", "1740798000")])  # fmt: skip
def test_down_and_up_are_a_start_and_an_end_whatever_their_dates_and_open_ends(write, times, open_end):
    rows = f"host,down,up,state\na,{times[0]},{times[1]},up\nb,{times[2]},{open_end},down\n"
    assert outcome(read_trace(write(rows))) == AWAY


@pytest.mark.parametrize("span", ["start,downtime (h)", "begin,fixed", "from,restored", "detected,resolved_at"])
def test_outages_by_the_name_of_a_start_or_an_end_may_have_a_state_of_today_beside_them(write, span):
    ends = ("1", "1") if "(h)" in span else ("2025-03-01 01:00", "2025-03-01 03:00")
    rows = f"node,{span},state\na,2025-03-01 00:00,{ends[0]},up\nb,2025-03-01 02:00,{ends[1]},terminated\n"
    # Of three hours of two nodes, each is gone for one.
    assert outcome(read_trace(write(rows))) == (3 * 3600.0, 2, 4 * 3600.0)


def test_counts_that_are_mostly_0_are_told(write):
    rows = "date,count\n2025-03-01,0\n2025-03-02,0\n2025-03-03,2\n"
    assert any(
        note.startswith("most counts are 0; if they count nodes that are lost")
        for note in read_trace(write(rows)).notes
    )


def test_columns_that_their_content_tells_are_named(write):
    text = "TIME,REASON,OBJECT\n2025-03-01T00:00Z,NodeNotReady,node/a\n2025-03-01T01:00Z,NodeReady,node/a\n"
    assert "columns are taken for time=TIME,event=REASON,node=OBJECT" in read_trace(write(text)).notes
