"""Run the command line as ``python -m pddgraph``."""

from pddgraph.cli import main

main()
