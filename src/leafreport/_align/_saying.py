"""What a mapping says, put over what was found out: the caller is right, and hears what contradicts it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from leafreport._align._alignment import End
from leafreport._align._mapping import Said, overlap
from leafreport._align._named._turns import by_shape, moves
from leafreport._align._parts import Move, Part
from leafreport._align._records import Basis, Difference, LeafPair, Place
from leafreport._errors import AlignmentError
from leafreport._leaf import Path

Ends = tuple[End, End]


def honoured(
    rows: Sequence[LeafPair], said: Sequence[Said], ends: Ends
) -> tuple[list[LeafPair], list[Difference], Ends]:
    """The pairs as a mapping has them, and as differences where the programs have them otherwise.

    Args:
        rows: the pairs the programs have.
        said: the mapping's rows.
        ends: what is aligned; its parts without partner are those the mapping leaves.

    Raises:
        AlignmentError: a row's parts cannot become each other.
    """
    found = _Rows(rows)
    extra: list[Difference] = []
    gone: list[LeafPair] = []
    for one in said:
        against = found.against(one)
        if against and all(_agrees(row, one) for row in against):
            for row in against:
                found.put(replace(row, candidates=(), open_layout=False, basis=_basis(row)))
            continue
        made = as_said(one, *ends)
        for row in against:
            found.drop(row)
        found.add(made)
        gone += against
        if against:
            extra.append(_contradiction(made, against[0]))
    if gone or len(found.rows) != len(rows):
        ends = _lone(ends[0], found, gone, "left"), _lone(ends[1], found, gone, "right")
    return sorted(found.rows.values(), key=lambda row: ends[0].numbers[row.left_path]), extra, ends


def as_said(one: Said, left: End, right: End) -> LeafPair:
    """A row of a mapping as a pair; how the left part is turned is found out where the row does not say.

    Raises:
        AlignmentError: no way to turn the left part makes it the right one.
    """
    options: Sequence[Move] = (one.move,) if one.move is not None else ()
    if one.move is None:
        if one.left.whole and one.right.whole:
            options = moves(left.report[one.left.path], right.report[one.right.path])
        else:
            options = by_shape(one.left.sizes, one.right.sizes)
    if not options:
        raise AlignmentError(
            f"the mapping has {one.left} of shape {one.left.sizes} as {one.right} of shape {one.right.sizes}"
            ": no order of axes makes one the other. Say 'axes' and 'order', or take the row out."
        )
    return LeafPair(one.left, one.right, options[0], one.role, "mapping", (), len(options) > 1)


class _Rows:
    """Pairs by the leaves they are of."""

    def __init__(self, rows: Iterable[LeafPair]) -> None:
        self.rows: dict[tuple[Part, Part], LeafPair] = {}
        self._of: tuple[dict[Path, set[tuple[Part, Part]]], dict[Path, set[tuple[Part, Part]]]] = ({}, {})
        for row in rows:
            self.add(row)

    def add(self, row: LeafPair) -> None:
        key = row.left, row.right
        self.rows[key] = row
        for own, part in zip(self._of, key, strict=True):
            own.setdefault(part.path, set()).add(key)

    def drop(self, row: LeafPair) -> None:
        key = row.left, row.right
        del self.rows[key]
        for own, part in zip(self._of, key, strict=True):
            own[part.path].discard(key)

    def put(self, row: LeafPair) -> None:
        self.rows[row.left, row.right] = row

    def of(self, part: Part, which: int) -> list[LeafPair]:
        """The pairs that share an element with a part of one side."""
        keys = self._of[which].get(part.path, ())
        return [self.rows[key] for key in keys if overlap(key[which], part)]

    def against(self, one: Said) -> list[LeafPair]:
        """The pairs of elements that a row of a mapping is about."""
        exact = self.rows.get((one.left, one.right))
        if exact is not None:
            return [exact]
        found = {(row.left, row.right): row for row in (*self.of(one.left, 0), *self.of(one.right, 1))}
        return list(found.values())


def _agrees(row: LeafPair, one: Said) -> bool:
    """Whether a pair is what a row of a mapping says, or a part of that."""
    if (row.left, row.right) == (one.left, one.right):
        return one.move in (None, row.move)
    inside = (row.left_path, row.right_path) == (one.left.path, one.right.path)
    return inside and one.move is None and one.left.whole and one.right.whole


def _basis(row: LeafPair) -> Basis:
    return "mapping" if row.ambiguous else row.basis


def _contradiction(made: LeafPair, against: LeafPair) -> Difference:
    told = [f"{row.left} -> {row.right}, {row.layout}" for row in (made, against)]
    return Difference(
        "mapping",
        f"the mapping has {told[0]}",
        f"the programs have {told[1]}",
        Place(made.left_path, made.left_path),
        Place(made.right_path, made.right_path),
    )


def _lone(end: End, found: _Rows, gone: Iterable[LeafPair], side: str) -> End:
    """An end with the parts that have no partner any more, and without those that have one now."""
    which = 0 if side == "left" else 1
    parts = dict.fromkeys((*end.alone, *(getattr(row, side) for row in gone)))
    return replace(end, alone=tuple(part for part in parts if not found.of(part, which)))
