"""Feed damaged inputs to the command line: python -m tests.bench_fuzz [--samples N] [--seed S] [--only N].

Every sample is one call in a process that runs many. It must end in exit code 0, or in 2 with one line; within ten
seconds of processor time and two GiB of memory; and leave whole files or none. A sample depends on its number and the
seed alone.
"""

import argparse
import contextlib
import gzip
import importlib.util
import io
import itertools
import json
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lazsim.cli import main as lazsim
from lazsim.cli.sweep import SWEEP_FILES
from lazsim.files.decoding import decode_json
from lazsim.files.writing import TEMPORARY
from tests.conftest import ROOT
from tests.test_trace_readers import SAMPLES

NUM_SAMPLES = 4000
LIMIT_S = 10
"""Processor time of a sample."""
SILENCE_S = 240
"""Time after which a sample that uses no processor counts as one that hangs, on a machine that others use, too."""
MEMORY_BYTES = 2 << 30

CATALOG = ROOT / "lazsim" / "catalog"
KEPT = ("rows.jsonl", "table.csv", ".lazsim.json", *SWEEP_FILES)
"""Files that a refused call may leave: a sweep some of whose runs fail keeps the others, and says that the folder is
its own."""

EXTREMES = (
    "0", "-0.0", "-1", "1", "1.5", "1e-320", "1e-300", "1e308", "1e309", "-1e300", "nan", "inf", "-inf", "30000000",
    "999999999", "4294967296", "99999999999999", "9223372036854775808", "9" * 25, "9" * 5000, "0x7fffffffffffffff",
    "1_000_000", "true", '""', "[]", "{}", "null", '"x1e300"', '"80 parsecs"',
)  # fmt: skip
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?")
WORD = re.compile(r"[A-Za-z_]{2,}")


class Sample(NamedTuple):
    """Files by name, one of which is damaged, and arguments in which ``@`` stands for their folder."""

    files: Mapping[str, bytes]
    arguments: list[str]


@dataclass(frozen=True)
class Target:
    """A kind of input: valid files, the name of the one to damage (none: the arguments), and commands that read it."""

    name: str
    files: Mapping[str, bytes]
    damaged: str | None
    commands: tuple[str, ...]
    read: Callable[[bytes], Any] | None = None


