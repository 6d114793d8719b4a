import csv
import json
import re
import tomllib

import pytest

from lazsim.specs import FusedExpertsSpec, NetworkSpec
from tests.test_fit import write_collectives, write_matmuls


@pytest.fixture
def measurements(tmp_path):
    """A folder of made-up times of a GPU of the catalogue."""
    for write in (write_matmuls, write_collectives):
        path = write(tmp_path)
        path.write_text(path.read_text().replace("made-up", "h100"))
    (tmp_path / "fused_moe_bf16.csv").write_text(
        "gpu,num_tokens,hidden_size,inter_size,topk,num_experts,moe_ep_size,distribution,time_us\n"
        + "".join(f"h100,{tokens},1024,4096,2,8,1,balanced,{tokens}\n" for tokens in range(512, 5120, 512))
    )
    return tmp_path


def test_a_table_of_errors_fits_a_terminal(lazsim, measurements):
    code, out, _ = lazsim("verify", "--kernels", measurements)
    assert code == 0
    assert all(len(line) <= 80 for line in out.splitlines())
    for words in ("matmul", "experts", "alltoall", "all_reduce", "held out, m >= 512", "median", "90 %"):
        assert words in out


def test_json_holds_the_errors_and_the_new_fit(answered, measurements):
    answer = answered("verify", "--kernels", measurements)
    fits = [row for row in answer["rows"] if (row["metric"], row["model"]) == ("matmul", "this fit")]
    # The times were made by the model itself, with other parameters than those of the GPU of that name.
    assert all(row["median"] < 1e-3 for row in fits)
    assert [row["points"] for row in fits] == ["held out", "held out, m >= 512"]
    assert [row["id"] for row in fits] == [f"h100 matmul, this fit, {row['points']}" for row in fits]
    medians = [row["median"] for row in answer["rows"] if row["model"] == "catalogue"]
    assert answer["summary"]["kernels"] == {"num_rows": len(answer["rows"]), "max_median": max(medians)}
    links = answer["refit"]["clusters of h100"]["network"]
    assert (links["local_bytes_per_s"], links["local_latency_s"]) == pytest.approx((200e9, 9e-6), rel=1e-3)
    ring = (links["local_all_reduce_bytes_per_s"], links["local_all_reduce_latency_s"])
    assert ring == pytest.approx((300e9, 3e-6), rel=1e-3)


def test_refit_prints_lines_for_the_catalogue(lazsim, measurements):
    code, out, _ = lazsim("verify", "--kernels", measurements, "--gpu", "h100", "--refit")
    assert code == 0
    files = {section.splitlines()[0]: tomllib.loads(section) for section in re.split(r"\n\n(?=#)", out)}
    assert list(files) == ["# gpus/h100", "# clusters of h100"]
    gpu = files["# gpus/h100"]
    # 100 TFLOP/s * 0.7 were made up; the datasheet of the GPU of that name says 989
    assert gpu["matmul_efficiency"] == pytest.approx(70 / 989, rel=0.01)
    assert gpu["kernel_overhead_s"] == pytest.approx(7e-6, rel=0.01)
    # Tables go where the files of the catalogue have them.
    assert set(gpu["fused_experts"]) == set(FusedExpertsSpec.__struct_fields__)
    assert set(files["# clusters of h100"]["network"]) < set(NetworkSpec.__struct_fields__)


def test_a_folder_with_only_matmuls_is_enough(lazsim, measurements):
    (measurements / "fused_moe_bf16.csv").unlink()
    (measurements / "nccl_single_node.csv").unlink()
    code, out, _ = lazsim("verify", "--kernels", measurements)
    assert code == 0
    assert "matmul" in out
    assert "experts" not in out


