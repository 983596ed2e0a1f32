"""A vision transformer: a convolution of patches, a class token, learned positions, a head on the token.

Linen has a `nn.Conv`, `nn.MultiHeadDotProductAttention`, and norms all tokens before it takes the first. NNX
has `nnx.MultiHeadAttention` and takes the first token before the last norm. Equinox works on one image,
channels first (convolution weights are out, in, height, width, their bias is (out, 1, 1), dense weights out,
in), with `eqx.nn.MultiheadAttention` and an `eqx.nn.Sequential` of which the second layer has no arrays.
Haiku has both blocks in one `hk.layer_stack`: each leaf there holds both blocks', one after the other, and
query, key and value are one layer. A key's bias adds the same to all scores of a query, so it changes
nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np

from architectures import Built, nested, shape
from leafreport import adapter

BATCH, HEIGHT, BREADTH, COLOURS, PATCH = 7, 8, 16, 3, 4
WIDTH, HEADS, HIDDEN, CLASSES, BLOCKS = 10, 2, 14, 6, 2
SIZE = WIDTH // HEADS
TOKENS = (HEIGHT // PATCH) * (BREADTH // PATCH) + 1
EPSILON = 1e-6
X = shape(BATCH, HEIGHT, BREADTH, COLOURS)

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
    "patch.kernel": (PATCH, PATCH, COLOURS, WIDTH),
    "patch.bias": (WIDTH,),
    "class_token": (WIDTH,),
    "positions": (TOKENS, WIDTH),
    **{f"block{n}.{label}": sizes for n in range(BLOCKS) for label, sizes in BLOCK.items()},
    "norm.scale": (WIDTH,),
    "norm.bias": (WIDTH,),
    "head.kernel": (WIDTH, CLASSES),
    "head.bias": (CLASSES,),
}
SILENT = {f"block{n}.key.bias" for n in range(BLOCKS)}

# How `nn.MultiHeadDotProductAttention` and `nnx.MultiHeadAttention` keep theirs.
BY_HEAD = {
    **dict.fromkeys(("query.kernel", "key.kernel", "value.kernel"), (WIDTH, HEADS, SIZE)),
    **dict.fromkeys(("query.bias", "key.bias", "value.bias"), (HEADS, SIZE)),
    "out.kernel": (HEADS, SIZE, WIDTH),
}


def by_block(names, above):
    """Of all that `BLOCK` labels, path and shape; `names` has the layers' paths below that of a block."""
    return {
        f"block{n}.{label}": (f"{above.format(n)}/{names[layer]}/{leaf}", BY_HEAD.get(label, sizes))
        for n in range(BLOCKS)
        for label, sizes in BLOCK.items()
        for layer, leaf in [label.split(".")]
    }


