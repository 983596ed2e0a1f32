"""The same stack in several frameworks, side by side: paths, shapes, axes and counts. Nothing is run."""

import json
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from leafreport._adapter import build_stack
from leafreport._discovery import AdapterRecord, adapters
from leafreport._errors import AdapterWarning, FrameworkMissingError, LeafReportError
from leafreport._flatten import report
from leafreport._leaf import Leaf, Path, display_path, escape, format_nbytes, natural_key
from leafreport._model import LeafFacts, Model
from leafreport._render._rows import plural
from leafreport._render._table import Column, Table, table_csv, table_markdown, table_text
from leafreport._report import LeafReport
from leafreport._stack import checked

SCHEMA = "leafreport-stacks/1"


@dataclass(frozen=True, slots=True)
class StackLayer:
    """One layer of a stack in one framework.

    Attributes:
        path: what its leaves' paths begin with.
        leaves: its leaves, those of most axes first.
    """

    path: Path
    leaves: tuple[Leaf, ...]


@dataclass(frozen=True, slots=True)
class StackColumn:
    """A stack as one backend builds it, or why it does not.

    Attributes:
        backend: the backend's name.
        framework: its framework's distribution and version, as far as the adapter's metadata say.
        report: what was built; None where nothing was.
        layers: the layers in order.
        order: where that order is from: `execution`, or `path` (natural order) where no adapter told.
        trouble: why nothing was built; the empty string where it was.
    """

    backend: str
    framework: str
    report: LeafReport | None = None
    layers: tuple[StackLayer, ...] = ()
    order: str = "path"
    trouble: str = ""

    @property
    def count(self) -> str:
        """The number of leaves as the reference job prints it: `[8.]`."""
        return f"[{float(self.report.leaf_count):.0f}.]" if self.report is not None else ""


@dataclass(frozen=True, slots=True)
class StackComparison:
    """One stack in several frameworks. What is compared is what the leaves are, never what the layers do.

    Attributes:
        columns: one a backend, in the order asked for.
        num_layers: how many layers were asked for.
    """

    columns: tuple[StackColumn, ...]
    num_layers: int

    @property
    def built(self) -> tuple[StackColumn, ...]:
        """The backends that built the stack."""
        return tuple(column for column in self.columns if column.report is not None)

    @property
    def agree(self) -> bool:
        """Whether all that were built have equally many layers, leaves, elements and bytes."""
        return len({_sums(column) for column in self.built}) <= 1

    def to_text(self, *, fold: bool = False, max_rows: int | None = None) -> str:
        """A table, one row a layer and one column a backend, the totals, and what differs in words.

        Args:
            fold: show layers that are alike once.
            max_rows: layers past this many are left out, and counted.
        """
        return table_text(self._table(fold=fold, max_rows=max_rows))

    def to_markdown(self, *, fold: bool = False, max_rows: int | None = None) -> str:
        """The table of `to_text` in Markdown."""
        return table_markdown(self._table(fold=fold, max_rows=max_rows))

    def to_csv(self) -> str:
        """One record a leaf and backend: layer, backend, path, shape, dtype, axes."""
        cells = [
            (str(number), column.backend, display_path(leaf.path), *_shape_dtype_axes(leaf))
            for column in self.built
            for number, layer in enumerate(column.layers)
            for leaf in layer.leaves
        ]
        titles = ("layer", "backend", "path", "shape", "dtype", "axes")
        turned = list(zip(*cells, strict=True)) or [()] * len(titles)
        return table_csv(Table(tuple(Column(t, c) for t, c in zip(titles, turned, strict=True))))

    def to_json(self) -> str:
        """The comparison as one JSON document, ASCII only."""
        document = {
            "schema": SCHEMA,
            "num_layers": self.num_layers,
            "agree": self.agree,
            "backends": [_column_fields(column) for column in self.columns],
        }
        return json.dumps(document, indent=1) + "\n"

    def _repr_markdown_(self) -> str:
        return self.to_markdown(fold=True)

    def __str__(self) -> str:
        return self.to_text().rstrip("\n")

    def _table(self, *, fold: bool, max_rows: int | None) -> Table:
        rows = max((len(column.layers) for column in self.built), default=0)
        blocks = [[n] for n in range(rows)]
        if fold:
            blocks = [list(block) for _, block in groupby(range(rows), self._alike)]
        hidden = 0 if max_rows is None else max(len(blocks) - max_rows, 0)
        blocks = blocks[: len(blocks) - hidden]
        cells = [[_cell(column, block) for column in self.built] for block in blocks]
        heights = [max(map(len, row), default=0) for row in cells]
        numbers: list[str] = []
        for block, height in zip(blocks, heights, strict=True):
            numbers += [_numbers(block), *[""] * (height - 1)]
        made = [Column("layer", [*numbers, "count", "params", "bytes"])]
        for at, column in enumerate(self.built):
            lines: list[str] = []
            for row, height in zip(cells, heights, strict=True):
                lines += row[at] + [""] * (height - len(row[at]))
            made.append(Column(f"{column.backend}", [*lines, *_totals(column)]))
        footer = [f"... {plural(hidden, 'more row')} not shown; the totals have all"] if hidden else []
        return Table(tuple(made), (*footer, *self._words()))

    def _alike(self, number: int) -> Any:
        """Equal for layers that differ in their number alone."""
        return [
            (
                re.sub("[0-9]+", "#", display_path(layer.path)),
                [(leaf.path[len(layer.path) :], _shape_dtype_axes(leaf)) for leaf in layer.leaves],
            )
            if (layer := _layer_at(column, number))
            else None
            for column in self.built
        ]

    def _words(self) -> list[str]:
        """What agrees and what differs, of what was looked at."""
        lines = [f"{c.backend}: {c.trouble}" for c in self.columns if c.trouble]
        if not self.built:
            return lines
        by_sums = _grouped((_sums_text(column), column.backend) for column in self.built)
        if self.agree:
            lines.append(f"agree: {_listed([c.backend for c in self.built])} have {next(iter(by_sums))}")
        else:
            lines.append("differ: " + "; ".join(f"{_listed(b)} {sums}" for sums, b in by_sums.items()))
        lines += _axes_words(self.built)
        lines += _dtype_words(self.built)
        lines += _order_words(self.built)
        lines.append(
            "Nothing was run: equal counts and shapes are not yet equal functions, and one seed gives each "
            "framework values of its own."
        )
        return lines


