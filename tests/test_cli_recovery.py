import json

import numpy as np
import pytest

SMALL = ("--nodes", 10, "--slots", 6, "--experts", 8, "--loads", "zipf:1.2", "--min-replicas", 2)
PUBLISHED = ("--nodes", 5, "--slots", 4, "--replicas", "2,5,6,7")
TRACE = "0,add,a\n0,add,b\n0,add,c\n0,add,d\n0,add,e\n0,add,f\n60000,remove,a\n60000,remove,b\n90000,remove,c\n"


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    return path


def test_the_published_example(answered):
    # Lazarus, arXiv 2407.04656: the least replicated expert is on two of five nodes; C(3, 1) of 10 triples kill both.
    found = answered("recovery", *PUBLISHED, "--policy", "mro", "--failures", "3")["policies"]["mro"]
    assert found["failures"] == [3]
    assert found["recovery_prob"] == pytest.approx([0.7])
    assert (found["method"], found["guaranteed"]) == ("exact", 2)
    assert found["ci_low"] == found["ci_high"] == found["recovery_prob"]
    assert found["minimal_failure_sets"] == [[0, 1]]


def test_the_smartmoe_run_survives_four_failures_as_published_only_when_layers_are_aligned(answered, shared):
    # shared/spec and the published set-up: 0.614 aligned, 0.00 to 0.02 when each layer's nodes are shuffled.
    loads = ("--loads", shared / "routing" / "smartmoe.npz", "--iteration", 201, "--layers", 12, "--experts", 16)
    found = answered("recovery", "--nodes", 10, "--slots", 6, *loads, "--policy", "mro", "--failures", "4")["policies"][
        "mro"
    ]
    assert found["recovery_prob"] == pytest.approx([0.614], abs=5e-4)
    assert 0 <= found["shuffled"]["least"][0] <= found["shuffled"]["recovery_prob"][0] <= 0.02
    assert len(found["per_layer"]) == 12


def test_a_model_has_the_experts_and_layers(answered):
    # gpt-s has 8 experts in each of 12 MoE layers.
    sizes = ("--nodes", 8, "--slots", 4, "--policy", "mro", "--failures", "4")
    by_model, by_hand = (
        answered("recovery", *sizes, *options)["policies"]
        for options in (("--model", "gpt-s"), ("--experts", 8, "--layers", 12))
    )
    assert by_model == by_hand
    assert len(by_model["mro"]["per_layer"]) == 12


@pytest.mark.parametrize("given", [("--experts", 16), ("--replicas", "2,2,2"), ("--loads", "60,30,10")])
def test_a_model_beside_what_says_how_many_experts_there_are_is_refused(refused, given):
    said = f"--model has no effect: {given[0]} says how many experts there are; leave one of them out"
    assert said in refused("recovery", "--model", "gpt-s", "--nodes", 3, "--slots", 2, *given)


def test_by_default_failures_end_where_no_plan_survives(answered):
    found = answered(
        "recovery", "--nodes", 6, "--slots", 1, "--replicas", "3,3", "--policy", "mro", "--policy", "random"
    )
    # Two experts on three nodes each: four failures spare both in 9 of 15 cases, five in none.
    failures = found["policies"]["mro"]["failures"]
    assert failures == [1, 2, 3, 4, 5]
    assert found["policies"]["mro"]["recovery_prob"] == pytest.approx([1, 1, 18 / 20, 9 / 15, 0])


def test_numbers_of_failures_that_no_plan_survives_are_asked_for_once(answered):
    # Three pairs of nodes hold two experts each. No pair may fail: 12 of 15 cases of two failures, 8 of 20 of three.
    sizes = "--nodes", 6, "--slots", 2, "--experts", 6, "--layers", 2
    found = answered("recovery", *sizes, "--policy", "mro", "--policy", "compact")["policies"]
    assert found["mro"]["recovery_prob"] == pytest.approx([1, 12 / 15, 8 / 20, 0])
    for curve in found.values():
        assert curve["failures"] == [1, 2, 3, 4]
        parts = [curve, *curve["per_layer"]]
        assert {len(part[name]) for part in parts for name in ("recovery_prob", "ci_low", "ci_high")} == {4}
        assert len(curve["shuffled"]["recovery_prob"]) == 4


def test_a_note_tells_half_of_the_widest_interval_of_the_plans_that_were_sampled(answered):
    # Under spread each expert is on seven nodes, so that any two failures are survived for sure.
    options = "--failures", 2, "--method", "montecarlo", "--policy", "spread", "--policy", "compact"
    found = answered("recovery", "--nodes", 10, "--slots", 6, "--experts", 8, *options)
    spread, compact = (curve["ci_high"][0] - curve["ci_low"][0] for curve in found["policies"].values())
    widest = max(spread, compact)
    assert min(spread, compact) == 0 < widest
    assert f"sampled, 95 % interval within +-{widest / 2:.4f}: spread, compact" in found["notes"]


