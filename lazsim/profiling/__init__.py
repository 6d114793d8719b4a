"""Times of the real kernels on a real device; torch is imported to measure only.

A `session` measures within one budget of time, by `scheduler`: the `kernels` of a model, one point by `compute`,
`exchanges` between processes by `communication`, and `storage`. `timing` repeats a point until its median is known, and
`machine` says where that was. `check` holds points out, and `ranks` measures whole layers, the ranks of `rank_loads` in
turn, with `results`.
"""
