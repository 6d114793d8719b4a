import itertools
import operator

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lazsim.errors import InfeasiblePlanError, LazsimError, SpecError
from lazsim.placement.balanced import most_distinct, place_balanced
from lazsim.placement.eplb import place_eplb, replicate_greedily
from lazsim.placement.gpus import pack_gpus
from lazsim.placement.policies import POLICIES
from lazsim.placement.serving import rebalance_experts
from tests.test_baselines import naive_replicas


@st.composite
def problems(draw):
    """Loads, and a cluster that has a slot for every expert."""
    num_nodes, gpus_per_node = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    slots_per_gpu = draw(st.integers(1, 4))
    num_gpus = num_nodes * gpus_per_node
    num_experts = draw(st.integers(1, num_gpus * slots_per_gpu))
    load = st.lists(st.integers(0, 1000), min_size=num_experts, max_size=num_experts)
    loads = np.array(draw(st.lists(load, min_size=1, max_size=3)))
    return loads, num_gpus * slots_per_gpu, num_nodes, num_gpus


def check(result, num_layers, num_experts, num_replicas):
    """What engines rely on: every expert has slots, and the three answers say the same."""
    physical, slots, count = result
    assert {array.dtype for array in result} == {np.dtype(np.int64)}
    assert physical.shape == (num_layers, num_replicas)
    assert slots.shape == (num_layers, num_experts, count.max())
    assert count.shape == (num_layers, num_experts)
    assert count.min() >= 1
    for layer, expert in itertools.product(range(num_layers), range(num_experts)):
        own = np.flatnonzero(physical[layer] == expert).tolist()
        assert slots[layer, expert].tolist() == own + [-1] * (slots.shape[2] - len(own))
        assert count[layer, expert] == len(own)


