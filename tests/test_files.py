import gzip
import os
import signal
import threading
import tomllib
from pathlib import Path

import pytest

from lazsim.errors import LazsimError
from lazsim.files.decoding import decode_json
from lazsim.files.faults import Faults
from lazsim.files.tables import read_cells
from lazsim.files.writing import check_folder, toml_text, write_all


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def after_renames(monkeypatch, number, action):
    """Let something happen after so many files have taken their names."""
    count = 0
    rename = os.replace

    def replace(source, target):
        nonlocal count
        if count == number:
            action(target)
        rename(source, target)
        count += 1

    monkeypatch.setattr("lazsim.files.writing.os.replace", replace)


def test_a_row_is_at_fault_for_its_value_and_not_for_an_error_of_what_reads_it():
    faults = Faults("rows.csv", LazsimError, lenient=True)
    assert list(faults.readable([(1, "7"), (2, "x")], int)) == [(1, 7)]
    with pytest.raises(AttributeError):
        list(faults.readable([(1, "7")], lambda row: row.no_such_method()))


def test_either_all_files_appear_or_none(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(LazsimError, match="cannot be written"):
        write_all({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_files_replace_older_ones_whole(tmp_path):
    (tmp_path / "a").write_bytes(b"older and longer")
    write_all({tmp_path / "a": b"new", tmp_path / "deep" / "b": b"2"})
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a", "b", "deep"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_files_take_their_names_waits_until_all_are_there(tmp_path, monkeypatch, number):
    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(number, stop)
    after_renames(monkeypatch, 1, lambda _: signal.raise_signal(number))
    try:
        with pytest.raises(KeyboardInterrupt):
            write_all({tmp_path / name: b"1" for name in "abc"})
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    assert names(tmp_path) == ["a", "b", "c"]


def test_a_name_that_cannot_be_taken_leaves_no_new_file(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"older")
    after_renames(monkeypatch, 2, lambda target: Path(target).mkdir())
    with pytest.raises(LazsimError, match="c: cannot be written"):
        write_all({tmp_path / name: b"1" for name in "abcd"})
    assert names(tmp_path) == ["a", "c"]


def test_files_are_written_from_any_thread(tmp_path):
    thread = threading.Thread(target=write_all, args=({tmp_path / "a": b"1"},))
    thread.start()
    thread.join()
    assert names(tmp_path) == ["a"]


def test_what_is_replaced_goes_when_the_files_come_and_not_before(tmp_path):
    for name in ("old", "kept"):
        (tmp_path / name).write_bytes(b"older")
    replaced = [tmp_path / name for name in ("old", "kept", "absent")]
    (tmp_path / "folder").mkdir()
    with pytest.raises(LazsimError):
        write_all({tmp_path / "folder": b"1"}, replaced)
    assert names(tmp_path) == ["folder", "kept", "old"]
    write_all({tmp_path / "kept": b"1"}, replaced)
    assert names(tmp_path) == ["folder", "kept"]


def test_a_name_that_no_folder_can_have_is_refused(tmp_path):
    with pytest.raises(LazsimError, match="cannot be written"):
        check_folder(tmp_path / ("a" * 300))


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_is_read_with_the_mark_that_editors_of_windows_begin_it_with(coding):
    assert decode_json('{"a": 1}'.encode(coding)) == {"a": 1}


@pytest.mark.parametrize("text", ['a "quoted" \\ name', "é \U0001f600", "a\nb\x7f\x00\u2028", "# [x] = 1"])
def test_toml_reads_back_as_written_whatever_texts_and_comments_say(text):
    values = {"table": {"text": text, "numbers": [1, 2.5]}, "text": text, "is": True, "small": 1e-9, "large": 1e22}
    written = toml_text(values, [text], {"is": "so"})
    assert tomllib.loads(written) == values
    assert written.count("\n\n") == 1
    assert "is = true  # so\n" in written


CELLS = "gpu,size\r\nh100,80\r\n"
FORMS = {
    "commas": CELLS.encode(),
    "semicolons": CELLS.replace(",", ";").encode(),
    "tabs": CELLS.replace(",", "\t").encode(),
    "blanks behind commas": CELLS.replace(",", ", ").encode(),
    "empty rows, as spreadsheets save them": (CELLS + ",\r\n").encode(),
    "carriage returns": CELLS.replace("\r\n", "\r").encode(),
    "UTF-16": CELLS.encode("utf-16"),
    "mark of the byte order": CELLS.encode("utf-8-sig"),
    "gzip": gzip.compress(CELLS.encode()),
}


@pytest.mark.parametrize("form", FORMS)
def test_table_with_a_header_is_read_alike_in_every_form(form):
    assert read_cells("sizes.csv", FORMS[form], ["gpu"]) == {2: {"gpu": "h100", "size": "80"}}
