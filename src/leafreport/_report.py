"""`LeafReport`: what a tree holds, once read. Plain Python and NumPy; knows no JAX and holds no leaf."""

import pathlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any, get_args

import numpy as np

from leafreport import _json, _select, _tables
from leafreport._columns import Columns
from leafreport._display import Display
from leafreport._errors import PathError, PatternError, ReportFormatError, nearest
from leafreport._fold import tree_rows
from leafreport._leaf import Leaf, Node, Path, display_path, escape
from leafreport._leaves import Leaves
from leafreport._model import ROLES, Role
from leafreport._render._html import tree_fragment, tree_html
from leafreport._render._rows import Row, plural
from leafreport._render._table import Table, table_csv, table_markdown, table_text
from leafreport._tables import Sort
from leafreport._totals import Sums, Totals


@dataclass(frozen=True, slots=True)
class Group:
    """The leaves under one path, summed.

    An array that several groups share is counted in the first of them, in flatten order, and is among the
    `repeated_nbytes` of the others: groups add up to the report.

    Attributes:
        path: what the group's leaves' paths begin with; a shallower leaf is a group of its own.
        leaf_count: how many leaves.
        param_count: elements of arrays.
        nbytes: bytes of arrays and keys.
        repeated_nbytes: bytes of arrays counted before.
    """

    path: Path
    leaf_count: int
    param_count: int
    nbytes: int
    repeated_nbytes: int

    @property
    def name(self) -> str:
        """The path joined by "/"."""
        return "/".join(self.path)