def linen():
    import flax.linen as nn
    from flax.traverse_util import flatten_dict

    class Encoder1DBlock(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            x = nn.LayerNorm(epsilon=EPSILON)(inputs)
            x = nn.MultiHeadDotProductAttention(num_heads=HEADS, deterministic=True)(x, x)
            x = x + inputs
            y = nn.LayerNorm(epsilon=EPSILON)(x)
            y = nn.gelu(nn.Dense(HIDDEN)(y), approximate=False)
            return x + nn.Dense(x.shape[-1])(y)

    class VisionTransformer(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(WIDTH, (PATCH, PATCH), strides=(PATCH, PATCH), padding="VALID", name="embedding")(x)
            n, h, w, c = x.shape
            x = jnp.reshape(x, [n, h * w, c])
            cls = self.param("cls", nn.initializers.zeros, (1, 1, c))
            x = jnp.concatenate([jnp.tile(cls, [n, 1, 1]), x], axis=1)
            x = x + self.param("pos_embedding", nn.initializers.normal(0.02), (1, x.shape[1], c))
            for lyr in range(BLOCKS):
                x = Encoder1DBlock(name=f"encoderblock_{lyr}")(x)
            x = nn.LayerNorm(epsilon=EPSILON, name="encoder_norm")(x)
            return nn.Dense(CLASSES, name="head")(x[:, 0])

    names = {
        "norm1": "LayerNorm_0",
        "query": "MultiHeadDotProductAttention_0/query",
        "key": "MultiHeadDotProductAttention_0/key",
        "value": "MultiHeadDotProductAttention_0/value",
        "out": "MultiHeadDotProductAttention_0/out",
        "norm2": "LayerNorm_1",
        "up": "Dense_0",
        "down": "Dense_1",
    }
    places = {
        "patch.kernel": ("params/embedding/kernel", (PATCH, PATCH, COLOURS, WIDTH)),
        "patch.bias": ("params/embedding/bias", (WIDTH,)),
        "class_token": ("params/cls", (1, 1, WIDTH)),
        "positions": ("params/pos_embedding", (1, TOKENS, WIDTH)),
        **by_block(names, "params/encoderblock_{}"),
        "norm.scale": ("params/encoder_norm/scale", (WIDTH,)),
        "norm.bias": ("params/encoder_norm/bias", (WIDTH,)),
        "head.kernel": ("params/head/kernel", (WIDTH, CLASSES)),
        "head.bias": ("params/head/bias", (CLASSES,)),
    }

    def canonical(params):
        flat = flatten_dict(params, sep="/")
        return {label: flat[path].reshape(SHAPES[label]) for label, (path, _) in places.items()}

    def build(values):
        return nested({path: values[label].reshape(sizes) for label, (path, sizes) in places.items()})

    return Built(adapter("flax").model(VisionTransformer(), X), (X,), canonical, build)


def nnx():
    from flax import nnx

    class TransformerEncoder(nnx.Module):
        def __init__(self, *, rngs):
            self.norm1 = nnx.LayerNorm(WIDTH, epsilon=EPSILON, rngs=rngs)
            self.attn = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
            self.norm2 = nnx.LayerNorm(WIDTH, epsilon=EPSILON, rngs=rngs)
            self.linear1 = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
            self.linear2 = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

        def __call__(self, x):
            x = x + self.attn(self.norm1(x))
            return x + self.linear2(nnx.gelu(self.linear1(self.norm2(x)), approximate=False))

    class VisionTransformer(nnx.Module):
        def __init__(self, *, rngs):
            patches = (PATCH, PATCH)
            self.patch_embeddings = nnx.Conv(
                COLOURS, WIDTH, kernel_size=patches, strides=patches, padding="VALID", rngs=rngs
            )
            normal = nnx.initializers.truncated_normal(stddev=0.02)
            self.position_embeddings = nnx.Param(normal(rngs.params(), (1, TOKENS, WIDTH)))
            self.cls_token = nnx.Param(jnp.zeros((1, 1, WIDTH)))
            self.encoder = nnx.List([TransformerEncoder(rngs=rngs) for _ in range(BLOCKS)])
            self.final_norm = nnx.LayerNorm(WIDTH, epsilon=EPSILON, rngs=rngs)
            self.classifier = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

        def __call__(self, x):
            patches = self.patch_embeddings(x)
            batch = patches.shape[0]
            patches = patches.reshape(batch, -1, WIDTH)
            token = jnp.broadcast_to(self.cls_token[...], (batch, 1, WIDTH))
            x = jnp.concat([token, patches], axis=1) + self.position_embeddings
            for block in self.encoder:
                x = block(x)
            return self.classifier(self.final_norm(x[:, 0]))

    model = adapter("nnx").model(lambda: VisionTransformer(rngs=nnx.Rngs(0)), X)
    names = {
        "norm1": "norm1",
        "query": "attn/query",
        "key": "attn/key",
        "value": "attn/value",
        "out": "attn/out",
        "norm2": "norm2",
        "up": "linear1",
        "down": "linear2",
    }
    places = {
        "patch.kernel": ("patch_embeddings/kernel", (PATCH, PATCH, COLOURS, WIDTH)),
        "patch.bias": ("patch_embeddings/bias", (WIDTH,)),
        "class_token": ("cls_token", (1, 1, WIDTH)),
        "positions": ("position_embeddings", (1, TOKENS, WIDTH)),
        **by_block(names, "encoder/{}"),
        "norm.scale": ("final_norm/scale", (WIDTH,)),
        "norm.bias": ("final_norm/bias", (WIDTH,)),
        "head.kernel": ("classifier/kernel", (WIDTH, CLASSES)),
        "head.bias": ("classifier/bias", (CLASSES,)),
    }

    def canonical(params):
        flat = {"/".join(map(str, path)): variable[...] for path, variable in nnx.to_flat_state(params)}
        return {label: flat[path].reshape(SHAPES[label]) for label, (path, _) in places.items()}

    def build(values):
        made = {path: values[label].reshape(sizes) for label, (path, sizes) in places.items()}
        state = jax.tree.map(lambda leaf: leaf, model.params)
        nnx.replace_by_pure_dict(state, nested(made))
        return state

    return Built(model, (X,), canonical, build)


def equinox():
    import equinox as eqx

    class Block(eqx.Module):
        attention: eqx.nn.MultiheadAttention
        attention_norm: eqx.nn.LayerNorm
        mlp: eqx.nn.Sequential
        mlp_norm: eqx.nn.LayerNorm

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            biases = dict.fromkeys([f"use_{name}_bias" for name in ("query", "key", "value", "output")], True)
            self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, **biases, key=keys[0])
            self.attention_norm = eqx.nn.LayerNorm(WIDTH, eps=EPSILON)
            self.mlp = eqx.nn.Sequential(
                [
                    eqx.nn.Linear(WIDTH, HIDDEN, key=keys[1]),
                    eqx.nn.Lambda(lambda x: jax.nn.gelu(x, approximate=False)),
                    eqx.nn.Linear(HIDDEN, WIDTH, key=keys[2]),
                ]
            )
            self.mlp_norm = eqx.nn.LayerNorm(WIDTH, eps=EPSILON)

        def __call__(self, x):
            y = jax.vmap(self.attention_norm)(x)
            x = x + self.attention(y, y, y)
            return x + jax.vmap(self.mlp)(jax.vmap(self.mlp_norm)(x))

    class VisionTransformer(eqx.Module):
        patch_embedding: eqx.nn.Conv2d
        positional_embedding: jax.Array
        cls_token: jax.Array
        blocks: list[Block]
        norm: eqx.nn.LayerNorm
        head: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, 4 + BLOCKS)
            self.patch_embedding = eqx.nn.Conv2d(COLOURS, WIDTH, PATCH, stride=PATCH, key=keys[0])
            self.positional_embedding = jax.random.normal(keys[1], (TOKENS, WIDTH))
            self.cls_token = jax.random.normal(keys[2], (1, WIDTH))
            self.blocks = [Block(k) for k in keys[4:]]
            self.norm = eqx.nn.LayerNorm(WIDTH, eps=EPSILON)
            self.head = eqx.nn.Linear(WIDTH, CLASSES, key=keys[3])

        def __call__(self, x):
            patches = self.patch_embedding(x).reshape(WIDTH, -1).T
            x = jnp.concatenate((self.cls_token, patches), axis=0) + self.positional_embedding
            for block in self.blocks:
                x = block(x)
            return self.head(jax.vmap(self.norm)(x)[0])

    channels_first = shape(BATCH, COLOURS, HEIGHT, BREADTH)
    model = adapter("equinox").model(
        lambda: VisionTransformer(jax.random.PRNGKey(0)), channels_first, batched=True
    )

    def canonical(params):
        found = dict(zip(SHAPES, equinox_leaves(params), strict=True))
        special = {
            "patch.kernel": found["patch.kernel"].transpose(2, 3, 1, 0),
            "patch.bias": found["patch.bias"].reshape(WIDTH),
            "class_token": found["class_token"].reshape(WIDTH),
            "positions": found["positions"],
        }
        return {label: leaf.T for label, leaf in found.items()} | special

    def build(values):
        special = {
            "patch.kernel": values["patch.kernel"].transpose(3, 2, 0, 1),
            "patch.bias": values["patch.bias"].reshape(WIDTH, 1, 1),
            "class_token": values["class_token"].reshape(1, WIDTH),
            "positions": values["positions"],
        }
        made = {label: value.T for label, value in values.items()} | special
        return eqx.tree_at(equinox_leaves, model.params, [made[label] for label in SHAPES])

    return Built(model, (channels_first,), canonical, build, given=lambda x: (np.moveaxis(x, -1, 1),))


