"""Notes on what runs are given: nodes, loads, changed constants and the seed."""

from collections.abc import Iterator, Sequence

from lazsim.placement.policies import seed_notes
from lazsim.scenario import Scenario
from lazsim.settings import AUTO, DEFAULTS
from lazsim.specs.overrides import FACTOR, share_note
from lazsim.study.checkpoint_interval import search_notes
from lazsim.study.notes.told import Pairs
from lazsim.trace.stats import rate_note, trace_stats
from lazsim.trace.table import Trace
from lazsim.units import counted, format_duration


def tell_inputs(pairs: Pairs) -> Iterator[str]:
    """Say what readers say of the trace and the loads, how the trace is used, and what factors leave as it is."""
    first, run = pairs[0]
    if first.interval == AUTO:
        yield from search_notes(pairs)
    trace, left_s = first.load_trace(), run.wall_s - first.load_trace().duration_s
    notes = [*trace.notes, *rate_note(trace_stats(trace)), *first.load_routing().notes]
    # Stretches of a trace end a rounding apart.
    if left_s > 1e-6:
        asked, end, rest = map(format_duration, (run.wall_s, trace.duration_s, left_s))
        told = f"{asked} asked for, but the trace ends after {end}"
        # A trace that was loaded for as long says the first part of it.
        notes = [one for one in notes if one != told] + [f"{told}: nodes alive then stay for the other {rest}"]
    yield from notes
    is_whole = first.duration_s is None and not (first.trace and first.trace.recipe)
    if is_whole and (num_late := trace.nodes_lost() - trace.nodes_lost(run.wall_s)):
        yield f"{counted(num_late, 'node')} lost as the trace ends: no number here counts that"
    if first.num_spares:
        start = f"{format_duration(first.spare_start_s)} after a loss" if first.spare_start_s else "at once"
        most = counted(first.most_in_service(), "node")
        yield f"{most} at most for training; spares that join {start}: {first.num_spares}"
    elif first.spare_start_s:
        yield "`spare_start` has no effect without `spares`"
    for path, value in first.settings.items():
        by = FACTOR.fullmatch(value) if isinstance(value, str) else None
        if by and (why := share_note(path, float(by[1]), first.field(path))):
            yield f"`{path}` {by[0]}: {why}"
    yield from nodes_note(first)


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


def draw_notes(scenarios: Sequence[Scenario]) -> tuple[str, ...]:
    """Say that the seed of scenarios, which share all but system and placement, changes nothing."""
    first = scenarios[0]
    is_drawn = first.routing.generator is not None or any(one.system_origin for one in scenarios)
    is_drawn |= first.settings["trace_seed"] is None and is_trace_drawn(first)
    return seed_notes(first.seed, (one.placement["name"] for one in scenarios if one.placement), is_drawn=is_drawn)


def is_trace_drawn(scenario: Scenario) -> bool:
    """Tell whether the trace of a scenario is another at each seed."""
    if scenario.trace is None or isinstance(scenario.settings["trace"], Trace):
        return False
    return scenario.trace.recipe is not None or scenario.load_trace().is_drawn
