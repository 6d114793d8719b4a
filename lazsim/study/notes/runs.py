"""Notes on what runs did: why little was trained, what decided their time, and what they lost."""

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import numpy as np

from lazsim.costmodel.recovery_times import restart_s
from lazsim.engine.layout import LayoutCosts
from lazsim.engine.simulate import SystemRun
from lazsim.engine.systems import SYSTEMS, System
from lazsim.errors import InfeasiblePlanError
from lazsim.grouping import grouped
from lazsim.placement.plan import Floats
from lazsim.placement.policies import find_policy
from lazsim.scenario import Scenario
from lazsim.study.memory import gather_obstacles, tell_shortages
from lazsim.study.notes.told import Pairs, by_text, listed, without_numbers
from lazsim.units import GIB, HOUR_S, counted, format_duration, share_text

DECISIVE_SHARE = 0.1
"""Least share of the time that a note tells: of waiting, of restarts, or of training on some number of nodes."""

FAR_FACTOR = 2.0
"""Least error of runs outside of an interval that a note tells, over the interval; normal errors have 1.2."""

SPREADING, UNPADDED = "euclid", "dropless-ft"
"""A policy that spreads experts over as many nodes as possible, by plans that the published one does not have; and a
system that lacks what Lazarus does about failures, and pads no more than it."""


def tell_memory(pairs: Pairs) -> Iterator[str]:
    """Say which systems do not fit into memory; those that differ in numbers share a note, and a table has these."""
    # All placements of a system take nearly the same.
    firsts = [alike[0] for alike in grouped((run.system, (one, run)) for one, run in pairs).values()]
    told = ((run.name, text.removeprefix(run.name)) for one, run in firsts for text in tell_shortages(one, run))
    for alike in grouped((without_numbers(text), (name, text)) for name, text in told).values():
        names, (text, *others) = zip(*alike, strict=True)
        differ = f" (numbers of {names[0]})" if {*others} - {text} else ""
        yield from gather_obstacles((name, f"{name}{text}{differ}") for name in names)


def tell_idle(scenario: Scenario, run: SystemRun) -> Iterator[str]:
    """Say why a run trains nothing, or keeps nothing of it."""
    if run.steps:
        return
    needed, most_nodes, lost_steps = _needed_nodes(scenario), scenario.most_in_service(), run.counts["lost_steps"]
    if needed > most_nodes:
        there = "at most {} train beside the spares" if scenario.num_spares else "the trace has at most {}"
        yield f"nothing trained: {counted(needed, 'node')} are needed, and {there.format(most_nodes)}"
    elif lost_steps:
        every = run.interval_steps
        why = f"no failure leaves time for a checkpoint after {every}" if every else "there are no checkpoints"
        yield f"nothing kept of {counted(lost_steps, 'step')}: {why}"
    elif _steps_s(run):
        yield "nothing trained: no step ends before the run or a failure does"
    else:
        wait_s, begin_s = scenario.job.join_wait_s, restart_s(scenario.costs(), needed)
        longest_s = max(_spans_s(scenario, needed), default=0.0)
        there, most = f"the nodes needed ({needed:,}) are there for", f"{format_duration(longest_s)} in a row"
        start = f"{format_duration(wait_s)} of collecting new nodes and {format_duration(begin_s)} of a restart"
        why = f"{there} at most {most}, and a start takes {start}"
        # The first nodes of a trace start at once, and a system of the user may take longer.
        if longest_s >= wait_s + begin_s or scenario.load_trace().num_alive()[1][0] >= needed:
            why = f"no start begins, though {there} up to {most}"
            if run.ledger_s["restart"]:
                why = "no start ends before the run or a failure does"
        yield f"nothing trained: {why}"


def tell_exposed(scenario: Scenario, run: SystemRun) -> Iterator[str]:
    """Say why a system cannot do what it is for, and how long some expert was on too few nodes."""
    system = scenario.find_system(**run.setting)
    if run.most_nodes_used and (exposed := system.why_exposed(scenario.costs(), run.most_nodes_used)):
        yield f"{exposed}: every failure is a restart"
    if run.below_threshold_s:
        threshold, share = scenario.job.fault_threshold, share_text(run.below_threshold_s / _steps_s(run), ".1%")
        told = f"in {share} of the time of steps, some expert is on fewer than {threshold} nodes"
        why = threshold_note(scenario, scenario.most_in_service())
        yield f"{told} (`fault_threshold`); {why or f'f {threshold} fits while no node is lost'}"


