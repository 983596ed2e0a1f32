"""Pairs of pieces that belong together: as few rows as say it."""

import math
from collections.abc import Sequence
from dataclasses import replace

from leafreport._align._layout._pair import Pair, Piece
from leafreport._align._parts import part

Shapes = tuple[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]]


def merged(rows: list[Pair], shapes: Shapes) -> list[Pair]:
    """Pairs of pieces that follow each other evenly in both leaves, as one pair of larger pieces."""
    while True:
        groups: dict[object, list[Pair]] = {}
        for pair in rows:
            alike = replace(
                pair, left=replace(pair.left, start=0), right=replace(pair.right, start=0), rivals=()
            )
            groups.setdefault((alike, id(pair) if pair.rivals else None), []).append(pair)
        out: list[Pair] = []
        for group in groups.values():
            group.sort(key=lambda pair: pair.left.start)
            while group:
                run = _run(group)
                joined = _joined(group[:run], shapes) if run > 1 else None
                out += group[:run] if joined is None else [joined]
                del group[:run]
        out = _end_to_end(out, shapes)
        if len(out) == len(rows):
            return sorted(rows, key=lambda pair: (pair.left.array, pair.left.start))
        rows = out


def _end_to_end(rows: Sequence[Pair], shapes: Shapes) -> list[Pair]:
    """Pairs of which one begins, along one axis of both leaves, where another one ends, as one pair."""
    out: list[Pair] = []
    last: dict[tuple[int, int], int] = {}
    for pair in sorted(rows, key=lambda pair: (pair.left.array, pair.left.start)):
        leaves = pair.left.array, pair.right.array
        known = last.get(leaves)
        joined = None if known is None else _extended(out[known], pair, shapes)
        if joined is not None and known is not None:
            out[known] = joined
        else:
            last[leaves] = len(out)
            out.append(pair)
    return out


def _extended(first: Pair, second: Pair, shapes: Shapes) -> Pair | None:
    """Two pairs as one that is longer along one axis; None where they do not follow each other so."""
    alike = replace(second, left=first.left, right=first.right) == first and not first.rivals
    if not alike or first.left.strides != second.left.strides or first.right.strides != second.right.strides:
        return None
    steps = _step(first, second)
    for axis, size in enumerate(first.left.sizes):
        place = first.order.index(axis)
        others = all(
            n == axis or a == b
            for n, (a, b) in enumerate(zip(first.left.sizes, second.left.sizes, strict=True))
        )
        along = size * first.left.strides[axis], size * first.right.strides[place]
        if not others or steps != along or first.right.sizes[place] != size:
            continue
        longer = size + second.left.sizes[axis]
        made = [
            replace(own, sizes=(*own.sizes[:n], longer, *own.sizes[n + 1 :]))
            for own, n in ((first.left, axis), (first.right, place))
        ]
        try:
            for own, known in zip(made, shapes, strict=True):
                part((), known[own.array], own.start, own.sizes, own.strides)
        except ValueError:
            continue
        return replace(first, left=made[0], right=made[1])
    return None


def _run(group: Sequence[Pair]) -> int:
    """How many pairs from the first on follow each other evenly."""
    if len(group) < 2:
        return len(group)
    steps = _step(group[0], group[1])
    length = 2
    while length < len(group) and _step(group[length - 1], group[length]) == steps:
        length += 1
    return length


def _step(a: Pair, b: Pair) -> tuple[int, int]:
    return b.left.start - a.left.start, b.right.start - a.right.start


def _joined(run: Sequence[Pair], shapes: Shapes) -> Pair | None:
    """One pair of several that follow each other evenly: with one axis more; None where that is no box."""
    first = run[0]
    made: list[Piece] = []
    places: list[int] = []
    for own, step, known in zip((first.left, first.right), _step(run[0], run[1]), shapes, strict=True):
        if not _adjoins(own, step):
            return None
        place = sum(stride > step for stride in own.strides)
        places.append(place)
        sizes = (*own.sizes[:place], len(run), *own.sizes[place:])
        steps = (*own.strides[:place], step, *own.strides[place:])
        try:
            part((), known[own.array], own.start, sizes, steps)
        except ValueError:
            return None
        made.append(replace(own, sizes=sizes, strides=steps))
    moved = [axis + (axis >= places[0]) for axis in first.order]
    order = (*moved[: places[1]], places[0], *moved[places[1] :])
    flip = tuple(axis + (axis >= places[0]) for axis in first.flip)
    return replace(first, left=made[0], right=made[1], order=order, flip=flip)


def whole_leaves(rows: Sequence[Pair], shapes: Shapes) -> list[Pair]:
    """Rows of all that two leaves have in use as rows of whole leaves, where the rest lies alike in both.

    What is not read here, as the later positions of a table, goes with what is.
    """
    counts: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for pair in rows:
        for count, one in zip(counts, (pair.left, pair.right), strict=True):
            count[one.array] = count.get(one.array, 0) + 1
    out: list[Pair] = []
    for pair in rows:
        alone = counts[0][pair.left.array] == counts[1][pair.right.array] == 1
        out.append((_widened(pair, shapes) if alone and not pair.turns else None) or pair)
    return out


def _widened(pair: Pair, shapes: Shapes) -> Pair | None:
    """A pair whose pieces go on along one axis, alike in both leaves, to all that the leaves are."""
    sizes = [math.prod(known[one.array]) for known, one in zip(shapes, (pair.left, pair.right), strict=True)]
    count = math.prod(pair.left.sizes)
    if sizes[0] != sizes[1] or not count or sizes[0] == count:
        return None
    for axis, size in enumerate(pair.left.sizes):
        place = pair.order.index(axis)
        steps = pair.left.strides[axis], pair.right.strides[place]
        starts = pair.left.start, pair.right.start
        if axis in pair.flip or sizes[0] * size % count or starts[0] * steps[1] != starts[1] * steps[0]:
            continue
        longer = sizes[0] * size // count
        made = [
            replace(own, start=0, sizes=(*own.sizes[:n], longer, *own.sizes[n + 1 :]))
            for own, n in ((pair.left, axis), (pair.right, place))
        ]
        if starts[0] % steps[0] == 0 and all(map(_dense, made)):
            return replace(pair, left=made[0], right=made[1])
    return None


def _dense(one: Piece) -> bool:
    """Whether a piece leaves nothing out between its first element and its last."""
    expected = 1
    for size, step in reversed(list(zip(one.sizes, one.strides, strict=True))):
        if step != expected:
            return False
        expected *= size
    return True


def _adjoins(one: Piece, step: int) -> bool:
    """Whether a piece and the next one of its kind leave nothing between them."""
    ends = [size * stride for size, stride in zip(one.sizes, one.strides, strict=True)]
    return step in ends or 0 < step < min(one.strides, default=step + 1)
