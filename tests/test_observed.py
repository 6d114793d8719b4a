"""``lazsim compare``: logs of steps, taken apart and held against simulations of the same failures."""

import json
import re
from dataclasses import replace

import pytest

import lazsim as package
from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems import SYSTEMS
from lazsim.errors import LazsimError
from lazsim.output.compare import observed_parts
from lazsim.scenario import resolve
from lazsim.study.observed import ObservedComparison, Offer, Phases, observed_phases, offer, simulated_phases
from lazsim.study.step_log import Mark, read_log
from lazsim.trace import build_trace, write_trace
from lazsim.trace.table import Event
from tests.jobs import EvenLoads, costs, trace

STAMPS = ("2025-03-01 00:00:10", "2025-03-01 00:00:20", "2025-03-01 00:00:40")
COUNTS = (1, 2, 4)
MEGATRON = (
    " [{}] iteration {:8d}/  500000 | consumed samples: 25600 | elapsed time per iteration (ms): 10.0 | loss: 9.1"
)
TORCHTITAN = (
    "[rank0]:[titan] {},000 - root - INFO - \x1b[31mstep: {:2d}  \x1b[32mloss: 12.2  \x1b[34mtps: 1,000\x1b[39m"
)
MLPERF = ':::MLLOG {{"time_ms": {}, "key": "train_loss", "metadata": {{"samples_count": {}}}}}'


def log_of(form, times):
    return "".join(f"{form.format(*one)}\n" for one in zip(times, COUNTS, strict=True))


STEPS = ((10, 1), (20, 2), (40, 4))
"""When which step of most logs was done."""

LOGS = {
    "csv": ("steps", "time,loss,step\n10,3.1,1\n20,3.0,2\n40,2.9,4\n"),
    "csv with dates": ("samples", "timestamp,samples\n" + log_of("{},{}", STAMPS)),
    "quoted csv": ("steps", 'time,note,step\n10,"saved, then rested",1\n20,"a ""b""",2\n40,,4\n'),
    "csv with semicolons": ("steps", "step; time\n1; 10\n2; 20\n4; 40\n"),
    "lines of json, not csv": (
        "steps",
        "".join(f'{{"time": {t}, "step": {n}}}\n' for t, n in ((10, 1), (20, 2), (40, 4))),
    ),
    "megatron": ("steps", log_of(MEGATRON, STAMPS)),
    "megatron without dates, as kubectl logs --timestamps dates it": (
        "steps",
        log_of(
            "{}.123456789Z  iteration {:8d}/  500000 | consumed samples: 25600 |",
            [one.replace(" ", "T") for one in STAMPS],
        ),
    ),
    "torchtitan": ("steps", log_of(TORCHTITAN, STAMPS)),
    "deepspeed": (
        "steps",
        log_of(
            "[{},12] [INFO] [logging.py:96:log_dist] [Rank 0] step={}, skipped=0, lr=[0.0001], mom=[[0.9, 0.95]]",
            STAMPS,
        ),
    ),
    "nemo": (
        "steps",
        log_of("[NeMo I {} nemo_logging:381] Training epoch 0, iteration 3/99 | global_step: {} |", STAMPS),
    ),
    "csv of TensorBoard": ("steps", "Wall time,Step,Value\n" + log_of("{},{},2.5", (10, 20, 40))),
    "csv of W&B": ("steps", '"_timestamp","_step","loss"\n' + log_of('"{}","{}","2.5"', (10, 20, 40))),
    "json lines, not csv, of W&B, with NaN": (
        "steps",
        "".join(
            json.dumps({"loss": float("nan"), "_step": n, "_timestamp": t, "lr": -float("inf")}) + "\n"
            for t, n in STEPS
        ),
    ),
    "csv of W&B, with a column that only an evaluation filled": (
        "steps",
        "_step,_timestamp,train/global_step\n" + "".join(f"{n},{t},{'' if n < 4 else 900}\n" for t, n in STEPS),
    ),
    "csv-like JSON of TensorBoard": (
        "steps",
        json.dumps([[1_700_000_000.25 + t, n, 2.5 / n] for t, n in STEPS]),
    ),
    "csv of W&B from Lightning": (
        "steps",
        "_step,_timestamp,trainer/global_step\n" + "".join(f"{at},{t},{n}\n" for at, (t, n) in enumerate(STEPS)),
    ),
    "csv of a chart of W&B": (
        "steps",
        '"Relative Time (Process)","run-7 - _step","run-7 - _step__MIN","run-7 - _step__MAX"\n'
        + "".join(f'"{t}","{n}","0","99"\n' for t, n in STEPS),
    ),
    "csv of a chart of W&B over the steps": (
        "steps",
        '"train/global_step","run-7 - _timestamp","run-7 - _timestamp__MIN"\n'
        + "".join(f'"{n}","{1_700_000_000.5 + t}","0"\n' for t, n in STEPS),
    ),
    "csv with lengths of time": ("steps", "elapsed,step\n" + "".join(f"23:59:{t},{n}\n" for t, n in STEPS)),
    "csv with slashes in dates": ("steps", "time,step\n" + log_of("{},{}", [one.replace("-", "/") for one in STAMPS])),
    "csv of Neptune without a header": (
        "steps",
        "".join(f"{n}.0,{1_700_000_000_000 + 1000 * t}.0,2.5\n" for t, n in STEPS),
    ),
    "csv of a metric of MLflow": (
        "steps",
        "run_id,key,value,timestamp,step\n"
        + "".join(f"ab12,loss,2.5,{1_700_000_000_000 + 1000 * t},{n}\n" for t, n in STEPS),
    ),
    "csv-like file of a metric in mlruns": (
        "steps",
        "".join(f"{1_700_000_000_000 + 1000 * t} 2.5 {n}\n" for t, n in STEPS),
    ),
    "csv of Neptune": (
        "steps",
        "step,timestamp,value\n" + "".join(f"{n}.0,{1_700_000_000_000 + 1000 * t},2.5\n" for t, n in STEPS),
    ),
    "json, not csv, of Comet": (
        "steps",
        json.dumps([{"metricName": "loss", "timestamp": 1_700_000_000_000 + 1000 * t, "step": n} for t, n in STEPS]),
    ),
    "mlperf": ("samples", log_of(MLPERF, (10_000, 20_000, 40_000))),
}


