"""How the pieces of matched leaves lie in their arrays, and which axis of one is which of the other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from leafreport._align._dims import Dim, NotAligned
from leafreport._align._graph import Graph, Offsets
from leafreport._align._match import Match
from leafreport._align._program import Array, Op


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a leaf as an array of its own: a box along axes that the leaf's axes may be made of.

    Attributes:
        leaf: the leaf's number, in flatten order.
        start: where it begins in the flattened leaf.
        sizes: its axes, those of one index left out, in the leaf's order.
        strides: how far apart neighbours along each axis are in the flattened leaf.
    """

    leaf: int
    start: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A piece on the left and the piece on the right that does the same.

    Attributes:
        left: the left piece.
        right: the right piece.
        order: for each axis of the right piece, which axis of the left one it is.
        basis: what told them apart: `dataflow` or `order`.
        role: what the leaf does: `weight`, `table`, `shift`, `scale`, ...
        rivals: right leaves that would do as well.
    """

    left: Piece
    right: Piece
    order: tuple[int, ...]
    basis: str
    role: str
    rivals: tuple[int, ...] = ()


def pairs(left: Graph, right: Graph, found: Match) -> list[Pair]:
    """The pairs of pieces, in the order of the left leaves."""
    number = {n: i for i, n in enumerate(found.nodes)}
    back = {r: number[n] for n, r in found.nodes.items()}
    sides = _Axes(left, number), _Axes(right, back)
    out: list[Pair] = []
    for a, b in found.nodes.items():
        if left.nodes[a].kind != "leaf":
            continue
        one, other, order, sure = _paired(sides[0].axes(a), sides[1].axes(b))
        pieces = _divided(piece(left, a), one), _divided(piece(right, b), other)
        basis = found.basis[a]
        if not sure and basis == "dataflow":
            basis = "dataflow, axes by order"
        rivals = tuple(right.nodes[r].info["number"] for r in found.rivals.get(a, ()))
        out.append(Pair(*pieces, order, basis, sides[0].role(a), rivals))
    return sorted(out, key=lambda pair: (pair.left.leaf, pair.left.start))


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of a piece: its size, what it does, what its dim is elsewhere, and where it stands in use."""

    size: int
    role: str
    color: str
    place: int


_Sizes = list[list[int]]


def _paired(ours: Sequence[_Axis], theirs: Sequence[_Axis]) -> tuple[_Sizes, _Sizes, tuple[int, ...], bool]:
    """How the axes of two pieces are divided, which is which then, and whether order alone told none apart.

    An axis is told by what it does where the piece is used, and by what its dim is elsewhere. Axes that are
    alike in both are one axis that was divided: their indices run in the order in which they stand.
    """
    for told in (lambda axis: (axis.role, axis.color), lambda axis: axis.role, lambda _: ""):
        groups = _grouped(ours, told), _grouped(theirs, told)
        if groups[0].keys() == groups[1].keys() and all(
            math.prod(ours[n].size for n in groups[0][key])
            == math.prod(theirs[n].size for n in groups[1][key])
            for key in groups[0]
        ):
            break
    sure = told(_Axis(0, "a", "b", 0)) != ""
    parts: tuple[_Sizes, _Sizes] = [[] for _ in ours], [[] for _ in theirs]
    matched: list[tuple[tuple[int, int], tuple[int, int]]] = []
    for key in groups[0]:
        left, right = groups[0][key], groups[1][key]
        for a, b, size in _refined([ours[n].size for n in left], [theirs[n].size for n in right]):
            x, y = left[a], right[b]
            matched.append(((x, len(parts[0][x])), (y, len(parts[1][y]))))
            parts[0][x].append(size)
            parts[1][y].append(size)
        sure &= len(left) == 1 or len(right) == 1 or told(ours[left[0]]) != ""
    places = {
        key: n for n, key in enumerate((axis, k) for axis, s in enumerate(parts[0]) for k in range(len(s)))
    }
    source = {other: own for own, other in matched}
    order = tuple(places[source[axis, k]] for axis, s in enumerate(parts[1]) for k in range(len(s)))
    return *parts, order, sure


def _grouped(axes: Sequence[_Axis], told: Callable[[_Axis], object]) -> dict[object, list[int]]:
    found: dict[object, list[int]] = {}
    for n in sorted(range(len(axes)), key=lambda n: (axes[n].place, n)):
        found.setdefault(told(axes[n]), []).append(n)
    return found