def test_a_gpu_of_ones_own_can_be_compared(lazsim, write, tmp_path):
    from lazsim.specs import read_spec_bytes

    write_matmuls(tmp_path)
    own = write(read_spec_bytes("gpus", "h100").decode().replace('"h100"', '"made-up"'), "own.toml")
    code, out, _ = lazsim("verify", "--kernels", tmp_path, "--gpu", own)
    assert code == 0
    assert "made-up" in out


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--gpu", "v100"], "--gpu v100: not in the measurements; measured are h100"),
        (["--gpu", "h10"], "did you mean 'h100'"),
        (["--only", "softmax"], "--only softmax: none of the 18 rows has this text"),
        (["--rows", "runs.csv"], "--rows has no effect beside --kernels"),
        (["--refit", "--only", "matmul"], "--only has no effect beside --refit"),
    ],
)
def test_bad_input_is_one_line_and_code_2(refused, measurements, options, complaint):
    assert complaint in refused("verify", "--kernels", measurements, *options)


def test_a_folder_without_measurements_is_refused(refused):
    assert refused("verify", "--kernels", "nowhere").startswith("--kernels nowhere: holds none of gemm_bf16.csv")


def test_the_former_command_names_the_new_one(lazsim):
    assert lazsim("calibrate", "--refit") == (2, "", "lazsim: calibrate is gone; give lazsim verify --kernels DIR\n")


def test_only_out_and_tolerance_hold_for_kernels(lazsim, measurements, tmp_path):
    options = ("verify", "--kernels", measurements, "--out", tmp_path / "out")
    # The times were made with 70 of the 989 TFLOP/s of the catalogue.
    assert lazsim(*options, "--only", "matmul, catalogue", "--tolerance", 0.1)[0] == 1
    assert lazsim(*options, "--only", "matmul, catalogue", "--tolerance", 1)[0] == 0
    rows = list(csv.DictReader((tmp_path / "out" / "verify.csv").read_text().splitlines()))
    assert [(row["group"], row["metric"], row["model"]) for row in rows] == [("h100", "matmul", "catalogue")] * 2
    assert all(0.5 < float(row["median"]) < 1 for row in rows)
    assert len(json.loads((tmp_path / "out" / "verify.json").read_text())["rows"]) == 2


@pytest.mark.parametrize("row", ["8,1024,9", "1,268435456,9"])
def test_a_table_without_large_exchanges_between_gpus_has_no_rows(lazsim, tmp_path, row):
    (tmp_path / "nccl_single_node.csv").write_text(f"gpu,op_name,num_gpus,nbytes,time_us\nh100,alltoall,{row}\n")
    code, out, _ = lazsim("verify", "--kernels", tmp_path)
    assert (code, out) == (0, "no row has a prediction\n")


def test_a_gpu_that_is_not_compared_is_named(lazsim, measurements):
    path = measurements / "gemm_bf16.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1].replace("h100", "l40s") + "\n")
    code, out, err = lazsim("verify", "--kernels", measurements)
    assert (code, "l40s" in out) == (0, False)
    assert "note: measured, but not in the catalogue: l40s; give a TOML file as --gpu" in err


def test_gpus_that_are_in_no_catalogue_are_named(refused, tmp_path):
    write_matmuls(tmp_path)
    assert "none of the measured GPUs (made-up) is in the catalogue" in refused("verify", "--kernels", tmp_path)


def test_the_reference_measurements_are_found_and_compared(lazsim, shared):
    code, out, _ = lazsim("verify", "--kernels", shared / "measurements", "--json")
    assert code == 0
    rows = json.loads(out)["rows"]
    assert {row["group"] for row in rows} == {"a100", "h100", "h200"}
    # NVLink of H100 carries 450 GB/s in each direction (datasheet): no fit may exceed it.
    refit = json.loads(out)["refit"]
    for gpu in ("h100", "h200"):
        links = refit[f"clusters of {gpu}"]["network"]
        assert all(links[name] < 450e9 for name in ("local_bytes_per_s", "local_all_reduce_bytes_per_s"))
