"""What each of JAX's primitives says about axes, and what it does with values.

A rule takes the tracer, the equation and the arrays it is given, and returns what it makes. A primitive
without a rule is taken as opaque, which the trace says.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from leafreport._align._dims import Dim, NotAligned, concat, cut, find, product, split_product, unify
from leafreport._align._program import Array, Op

if TYPE_CHECKING:
    from leafreport._align._trace import Tracer


def _view(kind: str) -> Callable[["Tracer", Any, list[Array]], Array]:
    def rule(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
        array = given[0]
        dtype = str(eqn.outvars[0].aval.dtype)
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
    return tracer.add(
        "view", given[:1], Array(_reshaped(tracer, array.dims, aval.shape), str(aval.dtype)), kind="reshape"
    )


def _reshaped(tracer: "Tracer", dims: Sequence[Dim], shape: Sequence[int]) -> tuple[Dim, ...]:
    """The axes after a reshape: groups of axes of equal product are divided alike."""
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
        made += _divided(tracer, group, targets)
    made += [Dim(size) for size in sizes]
    rest = iter(made)
    return tuple(Dim(1) if size == 1 else next(rest) for size in shape)


def _divided(tracer: "Tracer", group: Sequence[Dim], targets: Sequence[int]) -> list[Dim]:
    """A group of axes as axes of other sizes and the same product."""
    rest = product(group)
    made: list[Dim] = []
    try:
        for target in targets[:-1]:
            first, rest = split_product(rest, target)
            made.append(first)
    except NotAligned:
        tracer.unknown.add("a reshape that does not divide its axes")
        return [Dim(target) for target in targets]
    return [*made, rest]


def _slice(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    array = given[0]
    params = eqn.params
    starts, stops = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * len(starts)
    return _sliced(
        tracer, array, list(zip(starts, stops, strides, strict=True)), str(eqn.outvars[0].aval.dtype)
    )


def _sliced(tracer: "Tracer", array: Array, bounds: Sequence[tuple[int, int, int]], dtype: str) -> Array:
    dims: list[Dim] = []
    exact = True
    for dim, (start, stop, stride) in zip(array.dims, bounds, strict=True):
        if (start, stop, stride) == (0, dim.size, 1):
            dims.append(dim)
            continue
        part = _part(dim, start, stop) if stride == 1 else None
        exact &= part is not None
        dims.append(part if part is not None else Dim(-(-(stop - start) // stride)))
    out = Array(tuple(dims), dtype)
    if not exact:
        return tracer.add("opaque", [array], out, function="slice", bounds=tuple(bounds), result=0)
    return tracer.add("view", [array], out, kind="slice", starts=tuple(b[0] for b in bounds))


def _part(dim: Dim, start: int, stop: int) -> Dim | None:
    try:
        return cut(dim, start, stop)
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
        return _sliced(tracer, array, bounds, str(eqn.outvars[0].aval.dtype))
    dims = tuple(d if d.size == s else Dim(s) for d, s in zip(array.dims, sizes, strict=True))
    return tracer.add("apply", given, Array(dims, str(eqn.outvars[0].aval.dtype)), function="dynamic_slice")


def _split(tracer: "Tracer", eqn: Any, given: list[Array]) -> list[Array]:
    (array,) = given
    axis, start, out = eqn.params["axis"], 0, []
    for size, var in zip(eqn.params["sizes"], eqn.outvars, strict=True):
        bounds = [(0, dim.size, 1) for dim in array.dims]
        bounds[axis] = (start, start + size, 1)
        out.append(_sliced(tracer, array, bounds, str(var.aval.dtype)))
        start += size
    return out


def _concatenate(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    axis = eqn.params["dimension"]
    for other in given[1:]:
        for n, (a, b) in enumerate(zip(given[0].dims, other.dims, strict=True)):
            if n != axis and a.size != 1:
                tracer.same(a, b)
    dims = list(given[0].dims)
    # An axis of one index is a part like any other here.
    dims[axis] = concat([array.dims[axis] for array in given])
    return tracer.add(
        "view", given, Array(tuple(dims), str(eqn.outvars[0].aval.dtype)), kind="concatenate", axis=axis
    )


def _dot(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    (contract_a, contract_b), (batch_a, batch_b) = eqn.params["dimension_numbers"]
    a, b = given
    for i, j in [*zip(contract_a, contract_b, strict=True), *zip(batch_a, batch_b, strict=True)]:
        if a.dims[i].size != 1:
            tracer.same(a.dims[i], b.dims[j])
    free_a = [n for n in range(len(a.dims)) if n not in (*contract_a, *batch_a)]
    free_b = [n for n in range(len(b.dims)) if n not in (*contract_b, *batch_b)]
    if not (a.stored or b.stored):
        for array, axes in ((a, contract_a), (b, contract_b)):
            for n in axes:
                tracer.ended(array.dims[n])
    dims = [find(a.dims[n]) for n in (*batch_a, *free_a)] + [find(b.dims[n]) for n in free_b]
    out = tracer.add(
        "dot",
        given,
        Array(tuple(dims), str(eqn.outvars[0].aval.dtype)),
        contract=(tuple(contract_a), tuple(contract_b)),
        batch=(tuple(batch_a), tuple(batch_b)),
        free=(tuple(free_a), tuple(free_b)),
        accumulate=str(eqn.params.get("preferred_element_type")),
    )
    if not (a.stored or b.stored or out.constant):
        start = len(batch_a) + len(free_a)
        tracer.own(tracer.ops[-1], range(len(batch_a), start), 0)
        tracer.own(tracer.ops[-1], range(start, len(dims)), 1)
    return out


def _conv(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    params = eqn.params
    numbers = params["dimension_numbers"]
    image, kernel = given
    groups = params["feature_group_count"]
    aval = eqn.outvars[0].aval
    (b, f, *space), (o, i, *window), (ob, of, *ospace) = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    if params["batch_group_count"] != 1:
        return tracer.opaque(eqn, given)[0]
    try:
        if groups == 1:
            unify(image.dims[f], kernel.dims[i])
        else:
            _, inner = split_product(image.dims[f], groups)
            unify(inner, kernel.dims[i])
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
        Array(tuple(dims), str(aval.dtype)),
        image=(b, f, tuple(space)),
        kernel=(o, i, tuple(window)),
        out=(ob, of, tuple(ospace)),
        groups=groups,
        strides=tuple(params["window_strides"]),
        padding=tuple(map(tuple, params["padding"])),
        dilation=(tuple(params["lhs_dilation"]), tuple(params["rhs_dilation"])),
        accumulate=str(params.get("preferred_element_type")),
    )


def _gather(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array | list[Array]:
    table, index = given
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if numbers.operand_batching_dims:
        return tracer.opaque(eqn, given)
    aval = eqn.outvars[0].aval
    whole = [n for n in range(len(table.dims)) if n not in numbers.collapsed_slice_dims]
    dims: list[Dim] = []
    offsets, rows = iter(whole), iter(index.dims[:-1])
    taken = {}
    for place, size in enumerate(aval.shape):
        if place in numbers.offset_dims:
            axis = next(offsets)
            taken[place] = axis
            dims.append(table.dims[axis] if sizes[axis] == table.dims[axis].size else Dim(size))
        else:
            row = next(rows, None)
            dims.append(row if row is not None and row.size == size else Dim(size))
    return tracer.add(
        "lookup",
        given,
        Array(tuple(dims), str(aval.dtype)),
        taken=taken,
        indexed=tuple(numbers.start_index_map),
    )


def _reduce(tracer: "Tracer", eqn: Any, given: list[Array]) -> list[Array]:
    axes = tuple(eqn.params.get("axes", eqn.params.get("dimensions", ())))
    out = []
    for array, var in zip(given, eqn.outvars, strict=False):
        dims = tuple(dim for n, dim in enumerate(array.dims) if n not in axes)
        for n in axes:
            tracer.ended(array.dims[n])
        made = Array(dims, str(var.aval.dtype))
        out.append(tracer.add("reduce", [array], made, function=eqn.primitive.name, axes=axes))
    return out


def _window(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    array, aval = given[0], eqn.outvars[0].aval
    dims = tuple(
        dim if dim.size == size else Dim(size) for dim, size in zip(array.dims, aval.shape, strict=True)
    )
    keys = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
    settings = tuple((key, tuple(eqn.params[key])) for key in keys if key in eqn.params)
    return tracer.add(
        "apply",
        [array],
        Array(dims, str(aval.dtype)),
        function=eqn.primitive.name,
        settings=settings,
    )


def _pad(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    array, aval = given[0], eqn.outvars[0].aval
    dims = tuple(
        dim if dim.size == size else Dim(size) for dim, size in zip(array.dims, aval.shape, strict=True)
    )
    out = Array(dims, str(aval.dtype))
    settings = (("padding", tuple(map(tuple, eqn.params["padding_config"]))),)
    return tracer.add("apply", [array], out, function="pad", settings=settings)


def _plain(tracer: "Tracer", eqn: Any, given: list[Array]) -> Array:
    """What leaves every value where it is, and what it is."""
    made = Array(given[0].dims, str(eqn.outvars[0].aval.dtype))
    return tracer.add("view", given[:1], made, kind="same", cast=eqn.primitive.name == "convert_element_type")


def _constant(tracer: "Tracer", eqn: Any, given: list[Array]) -> list[Array]:
    made = [tracer.fresh(var.aval, constant=True) for var in eqn.outvars]
    for array in made:
        tracer.ops.append(Op("constant", tuple(given), array, {"function": eqn.primitive.name}))
    return made


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
    "pad": _pad,
    "iota": _constant,
    "random_seed": _constant,
    "random_wrap": _constant,
    "random_bits": _constant,
    "random_split": _constant,
    "random_fold_in": _constant,
    "random_unwrap": _constant,
    "threefry2x32": _constant,
    **dict.fromkeys(
        (
            "convert_element_type",
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
        "cbrt",
        "ceil",
        "clamp",
        "complex",
        "conj",
        "cos",
        "cosh",
        "digamma",
        "div",
        "eq",
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
        "integer_pow",
        "is_finite",
        "le",
        "lgamma",
        "log",
        "log1p",
        "logistic",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "nextafter",
        "not",
        "or",
        "population_count",
        "pow",
        "real",
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
    ]
)
