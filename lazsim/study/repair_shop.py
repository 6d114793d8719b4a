"""Failures of a job whose servers go to a repair shop (AIReSim, arXiv 2603.07041)."""

import heapq
from dataclasses import dataclass, field
from random import Random

from lazsim.errors import SpecError
from lazsim.trace.table import check_size
from lazsim.units import DAY_S

MINUTE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class RepairShop:
    """Servers of a job, and what happens to those that fail.

    Attributes
    ----------
    servers, standbys, pool, spares : float
        Servers that the job needs and those that it holds ready; servers of the pool they are from, and of another one.
    rate, bad, multiple : float
        Failures of a good server a day, the share of bad servers, and how many times that rate they have on top.
    recovery, selection, preemption : float
        Minutes that a failure stops the job, and more when no server of the pool is free: to choose one anew, to get a
        spare.
    auto, manual, escalates, auto_fails, manual_fails : float
        Minutes of repairs, the share that goes on to a manual one, and the shares of each that leave a server as it
        was.
    undiagnosed : float
        Share of the failures after which a server is a standby at once, as it was.
    days : float
        Work of the job. Servers fail only while it runs.
    """

    servers: float = 4096
    standbys: float = 16
    pool: float
    spares: float = 200
    rate: float
    bad: float
    multiple: float
    recovery: float
    selection: float = 3
    preemption: float = 20
    auto: float = 120
    manual: float = 2880
    escalates: float = 0.8
    auto_fails: float
    manual_fails: float
    undiagnosed: float = 0.0
    days: float


@dataclass
class ShopRun:
    """Failures of a job: when they are, for how long servers are missing, and what was counted."""

    times_s: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    end_s: float = 0.0
    counts: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("systematic", "selections", "preemptions", "escalated", "failed"), 0.0)
    )


def run_shop(shop: RepairShop, seed: int) -> ShopRun:
    """Draw the failures of a job until its work is done.

    The standby that has waited longest takes over, and a free server of the pool becomes one for nothing. Repaired
    servers go to the pool. All times are exponential.

    Raises
    ------
    SpecError
        When the pool is smaller than the job, or there are too many failures to replay.
    """
    if shop.pool < shop.servers + shop.standbys:
        raise SpecError(f"`pool` {shop.pool:g}: give as many as the job and its standbys have, or more")
    rng, run = Random(seed), ShopRun()
    bad = [rng.random() < shop.bad for _ in range(int(shop.pool + shop.spares))]
    order = rng.sample(range(int(shop.pool)), int(shop.pool))
    running, free = order[: int(shop.servers)], order[int(shop.servers) :]
    standbys: list[int] = []
    spares = list(range(int(shop.pool), len(bad)))
    repairs: list[tuple[float, int]] = []
    num_bad, now_s, left_s = sum(bad[server] for server in running), 0.0, shop.days * DAY_S

    def take_back(until_s: float) -> None:
        while repairs and repairs[0][0] <= until_s:
            free.append(heapq.heappop(repairs)[1])
        while free and len(standbys) < shop.standbys:
            standbys.append(free.pop(rng.randrange(len(free))))

    while True:
        rates = len(running) * shop.rate / DAY_S, num_bad * shop.multiple * shop.rate / DAY_S
        gap_s = rng.expovariate(sum(rates))
        if gap_s >= left_s:
            run.end_s = now_s + left_s
            return run
        now_s, left_s = now_s + gap_s, left_s - gap_s
        take_back(now_s)
        systematic = rng.random() < rates[1] / sum(rates)
        place = rng.randrange(len(running))
        while systematic and not bad[running[place]]:
            place = rng.randrange(len(running))
        failed = running[place]
        num_bad -= bad[failed]
        run.counts["systematic"] += systematic
        if rng.random() < shop.undiagnosed:
            standbys.append(failed)
        else:
            manually = rng.random() < shop.escalates
            stages = (shop.auto, shop.manual) if manually else (shop.auto,)
            repair_s = MINUTE_S * sum(rng.expovariate(1 / minutes) for minutes in stages)
            heapq.heappush(repairs, (now_s + repair_s, failed))
            fails = rng.random() < (shop.manual_fails if manually else shop.auto_fails)
            bad[failed] = bad[failed] and fails
            run.counts["escalated"] += manually
            run.counts["failed"] += fails
        wait_s = 0.0
        if not standbys:
            run.counts["selections"] += 1
            wait_s += MINUTE_S * shop.selection
            take_back(now_s + wait_s)
            if not standbys:
                if not spares:
                    raise SpecError("`spares`: none is left; give more")
                run.counts["preemptions"] += 1
                wait_s += MINUTE_S * shop.preemption
                standbys.append(spares.pop())
        running[place] = standbys.pop(0)
        num_bad += bad[running[place]]
        run.times_s.append(now_s)
        run.waits_s.append(wait_s)
        check_size("generated", 0, 1, 2 * len(run.times_s))
        now_s += wait_s + MINUTE_S * shop.recovery
        take_back(now_s)
