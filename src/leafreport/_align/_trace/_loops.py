"""Rules for loops and branches.

A loop over stacked layers is unrolled, so that each of its steps is a layer like any other. Any other loop
is followed once: what a step starts from is what it made, or the beginning.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
from jax.extend import core as jex

from leafreport._align._trace._dims import Dim, NotAligned, attempt, concat, cut_up
from leafreport._align._trace._primitives import called
from leafreport._align._trace._program import Array, digest

if TYPE_CHECKING:
    from leafreport._align._trace._tracer import Tracer

# A loop over layers is unrolled up to this many steps; a longer one is followed once.
_MOST_STEPS = 4096


def _scan(tracer: "Tracer", eqn: Any, given: list[Array]) -> list[Array]:
    params = eqn.params
    closed, length = params["jaxpr"], params["length"]
    consts = tracer.consts(closed)
    n_consts, n_carry = params["num_consts"], params["num_carry"]
    fixed, carry, xs = given[:n_consts], given[n_consts : n_consts + n_carry], given[n_consts + n_carry :]
    indexed = [array.stored for array in fixed] + [False] * (n_carry + len(xs))
    layered = any(array.stored for array in xs) or _picks(closed.jaxpr, indexed)
    if layered and 0 < length <= _MOST_STEPS:
        order = range(length - 1, -1, -1) if params["reverse"] else range(length)
        for array in xs:
            if not array.stored:
                _cut_up(tracer, array)
        rows: dict[int, list[Array]] = {}
        for step in order:
            taken = [_taken(tracer, array, step) for array in xs]
            made = tracer.run(closed.jaxpr, consts, [*fixed, *carry, *taken])
            carry, rows[step] = made[:n_carry], made[n_carry:]
        stacked = [_stacked(tracer, [rows[n][i] for n in range(length)]) for i in range(len(made) - n_carry)]
        return [*carry, *stacked]
    if params["reverse"]:
        xs = [_turned(tracer, array) for array in xs]
    steps = [_each(tracer, array) for array in xs]
    made = _looped(
        tracer,
        carry,
        lambda inner: tracer.run(closed.jaxpr, consts, [*fixed, *inner, *steps]),
        length,
    )
    over = next((array.dims[0] for array in xs if not array.constant), Dim(length))
    rest = [
        tracer.add("apply", [a], Array((over, *a.dims), a.dtype), function="stack") for a in made[n_carry:]
    ]
    if params["reverse"]:
        rest = [_turned(tracer, array) for array in rest]
    return [*made[:n_carry], *rest]


def _cut_up(tracer: "Tracer", array: Array) -> None:
    try:
        attempt(cut_up, array.dims[0])
    except NotAligned:
        tracer.unknown["layers that cannot be told apart"] += 1


def _taken(tracer: "Tracer", array: Array, step: int) -> Array:
    dims = tuple(Dim(dim.size) for dim in array.dims[1:]) if array.stored else array.dims[1:]
    out = Array(dims, array.dtype)
    tracer.add("view", [array], out, kind="take", axis=0, start=step)
    if array.constant:
        out.constant, out.random, out.drawn = True, array.random, array.drawn
        out.known = None if array.known is None else array.known[step]
        out.term = digest("take", step, array.term)
    if array.held is not None:
        out.held = array.held[step]
    return out


def _stacked(tracer: "Tracer", arrays: list[Array]) -> Array:
    first = arrays[0]
    for other in arrays[1:]:
        tracer.alike(first, other)
    out = Array((concat([Dim(1) for _ in arrays]), *first.dims), first.dtype)
    tracer.add("view", arrays, out, kind="stack")
    if all(array.held is not None for array in arrays):
        out.held = jax.numpy.stack([array.held for array in arrays])
    return out


def _each(tracer: "Tracer", array: Array) -> Array:
    if array.constant:  # what it is in a step depends on the step
        term = digest("each", array.term)
        dims = array.dims[1:]
        return Array(dims, array.dtype, constant=True, term=term, random=array.random, drawn=array.drawn)
    out = Array(array.dims[1:], array.dtype)
    return tracer.add("apply", [array], out, function="each", acts=[(0, "")])


def _turned(tracer: "Tracer", array: Array) -> Array:
    """What a loop that runs backwards takes, or gives: an array whose first axis runs backwards."""
    if array.constant:
        return array
    out = Array(array.dims, array.dtype)
    return tracer.add("apply", [array], out, function="rev", settings=1, acts=[(0, "")])


def _while(tracer: "Tracer", eqn: Any, given: list[Array]) -> list[Array]:
    params = eqn.params
    body, cond = params["body_jaxpr"], params["cond_jaxpr"]
    skip, n_body = params["cond_nconsts"], params["body_nconsts"]
    ahead, fixed, carry = given[:skip], given[skip : skip + n_body], given[skip + n_body :]
    consts = tracer.consts(body)
    if _picks(body.jaxpr, [array.stored for array in fixed] + [False] * len(carry)):
        for _ in range(_MOST_STEPS):
            (goes_on,) = tracer.run(cond.jaxpr, tracer.consts(cond), [*ahead, *carry])
            if goes_on.known is None:
                break
            if not bool(goes_on.known):
                return list(carry)
            carry = tracer.run(body.jaxpr, consts, [*fixed, *carry])
    until = digest(str(cond.jaxpr), *(array.term for array in ahead))
    return _looped(tracer, carry, lambda inner: tracer.run(body.jaxpr, consts, [*fixed, *inner]), until)


def _looped(
    tracer: "Tracer",
    carry: Sequence[Array],
    body: Callable[[list[Array]], list[Array]],
    steps: int,
) -> list[Array]:
    """What a loop's body makes, followed once: what it starts from is what it made, or the beginning.

    Args:
        tracer: what follows the program.
        carry: what the loop begins with.
        body: what a step makes.
        steps: how many steps there are, or a number that stands for when it ends.
    """
    start = len(tracer.ops)
    inner = [tracer.add("loop", [array], Array(array.dims, array.dtype), steps=steps) for array in carry]
    loops = tracer.ops[start:]
    made = body(inner)
    for op, array in zip(loops, made, strict=False):  # what follows the carry is stacked
        tracer.alike(op.output, array)
        op.info["back"] = array
    return made


def _cond(tracer: "Tracer", eqn: Any, given: list[Array]) -> list[Array]:
    branches = eqn.params["branches"]
    which = given[0]
    if which.known is not None:
        branch = branches[min(max(int(which.known), 0), len(branches) - 1)]
        return tracer.run(branch.jaxpr, tracer.consts(branch), given[1:])
    results = [tracer.run(b.jaxpr, tracer.consts(b), given[1:]) for b in branches]
    out: list[Array] = []
    for arrays in zip(*results, strict=True):
        for other in arrays[1:]:
            tracer.alike(arrays[0], other)
        made = Array(arrays[0].dims, arrays[0].dtype)
        out.append(tracer.add("apply", [which, *arrays], made, function="cond"))
    return out


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
        inner = called(eqn)
        if inner is not None:
            body = getattr(inner, "jaxpr", inner)
            if _picks(body, given[len(given) - len(body.invars) :]):
                return True
        elif name in ("squeeze", "reshape", "convert_element_type"):
            marked |= set(eqn.outvars)
    return False


LOOPS: dict[str, Callable[["Tracer", Any, list[Array]], list[Array]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
