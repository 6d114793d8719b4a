import json

import numpy as np
import pytest

SMALL = ("--nodes", 10, "--slots", 6, "--experts", 8, "--loads", "zipf:1.2", "--min-replicas", 2)
LAYERED = (
    "# lazsim-routing 1\nstep,layer,expert,tokens\n0,0,0,60\n0,0,1,30\n0,0,2,10\n0,1,0,5\n0,1,1,5\n0,1,2,90\n"
    "9,0,0,1\n9,0,1,1\n9,0,2,98\n9,1,0,98\n9,1,1,1\n9,1,2,1\n"
)


@pytest.fixture
def loads(tmp_path):
    path = tmp_path / "loads.csv"
    path.write_text(LAYERED)
    return path


def test_replicas_given_are_placed_node_by_node(answered):
    placed = answered("place", "--nodes", 3, "--slots", 2, "--replicas", "1,1,4", "--policy", "spread")
    assert placed["replicas"] == [1, 1, 4]
    assert placed["plans"] == {"spread": [[0, 2], [1, 2], [2, 2]]}


def test_empty_slots_are_null(answered):
    # Plain expert parallelism on three nodes: two of them hold the four experts.
    placed = answered("place", "--nodes", 3, "--slots", 2, "--experts", 4, "--policy", "ep")
    assert placed["plans"]["ep"] == [[0, 1], [2, 3], [None, None]]


def test_without_a_policy_all_that_apply_are_asked_and_others_noted(lazsim):
    # Four experts in equal chunks of one need four nodes, and there are three with two slots on two GPUs each.
    code, out, err = lazsim("place", "--nodes", 1, "--slots", 4, "--gpus-per-node", 2, "--experts", 3, "--json")
    assert code == 0
    assert {"mro", "spread", "compact", "random", "eplb"} <= set(json.loads(out)["plans"])
    assert "ep" not in json.loads(out)["plans"]
    assert "note: left out ep: plain expert parallelism needs" in err


def test_a_policy_that_was_asked_for_and_does_not_apply_is_an_error(refused):
    told = refused("place", "--nodes", 1, "--slots", 4, "--gpus-per-node", 2, "--experts", 3, "--policy", "ep")
    assert told.startswith("--policy: plain expert parallelism needs")


def test_a_file_of_loads_puts_an_axis_of_layers_in_front(answered, loads):
    placed = answered("place", "--nodes", 2, "--slots", 3, "--loads", loads, "--min-replicas", 1, "--policy", "mro")
    # 6 replicas for 60, 30, 10 and 5, 5, 90: floor(10/100*6)=0 -> 1, floor(30/90*5)=1, the rest 4.
    assert placed["replicas"] == [[4, 1, 1], [1, 1, 4]]
    assert np.array(placed["plans"]["mro"]).shape == (2, 2, 3)


def test_step_layers_and_experts_choose_from_a_file(answered, loads):
    chosen = ("--nodes", 2, "--slots", 2, "--loads", loads, "--min-replicas", 1, "--policy", "mro")
    # Over both steps, layer 0 gives its experts 61, 31 and 108 tokens: experts 0 and 2 are taken.
    placed = answered("place", *chosen, "--step", 9, "--layers", 1, "--experts", 2)
    assert placed["replicas"] == [[1, 3]]
    assert answered("place", *chosen, "--layers", 1, "--experts", 2)["replicas"] == [[3, 1]]


def test_generated_layers_have_an_axis_and_one_without_has_none(answered):
    assert np.array(answered("place", *SMALL, "--policy", "mro")["plans"]["mro"]).shape == (10, 6)
    assert np.array(answered("place", *SMALL, "--layers", 1, "--policy", "mro")["plans"]["mro"]).shape == (1, 10, 6)
    assert np.array(answered("place", *SMALL, "--layers", 3, "--policy", "mro")["plans"]["mro"]).shape == (3, 10, 6)


@pytest.mark.parametrize(("given", "num_layers"), [((), 58), (("--loads", "zipf:1.2", "--layers", 2), 2)])
def test_the_experts_and_layers_of_a_model_are_placed_unless_others_are_given(answered, given, num_layers):
    # arXiv 2412.19437, 4.2: 61 layers, of which all but the first three are MoE layers of 256 routed experts.
    placed = answered("place", "--model", "deepseek-v3", "--cluster", "h200x32", "--policy", "mro", *given)
    assert np.shape(placed["replicas"]) == (num_layers, 256)


