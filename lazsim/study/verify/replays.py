"""Replay a published outcome: a set-up's scenario through the engine, and the figures read from its runs."""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import mean

import msgspec
import numpy as np

from lazsim.engine.simulate import SystemRun
from lazsim.errors import LazsimError, SpecError
from lazsim.routing import RecordedRouting
from lazsim.scenario import resolve
from lazsim.study.checkpoint_interval import choose_setting
from lazsim.study.deadline import Due, Purchase, compare_purchases, finish_s
from lazsim.study.runs import ScenarioRuns
from lazsim.study.verify.setups import SCALES, SHARES, TIMES, UNITS, LossesSpec, Setup, load_setups, variants
from lazsim.trace import generate_trace, read_trace
from lazsim.trace.pool import PoolDraw, draw_pool
from lazsim.trace.prices import ONE, node_hours
from lazsim.trace.recipes import MtbfSpec, PoolSpec, ScheduleSpec
from lazsim.trace.table import Event, Trace, build_trace
from lazsim.units import HOUR_S, MINUTE_S, counted

MOST_WAYS = 10_000
"""Ways to lose nodes that are all simulated, each in milliseconds."""


class MissingError(LazsimError):
    """A row cannot be replayed since something is not given."""


@dataclass(frozen=True)
class Replayed:
    """A run of a set-up: what figures are read from."""

    setup: Setup
    run: SystemRun
    ways: Mapping[str, Purchase]
    """Ways to buy nodes for work that is due, by `Purchase.nodes`; none where none is."""

    @property
    def counts(self) -> Mapping[str, float]:
        """Failures, and what draws of a pool count in the mean."""
        if not isinstance(self.setup.trace, PoolSpec):
            return self.run.counts
        draws = pool_draws(self.setup.trace, self.setup.draws)
        return {**self.run.counts, **{name: mean(draw.counts[name] for draw in draws) for name in POOL_COUNTS}}

    @property
    def trained_s(self) -> float:
        """Time that all steps took, with those that were lost."""
        return self.run.ledger_s["compute"] + self.run.ledger_s["lost_work"]

    @property
    def work_end_s(self) -> float:
        """Time at which the work is done, steps that were lost included, or else the end."""
        return finish_s(self.run.states, (), self.run.wall_s, self._samples_due) or self.run.wall_s

    @property
    def work_samples(self) -> float:
        """Samples of the work until then."""
        made = self.run.samples + self.run.counts["lost_steps"] * self.setup.times["samples_per_step"]
        return float(min(made, self._samples_due))

    @property
    def _samples_due(self) -> float:
        return float(self.setup.constants["steps"] * self.setup.times["samples_per_step"])

    @property
    def mean_nodes(self) -> float:
        """Nodes alive in the mean until then."""
        times_s, num_alive = ([getattr(one, name) for one in self.run.states] for name in ("time_s", "num_alive"))
        return node_hours(times_s, num_alive, self.work_end_s, ONE) * HOUR_S / self.work_end_s


@lru_cache(maxsize=1)
def pool_draws(spec: PoolSpec, draws: int) -> Sequence[PoolDraw]:
    """Draw the failures of a pool several times."""
    return [draw_pool(spec, np.random.default_rng(seed), "pool") for seed in range(draws)]


POOL_COUNTS = ("systematic", "selections", "preemptions", "escalated", "failed")


def _recoverable_prob(one: Replayed) -> float:
    """Return 1 where the job goes on without its start."""
    return float(not any(event.event == "rolled_back" and event.step == 0 for event in one.run.events))


def _until_restart(one: Replayed) -> float:
    """Return the nodes lost when the job restarts, the last ones included."""
    restarted_s = next((event.time_s for event in one.run.events if event.event == "restarted"), math.inf)
    return float(sum(event.num_lost or 0 for event in one.run.events if event.time_s <= restarted_s))


def _committed(one: Replayed) -> float:
    """Return the share of steps that are kept: failures discard the step under way, several of them only once."""
    discarded = sum(failure.trains_at_s is not None for failure in one.run.failures)
    return one.run.steps / (one.run.steps + discarded)


def _taking_part(one: Replayed) -> float:
    """Return the nodes in a step that is kept, in the mean."""
    return one.run.samples / one.run.steps


def _efficiency(one: Replayed) -> float:
    steps_s = one.run.ledger_s["compute"] / one.run.steps
    slower = one.setup.constants.get("plain_step_s", steps_s) / steps_s
    assert isinstance(one.setup.trace, ScheduleSpec), "nodes that come back"
    return _committed(one) * _taking_part(one) / one.setup.trace.num_nodes * slower


def _closed_form_gap(one: Replayed) -> float:
    """Return how far productive time is from its closed form for small losses (RSC, arXiv 2410.21680)."""
    trace, restart_s = one.setup.trace, float(one.setup.settings["cluster.recovery.restart_base_s"])
    assert isinstance(trace, MtbfSpec), "nodes that fail at a rate"
    closed = 1 - (restart_s + one.setup.interval_s / 2) / trace.mtbf_s
    return abs(one.run.ettr / closed - 1)


