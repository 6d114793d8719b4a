"""Build the graph: tables in, N-Quads and a store out, in one pass over each table."""

import json
import tempfile
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, lru_cache
from pathlib import Path

import pyoxigraph

from pddgraph import icd, text
from pddgraph.drugs import EXTRA, SCORES, Drug, Link, Linker, read_vocabulary
from pddgraph.rdf import Graph, iri, literal, own
from pddgraph.tables import LOG, TABLES, Database, PddError

MANIFEST = "pdd.json"
MAX_NOTE = 1_000_000  # Characters of a note that are searched.
CC0 = "https://creativecommons.org/publicdomain/zero/1.0/"
LICENCES = {
    "OPEN DATABASE LICENSE": "https://opendatacommons.org/licenses/odbl/1-0/", "CC0 1.0": CC0,
    "PHYSIONET CREDENTIALED": "https://physionet.org/content/mimiciii/view-license/1.4/",
}  # fmt: skip
"""Licences by words of their text."""
OPEN_LICENCES = list(LICENCES.values())[:2]
SOURCES = tomllib.loads((Path(__file__).parent / "data" / "sources.toml").read_text("utf-8"))
PLAIN = {
    "GENDER": ("gender", ""), "DOB": ("born", "dateTime"), "DOD": ("died", "dateTime"),
    "ADMITTIME": ("admitted", "dateTime"), "DISCHTIME": ("discharged", "dateTime"),
    "ADMISSION_TYPE": ("admissionType", ""), "DIAGNOSIS": ("admissionDiagnosis", ""), "DRUG_TYPE": ("drugType", ""),
    "SEQ_NUM": ("sequence", "integer"), "STARTDATE": ("start", "dateTime"), "ENDDATE": ("end", "dateTime"),
    "DOSE_VAL_RX": ("dose", ""), "DOSE_UNIT_RX": ("doseUnit", ""), "ROUTE": ("route", ""),
}  # fmt: skip
"""Columns that the graph has as they are: predicates and datatypes."""


def write_sources(graph: Graph, folder: Path) -> str:
    """Write the source and the licence of each graph; return that of the tables, nothing if it is not known."""
    heads = [path.read_bytes()[:2000].decode("utf-8", "replace").upper() for path in sorted(folder.glob("LICENSE*"))]
    found = {next((address for words, address in LICENCES.items() if words in head), "") for head in heads}
    licence = found.pop() if len(found) == 1 else ""  # One of DrugBank beside the tables must not open them.
    for name, (source, terms, title) in SOURCES.items():
        known = ("dcterms:license", f"<{terms or licence}>")
        rights = known if terms or licence else ("dcterms:rights", literal("Ask the owner of the tables"))
        graph.add(iri(f"graph:{name}"), ("dcterms:title", literal(title)), ("dcterms:source", f"<{source}>"), rights)
    return licence


def write_codes(graph: Graph) -> None:
    """Write ICD-9-CM."""
    for concept in (*icd.diagnoses().values(), *icd.procedures().values()):
        about = [("rdf:type", iri("skos:Concept")), ("skos:notation", literal(concept.notation))]
        about.append(("skos:prefLabel", literal(concept.title)))
        about.append(("skos:broader", concept.broader and iri(f"icd9:{concept.broader}")))
        graph.add(iri(f"icd9:{concept.notation}"), *about)


