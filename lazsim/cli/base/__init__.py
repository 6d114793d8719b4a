"""What commands stand on.

`group` finds the command that is called, and turns errors into one line by `messages`. `kinds` are the values that
options take, `options` those that several commands share, and `replay` those of traces; `effects` refuses options
without effect. `results` go to stdout and to the folder of ``--out``, notes on them and `progress` to stderr.
`torch_needed` comes before an import of torch, `ending` ends a process that is told to, and `streams` are those that it
writes to.
"""
