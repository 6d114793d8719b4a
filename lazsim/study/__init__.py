"""Questions asked of the simulator: one run, grids of runs, and the effect of each constant."""
