"""The step model against hand counts of tokens, bytes and operations."""

from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.costmodel.compute import AnalyticCompute
from lazsim.costmodel.costs import NodeDispatch
from lazsim.costmodel.network import AnalyticCommunication
from lazsim.costmodel.recovery_times import checkpoint_load_s, checkpoint_save_s, transfer_s
from lazsim.costmodel.step import KernelCosts, StepCost
from lazsim.errors import SpecError
from lazsim.placement.allocation import allocate
from lazsim.placement.expert_parallel import place_ep
from lazsim.placement.mro import place_mro
from lazsim.placement.plan import PlacementPlan
from lazsim.specs import ClusterSpec, GpuSpec, JobSpec, ModelSpec, StepConstants, load_spec
from tests.jobs import FixedCommunication, FixedCompute

STEP = load_spec(StepConstants, "training")
TOKENS = 4 * 1024


class CountTokens(FixedCompute):
    """An expert takes a second for each token, and so does the reorder."""

    def expert_s(self, num_tokens):
        return num_tokens

    def reorder_s(self, num_tokens):
        return num_tokens

    def masked_reorder_s(self, num_tokens, capacity):
        return capacity


@dataclass(frozen=True)
class CountBytes:
    """A collective takes a second for each byte that its busiest link carries."""

    local: bool = False

    def all_to_all_s(self, nic_bytes, local_bytes):
        # The exchange of counts, one byte long here, is left out.
        return np.where((local_bytes if self.local else nic_bytes) > 1, local_bytes if self.local else nic_bytes, 0.0)

    def all_reduce_s(self, nic_bytes, local_bytes, nic_hops, local_hops):
        return local_bytes if self.local else nic_bytes

    def transfer_s(self, nic_bytes, local_bytes):
        return local_bytes if self.local else nic_bytes

    def save_s(self, num_bytes, writer_bytes):
        return num_bytes

    def load_s(self, num_bytes, reader_bytes):
        return num_bytes


def costs(model="gpt-s", cluster="rtx3090x10", compute=None, communication=None, **job):
    job_spec = msgspec.structs.replace(load_spec(JobSpec, "testbed-a"), **job)
    return KernelCosts(
        load_spec(ModelSpec, model),
        load_spec(ClusterSpec, cluster),
        job_spec,
        STEP,
        communication or FixedCommunication(),
        compute or FixedCompute(0.0),
    )


def parts(cost_model, plan, dispatch, load):
    found = StepCost(cost_model, plan, dispatch).parts_s(np.asarray(load)[None])
    return {name: float(seconds[0]) for name, seconds in found.items()}


def apart(num_nodes):
    return NodeDispatch(np.arange(num_nodes))


def test_model_sizes_are_the_published_ones():
    sizes = {name: load_spec(ModelSpec, name).total_params for name in ("gpt-s", "gpt-m", "gpt-l", "deepseek-v3")}
    assert [round(sizes[name] / 1e6) for name in ("gpt-s", "gpt-m", "gpt-l")] == [521, 1311, 1714]
    assert round(sizes["deepseek-v3"] / 1e9) == 671
    assert [load_spec(ModelSpec, name).expert_state_bytes / 2**20 for name in ("gpt-s", "gpt-l")] == [63, 112]


def test_the_rank_with_most_tokens_sets_the_time_of_a_layer():
    # Two nodes, 8 experts, 6 slots: node 0 holds 0-5, node 1 holds 6 and 7. Of 8192 tokens expert 7 gets a half.
    slots = np.array([[0, 1, 2, 3, 4, 5], [6, 7, -1, -1, -1, -1]])
    plan = PlacementPlan(np.broadcast_to(slots, (12, 2, 6)), 8)
    load = np.tile([1, 1, 1, 1, 1, 1, 2, 8], (12, 1))
    found = parts(costs(compute=CountTokens(2.0)), plan, apart(2), load)
    assert found["expert"] == pytest.approx(12 * 2 * TOKENS * 10 / 16)
    assert found["reorder"] == pytest.approx(12 * TOKENS)


