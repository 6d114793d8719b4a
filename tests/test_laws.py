"""Laws between runs: what must not matter does not, and what is better for a job never harms it.

A quieter trace may train less: two failures at nearly one time cost as one, a recovery takes in nodes that would wait
for others, and a save comes just in time. Each law here leaves out what makes it so.
"""

import itertools
import random
from dataclasses import replace
from functools import cache, partial

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazsim.engine.interval import interval_steps
from lazsim.engine.nodes import Spares
from lazsim.engine.run_plans import RunPlans
from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems import SYSTEMS
from lazsim.trace import build_trace
from lazsim.trace.generate import generate_trace
from lazsim.trace.recipes import MtbfSpec
from tests.jobs import SAMPLES_PER_NODE, EvenLoads, FixedCommunication, RandomLoads, staged_costs, trace
from tests.test_engine import scenarios
from tests.test_systems import NAMES, NODES, RETURNS

ALL = sorted(SYSTEMS)
SMALL = staged_costs(num_nodes=8, rebalance_interval_steps=50)
LOADS = RandomLoads(2, 4)
plain_costs = cache(staged_costs)


def simulate(events, system, cost_model, duration_s, interval, loads=LOADS):
    return simulate_system(events, SYSTEMS.get(system, system), cost_model, loads, duration_s, interval_steps=interval)


def require_same(run, other):
    assert (run.samples, run.steps, run.counts) == (other.samples, other.steps, other.counts)
    assert dict(run.ledger_s) == pytest.approx(dict(other.ledger_s), abs=1e-6)


@settings(max_examples=60)
@given(scenarios(), st.sampled_from(ALL), st.sampled_from([1, 7, 40]), st.randoms(use_true_random=False))
def test_neither_names_of_nodes_nor_the_order_of_simultaneous_losses_change_a_run(scenario, system, interval, rng):
    events, duration_s = scenario
    names = dict(zip(events.names, rng.sample(range(10**6), len(events.names)), strict=True))
    others = []
    for _, instant in itertools.groupby(events.events(), key=lambda event: event.time_s):
        rows = list(instant)
        # New nodes take places in their order, and a node that also comes back goes before.
        if len({row.node for row in rows}) == len(rows):
            added = iter([row for row in rows if row.kind == "add"])
            rng.shuffle(rows)
            rows = [next(added) if row.kind == "add" else row for row in rows]
        others += [row._replace(node=str(names[row.node])) for row in rows]
    renamed = build_trace(others, duration_s=events.duration_s)
    require_same(*(simulate(one, system, SMALL, duration_s, interval) for one in (events, renamed)))


@settings(max_examples=40)
@given(scenarios(), st.sampled_from(ALL), st.sampled_from([1, 7, 40]), st.floats(0.5, 3000.0))
def test_a_job_that_waits_for_its_first_nodes_only_starts_later(scenario, system, interval, later_s):
    events, duration_s = scenario
    first, second = (
        simulate(
            build_trace(
                [one._replace(time_s=one.time_s + wait_s) for one in events.events() if one.kind != "away"],
                duration_s=events.duration_s + wait_s,
            ),
            system,
            SMALL,
            duration_s + wait_s,
            interval,
        )
        for wait_s in (7.0, 7.0 + later_s)
    )
    assert (first.samples, first.counts) == (second.samples, second.counts)
    assert second.ledger_s["waiting"] - first.ledger_s["waiting"] == pytest.approx(later_s, abs=1e-6)


EXTENSIONS = {
    "a name": (SYSTEMS["checkpoint"], SYSTEMS["dropless"]),
    "the other half of the experts": (replace(SYSTEMS["moc"], num_turns=1), SYSTEMS["async-checkpoint"]),
    "an idle network": (replace(SYSTEMS["gemini"], idle_share=1e-12), SYSTEMS["checkpoint"]),
    "further shards": (replace(SYSTEMS["spare"], num_stacks=1), SYSTEMS["checkpoint"]),
    "a stall": (replace(SYSTEMS["ft-hsdp"], timeout_s=0.0), SYSTEMS["replica-drop"]),
    "peers": (replace(SYSTEMS["moevement"], num_peers=0), SYSTEMS["checkpoint"]),
    "a regroup": (
        replace(SYSTEMS["dropless-ft"], recovers_from_peers=False, regroups_joins=False),
        SYSTEMS["dropless"],
    ),
}
"""Systems without what they add to another, and that other."""


@settings(max_examples=60)
@given(scenarios(), st.sampled_from(sorted(EXTENSIONS)), st.sampled_from([1, 7, 40]))
def test_a_system_without_what_it_adds_to_another_is_that_other(scenario, what, interval):
    events, duration_s = scenario
    require_same(*(simulate(events, system, SMALL, duration_s, interval) for system in EXTENSIONS[what]))


