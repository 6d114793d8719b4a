"""Times of a job that are known."""

from lazsim.specs.record import Amount, Count, PositiveSeconds, Seconds, Spec


class TimesSpec(Spec, frozen=True, kw_only=True):
    """Times of a job as someone measured or published them, in place of those from kernels and links.

    Attributes
    ----------
    step_s : float or tuple of float
        Seconds of a step, whatever its plan and loads; or those with one model replica, with two and so on, the last
        for any more.
    storage_s : float
        Seconds of a save, as of a load.
    transfer_s : float
        Seconds in which a node gets states from another.
    samples_per_step : int
        Sequences of a step, whatever the nodes; 0 for as many as the job's settings give each node.
    num_stages, nodes_per_stage : int
        Pipeline stages of a model replica, and nodes that hold a stage once; 0 for as many as equal chunks of the
        experts fill.
    """

    step_s: PositiveSeconds | tuple[PositiveSeconds, ...]
    storage_s: Seconds = 0.0
    transfer_s: Seconds = 0.0
    samples_per_step: Amount = 0
    num_stages: Count = 1
    nodes_per_stage: Amount = 0

    def __post_init__(self) -> None:
        if self.step_s == ():
            raise ValueError("need one step_s or more")
