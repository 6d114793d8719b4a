"""A small job whose times can be added up by hand."""

from dataclasses import dataclass

import msgspec
import numpy as np

from lazsim.costmodel.step import KernelCosts
from lazsim.placement.grid import Grid
from lazsim.specs import ClusterSpec, JobSpec, ModelSpec, StepConstants, load_spec
from lazsim.trace.table import Event, Trace, build_trace

STEP_S, SAVE_S, TRANSFER_S = 2.0, 10.0, 7.0
DETECT_S, REBUILD_S, REGROUP_S, RESTART_S, JOIN_WAIT_S = 15.0, 10.0, 1.0, 40.0, 120.0
SAMPLES_PER_NODE = 4
PUBLISHED = ("lazarus", *(name + end for name in ("ds", "tutel", "dropless") for end in ("", "-ft")))
INTERVALS = dict.fromkeys(PUBLISHED, 40)


class EvenLoads:
    """Every expert gets as many tokens at every step."""

    name, sha256, notes, last_step, interval_steps = "even", "", (), None, 1
    is_even = True

    def __init__(self, num_layers, num_experts):
        self.shape = (num_layers, num_experts)

    def since(self, step):
        return step - step % 50

    def loads(self, steps):
        return np.ones((len(steps), *self.shape), dtype=np.int64)


class RandomLoads(EvenLoads):
    """Loads drawn anew for every 50 steps."""

    is_even = False

    def loads(self, steps):
        return np.stack([np.random.default_rng(int(step) // 50).integers(1, 1000, self.shape) for step in steps])


@dataclass(frozen=True)
class FixedCompute:
    """Every micro-batch takes as long; experts, reorders and the optimizer count in it."""

    step_s: float

    def dense_s(self, num_tokens):
        return self.step_s

    def expert_s(self, num_tokens):
        return np.zeros_like(num_tokens)

    def reorder_s(self, num_tokens):
        return np.zeros_like(num_tokens)

    def masked_reorder_s(self, num_tokens, capacity):
        return np.zeros_like(capacity)

    def optimizer_s(self, num_params):
        return 0.0 * num_params


@dataclass(frozen=True)
class FixedCommunication:
    """Collectives count in the step; every transfer, and every save or load, takes as long."""

    transfer_time_s: float = 0.0
    storage_time_s: float = 0.0

    def all_to_all_s(self, nic_bytes, local_bytes):
        return 0.0 * nic_bytes

    def all_reduce_s(self, nic_bytes, local_bytes, nic_hops, local_hops):
        return 0.0 * nic_bytes

    def transfer_s(self, nic_bytes, local_bytes):
        return self.transfer_time_s + 0.0 * nic_bytes

    def save_s(self, num_bytes, writer_bytes):
        return self.storage_time_s

    def load_s(self, num_bytes, reader_bytes):
        return self.storage_time_s


def costs(step_s: float = STEP_S, **job) -> KernelCosts:
    """4 experts in 2 layers on nodes of 2 slots: two nodes hold every expert once, and an EP group is two nodes."""
    model = msgspec.structs.replace(load_spec(ModelSpec, "gpt-s"), num_experts=4, num_layers=2, num_moe_layers=2)
    cluster = load_spec(ClusterSpec, "rtx3090x10")
    recovery = msgspec.structs.replace(
        cluster.recovery,
        detect_s=DETECT_S,
        rebuild_s=REBUILD_S,
        regroup_s=REGROUP_S,
        restart_base_s=RESTART_S - SAVE_S,
        restart_per_node_s=0.0,
        connect_s=0.0,
    )
    # Its host takes no time.
    host = msgspec.structs.replace(cluster.host, clock_hz=1e24)
    cluster = msgspec.structs.replace(cluster, slots_per_gpu=2, nodes_per_server=1, recovery=recovery, host=host)
    job_spec = msgspec.structs.replace(
        load_spec(JobSpec, "testbed-a"),
        sequences_per_gpu=SAMPLES_PER_NODE,
        **{"join_wait_s": JOIN_WAIT_S, "checkpoint_interval_steps": INTERVALS} | job,
    )
    times = FixedCommunication(TRANSFER_S, SAVE_S), FixedCompute(step_s)
    return KernelCosts(model, cluster, job_spec, load_spec(StepConstants, "training"), *times)


def trace(*changes: tuple[float, str, str], duration_s: float = 1000.0) -> Trace:
    """Make a trace from (time, "add" or "remove", node names)."""
    events = [Event(time_s, kind, node) for time_s, kind, nodes in changes for node in nodes.split()]
    return build_trace(events, duration_s=duration_s)


@dataclass(frozen=True)
class StagedCosts(KernelCosts):
    """The same job in pipeline stages of one layer each, with micro-batches: four nodes hold the model once."""

    stages: int = 2
    stage_nodes: int = 2
    micro_batches: int = 4

    @property
    def grid(self):
        return Grid(np.arange(self.stages), num_stages=self.stages, unit_nodes=self.stage_nodes)

    def num_micro_batches(self, num_nodes):
        return self.micro_batches


def staged_costs(step_s: float = STEP_S, num_nodes: int = 12, **job) -> StagedCosts:
    """Two stages on `num_nodes` nodes; see `StagedCosts`."""
    plain = costs(step_s, **job)
    cluster = msgspec.structs.replace(plain.cluster, num_nodes=num_nodes)
    return StagedCosts(plain.model, cluster, plain.job, plain.constants, plain.communication, plain.compute)
