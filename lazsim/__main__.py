"""Run ``python -m lazsim``."""

from lazsim.cli import main

main()