def compare_stacks(
    seed: float, x: Any, num_layers: float, *, backends: str | Iterable[str] | None = None
) -> StackComparison:
    """The stack of Dense layers as several frameworks build it, side by side; abstractly, nothing is run.

    Args:
        seed: as for `leaf_count`.
        x: a sample input of shape (N, D), concrete or abstract.
        num_layers: 0 or more.
        backends: names from `adapters()`. When not given, every adapter installed: one that cannot be used
            has a column that says why, and a broken one gives an `AdapterWarning` as well.

    Raises:
        StackError: as for `leaf_count`.
        AdapterError: a backend was asked for by name that there is not, or that does not load.
        FrameworkMissingError: a backend was asked for by name and its framework is not installed.

    Example:
        >>> import numpy as np
        >>> compare_stacks(0, np.ones((4, 8)), 2, backends=["flax", "equinox"]).agree
        True
    """
    number, sample, layers = checked(seed, x, num_layers)
    records = {record.name: record for record in adapters()}
    # The reference first.
    named = (
        sorted(records, key=lambda name: (name != "flax", name))
        if backends is None
        else [backends]
        if isinstance(backends, str)
        else list(backends)
    )
    columns: list[StackColumn] = []
    for name in named:
        record = records.get(name)
        framework = _framework(record)
        if backends is None and record is not None and record.state != "ready":
            columns.append(StackColumn(name, framework, trouble=record.state))
            continue
        try:
            model = build_stack(name, number, sample, layers, abstract=True)
            columns.append(_column(name, framework, model))
        except Exception as error:
            if backends is not None:
                raise
            columns.append(StackColumn(name, framework, trouble=_trouble(record, error)))
    return StackComparison(tuple(columns), layers)


def _trouble(record: AdapterRecord | None, error: Exception) -> str:
    """Why an adapter that nobody asked for by name has no column; a warning where it is to blame."""
    said = str(error) if isinstance(error, LeafReportError) else f"{type(error).__name__}: {error}"
    if not isinstance(error, FrameworkMissingError):
        owner = "an unknown distribution" if record is None else record.distribution
        warnings.warn(f"an adapter of {owner} is broken: {said}", AdapterWarning, stacklevel=3)
    return said


def _framework(record: AdapterRecord | None) -> str:
    if record is None or record.framework is None:
        return ""
    return f"{record.framework} {record.framework_version or ''}".rstrip()


def _column(name: str, framework: str, model: Model) -> StackColumn:
    built = report(model)
    layers: dict[Path, list[Leaf]] = {}
    order: dict[Path, int | None] = {}
    facts = model.facts or [LeafFacts()] * len(built)
    for leaf, fact in zip(built.leaves, facts, strict=True):
        prefix = leaf.path[:-1]
        if fact.module:
            # The module's own name may stand anywhere in the path: after a collection, before a box.
            ends = [n for n in range(len(leaf.path)) if leaf.path[:n][n - len(fact.module) :] == fact.module]
            prefix = leaf.path[: ends[0]] if ends else prefix
        layers.setdefault(prefix, []).append(leaf)
        order[prefix] = fact.order
    places = {path: place for path, place in order.items() if place is not None}
    executed = len(places) == len(layers)
    paths = sorted(layers, key=places.__getitem__ if executed else _natural)
    found = tuple(
        StackLayer(path, tuple(sorted(layers[path], key=lambda leaf: -len(leaf.shape or ()))))
        for path in paths
    )
    return StackColumn(name, framework, built, found, "execution" if executed else "path")


def _natural(path: Path) -> Any:
    return [natural_key(step) for step in path]


