"""A report as tables: one line a leaf, or one line a group."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Literal

from leafreport._columns import Columns
from leafreport._display import Display
from leafreport._fold import tree_rows
from leafreport._json import exact
from leafreport._leaf import Path, Spec, display_path, escape, format_nbytes
from leafreport._render._rows import Row, plural
from leafreport._render._table import Column, Table
from leafreport._totals import Sums, Totals

Sort = Literal["path", "bytes", "params"]


def footer(totals: Totals, *, shown: int | None = None, noun: str = "leaf") -> tuple[str, ...]:
    """The lines under a table: the totals, which never depend on what is shown."""
    whole = totals.whole
    lines = [f"total  {sums_text(whole)}"]
    devices = totals.device_nbytes()
    if len(devices) > 1:
        most = max(devices.values())
        device = next(d for d, n in devices.items() if n == most)
        lines.append(
            f"devices  {len(devices)}, at most {format_nbytes(most)} ({most:,} B) on one (device {device}); "
            f"replication costs {format_nbytes(totals.replicated_nbytes())}"
        )
    if shown is not None:
        lines.insert(0, f"... {plural(shown, f'more {noun}')} not shown; the total has all")
    return tuple(lines)


def sums_text(sums: Sums) -> str:
    """Sums in words, bytes both ways."""
    exact = f" ({sums.nbytes:,} B)" if sums.nbytes >= 1024 else ""
    text = (
        f"{plural(sums.leaf_count, 'leaf')}, {plural(sums.param_count, 'param')}, "
        f"{format_nbytes(sums.nbytes)}{exact}"
    )
    if sums.repeated_nbytes:
        text += f"; {format_nbytes(sums.repeated_nbytes)} more in shared leaves, counted once"
    return text


def leaf_table(
    columns: Columns,
    display: Display,
    totals: Totals,
    *,
    sort: Sort = "path",
    max_rows: int | None = None,
) -> Table:
    """One line a leaf: path, shape, dtype, elements, bytes, and sharding where there is one."""
    specs = columns.specs
    codes = columns.code[columns.leaves].tolist()
    order = _sorted_leaves(columns, display, sort)
    hidden = None
    if max_rows is not None and len(order) > max_rows:
        hidden = len(order) - max_rows
        order = order[:max_rows]
    names = display.leaf_names()
    shown = list(map(codes.__getitem__, order))

    def column(title: str, cell: Callable[[Spec], str], align: Literal["left", "right"] = "left") -> Column:
        return Column(title, list(map(cell, specs)), shown, align)

    made = [
        Column("path", list(map(names.__getitem__, order))),
        column("shape", _shape),
        column("dtype", lambda spec: escape(spec.dtype)),
        column("params", lambda spec: _count(_params(spec, 1), True), "right"),
        column("bytes", lambda spec: _nbytes(spec.nbytes, True), "right"),
    ]
    if any(spec.sharding for spec in specs):
        made.append(column("device bytes", lambda spec: _nbytes(spec.device_nbytes, True), "right"))
        made.append(column("sharding", lambda spec: escape(str(spec.sharding or ""))))
    if columns.first is not None:
        first = columns.first.tolist()
        made.append(Column("shared with", [names[first[n]] if first[n] != n else "" for n in order]))
    return Table(tuple(made), footer(totals, shown=hidden))


def csv_table(
    columns: Columns,
    display: Display,
    *,
    sort: Sort = "path",
    max_rows: int | None = None,
) -> Table:
    """One record a leaf, every fact raw; `steps` is the exact path as a JSON list."""
    specs = columns.specs
    order = _sorted_leaves(columns, display, sort)[:max_rows]
    codes = columns.code[columns.leaves].tolist()
    shown = list(map(codes.__getitem__, order))
    names = display.leaf_names()
    paths = [columns.path(entry) for entry in columns.leaves[order].tolist()]

    def column(title: str, cell: Callable[[Spec], object]) -> Column:
        cells = (cell(spec) for spec in specs)
        return Column(title, ["" if value is None else str(value) for value in cells], shown)

    shared = [""] * len(order)
    if columns.first is not None:
        first = columns.first.tolist()
        shared = [names[first[n]] if first[n] != n else "" for n in order]
    return Table(
        (
            Column("path", list(map(names.__getitem__, order))),
            Column("steps", [json.dumps(list(map(exact, path))) for path in paths]),
            column("kind", lambda spec: spec.kind),
            column("shape", _shape),
            column("dtype", lambda spec: escape(spec.dtype)),
            column("size", lambda spec: spec.size),
            column("nbytes", lambda spec: spec.nbytes),
            column("device_nbytes", lambda spec: spec.device_nbytes),
            column("sharding", lambda spec: escape(str(spec.sharding or ""))),
            Column("shared_with", shared),
        )
    )


def _sorted_leaves(columns: Columns, display: Display, sort: Sort) -> list[int]:
    order: list[int] = display.leaf_order.tolist()
    if sort != "path":
        amount = [_amount(spec, sort) for spec in columns.specs]
        codes = columns.code[columns.leaves].tolist()
        order.sort(key=lambda leaf: -amount[codes[leaf]])
    return order


def _amount(spec: Spec, sort: Sort) -> int:
    if sort == "bytes":
        return spec.nbytes or 0
    return spec.size or 0 if spec.kind == "array" else 0


def _shape(spec: Spec) -> str:
    return "" if spec.shape is None else str(spec.shape).replace(" ", "")


def _count(count: int | None, units: bool) -> str:
    if count is None:
        return ""
    return f"{count:,}" if units else str(count)


def _nbytes(nbytes: int | None, units: bool) -> str:
    if nbytes is None:
        return ""
    return format_nbytes(nbytes) if units else str(nbytes)


def folded_table(
    columns: Columns,
    display: Display,
    totals: Totals,
    *,
    sort: Sort = "path",
    max_rows: int | None = None,
) -> Table:
    """One line a leaf of the folded tree; a line's numbers are those of all the leaves it stands for."""
    lines: list[tuple[str, int, Spec, str]] = []
    trail: list[Row] = []
    for row in tree_rows(columns, display, totals, fold=True):
        del trail[max(row.depth - 1, 0) :]
        if row.depth:
            trail.append(row)
        if row.spec is not None:
            name = "/".join(step.label for step in trail) or row.label
            lines.append((name, math.prod(step.times for step in trail), row.spec, row.detail))
    if sort != "path":
        lines.sort(key=lambda line: -line[1] * _amount(line[2], sort))
    hidden = None
    if max_rows is not None and len(lines) > max_rows:
        hidden = len(lines) - max_rows
        lines = lines[:max_rows]
    made = [
        Column("path", [name for name, *_ in lines]),
        Column("times", [f"x{n}" if n > 1 else "" for _, n, *_ in lines]),
        Column("shape", [_shape(spec) for *_, spec, _ in lines]),
        Column("dtype", [escape(spec.dtype) for *_, spec, _ in lines]),
        Column("params", [_count(_params(s, n), True) for _, n, s, _ in lines], align="right"),
        Column("bytes", [_nbytes(_times(s.nbytes, n), True) for _, n, s, _ in lines], align="right"),
        Column("notes", [detail for *_, detail in lines]),
    ]
    used = [column for column in made if column.title not in ("times", "notes") or any(column.cells)]
    return Table(tuple(used), footer(totals, shown=hidden, noun="row"))


