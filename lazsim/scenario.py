"""Every input of a run, resolved once and hashed once.

`resolve` turns names, paths and overrides into a frozen `Scenario`. A run simulates one, a sweep is a product of
overrides, and a sensitivity study replaces one field at a time.
"""

import functools
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from lazsim.costmodel.compute import AnalyticCompute
from lazsim.costmodel.costs import CostModel
from lazsim.costmodel.fixed import fixed_costs
from lazsim.costmodel.measured import (
    Beyond,
    MeasuredCommunication,
    MeasuredCompute,
    communication_tables,
    compute_tables,
)
from lazsim.costmodel.network import AnalyticCommunication
from lazsim.costmodel.profile import Profile, find_profile, own_profile, read_profile
from lazsim.costmodel.step import KernelCosts
from lazsim.engine.default_job import DEFAULT_JOB, JobChoice, default_job
from lazsim.engine.layout import layout_costs
from lazsim.engine.nodes import NO_SPARES, Spares
from lazsim.engine.systems import SYSTEMS, System, find_system, system_source
from lazsim.errors import SpecError, prefix_errors, unknown_name
from lazsim.files.faults import check_lenient
from lazsim.files.reading import STDIN, path_from, read_bytes
from lazsim.inputs import Reads, RoutingInput, TraceInput, require_unchanged, shared_routing, shared_trace
from lazsim.limits import CAPS, LONGEST_S, OF_MAPPINGS, PLANNINGS
from lazsim.placement.policies import find_policy, policy_input
from lazsim.routing import Routing, RoutingSpec
from lazsim.routing.loading import UNIFORM, is_generator
from lazsim.settings import (
    ANALYTIC,
    DEFAULTS,
    OF_TRACES,
    SKEWED_LOADS,
    Settings,
    changed_fields,
    check_settings,
    parse_interval,
    plain,
    replaced_fields,
)
from lazsim.specs import (
    CATALOG_KINDS,
    ClusterSpec,
    GpuSpec,
    JobSpec,
    ModelSpec,
    Spec,
    SpecT,
    StepConstants,
    catalog_names,
    hash_id,
    read_spec_bytes,
    read_toml,
    sha256,
)
from lazsim.specs.catalog import with_path
from lazsim.specs.effects import refuse_without_effect, without_effect
from lazsim.specs.overrides import FACTOR, field_at, override, scale
from lazsim.specs.record import given_fields
from lazsim.stepmodel.tables import holds_tables, read_tables
from lazsim.trace import Trace, TraceMapping, load_recipe, make_mapping
from lazsim.trace.loading import refuse_unknown
from lazsim.trace.prices import Prices
from lazsim.trace.reading.mapping import load_mapping, refuse_mapping
from lazsim.trace.recipes import MtbfSpec
from lazsim.units import counted, parse_duration, parse_price


