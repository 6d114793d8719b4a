"""What readers of traces share.

Tables go through `guess`, which finds the `mapping` of their columns, and `mapped`, which makes events of their rows;
logs go through `states`. `times` reads their times and `hosts` their lists of nodes, `events` makes events of counts,
outages and states, and `refusals` says what a file is that is no trace.
"""
