"""Two graphs matched: which node is which, told by where it stands and not by what it is called.

Every node is given a colour: what it is, what it takes and who takes it, all the way to both ends. Nodes of
one colour that are alone on their side are the same. Where a colour is shared, what is done to the arrays on
the way (an activation function) tells more; then only the order is left, and it is said so.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leafreport._align._graph import Graph

_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Match:
    """Which node of the left graph is which of the right.

    Attributes:
        nodes: the right node of each left one that has a partner.
        basis: for each of them `dataflow` or `order`.
        rivals: for nodes that only their order tells apart, the right nodes that would do as well.
    """

    nodes: dict[int, int]
    basis: dict[int, str]
    rivals: dict[int, tuple[int, ...]]


class _Side:
    """A graph and its nodes' colours."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.live = [n for n, node in enumerate(graph.nodes) if node.kind != "gone"]
        self.takers: list[list[tuple[str, int, int]]] = [[] for _ in graph.nodes]
        for n in self.live:
            for label, taken, done in graph.nodes[n].operands:
                self.takers[taken].append((label, n, done))
            back = graph.nodes[n].info.get("back")
            if back is not None:
                self.takers[back[0]].append(("back", n, back[1]))
        self.color: list[int] = [0] * len(graph.nodes)
        # Only what leads to a result counts.
        self.used = self._used()

    def _used(self) -> list[bool]:
        used = [False] * len(self.graph.nodes)
        todo = list(self.graph.outputs)
        while todo:
            n = todo.pop()
            if not used[n]:
                used[n] = True
                node = self.graph.nodes[n]
                todo += [taken for _, taken, _ in node.operands]
                if "back" in node.info:
                    todo.append(node.info["back"][0])
        return used


class _Colors(dict[object, int]):
    """Small numbers for keys; the same key gives the same number on both sides."""

    def __missing__(self, key: object) -> int:
        self[key] = number = len(self)
        return number


def match(left: Graph, right: Graph) -> Match:
    """Matches two graphs. Cost: a few passes over both, and one more for each tie that only order breaks."""
    sides = _Side(left), _Side(right)
    colors = _Colors()
    _start(sides, colors)
    _refine(sides, colors)
    _by_functions(sides, colors)
    if any(len(ours) != len(theirs) for ours, theirs in _classes(sides).values()):
        return _Partial(sides).match()
    basis: dict[int, str] = {}
    rivals: dict[int, tuple[int, ...]] = {}
    while (tied := _first_tie(sides)) is not None:
        ours, theirs = tied
        for node in ours:
            basis.setdefault(node, "order")
            rivals.setdefault(node, tuple(theirs))
        a, b = ours[0], theirs[0]
        fresh = colors["told by order", len(colors)]
        sides[0].color[a] = sides[1].color[b] = fresh
        _refine(sides, colors)
        _by_functions(sides, colors)
    found = {ours[0]: theirs[0] for ours, theirs in _classes(sides).values() if len(ours) == len(theirs) == 1}
    return Match(
        found,
        {n: basis.get(n, "dataflow") for n in found},
        {n: r for n, r in rivals.items() if n in found},
    )


def _start(sides: tuple[_Side, _Side], colors: _Colors) -> None:
    for side in sides:
        side.color = [colors["start", _kind(side, n)] for n in range(len(side.graph.nodes))]


class _Partial:
    """Two graphs that differ somewhere: what is the same up to there, and after, and next to what is known.

    A node is matched where it is the only one of its kind on either side: first by everything before it, or
    everything after it, together with what is near; then, from node to node, among those that a matched pair
    takes or is taken by.
    """

    def __init__(self, sides: tuple[_Side, _Side]) -> None:
        self.sides = sides
        self.colors = _Colors()
        self.found: dict[int, int] = {}
        self.back: dict[int, int] = {}
        self.todo: list[tuple[int, int]] = []
        self.near = [self._near_colors(side) for side in sides]

    def match(self) -> Match:
        """The nodes that are matched; those that are not have no partner."""
        for direction in (_forward, _backward):
            _start(self.sides, self.colors)
            whole = [direction(side, self.colors) for side in self.sides]
            for radius in reversed(range(len(_RADII))):
                keys = [
                    [(whole[i][n], self.near[i][radius][n]) for n in range(len(side.graph.nodes))]
                    for i, side in enumerate(self.sides)
                ]
                self._unique([s.live for s in self.sides], keys)
        while self.todo:
            a, b = self.todo.pop()
            self._around(a, b)
        return Match(dict(self.found), dict.fromkeys(self.found, "dataflow"), {})

    def _near_colors(self, side: _Side) -> list[list[int]]:
        """For each radius, colours by what is that near."""
        color = [self.colors["near", _kind(side, n)] for n in range(len(side.graph.nodes))]
        out = [color]
        kind = side.graph.functions.kind
        for step in range(1, _RADII[-1] + 1):
            before = color
            color = list(before)
            for n in side.live:
                node = side.graph.nodes[n]
                below = sorted((label, before[taken], kind(done)) for label, taken, done in node.operands)
                above = sorted((label, before[taker], kind(done)) for label, taker, done in side.takers[n])
                color[n] = self.colors["near", before[n], tuple(below), tuple(above)]
            if step in _RADII:
                out.append(color)
        return out

    def _unique(self, nodes: Sequence[Sequence[int]], keys: Sequence[Sequence[object]]) -> None:
        """Matches what is alone with its key among these nodes on both sides."""
        groups: dict[object, tuple[list[int], list[int]]] = {}
        for i in (0, 1):
            known = self.found if i == 0 else self.back
            for n in nodes[i]:
                if n not in known and self.sides[i].used[n]:
                    groups.setdefault(keys[i][n], ([], []))[i].append(n)
        for ours, theirs in groups.values():
            if len(ours) == len(theirs) == 1:
                self._keep(ours[0], theirs[0])

    def _keep(self, a: int, b: int) -> None:
        self.found[a] = b
        self.back[b] = a
        self.todo.append((a, b))

    def _around(self, a: int, b: int) -> None:
        """Matches what a matched pair takes, and what takes it."""
        nodes = self.sides[0].graph.nodes[a], self.sides[1].graph.nodes[b]
        takes = [{taken: label for label, taken, _ in node.operands} for node in nodes]
        taken = [
            {taker: label for label, taker, _ in side.takers[n]}
            for side, n in zip(self.sides, (a, b), strict=True)
        ]
        for near in (takes, taken):
            for radius in reversed(range(len(_RADII))):
                keys = [{n: (label, self.near[i][radius][n]) for n, label in near[i].items()} for i in (0, 1)]
                self._unique([list(keys[0]), list(keys[1])], keys)  # type: ignore[arg-type]


