"""Read tables of MIMIC-III row by row, and refuse what is not as it should be with file and line."""

import csv
import gzip
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Set
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import IO

from pyroaring import BitMap64

LOG = logging.getLogger(__name__)  # Says how far a table is.
MAX_LINE_BYTES = 16 << 20
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
TABLES = {
    "PATIENTS": "SUBJECT_ID GENDER DOB DOD",
    "ADMISSIONS": "SUBJECT_ID HADM_ID ADMITTIME DISCHTIME ADMISSION_TYPE DIAGNOSIS",
    "DIAGNOSES_ICD": "SUBJECT_ID HADM_ID SEQ_NUM ICD9_CODE",
    "PROCEDURES_ICD": "SUBJECT_ID HADM_ID SEQ_NUM ICD9_CODE",
    "PRESCRIPTIONS": "SUBJECT_ID HADM_ID STARTDATE ENDDATE DRUG_TYPE DRUG DRUG_NAME_GENERIC DOSE_VAL_RX DOSE_UNIT_RX "
    "ROUTE",
    "NOTEEVENTS": "SUBJECT_ID HADM_ID ISERROR TEXT",
}
"""The columns of each table that are read, after ROW_ID."""
OPTIONAL = {"NOTEEVENTS"}
OPTIONAL_COLUMNS = {"DRUG_NAME_GENERIC", "ISERROR"}  # Columns that a copy may lack; they read as empty then.


class PddError(Exception):
    """Report bad input in one line: which file and line, what was expected and what to do."""


def shorten(text: str, width: int = 60) -> str:
    """Quote a value for a message: one line, escaped, at most `width` characters."""
    return repr(text if len(text) <= width else text[: width - 1] + "…")


@lru_cache(maxsize=1 << 16)
def timestamp(text: str, column: str = "date") -> str:
    """Turn ``2146-07-21 00:00:00`` into an xsd:dateTime, nothing into nothing, and refuse any other way to write it."""
    try:
        if text and not DATE.fullmatch(text):
            raise ValueError
        return text and datetime.fromisoformat(text).isoformat()
    except ValueError:
        raise PddError(
            f"{column} {shorten(text)}: expected the form 2146-07-21 00:00:00; if a spreadsheet rewrote the column, "
            "take the file as it was published"
        ) from None


def whole(text: str, column: str = "number") -> int | None:
    """Return a whole number from 0 to 2^63-1, or None for an empty cell."""
    if text and not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) < 2**63):
        raise PddError(f"{column} {shorten(text)}: expected a whole number")
    return int(text) if text else None


CONVERT: dict[str, Callable[[str, str], object]] = {
    **dict.fromkeys(("ROW_ID", "SUBJECT_ID", "HADM_ID", "SEQ_NUM"), whole),
    **dict.fromkeys(("DOB", "DOD", "ADMITTIME", "DISCHTIME", "STARTDATE", "ENDDATE"), timestamp),
}
"""How to read the columns that are no text."""


def lines(path: Path, stream: IO[bytes]) -> Iterator[str]:
    """Decode a file line by line, so that an error knows its line."""
    for number, raw in enumerate(iter(partial(stream.readline, MAX_LINE_BYTES), b""), 1):
        if len(raw) >= MAX_LINE_BYTES:
            raise PddError(f"{path}:{number}: a line of more than {MAX_LINE_BYTES >> 20} MiB: this is no table")
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise PddError(f"{path}:{number}: byte {error.start + 1} is no UTF-8: save the file as UTF-8") from None


