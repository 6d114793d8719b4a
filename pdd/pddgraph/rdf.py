"""Names of the graph and its N-Quads, written in a fixed order."""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import pyoxigraph as ox

from pddgraph.tables import PddError

BASE = "https://pdd.example/"  # Nobody serves these names on the web: the domain is reserved for examples.
PREFIXES = {
    "pdd": f"{BASE}schema#",
    "graph": f"{BASE}graph/",
    "patient": f"{BASE}patient/",
    "admission": f"{BASE}admission/",
    "icd9": "http://purl.bioontology.org/ontology/ICD9CM/",
    "drugbank": "https://identifiers.org/drugbank:",
    "skos": "http://www.w3.org/2004/02/skos/core#",
    "dcterms": "http://purl.org/dc/terms/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}


@lru_cache(maxsize=1 << 16)
def iri(name: str) -> str:
    """Write ``prefix:local`` as an IRI; characters that an IRI cannot have are percent-encoded."""
    prefix, local = name.split(":", 1)
    return f"<{PREFIXES[prefix]}{quote(local, safe='/:#')}>"


@lru_cache(maxsize=1 << 16)
def own(*parts: str | int) -> str:
    """Write an IRI of the graph's own from its parts, as in ``<https://pdd.example/link/drug/Aspirin>``."""
    return f"<{BASE}{'/'.join(quote(str(part), safe='') for part in parts)}>"


@lru_cache(maxsize=1 << 16)
def literal(text: str, datatype: str = "") -> str:
    """Write a literal, a string unless a datatype of xsd is given; an empty text is no literal but nothing."""
    quoted = text and json.dumps(text, ensure_ascii=False)  # The escapes of JSON are escapes of N-Quads too.
    return f"{quoted}^^{iri(f'xsd:{datatype}')}" if text and datatype else quoted


class Graph:
    """Writes the quads of one named graph to a file of its name."""

    def __init__(self, folder: Path, name: str) -> None:
        self.tail = f" {iri(f'graph:{name}')} .\n"
        self.path = folder / f"{name}.nq"
        self.stream = self.path.open("w", encoding="utf-8", newline="\n", buffering=1 << 20)
        self.count = 0

    def add(self, subject: str, *pairs: tuple[str, str]) -> None:
        """Write a subject's predicates, names such as ``pdd:patient``, and objects; an empty object is left out."""
        quads = [f"{subject} {iri(name)} {value}{self.tail}" for name, value in pairs if value]
        self.count += len(quads)
        self.stream.write("".join(quads))

    def load(self, store: ox.Store) -> None:
        """Close the file and load it into a store."""
        self.stream.close()
        store.bulk_load(path=str(self.path), format=ox.RdfFormat.N_QUADS)


def ask(folder: Path, query: str) -> Iterator[tuple[str, ...]]:
    """Return the rows of a SELECT on the graph of a folder, as text."""
    try:
        store = ox.Store.read_only(str(folder / "store"))
    except (OSError, RuntimeError) as error:
        raise PddError(f"{folder}: the store cannot be opened: {error}") from None
    results = store.query(query, prefixes=PREFIXES, use_default_graph_as_union=True)
    return (tuple(term.value for term in row) for row in results)
