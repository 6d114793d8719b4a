"""Whether a job fits into the memory of its nodes and their GPUs, and what would help."""

import bisect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from lazsim.costmodel.memory import GpuShare, MemoryUse, gpu_memory
from lazsim.engine.interval import steady_step_s
from lazsim.engine.memory import lacks_memory, memory_uses, peak_memory, sizes_held
from lazsim.engine.simulate import SystemRun, require_fit
from lazsim.engine.systems import System
from lazsim.errors import InfeasiblePlanError
from lazsim.grouping import grouped
from lazsim.reliability.comparison import PlanComparison
from lazsim.scenario import Scenario
from lazsim.specs import GpuSpec, ModelSpec, load_spec
from lazsim.units import GIB, counted, share_text

REDUCIBLE = ("job.sequences_per_gpu", "cluster.slots_per_gpu")
"""Fields of which a smaller value takes less memory."""

HOST_HELP = (
    "a layout with more stages takes less of each, and mostly more nodes do; each has `cluster.host.memory_bytes`"
)
"""What helps where copies and logs do not fit."""


def fits_memory(scenario: Scenario, run: SystemRun) -> bool:
    """Tell whether a run has enough memory, of its GPUs and of its nodes."""
    return not (lacks_memory(scenario.gpu, run.memory) or host_shortage(scenario, run.name, run.host_bytes))


def find_obstacle(
    scenario: Scenario, system: System, num_nodes: int, wall_s: float = 0.0, *, helps: bool = False
) -> str:
    """Say why a system cannot run the job of a scenario on up to `num_nodes` nodes, or return nothing.

    Where it `helps`, it also looks for what makes a job fit into memory. A job that has no layout since none fits does
    not fit for the same reason.
    Padded buffers follow loads that become skewed: their memory is that of a run of `wall_s`, or of its first step.
    """
    costs = scenario.costs()
    try:
        require_fit(system, costs, num_nodes)
    except InfeasiblePlanError as error:
        return scenario.why_no_layout or str(error)
    num_used = system.usable_nodes(costs, num_nodes)
    loads = scenario.load_routing()
    num_steps = int(wall_s / steady_step_s(system, costs, loads, num_used)) if system.padded else 0
    memory = peak_memory(system, costs, loads, {num_used}, num_steps)
    if not lacks_memory(scenario.gpu, memory):
        num_bytes = system.host_bytes(costs, num_used, steady_step_s(system, costs, loads, num_used))
        shortage = host_shortage(scenario, system.run_name, num_bytes)
        shortage += f"; {HOST_HELP}" if shortage and helps else ""
    elif helps:
        shortage = _shortage(scenario, system, memory, num_used, num_steps)
    else:
        shortage = _need(system.run_name, scenario.model.name, memory, scenario.gpu)
    return shortage and (scenario.why_no_layout or shortage)


def gather_obstacles(obstacles: Iterable[tuple[str, str]]) -> list[str]:
    """Say what keeps systems from running, once for those that it keeps in the same way, in the order of the first.

    Examples
    --------
    >>> gather_obstacles([("spare", "spare takes two"), ("ds", "no memory"), ("recycle", "recycle takes two")])
    ['spare, recycle: each takes two', 'ds: no memory']
    """
    found = grouped((obstacle.removeprefix(f"{system} "), (system, obstacle)) for system, obstacle in obstacles)
    told = []
    for why, alike in found.items():
        names, (obstacle, *others) = zip(*alike, strict=True)
        has_name = obstacle != why
        told.append(obstacle if has_name and not others else f"{', '.join(names)}: {'each ' * has_name}{why}")
    return told


def host_shortage(scenario: Scenario, name: str, num_bytes: float) -> str:
    """Say what copies and logs take of a node's own memory if they do not fit."""
    cluster = scenario.cluster
    if num_bytes <= cluster.host_memory_bytes:
        return ""
    return (
        f"{name} does not fit: copies and logs of {scenario.model.name} take {num_bytes / GIB:,.0f} GiB of each node's "
        f"own memory and {cluster.name} has {cluster.host_memory_bytes / GIB:,.0f}"
    )


