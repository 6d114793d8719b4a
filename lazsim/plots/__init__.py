"""Figures: one function per figure, from a table to axes."""
