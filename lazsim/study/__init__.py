"""Questions asked of the simulator, by the command that asks them.

``run``
    `simulation` resolves a scenario for each system and simulates it, `checkpoint_interval` chooses its setting,
    `memory` and `notes` say what does not fit and what does not hold, and `result` has the outcome.
``sweep``, ``sensitivity``
    `sweep_spec` reads a file, `sweep` runs its points, and `sweep_result` compares them; `sensitivity` changes one
    constant at a time. Both, and advice, have `collect` run scenarios in the workers of `backends`, and `store` keeps
    the rows. `intervals` and `comparison` say what seeds bear out.
``advise``
    `question` makes scenarios of choices and runs them, `search` races and tunes choices, `deadline` buys nodes for
    work that is due, and `advice` says what is best, and what would change that.
``verify``, ``compare``, ``step``
    `measured_runs` are predicted and put in `orders`; `replays` of published `outcomes` are simulated, whose inputs
    `outcome_inputs` reads from words (`plan_a` is a placement of one); `verify` has the errors. `observed` holds a log
    against a run, and `step` tells of one step.
``experiment``
    `experiment` runs the published ones, and scripts of users.
"""
