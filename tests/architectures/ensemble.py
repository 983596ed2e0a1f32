"""Five small MLPs that see the same input, and a mean of their outputs' tanh by fixed, unequal weights.

With `linen` the members are separate modules. In all others a leaf holds all five, the member is its first
axis, and one member's call is mapped over it: `nn.vmap` (`linen_vmap`), `nnx.vmap`, `eqx.filter_vmap` around
an `eqx.nn.MLP`; Haiku maps the transformed functions themselves. The hidden layers are square.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from architectures import Built, nested, shape
from leafreport import adapter

MEMBERS, INPUTS, WIDTH, OUTPUTS, BATCH = 5, 4, 8, 3, 2
SHARES = (0.1, 0.15, 0.2, 0.25, 0.3)

SIZES = (INPUTS, WIDTH, WIDTH, OUTPUTS)
MEMBER = {
    label: sizes
    for n, (before, after) in enumerate(pairwise(SIZES))
    for label, sizes in {f"layer{n}/weight": (before, after), f"layer{n}/bias": (after,)}.items()
}
SHAPES = {f"member{m}/{label}": sizes for m in range(MEMBERS) for label, sizes in MEMBER.items()}


def stacked(values, label):
    """All members' values of one label, the member first."""
    return np.stack([values[f"member{m}/{label}"] for m in range(MEMBERS)])


def members(held):
    """The values by member, of what all members have by label."""
    return {f"member{m}/{label}": np.asarray(held[label])[m] for m in range(MEMBERS) for label in MEMBER}


def linen():
    import flax.linen as nn

    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(WIDTH)(x))
            x = nn.relu(nn.Dense(WIDTH)(x))
            return nn.Dense(OUTPUTS)(x)

    class Ensemble(nn.Module):
        def setup(self):
            self.members = [MLP() for _ in range(MEMBERS)]

        def __call__(self, x):
            return sum(share * nn.tanh(member(x)) for share, member in zip(SHARES, self.members, strict=True))

    leaves = {"weight": "kernel", "bias": "bias"}

    def canonical(params):
        found = {}
        for label in SHAPES:
            member, layer, leaf = label.split("/")
            held = params["params"][member.replace("member", "members_")][layer.replace("layer", "Dense_")]
            found[label] = np.asarray(held[leaves[leaf]])
        return found

    def build(values):
        made = {}
        for label, value in values.items():
            member, layer, leaf = label.split("/")
            place = (member.replace("member", "members_"), layer.replace("layer", "Dense_"), leaves[leaf])
            made["params/" + "/".join(place)] = value
        return nested(made)

    x = shape(BATCH, INPUTS)
    return Built(adapter("flax").model(Ensemble(), x), (x,), canonical, build)


def linen_vmap():
    import flax.linen as nn

    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x):
            for n, size in enumerate(SIZES[1:], 1):
                x = nn.Dense(size, name=f"dense{n}")(x)
                x = x if n == len(SIZES) - 1 else nn.relu(x)
            return x

    class Ensemble(nn.Module):
        @nn.compact
        def __call__(self, x):
            mapped = nn.vmap(
                MLP,
                in_axes=None,
                out_axes=0,
                axis_size=MEMBERS,
                variable_axes={"params": 0},
                split_rngs={"params": True},
            )
            return jnp.einsum("m,mbo->bo", jnp.asarray(SHARES), nn.tanh(mapped(name="ensemble")(x)))

    def leaf(held, label):
        layer, name = label.split("/")
        return held[f"dense{int(layer[-1]) + 1}"]["kernel" if name == "weight" else "bias"]

    def canonical(params):
        return members({label: leaf(params["params"]["ensemble"], label) for label in MEMBER})

    def build(values):
        made = {
            f"dense{n + 1}": {
                "kernel": stacked(values, f"layer{n}/weight"),
                "bias": stacked(values, f"layer{n}/bias"),
            }
            for n in range(len(SIZES) - 1)
        }
        return {"params": {"ensemble": made}}

    x = shape(BATCH, INPUTS)
    return Built(adapter("flax").model(Ensemble(), x), (x,), canonical, build)


