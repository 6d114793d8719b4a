"""A second account of every strategy, in plain loops over the events of a trace, against which runs are held.

It follows the descriptions (docs/guides/systems.md and the publications named there) and shares no code with the
engine. What nodes hold and what everything takes is in `tests.replay_costs`; nothing is sampled or skipped ahead.
"""

import bisect
import copy
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from tests.jobs import DETECT_S, JOIN_WAIT_S, REBUILD_S, REGROUP_S, RESTART_S, SAVE_S

QUORUM_S, SHRINK_S, STALL_S = 1.0, 0.2, 180.0
"""Gloo under 1 s (torchft); 0.1 s, and 0.1 s of the controller (SPARe); 3 min (FT-HSDP)."""


PUBLISHED = {
    "restarts_for_joins": True, "regroups_joins": True,
    "num_copies": 2, "num_peers": 2, "num_turns": 16, "num_stacks": 0,
}  # fmt: skip
"""What a search for the best setting changes, or a job (`regrouped_joins`)."""


class Job(NamedTuple):
    """What a strategy is given. Seats of a plan are numbered by stage, then by replica, then by share of the experts.

    Nodes beyond `most_in_service` stand by; a spare that is called takes `spare_start_s`.
    """

    stages: int
    shares: int
    interval_steps: int
    most_in_service: int | None
    spare_start_s: float
    costs: object  # Of `tests.replay_costs`.
    unit: int = 0  # Under flexible dispatch a multiple of these nodes is used, from `fewest` on; else whole replicas.
    fewest: int = 0
    rebalance_steps: int = 0  # Steps between plans anew; 0 where loads do not change.
    setting: Mapping[str, int] = PUBLISHED


class FailedError(Exception):
    """A node that takes part has failed."""


class EndedError(Exception):
    """The time is up."""


