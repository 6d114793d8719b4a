"""What has no effect on a run is told or refused, and all else has one."""

from dataclasses import replace
from typing import Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest

from lazsim.errors import LazsimError, SpecError
from lazsim.scenario import resolve
from lazsim.specs.effects import BESIDE, why_without_effect, without_effect
from lazsim.specs.overrides import override
from lazsim.study.simulation import simulate, simulate_scenarios
from lazsim.trace.table import Event, build_trace

LAYOUT = """
[parallel]
global_batch = 256
pipeline = 2
expert = 8
"""
TIMES = """
[times]
step_s = 1.0
storage_s = 5.0
transfer_s = 3.0
"""
KINDS = {
    "plain": ("gpt-s", "rtx3090x10", "rebalance_interval_steps = 100"),
    "layout": ("qwen3-30b-a3b", "h100x8", LAYOUT),
    "times": ("gpt-s", "rtx3090x10", TIMES),
}
SYSTEMS = ("lazarus", "ds-ft", "tutel", "gemini", "async-checkpoint")

ELSEWHERE = {
    "cluster.gpus_per_domain", "cluster.nodes_per_domain", "cluster.nodes_per_server", "cluster.host.link_bytes_per_s",
    "cluster.host.memory_bytes", "cluster.num_nodes", "cluster.recovery.regroup_s",
    "cluster.network.storage_read_bytes_per_s", "cluster.network.nodes_per_pod", "cluster.network.spine_share",
    "cluster.network.local_bytes_per_s", "cluster.network.local_latency_s", "job.regrouped_joins", "job.expert_kernels",
    "job.parallel.expert_tensor", "gpu.matmul_memory_efficiency", "gpu.peak_fp8_flop_per_s", "gpu.peak_fp4_flop_per_s",
    "job.parallel.sequence_length", "job.times.nodes_per_stage", "job.rebalance_interval_steps",
    "job.parallel.capacity_factor", "cluster.on_demand_usd_per_node_hour", *(f"job.parallel.{name}" for name in BESIDE),
}  # fmt: skip
"""Fields that have an effect on other clusters, loads, policies or events, or beside other fields of a layout."""


def trace():
    """Eight nodes, of which one goes for a while, and two go at once in the end."""
    events = [Event(0, "add", f"node{i}") for i in range(8)]
    events += [Event(300, "remove", "node1"), Event(500, "add", "node1"), Event(700, "remove", "node2")]
    return build_trace([*events, Event(700, "remove", "node3")], duration_s=900)


def scenarios(tmp_path, kind):
    model, cluster, job = KINDS[kind]
    path = tmp_path / "job.toml"
    path.write_text(job)
    return [resolve({"trace": trace(), "model": model, "cluster": cluster, "job": str(path), "system": name})
            for name in SYSTEMS]  # fmt: skip


def outcome(scenario):
    """All that a run says but for its inputs, and that some have no effect."""
    found = simulate_scenarios([scenario]).to_json()
    del found["inputs"], found["id"]
    found["notes"] = [note for note in found["notes"] if not note.startswith("of no effect")]
    return msgspec.json.encode(found, order="deterministic")


def fields(spec, prefix):
    """Yield the dotted path of each field with its type and value."""
    hints = get_type_hints(type(spec))
    for name in spec.__struct_fields__:
        value = getattr(spec, name)
        if isinstance(value, msgspec.Struct):
            yield from fields(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", hints[name], value


def others(kind, value):
    """Other values of a field; none of names, curves and lists of words."""
    if isinstance(value, bool):
        return [not value]
    if get_origin(kind) is Literal:
        return [one for one in get_args(kind) if one != value]
    if isinstance(value, int | float):
        return [2 * value + (not value), value + 64]
    return [3.0] if value is None and float in get_args(kind) else []


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_of_a_job_its_cluster_or_its_gpu_is_told_to_have_no_effect_just_where_it_has_none(tmp_path, kind):
    runs = scenarios(tmp_path, kind)
    before = {one.system: outcome(one) for one in runs}
    idle = without_effect(runs[0].job, runs[0].model)
    wrong = {}
    for part in ("job", "cluster", "gpu"):
        for path, hint, value in fields(getattr(runs[0], part), part):
            told, found = why_without_effect(path, idle), False
            for other in others(hint, value):
                for run in runs:
                    try:
                        spec = override(getattr(run, part), {path.partition(".")[2]: other})
                        found = found or outcome(replace(run, **{part: spec})) != before[run.system]
                    except LazsimError:
                        # No job of this kind has this value.
                        found = found or not told
                    if found:
                        break
            if others(hint, value) and (found if told else not found and path not in ELSEWHERE):
                wrong[path] = told
    assert wrong == {}


@pytest.mark.parametrize(
    ("kind", "field", "told"),
    [
        ("layout", "job.num_micro_batches", "on a job with a layout"),
        ("layout", "cluster.slots_per_gpu", "on a job with a layout"),
        ("layout", "cluster.network.all_to_all_efficiency", "on a job with a layout"),
        ("layout", "job.parallel.routing", "on a run, whose loads are those of `routing`"),
        ("plain", "step.fixed_s", "on a job without a layout"),
        ("times", "cluster.network.nic_latency_s", "on a job with known times"),
    ],
)
def test_a_change_without_effect_is_refused(tmp_path, kind, field, told):
    settings = scenarios(tmp_path, kind)[0].settings
    with pytest.raises(SpecError, match=f"^{field} has no effect {told}: leave it out$"):
        resolve({**settings, field: "learned" if field.endswith("routing") else 1})


def test_a_value_of_a_job_file_without_effect_is_told(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text(
        "num_micro_batches = 2" + LAYOUT + 'routing = "learned"\nsharding = "none"\noverlap_parameters = false'
    )
    notes = simulate(trace(), systems=["lazarus"], model="qwen3-30b-a3b", cluster="h100x8", job=str(path)).notes
    assert [note for note in notes if note.startswith("of no effect")] == [
        "of no effect on a job with a layout: job.num_micro_batches",
        "of no effect on a run, whose loads are those of `routing`: job.parallel.routing",
        "of no effect in this layout: overlap_parameters (sharding is none)",
    ]


def test_a_job_with_known_times_has_no_collectives_and_no_analytic_costs(tmp_path):
    run = scenarios(tmp_path, "times")[0]
    assert not hasattr(run.costs().communication, "all_to_all_s")
    notes = simulate_scenarios([run]).notes
    assert "steps, transfers and saves take the `times` of the job" in notes
    assert not any("analytic" in note for note in notes)