def nnx():
    from flax import nnx

    class MLP(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(INPUTS, WIDTH, rngs=rngs)
            self.hidden = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
            self.output = nnx.Linear(WIDTH, OUTPUTS, rngs=rngs)

        def __call__(self, x):
            return self.output(nnx.relu(self.hidden(nnx.relu(self.first(x)))))

    class Ensemble(nnx.Module):
        def __init__(self, rngs):
            self.members = nnx.split_rngs(splits=MEMBERS)(nnx.vmap(MLP))(rngs)

        def __call__(self, x):
            y = nnx.vmap(lambda member, x: member(x), in_axes=(0, None))(self.members, x)
            return jnp.average(nnx.tanh(y), axis=0, weights=jnp.asarray(SHARES))

    x = shape(BATCH, INPUTS)
    model = adapter("nnx").model(lambda: Ensemble(nnx.Rngs(0)), x)
    layers = ("first", "hidden", "output")

    def canonical(params):
        held = nnx.to_pure_dict(params)["members"]
        found = {}
        for n, layer in enumerate(layers):
            found[f"layer{n}/weight"] = held[layer]["kernel"]
            found[f"layer{n}/bias"] = held[layer]["bias"]
        return members(found)

    def build(values):
        made = {
            layer: {
                "kernel": stacked(values, f"layer{n}/weight"),
                "bias": stacked(values, f"layer{n}/bias"),
            }
            for n, layer in enumerate(layers)
        }
        state = jax.tree.map(lambda leaf: leaf, model.params)
        nnx.replace_by_pure_dict(state, {"members": made})
        return state

    return Built(model, (x,), canonical, build)


def equinox():
    import equinox as eqx

    class Ensemble(eqx.Module):
        members: eqx.nn.MLP

        def __init__(self, key):
            @eqx.filter_vmap
            def make(key):
                return eqx.nn.MLP(INPUTS, OUTPUTS, WIDTH, depth=2, activation=jax.nn.relu, key=key)

            self.members = make(jax.random.split(key, MEMBERS))

        def __call__(self, x):
            @eqx.filter_vmap(in_axes=(eqx.if_array(0), None))
            def evaluate(member, x):
                return member(x)

            return jnp.tensordot(jnp.asarray(SHARES), jnp.tanh(evaluate(self.members, x)), 1)

    x = shape(BATCH, INPUTS)
    model = adapter("equinox").model(lambda: Ensemble(jax.random.PRNGKey(0)), x, batched=True)

    def leaves(ensemble):
        return [leaf for layer in ensemble.members.layers for leaf in (layer.weight, layer.bias)]

    def turned(label, value):
        return np.swapaxes(value, 1, 2) if label.endswith("weight") else value

    def canonical(params):
        held = dict(zip(MEMBER, leaves(params), strict=True))
        return members({label: turned(label, np.asarray(leaf)) for label, leaf in held.items()})

    def build(values):
        made = [jnp.asarray(turned(label, stacked(values, label))) for label in MEMBER]
        return eqx.tree_at(leaves, model.params, made)

    return Built(model, (x,), canonical, build)


def haiku():
    import haiku as hk

    one = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([WIDTH, WIDTH, OUTPUTS])(x)))

    def init(rng, x):
        return jax.vmap(one.init, in_axes=(0, None))(jax.random.split(rng, MEMBERS), x)

    def apply(params, rng, x):  # noqa: ARG001  # as every hk.Transformed
        y = jax.vmap(one.apply, in_axes=(0, None))(params, x)
        return (jnp.asarray(SHARES)[:, None, None] * jnp.tanh(y)).sum(0)

    x = shape(BATCH, INPUTS)
    model = adapter("haiku").model(hk.Transformed(init, apply), x)

    def canonical(params):
        found = {}
        for n in range(len(SIZES) - 1):
            layer = params[f"mlp/~/linear_{n}"]
            found |= {f"layer{n}/weight": layer["w"], f"layer{n}/bias": layer["b"]}
        return members(found)

    def build(values):
        return {
            f"mlp/~/linear_{n}": {
                "w": stacked(values, f"layer{n}/weight"),
                "b": stacked(values, f"layer{n}/bias"),
            }
            for n in range(len(SIZES) - 1)
        }

    return Built(model, (x,), canonical, build)


BUILDS = {"linen": linen, "linen_vmap": linen_vmap, "nnx": nnx, "equinox": equinox, "haiku": haiku}