def test_replicas_share_an_experts_tokens():
    plan = PlacementPlan(np.broadcast_to(np.array([[0, 1], [1, 1]]), (12, 2, 2)), 2)
    cost_model = replace(costs(compute=CountTokens(2.0)), model=load_spec(ModelSpec, "gpt-s"))
    # Of 8192 tokens expert 0 gets 2048 on node 0; expert 1 gets 6144, a third of it on node 0: 4096 on each.
    found = parts(cost_model, plan, apart(2), np.tile([1, 3], (12, 1)))
    assert found["expert"] == pytest.approx(12 * 4096)


def test_thousands_of_nodes_make_the_same_step_in_any_order():
    rng = np.random.default_rng(0)
    load = rng.integers(1, 1000, (12, 8))
    # In order, nodes with the same experts follow each other; mixed, hardly any do.
    plan = place_mro(allocate(load, 4000 * 6, 2), 4000, 6)
    mixed = plan.nodes(rng.permutation(4000))
    cost_model = costs(compute=CountTokens(2.0), communication=CountBytes())
    assert parts(cost_model, plan, apart(4000), load) == pytest.approx(parts(cost_model, mixed, apart(4000), load))
    for one in (plan, mixed):
        assert np.array_equal(one.nodes_LE, one.holds_LEN.sum(axis=2))
        assert np.array_equal(one.num_held_N, one.holds_LEN.sum(axis=(0, 1)))


def test_padding_makes_every_expert_as_large_as_the_fullest():
    # 8 experts in groups of 2 nodes with 4 each; the fullest draws half of the 16384 tokens of 4 nodes, that is 8192,
    # shared by 2 groups: each node computes 4 buffers of 4096. Each GPU's buffer for an expert has 8192 / 4 rows.
    plan, load = place_ep(12, 8, 4, 1, 6), np.tile([1, 1, 1, 1, 1, 1, 1, 7], (12, 1))
    dispatch = NodeDispatch(np.arange(4), np.arange(4) // 2, padded=True, masked_reorder=True)
    found = parts(costs(compute=CountTokens(2.0)), plan, dispatch, load)
    assert found["expert"] == pytest.approx(12 * 4 * 4096)
    assert found["reorder"] == pytest.approx(12 * 2048)
    unpadded = parts(costs(compute=CountTokens(2.0)), plan, replace(dispatch, padded=False), load)
    # Experts 4 to 7 draw 1 + 1 + 1 + 7 of 14 parts of 16384 tokens, in each group half of that.
    assert unpadded["expert"] == pytest.approx(12 * 16384 * 10 / 14 / 2)


def test_sparse_kernels_move_routed_tokens_and_buffers_are_regrouped_whole():
    # As above, 2048 rows of each of 8 experts: 16384 rows in the buffers of a GPU, 4096 of which are tokens. Tokens are
    # copied 4 times, buffers 4 times and zeroed twice, half a copy each; a reorder of 8 copies of a row takes a second.
    plan, load = place_ep(12, 8, 4, 1, 6), np.tile([1, 1, 1, 1, 1, 1, 1, 7], (12, 1))
    found = parts(
        costs(compute=CountTokens(2.0)), plan, NodeDispatch(np.arange(4), np.arange(4) // 2, padded=True), load
    )
    assert found["reorder"] == pytest.approx(12 * (4 * 4096 + 5 * 16384) / 8)
    # Exchanges and experts are those of buffers with masks.
    assert found["expert"] == pytest.approx(12 * 4 * 4096)


def pass_s(exchange_s, expert_s, num_chunks):
    """Play one pass on the queues of the network and of the GPU: every chunk comes in, is computed and goes out."""
    network_s, gpu_s, computed_s = 0.0, 0.0, []
    for _ in range(num_chunks):
        network_s += exchange_s / num_chunks
        gpu_s = max(gpu_s, network_s) + expert_s / num_chunks
        computed_s.append(gpu_s)
    for done_s in computed_s:
        network_s = max(network_s, done_s) + exchange_s / num_chunks
    return network_s


@given(
    rates=st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)),
    fixed=st.tuples(st.floats(0, 1e4), st.floats(0, 1e4)),
    heaviest=st.integers(1, 20),
)
def test_exchanges_go_behind_experts_in_the_fastest_number_of_chunks(rates, fixed, heaviest):
    # An exchange of the buffers and their experts, each with a fixed time that every chunk takes.
    class Experts(FixedCompute):
        def expert_s(self, num_tokens):
            return (fixed[0] + rates[0] * num_tokens) * (num_tokens > 0)

    class Exchanges(CountBytes):
        def all_to_all_s(self, nic_bytes, local_bytes):
            return np.where(nic_bytes > 1, fixed[1] + rates[1] * nic_bytes / 1536, 0.0)

    # Two nodes are a group of 8 experts, 4 each. The fullest has h / (h + 7) of 8192 tokens, and so has every buffer;
    # of 8 buffers a node sends the half of its own rows that are for the 4 experts of the other.
    plan, load = place_ep(12, 8, 2, 1, 6), np.tile([1] * 7 + [heaviest], (12, 1))
    dispatch = NodeDispatch(np.arange(2), np.zeros(2, dtype=np.int64), padded=True, most_chunks=8)
    found = parts(costs(compute=Experts(0.0), communication=Exchanges()), plan, dispatch, load)
    rows = 8192 * heaviest / (heaviest + 7)

    def layer_s(chunks):
        expert_s = 4 * (chunks * fixed[0] + rates[0] * rows)
        exchange_s = chunks * fixed[1] + rates[1] * 4 * rows / 2
        return pass_s(exchange_s, expert_s / 3, chunks) + pass_s(exchange_s, expert_s * 2 / 3, chunks)

    best_s = min(layer_s(chunks) for chunks in range(1, 9))
    assert found["expert"] + found["all_to_all"] == pytest.approx(12 * best_s)


