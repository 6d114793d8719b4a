"""``lazsim live`` and ``lazsim validate``: what they refuse, and in how many words."""

import json
import socket

import pytest

torch = pytest.importorskip("torch", reason="live training needs torch: pip install 'lazsim[live]'")

from tests.live_jobs import tiny_options  # noqa: E402


@pytest.mark.parametrize("command", ["live", "validate"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--system", "lazarsu"), "did you mean 'lazarus'?"),
        (("--system", "gemini"), "--system gemini: no live job runs it; give lazarus, ds, "),
        (("--nodes", 1), "8 experts do not fit on 1 node of 4 slots under lazarus"),
        (("--nodes", 0), "--nodes: expected a whole number from 1 to 1,024, found '0'"),
        (("--top-k", 9), "--top-k 9: live-small has 8 experts"),
        (("--model", "deepseek-v3"), "choose a GPT-2 shape"),
        (("--text", "missing.txt"), "missing.txt: cannot be read"),
        (("--trace", "missing.csv"), "missing.csv: cannot be read"),
        (("--record-routing", "a-file/routing.csv"), "a-file"),
        (("--device", "cuda"), "--device cuda: torch finds no GPU"),
        (("--speedup", "nan"), "--speedup: expected a number above 0, found 'nan'"),
        (("--duration", "10s"), "--duration has no effect without --trace"),
        (("--cap", "clip"), "--cap has no effect without --trace"),
        (("--format", "bamboo"), "--format has no effect without --trace"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(lazsim, tmp_path, monkeypatch, command, arguments, said):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("")
    code, out, err = lazsim(command, *arguments)
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert len([line for line in err.splitlines() if not line.startswith("note:")]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


@pytest.mark.parametrize("command", ["live", "validate"])
def test_nodes_that_cannot_hold_the_experts_are_refused_before_any_work(lazsim, command):
    # Four nodes of one slot for eight experts.
    told = "live-small: 8 experts do not fit on 4 nodes of 1 slot under lazarus; use more --nodes or --slots"
    assert lazsim(command, "--slots", 1) == (2, "", f"lazsim: {told}\n")


@pytest.mark.parametrize("command", ["live", "validate"])
def test_a_job_that_waits_for_more_nodes_than_there_are_is_refused_before_any_work(lazsim, tmp_path, command):
    (tmp_path / "job.toml").write_text("min_nodes = 9")
    told = "min_nodes 9: of 4 nodes, lazarus uses 4; give as many, or more nodes"
    assert lazsim(command, "--job", tmp_path / "job.toml") == (2, "", f"lazsim: {told}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--listen", "nowhere"), "--listen 'nowhere': give HOST:PORT"),
        (("--listen", "127.0.0.1:70000"), "give HOST:PORT"),
        (("--listen", "127.0.0.1:0"), "give a folder that all workers share as --checkpoints"),
        (("--listen", "127.0.0.1:0", "--trace", "x.csv"), "--trace has no effect beside --listen"),
        (("--listen", "127.0.0.1:0", "--checkpoints", "here"), "LAZSIM_LIVE_SECRET is not set"),
        (("--listen", "203.0.113.1:29600", "--checkpoints", "here"), "cannot listen on 203.0.113.1:29600"),
    ],
)
def test_what_leads_workers_of_others_says_what_it_needs(refused, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAZSIM_LIVE_SECRET", raising=False)
    if "203.0.113.1:29600" in arguments:
        monkeypatch.setenv("LAZSIM_LIVE_SECRET", "ab" * 32)
    assert said in refused("live", *arguments)


def test_a_port_that_is_taken_is_told_once(lazsim, tmp_path, monkeypatch):
    monkeypatch.setenv("LAZSIM_LIVE_SECRET", "ab" * 32)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, _, err = lazsim("live", "--listen", f"127.0.0.1:{port}", "--checkpoints", tmp_path)
    assert (code, err) == (2, f"lazsim: cannot listen on 127.0.0.1:{port} (Address already in use); choose another\n")


def test_a_job_that_cannot_go_on_is_one_line_and_exit_code_1(lazsim, tmp_path):
    # A file stands where the folder of the last checkpoint goes. Bad input would have code 2.
    (tmp_path / "step-000000002").write_text("")
    options = (*tiny_options(tmp_path, slots=8), "--steps", 2, "--checkpoints", tmp_path)
    code, out, err = lazsim("live", "--nodes", 1, *options)
    assert code == 1
    # The steps that it made are shown.
    assert out.startswith("lazarus: 2 steps, 12 samples in ")
    assert f"{tmp_path}: the checkpoint of step 2 cannot be completed: step-000000002." in err
    assert "cannot be called step-000000002 (Not a directory); move what has that name, or choose another f" in err
    assert len(err.splitlines()) == 1


def test_json_has_the_notes_on_the_trace(lazsim, tmp_path):
    (tmp_path / "trace.csv").write_text("time_s,event,node\n0,up,a\n0,up,b\n60,down,b\n")
    options = (*tiny_options(tmp_path, slots=8), "--trace", tmp_path / "trace.csv", "--nodes", 2, "--steps", 1)
    code, out, err = lazsim("live", *options, "--json")
    notes = [line.removeprefix("note: ") for line in err.splitlines()]
    assert (code, json.loads(out)["notes"]) == (0, notes)
    assert "the trace is taken to end with its last event" in notes


def test_a_batch_whose_logits_do_not_fit_into_memory_is_refused(refused):
    # 2^24 sequences of 64 tokens with 256 logits of four bytes and as many gradients: 2 TiB.
    assert "too little memory: --batch 16777216 takes 2.05e+03 GiB" in refused("live", "--steps", 1, "--batch", 2**24)
