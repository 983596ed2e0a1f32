"""Two traced calls to two graphs and which node is which."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from leafreport._align._match._functions import Functions
from leafreport._align._match._graph import Graph
from leafreport._align._match._match import Match, Side, Sides, match, unmatched
from leafreport._align._match._partial import partial
from leafreport._align._match._sharing import is_shared, separate
from leafreport._align._trace._tracer import Traced, program


def matched(
    calls: tuple[Traced, Traced], chosen: Callable[[Sides], Iterable[tuple[int, int]]] = lambda _: ()
) -> tuple[Sides, Match]:
    """The graphs of two calls, matched.

    Where they differ, the members of ensembles are told apart too, and leaves that are used in several places
    are taken as one for each.

    Args:
        calls: the calls.
        chosen: gives pairs of nodes that the caller says are one.
    """
    best = _matched(calls, chosen, _Way())
    ways = []
    if any(side.graph.program.ensembles for side in best[0]):
        ways.append(_Way(members=True))
    if any(is_shared(side.graph) for side in best[0]):
        ways.append(_Way(separate=True))
    for way in ways:
        if best[1].whole:
            break
        other = _matched(calls, chosen, way)
        if other[1].whole or _lone(*other) < _lone(*best):
            best = other
    return best


@dataclass(frozen=True, slots=True)
class _Way:
    """How programs are looked at: with the members of ensembles, with leaves that are shared, taken apart."""

    members: bool = False
    separate: bool = False


def _matched(
    calls: tuple[Traced, Traced], chosen: Callable[[Sides], Iterable[tuple[int, int]]], way: _Way
) -> tuple[Sides, Match]:
    functions = Functions()
    graphs = [Graph(program(call, members=way.members), functions) for call in calls]
    if way.separate:
        for graph in graphs:
            separate(graph)
    exact = _exact(graphs)
    sides = Side(graphs[0], exact), Side(graphs[1], exact)
    return sides, match(sides, partial, chosen(sides))


def _exact(graphs: Sequence[Graph]) -> frozenset[str]:
    """What both calls lay out alike: inputs, and then outputs, of the same shapes."""
    inputs, outputs = (
        [[array.shape for array in getattr(graph.program, kind)] for graph in graphs]
        for kind in ("inputs", "outputs")
    )
    if inputs[0] != inputs[1]:
        return frozenset()
    return frozenset({"input", "output"} if outputs[0] == outputs[1] else {"input"})


def _lone(sides: Sides, found: Match) -> int:
    """How many leaves have no partner, or none for a part of theirs."""
    both = zip(sides, (found.nodes, found.nodes.values()), strict=True)
    return sum(
        len({number for n in unmatched(side, taken) for number in side.graph.nodes[n].info["leaves"]})
        for side, taken in both
    )