def test_all_to_all_carries_the_tokens_that_leave_a_server_four_times():
    # 8 experts even on 2 nodes in EP: each node keeps half of its 4096 tokens and sends half, 768 wide, 2 bytes each;
    # dispatch and combine, forward and backward, in 12 layers.
    plan = place_ep(12, 8, 2, 1, 6)
    load = np.ones((12, 8), dtype=np.int64)
    found = parts(
        costs(communication=CountBytes()), plan, NodeDispatch(np.arange(2), np.zeros(2, dtype=np.int64)), load
    )
    assert found["all_to_all"] == pytest.approx(12 * 4 * 2048 * 768 * 2)
    flexible = parts(costs(communication=CountBytes()), plan, apart(2), load)
    assert flexible["all_to_all"] == found["all_to_all"]


def test_nodes_of_one_server_share_its_nic_and_exchange_inside_it():
    # 4 nodes in 2 servers, one group of 4 for 16 experts: a node sends 1/4 of its tokens to each. To the other go
    # 2 nodes * 4096 * 2/4; inside a server each node sends 4096/4.
    plan, load = place_ep(12, 16, 4, 1, 6), np.ones((12, 16), dtype=np.int64)
    dispatch = NodeDispatch(np.array([0, 0, 1, 1]), np.zeros(4, dtype=np.int64))
    width = 12 * 4 * 1024 * 2
    across = parts(costs("gpt-l", communication=CountBytes()), plan, dispatch, load)["all_to_all"]
    assert across == pytest.approx(width * 2 * TOKENS / 2)
    inside = parts(costs("gpt-l", communication=CountBytes(local=True)), plan, dispatch, load)["all_to_all"]
    assert inside == pytest.approx(width * TOKENS / 4)


