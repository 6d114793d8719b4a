"""The layout of a run that gives no job: held to simulations of all that it is chosen from."""

from dataclasses import replace

import msgspec
import pytest

import lazsim
from lazsim.engine import default_job
from lazsim.engine.default_job import MOST_CHANGES, NUM_PARTS, JobChoice, candidates
from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems import SYSTEMS
from lazsim.errors import InfeasiblePlanError, LazsimError, SpecError
from lazsim.scenario import resolve
from lazsim.study.memory import fits_memory
from lazsim.study.simulation import run_scenario
from lazsim.trace.table import Event, build_trace
from tests.test_layouts import even_memory


def nodes(number):
    return [Event(0.0, "add", f"n{index}") for index in range(number)]


def failing(number, every_s, away_s, duration_s):
    """Let nodes fail in turn, each for as long."""
    events = nodes(number)
    for index in range(1, int(duration_s / every_s)):
        at_s, name = index * every_s, f"n{index % number}"
        events += [Event(at_s, "remove", name)] + [Event(at_s + away_s, "add", name)] * (at_s + away_s < duration_s)
    return build_trace(sorted(events, key=lambda one: one.time_s), duration_s=duration_s)


def candidates_of(scenario, trace):
    most_nodes = trace.most_nodes()
    cluster = msgspec.structs.replace(scenario.cluster, num_nodes=most_nodes)
    step = msgspec.json.encode(scenario.step, order="sorted")
    choice = JobChoice(scenario.model, scenario.gpu, cluster, step, trace, trace.duration_s)
    return candidates(choice, SYSTEMS[scenario.system])


def simulated(scenario, job):
    """Simulate a scenario with a layout in place of its own."""
    chosen = msgspec.structs.replace(scenario.job, parallel=job.parallel, min_nodes=job.min_nodes)
    return run_scenario(replace(scenario, job=chosen))


MANY = failing(8, 3600.0, 5000.0, 200_000.0)
FEW = failing(8, 60_000.0, 90_000.0, 400_000.0)
SYSTEMS_TRIED = ["checkpoint", "gemini", "lazarus", "ds-ft", "replica-drop", "bamboo", "recycle", "spare"]


@pytest.mark.parametrize("trace", [MANY, FEW])
@pytest.mark.parametrize("system", SYSTEMS_TRIED)
def test_no_other_layout_that_fits_trains_more_on_the_trace(system, trace):
    scenario = resolve({"model": "qwen3-30b-a3b", "cluster": "h100x8", "system": system, "trace": trace})
    samples = {}
    for job in candidates_of(scenario, trace):
        if 2 * replace(scenario, job=job).costs().grid.replica_nodes > 8 and SYSTEMS[system].takes_two_replicas:
            continue
        run = simulated(scenario, job)
        samples[job.parallel] = fits_memory(scenario, run), run.samples
    assert len(samples) > 1
    assert scenario.has_chosen_layout
    # Samples are those of whole steps.
    assert samples[scenario.job.parallel] == max(samples.values())


@pytest.mark.parametrize(("until_s", "is_safe"), [(395_000.0, False), (200_000.0, True)])
def test_time_on_nodes_on_which_a_layout_does_not_fit_counts_as_not_trained(until_s, is_safe):
    # Of 12 nodes, ten are away at the end of 400,000 s; on two, each GPU has six times the share of the states. What
    # trains 3.5 % more on all is worth 1 % of the time, not half of it.
    gone = [Event(until_s, "remove", f"n{index}") for index in range(10)]
    settings = {"model": "deepseek-v2-lite", "cluster": "dgx-h100", "system": "checkpoint"}
    stayed, fallen = (
        resolve(settings | {"trace": build_trace([*nodes(12), *lost], duration_s=400_000.0)}) for lost in ([], gone)
    )
    assert even_memory(stayed, 2).total > stayed.gpu.memory_bytes
    assert (even_memory(fallen, 2).total <= fallen.gpu.memory_bytes) == is_safe
    assert is_safe or fallen.job == stayed.job


