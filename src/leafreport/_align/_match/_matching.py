"""Two traced calls to two graphs and which node is which."""

from collections.abc import Callable, Iterable

from leafreport._align._match._functions import Functions
from leafreport._align._match._graph import Graph
from leafreport._align._match._match import Match, Side, Sides, match, unmatched
from leafreport._align._match._partial import partial
from leafreport._align._trace._tracer import Traced, program


def matched(
    calls: tuple[Traced, Traced], chosen: Callable[[Sides], Iterable[tuple[int, int]]] = lambda _: ()
) -> tuple[Sides, Match]:
    """The graphs of two calls, matched. Where they differ, the members of ensembles are told apart too.

    Args:
        calls: the calls.
        chosen: gives pairs of nodes that the caller says are one.
    """
    sides, found = _matched(calls, chosen, members=False)
    if not found.whole and any(side.graph.program.ensembles for side in sides):
        others, other = _matched(calls, chosen, members=True)
        if other.whole or _lone(others, other) < _lone(sides, found):
            return others, other
    return sides, found


def _matched(
    calls: tuple[Traced, Traced], chosen: Callable[[Sides], Iterable[tuple[int, int]]], *, members: bool
) -> tuple[Sides, Match]:
    functions = Functions()
    left, right = (Side(Graph(program(call, members=members), functions)) for call in calls)
    return (left, right), match((left, right), partial, chosen((left, right)))


def _lone(sides: Sides, found: Match) -> int:
    """How many leaves' pieces have no partner."""
    return len(unmatched(sides[0], found.nodes)) + len(unmatched(sides[1], found.nodes.values()))