def nodes_of(result, layer, expert, slots_per_node):
    physical, _, _ = result
    return set((np.flatnonzero(physical[layer] == expert) // slots_per_node).tolist())


@given(problems(), st.integers(1, 4), st.data())
def test_every_expert_has_slots_on_live_nodes_and_the_answers_agree(problem, fault_threshold, data):
    loads, num_replicas, num_nodes, num_gpus = problem
    num_layers, num_experts = loads.shape
    slots_per_node = num_replicas // num_nodes
    live = np.array(data.draw(st.lists(st.booleans(), min_size=num_nodes, max_size=num_nodes)))
    num_live = int(live.sum())
    arguments = (loads, num_replicas, 1, num_nodes, num_gpus)
    if num_live * slots_per_node < num_experts:
        with pytest.raises(InfeasiblePlanError):
            rebalance_experts(*arguments, fault_threshold=fault_threshold, live_nodes=live)
        return
    result = rebalance_experts(*arguments, fault_threshold=fault_threshold, live_nodes=live)
    check(result, num_layers, num_experts, num_replicas)
    physical, _, count = result
    assert ((physical >= 0) == live.repeat(slots_per_node)).all()
    kept = min(fault_threshold, num_live, num_live * slots_per_node // num_experts)
    for layer, expert in itertools.product(range(num_layers), range(num_experts)):
        nodes = nodes_of(result, layer, expert, slots_per_node)
        assert len(nodes) == min(count[layer, expert], num_live)
        assert len(nodes) >= kept


@given(problems(), st.integers(1, 4), st.data())
def test_no_gpu_has_an_expert_twice_where_experts_are_enough_for_its_slots(problem, fault_threshold, data):
    loads, num_replicas, num_nodes, num_gpus = problem
    num_experts, per_gpu = loads.shape[1], num_replicas // num_gpus
    live = np.array(data.draw(st.lists(st.booleans(), min_size=num_gpus, max_size=num_gpus)))
    # With fewer experts than slots of a GPU, some expert is there twice whatever the plan is.
    assume(num_experts >= per_gpu and live.sum() * per_gpu >= num_experts)
    physical, _, _ = rebalance_experts(
        loads, num_replicas, 1, num_nodes, num_gpus, active_ranks=live, fault_threshold=fault_threshold
    )
    for gpu in physical.reshape(-1, num_gpus, per_gpu)[:, live].reshape(-1, per_gpu).tolist():
        assert len({*gpu}) == per_gpu


@pytest.mark.parametrize("policy", POLICIES)
@given(problem=problems())
def test_any_policy_can_serve(policy, problem):
    loads, num_replicas, num_nodes, num_gpus = problem
    try:
        result = rebalance_experts(loads, num_replicas, 1, num_nodes, num_gpus, policy=policy)
    except InfeasiblePlanError:
        assert policy == "ep"
        return
    check(result, *loads.shape, num_replicas)


def least_heaviest_replica(loads, num_slots, floor, most):
    """The least load of the heaviest replica over all ways to give out so many replicas."""
    ways = itertools.product(range(floor, most + 1), repeat=len(loads))
    return min(
        max(load / count for load, count in zip(loads, way, strict=True)) for way in ways if sum(way) == num_slots
    )


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 5), st.integers(1, 2), st.integers(0, 6))
def test_replication_makes_the_heaviest_replica_as_light_as_exhaustive_search_does(loads, num_more, floor, room):
    num_slots = floor * len(loads) + num_more
    most = -(-num_slots // len(loads)) + room
    replicas = replicate_greedily(np.array([loads]), num_slots, floor, most)
    assert replicas.sum() == num_slots
    assert floor <= replicas.min() <= replicas.max() <= most
    assert (np.array([loads]) / replicas).max() == least_heaviest_replica(loads, num_slots, floor, most)


@given(st.data(), st.integers(1, 5), st.integers(1, 4))
def test_a_round_of_replicas_goes_to_the_lightest_nodes_first_those_with_fewest_of_an_expert_which_goes_on(
    data, num_nodes, num_slots
):
    cuts = data.draw(st.sets(st.integers(1, num_nodes * num_slots)))
    replicas = np.diff(sorted({0, *cuts, num_nodes * num_slots})).tolist()
    loads = data.draw(st.lists(st.integers(0, 50), min_size=len(replicas), max_size=len(replicas)))
    share = [load / many for load, many in zip(loads, replicas, strict=True)]
    deck = [one for one in sorted(range(len(loads)), key=lambda one: -share[one]) for _ in range(replicas[one])]
    held, total = [[] for _ in range(num_nodes)], [0.0] * num_nodes
    for first in range(0, len(deck), num_nodes):
        dealt = deck[first : first + num_nodes]
        order = sorted(range(num_nodes), key=total.__getitem__)
        fewest = min(one.count(dealt[0]) for one in held)
        fewest = [node for node in order if held[node].count(dealt[0]) == fewest]
        lacking = fewest[: dealt.count(dealt[0])]
        for expert, node in zip(dealt, lacking + [node for node in order if node not in lacking], strict=True):
            held[node].append(expert)
            total[node] += share[expert]
    plan = place_balanced(np.array([replicas]), np.array([loads]), num_nodes, num_slots)
    assert plan.slots_LNS.tolist() == [held]
    for expert, many in enumerate(replicas):
        assert sum(expert in node for node in held) == min(many, num_nodes)
        assert max(node.count(expert) for node in held) == -(-many // num_nodes)


def test_replicas_of_an_expert_go_to_different_gpus_of_a_node_and_the_heaviest_to_the_lightest():
    # Shares 20 (twice), 30, 10 on two GPUs: 30 first, then 20, then 20 where there is none yet (30 + 20), then 10.
    plan = place_balanced(np.array([[2, 1, 1]]), np.array([[40, 30, 10]]), num_nodes=1, num_slots=4)
    assert pack_gpus(plan, np.array([[40, 30, 10]]), 2).tolist() == [[[[1, 0], [0, 2]]]]


def gpu_imbalance(slots, loads, replicas):
    """Load of the heaviest GPU relative to the mean; slots are of shape (layers, GPUs, slots of a GPU)."""
    share = np.take_along_axis(loads / replicas, slots.reshape(len(loads), -1), axis=1)
    gpus = share.reshape(slots.shape).sum(axis=2)
    return gpus.max(axis=1) / gpus.mean(axis=1)


@pytest.mark.parametrize(("num_nodes", "num_gpus", "num_replicas"), [(4, 16, 64), (8, 64, 128), (8, 8, 48)])
def test_recorded_loads_are_as_even_as_after_the_greedy_balancer(shared, num_nodes, num_gpus, num_replicas):
    # Every fiftieth iteration and all layers of the recording.
    loads = np.load(shared / "routing" / "smartmoe.npz")["tokens"][::50].reshape(-1, 32).astype(np.int64)
    physical, _, count = rebalance_experts(loads, num_replicas, 1, num_nodes, num_gpus)
    ours = gpu_imbalance(physical.reshape(len(loads), num_gpus, -1), loads, count)
    plan = place_eplb(loads, num_nodes, num_replicas // num_nodes, num_gpus // num_nodes)
    per_gpu = plan.slots_LNS.reshape(len(loads), num_nodes, num_replicas // num_gpus, -1).swapaxes(2, 3)
    theirs = gpu_imbalance(per_gpu.reshape(len(loads), num_gpus, -1), loads, plan.replicas_LE)
    assert np.median(ours) <= 1.02 * np.median(theirs)


def test_scaling_float_weights_changes_nothing_and_counts_in_any_type_mean_the_same():
    rng = np.random.default_rng(0)
    weight = rng.random((3, 16))
    counts = rng.integers(0, 1000, (3, 16))
    arguments = (32, 1, 4, 8)
    for first, second in (
        (weight, weight * 2.0**-40),
        (weight, weight * 2.0**300),
        (counts, counts.astype(np.float32)),
        (counts, counts.tolist()),
        (counts, counts.astype(np.int32)),
    ):
        for one, other in zip(rebalance_experts(first, *arguments), rebalance_experts(second, *arguments), strict=True):
            assert one.tolist() == other.tolist()


def test_a_layer_without_load_counts_as_evenly_loaded():
    _, _, count = rebalance_experts(np.zeros((1, 4)), 8, 1, 2, 4)
    assert count.tolist() == [[2, 2, 2, 2]]


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_load_is_named(bad):
    weight = np.ones((2, 4))
    weight[1, 2] = bad
    with pytest.raises(SpecError, match=r"^`weight` of expert 2 in layer 1 is (-1\.0|nan|inf); expected .*$"):
        rebalance_experts(weight, 8, 1, 2, 4)


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"weight": [1, 2]}, SpecError, "shape"),
        ({"weight": [[1], [1, 2]]}, SpecError, "rows of equal length"),
        ({"weight": [["a", "b"]]}, SpecError, "numbers"),
        ({"num_replicas": 9}, SpecError, "`num_replicas`: expected a multiple of `num_gpus`, which is 4, found 9"),
        ({"num_gpus": 3}, SpecError, "`num_gpus`: expected a multiple of `num_nodes`"),
        ({"num_nodes": 0}, SpecError, "num_nodes"),
        ({"fault_threshold": 0}, SpecError, "fault_threshold"),
        ({"fault_threshold": None}, SpecError, "fault_threshold`: expected a whole number from 1 up, found None"),
        ({"fault_threshold": 1.5}, SpecError, "fault_threshold`: expected a whole number from 1 up, found 1.5"),
        ({"num_replicas": 8.0}, SpecError, "num_replicas`: expected a whole number from 1 up, found 8.0"),
        ({"num_replicas": "8"}, SpecError, "num_replicas`: expected a whole number from 1 up, found '8'"),
        ({"num_nodes": 2.0}, SpecError, "num_nodes`: expected a whole number from 1 up, found 2.0"),
        ({"num_gpus": None}, SpecError, "num_gpus`: expected a whole number from 1 up, found None"),
        ({"num_ranks": 4}, SpecError, "`num_ranks`: expected this or `num_gpus`, which is the same, found 4 and 4"),
        ({"num_gpus": None, "num_ranks": 3}, SpecError, "`num_ranks`: expected a multiple of `num_nodes`"),
        ({"num_gpus": [2, 2, 2]}, SpecError, "`num_gpus`: expected a number from 1 up for each of 2 nodes"),
        ({"num_gpus": [4, 0]}, SpecError, "num_gpus`: expected a whole number from 1 up, found 0"),
        ({"num_gpus": [3, 2]}, SpecError, "`num_replicas`: expected a multiple of `num_gpus`, which is 5, found 8"),
        ({"num_groups": 0}, SpecError, "num_groups`: expected a whole number from 1 up, found 0"),
        ({"num_groups": -2}, SpecError, "num_groups`: expected a whole number from 1 up, found -2"),
        ({"num_groups": 6}, SpecError, "`num_groups`: expected a number that divides the 4 experts, found 6"),
        ({"num_groups": "x"}, SpecError, "num_groups`: expected a whole number from 1 up, found 'x'"),
        ({"num_groups": 2.0}, SpecError, "num_groups`: expected a whole number from 1 up, found 2.0"),
        ({"num_groups": None, "enable_hierarchical": True}, SpecError, "`num_groups`: expected a number of groups"),
        (
            {"num_groups": 3, "enable_hierarchical": True},
            SpecError,
            "^`enable_hierarchical`: 3 groups are no mult",
        ),
        (
            {"num_groups": 2, "enable_hierarchical": True, "policy": "mro"},
            SpecError,
            "^`enable_hierarchical`: policy 'mro'",
        ),
        (
            {"num_groups": 2, "enable_hierarchical": True, "fault_threshold": 2},
            SpecError,
            "`enable_hierarchical`: `fault_th",
        ),
        ({"enable_hierarchical": "yes"}, SpecError, "`enable_hierarchical`: expected True, False or None, found 'yes'"),
        ({"active_ranks": [True] * 3}, SpecError, "`active_ranks`: expected 0 or 1 for each of 4 GPUs"),
        ({"active_ranks": [0, 1, 2, 1]}, SpecError, "`active_ranks`: expected 0 or 1 for each of 4 GPUs"),
        ({"active_ranks": [0.0] * 4}, SpecError, "`active_ranks`: expected 0 or 1 for each of 4 GPUs, found float64"),
        ({"active_ranks": [0] * 4}, InfeasiblePlanError, "`active_ranks`: no GPU is alive"),
        ({"active_ranks": [0, 0, 1, 1], "live_nodes": [True, False]}, InfeasiblePlanError, "no GPU is alive"),
        ({"active_ranks": [0, 1, 1, 1], "policy": "mro"}, InfeasiblePlanError, "'mro' plans for nodes of equal size"),
        ({"old_global_expert_indices": [[0, 1, 2]]}, SpecError, "expected a multiple of slots of a GPU, which is 2"),
        ({"old_global_expert_indices": [[0, 1, 2, 4] * 2]}, SpecError, "expected integers from -1 to 3 of .*, found 4"),
        ({"old_global_expert_indices": [[0, -2] * 4]}, SpecError, "expected integers from -1 to 3 of .*, found -2"),
        ({"old_global_expert_indices": [[0, 1] * 4] * 2}, SpecError, r"of shape \(1, slots\), found int64 of shape"),
        ({"old_global_expert_indices": [[0.0, 1] * 4]}, SpecError, "expected integers"),
        ({"num_replicas": 10**12, "num_gpus": 10**12}, SpecError, "slots in a layer; give at most"),
        ({"policy": "mor"}, SpecError, "did you mean 'mro'"),
        ({"live_nodes": [0, 1]}, SpecError, "mask of 2 booleans"),
        ({"live_nodes": [True] * 3}, SpecError, "mask of 2 booleans"),
        ({"live_nodes": [False, False]}, InfeasiblePlanError, "no node is alive"),
        ({"num_replicas": 4, "weight": [[1] * 5]}, InfeasiblePlanError, "5 experts need as many slots"),
    ],
)
def test_bad_arguments_are_named_in_one_line(changed, kind, said):
    arguments = {"weight": np.ones((1, 4)), "num_replicas": 8, "num_groups": 1, "num_nodes": 2, "num_gpus": 4}
    with pytest.raises(kind, match=said) as raised:
        rebalance_experts(**(arguments | changed))
    assert isinstance(raised.value, LazsimError)
    assert "\n" not in str(raised.value)


def test_arrays_need_no_torch(run_script):
    script = (
        "import sys; sys.modules['torch'] = None; from lazsim.placement.serving import rebalance_experts; "
        "print(rebalance_experts([[3, 1]], 2, 1, 1, 1)[2].tolist())"
    )
    assert run_script(script) == "[[1, 1]]"
    assert run_script("import sys; import lazsim.placement.serving; print('torch' in sys.modules)") == "False"


def test_tensors_come_back_as_tensors_of_the_same_device_with_the_same_answers():
    torch = pytest.importorskip("torch")
    counts = np.random.default_rng(0).integers(0, 200, (3, 16))
    expected = rebalance_experts(counts, 32, 1, 4, 8, live_nodes=[True, True, False, True])
    # All counts up to 256 are exact in bfloat16.
    for dtype in (torch.int64, torch.int32, torch.float32, torch.bfloat16):
        weight = torch.tensor(counts, dtype=dtype)
        found = rebalance_experts(weight, 32, 1, 4, 8, live_nodes=torch.tensor([True, True, False, True]))
        for tensor, array in zip(found, expected, strict=True):
            assert isinstance(tensor, torch.Tensor)
            assert tensor.dtype == torch.int64
            assert tensor.device == weight.device
            assert tensor.tolist() == array.tolist()
    assert isinstance(rebalance_experts(torch.nn.Parameter(torch.rand(2, 4)), 8, 1, 2, 4)[0], torch.Tensor)


def naive_groups(load, num_groups, num_nodes):
    """The node of each group: heaviest first, to the lightest node that has fewer than its part, or in order."""
    size = len(load) // num_groups
    weights = [sum(load[group * size : (group + 1) * size]) for group in range(num_groups)]
    nodes: list[list[int]] = [[] for _ in range(num_nodes)]
    in_order = num_groups == num_nodes
    for group in sorted(range(num_groups), key=lambda group: (-weights[group] * (not in_order), group)):
        open_nodes = [node for node in nodes if len(node) < num_groups // num_nodes]
        min(open_nodes, key=lambda node: sum(weights[other] for other in node)).append(group)
    return nodes


@st.composite
def grouped_problems(draw):
    num_nodes, gpus_per_node, size = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    num_groups = num_nodes * draw(st.integers(1, 3))
    num_experts, num_gpus = num_groups * size, num_nodes * gpus_per_node
    per_gpu = -(-num_experts // num_gpus) + draw(st.integers(0, 2))
    load = st.lists(st.integers(0, 1000), min_size=num_experts, max_size=num_experts)
    loads = np.array(draw(st.lists(load, min_size=1, max_size=2)))
    return loads, num_gpus * per_gpu, num_groups, num_nodes, num_gpus


@given(grouped_problems())
def test_groups_are_on_the_nodes_of_the_original_hierarchical_policy_and_no_gpu_is_busier_than_its_busiest(problem):
    loads, num_replicas, num_groups, num_nodes, num_gpus = problem
    result = rebalance_experts(*problem)
    check(result, *loads.shape, num_replicas)
    physical, _, count = result
    size, per_node, on_node = loads.shape[1] // num_groups, num_replicas // num_nodes, num_gpus // num_nodes
    for layer, tokens in enumerate(loads.tolist()):
        load = tokens if any(tokens) else [1] * len(tokens)
        groups, busiest, of_original, are_capped, are_greedy = naive_groups(load, num_groups, num_nodes), [], [], [], []
        for node, own in enumerate(groups if num_nodes > 1 else [range(num_groups)]):
            experts = [group * size + expert for group in own for expert in range(size)]
            assert set(physical[layer].reshape(num_nodes, per_node)[node].tolist()) == set(experts)
            own_load = [load[expert] for expert in experts]
            greedily = naive_replicas(own_load, per_node)
            # An expert gets no more replicas than its node has GPUs, if these hold all of them then.
            has_room = on_node * len(own_load) < per_node
            capped = greedily if has_room else capped_replicas(own_load, per_node, on_node)
            # Ties aside, the heaviest replica is that of greedy replication on the node.
            heaviest = max(load[expert] / count[layer, expert] for expert in experts)
            for replicas, are in ((capped, are_capped), (greedily, are_greedy)):
                are.append(heaviest == pytest.approx(max(map(operator.truediv, own_load, replicas))))
            # The original packs its replicas, heaviest first, each on the lightest GPU with a free slot.
            gpus = physical[layer].reshape(num_nodes, on_node, -1)[node].tolist()
            busiest += [sum(load[expert] / count[layer, expert] for expert in gpu) for gpu in gpus]
            shares = [tokens / number for tokens, number in zip(own_load, greedily, strict=True) for _ in range(number)]
            of_original.append(pack(shares, len(gpus), len(gpus[0])))
        # One node keeps no groups.
        assert all(are_capped) or (num_nodes > 1 and all(are_greedy))
        assert num_nodes == 1 or max(busiest) <= max(of_original) * (1 + 1e-9)


def test_an_expert_of_a_group_is_once_on_a_gpu_where_other_experts_can_fill_the_slots():
    # Greedy replication gives expert 0 four of the six slots of its node, which has two GPUs: 25 + 25 + 1 on each. With
    # two of these slots for the others, it is 50 + 1/2 + 1/2.
    physical, _, count = rebalance_experts([[100, 1, 1, 1, 1, 1]], 12, 2, 2, 4)
    assert count[0, :3].tolist() == [2, 2, 2]
    assert all(len({*gpu}) == 3 for gpu in physical.reshape(4, 3).tolist()[:2])
    # One too many: three of four slots, with 30 + 30 on one GPU. With two it is 45 + 5.
    assert rebalance_experts([[90, 10, 1, 1]], 8, 2, 2, 4)[2].tolist() == [[2, 2, 2, 2]]


def capped_replicas(load, num_slots, most):
    """Replicas by greedy replication of experts that have fewer than the most."""
    replicas = [1] * len(load)
    while sum(replicas) < num_slots:
        fewer = [expert for expert, number in enumerate(replicas) if number < most]
        replicas[max(fewer, key=lambda expert: load[expert] / replicas[expert])] += 1
    return replicas


def pack(replicas, num_gpus, num_slots):
    """Return the load of the busiest GPU."""
    gpus = [[] for _ in range(num_gpus)]
    for replica in sorted(replicas, reverse=True):
        min((gpu for gpu in gpus if len(gpu) < num_slots), key=sum).append(replica)
    return max(map(sum, gpus))


def test_the_example_of_the_original_keeps_each_of_four_groups_on_one_of_two_nodes():
    # GPUs with one slot each keep the order of experts, and one group for each node that of groups.
    assert rebalance_experts([[1, 2, 4, 3]], 4, 1, 2, 4, policy="eplb")[0].tolist() == [[0, 1, 2, 3]]
    assert rebalance_experts([[1, 2, 4, 3]], 6, 2, 2, 6)[0].tolist() == [[0, 1, 1, 2, 3, 2]]
    # Twelve experts on 16 slots of 8 GPUs, as in its README, with own loads.
    loads = np.random.default_rng(5).integers(1, 200, (2, 12))
    physical, _, _ = rebalance_experts(loads, 16, 4, 2, 8)
    for first, second in (physical // 3).reshape(2, 2, 8).tolist():
        assert len(set(first)) == len(set(second)) == 2
        assert not set(first) & set(second)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"num_groups": 3}, "3 groups are no multiple of 2 nodes"),
        ({"policy": "spread"}, "policy 'spread' does not keep them together"),
        ({"fault_threshold": 2}, "`fault_threshold` 2 puts an expert on several nodes"),
        # The second node has 2 slots and the first 4, where groups have 3 experts.
        ({"active_ranks": [1, 1, 0, 1], "num_replicas": 8}, "2 groups of 3 experts do not fit whole on these nodes"),
    ],
)
def test_a_warning_says_why_groups_are_split(changed, why):
    arguments = {"weight": np.ones((1, 6)), "num_replicas": 16, "num_groups": 2, "num_nodes": 2, "num_gpus": 4}
    with pytest.warns(UserWarning, match=why):
        _, _, count = rebalance_experts(**(arguments | changed))
    assert count.min() >= 1


