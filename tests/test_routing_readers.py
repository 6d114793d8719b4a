import bz2
import gzip
import json
import lzma
import pickle
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lazsim.errors import SpecError
from lazsim.routing import load_routing, read_routing
from lazsim.routing.readers import READERS
from lazsim.routing.source import role_of
from lazsim.routing.table import RecordedRouting, write_csv
from tests.conftest import ROOT

SGLANG = "expert_distribution_rank{}_timestamp{}.csv"
HEAD = "# lazsim-routing 1\nstep,layer,expert,tokens\n"


def write(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else "\n".join(map(json.dumps, content)))
    return str(path)


def loads_of(path, **options):
    """Steps, numbers of the layers and loads of a file."""
    found = read_routing(path, **options)
    return found.steps.tolist(), list(found.layer_numbers), found.tokens_SLE.tolist()


def test_dumps_of_sglang_add_up_over_ranks_and_follow_each_other_in_time(tmp_path):
    write(tmp_path, SGLANG.format(0, "17.1"), "layer_id,expert_id,count\n3,0,5\n3,2,1\n4,0,7\n")
    write(tmp_path, SGLANG.format(1, "17.2"), "layer_id,expert_id,count\n3,0,1\n4,1,2\n")
    assert loads_of(str(tmp_path)) == ([0], [3, 4], [[[6, 0, 1], [7, 2, 0]]])
    write(tmp_path, SGLANG.format(0, "18.1"), "layer_id,expert_id,count\n3,0,2\n4,0,2\n")
    write(tmp_path, SGLANG.format(1, "18.3"), "layer_id,expert_id,count\n3,1,3\n4,1,3\n")
    assert loads_of(str(tmp_path)) == ([0, 1], [3, 4], [[[6, 0, 1], [7, 2, 0]], [[2, 3, 0], [2, 3, 0]]])


def test_dumps_of_sglang_follow_each_other_by_number_and_none_may_be_missing(tmp_path):
    for time, count in (("99.5", 1), ("100.25", 2), ("1000", 3)):
        for rank in (0, 1):
            write(tmp_path, SGLANG.format(rank, time), f"layer_id,expert_id,count\n3,0,{count}\n3,1,1\n")
    assert loads_of(str(tmp_path)) == ([0, 1, 2], [3], [[[2, 2]], [[4, 2]], [[6, 2]]])
    (tmp_path / SGLANG.format(1, "100.25")).unlink()
    with pytest.raises(SpecError, match="rank 0 has 3 dumps and rank 1 has 2"):
        read_routing(str(tmp_path))
    assert loads_of(str(tmp_path), lenient=True)[0] == [0, 1, 2]


def test_dumps_of_sglang_lack_no_rank_between_others(tmp_path):
    for rank in (0, 2):
        write(tmp_path, SGLANG.format(rank, "17"), "layer_id,expert_id,count\n3,0,5\n3,1,1\n")
    with pytest.raises(SpecError, match="rank 1 has no dump, and rank 2 has; add its file"):
        read_routing(str(tmp_path))
    assert loads_of(str(tmp_path), lenient=True)[2] == [[[10, 2]]]


def test_loads_of_several_ranks_are_said_to_add_up_and_those_that_a_step_lacks_to_be_missing(tmp_path):
    rows = [{"step": at, "rank": r, "layer": 0, "tokens": [9, 1]} for at in (1, 2) for r in (0, 1) if at + r < 3]
    table = "step,rank,layer,expert,tokens\n" + "".join(f"{r['step']},{r['rank']},0,1,1\n" for r in rows)
    for path in (write(tmp_path, "loads.jsonl", rows), write(tmp_path, "loads.csv", table)):
        added, lacks = read_routing(path).notes[:2]
        assert added == "loads are the sum of 2 ranks or other parts, expert by expert"
        assert lacks == "steps that lack some of these parts, whose loads are of the others alone: 1"


def test_loads_that_look_like_counters_since_the_start_are_told(tmp_path):
    loads = np.cumsum([[[5, 1]], [[2, 4]], [[3, 3]]], axis=0)
    told = "no load ever falls: if these are counters since the start, give their differences instead"
    assert told in read_routing(write(tmp_path, "counters.json", [loads.tolist()])).notes
    for other in (np.array([[[5, 1]], [[2, 4]], [[3, 3]]]), np.full((3, 1, 2), 4)):
        assert told not in read_routing(write(tmp_path, "loads.json", [other.tolist()])).notes


def test_a_list_of_experts_with_loads_of_an_unknown_name_is_not_taken_for_routes(tmp_path):
    rows = "layer,expert,{}\n0,0,25\n0,1,75\n3,0,40\n3,1,60\n"
    with pytest.raises(SpecError, match="each expert of a layer stands once"):
        read_routing(write(tmp_path, "loads.csv", rows.format("mystery")))
    assert loads_of(write(tmp_path, "loads.csv", rows.format("Percent"))) == ([0], [0, 3], [[[25, 75], [40, 60]]])
    with pytest.raises(SpecError, match="each expert of a layer stands once"):
        read_routing(write(tmp_path, "loads.jsonl", [{"layer": 0, "expert": at, "mystery": 5} for at in (0, 1)]))


def test_one_rank_of_several_is_read_alone_and_said_to_be(tmp_path):
    path = write(tmp_path, SGLANG.format(1, "17"), "layer_id,expert_id,count\n3,0,5\n")
    found = read_routing(path)
    assert found.notes[0] == "loads are those of one rank alone; give the folder to add up all ranks"


