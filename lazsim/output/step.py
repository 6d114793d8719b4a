"""A predicted step as tables and files."""

import math
from collections.abc import Iterator

import msgspec

from lazsim.files.decoding import literals_of
from lazsim.files.writing import toml_text
from lazsim.output.plots.style import name_pictures
from lazsim.output.table import Column, Part, Table, key
from lazsim.specs import ParallelSpec
from lazsim.stepmodel.search import TRIED
from lazsim.study.step import StepResult
from lazsim.units import GIB, counted, share_text


def step_parts(result: StepResult) -> Iterator[Part]:
    """Show throughput, time by part, memory, and the layouts that a search found."""
    inputs, time = result.inputs, result.time
    parallel = inputs.parallel
    low, high = result.range_tokens_per_s
    fits = (
        ""
        if result.fits
        else f"does not fit, as it takes {share_text(result.memory_share, '.1%')} of the memory; else "
    )
    yield (
        f"{inputs.model.name} on {counted(inputs.num_gpus, 'GPU')} of {inputs.cluster.name}: {fits}"
        f"{time.tokens_per_s_per_gpu:,.0f} tokens/s a GPU ({low:,.0f} to {high:,.0f}), step {time.step_s:.2f} s, "
        f"MFU {share_text(time.mfu, '.1%')}"
    )
    yield (
        f"tensor {parallel.tensor}, pipeline {parallel.pipeline} x {parallel.virtual_stages}, context "
        f"{parallel.context}, expert {parallel.expert}, data {inputs.data}; "
        f"{counted(parallel.global_batch, 'sequence')} of "
        f"{inputs.model.sequence_length} tokens in micro-batches of {parallel.micro_batch}; {parallel.precision}, "
        f"{parallel.dispatcher}, recomputation {parallel.recompute}, graphs {parallel.graphs}"
    )
    yield _time_table(result)
    yield _memory_table(result)
    if result.assumptions:
        columns = [key("constant", of="name"), *(Column(name, ".4g", of=name) for name in ("value", "low", "high"))]
        columns += [Column(f"step at {end}", "+.1%", of=f"{end}_change") for end in ("low", "high")]
        title = "what assumptions weigh: the step where each is the least and the most that it may be"
        clock = "slowest_gpu_rate is the clock of matmuls and attention; "
        shown = any(assumption.name == "slowest_gpu_rate" for assumption in result.assumptions)
        notes = [f"{clock * shown}the range of throughput holds errors of all"]
        yield Table.of(result.assumptions, columns, title, notes=notes)
    if result.found:
        yield _search_table(result)


def step_files(result: StepResult) -> dict[str, bytes]:
    """Return the files of ``lazsim step --out`` beside its JSON, by name."""
    from lazsim.output.plots.step import step_figure

    return {"job.toml": job_toml(result).encode(), **name_pictures("step", step_figure(result))}


def job_toml(result: StepResult) -> str:
    """Write the layout as the file of a job, with the words that its fields take."""
    inputs = result.inputs
    values = msgspec.to_builtins(inputs.parallel) | {"sequence_length": inputs.model.sequence_length}
    kind = msgspec.inspect.type_info(ParallelSpec)
    assert isinstance(kind, msgspec.inspect.StructType), "a specification"
    words = {field.name: literals_of([getattr(field.type, "item_type", field.type)]) for field in kind.fields}
    behind = {name: ", ".join(known) for name, known in words.items() if known}
    title = f"{inputs.model.name} on {counted(inputs.num_gpus, 'GPU')} of {inputs.cluster.name}."
    return toml_text({"parallel": {name: values[name] for name in words}}, [title], behind)


def _time_table(result: StepResult) -> Table:
    time = result.time
    names = sorted(time.exposed_s, key=lambda name: -time.exposed_s[name])
    rows = [
        (name.replace("_", " "), time.exposed_s[name], time.exposed_s[name] / time.step_s, time.hidden_s.get(name))
        for name in names
        if time.exposed_s[name] or time.hidden_s.get(name)
    ]
    columns = [key("part", kind="text"), Column("s", ".3f"), Column("of the step", ".1%"), Column("hidden, s", ".3f")]
    return Table(columns, [*rows, ("step", time.step_s, 1.0, None)], "where the step goes")


def _memory_table(result: StepResult) -> Table:
    memory = result.time.memory_bytes
    total = math.fsum(memory.values())
    rows = [(name, size / GIB, size / result.inputs.gpu.memory_bytes) for name, size in memory.items() if size]
    columns = [key("part"), Column("GiB", ",.1f"), Column(f"of {result.inputs.gpu.memory_bytes / GIB:.0f} GiB", ".1%")]
    return Table(columns, [*rows, ("all", total / GIB, result.memory_share)], "memory of the fullest GPU")


def _search_table(result: StepResult) -> Table:
    names = ("tensor", "pipeline", "virtual_stages", "expert", "micro_batch", "recompute")
    columns = [
        Column("#", is_key=True, of=lambda one: 1 + result.found.index(one)),
        *(
            Column(name.replace("_", " "), kind="name" if name == "recompute" else "number", of=f"parallel.{name}")
            for name in names
        ),
        Column("tokens/s a GPU", ",.0f", of="time.tokens_per_s_per_gpu"),
        Column("GiB", ",.0f", of=lambda one: math.fsum(one.time.memory_bytes.values()) / GIB),
    ]
    counts = result.searched
    note = f"{counts['num_fitting']:,} of {counts['num_valid']:,} layouts that divide the job fit into memory"
    return Table.of(result.found, columns, "the fastest layouts that fit", notes=[f"{TRIED}; {note}"])
