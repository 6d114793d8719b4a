"""Real training under real kills: one process per node, and a controller that leads them through every failure."""
