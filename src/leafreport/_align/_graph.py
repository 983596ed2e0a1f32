"""A program as a graph of what matters for telling leaves apart: who meets whom, and how.

Nodes are leaves' pieces, inputs, and the places where arrays meet: products, convolutions, lookups, sums,
scalings. What is done to one array alone (an activation function, a normalisation, a mask) makes no node: it
is an expression on the way, since two frameworks write it in different primitives. Arrays are followed piece
by piece: an axis that is put together of parts has a node for each part.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product as combinations
from typing import Any

from leafreport._align._dims import Dim, factors, find, segments
from leafreport._align._functions import Functions
from leafreport._align._program import Array, Op, Program
from leafreport._align._views import before, strides

Offsets = tuple[int, ...]
# A node, and the expression of what was done to its array since.
Ref = tuple[int, int]
# A label, a node and an expression.
Term = tuple[str, int, int]
NOTHING = Functions.X


@dataclass(eq=False, slots=True)
class Node:
    """One node.

    Attributes:
        kind: `leaf`, `input`, `output`, `constant`, `dot`, `conv`, `lookup`, `sum`, `product`, `join`, or
            `loop`; `gone` for one that became a part of another.
        operands: the nodes it takes, each with a label and the expression of what was done to it on the way.
        info: what else there is to know.
    """

    kind: str
    operands: tuple[Term, ...]
    info: dict[str, Any] = field(default_factory=dict)


class Graph:
    """The graph of a program.

    Attributes:
        nodes: every node, operands before those that take them, but for the way back of a loop.
        outputs: the nodes of the results.
    """

    def __init__(self, program: Program, functions: Functions) -> None:
        self.functions = functions
        self.nodes: list[Node] = []
        self._known: dict[Any, int] = {}
        self._choices: dict[int, list[tuple[int, tuple[Dim, ...]]]] = {}
        self._values: dict[int, dict[Offsets, Ref]] = {}
        self.events: dict[Dim, list[tuple[int, str]]] = {}
        # Where a view of leaves meets an activation: operation, node, which operand, the view and its piece.
        self.uses: list[tuple[Op, int, int, Array, Offsets]] = []
        self._leaf_of = {id(leaf): number for number, leaf in enumerate(program.leaves)}
        self._maker = {id(op.output): op for op in program.ops}
        for kind, arrays in (("leaf", program.leaves), ("input", program.inputs)):
            for number, array in enumerate(arrays):
                self._given(kind, number, array)
        loops: list[Op] = []
        for op in program.ops:
            self._follow(op)
            if op.name == "loop":
                loops.append(op)
        for op in loops:
            self._close(op)
        self.outputs: list[int] = []
        for number, array in enumerate(program.outputs):
            for offsets, (node, done) in self.value(array).items():
                self.outputs.append(self._node("output", [("", node, done)], number=number, at=offsets))

        self._flatten()

    def _flatten(self) -> None:
        """Sums of sums and products of products become one, where nothing else takes the inner one."""
        takers = self._takers()
        became: dict[int, Ref] = {}
        for n, node in enumerate(self.nodes):
            node.operands = tuple(self._after(term, became) for term in node.operands)
            if node.kind not in ("sum", "product"):
                continue
            flat: dict[int, int] = {}
            for _, taken, done in node.operands:
                inner = self.nodes[taken]
                if inner.kind == node.kind and takers.get(taken) == 1 and self._passes(node.kind, done):
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
        for node in self.nodes:
            if "back" in node.info and node.info["back"][0] in became:
                node.info["back"] = self._after(("", *node.info["back"]), became)[1:]

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

    # --- Pieces

    def choices(self, dim: Dim) -> list[tuple[int, tuple[Dim, ...]]]:
        """The parts of an axis: where each begins, and the dims without parts that it runs over."""
        dim = find(dim)
        if id(dim) not in self._choices:
            found: list[tuple[int, tuple[Dim, ...]]] = []
            start = 0
            for segment in segments(dim):
                inner = factors(segment)
                if len(inner) <= 1 and (not inner or inner[0].kind is None):
                    found.append((start, tuple(inner)))
                else:
                    found += [(start + at, atoms) for at, atoms in self._combined(inner)]
                start += segment.size
            self._choices[id(dim)] = found
        return self._choices[id(dim)]

    def _combined(self, parts: Sequence[Dim]) -> list[tuple[int, tuple[Dim, ...]]]:
        found: list[tuple[int, tuple[Dim, ...]]] = [(0, ())]
        for part in parts:
            found = [
                (at * part.size + begin, (*atoms, *more))
                for at, atoms in found
                for begin, more in self.choices(part)
            ]
        return found

    def boxes(self, array: Array) -> Iterator[Offsets]:
        """Where each piece of an array begins."""
        return combinations(*([at for at, _ in self.choices(dim)] for dim in array.dims))

    def atoms(self, array: Array, offsets: Offsets) -> list[tuple[Dim, ...]]:
        """For each axis the dims without parts that a piece runs over."""
        return [
            next(atoms for at, atoms in self.choices(dim) if at == offset)
            for dim, offset in zip(array.dims, offsets, strict=True)
        ]

    def steps(self, dim: Dim, at: int) -> list[int]:
        """For a part of an axis, how far apart neighbours along each of its dims are."""
        dim = find(dim)
        start = 0
        for segment in segments(dim):
            if at < start + segment.size:
                inner = factors(segment)
                if len(inner) <= 1 and (not inner or inner[0].kind is None):
                    return [1] * len(inner)
                found: list[int] = []
                rest, left = at - start, segment.size
                for part in inner:
                    left //= part.size
                    found += [step * left for step in self.steps(part, rest // left)]
                    rest %= left
                return found
            start += segment.size
        raise IndexError(at)

    def place(self, array: Array, index: tuple[int, ...]) -> tuple[int, int] | None:
        """Where one element of a view of leaves is: the leaf's number, and the place in it, flattened."""
        while True:
            number = self._leaf_of.get(id(array))
            if number is not None:
                return number, sum(i * s for i, s in zip(index, strides(array.shape), strict=True))
            op = self._maker.get(id(array))
            if op is None or op.name != "view":
                return None
            array, index = before(op, index)

    def locate(self, array: Array, offsets: Offsets) -> tuple[int, int] | None:
        """The leaf's piece that a piece of a view is, and where it begins in the flattened leaf."""
        found = self.place(array, offsets)
        node, _ = self._at(array, offsets)
        if found is None or self.nodes[node].kind != "leaf":
            return None
        return node, found[1]

    # --- Nodes

    def _node(self, kind: str, operands: Iterable[Term], **info: Any) -> int:
        operands = tuple(operands)
        key = kind, operands, tuple(sorted((k, v) for k, v in info.items() if k in ("number", "at", "op")))
        if key not in self._known:
            self._known[key] = len(self.nodes)
            self.nodes.append(Node(kind, operands, info))
        return self._known[key]

    def _given(self, kind: str, number: int, array: Array) -> None:
        self._values[id(array)] = {
            at: (self._node(kind, (), number=number, at=at, array=array), NOTHING) for at in self.boxes(array)
        }

    def value(self, array: Array) -> dict[Offsets, Ref]:
        """The nodes of an array's pieces."""
        known = self._values.get(id(array))
        if known is None:  # a constant
            node = self._node("constant", ())
            known = dict.fromkeys(self.boxes(array), (node, NOTHING))
            self._values[id(array)] = known
        return known

    def _at(self, array: Array, offsets: Offsets) -> Ref:
        """The node of a piece; of an axis that is repeated, whichever there is."""
        value = self.value(array)
        found = value.get(offsets)
        if found is None:
            near = tuple(
                max((at for at, _ in self.choices(dim) if at <= offset), default=0) if dim.size > 1 else 0
                for dim, offset in zip(array.dims, offsets, strict=True)
            )
            found = value.get(near)
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

    # --- Operations

    def _follow(self, op: Op) -> None:
        out = op.output
        if out.constant and op.name != "loop":
            return  # `value` makes its node, if it is asked for
        rule = getattr(self, f"_{op.name}", None)
        made = rule(op) if rule is not None else self._opaque(op)
        self._values[id(out)] = made

    def _view(self, op: Op) -> dict[Offsets, Ref]:
        made: dict[Offsets, Ref] = {}
        for at in self.boxes(op.output):
            made[at] = self._at(*before(op, at))
        return made

    def _event(self, dims: Iterable[Dim], node: int, role: str) -> None:
        for dim in dims:
            self.events.setdefault(dim, []).append((node, role))

    def _dot(self, op: Op) -> dict[Offsets, Ref]:
        a, b = op.inputs
        (ca, cb), (ba, bb), (fa, fb) = op.info["contract"], op.info["batch"], op.info["free"]
        summed = list(combinations(*([at for at, _ in self.choices(a.dims[n])] for n in ca)))
        made: dict[Offsets, Ref] = {}
        for at in self.boxes(op.output):
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
                x, y = self._at(a, tuple(left)), self._at(b, tuple(right))
                ended = op.info.get("ended", ())
                node, done = self._product("dot", x, y, *("ends" if side in ended else "" for side in (0, 1)))
                for slot, array, offsets in ((0, a, left), (1, b, right)):
                    if array.stored:
                        self.uses.append((op, node, slot, array, tuple(offsets)))
                atoms_a, atoms_b = self.atoms(a, tuple(left)), self.atoms(b, tuple(right))
                for axes, atoms, other in ((ca, atoms_a, "contracted"), (ba, atoms_a, "batch")):
                    for axis in axes:
                        self._event(atoms[axis], node, other)
                for axes, atoms, ref in ((fa, atoms_a, x), (fb, atoms_b, y)):
                    for axis in axes:
                        self._event(atoms[axis], node, f"kept by {self.nodes[ref[0]].kind}")
                terms.append(("", node, done))
            made[at] = self._sum(terms)
        return made

    def _product(self, kind: str, x: Ref, y: Ref, left: str = "", right: str = "") -> Ref:
        """A node of two factors. A known number that one of them is multiplied by multiplies the result."""
        a, b = self.functions.unscaled(x[1]), self.functions.unscaled(y[1])
        operands = sorted([(left, x[0], a[0]), (right, y[0], b[0])], key=_by_node)
        return self._node(kind, operands), self.functions.scaled(NOTHING, a[1] * b[1])

    def _conv(self, op: Op) -> dict[Offsets, Ref]:
        image, kernel = op.inputs
        (b, f, space), (o, i, window), (ob, of, _) = op.info["image"], op.info["kernel"], op.info["out"]
        made: dict[Offsets, Ref] = {}
        inner = [at for at, _ in self.choices(kernel.dims[i])]
        for at in self.boxes(op.output):
            terms = []
            for along in inner:
                right = [0] * len(kernel.dims)
                right[o], right[i] = at[of], along
                y = self._joined("window", self._over(kernel, right, window))
                left = [0] * len(image.dims)
                left[b] = at[ob]
                left[f] = along if op.info["groups"] == 1 else 0
                wide = space if op.info["groups"] == 1 else (*space, f)
                x = self._joined("image", self._over(image, left, wide))
                node, done = self._product("conv", x, y)
                if kernel.stored:
                    self.uses.append((op, node, 1, kernel, tuple(right)))
                atoms = self.atoms(kernel, tuple(right))
                self._event(atoms[i], node, "contracted")
                self._event(atoms[o], node, "kept by kernel")
                for place, axis in enumerate(window):
                    self._event(atoms[axis], node, f"window {place}")
                terms.append(("", node, done))
            made[at] = self._sum(terms)
        return made

    def _over(self, array: Array, offsets: list[int], axes: Sequence[int]) -> list[Ref]:
        """The pieces of an array along some axes, the others held."""
        found = []
        for values in combinations(*([at for at, _ in self.choices(array.dims[n])] for n in axes)):
            at = list(offsets)
            for axis, value in zip(axes, values, strict=True):
                at[axis] = value
            found.append(self._at(array, tuple(at)))
        return found

    def _lookup(self, op: Op) -> dict[Offsets, Ref]:
        table, index = op.inputs
        taken = op.info["taken"]
        rows = self._joined("index", self.value(index).values())
        made: dict[Offsets, Ref] = {}
        for at in self.boxes(op.output):
            offsets = [0] * len(table.dims)
            for place, axis in taken.items():
                offsets[axis] = (
                    at[place] if self.choices(op.output.dims[place]) == self.choices(table.dims[axis]) else 0
                )
            held = [axis for axis in range(len(table.dims)) if axis not in taken.values()]
            x = self._joined("table", self._over(table, offsets, held))
            if self.nodes[rows[0]].kind == "constant":  # fixed rows: a view that is not followed
                made[at] = x[0], self.functions.made("lookup", [("e", x[1])])
                continue
            node = self._node("lookup", [("table", *x), ("index", *rows)])
            if table.stored:
                self.uses.append((op, node, 0, table, tuple(offsets)))
            atoms = self.atoms(table, tuple(offsets))
            for axis in held:
                self._event(atoms[axis], node, "looked up")
            for axis in taken.values():
                self._event(atoms[axis], node, "kept by table")
            made[at] = node, NOTHING
        return made

    def _reduce(self, op: Op) -> dict[Offsets, Ref]:
        (array,) = op.inputs
        axes = op.info["axes"]
        made: dict[Offsets, Ref] = {}
        for at in self.boxes(op.output):
            rest = iter(at)
            offsets = [0 if n in axes else next(rest) for n in range(len(array.dims))]
            node, done = self._joined("reduce", self._over(array, offsets, axes))
            size = math.prod(array.dims[n].size for n in axes)
            made[at] = node, self.functions.made(op.info["function"], [("e", done)], size)
        return made

    def _apply(self, op: Op) -> dict[Offsets, Ref]:
        function = op.info["function"]
        made: dict[Offsets, Ref] = {}
        for at in self.boxes(op.output):
            terms: list[tuple[str, Any]] = []
            for array in op.inputs:
                if array.constant:
                    terms.append(("c", array.value))
                    continue
                if len(array.dims) == len(at):
                    offsets = tuple(a if d.size > 1 else 0 for a, d in zip(at, array.dims, strict=True))
                elif function == "stack":
                    offsets = at[1:]
                elif function == "each":
                    offsets = (0, *at)
                else:
                    offsets = (0,) * len(array.dims)
                terms.append(("e", self._at(array, offsets)))
            made[at] = self._met(function, terms, op.info.get("settings"))
        return made

    def _met(self, function: str, terms: list[tuple[str, Any]], settings: Any) -> Ref:
        """What comes of arrays and constants that meet: one array, changed, or a node of several."""
        refs = [ref for kind, ref in terms if kind == "e"]
        made = self.functions.made
        if len({node for node, _ in refs}) == 1:
            given = [(kind, value[1] if kind == "e" else value) for kind, value in terms]
            return refs[0][0], made(function, given, settings)
        if len(refs) == 2 == len(terms) and function in ("add", "sub", "add_any", "mul", "div"):
            (a, x), (b, y) = refs
            if function == "sub":
                y = made("neg", [("e", y)])
            elif function == "div":
                y = made("div", [("c", 1.0), ("e", y)])
            kind = "product" if function in ("mul", "div") else "sum"
            return self._node(kind, sorted([("", a, x), ("", b, y)], key=_by_node)), NOTHING
        ordered = function in ("select_n", "sub", "div", "pow", "atan2", "rem", "cond")
        operands = sorted({(str(n) if ordered else "", *ref) for n, ref in enumerate(refs)}, key=_by_node)
        return self._node("join", operands, why=function), NOTHING

    def _sum(self, terms: list[Term]) -> Ref:
        if len(terms) == 1:
            return terms[0][1], terms[0][2]
        return self._node("sum", sorted(terms, key=_by_node)), NOTHING

    def _loop(self, op: Op) -> dict[Offsets, Ref]:
        (array,) = op.inputs
        made: dict[Offsets, Ref] = {}
        for at in self.boxes(op.output):
            start = self._at(array, at)
            node = self._node("loop", [("start", *start)], op=id(op), at=at)
            made[at] = node, NOTHING
        return made

    def _close(self, op: Op) -> None:
        """The way back of a loop: what the next step starts from."""
        back = op.info["back"]
        for at, (node, _) in self.value(op.output).items():
            self.nodes[node].info["back"] = self._at(back, at)

    def _opaque(self, op: Op) -> dict[Offsets, Ref]:
        refs = [ref for array in op.inputs if not array.constant for ref in self.value(array).values()]
        node, done = self._joined(op.info["function"], refs)
        settings = op.info["result"], op.info.get("bounds")
        done = self.functions.made(op.info["function"], [("e", done)], settings)
        return dict.fromkeys(self.boxes(op.output), (node, done))


_RECIPROCAL = ("div", None, (("c", 1.0), ("e", NOTHING)))


def _by_node(term: Term) -> tuple[int, str, int]:
    return term[1], term[0], term[2]
