"""Remarks on runs that their reader needs: repairs, doubtful inputs, and all that makes a number not hold."""

import contextlib
import functools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from lazsim.costmodel.measured import MeasuredCommunication, MeasuredCompute, missing_kernels
from lazsim.costmodel.profile import BARE_KERNELS, SIZE_UNITS, Profile
from lazsim.costmodel.recovery_times import restart_s
from lazsim.costmodel.step import KernelCosts, slots_by_gpu
from lazsim.engine.default_job import JobChoice, named_job
from lazsim.engine.layout import LayoutCosts
from lazsim.engine.simulate import SystemRun, simulate_system
from lazsim.engine.systems import DEFAULT_SYSTEMS, SYSTEMS
from lazsim.errors import CostRangeError, InfeasiblePlanError
from lazsim.grouping import grouped
from lazsim.placement.plan import Floats, Ints, PlacementPlan
from lazsim.placement.policies import find_policy, seed_notes
from lazsim.routing import Routing
from lazsim.routing.loading import UNIFORM
from lazsim.scenario import Scenario, resolve
from lazsim.settings import ANALYTIC, AUTO, DEFAULTS, SKEWED_LOADS
from lazsim.specs import ModelSpec
from lazsim.specs.effects import cluster_remarks, job_remarks, model_remarks, why_without_effect
from lazsim.specs.overrides import FACTOR, share_note
from lazsim.stepmodel.assumptions import AssumedConstant
from lazsim.stepmodel.remarks import kernel_remarks
from lazsim.study.checkpoint_interval import search_notes
from lazsim.study.memory import memory_notes
from lazsim.trace.stats import rate_note, trace_stats
from lazsim.trace.table import Event, Trace, build_trace
from lazsim.units import GIB, HOUR_S, counted, format_duration, share_text

DECISIVE_SHARE = 0.1
"""Least share of the time that a note tells: of waiting, of restarts, or of training on some number of nodes."""

BALANCED = "balanced"
"""The policy that spreads loads most evenly."""

SPREADING = "euclid"
"""A policy that holds experts on as many nodes as possible, by plans that the published one does not have."""

UNPADDED = "dropless-ft"
"""A system that lacks what Lazarus does about failures, and pads no more than it."""

TOLD_GAIN = 0.25
"""Least gain of another policy that a note tells: what it takes from the busiest GPU, over the mean tokens."""

TOLD_EMPTY = 0.05
"""Least share of empty micro-batches that a note tells: as much sets systems apart."""

TOLD_WEIGHT = 0.05
"""Least change of steps by an assumed constant that a note tells."""

FAR_FACTOR = 2.0
"""Least error of runs outside of an interval that a note tells, over the interval; normal errors have 1.2."""

NUMBER = re.compile(r"\d[\d.,]*")


def describe_runs(scenarios: Sequence[Scenario], runs: Sequence[SystemRun]) -> list[str]:
    """Return remarks on the inputs and the results of scenarios that share all but system and placement."""
    first = scenarios[0]
    trace, loads = first.load_trace(), first.load_routing()
    notes = search_notes(scenarios, runs) if first.interval == AUTO else []
    notes += [*_input_notes(first, trace, loads, runs[0].wall_s), *memory_notes(scenarios, runs)]
    told = grouped(
        (text, run.name) for scenario, run in zip(scenarios, runs, strict=True) for text in _run_notes(scenario, run)
    )
    notes += [f"{', '.join(names)}: {text}" for text, names in told.items()]
    if loads.last_step is not None and any(run.steps > loads.last_step for run in runs):
        notes.append(f"the recorded loads end at step {loads.last_step}; later steps use the last ones")
    notes += [*_waiting_notes(scenarios, runs), *_system_notes(scenarios, runs), *_rounding_notes(scenarios, runs)]
    notes += _assumption_notes(scenarios, runs)
    parallel = first.job.parallel
    if first.settings["model"].endswith(".json") and not (parallel and parallel.sequence_length):
        notes.append(f"{first.model.name}: training sequences of {first.model.sequence_length} tokens are assumed")
    has_layout = isinstance(first.costs(), LayoutCosts)
    notes += [*([] if has_layout else _model_notes(first.model)), *_cost_notes(scenarios)]
    if first.settings["cluster"].endswith(".toml"):
        notes += cluster_remarks(first.job, first.model, first.step)
    # The batch of the job that stands in for one that is not given is the layout's.
    notes += model_remarks(first.model) + ([] if first.has_chosen_layout else job_remarks(first.job, first.model))
    return list(dict.fromkeys(notes + (_placement_notes(scenarios, runs) if first.score_plans else [])))


