"""Questions asked of the simulator, by the command that asks them.

``run``
    `simulation` resolves a scenario for each system and simulates it, `checkpoint_interval` chooses its setting by the
    `runs` at others, `memory` and `notes` say what does not fit and what does not hold, and `result` has the outcome.
``sweep/``, ``advise/``, ``verify/``
    A package each. Sweeps, advice and `sensitivity`, which changes one constant at a time, have `collect` run scenarios
    in the workers of `backends`, and `store` keeps the rows. `intervals` and `comparison` say what seeds bear out.
    `deadline` buys nodes for work that is due.
``compare``, ``step``, ``experiment``
    `observed` holds a log, which `step_log` reads, against a run, `step` tells of one step, and `experiment` runs the
    published experiments, and scripts of users.
"""
