"""Real training under real kills: one process per node, a controller that detects, recovery as each system has it."""
