"""Which leaf of one model is which of another, told from what each does in the traced program.

`_aligning` has `align`, `_alignment` what comes of it. In between, in this order:

`_trace` follows a program: operations on arrays whose axes are unified, and where arrays lie in leaves.
`_match` makes a graph of what meets what, and finds which node of one graph is which of another.
`_layout` finds which axis is which, and so the pairs of parts of leaves.
`_compare` says what is not the same though no leaf holds it.
`_carry` carries values over and runs both models.

`_named` pairs trees of which there is no program. `_parts` and `_records` are what is told of a pair, a
difference and a place; `_mapping` reads and writes them as JSON, `_rows` draws them.
"""
