"""Systems of users: those of the guide work, and what is wrong with others is told in a line."""

import inspect
import re
from pathlib import Path

import pytest

import lazsim
from lazsim.engine.interval import interval_steps
from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems import SYSTEMS, System, find_system
from lazsim.errors import SpecError
from lazsim.placement.policies import find_policy
from lazsim.study.advise.advice import advise
from lazsim.study.sweep.run import run_sweep
from lazsim.study.sweep.spec import parse_sweep
from tests.jobs import EvenLoads, staged_costs, trace

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "own-systems.md"

HEAD = """
from dataclasses import dataclass

from lazsim.engine.protocol import Action, Decision
from lazsim.engine.systems import System
from lazsim.engine.systems.system import Pace, Save


@dataclass(frozen=True)
class Own(System):
"""


def run(path, *changes, nodes="a b c d e f g h i j k l", interval_steps=10):
    events = trace((0, "add", nodes), *changes, duration_s=1000.0)
    return simulate_system(
        events, find_system(str(path)), staged_costs(), EvenLoads(2, 4), 400.0, interval_steps=interval_steps
    )


def of_guide(tmp_path, name):
    """Write a system of the guide to a file."""
    blocks = [block.split("```")[0] for block in GUIDE.read_text().split("```python\n")[1:]]
    (tmp_path / "mine.py").write_text(next(block for block in blocks if f"\n{name} = " in block))
    return f"{tmp_path}/mine.py:{name}"


def test_the_guide_shows_methods_with_the_arguments_that_they_have():
    shown = re.findall(r"`(\w+)\((self, [^)]*)\)`", GUIDE.read_text())
    assert len(shown) == 9
    for method, arguments in shown:
        assert ", ".join(inspect.signature(getattr(System, method)).parameters) == arguments


def test_a_hot_spare_of_the_guide_takes_the_place_of_a_failed_node(tmp_path):
    path = of_guide(tmp_path, "HOT_SPARE")
    # The step under way from 94 s on is lost; 15 s to detect and 20 s until a spare is there. The second failure finds
    # none: all go back to the last save, on two replicas.
    once = run(path, (95, "remove", "a"), nodes="a b c d e f g h i j k l s")
    assert (once.counts["restarts"], once.counts["lost_steps"]) == (0, 0)
    assert (once.ledger_s["detect"], once.ledger_s["reconfigure"], once.ledger_s["lost_work"]) == (15, 20, 1)
    twice = run(path, (95, "remove", "a"), (300, "remove", "b"), nodes="a b c d e f g h i j k l s")
    assert twice.counts["restarts"] == 1
    assert twice.states[-1].num_used == 8


@pytest.mark.parametrize(
    ("lost", "back", "wait_s", "restart_s"),
    [
        ("a", [(200, "add", "a")], 210, 40),
        ("a b", [(200, "add", "a"), (300, "add", "b")], 210, 40),
        # The second comes when the first has waited for others: it waits for others, too.
        ("a b", [(130, "add", "a"), (260, "add", "b")], 270, 20),
        ("a", [], 290, 0),
    ],
)
def test_a_system_of_the_guide_waits_until_all_nodes_are_back(tmp_path, lost, back, wait_s, restart_s):
    # Eleven nodes, and ten, would be enough for two replicas. The failure of 95 s is noticed at 110 s; nodes that are
    # back join 120 s after the first of them. The run ends at 400 s.
    one = run(of_guide(tmp_path, "ALL_BACK"), (95, "remove", lost), *back)
    assert (one.ledger_s["waiting"], one.ledger_s["restart"]) == (wait_s, restart_s)


def test_a_system_of_the_guide_does_not_start_before_all_nodes_are_there(tmp_path):
    late = run(of_guide(tmp_path, "ALL_BACK"), (100, "add", "l"), nodes="a b c d e f g h i j k")
    # There is no checkpoint to read.
    assert (late.ledger_s["waiting"], late.ledger_s["restart"]) == (220, 30)


def test_a_system_that_never_starts_is_not_told_that_nodes_go(tmp_path):
    # It wants the ten nodes of the cluster. Eight are there all the time, enough for the systems of lazsim.
    events = trace((0, "add", "a b c d e f g h"), duration_s=600.0)
    found = lazsim.simulate(events, model="gpt-s", systems=[of_guide(tmp_path, "ALL_BACK")])
    told = "ALL_BACK: nothing trained: no start begins, though the nodes needed (2) are there for up to 10 min in a row"
    assert told in found.notes