def records(path: Path, wanted: Set[str]) -> Iterator[tuple[int, list[str]]]:
    """Read the records of a CSV file, plain or gzip, each with its last line; the first is the header, in capitals."""
    csv.field_size_limit(MAX_LINE_BYTES)
    number, width = 0, 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            reader = csv.reader(lines(path, stream), strict=True)
            for record in filter(None, reader):
                number = reader.line_num
                if not width:
                    found, width = record, len(record)
                    record = [name.strip().upper() for name in record]
                    if odd := wanted - set(record) or {name for name in wanted if record.count(name) > 1}:
                        fault = f"{'no' if odd.isdisjoint(record) else 'more than one'} column {', '.join(sorted(odd))}"
                        raise PddError(f"{path}:{number}: {fault}; found {shorten(', '.join(found), 200)}")
                elif len(record) != width:
                    raise PddError(f"{path}:{number}: {len(record)} fields; the header has {width}")
                yield number, record
    except (OSError, EOFError, zlib.error) as error:
        raise PddError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except csv.Error as error:
        raise PddError(f"{path}:{number + 1}: the record that begins here is no CSV: {error}") from None
    if not width:
        raise PddError(f"{path}: empty; expected a header and rows")


class Database:
    """A folder of tables, read one by one: patients first, then admissions, then the rest in any order."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise PddError(f"{folder}: no such folder; give the folder of MIMIC-III's tables")
        self.paths: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            name = path.name.upper().removesuffix(".GZ").removesuffix(".CSV")
            if name in self.paths:
                raise PddError(f"{folder}: {self.paths[name].name} and {path.name} are the same table; keep one")
            if name in TABLES and path.name.upper() != name:
                self.paths[name] = path
        if missing := ", ".join(f"{name}.csv" for name in TABLES if name not in self.paths.keys() | OPTIONAL):
            raise PddError(f"{folder}: {missing} missing; a folder of MIMIC-III has it, as .csv or .csv.gz")
        self.patients: set[int] = set()
        self.patient_of: dict[int, int] = {}

    def rows(self, name: str) -> Iterator[tuple[int, list]]:
        """Read a table: for each row its id and the columns of `TABLES`, in that order; nothing if it is not there."""
        if name not in self.paths:
            return
        path, columns = self.paths[name], ["ROW_ID", *TABLES[name].split()]
        content = records(path, set(columns) - OPTIONAL_COLUMNS)
        _, header = next(content)
        plan = [
            (column, header.index(column) if column in header else -1, CONVERT.get(column, lambda text, _: text))
            for column in columns
        ]
        seen, count = BitMap64(), 0  # At most two bits a row.
        for number, record in content:
            record.append("")
            try:
                row_id, *values = [convert(record[place], column) for column, place, convert in plan]
                if row_id is None or row_id in seen:
                    raise PddError("ROW_ID is empty" if row_id is None else f"ROW_ID {row_id} occurs twice")
                seen.add(row_id)
                self._place(name, *values[:2])
            except PddError as error:
                raise PddError(f"{path}:{number}: {error}") from None
            count += 1
            if count % 100_000 == 0:
                LOG.info("%s: %s", name, f"{count:,}")
            yield row_id, values
        LOG.info("%s: %s", name, f"{count:,}")

    def _place(self, name: str, subject: int | None, admission: int | None) -> None:
        """Check that a row belongs to a patient and an admission that are there."""
        if name in ("PATIENTS", "ADMISSIONS"):
            column, value = ("SUBJECT_ID", subject) if name == "PATIENTS" else ("HADM_ID", admission)
            if value is None or value in (self.patients if name == "PATIENTS" else self.patient_of):
                raise PddError(f"{column} {'is empty' if value is None else f'{value} occurs twice'}")
        if name == "PATIENTS":
            self.patients.add(subject)
        elif subject not in self.patients:
            raise PddError(f"SUBJECT_ID {subject} is not in PATIENTS")
        elif name == "ADMISSIONS":
            self.patient_of[admission] = subject
        elif self.patient_of.get(admission) != subject and (admission is not None or name != "NOTEEVENTS"):
            raise PddError(f"ADMISSIONS has no HADM_ID {admission} of SUBJECT_ID {subject}")


def verify(folder: Path) -> dict[str, int]:
    """Read every table of a folder to its end and return the rows of each; raise `PddError` at the first fault."""
    database = Database(folder)
    return {name: sum(1 for _ in database.rows(name)) for name in TABLES if name in database.paths}
