import pytest

from lazsim.errors import LazsimError
from lazsim.files import write_all


def test_either_all_files_appear_or_none(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(LazsimError, match="cannot be written"):
        write_all({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_files_replace_older_ones_whole(tmp_path):
    (tmp_path / "a").write_bytes(b"older and longer")
    write_all({tmp_path / "a": b"new", tmp_path / "deep" / "b": b"2"})
    assert (tmp_path / "a").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "deep"]