def test_a_layout_that_was_chosen_waits_while_nodes_are_too_few_for_its_memory():
    # As above; the loss is noticed after 15 s, and the last step is lost.
    gone = [Event(395_000.0, "remove", f"n{index}") for index in range(10)]
    trace = build_trace([*nodes(12), *gone], duration_s=400_000.0)
    scenario = resolve({"model": "deepseek-v2-lite", "cluster": "dgx-h100", "system": "checkpoint", "trace": trace})
    assert 2 < scenario.job.min_nodes <= 12
    run = simulated(scenario, scenario.job)
    assert set(run.steps_s) == {(12, 12)}
    assert run.ledger_s["waiting"] == pytest.approx(5000.0 - scenario.cluster.recovery.detect_s)
    # The fewest nodes on which it fits.
    fits = {n: even_memory(scenario, n).total <= scenario.gpu.memory_bytes for n in range(2, 13, 2)}
    assert min(n for n in fits if fits[n]) == scenario.job.min_nodes


def test_nodes_that_go_on_in_their_places_are_not_stopped_by_what_a_start_takes():
    # ReCycle keeps room for the activations of one missing node at its peers. The one peer in two replicas would take
    # all of them, two peers in three replicas half each.
    settings = {"model": "deepseek-v2-lite", "cluster": "dgx-h100", "system": "recycle", "duration": "1d"}
    chosen = resolve(settings | {"trace": build_trace(nodes(12))})
    costs, recycle = chosen.costs(), chosen.find_system()
    assert costs.grid.replica_nodes == 2
    four, six = (even_memory(chosen, n).total + sum(recycle.extra_gpu_bytes(costs, n).values()) for n in (4, 6))
    assert four > chosen.gpu.memory_bytes >= six
    assert chosen.job.min_nodes == 6
    lost = build_trace([*nodes(6), Event(40_000.0, "remove", "n5"), Event(60_000.0, "remove", "n2")])
    run = run_scenario(chosen.under(lost))
    assert set(run.steps_s) == {(6, 6), (5, 6), (4, 6)}
    assert run.ledger_s["waiting"] == 0


@pytest.mark.parametrize(("host_gib", "binds"), [(1024, False), (100, True)])
def test_a_layout_that_was_chosen_waits_while_nodes_are_too_few_for_copies_in_their_own_memory(host_gib, binds):
    settings = {"model": "deepseek-v2-lite", "cluster": "dgx-h100", "system": "gemini", "duration": "1h"}
    settings |= {"trace": build_trace(nodes(12)), "cluster.host.memory_bytes": f"{host_gib}GiB"}
    scenario = resolve(settings)
    system, costs = scenario.find_system(), scenario.costs()
    sizes = range(costs.grid.replica_nodes, 13, costs.grid.replica_nodes)
    fits = [n for n in sizes if even_memory(scenario, n).total <= scenario.gpu.memory_bytes]
    # Copies are shared out over all nodes.
    held = [n for n in sizes if system.host_bytes(costs, n, costs.even_step_s(n)) <= host_gib * 2**30]
    assert scenario.job.min_nodes == max(fits[0], held[0])
    assert (held[0] > fits[0]) is binds


def test_nodes_on_which_a_layout_fits_do_not_count_for_it_where_failures_leave_no_time_to_train_on_them():
    # One of 12 nodes fails each 1,100 s, less than the 20 minutes of a restart. After 130 failures, for the last 6 % of
    # the time, two nodes are left, on which some of what is fast on 12 does not fit.
    events = failing(12, 1100.0, 400.0, 131 * 1100.0).events()
    gone = [Event(131 * 1100.0, "remove", f"n{index}") for index in range(10)]
    trace = build_trace([*events, *gone], duration_s=131 * 1100.0 + 10_000.0)
    scenario = resolve({"model": "deepseek-v2-lite", "cluster": "dgx-h100", "system": "checkpoint", "trace": trace})
    samples = {}
    for job in candidates_of(scenario, trace):
        run, memory_bytes = simulated(scenario, job), scenario.gpu.memory_bytes
        tried = replace(scenario, job=job)
        fitting_s = sum(s for (_, size), s in run.steps_s.items() if even_memory(tried, size).total <= memory_bytes)
        samples[job.parallel] = run.samples * fitting_s / sum(run.steps_s.values())
    assert samples[scenario.job.parallel] == max(samples.values())


