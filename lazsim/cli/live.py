"""``lazsim live``: train a small MoE for real while its workers are killed and started."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazsim.cli.base import kinds
from lazsim.cli.base.ending import acknowledge
from lazsim.cli.base.messages import Checked
from lazsim.cli.base.options import json_option, options, out_option, seed_option
from lazsim.cli.base.progress import progress_bar
from lazsim.cli.base.replay import read_stretch, replay_options
from lazsim.cli.base.results import note, show, write_out
from lazsim.cli.base.torch_needed import require_torch
from lazsim.errors import LazsimError, prefix_errors
from lazsim.limits import CAPS, OF_MAPPINGS
from lazsim.units import counted

if TYPE_CHECKING:
    from lazsim.live.coordinator import Coordinator
    from lazsim.live.record import LiveReport, LiveRun
    from lazsim.live.run import OnStart
    from lazsim.live.spec import LiveSpec
    from lazsim.trace.table import Trace


REFRESH_S = 0.5
"""Time between two looks at a run for its bar."""

DEFAULT_SPEEDUP = 30.0
"""Speedup of the default trace: half an hour in a minute."""


live_options = options(
    click.option("--system", default="lazarus", metavar="NAME", help="System to train; see lazsim list systems."),
    click.option("--nodes", type=kinds.WORKERS, default=4, help="Largest number of workers at once."),
    click.option("--trace", "trace_path", metavar="FILE|RECIPE", help="Node events: workers are killed and started."),
    replay_options,
    click.option(
        "--speedup", type=kinds.Number(min=0, min_open=True), help="Seconds of the trace in one second of the run."
    ),
    click.option("--device", type=kinds.OneOf(("auto", "cpu", "cuda")), default="cpu", help="Device of the workers."),
    click.option("--model", metavar="NAME|TOML", help="GPT-2 in shape; default: 4 layers, 8 experts."),
    click.option("--top-k", type=kinds.EXPERTS, help="Experts per token; default: the model's."),
    click.option("--heads", type=kinds.COUNT, default=4, help="Attention heads."),
    click.option("--slots", type=kinds.COUNT, default=4, help="Expert slots per node."),
    click.option("--batch", type=kinds.COUNT, default=16, help="Sequences per step."),
    click.option(
        "--text", default="", show_default=False, metavar="FILE", help="Training text; default: Python's documentation."
    ),
    click.option(
        "--checkpoints",
        type=kinds.OUT_PATH,
        help="Keep checkpoints there; default: only during the run.",
    ),
    click.option("--record-routing", type=kinds.OUT_FILE, help="Write the loads of the gates there."),
    seed_option,
)
"""Options of the job and of the faults, without `--job`, whose default differs."""


def build_spec(settings: dict[str, Any]) -> "LiveSpec":
    """Build the live job from the options."""
    import msgspec

    from lazsim.engine.systems import LIVE_SYSTEMS, find_system
    from lazsim.live.spec import SMALL_MODEL, LiveSpec
    from lazsim.specs import JobSpec, ModelSpec, load_spec

    if settings["system"] not in LIVE_SYSTEMS:
        with prefix_errors("`system`"):
            find_system(settings["system"])
        raise LazsimError(f"`system` {settings['system']}: no live job runs it; give {', '.join(LIVE_SYSTEMS)}")
    model = load_spec(ModelSpec, settings["model"], "model") if settings["model"] else SMALL_MODEL
    if settings["top_k"]:
        if settings["top_k"] > model.num_experts:
            raise LazsimError(f"`top_k` {settings['top_k']}: {model.name} has {counted(model.num_experts, 'expert')}")
        model = msgspec.structs.replace(model, top_k=settings["top_k"])
    return LiveSpec(
        model=msgspec.structs.replace(model, vocab_size=256),
        job=load_spec(JobSpec, settings["job"], "job"),
        system=settings["system"],
        slots_per_node=settings["slots"],
        num_heads=settings["heads"],
        global_batch=settings["batch"],
        device=settings["device"],
        seed=settings["seed"],
        text=settings["text"],
        checkpoint_folder=str(settings["checkpoints"] or ""),
    )


def load_live_trace(
    spec: "LiveSpec", settings: dict[str, Any], default: Callable[[int], "Trace"]
) -> "tuple[Trace, float, dict[str, Any]]":
    """Return the trace, or the default one, its speedup, and the stretch of the file that it is.

    Nodes that cannot hold the job, or that this machine cannot run, are refused.
    """
    from lazsim.live.run import check_job

    if settings["trace_path"] is None:
        check_job(spec, settings["nodes"])
        return default(settings["nodes"]), settings["speedup"] or DEFAULT_SPEEDUP, {}
    names = ("trace_format", "start", "duration", "cap", "lenient", *OF_MAPPINGS)
    reading = {name: settings[name] for name in names}
    with prefix_errors("`trace`"):
        trace = read_stretch(settings["trace_path"], max_nodes=settings["nodes"], seed=settings["seed"], **reading)
    check_job(spec, trace.most_nodes())
    stretch = {"start_s": settings["start"], "duration_s": settings["duration"], "max_nodes": settings["nodes"]}
    stretch |= {"cap": settings["cap"] or CAPS[0], "lenient": settings["lenient"]}
    return trace, settings["speedup"] or max(1.0, trace.duration_s / 60.0), stretch


def write_routing(path: Path | None, routing: Any) -> None:
    """Write the loads of a run in the format of routing recordings."""
    if path is None or routing is None:
        return
    from lazsim.routing.table import write_csv

    write_out(path, write_csv(routing))
    note(f"{path} has the loads of {counted(len(routing.steps), 'step')}")


async def show_run(coordinator: "Coordinator", purpose: str, wall_s: float | None) -> None:
    """Show steps, nodes and loss until the run is over, whose seconds are given if they are known."""
    last, shown = coordinator.spec.num_steps, 0.0
    with progress_bar(0, 100 if wall_s or last else None, f"{purpose}:") as advance:
        while coordinator.server.stopped is None:
            await asyncio.sleep(REFRESH_S)
            record = coordinator.record
            done = [coordinator.now_s() / wall_s] if wall_s else []
            done += [coordinator.step / last] if last else []
            loss = f", loss {record.steps[-1].loss:.3f}" if record.steps else ""
            percent = min(100.0, 100 * max(done, default=0.0))
            advance(percent - shown, f"step {coordinator.step}, {record.num_used} nodes{loss}")
            shown = percent


@click.command(cls=Checked)
@live_options
@click.option("--job", default="testbed-a", metavar="NAME|TOML", help="Job with intervals and waits.")
@click.option("--steps", type=kinds.COUNT, help="Stop after this many steps; default 100 without a trace.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Lead --nodes workers that are started elsewhere, with LAZSIM_LIVE_SECRET; see docs/guides/live.md.",
)
@out_option("Write the record, every step and a picture there.", "live.json", "steps.csv", "live.png", "live.pdf")
@json_option
def command(steps: int | None, listen: str | None, record_routing: Path | None, **settings: Any) -> None:
    """Train a small MoE for real, one process per node, while workers are killed and started as a trace says.

    The nodes of the trace are processes of this machine. Its time is compressed to a minute unless --speedup says
    otherwise. Prints steps, losses, and the parts of each recovery; --out writes live.json, steps.csv, live.png and
    live.pdf. An interrupt ends the run and shows the results up to then, as does an error after the first step.
    """
    require_torch("live training needs")
    import msgspec

    from lazsim.live.run import prepare
    from lazsim.output.live import live_files, live_parts

    spec = prepare(build_spec(settings))
    if steps is not None or settings["trace_path"] is None:
        spec = msgspec.structs.replace(spec, num_steps=steps or 100)
    report = _run_here(spec, settings) if listen is None else _run_on_cluster(spec, listen, settings)
    show(report, lambda shown: live_parts(shown.result), kept_as="live.json", files=live_files)
    write_routing(record_routing, report.result.routing)
    if report.broken_off_by is not None:
        raise report.broken_off_by


def _run_here(spec: "LiveSpec", settings: dict[str, Any]) -> "LiveReport":
    """Start the workers here, and kill and start them as the trace says."""
    from lazsim.live.fault_injector import TraceInjector, quiet_trace
    from lazsim.live.run import compress, describe_inputs, run_locally
    from lazsim.live.worker_pool import WorkerPool

    trace, speedup, stretch = load_live_trace(spec, settings, quiet_trace)
    has_trace = settings["trace_path"] is not None
    spec, played = compress(spec, trace, speedup)
    injector = TraceInjector(played, is_awaited=has_trace)

    async def run(on_start: "OnStart") -> "LiveRun":
        with WorkerPool() as pool:
            return await run_locally(spec, injector, pool, max_nodes=trace.most_nodes(), on_start=on_start)

    inputs = describe_inputs(spec, trace, {**stretch, "speedup": speedup})
    return replace(_report(inputs, run, played.duration_s if has_trace else None), notes=trace.notes)


def _run_on_cluster(spec: "LiveSpec", listen: str, settings: dict[str, Any]) -> "LiveReport":
    """Lead workers that are started elsewhere."""
    from lazsim.live.messages import secret_from_environment
    from lazsim.live.run import describe_inputs, run_on_cluster
    from lazsim.live.worker import LAST_PORT

    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port[:9]) > LAST_PORT:
        raise LazsimError(f"`listen` {listen!r}: give HOST:PORT; port 0 takes any free one")
    if settings["checkpoints"] is None:
        raise LazsimError("`listen`: give a folder that all workers share as `checkpoints`")
    secret, num_nodes = secret_from_environment(), settings["nodes"]

    async def run(on_start: "OnStart") -> "LiveRun":
        def announce(coordinator: "Coordinator") -> None:
            on_start(coordinator)
            worker = "python -m lazsim.live.worker --controller"
            note(f"waiting for {counted(num_nodes, 'worker')}: {worker} {host}:{coordinator.server.port}")

        return await run_on_cluster(spec, secret, host, int(port), num_initial=num_nodes, on_start=announce)

    return _report(describe_inputs(spec, None, {}), run, None)


def _report(
    inputs: dict[str, Any], run: "Callable[[OnStart], Coroutine[Any, Any, LiveRun]]", wall_s: float | None
) -> "LiveReport":
    """Make a run and report on it; where it is broken off, on its part up to then, if it had begun."""
    from lazsim.live.checkpoint import last_step
    from lazsim.live.messages import LiveError
    from lazsim.live.orders import run_until_ordered
    from lazsim.live.record import LiveReport

    started: list[Coordinator] = []

    def on_start(coordinator: "Coordinator") -> None:
        started.append(coordinator)
        # Checkpoints of another job have been refused by now.
        if begun := last_step(folder := Path(coordinator.spec.checkpoint_folder)):
            note(f"continues from the checkpoint of step {begun} in {folder}")
        coordinator.server.start(show_run(coordinator, "training", wall_s))

    try:
        return LiveReport(inputs, run_until_ordered(run(on_start)))
    except (KeyboardInterrupt, LiveError) as error:
        if not started or not started[0].record.steps:
            raise
        acknowledge()
        return LiveReport(inputs, started[0].result, broken_off_by=error)
