"""How the pieces of matched nodes lie in their arrays, and which axis of one is which of the other."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from leafreport._align._dims import Dim, NotAligned
from leafreport._align._graph import Graph
from leafreport._align._match import Match, Side, Sides
from leafreport._align._parts import part
from leafreport._align._pieces import Offsets
from leafreport._align._program import Array, Op
from leafreport._align._records import Basis
from leafreport._align._views import strides


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an array: a box along axes that the array's axes may be made of.

    Attributes:
        array: the array's number: of a leaf in flatten order, of an input or an output in its own.
        start: where it begins in the flattened array.
        sizes: its axes, those of one index left out, in the array's order.
        strides: how far apart neighbours along each axis are in the flattened array.
    """

    array: int
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
        flip: axes of the left piece whose indices run backwards on the right.
        basis: what told them apart.
        role: what the leaf does: `weight`, `table`, `shift`, `scale`, ...
        rivals: right pieces that would do as well.
        sure: whether the order of the axes is determined.
        move: factor and summand that make a left value the right one.
    """

    left: Piece
    right: Piece
    order: tuple[int, ...]
    basis: Basis
    role: str
    flip: tuple[int, ...] = ()
    rivals: tuple[Piece, ...] = ()
    sure: bool = True
    move: tuple[float, float] = (1.0, 0.0)


def pairs(
    sides: Sides, found: Match, kind: str = "leaf", moves: dict[int, tuple[float, float]] | None = None
) -> list[Pair]:
    """The pairs of pieces of leaves, of inputs or of outputs, in the order of the left ones.

    Args:
        sides: the graphs.
        found: which node is which.
        kind: `leaf`, `input` or `output`.
        moves: factor and summand for left leaves whose values are others on the right.
    """
    left, right = (side.graph for side in sides)
    number = {n: i for i, n in enumerate(found.nodes)}
    back = {r: number[n] for n, r in found.nodes.items()}
    axes = Axes(sides[0], number), Axes(sides[1], back)
    out: list[Pair] = []
    for a, b in found.nodes.items():
        if left.nodes[a].kind != kind or right.nodes[b].kind != kind:
            continue
        try:
            one, other, order, flip, sure = _paired(axes[0].of(a), axes[1].of(b))
        except NotAligned:
            continue
        out.append(
            Pair(
                _divided(piece(left, a), one),
                _divided(piece(right, b), other),
                order,
                found.basis[a],
                axes[0].role(a),
                flip,
                tuple(piece(right, r) for r in found.rivals.get(a, ())),
                sure,
                (moves or {}).get(a, (1.0, 0.0)),
            )
        )
    shapes = tuple([array.shape for array in getattr(g.program, _ARRAYS[kind])] for g in (left, right))
    if kind == "leaf":
        out += _unread(sides, out)
    return _merged(sorted(out, key=lambda pair: (pair.left.array, pair.left.start)), (shapes[0], shapes[1]))


def _unread(sides: Sides, known: Sequence[Pair]) -> list[Pair]:
    """Parts of leaves that no result depends on and that go with the rest of their leaf, as later positions.

    Two leaves of which every other part is paired with one of the other: their parts that are left are paired
    where they lie alike.
    """
    partners: dict[int, set[int]] = {}
    back: dict[int, set[int]] = {}
    example: dict[int, Pair] = {}
    for pair in known:
        partners.setdefault(pair.left.array, set()).add(pair.right.array)
        back.setdefault(pair.right.array, set()).add(pair.left.array)
        example[pair.left.array] = pair
    rest: tuple[dict[int, list[Piece]], dict[int, list[Piece]]] = ({}, {})
    for side, found in zip(sides, rest, strict=True):
        for number, nodes in side.siblings.items():
            pieces = [piece(side.graph, n) for n in nodes if not side.used[n]]
            if pieces and len(pieces) < len(nodes):
                found[number] = sorted(pieces, key=lambda one: one.start)
    out: list[Pair] = []
    for number, ours in rest[0].items():
        others = partners.get(number, set())
        if len(others) != 1 or back[next(iter(others))] != {number}:
            continue
        theirs = rest[1].get(next(iter(others)), [])
        pair = example[number]
        rank = len(pair.left.sizes)
        for a, b in zip(ours, theirs, strict=False):
            if len(a.sizes) == len(b.sizes) == rank and b.sizes == tuple(a.sizes[n] for n in pair.order):
                out.append(replace(pair, left=a, right=b, rivals=()))
    return out


_ARRAYS = {"leaf": "leaves", "input": "inputs", "output": "outputs"}


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of a piece: its size, what it does, what its dim is elsewhere, and where it stands in use."""

    size: int
    role: object
    color: object
    place: int
    flipped: bool = False


