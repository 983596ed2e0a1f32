"""Four residual MLP blocks: in a Python loop, or in one scan over params that hold all blocks.

A block is `x + down(gelu(up(norm(x))))`. With `linen` every block has leaves of its own. In all others a leaf
holds the four blocks, the block is its first axis: `nn.scan` (`linen_scan`), `nnx.vmap` to make and
`nnx.scan` to run, `eqx.filter_vmap` to make and `jax.lax.scan` to run, `hk.layer_stack`. A stack of biases is
a matrix, then. Linen and NNX norms have an epsilon of 1e-6 by default, Equinox's and Haiku's are told so.
"""

import jax
import jax.numpy as jnp
import numpy as np

from architectures import Built, nested, shape
from leafreport import adapter

WIDTH, HIDDEN, DEPTH, BATCH = 6, 12, 4, 3

BLOCK = {
    "norm/scale": (WIDTH,),
    "norm/bias": (WIDTH,),
    "up/weight": (WIDTH, HIDDEN),
    "up/bias": (HIDDEN,),
    "down/weight": (HIDDEN, WIDTH),
    "down/bias": (WIDTH,),
}
SHAPES = {f"block{n}/{label}": sizes for n in range(DEPTH) for label, sizes in BLOCK.items()}


def stacked(values, label):
    """All blocks' values of one label, the block first."""
    return np.stack([values[f"block{n}/{label}"] for n in range(DEPTH)])


def blocks(held):
    """The values by block, of what all blocks have by label."""
    return {f"block{n}/{label}": np.asarray(held[label])[n] for n in range(DEPTH) for label in BLOCK}


LINEN = {
    "norm/scale": "LayerNorm_0/scale",
    "norm/bias": "LayerNorm_0/bias",
    "up/weight": "Dense_0/kernel",
    "up/bias": "Dense_0/bias",
    "down/weight": "Dense_1/kernel",
    "down/bias": "Dense_1/bias",
}


def linen():
    import flax.linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.LayerNorm()(x)
            y = nn.Dense(HIDDEN)(y)
            y = nn.gelu(y)
            return x + nn.Dense(WIDTH)(y)

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(DEPTH):
                x = Block()(x)
            return x

    def canonical(params):
        held = params["params"]
        found = {}
        for n in range(DEPTH):
            for label, place in LINEN.items():
                layer, leaf = place.split("/")
                found[f"block{n}/{label}"] = np.asarray(held[f"Block_{n}"][layer][leaf])
        return found

    def build(values):
        places = [(n, label, place) for n in range(DEPTH) for label, place in LINEN.items()]
        return nested(
            {f"params/Block_{n}/{place}": values[f"block{n}/{label}"] for n, label, place in places}
        )

    x = shape(BATCH, WIDTH)
    return Built(adapter("flax").model(Stack(), x), (x,), canonical, build)


def linen_scan():
    import flax.linen as nn

    class Block(nn.Module):
        hidden: int

        @nn.compact
        def __call__(self, x, _):
            y = nn.Dense(self.hidden)(nn.LayerNorm()(x))
            y = nn.Dense(x.shape[-1])(nn.gelu(y))
            return x + y, None

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            scanned = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=DEPTH)
            x, _ = scanned(HIDDEN, name="layers")(x, None)
            return x

    def canonical(params):
        held = params["params"]["layers"]
        parts = {label: place.split("/") for label, place in LINEN.items()}
        return blocks({label: held[layer][leaf] for label, (layer, leaf) in parts.items()})

    def build(values):
        return nested({f"params/layers/{place}": stacked(values, label) for label, place in LINEN.items()})

    x = shape(BATCH, WIDTH)
    return Built(adapter("flax").model(Stack(), x), (x,), canonical, build)


