"""The settings of a run, as a user gives them: their types, their defaults, and what each needs to have an effect."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import numpy as np

from lazsim.errors import LazsimError, SpecError, prefix_errors, shorten, unknown_name
from lazsim.files.decoding import convert
from lazsim.files.reading import path_from
from lazsim.limits import MAX_DIMENSION, OF_MAPPINGS
from lazsim.routing import RecordedRouting
from lazsim.specs import CATALOG_KINDS, Spec
from lazsim.specs.catalog import PATHS
from lazsim.specs.record import LayerNumber, NumNodes, NumSpares, Seed, with_units
from lazsim.stepmodel.loading import CONSTANTS
from lazsim.trace import Trace
from lazsim.trace.recipes import Recipe
from lazsim.units import parse_duration

Settings = Mapping[str, Any]
"""Names, paths and values as a user gives them: keys of `Defaults`, and dotted names of fields."""

PARTS_WITH_FIELDS = ("model", "gpu", "cluster", "job", "step", "trace", "routing")
"""Settings whose fields have dotted names."""

SKEWED_LOADS = "smartmoe-fit"
"""Loads of jobs without a layout: a small model, whose gate is not held to even loads."""

AUTO = "auto"
"""Interval that stands for the best one."""

ANALYTIC = "analytic"
"""The profile of a run that takes no measured times."""


class Defaults(Spec, frozen=True, kw_only=True):
    """The settings of a run; the options of ``lazsim run`` mean the same."""

    trace: Any = None
    """A recipe by name, as a ``.toml`` file or itself, a file of node events, or a trace; none where only costs are
    asked for."""
    model: str = "gpt-s"
    """A name of the catalogue, or the path of a TOML file, as for `cluster`, `gpu` and `job`."""
    cluster: str = "rtx3090x10"
    gpu: str | None = None
    """The cluster's when None."""
    job: str | None = None
    """When None, testbed-a; where the catalogue has measured kernels of the GPU, what
    `lazsim.engine.default_job.default_job` chooses for the nodes of the trace."""
    step: str = CONSTANTS
    """Costs of a step beside kernels and links, the same for all models, GPUs and clusters; a name or a path, too."""
    routing: str | None = None
    """Expert loads: a file, a generator of the catalogue, or ``uniform``. When None, ``uniform`` where the job has a
    layout, as `lazsim.stepmodel` has for its steps, else `SKEWED_LOADS`."""
    layers_from: LayerNumber = 0
    """First MoE layer of a file of loads that numbers layers as the model does."""
    profile: str | None = None
    """Measured times in place of the analytic ones: a CSV or a device of the catalogue, or `ANALYTIC` for none; see
    docs/guides/profiles.md. When None, those of the catalogue for this GPU and model, extrapolated beyond their sizes,
    where the job has no layout."""
    extrapolate: bool = False
    """Whether to use the analytic times, scaled to meet it, beyond the sizes of the profile."""
    trace_format: str = "auto"
    """Format of the trace; see `lazsim.trace.load_trace`."""
    columns: str | None = None
    where: str | tuple[str, ...] = ()
    time_unit: str | None = None
    time_format: str | None = None
    time_zone: str | None = None
    cluster_nodes: NumNodes | str | None = None
    span: str | None = None
    """The rest that a file does not say; see `lazsim.trace.make_mapping`."""
    trace_seed: Seed | None = None
    """Seed of the trace; `seed` when None."""
    start: str | float = 0.0
    """Start within the trace; a time is text with a unit, or seconds."""
    duration: str | float | None = None
    """Time to simulate; the length of the trace when None."""
    max_nodes: NumNodes | None = None
    cap: str | None = None
    """Rule that holds a trace to `max_nodes`; see `lazsim.trace.load_trace`."""
    lenient: bool = False
    """Whether to repair what is repairable in the trace and in recorded loads."""
    strict: bool = False
    """Whether to refuse a job that does not fit into the memory of its GPUs."""
    score_plans: bool = False
    """Whether to find the probability that the plans in force survive the next failure."""
    history: bool = False
    """Whether a sweep keeps the states and events of each run."""
    placement: str | None = None
    """The placement policy; the one that the system publishes when None."""
    interval: int | float | str | None = None
    """Steps between checkpoints, 0 for none, a duration such as ``30min``, or ``auto`` for the best that simulations
    find; the job's own when None, and Young's where it has none."""
    price: str | float | None = None
    """US dollars for an hour of a node, or of a GPU as ``3.06/gpu``; the trace's when None, or else the cluster's."""
    spares: NumSpares = 0
    """Nodes held beside those that train: a job trains on the most nodes that the trace has, without these. A trace
    held to `max_nodes`, or else a recipe of failures and repairs, gets as many more."""
    spare_start: str | float | None = None
    """Time until a spare joins, once it is called: 0, a warm standby, when None."""
    planning: str = "auto"
    """``exact`` makes every plan, ``sampled`` some, and ``auto`` all where that takes some seconds at most; see
    `lazsim.engine.sampling`."""
    seed: Seed = 0
    """Seed of loads and all other draws."""
    system: str = "lazarus"


