"""The columns a report is made of, and the order they are kept in.

An *entry* is a node or a leaf. Entries are kept in preorder, children in flatten order: an entry's subtree is
the half-open range from itself to its `end`, and the leaves, read left to right, are in JAX's flatten order.
No JAX here, and no meaning: what a code stands for is in `_leaf`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from leafreport._leaf import Node, Path, Spec

Ints = npt.NDArray[np.int32]
_NO_PARENT = -1


@dataclass(frozen=True, eq=False)
class Columns:
    """A tree as arrays: 16 bytes an entry, and each distinct name, spec and node once.

    Attributes:
        parent: i32[entries], the parent's entry; -1 for the root.
        end: i32[entries], one past the last entry of the subtree.
        name: i32[entries], which of `names`; the root's is not used.
        code: i32[entries], a leaf's place in `specs`, or ~place in `nodes` for a node.
        names: distinct path steps.
        specs: distinct leaf specs.
        nodes: distinct node types.
        first: i32[leaves], for each leaf the first leaf that is the same object; None when none is shared.
        stored: i64[leaves], bytes on disk, or -1 where a leaf's are not known; None for a tree that is on no
            disk.
    """

    parent: Ints
    end: Ints
    name: Ints
    code: Ints
    names: tuple[str, ...]
    specs: tuple[Spec, ...]
    nodes: tuple[Node, ...]
    first: Ints | None = None
    stored: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        for column in (self.parent, self.end, self.name, self.code, self.first, self.stored):
            if column is not None:
                column.flags.writeable = False

    @cached_property
    def leaves(self) -> Ints:
        """The leaves' entries: i32[leaves]."""
        return np.flatnonzero(self.code >= 0).astype(np.int32)

    @cached_property
    def leaf_code(self) -> Ints:
        """The leaves' places in `specs`: i32[leaves]."""
        return self.code[self.leaves]

    @cached_property
    def leaf_start(self) -> Ints:
        """How many leaves come before each entry: i32[entries + 1]."""
        start = np.zeros(len(self.code) + 1, np.int32)
        np.cumsum(self.code >= 0, out=start[1:])
        return start

    def leaf_total(self, entry: int) -> int:
        """How many leaves are in an entry's subtree."""
        return int(self.leaf_start[self.end[entry]] - self.leaf_start[entry])

    def stored_at(self, leaf: int) -> int | None:
        """A leaf's bytes on disk; None where they are not known."""
        if self.stored is None or self.stored[leaf] < 0:
            return None
        return int(self.stored[leaf])

    @cached_property
    def shared(self) -> dict[int, list[int]]:
        """The leaves' numbers that are one object, by the first of them; no leaf that is alone."""
        if self.first is None:
            return {}
        groups: dict[int, list[int]] = {}
        for leaf, first in enumerate(self.first.tolist()):
            groups.setdefault(first, []).append(leaf)
        return {first: leaves for first, leaves in groups.items() if len(leaves) > 1}

    @cached_property
    def by_parent(self) -> tuple[Ints, Ints]:
        """The entries, siblings together in flatten order, root first; and where each one's children are."""
        order = np.argsort(self.parent, kind="stable").astype(np.int32)
        start = np.searchsorted(self.parent[order], np.arange(len(order) + 1)).astype(np.int32)
        return order, start

    def children(self, entry: int) -> Ints:
        """The entries of a node's children, in flatten order."""
        order, start = self.by_parent
        return order[start[entry] : start[entry + 1]]

    def levels(self) -> list[Ints]:
        """The entries of each depth, in order, from the root's."""
        total = len(self.end)
        opened = np.bincount(self.end, minlength=total + 1)[:total]
        depth = np.arange(total) - np.cumsum(opened)
        order = np.argsort(depth, kind="stable").astype(np.int32)
        return np.split(order, np.cumsum(np.bincount(depth))[:-1])

    def path(self, entry: int) -> Path:
        """The path of an entry, from the root."""
        steps: list[str] = []
        while (parent := int(self.parent[entry])) != _NO_PARENT:
            steps.append(self.names[self.name[entry]])
            entry = parent
        return tuple(reversed(steps))

    def paths(self) -> tuple[Path, ...]:
        """Every leaf's path, in flatten order."""
        if self.code[0] >= 0:
            return ((),)
        above: dict[int, Path] = {0: ()}
        out: list[Path] = []
        rows = zip(self.parent.tolist(), self.name.tolist(), self.code.tolist(), strict=True)
        for entry, (parent, name, code) in enumerate(rows):
            if entry:
                path = (*above[parent], self.names[name])
                if code < 0:
                    above[entry] = path
                else:
                    out.append(path)
        return tuple(out)

    def same(self, other: "Columns") -> bool:
        """Whether both hold the same tree, however their tables are numbered."""
        if len(self.code) != len(other.code) or not np.array_equal(self.parent, other.parent):
            return False
        for own, theirs in ((self.first, other.first), (self.stored, other.stored)):
            if (own is None) != (theirs is None):
                return False
            if own is not None and theirs is not None and not np.array_equal(own, theirs):
                return False
        if not np.array_equal(self.name[1:], _renumbered(other.name[1:], other.names, self.names)):
            return False
        leaf, other_leaf = self.code >= 0, other.code >= 0
        return (
            np.array_equal(leaf, other_leaf)
            and np.array_equal(self.code[leaf], _renumbered(other.code[other_leaf], other.specs, self.specs))
            and np.array_equal(
                ~self.code[~leaf], _renumbered(~other.code[~other_leaf], other.nodes, self.nodes)
            )
        )


