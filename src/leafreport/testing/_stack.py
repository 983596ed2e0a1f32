"""Checks of stacks: what is in them, how they are built, and what their `apply` does."""

import itertools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from leafreport._diff import diff
from leafreport._flatten import report
from leafreport._leaf import display_path
from leafreport._model import Model
from leafreport._render._rows import plural
from leafreport._report import LeafReport
from leafreport.adapting import is_array
from leafreport.testing._subject import ROWS, WIDTH, BuildError, Subject, listed, named, said, short, values
from leafreport.testing._watch import arrays_made

# A kernel of this width takes 1 PiB: no machine can make it, so an abstract stack that tries fails at once.
_HUGE = 2**24
# A width that nothing else has, so that an array of it is a parameter.
_ODD = 37
_LAYERS = (0, 1, 2, 3, 11, 12)
_SHAPE = f"not of the shapes of a layer, ({WIDTH}, {WIDTH}) and ({WIDTH},), where x.shape[-1] is {WIDTH}"


def builds(subject: Subject) -> Iterator[str]:
    """Whether there is anything to check."""
    try:
        subject.stack(1)
    except BuildError as error:
        if isinstance(error.__cause__, ImportError):
            yield f"its framework cannot be imported, so nothing was checked: {short(error.__cause__)}"
            return
        try:
            subject.stack(1, abstract=True)
        except BuildError:
            yield str(error)


def counts(subject: Subject) -> Iterator[str]:
    """Two leaves a layer, however many layers."""
    for layers, abstract in itertools.product(_LAYERS, (False, True)):
        found = report(subject.stack(layers, abstract=abstract).params).leaf_count
        if found != 2 * layers:
            kind = "an abstract " if abstract else "a "
            yield (
                f"{kind}stack of {plural(layers, 'layer')} has {plural(found, 'leaf')}, "
                f"and not {2 * layers}: a kernel and a bias for each layer, each layer with its own"
            )
            return


def leaves(subject: Subject) -> Iterator[str]:
    """Each leaf an array of floats, of the shape that a layer of the sample's width has."""
    found: dict[str, list[str]] = {}
    for path, leaf in named(subject.stack(3).params):
        if wrong := _wrong_leaf(leaf):
            shown = f"{path} {tuple(leaf.shape)}" if wrong is _SHAPE else path
            found.setdefault(wrong, []).append(shown)
    yield from (f"{listed(paths)}: {wrong}" for wrong, paths in found.items())


def _wrong_leaf(leaf: Any) -> str:
    if not is_array(leaf):
        return f"a {type(leaf).__name__}, where the leaves of params are arrays"
    if not isinstance(leaf, jax.Array | np.ndarray):
        return f"a {type(leaf).__name__} in a concrete stack, and no array"
    if tuple(leaf.shape) not in {(WIDTH, WIDTH), (WIDTH,)}:
        return _SHAPE
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return f"of dtype {leaf.dtype}, where a layer has floats"
    return "" if np.isfinite(np.asarray(leaf, np.float64)).all() else "holds values that are not finite"


def paths(subject: Subject) -> Iterator[str]:
    """Paths that tell leaves apart, that a file can hold, and that are the same the next time."""
    first = report(subject.stack(12).params)
    seen: set[tuple[str, ...]] = set()
    found: dict[str, list[str]] = {}
    for path in first.paths:
        if wrong := "the path of two leaves: paths are unique" if path in seen else _wrong_path(path):
            found.setdefault(wrong, []).append(display_path(path))
        seen.add(path)
    yield from (f"{listed(paths)}: {wrong}" for wrong, paths in found.items())
    if found:
        return
    again = report(subject.build(12).params).paths
    others = [display_path(a) for a, b in zip(first.paths, again, strict=False) if a != b]
    if others:
        yield f"{listed(others)}: another path when the same stack is built again"
    elif LeafReport.from_json(first.to_json()) != first:
        yield "the report of a stack is another one after to_json and from_json"


def _wrong_path(path: tuple[str, ...]) -> str:
    for step in path:
        try:
            step.encode()
            same = json.loads(json.dumps(step)) == step
        except UnicodeEncodeError:
            same = False
        if not same:
            return "a step that does not survive JSON in UTF-8"
        if " at 0x" in step:
            return "an address in memory, which is another one each time"
    return ""


