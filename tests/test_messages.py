"""Errors and notes are one short line, and suggest only what is near."""

import json
from pathlib import Path

import pytest

from lazsim.cli.base.messages import LONGEST
from lazsim.output.plots.trace import trace_figure
from lazsim.output.table import Column, Table, render
from lazsim.specs import catalog_names
from lazsim.study.sweep.run import resolve_points
from lazsim.study.sweep.spec import parse_sweep
from lazsim.trace import load_trace
from tests.conftest import ROOT

CATALOG_JOBS = ROOT / "lazsim" / "catalog" / "jobs"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--nodes", 4), "unknown option '--nodes': did you mean '--max-nodes'? see lazsim run --help"),
        (("recovery", "--fault-threshold", 2), "did you mean '--min-replicas'? see lazsim recovery --help"),
        (("routing", "generate", "smartmoe-fit", "--model", "gpt-s"), "lazsim list models NAME tells num_experts, "),
        (("run", "--node-mtbf", "5d"), "lazsim trace generate makes a file of it, for --trace; see lazsim run --help"),
        (("step", "--node-mtbf", "5d"), "unknown option '--node-mtbf': see lazsim step --help"),
        (("compare", "--trace", "-", "--observed", "-"), "--trace and --observed are both stdin: give one of them as"),
        (("run",), "give --trace FILE|RECIPE; see lazsim run --help"),
        (("run", "--trace"), "give --trace FILE|RECIPE; see lazsim run --help"),
        (("trace", "fit", "--kind"), "give --kind: auto, spot, mtbf; see lazsim trace fit --help"),
        (("place", "--experts"), "give --experts N; see lazsim place --help"),
        (("trace", "convert", "x", "--out"), "give --out FILE; see lazsim trace convert --help"),
        (("run", "--json=1"), "--json takes no value: give it alone"),
        (("run", "--help=1"), "--help takes no value: give it alone"),
        (("-V=1",), "unknown option '-=': see lazsim --help"),
        (("--version=1",), "--version takes no value: give it alone"),
        (("sweep",), "give SPEC.toml; see lazsim sweep --help"),
        (("advise", "qwen3"), "unexpected argument (qwen3): no option takes it; see lazsim advise --help"),
    ],
)
def test_a_slip_in_the_options_is_told_with_what_to_give(refused, arguments, said):
    assert said in refused(*arguments)


NAMES = {
    "line ends": "a\nb\r\nc\x0b\x0cd\x85e\u2028f\u2029g",
    "control": "a\x1b[31m\x07\x00b".replace("\0", ""),
    "marks that turn text": "a\u202eb\u2066c",
    "not UTF-8": "a\udcff\ud800b",
    "100,000 characters": "a" * 100_000,
    "empty": "",
    "blank": "  ",
    "options": "`trace` `out`",
}

