"""Figures: a function for each, from a result to files by type, ``png`` and ``pdf``; the same bytes for the same one.

Figures do not go through pyplot, and settings hold while one is drawn only: the backend and the settings of the program
that imports lazsim stay as they are.
"""