@dataclass(frozen=True, eq=False, kw_only=True)
class Inputs:
    """All that the result of a run under one system depends on; see `Defaults` for the meaning of each.

    Give a new one a default, so that runs without it keep their ids.
    """

    model: ModelSpec
    gpu: GpuSpec
    cluster: ClusterSpec
    job: JobSpec
    step: StepConstants
    system: str
    system_origin: Mapping[str, str] | None = None
    """Origin of a user's own system: its name, and the hash of its file or its package."""
    placement: Mapping[str, str] | None
    """The placement policy where one was chosen: its name, and the hash or origin of a user's own."""
    routing: RoutingInput
    trace: TraceInput | None
    duration_s: float | None
    seed: int
    profile_sha256: str | None
    extrapolate: bool
    score_plans: bool
    history: bool
    interval: int | float | str | None = None
    """Steps between checkpoints, seconds as a decimal number, or ``auto``."""
    planning: str
    usd_per_node_hour: float | None = None
    num_spares: int = 0
    spare_start_s: float = 0.0
    strict: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Scenario(Inputs):
    """Every input of a run under one system, and where it is from."""

    settings: Settings
    """Settings that the scenario was resolved from."""
    name: str = ""
    """Source of the settings, as errors name it."""
    folder: Path = Path()
    """Folder in which relative paths begin."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """Paths of the files that are read, by setting. Results depend on their content, not on the paths."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the TOML text of each specification."""
    why_no_layout: str = ""
    """Why a run without job and profile has no layout, though its GPU has measured kernels; empty for others."""

    @functools.cached_property
    def inputs(self) -> dict[str, Any]:
        """The `Inputs` as plain data, without what has its default; files by their hashes."""
        values = [(one, getattr(self, one.name)) for one in fields(Inputs)]
        # The content of files counts, not where they are.
        named = [(one, with_path(value, os.path.basename)) for one, value in values]
        given: dict[str, Any] = {one.name: given_fields(value) for one, value in named if value != one.default}
        if self.job.parallel is not None:
            given["kernels_sha256"] = sha256(read_tables(self.gpu.kernels))
        return given

    @functools.cached_property
    def id(self) -> str:
        """Hash of the inputs: equal inputs, equal result."""
        return hash_id(self.inputs)

    @functools.cached_property
    def without_effect(self) -> dict[str, str]:
        """Fields that the kind of the job or a setting leaves without effect; see `lazsim.specs.effects`."""
        return without_effect(self.job, self.model) | replaced_fields(self.settings)

    @property
    def assumed(self) -> list[str]:
        """Dotted names of the constants that no source tells, without those that are given."""
        parts: dict[str, GpuSpec | ClusterSpec | StepConstants] = {
            "gpu": self.gpu, "cluster": self.cluster, "step": self.step
        }  # fmt: skip
        names = [f"{part}.{name}" for part, spec in parts.items() for name in spec.assumed]
        return [name for name in names if name not in self.settings]

    @property
    def has_chosen_layout(self) -> bool:
        """Whether the layout was chosen, since no job was given."""
        return self.settings["job"] is None and self.job.parallel is not None and self.job.name == DEFAULT_JOB

    def replace(self, path: str, value: Any) -> "Scenario":
        """Return the scenario with another value of one setting, or of one field by its dotted name.

        For a field, text such as ``x0.5`` multiplies the present value. A layout that was chosen stays, or that none
        fits.

        Raises
        ------
        LazsimError
            When there is no such setting or field, or it cannot have this value.

        Examples
        --------
        >>> scenario = resolve({"cluster": "rtx3090x10"})
        >>> scenario.replace("cluster.network.nic_latency_s", "x0.5").cluster.network.nic_latency_s
        1.65e-05
        >>> scenario.replace("model", "gpt-l").model.num_experts
        16
        """
        part, dot, field_path = path.partition(".")
        value = plain(value)
        factor = FACTOR.fullmatch(value) if dot and isinstance(value, str) else None
        if factor and isinstance(present := self.field(path), int | float):
            value = scale(present, float(factor[1]), field_path.rpartition(".")[2])
        settings = {**self.settings, path: value}
        if part not in ("gpu", "cluster", "job", "step", "trace", "routing") or not dot or path in OF_OTHERS:
            return resolve(settings, self.name, self.folder)
        # Nothing else depends on these, so that nothing else needs to be read again.
        found: Any
        if part in ("trace", "routing"):
            anew = _Resolution(self.name, self.folder, Reads(), settings)
            found = anew.trace(self.duration_s) if part == "trace" else anew.routing(self.job, self.model)
        else:
            changes = changed_fields({path: value}, self.folder)[part]
            found = override(getattr(self, part), changes, part, self.system, SYSTEMS)
        changed = replace(self, settings=settings, **{part: found})
        with prefix_errors(self.name):
            refuse_without_effect([path], changed.without_effect)
        return changed

    def field(self, path: str) -> Any:
        """Return the value at a dotted path such as ``job.fault_threshold``; None where there is none."""
        part, _, field_path = path.partition(".")
        source = {"trace": self.trace and self.trace.recipe, "routing": self.routing.generator}
        return field_at(source.get(part, getattr(self, part, None)), field_path)

    def find_system(self, **setting: Any) -> System:
        """Return the system, with the placement policy where one was chosen, and fields that a search has set."""
        path = self.paths.get("system", self.system)
        require_unchanged(path, _file_sha256(self.system_origin), _file_sha256(system_source(path)))
        system = replace(find_system(path), **setting)
        if self.placement is None:
            return system
        path = self.paths.get("placement", self.placement["name"])
        require_unchanged(path, _file_sha256(self.placement), _file_sha256(policy_input(path)))
        policy = find_policy(path)
        return replace(system, policy=policy, placement=self.placement["name"], seed=self.seed)

    def under(self, trace: Trace, loads: Routing | None = None) -> "Scenario":
        """Return the scenario under another trace, and other loads if given; its `inputs` stay those of this one."""
        given = {"trace": trace} | ({} if loads is None else {"routing": loads})
        changed = replace(self, settings={**self.settings, **given})
        if "_costs" in vars(self):
            # Step times that a run has found serve the next.
            vars(changed)["_costs"] = self._costs
        return changed

    def on(self, trace: Trace, duration_s: float) -> "Scenario":
        """Return the scenario on another trace, which becomes its input, for a time; a layout that was chosen stays."""
        assert self.trace is not None, "another trace takes the place of one"
        settings = {name: value for name, value in self.settings.items() if not name.startswith("trace.")}
        lenient = settings["lenient"] and "routing" in self.paths
        settings |= {name: DEFAULTS[name] for name in OF_TRACES}
        settings |= {"trace": trace, "duration": duration_s, "lenient": lenient}
        made = {"name": Path(trace.name).name, "sha256": _trace_sha256(trace), "recipe": None}
        whole = {"start_s": 0.0, "duration_s": duration_s, "max_nodes": None}
        source = msgspec.structs.replace(self.trace, **made, **whole)
        return replace(self, settings=settings, trace=source, duration_s=duration_s)

    def load_trace(self) -> Trace:
        """Generate or read the trace and cut it; see `lazsim.inputs.make_trace`."""
        if isinstance(self.settings["trace"], Trace):
            return self.settings["trace"]
        if self.trace is None:
            raise SpecError("give a `trace`: one of `build_trace`, a file or a recipe")
        return shared_trace(self.trace, self.paths.get("trace"))

    def load_routing(self) -> Routing:
        """Generate or read the expert loads; see `lazsim.inputs.make_routing`."""
        given = self.settings["routing"]
        return shared_routing(self.routing, self.paths.get("routing")) if isinstance(given, str | None) else given

    def wall_s(self) -> float:
        """Return how long to simulate; a `SpecError` says that the trace lasts no time and no duration is given."""
        if self.duration_s is not None:
            return self.duration_s
        trace = self.load_trace()
        if not trace.duration_s:
            where = trace.name or "the trace"
            raise SpecError(f"{where}: all its events are at its start, so it lasts 0 s; give a duration (`duration`)")
        return trace.duration_s

    def prices(self) -> Prices | None:
        """Return the prices of a node: as asked for, of the trace, or of the cluster."""
        asked, of_cluster = self.usd_per_node_hour, self.cluster.usd_per_node_hour
        if asked is None and (of_trace := self.load_trace().prices) is not None:
            return of_trace
        usd_per_hour = of_cluster if asked is None else asked
        return None if usd_per_hour is None else Prices.constant(usd_per_hour)

    def spares(self) -> Spares:
        """Return the spares among the nodes of the trace; a `SpecError` says that no other node is left."""
        if not self.num_spares:
            return NO_SPARES
        most_nodes = self.load_trace().most_nodes(self.wall_s())
        if self.num_spares >= most_nodes:
            raise SpecError(
                f"`spares` {self.num_spares}: the trace has at most {counted(most_nodes, 'node')}; give fewer"
            )
        return Spares(most_nodes - self.num_spares, self.spare_start_s)

    def most_in_service(self) -> int:
        """Return the most nodes of the trace that are alive at once, without the spares; 0 where these are too many."""
        return max(0, self.load_trace().most_nodes(self.wall_s()) - self.num_spares)

    def load_profile(self) -> Profile | None:
        """Read the measured times, if any."""
        if self.profile_sha256 is None:
            return None
        path = self.paths["profile"]
        content = read_bytes(path)
        require_unchanged(path, self.profile_sha256, sha256(content))
        if holds_tables(content):
            raise SpecError(f"{path}: kernel tables, no profile; a GPU's TOML file names them, as `kernels`")
        return read_profile(path)

    def costs(self) -> CostModel:
        """Return the cost model: of the layout, or analytic times and measured ones where the profile has them.

        Raises
        ------
        LazsimError
            When the profile cannot be read, or is of a model of other shapes, or the layout does not fit.
        """
        return self._costs

    def analytic_costs(self) -> KernelCosts:
        """Return the analytic costs of kernels and links, without the layout or the profile."""
        links = AnalyticCommunication(self.cluster.network, self.cluster.host)
        compute = AnalyticCompute(self.model, self.gpu, self.cluster, self.job, self.step)
        return KernelCosts(self.model, self.cluster, self.job, self.step, links, compute)

    @functools.cached_property
    def _costs(self) -> CostModel:
        # Step times of a layout that one run has found serve the next.
        model, cluster, job = self.model, self.cluster, self.job
        profile, has_chosen = self.load_profile(), self.settings["profile"] is not None
        if job.times is not None:
            if has_chosen:
                raise SpecError("`profile`: the job has `times` of its own; leave the profile out")
            return fixed_costs(model, cluster, job, self.step)
        if job.parallel is not None:
            if has_chosen:
                raise SpecError("`profile`: a job with a layout takes the kernels of its GPU; leave the profile out")
            system = self.find_system()
            whose = f"`job` {self.settings['job'] or job.name} for `model` {self.settings['model']}"
            with prefix_errors(self.name), prefix_errors(f"{whose}: parallel"):
                return layout_costs(model, self.gpu, cluster, job, self.step, system)
        if profile is None:
            return self.analytic_costs()
        kernels, exchanges = compute_tables(profile, model, cluster.gpus_per_node), communication_tables(profile)
        plain = self.analytic_costs()

        def with_measured(beyond: Beyond, measured_part: KernelCosts | None = None) -> KernelCosts:
            by_table = MeasuredCommunication(cluster.network, cluster.host, exchanges, beyond)
            compute = MeasuredCompute(model, self.gpu, cluster, job, self.step, kernels, beyond)
            links = by_table if exchanges else plain.communication
            return replace(plain, communication=links, compute=compute, measured_part=measured_part)

        return with_measured("analytic", with_measured("nothing")) if self.extrapolate else with_measured("raise")