def abstract(subject: Subject) -> Iterator[str]:
    """An abstract stack is the concrete one without its arrays, and none was made for it."""
    if any(
        isinstance(leaf, jax.ShapeDtypeStruct) for _, leaf in named(subject.build(1, abstract=None).params)
    ):
        yield "a stack is abstract where abstract is not given: the default is abstract=False"
    concrete = [
        path for path, leaf in named(subject.stack(2, abstract=True).params) if not _is_abstract(leaf)
    ]
    if concrete:
        yield f"{listed(concrete)}: in an abstract stack, and no jax.ShapeDtypeStruct"
        return
    for layers in _LAYERS:
        real, shapes = subject.stack(layers), subject.stack(layers, abstract=True)
        found = diff(real.params, shapes.params)
        if found or found.by_save:
            yield f"the abstract stack of {plural(layers, 'layer')} is not the concrete one: {_words(found)}"
            return
        if _structure(real.params) != _structure(shapes.params):
            yield f"the abstract stack of {plural(layers, 'layer')} is another tree than the concrete one"
            return
    made = arrays_made(
        lambda: subject.build(2, abstract=True, x=jax.ShapeDtypeStruct((1, _ODD), jnp.float32)),
        {(_ODD,), (_ODD, _ODD)},
    )
    if made:
        yield f"an abstract stack makes arrays on the way: {listed(made)}"
        return
    try:
        model = subject.build(1, abstract=True, x=jax.ShapeDtypeStruct((1, _HUGE), jnp.float32))
    except BuildError as error:
        yield f"an abstract stack makes arrays on the way: one of width {_HUGE:,} takes none, but {error}"
        return
    if not all(_is_abstract(leaf) for leaf in jax.tree_util.tree_leaves(model.params)):
        yield f"an abstract stack of width {_HUGE:,} has leaves that are not abstract"


def _words(found: object) -> str:
    return short("; ".join(str(found).splitlines()))


