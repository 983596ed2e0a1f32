"""Tables to text, Markdown and CSV, by whole columns."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

Align = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of cells, already escaped.

    Attributes:
        title: its heading.
        cells: one text a row; or, with `codes`, one text a code.
        codes: which cell each row shows: a column of few distinct cells is padded once a cell.
        align: numbers stand to the right.
    """

    title: str
    cells: Sequence[str]
    codes: Sequence[int] | None = None
    align: Align = "left"

    def texts(self) -> list[str]:
        """One text a row."""
        if self.codes is None:
            return list(self.cells)
        return list(map(self.cells.__getitem__, self.codes))

    def padded(self) -> list[str]:
        """One text a row, all as wide as the widest; the title first."""
        used = self.cells if self.codes is None else [self.cells[c] for c in set(self.codes)]
        width = max(len(self.title), max(map(len, used), default=0))
        pad = str.rjust if self.align == "right" else str.ljust
        padded = list(map(pad, self.cells, repeat(width)))
        rows = padded if self.codes is None else list(map(padded.__getitem__, self.codes))
        return [pad(self.title, width), *rows]


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of equal length, and lines that sum them up."""

    columns: tuple[Column, ...]
    footer: tuple[str, ...] = ()


def table_text(table: Table) -> str:
    """Aligned columns, a heading and the footer; no line is cut and none ends in spaces."""
    rows = zip(*(column.padded() for column in table.columns), strict=True)
    lines = map(str.rstrip, map("  ".join, rows))
    return "\n".join([*lines, *table.footer]) + "\n"


_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\|*_`~<>[]#"} | {"&": "&amp;"})


def table_markdown(table: Table) -> str:
    """A GitHub-flavoured Markdown table, every character that Markdown or HTML reads escaped."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rule = line(["--:" if c.align == "right" else ":--" for c in table.columns])
    body = zip(*([t.translate(_MARKDOWN) for t in c.texts()] for c in table.columns), strict=True)
    footer = [f"\n{text.translate(_MARKDOWN)}" for text in table.footer]
    return "\n".join([line([c.title for c in table.columns]), rule, *map(line, body), *footer]) + "\n"


def table_csv(table: Table) -> str:
    """RFC 4180 with newlines as line ends: a header and one record a row; no footer."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.title for column in table.columns])
    writer.writerows(zip(*(column.texts() for column in table.columns), strict=True))
    return out.getvalue()
