"""The architecture: rooms import only downwards, and start-up stays light."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "lazsim"

LAYERS = [
    {"__init__", "errors"},
    {"units", "files", "blocks"},
    {"specs"},
    {"placement.plan"},
    {"trace", "routing", "placement", "dispatch"},
    {"reliability"},
    {"costmodel"},
    {"engine"},
    {"scenario"},
    {"study", "pytorch"},
    {"profiling"},
    {"live"},
    {"output"},
    {"experiments"},
    {"cli"},
    {"__main__"},
]
"""Lowest first; a room imports its own modules and rooms below it."""


def room(module: str) -> str:
    name = module.removeprefix("lazsim").lstrip(".") or "__init__"
    return name if name == "placement.plan" else name.split(".")[0]


def layer(module: str) -> int:
    return next(index for index, rooms in enumerate(LAYERS) if room(module) in rooms)


def imports_of(path: Path):
    """Yield imported modules and whether the import runs when the module is imported."""
    tree = ast.parse(path.read_text())
    guarded = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.FunctionDef) or (isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test))
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in guarded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module, node not in guarded


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(PACKAGE)) for path in SOURCES])
def test_rooms_import_only_downwards(path):
    own = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for module, at_once in imports_of(path):
        if module.split(".")[0] != "lazsim" or room(module) == room(own) or own == "__init__":
            continue
        # A picture of a result is drawn by a function of the result, when it is asked for.
        if not at_once and room(module) == "output":
            continue
        assert layer(module) < layer(own), f"lazsim.{own} imports {module}"


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("torch", {"pytorch", "profiling", "live"}),
        ("matplotlib", {"output"}),
        ("click", {"cli"}),
        ("joblib", {"study"}),
        ("ray", {"study"}),
        ("simpy", {"engine"}),
    ],
)
def test_each_heavy_library_is_imported_in_its_room_only(library, rooms):
    users = {
        path.relative_to(PACKAGE).with_suffix("").parts[0]
        for path in SOURCES
        if any(module.split(".")[0] == library for module, _ in imports_of(path))
    }
    assert users <= rooms


@pytest.mark.parametrize("statement", ["import lazsim", "import lazsim.cli.group; lazsim.cli.group.cli.get_help"])
def test_start_up_loads_nothing_heavy(statement, run_script):
    heavy = {"numpy", "pandas", "matplotlib", "scipy", "torch", "joblib", "ray", "pooch", "rich", "simpy"}
    script = f"import sys; {statement}; print(*sys.modules)"
    assert not heavy & set(run_script(script).split())


def test_a_run_does_not_need_torch(run_script):
    script = (
        "import sys; sys.modules['torch'] = None; import lazsim; "
        "trace = lazsim.build_trace([lazsim.Event(0, 'add', f'n{i}') for i in range(4)], duration_s=60); "
        "print(lazsim.simulate(trace).runs[0].steps > 0)"
    )
    assert run_script(script) == "True"


def test_every_public_name_can_be_imported():
    import lazsim

    for name in lazsim.__all__:
        assert getattr(lazsim, name) is not None
