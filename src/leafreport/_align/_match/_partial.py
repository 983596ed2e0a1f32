"""Two graphs that differ somewhere: what is the same up to there, and after, and next to what is known.

A node is matched where it is the only one of its kind on either side: first by everything before it, or
everything after it, together with what is near; then, from node to node, among those that a matched pair
takes or is taken by. From the beginning and from the end is tried: what the two do not agree on is open,
and said so.
"""

from collections.abc import Callable, Mapping, Sequence

from leafreport._align._match._match import Colors, Match, Side, Sides, start
from leafreport._align._records import Basis

# How far is looked around a node, in steps.
_RADII = (0, 1, 2, 4)


def partial(sides: Sides) -> Match:
    """Matches two graphs that differ. Cost: some passes over both."""
    colors = Colors()
    near = [_near_colors(side, colors) for side in sides]
    start(sides, colors)
    whole = [[way(side, colors) for side in sides] for way in (_forward, _backward)]
    ways = _Spread(sides, near), _Spread(sides, near)
    forth, back = ways[0].matched(whole), ways[1].matched(whole[::-1])
    basis: dict[int, Basis] = dict.fromkeys(forth, "dataflow")
    rivals: dict[int, tuple[int, ...]] = dict(ways[0].open)
    to_left = {b: a for a, b in forth.items()}
    for a, b in back.items():
        other = forth.get(a)
        if other == b:
            continue
        if other is not None:
            rivals[a] = other, b
        elif b in to_left:  # the right one is taken: by someone who might have another
            rivals.setdefault(to_left[b], (b,))
        else:
            forth[a] = b
            basis[a] = "dataflow"
    for a in rivals:
        basis[a] = "order"
    return Match(forth, basis, rivals, whole=False)


class _Spread:
    """One way to match: from both ends, one of them first."""

    def __init__(self, sides: Sides, near: Sequence[Sequence[Sequence[int]]]) -> None:
        self.sides = sides
        self.near = near
        self.found: dict[int, int] = {}
        self.back: dict[int, int] = {}
        self.todo: list[tuple[int, int]] = []
        # Left nodes that were matched by their order alone, with the right ones that would do as well.
        self.open: dict[int, tuple[int, ...]] = {}

    def matched(self, whole: Sequence[Sequence[Sequence[int]]]) -> dict[int, int]:
        """The nodes that are matched."""
        for ends in whole:
            for radius in reversed(range(len(_RADII))):
                keys = [
                    {n: (ends[i][n], self.near[i][radius][n]) for n in side.live}
                    for i, side in enumerate(self.sides)
                ]
                self._unique(keys)
        known = -1
        while known < len(self.found):  # what is matched leaves fewer to choose from elsewhere
            known = len(self.found)
            self.todo = list(self.found.items())
            while self.todo:
                self._around(*self.todo.pop())
            if known == len(self.found):
                self._by_order()
        return self.found

    def _by_order(self) -> None:
        """Matches what matched nodes take and nothing tells apart, in order; it is noted as open."""
        for a, b in list(self.found.items()):
            groups: dict[int, tuple[list[int], list[int]]] = {}
            for i, (side, n) in enumerate(zip(self.sides, (a, b), strict=True)):
                known = self.found if i == 0 else self.back
                for _, taken, _ in side.graph.nodes[n].operands:
                    if taken not in known:
                        groups.setdefault(self.near[i][0][taken], ([], []))[i].append(taken)
            for ours, theirs in groups.values():
                if 1 < len(ours) == len(theirs):
                    ours.sort(key=self.sides[0].rank.__getitem__)
                    theirs.sort(key=self.sides[1].rank.__getitem__)
                    for one, other in zip(ours, theirs, strict=True):
                        self._keep(one, other)
                        self.open[one] = tuple(theirs)
                    return

    def _unique(self, keys: Sequence[Mapping[int, object]]) -> None:
        """Matches what is alone with its key among these nodes on both sides."""
        groups: dict[object, tuple[list[int], list[int]]] = {}
        for i, known in enumerate((self.found, self.back)):
            for n, key in keys[i].items():
                if n not in known and self.sides[i].used[n]:
                    groups.setdefault(key, ([], []))[i].append(n)
        for ours, theirs in groups.values():
            if len(ours) == len(theirs) == 1:
                self._keep(ours[0], theirs[0])

    def _around(self, a: int, b: int) -> None:
        """Matches what a matched pair takes, and what takes it."""
        both = tuple(zip(self.sides, (a, b), strict=True))
        takes = [{taken: label for label, taken, _ in side.graph.nodes[n].operands} for side, n in both]
        taken = [{taker: label for label, taker, _ in side.takers[n]} for side, n in both]
        self._through(takes)
        for near in (takes, taken):
            for radius in reversed(range(len(_RADII))):
                self._unique(
                    [{n: (label, self.near[i][radius][n]) for n, label in near[i].items()} for i in (0, 1)]
                )

    def _through(self, takes: Sequence[Mapping[int, str]]) -> None:
        """Matches across a sum or a product that one side alone has: what it has beside the rest is extra."""
        lone = [
            [n for n in takes[i] if n not in known and self.sides[i].used[n]]
            for i, known in enumerate((self.found, self.back))
        ]
        if len(lone[0]) != 1 or len(lone[1]) != 1:
            return
        for i in (0, 1):
            nodes = self.sides[i].graph.nodes
            other = lone[1 - i][0]
            kinds = self.near[0][0], self.near[1][0]
            if (
                nodes[lone[i][0]].kind not in ("sum", "product")
                or kinds[i][lone[i][0]] == kinds[1 - i][other]
            ):
                continue
            known = self.found if i == 0 else self.back
            within = [t for _, t, _ in nodes[lone[i][0]].operands if t not in known]
            alike = [t for t in within if kinds[i][t] == kinds[1 - i][other]]
            if len(alike) == 1:
                ours, theirs = (alike[0], other) if i == 0 else (other, alike[0])
                self._keep(ours, theirs)
                return

    def _keep(self, a: int, b: int) -> None:
        self.found[a] = b
        self.back[b] = a
        self.todo.append((a, b))


