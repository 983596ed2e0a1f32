"""How the pieces of matched nodes lie in their leaves, and which axis of one is which of the other."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from leafreport._align._dims import Dim, NotAligned
from leafreport._align._graph import Graph
from leafreport._align._match import Colors, Match, Side, Sides
from leafreport._align._parts import Move, part, simplified
from leafreport._align._pieces import Offsets
from leafreport._align._program import Array, Op
from leafreport._align._records import Basis
from leafreport._align._storage import Addresses, Box, boxes, turned
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
        basis: what told them apart.
        role: what the leaf does: `weight`, `table`, `shift`, `scale`, ...
        flip: axes of the left piece whose indices run backwards on the right.
        rivals: right pieces that would do as well.
        sure: whether the order of the axes is determined.
        move: factor and summand that make a left value the right one.
        turns: how the whole left leaf becomes the whole right one, where that is no single turn of axes.
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
    turns: tuple[Move, ...] = ()

    def moved(self) -> Move:
        """How the left part becomes the right one."""
        if self.turns:
            found: Move | None = None
            for turn in reversed(self.turns):
                found = replace(turn, then=found)
            if found is not None:
                return replace(found, scale=self.move[0], offset=self.move[1])
        return simplified(Move(self.left.sizes, self.order, self.flip, *self.move))


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of pieces, and the matched nodes between which no layout was found.

    Attributes:
        rows: the pairs, in the order of the left pieces.
        unsaid: left and right nodes.
    """

    rows: list[Pair]
    unsaid: list[tuple[int, int]] = field(default_factory=list)


def pairs(
    sides: Sides, found: Match, axes: "tuple[Axes, Axes]", moves: dict[int, tuple[float, float]]
) -> Pairs:
    """The pairs of parts of leaves.

    Args:
        sides: the graphs.
        found: which node is which.
        axes: what tells their axes apart.
        moves: factor and summand for left leaves whose values are others on the right.
    """
    left, right = (side.graph for side in sides)
    rows: list[Pair] = []
    unsaid: list[tuple[int, int]] = []
    for a, b in found.nodes.items():
        if left.nodes[a].kind != "leaf" or right.nodes[b].kind != "leaf":
            continue
        try:
            paired = _paired(axes[0].of(a), axes[1].of(b))
        except NotAligned:
            unsaid.append((a, b))
            continue
        rivals = tuple(one for r in found.rivals.get(a, ()) for one in pieces(right, r)[:1])
        like = Pair(
            _NONE,
            _NONE,
            (),
            found.basis[a],
            axes[0].role(a),
            (),
            rivals,
            paired.sure,
            moves.get(a, (1.0, 0.0)),
        )
        made = _stored((left, right), (a, b), paired, like)
        if made is None:
            unsaid.append((a, b))
        else:
            rows += made
    shapes = tuple([array.shape for array in g.program.leaves] for g in (left, right))
    merged = _merged(_in_order(_once(rows)), (shapes[0], shapes[1]))
    return Pairs(_whole_leaves(merged, (shapes[0], shapes[1])), unsaid)


def around(sides: Sides, found: Match, axes: "tuple[Axes, Axes]", kind: str) -> list[Pair]:
    """The pairs of parts of inputs, or of outputs."""
    left, right = (side.graph for side in sides)
    out: list[Pair] = []
    for a, b in found.nodes.items():
        if left.nodes[a].kind != kind or right.nodes[b].kind != kind:
            continue
        try:
            paired = _paired(axes[0].of(a), axes[1].of(b))
        except NotAligned:
            continue
        one, other = (
            _refined_piece(_plain_piece(graph, n), sizes)
            for graph, n, sizes in ((left, a, paired.left), (right, b, paired.right))
        )
        out.append(Pair(one, other, paired.order, found.basis[a], "", sure=paired.sure))
    arrays = "inputs" if kind == "input" else "outputs"
    shapes = tuple([array.shape for array in getattr(g.program, arrays)] for g in (left, right))
    return _merged(_in_order(out), (shapes[0], shapes[1]))


def pieces(graph: Graph, n: int) -> list[Piece]:
    """Where a leaf's node lies: pieces that can be said; none where it lies in no few boxes."""
    out: list[Piece] = []
    todo = list(graph.boxes(n) or ())
    while todo:
        box = todo.pop()
        one = _piece_of(graph, box, 0)
        if _said(graph, one):
            out.append(one)
        else:
            todo += _halves(box)
    return sorted(out, key=lambda one: (one.array, one.start))


def _piece_of(graph: Graph, box: Box, which: int) -> Piece:
    """A box as a piece of the leaf it lies in."""
    number, start = graph.storage.leaf(box.starts[which])
    axes = [(size, step[which]) for size, step in zip(box.sizes, box.steps, strict=True) if size > 1]
    start += sum(step * (size - 1) for size, step in axes if step < 0)
    axes.sort(key=lambda axis: -abs(axis[1]))
    return Piece(number, start, tuple(size for size, _ in axes), tuple(abs(step) for _, step in axes))


