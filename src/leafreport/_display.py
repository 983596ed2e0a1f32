"""The order leaves are shown in, and the names they are shown by."""

import operator
from functools import cached_property

import numpy as np

from leafreport._columns import Columns, Ints, run_starts
from leafreport._leaf import display_name, natural_key


class Display:
    """Natural sibling order over columns that are kept in flatten order.

    JAX sorts dict keys as text, which puts `Dense_10` before `Dense_2`. Siblings that stand in text order are
    shown in natural order; any other order (fields, lists, an OrderedDict, int keys) is someone's choice and
    kept.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    @cached_property
    def names(self) -> list[str]:
        """Distinct path steps, escaped."""
        return list(map(display_name, self._columns.names))

    @cached_property
    def _rank(self) -> Ints | None:
        """i32[entries]: siblings sorted by it, stably, are in the order shown; None when flatten order is."""
        columns = self._columns
        if len(columns.code) < 3:
            return None
        order, _ = columns.by_parent
        name, parent = columns.name[order[1:]], columns.parent[order[1:]]
        siblings = parent[1:] == parent[:-1]
        natural = _ranks(sorted(columns.names, key=natural_key), columns.names)
        wrong = siblings & (natural[name[1:]] < natural[name[:-1]])
        if not wrong.any():
            return None
        text = _ranks(sorted(columns.names), columns.names)
        chosen = np.zeros(len(columns.code), np.bool_)
        chosen[parent[1:][siblings & (text[name[1:]] < text[name[:-1]])]] = True
        rank = np.zeros(len(columns.code), np.int32)
        rank[order[1:]] = np.where(chosen[parent], 0, natural[name])
        return rank if rank.any() else None

    def children(self, entry: int) -> list[int]:
        """The entries of a node's children, as shown."""
        found = self._columns.children(entry)
        if self._rank is not None:
            found = found[np.argsort(self._rank[found], kind="stable")]
        shown: list[int] = found.tolist()
        return shown

    @cached_property
    def leaf_order(self) -> Ints:
        """i32[leaves]: the leaves' numbers, in the order shown."""
        columns = self._columns
        count = len(columns.leaves)
        if self._rank is None:
            return np.arange(count, dtype=np.int32)
        order = np.lexsort((self._rank, columns.parent))
        size = (columns.end - np.arange(len(columns.end)))[order]
        before = np.cumsum(size) - size
        since = run_starts(columns.parent[order])
        offset = np.empty(len(order), np.int64)
        offset[order] = 1 + before - before[since]
        offset[0] = 0
        place = np.zeros(len(order), np.int64)
        for level in columns.levels()[1:]:
            place[level] = place[columns.parent[level]] + offset[level]
        return np.argsort(place[columns.leaves], kind="stable").astype(np.int32)

    def leaf_names(self) -> list[str]:
        """Every leaf's whole path as shown, in flatten order."""
        columns, names = self._columns, self.names
        if columns.code[0] >= 0:
            return ["(root)"]
        prefix = {0: ""}
        nodes = np.flatnonzero(columns.code < 0)[1:]
        rows = (nodes, columns.parent[nodes], columns.name[nodes])
        for entry, parent, name in zip(*(row.tolist() for row in rows), strict=True):
            prefix[entry] = f"{prefix[parent]}{names[name]}/"
        above = map(prefix.__getitem__, columns.parent[columns.leaves].tolist())
        own = map(names.__getitem__, columns.name[columns.leaves].tolist())
        return list(map(operator.add, above, own))


def _ranks(ordered: list[str], names: tuple[str, ...]) -> Ints:
    place = {name: i for i, name in enumerate(ordered, 1)}
    return np.array([place[name] for name in names], np.int32)
