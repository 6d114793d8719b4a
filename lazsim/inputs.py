"""The trace and the loads of a scenario: a recipe or generator, or a file by its hash; and what is made of them."""

import functools

import numpy as np

from lazsim.errors import SpecError
from lazsim.routing import GeneratedRouting, Routing, RoutingSpec, load_routing
from lazsim.specs import Spec
from lazsim.trace import Trace, TraceMapping, cut_trace, generate_trace, read_trace
from lazsim.trace.recipes import Recipe


class TraceInput(Spec, frozen=True, kw_only=True):
    """A recipe, or a file by its hash, and the stretch that is cut out of it."""

    name: str
    recipe: Recipe | None = None
    sha256: str = ""
    format: str
    mapping: TraceMapping
    lenient: bool
    seed: int
    start_s: float
    duration_s: float | None
    max_nodes: int | None
    cap: str


class RoutingInput(Spec, frozen=True, kw_only=True):
    """A generator of expert loads, or a recording by its hash, and the shape of the loads."""

    name: str
    generator: RoutingSpec | None = None
    sha256: str = ""
    lenient: bool
    layers_from: int
    seed: int
    num_layers: int
    num_experts: int


def make_trace(source: TraceInput, path: str | None) -> Trace:
    """Generate or read a trace, and cut it; a `LazsimError` says that the file has changed since it was resolved."""
    if source.recipe is not None:
        # A second more than is asked for, against rounding.
        end_s = np.inf if source.duration_s is None else source.start_s + source.duration_s + 1.0
        trace = generate_trace(source.recipe, np.random.default_rng(source.seed), source.name, end_s)
    else:
        assert path is not None, "a trace is a recipe or a file"
        trace = read_trace(path, format=source.format, seed=source.seed, lenient=source.lenient, mapping=source.mapping)
        require_unchanged(path, source.sha256, trace.sha256)
    limits = {key: getattr(source, key) for key in ("start_s", "duration_s", "max_nodes", "seed")}
    return cut_trace(trace, cap=source.cap if source.max_nodes else None, **limits)


def make_routing(source: RoutingInput, path: str | None) -> Routing:
    """Generate or read expert loads; errors are those of `make_trace`."""
    if source.generator is not None:
        return GeneratedRouting(source.generator, source.num_layers, source.num_experts, source.seed)
    fields = ("num_layers", "num_experts", "seed", "lenient", "layers_from")
    loads = load_routing(path or source.name, *(getattr(source, field) for field in fields))
    require_unchanged(path or source.name, source.sha256, loads.sha256)
    return loads


# Scenarios of one study share most traces and loads, and those that share them follow each other.
shared_trace = functools.lru_cache(maxsize=4)(make_trace)
shared_routing = functools.lru_cache(maxsize=2)(make_routing)


def require_unchanged(path: str, before: str, now: str) -> None:
    """Raise SpecError when a file has another hash than it had when it was resolved; some have none."""
    if before not in ("", now):
        raise SpecError(f"{path}: changed after it was first read; start again")