def test_a_model_leaves_experts_layers_and_recordings_as_given(answered, loads):
    asked = ("place", "--model", "deepseek-v3", "--nodes", 3, "--slots", 4, "--policy", "mro")
    assert np.shape(answered(*asked, "--experts", 6)["replicas"]) == (6,)
    assert np.shape(answered(*asked, "--loads", loads)["replicas"]) == (2, 3)


def test_the_map_marks_the_most_endangered_expert(lazsim):
    _, out, _ = lazsim("place", "--nodes", 3, "--slots", 2, "--replicas", "1,1,4", "--policy", "compact")
    # The four replicas of expert 2 are on two nodes; experts 0 and 1 are on one, and 0 comes first.
    assert "  0: 2 2\n  1: 2 2\n  2: 0*1\n" in out
    assert " 0 and 1 more " in out


def test_loss_reports_each_mapping_and_sharing(answered):
    placed = answered("place", *SMALL, "--policy", "mro", "--lose", "3,0")
    outcome = placed["lose"]["policies"]["mro"]
    assert placed["lose"]["nodes"] == [0, 3]
    assert outcome["lost_experts"] == []
    assert len(outcome["migrations"]) == 6
    for row in outcome["migrations"]:
        assert row["total_bytes"] == row["num_states"] * 63 * 2**20 >= outcome["least_bytes"]
        assert max(row["busiest_sender_bytes"], row["busiest_receiver_bytes"]) >= outcome["bound_bytes"] - 1
    assert len(outcome["plan"]) == 8


def test_a_loss_shows_the_mapping_of_runs_and_all_of_them_when_asked(lazsim):
    lost = (*SMALL, "--policy", "mro", "--policy", "spread", "--lose", "3,0")
    one, every = (lazsim("place", *lost, *more)[1] for more in ((), ("--all-mappings",)))
    rows = [line for line in one.splitlines() if line.startswith(("mro ", "spread ")) and "." in line]
    # A row of the scores and one of the moves for each policy.
    assert len(rows) == 4
    assert "as in runs: greedy" in one
    # Three mappings with two ways to share the sending.
    assert sum(line.startswith("mro ") and "." in line for line in every.splitlines()) == 1 + 6


def test_states_that_three_owners_share_are_whole_states(answered):
    # Two nodes of the new plan want one state more; an expert of gpt-s is 66,060,288 bytes.
    even = ("--nodes", 10, "--slots", 6, "--experts", 8, "--loads", "uniform")
    outcome = answered("place", *even, "--policy", "mro", "--lose", 0)["lose"]["policies"]["mro"]
    assert {row["sharing"] for row in outcome["migrations"]} == {"even", "balanced"}
    for row in outcome["migrations"]:
        assert row["total_bytes"] == row["num_states"] * 66_060_288
        assert row["busiest_receiver_bytes"] % 66_060_288 == 0
        assert row["bound_bytes"] <= max(row["busiest_sender_bytes"], row["busiest_receiver_bytes"]) * (1 + 1e-12)


def test_loss_of_an_expert_is_told(lazsim):
    _, out, _ = lazsim("place", "--nodes", 3, "--slots", 2, "--replicas", "1,1,4", "--policy", "spread", "--lose", 0)
    assert "spread: expert 0 lost (1 in all); training restarts from a checkpoint" in " ".join(out.split())


def test_the_same_command_writes_the_same_bytes(lazsim, tmp_path):
    found = []
    chosen = ("--layers", 2, "--policy", "random", "--policy", "mro")
    for folder in (tmp_path / "a", tmp_path / "b"):
        _, out, _ = lazsim("place", *SMALL, *chosen, "--seed", 3, "--json", "--out", folder)
        found.append((out, {path.name: path.read_bytes() for path in folder.glob("[!.]*")}))
    assert found[0] == found[1]
    assert set(found[0][1]) == {"place.json", "placement.pdf", "placement.png"}
    kept = json.loads(found[0][1]["place.json"])
    assert kept == json.loads(found[0][0])
    assert (kept["inputs"]["seed"], kept["inputs"]["version"]) == (3, "0.1.0")
    assert len(kept["inputs"]["loads"]["sha256"]) == 64


@pytest.mark.filterwarnings("error")
def test_experts_without_tokens_are_drawn(answered, tmp_path):
    out = tmp_path / "out"
    answered("place", "--nodes", 4, "--slots", 3, "--loads", "5,0,0,7", "--policy", "mro", "--out", out)
    assert (out / "placement.png").exists()


