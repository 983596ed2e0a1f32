"""The MLP that each framework has of its own: `nn.Sequential`, `nnx.Sequential`, `eqx.nn.MLP`, `hk.nets.MLP`.

Two hidden layers of one width, silu after every layer, the last one too: Haiku's MLP has one activation for
all and `activate_final`, Equinox's has a `final_activation`. The list of a Sequential holds the activations
as well, so its layers' numbers have gaps.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from architectures import Built, shape
from leafreport import adapter

BATCH = 2
SIZES = (5, 7, 7, 3)
LAYERS = len(SIZES) - 1
SHAPES = {f"layer{n}/weight": SIZES[n : n + 2] for n in range(LAYERS)} | {
    f"layer{n}/bias": SIZES[n + 1 : n + 2] for n in range(LAYERS)
}


def linen():
    import flax.linen as nn

    _, first, second, third = SIZES
    net = nn.Sequential([nn.Dense(first), nn.silu, nn.Dense(second), nn.silu, nn.Dense(third), nn.silu])

    def canonical(params):
        found = {}
        for n in range(LAYERS):
            layer = params["params"][f"layers_{2 * n}"]
            found[f"layer{n}/weight"] = np.asarray(layer["kernel"])
            found[f"layer{n}/bias"] = np.asarray(layer["bias"])
        return found

    def build(values):
        made = {
            f"layers_{2 * n}": {"kernel": values[f"layer{n}/weight"], "bias": values[f"layer{n}/bias"]}
            for n in range(LAYERS)
        }
        return {"params": made}

    x = shape(BATCH, SIZES[0])
    return Built(adapter("flax").model(net, x), (x,), canonical, build)


def nnx():
    from flax import nnx

    def make():
        rngs = nnx.Rngs(0)
        layers = []
        for before, after in pairwise(SIZES):
            layers += [nnx.Linear(before, after, rngs=rngs), nnx.silu]
        return nnx.Sequential(*layers)

    x = shape(BATCH, SIZES[0])
    model = adapter("nnx").model(make, x)

    def canonical(params):
        held = nnx.to_pure_dict(params)["layers"]
        found = {}
        for n in range(LAYERS):
            found[f"layer{n}/weight"] = np.asarray(held[2 * n]["kernel"])
            found[f"layer{n}/bias"] = np.asarray(held[2 * n]["bias"])
        return found

    def build(values):
        made = {
            2 * n: {"kernel": values[f"layer{n}/weight"], "bias": values[f"layer{n}/bias"]}
            for n in range(LAYERS)
        }
        state = jax.tree.map(lambda leaf: leaf, model.params)
        nnx.replace_by_pure_dict(state, {"layers": made})
        return state

    return Built(model, (x,), canonical, build)


def equinox():
    import equinox as eqx

    def make():
        return eqx.nn.MLP(
            in_size=SIZES[0],
            out_size=SIZES[-1],
            width_size=SIZES[1],
            depth=LAYERS - 1,
            activation=jax.nn.silu,
            final_activation=jax.nn.silu,
            key=jax.random.PRNGKey(0),
        )

    x = shape(BATCH, SIZES[0])
    model = adapter("equinox").model(make, x, batched=True)

    def canonical(params):
        found = {}
        for n, layer in enumerate(params.layers):
            found[f"layer{n}/weight"] = np.asarray(layer.weight).T
            found[f"layer{n}/bias"] = np.asarray(layer.bias)
        return found

    def build(values):
        def leaves(mlp):
            return [layer.weight for layer in mlp.layers] + [layer.bias for layer in mlp.layers]

        weights = [jnp.asarray(values[f"layer{n}/weight"].T) for n in range(LAYERS)]
        biases = [jnp.asarray(values[f"layer{n}/bias"]) for n in range(LAYERS)]
        return eqx.tree_at(leaves, model.params, weights + biases)

    return Built(model, (x,), canonical, build)


def haiku():
    import haiku as hk

    def forward(x):
        return hk.nets.MLP(SIZES[1:], activation=jax.nn.silu, activate_final=True)(x)

    def canonical(params):
        found = {}
        for n in range(LAYERS):
            layer = params[f"mlp/~/linear_{n}"]
            found |= {f"layer{n}/weight": np.asarray(layer["w"]), f"layer{n}/bias": np.asarray(layer["b"])}
        return found

    def build(values):
        return {
            f"mlp/~/linear_{n}": {"w": values[f"layer{n}/weight"], "b": values[f"layer{n}/bias"]}
            for n in range(LAYERS)
        }

    x = shape(BATCH, SIZES[0])
    model = adapter("haiku").model(hk.without_apply_rng(hk.transform(forward)), x)
    return Built(model, (x,), canonical, build)


BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
