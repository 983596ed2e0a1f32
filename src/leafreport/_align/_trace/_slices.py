"""Rules for parts of arrays: what is cut out, put in, put end to end, divided into axes.

Where an axis is cut or divided, its dim is; where what is known of it forbids that, the result has axes of
its own, and the trace says so.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from leafreport._align._trace._dims import Dim, NotAligned, attempt, concat, cut, product, split_product
from leafreport._align._trace._program import Array, constant, dtype_name

if TYPE_CHECKING:
    from leafreport._align._trace._tracer import Tracer


def _reshape(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    array = given[0]
    aval = eqn.outvars[0].aval
    dtype = dtype_name(aval.dtype)
    if eqn.params.get("dimensions") is not None:
        order = tuple(eqn.params["dimensions"])
        turned = Array(tuple(array.dims[axis] for axis in order), array.dtype)
        array = tracer.add("view", [array], turned, kind="transpose", order=order)
    try:
        dims = attempt(reshaped, array.dims, aval.shape)
    except NotAligned:
        dims = tuple(map(Dim, aval.shape))
        if not array.stored:  # how a leaf is stored says nothing of axes
            tracer.unknown["a reshape that does not divide its axes"] += 1
            sizes = tuple(tuple(n for n in shape if n != 1) for shape in (array.shape, aval.shape))
            return tracer.add("opaque", [array], Array(dims, dtype), function="reshape", settings=sizes)
    return tracer.add("view", [array], Array(dims, dtype), kind="reshape")


def reshaped(dims: Sequence[Dim], shape: Sequence[int]) -> tuple[Dim, ...]:
    """The axes after a reshape: groups of axes of equal product are divided alike.

    Raises:
        NotAligned: they are not, as 4 x 3 and 3 x 4.
    """
    left = [dim for dim in dims if dim.size != 1]
    sizes = [size for size in shape if size != 1]
    made: list[Dim] = []
    while sizes and left:
        group, targets = [left.pop(0)], [sizes.pop(0)]
        if group[0].size == targets[0]:  # under the name it has
            made.append(group[0])
            continue
        while (a := math.prod(d.size for d in group)) != (b := math.prod(targets)):
            if a < b and left:
                group.append(left.pop(0))
            elif sizes:
                targets.append(sizes.pop(0))
            else:
                break
        made += _divided(group, targets)
    made += [Dim(size) for size in sizes]
    rest = iter(made)
    return tuple(Dim(1) if size == 1 else next(rest) for size in shape)


def _divided(group: Sequence[Dim], targets: Sequence[int]) -> list[Dim]:
    """A group of axes as axes of other sizes and the same product."""
    rest = product(group)
    made: list[Dim] = []
    for target in targets[:-1]:
        first, rest = split_product(rest, target)
        made.append(first)
    return [*made, rest]


def _slice(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    array = given[0]
    params = eqn.params
    starts, stops = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * len(starts)
    return sliced(
        tracer, array, list(zip(starts, stops, strides, strict=True)), dtype_name(eqn.outvars[0].aval.dtype)
    )


def sliced(tracer: "Tracer", array: Array, bounds: Sequence[tuple[int, int, int]], dtype: str) -> Array:
    """A part of an array; for each axis first index, last one plus one, and step."""
    bounds = [(int(start), int(stop), int(step)) for start, stop, step in bounds]
    if any(stride != 1 for *_, stride in bounds):
        return _strided(tracer, array, bounds, dtype)
    dims: list[Dim] = []
    exact = True
    for dim, (start, stop, _) in zip(array.dims, bounds, strict=True):
        if (start, stop) == (0, dim.size):
            dims.append(dim)
            continue
        part = _part(dim, start, stop)
        exact &= part is not None
        dims.append(part if part is not None else Dim(stop - start))
    out = Array(tuple(dims), dtype)
    if not exact:
        tracer.unknown["a slice that does not divide its axis"] += 1
        return tracer.add("opaque", [array], out, function="slice", settings=tuple(bounds))
    return tracer.add("view", [array], out, kind="slice", starts=tuple(b[0] for b in bounds))


def _strided(tracer: "Tracer", array: Array, bounds: Sequence[tuple[int, int, int]], dtype: str) -> Array:
    """Every n-th index: one of the n that each block of n has, where the blocks fill the axis."""
    sizes: list[int] = []
    inner: list[tuple[int, int, int]] = []
    keep: list[int] = []
    for dim, (start, stop, stride) in zip(array.dims, bounds, strict=True):
        keep.append(len(sizes))
        if stride == 1:
            sizes.append(dim.size)
            inner.append((start, stop, 1))
            continue
        if dim.size % stride or start // stride or -(-(stop - start) // stride) != dim.size // stride:
            dims = tuple(
                d if (b, e, n) == (0, d.size, 1) else Dim(-(-(e - b) // n))
                for d, (b, e, n) in zip(array.dims, bounds, strict=True)
            )
            acts = [
                (n, bound)
                for n, (bound, d) in enumerate(zip(bounds, array.dims, strict=True))
                if bound != (0, d.size, 1)
            ]
            settings = tuple(bound for _, bound in acts)
            return tracer.add(
                "apply", [array], Array(dims, dtype), function="slice", settings=settings, acts=acts
            )
        sizes += [dim.size // stride, stride]
        inner += [(0, dim.size // stride, 1), (start, start + 1, 1)]
    try:
        parted = attempt(reshaped, array.dims, sizes)
    except NotAligned:
        tracer.unknown["a slice that does not divide its axis"] += 1
        dims = tuple(Dim(-(-(stop - start) // stride)) for start, stop, stride in bounds)
        return tracer.add("opaque", [array], Array(dims, dtype), function="slice", settings=tuple(bounds))
    blocks = tracer.add("view", [array], Array(parted, dtype), kind="reshape")
    one = sliced(tracer, blocks, inner, dtype)
    dims = tuple(one.dims[axis] for axis in keep)
    return tracer.add("view", [one], Array(dims, dtype), kind="squeeze", keep=keep)


def _part(dim: Dim, start: int, stop: int) -> Dim | None:
    try:
        return attempt(cut, dim, start, stop)
    except NotAligned:
        return None


def _dynamic_slice(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array | list[Array]:
    array, *indices = given
    sizes = eqn.params["slice_sizes"]
    if all(index.value is not None for index in indices):
        bounds = []
        for index, size, dim in zip(indices, sizes, array.dims, strict=True):
            start = min(max(int(index.value or 0), 0), dim.size - size)
            bounds.append((start, start + size, 1))
        return sliced(tracer, array, bounds, dtype_name(eqn.outvars[0].aval.dtype))
    dims = tuple(d if d.size == s else Dim(s) for d, s in zip(array.dims, sizes, strict=True))
    out = Array(dims, dtype_name(eqn.outvars[0].aval.dtype))
    acts = [(n, size) for n, (d, size) in enumerate(zip(array.dims, sizes, strict=True)) if d.size != size]
    return tracer.add("apply", given, out, function="dynamic_slice", acts=acts)


def _dynamic_update(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array | list[Array]:
    """A part put into an array at a place, which is understood where it is known."""
    array, part, *indices = given
    if any(index.value is None for index in indices):
        return tracer.opaque(eqn, given)
    return updated(tracer, eqn, given, array, part, [int(index.value or 0) for index in indices])


def updated(
    tracer: "Tracer", eqn: Any, given: list[Array], array: Array, part: Array, starts: Sequence[int]
) -> Array | list[Array]:
    """An array with a part put in along one axis: what is before it, itself, what is after."""
    bounds = [
        (low := min(max(start, 0), dim.size - own.size), low + own.size)
        for start, dim, own in zip(starts, array.dims, part.dims, strict=True)
    ]
    axes = [
        n for n, (bound, dim) in enumerate(zip(bounds, array.dims, strict=True)) if bound != (0, dim.size)
    ]
    if len(axes) > 1:
        return tracer.opaque(eqn, given)
    if not axes:
        return part
    (axis,) = axes
    start, stop = bounds[axis]
    pieces = [(start, part)]
    for low, high in ((0, start), (stop, array.dims[axis].size)):
        if low < high:
            around = [(0, dim.size, 1) for dim in array.dims]
            around[axis] = low, high, 1
            pieces.append((low, _around(tracer, array, around)))
    return joined(tracer, [piece for _, piece in sorted(pieces, key=lambda p: p[0])], axis, array.dtype)


def _around(tracer: "Tracer", array: Array, bounds: Sequence[tuple[int, int, int]]) -> Array:
    if not array.constant:
        return sliced(tracer, array, bounds, array.dtype)
    known = None if array.known is None else array.known[tuple(slice(*bound) for bound in bounds)]
    dims = tuple(Dim(stop - start) for start, stop, _ in bounds)
    return constant(array, dims, known)


def _stack(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    axis = eqn.params["axis"]
    parts = []
    for array in given:
        dims = (*array.dims[:axis], Dim(1), *array.dims[axis:])
        if array.constant:
            known = None if array.known is None else np.expand_dims(array.known, axis)
            parts.append(constant(array, dims, known))
        else:
            parts.append(tracer.add("view", [array], Array(dims, array.dtype), kind="reshape"))
    return joined(tracer, parts, axis, dtype_name(eqn.outvars[0].aval.dtype))


def _tile(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    (array,) = given
    dims = tuple(
        dim if times == 1 else product([Dim(times), dim])
        for dim, times in zip(array.dims, eqn.params["reps"], strict=True)
    )
    return tracer.add("view", [array], Array(dims, array.dtype), kind="tile")


def _reverse(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    (array,) = given
    dtype = dtype_name(eqn.outvars[0].aval.dtype)
    axes = tuple(eqn.params["dimensions"])
    if array.stored:
        return tracer.add("view", [array], Array(array.dims, dtype), kind="reverse", axes=axes)
    out = Array(array.dims, dtype)
    acts = [(axis, "") for axis in axes]
    return tracer.add("apply", [array], out, function="rev", settings=len(axes), acts=acts)


def _split(tracer: "Tracer", eqn: Any, given: list[Array]) -> list[Array]:
    (array,) = given
    axis, start, out = eqn.params["axis"], 0, []
    for size, var in zip(eqn.params["sizes"], eqn.outvars, strict=True):
        bounds = [(0, dim.size, 1) for dim in array.dims]
        bounds[axis] = (start, start + size, 1)
        out.append(sliced(tracer, array, bounds, dtype_name(var.aval.dtype)))
        start += size
    return out


def _concatenate(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    return joined(tracer, given, eqn.params["dimension"], dtype_name(eqn.outvars[0].aval.dtype))


def joined(tracer: "Tracer", given: Sequence[Array], axis: int, dtype: str) -> Array:
    """Arrays put end to end."""
    given = [array for array in given if array.dims[axis].size] or given[:1]
    own = [array for array in given if not array.constant] or list(given)
    for other in own[1:]:
        for n, (a, b) in enumerate(zip(own[0].dims, other.dims, strict=True)):
            if n != axis and a.size != 1:
                tracer.same(a, b)
    dims = list(own[0].dims)
    # An axis of one index is a part like any other here.
    dims[axis] = concat([array.dims[axis] for array in given])
    return tracer.add("view", given, Array(tuple(dims), dtype), kind="concatenate", axis=axis)


SLICES: dict[str, Callable[["Tracer", Any, list[Array]], Any]] = {
    "reshape": _reshape,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update,
    "split": _split,
    "concatenate": _concatenate,
    "stack": _stack,
    "tile": _tile,
    "rev": _reverse,
}
