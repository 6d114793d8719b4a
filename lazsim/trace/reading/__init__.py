"""What readers of traces share.

Tables are `catalogued`, or `guess` finds the `mapping` of their `columns`, which `doubts` questions. `rows` picks those
that count, `words` says what their texts mean, and `mapped` makes events of them; logs go through `states`. `times`
reads their times and `hosts` their lists of nodes, `events` makes events of counts, outages and states, and `refusals`
says what a file is that is no trace.
"""
