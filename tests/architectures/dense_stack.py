"""Twelve square Dense layers, tanh between them.

Every kernel has one shape, and twelve are enough for "Dense_10" to sort before "Dense_2": neither shapes nor
sorted names tell the layers apart. NNX keeps them in a list, Equinox in a `Sequential` in which activations
take every second place (weights are out, in), Haiku in `hk.nets.MLP`.
"""

from architectures import Built, nested, shape
from leafreport import adapter

WIDTH, DEPTH, BATCH = 6, 12, 4
X = shape(BATCH, WIDTH)

SHAPES = {
    f"{n}.{leaf}": sizes
    for n in range(DEPTH)
    for leaf, sizes in {"kernel": (WIDTH, WIDTH), "bias": (WIDTH,)}.items()
}


def linen():
    import flax.linen as nn
    from flax.traverse_util import flatten_dict

    class Stack(nn.Module):
        width: int
        depth: int

        @nn.compact
        def __call__(self, x):
            for n in range(self.depth):
                if n > 0:
                    x = nn.tanh(x)
                x = nn.Dense(self.width)(x)
            return x

    paths = {label: f"params/Dense_{label.replace('.', '/')}" for label in SHAPES}

    def canonical(params):
        flat = flatten_dict(params, sep="/")
        return {label: flat[path] for label, path in paths.items()}

    def build(values):
        return nested({path: values[label] for label, path in paths.items()})

    return Built(adapter("flax").model(Stack(WIDTH, DEPTH), X), (X,), canonical, build)


def nnx():
    import jax
    import jax.numpy as jnp
    from flax import nnx

    class Stack(nnx.Module):
        def __init__(self, width, depth, *, rngs):
            self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(depth)])

        def __call__(self, x):
            *hidden, last = self.layers
            for layer in hidden:
                x = jnp.tanh(layer(x))
            return last(x)

    model = adapter("nnx").model(lambda: Stack(WIDTH, DEPTH, rngs=nnx.Rngs(0)), X)

    def canonical(params):
        layers = nnx.to_pure_dict(params)["layers"]
        return {f"{n}.{leaf}": layers[n][leaf] for n in range(DEPTH) for leaf in ("kernel", "bias")}

    def build(values):
        state = jax.tree.map(lambda leaf: leaf, model.params)
        layers = {n: {leaf: values[f"{n}.{leaf}"] for leaf in ("kernel", "bias")} for n in range(DEPTH)}
        nnx.replace_by_pure_dict(state, {"layers": layers})
        return state

    return Built(model, (X,), canonical, build)


def equinox():
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    def make():
        layers = []
        for key in jax.random.split(jax.random.PRNGKey(0), DEPTH):
            layers += [eqx.nn.Linear(WIDTH, WIDTH, key=key), eqx.nn.Lambda(jnp.tanh)]
        return eqx.nn.Sequential(layers[:-1])

    model = adapter("equinox").model(make, X, batched=True)

    def canonical(params):
        values = {}
        for n in range(DEPTH):
            linear = params.layers[2 * n]
            values |= {f"{n}.kernel": linear.weight.T, f"{n}.bias": linear.bias}
        return values

    def build(values):
        def where(module):
            return [leaf for layer in module.layers[::2] for leaf in (layer.weight, layer.bias)]

        pairs = [(values[f"{n}.kernel"].T, values[f"{n}.bias"]) for n in range(DEPTH)]
        return eqx.tree_at(where, model.params, [leaf for pair in pairs for leaf in pair])

    return Built(model, (X,), canonical, build)


def haiku():
    import haiku as hk
    import jax.numpy as jnp

    @hk.without_apply_rng
    @hk.transform
    def stack(x):
        return hk.nets.MLP([WIDTH] * DEPTH, activation=jnp.tanh)(x)

    def canonical(params):
        values = {}
        for n in range(DEPTH):
            linear = params[f"mlp/~/linear_{n}"]
            values |= {f"{n}.kernel": linear["w"], f"{n}.bias": linear["b"]}
        return values

    def build(values):
        return {
            f"mlp/~/linear_{n}": {"w": values[f"{n}.kernel"], "b": values[f"{n}.bias"]} for n in range(DEPTH)
        }

    return Built(adapter("haiku").model(stack, X), (X,), canonical, build)


BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
