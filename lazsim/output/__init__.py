"""Results for people: tables, files and plots.

A module named as a command shows what it finds, as a `table`; `plots` draws it and `report` makes a page of it. They
share `maps` of plans, short `names` and `windows` of time; `chrome_trace` has a run for Perfetto.
"""
