"""A model's program as operations on arrays whose axes are `Dim`s.

Nothing is computed but the program's own constants. Calls are inlined, loops over stacked layers are
unrolled, other loops are followed once. What an operation says about axes (which are one, which is a product
or a part of others) is unified while tracing; what it does with values is an `Op`.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from leafreport._align._trace._boxes import elements
from leafreport._align._trace._call import Traced
from leafreport._align._trace._constants import drawn, folded
from leafreport._align._trace._dims import (
    Dim,
    NotAligned,
    alias,
    attempt,
    cut_up,
    factors,
    split_concat,
    unify,
)
from leafreport._align._trace._loops import LOOPS
from leafreport._align._trace._margins import Margin, view_of_padded
from leafreport._align._trace._primitives import RANDOM, STORAGE, called, parameters, settings
from leafreport._align._trace._program import Array, Op, Program, constant, digest, dtype_name
from leafreport._align._trace._rules import RULES
from leafreport._align._trace._storage import Storage

# A larger constant is told from another one by which array it is, not by its values.
_MOST_HASHED = 1 << 22
# Axes along which members of an ensemble stand are cut into members up to this many.
_MOST_MEMBERS = 256
# A constant that JAX computes has at most this many elements, as do those of which it is made.
_MOST_COMPUTED = 1 << 12


# An operation by its number, which of what it takes, an axis of that, a factor of the axis, and the indices
# at which that is cut.
Cut = tuple[int, int, int, int, tuple[int, ...]]


def program(
    call: Traced,
    *,
    members: bool = False,
    cuts: Sequence[Cut] = (),
    held: Sequence[Any] = (),
    watch: Any = None,
) -> Program:
    """The program of a call. Cost: one step for each of its equations.

    Args:
        call: the call as JAX traced it.
        members: cut the axes along which an ensemble's members stand into members.
        cuts: where to cut axes that nothing in the program cuts.
        held: values for the distinct leaves and the inputs, to run the program on while it is followed.
        watch: called with each operation's number and what it made, in a run on values.
    """
    tracer = Tracer(members=members, watch=watch)
    jaxpr = call.jaxpr.jaxpr
    given = [tracer.fresh(var.aval) for var in jaxpr.invars]
    distinct = max(call.places, default=-1) + 1
    for leaf in given[:distinct]:
        leaf.stored = leaf.leafy = True
    for array, value in zip(given, held, strict=False):
        array.held = value
    outputs = tracer.run(jaxpr, tracer.consts(call.jaxpr), given)
    _cut(tracer.ops, cuts)
    for array in outputs:
        for axis, dim in enumerate(array.dims):
            if dim in tracer.owners:
                op, side = tracer.owners[dim]
                op.info.setdefault("last", {})[side] = axis
    _bury(tracer.ops, outputs)
    leaves = [given[place] for place in call.places]
    found = Program(
        leaves, given[distinct:], outputs, tracer.ops, tracer.unknown, tracer.owners, tracer.ensembles
    )
    _relate(found)
    return found


def _cut(ops: Sequence[Op], cuts: Sequence[Cut]) -> None:
    for number, slot, axis, factor, at in cuts:
        with suppress(NotAligned, IndexError):
            for place in at:
                attempt(split_concat, factors(ops[number].inputs[slot].dims[axis])[factor], place)


def _bury(ops: Sequence[Op], outputs: Sequence[Array]) -> None:
    """Marks what leads to no result, as what another operation was taken together with."""
    needed = {id(array) for array in outputs}
    needed.update(id(op.info["back"]) for op in ops if op.name == "loop")
    for op in reversed(ops):
        op.dead = id(op.output) not in needed
        if not op.dead:
            needed.update(map(id, op.inputs))


def _relate(found: Program) -> None:
    """Says which axes are one of arrays that hold the same elements, as a table and its transpose do."""
    storage = Storage(found)
    groups: dict[object, dict[int, Dim]] = {}
    used = {
        id(array): array
        for op in found.ops
        if not op.output.stored and not op.dead
        for array in op.inputs
        if array.stored
    }
    for array in used.values():
        known = storage.affine(array)
        if known is None:
            continue
        start, steps = known
        axes = groups.setdefault(elements(start, list(zip(array.shape, steps, strict=True))), {})
        for dim, step in zip(array.dims, steps, strict=True):
            other = axes.setdefault(abs(step), dim)
            if other is not dim and other.size == dim.size > 1:
                with suppress(NotAligned):
                    attempt(unify, other, dim)


@dataclass(eq=False, slots=True)
class Tracer:
    """What follows a program equation by equation.

    Attributes:
        ops: the operations so far.
        unknown: what was not understood.
        members: whether to cut the axes along which members of an ensemble stand.
        ensembles: whether there are such axes.
        owners: for axes of products of two activations the product and which of the two has them.
        one_hot: the indices of which an array holds one-hot rows, and along which axis.
        padded: the margins of arrays, by their `id`.
    """

    members: bool = False
    watch: Callable[[int, Any], None] | None = None
    ops: list[Op] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    ensembles: bool = False
    one_hot: dict[int, tuple[Array, int]] = field(default_factory=dict)
    padded: dict[int, Margin] = field(default_factory=dict)
    owners: dict[Dim, tuple[Op, int]] = field(default_factory=dict)
    _folded: dict[Hashable, np.ndarray | None] = field(default_factory=dict)
    _stores: dict[Hashable, list[Array]] = field(default_factory=dict)
    _scope: str = ""
    _source: Any = None

    # --- Arrays

    def fresh(self, aval: Any, **flags: Any) -> Array:
        """An array of axes of which nothing is known yet."""
        return Array(tuple(map(Dim, aval.shape)), dtype_name(aval.dtype), **flags)

    def consts(self, closed: Any) -> list[Array]:
        """The constants a program was closed over."""
        return [self.known(value) for value in getattr(closed, "consts", ())]

    def known(self, value: Any) -> Array:
        """A constant of a value."""
        dtype = str(getattr(value, "dtype", type(value).__name__))
        made = Array(tuple(map(Dim, np.shape(value))), dtype, constant=True, held=value)
        if isinstance(value, jax.core.Tracer):
            made.term = digest("traced", id(value))
        elif dtype.startswith("key"):
            made.term, made.random = digest("key"), True
        else:
            made.known = array = np.asarray(value)
            large = array.nbytes > _MOST_HASHED
            made.term = digest(dtype, array.shape, id(value) if large else array.tobytes())
        return made

    def add(self, name: str, inputs: Sequence[Array], output: Array, **info: Any) -> Array:
        """Keeps an operation."""
        output.leafy = name == "view" and all(array.leafy for array in inputs)
        repeats = math.prod(output.shape) > sum(math.prod(array.shape) for array in inputs)
        output.stored = output.leafy and all(array.stored for array in inputs) and not repeats
        self.ops.append(Op(name, tuple(inputs), output, info, self._source))
        if name == "view" and id(inputs[0]) in self.padded:
            view_of_padded(self, self.ops[-1])
        return output

    def same(self, a: Dim, b: Dim) -> None:
        """Says that two axes are one; where what is known of them forbids it, they stay two."""
        try:
            attempt(unify, a, b)
        except NotAligned:
            self.unknown["an axis that is divided in two ways"] += 1

    def alike(self, a: Array, b: Array) -> None:
        """Says that the axes of two arrays of one shape are one."""
        for x, y in zip(a.dims, b.dims, strict=True):
            self.same(x, y)

    def ended(self, dim: Dim, how: str) -> None:
        """Says that an axis ends: it is summed over. A product of activations then knows whose it was.

        Args:
            dim: the axis.
            how: `dot` or `reduce`.
        """
        if dim in self.owners:
            op, side = self.owners[dim]
            op.info.setdefault("ended", {}).setdefault(side, set()).add(how)

    def owned(self, dim: Dim) -> bool:
        """Whether an axis has a name of its own, by which a product knows it again."""
        return dim in self.owners

    def own(self, op: Op, places: Sequence[int], side: int) -> None:
        """Gives axes of a result names of their own, to be known again when they end."""
        dims = list(op.output.dims)
        for place in places:
            dims[place] = alias(dims[place])
            self.owners[dims[place]] = op, side
        op.output.dims = tuple(dims)

    def members_along(self, dim: Dim) -> None:
        """Cuts an axis into the members of an ensemble, where that is asked for."""
        self.ensembles |= 1 < dim.size <= _MOST_MEMBERS
        if self.members and 1 < dim.size <= _MOST_MEMBERS:
            try:
                attempt(cut_up, dim)
            except NotAligned:
                self.unknown["members that cannot be told apart"] += 1

    # --- Running

    def run(self, jaxpr: Any, consts: Sequence[Array], given: Sequence[Array]) -> list[Array]:
        """What a program makes of arrays."""
        bound: dict[Any, Array] = dict(zip(jaxpr.constvars, consts, strict=True))
        bound.update(zip(jaxpr.invars, given, strict=True))

        def read(atom: Any) -> Array:
            return self.known(atom.val) if isinstance(atom, jex.Literal) else bound[atom]

        for eqn in _live(jaxpr):
            self._source = self._scope, eqn.source_info
            arrays = [read(atom) for atom in eqn.invars]
            bound.update(zip(eqn.outvars, self._equation(eqn, arrays), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, given: list[Array]) -> list[Array]:
        start = len(self.ops)
        if all(array.constant for array in given) and not called(eqn) and eqn.primitive.name not in LOOPS:
            made = self._constants(eqn, given)
        else:
            # Axes that a constant happens to run along are no reason to take two others for one.
            made = self._followed(eqn, [_loose(a) if a.constant else a for a in given])
        self._hold(eqn, given, made)
        if self.watch is not None:
            for number in range(start, len(self.ops)):
                if (value := self.ops[number].output.held) is not None and not called(eqn):
                    self.watch(number, value)
        return made

    def _followed(self, eqn: Any, given: list[Array]) -> list[Array]:
        name = eqn.primitive.name
        rule = RULES.get(name)
        if name in STORAGE and all(array.stored or array.known is not None for array in given):
            stored = self._storage(eqn, given)
            if stored is not None:
                return stored
        if rule is not None:
            made = rule(self, eqn, given)
            return made if isinstance(made, list) else [made]
        inner = called(eqn)
        if inner is not None:
            body = getattr(inner, "jaxpr", inner)
            scope, self._scope = self._scope, f"{self._scope}/{eqn.source_info.name_stack}"
            made = self.run(body, self.consts(inner), given[len(given) - len(body.invars) :])
            self._scope = scope
            return made
        return self.opaque(eqn, given)

    def _storage(self, eqn: Any, given: list[Array]) -> list[Array] | None:
        """A view of leaves alone, which says nothing of axes; None where elements repeat."""
        if not any(array.stored for array in given):
            return None
        key = (
            eqn.primitive.name,
            parameters(eqn),
            *(id(array) if array.stored else array.term for array in given),
        )
        if key not in self._stores:
            start = len(self.ops)
            copies = [
                Array(tuple(Dim(dim.size) for dim in a.dims), a.dtype, stored=True, leafy=True)
                if a.stored
                else a
                for a in given
            ]
            made = RULES[eqn.primitive.name](self, eqn, copies)
            out: list[Array] = made if isinstance(made, list) else [made]
            if not all(array.stored for array in out):
                del self.ops[start:]
                return None
            names: dict[int, Array] = {id(copy): array for copy, array in zip(copies, given, strict=True)}
            for op in self.ops[start:]:
                op.inputs = tuple(names.get(id(array), array) for array in op.inputs)
            for array in out:
                array.dims = tuple(Dim(dim.size) for dim in array.dims)
            self._stores[key] = [names.get(id(one), one) for one in out]
        return self._stores[key]

    def opaque(self, eqn: Any, given: list[Array]) -> list[Array]:
        """What an equation makes that is not understood."""
        self.unknown[eqn.primitive.name] += 1
        return [
            self.add(
                "opaque",
                given,
                self.fresh(var.aval),
                function=eqn.primitive.name,
                settings=(number, settings(eqn, given)),
            )
            for number, var in enumerate(eqn.outvars)
        ]

    def _constants(self, eqn: Any, given: list[Array]) -> list[Array]:
        """What an equation makes of constants alone."""
        name = eqn.primitive.name
        random = name in RANDOM or any(array.random for array in given)
        term = digest(name, parameters(eqn), *(array.term for array in given))
        params = eqn.params
        known = None
        if not random and len(eqn.outvars) == 1 and all(array.known is not None for array in given):
            if term not in self._folded:
                arrays = [array.known for array in given if array.known is not None]
                rule = f"integer_pow_{params['y']}" if name == "integer_pow" else name
                made = folded(rule, params, arrays, eqn.outvars[0].aval)
                self._folded[term] = _computed(eqn, arrays) if made is None else made
            known = self._folded[term]
        out = [
            self.fresh(var.aval, constant=True, known=known, term=digest(term, n), random=random)
            for n, var in enumerate(eqn.outvars)
        ]
        if random:
            values = [array.drawn if array.random else array.value for array in given]
            for array, var in zip(out, eqn.outvars, strict=True):
                array.drawn = drawn(name, values, var.aval.dtype)
        return out

    def _hold(self, eqn: Any, given: list[Array], made: list[Array]) -> None:
        """In a run on values: what an equation makes of them."""
        if self.watch is None or all(array.held is not None for array in made):
            return
        if all(array.held is not None for array in given):
            for array, value in zip(made, _done(eqn, [array.held for array in given]), strict=True):
                array.held = value


def _done(eqn: Any, given: Sequence[Any]) -> Sequence[Any]:
    """What an equation makes of values."""
    params = eqn.primitive.get_bind_params(eqn.params)
    within: Sequence[Any] = ()
    if isinstance(params, tuple):  # as JAX had it before 0.10
        within, params = params
    found = eqn.primitive.bind(*within, *given, **params)
    return found if eqn.primitive.multiple_results else [found]


def _computed(eqn: Any, given: Sequence[np.ndarray]) -> np.ndarray | None:
    """What JAX makes of a few known numbers where NumPy has no such function; None of many numbers."""
    sizes = [math.prod(var.aval.shape) for var in (*eqn.invars, *eqn.outvars)]
    if max(sizes, default=0) > _MOST_COMPUTED:
        return None
    try:
        return np.asarray(_done(eqn, list(map(jax.numpy.asarray, given)))[0])
    except Exception:  # noqa: BLE001  # whatever it is, the constant is one that is not known
        return None


def _live(jaxpr: Any) -> list[Any]:
    """The equations that lead to a result, in order."""
    needed = {atom for atom in jaxpr.outvars if not isinstance(atom, jex.Literal)}
    found = []
    for eqn in reversed(jaxpr.eqns):
        if not needed.isdisjoint(eqn.outvars):
            found.append(eqn)
            needed.update(atom for atom in eqn.invars if not isinstance(atom, jex.Literal))
    return found[::-1]


def _loose(array: Array) -> Array:
    """A constant with axes of its own."""
    made = constant(array, tuple(Dim(dim.size) for dim in array.dims), array.known)
    made.held = array.held
    return made
