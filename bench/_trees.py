"""The trees that are measured: the shapes of real parameters, in the numbers that hurt."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def nested(leaves: int, kernel: Callable[[], Any], bias: Callable[[], Any]) -> dict[str, Any]:
    """Blocks of ten Dense-like layers in nested dicts."""
    return {
        "params": {
            f"block_{i}": {f"Dense_{j}": {"kernel": kernel(), "bias": bias()} for j in range(10)}
            for i in range(leaves // 20)
        }
    }


def abstract(leaves: int) -> dict[str, Any]:
    """Nested dicts of `ShapeDtypeStruct`, every leaf an object of its own."""
    return nested(
        leaves,
        lambda: jax.ShapeDtypeStruct((64, 64), jnp.float32),
        lambda: jax.ShapeDtypeStruct((64,), jnp.float32),
    )


def arrays(leaves: int) -> dict[str, Any]:
    """Nested dicts of small jax arrays, every leaf an array of its own."""
    kernel, bias = np.zeros((2, 2), np.float32), np.zeros(2, np.float32)
    return nested(leaves, lambda: jax.device_put(kernel), lambda: jax.device_put(bias))


class State(NamedTuple):
    """What an optimizer keeps."""

    mu: Any
    nu: Any
    count: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    """What Equinox and flax.struct make."""

    w: Any
    b: Any
    extra: Any


def mixed(leaves: int) -> dict[str, Any]:
    """A list of dicts of lists, namedtuples and dataclasses, 500 distinct shapes."""
    shapes = [(i + 1, j + 1) for i in range(25) for j in range(20)]

    def block(k: int) -> dict[str, Any]:
        s = [jax.ShapeDtypeStruct(shapes[(7 * k + d) % 500], jnp.float32) for d in range(10)]
        return {"a": s[:2], "b": State(*s[2:5]), "c": Layer(s[5], s[6], tuple(s[7:]))}

    return {"layers": [block(k) for k in range(leaves // 10)]}
