"""Datasheet figures and published set-ups, typed again from their sources."""

import re
from importlib import resources

import pytest

from lazsim.errors import SpecError
from lazsim.specs import ClusterSpec, GpuSpec, catalog_names, load_spec

DATASHEETS = {  # TFLOP/s fp16/bf16 dense, GB/s, GB of 2^30 bytes
    "rtx3090": (71, 936, 24),
    "a10g": (70, 600, 24),
    "v100": (125, 900, 16),
    "a100": (312, 2039, 80),
    "h100": (989, 3350, 80),
    "h200": (989, 4800, 141),
    "b200": (2250, 8000, 180),
    "b300": (2250, 7700, 270),
    "gb200": (2450, 8000, 186),
    "gb300": (2450, 8000, 279),
    "a800": (312, 2039, 80),
    "h800": (989, 3350, 80),
}
CLUSTERS = {  # nodes, GPU, GPUs per node, nodes per server, slots per GPU, Gb/s per server
    "rtx3090x10": (10, "rtx3090", 1, 2, 6, 100),
    "a10gx16": (16, "a10g", 1, 1, 6, 10),
    "p3x32": (32, "v100", 1, 1, 4, 10),
    "a100x16": (16, "a100", 8, 1, 4, 8 * 200),
    "h100x16": (16, "h100", 8, 1, 4, 8 * 400),
    "b200x16": (16, "b200", 8, 1, 4, 8 * 400),
    "h200x32": (32, "h200", 8, 1, 4, 8 * 400),
    "h200x64": (64, "h200", 8, 1, 4, 8 * 400),
    "h200x128": (128, "h200", 8, 1, 4, 8 * 400),
    "dgx-a100-80g": (32, "a100", 8, 1, 4, 8 * 200),
    "dgx-h100": (32, "h100", 8, 1, 4, 8 * 400),
    "dgx-b200": (32, "b200", 8, 1, 4, 8 * 400),
    "dgx-b300": (32, "b300", 8, 1, 4, 8 * 800),
    "hgx-a800": (32, "a800", 8, 1, 4, 8 * 100),
    "hgx-h800": (32, "h800", 8, 1, 4, 8 * 400),
    "gb200-nvl72": (64, "gb200", 4, 1, 4, 4 * 400),
    "gb300-nvl72": (64, "gb300", 4, 1, 4, 4 * 800),
}


def read_text(kind, name):
    return (resources.files("lazsim") / "catalog" / kind / f"{name}.toml").read_text()


def test_the_catalogue_holds_these_gpus_and_clusters_and_no_other():
    assert set(catalog_names("gpus")) == set(DATASHEETS)
    assert set(catalog_names("clusters")) == set(CLUSTERS)


@pytest.mark.parametrize("name", DATASHEETS)
def test_a_gpu_has_the_figures_of_its_datasheet(name):
    gpu = load_spec(GpuSpec, name)
    figures = (gpu.peak_flop_per_s / 1e12, gpu.memory_bytes_per_s / 1e9, gpu.memory_bytes / 2**30)
    assert (gpu.name, *figures) == (name, *(pytest.approx(figure) for figure in DATASHEETS[name]))


@pytest.mark.parametrize("name", DATASHEETS)
def test_a_gpu_names_the_numbers_that_no_source_tells_where_a_comment_says_assumption(name):
    assert bool(load_spec(GpuSpec, name).assumed) == ("*assumption*" in read_text("gpus", name))


@pytest.mark.parametrize("name", DATASHEETS)
def test_a_gpu_reaches_no_more_than_its_datasheet(name):
    gpu = load_spec(GpuSpec, name)
    for share in (gpu.matmul_efficiency, gpu.matmul_memory_efficiency, gpu.memory_efficiency):
        assert 0.2 < share <= 1