@pytest.mark.parametrize("kind", LOGS)
def test_logs_of_every_kind_tell_the_same_steps(kind, tmp_path):
    unit, text = LOGS[kind]
    path = tmp_path / "log"
    path.write_text(f"starting up\n{text}" if "csv" not in kind else text)
    log = read_log(path)
    marks = log.marks
    assert log.unit == unit
    assert [(one.time_s - marks[0].time_s, one.done) for one in marks] == [(0, 1), (10, 2), (30, 4)]


def test_a_pause_is_a_stop_and_a_step_back_is_lost_work(tmp_path):
    # Lines each 10 steps of 2 s. From step 30 to the line of step 40 takes 100 s: 80 s too long. Back from step 60 to
    # the line of step 50, the first after the checkpoint at 40: 20 steps of 2 s are lost, and of 120 s all but 20 are
    # a stop.
    lines = [(0, 0), (20, 10), (40, 20), (60, 30), (160, 40), (180, 50), (200, 60), (320, 50), (340, 60), (360, 70)]
    path = tmp_path / "log.csv"
    path.write_text("time,step\n" + "".join(f"{time},{step}\n" for time, step in lines))
    found = observed_phases(read_log(path).marks)
    assert (found.wall_s, found.stopped_s, found.num_stops, found.stop_s) == (360, 80 + 100, 2, 90)
    assert (found.lost_s, found.training_s, found.done) == (40, 140, 70)


def test_saves_that_stop_training_at_every_so_many_steps_are_no_stops():
    # A step a second, and a save of 14 s after each 50 steps. At step 230 the job stands for 120 s and goes back to the
    # save at 200: 30 steps are lost, of which the first line after the stop cannot tell the stop from one step.
    marks, time_s = [Mark(0, 0.0, 0)], 0.0
    for step in (*range(1, 231), *range(201, 401)):
        time_s += 1.0 + (120.0 if step == 201 and marks[-1].done == 230 else 0.0)
        time_s += 14.0 if step % 50 == 1 and step > 1 and marks[-1].done == step - 1 else 0.0
        marks.append(Mark(0, time_s, step))
    found = observed_phases(marks)
    assert (found.num_stops, found.stop_s, found.lost_s, found.done) == (1, 120.0, 30.0, 400)
    # 400 steps that were kept, and saves after 50, 100, 150, 200, 250, 300 and 350 steps.
    assert found.training_s == 400 + 7 * 14


@pytest.mark.parametrize(("form", "evaluated"), [
    (TORCHTITAN, "[titan] {},000 - root - INFO - \x1b[36mvalidate step: {:2d}  loss: 12.1"),
    (MLPERF, ':::MLLOG {{"time_ms": {}, "key": "eval_accuracy", "metadata": {{"samples_count": {}}}}}'),
])  # fmt: skip
def test_lines_of_evaluations_tell_of_no_step(tmp_path, form, evaluated):
    # Steps of 1 s, and an evaluation of 20 s after each ten.
    def stamp(now_s):
        return f"2025-03-01 00:{now_s // 60:02d}:{now_s % 60:02d}" if form is TORCHTITAN else now_s * 1000

    lines, now_s = [], 0
    for step in range(1, 101):
        now_s += 1
        lines.append(form.format(stamp(now_s), step))
        if step % 10 == 0:
            now_s += 20
            lines.append(evaluated.format(stamp(now_s), step))
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    marks = read_log(tmp_path / "log").marks
    assert len(marks) == 100
    assert observed_phases(marks).num_stops == 0


def test_saves_are_told_from_stops_while_batches_grow():
    # Batches of 32, 48 and 64 samples at 32 a second, a save of 20 s after each 50 steps, and a stop of 120 s.
    marks, time_s, samples = [], 0.0, 0
    for step in range(1, 401):
        batch = 32 if step < 100 else 48 if step < 250 else 64
        samples += batch
        time_s += batch / 32 + 20.0 * (step % 50 == 1 < step) + 120.0 * (step == 230)
        marks.append(Mark(0, time_s, samples))
    found = observed_phases(marks)
    assert (found.num_stops, found.stop_s) == (1, 120.0)


