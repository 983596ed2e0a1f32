"""What each of JAX's primitives says about axes, and what it does with values.

A rule takes the tracer, the equation and the arrays it is given, and returns what it makes. A primitive
without a rule is taken as opaque, which the trace says.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from leafreport._align._dims import Dim, NotAligned, attempt, concat, cut, find, product, split_product, unify
from leafreport._align._program import Array, dtype_name, lean

if TYPE_CHECKING:
    from leafreport._align._trace import Tracer


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


def _reshape(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    array = given[0]
    aval = eqn.outvars[0].aval
    dtype = dtype_name(aval.dtype)
    try:
        dims = attempt(_reshaped, array.dims, aval.shape)
    except NotAligned:
        dims = tuple(map(Dim, aval.shape))
        if not array.stored:  # how a leaf is stored says nothing of axes
            tracer.unknown.add("a reshape that does not divide its axes")
    return tracer.add("view", given[:1], Array(dims, dtype), kind="reshape")


def _reshaped(dims: Sequence[Dim], shape: Sequence[int]) -> tuple[Dim, ...]:
    """The axes after a reshape: groups of axes of equal product are divided alike.

    Raises:
        NotAligned: they are not, as 4 x 3 and 3 x 4.
    """
    left = [dim for dim in dims if dim.size != 1]
    sizes = [size for size in shape if size != 1]
    made: list[Dim] = []
    while sizes and left:
        group, targets = [left.pop(0)], [sizes.pop(0)]
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
    return _sliced(
        tracer, array, list(zip(starts, stops, strides, strict=True)), dtype_name(eqn.outvars[0].aval.dtype)
    )


def _sliced(tracer: "Tracer", array: Array, bounds: Sequence[tuple[int, int, int]], dtype: str) -> Array:
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
        tracer.unknown.add("a slice that does not divide its axis")
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
            settings = tuple(
                bound for bound, d in zip(bounds, array.dims, strict=True) if bound != (0, d.size, 1)
            )
            return tracer.add("apply", [array], Array(dims, dtype), function="slice", settings=settings)
        sizes += [dim.size // stride, stride]
        inner += [(0, dim.size // stride, 1), (start, start + 1, 1)]
    try:
        parted = attempt(_reshaped, array.dims, sizes)
    except NotAligned:
        tracer.unknown.add("a slice that does not divide its axis")
        dims = tuple(Dim(-(-(stop - start) // stride)) for start, stop, stride in bounds)
        return tracer.add("opaque", [array], Array(dims, dtype), function="slice", settings=tuple(bounds))
    blocks = tracer.add("view", [array], Array(parted, dtype), kind="reshape")
    one = _sliced(tracer, blocks, inner, dtype)
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
        return _sliced(tracer, array, bounds, dtype_name(eqn.outvars[0].aval.dtype))
    dims = tuple(d if d.size == s else Dim(s) for d, s in zip(array.dims, sizes, strict=True))
    return tracer.add(
        "apply", given, Array(dims, dtype_name(eqn.outvars[0].aval.dtype)), function="dynamic_slice"
    )


def _dynamic_update(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array | list[Array]:
    """A part put into an array at a place, which is understood where it is known."""
    array, part, *indices = given
    if any(index.value is None for index in indices):
        return tracer.opaque(eqn, given)
    return _updated(tracer, eqn, given, array, part, [int(index.value or 0) for index in indices])


def _updated(
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
    return _joined(tracer, [piece for _, piece in sorted(pieces, key=lambda p: p[0])], axis, array.dtype)


def _around(tracer: "Tracer", array: Array, bounds: Sequence[tuple[int, int, int]]) -> Array:
    if not array.constant:
        return _sliced(tracer, array, bounds, array.dtype)
    known = None if array.known is None else array.known[tuple(slice(*bound) for bound in bounds)]
    dims = tuple(Dim(stop - start) for start, stop, _ in bounds)
    return Array(dims, array.dtype, constant=True, known=known, term=array.term, random=array.random)


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
    return _updated(tracer, eqn, given, array, whole, [starts.get(n, 0) for n in range(len(array.dims))])


def _stack(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    axis = eqn.params["axis"]
    parts = []
    for array in given:
        dims = (*array.dims[:axis], Dim(1), *array.dims[axis:])
        made = Array(
            dims, array.dtype, array.constant, known=array.known, term=array.term, random=array.random
        )
        if array.known is not None:
            made.known = np.expand_dims(array.known, axis)
        parts.append(made if array.constant else tracer.add("view", [array], made, kind="reshape"))
    return _joined(tracer, parts, axis, dtype_name(eqn.outvars[0].aval.dtype))


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
    return tracer.add("apply", [array], Array(array.dims, dtype), function="rev", settings=len(axes))


def _split(tracer: "Tracer", eqn: Any, given: list[Array]) -> list[Array]:
    (array,) = given
    axis, start, out = eqn.params["axis"], 0, []
    for size, var in zip(eqn.params["sizes"], eqn.outvars, strict=True):
        bounds = [(0, dim.size, 1) for dim in array.dims]
        bounds[axis] = (start, start + size, 1)
        out.append(_sliced(tracer, array, bounds, dtype_name(var.aval.dtype)))
        start += size
    return out


def _concatenate(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    return _joined(tracer, given, eqn.params["dimension"], dtype_name(eqn.outvars[0].aval.dtype))


def _joined(tracer: "Tracer", given: Sequence[Array], axis: int, dtype: str) -> Array:
    """Arrays put end to end."""
    own = [array for array in given if not array.constant] or list(given)
    for other in own[1:]:
        for n, (a, b) in enumerate(zip(own[0].dims, other.dims, strict=True)):
            if n != axis and a.size != 1:
                tracer.same(a, b)
    dims = list(own[0].dims)
    # An axis of one index is a part like any other here.
    dims[axis] = concat([array.dims[axis] for array in given])
    return tracer.add("view", given, Array(tuple(dims), dtype), kind="concatenate", axis=axis)


def _dot(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    contract, batch = eqn.params["dimension_numbers"]
    return _looked_up(tracer, eqn, given) or _product(tracer, given, contract, batch, eqn)


def _accumulated(eqn: Any) -> str:
    """The dtype in which a product is summed up."""
    wanted = eqn.params.get("preferred_element_type")
    return dtype_name(eqn.outvars[0].aval.dtype if wanted is None else wanted)


_Axes = tuple[Sequence[int], Sequence[int]]


def _product(tracer: "Tracer", given: Sequence[Array], contract: _Axes, batch: _Axes, eqn: Any) -> Array:
    """A product of two arrays along contracted axes; the result has batch axes, then what is left of each."""
    (contract_a, contract_b), (batch_a, batch_b) = contract, batch
    a, b = given
    for i, j in [*zip(contract_a, contract_b, strict=True), *zip(batch_a, batch_b, strict=True)]:
        if a.dims[i].size != 1:
            tracer.same(a.dims[i], b.dims[j])
    if a.leafy != b.leafy:
        for i in batch_a:
            tracer.members_along(a.dims[i])
    free_a = [n for n in range(len(a.dims)) if n not in (*contract_a, *batch_a)]
    free_b = [n for n in range(len(b.dims)) if n not in (*contract_b, *batch_b)]
    alone = not (a.leafy or b.leafy or a.constant or b.constant)
    if alone:
        for array, axes in ((a, contract_a), (b, contract_b)):
            for n in axes:
                tracer.ended(array.dims[n])
    dims = [find(a.dims[n]) for n in (*batch_a, *free_a)] + [find(b.dims[n]) for n in free_b]
    out = tracer.add(
        "dot",
        given,
        Array(tuple(dims), dtype_name(eqn.outvars[0].aval.dtype)),
        contract=(tuple(contract_a), tuple(contract_b)),
        batch=(tuple(batch_a), tuple(batch_b)),
        free=(tuple(free_a), tuple(free_b)),
        accumulate=_accumulated(eqn),
    )
    if alone:
        start = len(batch_a) + len(free_a)
        tracer.own(tracer.ops[-1], range(len(batch_a), start), 0)
        tracer.own(tracer.ops[-1], range(start, len(dims)), 1)
    return out


def _looked_up(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array | None:
    """A product of one-hot rows with a table as the look-up it is; None for any other."""
    contract, batch = eqn.params["dimension_numbers"]
    for side in (0, 1):
        hot, table = given[side], given[1 - side]
        indices, axis = tracer.one_hot.get(id(hot), (None, -1))
        if indices is None or tuple(contract[side]) != (axis,) or any(batch) or table.constant:
            continue
        (row,) = contract[1 - side]
        keep = [n for n in range(len(hot.dims)) if n != axis]
        dims = tuple(indices.dims[n] for n in keep)
        index = tracer.add("view", [indices], Array(dims, indices.dtype), kind="squeeze", keep=keep)
        rest = [n for n in range(len(table.dims)) if n != row]
        looked, held = [hot.dims[n] for n in keep], [table.dims[n] for n in rest]
        made = (*looked, *held) if side == 0 else (*held, *looked)
        start = len(looked) if side == 0 else 0
        return tracer.add(
            "lookup",
            [table, index],
            Array(made, dtype_name(eqn.outvars[0].aval.dtype)),
            taken={start + n: axis for n, axis in enumerate(rest)},
        )
    return None


def _conv(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    params = eqn.params
    numbers = params["dimension_numbers"]
    image, kernel = given
    groups = params["feature_group_count"]
    aval = eqn.outvars[0].aval
    (b, f, *space), (o, i, *window), (ob, of, *ospace) = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    if params["batch_group_count"] != 1:
        return tracer.opaque(eqn, given)[0]
    if groups == 1 and _is_product(params, kernel, window, image, space):
        return _conv_as_dot(tracer, eqn, given)
    try:
        attempt(_channels, image.dims[f], kernel.dims[o], kernel.dims[i], groups)
    except NotAligned:
        tracer.unknown.add("a convolution whose channels are divided in two ways")
    dims: list[Dim] = [Dim(1)] * len(aval.shape)
    dims[ob], dims[of] = image.dims[b], kernel.dims[o]
    for place, source in zip(ospace, space, strict=True):
        size = aval.shape[place]
        dims[place] = image.dims[source] if image.dims[source].size == size else Dim(size)
    return tracer.add(
        "conv",
        given,
        Array(tuple(dims), dtype_name(aval.dtype)),
        image=(b, f, tuple(space)),
        kernel=(o, i, tuple(window)),
        out=(ob, of, tuple(ospace)),
        groups=groups,
        strides=tuple(params["window_strides"]),
        padding=tuple(map(tuple, params["padding"])),
        dilation=(tuple(params["lhs_dilation"]), tuple(params["rhs_dilation"])),
        sizes=tuple(kernel.shape[axis] for axis in window),
        accumulate=str(params.get("preferred_element_type")),
    )


def _channels(image: Dim, out: Dim, inner: Dim, groups: int) -> None:
    """What a convolution says of channels: each group of the image's meets its own of the kernel's."""
    if groups == 1:
        unify(image, inner)
        return
    group, within = split_product(image, groups)
    unify(within, inner)
    own, _ = split_product(out, groups)
    unify(group, own)


def _is_product(
    params: dict[str, Any], kernel: Array, window: Sequence[int], image: Array, space: Sequence[int]
) -> bool:
    """Whether a convolution's windows neither overlap nor leave anything out: patches times a matrix."""
    return (
        all(tuple(pair) == (0, 0) for pair in params["padding"])
        and all(n == 1 for key in ("lhs_dilation", "rhs_dilation") for n in params[key])
        and all(
            kernel.shape[axis] == stride and image.shape[place] % stride == 0
            for axis, place, stride in zip(window, space, params["window_strides"], strict=True)
        )
    )


