"""One architecture a module, written in several frameworks as each one's own users would write it.

Every module has `BUILDS`: a function for each framework that makes a `Built`. All of them compute one function of
one set of values: `canonical` takes those values out of a framework's params by hand, `build` puts them in. `SHAPES` has the shapes of the values
by label; `SILENT` the labels that the output does not depend on; `RESTATED` the builds that are the same function
by algebra, or at the values they are built with, and not step by step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from leafreport import Model

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Built:
    """A model and, by hand, what its params are.

    Attributes:
        model: with abstract or concrete params.
        inputs: what `model.apply` takes after the params, abstract, in this framework's layout.
        canonical: the values in params by labels that all frameworks share, in one layout that all share.
        build: params of these values; statistics and counters that have no label are made up.
        given: inputs of the first framework's layout in this one's; the same by default.
        result: the output in the first framework's layout; the same by default.
    """

    model: Model
    inputs: tuple[Any, ...]
    canonical: Callable[[Any], Values]
    build: Callable[[Values], Any]
    given: Callable[..., tuple[Any, ...]] = lambda *inputs: inputs
    result: Callable[[Any], Any] = lambda y: y


def shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts of `a/b/c` names."""
    made: dict[str, Any] = {}
    for name, value in flat.items():
        *above, last = name.split("/")
        node = made
        for step in above:
            node = node.setdefault(step, {})
        node[last] = value
    return made


def drawn(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Values:
    """Random values for labels; what is called a variance is positive."""
    rng = np.random.default_rng(seed)
    return {
        label: (np.abs(v) + 0.5 if "var" in label else v).astype(np.float32)
        for label, sizes in shapes.items()
        for v in [rng.normal(size=sizes) * 0.3]
    }
