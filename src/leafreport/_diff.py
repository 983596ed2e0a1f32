"""Two reports compared: every difference at once, each with its path. Knows no JAX; no value is read."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from leafreport._columns import Columns, Ints, run_starts, signatures
from leafreport._errors import DifferenceError
from leafreport._facts import Fact, leaf_facts, node_facts
from leafreport._leaf import Leaf, Path, display_path, escape
from leafreport._render._rows import plural
from leafreport._report import LeafReport

SCHEMA = "leafreport-diff/1"


@dataclass(frozen=True, slots=True)
class Change:
    """One fact about one path, on which the two sides differ.

    Attributes:
        path: the leaf's or node's path, the same on both sides.
        what: `shape`, `dtype`, `kind`, `key` (a typed PRNG key against its raw uint32 form), `sharding`,
            `weak_type`, `role`, `owner` (its layer's class), `container` (a node's type) or `keys` (what
            addresses a node's children).
        left: the fact on the left, as text.
        right: the fact on the right.
    """

    path: Path
    what: str
    left: str
    right: str

    def __str__(self) -> str:
        return f"{display_path(self.path)}  {self.what} {escape(self.left)} -> {escape(self.right)}"


@dataclass(frozen=True, slots=True)
class Renamed:
    """A subtree that is at another path on the right, unchanged, and is the only one like it on either side.

    A single leaf counts where it keeps the last step of its path.

    Attributes:
        left: its path on the left.
        right: its path on the right.
        leaf_count: how many leaves moved with it.
    """

    left: Path
    right: Path
    leaf_count: int

    def __str__(self) -> str:
        moved = plural(self.leaf_count, "leaf")
        return f"{display_path(self.left)} -> {display_path(self.right)}  {moved}"


@dataclass(frozen=True, slots=True)
class LeafDiff:
    """What differs between two trees. True when something does; what a save changes by itself does not count.

    Attributes:
        added: leaves only on the right.
        removed: leaves only on the left.
        changed: facts that differ, each at a path both sides have.
        renamed: subtrees that moved unchanged; their leaves are neither added nor removed.
        by_save: what an Orbax save does by itself (tuple to list, namedtuple or class to dict, int keys to
            strings, EmptyState to None, NumPy scalar to 0-d array or Python number).
        left_count: leaves on the left.
        right_count: leaves on the right.
    """

    added: tuple[Leaf, ...] = ()
    removed: tuple[Leaf, ...] = ()
    changed: tuple[Change, ...] = ()
    renamed: tuple[Renamed, ...] = ()
    by_save: tuple[Change, ...] = ()
    left_count: int = field(default=0, compare=False)
    right_count: int = field(default=0, compare=False)

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.renamed)

    def summary(self) -> str:
        """The outcome in one line."""
        counts = f"{plural(self.left_count, 'leaf')} on the left, {self.right_count:,} on the right"
        saved = f"; {len(self.by_save):,} by a save itself" if self.by_save else ""
        if not self:
            return f"same: {counts}{saved}"
        parts = [
            f"{len(found):,} {word}"
            for word, found in (
                ("removed", self.removed),
                ("added", self.added),
                ("changed", self.changed),
                ("renamed", self.renamed),
            )
            if found
        ]
        return f"different: {', '.join(parts)}; {counts}{saved}"

    def lines(self) -> Iterator[str]:
        """Every difference, one a line: `-` removed, `+` added, `~` changed, `>` renamed, `=` by a save."""
        yield from (f"- {leaf}" for leaf in self.removed)
        yield from (f"+ {leaf}" for leaf in self.added)
        yield from (f"~ {change}" for change in self.changed)
        yield from (f"> {renamed}" for renamed in self.renamed)
        yield from (f"= {change}  (by a save itself)" for change in self.by_save)

    def to_text(self, *, max_rows: int | None = None) -> str:
        """Every difference and the outcome.

        Args:
            max_rows: lines past this many are left out, and counted.
        """
        lines = list(self.lines())
        if max_rows is not None and len(lines) > max_rows:
            lines[max_rows:] = [f"... {len(lines) - max_rows:,} more not shown; the counts have all"]
        return "\n".join([*lines, self.summary()]) + "\n"

    def to_json(self) -> str:
        """The difference as one JSON document, ASCII only."""
        document = {
            "schema": SCHEMA,
            "different": bool(self),
            "left_count": self.left_count,
            "right_count": self.right_count,
            "removed": [_leaf_fields(leaf) for leaf in self.removed],
            "added": [_leaf_fields(leaf) for leaf in self.added],
            "changed": [_change_fields(change) for change in self.changed],
            "renamed": [
                {"left": move.left, "right": move.right, "leaf_count": move.leaf_count}
                for move in self.renamed
            ],
            "by_save": [_change_fields(change) for change in self.by_save],
        }
        return json.dumps(document, indent=1) + "\n"

    def __str__(self) -> str:
        return self.to_text().rstrip("\n")

    def __repr__(self) -> str:
        return f"<LeafDiff {self.summary()}>"


def _leaf_fields(leaf: Leaf) -> dict[str, Any]:
    return {
        "path": leaf.path,
        "kind": leaf.kind,
        "shape": leaf.shape,
        "dtype": leaf.dtype,
        "nbytes": leaf.nbytes,
    }


def _change_fields(change: Change) -> dict[str, Any]:
    return {"path": change.path, "what": change.what, "left": change.left, "right": change.right}


def diff(left: Any, right: Any) -> LeafDiff:
    """Every difference between two trees, from their reports: no value is read.

    A fact counts only where both sides know it: a concrete leaf equals its abstract twin. Leaves are matched
    by path (and, where a keyed class gives one path twice, by occurrence); a subtree that moved whole and is
    the only one like it on either side is `renamed`.

    Cost: linear. Trees of one structure are compared by whole columns.

    Args:
        left: a tree, a `Model` or a `LeafReport`.
        right: the same.

    Raises:
        FlattenError: a tree cannot be flattened.

    Example:
        >>> import numpy as np
        >>> d = diff({"w": np.zeros(2)}, {"w": np.zeros(3), "b": 1.0})
        >>> bool(d), str(d.changed[0]), str(d.added[0])
        (True, 'w  shape (2,) -> (3,)', 'b float')
    """
    a, b = _reported(left), _reported(right)
    return _Comparison(a, b).result()


def assert_same(left: Any, right: Any) -> None:
    """Raises unless `diff(left, right)` finds no difference; for tests.

    Raises:
        DifferenceError: an AssertionError that lists every difference.

    Example:
        >>> import numpy as np
        >>> assert_same({"w": np.zeros(2)}, {"w": np.ones(2)})
    """
    found = diff(left, right)
    if found:
        raise DifferenceError(f"the trees differ\n{found}")


def _reported(target: Any) -> LeafReport:
    if isinstance(target, LeafReport):
        return target
    from leafreport._flatten import report  # JAX is needed for a live tree alone

    return report(target)


class _Comparison:
    """Entries of two reports matched by path, and what comes of it."""

    def __init__(self, left: LeafReport, right: LeafReport) -> None:
        self.reports = left, right
        self.left, self.right = left._columns, right._columns
        self.names = _common_names(self.left, self.right)
        self.changed: list[Change] = []
        self.by_save: list[Change] = []

    def result(self) -> LeafDiff:
        removed: list[int] = []
        added: list[int] = []
        renamed: list[Renamed] = []
        if self._one_structure():
            every = np.arange(len(self.left.code), dtype=np.int32)
            self._compare(every, every)
        else:
            removed, added, renamed = self._by_path()
        return LeafDiff(
            added=_leaves(self.reports[1], added),
            removed=_leaves(self.reports[0], removed),
            changed=tuple(self.changed),
            renamed=tuple(renamed),
            by_save=tuple(self.by_save),
            left_count=len(self.reports[0]),
            right_count=len(self.reports[1]),
        )

    def _one_structure(self) -> bool:
        left, right = self.left, self.right
        return (
            np.array_equal(left.parent, right.parent)
            and np.array_equal(left.code >= 0, right.code >= 0)
            and np.array_equal(self.names[0][1:], self.names[1][1:])
        )

    def _by_path(self) -> tuple[list[int], list[int], list[Renamed]]:
        numbers = _path_numbers(self.left, self.right, *self.names)
        there = np.full(int(max(n.max() for n in numbers)) + 1, -1, np.int32)
        there[numbers[1]] = np.arange(len(numbers[1]), dtype=np.int32)
        twin = there[numbers[0]]
        # A node on one side and a leaf on the other: the leaf is gone or new, and says enough of the node.
        alike = (twin >= 0) & ((self.left.code >= 0) == (self.right.code[twin] >= 0))
        left, right = np.flatnonzero(alike).astype(np.int32), twin[alike]
        self._compare(left, right)
        gone, new = ~alike, np.ones(len(self.right.code), np.bool_)
        new[right] = False
        moves = self._moves(gone, new)
        for a, b in moves:
            gone[a : self.left.end[a]] = False
            new[b : self.right.end[b]] = False
        self._leafless(self.left, gone, twin < 0, removed=True)
        self._leafless(self.right, new, ~np.isin(numbers[1], numbers[0]), removed=False)
        renamed = [Renamed(self.left.path(a), self.right.path(b), self.left.leaf_total(a)) for a, b in moves]
        return (
            np.flatnonzero(gone & (self.left.code >= 0)).tolist(),
            np.flatnonzero(new & (self.right.code >= 0)).tolist(),
            renamed,
        )

    def _compare(self, left: Ints, right: Ints) -> None:
        """What differs at paths both sides have. Each distinct pair of facts is compared once."""
        codes = self.left.code[left].astype(np.int64), self.right.code[right].astype(np.int64)
        pair = (codes[0] << 32) + codes[1]
        distinct, index = np.unique(pair, return_inverse=True)
        found: list[tuple[list[Fact], list[Fact]]] = []
        for value in distinct.tolist():
            a = value + 2**31 >> 32
            b = value - (a << 32)
            if a >= 0:
                found.append(leaf_facts(self.left.specs[a], self.right.specs[b]))
            else:
                found.append(node_facts(self.left.nodes[~a], self.right.nodes[~b]))
        interesting = np.array([bool(real or saved) for real, saved in found], np.bool_)
        for place in np.flatnonzero(interesting[index]).tolist():
            path = self.left.path(int(left[place]))
            real, saved = found[index[place]]
            self.changed += [Change(path, *fact) for fact in real]
            self.by_save += [Change(path, *fact) for fact in saved]

    def _moves(self, gone: np.ndarray, new: np.ndarray) -> list[tuple[int, int]]:
        """Subtrees that are on both sides, once each, at different paths; the largest first."""
        if not (gone.any() and new.any()):
            return []
        specs: dict[object, int] = {}
        nodes: dict[object, int] = {}
        known: dict[object, int] = {}
        marks: list[list[int]] = []
        sides = zip((self.left, self.right), self.names, (gone, new), strict=True)
        for columns, names, alone in sides:
            leaf = [specs.setdefault((s.kind, s.dtype, s.shape), len(specs)) for s in columns.specs]
            node = [nodes.setdefault(n, len(nodes)) for n in columns.nodes]
            marks.append(signatures(columns, leaf, node, names, known, np.flatnonzero(alone).tolist()))
        on_left, on_right = _by_mark(marks[0], gone), _by_mark(marks[1], new)
        moves: list[tuple[int, int]] = []
        past = 0
        for entry in np.flatnonzero(gone).tolist():
            mark = marks[0][entry]
            there = on_right.get(mark, ())
            if (
                entry >= past
                and len(on_left[mark]) == len(there) == 1
                and self.left.leaf_total(entry)
                and self._still_itself(entry, there[0])
            ):
                moves.append((entry, there[0]))
                past = int(self.left.end[entry])
        return moves

    def _still_itself(self, left: int, right: int) -> bool:
        """A lone leaf is told by little: it has moved only where it keeps its own name."""
        return self.left.code[left] < 0 or bool(self.names[0][left] == self.names[1][right])

    def _leafless(self, columns: Columns, alone: np.ndarray, unmet: np.ndarray, *, removed: bool) -> None:
        """Empty containers at paths one side alone has, where no leaf and no node above speaks for them."""
        empty = alone & unmet & (columns.leaf_start[columns.end] == columns.leaf_start[:-1])
        for entry in np.flatnonzero(empty).tolist():
            above = int(columns.parent[entry])
            if above < 0 or not alone[above]:
                kind = columns.nodes[~columns.code[entry]].type
                sides = (kind, "absent") if removed else ("absent", kind)
                self.changed.append(Change(columns.path(entry), "container", *sides))


def _common_names(left: Columns, right: Columns) -> tuple[Ints, Ints]:
    """The name columns of both sides, numbered alike."""
    number = {name: i for i, name in enumerate(left.names)}
    renumber = np.array([number.setdefault(name, len(number)) for name in right.names], np.int32)
    return left.name, renumber[right.name]


def _path_numbers(
    left: Columns, right: Columns, left_names: Ints, right_names: Ints
) -> tuple[np.ndarray, np.ndarray]:
    """i64[entries] for each side: equal where path and occurrence are. Cost: a few sorts a level."""
    sides = ((left, left_names), (right, right_names))
    numbers = (np.zeros(len(left.code), np.int64), np.zeros(len(right.code), np.int64))
    levels = (left.levels(), right.levels())
    most_names = int(max(left_names.max(), right_names.max())) + 1
    given = 1
    for depth in range(1, max(map(len, levels))):
        keys: list[np.ndarray] = []
        here = [level[depth] if depth < len(level) else np.zeros(0, np.int32) for level in levels]
        for (columns, names), number, entries in zip(sides, numbers, here, strict=True):
            keys.append(number[columns.parent[entries]] * most_names + names[entries])
        occurrences = [_occurrences(key) for key in keys]
        if any(occurrence.any() for occurrence in occurrences):
            most = int(max(occurrence.max(initial=0) for occurrence in occurrences)) + 1
            keys = [key * most + nth for key, nth in zip(keys, occurrences, strict=True)]
        distinct, found = np.unique(np.concatenate(keys), return_inverse=True)
        cut = len(here[0])
        numbers[0][here[0]] = given + found[:cut]
        numbers[1][here[1]] = given + found[cut:]
        given += len(distinct)
    return numbers


def _occurrences(keys: np.ndarray) -> np.ndarray:
    """For each key how many equal ones come before it."""
    order = np.argsort(keys, kind="stable")
    out = np.empty(len(keys), np.int64)
    out[order] = np.arange(len(keys)) - run_starts(keys[order])
    return out


def _by_mark(marks: list[int], chosen: np.ndarray) -> dict[int, list[int]]:
    out: dict[int, list[int]] = {}
    for entry in np.flatnonzero(chosen).tolist():
        out.setdefault(marks[entry], []).append(entry)
    return out


def _leaves(report: LeafReport, entries: Sequence[int]) -> tuple[Leaf, ...]:
    start = report._columns.leaf_start
    return tuple(report.leaves[int(start[entry])] for entry in entries)
