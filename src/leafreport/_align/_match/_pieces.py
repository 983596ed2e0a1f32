"""Pieces of arrays: what an array is put together of, once all is known of its axes.

An axis that is put together of parts has one part a piece; a piece is a box of the dims without parts.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product as combinations

import numpy as np

from leafreport._align._trace._dims import Dim, factors, find, segments
from leafreport._align._trace._program import Array

Offsets = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of an axis.

    Attributes:
        start: its first index.
        atoms: the dims without parts that it runs over, the slowest first; those of one index left out.
        steps: how far apart neighbours along each of them are.
    """

    start: int
    atoms: tuple[Dim, ...]
    steps: tuple[int, ...]

    @property
    def indices(self) -> np.ndarray:
        """The indices of the axis that are in it."""
        found = np.array([self.start])
        for atom, step in zip(self.atoms, self.steps, strict=True):
            found = (found[:, None] + np.arange(atom.size) * step).reshape(-1)
        return found


class Pieces:
    """The pieces of a program's arrays. The dims must not change any more."""

    def __init__(self) -> None:
        self._segments: dict[Dim, dict[int, Segment]] = {}

    def segments(self, dim: Dim) -> dict[int, Segment]:
        """The parts of an axis, by where each begins."""
        dim = find(dim)
        known = self._segments.get(dim)
        if known is None:
            found: list[Segment] = []
            start = 0
            for segment in segments(dim):
                inner = factors(segment)
                if len(inner) <= 1 and (not inner or inner[0].kind is None):
                    found.append(Segment(start, tuple(inner), (1,) * len(inner)))
                else:
                    found += [Segment(start + s.start, s.atoms, s.steps) for s in self._combined(inner)]
                start += segment.size
            known = self._segments[dim] = {segment.start: segment for segment in found}
        return known

    def _combined(self, parts: Sequence[Dim]) -> list[Segment]:
        """The parts of a product of axes."""
        found = [Segment(0, (), ())]
        for part in parts:
            own = list(self.segments(part).values())
            found = [
                Segment(
                    outer.start * part.size + s.start,
                    (*outer.atoms, *s.atoms),
                    (*(step * part.size for step in outer.steps), *s.steps),
                )
                for outer in found
                for s in own
            ]
        return found

    def atoms(self, dims: Iterable[Dim]) -> frozenset[Dim]:
        """All dims without parts that some axes run over."""
        return frozenset(
            atom for dim in dims for segment in self.segments(dim).values() for atom in segment.atoms
        )

    def boxes(self, array: Array) -> Iterator[Offsets]:
        """Where each piece of an array begins."""
        return combinations(*(self.segments(dim) for dim in array.dims))

    def along(self, array: Array, offsets: Sequence[int]) -> list[Segment]:
        """For each axis the part of it that a piece runs over."""
        return [self.segments(dim)[at] for dim, at in zip(array.dims, offsets, strict=True)]

    def near(self, array: Array, offsets: Sequence[int]) -> Offsets:
        """The piece in which an index lies; of an axis of one index that is repeated, that one."""
        return tuple(
            0 if dim.size <= 1 else max(at for at in self.segments(dim) if at <= offset)
            for dim, offset in zip(array.dims, offsets, strict=True)
        )

    def taken(self, array: Array, offsets: Sequence[int], values: np.ndarray) -> np.ndarray:
        """The values of a piece, its axes divided into the dims it runs over; those of one value left out."""
        return self.oriented(array, offsets, values)[0]

    def oriented(
        self, array: Array, offsets: Sequence[int], values: np.ndarray
    ) -> tuple[np.ndarray, list[tuple[int, Dim]]]:
        """The same, and for each axis of the result of which of the array's it is, and which dim."""
        axes: list[tuple[int, Dim]] = []
        for axis, part in enumerate(self.along(array, offsets)):
            if values.shape[axis] != 1:
                whole = len(self.segments(array.dims[axis])) == 1
                values = values if whole else np.take(values, part.indices, axis)
                axes += [(axis, atom) for atom in part.atoms]
        return values.reshape([atom.size for _, atom in axes]), axes
