import gzip
import shutil

import pytest

from pddgraph.cli import main
from pddgraph.tables import PddError, verify


@pytest.fixture
def copy(tables, tmp_path):
    return shutil.copytree(tables, tmp_path / "copy")


def rewrite(path, change):
    path.write_bytes(change(path.read_bytes()))


def test_tables_are_read_in_any_case_with_crlf_bom_and_gzip(tables, copy):
    rewrite(copy / "PATIENTS.csv", lambda old: b"\xef\xbb\xbf" + old.lower().replace(b"\n", b"\r\n"))
    (copy / "ADMISSIONS.csv.gz").write_bytes(gzip.compress((copy / "ADMISSIONS.csv").read_bytes()))
    (copy / "ADMISSIONS.csv").unlink()
    (copy / "PRESCRIPTIONS.csv").rename(copy / "prescriptions.csv")
    assert verify(copy) == verify(tables)


FAULTS = {
    "a date that a spreadsheet has rewritten": ("PATIENTS", b" 00:00:00", b"", ":2: DOB '20"),
    "a date that does not exist": ("ADMISSIONS", b"-", b"-13-", ":2: ADMITTIME '"),
    "a missing column": ("PRESCRIPTIONS", b"DOSE_VAL_RX", b"DOSE", ":1: no column DOSE_VAL_RX"),
    "semicolons": ("PATIENTS", b"ROW_ID,SUBJECT_ID,", b"ROW_ID;SUBJECT_ID;", ":1: no column GENDER"),
    "a duplicate row id": ("DIAGNOSES_ICD", b"\n2,", b"\n1,", ":3: ROW_ID 1 occurs twice"),
    "a duplicate patient": ("PATIENTS", b"\n2,10007", b"\n2,10006", ":3: SUBJECT_ID 10006 occurs twice"),
    "an unknown patient": ("ADMISSIONS", b",10006,", b",5,", ":2: SUBJECT_ID 5 is not in PATIENTS"),
    "another patient's admission": ("PRESCRIPTIONS", b"1,10006", b"1,10007", ":2: ADMISSIONS has no HADM_ID 100001"),
    "bytes that are no UTF-8": ("PRESCRIPTIONS", b"MAIN", b"MA\xe9N", ":2: byte 58 is no UTF-8"),
    "a short row": ("PATIENTS", b"\n2,10007,", b"\n2,", ":3: 4 fields; the header has 5"),
    "an open quote": ("PATIENTS", b"\n12,", b'\n12,"', ":13: the record that begins here is no CSV"),
    "a number that is none": ("PATIENTS", b"1,10006", b"1,1e4", ":2: SUBJECT_ID '1e4'"),
    "a vocabulary of another format": ("drugbank_vocabulary", b"Common name", b"name", ":1: no column COMMON NAME"),
    "a vocabulary with a wrong id": ("drugbank_vocabulary", b"DB00030", b"DBSALT1", ":3: drug 'DBSALT1'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_with_file_and_line_and_leaves_nothing(fault, copy, tmp_path, capsys):
    name, old, new, message = FAULTS[fault]
    assert old in (copy / f"{name}.csv").read_bytes()
    rewrite(copy / f"{name}.csv", lambda content: content.replace(old, new, 1))
    vocabulary = copy / "drugbank_vocabulary.csv"
    with pytest.raises(SystemExit) as error:
        main(["build", "--mimic", str(copy), "--drugbank", str(vocabulary), "--out", str(tmp_path / "out" / "graph")])
    assert error.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("pdd: ")
    assert f"{name}.csv{message}" in last
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_missing_table_is_named_before_anything_is_read(copy):
    (copy / "PRESCRIPTIONS.csv").unlink()
    (copy / "PATIENTS.csv").write_bytes(b"\xff")
    with pytest.raises(PddError, match=r"PRESCRIPTIONS\.csv missing"):
        verify(copy)


def test_an_empty_file_and_no_folder_are_refused(copy):
    (copy / "PATIENTS.csv").write_bytes(b"")
    with pytest.raises(PddError, match=r"PATIENTS\.csv: empty"):
        verify(copy)
    with pytest.raises(PddError, match="no such folder"):
        verify(copy / "nowhere")


def test_notes_are_optional_but_checked(copy):
    (copy / "NOTEEVENTS.csv").write_text("ROW_ID,SUBJECT_ID,HADM_ID\n")
    with pytest.raises(PddError, match=r"NOTEEVENTS\.csv:1: no column TEXT"):
        verify(copy)
