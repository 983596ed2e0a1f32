"""Rows of which no element is in two.

A leaf may be used in two views, as a whole and in part, or in two places where the other model has two
leaves: what one row has is in no other one.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from leafreport._align._layout._pair import Pair, Piece
from leafreport._align._parts import close, part

_Shapes = tuple[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]]
# Of a row of more elements, so many at random are looked at.
_MOST_SEEN = 1 << 14
_SAMPLES = 4096
# A row that is partly in another is divided into at most so many.
_MOST_DIVIDED = 256


def apart(rows: Sequence[Pair], shapes: _Shapes) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Rows of which no element is in two, and the rows that were in the way of others.

    Args:
        rows: the rows; of those that overlap the largest is kept, then the first.
        shapes: the shapes of each side's leaves.

    Returns:
        The rows; rows whose left elements have another partner already; rows whose right elements have.
    """
    suspects = _suspects([row.left for row in rows], shapes[0]) | _suspects(
        [row.right for row in rows], shapes[1]
    )
    kept = [row for n, row in enumerate(rows) if n not in suspects]
    left_again: list[Pair] = []
    right_again: list[Pair] = []
    held: list[Pair] = []
    largest_first = sorted(sorted(suspects), key=lambda n: -math.prod(rows[n].left.sizes))
    todo = [rows[n] for n in reversed(largest_first)]
    divided = 0
    while todo:
        row = todo.pop()
        index = _seen(row.left.sizes)
        ours = _addresses(row.left, index)
        theirs = _addresses(row.right, _turned(row, index))
        same, on_left, on_right = _met(row, ours, theirs, held)
        if same.all():
            continue
        met = on_left | on_right
        if not met.any():
            held.append(row)
        elif not met.all() and divided < _MOST_DIVIDED and not row.turns:
            todo += _halves(row)
            divided += 1
        elif on_left.any():
            left_again.append(row)
        else:
            right_again.append(row)
    return kept + held, left_again, right_again


def _met(
    row: Pair, ours: np.ndarray, theirs: np.ndarray, held: Iterable[Pair]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For elements of a row: whether a row that is held says the same, has it on the left, on the right."""
    same, on_left, on_right = (np.zeros(ours.size, bool) for _ in range(3))
    for other in held:
        if other.left.array == row.left.array:
            inside, index = _within(other.left, ours)
            partner = _addresses(other.right, _turned(other, index))
            agrees = inside & (other.right.array == row.right.array) & (partner == theirs)
            same |= agrees & (row.turns == other.turns)
            on_left |= inside
        if other.right.array == row.right.array:
            on_right |= _within(other.right, theirs)[0]
    return same, on_left, on_right


def _turned(row: Pair, index: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Indices along the right piece's axes of elements of the left one."""
    own = [row.left.sizes[n] - 1 - i if n in row.flip else i for n, i in enumerate(index)]
    return [own[n] for n in row.order] if len(row.order) == len(own) else own


def _seen(sizes: Sequence[int]) -> list[np.ndarray]:
    if math.prod(sizes) <= _MOST_SEEN:
        return [i.reshape(-1) for i in np.indices(sizes)] if sizes else []
    rng = np.random.default_rng(0)
    return [np.concatenate([[0, size - 1], rng.integers(0, size, _SAMPLES)]) for size in sizes]


def _addresses(one: Piece, index: Sequence[np.ndarray]) -> np.ndarray:
    """Where elements are in the flattened array."""
    steps = sum((i * s for i, s in zip(index, one.strides, strict=False)), np.zeros(1, np.int64))
    return np.atleast_1d(np.asarray(steps + one.start))


def _within(one: Piece, addresses: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Which addresses are in a piece, and their indices along its axes."""
    rest = addresses - one.start
    inside = rest >= 0
    index: list[np.ndarray] = []
    for size, step in zip(one.sizes, one.strides, strict=True):
        at = np.where(inside, rest // step, 0)
        inside = inside & (at < size)
        at = np.clip(at, 0, size - 1)
        rest = rest - at * step
        index.append(at)
    return inside & (rest == 0), index


def _halves(row: Pair) -> list[Pair]:
    """A row in two, along the left piece's slowest axis of more than one index."""
    axis = next(n for n, size in enumerate(row.left.sizes) if size > 1)
    place, half = row.order.index(axis), row.left.sizes[axis] // 2
    rest = row.left.sizes[axis] - half
    flipped = axis in row.flip
    out = []
    for first, size in ((0, half), (half, rest)):
        there = row.left.sizes[axis] - first - size if flipped else first
        out.append(
            replace(row, left=_cut(row.left, axis, first, size), right=_cut(row.right, place, there, size))
        )
    return out


def _cut(one: Piece, axis: int, first: int, size: int) -> Piece:
    sizes = (*one.sizes[:axis], size, *one.sizes[axis + 1 :])
    return replace(one, start=one.start + first * one.strides[axis], sizes=sizes)


def _suspects(pieces: Sequence[Piece], shapes: Sequence[tuple[int, ...]]) -> set[int]:
    """The pieces that may have an element in common with another one."""
    by_array: dict[int, list[int]] = {}
    for n, one in enumerate(pieces):
        by_array.setdefault(one.array, []).append(n)
    found: set[int] = set()
    for array, numbers in by_array.items():
        if len(numbers) > 1:
            parts = [
                part((), shapes[array], pieces[n].start, pieces[n].sizes, pieces[n].strides) for n in numbers
            ]
            near = set(map(id, close(parts)))
            found.update(n for n, own in zip(numbers, parts, strict=True) if id(own) in near)
    return found
