"""What two matched programs do differently though no leaf holds it: epsilons, paddings, activations, ..."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from leafreport._align._compare._places import Places
from leafreport._align._compare._unlike import unlike
from leafreport._align._compare._wiring import wiring
from leafreport._align._compare._words import Step, apart, steps
from leafreport._align._layout._axes import Axes
from leafreport._align._match._functions import Functions
from leafreport._align._match._graph import Graph
from leafreport._align._match._match import Match, Sides
from leafreport._align._match._nodes import Node, Term
from leafreport._align._records import Difference, Place
from leafreport._leaf import Path, display_path

# A difference, and what it is about: the same one seen from several takers is said once.
_Key = tuple[Any, str, str, str]


@dataclass(slots=True)
class Found:
    """What a comparison of matched nodes gave.

    Attributes:
        differences: what is not the same.
        moves: for left leaves' pieces whose values are others on the right: factor and summand.
    """

    differences: list[Difference] = field(default_factory=list)
    moves: dict[int, tuple[float, float]] = field(default_factory=dict)


def differences(
    sides: Sides, found: Match, axes: tuple[Axes, Axes], paths: tuple[Sequence[Path], Sequence[Path]]
) -> Found:
    """Compares what is done at and between matched nodes. Cost: one step for each operand.

    Args:
        sides: the graphs.
        found: which node is which.
        axes: what tells their axes apart.
        paths: the paths of the leaves of each side.
    """
    return _Comparison(sides, found, axes, paths).result()


class _Comparison:
    def __init__(
        self,
        sides: Sides,
        found: Match,
        axes: tuple[Axes, Axes],
        paths: tuple[Sequence[Path], Sequence[Path]],
    ) -> None:
        self.sides = sides
        self.left: Graph = sides[0].graph
        self.right: Graph = sides[1].graph
        self.functions: Functions = self.left.functions
        self.found = found.nodes
        self.whole = found.whole
        self.back = {b: a for a, b in found.nodes.items()}
        self.paths = paths
        self.places = Places(sides[0], paths[0]), Places(sides[1], paths[1])
        self.axes = axes
        self.out: dict[_Key, Difference] = {}
        self.moves: dict[int, tuple[float, float]] = {}
        # Of each matched pair what is undone of the right one's array before it is compared, and why.
        self.adjusted: dict[int, int] = {}

    def result(self) -> Found:
        for a in sorted(self.found, key=self.sides[0].rank.__getitem__):
            if self.left.nodes[a].kind == "leaf":
                self._leaf_move(a)
            else:
                self._absorbed(a)
        for a in sorted(self.found, key=self.sides[0].rank.__getitem__):
            self._node(a, self.found[a])
        found = list(self.out.values())
        apart = (
            self.left.copies or self.right.copies
        )  # a leaf that one side shares makes axes one there alone
        if self.whole and not apart and not {difference.what for difference in found} - _HARMLESS:
            found += wiring(self.sides, self.found, self.places)
        found += unlike(self.left.program, self.right.program, {difference.what for difference in found})
        return Found(found, self.moves)

    # --- Values that are others on the right

    def _edges(self, a: int) -> Iterator[tuple[int, int, int]]:
        """What is done with a matched node's array on both sides on the way to each matched taker."""
        b = self.found[a]
        theirs = {(label, taker): done for label, taker, done in self.sides[1].takers[b]}
        for label, taker, done in self.sides[0].takers[a]:
            other = theirs.get((label, self.found.get(taker, -1)))
            if other is not None:
                yield done, other, taker

    def _leaf_move(self, a: int) -> None:
        """Constant arithmetic on a leaf before it meets anything: undone where both sides' is known."""
        moves = set()
        for ours, theirs, _ in self._edges(a):
            if self.functions.same(ours, theirs):
                moves.add((1.0, 0.0))
                continue
            left, right = self.functions.affine(ours), self.functions.affine(theirs)
            if left is None or right is None:
                return
            moves.add((left[0] / right[0], (left[1] - right[1]) / right[0]))
        if len(moves) == 1 and (move := moves.pop()) != (1.0, 0.0):
            self._move(a, move)
            self.adjusted[a] = self._affine(*move)

    def _absorbed(self, a: int) -> None:
        """A constant that is added after a sum with a leaf, or that a leaf of a product was multiplied by."""
        kind = self.left.nodes[a].kind
        edges = list(self._edges(a))
        if not edges or all(self.functions.same(ours, theirs) for ours, theirs, _ in edges):
            return
        leaves = [
            taken
            for _, taken, done in self.left.nodes[a].operands
            if self.left.nodes[taken].kind == "leaf"
            and taken in self.found
            and done == Functions.X
            and self.sides[0].takers[taken] == [("", a, done)]
        ]
        if not leaves:
            return
        if kind == "sum":
            first = [[self.functions.first_step(e) for e in pair[:2]] for pair in edges]
            shifts = {tuple(s[1] if s and s[0] == "add" else 0.0 for s in pair) for pair in first}
            if len(shifts) == 1:
                ours, theirs = shifts.pop()
                self._absorb(a, leaves[0], edges, (1.0, ours - theirs))
        elif kind in ("dot", "conv", "product"):
            scales = [self._leaf_scale(self.left.nodes[a]), self._leaf_scale(self.right.nodes[self.found[a]])]
            if scales[0] != scales[1]:
                self._absorb(a, leaves[0], edges, (scales[0] / scales[1], 0.0))

    def _leaf_scale(self, node: Node) -> float:
        scale = 1.0
        for factor in node.info.get("scaled", {}).values():
            scale *= factor
        return scale

    def _absorb(
        self, a: int, leaf: int, edges: Sequence[tuple[int, int, int]], move: tuple[float, float]
    ) -> None:
        """Takes a leaf's values for others, where that makes everything after the node the same."""
        undone = self._affine(*move)
        after = self.functions.after
        if all(self.functions.same(ours, after(theirs, undone)) for ours, theirs, _ in edges):
            self._move(leaf, move)
            self.adjusted[a] = undone

    def _affine(self, scale: float, shift: float) -> int:
        made = self.functions.scaled(Functions.X, scale)
        return self.functions.made("add", [("e", made), ("c", shift)]) if shift else made

    def _move(self, leaf: int, move: tuple[float, float]) -> None:
        before = self.moves.get(leaf, (1.0, 0.0))
        self.moves[leaf] = before[0] * move[0], before[1] * move[0] + move[1]

    # --- Nodes

    def _node(self, a: int, b: int) -> None:
        ours, theirs = self.left.nodes[a], self.right.nodes[b]
        self._settings(a, b)
        left = [*ours.operands, *_back(ours)]
        right = [*theirs.operands, *_back(theirs)]
        taken = list(right)
        rest: list[Term] = []
        for label, node, done in left:
            partner = self._fitting(label, self.found.get(node, -1), done, taken)
            if partner is not None:
                taken.remove(partner)
                self._between((node, done), partner[1:], a, b, label)
            else:
                rest.append((label, node, done))
        lone: list[Term] = []
        for label, node, done in rest:  # what is taken in another role
            other = next((term for term in taken if term[1] == self.found.get(node, -1)), None)
            if other is None:
                lone.append((label, node, done))
                continue
            taken.remove(other)
            self._between((node, done), other[1:], a, b, label)
            roles = [_roles(label), _roles(other[0])]
            if roles[0] == roles[1]:
                roles = ["in one role", "in another one"]
            told = f"{self._name(0, node)} {roles[0]}", f"{self._name(1, other[1])} {roles[1]}"
            self._add(a, "axes", told, (self.places[0].of(a), self.places[1].of(b)))
        if lone or taken:
            self._unlike(a, b, lone, taken)

    def _fitting(self, label: str, node: int, done: int, taken: Sequence[Term]) -> Term | None:
        """Among what is taken of one node in one role, what had the same done to it, or the first."""
        fitting = [term for term in taken if term[:2] == (label, node)]
        alike = (term for term in fitting if self.functions.same(done, term[2]))
        return next(alike, fitting[0] if fitting else None) if len(fitting) > 1 else next(iter(fitting), None)

    def _between(self, left: tuple[int, int], right: tuple[int, int], a: int, b: int, label: str) -> None:
        """What is done on the way from one matched node to another."""
        undone = self.adjusted.get(left[0], Functions.X)
        ours, theirs = left[1], self.functions.after(right[1], undone)
        if label == "index":
            rows = self.left.nodes[a].info.get("rows", 1)
            if self.functions.same_index(ours, theirs, rows):
                return
        if self.functions.same(ours, theirs):
            self._over_axes(left, right, a, b)
            return
        places = self.places[0].between(left[0], a, left[1]), self.places[1].between(right[0], b, right[1])
        one, other = apart(steps(self.functions, ours), steps(self.functions, theirs))
        what = _what(one, other)
        if what == "epsilon":
            told = f"{one[0].epsilon:g}", f"{other[0].epsilon:g}"
        else:
            told = _words(one), _words(other)
        if told[0] == told[1]:
            told = f"{told[0]}, computed in one way", f"{told[1]}, computed in another"
        self._add(left[0], what, told, places)

    def _over_axes(self, left: tuple[int, int], right: tuple[int, int], a: int, b: int) -> None:
        """Whether the same is taken together along the same axes, as far as these are known on both sides."""
        both = []
        for axes, (_, done) in zip(self.axes, (left, right), strict=True):
            atoms = [atom for _, _, over in self.functions.reduced(done) for atom, _ in over]
            both.append({axes.color(atom, "summed over"): atom for atom in atoms})
        ours, theirs = both
        swapped = ours.keys() != theirs.keys() and theirs.keys() <= self.axes[0].elsewhere
        if swapped and ours.keys() <= self.axes[1].elsewhere:
            told = tuple(
                f"over {' and '.join(sorted({self.places[side].axis(atom) for atom in found.values()}))}"
                for side, found in enumerate(both)
            )
            places = (
                self.places[0].between(left[0], a, left[1]),
                self.places[1].between(right[0], b, right[1]),
            )
            self._add(left[0], "axes", (told[0], told[1]), places)

    def _settings(self, a: int, b: int) -> None:
        """What a product or a convolution is told beside its operands."""
        ours, theirs = self.left.nodes[a], self.right.nodes[b]
        steps = ours.info.get("steps"), theirs.info.get("steps")
        if steps[0] != steps[1]:
            told = _steps_words(steps[0]), _steps_words(steps[1])
            self._add("steps", "steps", told, (self.places[0].of(a), self.places[1].of(b)))
        one, other = ours.info.get("settings"), theirs.info.get("settings")
        if one is None or other is None:
            return
        facts: list[tuple[str, Any, Any]] = []
        if ours.kind == theirs.kind == "conv":
            facts += [(key, one[key], other[key]) for key in ("strides", "padding", "groups")]
            facts.append(("dilation", _dilation(one), _dilation(other)))
            facts.append(("window", one["sizes"], other["sizes"]))
        computed = [", ".join(sorted(set(node.info.get("computes", ())))) for node in (ours, theirs)]
        facts.append(("dtype", computed[0], computed[1]))
        facts.append(("accumulation", one["accumulate"], other["accumulate"]))
        for what, x, y in facts:
            if x != y and not (what == "accumulation" and computed[0] != computed[1]):
                self._add(a, what, (str(x), str(y)), (self.places[0].of(a), self.places[1].of(b)))

    def _unlike(self, a: int, b: int, lone: list[Term], others: list[Term]) -> None:
        """Operands that only one side has."""
        ours, theirs = self.left.nodes[a], self.right.nodes[b]
        places = self.places[0].of(a), self.places[1].of(b)
        for side, mine, its in ((0, lone, others), (1, others, lone)):
            # A sum on one side, of which the other side has one term alone.
            graph = self.left if side == 0 else self.right
            for term in list(mine):
                node = graph.nodes[term[1]]
                if node.kind not in ("sum", "product"):
                    continue
                shared = [t for t in its if self._partner(side, t[1]) in {n for _, n, _ in node.operands}]
                if len(shared) == 1:
                    kept = self._partner(side, shared[0][1])
                    extra = [t for t in node.operands if t[1] != kept]
                    here = self.places[side].of(term[1])
                    there = self.places[1 - side].of(shared[0][1])
                    words = _said(node.kind, [self._name(side, t[1]) for t in extra])
                    self._add(
                        (side, term[1]),
                        "term" if node.kind == "sum" else "factor",
                        (words, "nothing") if side == 0 else ("nothing", words),
                        (here, there) if side == 0 else (there, here),
                    )
                    mine.remove(term)
                    its.remove(shared[0])
        if not lone and not others:
            return
        leaves = [
            [t[1] for t in terms if graph.nodes[t[1]].kind == "leaf"]
            for graph, terms in ((self.left, lone), (self.right, others))
        ]
        if len(leaves[0]) == len(leaves[1]) == len(lone) == len(others) == 1:
            shapes = [
                graph.nodes[nodes[0]].info["array"].shape
                for graph, nodes in zip((self.left, self.right), leaves, strict=True)
            ]
            if math.prod(shapes[0]) != math.prod(shapes[1]):
                told = [f"{self._name(side, nodes[0])} {shapes[side]}" for side, nodes in enumerate(leaves)]
                self._add(a, "shape", (told[0], told[1]), places)
            return
        what = {"sum": "term", "product": "factor"}.get(
            ours.kind if ours.kind == theirs.kind else "", "input"
        )
        names = [[self._name(side, t[1]) for t in terms] for side, terms in enumerate((lone, others))]
        told = [_said(ours.kind, n) if n else "nothing" for n in names]
        if ours.kind == theirs.kind == "output":
            told = [
                f"{g.part_words(n)} {t}" for g, n, t in ((self.left, a, told[0]), (self.right, b, told[1]))
            ]
        self._add(a, what, (told[0], told[1]), places)

    def _partner(self, side: int, n: int) -> int:
        """The node of a side that a node of the other one is."""
        if side == 1:
            return self.found.get(n, -1)
        return self.back.get(n, -1)

    def _name(self, side: int, n: int) -> str:
        """What an operand is, in words."""
        graph = (self.left, self.right)[side]
        node = graph.nodes[n]
        if node.kind == "leaf":
            return " and ".join(display_path(self.paths[side][number]) for number in node.info["leaves"])
        if node.kind == "input":
            return graph.part_words(n)
        place = self.places[side].of(n)
        where = place.after or place.before
        kind = {"dot": "product", "conv": "convolution", "join": node.info.get("why", "")}.get(
            node.kind, node.kind
        )
        if where is None:
            return f"a {kind}"
        beside = "at" if place.after == place.before else "after" if place.after else "before"
        return f"the {kind} {beside} {display_path(where)}"

    def _add(self, about: Any, what: str, told: tuple[str, str], places: tuple[Place, Place]) -> None:
        key = about, what, *told
        if key not in self.out:
            self.out[key] = Difference(what, *told, *places)


