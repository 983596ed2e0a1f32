"""Parts of leaves, and how one becomes another: in NumPy's words, so that a reader can check them.

Here is no program and no JAX: what is paired, said and carried out by shapes alone.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from leafreport._leaf import Path, display_path

Bounds = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a leaf: `leaf.reshape(shape)[slices]`; the whole of it where the slices take all.

    Attributes:
        path: the leaf's path.
        leaf_shape: its own shape.
        shape: what it is seen as: its own shape, or one with axes divided, so that the part is a box.
        slices: start and stop along each axis of `shape`.
    """

    path: Path
    leaf_shape: tuple[int, ...]
    shape: tuple[int, ...]
    slices: Bounds

    @property
    def whole(self) -> bool:
        """Whether it is all of the leaf."""
        return all(
            (start, stop) == (0, size) for (start, stop), size in zip(self.slices, self.shape, strict=True)
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of the part; an axis of which one index of several is taken is left out."""
        return tuple(
            stop - start
            for (start, stop), size in zip(self.slices, self.shape, strict=True)
            if stop - start != 1 or size == 1
        )

    @property
    def where(self) -> str:
        """The part in NumPy's words: `[:, 8:16]`, `as (4, 3, 8)[:, 1, :]`; the empty string for the whole."""
        if self.whole:
            return ""
        told = [
            ":" if (start, stop) == (0, size) else str(start) if stop - start == 1 else f"{start}:{stop}"
            for (start, stop), size in zip(self.slices, self.shape, strict=True)
        ]
        seen = "" if self.shape == self.leaf_shape else f"as {self.shape}"
        return f"{seen}[{', '.join(told)}]"

    def of(self, array: Any) -> Any:
        """The part of a NumPy array of the leaf's shape; a view, where the array is contiguous."""
        return array.reshape(self.shape)[tuple(slice(*bounds) for bounds in self.slices)].reshape(self.sizes)

    def __str__(self) -> str:
        where = self.where
        return f"{display_path(self.path)}{' ' if where.startswith('as') else ''}{where}"


def whole(path: Path, shape: Sequence[int]) -> Part:
    """All of a leaf, as a part."""
    return Part(path, tuple(shape), tuple(shape), tuple((0, size) for size in shape))


@dataclass(frozen=True, slots=True)
class Move:
    """How one part becomes another: `left.reshape(axes).transpose(order).reshape(sizes of the right part)`.

    Attributes:
        axes: what the left part's axes are divided into.
        order: for each axis of the right part, divided alike, which of them it is.
        flip: those of `axes` whose indices run backwards.
        scale: what values are multiplied by.
        offset: what is added to them then.
        then: what is done to the result, flattened, after that; for a leaf that is turned and reshaped twice.
    """

    axes: tuple[int, ...]
    order: tuple[int, ...]
    flip: tuple[int, ...] = ()
    scale: float = 1.0
    offset: float = 0.0
    then: "Move | None" = None

    @property
    def exact(self) -> bool:
        """Whether values stay what they are, bit by bit."""
        return all(move.scale == 1.0 and move.offset == 0.0 for move in self.steps())

    def steps(self) -> Iterator["Move"]:
        """This move and what is done after it."""
        move: Move | None = self
        while move is not None:
            yield move
            move = move.then


def simplified(move: Move) -> Move:
    """The same move with as few axes as say it: axes that stay together are one."""
    axes, order = move.axes, move.order
    runs: list[list[int]] = []
    for axis in order:
        follows = runs and axis == runs[-1][-1] + 1 and not {axis, axis - 1} & set(move.flip)
        if follows:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    ranked = sorted(range(len(runs)), key=lambda n: runs[n][0])
    place = {run: n for n, run in enumerate(ranked)}
    flipped = tuple(n for n, run in enumerate(ranked) if runs[run][0] in move.flip)
    return Move(
        tuple(math.prod(axes[axis] for axis in runs[run]) for run in ranked),
        tuple(place[run] for run in range(len(runs))),
        flipped,
        move.scale,
        move.offset,
        move.then,
    )


def layout(left: Part, move: Move, right: Part) -> str:
    """What is done to the left part, in words: `identity`, or steps from slice to concat.

    >>> whole = lambda name, *shape: Part((name,), shape, shape, tuple((0, n) for n in shape))
    >>> layout(whole("kernel", 6, 8), Move((6, 8), (1, 0)), whole("weight", 8, 6))
    'transpose'
    >>> layout(whole("q", 6, 2, 4), Move((6, 8), (1, 0)), whole("weight", 8, 6))
    'reshape (6, 8), transpose'
    """
    steps: list[str] = []
    if not left.whole:
        steps.append(f"slice {left.where}")
    shape = left.sizes
    for one in move.steps():
        turns = one.order != tuple(range(len(one.order)))
        if turns or one.flip:
            if shape != one.axes:
                steps.append(f"reshape {one.axes}")
            if one.flip:
                steps.append(f"flip {', '.join(map(str, one.flip))}")
            if turns:
                steps.append("transpose" if len(one.order) == 2 else f"transpose {one.order}")
            shape = tuple(one.axes[axis] for axis in one.order)
        if one.scale != 1.0:
            steps.append(f"times {one.scale:.9g}")
        if one.offset:
            steps.append(f"{'plus' if one.offset > 0 else 'minus'} {abs(one.offset):.9g}")
    if shape != right.sizes:
        steps.append(f"reshape {right.sizes}")
    if not right.whole:
        steps.append(f"concat {right.where}")
    return ", ".join(steps) or "identity"


def part(path: Path, shape: Sequence[int], start: int, sizes: Sequence[int], steps: Sequence[int]) -> Part:
    """The part of a leaf whose elements begin at `start` and go on by steps, in the flattened leaf.

    Args:
        path: the leaf's path.
        shape: its shape.
        start: where the part begins.
        sizes: how many indices along each of its axes.
        steps: how far apart neighbours along each of them are; they fall, and none is within another's way.

    Raises:
        ValueError: no way to divide the leaf's axes makes the part a box.
    """
    if any(step <= 0 for step in steps):
        raise ValueError("a part that goes backwards")
    axes = list(zip(sizes, steps, strict=True))
    try:
        return _part(path, tuple(shape), tuple(shape), start, axes)
    except ValueError:
        # What its own axes do not bear out, the flattened leaf may.
        return _part(path, tuple(shape), (math.prod(shape),), start, axes)


def _part(
    path: Path, leaf: tuple[int, ...], shape: tuple[int, ...], start: int, axes: Sequence[tuple[int, int]]
) -> Part:
    """The part of a leaf of a shape; where that is not its own, the leaf is seen as that first."""
    seen: list[int] = []
    slices: list[tuple[int, int]] = []
    rest = list(axes)
    for axis, size in enumerate(shape):
        stride = math.prod(shape[axis + 1 :])
        own: list[tuple[int, int]] = []
        for n, (count, step) in enumerate(list(rest)):
            # Of an axis that goes on over the whole of this one, what is within it.
            if step < stride < count * step and stride % step == 0 and count % (stride // step) == 0:
                own.append((count // (stride // step), 1))
                rest[n] = stride // step, step
            elif stride <= step < stride * size:
                if step % stride:
                    raise ValueError(f"{step} is no step along an axis of {shape}")
                own.append((count, step // stride))
                rest[n] = 1, 1
        rest = [one for one in rest if one[0] > 1]
        for factor, bounds in _boxes(size, start // stride % size if size and stride else 0, own):
            seen.append(factor)
            slices.append(bounds)
    if rest:
        raise ValueError(f"{rest} is within no axis of {shape}")
    return Part(path, leaf, tuple(seen), tuple(slices))


def _boxes(size: int, start: int, own: Sequence[tuple[int, int]]) -> list[tuple[int, tuple[int, int]]]:
    """One axis divided, so that what is taken of each divisor is a range; the slowest first."""
    groups: list[list[int]] = []
    for count, step in own:
        if groups and groups[-1][1] == count * step:
            groups[-1] = [groups[-1][0] * count, step]
        else:
            groups.append([count, step])
    found: list[tuple[int, tuple[int, int]]] = []
    outer = size
    for count, step in groups:
        first = start // step % (outer // step)
        if step > outer or outer % step or first + count > outer // step:
            raise ValueError(f"{count} by {step} from {start} of {outer}")
        found.append((outer // step, (first, first + count)))
        outer = step
    if not groups:
        found.append((size, (start, start + 1) if size != 1 else (0, 1)) if size else (0, (0, 0)))
    elif outer > 1:
        found.append((outer, (start % outer, start % outer + 1)))
    return found


def close(parts: Sequence[Part]) -> list[Part]:
    """The parts of one leaf that may share an element with another of them. Cost: one sort for each axis.

    Where the leaf is divided in two ways, these are all.
    """
    if len({part.shape for part in parts}) > 1:
        return list(parts)
    groups = [list(parts)]
    for axis in range(len(parts[0].shape) if parts else 0):
        divided: list[list[Part]] = []
        for group in groups:
            end = -1
            for part in sorted(group, key=lambda one: one.slices[axis]):
                start, stop = part.slices[axis]
                if start >= end:
                    divided.append([])
                divided[-1].append(part)
                end = max(end, stop)
        groups = [group for group in divided if len(group) > 1]
    return [part for group in groups for part in group if len(group) > 1]