def trace_targets() -> Iterator[Target]:
    ticks = {"metadata": {"gap_seconds": 60}, "data": [4, 4, 3, 4, 2, 4]}
    faults = [
        {"node_id": f"n{node}", "event_time": day, "event_type": kind, "fault_type": {"Level": "Other"}}
        for day, node, kind in ((0.1, 1, "fault_start"), (0.2, 1, "fault_end"), (0.3, 2, "fault_start"))
    ]
    rows = [f'[{ms}, "{kind}", {{"nodes": ["{node}"], "duration": 9}}]' for ms, kind, node in
            ((0, "add", "a"), (0, "add", "b"), (0, "add", "c"), (60000, "remove", "a"), (90000, "add", "d"))
            ]  # fmt: skip
    texts = {
        "bamboo": "".join(f"0,add,n{node}\n" for node in range(5)) + "60000,remove,n1\n120000,add,n7\n",
        "gcloud": "".join(f"2022-03-01, 10:0{minute}:00, {count}\n" for minute, count in enumerate((4, 3, 5, 2, 4))),
        "skypilot": json.dumps(ticks | {"prices": [0.5, 0.5, 0.75, 1, 1, 0.25]}),
        "infinitehbd": json.dumps(faults, indent=1),
        "parcae events": "\n".join(rows),
        "parcae counts": "0,4\n60000,3\n120000,5\n",
        "lazsim": (
            "# format: lazsim-trace 1\n# duration_s: 600\n# usd_per_node_hour: 0:0.5 60:0.75\n# note: by hand\n"
            "# places: a:0 b:1 c:4 d:5 e:6 f:2\n"
            "time_s,event,nodes\n0,add,a b c d e\n60,remove,a\n90,add,f\n"
        ),
    }
    notice = {"detail-type": "EC2 Spot Instance Interruption Warning", "time": "2025-03-01T00:01:00Z"}
    texts |= {name: SAMPLES[name] for name in ("slurm", "kubernetes", "prometheus", "aws", "gcp", "sacctmgr")}
    texts |= {
        "aws notices": json.dumps(notice | {"detail": {"instance-id": "i-1", "instance-action": "terminate"}}),
        "job log": "job_id,node_num,state,start_time,duration\n1,8,NODE_FAIL,2023-05-17 11:01:08,7208\n2,8,FAILED,,3\n",
        "dated counts": "timestamp,num_instances\n" + "".join(f"2025-03-01 00:0{m}:00,{4 - m % 2}\n" for m in range(6)),
        "json lines": "".join(
            json.dumps({"at": f"2025-03-01T00:0{minute}:00Z", "event": event, "host": "a"}) + "\n"
            for minute, event in enumerate(("up", "down", "up", "up", "down"))
        ),
        "lanl": (
            "System,nodes,nodenum,Prob Started,Prob Fixed\n9,4,1,6/21/2005 10:54,6/21/2005 11:00\n"
            "9,4,3,6/22/2005 08:00,6/22/2005 08:00\n9,4,1,6/22/2005 07:59,\n"
        ),
        "outages with durations": (
            "node,start,downtime (hours),kind\nn1,2025-03-01 00:05,2.5,gpu\nn2,2025-03-01 01:00,0.5,disk\n"
            "n1,2025-03-01 06:00,,gpu\n"
        ),
        "outages with texts": "node,start,duration\nn1,2025-03-01 00:05,1h 30min\nn2,2025-03-01 01:00,1 02:03:04\n",
        "samples in columns": '"Time","n-1:9100","n-2:9100","n-3"\n' + "".join(
            f"2025-03-01 00:0{m}:00,1,{m % 2},{'1' if m % 3 else ''}\n" for m in range(6)
        ),
        "samples in rows": "Time,instance,job,Value\n" + "".join(
            f"{1740787200000 + 60000 * m},n{n},node,{int((m + n) % 4 > 0)}\n" for m in range(4) for n in range(3)
        ),
        "machine events": "".join(f"{index * 10**8},{index % 4},{index // 4 % 3},P,1,1\n" for index in range(12)),
    }  # fmt: skip
    commands = (
        "trace info @/trace.csv --json",
        "trace info @/trace.csv --lenient",
        "trace convert @/trace.csv --out @/out/t.csv",
        "run --trace @/trace.csv --system ds --duration 2min --max-nodes 4 --json",
        "recovery --nodes 4 --slots 4 --experts 4 --policy mro --failures-from @/trace.csv --json",
    )
    for name, text in texts.items():
        yield Target(f"trace {name}", {"trace.csv": text.encode()}, "trace.csv", commands)
    forms = {name.split()[-1]: texts[name] for name in texts if name.startswith(("outages", "samples"))}
    forms["events"] = "time_s,event,node\n0,up,a\n0,up,b\n100,down,a\n200,up,a\n"
    options = tuple(
        f"trace info @/{name}.csv {option} --json"
        for name, option in (
            ("durations", "--span 2025-02-28..2025-03-03 --cluster-nodes 4"),
            ("durations", "--span 2025-02-28T00:00Z.. --time-zone Europe/Berlin --where kind=gpu"),
            ("texts", "--span ..2025-03-04 --columns node=node,start=start,duration=duration"),
            ("columns", "--columns time=Time,nodes=n-*"),
            ("rows", "--where job=node --columns time=1,node=2,value=4 --time-unit ms"),
            ("events", "--span 0..300 --columns time=1,event=2,node=3"),
        )
    )
    yield Target("span and columns", {f"{name}.csv": text.encode() for name, text in forms.items()}, None, options)
    yield Target(
        "packed trace", {"t.gz": gzip.compress(texts["bamboo"].encode())}, "t.gz", ("trace info @/t.gz --json",)
    )
    stream = io.BytesIO()
    frame = pd.DataFrame({"time_s": [0, 60, 120], "count": [4, 3, 4]})
    frame.to_parquet(stream)
    yield Target("trace parquet", {"t.parquet": stream.getvalue()}, "t.parquet", ("trace info @/t.parquet --json",))
    mapping = (CATALOG / "mappings" / "lanl.toml").read_bytes()
    files = {"mine.toml": mapping, "t.csv": texts["lanl"].encode()}
    yield Target("mapping", files, "mine.toml", ("trace info @/t.csv --format @/mine.toml --json",))
    options = (
        "trace info @/t.csv --columns node=nodenum,start=4,end=5 --time-format %m/%d/%Y --time-zone Europe/Berlin",
        "trace info @/t.csv --format lanl --where System!=8 --cluster-nodes 1,[2-4]",
        "trace info @/t.csv --format lanl --where System=9 --time-unit s --cluster-nodes 9 --json",
    )
    yield Target("mapping options", files, None, options)


