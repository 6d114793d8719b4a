"""What commands stand on.

`group` finds the command that is called, and turns errors into one line by `messages`. `kinds` are the values that
options take, `effects` refuses options without effect, `common` has the options and outputs that commands share, and
`replay` those of traces. `ending` ends a process that is told to, and `streams` are those that it writes to.
"""
