"""``lazsim profile``: measure kernels on this machine's device, and look at the results."""

import statistics
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.effects import is_given
from lazsim.cli.base.messages import CommandGroup
from lazsim.cli.base.options import json_option, kept, options, out_option, seed_option
from lazsim.cli.base.progress import progress
from lazsim.cli.base.results import note, print_parts, show, write_out
from lazsim.cli.base.torch_needed import require_torch
from lazsim.errors import LazsimError
from lazsim.limits import MAX_EXPERTS
from lazsim.units import counted

if TYPE_CHECKING:
    from lazsim.stepmodel.tables import KernelTables

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16")

device_option = click.option(
    "--device", type=kinds.OneOf(DEVICES), default="auto", help="auto: a GPU where there is one."
)
dtype_option = click.option(
    "--dtype", type=kinds.OneOf(DTYPES), default="auto", help="auto: float32 on a CPU, bfloat16 on a GPU."
)
catalog_model_option = click.option("--model", default="gpt-s", metavar="NAME", help="Its model, if NAME is a device.")
measuring = partial(progress, doing="measuring")
virtual_rank_options = options(
    device_option,
    dtype_option,
    click.option("--profile", metavar="FILE|NAME", help="Predict from this; default: measure one expert first."),
    click.option("--threads", type=kinds.WORKERS, help="Threads of a kernel on a CPU; see lazsim profile."),
    click.option("--budget", type=kinds.DURATION, default="10min", help="Time for all of it."),
    seed_option,
)


