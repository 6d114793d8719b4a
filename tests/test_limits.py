"""Inputs beyond what any cluster has are refused in one line, before they cost memory or time."""

import io
import json
import os
import struct
import zipfile

import numpy as np
import pytest

from lazsim import limits
from lazsim.errors import LazsimError
from lazsim.files.reading import read_bytes
from lazsim.specs import ModelSpec, load_spec
from tests.conftest import ROOT

CATALOG = ROOT / "lazsim" / "catalog"
CSV = "# lazsim-routing 1\nstep,layer,expert,tokens\n"
SPOT = (CATALOG / "traces" / "spot-p3-like.toml").read_text()
DEEP = 20_000
DIGITS = "9" * 5000
PLACE = ("place", "--nodes", 4, "--slots", 2, "--experts", 4)
RUN = ("run", "--trace", "fail-every-5min")


def edited(kind, name, old, new):
    """Return the text of a catalogue entry with another line."""
    text = (CATALOG / kind / f"{name}.toml").read_text()
    assert old in text
    return text.replace(old, new, 1)


def npy(shape, content=b"", dtype="<f8"):
    """Return an array file that says it has a shape, whatever follows."""
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def npz(path, tokens):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("iteration.npy", npy((1,), np.zeros(1).tobytes()))
        archive.writestr("tokens.npy", tokens)


def refused(lazsim, *arguments):
    code, _, err = lazsim(*arguments)
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert (code, len(lines)) == (2, 1), err[-2000:]
    assert lines[0].startswith("lazsim: ")
    return lines[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--trace", "/dev/zero"),
        ("run", "--trace", "fail-every-5min", "--routing", "/dev/zero"),
        ("run", "--trace", "fail-every-5min", "--model", "@.toml"),
        ("run", "--trace", "fail-every-5min", "--profile", "@.csv"),
        ("trace", "info", "/dev/zero"),
        ("routing", "info", "/dev/zero"),
        ("sweep", "/dev/zero", "--out", "@out"),
        (*PLACE, "--loads", "/dev/zero"),
        ("recovery", *PLACE[1:], "--domains", "/dev/zero"),
        ("recovery", *PLACE[1:], "--failures-from", "/dev/zero"),
        ("experiment", "run", "@.py", "--out", "@out"),
    ],
)
def test_an_endless_file_is_refused_wherever_a_file_is_read(lazsim, tmp_path, arguments):
    for suffix in (".toml", ".csv", ".py"):
        os.symlink("/dev/zero", tmp_path / suffix)
    assert "KiB; give a smaller file" in refused(lazsim, *(str(a).replace("@", f"{tmp_path}/") for a in arguments))


def test_no_more_of_a_file_is_read_than_it_may_have(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(LazsimError, match="larger than"):
        read_bytes(path, 4)
    with pytest.raises(LazsimError, match="no file has such a name"):
        read_bytes("a\0b")


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        # 2**40 zeros would be 8 TiB, and a deflated GiB of zeros has a MiB.
        (npy((1, 1 << 20, 1 << 20)), "8,796,093,022,208 bytes of numbers"),
        (npy((1, 1, limits.MAX_LOADS + 1)), "bytes of numbers where at most"),
        (npy((1, 2, 4), bytes(8)), "not a readable .npz"),
        (npy((1, 2, 4), dtype="|O"), "must be numbers, not object"),
        (npy((1, 1, 4), bytes(1 << 24)), "no loads"),
    ],
)
def test_the_header_of_an_array_is_believed_no_further_than_its_content(lazsim, tmp_path, tokens, said):
    npz(tmp_path / "bomb.npz", tokens)
    assert said in refused(lazsim, "routing", "info", tmp_path / "bomb.npz")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("nested.toml", "a = " + "[" * (limits.MAX_SPEC_BYTES // 4) + "]" * (limits.MAX_SPEC_BYTES // 4)),
        ("dotted.toml", "a." * 3000 + "b = 1"),
        ("digits.toml", edited("models", "gpt-s", "num_experts = 8", f"num_experts = {DIGITS}")),
        ("hex.toml", edited("models", "gpt-s", "num_experts = 8", f"num_experts = 0x{'f' * 9000}")),
        ("large.toml", "#" * (limits.MAX_SPEC_BYTES + 1)),
    ],
)
@pytest.mark.parametrize("arguments", [(*RUN, "--model"), ("trace", "generate", "--out", "@"), ("sweep", "--out", "@")])
def test_toml_is_refused_however_deep_long_or_full_of_digits_it_is(lazsim, tmp_path, name, content, arguments):
    (tmp_path / name).write_text(content)
    refused(lazsim, *(tmp_path / "out" if part == "@" else part for part in arguments), tmp_path / name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["{}\n", '[{}, {{"time": 1}}]'])