class Builder:
    """Writes tables, links and drugs. Memory grows with patients, admissions and distinct names, not with rows."""

    def __init__(self, graphs: dict[str, Graph], drugs: list[Drug], database: Database) -> None:
        self.graphs, self.drugs, self.database, self.linker = graphs, drugs, database, Linker(drugs)
        self.rows: Counter[str] = Counter()
        self.linked: Counter[str] = Counter()
        self._targets: set[str] = set()
        self._once = cache(self._mention)  # For names and codes; those of texts occur once anyhow.
        self._edge = lru_cache(maxsize=1 << 16)(self._write_edge)  # The store drops the duplicates that it does not.

    def run(self) -> None:
        """Write everything."""
        for _, row in self.database.rows("PATIENTS"):
            self._row("PATIENTS", "Patient", row[0], row)
        for _, row in self.database.rows("ADMISSIONS"):
            self._row("ADMISSIONS", "Admission", row[1], row, ("pdd:patient", own("patient", row[0])))
            self._text(row[1], row[-1], "admission", row[1])
        self._coded("DIAGNOSES_ICD", "diagnosis", "pdd:disease")
        self._coded("PROCEDURES_ICD", "procedure", "pdd:procedure")
        self._prescriptions()
        for row_id, (_, admission, error, words) in self.database.rows("NOTEEVENTS"):
            self.rows["NOTEEVENTS"] += 1
            if admission is not None and error != "1":
                self._text(admission, words[:MAX_NOTE], "note", row_id)
        for drug in (drug for drug in self.drugs if drug.drug_id in self._targets):
            about = [("rdf:type", iri("pdd:Drug")), ("skos:prefLabel", literal(drug.name))]
            about += [("skos:altLabel", literal(synonym)) for synonym in drug.synonyms]
            about += [(EXTRA[column], literal(value)) for column, value in drug.codes]
            self.graphs["drugbank"].add(iri(drug.drug_id), *about)

    def _row(self, table: str, kind: str, number: int, values: list, *pairs: tuple[str, str]) -> None:
        """Write a row: its class, `pairs`, and the columns that the graph has as they are."""
        plain = [
            (f"pdd:{PLAIN[column][0]}", literal(str(cell), PLAIN[column][1]))
            for column, cell in zip(TABLES[table].split(), values, strict=True)
            if column in PLAIN and cell is not None
        ]
        self.graphs["mimic"].add(own(kind.lower(), number), ("rdf:type", iri(f"pdd:{kind}")), *pairs, *plain)
        self.rows[table] += 1

    def _coded(self, table: str, kind: str, relation: str) -> None:
        for row_id, row in self.database.rows(table):
            notation = icd.link(row[3], kind)
            link = Link((f"icd9:{notation}",), "exact") if notation else Link((), "abstained")
            self._linked(table, kind, row_id, row, relation, [(row[3], link)], kind)

    def _prescriptions(self) -> None:
        for row_id, row in self.database.rows("PRESCRIPTIONS"):
            _, _, start, end, _, drug, generic, *_ = row
            found = self.linker.link_order(drug, generic)
            self._linked("PRESCRIPTIONS", "prescription", row_id, row, "pdd:drug", found, "drug")
            self.rows["containers and supplies"] += found[-1][1].method == "supply"
            self.rows["orders that end before they start"] += bool(start and end and end < start)

    def _linked(self, table: str, kind: str, row_id: int, row: list, relation: str, found: list, what: str) -> None:
        """Write a row with its mentions, of which the last decides, and the direct edges of its admission."""
        mentions = [("pdd:mention", words and self._once(words, link, what, words)) for words, link in found]
        self._row(table, kind.title(), row_id, row, ("pdd:admission", own("admission", row[1])), *mentions)
        targets = found[-1][1].targets
        self.linked[table] += bool(targets)
        for target in targets:
            self._edge(row[1], relation, target)

    def _write_edge(self, admission: int, relation: str, target: str) -> None:
        """Write a direct edge from an admission to a disease, procedure or drug: it makes queries short and fast."""
        self.graphs["links"].add(own("admission", admission), (relation, iri(target)))

    def _text(self, admission: int, words: str, kind: str, number: int) -> None:
        """Write the diseases that a text mentions, each with its link and how it is mentioned."""
        for place, found in enumerate(dict.fromkeys(text.find(words)), 1):
            link = Link((f"icd9:{found.notation}",), "dictionary")
            about = [("pdd:admission", own("admission", admission)), ("pdd:assertion", literal(found.status))]
            self.graphs["links"].add(self._mention(found.words, link, kind, number, place), *about)
            self.linked[f"diseases in texts of kind {kind}"] += 1

    def _mention(self, words: str, link: Link, *name: str | int) -> str:
        """Write a mention, and the link from it if there is one; return the mention."""
        graph, mention, status = self.graphs["links"], own("mention", *name), "linked" if link.targets else link.method
        about = [("rdf:type", iri("pdd:Mention")), ("pdd:text", literal(words)), ("pdd:status", literal(status))]
        graph.add(mention, *about)
        if link.targets:
            about = [("rdf:type", iri("pdd:Link")), ("pdd:mention", mention), ("pdd:method", literal(link.method))]
            about.append(("pdd:score", literal(str(SCORES[link.method]), "decimal")))
            graph.add(own("link", *name), *about, *(("pdd:target", iri(target)) for target in link.targets))
            self._targets.update(link.targets)
        return mention


def build(folder: Path, vocabulary: Path, out: Path) -> dict:
    """Build a file of N-Quads for each graph, ``store/`` and ``pdd.json`` in `out`; return the content of the last."""
    if Path.cwd().is_relative_to(out.resolve()):
        raise PddError(f"{out}: the folder you are in cannot be replaced; give another folder")
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise PddError(f"{out}: is there and no graph of pdd; give another folder")
    database = Database(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent, ignore_cleanup_errors=True) as name:
        staging = Path(name) / "new"  # It takes its name at the end: a build that fails leaves nothing.
        staging.mkdir()
        store, loader, loads = pyoxigraph.Store(str(staging / "store")), ThreadPoolExecutor(2), []
        graphs = {name: Graph(staging, name) for name in ("about", *SOURCES)}
        try:
            write_codes(graphs["icd9cm"])
            loads.append(loader.submit(graphs["icd9cm"].load, store))  # As long as the rest of a small database.
            builder = Builder(graphs, read_vocabulary(vocabulary), database)
            licence = write_sources(graphs["about"], folder)
            builder.run()
            counts = {name: graph.count for name, graph in graphs.items()}
            LOG.info("quads, now loaded into the store: %s", f"{sum(counts.values()):,}")
            loads += [loader.submit(graphs[name].load, store) for name in ("mimic", "links", "drugbank", "about")]
            for one in loads:
                one.result()
            store.flush()
        finally:  # After a signal, too: what is still being written cannot be cleared away.
            wait(loads)
            del store
        manifest = {"licence": licence, "quads": counts, "rows": builder.rows, "linked": builder.linked}
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
        if out.exists():
            out.rename(staging.with_name("old"))
        staging.rename(out)
    return manifest


def open_graph(folder: Path) -> dict:
    """Return the manifest of a graph; raise `PddError` when the folder has none."""
    try:
        return json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        raise PddError(f"{folder}: no graph here; make one with `pdd build --out {folder}`") from None