def test_a_policy_of_a_file_is_drawn_and_named_with_its_hash(answered, write, tmp_path):
    own = write("import numpy as np\ndef place(request):\n    return np.array([[[0, 1], [1, 1], [1, 0]]])\n", "own.py")
    placed = answered(
        "place", "--nodes", 3, "--slots", 2, "--replicas", "2,4", "--policy", f"{own}:place", "--out", tmp_path / "out"
    )
    assert placed["plans"] == {f"{own}:place": [[0, 1], [1, 1], [1, 0]]}
    (named,) = placed["inputs"]["policies"]
    assert named["name"] == "own.py:place"
    assert len(named["sha256"]) == 64


REPLICAS = ("--nodes", 3, "--slots", 2, "--replicas", "2,2,2")
UNIFORM = ("--nodes", 3, "--slots", 2, "--experts", 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--nodes", 3, "--slots", 2, "--replicas", "2,2,3"), "--replicas: 7 in layer 0 for 6 slots; give 6"),
        (("--nodes", 3, "--slots", 2, "--replicas", "0,3,3"), "--replicas: expert 0 of layer 0 has 0"),
        (
            ("--nodes", 3, "--slots", 2, "--replicas", "1,024"),
            "--replicas 1,024: '024' begins with 0; commas part numbers",
        ),
        ((*REPLICAS, "--lose", "1,000"), "--lose 1,000: '000' begins with 0"),
        ((*UNIFORM, "--loads", "1,000"), "--loads 1,000: '000' begins with 0"),
        (("--nodes", 3, "--slots", 2, "--replicas", "2,,2"), "--replicas 2,,2: '' is no whole number"),
        (("--nodes", 3, "--slots", 2, "--replicas", "2,x"), "--replicas 2,x: 'x' is no whole number"),
        (("--nodes", 3, "--slots", 2, "--replicas", "1,1,1,1,1,1,1"), "--replicas: 7 in layer 0 for 6 slots; give 6"),
        (("--nodes", 3, "--slots", 2, "--experts", 7), "--experts: 7 experts need as many slots"),
        (("--nodes", 3, "--slots", 2), "give --replicas 2,2,3,..., --experts E, the --model that has them, or"),
        (
            ("--nodes", 3, "--slots", 2, "--loads", "uniform"),
            "--loads uniform are for any number of experts: give --replicas 2,2,3",
        ),
        ((*REPLICAS, "--experts", 3), "--replicas and --experts exclude each other"),
        ((*REPLICAS, "--loads", "uniform"), "--replicas and --loads exclude each other"),
        ((*REPLICAS, "--min-replicas", 2), "--replicas and --min-replicas exclude each other"),
        ((*REPLICAS, "--policy", "mor"), "--policy: unknown policy 'mor': did you mean 'mro'?"),
        ((*REPLICAS, "--gpus-per-node", 4), "--slots 2: 4 GPUs"),
        ((*REPLICAS, "--lose", "3"), "--lose 3: no node 3; nodes are 0 to 2"),
        ((*REPLICAS, "--lose", "2,1,0"), "--lose 0,1,2: all 3 nodes fail"),
        ((*REPLICAS, "--lose", "a"), "--lose a: 'a' is no whole number"),
        ((*REPLICAS, "--lose", ""), "--lose '': give a value, or leave it out"),
        ((*REPLICAS, "--lose", "1", "--model", "gtp-s"), "did you mean 'gpt-s'?"),
        ((*REPLICAS, "--layer", 1), "--layer 1: there is one layer, 0; --layers or a --model makes more"),
        ((*UNIFORM, "--loads", "1,-2,3"), "'-2' is no number of tokens"),
        ((*UNIFORM, "--loads", "1,nan,3"), "'nan' is no number of tokens"),
        ((*UNIFORM, "--loads", "0,0,0"), "no expert has any tokens"),
        ((*UNIFORM, "--loads", "1,2"), "2 loads for --experts 3"),
        ((*UNIFORM, "--loads", "1,b,3"), "'b' is no number"),
        ((*UNIFORM, "--loads", "zipf:"), "--loads zipf:: expected zipf:S"),
        ((*UNIFORM, "--loads", "zipf:nan"), "expected zipf:S"),
        ((*UNIFORM, "--loads", "zipf:-1"), "expected zipf:S"),
        ((*UNIFORM, "--loads", ""), "--loads '': give a value"),
        ((*UNIFORM, "--loads", " "), "--loads ' ': names no loads; give uniform"),
        ((*UNIFORM, "--loads", "unifrom"), "did you mean 'uniform'?"),
        (("--nodes", 3, "--slots", 2, "--loads", "zpf"), "--loads: unknown routing 'zpf': did you mean 'zipf:S'?"),
        ((*UNIFORM, "--loads", "zipff:1.2"), "--loads: unknown routing 'zipff:1.2': did you mean 'zipf:S'?"),
        (("--nodes", 3, "--slots", 2, "--model", "gpt-s"), "--model: 8 experts need as many slots, but the nodes have"),
        ((*UNIFORM, "--step", 3), "--step 3: loads uniform are the same at every step"),
        (("--nodes", 0, "--slots", 2, "--experts", 1), "--nodes: expected a whole number from 1 to 16,384, found '0'"),
        (
            (*UNIFORM, "--old", "x", "--move-cost", 1, "--policy", "mro"),
            "--move-cost has no effect without --policy steady: add that, or leave --move-cost out",
        ),
        (
            (*UNIFORM, "--domains", "a,a,b", "--policy", "mro", "--policy", "euclid"),
            "--domains has no effect without --policy domains: add that, or leave --domains out",
        ),
        (("--nodes", 10**4, "--slots", 10**6, "--experts", 1), "10,000 nodes of 1,000,000 slots: a plan has at most"),
    ],
)
def test_bad_input_is_one_line_that_names_the_option(refused, arguments, said):
    assert said in refused("place", *arguments)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0,0,0,-5", "line 3"),
        ("0,0,0,nan", "line 3"),
        ("0,0,1,0", "no loads"),
    ],
)
def test_bad_loads_of_a_file_are_refused(refused, write, row, said):
    path = write(f"# lazsim-routing 1\nstep,layer,expert,tokens\n{row}\n", "loads.csv")
    told = refused("place", "--nodes", 2, "--slots", 2, "--loads", path)
    assert told.startswith(f"--loads: {path}")
    assert said in told


