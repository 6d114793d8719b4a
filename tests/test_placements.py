"""Runs that compare placement policies, and how well plans in force were prepared for the trace's failures."""

import itertools
import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lazsim.engine.plan_reliability import PlanReliability, _mean
from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems import SYSTEMS
from lazsim.output.run import _survival_text
from lazsim.placement.allocation import allocate
from lazsim.placement.grid import Grid
from lazsim.placement.plan import PlacementPlan, is_recoverable
from lazsim.placement.policies import POLICIES, find_policy
from lazsim.placement.request import PlacementRequest
from lazsim.reliability import SurvivalEstimate, recovery_curve
from tests.conftest import P3_LIKE
from tests.jobs import EvenLoads, costs, trace

FAST = ("--trace", P3_LIKE, "--max-nodes", 10, "--duration", "40min", "--json")

OWN = '''
def place(request):
    """Put everything where the published policy does."""
    from lazsim.placement.mro import place_mro

    return place_mro(request.replicas_LE, request.num_nodes, request.num_slots)
'''


def run(lazsim, *arguments):
    code, out, err = lazsim("run", *FAST, *arguments)
    assert code == 0, err
    return json.loads(out)


def results_of(run):
    """Return a run without what names or scores its placement."""
    of_placement = ("placement", "plan_recovery")
    return {key: value for key, value in run.items() if not key.startswith(of_placement)}


def test_each_flexible_system_runs_once_with_each_placement_and_the_others_once(lazsim):
    answer = run(lazsim, "--placement", "mro", "--placement", "spread")
    assert [(run["system"], run["placement"]) for run in answer["runs"]] == [
        ("lazarus", "mro"),
        ("lazarus", "spread"),
        ("ds-ft", None),
        ("ds", None),
    ]
    assert all(0 <= run["plan_recovery_prob"] <= 1 for run in answer["runs"])
    assert answer["inputs"]["placements"] == [{"name": "mro"}, {"name": "spread"}]


def test_the_published_placement_by_name_is_what_runs_without_one(lazsim):
    chosen, default = run(lazsim, "--placement", "mro"), run(lazsim)
    assert [results_of(run) for run in chosen["runs"]] == [results_of(run) for run in default["runs"]]
    assert "placements" not in default["inputs"]
    assert default["runs"][0]["plan_recovery_prob"] is None


def test_a_placement_that_does_not_apply_to_so_few_nodes_waits_for_more():
    # Five experts on nodes of two slots: any three nodes hold them, but equal chunks of one expert take five nodes.
    job = replace(costs(), model=msgspec.structs.replace(costs().model, num_experts=5))
    chosen = {name: replace(SYSTEMS["lazarus"], policy=find_policy(name), placement=name) for name in ("mro", "ep")}
    usable = {name: [system.usable_nodes(job, count) for count in (2, 3, 4, 5)] for name, system in chosen.items()}
    assert usable == {"mro": [0, 3, 4, 5], "ep": [0, 0, 0, 5]}


def test_a_policy_in_a_file_is_run_and_its_file_hashed(lazsim, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    answer = run(lazsim, "--system", "lazarus", "--placement", "mro", "--placement", f"{path}:place")
    published, own = answer["runs"]
    assert (own["placement"], results_of(own)) == ("mine.py:place", results_of(published))
    assert own["plan_recovery_prob"] == published["plan_recovery_prob"]
    assert answer["inputs"]["placements"][1]["name"] == "mine.py:place"
    assert len(answer["inputs"]["placements"][1]["sha256"]) == 64


def test_the_folder_has_the_picture_and_tells_runs_of_one_system_apart(lazsim, tmp_path):
    run(lazsim, "--placement", "mro", "--placement", "euclid", "--system", "lazarus", "--out", tmp_path)
    names = {
        ".lazsim.json",
        "events.csv",
        "recoveries.csv",
        "report.html",
        "run.json",
        "summary.json",
        "timeline.csv",
        "trace.json",
    }
    pictures = {f"{name}.{kind}" for name in ("throughput", "placements") for kind in ("png", "pdf")}
    assert {path.name for path in tmp_path.iterdir()} == names | pictures
    systems = {line.split(",")[1] for line in (tmp_path / "timeline.csv").read_text().splitlines()[1:]}
    assert systems == {"lazarus:mro", "lazarus:euclid"}


def test_the_tables_of_all_policies_fit_80_columns(lazsim):
    names = ("mro", "euclid", "spread", "compact", "random", "balanced", "eplb", "ep")
    arguments = [part for name in names for part in ("--placement", name)]
    code, out, _ = lazsim("run", *FAST[:-1], "--model", "gpt-s", *arguments)
    assert code == 0
    assert max(len(line) for line in out.splitlines()) <= 80
    assert all(f"lazarus:{name}" in out for name in names)


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("mor", "did you mean 'mro'"),
        ("missing.py:place", "missing.py"),
        ("bad.py:place", "bad.py:place"),
        ("bad.py:nothing", "nothing"),
        ("bad.py:wrong_shape", "bad.py:wrong_shape"),
    ],
)
def test_a_bad_policy_is_one_clear_line_and_exit_code_2(lazsim, tmp_path, monkeypatch, placement, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text("def place(request):\n    1 / 0\n\ndef wrong_shape(request):\n    return [[1]]\n")
    code, out, err = lazsim("run", *FAST, "--placement", placement, "--out", tmp_path / "out")
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert expected in err
    assert not (tmp_path / "out").exists()


def test_a_policy_that_no_system_takes_is_refused_by_every_command(refused, tmp_path):
    why = "has no effect: plain expert parallelism"
    assert refused("run", *FAST, "--system", "ds", "--placement", "mro").startswith(f"--placement {why} places")
    told = refused("sensitivity", "--trace", "fail-every-5min", "--system", "ds", "--placement", "mro")
    assert told.startswith(f"--placement {why} places")
    for option, value in (("--placement", "mro"), ("--fault-threshold", 2)):
        told = refused("advise", "--trace", "fail-every-5min", "--system", "ds", option, value)
        assert told.startswith(f"{option} {why}")
    spec = tmp_path / "idle.toml"
    spec.write_text('base = {trace = "fail-every-5min", system = ["ds", "tutel"], placement = ["mro", "spread"]}')
    assert refused("sweep", spec, "--out", tmp_path / "out").startswith(f"{spec}: placement {why} places")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [name for name, policy in POLICIES.items() if policy.plans_layers_alone])