class LeafReport:
    """What is in a tree: its leaves, in JAX's flatten order, and its nodes.

    Made by `leafreport.report` or read by `from_json`; immutable; holds no array. Sums are exact Python ints
    over the leaves of kind `array` (and, for bytes, `key`), each distinct array once.

    Example:
        >>> from leafreport import report
        >>> r = report({"w": 1.0, "b": {}})
        >>> r.leaf_count, r.leaves[0].kind
        (1, 'scalar')
    """

    __slots__ = ("__dict__", "__weakref__", "_columns")

    _columns: Columns

    def __init__(self, columns: Columns) -> None:
        object.__setattr__(self, "_columns", columns)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a LeafReport does not change: cannot set {name!r}")

    # --- Leaves

    @property
    def leaf_count(self) -> int:
        """How many leaves: `len(jax.tree_util.tree_leaves(tree))`."""
        return len(self._columns.leaves)

    @property
    def param_count(self) -> int:
        """Elements of all arrays, each distinct array once."""
        return self._totals.whole.param_count

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays and typed keys, each distinct array once."""
        return self._totals.whole.nbytes

    @property
    def repeated_nbytes(self) -> int:
        """Bytes that sharing saves in memory, and a save would write again."""
        return self._totals.whole.repeated_nbytes

    @property
    def logical_leaf_count(self) -> int:
        """How many leaves there would be if every layer had its own.

        A scan, a vmap or a layer stack keeps the arrays of many layers in one leaf: where an adapter told how
        many, they count. Equal to `leaf_count` otherwise.
        """
        return self._totals.logical

    @property
    def roles(self) -> dict[Role, Sums]:
        """The sums over the leaves of each role; empty where no adapter told.

        Each has `leaf_count`, `param_count`, `nbytes` and `repeated_nbytes`.
        """
        return dict(self._totals.roles)

    @property
    def stored_nbytes(self) -> int | None:
        """Bytes on disk of the leaves' values, compressed as they are; None for what is on no disk.

        The files hold more: what is known of each array, and what a format keeps beside the values.
        """
        return self._totals.stored_nbytes

    @property
    def device_nbytes(self) -> dict[int, int]:
        """Bytes on each device, by device id; empty when no leaf says where it lies.

        The devices of an abstract mesh, which have no ids, are numbered from 0.
        """
        return self._totals.device_nbytes()

    @property
    def replicated_nbytes(self) -> int:
        """What replication costs: bytes on all devices beyond one copy of each array."""
        return self._totals.replicated_nbytes()

    @property
    def leaves(self) -> Leaves:
        """The leaves in flatten order, each made when it is asked for."""
        return Leaves(self._columns)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every leaf's path, in flatten order. Cost: one tuple a leaf, made anew each time."""
        return self._columns.paths()

    @property
    def names(self) -> tuple[str, ...]:
        """Every leaf's path joined by "/", in flatten order. For display: two paths can share one name."""
        return tuple(map("/".join, self.paths))

    @property
    def nodes(self) -> tuple[tuple[Path, Node], ...]:
        """Every inner node's path and type, leafless ones too, in preorder."""
        columns = self._columns
        return tuple(
            (columns.path(entry), columns.nodes[~columns.code[entry]])
            for entry in np.flatnonzero(columns.code < 0).tolist()
        )

    def __len__(self) -> int:
        return self.leaf_count

    def __iter__(self) -> Iterator[Leaf]:
        return iter(self.leaves)

    def __getitem__(self, path: str | Sequence[str]) -> Leaf:
        """The leaf at a path: a tuple of steps, or the steps joined by "/".

        Raises:
            PathError: no leaf is there, or several are (a keyed class gave one path twice, or two paths have
                one name), or it is no path.
        """
        if isinstance(path, int) or not all(isinstance(step, str) for step in path):
            raise PathError(
                f"{path!r:.200} is no path: a path's steps are strings, list indices too. "
                "For a leaf by its number use leaves[number]."
            )
        found = self._find(path)
        if len(found) == 1:
            return self.leaves[found[0]]
        shown = display_path((path,) if isinstance(path, str) else tuple(path))
        if found:
            where = ", ".join(
                f"leaves[{n}] {self.leaves[n].path!r}" if isinstance(path, str) else f"leaves[{n}]"
                for n in found[:10]
            )
            raise PathError(f"{len(found)} leaves are at {shown}: {where}. Ask for one by its number.")
        raise PathError(self._not_there(shown, path))

    def _find(self, path: str | Sequence[str]) -> list[int]:
        columns = self._columns
        if isinstance(path, str):
            return [n for n, name in enumerate(self.names) if name == path]
        entries = [0]
        for step in path:
            entries = [
                child
                for entry in entries
                for child in columns.children(entry).tolist()
                if columns.names[columns.name[child]] == step
            ]
        return [int(columns.leaf_start[entry]) for entry in entries if columns.code[entry] >= 0]

    def _not_there(self, shown: str, path: str | Sequence[str]) -> str:
        joined = path if isinstance(path, str) else "/".join(path)
        names = self.names
        below = sum(name.startswith(f"{joined}/") for name in names) if joined else len(names)
        if below:
            return (
                f"{shown} is no leaf but a subtree of {below:,} leaves. "
                f'Take its leaves with select("{joined}/**").'
            )
        close = escape(nearest(joined, names[:5000]))
        return f"no leaf is at {shown}: the report has {plural(len(names), 'leaf')}.{close}"

    # --- Parts and sums

    def select(
        self, *patterns: str, exclude: str | Iterable[str] = (), role: Role | None = None
    ) -> "LeafReport":
        """The leaves whose name some pattern takes, as a report of their own.

        A glob is matched against the whole name (the path joined by "/"): `*` and `?` stay within one step,
        `**` crosses steps, `[ab]` is a set. `**/kernel` is every leaf called kernel, `params/**` everything
        under params. With the prefix `re:`, a regular expression found anywhere in the name. Without
        patterns, every leaf. With `role`, of those only the leaves of that role.

        Raises:
            PatternError: a pattern cannot be read, or there is no such role.

        Example:
            >>> from leafreport import report
            >>> r = report({"a": {"kernel": 1, "bias": 2}, "b": {"kernel": 3}})
            >>> r.select("**/kernel").names
            ('a/kernel', 'b/kernel')
        """
        dropped = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        keep = _select.chosen(self.names, patterns, dropped)
        if role is not None:
            if role not in ROLES:
                raise PatternError(
                    f"{role!r} is no role.{nearest(str(role), ROLES)} Roles: {', '.join(ROLES)}."
                )
            columns = self._columns
            keep &= np.array([spec.role == role for spec in columns.specs], np.bool_)[columns.leaf_code]
        return LeafReport(_select.narrowed(self._columns, keep))

    def group(self, depth: int = 1) -> tuple[Group, ...]:
        """The leaves summed by the first `depth` steps of their paths, in the order shown.

        The groups add up to the report, whatever the depth.

        Raises:
            ValueError: the depth is negative.
        """
        return tuple(Group(path, *sums) for path, sums in self._groups(depth))

    def fold(self, *, depth: int | None = None) -> tuple[Row, ...]:
        """The tree as rows, isomorphic numbered siblings once: `Dense_{0..11}`, times 12.

        Siblings fold when their names differ by a number and all under them is alike: sub-paths, shapes,
        dtypes, shardings. One that differs keeps its own row. A row's sums are those of all it stands for.

        Args:
            depth: rows deeper than this are left out; the sums stay.
        """
        return tuple(self._rows(fold=True, depth=depth))

    def columns(self) -> dict[str, np.ndarray]:
        """The leaves as NumPy columns, in flatten order: what a dataframe takes.

        `path` (tuples), `name`, `kind`, `dtype`, `shape`, `size`, `nbytes`, `device_nbytes`, `sharding`
        (text), `role`, `owner`, `stacked`, and of what was read from disk `stored_nbytes` and `chunk_shape`.
        Numbers are int64 where every leaf has one that fits; else objects, None where there is none.
        """
        columns = self._columns
        codes = columns.leaf_code
        specs = columns.specs
        paths = self.paths
        on_disk: dict[str, np.ndarray] = {}
        if columns.stored is not None:
            on_disk["stored_nbytes"] = _numbers([columns.stored_at(leaf) for leaf in range(len(codes))])
            on_disk["chunk_shape"] = _objects([s.chunk_shape for s in specs])[codes]
        return {
            "path": _objects(paths),
            "name": _objects(list(map("/".join, paths))),
            "kind": _objects([s.kind for s in specs])[codes],
            "dtype": _objects([s.dtype for s in specs])[codes],
            "shape": _objects([s.shape for s in specs])[codes],
            "size": _numbers([s.size for s in specs])[codes],
            "nbytes": _numbers([s.nbytes for s in specs])[codes],
            "device_nbytes": _numbers([s.device_nbytes for s in specs])[codes],
            "sharding": _objects([str(s.sharding) if s.sharding else None for s in specs])[codes],
            "role": _objects([s.role for s in specs])[codes],
            "owner": _objects([s.owner for s in specs])[codes],
            "stacked": _numbers([s.stacked for s in specs])[codes],
            **on_disk,
        }

    # --- Text

    def summary(self) -> str:
        """The totals in one line."""
        return _tables.sums_text(self._totals.whole)

    def to_text(
        self,
        *,
        fold: bool = False,
        depth: int | None = None,
        sort: Sort = "path",
        max_rows: int | None = None,
    ) -> str:
        """A table, one line a leaf, and the totals.

        Args:
            fold: one line for all the leaves that folding shows once.
            depth: one line a group of this depth instead, with its sums.
            sort: `path` (natural order), `bytes` or `params` (largest first).
            max_rows: lines past this many are left out, and counted.
        """
        return table_text(self._table(fold=fold, depth=depth, sort=sort, max_rows=max_rows))

    def to_markdown(
        self,
        *,
        fold: bool = False,
        depth: int | None = None,
        sort: Sort = "path",
        max_rows: int | None = None,
    ) -> str:
        """The table of `to_text` in Markdown."""
        return table_markdown(self._table(fold=fold, depth=depth, sort=sort, max_rows=max_rows))

    def to_csv(self, *, depth: int | None = None, sort: Sort = "path", max_rows: int | None = None) -> str:
        """One record a leaf (or a group, with `depth`), raw numbers, no totals.

        Names are escaped as in the other formats; `steps` is the exact path, a JSON list (a step that holds a
        surrogate pair as two code points is a list of its parts).
        """
        if depth is not None:
            return table_csv(self._table(depth=depth, sort=sort, max_rows=max_rows, units=False))
        _check(sort=sort, max_rows=max_rows)
        table = _tables.csv_table(self._columns, self._display, sort=sort, max_rows=max_rows)
        return table_csv(table)

    def _table(
        self,
        *,
        fold: bool = False,
        depth: int | None = None,
        sort: Sort = "path",
        max_rows: int | None = None,
        units: bool = True,
    ) -> Table:
        _check(sort=sort, max_rows=max_rows)
        if depth is not None:
            return _tables.group_table(
                self._groups(depth), self._totals, sort=sort, max_rows=max_rows, units=units
            )
        make = _tables.folded_table if fold else _tables.leaf_table
        return make(self._columns, self._display, self._totals, sort=sort, max_rows=max_rows)

    def to_tree(
        self,
        *,
        fold: bool = True,
        depth: int | None = None,
        max_rows: int | None = None,
        color: bool = False,
    ) -> str:
        """The tree as text, drawn by treescope: a line a row, each with its sums.

        Args:
            fold: show isomorphic siblings once.
            depth: subtrees deeper than this are closed.
            max_rows: rows past this many are left out, and counted.
            color: with ANSI colours.
        """
        from leafreport._render._treescope import tree_text  # treescope takes 0.5 s to import

        _check(max_rows=max_rows)
        return tree_text(self._rows(fold=fold, depth=depth), max_rows=max_rows, color=color)

    def to_html(self, *, fold: bool = True, depth: int | None = None) -> str:
        """One self-contained page that needs no script: the tree, foldable, and the totals."""
        rows = self._rows(fold=fold, depth=depth)
        return tree_html(rows, _tables.footer(self._totals))

    def to_json(self) -> str:
        """The whole report as one JSON document, ASCII only; `from_json` gives an equal report back."""
        return _json.dump(self._columns)

    @classmethod
    def from_json(cls, source: "str | bytes | PathLike[str]") -> "LeafReport":
        """A report from `to_json`'s text, or from a file of it.

        Args:
            source: the text (str or bytes), or a `pathlib.Path` of a file.

        Raises:
            ReportFormatError: it is no report, of another schema, or damaged; the message says where.
            OSError: the file cannot be read.
        """
        if isinstance(source, PathLike):
            source = pathlib.Path(source).read_bytes()
        if isinstance(source, bytes):
            try:
                source = source.decode()
            except UnicodeDecodeError as error:
                raise ReportFormatError(f"not a saved report: it is not UTF-8 text ({error})") from None
        return cls(_json.load(source))

    # --- Notebook and language

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        from leafreport._render._treescope import rendering

        return rendering(self._rows(fold=True), repr(self), path)

    def _repr_html_(self) -> str:
        return tree_fragment(self._rows(fold=True), _tables.footer(self._totals))

    def __repr__(self) -> str:
        return f"<LeafReport: {self.summary()}>"

    def __str__(self) -> str:
        return self.to_text().rstrip("\n")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LeafReport):
            return NotImplemented
        return self._columns.same(other._columns)

    def __hash__(self) -> int:
        return hash(self._totals.whole)

    def __reduce__(self) -> tuple[Any, ...]:
        return (LeafReport, (self._columns,))

    # --- Made once, when first needed

    @cached_property
    def _totals(self) -> Totals:
        return Totals(self._columns)

    @cached_property
    def _display(self) -> Display:
        return Display(self._columns)

    def _groups(self, depth: int) -> list[tuple[Path, Sums]]:
        _check(depth=depth)
        columns = self._columns
        groups: list[tuple[Path, Sums]] = []
        stack = [(0, 0)]
        while stack:
            entry, level = stack.pop()
            if columns.code[entry] < 0 and level < depth:
                stack += [(child, level + 1) for child in reversed(self._display.children(entry))]
            elif (sums := self._totals.within(entry)).leaf_count:
                groups.append((columns.path(entry), sums))
        return groups

    def _rows(self, *, fold: bool, depth: int | None = None) -> list[Row]:
        _check(depth=depth)
        return tree_rows(self._columns, self._display, self._totals, fold=fold, depth=depth)


def _check(*, depth: int | None = None, sort: str = "path", max_rows: int | None = None) -> None:
    if depth is not None and depth < 0:
        raise ValueError(f"a depth counts steps from the root and is 0 or more, not {depth}")
    if max_rows is not None and max_rows < 0:
        raise ValueError(f"max_rows counts rows and is 0 or more, not {max_rows}")
    if sort not in (known := get_args(Sort)):
        raise ValueError(f"sort is one of {', '.join(known)}, not {sort!r}.{nearest(sort, known)}")


def _objects(values: Sequence[Any]) -> np.ndarray:
    out = np.empty(len(values), object)
    for i, value in enumerate(values):  # assigning at once would spread tuples over a second axis
        out[i] = value
    return out


def _numbers(values: Sequence[int | None]) -> np.ndarray:
    if all(value is not None and value < 2**63 for value in values):
        return np.array(values, np.int64)
    return _objects(values)
