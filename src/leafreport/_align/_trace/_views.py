"""Views as arithmetic on indices: where an element of a view is in what is viewed."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from leafreport._align._trace._program import Array, Op

# Indices, one for each axis; or arrays of them, all of one shape.
Index = tuple[Any, ...]


def strides(shape: Sequence[int]) -> list[int]:
    """How far apart neighbours along each axis are in a flattened array."""
    return [math.prod(shape[n + 1 :]) for n in range(len(shape))]


def before(op: Op, index: Index) -> tuple[Array, Index]:
    """Where an element of a view is: in which of the arrays viewed, and where in it."""
    kind = op.info["kind"]
    if kind == "stack":
        return op.inputs[index[0]], index[1:]
    if kind == "concatenate":
        return _part(op, index)
    return op.inputs[0], SOURCES[kind](op.inputs[0], op.info, index, op.output.shape)


def _part(op: Op, index: Index) -> tuple[Array, Index]:
    axis, begin = op.info["axis"], 0
    for part in op.inputs:
        size = part.dims[axis].size
        if index[axis] < begin + size:
            return part, (*index[:axis], index[axis] - begin, *index[axis + 1 :])
        begin += size
    raise IndexError(index)


def _same(_array: Array, _info: dict[str, Any], index: Index, _shape: Index) -> Index:
    return index


def _transpose(_array: Array, info: dict[str, Any], index: Index, _shape: Index) -> Index:
    source = [0] * len(index)
    for place, axis in enumerate(info["order"]):
        source[axis] = index[place]
    return tuple(source)


def _squeeze(array: Array, info: dict[str, Any], index: Index, _shape: Index) -> Index:
    source = [0] * len(array.dims)
    for place, axis in enumerate(info["keep"]):
        source[axis] = index[place]
    return tuple(source)


def _broadcast(array: Array, info: dict[str, Any], index: Index, _shape: Index) -> Index:
    return tuple(index[place] if array.dims[n].size > 1 else 0 for n, place in enumerate(info["axes"]))


def _reshape(array: Array, _info: dict[str, Any], index: Index, shape: Index) -> Index:
    if 0 in array.shape:
        return (0,) * len(array.shape)
    flat = sum(i * s for i, s in zip(index, strides(shape), strict=True))
    return tuple(flat // s % n for s, n in zip(strides(array.shape), array.shape, strict=True))


def _slice(_array: Array, info: dict[str, Any], index: Index, _shape: Index) -> Index:
    return tuple(i + start for i, start in zip(index, info["starts"], strict=True))


def _reverse(array: Array, info: dict[str, Any], index: Index, _shape: Index) -> Index:
    return tuple(
        dim.size - 1 - i if n in info["axes"] else i
        for n, (i, dim) in enumerate(zip(index, array.dims, strict=True))
    )


def _tile(array: Array, _info: dict[str, Any], index: Index, _shape: Index) -> Index:
    return tuple(i % dim.size for i, dim in zip(index, array.dims, strict=True))


def _take(_array: Array, info: dict[str, Any], index: Index, _shape: Index) -> Index:
    return (info["start"], *index)


SOURCES: dict[str, Callable[[Array, dict[str, Any], Index, Index], Index]] = {
    "same": _same,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "broadcast": _broadcast,
    "reshape": _reshape,
    "slice": _slice,
    "reverse": _reverse,
    "tile": _tile,
    "take": _take,
}