@click.group(cls=CommandGroup, invoke_without_command=True)
@device_option
@dtype_option
@click.option("--model", default="gpt-s", metavar="NAME|TOML|JSON", help="Model whose shapes are measured.")
@click.option("--kernel", "kernels", multiple=True, metavar="NAME", help="Measure only this one; repeats.")
@click.option(
    "--budget", "budget_s", type=kinds.DURATION, default="10min", help="Time for all of it; large sizes come last."
)
@click.option(
    "--ranks", "num_ranks", type=kinds.WORKERS, help="Processes that exchange; 1: none. Default: 2, or all GPUs."
)
@click.option("--backend", metavar="gloo|nccl", help="Backend of the exchanges; default: nccl on GPUs, else gloo.")
@click.option(
    "--checkpoint-path", "storage", type=click.Path(path_type=Path), metavar="DIR", help="Measure this storage, too."
)
@click.option(
    "--threads",
    "num_threads",
    type=kinds.WORKERS,
    help="Threads of a kernel on a CPU; default: all. One is timed by its own processor time: good on a busy machine.",
)
@click.option(
    "--note", default="", show_default=False, metavar="TEXT", help="Other conditions of the times, kept in the header."
)
@click.option("--fresh", is_flag=True, help="Measure again the points in FILE, or those of each --kernel.")
@click.option("--out", type=kinds.OUT_FILE, help="The profile, FILE.csv; its header is FILE.json.")
def command(out: Path | None, **settings: Any) -> None:
    """Measure the times of a model's kernels, of exchanges and of checkpoints on this machine.

    Writes FILE.csv and FILE.json, for lazsim run --profile FILE.csv. Called again, it goes on where it was.
    Do not use the machine meanwhile. docs/measured/method.md explains columns and method.
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    if out is None:
        raise click.UsageError("give --out, or a command: show, check, import, skew, ranks")
    from lazsim.costmodel.profile import header_path

    header_path(out)
    require_torch("measuring takes")
    from lazsim.profiling.session import Options, measure_profile
    from lazsim.study.notes.basis import profile_notes

    header, points = measure_profile(out, Options(**settings), measuring)
    for kernel, reason in header.skipped.items():
        note(f"skipped: {kernel}: {reason}")
    for name in ("grouped", "rows"):
        if (why := header.conditions.get(f"{name}_why")) is not None:
            note(f"{name}: by {header.conditions[name]}: {why}")
    note(*profile_notes(out, settings["model"]))
    has = f"{counted(len(points), 'point')} of {counted(len(header.kernels), 'kernel')}"
    print_parts([f"{out} has {has}; lazsim profile show {out}"])


def _find_profile(file: str, model: str) -> Path:
    """Return the file of a profile; a model chooses one only among those of a device."""
    from lazsim.costmodel.profile import find_profile

    if file.endswith(".csv") and is_given(click.get_current_context(), "model"):
        raise LazsimError(f"`model` has no effect on a file such as {file}, which is of one model: leave it out")
    return find_profile(file, model)


def _tables(path: Path) -> "KernelTables | None":
    """Read kernel tables; none where the file holds something else."""
    from lazsim.files.reading import read_bytes
    from lazsim.stepmodel.tables import holds_tables, parse_tables

    content = read_bytes(path)
    return parse_tables(str(path), content) if holds_tables(content) else None


@command.command("show")
@click.argument("file", metavar="FILE|NAME")
@catalog_model_option
@out_option("Draw profile.png and .pdf there.", "profile.png", "profile.pdf")
@json_option
def show_command(file: str, model: str) -> None:
    """Show times, conditions and shares of the device's peaks; --out draws times and roofline.

    Of imported kernel tables, show kernels, sizes and times.
    """
    from lazsim.costmodel.profile import read_profile, require_header
    from lazsim.output.profile import profile_files, profile_parts, tables_parts
    from lazsim.stepmodel.check_tables import describe_tables

    path = _find_profile(file, model)
    if (tables := _tables(path)) is not None:
        if kept("out") is not None:
            raise LazsimError(f"`out`: there are no pictures of kernel tables such as {file}; leave it out")
        show(describe_tables(tables), tables_parts)
        return
    profile = read_profile(path)
    require_header(profile)
    show(profile, profile_parts, files=profile_files)


@command.command()
@click.argument("file", metavar="FILE|NAME")
@catalog_model_option
@click.option("--gpu", metavar="NAME|TOML", help="Compare the analytic times of this GPU.")
@json_option
def check(file: str, model: str, gpu: str | None) -> None:
    """Hold out every second point of each kernel, and print the error of interpolating it from the others.

    Then compare grouped experts with one expert, moved tokens with a plain copy, and with --gpu the analytic model.
    Of imported kernel tables, hold out every second value of each size in turn.
    """
    from lazsim.costmodel.profile import read_profile
    from lazsim.output.profile import check_parts, tables_check_parts
    from lazsim.profiling.check import held_out_errors, modelled_errors, reached_shares
    from lazsim.specs import GpuSpec, load_spec

    path = _find_profile(file, model)
    if (tables := _tables(path)) is not None:
        from lazsim.stepmodel.check_tables import check_tables

        if gpu is not None:
            raise LazsimError(
                f"`gpu`: the analytic model is not held against kernel tables such as {file}; leave it out"
            )
        show(check_tables(tables), tables_check_parts)
        return
    profile = read_profile(path)
    (errors, together), reached = held_out_errors(profile), reached_shares(profile)
    modelled = [] if gpu is None else modelled_errors(profile, load_spec(GpuSpec, gpu, "gpu"))
    found = {"kernels": errors, "num_held_out": len(together), "median_error": statistics.median(together.tolist())}
    found |= {"reached": reached} if gpu is None else {"reached": reached, "modelled": modelled}
    show(found, lambda _: check_parts(errors, together, reached, modelled))


@command.command("import")
@click.argument("path", metavar="PATH")
@click.option("--gpu", metavar="NAME", help="GPU whose rows are taken; default: the only one in the files.")
@click.option(
    "--stand-in",
    "stand_ins",
    multiple=True,
    metavar="FILE=GPU",
    help="Take the rows of another GPU from this file, as gemm.csv=gb200; repeats.",
)
@click.option("--out", type=kinds.OUT_CSV, required=True, help="The kernel tables, FILE.csv.")
@json_option
def import_command(path: str, gpu: str | None, stand_ins: tuple[str, ...], out: Path) -> None:
    """Make kernel tables of a GPU from times that others measured, and print the error of interpolating them.

    PATH is a folder of CSV files (gemm.csv, attention_prefill.csv, nccl_single_node.csv, ...), one such file, or the
    text that a program of nccl-tests prints. lazsim step uses the tables where a GPU's TOML file has kernels =
    "FILE.csv". Notes say what was left out, filled in or repaired. docs/guides/measurements.md lists the files.
    """
    from lazsim.output.profile import tables_check_parts
    from lazsim.stepmodel.import_tables import import_tables, parse_stand_ins

    imported = import_tables(path, gpu, parse_stand_ins(stand_ins))
    write_out(out, imported.text.encode())
    show(imported, tables_check_parts)
    note(f"{out} has {counted(imported.num_points, 'point')}; lazsim profile show {out}")


@command.command()
@virtual_rank_options
@click.option("--width", type=kinds.COUNT, default=1024, help="d_model; experts are four times as wide.")
@click.option("--experts", type=kinds.Whole(2, MAX_EXPERTS), default=8, help="Experts of the layer.")
@click.option("--nodes", type=kinds.NODES, default=10, help="Virtual ranks.")
@click.option("--slots", type=kinds.SLOTS, default=6, help="Replicas of each rank.")
@click.option("--tokens", type=kinds.COUNT, default=4096, help="Tokens of each rank.")
@click.option(
    "--skew",
    "skews",
    type=kinds.Number(min=1),
    multiple=True,
    help="Times its even share that one expert draws; repeats. Default: 1, 2, 4, ... up to all.",
)
@out_option("Keep skew.json and skew.png and .pdf there.", "skew.json", "skew.png", "skew.pdf")
@json_option
def skew(**settings: Any) -> None:
    """Measure the cost of a layer as one expert draws more of the tokens, and the share that allocation wins back.

    One device computes the load of every virtual rank in turn; a layer takes as long as its slowest rank. Even
    replicas with expert parallelism are compared with Lazarus's allocation and flexible dispatch. Links are left out.
    """
    require_torch("measuring takes")
    from lazsim.output.profile import skew_files, skew_parts
    from lazsim.profiling.ranks import SkewOptions, measure_skew

    result = measure_skew(SkewOptions(**settings), measuring)
    show(result, skew_parts, kept_as="skew.json", files=skew_files)


@command.command()
@virtual_rank_options
@click.option("--model", default="gpt-l", metavar="NAME|TOML|JSON", help="Model whose experts are measured.")
@click.option("--cluster", default="rtx3090x10", metavar="NAME|TOML", help="Its nodes and slots.")
@click.option("--job", default="testbed-a", metavar="NAME|TOML", help="Job that gives tokens and replicas.")
@click.option("--system", default="lazarus", metavar="NAME", help="System that places and dispatches.")
@click.option("--routing", default="smartmoe-fit", metavar="FILE|SPEC", help="Expert loads.")
@click.option("--step", type=kinds.WHOLE, default=1000, help="Step whose loads are taken.")
@click.option("--layers", type=kinds.LAYERS, default=2, help="Layers to measure, from the first.")
@click.option("--tokens", type=kinds.COUNT, help="Tokens of each rank; default: as the job has them.")
@click.option("--tolerance", type=kinds.Number(min=0), help="Exit with 1 when a layer's relative error is larger.")
@out_option("Keep ranks.json there.", "ranks.json")
@json_option
def ranks(tolerance: float | None, **settings: Any) -> int:
    """Measure the work of every rank of a plan, on one device in turn, and compare it with the prediction.

    Each virtual rank runs gate, dispatch schedule, token reorder and its experts over the tokens that dispatch sends
    it. A layer takes as long as its slowest rank; exchanges between ranks are not run but modelled.
    """
    require_torch("measuring takes")
    from lazsim.output.profile import rank_parts
    from lazsim.profiling.ranks import RankOptions, measure_ranks

    result = measure_ranks(RankOptions(**settings), measuring)
    show(result, rank_parts, kept_as="ranks.json")
    worst = max(abs(row.error) for row in result.rows)
    if tolerance is not None and worst > tolerance:
        note(f"the worst relative error of a layer is {worst:.1%}, more than {100 * tolerance:.10g}%")
        return 1
    return 0
