"""Rules for products: of matrices, of one-hot rows with a table, of an image with a kernel."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from leafreport._align._trace._dims import Dim, NotAligned, attempt, find, split_product, unify
from leafreport._align._trace._margins import unpadded
from leafreport._align._trace._program import Array, dtype_name
from leafreport._align._trace._slices import reshaped

if TYPE_CHECKING:
    from leafreport._align._trace._tracer import Tracer


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
                tracer.ended(array.dims[n], "dot")
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
    params = dict(eqn.params)
    numbers = params["dimension_numbers"]
    image, kernel = given
    groups = params["feature_group_count"]
    aval = eqn.outvars[0].aval
    (b, f, *space), (o, i, *window), (ob, of, *ospace) = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    if all(n == 1 for n in params["lhs_dilation"]):
        image, params["padding"] = unpadded(tracer, image, space, params["padding"], 0.0)
        given = [image, kernel]
    if params["batch_group_count"] != 1:
        return tracer.opaque(eqn, given)[0]
    if groups == 1 and _is_product(params, kernel, window, image, space):
        return _conv_as_dot(tracer, eqn, given)
    try:
        attempt(_channels, image.dims[f], kernel.dims[o], kernel.dims[i], groups)
    except NotAligned:
        tracer.unknown["a convolution whose channels are divided in two ways"] += 1
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
            dims = attempt(reshaped, image.dims, sizes)
        except NotAligned:
            tracer.unknown["patches that do not divide their axes"] += 1
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


PRODUCTS: dict[str, Callable[["Tracer", Any, list[Array]], Any]] = {
    "dot_general": _dot,
    "conv_general_dilated": _conv,
}
