"""Read the inputs of a set-up from the words of a row of outcomes."""

import itertools
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from lazsim.errors import SpecError, shorten
from lazsim.study.verify.setups import AS_WRITTEN, TIMES, UNITS, Input, Setup

IN_WORDS = "|".join(filter(None, UNITS))

NUMBER = r"(?:(?<![\d,.])\d{1,3}(?:,\d{3})+(?!,?\d)|\d++(?:\.\d++)?+(?:e[+-]?\d++)?+)(?: ?[kKM](?!\w|\s*[=:]))?"
"""A number, such as 0.65, 16,384, 6.5e-3 or 131k. Commas between all digits by threes part no list, as in 96,192,384 of
96,192,384,1536."""

RATE = re.compile(
    rf"\s*[~≈]?(?P<number>{NUMBER} ?%?)\s*(?:failures?\s*)?(?:/|per)\s*(?P<nodes>{NUMBER})?\s*"
    r"node-(?P<unit>hour|day|year)s?\b"
)
"""A rate of failures, such as 6.5/1000 node-days. Without a number of node-hours, node-days or node-years, it is 1."""

UNCLEAR = re.compile(r"\d{1,3}(?:,[1-9]\d\d)+|0\d+")
"""A number that may be a list, such as 128,256, and one of a list that may be a part of a number, as in 1,02."""

WORDS = {"<number>": f"{NUMBER}(?: ?%)?", "<time>": rf"{NUMBER}(?: ?(?:{IN_WORDS})(?![a-z]))?"}
"""What stands for a number or a time in the words of an input."""

WHOLE = r"(?:(?!\d)|(?<!\d)(?<!\d[^\s;A-Za-z]))"
"""Where the words of an input begin, if with a number then with all of it: not in 1,024, 2-3 or 2^11."""

ASSIGNED = re.compile(r"(?:^|[;,(])\s*[A-Za-z_]\w*\s*=\s*(?=\d)")
"""What stands before the number of a name, which no words read: ``k=2 nodes`` are no number of nodes, and ``16 GPUs = 2
nodes`` are."""

BOUND = re.compile(
    r"(?:\b(?:up to|at (?:least|most)|(?:more|less|fewer) than|as (?:many|few) as|above|below|"
    r"(?:max|min)imum(?: of)?|max\.)|[<>≤≥]=?)\s*(?:about |around |some |[~≈])?\s*$",
    re.IGNORECASE,
)
"""What stands before a number that is a bound of an input, not its value. What goes on over 54 days takes as many."""

AMOUNT = re.compile(rf"\s*[~≈]?({NUMBER})(?:\s*/\s*(?!\d+\.\d)({NUMBER}))?(?:\s*({IN_WORDS}))?(?![A-Za-z_])")
"""A number, or two of which a whole one divides the other, and a unit: 0.05/0.1 are two values."""

FURTHER = re.compile(r"\s*,(?=\s*\d)")
LAST = re.compile(r"\s*(?:[,;(]|$)")
"""What stands before a further value of an input, and behind it."""

RANGE = re.compile(r"\s*(?:(?:[-\u2013]|\.\.+|to\b)\s*\d|(?:(?:or|and) (?:more|less|fewer|up)|at (?:most|least))\b)")
"""What makes a number the first one of a range, or its end."""

PER = re.compile(rf"\s*(?:[A-Za-z$]+\s*)?(?:/|\bper\s(?:\s*{NUMBER})?)\s*(?P<unit>[A-Za-z$][\w-]*)")
"""What a number is for each of, such as " failures/server-day"."""

COMMENT = re.compile(r"(?<!\w)\([^()]*\)")

FORMULA = re.compile(
    r"[^\s;,=<>]+\s*[<>]?=\s*[^;,:=<>]*?(?:[A-Za-z)][*^+]|[*^+][A-Za-z(]|[A-Za-z]\w*\()(?:,(?!\s)|[^;,])*"
)
"""A formula, whose numbers are no inputs: it has a function, or a product, a power or a sum with a name."""

CHANGE, LAST_OF_CLAUSE = re.compile(r"(?:^|;)\s*$"), re.compile(r"\s*(?:;|$)")
"""What stands before and behind the words of an input that a row changes, unless they are `VARIED`."""

