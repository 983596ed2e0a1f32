"""Rows of two trees side by side as text: a glyph and a word for what each is, colour where it is seen."""

from collections.abc import Sequence
from dataclasses import dataclass

from leafreport._render._rows import plural


@dataclass(frozen=True, slots=True)
class PairedRow:
    """One line of a tree of pairs.

    Attributes:
        depth: how far it is indented.
        glyph: `=` paired, `?` open, `-` only left, `+` only right, `.` unused, `~` different; the empty
            string for a block.
        text: what stands on the left, and what on the right, escaped.
        note: what else there is to say.
    """

    depth: int
    glyph: str
    text: str
    note: str = ""


_COLORS = {"?": "33", "-": "31", "+": "32", "~": "33", ".": "2", "": "1"}


def paired_text(rows: Sequence[PairedRow], *, max_rows: int | None = None, color: bool = False) -> str:
    """The rows, one a line, two spaces a level.

    Args:
        rows: what to draw.
        max_rows: rows past this many are left out, and counted.
        color: with ANSI colours.
    """
    hidden = 0 if max_rows is None else max(len(rows) - max_rows, 0)
    lines = []
    for row in rows[: len(rows) - hidden]:
        mark = f"{row.glyph} " if row.glyph else ""
        note = f"  {row.note}" if row.note else ""
        style = _COLORS.get(row.glyph)
        if color and style and row.glyph:
            body = f"\x1b[{style}m{mark}{row.text}{note}\x1b[0m"
        elif color and style:
            body = f"\x1b[{style}m{row.text}\x1b[0m\x1b[2m{note}\x1b[0m"
        else:
            body = f"{mark}{row.text}{note}"
        lines.append(f"{'  ' * row.depth}{body}")
    if hidden:
        lines.append(f"... {plural(hidden, 'more row')} not shown; the counts have all")
    return "".join(f"{line}\n" for line in lines)
