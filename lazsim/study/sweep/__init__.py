"""Grids of scenarios: `spec` reads a file of axes, `run` simulates its points, and `result` compares them."""