# How far is looked around a node, in steps.
_RADII = (0, 1, 2, 4)


def _forward(side: _Side, colors: _Colors) -> list[int]:
    """Colours by all that comes before."""
    out = list(side.color)
    for n in side.live:
        below = sorted((label, out[taken]) for label, taken, _ in side.graph.nodes[n].operands)
        out[n] = colors["up", side.color[n], tuple(below)]
    return out


def _backward(side: _Side, colors: _Colors) -> list[int]:
    """Colours by all that comes after."""
    out = list(side.color)
    for n in reversed(side.live):
        above = sorted(
            (label, out[taker]) for label, taker, _ in side.takers[n] if side.used[taker] and label != "back"
        )
        out[n] = colors["down", side.color[n], tuple(above)]
    return out


def _kind(side: _Side, n: int) -> object:
    node = side.graph.nodes[n]
    info = node.info
    if node.kind == "leaf":
        atoms = side.graph.atoms(info["array"], info["at"])
        return "leaf", math.prod(dim.size for axis in atoms for dim in axis)
    if node.kind in ("input", "output"):
        return node.kind, info["number"], side.used[n]
    return node.kind, side.used[n]


def _refine(sides: tuple[_Side, _Side], colors: _Colors) -> None:
    """Colours by what is below and above, until they tell no more."""
    known = 0
    for _ in range(_ROUNDS):
        for side in sides:
            _pass(side, colors)
        count = len({c for side in sides for n, c in enumerate(side.color) if side.used[n]})
        if count == known:
            break
        known = count


def _pass(side: _Side, colors: _Colors) -> None:
    nodes, color = side.graph.nodes, side.color
    forward = list(color)
    for n in side.live:
        node = nodes[n]
        below = sorted((label, forward[taken]) for label, taken, _ in node.operands)
        back = node.info.get("back")
        forward[n] = colors["up", color[n], tuple(below), None if back is None else color[back[0]]]
    backward = list(forward)
    for n in reversed(side.live):
        above = sorted(
            (label, color[taker] if label == "back" else backward[taker])
            for label, taker, _ in side.takers[n]
            if side.used[taker]
        )
        backward[n] = colors["down", forward[n], tuple(above)]
    side.color = backward


def _classes(sides: tuple[_Side, _Side]) -> dict[int, tuple[list[int], list[int]]]:
    found: dict[int, tuple[list[int], list[int]]] = {}
    for which, side in enumerate(sides):
        for n in side.live:
            if side.used[n]:
                found.setdefault(side.color[n], ([], []))[which].append(n)
    return found


def _by_functions(sides: tuple[_Side, _Side], colors: _Colors) -> None:
    """Breaks ties by what is done to arrays next to a node, where both sides do the same things."""
    while True:
        broken = False
        for ours, theirs in _classes(sides).values():
            if len(ours) < 2 or len(ours) != len(theirs):
                continue
            marks = [[_near(sides[0], n) for n in ours], [_near(sides[1], n) for n in theirs]]
            if sorted(marks[0]) == sorted(marks[1]) and len(set(marks[0])) > 1:
                broken = True
                for side, nodes, mark in zip(sides, (ours, theirs), marks, strict=True):
                    for n, said in zip(nodes, mark, strict=True):
                        side.color[n] = colors["near", side.color[n], said]
        if not broken:
            return
        _refine(sides, colors)


def _near(side: _Side, n: int) -> str:
    kind = side.graph.functions.kind

    def told(terms: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
        return sorted((label, side.color[other], kind(done)) for label, other, done in terms)

    return repr((told(side.graph.nodes[n].operands), told(side.takers[n])))


def _first_tie(sides: tuple[_Side, _Side]) -> tuple[list[int], list[int]] | None:
    best: tuple[list[int], list[int]] | None = None
    for ours, theirs in _classes(sides).values():
        if len(ours) == len(theirs) > 1 and (best is None or ours[0] < best[0][0]):
            best = ours, theirs
    return best


def unmatched(graph: Graph, taken: Sequence[int]) -> list[int]:
    """The leaves' pieces that lead to a result and have no partner."""
    side = _Side(graph)
    seen = set(taken)
    return [n for n in side.live if graph.nodes[n].kind == "leaf" and side.used[n] and n not in seen]