def pytorch_file() -> bytes:
    """Make what ``torch.save({"logical_count": torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])})`` writes, without torch."""
    rebuild = b"\x80\x02}X\r\0\0\0logical_countctorch._utils\n_rebuild_tensor_v2\n"
    storage = b"((X\7\0\0\0storagectorch\nLongStorage\nX\1\0\0\0000X\3\0\0\0cpuK\x08tQ"
    code = rebuild + storage + b"K\0K\2K\4\x86K\4K\1\x86\x89ccollections\nOrderedDict\n)RtRs."
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("loads/data.pkl", code)
        archive.writestr("loads/data/0", np.array([3, 1, 4, 1, 5, 9, 2, 6], dtype="<i8").tobytes())
    return stream.getvalue()


def safetensors_file() -> bytes:
    header = json.dumps({"weight": {"dtype": "I32", "shape": [2, 4], "data_offsets": [0, 32]}}).encode()
    return len(header).to_bytes(8, "little") + header + np.arange(1, 9, dtype="<i4").tobytes()


def routing_targets() -> Iterator[Target]:
    tokens = np.arange(2 * 2 * 4).reshape(2, 2, 4) + 1
    stream = io.BytesIO()
    np.savez_compressed(stream, iteration=[0, 10], tokens=tokens)
    rows = [f"{step * 10},{layer},{expert},{tokens[step, layer, expert]}"
            for step, layer, expert in itertools.product(range(2), range(2), range(4))]  # fmt: skip
    recordings = {
        "loads.csv": "\n".join(["# lazsim-routing 1", "step,layer,expert,tokens", *rows, ""]).encode(),
        "loads.npz": stream.getvalue(),
        "table_iter1_rank0.log": b"0:[[3, 1, 4, 1], [5, 9, 2, 6]]\n1:[[2, 7, 1, 8], [2, 8, 1, 8]]\n",
        "sglang.csv": b"layer_id,expert_id,count\n3,0,5\n3,1,4\n3,2,7\n4,0,2\n4,3,9\n",
        "routes.csv": b'token,layer,topk_ids\n0,3,"[0, 2]"\n1,3,1 3\n0,4,2 0\n1,4,1 0\n',
        "matrix.csv": b"1.5,2,0,4\n4,0,5,0.25\n",
        "vllm.json": json.dumps(
            {"load_history": [{"logical_expert_load": loads} for loads in tokens.tolist()]}
        ).encode(),
        "megatron.jsonl": b"".join(
            json.dumps({"iteration": step, "layer": layer, "tokens_per_expert": tokens[step, layer].tolist()}).encode()
            + b"\n"
            for step, layer in itertools.product(range(2), range(2))
        ),
        "loads.pt": pytorch_file(),
        "loads.safetensors": safetensors_file(),
    }
    for name, content in recordings.items():
        yield Target(f"routing {name}", {name: content}, name, (
            f"routing info @/{name} --json", f"routing convert @/{name} --lenient --out @/out/loads.csv",
            f"place --loads @/{name} --nodes 4 --slots 3 --policy mro --json",
        ))  # fmt: skip
    generator = (CATALOG / "routing" / "smartmoe-fit.toml").read_bytes()
    yield Target("routing generator", {"mine.toml": generator}, "mine.toml", (
        "routing generate @/mine.toml --layers 2 --experts 4 --steps 100 --out @/out/loads.csv",
        "run --trace fail-every-5min --duration 1min --system ds --routing @/mine.toml --json",
        "place --loads @/mine.toml --experts 8 --nodes 4 --slots 4 --policy mro --json",
    ))  # fmt: skip


