"""Runs of every system on random traces against `tests.replay`, a second account of what it does."""

import random
import re
from dataclasses import replace
from functools import cache

import msgspec
import numpy as np
import pytest

from lazsim.engine.nodes import Spares
from lazsim.engine.planner import Planner
from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems import SYSTEMS
from lazsim.scenario import resolve
from tests.jobs import RESTART_S, SAVE_S, EvenLoads, RandomLoads, StagedCosts, costs, trace
from tests.replay import RULES, Job, Replay
from tests.replay_costs import Constant, Layout

NUM_TRACES, NUM_LAYOUT_TRACES = 40, 15

REBALANCE_STEPS = 30

plain_costs = cache(costs)


def grid_costs(grid, seconds, micro_batches, node_s):
    """Return the costs of a job of two experts a node, with a host link that takes a node's state in `node_s`.

    Beside, return the part of that state that is experts.
    """
    plain, (stages, shares) = plain_costs(seconds), grid
    model = msgspec.structs.replace(plain.model, num_experts=2 * shares, num_layers=stages, num_moe_layers=stages)
    # A GPU of the dense part of a stage has a share of its experts, too.
    dense, experts = (
        14 * model.dense_params,
        model.num_moe_layers * model.num_experts * model.expert_state_bytes / shares,
    )
    link = (dense + experts) / (stages * plain.cluster.gpus_per_node * node_s)
    host = msgspec.structs.replace(plain.cluster.host, link_bytes_per_s=link)
    cluster = msgspec.structs.replace(plain.cluster, num_nodes=2 * stages * shares, host=host)
    rest = plain.job, plain.constants, plain.communication, plain.compute
    costs = StagedCosts(model, cluster, *rest, stages=stages, stage_nodes=shares, micro_batches=micro_batches)
    return costs, experts / (dense + experts)


@cache
def lazarus_plan(num_nodes, step):
    """Return the experts, by layer, on each of some nodes that were placed at a step: the plan is an input here."""
    holds_LEN = Planner(SYSTEMS["lazarus"], plain_costs(), RandomLoads(2, 4)).plan(num_nodes, step).holds_LEN
    return [set(zip(*np.nonzero(holds_LEN[:, :, node]), strict=True)) for node in range(num_nodes)]


def random_constant(rng, system):
    """Return the costs of a job with constant times, by the engine and by the second account, and its grid."""
    grids = [
        (2, 1),
        (3, 3),
        (2, 2),
        (3, 1),
        (4, 2),
        *[(1, 1), (1, 2), (1, 3)] * (system not in ("bamboo", "moevement")),
    ]
    grid = (1, 2) if system == "lazarus" else rng.choice(grids)
    seconds, micro_batches, node_s = (
        rng.choice([2.0, 2.0, 0.75, 21.0]),
        rng.choice([1, 4, 9]),
        rng.choice([0.5, 3.0, 8.0]),
    )
    costs, expert_share = grid_costs(grid, seconds, micro_batches, node_s)
    if system == "lazarus":
        costs = plain_costs(seconds, rebalance_interval_steps=REBALANCE_STEPS)
    placement = lazarus_plan if system == "lazarus" else None
    return costs, Constant(*grid, seconds, micro_batches, node_s, expert_share, placement), grid


LAYOUTS = [
    # GPUs of a node, tensor, context and expert ranks, experts, blocks of each part, parts of a stage, sharding,
    # optimizer.
    (2, 2, 1, 4, 8, "Edtt|tttmL", 1, "optimizer", "adam"),
    (2, 1, 1, 2, 4, "Edt|tttt|tL", 1, "full", "muon"),
    (4, 8, 1, 8, 8, "EttttL", 1, "optimizer", "adam"),
    (2, 1, 1, 8, 8, "EdttmL", 1, "optimizer", "muon"),
    (2, 4, 2, 4, 8, "Et|tttL", 1, "none", "adam"),
    (8, 1, 1, 4, 8, "Edt|tL", 1, "optimizer", "adam"),
    (1, 1, 1, 4, 4, "Ett|ttL", 1, "full", "adam"),
    (2, 4, 1, 8, 16, "Edd|tt|tt|tmL", 1, "optimizer", "adam"),
    (2, 2, 1, 4, 8, "Ed|tt|t|tttmL", 2, "optimizer", "adam"),
    (1, 2, 1, 2, 4, "Edt|tt|t|mL", 2, "full", "adam"),
    (2, 16, 1, 4, 8, "Ettt|ttmL", 1, "optimizer", "adam"),
    # Every node has all experts of its stage, and half of its matrices: these may be lost alone.
    (1, 2, 1, 1, 4, "EttttL", 1, "optimizer", "adam"),
    (1, 2, 1, 1, 4, "Edt|ttL", 1, "optimizer", "adam"),
    # Fed from both ends.
    (2, 1, 1, 4, 8, "Ed|tt|tt|tmL", "dualpipe", "optimizer", "adam"),
    (2, 8, 1, 2, 8, "Edt|tttL", "dualpipe", "full", "adam"),
]
"""Small models whose dense layers, which come first, are in the first stages."""


