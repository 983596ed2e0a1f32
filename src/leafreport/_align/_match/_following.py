"""Rules for a program's operations: which nodes the pieces of a result are, and what axes do there."""

import math
from collections.abc import Callable, Sequence
from itertools import product as combinations
from typing import TYPE_CHECKING

from leafreport._align._match._functions import REDUCTIONS
from leafreport._align._match._meeting import applied
from leafreport._align._match._nodes import NO_SETTINGS, NOTHING, Ref, Term, by_node
from leafreport._align._match._pieces import Offsets, Segment
from leafreport._align._match._sums import sum_of
from leafreport._align._trace._dims import Dim
from leafreport._align._trace._program import Array, Op, lean
from leafreport._align._trace._views import before

if TYPE_CHECKING:
    from leafreport._align._match._graph import Graph


def _view(graph: "Graph", op: Op) -> dict[Offsets, Ref]:
    return {at: graph.at(*before(op, at)) for at in graph.pieces.boxes(op.output)}


def _dot(graph: "Graph", op: Op) -> dict[Offsets, Ref]:
    a, b = op.inputs
    (ca, cb), (ba, bb), (fa, fb) = op.info["contract"], op.info["batch"], op.info["free"]
    if a.constant != b.constant and not (fa if a.constant else fb):
        return _weighted(graph, op)
    summed = list(combinations(*(graph.pieces.segments(a.dims[n]) for n in ca)))
    ended = op.info.get("ended", {})
    last = sorted(op.info.get("last", {}).items(), key=lambda item: item[1])
    labels = ["ends" if side in ended else "" for side in (0, 1)]
    if len(ended) == 2:
        labels = ["ends" if "dot" in ended[side] else "sums" for side in (0, 1)]
    if len(last) == 2 and not ended:  # both are axes of a result: which one comes first
        labels[last[1][0]] = "last"
    made: dict[Offsets, Ref] = {}
    for at in graph.pieces.boxes(op.output):
        batch, rest = at[: len(ba)], at[len(ba) :]
        terms: list[Term] = []
        for along in summed:
            left, right = [0] * len(a.dims), [0] * len(b.dims)
            for axes, values, place in (
                (ca, along, left),
                (cb, along, right),
                (ba, batch, left),
                (bb, batch, right),
                (fa, rest[: len(fa)], left),
                (fb, rest[len(fa) :], right),
            ):
                for axis, value in zip(axes, values, strict=True):
                    place[axis] = value
            x, y = graph.at(a, tuple(left)), graph.at(b, tuple(right))
            own, others = graph.pieces.along(a, left), graph.pieces.along(b, right)
            if any(own[axis].atoms for axis in ca):
                node, done = _product(graph, "dot", x, y, labels, op)
            else:  # nothing is summed up
                node, done = _product(graph, "product", x, y, ["", ""], op)
            for slot, array, offsets in ((0, a, left), (1, b, right)):
                if array.leafy:
                    graph.uses.append((op, node, slot, array, tuple(offsets)))
                _meet_factor(graph, node, array, offsets)
            if graph.nodes[node].kind == "dot":
                _dot_events(graph, op, node, (x[0], y[0]), (own, others))
            terms.append(("", node, done))
        made[at] = sum_of(graph, terms)
    return made


def _meet_factor(graph: "Graph", node: int, array: Array, offsets: Sequence[int]) -> None:
    """Notes that a product has a constant, and along which axes that runs."""
    if array.constant and array.known is not None:
        values, axes = graph.pieces.oriented(array, offsets, lean(array.known))
        graph.meet(node, graph.functions.constants.ident(values), array, values, axes)


