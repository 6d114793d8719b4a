"""Make a synthetic database in MIMIC-III's schema, of any size. How often diseases bring drugs along is made up."""

import csv
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

from pddgraph.tables import OPTIONAL, OPTIONAL_COLUMNS, TABLES

FIRST_PATIENT = 10006
LICENCE = "CC0 1.0 Universal\n\nSynthetic data made by pddgraph; it may be used for anything.\n"
DATA = Path(__file__).parent / "data" / "sample.txt"
"""Drugs of DrugBank's open vocabulary (CC0); diagnoses that come together and orders they bring along; other orders."""
OTHER_CODES = ("2720", "2859", "53081", "2449", "V5861", "E8497", "311", "71970")
PROCEDURES = ("3893", "9604", "9672", "3961", "9904", "3995")
TEXTS = (
    "PNEUMONIA", "SEPSIS", "CONGESTIVE HEART FAILURE", "CHEST PAIN;R/O MI", "? STROKE", "UPPER GI BLEED", "S/P FALL",
)  # fmt: skip


def rows(count: int, seed: int) -> Iterator[tuple[str, list]]:
    """Make the rows of patients, as pairs of a table and the values after the row id; as many each as in the demo."""
    choose = random.Random(seed)
    _, *groups, anyone = DATA.read_text("utf-8").splitlines()
    groups = [(codes.split(), drugs.split(";")) for codes, drugs in (line.split("|") for line in groups)]
    anyone, stay = anyone.split(";"), 100_000
    for subject in range(FIRST_PATIENT, FIRST_PATIENT + count):
        born = datetime(2050 + choose.randrange(60), 1 + choose.randrange(12), 1 + choose.randrange(28))
        yield "PATIENTS", [subject, choose.choice("FM"), born, ""]
        own = choose.sample(groups, choose.choice((1, 2, 2, 3)))
        for _ in range(choose.choice((1, 1, 1, 1, 2))):
            stay, days = stay + 1, choose.randrange(2, 14)
            start = born + timedelta(days=choose.randrange(20_000, 30_000), minutes=choose.randrange(1440))
            yield "ADMISSIONS", [subject, stay, start, start + timedelta(days=days), "EMERGENCY", choose.choice(TEXTS)]
            codes = [code for group, _ in own for code in group] + choose.sample(OTHER_CODES, choose.randrange(2, 8))
            for place, code in enumerate(dict.fromkeys(codes), 1):
                yield "DIAGNOSES_ICD", [subject, stay, place, code]
            for place, code in enumerate(choose.sample(PROCEDURES, choose.randrange(len(PROCEDURES))), 1):
                yield "PROCEDURES_ICD", [subject, stay, place, code]
            usual = [drug for _, drugs in own for drug in drugs if choose.random() < 0.8] + choose.sample(anyone, 8)
            for _ in range(choose.randrange(40, 120)):
                begin = start.replace(hour=0, minute=0) + timedelta(days=choose.randrange(days))
                drug, dose, route = choose.choice(usual), choose.choice((1, 2, 5, 40, 500)), choose.choice(("PO", "IV"))
                end = begin + timedelta(days=choose.randrange(3))
                yield "PRESCRIPTIONS", [subject, stay, begin, end, "MAIN", drug, dose, "mg", route]


def write(folder: Path, count: int, seed: int) -> None:
    """Write the tables of `count` patients, their licence, and ``drugbank_vocabulary.csv`` to a folder, row by row."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "LICENSE.txt").write_text(LICENCE, "utf-8")
    with ExitStack() as stack:
        writers, counts = {}, Counter()
        for name in TABLES.keys() - OPTIONAL:
            stream = stack.enter_context((folder / f"{name}.csv").open("w", newline=""))
            writers[name] = csv.writer(stream, lineterminator="\n")
            writers[name].writerow(["ROW_ID", *(one for one in TABLES[name].split() if one not in OPTIONAL_COLUMNS)])
        for name, values in rows(count, seed):
            counts[name] += 1
            writers[name].writerow([counts[name], *values])
        vocabulary = csv.writer(stack.enter_context((folder / "drugbank_vocabulary.csv").open("w", newline="")))
        vocabulary.writerow(("DrugBank ID", "Common name", "CAS", "UNII", "Synonyms"))
        for entry in DATA.read_text("utf-8").splitlines()[0].split("; "):
            name, _, synonym = entry[8:].partition("=")
            vocabulary.writerow((entry[:7], name, "", "", synonym))