SAME = [[[1, 2, 0], [4, 0, 5]]]
"""One step of two layers of three experts, as each of the following says it."""
WAYS = {
    "columns in any order.csv": "tokens,expert_idx,layer_idx\n1,0,0\n2,1,0\n4,0,1\n5,2,1\n",
    "two measures.csv": "layer,expert,tokens,share\n0,0,1,0.3\n0,1,2,0.7\n1,0,4,0.4\n1,2,5,0.6\n",
    "tabs.tsv": "layer\texpert\tcount\n0\t0\t1\n0\t1\t2\n1\t0\t4\n1\t2\t5\n",
    "wide.csv": "layer,e0,e1,e2\n0,1,2,0\n1,4,0,5\n",
    "wide and a sum.csv": "layer,tokens,e2,e0,e1\n0,3,0,1,2\n1,9,5,4,0\n",
    "wide names.csv": "step,layer,expert_0,expert_1,expert_2\n0,0,1,2,0\n0,1,4,0,5\n",
    "ranks.csv": "rank,layer,expert,tokens\n0,0,0,1\n0,0,1,1\n1,0,1,1\n0,1,0,4\n1,1,2,5\n",
    "matrix.txt": "1.0 2.0 0.0\n4.0 0.0 5.0\n",
    "matrix of fixed width.txt": "   1   2   0\n   4   0   5\n",
    "trailing commas.csv": "layer,e0,e1,e2,\n0,1,2,0,\n1,4,0,5,\n",
    "matrix.csv": "1,2,0\n4,0,5\n",
    "matrix.json": "[[1, 2, 0], [4, 0, 5]]",
    "steps.json": "[[[1, 2, 0], [4, 0, 5]]]",
    "history.json": '{"load_history": [{"logical_expert_load": [[1, 2, 0], [4, 0, 5]]}]}',
    "sglang.json": '{"logical_count": [[[1, 2, 0], [4, 0, 5]]]}',
    "pretty.json": json.dumps({"logical_count": SAME}, indent=1),
    "layers.json": '{"model.layers.0.mlp": [1, 2, 0], "model.layers.1.mlp": [4, 0, 5]}',
    "steps and layers.json": '{"step 0": {"layer 0": [1, 2, 0], "layer 1": [4, 0, 5]}}',
    "lines.jsonl": [{"layer": 0, "tokens_per_expert": [1, 2, 0]}, {"layer": 1, "tokens_per_expert": [4, 0, 5]}],
    "micro-batches.jsonl": [
        {"layer": 0, "tokens_per_expert": [[1, 1, 0], [0, 1, 0]]},
        {"layer": 1, "tokens_per_expert": [[4, 0, 0], [0, 0, 5]]},
    ],
    "mapping.jsonl": [{"iteration": 0, "tokens_per_expert": {"layers.0": [1, 2, 0], "layers.1": [4, 0, 5]}}],
    "wide.jsonl": [{"layer": 0, "e0": 1, "e2": 0, "e1": 2}, {"layer": 1, "e0": 4, "e2": 5, "e1": 0}],
    "counters.jsonl": [{"layer": 0, "tokens": {"0": 1, "1": 2}}, {"layer": 1, "tokens": {"2": 5, "0": 4}}],
    "layers of counters.json": '{"layer_0": {"expert_1": 2, "expert_0": 1}, "layer_1": {"expert_0": 4, "expert_2": 5}}',
    "steps of counters.json": '{"0": {"0": {"0": 1, "1": 2}, "1": {"0": 4, "2": 5}}}',
    "as EPLB calls them.json": json.dumps({"weight": SAME[0]}),
    "cells.jsonl": [{"layer": layer, "expert": expert, "count": SAME[0][layer][expert]}
                    for layer in range(2) for expert in range(3)],
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_the_same_loads_are_read_from_every_way_of_writing_them(tmp_path, name):
    assert loads_of(write(tmp_path, name, WAYS[name])) == ([0], [0, 1], SAME)


# Tokens 0 to 2 at layer 3 and token 0 at layer 4: expert 0 gets 1 and 1, expert 1 gets 2, expert 2 gets 3 and 1.
ROUTES = {
    "lists.jsonl": [{"layer": 3, "token_idx": token, "topk_ids": ids}
                    for token, ids in enumerate([[0, 2], [1, 2], [2, 1]])] + [{"layer": 4, "topk_ids": [0, 2]}],
    "header.jsonl": [{"type": "meta", "model_id": "mine", "num_experts": 3, "top_k": 2},
                     {"type": "route", "layer": 3, "topk_ids": [[0, 2], [1, 2], [2, 1], [-1, -1]]},
                     {"type": "route", "layer": 4, "topk_ids": [0, 2], "topk_weights": [0.7, 0.3]}],
    "columns.csv": "token,layer,topk_ids_0,topk_ids_1\n0,3,0,2\n1,3,1,2\n2,3,2,1\n0,4,0,2\n",
    "numbered.csv": "token_id,layer_id,expert_0,expert_1\n0,3,0,2\n1,3,1,2\n2,3,2,1\n0,4,0,2\n",
    "numbered.jsonl": [{"token": token, "layer": 3 + token // 3, "expert_0": first, "expert_1": second}
                       for token, (first, second) in enumerate([(0, 2), (1, 2), (2, 1), (0, 2)])],
    "lists.csv": 'token,layer,topk_ids\n0,3,"[0, 2]"\n1,3,"[1, 2]"\n2,3,2 1\n0,4,0 2\n',
    "floats.csv": "token,layer,topk_ids\n0,3,0.0 2.0\n1,3,1.0|2.0\n2,3,2.0 1.0\n0,4,0.0 2.0\n",
    "long.csv": "token,layer,expert\n0,3,0\n0,3,2\n1,3,1\n1,3,2\n2,3,2\n2,3,1\n0,4,0\n0,4,2\n",
}  # fmt: skip


# Steps 100 and 200 of layers 3 and 4.
NAMED_LOADS = [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
BY_STEP_AND_LAYER = {(100 * (s + 1), 3 + n): NAMED_LOADS[s][n] for s in (0, 1) for n in (0, 1)}
NAMED = {
    "bare": {f"{step}_{layer}": loads for (step, layer), loads in BY_STEP_AND_LAYER.items()},
    "words": {f"iter {step}: V3.layers.{layer}.mlp.fc1": loads for (step, layer), loads in BY_STEP_AND_LAYER.items()},
    "experts": {
        f"step{step}/layer{layer}/expert{expert}": load
        for (step, layer), loads in BY_STEP_AND_LAYER.items() for expert, load in enumerate(loads)
    },
    "layers first": {
        f"layer_{layer}": {str(step): BY_STEP_AND_LAYER[step, layer] for step in (100, 200)} for layer in (3, 4)
    },
    "ranks": {
        f"rank{rank}": {step: {layer: BY_STEP_AND_LAYER[step, layer] for layer in (3, 4)} for step in (100, 200)}
        for rank in (0, 1)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_names_of_several_numbers_are_of_step_layer_expert_and_rank(tmp_path, name):
    steps, layers, loads = loads_of(write(tmp_path, "loads.json", json.dumps(NAMED[name])))
    assert (steps, layers) == ([100, 200], [3, 4])
    assert loads == (np.array(NAMED_LOADS) * (2 if name == "ranks" else 1)).tolist()


def test_the_first_number_after_other_words_is_of_the_layer_and_one_alone_may_be_a_time(tmp_path):
    gpt2 = {f"transformer.h.{layer}.mlp.fc1": [layer, 1] for layer in (3, 4)}
    assert loads_of(write(tmp_path, "gpt2.json", json.dumps(gpt2))) == ([0], [3, 4], [[[3, 1], [4, 1]]])
    times = {str(step): {"0": [1, 2], "1": [3, step % 10]} for step in (1700000001, 1700000002)}
    found = loads_of(write(tmp_path, "times.json", json.dumps(times)))
    assert found == ([1700000001, 1700000002], [0, 1], [[[1, 2], [3, 1]], [[1, 2], [3, 2]]])
    assert loads_of(write(tmp_path, "floats.json", '{"100.0": {"0": [1, 2]}, "200.0": {"0": [3, 4]}}'))[0] == [100, 200]


def test_lines_of_named_layers_are_of_one_step_until_a_layer_comes_again(tmp_path):
    lines = [{"layer_0": [1, 2]}, {"layer_1": [3, 4]}, {"layer_0": [5, 6], "layer_1": [7, 8]}]
    assert loads_of(write(tmp_path, "lines.jsonl", lines)) == ([0, 1], [0, 1], NAMED_LOADS)


def test_numbers_of_a_name_that_say_nothing_are_refused(tmp_path):
    for text in (
        '{"3_5": 7, "3_6": 8}', '{"0": {"1": {"2": {"3": 5}}}}', '{"1.2.3": [4, 5]}',
        '{"stage0.layer0": [1, 2], "stage1.layer0": [3, 4]}', '{"v3_block_3": [1, 2], "v3_block_4": [3, 4]}',
        '{"loads": {"expert_0": [1, 2], "expert_1": [3, 4]}}',
    ):  # fmt: skip
        why = r"names no step, layer or expert|is in another|two names are of the same|one expert has several"
        with pytest.raises(SpecError, match=why):
            read_routing(write(tmp_path, "loads.json", text))


def test_matrices_by_number_are_steps_and_rows_of_a_layer_are_said_to_add_up(tmp_path):
    steps = {"100": NAMED_LOADS[0], "200": NAMED_LOADS[1]}
    assert loads_of(write(tmp_path, "steps.json", json.dumps(steps))) == ([100, 200], [0, 1], NAMED_LOADS)
    found = read_routing(write(tmp_path, "layers.json", json.dumps({"layer_0": NAMED_LOADS[0]})))
    assert found.tokens_SLE.tolist() == [[[4, 6]]]
    assert "layers with several rows of loads, such as micro-batches, which add up: 1" in found.notes
    lines = "\n".join(json.dumps({f"layer_{number}": row for number, row in enumerate(step)}) for step in NAMED_LOADS)
    assert loads_of(write(tmp_path, "lines.jsonl", lines)) == ([0, 1], [0, 1], NAMED_LOADS)


def test_files_of_ranks_without_a_step_are_of_the_same_steps(tmp_path):
    for rank in (0, 1):
        # The tenth step comes after the ninth.
        for number, step in enumerate((9, 10)):
            write(tmp_path, f"rank{rank}_step{step}.json", json.dumps(NAMED_LOADS[number]))
    assert loads_of(str(tmp_path)) == ([0, 1], [0, 1], (2 * np.array(NAMED_LOADS)).tolist())
    write(tmp_path, "rank1_step11.json", json.dumps(NAMED_LOADS[0]))
    assert loads_of(str(tmp_path))[0] == [0, 1, 2]
    lacking = "steps that lack some of these parts, whose loads are of the others alone: "
    assert f"{lacking}1" in read_routing(str(tmp_path)).notes
    (tmp_path / "whole").mkdir()
    for rank in (0, 1, 2):
        write(tmp_path / "whole", f"rank{rank}.json", json.dumps({"tokens": NAMED_LOADS * (1 + rank % 2)}))
    assert f"{lacking}2" in read_routing(str(tmp_path / "whole")).notes
    lines = [{"rank": rank, "tokens": layers} for layers in NAMED_LOADS for rank in (0, 1)]
    assert loads_of(write(tmp_path, "lines.jsonl", lines))[2] == (2 * np.array(NAMED_LOADS)).tolist()


def test_the_statistics_of_tensorrt_llm_are_those_of_all_ranks(tmp_path):
    # ExpertStatistic of TensorRT-LLM: rank<r>.safetensors with arrays <iteration>_<layer> of counts by expert.
    for rank in (0, 1):
        header, content = {}, b""
        for name, loads in NAMED["bare"].items():
            header[name] = {"dtype": "I64", "shape": [2], "data_offsets": [len(content), len(content) + 16]}
            content += np.array(loads, dtype="<i8").tobytes()
        text = json.dumps(header).encode()
        (tmp_path / f"rank{rank}.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content)
    write(tmp_path, "meta_info.json", "{}")
    assert loads_of(str(tmp_path)) == ([100, 200], [3, 4], (2 * np.array(NAMED_LOADS)).tolist())


@pytest.mark.parametrize("name", ROUTES)
def test_routes_of_tokens_are_counted(tmp_path, name):
    assert loads_of(write(tmp_path, name, ROUTES[name])) == ([0], [3, 4], [[[1, 2, 3], [1, 0, 1]]])


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "I64"])
def test_tensors_of_any_type_in_safetensors_are_read(tmp_path, dtype):
    loads = np.array(SAME[0])
    kinds = {"F32": "<f4", "F16": "<f2", "I64": "<i8"}
    # The upper half of a float of 32 bits is one of 16.
    content = (loads.astype("<f4").view("<u4") >> 16).astype("<u2") if dtype == "BF16" else loads.astype(kinds[dtype])
    entry = {"dtype": dtype, "shape": [2, 3], "data_offsets": [0, content.nbytes]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "weight": entry}).encode()
    path = tmp_path / "loads.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + content.tobytes())
    assert loads_of(str(path)) == ([0], [0, 1], SAME)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SpecError, match=r"not a readable \.safetensors"):
        read_routing(str(path))


def test_a_list_of_vectors_in_pytorch_is_one_of_layers_as_in_json(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save([torch.tensor(row) for row in SAME[0]], tmp_path / "layers.pt")
    assert loads_of(str(tmp_path / "layers.pt")) == ([0], [0, 1], SAME)
    torch.save([torch.tensor(SAME[0])] * 2, tmp_path / "steps.pt")
    assert loads_of(str(tmp_path / "steps.pt")) == ([0, 1], [0, 1], SAME * 2)
    both = {"iteration": torch.tensor([100, 300]), "tokens_per_expert": torch.tensor(SAME * 2)}
    torch.save(both, tmp_path / "both.pt")
    assert loads_of(str(tmp_path / "both.pt")) == ([100, 300], [0, 1], SAME * 2)
    for name in ("steps", "iterations"):
        torch.save({name: both["iteration"], "loads": both["tokens_per_expert"]}, tmp_path / "both.pt")
        assert loads_of(str(tmp_path / "both.pt")) == ([100, 300], [0, 1], SAME * 2)
    torch.save(both | {"iteration": torch.tensor([100])}, tmp_path / "both.pt")
    with pytest.raises(SpecError, match=r"\(steps of shape \(1,\), and loads of shape \(2, 2, .\)\)"):
        read_routing(str(tmp_path / "both.pt"))


def test_loads_of_the_own_experts_of_ranks_stand_beside_each_other(tmp_path):
    ranks = [{"rank": rank, "step": 7, "layer": 0, "num_local_experts": 2, "tokens": [rank + 1, 9]} for rank in (0, 1)]
    told = [one | {"num_experts": 4} for one in ranks]
    assert loads_of(write(tmp_path, "told.jsonl", told)) == ([7], [0], [[[1, 9, 2, 9]]])
    with pytest.raises(SpecError, match="num_local_experts, and several records of a step and layer; give num_experts"):
        read_routing(write(tmp_path, "untold.jsonl", ranks))
    with pytest.raises(SpecError, match="rank 2 of 2 experts each, 4 in all"):
        read_routing(write(tmp_path, "beyond.jsonl", [*told, told[0] | {"rank": 2}]))
    (tmp_path / "folder").mkdir()
    for rank, one in enumerate(told):
        write(tmp_path / "folder", f"load_rank{rank}.json", [{key: one[key] for key in one if key != "rank"}])
    assert loads_of(str(tmp_path / "folder")) == ([7], [0], [[[1, 9, 2, 9]]])


def test_hidden_files_of_a_folder_are_none_of_loads(tmp_path):
    write(tmp_path, "load_rank0.json", [{"step": 1, "layer": 0, "tokens": [3, 1]}])
    for name in (".nfs0042", "._load_rank0.json", ".load_rank0.json.swp"):
        (tmp_path / name).write_bytes(b"\0")
    assert loads_of(str(tmp_path)) == ([1], [0], [[[3, 1]]])


def test_a_broken_file_of_a_folder_is_named(tmp_path):
    write(tmp_path, "load_rank0.json", [{"step": 1, "layer": 0, "tokens": [3, 1]}])
    write(tmp_path, "load_rank1.json", "{")
    with pytest.raises(SpecError, match=r"load_rank1\.json: not valid JSON"):
        read_routing(str(tmp_path))


def test_records_that_say_the_same_load_twice_are_told(tmp_path):
    lines = [{"step": step, "layer": 0, "tokens_per_expert": [3, 1]} for step in (0, 1, 1)]
    found = read_routing(write(tmp_path, "loads.jsonl", lines))
    assert "records of the same step and layer as another, whose loads add up: 1" in found.notes


def test_a_file_of_any_kind_may_be_in_an_archive_of_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "loads.zip", "w") as archive:
        archive.writestr("loads.csv", WAYS["columns in any order.csv"])
    assert loads_of(str(tmp_path / "loads.zip"))[2] == SAME


def test_experts_without_a_token_count_where_a_header_tells_their_number(tmp_path):
    lines = [{"num_experts": 4}, {"layer": 0, "topk_ids": [1]}]
    assert loads_of(write(tmp_path, "routes.jsonl", lines))[2] == [[[0, 1, 0, 0]]]
    routes = read_routing(write(tmp_path, "bare.jsonl", lines[1:]))
    assert "2 experts: the highest number in the routes, plus one" in routes.notes


def test_columns_of_experts_leave_none_out_and_rows_of_a_matrix_are_not_numbered(tmp_path):
    gap = "no load of expert 2, but of 3; write 0 for those without"
    with pytest.raises(SpecError, match=f"line 1: {gap}"):
        read_routing(write(tmp_path, "loads.csv", "layer,expert_0,expert_1,expert_3\n0,5,3,1\n"))
    with pytest.raises(SpecError, match=gap):
        read_routing(write(tmp_path, "loads.jsonl", [{"layer": 0, "e1": 5, "e3": 3}]))
    # Layers numbered as in the model, and the header that pandas writes of columns without names.
    for text, counted in (
        ("0,11,2\n1,4,15\n2,7,8\n", "column counts up from 0"),
        ("3,11,2\n4,4,15\n5,7,8\n", "column counts up from 3"),
        ("0,1,2\n4,15,1\n7,8,1\n", "row counts up from 0"),
    ):
        with pytest.raises(SpecError, match=f"its first {counted}; leave it out"):
            read_routing(write(tmp_path, "index.csv", text))
    # One row, or a first row of large numbers, has loads.
    for text in ("0,1,2,3\n", "100,101,102\n7,8,9\n"):
        rows = [[int(cell) for cell in line.split(",")] for line in text.split()]
        assert loads_of(write(tmp_path, "rows.csv", text))[2] == [rows]


@pytest.mark.parametrize("text", ["token,layer,topk_ids\n0,3,0,2\n", "layer,e0,e1\n0,1,2,9\n", "1,2\n4,5,6\n"])
def test_a_row_of_more_cells_than_the_header_has_is_not_cut(tmp_path, text):
    with pytest.raises(SpecError, match=r"columns, not \d; quote lists with commas"):
        read_routing(write(tmp_path, "loads.csv", text))


@pytest.mark.parametrize("cell", ["1.5", "0-2", "e1", '"tensor([0, 2], dtype=torch.int64)"'])
def test_a_route_that_is_no_whole_number_is_no_other_one(tmp_path, cell):
    path = write(tmp_path, "routes.csv", f"layer,topk_ids\n0,1\n0,{cell}\n")
    with pytest.raises(SpecError, match="line 3: expected layer,topk_ids, numbers from 0 up"):
        read_routing(path)


def test_a_table_without_loads_is_said_to_be_one_of_routes(tmp_path):
    found = read_routing(write(tmp_path, "cut.csv", "step,layer,expert\n0,0,0\n0,0,1\n0,0,1\n"))
    assert "no loads but routes: each expert of a row counts as one token" in found.notes


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_loads_are_read_as_they_are_also_in_a_folder(tmp_path, pack):
    path = tmp_path / "loads.csv.packed"
    path.write_bytes(pack(f"{HEAD}0,0,0,5\n0,0,1,3\n".encode()))
    assert loads_of(str(path)) == ([0], [0], [[[5, 3]]])
    folder = tmp_path / "dumps"
    folder.mkdir()
    for rank in (0, 1):
        text = f"layer_id,expert_id,count\n3,0,{rank + 1}\n3,1,1\n"
        (folder / f"{SGLANG.format(rank, '1.0')}.gz").write_bytes(pack(text.encode()))
    assert loads_of(str(folder)) == ([0], [3], [[[3, 2]]])


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_text_of_any_system_is_read(tmp_path, coding, end):
    path = tmp_path / "loads.csv"
    path.write_bytes("layer,expert,tokens\n0,0,5\n0,1,3\n".replace("\n", end).encode(coding))
    assert loads_of(str(path)) == ([0], [0], [[[5, 3]]])


def test_records_follow_each_other_or_have_the_steps_that_they_tell(tmp_path):
    history = {"load_history": [{"logical_expert_load": [[step + 1, 1]]} for step in range(3)]}
    assert loads_of(write(tmp_path, "history.json", json.dumps(history)))[0] == [0, 1, 2]
    lines = [{"iteration": step, "layer": layer, "tokens_per_expert": [step, layer + 1]}
             for step in (10, 20) for layer in (0, 1)]  # fmt: skip
    steps, _, loads = loads_of(write(tmp_path, "megatron.jsonl", lines))
    assert (steps, loads) == ([10, 20], [[[10, 1], [10, 2]], [[20, 1], [20, 2]]])


def test_layers_of_different_numbers_of_experts_are_refused(tmp_path):
    lines = [{"iteration": 1, "layer": layer, "tokens_per_expert": [3] * (4 - layer)} for layer in (0, 1)]
    with pytest.raises(SpecError, match=r"line 2: .*\(3 experts; 4 in rows before\)"):
        read_routing(write(tmp_path, "megatron.jsonl", lines))


def test_layers_and_steps_without_any_tokens_are_left_out_with_a_note(tmp_path):
    # Four layers, of which 0 and 2 are dense; an unused place of the recorder's buffer.
    step = [[0, 0], [1, 2], [0, 0], [3, 4]]
    path = write(tmp_path, "buffer.json", json.dumps({"logical_count": [step, [[0, 0]] * 4, step]}))
    assert loads_of(path) == ([0, 2], [1, 3], [[[1, 2], [3, 4]]] * 2)
    assert read_routing(path).notes[:2] == (
        "MoE layers are those numbered 1, 3; 0, 2 are taken for dense",
        "steps without any tokens, which are left out: 1",
    )


def test_layers_are_read_from_the_first_moe_layer_that_is_told(answered, refused, tmp_path):
    path = write(tmp_path, "loads.csv", HEAD + "0,0,0,9\n0,1,0,5\n0,1,1,3\n0,2,1,4\n")
    assert loads_of(path, layers_from=1) == ([0], [1, 2], [[[5, 3], [0, 4]]])
    layers = answered("routing", "info", path, "--layers-from", 1)["per_layer"]
    assert [layer["layer"] for layer in layers] == [1, 2]
    assert refused("routing", "info", path, "--layers-from", 3) == f"--layers-from 3: {path} has layers up to 2"


def test_a_run_takes_loads_numbered_as_in_the_model(lazsim, tmp_path):
    rows = [f"0,{layer},{expert},{1 + expert}" for layer in range(3, 15) for expert in range(8)]
    path = write(tmp_path, "loads.csv", HEAD + "\n".join(rows))
    run = ("run", "--trace", "fail-every-5min", "--duration", "1min", "--system", "ds", "--routing", path, "--json")
    code, out, err = lazsim(*run)
    assert code == 0, err
    assert json.loads(out)["runs"][0]["steps"] > 0
    assert "MoE layers are those numbered 3-14; 0-2 are taken for dense" in err
    # gpt-s has 12 layers: without layer 3 one is missing.
    assert lazsim(*run, "--layers-from", 4)[::2] == (
        2, f"lazsim: --routing: {path}: 11 layers of 8 experts, but the model has 12 of 8; choose a smaller model, or "
        "generated loads\n",
    )  # fmt: skip


def test_shares_become_counts_of_the_same_ratios(tmp_path):
    # 2**24 / 1 tokens a layer.
    found = read_routing(write(tmp_path, "shares.json", "[[0.5, 0.25, 0.25], [0.75, 0.0, 0.25]]"))
    assert found.tokens_SLE.tolist() == [[[2**23, 2**22, 2**22], [3 * 2**22, 0, 2**22]]]
    assert found.notes == ("loads are fractions: all are multiplied by 16,777,216 and rounded",)
    means = read_routing(write(tmp_path, "means.csv", "layer,expert,tokens\n0,0,1000.5\n0,1,0.5\n"))
    assert means.tokens_SLE[0, 0, 0] == 2001 * means.tokens_SLE[0, 0, 1]


def test_shares_of_experts_can_be_listed_on_the_command_line(answered):
    place = ("place", "--nodes", 2, "--slots", 4, "--policy", "mro", "--loads")
    shares, tokens = (answered(*place, loads)["replicas"] for loads in ("0.6,0.2,0.1,0.1", "6,2,1,1"))
    assert shares == tokens


def test_a_snapshot_tells_how_even_its_layers_are(lazsim, tmp_path):
    path = write(tmp_path, "one.csv", HEAD + "0,0,0,10\n0,0,1,30\n0,1,0,5\n0,1,1,35\n")
    facts = json.loads(lazsim("routing", "info", path, "--json")[1])
    # 30 / 20 and 35 / 20.
    assert [layer["max_over_mean"] for layer in facts["per_layer"]] == [1.5, 1.75]
    assert "1.75" in lazsim("routing", "info", path)[1]


def test_a_snapshot_has_a_picture_of_its_loads(lazsim, tmp_path):
    pictures = []
    for name, loads in (("even", [[1, 1, 1]]), ("skewed", [[5, 1, 1]])):
        path = write(tmp_path, f"{name}.json", json.dumps(loads))
        assert lazsim("routing", "plot", path, "--out", tmp_path / f"{name}.png")[0] == 0
        pictures.append((tmp_path / f"{name}.png").read_bytes())
    assert pictures[0] != pictures[1]


def test_numbers_without_a_name_are_loads_unless_they_look_like_the_experts_of_tokens(tmp_path):
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((256, 64)), axis=1)[:, :8]
    loads = rng.multinomial(4096, rng.dirichlet(np.ones(8)), size=(20, 12))
    np.save(tmp_path / "routes.npy", ids)
    np.save(tmp_path / "routes_of_layers.npy", ids.reshape(32, 8, 8))
    np.savetxt(tmp_path / "routes.csv", ids, fmt="%d", delimiter=",")
    np.savez(tmp_path / "routes.npz", ids)
    write(tmp_path, "routes.json", json.dumps(ids.tolist()))
    for path in tmp_path.glob("routes*"):
        with pytest.raises(SpecError, match=r"look like the experts of tokens \(topk_ids\), not loads"):
            read_routing(str(path))
    np.savez(tmp_path / "named.npz", topk_ids=ids)
    with pytest.raises(SpecError, match="but topk_ids"):
        read_routing(str(tmp_path / "named.npz"))
    np.savez(tmp_path / "loads.npz", tokens=ids)
    np.save(tmp_path / "loads.npy", loads)
    assert read_routing(str(tmp_path / "loads.npz")).tokens_SLE.tolist() == [ids.tolist()]
    assert read_routing(str(tmp_path / "loads.npy")).tokens_SLE.tolist() == loads.tolist()


def test_records_without_a_step_are_said_to_be_of_one_step_each(tmp_path):
    loads = np.arange(12).reshape(2, 2, 3)
    np.savez(tmp_path / "told.npz", iteration=[10, 20], tokens=loads)
    np.savez(tmp_path / "bare.npz", tokens=loads)
    assert not read_routing(str(tmp_path / "told.npz")).notes
    (note,) = read_routing(str(tmp_path / "bare.npz")).notes
    assert note.startswith("records are of steps 0, 1, 2 and so on, of which a run takes 25, 75, 125 and so on: if")


# PyTorch's files.


def save(path, value):
    torch = pytest.importorskip("torch")
    torch.save(value, path)
    return str(path)


def tensor(values, dtype="int32"):
    torch = pytest.importorskip("torch")
    return torch.tensor(values, dtype=getattr(torch, dtype))


def test_a_dump_of_sglangs_counts_is_read_without_torch(tmp_path, run_script):
    dump = {"rank": 0, "logical_count": tensor([[[0, 0], [1, 2]], [[0, 0], [5, 6]]]), "average_utilization": None}
    path = save(tmp_path / "expert_distribution_recorder_17.5.pt", dump)
    script = (
        "import sys; sys.modules['torch'] = None; from lazsim.routing import read_routing; "
        f"r = read_routing({path!r}); print(r.tokens_SLE.tolist(), r.layer_numbers)"
    )
    assert run_script(script) == "[[[1, 2]], [[5, 6]]] (1,)"


def test_dumps_of_passes_add_up_over_ranks_and_replicas(tmp_path):
    # Slots 0 and 2 hold expert 1.
    slots = tensor([[1, 0, 1]])
    for rank in (0, 1):
        records = [{"forward_pass_id": number, "rank": rank, "gatherer_key": "primary",
                    "global_physical_count": tensor([[1, 2, 3 + rank]])} for number in (7, 8)]  # fmt: skip
        dump = {"records": records, "last_physical_to_logical_map": slots}
        save(tmp_path / f"expert_distribution_recorder_17.{rank}_{rank}.pt", dump)
    assert loads_of(str(tmp_path)) == ([7, 8], [0], [[[4, 9]]] * 2)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int16", "uint8"])
def test_tensors_of_every_type_and_layout_are_read(tmp_path, dtype):
    bare = tensor([[1, 4], [2, 5], [3, 6]], dtype)
    assert loads_of(save(tmp_path / "loads.pt", bare.T))[2] == [[[1, 2, 3], [4, 5, 6]]]
    assert loads_of(save(tmp_path / "rows.pt", {3: bare[0], 5: bare[1]}))[1:] == ([3, 5], [[[1, 4], [2, 5]]])


class Harmful:
    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return Path.write_text, (self._path, "done")


def archive(path, code):
    with zipfile.ZipFile(path, "w") as stream:
        stream.writestr("loads/data.pkl", code)
    return str(path)


def test_nothing_in_a_pickle_is_run(tmp_path):
    code = pickle.dumps({"logical_count": Harmful(tmp_path / "harm")}, protocol=2)
    with pytest.raises(SpecError, match="not a readable file of tensors"):
        read_routing(archive(tmp_path / "loads.pt", code))
    (tmp_path / "bare.pt").write_bytes(code)
    with pytest.raises(SpecError, match="a bare pickle may run code"):
        read_routing(str(tmp_path / "bare.pt"))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "code",
    [
        b"\x80\x02N\x85r\xff\xff\xff\xff.",  # a place of the memo that would take gigabytes
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",  # an object made by its class
        b"\x80\x02}K\x01b.",  # a state that is set
        b"\x80\x02X\xff\xff\xff\x7fabc.",  # text that is longer than the file
        b"",
    ],
)
def test_pickles_that_ask_for_more_than_data_are_refused(tmp_path, code):
    with pytest.raises(SpecError, match="not a readable file of tensors"):
        read_routing(archive(tmp_path / "loads.pt", code))


