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
    known = Divisions(found.whole)
    return Axes(sides[0], number, colors, known), Axes(sides[1], back, colors, known)


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of a used piece: dim, size, what it does, what its dim is elsewhere, and its place in use."""

    dim: Dim
    size: int
    role: tuple[tuple[int | None, str], ...]
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


class Divisions:
    """What axes were divided into, where one side divides an axis and the other does not, or otherwise.

    Each part of a left axis is a part of a right one, wherever the two are met again.

    Attributes:
        whole: whether the two programs are one, node by node.
    """

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        # For each side and dim its parts, the slowest first: size, and a number that both sides share.
        self._parts: tuple[dict[Dim, list[tuple[int, int]]], dict[Dim, list[tuple[int, int]]]] = ({}, {})
        self._count = 0

    def matched(
        self, ours: Sequence[_Axis], theirs: Sequence[_Axis], sure: bool
    ) -> "list[tuple[_Part, _Part, int]]":
        """The parts of axes that are together the same on both sides: which is which, and how large.

        Args:
            ours: the left axes.
            theirs: the right ones.
            sure: whether it is known that these are the same, and not taken so for want of better.

        Raises:
            NotAligned: they are divided in ways that do not fit each other.
        """
        known = [[self._parts[side].get(axis.dim) for axis in own] for side, own in enumerate((ours, theirs))]
        if all(all(parts is not None for parts in own) for own in known):
            flat = [
                {
                    number: ((n, k), size)
                    for n, parts in enumerate(own)
                    for k, (size, number) in enumerate(parts or ())
                }
                for own in known
            ]
            whole = [sum(len(parts or ()) for parts in own) for own in known]
            if flat[0].keys() == flat[1].keys() and whole == [len(own) for own in flat]:
                return [(at, flat[1][number][0], size) for number, (at, size) in flat[0].items()]
        found: list[tuple[_Part, _Part, int]] = []
        made: tuple[Sizes, Sizes] = [[] for _ in ours], [[] for _ in theirs]
        for a, b, size in refined([axis.size for axis in ours], [axis.size for axis in theirs]):
            found.append(((a, len(made[0][a])), (b, len(made[1][b])), size))
            made[0][a].append(size)
            made[1][b].append(size)
        if sure and (len(ours) > 1 or len(theirs) > 1):
            self._keep(ours, theirs, found)
        return found

    def _keep(
        self, ours: Sequence[_Axis], theirs: Sequence[_Axis], found: "Sequence[tuple[_Part, _Part, int]]"
    ) -> None:
        for side, own in enumerate((ours, theirs)):
            dims = {axis.dim for axis in own}
            if len(dims) < len(own) or not dims.isdisjoint(self._parts[side]):
                return
        for (a, _), (b, _), size in found:
            self._count += 1
            self._parts[0].setdefault(ours[a].dim, []).append((size, self._count))
            self._parts[1].setdefault(theirs[b].dim, []).append((size, self._count))


# Which of several axes, and which part of it.
_Part = tuple[int, int]


def divided(ours: Sequence[_Axis], theirs: Sequence[_Axis], known: Divisions) -> Divided:
    """Which axis of one piece is which of another.

    An axis is told by what it does where the piece is used, and by what its dim is elsewhere. Axes that are
    alike in both are one axis that was divided: their indices run in the order in which they stand.

    Args:
        ours: the axes of the left piece.
        theirs: those of the right one.
        known: how axes were divided elsewhere.

    Raises:
        NotAligned: the axes are divided in ways that do not fit each other.
    """
    for told in _TOLD:
        groups = _grouped(ours, told), _grouped(theirs, told)
        several = [key for key, own in groups[0].items() if min(len(own), len(groups[1].get(key, ()))) > 1]
        # Of axes that are alike in one of the two, the other could tell which is which: it does not fit here.
        if not known.whole and ((told in _TOLD[1:3] and () in several) or (told is _TOLD[3] and several)):
            continue
        if groups[0].keys() == groups[1].keys() and all(
            math.prod(ours[n].size for n in groups[0][key])
            == math.prod(theirs[n].size for n in groups[1][key])
            for key in groups[0]
        ):
            break
    if told is _TOLD[-1] and all(axis.role for axis in (*ours, *theirs)):
        raise NotAligned("what is contracted or kept here is of another size there")
    parts: tuple[list[list[tuple[_Part, int]]], ...] = [[] for _ in ours], [[] for _ in theirs]
    matched: list[tuple[tuple[int, int], tuple[int, int]]] = []
    for key in groups[0]:
        left, right = groups[0][key], groups[1].get(key, [])
        found = known.matched([ours[n] for n in left], [theirs[n] for n in right], told is not _TOLD[-1])
        for (a, j), (b, k), size in found:
            x, y = left[a], right[b]
            matched.append(((x, j), (y, k)))
            parts[0][x].append(((x, j), size))
            parts[1][y].append(((y, k), size))
    sizes = [[[size for _, size in sorted(own)] for own in side] for side in parts]
    places = {
        key: n for n, key in enumerate((axis, k) for axis, s in enumerate(sizes[0]) for k in range(len(s)))
    }
    source = {other: own for own, other in matched}
    order = tuple(places[source[axis, k]] for axis, s in enumerate(sizes[1]) for k in range(len(s)))
    sure = told is not _TOLD[-1] or len(ours) <= 1 or len(theirs) <= 1
    return Divided(sizes[0], sizes[1], order, sure)


_TOLD: tuple[Callable[[_Axis], object], ...] = (
    lambda axis: (axis.role, axis.color),
    lambda axis: axis.role,
    lambda axis: tuple(sorted({name for _, name in axis.role})),  # whatever it meets
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
        if small and large % small:  # as 2 x 3 and 3 x 2: they are not divided alike
            raise NotAligned(f"{ours} and {theirs}")
        found.append((a, b, small))
        left[a], right[b] = (size // small if small else 1 for size in (left[a], right[b]))
        a += left[a] == 1
        b += right[b] == 1
    return found


class Axes:
    """What tells the axes of a side's pieces apart."""

    def __init__(self, side: Side, number: dict[int, int], colors: Colors, divisions: Divisions) -> None:
        self.side = side
        self.divisions = divisions
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
            return [_Axis(atom, atom.size, (), self.color(atom), 0) for atom in atoms]
        roles = self._roles.get(n, {})
        found: list[_Axis] = []
        for atom, (_, far) in zip(atoms, self._steps(array, at), strict=True):
            told = roles.get(abs(far), [])
            role = tuple(sorted({use[:2] for use in told if use[1]}, key=repr))
            found.append(_Axis(atom, atom.size, role, self.color(atom), told[0][2] if told else 0))
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
