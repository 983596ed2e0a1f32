"""Which axis of one used piece is which of another: by what it does there and what its dim is elsewhere."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from leafreport._align._match._match import Colors, Match, Side, Sides
from leafreport._align._match._pieces import Offsets
from leafreport._align._trace._dims import Dim, NotAligned
from leafreport._align._trace._program import Array, Op


def both_axes(sides: Sides, found: Match) -> "tuple[Axes, Axes]":
    """What tells the axes of both sides' pieces apart."""
    number = {n: i for i, n in enumerate(found.nodes)}
    back = {r: number[n] for n, r in found.nodes.items()}
    colors = Colors()
    return Axes(sides[0], number, colors), Axes(sides[1], back, colors)


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of a used piece: its size, what it does, what its dim is elsewhere, and its place in use."""

    size: int
    role: object
    color: object
    place: int


Sizes = list[list[int]]


@dataclass(frozen=True, slots=True)
class Divided:
    """Two pieces' axes, divided alike.

    Attributes:
        left: what each left axis is divided into.
        right: what each right axis is divided into.
        order: for each part of a right axis which part of a left one it is.
        sure: whether more than the order told the axes apart.
    """

    left: Sizes
    right: Sizes
    order: tuple[int, ...]
    sure: bool


def divided(ours: Sequence[_Axis], theirs: Sequence[_Axis]) -> Divided:
    """Which axis of one piece is which of another.

    An axis is told by what it does where the piece is used, and by what its dim is elsewhere. Axes that are
    alike in both are one axis that was divided: their indices run in the order in which they stand.

    Raises:
        NotAligned: the axes are divided in ways that do not fit each other.
    """
    for told in _TOLD:
        groups = _grouped(ours, told), _grouped(theirs, told)
        if groups[0].keys() == groups[1].keys() and all(
            math.prod(ours[n].size for n in groups[0][key])
            == math.prod(theirs[n].size for n in groups[1][key])
            for key in groups[0]
        ):
            break
    parts: tuple[Sizes, Sizes] = [[] for _ in ours], [[] for _ in theirs]
    matched: list[tuple[tuple[int, int], tuple[int, int]]] = []
    for key in groups[0]:
        left, right = groups[0][key], groups[1].get(key, [])
        for a, b, size in refined([ours[n].size for n in left], [theirs[n].size for n in right]):
            x, y = left[a], right[b]
            matched.append(((x, len(parts[0][x])), (y, len(parts[1][y]))))
            parts[0][x].append(size)
            parts[1][y].append(size)
    places = {
        key: n for n, key in enumerate((axis, k) for axis, s in enumerate(parts[0]) for k in range(len(s)))
    }
    source = {other: own for own, other in matched}
    order = tuple(places[source[axis, k]] for axis, s in enumerate(parts[1]) for k in range(len(s)))
    sure = told is not _TOLD[-1] or len(ours) <= 1 or len(theirs) <= 1
    return Divided(*parts, order, sure)


_TOLD: tuple[Callable[[_Axis], object], ...] = (
    lambda axis: (axis.role, axis.color),
    lambda axis: axis.role,
    lambda axis: axis.color,
    lambda _: 0,
)


def _grouped(axes: Sequence[_Axis], told: Callable[[_Axis], object]) -> dict[object, list[int]]:
    found: dict[object, list[int]] = {}
    for n in sorted(range(len(axes)), key=lambda n: (axes[n].place, n)):
        found.setdefault(told(axes[n]), []).append(n)
    return found


def refined(ours: Sequence[int], theirs: Sequence[int]) -> list[tuple[int, int, int]]:
    """Two ways to divide one axis, the slowest first, as one: whose part is whose, and of what size."""
    left, right = list(ours), list(theirs)
    a = b = 0
    found: list[tuple[int, int, int]] = []
    while a < len(left) and b < len(right):
        small, large = sorted((left[a], right[b]))
        if large % small:  # as 2 x 3 and 3 x 2: they are not divided alike
            raise NotAligned(f"{ours} and {theirs}")
        found.append((a, b, small))
        left[a] //= small
        right[b] //= small
        a += left[a] == 1
        b += right[b] == 1
    return found


class Axes:
    """What tells the axes of a side's pieces apart."""

    def __init__(self, side: Side, number: dict[int, int], colors: Colors) -> None:
        self.side = side
        self.graph = side.graph
        self.number = number
        self._numbers = colors
        self._colors: dict[tuple[Dim, str], int] = {}
        # For each node of a leaf, by how far apart in it neighbours along an axis are: node, role, place in
        # use.
        self._roles: dict[int, dict[int, list[tuple[int | None, str, int]]]] = {}
        self._kinds: dict[int, str] = {}
        for use in self.graph.uses:
            self._note(*use)

    def _note(self, op: Op, node: int, slot: int, operand: Array, offsets: Offsets) -> None:
        """What each axis of a leaf's piece does where the piece meets something."""
        leaf, _ = self.graph.at(operand, offsets)
        leaf = self.graph.copies.get((leaf, node), leaf)
        if self.graph.nodes[leaf].kind != "leaf":
            return
        roles = self._roles.setdefault(leaf, {})
        if op.name in ("dot", "conv", "lookup"):
            self._kinds.setdefault(leaf, "table" if op.name == "lookup" else "weight")
        for place, (axis, far) in enumerate(self._steps(operand, offsets)):
            if far:
                role = _role(op, slot, axis)
                told = self.number.get(node) if role else None, role, place
                roles.setdefault(abs(far), []).append(told)

    def _steps(self, array: Array, offsets: Sequence[int]) -> list[tuple[int, int]]:
        """For each dim that a piece runs over which axis it is of, and how far neighbours along it are."""
        storage = self.graph.storage
        parts = self.graph.pieces.along(array, offsets)
        known = storage.affine(array)
        out: list[tuple[int, int]] = []
        for axis, segment in enumerate(parts):
            for step in segment.steps:
                if known is not None:
                    out.append((axis, step * known[1][axis]))
                    continue
                index = [np.array([s.start, s.start]) for s in parts]
                index[axis] = index[axis] + np.array([0, step])
                first, second = storage.address(array, index)
                out.append((axis, int(second - first)))
        return out

    def of(self, n: int) -> list[_Axis]:
        """The axes of a piece: of a leaf as it is used, of an input or an output."""
        info = self.graph.nodes[n].info
        array, at = info["array"], info["at"]
        atoms = [atom for segment in self.graph.pieces.along(array, at) for atom in segment.atoms]
        if self.graph.nodes[n].kind != "leaf":
            return [_Axis(atom.size, (), self.color(atom), 0) for atom in atoms]
        roles = self._roles.get(n, {})
        found: list[_Axis] = []
        for atom, (_, far) in zip(atoms, self._steps(array, at), strict=True):
            told = roles.get(abs(far), [])
            role = tuple(sorted({use[:2] for use in told if use[1]}, key=repr))
            found.append(_Axis(atom.size, role, self.color(atom), told[0][2] if told else 0))
        return found

    def color(self, atom: Dim, without: str = "") -> int:
        """What a dim is elsewhere: at which matched nodes, in which role (one kind of role left out).

        A number that the two sides share. Cost: that of the dim's events, once.
        """
        known = self._colors.get((atom, without))
        if known is None:
            events = self.graph.events.get(atom, [])
            told = {(self.number[n], role) for n, role in events if n in self.number and role != without}
            known = self._numbers[tuple(sorted(told)), self._given.get(atom)]
            self._colors[atom, without] = known
        return known

    @cached_property
    def elsewhere(self) -> set[int]:
        """The colours of all dims, whatever is summed over."""
        return {self.color(atom, "summed over") for atom in {*self.graph.events, *self._given}}

    @cached_property
    def _given(self) -> dict[Dim, object]:
        """For dims of the inputs what is known whatever the layout: how the axis is divided they are of."""
        found: dict[Dim, object] = {}
        for number, array in enumerate(self.graph.program.inputs):
            for dim in array.dims:
                for segment in self.graph.pieces.segments(dim).values():
                    sizes = tuple(atom.size for atom in segment.atoms)
                    found.update((atom, (number, place, sizes)) for place, atom in enumerate(segment.atoms))
        return found

    def role(self, n: int) -> str:
        """What a leaf does."""
        if n in self._kinds:
            return self._kinds[n]
        functions = self.graph.functions
        for _, taker, done in self.side.takers[n]:
            kind = self.graph.nodes[taker].kind
            if kind == "sum":
                affine = functions.affine(done)
                return "mean" if affine is not None and affine[0] < 0 else "shift"
            if kind == "product":
                return "variance" if functions.names(done) & {"rsqrt", "sqrt"} else "scale"
            if kind in ("dot", "conv"):
                return "weight"
            if kind == "loop":
                return "state"
        return ""


def _role(op: Op, slot: int, axis: int) -> str:
    if op.name in ("apply", "reduce"):
        return ""
    if op.name == "dot":
        for name in ("contract", "batch"):
            if axis in op.info[name][slot]:
                return name
        return "kept"
    if op.name == "conv":
        out, inner, window = op.info["kernel"]
        return "kept" if axis == out else "contract" if axis == inner else f"window {window.index(axis)}"
    return "kept" if axis in op.info["taken"].values() else "row"