@pytest.mark.parametrize("changed", [{"num_groups": None}, {"num_groups": 1}, {"enable_hierarchical": False}])
def test_without_groups_to_keep_nothing_warns_and_the_plan_is_the_global_one(changed):
    arguments = {"weight": [[40, 30, 20, 10]], "num_replicas": 4, "num_groups": 2, "num_nodes": 2, "num_gpus": 2}
    assert rebalance_experts(**(arguments | changed))[0].tolist() == [[0, 3, 1, 2]]
    assert rebalance_experts(**arguments)[0].tolist() == [[0, 1, 2, 3]]


@given(problems(), st.integers(1, 3), st.data())
@settings(max_examples=50)
def test_masks_of_gpus_leave_out_their_slots_and_keep_every_threshold_that_fits(problem, fault_threshold, data):
    loads, num_replicas, num_nodes, num_gpus = problem
    num_layers, num_experts = loads.shape
    per_gpu = num_replicas // num_gpus
    alive = np.array(data.draw(st.lists(st.booleans(), min_size=num_gpus, max_size=num_gpus)))
    call = {"fault_threshold": fault_threshold, "active_ranks": alive.astype(int).tolist()}
    if alive.sum() * per_gpu < num_experts:
        with pytest.raises(InfeasiblePlanError):
            rebalance_experts(loads, num_replicas, 1, num_nodes, num_gpus, **call)
        return
    result = rebalance_experts(loads, num_replicas, 1, num_nodes, num_gpus, **call)
    check(result, num_layers, num_experts, num_replicas)
    assert ((result[0] >= 0) == alive.repeat(per_gpu)).all()
    slots_N = alive.reshape(num_nodes, -1).sum(axis=1) * per_gpu
    kept = min(fault_threshold, most_distinct(num_experts, slots_N[slots_N > 0]))
    for layer, expert in itertools.product(range(num_layers), range(num_experts)):
        assert len(nodes_of(result, layer, expert, num_replicas // num_nodes)) >= kept


def test_nodes_may_have_different_numbers_of_gpus():
    loads = np.random.default_rng(2).integers(1, 1000, (2, 12))
    result = rebalance_experts(loads, 18, 1, 2, [4, 2], fault_threshold=1)
    check(result, 2, 12, 18)
    # The GPUs are as even as where all are alike.
    alike = rebalance_experts(loads, 18, 1, 1, 6)
    uneven, even = (gpu_imbalance(found[0].reshape(2, 6, 3), loads, found[2]) for found in (result, alike))
    assert uneven.mean() <= even.mean() * 1.05
    # Equal numbers, one for each node, are as their sum.
    assert rebalance_experts(loads, 24, 1, 2, [2, 2])[0].tolist() == rebalance_experts(loads, 24, 1, 2, 4)[0].tolist()


def test_a_mask_that_leaves_equal_nodes_plans_as_for_such_nodes():
    loads = np.random.default_rng(3).integers(1, 1000, (1, 8))
    masked, _, _ = rebalance_experts(loads, 16, 1, 2, 8, active_ranks=[1, 0, 1, 0, 0, 1, 0, 1])
    alone, _, _ = rebalance_experts(loads, 8, 1, 2, 4)
    assert masked[masked >= 0].tolist() == alone.ravel().tolist()


def test_the_change_from_an_old_placement_is_logged(caplog):
    with caplog.at_level("INFO", logger="lazsim"):
        rebalance_experts([[40, 30, 20, 10]], 4, 1, 2, 2, [[0, 1, 2, 3]])
    assert caplog.messages == ["2 of 4 replicas moved; busiest GPU 1.400 -> 1.000 of the mean"]
