"""The trace and the loads of a scenario: a recipe or generator, or a file by its hash; and what is made of them."""

import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec
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


InputT = TypeVar("InputT", TraceInput, RoutingInput)
MadeT = TypeVar("MadeT")


class Shared(Generic[InputT, MadeT]):
    """Makes the trace or the loads of an input once for the scenarios of a study, of which the last few are kept."""

    def __init__(self, make: Callable[[InputT, str | None], MadeT], num_kept: int) -> None:
        self._make: Callable[[InputT, str | None], MadeT] = make
        # A list for each input, which is empty until what it names is made.
        self._kept: Callable[..., list[MadeT]] = functools.lru_cache(num_kept)(lambda *_: [])

    def __call__(self, source: InputT, path: str | None) -> MadeT:
        """Return what was made of an input, or make it."""
        kept = self._kept(source, path)
        if not kept:
            kept.append(self._make(source, path))
        return kept[0]

    def check(self, source: InputT, path: str | None) -> InputT:
        """Make it anew, since a file may have changed, and return the input with its hash."""
        made: Any = self._make(source, path)
        hashed = msgspec.structs.replace(source, sha256=made.sha256)
        self._kept(hashed, path)[:] = [made]
        return hashed


# Scenarios that share a trace or loads follow each other.
shared_trace = Shared(make_trace, 4)
shared_routing = Shared(make_routing, 2)


class Reads:
    """What the scenarios of a study read, each file and each input once."""

    def __init__(self) -> None:
        self.once: Callable[..., Any] = functools.cache(lambda function, *arguments: function(*arguments))
        """Calls a function once with the same arguments."""
        self._checked: dict[Any, Any] = {}

    def check(self, shared: Shared[InputT, Any], source: InputT, path: str | None) -> InputT:
        """Make what an input names, and return it with its hash; the first seed asked for is checked for all."""
        key = msgspec.structs.replace(source, seed=0, sha256=""), path
        if key not in self._checked:
            self._checked[key] = shared.check(source, path)
        checked: InputT = self._checked[key]
        return msgspec.structs.replace(checked, seed=source.seed)


def require_unchanged(path: str, before: str, now: str) -> None:
    """Raise SpecError when a file has another hash than it had when it was resolved; some have none."""
    if before not in ("", now):
        raise SpecError(f"{path}: changed after it was first read; start again")
