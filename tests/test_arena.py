"""The arena: settings are chosen on failures that do not judge them, and runs are long enough to judge by."""

import pytest

from lazsim.scenario import resolve
from lazsim.settings import AUTO
from lazsim.study.checkpoint_interval import choose_setting, other_draws
from lazsim.study.experiment import load_experiment
from lazsim.study.runs import ScenarioRuns, Setting
from lazsim.study.simulation import simulate, simulate_scenarios
from lazsim.trace.recipes import change_recipe
from tests.conftest import ROOT
from tests.jobs import trace

EXPERIMENT = load_experiment(str(ROOT / "experiments" / "arena" / "experiment.py"))
ARENA = EXPERIMENT.script
NAMES = " ".join(f"n{index}" for index in range(4))


def runs_of(*traces, interval=None):
    """Return the runs of a job whose steps and saves take 10 s, and whose restarts take 60 s."""
    job = {"model": "deepseek-v2-lite", "cluster": "dgx-h100", "job": "deepseek-v3", "routing": "uniform"}
    job |= {f"job.parallel.{name}": value for name, value in ARENA.ONE_STAGE.items()}
    job |= {"cluster.num_nodes": 4, "cluster.recovery.restart_base_s": 60.0, "job.join_wait_s": 0.0}
    job |= {"job.checkpoint_interval_steps": interval} if interval else {}
    scenario = resolve(job | {"system": "checkpoint"})
    return ScenarioRuns([scenario.under(one) for one in traces])


def failing(*times_s):
    changes = [(at_s + later_s, kind, "n0") for at_s in times_s for later_s, kind in ((0, "remove"), (60, "add"))]
    return trace((0, "add", NAMES), *changes, duration_s=8000.0)


def test_a_setting_is_chosen_for_all_traces_together():
    rare = failing(7900)
    often = failing(*(round(150 + 400 * turn + turn * 0.618034 % 1 * 360) for turn in range(1, 19)))
    both = runs_of(rare, often)
    found, *alone = (choose_setting(runs, AUTO) for runs in (both, runs_of(rare), runs_of(often)))
    assert found.interval_steps not in [one.interval_steps for one in alone]
    # The search ends where none of its neighbours trains more on both traces.
    near = [Setting(found.system, round(found.interval_steps * ratio)) for ratio in (0.5**0.5, 2**0.5)]
    chosen, *others = (sum(run.samples for run in both.runs(one)) for one in (found, choose_setting(both, None), *near))
    assert chosen >= max(others)


def trained_with_one_failure(runs, chosen):
    """Return samples trained with the interval chosen and with twenty others, by a failure at 16 instants in turn."""
    failed = runs.on([runs.scenario.under(failing(100.0 + 490 * turn)) for turn in range(16)])
    return {
        steps: sum(run.samples for run in failed.runs(Setting(chosen.system, steps)))
        for steps in (chosen.interval_steps, *(round(8 * 2 ** (power / 2)) for power in range(20)))
    }


def test_an_interval_that_no_failure_has_tested_is_the_best_if_one_failure_did():
    runs = runs_of(failing(), interval=8)
    chosen = choose_setting(runs, AUTO)
    # A run that never saves trains most without a failure.
    trained = trained_with_one_failure(runs, chosen)
    assert trained[chosen.interval_steps] > 0.99 * max(trained.values()) > 1.1 * trained[8]
    [saving], [never] = runs.runs(chosen), runs.runs(Setting(chosen.system, 10**6))
    assert never.samples > saving.samples


@pytest.mark.parametrize("at_s", [2500, 5000, 7500])
def test_an_interval_that_one_failure_spares_by_luck_is_not_chosen(at_s):
    # At 5000 s, 480 steps have just been saved, which train a fifth less than the best by a failure at any instant.
    runs = runs_of(failing(at_s), interval=60)
    chosen = choose_setting(runs, AUTO)
    trained = trained_with_one_failure(runs, chosen)
    assert trained[chosen.interval_steps] > 0.97 * max(trained.values())


def test_an_interval_that_no_failure_has_tested_is_never_shortened():
    # With one failure, some 60 steps would be best; without one, 300 train more.
    runs = runs_of(failing(), interval=300)
    assert choose_setting(runs, AUTO).interval_steps == 300