def _near_colors(side: Side, colors: Colors) -> list[list[int]]:
    """For each radius, colours by what is that near."""
    color = [colors["near", side.kind(n), _met_in(side, n)] for n in range(len(side.graph.nodes))]
    out = [color]
    kind = side.graph.functions.kind
    for step in range(1, _RADII[-1] + 1):
        before = color
        color = list(before)
        for n in side.live:
            node = side.graph.nodes[n]
            below = sorted((label, before[taken], kind(done)) for label, taken, done in node.operands)
            above = sorted((label, before[taker], kind(done)) for label, taker, done in side.takers[n])
            color[n] = colors["near", before[n], tuple(below), tuple(above)]
        if step in _RADII:
            out.append(color)
    return out


def _met_in(side: Side, n: int) -> tuple[str, ...]:
    """Of a leaf in which kinds of nodes it meets others: what is added is nothing that is multiplied by."""
    if side.graph.nodes[n].kind != "leaf":
        return ()
    return tuple(sorted({side.graph.nodes[taker].kind for _, taker, _ in side.takers[n] if side.used[taker]}))


_Way = Callable[[Side, Colors], list[int]]


def _forward(side: Side, colors: Colors) -> list[int]:
    """Colours by all that comes before."""
    out = list(side.color)
    for n in side.live:
        below = sorted((label, out[taken]) for label, taken, _ in side.graph.nodes[n].operands)
        out[n] = colors["up", side.color[n], tuple(below)]
    return out


def _backward(side: Side, colors: Colors) -> list[int]:
    """Colours by all that comes after."""
    out = list(side.color)
    for n in reversed(side.live):
        above = sorted(
            (label, out[taker]) for label, taker, _ in side.takers[n] if side.used[taker] and label != "back"
        )
        out[n] = colors["down", side.color[n], tuple(above)]
    return out
