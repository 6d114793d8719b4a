"""From a point of a sweep to the inputs of its run: names looked up, fields changed, files hashed, and all checked."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from lazsim.costmodel.profile import find_profile
from lazsim.engine.simulate import simulate_system
from lazsim.engine.systems import SYSTEMS
from lazsim.errors import SpecError, prefix_errors
from lazsim.files import read_bytes
from lazsim.placement.policies import find_policy, policy_input
from lazsim.routing import RoutingSpec, load_routing
from lazsim.specs import (
    CATALOG_KINDS,
    ClusterSpec,
    GpuSpec,
    JobSpec,
    ModelSpec,
    Spec,
    SpecT,
    catalog_names,
    read_spec_bytes,
    read_toml,
    sha256,
)
from lazsim.study.fields import change_fields
from lazsim.study.inputs import (
    RoutingInput,
    Run,
    RunInputs,
    TraceInput,
    costs_of,
    find_system,
    make_routing,
    make_trace,
)
from lazsim.study.sweep_spec import HAVE_FIELDS, Point
from lazsim.trace import load_recipe
from lazsim.trace.recipes import Recipe
from lazsim.trace.table import LONGEST_S
from lazsim.units import parse_duration

KINDS: Mapping[type[Spec], str] = {**CATALOG_KINDS, RoutingSpec: "routing"}
"""The folder of the catalogue in which each kind of specification is kept."""

Changes = tuple[tuple[str, Any], ...]
"""Fields with their new values."""


class Lookup:
    """Finds the inputs of points; what several points share is read once.

    Parameters
    ----------
    name
        What errors call the sweep.
    folder
        Where relative paths begin.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self._spec = functools.cache(self._read_spec)
        self._recipe = functools.cache(self._read_recipe)
        self._routing_sha256 = functools.cache(self._check_recording)
        self._trace_sha256 = functools.cache(self._check_trace)
        self._file_sha256 = functools.cache(lambda path: sha256(read_bytes(path)))
        self._policy = functools.cache(find_policy)
        self._names = functools.cache(catalog_names)
        self._fitting: set[bytes] = set()

    def find(self, point: Point) -> Run:
        """Return the inputs of a point.

        Raises
        ------
        LazsimError
            When a name is unknown, a file cannot be read, a value is not valid, or the experts do not fit on the
            cluster; the message names the sweep and the key.
        """
        system = point["system"]
        fields = _fields(point)
        model = self._named(ModelSpec, point["model"], fields["model"], system)
        cluster = self._named(ClusterSpec, point["cluster"], fields["cluster"], system)
        gpu = self._named(GpuSpec, point["gpu"] or cluster.gpu, fields["gpu"], system)
        job = self._job(point["job"], fields["job"], system)
        paths: dict[str, str] = {}
        with prefix_errors(f"{self._name}: profile"):
            if point["profile"] is not None:
                # A path begins at the folder of the file; a device of the catalogue does not.
                paths["profile"] = str(self._folder / find_profile(point["profile"], model.name))
            elif point["extrapolate"]:
                raise SpecError("extrapolate goes beyond the sizes of a profile, and there is none")
            profile_sha256 = self._file_sha256(paths["profile"]) if "profile" in paths else None
        with prefix_errors(f"{self._name}: duration"):
            duration_s = None if point["duration"] is None else parse_duration(point["duration"])
            if duration_s is not None and not 0 < duration_s <= LONGEST_S:
                raise SpecError(f"{point['duration']}: choose more than 0 and up to 100 years")
        with prefix_errors(f"{self._name}: placement"):
            placement = self._placement(point, paths)
        inputs = RunInputs(
            model=model,
            gpu=gpu,
            cluster=cluster,
            job=job,
            profile_sha256=profile_sha256,
            extrapolate=point["extrapolate"],
            system=system,
            placement=placement,
            trace=self._trace(point, fields["trace"], duration_s, paths),
            routing=self._routing(point, fields["routing"], model, paths),
            duration_s=duration_s,
            seed=point["seed"],
            score_plans=point["score_plans"],
            history=point["history"],
        )
        run = Run(inputs, paths)
        self._check_fit(run, point)
        return run

    def _named(self, spec_type: type[SpecT], name: str, changes: Changes, system: str) -> SpecT:
        found: Any = self._spec(spec_type, name, changes, system)
        assert isinstance(found, spec_type)
        return found

    def _read_spec(self, spec_type: type[SpecT], name: str, changes: Changes, system: str) -> SpecT:
        kind = KINDS[spec_type]
        key = kind.removesuffix("s")
        with prefix_errors(f"{self._name}: {key}"):
            spec = read_toml(name, read_spec_bytes(kind, self._path_of_toml(name)), spec_type)
        return self._change(spec, key, changes, system)

    def _change(self, spec: SpecT, key: str, changes: Changes, system: str = "") -> SpecT:
        with prefix_errors(self._name):
            return change_fields(spec, key, changes, system) if changes else spec

    def _job(self, name: str, changes: Changes, system: str) -> JobSpec:
        """Return the job with no other system's interval, which is no input of this run."""
        job = self._named(JobSpec, name, changes, system)
        if system not in job.checkpoint_interval_steps:
            raise SpecError(
                f"{self._name}: job = {name!r}: checkpoint_interval_steps has no entry for {system!r}; give "
                f"job.checkpoint_interval_steps.{system}"
            )
        interval = {system: job.checkpoint_interval_steps[system]}
        return msgspec.structs.replace(job, checkpoint_interval_steps=interval)

    def _path_of_toml(self, name: str) -> str:
        return str(self._folder / name) if name.endswith(".toml") else name

    def _placement(self, point: Point, paths: dict[str, str]) -> Mapping[str, str] | None:
        """Name the policy of a system that has one to choose."""
        name = point["placement"]
        if name is None:
            return None
        path, colon, function = name.rpartition(":")
        if colon:
            name = paths["placement"] = f"{self._folder / path}:{function}"
        self._policy(name)
        return policy_input(name) if SYSTEMS[point["system"]].is_elastic else None

    def _trace(self, point: Point, changes: Changes, duration_s: float | None, paths: dict[str, str]) -> TraceInput:
        name, seed = point["trace"], point["seed"] if point["trace_seed"] is None else point["trace_seed"]
        with prefix_errors(f"{self._name}: start"):
            start_s = parse_duration(point["start"])
        cut = {"start_s": start_s, "duration_s": duration_s, "max_nodes": point["max_nodes"], "cap": point["cap"]}
        read = {"format": point["trace_format"], "lenient": point["lenient"]}
        if name.endswith(".toml") or name in self._names("traces"):
            recipe = self._recipe(name, changes)
            source = TraceInput(name=Path(name).stem, recipe=recipe, seed=seed, **cut, **read)
            path = None
        else:
            self._refuse_changes("trace", name, changes)
            path = paths["trace"] = str(self._folder / name)
            source = TraceInput(name=Path(name).name, seed=seed, **cut, **read)
        with prefix_errors(f"{self._name}: trace"):
            digest = self._trace_sha256(msgspec.structs.replace(source, seed=0), path)
        return msgspec.structs.replace(source, sha256=digest)

    def _read_recipe(self, name: str, changes: Changes) -> Recipe:
        with prefix_errors(f"{self._name}: trace"):
            recipe = load_recipe(self._path_of_toml(name))
        return self._change(recipe, "trace", changes)

    def _check_trace(self, source: TraceInput, path: str | None) -> str:
        return make_trace(source, path).sha256

    def _routing(self, point: Point, changes: Changes, model: ModelSpec, paths: dict[str, str]) -> RoutingInput:
        name, lenient = point["routing"], point["lenient"]
        source = RoutingInput(
            name=Path(name).name,
            lenient=lenient,
            seed=point["seed"],
            num_layers=model.num_moe_layers,
            num_experts=model.num_experts,
        )
        if name.endswith(".toml") or name in self._names("routing"):
            generator = self._spec(RoutingSpec, name, changes, "")
            return msgspec.structs.replace(source, generator=generator)
        self._refuse_changes("routing", name, changes)
        if name != "uniform":
            paths["routing"] = str(self._folder / name)
        with prefix_errors(f"{self._name}: routing"):
            digest = self._routing_sha256(paths.get("routing", name), model.num_moe_layers, model.num_experts, lenient)
        return msgspec.structs.replace(source, sha256=digest)

    def _check_recording(self, path: str, num_layers: int, num_experts: int, lenient: bool) -> str:
        return load_routing(path, num_layers, num_experts, 0, lenient).sha256

    def _refuse_changes(self, key: str, name: str, changes: Changes) -> None:
        for field, _ in changes:
            raise SpecError(f"{self._name}: {key}.{field}: {name} is a file, which has no such field")

    def _check_fit(self, run: Run, point: Point) -> None:
        """Refuse a cluster on which the experts do not fit, once for all seeds."""
        inputs = run.inputs
        parts = (inputs.model, inputs.gpu, inputs.cluster, inputs.job, inputs.system, inputs.placement)
        parts_json = msgspec.json.encode(parts)
        if parts_json in self._fitting:
            return
        system = find_system(inputs, run.paths)
        costs = costs_of(inputs, run.paths)
        with prefix_errors(f"{self._name}: cluster = {point['cluster']!r}"):
            if not system.usable_nodes(costs, inputs.cluster.num_nodes):
                # The trace may have more nodes: an instant of the run tells, and says what is wrong.
                trace = make_trace(inputs.trace, run.paths.get("trace"))
                simulate_system(trace, system, costs, make_routing(inputs.routing, run.paths.get("routing")), 1e-3)
        self._fitting.add(parts_json)


def _fields(point: Point) -> dict[str, Changes]:
    """Return the fields that a point changes, by the key whose fields they are."""
    found: dict[str, list[tuple[str, Any]]] = {key: [] for key in HAVE_FIELDS}
    for name, value in point.items():
        key, dot, field = name.partition(".")
        if dot and value is not None:
            found[key].append((field, value))
    return {key: tuple(changes) for key, changes in found.items()}