@pytest.mark.parametrize(("name", "donor"), [("rtx3090", "a100"), ("a10g", "a100"), ("v100", "a100"), ("b200", "h200")])
def test_a_gpu_without_measurements_takes_efficiencies_of_another_and_says_so(name, donor):
    gpu, other = load_spec(GpuSpec, name), load_spec(GpuSpec, donor)
    fields = [
        f for f in gpu.__struct_fields__ if f.startswith("matmul_") or f in ("memory_efficiency", "kernel_overhead_s")
    ]
    assert [getattr(gpu, f) for f in fields] == [getattr(other, f) for f in fields]
    assert sorted(gpu.assumed) == sorted(fields)
    assert donor in gpu.source


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_is_the_published_one(name):
    cluster = load_spec(ClusterSpec, name)
    gbit_per_s = cluster.network.nic_bytes_per_s * 8 / 1e9
    counts = (cluster.num_nodes, cluster.gpu, cluster.gpus_per_node, cluster.nodes_per_server, cluster.slots_per_gpu)
    assert (cluster.name, *counts, gbit_per_s) == (name, *CLUSTERS[name])
    load_spec(GpuSpec, cluster.gpu)


@pytest.mark.parametrize("name", CLUSTERS)
def test_recovery_times_lie_in_the_published_ranges(name):
    recovery = load_spec(ClusterSpec, name).recovery
    assert 10 <= recovery.detect_s <= 20
    assert 5 <= recovery.rebuild_s <= 15


@pytest.mark.parametrize("name", ["rtx3090x10", "a10gx16", "p3x32"])
def test_a_restart_on_spot_nodes_takes_29_s_on_1_node_and_95_s_on_32(name):
    recovery = load_spec(ClusterSpec, name).recovery
    times = [recovery.restart_base_s + recovery.restart_per_node_s * nodes for nodes in (1, 32)]
    assert times == pytest.approx([29, 95], rel=0.01)


@pytest.mark.parametrize("name", ["a10gx16", "p3x32"])
def test_ethernet_of_10_gbit_moves_0_90_gb_per_s(name):
    network = load_spec(ClusterSpec, name).network
    assert network.nic_bytes_per_s * network.point_to_point_efficiency == pytest.approx(0.90e9)
    assert network.nic_latency_s == pytest.approx(142e-6)


@pytest.mark.parametrize("name", ["h200x64", "h100x16"])
def test_an_all_to_all_gets_48_to_49_gb_per_s_of_a_nic(name):
    network = load_spec(ClusterSpec, name).network
    assert 48e9 <= network.nic_bytes_per_s / 8 * network.all_to_all_efficiency <= 49e9


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_constant_of_a_cluster_has_a_source_or_says_assumption(name):
    lines = read_text("clusters", name).splitlines()
    own = {"name", "num_nodes", "gpu", "gpus_per_node", "assumed"}  # the head of the file says where these come from
    for before, line in zip(["", *lines], lines, strict=False):
        key = re.match(r"(\w+) = ", line)
        if key and key[1] not in own and "#" not in line:
            assert before.startswith("#") or re.match(r"local_\w*bytes_per_s", before), f"{key[1]} has no source"


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_names_the_numbers_whose_comments_say_assumption(name):
    table, above, found = "", "", []
    for line in read_text("clusters", name).splitlines():
        code, _, comment = line.partition("#")
        if heading := re.match(r"\[(\w+)\]", code):
            table = f"{heading[1]}."
        if key := re.match(r"(\w+) = ", code):
            found += [f"{table}{key[1]}"] * ("*assumption*" in above + comment)
        above = "" if code else above + comment
    assert load_spec(ClusterSpec, name).assumed == tuple(found)


@pytest.mark.parametrize("kind", ["gpus", "clusters"])
def test_a_name_under_assumed_that_is_no_number_of_the_file_is_refused(kind, tmp_path):
    name, spec_type = {"gpus": ("rtx3090", GpuSpec), "clusters": ("rtx3090x10", ClusterSpec)}[kind]
    path = tmp_path / "mine.toml"
    path.write_text(read_text(kind, name).replace("assumed = [", 'assumed = ["network.speed",', 1))
    with pytest.raises(SpecError, match=r"mine\.toml.*assumed: network\.speed is no constant of one number"):
        load_spec(spec_type, str(path))
