"""An MLP with weight normalisation (Salimans and Kingma 2016): each unit has a direction and a length.

`nn.WeightNorm` and `nnx.WeightNorm` wrap a layer and keep the lengths apart from it: Linen under a name that
has slashes in it, beside the layer, NNX as an array that is no variable, in a dict whose key is a tuple.
Such an array cannot be abstract, so the NNX model is concrete. In `eqx.nn.WeightNorm` the lengths are
(out, 1). In Haiku the layer is written by hand, (in, out), with v and g.
"""

import jax
import jax.numpy as jnp
import numpy as np

from architectures import Built, shape
from leafreport import adapter

BATCH = 2
SIZES = (5, 8, 8, 3)
LAYERS = len(SIZES) - 1
SHAPES = {
    label: sizes
    for n in range(LAYERS)
    for label, sizes in {
        f"layer{n}/direction": SIZES[n : n + 2],
        f"layer{n}/length": SIZES[n + 1 : n + 2],
        f"layer{n}/bias": SIZES[n + 1 : n + 2],
    }.items()
}


def linen():
    import flax.linen as nn

    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x):
            for size in SIZES[1:-1]:
                x = nn.elu(nn.WeightNorm(nn.Dense(size))(x))
            return nn.WeightNorm(nn.Dense(SIZES[-1]))(x)

    def canonical(params):
        held = params["params"]
        found = {}
        for n in range(LAYERS):
            found[f"layer{n}/direction"] = np.asarray(held[f"Dense_{n}"]["kernel"])
            found[f"layer{n}/length"] = np.asarray(held[f"WeightNorm_{n}"][f"Dense_{n}/kernel/scale"])
            found[f"layer{n}/bias"] = np.asarray(held[f"Dense_{n}"]["bias"])
        return found

    def build(values):
        made = {}
        for n in range(LAYERS):
            made[f"Dense_{n}"] = {"kernel": values[f"layer{n}/direction"], "bias": values[f"layer{n}/bias"]}
            made[f"WeightNorm_{n}"] = {f"Dense_{n}/kernel/scale": values[f"layer{n}/length"]}
        return {"params": made}

    x = shape(BATCH, SIZES[0])
    return Built(adapter("flax").model(MLP(), x), (x,), canonical, build)


def nnx():
    from flax import nnx

    class MLP(nnx.Module):
        def __init__(self, rngs):
            def layer(before, after):
                return nnx.WeightNorm(nnx.Linear(before, after, rngs=rngs), rngs=rngs)

            self.layers = nnx.List([layer(SIZES[n], SIZES[n + 1]) for n in range(LAYERS)])

        def __call__(self, x):
            *others, last = self.layers
            for layer in others:
                x = nnx.elu(layer(x))
            return last(x)

    x = shape(BATCH, SIZES[0])
    model = adapter("nnx").model(MLP(nnx.Rngs(0)), x)

    def canonical(params):
        layers = nnx.to_pure_dict(params)["layers"]
        found = {}
        for n in range(LAYERS):
            found[f"layer{n}/direction"] = np.asarray(layers[n]["layer_instance"]["kernel"])
            found[f"layer{n}/length"] = np.asarray(layers[n]["scales"]["kernel",])
            found[f"layer{n}/bias"] = np.asarray(layers[n]["layer_instance"]["bias"])
        return found

    def build(values):
        made = {
            n: {
                "layer_instance": {
                    "kernel": values[f"layer{n}/direction"],
                    "bias": values[f"layer{n}/bias"],
                },
                "scales": {("kernel",): values[f"layer{n}/length"]},
            }
            for n in range(LAYERS)
        }
        state = jax.tree.map(lambda leaf: leaf, model.params)
        nnx.replace_by_pure_dict(state, {"layers": made})
        return state

    return Built(model, (x,), canonical, build)


def equinox():
    import equinox as eqx

    def make():
        layers = []
        for n, key in enumerate(jax.random.split(jax.random.PRNGKey(0), LAYERS)):
            layers.append(eqx.nn.WeightNorm(eqx.nn.Linear(SIZES[n], SIZES[n + 1], key=key)))
            if n < LAYERS - 1:
                layers.append(eqx.nn.Lambda(jax.nn.elu))
        return eqx.nn.Sequential(layers)

    x = shape(BATCH, SIZES[0])
    model = adapter("equinox").model(make, x, batched=True)

    def leaves(net):
        return [leaf for held in net.layers[::2] for leaf in (held.layer.weight, held.g, held.layer.bias)]

    def canonical(params):
        found = {}
        for n, held in enumerate(params.layers[::2]):
            found[f"layer{n}/direction"] = np.asarray(held.layer.weight).T
            found[f"layer{n}/length"] = np.asarray(held.g)[:, 0]
            found[f"layer{n}/bias"] = np.asarray(held.layer.bias)
        return found

    def build(values):
        made = []
        for n in range(LAYERS):
            made += [values[f"layer{n}/direction"].T, values[f"layer{n}/length"][:, None]]
            made.append(values[f"layer{n}/bias"])
        return eqx.tree_at(leaves, model.params, [jnp.asarray(value) for value in made])

    return Built(model, (x,), canonical, build)


def haiku():
    import haiku as hk

    class WeightNormLinear(hk.Module):
        def __init__(self, size, name=None):
            super().__init__(name=name)
            self.size = size

        def __call__(self, x):
            v = hk.get_parameter("v", (x.shape[-1], self.size), init=hk.initializers.RandomNormal(0.05))
            g = hk.get_parameter("g", (self.size,), init=jnp.ones)
            b = hk.get_parameter("b", (self.size,), init=jnp.zeros)
            return (x @ v) * (g / jnp.linalg.norm(v, axis=0)) + b

    def forward(x):
        layers = [WeightNormLinear(size) for size in SIZES[1:]]
        for layer in layers[:-1]:
            x = jax.nn.elu(layer(x))
        return layers[-1](x)

    x = shape(BATCH, SIZES[0])
    model = adapter("haiku").model(hk.without_apply_rng(hk.transform(forward)), x)
    names = [f"weight_norm_linear{f'_{n}' if n else ''}" for n in range(LAYERS)]
    leaves = {"direction": "v", "length": "g", "bias": "b"}

    def canonical(params):
        return {
            f"layer{n}/{label}": np.asarray(params[name][leaf])
            for n, name in enumerate(names)
            for label, leaf in leaves.items()
        }

    def build(values):
        return {
            name: {leaf: values[f"layer{n}/{label}"] for label, leaf in leaves.items()}
            for n, name in enumerate(names)
        }

    return Built(model, (x,), canonical, build)


# In Haiku the lengths come after the product with the directions: by algebra alone it is the same.
RESTATED = {"haiku"}
BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
