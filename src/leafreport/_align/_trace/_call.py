"""A call traced by `jax.make_jaxpr` on abstract values: nothing is computed, and no value is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True, slots=True)
class Traced:
    """A call as JAX traced it.

    Attributes:
        jaxpr: the closed jaxpr; its first inputs are the distinct leaves of params.
        places: for each leaf of params which of these it is.
        output: the shapes of what the call gives, as a tree.
    """

    jaxpr: Any
    places: tuple[int, ...]
    output: Any


def traced(apply: Callable[..., Any], params: Any, inputs: Sequence[Any]) -> Traced:
    """A call traced on abstract values.

    Args:
        apply: the call, `apply(params, *inputs)`.
        params: its params, concrete or abstract; their values are not read. Two leaves that are one array are
            traced as one.
        inputs: what it takes; Python values among them stay as they are.
    """
    leaves, structure = jax.tree_util.tree_flatten(params)
    first: dict[int, int] = {}
    distinct: list[Any] = []
    places: list[int] = []
    for leaf in leaves:
        concrete = hasattr(leaf, "shape") and not isinstance(leaf, jax.ShapeDtypeStruct)
        key = id(leaf) if concrete else -len(places) - 1
        place = first.setdefault(key, len(first))
        if place == len(distinct):
            distinct.append(_abstract(leaf))
        places.append(place)
    given, rest = jax.tree_util.tree_flatten(tuple(inputs))
    arrays = {n: _abstract(leaf) for n, leaf in enumerate(given) if hasattr(leaf, "shape")}

    def call(distinct: Sequence[Any], arrays: Mapping[int, Any]) -> Any:
        own = jax.tree_util.tree_unflatten(structure, [distinct[place] for place in places])
        own_inputs = [arrays.get(n, leaf) for n, leaf in enumerate(given)]
        return apply(own, *jax.tree_util.tree_unflatten(rest, own_inputs))

    jaxpr, output = jax.make_jaxpr(call, return_shape=True)(distinct, arrays)
    return Traced(jaxpr, tuple(places), output)


def _abstract(leaf: Any) -> Any:
    if not hasattr(leaf, "shape"):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=bool(getattr(leaf, "weak_type", False)))