def equinox_leaves(module):
    """Of the whole model, in the order of `SHAPES`."""
    layers = []
    for block in module.blocks:
        attention, (up, _, down) = block.attention, block.mlp.layers
        layers += [block.attention_norm, attention.query_proj, attention.key_proj, attention.value_proj]
        layers += [attention.output_proj, block.mlp_norm, up, down]
    patch = module.patch_embedding
    found = [patch.weight, patch.bias, module.cls_token, module.positional_embedding]
    return found + [
        leaf for layer in (*layers, module.norm, module.head) for leaf in (layer.weight, layer.bias)
    ]


def haiku():
    import haiku as hk

    def layer_norm(x, name=None):
        return hk.LayerNorm(axis=-1, create_scale=True, create_offset=True, eps=EPSILON, name=name)(x)

    def attention(x):
        batch, tokens, width = x.shape
        qkv = hk.Linear(3 * width, name="to_qkv")(x).reshape(batch, tokens, 3, HEADS, SIZE)
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        weights = jax.nn.softmax(jnp.einsum("bihd,bjhd->bhij", q, k) * SIZE**-0.5)
        y = jnp.einsum("bhij,bjhd->bihd", weights, v).reshape(batch, tokens, width)
        return hk.Linear(width, name="to_out")(y)

    def block(x):
        x = x + attention(layer_norm(x))
        y = hk.Linear(HIDDEN)(layer_norm(x))
        return x + hk.Linear(WIDTH)(jax.nn.gelu(y, approximate=False))

    def vision_transformer(x):
        x = hk.Conv2D(WIDTH, kernel_shape=PATCH, stride=PATCH, padding="VALID", name="patch_embed")(x)
        x = x.reshape(x.shape[0], -1, WIDTH)
        token = hk.get_parameter("cls_token", (WIDTH,), init=hk.initializers.RandomNormal(0.02))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, WIDTH)), x], axis=1)
        x += hk.get_parameter("pos_embed", (TOKENS, WIDTH), init=hk.initializers.RandomNormal(0.02))
        x = hk.experimental.layer_stack(BLOCKS)(block)(x)
        return hk.Linear(CLASSES, name="head")(layer_norm(x[:, 0], "norm"))

    places = {
        "patch.kernel": ("patch_embed", "w"),
        "patch.bias": ("patch_embed", "b"),
        "class_token": ("~", "cls_token"),
        "positions": ("~", "pos_embed"),
        "norm.scale": ("norm", "scale"),
        "norm.bias": ("norm", "offset"),
        "head.kernel": ("head", "w"),
        "head.bias": ("head", "b"),
    }
    stack = "__layer_stack_no_per_layer"

    def canonical(params):
        found = {label: params[module][leaf] for label, (module, leaf) in places.items()}
        below = {name.removeprefix(f"{stack}/"): leaves for name, leaves in params.items() if stack in name}
        return found | of_haiku_stack(below)

    def build(values):
        made = {f"{stack}/{name}": leaves for name, leaves in haiku_stack(values).items()}
        for label, (module, leaf) in places.items():
            made.setdefault(module, {})[leaf] = values[label]
        return made

    model = adapter("haiku").model(hk.transform(vision_transformer), X)
    return Built(model, (X,), canonical, build)


