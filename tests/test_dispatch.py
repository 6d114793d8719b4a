import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lazsim.dispatch import Partition, dispatch_tokens, flexible_traffic, grouped_traffic
from lazsim.errors import SpecError
from lazsim.loads import MAX_SENT_TOKENS
from lazsim.placement.expert_parallel import place_ep


@st.composite
def problems(draw):
    num_experts, num_ranks = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    tokens = draw(hnp.arrays(np.int64, (num_experts, num_ranks), elements=st.integers(0, 500)))
    replicas = draw(hnp.arrays(np.int64, (num_experts, num_ranks), elements=st.integers(0, 3)))
    replicas[:, 0] += replicas.sum(axis=1) == 0
    return tokens, replicas


@given(problems())
def test_every_token_is_sent_once_and_every_replica_gets_its_quota_within_one_token(problem):
    tokens, replicas = problem
    sent = dispatch_tokens(tokens, replicas)
    assert (sent >= 0).all()
    assert (sent.sum(axis=2) == tokens).all()
    quota = tokens.sum(axis=1, keepdims=True) / replicas.sum(axis=1, keepdims=True) * replicas
    assert (np.abs(sent.sum(axis=1) - quota) < 1).all()


@given(problems())
def test_own_tokens_come_first_and_a_rank_with_capacity_left_sends_none_away(problem):
    tokens, replicas = problem
    sent = dispatch_tokens(tokens, replicas)
    kept = np.einsum("eii->ei", sent)
    received = sent.sum(axis=1)
    assert (kept == np.minimum(tokens, received)).all()


@given(st.lists(st.integers(0, MAX_SENT_TOKENS), max_size=4), st.lists(st.integers(0, 9), min_size=5, max_size=5))
def test_the_most_tokens_are_dispatched_as_in_unbounded_integers(cuts, replicas):
    cuts = [0, *sorted(cuts), *[MAX_SENT_TOKENS] * (5 - len(cuts))]
    tokens = [high - low for low, high in itertools.pairwise(cuts)]
    replicas[0] += 1
    ends = [sum(replicas[: rank + 1]) * MAX_SENT_TOKENS // sum(replicas) for rank in range(5)]
    left = [high - low for low, high in itertools.pairwise([0, *ends])]
    own = list(map(min, tokens, left))
    left = [room - kept for room, kept in zip(left, own, strict=True)]
    found = dispatch_tokens(np.array([tokens], dtype=np.uint64), np.array([replicas]))[0].tolist()
    for source in range(5):
        over, room = tokens[source] - own[source], left
        ends = [over * sum(room[: rank + 1]) // max(sum(room), 1) for rank in range(5)]
        sent = [high - low for low, high in itertools.pairwise([0, *ends])]
        left = [have - part for have, part in zip(room, sent, strict=True)]
        sent[source] += own[source]
        assert found[source] == sent


def test_more_tokens_than_can_be_dispatched_exactly_are_refused():
    with pytest.raises(SpecError, match="tokens: an expert has more than 2,147,483,648"):
        dispatch_tokens(np.array([[2**31, 1]]), np.array([[1, 1]]))


def test_what_is_over_goes_to_the_others_in_proportion_to_their_capacity_left():
    # 12 tokens at rank 0; replicas 0, 1 and 3: quota 3 for each, so rank 1 takes 3 and rank 2 takes 9.
    assert dispatch_tokens(np.array([[12, 0, 0]]), np.array([[0, 1, 3]])).tolist() == [[[0, 3, 9], [0] * 3, [0] * 3]]


@given(problems(), st.integers(1, 3))
def test_expected_traffic_is_that_of_the_integer_dispatch_of_many_evenly_routed_tokens(problem, nodes_per_server):
    _, replicas = problem
    num_experts, num_nodes = replicas.shape
    each = 720_720
    sent = dispatch_tokens(np.full((num_experts, num_nodes), each), replicas) / (each * num_nodes)
    server = np.arange(num_nodes) // nodes_per_server
    traffic = flexible_traffic(replicas[None], replicas.sum(axis=1)[None], Partition(server), gpus_per_node=1)
    across = sent * (server[:, None] != server)
    inside = sent * ((server[:, None] == server) & ~np.eye(num_nodes, dtype=bool))
    for v in range(server.max() + 1):
        np.testing.assert_allclose(traffic.leaving_LEV[0, :, v], across[:, server == v].sum(axis=(1, 2)), atol=1e-4)
        np.testing.assert_allclose(traffic.entering_LEV[0, :, v], across[:, :, server == v].sum(axis=(1, 2)), atol=1e-4)
        np.testing.assert_allclose(traffic.local_LEV[0, :, v], inside[:, server == v].sum(axis=(1, 2)), atol=1e-4)


def test_expert_parallel_tokens_stay_in_their_group():
    # 16 experts on 8 nodes in 2 groups of 4, 2 nodes a server. Of an expert's tokens each node routes 1/8. In the group
    # of its holder, the holder's own 1/8 stays, its server's other node sends 1/8 inside, 2/8 cross NICs.
    plan = place_ep(1, 16, 8, 1, 6)
    traffic = grouped_traffic(plan.replicas_LEN, Partition(np.arange(8) // 4), Partition(np.arange(8) // 2), 1)
    np.testing.assert_allclose(traffic.entering_LEV[0, 0], [2 / 8, 0, 2 / 8, 0])
    np.testing.assert_allclose(traffic.leaving_LEV[0, 0], [0, 2 / 8, 0, 2 / 8], atol=1e-12)
    np.testing.assert_allclose(traffic.local_LEV[0, 0], [1 / 8, 0, 1 / 8, 0], atol=1e-12)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_values_of_nodes_add_up_by_part(parts):
    number = {part: index for index, part in enumerate(dict.fromkeys(parts))}
    part_N = np.array([number[part] for part in parts])
    values = np.arange(2.0 * 3 * len(parts)).reshape(2, 3, -1)
    expected = [values[:, :, part_N == part].sum(axis=2) for part in range(len(number))]
    partition = Partition(part_N)
    assert np.array_equal(partition.add_up(values), np.stack(expected, axis=2))
    assert partition.sizes_V.tolist() == [parts.count(part) for part in number]


def test_values_of_hundreds_of_nodes_add_up_by_part():
    part_N = np.random.default_rng(0).permutation(np.arange(900) // 3)
    values = np.random.default_rng(1).integers(0, 1000, (2, 3, 900)).astype(float)
    expected = np.stack([values[:, :, part_N == part].sum(axis=2) for part in range(300)], axis=2)
    assert np.array_equal(Partition(part_N).add_up(values), expected)