_NONE = Piece(0, 0, (), ())


def both_axes(sides: Sides, found: Match) -> "tuple[Axes, Axes]":
    """What tells the axes of both sides' pieces apart."""
    number = {n: i for i, n in enumerate(found.nodes)}
    back = {r: number[n] for n, r in found.nodes.items()}
    colors = Colors()
    return Axes(sides[0], number, colors), Axes(sides[1], back, colors)


def _in_order(rows: Iterable[Pair]) -> list[Pair]:
    return sorted(rows, key=lambda pair: (pair.left.array, pair.left.start))


def _once(rows: Sequence[Pair]) -> list[Pair]:
    """Rows without those of elements that are paired already, as those of a leaf that is used in two views."""
    return list({(pair.left, pair.right, pair.order, pair.flip): pair for pair in reversed(rows)}.values())


# --- Which axis is which ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of a used piece: its size, what it does, what its dim is elsewhere, and where it stands in use."""

    size: int
    role: object
    color: object
    place: int


_Sizes = list[list[int]]


@dataclass(frozen=True, slots=True)
class _Paired:
    """Two pieces' axes, divided alike.

    Attributes:
        left: what each left axis is divided into.
        right: what each right axis is divided into.
        order: for each part of a right axis which part of a left one it is.
        sure: whether more than the order told the axes apart.
    """

    left: _Sizes
    right: _Sizes
    order: tuple[int, ...]
    sure: bool


def _paired(ours: Sequence[_Axis], theirs: Sequence[_Axis]) -> _Paired:
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
    parts: tuple[_Sizes, _Sizes] = [[] for _ in ours], [[] for _ in theirs]
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
    return _Paired(*parts, order, sure)


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


# --- How they are stored ------------------------------------------------------------------------------------


def _stored(
    graphs: tuple[Graph, Graph], nodes: tuple[int, int], paired: _Paired, like: Pair
) -> list[Pair] | None:
    """The pairs of parts of leaves that a pair of used pieces is; None where no way to say them was found."""
    sizes = [size for own in paired.left for size in own]
    evens = [
        _even(graph, n, own) for graph, n, own in zip(graphs, nodes, (paired.left, paired.right), strict=True)
    ]
    if evens[0] is not None and evens[1] is not None:
        (start, steps), (other, theirs) = evens
        back = {own: n for n, own in enumerate(paired.order)}
        joint = tuple((steps[n], theirs[back[n]]) for n in range(len(sizes)))
        found: list[Box] | None = [Box((start, other), tuple(sizes), joint, ())]
    else:
        spaces = [
            _space(graph, n, own)
            for graph, n, own in zip(graphs, nodes, (paired.left, paired.right), strict=True)
        ]
        ours, theirs_at = spaces
        found = boxes(
            [ours, lambda index: theirs_at([index[n] for n in paired.order])],
            sizes,
            [graph.storage.owner for graph in graphs],
        )
    if found is None or len(found) > 1:
        whole = _whole(graphs, nodes, paired, like)
        if whole is not None:
            return [whole]
    if found is None:
        return None
    out: list[Pair] = []
    todo = list(found)
    while todo:
        box = todo.pop()
        pair = _pair_of(graphs, box, like)
        if all(_said(graph, one) for graph, one in zip(graphs, (pair.left, pair.right), strict=True)):
            out.append(pair)
        else:  # no slice of the leaf in any shape: in parts
            todo += _halves(box)
    return out


def _said(graph: Graph, one: Piece) -> bool:
    """Whether a piece is a part of its leaf that can be said."""
    try:
        part((), graph.program.leaves[one.array].shape, one.start, one.sizes, one.strides)
    except ValueError:
        return False
    return True


def _halves(box: Box) -> list[Box]:
    """A box in two, along its axis of the largest step."""
    wide = [n for n, size in enumerate(box.sizes) if size > 1]
    axis = max(wide, key=lambda n: max(map(abs, box.steps[n])))
    half = box.sizes[axis] // 2
    out = []
    for first, size in ((0, half), (half, box.sizes[axis] - half)):
        starts = tuple(s + first * step for s, step in zip(box.starts, box.steps[axis], strict=True))
        out.append(replace(box, starts=starts, sizes=(*box.sizes[:axis], size, *box.sizes[axis + 1 :])))
    return out


