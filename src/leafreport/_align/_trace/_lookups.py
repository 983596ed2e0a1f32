"""Rules for what is taken from a table by its numbers, and put where numbers say.

Places that are known are slices; others are a lookup.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from leafreport._align._trace._dims import Dim
from leafreport._align._trace._program import Array, dtype_name, lean
from leafreport._align._trace._slices import sliced, updated

if TYPE_CHECKING:
    from leafreport._align._trace._tracer import Tracer


def _scatter(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array | list[Array]:
    """A part put into an array at one known place, as `x.at[:, 1].set(y)`; any other is not understood."""
    array, index, part = given
    numbers = eqn.params["dimension_numbers"]
    axes = numbers.scatter_dims_to_operand_dims
    if index.known is None or index.known.size != len(axes) or numbers.operand_batching_dims:
        return tracer.opaque(eqn, given)
    starts = dict(zip(axes, np.asarray(index.known).reshape(-1).tolist(), strict=True))
    inserted = set(numbers.inserted_window_dims)
    window = iter(numbers.update_window_dims)
    dims = [Dim(1) if n in inserted else part.dims[next(window)] for n in range(len(array.dims))]
    if math.prod(dim.size for dim in dims) != math.prod(part.shape):
        return tracer.opaque(eqn, given)
    whole = tracer.add("view", [part], Array(tuple(dims), part.dtype), kind="reshape")
    return updated(tracer, eqn, given, array, whole, [starts.get(n, 0) for n in range(len(array.dims))])


def _gather(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array | list[Array]:
    table, index = given
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if numbers.operand_batching_dims:
        return tracer.opaque(eqn, given)
    if index.known is not None and index.known.size == len(numbers.start_index_map):
        return _picked(tracer, eqn, table, index.known.reshape(-1).tolist())
    if index.known is not None and (span := _span(tracer, eqn, table, index.known)) is not None:
        return span
    aval = eqn.outvars[0].aval
    whole = [n for n in range(len(table.dims)) if n not in numbers.collapsed_slice_dims]
    dims: list[Dim] = []
    offsets, rows = iter(whole), iter(index.dims[:-1])
    taken = {}
    for place, size in enumerate(aval.shape):
        if place in numbers.offset_dims:
            axis = next(offsets)
            if sizes[axis] == table.dims[axis].size:
                taken[place] = axis
                dims.append(table.dims[axis])
            else:  # some rows of it
                dims.append(Dim(size))
        else:
            row = next(rows, None)
            dims.append(row if row is not None and row.size == size and not index.constant else Dim(size))
    return tracer.add("lookup", given, Array(tuple(dims), dtype_name(aval.dtype)), taken=taken)


def _span(tracer: "Tracer", eqn: Any, table: Array, known: np.ndarray) -> Array | None:
    """What is gathered at places that follow each other: a slice; None for any other places."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    aval = eqn.outvars[0].aval
    if len(numbers.start_index_map) != 1 or tuple(numbers.collapsed_slice_dims) != numbers.start_index_map:
        return None
    (axis,) = numbers.start_index_map
    line = lean(known[..., 0])
    along = [n for n, size in enumerate(line.shape) if size > 1]
    whole = all(
        size == dim.size for n, (size, dim) in enumerate(zip(sizes, table.dims, strict=True)) if n != axis
    )
    if len(along) != 1 or not whole:
        return None
    places = line.reshape(-1)
    start, stop = int(places[0]), int(places[-1]) + 1
    if start < 0 or stop > table.dims[axis].size or not np.array_equal(places, np.arange(start, stop)):
        return None
    bounds = [(0, dim.size, 1) for dim in table.dims]
    bounds[axis] = start, stop, 1
    taken = sliced(tracer, table, bounds, dtype_name(aval.dtype))
    batch = [n for n in range(len(aval.shape)) if n not in numbers.offset_dims]
    rest = iter(n for n in range(len(table.dims)) if n != axis)
    source = {place: next(rest) for place in numbers.offset_dims}
    source[batch[along[0]]] = axis
    targets = tuple(sorted(source))
    order = tuple(source[place] for place in targets)
    if order != tuple(range(len(order))):
        dims = tuple(taken.dims[n] for n in order)
        taken = tracer.add("view", [taken], Array(dims, taken.dtype), kind="transpose", order=order)
    made = [Dim(size) for size in aval.shape]
    for n, place in enumerate(targets):
        made[place] = taken.dims[n]
    return tracer.add("view", [taken], Array(tuple(made), taken.dtype), kind="broadcast", axes=targets)


def _picked(tracer: "Tracer", eqn: Any, table: Array, starts: Sequence[int]) -> Array:
    """What is gathered at one known place: a slice."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    aval = eqn.outvars[0].aval
    at = dict(zip(numbers.start_index_map, starts, strict=True))
    bounds = []
    for axis, (size, dim) in enumerate(zip(sizes, table.dims, strict=True)):
        low = min(max(int(at.get(axis, 0)), 0), dim.size - size)
        bounds.append((low, low + size, 1))
    one = sliced(tracer, table, bounds, dtype_name(aval.dtype))
    whole = iter(n for n in range(len(table.dims)) if n not in numbers.collapsed_slice_dims)
    dims = tuple(
        one.dims[next(whole)] if n in numbers.offset_dims else Dim(1) for n in range(len(aval.shape))
    )
    return tracer.add("view", [one], Array(dims, dtype_name(aval.dtype)), kind="reshape")


LOOKUPS: dict[str, Callable[["Tracer", Any, list[Array]], Any]] = {"gather": _gather, "scatter": _scatter}
