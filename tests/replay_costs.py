"""What nodes hold and what everything takes, for `tests.replay`: constant times, or a layout, GPU by GPU.

A layout asks the cost model for the time of a step and the rates of links and storage only.
"""

import math
from collections import defaultdict
from functools import cache
from typing import NamedTuple

import numpy as np

from lazsim.engine.systems import SYSTEMS
from tests.jobs import SAMPLES_PER_NODE, SAVE_S, TRANSFER_S


class Constant(NamedTuple):
    """Constant times, as in `tests.jobs`.

    `placement` says what each of some nodes holds under flexible dispatch, by the step at which they were placed.
    """

    stages: int
    shares: int
    seconds: float
    num_micro_batches: int
    node_s: float  # In which the GPUs of a node copy its state to the memory of the node.
    expert_share: float  # Part of that state that is experts.
    placement: object = None
    optimizer_bytes: int = 12
    gpus: int = 1
    nodes_per_server: int = 1

    def holds(self, count, step):
        if self.placement is not None:
            return [dict.fromkeys(experts, (1, True)) for experts in self.placement(count, step)]
        # The dense part of a stage, and two experts.
        seats = [(stage, place % self.shares) for stage in range(self.stages) for place in range(count // self.stages)]
        return [{(stage, *one): (1, True) for one in ((), (share, 0), (share, 1))} for stage, share in seats]

    def step_s(self, count, servers=None):
        return self.seconds

    def micro_batches(self, count):
        return self.num_micro_batches

    def even_micro_batches(self, count):
        return self.num_micro_batches

    def templates(self, most):
        """Return pipelines by stages, micro-batches and step: here a stage of the job has one layer, as has any."""
        return [
            (stages, number, number + stages - 1)
            for stages in range(self.stages, 2 * self.stages)
            for number in range(1, most + 1)
        ]

    def batch(self, count):
        return SAMPLES_PER_NODE * count

    def copy_s(self, count, experts):
        return self.node_s * (1 - self.expert_share * (1 - experts))

    def save_s(self, count, experts):
        return SAVE_S

    def load_s(self, count, seats):
        return SAVE_S

    def recall_s(self, count, before, further):
        return TRANSFER_S

    def exchange_s(self, count, shares):
        return TRANSFER_S

    def window_s(self, count, owners, window):
        return TRANSFER_S

    def fetch_s(self, count, seats, left):
        return TRANSFER_S if seats else 0.0

    def move_s(self, moves, places):
        return TRANSFER_S if moves else 0.0


class Layout:
    """A model by the blocks of its parts: E embedding, d dense layer, t MoE layer, m further-token layer, L head.

    Parts are dealt out to the stages in turn. GPUs of a stage are numbered in a row: neighbours share matrices, and
    neighbours share the experts.
    """

    def __init__(self, system, costs, blocks):
        parallel, self.costs, self.system = costs.job.parallel, costs, system
        self.optimizer_bytes = {"adam": 12, "muon": 8}[parallel.optimizer]
        parts, self.state_bytes = blocks.split("|"), 2 + self.optimizer_bytes
        # DualPipe feeds micro-batches from both ends: a stage and the one at the other end hold the same.
        self.ends = 2 if parallel.schedule == "dualpipe" else 1
        self.stages = parallel.pipeline // self.ends
        stages = [index % parallel.pipeline for index in range(len(parts))]
        stages = [stage if stage < self.stages else parallel.pipeline - 1 - stage for stage in stages]
        # Further tokens are looked up in a copy of the embedding, unless this is on the same GPUs.
        copies = ["E" * ("m" in part and "E" not in part and self.ends == 1) for part in parts]
        self.blocks = [
            "".join(part + more for part, more, one in zip(parts, copies, stages, strict=True) if one == stage)
            for stage in range(self.stages)
        ]
        self.layer_stages = [stage for stage, part in zip(stages, parts, strict=True) for one in part if one == "t"]
        self.nodes_per_server = costs.cluster.nodes_per_server
        self.gpus, self.tensor, self.expert = costs.cluster.gpus_per_node, parallel.tensor, parallel.expert
        keeps_whole = system not in ("ds", "tutel", "dropless", "checkpoint", "async-checkpoint", "moc", "gemini")
        self.parallel, self.sharding = parallel, "none" if keeps_whole else parallel.sharding
        self.params = [self.params_of(blocks) for blocks in self.blocks]
        self.copied = len("".join(copies)) * costs.model.block_params["vocabulary"]
        self.step_s, self.held = cache(self.step_s), cache(self.held)

    def params_of(self, blocks):
        """Count the parameters of a stage: divided by tensor ranks, on each of them, and of experts."""
        block, model = self.costs.model.block_params, self.costs.model
        latents = model.d_model * (model.attention.kv_rank + model.attention.rope_dim)
        gate = model.d_model * model.num_experts
        of_letter = {
            "E": (block["vocabulary"], 0),
            "d": (block["attention"] + block["dense"], latents),
            "t": (block["attention"] + block["moe"], latents + gate),
            "m": (block["mtp"], latents + gate),
            "L": (block["vocabulary"], 0),
        }
        total, each = (sum(column) for column in zip(*(of_letter[letter] for letter in blocks), strict=True))
        return total - each, each, self.experts_of(blocks, "tm")

    def experts_of(self, blocks, letters):
        return sum(blocks.count(one) for one in letters) * self.costs.model.num_experts * self.costs.model.expert_params

    @property
    def elastic_nodes(self):
        """Nodes of which flexible dispatch uses a multiple, and the fewest that have slots for all experts.

        Those that share sequences or matrices stay together, and stages have equally many.
        """
        column = math.lcm(self.tensor * self.parallel.context, self.gpus) // self.gpus
        column = self.ends * (column if self.tensor * self.parallel.context > self.gpus else 1)
        columns = math.ceil(self.expert / self.gpus / column)
        return self.stages * column, self.stages * column * columns

    # What GPUs of a stage hold, in bytes.

    def parts(self, stage, ranks):
        """Return which parts of matrices and of experts some GPUs have, and their parameters."""
        divided, each, experts = self.params[stage]
        matrices, shares = ({rank % size for rank in ranks} for size in (self.tensor, self.expert))
        dense = each + divided * len(matrices) / self.tensor
        return (frozenset(matrices), dense), (frozenset(shares), experts * len(shares) / self.expert)

    def kept(self, count, unit, *, saves, experts=1.0):
        """Return the bytes that each unit, a GPU or all of a node, reads; with `saves`, those that it writes. By stage.

        `experts` is the share of the experts that a save has. Units with the same parts divide optimizer states, and
        under full sharding weights. What they do not divide, the first of them writes, and each reads.
        """
        num_ranks, bytes_by_stage = count // self.stages * self.gpus, []
        for stage in range(self.stages):
            units = [self.parts(stage, range(first, first + unit)) for first in range(0, num_ranks, unit)]
            bytes_U = [0.0] * len(units)
            for kind, share in ((0, 1.0), (1, experts)):
                parts_U = [one[kind][0] for one in units]
                for index, one in enumerate(units):
                    held = share * one[kind][1]
                    owned = held / parts_U.count(one[kind][0])
                    whole = 0 if saves and index > parts_U.index(one[kind][0]) else held
                    bytes_U[index] += 2 * (owned if self.sharding == "full" else whole)
                    bytes_U[index] += self.optimizer_bytes * (whole if self.sharding == "none" else owned)
            bytes_by_stage.append(bytes_U)
        return bytes_by_stage

    def holds(self, count, step=0):
        """Return the experts of each seat by layer, and its part of the dense state of its stage, with their bytes."""
        return self.held(count)

    def held(self, count):
        per_stage, expert_bytes = count // self.stages, self.state_bytes * self.costs.model.expert_params
        num_experts, matrix_nodes = self.costs.model.num_experts, max(1, self.tensor // self.gpus)
        plan = SYSTEMS["lazarus"].plan_evenly(self.costs, count).holds_LEN if self.system == "lazarus" else None
        seats = []
        for seat in range(count):
            stage, place = divmod(seat, per_stage)
            ranks = range(place * self.gpus, (place + 1) * self.gpus)
            (_, dense), (shares, _) = self.parts(stage, ranks)
            further = self.experts_of(self.blocks[stage], "m") * len(shares) / self.expert
            # Where all nodes have the same dense state, none is nearer to a seat by it.
            counts = self.stages * matrix_nodes > 1
            items = {("dense", stage, place % matrix_nodes): (self.state_bytes * (dense + further), counts)}
            for number, of_stage in enumerate(self.layer_stages):
                for expert in range(num_experts):
                    share = expert // (num_experts // self.expert)
                    here = share in shares if plan is None else plan[number, expert, seat]
                    if of_stage == stage and here:
                        items["expert", number, expert] = (expert_bytes, True)
            seats.append(items)
        return seats

    def read(self, count):
        """Return what each seat reads from storage."""
        if self.system == "lazarus":
            return [sum(size for size, _ in items.values()) for items in self.holds(count)]
        own = [one for stage in self.kept(count, self.gpus, saves=False) for one in stage]
        ahead = count // self.stages
        if self.system == "bamboo":
            return [one + own[(seat + ahead) % count] for seat, one in enumerate(own)]
        return own

    # What everything takes.

    def step_s(self, count, servers=None):
        servers = np.arange(count) // self.nodes_per_server if servers is None else np.array(servers)
        system, shape = SYSTEMS[self.system], (1, self.costs.model.num_moe_layers, self.costs.model.num_experts)
        times = self.costs.step_times(system.plan_evenly(self.costs, count), system.dispatch(self.costs, servers))
        return float(times.step_s(np.ones(shape, dtype=np.int64))[0])

    def micro_batches(self, count):
        ranks = count * self.gpus // (self.tensor * self.parallel.context * self.parallel.pipeline)
        most = math.ceil(self.parallel.global_batch / (ranks * self.parallel.micro_batch))
        if self.ends == 2:
            return max(2 * self.parallel.pipeline, most + most % 2)
        # Interleaved stages take multiples of their number.
        return most if self.parallel.virtual_stages == 1 else math.ceil(most / self.stages) * self.stages

    def even_micro_batches(self, count):
        ranks = count * self.gpus // (self.tensor * self.parallel.context * self.parallel.pipeline)
        return self.parallel.global_batch / (ranks * self.parallel.micro_batch)

    def templates(self, most):
        return [
            (stages, number, end)
            for stages, ended, end_s in self.costs.templates(most)
            for number, end in zip(ended.tolist(), end_s.tolist(), strict=True)
        ]

    def batch(self, count):
        return self.parallel.global_batch

    def network_s(self, num_bytes, local_bytes=0.0):
        return float(self.costs.communication.transfer_s(num_bytes, local_bytes))

    def of_rank(self, count, experts):
        return max(map(max, self.kept(count, 1, saves=True, experts=experts)))

    def copy_s(self, count, experts):
        return self.of_rank(count, experts) / self.costs.cluster.host.link_bytes_per_s

    def save_s(self, count, experts):
        # Copies are saved once.
        total = sum(divided + each + experts * some for divided, each, some in self.params) - self.copied
        rate = self.costs.cluster.network.storage_bytes_per_s
        return (
            self.state_bytes * total / rate
            + self.of_rank(count, experts) / self.costs.cluster.host.serialise_bytes_per_s
        )

    def load_s(self, count, seats):
        read, cluster = [self.read(count)[seat] for seat in seats], self.costs.cluster
        return (
            sum(read) / cluster.network.storage_bytes_per_s + max(read) / self.gpus / cluster.host.serialise_bytes_per_s
        )

    def share(self, count):
        """Return the share of a node of a stage of what the stage has, where that is most."""
        return self.state_bytes * max(map(sum, self.params)) / (count // self.stages)

    def exchange_s(self, count, shares):
        """Gemini: each node of a stage sends its share to others."""
        return self.network_s(shares * self.share(count))

    def recall_s(self, count, before, further):
        """Gemini: who sends for several that are lost has more to send than a node gets."""
        return self.network_s(max(self.read(count)) + further * self.share(before))

    def node_params(self, stage):
        return sum(one[1] for one in self.parts(stage, range(self.gpus)))

    @property
    def node_s(self):
        most = max(map(self.node_params, range(self.stages)))
        return self.state_bytes * most / self.gpus / self.costs.cluster.host.link_bytes_per_s

    def window_s(self, count, owners, window):
        """MoEvement: the optimizer states once, and 2 bytes of those whose turn is to come, half of them on average."""
        of_param, stages = self.optimizer_bytes + window - 1, {seat: seat // (count // self.stages) for seat in owners}
        return self.flow_s(
            [(some, ("spare", seat), of_param * self.node_params(stages[seat])) for seat, some in owners.items()]
        )

    def fetch_s(self, count, seats, left):
        """Return the time until the states of seats have come from those that are left and have the same parts."""

        def states(seat):
            """Return the parts of a seat, and under Bamboo those of its place in the next stage; and their bytes."""
            found, per_stage = {}, count // self.stages
            for one in (seat, (seat + per_stage) % count) if self.system == "bamboo" else (seat,):
                stage, place = divmod(one, per_stage)
                parts = self.parts(stage, range(place * self.gpus, (place + 1) * self.gpus))
                for kind, (part, params) in zip(("matrices", "experts"), parts, strict=True):
                    found[stage, kind, part] = self.state_bytes * params
            return found

        has = {seat: states(seat) for seat in left}
        return self.flow_s([
            ([seat for seat in left if part in has[seat]], ("new", receiver), num_bytes)
            for receiver in seats
            for part, num_bytes in states(receiver).items()
        ])  # fmt: skip

    def flow_s(self, moves, places=None):
        """Return the time of moves: owners, receiver and bytes. Owners share the sending; nodes do all at once.

        Nodes share the NICs of their server. Without places, owners are seats, and so is the second of a receiver.
        """

        def server(node):
            place = places[node] if places else node[1] if isinstance(node, tuple) else node
            return place // self.nodes_per_server

        sent, received, local = defaultdict(float), defaultdict(float), defaultdict(float)
        for owners, receiver, num_bytes in moves:
            for owner in owners:
                part = num_bytes / len(owners)
                if server(owner) == server(receiver):
                    local["from", owner] += part
                    local["to", receiver] += part
                else:
                    sent[server(owner)] += part
                    received[server(receiver)] += part
        busiest = max([0.0, *sent.values(), *received.values()])
        return self.network_s(busiest, max(local.values(), default=0.0) / self.gpus) if moves else 0.0

    def move_s(self, moves, places):
        """Return the time of moves between nodes that connect to one peer after the other."""
        peers = defaultdict(set)
        for owners, receiver, _ in moves:
            for owner in owners:
                peers[owner].add(receiver)
                peers[receiver].add(owner)
        connect_s = self.costs.cluster.recovery.connect_s * max(map(len, peers.values()), default=0)
        return connect_s + self.flow_s(moves, places)
