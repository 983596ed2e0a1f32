"""A model's program as operations on arrays whose axes are `Dim`s.

The call is traced by `jax.make_jaxpr` on abstract values: nothing is computed but the program's own
constants. Calls are inlined, loops over stacked layers are unrolled, other loops are followed once. What an
operation says about axes (which are one, which is a product or a part of others) is unified while tracing;
what it does with values is an `Op`.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from leafreport._align._constants import folded
from leafreport._align._dims import Dim, NotAligned, alias, attempt, concat, cut, cut_up, find, unify
from leafreport._align._program import Array, Op, Program, dtype_name
from leafreport._align._rules import ALONG, ELEMENTWISE, RANDOM, RULES, STORAGE
from leafreport._align._storage import Storage, elements

# A loop over layers is unrolled up to this many steps; a longer one is followed once.
_MOST_STEPS = 4096
# Axes along which members of an ensemble stand are cut into members up to this many.
_MOST_MEMBERS = 256


@dataclass(frozen=True, slots=True)
class Traced:
    """A call as JAX traced it.

    Attributes:
        jaxpr: the closed jaxpr; its first inputs are the distinct leaves of params.
        places: for each leaf of params which of these it is.
        output: the shapes of what the call gives, as a tree.
    """

    jaxpr: Any
    places: tuple[int, ...]
    output: Any


def traced(apply: Callable[..., Any], params: Any, inputs: Sequence[Any]) -> Traced:
    """A call traced on abstract values.

    Args:
        apply: the call, `apply(params, *inputs)`.
        params: its params, concrete or abstract; their values are not read. Two leaves that are one array are
            traced as one.
        inputs: what it takes; Python values among them stay as they are.
    """
    leaves, structure = jax.tree_util.tree_flatten(params)
    first: dict[int, int] = {}
    distinct: list[Any] = []
    places: list[int] = []
    for leaf in leaves:
        concrete = hasattr(leaf, "shape") and not isinstance(leaf, jax.ShapeDtypeStruct)
        key = id(leaf) if concrete else -len(places) - 1
        place = first.setdefault(key, len(first))
        if place == len(distinct):
            distinct.append(_abstract(leaf))
        places.append(place)
    given, rest = jax.tree_util.tree_flatten(tuple(inputs))
    arrays = {n: _abstract(leaf) for n, leaf in enumerate(given) if hasattr(leaf, "shape")}

    def call(distinct: Sequence[Any], arrays: Mapping[int, Any]) -> Any:
        own = structure.unflatten([distinct[place] for place in places])
        return apply(own, *rest.unflatten([arrays.get(n, leaf) for n, leaf in enumerate(given)]))

    jaxpr, output = jax.make_jaxpr(call, return_shape=True)(distinct, arrays)
    return Traced(jaxpr, tuple(places), output)


def _abstract(leaf: Any) -> Any:
    if not hasattr(leaf, "shape"):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=bool(getattr(leaf, "weak_type", False)))


def program(call: Traced, *, members: bool = False, held: Sequence[Any] = (), watch: Any = None) -> Program:
    """The program of a call. Cost: one step for each of its equations.

    Args:
        call: the call as JAX traced it.
        members: cut the axes along which an ensemble's members stand into members.
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
    leaves = [given[place] for place in call.places]
    found = Program(leaves, given[distinct:], outputs, tracer.ops, tracer.unknown, tracer.ensembles)
    _relate(found)
    return found


