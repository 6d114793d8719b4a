"""Figures: one function per figure, from a table to axes. They go to files, so that no display is needed."""

import matplotlib

matplotlib.use("agg")
