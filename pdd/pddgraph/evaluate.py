"""Measure the linker on hand-labelled names of drugs."""

from typing import NamedTuple

from pddgraph.drugs import Linker, names

SAMPLES = ("build", "held-out", "second held-out")


class Label(NamedTuple):
    """A name of a drug and what it names: for each ingredient the ids that are right; nothing if no drug is named."""

    sample: str
    name: str
    targets: tuple[frozenset[str], ...]

    def fits(self, found: tuple[str, ...]) -> bool:
        """Say whether a link names every ingredient once and nothing else."""
        return len(found) == len(self.targets) and all(target & set(found) for target in self.targets)

    def __str__(self) -> str:
        return " + ".join("|".join(sorted(ids)) for ids in self.targets) or "no link"


class Score(NamedTuple):
    """How often links are right: `right` of `made` (precision), and of the names that name a drug (recall)."""

    names: int
    made: int
    right: int
    precision: float
    recall: float


def read_labels() -> list[Label]:
    """Read the labels of every sample."""
    labels = []
    for sample, name, targets in ((one, *pair) for one in SAMPLES for pair in names(one, "labels.txt")):
        ingredients = [one.split("|") for one in targets.split(" + ") if one != "none"]
        labels.append(Label(sample, name, tuple(frozenset(f"drugbank:{one}" for one in ids) for ids in ingredients)))
    return labels


def score(linker: Linker, labels: list[Label]) -> Score:
    """Hold the links of names against their labels."""
    found = [(label, linker.link(label.name).targets) for label in labels]
    made, possible = sum(bool(targets) for _, targets in found), sum(bool(label.targets) for label in labels)
    right = sum(bool(targets) and label.fits(targets) for label, targets in found)
    return Score(len(found), made, right, right / made if made else 1.0, right / possible if possible else 1.0)
