"""Read the inputs of a set-up from the words of a row of outcomes."""

import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from lazsim.errors import SpecError, shorten
from lazsim.study.verify.setups import TIMES, UNITS, Setup

IN_WORDS = "|".join(filter(None, UNITS))

NUMBER = r"\d++(?:\.\d++)?+"

RATE = re.compile(
    rf"\s*~?(?P<number>{NUMBER})\s*(?:failures?\s*)?(?:/|per)\s*(?P<nodes>{NUMBER})?\s*node-(?P<unit>hour|day|year)s?\b"
)
"""A rate of failures, such as 6.5/1000 node-days. Without a number of node-hours, node-days or node-years, it is 1."""

TIME = rf"[\d.]+(?: ?(?:{IN_WORDS})(?![a-z]))?"
"""What ``<time>`` stands for in the words of an input."""

WHOLE = r"(?:(?!\d)|(?<!\d)(?<!\d[.,])(?<!=)(?<!= ))"
"""Where the words of an input begin, if with a number then with all of it, which no name has: ``1,024 nodes`` are not
24, and ``k=2 nodes`` are no number of nodes."""

AMOUNT = re.compile(rf"\s*~?({NUMBER})(?:\s*/\s*({NUMBER}))?(?:\s*({IN_WORDS}))?(?![A-Za-z])")
"""A number, or two of which one divides the other, and a unit."""

FURTHER = re.compile(rf"\s*,(?P<amount>{AMOUNT.pattern})(?=\s*(?:[,;(]|$))")
"""A further value of an input, with nothing behind it."""

PER = re.compile(r"\s*(?:[A-Za-z$]+\s*)?(?:/|\bper\s)\s*(?P<unit>[A-Za-z$][\w-]*)")
"""What a number is for each of, such as " failures/server-day"."""

COMMENT = re.compile(r"\([^()]*\)")

VARIED = re.compile(r"\bvaried: [^;]+")
"""The input in which a row differs from others."""


def read_inputs(setup: Setup, text: str) -> dict[str, list[Any]]:
    """Read the inputs of a set-up from the words of a row; the last of several mentions counts.

    Raises
    ------
    SpecError
        When an input is no number, or what is ``varied`` is none.

    Examples
    --------
    >>> from lazsim.study.verify.setups import load_setups
    >>> setup = load_setups().setups["ettr"]
    >>> read_inputs(setup, "r_f=6.5/1000 node-days; nodes=16384/8; dt_cp=5 min")["nodes"]
    [2048.0]
    """
    told = _told(setup, text)
    for varied in VARIED.finditer(text):
        if not any(varied.start() <= one.start < varied.end() for one in told):
            raise SpecError(f"`inputs` {varied[0].strip()!r}: no input of this replay")
    last = {one.name: one for one in sorted(told, key=lambda one: one.start)}
    return {
        name: last[name].values if one.how == "file" else _amounts(last[name], one.unit)
        for name, one in setup.inputs.items()
        if name in last
    }


def refuse_unread(setup: Setup, text: str) -> None:
    """Refuse the inputs of a set-up where some of their words say nothing to it, or an input is given twice.

    Raises
    ------
    SpecError
        When that is so. What stands in brackets is a comment.
    """
    comments = [range(*one.span()) for one in COMMENT.finditer(text)]
    told = [one for one in _told(setup, text) if not any(one.start in comment for comment in comments)]
    for one, other in itertools.combinations(told, 2):
        if one.name == other.name and one.end != other.end:
            raise SpecError(f"`inputs` give {one.name} twice; keep one")
    rest = COMMENT.sub(";", _without_mentions(setup, text))
    if strange := re.search(r"[^\s;,.][^;,]*", rest):
        raise SpecError(
            f"`inputs`: {shorten(strange[0].strip())!r} is not read; expected name=number, with a unit, of "
            f"{', '.join(setup.inputs) or 'no input'}; put comments into brackets"
        )


