"""Files: what comes in, what goes out, and what is wrong with them.

`reading` reads bytes and text, `decoding` makes records of JSON and TOML, and `tables` finds rows and columns; `faults`
says where one is wrong. `writing` writes files whole or not at all, and `folders` those of a result.
"""
