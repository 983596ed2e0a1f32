"""Two graphs matched: which node is which, told by where it stands and not by what it is called.

Every node is given a colour: what it is, what it takes and who takes it, all the way to both ends. Nodes of
one colour that are alone on their side are the same. Where a colour is shared, what is done to the arrays
on the way (an activation function) tells more, then which pieces belong to one leaf; then only the caller,
or the order, is left, and it is said so. Where the graphs differ somewhere, `_partial` matches what is the
same around that.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from leafreport._align._match._graph import Graph
from leafreport._align._records import Basis

_MOST_ROUNDS = 32


@dataclass(frozen=True, slots=True)
class Match:
    """Which node of the left graph is which of the right.

    Attributes:
        nodes: the right node of each left one that has a partner.
        basis: for each of them what told.
        rivals: for nodes that nothing determines, the right nodes that would do as well.
        whole: whether the two graphs are one, node by node.
    """

    nodes: dict[int, int]
    basis: dict[int, Basis]
    rivals: dict[int, tuple[int, ...]] = field(default_factory=dict)
    whole: bool = True


class Side:
    """A graph and its nodes' colours.

    Attributes:
        graph: the graph.
        exact: `input` and `output`, where both sides lay these out alike: their pieces are known by place.
        live: its nodes, each after those it takes, but for the way back of a loop.
        takers: who takes each node: label, taker, and what was done on the way.
        used: which nodes lead to a result.
        color: the nodes' colours.
        rank: the place of each node in the program; of a leaf that of its first use.
    """

    def __init__(self, graph: Graph, exact: frozenset[str] = frozenset()) -> None:
        self.graph = graph
        self.exact = exact
        self.live = graph.order()
        self.takers: list[list[tuple[str, int, int]]] = [[] for _ in graph.nodes]
        for n in self.live:
            for label, taken, done in graph.nodes[n].operands:
                self.takers[taken].append((label, n, done))
            back = graph.nodes[n].info.get("back")
            if back is not None:
                self.takers[back[0]].append(("back", n, back[1]))
        self.color: list[int] = [0] * len(graph.nodes)
        self.used = self._used()
        self.rank = [0] * len(graph.nodes)
        for place, n in enumerate(self.live):
            self.rank[n] = place
        for n in self.live:
            if graph.nodes[n].kind == "leaf":
                self.rank[n] = min((self.rank[t] for _, t, _ in self.takers[n] if self.used[t]), default=0)

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

    def kind(self, n: int) -> object:
        """What a node is by itself."""
        node = self.graph.nodes[n]
        info = node.info
        if node.kind == "leaf":
            parts = self.graph.pieces.along(info["array"], info["at"])
            return "leaf", math.prod(atom.size for part in parts for atom in part.atoms)
        if node.kind in ("input", "output"):
            at = info["at"] if node.kind in self.exact else ()
            return node.kind, info["number"], at, self.used[n]
        return node.kind, info.get("op") if node.kind == "constant" else info.get("why"), self.used[n]

    @cached_property
    def siblings(self) -> dict[int, list[int]]:
        """The pieces of each leaf, by the leaf's number."""
        found: dict[int, list[int]] = {}
        for n in self.live:
            if self.graph.nodes[n].kind == "leaf":
                for number in self.graph.nodes[n].info["leaves"]:
                    found.setdefault(number, []).append(n)
        return found


Sides = tuple[Side, Side]


class Colors(dict[object, int]):
    """Small numbers for keys; the same key gives the same number on both sides."""

    def __missing__(self, key: object) -> int:
        self[key] = number = len(self)
        return number


def match(sides: Sides, partial: Callable[[Sides], Match], chosen: Iterable[tuple[int, int]] = ()) -> Match:
    """Matches two graphs. Cost: a few passes over both, and what hangs on it for each tie that is broken.

    Args:
        sides: the graphs.
        partial: what matches graphs that differ.
        chosen: pairs of nodes that the caller says are one; they count where nothing else determines them.
    """
    colors = Colors()
    start(sides, colors)
    _refine(sides, colors)
    _by_marks(sides, colors, _near)
    _by_marks(sides, colors, _of_one_leaf)
    _by_marks(sides, colors, _of_one_group)
    _by_place(sides, colors)
    if any(len(ours) != len(theirs) for ours, theirs in _classes(sides).values()):
        return partial(sides)
    ties = _Ties(sides, colors)
    for a, b in chosen:
        ties.choose(a, b)
    by_mapping = ties.settled()
    ties.by_order()
    found = {ours[0]: theirs[0] for ours, theirs in _classes(sides).values() if len(ours) == len(theirs) == 1}
    basis: dict[int, Basis] = dict.fromkeys(found, "dataflow")
    basis.update((n, "mapping" if n in by_mapping else "order") for n in ties.open if n in found)
    rivals = {n: tied for n, tied in ties.open.items() if n in found and n not in by_mapping}
    return Match(found, basis, rivals)


