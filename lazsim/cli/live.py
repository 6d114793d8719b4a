"""``lazsim live``: train a small MoE for real while its workers are killed and started."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazsim.cli.common import DURATION, OUT, Number, json_option, note, print_json, seed_option
from lazsim.errors import LazsimError

if TYPE_CHECKING:
    from lazsim.live.controller import Controller
    from lazsim.live.record import LiveRun
    from lazsim.live.spec import LiveSpec
    from lazsim.trace.table import Trace


LAST_PORT = 65534
"""Ranks meet at the port above the one that is given."""

DEFAULT_SPEEDUP = 30.0
"""Of the trace that is played where none is given: half an hour in a minute."""


def live_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what is trained, and what happens to the nodes."""
    options = (
        click.option("--system", default="lazarus", show_default=True, metavar="NAME"),
        click.option("--nodes", type=click.IntRange(min=1), default=4, show_default=True, help="Most workers at once."),
        click.option("--trace", "trace_path", metavar="FILE", help="What happens to the nodes."),
        click.option("--start", type=DURATION, default=0.0, help="Where in the trace to begin; default 0."),
        click.option("--duration", type=DURATION, help="How much of the trace; default: to its end."),
        click.option("--speedup", type=Number(min=0, min_open=True), help="Seconds of the trace in a second."),
        click.option("--device", type=click.Choice(("auto", "cpu", "cuda")), default="cpu", show_default=True),
        click.option(
            "--model", metavar="NAME|TOML", help="GPT-2 in shape; default: a small one.  [4 layers, 8 experts]"
        ),
        click.option("--top-k", type=click.IntRange(min=1), help="Experts a token is routed to; default: the model's."),
        click.option("--heads", type=click.IntRange(min=1), default=4, show_default=True, help="Attention heads."),
        click.option(
            "--slots", type=click.IntRange(min=1), default=4, show_default=True, help="Expert slots of a node."
        ),
        click.option("--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Sequences of a step."),
        click.option("--job", default="testbed-a", show_default=True, metavar="NAME|TOML"),
        click.option("--text", default="", metavar="FILE", help="What to train on; default: Python's documentation."),
        click.option(
            "--checkpoints",
            type=OUT,
            metavar="DIR",
            help="Keep checkpoints there; default: only for the run.",
        ),
        click.option("--record-routing", type=OUT, metavar="FILE", help="Keep the gates' loads."),
        seed_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


def require_torch() -> None:
    """Say how to get torch where it is missing."""
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        raise LazsimError("live training needs torch: pip install 'lazsim[live]'")


def build_spec(options: dict[str, Any]) -> "LiveSpec":
    """Put a live job together from the options."""
    import msgspec

    from lazsim.engine.systems import SYSTEMS
    from lazsim.live.spec import SMALL_MODEL, LiveSpec
    from lazsim.specs import JobSpec, ModelSpec, load_spec, unknown_name

    if options["system"] not in SYSTEMS:
        raise LazsimError(unknown_name("system", options["system"], list(SYSTEMS)))
    model = load_spec(ModelSpec, options["model"]) if options["model"] else SMALL_MODEL
    if options["top_k"]:
        if options["top_k"] > model.num_experts:
            raise LazsimError(f"--top-k {options['top_k']}: {model.name} has {model.num_experts} experts")
        model = msgspec.structs.replace(model, top_k=options["top_k"])
    return LiveSpec(
        model=msgspec.structs.replace(model, vocab_size=256),
        job=load_spec(JobSpec, options["job"]),
        system=options["system"],
        slots_per_node=options["slots"],
        num_heads=options["heads"],
        global_batch=options["batch"],
        seed=options["seed"],
        text=options["text"],
        checkpoint_folder=str(options["checkpoints"] or ""),
    )


def load_live_trace(options: dict[str, Any], default: Callable[[int], "Trace"]) -> tuple["Trace", float]:
    """Return what happens to the nodes, and how much faster than in its own time."""
    from lazsim.trace import load

    if options["trace_path"] is None:
        for name in ("start", "duration"):
            if options[name]:
                raise LazsimError(f"--{name}: cuts a stretch out of a trace; give one as --trace")
        return default(options["nodes"]), options["speedup"] or DEFAULT_SPEEDUP
    trace = load(
        options["trace_path"],
        start_s=options["start"],
        duration_s=options["duration"],
        max_nodes=options["nodes"],
        seed=options["seed"],
    )
    return trace, options["speedup"] or max(1.0, trace.duration_s / 60.0)


def check_place(path: Path | None) -> None:
    """Refuse a file that cannot be written before anything is run for it."""
    from lazsim.files import check_folder

    if path is not None:
        if path.is_dir():
            raise LazsimError(f"{path}: cannot be written (is a folder); give a file")
        check_folder(path.parent)


def write_routing(path: Path | None, routing: Any) -> None:
    """Keep the loads of a run in the format of routing recordings."""
    if path is None or routing is None:
        return
    from lazsim.files import write_whole
    from lazsim.routing.readers import write_csv

    write_whole(path, write_csv(routing))
    note(f"loads of {len(routing.steps)} steps are in {path}")


@click.command()
@live_options
@click.option("--steps", type=click.IntRange(min=1), help="Stop after so many steps; default 100 without a trace.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Lead --nodes workers that others start, with LAZSIM_LIVE_SECRET; see docs/live.md.",
)
@json_option
def command(steps: int | None, listen: str | None, record_routing: Path | None, as_json: bool, **options: Any) -> None:
    """Train a small MoE for real, one process for each node, while workers are killed and started as a trace says.

    Nodes of the trace are processes of this machine; its time is compressed to a minute unless --speedup says else.
    Prints steps, losses, and what each recovery took.
    """
    require_torch()
    import msgspec

    check_place(record_routing)
    spec = build_spec(options)
    if steps is not None or options["trace_path"] is None:
        spec = msgspec.structs.replace(spec, num_steps=steps or 100)
    found = _lead(spec, listen, options) if listen is not None else _run_here(spec, options)
    if as_json:
        print_json(found.to_json())
    else:
        click.echo(found.to_text())
    write_routing(record_routing, found.routing)


def _run_here(spec: "LiveSpec", options: dict[str, Any]) -> "LiveRun":
    """Start the workers here, and kill and start them as the trace says."""
    import asyncio

    import msgspec

    from lazsim.live.nursery import Nursery
    from lazsim.live.play import TracePlay
    from lazsim.live.run import live_run
    from lazsim.live.validate import quiet_trace

    trace, speedup = load_live_trace(options, quiet_trace)
    job = msgspec.structs.replace(spec.job, join_wait_s=spec.job.join_wait_s / speedup)
    spec = msgspec.structs.replace(spec, job=job)
    play = TracePlay(trace, speedup, is_awaited=options["trace_path"] is not None)

    async def run() -> "LiveRun":
        with Nursery() as nursery:
            most = int(trace.num_alive()[1].max())
            return await live_run(
                spec,
                play,
                nursery,
                num_initial=len(play.initial),
                most_nodes=most,
                device=options["device"],
                watch=_tell_beginning,
            )

    return asyncio.run(run())


def _lead(spec: "LiveSpec", listen: str, options: dict[str, Any]) -> "LiveRun":
    """Lead workers that are started elsewhere."""
    import asyncio

    from lazsim.live.messages import secret_from_environment
    from lazsim.live.run import lead

    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > LAST_PORT:
        raise LazsimError(f"--listen {listen!r}: give HOST:PORT; port 0 is any that is free")
    if options["trace_path"] is not None:
        raise LazsimError("--listen: who starts the workers also stops them; leave --trace out")
    if options["checkpoints"] is None:
        raise LazsimError("--listen: give a folder that all workers share as --checkpoints")

    def watch(controller: "Controller") -> None:
        _tell_beginning(controller)
        worker = "python -m lazsim.live.worker --controller"
        note(f"waiting for {options['nodes']} workers: {worker} {host}:{controller.port}")

    return asyncio.run(
        lead(
            spec,
            secret_from_environment(),
            host,
            int(port),
            num_initial=options["nodes"],
            device=options["device"],
            watch=watch,
        )
    )


def _tell_beginning(controller: "Controller") -> None:
    """Say from where a job goes on, once its checkpoints are known to be its own."""
    from lazsim.live.checkpoint import last_step

    folder = Path(controller.spec.checkpoint_folder)
    if begun := last_step(folder):
        note(f"goes on from step {begun}, of which {folder} has a checkpoint")