def tell_shortages(scenario: Scenario, run: SystemRun) -> Iterator[str]:
    """Say of a run that does not fit what it needs, what takes most, and what would help."""
    system, costs, loads = scenario.find_system(**run.setting), scenario.costs(), scenario.load_routing()

    def lacks_gpu_memory(num_nodes: int, num_seats: int) -> bool:
        sizes = sizes_held(system, costs, num_nodes, num_seats)
        return lacks_memory(scenario.gpu, peak_memory(system, costs, loads, sizes, run.steps))

    def lacks_host_memory(_: int, num_seats: int) -> bool:
        step_s = steady_step_s(system, costs, loads, num_seats)
        return system.host_bytes(costs, num_seats, step_s) > costs.cluster.host_memory_bytes

    if shortage := host_shortage(scenario, run.name, run.host_bytes):
        yield f"{shortage.replace('not fit', f'not fit{_where(run, lacks_host_memory)}', 1)}; {HOST_HELP}"
    if run.memory is not None and lacks_memory(scenario.gpu, run.memory):
        shortage = _shortage(scenario, system, run.memory, run.most_nodes_used, run.steps)
        yield shortage.replace("not fit", f"not fit{_where(run, lacks_gpu_memory)}", 1)


def _where(run: SystemRun, lacks: Callable[[int, int], bool]) -> str:
    """Say on how many nodes a run lacks memory where it does not on others, and for how much of its steps.

    `lacks` takes the nodes that make steps and those of their plan.
    """
    sizes = sorted(run.steps_s)
    short = [size for size in sizes if lacks(*size)]
    if len(short) in (0, len(sizes)):
        return ""
    share = math.fsum(run.steps_s[size] for size in short) / math.fsum(run.steps_s.values())
    *others, most = dict.fromkeys(size[0] for size in short)
    where = ", ".join([*map(str, others), counted(most, "node")])
    return f" on {where} ({share_text(share, '.1%')} of the time of steps)"


def with_memory(comparison: PlanComparison, model: str, gpu: str | None) -> PlanComparison:
    """Add what the states of a model take on each GPU where its slots are full, and a note if a GPU has less.

    Raises
    ------
    LazsimError
        When the model or the GPU is not known.
    """
    task = comparison.task
    spec = load_spec(ModelSpec, model, "model")
    num_replicas = spec.num_moe_layers * task.num_slots / task.gpus_per_node
    nothing = np.zeros(spec.num_moe_layers)
    share = GpuShare(
        spec.dense_params / task.gpus_per_node,
        num_replicas * spec.expert_params,
        num_tokens=0,
        rows_L=nothing,
        sent_L=nothing,
    )
    memory = gpu_memory(spec, share)
    held = {part: num_bytes for part, num_bytes in memory.parts.items() if num_bytes}
    value: dict[str, Any] = {"model": spec.name, "memory_bytes": {**held, "total": memory.total}}
    notes = comparison.notes
    if gpu is not None:
        has = load_spec(GpuSpec, gpu, "gpu")
        value |= {"gpu": has.name, "gpu_memory_bytes": has.memory_bytes}
        if lacks_memory(has, memory):
            need = _need(spec.name, "it", memory, has)
            notes = (*notes, f"{need}; give fewer `slots` or more `gpus_per_node`")
    return replace(comparison, model=model, memory=value, notes=notes)


def _need(who: str, what: str, memory: MemoryUse, gpu: GpuSpec) -> str:
    """Say what a job needs, and what takes most of it."""
    part, num_bytes = max(memory.parts.items(), key=lambda item: item[1])
    return (
        f"{who} does not fit: {what} takes {memory.total / GIB:,.1f} GiB of each GPU and {gpu.name} has "
        f"{gpu.memory_bytes / GIB:,.1f}; most is for {part.replace('_', ' ')}, {num_bytes / GIB:,.1f} GiB"
    )


def _shortage(scenario: Scenario, system: System, memory: MemoryUse, num_nodes: int, num_steps: int) -> str:
    """Say what a job needs, what takes most of it, and what would help."""
    loads = scenario.load_routing()

    def uses(changed: Scenario) -> Iterator[MemoryUse]:
        costs = changed.costs()
        usable = system.usable_nodes(costs, num_nodes)
        return memory_uses(system, costs, loads, usable, num_steps) if usable else iter(())

    def takes_too_much(path: str, value: int) -> bool:
        return any(lacks_memory(scenario.gpu, memory) for memory in uses(scenario.replace(path, value)))

    need = _need(system.run_name, scenario.model.name, memory, scenario.gpu)
    if scenario.job.parallel is not None:
        if scenario.has_chosen_layout:
            need += "; the layout was chosen for the whole trace: `lazsim step --search --out` finds others for `job`"
        return f"{need}; a layout with more stages, sharding or recomputation takes less"
    for path in REDUCIBLE:
        smaller = range(1, scenario.field(path))
        largest = bisect.bisect_left(smaller, True, key=lambda value: takes_too_much(path, value))
        # With fewer slots the nodes may not hold every expert.
        if largest and any(uses(scenario.replace(path, largest))):
            return f"{need}; {path} = {largest} would fit"
    return f"{need}; only jobs with a layout compute activations again and shard optimizer states, which takes less"
