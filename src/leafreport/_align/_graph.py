"""A program as a graph of what matters for telling leaves apart: who meets whom, and how.

Nodes are leaves' pieces, inputs, and the places where arrays meet: products, convolutions, lookups, sums,
scalings. What is done to one array alone (an activation function, a normalisation, a mask) makes no node: it
is an expression on the way, since two frameworks write it in different primitives. Arrays are followed piece
by piece: an axis that is put together of parts has a node for each part.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product as combinations
from typing import Any

import numpy as np

from leafreport._align._dims import Dim
from leafreport._align._functions import REDUCTIONS, Argument, Functions
from leafreport._align._pieces import Offsets, Pieces
from leafreport._align._program import Array, Op, Program, lean, number
from leafreport._align._storage import Box, Storage
from leafreport._align._views import before

# A node, and the expression of what was done to its array since.
Ref = tuple[int, int]
# A label, a node and an expression.
Term = tuple[str, int, int]
NOTHING = Functions.X
# What is added to a score, or put in its place, so that a softmax lets nothing of it through.
_MASKED = -1e4


@dataclass(eq=False, slots=True)
class Node:
    """One node.

    Attributes:
        kind: `leaf`, `input`, `output`, `constant`, `dot`, `conv`, `lookup`, `sum`, `product`, `join`, or
            `loop`; `gone` for one that became a part of another.
        operands: the nodes it takes, each with a label and the expression of what was done to it on the way.
        info: what else there is to know.
        made: the number of the operation that made it and the piece of its result that it is.
    """

    kind: str
    operands: tuple[Term, ...]
    info: dict[str, Any] = field(default_factory=dict)
    made: tuple[int, Offsets] | None = None


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
        self._known: dict[Any, int] = {}
        self._values: dict[int, dict[Offsets, Ref]] = {}
        self._at_work: int | None = None
        for number, array in enumerate(program.inputs):
            self._values[id(array)] = {
                at: (self._node("input", (), number=number, at=at, array=array), NOTHING)
                for at in self.pieces.boxes(array)
            }
        for number, op in enumerate(program.ops):
            self._at_work = number
            if not op.output.stored:  # a leaf is there where it is used
                self._follow(op)
        self._at_work = None
        for op in program.ops:
            if op.name == "loop":
                self._close(op)
        self.outputs: list[int] = []
        for number, array in enumerate(program.outputs):
            for offsets, (node, done) in self.value(array).items():
                made = self._node("output", [("", node, done)], number=number, at=offsets, array=array)
                self.outputs.append(made)
        self._flatten()

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

    # --- Sums of sums

    def _flatten(self) -> None:
        """Sums of sums and products of products become one, where nothing else takes the inner one."""
        takers = self._takers()
        became: dict[int, Ref] = {}
        for n, node in enumerate(self.nodes):
            node.operands = tuple(self._after(term, became) for term in node.operands)
            if node.kind not in ("sum", "product"):
                continue
            flat: dict[int, int] = {}
            groups = node.info.setdefault("groups", [])
            for _, taken, done in node.operands:
                inner = self.nodes[taken]
                if inner.kind == node.kind and takers.get(taken) == 1 and self._passes(node.kind, done):
                    groups += inner.info["groups"] or [tuple(term[1] for term in inner.operands)]
                    for _, deeper, more in inner.operands:
                        self._merge(node.kind, flat, deeper, self.functions.after(done, more))
                    inner.kind = "gone"
                else:
                    self._merge(node.kind, flat, taken, done)
            for _, taken, _ in node.operands:
                takers[taken] = takers.get(taken, 1) - 1
            for taken in flat:
                takers[taken] = takers.get(taken, 0) + 1
            if len(flat) == 1:  # an array with what was made of it alone
                ((only, done),) = flat.items()
                became[n] = only, done
                takers[only] += takers.get(n, 0) - 1
                node.kind = "gone"
                continue
            node.operands = tuple(sorted(("", taken, done) for taken, done in flat.items()))
            if node.kind == "sum":
                self._unmix(n, takers)
        for node in self.nodes:
            if "back" in node.info and node.info["back"][0] in became:
                node.info["back"] = self._after(("", *node.info["back"]), became)[1:]

    def _unmix(self, n: int, takers: dict[int, int]) -> None:
        """`a + z (b - a)` as what it is, `(1 - z) a + z b`: frameworks write a gate either way."""
        node = self.nodes[n]
        terms = {taken: done for _, taken, done in node.operands}
        made = self.functions.made
        for product, done in list(terms.items()):
            factors = self.nodes[product].operands
            if done != NOTHING or self.nodes[product].kind != "product" or takers[product] != 1:
                continue
            for place, (_, inner, over) in enumerate(factors):
                mixed = {t: d for _, t, d in self.nodes[inner].operands}
                plain = over == NOTHING and self.nodes[inner].kind == "sum" and takers[inner] == 1
                if len(factors) != 2 or not plain or len(mixed) != 2:
                    continue
                _, gate, opened = factors[1 - place]
                start = next(
                    (t for t, d in mixed.items() if t in terms and self._opposite(terms[t], d) and t != gate),
                    None,
                )
                if start is None:
                    continue
                (end,) = (t for t in mixed if t != start)
                closed = made("sub", [("c", 1.0), ("e", opened)])
                parts = {
                    self._gated(gate, opened, end, mixed[end]),
                    self._gated(gate, closed, start, terms[start]),
                }
                for part in parts:
                    takers[part] = takers.get(part, 0) + 1
                for gone in (product, inner):
                    self.nodes[gone].kind = "gone"
                rest = {t: d for t, d in terms.items() if t not in (product, start)}
                node.operands = tuple(
                    sorted([("", t, d) for t, d in rest.items()] + [("", p, NOTHING) for p in parts])
                )
                return

    def _opposite(self, a: int, b: int) -> bool:
        """Whether one expression is the other, negated."""
        (one, x), (other, y) = self.functions.unscaled(a), self.functions.unscaled(b)
        return one == other and x == -y

    def _gated(self, gate: int, opened: int, taken: int, done: int) -> int:
        return self._node("product", sorted([("", gate, opened), ("", taken, done)], key=_by_node))

    def _takers(self) -> dict[int, int]:
        """How many nodes take each one."""
        takers: dict[int, int] = {}
        for node in self.nodes:
            back = [node.info["back"][0]] if "back" in node.info else []
            for taken in [taken for _, taken, _ in node.operands] + back:
                takers[taken] = takers.get(taken, 0) + 1
        return takers

    def _after(self, term: Term, became: dict[int, Ref]) -> Term:
        label, node, done = term
        if node not in became:
            return term
        return label, became[node][0], self.functions.after(done, became[node][1])

    def _passes(self, kind: str, done: int) -> bool:
        """Whether a sum within a sum, or a product within a product, can be taken apart."""
        inner, factor = self.functions.unscaled(done)
        if kind == "sum":
            return inner == NOTHING and abs(factor) == 1
        return done == NOTHING or self.functions.key(done) == _RECIPROCAL

    def _merge(self, kind: str, terms: dict[int, int], node: int, done: int) -> None:
        """Adds a term; two terms that are made of one array are one."""
        if node in terms:
            name = "add" if kind == "sum" else "mul"
            done = self.functions.made(name, [("e", terms[node]), ("e", done)])
        terms[node] = done

    # --- Nodes

    def _node(self, kind: str, operands: Iterable[Term], **info: Any) -> int:
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
        """The node of a piece of an array that is stored: one for the same elements, however they are viewed."""
        lying = self.lying(array, at)
        known = self.storage.affine(array)
        # What lies evenly is in one leaf: that of its first element.
        leaves = {self.storage.leaf(known[0])[0]} if known is not None else self.storage.held(array, *lying)
        node = self._node(
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
        kind, told = self._fixed(array, at)
        made = NOTHING if kind != "c" else self.functions.made("constant", [("c", told)])
        return self._node("constant", (), op=(kind, told) if kind != "c" else ()), made

    def _fixed(self, array: Array, at: Sequence[int]) -> Argument:
        """What a constant is in an expression: a number, an array, or one of which nothing is known."""
        if array.random:
            return "r", 0
        if array.known is None:
            return "u", array.term
        return self._told(self.pieces.taken(array, at, lean(array.known)))

    def _told(self, known: np.ndarray) -> Argument:
        """A known constant, without repeats: a number where it holds one."""
        value = number(known)
        return ("k", self.functions.constants.ident(known)) if value is None else ("c", value)

    def at(self, array: Array, offsets: Offsets) -> Ref:
        """The node of a piece; of an axis that is repeated, whichever there is."""
        value = self.value(array)
        found = value.get(offsets)
        if found is None:
            found = value.get(self.pieces.near(array, offsets))
        return found if found is not None else self._joined("mixed", value.values())

    def _joined(self, why: str, refs: Iterable[Ref]) -> Ref:
        """One node of several; the node itself where they are one."""
        refs = list(dict.fromkeys(refs))
        real = [ref for ref in refs if self.nodes[ref[0]].kind != "constant"]
        if not real:
            return refs[0] if refs else (self._node("constant", ()), NOTHING)
        if len({node for node, _ in real}) == 1:
            node = real[0][0]
            if len(real) == 1:
                return node, real[0][1]
            return node, self.functions.made(why, [("e", done) for _, done in real])
        return self._node("join", sorted((("", *ref) for ref in real), key=_by_node), why=why), NOTHING

    def rows(self) -> dict[int, int]:
        """For each input whose numbers index a table, how many rows the smallest of these has."""
        found: dict[int, int] = {}
        for node in self.nodes:
            if node.kind == "lookup":
                for label, taken, _ in node.operands:
                    if label == "index" and self.nodes[taken].kind == "input":
                        number = self.nodes[taken].info["number"]
                        found[number] = min(found.get(number, node.info["rows"]), node.info["rows"])
        return found

    def whose(self, atom: Dim) -> tuple[str, int, int] | None:
        """An input or a leaf that has an axis: `input` or `leaf`, its number, and which of its axes it is."""
        for number, array in enumerate(self.program.inputs):
            for axis, dim in enumerate(array.dims):
                if any(atom in part.atoms for part in self.pieces.segments(dim).values()):
                    return "input", number, axis
        for node in self.nodes:
            if node.kind == "leaf" and node.info["leaves"]:
                for axis, part in enumerate(self.pieces.along(node.info["array"], node.info["at"])):
                    if atom in part.atoms:
                        return "leaf", node.info["leaves"][0], axis
        return None

    # --- Operations

    def _follow(self, op: Op) -> None:
        rule = {
            "view": self._view,
            "dot": self._dot,
            "conv": self._conv,
            "lookup": self._lookup,
            "reduce": self._reduce,
            "apply": self._apply,
            "loop": self._loop,
        }.get(op.name, self._opaque)
        before_it = len(self.nodes)
        made = rule(op)
        self._values[id(op.output)] = made
        for at, (node, done) in made.items():
            if self._at_work is not None:
                self.origin.setdefault((node, done), self._at_work)
            if node >= before_it and done == NOTHING and self._at_work is not None:
                self.nodes[node].made = self._at_work, at
                self.nodes[node].info.setdefault("dtype", op.output.dtype)

    def _view(self, op: Op) -> dict[Offsets, Ref]:
        return {at: self.at(*before(op, at)) for at in self.pieces.boxes(op.output)}

    def _event(self, dims: Iterable[Dim], node: int, role: str) -> None:
        for dim in dims:
            self.events.setdefault(dim, []).append((node, role))

    def _dot(self, op: Op) -> dict[Offsets, Ref]:
        a, b = op.inputs
        (ca, cb), (ba, bb), (fa, fb) = op.info["contract"], op.info["batch"], op.info["free"]
        if a.constant != b.constant and not (fa if a.constant else fb):
            return self._weighted(op)
        summed = list(combinations(*(self.pieces.segments(a.dims[n]) for n in ca)))
        ended = op.info.get("ended", ())
        labels = ["ends" if side in ended else "" for side in (0, 1)]
        made: dict[Offsets, Ref] = {}
        for at in self.pieces.boxes(op.output):
            batch, rest = at[: len(ba)], at[len(ba) :]
            terms: list[Term] = []
            for along in summed:
                left, right = [0] * len(a.dims), [0] * len(b.dims)
                for axes, values, place in (
                    (ca, along, left),
                    (cb, along, right),
                    (ba, batch, left),
                    (bb, batch, right),
                    (fa, rest[: len(fa)], left),
                    (fb, rest[len(fa) :], right),
                ):
                    for axis, value in zip(axes, values, strict=True):
                        place[axis] = value
                x, y = self.at(a, tuple(left)), self.at(b, tuple(right))
                own, others = self.pieces.along(a, left), self.pieces.along(b, right)
                if any(own[axis].atoms for axis in ca):
                    node, done = self._product("dot", x, y, labels, op)
                else:  # nothing is summed up
                    node, done = self._product("product", x, y, ["", ""], op)
                for slot, array, offsets in ((0, a, left), (1, b, right)):
                    if array.leafy:
                        self.uses.append((op, node, slot, array, tuple(offsets)))
                for axes, parts, told in (
                    (ca, own, "contracted"),
                    (ba, own, "batch"),
                    (fa, own, f"kept by {self.nodes[x[0]].kind}"),
                    (fb, others, f"kept by {self.nodes[y[0]].kind}"),
                ):
                    for axis in axes:
                        self._event(parts[axis].atoms, node, told)
                terms.append(("", node, done))
            made[at] = self._sum(terms)
        return made

    def _weighted(self, op: Op) -> dict[Offsets, Ref]:
        """A product with a constant that has no axis of its own: each number times its own, and summed up."""
        slot = 0 if op.inputs[1].constant else 1
        array, weights = op.inputs[slot], op.inputs[1 - slot]
        (own, its), (batch, its_batch) = (
            (op.info[key][slot], op.info[key][1 - slot]) for key in ("contract", "batch")
        )
        free = op.info["free"][slot]
        made: dict[Offsets, Ref] = {}
        for at in self.pieces.boxes(op.output):
            terms: list[Term] = []
            for along in combinations(*(self.pieces.segments(array.dims[n]) for n in own)):
                here, there = [0] * len(array.dims), [0] * len(weights.dims)
                for axes, others, values in (
                    (own, its, along),
                    (batch, its_batch, at[: len(batch)]),
                    (free, (), at[len(batch) :]),
                ):
                    for n, value in enumerate(values):
                        here[axes[n]] = value
                        if others:
                            there[others[n]] = value
                node, done = self.at(array, tuple(here))
                told = self._fixed(weights, self.pieces.near(weights, there))
                done = self.functions.made("mul", [("e", done), told])
                parts = self.pieces.along(array, here)
                atoms = [atom for axis in own for atom in parts[axis].atoms]
                self._event(atoms, node, "summed over")
                terms.append(("", node, self._over_atoms("reduce_sum", done, atoms)))
            made[at] = self._sum(terms)
        return made

    def _product(self, kind: str, x: Ref, y: Ref, labels: Sequence[str], op: Op) -> Ref:
        """A node of two factors. A known number that one of them is multiplied by multiplies the result."""
        terms: list[Term] = []
        total = 1.0
        scaled: dict[int, float] = {}
        for (node, done), label in zip((x, y), labels, strict=True):
            inner, factor = self.functions.unscaled(done)
            total *= factor
            if self.nodes[node].kind == "leaf" and factor != 1.0:
                scaled[node] = factor
            terms.append((label, node, inner))
        made = self._node(kind, sorted(terms, key=_by_node), op=_settings(op))
        info = self.nodes[made].info
        info.setdefault("settings", op.info)
        info.setdefault("computes", tuple(array.dtype for array in op.inputs if not array.constant))
        if scaled:
            info.setdefault("scaled", scaled)
        return made, self.functions.scaled(NOTHING, total)

    def _conv(self, op: Op) -> dict[Offsets, Ref]:
        image, kernel = op.inputs
        (b, f, space), (o, i, window), (ob, of, _) = op.info["image"], op.info["kernel"], op.info["out"]
        grouped = op.info["groups"] != 1
        made: dict[Offsets, Ref] = {}
        for at in self.pieces.boxes(op.output):
            terms = []
            for along in self.pieces.segments(kernel.dims[i]):
                right = [0] * len(kernel.dims)
                right[o], right[i] = at[of], along
                y = self._joined("window", self._over(kernel, right, window))
                left = [0] * len(image.dims)
                left[b] = at[ob]
                left[f] = 0 if grouped else along
                x = self._joined("image", self._over(image, left, (*space, f) if grouped else space))
                node, done = self._product("conv", x, y, ["", ""], op)
                if kernel.leafy:
                    self.uses.append((op, node, 1, kernel, tuple(right)))
                parts = self.pieces.along(kernel, right)
                self._event(parts[i].atoms, node, "contracted")
                self._event(parts[o].atoms, node, "kept by kernel")
                for place, axis in enumerate(window):
                    self._event(parts[axis].atoms, node, f"window {place}")
                terms.append(("", node, done))
            made[at] = self._sum(terms)
        return made

    def _over(self, array: Array, offsets: Sequence[int], axes: Sequence[int]) -> list[Ref]:
        """The pieces of an array along some axes, the others held."""
        found = []
        for values in combinations(*(self.pieces.segments(array.dims[n]) for n in axes)):
            at = list(offsets)
            for axis, value in zip(axes, values, strict=True):
                at[axis] = value
            found.append(self.at(array, tuple(at)))
        return found

    def _lookup(self, op: Op) -> dict[Offsets, Ref]:
        table, index = op.inputs
        taken = op.info["taken"]
        rows = self._joined("index", self.value(index).values())
        made: dict[Offsets, Ref] = {}
        for at in self.pieces.boxes(op.output):
            offsets = [0] * len(table.dims)
            for place, axis in taken.items():
                same = self.pieces.segments(op.output.dims[place]) == self.pieces.segments(table.dims[axis])
                offsets[axis] = at[place] if same else 0
            held = [axis for axis in range(len(table.dims)) if axis not in taken.values()]
            x = self._joined("table", self._over(table, offsets, held))
            node = self._node("lookup", [("table", *x), ("index", *rows)])
            self.nodes[node].info["rows"] = math.prod(table.dims[axis].size for axis in held)
            if table.leafy:
                self.uses.append((op, node, 0, table, tuple(offsets)))
            parts = self.pieces.along(table, offsets)
            for axis in held:
                self._event(parts[axis].atoms, node, "looked up")
            for axis in taken.values():
                self._event(parts[axis].atoms, node, "kept by table")
            made[at] = node, NOTHING
        return made

    def _reduce(self, op: Op) -> dict[Offsets, Ref]:
        (array,) = op.inputs
        axes = [n for n in op.info["axes"] if array.dims[n].size != 1]
        function = op.info["function"]
        made: dict[Offsets, Ref] = {}
        for at in self.pieces.boxes(op.output):
            rest = iter(at)
            offsets = [0 if n in op.info["axes"] else next(rest) for n in range(len(array.dims))]
            terms: list[Ref] = []
            for values in combinations(*(self.pieces.segments(array.dims[n]) for n in axes)):
                for axis, value in zip(axes, values, strict=True):
                    offsets[axis] = value
                node, done = self.at(array, tuple(offsets))
                if array.leafy:
                    self.uses.append((op, node, 0, array, tuple(offsets)))
                atoms = [
                    atom
                    for axis, part in enumerate(self.pieces.along(array, offsets))
                    if axis in axes
                    for atom in part.atoms
                ]
                as_dot = self._summed_product(node, done) if function == "reduce_sum" and atoms else None
                if as_dot is not None:
                    self._event(atoms, as_dot[0], "contracted")
                    terms.append(as_dot)
                    continue
                self._event(atoms, node, "summed over")
                terms.append((node, self._over_atoms(function, done, atoms)))
            if len(terms) > 1 and function == "reduce_sum":
                made[at] = self._sum([("", *term) for term in terms])
            else:
                made[at] = self._joined(function, terms)
        return made

    def _summed_product(self, node: int, done: int) -> Ref | None:
        """The sum of a product of two arrays as the contraction it is; None for any other."""
        inner, factor = self.functions.unscaled(done)
        made = self.nodes[node]
        if made.kind != "product" or inner != NOTHING or len(made.operands) != 2:
            return None
        return self._node("dot", made.operands, op=_NO_SETTINGS), self.functions.scaled(NOTHING, factor)

    def _over_atoms(self, function: str, done: int, atoms: Sequence[Dim]) -> int:
        if not atoms and function in ("reduce_sum", *REDUCTIONS):
            return done
        if function not in ("reduce_sum", *REDUCTIONS):
            return self.functions.made(function, [("e", done)])
        settings = tuple((atom, atom.size) for atom in atoms)
        if function != "reduce_sum":
            return self.functions.made(function, [("e", done)], settings)
        # A sum is a mean, scaled: a factor of each term is one of the sum, and a mean of means is one mean.
        inner, factor = self.functions.unscaled(done)
        name, over, arguments = self.functions.key(inner)
        if name == "reduce_mean" and not {atom for atom, _ in over} & set(atoms):
            inner, settings = arguments[0][1], (*over, *settings)
        size = math.prod(atom.size for atom in atoms)
        return self.functions.scaled(
            self.functions.made("reduce_mean", [("e", inner)], settings), factor * size
        )

    def _apply(self, op: Op) -> dict[Offsets, Ref]:
        function = op.info["function"]
        made: dict[Offsets, Ref] = {}
        for at in self.pieces.boxes(op.output):
            terms: list[tuple[str, Any]] = []
            for array in op.inputs:
                offsets = self._offsets(op, array, at)
                if array.constant:
                    terms.append(("fixed", (array, offsets, op.output, at)))
                else:
                    terms.append(("e", self.at(array, offsets)))
            made[at] = self._met(function, terms, op.info.get("settings"))
            for slot, (array, (kind, _)) in enumerate(zip(op.inputs, terms, strict=True)):
                if array.leafy and kind == "e":
                    self.uses.append((op, made[at][0], slot, array, self._offsets(op, array, at)))
        return made

    def _offsets(self, op: Op, array: Array, at: Offsets) -> Offsets:
        """Which piece of an operand meets a piece of the result."""
        if len(array.dims) == len(at):
            return self.pieces.near(array, at)
        if op.info["function"] == "stack":
            return at[1:]
        return (0, *at) if op.info["function"] == "each" else (0,) * len(array.dims)

    def _met(self, function: str, terms: list[tuple[str, Any]], settings: Any) -> Ref:
        """What comes of arrays and constants that meet: one array, changed, or a node of several."""
        refs = [ref for kind, ref in terms if kind == "e"]
        made = self.functions.made
        nodes = {node for node, _ in refs if self.nodes[node].kind != "constant"}
        if len(nodes) <= 1 and len(nodes) == len({node for node, _ in refs}):
            masked = self._chosen(function, terms) or self._masked(function, terms)
            if masked is not None:
                return masked
            given: list[Argument] = [
                ("e", value[1]) if kind == "e" else self._among(*value) for kind, value in terms
            ]
            return refs[0][0], made(function, given, settings)
        if len(refs) == 2 == len(terms) and function in ("add", "sub", "add_any", "mul", "div"):
            (a, x), (b, y) = refs
            if function == "sub":
                y = made("neg", [("e", y)])
            elif function == "div":
                y = made("div", [("c", 1.0), ("e", y)])
            if function not in ("mul", "div"):
                return self._sum([("", a, x), ("", b, y)])
            (one, f), (other, g) = self.functions.unscaled(x), self.functions.unscaled(y)
            node = self._node(
                "product", sorted([("", a, one), ("", b, other)], key=_by_node), op=_NO_SETTINGS
            )
            return node, self.functions.scaled(NOTHING, f * g)
        looked = self._in_bounds(function, terms)
        if looked is not None:
            return looked
        ordered = function in ("select_n", "sub", "div", "pow", "atan2", "rem", "cond", "dynamic_slice")
        operands = sorted({(str(n) if ordered else "", *ref) for n, ref in enumerate(refs)}, key=_by_node)
        return self._node("join", operands, why=function), NOTHING

    def _among(self, array: Array, offsets: Offsets, output: Array, at: Offsets) -> Argument:
        """A constant that meets a piece: what it is there."""
        if array.random or array.known is None or len(array.dims) != len(at):
            return self._fixed(array, offsets)
        return self._told(self.pieces.taken(output, at, lean(array.known)))

    def _chosen(self, function: str, terms: list[tuple[str, Any]]) -> Ref | None:
        """Of cases of which one is always taken, that one."""
        if function != "select_n" or terms[0][0] != "fixed":
            return None
        which = terms[0][1][0].value
        if which is None:
            return None
        kind, value = terms[1 + int(which)]
        return value if kind == "e" else None

    def _masked(self, function: str, terms: list[tuple[str, Any]]) -> Ref | None:
        """Scores some of which a constant mask takes out, in whichever of the usual ways it is written."""
        known = [
            self.pieces.taken(value[2], value[3], lean(value[0].known))
            if kind == "fixed" and value[0].known is not None and len(value[0].dims) == len(value[3])
            else None
            for kind, value in terms
        ]
        keeps: np.ndarray | None = None
        place = next((n for n, (kind, _) in enumerate(terms) if kind == "e"), 0)
        if function == "select_n" and len(terms) == 3 and place in (1, 2):
            which, fill = known[0], known[3 - place]
            if which is None or fill is None or not (np.asarray(fill, np.float64) <= _MASKED).all():
                return None
            keeps = np.asarray(which, bool) == (place == 2)
        elif function in ("add", "sub") and len(terms) == 2 and known[1 - place] is not None and place < 2:
            if function == "sub" and place == 1:
                return None
            added = np.asarray(known[1 - place], np.float64) * (-1 if function == "sub" else 1)
            if added.size < 2 or not ((added == 0) | (added <= _MASKED)).all() or (added == 0).all():
                return None
            keeps = added == 0
        if keeps is None:
            return None
        node, done = terms[place][1]
        if keeps.all():
            return node, done
        mask = self.functions.constants.ident(keeps)
        return node, self.functions.made("masked", [("e", done)], mask)

    def _in_bounds(self, function: str, terms: list[tuple[str, Any]]) -> Ref | None:
        """What is looked up, where rows out of bounds are filled: which rows there are is no difference."""
        if function != "select_n" or len(terms) != 3:
            return None
        refs = [value if kind == "e" else None for kind, value in terms]
        looked = next((ref for ref in refs[1:] if ref and self.nodes[ref[0]].kind == "lookup"), None)
        if looked is None or looked[1] != NOTHING or refs[0] is None or None not in refs[1:]:
            return None
        index = next(taken for label, taken, _ in self.nodes[looked[0]].operands if label == "index")
        return looked if refs[0][0] == index else None

    def _sum(self, terms: list[Term]) -> Ref:
        """A node of terms. A factor that all of them have multiplies the result."""
        merged: dict[int, int] = {}
        for _, node, done in terms:
            self._merge("sum", merged, node, done)
        if len(merged) == 1:
            return next(iter(merged.items()))
        apart = {node: self.functions.unscaled(done) for node, done in merged.items()}
        sizes = {abs(factor) for _, factor in apart.values()}
        common = sizes.pop() if len(sizes) == 1 else 1.0
        if common != 1.0:
            scaled = self.functions.scaled
            merged = {node: scaled(inner, factor / common) for node, (inner, factor) in apart.items()}
        node = self._node("sum", sorted((("", *term) for term in merged.items()), key=_by_node))
        return node, self.functions.scaled(NOTHING, common)

    def _loop(self, op: Op) -> dict[Offsets, Ref]:
        (array,) = op.inputs
        made: dict[Offsets, Ref] = {}
        for at in self.pieces.boxes(op.output):
            start = self.at(array, at)
            made[at] = self._node("loop", [("start", *start)], op=id(op), at=at), NOTHING
        return made

    def _close(self, op: Op) -> None:
        """The way back of a loop: what the next step starts from."""
        back = op.info["back"]
        for at, (node, _) in self.value(op.output).items():
            self.nodes[node].info["back"] = self.at(back, at)

    def _opaque(self, op: Op) -> dict[Offsets, Ref]:
        refs = [ref for array in op.inputs if not array.constant for ref in self.value(array).values()]
        node, done = self._joined(op.info["function"], refs)
        done = self.functions.made(op.info["function"], [("e", done)], op.info.get("settings"))
        return dict.fromkeys(self.pieces.boxes(op.output), (node, done))


# What of a node's facts tells it from others that take the same.
_TELLING = ("number", "at", "op", "why")
_RECIPROCAL = ("div", None, (("c", 1.0), ("e", NOTHING)))


def _settings(op: Op) -> Any:
    """What tells a convolution from another one of the same arrays."""
    return tuple(op.info.get(key) for key in _SETTINGS)


_SETTINGS = ("strides", "padding", "dilation", "groups")
_NO_SETTINGS = (None,) * len(_SETTINGS)


def _by_node(term: Term) -> tuple[int, str, int]:
    return term[1], term[0], term[2]
