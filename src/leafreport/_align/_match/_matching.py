"""Two traced calls to two graphs and which node is which."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from leafreport._align._match._functions import Functions
from leafreport._align._match._graph import Graph
from leafreport._align._match._match import Match, Side, Sides, match, unmatched
from leafreport._align._match._partial import partial
from leafreport._align._match._sharing import is_shared, separate
from leafreport._align._trace._call import Traced
from leafreport._align._trace._dims import factors, factors_of
from leafreport._align._trace._tracer import Cut, program


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
    for cuts in [] if best[1].whole else _cuts(*best):
        other = _matched(calls, chosen, _Way(cuts=cuts))
        if other[1].whole or _lone(*other) < _lone(*best):
            best = other
        if best[1].whole:
            break
    return best


@dataclass(frozen=True, slots=True)
class _Way:
    """How programs are looked at.

    Attributes:
        members: with the members of ensembles taken apart.
        separate: with leaves that are shared taken apart.
        cuts: with axes cut, on either side.
    """

    members: bool = False
    separate: bool = False
    cuts: tuple[tuple[Cut, ...], ...] = ((), ())


def _cuts(sides: Sides, found: Match) -> list[tuple[tuple[Cut, ...], ...]]:
    """Ways to cut axes of leaves without a partner as the other side's are: those of one size, or all.

    One leaf of several projections has one axis for all of them: where one is cut, as by a rotation of
    halves, the others are. A model that has a leaf for each has no cut there.
    """
    lone = [
        [side.graph.nodes[n].info["array"] for n in unmatched(side, taken)]
        for side, taken in zip(sides, (found.nodes, found.nodes.values()), strict=True)
    ]
    ways: dict[int, list[list[Cut]]] = {}
    for which, (side, ours, theirs) in enumerate(zip(sides, lone, lone[::-1], strict=True)):
        pieces = [own.graph.pieces for own in sides]
        places = {
            dim.size: tuple(starts)[1:]
            for array in theirs
            for dim in factors_of(array.dims)
            if len(starts := pieces[side is sides[0]].segments(dim)) > 1
        }
        views = {id(array) for array in ours}
        numbers = {id(op): number for number, op in enumerate(side.graph.program.ops)}
        for op, _, slot, array, _ in side.graph.uses:
            for axis, whole in enumerate(array.dims if id(array) in views else ()):
                for place, dim in enumerate(factors(whole)):
                    if dim.size in places and len(side.graph.pieces.segments(dim)) == 1:
                        own = ways.setdefault(dim.size, [[], []])[which]
                        own.append((numbers[id(op)], slot, axis, place, places[dim.size]))
    found_ways = [(tuple(own[0]), tuple(own[1])) for own in ways.values()]
    every = tuple(tuple(cut for own in ways.values() for cut in own[which]) for which in (0, 1))
    return [*found_ways[:_MOST_WAYS], *([every] if len(found_ways) > 1 else [])]


_MOST_WAYS = 4


def _matched(
    calls: tuple[Traced, Traced], chosen: Callable[[Sides], Iterable[tuple[int, int]]], way: _Way
) -> tuple[Sides, Match]:
    functions = Functions()
    graphs = [
        Graph(program(call, members=way.members, cuts=cuts), functions)
        for call, cuts in zip(calls, way.cuts, strict=True)
    ]
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
