"""Which leaf of one model is which of another, told from what each does in the traced program.

`_trace` (with `_rules`) reads a program into records (`_program`), in which axes are terms that are unified
(`_dims`); `_graph` keeps of it what tells leaves apart, with `_views` for indices and `_functions` for what
is done on the way; `_match` finds which node is which, `_layout` which axis, `_convert` carries values over.
"""