def test_a_start_that_outlasts_the_run_is_not_told_as_one_that_nodes_end(tmp_path):
    slow = "@dataclass(frozen=True)\nclass Slow(System):\n  def restart_s(self, costs, decision, plan): return 1000.0\n"
    head = "from dataclasses import dataclass\nfrom lazsim.engine.systems import System\n"
    (tmp_path / "slow.py").write_text(f"{head}{slow}SLOW = Slow('slow', 'starts slowly')\n")
    events = trace((0, "add", "a"), (10, "add", "b c d"), duration_s=600.0)
    found = lazsim.simulate(events, model="gpt-s", systems=[f"{tmp_path}/slow.py:SLOW"])
    assert "SLOW: nothing trained: no start ends before the run or a failure does" in found.notes


@pytest.mark.parametrize(("lost", "lost_steps"), [("a", 27), ("a c", 27), ("a b", 47)])
def test_a_system_of_the_guide_goes_back_to_a_copy_in_the_memory_of_a_neighbour(tmp_path, lost, lost_steps):
    # Of 47 steps, the copy of step 40 is under way, and the one of step 20 is lost with two neighbours.
    one = run(of_guide(tmp_path, "NEIGHBOUR"), (95, "remove", lost), interval_steps=0)
    assert (one.counts["lost_steps"], one.counts["restarts"]) == (lost_steps, 1)
    assert one.host_bytes > 0


