"""The calls of vLLM 0.33.0 and SGLang 0.5.23, written anew, against what takes the place of their balancers."""

import enum
import sys

import numpy as np
import pytest

import lazsim
from lazsim.errors import SpecError
from lazsim.placement.adapters import VllmPolicy, sglang_rebalance_experts

LAYERS, EXPERTS, SLOTS, GPUS = 3, 16, 24, 4


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def tokens():
    """Tokens of two steps, shape (steps, layers, experts)."""
    return np.random.default_rng(0).integers(1, 500, (2, LAYERS, EXPERTS))


def trivial(torch):
    """The placement with which both stacks start: experts in turn."""
    return torch.arange(SLOTS).remainder(EXPERTS).repeat(LAYERS, 1)


def count_on(physical, experts):
    return np.array([np.bincount(layer[layer >= 0], minlength=experts) for layer in np.asarray(physical)])


@pytest.mark.parametrize(("num_groups", "num_nodes"), [(1, 1), (1, 2), (4, 2), (8, 1)])
def test_vllm_moves_experts_by_the_one_map_of_the_policy_for_as_long_as_it_asks(torch, tokens, num_groups, num_nodes):
    policies = {"default": VllmPolicy}
    held = trivial(torch)
    for step in (*tokens, *tokens[::-1]):
        # As its asynchronous worker calls it: by position, on the CPU, with the map that is in force.
        window = torch.tensor(step, dtype=torch.int32)
        new = policies["default"].rebalance_experts(window.cpu(), SLOTS, num_groups, num_nodes, GPUS, held.cpu())
        assert new.device == torch.device("cpu")
        assert new.dtype == held.dtype
        assert new.shape == held.shape
        # Its worker then turns both maps into arrays and sends each expert from a rank that had it.
        for old_layer, new_layer in zip(held.numpy(), new.numpy(), strict=True):
            assert set(new_layer.tolist()) == set(range(EXPERTS)) == set(old_layer.tolist())
        # It sums the loads of slots by the map.
        loads = torch.zeros(LAYERS, EXPERTS + 1).scatter_add_(-1, new, torch.ones(LAYERS, SLOTS))
        assert loads[:, :-1].tolist() == count_on(new, EXPERTS).tolist()
        held = new


def test_vllm_in_a_warm_up_without_loads_or_old_map(torch):
    new = VllmPolicy.rebalance_experts(torch.zeros(LAYERS, EXPERTS), SLOTS, 1, 1, GPUS)
    assert set(count_on(new, EXPERTS).ravel().tolist()) == {1, 2}


@pytest.mark.parametrize("num_ranks", [3, 6])
def test_vllm_with_fewer_or_more_ranks_than_the_old_map_keeps_what_the_others_hold(torch, tokens, num_ranks):
    held = trivial(torch)
    new = VllmPolicy.rebalance_experts(torch.tensor(tokens[0]), 6 * num_ranks, 1, 1, num_ranks, held)
    assert new.shape == (LAYERS, 6 * num_ranks)
    assert count_on(new, EXPERTS).min() >= 1
    both = min(num_ranks, GPUS) * 6
    assert (new[:, :both] == held[:, :both]).float().mean() > 0.5


def test_vllm_of_versions_that_expect_three_maps(torch, tokens):
    weight = torch.tensor(tokens[0])
    maps = lazsim.rebalance_experts(weight, SLOTS, 1, 2, GPUS, trivial(torch))
    by_name = lazsim.rebalance_experts(weight=weight, num_replicas=SLOTS, num_groups=1, num_nodes=2, num_ranks=GPUS)
    for physical, slots, count in (maps, by_name):
        assert count.tolist() == count_on(physical, EXPERTS).tolist()
        assert slots.shape == (LAYERS, EXPERTS, int(count.max()))


def test_a_vllm_policy_of_ones_own_takes_further_arguments(torch, tokens):
    class Safe(VllmPolicy):
        options = {"fault_threshold": 2}  # noqa: RUF012

    new = Safe.rebalance_experts(torch.tensor(tokens[0]), 32, 1, 2, GPUS).reshape(LAYERS, 2, 16)
    assert all(set(node.tolist()) == set(range(EXPERTS)) for layer in new for node in layer)


class EplbAlgorithm(enum.Enum):
    deepseek = enum.auto()
    deepseek_hierarchical = enum.auto()
    deepseek_vec = enum.auto()
    deepseek_vec_hierarchical = enum.auto()
    elasticity_aware = enum.auto()
    elasticity_aware_hierarchical = enum.auto()