def _dot_events(
    graph: "Graph",
    op: Op,
    node: int,
    operands: tuple[int, int],
    parts: tuple[Sequence[Segment], Sequence[Segment]],
) -> None:
    """Notes what axes do in a product: of one that an operand only repeats along, what it is to the other."""
    repeats = [graph.repeated(array) for array in op.inputs]
    kept = [f"kept by {graph.nodes[n].kind}" for n in operands]
    for axis in op.info["contract"][0]:
        graph.event(parts[0][axis].atoms, node, "contracted")
    for axis in op.info["batch"][0]:
        for atom in parts[0][axis].atoms:
            match atom in repeats[0], atom in repeats[1]:
                case False, False:
                    graph.event([atom], node, "batch")
                case here, there if here != there:
                    graph.event([atom], node, kept[here])
    for side, axes in enumerate(op.info["free"]):
        for axis in axes:
            own = (atom for atom in parts[side][axis].atoms if atom not in repeats[side])
            graph.event(own, node, kept[side])


def _weighted(graph: "Graph", op: Op) -> dict[Offsets, Ref]:
    """A product with a constant that has no axis of its own: each number times its own, and summed up."""
    slot = 0 if op.inputs[1].constant else 1
    array, weights = op.inputs[slot], op.inputs[1 - slot]
    (own, its), (batch, its_batch) = (
        (op.info[key][slot], op.info[key][1 - slot]) for key in ("contract", "batch")
    )
    free = op.info["free"][slot]
    made: dict[Offsets, Ref] = {}
    for at in graph.pieces.boxes(op.output):
        terms: list[Term] = []
        for along in combinations(*(graph.pieces.segments(array.dims[n]) for n in own)):
            here, there = [0] * len(array.dims), [0] * len(weights.dims)
            for axes, others, values in (
                (own, its, along),
                (batch, its_batch, at[: len(batch)]),
                (free, (), at[len(batch) :]),
            ):
                for n, value in enumerate(values):
                    here[axes[n]] = value
                    if others:
                        there[others[n]] = value
            node, done = graph.at(array, tuple(here))
            kind, told = graph.fixed(weights, graph.pieces.near(weights, there))
            if kind == "k":
                told = told[0], graph.pieces.atoms([array.dims[n] for n in (*own, *batch)])
            done = graph.functions.made("mul", [("e", done), (kind, told)])
            parts = graph.pieces.along(array, here)
            atoms = [atom for axis in own for atom in parts[axis].atoms]
            graph.event(atoms, node, "summed over")
            terms.append(("", node, _over_atoms(graph, "reduce_sum", done, atoms)))
        made[at] = sum_of(graph, terms)
    return made


def _product(graph: "Graph", kind: str, x: Ref, y: Ref, labels: Sequence[str], op: Op) -> Ref:
    """A node of two factors. A known number that one of them is multiplied by multiplies the result."""
    terms: list[Term] = []
    total = 1.0
    scaled: dict[int, float] = {}
    for (node, done), label in zip((x, y), labels, strict=True):
        inner, factor = graph.functions.unscaled(done)
        total *= factor
        if graph.nodes[node].kind == "leaf" and factor != 1.0:
            scaled[node] = factor
        terms.append((label, node, inner))
    made = graph.node(kind, sorted(terms, key=by_node), op=tuple(op.info.get(key) for key in _SETTINGS))
    info = graph.nodes[made].info
    info.setdefault("settings", op.info)
    info.setdefault("computes", tuple(array.dtype for array in op.inputs if not array.constant))
    if scaled:
        info.setdefault("scaled", scaled)
    return made, graph.functions.scaled(NOTHING, total)


def _conv(graph: "Graph", op: Op) -> dict[Offsets, Ref]:
    image, kernel = op.inputs
    (b, f, space), (o, i, window), (ob, of, slid) = op.info["image"], op.info["kernel"], op.info["out"]
    grouped = op.info["groups"] != 1
    made: dict[Offsets, Ref] = {}
    for at in graph.pieces.boxes(op.output):
        terms = []
        for along in graph.pieces.segments(kernel.dims[i]):
            right = [0] * len(kernel.dims)
            right[o], right[i] = at[of], along
            y = graph.joined("window", _over(graph, kernel, right, window))
            left = [0] * len(image.dims)
            left[b] = at[ob]
            left[f] = 0 if grouped else along
            x = graph.joined("image", _over(graph, image, left, (*space, f) if grouped else space))
            node, done = _product(graph, "conv", x, y, ["", ""], op)
            if kernel.leafy:
                graph.uses.append((op, node, 1, kernel, tuple(right)))
            _meet_factor(graph, node, kernel, right)
            parts = graph.pieces.along(kernel, right)
            graph.event(parts[i].atoms, node, "contracted")
            graph.event(parts[o].atoms, node, "kept by kernel")
            over, out = graph.pieces.along(image, left), graph.pieces.along(op.output, at)
            for place, axis in enumerate(window):
                graph.event(parts[axis].atoms, node, f"window {place}")
                graph.event(over[space[place]].atoms, node, f"slid over {place}")
                graph.event(out[slid[place]].atoms, node, f"slid {place}")
            terms.append(("", node, done))
        made[at] = sum_of(graph, terms)
    return made


