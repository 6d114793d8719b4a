"""Times of the real kernels on a real device; torch is imported to measure only."""
