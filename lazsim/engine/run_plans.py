"""The plans of one run: who sits where, how long steps take, and what moves and restarts need."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from lazsim.engine.held import Held, Planned
from lazsim.engine.nodes import Nodes
from lazsim.engine.planner import Planner, uses_domains
from lazsim.engine.protocol import Decision
from lazsim.engine.reconfiguration import bind_nodes
from lazsim.engine.sampling import Sampler
from lazsim.engine.sampling_error import SamplingError
from lazsim.engine.step_timer import LOAD_SAMPLE_STEPS, StepTimer, TimedSteps, scaled
from lazsim.engine.systems.system import System
from lazsim.placement.mapping import distinct_layers
from lazsim.placement.plan import Bools, Ints
from lazsim.reliability import BatchFailures, recovery_prob


class Moved(NamedTuple):
    """States of experts that nodes get, the bytes of all states, and the seconds that this takes."""

    experts: int
    num_bytes: int
    seconds: float


NO_MOVE = Moved(0, 0, 0.0)


class RunPlans:
    """The plans of a run on its `nodes`, and what follows from them.

    `planning` is one of `lazsim.limits.PLANNINGS`, for a run in which nodes change `num_changes` times.
    """

    def __init__(self, system: System, planner: Planner, nodes: Nodes, planning: str, num_changes: int) -> None:
        costs = self._costs = planner.costs
        self._system, self._planner, self._nodes = system, planner, nodes
        self.usable_nodes = planner.usable_nodes
        self.replica_start_s = system.replica_start_s(costs)
        self._has_domains = uses_domains(system, costs)
        self.rebalance_interval_steps = 0 if planner.routing.is_even else costs.job.rebalance_interval_steps
        window_steps = costs.job.rebalance_interval_steps if system.is_elastic else LOAD_SAMPLE_STEPS
        # Where nodes share servers, those to which some come decide over all later steps: no window stands for others.
        depend_on_places = system.is_elastic and costs.cluster.nodes_per_server > 1 and num_changes > 1
        self.sampler = Sampler(
            planning,
            0 if planner.routing.is_even or depend_on_places else window_steps,
            plans_change=system.is_elastic,
            last_step=planner.routing.last_step or -1,
        )
        self.error = SamplingError()

    def planned(self, nodes: Sequence[str], step: int) -> Planned:
        """Return the plan of a step for these nodes, yet to be made."""
        domains, num_seats = self._domains(nodes), self._system.num_seats(self._costs, len(nodes))
        doubled_stages = self._costs.grid.num_stages if self._system.doubles_stages else 0
        make = partial(self._planner.plan, domains=domains)
        return Planned(num_seats, step, make, domains, doubled_stages, self.sampler.stand_in(step))

    def seated(self, nodes: Sequence[str], planned: Planned) -> Held:
        """Return nodes in their seats of a plan: of whole model replicas first where it has more."""
        if len(nodes) == planned.num_nodes:
            return Held.full(nodes, planned)
        by_replica_N = self._costs.grid.by_replica_N(planned.num_nodes)
        return Held.full(nodes, planned, sorted(by_replica_N[: len(nodes)].tolist()))

    def fewest_nodes(self, held: Held) -> int:
        """Return the fewest nodes of the plan that any expert is on."""
        made = _made(held)
        return self._planner.find("fewest nodes", made, lambda: made.plan.fewest_nodes)

    def is_complete(self, held: Held) -> bool:
        """Tell whether nodes hold every expert, and every part of the dense state."""
        # Fewer losses than nodes of any expert take none: on thousands of nodes, to look for each takes long.
        if held.made is not None and held.num_seats - len(held.nodes) < self.fewest_nodes(held):
            return held.has_dense(self._costs.grid)
        return held.is_complete(self._costs.grid)

    def timer(self, held: Held) -> StepTimer:
        """Return what times steps while every node of the plan is there."""
        made, (num_timed, factor, _) = _made(held), self._planner.timed(*held.size)
        # Nodes that are missing are taken to have been where the plan has them.
        servers_N = np.arange(num_timed) // self._costs.cluster.nodes_per_server
        planned = made if num_timed == made.num_nodes else replace(made, num_nodes=num_timed)
        if num_timed == len(held.nodes):
            servers_N = self._nodes.servers(held.nodes)
        return scaled(partial(self.sampler.time, self._timer(planned, servers_N), made.step), factor)

    def _timer(self, planned: Planned, server_N: Ints) -> StepTimer:
        """Return what times steps under a plan: times of windows that stand for others are kept without their plans."""
        make = cache(lambda: self._planner.make_timer(planned.plan, server_N))

        def timer(step: int) -> TimedSteps:
            if not (self._system.is_elastic and self.sampler.is_on):
                return make()(step)
            first = step - step % LOAD_SAMPLE_STEPS
            steps = self._planner.find("times", planned, lambda: make()(first), server_N.tobytes(), first)
            return steps._replace(num_steps=first + LOAD_SAMPLE_STEPS - step)

        return timer

    def samples_per_step(self, held: Held) -> int:
        """Return the samples of the steps that are timed."""
        return self._costs.samples_per_step(self._planner.timed(*held.size).num_seats)

    def note_spent(self, kind: Hashable, step: int, num_times: int, seconds: float) -> None:
        """Note what was done `num_times` at a step, of a kind that takes as long but for its plans and loads."""
        if not self.sampler.stands_alone(step):
            self.error.spend(self.sampler.block(step), kind, num_times, seconds)

    def note_failure(self, held: Held, decision: Decision, since_s: float, interval_s: float) -> None:
        """Note what survivors of a failure decide, which may depend on their parts of a plan that stands for others.

        Training since the last save took `since_s`, and `interval_s` from one save to the next.
        """
        # Copies in memory are of the last steps: runs that go back to these stay as far apart.
        loses = decision.source not in ("peers", "memory")
        lose_prob, restart_s, num_lost = float(loses), 0.0, held.num_seats - len(held.nodes)
        is_in_doubt = self.sampler.is_on and self._system.is_elastic and held.made is not None and decision.num_nodes
        if is_in_doubt and num_lost >= self.fewest_nodes(held):
            made = _made(held)
            losses = BatchFailures(np.array([num_lost]), np.ones(1))
            lose_prob = 1 - recovery_prob(made.holds_LEN, losses).recovery_prob
            restart_s = self._system.restart_s(self._costs, replace(decision, source="checkpoint"), made.plan)
        if lose_prob:
            self.error.fail(lose_prob, since_s, restart_s, interval_s, loses=loses)

    def restart(self, system: System, decision: Decision, planned: Planned) -> Moved:
        """Return what nodes load in a restart under a system as it is by now, and the seconds of all of it."""

        def compute() -> Moved:
            plan, taken = planned.plan, list(self.seated(decision.nodes, planned).seats)
            seconds = system.restart_s(self._costs, decision, plan)
            num_experts = int(plan.num_held_N[taken].sum()) * (1 + system.doubles_stages)
            return Moved(num_experts, round(float(system.load_bytes(self._costs, plan)[taken].sum())), seconds)

        return self._planner.find("restart", planned, compute, system, decision)

    def bind(self, held: Held, candidates: tuple[str, ...], num_nodes: int, step: int) -> tuple[Held, Moved]:
        """Plan for some of the candidates; return these in the plan's order with the plan, and what they get."""
        before, after = _made(held), self.planned(candidates[:num_nodes], step)
        num_new, grid = len(candidates) - len(held.nodes), self._costs.grid
        domains, server_H = self._domains(candidates), self._nodes.servers(candidates)
        if held.is_whole:
            # Nodes come into a block with the plan that they would have in it: less changes from window to window.
            before = replace(before, loads_step=self.sampler.stand_in(before.step, step))
        # From one window to the next, plans change as they do from the one that stands for both.
        next_plan = replace(after, loads_step=before.loads_step + step - before.step)

        def compute() -> tuple[Moved, Ints]:
            wanted, divides_dense = self.seated(candidates[:num_nodes], after), grid.num_dense_parts > 1
            first_L, times_L = distinct_layers(before.holds_LEN, next_plan.holds_LEN)
            binding = bind_nodes(
                self._costs,
                _some_of(before.holds_LEN, first_L, held.seats),
                _some_of(next_plan.holds_LEN, first_L, wanted.seats),
                num_new=num_new,
                dense_PH=held.dense_PN(grid) if divides_dense else None,
                wants_PN=wanted.dense_PN(grid) if divides_dense else None,
                domain_H=None if domains is None else np.array(domains),
                # Nodes that start a replica together train in it together.
                newcomer_order_N=None if self.replica_start_s is None else grid.by_replica_N(num_nodes),
                times_L=times_L,
            )
            seconds = binding.transfer_s(self._costs, server_H)
            return Moved(binding.num_states, round(float(binding.bytes_HH.sum())), seconds), binding.chosen_N

        # In a block, each loss fetches what the first loss of as many nodes did, unless plans depend on places.
        any_seats = self._system.is_elastic and domains is None and not self.sampler.stands_alone(step)
        seats: Hashable = len(held.seats) if any_seats else np.array(held.seats, dtype=np.int32).tobytes()
        servers = server_H.astype(np.int32).tobytes()
        depends = self._system, self._planner.key(before), domains, seats, num_nodes, servers
        moved, chosen_N = self._planner.find("moves", next_plan, compute, *depends)
        return self.seated([candidates[index] for index in chosen_N.tolist()], after), moved

    def _domains(self, nodes: Sequence[str]) -> tuple[int, ...] | None:
        """Return the failure domain of each of these nodes where plans depend on it."""
        return self._nodes.domains(nodes, self._costs.cluster.nodes_per_domain) if self._has_domains else None


def _some_of(holds_LEN: Bools, layers: Ints, seats: Sequence[int]) -> Bools:
    """Keep some layers and seats only, each in ascending order; where all are kept, nothing is copied."""
    of_layers = holds_LEN if len(layers) == len(holds_LEN) else holds_LEN[layers]
    return of_layers if len(seats) == holds_LEN.shape[2] else of_layers.take(seats, axis=2)


def _made(held: Held) -> Planned:
    assert held.made is not None, "some nodes hold states"
    return held.made
