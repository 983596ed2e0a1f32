"""A pre-norm transformer encoder: attention with biases, an exact GELU MLP, layer norms, one more at the end.

Linen uses `nn.MultiHeadDotProductAttention`, whose kernels are (width, heads, size). NNX has one fused
`nnx.LinearGeneral` of (width, 3, heads, size) and einsums, and makes its layers in another order than it
calls them. Equinox uses `eqx.nn.MultiheadAttention`, whose biases are off unless asked for, on one example
(weights are out, in). Haiku uses `hk.MultiHeadAttention` in a plain function; it calls the output layer
`linear`, and counts the other layers through all blocks. The epsilon of the norms is set everywhere: the
defaults differ. A key's bias adds the same to all scores of a query, so it changes nothing.
"""

import jax
import numpy as np

from architectures import Built, nested, shape
from leafreport import adapter

BATCH, LENGTH, WIDTH, HEADS, HIDDEN, BLOCKS = 4, 5, 12, 2, 20, 2
SIZE = WIDTH // HEADS
EPSILON = 1e-5
X = shape(BATCH, LENGTH, WIDTH)

# Columns of query, key and value, and rows of out, are head by head.
BLOCK = {
    "norm1.scale": (WIDTH,),
    "norm1.bias": (WIDTH,),
    "query.kernel": (WIDTH, WIDTH),
    "query.bias": (WIDTH,),
    "key.kernel": (WIDTH, WIDTH),
    "key.bias": (WIDTH,),
    "value.kernel": (WIDTH, WIDTH),
    "value.bias": (WIDTH,),
    "out.kernel": (WIDTH, WIDTH),
    "out.bias": (WIDTH,),
    "norm2.scale": (WIDTH,),
    "norm2.bias": (WIDTH,),
    "up.kernel": (WIDTH, HIDDEN),
    "up.bias": (HIDDEN,),
    "down.kernel": (HIDDEN, WIDTH),
    "down.bias": (WIDTH,),
}
SHAPES = {
    **{f"block{n}.{label}": sizes for n in range(BLOCKS) for label, sizes in BLOCK.items()},
    "norm.scale": (WIDTH,),
    "norm.bias": (WIDTH,),
}
SILENT = {f"block{n}.key.bias" for n in range(BLOCKS)}


def linen():
    import flax.linen as nn
    from flax.traverse_util import flatten_dict

    class MlpBlock(nn.Module):
        hidden: int

        @nn.compact
        def __call__(self, x):
            y = nn.Dense(self.hidden)(x)
            y = nn.gelu(y, approximate=False)
            return nn.Dense(x.shape[-1])(y)

    class EncoderBlock(nn.Module):
        heads: int
        hidden: int

        @nn.compact
        def __call__(self, x):
            y = nn.LayerNorm(epsilon=EPSILON)(x)
            y = nn.MultiHeadDotProductAttention(num_heads=self.heads)(y)
            x = x + y
            y = nn.LayerNorm(epsilon=EPSILON)(x)
            y = MlpBlock(self.hidden)(y)
            return x + y

    class Encoder(nn.Module):
        @nn.compact
        def __call__(self, x):
            for n in range(BLOCKS):
                x = EncoderBlock(HEADS, HIDDEN, name=f"encoderblock_{n}")(x)
            return nn.LayerNorm(epsilon=EPSILON, name="encoder_norm")(x)

    names = {
        "norm1": "LayerNorm_0",
        "query": "MultiHeadDotProductAttention_0/query",
        "key": "MultiHeadDotProductAttention_0/key",
        "value": "MultiHeadDotProductAttention_0/value",
        "out": "MultiHeadDotProductAttention_0/out",
        "norm2": "LayerNorm_1",
        "up": "MlpBlock_0/Dense_0",
        "down": "MlpBlock_0/Dense_1",
    }
    by_head = {
        **dict.fromkeys(("query.kernel", "key.kernel", "value.kernel"), (WIDTH, HEADS, SIZE)),
        **dict.fromkeys(("query.bias", "key.bias", "value.bias"), (HEADS, SIZE)),
        "out.kernel": (HEADS, SIZE, WIDTH),
    }

    def paths():
        """Of each label, where it is and in which shape."""
        for n in range(BLOCKS):
            for label, sizes in BLOCK.items():
                layer, leaf = label.split(".")
                path = f"params/encoderblock_{n}/{names[layer]}/{leaf}"
                yield f"block{n}.{label}", path, by_head.get(label, sizes)
        yield "norm.scale", "params/encoder_norm/scale", (WIDTH,)
        yield "norm.bias", "params/encoder_norm/bias", (WIDTH,)

    def canonical(params):
        flat = flatten_dict(params, sep="/")
        return {label: flat[path].reshape(SHAPES[label]) for label, path, _ in paths()}

    def build(values):
        return nested({path: values[label].reshape(sizes) for label, path, sizes in paths()})

    return Built(adapter("flax").model(Encoder(), X), (X,), canonical, build)


