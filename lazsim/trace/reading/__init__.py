"""What readers of traces share.

Tables are `catalogued`, or `guess` finds the `mapping` of their `columns`, which `doubts` questions. `mapped` makes
events of their rows, and logs go through `states`. `times` reads their times and `hosts` their lists of nodes, `events`
makes events of counts, outages and states, and `refusals` says what a file is that is no trace.
"""