def _params(spec: Spec, times: int) -> int | None:
    return _times(spec.size, times) if spec.kind == "array" else None


def _times(amount: int | None, times: int) -> int | None:
    return None if amount is None else amount * times


def group_table(
    groups: Sequence[tuple[Path, Sums]],
    totals: Totals,
    *,
    sort: Sort = "path",
    max_rows: int | None = None,
    units: bool = True,
) -> Table:
    """One line a group: path, leaves, elements, bytes and the share of all bytes."""
    order = list(groups)
    if sort != "path":
        order.sort(key=lambda group: -(group[1].nbytes if sort == "bytes" else group[1].param_count))
    hidden = None
    if max_rows is not None and len(order) > max_rows:
        hidden = len(order) - max_rows
        order = order[:max_rows]
    whole = totals.whole.nbytes

    def share(nbytes: int) -> str:
        return f"{nbytes / whole:.1%}" if whole else ""

    return Table(
        (
            Column("path", [display_path(path) for path, _ in order]),
            Column("leaves", [_count(s.leaf_count, units) for _, s in order], align="right"),
            Column("params", [_count(s.param_count, units) for _, s in order], align="right"),
            Column("bytes", [_nbytes(s.nbytes, units) for _, s in order], align="right"),
            Column("of all", [share(s.nbytes) for _, s in order], align="right"),
        ),
        footer(totals, shown=hidden, noun="row"),
    )