def _system_notes(scenarios: Sequence[Scenario], runs: Sequence[SystemRun]) -> list[str]:
    """Say where a system departs from the job: its interval, its steps, what it keeps in memory, what it gives up."""
    chosen = [
        f"{run.name} {run.interval_steps}"
        for scenario, run in zip(scenarios, runs, strict=True)
        if run.steps and run.interval_steps != scenario.job.checkpoint_interval_steps.get(run.system)
    ]
    notes = _listed("steps between checkpoints, not given by the job", chosen)
    known = {*SYSTEMS, *(one.system for one in scenarios)}
    unknown = dict.fromkeys(
        name for one in scenarios for name in one.job.checkpoint_interval_steps if name not in known
    )
    if unknown:
        notes.append(f"of no effect: job.checkpoint_interval_steps of {', '.join(unknown)}, which no system is called")
    changed = grouped((_changed_layout(one), one.system) for one in scenarios)
    told = "; ".join(f"{text}: {', '.join(dict.fromkeys(names))}" for text, names in changed.items() if text)
    if told:
        notes.append(f"recovery from nodes, or padding, takes another layout than the job's, with other steps: {told}")
    trained = [(run.name, one.find_system().padded) for one, run in zip(scenarios, runs, strict=True) if run.steps]
    padded = [name for name, is_padded in trained if is_padded]
    if padded and len(padded) == len(trained) - 1:
        notes.append(
            f"{', '.join(padded)}: buffers of all experts are as large as the fullest one's, with or without failures; "
            f"`system` {UNPADDED} pads none, as MegaBlocks and Megatron train"
        )
    unsaved = [run.name for run in runs if not run.interval_steps]
    notes += _listed("makes no checkpoints, so that a restart goes back to step 0", unsaved)
    shares = {run.name: run.ledger_s["restart"] / run.wall_s for run in runs}
    restarting = [f"{name} {share_text(share, '.0%')}" for name, share in shares.items() if share >= DECISIVE_SHARE]
    if restarting:
        # The trace says how many nodes there are, whatever the size of the cluster.
        num_nodes = scenarios[0].most_in_service()
        each_s = restart_s(scenarios[0].costs(), num_nodes)
        notes.append(
            f"the time of a restart decides much: {format_duration(each_s)} on {counted(num_nodes, 'node')} "
            f"before it reads a checkpoint (`cluster.recovery`). Share of the time in restarts: {', '.join(restarting)}"
        )
    has = f"GiB of each node's own memory for copies and logs, of {scenarios[0].cluster.host_memory_bytes / GIB:,.0f}"
    notes += _listed(has, [f"{run.name} {run.host_bytes / GIB:,.0f}" for run in runs if run.host_bytes])
    lost = [f"{run.name} {share_text(run.lost_token_share, '.2%')}" for run in runs if run.lost_token_share]
    return notes + _listed("tokens whose updates of experts rollbacks lost; samples count them all the same", lost)


def _listed(what: str, items: Sequence[str]) -> list[str]:
    """Return a note that lists items, or none where there are none."""
    return [f"{what}: {', '.join(items)}"] if items else []


def _waiting_notes(scenarios: Sequence[Scenario], runs: Sequence[SystemRun]) -> list[str]:
    """Say for how long there are fewer nodes than a system takes at least, where that is long."""
    waiting: dict[str, list[str]] = {}
    for scenario, run in zip(scenarios, runs, strict=True):
        if run.steps and run.ledger_s["waiting"] / run.wall_s >= DECISIVE_SHARE:
            needed = _needed_nodes(scenario)
            share = 1.0 - float(_spans_s(scenario, needed).sum()) / run.wall_s
            if share >= DECISIVE_SHARE:
                waiting.setdefault(f"fewer than {needed} for {share_text(share, '.0%')} of the time", []).append(
                    run.name
                )
    told = "; ".join(f"{text}: {', '.join(names)}" for text, names in waiting.items())
    says = "training stands still while there are fewer nodes than a system takes"
    return [f"{says}: {told}; more nodes help, or a `job` that takes fewer"] if told else []