def haiku_stack(values):
    """The arrays of the stack's modules: each has both blocks'."""
    v = {label: np.stack([values[f"block{n}.{label}"] for n in range(BLOCKS)]) for label in BLOCK}
    kernels = [v["query.kernel"], v["key.kernel"], v["value.kernel"]]
    biases = [v["query.bias"], v["key.bias"], v["value.bias"]]
    return {
        "layer_norm": {"scale": v["norm1.scale"], "offset": v["norm1.bias"]},
        "to_qkv": {"w": np.concatenate(kernels, 2), "b": np.concatenate(biases, 1)},
        "to_out": {"w": v["out.kernel"], "b": v["out.bias"]},
        "layer_norm_1": {"scale": v["norm2.scale"], "offset": v["norm2.bias"]},
        "linear": {"w": v["up.kernel"], "b": v["up.bias"]},
        "linear_1": {"w": v["down.kernel"], "b": v["down.bias"]},
    }


def of_haiku_stack(p):
    """The values of all blocks, of the arrays of the stack's modules."""
    v = {}
    for layer, name in (("norm1", "layer_norm"), ("norm2", "layer_norm_1")):
        v |= {f"{layer}.scale": p[name]["scale"], f"{layer}.bias": p[name]["offset"]}
    for layer, name in (("out", "to_out"), ("up", "linear"), ("down", "linear_1")):
        v |= {f"{layer}.kernel": p[name]["w"], f"{layer}.bias": p[name]["b"]}
    v["query.kernel"], v["key.kernel"], v["value.kernel"] = np.split(p["to_qkv"]["w"], 3, 2)
    v["query.bias"], v["key.bias"], v["value.bias"] = np.split(p["to_qkv"]["b"], 3, 1)
    return {f"block{n}.{label}": value[n] for label, value in v.items() for n in range(BLOCKS)}


BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