OF_OTHERS = ("cluster.gpu", "cluster.gpus_per_node", "job.parallel.sequence_length")
"""Fields that change another specification, or the price of a node."""


def resolve(settings: Settings, name: str = "", folder: Path = Path(), reads: Reads | None = None) -> Scenario:
    """Resolve settings; those that are missing have their defaults.

    Parameters
    ----------
    settings
        Names, paths and values; see `lazsim.settings.Defaults`.
    name
        How errors name the source of the settings, if at all.
    folder
        Where relative paths begin.
    reads
        One for all scenarios that are to share what they read.

    Raises
    ------
    LazsimError
        When a name is unknown, a file cannot be read, or a value is not valid; the message names the setting.

    Examples
    --------
    >>> resolve({"model": "gpt-l", "job.fault_threshold": 3}).job.fault_threshold
    3
    """
    return _Resolution(name, folder, reads or Reads(), settings).scenario()


class _Resolution:
    """Settings while they become a scenario: what is asked for, and the paths and hashes of the files found so far."""

    def __init__(self, name: str, folder: Path, reads: Reads, settings: Settings) -> None:
        self._name, self._folder, self._reads, self._once = name, folder, reads, reads.once
        self._where = f"{name}: " if name else ""
        self._asked = {**DEFAULTS, **check_settings(settings, self._where)}
        self._changes = changed_fields(self._asked, folder)
        self._paths = dict[str, str]()
        self._hashes = dict[str, str]()
        self._system: System = self._extension(find_system, "system")

    def scenario(self) -> Scenario:
        """Resolve all settings."""
        asked, changes, system = self._asked, self._changes, self._system
        with self._naming("system"):
            system_origin = system_source(self._paths.get("system", asked["system"]))
        if asked["planning"] not in PLANNINGS:
            raise SpecError(self._where + unknown_name("planning", asked["planning"], list(PLANNINGS)))
        duration_s, spare_start_s = self._seconds("duration"), self._seconds("spare_start") or 0.0
        if duration_s == 0:
            raise SpecError(f"{self._where}`duration`: 0 s: choose more than 0 and up to 100 years")
        # A file that is missing is told before seconds go into the search for a layout.
        trace = self.trace(duration_s)
        model = self._spec(ModelSpec, "model", self._named("model"))
        cluster = self._spec(ClusterSpec, "cluster", self._named("cluster"))
        gpu_name = self._named("gpu") if asked["gpu"] else cluster.gpu
        with prefix_errors("" if asked["gpu"] else f"`cluster` {asked['cluster']}"):
            gpu = self._spec(GpuSpec, "gpu", gpu_name)
        step = self._spec(StepConstants, "step", self._named("step"))
        choice = JobChoice(model, gpu, cluster, msgspec.json.encode(step, order="sorted"))
        job, why_no_layout = self._job(choice, trace, spare_start_s)
        changed = [f"{part}.{path}" for part, fields in changes.items() for path in fields]
        refuse_without_effect(changed, without_effect(job, model) | replaced_fields(asked), self._where)
        if job.parallel is not None:
            model = job.parallel.trained(model)
        with self._naming("price"):
            price = None if asked["price"] is None else parse_price(str(asked["price"]), cluster.gpus_per_node)
        routing = self.routing(job, model)
        with self._naming("interval"):
            interval = parse_interval(asked["interval"])
        with prefix_errors(self._name):
            check_lenient(asked["lenient"], self._paths.get("trace"), self._paths.get("routing"))
        return Scenario(
            model=model,
            gpu=gpu,
            cluster=cluster,
            job=job,
            step=step,
            system=system.name,
            system_origin=system_origin,
            placement=self._placement(system),
            profile_sha256=self._profile(job, gpu_name, model.name),
            trace=trace,
            routing=routing,
            duration_s=duration_s,
            usd_per_node_hour=price,
            num_spares=asked["spares"],
            spare_start_s=spare_start_s,
            interval=interval,
            **{name: asked[name] for name in ("seed", "score_plans", "history", "planning", "strict")},
            extrapolate=asked["extrapolate"] or (asked["profile"] is None and "profile" in self._paths),
            settings=asked,
            name=self._name,
            folder=self._folder,
            paths=self._paths,
            hashes=self._hashes,
            why_no_layout=why_no_layout,
        )

    def _job(self, choice: JobChoice, trace: TraceInput | None, spare_start_s: float) -> tuple[JobSpec, str]:
        """Return the job, with a layout that is chosen where none is asked for, or why there is none to choose."""
        asked, found = self._asked, None
        if asked["job"] is None and choice.gpu.kernels and asked["profile"] is None:
            found = default_job(self._on_trace(choice, trace, spare_start_s), self._system)
        chosen, why = (None, str(found)) if isinstance(found, SpecError) else (found, "")
        name = self._named("job") if asked["job"] else chosen.name if chosen else DEFAULT_JOB
        job = self._spec(JobSpec, "job", name, chosen)
        return _own_interval(job, self._system.name), why

    def _naming(self, setting: str) -> AbstractContextManager[None]:
        """Begin errors with the name of a setting."""
        return prefix_errors(f"{self._where}`{setting}`")

    def _seconds(self, setting: str) -> float | None:
        """Read a time, which is text with a unit, or seconds."""
        value = self._asked[setting]
        with self._naming(setting):
            seconds = parse_duration(value) if isinstance(value, str) else value
            if seconds is not None and not 0 <= seconds <= LONGEST_S:
                raise SpecError(f"{seconds:.12g} s: choose 0 or more, and up to 100 years")
        return seconds

    def _spec(self, spec_type: type[SpecT], part: str, name: str, chosen: SpecT | None = None) -> SpecT:
        """Read a specification by its name or path, or take the one chosen from it, and change what is asked for."""
        with self._naming(part):
            text = self._once(read_spec_bytes, CATALOG_KINDS.get(spec_type, part), name)
            spec: SpecT = chosen or self._once(read_toml, name, text, spec_type)
        self._hashes[part] = sha256(text)
        with prefix_errors(self._name):
            return override(spec, self._changes[part], part, self._system.name, SYSTEMS)

    def _named(self, part: str) -> str:
        """Return the name or the path of a specification that is asked for."""
        return path_from(self._folder, self._asked[part])

    def _file(self, part: str, name: str) -> str:
        if name == STDIN and self._name:
            raise SpecError(f"{self._where}`{part}` {name!r}: the runs of a sweep cannot read stdin; give a file")
        return str(self._folder / name)

    def _profile(self, job: JobSpec, gpu: str, model: str) -> str | None:
        """Find the measured times, those of the catalogue where none are asked for, and return their hash."""
        name = self._asked["profile"]
        if name is None and job.parallel is None and job.times is None and not self._changes["model"]:
            name = self._once(own_profile, gpu, self._asked["model"])
        if name in (None, ANALYTIC):
            if self._asked["extrapolate"]:
                told = "has no effect without a profile: give `profile`, or leave `extrapolate` out"
                raise SpecError(f"{self._where}`extrapolate` {told}")
            return None
        with self._naming("profile"):
            path = self._paths["profile"] = str(find_profile(path_from(self._folder, name), model))
            return sha256(self._once(read_bytes, path))

    def _extension(self, find: Callable[[str], Any], part: str) -> Any:
        """Find a system or a policy by its name; the path of a user's own begins at the folder of the settings."""
        with self._naming(part):
            name = self._asked[part]
            path, colon, attribute = name.rpartition(":")
            if colon:
                name = self._paths[part] = f"{self._folder / path}:{attribute}"
            return self._once(find, name)

    def _placement(self, system: System) -> Mapping[str, str] | None:
        """Name the policy of a system that has one to choose."""
        name = self._asked["placement"]
        if name is None:
            return None
        self._extension(find_policy, "placement")
        with self._naming("placement"):
            return policy_input(self._paths.get("placement") or name) if system.is_elastic else None

    def trace(self, duration_s: float | None) -> TraceInput | None:
        """Return where the trace is from, and how much of it is taken."""
        asked, changes = self._asked, self._changes["trace"]
        name, max_nodes, num_spares = asked["trace"], asked["max_nodes"], asked["spares"]
        start_s = self._seconds("start") or 0.0
        if name is None:
            self._refuse_changes("trace", "there is no trace, which")
            return None
        mapping, format_name = self._trace_format()
        reading: dict[str, Any] = {
            "format": format_name, "mapping": mapping, "lenient": asked["lenient"],
            "seed": asked["seed"] if asked["trace_seed"] is None else asked["trace_seed"],
            "start_s": start_s, "duration_s": duration_s,
            "max_nodes": max_nodes and max_nodes + num_spares, "cap": asked["cap"] or CAPS[0],
        }  # fmt: skip
        if isinstance(name, Trace):
            self._refuse_changes("trace", "a Trace")
            return TraceInput(name=Path(name.name).name, sha256=_trace_sha256(name), **reading)
        is_recipe = isinstance(name, Spec)
        if is_recipe or name.endswith(".toml") or name in catalog_names("traces"):
            with self._naming("trace"):
                recipe = name if is_recipe else self._once(load_recipe, self._named("trace"))
                name = recipe.__struct_config__.tag if is_recipe else name
                refuse_mapping(name, mapping, asked["trace_format"])
            with prefix_errors(self._name):
                recipe = override(recipe, changes, "trace")
                if isinstance(recipe, MtbfSpec) and max_nodes is None:
                    recipe = override(recipe, {"num_nodes": recipe.num_nodes + num_spares}, "trace")
            source, path = TraceInput(name=Path(name).name.removesuffix(".toml"), recipe=recipe, **reading), None
        else:
            self._refuse_changes("trace", f"{name} is a file, which")
            path = self._paths["trace"] = self._file("trace", name)
            with self._naming("trace"):
                refuse_unknown(name, path)
            source = TraceInput(name=Path(name).name, **reading)
        with self._naming("trace"):
            return self._reads.check(shared_trace, source, path)

    def _trace_format(self) -> tuple[TraceMapping, str]:
        """Return how a file of a trace is read: what it does not say, and the name of its format."""
        name = self._asked["trace_format"]
        with self._naming("trace"):
            mapping = make_mapping(**{option: self._asked[option] for option in OF_MAPPINGS}, folder=self._folder)
            if not name.endswith(".toml"):
                return mapping, name
            # The inputs have what the file says, not its name.
            return mapping.under(load_mapping(self._named("trace_format"))), "table"

    def _on_trace(self, choice: JobChoice, source: TraceInput | None, spare_start_s: float) -> JobChoice:
        """Return a choice for the nodes of a trace, where some are known.

        All seeds of a trace have the nodes of seed 0, so that a run has the same layout alone and in a study.
        """
        if source is None:
            return choice
        made, path = self._asked["trace"], self._paths.get("trace")
        if not isinstance(made, Trace):
            made = self._once(shared_trace, msgspec.structs.replace(source, seed=0), path)
        num_spares, wall_s = self._asked["spares"], source.duration_s or made.duration_s
        if not wall_s or (most_nodes := made.most_nodes(wall_s) - num_spares) <= 0:
            return choice
        sized = msgspec.structs.replace(choice.cluster, num_nodes=most_nodes)
        spares = Spares(most_nodes, spare_start_s) if num_spares else NO_SPARES
        return choice._replace(cluster=sized, trace=made, wall_s=wall_s, spares=spares)

    def routing(self, job: JobSpec, model: ModelSpec) -> RoutingInput:
        """Return where the loads are from: even ones where a job with a layout asks for none."""
        name = self._asked["routing"]
        if name is None:
            name = SKEWED_LOADS if job.parallel is None or self._changes["routing"] else UNIFORM
        reading = {key: self._asked[key] for key in ("lenient", "layers_from")}
        layers, experts, seed = model.num_moe_layers, model.num_experts, self._asked["seed"]
        source = RoutingInput(name=Path(name).name, seed=seed, num_layers=layers, num_experts=experts, **reading)
        if source.layers_from and (is_generator(name) or name == UNIFORM):
            raise SpecError(f"{self._where}`layers_from`: {name} has MoE layers alone; leave it out")
        if is_generator(name):
            return msgspec.structs.replace(
                source, generator=self._spec(RoutingSpec, "routing", path_from(self._folder, name))
            )
        self._refuse_changes("routing", name if name == UNIFORM else f"{name} is a file, which")
        if name != UNIFORM:
            self._paths["routing"] = self._file("routing", name)
        with self._naming("routing"):
            return self._reads.check(shared_routing, source, self._paths.get("routing"))

    def _refuse_changes(self, part: str, what: str) -> None:
        for field_name in self._changes[part]:
            raise SpecError(f"{self._where}{part}.{field_name}: {what} has no such field")


def _own_interval(job: JobSpec, system: str) -> JobSpec:
    """Return the job without the intervals of other systems, which are no inputs of this run.

    Those of names that are unknown stay: a run tells of them.
    """
    others = SYSTEMS.keys() - {system}
    interval = {name: steps for name, steps in job.checkpoint_interval_steps.items() if name not in others}
    return msgspec.structs.replace(job, checkpoint_interval_steps=interval)


def _file_sha256(source: Mapping[str, str] | None) -> str:
    """Return the hash of the file of a user's own system or policy; empty for others."""
    return (source or {}).get("sha256", "")


def _trace_sha256(trace: Trace) -> str:
    """Return the hash of the events and places of a trace, and of its prices where it has some."""
    more = [trace.prices.time_s.tobytes(), trace.prices.usd_per_hour.tobytes()] if trace.prices else []
    return sha256(b"".join([trace.events_sha256.encode(), *more])) if more else trace.events_sha256
