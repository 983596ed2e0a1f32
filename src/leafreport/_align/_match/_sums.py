"""Sums and products of several nodes: whichever way they were put in brackets, they are one."""

from typing import TYPE_CHECKING

from leafreport._align._match._nodes import NOTHING, Ref, Term, by_node

if TYPE_CHECKING:
    from leafreport._align._match._graph import Graph


def flatten(graph: "Graph") -> None:
    """Sums of sums and products of products become one, where nothing else takes the inner one."""
    takers = _takers(graph)
    became: dict[int, Ref] = {}
    for n, node in enumerate(graph.nodes):
        node.operands = tuple(_after(graph, term, became) for term in node.operands)
        if node.kind not in ("sum", "product"):
            continue
        flat: dict[int, int] = {}
        groups = node.info.setdefault("groups", [])
        for _, taken, done in node.operands:
            inner = graph.nodes[taken]
            if inner.kind == node.kind and takers.get(taken) == 1 and _passes(graph, node.kind, done):
                groups += inner.info["groups"] or [tuple(term[1] for term in inner.operands)]
                for _, deeper, more in inner.operands:
                    _merge(graph, node.kind, flat, deeper, graph.functions.after(done, more))
                inner.kind = "gone"
            else:
                _merge(graph, node.kind, flat, taken, done)
        for _, taken, _ in node.operands:
            takers[taken] = takers.get(taken, 1) - 1
        for taken in flat:
            takers[taken] = takers.get(taken, 0) + 1
        if len(flat) == 1:  # an array with what was made of it alone
            ((only, done),) = flat.items()
            became[n] = only, done
            takers[only] += takers.get(n, 0) - 1
            node.kind = "gone"
            continue
        node.operands = tuple(sorted(("", taken, done) for taken, done in flat.items()))
        if node.kind == "sum":
            _unmix(graph, n, takers)
    for node in graph.nodes:
        if "back" in node.info and node.info["back"][0] in became:
            node.info["back"] = _after(graph, ("", *node.info["back"]), became)[1:]


def _unmix(graph: "Graph", n: int, takers: dict[int, int]) -> None:
    """`a + z (b - a)` as what it is, `(1 - z) a + z b`: frameworks write a gate either way."""
    node = graph.nodes[n]
    terms = {taken: done for _, taken, done in node.operands}
    made = graph.functions.made
    for product, done in list(terms.items()):
        factors = graph.nodes[product].operands
        if done != NOTHING or graph.nodes[product].kind != "product" or takers[product] != 1:
            continue
        for place, (_, inner, over) in enumerate(factors):
            mixed = {t: d for _, t, d in graph.nodes[inner].operands}
            plain = over == NOTHING and graph.nodes[inner].kind == "sum" and takers[inner] == 1
            if len(factors) != 2 or not plain or len(mixed) != 2:
                continue
            _, gate, opened = factors[1 - place]
            start = next(
                (t for t, d in mixed.items() if t in terms and _opposite(graph, terms[t], d) and t != gate),
                None,
            )
            if start is None:
                continue
            (end,) = (t for t in mixed if t != start)
            closed = made("sub", [("c", 1.0), ("e", opened)])
            parts = {
                _gated(graph, gate, opened, end, mixed[end]),
                _gated(graph, gate, closed, start, terms[start]),
            }
            for part in parts:
                takers[part] = takers.get(part, 0) + 1
            for gone in (product, inner):
                graph.nodes[gone].kind = "gone"
            rest = {t: d for t, d in terms.items() if t not in (product, start)}
            node.operands = tuple(
                sorted([("", t, d) for t, d in rest.items()] + [("", p, NOTHING) for p in parts])
            )
            return


def _opposite(graph: "Graph", a: int, b: int) -> bool:
    """Whether one expression is the other, negated."""
    (one, x), (other, y) = graph.functions.unscaled(a), graph.functions.unscaled(b)
    return one == other and x == -y


def _gated(graph: "Graph", gate: int, opened: int, taken: int, done: int) -> int:
    return graph.node("product", sorted([("", gate, opened), ("", taken, done)], key=by_node))


def _takers(graph: "Graph") -> dict[int, int]:
    """How many nodes take each one."""
    takers: dict[int, int] = {}
    for node in graph.nodes:
        back = [node.info["back"][0]] if "back" in node.info else []
        for taken in [taken for _, taken, _ in node.operands] + back:
            takers[taken] = takers.get(taken, 0) + 1
    return takers


def _after(graph: "Graph", term: Term, became: dict[int, Ref]) -> Term:
    label, node, done = term
    if node not in became:
        return term
    return label, became[node][0], graph.functions.after(done, became[node][1])


def _passes(graph: "Graph", kind: str, done: int) -> bool:
    """Whether a sum within a sum, or a product within a product, can be taken apart."""
    inner, factor = graph.functions.unscaled(done)
    if kind == "sum":
        return inner == NOTHING and abs(factor) == 1
    return done == NOTHING or graph.functions.key(done) == _RECIPROCAL


def _merge(graph: "Graph", kind: str, terms: dict[int, int], node: int, done: int) -> None:
    """Adds a term; two terms that are made of one array are one."""
    if node in terms:
        name = "add" if kind == "sum" else "mul"
        done = graph.functions.made(name, [("e", terms[node]), ("e", done)])
    terms[node] = done


def sum_of(graph: "Graph", terms: list[Term]) -> Ref:
    """A node of terms. A factor that all of them have multiplies the result."""
    merged: dict[int, int] = {}
    for _, node, done in terms:
        _merge(graph, "sum", merged, node, done)
    if len(merged) == 1:
        return next(iter(merged.items()))
    apart = {node: graph.functions.unscaled(done) for node, done in merged.items()}
    sizes = {abs(factor) for _, factor in apart.values()}
    common = sizes.pop() if len(sizes) == 1 else 1.0
    if common != 1.0:
        scaled = graph.functions.scaled
        merged = {node: scaled(inner, factor / common) for node, (inner, factor) in apart.items()}
    node = graph.node("sum", sorted((("", *term) for term in merged.items()), key=by_node))
    return node, graph.functions.scaled(NOTHING, common)


_RECIPROCAL = ("div", None, (("c", 1.0), ("e", NOTHING)))
