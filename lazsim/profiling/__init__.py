"""Times of the real kernels on a real device; torch is imported in this room only, and only to measure."""