@given(data=st.data())
@settings(max_examples=20)
def test_policies_that_plan_layers_alone_give_each_layer_the_same_nodes_whatever_the_others(name, data):
    num_nodes, num_slots, num_layers = 4, 3, 3
    load_LE = np.array(
        data.draw(st.lists(st.lists(st.integers(1, 99), min_size=6, max_size=6), min_size=3, max_size=3))
    )
    # 6 experts have 2 replicas each in 12 slots.
    replicas_LE = np.full((num_layers, 6), 2)
    together = find_policy(name).function(PlacementRequest(replicas_LE, num_nodes, num_slots, 1, load_LE))
    for layer in range(num_layers):
        alone = PlacementRequest(replicas_LE[[layer]], num_nodes, num_slots, 1, load_LE[[layer]])
        assert np.array_equal(find_policy(name).function(alone).slots_LNS[0], together.slots_LNS[layer])


@pytest.mark.parametrize("name", ["mro", "balanced", "eplb"])
def test_stages_planned_at_once_are_planned_as_each_by_itself(name):
    # Stages of two, three and one layers, not in a row, on four nodes each, for two windows.
    grid = Grid(np.array([0, 0, 1, 1, 1, 2])[[0, 2, 1, 3, 5, 4]], num_stages=3, unit_nodes=1)
    load_LE, asked = np.random.default_rng(7).integers(0, 1000, (12, 8)), []

    def place_layers(load_LE, nodes_N):
        asked.append((len(load_LE), *nodes_N.tolist()))
        return find_policy(name).function(PlacementRequest(allocate(load_LE, 16, 2), len(nodes_N), 4, 1, load_LE))

    once, each = (grid.place(load_LE, 12, place_layers, layers_alone=alone) for alone in (True, False))
    assert np.array_equal(once.slots_LNS, each.slots_LNS)
    assert asked == [(12, 0, 1, 2, 3), (4, 0, 1, 2, 3), (6, 4, 5, 6, 7), (2, 8, 9, 10, 11)]
    stage_of_nodes = np.arange(12) // 4
    holds_LN = (once.slots_LNS >= 0).any(axis=2)
    assert np.array_equal(holds_LN, np.tile(grid.stage_L, 2)[:, None] == stage_of_nodes)