def _rates(one: Replayed) -> list[float]:
    return [state.samples_per_s for state in one.run.states if state.samples_per_s]


FIGURES: Mapping[str, Callable[[Replayed], float]] = {
    "hours_between_failures": lambda one: one.run.wall_s / one.run.counts["failures"] / HOUR_S,
    "minutes_of_run": lambda one: one.trained_s / one.run.counts["failures"] / MINUTE_S,
    "ettr": lambda one: one.run.ettr,
    "trained_share": lambda one: one.trained_s / one.run.wall_s,
    "closed_form_gap": _closed_form_gap,
    "hours": lambda one: one.run.wall_s / HOUR_S,
    "recovery_hours": lambda one: one.run.ledger_s["restart"] / HOUR_S,
    "selection_hours": lambda one: one.counts["selections"] * getattr(one.setup.trace, "selection_s", 0.0) / HOUR_S,
    "preemption_hours": lambda one: one.counts["preemptions"] * getattr(one.setup.trace, "preemption_s", 0.0) / HOUR_S,
    "committed_percent": lambda one: 100 * _committed(one),
    "nodes_taking_part": _taking_part,
    "efficiency_percent": lambda one: 100 * _efficiency(one),
    "nodes_until_restart": _until_restart,
    # Of those lost together, the one that stops the job is as often any.
    "nodes_before_restart": lambda one: _until_restart(one) - (one.setup.trace.num_at_once + 1) / 2,  # type: ignore[union-attr]
    # Where groups have failed that had all copies of a shard, the job starts anew, and tells nothing of the others.
    "fewest_stacks": lambda one: math.inf if one.run.counts["restarts"] else _rates(one)[0] / _rates(one)[-1],
    "recoverable_prob": _recoverable_prob,
    "lost_prob": lambda one: 1 - _recoverable_prob(one),
    "wasted_minutes": lambda one: (
        (one.run.ledger_s["lost_work"] + one.run.ledger_s["restart"]) / one.run.counts["failures"] / MINUTE_S
    ),
    "restart_s": lambda one: one.run.ledger_s["restart"],
    "detect_s": lambda one: one.run.ledger_s["detect"],
    "step_s": lambda one: one.run.ledger_s["compute"] / one.run.steps,
    "samples_per_s": lambda one: one.work_samples / one.work_end_s,
    "mean_nodes": lambda one: one.mean_nodes,
    "usd_per_hour": lambda one: one.mean_nodes * one.setup.constants["usd_per_node_hour"],
    "lost_token_percent": lambda one: 100 * (one.run.lost_token_share or 0.0),
    "on_demand_hours": lambda one: one.ways["on-demand"].on_demand_node_hours,
    "spot_hours": lambda one: one.ways["on-demand"].spot_node_hours,
    "on_demand_usd": lambda one: one.ways["on-demand"].cost_usd or 0.0,
    "spot_usd": lambda one: one.ways["spot"].cost_usd or 0.0,
    **{
        name: lambda one, name=name: float(one.counts[name])  # type: ignore[misc]
        for name in ("failures", *POOL_COUNTS)
    },
}
"""Figures by name, each read from one run."""

LEAST = ("fewest_stacks",)
"""Figures of which the least of all runs counts, not the mean."""

FIGURE_UNITS = {"hours": "h", "minutes": "min", "s": "s", "percent": "%"} | dict.fromkeys(("ettr", "gap"), "ratio")
"""Units by the words of a figure's name, beside those of `SCALES`."""


def scale_of(figure: str, unit: str) -> float:
    """Return what a figure is multiplied by to be in the unit of a row; 1 where it is no time, share or rate.

    Raises
    ------
    SpecError
        When only one of both is a time, or a share.

    Examples
    --------
    >>> scale_of("hours_between_failures", "min"), scale_of("ettr", "%"), scale_of("samples_per_s", "samples/h")
    (60.0, 100.0, 3600.0)
    """
    words = figure.split("_")
    known = [FIGURE_UNITS.get(word, word) for word in words if "per" not in words]
    own = next((one for one in known if one in SCALES), None)
    if "per" in words and (per := re.fullmatch(r"[\w$]+ ?(?:/|per) ?(\w+)", unit)) and per[1] in TIMES:
        return UNITS[per[1]] / UNITS[words[-1]]
    if not unit or (own is None and unit not in SCALES):
        return 1.0
    if own is None:
        raise SpecError(f"`unit` {unit!r}: the figure {figure} is no time and no share")
    if unit not in SCALES or (own in SHARES) != (unit in SHARES):
        raise SpecError(f"`unit` {unit!r}: the figure is in {own}")
    return SCALES[own] / SCALES[unit]