def _changed_layout(scenario: Scenario) -> str:
    """Return the fields of the layout that a system sets otherwise than the job."""
    costs = scenario.costs()
    if not isinstance(costs, LayoutCosts):
        return ""
    used = msgspec.structs.asdict(costs.layout)
    return ", ".join(f"{name} {value}" for name, value in used.items() if value != getattr(scenario.job.parallel, name))


def _run_notes(scenario: Scenario, run: SystemRun) -> list[str]:
    """Return what a reader needs to know of one run, in words that hold for several alike."""
    notes = [] if run.steps else [_idle_note(scenario, run)]
    system = scenario.find_system(**run.setting)
    if run.most_nodes_used and (exposed := system.why_exposed(scenario.costs(), run.most_nodes_used)):
        notes.append(f"{exposed}: every failure is a restart")
    steps_s = max(run.ledger_s["compute"] + run.ledger_s["lost_work"], 1e-9)
    if run.below_threshold_s:
        threshold, share = scenario.job.fault_threshold, run.below_threshold_s / steps_s
        told = f"in {share_text(share, '.1%')} of the time of steps, some expert is on fewer than {threshold} nodes"
        why = threshold_note(scenario, scenario.most_in_service())
        notes.append(f"{told} (`fault_threshold`); {why or f'f {threshold} fits while no node is lost'}")
    notes += [*_unused_notes(scenario, run), *_unevenness_notes(scenario, run)]
    if run.samples_error_beyond:
        are_far = run.samples_error_beyond > FAR_FACTOR * run.samples_error
        within, beyond = share_text(run.samples_error, ".2%"), share_text(run.samples_error_beyond, ".1%")
        others = f"; the other 5 % are off by {beyond} on average" if are_far else ""
        notes.append(
            f"plans are sampled; samples are within {within} (95 % interval) of those of a run that makes every plan, "
            f"as `planning` exact does{others}"
        )
    if scenario.planning == "sampled" and run.planning == "exact" and run.steps:
        why = "loads are even or recorded, nodes that change share servers, or windows are too few for blocks"
        notes.append(f"every plan is made, though `planning` is sampled: {why}")
    if run.extrapolated_s is not None:
        share = run.extrapolated_s / steps_s
        notes.append(f"{share_text(share, '.1%')} of the time of steps is extrapolated beyond measured sizes")
    if run.failures and run.failures[-1].detected_s is None:
        since = format_duration(run.wall_s - run.failures[-1].time_s)
        notes.append(f"the run ends {since} after a failure that is not noticed yet: what it loses is not counted")
    return notes


def _unused_notes(scenario: Scenario, run: SystemRun) -> list[str]:
    """Say how many nodes a system uses where it leaves others of the trace idle that make no group it could use."""
    system, costs = scenario.find_system(**run.setting), scenario.costs()
    usable = functools.cache(functools.partial(system.usable_nodes, costs))
    idle_s: dict[int, float] = {}
    for state, end_s in zip(run.states, [*(state.time_s for state in run.states[1:]), run.wall_s], strict=True):
        there = min(state.num_alive, scenario.most_in_service())
        if 0 < state.num_used <= usable(there) < there:
            idle_s[there] = idle_s.get(there, 0.0) + (there - usable(there)) * (end_s - state.time_s)
    if math.fsum(idle_s.values()) < DECISIVE_SHARE * run.node_hours_held * HOUR_S or not idle_s:
        return []
    there = max(idle_s, key=lambda number: idle_s[number])
    groups = "whole model replicas or share the stages evenly"
    if not isinstance(costs, LayoutCosts):
        groups = "equal groups that hold every expert"
    more = next((number for number in range(there, 2 * there + 1) if usable(number) > usable(there)), None)
    told = f"with {counted(there, 'node')}, {usable(there)} train, the most that make {groups}; the others stay idle"
    return [f"{told}, and more train from {more} on" if more else told]


