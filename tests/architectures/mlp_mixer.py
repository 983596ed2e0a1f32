"""An MLP-Mixer: patches, blocks that mix tokens and then channels, a mean over tokens, a head.

The canonical patch embedding is a convolution's kernel, the mixing layers' kernels are in, out. gelu is the
tanh approximation.

* Linen: the form of the original: tokens are mixed between two `swapaxes`, by the same `MlpBlock` as
  channels.
* NNX: tokens are mixed by an `nnx.LinearGeneral` over their axis.
* Equinox: a CHW image at a time, `eqx.nn.MLP` under `jax.vmap`; the blocks are stacked (each of their leaves
  holds all blocks', first axis) and run in a `jax.lax.scan`.
* Haiku: the image is cut into patches by `reshape`, and embedded by a `Linear` (its input: height, width,
  channel); tokens are mixed by parameters of the block's own in an `einsum`.
"""

import numpy as np

from architectures import Built, nested, shape
from leafreport import adapter

HEIGHT, WIDTH, IN, PATCH, HIDDEN, TOKEN_MLP, CHANNEL_MLP, DEPTH, OUT, BATCH = 8, 12, 3, 4, 10, 7, 16, 2, 9, 5
TOKENS = (HEIGHT // PATCH) * (WIDTH // PATCH)
EPS = 1e-6
X = shape(BATCH, HEIGHT, WIDTH, IN)

NORM = {"scale": (HIDDEN,), "bias": (HIDDEN,)}
BLOCK = {
    **{f"token_norm.{leaf}": sizes for leaf, sizes in NORM.items()},
    "token_in.kernel": (TOKENS, TOKEN_MLP),
    "token_in.bias": (TOKEN_MLP,),
    "token_out.kernel": (TOKEN_MLP, TOKENS),
    "token_out.bias": (TOKENS,),
    **{f"channel_norm.{leaf}": sizes for leaf, sizes in NORM.items()},
    "channel_in.kernel": (HIDDEN, CHANNEL_MLP),
    "channel_in.bias": (CHANNEL_MLP,),
    "channel_out.kernel": (CHANNEL_MLP, HIDDEN),
    "channel_out.bias": (HIDDEN,),
}
SHAPES = {
    "embed.kernel": (PATCH, PATCH, IN, HIDDEN),
    "embed.bias": (HIDDEN,),
    **{f"{n}.{label}": sizes for n in range(DEPTH) for label, sizes in BLOCK.items()},
    **{f"norm.{leaf}": sizes for leaf, sizes in NORM.items()},
    "head.kernel": (HIDDEN, OUT),
    "head.bias": (OUT,),
}

# Of every token it moves all channels alike, and each LayerNorm after it takes that away.
SILENT = {f"{n}.token_out.bias" for n in range(DEPTH)}


def linen():
    import flax.linen as nn
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict

    class MlpBlock(nn.Module):
        mlp_dim: int

        @nn.compact
        def __call__(self, x):
            y = nn.Dense(self.mlp_dim)(x)
            y = nn.gelu(y)
            return nn.Dense(x.shape[-1])(y)

    class MixerBlock(nn.Module):
        tokens_mlp_dim: int
        channels_mlp_dim: int

        @nn.compact
        def __call__(self, x):
            y = nn.LayerNorm(epsilon=EPS)(x)
            y = jnp.swapaxes(y, 1, 2)
            y = MlpBlock(self.tokens_mlp_dim, name="token_mixing")(y)
            y = jnp.swapaxes(y, 1, 2)
            x = x + y
            y = nn.LayerNorm(epsilon=EPS)(x)
            return x + MlpBlock(self.channels_mlp_dim, name="channel_mixing")(y)

    class MlpMixer(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(HIDDEN, (PATCH, PATCH), strides=(PATCH, PATCH), name="stem")(x)
            x = x.reshape(x.shape[0], -1, x.shape[-1])
            for _ in range(DEPTH):
                x = MixerBlock(TOKEN_MLP, CHANNEL_MLP)(x)
            x = nn.LayerNorm(epsilon=EPS, name="pre_head_layer_norm")(x)
            return nn.Dense(OUT, name="head")(jnp.mean(x, axis=1))

    block = {
        "token_norm": "LayerNorm_0",
        "token_in": "token_mixing/Dense_0",
        "token_out": "token_mixing/Dense_1",
        "channel_norm": "LayerNorm_1",
        "channel_in": "channel_mixing/Dense_0",
        "channel_out": "channel_mixing/Dense_1",
    }
    modules = {f"{n}.{name}": f"MixerBlock_{n}/{path}" for n in range(DEPTH) for name, path in block.items()}
    modules |= {"embed": "stem", "norm": "pre_head_layer_norm", "head": "head"}

    def path(label):
        name, _, leaf = label.rpartition(".")
        return f"params/{modules[name]}/{leaf}"

    def canonical(params):
        flat = flatten_dict(params, sep="/")
        return {label: flat[path(label)] for label in SHAPES}

    def build(values):
        return nested({path(label): value for label, value in values.items()})

    return Built(adapter("flax").model(MlpMixer(), X), (X,), canonical, build)


def nnx():
    import jax
    from flax import nnx

    class MixerBlock(nnx.Module):
        def __init__(self, *, rngs):
            self.norm1 = nnx.LayerNorm(HIDDEN, epsilon=EPS, rngs=rngs)
            self.norm2 = nnx.LayerNorm(HIDDEN, epsilon=EPS, rngs=rngs)
            self.mix_channels = nnx.Sequential(
                nnx.Linear(HIDDEN, CHANNEL_MLP, rngs=rngs),
                nnx.gelu,
                nnx.Linear(CHANNEL_MLP, HIDDEN, rngs=rngs),
            )
            # Over the tokens' axis, to a last axis: batch, channels, tokens.
            self.mix_tokens = nnx.Sequential(
                nnx.LinearGeneral(TOKENS, TOKEN_MLP, axis=1, rngs=rngs),
                nnx.gelu,
                nnx.Linear(TOKEN_MLP, TOKENS, rngs=rngs),
            )

        def __call__(self, x):
            x = x + self.mix_tokens(self.norm1(x)).transpose(0, 2, 1)
            return x + self.mix_channels(self.norm2(x))

    class MlpMixer(nnx.Module):
        def __init__(self, *, rngs):
            self.patches = nnx.Conv(
                IN, HIDDEN, kernel_size=(PATCH, PATCH), strides=(PATCH, PATCH), padding="VALID", rngs=rngs
            )
            self.blocks = nnx.List([MixerBlock(rngs=rngs) for _ in range(DEPTH)])
            self.norm = nnx.LayerNorm(HIDDEN, epsilon=EPS, rngs=rngs)
            self.classifier = nnx.Linear(HIDDEN, OUT, rngs=rngs)

        def __call__(self, images):
            x = self.patches(images).reshape(images.shape[0], TOKENS, HIDDEN)
            for block in self.blocks:
                x = block(x)
            return self.classifier(self.norm(x).mean(axis=1))

    model = adapter("nnx").model(lambda: MlpMixer(rngs=nnx.Rngs(0)), X)
    block = {
        "token_norm": "norm1",
        "token_in": "mix_tokens/layers/0",
        "token_out": "mix_tokens/layers/2",
        "channel_norm": "norm2",
        "channel_in": "mix_channels/layers/0",
        "channel_out": "mix_channels/layers/2",
    }
    modules = {f"{n}.{name}": f"blocks/{n}/{path}" for n in range(DEPTH) for name, path in block.items()}
    modules |= {"embed": "patches", "norm": "norm", "head": "classifier"}

    def path(label):
        name, _, leaf = label.rpartition(".")
        return f"{modules[name]}/{leaf}"

    def canonical(params):
        flat = {"/".join(map(str, step)): variable[...] for step, variable in nnx.to_flat_state(params)}
        return {label: flat[path(label)] for label in SHAPES}

    def build(values):
        state = jax.tree.map(lambda leaf: leaf, model.params)
        nnx.replace_by_pure_dict(state, nested({path(label): value for label, value in values.items()}))
        return state

    return Built(model, (X,), canonical, build)


def equinox_mixer():
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    class MixerBlock(eqx.Module):
        patch_mixer: eqx.nn.MLP
        hidden_mixer: eqx.nn.MLP
        norm1: eqx.nn.LayerNorm
        norm2: eqx.nn.LayerNorm

        def __init__(self, key):
            tkey, ckey = jax.random.split(key)
            self.patch_mixer = eqx.nn.MLP(
                TOKENS, TOKENS, TOKEN_MLP, depth=1, activation=jax.nn.gelu, key=tkey
            )
            self.hidden_mixer = eqx.nn.MLP(
                HIDDEN, HIDDEN, CHANNEL_MLP, depth=1, activation=jax.nn.gelu, key=ckey
            )
            self.norm1 = eqx.nn.LayerNorm(HIDDEN, eps=EPS)
            self.norm2 = eqx.nn.LayerNorm(HIDDEN, eps=EPS)

        def __call__(self, y):
            normed = jax.vmap(self.norm1)(y)
            y = y + jax.vmap(self.patch_mixer, in_axes=1, out_axes=1)(normed)
            return y + jax.vmap(lambda token: self.hidden_mixer(self.norm2(token)))(y)

    class Mixer(eqx.Module):
        conv_in: eqx.nn.Conv2d
        blocks: MixerBlock
        norm: eqx.nn.LayerNorm
        linear_out: eqx.nn.Linear

        def __init__(self, key):
            inkey, outkey, *keys = jax.random.split(key, 2 + DEPTH)
            self.conv_in = eqx.nn.Conv2d(IN, HIDDEN, PATCH, stride=PATCH, key=inkey)
            self.blocks = eqx.filter_vmap(MixerBlock)(jnp.stack(keys))
            self.norm = eqx.nn.LayerNorm(HIDDEN, eps=EPS)
            self.linear_out = eqx.nn.Linear(HIDDEN, OUT, key=outkey)

        def __call__(self, image):
            y = self.conv_in(image)
            y = y.reshape(HIDDEN, TOKENS).T
            arrays, rest = eqx.partition(self.blocks, eqx.is_inexact_array)

            def step(y, layer):
                return eqx.combine(layer, rest)(y), None

            y, _ = jax.lax.scan(step, y, arrays)
            return self.linear_out(jnp.mean(jax.vmap(self.norm)(y), axis=0))

    return Mixer(jax.random.PRNGKey(0))


def equinox():
    import equinox as eqx

    x = shape(BATCH, IN, HEIGHT, WIDTH)
    model = adapter("equinox").model(equinox_mixer, x, batched=True)

    def block_leaves(blocks):
        tokens, channels = blocks.patch_mixer.layers, blocks.hidden_mixer.layers
        return {
            "token_norm.scale": blocks.norm1.weight,
            "token_norm.bias": blocks.norm1.bias,
            "token_in.kernel": tokens[0].weight,
            "token_in.bias": tokens[0].bias,
            "token_out.kernel": tokens[1].weight,
            "token_out.bias": tokens[1].bias,
            "channel_norm.scale": blocks.norm2.weight,
            "channel_norm.bias": blocks.norm2.bias,
            "channel_in.kernel": channels[0].weight,
            "channel_in.bias": channels[0].bias,
            "channel_out.kernel": channels[1].weight,
            "channel_out.bias": channels[1].bias,
        }

    def canonical(params):
        values = {
            "embed.kernel": params.conv_in.weight.transpose(2, 3, 1, 0),
            "embed.bias": params.conv_in.bias.reshape(-1),
            "norm.scale": params.norm.weight,
            "norm.bias": params.norm.bias,
            "head.kernel": params.linear_out.weight.T,
            "head.bias": params.linear_out.bias,
        }
        for label, stacked in block_leaves(params.blocks).items():
            # A bias or a scale is its own transpose.
            values |= {f"{n}.{label}": stacked[n].T for n in range(DEPTH)}
        return values

    def build(values):
        def where(module):
            conv, norm, linear = module.conv_in, module.norm, module.linear_out
            outer = [conv.weight, conv.bias, norm.weight, norm.bias, linear.weight, linear.bias]
            return [*outer, *block_leaves(module.blocks).values()]

        leaves = [
            values["embed.kernel"].transpose(3, 2, 0, 1),
            values["embed.bias"].reshape(-1, 1, 1),
            values["norm.scale"],
            values["norm.bias"],
            values["head.kernel"].T,
            values["head.bias"],
            *(np.stack([values[f"{n}.{label}"].T for n in range(DEPTH)]) for label in BLOCK),
        ]
        return eqx.tree_at(where, model.params, leaves)

    return Built(model, (x,), canonical, build, given=lambda x: (x.transpose(0, 3, 1, 2),))


def haiku():
    import haiku as hk
    import jax
    import jax.numpy as jnp

    def norm(name):
        return hk.LayerNorm(axis=-1, create_scale=True, create_offset=True, eps=EPS, name=name)

    class TokenMixing(hk.Module):
        def __call__(self, x):
            init = hk.initializers.TruncatedNormal(0.02)
            tokens = x.shape[-2]
            w_in = hk.get_parameter("w_in", [tokens, TOKEN_MLP], init=init)
            b_in = hk.get_parameter("b_in", [TOKEN_MLP], init=jnp.zeros)
            w_out = hk.get_parameter("w_out", [TOKEN_MLP, tokens], init=init)
            b_out = hk.get_parameter("b_out", [tokens], init=jnp.zeros)
            h = jax.nn.gelu(jnp.einsum("btc,th->bhc", x, w_in) + b_in[:, None])
            return jnp.einsum("bhc,ht->btc", h, w_out) + b_out[:, None]

    class Block(hk.Module):
        def __call__(self, x):
            x += TokenMixing(name="tokens")(norm("norm_tokens")(x))
            return x + hk.nets.MLP([CHANNEL_MLP, HIDDEN], activation=jax.nn.gelu)(norm("norm_channels")(x))

    @hk.without_apply_rng
    @hk.transform
    def mixer(images):
        batch, height, width, channels = images.shape
        x = images.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, PATCH * PATCH * channels)
        x = hk.Linear(HIDDEN, name="embed")(x)
        for _ in range(DEPTH):
            x = Block()(x)
        x = norm("norm")(x)
        return hk.Linear(OUT)(x.mean(1))

    block = {
        "token_norm.scale": ("norm_tokens", "scale"),
        "token_norm.bias": ("norm_tokens", "offset"),
        "token_in.kernel": ("tokens", "w_in"),
        "token_in.bias": ("tokens", "b_in"),
        "token_out.kernel": ("tokens", "w_out"),
        "token_out.bias": ("tokens", "b_out"),
        "channel_norm.scale": ("norm_channels", "scale"),
        "channel_norm.bias": ("norm_channels", "offset"),
        "channel_in.kernel": ("mlp/~/linear_0", "w"),
        "channel_in.bias": ("mlp/~/linear_0", "b"),
        "channel_out.kernel": ("mlp/~/linear_1", "w"),
        "channel_out.bias": ("mlp/~/linear_1", "b"),
    }
    places = {
        "embed.kernel": ("embed", "w"),
        "embed.bias": ("embed", "b"),
        "norm.scale": ("norm", "scale"),
        "norm.bias": ("norm", "offset"),
        "head.kernel": ("linear", "w"),
        "head.bias": ("linear", "b"),
    }
    for n in range(DEPTH):
        own = f"block_{n}" if n else "block"
        places |= {f"{n}.{label}": (f"{own}/{module}", leaf) for label, (module, leaf) in block.items()}

    def canonical(params):
        values = {label: params[module][leaf] for label, (module, leaf) in places.items()}
        return values | {"embed.kernel": values["embed.kernel"].reshape(PATCH, PATCH, IN, HIDDEN)}

    def build(values):
        params = {module: {} for module, _ in places.values()}
        for label, (module, leaf) in places.items():
            params[module][leaf] = values[label]
        params["embed"]["w"] = values["embed.kernel"].reshape(PATCH * PATCH * IN, HIDDEN)
        return params

    return Built(adapter("haiku").model(mixer, X), (X,), canonical, build)


BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
