"""What adapter authors build on: leafreport's own adapters use nothing else beside its public names.

Not imported by anything in leafreport: an adapter that has no use for it needs none of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from leafreport._adapter import missing
from leafreport._errors import FrameworkMissingError, ModelError
from leafreport._keys import key_name
from leafreport._model import Role

__all__ = [
    "fitted",
    "framework_missing",
    "is_array",
    "is_key",
    "layers_held",
    "of_framework",
    "paths",
    "plain_role",
    "shapes",
    "steps",
    "untraced",
]


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array: it has a shape and a dtype; abstract ones and NumPy's too.

    Example:
        >>> is_array(jax.ShapeDtypeStruct((2,), "float32")), is_array(1.0)
        (True, False)
    """
    try:
        shape, dtype = leaf.shape, leaf.dtype
        known = isinstance(dtype, np.dtype) or jax.numpy.issubdtype(dtype, jax.dtypes.extended)
    except Exception:  # noqa: BLE001  # a leaf of anyone's class
        return False
    return isinstance(shape, tuple) and known


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed PRNG key, live or abstract.

    Example:
        >>> is_key(jax.random.key(0)), is_key(jax.random.PRNGKey(0))
        (True, False)
    """
    return is_array(leaf) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain_role(leaf: Any) -> Role | None:
    """The role of a leaf that tells it by itself: `static` for no array, `rng` for a typed key; else None.

    Example:
        >>> plain_role("mean"), plain_role(jax.random.key(0)), plain_role(np.zeros(2))
        ('static', 'rng', None)
    """
    if not is_array(leaf):
        return "static"
    return "rng" if is_key(leaf) else None


def steps(key_path: Sequence[Any]) -> tuple[str, ...]:
    """The path of a leaf as a report gives it, from one of JAX's key paths.

    Example:
        >>> (first, _), *_ = jax.tree_util.tree_leaves_with_path({"a": [1, 2]})
        >>> steps(first)
        ('a', '0')
    """
    return tuple(key_name(key)[0] for key in key_path)


def paths(tree: Any) -> list[tuple[str, ...]]:
    """The path of every leaf of a tree, in flatten order.

    Example:
        >>> paths({"a": [1, 2]})
        [('a', '0'), ('a', '1')]
    """
    return [steps(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]


def layers_held(one: Sequence[int], whole: Sequence[int]) -> int | None:
    """How many arrays of one layer's shape a leaf's shape holds; None where it holds none.

    The axes of the one are among those of the whole, in order; the others stack layers.

    Example:
        >>> layers_held((6, 8), (6, 8)), layers_held((6, 8), (12, 6, 8)), layers_held((6, 8), (8, 6))
        (1, 12, None)
    """
    rest = list(one)
    stacked = 1
    for size in reversed(whole):
        if rest and size == rest[-1]:
            rest.pop()
        else:
            stacked *= size
    return None if rest else stacked


def fitted(known: Sequence[tuple[str, int]] | None, leaf: Any) -> tuple[tuple[str, ...] | None, int | None]:
    """The axes of one layer, and how many layers a leaf holds where it holds several.

    Neither is told where the name and size of the layer's axes are not known, or the leaf does not fit them.

    Example:
        >>> fitted([("in", 6), ("out", 8)], np.zeros((12, 6, 8))), fitted([("out", 8)], np.zeros(6))
        ((('in', 'out'), 12), (None, None))
    """
    if known is None or not is_array(leaf):
        return None, None
    held = layers_held([size for _, size in known], leaf.shape)
    if held is None:
        return None, None
    return tuple(name for name, _ in known), held if len(leaf.shape) > len(known) else None


def of_framework(module: object, framework: str) -> tuple[str, ...]:
    """The framework's own classes that a layer's class comes from, by name; none where its call is another's.

    A subclass with a `__call__` of its own may keep its arrays in another layout.
    """
    kinds = type(module).__mro__
    called = next((kind for kind in kinds if "__call__" in vars(kind)), object)
    if not called.__module__.startswith(f"{framework}."):
        return ()
    return tuple(kind.__name__ for kind in kinds if kind.__module__.startswith(f"{framework}."))


def shapes(function: Callable[..., Any], *inputs: Any) -> Any:
    """`jax.eval_shape`, but Python values among the inputs (`True`, None, "mean") stay as they are.

    Allocates no array and computes nothing. What the function returns must be arrays.

    Example:
        >>> shapes(lambda x, axis: x.sum(axis), jax.ShapeDtypeStruct((2, 3), "float32"), 0).shape
        (3,)
    """
    leaves, structure = jax.tree_util.tree_flatten(inputs)

    def traced(given: dict[int, Any]) -> Any:
        every = [given.get(place, leaf) for place, leaf in enumerate(leaves)]
        return function(*jax.tree_util.tree_unflatten(structure, every))

    return jax.eval_shape(traced, {place: leaf for place, leaf in enumerate(leaves) if is_array(leaf)})


def untraced(obj: Any, inputs: Sequence[Any], error: Exception) -> ModelError:
    """The error for a model that cannot be traced: which, on what inputs, and what its framework said.

    Example:
        >>> str(untraced(3, [jax.ShapeDtypeStruct((2,), "int8"), True], TypeError("no call")))[:60]
        'int cannot be traced on int8[2], True: TypeError: no call. G'
    """
    shown = f"on {', '.join(map(_shown, inputs))}" if inputs else "without inputs"
    said = " ".join(str(error).split()).removesuffix(".")
    said = f"{said[:400]}..." if len(said) > 400 else said
    return ModelError(
        f"{type(obj).__name__} cannot be traced {shown}: {type(error).__name__}: {said}. "
        "Give the inputs its call takes, as arrays or jax.ShapeDtypeStruct, and its options by name."
    )


def _shown(value: Any) -> str:
    if is_array(value):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    return repr(value) if value is None or isinstance(value, bool | int | float) else type(value).__name__


def framework_missing(backend: str, error: Exception) -> FrameworkMissingError:
    """The error for a framework that cannot be imported, with the line that installs it.

    Example:
        >>> str(framework_missing("haiku", ImportError("No module named 'haiku'")))[-43:]
        "Install it: pip install 'leafreport[haiku]'"
    """
    return missing(backend, error)