def test_of_a_long_trace_stretches_of_equal_parts_of_its_time_are_simulated(monkeypatch):
    # Each node that fails comes back: two changes each, 400 and 600 s apart, and one at the start.
    trace, seconds = failing(4, 1000.0, 400.0, 1000.0 * MOST_CHANGES), []

    def noted(trace, system, costs, loads, duration_s, **others):
        seconds.append((trace.nodes_lost(duration_s), duration_s))
        return simulate_system(trace, system, costs, loads, duration_s, **others)

    monkeypatch.setattr(default_job, "simulate_system", noted)
    settings = {"model": "qwen3-30b-a3b", "cluster": "h100x4", "system": "checkpoint"}
    chosen = resolve(settings | {"trace": trace})
    # 256 of 511 changes, in 8 parts of 32,000 s: each stretch has 16,031 s, and so 16 or 17 failures.
    assert (MOST_CHANGES, NUM_PARTS) == (256, 8)
    tried = [seconds[first : first + 8] for first in range(0, len(seconds), 8)]
    assert len(tried) > 1
    for parts in tried:
        assert [lasts_s for _, lasts_s in parts] == pytest.approx([32_000 * 256 / 511] * 8)
        assert {num_lost for num_lost, _ in parts} <= {16, 17}
    runs = {job.parallel: simulated(chosen, job).samples for job in candidates_of(chosen, trace)}
    assert runs[chosen.job.parallel] > 0.99 * max(runs.values())


def test_a_layout_is_chosen_for_all_hours_of_the_days_of_a_long_trace():
    # In the first ten hours of each of eight days one of twelve nodes is gone every 700 s, less than a restart takes;
    # in the others, two nodes are left, and train if a replica needs no more.
    events = nodes(12)
    for day_s in range(0, 8 * 86_400, 86_400):
        events += [Event(day_s, "add", f"n{index}") for index in range(2, 12)] if day_s else []
        for number in range(1, 50):
            at_s, name = day_s + 700.0 * number, f"n{2 + number % 10}"
            events += [Event(at_s, "remove", name), Event(at_s + 300.0, "add", name)]
        events += [Event(day_s + 36_000.0, "remove", f"n{index}") for index in range(2, 12)]
    trace = build_trace(events, duration_s=8 * 86_400.0)
    scenario = resolve({"model": "deepseek-v2-lite", "cluster": "dgx-h100", "system": "checkpoint", "trace": trace})
    samples = {job.parallel: simulated(scenario, job).samples for job in candidates_of(scenario, trace)}
    # Stretches tell layouts apart that differ by more than a tenth; some train half as much as the best, or less.
    assert samples[scenario.job.parallel] > 0.9 * max(samples.values()) > 2 * 0.9 * min(samples.values())


def test_a_layout_that_fits_in_none_of_the_first_changes_may_be_chosen():
    # Two of twelve nodes are there while they fail, 300 times. Then all come, for 98 % of the time.
    small = failing(2, 1000.0, 400.0, 300_000.0)
    events = [*small.events(), *(Event(300_000.0, "add", f"late{number}") for number in range(10))]
    trace = build_trace(events, duration_s=15_000_000.0)
    scenario = resolve({"model": "deepseek-v2-lite", "cluster": "dgx-h100", "system": "checkpoint", "trace": trace})
    samples = {}
    for job in candidates_of(scenario, trace):
        run, tried = simulated(scenario, job), replace(scenario, job=job)
        fitting_s = sum(s for (_, n), s in run.steps_s.items() if even_memory(tried, n).total <= tried.gpu.memory_bytes)
        samples[job.parallel] = run.samples * fitting_s / sum(run.steps_s.values())
    assert samples[scenario.job.parallel] == max(samples.values())


def test_systems_that_recover_from_others_have_two_replicas_where_no_node_is_lost():
    late = build_trace([*nodes(4), Event(600.0, "add", "late")], duration_s=86_400.0)
    scenario = resolve({"model": "qwen3-30b-a3b", "cluster": "h100x5", "system": "lazarus", "trace": late})
    assert 2 * scenario.costs().grid.replica_nodes <= 5


