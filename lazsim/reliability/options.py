"""From the text of an option to numbers, with errors that name the option."""

import re
from pathlib import Path

from lazsim.errors import SpecError, prefix_errors
from lazsim.files import read_bytes

WHOLE = re.compile(r"[0-9]{1,15}", re.ASCII)
SPAN = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)


def parse_counts(option: str, text: str) -> list[int]:
    """Read whole numbers from 0 up, separated by commas.

    Raises
    ------
    SpecError
        When one is none.

    Examples
    --------
    >>> parse_counts("`lose`", "0,3")
    [0, 3]
    """
    return [int(_require(WHOLE, part, option, text, "2,2,3")[0]) for part in _parts(text)]


def parse_failures(option: str, text: str) -> list[int]:
    """Read numbers and spans of numbers, separated by commas; ascending, each once.

    Raises
    ------
    SpecError
        When a part is neither, or a span ends before it starts.

    Examples
    --------
    >>> parse_failures("`failures`", "1-3,6,2")
    [1, 2, 3, 6]
    """
    numbers: set[int] = set()
    for part in _parts(text):
        first, last = _require(SPAN, part, option, text, "1-5 or 1,2,4").groups()
        if last is not None and int(last) < int(first):
            raise SpecError(f"{option} {text}: {part} ends before it starts; give {last}-{first}")
        if int(last or first) - int(first) > 1 << 20:
            raise SpecError(f"{option} {text}: {part} are too many numbers")
        numbers |= set(range(int(first), int(last or first) + 1))
    return sorted(numbers)


def parse_probs(option: str, text: str) -> list[float]:
    """Read probabilities, separated by commas.

    Raises
    ------
    SpecError
        When one is no number from 0 to 1.

    Examples
    --------
    >>> parse_probs("`node_fail_prob`", "0.01,0.5")
    [0.01, 0.5]
    """
    probs = []
    for part in _parts(text):
        try:
            prob = float(part)
        except ValueError:
            prob = -1.0
        if not 0 <= prob <= 1:
            raise SpecError(f"{option} {text}: {part!r} is no probability; give a number from 0 to 1, or one per node")
        probs.append(prob)
    return probs


def parse_domains(option: str, text: str) -> list[str]:
    """Read the name of each node's failure domain, from the text itself or the file that it names.

    In a file names are separated by commas, blanks or line ends; the rest of a line after ``#`` is no name.

    Raises
    ------
    LazsimError
        When a name is empty, or the file cannot be read.

    Examples
    --------
    >>> parse_domains("`domains`", "rack0,rack0,rack1")
    ['rack0', 'rack0', 'rack1']
    """
    if Path(text).exists() or "," not in text:
        with prefix_errors(option):
            content = read_bytes(text)
        try:
            lines = content.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise SpecError(f"{option} {text}: not a text file; give one name per node") from None
        return [name for line in lines for name in line.split("#")[0].replace(",", " ").split()]
    names = _parts(text)
    if "" in names:
        raise SpecError(f"{option} {text}: a name is empty; give one name per node, as 0,0,1,1")
    return names


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _require(pattern: re.Pattern[str], part: str, option: str, text: str, example: str) -> re.Match[str]:
    match = pattern.fullmatch(part)
    if match is None:
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        raise SpecError(f"{option} {shown}: {part[:40]!r} is no whole number from 0 up; give them as {example}")
    return match
