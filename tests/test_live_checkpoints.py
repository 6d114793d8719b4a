"""Checkpoints of a live job: which count, which are refused, and that nothing of others is lost."""

import asyncio
import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="live training needs torch: pip install 'lazsim[live]'")

from lazsim.errors import LazsimError
from lazsim.files.folders import hold_folder
from lazsim.live.checkpoint import (
    LOCK,
    complete,
    drop_unfinished,
    last_step,
    load_blocks,
    refuse_other_jobs,
    save_blocks,
)
from lazsim.live.run import run_locally
from lazsim.live.state import DENSE, all_keys, initial_values
from lazsim.live.worker_pool import last_error
from tests.live_jobs import Script, tiny_spec


@pytest.fixture
def spec(tmp_path):
    """A job with a checkpoint after five steps."""
    spec = tiny_spec(checkpoint_folder=str(tmp_path))
    save_blocks(tmp_path, 5, "aa", {key: initial_values(spec, key) for key in all_keys(spec)})
    complete(spec, 5, "aa")
    return spec


def test_a_part_that_was_written_elsewhere_is_told_to_want_a_shared_folder(spec, tmp_path):
    save_blocks(tmp_path, 6, "aa", {key: initial_values(spec, key) for key in all_keys(spec)[:-1]})
    with pytest.raises(LazsimError, match=r"layer-1-expert-3\.npy was written and is not here; give a folder that all"):
        complete(spec, 6, "aa")
    assert last_step(tmp_path) == 5


def test_a_rank_that_hung_in_a_save_and_wakes_changes_nothing_in_a_checkpoint_that_others_made(spec, tmp_path):
    late = {DENSE: initial_values(spec, DENSE) + 1}
    save_blocks(tmp_path, 5, "bb", late)
    save_blocks(tmp_path, 3, "bb", late)
    assert load_blocks(spec, 5, [DENSE])[DENSE].equal(initial_values(spec, DENSE))
    # The next checkpoint takes the place of all of it, but for what others may still finish.
    save_blocks(tmp_path, 7, "cc", late)
    save_blocks(tmp_path, 6, "aa", {key: initial_values(spec, key) for key in all_keys(spec)})
    complete(spec, 6, "aa")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000006", "step-000000007.cc"]


def test_a_checkpoint_stays_where_a_job_that_has_nothing_left_to_do_saves_it_again(spec, tmp_path):
    save_blocks(tmp_path, 5, "bb", {key: initial_values(spec, key) for key in all_keys(spec)})
    complete(spec, 5, "bb")
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000005"]
    refuse_other_jobs(spec)


def poison(array):
    array[0, 3] = np.nan
    return array


@pytest.mark.parametrize(
    "spoil",
    [lambda array: array[:, 1:], lambda array: array.astype("f4"), lambda array: array.astype(">f8"), poison],
    ids=["shape", "precision", "byte order", "not a number"],
)
def test_values_that_are_not_those_of_their_block_are_refused(spec, tmp_path, spoil):
    path = tmp_path / "step-000000005" / "dense.npy"
    assert load_blocks(spec, 5, [DENSE])[DENSE].shape[0] == 3
    np.save(path, spoil(np.load(path)))
    with pytest.raises(LazsimError, match=r"dense\.npy: no float64 array of \(3, 6688\) with finite values; the check"):
        load_blocks(spec, 5, [DENSE])


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(path.read_bytes()[:90]), lambda path: path.unlink()])
def test_a_part_that_is_cut_or_missing_is_named(spec, tmp_path, spoil):
    spoil(tmp_path / "step-000000005" / "dense.npy")
    with pytest.raises(LazsimError, match=r"dense\.npy: .*; the checkpoint is damaged, remove its folder"):
        load_blocks(spec, 5, [DENSE])


def test_a_checkpoint_under_another_step_is_refused(spec, tmp_path):
    refuse_other_jobs(spec)
    assert json.loads((tmp_path / "step-000000005" / "complete.json").read_text())["step"] == 5
    (tmp_path / "step-000000005").rename(tmp_path / "step-000000007")
    with pytest.raises(LazsimError, match=r"has a checkpoint of another job .* or step"):
        refuse_other_jobs(spec)


def test_folders_of_others_stay_whatever_they_are_called(spec, tmp_path):
    mine = tmp_path / "step-000000004"
    mine.mkdir()
    (mine / "model.safetensors").write_text("mine")
    save_blocks(tmp_path, 9, "aa", {DENSE: initial_values(spec, DENSE)})
    for name in (".lazsim-left", ".nfs0042"):
        (tmp_path / "step-000000009.aa" / name).write_text("half")
    drop_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000004", "step-000000005"]
    assert [path.name for path in mine.iterdir()] == ["model.safetensors"]


def test_a_second_job_in_the_folder_of_one_that_runs_is_refused(spec, tmp_path):
    with hold_folder(tmp_path, LOCK), pytest.raises(LazsimError, match="another run is writing to it"):
        asyncio.run(run_locally(spec, Script(2), None, max_nodes=2))


def test_the_last_words_of_workers_are_their_own(tmp_path):
    log = tmp_path / "log"
    log.write_text("lazsim: a.npy: damaged\nlazsim: all workers have ended\n")
    assert last_error(log, "all workers have ended") == "a.npy: damaged"
    log.write_text("lazsim: all workers have ended\n")
    assert last_error(log, "all workers have ended") == ""