def _unevenness_notes(scenario: Scenario, run: SystemRun) -> list[str]:
    """Say by how much the busiest GPU is ahead under the first loads, where `BALANCED` has it less far ahead.

    With some numbers of nodes, whole numbers of replicas fit the loads badly: each that lasts long counts.
    """
    system, costs = scenario.find_system(), scenario.costs()
    if not system.is_elastic or not run.steps:
        return []
    balanced = replace(system, policy=find_policy(BALANCED))
    load_LE, gpus = scenario.load_routing().loads([0])[0], costs.cluster.gpus_per_node
    found = [(0.0, 0.0, 0, 0.0)]
    for (num_nodes, _), seconds in run.steps_s.items():
        share = seconds / run.wall_s
        if share >= DECISIVE_SHARE:
            with contextlib.suppress(InfeasiblePlanError):
                own, other = (
                    float(busiest_L(one.plan(costs, num_nodes, load_LE), load_LE, gpus).mean())
                    for one in (system, balanced)
                )
                found.append((own - other, own, num_nodes, share))
    gain, own, num_nodes, share = max(found)
    if gain < TOLD_GAIN:
        return []
    where = f"on {counted(num_nodes, 'node')}, {share_text(share, '.0%')} of the time"
    return [
        f"{where}, the busiest GPU has {own:.2f} times the mean tokens, and the others wait for it; "
        f"{own - gain:.2f} times with `placement` {BALANCED}; `lazsim recovery` tells what each survives"
    ]


def _rounding_notes(scenarios: Sequence[Scenario], runs: Sequence[SystemRun]) -> list[str]:
    """Say how much of its micro-batches a step leaves empty, where the global batch does not fill whole rounds."""
    empty: dict[str, float] = {}
    for scenario, run in zip(scenarios, runs, strict=True):
        system, costs = scenario.find_system(), scenario.costs()
        if not run.steps or not isinstance(costs, LayoutCosts):
            continue
        empty_s = math.fsum(seconds * system.timed(costs, *size).empty_share for size, seconds in run.steps_s.items())
        empty[run.name] = empty_s / math.fsum(run.steps_s.values())
    if max(empty.values(), default=0.0) < TOLD_EMPTY:
        return []
    told = ", ".join(f"{name} {share_text(share, '.1%')}" for name, share in empty.items())
    return [
        "data-parallel ranks take whole micro-batches, interleaved stages whole rounds of them, which "
        f"`job.parallel.global_batch` does not fill on these nodes; share that stays empty: {told}"
    ]


def _assumption_notes(scenarios: Sequence[Scenario], runs: Sequence[SystemRun]) -> list[str]:
    """Say how many constants no source tells, and which of them weigh much in the steps of layouts."""
    first = scenarios[0]
    told = []
    for part, spec in (("gpu", first.gpu), ("cluster", first.cluster)):
        of_part = (one for one in first.assumed if one.startswith(part))
        left = [one for one in of_part if not why_without_effect(one, first.without_effect)]
        told += [f"{len(left)} of {spec.name}"] * bool(left)
    files = "(`assumed` in their files); `lazsim sensitivity` tells what they weigh"
    notes = [f"numbers that no source tells: {', '.join(told)} {files}"] * bool(told)
    weighed: dict[str, list[tuple[str, AssumedConstant]]] = {}
    for scenario, run in zip(scenarios, runs, strict=True):
        costs = scenario.costs()
        if run.steps and isinstance(costs, LayoutCosts):
            num_nodes, _ = max(run.steps_s, key=run.steps_s.__getitem__)
            for one in costs.assumptions(num_nodes, scenario.find_system().masked_reorder):
                if one.weight >= TOLD_WEIGHT and f"step.{one.name}" in scenario.assumed:
                    weighed.setdefault(one.name, []).append((run.name, one))
    return notes + [_assumption_note(name, found) for name, found in weighed.items()]