BAD = {
    "rows.csv": ("layer,expert,count\n0,0,5\n0,one,3\n", "line 3: expected layer,expert,count, numbers from 0 up"),
    "twice.csv": ("layer,expert,count\n0,0,5\n0,0,3\n", "line 3: a second row for step 0, layer 0, expert 0"),
    "rank.csv": ("rank,layer,expert,count\n0,0,0,5\n1,0,0,5\n0,0,0,3\n", "line 4: a second row for step 0, layer 0"),
    "rows.json": ('{"layer": 0, "e0": [1, 2], "e1": [3, 4]}', "a field of one expert has several loads"),
    "far.csv": ("layer,topk_ids\n0,99999999\n", "line 2: expected layer,topk_ids, numbers from 0 up"),
    "columns.csv": ("time,tokens\n0,5\n", "not a format of expert loads"),
    SGLANG.format(0, 1): ("layer_id,expert\n", "no loads; give at least one step"),
    SGLANG.format(0, 2): ("expert,count\n0,1\n", "line 1: expected columns such as layer,expert,tokens"),
    SGLANG.format(0, 3): ("", "the file is empty"),
    "broken.json": ('{"load_history": [{"logical', "not valid JSON"),
    "names.json": ('{"seed": 3}', "no loads in it; expected loads by layer and expert"),
    "ragged.json": ('{"logical_count": [[1, 2], [3]]}', "expected loads by layer and expert"),
    "text.json": ('{"logical_count": [["a", "b"]]}', "expected loads by layer and expert"),
    "minus.json": ('{"logical_count": [[1, -2]]}', "step 0, layer 0, expert 1 must be a number from 0 up"),
    "maps.json": ('{"0": ' * 300 + "{}" + "}" * 300, "expected loads by layer and expert"),
    "deep.json": ("[" * 200_000 + "]" * 200_000, "nested too deeply"),
    "line.jsonl": ('{"layer": 0, "tokens": [1]}\n{"layer": 0,\n', "line 2: not valid JSON"),
    "layer.jsonl": ('{"layer": -1, "tokens": [1]}\n', "expected loads by layer and expert"),
    "many.json": ('{"layer": 0, "expert": 70000, "tokens": 1}', "1 layers of 70001 experts are too many"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line_with_the_place(refused, tmp_path, name):
    content, expected = BAD[name]
    assert expected in refused("routing", "info", write(tmp_path, name, content))


def test_lenient_reading_skips_bad_rows_and_records(tmp_path):
    path = write(tmp_path, "rows.csv", "layer,expert,count\n0,0,5\n0,one,3\n0,1,4\n")
    assert loads_of(path, lenient=True)[2] == [[[5, 4]]]
    path = write(tmp_path, "lines.jsonl", '{"layer": 0, "tokens": [1]}\n{"layer": 0,\n{"layer": 0, "tokens": [2]}')
    assert loads_of(path, lenient=True)[2] == [[[3]]]


def test_every_reader_is_listed_with_what_it_reads(lazsim):
    listed = json.loads(lazsim("list", "load-formats", "--json")[1])["load-formats"]
    assert listed == {name: reader.looks for name, reader in READERS.items()}


def test_names_of_columns_are_known_whatever_their_letters():
    assert [role_of(name) for name in ("Layer ID", "layerIdx", "EXPERT", "tokens_per_expert")] == [
        "layer", "layer", "expert", "loads",
    ]  # fmt: skip


def test_an_array_alone_is_one_step_or_several(tmp_path):
    for name, shape in (("one", (2, 3)), ("two", (2, 2, 3))):
        np.save(tmp_path / name, np.arange(1, 1 + np.prod(shape)).reshape(shape))
    assert loads_of(str(tmp_path / "one.npy"))[2] == [[[1, 2, 3], [4, 5, 6]]]
    assert loads_of(str(tmp_path / "two.npy"))[0] == [0, 1]
    assert load_routing(str(tmp_path / "one.npy"), 2, 3, 0).notes[-1].startswith("the loads of step 0")


def test_cases_of_shared_files_give_what_is_expected_of_them(shared):
    cases = shared / "cases"
    if not cases.exists():
        pytest.skip("no cases")
    assert loads_of(str(cases / "sglang-csv-dump")) == ([0], [3, 4], [[[150, 330, 60], [10, 40, 460]]])
    steps, layers, loads = loads_of(str(cases / "layers-numbered-as-in-the-model" / "from_layer_3.csv"))
    assert (steps, layers, loads[0]) == ([0, 1, 2], [3, 4], [[100, 300], [10, 440]])
    steps, layers, loads = loads_of(str(cases / "vllm-load-history-json" / "expert-load.json"))
    assert (steps, layers, loads[2]) == ([0, 1, 2], [0, 1], [[15, 35, 20, 30], [10, 55, 15, 20]])


def snippet(word):
    """The Python example of the guide that has a word in it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/guides/routing.md").read_text(), re.DOTALL)
    return next(block for block in blocks if word in block)


# Two layers; three tokens go to experts 0 and 1, 0 and 2, 0 and 1 of four.
ROUTES_LTK = np.array([[[0, 1], [0, 2], [0, 1]]] * 2)


def test_the_example_for_vllm_writes_what_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = SimpleNamespace(outputs=[SimpleNamespace(routed_experts=ROUTES_LTK.swapaxes(0, 1))])
    llm = SimpleNamespace(generate=lambda prompts: [result])
    exec(
        snippet("enable_return_routed_experts"), {"json": json, "MODEL": "", "prompts": [], "LLM": lambda *_, **__: llm}
    )
    assert loads_of("routes.jsonl") == ([0], [0, 1], [[[3, 2, 1]] * 2])


class TopKRouter:
    """Stands in for the router of Megatron-Core: it gives probabilities and a mask of tokens by experts."""

    def __init__(self, layer_number):
        self.layer_number = layer_number

    def register_forward_hook(self, hook):
        self.call = lambda mask: hook(self, None, (None, mask))


def test_the_example_for_megatron_writes_what_is_read(tmp_path):
    routers = [TopKRouter(number) for number in (4, 5)]
    with open(tmp_path / "loads.rank0.jsonl", "w") as log:
        scope = {"json": json, "log": log, "TopKRouter": TopKRouter, "iteration": 100}
        scope["model"] = SimpleNamespace(modules=lambda: [object(), *routers])
        scope["torch"] = SimpleNamespace(distributed=SimpleNamespace(get_rank=lambda: 0))
        exec(snippet("TopKRouter"), scope)
        mask = np.zeros((3, 4), dtype=bool)
        np.put_along_axis(mask, ROUTES_LTK[0], True, axis=1)
        # Two micro-batches.
        for router in routers * 2:
            router.call(mask)
    assert loads_of(str(tmp_path)) == ([100], [4, 5], [[[6, 4, 2, 0]] * 2])


def test_the_example_for_transformers_writes_what_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gates = [SimpleNamespace(topk=lambda k, ids=ids: SimpleNamespace(indices=ids[:, :k])) for ids in ROUTES_LTK]

    class Model:
        config = SimpleNamespace(num_experts_per_tok=2)

        def __call__(self, output_router_logits):
            return SimpleNamespace(router_logits=gates)

    exec(snippet("output_router_logits"), {"json": json, "model": Model(), "batch": {}, "step": 7})
    assert loads_of("loads.jsonl") == ([7], [0, 1], [[[3, 2, 1]] * 2])


def test_experts_may_be_numbered_from_1(tmp_path):
    rows = [f"{layer},{expert},{10 * layer + expert}" for layer in (0, 1) for expert in range(1, 9)]
    path = write(tmp_path, "loads.csv", "layer,expert,tokens\n" + "\n".join(rows) + "\n")
    assert loads_of(path)[2] == [[[*range(1, 9)], [*range(11, 19)]]]
    assert "experts are numbered from 1 to 8" in read_routing(path).notes
    few = "layer,expert,tokens\n" + "\n".join(f"{layer},{expert},5" for layer in (1, 2) for expert in (1, 2, 3, 4))
    assert loads_of(write(tmp_path, "few.csv", few))[1:] == ([1, 2], [[[5] * 4] * 2])


def test_experts_count_from_0_where_as_many_are_told_or_only_number_1_has_loads(tmp_path):
    told = [{"num_experts": 8, "layer": layer, "expert": e, "tokens": e} for layer in (0, 1) for e in range(1, 8)]
    assert loads_of(write(tmp_path, "told.jsonl", told))[2] == [[[*range(8)]] * 2]
    one = "layer,expert,tokens\n" + "".join(f"{layer},1,5\n" for layer in range(8))
    assert loads_of(write(tmp_path, "one.csv", one))[2] == [[[0, 5]] * 8]


def test_lazsims_own_files_are_read_as_they_were_where_expert_0_has_no_tokens(tmp_path):
    loads = np.arange(20).reshape(1, 2, 10) % 10
    (tmp_path / "loads.csv").write_bytes(write_csv(RecordedRouting(np.array([7]), loads)))
    assert loads_of(str(tmp_path / "loads.csv")) == ([7], [0, 1], loads.tolist())


def test_only_array_of_an_archive_may_have_any_name(tmp_path):
    np.savez(tmp_path / "loads.npz", np.array([[1, 2, 0], [4, 0, 5]]))
    assert loads_of(str(tmp_path / "loads.npz"))[2] == [[[1, 2, 0], [4, 0, 5]]]
    np.savez(tmp_path / "loads.npz", layer_0=np.ones(2), layer_1=np.ones(2))
    with pytest.raises(SpecError, match=r"no array named tokens or loads, of shape .*, but layer_0, layer_1"):
        read_routing(str(tmp_path / "loads.npz"))


def test_log_with_dates_in_brackets_is_no_json(tmp_path):
    path = write(tmp_path, "train.log", "[2025-03-01 00:00:00] iteration 10 | lm loss: 8.1\n")
    with pytest.raises(SpecError, match="not a format of expert loads; give CSV with layer,expert,tokens"):
        read_routing(path)