def test_a_table_of_json_is_refused_however_deep_it_is_nested(lazsim, tmp_path, form):
    (tmp_path / "deep").write_text(form.format('{"a": ' * 3000 + "1" + "}" * 3000))
    refused(lazsim, "trace", "info", tmp_path / "deep")


@pytest.mark.parametrize(
    "arguments",
    [
        (*RUN, "--model", "gpt-s", "--interval", DIGITS),
        ("trace", "info", "@", "--where", f"{DIGITS}=n1"),
        ("trace", "info", "@", "--columns", f"time={DIGITS},node=2,value=3"),
        ("live", "--nodes", "2", "--listen", f"host:{DIGITS}"),
        ("step", "--model", "gpt-oss-20b", "--cluster", "dgx-h100", "--layout", f"tensor={DIGITS}"),
        ("step", "--model", "gpt-oss-20b", "--cluster", "dgx-h100", "--layout", "tensor=" + "[" * 5000),
    ],
)
def test_an_option_is_refused_however_full_of_digits_it_is(lazsim, tmp_path, arguments):
    (tmp_path / "up.csv").write_text("Time,instance,Value\n2025-03-01 00:00,n1,1\n2025-03-01 00:01,n1,0\n")
    refused(lazsim, *(tmp_path / "up.csv" if part == "@" else part for part in arguments))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"metadata": {"gap_seconds": 60}, "data": ' + "[" * DEEP + "]" * DEEP + "}", "too deeply nested"),
        (f'{{"metadata": {{"gap_seconds": 60}}, "data": [{DIGITS}]}}', "thousands of digits"),
        ('{"metadata": {"gap_seconds": 1e308}, "data": [1, 1]}', "more than 100 years"),
        (json.dumps({"metadata": {"gap_seconds": 60}, "data": [0, 10**6] * 100}), "1,000,000 nodes at once"),
        # Each change is 16,384 events: the fifth passes 2**16.
        (json.dumps({"metadata": {"gap_seconds": 60}, "data": [0, limits.MAX_NODES] * 9}), "more than 65,536 events"),
        ("".join(f"0,add,n{node}\n" for node in range(limits.MAX_NODES + 1)), "16,385 nodes at once"),
    ],
)
def test_a_trace_has_no_more_nodes_and_events_than_any_cluster(lazsim, tmp_path, monkeypatch, content, said):
    monkeypatch.setattr("lazsim.trace.table.MAX_EVENTS", 1 << 16)
    (tmp_path / "trace").write_text(content)
    assert said in refused(lazsim, "trace", "info", tmp_path / "trace")


