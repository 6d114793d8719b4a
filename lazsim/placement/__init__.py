"""How many replicas of each expert, on which nodes, and how to get there from the plan before."""
