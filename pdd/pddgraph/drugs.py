"""DrugBank's open vocabulary, and a linker from drug names as orders write them. It abstains rather than guesses."""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from pddgraph.tables import PddError, records

EXTRA = {"CAS": "pdd:cas", "UNII": "pdd:unii", "STANDARD INCHI KEY": "pdd:inchiKey"}
"""Columns of the vocabulary that a copy may lack, and what the graph calls them."""
WORDS = re.compile(r"[^\W_]+")
DRUG_ID = re.compile(r"DB[0-9]{5}")
NAMED = ("brands", "fluids", "supplies", "open", "words")  # Sections of `names.txt` that say what a name stands for.
MIN_SYNONYM = 4  # Shorter synonyms are left out: they are abbreviations of substances, which orders do not mean.
MIN_PREFIX = 8  # Letters that a cut-off name needs.
MAX_NAME = 300  # Longer names are no names of drugs; no link is tried.
UNIT = r"(?:mcg|mg|gm?|kg|units?|meq|mmol|mm|ml|l|hrs?|h|million|mu|u|iu|day|dose)"
STRENGTH = re.compile(rf"\(?\b\d[\d,.]*(?:\s*[-:x/]\s*\d[\d,.]*)*\s*(?:%|{UNIT}\b)?(?:\s*/\s*\d*[\d.]*\s*{UNIT}\b)?\)?")
SEPARATORS = re.compile(r"\s*(?:[-/+,&]|\b(?:and|with|w|in)\b[./]?)\s*")  # Between the drugs of a combination.
SCORES = {
    "exact": 1, "alias": 0.98, "synonym": 0.97, "normalised": 0.95, "combination": 0.93, "bracket": 0.85, "prefix": 0.8,
    "dictionary": 0.7,
}  # fmt: skip
"""Trust in each way, in order: ranks and no probabilities. `pdd eval` measures them, but for the last: free text."""


class Link(NamedTuple):
    """What a name names, drugs of DrugBank or a code of ICD-9-CM, and how that was found."""

    targets: tuple[str, ...]
    method: str

    def demoted(self) -> "Link":
        """Mark what was found after something was left out of the name."""
        return self._replace(method="normalised") if self.method in ("exact", "synonym") else self


ABSTAINED = Link((), "abstained")
CLASSES = {"(supply)": Link((), "supply"), "(open)": ABSTAINED}  # What aliases stand for that name no drug.


class Drug(NamedTuple):
    """One drug of DrugBank; its id begins ``drugbank:``, `codes` are pairs of a column of `EXTRA` and its value."""

    drug_id: str
    name: str
    synonyms: tuple[str, ...]
    codes: tuple[tuple[str, str], ...]


def plain(text: str) -> str:
    """Lower the case, drop accents, and leave words of letters and digits."""
    if not text.isascii():
        text = "".join(one for one in unicodedata.normalize("NFKD", text) if not unicodedata.combining(one))
    return " ".join(WORDS.findall(text.casefold()))


@cache
def names(section: str, file: str = "names.txt") -> list[tuple[str, str]]:
    """Return a section of a file of names: pairs of a name and what it stands for, or of a word and nothing."""
    text = (Path(__file__).parent / "data" / file).read_text("utf-8")
    lines = re.search(rf"^\[{section}\][^\n]*\n((?:[^\[\n][^\n]*\n)*)", text, re.MULTILINE)[1].splitlines()
    pairs = []
    for entry in (entry for line in lines for entry in line.split("  # ")[0].split("; ")):
        left, _, right = entry.partition(" = ")
        pairs += [(name, right) for name in (left.split(", ") if right else left.split())]
    return pairs


def read_vocabulary(path: Path) -> list[Drug]:
    """Read DrugBank's open vocabulary (CSV)."""
    content = records(path, {"DRUGBANK ID", "COMMON NAME", "SYNONYMS"})
    _, header = next(content)
    drugs: dict[str, Drug] = {}
    for number, record in content:
        row = {column: value.strip() for column, value in zip(header, record, strict=True)}
        drug_id, name = row["DRUGBANK ID"], row["COMMON NAME"]
        if not DRUG_ID.fullmatch(drug_id) or not name or drug_id in drugs:
            fault = "occurs twice" if drug_id in drugs else "expected an id such as DB00945, and a name"
            raise PddError(f"{path}:{number}: drug {drug_id!r} {name!r}: {fault}")
        synonyms = dict.fromkeys(filter(None, (part.strip() for part in row["SYNONYMS"].split(" | "))))
        codes = tuple((one, row[one]) for one in EXTRA if row.get(one))
        drugs[drug_id] = Drug(f"drugbank:{drug_id}", name, tuple(synonyms), codes)
    if not drugs:
        raise PddError(f"{path}: no drugs; expected DrugBank's open vocabulary")
    return list(drugs.values())