def test_all_seeds_of_a_recipe_have_the_layout_of_the_failures_of_seed_0():
    settings = {"model": "qwen3-30b-a3b", "cluster": "h100x8", "trace": "spot-p3-like", "max_nodes": 8}
    first, other = (resolve(settings | {"system": "lazarus", "seed": seed}) for seed in (0, 7))
    assert first.load_trace().events_sha256 != other.load_trace().events_sha256
    assert first.job == other.job


@pytest.mark.parametrize(("model", "num_nodes", "system", "told"), [
    # 671 B parameters with 18 bytes each are 11 TiB, and two nodes have 1.25.
    ("deepseek-v3", 2, "checkpoint", "no layout of deepseek-v3 fits on 16 GPUs of 80 GiB"),
    ("deepseek-v3", 1, "bamboo", "no layout of deepseek-v3 fits on 8 GPUs of 80 GiB"),
    ("olmoe-1b-7b", 1, "bamboo", "each takes a node: give two nodes or more"),
    ("olmoe-1b-7b", 1, "replica-drop", "takes two model replicas, 2 nodes, and there are 1"),
])  # fmt: skip
def test_a_model_that_no_layout_holds_is_refused_for_that_reason(model, num_nodes, system, told):
    trace = build_trace(nodes(num_nodes), duration_s=3600.0)
    with pytest.raises(InfeasiblePlanError, match=told):
        lazsim.simulate(trace, model=model, cluster=f"h100x{num_nodes}", systems=[system])


def test_a_trace_that_lasts_no_time_is_refused_for_that_reason():
    with pytest.raises(LazsimError, match="it lasts 0 s; give a duration"):
        lazsim.simulate(build_trace(nodes(4)), model="olmoe-1b-7b", cluster="h100x4", systems=["checkpoint"])


QWEN = {"model": "qwen3-30b-a3b", "cluster": "h100x8", "trace": "spot-p3-like", "max_nodes": 8}
TOO_FEW = {"model": "deepseek-v3", "cluster": "h100x4", "trace": "spot-p3-like", "max_nodes": 4}


@pytest.mark.parametrize(("settings", "loads"), [(QWEN, "uniform"), (TOO_FEW, "smartmoe-fit")])
def test_a_field_of_the_trace_or_the_loads_that_is_changed_looks_for_no_other_layout(monkeypatch, settings, loads):
    """It equals what is made anew if that finds the same, also where none fits; defaults are those of such a job."""
    chosen = resolve(settings)
    assert (chosen.has_chosen_layout, bool(chosen.why_no_layout)) == (loads == "uniform", loads != "uniform")
    assert chosen.routing.name == loads
    given = resolve({**settings, "routing": "smartmoe-fit"})
    found = SpecError(chosen.why_no_layout) if chosen.why_no_layout else chosen.job
    for of, path in ((chosen, "trace.loss_gap.scale"), (chosen, "trace.target_nodes"), (given, "routing.skew")):
        value = 2 * of.field(path)
        monkeypatch.setattr("lazsim.scenario.default_job", None)
        changed = of.replace(path, value)
        monkeypatch.setattr("lazsim.scenario.default_job", lambda *_: found)
        anew = resolve({**of.settings, path: value})
        assert (changed.inputs, changed.why_no_layout) == (anew.inputs, anew.why_no_layout)
        assert changed.field(path) == value


def test_a_field_of_a_chosen_layout_that_is_changed_stays_whatever_else_is_changed(monkeypatch):
    scenario = resolve(QWEN)
    monkeypatch.setattr("lazsim.scenario.default_job", lambda *_: scenario.job)
    overlapped = scenario.replace("job.parallel.overlap_tensor", True)
    for path, value in (("trace.loss_gap.scale", "x2"), ("routing.skew", 1.0), ("gpu.memory_bytes", "x2"), ("seed", 3)):
        changed = overlapped.replace(path, value)
        assert changed.job.parallel.overlap_tensor
        assert changed.inputs == resolve(changed.settings).inputs
