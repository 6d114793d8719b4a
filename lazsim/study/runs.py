"""Runs of scenarios by the setting of their system, each made once."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lazsim.engine.planner import Planner
from lazsim.engine.simulate import SystemRun, simulate_system
from lazsim.engine.systems import System
from lazsim.scenario import Scenario


@dataclass(frozen=True)
class Setting:
    """A system with the values of its fields, and the steps between checkpoints."""

    system: System
    interval_steps: int


class ScenarioRuns:
    """Runs by setting of scenarios that differ in their traces alone: they share plans and times of steps.

    `tell` is called with each further share of a run that is done.
    """

    def __init__(self, scenarios: Sequence[Scenario], tell: Callable[[float], None] = lambda _share: None) -> None:
        self.scenarios, self._tell = scenarios, tell
        self.scenario = scenarios[0]
        costs, loads = self.scenario.costs(), self.scenario.load_routing()
        self._planner = functools.cache(lambda system: Planner(system, costs, loads))
        self.runs = functools.cache(self._runs)

    def on(self, scenarios: Sequence[Scenario]) -> "ScenarioRuns":
        """Return the runs of scenarios under other traces, which share plans and times of steps with these."""
        runs = ScenarioRuns(scenarios, self._tell)
        runs._planner = self._planner
        return runs

    def _runs(self, setting: Setting) -> list[SystemRun]:
        """Simulate each scenario at a setting."""
        costs, loads = self.scenario.costs(), self.scenario.load_routing()
        return [
            simulate_system(
                scenario.load_trace(),
                setting.system,
                costs,
                loads,
                scenario.wall_s(),
                planner=self._planner(setting.system),
                score_plans=scenario.score_plans,
                interval_steps=setting.interval_steps,
                planning=scenario.planning,
                prices=scenario.prices(),
                spares=scenario.spares(),
                on_time=self._further(scenario.wall_s()),
            )
            for scenario in self.scenarios
        ]

    def _further(self, wall_s: float) -> Callable[[float], None]:
        """Return what tells the share of a run that has passed since it was called last."""
        told_s = 0.0

        def on_time(now_s: float) -> None:
            nonlocal told_s
            self._tell((now_s - told_s) / wall_s)
            told_s = now_s

        return on_time
