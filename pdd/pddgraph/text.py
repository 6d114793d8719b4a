"""Find diseases in free text by a dictionary, and say whether the text affirms, negates or doubts them."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from pddgraph import icd
from pddgraph.drugs import names, plain

SENTENCE = re.compile(r"[.;\n\\]+(?!\d)|\bbut\b|\bhowever\b|\balthough\b", re.IGNORECASE)
"""What ends the reach of a negation."""
REACH = 6  # Words that a negation reaches forward, after NegEx (Chapman et al., 2001), which takes five or six.
BEFORE = {
    "family": ("family history of", "mother with", "father with", "fh of"),
    "negated": ("no", "not", "denies", "denied", "without", "negative for", "absence of", "free of", "never had"),
    "doubted": ("possible", "probable", "rule out", "r o", "question", "suspected", "likely", "concern for", "vs"),
    "past": ("history of", "h o", "s p", "status post", "hx of", "prior"),
}
AFTER = {"negated": ("ruled out", "unlikely", "was negative", "is negative"), "doubted": ("possible", "questionable")}
QUALIFIERS = re.compile(
    r"\b(?:not elsewhere classified|not otherwise specified|unspecified as to [\w ,]+|nos|nec|"
    r"(?:organism|site|type) unspecified|(?:site|type|cause) not specified|unspecified(?: site| type)?)\b",
    re.IGNORECASE,
)


class Mention(NamedTuple):
    """A disease that a text mentions, and how: affirmed, negated, doubted, past or family."""

    words: str
    notation: str
    status: str


@cache
def dictionary() -> tuple[dict[str, str], dict[str, int]]:
    """Return terms with the notation each names, and first words with the most words of a term that begins so."""
    terms: dict[str, str] = {}
    for concept in sorted(icd.diagnoses().values(), key=lambda one: (len(one.notation), one.notation)):
        term = plain(QUALIFIERS.sub("", concept.title))
        if "-" not in concept.notation and concept.notation[0] not in "EV" and len(term) > 3:
            terms.setdefault(term, concept.notation)  # Of several concepts of one title the highest.
    terms |= names("diseases")
    longest: Counter[str] = Counter()
    for words in map(str.split, terms):
        longest[words[0]] = max(len(words), longest[words[0]])
    return terms, longest


def find(text: str) -> Iterator[Mention]:
    """Find the diseases that a text mentions; of overlapping terms the longest counts."""
    terms, longest = dictionary()
    for sentence in SENTENCE.split(text.replace("?", " question ")):
        words = plain(sentence).split()
        place = 0
        while place < len(words):
            for end in range(min(place + longest[words[place]], len(words)), place, -1):
                if notation := terms.get(term := " ".join(words[place:end])):
                    yield Mention(term, notation, _status(words[max(0, place - REACH) : place], words[end : end + 3]))
                    place = end - 1
                    break
            place += 1


def _status(before: list[str], after: list[str]) -> str:
    lead, tail = f" {' '.join(before)} ", f" {' '.join(after)} "
    for status, cues in BEFORE.items():
        if any(f" {cue} " in lead for cue in cues) or any(f" {cue} " in tail for cue in AFTER.get(status, ())):
            return status
    return "affirmed"