def _even(graph: Graph, n: int, sizes: _Sizes) -> tuple[int, list[int]] | None:
    """The address at which a used piece begins and the steps along its divided axes, where these are even."""
    info = graph.nodes[n].info
    known = graph.storage.affine(info["array"])
    if known is None:
        return None
    base, along = known
    starts, dims = graph.lying(info["array"], info["at"])
    jumps = [step * along[axis] for axis, own in enumerate(dims) for _, step in own]
    steps = [
        jump * math.prod(own[k + 1 :])
        for jump, own in zip(jumps, sizes, strict=True)
        for k in range(len(own))
    ]
    return base + sum(s * a for s, a in zip(starts, along, strict=True)), steps


def _space(graph: Graph, n: int, sizes: _Sizes) -> Addresses:
    """The addresses of a used piece's elements, by indices along its divided axes."""
    info = graph.nodes[n].info
    inner = graph.storage.piece(info["array"], *graph.lying(info["array"], info["at"]))

    def addresses(index: Sequence[np.ndarray]) -> np.ndarray:
        given = iter(index)
        whole = []
        for own in sizes:
            at = np.zeros_like(index[0]) if len(index) else np.array(0)
            for size in own:
                at = at * size + next(given)
            whole.append(at)
        return inner(whole)

    return addresses


def _pair_of(graphs: tuple[Graph, Graph], box: Box, like: Pair) -> Pair:
    """A box that lies evenly in both sides' leaves as a pair."""
    kept = [n for n, size in enumerate(box.sizes) if size > 1]
    orders = [sorted(kept, key=lambda n, w=which: -abs(box.steps[n][w])) for which in (0, 1)]  # type: ignore[misc]
    place = {n: k for k, n in enumerate(orders[0])}
    return replace(
        like,
        left=_piece_of(graphs[0], box, 0),
        right=_piece_of(graphs[1], box, 1),
        order=tuple(place[n] for n in orders[1]),
        flip=tuple(sorted(place[n] for n in kept if box.steps[n][0] * box.steps[n][1] < 0)),
    )


def _whole(graphs: tuple[Graph, Graph], nodes: tuple[int, int], paired: _Paired, like: Pair) -> Pair | None:
    """A pair of whole leaves, one of which is turned into the other by a turn of axes, or by few; None for others."""
    sizes = [size for own in paired.left for size in own]
    count = math.prod(sizes)
    chains: list[list[np.ndarray]] = []
    both: list[Piece] = []
    for graph, n in zip(graphs, nodes, strict=True):
        info = graph.nodes[n].info
        if len(info["leaves"]) != 1 or math.prod(info["array"].shape) != count or count > _MOST_TURNED:
            return None
        chain = graph.storage.chain(info["array"])
        if chain is None:
            return None
        chains.append(chain)
        shape = graph.program.leaves[info["leaves"][0]].shape
        both.append(Piece(info["leaves"][0], 0, shape, tuple(strides(shape))))
    used = np.arange(count).reshape(sizes).transpose(paired.order).reshape(-1)
    back = [np.argsort(step) for step in reversed(chains[1])]
    turns: list[Move] = []
    at: np.ndarray | None = None
    for step in [*chains[0], used, *back]:
        joined = step if at is None else at[step]
        if turned(joined) is None and at is not None:  # one more turn
            turns.append(Move(*(turned(at) or ((count,), (0,)))))
            joined = step
        if turned(joined) is None:
            return None
        at = joined
    assert at is not None
    turns.append(Move(*(turned(at) or ((count,), (0,)))))
    kept = tuple(turn for turn in map(simplified, turns) if len(turn.order) > 1 or turn.flip)
    return replace(like, left=both[0], right=both[1], turns=kept or (Move((count,), (0,)),))


# Leaves of more elements than this are not looked at element by element.
_MOST_TURNED = 1 << 22


def _plain_piece(graph: Graph, n: int) -> Piece:
    """Where a piece of an input or an output lies."""
    info = graph.nodes[n].info
    own = strides(info["array"].shape)
    starts, dims = graph.lying(info["array"], info["at"])
    sizes = [size for axis in dims for size, _ in axis]
    steps = [step * stride for stride, axis in zip(own, dims, strict=True) for _, step in axis]
    start = sum(a * s for a, s in zip(starts, own, strict=True))
    return Piece(info["number"], start, tuple(sizes), tuple(steps))


def _refined_piece(whole: Piece, parts: _Sizes) -> Piece:
    """A piece whose axes are divided into parts."""
    sizes: list[int] = []
    steps: list[int] = []
    for stride, own in zip(whole.strides, parts, strict=True):
        for k, size in enumerate(own):
            sizes.append(size)
            steps.append(stride * math.prod(own[k + 1 :]))
    return Piece(whole.array, whole.start, tuple(sizes), tuple(steps))


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


def _whole_leaves(rows: Sequence[Pair], shapes: _Shapes) -> list[Pair]:
    """Rows of all that two leaves have in use, as rows of the whole leaves, where the rest lies alike in
    both.

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


def _widened(pair: Pair, shapes: _Shapes) -> Pair | None:
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
