"""The architecture: packages import only downwards, none in a circle, and start-up stays light."""

import ast
import collections.abc
import inspect
import re
import typing
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "lazsim"

LAYERS = [
    {"__init__", "errors", "limits"},
    {"units", "processes", "row_blocks", "grouping", "loads"},
    {"files"},
    {"specs"},
    {"extensions"},
    {"placement.plan"},
    {"trace", "routing", "placement", "dispatch"},
    {"inputs"},
    {"reliability"},
    {"costmodel"},
    {"stepmodel"},
    {"settings"},
    {"engine"},
    {"scenario"},
    {"study", "pytorch"},
    {"profiling"},
    {"live"},
    {"output"},
    {"cli"},
    {"__main__"},
]
"""Lowest first; a package imports its own modules and packages below it."""

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
"""Path by module."""


def package(module: str) -> str:
    """Return the package of a module, or a module that is directly in lazsim."""
    name = module.removeprefix("lazsim").lstrip(".") or "__init__"
    return name if name == "placement.plan" else name.split(".")[0]


def layer(module: str) -> int:
    return next(index for index, packages in enumerate(LAYERS) if package(module) in packages)


def imported_names(path: Path) -> list[str]:
    """List what a file imports: at its top, inside functions, and for type checks alone."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: imports stand with their full names"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def module_of(name: str) -> str:
    """Return the module that a name is imported from.

    >>> module_of("lazsim.placement.plan.PlacementPlan")
    'lazsim.placement.plan'
    """
    while name not in SOURCES:
        name = name.rpartition(".")[0]
    return name


@cache
def all_names() -> dict[str, list[str]]:
    """List what each module imports. All are read at once: files may change while tests run."""
    return {module: imported_names(path) for module, path in SOURCES.items()}


@cache
def all_imports() -> dict[str, set[str]]:
    """List the modules that each module imports, however it does."""
    return {
        module: {module_of(name) for name in names if name.split(".")[0] == "lazsim"} - {module}
        # The names of lazsim itself are a table: each is imported when it is first used.
        for module, names in all_names().items()
        if module != "lazsim"
    }


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Find the groups whose members import each other: strongly connected components of two and more."""
    reached = {start: reach(imports, start) for start in imports}
    groups = {
        tuple(sorted(other for other in found if start in reached.get(other, ()))) for start, found in reached.items()
    }
    return sorted(list(group) for group in groups if len(group) > 1)


def reach(imports: dict[str, set[str]], start: str) -> set[str]:
    """Return all that a module imports, directly or through others."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = imports.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def test_packages_import_only_downwards():
    for module, names in all_imports().items():
        for imported in names:
            if package(imported) != package(module):
                assert layer(imported) < layer(module), f"{module} imports {imported}"


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def test_no_modules_import_each_other():
    assert circles(all_imports()) == []


def test_no_packages_import_each_other():
    packages: dict[str, set[str]] = {}
    for module, imported in all_imports().items():
        packages.setdefault(package(module), set()).update(map(package, imported))
    for name, imported in packages.items():
        imported.discard(name)
    assert circles(packages) == []


@pytest.mark.parametrize(
    ("library", "packages"),
    [
        ("torch", {"pytorch", "profiling", "live"}),
        ("matplotlib", {"output"}),
        ("click", {"cli"}),
        ("joblib", {"study"}),
        ("ray", {"study"}),
        ("simpy", {"engine"}),
        ("jinja2", {"output"}),
        ("bokeh", set()),
    ],
)
def test_each_heavy_library_is_imported_in_its_package_only(library, packages):
    names_of = all_names().items()
    users = {package(module) for module, names in names_of if any(name.split(".")[0] == library for name in names)}
    assert users <= packages


@pytest.mark.parametrize("statement", ["import lazsim", "from lazsim.cli.base.group import cli; cli.get_help"])
def test_start_up_loads_nothing_heavy(statement, run_script):
    heavy = {
        "numpy",
        "pandas",
        "matplotlib",
        "scipy",
        "torch",
        "joblib",
        "ray",
        "pooch",
        "rich",
        "simpy",
        "jinja2",
        "bokeh",
    }
    script = f"import sys; {statement}; print(*sys.modules)"
    assert not heavy & set(run_script(script).split())


def test_matplotlib_is_loaded_only_where_pictures_are_drawn(run_script):
    modules = [f"lazsim.output.{path.stem}" for path in (PACKAGE / "output").glob("[a-z]*.py")]
    script = f"import sys, lazsim.study.simulation, {', '.join(modules)}; print(*sys.modules)"
    assert not {"matplotlib", "pandas", "jinja2", "joblib"} & set(run_script(script).split())


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


def test_every_class_that_the_signature_of_a_public_function_names_is_public():
    import lazsim

    def classes(hint: object) -> set[type]:
        # A function that is passed in takes what it is given.
        parts = () if typing.get_origin(hint) is collections.abc.Callable else typing.get_args(hint)
        return ({hint} if isinstance(hint, type) else set()).union(*map(classes, parts))

    functions = filter(inspect.isfunction, (getattr(lazsim, name) for name in lazsim.__all__))
    hints = {hint for one in functions for hint in typing.get_type_hints(one).values()}
    named = {one.__name__ for one in set().union(*map(classes, hints)) if one.__module__.startswith("lazsim")}
    assert {"PlacementPlan", "BatchFailures", "MtbfSpec", "RunResult"} <= named <= set(lazsim.__all__)


def test_a_command_has_its_name_in_the_command_line_and_in_the_output():
    # The names that are listed stand in a table of two columns, which needs no file.
    for path in set((PACKAGE / "cli").glob("*.py")) - {PACKAGE / "cli/__init__.py", PACKAGE / "cli/list.py"}:
        assert f"from lazsim.output.{path.stem} import" in path.read_text()


ALIKE = {"lazsim", "cli", "output", "plots", "readers", "systems"}
"""Packages without a guide: their modules are commands, results, formats or systems, or the rest of lazsim."""


@pytest.mark.parametrize(
    "package", sorted(path.parent for path in PACKAGE.rglob("__init__.py")), ids=lambda path: path.name
)
def test_a_package_says_what_each_of_its_modules_is_for(package):
    told = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    named = set(re.findall(r"(?<!`)`([a-z_]+)`(?!`)", told))
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    assert package.name in ALIKE or modules <= named <= modules | folders


def names_of_types(path: Path) -> list[str]:
    """List the classes that a module has, and the names that it gives to types, but for type variables."""
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign) and not ast.unparse(node.value).startswith("TypeVar("):
            names += [one.id for one in node.targets if isinstance(one, ast.Name) and re.match("[A-Z]+[a-z]", one.id)]
    return names


def test_a_type_has_a_name_of_its_own_in_the_package():
    found: dict[str, list[str]] = {}
    for module, path in SOURCES.items():
        for name in names_of_types(path):
            found.setdefault(name, []).append(module)
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}
