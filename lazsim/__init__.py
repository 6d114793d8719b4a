"""Simulate MoE training on nodes that fail, and weigh placements of experts."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "BatchFailures": "reliability",
    "ClusterSpec": "specs",
    "Event": "trace.table",
    "GeneratedRouting": "routing",
    "GpuSpec": "specs",
    "IndependentFailures": "reliability",
    "JobSpec": "specs",
    "LazsimError": "errors",
    "MarketSpec": "trace.recipes",
    "ModelSpec": "specs",
    "MtbfSpec": "trace.recipes",
    "PlacementPlan": "placement.plan",
    "PlacementRequest": "placement.request",
    "PoolSpec": "trace.recipes",
    "Prices": "trace.prices",
    "PublicSpec": "trace.recipes",
    "Reads": "inputs",
    "RecordedRouting": "routing",
    "RoutingSpec": "routing",
    "RunResult": "study.result",
    "Scenario": "scenario",
    "ScheduleSpec": "trace.recipes",
    "SpotSpec": "trace.recipes",
    "SurvivalCurve": "reliability",
    "SurvivalEstimate": "reliability",
    "SystemRun": "engine.simulate",
    "Trace": "trace.table",
    "TraceMapping": "trace",
    "allocate": "placement.allocation",
    "build_trace": "trace.table",
    "dispatch_tokens": "dispatch",
    "load_routing": "routing",
    "load_spec": "specs",
    "load_trace": "trace",
    "place_ep": "placement.expert_parallel",
    "place_euclid": "placement.euclid",
    "place_mro": "placement.mro",
    "rebalance_experts": "placement.serving",
    "recovery_curve": "reliability",
    "recovery_prob": "reliability",
    "resolve": "scenario",
    "simulate": "study.simulation",
}
"""Public name -> module; a module is imported when its first name is used, so that the command line starts fast."""

__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from lazsim.dispatch import dispatch_tokens as dispatch_tokens
    from lazsim.engine.simulate import SystemRun as SystemRun
    from lazsim.errors import LazsimError as LazsimError
    from lazsim.inputs import Reads as Reads
    from lazsim.placement.allocation import allocate as allocate
    from lazsim.placement.euclid import place_euclid as place_euclid
    from lazsim.placement.expert_parallel import place_ep as place_ep
    from lazsim.placement.mro import place_mro as place_mro
    from lazsim.placement.plan import PlacementPlan as PlacementPlan
    from lazsim.placement.request import PlacementRequest as PlacementRequest
    from lazsim.placement.serving import rebalance_experts as rebalance_experts
    from lazsim.reliability import BatchFailures as BatchFailures
    from lazsim.reliability import IndependentFailures as IndependentFailures
    from lazsim.reliability import SurvivalCurve as SurvivalCurve
    from lazsim.reliability import SurvivalEstimate as SurvivalEstimate
    from lazsim.reliability import recovery_curve as recovery_curve
    from lazsim.reliability import recovery_prob as recovery_prob
    from lazsim.routing import GeneratedRouting as GeneratedRouting
    from lazsim.routing import RecordedRouting as RecordedRouting
    from lazsim.routing import RoutingSpec as RoutingSpec
    from lazsim.routing import load_routing as load_routing
    from lazsim.scenario import Scenario as Scenario
    from lazsim.scenario import resolve as resolve
    from lazsim.specs import ClusterSpec as ClusterSpec
    from lazsim.specs import GpuSpec as GpuSpec
    from lazsim.specs import JobSpec as JobSpec
    from lazsim.specs import ModelSpec as ModelSpec
    from lazsim.specs import load_spec as load_spec
    from lazsim.study.result import RunResult as RunResult
    from lazsim.study.simulation import simulate as simulate
    from lazsim.trace import TraceMapping as TraceMapping
    from lazsim.trace import load_trace as load_trace
    from lazsim.trace.prices import Prices as Prices
    from lazsim.trace.recipes import MarketSpec as MarketSpec
    from lazsim.trace.recipes import MtbfSpec as MtbfSpec
    from lazsim.trace.recipes import PoolSpec as PoolSpec
    from lazsim.trace.recipes import PublicSpec as PublicSpec
    from lazsim.trace.recipes import ScheduleSpec as ScheduleSpec
    from lazsim.trace.recipes import SpotSpec as SpotSpec
    from lazsim.trace.table import Event as Event
    from lazsim.trace.table import Trace as Trace
    from lazsim.trace.table import build_trace as build_trace


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