def spec_targets() -> Iterator[Target]:
    run = "run --trace fail-every-5min --duration 1min --system {} --json {}"
    cluster = (CATALOG / "clusters" / "rtx3090x10.toml").read_bytes()
    for kind, name in (("model", "gpt-s"), ("cluster", "rtx3090x10"), ("job", "testbed-a")):
        content = (CATALOG / f"{kind}s" / f"{name}.toml").read_bytes()
        commands = tuple(run.format(system, f"--{kind} @/mine.toml") for system in ("lazarus", "ds", "ds-ft"))
        if kind == "model":
            lose = "place --nodes 4 --slots 4 --experts 8 --policy mro --lose 1 --json --model @/mine.toml"
            commands += (lose, "live --steps 1 --batch 16777216 --model @/mine.toml")
        yield Target(kind, {"mine.toml": content}, "mine.toml", commands)
    config = {
        "model_type": "mixtral", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "head_dim": 64,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 8, "num_experts_per_tok": 2,
        "first_k_dense_replace": 1, "mlp_only_layers": [2], "vocab_size": 1000, "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 2, "text_config": {"n_shared_experts": 1},
    }  # fmt: skip
    yield Target("config", {"config.json": json.dumps(config).encode()}, "config.json", (
        "model import @/config.json --out @/mine.toml --json", run.format("ds", "--model @/config.json"),
    ))  # fmt: skip
    units = cluster.replace(b"12.5e9", b'"100Gbps"').replace(b"20e-6", b'"20us"').replace(b"26.9 ", b'"26.9s" ')
    yield Target("units", {"mine.toml": units}, "mine.toml", (run.format("ds", "--cluster @/mine.toml"),))
    gpu = (CATALOG / "gpus" / "h100.toml").read_bytes()
    here = cluster.replace(b'gpu = "rtx3090"', b'gpu = "@/gpu.toml"')
    yield Target("gpu", {"gpu.toml": gpu, "cluster.toml": here}, "gpu.toml", (
        run.format("lazarus", "--cluster @/cluster.toml"), run.format("tutel", "--cluster @/cluster.toml"),
    ))  # fmt: skip
    for name in ("spot-p3-like", "fail-every-5min", "meta-rsc-1"):
        recipe = (CATALOG / "traces" / f"{name}.toml").read_bytes()
        yield Target(f"recipe {name}", {"mine.toml": recipe}, "mine.toml", (
            "trace generate @/mine.toml --out @/out/t.csv",
            "run --trace @/mine.toml --duration 1min --max-nodes 8 --system ds --json",
        ))  # fmt: skip
    market = b"kind = 'market'\nnum_nodes = 8\nloss_prob = 0.1\nduration_s = 86400.0\n"
    pool = b"""kind = 'pool'\nnum_servers = 90\nnum_standbys = 4\npool_servers = 99\nspare_servers = 9\nwork_s = 86400.0
failures_per_day = 0.5\nbad_share = 0.1\nbad_multiple = 5.0\nrecovery_s = 600.0\nselection_s = 180.0
preemption_s = 60.0\nauto_repair_s = 7200.0\nmanual_repair_s = 9e4\nmanual_share = 0.8
auto_fail_prob = 0.4\nmanual_fail_prob = 0.2\n"""
    for name, recipe in (("market", market), ("pool", pool)):
        made = ("trace generate @/mine.toml --out @/out/t.csv",)
        yield Target(f"recipe {name}", {"mine.toml": recipe}, "mine.toml", made)
    import msgspec

    from lazsim.live.spec import SMALL_MODEL, LiveSpec
    from lazsim.specs import JobSpec, load_spec

    live = msgspec.json.encode(LiveSpec(model=SMALL_MODEL, job=load_spec(JobSpec, "testbed-a")))
    yield Target("live spec", {"live.json": live}, "live.json", ("",), lambda content: decode_json(content, LiveSpec))


