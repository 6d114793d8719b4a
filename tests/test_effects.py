"""What has no effect on a run is told or refused, and all else has one."""

from contextlib import suppress
from dataclasses import replace
from itertools import zip_longest
from typing import Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest

from lazsim.errors import LazsimError, SpecError
from lazsim.scenario import resolve
from lazsim.specs.catalog import read_spec_bytes
from lazsim.specs.effects import BESIDE, why_without_effect
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
SYSTEMS = ("ds-ft", "tutel", "gemini", "async-checkpoint", "lazarus")
PLAIN = "rebalance_interval_steps = 100"
ON_16_NODES = "[parallel]\nglobal_batch = 512\nexpert = 16\n"

KINDS = {
    "plain": [
        ("gpt-s", "rtx3090x10", PLAIN, SYSTEMS, {}),
        # `min_nodes` holds starts alone, and this one starts anew after each failure.
        ("gpt-s", "rtx3090x10", PLAIN, ["checkpoint"], {"job.min_nodes": 7}),
        ("gpt-s", "h100x8", PLAIN + '\nexpert_kernels = "fused"', ["lazarus"], {"duration": 400}),
        (
            "gpt-s", "rtx3090x10", PLAIN, ["lazarus"],
            {"placement": "domains", "cluster.nodes_per_domain": 4},
        ),
    ],
    "layout": [
        ("qwen3-30b-a3b", "h100x8", LAYOUT, SYSTEMS, {}),
        (
            "deepseek-v2-lite", "dgx-h100",
            ON_16_NODES + """micro_batch = 2
            precision = "fp8_block"
            sharding = "full"
            dispatcher = "deepep"
            overlap_expert = true
            """, ["checkpoint", "lazarus"], {"job.rebalance_interval_steps": 100},
        ),
        (
            "deepseek-v2-lite", "dgx-h100", ON_16_NODES + "tensor = 2\ncontext = 2", ["lazarus"],
            {"placement": "domains", "cluster.nodes_per_domain": 4},
        ),
        (
            "deepseek-v2-lite", "dgx-b200",
            ON_16_NODES + 'precision = "mxfp8"\neight_bit_parts = ["attention"]', ["lazarus"], {},
        ),
        (
            "gpt-oss-20b", "dgx-b200",
            ON_16_NODES + 'precision = "nvfp4"\ngraphs = "partial"\ndispatcher = "hybridep"\noverlap_expert = true',
            ["ds-ft", "lazarus"], {},
        ),
        (
            "nemotron-3-nano", "dgx-h100",
            ON_16_NODES + 'micro_batch = 2\nrecompute = "full"\ncapacity_factor = 1.5', ["lazarus"],
            {"routing": "smartmoe-fit"},
        ),
        (
            "qwen3-30b-a3b", "h100x16", ON_16_NODES.replace("512", "256") + 'graphs = "partial"', ["gemini", "lazarus"],
            {"cluster.nodes_per_server": 2, "cluster.network.nodes_per_pod": 1, "job.min_nodes": 15},
        ),
    ],
    "times": [
        ("gpt-s", "rtx3090x10", TIMES, SYSTEMS, {}),
        (
            "gpt-s", "rtx3090x10", TIMES + "num_stages = 2\nnodes_per_stage = 2", ["ds-ft", "lazarus"],
            {"placement": "domains", "cluster.nodes_per_domain": 4},
        ),
        ("gpt-s", "rtx3090x10", TIMES, ["checkpoint"], {"job.min_nodes": 7}),
    ],
}  # fmt: skip
"""For each kind of a job runs in which its fields have an effect in one or another.

Each run: model, cluster, job, systems, other settings. The first has most of them.
"""

SHOWN_ELSEWHERE = {
    "cluster.on_demand_usd_per_node_hour", "job.parallel.expert_tensor", "job.parallel.data_replicate",
    "gpu.peak_fp4_flop_per_s",
}  # fmt: skip
"""A price for `lazsim advise` alone, and fields of which runs refuse all values but one, or 0."""


def trace(num_nodes=8, hours=1.0):
    """Nodes of which one goes for a while, and two go at once and return."""
    times = {"node1": (300 * hours, 500 * hours)} | dict.fromkeys(("node2", "node3"), (1500 * hours, 2000 * hours))
    events = [Event(0, "add", f"node{i}") for i in range(num_nodes)]
    events += [Event(gone, "remove", node) for node, (gone, _) in times.items()]
    events += [Event(back, "add", node) for node, (_, back) in times.items()]
    return build_trace(sorted(events, key=lambda one: one.time_s), duration_s=3600 * hours)