def tell_unused(scenario: Scenario, run: SystemRun) -> Iterator[str]:
    """Say how many nodes a system uses where it leaves others of the trace idle that make no group it could use."""
    costs = scenario.costs()
    usable = functools.cache(functools.partial(scenario.find_system(**run.setting).usable_nodes, costs))
    most, idle_s = scenario.most_in_service(), dict[int, float]()
    for state, end_s in zip(run.states, [*(state.time_s for state in run.states[1:]), run.wall_s], strict=True):
        there = min(state.num_alive, most)
        if 0 < state.num_used <= usable(there) < there:
            idle_s[there] = idle_s.get(there, 0.0) + (there - usable(there)) * (end_s - state.time_s)
    if idle_s and math.fsum(idle_s.values()) >= DECISIVE_SHARE * run.node_hours_held * HOUR_S:
        there = max(idle_s, key=lambda number: idle_s[number])
        groups = "equal groups that hold every expert"
        if isinstance(costs, LayoutCosts):
            groups = "whole model replicas or share the stages evenly"
        more = next((number for number in range(there, 2 * there + 1) if usable(number) > usable(there)), None)
        told = f"with {counted(there, 'node')}, {usable(there)} train, the most that make {groups}"
        yield f"{told}; the others stay idle{f', and more train from {more} on' if more else ''}"


def tell_shortcuts(scenario: Scenario, run: SystemRun) -> Iterator[str]:
    """Say how far off sampled plans are, what is beyond measurements, and what beyond the end of the run."""
    if run.samples_error_beyond:
        are_far = run.samples_error_beyond > FAR_FACTOR * run.samples_error
        within, beyond = share_text(run.samples_error, ".2%"), share_text(run.samples_error_beyond, ".1%")
        others = f"; the other 5 % are off by {beyond} on average" if are_far else ""
        yield (
            f"plans are sampled; samples are within {within} (95 % interval) of those of a run that makes every plan, "
            f"as `planning` exact does{others}"
        )
    if scenario.planning == "sampled" and run.planning == "exact" and run.steps:
        why = "loads are even or recorded, nodes that change share servers, or windows are too few for blocks"
        yield f"every plan is made, though `planning` is sampled: {why}"
    if run.extrapolated_s:
        share = share_text(run.extrapolated_s / _steps_s(run), ".1%")
        yield f"{share} of the time of steps is extrapolated beyond measured sizes"
    if run.failures and run.failures[-1].detected_s is None:
        since = format_duration(run.wall_s - run.failures[-1].time_s)
        yield f"the run ends {since} after a failure that is not noticed yet: what it loses is not counted"


def tell_gaps(pairs: Pairs) -> Iterator[str]:
    """Say where loads were not recorded for as long, and for how long there are fewer nodes than a system takes."""
    last_step = pairs[0][0].load_routing().last_step
    if last_step is not None and any(run.steps > last_step for _, run in pairs):
        yield f"the recorded loads end at step {last_step}; later steps use the last ones"
    few = list[tuple[str, str]]()
    for scenario, run in pairs:
        if run.steps and run.ledger_s["waiting"] / run.wall_s >= DECISIVE_SHARE:
            needed = _needed_nodes(scenario)
            share = 1.0 - float(_spans_s(scenario, needed).sum()) / run.wall_s
            if share >= DECISIVE_SHARE:
                why = " (`min_nodes`)" if scenario.job.min_nodes else ""
                few.append((f"fewer than {needed}{why} for {share_text(share, '.0%')} of the time", run.name))
    if few:
        says = "training stands still while there are fewer nodes than a system takes"
        yield f"{says}: {by_text(few)}; more nodes help, or a `job` that takes fewer"


