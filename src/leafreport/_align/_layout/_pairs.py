"""The pairs of parts of leaves that matched nodes come to, and those of inputs and outputs."""

import math
from collections.abc import Iterable
from contextlib import suppress

from leafreport._align._layout._axes import Axes, Sizes, divided
from leafreport._align._layout._merging import merged, whole_leaves
from leafreport._align._layout._overlaps import apart
from leafreport._align._layout._pair import Pair, Pairs, Piece
from leafreport._align._layout._storing import pieces, sayable, stored
from leafreport._align._match._graph import Graph
from leafreport._align._match._match import Match, Sides
from leafreport._align._trace._dims import NotAligned
from leafreport._align._trace._views import strides


def pairs(
    sides: Sides, found: Match, axes: tuple[Axes, Axes], moves: dict[int, tuple[float, float]]
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
    rivals_of: dict[int, tuple[Piece, ...]] = {}  # nodes that are tied have one list of them
    for a, b in found.nodes.items():
        if left.nodes[a].kind in sides[0].exact:  # how these are divided holds for all
            with suppress(NotAligned):
                divided(axes[0].of(a), axes[1].of(b), axes[0].divisions)
    for a, b in sorted(found.nodes.items(), key=lambda item: sides[0].rank[item[0]]):
        if left.nodes[a].kind != "leaf" or right.nodes[b].kind != "leaf":
            continue
        try:
            paired = divided(axes[0].of(a), axes[1].of(b), axes[0].divisions)
        except NotAligned:
            unsaid.append((a, b))
            continue
        tied = found.rivals.get(a, ())
        if id(tied) not in rivals_of:
            rivals_of[id(tied)] = tuple(one for r in tied for one in pieces(right, r)[:1])
        rivals = rivals_of[id(tied)]
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
        made = stored((left, right), (a, b), paired, like)
        if made is None:
            unsaid.append((a, b))
        else:
            rows += made
    shapes = (
        [array.shape for array in left.program.leaves],
        [array.shape for array in right.program.leaves],
    )
    kept, left_again, right_again = (merged(_in_order(own), shapes) for own in apart(rows, shapes))
    return Pairs(whole_leaves(kept, shapes), left_again, right_again, unsaid)


def around(sides: Sides, found: Match, axes: tuple[Axes, Axes], kind: str) -> list[Pair]:
    """The pairs of parts of inputs, or of outputs."""
    left, right = (side.graph for side in sides)
    out: list[Pair] = []
    for a, b in found.nodes.items():
        if left.nodes[a].kind != kind or right.nodes[b].kind != kind:
            continue
        try:
            paired = divided(axes[0].of(a), axes[1].of(b), axes[0].divisions)
        except NotAligned:
            continue
        one, other = (
            _refined_piece(_plain_piece(graph, n), sizes)
            for graph, n, sizes in ((left, a, paired.left), (right, b, paired.right))
        )
        out.append(Pair(one, other, paired.order, found.basis[a], "", sure=paired.sure))
    arrays = "inputs" if kind == "input" else "outputs"
    shapes = tuple([array.shape for array in getattr(g.program, arrays)] for g in (left, right))
    joined = merged(_in_order(out), (shapes[0], shapes[1]))
    return [
        pair
        for pair in joined
        if sayable(shapes[0][pair.left.array], pair.left) and sayable(shapes[1][pair.right.array], pair.right)
    ]


_NONE = Piece(0, 0, (), ())


def _in_order(rows: Iterable[Pair]) -> list[Pair]:
    return sorted(rows, key=lambda pair: (pair.left.array, pair.left.start))


def _plain_piece(graph: Graph, n: int) -> Piece:
    """Where a piece of an input or an output lies."""
    info = graph.nodes[n].info
    own = strides(info["array"].shape)
    starts, dims = graph.lying(info["array"], info["at"])
    sizes = [size for axis in dims for size, _ in axis]
    steps = [step * stride for stride, axis in zip(own, dims, strict=True) for _, step in axis]
    start = sum(a * s for a, s in zip(starts, own, strict=True))
    return Piece(info["number"], start, tuple(sizes), tuple(steps))


def _refined_piece(whole: Piece, parts: Sizes) -> Piece:
    """A piece whose axes are divided into parts."""
    sizes: list[int] = []
    steps: list[int] = []
    for stride, own in zip(whole.strides, parts, strict=True):
        for k, size in enumerate(own):
            sizes.append(size)
            steps.append(stride * math.prod(own[k + 1 :]))
    return Piece(whole.array, whole.start, tuple(sizes), tuple(steps))