@pytest.mark.parametrize(("method", "told"), [
    ("save(self, costs, num_nodes, step_s):\n  return 5.0", "save returned 5.0; return a Save of seconds of 0 or more"),
    ("save(self, costs, num_nodes, step_s):\n  return Save(-1)", "save returned Save(stall_s=-1, persist_s=0.0); "),
    ("restart_s(self, costs, decision, plan):\n  return -5", "restart_s returned -5; return a number of 0 or more"),
    ("detect_s(self, costs, rest_s):\n  return float('nan')", "detect_s returned nan; return a number of 0 or more"),
    ("memory_lag_steps(self, costs, num_nodes, step_s):\n  return 0", "returned 0; return whole steps of 1 or more"),
    ("restart_s(self, costs):\n  return 5.0", "restart_s: TypeError: "),
    ("restart_s(self, costs, decision, plan):\n  return 1 / 0", "restart_s: ZeroDivisionError (line 12): "),
    ("decide(self, costs, stopped):\n  pass", "decide returned None; return a Decision"),
    ("usable_nodes(self, costs, num_nodes):\n  return num_nodes - 1", "return a multiple of 4, the nodes of a "),
    ("usable_nodes(self, costs, num_nodes):\n  return num_nodes + 4", "usable_nodes returned 16; return 0 to 12"),
    ("pace(self, costs, held, step_s):\n  return Pace(0.0)", "return a Pace of a factor and a share of more than 0"),
    (
        "decide(self, costs, stopped):\n  nodes = stopped.held.nodes\n"
        "  return Decision(Action.CONTINUE, 'peers', nodes, len(nodes), (('swap', 5.0),))",
        "its phase 'swap' of 5.0 s: give seconds of compute, checkpoint, ",
    ),
    (
        "decide(self, costs, stopped):\n  nodes = stopped.alive\n"
        "  return Decision(Action.RECONFIGURE, 'peers', nodes, len(nodes))",
        "no node holds a state from which to go on: restart or wait",
    ),
    (
        "decide(self, costs, stopped):\n  nodes = stopped.alive\n"
        "  return Decision(Action.RESUME, 'peers', nodes, len(nodes))",
        "a job resumes after a pause only",
    ),
    (
        "decide(self, costs, stopped):\n  return Decision(Action.RESTART, 'checkpoint', stopped.alive[:8])",
        "after a restart all: give their number",
    ),
    (
        "decide(self, costs, stopped):\n  return Decision(Action.RESTART, 'peers', stopped.alive[:8], 8)",
        "a restart is from a `source`: 'checkpoint', 'memory' or 'initial'",
    ),
    (
        "decide(self, costs, stopped):\n  return Decision(Action.RESTART, 'checkpoint', ('a', 'b', 'c', 'd'), 4)",
        "its nodes 'a' are not alive",
    ),
    (
        "decide(self, costs, stopped):\n  nodes = stopped.held.nodes\n"
        "  return Decision(Action.CONTINUE, 'peers', nodes, len(nodes), seats=(1,))",
        "its seats 1 are not free",
    ),
    (
        "decide(self, costs, stopped):\n  nodes = stopped.held.nodes\n  if not nodes:\n"
        "    return super().decide(costs, stopped)\n  return Decision(Action.RECONFIGURE, 'peers', nodes[::-1], 8)",
        "a new plan starts from all nodes that hold a state, in their order",
    ),
    (
        "decide(self, costs, stopped):\n  nodes = stopped.held.nodes\n  if not nodes:\n"
        "    return super().decide(costs, stopped)\n  return Decision(Action.CONTINUE, 'peers', seats=(0,))",
        "those of its nodes that hold no state come last, each with a free seat",
    ),
    (
        "decide(self, costs, stopped):\n  nodes = stopped.held.nodes\n  if not nodes:\n"
        "    return super().decide(costs, stopped)\n  return Decision(Action.CONTINUE, 'peers', nodes, len(nodes))",
        "1 seat stays free: override `pace` to say how fast the other nodes train",
    ),
    (
        "decide(self, costs, stopped):\n  return Decision(Action.RESTART, 'memory', stopped.alive[:8], 8)",
        "no copy in memory is newer than the last checkpoint (`has_newer_copy`): restart from 'checkpoint'",
    ),
    (
        "decide(self, costs, stopped):\n  return Decision(Action.RESTART, 'initial', stopped.alive[:8], 8)",
        "there is a checkpoint: restart from 'checkpoint'",
    ),
    ("load_bytes(self, costs, plan):\n  return 5.0", "load_bytes returned 5.0; return an array of 8 numbers"),
    (
        "restart_s(self, costs, decision, plan):\n  import random\n  return 1 + random.random()",
        "restart_s answers otherwise when asked the same again, so that no run would repeat: draw with numpy.random.",
    ),
    (
        "decide(self, costs, stopped):\n  return Decision('RESTART', 'initial', stopped.alive[:8], 8)",
        "its action: give one of Action.RECONFIGURE, Action.RESTART, ",
    ),
    (
        "decide(self, costs, stopped):\n  return Decision(Action.RESTART, 'initial', stopped.alive[:8], '8')",
        "its num_nodes: give a whole number of 0 or more",
    ),
    (
        "decide(self, costs, stopped):\n"
        "  return Decision(Action.RESTART, 'initial', stopped.alive[:8], 8, {'reconfigure': 20.0})",
        "its phases: give a value of type tuple",
    ),
    ("num_seats(self, costs, num_nodes):\n  return num_nodes + 4", "num_seats returned 16; return 12 to 15"),
    ("num_seats(self, costs, num_nodes):\n  return num_nodes - 4", "num_seats returned 8; return 12 to 15"),
    ("detect_s(self, costs, rest_s):\n  return '5'", "detect_s returned '5'; return a number of 0 or more"),
    ("detect_s(self, costs, rest_s):\n  return True", "detect_s returned True; return a number of 0 or more"),
    ("extra_gpu_bytes(self, costs, num_nodes):\n  return 5.0", "returned 5.0; return bytes by part of act"),
    ("choices(self):\n  return {'min_replicas': 3}", "return the values to try by fields of the system, as {'min_"),
    ("fewest_nodes(self, costs):\n  return 0", "fewest_nodes returned 0; return a whole number of 1 or more"),
    ("plan(self, costs, *rest, **named):\n  pass", "return a value of type PlacementPlan"),
    ("dispatch(self, costs, server_N):\n  return 'all'", "return a value of type NodeDispatch"),
    ("detect_s(self, costs, rest_s):\n  self.num = 1", "detect_s: FrozenInstanceError (line 12): cannot assign to "),
    ("decided(self, costs, stopped):\n  pass", "lazsim calls no method 'decided': did you mean 'decide'? Begin the "),
    (
        "decide(self, costs, stopped):\n  nodes = stopped.alive\n"
        "  return Decision(Action.RESTART, 'checkpoint', nodes, len(nodes))",
        "a new plan takes 4 nodes for each model replica, not 11",
    ),
])  # fmt: skip
def test_a_system_of_a_user_that_fails_says_where_in_a_line(tmp_path, method, told):
    body = "".join(f"    {line}\n" for line in f"def {method}".replace("\n ", "\n   ").split("\n"))
    (tmp_path / "mine.py").write_text(f'{HEAD}{body}\n\nOWN = Own("own", "mine")\n')
    with pytest.raises(SpecError) as error:
        run(f"{tmp_path}/mine.py:OWN", (95, "remove", "a"))
    assert str(error.value).startswith(f"system '{tmp_path}/mine.py:OWN': ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_new_nodes_of_a_system_of_a_user_that_are_not_there_are_told_in_a_line(tmp_path):
    body = "    def newcomers(self, costs, held, alive, usable_nodes):\n        return ('z',)\n"
    (tmp_path / "mine.py").write_text(f'{HEAD}{body}\n\nOWN = Own("own", "mine")\n')
    with pytest.raises(SpecError, match=r"newcomers returned \('z',\); return nodes that are alive and not in use"):
        run(f"{tmp_path}/mine.py:OWN", (100, "add", "m n o p"))


def test_a_system_that_restarts_in_its_own_time_is_told_no_other(tmp_path):
    names = [of_guide(tmp_path, "IN_PLACE"), "checkpoint"]
    result = lazsim.simulate("fail-every-5min", systems=names, duration=1200, interval=100)
    restarts = [run.ledger_s["restart"] / run.wall_s > 0.1 for run in result.runs]
    [told] = [note for note in result.notes if note.startswith("the time of a restart")]
    assert all(restarts)
    assert "IN_PLACE" not in told
    assert "checkpoint" in told.partition("Share")[2]


def test_a_restart_before_the_first_checkpoint_reads_none(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        f"{HEAD}    def decide(self, costs, stopped):\n        nodes = stopped.alive[:8]\n"
        "        return Decision(Action.RESTART, 'checkpoint', nodes, 8)\n\n\nOWN = Own('own', 'mine')\n"
    )
    own, as_lazsim = (run(name, (95, "remove", "a"), interval_steps=0) for name in (f"{path}:OWN", "checkpoint"))
    assert own.failures[0].source == as_lazsim.failures[0].source == "initial"
    assert own.ledger_s == as_lazsim.ledger_s


def test_a_new_plan_of_nodes_that_lack_a_state_is_told_in_a_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        f"{HEAD}    def decide(self, costs, stopped):\n        nodes = stopped.held.nodes\n        if not nodes:\n"
        "            return super().decide(costs, stopped)\n"
        "        return Decision(Action.RECONFIGURE, 'peers', nodes, 4)\n\n\nOWN = Own('own', 'mine')\n"
    )
    # Of each stage, three nodes hold the same half.
    assert run(f"{path}:OWN", (95, "remove", "a b c")).counts["reconfigurations"] == 1
    with pytest.raises(SpecError, match="a new plan starts from all nodes that hold a state"):
        run(f"{path}:OWN", (95, "remove", "a c e"))