def _renumbered(codes: Ints, table: Sequence[Any], wanted: Sequence[Any]) -> Ints:
    place = {value: i for i, value in enumerate(wanted)}
    return np.array([place.get(value, -1) for value in table], np.int32)[codes]


def preorder(
    counts: Ints, levels: Sequence[int], name: Ints, code: Ints
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Entries listed level by level, put into preorder.

    Args:
        counts: i32[entries], how many children each entry has. Children are listed in their parents' order.
        levels: where each level starts, and at the end the number of entries.
        name: i32[entries].
        code: i32[entries].

    Returns:
        `parent, end, name, code` in preorder, and i32[leaves]: each leaf's place among the leaves as listed.
        Cost: linear, in NumPy, with a constant number of calls a level.
    """
    total = len(counts)
    first_child = np.empty(total + 1, np.int32)
    first_child[0] = 1
    np.cumsum(counts, out=first_child[1:])
    first_child[1:] += 1
    bounds = list(pairwise(levels))
    size = np.ones(total, np.int32)
    for start, stop in reversed(bounds[:-1]):
        below = _running(size[stop : first_child[stop]])
        edges = first_child[start : stop + 1] - stop
        size[start:stop] += below[edges[1:]] - below[edges[:-1]]
    place = np.zeros(total, np.int32)
    for start, stop in bounds[:-1]:
        below = _running(size[stop : first_child[stop]])
        base = place[start:stop] + 1 - below[first_child[start:stop] - stop]
        place[stop : first_child[stop]] = np.repeat(base, counts[start:stop]) + below[:-1]
    order = np.empty(total, np.int32)
    order[place] = np.arange(total, dtype=np.int32)
    parent = np.empty(total, np.int32)
    parent[0] = _NO_PARENT
    parent[1:] = np.repeat(place, counts)
    code_out = code[order]
    leaf_number = np.cumsum(code >= 0, dtype=np.int32) - 1
    return (
        parent[order],
        np.arange(total, dtype=np.int32) + size[order],
        name[order],
        code_out,
        leaf_number[order][code_out >= 0],
    )


def subtree_ends(parent: Ints) -> Ints:
    """The `end` column from the `parent` column, for entries already in preorder."""
    size = [1] * len(parent)
    for entry, above in zip(range(len(parent) - 1, 0, -1), parent[:0:-1].tolist(), strict=True):
        size[above] += size[entry]
    return np.arange(len(parent), dtype=np.int32) + np.array(size, np.int32)


def signatures(
    columns: Columns,
    leaf: Sequence[int],
    node: Sequence[int],
    name: Ints,
    known: dict[object, int],
    chosen: Sequence[int] | None = None,
) -> list[int]:
    """i[entries]: equal where two subtrees have equal names below them, equal nodes and equal leaves.

    Args:
        columns: a tree.
        leaf: what a leaf is told by, for each spec.
        node: what a node is told by, for each node type.
        name: i32[entries], the names, numbered alike over all trees that are compared.
        known: the signatures given so far; shared between trees that are compared.
        chosen: the entries to sign, in order, with all that is below them; every one when not given.
    """
    order, start = columns.by_parent
    name = name[order]
    at = np.empty(len(order), np.int32)
    at[order] = np.arange(len(order), dtype=np.int32)
    place, bounds, codes = at.tolist(), start.tolist(), columns.code.tolist()
    # Each child's signature, where the child stands in `order`: a node's children are one slice.
    found = np.empty(len(order), np.int32)
    out = [0] * len(codes)
    for entry in reversed(range(len(codes)) if chosen is None else chosen):
        code = codes[entry]
        key: object
        if code >= 0:
            key = leaf[code]
        else:
            low, high = bounds[entry], bounds[entry + 1]
            key = (node[~code], name[low:high].tobytes(), found[low:high].tobytes())
        signature = known.setdefault(key, len(known))
        out[entry] = signature
        found[place[entry]] = signature
    return out


def run_starts(ordered: np.ndarray) -> np.ndarray:
    """For each value, in an order that has equal ones together, where the first of them stands."""
    opens = np.ones(len(ordered), np.bool_)
    opens[1:] = ordered[1:] != ordered[:-1]
    starts: np.ndarray = np.maximum.accumulate(np.where(opens, np.arange(len(ordered)), 0))
    return starts


def _running(values: Ints) -> Ints:
    out = np.zeros(len(values) + 1, np.int32)
    np.cumsum(values, out=out[1:])
    return out