# What changes no axis: where nothing else differs, axes can be compared.
_HARMLESS = frozenset(
    {"epsilon", "activation", "norm", "scale", "constant", "dropout", "dtype", "accumulation"}
)


def _back(node: Node) -> list[Term]:
    return [("back", *node.info["back"])] if "back" in node.info else []


def _roles(label: str) -> str:
    said = {
        "ends": "has an axis that is summed over later",
        "sums": "has an axis that is summed over at once",
    }
    return said.get(label, "has no axis that is summed over later")


def _steps_words(steps: int | None) -> str:
    """How often a loop runs, in words; a number that stands for its condition is none to read."""
    if steps is None:
        return "no loop"
    return f"{steps:,} steps" if steps < _MOST_STEPS else f"until a condition holds ({steps % 10_000:04})"


_MOST_STEPS = 1 << 32


def _dilation(settings: dict[str, Any]) -> Any:
    image, kernel = settings["dilation"]
    return kernel if set(image) == {1} else f"{kernel}, of the input {image}"


def _said(kind: str, names: Sequence[str]) -> str:
    verb = {"sum": "adds", "product": "multiplies by"}.get(kind, "takes")
    return f"{verb} {' and '.join(names)}"


def _words(found: Sequence[Step]) -> str:
    return ", ".join(map(str, found)) or "nothing"


def _what(left: Sequence[Step], right: Sequence[Step]) -> str:
    """What kind of difference two lists of steps make."""
    if len(left) == len(right) == 1:
        a, b = left[0], right[0]
        if (a.text, a.size) == (b.text, b.size) and a.epsilon != b.epsilon:
            return "epsilon"
        if a.text == b.text and a.size != b.size:
            return "axes"
    kinds = [step.what for step in (*left, *right)]
    for kind in ("dropout", "mask", "window"):
        if kind in kinds:
            return kind
    if kinds and len(set(kinds)) == 1:
        return kinds[0]
    if "activation" in kinds and set(kinds) <= {"activation", "function"}:
        return "activation"
    return "function"