def test_a_system_or_a_policy_of_a_user_that_may_change_is_told_in_a_line(tmp_path):
    head = "from dataclasses import dataclass, field\nfrom lazsim.engine.systems import System\n\n"
    field = "  table: list = field(default_factory=list)\n"
    own = f"@dataclass(frozen=True)\nclass Own(System):\n{field}OWN = Own('own', 'mine')\n"
    policy = f"@dataclass\nclass Place:\n{field}  def __call__(self, request): pass\nPLACE = Place()\n"
    (tmp_path / "mine.py").write_text(head + own + policy)
    for find, name in ((find_system, "OWN"), (find_policy, "PLACE")):
        with pytest.raises(SpecError, match=rf"mine.py:{name}': unhashable type: .*; give a frozen dataclass"):
            find(f"{tmp_path}/mine.py:{name}")


def passing_on(kind):
    """Return the methods and properties of a kind of system, each of which asks the one that it replaces."""
    bases = [base for base in reversed(kind.__mro__) if issubclass(base, System)]
    known = {key: value for base in bases for key, value in vars(base).items() if not key.startswith("_")}
    for key in known.keys() - kind.__dataclass_fields__.keys():
        if isinstance(known[key], property):
            yield f"    @property\n    def {key}(self):\n        return super().{key}\n"
        else:
            yield f"    def {key}(self, *given, **named):\n        return super().{key}(*given, **named)\n"


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_whose_methods_ask_those_of_a_system_of_lazsim_does_as_that_does(tmp_path, name):
    kind = type(SYSTEMS[name])
    (tmp_path / "mine.py").write_text(
        f"from {kind.__module__} import {kind.__name__}\nfrom lazsim.engine.systems import SYSTEMS\n\n\n"
        f"class Mine({kind.__name__}):\n{''.join(passing_on(kind))}\n\nOWN = Mine(**vars(SYSTEMS[{name!r}]))\n"
    )
    for lost in ("a", "a c e"):
        changes = (95, "remove", lost), (200, "add", "m n"), (300, "remove", "f")
        own, published = (run(path, *changes) for path in (f"{tmp_path}/mine.py:OWN", name))
        assert own.samples == published.samples > 0
        assert (own.ledger_s, own.counts, own.states) == (published.ledger_s, published.counts, published.states)


