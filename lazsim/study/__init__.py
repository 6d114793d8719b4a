"""Questions asked of the simulator: one run, grids of runs, and what a result owes to each constant."""
