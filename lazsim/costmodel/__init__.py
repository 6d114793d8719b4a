"""Predict the time of a training step, a transfer and a checkpoint, from first principles or measured tables.

`step` has the cost models that the rest of lazsim sees: of kernels, or of `fixed` times. Kernels are priced by
`compute`, with `scan`, and `network`, or by `measured` times of a `profile`. `recovery_times` has saves, moves and
restarts, and `memory` the bytes on a GPU. `fit` fits constants to a profile and tells the errors.
"""