def test_published_seconds_between_checkpoints_that_are_none_are_told(tmp_path):
    (tmp_path / "mine.py").write_text(
        f"{HEAD}    def interval_s(self, costs, plan, save, between_s):\n        return between_s - 9\n\n\n"
        "OWN = Own('own', 'mine')\n"
    )
    own, asked = find_system(f"{tmp_path}/mine.py:OWN"), (staged_costs(), EvenLoads(2, 4), 12)
    assert interval_steps(own, *asked, 209.0) == 100
    for between_s, found in ((float("nan"), "nan"), (8.0, "-1.0")):
        with pytest.raises(SpecError, match=f"interval_s returned {found}; return a number of 0 or more, or None"):
            interval_steps(own, *asked, between_s)


@pytest.mark.parametrize(("body", "told"), [
    ("@property\n  def is_elastik(self): ...", "lazsim calls no method 'is_elastik': did you mean 'is_elastic'? "),
    ("@property\n  def is_elastic(self): return 'no'", "is_elastic returned 'no'; return a value of type bool"),
    ("@staticmethod\n  def detect_s(costs, rest_s): return -1", "detect_s returned -1; return a number of 0 or more"),
    ("recovers_from_peers = True", "its class sets 'recovers_from_peers' without effect: declare it there with its "),
    ("survivess = True", "lazsim reads no 'survivess': did you mean 'survives'? Begin the name of one of your "),
    ("needs_: str = 'nothing'", "lazsim reads no 'needs_': did you mean 'needs'? Begin the name of one of your own wi"),
    ("def __init__(self, *_): super().__init__('own', 'mine')", "give a frozen dataclass whose constructor takes its "),
])  # fmt: skip
def test_parts_of_a_system_that_would_have_no_effect_are_told_in_a_line(tmp_path, body, told):
    (tmp_path / "mine.py").write_text(f"{HEAD}  {body}\n\n\nOWN = Own('own', 'mine')\n")
    with pytest.raises(SpecError, match=rf"^system '.*mine.py:OWN': {re.escape(told)}.*$"):
        run(f"{tmp_path}/mine.py:OWN", (95, "remove", "a"))


def test_methods_of_a_class_that_is_no_system_and_fields_that_are_computed_are_the_users_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import field\n\nclass Mix:\n  def twice(self, seconds):\n    return 2 * seconds\n"
        + HEAD.replace("System):", "Mix, System):")
        + "  wait_s: float = 3.0\n  save_s = 3.0\n  detect_seconds: float = 2.0\n  all_s: float = field(init=False)\n"
        "  def __post_init__(self):\n    object.__setattr__(self, 'all_s', self.twice(self.wait_s))\n"
        "  def detect_s(self, costs, rest_s):\n    return self.all_s\n\nOWN = Own('own', 'mine', wait_s=4.0)\n"
    )
    assert run(f"{tmp_path}/mine.py:OWN", (95, "remove", "a")).ledger_s["detect"] == 8


