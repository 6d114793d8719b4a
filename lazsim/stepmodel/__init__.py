"""Predict the step of a layout from measured kernels: operations of each block, queues of host and GPU, pipeline."""