@pytest.mark.parametrize(
    ("command", "content"),
    [
        (("trace", "info"), f'{{"time": 0, "count": 4}}\n{{"time": {DIGITS}, "count": 3}}'),
        (("trace", "info", "--format", "aws"), json.dumps({"Records": [{"message": f'{{"eventID": {DIGITS}}}'}]})),
        (("trace", "info", "--format", "gcp"), f"[{DIGITS}]"),
        (("routing", "info"), f'{{"step": {DIGITS}, "layer": 0, "tokens": [1, 2]}}'),
        (("model", "import"), f'{{"num_hidden_layers": {DIGITS}}}'),
        (("place", "--nodes", "1", "--slots", "1", "--experts", "1", "--old"), f'{{"plans": {{"mro": [[{DIGITS}]]}}}}'),
        (("step", "--cluster", "dgx-h100", "--model"), f"num_layers = {DIGITS}"),
        (("sweep", "--out", "out"), f"[grid]\nseed = [{DIGITS}]"),
    ],
)
def test_a_number_of_thousands_of_digits_is_told_in_the_same_words_everywhere(
    lazsim, tmp_path, monkeypatch, command, content
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("numbers.toml" if " = " in content else "numbers.json")
    path.write_text(content)
    assert "a number has thousands of digits" in refused(lazsim, *command, path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("target_nodes = ", "target_nodes = 999999999 #", "<= 16384"),
        ("tick_s = ", "tick_s = 1e-12 #", "a duration of 1 ns to 100 years"),
        ("scale = ", "scale = 1e-9 #", "more than 65,536 events"),
        ("duration_s = ", "duration_s = 1e300 #", "a duration of 1 ns to 100 years"),
    ],
)
def test_a_recipe_makes_no_more_events_than_a_trace_may_have(lazsim, tmp_path, monkeypatch, old, new, said):
    monkeypatch.setattr("lazsim.trace.table.MAX_EVENTS", 1 << 16)
    text = edited("traces", "spot-p3-like", "tick_s = ", "tick_s = 1e-6 #") if old == "scale = " else SPOT
    assert old in text
    (tmp_path / "mine.toml").write_text(text.replace(old, new))
    assert said in refused(lazsim, "trace", "generate", tmp_path / "mine.toml", "--out", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("row", ["2,0,30000000,1", "2,30000000,0,1"])
def test_an_expert_or_layer_with_a_mistaken_number_takes_no_memory(lazsim, tmp_path, row):
    (tmp_path / "loads.csv").write_text(f"{CSV}0,0,0,1\n1,1,1,1\n{row}\n")
    assert "too many" in refused(lazsim, "routing", "info", tmp_path / "loads.csv")
    (tmp_path / "mine.py").write_text("def plan(request):\n    return [[[0, 30000000], [1, 2], [3, 0], [1, 2]]]\n")
    assert "holds 30000000" in refused(lazsim, *PLACE, "--policy", f"{tmp_path}/mine.py:plan")


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ('seed = "0-999999999"', "seed has 1,000,000,000 values; give at most 100,000"),
        ('seed = "0-999"\nmax_nodes = [' + ",".join(map(str, range(1, 102))) + "]", "the grids have 303,"),
        (f"seed = {'9' * 25}", "expected a whole number <= 9007199254740992"),
    ],
)
def test_a_sweep_has_no_more_runs_than_a_machine_could_make(lazsim, tmp_path, grid, said):
    (tmp_path / "sweep.toml").write_text(f'[base]\ntrace = "fail-every-5min"\n[grid]\n{grid}\n')
    line = refused(lazsim, "sweep", tmp_path / "sweep.toml", "--out", tmp_path / "out")
    assert said.replace("`", "") in line


SPANS = ",".join(f"{1000000 * span}-{1000000 * span + 999999}" for span in range(100))


@pytest.mark.parametrize(
    "arguments",
    [
        ("place", "--nodes", 999_999_999, "--slots", 2, "--experts", 4),
        ("place", "--nodes", 16_000, "--slots", 10**6, "--experts", 4),
        ("place", "--nodes", 4, "--slots", 10**9, "--experts", 4),
        (*PLACE, "--layers", 10**6),
        (*PLACE, "--seed", DIGITS),
        (*PLACE, "--loads", "smartmoe-fit", "--step", 10**15),
        ("recovery", *PLACE[1:], "--failures", SPANS),
        (*RUN, "--duration", "1e300h"),
        (*RUN, "--duration", "99y"),
        (*RUN, "--duration", "36000d", "--system", "lazarus"),
        (*RUN, "--max-nodes", 10**9),
        (*RUN, "--seed", 1 << 64),
        ("routing", "generate", "smartmoe-fit", "--layers", 4000, "--experts", 60000, "--out", "@"),
        ("routing", "generate", "smartmoe-fit", "--steps", 10**12, "--out", "@"),
        ("sensitivity", *RUN[1:], "--constant", "recovery.detect_s", "--factor", "1e300", "--duration", "1min"),
    ],
)
def test_an_option_takes_no_number_that_would_fill_memory_or_run_for_hours(lazsim, tmp_path, arguments):
    refused(lazsim, *(tmp_path / "out.csv" if part == "@" else part for part in arguments))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "name", "old", "new"),
    [
        ("model", "gpt-s", "d_model = ", "d_model = 99999999999999 #"),
        ("model", "gpt-s", "num_layers = 12", f"num_layers = {'9' * 25}"),
        ("model", "gpt-s", "num_experts = 8", "num_experts = 65536"),
        ("model", "gpt-s", "sequence_length = ", "sequence_length = 99999999999999 #"),
        ("cluster", "rtx3090x10", "slots_per_gpu = ", "slots_per_gpu = 4294967296 #"),
        ("cluster", "rtx3090x10", "slots_per_gpu = ", "slots_per_gpu = 60000000 #"),
        ("cluster", "rtx3090x10", "num_nodes = ", "num_nodes = 999999999 #"),
        ("cluster", "rtx3090x10", "nic_bytes_per_s = ", "nic_bytes_per_s = 1e-300 #"),
        ("cluster", "rtx3090x10", "detect_s = ", "detect_s = nan #"),
        ("cluster", "rtx3090x10", "detect_s = ", "detect_s = inf #"),
        ("job", "testbed-a", "sequences_per_gpu = ", "sequences_per_gpu = 99999999999999 #"),
        ("job", "testbed-a", "join_wait_s = ", "join_wait_s = -1 #"),
        ("routing", "smartmoe-fit", "skew = ", "skew = 1e300 #"),
        ("routing", "smartmoe-fit", "interval_steps = ", "interval_steps = 99999999999999 #"),
    ],
)
def test_numbers_from_which_a_time_or_a_count_would_overflow_are_refused(lazsim, tmp_path, kind, name, old, new):
    path = tmp_path / "mine.toml"
    path.write_text(edited("routing" if kind == "routing" else f"{kind}s", name, old, new))
    refused(lazsim, *RUN, "--duration", "1min", f"--{kind}", path)