PLACES = {
    "run --trace": ("run", "--trace"),
    "run --model": ("run", "--trace", "fail-every-5min", "--model"),
    "run --system": ("run", "--trace", "fail-every-5min", "--system"),
    "run --placement": ("run", "--trace", "fail-every-5min", "--placement"),
    "run --routing": ("run", "--trace", "fail-every-5min", "--routing"),
    "run --profile": ("run", "--trace", "fail-every-5min", "--profile"),
    "run --duration": ("run", "--trace", "fail-every-5min", "--duration"),
    "run --cap": ("run", "--trace", "fail-every-5min", "--cap"),
    "place --loads": ("place", "--nodes", 4, "--slots", 2, "--experts", 4, "--loads"),
    "place --replicas": ("place", "--nodes", 4, "--slots", 2, "--replicas"),
    "recovery --domains": ("recovery", "--nodes", 4, "--slots", 2, "--experts", 4, "--domains"),
    "recovery --failures": ("recovery", "--nodes", 4, "--slots", 2, "--experts", 4, "--failures"),
    "trace info": ("trace", "info"),
    "trace generate": ("trace", "generate", "--out", "/nowhere/x", "--seed", 0),
    "routing info": ("routing", "info"),
    "sweep": ("sweep", "--out", "/proc/no"),
    "experiment run": ("experiment", "run", "--out", "/proc/no"),
    "verify": ("verify", "--kernels"),
    "profile show": ("profile", "show"),
    "a command": (),
    "an option": ("list", "models", "--"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", PLACES)
def test_an_error_is_one_short_line_whatever_a_name_contains(lazsim, place, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = lazsim(*PLACES[place], NAMES[name])
    assert (code, out) == (2, "")
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    assert len(err) <= LONGEST + 1


def test_notes_and_tables_steer_no_terminal(lazsim, tmp_path):
    path = tmp_path / "\x1b[31mred\u2028name$x$"
    assert lazsim("trace", "generate", "fail-every-5min", "--out", path)[0] == 0
    code, out, err = lazsim("run", "--trace", path, "--duration", "1min", "--system", "ds")
    assert code == 0
    for text in (out, err):
        assert "\x1b" not in text
        assert "\u2028" not in text
    code, out, _ = lazsim("trace", "info", path, "--json")
    assert json.loads(out)["name"] == str(path)


def test_every_text_of_a_table_is_escaped():
    table = Table([Column("\x1b", kind="text")], [["\x1b"]], title="\x1b", notes=["\x1b"])
    assert "\x1b" not in render([table, "\x1b"], 40)


def test_a_name_in_a_picture_is_no_formula(write):
    path = write("0,add,node1\n60000,remove,node1\n", r"a$\frac$b.csv")
    assert trace_figure(load_trace(path))


@pytest.mark.parametrize("name", ["dbrx-132b", "x", "switch"])
def test_only_a_near_name_is_suggested(lazsim, name):
    for option in ("--model", "--system"):
        _, _, err = lazsim("run", "--trace", "fail-every-5min", option, name)
        assert f"'{name}': known: " in err


@pytest.mark.parametrize("option", ["--model", "--cluster", "--job", "--placement", "--profile"])
@pytest.mark.parametrize(("kind", "name"), [("file", "here.yaml"), ("folder", "there")])
def test_a_path_that_exists_is_not_unknown(lazsim, option, kind, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.yaml").write_text("{}")
    (tmp_path / "there").mkdir()
    code, _, err = lazsim("run", "--trace", "fail-every-5min", option, name)
    assert code == 2
    assert f"{name}: a {kind}, no " in err
    assert "unknown" not in err


@pytest.mark.parametrize("kind", ["models", "clusters", "jobs", "systems", "policies", "traces", "routing"])
def test_run_and_sweep_accept_the_same_names(lazsim, kind):
    option = {"policies": "placement", "routing": "routing"}.get(kind, kind.removesuffix("s"))
    listed = json.loads(lazsim("list", kind, "--json")[1])[kind]
    base = {"trace": "fail-every-5min", "duration": "1s", "system": "lazarus"}
    for name in listed:
        arguments = [part for key, value in (base | {option: name}).items() for part in (f"--{key}", value)]
        code, _, err = lazsim("run", *arguments)
        try:
            resolve_points(parse_sweep({"base": base | {option: name}}))
            said = ""
        except Exception as error:
            said = str(error)
        # A model may not fit on the default cluster, and a published trace has to be fetched: both say so.
        assert (code == 0) == (not said), (name, err, said)
        assert "unknown" not in err


@pytest.mark.parametrize("name", ["fail-every-5min", "spot-p3-like"])
def test_a_recipe_stands_for_a_trace_everywhere(lazsim, name, tmp_path):
    assert name in catalog_names("traces")
    path = tmp_path / "trace.csv"
    lazsim("trace", "generate", name, "--seed", 3, "--out", path)
    for command in (("trace", "info"), ("recovery", "--nodes", 4, "--slots", 2, "--experts", 4, "--failures-from")):
        seeded = ("--seed", 3, "--json")
        by_name, by_path = (json.loads(lazsim(*command, one, *seeded)[1]) for one in (name, path))
        for key in ("name", "format", "sha256", "notes", "inputs", "trace"):
            by_name.pop(key, None)
            by_path.pop(key, None)
        assert by_name == by_path


RUN = ("run", "--trace", "fail-every-5min", "--system", "ds")
STEP = ("step", "--model", "mixtral-8x7b", "--cluster", "h100x4")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("swep",), "unknown command 'swep': did you mean 'sweep'?"),
        (("trace", "confert"), "unknown command 'confert': did you mean 'convert'?"),
        (("run", "--systme", "ds"), "unknown option '--systme': did you mean '--system'? see lazsim run --help"),
        ((*STEP, "--job", "tesbed-a"), "--job: unknown job 'tesbed-a': did you mean 'testbed-a'?"),
        (
            ("step", "--model", "mixtral-8x7", "--cluster", "h100x4"),
            "--model: unknown model 'mixtral-8x7': did you mean",
        ),
        ((*RUN, "--format", "bamboo"), "a recipe has no use for --format; leave it out"),
        ((*RUN, "--placement", "mor"), "--placement: unknown policy 'mor': did you mean 'mro'?"),
        (
            (*RUN, "--cluster", "h100x64", "--job", "qwen3-235b"),
            "--job qwen3-235b for --model gpt-s: parallel: expert (32) must divide 8 experts",
        ),
    ],
)
def test_a_slip_is_told_with_its_option_and_what_was_meant(refused, arguments, said):
    assert said in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--layout", "tensor=3"), "--layout: tensor x pipeline x context (3) must divide the 32 GPUs"),
        (("--layout", "tensr=3"), "--layout: tensr = 3: unknown field 'tensr': did you mean 'tensor'?"),
        (("--layout", "stages=Et"), "--layout: stages 'Et' must have 1 part "),
        (("--job", "mine.toml"), "--job mine.toml: parallel: tensor x pipeline x context (3) must divide the 32 GPUs"),
        (
            ("--job", "mine.toml", "--layout", "pipeline=4"),
            "--job mine.toml: parallel with --layout: tensor x pipeline x context (12) must divide the 32 GPUs",
        ),
    ],
)
def test_a_layout_is_refused_by_the_option_or_the_job_that_the_user_gave(
    refused, arguments, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    layout = "\n[parallel]\nglobal_batch = 64\ntensor = 3\n"
    (tmp_path / "mine.toml").write_text((CATALOG_JOBS / "testbed-a.toml").read_text() + layout)
    assert refused(*STEP, *arguments).startswith(said)


PLACE = ("place", "--nodes", 4, "--slots", 4, "--experts", 4)


@pytest.mark.parametrize("command", [RUN, ("trace", "info", "fail-every-5min"), PLACE, ("recovery", *PLACE[1:])])
def test_lenient_is_refused_where_no_file_is_read(refused, command):
    assert (
        refused(*command, "--lenient") == "--lenient repairs files of events or loads, and none is given; leave it out"
    )


JSON_FILES = {
    '{"plans": 3}': "plans: expected a table of fields, got a whole number",
    '{"plans": {"mro": [[0, 1], [2, "a"]]}}': "plans.mro[1][1]: expected a whole number or null, got text",
    '{"plans": {\n"mro": nothing}}': "at line 2, column ",
    '{"plans": {': "ends too early",
}


@pytest.mark.parametrize("content", JSON_FILES)
def test_a_fault_of_json_is_told_as_one_of_toml(refused, tmp_path, content):
    (tmp_path / "old.json").write_text(content)
    told = refused(*PLACE, "--old", tmp_path / "old.json")
    assert JSON_FILES[content] in told
    assert not any(word in told for word in ("`", "$", "Expected", "object", "malformed"))


def test_an_option_of_words_or_numbers_is_refused_with_those_it_takes(refused):
    assert refused("list", "gpu").startswith("KIND: unknown value 'gpu': did you mean 'gpus'? known: models, ")
    assert refused(*PLACE, "--layer", "x").startswith("--layer: expected a whole number from 0 to ")
    for slip, near in (("--layout", ""), ("--outt", "did you mean '--out'? ")):
        assert refused(*RUN, slip, "x") == f"unknown option '{slip}': {near}see lazsim run --help"


def test_a_list_of_names_that_is_too_long_ends_early_and_keeps_what_follows(refused):
    num_models = len(catalog_names("models"))
    told = refused(*RUN, "--model", "nope")
    listed = told.partition("known: ")[2].partition(";")[0]
    names, _, more = listed.partition(" and ")
    assert len(names.split(", ")) + int(more.removesuffix(" more")) == num_models
    assert told.endswith("or a config.json of Hugging Face (see lazsim list models)")


def test_notes_name_the_same_options_on_stderr_in_json_and_in_files(lazsim, tmp_path):
    # 32 nodes of the recipe on a cluster of 10.
    _, out, err = lazsim("run", "--trace", "spot-p3-like", "--duration", "1h", "--system", "ds", "--json",
                         "--out", tmp_path / "out")  # fmt: skip
    told = [line.removeprefix("note: ") for line in err.splitlines()]
    notes = json.loads(out)["notes"]
    assert any("--max-nodes 10 keeps to that" in note for note in notes)
    for name in ("summary.json", "run.json"):
        assert json.loads((tmp_path / "out" / name).read_text())["notes"] == notes
    assert set(notes) <= set(told)


def test_a_file_whose_name_looks_like_a_field_keeps_it_in_json(lazsim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "`max_nodes`").write_text("time_s,count\n0,10\n60,9\n600,10\n")
    _, out, _ = lazsim("run", "--trace", "`max_nodes`", "--system", "ds", "--json", "--out", "out")
    assert json.loads(out)["trace"]["name"] == "`max_nodes`"
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["trace"]["name"] == "`max_nodes`"


FILES = {
    "[parallel]\nglobal_batch = 8\ntensor = 'two'": "parallel.tensor: expected a whole number, got text",
    "[parallel]\nglobal_batch = 8\ntensor = -1": "parallel.tensor: expected a whole number >= 1",
    "[parallel]\ntp = 2\nseq_length = 8": "parallel: unknown fields tp (tensor?), seq_length (sequence_length?); ",
    "[parallel]\nglobal_batch = 8\nsharding = 1": "parallel.sharding: expected one of full, none, optimizer",
    "[parallel]\nglobal_batch = 8\ntensr = 2": "parallel.tensr: unknown field: did you mean 'tensor'? known: tensor, ",
    "[parallel]\ntensor = 2": "parallel.global_batch: is missing",
    "[parallel]\nglobal_batch = 8\ntensor = 2.0": "parallel.tensor: expected a whole number, got a decimal number",
    "[parallel]\nglobal_batch = 8\nprecision = 'fp7'": "parallel.precision: expected one of bf16, fp8, ",
}


@pytest.mark.parametrize("content", FILES)
def test_a_fault_of_a_file_is_told_with_option_file_and_field(refused, write, content):
    path = write((CATALOG_JOBS / "testbed-a.toml").read_text() + "\n" + content, "job.toml")
    assert refused(*STEP, "--job", path).startswith(f"--job: {path}: {FILES[content]}")


def test_all_fields_that_a_file_lacks_are_named_at_once(refused, tmp_path):
    path = tmp_path / "mine.toml"
    whole = (ROOT / "lazsim" / "catalog" / "clusters" / "a10gx16.toml").read_text().splitlines()
    lacking = ("gpu =", "nic_latency_s", "detect_s")
    path.write_text("\n".join(line for line in whole if not line.startswith(lacking)))
    found = refused("run", "--trace", "fail-every-5min", "--cluster", path)
    lack = f"--cluster: {path}: gpu, network.nic_latency_s and recovery.detect_s: are missing"
    assert found == f"{lack}; lazsim list clusters h200x128 prints a whole one, to be changed"
    path.write_text("num_nodes = 3\n")
    assert refused("trace", "info", path).startswith(f"{path}: kind: is missing; give one of ")


TABLES = {
    ("trace", "info"): 'time,count\n0,"1,024"\n60,"1,020"\n',
    ("routing", "info"): 'layer,expert,tokens\n0,0,"1,024"\n0,1,"2,024"\n',
    ("profile", "show"): 'kernel,size,time_s\nexpert,"1,024",0.002\n',
}


@pytest.mark.parametrize("command", TABLES)
def test_a_number_with_separators_is_told_with_its_line_and_how_to_write_it(refused, write, command):
    path = write(TABLES[command], "table.csv")
    told = refused(*command, path)
    assert f"{path}, line 2: " in told
    assert "'1,024' has a separator of thousands; write 1024" in told


def test_a_field_of_a_recipe_is_suggested_from_its_own_kind(refused, write):
    path = write(
        'kind = "mtbf"\nnum_nodes = 4\nmtbf_s = "1d"\nrepair_s = "1h"\nduration_s = "30d"\ntick = 3\n', "mine.toml"
    )
    told = refused("trace", "info", path)
    # A spot market has ticks, and is another kind.
    assert told.startswith(f"{path}: tick: unknown field: known: source, ")
    assert "mtbf_s" in told
    assert "tick_s" not in told


def test_times_of_a_recipe_take_units(lazsim, tmp_path):
    texts = {"units.toml": ('"1d"', '"1h"', '"30d"'), "seconds.toml": (86400, 3600, 2592000)}
    for name, values in texts.items():
        fields = dict(zip(("mtbf_s", "repair_s", "duration_s"), values, strict=True))
        lines = ['kind = "mtbf"', "num_nodes = 4", *(f"{field} = {value}" for field, value in fields.items())]
        (tmp_path / name).write_text("\n".join(lines))
    events = [lazsim("trace", "generate", tmp_path / name)[1].partition("\ntime_s")[2] for name in texts]
    assert events[0] == events[1] != ""


def test_backquotes_of_the_user_are_no_fields(refused, lazsim, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(*RUN, "--model", "`trace` `out`").startswith("--model: unknown model '`trace` `out`'")
    assert refused("run", "--trace", "`seed`.csv").startswith("--trace: `seed`.csv: cannot be read")
    table = write("`start`,b\nx,y\n", "table.csv")
    assert "its columns ('`start`', b) do not tell" in refused("trace", "info", table)
    trace = tmp_path / "mine.csv"
    trace.write_text("# format: lazsim-trace 1\n# duration_s: 60\n# note: `start` is that of the job\n"
                     "time_s,event,nodes\n0,add,a b\n")  # fmt: skip
    assert "note: '`start` is that of the job'\n" in lazsim("trace", "info", trace)[2]


def test_a_converted_trace_has_the_notes_that_were_told(lazsim, tmp_path):
    outages, converted = tmp_path / "outages.csv", tmp_path / "converted.csv"
    outages.write_text("node,start,end\na,2024-01-01 00:00,2024-01-01 01:00\nb,2024-01-02 00:00,2024-01-02 01:00\n")
    told = lazsim("trace", "convert", outages, "--out", converted)[2].splitlines()
    notes = [line.removeprefix("# ") for line in converted.read_text().splitlines() if line.startswith("# note")]
    assert any("--cluster-nodes" in note for note in notes)
    assert notes == told[: len(notes)]
    assert told[: len(notes)] == lazsim("trace", "info", converted)[2].splitlines()[: len(notes)]


TRACE_COMMANDS = {
    "trace info": ("trace", "info"),
    "run": ("run", "--trace"),
    "recovery": ("recovery", *PLACE[1:], "--failures-from"),
    "advise": ("advise", "--trace"),
}


@pytest.mark.parametrize("command", TRACE_COMMANDS)
@pytest.mark.parametrize(
    ("content", "option"),
    [
        ("when,who,what\n2024-01-01,a,x\n", "--columns"),
        ("time,node,event\n01/02/2024 00:00,a,fail\n01/03/2024 00:00,b,fail\n", "--time-format"),
        ("time,count\n0,3\n86400,2\n", "--time-unit"),
    ],
)
def test_a_command_suggests_no_option_that_it_lacks(refused, tmp_path, command, content, option):
    (tmp_path / "table.csv").write_text(content)
    told = refused(*TRACE_COMMANDS[command], tmp_path / "table.csv")
    assert option in told
    assert (f"{option} of lazsim trace convert" in told) == (command == "recovery")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("0,add,a b\n2592001,remove,a\n2592000,add,a\n", "time 2592000 s comes after 2592001 s, 1 s back"),
        ("0,add,a b\n3000000.5,remove,a\n", "duration 3000000 s ends before the last event at 3000000.5 s"),
    ],
)
def test_a_message_tells_apart_times_of_a_month_that_differ_by_a_second(refused, write, rows, said):
    path = write(f"# format: lazsim-trace 1\n# duration_s: 3000000\ntime_s,event,nodes\n{rows}", "month.csv")
    assert said in refused("trace", "info", path)


def test_notes_on_a_narrow_terminal_break_no_word(lazsim, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    code, _, err = lazsim("run", "--trace", "fail-every-5min", "--duration", "7min", "--system", "ds")
    assert code == 0
    assert max(map(len, err.splitlines())) <= 40
    assert "costs are analytic: no profile was given" in " ".join(err.split())


def test_the_name_of_a_policy_in_a_file_begins_no_line(lazsim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (path := Path("a\nb.py")).write_text(
        "from lazsim.placement.policies import find_policy\nown = find_policy('spread').function\n"
    )
    arguments = ("--nodes", 4, "--slots", 2, "--experts", 4, "--policy", f"{path}:own", "--lose", 0)
    code, out, err = lazsim("place", *arguments)
    assert code == 0, err
    assert not [line for line in out.splitlines() if line.startswith("b.py")]