def nnx():
    import jax.numpy as jnp
    from flax import nnx

    class SelfAttention(nnx.Module):
        def __init__(self, width, heads, *, rngs):
            size = width // heads
            self.scale = size**-0.5
            self.qkv = nnx.LinearGeneral(width, (3, heads, size), rngs=rngs)
            self.proj = nnx.LinearGeneral((heads, size), width, axis=(-2, -1), rngs=rngs)

        def __call__(self, x):
            qkv = self.qkv(x)
            q, k, v = qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * self.scale
            weights = jax.nn.softmax(scores, axis=-1)
            return self.proj(jnp.einsum("bhqk,bkhd->bqhd", weights, v))

    class Layer(nnx.Module):
        def __init__(self, width, heads, hidden, *, rngs):
            self.attn = SelfAttention(width, heads, rngs=rngs)
            self.fc1 = nnx.Linear(width, hidden, rngs=rngs)
            self.fc2 = nnx.Linear(hidden, width, rngs=rngs)
            self.norm1 = nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs)
            self.norm2 = nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs)

        def __call__(self, x):
            x = x + self.attn(self.norm1(x))
            return x + self.fc2(nnx.gelu(self.fc1(self.norm2(x)), approximate=False))

    class Encoder(nnx.Module):
        def __init__(self, *, rngs):
            self.layers = nnx.List([Layer(WIDTH, HEADS, HIDDEN, rngs=rngs) for _ in range(BLOCKS)])
            self.norm = nnx.LayerNorm(WIDTH, epsilon=EPSILON, rngs=rngs)

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.norm(x)

    model = adapter("nnx").model(lambda: Encoder(rngs=nnx.Rngs(0)), X)

    def canonical(params):
        p = nnx.to_pure_dict(params)
        found = {f"norm.{leaf}": value for leaf, value in p["norm"].items()}
        for n in range(BLOCKS):
            found |= {f"block{n}.{label}": value for label, value in of_nnx_layer(p["layers"][n]).items()}
        return found

    def build(values):
        blocks = [{label: values[f"block{n}.{label}"] for label in BLOCK} for n in range(BLOCKS)]
        state = jax.tree.map(lambda leaf: leaf, model.params)
        made = {
            "layers": {n: nnx_layer(v) for n, v in enumerate(blocks)},
            "norm": {"scale": values["norm.scale"], "bias": values["norm.bias"]},
        }
        nnx.replace_by_pure_dict(state, made)
        return state

    return Built(model, (X,), canonical, build)


def nnx_layer(v):
    """The arrays of one layer, of what `BLOCK` labels."""
    kernels = [v[f"{name}.kernel"].reshape(WIDTH, HEADS, SIZE) for name in ("query", "key", "value")]
    biases = [v[f"{name}.bias"].reshape(HEADS, SIZE) for name in ("query", "key", "value")]
    return {
        "attn": {
            "qkv": {"kernel": np.stack(kernels, 1), "bias": np.stack(biases)},
            "proj": {"kernel": v["out.kernel"].reshape(HEADS, SIZE, WIDTH), "bias": v["out.bias"]},
        },
        "fc1": {"kernel": v["up.kernel"], "bias": v["up.bias"]},
        "fc2": {"kernel": v["down.kernel"], "bias": v["down.bias"]},
        "norm1": {"scale": v["norm1.scale"], "bias": v["norm1.bias"]},
        "norm2": {"scale": v["norm2.scale"], "bias": v["norm2.bias"]},
    }


def of_nnx_layer(p):
    """What `BLOCK` labels, of the arrays of one layer."""
    qkv, proj = p["attn"]["qkv"], p["attn"]["proj"]
    found = {"out.kernel": proj["kernel"].reshape(WIDTH, WIDTH), "out.bias": proj["bias"]}
    for place, name in enumerate(("query", "key", "value")):
        found[f"{name}.kernel"] = qkv["kernel"][:, place].reshape(WIDTH, WIDTH)
        found[f"{name}.bias"] = qkv["bias"][place].reshape(WIDTH)
    for name, own in (("norm1", "norm1"), ("norm2", "norm2"), ("up", "fc1"), ("down", "fc2")):
        found |= {f"{name}.{leaf}": value for leaf, value in p[own].items()}
    return found