def unread_words(setup: Setup, text: str) -> list[str]:
    """Return the words with a number in a text of which a set-up reads nothing; what stands in brackets is a comment.

    Examples
    --------
    >>> from lazsim.study.verify.setups import load_setups
    >>> unread_words(load_setups().setups["stacks-after-failures"], "N=9, k=1 (of 3), q=3; 5 racks; by layer2")
    ['q=3', '5 racks']
    """
    rest = COMMENT.sub("", _without_mentions(setup, text))
    return [words.strip() for words in re.split(r";|,\s", rest) if re.search(r"(?<![\w.])\.?\d", words)]


def _without_mentions(setup: Setup, text: str) -> str:
    left = list(text)
    for one in _mentions(setup, text):
        left[one.start : one.end] = ";" * (one.end - one.start)
    return "".join(left)


class Mention(NamedTuple):
    """An input in a text: from its name or words to its last value, its values, and what follows."""

    start: int
    end: int
    name: str
    values: list[str]
    rest: str
    is_by_name: bool


def _told(setup: Setup, text: str) -> list[Mention]:
    """Return what a text says of inputs."""
    mentions = list(_mentions(setup, text))
    # The pool in `spare pool=9` is no mention of its own.
    return [
        one
        for one in mentions
        if not (one.is_by_name and any(two.start < one.start and one.end <= two.end for two in mentions))
    ]


def _mentions(setup: Setup, text: str) -> Iterator[Mention]:
    for name, one in setup.inputs.items():
        by_name = re.finditer(rf"(?<![\w.]){re.escape(name)}\s*=\s*([^;]+)", text)
        in_words = re.finditer(f"{WHOLE}(?:{one.words.replace('<time>', TIME)})", text) if one.words else ()
        for match, is_by_name in [*((found, True) for found in by_name), *((found, False) for found in in_words)]:
            group = match.lastindex or 0
            values, rest = ([match[group]], "") if one.how == "file" else _listed(match[group])
            end = match.end(group) - len(rest) if rest.strip() else match.end()
            rest = text[end:]
            own = rf"\s*(?:[A-Za-z$]+\s*)?{one.unit}\b" if one.unit.startswith("/") else rf"\s*{re.escape(name)}\b"
            if behind := re.match(own, rest):
                end, rest = end + behind.end(), rest[behind.end() :]
            yield Mention(match.start(), end, name, values, rest, is_by_name)


def _listed(text: str) -> tuple[list[str], str]:
    """Return the numbers that a text begins with, of which a comma parts two, and what follows."""
    first = RATE.match(text) or AMOUNT.match(text)
    if first is None:
        return [], text
    values, rest = [first[0]], text[first.end() :]
    while further := FURTHER.match(rest):
        values.append(further["amount"])
        rest = rest[further.end() :]
    return values, rest


def _amounts(mention: Mention, unit: str) -> list[float]:
    """Return the values of an input."""
    words = f"{','.join(mention.values)}{mention.rest}".partition(";")[0].strip()
    shown = f"`inputs` {mention.name} = {shorten(words)!r}"
    if not mention.values:
        raise SpecError(f"{shown}: expected a number")
    if (per := PER.match(mention.rest)) and not RATE.match(mention.values[-1]):
        raise SpecError(f"{shown}: /{per['unit']} is not read; expected a number{unit if unit[:1] == '/' else ''}")
    last = AMOUNT.match(mention.values[-1])
    if unit in TIMES and last and not last[3] and re.match(r"\s*[A-Za-z]", mention.rest):
        raise SpecError(f"{shown}: expected a time in {', '.join(sorted(TIMES))}")
    return [_amount(shown, text, unit) for text in mention.values]


def _amount(shown: str, text: str, unit: str) -> float:
    found, rate = AMOUNT.match(text), RATE.match(text)
    assert found is not None, "the text was looked at"
    if rate is None and found[3] and (found[3] in TIMES) != (unit in TIMES):
        raise SpecError(f"{shown}: expected a {'time' if unit in TIMES else 'number that is no time'}")
    divisor = float((rate["nodes"] if rate else found[2]) or 1)
    if not divisor:
        raise SpecError(f"{shown}: divides by 0")
    if rate:
        # Of 1000 node-days.
        return float(rate["number"]) * (1000 / (divisor * {"hour": 1 / 24, "day": 1, "year": 365}[rate["unit"]]))
    return float(found[1]) / divisor * UNITS.get(found[3] or unit, 1.0)
