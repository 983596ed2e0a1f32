"""How leaves are stored, apart from how they are used: where an array's elements are among the leaves.

A model may keep a matrix turned, reshaped, as a part of a larger leaf or put together of several. All that
is undone by views before the matrix meets an activation. What is matched is the array that is used; here is
found where its elements are, so that a pair of used arrays becomes pairs of parts of leaves.

Leaves stand one after the other in one space of addresses, with gaps between them, so that no step leads
evenly from one into the next.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from leafreport._align._trace._boxes import Addresses, Box, boxes, divided, elements, seen
from leafreport._align._trace._program import Array, Op, Program
from leafreport._align._trace._views import SOURCES, strides

# Of a larger array that does not lie evenly, the elements are not put in order to know them again.
_MOST_SORTED = 1 << 20


class Storage:
    """Where the elements of used arrays are.

    Attributes:
        starts: the address at which each distinct leaf begins.
        numbers: the number of each of them, in flatten order.
    """

    def __init__(self, program: Program) -> None:
        self.starts: list[int] = []
        self.numbers: list[int] = []
        self._base: dict[int, int] = {}
        self._made = {id(op.output): op for op in program.ops if op.output.leafy}
        self._affine: dict[int, tuple[int, tuple[int, ...]] | None] = {}
        end = 0
        for number, leaf in enumerate(program.leaves):
            if id(leaf) not in self._base:
                self._base[id(leaf)] = end
                self.starts.append(end)
                self.numbers.append(number)
                end += 2 * math.prod(leaf.shape) + 7

    def leaf(self, address: int) -> tuple[int, int]:
        """The leaf's number and the place in it, flattened, of an address."""
        n = bisect_right(self.starts, address) - 1
        return self.numbers[n], address - self.starts[n]

    def affine(self, array: Array) -> tuple[int, tuple[int, ...]] | None:
        """The address of an array's first element and the steps along its axes; None where not even."""
        key = id(array)
        if key not in self._affine:
            base = self._base.get(key)
            if base is not None:
                self._affine[key] = base, tuple(strides(array.shape))
            else:
                op = self._made.get(key)
                known = None if op is None or len(op.inputs) != 1 else self.affine(op.inputs[0])
                self._affine[key] = None if op is None or known is None else _through(op, *known)
        return self._affine[key]

    def address(self, array: Array, index: Sequence[np.ndarray]) -> np.ndarray:
        """The addresses of elements of a used array.

        Args:
            array: a leaf, or a view of leaves.
            index: for each of its axes the elements' indices, all of one shape.
        """
        base = self._base.get(id(array))
        if base is not None:
            found: np.ndarray = (
                sum(
                    (i * s for i, s in zip(index, strides(array.shape), strict=True)),
                    np.zeros_like(index[0]) if len(index) else np.array(0),
                )
                + base
            )
            return found
        op = self._made[id(array)]
        kind = op.info["kind"]
        if kind in ("concatenate", "stack"):
            axis = op.info.get("axis", 0)
            sizes = [1 if kind == "stack" else part.dims[axis].size for part in op.inputs]
            ends = np.cumsum(sizes)
            which = np.searchsorted(ends, index[axis], side="right")
            out = np.empty(np.shape(index[axis]), np.int64)
            for n, part in enumerate(op.inputs):
                own = which == n
                if own.any():
                    inner = [i[own] for i in index]
                    inner[axis] = inner[axis] - (ends[n] - sizes[n])
                    out[own] = self.address(part, inner if kind != "stack" else inner[1:])
            return out
        made = SOURCES[kind](op.inputs[0], op.info, tuple(index), op.output.shape)
        shape = np.shape(index[0]) if len(index) else ()
        return self.address(op.inputs[0], [np.broadcast_to(np.asarray(i), shape) for i in made])

    def chain(self, array: Array) -> list[np.ndarray] | None:
        """The views that make a used array of one whole leaf, as permutations of the flattened elements.

        None where it is a part of a leaf, or put together of several.
        """
        found: list[np.ndarray] = []
        while id(array) not in self._base:
            op = self._made[id(array)]
            if len(op.inputs) != 1 or math.prod(op.inputs[0].shape) != math.prod(array.shape):
                return None
            index = [i.reshape(-1) for i in np.indices(array.shape)]
            made = SOURCES[op.info["kind"]](op.inputs[0], op.info, tuple(index), op.output.shape)
            steps = strides(op.inputs[0].shape)
            flat = sum((np.asarray(i) * s for i, s in zip(made, steps, strict=True)), np.zeros(1, np.int64))
            found.append(np.broadcast_to(flat, (math.prod(array.shape),)))
            array = op.inputs[0]
        return found[::-1]

    def boxes(
        self, array: Array, starts: Sequence[int], steps: Sequence[Sequence[tuple[int, int]]]
    ) -> list[Box] | None:
        """A piece of a used array as boxes that lie evenly among the leaves; None where no few boxes do.

        Args:
            array: the array.
            starts: where the piece begins along each of its axes.
            steps: sizes and steps of the dims it runs over, along each of its axes.
        """
        known = self.affine(array)
        if known is not None:
            base, along = known
            sizes: list[int] = []
            jumps: list[tuple[int, ...]] = []
            axes: list[int] = []
            for axis, dims in enumerate(steps):
                for size, step in dims:
                    sizes.append(size)
                    jumps.append((step * along[axis],))
                    axes.append(len(axes))
            start = base + sum(s * a for s, a in zip(starts, along, strict=True))
            return [Box((start,), tuple(sizes), tuple(jumps), tuple(axes))]
        return boxes([self.piece(array, starts, steps)], [n for own in steps for n, _ in own], [self.owner])

    def elements(
        self, array: Array, starts: Sequence[int], steps: Sequence[Sequence[tuple[int, int]]]
    ) -> object:
        """What a piece of a used array holds: equal for the same elements of leaves, however they are viewed.

        Of a large array that does not lie evenly among the leaves, only the same view of it is equal.
        """
        known = self.affine(array)
        if known is not None:
            base, along = known
            start = base + sum(s * a for s, a in zip(starts, along, strict=True))
            return elements(start, [(n, s * a) for own, a in zip(steps, along, strict=True) for n, s in own])
        sizes = [size for own in steps for size, _ in own]
        if math.prod(sizes) > _MOST_SORTED:
            return id(array), tuple(starts)
        index = [i.reshape(-1) for i in np.indices(sizes)]
        addresses = np.sort(np.atleast_1d(self.piece(array, starts, steps)(index)))
        even = divided([addresses - addresses[0]])
        if isinstance(even, int):
            return int(addresses[0]), hashlib.blake2b(addresses.tobytes()).digest()
        return elements(int(addresses[0]), [(size, step) for size, (step,) in even])

    def owner(self, addresses: np.ndarray) -> np.ndarray:
        """For addresses numbers of the leaves they are in."""
        return np.searchsorted(np.array(self.starts), addresses, side="right")

    def held(
        self, array: Array, starts: Sequence[int], steps: Sequence[Sequence[tuple[int, int]]]
    ) -> set[int]:
        """The numbers of the leaves in which a piece of a used array has elements, as far as is looked."""
        index = seen([size for dims in steps for size, _ in dims])
        found = np.unique(self.piece(array, starts, steps)(index))
        return {self.leaf(int(address))[0] for address in np.atleast_1d(found)}

    def piece(
        self, array: Array, starts: Sequence[int], steps: Sequence[Sequence[tuple[int, int]]]
    ) -> Addresses:
        """The addresses of a piece's elements, by indices along the dims it runs over."""
        own = [(axis, step) for axis, dims in enumerate(steps) for _, step in dims]

        def addresses(index: Sequence[np.ndarray]) -> np.ndarray:
            shape = np.shape(index[0]) if len(index) else ()
            full = [np.full(shape, start, np.int64) for start in starts]
            for (axis, step), i in zip(own, index, strict=True):
                full[axis] = full[axis] + i * step
            return self.address(array, full)

        return addresses


