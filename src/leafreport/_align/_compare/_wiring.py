"""Whether axes run through two matched programs alike: which are contracted, summed over, flipped, and where.

Two programs can be one node by node and still turn an axis the other way. What is done at a matched node is
done along the same axes on both sides: from one node to the next it is found which axis is which. The first
place that says another thing than those before it is a difference; what follows from it is not said.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from leafreport._align._compare._places import Places
from leafreport._align._match._graph import Graph
from leafreport._align._match._match import Sides
from leafreport._align._match._nodes import Meeting
from leafreport._align._records import Difference, Place
from leafreport._align._trace._dims import Dim

# What a product does with the axes that it does not contract follows from where its operands have them.
_IMPLIED = ("batch", "kept by")
_MOST_PASSES = 8


def wiring(
    sides: Sides,
    found: Mapping[int, int],
    places: tuple[Places, Places],
) -> list[Difference]:
    """What runs otherwise in two programs that are one node by node.

    Cost: a few steps for each axis of each node.

    Args:
        sides: the graphs.
        found: which node is which.
        places: where nodes are.
    """
    rank = sides[0].rank
    pairs = sorted(found.items(), key=lambda pair: rank[pair[0]])
    left = _Wires(sides[0].graph, [a for a, _ in pairs], places[0])
    right = _Wires(sides[1].graph, [b for _, b in pairs], places[1])

    def difference(what: str, told: tuple[str, str], n: int) -> Difference:
        return Difference(what, *told, places[0].of(pairs[n][0]), places[1].of(pairs[n][1]))

    for n, (a, b) in enumerate(pairs):
        if sides[0].graph.nodes[a].kind == "input" in sides[0].exact:
            cuts = left.cut(a), right.cut(b)
            if cuts[0] and cuts[1] and cuts[0] != cuts[1]:
                told = sides[0].graph.part_words(a), sides[1].graph.part_words(b)
                return [difference("input", told, n)]
    axes = _Axes(left, right)
    crossed = axes.crossed(sides[0].exact)
    if crossed is not None:
        return [difference("axes", crossed[1], crossed[0])]
    out: list[Difference] = []
    for n, (a, b) in enumerate(pairs):
        for what, told in axes.turned(left.graph.met.get(a, ()), right.graph.met.get(b, ())):
            out.append(difference(what, told, n))
    lost = [_lost(side.graph) for side in sides]
    if lost[0] != lost[1]:
        out.append(Difference("axes", lost[0], lost[1], Place(), Place()))
    return out


def _lost(graph: Graph) -> str:
    """What was not understood of axes, in words."""
    told = [f"{why}, {count:,} times" for why, count in graph.program.unknown.items() if " " in why]
    return " and ".join(sorted(told)) or "every axis is understood"


class _Wires:
    """A side's axes: what is done along which of them at matched nodes, and which are of one array.

    Attributes:
        events: for each matched node, by its number, and each thing that is done there along which axes.
        beside: for each axis the others that arrays have beside it.
    """

    def __init__(self, graph: Graph, nodes: Sequence[int], places: Places) -> None:
        self.graph = graph
        self.places = places
        self.events: dict[tuple[int, str], list[Dim]] = {}
        self.beside: dict[Dim, set[Dim]] = {}
        number = {node: n for n, node in enumerate(nodes)}
        for atom, events in graph.events.items():
            for node, role in dict.fromkeys(events):
                if node in number and not role.startswith(_IMPLIED):
                    self.events.setdefault((number[node], role), []).append(atom)
        for n, node in enumerate(nodes):
            own = self._axes(node)
            kind = graph.nodes[node].kind
            if kind == "leaf":
                self.events[n, "has"] = [atom for axis in own for atom in axis]
            elif kind in ("input", "output"):
                for place, axis in enumerate(own):
                    self.events[n, f"{kind} axis {place}:"] = list(axis)
            atoms = {atom for axis in own for atom in axis}
            for atom in atoms:
                self.beside.setdefault(atom, set()).update(atoms - {atom})

    def _axes(self, node: int) -> list[tuple[Dim, ...]]:
        """The axes of a node's array, each as the dims it runs over."""
        info, made = self.graph.nodes[node].info, self.graph.nodes[node].made
        if "array" in info:
            array, at = info["array"], info["at"]
        elif made is not None:
            array, at = self.graph.program.ops[made[0]].output, made[1]
        else:
            return []
        return [segment.atoms for segment in self.graph.pieces.along(array, at)]

    def course(self, atoms: Iterable[Dim]) -> list[tuple[object, int, int]] | None:
        """How an axis of a result runs through the inputs: along which axis, in what steps, and how far.

        Returns:
            None for an axis that a leaf has: it is laid out as that is.
        """
        found: list[tuple[object, int, int]] = []
        for atom in atoms:
            if atom not in self._inputs and atom in self._of_leaves:
                return None
            of, step = self._inputs.get(atom, (None, 0))
            if found and found[-1][0] == of is not None and found[-1][1] == step * atom.size:
                found[-1] = of, step, found[-1][2] * atom.size
            else:
                found.append((of, step, atom.size))
        return found

    @cached_property
    def _inputs(self) -> dict[Dim, tuple[tuple[int, int], int]]:
        """For each axis that an input runs over that input and its axis, and the step along it."""
        found: dict[Dim, tuple[tuple[int, int], int]] = {}
        for number, array in enumerate(self.graph.program.inputs):
            for axis, dim in enumerate(array.dims):
                for part in self.graph.pieces.segments(dim).values():
                    for atom, step in zip(part.atoms, part.steps, strict=True):
                        found.setdefault(atom, ((number, axis), step))
        return found

    @cached_property
    def _of_leaves(self) -> frozenset[Dim]:
        nodes = (node.info["array"] for node in self.graph.nodes if node.kind == "leaf")
        return self.graph.pieces.atoms(dim for array in nodes for dim in array.dims)

    def cut(self, node: int) -> set[int]:
        """Of an input's piece, the axes of which it is no more than a part."""
        info = self.graph.nodes[node].info
        sizes = zip(info["array"].dims, self._axes(node), strict=True)
        return {axis for axis, (dim, atoms) in enumerate(sizes) if _size(atoms) != dim.size}

    def words(self, atoms: Iterable[Dim]) -> str:
        """Axes in words: whose they are."""
        return " and ".join(dict.fromkeys(map(self.places.axis, atoms))) or "no axis"


