"""Two traced calls to two graphs and which node is which."""

from collections.abc import Callable, Iterable

from leafreport._align._functions import Functions
from leafreport._align._graph import Graph
from leafreport._align._match import Match, Side, Sides, match, unmatched
from leafreport._align._partial import partial
from leafreport._align._trace import Traced, program


def matched(
    calls: tuple[Traced, Traced], chosen: Callable[[Sides], Iterable[tuple[int, int]]] = lambda _: ()
) -> tuple[Sides, Match]:
    """The graphs of two calls, matched. Where they differ, the members of ensembles are told apart too.

    Args:
        calls: the calls.
        chosen: gives pairs of nodes that the caller says are one.
    """
    first: tuple[Sides, Match] | None = None
    fewest = -1
    for members in (False, True):
        functions = Functions()
        left, right = (Side(Graph(program(call, members=members), functions)) for call in calls)
        sides = left, right
        found = match(sides, partial, chosen(sides))
        lone = len(unmatched(left, found.nodes)) + len(unmatched(right, found.nodes.values()))
        if first is None or found.whole or lone < fewest:
            first, fewest = (sides, found), lone
        if found.whole:
            break
    assert first is not None
    return first
