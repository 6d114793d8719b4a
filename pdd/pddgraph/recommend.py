"""Rank drugs for diseases by what similar patients got, beside what patients get anyhow. No medical advice."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from math import log
from pathlib import Path
from typing import NamedTuple

from pddgraph.rdf import PREFIXES, ask
from pddgraph.tables import PddError

NEIGHBOURS = 20
MAX_TESTED = 300  # Patients left out one by one; of more, a sample drawn with a seed.
PAIRS = "SELECT DISTINCT ?patient ?thing WHERE {{ ?admission pdd:patient ?patient ; pdd:{} ?thing }}"


class Recommender:
    """Ranks drugs by the patients nearest in their categories of diseases; rare ones weigh more."""

    def __init__(self, diseases: Mapping[str, Set[str]], drugs: Mapping[str, Set[str]]) -> None:
        self.diseases, self.drugs = diseases, drugs
        self.patients = sorted(diseases.keys() & drugs.keys())
        self.having: dict[str, list[str]] = defaultdict(list)
        for patient in self.patients:
            for disease in sorted(diseases[patient]):
                self.having[disease].append(patient)
        self.weight = {disease: log((1 + len(self.patients)) / len(having)) for disease, having in self.having.items()}
        self.size = {patient: sum(self.weight[one] for one in sorted(diseases[patient])) for patient in self.patients}
        self.popularity = Counter(drug for patient in self.patients for drug in drugs[patient])

    def rank(self, diseases: Iterable[str], without: str = "") -> dict[str, float]:
        """Return drugs by the share of the nearest patients that got them, weighted by similarity, then popularity."""
        known = sorted(self.weight.keys() & set(diseases))
        total = sum(self.weight[disease] for disease in known)
        shared: Counter[str] = Counter()
        for disease in known:
            shared.update(dict.fromkeys(self.having[disease], self.weight[disease]))
        shared.pop(without, None)
        near = {one: both / (total + self.size[one] - both) for one, both in shared.items()}  # Jaccard similarity.
        nearest = sorted(near, key=lambda patient: (-near[patient], patient))[:NEIGHBOURS]
        whole = sum(near[patient] for patient in nearest)
        scores: Counter[str] = Counter()
        for patient in nearest:
            scores.update(dict.fromkeys(self.drugs[patient], near[patient] / whole))
        order = {drug: place for place, drug in enumerate(self.popular(without))}
        return dict(sorted(scores.items(), key=lambda one: (-round(one[1], 9), order[one[0]])))

    def popular(self, without: str = "") -> list[str]:
        """Return drugs by the number of patients that got them."""
        mine = self.drugs.get(without, frozenset())
        return sorted(self.popularity, key=lambda drug: (-(self.popularity[drug] - (drug in mine)), drug))


def read(folder: Path) -> tuple[Recommender, dict[str, str]]:
    """Return a recommender for the patients of a graph, and the names of its drugs by IRI."""
    diseases, drugs = defaultdict(set), defaultdict(set)
    for patient, disease in ask(folder, PAIRS.format("disease")):
        diseases[patient].add(disease.removeprefix(PREFIXES["icd9"]).split(".")[0])  # Its category: 428 of 428.0.
    for patient, drug in ask(folder, PAIRS.format("drug")):
        drugs[patient].add(drug)
    names = ask(folder, "SELECT ?drug ?name { ?drug a pdd:Drug ; skos:prefLabel ?name }")
    return Recommender(diseases, drugs), dict(names)


class Evaluation(NamedTuple):
    """Mean Jaccard similarity of `size` drugs, from neighbours and by popularity, with what left-out patients got."""

    tested: int
    size: int
    nearest: float
    popular: float
    better: int  # Patients for whom neighbours do better than popularity.
    worse: int


def evaluate(recommender: Recommender, seed: int = 1) -> Evaluation:
    """Leave out one patient after the other and recommend as many drugs as patients get on average."""
    patients = recommender.patients
    if len(patients) < 2:
        raise PddError("fewer than two patients have diseases and drugs: nothing to compare")
    tested = sorted(random.Random(seed).sample(patients, min(MAX_TESTED, len(patients))))
    size = max(1, round(sum(len(recommender.drugs[patient]) for patient in patients) / len(patients)))
    pairs = []
    for patient in tested:
        got, popular = recommender.drugs[patient], recommender.popular(patient)
        near = list(dict.fromkeys([*recommender.rank(recommender.diseases[patient], patient), *popular]))
        pairs.append([len(got & set(one[:size])) / len(got | set(one[:size])) for one in (near, popular)])
    nearest, popular = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    better, worse = sum(one > two for one, two in pairs), sum(one < two for one, two in pairs)
    return Evaluation(len(pairs), size, nearest, popular, better, worse)