_Sizes = list[list[int]]


def _paired(
    ours: Sequence[_Axis], theirs: Sequence[_Axis]
) -> tuple[_Sizes, _Sizes, tuple[int, ...], tuple[int, ...], bool]:
    """How the axes of two pieces are divided, which is which then, which run backwards, and whether that is sure.

    An axis is told by what it does where the piece is used, and by what its dim is elsewhere. Axes that are
    alike in both are one axis that was divided: their indices run in the order in which they stand.
    """
    for told in _TOLD:
        groups = _grouped(ours, told), _grouped(theirs, told)
        if groups[0].keys() == groups[1].keys() and all(
            math.prod(ours[n].size for n in groups[0][key])
            == math.prod(theirs[n].size for n in groups[1][key])
            for key in groups[0]
        ):
            break
    parts: tuple[_Sizes, _Sizes] = [[] for _ in ours], [[] for _ in theirs]
    matched: list[tuple[tuple[int, int], tuple[int, int]]] = []
    backwards: set[tuple[int, int]] = set()
    sure = told is not _TOLD[-1] or len(ours) <= 1 or len(theirs) <= 1
    for key in groups[0]:
        left, right = groups[0][key], groups[1][key]
        for a, b, size in refined([ours[n].size for n in left], [theirs[n].size for n in right]):
            x, y = left[a], right[b]
            if ours[x].flipped != theirs[y].flipped:
                backwards.add((x, len(parts[0][x])))
            matched.append(((x, len(parts[0][x])), (y, len(parts[1][y]))))
            parts[0][x].append(size)
            parts[1][y].append(size)
    places = {
        key: n for n, key in enumerate((axis, k) for axis, s in enumerate(parts[0]) for k in range(len(s)))
    }
    source = {other: own for own, other in matched}
    order = tuple(places[source[axis, k]] for axis, s in enumerate(parts[1]) for k in range(len(s)))
    return *parts, order, tuple(sorted(places[key] for key in backwards)), sure


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


def _divided(whole: Piece, parts: _Sizes) -> Piece:
    """A piece whose axes are divided into parts."""
    sizes: list[int] = []
    steps: list[int] = []
    for stride, own in zip(whole.strides, parts, strict=True):
        for k, size in enumerate(own):
            sizes.append(size)
            steps.append(stride * math.prod(own[k + 1 :]))
    return Piece(whole.array, whole.start, tuple(sizes), tuple(steps))


def piece(graph: Graph, n: int) -> Piece:
    """Where a leaf's piece lies, or that of an input or an output."""
    info = graph.nodes[n].info
    array: Array = info["array"]
    at: Offsets = info["at"]
    own = strides(array.shape)
    sizes: list[int] = []
    steps: list[int] = []
    for stride, part in zip(own, graph.pieces.along(array, at), strict=True):
        sizes += [atom.size for atom in part.atoms]
        steps += [step * stride for step in part.steps]
    start = sum(a * s for a, s in zip(at, own, strict=True))
    return Piece(info["number"], start, tuple(sizes), tuple(steps))


