"""What follows from the plans of a run: from each of them, or from some that stand for others."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from lazsim.engine.held import Held, Planned
from lazsim.engine.nodes import Nodes
from lazsim.engine.planner import Planner
from lazsim.engine.protocol import Decision
from lazsim.engine.reconfiguration import bind_nodes
from lazsim.engine.sampled_steps import SampledPlan, StepTimers
from lazsim.engine.sampling import Compute, FoundT, Sampler, nearly, window_s
from lazsim.engine.step_timer import LOAD_SAMPLE_STEPS, StepTimer, scaled
from lazsim.engine.systems.system import System
from lazsim.placement.plan import Ints, PlacementPlan, with_lost_experts


class Moved(NamedTuple):
    """States of experts that nodes get, the bytes of all states, and the seconds that this takes."""

    experts: int
    num_bytes: float
    seconds: float


NO_MOVE = Moved(0, 0.0, 0.0)


class Plans:
    """The plans of a run on its `nodes`, and what follows from them.

    `planning` is one of `lazsim.engine.sampling.PLANNINGS`, for a run of `wall_s` of which `now_s` returns what has
    passed. The plans are kept for scores where it `keeps_plans`.
    """

    def __init__(
        self,
        system: System,
        planner: Planner,
        nodes: Nodes,
        planning: str,
        wall_s: float,
        now_s: Callable[[], float],
        *,
        keeps_plans: bool,
    ) -> None:
        costs = self._costs = planner.costs
        self._system, self._planner, self._nodes = system, planner, nodes
        self.usable_nodes = planner.usable_nodes
        self._has_domains = system.uses_domains(costs)
        if (costs.cluster.nodes_per_server > 1 and system.is_elastic) or (self._has_domains and keeps_plans):
            # Which parts of a plan share a server follows from every plan before it, and a plan whose reliability is
            # asked for is one for the very domains of its nodes.
            planning = "exact"
        if planner.loads_are_even and not system.is_elastic:
            # Neither plans nor steps change.
            planning = "exact"
        self._plans_stay = not system.is_elastic or (planner.loads_are_even and not self._has_domains)
        self.rebalance_interval_steps = 0 if planner.loads_are_even else costs.job.rebalance_interval_steps
        window_steps = costs.job.rebalance_interval_steps if system.is_elastic else LOAD_SAMPLE_STEPS
        self.window_steps = 0 if planning == "exact" and planner.loads_are_even else window_steps
        self.sampler = Sampler(planning, window_steps, wall_s, now_s)
        self._timers = StepTimers(self.sampler, planner.make_timer, keeps_plans=keeps_plans)

    def planned(self, nodes: Sequence[str], step: int) -> Planned:
        """Return the plan of a step for these nodes, yet to be made."""
        domains = self._domains(nodes)
        sizes = tuple(sorted(Counter(domains).values())) if domains else ()
        doubled_stages = self._costs.grid.num_stages if self._system.doubles_stages else 0
        num_seats = self._system.num_seats(self._costs, len(nodes))
        return Planned(num_seats, step, partial(self._planner.plan, domains=domains), sizes, doubled_stages)

    def seated(self, nodes: Sequence[str], planned: Planned) -> Held:
        """Return nodes in their seats of a plan: of whole model replicas first where it has more."""
        if len(nodes) == planned.num_nodes:
            return Held.full(nodes, planned)
        by_replica_N = self._costs.grid.by_replica_N(planned.num_nodes)
        return Held.full(nodes, planned, sorted(by_replica_N[: len(nodes)].tolist()))

    def in_force(self, held: Held) -> PlacementPlan | None:
        """Return the plan that nodes hold, or the one that stands for it; None where that is not kept."""
        point = self._point(held)
        return held.plan if point is None else point.plan

    def fewest_nodes(self, held: Held) -> int:
        """Return the fewest nodes of the plan that any expert is on."""
        return (self._point(held) or _made(held).plan).fewest_nodes

    def is_complete(self, held: Held) -> bool:
        """Tell whether nodes hold every expert, and every part of the dense state."""
        point = self._point(held)
        if point is not None and held.num_seats - len(held.nodes) < point.fewest_nodes:
            return held.has_dense(self._costs.grid)
        return held.is_complete(self._costs.grid)

    def timer(self, held: Held, step: int) -> StepTimer:
        """Return what times steps from one on while every node of the plan is there."""
        made, parts = _made(held), []
        for num_timed, factor in self._timed_seats(held).items():
            # Nodes that are missing are taken to have been where the plan has them.
            servers_N = np.arange(num_timed) // self._costs.cluster.nodes_per_server
            planned = made if num_timed == made.num_nodes else replace(made, num_nodes=num_timed)
            timer = self._timers.make(planned, self._nodes.servers(held.nodes) if held.is_whole else servers_N)
            parts.append((factor, timer))
        timer = parts[0][1] if len(parts) == 1 else scaled(parts)
        self.sampler.consider(step, timer(step).step_s, window_s(self._system, self._costs, held.num_seats))
        return timer

    def samples_per_step(self, held: Held) -> int:
        """Return the samples of the steps that are timed."""
        return self._costs.samples_per_step(min(self._timed_seats(held)))

    def _timed_seats(self, held: Held) -> dict[int, float]:
        return self._system.timed_seats(self._costs, len(held.nodes), held.num_seats)

    def count(self, num_steps: int) -> None:
        """Count steps made that take the seconds asked for last."""
        self._timers.count(num_steps)

    def note_doubt(self, held: Held, decision: Decision[str], rollback_s: float) -> None:
        """Note where it depends on the nodes' parts of the plan, unknown where plans are sampled, what was lost."""
        if not (self.sampler.is_on and self._system.is_elastic and held.made is not None and decision.num_nodes):
            return
        if held.num_seats - len(held.nodes) >= self.fewest_nodes(held):
            restart = replace(decision, source="checkpoint")
            self.sampler.doubted(self._system.restart_s(self._costs, restart, held.made.plan) + rollback_s)

    def restart(self, system: System, decision: Decision[str], planned: Planned) -> Moved:
        """Return what nodes load in a restart under a system as it is by now, and the seconds of all of it."""

        def compute(step: int) -> tuple[float, Moved]:
            plan = planned.at(step).plan
            seconds = system.restart_s(self._costs, decision, plan)
            num_experts = int(plan.num_held_N[taken].sum()) * (1 + system.doubles_stages)
            return seconds, Moved(num_experts, float(system.load_bytes(self._costs, plan)[taken].sum()), seconds)

        taken = list(self.seated(decision.nodes, planned).seats)
        alike = "restart", decision.num_nodes, decision.source
        return self._find(alike, (system, decision), planned, compute)[0]

    def bind(self, held: Held, candidates: tuple[str, ...], num_nodes: int, step: int) -> tuple[Held, Moved]:
        """Plan for some of the candidates; return these in the plan's order with the plan, and what they get."""
        before, after = _made(held), self.planned(candidates[:num_nodes], step)
        num_new, pause_s = len(candidates) - len(held.nodes), self._costs.cluster.recovery.regroup_s
        domains = self._domains(candidates)
        domain_H = None if domains is None else np.array(domains)
        grid, age_steps, server_H = self._costs.grid, after.step - before.step, self._nodes.servers(candidates)

        def compute(step: int) -> tuple[float, tuple[Moved, Ints]]:
            holder = held if step == after.step else replace(held, made=before.at(max(0, step - age_steps)))
            wanted, divides_dense = self.seated(candidates[:num_nodes], after.at(step)), grid.num_dense_parts > 1
            binding = bind_nodes(
                self._costs,
                # Where another plan stands for this one, its survivors may have lost experts that this one's kept.
                with_lost_experts(holder.holds_LEN) if self.sampler.is_on else holder.holds_LEN,
                wanted.holds_LEN,
                num_new=num_new,
                dense_PH=held.dense_PN(grid) if divides_dense else None,
                wants_PN=wanted.dense_PN(grid) if divides_dense else None,
                domain_H=domain_H,
                # Nodes that start a replica together train in it together.
                newcomer_order_N=grid.by_replica_N(num_nodes) if self._system.joins_behind else None,
            )
            seconds = binding.transfer_s(self._costs, server_H)
            moved = Moved(binding.num_states, float(binding.bytes_HH.sum()), seconds)
            return seconds + (pause_s if seconds else 0.0), (moved, binding.chosen_N)

        # The same change of nearly as many nodes. Between plans from the same loads only failed and new nodes fetch;
        # less has changed since a plan that was made after the last rebalance.
        num_lost, num_left_out = held.num_seats - len(held.nodes), len(candidates) - num_nodes
        ages = age_steps == 0, age_steps < self._costs.job.rebalance_interval_steps
        alike = "transfer", nearly(held.num_seats), num_lost, num_new, num_left_out, *ages
        seats, servers = np.array(held.seats, dtype=np.int32).tobytes(), server_H.astype(np.int32).tobytes()
        same = self._system, held.num_seats, seats, num_nodes, servers, self.sampler.is_on
        (moved, chosen_N), is_sampled = self._find(alike, same, after, compute)
        # Where another plan stands for this one, which node takes which part of it is not known.
        nodes = candidates[:num_nodes] if is_sampled else [candidates[index] for index in chosen_N.tolist()]
        return self.seated(nodes, after), moved

    def _find(self, alike: Hashable, same: Hashable, planned: Planned, compute: Compute[FoundT]) -> tuple[FoundT, bool]:
        """Find what follows from plans, and whether it is sampled: where that is on, which takes what is `alike`.

        Where plans do not change, what is the `same` is computed once for all runs.
        """

        def once(step: int) -> tuple[float, FoundT]:
            return self._planner.find(same, planned.num_nodes, lambda: compute(step))

        find = once if self._plans_stay else compute
        if self._system.is_elastic and self.sampler.is_on:
            return self.sampler.find(alike, planned.step, find)
        return find(planned.step)[1], False

    def _point(self, held: Held) -> SampledPlan | None:
        """Return the plan that stands for the one that nodes hold, if another one does."""
        return self._timers.points.get(held.num_seats) if self._system.is_elastic else None

    def _domains(self, nodes: Sequence[str]) -> tuple[int, ...] | None:
        """Return the failure domain of each of these nodes where plans depend on it."""
        return self._nodes.domains(nodes, self._costs.cluster.nodes_per_domain) if self._has_domains else None


def _made(held: Held) -> Planned:
    assert held.made is not None, "some nodes hold states"
    return held.made