def sweep_targets() -> Iterator[Target]:
    spec = b"""[base]
trace = "fail-every-5min"
duration = "1min"
system = "ds"
"cluster.recovery.detect_s" = "x0.5"
"job.fault_threshold" = 2
max_nodes = 8

[grid]
seed = [0, 1]
model = ["gpt-s"]
"""
    sweep = "sweep @/sweep.toml --jobs 1 --json --out @/out"
    yield Target("sweep", {"sweep.toml": spec}, "sweep.toml", (sweep,))
    with tempfile.TemporaryDirectory() as folder:
        outcome = call(Sample({"sweep.toml": spec}, sweep.split()), Path(folder))
        assert outcome.kind == "ok", outcome
        rows = (Path(folder) / "out" / "rows.jsonl").read_bytes()
    yield Target("rows of a sweep", {"sweep.toml": spec, "out/rows.jsonl": rows}, "out/rows.jsonl", (sweep,))
    script = b'''"""An experiment of my own."""
import pandas as pd
from lazsim.placement.policies import place
from lazsim.placement.request import PlacementRequest
from lazsim.study.experiment import Outcome

SETTINGS = {"nodes": 3, "slots": 2, "replicas": [[2, 2, 2]], "policy": "mro"}
SMALL = {"nodes": 3}


def run(context, settings):
    request = PlacementRequest(settings["replicas"], settings["nodes"], settings["slots"])
    plan = place(settings["policy"], request)
    return Outcome({"plan": pd.DataFrame({"node": [0, 1, 2], "first": plan.slots_LNS[0, :, 0]})}, notes=("by hand",))
'''
    experiment = "experiment run @/mine.py --jobs 1 --out @/out"
    commands = (experiment, f"{experiment} --small --json")
    yield Target("experiment", {"mine.py": script}, "mine.py", commands)


def measurement_targets() -> Iterator[Target]:
    profile = CATALOG / "profiles" / "cpu" / "gpt-s.csv"
    if not profile.exists():
        profile = next(iter(sorted((CATALOG / "profiles").glob("*/gpt-s.csv"))))
    files = {"p.csv": profile.read_bytes(), "p.json": profile.with_suffix(".json").read_bytes()}
    commands = (
        "profile show @/p.csv --json", "profile show @/p.csv", "profile check @/p.csv --json",
        "run --trace fail-every-5min --duration 1min --system ds --profile @/p.csv --extrapolate --json",
    )  # fmt: skip
    for name in files:
        yield Target(f"profile {name}", files, name, commands)
    bare = b"kernel,size,time_s\nexpert,16,0.0001\nexpert,4096,0.004\ndense,4096,0.05\ndense,8192,0.1\n"
    yield Target("bare profile", {"p.csv": bare}, "p.csv", commands[2:])
    rows = [f"h100,{m},{n},{k},{2 * m * n * k / 5e8 + 5:.4g}"
            for m, n, k in itertools.product((64, 512), (1024, 2048), (1024, 4096))]  # fmt: skip
    exchanges = [
        f"h100,{op},8,{size},{size / 3e5 + 20:.4g}" for op in ("alltoall", "all_reduce") for size in (2**21, 2**24)
    ]
    tables = {
        "gemm_bf16.csv": "\n".join(["gpu,m,n,k,time_us", *rows]).encode(),
        "nccl_single_node.csv": "\n".join(["gpu,op_name,num_gpus,nbytes,time_us", *exchanges]).encode(),
    }
    for name, content in tables.items():
        yield Target(f"kernel table {name}", {name: content}, name, ("verify --kernels @ --json",))


def step_targets() -> Iterator[Target]:
    step = "step --model {} --cluster {} --gpus 16 --layout expert=8 --layout global_batch=64 --json{}"
    model = (CATALOG / "models" / "deepseek-v3.toml").read_bytes()
    yield Target("model of a step", {"mine.toml": model}, "mine.toml", (step.format("@/mine.toml", "dgx-h100", ""),))
    cluster = (CATALOG / "clusters" / "gb200-nvl72.toml").read_bytes()
    commands = (step.format("gpt-oss-20b", "@/mine.toml", ""),)
    yield Target("cluster of a step", {"mine.toml": cluster}, "mine.toml", commands)
    layout = (
        b"\n[parallel]\nglobal_batch = 64\npipeline = 2\nvirtual_stages = 2\nstages = 'Et*6|(t*6|)*2t*6L'\nexpert = 8\n"
    )
    job = (CATALOG / "jobs" / "testbed-a.toml").read_bytes() + layout
    yield Target("layout", {"mine.toml": job}, "mine.toml", (
        "step --model gpt-oss-20b --cluster dgx-h100 --gpus 16 --job @/mine.toml --json",
    ))  # fmt: skip
    yield Target("layout options", {}, None, (
        "step --model gpt-oss-20b --cluster dgx-h100 --gpus 16 --layout tensor=2 --layout global_batch=64 --json",
        "step --model deepseek-v3 --cluster gb200-nvl72 --layout precision=mxfp8 --layout recompute=full --json",
        "verify --only grok1 --json",
    ))  # fmt: skip
    head, *lines = (CATALOG / "measured" / "training.csv").read_bytes().splitlines()
    rows = [line for line in lines if line.startswith((b"r043,", b"r195,"))]
    mine = [row.replace(b"grok1_314b", b"mine").replace(b"DGX-H100", b"here") for row in rows[-1:]]
    files = {
        "runs.csv": b"\n".join([head, *rows, *mine, b""]),
        "models.csv": (
            b"model_key,layers_total,moe_layers,d_model,heads,kv_heads,head_dim,experts,topk,expert_d_ff,vocab\n"
            b"mine,64,64,6144,48,8,128,8,2,32768,131072\n"
        ),
        "systems.csv": (
            b"system,gpu,gpus_per_node,gpus_per_nvlink_domain,nvlink_GBps_per_dir,nic_Gbps_per_gpu\nhere,H100,8,8,450,400\n"
        ),
    }
    for name in files:
        yield Target(f"measured {name}", files, name, ("verify --rows @/runs.csv --json",))
    outcomes = (
        b"id,metric,value,unit,tolerance_hint,replay,inputs\n"
        b"a,stacks,2,stacks,exact,stacks-after-failures,N=4; k=1\nGEM-02,survival,0.933,prob,0.002,,\n"
    )
    yield Target("outcomes", {"mine.csv": outcomes}, "mine.csv", ("verify --rows @/mine.csv --json",))