@given(data=st.data())
@settings(max_examples=60)
def test_the_score_is_the_mean_over_time_of_every_way_in_which_nodes_can_go(data):
    """Brute force over every set of nodes alive, those that are not in use included."""
    of_what = st.tuples(st.integers(1, 6), st.booleans())
    losses = data.draw(st.dictionaries(of_what, st.integers(1, 4), min_size=1, max_size=3))
    reliability, now_s, weighted, total_s = PlanReliability(losses), 0.0, 0.0, 0.0
    for _ in range(data.draw(st.integers(1, 4))):
        num_nodes, num_spare = data.draw(st.integers(2, 4)), data.draw(st.integers(0, 2))
        slots = data.draw(st.permutations(list(range(4)) + [data.draw(st.integers(-1, 3))] * (2 * num_nodes - 4)))
        plan = PlacementPlan(np.array(slots).reshape(1, num_nodes, 2), num_experts=4)
        seconds = data.draw(st.integers(1, 100))
        alive = range(num_nodes + num_spare)
        domains = [data.draw(st.integers(0, 2)) for _ in alive]
        reliability.record(now_s, plan, domains)
        now_s += seconds
        kept = 0.0
        for (number, of_domains), count in losses.items():
            parts = (
                [[n for n in alive if domains[n] == one] for one in set(domains)]
                if of_domains
                else [[n] for n in alive]
            )
            sets = [list(itertools.chain(*lost)) for lost in itertools.combinations(parts, min(number, len(parts)))]
            survived = [is_recoverable(plan.holds_LEN[:, :, [n for n in range(num_nodes) if n not in s]]) for s in sets]
            kept += count / sum(losses.values()) * np.mean(survived)
        weighted, total_s = weighted + seconds * kept, total_s + seconds
        if data.draw(st.booleans()):
            reliability.record(now_s, None, [])
            now_s += 10
    assert reliability.average(now_s).recovery_prob == pytest.approx(weighted / total_s, abs=1e-12)


NEVER = {"checkpoint_interval_steps": dict.fromkeys(SYSTEMS, 10**6), "rebalance_interval_steps": 10**6}


def test_plans_are_in_force_while_nodes_train_under_them():
    # 4 experts twice each on 4 nodes of 2 slots: two groups of two nodes. Of the 6 pairs of nodes 2 take a group whole.
    # A pair from different groups goes at 100 s: detect 15 s, rebuild 10 s, nothing to transfer, then one copy of each
    # expert on 2 nodes until 200 s, which losing both does not survive.
    system = replace(SYSTEMS["lazarus"], placement="mro")
    for pair in ("a b", "a c", "a d"):
        events = trace((0, "add", "a b c d"), (100, "remove", pair))
        result = simulate_system(events, system, costs(**NEVER), EvenLoads(2, 4), 200.0, score_plans=True)
        if not result.counts["restarts"]:
            break
    assert result.plan_recovery.recovery_prob == pytest.approx(100 * (4 / 6) / (100 + 200 - 125))
    assert result.plan_recovery.method == "exact"


def test_a_run_scores_plans_under_lost_racks_as_a_recovery_does():
    # Four experts twice each on two racks of two nodes. Both nodes of a rack go: `domains` holds every expert in each
    # rack, and `mro` may hold two experts in one only.
    racks = costs(**NEVER)
    racks = replace(racks, cluster=msgspec.structs.replace(racks.cluster, nodes_per_domain=2))
    events = trace((0, "add", "a b c d"), (100, "remove", "c d"))
    for policy in ("domains", "mro"):
        system = SYSTEMS["lazarus"]
        system = replace(system, policy=find_policy(policy), placement=policy)
        result = simulate_system(events, system, racks, EvenLoads(2, 4), 110.0, score_plans=True)
        plan = find_policy(policy).function(
            PlacementRequest(np.full((2, 4), 2), 4, 2, 1, np.ones((2, 4), dtype=int), domain_N=np.array([0, 0, 1, 1]))
        )
        expected = recovery_curve(plan.holds_LEN, [1], domain_N=np.array([0, 0, 1, 1]))
        assert result.plan_recovery.recovery_prob == pytest.approx(expected.recovery_prob[0])
        assert result.plan_recovery.recovery_prob == {"domains": 1.0, "mro": 0.0}[policy]


def test_the_mean_of_plans_that_lose_nothing_is_1_whatever_the_times_in_which_they_are_in_force():
    # Weights whose products with 1 add up to less than they do: 386 of 2000 such means were 1 less their rounding.
    score = SurvivalEstimate(1.0, 1.0, 1.0, "exact")
    for seconds in np.random.default_rng(0).random((100, 30)) * 1000:
        assert _mean([score] * 30, seconds) == score


def test_a_survival_that_is_nearly_sure_or_was_sampled_is_not_shown_as_sure():
    row = {"plan_recovery_prob": 0.9997, "plan_recovery_ci_low": 0.9997, "plan_recovery_ci_high": 0.9997}
    sampled = dict.fromkeys(row, 1.0) | {"plan_recovery_ci_low": 0.99}
    assert [_survival_text(one) for one in (row, sampled, dict.fromkeys(row, 1.0), dict.fromkeys(row))] == [
        ">.999",
        "~1",
        "1",
        None,
    ]


def test_without_a_failure_there_is_nothing_to_score():
    events = trace((0, "add", "a b c d"))
    result = simulate_system(events, SYSTEMS["lazarus"], costs(), EvenLoads(2, 4), 200.0, score_plans=True)
    assert result.plan_recovery is None
