"""Runs of every system on random traces against `tests.replay`, a second account of what it does."""

import random
from dataclasses import dataclass
from functools import cache

import msgspec
import numpy as np
import pytest

from lazsim.costmodel.step import CostModel
from lazsim.engine.nodes import Spares
from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems import SYSTEMS
from lazsim.placement.grid import Grid
from tests.jobs import EvenLoads, costs, trace
from tests.replay import RULES, Job, Replay

NUM_TRACES = 40

plain_costs = cache(costs)


@dataclass(frozen=True)
class GridCosts(CostModel):
    """Costs of a job with a layer in each stage."""

    stages: int = 1
    shares: int = 1
    micro_batches: int = 4

    @property
    def grid(self):
        return Grid(np.arange(self.stages), num_stages=self.stages, unit_nodes=self.shares)

    def num_micro_batches(self, num_nodes):
        return self.micro_batches


def grid_costs(job):
    """Return the costs of a job of two experts a node, with a host link that takes a copy in its `copy_s`."""
    plain = plain_costs(job.step_s)
    model = msgspec.structs.replace(
        plain.model, num_experts=2 * job.shares, num_layers=job.stages, num_moe_layers=job.stages
    )
    # A GPU of the dense part of a stage has a share of its experts, too.
    dense, experts = state_bytes(model)
    link = (dense + experts / job.shares) / (job.stages * plain.cluster.gpus_per_node * job.copy_s)
    host = msgspec.structs.replace(plain.cluster.host, link_bytes_per_s=link)
    cluster = msgspec.structs.replace(plain.cluster, num_nodes=2 * job.stages * job.shares, host=host)
    rest = plain.job, plain.constants, plain.compute, plain.communication
    return GridCosts(model, cluster, *rest, stages=job.stages, shares=job.shares, micro_batches=job.micro_batches)


def state_bytes(model):
    return 14 * model.dense_params, model.num_moe_layers * model.num_experts * model.expert_state_bytes


@cache
def lazarus_plan(num_nodes):
    """Return the experts, by layer, on each of some nodes: the plan is an input here."""
    holds_LEN = SYSTEMS["lazarus"].plan_evenly(plain_costs(), num_nodes).holds_LEN
    return [set(zip(*np.nonzero(holds_LEN[:, :, node]), strict=True)) for node in range(num_nodes)]


def random_job(rng, system):
    grids = [
        (2, 1),
        (3, 3),
        (2, 2),
        (3, 1),
        (4, 2),
        *[(1, 1), (1, 2), (1, 3)] * (system not in ("bamboo", "moevement")),
    ]
    stages, shares = (1, 2) if system == "lazarus" else rng.choice(grids)
    replica = stages * shares
    job = Job(
        step_s=rng.choice([2.0, 2.0, 0.75, 21.0]),
        stages=stages,
        shares=shares,
        micro_batches=rng.choice([1, 4, 9]),
        copy_s=rng.choice([0.5, 3.0, 8.0]),
        expert_share=0.0,
        interval_steps=rng.choice([0, 1, 7, 40, 10**6]),
        most_in_service=rng.choice([None, None, replica, 2 * replica, 2 * replica + 1]),
        spare_start_s=rng.choice([0.0, 7.3, 61.7, 400.2]),
        placement=lazarus_plan if system == "lazarus" else None,
    )
    dense, experts = state_bytes(grid_costs(job).model)
    return job._replace(expert_share=experts / (job.shares * dense + experts))


def random_trace(rng, replica, many=1):
    """Return the first nodes, instants at which nodes go and come, some of them again, and the end."""
    count = int(rng.choice([0, 0.9, 1, 1.4, 2, 2.3, 3, 4, 7]) * replica)
    if rng.random() < 0.03:
        count = 90 // replica * replica
    names = [f"n{number}" for number in range(100 + count)]
    initial, unseen, alive, gone = names[:count], names[count:], names[:count], []
    now, events = 0.0, []
    gaps = rng.choice([[0.3, 5, 12, 40, 130, 300], [0.3, 2, 5, 12], [40, 130, 300, 900]])
    for _ in range(rng.randint(1, 12 * many)):
        now += rng.choice(gaps) * (0.5 + rng.random())
        removed, added = [], []
        if alive and rng.random() < 0.65:
            most = rng.choice([1, 1, 1, 2, 3, replica // 2, replica, replica + replica // 2, 1000])
            removed = rng.sample(alive, min(len(alive), most))
            # Some are back at once, without what they held.
            added = [node for node in removed if rng.random() < 0.1]
        if not removed or rng.random() < 0.2:
            for _ in range(rng.choice([1, 1, 2, replica])):
                back = [node for node in gone if node not in added]
                added.append(rng.choice(back) if back and rng.random() < 0.3 else unseen.pop())
        alive = [node for node in alive if node not in removed] + added
        gone = [node for node in [*gone, *removed] if node not in added]
        events.append((now, removed, added))
        if len(unseen) < replica or len(alive) > max(count, 5 * replica):
            break
    return initial, events, now + rng.choice([0.4, 20, 50, 300, 777]) * (0.5 + rng.random())


def both(system, seed):
    """Return what the engine and the second account say of a random trace, and its inputs."""
    rng = random.Random(f"{system} {seed}")
    job = random_job(rng, system)
    initial, events, end_s = random_trace(rng, job.stages * job.shares)
    changes = [(0, "add", " ".join(initial))]
    for time_s, removed, added in events:
        changes += [(time_s, "remove", " ".join(removed)), (time_s, "add", " ".join(added))]
    result = simulate_system(
        trace(*changes, duration_s=end_s + 1),
        SYSTEMS[system],
        plain_costs(job.step_s) if job.placement else grid_costs(job),
        EvenLoads(2, 4) if job.placement else EvenLoads(job.stages, 2 * job.shares),
        end_s,
        interval_steps=job.interval_steps,
        spares=Spares(job.most_in_service, job.spare_start_s),
    )
    samples, ledger_s, counts = Replay(system, job, initial, events, end_s).run()
    engine = {"samples": result.samples, **result.ledger_s, **result.counts}
    replayed = {"samples": samples, **ledger_s, **counts}
    return engine, {key: replayed.get(key, 0) for key in engine}, (job, initial, events, end_s)


def test_there_is_a_second_account_of_every_system():
    assert set(RULES) == set(SYSTEMS)


@pytest.mark.parametrize("system", RULES)
def test_a_run_keeps_the_samples_and_spends_the_seconds_of_the_second_account(system):
    for seed in range(NUM_TRACES):
        engine, replayed, inputs = both(system, seed)
        assert engine == pytest.approx(replayed, abs=1e-6), (seed, *inputs)
