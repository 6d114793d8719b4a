import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazsim.costmodel.collectives import all_to_all_s, point_to_point_s, ring_all_reduce_s


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


def test_a_message_takes_latency_and_bytes():
    # Parcae's table: 142 us floor and 0.90 GB/s
    assert point_to_point_s(0.9e9, 0.9e9, 142e-6) == pytest.approx(1.000142)


@pytest.mark.parametrize("model", [ring_all_reduce_s, all_to_all_s])
def test_one_rank_or_nothing_to_send_takes_no_time(model):
    assert model([1e9, 0.0], [1, 8], 1e9, 1.0).tolist() == [0.0, 0.0]
    assert point_to_point_s(0.0, 1e9, 1.0) == 0.0


def test_arguments_broadcast():
    assert ring_all_reduce_s(np.ones((3, 1)), [2, 4], 1e9, 1e-6).shape == (3, 2)
    assert all_to_all_s(1e9, 2, np.array([1e9, 2e9]), 0.0).tolist() == [0.5, 0.25]
