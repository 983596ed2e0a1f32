"""A program as a graph of what matters for telling leaves apart: who meets whom, and how.

Nodes are leaves' pieces, inputs, and the places where arrays meet: products, convolutions, lookups, sums,
scalings. What is done to one array alone (an activation function, a normalisation, a mask) makes no node: it
is an expression on the way, since two frameworks write it in different primitives. Arrays are followed piece
by piece: an axis that is put together of parts has a node for each part.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from leafreport._align._match._following import RULES, lost_axes, opaque
from leafreport._align._match._functions import Argument, Functions
from leafreport._align._match._nodes import NOTHING, Meeting, Node, Ref, Term, by_node
from leafreport._align._match._pieces import Offsets, Pieces
from leafreport._align._match._sums import flatten
from leafreport._align._trace._boxes import Box
from leafreport._align._trace._dims import Dim
from leafreport._align._trace._program import Array, Op, Program, lean, number
from leafreport._align._trace._storage import Storage


class Graph:
    """The graph of a program.

    Attributes:
        program: the program.
        pieces: the pieces of its arrays.
        storage: where the elements of arrays are among the leaves.
        nodes: every node.
        outputs: the nodes of the results.
        events: where a dim is contracted, kept, looked up or summed over.
        uses: where a view of leaves meets an activation.
        origin: the number of the operation that made a node's array, or what was done to it.
        met: the constant arrays that each node's array meets.
        takers: how many operations take each array, by its `id`.
        copies: for leaves that were taken apart, by leaf and taker, the taker's own node of the leaf.
    """

    def __init__(self, program: Program, functions: Functions) -> None:
        self.program = program
        self.functions = functions
        self.pieces = Pieces()
        self.storage = Storage(program)
        self.nodes: list[Node] = []
        self.events: dict[Dim, list[tuple[int, str]]] = {}
        # The operation, its node, which of its operands, the view of leaves, and the piece of it.
        self.uses: list[tuple[Op, int, int, Array, Offsets]] = []
        self.origin: dict[Ref, int] = {}
        self.met: dict[int, list[Meeting]] = {}
        self.takers = Counter(id(array) for op in program.ops if not op.dead for array in op.inputs)
        self.copies: dict[tuple[int, int], int] = {}
        self._known: dict[Any, int] = {}
        self._repeated: dict[int, frozenset[Dim]] = {}
        self._values: dict[int, dict[Offsets, Ref]] = {}
        self._at_work: int | None = None
        for place, array in enumerate(program.inputs):
            self._values[id(array)] = {
                at: (self.node("input", (), number=place, at=at, array=array), NOTHING)
                for at in self.pieces.boxes(array)
            }
        for place, op in enumerate(program.ops):
            self._at_work = place
            if not op.output.stored and not op.dead:  # a leaf is there where it is used
                self._follow(op)
        self._at_work = None
        for op in program.ops:
            if op.name == "loop" and not op.dead:
                self._close(op)
        self.outputs: list[int] = []
        for place, array in enumerate(program.outputs):
            for offsets, (node, done) in self.value(array).items():
                made = self.node("output", [("", node, done)], number=place, at=offsets, array=array)
                self.outputs.append(made)
        flatten(self)

    def order(self) -> list[int]:
        """The nodes that are there, each after those it takes; otherwise as they were made."""
        found: list[int] = []
        seen = [node.kind == "gone" for node in self.nodes]
        for start in range(len(self.nodes)):
            todo = [] if seen[start] else [(start, False)]
            while todo:
                n, ready = todo.pop()
                if ready:
                    found.append(n)
                elif not seen[n]:
                    seen[n] = True
                    todo.append((n, True))
                    todo += [
                        (taken, False) for _, taken, _ in reversed(self.nodes[n].operands) if not seen[taken]
                    ]
        return found

    # --- Nodes

    def node(self, kind: str, operands: Iterable[Term], **info: Any) -> int:
        """The number of a node; one that takes the same and is told the same is the same."""
        operands = tuple(operands)
        telling = _TELLING if kind != "leaf" else ("op",)
        key = kind, operands, tuple((k, info[k]) for k in telling if k in info)
        if key not in self._known:
            self._known[key] = len(self.nodes)
            self.nodes.append(Node(kind, operands, info))
        return self._known[key]

    def value(self, array: Array) -> dict[Offsets, Ref]:
        """The nodes of an array's pieces."""
        known = self._values.get(id(array))
        if known is None:
            make = self._leaf if array.stored else self._constant
            known = {at: make(array, at) for at in self.pieces.boxes(array)}
            self._values[id(array)] = known
        return known

    def _leaf(self, array: Array, at: Offsets) -> Ref:
        """The node of a piece of a stored array: one for the same elements, however they are viewed."""
        lying = self.lying(array, at)
        known = self.storage.affine(array)
        # What lies evenly is in one leaf: that of its first element.
        leaves = {self.storage.leaf(known[0])[0]} if known is not None else self.storage.held(array, *lying)
        node = self.node(
            "leaf",
            (),
            op=self.storage.elements(array, *lying),
            at=at,
            array=array,
            leaves=tuple(sorted(leaves)),
        )
        return node, NOTHING

    def boxes(self, n: int) -> list[Box] | None:
        """A leaf's node as boxes that lie evenly in leaves; None where it lies in no few."""
        info = self.nodes[n].info
        if "boxes" not in info:
            info["boxes"] = self.storage.boxes(info["array"], *self.lying(info["array"], info["at"]))
        found: list[Box] | None = info["boxes"]
        return found

    def lying(self, array: Array, at: Sequence[int]) -> tuple[list[int], list[list[tuple[int, int]]]]:
        """Where a piece begins along each axis, and sizes and steps of the dims it runs over."""
        parts = self.pieces.along(array, at)
        steps = [[(a.size, s) for a, s in zip(p.atoms, p.steps, strict=True)] for p in parts]
        return [part.start for part in parts], steps

    def _constant(self, array: Array, at: Offsets) -> Ref:
        kind, told = self.fixed(array, at)
        made = NOTHING if kind != "c" else self.functions.made("constant", [("c", told)])
        return self.node("constant", (), op=(kind, told) if kind != "c" else ()), made

    def fixed(self, array: Array, at: Sequence[int]) -> Argument:
        """What a constant is in an expression: a number, an array, or one of which nothing is known."""
        if array.random:
            return "r", self.functions.constants.drawn_ident(array.drawn)
        if array.known is None:
            return "u", array.term
        return self.told(self.pieces.taken(array, at, lean(array.known)))

    def told(self, known: np.ndarray, varies: frozenset[Dim] = frozenset()) -> Argument:
        """A known constant, without repeats: a number where it holds one.

        Args:
            known: what it holds.
            varies: the axes along which it does not repeat itself.
        """
        value = number(known)
        if value is not None:
            return "c", value
        return "k", (self.functions.constants.ident(known), varies)

    def at(self, array: Array, offsets: Offsets) -> Ref:
        """The node of a piece; of an axis that is repeated, whichever there is."""
        value = self.value(array)
        found = value.get(offsets)
        if found is None:
            found = value.get(self.pieces.near(array, offsets))
        return found if found is not None else self.joined("mixed", value.values())

    def joined(self, why: str, refs: Iterable[Ref]) -> Ref:
        """One node of several; the node itself where they are one."""
        refs = list(dict.fromkeys(refs))
        real = [ref for ref in refs if self.nodes[ref[0]].kind != "constant"]
        if not real:
            return refs[0] if refs else (self.node("constant", ()), NOTHING)
        if len({node for node, _ in real}) == 1:
            node = real[0][0]
            if len(real) == 1:
                return node, real[0][1]
            return node, self.functions.made(why, [("e", done) for _, done in real])
        return self.node("join", sorted((("", *ref) for ref in real), key=by_node), why=why), NOTHING

    def repeated(self, array: Array) -> frozenset[Dim]:
        """The axes along which an array only repeats itself."""
        return self._repeated.get(id(array), frozenset())

    def _note_repeats(self, op: Op) -> None:
        """Finds the axes along which what an operation makes only repeats itself."""
        atoms = self.pieces.atoms
        found = frozenset[Dim]().union(*map(self.repeated, op.inputs))
        if op.name == "view":
            if op.info["kind"] == "broadcast":
                kept = {place for n, place in enumerate(op.info["axes"]) if op.inputs[0].dims[n].size > 1}
                found |= atoms([dim for n, dim in enumerate(op.output.dims) if n not in kept])
            elif op.info["kind"] == "tile":
                found |= atoms(op.output.dims) - atoms(op.inputs[0].dims)
        elif op.name not in ("apply", "reduce") or op.info.get("acts"):
            return
        elif found:
            for array in op.inputs:
                varies = _varying(array, op.output) if array.constant else array.dims
                found -= atoms(varies) - self.repeated(array)
        if found:
            self._repeated[id(op.output)] = found & atoms(op.output.dims)

    def part_words(self, n: int) -> str:
        """An input or an output, or the part of it that a node is, in words."""
        info = self.nodes[n].info
        told = []
        for dim, part in zip(info["array"].dims, self.pieces.along(info["array"], info["at"]), strict=True):
            size = math.prod(atom.size for atom in part.atoms)
            told.append(":" if size == dim.size else f"{part.start}:{part.start + size}")
        where = "" if set(told) <= {":"} else f"[{', '.join(told)}]"
        return f"{self.nodes[n].kind} {info['number']}{where}"

    def meet(
        self, node: int, ident: int, output: Array, values: np.ndarray, axes: Sequence[tuple[int, Dim]]
    ) -> None:
        """Notes that a node's array meets a constant.

        Args:
            node: the node.
            ident: the constant's number.
            output: the array that comes of it.
            values: the constant's piece.
            axes: for each of its axes which one of the output's it is of, and its dim.
        """
        told = tuple((atom, self.whose_end(output.dims[axis])) for axis, atom in axes)
        self.met.setdefault(node, []).append(Meeting(ident, values, told))

    def whose_end(self, dim: Dim) -> str:
        """Of an axis of a product of two activations, whether it is of the one that is summed over later."""
        owner = self.program.owners.get(dim)
        return "" if owner is None else "ends" if owner[1] in owner[0].info.get("ended", ()) else "stays"

    def rows(self) -> dict[int, int]:
        """For each input whose numbers index a table, how many rows the smallest of these has."""
        found: dict[int, int] = {}
        for node in self.nodes:
            if node.kind == "lookup":
                for label, taken, _ in node.operands:
                    if label == "index" and self.nodes[taken].kind == "input":
                        place = self.nodes[taken].info["number"]
                        found[place] = min(found.get(place, node.info["rows"]), node.info["rows"])
        return found

    def whose(self, atom: Dim, but: str = "") -> tuple[str, int, int] | None:
        """An input or a leaf that has an axis: `input` or `leaf`, its number, and which of its axes it is.

        Args:
            atom: the axis.
            but: where not to look, `input` or `leaf`.
        """
        for place, array in enumerate(self.program.inputs if but != "input" else ()):
            for axis, dim in enumerate(array.dims):
                if any(atom in part.atoms for part in self.pieces.segments(dim).values()):
                    return "input", place, axis
        for node in self.nodes:
            if node.kind == "leaf" and node.info["leaves"]:
                for axis, part in enumerate(self.pieces.along(node.info["array"], node.info["at"])):
                    if atom in part.atoms:
                        return "leaf", node.info["leaves"][0], axis
        return None

    # --- Operations

    def _follow(self, op: Op) -> None:
        self._note_repeats(op)
        before_it = len(self.nodes)
        made = self._placed(op, RULES.get(op.name, opaque)(self, op))
        self._values[id(op.output)] = made
        for at, (node, done) in made.items():
            if self._at_work is not None:
                self.origin.setdefault((node, done), self._at_work)
            if node >= before_it and done == NOTHING and self._at_work is not None:
                self.nodes[node].made = self._at_work, at
                self.nodes[node].info.setdefault("dtype", op.output.dtype)

    def _placed(self, op: Op, made: dict[Offsets, Ref]) -> dict[Offsets, Ref]:
        """The nodes of what an operation makes: what no operand says, which part each is, is done to it."""
        axes = lost_axes(op)
        if all(len(self.pieces.segments(op.output.dims[n])) == 1 for n in axes):
            return made
        out = {}
        for at, (node, done) in made.items():
            for place, axis in enumerate(axes):
                if len(self.pieces.segments(op.output.dims[axis])) == 1:
                    continue
                size = op.output.dims[axis].size
                length = math.prod(atom.size for atom in self.pieces.along(op.output, at)[axis].atoms)
                if op.info.get("function") != "stack" or at[axis] + length < size:  # the last is the carry
                    told = place, at[axis], at[axis] + length, size
                    done = self.functions.made("part", [("e", done)], told)
            out[at] = node, done
        return out

    def event(self, dims: Iterable[Dim], node: int, role: str) -> None:
        """Notes what dims do at a node."""
        for dim in dims:
            self.events.setdefault(dim, []).append((node, role))

    def _close(self, op: Op) -> None:
        """The way back of a loop: what the next step starts from."""
        back = op.info["back"]
        for at, (node, _) in self.value(op.output).items():
            self.nodes[node].info["back"] = self.at(back, at)


def _varying(array: Array, output: Array) -> Sequence[Dim]:
    """The axes of a result along which a constant varies, as far as is known."""
    if array.known is None or array.known.ndim != len(output.dims):
        return output.dims if array.shape else ()
    return [dim for dim, size in zip(output.dims, lean(array.known).shape, strict=True) if size > 1]


# What of a node's facts tells it from others that take the same.
_TELLING = ("number", "at", "op", "why")
