"""Rules for what is taken from a table by its numbers, and put where numbers say.

Places that are known are slices; others are a lookup.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from leafreport._align._trace._dims import Dim, NotAligned, attempt, cut, product
from leafreport._align._trace._program import Array, dtype_name, lean
from leafreport._align._trace._slices import joined, sliced, updated

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
    """What is gathered at known places along one axis: parts of it; None for other places."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    aval = eqn.outvars[0].aval
    # An axis that is taken whole is so wherever it is said to begin.
    columns = [
        (n, axis) for n, axis in enumerate(numbers.start_index_map) if sizes[axis] != table.dims[axis].size
    ]
    if len(columns) != 1 or sizes[columns[0][1]] != 1:
        return None
    ((column, axis),) = columns
    line = lean(known[..., column])
    along = [n for n, size in enumerate(line.shape) if size > 1]
    rest = [n for n in range(len(table.dims)) if n != axis]
    if len(along) != 1 or any(sizes[n] != table.dims[n].size for n in rest):
        return None
    taken = _runs(tracer, table, axis, line.reshape(-1), dtype_name(aval.dtype))
    if taken is None:
        return None
    batch = [n for n in range(len(aval.shape)) if n not in numbers.offset_dims]
    kept = iter(n for n in range(len(table.dims)) if n not in numbers.collapsed_slice_dims)
    source = {place: n for place in numbers.offset_dims if (n := next(kept)) != axis}
    source[batch[along[0]]] = axis
    targets = tuple(sorted(source))
    order = tuple(source[place] for place in targets)
    if order != tuple(range(len(table.dims))):
        dims = tuple(taken.dims[n] for n in order)
        taken = tracer.add("view", [taken], Array(dims, taken.dtype), kind="transpose", order=order)
    made = [Dim(size) for size in aval.shape]
    for n, place in enumerate(targets):
        made[place] = taken.dims[n]
    return tracer.add("view", [taken], Array(tuple(made), taken.dtype), kind="broadcast", axes=targets)


def _runs(tracer: "Tracer", table: Array, axis: int, places: np.ndarray, dtype: str) -> Array | None:
    """Indices of an axis as parts of it, put end to end and repeated; None where that takes many parts."""
    size = table.dims[axis].size
    if int(places.min()) < 0 or int(places.max()) >= size:
        return None
    changes = np.flatnonzero(np.diff(places)) + 1
    times = int(changes[0]) if len(changes) else len(places)
    if len(places) % times or not np.array_equal(places, np.repeat(places[::times], times)):
        times = 1
    once = places[::times]
    ends = [0, *(np.flatnonzero(np.diff(once) != 1) + 1).tolist(), len(once)]
    runs = [(int(once[a]), int(once[b - 1]) + 1) for a, b in pairwise(ends)]
    if len(runs) > _MOST_RUNS:
        return None
    try:
        for start, stop in runs:
            if (start, stop) != (0, size):
                attempt(cut, table.dims[axis], start, stop)
    except NotAligned:
        return None
    parts = []
    for start, stop in runs:
        bounds = [(0, dim.size, 1) for dim in table.dims]
        bounds[axis] = start, stop, 1
        parts.append(sliced(tracer, table, bounds, dtype))
    found = parts[0] if len(parts) == 1 else joined(tracer, parts, axis, dtype)
    if times == 1:
        return found
    # Each index several times: along an axis of its own, which then is a part of this one.
    around = [*found.dims[: axis + 1], Dim(times), *found.dims[axis + 1 :]]
    axes = tuple(n if n <= axis else n + 1 for n in range(len(found.dims)))
    wide = tracer.add("view", [found], Array(tuple(around), dtype), kind="broadcast", axes=axes)
    dims = (*found.dims[:axis], product(around[axis : axis + 2]), *found.dims[axis + 1 :])
    return tracer.add("view", [wide], Array(dims, dtype), kind="reshape")


_MOST_RUNS = 16


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
