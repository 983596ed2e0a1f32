"""What comes of arrays and constants that meet, number by number."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from leafreport._align._match._asking import MASKED, asked
from leafreport._align._match._functions import Argument
from leafreport._align._match._nodes import NO_SETTINGS, NOTHING, Ref, by_node
from leafreport._align._match._pieces import Offsets
from leafreport._align._match._sums import sum_of
from leafreport._align._trace._program import Array, Op, lean

if TYPE_CHECKING:
    from leafreport._align._match._graph import Graph


def applied(graph: "Graph", op: Op) -> dict[Offsets, Ref]:
    """The nodes of what a function of several arrays gives."""
    function = op.info["function"]
    made: dict[Offsets, Ref] = {}
    for at in graph.pieces.boxes(op.output):
        terms: list[tuple[str, Any]] = []
        for array in op.inputs:
            offsets = _offsets(graph, op, array, at)
            if array.constant:
                terms.append(("fixed", (array, offsets, op.output, at)))
            else:
                terms.append(("e", graph.at(array, offsets)))
        made[at] = _met(graph, function, terms, op.info.get("settings"))
        _act(graph, op, at, made[at][0])
        for slot, (array, (kind, _)) in enumerate(zip(op.inputs, terms, strict=True)):
            if array.leafy and kind == "e":
                graph.uses.append((op, made[at][0], slot, array, _offsets(graph, op, array, at)))
    return made


def _act(graph: "Graph", op: Op, at: Offsets, node: int) -> None:
    """Notes along which axes a function does something, and which axes it makes."""
    if "acts" not in op.info:
        return
    array = op.inputs[0]
    parts = graph.pieces.along(array, _offsets(graph, op, array, at))
    for axis, told in op.info["acts"]:
        graph.event(parts[axis].atoms, node, f"{op.info['function']} {told}")
    if len(array.dims) == len(op.output.dims):
        for place, (axis, _) in enumerate(op.info["acts"]):
            made = graph.pieces.along(op.output, at)[axis]
            if made.atoms != parts[axis].atoms:
                graph.event(made.atoms, node, f"after {op.info['function']} {place}")


def _offsets(graph: "Graph", op: Op, array: Array, at: Offsets) -> Offsets:
    """Which piece of an operand meets a piece of the result."""
    if op.info["function"] == "rev":
        parts = graph.pieces.along(array, at)
        ends = [part.start + math.prod(atom.size for atom in part.atoms) for part in parts]
        turned = {axis: array.dims[axis].size - ends[axis] for axis, _ in op.info["acts"]}
        at = tuple(turned.get(n, start) for n, start in enumerate(at))
    if len(array.dims) == len(at):
        return graph.pieces.near(array, at)
    if op.info["function"] == "stack":
        return at[1:]
    return (0, *at) if op.info["function"] == "each" else (0,) * len(array.dims)


def _met(graph: "Graph", function: str, terms: list[tuple[str, Any]], settings: Any) -> Ref:
    """What comes of arrays and constants that meet: one array, changed, or a node of several."""
    known = asked(graph, function, terms)
    if known is not None:
        return known
    refs = [ref for kind, ref in terms if kind == "e"]
    made = graph.functions.made
    nodes = {node for node, _ in refs if graph.nodes[node].kind != "constant"}
    if len(nodes) <= 1 and len(nodes) == len({node for node, _ in refs}):
        masked = _chosen(function, terms) or _masked(graph, function, terms)
        if masked is not None:
            return masked
        node = refs[0][0]
        given: list[Argument] = [
            ("e", value[1]) if kind == "e" else _among(graph, node, *value) for kind, value in terms
        ]
        return node, made(function, given, settings)
    if len(refs) == 2 == len(terms) and function in ("add", "sub", "add_any", "mul", "div"):
        (a, x), (b, y) = refs
        if function == "sub":
            y = made("neg", [("e", y)])
        elif function == "div":
            y = made("div", [("c", 1.0), ("e", y)])
        if function not in ("mul", "div"):
            return sum_of(graph, [("", a, x), ("", b, y)])
        (one, f), (other, g) = graph.functions.unscaled(x), graph.functions.unscaled(y)
        node = graph.node("product", sorted([("", a, one), ("", b, other)], key=by_node), op=NO_SETTINGS)
        return node, graph.functions.scaled(NOTHING, f * g)
    looked = _in_bounds(graph, function, terms)
    if looked is not None:
        return looked
    ordered = function in ("select_n", "sub", "div", "pow", "atan2", "rem", "cond", "dynamic_slice")
    operands = sorted({(str(n) if ordered else "", *ref) for n, ref in enumerate(refs)}, key=by_node)
    return graph.node("join", operands, why=function), NOTHING


def _among(graph: "Graph", node: int, array: Array, offsets: Offsets, output: Array, at: Offsets) -> Argument:
    """A constant that meets a piece of a node's array: what it is there."""
    if array.random or array.known is None or len(array.dims) != len(at):
        return graph.fixed(array, offsets)
    values, axes = graph.pieces.oriented(output, at, lean(array.known))
    kind, told = graph.told(values, frozenset(atom for _, atom in axes))
    if kind == "k":
        graph.meet(node, told[0], output, values, axes)
    return kind, told