def _refined(ours: Sequence[int], theirs: Sequence[int]) -> list[tuple[int, int, int]]:
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


def _divided(whole: Piece, parts: _Sizes) -> Piece:
    """A piece whose axes are divided into parts."""
    sizes: list[int] = []
    strides: list[int] = []
    for stride, own in zip(whole.strides, parts, strict=True):
        for k, size in enumerate(own):
            sizes.append(size)
            strides.append(stride * math.prod(own[k + 1 :]))
    return Piece(whole.leaf, whole.start, tuple(sizes), tuple(strides))


def piece(graph: Graph, n: int) -> Piece:
    """Where a leaf's piece lies."""
    info = graph.nodes[n].info
    array: Array = info["array"]
    at: Offsets = info["at"]
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(len(array.dims))]
    sizes: list[int] = []
    steps: list[int] = []
    for axis, atoms in enumerate(graph.atoms(array, at)):
        for atom, step in zip(atoms, graph.steps(array.dims[axis], at[axis]), strict=True):
            sizes.append(atom.size)
            steps.append(step * strides[axis])
    start = sum(a * s for a, s in zip(at, strides, strict=True))
    return Piece(info["number"], start, tuple(sizes), tuple(steps))


class _Axes:
    """What tells the axes of a side's pieces apart."""

    def __init__(self, graph: Graph, number: dict[int, int]) -> None:
        self.graph = graph
        self.number = number
        self._colors: dict[Dim, object] = {}
        self._roles: dict[int, dict[int, list[tuple[int | None, str, int]]]] = {}
        self._kinds: dict[int, str] = {}
        for op, node, slot, operand, offsets in graph.uses:
            self._note(op, node, slot, operand, offsets)

    def _note(self, op: Op, node: int, slot: int, operand: Array, offsets: Offsets) -> None:
        """What each axis of a leaf's piece does where the piece meets an activation."""
        graph = self.graph
        source = graph.locate(operand, offsets)
        if source is None:
            return
        leaf_node, base = source
        roles = self._roles.setdefault(leaf_node, {})
        self._kinds.setdefault(
            leaf_node, {"dot": "weight", "conv": "weight", "lookup": "table"}.get(op.name, "")
        )
        place = 0
        for axis in range(len(operand.dims)):
            for step in graph.steps(operand.dims[axis], offsets[axis]):
                place += 1
                index = list(offsets)
                index[axis] += step
                moved = graph.place(operand, tuple(index))
                if moved is not None:
                    role = _role(op, slot, axis)
                    roles.setdefault(moved[1] - base, []).append((self.number.get(node), role, place))

    def axes(self, n: int) -> list[_Axis]:
        """The axes of a piece."""
        graph = self.graph
        info = graph.nodes[n].info
        own = piece(graph, n)
        atoms = [atom for axis in graph.atoms(info["array"], info["at"]) for atom in axis]
        roles = self._roles.get(n, {})
        found: list[_Axis] = []
        for atom, stride in zip(atoms, own.strides, strict=True):
            told = roles.get(stride, [])
            role = repr(sorted({repr(use[:2]) for use in told}))
            found.append(_Axis(atom.size, role, repr(self._color(atom)), told[0][2] if told else 0))
        return found

    def _color(self, atom: Dim) -> object:
        if atom not in self._colors:
            events = self.graph.events.get(atom, [])
            told = {(self.number[n], role) for n, role in events if n in self.number}
            self._colors[atom] = hash(tuple(sorted(told)))
        return self._colors[atom]

    def role(self, n: int) -> str:
        """What a leaf does."""
        if n in self._kinds:
            return self._kinds[n]
        for node in self.graph.nodes:
            for _, taken, done in node.operands:
                if taken == n:
                    names = self.graph.functions.names(done)
                    if node.kind == "sum":
                        return "mean" if "neg" in names else "shift"
                    if node.kind == "product":
                        return "variance" if names & {"rsqrt", "sqrt"} else "scale"
                    return node.kind
        return ""


def _role(op: Op, slot: int, axis: int) -> str:
    if op.name == "dot":
        for name in ("contract", "batch"):
            if axis in op.info[name][slot]:
                return name
        return "kept"
    if op.name == "conv":
        out, inner, window = op.info["kernel"]
        return "kept" if axis == out else "contract" if axis == inner else f"window {window.index(axis)}"
    return "kept" if axis in op.info["taken"].values() else "row"
