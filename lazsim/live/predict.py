"""Predict a live run: the simulation's own engine, with costs that were measured before on the same machine.

Nothing is fitted to the run that is predicted.
"""

from dataclasses import dataclass, replace

import msgspec
import numpy as np

from lazsim.costmodel.recovery_times import checkpoint_load_s
from lazsim.costmodel.step import CostModel
from lazsim.engine.simulate import SystemRun, simulate_system
from lazsim.engine.systems import SYSTEMS
from lazsim.live.calibration import Calibration
from lazsim.live.run import live_scenario
from lazsim.live.spec import LiveSpec
from lazsim.placement.plan import Ints, PlacementPlan
from lazsim.specs import NetworkSpec, RecoverySpec
from lazsim.trace.table import Trace


@dataclass(frozen=True)
class MeasuredPace:
    """A measured step time for any loads, and a batch of fixed size."""

    samples_per_step: int
    seconds: float

    def step_s(self, _step: int) -> float:
        """Return the seconds of any step."""
        return self.seconds

    def extrapolated_share(self, _step: int) -> float:
        """Return 0: the whole step is measured."""
        return 0.0


def predict(spec: LiveSpec, trace: Trace, calibration: Calibration, max_nodes: int) -> SystemRun:
    """Simulate a live run with measured costs; the trace is in seconds of the run."""
    costs = measured_costs(spec, calibration, max_nodes)
    counts, times_s = np.array(list(calibration.step_s)), np.array(list(calibration.step_s.values()))

    def make_timer(plan: PlacementPlan, _server_N: Ints) -> MeasuredPace:
        return MeasuredPace(spec.global_batch, float(np.interp(plan.num_nodes, counts, times_s)))

    return simulate_system(trace, SYSTEMS[spec.system], costs, calibration.routing, make_timer=make_timer)


def measured_costs(spec: LiveSpec, calibration: Calibration, max_nodes: int) -> CostModel:
    """Return the cost model of the simulation with measured costs of recoveries and checkpoints."""
    scenario = live_scenario(spec, max_nodes)
    model, system, rate = scenario.model, scenario.find_system(), calibration.transfer_bytes_per_s
    all_bytes = model.dense_state_bytes + model.num_moe_layers * model.num_experts * model.expert_state_bytes
    network = NetworkSpec(
        nic_bytes_per_s=rate,
        all_to_all_efficiency=1.0,
        all_reduce_efficiency=1.0,
        point_to_point_efficiency=1.0,
        nic_latency_s=0.0,
        local_bytes_per_s=rate,
        local_latency_s=0.0,
        local_all_reduce_bytes_per_s=rate,
        local_all_reduce_latency_s=0.0,
        storage_bytes_per_s=all_bytes / calibration.save_s if calibration.save_s else rate,
    )
    recovery = RecoverySpec(
        detect_s=calibration.detect_s,
        rebuild_s=calibration.rebuild_s,
        regroup_s=calibration.rebuild_s,
        restart_base_s=calibration.restart_s,
        restart_per_node_s=0.0,
    )
    cluster = msgspec.structs.replace(scenario.cluster, network=network, recovery=recovery)
    costs = replace(scenario, cluster=cluster).costs()
    # The measured restart includes the load of the checkpoint, which the simulation adds.
    load_s = checkpoint_load_s(costs, system.plan_evenly(costs, system.usable_nodes(costs, max_nodes)))
    recovery = msgspec.structs.replace(recovery, restart_base_s=max(0.0, calibration.restart_s - load_s))
    return replace(costs, cluster=msgspec.structs.replace(cluster, recovery=recovery))


def compress(trace: Trace, speedup: float) -> Trace:
    """Return a trace whose time passes `speedup` times as fast."""
    return replace(trace, time_s=trace.time_s / speedup, duration_s=trace.duration_s / speedup)
