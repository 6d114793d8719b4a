"""The best choice for a goal.

`question` makes scenarios of choices and runs them, `search` races and tunes choices for a `goal`, and `advice` finds
what is best, and what would change that: its `result`. `formulas` say where a search for an interval begins, and what
others would take.
"""