VARIED = re.compile(r"\bvaried: [^;]+")
"""The input in which a row differs from others."""


def read_inputs(setup: Setup, text: str) -> dict[str, list[Any]]:
    """Read the inputs of a set-up from the words of a row; the last of several mentions counts, best outside brackets.

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
    last = _last(told, text)
    return {name: _values(last[name], one) for name, one in setup.inputs.items() if name in last}


def refuse_unread(setup: Setup, text: str) -> None:
    """Refuse the inputs of a set-up where some of their words say nothing to it, or an input is given twice.

    Raises
    ------
    SpecError
        When that is so. What stands in brackets is a comment.
    """
    comments = _places(COMMENT, text)
    told = [one for one in _told(setup, text) if one.start not in comments]
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
    """Return the words with a number in a text of which a set-up reads nothing, though they may matter to it.

    What stands in brackets is a comment.

    Examples
    --------
    >>> from lazsim.study.verify.setups import load_setups
    >>> setup = load_setups().setups["stacks-after-failures"]
    >>> unread_words(setup, "N=9, k=1 (of 3), q=3; 5 racks; a=b*2; by layer2")
    ['q=3', '5 racks']
    """
    rest = COMMENT.sub("", FORMULA.sub("", _without_mentions(setup, text)))
    known = re.compile(_spelled("|".join(setup.neutral)) or r"(?!)")
    clauses = (known.sub("", words).strip() for words in re.split(r";|,\s", rest))
    return [words for words in clauses if re.search(r"(?<![\w.])\.?\d", words)]


def overruled_words(setup: Setup, text: str) -> list[str]:
    """Return the words of inputs to which the last words on them, that are read, give another value.

    Last words that fill the text between two semicolons, or are ``varied``, are what a row changes: no others than
    ``varied`` ones count then.

    Examples
    --------
    >>> from lazsim.study.verify.setups import load_setups
    >>> setup = load_setups().setups["stacks-after-failures"]
    >>> overruled_words(setup, "N=9; k=1; N=8"), overruled_words(setup, "N=9; k=1; then N=8")
    ([], ['N=9'])
    """
    comments, varied = _places(COMMENT, text), _places(VARIED, text)
    told = sorted(_told(setup, text))
    last = _last(told, text)
    changed = {
        name
        for name, one in last.items()
        if one.start in varied or (CHANGE.search(text[: one.start]) and LAST_OF_CLAUSE.match(text, one.end))
    }
    words = (
        text[one.start : one.end].strip()
        for one in told
        if (one.name not in changed or one.start in varied)
        and (one.start not in comments or last[one.name].start in comments)
        and _differ(setup, one, last[one.name])
    )
    return list(dict.fromkeys(words))


def _places(pattern: re.Pattern[str], text: str) -> set[int]:
    """Return the places of a text that are in what a pattern finds."""
    return {place for one in pattern.finditer(text) for place in range(*one.span())}


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


def _last(told: list[Mention], text: str) -> dict[str, Mention]:
    """Return the mention of each input that counts: the last, best outside brackets."""
    comments = _places(COMMENT, text)
    return {one.name: one for one in sorted(told, key=lambda one: (one.start not in comments, one.start))}


def _mentions(setup: Setup, text: str) -> Iterator[Mention]:
    assigned = {one.end() for one in ASSIGNED.finditer(text)}
    for name, one in setup.inputs.items():
        words = _spelled(one.words)
        by_name = re.finditer(rf"(?<![\w.]){re.escape(name)}\s*(?:=|:(?=\s*[~≈]?\d))\s*([^;]+)", text)
        in_words = re.finditer(f"{WHOLE}(?:{words})", text) if words else ()
        told = [
            (found, False)
            for found in in_words
            if found.start() not in assigned and not BOUND.search(text[: found.start()])
        ]
        for match, is_by_name in [*((found, True) for found in by_name), *told]:
            start, end = match.span(match.lastindex or 0)
            if one.how in AS_WRITTEN:
                yield Mention(match.start(), match.end(), name, [text[start:end]], "", is_by_name)
                continue
            values, values_end = _listed(one, text, start, end)
            end = values_end if text[values_end:end].strip() else match.end()
            own = rf"\s*{re.escape(name)}\b"
            if one.unit.startswith("/"):
                own = rf"\s*(?:[A-Za-z$]+\s*)?(?:/|per ){one.unit[1:]}\b"
            if behind := re.compile(own).match(text, end):
                end = behind.end()
            yield Mention(match.start(), end, name, values, text[end:], is_by_name)


def _spelled(words: str) -> str:
    """Return a pattern with what its `WORDS` stand for."""
    return re.sub("<(?:number|time)>", lambda found: WORDS[found[0]], words)


def _listed(asked: Input, text: str, start: int, end: int) -> tuple[list[str], int]:
    """Return the numbers at a place of a text, of which a comma parts two, and where they end."""
    found = RATE.match(text, start, end) if asked.how == "per_1000_days" else None
    found = found or AMOUNT.match(text, start, end)
    values = []
    while found is not None:
        values.append(found[0])
        start = found.end()
        found = FURTHER.match(text, start, end)
        found = found and AMOUNT.match(text, found.end(), end)
        found = found if found and LAST.match(text, found.end(), end) else None
    return values, start


def _differ(setup: Setup, one: Mention, other: Mention) -> bool:
    asked = setup.inputs[one.name]
    with suppress(SpecError):
        return one.end != other.end and _values(one, asked) != _values(other, asked)
    return True


def _values(mention: Mention, asked: Input) -> list[Any]:
    """Return the values of an input."""
    if asked.how in AS_WRITTEN:
        return mention.values
    words = f"{','.join(mention.values)}{mention.rest}".partition(";")[0].strip()
    shown, unit = f"`inputs` {mention.name} = {shorten(words)!r}", asked.unit
    if not mention.values:
        raise SpecError(f"{shown}: expected a number")
    if RANGE.match(mention.rest):
        raise SpecError(f"{shown}: expected one number, no range")
    if (per := PER.match(mention.rest)) and not RATE.match(mention.values[-1]):
        raise SpecError(f"{shown}: /{per['unit']} is not read; expected a number{unit if unit[:1] == '/' else ''}")
    found = [one for one in map(AMOUNT.match, mention.values) if one]
    if len({bool(one[3]) for one in found}) > 1:
        raise SpecError(f"{shown}: give a unit with each number, or with none")
    if unit in TIMES and not found[-1][3] and re.match(r"\s*[^\W\d_]", mention.rest):
        raise SpecError(f"{shown}: expected a time in {', '.join(sorted(TIMES))}")
    # A list in prose has more than one comma.
    if any(UNCLEAR.fullmatch(one[1]) and (mention.is_by_name or one[1].count(",") != 1) for one in found):
        raise SpecError(f"{shown}: one number or a list? Write 128256, or 128, 256 with a space behind a comma")
    return [_amount(shown, text, asked) for text in mention.values]


def _amount(shown: str, text: str, asked: Input) -> float:
    found, is_rate, is_time = AMOUNT.match(text), asked.how == "per_1000_days", asked.unit in TIMES
    assert found is not None, "the text was looked at"
    rate = RATE.match(text) if is_rate else None
    if rate is None and is_rate and (found[2] or found[3]):
        raise SpecError(f"{shown}: expected a rate, such as 6.5/1000 node-days")
    if rate is None and ((is_time and found[2]) or (found[3] and (found[3] in TIMES) != is_time)):
        raise SpecError(f"{shown}: expected a {'time' if is_time else 'number that is no time'}")
    divisor = _value((rate["nodes"] if rate else found[2]) or "1")
    if not divisor:
        raise SpecError(f"{shown}: divides by 0")
    if not math.isfinite(_value(found[1]) / divisor):
        raise SpecError(f"{shown}: expected a number")
    if rate:
        # Of 1000 node-days.
        return _value(rate["number"]) * (1000 / (divisor * {"hour": 1 / 24, "day": 1, "year": 365}[rate["unit"]]))
    return _value(found[1]) / divisor * UNITS.get(found[3] or asked.unit, 1.0)


def _value(number: str) -> float:
    """Return the value of a number as `NUMBER` matches it, maybe in percent."""
    digits = number.replace(",", "").rstrip(" %kKM")
    return float(digits) * {"k": 1e3, "K": 1e3, "M": 1e6, "%": 0.01}.get(number[-1], 1.0)
