"""Real training under real kills: one process per node, and a controller that leads them through every failure.

``controller``
    `run` starts a job of a `spec`. `coordinator` decides, by the protocol of the simulation, and makes each `plan`;
    `worker_server` hears the workers, `worker_pool` and `fork_server` start them, `fault_injector` kills them, and
    `orders` end all of it. `record` is the result.
``worker``
    `worker` talks through `controller_client`. In each `generation`, its `trainer` trains; its `state` moves to others
    and into a `checkpoint`. `messages` are those of both ends.
``validate``
    `calibration` measures the costs of this machine, and `validate` holds a `forecast` by them against a run.
"""
