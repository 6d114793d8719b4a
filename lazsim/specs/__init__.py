"""Frozen specifications of a model, a GPU, a cluster and a job, read from TOML.

`record` is the base of all: `model`, `hardware`, `job` with the layout in `parallel`, and the constants of a `step`.
`catalog` finds them by name, `huggingface` makes a model of a ``config.json``, `overrides` change fields, and `effects`
says which of them have none.
"""

from lazsim.specs.catalog import (
    CATALOG_KINDS,
    SpecT,
    catalog_names,
    describe_spec,
    hash_id,
    load_spec,
    read_spec_bytes,
    read_toml,
    sha256,
)
from lazsim.specs.hardware import ClusterSpec, FusedExpertsSpec, GpuSpec, HostSpec, NetworkSpec, RecoverySpec
from lazsim.specs.job import JobSpec, TimesSpec
from lazsim.specs.model import (
    OPTIMIZER_STATE_BYTES_PER_PARAM,
    WEIGHT_BYTES_PER_PARAM,
    AttentionSpec,
    ModelSpec,
    StateSpaceSpec,
)
from lazsim.specs.parallel import ParallelSpec
from lazsim.specs.record import Spec
from lazsim.specs.step import StepConstants

__all__ = [
    "CATALOG_KINDS",
    "OPTIMIZER_STATE_BYTES_PER_PARAM",
    "WEIGHT_BYTES_PER_PARAM",
    "AttentionSpec",
    "ClusterSpec",
    "FusedExpertsSpec",
    "GpuSpec",
    "HostSpec",
    "JobSpec",
    "ModelSpec",
    "NetworkSpec",
    "ParallelSpec",
    "RecoverySpec",
    "Spec",
    "SpecT",
    "StateSpaceSpec",
    "StepConstants",
    "TimesSpec",
    "catalog_names",
    "describe_spec",
    "hash_id",
    "load_spec",
    "read_spec_bytes",
    "read_toml",
    "sha256",
]
