"""Predictions held against what others measured.

`measured_runs` are steps to predict, of models and systems of `measured_models`, and `orders` ranks and pairs them.
`outcomes` under failures are simulated: `replays` runs their `setups`, `outcome_inputs` reads their inputs from words,
and `plan_a` is the placement of one. `cells` are those of tables of both, and `verification` has the errors of all.
"""