def log_targets() -> Iterator[Target]:
    compare = "compare --observed @/log --trace fail-every-5min --system ds --duration 1min --json"
    logs = {
        "csv": b"time,step\n1,1\n2,2\n3,3\n90,4\n91,2\n92,3\n",
        "megatron": b"".join(b"[2025-03-01 00:00:%02d] iteration %d/ 50 |\n" % (step, step) for step in range(1, 6)),
        "mlperf": b"".join(
            b':::MLLOG {"time_ms": %d, "metadata": {"samples_count": %d}}\n' % (1000 * n, n) for n in range(1, 6)
        ),
    }
    for name, content in logs.items():
        yield Target(f"log {name}", {"log": content}, "log", (compare,))


def option_targets() -> Iterator[Target]:
    policy = b"def plan(request):\n    return [[[0, 1], [2, 3], [0, 1], [2, 3]]]\n"
    place = "place --nodes 4 --slots 2 --experts 4 --policy @/mine.py:plan --json"
    yield Target("custom mapping", {"mine.py": policy}, "mine.py", (place,))
    yield Target("domains", {"racks.txt": b"a,a,b,b\n# c\n"}, "racks.txt", (
        "recovery --nodes 4 --slots 4 --experts 4 --policy mro --domains @/racks.txt --json",
    ))  # fmt: skip
    old = b'{"plans": {"mro": [[0, 1], [2, 3], [0, 1], [2, null]]}}'
    yield Target("old plan", {"old.json": old}, "old.json", (
        "place --nodes 4 --slots 2 --experts 4 --groups 4 --policy steady --old @/old.json --json",
        "place --nodes 4 --slots 2 --experts 4 --old @/old.json:mro --move-cost 0",
    ))  # fmt: skip
    yield Target("options", {}, None, (
        "place --nodes 4 --slots 6 --experts 8 --loads 8,7,6,5,4,3,2,1 --min-replicas 2 --policy mro --json",
        "place --nodes 3 --slots 4 --replicas 2,2,4,4 --gpus-per-node 2 --lose 0 --seed 3 --layer 0 --json",
        "place --nodes 4 --slots 6 --experts 8 --loads zipf:1.2 --layers 2 --policy eplb --json",
        "recovery --nodes 6 --slots 2 --experts 4 --failures 1-3,5 --policy mro --method montecarlo --json",
        "recovery --nodes 4 --slots 2 --experts 4 --domains 0,0,1,1 --node-fail-prob 0.1,0.2 --policy spread --json",
        "run --trace fail-every-5min --start 5min --duration 2min --max-nodes 8 --seed 3 --system ds --json",
        "routing generate smartmoe-fit --layers 2 --experts 4 --steps 100 --seed 1 --out @/out/loads.csv",
        "trace generate spot-p3-like --seed 5 --out @/out/t.csv",
        "trace generate --nodes 4 --node-mtbf 5d --repair 4h --repair-sigma 1 --batch-share 1 --domains 2",
        "recovery --cluster gb200-nvl72 --nodes 20 --experts 8 --policy domains --policy euclid --json",
        "list models --json",
    ))  # fmt: skip


