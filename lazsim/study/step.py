"""A predicted step with what a person needs to judge it: range, memory, notes, rivals."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import msgspec

from lazsim.specs.effects import layout_remarks, model_remarks
from lazsim.stepmodel.assumptions import AssumedConstant, weigh_assumptions
from lazsim.stepmodel.inputs import StepInputs
from lazsim.stepmodel.operations import Span
from lazsim.stepmodel.predict import StepModel, StepTime, predict_step
from lazsim.stepmodel.remarks import kernel_remarks
from lazsim.stepmodel.search import Candidate, search_layouts
from lazsim.units import GIB, share_text

LEAST_CHANGE = 5e-4
"""Share of the step below which an assumption does not count."""


CROWDED_SHARE = 0.88
"""Share of the memory above which few of the measured runs of the catalogue are, as lazsim counts it."""


@dataclass(frozen=True)
class StepResult:
    """The step of a layout, and the layouts that a search found."""

    inputs: StepInputs
    """Model, cluster, layout, tables and constants."""
    time: StepTime
    found: list[Candidate]
    """The fastest layouts that fit, where they were searched for."""
    searched: Mapping[str, int]
    """Number of layouts that divide the job, and of those that fit."""

    @property
    def memory_share(self) -> float:
        """Memory that the layout takes over the memory of a GPU."""
        return math.fsum(self.time.memory_bytes.values()) / self.inputs.gpu.memory_bytes

    @property
    def fits(self) -> bool:
        """Whether the layout fits into the memory of a GPU."""
        return self.memory_share <= 1

    @property
    def range_tokens_per_s(self) -> tuple[float, float]:
        """Throughput of measured runs with such graphs at this prediction, a fortieth of them left out at each end."""
        low, high = self.inputs.constants.measured_over_predicted[self.inputs.parallel.graphs]
        return low * self.time.tokens_per_s_per_gpu, high * self.time.tokens_per_s_per_gpu

    @cached_property
    def assumptions(self) -> list[AssumedConstant]:
        """Constants that are assumed, and what they weigh in this step, the heaviest first."""
        return [one for one in weigh_assumptions(self.inputs) if one.weight >= LEAST_CHANGE]

    @property
    def spans(self) -> list[Span]:
        """The work of queues and streams in the most frequent layer."""
        return StepModel(self.inputs).spans()

    @property
    def notes(self) -> list[str]:
        """Say what makes the numbers not hold."""
        model, parallel, gpu = self.inputs.model, self.inputs.parallel, self.inputs.gpu
        notes = []
        if not self.fits:
            part, most = max(self.time.memory_bytes.items(), key=lambda item: item[1])
            notes.append(
                f"the layout does not fit: it takes {self.memory_share * gpu.memory_bytes / GIB:.0f} GiB of a GPU's "
                f"{gpu.memory_bytes / GIB:.0f} GiB, {most / GIB:.0f} GiB of it for {part}; `search` finds one that does"
            )
        if self.found:
            notes.append(
                "the search counts what training takes; a run may choose another layout, since its system's padding "
                "and copies count there, and whole replicas have to fit the nodes"
            )
            if self.memory_share > CROWDED_SHARE:
                notes.append(
                    f"the layout takes {share_text(self.memory_share, '.0%')} of the memory, without fragments; "
                    f"6 of 108 published runs take more than {CROWDED_SHARE:.0%}: if it runs out, take another of "
                    "these layouts"
                )
            if parallel.graphs == "none":
                notes.append(
                    "the host launches every kernel in this layout, and what that takes is the least certain part of a "
                    "step: large micro-batches and recomputation may look better than they are; try graphs"
                )
        notes += kernel_remarks(self.inputs) + model_remarks(model) + layout_remarks(parallel, model)
        ranks, domain = parallel.expert * parallel.expert_tensor, self.inputs.domain
        if ranks < domain < self.inputs.num_gpus and domain % ranks:
            notes.append(
                f"{ranks} GPUs that share experts are taken to be in one domain of {domain}, whose other "
                f"{domain % ranks} are no part of the job; exchanges of groups across two domains take longer"
            )
        if "optimizer" in parallel.offloaded:
            notes.append(
                "states of the optimizer move to the GPU and back for an update there; one on the CPU is slower"
            )
        if parallel.graphs == "full":
            notes.append(
                "the range of throughput is the least and the most of 17 measured runs with such graphs: expect eight "
                "of nine further ones in it, and seven of eight of another source"
            )
        return notes

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        low, high = self.range_tokens_per_s
        length = {"sequence_length": self.inputs.model.sequence_length}
        return {
            "model": self.inputs.model.name,
            "cluster": self.inputs.cluster.name,
            "gpus": self.inputs.num_gpus,
            "layout": msgspec.to_builtins(self.inputs.parallel) | length | {"data": self.inputs.data},
            "fits": self.fits,
            "step_s": self.time.step_s,
            "tokens_per_s_per_gpu": self.time.tokens_per_s_per_gpu,
            "tokens_per_s_per_gpu_range": [low, high],
            "mfu": self.time.mfu,
            "exposed_s": dict(self.time.exposed_s),
            "hidden_s": dict(self.time.hidden_s),
            "memory_bytes": dict(self.time.memory_bytes),
            "assumptions": [asdict(assumption) for assumption in self.assumptions],
            "memory_of_gpu_bytes": self.inputs.gpu.memory_bytes,
            "search": [
                {
                    "layout": msgspec.to_builtins(candidate.parallel) | length,
                    "step_s": candidate.time.step_s,
                    "tokens_per_s_per_gpu": candidate.time.tokens_per_s_per_gpu,
                    "memory_bytes": math.fsum(candidate.time.memory_bytes.values()),
                }
                for candidate in self.found
            ],
            "searched": dict(self.searched),
            "notes": self.notes,
        }


def predict_layout(inputs: StepInputs, search: bool = False, chooses_batch: bool = False) -> StepResult:
    """Predict the step of a layout, or of the fastest that a search finds, which may choose the batch, too.

    Raises
    ------
    SpecError
        When the layout cannot be predicted, or none fits.
    """
    if not search:
        return StepResult(inputs, predict_step(inputs), [], {})
    found = search_layouts(inputs, chooses_batch=chooses_batch)
    best = found.candidates[0]
    counts = {"num_valid": found.num_valid, "num_fitting": found.num_fitting}
    return StepResult(replace(inputs, parallel=best.parallel), best.time, found.candidates, counts)
