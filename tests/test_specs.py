import ast
import inspect
import itertools
import json
import re

import msgspec
import pytest

from lazsim.errors import LazsimError, SpecError
from lazsim.specs import (
    CATALOG_KINDS,
    ClusterSpec,
    FusedExpertsSpec,
    GpuSpec,
    JobSpec,
    ModelSpec,
    Spec,
    StepConstants,
    catalog_names,
    load_spec,
    read_spec_bytes,
)
from lazsim.specs.overrides import override
from lazsim.trace.recipes import ScheduleSpec
from tests.conftest import ROOT, refusal

GPT_S = (ROOT / "lazsim/catalog/models/gpt-s.toml").read_text()


@pytest.mark.parametrize("spec_type", CATALOG_KINDS)
def test_every_catalogue_entry_can_be_read_and_is_named_as_its_file(spec_type):
    names = catalog_names(CATALOG_KINDS[spec_type])
    assert names
    assert tuple(load_spec(spec_type, name).name for name in names) == names


@pytest.mark.parametrize(
    ("spec_type", "name", "field"),
    [(JobSpec, "testbed-a", "checkpoint_interval_steps"), (StepConstants, "training", "measured_over_predicted")],
)
def test_a_specification_that_a_program_changes_is_read_anew_as_it_was(spec_type, name, field):
    before = dict(getattr(load_spec(spec_type, name), field))
    assert before
    getattr(load_spec(spec_type, name), field).clear()
    assert getattr(load_spec(spec_type, name), field) == before


def test_every_gpu_that_a_user_may_ask_for_is_there():
    assert {"rtx3090", "a10g", "v100", "a100", "h100", "h200", "b200"} <= set(catalog_names("gpus"))
    assert all(load_spec(GpuSpec, load_spec(ClusterSpec, name).gpu) for name in catalog_names("clusters"))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("top_k = 1", "top_k = 1\ntop_p = 2", "top_p: unknown field: did you mean 'top_k'?"),
        ("top_k = 1", "", "top_k: is missing"),
        ("num_experts = 8", 'num_experts = "8"', "num_experts: expected a whole number, got text"),
        ("num_experts = 8", "num_experts = 0", "num_experts: expected a whole number >= 1"),
        ("num_moe_layers = 12", "num_moe_layers = 13", "num_moe_layers (13) exceeds num_layers (12)"),
        (
            "num_moe_layers = 12",
            "num_moe_layers = 10\nd_ff_dense = 8\nnum_first_dense_layers = 3",
            "num_first_dense_layers (3) exceeds the 2 layers that are not MoE",
        ),
        ("num_moe_layers = 12", "num_moe_layers = 5", "d_ff_dense is missing, which 7 layers that are not MoE need"),
        ("top_k = 1", "top_k = 9", "top_k (9) exceeds num_experts (8)"),
        ("top_k = 1", "top_k = =", "Invalid value"),
        ("attention_params = ", "attention_params = -", "attention_params: expected a whole number >= 0"),
    ],
)
def test_a_bad_specification_is_refused_with_file_and_key(write, old, new, expected):
    path = write(GPT_S.replace(old, new, 1), "mine.toml")
    told = refusal(lambda: load_spec(ModelSpec, str(path)), SpecError)
    assert str(path) in told
    assert expected in told


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("detect_s", "inf", "recovery.detect_s: expected a duration of 0 s to 100 years"),
        ("nic_bytes_per_s", "nan", "network.nic_bytes_per_s: expected a number >= 1.0"),
        ("num_nodes", "0", "num_nodes: expected a whole number >= 1"),
    ],
)
def test_constants_of_a_cluster_must_be_finite_and_make_sense(write, key, value, expected):
    text = (ROOT / "lazsim/catalog/clusters/rtx3090x10.toml").read_text()
    path = write(re.sub(rf"^{key} = \S+", f"{key} = {value}", text, flags=re.MULTILINE), "mine.toml")
    with pytest.raises(SpecError, match=re.escape(expected)):
        load_spec(ClusterSpec, str(path))


@pytest.mark.parametrize(
    ("name", "nodes", "gpus", "base"),
    [("h100x64", 64, 512, "h100x16"), ("h200x100", 100, 800, "h200x64"), ("b200x4", 4, 32, "b200x16"),
     ("gb200x144", 144, 576, "gb200-nvl72"), ("a100x2", 2, 16, "a100x16")],
)  # fmt: skip
def test_a_cluster_of_any_size_is_that_of_its_gpu_with_the_storage_in_proportion(name, nodes, gpus, base):
    cluster, known = load_spec(ClusterSpec, name), load_spec(ClusterSpec, base)
    assert (cluster.name, cluster.num_nodes, cluster.num_nodes * cluster.gpus_per_node) == (name, nodes, gpus)
    share = known.network.storage_bytes_per_s / known.num_nodes
    assert cluster.network.storage_bytes_per_s == pytest.approx(nodes * share, rel=1e-3)
    links = ("nic_bytes_per_s", "local_bytes_per_s", "nic_latency_s")
    assert all(getattr(cluster.network, link) == getattr(known.network, link) for link in links)
    assert cluster.recovery == known.recovery


