"""Predictions held against what others measured.

`measured_runs` are steps to predict, which `orders` ranks and pairs. `outcomes` under failures are simulated: `replays`
has their set-ups, `outcome_inputs` reads their inputs from words, and `plan_a` is the placement of one. `verification`
has the errors of all.
"""
