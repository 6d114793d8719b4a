"""Notes on what numbers rest on: layouts, profiles, assumed constants, scored plans, and what counts nothing."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lazsim.costmodel.measured import MeasuredCommunication, MeasuredCompute, missing_kernels
from lazsim.costmodel.profile import BARE_KERNELS, SIZE_UNITS
from lazsim.costmodel.step import KernelCosts
from lazsim.engine.default_job import JobChoice, named_job
from lazsim.engine.layout import LayoutCosts
from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems import DEFAULT_SYSTEMS
from lazsim.errors import CostRangeError, InfeasiblePlanError
from lazsim.grouping import grouped
from lazsim.routing.loading import UNIFORM
from lazsim.scenario import resolve
from lazsim.settings import ANALYTIC, SKEWED_LOADS
from lazsim.specs.effects import cluster_remarks, job_remarks, model_remarks, why_without_effect
from lazsim.stepmodel.assumptions import AssumedConstant
from lazsim.stepmodel.remarks import kernel_remarks
from lazsim.study.notes.inputs import is_trace_drawn
from lazsim.study.notes.told import Pairs, by_text
from lazsim.trace.table import Event, build_trace
from lazsim.units import share_text

TOLD_SHARE = 0.05
"""Least share of empty micro-batches, and least change of steps by an assumed constant, that a note tells."""


def tell_empty_batches(pairs: Pairs) -> Iterator[str]:
    """Say how much of its micro-batches a step leaves empty, where the global batch does not fill whole rounds."""
    empty: dict[str, float] = {}
    for scenario, run in pairs:
        system, costs = scenario.find_system(), scenario.costs()
        if run.steps and isinstance(costs, LayoutCosts):
            shares = {size: system.timed(costs, *size).empty_share for size in run.steps_s}
            empty_s = math.fsum(seconds * shares[size] for size, seconds in run.steps_s.items())
            empty[run.name] = empty_s / math.fsum(run.steps_s.values())
    if max(empty.values(), default=0.0) >= TOLD_SHARE:
        told = ", ".join(f"{name} {share_text(share, '.1%')}" for name, share in empty.items())
        yield (
            "data-parallel ranks take whole micro-batches, interleaved stages whole rounds of them, which "
            f"`job.parallel.global_batch` does not fill on these nodes; share that stays empty: {told}"
        )


def tell_without_source(pairs: Pairs) -> Iterator[str]:
    """Say how many constants no source tells."""
    first, told = pairs[0][0], list[str]()
    for part, spec in (("gpu", first.gpu), ("cluster", first.cluster)):
        of_part = (one for one in first.assumed if one.startswith(part))
        left = [one for one in of_part if not why_without_effect(one, first.without_effect)]
        told += [f"{len(left)} of {spec.name}"] * bool(left)
    if told:
        files = "(`assumed` in their files); `lazsim sensitivity` tells what they weigh"
        yield f"numbers that no source tells: {', '.join(told)} {files}"


def tell_assumed(pairs: Pairs) -> Iterator[str]:
    """Say which of the assumed constants weigh much in the steps of layouts."""
    weighed = list[tuple[str, tuple[str, AssumedConstant]]]()
    for scenario, run in pairs:
        if run.steps and isinstance(costs := scenario.costs(), LayoutCosts):
            num_nodes, _ = max(run.steps_s, key=run.steps_s.__getitem__)
            weighed += [
                (one.name, (run.name, one))
                for one in costs.assumptions(num_nodes, scenario.find_system().masked_reorder)
                if one.weight >= TOLD_SHARE and f"step.{one.name}" in scenario.assumed
            ]
    for name, found in grouped(weighed).items():
        first = found[0][1]
        told = by_text((f"{one.low_change:+.1%} and {one.high_change:+.1%}", run) for run, one in found)
        yield (
            f"`step.{name}` {first.value:.3g} is assumed; at {first.low:.3g} and {first.high:.3g}, "
            f"steps under even loads change by {told}"
        )


def tell_model(pairs: Pairs) -> Iterator[str]:
    """Say what is assumed of a model, and which blocks cost too much or nothing without a layout."""
    first, model, attention = pairs[0][0], pairs[0][0].model, pairs[0][0].model.attention
    if first.settings["model"].endswith(".json") and not (first.job.parallel and first.job.parallel.sequence_length):
        yield f"{model.name}: training sequences of {model.sequence_length} tokens are assumed"
    if isinstance(first.costs(), LayoutCosts):
        return
    if attention is not None and attention.num_window_layers:
        yield f"{model.name}: sliding windows count as attention to the whole sequence, so steps are too long"
    if attention is not None and attention.index_heads:
        yield f"{model.name}: the choice of keys and what the indexer learns from count nothing"
    if model.num_mtp_layers:
        yield f"{model.name}: layers that predict further tokens count nothing"


def tell_layout(pairs: Pairs) -> Iterator[str]:
    """Say which layout the steps are of, by which kernels, and how even its loads are."""
    scenario, costs = pairs[0][0], pairs[0][0].costs()
    if not isinstance(costs, LayoutCosts):
        return
    whose = f"job {Path(scenario.settings['job'] or scenario.job.name).name}"
    if scenario.has_chosen_layout:
        seen = "the trace of seed 0" if is_trace_drawn(scenario) else "the trace"
        whose = f"chosen for the nodes of {seen} and its failures, which it knows ahead, under even loads, "
        chosen, *others = {one.job.parallel.description for one, _ in pairs if one.job.parallel}
        whose += f"as `job` gives none: {'one for each system' if others else chosen}"
        # A config of Hugging Face has the name of a family with `_`, whose other models have other sizes.
        name, num_nodes = scenario.model.name.replace("_", "-"), scenario.most_in_service()
        cluster = msgspec.structs.replace(scenario.cluster, num_nodes=num_nodes)
        step = msgspec.json.encode(scenario.step, order="sorted")
        if named := named_job(name, JobChoice(scenario.model, scenario.gpu, cluster, step)):
            whose += f"; the catalogue has a `job` {named.name}"
    elif scenario.settings["job"] is None:
        whose += ", named as the model"
    yield f"steps are those of a layout ({whose}) from measured kernels of {scenario.gpu.kernels}"
    yield from kernel_remarks(costs.inputs)
    if scenario.settings["routing"] is None and scenario.routing.name == UNIFORM:
        yield f"loads of experts are even, as in `lazsim step`; `routing` {SKEWED_LOADS} has skewed ones"
    elif scenario.routing.name == SKEWED_LOADS:
        yield (
            f"loads are as skewed as those of a small model ({SKEWED_LOADS}); a model trained to balance, "
            f"such as DeepSeek-V3, has even ones: `routing` {UNIFORM}"
        )


def tell_measured(pairs: Pairs) -> Iterator[str]:
    """Say which times of a job without a layout are measured, which are analytic, and what a profile cannot follow."""
    scenario, costs = pairs[0][0], pairs[0][0].costs()
    if not isinstance(costs, KernelCosts | LayoutCosts):
        yield "steps, transfers and saves take the `times` of the job"
    if not isinstance(costs, KernelCosts):
        return
    if (profile := scenario.load_profile()) is None:
        yield "costs are analytic: no profile was given"
    if why := scenario.why_no_layout:
        yield f"{scenario.gpu.name} has measured kernels, but no layout can be chosen by them: {why}"
    if profile is None:
        return
    header, times, links = profile.header, costs.compute, costs.communication
    assert isinstance(times, MeasuredCompute)
    where = f" on {header.device}, {header.dtype}" if header is not None else ""
    exchanges = links.tables if isinstance(links, MeasuredCommunication) else ()
    found = [*times.tables, *(f"{name} inside a server" for name in exchanges)]
    shipped = f" of the catalogue (`profile` {ANALYTIC} leaves it out)" if scenario.settings["profile"] is None else ""
    analytic = [name for name in BARE_KERNELS if name not in times.tables]
    masked = [one.system for one, _ in pairs if one.find_system().masked_reorder]
    masks = [f"masks of {', '.join(masked)}"] if masked and "reorder" in times.tables else []
    others = ", ".join([*analytic, *masks, "links between servers", "storage"])
    measured = f"measured{where}: {', '.join(found) or 'no part of a step'}"
    yield f"{profile.name}{shipped}: {measured}; analytic: {others}"
    changed = [name for name in scenario.settings if name.startswith("gpu.")]
    if changed and times.tables:
        yield f"{', '.join(changed)}: measured times do not change with it; `profile` {ANALYTIC} leaves them out"
    if header is not None and header.device == "cpu" and times.tables:
        yield f"times of a CPU stand in for those of {costs.cluster.gpu}: no real machine is like this run's"


def tell_without_effect(pairs: Pairs) -> Iterator[str]:
    """Say which fields of files have no effect."""
    first = pairs[0][0]
    if first.settings["cluster"].endswith(".toml"):
        yield from cluster_remarks(first.job, first.model, first.step)
    yield from model_remarks(first.model)
    # The batch of the job that stands in for one that is not given is the layout's.
    if not first.has_chosen_layout:
        yield from job_remarks(first.job, first.model)


def tell_scores(pairs: Pairs) -> Iterator[str]:
    """Say what a comparison of placements lacks."""
    first, run = pairs[0]
    if first.score_plans and not first.load_trace().nodes_lost(run.wall_s):
        yield "the trace loses no node, so that plans have no recovery probability"
    found = {run.name: run.plan_recovery for _, run in pairs if run.plan_recovery is not None}
    sampled = {name: score for name, score in found.items() if score.method != "exact"}
    if sampled:
        width = max(score.ci_high - score.ci_low for score in sampled.values()) / 2
        yield f"recovery probability sampled, 95 % interval within +-{width:.4f}: {', '.join(sampled)}"


def profile_notes(path: Path, model: str) -> Iterator[str]:
    """Yield what keeps a profile from driving a run of its model, on the default cluster with the default job."""
    scenarios = [resolve({"model": model, "profile": str(path), "system": name}) for name in DEFAULT_SYSTEMS]
    profile, spec, cluster = scenarios[0].load_profile(), scenarios[0].model, scenarios[0].cluster
    assert profile is not None, "the scenario has a profile"
    for part, kernels in missing_kernels(profile, spec).items():
        never = ", ".join(kernel for kernel in kernels if kernel not in SIZE_UNITS)
        lack = f"no profile has {never}" if never else f"measure two sizes or more of {', '.join(kernels)}"
        yield f"{path}: a run takes analytic times for {part}: {lack}"
    trace = build_trace([Event(0.0, "add", f"node{index}") for index in range(cluster.num_nodes)])
    try:
        for one in scenarios:
            with contextlib.suppress(InfeasiblePlanError):
                # The first step asks for all sizes up to the first rebalance.
                simulate_system(trace, one.find_system(), one.costs(), one.load_routing(), duration_s=1e-3)
    except CostRangeError as error:
        yield f"{path}: cannot drive a run of {spec.name} on {cluster.name}, {one.system}: {error}"