def test_young_s_interval_on_several_traces_is_that_of_all_failures_in_all_the_time():
    # Four failures and two in 8000 s each: a failure in 16,000 / 6 s, and the interval goes with its root.
    rare, often = failing(2000, 6000), failing(1500, 3900, 6100, 7900)
    steps = [choose_setting(runs_of(*traces), None).interval_steps for traces in ([rare], [often], [rare, often])]
    # Both are whole numbers of steps, of 31 or more: half a step is 1.6 %.
    assert steps[0] / steps[1] == pytest.approx(2**0.5, rel=0.032)
    assert steps[2] / steps[1] == pytest.approx((4 / 3) ** 0.5, rel=0.032)


def test_the_failures_that_judge_do_not_choose_the_settings():
    settings = EXPERIMENT.settings(small=True)
    cell = next(cell for cell in ARENA.cells_of(settings, "16 B, 12 nodes") if cell["system"] == "oobleck")
    cell["base"]["system"] = cell["system"] = "checkpoint"
    one, other = (ARENA.train(cell | {"seeds": seeds})["rows"] for seeds in ([0], [1, 0]))
    assert one[0]["samples"] != other[0]["samples"]
    assert one[0] == other[1]
    assert {row["setting"] for row in other} == {one[0]["setting"]}


def test_a_best_setting_is_judged_on_failures_that_did_not_choose_it():
    recipe = change_recipe(None, {"num_nodes": 10, "mtbf_s": 6000.0, "repair_s": 60.0, "duration_s": 3000.0})
    settings = {"routing": "uniform", "trace": recipe, "system": "checkpoint"}
    scenario = resolve(settings)
    draws = other_draws(scenario)
    times = {tuple(one.load_trace().time_s) for one in (scenario, *draws)}
    assert len(times) == 1 + len(draws) == 3
    others = other_draws(resolve(settings | {"seed": 1}))
    assert {tuple(one.load_trace().time_s) for one in others}.isdisjoint(times)
    result = simulate_scenarios([resolve(settings | {"interval": "auto"})])
    chosen = choose_setting(ScenarioRuns(draws), AUTO)
    assert result.runs[0].interval_steps == chosen.interval_steps
    assert result.notes[0].startswith("the best setting is chosen on 2 other draws of the failures")


def test_failures_that_have_no_other_draw_choose_and_judge_and_a_note_says_so():
    told = {
        failing(1500, 3900): "the failures that choose the best setting also judge it",
        "fail-every-5min": "the best setting is chosen on failures at the same times, which flatters it",
    }
    for fixed, note in told.items():
        notes = simulate(fixed, systems=["checkpoint"], routing="uniform", interval="auto", duration=600.0).notes
        assert notes[0].startswith(note)


def test_an_interval_that_no_failure_has_tested_is_named_in_a_note():
    # Five nodes go one after the other, and expert replicas survive each; plain checkpoints do not.
    settings = {"routing": "uniform", "interval": "auto", "max_nodes": 10, "cap": "members"}
    result = simulate("fail-every-5min", systems=["lazarus", "checkpoint"], **settings)
    assert result.runs[0].counts["restarts"] == 0
    untested = [note for note in result.notes if "no failure lost steps since a checkpoint" in note]
    assert [note.split(":")[0] for note in untested] == ["lazarus"]


@pytest.mark.parametrize(
    ("condition", "repair_h", "hours"),
    [
        # Five failures, or two repairs where these take longer.
        ({"between_h": 24, "batch": 1}, 4, 120),
        ({"between_h": 1 / 6, "batch": 4}, 4, 8),
        ({"between_h": 1 / 6, "batch": 1}, 0.25, 5 / 6),
        # 5 of 1,000 node-days on 100 nodes are one every other day.
        ({"per_1000_node_days": 5, "batch": 1}, 4, 240),
    ],
)
def test_a_run_has_failures_and_repairs_enough(condition, repair_h, hours):
    settings = EXPERIMENT.settings()
    cell = {name: settings[name] for name in ARENA.SHARED} | {"condition": condition, "nodes": 100}
    assert ARENA.failures_of(cell | {"repair_h": repair_h}, 0).duration_s == pytest.approx(hours * 3600)
