"""The recovery protocol against its written rules. An EP group is two nodes, as in `tests.jobs`; letters are nodes."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.engine import protocol
from lazsim.engine.held import Held, Planned
from lazsim.engine.protocol import Action, Decision, StoppedJob, decide, find_newcomers, rebalance_is_due
from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems import LIVE_SYSTEMS as SYSTEMS
from lazsim.engine.systems.system import decide_next, under_job
from lazsim.live.coordinator import Coordinator
from lazsim.live.messages import HeldState
from lazsim.live.worker_server import WorkerConnection
from tests.jobs import EvenLoads, costs, trace
from tests.live_jobs import tiny_spec

RESTARTING = ("ds", "tutel", "dropless")
REGROUPING = ("ds-ft", "tutel-ft", "dropless-ft")


def usable_nodes(system):
    return lambda num_nodes: SYSTEMS[system].usable_nodes(costs(), num_nodes)


def decide_for(system, survivors, alive, holders, **known):
    """Decide where every one of `holders` is needed to hold all states together."""
    return decide(SYSTEMS[system], stopped(system, survivors, alive, holders, **known))


def stopped(system, survivors, alive, holders="", **known):
    """Describe a job that stands still."""
    held, hold_everything = Held(tuple(survivors)), lambda nodes: set(holders) <= set(nodes)
    return StoppedJob(held, tuple(alive), usable_nodes(system), hold_everything, **{"checkpoint_step": 50} | known)


def reconfigure(nodes, num_nodes):
    return Decision(Action.RECONFIGURE, "peers", tuple(nodes), num_nodes)


def restart(nodes, source="checkpoint"):
    return Decision(Action.RESTART, source, tuple(nodes), len(nodes))


def test_lazarus_goes_on_with_all_survivors_while_they_hold_every_expert():
    assert decide_for("lazarus", "abc", "abc", holders="ab") == reconfigure("abc", 3)


@pytest.mark.parametrize("system", ["lazarus", *REGROUPING])
def test_an_expert_that_is_gone_everywhere_means_a_restart_from_the_checkpoint(system):
    assert decide_for(system, "ab", "abef", holders="d") == restart("abef")
    assert decide_for(system, "ab", "abef", holders="d", checkpoint_step=0) == restart("abef", "initial")


@pytest.mark.parametrize("system", RESTARTING)
def test_plain_expert_parallelism_restarts_on_whole_groups_whatever_survives(system):
    assert decide_for(system, "abc", "abc", holders="ab") == restart("ab")
    assert decide_for(system, "abc", "abcde", holders="ab") == restart("abcd")


@pytest.mark.parametrize("system", REGROUPING)
def test_survivors_regroup_without_the_nodes_dropped_earlier(system):
    # Of a, b, c one fills no group; e was dropped earlier and stays out until a restart.
    assert decide_for(system, "abc", "abce", holders="ab") == reconfigure("abc", 2)
    # One survivor makes no group, even if it holds everything: now e comes back.
    assert decide_for(system, "a", "ae", holders="a") == restart("ae")


@pytest.mark.parametrize("system", SYSTEMS)
def test_too_few_nodes_wait(system):
    assert decide_for(system, "a", "a", holders="a").action is Action.WAIT
    assert decide_for(system, "", "", holders="").action is Action.WAIT


JOINING = {"paused": True, "joins_due": True}


def test_fault_tolerant_systems_let_nodes_join_by_a_reconfiguration_and_the_others_by_a_restart():
    for system in ("lazarus", *REGROUPING):
        assert decide_for(system, "ab", "abcd", holders="ab", **JOINING) == reconfigure("abcd", 4)
    for system in RESTARTING:
        assert decide_for(system, "ab", "abcd", holders="ab", **JOINING) == restart("abcd")


@pytest.mark.parametrize("system", REGROUPING)
def test_dropped_nodes_stay_out_of_a_regroup_and_join_by_a_restart_where_only_they_complete_a_group(system):
    # c was dropped; d and e are new and make a group.
    assert decide_for(system, "ab", "abcde", holders="ab", dropped="c", **JOINING) == reconfigure("abde", 4)
    # d alone makes none, but it does with c.
    assert decide_for(system, "ab", "abcd", holders="ab", dropped="c", **JOINING) == restart("abcd")
    # Nothing does: all go on.
    assert decide_for(system, "ab", "abc", holders="ab", dropped="c", **JOINING) == reconfigure("ab", 2)


def test_a_job_can_let_nodes_join_fault_tolerant_systems_by_a_restart():
    by_restart = under_job(SYSTEMS["ds-ft"], costs(regrouped_joins="restart").job)
    assert decide(by_restart, stopped("ds-ft", "ab", "abcd", **JOINING)) == restart("abcd")


@pytest.mark.parametrize("system", SYSTEMS)
def test_all_systems_train_on_as_before_where_the_nodes_that_they_paused_for_are_gone(system):
    cost_model, kind = costs(), SYSTEMS[system]
    held = Held.full(tuple("ab"), Planned(2, 0, lambda num, _step: kind.plan_evenly(cost_model, num)))

    def decide_with(alive, **known):
        return decide_next(kind, cost_model, replace(stopped(system, "ab", alive, step=60, **known), held=held))

    assert decide_with("ab", **JOINING) == Decision(Action.RESUME, "peers", tuple("ab"), 2)
    assert decide_with("abcd", **JOINING).action is not Action.RESUME
    # A pause to place anew is for those that are there.
    assert decide_with("ab", paused=True).action is not Action.RESUME


@pytest.mark.parametrize("system", SYSTEMS)
def test_after_a_pause_that_lets_nobody_join_all_systems_go_on(system):
    assert decide_for(system, "ab", "abcd", holders="ab", paused=True) == reconfigure("ab", 2)


def test_a_worker_that_lost_its_connection_only_counts_before_its_states_are_given_up():
    assert decide_for("lazarus", "ab", "abcd", holders="ad", returned=("d",)) == reconfigure("abd", 3)
    assert decide_for("ds", "ab", "abcd", holders="ad", returned=("d",)) == restart("abcd")


@pytest.mark.parametrize(
    ("system", "in_use", "alive", "expected"),
    [
        ("lazarus", "ab", "abc", "c"),
        ("lazarus", "ab", "ab", ""),
        # One node more makes no whole group; two do.
        ("ds", "ab", "abc", ""),
        ("ds", "ab", "abcd", "cd"),
        # c was dropped, d is new.
        ("ds-ft", "ab", "abcd", "cd"),
    ],
)
def test_training_pauses_only_for_nodes_that_come_into_use(system, in_use, alive, expected):
    found = find_newcomers(tuple(in_use), tuple(alive), usable_nodes(system))
    assert found == tuple(expected)


def test_nodes_are_collected_for_two_minutes_from_the_first_on():
    now_s = 51.0
    newcomers = protocol.Newcomers(120.0, lambda: now_s)
    newcomers.add("a")
    now_s = 61.0
    newcomers.add("b")
    assert newcomers.due_s == 171.0
    now_s = 170.5
    assert (newcomers.is_due, newcomers.left_s) == (False, 0.5)
    now_s = 171.0
    assert (newcomers.is_due, newcomers.left_s) == (True, None)


def test_a_spare_that_starts_as_a_collection_ends_joins_though_all_that_were_collected_go():
    now_s = 0.0
    newcomers = protocol.Newcomers(120.0, lambda: now_s)
    newcomers.add("a")
    now_s = 120.0
    newcomers.at_next_boundary("s")
    newcomers.remove("a")
    assert newcomers.is_due


def test_nodes_that_come_wait_for_others_where_all_that_were_to_join_are_gone():
    newcomers = protocol.Newcomers(120.0, lambda: 7.0)
    newcomers.at_next_boundary("st")
    newcomers.remove("s")
    assert newcomers.is_due
    newcomers.remove("t")
    newcomers.add("a")
    assert newcomers.due_s == 127.0


@pytest.mark.parametrize("system", SYSTEMS)
def test_only_elastic_systems_rebalance_every_200_steps(system):
    due = [step for step in range(1, 601) if rebalance_is_due(SYSTEMS[system], step, step - 1, 200)]
    assert due == ([200, 400, 600] if system == "lazarus" else [])
    # A recovery at step 150 has planned anew; the next rebalance is at step 200 all the same.
    assert rebalance_is_due(SYSTEMS["lazarus"], 200, 150, 200)
    assert not rebalance_is_due(SYSTEMS["lazarus"], 399, 200, 200)


@given(
    system=st.sampled_from(sorted(SYSTEMS)),
    alive=st.lists(st.integers(0, 20), unique=True, max_size=9),
    holders=st.sets(st.integers(0, 20), max_size=3),
    data=st.data(),
)
def test_a_decision_uses_live_nodes_and_loses_no_step_without_need(system, alive, holders, data):
    num_survivors = data.draw(st.integers(0, len(alive)))
    known = {name: data.draw(st.booleans()) for name in ("paused", "joins_due")}
    survivors = alive[:num_survivors]
    decision = decide_for(system, survivors, alive, holders, **known)
    usable = usable_nodes(system)
    assert set(decision.nodes) <= set(alive)
    assert usable(decision.num_nodes) == decision.num_nodes <= len(decision.nodes)
    assert (decision.action is Action.WAIT) == (usable(len(alive)) == 0)
    if decision.action is Action.RECONFIGURE:
        assert holders <= set(decision.nodes)
        assert SYSTEMS[system].recovers_from_peers or known["paused"]
    if SYSTEMS[system].is_elastic and holders <= set(survivors) and usable(len(survivors)):
        assert decision.action is Action.RECONFIGURE
        assert decision.num_nodes == (len(alive) if known["joins_due"] else num_survivors)
    if decision.action is Action.RESTART:
        assert decision.nodes == tuple(alive[: usable(len(alive))])


NEVER = {"checkpoint_interval_steps": dict.fromkeys(SYSTEMS, 10**6), "rebalance_interval_steps": 10**6}


def decide_live(kind, cost_model, num_used, survivors, others):
    """Decide as a coordinator does whose other workers have just failed; `survivors` are by their place."""

    def worker(held, alive=True):
        return WorkerConnection("", "", None, None, held, 0.0, alive=alive)

    in_place = {place: worker(held) for place, held in survivors.items()}
    spec = tiny_spec(kind.name, checkpoint_folder="no such folder")
    server = SimpleNamespace(spec=spec, max_workers=1, workers=[*in_place.values(), *map(worker, others)])
    coordinator = Coordinator(server, cost_model, min_workers=1, start_timeout_s=1.0)
    members = [in_place.get(place) or worker(HeldState(), alive=False) for place in range(num_used)]
    coordinator._members = members
    coordinator._held = Held.full(members, Planned(num_used, 0, lambda num, _step: kind.plan_evenly(cost_model, num)))
    coordinator.has_trained = True
    return coordinator._decide_now()


@pytest.mark.parametrize("action", [Action.RESTART, Action.RECONFIGURE])
def test_a_simulated_and_a_live_job_do_what_the_protocol_decides(monkeypatch, action):
    def always(system, job):
        if action is Action.RECONFIGURE:
            return decide(replace(system, recovers_from_peers=True), job)
        return restart(job.alive[: job.num_usable])

    monkeypatch.setattr(protocol, "decide", always)
    cost_model, kind = costs(**NEVER), SYSTEMS["ds" if action is Action.RECONFIGURE else "lazarus"]
    events = trace((0, "add", "a b c d"), (101, "remove", "d"))
    run = simulate_system(events, kind, cost_model, EvenLoads(2, 4), 300.0)
    assert (run.counts["restarts"] > 0) == (action is Action.RESTART)
    survivors = dict.fromkeys(range(3), HeldState(50, False, frozenset(range(9))))
    assert decide_live(kind, cost_model, 4, survivors, []).action is action