def all_targets() -> list[Target]:
    kinds = (
        trace_targets,
        routing_targets,
        spec_targets,
        sweep_targets,
        measurement_targets,
        step_targets,
        log_targets,
        option_targets,
    )
    return [target for kind in kinds for target in kind()]


# Damage.


def in_bytes(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    stop = min(len(content), start + rng.choice((0, 1, 1, 4, 50)))
    piece = rng.choice(
        (b"", bytes([rng.randrange(256)]), rng.randbytes(4), content[start:stop] * 2, b"\0", b"\r", b'"')
    )
    return content[:start] + piece + content[stop:]


def in_tokens(content: bytes, rng: random.Random) -> bytes:
    text = content.decode("latin-1")
    tokens = list(rng.choice((NUMBER, NUMBER, WORD)).finditer(text))
    if not tokens:
        return in_bytes(content, rng)
    token = rng.choice(tokens)
    new = rng.choice((*EXTREMES, rng.choice(tokens)[0]))
    return (text[: token.start()] + new + text[token.end() :]).encode("latin-1")


def in_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    line = lines.pop(at)
    lines[to:to] = [line] * rng.choice((0, 0, 1, 2, 200))
    return b"\n".join(lines)


def in_structure(content: bytes, rng: random.Random) -> bytes:
    text = content.decode("latin-1")
    deep = rng.choice((20, 1000, 20_000))
    nested = rng.choice(("[" * deep + "]" * deep, '{"a":' * deep + "1" + "}" * deep, "a." * deep + "a = 1"))
    at = rng.choice([match.start() for match in NUMBER.finditer(text)] or [0])
    return rng.choice((
        lambda: content[: rng.randrange(len(content) + 1)],
        lambda: b"\xef\xbb\xbf" + content,
        lambda: text.encode("utf-16"),
        lambda: content.replace(b"\n", b"\r\n"),
        lambda: content.replace(b"\n", b"\r"),
        lambda: content * 2,
        lambda: b"",
        lambda: (text[:at] + nested + text[at:]).encode("latin-1"),
        lambda: (text + "\n" + nested).encode("latin-1"),
        lambda: (text[:at] + "7" * 131_073 + text[at:]).encode("latin-1"),
        lambda: text.replace("a", "\u2028", 1).encode(),
        lambda: text.replace("e", "\xe9", 1).encode("latin-1"),
    ))()  # fmt: skip


def make_sample(targets: list[Target], seed: int, number: int) -> tuple[Target, Sample]:
    rng = random.Random(f"{seed} {number}")
    target = targets[number % len(targets)]
    arguments = rng.choice(target.commands).split()
    files = dict(target.files)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        damage = rng.choice((in_bytes, in_tokens, in_tokens, in_tokens, in_lines, in_structure))
        if target.damaged is not None:
            files[target.damaged] = damage(files[target.damaged], rng)
        else:
            at = rng.randrange(1, len(arguments))
            damage = rng.choice((in_bytes, in_tokens, in_tokens))
            changed = (
                damage(arguments[at].encode("utf-8", "surrogateescape"), rng)
                .decode("utf-8", "surrogateescape")
                .replace("\0", "")
            )
            # A number of worker processes or a place to write to is no input to damage.
            arguments[at] = arguments[at] if arguments[at].startswith(("@", "--")) else changed
    return target, Sample(files, arguments)


# Calls.


class Outcome(NamedTuple):
    """``ok``, ``refused``, ``traceback``, ``hang`` or ``partial``, and why."""

    kind: str
    why: str = ""


class _HangError(BaseException):
    """A sample has used its processor time."""


def _stop(_number: int, _frame: object) -> None:
    raise _HangError


def call(sample: Sample, folder: Path, read: Callable[[bytes], Any] | None = None) -> Outcome:
    """Make the call of a sample in an empty folder."""
    for name, content in sample.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # The one file of a sample that names another one is never damaged.
        path.write_bytes(content.replace(b'"@/', f'"{folder}/'.encode()))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    arguments = [argument.replace("@", str(folder)) for argument in sample.arguments]
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            if read is not None:
                read(next(iter(sample.files.values())))
            else:
                lazsim(arguments)
    except SystemExit as ended:
        code = ended.code or 0
    except ValueError as error:
        if read is None:
            return Outcome("traceback", _last_lines(error))
        code, _ = 2, err.write("lazsim: refused\n")
    except (_HangError, KeyboardInterrupt):
        return Outcome("hang", f"more than {LIMIT_S} s of processor time")
    except BaseException as error:
        return Outcome("traceback", _last_lines(error))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return _judge(code, err.getvalue(), folder, before)


def _judge(code: Any, told: str, folder: Path, before: Mapping[Path, bytes]) -> Outcome:
    written = (path for path in folder.rglob("*") if path.is_file() and path not in before)
    # Python itself keeps what it has compiled of a user's script.
    new = sorted(path.name for path in written if path.suffix != ".pyc")
    if any(name.startswith(TEMPORARY) for name in new):
        return Outcome("partial", f"temporary files are left: {new}")
    if code == 0:
        return Outcome("ok")
    lines = [line for line in told.split("\n") if line and not line.startswith("note: ")]
    if code != 2 or len(lines) != 1 or not lines[0].startswith("lazsim: "):
        return Outcome("traceback", f"exit code {code}, {told[-300:]!r}")
    if left := [name for name in new if name not in KEPT]:
        return Outcome("partial", f"refused, and left {left}")
    return Outcome("refused", lines[0])


def _last_lines(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return f"{type(error).__name__}: {str(error)[:200]} at " + ", ".join(
        f"{Path(f.filename).name}:{f.lineno}" for f in frames
    )


def run_samples(seed: int, numbers: range) -> None:
    """Make the calls of some samples, and print a line of JSON for each."""
    targets = all_targets()
    # Python's own remarks on a user's script are no lines of lazsim's.
    warnings.simplefilter("ignore", SyntaxWarning)
    if importlib.util.find_spec("torch") is not None:
        # Its libraries for GPUs take more addresses than samples may.
        importlib.import_module("torch")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, resource.RLIM_INFINITY))
    for number in numbers:
        target, sample = make_sample(targets, seed, number)
        folder = Path(tempfile.mkdtemp(prefix="lazsim-fuzz-"))
        outcome = call(sample, folder, target.read)
        shutil.rmtree(folder)
        print(json.dumps([number, target.name, *outcome]), flush=True)