@settings(max_examples=40)
@given(scenarios(), st.sampled_from(["moc", "async-checkpoint"]), st.sampled_from([1, 7, 40]))
def test_steps_made_at_one_go_save_what_steps_made_one_by_one_save(scenario, system, interval):
    events, duration_s = scenario
    at_one_go = simulate(events, system, SMALL, duration_s, interval, EvenLoads(2, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunPlans, "timer", lambda *of: partial(_one_step, timer_of(*of)))
        require_same(at_one_go, simulate(events, system, SMALL, duration_s, interval, EvenLoads(2, 4)))


timer_of = RunPlans.timer


def _one_step(timer, step):
    return timer(step)._replace(num_steps=1)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(1.0, 900.0), st.sampled_from(NODES)), min_size=1, max_size=5, unique_by=lambda x: x[1]
    ),
    st.data(),
    st.sampled_from(sorted({*SYSTEMS} - {*RETURNS, "ft-hsdp"})),
)
def test_a_loss_less_trains_no_less_where_none_returns_and_each_step_is_saved(losses, data, system):
    # Under ft-hsdp, a failure within the 3 min of another costs no minutes of its own.
    quick = replace(plain_costs(), communication=FixedCommunication(7.0, 0.01))
    left_out = data.draw(st.sampled_from(losses))
    more, fewer = (
        simulate(
            trace((0, "add", NAMES), *((at_s, "remove", node) for at_s, node in sorted(some))),
            system, quick, 1000.0, 1, EvenLoads(2, 4),
        )
        for some in (losses, [one for one in losses if one != left_out])
    )  # fmt: skip
    # Each of two failures loses a step under way.
    assert fewer.samples >= more.samples - 2 * len(NODES) * SAMPLES_PER_NODE


@pytest.mark.parametrize("field", ["restart_base_s", "restart_per_node_s", "detect_s", "rebuild_s"])
@pytest.mark.parametrize("system", ALL)
def test_samples_fall_evenly_with_each_time_of_recovery_from_a_failure(system, field):
    rng = random.Random(f"{system} {field}")
    lost = rng.sample(NODES, rng.choice([1, 2]))
    events = trace((0, "add", NAMES), (rng.uniform(200.0, 700.0), "remove", " ".join(lost)), duration_s=1000.0)
    cost_model = plain_costs()
    cluster, samples, longer_s = cost_model.cluster, [], 2.5
    for seconds in np.arange(0.0, 60.0, longer_s):
        recovery = msgspec.structs.replace(
            cluster.recovery, **{field: float(seconds) / (12 if "per_node" in field else 1)}
        )
        changed = replace(cost_model, cluster=msgspec.structs.replace(cluster, recovery=recovery))
        samples.append(simulate(events, system, changed, 1000.0, 40, EvenLoads(2, 4)).samples)
    # A step takes 2 s and trains at most 48 samples; one or two fit into the time between.
    assert all(0 <= before - after <= 2 * 48 for before, after in itertools.pairwise(samples))


@pytest.mark.parametrize("lost", ["c", "a c e g i k"], ids=["one", "all-of-one-half"])
@pytest.mark.parametrize("system", ALL)
def test_a_spare_that_starts_later_never_helps_where_one_failure_stands_alone(system, lost):
    events = trace((0, "add", NAMES + " u v w x y z"), (300.0 + len(system), "remove", lost), duration_s=1000.0)
    samples = [
        simulate_system(
            events,
            SYSTEMS[system],
            plain_costs(),
            EvenLoads(2, 4),
            interval_steps=10**6,
            spares=Spares(12, float(start_s)),
        ).samples
        for start_s in range(0, 120, 3)
    ]
    # It joins at the end of a step, and another one is under way at the end of the run. No save that it comes with
    # replaces another.
    assert all(after - before < 48 for before, after in itertools.pairwise(samples))
    assert samples[0] == max(samples)


@pytest.mark.parametrize("system", ALL)
def test_nodes_that_fail_a_third_as_often_train_more_on_average(system):
    cost_model, loads, duration_s = plain_costs(), EvenLoads(2, 4), 2000.0
    means = []
    for between_s in (100.0, 300.0, 900.0):
        recipe = MtbfSpec(num_nodes=12, mtbf_s=12 * between_s, repair_s=150.0, duration_s=duration_s)
        steps = interval_steps(SYSTEMS[system], cost_model, loads, 12, between_s)
        draws = (generate_trace(recipe, np.random.default_rng(seed)) for seed in range(10))
        means.append(np.mean([simulate(one, system, cost_model, duration_s, steps, loads).samples for one in draws]))
    assert means == sorted(means)
