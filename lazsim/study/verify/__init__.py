"""Predictions held against what others measured.

`measured_runs` are steps to predict, and `orders` ranks and pairs them. Their rows are brought to plain words by
`measured_words`; `measured_models` and `measured_layouts` make inputs of these, and `measured_remarks` tells the rest.
`outcomes` under failures are simulated: `replays` runs their `setups`, `outcome_inputs` reads their inputs from words,
and `plan_a` is the placement of one. `cells` are those of tables of both, and `verification` has the errors of all.
"""
