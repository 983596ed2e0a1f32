"""The Flax adapter: Linen, the reference path. Flax is imported when a model is built, not before."""

from typing import TYPE_CHECKING, Any

import leafreport

if TYPE_CHECKING:
    import flax.linen as nn


class FlaxAdapter:
    """Builds with `flax.linen`."""

    name = "flax"

    def dense_stack(
        self, seed: int, x: Any, num_layers: int, *, abstract: bool = False
    ) -> "leafreport.Model":
        """`nn.Dense(D)` repeated, D = `x.shape[-1]`; params as `module.init` gives them.

        Args:
            seed: for `jax.random.PRNGKey`.
            x: f[N, D], concrete or abstract; only its shape and dtype are used.
            num_layers: 0 or more.
            abstract: trace the init with `jax.eval_shape`: no array is made. About 1.5 ms a layer.
        """
        import jax
        import jax.numpy as jnp

        module = _stack(int(x.shape[-1]), num_layers)
        sample = jax.ShapeDtypeStruct(x.shape, x.dtype)
        if abstract:
            key = jax.eval_shape(lambda: jax.random.PRNGKey(seed))
            params = jax.eval_shape(module.init, key, sample)
        else:
            params = module.init(jax.random.PRNGKey(seed), jnp.zeros(sample.shape, sample.dtype))
        return leafreport.Model(params, module.apply)


def _stack(width: int, num_layers: int) -> "nn.Module":
    import flax.linen as nn

    class Stack(nn.Module):
        """One instance a layer: a list holding one Dense N times is a single layer, with 2 leaves."""

        @nn.compact
        def __call__(self, y: Any) -> Any:
            for _ in range(num_layers):
                y = nn.Dense(width)(y)
            return y

    return Stack()


adapter = FlaxAdapter()