def _relate(found: Program) -> None:
    """Says of arrays that hold the same elements of leaves, as a table and its transpose, which axes are one."""
    storage = Storage(found)
    groups: dict[object, dict[int, Dim]] = {}
    used = {
        id(array): array for op in found.ops if not op.output.stored for array in op.inputs if array.stored
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
        one_hot: the indices of which an array holds one-hot rows, and along which axis.
    """

    members: bool = False
    watch: Callable[[int, Any], None] | None = None
    ops: list[Op] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    ensembles: bool = False
    one_hot: dict[int, tuple[Array, int]] = field(default_factory=dict)
    _made_by: dict[Dim, tuple[Op, int]] = field(default_factory=dict)
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
            made.term = _digest("traced", id(value))
        elif dtype.startswith("key"):
            made.term, made.random = _digest("key"), True
        else:
            made.known = array = np.asarray(value)
            large = array.nbytes > _MOST_HASHED
            made.term = _digest(dtype, array.shape, id(value) if large else array.tobytes())
        return made

    def add(self, name: str, inputs: Sequence[Array], output: Array, **info: Any) -> Array:
        """Keeps an operation."""
        output.leafy = name == "view" and all(array.leafy for array in inputs)
        repeats = math.prod(output.shape) > sum(math.prod(array.shape) for array in inputs)
        output.stored = output.leafy and all(array.stored for array in inputs) and not repeats
        self.ops.append(Op(name, tuple(inputs), output, info, self._source))
        return output

    def same(self, a: Dim, b: Dim) -> None:
        """Says that two axes are one; where what is known of them forbids it, they stay two."""
        try:
            attempt(unify, a, b)
        except NotAligned:
            self.unknown.add("an axis that is divided in two ways")

    def alike(self, a: Array, b: Array) -> None:
        """Says that the axes of two arrays of one shape are one."""
        for x, y in zip(a.dims, b.dims, strict=True):
            self.same(x, y)

    def ended(self, dim: Dim) -> None:
        """Says that an axis ends: it is summed over. A product of activations then knows whose it was."""
        if dim in self._made_by:
            op, side = self._made_by[dim]
            op.info.setdefault("ended", set()).add(side)

    def own(self, op: Op, places: Sequence[int], side: int) -> None:
        """Gives axes of a result names of their own, to be known again when they end."""
        dims = list(op.output.dims)
        for place in places:
            dims[place] = alias(dims[place])
            self._made_by[dims[place]] = op, side
        op.output.dims = tuple(dims)

    def members_along(self, dim: Dim) -> None:
        """Cuts an axis into the members of an ensemble, where that is asked for."""
        self.ensembles |= 1 < dim.size <= _MOST_MEMBERS
        if self.members and 1 < dim.size <= _MOST_MEMBERS:
            try:
                attempt(cut_up, dim)
            except NotAligned:
                self.unknown.add("members that cannot be told apart")

    # --- Running

    def run(self, jaxpr: Any, consts: Sequence[Array], given: Sequence[Array]) -> list[Array]:
        """What a program makes of arrays."""
        bound: dict[Any, Array] = dict(zip(jaxpr.constvars, consts, strict=True))
        bound.update(zip(jaxpr.invars, given, strict=True))

        def read(atom: Any) -> Array:
            return self.known(atom.val) if isinstance(atom, jex.Literal) else bound[atom]

        for eqn in jaxpr.eqns:
            self._source = self._scope, eqn.source_info
            arrays = [read(atom) for atom in eqn.invars]
            bound.update(zip(eqn.outvars, self._equation(eqn, arrays), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, given: list[Array]) -> list[Array]:
        start = len(self.ops)
        if all(array.constant for array in given) and not _inner(eqn) and eqn.primitive.name not in _LOOPS:
            made = self._constants(eqn, given)
        else:
            # Axes that a constant happens to run along are no reason to take two others for one.
            made = self._followed(eqn, [_loose(a) if a.constant else a for a in given])
        self._hold(eqn, given, made)
        if self.watch is not None:
            for number in range(start, len(self.ops)):
                if (value := self.ops[number].output.held) is not None and not _inner(eqn):
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
        if name in _LOOPS:
            return {"scan": self._scan, "while": self._while, "cond": self._cond}[name](eqn, given)
        inner = _inner(eqn)
        if inner is not None:
            body = getattr(inner, "jaxpr", inner)
            scope, self._scope = self._scope, f"{self._scope}/{eqn.source_info.name_stack}"
            made = self.run(body, self.consts(inner), given[len(given) - len(body.invars) :])
            self._scope = scope
            return made
        if len(eqn.outvars) == 1 and name in ELEMENTWISE:
            return [self._elementwise(eqn, given)]
        if len(eqn.outvars) == 1 and len(given) == 1 and name in ALONG:
            out = Array(given[0].dims, dtype_name(eqn.outvars[0].aval.dtype))
            return [self.add("apply", given, out, function=name, settings=_settings(eqn, given))]
        return self.opaque(eqn, given)

    def _storage(self, eqn: Any, given: list[Array]) -> list[Array] | None:
        """A view of leaves alone: how they are stored, which says nothing of axes. None where elements repeat."""
        if not any(array.stored for array in given):
            return None
        key = (
            eqn.primitive.name,
            _text(eqn.params),
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
            out = made if isinstance(made, list) else [made]
            if not all(array.stored for array in out):
                del self.ops[start:]
                return None
            names = {id(copy): array for copy, array in zip(copies, given, strict=True)}
            for op in self.ops[start:]:
                op.inputs = tuple(names.get(id(array), array) for array in op.inputs)
            for array in out:
                array.dims = tuple(Dim(dim.size) for dim in array.dims)
            self._stores[key] = [names.get(id(array), array) for array in out]
        return self._stores[key]

    def opaque(self, eqn: Any, given: list[Array]) -> list[Array]:
        """What an equation makes that is not understood."""
        self.unknown.add(eqn.primitive.name)
        return [
            self.add(
                "opaque",
                given,
                self.fresh(var.aval),
                function=eqn.primitive.name,
                settings=(number, _settings(eqn, given)),
            )
            for number, var in enumerate(eqn.outvars)
        ]

    def _constants(self, eqn: Any, given: list[Array]) -> list[Array]:
        """What an equation makes of constants alone."""
        name = eqn.primitive.name
        random = name in RANDOM or any(array.random for array in given)
        term = _digest(name, _text(eqn.params), *(array.term for array in given))
        params = eqn.params
        known = None
        if not random and len(eqn.outvars) == 1 and all(array.known is not None for array in given):
            if term not in self._folded:
                arrays = [array.known for array in given if array.known is not None]
                rule = f"integer_pow_{params['y']}" if name == "integer_pow" else name
                self._folded[term] = folded(rule, params, arrays, eqn.outvars[0].aval)
            known = self._folded[term]
        return [
            self.fresh(var.aval, constant=True, known=known, term=_digest(term, n), random=random)
            for n, var in enumerate(eqn.outvars)
        ]

    def _hold(self, eqn: Any, given: list[Array], made: list[Array]) -> None:
        """In a run on values: what an equation makes of them."""
        if self.watch is None or all(array.held is not None for array in made):
            return
        if all(array.held is not None for array in given):
            variables = [atom for atom in eqn.invars if not isinstance(atom, jex.Literal)]
            held = {
                atom: array.held
                for atom, array in zip(eqn.invars, given, strict=True)
                if not isinstance(atom, jex.Literal)
            }
            distinct = list(dict.fromkeys(variables))
            alone = jex.ClosedJaxpr(jex.Jaxpr([], distinct, eqn.outvars, [eqn]), [])
            found = jex.jaxpr_as_fun(alone)(*(held[var] for var in distinct))
            for array, value in zip(made, found, strict=True):
                array.held = value

    def _elementwise(self, eqn: Any, given: list[Array]) -> Array:
        aval = eqn.outvars[0].aval
        dims = [Dim(size) for size in aval.shape]
        for axis, size in enumerate(aval.shape):
            # An operand's axis of one index is repeated, and what a constant runs along tells nothing.
            own = [a.dims[axis] for a in given if a.dims and a.dims[axis].size == size and not a.constant]
            own.sort(key=lambda dim: dim not in self._made_by)
            if own:
                dims[axis] = own[0]
            for other in own[1:]:
                if size != 1:
                    self.same(own[0], other)
        name = eqn.primitive.name
        if name == "integer_pow":
            name = "square" if eqn.params["y"] == 2 else f"integer_pow_{eqn.params['y']}"
        out = self.add("apply", given, Array(tuple(dims), dtype_name(aval.dtype)), function=name)
        if name == "eq":
            self._note_one_hot(given, out)
        return out

    def _note_one_hot(self, given: list[Array], out: Array) -> None:
        """Indices that are compared with 0, 1, 2, ... along an axis of one index."""
        numbers = [a for a in given if a.known is not None]
        indices = [a for a in given if not a.constant]
        if len(numbers) != 1 or len(indices) != 1 or numbers[0].known is None:
            return
        for axis, dim in enumerate(out.dims):
            if dim.size > 1 and len(indices[0].dims) == len(out.dims) and indices[0].dims[axis].size == 1:
                others = tuple(n for n in range(len(out.dims)) if n != axis)
                line = numbers[0].known[
                    tuple(0 if n in others else slice(None) for n in range(len(out.dims)))
                ]
                if np.array_equal(line, np.arange(dim.size)):
                    self.one_hot[id(out)] = indices[0], axis

    # --- Loops

    def _scan(self, eqn: Any, given: list[Array]) -> list[Array]:
        params = eqn.params
        closed, length = params["jaxpr"], params["length"]
        consts = self.consts(closed)
        n_consts, n_carry = params["num_consts"], params["num_carry"]
        fixed, carry, xs = given[:n_consts], given[n_consts : n_consts + n_carry], given[n_consts + n_carry :]
        indexed = [array.stored for array in fixed] + [False] * (n_carry + len(xs))
        layered = any(array.stored for array in xs) or _picks(closed.jaxpr, indexed)
        if layered and 0 < length <= _MOST_STEPS:
            order = range(length - 1, -1, -1) if params["reverse"] else range(length)
            for array in xs:
                if not array.stored:
                    self._cut_up(array)
            rows: dict[int, list[Array]] = {}
            for step in order:
                taken = [self._taken(array, step) for array in xs]
                made = self.run(closed.jaxpr, consts, [*fixed, *carry, *taken])
                carry, rows[step] = made[:n_carry], made[n_carry:]
            stacked = [self._stacked([rows[n][i] for n in range(length)]) for i in range(len(made) - n_carry)]
            return [*carry, *stacked]
        if params["reverse"]:
            xs = [self._turned(array) for array in xs]
        steps = [self._each(array) for array in xs]
        made = self._looped(carry, lambda inner: self.run(closed.jaxpr, consts, [*fixed, *inner, *steps]))
        over = next((array.dims[0] for array in xs if not array.constant), Dim(length))
        rest = [
            self.add("apply", [a], Array((over, *a.dims), a.dtype), function="stack") for a in made[n_carry:]
        ]
        if params["reverse"]:
            rest = [self._turned(array) for array in rest]
        return [*made[:n_carry], *rest]

    def _cut_up(self, array: Array) -> None:
        try:
            attempt(cut_up, array.dims[0])
        except NotAligned:
            self.unknown.add("layers that cannot be told apart")

    def _taken(self, array: Array, step: int) -> Array:
        dims = tuple(Dim(dim.size) for dim in array.dims[1:]) if array.stored else array.dims[1:]
        out = Array(dims, array.dtype)
        self.add("view", [array], out, kind="take", axis=0, start=step)
        if array.constant:
            out.constant, out.random = True, array.random
            out.known = None if array.known is None else array.known[step]
            out.term = _digest("take", step, array.term)
        if array.held is not None:
            out.held = array.held[step]
        return out

    def _stacked(self, arrays: list[Array]) -> Array:
        first = arrays[0]
        for other in arrays[1:]:
            self.alike(first, other)
        out = Array((concat([Dim(1) for _ in arrays]), *first.dims), first.dtype)
        self.add("view", arrays, out, kind="stack")
        if all(array.held is not None for array in arrays):
            out.held = jax.numpy.stack([array.held for array in arrays])
        return out

    def _each(self, array: Array) -> Array:
        if array.constant:  # what it is in a step depends on the step
            term = _digest("each", array.term)
            return Array(array.dims[1:], array.dtype, constant=True, term=term, random=array.random)
        return self.add("apply", [array], Array(array.dims[1:], array.dtype), function="each")

    def _turned(self, array: Array) -> Array:
        """What a loop that runs backwards takes, or gives: an array whose first axis runs backwards."""
        if array.constant:
            return array
        return self.add("apply", [array], Array(array.dims, array.dtype), function="rev", settings=1)

    def _while(self, eqn: Any, given: list[Array]) -> list[Array]:
        params = eqn.params
        body, cond = params["body_jaxpr"], params["cond_jaxpr"]
        skip, n_body = params["cond_nconsts"], params["body_nconsts"]
        ahead, fixed, carry = given[:skip], given[skip : skip + n_body], given[skip + n_body :]
        consts = self.consts(body)
        if _picks(body.jaxpr, [array.stored for array in fixed] + [False] * len(carry)):
            for _ in range(_MOST_STEPS):
                (goes_on,) = self.run(cond.jaxpr, self.consts(cond), [*ahead, *carry])
                if goes_on.known is None:
                    break
                if not bool(goes_on.known):
                    return list(carry)
                carry = self.run(body.jaxpr, consts, [*fixed, *carry])
        return self._looped(carry, lambda inner: self.run(body.jaxpr, consts, [*fixed, *inner]))

    def _looped(self, carry: Sequence[Array], body: Callable[[list[Array]], list[Array]]) -> list[Array]:
        """What a loop's body makes, followed once: what it starts from is what it made, or the beginning."""
        start = len(self.ops)
        inner = [self.add("loop", [array], Array(array.dims, array.dtype)) for array in carry]
        loops = self.ops[start:]
        made = body(inner)
        for op, array in zip(loops, made, strict=False):  # what follows the carry is stacked
            self.alike(op.output, array)
            op.info["back"] = array
        return made

    def _cond(self, eqn: Any, given: list[Array]) -> list[Array]:
        branches = eqn.params["branches"]
        which = given[0]
        if which.known is not None:
            branch = branches[min(max(int(which.known), 0), len(branches) - 1)]
            return self.run(branch.jaxpr, self.consts(branch), given[1:])
        results = [self.run(b.jaxpr, self.consts(b), given[1:]) for b in branches]
        out: list[Array] = []
        for arrays in zip(*results, strict=True):
            for other in arrays[1:]:
                self.alike(arrays[0], other)
            made = Array(arrays[0].dims, arrays[0].dtype)
            out.append(self.add("apply", [which, *arrays], made, function="cond"))
        return out


_LOOPS = frozenset({"scan", "while", "cond"})
# Calls of a program within: what they say is what it says.
_CALLS = frozenset(
    {
        "jit",
        "pjit",
        "closed_call",
        "core_call",
        "xla_call",
        "remat",
        "remat2",
        "checkpoint",
        "custom_jvp_call",
    }
    | {"custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin", "core_closed_call", "run_state", "xla_pmap"}
)


def _inner(eqn: Any) -> Any:
    """The program within a call; None for what is no call."""
    if eqn.primitive.name in _CALLS:
        for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
            if (inner := eqn.params.get(key)) is not None:
                return inner
    return None


def _picks(jaxpr: Any, indexed: Sequence[bool]) -> bool:
    """Whether a program takes slices of some of its inputs at a place it computes: one layer of a stack."""
    marked = {var for var, wanted in zip(jaxpr.invars, indexed, strict=True) if wanted}
    for eqn in jaxpr.eqns:
        given = [not isinstance(atom, jex.Literal) and atom in marked for atom in eqn.invars]
        if not any(given):
            continue
        name = eqn.primitive.name
        if name in ("dynamic_slice", "gather") and given[0]:
            return True
        inner = _inner(eqn)
        if inner is not None:
            body = getattr(inner, "jaxpr", inner)
            if _picks(body, given[len(given) - len(body.invars) :]):
                return True
        elif name in ("squeeze", "reshape", "convert_element_type"):
            marked |= set(eqn.outvars)
    return False


def _loose(array: Array) -> Array:
    """A constant with axes of its own."""
    return Array(
        tuple(Dim(dim.size) for dim in array.dims),
        array.dtype,
        constant=True,
        known=array.known,
        term=array.term,
        random=array.random,
        held=array.held,
    )


def _digest(*what: object) -> int:
    """A number that stands for what a constant is; the same in every trace."""
    return int.from_bytes(blake2b(repr(what).encode(), digest_size=8).digest(), "big")


_MOST_HASHED = 1 << 22


def _settings(eqn: Any, given: Sequence[Array]) -> str:
    """What an equation is told beside what it takes, and what constants it takes, as text."""
    constants = [repr(array.term) for array in given if array.constant]
    return _text(eqn.params) + "".join(constants)


def _text(params: Mapping[str, Any]) -> str:
    return repr(sorted((key, repr(value)) for key, value in params.items() if key not in _PASSING))


_PASSING = frozenset({"sharding", "mesh", "name", "accuracy"})