def tell_departures(pairs: Pairs) -> Iterator[str]:
    """Say where systems depart from the job: intervals, layouts, and buffers that all but one of them pad."""
    trained = [(one, run) for one, run in pairs if run.steps]
    own = {run.name: one.job.checkpoint_interval_steps.get(run.system) for one, run in trained}
    chosen = [
        f"{run.name} {run.interval_steps}"
        for one, run in trained
        if run.interval_steps not in (own[run.name], one.interval)
    ]
    # An interval in seconds was asked for.
    by = "in the interval given" if isinstance(pairs[0][0].interval, float) else "not given by the job"
    yield from listed(f"steps between checkpoints, {by}", chosen)
    known = {*SYSTEMS, *(one.system for one, _ in pairs)}
    given = dict.fromkeys(name for one, _ in pairs for name in one.job.checkpoint_interval_steps)
    if unknown := [name for name in given if name not in known]:
        yield f"of no effect: job.checkpoint_interval_steps of {', '.join(unknown)}, which no system is called"
    if changed := by_text((told, one.system) for one, _ in pairs if (told := _changed_layout(one))):
        yield f"recovery from nodes, or padding, takes another layout than the job's, with other steps: {changed}"
    padding = [run.name for one, run in trained if one.find_system().padded]
    if padding and len(padding) == len(trained) - 1:
        yield (
            f"{', '.join(padding)}: buffers of all experts are as large as the fullest one's, with or without "
            f"failures; `system` {UNPADDED} pads none, as MegaBlocks and Megatron train"
        )


def _changed_layout(scenario: Scenario) -> str:
    """Return the fields of the layout that a system sets otherwise than the job."""
    costs, own = scenario.costs(), scenario.job.parallel
    used = msgspec.structs.asdict(costs.layout) if isinstance(costs, LayoutCosts) else {}
    return ", ".join(f"{name} {value}" for name, value in used.items() if value != getattr(own, name))


def tell_recovery(pairs: Pairs) -> Iterator[str]:
    """Say what checkpoints, restarts, copies and rollbacks take, where that is much."""
    unsaved = [run.name for _, run in pairs if not run.interval_steps]
    yield from listed("makes no checkpoints, so that a restart goes back to step 0", unsaved)
    first = pairs[0][0]
    # A system of a user may restart in a time of its own.
    usual = (run for one, run in pairs if type(one.find_system()).restart_s is System.restart_s)
    shares = ((run.name, run.ledger_s["restart"] / run.wall_s) for run in usual)
    restarting = [f"{name} {share_text(share, '.0%')}" for name, share in shares if share >= DECISIVE_SHARE]
    if restarting:
        # The trace says how many nodes there are, whatever the size of the cluster.
        num_nodes = first.most_in_service()
        each = format_duration(restart_s(first.costs(), num_nodes))
        yield (
            f"the time of a restart decides much: {each} on {counted(num_nodes, 'node')} "
            f"before it reads a checkpoint (`cluster.recovery`). Share of the time in restarts: {', '.join(restarting)}"
        )
    has = f"GiB of each node's own memory for copies and logs, of {first.cluster.host_memory_bytes / GIB:,.0f}"
    yield from listed(has, [f"{run.name} {run.host_bytes / GIB:,.0f}" for _, run in pairs if run.host_bytes])
    losing = [run.name for _, run in pairs if run.lost_token_share]
    yield from listed("samples count tokens, too, whose updates of experts rollbacks lost", losing)


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


def _steps_s(run: SystemRun) -> float:
    """Return the time of all steps, those that were lost included."""
    return run.ledger_s["compute"] + run.ledger_s["lost_work"]


def _needed_nodes(scenario: Scenario) -> int:
    """Return the fewest nodes on which a run starts."""
    system, costs = scenario.find_system(), scenario.costs()
    fewest = system.fewest_nodes(costs)
    # A trace may have more nodes than the cluster.
    counts = range(fewest, max(scenario.cluster.num_nodes, scenario.most_in_service()) + 1)
    return next((count for count in counts if system.can_start(costs, count)), fewest)


def _spans_s(scenario: Scenario, num_nodes: int) -> Floats:
    """Return the lengths of the times in which the trace of a scenario has `num_nodes` nodes or more."""
    (times_s, num_alive), wall_s = scenario.load_trace().num_alive(), scenario.wall_s()
    edges_s = np.append(times_s[times_s < wall_s], wall_s)
    enough = num_alive[: len(edges_s) - 1] >= num_nodes
    changes_s: Floats = edges_s[np.diff(enough, prepend=False, append=False)]
    return changes_s[1::2] - changes_s[::2]
