"""A report as tables: one line a leaf, or one line a group."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from leafreport._columns import Columns
from leafreport._display import Display
from leafreport._fold import tree_rows
from leafreport._json import exact
from leafreport._leaf import Path, Spec, display_path, escape, format_nbytes
from leafreport._render._rows import Row, plural
from leafreport._render._table import Column, Table
from leafreport._totals import Sums, Totals

Sort = Literal["path", "bytes", "params"]


def footer(totals: Totals, *, hidden: int = 0, noun: str = "leaf") -> tuple[str, ...]:
    """The lines under a table: the totals, which never depend on what is shown."""
    whole = totals.whole
    lines = [f"total  {sums_text(whole)}"]
    if len(totals.roles) > 1:
        lines.append("roles  " + "; ".join(f"{role} {sums_text(s)}" for role, s in totals.roles.items()))
    if totals.logical != whole.leaf_count:
        lines.append(
            f"logical  {totals.logical:,} leaves, were the layers that are stacked in one leaf counted each"
        )
    devices = totals.device_nbytes()
    if len(devices) > 1:
        most = max(devices.values())
        device = next(d for d, n in devices.items() if n == most)
        lines.append(
            f"devices  {len(devices)}, at most {format_nbytes(most)} ({most:,} B) on one (device {device}); "
            f"replication costs {format_nbytes(totals.replicated_nbytes())}"
        )
    if totals.stored_nbytes is not None:
        lines.append(f"on disk  {format_nbytes(totals.stored_nbytes)} ({totals.stored_nbytes:,} B) of values")
    if hidden:
        lines.insert(0, f"... {plural(hidden, f'more {noun}')} not shown; the total has all")
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
    order, hidden = _first_of(_sorted_leaves(columns, display, sort), max_rows)
    names = display.leaf_names()
    shown = columns.leaf_code[order].tolist()

    def column(title: str, cell: Callable[[Spec], str], align: Literal["left", "right"] = "left") -> Column:
        return Column(title, list(map(cell, specs)), shown, align)

    made = [
        Column("path", list(map(names.__getitem__, order))),
        column("shape", _shape),
        column("dtype", lambda spec: escape(spec.dtype)),
        column("params", lambda spec: _count(_params(spec, 1), True), "right"),
        column("bytes", lambda spec: _nbytes(spec.nbytes, True), "right"),
    ]
    if columns.stored is not None:
        on_disk = [_nbytes(columns.stored_at(leaf), True) for leaf in order]
        made.append(Column("on disk", on_disk, align="right"))
    if any(spec.owner or spec.stacked for spec in specs):
        made.append(column("layer", layer_text))
    if len(totals.roles) > 1:
        made.append(column("role", lambda spec: spec.role or ""))
    if any(spec.sharding for spec in specs):
        made.append(column("device bytes", lambda spec: _nbytes(spec.device_nbytes, True), "right"))
        made.append(column("sharding", lambda spec: escape(str(spec.sharding or ""))))
    if columns.first is not None:
        made.append(Column("shared with", _shared_with(columns, names, order)))
    return Table(tuple(made), footer(totals, hidden=hidden))


def layer_text(spec: Spec) -> str:
    """The class of the layer that holds a leaf, and how many of them."""
    owner = escape(spec.owner or "")
    return f"{owner} x{spec.stacked:,}".strip() if spec.stacked else owner


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
    shown = columns.leaf_code[order].tolist()
    names = display.leaf_names()
    paths = [columns.path(entry) for entry in columns.leaves[order].tolist()]

    def column(title: str, cell: Callable[[Spec], object]) -> Column:
        cells = (cell(spec) for spec in specs)
        return Column(title, ["" if value is None else str(value) for value in cells], shown)

    on_disk: tuple[Column, ...] = ()
    if columns.stored is not None:
        stored = map(columns.stored_at, order)
        on_disk = (
            Column("stored_nbytes", ["" if nbytes is None else str(nbytes) for nbytes in stored]),
            column("chunk_shape", lambda spec: _dims(spec.chunk_shape)),
        )
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
            Column("shared_with", _shared_with(columns, names, order)),
            column("role", lambda spec: spec.role),
            column("owner", lambda spec: None if spec.owner is None else escape(spec.owner)),
            column("stacked", lambda spec: spec.stacked),
            *on_disk,
        )
    )


def _sorted_leaves(columns: Columns, display: Display, sort: Sort) -> list[int]:
    order: list[int] = display.leaf_order.tolist()
    if sort != "path":
        amount = [_amount(spec, sort) for spec in columns.specs]
        codes = columns.leaf_code.tolist()
        order.sort(key=lambda leaf: -amount[codes[leaf]])
    return order


_T = TypeVar("_T")


def _first_of(rows: list[_T], most: int | None) -> tuple[list[_T], int]:
    """The rows that are shown, and how many are not."""
    shown = rows[:most]
    return shown, len(rows) - len(shown)


def _shared_with(columns: Columns, names: list[str], order: list[int]) -> list[str]:
    """For each leaf the name of the first that is the same object; nothing for that one, or one alone."""
    if columns.first is None:
        return [""] * len(order)
    first = columns.first.tolist()
    return [names[first[leaf]] if first[leaf] != leaf else "" for leaf in order]


def _amount(spec: Spec, sort: Sort) -> int:
    if sort == "bytes":
        return spec.nbytes or 0
    return spec.size or 0 if spec.kind == "array" else 0


def _shape(spec: Spec) -> str:
    return _dims(spec.shape)


def _dims(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else str(shape).replace(" ", "")


def _count(count: int | None, units: bool) -> str:
    if count is None:
        return ""
    return f"{count:,}" if units else str(count)


def _nbytes(nbytes: int | None, units: bool) -> str:
    if nbytes is None:
        return ""
    return format_nbytes(nbytes) if units else str(nbytes)


_IF_USED = ("times", "layer", "notes")


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
    lines, hidden = _first_of(lines, max_rows)
    made = [
        Column("path", [name for name, *_ in lines]),
        Column("times", [f"x{n}" if n > 1 else "" for _, n, *_ in lines]),
        Column("shape", [_shape(spec) for *_, spec, _ in lines]),
        Column("dtype", [escape(spec.dtype) for *_, spec, _ in lines]),
        Column("params", [_count(_params(s, n), True) for _, n, s, _ in lines], align="right"),
        Column("bytes", [_nbytes(_times(s.nbytes, n), True) for _, n, s, _ in lines], align="right"),
        Column("layer", [layer_text(spec) for *_, spec, _ in lines]),
        Column("notes", [detail for *_, detail in lines]),
    ]
    used = [column for column in made if column.title not in _IF_USED or any(column.cells)]
    return Table(tuple(used), footer(totals, hidden=hidden, noun="row"))


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
    order, hidden = _first_of(order, max_rows)
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
        footer(totals, hidden=hidden, noun="row"),
    )
