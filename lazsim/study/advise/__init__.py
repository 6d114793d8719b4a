"""The best choice for a goal.

`question` makes scenarios of choices and runs them, `search` races and tunes choices, and `advice` says what is best,
and what would change that. `formulas` say where a search for an interval begins, and what others would take.
"""
