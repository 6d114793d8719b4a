import gzip
import shutil

import pytest

from pddgraph.cli import main
from pddgraph.tables import PddError, verify
from tests.conftest import CASES


@pytest.fixture
def copy(tables, tmp_path):
    return shutil.copytree(tables, tmp_path / "copy")


def test_tables_are_read_in_any_case_with_crlf_bom_and_gzip(tables, copy):
    patients = (copy / "PATIENTS.csv").read_bytes()
    (copy / "PATIENTS.csv").write_bytes(b"\xef\xbb\xbf" + patients.lower().replace(b"\n", b"\r\n"))
    (copy / "ADMISSIONS.csv.gz").write_bytes(gzip.compress((copy / "ADMISSIONS.csv").read_bytes()))
    (copy / "ADMISSIONS.csv").unlink()
    (copy / "PRESCRIPTIONS.csv").rename(copy / "prescriptions.csv")
    assert verify(copy) == verify(tables)


@pytest.mark.parametrize("fault", CASES["tables"])
def test_a_fault_is_one_line_with_file_and_line_and_leaves_nothing(fault, copy, tmp_path, capsys):
    name, old, new, message = CASES["tables"][fault]
    old, new = old.encode("latin-1"), new.encode("latin-1")
    content = (copy / f"{name}.csv").read_bytes()
    assert old in content
    (copy / f"{name}.csv").write_bytes(content.replace(old, new, 1))
    vocabulary = copy / "drugbank_vocabulary.csv"
    with pytest.raises(SystemExit) as error:
        main(["build", "--mimic", str(copy), "--drugbank", str(vocabulary), "--out", str(tmp_path / "out" / "graph")])
    assert error.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("pdd: ")
    assert f"{name}.csv{message}" in last
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_missing_and_empty_tables_are_refused(copy):
    (copy / "PATIENTS.csv").write_text("")
    with pytest.raises(PddError, match=r"PATIENTS\.csv: empty"):
        verify(copy)
    (copy / "PRESCRIPTIONS.csv").unlink()
    with pytest.raises(PddError, match=r"PRESCRIPTIONS\.csv missing"):  # Before PATIENTS, which is empty, is read.
        verify(copy)
    with pytest.raises(PddError, match="no such folder"):
        verify(copy / "nowhere")