def _over(graph: "Graph", array: Array, offsets: Sequence[int], axes: Sequence[int]) -> list[Ref]:
    """The pieces of an array along some axes, the others held."""
    found = []
    for values in combinations(*(graph.pieces.segments(array.dims[n]) for n in axes)):
        at = list(offsets)
        for axis, value in zip(axes, values, strict=True):
            at[axis] = value
        found.append(graph.at(array, tuple(at)))
    return found


def _lookup(graph: "Graph", op: Op) -> dict[Offsets, Ref]:
    table, index = op.inputs
    taken = op.info["taken"]
    rows = graph.joined("index", graph.value(index).values())
    made: dict[Offsets, Ref] = {}
    for at in graph.pieces.boxes(op.output):
        offsets = [0] * len(table.dims)
        for place, axis in taken.items():
            same = graph.pieces.segments(op.output.dims[place]) == graph.pieces.segments(table.dims[axis])
            offsets[axis] = at[place] if same else 0
        held = [axis for axis in range(len(table.dims)) if axis not in taken.values()]
        x = graph.joined("table", _over(graph, table, offsets, held))
        node = graph.node("lookup", [("table", *x), ("index", *rows)])
        graph.nodes[node].info["rows"] = math.prod(table.dims[axis].size for axis in held)
        if table.leafy:
            graph.uses.append((op, node, 0, table, tuple(offsets)))
        parts = graph.pieces.along(table, offsets)
        for axis in held:
            graph.event(parts[axis].atoms, node, "looked up")
        for axis in taken.values():
            graph.event(parts[axis].atoms, node, "kept by table")
        for place, part in enumerate(graph.pieces.along(op.output, at)):
            if place not in taken:
                graph.event(part.atoms, node, "rows")
        made[at] = node, NOTHING
        _meet_index(graph, op, node, at)
    return made


def _meet_index(graph: "Graph", op: Op, node: int, at: Offsets) -> None:
    """Notes which rows of a table a constant picks, and where they go."""
    index, taken = op.inputs[1], op.info["taken"]
    if not index.constant or index.known is None:
        return
    rows = lean(index.known)
    sizes = iter(rows.shape[:-1] if rows.ndim > len(op.output.dims) - len(taken) else rows.shape)
    shape = [1 if n in taken else next(sizes, 1) for n in range(len(op.output.dims))]
    if all(size in (1, dim.size) for size, dim in zip(shape, op.output.dims, strict=True)) and (
        math.prod(shape) == rows.size
    ):
        values, axes = graph.pieces.oriented(op.output, at, rows.reshape(shape))
        graph.meet(node, graph.functions.constants.ident(values), op.output, values, axes)


def _reduce(graph: "Graph", op: Op) -> dict[Offsets, Ref]:
    (array,) = op.inputs
    axes = [n for n in op.info["axes"] if array.dims[n].size != 1]
    function = op.info["function"]
    made: dict[Offsets, Ref] = {}
    for at in graph.pieces.boxes(op.output):
        rest = iter(at)
        offsets = [0 if n in op.info["axes"] else next(rest) for n in range(len(array.dims))]
        terms: list[Ref] = []
        for values in combinations(*(graph.pieces.segments(array.dims[n]) for n in axes)):
            for axis, value in zip(axes, values, strict=True):
                offsets[axis] = value
            node, done = graph.at(array, tuple(offsets))
            if array.leafy:
                graph.uses.append((op, node, 0, array, tuple(offsets)))
            atoms = [
                atom
                for axis, part in enumerate(graph.pieces.along(array, offsets))
                if axis in axes
                for atom in part.atoms
            ]
            alone = function == "reduce_sum" and atoms and graph.takers[id(array)] == 1
            as_dot = _summed_product(graph, node, done) if alone else None
            if as_dot is not None:
                graph.event(atoms, as_dot[0], "contracted")
                terms.append(as_dot)
                continue
            graph.event(atoms, node, "summed over")
            terms.append((node, _over_atoms(graph, function, done, atoms)))
        if len(terms) > 1 and function == "reduce_sum":
            made[at] = sum_of(graph, [("", *term) for term in terms])
        else:
            made[at] = graph.joined(function, terms)
    return made