def test_monte_carlo_brackets_what_is_exact(answered):
    exact = answered("recovery", *SMALL, "--method", "exact", "--seed", 1)["policies"]
    sampled = answered("recovery", *SMALL, "--method", "montecarlo", "--seed", 1)["policies"]
    assert set(exact) == set(sampled)
    for name, found in sampled.items():
        truth = np.array(exact[name]["recovery_prob"])
        assert found["method"] == "montecarlo"
        # Each interval holds with 95 %, so that a few may miss by little.
        assert np.abs(np.array(found["recovery_prob"]) - truth).max() < 0.004


def test_per_layer_stands_beside_the_whole_model_only_where_there_are_layers(answered):
    found = answered("recovery", *SMALL, "--layers", 3, "--failures", "1-3", "--policy", "spread")["policies"]["spread"]
    layers = np.array([layer["recovery_prob"] for layer in found["per_layer"]])
    assert layers.shape == (3, 3)
    assert (np.array(found["recovery_prob"]) <= layers.min(axis=0) + 1e-12).all()
    assert answered("recovery", *SMALL, "--policy", "spread")["policies"]["spread"]["per_layer"] is None


def test_domains_fail_as_a_whole(answered, write):
    # Expert 0 is on nodes 0 and 1, which are one domain; expert 1 on nodes 2 and 3, each a domain of its own. Of one
    # failed domain only x is deadly, and any two are.
    plan = ("--nodes", 4, "--slots", 1, "--replicas", "2,2", "--policy", "mro", "--failures", "0-3")
    path = write("x x\ny\nz\n", "domains.txt")
    for domains in ("x,x,y,z", path):
        whole = answered("recovery", *plan, "--domains", domains)
        assert whole["domains"] == ["x", "y", "z"]
        found = whole["policies"]["mro"]
        assert found["minimal_failure_sets"] == [[0], [1, 2]]
        assert found["recovery_prob"] == pytest.approx([1, 2 / 3, 0, 0])
        assert found["guaranteed"] == 1


def test_probabilities_and_failure_sets_of_domains_are_in_the_order_of_the_nodes(answered):
    # Twelve racks of one node, whose names sort as 0, 1, 10, 11, 2. Expert 0 is on rack 2 alone, which always fails.
    racks = ",".join(map(str, range(12)))
    plan = ("--nodes", 12, "--slots", 1, "--replicas", "1,11", "--policy", "compact", "--domains", racks)
    of_expert_0 = answered("recovery", *plan)["policies"]["compact"]["minimal_failure_sets"][0]
    assert len(of_expert_0) == 1
    for rack in range(12):
        probs = ",".join("1" if one == rack else "0" for one in range(12))
        found = answered("recovery", *plan, "--node-fail-prob", probs)
        assert found["domains"] == racks.split(",")
        assert found["policies"]["compact"]["node_fail_recovery_prob"] == (0 if [rack] == of_expert_0 else 1)


def test_nodes_that_fail_on_their_own(answered):
    # Two experts on two nodes each, all alike: (1 - 0.1**2)**2; and with a node that never fails only the other pair.
    plan = ("--nodes", 4, "--slots", 1, "--replicas", "2,2", "--policy", "mro")
    found = answered("recovery", *plan, "--node-fail-prob", "0.1")["policies"]["mro"]
    assert found["node_fail_recovery_prob"] == pytest.approx((1 - 0.01) ** 2)
    found = answered("recovery", *plan, "--node-fail-prob", "0,0.1,0.5,0.2")["policies"]["mro"]
    assert found["node_fail_recovery_prob"] == pytest.approx(1 - 0.5 * 0.2)


def test_batches_of_a_trace_weigh_numbers_of_failures(answered, trace):
    plan = ("--nodes", 4, "--slots", 1, "--replicas", "2,2", "--policy", "mro")
    found = answered("recovery", *plan, "--failures-from", trace)
    # One batch of two nodes, which spares both experts in 4 of 6 cases, and one of one node.
    assert found["trace"]["sizes"] == [1, 2]
    assert found["trace"]["counts"] == [1, 1]
    assert found["policies"]["mro"]["trace_recovery_prob"] == pytest.approx((1 + 4 / 6) / 2)


def test_a_page_calls_nothing_exact_where_only_failures_of_each_node_are_sampled(lazsim, tmp_path):
    # Every expert is on two nodes, so that one failure is survived for sure; nodes that fail by themselves are drawn.
    plan = ("--nodes", 4, "--slots", 2, "--replicas", "2,2,2,2", "--policy", "mro", "--failures", 1)
    for options, said in (((), "Sampled; half"), (("--method", "exact"), "Exact for plans as placed")):
        drawn = options or ("--method", "montecarlo")
        code, _, err = lazsim("recovery", *plan, *drawn, "--node-fail-prob", "0.1,0.2,0.3,0.4", "--out", tmp_path)
        assert code == 0, err
        page = (tmp_path / "report.html").read_text()
        assert said in page
        assert "all nodes are equally likely to fail; by itself, each fails with the probability given" in page


