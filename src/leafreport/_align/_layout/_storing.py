"""How matched pieces lie in their leaves: a pair of used pieces as pairs of parts of leaves."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from leafreport._align._layout._axes import Divided, Sizes
from leafreport._align._layout._pair import Pair, Piece
from leafreport._align._match._graph import Graph
from leafreport._align._parts import Move, part, simplified
from leafreport._align._trace._boxes import Addresses, Box, boxes, turned
from leafreport._align._trace._views import strides


def pieces(graph: Graph, n: int) -> list[Piece]:
    """Where a leaf's node lies: pieces that can be said; none where it lies in no few boxes."""
    out: list[Piece] = []
    todo = list(graph.boxes(n) or ())
    while todo:
        box = todo.pop()
        one = _piece_of(graph, box, 0)
        if sayable(graph.program.leaves[one.array].shape, one):
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


def stored(
    graphs: tuple[Graph, Graph], nodes: tuple[int, int], paired: Divided, like: Pair
) -> list[Pair] | None:
    """The pairs of parts of leaves that a pair of used pieces is; None where no way to say them was found."""
    sizes = [size for own in paired.left for size in own]
    if 0 in sizes:
        return _empty(graphs, nodes, like)
    ours = _even(graphs[0], nodes[0], paired.left)
    others = _even(graphs[1], nodes[1], paired.right)
    if ours is not None and others is not None:
        (start, steps), (other, theirs) = ours, others
        back = {own: n for n, own in enumerate(paired.order)}
        joint = tuple((steps[n], theirs[back[n]]) for n in range(len(sizes)))
        found: list[Box] | None = [Box((start, other), tuple(sizes), joint, ())]
    else:
        here = _space(graphs[0], nodes[0], paired.left)
        there = _space(graphs[1], nodes[1], paired.right)
        found = boxes(
            [here, lambda index: there([index[n] for n in paired.order])],
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
        both = zip(graphs, (pair.left, pair.right), strict=True)
        if all(sayable(graph.program.leaves[one.array].shape, one) for graph, one in both):
            out.append(pair)
        else:  # no slice of the leaf in any shape: in parts
            todo += _halves(box)
    return out


def _empty(graphs: tuple[Graph, Graph], nodes: tuple[int, int], like: Pair) -> list[Pair] | None:
    """The pair of leaves without elements, whatever their axes."""
    both: list[Piece] = []
    for graph, n in zip(graphs, nodes, strict=True):
        for number in graph.nodes[n].info["leaves"]:
            shape = graph.program.leaves[number].shape
            both.append(Piece(number, 0, shape, tuple(strides(shape))))
    if len(both) != 2:
        return None
    return [replace(like, left=both[0], right=both[1], turns=(Move((0,), (0,)),))]


def sayable(shape: Sequence[int], one: Piece) -> bool:
    """Whether a piece is a part of an array of a shape that can be said."""
    try:
        part((), shape, one.start, one.sizes, one.strides)
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


def _even(graph: Graph, n: int, sizes: Sizes) -> tuple[int, list[int]] | None:
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


def _space(graph: Graph, n: int, sizes: Sizes) -> Addresses:
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


def _whole(graphs: tuple[Graph, Graph], nodes: tuple[int, int], paired: Divided, like: Pair) -> Pair | None:
    """A pair of whole leaves, one of which becomes the other by few turns of axes; None for others."""
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
    at = np.arange(count)
    for step in [*chains[0], used, *back]:
        joined = at[step]
        if turned(joined) is None:  # one more turn
            turns.append(Move(*(turned(at) or ((count,), (0,)))))
            joined = step
        if turned(joined) is None:
            return None
        at = joined
    turns.append(Move(*(turned(at) or ((count,), (0,)))))
    kept = tuple(turn for turn in map(simplified, turns) if len(turn.order) > 1 or turn.flip)
    return replace(like, left=both[0], right=both[1], turns=kept or (Move((count,), (0,)),))


# Leaves of more elements than this are not looked at element by element.
_MOST_TURNED = 1 << 22
