"""Set-ups of published outcomes: a system, what happens to its nodes, known times of its job, and inputs in words.

They stand in ``lazsim/catalog/measured/outcomes.toml``.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

import msgspec

from lazsim.errors import SpecError, prefix_errors
from lazsim.files.decoding import convert
from lazsim.files.reading import CATALOG
from lazsim.specs import Spec, read_toml
from lazsim.specs.record import Amount, Count, NumNodes, PositiveSeconds, Seconds
from lazsim.trace.recipes import MarketSpec, MtbfSpec, PoolSpec, ScheduleSpec
from lazsim.units import DAY_S, DURATIONS_S, UNIT_OF_WORD

MOST_S = 1e9
"""Longest trace of failing nodes: more steps of a minute are not simulated."""

UNITS = {"": 1.0, "%": 0.01, **{word: DURATIONS_S[unit] for word, unit in UNIT_OF_WORD.items() if unit in DURATIONS_S}}
TIMES = UNITS.keys() - {"", "%"}
SHARES = {"%": 0.01, "ratio": 1.0, "share": 1.0, "prob": 1.0}
SCALES = {unit: scale for unit, scale in UNITS.items() if unit} | SHARES
"""Seconds of a unit of time, and the share that a unit of one stands for."""


AS_WRITTEN = ("by_count", "file")
"""Ways of an input to enter a set-up by its words; see `Input.how`."""

COUNTED = re.compile(r"(?P<times>[\d.]+(?:/[\d.]+)*) ?s at (?P<counts>\d+(?:/\d+)*)")


class LossesSpec(Spec, frozen=True, kw_only=True, tag_field="kind", tag="losses"):
    """Nodes that are lost and do not come back."""

    num_nodes: NumNodes
    num_lost: NumNodes
    """Nodes at the start, and those lost."""
    order: Literal["ways", "random", "row"] = "ways"
    """``ways``: at once, in each way there is; ``random``: one after the other; ``row``: the first ones, likewise."""
    num_at_once: Count = 1
    """Nodes that are lost together, where they are in an order."""
    gap_s: PositiveSeconds = 100.0
    """Time before each loss; the trace lasts two more of these."""


class Input(Spec, frozen=True, kw_only=True):
    """How a number of a row enters its set-up."""

    to: tuple[str, ...]
    """Dotted names in the set-up."""
    how: Literal["replace", "divide", "per_1000_days", "one_minus", "by_count", "file"] = "replace"
    """What becomes of the value in the set-up:

    - ``replace``: the number takes its place.
    - ``divide``: the number divides it.
    - ``per_1000_days``: the number is a rate, and 1000 days over it, in seconds, take its place.
    - ``one_minus``: 1 less the number takes its place.
    - ``by_count``: times, each by a number, take its place in the order of these: ``1.45/2.39 s at 2/1``.
    - ``file``: the words are the name of a file, which takes its place.
    """
    unit: str = ""
    """Unit where the row gives none: one of time, or ``/step`` and the like of a number for each step."""
    words: str = ""
    """Pattern of the number in prose, beside ``name=``: its last group. ``<number>`` is one, maybe with a %, and
    ``<time>`` one that may have a unit."""
    is_needed: bool = True
    """Whether a row that does not say it cannot be replayed."""


class Setup(Spec, frozen=True, kw_only=True):
    """A way to replay rows of a table of outcomes."""

    groups: tuple[str, ...]
    """Groups of the rows for which it is, unless they name another set-up."""
    figures: Mapping[str, tuple[str, ...]]
    """Names in `FIGURES`, by the beginning of a row's metric."""
    systems: tuple[str, ...] = ()
    """Systems of these rows, where not all."""
    system: str
    trace: MtbfSpec | ScheduleSpec | MarketSpec | PoolSpec | LossesSpec | str
    """What happens to the nodes: a recipe, losses, or a file beside the rows."""
    times: Mapping[str, Any]
    """Known times of the job (`lazsim.specs.TimesSpec`)."""
    fields: Mapping[str, Any] = {}
    """Values of fields of the system."""
    interval_steps: int = 0
    interval_s: Seconds = 0.0
    """Steps between checkpoints, or else seconds; none are made where both are 0."""
    settings: Mapping[str, Any] = {}
    """Other settings of the scenario."""
    draws: Count = 1
    """Traces drawn; figures are means over them. Of a pool, one run stands for all."""
    num_failures: Amount = 0
    """Mean number of failures after which a trace of failing nodes ends, in place of its length; 0 for that."""
    largest: bool = False
    """Whether the figure is the largest of several values of an input, in place of one figure for each."""
    echoes: bool = False
    """Whether the figure is an input, or of a line through published figures: the replay shows what the engine counts
    and charges, and predicts nothing."""
    due: Mapping[str, float] | None = None
    """Work that is due: `lazsim.study.deadline.Due`."""
    loads: tuple[int, ...] = ()
    """Loads of the experts, which do not change; even where none are given."""
    constants: Mapping[str, float] = {}
    """Numbers that figures need beside those of the run."""
    inputs: Mapping[str, Input] = {}
    neutral: tuple[str, ...] = ()
    """Patterns of words with a number that does not matter to the figures."""