def _assumption_note(name: str, found: Sequence[tuple[str, AssumedConstant]]) -> str:
    first = found[0][1]
    changes = grouped((f"{one.low_change:+.1%} and {one.high_change:+.1%}", run) for run, one in found)
    told = "; ".join(f"{by}: {', '.join(dict.fromkeys(names))}" for by, names in changes.items())
    return (
        f"`step.{name}` {first.value:.3g} is assumed; at {first.low:.3g} and {first.high:.3g}, "
        f"steps under even loads change by {told}"
    )


def busiest_L(plan: PlacementPlan, load_LE: Ints, gpus_per_node: int) -> Floats:
    """Return the tokens of the busiest GPU over the mean of those that hold experts, by layer.

    Examples
    --------
    >>> busiest_L(PlacementPlan(np.array([[[0, 0], [0, 1]]]), num_experts=2), np.array([[3, 3]]), 2).tolist()
    [2.0]
    """
    share_LE = np.zeros((plan.num_layers, plan.num_experts + 1))
    share_LE[:, :-1] = load_LE / plan.replicas_LE
    gpu_LG: Floats = share_LE.reshape(-1).take(slots_by_gpu(plan, gpus_per_node)).sum(axis=0)
    ratio_L: Floats = gpu_LG.max(axis=1) * (gpu_LG > 0).sum(axis=1) / gpu_LG.sum(axis=1)
    return ratio_L


def profile_notes(path: Path, model: str) -> list[str]:
    """Return what keeps a profile from driving a run of its model, on the default cluster with the default job."""
    scenarios = [resolve({"model": model, "profile": str(path), "system": name}) for name in DEFAULT_SYSTEMS]
    first = scenarios[0]
    profile, spec, cluster = first.load_profile(), first.model, first.cluster
    assert profile is not None, "the scenario has a profile"
    notes = [
        f"{path}: a run takes analytic times for {part}: {_lack(kernels)}"
        for part, kernels in missing_kernels(profile, spec).items()
    ]
    trace = build_trace([Event(0.0, "add", f"node{index}") for index in range(cluster.num_nodes)])
    for one in scenarios:
        try:
            # The first step asks for all sizes up to the first rebalance.
            simulate_system(trace, one.find_system(), one.costs(), one.load_routing(), duration_s=1e-3)
        except CostRangeError as error:
            return [*notes, f"{path}: cannot drive a run of {spec.name} on {cluster.name}, {one.system}: {error}"]
        except InfeasiblePlanError:
            continue
    return notes


def _lack(kernels: Sequence[str]) -> str:
    """Say what a profile lacks: kernels that can be measured, or those that none can have."""
    if never := [kernel for kernel in kernels if kernel not in SIZE_UNITS]:
        return f"no profile has {', '.join(never)}"
    return f"measure two sizes or more of {', '.join(kernels)}"


def draw_notes(scenarios: Sequence[Scenario]) -> tuple[str, ...]:
    """Say that the seed of scenarios, which share all but system and placement, changes nothing."""
    first = scenarios[0]
    is_drawn = first.routing.generator is not None or any(one.system_origin for one in scenarios)
    is_drawn |= first.settings["trace_seed"] is None and _is_trace_drawn(first)
    return seed_notes(first.seed, (one.placement["name"] for one in scenarios if one.placement), is_drawn=is_drawn)


def _is_trace_drawn(scenario: Scenario) -> bool:
    """Tell whether the trace of a scenario is another at each seed."""
    if scenario.trace is None or isinstance(scenario.settings["trace"], Trace):
        return False
    return scenario.trace.recipe is not None or scenario.load_trace().is_drawn


def count_notes(notes_by_run: Sequence[Iterable[str]]) -> tuple[str, ...]:
    """Return each remark once, with the number of its runs if not all have it; those that differ in numbers are one.

    Examples
    --------
    >>> count_notes([["seed 0", "analytic", "late"], ["seed 1", "analytic"]])
    ('seed 0 (numbers of the first run)', 'analytic', 'late (1 of 2 runs)')
    """
    found = grouped((without_numbers(note), note) for notes in notes_by_run for note in notes)
    num_runs = len(notes_by_run)

    def told(same: Sequence[str]) -> str:
        some = f"{len(same)} of {counted(num_runs, 'run')}" if len(same) < num_runs else ""
        first = "numbers of the first run" if len(set(same)) > 1 else ""
        about = "; ".join(filter(None, (some, first)))
        return f"{same[0]} ({about})" if about else same[0]

    return tuple(map(told, found.values()))


