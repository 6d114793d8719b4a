"""Measure the linker on hand-labelled names of drugs, and on the rows of a database."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pddgraph import icd
from pddgraph.drugs import Linker
from pddgraph.tables import Database

LABELS = Path(__file__).parent / "data" / "labels.txt"
HALVES = ("build", "held-out")


class Label(NamedTuple):
    """A name of a drug and what it names: for each ingredient the ids that are right; nothing if no drug is named."""

    half: str
    name: str
    targets: tuple[frozenset[str], ...]

    def fits(self, found: tuple[str, ...]) -> bool:
        """Say whether a link names every ingredient once and nothing else."""
        return len(found) == len(self.targets) and all(target & set(found) for target in self.targets)


class Score(NamedTuple):
    """How often links are right: `right` of `made`, out of `possible` names that name a drug."""

    names: int
    right: int
    made: int
    possible: int

    @property
    def precision(self) -> float:
        """Return the share of links that are right."""
        return self.right / self.made if self.made else 1.0

    @property
    def recall(self) -> float:
        """Return the share of names of drugs that got the right link."""
        return self.right / self.possible if self.possible else 1.0


def read_labels(path: Path = LABELS) -> list[Label]:
    """Read the labels of both halves."""
    labels, half = [], ""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("["):
            half = line.strip("[]")
        elif not line.startswith("#"):
            for targets, names in (entry.split(": ", 1) for entry in line.split(" ;; ")):
                wanted = tuple(frozenset(one.split("|")) for one in targets.split(" + ") if one != "none")
                labels += [Label(half, name, wanted) for name in names.split(" ; ")]
    return labels


def score(linker: Linker, labels: list[Label]) -> Score:
    """Hold the links of names against their labels."""
    found = [(label, linker.link(label.name).targets) for label in labels]
    right = sum(bool(targets) and label.fits(targets) for label, targets in found)
    return Score(len(found), right, sum(bool(one) for _, one in found), sum(bool(label.targets) for label, _ in found))


def faults(linker: Linker, labels: list[Label]) -> list[str]:
    """List the names whose link is wrong or missing."""
    return [
        f"{label.half}: {label.name}: {' + '.join(linker.link(label.name).targets) or 'no link'}, not "
        + (" + ".join("|".join(sorted(ids)) for ids in label.targets) or "no link")
        for label in labels
        if not label.fits(linker.link(label.name).targets)
    ]


def coverage(folder: Path, linker: Linker) -> dict[str, Counter[str]]:
    """Count the rows of prescriptions, diagnoses and procedures by method of their link, or why there is none."""
    database = Database(folder)
    for _ in (*database.rows("PATIENTS"), *database.rows("ADMISSIONS")):
        pass
    orders = Counter(linker.link_order(row[5], row[6]).method for _, row in database.rows("PRESCRIPTIONS"))
    counts = {"prescriptions": orders}
    for name, kind in (("DIAGNOSES_ICD", "diagnosis"), ("PROCEDURES_ICD", "procedure")):
        counts[name] = Counter("linked" if icd.link(row[3], kind) else "abstained" for _, row in database.rows(name))
    return counts
