"""Failures of a job whose servers are replaced from a pool and repaired."""

import heapq
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import numpy as np

from lazsim.errors import SpecError
from lazsim.trace.recipes import PoolSpec
from lazsim.trace.table import Event, EventKind, check_size
from lazsim.units import DAY_S

JOB = "job"
"""The node that stands for all servers of the job."""

KINDS: tuple[EventKind, EventKind] = ("remove", "add")


@dataclass
class PoolDraw:
    """Failures of a job until its work is done."""

    stops: list[tuple[float, float]] = field(default_factory=list)
    """When a server fails, at which the job goes, and when another has taken over, and it is back."""
    end_s: float = 0.0
    """When the work is done."""
    counts: Counter[str] = field(default_factory=Counter)
    """``systematic`` failures of bad servers, beyond those of good ones; ``selections`` of standbys and ``preemptions``
    of servers of the other pool; ``escalated`` and ``failed`` repairs."""

    @property
    def events(self) -> list[Event]:
        """The job as the one node of a trace."""
        going = (Event(time_s, kind, JOB) for stop in self.stops for time_s, kind in zip(stop, KINDS, strict=True))
        return [Event(0.0, "add", JOB), *going]


def draw_pool(spec: PoolSpec, rng: np.random.Generator, name: str) -> PoolDraw:
    """Draw the failures of a job.

    Raises
    ------
    LazsimError
        When there are too many failures, or no server is left.
    """
    return _Pool(spec, Random(int(rng.integers(2**62))), name).draw()


class _Pool:
    """Servers in service, on standby, free and in repair."""

    def __init__(self, spec: PoolSpec, rng: Random, name: str) -> None:
        self.spec, self.rng, self.name = spec, rng, name
        num_all = spec.pool_servers + spec.spare_servers
        check_size(name, 0, num_all, 0)
        self.is_bad = [rng.random() < spec.bad_share for _ in range(num_all)]
        order = rng.sample(range(spec.pool_servers), spec.pool_servers)
        num_held = spec.num_servers + spec.num_standbys
        self.running, self.standbys = order[: spec.num_servers], order[spec.num_servers : num_held]
        self.free, self.spares = order[num_held:], list(range(spec.pool_servers, num_all))
        self.bad_places = [place for place, server in enumerate(self.running) if self.is_bad[server]]
        self.repairs: list[tuple[float, int]] = []
        self.drawn = PoolDraw()

    def draw(self) -> PoolDraw:
        spec, rng, drawn = self.spec, self.rng, self.drawn
        rate = spec.failures_per_day / DAY_S
        now_s, left_s = 0.0, spec.work_s
        while True:
            # Failures by chance are as likely in each place, and those of bad servers in each place of one.
            num_shares = spec.num_servers + spec.bad_multiple * len(self.bad_places)
            gap_s = rng.expovariate(num_shares * rate)
            if gap_s >= left_s:
                drawn.end_s = now_s + left_s
                return drawn
            now_s, left_s = now_s + gap_s, left_s - gap_s
            check_size(self.name, 0, len(self.is_bad), 1 + 2 * len(drawn.stops))
            self._take_back(now_s)
            place = int(rng.random() * num_shares)
            if place >= spec.num_servers:
                drawn.counts["systematic"] += 1
                place = self.bad_places.pop(self._index(len(self.bad_places)))
            elif self.is_bad[self.running[place]]:
                self.bad_places.remove(place)
            wait_s = self._replace(place, now_s)
            drawn.stops.append((now_s, now_s + wait_s))
            now_s += wait_s + spec.recovery_s

    def _index(self, count: int) -> int:
        return int(self.rng.random() * count)

    def _replace(self, place: int, now_s: float) -> float:
        """Let a standby take over from a server that fails; return the seconds until there is one."""
        self._repair(self.running[place], now_s)
        wait_s = 0.0 if self.standbys else self._select()
        self.running[place] = self.standbys.pop(0)
        if self.is_bad[self.running[place]]:
            self.bad_places.append(place)
        return wait_s

    def _repair(self, server: int, now_s: float) -> None:
        """Send a failed server to repair; where its failure is not diagnosed, it is a standby at once."""
        spec, rng, counts = self.spec, self.rng, self.drawn.counts
        if rng.random() < spec.undiagnosed_share:
            self.standbys.append(server)
            return
        is_manual = rng.random() < spec.manual_share
        repair_s = rng.expovariate(1 / spec.auto_repair_s)
        if is_manual:
            repair_s += rng.expovariate(1 / spec.manual_repair_s)
        heapq.heappush(self.repairs, (now_s + repair_s, server))
        has_failed = rng.random() < (spec.manual_fail_prob if is_manual else spec.auto_fail_prob)
        self.is_bad[server] = self.is_bad[server] and has_failed
        counts["escalated"] += is_manual
        counts["failed"] += has_failed

    def _take_back(self, until_s: float) -> None:
        """Return repaired servers to the pool, each of which fills a missing standby."""
        while self.repairs and self.repairs[0][0] <= until_s:
            self.free.append(heapq.heappop(self.repairs)[1])
            if len(self.standbys) < self.spec.num_standbys:
                self.standbys.append(self._chosen())

    def _chosen(self) -> int:
        return self.free.pop(self._index(len(self.free)))

    def _select(self) -> float:
        """Choose all standbys anew, from the other pool where this one is empty; return the seconds."""
        spec = self.spec
        wanted = max(1, spec.num_standbys)
        self.standbys += [self._chosen() for _ in range(min(wanted, len(self.free)))]
        taken = [self.spares.pop() for _ in range(min(wanted - len(self.standbys), len(self.spares)))]
        self.standbys += taken
        if not self.standbys:
            raise SpecError(f"{self.name}: no server is left; give more `spare_servers`")
        self.drawn.counts += Counter(selections=1, preemptions=len(taken))
        return spec.selection_s + spec.preemption_s * len(taken)
