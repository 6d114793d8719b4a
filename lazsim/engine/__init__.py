"""The simulation: a job on nodes that come and go."""
