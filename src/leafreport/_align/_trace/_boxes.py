"""Arrays of addresses as boxes: axes along which they go on evenly.

Here is only arithmetic on integers: no program and no leaf.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# By indices along axes the addresses of elements, and for addresses numbers of what they are in.
Addresses = Callable[[Sequence[np.ndarray]], np.ndarray]
Owner = Callable[[np.ndarray], np.ndarray]


_MOST_BOXES = 4096
# Of a box of at most this many elements every address is looked at; of a larger one so many at random.
_MOST_SEEN = 1 << 17
_SAMPLES = 1 << 13


@dataclass(frozen=True, slots=True)
class Box:
    """A box of an array whose elements lie evenly, in one or in several spaces of addresses at once.

    Attributes:
        starts: the address of its first element in each.
        sizes: its axes, the array's slowest first; an axis may be divided into several.
        steps: for each axis how far apart neighbours are in each space.
        axes: for each axis which of the array's axes it is of.
    """

    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    axes: tuple[int, ...]


def boxes(spaces: Sequence[Addresses], sizes: Sequence[int], owners: Sequence[Owner]) -> list[Box] | None:
    """An array as boxes in each of which addresses go on evenly, in one leaf; None where there are too many.

    Args:
        spaces: the addresses of its elements, in each of several spaces.
        sizes: its axes.
        owners: for addresses in each space the leaves they are in.
    """
    todo = [([0] * len(sizes), list(sizes))]
    found: list[Box] = []
    while todo:
        low, extent = todo.pop()
        split: tuple[int, int] | None = None
        factors: list[list[tuple[int, tuple[int, ...]]]] = []
        lines: list[list[np.ndarray]] = []
        for axis, addresses in enumerate(_lines(spaces, low, extent)):
            lines.append([line - line[0] for line in addresses])
            changes = [
                np.flatnonzero(np.diff(owner(line))) for owner, line in zip(owners, addresses, strict=True)
            ]
            ends = [int(change[0]) + 1 for change in changes if change.size]
            even = min(ends) if ends else divided(lines[-1])
            if isinstance(even, int):
                split = axis, even
                break
            factors.append(even)
        if split is None and not _separable(spaces, low, extent, lines):
            wide = next((axis for axis, own in enumerate(factors) if len(own) > 1), None)
            if wide is not None:
                split = wide, extent[wide] // factors[wide][0][0]
            else:
                longest = max(range(len(extent)), key=extent.__getitem__)
                split = longest, extent[longest] // 2
        if split is None:
            starts = tuple(int(space(_point(low))) for space in spaces)
            parts = [(axis, *factor) for axis, own in enumerate(factors) for factor in own]
            axes, inner, steps = zip(*parts, strict=True) if parts else ((), (), ())
            found.append(Box(starts, inner, steps, axes))
        else:
            axis, at = split
            todo.append(
                (
                    [*low[:axis], low[axis] + at, *low[axis + 1 :]],
                    [*extent[:axis], extent[axis] - at, *extent[axis + 1 :]],
                )
            )
            todo.append((low, [*extent[:axis], at, *extent[axis + 1 :]]))
        if len(found) + len(todo) > _MOST_BOXES:
            return None
    return found


def _point(index: Sequence[int]) -> list[np.ndarray]:
    return [np.array(i) for i in index]


def _lines(
    spaces: Sequence[Addresses], low: Sequence[int], extent: Sequence[int]
) -> Iterator[list[np.ndarray]]:
    """For each axis the addresses along it from the first element on, in each space."""
    for axis, size in enumerate(extent):
        index = [np.full(size, i, np.int64) for i in low]
        index[axis] = index[axis] + np.arange(size)
        yield [space(index) for space in spaces]


def divided(line: Sequence[np.ndarray]) -> list[tuple[int, tuple[int, ...]]] | int:
    """An axis as sizes and steps, the slowest first; where runs are not alike, where the first one ends."""
    size = line[0].size
    if size == 1:
        return []
    steps = [np.diff(addresses) for addresses in line]
    breaks = [np.flatnonzero(step != step[0]) for step in steps]
    run = min((int(b[0]) + 1 for b in breaks if b.size), default=size)
    first = tuple(int(step[0]) for step in steps)
    if run == size:
        return [(size, first)]
    if size % run:
        return run
    blocks = [addresses.reshape(-1, run) for addresses in line]
    if any((block - block[:, :1] != block[0] - block[0, 0]).any() for block in blocks):
        return run
    outer = divided([block[:, 0] for block in blocks])
    return run * outer if isinstance(outer, int) else [*outer, (run, first)]


def seen(sizes: Sequence[int]) -> list[np.ndarray]:
    """Indices along axes: of all elements where these are not too many, else of some at random."""
    if math.prod(sizes) <= _MOST_SEEN:
        return [i.reshape(-1) for i in np.indices(sizes)] if sizes else []
    rng = np.random.default_rng(0)
    return [rng.integers(0, size, _SAMPLES) for size in sizes]


def _separable(
    spaces: Sequence[Addresses],
    low: Sequence[int],
    extent: Sequence[int],
    lines: Sequence[Sequence[np.ndarray]],
) -> bool:
    """Whether the addresses are sums of those along the axes."""
    index = seen(extent)
    if not index:
        return True
    for n, space in enumerate(spaces):
        own = space([i + start for i, start in zip(index, low, strict=True)])
        told = sum(line[n][i] for line, i in zip(lines, index, strict=True)) + int(space(_point(low)))
        if (own != told).any():
            return False
    return True


def elements(start: int, axes: Sequence[tuple[int, int]]) -> object:
    """What a box holds, however its axes are ordered and divided: equal for the same elements.

    Args:
        start: the address of its first element.
        axes: size and step of each axis.
    """
    start += sum(step * (size - 1) for size, step in axes if step < 0)
    merged: list[tuple[int, int]] = []
    for step, size in sorted(((abs(step), size) for size, step in axes if size > 1 and step), reverse=True):
        if merged and merged[-1][0] == step * size:
            merged[-1] = step, size * merged[-1][1]
        else:
            merged.append((step, size))
    return start, tuple(merged)


def turned(source: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """A permutation as a turn of axes: sizes, order and those that run backwards; None where it is none.

    Args:
        source: for each element of a flattened array, which element of another one it is.

    Returns:
        The other array's axes, for each axis of the first which of them it is, and which of them are flipped:
        `other.reshape(axes)`, flipped, `.transpose(order)` and flattened is the first.
    """
    even = divided([source - source[0]])
    if isinstance(even, int):
        return None
    sizes, steps = [size for size, _ in even], [step for _, (step,) in even]
    order = sorted(range(len(steps)), key=lambda n: -abs(steps[n]))
    expected = math.prod(sizes)
    for n in order:
        expected //= sizes[n]
        if abs(steps[n]) != expected:
            return None
    place = {n: k for k, n in enumerate(order)}
    backwards = [n for n in range(len(steps)) if steps[n] < 0]
    if int(source[0]) != sum(-steps[n] * (sizes[n] - 1) for n in backwards):
        return None
    flip = tuple(sorted(place[n] for n in backwards))
    return tuple(sizes[n] for n in order), tuple(place[n] for n in range(len(sizes))), flip
