"""``lazsim live``: train a small MoE for real while its workers are killed and started."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from lazsim.cli.common import OUT, Number, json_option, note, print_json, seed_option
from lazsim.cli.follow import following
from lazsim.cli.replay import read_stretch, replay_options
from lazsim.errors import LazsimError

if TYPE_CHECKING:
    from lazsim.cli.follow import Watch
    from lazsim.live.controller import Controller
    from lazsim.live.record import LiveRun
    from lazsim.live.report import LiveReport
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
        replay_options,
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
    for decorate in reversed(options):
        function = decorate(function)
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


class Played(NamedTuple):
    """What happens to the nodes, how much faster than in its own time, and how it was cut from its file."""

    trace: "Trace"
    speedup: float
    replay: dict[str, Any]


def load_live_trace(options: dict[str, Any], default: Callable[[int], "Trace"]) -> Played:
    """Read what happens to the nodes, if anything."""
    reading = {name: options[name] for name in ("trace_format", "start", "duration", "cap", "lenient")}
    if options["trace_path"] is None:
        usual = {"trace_format": "auto", "start": 0.0, "duration": None, "cap": "offset", "lenient": False}
        for name, value in reading.items():
            if value != usual[name]:
                raise LazsimError(f"--{name.removeprefix('trace_')}: says what is read of a trace; give one as --trace")
        return Played(default(options["nodes"]), options["speedup"] or DEFAULT_SPEEDUP, {})
    trace = read_stretch(options["trace_path"], max_nodes=options["nodes"], seed=options["seed"], **reading)
    for text in trace.notes:
        note(text)
    replay = {"start_s": options["start"], "duration_s": options["duration"], "max_nodes": options["nodes"]}
    replay |= {"cap": options["cap"], "lenient": options["lenient"]}
    return Played(trace, options["speedup"] or max(1.0, trace.duration_s / 60.0), replay)


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
@click.option("--out", type=OUT, metavar="DIR", help="Keep the record, every step and a picture there.")
@json_option
def command(
    steps: int | None,
    listen: str | None,
    record_routing: Path | None,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a small MoE for real, one process for each node, while workers are killed and started as a trace says.

    Nodes of the trace are processes of this machine; its time is compressed to a minute unless --speedup says else.
    Prints steps, losses, and what each recovery took; --out keeps live.json, steps.csv, live.png and .pdf. An interrupt
    ends the run with what there is by then.
    """
    require_torch()
    import msgspec

    from lazsim.files import check_folder, write_all
    from lazsim.live.report import LIVE_FILES
    from lazsim.live.run import prepare

    if out is not None:
        check_folder(out)
    check_place(record_routing)
    spec = prepare(build_spec(options))
    if steps is not None or options["trace_path"] is None:
        spec = msgspec.structs.replace(spec, num_steps=steps or 100)
    report = _lead(spec, listen, options) if listen is not None else _run_here(spec, options)
    write_routing(record_routing, report.found.routing)
    if out is not None:
        write_all(report.files(out))
        note(f"results are in {out}/: {', '.join(LIVE_FILES)}")
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(report.found.to_text())
    if report.interrupted:
        raise KeyboardInterrupt


def _run_here(spec: "LiveSpec", options: dict[str, Any]) -> "LiveReport":
    """Start the workers here, and kill and start them as the trace says."""
    import msgspec

    from lazsim.live.nursery import Nursery
    from lazsim.live.play import TracePlay
    from lazsim.live.report import live_inputs
    from lazsim.live.run import live_run
    from lazsim.live.validate import quiet_trace

    trace, speedup, replay = load_live_trace(options, quiet_trace)
    has_trace, device = options["trace_path"] is not None, options["device"]
    job = msgspec.structs.replace(spec.job, join_wait_s=spec.job.join_wait_s / speedup)
    spec = msgspec.structs.replace(spec, job=job)
    play = TracePlay(trace, speedup, is_awaited=has_trace)
    most = int(trace.num_alive()[1].max())

    async def run(watch: "Watch") -> "LiveRun":
        with Nursery() as nursery:
            return await live_run(
                spec, play, nursery, num_initial=len(play.initial), most_nodes=most, device=device, watch=watch
            )

    inputs = live_inputs(spec, device, trace, {**replay, "speedup": speedup})
    return _follow(inputs, run, trace.duration_s / speedup if has_trace else None)


def _lead(spec: "LiveSpec", listen: str, options: dict[str, Any]) -> "LiveReport":
    """Lead workers that are started elsewhere."""
    from lazsim.live.messages import secret_from_environment
    from lazsim.live.report import live_inputs
    from lazsim.live.run import lead

    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > LAST_PORT:
        raise LazsimError(f"--listen {listen!r}: give HOST:PORT; port 0 is any that is free")
    if options["trace_path"] is not None:
        raise LazsimError("--listen: who starts the workers also stops them; leave --trace out")
    if options["checkpoints"] is None:
        raise LazsimError("--listen: give a folder that all workers share as --checkpoints")
    secret, num_nodes, device = secret_from_environment(), options["nodes"], options["device"]

    async def run(watch: "Watch") -> "LiveRun":
        def tell(controller: "Controller") -> None:
            watch(controller)
            worker = "python -m lazsim.live.worker --controller"
            note(f"waiting for {num_nodes} workers: {worker} {host}:{controller.port}")

        return await lead(spec, secret, host, int(port), num_initial=num_nodes, device=device, watch=tell)

    return _follow(live_inputs(spec, device, None, {}), run, None)


def _follow(
    inputs: dict[str, Any], run: "Callable[[Watch], Coroutine[Any, Any, LiveRun]]", wall_s: float | None
) -> "LiveReport":
    """Show how a run gets on, and report on it; on an interrupt, on what there was by then, if it had begun."""
    import asyncio

    from lazsim.live.report import LiveReport

    seen: list[Controller] = []
    with following() as follow:

        def watch(controller: "Controller") -> None:
            seen.append(controller)
            _tell_beginning(controller)
            follow("training", wall_s)(controller)

        try:
            return LiveReport(inputs, asyncio.run(run(watch)))
        except KeyboardInterrupt:
            if not seen or not seen[0].record.steps:
                raise
            controller = seen[0]
            return LiveReport(inputs, controller.record.result(controller.step, controller.now_s()), interrupted=True)


def _tell_beginning(controller: "Controller") -> None:
    """Say from where a job goes on, once its checkpoints are known to be its own."""
    from lazsim.live.checkpoint import last_step

    folder = Path(controller.spec.checkpoint_folder)
    if begun := last_step(folder):
        note(f"goes on from step {begun}, of which {folder} has a checkpoint")