@pytest.mark.parametrize("value", ["1e-300", "1e300", "nan", "0.0", "-0.0"])
def test_a_gpu_is_neither_endlessly_slow_nor_fast(lazsim, tmp_path, value):
    (tmp_path / "gpu.toml").write_text(
        edited("gpus", "h100", "peak_flop_per_s = 9.89e14", f"peak_flop_per_s = {value}")
    )
    (tmp_path / "mine.toml").write_text(edited("clusters", "rtx3090x10", '"rtx3090"', f'"{tmp_path}/gpu.toml"'))
    assert "peak_flop_per_s" in refused(lazsim, *RUN, "--duration", "1min", "--cluster", tmp_path / "mine.toml")


def test_the_largest_numbers_of_a_model_still_give_a_finite_time(lazsim, tmp_path):
    text = edited("models", "gpt-s", "d_model = ", f"d_model = {limits.MAX_DIMENSION} #")
    text = text.replace("d_ff_expert = ", f"d_ff_expert = {limits.MAX_DIMENSION} #")
    (tmp_path / "mine.toml").write_text(text)
    code, out, err = lazsim(*RUN, "--duration", "1min", "--system", "ds", "--json", "--model", tmp_path / "mine.toml")
    assert code == 0, err
    assert json.loads(out)["runs"][0]["steps"] == 0


def test_a_factor_without_end_is_refused_as_the_number_that_it_makes():
    from lazsim.scenario import resolve

    scenario = resolve({})
    for path in ("job.fault_threshold", "cluster.recovery.detect_s", "model.num_layers"):
        with pytest.raises(LazsimError, match=r"expected a ((whole )?number <= |duration of 0 s to )"):
            scenario.replace(path, "x" + "9" * 400)


def test_a_kernel_that_takes_no_time_is_refused(lazsim, tmp_path):
    (tmp_path / "gemm_bf16.csv").write_text("gpu,m,n,k,time_us\nh100,64,64,64,1e-320\n")
    assert "line 2: time_us is '1e-320'" in refused(lazsim, "verify", "--kernels", tmp_path)


def test_specs_of_the_catalogue_take_less_than_half_of_what_is_allowed():
    of_users = [path for path in CATALOG.glob("*/*.toml") if path.parent.name != "measured"]
    largest = max(path.stat().st_size for path in of_users)
    assert largest * 2 < limits.MAX_SPEC_BYTES
    for path in CATALOG.glob("models/*.toml"):
        model = load_spec(ModelSpec, path.stem)
        assert model.num_moe_layers * model.num_experts * 4 < limits.MAX_MODEL_EXPERTS
    assert io.DEFAULT_BUFFER_SIZE < limits.MAX_FILE_BYTES