def _chosen(function: str, terms: list[tuple[str, Any]]) -> Ref | None:
    """Of cases of which one is always taken, that one."""
    if function != "select_n" or terms[0][0] != "fixed":
        return None
    which = terms[0][1][0].value
    if which is None:
        return None
    kind, value = terms[1 + int(which)]
    return value if kind == "e" else None


def _masked(graph: "Graph", function: str, terms: list[tuple[str, Any]]) -> Ref | None:
    """Scores some of which a constant mask takes out, in whichever of the usual ways it is written."""
    held = [
        graph.pieces.oriented(value[2], value[3], lean(value[0].known))
        if kind == "fixed" and value[0].known is not None and len(value[0].dims) == len(value[3])
        else (None, [])
        for kind, value in terms
    ]
    known = [values for values, _ in held]
    keeps: np.ndarray | None = None
    place = next((n for n, (kind, _) in enumerate(terms) if kind == "e"), 0)
    if function == "select_n" and len(terms) == 3 and place in (1, 2):
        which, fill = known[0], known[3 - place]
        if which is None or fill is None or not (np.asarray(fill, np.float64) <= MASKED).all():
            return None
        keeps = np.asarray(which, bool) == (place == 2)
    elif function in ("add", "sub") and len(terms) == 2 and known[1 - place] is not None and place < 2:
        if function == "sub" and place == 1:
            return None
        added = np.asarray(known[1 - place], np.float64) * (-1 if function == "sub" else 1)
        if added.size < 2 or not ((added == 0) | (added <= MASKED)).all() or (added == 0).all():
            return None
        keeps = added == 0
    if keeps is None:
        return None
    node, done = terms[place][1]
    if keeps.all():
        return node, done
    mask = graph.functions.constants.ident(keeps)
    which_one = 0 if function == "select_n" else 1 - place
    graph.meet(node, mask, terms[which_one][1][2], keeps, held[which_one][1])
    return node, graph.functions.made("masked", [("e", done)], mask)


def _in_bounds(graph: "Graph", function: str, terms: list[tuple[str, Any]]) -> Ref | None:
    """What is looked up, where rows out of bounds are filled: which rows there are is no difference."""
    if function != "select_n" or len(terms) != 3:
        return None
    refs = [value if kind == "e" else None for kind, value in terms]
    looked = next((ref for ref in refs[1:] if ref and graph.nodes[ref[0]].kind == "lookup"), None)
    if looked is None or looked[1] != NOTHING or refs[0] is None or None not in refs[1:]:
        return None
    index = next(taken for label, taken, _ in graph.nodes[looked[0]].operands if label == "index")
    return looked if refs[0][0] == index else None