def equinox():
    import equinox as eqx

    class Block(eqx.Module):
        attention_norm: eqx.nn.LayerNorm
        attention: eqx.nn.MultiheadAttention
        mlp_norm: eqx.nn.LayerNorm
        up: eqx.nn.Linear
        down: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.attention_norm = eqx.nn.LayerNorm(WIDTH, eps=EPSILON)
            self.attention = eqx.nn.MultiheadAttention(
                num_heads=HEADS,
                query_size=WIDTH,
                use_query_bias=True,
                use_key_bias=True,
                use_value_bias=True,
                use_output_bias=True,
                key=keys[0],
            )
            self.mlp_norm = eqx.nn.LayerNorm(WIDTH, eps=EPSILON)
            self.up = eqx.nn.Linear(WIDTH, HIDDEN, key=keys[1])
            self.down = eqx.nn.Linear(HIDDEN, WIDTH, key=keys[2])

        def mlp(self, token):
            return self.down(jax.nn.gelu(self.up(self.mlp_norm(token)), approximate=False))

        def __call__(self, x):
            y = jax.vmap(self.attention_norm)(x)
            x = x + self.attention(y, y, y)
            return x + jax.vmap(self.mlp)(x)

    class Encoder(eqx.Module):
        blocks: list[Block]
        norm: eqx.nn.LayerNorm

        def __init__(self, key):
            self.blocks = [Block(k) for k in jax.random.split(key, BLOCKS)]
            self.norm = eqx.nn.LayerNorm(WIDTH, eps=EPSILON)

        def __call__(self, x):
            for block in self.blocks:
                x = block(x)
            return jax.vmap(self.norm)(x)

    model = adapter("equinox").model(lambda: Encoder(jax.random.PRNGKey(0)), X, batched=True)

    def layers(block):
        """In the order of `BLOCK`."""
        attention = block.attention
        projections = (attention.query_proj, attention.key_proj, attention.value_proj, attention.output_proj)
        return (block.attention_norm, *projections, block.mlp_norm, block.up, block.down)

    def where(module):
        """In the order of `SHAPES`."""
        found = [layer for block in module.blocks for layer in layers(block)]
        return [leaf for layer in (*found, module.norm) for leaf in (layer.weight, layer.bias)]

    def canonical(params):
        return {label: leaf.T for label, leaf in zip(SHAPES, where(params), strict=True)}

    def build(values):
        return eqx.tree_at(where, model.params, [values[label].T for label in SHAPES])

    return Built(model, (X,), canonical, build)


def haiku():
    import haiku as hk

    def layer_norm(x):
        return hk.LayerNorm(axis=-1, create_scale=True, create_offset=True, eps=EPSILON)(x)

    def encoder(x):
        initializer = hk.initializers.VarianceScaling(2 / BLOCKS)
        for _ in range(BLOCKS):
            h_norm = layer_norm(x)
            attention = hk.MultiHeadAttention(num_heads=HEADS, key_size=SIZE, w_init=initializer)
            x = x + attention(h_norm, h_norm, h_norm)
            dense_block = hk.Sequential(
                [
                    hk.Linear(HIDDEN, w_init=initializer),
                    lambda h: jax.nn.gelu(h, approximate=False),
                    hk.Linear(WIDTH, w_init=initializer),
                ]
            )
            x = x + dense_block(layer_norm(x))
        return layer_norm(x)

    names = {
        "block0.norm1": "layer_norm",
        "block0.query": "multi_head_attention/query",
        "block0.key": "multi_head_attention/key",
        "block0.value": "multi_head_attention/value",
        "block0.out": "multi_head_attention/linear",
        "block0.norm2": "layer_norm_1",
        "block0.up": "linear",
        "block0.down": "linear_1",
        "block1.norm1": "layer_norm_2",
        "block1.query": "multi_head_attention_1/query",
        "block1.key": "multi_head_attention_1/key",
        "block1.value": "multi_head_attention_1/value",
        "block1.out": "multi_head_attention_1/linear",
        "block1.norm2": "layer_norm_3",
        "block1.up": "linear_2",
        "block1.down": "linear_3",
        "norm": "layer_norm_4",
    }

    def path(label):
        layer, _, leaf = label.rpartition(".")
        leaves = {"scale": "scale", "bias": "offset"} if "norm" in label else {"kernel": "w", "bias": "b"}
        return names[layer], leaves[leaf]

    def canonical(params):
        return {label: params[module][leaf] for label in SHAPES for module, leaf in [path(label)]}

    def build(values):
        params = {module: {} for module in names.values()}
        for label, value in values.items():
            module, leaf = path(label)
            params[module][leaf] = value
        return params

    return Built(adapter("haiku").model(hk.transform(encoder), X), (X,), canonical, build)


BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