def nnx():
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
            self.up = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
            self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

        def __call__(self, x):
            return x + self.down(nnx.gelu(self.up(self.norm(x))))

    class Stack(nnx.Module):
        def __init__(self, rngs):
            @nnx.split_rngs(splits=DEPTH)
            @nnx.vmap(in_axes=(0,), out_axes=0)
            def make(rngs):
                return Block(rngs)

            self.blocks = make(rngs)

        def __call__(self, x):
            @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            def forward(x, block):
                return block(x)

            return forward(x, self.blocks)

    x = shape(BATCH, WIDTH)
    model = adapter("nnx").model(lambda: Stack(nnx.Rngs(0)), x)
    leaves = {
        "norm/scale": ("norm", "scale"),
        "norm/bias": ("norm", "bias"),
        "up/weight": ("up", "kernel"),
        "up/bias": ("up", "bias"),
        "down/weight": ("down", "kernel"),
        "down/bias": ("down", "bias"),
    }

    def canonical(params):
        held = nnx.to_pure_dict(params)["blocks"]
        return blocks({label: held[layer][leaf] for label, (layer, leaf) in leaves.items()})

    def build(values):
        state = jax.tree.map(lambda leaf: leaf, model.params)
        made = nested(
            {"blocks/" + "/".join(place): stacked(values, label) for label, place in leaves.items()}
        )
        nnx.replace_by_pure_dict(state, made)
        return state

    return Built(model, (x,), canonical, build)


def equinox():
    import equinox as eqx

    class Block(eqx.Module):
        down: eqx.nn.Linear
        up: eqx.nn.Linear
        norm: eqx.nn.LayerNorm

        def __init__(self, key):
            up_key, down_key = jax.random.split(key)
            self.norm = eqx.nn.LayerNorm(WIDTH, eps=1e-6)
            self.up = eqx.nn.Linear(WIDTH, HIDDEN, key=up_key)
            self.down = eqx.nn.Linear(HIDDEN, WIDTH, key=down_key)

        def __call__(self, x):
            return x + self.down(jax.nn.gelu(self.up(self.norm(x))))

    class Stack(eqx.Module):
        blocks: Block

        def __init__(self, key):
            self.blocks = eqx.filter_vmap(Block)(jax.random.split(key, DEPTH))

        def __call__(self, x):
            arrays, rest = eqx.partition(self.blocks, eqx.is_array)

            def step(x, arrays):
                return eqx.combine(arrays, rest)(x), None

            return jax.lax.scan(step, x, arrays)[0]

    x = shape(BATCH, WIDTH)
    model = adapter("equinox").model(lambda: Stack(jax.random.PRNGKey(0)), x, batched=True)

    def leaves(stack):
        held = stack.blocks
        return {
            "norm/scale": held.norm.weight,
            "norm/bias": held.norm.bias,
            "up/weight": held.up.weight,
            "up/bias": held.up.bias,
            "down/weight": held.down.weight,
            "down/bias": held.down.bias,
        }

    def turned(label, value):
        return np.swapaxes(value, 1, 2) if label.endswith("weight") else value

    def canonical(params):
        return blocks({label: turned(label, np.asarray(leaf)) for label, leaf in leaves(params).items()})

    def build(values):
        made = [jnp.asarray(turned(label, stacked(values, label))) for label in BLOCK]
        return eqx.tree_at(lambda stack: list(leaves(stack).values()), model.params, made)

    return Built(model, (x,), canonical, build)


def haiku():
    import haiku as hk

    class Block(hk.Module):
        def __call__(self, x):
            y = hk.LayerNorm(axis=-1, create_scale=True, create_offset=True, eps=1e-6)(x)
            y = jax.nn.gelu(hk.Linear(HIDDEN, name="expand")(y))
            return x + hk.Linear(WIDTH, name="project")(y)

    def forward(x):
        return hk.layer_stack(DEPTH)(lambda x: Block()(x))(x)

    x = shape(BATCH, WIDTH)
    model = adapter("haiku").model(hk.without_apply_rng(hk.transform(forward)), x)
    leaves = {
        "norm/scale": ("layer_norm", "scale"),
        "norm/bias": ("layer_norm", "offset"),
        "up/weight": ("expand", "w"),
        "up/bias": ("expand", "b"),
        "down/weight": ("project", "w"),
        "down/bias": ("project", "b"),
    }
    prefix = "__layer_stack_no_per_layer/block/"

    def canonical(params):
        return blocks({label: params[prefix + layer][leaf] for label, (layer, leaf) in leaves.items()})

    def build(values):
        made = {}
        for label, (layer, leaf) in leaves.items():
            made.setdefault(prefix + layer, {})[leaf] = stacked(values, label)
        return made

    return Built(model, (x,), canonical, build)


BUILDS = {"linen": linen, "linen_scan": linen_scan, "nnx": nnx, "equinox": equinox, "haiku": haiku}