@pytest.mark.parametrize(("option", "value", "has"), [("--experts", 4, 3), ("--layers", 3, 2)])
def test_more_than_a_file_has_is_refused(refused, loads, option, value, has):
    told = refused("place", "--nodes", 3, "--slots", 2, "--loads", loads, option, value)
    assert told == f"{option} {value}: {loads} has {has}; give at most {has}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('no idea')", "ValueError (line 2): no idea"),
        ("return [[[0, 0], [0, 0], [0, 0]]]", "returned an invalid plan: expert 1 of layer 0 is on no node"),
        ("return None", "returned an invalid plan"),
    ],
)
def test_a_policy_of_a_user_that_fails_is_named(refused, write, body, said):
    own = write(f"def place(request):\n    {body}\n", "own.py")
    told = refused("place", *REPLICAS, "--policy", f"{own}:place")
    assert told.startswith(f"--policy: policy '{own}:place'")
    assert said in told


GROUPED = ("--nodes", 2, "--slots", 4, "--gpus-per-node", 2, "--loads", "40,30,20,10", "--min-replicas", 1)


def test_groups_of_experts_are_kept_on_one_node_by_eplb_and_others_are_noted(lazsim):
    code, out, err = lazsim("place", *GROUPED, "--groups", 2, "--policy", "eplb", "--policy", "spread", "--json")
    assert code == 0
    # Experts 0 and 1 are one group, 2 and 3 the other.
    first, second = json.loads(out)["plans"]["eplb"]
    assert {frozenset(first), frozenset(second)} == {frozenset((0, 1)), frozenset((2, 3))}
    assert "note: some group of experts is on several nodes under spread\n" in err
    assert lazsim("place", *GROUPED, "--groups", 3)[::2] == (
        2, "lazsim: --groups 3: groups are equally large; give a divisor of 4 experts\n",
    )  # fmt: skip


@pytest.fixture
def old(tmp_path):
    """Two nodes with two GPUs of two slots; slot s belongs to GPU s % 2. GPUs have 20, 15, 30 and 35 of 100 tokens."""
    path = tmp_path / "old.json"
    path.write_text('{"plans": {"held": [[0, 1, 0, null], [0, 1, 2, 3]]}}')
    return path