def test_a_class_in_place_of_a_system_is_refused_with_what_to_give(tmp_path):
    (tmp_path / "own.py").write_text(HEAD + "  pass\n")
    with pytest.raises(SpecError, match=r"own.py:Own' is a class; give an object of it, as in SYSTEM = Own\(...\)"):
        find_system(f"{tmp_path}/own.py:Own")


def test_a_slip_in_the_name_of_a_system_is_told_with_those_that_the_file_has(tmp_path):
    # The system itself is of a class of lazsim, which is imported and no system of the file's own.
    (tmp_path / "own.py").write_text(
        "import math\nfrom lazsim.engine.systems import System\nMINE = System('mine', 'my own')\n"
    )
    with pytest.raises(SpecError, match=r"no object 'Mine' in .*own.py, which has: MINE; did you mean 'MINE'\?$"):
        find_system(f"{tmp_path}/own.py:Mine")


def test_sweeps_and_advice_call_a_system_and_a_policy_of_a_file_as_runs_do(tmp_path):
    system = "from lazsim.engine.systems import SYSTEMS\nOWN = SYSTEMS['lazarus']\n"
    (tmp_path / "mine.py").write_text(
        f"{system}from lazsim.placement.policies import POLICIES\nby = POLICIES['mro'].function\n"
    )
    (tmp_path / "other.py").write_text(system)
    mine, by, settings = f"{tmp_path}/mine.py:OWN", f"{tmp_path}/mine.py:by", {"trace": "fail-every-5min"}
    run = lazsim.simulate(**settings, systems=[mine], placements=[by], duration=600).to_json()["runs"][0]
    assert (run["system"], run["placement"]) == ("OWN", "mine.py:by")
    base = {"base": {**settings, "duration": "10min", "system": ["mine.py:OWN", "ds"], "placement": "mine.py:by"}}
    rows = run_sweep(parse_sweep(base, folder=tmp_path)).rows
    assert [(row["system"], row["placement"]) for row in rows] == [("OWN", "mine.py:by"), ("ds", None)]
    chosen = {"system": [mine, "ds"], "placement": [by]}
    found = advise({**settings, "duration": 600}, chosen, max_runs=40, interval=10).to_json()
    ranking = [(one["system"], one.get("placement")) for one in found["evidence"]["ranking"]]
    assert sorted(ranking) == [("OWN", "mine.py:by"), ("ds", None)]
    both = [mine, f"{tmp_path}/other.py:OWN"]
    for study in (
        lambda: run_sweep(parse_sweep({"base": {**settings, "duration": "10min", "system": both}})),
        lambda: advise(settings, {"system": both}),
    ):
        with pytest.raises(SpecError, match=r"`system`: .*mine.py:OWN and .*other.py:OWN are both named 'OWN'"):
            study()


NUMBERS = """
    def usable_nodes(self, costs, num_nodes):
        return {whole}(num_nodes // 4 * 4)
    def save(self, costs, num_nodes, step_s):
        return Save({real}(1.5), {whole}(3))
    def pace(self, costs, held, step_s):
        return Pace({real}(1.25), {real}(0.5))
    def extra_gpu_bytes(self, costs, num_nodes):
        return {{"activations": {real}(8)}}
    def choices(self):
        return {{"min_replicas": {many}([{whole}(1)])}}
    def decide(self, costs, stopped):
        held = stopped.held
        if stopped.paused or not held.nodes:
            return super().decide(costs, stopped)
        phases = {many}([("reconfigure", {real}(5))])
        return Decision(Action.CONTINUE, "peers", {many}(held.nodes), {whole}(len(held.nodes)), phases)


MINE = Own("mine", "mine")
"""


def test_a_system_may_return_numbers_of_numpy_and_lists_as_those_of_python(tmp_path):
    def of(whole, real, many):
        (tmp_path / "mine.py").write_text(
            "import numpy as np" + HEAD + NUMBERS.format(whole=whole, real=real, many=many)
        )
        return run(f"{tmp_path}/mine.py:MINE", (100, "remove", "a"))

    expected = of("int", "float", "tuple")
    assert [failure.decision for failure in expected.failures] == ["continue"]
    assert of("np.int8", "np.float32", "list") == expected
