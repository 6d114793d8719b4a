"""Building blocks in torch: devices, communicators, and the operators of a Mixture-of-Experts transformer.

`transformer` is the model, of `operators`; `dispatch` sends its rows, some sums of which are `fused`. `group` is a
communicator, `reduce` sums gradients of experts over it, and `device` is where a process computes.
"""
