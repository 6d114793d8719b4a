"""The clock of a simulation."""

import math
from collections.abc import Callable, Generator
from typing import Any

import simpy
from simpy.events import EventPriority

Activity = Generator[simpy.Event, Any, None]
"""What a process does, as it lets time pass."""

END, CHANGE, JOIN = map(EventPriority, (2, 3, 4))
"""Turns at one instant, after spares that start and collections that end: what goes on ends, nodes go or come, join."""


class Moment(simpy.Event):
    """Some seconds from now, in a turn."""

    def __init__(self, env: simpy.Environment, seconds: float, turn: EventPriority) -> None:
        super().__init__(env)
        self._ok, self._value = True, None
        env.schedule(self, turn, seconds)


class Clock(simpy.Environment):
    """An environment in which a process lets time pass without an event where nothing else happens meanwhile.

    `tell` is called with the time about every `every_s` seconds.
    """

    def __init__(self, tell: Callable[[float], None] = lambda _time_s: None, every_s: float = math.inf) -> None:
        super().__init__()
        self._tell, self._every_s, self._tell_at_s = tell, every_s, every_s

    def passing(self, seconds: float) -> Activity:
        """Let time pass, to the same instant either way; what takes no time ends before anything else happens."""
        if not seconds or self.now + seconds < self.peek():
            self._now += seconds
        else:
            yield Moment(self, seconds, END)
        if self.now >= self._tell_at_s:
            self._tell(self.now)
            self._tell_at_s = self.now + self._every_s