def without_numbers(note: str) -> str:
    """Return what a remark says whatever its numbers."""
    return NUMBER.sub("#", note)


def _input_notes(scenario: Scenario, trace: Trace, loads: Routing, wall_s: float) -> list[str]:
    notes = [*trace.notes, *rate_note(trace_stats(trace)), *loads.notes]
    # Stretches of a trace end a rounding apart.
    if wall_s - trace.duration_s > 1e-6:
        asked, end, rest = map(format_duration, (wall_s, trace.duration_s, wall_s - trace.duration_s))
        told = f"{asked} asked for, but the trace ends after {end}"
        # A trace that was loaded for as long says the first part of it.
        notes = [note for note in notes if note != told] + [f"{told}: nodes alive then stay for the other {rest}"]
    if scenario.num_spares:
        start_s = scenario.spare_start_s
        start = f"{format_duration(start_s)} after a loss" if start_s else "at once"
        notes.append(
            f"{counted(scenario.most_in_service(), 'node')} at most for training; spares that join {start}: "
            f"{scenario.num_spares}"
        )
    elif scenario.spare_start_s:
        notes.append("`spare_start` has no effect without `spares`")
    scaled = ((path, FACTOR.fullmatch(value)) for path, value in scenario.settings.items() if isinstance(value, str))
    cut = ((f"`{path}` {by[0]}", share_note(path, float(by[1]), scenario.field(path))) for path, by in scaled if by)
    notes += [f"{change}: {why}" for change, why in cut if why]
    return [*notes, *nodes_note(scenario)]


def nodes_note(scenario: Scenario) -> tuple[str, ...]:
    """Say where the trace has more nodes than the cluster, or fewer than were asked for."""
    most_nodes, cluster, asked = scenario.most_in_service(), scenario.cluster, scenario.settings["max_nodes"]
    told, has = f"the trace has up to {counted(most_nodes, 'node')}", f"{cluster.name} has {cluster.num_nodes}"
    if most_nodes > cluster.num_nodes:
        return (f"{told}, {has}; `max_nodes` {cluster.num_nodes} keeps to that",)
    # Who gives no cluster asks for no number of nodes.
    wanted = asked or (cluster.num_nodes if scenario.settings["cluster"] != DEFAULTS["cluster"] else 0)
    if most_nodes + scenario.num_spares >= wanted:
        return ()
    has = has if asked is None else f"`max_nodes` asks for {asked}"
    is_recipe = scenario.trace is not None and scenario.trace.recipe is not None
    recipe, fit = ("RECIPE", "") if is_recipe else ("like.toml", "lazsim trace fit FILE --out like.toml, then ")
    return (
        f"{told}, {has}: the others are never there, and all numbers are of those of the trace; "
        f"{fit}lazsim trace generate {recipe} --nodes {wanted} makes a trace of as many",
    )


def threshold_note(scenario: Scenario, num_nodes: int) -> str | None:
    """Say that no plan for up to `num_nodes` nodes holds each expert on as many as the fault threshold asks for.

    Where `SPREADING` has one, it says so.
    """
    system, costs, asked = scenario.find_system(), scenario.costs(), scenario.job.fault_threshold
    used = system.usable_nodes(costs, num_nodes)
    fewest = system.plan_evenly(costs, used).fewest_nodes
    if fewest >= asked:
        return None
    told = f"f {asked} does not fit: on {counted(used, 'node')}, some expert is on {fewest} only"
    with contextlib.suppress(InfeasiblePlanError):
        other = replace(system, policy=find_policy(SPREADING))
        if system.is_elastic and other.plan_evenly(costs, used).fewest_nodes >= asked:
            told += f"; it fits with `placement` {SPREADING}"
    return told