DEFAULTS: Settings = msgspec.structs.asdict(Defaults())

OF_TRACES = ("trace_format", *OF_MAPPINGS, "trace_seed", "start", "max_nodes", "cap")
"""Settings of how a file or recipe becomes a trace."""

NEEDS = dict.fromkeys(OF_TRACES, "trace") | {"cap": "max_nodes", "spare_start": "spares"}
"""Settings that have no effect without another one."""

REPLACED = {"job.checkpoint_interval_steps": "interval", "cluster.usd_per_node_hour": "price", "cluster.gpu": "gpu"}
"""Fields that have no effect beside a setting, which says the same."""


FIELD_PATHS = [f"{CATALOG_KINDS[kind].removesuffix('s')}.{field}" for kind, field in PATHS.items()]
"""Dotted names of the fields that may be the path of a file."""


def replaced_fields(settings: Settings) -> dict[str, str]:
    """Return the fields that settings leave without effect, each with the reason."""
    return {path: f"beside `{name}`" for path, name in REPLACED.items() if settings[name] is not None}


def changed_fields(settings: Settings, folder: Path = Path()) -> dict[str, dict[str, Any]]:
    """Return the fields that settings change, by the part that has them; their paths begin at a folder.

    Raises
    ------
    SpecError
        When a part has no fields, or there is no such setting.
    """
    found: dict[str, dict[str, Any]] = {part: {} for part in PARTS_WITH_FIELDS}
    for name, value in settings.items():
        part, dot, path = name.partition(".")
        if dot and value is not None:
            if part not in found:
                raise SpecError(f"{name}: only {', '.join(PARTS_WITH_FIELDS)} have fields")
            found[part][path] = path_from(folder, value) if name in FIELD_PATHS else value
        elif not dot and name not in DEFAULTS:
            raise SpecError(unknown_name("setting", name, list(DEFAULTS)))
    return found


_TYPES = get_type_hints(Defaults, include_extras=True)


def check_settings(settings: Settings, where: str) -> dict[str, Any]:
    """Return the settings that are given as plain data, once their types and needs are checked.

    Raises
    ------
    SpecError
        When one has another type or no effect; the message begins with `where`.
    """
    given = {name: plain(value) for name, value in settings.items() if value is not None or name not in DEFAULTS}
    for name in filter(_TYPES.__contains__, given):
        with prefix_errors(f"{where}`{name}`"):
            if isinstance(given[name], Spec | RecordedRouting) and name != "trace":
                kind = type(given[name]).__name__
                raise SpecError(f"expected a name or the path of a file, found a {kind}; write it to a file")
            # Equal values make equal inputs: 600 s are those of 600.0 s, and of 10min.
            given[name] = given[name] if name == "trace" else convert(given[name], _TYPES[name])
    if isinstance(trace := given.get("trace", ""), Recipe):
        # Fields of one that was made in Python have not been checked.
        fields = with_units(msgspec.to_builtins(trace, enc_hook=plain))
        given["trace"] = convert(fields, type(trace), f"{where}trace")
    elif not isinstance(trace, Trace | str):
        raise SpecError(f"{where}`trace`: expected a `Trace`, a file or a recipe, got {type(trace).__name__}")
    for name, needed in NEEDS.items():
        if given.get(name, DEFAULTS[name]) == DEFAULTS[name]:
            continue
        if given.get(needed) is None:
            raise SpecError(f"{where}`{name}` has no effect without `{needed}`: add that, or leave `{name}` out")
        if name in OF_TRACES and isinstance(given["trace"], Trace):
            raise SpecError(f"{where}`{name}` has no effect on a Trace, which is taken as it is: leave `{name}` out")
    return given


def parse_interval(value: Any) -> str | int | float | None:
    """Read an interval: ``auto``, a number of steps, 0 for no checkpoints, or a duration such as ``30min``, in seconds.

    Examples
    --------
    >>> parse_interval("auto"), parse_interval("250"), parse_interval("30min"), parse_interval("0")
    ('auto', 250, 1800.0, 0)
    """
    if value is None:
        return None
    if value == AUTO:
        return AUTO
    interval: int | float = 0.0
    if isinstance(value, str):
        with contextlib.suppress(LazsimError, ValueError):
            interval = int(value) if value.isascii() and value.isdecimal() else parse_duration(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        interval = value
    elif isinstance(value, float) and value > 0 and value.is_integer():
        raise SpecError(f"{value}: give {value:.0f} for steps, or '{value:.0f}s' for a time")
    if not (interval > 0 if isinstance(interval, float) else 0 <= interval <= MAX_DIMENSION):
        raise SpecError(
            f"{shorten(str(value))!r}: give `auto`, a number of steps up to {MAX_DIMENSION:,}, or a duration such as "
            "30min, of more than 0 and no more than a century; 0 steps make no checkpoints"
        )
    return interval


def plain(value: Any) -> Any:
    """Return a number of numpy as one of Python, and a path as text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if isinstance(value, np.generic) else value
