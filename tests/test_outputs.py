"""Where results are written: through symlinks, over nothing foreign, by one run at a time, whole or not at all."""

import contextlib
import json
import os
import resource
import socket
import stat
import sys

import click
import pytest

from lazsim.cli.base.group import COMMANDS, cli
from lazsim.cli.base.kinds import OutFolder, OutPath
from lazsim.cli.base.results import print_json
from lazsim.errors import LazsimError
from lazsim.files.folders import LOCK, RECORD, hold_folder, write_folder
from lazsim.files.reading import read_bytes
from lazsim.files.writing import TEMPORARY, scratch_folder, write_all, write_whole
from lazsim.study.store import Store

RECIPE = "fail-every-5min"
PLACE = ("place", "--nodes", 4, "--slots", 2, "--experts", 4, "--policy", "mro")


def all_commands(command, *path):
    if isinstance(command, click.Group):
        names = command.list_commands(click.Context(command))
        for name in names:
            yield from all_commands(command.get_command(click.Context(command), name), *path, name)
    yield path, command


COMMANDS_WITH_OUT = {
    path: option
    for name in COMMANDS
    for path, command in all_commands(cli.get_command(click.Context(cli), name), name)
    for option in command.params
    if option.name in ("out", "checkpoints", "record_routing")
}
"""What every command writes, from the commands themselves."""


def make_special(path, kind):
    if kind == "socket":
        # The path of a socket has some 100 bytes at most.
        with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    return path


def test_every_option_that_writes_is_checked():
    assert len(COMMANDS_WITH_OUT) > 15
    assert all(isinstance(option.type, OutPath) for option in COMMANDS_WITH_OUT.values())


@pytest.mark.parametrize("kind", ["device", "FIFO", "socket"])
@pytest.mark.parametrize("path", COMMANDS_WITH_OUT, ids=" ".join)
def test_nothing_but_a_file_or_folder_is_written_to(path, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = make_special(tmp_path / "a.png", kind)
    before = place.lstat().st_mode
    option = COMMANDS_WITH_OUT[path].type
    if not (option.is_file or isinstance(option, OutFolder)):
        pytest.skip("the folder of a store; see below")
    with pytest.raises(LazsimError, match=r"a\.png: cannot be written") as refused:
        option.convert("a.png", None, click.Context(cli, obj=contextlib.ExitStack()))
    assert "\n" not in str(refused.value)
    assert place.lstat().st_mode == before
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("out", ["file", "file/below", "a" * 300], ids=["file", "below", "long"])
@pytest.mark.parametrize("path", [path for path, one in COMMANDS_WITH_OUT.items() if isinstance(one.type, OutFolder)])
def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_done(path, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(LazsimError, match="cannot be written"):
        COMMANDS_WITH_OUT[path].type.convert(out, None, click.Context(cli, obj=contextlib.ExitStack()))
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("file", "")]


@pytest.mark.parametrize("kind", ["device", "FIFO", "socket"])
def test_files_of_a_folder_replace_no_special_file(kind, tmp_path):
    special = make_special(tmp_path / "rows.jsonl", kind)
    for write in (lambda: write_all({tmp_path / "a": b"1", special: b"2"}), lambda: Store(tmp_path)):
        with pytest.raises(LazsimError, match=f"rows.jsonl: cannot be written .is a {kind}"):
            write()
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_symlink_stays_and_its_target_is_written(lazsim, tmp_path):
    (tmp_path / "real").mkdir()
    for name, target in (("link.csv", "real/data.csv"), ("folder", "real")):
        (tmp_path / name).symlink_to(target)
    for _ in ("new", "replaced"):
        assert lazsim("trace", "generate", RECIPE, "--out", tmp_path / "link.csv")[0] == 0
        assert lazsim(*PLACE, "--out", tmp_path / "folder")[0] == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "folder").is_symlink()
    assert (tmp_path / "real/data.csv").read_bytes().startswith(b"#")
    assert (tmp_path / "real/place.json").is_file()