@cache
def layout_costs(system, layout, network, nodes_per_server):
    """Return the costs of DeepSeek-V2-Lite with fewer layers and experts."""
    gpus, tensor, context, expert, experts, blocks, virtual, sharding, optimizer = layout
    layers = [blocks.count(one) for one in "dtm"]
    is_dual = virtual == "dualpipe"
    pipeline, unit = blocks.count("|") + 1, int(np.lcm(tensor * context, expert)) // gpus or 1
    pipeline, virtual = (pipeline, 1) if is_dual else (pipeline // virtual, virtual)
    settings = {
        "model": "deepseek-v2-lite", "cluster": "dgx-h100", "job": "deepseek-v3", "system": system,
        "model.num_layers": layers[0] + layers[1], "model.num_moe_layers": layers[1], "model.num_mtp_layers": layers[2],
        "model.num_experts": experts, "model.top_k": 2, "cluster.gpus_per_node": gpus,
        "cluster.num_nodes": 2 * pipeline * unit, "cluster.nodes_per_server": nodes_per_server,
        "cluster.network.nic_bytes_per_s": network,
        "cluster.network.storage_bytes_per_s": 3e9, "cluster.host.link_bytes_per_s": 1e9,
        "cluster.recovery.restart_base_s": RESTART_S - SAVE_S, "cluster.recovery.connect_s": 0.3,
        "job.parallel.stages": re.sub("[dt]", "t", blocks), "job.parallel.virtual_stages": virtual,
        "job.parallel.schedule": "dualpipe" if is_dual else "1f1b",
        "job.parallel.global_batch": 96, "job.parallel.precision": "bf16", "job.parallel.recompute": "none",
        "job.parallel.recomputed": (), "job.parallel.overlap_expert": False, "job.parallel.dispatcher": "all_to_all",
        "job.parallel.tensor": tensor, "job.parallel.context": context, "job.parallel.expert": expert,
        "job.parallel.pipeline": pipeline, "job.parallel.sharding": sharding, "job.parallel.optimizer": optimizer,
    }  # fmt: skip
    costs = resolve(settings).costs()
    own = Layout(system, costs, blocks)
    return costs, own, (own.stages, unit * own.ends)


def random_layout(rng, system):
    """Return the costs of a job with a layout, by the engine and by the second account, and its grid."""
    layout, network = rng.choice(LAYOUTS), rng.choice([2e9, 2e8])
    found = layout_costs(system, layout, network, rng.choice([1, 2, 3]))
    needs_stages = system in ("bamboo", "moevement")
    return random_layout(rng, system) if needs_stages and found[1].stages == 1 else found


def random_job(rng, system, grid, own):
    replica = grid[0] * grid[1]
    unit = fewest = 0
    if system == "lazarus":
        unit, fewest = (1, 2) if isinstance(own, Constant) else own.elastic_nodes
    # Plans under flexible dispatch are an input.
    choices = {} if unit else dict(SYSTEMS[system].choices())
    if SYSTEMS[system].regroups_joins:
        choices["regroups_joins"] = True, False
    return Job(
        *grid,
        interval_steps=rng.choice([0, 1, 7, 40, 10**6]),
        most_in_service=rng.choice([None, None, replica, 2 * replica, 2 * replica + 1]),
        spare_start_s=rng.choice([0.0, 7.3, 61.7, 400.2]),
        costs=own,
        unit=unit,
        fewest=fewest,
        rebalance_steps=REBALANCE_STEPS if isinstance(own, Constant) and own.placement else 0,
        setting={name: rng.choice(values) for name, values in choices.items()},
    )


def random_trace(rng, replica):
    """Return the first nodes, instants at which nodes go and come, some of them again, and the end."""
    count = int(rng.choice([0, 0.9, 1, 1.4, 2, 2.3, 3, 4, 7]) * replica)
    if rng.random() < 0.03:
        count = 90 // replica * replica
    names = [f"n{number}" for number in range(100 + count)]
    initial, unseen, alive, gone = names[:count], names[count:], names[:count], []
    now, events = 0.0, []
    gaps = rng.choice([[0.3, 5, 12, 40, 130, 300], [0.3, 2, 5, 12], [40, 130, 300, 900]])
    for _ in range(rng.randint(1, 12)):
        now += rng.choice(gaps) * (0.5 + rng.random())
        removed, added = [], []
        if alive and rng.random() < 0.65:
            most = rng.choice([1, 1, 1, 2, 3, replica // 2, replica, replica + replica // 2, 1000])
            removed = rng.sample(alive, min(len(alive), most))
            # Some are back at once, without what they held.
            added = [node for node in removed if rng.random() < 0.1]
        if not removed or rng.random() < 0.2:
            for _ in range(rng.choice([1, 1, 2, replica, 2 * replica])):
                back = [node for node in gone if node not in added]
                added.append(rng.choice(back) if back and rng.random() < 0.3 else unseen.pop())
        alive = [node for node in alive if node not in removed] + added
        gone = [node for node in [*gone, *removed] if node not in added]
        events.append((now, removed, added))
        if len(unseen) < 2 * replica or len(alive) > max(count, 5 * replica):
            break
    return initial, events, now + rng.choice([0.4, 20, 50, 300, 777]) * (0.5 + rng.random())


def to_seconds(rng, events):
    """Let nodes go and come at whole seconds, at which steps, saves, recoveries and waits for nodes end."""
    every, whole, now = rng.choice([1, 5, 10, 30]), [], 0
    for time_s, removed, added in events:
        now = max(now + every, round(time_s / every) * every)
        whole.append((float(now), removed, added))
    return whole


def both(system, seed, random_costs, shift=lambda rng, events: events):
    """Return what the engine and the second account say of a random trace, and its inputs."""
    rng = random.Random(f"{system} {seed}")
    costs, own, grid = random_costs(rng, system)
    job = random_job(rng, system, grid, own)
    initial, events, end_s = random_trace(rng, job.stages * job.shares)
    if shift is to_seconds:
        # Spares start as steps and saves end, also where they were called before these began.
        job = job._replace(spare_start_s=float(round(job.spare_start_s)))
    events = shift(rng, events)
    end_s = max([end_s, *(time_s + 0.3 for time_s, _, _ in events)])
    changes = [(0, "add", " ".join(initial))]
    for time_s, removed, added in events:
        changes += [(time_s, "remove", " ".join(removed)), (time_s, "add", " ".join(added))]
    result = simulate_system(
        trace(*changes, duration_s=end_s + 1),
        replace(SYSTEMS[system], **job.setting),
        costs,
        (RandomLoads if job.rebalance_steps else EvenLoads)(costs.model.num_moe_layers, costs.model.num_experts),
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
        engine, replayed, inputs = both(system, seed, random_constant)
        assert engine == pytest.approx(replayed, abs=1e-6), (seed, *inputs)


@pytest.mark.parametrize("system", RULES)
def test_a_run_of_a_layout_keeps_the_samples_and_spends_the_seconds_of_its_gpus_one_by_one(system):
    for seed in range(NUM_LAYOUT_TRACES):
        engine, replayed, inputs = both(system, seed, random_layout)
        assert engine == pytest.approx(replayed, abs=1e-6), (seed, *inputs)


@pytest.mark.parametrize("system", RULES)
def test_what_ends_when_nodes_go_has_ended_and_what_begins_when_nodes_come_has_them(system):
    for seed in range(NUM_TRACES):
        engine, replayed, inputs = both(system, seed, random_constant, to_seconds)
        assert engine == pytest.approx(replayed, abs=1e-6), (seed, *inputs)
