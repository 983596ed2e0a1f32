"""A tree of rows as treescope draws it: text for a terminal, parts for a notebook.

Drawn from rows alone: an array is never shown to treescope, which would read its values.
"""

from collections.abc import Sequence
from typing import Any

from treescope import lowering
from treescope import rendering_parts as parts

from leafreport._leaf import display_path
from leafreport._render._rows import DEEPEST, Row, facts, plural, shallow, title

# Rows beyond this are drawn here, in the same form: treescope takes 0.1 to 0.4 ms a row.
_MOST_DRAWN = 3_000
_MOST_OPEN = 40


def tree_text(rows: Sequence[Row], *, max_rows: int | None = None, color: bool = False) -> str:
    """The tree as text, one line a row, two spaces a level."""
    drawn = list(shallow(rows))
    hidden = 0 if max_rows is None else max(len(drawn) - max(max_rows, 1), 0)
    drawn = drawn[: len(drawn) - hidden]
    if len(drawn) <= _MOST_DRAWN:
        text = lowering.render_to_text_as_root(_nested(drawn, open_rows=len(drawn)).renderable)
        lines = text.split("\n")
    else:
        lines = [f"{'  ' * row.depth}{title(row)}  {facts(row)}" for row in drawn]
    if color:
        lines = [_colored(line, row) for line, row in zip(lines, drawn, strict=True)]
    if hidden:
        lines.append(f"... {plural(hidden, 'more row')} not shown; the sums have all")
    return "\n".join(lines) + "\n"


def _colored(line: str, row: Row) -> str:
    start = 2 * row.depth
    stop = start + len(title(row))
    style = "36" if row.spec is not None else "1"
    return f"{line[:start]}\x1b[{style}m{line[start:stop]}\x1b[0m\x1b[2m{line[stop:]}\x1b[0m"


def rendering(rows: Sequence[Row], heading: str, path: str | None) -> Any:
    """The tree as treescope parts, for `__treescope_repr__`: foldable, the first rows open."""
    label = parts.custom_style(parts.text(heading), "font-weight: bold")
    tree = _nested(list(shallow(rows)), open_rows=_MOST_OPEN)
    return parts.build_custom_foldable_tree_node(
        label=label,
        contents=parts.siblings(
            parts.build_copy_button(path), parts.fold_condition(expanded=parts.indented_children([tree]))
        ),
        expand_state=parts.ExpandState.EXPANDED,
    )


def _nested(rows: list[Row], *, open_rows: int) -> Any:
    """Parts for rows in preorder, built from the last to the first, so that children come before parents."""
    opened = _opened(rows, open_rows)
    waiting: list[list[Any]] = [[] for _ in range(DEEPEST + 3)]
    for number in range(len(rows) - 1, -1, -1):
        row = rows[number]
        children = waiting[row.depth + 1][::-1]
        waiting[row.depth + 1] = []
        waiting[row.depth].append(_node(row, children, opened=number in opened))
    return waiting[rows[0].depth][0]


def _opened(rows: list[Row], most: int) -> set[int]:
    """The subtrees to open at first: level by level, as long as what they show stays under `most` rows."""
    children = [0] * len(rows)
    trail: list[int] = []
    for number, row in enumerate(rows):
        del trail[row.depth - rows[0].depth :]
        if trail:
            children[trail[-1]] += 1
        trail.append(number)
    opened = {0}
    shown = 1 + children[0]
    for number in sorted(range(1, len(rows)), key=lambda n: rows[n].depth):
        if children[number] and shown + children[number] <= most:
            opened.add(number)
            shown += children[number]
    return opened


def _node(row: Row, children: list[Any], *, opened: bool) -> Any:
    label = parts.siblings(
        parts.custom_style(parts.text(title(row)), "font-weight: bold")
        if row.spec is None
        else parts.text(title(row)),
        parts.custom_style(parts.text(f"  {facts(row)}"), "opacity: 0.8"),
    )
    path = display_path(row.path)
    if not children:
        return parts.build_one_line_tree_node(line=label, path=path)
    # The copy button stands on the node's own line: given as `path` it would follow the last child.
    return parts.build_custom_foldable_tree_node(
        label=label,
        contents=parts.siblings(
            parts.build_copy_button(path), parts.fold_condition(expanded=parts.indented_children(children))
        ),
        expand_state=parts.ExpandState.EXPANDED if opened else parts.ExpandState.COLLAPSED,
    )