def check_for_sglang(torch, physical, slots, count):
    """What SGLang does with the three maps: pad the second, count its entries, and index by the first."""
    padded = torch.nn.functional.pad(slots, (0, SLOTS - slots.shape[-1]), value=-1)
    assert torch.equal(torch.count_nonzero(padded != -1, dim=-1), count)
    torch.zeros(LAYERS, EXPERTS).scatter_add_(-1, physical, torch.ones(LAYERS, SLOTS))
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            own = slots[layer, expert][: count[layer, expert]]
            assert physical[layer, own].tolist() == [expert] * len(own)


@pytest.mark.parametrize("algorithm", EplbAlgorithm)
def test_sglang_gets_its_maps_from_every_algorithm_and_no_slot_of_a_dead_rank(torch, tokens, algorithm):
    elastic = algorithm.name.startswith("elasticity_aware")
    active = torch.tensor([1, 1, 0, 1], dtype=torch.int32) if elastic else None
    call = {
        "tokens_per_expert": torch.tensor(tokens),
        "num_physical_experts": SLOTS,
        "num_local_physical_experts": SLOTS // GPUS,
        "num_groups": 4,
        "num_nodes": 2,
        "algorithm": algorithm,
    }
    physical, slots, count = sglang_rebalance_experts(**call, active_ranks=active)
    check_for_sglang(torch, physical, slots, count)
    dead = (slots >= 12) & (slots < 18)
    assert not (elastic and dead.any())
    if algorithm.name.endswith("hierarchical"):
        # The first node has the first 12 slots. Also without the third GPU, three groups fit there and one elsewhere.
        on_first = ((slots >= 0) & (slots < 12)).any(dim=-1).reshape(LAYERS, 4, 4)
        on_second = (slots >= 12).any(dim=-1).reshape(LAYERS, 4, 4)
        assert not (on_first.any(dim=-1) & on_second.any(dim=-1)).any()


def test_sglang_calls_the_function_itself_in_place_of_its_deepseek_algorithms(torch, tokens):
    call = {
        "weight": torch.tensor(tokens.sum(axis=0), dtype=torch.float32),
        "num_replicas": SLOTS,
        "num_nodes": 2,
        "num_gpus": GPUS,
    }
    flat = lazsim.rebalance_experts(**call, num_groups=None, enable_hierarchical=False)
    check_for_sglang(torch, *flat)
    # In their order, without names.
    ordered = lazsim.rebalance_experts(call["weight"], SLOTS, 4, 2, GPUS, True)
    named = lazsim.rebalance_experts(**call, num_groups=4, enable_hierarchical=True)
    assert ordered[0].tolist() == named[0].tolist()
    alive = torch.tensor([1, 1, 1, 1])
    elastic = lazsim.rebalance_experts(**call, num_groups=4, enable_hierarchical=True, active_ranks=alive)
    assert elastic[0].tolist() == named[0].tolist()


def test_what_sglang_adds_of_its_own_is_passed_on(torch, tokens):
    held = trivial(torch)
    new, _, _ = sglang_rebalance_experts(
        torch.tensor(tokens), SLOTS, 6, None, 1, old_global_expert_indices=held, move_cost=100
    )
    assert new.tolist() == held.tolist()
    arrays = sglang_rebalance_experts(tokens, SLOTS, 6, None, 1)
    assert all(isinstance(array, np.ndarray) for array in arrays)


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"tokens_per_expert": np.ones((3, 16))}, SpecError, r"\(steps, layers, experts\), found \(3, 16\)"),
        ({"num_local_physical_experts": 5}, SpecError, "a divisor of num_physical_experts, which is 24, found 5"),
        ({"num_local_physical_experts": 0}, SpecError, "found 0"),
        ({"algorithm": EplbAlgorithm.elasticity_aware}, SpecError, "^`active_ranks`: expected the mask"),
        ({"algorithm": "deepseek_hierarchical", "num_groups": None}, SpecError, "^`num_groups`: .* found None"),
        ({"algorithm": "deepseek_hierarchical", "num_groups": 3}, SpecError, "3 groups are no multiple of 2 nodes"),
        ({"enable_hierarchical": True, "num_groups": 3}, SpecError, "3 groups are no multiple of 2 nodes"),
    ],
)
def test_what_sglang_cannot_mean_is_refused(tokens, changed, kind, said):
    call = {"tokens_per_expert": tokens, "num_physical_experts": 24, "num_local_physical_experts": 6, "num_groups": 4,
            "num_nodes": 2}  # fmt: skip
    with pytest.raises(kind, match=said):
        sglang_rebalance_experts(**(call | changed))


@pytest.mark.parametrize("case", ["eplb-callers-today", "eplb-duplicates-on-a-gpu", "eplb-groups"])
def test_calls_that_users_reported_work(case, shared, run_process):
    run_process(sys.executable, str(shared / "cases" / case / "check.py"))