def replay(setup: Setup, figures: Sequence[str], inputs: Mapping[str, Sequence[float]], folder: Path) -> list[float]:
    """Return figures of a set-up with the inputs of a row, each at every value of an input that has several.

    Parameters
    ----------
    folder
        Where files of traces are.

    Raises
    ------
    LazsimError
        When the inputs cannot be simulated, or a file is missing.
    """
    found = [
        [(min if figure in LEAST else mean)(_figure(figure, one) for one in runs) for figure in figures]
        for runs in (_made(runs_of(one), folder) for one in variants(setup, inputs))
    ]
    return [max(column) for column in zip(*found, strict=True)] if setup.largest else [*itertools.chain(*found)]


def _figure(name: str, one: Replayed) -> float:
    try:
        return FIGURES[name](one)
    except (ZeroDivisionError, IndexError):
        told = f"{counted(one.run.counts['failures'], 'failure')} and {counted(one.run.steps, 'step')}"
        raise MissingError(f"a run with {told} has no `{name}`") from None


def runs_of(setup: Setup) -> bytes:
    """Return what the runs of a set-up depend on: other figures can be read from the same ones."""
    alike = msgspec.structs.replace(setup, groups=(), figures={}, inputs={})
    return msgspec.json.encode(alike, order="deterministic")


@lru_cache(maxsize=1)
def _made(content: bytes, folder: Path) -> list[Replayed]:
    """Make the runs of a set-up, one for each trace."""
    setup = msgspec.json.decode(content, type=Setup)
    traces = _traces(setup, folder)
    asked = {**load_setups().shared, **setup.settings, "job.times": dict(setup.times), "system": setup.system}
    scenario = resolve({**asked, "trace": traces[0]}, folder=Path(__file__).parent)
    model = scenario.model
    load_E = np.array(setup.loads or [1] * model.num_experts)
    loads = RecordedRouting(np.array([0]), np.tile(load_E, (1, model.num_moe_layers, 1)))
    scenarios = [scenario.under(trace, loads) for trace in traces]
    runs = ScenarioRuns(scenarios)
    chosen = choose_setting(runs, float(setup.interval_s) if setup.interval_s else setup.interval_steps)
    chosen = replace(chosen, system=replace(chosen.system, **setup.fields))
    made = []
    for one, run in zip(scenarios, runs.runs(chosen), strict=True):
        ways = {}
        if setup.due is not None:
            ways = {way.nodes: way for way in compare_purchases(Due(**setup.due), one, run)}
        made.append(Replayed(setup, run, ways))
    return made


def _traces(setup: Setup, folder: Path) -> list[Trace]:
    """Return a trace for each draw, or for each way to lose nodes."""
    source = setup.trace
    if isinstance(source, str):
        path = folder / source
        if not path.is_file():
            raise MissingError(f"the trace {path} is missing: put it there")
        return [read_trace(str(path))]
    if isinstance(source, LossesSpec):
        return [_losing(source, nodes) for nodes in _orders(source, setup.draws)]
    if isinstance(source, PoolSpec):
        # The draw nearest to the mean stands for all, which would take as much longer.
        draws = pool_draws(source, setup.draws)
        middle = mean(len(draw.stops) for draw in draws)
        nearest = min(draws, key=lambda draw: abs(len(draw.stops) - middle))
        return [build_trace(nearest.events, duration_s=nearest.end_s)]
    return [generate_trace(source, np.random.default_rng(seed), "outcome") for seed in range(setup.draws)]


def _orders(spec: LossesSpec, draws: int) -> Iterable[Sequence[int]]:
    """Return the nodes lost, in order, of each trace."""
    if not 0 < spec.num_lost <= spec.num_nodes:
        raise SpecError(f"{spec.num_lost} of {spec.num_nodes} nodes cannot be lost; give fewer, and 1 or more")
    if spec.order == "row":
        return [range(spec.num_lost)]
    if spec.order == "random":
        shuffled = (np.random.default_rng(seed).permutation(spec.num_nodes).tolist() for seed in range(draws))
        return [nodes[: spec.num_lost] for nodes in shuffled]
    if math.comb(spec.num_nodes, spec.num_lost) > MOST_WAYS:
        raise SpecError(
            f"{spec.num_lost} of {spec.num_nodes} nodes: give numbers with at most {MOST_WAYS:,} ways to lose them"
        )
    return itertools.combinations(range(spec.num_nodes), spec.num_lost)


def _losing(spec: LossesSpec, nodes: Sequence[int]) -> Trace:
    at_once = len(nodes) if spec.order == "ways" else spec.num_at_once
    events = [Event(0.0, "add", f"n{index}") for index in range(spec.num_nodes)]
    events += [Event(spec.gap_s * (1 + place // at_once), "remove", f"n{node}") for place, node in enumerate(nodes)]
    return build_trace(events, duration_s=events[-1].time_s + 2 * spec.gap_s)
