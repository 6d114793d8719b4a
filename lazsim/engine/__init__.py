"""The simulation: a job on nodes that come and go.

``what happens``
    `simulate` gives a trace to a `job`, which is in one of the `states`, and `protocol` decides which is next. `nodes`
    are alive or on standby, some of them have `held` the states, and others are `joining`. `clock` is the time.
``what follows from a plan``
    `planner` makes plans, for all runs of a system. `run_plans` finds those of one run and their costs, by
    `reconfiguration` and by `step_timer`. `sampling` says which stand for others, and `sampling_error` how far that is
    off. `plan_reliability` scores them.
``what it costs``
    `systems/` has a file for each way to survive, `interval` the steps between its checkpoints. `layout` prices a job
    with one, `default_job` chooses one, and `memory` says what it needs.
``what comes out``
    `ledger` has the use of every second, `progress` the samples, `log` everything else.
"""