def _summed_product(graph: "Graph", node: int, done: int) -> Ref | None:
    """The sum of a product of two arrays as the contraction it is; None for any other."""
    inner, factor = graph.functions.unscaled(done)
    made = graph.nodes[node]
    if made.kind != "product" or inner != NOTHING or len(made.operands) != 2:
        return None
    return graph.node("dot", made.operands, op=NO_SETTINGS), graph.functions.scaled(NOTHING, factor)


def _over_atoms(graph: "Graph", function: str, done: int, atoms: Sequence[Dim]) -> int:
    if not atoms and function in ("reduce_sum", *REDUCTIONS):
        return done
    if function not in ("reduce_sum", *REDUCTIONS):
        return graph.functions.made(function, [("e", done)])
    settings = tuple((atom, atom.size) for atom in atoms)
    if function != "reduce_sum":
        return graph.functions.made(function, [("e", done)], settings)
    # A sum is a mean, scaled: a factor of each term is one of the sum, and a mean of means is one mean.
    inner, factor = graph.functions.unscaled(done)
    name, over, arguments = graph.functions.key(inner)
    if name == "reduce_mean" and not {atom for atom, _ in over} & set(atoms):
        inner, settings = arguments[0][1], (*over, *settings)
    size = math.prod(atom.size for atom in atoms)
    return graph.functions.scaled(
        graph.functions.made("reduce_mean", [("e", inner)], settings), factor * size
    )


def _loop(graph: "Graph", op: Op) -> dict[Offsets, Ref]:
    (array,) = op.inputs
    made: dict[Offsets, Ref] = {}
    for at in graph.pieces.boxes(op.output):
        start = graph.at(array, at)
        node = graph.node("loop", [("start", *start)], op=id(op), at=at, steps=op.info["steps"])
        made[at] = node, NOTHING
    return made


def opaque(graph: "Graph", op: Op) -> dict[Offsets, Ref]:
    """What is not understood: one node of all that it takes."""
    refs = [ref for array in op.inputs if not array.constant for ref in graph.value(array).values()]
    node, done = graph.joined(op.info["function"], refs)
    done = graph.functions.made(op.info["function"], [("e", done)], op.info.get("settings"))
    return dict.fromkeys(graph.pieces.boxes(op.output), (node, done))


def lost_axes(op: Op) -> Sequence[int]:
    """The axes of a result of which no operand's piece says which part a piece of the result is."""
    match op.name:
        case "conv":
            return tuple(op.info["out"][2])
        case "lookup":
            return [n for n in range(len(op.output.dims)) if n not in op.info["taken"]]
        case "apply" if op.info["function"] == "stack":
            return (0,)
        case "apply" if "acts" in op.info and len(op.inputs[0].dims) == len(op.output.dims):
            sizes = zip(op.inputs[0].dims, op.output.dims, strict=True)
            return [n for n, (a, b) in enumerate(sizes) if a.size != b.size]
        case "opaque":
            return range(len(op.output.dims))
    return ()


# What tells a convolution from another one of the same arrays.
_SETTINGS = ("strides", "padding", "dilation", "groups")

RULES: dict[str, Callable[["Graph", Op], dict[Offsets, Ref]]] = {
    "view": _view,
    "dot": _dot,
    "conv": _conv,
    "lookup": _lookup,
    "reduce": _reduce,
    "apply": applied,
    "loop": _loop,
}
