"""A model's program as operations on arrays whose axes are `Dim`s.

The call is traced by `jax.make_jaxpr` on abstract values: nothing is computed. Calls are inlined, loops over
stacked layers are unrolled, other loops are followed once. What an operation says about axes (which are one,
which is a product or a part of others) is unified while tracing; what it does with values is an `Op`.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from leafreport._align._dims import Dim, NotAligned, alias, concat, cut, unify
from leafreport._align._program import Array, Op, Program
from leafreport._align._rules import ELEMENTWISE, RULES

# A loop over layers is unrolled up to this many steps; a longer one is followed once.
_MOST_STEPS = 4096


def trace(apply: Callable[..., Any], params: Any, inputs: Sequence[Any]) -> Program:
    """The program of a call. Cost: that of tracing it, and of one step for each of its equations.

    Args:
        apply: the call, `apply(params, *inputs)`.
        params: its params, concrete or abstract; their values are not read.
        inputs: what it takes.
    """
    abstract = jax.tree_util.tree_map(_abstract, (params, tuple(inputs)))
    closed = jax.make_jaxpr(lambda params, inputs: apply(params, *inputs))(*abstract)
    leaves = len(jax.tree_util.tree_leaves(params))
    tracer = Tracer()
    given = [tracer.fresh(var.aval) for var in closed.jaxpr.invars]
    for leaf in given[:leaves]:
        leaf.stored = True
    outputs = tracer.run(closed.jaxpr, [tracer.known(c) for c in closed.consts], given)
    return Program(given[:leaves], given[leaves:], outputs, tracer.ops, tracer.unknown)


def _abstract(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else leaf


class Tracer:
    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.unknown: set[str] = set()
        self._made_by: dict[Dim, tuple[Op, int]] = {}

    # --- Arrays

    def fresh(self, aval: Any, **flags: Any) -> Array:
        return Array(tuple(map(Dim, aval.shape)), str(aval.dtype), **flags)

    def known(self, value: Any) -> Array:
        dtype = str(getattr(value, "dtype", type(value).__name__))
        shape = np.shape(value)
        number = None
        if math.prod(shape) == 1 and not str(dtype).startswith("key"):
            number = (
                float(np.asarray(value).reshape(()).real) if np.asarray(value).dtype.kind in "biufc" else None
            )
        elif math.prod(shape) and np.asarray(value).dtype.kind in "biuf":
            flat = np.asarray(value).reshape(-1)
            number = float(flat[0]) if (flat == flat[0]).all() else None
        return Array(tuple(map(Dim, shape)), dtype, number, constant=True)

    def add(self, name: str, inputs: Sequence[Array], output: Array, **info: Any) -> Array:
        """Keeps an operation, unless it is one on constants alone."""
        output.constant = all(array.constant for array in inputs)
        output.stored = name == "view" and not output.constant and all(a.stored or a.constant for a in inputs)
        if output.constant and name == "view":
            output.value = inputs[0].value if all(a.value == inputs[0].value for a in inputs) else None
        self.ops.append(Op(name, tuple(inputs), output, info))
        return output

    def same(self, a: Dim, b: Dim) -> None:
        """Says that two axes are one; where what is known of them forbids it, they stay two."""
        try:
            unify(a, b)
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

    # --- Running

    def run(self, jaxpr: Any, consts: Sequence[Array], given: Sequence[Array]) -> list[Array]:
        bound: dict[Any, Array] = dict(zip(jaxpr.constvars, consts, strict=True))
        bound.update(zip(jaxpr.invars, given, strict=True))

        def read(atom: Any) -> Array:
            return self.known(atom.val) if isinstance(atom, jex.Literal) else bound[atom]

        for eqn in jaxpr.eqns:
            made = self._equation(eqn, [read(atom) for atom in eqn.invars])
            bound.update(zip(eqn.outvars, made, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, given: list[Array]) -> list[Array]:
        name = eqn.primitive.name
        rule = RULES.get(name)
        if rule is not None:
            made = rule(self, eqn, given)
            return made if isinstance(made, list) else [made]
        if name in ("scan", "while", "cond"):
            return {"scan": self._scan, "while": self._while, "cond": self._cond}[name](eqn, given)
        for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
            inner = eqn.params.get(key)
            if inner is not None:
                closed = inner if hasattr(inner, "consts") else None
                body = closed.jaxpr if closed is not None else inner
                consts = [self.known(c) for c in closed.consts] if closed is not None else []
                return self.run(body, consts, given[len(given) - len(body.invars) :])
        shapes = {var.aval.shape for var in eqn.outvars}
        if len(eqn.outvars) == 1 and name in ELEMENTWISE:
            return [self._elementwise(eqn, given)]
        if len(shapes) == 1 and len(eqn.outvars) == 1 and len(given) == 1 and given[0].shape in shapes:
            # Something done along an axis, as cumsum or sort: the axes stay what they are.
            return [
                self.add("apply", given, Array(given[0].dims, str(eqn.outvars[0].aval.dtype)), function=name)
            ]
        return self.opaque(eqn, given)

    def opaque(self, eqn: Any, given: list[Array]) -> list[Array]:
        if not all(array.constant for array in given):
            self.unknown.add(eqn.primitive.name)
        return [
            self.add("opaque", given, self.fresh(var.aval), function=eqn.primitive.name, result=number)
            for number, var in enumerate(eqn.outvars)
        ]

    def _elementwise(self, eqn: Any, given: list[Array]) -> Array:
        aval = eqn.outvars[0].aval
        dims = [Dim(size) for size in aval.shape]
        for axis, size in enumerate(aval.shape):
            # An operand's axis of one index is repeated.
            alike = [a.dims[axis] for a in given if a.dims and a.dims[axis].size == size]
            alike.sort(key=lambda dim: dim not in self._made_by)
            if alike:
                dims[axis] = alike[0]
            for other in alike[1:]:
                if size != 1:
                    self.same(alike[0], other)
        name = eqn.primitive.name
        if name == "integer_pow":
            name = "square" if eqn.params["y"] == 2 else f"integer_pow_{eqn.params['y']}"
        out = self.add("apply", given, Array(tuple(dims), str(aval.dtype)), function=name)
        if out.constant and all(array.value is not None for array in given):
            out.value = _number(name, [array.value for array in given])
        return out

    # --- Loops

    def _scan(self, eqn: Any, given: list[Array]) -> list[Array]:
        params = eqn.params
        closed, length = params["jaxpr"], params["length"]
        consts = [self.known(c) for c in closed.consts]
        n_consts, n_carry = params["num_consts"], params["num_carry"]
        fixed, carry, xs = given[:n_consts], given[n_consts : n_consts + n_carry], given[n_consts + n_carry :]
        if any(array.stored for array in xs) and 0 < length <= _MOST_STEPS:
            order = range(length - 1, -1, -1) if params["reverse"] else range(length)
            rows: dict[int, list[Array]] = {}
            for step in order:
                taken = [self._taken(array, step) for array in xs]
                made = self.run(closed.jaxpr, consts, [*fixed, *carry, *taken])
                carry, rows[step] = made[:n_carry], made[n_carry:]
            stacked = [self._stacked([rows[n][i] for n in range(length)]) for i in range(len(made) - n_carry)]
            return [*carry, *stacked]
        steps = [self._each(array) for array in xs]
        made = self._looped(carry, lambda inner: self.run(closed.jaxpr, consts, [*fixed, *inner, *steps]))
        over = xs[0].dims[0] if xs else Dim(length)
        rest = [
            self.add("apply", [a], Array((over, *a.dims), a.dtype), function="stack") for a in made[n_carry:]
        ]
        return [*made[:n_carry], *rest]

    def _taken(self, array: Array, step: int) -> Array:
        size = array.dims[0].size
        with suppress(NotAligned):
            cut(array.dims[0], step, step + 1)
        out = Array(array.dims[1:], array.dtype)
        return self.add("view", [array], out, kind="take", axis=0, start=step, size=size)

    def _stacked(self, arrays: list[Array]) -> Array:
        first = arrays[0]
        for other in arrays[1:]:
            self.alike(first, other)
        out = Array((concat([Dim(1) for _ in arrays]), *first.dims), first.dtype)
        return self.add("view", arrays, out, kind="stack")

    def _each(self, array: Array) -> Array:
        return self.add("apply", [array], Array(array.dims[1:], array.dtype), function="each")

    def _while(self, eqn: Any, given: list[Array]) -> list[Array]:
        params = eqn.params
        body = params["body_jaxpr"]
        skip, n_body = params["cond_nconsts"], params["body_nconsts"]
        fixed, carry = given[skip : skip + n_body], given[skip + n_body :]
        consts = [self.known(c) for c in body.consts]
        return self._looped(carry, lambda inner: self.run(body.jaxpr, consts, [*fixed, *inner]))

    def _looped(self, carry: Sequence[Array], body: Callable[[list[Array]], list[Array]]) -> list[Array]:
        """What a loop's body makes, followed once: what it starts from is what it made, or the beginning."""
        start = len(self.ops)
        inner = [self.add("loop", [array], Array(array.dims, array.dtype)) for array in carry]
        for array in inner:  # it changes, even where it begins as zeros
            array.constant = array.stored = False
        loops = self.ops[start:]
        made = body(inner)
        for op, array in zip(loops, made, strict=False):  # what follows the carry is stacked
            self.alike(op.output, array)
            op.info["back"] = array
        return made

    def _cond(self, eqn: Any, given: list[Array]) -> list[Array]:
        branches = eqn.params["branches"]
        results = [self.run(b.jaxpr, [self.known(c) for c in b.consts], given[1:]) for b in branches]
        out: list[Array] = []
        for arrays in zip(*results, strict=True):
            for other in arrays[1:]:
                self.alike(arrays[0], other)
            made = Array(arrays[0].dims, arrays[0].dtype)
            out.append(self.add("apply", [given[0], *arrays], made, function="cond"))
        return out


def _number(name: str, values: Sequence[Any]) -> float | None:
    """What an operation on known numbers gives, where it is one of the usual."""
    table: dict[str, Callable[..., float]] = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "max": max,
        "min": min,
        "neg": lambda a: -a,
        "sqrt": math.sqrt,
        "rsqrt": lambda a: 1 / math.sqrt(a),
        "convert_element_type": lambda a: a,
        "square": lambda a: a * a,
    }
    try:
        return table[name](*values)
    except (KeyError, ZeroDivisionError, ValueError, OverflowError, TypeError):
        return None