def test_gradients_are_reduced_over_all_nodes_and_experts_over_their_replicas():
    # 4 nodes, 2 EP groups: every expert on 2 nodes. A ring over n sends 2 (n - 1) / n of 2 bytes per parameter:
    # dense 2 * 3/4, and of each of the 12 * 4 experts of a node 2 * 1/2.
    model = load_spec(ModelSpec, "gpt-s")
    plan = place_ep(12, 8, 4, 1, 6)
    dispatch = NodeDispatch(np.arange(4), np.arange(4) // 2)
    found = parts(costs(communication=CountBytes()), plan, dispatch, np.ones((12, 8), dtype=np.int64))
    expert_bytes, dense_bytes = 2 * 8 * 768**2, 2 * model.dense_params
    assert found["gradients"] == pytest.approx(dense_bytes * 1.5 + 12 * 4 * expert_bytes)
    # With both replicas in one server nothing of the experts crosses a NIC.
    together = parts(
        costs(communication=CountBytes()),
        plan,
        NodeDispatch(np.array([0, 1, 0, 1]), np.arange(4) // 2),
        np.ones((12, 8), dtype=np.int64),
    )
    assert together["gradients"] == pytest.approx(dense_bytes * 1.5)


@dataclass(frozen=True)
class CountHops(FixedCommunication):
    """An all-reduce takes a second for each hop inside a server and 1000 for each between servers."""

    def all_reduce_s(self, nic_bytes, local_bytes, nic_hops, local_hops):
        return 1000 * nic_hops + local_hops


def hops(slots, servers, **cluster):
    """Seconds of `CountHops` for gradients of one plan in each of the 12 layers."""
    cost_model = costs(communication=CountHops())
    cost_model = replace(cost_model, cluster=msgspec.structs.replace(cost_model.cluster, **cluster))
    plan = PlacementPlan(np.broadcast_to(np.array(slots), (12, *np.shape(slots))), 3)
    return parts(cost_model, plan, NodeDispatch(np.array(servers)), np.ones((12, 3), dtype=np.int64))["gradients"]


def test_a_gpu_takes_part_in_every_hop_of_the_rings_of_its_experts():
    # Two servers of two nodes of one GPU. A ring over n nodes on V servers makes 2 (n - 1) hops, 2 (V - 1) of them
    # between servers. Expert 0 is on nodes 0, 1 and 2: 2 + 2 hops; expert 1 on 0 and 1: 0 + 2; expert 2, twice on node
    # 3, has none. Node 0 makes those of experts 0 and 1, 2 + 4 in each of 12 layers; the dense part over 4 nodes 2 + 4.
    slots = [[0, 1], [0, 1], [0, -1], [2, 2]]
    assert hops(slots, [0, 0, 1, 1]) == 12 * 2004 + 2004
    # Every node its own server: all of the 4 + 2 hops of node 0, and all 6 of the dense part, are between servers.
    assert hops(slots, [0, 1, 2, 3]) == 12 * 6000 + 6000


def test_gpus_of_a_node_reduce_their_experts_at_the_same_time():
    # Three nodes of two GPUs; even slots are on the first. Expert 0, on all three nodes: 4 hops; expert 1, on two: 2.
    # On one GPU of node 0 they follow each other, 6 hops; apart they overlap, 4. The dense part makes 4.
    assert hops([[0, -1, 1, 2], [0, 1, -1, -1], [0, -1, -1, -1]], [0, 1, 2], gpus_per_node=2) == 12 * 6000 + 4000
    assert hops([[0, 1, 2, -1], [0, 1, -1, -1], [0, -1, -1, -1]], [0, 1, 2], gpus_per_node=2) == 12 * 4000 + 4000
    # A second replica on the same GPU joins the first before the ring.
    assert hops([[0, 1, 0, 2], [0, 1, -1, -1], [0, -1, -1, -1]], [0, 1, 2], gpus_per_node=2) == 12 * 4000 + 4000


def test_nodes_of_one_server_each_send_a_ring_over_their_own_link():
    # Both replicas of each of the 12 * 4 experts of a node in one server: each of the two GPUs sends half of the
    # gradient twice. The dense part goes over all four: three quarters of it twice.
    plan, dispatch = place_ep(12, 8, 4, 1, 6), NodeDispatch(np.array([0, 1, 0, 1]), np.arange(4) // 2)
    cost_model = costs(communication=CountBytes(local=True))
    found = parts(cost_model, plan, dispatch, np.ones((12, 8), dtype=np.int64))
    assert found["gradients"] == 12 * 4 * 2 * 8 * 768**2 + 2 * 3 / 4 * 2 * cost_model.model.dense_params


def test_a_ring_waits_for_the_last_of_its_nodes():
    # One node a server, rings of two nodes: 2 hops each. Rings 0 and 1 run side by side, and 2, which joins them, after
    # both: 4 hops, as many as nodes 1 and 2 have.
    assert hops([[0, -1], [0, 2], [1, 2], [1, -1]], [0, 1, 2, 3]) == 12 * 4000 + 6000
    # A chain of three: no node has more than 4 hops, and the last begins after the second.
    assert hops([[0, -1], [0, 1], [1, 2], [2, -1]], [0, 1, 2, 3]) == 12 * 6000 + 6000


def test_a_gpu_waits_for_a_host_that_launches_slower_than_it_computes():
    # 53 kernels of a layer and 3 of each of 4 experts forward, 30 and 6 backward, and no work on the GPU; in
    # each layer the time until a count is read and until the next kernel is launched.
    constants = STEP
    launch_s, wait_s = constants.host_launch_s, constants.host_wait_s + constants.host_launch_s
    found = parts(costs(), place_ep(12, 8, 4, 1, 6), apart(4), np.ones((12, 8), dtype=np.int64))
    assert found["host"] == pytest.approx(12 * ((53 + 3 * 4 + 30 + 6 * 4) * launch_s + wait_s))
    # A GPU that is busy for longer waits for the counts alone.
    busy = costs(compute=FixedCompute(10.0))
    found = parts(busy, place_ep(12, 8, 4, 1, 6), apart(4), np.ones((12, 8), dtype=np.int64))
    assert found["host"] == pytest.approx(12 * wait_s)


def test_a_save_takes_serialising_and_the_storage_one_after_the_other():
    model = load_spec(ModelSpec, "gpt-l")
    # Four nodes hold the experts once, 48 each; one of them writes the dense state, too. 0.7 GB/s each, 0.9 together.
    writer = 14 * model.dense_params + 48 * 112 * 2**20
    expected = writer / 0.7e9 + 14 * model.total_params / 0.9e9
    assert checkpoint_save_s(_analytic(model, "rtx3090x10"), 10) == pytest.approx(expected)
    # EFS gives back faster than it takes: 4 nodes read the dense state and 4 * 12 experts each.
    plan, node = place_ep(12, 16, 4, 1, 6), 14 * model.dense_params + 48 * 112 * 2**20
    loaded_s = checkpoint_load_s(_analytic(model, "a10gx16"), plan)
    assert loaded_s == pytest.approx(node / 0.7e9 + 4 * node / 0.333e9)


def test_a_save_that_someone_measured_takes_as_long_and_that_of_some_experts_its_share():
    model = load_spec(ModelSpec, "gpt-l")
    known = _analytic(model, "rtx3090x10", checkpoint_save_s=40.0)
    assert checkpoint_save_s(known, 10) == 40.0
    experts = 1 - model.dense_params / model.total_params
    assert checkpoint_save_s(known, 10, experts_share=0.25) == pytest.approx(40.0 * (1 - 0.75 * experts))


def test_a_checkpoint_is_saved_once_and_loaded_by_every_node_that_needs_it():
    cost_model = costs(communication=CountBytes())
    model = cost_model.model
    assert checkpoint_save_s(cost_model, 4) == 14 * model.total_params
    expected = 4 * 14 * model.dense_params + 4 * 4 * 12 * 63 * 2**20
    assert checkpoint_load_s(cost_model, place_ep(12, 8, 4, 1, 6)) == expected


def test_a_transfer_takes_as_long_as_the_busiest_nic():
    # Nodes 0 and 1 share a server: out of it go 5 + 6 bytes, into it 1; inside it 100.
    sent = np.array([[0, 100, 5], [0, 0, 6], [1, 0, 0]])
    servers = np.array([0, 0, 1])
    # Node 0 has both others as peers, and connects to one after the other.
    connect_s = 2 * 0.056
    assert transfer_s(costs(communication=CountBytes()), sent, servers) == 11 + connect_s
    assert transfer_s(costs(communication=CountBytes(local=True)), sent, servers) == 100 + connect_s
    assert transfer_s(costs(communication=CountBytes()), np.zeros((3, 3)), servers) == 0
    # Inside a server a node waits for all that it receives, as for all that it sends.
    gathered = np.array([[0, 0, 7], [0, 0, 8], [0, 0, 0]])
    for moved in (gathered, gathered.T):
        assert transfer_s(costs(communication=CountBytes(local=True)), moved, np.zeros(3, int)) == 15 + connect_s


def test_accumulated_micro_batches_repeat_all_but_the_update():
    model = load_spec(ModelSpec, "gpt-s")
    plan, load = place_ep(12, 8, 4, 1, 6), np.ones((12, 8), dtype=np.int64)
    once, many = (
        parts(_analytic(model, "a10gx16", num_micro_batches=number), plan, apart(4), load) for number in (1, 20)
    )
    for name in ("dense", "expert", "reorder", "all_to_all"):
        assert many[name] == pytest.approx(20 * once[name])
    for name in ("gradients", "optimizer"):
        assert many[name] == once[name]


def _analytic(model, cluster, **job):
    cluster_spec = load_spec(ClusterSpec, cluster)
    job_spec = msgspec.structs.replace(load_spec(JobSpec, "testbed-a"), **job)
    compute = AnalyticCompute(model, load_spec(GpuSpec, cluster_spec.gpu), cluster_spec, job_spec, STEP)
    links = AnalyticCommunication(cluster_spec.network, cluster_spec.host)
    return KernelCosts(model, cluster_spec, job_spec, STEP, links, compute)


def test_on_a_gpu_that_loses_nothing_compute_is_operations_over_peak():
    model = load_spec(ModelSpec, "gpt-l")
    cluster = load_spec(ClusterSpec, "rtx3090x10")
    job = msgspec.structs.replace(load_spec(JobSpec, "testbed-a"), activation_passes=0.0, logit_passes=0.0)
    ideal = msgspec.structs.replace(
        load_spec(GpuSpec, "rtx3090"),
        matmul_efficiency=1.0,
        matmul_fill_outputs=0.0,
        matmul_fill_k=0.0,
        matmul_memory_efficiency=1e9,
        memory_efficiency=1e9,
        kernel_overhead_s=0.0,
    )
    compute = AnalyticCompute(model, ideal, cluster, job, STEP)
    # 6 operations per parameter and token (2 forward, 4 backward), an expert of 8 d^2 parameters.
    expected = 6 * 1000 * 8 * 1024**2 / 71e12
    assert float(compute.expert_s(np.array(1000.0))) == pytest.approx(expected, rel=1e-6)
    # Attention 4 d^2, gate 16 d in each of 12 layers, output layer 50257 d; causal scores: 2 * 2 d for half of 1024.
    params = 12 * (4 * 1024**2 + 16 * 1024) + 50257 * 1024
    operations = 6 * TOKENS * params + 3 * 12 * TOKENS * 512 * 2 * 2 * 1024
    assert compute.dense_s(TOKENS) == pytest.approx(operations / 71e12, rel=1e-6)


@given(st.lists(st.integers(0, 1000), min_size=16, max_size=16), st.integers(3, 10))
def test_no_plan_computes_faster_than_an_even_split_of_all_tokens(load, num_nodes):
    load_LE = np.tile(load if any(load) else [1] * 16, (12, 1))
    plan = place_mro(allocate(load_LE, num_nodes * 6, 2), num_nodes, 6)
    found = parts(costs("gpt-l", compute=CountTokens(2.0)), plan, apart(num_nodes), load_LE)
    assert found["expert"] >= 12 * TOKENS - 1e-6


def test_fused_experts_take_what_was_measured_of_them_and_nothing_else_changes():
    model, cluster = load_spec(ModelSpec, "gpt-l"), load_spec(ClusterSpec, "a100x16")
    gpu, job = load_spec(GpuSpec, "a100"), load_spec(JobSpec, "testbed-a")
    separate = AnalyticCompute(model, gpu, cluster, job, STEP)
    fused = AnalyticCompute(model, gpu, cluster, msgspec.structs.replace(job, expert_kernels="fused"), STEP)
    # 2^20 tokens: only the share of the peak counts, 0.836 of it in dense matmuls and 0.288 in fused kernels.
    ratio = float(fused.expert_s(np.array(2.0**20)) / separate.expert_s(np.array(2.0**20)))
    assert ratio == pytest.approx(0.836 / 0.288, rel=0.2)
    assert fused.dense_s(4096) == separate.dense_s(4096)
    assert fused.optimizer_s(np.array(1e9)) == separate.optimizer_s(np.array(1e9))


def test_fused_experts_are_refused_where_none_were_measured():
    model, cluster = load_spec(ModelSpec, "gpt-l"), load_spec(ClusterSpec, "rtx3090x10")
    job = msgspec.structs.replace(load_spec(JobSpec, "testbed-a"), expert_kernels="fused")
    with pytest.raises(SpecError, match="no such kernel was measured on rtx3090"):
        AnalyticCompute(model, load_spec(GpuSpec, "rtx3090"), cluster, job, STEP)
