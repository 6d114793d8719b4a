"""Policies of users: from a file, from a package, and what is said of those that fail."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from lazsim.errors import InfeasiblePlanError, SpecError
from lazsim.placement.policies import REGISTRY, checked_plan, find_policy, place, policy_names
from lazsim.placement.request import PlacementRequest
from tests.conftest import ROOT

REQUEST = PlacementRequest(np.array([[1, 2, 3], [2, 2, 2]]), num_nodes=3, num_slots=2)

SMALL = ("place", "--nodes", 2, "--slots", 2, "--replicas", "2,2", "--json")

SEQUENTIAL = """
import numpy as np

def one_by_one(request):
    experts = np.arange(request.replicas_LE.shape[1])
    return np.stack([experts.repeat(r).reshape(request.num_nodes, -1) for r in request.replicas_LE])
"""


def refused(name, kind=SpecError):
    """Place by a policy that fails and return the one line that says so."""
    with pytest.raises(kind) as caught:
        place(name, REQUEST)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def written(tmp_path):
    """Write a file with one policy, `place`, whose body is given; return its name."""

    def write(body: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(f"import numpy as np\n\ndef place(request):\n    {body}\n")
        return f"{path}:place"

    return write


@pytest.fixture
def installed(tmp_path, install):
    """Install a package with one module, `own_placement`, that offers policies."""

    def install_policies(entries: str, package: str = "own-placement") -> None:
        (tmp_path / "own_placement.py").write_text(SEQUENTIAL)
        install(package, "1.5", f"[lazsim.policies]\n{entries}")

    return install_policies


def test_the_example_of_the_documentation_works(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/guides/policies.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(blocks[0])
    names = {"np": np}
    exec(blocks[1], names)
    # Least replicated first, 1 0 0 2 2 2, dealt to nodes 0 1 2 0 1 2.
    assert names["plan"].slots_LNS.tolist() == [[[1, 2], [0, 2], [0, 2]]]


def test_a_policy_of_a_file_is_called_with_the_request(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SEQUENTIAL)
    assert place(f"{path}:one_by_one", REQUEST).slots_LNS.tolist() == [
        [[0, 1], [1, 2], [2, 2]],
        [[0, 0], [1, 1], [2, 2]],
    ]


def test_a_policy_may_return_a_plan_and_leave_slots_out_or_empty(written):
    name = written(
        "from lazsim import PlacementPlan\n    return PlacementPlan(np.array([[[0], [1], [2]]] * 2), num_experts=3)"
    )
    assert place(name, REQUEST).replicas_LE.tolist() == [[1, 1, 1], [1, 1, 1]]
    name = written("return [[[0, 1], [2, -1], [-1, -1]]] * 2")
    assert place(name, REQUEST).slots_LNS[1].tolist() == [[0, 1], [2, -1], [-1, -1]]


def test_a_file_takes_the_place_of_no_module(tmp_path):
    path = tmp_path / "json.py"
    # Fields named by text look their class's module up.
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
        f"@dataclass\nclass Options:\n    depth: ClassVar[int] = 1\n{SEQUENTIAL}"
    )
    place(f"{path}:one_by_one", REQUEST)
    assert sys.modules["json"] is json


def test_a_file_that_changes_is_run_afresh(written):
    place(written("return [[[0, 1], [2, 0], [0, 0]]] * 2"), REQUEST)
    assert place(written("return [[[2, 1], [0, -1], [2, 2]]] * 2"), REQUEST).slots_LNS[0, 0].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return None", "expected (layers, nodes, slots) of (2, 3, 2), or fewer slots, not NoneType"),
        ("return np.zeros((3, 2), int)", "expected (layers, nodes, slots) of (2, 3, 2), or fewer slots, not an array "
         "of (3, 2)"),
        ("return np.zeros((1, 3, 2), int)", "or fewer slots, not an array of (1, 3, 2)"),
        ("return np.zeros((2, 3, 3), int)", "or fewer slots, not an array of (2, 3, 3)"),
        ("return [[[0, 1], [2]]] * 2", "expected an array of (layers, nodes, slots), which numpy cannot make of it: "),
        ("return np.zeros((2, 3, 2))", "slots hold float64, not integers; -1 stands for an empty slot"),
        ("return [[[0, 1], [2, None], [0, 0]]] * 2", "slots hold object, not integers"),
        ("return np.array([[[0, 1], [2, 0], [0, 0]], [[0, 1], [2, 0], [3, 0]]])",
         "slot 0 of node 2 in layer 1 holds 3; experts are 0 to 2, -1 stands for an empty slot"),
        ("return np.array([[[0, 1], [2, -2], [0, 0]]] * 2)", "slot 1 of node 1 in layer 0 holds -2; experts are"),
        ("return np.full((2, 3, 2), 2**64 - 1, np.uint64)", "slot 0 of node 0 in layer 0 holds 18446744073709551615"),
        ("return np.array([[[0, 1], [2, 0], [0, 0]], [[0, 1], [0, 0], [0, 0]]])", "expert 2 of layer 1 is on no node"),
        ("return np.zeros((2, 3, 0), int)", "expert 0 of layer 0 is on no node"),
    ],
)  # fmt: skip
def test_an_invalid_plan_is_refused_with_what_is_wrong(written, body, expected):
    name = written(body)
    found = refused(name)
    assert found.startswith(f"policy {name!r} returned an invalid plan: ")
    assert expected in found


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("raise ValueError('two\\nlines')", "ValueError (line 4): two lines"),
        ("return np.zeros(3).reshape(2, 2)", "ValueError (line 4): cannot reshape"),
        ("request.replicas_LE[0, 0] = 1", "ValueError (line 4): assignment destination is read-only"),
        ("raise SystemExit(3)", "SystemExit (line 4): 3"),
        ("return place(request)", "RecursionError (line 4): "),
    ],
)
def test_a_policy_that_raises_is_reported_with_its_line(written, body, expected):
    name = written(body)
    assert refused(name).startswith(f"policy {name!r}: {expected}")


def test_a_policy_can_say_that_it_does_not_apply(written):
    name = written("from lazsim.errors import InfeasiblePlanError\n    raise InfeasiblePlanError('needs 5 nodes')")
    assert refused(name, InfeasiblePlanError) == f"policy {name!r}: needs 5 nodes"


@pytest.mark.parametrize(
    ("content", "function", "expected"),
    [
        ("def f(): pass\nfrom os import path, getcwd", "g", "no function 'g' in mine.py, which has: f"),
        ("", "g", "no function 'g' in mine.py, which has: -"),
        ("f = 3", "f", "is no function but of type int"),
        ("def f(:", "f", "mine.py cannot be run: SyntaxError: "),
        ("\n1 / 0", "f", "mine.py cannot be run: ZeroDivisionError (line 2): division by zero"),
        ("import no_such_module", "f", "mine.py cannot be run: ModuleNotFoundError (line 1): No module named"),
        ("raise SystemExit", "f", "mine.py cannot be run: SystemExit (line 1):"),
        ("def f(): pass", "f", "TypeError: f() takes 0 positional arguments but 1 was given"),
    ],
)
def test_a_file_without_a_usable_function_is_refused(tmp_path, monkeypatch, content, function, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(content)
    modules = len(sys.modules)
    found = refused(f"mine.py:{function}")
    assert found.startswith(f"policy 'mine.py:{function}'")
    assert expected in found
    assert "cannot be run" not in found or len(sys.modules) == modules


@pytest.mark.parametrize("name", ["mine.py", "mine.py:", "mine.txt:f", ":f"])
def test_a_path_without_a_function_is_refused(name):
    assert refused(name) == f"policy {name!r}: expected path.py:function, the function to take from that file"


def test_what_a_policy_prints_is_kept_apart_from_the_answer(lazsim, tmp_path, installed):
    talkative = f"print('imported'){SEQUENTIAL}".replace("    experts = ", "    print('called')\n    experts = ")
    (tmp_path / "mine.py").write_text(talkative)
    installed("talkative = own_placement:one_by_one")
    (tmp_path / "own_placement.py").write_text(talkative)
    for name in (f"{tmp_path}/mine.py:one_by_one", "talkative"):
        code, out, err = lazsim("place", "--nodes", 2, "--slots", 2, "--replicas", "2,2", "--policy", name, "--json")
        assert code == 0
        assert json.loads(out)["plans"][name] == [[0, 0], [1, 1]]
        assert err.splitlines()[:2] == ["imported", "called"]


def test_a_missing_file_is_refused():
    assert refused("no/such.py:f") == "policy 'no/such.py:f': no file no/such.py; give path.py:function"


def test_a_policy_of_an_installed_package_is_found_listed_and_called(installed):
    installed("one-by-one = own_placement:one_by_one\nmro = own_placement:one_by_one")
    assert policy_names().count("mro") == 1
    assert policy_names()[-1] == "one-by-one"
    assert REGISTRY.describe()["one-by-one"] == "own_placement:one_by_one of own-placement 1.5"
    assert "own_placement" not in sys.modules
    assert place("one-by-one", REQUEST).slots_LNS[1].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert not find_policy("mro").is_custom
    assert "did you mean 'one-by-one'?" in refused("one-by-on")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("no_such_module:f", "(no_such_module:f of own-placement 1.5) cannot be imported: ModuleNotFoundError: "),
        ("own_placement:g", "(own_placement:g of own-placement 1.5) cannot be imported: AttributeError: "),
        ("own_placement:np", "policy 'x' is no function but of type module"),
    ],
)
def test_a_package_without_a_usable_function_is_refused_by_name(installed, entry, expected):
    installed(f"x = {entry}")
    assert expected in refused("x")
    assert REGISTRY.describe()["x"].startswith(entry)


def test_a_name_offered_by_two_packages_is_refused(lazsim, installed):
    installed("x = own_placement:one_by_one")
    installed("x = own_placement:another", package="other-placement")
    found = refused("x")
    assert found.startswith("policy 'x' is offered twice: ")
    assert "of own-placement 1.5" in found
    assert "of other-placement 1.5" in found
    code, _, err = lazsim(*SMALL)
    assert code == 0
    assert f"note: left out policies of installed packages: {found}" in err


@pytest.mark.parametrize("command", ["place", "recovery"])
def test_broken_policies_of_packages_stop_nobody_who_did_not_ask_for_them(lazsim, installed, command):
    installed("absent = no_such_module:f\nfails = own_placement:fails\nworks = own_placement:one_by_one")
    module = Path(sys.path[0]) / "own_placement.py"
    module.write_text(f"{SEQUENTIAL}\ndef fails(request):\n    return None\n")
    code, out, err = lazsim(command, *SMALL[1:])
    assert code == 0
    named = json.loads(out)["plans" if command == "place" else "policies"]
    assert {"mro", "works"} <= set(named)
    assert not {"absent", "fails"} & set(named)
    assert "note: left out absent: policy 'absent' (no_such_module:f of own-placement 1.5) cannot be imported: " in err
    assert "note: left out fails: policy 'fails' returned an invalid plan: " in err
    code, out, err = lazsim(command, *SMALL[1:], "--policy", "absent")
    assert (code, out) == (2, "")
    assert err.startswith("lazsim: --policy: policy 'absent'")


def test_a_policy_of_a_package_that_fails_for_the_survivors_stops_nobody_who_did_not_ask_for_it(lazsim, installed):
    installed("pairs = own_placement:one_by_one")
    module = Path(sys.path[0]) / "own_placement.py"
    module.write_text(SEQUENTIAL.replace("    return", "    assert request.num_nodes == 2\n    return"))
    code, out, _ = lazsim(*SMALL, "--lose", 0)
    assert code == 0
    assert "AssertionError" in json.loads(out)["lose"]["policies"]["pairs"]["no_plan"]
    code, _, err = lazsim(*SMALL, "--lose", 0, "--policy", "pairs")
    assert code == 2
    assert err.startswith("lazsim: --lose: policy 'pairs'")


def test_a_policy_of_a_package_is_an_input_with_its_version(lazsim, installed):
    installed("one-by-one = own_placement:one_by_one")
    _, out, _ = lazsim(*SMALL, "--policy", "one-by-one", "--policy", "mro")
    origin = "own_placement:one_by_one of own-placement 1.5"
    assert json.loads(out)["inputs"]["policies"] == [{"name": "one-by-one", "origin": origin}, {"name": "mro"}]


def test_the_command_line_lists_every_policy_and_says_how_to_add_one(lazsim, installed):
    installed("one-by-one = own_placement:one_by_one")
    code, out, _ = lazsim("list", "policies")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "][:-1] == policy_names()
    assert "path.py:function" in out.splitlines()[-1]
    code, out, _ = lazsim("list", "policies", "--json")
    assert list(json.loads(out)["policies"]) == policy_names()


def test_a_plan_is_taken_as_it_is_where_nothing_is_wrong():
    plan = checked_plan("mine", np.array([[[1, 0]]], dtype=np.int8), (1, 1, 2), num_experts=2)
    assert plan.slots_LNS.dtype == np.int64
    assert plan.slots_LNS.tolist() == [[[1, 0]]]