def test_a_circle_of_symlinks_is_one_line(refused, tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    refused("trace", "generate", RECIPE, "--out", tmp_path / "a")


@pytest.mark.parametrize("name", ["place.json", "placement.pdf"])
def test_files_that_lazsim_did_not_write_stay(refused, tmp_path, name):
    (tmp_path / name).write_text("mine")
    (tmp_path / "other").write_text("mine")
    assert f"holds {name}, which lazsim did not write there" in refused(*PLACE, "--out", tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine", "other": "mine"}


def test_results_of_each_command_replace_their_own_earlier_ones_only(tmp_path):
    write_folder(tmp_path, "run", {"a": b"1", "old": b"1"})
    write_folder(tmp_path, "place", {"b": b"1"})
    write_folder(tmp_path, "run", {"a": b"2", "new": b"2"})
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != RECORD}
    assert kept == {"a": b"2", "new": b"2", "b": b"1"}
    (tmp_path / RECORD).write_bytes(b"\xff")
    with pytest.raises(LazsimError, match=r"\.lazsim\.json: damaged"):
        write_folder(tmp_path, "run", {"a": b"3"})
    assert (tmp_path / "a").read_bytes() == b"2"


@pytest.mark.parametrize("num_named", [0, 1, 2])
def test_a_folder_whose_writer_was_killed_between_two_files_is_written_again(tmp_path, monkeypatch, num_named):
    named, replace = [], os.replace

    def take_name(temporary, path):
        if len(named) == num_named:
            # No error that anybody handles.
            raise GeneratorExit
        named.append(path)
        replace(temporary, path)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", take_name)
        with pytest.raises(GeneratorExit):
            write_folder(tmp_path, "run", {"a": b"1", "b": b"1"})
    assert write_folder(tmp_path, "run", {"a": b"2", "b": b"2"}) == ["a", "b"]
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["2", "2"]


def test_a_page_of_another_command_stays(lazsim, tmp_path):
    (tmp_path / "s.toml").write_text(f'[base]\ntrace = "{RECIPE}"\nduration = "1min"\n')
    out = tmp_path / "out"
    write_folder(out, "lazsim run", {"report.html": b"of a run"})
    for arguments in (
        ("sweep", tmp_path / "s.toml"),
        ("recovery", "--nodes", 4, "--slots", 4, "--experts", 8),
        ("advise", "--trace", RECIPE, "--runs", 4),
    ):
        code, _, err = lazsim(*arguments, "--out", out)
        assert (code, err) == (2, f"lazsim: {out}: holds report.html of lazsim run; choose another folder\n")
    assert (out / "report.html").read_bytes() == b"of a run"


@pytest.mark.parametrize(
    "arguments", [PLACE, ("sweep", "s.toml"), ("experiment", "run", "failures-5min", "--small")], ids=lambda one: one[0]
)
def test_a_second_run_into_a_folder_is_refused(lazsim, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(f'[base]\ntrace = "{RECIPE}"\nduration = "1min"\n')
    with hold_folder(tmp_path / "out"):
        code, _, err = lazsim(*arguments, "--out", "out")
        assert (code, err) == (
            2, "lazsim: out: another run is writing to it; wait for its end, or choose another folder\n"
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_lock_that_a_killed_run_left_keeps_nobody_out(tmp_path, run_script):
    script = (
        "import os, sys; from lazsim.files.folders import *;"
        "held = hold_folder(Path(sys.argv[1])); held.__enter__(); os._exit(0)"
    )
    run_script(script, tmp_path)
    assert (tmp_path / LOCK).exists()
    with hold_folder(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_a_run_that_fails_leaves_no_folder(lazsim, tmp_path):
    for arguments in (("--loads", "nothing"), ("--min-replicas", "many")):
        assert lazsim(*PLACE, "--out", tmp_path / "deep" / "out", *arguments)[0] == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("trace", "generate", RECIPE),
        ("trace", "convert", RECIPE),
        ("routing", "generate", "smartmoe-fit", "--steps", 10),
    ],
    ids=lambda one: one[1],
)
def test_a_dash_is_stdout(lazsim, tmp_path, arguments):
    assert lazsim(*arguments, "--out", tmp_path / "file.csv")[0] == 0
    code, out, _ = lazsim(*arguments, "--out", "-")
    assert (code, out) == (0, (tmp_path / "file.csv").read_text())


@pytest.mark.parametrize("path", COMMANDS_WITH_OUT, ids=" ".join)
def test_a_dash_is_never_the_name_of_a_result(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    option = COMMANDS_WITH_OUT[path].type
    with contextlib.suppress(click.BadParameter, LazsimError):
        assert str(option.convert("-", None, None)) == "-"
    assert list(tmp_path.iterdir()) == []


def test_a_dash_is_stdin(run_process, lazsim, refused, tmp_path):
    path = tmp_path / "t.csv"
    lazsim("trace", "generate", RECIPE, "--out", path)
    program = f"{sys.executable} -m lazsim"
    for given in (f"--trace - < {path}", f"--trace <(cat {path})"):
        found = run_process("bash", "-c", f"{program} run {given} --duration 1min --system ds --routing uniform --json")
        assert json.loads(found.stdout)["trace"]["nodes_lost"] == 0
    (tmp_path / "s.toml").write_text('[base]\ntrace = "-"\n')
    told = refused("sweep", tmp_path / "s.toml", "--out", tmp_path / "out")
    assert "the runs of a sweep cannot read stdin; give a file" in told


def limited(size):
    """Fail to write beyond a size, as on a full disk; Python ignores the signal that says so."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    return before


def test_a_full_disk_leaves_all_or_nothing(tmp_path):
    with hold_folder(tmp_path / "rows"):
        store = Store(tmp_path / "rows")
        store.append(b"first\n")
        before = limited(1000)
        try:
            for write in (
                lambda: write_all({tmp_path / "small": b"1", tmp_path / "large": b"2" * 2000}),
                lambda: write_folder(tmp_path / "out", "run", {"large": b"2" * 2000}),
                lambda: store.append(b"second\n" + b"third" * 500),
            ):
                with pytest.raises(LazsimError, match=r"cannot be written .File too large"):
                    write()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            store.close()
    files = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"rows.jsonl": b"first\n"}


def test_a_result_whose_files_find_no_room_is_still_printed(lazsim, tmp_path):
    arguments = ("recovery", "--nodes", 4, "--slots", 2, "--experts", 4, "--loads", "uniform")
    printed = lazsim(*arguments)[1]
    before = limited(1000)
    try:
        code, out, err = lazsim(*arguments, "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (code, out) == (2, printed)
    assert "cannot be written (File too large)" in err
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_rows_that_are_not_those_of_a_sweep_stay(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"mine": 1}')
    Store(tmp_path).close()
    assert (tmp_path / "rows.jsonl").read_text() == '{"mine": 1}'


def test_the_next_run_removes_what_killed_ones_left_and_nothing_else(tmp_path, run_script):
    script = (
        "import os, sys; from pathlib import Path; from lazsim.files import writing; os.chdir(sys.argv[1]);"
        "writing._take_names = lambda _: os._exit(0);"
        "held = writing.scratch_folder(Path()); held.__enter__(); writing.write_whole(Path('a'), b'1')"
    )
    run_script(script, tmp_path)
    assert len(list(tmp_path.glob(f"{TEMPORARY}*"))) == 2
    with scratch_folder(tmp_path) as mine:
        (mine / "kept").write_text("")
        write_whole(tmp_path / "b", b"1")
        assert {path.name for path in tmp_path.iterdir()} == {mine.name, "b"}
        assert (mine / "kept").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("others", [(), ("mine",)])
def test_the_folder_of_a_temporary_one_goes_with_it_if_it_was_made_for_it(tmp_path, others):
    with scratch_folder(tmp_path / "a" / "b"):
        for name in others:
            (tmp_path / "a" / name).write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == (["a", *others] if others else [])


def test_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    if os.fork() == 0:
        pipe.write_bytes(b"content")
        os._exit(0)
    assert read_bytes(pipe) == read_bytes(pipe) == b"content"
    os.wait()


@pytest.mark.parametrize("field", ["notes", "error", "reason", "why", "no_plan"])
def test_messages_in_json_name_options_and_no_fields(capsys, field):
    command = click.Command("run", params=[click.Option(["--max-nodes"])])
    with click.Context(command):
        print_json({"refused": [{field: "`max_nodes` 3 is too few", "name": "`max_nodes`"}]})
    assert json.loads(capsys.readouterr().out) == {
        "refused": [{field: "--max-nodes 3 is too few", "name": "`max_nodes`"}]
    }


CONFIG = {
    "model_type": "mixtral", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2,
    "vocab_size": 100, "tie_word_embeddings": False, "head_dim": 16,
}  # fmt: skip
ROWS = [f"{step},0,{expert},{4 + step + expert}\n" for step in range(30) for expert in range(2)]
GROWING = f"step,layer,expert,tokens\n{''.join(ROWS)}"


@pytest.mark.parametrize(
    ("command", "content"),
    [
        ("trace info", "time_s,count\n0,4\n60,3\n"),
        ("trace fit --seeds 2", None),
        ("routing info", GROWING),
        ("routing fit --seeds 2", GROWING),
        ("model import", json.dumps(CONFIG)),
    ],
)
def test_json_has_the_notes_of_stderr(lazsim, tmp_path, command, content):
    path = "spot-p3-like"
    if content is not None:
        path = tmp_path / "input"
        path.write_text(content)
    code, out, err = lazsim(*command.split(), path, "--json")
    notes = [line.removeprefix("note: ") for line in err.splitlines()]
    assert (code, json.loads(out)["notes"]) == (0, notes)
    assert notes