def fuzz(num_samples: int, seed: int, first: int = 0) -> tuple[Counter[str], list[str]]:
    """Make samples in a child process; return how many ended in which way, and a line for each that failed."""
    counts: Counter[str] = Counter()
    failed: list[str] = []
    number, stop = first, first + num_samples
    while number < stop:
        command = [sys.executable, "-m", "tests.bench_fuzz", "--seed", str(seed), "--piece", str(number), str(stop)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
            assert child.stdout is not None
            while number < stop:
                if not select.select([child.stdout], [], [], SILENCE_S)[0] or not (line := child.stdout.readline()):
                    child.kill()
                    result = [number, "?", "hang", f"the process ended or was silent for {SILENCE_S} s"]
                else:
                    result = json.loads(line)
                number = result[0] + 1
                counts[result[2]] += 1
                if result[2] not in ("ok", "refused"):
                    repeat = f"python -m tests.bench_fuzz --seed {seed} --only {result[0]}"
                    failed.append(f"{result[2]}: {result[1]}: {result[3]}; repeat: {repeat}")
                if result[1] == "?":
                    break
    return counts, failed


def repeat(seed: int, number: int) -> None:
    """Make one sample again, in a folder that is kept."""
    target, sample = make_sample(all_targets(), seed, number)
    folder = Path(tempfile.mkdtemp(prefix="lazsim-fuzz-"))
    print(f"{target.name}: lazsim {' '.join(sample.arguments)!r} in {folder}")
    print(call(sample, folder, target.read))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=NUM_SAMPLES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--piece", type=int, nargs=2)
    options = parser.parse_args()
    if options.piece:
        run_samples(options.seed, range(*options.piece))
        return
    if options.only is not None:
        repeat(options.seed, options.only)
        return
    counts, failed = fuzz(options.samples, options.seed, options.first)
    print("\n".join(failed))
    kinds = ("ok", "refused", "traceback", "hang", "partial")
    print(
        f"seed {options.seed}, {sum(counts.values())} samples: " + ", ".join(f"{kind} {counts[kind]}" for kind in kinds)
    )
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