# --- Cells --------------------------------------------------------------------------------------------------


def _layer_at(column: StackColumn, number: int) -> StackLayer | None:
    return column.layers[number] if number < len(column.layers) else None


def _cell(column: StackColumn, block: Sequence[int]) -> list[str]:
    """A layer's path, and below it a line for each of its leaves."""
    layer = _layer_at(column, block[0])
    if layer is None:
        return []
    last = _layer_at(column, block[-1]) or layer
    lines = [_between(display_path(layer.path), display_path(last.path))]
    for leaf in layer.leaves:
        shape, _, axes = _shape_dtype_axes(leaf)
        lines.append(
            "  ".join(filter(None, [f"  {display_path(leaf.path[len(layer.path) :])}", shape, axes]))
        )
    return lines


def _between(first: str, last: str) -> str:
    """`Dense_{0..11}` of `Dense_0` and `Dense_11`."""
    parts, ends = re.split("([0-9]+)", first), re.split("([0-9]+)", last)
    return "".join(a if a == b else f"{{{a}..{b}}}" for a, b in zip(parts, ends, strict=True))


def _numbers(block: Sequence[int]) -> str:
    return str(block[0]) if len(block) == 1 else f"{block[0]}..{block[-1]}"


def _shape_dtype_axes(leaf: Leaf) -> tuple[str, str, str]:
    shape = "" if leaf.shape is None else str(leaf.shape).replace(" ", "")
    return shape, escape(leaf.dtype), "" if leaf.axes is None else f"({', '.join(map(escape, leaf.axes))})"


def _sums(column: StackColumn) -> tuple[int, ...]:
    found = column.report
    return () if found is None else (len(column.layers), len(found), found.param_count, found.nbytes)


def _totals(column: StackColumn) -> list[str]:
    found = column.report
    return [] if found is None else [column.count, f"{found.param_count:,}", format_nbytes(found.nbytes)]


def _sums_text(column: StackColumn) -> str:
    layers, leaves, params, nbytes = _sums(column)
    return f"{plural(layers, 'layer')}, {plural(leaves, 'leaf')}, {plural(params, 'param')}, {nbytes:,} B"


def _column_fields(column: StackColumn) -> dict[str, Any]:
    found = column.report
    fields: dict[str, Any] = {"backend": column.backend, "framework": column.framework}
    if found is None:
        return fields | {"trouble": column.trouble}
    return fields | {
        "count": [float(len(found))],
        "param_count": found.param_count,
        "nbytes": found.nbytes,
        "order": column.order,
        "layers": [
            {
                "path": layer.path,
                "leaves": [
                    {"path": leaf.path, "shape": leaf.shape, "dtype": leaf.dtype, "axes": leaf.axes}
                    for leaf in layer.leaves
                ],
            }
            for layer in column.layers
        ],
    }


# --- Words --------------------------------------------------------------------------------------------------


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The second of each pair by the first, in order, each once."""
    out: dict[str, list[str]] = {}
    for key, value in pairs:
        if value not in out.setdefault(key, []):
            out[key].append(value)
    return out


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _axes_words(columns: Sequence[StackColumn]) -> list[str]:
    """For each rank which axes its leaves have where, and under which names."""
    found: dict[int, list[tuple[str, str]]] = {}
    for column in columns:
        for layer in column.layers:
            for leaf in layer.leaves:
                _, _, axes = _shape_dtype_axes(leaf)
                who = f"{column.backend} {display_path(leaf.path[len(layer.path) :])}"
                found.setdefault(len(leaf.shape or ()), []).append((axes or "axes not told", who))
    lines: list[str] = []
    for rank in sorted(found, reverse=True):
        groups = _grouped(found[rank])
        parts = [f"{axes}: {', '.join(who)}" for axes, who in groups.items()]
        turned = {"(in, out)", "(out, in)"} <= groups.keys()
        words = "; for the same weight, one is laid out as the other's transpose" if turned else ""
        lines.append(f"{rank}-D leaves  {'; '.join(parts)}{words}")
    return lines


def _dtype_words(columns: Sequence[StackColumn]) -> list[str]:
    by_dtype = _grouped((leaf.dtype, c.backend) for c in columns for la in c.layers for leaf in la.leaves)
    if len(by_dtype) < 2:
        return []
    return ["dtypes  " + "; ".join(f"{escape(dtype)}: {', '.join(who)}" for dtype, who in by_dtype.items())]


def _order_words(columns: Sequence[StackColumn]) -> list[str]:
    """Where JAX flattens the layers in another order than they stand here."""
    lines: list[str] = []
    for column in columns:
        shown = {leaf.path: n for n, layer in enumerate(column.layers) for leaf in layer.leaves}
        flat = [shown[path] for path in column.report.paths] if column.report is not None else []
        if flat != sorted(flat):
            first = [column.layers[n].path for n, _ in groupby(flat)][:4]
            names = ", ".join(escape(path[-1]) if path else "" for path in first)
            lines.append(f"order  tree_leaves gives {column.backend}'s layers as {names}, ...")
    return lines