class Replay:
    """One job from the first event to the last. Each activity returns the next one."""

    def __init__(self, system, job, initial, events, end_s):
        self.system, self.rules, self.job, self.end_s = system, RULES[system], job, end_s
        self.setting = PUBLISHED | job.setting
        self.saved_experts = 1 / self.setting["num_turns"] if self.rules.saves_in_turn else 1.0
        self.events = [(time_s, removed, added, ()) for time_s, removed, added in events]
        self.now = self.step_end = 0.0
        self.homes, self.place, self.standby, self.called, self.dropped = {}, {}, [], {}, set()
        self.forming = []  # Replicas that get ready to join beside training; those that are ready are called no more.
        self.collected = None, set()  # When the nodes that are being collected may join, and these nodes.
        self.asked, self.asking = None, set()  # When others asked to join, at the next boundary, and who are left.
        self.seats, self.num_seats, self.planned_step = {}, 0, 0  # Who holds the states, by seat.
        self.steps, self.copied = [], 0  # Samples and seconds of each step kept; the step of the copy gone back to.
        self.last_step_s, self.pipelines = 0.0, {}
        self.saves = [(0, 0.0)]  # Step, and when it is written.
        self.has_started = self.recovering = False
        self.all_saved = 0  # Step from before which no expert has lost anything that another restart could lose.
        self.ledger, self.counts = defaultdict(float), Counter()
        self.change((), initial)
        self.close()

    def run(self):
        """Return the samples kept, the seconds by bucket and the counts."""
        nodes = self.usable(self.alive())
        self.train_on(nodes)
        self.has_started, activity = bool(nodes), self.train if nodes else self.wait
        try:
            while True:
                try:
                    activity = activity()
                except FailedError:
                    # A save in flight is void.
                    self.give_up_save()
                    self.counts["failures"] += 1
                    activity = self.detect
        except EndedError:
            self.give_up_save()
            return sum(samples for samples, _ in self.steps), self.ledger, self.counts

    def give_up_save(self):
        written = [save for save in self.saves if save[1] <= self.now]
        self.counts["checkpoints"] -= len(self.saves) - len(written)
        self.saves = written

    # Time and nodes.

    def spend(self, bucket, seconds, nodes, *, with_last=False):
        """Let time pass, `with_last` with what happens at its end. A failure of one of `nodes` is one of the job."""
        nodes, end = set(nodes), self.now + seconds
        until = min(end, self.end_s)
        # Steps of sevenths of a second add up to whole ones but for rounding.
        if self.events and abs(self.events[0][0] - until) < 1e-9:
            until = self.events[0][0]
        # Who gets ready at the very end of a save joins after it.
        while self.events and (
            self.events[0][0] < until or ((with_last or self.events[0][3]) and self.events[0][0] == until < self.end_s)
        ):
            time_s, removed, added, started = self.events.pop(0)
            self.ledger[bucket] += time_s - self.now
            self.now = time_s
            self.change(removed, added, started)
            if not nodes.isdisjoint(removed):
                self.survivors = nodes - set(removed)
                raise FailedError
        self.ledger[bucket] += until - self.now
        self.now = until
        if end > self.end_s:
            raise EndedError

    def change(self, removed, added, started=()):
        """Let nodes go and come; the oldest spares are called for those that go."""
        for node in removed:
            del self.place[node]
            self.called.pop(node, None)
            self.dropped.discard(node)
        self.standby = [node for node in self.standby if node not in removed]
        self.seats = {seat: node for seat, node in self.seats.items() if node not in removed}
        self.collected[1].difference_update(removed)
        if not self.collected[1]:
            self.collected = None, set()
        self.asking.difference_update(removed)
        self.asked = self.asked if self.asking else None
        called, self.standby = self.standby[: self.room()], self.standby[self.room() :]
        starts_at = self.now + self.job.spare_start_s
        self.called |= dict.fromkeys(called, starts_at)
        if called and self.job.spare_start_s:
            self.events = sorted([*self.events, (starts_at, (), (), called)], key=lambda event: event[0])
        for node in added:
            if not self.room():
                self.standby.append(node)
            else:
                if not self.collected[1]:
                    self.collected = self.now + JOIN_WAIT_S, set()
                self.collected[1].add(node)
            self.place[node] = self.home(node, added)
        for node in [*started, *called]:
            if self.called.get(node) == self.now:
                del self.called[node]
                self.ask([node])
        # Who gets ready with a node that fails forms another replica.
        for replica in [one for one in self.forming if not set(one).isdisjoint(removed)]:
            self.forming.remove(replica)
            self.ask([node for node in replica if self.called.pop(node, None)])

    def home(self, node, added):
        """Return the place of a node, its own again or the lowest of none that is there or comes back."""
        if node not in self.homes:
            there = set(self.place).union(added, *(event[2] for event in self.events))
            taken = {place for other, place in self.homes.items() if other in there}
            self.homes[node] = next(place for place in itertools.count() if place not in taken)
        return self.homes[node]

    def ask(self, nodes):
        """Let nodes join at the next boundary; where all of them go before, the others wait as they would."""
        self.asking.update(nodes)
        self.asked = self.now if self.asking else None

    def room(self):
        most = self.job.most_in_service
        return 10**6 if most is None else max(0, most - (len(self.place) - len(self.standby)))

    def alive(self):
        return sorted(set(self.place) - set(self.standby) - set(self.called), key=self.place.get)

    def usable(self, nodes):
        """Return as many of some nodes as are of use: whole replicas."""
        unit = self.job.unit or self.job.stages * self.job.shares
        most = len(nodes) // unit * unit
        if self.system == "oobleck":
            return nodes if most else []  # Its templates take any number.
        return nodes[:most] if most >= self.job.fewest else []

    def close(self):
        self.asked, self.asking, self.collected = None, set(), (None, set())

    @property
    def due(self):
        return self.collected[0] if self.asked is None else self.asked

    def leave_due(self):
        """Where too few nodes are there by the time that they may join, those still being collected wait for others."""
        until, collected = self.collected
        if self.join_is_due():
            self.close()
            if collected and self.now < until and not self.usable(self.alive()):
                self.collected = until, collected

    def join_is_due(self):
        return self.due is not None and self.due <= self.now

    # What nodes hold.

    def seats_of(self, count):
        """Return the seats that nodes take, and all: under oobleck nodes may fill only a part of the last replica."""
        if self.system != "oobleck":
            return list(range(count)), count
        num_seats = math.ceil(count / self.job.stages / self.job.shares) * self.job.stages * self.job.shares
        filled = sorted(range(num_seats), key=lambda seat: (self.where(seat, num_seats)[0], seat))[:count]
        return sorted(filled), num_seats

    def where(self, seat, num_seats=None):
        """Return replica, stage and share of a seat."""
        stage, rest = divmod(seat, (num_seats or self.num_seats) // self.job.stages)
        return rest // self.job.shares, stage, rest % self.job.shares

    def holds(self, seat, num_seats, step=None):
        """Return the states of a seat: their bytes, and whether they count where seats are matched to nodes.

        They are those of the plan in force, or of one made at a step.
        """
        held = self.job.costs.holds(num_seats, self.planned_step if step is None else step)
        if self.system == "bamboo":
            return merged([held[seat], held[(seat + num_seats // self.job.stages) % num_seats]])
        return held[seat]

    def hold_all(self):
        some, every = (
            merged([self.holds(seat, self.num_seats) for seat in seats])
            for seats in (self.seats, range(self.num_seats))
        )
        return some == every

    def replicas(self):
        return self.num_seats // (self.job.stages * self.job.shares)

    def missing(self):
        return [seat for seat in range(self.num_seats) if seat not in self.seats]

    def gone(self):
        """Count the replicas of each place, a stage and a share, that are missing."""
        return Counter(self.where(seat)[1:] for seat in self.missing())

    def whole(self):
        return set(range(self.replicas())) - {self.where(seat)[0] for seat in self.missing()}

    def train_on(self, nodes, dropped=()):
        seats, self.num_seats = self.seats_of(len(nodes))
        self.seats = dict(zip(seats, nodes, strict=True))
        self.begun = set(self.seats)
        self.planned_step, self.dropped = len(self.steps), set(dropped)

    # Training.

    def step_of(self, count):
        """Return the seconds of a step on seats: on the servers of their nodes, or in a row while some are missing."""
        if count != len(self.seats):
            return self.job.costs.step_s(count)
        servers = [self.place[self.seats[seat]] // self.job.costs.nodes_per_server for seat in sorted(self.seats)]
        number = {server: index for index, server in enumerate(dict.fromkeys(servers))}
        return self.job.costs.step_s(count, tuple(number[server] for server in servers))

    def train(self, *, after_join=False):
        """Do what is due at a step boundary, and make a step."""
        step, interval, every = len(self.steps), self.job.interval_steps, self.job.rebalance_steps
        rebalances = every and step // every > self.planned_step // every
        saves = interval and step // interval > self.saves[-1][0] // interval
        if not after_join and (saves or rebalances or self.join_is_due()):
            # Who comes or goes at this very instant counts.
            self.spend("compute", 0.0, self.seats.values(), with_last=True)
        if not after_join and self.join_is_due():
            self.close()
            if self.rules.joins_behind:
                self.form_behind()
            if self.newcomers(self.ready()):
                return self.join
        if rebalances:
            return self.rebalance
        if saves:
            self.save()
        if self.join_is_due():
            return self.train
        slower, share = self.rules.pace(self) if self.missing() else (1.0, 1.0)
        batch, seconds = self.job.costs.batch(self.num_seats), self.step_of(self.num_seats)
        if self.system == "oobleck":
            batch, seconds = self.divided()
        seconds, begun = seconds * slower, self.now
        self.last_step_s = seconds
        self.step_end = self.now + seconds
        try:
            self.spend("compute", seconds, self.seats.values())
        except FailedError:
            self.lose(self.now - begun)
            raise
        self.steps.append((round(batch * share), seconds))
        return self.train

    def lose(self, seconds):
        self.ledger["compute"] -= seconds
        self.ledger["lost_work"] += seconds

    def save(self, *, waits=False):
        """Save, once the save before is written; a copy ends before the next update, the write goes on beside."""
        costs, num_seats = self.job.costs, self.num_seats
        # Before all stop in order, all is saved.
        experts = 1.0 if waits else self.saved_experts
        stall, write = costs.save_s(num_seats, experts), 0.0
        if self.rules.saves_behind:
            copy, behind = costs.copy_s(num_seats, experts), self.step_of(num_seats)
            stall, write = max(0.0, copy - behind), stall + min(copy, behind)
        before = max(0.0, self.saves[-1][1] - self.now)
        self.spend("checkpoint", before + stall + (write if waits else 0.0), self.seats.values())
        self.saves.append((len(self.steps), self.now + (0.0 if waits else write)))
        self.counts["checkpoints"] += 1
        self.all_saved = len(self.steps) if waits else self.all_saved

    # Failures.

    def detect(self):
        """Wait until the survivors notice; another failure among them starts anew."""
        rest = max(0.0, self.step_end - self.now)
        self.spend("detect", DETECT_S if self.rules.timeout_s is None else rest + self.rules.timeout_s, self.survivors)
        # What follows is tried on a copy.
        tried = copy.deepcopy(self, {id(self.job): self.job})
        if tried.decide() == tried.restart:
            self.wait_for_spares()
        return self.decide()

    def wait_for_spares(self):
        """Wait for spares on their way that a restart could use, unless to stop once more for them takes less."""
        getting_ready = set(itertools.chain(*self.forming))
        for node in getting_ready:
            self.called.pop(node, None)
        self.forming = []
        by_restart = self.rules.join is Replay.join_by_restart or not self.setting["regroups_joins"]
        until = self.now + (RESTART_S - SAVE_S if by_restart else self.rules.rebuild_s)
        coming = {node: at_s for node, at_s in self.called.items() if at_s <= until}
        if len(self.usable([*self.alive(), *coming])) > len(self.usable(self.alive())):
            self.spend("waiting", max(coming.values()) - self.now, self.survivors)

    def decide(self):
        """Go on as the strategy can; else restart from the last save that is written."""
        activity = self.rules.recover(self) if self.num_seats else None
        self.recovering = False
        if activity is None:
            self.go_back(self.saves[-1][0])
            self.copied = 0
            for node in itertools.chain(*self.forming):
                self.called.pop(node, None)
            self.forming = []
            self.train_on([])
            activity = self.restart_or_wait()
        return activity

    def restart_or_wait(self):
        return self.restart if self.usable(self.alive()) else self.wait

    def go_back(self, step):
        lost, self.steps = self.steps[step:], self.steps[:step]
        self.lose(sum(seconds for _, seconds in lost))
        self.counts["lost_steps"] += len(lost)

    def wait(self):
        """Wait for enough nodes, and for those that are being collected."""
        self.leave_due()
        while not self.usable(self.alive()) or self.due is not None:
            next_s = min([event[0] for event in self.events[:1]] + [self.due or math.inf], default=math.inf)
            self.spend("waiting", next_s - self.now, self.seats.values(), with_last=True)
            self.leave_due()
        return self.decide()

    def restart(self):
        """Start anew on all nodes that are of use, with the states from memory, from storage or initial ones."""
        nodes = self.usable(self.alive())
        self.dropped = set()
        self.close()
        seats, num_seats = self.seats_of(len(nodes))
        load_s = self.job.costs.load_s(num_seats, seats) if self.steps else 0.0
        if self.copied and self.copied == len(self.steps):
            load_s = self.job.costs.recall_s(len(nodes), self.num_seats, self.further_shares())
        self.spend("restart", RESTART_S - SAVE_S + load_s, nodes)
        self.train_on(nodes)
        self.counts["restarts"] += self.has_started
        self.has_started, self.all_saved = True, len(self.steps)
        return self.train

    def from_memory(self):
        """Gemini: all go back to the last copy but one, if a node is left that keeps the share of each."""
        # A copy goes through a network that is idle for half a step.
        others = min(self.setting["num_copies"], self.num_seats) - 1
        exchange_s = self.job.costs.exchange_s(self.num_seats, others)
        lag = math.ceil(exchange_s / (0.5 * self.last_step_s)) if self.last_step_s else 1
        copy = max(self.copied, (len(self.steps) // lag - 1) * lag)
        if copy <= self.saves[-1][0] or not all(map(self.keepers, range(self.num_seats))):
            return None
        self.go_back(copy)
        self.copied = copy
        return self.restart_or_wait()

    def keepers(self, seat):
        """Return who is left of those that keep the share of a seat: its group, in the last, larger one a ring."""
        size = min(self.setting["num_copies"], self.num_seats)
        groups = [list(range(first, first + size)) for first in range(0, self.num_seats - size + 1, size)]
        groups[-1] = list(range(groups[-1][0], self.num_seats))
        ring = next(group for group in groups if seat in group)
        return [one for k in range(size) if (one := ring[(ring.index(seat) + k) % len(ring)]) in self.seats]

    def further_shares(self):
        """Count the shares that a node sends for lost ones, which those that keep them divide, beyond its own one."""
        sent = defaultdict(float)
        for seat in range(self.num_seats):
            for one in self.keepers(seat) if seat not in self.seats else ():
                sent[one] += 1 / len(self.keepers(seat))
        return max(0.0, *(shares - 1 for shares in sent.values()), 0.0)

    def replay_stage(self):
        """MoEvement: spares replay a window and the steps since; not if nodes failed while others recovered."""
        job, per_stage, missing = self.job, self.num_seats // self.job.stages, self.missing()
        # In a step, 12 bytes a parameter of some (Muon: 8) and 2 of the others go to the host, of 14 that a node has.
        saved = job.costs.optimizer_bytes
        active = ((saved + 2) * self.last_step_s / job.costs.node_s - 2) / (saved - 2)
        window = max(1, math.ceil(1 / max(active, 1 / 1000)))
        since = len(self.steps) - self.planned_step
        # A node and the next of its stage keep its snapshots; a pipeline needs one of its nodes for the logs.
        copies = self.setting["num_peers"] + 1
        keep = [{seat // per_stage * per_stage + (seat + k) % per_stage for k in range(copies)} for seat in missing]
        kept = (
            all(ring & set(self.seats) for ring in keep) and len({seat % per_stage for seat in self.seats}) == per_stage
        )
        if self.recovering or since < window or not kept:
            return None
        spares = [node for node in self.alive() if node not in self.seats.values()]
        if len(missing) > len(spares):
            return None if self.usable(self.alive()) else self.wait
        replayed_s = (window + since % window) * self.last_step_s
        owners = {seat: ring & set(self.seats) for seat, ring in zip(missing, keep, strict=True)}
        fetched_s = job.costs.window_s(self.num_seats, owners, window)
        phases = {"reconfigure": REBUILD_S, "transfer": fetched_s, "lost_work": replayed_s}
        return lambda: self.go_on(phases, dict(zip(missing, spares, strict=False)))

    def keep_places(self):
        """The nodes left go on in their places, where they can; those that only make a broken replica stand by.

        Else they form anew if they hold every state, as they may where several nodes of a replica have the same. Parts
        of several replicas do not make one where only whole ones go on.
        """
        if self.rules.whole_replicas:
            up, before = self.whole(), self.seats
            self.seats = {seat: node for seat, node in before.items() if self.where(seat)[0] in up}
            self.dropped |= set(before.values()) - set(self.seats.values())
        can = self.seats and self.rules.goes_on(self)
        if can:
            # A pipeline of which no node is left needs nothing.
            up = {self.where(seat)[0] for seat in self.seats}
            phases = self.with_fetch(self.rules.go_on_s, [seat for seat in self.missing() if self.where(seat)[0] in up])
            return lambda: self.go_on(phases, {})
        return None if self.rules.whole_replicas else self.regroup()

    def take_templates(self):
        """Oobleck: pipelines with fewer nodes, each layer in as many of them as there are, from two pipelines on.

        Nodes of further replicas than there are pipelines go to the first free seats of places that lack some, the last
        first.
        """
        size = self.job.stages * self.job.shares
        if len(self.begun) < 2 * size:
            return None
        if not self.has_each_place():
            return self.regroup()
        whole = Counter(self.where(seat)[0] for seat in self.begun)
        # Who belongs to no whole replica is in a pipeline with others. A pipeline that lost all ends.
        goes_on = {self.where(seat)[0] for seat in self.seats} | {one for one in whole if whole[one] < size}
        copied = {seat for seat in self.begun - set(self.seats) if self.where(seat)[0] in goes_on}
        often, places = len(self.seats) // size, itertools.product(range(self.job.stages), range(self.job.shares))
        leave, taken = [], []
        for place in places:
            of_place = [seat for seat in range(self.num_seats) if self.where(seat)[1:] == place]
            there = [seat for seat in of_place if seat in self.seats]
            leave += there[often:]
            taken += [seat for seat in of_place if seat not in self.seats][: max(0, often - len(there))]
        moved = dict(zip(sorted(leave, key=self.where)[::-1], sorted(taken, key=self.where), strict=False))
        seats = {moved.get(seat, seat): node for seat, node in self.seats.items()}
        copied |= set(moved.values())
        phases = {
            "reconfigure": REBUILD_S,
            "transfer": self.job.costs.fetch_s(self.num_seats, sorted(copied), self.seats),
        }

        def activity():
            following = self.go_on(phases, {})
            self.seats = seats
            self.begun = set(seats)
            return following

        return activity

    def with_fetch(self, phases, seats):
        """Return phases with the time in which the states of some seats are fetched, where they are."""
        return {
            name: self.job.costs.fetch_s(self.num_seats, seats, self.seats) if value is FETCHED else value
            for name, value in phases.items()
        }

    def go_on(self, phases, fill):
        """Spend the time until the nodes left, and those that fill places, train on at the same step."""
        self.recovering = True
        for bucket, seconds in phases.items():
            self.spend(bucket, seconds, [*self.seats.values(), *fill.values()])
        self.recovering = False
        self.seats |= fill
        self.begun = set(self.seats)
        self.dropped -= set(fill.values())
        self.counts["reconfigurations"] += 1
        if self.due is None:
            self.ask(self.newcomers(self.alive()))  # Spares take free places at the next boundary.
        return self.train

    def keep_pipelines(self):
        """Bamboo: shadows take over; with more than one node in 40 missing, all form pipelines anew, if they can."""
        usable = self.usable(self.alive())
        if not usable or 2 * len(self.missing()) <= 0.05 * len(self.seats):
            return self.keep_places()
        return self.regroup(usable if len(usable) > len(self.seats) else ())

    def regroup(self, joining=()):
        """Survivors that hold every state form whole groups anew, with those that are `joining`."""
        if self.system == "lazarus":
            # It plans once: with nodes that stand by, as stages could not share them, and spares that are in service.
            with_spares = self.job.most_in_service is not None and self.join_is_due()
            joining = self.usable(self.alive()) if self.due is None or with_spares else ()
        can = self.hold_all() and self.usable(self.with_survivors(joining))
        return (lambda: self.form(joining)) if can else None

    def with_survivors(self, others):
        survivors = [self.seats[seat] for seat in sorted(self.seats)]
        return survivors + [node for node in others if node not in survivors]

    def match(self, joining):
        """Match nodes to seats, the pair that lacks least first; return these, all nodes, and what moves."""
        nodes = self.with_survivors(joining)
        seats, count = self.seats_of(len(self.usable(nodes)))
        held = {node: self.holds(seat, self.num_seats) for seat, node in self.seats.items()}
        planned = {seat: self.holds(seat, count, len(self.steps)) for seat in seats}
        pairs = itertools.product(range(len(nodes)), seats)
        lacks = {
            (i, seat): sum(counts and item not in held.get(nodes[i], {}) for item, (_, counts) in planned[seat].items())
            for i, seat in pairs
        }
        chosen, moves = {}, []
        for i, seat in sorted(lacks, key=lambda pair: (lacks[pair], pair)):
            if seat not in chosen and nodes[i] not in chosen.values():
                chosen[seat] = nodes[i]
                for item, (num_bytes, _) in planned[seat].items():
                    owners = [node for node in held if item in held[node]]
                    if nodes[i] not in owners:
                        moves.append((owners, nodes[i], num_bytes))
        if self.rules.joins_behind:
            # Nodes of a replica started together, and stay together.
            by_replica = sorted(seats, key=lambda seat: self.where(seat, count))
            left = [seat for seat in by_replica if chosen[seat] not in held]
            new = {chosen[seat] for seat in left}
            chosen |= dict(zip(left, (node for node in nodes if node in new), strict=True))
        return [chosen[seat] for seat in seats], nodes, self.job.costs.move_s(moves, self.place)

    def form(self, joining):
        """Make a plan for survivors and newcomers."""
        chosen, nodes, move_s = self.match(joining)
        self.spend("reconfigure", self.rules.rebuild_s, nodes)
        if not self.rules.joins_behind:
            self.spend("transfer", move_s, nodes)
        self.train_on(chosen, (self.dropped | set(self.seats.values())) - set(chosen))
        self.counts["reconfigurations"] += 1
        return self.train

    def rebalance(self):
        """Move to the plan for the loads of now; one that moves nothing takes no time."""
        chosen, nodes, move_s = self.match(())
        if move_s:
            self.spend("rebalance", REGROUP_S + move_s, nodes)
            self.counts["rebalances"] += 1
        self.train_on(chosen, self.dropped)
        return lambda: self.train(after_join=True)

    # Joins.

    def ready(self):
        """Return the nodes that train after a join: not those that have to get ready beside training before."""
        ready = [node for replica in self.forming for node in replica if node not in self.called]
        return self.with_survivors(ready) if self.rules.joins_behind else self.alive()

    def newcomers(self, alive):
        """Return the nodes for which training pauses: those that would come into use."""
        usable, used = self.usable(alive), set(self.seats.values())
        others = [node for node in alive if node not in used]
        if self.rules.keeps_places:
            found = others if len(usable) > self.num_seats else others[: len(self.free_seats(len(others)))]
            # Bamboo is as slow with one shadow as with two.
            return [] if self.system == "bamboo" and len(found) < len(self.missing()) else found
        worth = len(usable) > len(used)
        return [node for node in usable if node not in used] if worth else []

    def free_seats(self, count):
        """Return the places that newcomers take: of whole replicas, or where most are missing first."""
        if self.rules.whole_replicas:
            broken = sorted(set(range(self.replicas())) - self.whole())[: count // (self.job.stages * self.job.shares)]
            broken = [] if self.system == "spare" else broken  # Its groups return with a restart.
            # Nodes of a replica started together, and stay together.
            seats = [seat for seat in range(self.num_seats) if self.where(seat)[0] in broken]
            return sorted(seats, key=lambda seat: (self.where(seat)[0], seat))
        missing, gone, taken = self.missing(), self.gone(), []
        for _ in range(min(count, len(missing))):
            last_of_place = {self.where(seat)[1:]: seat for seat in missing}
            taken.append(min(last_of_place.values(), key=lambda seat: (-gone[self.where(seat)[1:]], seat)))
            missing.remove(taken[-1])
            gone[self.where(taken[-1])[1:]] -= 1
        return sorted(taken)

    def form_behind(self):
        """Each replica fetches its states while the others train, and starts anew before if a part of it was in use."""
        taken, size = {*self.seats.values(), *itertools.chain(*self.forming)}, self.job.stages * self.job.shares
        # First those that need not start anew.
        others = sorted((node for node in self.alive() if node not in taken), key=lambda node: node in self.dropped)
        usable, newcomers = self.usable(self.with_survivors(others)), self.newcomers(self.with_survivors(others))
        if len(usable) > self.num_seats:
            newcomers = [node for node in usable if node not in self.seats.values()]
            copied_s = self.match(usable)[2]
        else:
            copied_s = self.with_fetch(FETCH, self.free_seats(len(newcomers)))["transfer"]
        for first in range(0, len(newcomers), size):
            replica = newcomers[first : first + size]
            started_s = 15.0 + 0.52 * size * self.job.costs.gpus if self.dropped & set(replica) else 0.0
            self.forming.append(replica)
            self.called |= dict.fromkeys(replica, self.now + copied_s + started_s)
            self.events.append((self.now + copied_s + started_s, (), (), replica))
        self.events.sort(key=lambda event: event[0])

    def join(self):
        """Take in the nodes collected; after a failure meanwhile, those left join at the next boundary."""
        try:
            return self.rules.join(self)
        except FailedError:
            self.ask(set(self.alive()) - set(self.seats.values()))
            raise

    def join_by_restart(self):
        """Restart with all, once all is saved and written; those who come meanwhile may change how nodes join."""
        if not self.setting["restarts_for_joins"]:
            return self.train
        step, written_at = self.saves[-1]
        if self.saved_experts < 1:
            # Some experts are in older saves.
            step = self.all_saved
        if step == len(self.steps) and written_at <= self.now:
            self.copied = 0
            self.train_on([])
            return self.restart
        if step < len(self.steps):
            self.save(waits=True)
        else:
            self.spend("checkpoint", written_at - self.now, self.seats.values())
        return self.rules.join(self) if self.newcomers(self.alive()) else self.train

    def join_groups(self):
        """Form anew with the newcomers; nodes that expert parallelism left out before wait for a restart."""
        plain = not self.job.unit
        if not self.setting["regroups_joins"]:
            return self.join_by_restart()
        usable = self.usable([node for node in self.alive() if not plain or node not in self.dropped])
        if plain and len(usable) <= len(self.seats):
            return self.join_by_restart()
        self.form(usable)
        return lambda: self.train(after_join=True)

    def join_places(self):
        """Fill free places; form anew where there are more nodes than places."""
        usable, newcomers = self.usable(self.ready()), self.newcomers(self.ready())
        if len(usable) > self.num_seats:
            self.form(usable)
        else:
            seats = self.free_seats(len(newcomers))
            self.go_on(self.with_fetch(self.rules.join_s, seats), dict(zip(seats, newcomers, strict=True)))
        self.forming = [replica for replica in self.forming if replica[0] not in self.seats.values()]
        return lambda: self.train(after_join=True)

    # While nodes are missing: what a step takes and the share of its samples, and whether the nodes left can go on.

    def rerouted(self):
        """ReCycle: peers take the micro-batches; half of the bubbles of the pipeline take some in."""
        most, bubbles = max(self.gone().values()), self.job.stages - 1
        micro = self.job.costs.micro_batches(self.num_seats)
        extra = max(0.0, micro * most / (self.replicas() - most) - 0.5 * bubbles)
        return (micro + bubbles + extra) / (micro + bubbles), 1.0

    def divided(self):
        """Oobleck: the batch and the step of the fastest pipelines, each of the template that has ended most."""
        count, costs, size = len(self.seats), self.job.costs, self.job.stages * self.job.shares
        if count not in self.pipelines:
            most = count // size
            fewest = min(2, most)
            templates = costs.templates(2 * (math.ceil(costs.even_micro_batches(fewest * size)) + self.job.stages))
            found = []
            for pipelines in range(fewest, most + 1):
                stages = [(count // self.job.shares + number) // pipelines for number in range(pipelines)]
                whole, batch = [self.job.stages] * pipelines, costs.batch(pipelines * size)
                needed = costs.even_micro_batches(pipelines * size) * pipelines
                slower = end_of(templates, stages, needed) / end_of(templates, whole, needed)
                found.append((costs.step_s(pipelines * size) * slower / batch, batch, slower, pipelines * size))
            self.pipelines[count] = min(found, key=lambda one: one[0])[1:]
        batch, slower, seats = self.pipelines[count]
        return batch, self.step_of(seats) * slower

    def stacked(self):
        """SPARe: groups compute as many shards as cover the batch; none where a shard is lost."""
        return fewest_stacks(self.replicas(), frozenset(self.whole()), self.setting["num_stacks"]), 1.0

    def has_each_place(self):
        return max(self.gone().values(), default=0) < self.replicas()

    def has_shadows(self):
        per_stage = self.num_seats // self.job.stages
        return all((seat + per_stage) % self.num_seats in self.seats for seat in self.missing())


def end_of(templates, stages, needed):
    """Return when pipelines of up to some stages each have ended as many micro-batches as are needed."""

    def ended(end):
        of_stages = {
            most: max((number for one, number, other in templates if one <= most and other <= end), default=0)
            for most in set(stages)
        }
        return sum(of_stages[most] for most in stages)

    ends = sorted({end for _, _, end in templates})
    return ends[bisect.bisect_left(ends, needed - 1e-9, key=ended)]


def merged(holdings):
    """Return the states of several nodes together."""
    return {item: what for held in holdings for item, what in held.items()}


@cache
def fewest_stacks(groups, up, stacks):
    """Return the fewest shards a group with which groups can cover all: `g` has the data of `g` to `g + stacks - 1`."""
    stacks = min(stacks or max(1, math.floor(math.log2(groups) + 0.833)), groups)
    has = np.array(
        [[group in up and (shard - group) % groups < stacks for group in range(groups)] for shard in range(groups)]
    )
    for most in range(1, stacks + 1):
        if (maximum_bipartite_matching(csr_array(np.repeat(has, most, axis=1)), "column") >= 0).all():
            return most
    return 0


class Rules(NamedTuple):
    """What tells a strategy from the others; by default all restart from the last save, after a failure or to join.

    A failure is noticed `timeout_s` after the end of the step, or by detection. A save, of experts in turn or all, is
    copied behind a step and written beside training, or training waits for it.
    """

    recover: object = lambda replay: None
    join: object = Replay.join_by_restart
    timeout_s: float | None = None
    saves_behind: bool = False
    saves_in_turn: bool = False
    rebuild_s: float = REBUILD_S
    keeps_places: bool = False
    whole_replicas: bool = False
    goes_on: object = None
    pace: object = None
    go_on_s: object = None
    join_s: object = None
    joins_behind: bool = False


REGROUPS = Rules(recover=Replay.regroup, join=Replay.join_groups)
FETCHED = object()  # The time in which states are fetched.
FETCH, QUORUM = {"reconfigure": REBUILD_S, "transfer": FETCHED}, {"reconfigure": QUORUM_S}
PLACES = Rules(recover=Replay.keep_places, join=Replay.join_places, keeps_places=True, join_s=FETCH)
DROPS = PLACES._replace(
    timeout_s=0.0,
    rebuild_s=QUORUM_S,
    whole_replicas=True,
    goes_on=Replay.whole,
    pace=lambda replay: (1.0, len(replay.whole()) / replay.replicas()),
    go_on_s=QUORUM,
    join_s=QUORUM,
    joins_behind=True,
)
RULES = {
    **dict.fromkeys(("ds", "tutel", "dropless", "checkpoint"), Rules()),
    **dict.fromkeys(("ds-ft", "tutel-ft", "dropless-ft", "lazarus"), REGROUPS),
    "async-checkpoint": Rules(saves_behind=True),
    "moc": Rules(saves_behind=True, saves_in_turn=True),
    "gemini": Rules(recover=Replay.from_memory),
    "moevement": Rules(recover=Replay.replay_stage),
    "replica-drop": DROPS,
    "ft-hsdp": DROPS._replace(timeout_s=STALL_S),
    "oobleck": PLACES._replace(recover=Replay.take_templates, pace=lambda replay: (1.0, 1.0)),
    "recycle": PLACES._replace(goes_on=Replay.has_each_place, pace=Replay.rerouted, go_on_s={"reconfigure": REBUILD_S}),
    "bamboo": PLACES._replace(
        recover=Replay.keep_pipelines, goes_on=Replay.has_shadows, pace=lambda replay: (1.5, 1.0), go_on_s={}
    ),
    "spare": PLACES._replace(
        join=Replay.join_by_restart,
        whole_replicas=True,
        goes_on=lambda replay: replay.stacked()[0],
        pace=Replay.stacked,
        go_on_s={"reconfigure": SHRINK_S},
    ),
}