class Setups(Spec, frozen=True, kw_only=True):
    """Every set-up by name, and the settings that all of them share."""

    shared: Mapping[str, Any]
    setups: Mapping[str, Setup]


@cache
def load_setups() -> Setups:
    """Read the set-ups of the catalogue."""
    name = "measured/outcomes.toml"
    return read_toml(name, (CATALOG / name).read_bytes(), Setups)


def find_setup(group: str, metric: str, system: str) -> str | None:
    """Return the name of the set-up for rows of a group, a metric and a system, if there is one."""
    lengths = {
        name: max((len(begin) for begin in setup.figures if metric.startswith(begin)), default=0)
        for name, setup in load_setups().setups.items()
        if group in setup.groups and (not setup.systems or system in setup.systems)
    }
    best = max(lengths, key=lambda name: lengths[name], default=None)
    return best if best is not None and lengths[best] else None


def figures_of(setup: Setup, metric: str) -> tuple[str, ...] | None:
    """Return the figures of a metric; None where the set-up has none."""
    begin = max((one for one in setup.figures if metric.startswith(one)), key=len, default=None)
    return None if begin is None else setup.figures[begin]


def variants(setup: Setup, inputs: Mapping[str, Sequence[float]]) -> list[Setup]:
    """Return the set-up with the inputs of a row: one for each value of an input that has several.

    Raises
    ------
    SpecError
        When several inputs have several values, or a value cannot be.
    """
    several = [name for name, values in inputs.items() if len(values) > 1]
    if len(several) > 1:
        raise SpecError(f"`inputs` {' and '.join(several)}: only one of them can have several values")
    count = len(inputs[several[0]]) if several else 1
    return [_with(setup, {name: values[min(place, len(values) - 1)] for name, values in inputs.items()})
            for place in range(count)]  # fmt: skip


def _changed(name: str, how: str, value: Any, before: Any) -> Any:
    """Return what an input makes of a value; whole numbers without a fraction."""
    if how in ("per_1000_days", "divide") and not value:
        raise SpecError(f"`inputs` {name} = 0: expected a number above 0")
    if how == "per_1000_days":
        value = 1000 * DAY_S / value
    elif how == "divide":
        value = before / value
    elif how == "one_minus":
        value = 1 - value
    elif how == "by_count":
        found = COUNTED.fullmatch(value.strip())
        times, counts = (found[one].split("/") if found else [] for one in ("times", "counts"))
        by_count = dict(zip(map(int, counts), map(float, times), strict=False))
        if not times or sorted(by_count) != [*range(1, len(times) + 1)]:
            raise SpecError(f"`inputs` {name} = {value!r}: expected times such as 1.45/2.39 s at 2/1")
        return [by_count[count] for count in sorted(by_count)]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _with(setup: Setup, inputs: Mapping[str, Any]) -> Setup:
    plain = msgspec.to_builtins(setup)
    # What divides a value does so when that is set.
    for name, value in sorted(inputs.items(), key=lambda item: setup.inputs[item[0]].how == "divide"):
        for path in setup.inputs[name].to:
            part, dot, field = path.partition(".")
            table, last = (plain[part], field) if dot else (plain, part)
            table[last] = _changed(name, setup.inputs[name].how, value, table.get(last))
    if setup.num_failures:
        # Of few nodes, as many as there are in 30 years.
        plain["trace"]["duration_s"] = min(setup.num_failures * plain["trace"]["mtbf_s"], MOST_S)
    with prefix_errors("`inputs`"):
        return convert(plain, Setup)
