"""Predict the time of a training step, a transfer and a checkpoint, from first principles or measured tables.

`costs` is the cost model that the rest of lazsim sees; that of kernels is in `step`, that of known times in `fixed`.
Kernels are priced by `compute`, with `scan`, and `network`, or by `measured` times of a `profile`. `recovery_times` has
saves, moves and restarts, and `memory` the bytes on a GPU. `fit` fits constants to a profile and tells the errors.
"""
