import configparser

from lazsim.output.table import PIPED_WIDTH
from lazsim.routing import load_routing
from tests.conftest import ROOT


def test_every_name_of_loads_is_listed_and_can_be_used(lazsim, answered):
    listed = answered("list", "routing")["routing"]
    out = lazsim("list", "routing")[1]
    assert set(listed) == {"power-law-1.01", "power-law-1.2", "smartmoe-fit", "uniform"}
    for name, text in listed.items():
        assert text in " ".join(out.split())
        assert load_routing(name, 2, 4, seed=0).loads([0]).shape == (1, 2, 4)


def test_what_a_list_says_of_a_name_is_whole(answered):
    for kind in ("models", "gpus", "clusters", "jobs", "traces", "routing"):
        for name, text in answered("list", kind)[kind].items():
            assert text.endswith((".", ":")), (kind, name, text)


def test_a_piped_list_wraps_as_all_piped_tables_do(lazsim):
    for kind in ("routing", "systems", "formats"):
        assert max(map(len, lazsim("list", kind)[1].splitlines())) <= PIPED_WIDTH


def test_a_missing_kind_is_told_in_a_line_that_names_all(refused):
    told = refused("list")
    assert "give KIND: models, clusters, gpus," in told
    assert "\\" not in told


def test_the_version_told_is_that_of_the_package(lazsim):
    package = configparser.ConfigParser()
    package.read(ROOT / "setup.cfg")
    assert lazsim("-V") == (0, f"lazsim, version {package['metadata']['version']}\n", "")
