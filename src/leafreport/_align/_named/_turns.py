"""The ways in which one leaf can become another by turning and reshaping: by axes' names, or by shape."""

import itertools
import math
from collections.abc import Iterable, Sequence

from leafreport._align._layout._axes import refined
from leafreport._align._parts import Move, simplified
from leafreport._align._trace._dims import NotAligned
from leafreport._leaf import Leaf


def moves(left: Leaf, right: Leaf) -> Sequence[Move]:
    """The ways in which one leaf can be the other: one where nothing is open, none where it cannot be."""
    a, b = left.shape or (), right.shape or ()
    if left.axes is not None and right.axes is not None:
        known = _by_axes((a, left.axes), (b, right.axes))
        if known is not None:
            return (known,)
    return by_shape(a, b)


_Told = tuple[tuple[int, ...], tuple[str, ...]]


def _by_axes(left: _Told, right: _Told) -> Move | None:
    """How one leaf becomes the other by what each axis is; None where that does not fit."""
    groups: list[dict[str, list[int]]] = [{}, {}]
    for found, (shape, axes) in zip(groups, (left, right), strict=True):
        if len(axes) != len(shape):
            return None
        for n, name in enumerate(axes):
            if shape[n] != 1:
                found.setdefault(name, []).append(n)
    if groups[0].keys() != groups[1].keys():
        return None
    order = [n for name in groups[1] for n in groups[0][name]]
    sizes = [(groups[1][name], [left[0][n] for n in groups[0][name]]) for name in groups[1]]
    turned = sorted(sizes, key=lambda item: item[0])
    if any(ns != list(range(ns[0], ns[0] + len(ns))) for ns, _ in turned):
        return None
    try:
        for ns, own in turned:
            refined(own, [right[0][n] for n in ns])
    except NotAligned:
        return None
    order = [n for name in sorted(groups[1], key=lambda name: groups[1][name]) for n in groups[0][name]]
    return _move(left[0], order)


def by_shape(a: tuple[int, ...], b: tuple[int, ...]) -> Sequence[Move]:
    """The ways in which a shape can become another one by turning and reshaping: up to two of them."""
    if math.prod(a) != math.prod(b):
        return ()
    ours, theirs = ([n for n, size in enumerate(shape) if size != 1] for shape in (a, b))
    if len(ours) > _MOST_AXES or len(theirs) > _MOST_AXES:
        return (_move(a, range(len(a))),) if a == b else ()
    found: dict[Move, None] = {}
    if len(ours) <= len(theirs):  # the left axes are turned, then divided
        for order in itertools.permutations(ours):
            if _fits([a[n] for n in order], [b[n] for n in theirs]):
                found[_move(a, order)] = None
    else:  # groups of left axes, in some order, are the right ones
        for order in itertools.permutations(theirs):
            if _fits([b[n] for n in order], [a[n] for n in ours]):
                found[_move(a, _undone([b[n] for n in order], order, [a[n] for n in ours], ours))] = None
    same = simplified(Move(a, tuple(range(len(a)))))
    return sorted(found, key=lambda move: move != same)[:2]


_MOST_AXES = 5


def _fits(coarse: Sequence[int], fine: Sequence[int]) -> bool:
    """Whether each of some axes is a product of neighbours among others."""
    rest = list(fine)
    for size in coarse:
        while size > 1 and rest and size % rest[0] == 0:
            size //= rest.pop(0)
        if size != 1:
            return False
    return not rest


def _undone(
    coarse: Sequence[int], order: Sequence[int], fine: Sequence[int], places: Sequence[int]
) -> list[int]:
    """Which of the finer axes each of the coarser ones is made of, in the coarser ones' own order."""
    groups: dict[int, list[int]] = {}
    at = 0
    for size, place in zip(coarse, order, strict=True):
        own: list[int] = []
        while size > 1:
            size //= fine[at]
            own.append(places[at])
            at += 1
        groups[place] = own
    return [n for place in sorted(groups) for n in groups[place]]


def _move(shape: Sequence[int], order: Iterable[int]) -> Move:
    """A turn of the axes of more than one index."""
    own = [n for n, size in enumerate(shape) if size != 1]
    place = {n: k for k, n in enumerate(own)}
    turned = tuple(place[n] for n in order if n in place)
    return simplified(Move(tuple(shape[n] for n in own), turned))
