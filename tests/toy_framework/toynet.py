"""A framework small enough to be read whole: what an adapter author is given."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Layer:
    """`x @ weight + offset`, with `weight` f[in, out] and `offset` f[out]."""

    weight: jax.Array
    offset: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        """Of f[batch, in] the f[batch, out]."""
        return x @ self.weight + self.offset


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Net:
    """Layers, each called on what the one before gives."""

    layers: tuple[Layer, ...]

    def __call__(self, x: jax.Array) -> jax.Array:
        """What the last layer gives; x where there is none."""
        for layer in self.layers:
            x = layer(x)
        return x


def make_net(key: jax.Array, sizes: Sequence[int]) -> Net:
    """A net whose layers lead from each of the sizes to the next."""
    keys = jax.random.split(key, len(sizes))
    return Net(
        tuple(
            Layer(
                jax.random.normal(keys[n], (sizes[n], sizes[n + 1])) / sizes[n] ** 0.5,
                jax.numpy.zeros(sizes[n + 1]),
            )
            for n in range(len(sizes) - 1)
        )
    )
