"""A multilayer perceptron: four layers of different widths, with and without bias, and three activations.

Linen's layers are made within expressions, the outer before the inner: `Dense_0` runs second and `Dense_2`
last. NNX makes its layers in an order that is not theirs in the call, Equinox keeps them in one tuple
(weights are out, in). Some activations are written out: relu as a maximum and silu as x * sigmoid(x) in
Equinox, gelu with `erf` (exact, not the tanh approximation) and silu as x / (1 + exp(-x)) in Haiku.
"""

from architectures import Built, nested, shape
from leafreport import adapter

IN, FIRST, SECOND, THIRD, OUT, BATCH = 5, 12, 7, 9, 4, 3
X = shape(BATCH, IN)

SHAPES = {
    "first.kernel": (IN, FIRST),
    "first.bias": (FIRST,),
    "second.kernel": (FIRST, SECOND),
    "third.kernel": (SECOND, THIRD),
    "third.bias": (THIRD,),
    "head.kernel": (THIRD, OUT),
}


def linen():
    import flax.linen as nn
    from flax.traverse_util import flatten_dict

    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.gelu(nn.Dense(SECOND, use_bias=False)(nn.relu(nn.Dense(FIRST)(x))), approximate=False)
            return nn.Dense(OUT, use_bias=False)(nn.silu(nn.Dense(THIRD)(h)))

    paths = {
        "first.kernel": "params/Dense_1/kernel",
        "first.bias": "params/Dense_1/bias",
        "second.kernel": "params/Dense_0/kernel",
        "third.kernel": "params/Dense_3/kernel",
        "third.bias": "params/Dense_3/bias",
        "head.kernel": "params/Dense_2/kernel",
    }

    def canonical(params):
        flat = flatten_dict(params, sep="/")
        return {label: flat[path] for label, path in paths.items()}

    def build(values):
        return nested({path: values[label] for label, path in paths.items()})

    return Built(adapter("flax").model(MLP(), X), (X,), canonical, build)


def nnx():
    import jax
    from flax import nnx

    class MLP(nnx.Module):
        def __init__(self, *, rngs):
            self.out = nnx.Linear(THIRD, OUT, use_bias=False, rngs=rngs)
            self.fc1 = nnx.Linear(IN, FIRST, rngs=rngs)
            self.fc2 = nnx.Linear(FIRST, SECOND, use_bias=False, rngs=rngs)
            self.expand = nnx.Linear(SECOND, THIRD, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.fc1(x))
            x = nnx.gelu(self.fc2(x), approximate=False)
            x = nnx.swish(self.expand(x))
            return self.out(x)

    model = adapter("nnx").model(lambda: MLP(rngs=nnx.Rngs(0)), X)
    paths = {
        "first.kernel": "fc1/kernel",
        "first.bias": "fc1/bias",
        "second.kernel": "fc2/kernel",
        "third.kernel": "expand/kernel",
        "third.bias": "expand/bias",
        "head.kernel": "out/kernel",
    }

    def canonical(params):
        flat = {"/".join(path): variable[...] for path, variable in nnx.to_flat_state(params)}
        return {label: flat[path] for label, path in paths.items()}

    def build(values):
        state = jax.tree.map(lambda leaf: leaf, model.params)
        nnx.replace_by_pure_dict(state, nested({path: values[label] for label, path in paths.items()}))
        return state

    return Built(model, (X,), canonical, build)


def equinox():
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    class MLP(eqx.Module):
        layers: tuple[eqx.nn.Linear, ...]

        def __init__(self, widths, biases, *, key):
            keys = jax.random.split(key, len(biases))
            self.layers = tuple(
                eqx.nn.Linear(before, after, use_bias=bias, key=key)
                for before, after, bias, key in zip(widths[:-1], widths[1:], biases, keys, strict=True)
            )

        def __call__(self, x):
            first, second, third, head = self.layers
            x = jnp.maximum(first(x), 0)
            x = jax.nn.gelu(second(x), approximate=False)
            x = third(x)
            return head(x * jax.nn.sigmoid(x))

    widths, biases = (IN, FIRST, SECOND, THIRD, OUT), (True, False, True, False)
    model = adapter("equinox").model(lambda: MLP(widths, biases, key=jax.random.PRNGKey(0)), X, batched=True)

    def canonical(params):
        first, second, third, head = params.layers
        return {
            "first.kernel": first.weight.T,
            "first.bias": first.bias,
            "second.kernel": second.weight.T,
            "third.kernel": third.weight.T,
            "third.bias": third.bias,
            "head.kernel": head.weight.T,
        }

    def build(values):
        def where(module):
            first, second, third, head = module.layers
            return first.weight, first.bias, second.weight, third.weight, third.bias, head.weight

        # A bias is its own transpose.
        return eqx.tree_at(where, model.params, tuple(values[label].T for label in SHAPES))

    return Built(model, (X,), canonical, build)


def haiku():
    import haiku as hk
    import jax
    import jax.numpy as jnp
    import numpy as np

    def gelu(x):
        return 0.5 * x * (1.0 + jax.lax.erf(x / np.sqrt(2.0)))

    def forward(x):
        embed = hk.Sequential(
            [hk.Linear(FIRST), jax.nn.relu, hk.Linear(SECOND, with_bias=False), gelu], name="embed"
        )
        x = hk.Linear(THIRD, name="linear")(embed(x))
        x = x / (1 + jnp.exp(-x))
        return hk.Linear(OUT, with_bias=False, name="logits")(x)

    # The layers of a `hk.Sequential` are made before it, and outside: their names do not tell of it.
    paths = {
        "first.kernel": ("linear", "w"),
        "first.bias": ("linear", "b"),
        "second.kernel": ("linear_1", "w"),
        "third.kernel": ("linear_2", "w"),
        "third.bias": ("linear_2", "b"),
        "head.kernel": ("logits", "w"),
    }

    def canonical(params):
        return {label: params[module][leaf] for label, (module, leaf) in paths.items()}

    def build(values):
        params = {module: {} for module, _ in paths.values()}
        for label, (module, leaf) in paths.items():
            params[module][leaf] = values[label]
        return params

    return Built(adapter("haiku").model(hk.transform(forward), X), (X,), canonical, build)


BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