def test_what_a_policy_moves_and_gains_from_the_old_plan_is_told(answered, old):
    state = 63 * 2**20
    placed = answered("place", *GROUPED, "--old", old, "--policy", "steady", "--policy", "spread")
    steady, spread = (placed["old"]["policies"][name] for name in ("steady", "spread"))
    assert placed["old"]["model"] == "gpt-s"
    assert placed["old"]["state_bytes"] == state
    for change in (steady, spread):
        assert change["num_slots"] == 8
        assert change["moved_bytes"] == change["num_moved"] * state
    assert 1 <= steady["num_moved"] < spread["num_moved"]
    # Moves are paid for: 0.1 of the mean for all slots.
    assert 0.1 * steady["num_moved"] / 8 <= steady["busiest_before"] - steady["busiest_after"]


def test_at_a_high_cost_of_moves_only_empty_slots_and_lost_experts_are_filled(answered, old):
    placed = answered("place", *GROUPED, "--old", old, "--policy", "steady", "--move-cost", 100)
    assert placed["plans"]["steady"][0][:3] == [0, 1, 0]
    assert placed["plans"]["steady"][1] == [0, 1, 2, 3]
    assert placed["old"]["policies"]["steady"]["num_moved"] == 1
    old.write_text('{"plans": {"held": [[0, 1, 0, 1], [0, 1, 2, 2]]}}')
    placed = answered("place", *GROUPED, "--old", f"{old}:held", "--policy", "steady", "--move-cost", 100)
    # Expert 3 was nowhere, so that no load of the old plan can be told.
    assert placed["old"]["policies"]["steady"]["busiest_before"] is None
    assert placed["old"]["policies"]["steady"]["num_moved"] == 1


def test_a_plan_of_place_is_an_old_plan_and_costs_nothing_to_keep(lazsim, answered, tmp_path):
    layered = (*SMALL, "--layers", 2)
    assert lazsim("place", *layered, "--policy", "balanced", "--policy", "mro", "--out", tmp_path / "out")[0] == 0
    file = f"{tmp_path / 'out' / 'place.json'}:balanced"
    changes = answered("place", *layered, "--old", file)["old"]["policies"]
    assert changes["balanced"]["num_moved"] == 0
    assert changes["steady"]["num_moved"] < changes["spread"]["num_moved"]
    _, out, _ = lazsim("place", *layered, "--old", file)
    assert "from the old plan (63 MiB for each expert of gpt-s)" in out


def test_after_a_loss_the_steady_policy_moves_little(answered):
    even = ("--nodes", 10, "--slots", 6, "--experts", 12, "--lose", 3)
    policies = ("--policy", "balanced", "--policy", "steady")
    loss = answered("place", *even, *policies)["lose"]["policies"]
    assert loss["steady"]["lost_experts"] == []
    # With 60 slots, each of the 12 experts has 5 replicas on as many nodes, so that nothing needs repair.
    assert loss["steady"]["least_bytes"] < loss["balanced"]["least_bytes"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "not the JSON of lazsim place (plans: is missing)"),
        ("nodes", "not the JSON of lazsim place (invalid character at column 5)"),
        ('{"plans": {}}', "has plans of no policy"),
        ('{"plans": {"a": [[0, 1]], "b": [[0, 1]]}}', "has plans of a, b; name one of them, as in"),
        ('{"plans": {"a": [[0, 1, 2, 3]]}}', "has 1 x 1 x 4 layers x nodes x slots; give a plan of 1 x 2 x 4"),
        ('{"plans": {"a": [[0, 1, 2, 3], [0]]}}', "nodes have unequal numbers of slots"),
        ('{"plans": {"a": [[0, 1, 2, 4], [0, 1, 2, 3]]}}', "has expert 4 where experts are 0 to 3"),
        ('{"plans": {"a": [[0, 1, 2, -1], [0, 1, 2, 3]]}}', "plans.a[0][3]: expected a whole number >= 0"),
        (
            '{"plans": {"a": [[0, 1, 2, 1e30], [0, 1, 2, 3]]}}',
            "plans.a[0][3]: expected a whole number or null, got a number",
        ),
        ('{"plans": {"a": 3}}', "plans.a: expected a list, got a whole number"),
        ('{"plans": {"a": []}}', "has 1 x 0 layers x nodes x slots; give a plan of 1 x 2 x 4"),
    ],
)
def test_an_old_plan_that_does_not_fit_is_refused_in_a_line(refused, old, text, said):
    old.write_text(text)
    told = refused("place", *GROUPED, "--old", old)
    assert told.startswith(f"--old: {old}: ")
    assert said in told