def _is_abstract(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def seeds(subject: Subject) -> Iterator[str]:
    """One seed, the same values; another seed, others; each layer its own."""
    first, again, other = (
        values(model.params) for model in (subject.stack(3), subject.build(3), subject.stack(3, seed=1))
    )
    differ = [path for (path, a), (_, b) in zip(first, again, strict=True) if not np.array_equal(a, b)]
    if differ:
        yield f"{listed(differ)}: other values when built again from the same seed, so not deterministic"
        return
    if all(np.array_equal(a, b) for (_, a), (_, b) in zip(first, other, strict=True)):
        yield "seeds 0 and 1 give the same values: the seed is not used"
    for (path, a), (twin, b) in itertools.combinations([(p, leaf) for p, leaf in first if leaf.ndim == 2], 2):
        if np.array_equal(a, b):
            yield f"{path} and {twin} hold the same values: each layer draws its own"
            break
    subject.build(1, seed=2**32 - 1)


def sample(subject: Subject) -> Iterator[str]:
    """Of x the width and the dtype count, and nothing else."""
    reference = subject.stack(2)
    samples: dict[str, Any] = {
        "a NumPy array of other values": subject.x * 3 + 1,
        "a jax.Array": jnp.asarray(subject.x),
        "more rows": np.ones((9, WIDTH), np.float32),
    }
    for what, x in samples.items():
        kept = np.array(x)
        built = subject.build(2, x=x)
        if not np.array_equal(kept, x):
            yield "dense_stack changes the values of the x that it is given"
            break
        pairs = zip(values(reference.params), values(built.params), strict=False)
        if diff(reference.params, built.params) or not all(np.array_equal(a, b) for (_, a), (_, b) in pairs):
            yield f"the params depend on x beyond its width and dtype: {what} gives others"
            break
    narrow = subject.build(1, x=jax.ShapeDtypeStruct((2, 3), np.float32))
    shapes = [leaf.shape for leaf in report(narrow.params).leaves if leaf.shape is not None]
    if any(size != 3 for shape in shapes for size in shape):
        yield f"the width is not x.shape[-1]: for x of shape (2, 3) the leaves have the shapes {shapes}"
    for dtype in (jnp.bfloat16, jnp.int32):
        subject.build(1, abstract=True, x=jax.ShapeDtypeStruct((2, 3), dtype))


def apply(subject: Subject) -> Iterator[str]:
    """A pure function of the params and x, affine in x, that uses every leaf and takes rows one by one."""
    # A GPU's or TPU's usual precision would make equal things look different.
    with jax.default_matmul_precision("highest"):
        model = subject.stack(3)
        params = jax.tree_util.tree_map(_noisy, model.params)
        broken = list(_called(model, params, subject.x))
        yield from broken
        if not broken:
            y = np.asarray(model.apply(params, subject.x.copy()))
            yield from _under_jit(subject, model, params, y)
            yield from _uses_every_leaf(model, params, subject.x, y)
            yield from _is_a_stack(subject, model, params, subject.x, y)


def _called(model: Model, params: Any, x: np.ndarray) -> Iterator[str]:
    before, structure = jax.tree_util.tree_leaves(params), _structure(params)
    kept = [np.array(leaf) for leaf in before]
    given = x.copy()
    try:
        y = model.apply(params, given)
    except Exception as error:  # noqa: BLE001  # an adapter's own code
        yield f"apply(params, f32[{ROWS},{WIDTH}]) raises {said(error)}"
        return
    if not is_array(y) or y.shape != x.shape or not jnp.issubdtype(y.dtype, jnp.floating):
        shown = f"{y.dtype}{list(y.shape)}" if is_array(y) else type(y).__name__
        yield f"apply gives {shown}, and not floats of the shape of x, [{ROWS}, {WIDTH}]"
        return
    if not np.array_equal(given, x):
        yield "apply changes the values of the x that it is given"
        return
    after = jax.tree_util.tree_leaves(params)
    if _structure(params) != structure or any(
        leaf is not now or not np.array_equal(now, old)
        for leaf, now, old in zip(before, after, kept, strict=True)
    ):
        yield "apply changes the params that it is given"
        return
    model.apply(params, given + 1)
    if not np.array_equal(model.apply(params, given), y):
        yield "apply is not pure: called again on the same arrays it gives other values"


def _under_jit(subject: Subject, model: Model, params: Any, y: np.ndarray) -> Iterator[str]:
    try:
        jitted = jax.jit(model.apply)(params, subject.x)
    except Exception as error:  # noqa: BLE001  # an adapter's own code
        yield f"apply fails under jax.jit: {said(error)}"
        return
    if jitted.shape != y.shape or not np.allclose(jitted, y, rtol=1e-4, atol=1e-4):
        yield "apply gives other values under jax.jit than without: it is no pure function of its arguments"
        return
    shapes = subject.stack(3, abstract=True)
    traced = jax.eval_shape(shapes.apply, shapes.params, subject.x)
    if not is_array(traced) or traced.shape != y.shape:
        yield f"apply of an abstract stack gives {traced} under jax.eval_shape, and not f32[{ROWS},{WIDTH}]"


def _uses_every_leaf(model: Model, params: Any, x: np.ndarray, y: np.ndarray) -> Iterator[str]:
    leaves, structure = jax.tree_util.tree_flatten(params)
    unused: list[str] = []
    for number, (path, leaf) in enumerate(named(params)):
        other = [*leaves]
        other[number] = leaf + 1
        if np.array_equal(model.apply(jax.tree_util.tree_unflatten(structure, other), x), y):
            unused.append(path)
    if unused:
        yield f"apply does not use {listed(unused)}: with other values there its result is the same"


def _is_a_stack(subject: Subject, model: Model, params: Any, x: np.ndarray, y: np.ndarray) -> Iterator[str]:
    def at(x: np.ndarray) -> np.ndarray:
        return np.asarray(model.apply(params, x), np.float64)

    alone = at(x[:1])
    if alone.shape != (1, WIDTH) or not np.allclose(alone, y[:1], rtol=1e-3, atol=1e-3):
        yield "apply gives a row other values when it stands alone: each row is an example of its own"
    other = x[::-1] * 2 + 1
    together, apart = at(x + other) + at(np.zeros_like(x)), at(x) + at(other)
    if not np.allclose(together, apart, rtol=1e-2, atol=1e-2 * np.abs(y).max()):
        yield "apply is not affine in x: a stack of Dense layers has nothing between them"
    empty = subject.stack(0)
    if not np.array_equal(empty.apply(empty.params, x), x):
        yield "a stack of 0 layers does not give x back"


def _structure(tree: Any) -> Any:
    return jax.tree_util.tree_structure(tree)


def _noisy(leaf: Any) -> Any:
    """Values that are all different, of about the size an initialiser gives: biases are zeros otherwise."""
    count = math.prod(leaf.shape)
    made = np.sin(np.arange(1, count + 1) * (1 + leaf.ndim)).reshape(leaf.shape) / math.sqrt(WIDTH)
    convert: Callable[..., Any] = np.asarray if isinstance(leaf, np.ndarray) else jnp.asarray
    return convert(made, leaf.dtype)