def _conv_as_dot(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    """A convolution of patches as the product it is: image divided into patches, axes contracted."""
    params = eqn.params
    numbers = params["dimension_numbers"]
    image, kernel = given
    (b, f, *space), (o, i, *window), (ob, of, *ospace) = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    stride = dict(zip(space, params["window_strides"], strict=True))
    sizes: list[int] = []
    outer: dict[int, int] = {}
    inner: dict[int, int] = {}
    for axis, size in enumerate(image.shape):
        outer[axis] = len(sizes)
        sizes.append(size // stride.get(axis, 1))
        if stride.get(axis, 1) > 1:
            inner[axis] = len(sizes)
            sizes.append(stride[axis])
    patches = image
    if inner:
        try:
            dims = attempt(_reshaped, image.dims, sizes)
        except NotAligned:
            tracer.unknown.add("patches that do not divide their axes")
            dims = tuple(map(Dim, sizes))
        patches = tracer.add("view", [image], Array(dims, image.dtype), kind="reshape")
    wide = [axis for axis in window if kernel.shape[axis] > 1]
    keep = [axis for axis in range(len(kernel.dims)) if axis in (o, i, *wide)]
    matrix = kernel
    if len(keep) < len(kernel.dims):
        dims = tuple(kernel.dims[axis] for axis in keep)
        matrix = tracer.add("view", [kernel], Array(dims, kernel.dtype), kind="squeeze", keep=keep)
    place = {axis: n for n, axis in enumerate(keep)}
    source = dict(zip(window, space, strict=True))
    contract = (
        (outer[f], *(inner[source[axis]] for axis in wide)),
        (place[i], *(place[axis] for axis in wide)),
    )
    made = _product(tracer, [patches, matrix], contract, ((), ()), eqn)
    # Of the product: what is left of the image in its order, then the channels.
    order = [0] * len(image.dims)
    left = [axis for axis in range(len(image.dims)) if axis != f]
    for target, axis in ((ob, b), *zip(ospace, space, strict=True)):
        order[target] = left.index(axis)
    order[of] = len(left)
    dims = tuple(made.dims[axis] for axis in order)
    return tracer.add("view", [made], Array(dims, made.dtype), kind="transpose", order=tuple(order))


def _gather(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array | list[Array]:
    table, index = given
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if numbers.operand_batching_dims:
        return tracer.opaque(eqn, given)
    if index.known is not None and index.known.size == len(numbers.start_index_map):
        return _picked(tracer, eqn, table, index.known.reshape(-1).tolist())
    if index.known is not None and (span := _span(eqn, table, index.known)) is not None:
        return span(tracer)
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


def _span(eqn: Any, table: Array, known: np.ndarray) -> Callable[["Tracer"], Array] | None:
    """What is gathered at places that follow each other: a slice; None for any other places."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    aval = eqn.outvars[0].aval
    if len(numbers.start_index_map) != 1 or tuple(numbers.collapsed_slice_dims) != numbers.start_index_map:
        return None
    (axis,) = numbers.start_index_map
    rows = known[..., 0]
    line = lean(rows)
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

    def sliced(tracer: "Tracer") -> Array:
        bounds = [(0, dim.size, 1) for dim in table.dims]
        bounds[axis] = start, stop, 1
        one = _sliced(tracer, table, bounds, dtype_name(aval.dtype))
        batch = [n for n in range(len(aval.shape)) if n not in numbers.offset_dims]
        rest = iter(n for n in range(len(table.dims)) if n != axis)
        source = {place: next(rest) for place in numbers.offset_dims}
        source[batch[along[0]]] = axis
        order = tuple(source[place] for place in sorted(source))
        turned = one
        if order != tuple(range(len(order))):
            dims = tuple(one.dims[n] for n in order)
            turned = tracer.add("view", [one], Array(dims, one.dtype), kind="transpose", order=order)
        places = tuple(sorted(source))
        made = [Dim(size) for size in aval.shape]
        for n, place in enumerate(places):
            made[place] = turned.dims[n]
        return tracer.add("view", [turned], Array(tuple(made), one.dtype), kind="broadcast", axes=places)

    return sliced


def _picked(tracer: "Tracer", eqn: Any, table: Array, starts: Sequence[int]) -> Array:
    """What is gathered at one known place: a slice."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    aval = eqn.outvars[0].aval
    at = dict(zip(numbers.start_index_map, starts, strict=True))
    bounds = []
    for axis, (size, dim) in enumerate(zip(sizes, table.dims, strict=True)):
        low = min(max(int(at.get(axis, 0)), 0), dim.size - size)
        bounds.append((low, low + size, 1))
    one = _sliced(tracer, table, bounds, dtype_name(aval.dtype))
    whole = iter(n for n in range(len(table.dims)) if n not in numbers.collapsed_slice_dims)
    dims = tuple(
        one.dims[next(whole)] if n in numbers.offset_dims else Dim(1) for n in range(len(aval.shape))
    )
    return tracer.add("view", [one], Array(dims, dtype_name(aval.dtype)), kind="reshape")


def _reduce(tracer: "Tracer", eqn: Any, given: list[Array]) -> list[Array]:
    axes = tuple(eqn.params.get("axes", eqn.params.get("dimensions", ())))
    out = []
    for array, var in zip(given, eqn.outvars, strict=False):
        dims = tuple(dim for n, dim in enumerate(array.dims) if n not in axes)
        out.append(_reduced(tracer, array, axes, eqn.primitive.name, Array(dims, dtype_name(var.aval.dtype))))
    return out


def _reduced(tracer: "Tracer", array: Array, axes: tuple[int, ...], function: str, made: Array) -> Array:
    for n in axes:
        tracer.ended(array.dims[n])
    return tracer.add("reduce", [array], made, function=function, axes=axes)


def _window(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    array, aval = given[0], eqn.outvars[0].aval
    params = eqn.params
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
    return tracer.add("apply", [array], out, function=name, settings=settings)


_POOLED = {f"reduce_window_{name}": f"reduce_{name}" for name in ("sum", "max", "min")}


def _pad(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    array, aval = given[0], eqn.outvars[0].aval
    out = Array(_resized(array, aval.shape), dtype_name(aval.dtype))
    value = given[1].value if given[1].constant else None
    settings = (value, tuple(tuple(c) for c in eqn.params["padding_config"] if tuple(c) != (0, 0, 0)))
    return tracer.add("apply", [array], out, function="pad", settings=settings)


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
        function = f"as {'bool' if target == bool else 'int'}"
        return tracer.add("apply", given, Array(array.dims, str(target)), function=function)
    return _plain(tracer, eqn, given)


def _random(tracer: "Tracer", eqn: Any, given: list[Array]) -> list[Array]:
    """Random numbers are constants that no one knows, whatever their key was made of."""
    return [tracer.fresh(var.aval, constant=True, term=0, random=True) for var in eqn.outvars]


RANDOM = frozenset(
    [
        "random_seed",
        "random_wrap",
        "random_bits",
        "random_split",
        "random_fold_in",
        "random_unwrap",
        "random_clone",
        "random_gamma",
        "threefry2x32",
        "rng_bit_generator",
        "rng_uniform",
    ]
)

RULES: dict[str, Callable[["Tracer", Any, list[Array]], Any]] = {
    "transpose": _view("transpose"),
    "squeeze": _view("squeeze"),
    "broadcast_in_dim": _view("broadcast"),
    "reshape": _reshape,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "split": _split,
    "concatenate": _concatenate,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "gather": _gather,
    "convert_element_type": _converted,
    "pad": _pad,
    "rev": _reverse,
    "dynamic_update_slice": _dynamic_update,
    "scatter": _scatter,
    "stack": _stack,
    "tile": _tile,
    **dict.fromkeys(RANDOM, _random),
    **dict.fromkeys(
        (
            "copy",
            "copy_p",
            "stop_gradient",
            "device_put",
            "sharding_constraint",
            "optimization_barrier",
            "reduce_precision",
            "name",
            "pvary",
        ),
        _plain,
    ),
    **dict.fromkeys(
        (
            "reduce_sum",
            "reduce_max",
            "reduce_min",
            "reduce_prod",
            "reduce_and",
            "reduce_or",
            "argmax",
            "argmin",
        ),
        _reduce,
    ),
    **dict.fromkeys(
        ("reduce_window_max", "reduce_window_min", "reduce_window_sum", "reduce_window"), _window
    ),
}

# Views that say how a leaf is stored, where they are of leaves alone.
STORAGE = frozenset(
    ["reshape", "transpose", "squeeze", "broadcast_in_dim", "slice", "dynamic_slice", "split", "concatenate"]
    + ["rev", "stack", "gather", "convert_element_type", "copy", "copy_p", "stop_gradient", "device_put"]
    + ["sharding_constraint", "optimization_barrier", "name", "pvary"]
)
# What is done along an axis, and leaves every axis what it is.
ALONG = frozenset(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort"])

ELEMENTWISE = frozenset(
    [
        "abs",
        "acos",
        "acosh",
        "add",
        "add_any",
        "and",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "bessel_i0e",
        "bessel_i1e",
        "cbrt",
        "ceil",
        "clamp",
        "clz",
        "complex",
        "conj",
        "cos",
        "cosh",
        "digamma",
        "div",
        "eq",
        "eq_to",
        "erf",
        "erf_inv",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "ge",
        "gt",
        "imag",
        "igamma",
        "igammac",
        "integer_pow",
        "is_finite",
        "le",
        "le_to",
        "lgamma",
        "log",
        "log1p",
        "logistic",
        "lt",
        "lt_to",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "nextafter",
        "not",
        "or",
        "polygamma",
        "population_count",
        "pow",
        "real",
        "regularized_incomplete_beta",
        "rem",
        "round",
        "rsqrt",
        "select_n",
        "shift_left",
        "shift_right_arithmetic",
        "shift_right_logical",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "sub",
        "tan",
        "tanh",
        "xor",
        "zeta",
    ]
)
