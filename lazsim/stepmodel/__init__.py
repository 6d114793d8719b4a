"""Predict the step of a layout from measured kernels.

`inputs` is all that a step depends on, and `loading` makes it of names; `layout_rules` says what a layout divides, and
`remarks` which kernels stand in for others. `tables` and `kernels` price kernels; `blocks`, `attention`, its `indexer`
and `experts` list the operations of a layer, and `dispatchers` those of each dispatcher.
`operations` plays them on the queues of host and GPU, `layers` beside the exchanges of another micro-batch, and
`passes` and `pipeline` over the stages. `exchange` adds gradients and optimizer, `predict` sums up, `memory` says what
fits, `search` tries layouts, and `assumptions` says what a step hangs on that no source tells. `import_tables`,
`full_grid` and `check_tables` make tables of what others measured.
"""