def _through(op: Op, start: int, steps: tuple[int, ...]) -> tuple[int, tuple[int, ...]] | None:
    """What a view makes of an even array."""
    source, info, shape = op.inputs[0], op.info, op.output.shape
    match info["kind"]:
        case "same":
            return start, steps
        case "transpose":
            return start, tuple(steps[axis] for axis in info["order"])
        case "squeeze":
            return start, tuple(steps[axis] for axis in info["keep"])
        case "slice":
            return start + sum(a * s for a, s in zip(info["starts"], steps, strict=True)), steps
        case "take":
            return start + info["start"] * steps[0], steps[1:]
        case "reverse":
            turned = tuple(-s if n in info["axes"] else s for n, s in enumerate(steps))
            return start + sum((source.shape[n] - 1) * steps[n] for n in info["axes"]), turned
        case "broadcast":
            out = [0] * len(shape)
            for axis, place in enumerate(info["axes"]):
                out[place] = steps[axis] if source.shape[axis] > 1 else 0
            return start, tuple(out)
        case "reshape":
            found = _reshaped(source.shape, steps, shape)
            return None if found is None else (start, found)
    return None


def _reshaped(shape: Sequence[int], steps: Sequence[int], target: Sequence[int]) -> tuple[int, ...] | None:
    """The steps of an even array after a reshape; None where it is not even then."""
    left = [[size, step] for size, step in zip(shape, steps, strict=True) if size != 1]
    out: list[int] = []
    for size in reversed(target):
        if size == 1:
            out.append(0)
            continue
        if not left:
            return None
        step = left[-1][1]
        covered = 1
        while covered < size:
            if not left or left[-1][1] != step * covered:
                return None
            inner = math.gcd(left[-1][0], size // covered) if size % covered == 0 else 0
            if inner < 2 or (inner < left[-1][0] and covered * inner != size):
                return None
            covered *= inner
            if inner == left[-1][0]:
                left.pop()
            else:
                left[-1] = [left[-1][0] // inner, left[-1][1] * inner]
        out.append(step)
    return tuple(reversed(out))
