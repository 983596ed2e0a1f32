"""What a program computes from nothing (masks, positions, scales), found out with NumPy while it is traced.

A model's constants are small beside its params, and layers compute the same ones again and again: each is
computed once, and what repeats along an axis is kept once.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from leafreport._align._trace._program import lean

# A constant of more elements than this (after repeats are taken out) is told only by how it is computed.
_MOST = 1 << 22


def folded(name: str, params: dict[str, Any], given: Sequence[np.ndarray], aval: Any) -> np.ndarray | None:
    """What a primitive makes of known arrays; None where it is not known or too large.

    Args:
        name: the primitive's name.
        params: its parameters.
        given: what it takes.
        aval: shape and dtype of what it makes.
    """
    try:
        dtype = np.dtype(aval.dtype)
        with np.errstate(all="ignore"):
            if name in COMPUTED:
                made = _elementwise(COMPUTED[name], given)
            elif name in _RULES:
                made = _RULES[name](params, *given)
            else:
                return None
        if made is None or lean(made).size > _MOST:
            return None
        made = np.broadcast_to(_as(lean(made), dtype), made.shape) if made.ndim else _as(made, dtype)
        return made if made.shape == tuple(aval.shape) else None
    except (TypeError, ValueError, OverflowError, IndexError, MemoryError):
        return None


def drawn(name: str, given: Sequence[np.ndarray | float | None], dtype: Any) -> np.ndarray | None:
    """Numbers that stand for what a primitive makes of random ones; None where that is not known.

    Args:
        name: the primitive's name.
        given: what it takes: numbers that stand for random ones, a known number, or None.
        dtype: the dtype of what it makes.
    """
    if name in _BITS and np.issubdtype(dtype, np.unsignedinteger):
        return ((np.arange(_DRAWN) + 0.5) / _DRAWN * float(np.iinfo(dtype).max)).astype(dtype)
    if any(value is None for value in given):
        return None
    if name in _VIEWS:
        return np.asarray(given[0], dtype)
    if name == "bitcast_convert_type" and np.dtype(dtype).itemsize == np.asarray(given[0]).itemsize:
        viewed: np.ndarray = np.asarray(given[0]).view(dtype)
        return viewed
    if name not in COMPUTED or name == "integer_pow":
        return None
    kinds = [value.dtype for value in given if isinstance(value, np.ndarray)]
    arrays = [np.asarray(value, None if isinstance(value, np.ndarray) else kinds[0]) for value in given]
    try:
        with np.errstate(all="ignore"):
            found = np.asarray(COMPUTED[name](*arrays), np.dtype(dtype))
        return np.broadcast_to(found, (_DRAWN,))
    except (TypeError, ValueError, OverflowError):
        return None


_DRAWN = 1000
_BITS = frozenset({"random_bits", "threefry2x32", "rng_bit_generator"})
_VIEWS = frozenset(
    (
        *("reshape", "broadcast_in_dim", "squeeze", "transpose", "slice", "rev", "copy", "copy_p"),
        *("convert_element_type", "stop_gradient", "device_put", "sharding_constraint", "name"),
    )
)


def _as(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return array if array.dtype == dtype else array.astype(dtype)


def _elementwise(rule: Callable[..., Any], given: Sequence[np.ndarray]) -> np.ndarray | None:
    """Computed on what does not repeat, and repeated then."""
    shape = np.broadcast_shapes(*(array.shape for array in given))
    cores = [lean(array) for array in given]
    if math.prod(np.broadcast_shapes(*(core.shape for core in cores))) > _MOST:
        return None
    return np.broadcast_to(np.asarray(rule(*cores)), shape)


def _iota(params: dict[str, Any]) -> np.ndarray:
    shape, axis = params["shape"], params["dimension"]
    line = np.arange(shape[axis]).reshape([-1 if n == axis else 1 for n in range(len(shape))])
    return np.broadcast_to(line, shape)


def _broadcast(params: dict[str, Any], array: np.ndarray) -> np.ndarray:
    shape = [1] * len(params["shape"])
    for axis, place in enumerate(params["broadcast_dimensions"]):
        shape[place] = array.shape[axis]
    return np.broadcast_to(array.reshape(shape), params["shape"])


def _reshape(params: dict[str, Any], array: np.ndarray) -> np.ndarray | None:
    core = lean(array)
    if core.size == 1:
        return np.broadcast_to(core.reshape(()), params["new_sizes"])
    if array.size > _MOST:
        return None
    return array.reshape(params["new_sizes"])


def _slice(params: dict[str, Any], array: np.ndarray) -> np.ndarray:
    steps = params["strides"] or (1,) * array.ndim
    bounds = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    return array[tuple(slice(*bound) for bound in bounds)]


def _pad(params: dict[str, Any], array: np.ndarray, value: np.ndarray) -> np.ndarray | None:
    if any(low < 0 or high < 0 or inner for low, high, inner in params["padding_config"]):
        return None
    return np.pad(array, [pair[:2] for pair in params["padding_config"]], constant_values=value.item())


def _window(function: Callable[..., Any], empty: float) -> Callable[..., np.ndarray | None]:
    def rule(params: dict[str, Any], array: np.ndarray) -> np.ndarray | None:
        sizes, steps = params["window_dimensions"], params["window_strides"]
        dilated = set(params.get("base_dilation") or (1,)) | set(params.get("window_dilation") or (1,))
        if dilated != {1} or math.prod(sizes) * array.size > _MOST:
            return None
        padded = np.pad(array, params["padding"], constant_values=empty)
        windows = np.lib.stride_tricks.sliding_window_view(padded, sizes)
        taken = windows[tuple(slice(None, None, step) for step in steps)]
        return np.asarray(function(taken, axis=tuple(range(array.ndim, 2 * array.ndim))))

    return rule


def _reduced(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    return lambda params, array: np.asarray(function(array, axis=tuple(params["axes"])))


def _running(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    def rule(params: dict[str, Any], array: np.ndarray) -> np.ndarray:
        if params.get("reverse"):
            return np.asarray(
                np.flip(function(np.flip(array, params["axis"]), axis=params["axis"]), params["axis"])
            )
        return np.asarray(function(array, axis=params["axis"]))

    return rule


def _dot(params: dict[str, Any], a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    (ca, cb), (ba, bb) = params["dimension_numbers"]
    if ba or bb or math.prod(a.shape) * math.prod(b.shape) > 1 << 26:
        return None
    return np.tensordot(a, b, (ca, cb))


_PASSED_ON = (
    *("convert_element_type", "copy", "copy_p", "stop_gradient", "device_put", "sharding_constraint", "name"),
)
_RULES: dict[str, Callable[..., Any]] = {
    "iota": _iota,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "slice": _slice,
    "pad": _pad,
    "dot_general": _dot,
    "transpose": lambda params, array: array.transpose(params["permutation"]),
    "squeeze": lambda params, array: np.squeeze(array, tuple(params["dimensions"])),
    "rev": lambda params, array: np.flip(array, params["dimensions"]),
    "concatenate": lambda params, *arrays: np.concatenate(arrays, params["dimension"]),
    "reduce_sum": _reduced(np.sum),
    "reduce_max": _reduced(np.max),
    "reduce_min": _reduced(np.min),
    "reduce_prod": _reduced(np.prod),
    "reduce_and": _reduced(np.all),
    "reduce_or": _reduced(np.any),
    "reduce_window_sum": _window(np.sum, 0),
    "reduce_window_max": _window(np.max, -np.inf),
    "reduce_window_min": _window(np.min, np.inf),
    "tile": lambda params, array: np.tile(array, params["reps"]),
    "stack": lambda params, *arrays: np.stack(arrays, params["axis"]),
    "cumsum": _running(np.cumsum),
    "cumprod": _running(np.cumprod),
    "cummax": _running(np.maximum.accumulate),
    **dict.fromkeys(_PASSED_ON, lambda _params, array: array),
}

_erf = np.vectorize(math.erf, otypes=[float])
_normal = NormalDist()


def _power(n: int) -> Callable[[Any], Any]:
    return lambda x: x**n


def _select(which: Any, *cases: Any) -> Any:
    shape = np.broadcast_shapes(np.shape(which), *map(np.shape, cases))
    chosen = np.broadcast_to(np.asarray(which).astype(np.intp), shape)
    return np.choose(chosen, [np.broadcast_to(case, shape) for case in cases])


# What a primitive computes, number by number.
COMPUTED: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": lambda a, b: np.floor_divide(a, b) if np.asarray(a).dtype.kind in "iu" else np.divide(a, b),
    "rem": np.fmod,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
    "neg": np.negative,
    "abs": np.abs,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "cbrt": np.cbrt,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "erf": _erf,
    "erfc": lambda x: 1 - _erf(x),
    "square": np.square,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "is_finite": np.isfinite,
    "clamp": lambda low, x, high: np.clip(x, low, high),
    "gt": np.greater,
    "ge": np.greater_equal,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": lambda a, b: np.asarray(a) & np.asarray(b),
    "or": lambda a, b: np.asarray(a) | np.asarray(b),
    "xor": lambda a, b: np.asarray(a) ^ np.asarray(b),
    "not": lambda a: ~np.asarray(a),
    "select_n": _select,
    "shift_left": np.left_shift,
    "shift_right_logical": np.right_shift,
    "erf_inv": lambda x: np.vectorize(_normal.inv_cdf)((np.clip(x, -1 + 1e-9, 1 - 1e-9) + 1) / 2) / 2**0.5,
    **{f"integer_pow_{n}": _power(n) for n in range(-8, 17)},
}