def scenarios(tmp_path, kind, number=0):
    model, cluster, job, systems, others = KINDS[kind][number]
    path = tmp_path / f"{kind}{number}.toml"
    path.write_text(job)
    events = trace(16 if "expert = 16" in job else 8, hours=1.0 if kind == "layout" else 0.4)
    asked = {"trace": events, "model": model, "cluster": cluster, "job": str(path)}
    return [resolve({**asked, **others, "system": name}) for name in systems]


def outcome(scenario):
    return said(simulate_scenarios([scenario]))


def said(result):
    """All that a run says but for its inputs, and that some have no effect."""
    found = result.to_json()
    del found["inputs"], found["id"]
    for run in found["runs"]:
        # The same inputs in words.
        del run["layout"]
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
    """Other values of a field; none of names and lists of words."""
    if isinstance(value, bool):
        return [not value]
    if get_origin(kind) is Literal:
        return [one for one in get_args(kind) if one != value]
    if isinstance(value, int):
        return [2 * value + (not value), value + 64, value // 2]
    if isinstance(value, float):
        return [2 * value + (not value), value / 1000, value + 64, 0.0]
    if isinstance(value, tuple) and value and isinstance(value[0], float):
        return [[3 * one for one in value]]
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return [[[size, 3 * time] for size, time in value]]
    return [3.0] if value is None and float in get_args(kind) else []


def changed(run, changes):
    """Return the run with other values of fields of one part."""
    part = next(iter(changes)).partition(".")[0]
    if "job.parallel.sequence_length" in changes:
        return run.replace("job.parallel.sequence_length", changes["job.parallel.sequence_length"])
    of_part = {path.removeprefix(f"{part}."): value for path, value in changes.items()}
    return replace(run, **{part: override(getattr(run, part), of_part)})


def has_effect(run, before, changes):
    """Tell whether other values change what a run says; values that no such job has change nothing."""
    with suppress(LazsimError):
        return outcome(changed(run, changes)) != before
    return False


def with_effect(run, before, changes):
    """Return the fields that have an effect, where none is to have one: all at once are tried first."""
    allowed = {}
    for path, value in changes.items():
        with suppress(LazsimError):
            changed(run, {path: value})
            allowed[path] = value
    with suppress(LazsimError):
        if not allowed or outcome(changed(run, allowed)) == before:
            return []
    return [path for path, value in allowed.items() if has_effect(run, before, {path: value})]


@pytest.fixture(scope="module", params=KINDS)
def runs(request, tmp_path_factory):
    """Runs of a kind of jobs, and what each says."""
    folder = tmp_path_factory.mktemp(request.param)
    of_numbers = [scenarios(folder, request.param, number) for number in range(len(KINDS[request.param]))]
    # Other models and layouts show more than other systems do: the first system of each comes first.
    ordered = [run for of_systems in zip_longest(*of_numbers) for run in of_systems if run is not None]
    return [(run, outcome(run)) for run in ordered]


@pytest.mark.parametrize("part", ["job", "cluster", "gpu", "step"])
def test_a_field_of_a_run_is_told_to_have_no_effect_just_where_it_has_none(runs, part):
    cases, unseen = [], set()
    for run, before in runs:
        values = {path: others(hint, value) for path, hint, value in fields(getattr(run, part), part)}
        told = {path: ones[0] for path, ones in values.items() if ones and why_without_effect(path, run.without_effect)}
        assert with_effect(run, before, told) == [], "has an effect, but is told to have none"
        cases.append((run, before, {path: ones for path, ones in values.items() if path not in told}))
        unseen |= {path for path, ones in values.items() if ones and path not in told} - SHOWN_ELSEWHERE
    # One value of each field shows most of them.
    for chosen in (slice(1), slice(1, None)):
        for run, before, values in cases:
            unseen -= {
                path
                for path in unseen & values.keys()
                if any(has_effect(run, before, {path: value}) for value in values[path][chosen])
            }
    assert unseen == set()


@pytest.fixture(scope="module")
def of_layout(tmp_path_factory):
    path = tmp_path_factory.mktemp("layout") / "job.toml"
    path.write_text('[parallel]\nglobal_batch = 256\npipeline = 2\nsharding = "none"\nstate_bytes = 2')
    run = resolve({"trace": trace(hours=0.4), "model": "mixtral-8x7b", "cluster": "h100x8", "job": str(path)})
    return run, outcome(run)


@pytest.mark.parametrize("field", BESIDE)
def test_a_field_has_no_effect_in_a_layout_of_which_that_is_told(of_layout, field):
    run, before = of_layout
    parallel = run.job.parallel
    assert BESIDE[field][0](parallel)
    kind, present = get_type_hints(type(parallel))[field], getattr(parallel, field)
    # Counts are 1 or more.
    values = [value for value in others(kind, present) if value != present and (kind is bool or value or present != 1)]
    assert values
    for value in values:
        changed = simulate_scenarios([run.replace(f"job.parallel.{field}", value)])
        assert [field in note for note in changed.notes if note.startswith("of no effect in this layout")] == [True]
        assert said(changed) == before


@pytest.mark.parametrize(
    ("kind", "field", "told"),
    [
        ("layout", "job.num_micro_batches", "on a job with a layout"),
        ("layout", "job.activation_passes", "on a job with a layout"),
        ("layout", "cluster.slots_per_gpu", "on a job with a layout"),
        ("layout", "cluster.network.all_to_all_efficiency", "on a job with a layout"),
        ("layout", "job.parallel.routing", "on a run, whose loads are those of `routing`"),
        ("plain", "step.fixed_s", "on a job without a layout"),
        ("layout", "step.learned_imbalance", "on a run, whose loads are those of `routing`"),
        ("times", "cluster.network.nic_latency_s", "on a job with known times"),
    ],
)
def test_a_change_without_effect_is_refused(tmp_path, kind, field, told):
    run = scenarios(tmp_path, kind)[0]
    value = "learned" if field.endswith("routing") else 1
    for change in (lambda: resolve({**run.settings, field: value}), lambda: run.replace(field, value)):
        with pytest.raises(SpecError, match=f"^{field} has no effect {told}: leave it out$"):
            change()


def test_efficiencies_of_fused_experts_are_those_of_a_job_that_has_such():
    asked = {"model": "gpt-s", "cluster": "h100x8", "job": "testbed-a", "gpu.fused_experts.matmul_efficiency": 0.5}
    told = (
        r"^gpu.fused_experts.matmul_efficiency has no effect on a job whose expert_kernels are separate: leave it out$"
    )
    with pytest.raises(SpecError, match=told):
        resolve(asked)
    assert resolve({**asked, "job.expert_kernels": "fused"}).gpu.fused_experts.matmul_efficiency == 0.5


@pytest.mark.parametrize(
    ("kind", "field", "value", "told"),
    [
        ("grouped", "chunked", True, "window is missing, which chunked needs"),
        ("grouped", "num_window_layers", 8, "window is missing, which num_window_layers needs"),
        ("grouped", "rope_dim", 64, "rope_dim: only latent attention has it"),
        ("grouped", "query_rank", 64, "query_rank: only latent attention has it"),
        ("latent", "num_kv_heads", 8, "num_kv_heads: only grouped attention has it"),
        ("latent", "gated", True, "gated: only grouped attention has it"),
    ],
)
def test_attention_has_no_field_of_another_kind_and_no_windows_without_their_length(kind, field, value, told):
    model = {"grouped": "qwen3-30b-a3b", "latent": "deepseek-v2-lite"}[kind]
    with pytest.raises(SpecError, match=told):
        resolve({"model": model, f"model.attention.{field}": value})


def test_a_value_of_a_model_file_without_effect_is_told():
    model = {"model.attention.window": 1024, "model.attention.chunked": True, "model.num_groups_per_token": 2}
    told = (
        "of no effect in qwen3-30b-a3b: num_groups_per_token (num_expert_groups is 1), "
        "attention.window (num_window_layers is 0), attention.chunked (num_window_layers is 0)"
    )
    asked = {"systems": ["lazarus"], "model": "qwen3-30b-a3b", "cluster": "h100x8"}
    assert told in simulate(trace(), **asked, **model).notes
    assert not any("of no effect in" in note for note in simulate(trace(), **asked).notes)


def test_a_job_has_a_layout_or_known_times(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text(LAYOUT + TIMES)
    with pytest.raises(SpecError, match=r"`job`: .*job.toml: steps come from .* not both: leave one out$"):
        resolve({"job": str(path)})


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


def test_links_of_a_cluster_file_that_a_layout_does_not_take_are_told_with_what_it_takes(tmp_path):
    path, job = tmp_path / "mine.toml", tmp_path / "job.toml"
    path.write_bytes(read_spec_bytes("clusters", "h100x8"))
    job.write_text(LAYOUT)
    asked = {"systems": ["lazarus"], "model": "qwen3-30b-a3b", "cluster": str(path)}
    (told,) = [note for note in simulate(trace(), job=str(job), **asked).notes if note.startswith("of no effect")]
    assert "cluster.network.all_to_all_efficiency" in told
    assert told.endswith("of nic_bytes_per_s it takes step.all_to_all_nic_share (0.5), step.gather_nic_share (0.5)")
    notes = simulate(trace(), job="testbed-a", **asked).notes
    assert not any(note.startswith("of no effect") for note in notes)


def test_a_job_with_known_times_has_no_collectives_and_no_analytic_costs(tmp_path):
    run = scenarios(tmp_path, "times")[0]
    assert not hasattr(run.costs().communication, "all_to_all_s")
    notes = simulate_scenarios([run]).notes
    assert "steps, transfers and saves take the `times` of the job" in notes
    assert not any("analytic" in note for note in notes)