def start(sides: Sides, colors: Colors) -> None:
    """Colours nodes by what each is alone."""
    for side in sides:
        side.color = [colors["start", side.kind(n)] for n in range(len(side.graph.nodes))]


def _refine(sides: Sides, colors: Colors) -> None:
    """Colours by what is below and above, until they tell no more."""
    known = 0
    for _ in range(_MOST_ROUNDS):
        for side in sides:
            _pass(side, colors)
        count = len({c for side in sides for n, c in enumerate(side.color) if side.used[n]})
        if count == known:
            break
        known = count


def _pass(side: Side, colors: Colors) -> None:
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


def _classes(sides: Sides) -> dict[int, tuple[list[int], list[int]]]:
    """The used nodes of each colour, left and right."""
    found: dict[int, tuple[list[int], list[int]]] = {}
    for which, side in enumerate(sides):
        for n in side.live:
            if side.used[n]:
                found.setdefault(side.color[n], ([], []))[which].append(n)
    return found


def _by_marks(sides: Sides, colors: Colors, mark: Callable[[Side, int], object]) -> None:
    """Breaks ties by a mark, where both sides have the same marks."""
    for _ in range(_MOST_ROUNDS):
        broken = False
        for ours, theirs in _classes(sides).values():
            if len(ours) < 2 or len(ours) != len(theirs):
                continue
            marks = [
                [colors["mark", mark(side, n)] for n in nodes]
                for side, nodes in zip(sides, (ours, theirs), strict=True)
            ]
            if sorted(marks[0]) == sorted(marks[1]) and len(set(marks[0])) > 1:
                broken = True
                for side, nodes, told in zip(sides, (ours, theirs), marks, strict=True):
                    for n, said in zip(nodes, told, strict=True):
                        side.color[n] = colors["marked", side.color[n], said]
        if not broken:
            return
        _refine(sides, colors)


def _near(side: Side, n: int) -> object:
    """What is done to the arrays that a node takes and gives."""
    kind = side.graph.functions.kind

    def told(terms: Iterable[tuple[str, int, int]]) -> tuple[tuple[str, int, int], ...]:
        return tuple(sorted((label, side.color[other], kind(done)) for label, other, done in terms))

    return told(side.graph.nodes[n].operands), told(side.takers[n])


def _of_one_leaf(side: Side, n: int) -> object:
    """Which other pieces the leaf has of which a node is one."""
    node = side.graph.nodes[n]
    if node.kind != "leaf":
        return ()
    return tuple(
        sorted(side.color[other] for number in node.info["leaves"] for other in side.siblings[number])
    )


def _of_one_group(side: Side, n: int) -> object:
    """What a node was added to first, within a sum of sums: whose bias it is."""
    groups = (g for _, taker, _ in side.takers[n] for g in side.graph.nodes[taker].info.get("groups", ()))
    return tuple(sorted(tuple(sorted(side.color[m] for m in group)) for group in groups if n in group))


def _by_place(sides: Sides, colors: Colors) -> None:
    """Breaks ties of pieces that are all of one leaf, on either side, by where each lies in it.

    The indices of an axis mean the same on both sides, as hidden units do: nothing else would tell those
    apart.
    """
    for _ in range(_MOST_ROUNDS):
        broken = False
        for both in _classes(sides).values():
            if len(both[0]) < 2 or len(both[0]) != len(both[1]):
                continue
            ordered = []
            for side, nodes in zip(sides, both, strict=True):
                infos = {n: side.graph.nodes[n].info for n in nodes if side.graph.nodes[n].kind == "leaf"}
                leaves = {info["leaves"] for info in infos.values()}
                if len(infos) == len(nodes) and len(leaves) == len(leaves.pop()) == 1:
                    ordered.append(sorted(nodes, key=lambda n, s=side: _begins(s, n)))  # type: ignore[misc]
            if len(ordered) == 2:
                broken = True
                for side, nodes in zip(sides, ordered, strict=True):
                    for place, n in enumerate(nodes):
                        side.color[n] = colors["place", side.color[n], place]
                break  # what hangs on these is known before others are told apart
        if not broken:
            return
        _refine(sides, colors)


