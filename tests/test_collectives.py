import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.costmodel.compute import AnalyticCompute
from lazsim.costmodel.network import AnalyticCommunication, all_to_all_s, ring_all_reduce_s
from lazsim.specs import ClusterSpec, GpuSpec, HostSpec, JobSpec, ModelSpec, NetworkSpec, StepConstants, load_spec


def ring_by_steps(num_bytes, num_ranks, bytes_per_s, latency_s):
    """A reduce-scatter and an all-gather, hop by hop: each passes one chunk on."""
    seconds = 0.0
    for _phase in ("reduce-scatter", "all-gather"):
        for _hop in range(num_ranks - 1):
            seconds += latency_s + num_bytes / num_ranks / bytes_per_s
    return seconds


@given(st.floats(1, 1e10), st.integers(1, 64), st.floats(1e6, 1e12), st.floats(0, 1))
def test_a_ring_all_reduce_takes_what_its_hops_take(num_bytes, num_ranks, bytes_per_s, latency_s):
    expected = ring_by_steps(num_bytes, num_ranks, bytes_per_s, latency_s)
    assert ring_all_reduce_s(num_bytes, num_ranks, bytes_per_s, latency_s) == pytest.approx(expected)


def test_an_all_to_all_sends_all_but_a_ranks_own_share():
    # 8 ranks: 7 of 8 GB leave at 1 GB/s, after one latency
    assert all_to_all_s(8e9, 8, 1e9, 0.25) == pytest.approx(7.25)


@pytest.mark.parametrize("model", [ring_all_reduce_s, all_to_all_s])
def test_one_rank_or_nothing_to_send_takes_no_time(model):
    assert model([1e9, 0.0], [1, 8], 1e9, 1.0).tolist() == [0.0, 0.0]


def test_arguments_broadcast():
    assert ring_all_reduce_s(np.ones((3, 1)), [2, 4], 1e9, 1e-6).shape == (3, 2)
    assert all_to_all_s(1e9, 2, np.array([1e9, 2e9]), 0.0).tolist() == [0.5, 0.25]


def test_all_reduces_inside_a_server_have_a_bandwidth_and_a_latency_of_their_own():
    network = NetworkSpec(
        nic_bytes_per_s=10e9,
        all_to_all_efficiency=0.5,
        all_reduce_efficiency=0.25,
        point_to_point_efficiency=1.0,
        nic_latency_s=1.0,
        local_bytes_per_s=20e9,
        local_latency_s=0.5,
        local_all_reduce_bytes_per_s=40e9,
        local_all_reduce_latency_s=0.125,
        storage_bytes_per_s=1e9,
    )
    links = AnalyticCommunication(network, HostSpec())
    nic, local = np.array([0.0, 10e9]), np.array([40e9, 0.0])
    # 40 GB inside at 20 GB/s after 0.5 s; 10 GB across at half of 10 GB/s after 1 s
    assert links.all_to_all_s(nic, local).tolist() == [2.5, 3.0]
    assert links.transfer_s(nic, local).tolist() == [2.5, 2.0]
    # 40 GB inside at 40 GB/s and 2 hops of 0.125 s; 10 GB across at a quarter of 10 GB/s, 2 hops of 1 s, 4 of 0.125 s
    hops = np.array([0.0, 2.0]), np.array([2.0, 4.0])
    assert links.all_reduce_s(nic, local, *hops).tolist() == [1.25, 6.5]


@pytest.mark.parametrize(("name", "field", "num_reduces"), [
    # 12 layers of two blocks, or 52 of one; each block takes an all-reduce forward and one backward.
    ("gpt-l", "local_all_reduce_bytes_per_s", 2 * 2 * 12), ("gpt-l", "local_bytes_per_s", 0),
    ("nemotron-3-nano", "local_all_reduce_bytes_per_s", 2 * 52),
])  # fmt: skip
def test_tensor_parallelism_reduces_over_the_links_of_all_reduces(name, field, num_reduces):
    cluster = load_spec(ClusterSpec, "h200x64")
    halved = msgspec.structs.replace(
        cluster, network=msgspec.structs.replace(cluster.network, **{field: getattr(cluster.network, field) / 2})
    )
    model, gpu, job = load_spec(ModelSpec, name), load_spec(GpuSpec, "h200"), load_spec(JobSpec, "testbed-a")
    step = load_spec(StepConstants, "training")
    before, after = (AnalyticCompute(model, gpu, spec, job, step).dense_s(32768) for spec in (cluster, halved))
    # Of 32768 x 1024 (or 2688) x 2 bytes over 8 GPUs, 7/8 goes twice through each link at 414 GB/s.
    width = {"gpt-l": 1024, "nemotron-3-nano": 2688}[name]
    assert after - before == pytest.approx(num_reduces * 2 * 7 / 8 * 32768 * width * 2 / 4.14e11)
