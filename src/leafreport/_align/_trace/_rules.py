"""What each of JAX's primitives says about axes, and what it does with values.

A rule takes the tracer, the equation and the arrays it is given, and returns what it makes. A primitive
without a rule is taken as opaque, which the trace says.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from leafreport._align._trace._constants import drawn
from leafreport._align._trace._dims import Dim
from leafreport._align._trace._lookups import LOOKUPS
from leafreport._align._trace._loops import LOOPS
from leafreport._align._trace._margins import Margin, unpadded
from leafreport._align._trace._primitives import ALONG, ELEMENTWISE, RANDOM, parameters
from leafreport._align._trace._products import PRODUCTS
from leafreport._align._trace._program import Array, dtype_name
from leafreport._align._trace._slices import SLICES

if TYPE_CHECKING:
    from leafreport._align._trace._tracer import Tracer


def _view(kind: str) -> Callable[["Tracer", Any, list[Array]], Array]:
    def rule(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
        array = given[0]
        dtype = dtype_name(eqn.outvars[0].aval.dtype)
        params = eqn.params
        info: dict[str, Any] = {}
        dims: Sequence[Dim]
        if kind == "transpose":
            info["order"] = tuple(params["permutation"])
            dims = [array.dims[axis] for axis in info["order"]]
        elif kind == "squeeze":
            info["keep"] = [n for n in range(len(array.dims)) if n not in params["dimensions"]]
            dims = [array.dims[axis] for axis in info["keep"]]
        elif kind == "broadcast":
            info["axes"] = tuple(params["broadcast_dimensions"])
            dims = [Dim(size) for size in params["shape"]]
            for axis, place in enumerate(info["axes"]):
                if array.dims[axis].size == params["shape"][place]:
                    dims[place] = array.dims[axis]
        else:
            raise ValueError(kind)
        return tracer.add("view", given[:1], Array(tuple(dims), dtype), kind=kind, **info)

    return rule


def _reduce(tracer: "Tracer", eqn: Any, given: list[Array]) -> list[Array]:
    axes = tuple(eqn.params.get("axes", eqn.params.get("dimensions", ())))
    out = []
    for array, var in zip(given, eqn.outvars, strict=False):
        dims = tuple(dim for n, dim in enumerate(array.dims) if n not in axes)
        out.append(_reduced(tracer, array, axes, eqn.primitive.name, Array(dims, dtype_name(var.aval.dtype))))
    return out


def _psum(tracer: "Tracer", eqn: Any, given: list[Array]) -> list[Array]:
    """A sum over an axis that is mapped over: of this array one like any other."""
    axes = eqn.params.get("axes", ())
    if not all(isinstance(axis, int) for axis in axes) or eqn.params.get("axis_index_groups") is not None:
        return tracer.opaque(eqn, given)
    out = []
    for array, var in zip(given, eqn.outvars, strict=True):
        dims = tuple(dim for n, dim in enumerate(array.dims) if n not in axes)
        out.append(
            _reduced(tracer, array, tuple(axes), "reduce_sum", Array(dims, dtype_name(var.aval.dtype)))
        )
    return out


def _reduced(tracer: "Tracer", array: Array, axes: tuple[int, ...], function: str, made: Array) -> Array:
    for n in axes:
        tracer.ended(array.dims[n], "reduce")
    return tracer.add("reduce", [array], made, function=function, axes=axes)


def _window(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    array, aval = given[0], eqn.outvars[0].aval
    params = dict(eqn.params)
    empty = _EMPTY.get(eqn.primitive.name)
    if empty is not None:
        every = list(range(len(array.dims)))
        array, params["padding"] = unpadded(tracer, array, every, params["padding"], empty)
    keys = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
    rows = [params.get(key) or (1,) * len(array.dims) for key in keys]
    plain = 1, 1, (0, 0), 1, 1
    # What an axis is called and where it stands differs between layouts: only its window counts.
    settings = tuple(row for row in zip(*rows, strict=True) if row != plain)
    name = eqn.primitive.name
    whole = [n for n, row in enumerate(zip(*rows, strict=True)) if row != plain]
    if name in _POOLED and all(rows[0][n] == array.shape[n] and rows[2][n] == (0, 0) for n in whole):
        # A window as large as the array is no window.
        dims = tuple(dim for n, dim in enumerate(array.dims) if n not in whole)
        made = _reduced(tracer, array, tuple(whole), _POOLED[name], Array(dims, dtype_name(aval.dtype)))
        kept = tuple(Dim(1) if n in whole else dim for n, dim in enumerate(array.dims))
        return tracer.add("view", [made], Array(kept, made.dtype), kind="reshape")
    out = Array(_resized(array, aval.shape), dtype_name(aval.dtype))
    acts = list(zip(whole, settings, strict=True))
    return tracer.add("apply", [array], out, function=name, settings=settings, acts=acts)


# What a window takes for what is beyond the edge.
_EMPTY = {"reduce_window_sum": 0.0, "reduce_window_max": -math.inf, "reduce_window_min": math.inf}
_POOLED = {f"reduce_window_{name}": f"reduce_{name}" for name in ("sum", "max", "min")}


def _pad(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    array, aval = given[0], eqn.outvars[0].aval
    out = Array(_resized(array, aval.shape), dtype_name(aval.dtype))
    value = given[1].value if given[1].constant else None
    rows = [tuple(map(int, row)) for row in eqn.params["padding_config"]]
    acts = [(n, row) for n, row in enumerate(rows) if row != (0, 0, 0)]
    settings = value, tuple(row for _, row in acts)
    made = tracer.add("apply", [array], out, function="pad", settings=settings, acts=acts)
    tracer.padded[id(made)] = Margin(array, value, dict(acts))
    return made


def _resized(array: Array, shape: Sequence[int]) -> tuple[Dim, ...]:
    return tuple(dim if dim.size == size else Dim(size) for dim, size in zip(array.dims, shape, strict=True))


def _plain(tracer: "Tracer", eqn: Any, given: list[Array]) -> list[Array]:
    """What leaves every value where it is, and what it is."""
    return [
        tracer.add("view", [array], Array(array.dims, dtype_name(var.aval.dtype)), kind="same")
        for array, var in zip(given, eqn.outvars, strict=True)
    ]


def _converted(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array | list[Array]:
    """Another dtype: the same values, but where fractions are lost."""
    (array,), target = given, eqn.outvars[0].aval.dtype
    if jnp.issubdtype(array.dtype, jnp.inexact) and not jnp.issubdtype(target, jnp.inexact):
        function = f"as {'bool' if jnp.issubdtype(target, jnp.bool_) else 'int'}"
        return tracer.add("apply", given, Array(array.dims, str(target)), function=function)
    return _plain(tracer, eqn, given)


def _random(tracer: "Tracer", eqn: Any, _given: list[Array]) -> list[Array]:
    """Random numbers are constants that no one knows, whatever their key was made of."""
    made = [tracer.fresh(var.aval, constant=True, term=0, random=True) for var in eqn.outvars]
    for array, var in zip(made, eqn.outvars, strict=True):
        array.drawn = drawn(eqn.primitive.name, [], var.aval.dtype)
    return made


def _elementwise(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    aval = eqn.outvars[0].aval
    dims = [Dim(size) for size in aval.shape]
    for axis, size in enumerate(aval.shape):
        # An operand's axis of one index is repeated, and what a constant runs along tells nothing.
        own = [a.dims[axis] for a in given if a.dims and a.dims[axis].size == size and not a.constant]
        own.sort(key=lambda dim: not tracer.owned(dim))
        if own:
            dims[axis] = own[0]
        for other in own[1:]:
            if size != 1:
                tracer.same(own[0], other)
    name = eqn.primitive.name
    if name == "integer_pow":
        name = "square" if eqn.params["y"] == 2 else f"integer_pow_{eqn.params['y']}"
    out = tracer.add("apply", given, Array(tuple(dims), dtype_name(aval.dtype)), function=name)
    if name == "eq":
        _note_one_hot(tracer, given, out)
    return out


def _note_one_hot(tracer: "Tracer", given: list[Array], out: Array) -> None:
    """Indices that are compared with 0, 1, 2, ... along an axis of one index."""
    numbers = [a for a in given if a.known is not None]
    indices = [a for a in given if not a.constant]
    if len(numbers) != 1 or len(indices) != 1 or numbers[0].known is None:
        return
    for axis, dim in enumerate(out.dims):
        if dim.size > 1 and len(indices[0].dims) == len(out.dims) and indices[0].dims[axis].size == 1:
            others = tuple(n for n in range(len(out.dims)) if n != axis)
            line = numbers[0].known[tuple(0 if n in others else slice(None) for n in range(len(out.dims)))]
            if np.array_equal(line, np.arange(dim.size)):
                tracer.one_hot[id(out)] = indices[0], axis


def _along(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array | list[Array]:
    """What is done along an axis, and leaves every axis what it is."""
    if len(eqn.outvars) != 1 or len(given) != 1:
        return tracer.opaque(eqn, given)
    name = eqn.primitive.name
    key = ALONG[name]
    out = Array(given[0].dims, dtype_name(eqn.outvars[0].aval.dtype))
    told = parameters(eqn, without=key)
    acts = [(eqn.params[key], told)]
    return tracer.add("apply", given, out, function=name, settings=told, acts=acts)


_PASSED_ON = (
    *("copy", "copy_p", "stop_gradient", "device_put", "sharding_constraint", "optimization_barrier"),
    *("reduce_precision", "name", "pvary"),
)
_REDUCING = (
    *("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
    *("argmax", "argmin"),
)
_WINDOWS = ("reduce_window_max", "reduce_window_min", "reduce_window_sum", "reduce_window")

RULES: dict[str, Callable[["Tracer", Any, list[Array]], Any]] = {
    **SLICES,
    **LOOKUPS,
    **PRODUCTS,
    **LOOPS,
    "transpose": _view("transpose"),
    "squeeze": _view("squeeze"),
    "broadcast_in_dim": _view("broadcast"),
    "convert_element_type": _converted,
    "pad": _pad,
    "psum": _psum,
    **dict.fromkeys(RANDOM, _random),
    **dict.fromkeys(_PASSED_ON, _plain),
    **dict.fromkeys(_REDUCING, _reduce),
    **dict.fromkeys(_WINDOWS, _window),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(ALONG, _along),
}
