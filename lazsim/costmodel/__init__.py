"""What a training step, a transfer and a checkpoint take, from first principles or from measured tables."""