class Linker:
    """Links names of drugs to a vocabulary; see `link`."""

    def __init__(self, drugs: list[Drug]) -> None:
        self.common: dict[str, str] = {}
        for drug in sorted(drugs, key=lambda drug: drug.name.casefold() != plain(drug.name)):  # Menthol, (+)-menthol
            self.common.setdefault(plain(drug.name), drug.drug_id)
        found: tuple[dict[str, set[str]], ...] = {}, {}
        for drug in drugs:
            for synonym in drug.synonyms:
                key = plain(synonym)
                if len(key) >= MIN_SYNONYM and key not in self.common:
                    found[key == synonym.casefold()].setdefault(key, set()).add(drug.drug_id)
        self.synonyms: dict[str, str] = {}
        for group in found:  # Propoxyphene counts more than (-)-propoxyphene.
            self.synonyms |= {key: ids.pop() for key, ids in group.items() if len(ids) == 1}
        self.names = sorted(self.common)
        self.aliases: dict[str, Link] = {}
        for key, value in chain.from_iterable(map(names, NAMED)):
            ids = [self.common.get(plain(name)) for name in value.split(" + ")]
            if value in CLASSES or all(ids):  # A smaller vocabulary lacks some.
                self.aliases[key] = CLASSES.get(value) or Link(tuple(ids), "alias")
        self.fluids = sorted((key for key, _ in names("fluids") if key in self.aliases), key=len, reverse=True)
        self.expansions = dict(names("expansions"))
        self.forms, self.cations, self.anions, ions = (
            {word for word, _ in names(section)} for section in ("forms", "cations", "anions", "ions")
        )
        self.ions = ions | self.cations | self.anions
        self.link = lru_cache(maxsize=1 << 16)(self._link)

    def link_order(self, name: str, generic: str) -> list[tuple[str, Link]]:
        """Link an order by its drug's name and, where that names none, by the pharmacy's generic name if it does."""
        found = [(name, self.link(name))]
        if found[0][1].method == "abstained" and (second := self.link(generic)).targets:
            found.append((generic, second))
        return found

    def _link(self, name: str) -> Link:
        """Link a name as an order has it: to one drug, to the drugs of a combination, or to none.

        The stages, in order: aliases, common names, synonyms; the same without form, strength, route and salt; the
        parts of a combination; what stands in brackets; a name that is cut off within a word.
        """
        text = re.sub(r"\*[a-z]{1,4}\*", " ", name.casefold())
        if len(name) > MAX_NAME or "placebo" in text:
            return ABSTAINED
        outside, inside = re.sub(r"\([^()]*\)", " ", text), " ".join(re.findall(r"\(([^()]*)\)", text))
        found = self._lookup(plain(text))
        if not found and (found := self._one(outside)):
            found = found.demoted()
        if found and found.method != "supply":
            return found
        if combined := self._combination(outside):
            return combined
        if plain(outside) and plain(inside) and (bracket := self._one(inside)) and bracket.targets:
            return bracket._replace(method="bracket")
        return found or self._prefix(plain(outside)) or ABSTAINED

    def _lookup(self, key: str) -> Link | None:
        """Look a plain name up as it is."""
        if key in self.aliases:  # Before names: DrugBank's TMP is a nucleotide, that of orders trimethoprim.
            return self.aliases[key]
        if key in self.common:
            return Link((self.common[key],), "exact")
        return Link((self.synonyms[key],), "synonym") if key in self.synonyms else None

    def _one(self, text: str) -> Link | None:
        """Look a name up, step by step without strength, form and salt."""
        if found := self._lookup(plain(text)):
            return found
        keys = self._reduced(plain(STRENGTH.sub(" ", text)).replace("p f", "").split())
        return next((found.demoted() for key in keys if (found := self._lookup(key))), None)

    def _reduced(self, words: list[str]) -> Iterator[str]:
        """Leave out forms, then cations, then one anion of the end after the other; never leave ions alone."""
        kept = [word for word in words if word not in self.forms]
        expanded = [self.expansions.get(word, word) for word in kept]
        yield from (" ".join(step) for step in (words, kept, expanded))
        bare = [word for word in expanded if word not in self.cations]
        while bare and not self.ions.issuperset(bare):
            if " ".join(bare) not in self.fluids:
                yield " ".join(bare)
            if bare.pop() not in self.anions:
                break

    def _combination(self, text: str) -> Link | None:
        """Link every part of a combination, or none."""
        parts, words = SEPARATORS.split(text), plain(text)
        for fluid in self.fluids:
            if words.endswith(f" {fluid}"):
                parts = [*SEPARATORS.split(words.removesuffix(fluid)), fluid]
                break
        parts = [
            part for part in parts if set(plain(STRENGTH.sub(" ", part)).split()) - self.forms or part in self.fluids
        ]
        found = [self._one(part) or self._prefix(plain(part)) for part in parts]
        if len(parts) < 2 or not all(one and one.targets for one in found):
            return None
        targets = tuple(dict.fromkeys(target for one in found for target in one.targets))
        solutes = tuple(target for target in targets if target != self.common.get("water"))  # Water dissolves them.
        return Link(solutes or targets, "combination")

    def _prefix(self, key: str) -> Link | None:
        """Complete a name that was cut off within a word, when all names that begin so begin with one of them."""
        key = " ".join(word for word in key.split() if word not in self.forms)
        first, last = (bisect_left(self.names, end) for end in (key, f"{key}\U0010ffff"))
        found = self.names[first:last] if len(key) >= MIN_PREFIX else []
        shortest = min(found, key=len, default="")
        if all(name.startswith(shortest) for name in found) and shortest[len(key) : len(key) + 1].isalpha():
            return Link((self.common[shortest],), "prefix")
        return None