@dataclass(eq=False, slots=True)
class _Class:
    """Axes of both sides that are one."""

    left: set[Dim]
    right: set[Dim]


class _Axes:
    """Which left axis is which right one."""

    def __init__(self, left: _Wires, right: _Wires) -> None:
        self.left = left
        self.right = right
        self._class: dict[Dim, _Class] = {}

    def crossed(self, exact: frozenset[str]) -> tuple[int, tuple[str, str]] | None:
        """The first node at which something is done along other axes than on the other side.

        Args:
            exact: `input` and `output`, where both sides lay these out alike.
        """
        ordered = tuple(f"{kind} axis" for kind in exact)
        keys = {*self.left.events, *self.right.events}
        todo = sorted(keys, key=lambda key: (not key[1].startswith("input axis"), key))
        for _ in range(_MOST_PASSES):
            open_keys = []
            joined = len(self._class)
            for n, role in todo:
                ours, theirs = self.left.events.get((n, role), []), self.right.events.get((n, role), [])
                if " axis" in role:
                    if not role.startswith(ordered):
                        continue
                    odd = self._in_order(ours, theirs)
                elif role == "contracted" and _size(ours) != _size(theirs):
                    return n, self._words(role, ours, theirs)
                else:
                    odd = self._lone(ours, theirs)
                if odd is None:
                    open_keys.append((n, role))
                elif odd != ([], []):
                    return n, self._words(role, *odd)
            todo = open_keys
            if joined == len(self._class):
                break
        return self._open(todo)

    def _open(self, keys: Iterable[tuple[int, str]]) -> tuple[int, tuple[str, str]] | None:
        """The first of the places at which it is not known which axis is which where these cannot be one."""
        for n, role in keys:
            ours, theirs = self.left.events.get((n, role), []), self.right.events.get((n, role), [])
            if role.startswith("output axis"):
                courses = self.left.course(ours), self.right.course(theirs)
                odd = None not in courses and courses[0] != courses[1]
            else:
                odd = " axis" not in role and not role.startswith("each ") and _size(ours) != _size(theirs)
            if odd:
                return n, self._words(role, ours, theirs)
        return None

    def _lone(self, ours: Sequence[Dim], theirs: Sequence[Dim]) -> tuple[list[Dim], list[Dim]] | None:
        """Takes the one axis on each side that is not known yet for one.

        Returns:
            What cannot be one; None where there are several.
        """
        left, right = list(ours), list(theirs)
        for atom in ours:
            known = self._class.get(atom)
            partner = next((b for b in right if known is not None and b in known.right), None)
            if partner is not None:
                left.remove(atom)
                right.remove(partner)
        if not left and not right:
            return [], []
        if len(left) != 1 or len(right) != 1 or left[0].size != right[0].size:
            return None
        return ([], []) if self._join(left[0], right[0]) else (left, right)

    def _in_order(self, ours: Sequence[Dim], theirs: Sequence[Dim]) -> tuple[list[Dim], list[Dim]] | None:
        """Takes the axes that one is divided into for one, in their order.

        Returns:
            What cannot be one; None where the axis is divided otherwise.
        """
        if [a.size for a in ours] == [b.size for b in theirs]:
            odd = [(a, b) for a, b in zip(ours, theirs, strict=True) if not self._join(a, b)]
            return [a for a, _ in odd], [b for _, b in odd]
        known = [[self._class.get(atom) for atom in atoms] for atoms in (ours, theirs)]
        if None in known[0] or None in known[1] or set(map(id, known[0])) != set(map(id, known[1])):
            return None
        return list(ours), list(theirs)

    def _join(self, a: Dim, b: Dim) -> bool:
        """Takes two axes for one; false where one array has both, under this name or another."""
        one = self._class.get(a) or _Class({a}, set())
        other = self._class.get(b) or _Class(set(), {b})
        if one is other:
            return True
        small, large = sorted((one, other), key=lambda own: len(own.left) + len(own.right))
        if any(self.left.beside.get(atom, _NONE) & large.left for atom in small.left):
            return False
        if any(self.right.beside.get(atom, _NONE) & large.right for atom in small.right):
            return False
        large.left |= small.left
        large.right |= small.right
        for atom in (*small.left, *small.right, a, b):
            self._class[atom] = large
        return True

    def _words(self, role: str, ours: Sequence[Dim], theirs: Sequence[Dim]) -> tuple[str, str]:
        said = _SAID.get(role, role.strip())
        told = [f"{said} {side.words(own)}" for side, own in ((self.left, ours), (self.right, theirs))]
        if told[0] == told[1] or role == "contracted":
            told = [f"{text} ({_size(own):,})" for text, own in zip(told, (ours, theirs), strict=True)]
        return told[0], told[1]

    # --- Constants

    def turned(
        self, ours: Sequence[Meeting], theirs: Sequence[Meeting]
    ) -> Iterator[tuple[str, tuple[str, str]]]:
        """The constants that a node's array meets along other axes than on the other side."""
        rest = [(one.ident, self._along(one)) for one in theirs]
        for one in ours:
            own = self._along(one)
            same = next((n for n, (_, other) in enumerate(rest) if _same(own, other)), None)
            if same is not None:
                rest.pop(same)
            elif one.ident in (ident for ident, _ in rest):  # another one is a difference of its own
                constants = self.left.graph.functions.constants
                what = "mask" if one.values.dtype == bool else "constant"
                said = constants.mask_words(one.ident) if what == "mask" else constants.words(one.ident)
                yield what, (f"{said}, one way round", f"{said}, the other way round")

    def _along(self, one: Meeting) -> "_Along":
        """A constant with its axes in an order that both sides share; those that are alike as one."""
        labels = [(id(self._class[atom]) if atom in self._class else 0, owner) for atom, owner in one.axes]
        order = sorted(range(len(labels)), key=labels.__getitem__)
        kinds: list[tuple[int, str]] = []
        sizes: list[int] = []
        for n in order:
            if kinds and kinds[-1] == labels[n]:
                sizes[-1] *= one.values.shape[n]
            else:
                kinds.append(labels[n])
                sizes.append(one.values.shape[n])
        return one.values.transpose(order).reshape(sizes), tuple(kinds)


# What is done along axes, in words.
_SAID = {"has": "runs along", "contracted": "contracts", "each ": "steps along", "rev ": "flips"}
_NONE: frozenset[Dim] = frozenset()
_Along = tuple[np.ndarray, tuple[tuple[int, str], ...]]


def _size(atoms: Iterable[Dim]) -> int:
    return math.prod(atom.size for atom in atoms)


def _same(a: _Along, b: _Along) -> bool:
    if a[1] != b[1] or a[0].shape != b[0].shape:
        return False
    if a[0].dtype == bool:
        return bool(np.array_equal(a[0], b[0]))
    return bool(np.allclose(a[0].astype(complex), b[0].astype(complex), rtol=1e-5, atol=1e-7, equal_nan=True))