@pytest.mark.parametrize("name", ["h100x16", "h200x32", "h200x64", "h200x128"])
def test_a_cluster_of_the_catalogue_is_not_made_from_another(name):
    assert load_spec(ClusterSpec, name).network.storage_bytes_per_s > 0
    assert read_spec_bytes("clusters", name) == (ROOT / f"lazsim/catalog/clusters/{name}.toml").read_bytes()


@pytest.mark.parametrize("name", ["h100x0", "h100x-1", "h100x99999", "v99x8", "h100x", "h100x8x8"])
def test_no_other_name_is_a_cluster(name):
    with pytest.raises(SpecError, match="with up to 16,384 nodes, as h100x64"):
        load_spec(ClusterSpec, name)


def test_constants_take_units(tmp_path):
    text = (ROOT / "lazsim/catalog/clusters/h100x16.toml").read_text()
    for key, value in {"nic_bytes_per_s": "3.2Tbps", "nic_latency_s": "10us", "detect_s": "15s",
                       "storage_bytes_per_s": "15.62 GB/s", "restart_base_s": "20min"}.items():  # fmt: skip
        text = re.sub(rf"^{key} = \S+", f'{key} = "{value}"', text, flags=re.MULTILINE)
    (tmp_path / "mine.toml").write_text(text)
    mine, known = (msgspec.to_builtins(load_spec(ClusterSpec, name)) for name in (f"{tmp_path}/mine.toml", "h100x16"))
    # 8 NICs of 400 Gb/s are 400 GB/s.
    for table in ("network", "recovery"):
        assert mine[table] == pytest.approx(known[table], rel=1e-12)


def test_a_wrong_unit_names_the_key_and_the_units(tmp_path):
    text = (ROOT / "lazsim/catalog/clusters/h100x16.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace("nic_bytes_per_s = 4e11", 'nic_bytes_per_s = "400GB"'))
    with pytest.raises(LazsimError, match=r"mine.toml: network.nic_bytes_per_s: '400GB' is not a data rate: .*Gbps"):
        load_spec(ClusterSpec, str(tmp_path / "mine.toml"))


def test_a_sweep_or_a_sensitivity_study_may_change_a_constant_to_one_with_a_unit():
    cluster = override(load_spec(ClusterSpec, "h100x16"), {"network.nic_bytes_per_s": "400Gbps"}, "cluster")
    assert cluster.network.nic_bytes_per_s == 50e9


def specs_below(spec_type):
    """The type of a specification, and those of its fields."""
    yield spec_type
    for field in msgspec.structs.fields(spec_type):
        for part in (field.type, *getattr(field.type, "__args__", ())):
            if isinstance(part, type) and issubclass(part, Spec):
                yield from specs_below(part)


# Constants of steps are explained in their file; nobody writes another. Fused experts have fields of GPUs.
DOCUMENTED = {part for kind in CATALOG_KINDS if kind is not StepConstants for part in specs_below(kind)}
DOCUMENTED -= {FusedExpertsSpec}


@pytest.mark.parametrize("spec_type", sorted(DOCUMENTED, key=str))
def test_every_key_is_in_the_reference(spec_type):
    body = ast.parse(inspect.getsource(spec_type)).body[0].body
    documented = {
        field.target.id
        for field, below in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value.value, str)
    }
    assert set(spec_type.__struct_fields__) - documented == set()


@pytest.mark.parametrize("kind", ["models", "clusters", "gpus", "jobs", "routing", "traces"])
def test_a_listed_name_shows_its_toml(lazsim, kind):
    name = catalog_names(kind)[0]
    code, out, _ = lazsim("list", kind, name)
    assert (code, out) == (0, (ROOT / f"lazsim/catalog/{kind}/{name}.toml").read_text())
    assert json.loads(lazsim("list", kind, name, "--json")[1])[kind][name]


def test_a_name_without_toml_is_refused(lazsim):
    assert lazsim("list", "systems", "ds")[0] == 2
    assert "unknown model" in lazsim("list", "models", "none")[2]
    assert "num_nodes = 9" in lazsim("list", "clusters", "h100x9")[1]


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_a_specification_is_read_as_editors_of_windows_write_it(write, coding):
    path = write(GPT_S.replace("\n", "\r\n").encode(coding), "gpt-s.toml")
    assert load_spec(ModelSpec, str(path)) == load_spec(ModelSpec, "gpt-s")


def test_a_field_that_is_left_out_where_it_has_its_default_can_be_changed():
    schedule = ScheduleSpec(num_nodes=3, num_left=2, interval_s=60.0, duration_s=120.0)
    changed = override(schedule, {"jitter": 0.5, "absent_s": "2min"}, "trace")
    assert (changed.jitter, changed.absent_s, changed.interval_s) == (0.5, 120.0, 60.0)
