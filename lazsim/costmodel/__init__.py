"""Predict the time of a training step, a transfer and a checkpoint, from first principles or measured tables."""