def test_counts_that_are_written_again_while_a_job_stands_are_one_stop():
    # Sampled each 10 s, a step takes 30 s. At step 20 it stands from 600 to 900 s, and at the end for 300 s.
    steps = [*(t // 30 for t in range(0, 610, 10)), *[20] * 30, *(t // 30 + 20 for t in range(0, 310, 10)), *[30] * 30]
    found = observed_phases([Mark(0, 10.0 * at, step) for at, step in enumerate(steps)])
    assert (found.num_stops, found.wall_s, found.training_s + found.stopped_s) == (2, 1510, 1510)
    assert found.stop_s == pytest.approx(300, abs=20)


RANKS = {
    "torchrun": "[rank{rank}]:[titan] 2025-03-01 {time} - root - INFO - step: {step:2d}  loss: 12.2\n",
    "srun --label": "{rank}: [2025-03-01 {time}] iteration {step:8d}/ 500 | consumed samples: 1 |\n",
    "pdsh": "gpu-0{rank}: [2025-03-01 {time}] iteration {step:8d}/ 500 | consumed samples: 1 |\n",
    "torchrun --role": "[default{rank}]:[titan] 2025-03-01 {time} - root - INFO - step: {step:2d}  loss: 12.2\n",
    "mpirun --tag-output": "[1,{rank}]<stdout>: [2025-03-01 {time}] iteration {step:8d}/ 500 | consumed samples: 1 |\n",
    "kubectl logs --prefix": "[pod/job-{rank}/torch] [2025-03-01 {time}] iteration {step:8d}/ 500 | lm loss: 2 |\n",
    "pdsh, with ranks": "gpu-01: [2025-03-01 {time},012] [INFO] [Rank {rank}] step={step}, skipped=0\n",
    "DeepSpeed": "[2025-03-01 {time},012] [INFO] [logging.py:96:log_dist] [Rank {rank}] step={step}, skipped=0\n",
    "a column": "2025-03-01 {time},{step},{rank}\n",
}


@pytest.mark.parametrize("kind", RANKS)
def test_of_ranks_that_write_into_one_log_one_counts(tmp_path, kind):
    # A step a second; the lines of the second rank come two steps late, so that each second line steps back.
    lines = [
        RANKS[kind].format(rank=rank, time=f"00:0{s // 60}:{s % 60:02d}", step=s - 2 * rank)
        for s in range(3, 61)
        for rank in (0, 1)
    ]
    (tmp_path / "log").write_text("time,step,rank\n" * (kind == "a column") + "".join(lines))
    log = read_log(tmp_path / "log")
    found = observed_phases(log.marks)
    assert (found.num_stops, found.lost_s, found.wall_s, found.done) == (0, 0, 57, 57)
    assert len(log.notes) == 1
    assert log.notes[0].startswith("the log has lines of 2 ranks or metrics: those of ")


def test_hosts_whose_names_differ_in_signs_alone_are_two(tmp_path):
    # The second host tells of each step two lines later.
    lines = [(host, s, s - 2 * late) for s in range(3, 60) for late, host in enumerate(("r1-11", "r11-1"))]
    text = "".join(f"{host}: [2025-03-01 00:00:{s:02d}] iteration {step:8d}/ 500 |\n" for host, s, step in lines)
    (tmp_path / "log").write_text(text)
    log = read_log(tmp_path / "log")
    assert [one.done for one in log.marks] == [*range(3, 60)]
    assert log.notes == ("the log has lines of 2 ranks or metrics: those of r1-11 count",)


@pytest.mark.parametrize("line", [
    "{line}:[2025-03-01 00:00:{step:02d}] iteration {step:8d}/ 500 | lm loss: 2 |\n",
    "train.log:{line}:[2025-03-01 00:00:{step:02d}] iteration {step:8d}/ 500 | lm loss: 2 |\n",
    "{line}: [2025-03-01 00:00:{step:02d}] iteration {step:8d}/ 500 | lm loss: 2 |\n",
    "[1,0]<std{stream}>:[2025-03-01 00:00:{step:02d}] iteration {step:8d}/ 500 | lm loss: 2 |\n",
    "[rank0]:[titan] 2025-03-01 00:00:{step:02d} - root - INFO - slowest rank {line} step: {step:2d}  loss: 12.2\n",
], ids=["grep -n", "grep -Hn", "nl", "both streams", "another rank"])  # fmt: skip
def test_what_changes_from_line_to_line_is_not_taken_for_who_wrote_it(tmp_path, line):
    lines = [line.format(line=7 + 5 * step, step=step, stream="err" if step % 2 else "out") for step in range(1, 60)]
    (tmp_path / "log").write_text("".join(lines))
    log = read_log(tmp_path / "log")
    assert ([one.done for one in log.marks], log.notes) == ([*range(1, 60)], ())


@pytest.mark.parametrize("late_s", [0.1, 19.0, 20.0])
@pytest.mark.parametrize("lines_each", [1, 15])
def test_ranks_that_nothing_tells_apart_show_the_stop_of_one_of_them(tmp_path, late_s, lines_each):
    # Ten steps of 2 s a line, a save of 30 s after each 100 steps. At step 455 the job stands for 300 s, and goes back
    # to step 400. The second of two ranks tells of each step later, by up to a line. Where buffers are written when
    # they are full, many lines of a rank come together.
    lines, now_s = [], 0.0
    for first, last in ((0, 455), (400, 1000)):
        for step in range(first + 1, last + 1):
            now_s += 2
            lines += [(now_s + late_s * rank, rank, step) for rank in (0, 1) if step % 10 == 0]
            now_s += 30 * (step % 100 == 0)
        now_s += 300
    lines.sort()
    ranks = [[line for line in lines if line[1] == rank] for rank in (0, 1)]
    if lines_each > 1:
        starts = range(0, len(ranks[0]), lines_each)
        lines = [line for at in starts for rank in ranks for line in rank[at : at + lines_each]]
    text = "".join(f"{1_700_000_000 + time_s},{step}\n" for time_s, _, step in lines)
    (tmp_path / "log.csv").write_text(f"time,step\n{text}")
    log = read_log(tmp_path / "log.csv")
    found = observed_phases(log.marks)
    # A log cannot tell the five steps after the line of step 450 from the stop.
    assert (found.num_stops, found.done) == (1, 990)
    assert (found.stop_s, found.lost_s, found.step_s) == (pytest.approx(310, abs=late_s), 100, pytest.approx(2))
    # Lines of one time are put in the order of their counts.
    told = ["lines are not in"] if lines_each > 1 else ["lines of ranks behind"] if late_s == 20 else []
    assert [re.match("|".join(told), note)[0] for note in log.notes] == told


def test_of_several_columns_with_a_count_the_one_that_counts_is_told(tmp_path):
    (tmp_path / "log.csv").write_text("time,a - _step,b - _step\n1,1,\n2,2,1\n3,3,2\n4,,3\n")
    log = read_log(tmp_path / "log.csv")
    assert [one.done for one in log.marks] == [1, 2, 3]
    assert log.notes[0] == "of the columns a - _step, b - _step, a - _step counts"


def test_lines_of_json_that_a_kill_tore_and_those_of_others_do_not_count(tmp_path):
    rows = [json.dumps({"time": 10 * at, "step": at}) for at in range(1, 20)]
    rows[10] = rows[10][:-5] + rows[11]
    others = [json.dumps({"config": {"lr": 1e-4}}), *rows, json.dumps({"time": 999, "eval/loss": 2.5}), "done"]
    (tmp_path / "log.jsonl").write_text("\n".join(others) + "\n")
    log = read_log(tmp_path / "log.jsonl")
    assert [one.done for one in log.marks] == [*range(1, 11), *range(12, 20)]
    assert log.notes == (
        "lines that cannot be read, which do not count: 2",
        "rows without a count of steps, which do not count: 2",
    )


# A line in 10 s; the job stops at step 100 for 300 s, and begins again at step 81.
RUNS = ([(10 * at, at) for at in range(101)], [(1300 + 10 * at, 81 + at) for at in range(101)])


def dated(tmp_path, lines):
    lines = [f"2025-03-01 {10 + at // 3600:02}:{at // 60 % 60:02}:{at % 60:02},{done}\n" for at, done in lines]
    (tmp_path / "log.csv").write_text("time,step\n" + "".join(lines))
    return tmp_path / "log.csv"


@pytest.mark.parametrize("lines", [(RUNS[0] + RUNS[1])[::-1], RUNS[1] + RUNS[0]], ids=["newest first", "runs"])
def test_lines_with_the_newest_first_are_read_from_the_oldest(tmp_path, lines):
    log = read_log(dated(tmp_path, lines))
    assert log.marks == sorted(log.marks, key=lambda one: one.time_s)
    assert log.notes == ("lines are not in the order of their times, and count by these",)
    found = observed_phases(log.marks)
    # 20 steps are done again, of 10 s each.
    assert (found.num_stops, found.stop_s, found.lost_s, found.done) == (1, 290, 200, 181)


@pytest.mark.parametrize("back_s", [330, 600, 1300, 2400])
@pytest.mark.parametrize("again", [0, 1])
def test_a_clock_that_was_set_back_while_a_job_stood_is_refused(tmp_path, back_s, again):
    # A restart whose lines are mixed, by time, with those before it; also where the count does not step back.
    later = [(1300 + at - back_s, done) for at, done in ((10 * at, (81 if again else 101) + at) for at in range(101))]
    with pytest.raises(LazsimError, match="line 103: its time is before that of the line above; sort the log"):
        read_log(dated(tmp_path, RUNS[0] + later))


def test_the_step_of_a_tracker_that_never_steps_back_is_told(tmp_path):
    told = "the _step of W&B counts calls and never steps back: steps done again show in a global_step alone"
    for header in ("_step,_timestamp", "run-7 - _step,run-7 - _timestamp"):
        (tmp_path / "log.csv").write_text(f"{header}\n" + "".join(f"{at},{1.7e9 + 10 * at}\n" for at in range(5)))
        assert read_log(tmp_path / "log.csv").notes == (told,)
    (tmp_path / "log.csv").write_text("step,time\n" + "".join(f"{at},{10 * at}\n" for at in range(5)))
    assert read_log(tmp_path / "log.csv").notes == ()


def test_the_step_of_the_job_counts_also_where_few_rows_have_it(tmp_path):
    # A step each 10 s; every fourth row has the step of an evaluation, as pandas writes numbers beside gaps.
    rows = [(at, 1.7e9 + 10 * at, f"{at}.0" if at % 4 == 0 else "") for at in range(20)]
    (tmp_path / "log.csv").write_text("_step,_timestamp,global_step\n" + "".join(f"{s},{t},{g}\n" for s, t, g in rows))
    log = read_log(tmp_path / "log.csv")
    assert [one.done for one in log.marks] == [0, 4, 8, 12, 16]
    told = [
        "of the columns _step, global_step, global_step counts",
        "rows without a count of steps, which do not count: 15",
    ]
    assert [*log.notes] == told


@pytest.mark.parametrize("line", ["{level}:titan:{date} step: {step}\n", "{level}: {date} step: {step}\n"])
def test_lines_of_several_levels_are_of_one_rank(tmp_path, line):
    # A warning at every seventh step, and a restart at step 20, which does three steps again.
    steps = [*range(20), *range(17, 40)]
    dates = [f"2025-03-01 00:{at:02d}:{10 * (at >= 20)}0" for at in range(len(steps))]
    levels = ["WARNING" if step % 7 == 3 else "INFO" for step in steps]
    parts = zip(levels, dates, steps, strict=True)
    (tmp_path / "log").write_text(
        "".join(line.format(level=level, date=date, step=step) for level, date, step in parts)
    )
    log = read_log(tmp_path / "log")
    assert ([one.done for one in log.marks], log.notes) == (steps, ())


@pytest.mark.parametrize("late", [1, 2, 5, 12])
@pytest.mark.parametrize("every", [1, 10])
def test_ranks_behind_another_one_do_no_step_again_however_late_they_are(tmp_path, late, every):
    # A step each 10 s; the second rank tells of each, or of each tenth, some steps and a half later.
    first = [(10 * step, step) for step in range(100)]
    second = [(10 * step + 10 * late + 5, step) for step in range(0, 100 - late, every)]
    rows = "".join(f"{at},{step}\n" for at, step in sorted([*first, *second]))
    (tmp_path / "log.csv").write_text(f"time,step\n{rows}")
    log = read_log(tmp_path / "log.csv")
    found = observed_phases(log.marks)
    assert (found.num_stops, found.lost_s, found.step_s, found.done) == (0, 0, 10, 99)
    assert log.notes == (f"lines of ranks behind another one, which do not count: {len(second)}",)


@pytest.mark.parametrize("late", [1, 4, 9])
@pytest.mark.parametrize("stands_s", [0, 600])
def test_a_restart_counts_beside_ranks_that_are_as_far_behind(tmp_path, late, stands_s):
    # A step each 10 s. The job stops after step 49 for 300 s, and does four steps again; or it only stands still.
    rows, again = [], 0 if stands_s else 4
    for behind in (0, 10 * late + 5):
        rows += [(10 * step + behind, step) for step in range(50 - (late if behind and again else 0))]
        starts = 490 + stands_s + (300 if again else 0)
        rows += [(starts + 10 * at + behind, 50 - again + at) for at in range(1 if stands_s else 0, 60)]
    (tmp_path / "log.csv").write_text("time,step\n" + "".join(f"{at},{step}\n" for at, step in sorted(rows)))
    found = observed_phases(read_log(tmp_path / "log.csv").marks)
    assert (found.num_stops, found.lost_s) == (1, 10 * again)


def test_stamps_that_are_coarser_than_steps_leave_steps_that_are_done_again(tmp_path):
    # A step each second in whole minutes: five restarts, each in one minute, do six steps again each.
    steps = [
        step for start in range(0, 300, 60) for step in (*range(start, start + 25), *range(start + 19, start + 60))
    ]
    rows = [f"{60 * (step // 60)},{step}\n" for step in steps]
    (tmp_path / "log.csv").write_text(f"time,step\n{''.join(rows)}")
    assert [one.done for one in read_log(tmp_path / "log.csv").marks] == steps


def test_ranks_a_line_behind_do_no_step_again_where_stamps_are_coarser_than_steps(tmp_path):
    # Five steps in each second; the second rank writes each a step and a half later.
    rows = sorted([(at, at) for at in range(100)] + [(at + 1.5, at) for at in range(100)])
    (tmp_path / "log.csv").write_text("time,step\n" + "".join(f"{at // 5:.0f},{step}\n" for at, step in rows))
    found = observed_phases(read_log(tmp_path / "log.csv").marks)
    assert (found.num_stops, found.lost_s, found.done) == (0, 0, 99)


def test_bytes_that_are_no_text_leave_the_lines_of_a_log_as_they_are(tmp_path):
    lines = [f"[2025-03-01 00:00:{at:02d}] iteration {at:8d}/ 500 |\n".encode() for at in range(9)]
    (tmp_path / "log").write_bytes(b"".join([*lines[:5], b"\0" * 4096, b"Pr\xfcfung\n", *lines[5:]]))
    assert [one.done for one in read_log(tmp_path / "log").marks] == [*range(9)]


@pytest.mark.parametrize("stop_s", [0, 300])
def test_steps_that_begin_anew_with_each_epoch_are_told(tmp_path, stop_s):
    # A real stop beside them, at step 30, changes nothing.
    times = [at + stop_s * (at > 30) for at in range(60)]
    (tmp_path / "log.csv").write_text("time,step\n" + "".join(f"{t},{at % 20}\n" for at, t in enumerate(times)))
    (note,) = read_log(tmp_path / "log.csv").notes
    assert note == "steps step back 2 times without a stop: they are no lost work if each epoch counts anew"


@pytest.mark.parametrize(("header", "second"), [
    ("time_ms,step", 1000), ("Time (min),step", 1 / 60), ("elapsed,step", 1), ("_runtime,step", 1), ("seconds,step", 1),
])  # fmt: skip
def test_a_time_has_the_unit_of_its_name_or_is_in_seconds(tmp_path, header, second):
    (tmp_path / "log.csv").write_text(f"{header}\n" + "".join(f"{at * second},{at}\n" for at in range(9)))
    assert [one.time_s for one in read_log(tmp_path / "log.csv").marks] == pytest.approx(range(9))


@pytest.mark.parametrize("header", ["_runtime,_step,_timestamp", "elapsed_ms,step,timestamp", "time,step,Wall time"])
def test_a_stamp_counts_before_what_may_be_the_time_of_a_step_or_of_one_run_of_a_job(tmp_path, header):
    # The job stands still for an hour after its fifth step, which a time since the start of its process leaves out.
    stamps_s = [1.7e9 + 10 * at + 3600 * (at > 5) for at in range(9)]
    (tmp_path / "log.csv").write_text(f"{header}\n" + "".join(f"{at % 6},{at},{s}\n" for at, s in enumerate(stamps_s)))
    assert [one.time_s for one in read_log(tmp_path / "log.csv").marks] == stamps_s


def test_rows_without_a_count_as_trackers_export_them_do_not_count_and_are_told(tmp_path):
    rows = "0,100,3\n,101.5,2\n1,102,2\nNaN,103,2\nnull,103,2\n2,104,1\n"
    (tmp_path / "log.csv").write_text(f"Step,_timestamp,loss\n{rows}")
    log = read_log(tmp_path / "log.csv")
    assert [(one.time_s, one.done) for one in log.marks] == [(100, 0), (102, 1), (104, 2)]
    assert log.notes == ("rows without a count of steps, which do not count: 3",)


@pytest.mark.parametrize(("unit", "factor"), [("ms", 1000), ("us", 10**6), ("ns", 10**9)])
def test_the_size_of_stamps_since_1970_tells_their_unit_which_is_told(tmp_path, unit, factor):
    rows = "".join(f"{(1_700_000_000 + 10 * at) * factor},{at}\n" for at in range(9))
    (tmp_path / "log.csv").write_text(f"timestamp,step\n{rows}")
    log = read_log(tmp_path / "log.csv")
    assert [one.time_s for one in log.marks] == [1_700_000_000 + 10 * at for at in range(9)]
    assert log.notes == (f"times are in {unit} since 1970, which their size tells",)


@pytest.mark.parametrize("order", ["by time", "by metric"])
def test_of_metrics_that_a_tracker_exports_together_one_counts(tmp_path, order):
    rows = [
        (f"{1_700_000_000_000 + 10_000 * at + late}", at, key)
        for key, late in (("loss", 0), ("lr", 7))
        for at in range(9)
    ]
    rows = sorted(rows) if order == "by time" else rows
    text = "".join(f"ab12,{key},0.5,{time},{at}\n" for time, at, key in rows)
    (tmp_path / "log.csv").write_text(f"run_id,key,value,timestamp,step\n{text}")
    log = read_log(tmp_path / "log.csv")
    assert [(one.time_s, one.done) for one in log.marks] == [(1.7e9 + 10 * at, at) for at in range(9)]
    assert log.notes[1] == "the log has lines of 2 ranks or metrics: those of loss count"


@pytest.mark.parametrize("column", ["run_id", "metric"])
def test_runs_of_one_job_and_values_of_a_metric_are_no_writers(tmp_path, column):
    # Three lines of each run, or of each value.
    rows = "".join(f"{at // 3},{10 * at},{at}\n" for at in range(12))
    (tmp_path / "log.csv").write_text(f"{column},time,step\n{rows}")
    log = read_log(tmp_path / "log.csv")
    assert [(one.time_s, one.done) for one in log.marks] == [(10 * at, at) for at in range(12)]
    assert log.notes == ()


@pytest.mark.parametrize(
    ("columns", "unit", "done"),
    [
        ("step,iteration", "steps", 1),
        ("iteration,step", "steps", 1),
        ("samples,_step", "samples", 1),
        ("_step,train/global_step", "steps", 2),
        ("_step,samples,global_step", "steps", 3),
    ],
)
def test_of_several_counts_the_first_counts_unless_another_is_of_the_whole_job(tmp_path, columns, unit, done):
    rows = "".join(f"{10 * at},{at},{2 * at},{3 * at}\n" for at in range(4))
    header = ",".join(["time", *columns.split(","), "loss"][:4])
    (tmp_path / "log.csv").write_text(f"{header}\n{rows}")
    log = read_log(tmp_path / "log.csv")
    assert (log.unit, log.marks[-1].done) == (unit, 3 * done)


def test_another_rank_that_writes_while_the_first_does_not_counts(tmp_path):
    hosts = ["b" if 30 <= step < 60 else "a" for step in range(100)]
    rows = [f"{10 * step},{step},{host}\n" for step, host in enumerate(hosts)]
    (tmp_path / "log.csv").write_text("time,step,host\n" + "".join(rows))
    log = read_log(tmp_path / "log.csv")
    assert (len(log.marks), log.notes) == (100, ())


def test_an_evaluation_after_the_last_step_is_none_more_than_those_before():
    # Steps of 10 s, and one of 40 s after each ten, also the last.
    marks, time_s = [], 0.0
    for step in range(1, 61):
        time_s += 10
        marks.append(Mark(0, time_s, step))
        if step % 10 == 0:
            time_s += 40
            marks.append(Mark(0, time_s, step))
    assert observed_phases(marks).num_stops == 0


@pytest.mark.parametrize(("second", "says"), [("{:.4f}", "takes 2.5 ms"), ("{}000", "takes 16.7 min")])
def test_times_that_may_not_be_seconds_are_told(lazsim, tmp_path, second, says):
    times = (at / 400 if "." in second else at for at in range(40))
    path = tmp_path / "log.csv"
    path.write_text("time,step\n" + "".join(f"{second.format(time)},{at}\n" for at, time in enumerate(times)))
    code, _, err = lazsim("compare", "--observed", path, "--trace", "fail-every-5min", "--system", "ds")
    assert (code, says in err, err.count(": the log's times are taken for seconds")) == (0, True, 1)
    # It is told before the runs, which take long.
    assert ": the log's times are taken for seconds" in err.splitlines()[0]


def test_a_few_slow_lines_in_a_row_are_stops():
    times = [*range(50), *(50 + 30 * late for late in range(3)), *range(141, 241)]
    assert observed_phases([Mark(0, float(time), step) for step, time in enumerate(times)]).num_stops == 3


BAD = {
    "no log": ("hello\nworld\n", "no log of steps; give a table"),
    "empty": ("", "no log of steps"),
    "one step": ("time,step\n1,1\n", "with 3 steps or more"),
    "time back": ("time,step\n1,1\n5,2\n4,3\n9,4\n", "line 4: its time is before"),
    "a century": ("time,step\n1,1\n2,2\n4e9,3\n", "its times span more than a century; give them in seconds"),
    "stamps of no unit": ("time,step\n174078720000,1\n174078720100,2\n174078720200,3\n", "no seconds since 1970, and"),
    "ms named as s": ("time_s,step\n1740787200000,1\n1740787201000,2\n1740787202000,3\n", "no seconds since 1970, and"),
    "s, then ms": ("time,step\n1740787200,1\n1740787201,2\n1740787202000,3\n", "span more than a century"),
    "summaries of runs of MLflow": (
        "run_id,status,start_time,metrics.loss\n" + 3 * "ab,FINISHED,2025-03-01 00:00:00,2.5\n",
        "give a table with columns time and step or samples, such as a tracker's history of one metric with its times",
    ),
    "DeepSpeed's pipelines, without a date": (
        "".join(f"steps: {at} loss: 9.1234 iter time (s): 2.000 samples/sec: 128.000\n" for at in range(1, 20)),
        "log of MLPerf, or of torchtitan, Megatron, NeMo or DeepSpeed with a date in each line",
    ),
    "a dict of Python a line": ("{'loss': 2.5, 'epoch': 0.1}\n" * 9, "no log of steps; give a table"),
    "brackets": ("[rank0] hello\n[rank1] world\n", "no log of steps; give a table"),
    "rounded": ("time,step\n1.740787e+09,1\n1.740787e+09,2\n1.740788e+09,3\n", "line 2: expected a time in seconds"),
    "thousands": (log_of(TORCHTITAN.replace("{:2d}", "1,00{}"), STAMPS), "'1,001' has a separator of thousands"),
    "newest first": ("time,step\n9,9\n8,8\n7,7\n6,6\n", "line 3: its time is before that of the line above; sort"),
    "no number": ("time,step\n1,1\n2,x\n3,3\n", "line 3: expected a count"),
    "not finite": ("time,step\n1,1\n2,inf\n3,3\n", "line 3: expected a count"),
    "no counts": ("time,step\n1,nan\n2,NaN\n3,\n", "with 3 steps or more"),
    "cut": ("time,step\n1,18\n2,19\n3,2", "line 4: the last line has no end, and steps back; leave it out"),
    "ranks without a name": (
        "time,step\n" + "".join(f"{t},{9 - t % 9}\n" for t in range(3, 21)),
        "15 of 18 lines step back, as where several ranks write into one log; keep the lines of one rank",
    ),
    "NaN": (
        "time,step\n1,1\nnan,2\n3,3\n4,4\n",
        "line 3: expected a time in seconds or a date of ISO 8601: 'nan' is no number",
    ),
    "no time": ("time,step\n1,1\nsoon,2\n3,3\n", "line 3: expected a time"),
    "day or month first": (
        "time,step\n03/01/2025 00:00:10,1\n03/01/2025 00:00:20,2\n03/01/2025 00:00:40,4\n",
        "line 2: expected a time in seconds or a date of ISO 8601: '03/01/2025 00:00:10' is no number",
    ),
    "short row": ("time,step\n1,1\n2\n3,3\n", "line 3: expected 2 columns"),
    "no progress": ("time,step\n1,1\n2,1\n3,1\n", "--observed: its steps or their times never rise"),
    "times of each step": ("time,step\n2.0,1\n2.0,2\n2.0,3\n", "--observed: its steps or their times never rise"),
    "epochs": (
        "time,step\n" + "".join(f"{at},{(at - 1) % 9}\n" for at in range(1, 20)),
        "--observed: it ends at 0 and begins at 0, so that no step is kept; give counts that do not begin anew",
    ),
    "endless mlperf": (
        ':::MLLOG {"time_ms": 1' + "0" * 400 + ', "metadata": {}}\n',
        "line 1: not a line of MLPerf's log",
    ),
    "broken mlperf": (":::MLLOG {\n", "line 1: not a line of MLPerf's log"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_log_is_one_line_and_exit_code_2(refused, tmp_path, what):
    text, says = BAD[what]
    path = tmp_path / "log.csv"
    path.write_text(text)
    assert says in refused("compare", "--observed", path, "--trace", "fail-every-5min", "--system", "ds")


def test_a_log_of_the_simulated_run_agrees_and_a_slower_stop_is_offered_as_a_constant(lazsim, answered, tmp_path):
    events = [Event(0, "add", f"n{index}") for index in range(5)] + [Event(300, "remove", "n0")]
    trace = build_trace(events, duration_s=900)
    path = tmp_path / "trace.csv"
    write_trace(trace, path)
    asked = ("--system", "lazarus", "--routing", "uniform", "--interval", "1000000")
    run = package.simulate(path, systems=["lazarus"], routing="uniform", interval="1000000").runs[0]
    (failure,) = run.failures
    stop_s = failure.trains_at_s - failure.time_s
    # The log: as many steps a second as the run made on average, a line a second, and a stop that is 30 s longer.
    pace = run.steps / (900 - stop_s)
    log, slower_s = tmp_path / "log.csv", stop_s + 30
    rows = [(t, int(pace * t)) for t in range(300)]
    rows += [(t + slower_s, int(pace * t)) for t in range(300, int(900 - slower_s))]
    log.write_text("time,step\n" + "".join(f"{time},{step}\n" for time, step in rows))
    found = answered("compare", "--observed", log, "--trace", path, *asked)
    simulated = found["simulated"]["lazarus"]
    assert found["observed"]["stop_s"] == pytest.approx(slower_s, abs=1.5)
    assert (found["observed"]["num_stops"], simulated["num_stops"], simulated["stop_s"]) == (
        1,
        1,
        pytest.approx(stop_s),
    )
    offers = {one["field"]: one["seconds"] - one["instead_of_s"] for one in found["offers"]["lazarus"]}
    # Survivors reconfigured: it is detection or the rebuild that takes longer.
    assert offers == {"detect_s": pytest.approx(30, abs=1.5), "rebuild_s": pytest.approx(30, abs=1.5)}
    _, table, _ = lazsim("compare", "--observed", log, "--trace", path, *asked)
    assert "nothing was changed" in table


def test_a_duration_takes_the_beginning_of_the_log_too_and_is_none_beyond_its_end(answered, refused, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("time,step\n" + "".join(f"{2 * step},{step}\n" for step in range(301)))
    asked = ("compare", "--observed", log, "--trace", "fail-every-40min", "--system", "ds", "--routing", "uniform")
    # A step each 2 s: 150 of the 300 are done after 5 of the 10 minutes.
    found = answered(*asked, "--duration", "5min")
    assert (found["observed"]["wall_s"], found["observed"]["done"]) == (300, 150)
    assert found["simulated"]["ds"]["wall_s"] == 300
    # The last of its lines within the time ends both: a simulation that went on would do more.
    found = answered(*asked, "--duration", "301s")
    assert found["observed"]["wall_s"] == found["simulated"]["ds"]["wall_s"] == 300
    told = "--duration 11 min: the log spans 600 s; give no more, or leave it out"
    assert refused(*asked, "--duration", "11min") == told
    told = "--duration 1 s: --observed: its steps or their times never rise"
    assert refused(*asked, "--duration", "1s").startswith(told)


def test_a_constant_that_a_system_does_not_wait_for_is_not_offered(lazsim, answered, tmp_path):
    # Replicas go on after the time-out of their quorum, whatever detection takes; only a loss of all is a restart.
    events = [Event(0, "add", f"n{index}") for index in range(8)] + [Event(300, "remove", "n0")]
    path, log = tmp_path / "trace.csv", tmp_path / "log.csv"
    write_trace(build_trace(events, duration_s=900), path)
    times = [*range(300), *range(360, 900)]
    log.write_text("time,step\n" + "".join(f"{time},{step}\n" for step, time in enumerate(times)))
    asked = ("compare", "--observed", log, "--trace", path, "--system", "replica-drop", "--routing", "uniform")
    found = answered(*asked)
    assert (found["observed"]["num_stops"], found["simulated"]["replica-drop"]["num_stops"]) == (1, 1)
    assert found["offers"] == {"replica-drop": []}
    assert "no constant found would alone make the median stop that of the log: replica-drop\n" in lazsim(*asked)[1]


def test_a_layout_that_is_chosen_is_told_to_be_none_of_the_log(lazsim, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("time,step\n" + "".join(f"{time},{time}\n" for time in range(0, 100, 10)))
    asked = ("compare", "--observed", log, "--trace", "fail-every-5min", "--system", "checkpoint", "--interval", 100)
    own = ("--model", "olmoe-1b-7b", "--cluster", "h100x16")
    told = "note: steps and stops are those of a layout that lazsim chose, not the log's: give that with --job\n"
    assert told in lazsim(*asked, *own)[2]
    assert told not in lazsim(*asked, *own, "--job", "testbed-a")[2]


@pytest.mark.parametrize("system", ["checkpoint", "lazarus"])
def test_a_simulated_job_also_stops_to_let_nodes_join_and_no_constant_of_some_stops_alone_is_offered(system):
    events = [Event(0, "add", f"n{index}") for index in range(4)]
    events += [Event(400, "remove", "n0"), Event(401, "remove", "n1"), Event(900, "add", "n0"), Event(900, "add", "n1")]
    trace = build_trace(events, duration_s=1800)
    run = package.simulate(trace, systems=[system], routing="uniform", interval=100).runs[0]
    phases = simulated_phases(run, "steps")
    # The second node goes while the job detects the loss of the first: one stop. The other is for those that join.
    assert phases.num_stops == 2
    assert 2 * phases.stop_s == pytest.approx(phases.stopped_s)
    # Nodes join without detection: more of it moves the median by half as much.
    observed = replace(phases, stop_s=phases.stop_s + 30)
    offered = [one.field for one in offer(observed, phases, run, resolve({}).cluster.recovery)]
    assert offered == ["restart_base_s" if system == "checkpoint" else "rebuild_s"]


def test_a_stop_that_does_not_end_counts_and_has_no_length():
    # The failure at 880 s takes 15 s to detect and more than the other 5 s to restart.
    events = [Event(0, "add", f"n{index}") for index in range(4)] + [Event(880, "remove", "n0")]
    run = package.simulate(build_trace(events, duration_s=900), systems=["ds"], routing="uniform").runs[0]
    phases = simulated_phases(run, "steps")
    assert (phases.num_stops, phases.stop_s, phases.stopped_s) == (1, None, pytest.approx(20))
    observed = observed_phases([Mark(0, float(step), step) for step in range(881)] + [Mark(0, 900.0, 880)])
    assert (observed.num_stops, observed.stop_s, observed.stopped_s) == (1, None, pytest.approx(20, abs=1))
    assert offer(observed, phases, run, resolve({}).cluster.recovery) == ()


@pytest.mark.parametrize("times", [1, 2])
def test_what_a_stop_does_twice_may_take_longer_once_or_each_time(times):
    # The second node goes during the restart after the first.
    events = [Event(0, "add", f"n{index}") for index in range(10)]
    events += [Event(300, "remove", "n0"), Event(325, "remove", "n1")]
    run = package.simulate(build_trace(events, duration_s=900), systems=["ds"], routing="uniform").runs[0]
    phases = simulated_phases(run, "steps")
    assert (phases.num_stops, [span.what for span in run.phases].count("restart")) == (1, 2)
    observed, recovery = replace(phases, stop_s=phases.stop_s + 30), resolve({}).cluster.recovery
    offered = [(one.field, one.seconds - one.instead_of_s) for one in offer(observed, phases, run, recovery)]
    assert ("restart_base_s", pytest.approx(30 / times)) in offered


def test_a_simulated_job_stops_as_often_where_short_spans_of_a_long_run_are_not_kept(monkeypatch):
    monkeypatch.setattr("lazsim.engine.log.MOST_SPANS", 20)
    changes = [(500.3 * index, kind, "d") for index in range(1, 6) for kind in ("remove", "add")]
    events = trace((0, "add", "a b c d"), *changes, duration_s=3000)
    run = simulate_system(events, SYSTEMS["ds"], costs(), EvenLoads(2, 4), interval_steps=5)
    # Of 250 spans of 10 s or less, few are left; each of 5 stops is 15 s of detection and 40 s of a restart.
    phases = simulated_phases(run, "steps")
    assert (len(run.phases), phases.num_stops, phases.stop_s) == (20, 5, pytest.approx(55.0))


@pytest.mark.parametrize(("seconds", "written"), [(2051.6, "2050"), (52.43, "52.4"), (0.0312, "0.0312")])
def test_a_constant_on_offer_is_written_as_people_write_it_into_the_file_of_a_cluster(seconds, written):
    phases = Phases(900.0, 800.0, 0.0, 100.0, 1, 100.0, 800.0, 1.0)
    offers = {"ds": (Offer("detect_s", seconds, 1200.0),)}
    *_, (_, line) = observed_parts(ObservedComparison("steps", phases, offers, {}, {"ds": phases}, ()))
    assert line == f"ds: `cluster.recovery.detect_s` = {written} instead of 1200 s"


def test_dates_of_a_log_and_of_a_trace_are_told_to_move_neither(lazsim, tmp_path):
    log, trace = tmp_path / "log.csv", tmp_path / "trace.csv"
    log.write_text("time,step\n" + "".join(f"2026-04-01 00:{minute:02}:00,{60 * minute}\n" for minute in range(60)))
    trace.write_text(
        "time,event,node\n" + "".join(f"2026-03-01,up,n{n}\n" for n in range(4)) + "2026-03-01 01:00,down,n3\n"
    )
    code, _, err = lazsim("compare", "--observed", log, "--trace", trace, "--system", "ds", "--model", "gpt-s")
    assert code == 0
    assert (
        "--trace is taken to begin with the first line of the log, whatever the dates in both; --start moves it" in err
    )


def test_a_log_that_stops_at_other_times_than_the_trace_is_told_of(lazsim, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("time,step\n" + "".join(f"{time},{time}\n" for time in range(0, 700, 10)))
    code, _, err = lazsim("compare", "--observed", path, "--trace", "fail-every-5min", "--system", "lazarus")
    assert code == 0
    # The recipe loses a node each 5 min: at 300 and at 600 s of 690.
    assert "the log stops 0 times, simulations otherwise (lazarus 2)" in err
    assert "have lost nodes that stay idle, which stop no simulation" in err
    # `testbed-a` has 4 samples a node, of 8 to 10 nodes.
    (batch,) = re.findall(r"a simulated step has ([\d.]+) samples in the mean: steps of the log are taken to be", err)
    assert 32 < float(batch) < 40