class Axes:
    """What tells the axes of a side's pieces apart."""

    def __init__(self, side: Side, number: dict[int, int]) -> None:
        self.side = side
        self.graph = side.graph
        self.number = number
        self._colors: dict[Dim, object] = {}
        # For each piece of a leaf, by an axis' stride: node, role, place in use, whether it runs backwards.
        self._roles: dict[int, dict[int, list[tuple[int | None, str, int, bool]]]] = {}
        self._kinds: dict[int, str] = {}
        for use in self.graph.uses:
            self._note(*use)

    def _note(self, op: Op, node: int, slot: int, operand: Array, offsets: Offsets) -> None:
        """What each axis of a leaf's piece does where the piece meets an activation."""
        graph = self.graph
        leaf, _ = graph.at(operand, offsets)
        base = graph.pieces.place(operand, offsets)
        if base is None or graph.nodes[leaf].kind != "leaf":
            return
        roles = self._roles.setdefault(leaf, {})
        self._kinds.setdefault(leaf, "table" if op.name == "lookup" else "weight")
        place = 0
        for axis, part in enumerate(graph.pieces.along(operand, offsets)):
            for step in part.steps:
                place += 1
                index = list(offsets)
                index[axis] += step
                moved = graph.pieces.place(operand, tuple(index))
                if moved is not None and (far := moved[1] - base[1]):
                    told = self.number.get(node), _role(op, slot, axis), place, far < 0
                    roles.setdefault(abs(far), []).append(told)

    def of(self, n: int) -> list[_Axis]:
        """The axes of a piece."""
        info = self.graph.nodes[n].info
        own = piece(self.graph, n)
        parts = self.graph.pieces.along(info["array"], info["at"])
        roles = self._roles.get(n, {})
        found: list[_Axis] = []
        atoms = [atom for part in parts for atom in part.atoms]
        for atom, stride in zip(atoms, own.strides, strict=True):
            told = roles.get(stride, [])
            role = tuple(sorted({use[:2] for use in told}, key=repr))
            flipped = any(use[3] for use in told)
            found.append(_Axis(atom.size, role, self._color(atom), told[0][2] if told else 0, flipped))
        return found

    def _color(self, atom: Dim) -> object:
        if atom not in self._colors:
            self._colors[atom] = self.color(atom, "")
        return self._colors[atom]

    def color(self, atom: Dim, without: str) -> object:
        """What a dim is elsewhere: at which matched nodes, in which role (one kind of role left out)."""
        events = self.graph.events.get(atom, [])
        told = {(self.number[n], role) for n, role in events if n in self.number and role != without}
        return tuple(sorted(told)), self._given.get(atom)

    @cached_property
    def elsewhere(self) -> set[object]:
        """The colours of all dims, whatever is summed over."""
        return {self.color(atom, "summed over") for atom in {*self.graph.events, *self._given}}

    @cached_property
    def _given(self) -> dict[Dim, object]:
        """For dims of the inputs what is known whatever the layout: how the axis is divided they are of."""
        found: dict[Dim, object] = {}
        for number, array in enumerate(self.graph.program.inputs):
            for dim in array.dims:
                for part in self.graph.pieces.segments(dim).values():
                    sizes = tuple(atom.size for atom in part.atoms)
                    found.update((atom, (number, place, sizes)) for place, atom in enumerate(part.atoms))
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
    if op.name == "dot":
        for name in ("contract", "batch"):
            if axis in op.info[name][slot]:
                return name
        return "kept"
    if op.name == "conv":
        out, inner, window = op.info["kernel"]
        return "kept" if axis == out else "contract" if axis == inner else f"window {window.index(axis)}"
    return "kept" if axis in op.info["taken"].values() else "row"


# --- Pieces that belong together ----------------------------------------------------------------------------


_Shapes = tuple[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]]


def _merged(rows: list[Pair], shapes: _Shapes) -> list[Pair]:
    """Pairs of pieces that follow each other evenly in both leaves, as one pair of larger pieces."""
    while True:
        groups: dict[object, list[Pair]] = {}
        for pair in rows:
            alike = replace(
                pair, left=replace(pair.left, start=0), right=replace(pair.right, start=0), rivals=()
            )
            groups.setdefault((alike, pair.rivals and pair), []).append(pair)
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


def _end_to_end(rows: Sequence[Pair], shapes: _Shapes) -> list[Pair]:
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


def _extended(first: Pair, second: Pair, shapes: _Shapes) -> Pair | None:
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


def _joined(run: Sequence[Pair], shapes: _Shapes) -> Pair | None:
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


def _adjoins(one: Piece, step: int) -> bool:
    """Whether a piece and the next one of its kind leave nothing between them."""
    ends = [size * stride for size, stride in zip(one.sizes, one.strides, strict=True)]
    return step in ends or 0 < step < min(one.strides, default=step + 1)


def alone(sides: Sides, which: int, nodes: Iterable[int]) -> list[Piece]:
    """Pieces of leaves without a partner, in the order of the leaves."""
    found = [piece(sides[which].graph, n) for n in nodes]
    return sorted(found, key=lambda one: (one.array, one.start))
