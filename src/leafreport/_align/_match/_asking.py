"""Arrays that say yes or no, as masks that come with the input: one, however it is written and put to use."""

from typing import TYPE_CHECKING, Any

import numpy as np

from leafreport._align._match._nodes import NOTHING, Ref, Term, by_node

if TYPE_CHECKING:
    from leafreport._align._match._graph import Graph

# What is added to a score, or put in its place, so that a softmax lets nothing of it through.
MASKED = -1e4


def asked(graph: "Graph", function: str, terms: list[tuple[str, Any]]) -> Ref | None:
    """What comes of masks that meet each other, a number, or scores; None of anything else.

    Args:
        graph: the graph.
        function: what is done.
        terms: what it is done to: `e` with a node and an expression, `fixed` with a constant.
    """
    refs = [value for kind, value in terms if kind == "e"]
    if function == "select_n":
        return _chosen(graph, terms)
    if len(refs) == 2 == len(terms):
        if function in ("mul", "and", "min") and all(_asks(graph, ref) for ref in refs):
            (a, x), (b, y) = refs
            if a == b:
                return a, graph.functions.made("and", [("e", x), ("e", y)])
            return graph.node("join", sorted([("", a, x), ("", b, y)], key=by_node), why="and"), NOTHING
        if function in ("add", "sub"):
            return _added(graph, function, refs)
    if len(refs) == 1 and _asks(graph, refs[0]):
        return _asked_again(graph, function, terms, refs[0])
    return None


def _asked_again(graph: "Graph", function: str, terms: list[tuple[str, Any]], ref: Ref) -> Ref | None:
    """Yes or no as a number, and whether that is one: the same once more."""
    fixed = [value[0].value for kind, value in terms if kind == "fixed"]
    match function, fixed:
        case ("ne", [0.0]) | ("and" | "mul", [1.0]) | ("as bool", []):
            return ref
        case ("eq", [0.0]) | ("not", []):
            return ref[0], _not(graph, ref[1])
    return None


def _not(graph: "Graph", done: int) -> int:
    name, _, arguments = graph.functions.key(done)
    return int(arguments[0][1]) if name == "not" else graph.functions.made("not", [("e", done)])


def _asks(graph: "Graph", ref: Ref) -> bool:
    """Whether an array says yes or no."""
    node, done = ref
    if done != NOTHING:
        name, _, arguments = graph.functions.key(done)
        if name in ("not", "and", "or"):
            return all(_asks(graph, (node, value)) for kind, value in arguments if kind == "e")
        return name in _COMPARES
    return _dtype(graph, node) == "bool"


_COMPARES = frozenset({"gt", "ge", "lt", "le", "eq", "ne", "as bool", "is_finite"})


def _chosen(graph: "Graph", terms: list[tuple[str, Any]]) -> Ref | None:
    """Scores, some of which are put out of the way by a mask."""
    kinds = "".join(kind[0] for kind, _ in terms)
    if kinds not in ("eef", "efe"):
        return None
    which, place = terms[0][1], kinds.rindex("e")
    fill = terms[3 - place][1][0].value
    if fill is None or not fill <= MASKED or which[0] == terms[place][1][0]:
        return None
    told = _on(graph, which)
    known = None if told is None else _masked(graph, terms[place][1], which, (told != 0) == (place == 2))
    if known is not None:
        return known
    keeps = which[1] if place == 2 else _not(graph, which[1])
    return _join(graph, terms[place][1], ("keeps", which[0], keeps))


def _on(graph: "Graph", ref: Ref) -> np.ndarray | None:
    """What an expression gives for each number a mask may hold; None where more than these tell."""
    node, done = ref
    dtype = _dtype(graph, node)
    if not dtype.startswith(("bool", "int", "uint")):
        return None
    if graph.functions.reduced(done) or graph.functions.constants_in(done):
        return None
    numbers = _NUMBERS[:2] if dtype == "bool" else _NUMBERS
    found = np.resize(graph.functions.on(done, numbers), len(_NUMBERS))
    if dtype == "bool" or graph.functions.affine(done) is not None:
        found[2:] = found[1]  # of a mask of numbers there are 0 and 1 alone
    return found


def _dtype(graph: "Graph", node: int) -> str:
    info = graph.nodes[node].info
    return str(info["array"].dtype if "array" in info else info.get("dtype"))


def _added(graph: "Graph", function: str, refs: list[Ref]) -> Ref | None:
    """Scores, to some of which so much is added by a mask that nothing of them counts."""
    for place in (1, 0) if function == "add" else (1,):
        found = None if refs[place][0] == refs[1 - place][0] else _on(graph, refs[place])
        if found is None:
            continue
        found *= -1 if function == "sub" else 1
        if ((found == 0) | (found <= MASKED)).all() and (found == 0).any():
            return _masked(graph, refs[1 - place], refs[place], found == 0)
    return None


# On these it is seen what a mask of whole numbers lets through: some of them, or 0 alone.
_NUMBERS = (0.0, 1.0, 2.0, 3.0)


def _masked(graph: "Graph", scores: Ref, mask: Ref, keeps: np.ndarray) -> Ref | None:
    """Scores that a mask takes a part of."""
    told = keeps.tolist()
    if told == [False, True, True, True]:
        label = "keeps"
    elif told == [True, False, False, False]:
        label = "drops"
    else:
        return None
    return _join(graph, scores, (label, mask[0], NOTHING))


def _join(graph: "Graph", scores: Ref, mask: Term) -> Ref:
    return graph.node("join", sorted([("", *scores), mask], key=by_node), why="masked"), NOTHING