def _idle_note(scenario: Scenario, run: SystemRun) -> str:
    """Say why a run trains nothing."""
    costs, job, needed = scenario.costs(), scenario.job, _needed_nodes(scenario)
    most_nodes = scenario.most_in_service()
    if needed > most_nodes:
        there = "at most {} train beside the spares" if scenario.num_spares else "the trace has at most {}"
        return f"nothing trained: {counted(needed, 'node')} are needed, and {there.format(most_nodes)}"
    if lost_steps := run.counts["lost_steps"]:
        why = "there are no checkpoints"
        if run.interval_steps:
            why = f"no failure leaves time for a checkpoint after {run.interval_steps}"
        return f"nothing kept of {counted(lost_steps, 'step')}: {why}"
    if run.ledger_s["compute"] + run.ledger_s["lost_work"]:
        return "nothing trained: no step ends before the run or a failure does"
    wait_s, begin_s = job.join_wait_s, restart_s(costs, needed)
    longest_s = max(_spans_s(scenario, needed), default=0.0)
    why = "nodes go before a start is done"
    if longest_s < wait_s + begin_s:
        why = f"{counted(needed, 'node')} that are needed are there for at most {format_duration(longest_s)} in a row"
    start = f"{format_duration(wait_s)} of collecting new nodes and {format_duration(begin_s)} of a restart"
    return f"nothing trained: {why}, and a start takes {start}"


def _needed_nodes(scenario: Scenario) -> int:
    """Return the fewest nodes on which a run trains."""
    system, costs = scenario.find_system(), scenario.costs()
    fewest = system.fewest_nodes(costs)
    counts = range(fewest, scenario.cluster.num_nodes + 1)
    return next((count for count in counts if system.usable_nodes(costs, count)), fewest)


def _spans_s(scenario: Scenario, num_nodes: int) -> Floats:
    """Return the lengths of the times in which the trace of a scenario has `num_nodes` nodes or more."""
    (times_s, num_alive), wall_s = scenario.load_trace().num_alive(), scenario.wall_s()
    edges_s = np.append(times_s[times_s < wall_s], wall_s)
    enough = num_alive[: len(edges_s) - 1] >= num_nodes
    changes_s: Floats = edges_s[np.diff(enough, prepend=False, append=False)]
    return changes_s[1::2] - changes_s[::2]


def _model_notes(model: ModelSpec) -> list[str]:
    """Say which blocks of a model cost too much or nothing in a run without a layout; `lazsim.stepmodel` has them."""
    notes = []
    if model.attention is not None and model.attention.num_window_layers:
        notes.append(f"{model.name}: sliding windows count as attention to the whole sequence, so steps are too long")
    if model.attention is not None and model.attention.index_heads:
        notes.append(f"{model.name}: the choice of keys and what the indexer learns from count nothing")
    if model.num_mtp_layers:
        notes.append(f"{model.name}: layers that predict further tokens count nothing")
    return notes


def _cost_notes(scenarios: Sequence[Scenario]) -> list[str]:
    """Say which times are measured and which are analytic."""
    scenario, costs = scenarios[0], scenarios[0].costs()
    if isinstance(costs, LayoutCosts):
        return _layout_notes(scenarios, costs)
    if not isinstance(costs, KernelCosts):
        return ["steps, transfers and saves take the `times` of the job"]
    profile, why = scenario.load_profile(), scenario.why_no_layout
    notes = [f"{scenario.gpu.name} has measured kernels, but no layout can be chosen by them: {why}"] if why else []
    if profile is None:
        return ["costs are analytic: no profile was given", *notes]
    return notes + _profile_notes(scenarios, costs, profile)


