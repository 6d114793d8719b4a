import re

import pytest

from lazsim.errors import SpecError
from lazsim.specs import CATALOG_KINDS, ClusterSpec, GpuSpec, ModelSpec, catalog_names, load_spec
from tests.conftest import ROOT

GPT_S = (ROOT / "lazsim/catalog/models/gpt-s.toml").read_text()


@pytest.mark.parametrize("spec_type", CATALOG_KINDS)
def test_every_catalogue_entry_can_be_read_and_is_named_as_its_file(spec_type):
    names = catalog_names(CATALOG_KINDS[spec_type])
    assert names
    assert [load_spec(spec_type, name).name for name in names] == names


def test_every_gpu_that_a_user_may_ask_for_is_there():
    assert {"rtx3090", "a10g", "v100", "a100", "h100", "h200", "b200"} <= set(catalog_names("gpus"))
    assert all(load_spec(GpuSpec, load_spec(ClusterSpec, name).gpu) for name in catalog_names("clusters"))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("top_k = 1", "top_k = 1\ntop_p = 2", "unknown field `top_p`"),
        ("top_k = 1", "", "missing required field `top_k`"),
        ("num_experts = 8", 'num_experts = "8"', "Expected `int`, got `str`"),
        ("num_experts = 8", "num_experts = 0", "Expected `int` >= 1 - at `$.num_experts`"),
        ("num_moe_layers = 12", "num_moe_layers = 13", "num_moe_layers (13) exceeds num_layers (12)"),
        ("num_moe_layers = 12", "num_moe_layers = 5", "d_ff_dense is missing, which 7 layers that are not MoE need"),
        ("top_k = 1", "top_k = 9", "top_k (9) exceeds num_experts (8)"),
        ("top_k = 1", "top_k = =", "Invalid value"),
        ("attention_params = ", "attention_params = -", "Expected `int` >= 0 - at `$.attention_params`"),
    ],
)
def test_a_bad_specification_is_refused_with_file_and_key(tmp_path, old, new, expected):
    path = tmp_path / "mine.toml"
    path.write_text(GPT_S.replace(old, new, 1))
    with pytest.raises(SpecError) as caught:
        load_spec(ModelSpec, str(path))
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("detect_s", "inf", "Expected `float` <= 3155760000.0 - at `$.recovery.detect_s`"),
        ("nic_bytes_per_s", "nan", "Expected `float` >= 1.0 - at `$.network.nic_bytes_per_s`"),
        ("num_nodes", "0", "Expected `int` >= 1 - at `$.num_nodes`"),
    ],
)
def test_constants_of_a_cluster_must_be_finite_and_make_sense(tmp_path, key, value, expected):
    text = (ROOT / "lazsim/catalog/clusters/rtx3090x10.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(re.sub(rf"^{key} = \S+", f"{key} = {value}", text, flags=re.MULTILINE))
    with pytest.raises(SpecError, match=re.escape(expected)):
        load_spec(ClusterSpec, str(path))
