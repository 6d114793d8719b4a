"""Figures: one function per figure, from a result to the content of files.

Figures do not go through pyplot, and settings hold while one is drawn only: the backend and the settings of the program
that imports lazsim stay as they are.
"""