def test_batches_that_are_too_large_are_capped_and_noted(lazsim, trace):
    _, out, err = lazsim("recovery", "--nodes", 1, "--slots", 2, "--experts", 2, "--failures-from", trace, "--json")
    assert json.loads(out)["trace"] == {
        "name": "trace.csv",
        "num_batches": 2,
        "num_capped": 1,
        "sizes": [1],
        "counts": [2],
    }
    assert "1 of 2 batches of trace.csv are larger than the plan" in err


def test_the_same_command_writes_the_same_bytes(lazsim, tmp_path, trace):
    found = []
    drawn = ("--policy", "random", "--method", "montecarlo", "--failures", "1-4", "--failures-from", trace)
    for folder in (tmp_path / "a", tmp_path / "b"):
        _, out, _ = lazsim("recovery", *SMALL, *drawn, "--seed", 3, "--json", "--out", folder)
        found.append((out, {path.name: path.read_bytes() for path in folder.glob("[!.]*")}))
    assert found[0] == found[1]
    pictures = {f"{name}.{kind}" for name in ("recovery", "failure-sets", "placement-map") for kind in ("png", "pdf")}
    assert set(found[0][1]) == {"recovery.json", "report.html", *pictures}
    kept = json.loads(found[0][1]["recovery.json"])
    assert kept == json.loads(found[0][0])
    assert (kept["inputs"]["seed"], kept["inputs"]["version"]) == (3, "0.1.0")
    assert len(kept["inputs"]["failures_from"]["sha256"]) == 64


def test_many_nodes_are_drawn_too(lazsim, tmp_path):
    arguments = ("--nodes", 48, "--slots", 2, "--experts", 8, "--loads", "zipf:1", "--out", tmp_path)
    assert lazsim("recovery", *arguments, "--policy", "mro", "--policy", "eplb")[0] == 0
    assert lazsim("place", *arguments, "--policy", "mro")[0] == 0
    assert lazsim("recovery", *arguments, "--policy", "mro", "--failures", "0")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--failures", "6"), "--failures: 6 is not within 0 to 5 nodes"),
        (("--failures", "-1"), "--failures -1: '-1' is no whole number from 0 up"),
        (("--failures", "3-1"), "--failures 3-1: 3-1 ends before it starts"),
        (("--failures", "1,,2"), "--failures 1,,2: '' is no whole number"),
        (("--failures", "2", "--domains", "a,a,a,a,a"), "2 is not within 0 to 1 failure domains"),
        (("--domains", "a,b"), "--domains: 2 named for 5 nodes"),
        (("--domains", "a,,b,c,d"), "--domains a,,b,c,d: a name is empty"),
        (("--domains", "nowhere.txt"), "--domains: nowhere.txt: cannot be read"),
        (("--node-fail-prob", "1.5"), "--node-fail-prob 1.5: '1.5' is no probability"),
        (("--node-fail-prob", "nan"), "'nan' is no probability"),
        (("--node-fail-prob", "0.1,0.2"), "--node-fail-prob: 2 probabilities for 5 nodes"),
        (("--failures-from", "nowhere.csv"), "--failures-from: nowhere.csv"),
        (("--method", "guess"), "--method: unknown value 'guess': known: auto, exact, montecarlo"),
        (("--experts", "4"), "--replicas and --experts exclude each other"),
        (
            ("--failures-from", "spot-p3-like", "--domains", "a,a,b,b,c"),
            "--failures-from and --domains exclude each other",
        ),
        (("--policy", "sprad"), "unknown policy 'sprad': did you mean 'spread'?"),
    ],
)
def test_bad_input_is_one_line_that_names_the_option(refused, arguments, said):
    assert said in refused("recovery", *PUBLISHED, *arguments)


def test_domains_beside_their_nodes_are_refused(refused, write):
    path = write("n1,a\nn2,a\nn3,b\n", "racks.csv")
    assert "6 named for" in refused("recovery", *PUBLISHED, "--domains", path)


def test_a_trace_without_failures_is_refused(refused, write):
    path = write("0,add,a\n60000,add,b\n", "calm.csv")
    told = refused("recovery", *PUBLISHED, "--failures-from", path)
    assert "--failures-from" in told
    assert "no node is ever removed" in told


def test_no_policy_and_no_probability_is_lost_on_a_narrow_terminal(lazsim, answered, monkeypatch):
    monkeypatch.setattr("lazsim.output.table.terminal_width", lambda: 40)
    arguments = ("recovery", "--nodes", 6, "--slots", 3, "--experts", 6, "--loads", "zipf:1")
    policies = answered(*arguments)["policies"]
    lines = lazsim(*arguments)[1].splitlines()
    assert max(map(len, lines)) <= 40
    words = " ".join(lines).split()
    for name, found in policies.items():
        assert name in words
        assert all(f"{prob:.3f}" in words for prob in found["recovery_prob"] if 0 < prob < 1)