def _begins(side: Side, n: int) -> int:
    """The address at which a leaf's piece begins."""
    return min((box.starts[0] for box in side.graph.boxes(n) or ()), default=0)


class _Ties:
    """Nodes of one colour, told apart by choices; what hangs on a choice is found from node to node.

    Attributes:
        open: the left nodes that were tied at first, each with the right nodes it was tied with.
    """

    def __init__(self, sides: Sides, colors: Colors) -> None:
        self.sides = sides
        self.colors = colors
        self.open: dict[int, tuple[int, ...]] = {}
        # The nodes of each colour that several share, left and right.
        self._tied: dict[int, tuple[set[int], set[int]]] = {}
        for color, (ours, theirs) in _classes(sides).items():
            if len(ours) > 1:
                self._tied[color] = set(ours), set(theirs)
                together = tuple(sorted(theirs, key=sides[1].rank.__getitem__))
                self.open.update((n, together) for n in ours)

    def settled(self) -> set[int]:
        """The left nodes that were tied and are not any more."""
        return set(self.open).difference(*(ours for ours, _ in self._tied.values()))

    def choose(self, a: int, b: int) -> None:
        """Takes two nodes for one, if their colour allows it, and follows what hangs on it."""
        color = self.sides[0].color[a]
        if color not in self._tied or b not in self._tied[color][1]:
            return
        fresh = self.colors["chosen", len(self.colors)]
        todo = self._recolored(({a: fresh}, {b: fresh}))
        while todo[0] or todo[1]:
            moved: tuple[dict[int, int], dict[int, int]] = ({}, {})
            for which, side in enumerate(self.sides):
                for n in todo[which]:
                    if side.color[n] in self._tied:
                        moved[which][n] = self.colors["hangs on", side.color[n], _around(side, n)]
            todo = self._recolored(moved)

    def by_order(self) -> None:
        """Breaks every tie that is left by the order of the programs."""
        for a in sorted(self.open, key=self.sides[0].rank.__getitem__):
            color = self.sides[0].color[a]
            if color in self._tied:
                self.choose(a, min(self._tied[color][1], key=self.sides[1].rank.__getitem__))

    def _recolored(self, fresh: tuple[dict[int, int], dict[int, int]]) -> tuple[set[int], set[int]]:
        """Gives nodes new colours; returns the nodes next to those.

        A colour that all the nodes of one get alike tells nothing new: it is not given.
        """
        near: tuple[set[int], set[int]] = (set(), set())
        touched: set[int] = set()
        for which, side in enumerate(self.sides):
            by_color: dict[int, list[int]] = {}
            for n in fresh[which]:
                by_color.setdefault(side.color[n], []).append(n)
            for old, nodes in by_color.items():
                if len(nodes) == len(self._tied[old][which]) and len({fresh[which][n] for n in nodes}) == 1:
                    continue
                touched.add(old)
                for n in nodes:
                    self._tied[old][which].discard(n)
                    side.color[n] = fresh[which][n]
                    self._tied.setdefault(side.color[n], (set(), set()))[which].add(n)
                    touched.add(side.color[n])
                    near[which].update(_neighbours(side, n))
        for color in touched:
            if all(len(nodes) <= 1 for nodes in self._tied[color]):
                del self._tied[color]
        return near


def _around(side: Side, n: int) -> object:
    color = side.color
    below = sorted((label, color[taken]) for label, taken, _ in side.graph.nodes[n].operands)
    above = sorted((label, color[taker]) for label, taker, _ in side.takers[n] if side.used[taker])
    back = side.graph.nodes[n].info.get("back")
    return tuple(below), tuple(above), None if back is None else color[back[0]]


def _neighbours(side: Side, n: int) -> set[int]:
    node = side.graph.nodes[n]
    near = {taken for _, taken, _ in node.operands} | {taker for _, taker, _ in side.takers[n]}
    return near | ({node.info["back"][0]} if "back" in node.info else set())


def unmatched(side: Side, taken: Iterable[int]) -> list[int]:
    """The leaves' pieces that lead to a result and have no partner."""
    seen = set(taken)
    nodes = side.graph.nodes
    return [n for n in side.live if nodes[n].kind == "leaf" and side.used[n] and n not in seen]