def _layout_notes(scenarios: Sequence[Scenario], costs: LayoutCosts) -> list[str]:
    """Say which layout the steps are of, by which kernels, and how even its loads are."""
    scenario = scenarios[0]
    whose = f"job {scenario.job.name}"
    if scenario.has_chosen_layout:
        seen = "the trace of seed 0" if _is_trace_drawn(scenario) else "the trace"
        whose = f"chosen for the nodes of {seen} and its failures, which it knows ahead, under even loads, "
        whose += f"as `job` gives none: {_chosen_layouts(scenarios)}"
        # A config of Hugging Face has the name of a family with `_`, whose other models have other sizes.
        name, num_nodes = scenario.model.name.replace("_", "-"), scenario.most_in_service()
        cluster = msgspec.structs.replace(scenario.cluster, num_nodes=num_nodes)
        step = msgspec.json.encode(scenario.step, order="sorted")
        if named := named_job(name, JobChoice(scenario.model, scenario.gpu, cluster, step)):
            whose += f"; the catalogue has a `job` {named.name}"
    elif scenario.settings["job"] is None:
        whose += ", named as the model"
    notes = [f"steps are those of a layout ({whose}) from measured kernels of {scenario.gpu.kernels}"]
    notes += kernel_remarks(costs.inputs)
    if scenario.settings["routing"] is None and scenario.routing.name == UNIFORM:
        notes.append(f"loads of experts are even, as in `lazsim step`; `routing` {SKEWED_LOADS} has skewed ones")
    elif scenario.routing.name == SKEWED_LOADS:
        notes.append(
            f"loads are as skewed as those of a small model ({SKEWED_LOADS}); a model trained to balance, "
            f"such as DeepSeek-V3, has even ones: `routing` {UNIFORM}"
        )
    return notes


def _profile_notes(scenarios: Sequence[Scenario], costs: KernelCosts, profile: Profile) -> list[str]:
    """Say which times a profile has, which are analytic beside it, and what it cannot follow."""
    scenario, header, notes = scenarios[0], profile.header, list[str]()
    if scenario.settings["profile"] is None:
        notes.append(
            f"the catalogue has a profile of this GPU and model, which is used; `profile` {ANALYTIC} leaves it out"
        )
    times, links = costs.compute, costs.communication
    assert isinstance(times, MeasuredCompute)
    where = f" on {header.device}, {header.dtype}" if header is not None else ""
    exchanges = links.tables if isinstance(links, MeasuredCommunication) else ()
    measured = [*times.tables, *(f"{name} inside a server" for name in exchanges)]
    analytic = [name for name in BARE_KERNELS if name not in times.tables]
    notes.append(f"{profile.name}: measured{where}: {', '.join(measured) or 'no part of a step'}")
    masked = [one.system for one in scenarios if one.find_system().masked_reorder]
    masks = [f"masks of {', '.join(masked)}"] if masked and "reorder" in times.tables else []
    notes.append(f"analytic: {', '.join([*analytic, *masks, 'links between servers', 'storage'])}")
    changed = [name for name in scenario.settings if name.startswith("gpu.")]
    if changed and times.tables:
        notes.append(
            f"{', '.join(changed)}: measured times do not change with it; `profile` {ANALYTIC} leaves them out"
        )
    if header is not None and header.device == "cpu" and times.tables:
        notes.append(f"times of a CPU stand in for those of {costs.cluster.gpu}: no real machine is like this run's")
    return notes


def _chosen_layouts(scenarios: Sequence[Scenario]) -> str:
    """Name the layouts that were chosen, and their systems where these have several."""
    systems: dict[str, list[str]] = {}
    for scenario in scenarios:
        if scenario.job.parallel is not None:
            systems.setdefault(scenario.job.parallel.description, []).append(scenario.system)
    told = [f"{', '.join(dict.fromkeys(names))}: {text}" for text, names in systems.items()]
    return "; ".join(told) if len(told) > 1 else next(iter(systems))


def _placement_notes(scenarios: Sequence[Scenario], runs: Sequence[SystemRun]) -> list[str]:
    """Say what a comparison of placements lacks."""
    notes = []
    if not scenarios[0].load_trace().nodes_lost(runs[0].wall_s):
        notes.append("the trace loses no node, so that plans have no recovery probability")
    scores = {run.name: run.plan_recovery for run in runs if run.plan_recovery is not None}
    sampled = {name: score for name, score in scores.items() if score.method != "exact"}
    if sampled:
        width = max(score.ci_high - score.ci_low for score in sampled.values()) / 2
        notes.append(f"recovery probability sampled, 95 % interval within +-{width:.4f}: {', '.join(sampled)}")
    return notes
