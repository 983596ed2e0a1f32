"""A Llama-like decoder: rotary embeddings, four query heads to two key heads, SwiGLU, an untied head.

Rotary embeddings turn pairs of a head's features. Linen, NNX and Equinox pair feature j with j + size / 2,
Haiku pairs neighbours (2j with 2j + 1): there the columns of query and key are those of the others in another
order, and all else is the same. Linen has `nn.DenseGeneral` kernels of (width, heads, size) and repeats keys
and values. NNX has flat projections, gate and up in one fused layer, and `jax.nn.dot_product_attention`,
which takes fewer key heads. Equinox has three SwiGLU layers called w1, w3 and w2, the framework's own rotary
layer, and query heads in groups. Haiku names layers after the method that makes them, where it is not the
call. The heads of one group stand side by side in all of them.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from architectures import Built, nested, shape
from leafreport import adapter

BATCH, LENGTH, WORDS, WIDTH, HEADS, GROUPS, SIZE, HIDDEN, BLOCKS = 7, 5, 17, 10, 4, 2, 6, 14, 2
EPSILON, THETA = 1e-6, 10_000.0
TOKENS = shape(BATCH, LENGTH, dtype=jnp.int32)

# Columns of query, key and value, and rows of out, are head by head; a head's first half is paired with its
# second.
BLOCK = {
    "norm1.scale": (WIDTH,),
    "query.kernel": (WIDTH, HEADS * SIZE),
    "key.kernel": (WIDTH, GROUPS * SIZE),
    "value.kernel": (WIDTH, GROUPS * SIZE),
    "out.kernel": (HEADS * SIZE, WIDTH),
    "norm2.scale": (WIDTH,),
    "gate.kernel": (WIDTH, HIDDEN),
    "up.kernel": (WIDTH, HIDDEN),
    "down.kernel": (HIDDEN, WIDTH),
}
SHAPES = {
    "embedding": (WORDS, WIDTH),
    **{f"block{n}.{label}": sizes for n in range(BLOCKS) for label, sizes in BLOCK.items()},
    "norm.scale": (WIDTH,),
    "head.kernel": (WIDTH, WORDS),
}


def of_blocks(values):
    """What `BLOCK` labels, block by block."""
    return [{label: values[f"block{n}.{label}"] for label in BLOCK} for n in range(BLOCKS)]


def numbered(blocks):
    """The other way around."""
    return {f"block{n}.{label}": value for n, block in enumerate(blocks) for label, value in block.items()}


def linen():
    import flax.linen as nn
    from flax.traverse_util import flatten_dict

    def apply_rope(x):
        positions = jnp.arange(x.shape[1])[:, None]
        angles = positions / THETA ** (jnp.arange(0, SIZE, 2) / SIZE)
        sin, cos = jnp.sin(angles)[:, None, :], jnp.cos(angles)[:, None, :]
        first, second = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x):
            length = x.shape[1]
            q = nn.DenseGeneral((HEADS, SIZE), use_bias=False, name="q")(x)
            k = nn.DenseGeneral((GROUPS, SIZE), use_bias=False, name="k")(x)
            v = nn.DenseGeneral((GROUPS, SIZE), use_bias=False, name="v")(x)
            q, k = apply_rope(q), apply_rope(k)
            k, v = (jnp.repeat(each, HEADS // GROUPS, axis=2) for each in (k, v))
            mask = nn.make_causal_mask(jnp.ones((1, length)))
            y = nn.dot_product_attention(q, k, v, mask=mask)
            return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), use_bias=False, name="o")(y)

    class Mlp(nn.Module):
        @nn.compact
        def __call__(self, x):
            gate = nn.silu(nn.Dense(HIDDEN, use_bias=False, name="wi_0")(x))
            return nn.Dense(x.shape[-1], use_bias=False, name="wo")(
                gate * nn.Dense(HIDDEN, use_bias=False, name="wi_1")(x)
            )

    class Decoder(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            x = nn.Embed(WORDS, WIDTH, name="token_embedder")(tokens)
            for n in range(BLOCKS):
                y = nn.RMSNorm(epsilon=EPSILON, name=f"pre_attention_norm_{n}")(x)
                x = x + Attention(name=f"attention_{n}")(y)
                y = nn.RMSNorm(epsilon=EPSILON, name=f"pre_mlp_norm_{n}")(x)
                x = x + Mlp(name=f"mlp_{n}")(y)
            x = nn.RMSNorm(epsilon=EPSILON, name="decoder_norm")(x)
            return nn.Dense(WORDS, use_bias=False, name="logits_dense")(x)

    leaves = {
        "norm1.scale": ("pre_attention_norm_{}/scale", (WIDTH,)),
        "query.kernel": ("attention_{}/q/kernel", (WIDTH, HEADS, SIZE)),
        "key.kernel": ("attention_{}/k/kernel", (WIDTH, GROUPS, SIZE)),
        "value.kernel": ("attention_{}/v/kernel", (WIDTH, GROUPS, SIZE)),
        "out.kernel": ("attention_{}/o/kernel", (HEADS, SIZE, WIDTH)),
        "norm2.scale": ("pre_mlp_norm_{}/scale", (WIDTH,)),
        "gate.kernel": ("mlp_{}/wi_0/kernel", (WIDTH, HIDDEN)),
        "up.kernel": ("mlp_{}/wi_1/kernel", (WIDTH, HIDDEN)),
        "down.kernel": ("mlp_{}/wo/kernel", (HIDDEN, WIDTH)),
    }
    places = {
        "embedding": ("params/token_embedder/embedding", (WORDS, WIDTH)),
        **{
            f"block{n}.{label}": (f"params/{path.format(n)}", sizes)
            for n in range(BLOCKS)
            for label, (path, sizes) in leaves.items()
        },
        "norm.scale": ("params/decoder_norm/scale", (WIDTH,)),
        "head.kernel": ("params/logits_dense/kernel", (WIDTH, WORDS)),
    }

    def canonical(params):
        flat = flatten_dict(params, sep="/")
        return {label: flat[path].reshape(SHAPES[label]) for label, (path, _) in places.items()}

    def build(values):
        return nested({path: values[label].reshape(sizes) for label, (path, sizes) in places.items()})

    return Built(adapter("flax").model(Decoder(), TOKENS), (TOKENS,), canonical, build)


def rotate_half(x):
    return jnp.concatenate([-x[..., SIZE // 2 :], x[..., : SIZE // 2]], axis=-1)


def nnx():
    from flax import nnx

    class Attention(nnx.Module):
        def __init__(self, *, rngs):
            self.q_proj = nnx.Linear(WIDTH, HEADS * SIZE, use_bias=False, rngs=rngs)
            self.k_proj = nnx.Linear(WIDTH, GROUPS * SIZE, use_bias=False, rngs=rngs)
            self.v_proj = nnx.Linear(WIDTH, GROUPS * SIZE, use_bias=False, rngs=rngs)
            self.o_proj = nnx.Linear(HEADS * SIZE, WIDTH, use_bias=False, rngs=rngs)

        def __call__(self, x, cos, sin):
            batch, length, _ = x.shape
            q = self.q_proj(x).reshape(batch, length, HEADS, SIZE)
            k = self.k_proj(x).reshape(batch, length, GROUPS, SIZE)
            v = self.v_proj(x).reshape(batch, length, GROUPS, SIZE)
            q = q * cos + rotate_half(q) * sin
            k = k * cos + rotate_half(k) * sin
            y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
            return self.o_proj(y.reshape(batch, length, HEADS * SIZE))

    class MLP(nnx.Module):
        def __init__(self, *, rngs):
            self.gate_up_proj = nnx.Linear(WIDTH, 2 * HIDDEN, use_bias=False, rngs=rngs)
            self.down_proj = nnx.Linear(HIDDEN, WIDTH, use_bias=False, rngs=rngs)

        def __call__(self, x):
            gate, up = jnp.split(self.gate_up_proj(x), 2, axis=-1)
            return self.down_proj(up * nnx.silu(gate))

    class DecoderLayer(nnx.Module):
        def __init__(self, *, rngs):
            self.self_attn = Attention(rngs=rngs)
            self.mlp = MLP(rngs=rngs)
            self.input_layernorm = nnx.RMSNorm(WIDTH, epsilon=EPSILON, rngs=rngs)
            self.post_attention_layernorm = nnx.RMSNorm(WIDTH, epsilon=EPSILON, rngs=rngs)

        def __call__(self, x, cos, sin):
            x = x + self.self_attn(self.input_layernorm(x), cos, sin)
            return x + self.mlp(self.post_attention_layernorm(x))

    class Decoder(nnx.Module):
        def __init__(self, *, rngs):
            self.embed_tokens = nnx.Embed(WORDS, WIDTH, rngs=rngs)
            self.layers = nnx.List([DecoderLayer(rngs=rngs) for _ in range(BLOCKS)])
            self.norm = nnx.RMSNorm(WIDTH, epsilon=EPSILON, rngs=rngs)
            self.lm_head = nnx.Linear(WIDTH, WORDS, use_bias=False, rngs=rngs)

        def __call__(self, tokens):
            frequencies = 1.0 / THETA ** (jnp.arange(0, SIZE, 2, dtype=jnp.float32) / SIZE)
            angles = jnp.outer(jnp.arange(tokens.shape[1], dtype=jnp.float32), frequencies)
            angles = jnp.concatenate([angles, angles], axis=-1)[None, :, None, :]
            cos, sin = jnp.cos(angles), jnp.sin(angles)
            x = self.embed_tokens(tokens)
            for layer in self.layers:
                x = layer(x, cos, sin)
            return self.lm_head(self.norm(x))

    model = adapter("nnx").model(lambda: Decoder(rngs=nnx.Rngs(0)), TOKENS)

    def canonical(params):
        p = nnx.to_pure_dict(params)
        return {
            "embedding": p["embed_tokens"]["embedding"],
            **numbered(of_nnx_layer(p["layers"][n]) for n in range(BLOCKS)),
            "norm.scale": p["norm"]["scale"],
            "head.kernel": p["lm_head"]["kernel"],
        }

    def build(values):
        state = jax.tree.map(lambda leaf: leaf, model.params)
        made = {
            "embed_tokens": {"embedding": values["embedding"]},
            "layers": dict(enumerate(map(nnx_layer, of_blocks(values)))),
            "norm": {"scale": values["norm.scale"]},
            "lm_head": {"kernel": values["head.kernel"]},
        }
        nnx.replace_by_pure_dict(state, made)
        return state

    return Built(model, (TOKENS,), canonical, build)


def of_nnx_layer(p):
    """What `BLOCK` labels, of the arrays of one layer."""
    gate, up = np.split(p["mlp"]["gate_up_proj"]["kernel"], 2, 1)
    return {
        "norm1.scale": p["input_layernorm"]["scale"],
        "query.kernel": p["self_attn"]["q_proj"]["kernel"],
        "key.kernel": p["self_attn"]["k_proj"]["kernel"],
        "value.kernel": p["self_attn"]["v_proj"]["kernel"],
        "out.kernel": p["self_attn"]["o_proj"]["kernel"],
        "norm2.scale": p["post_attention_layernorm"]["scale"],
        "gate.kernel": gate,
        "up.kernel": up,
        "down.kernel": p["mlp"]["down_proj"]["kernel"],
    }


def nnx_layer(v):
    """The arrays of one layer, of what `BLOCK` labels."""
    gate_up = np.concatenate([v["gate.kernel"], v["up.kernel"]], 1)
    return {
        "input_layernorm": {"scale": v["norm1.scale"]},
        "self_attn": {
            "q_proj": {"kernel": v["query.kernel"]},
            "k_proj": {"kernel": v["key.kernel"]},
            "v_proj": {"kernel": v["value.kernel"]},
            "o_proj": {"kernel": v["out.kernel"]},
        },
        "post_attention_layernorm": {"scale": v["norm2.scale"]},
        "mlp": {"gate_up_proj": {"kernel": gate_up}, "down_proj": {"kernel": v["down.kernel"]}},
    }


def equinox():
    import equinox as eqx

    linear = partial(eqx.nn.Linear, use_bias=False)

    class Attention(eqx.Module):
        query: eqx.nn.Linear
        key: eqx.nn.Linear
        value: eqx.nn.Linear
        output: eqx.nn.Linear
        rope: eqx.nn.RotaryPositionalEmbedding

        def __init__(self, key):
            keys = jax.random.split(key, 4)
            self.query = linear(WIDTH, HEADS * SIZE, key=keys[0])
            self.key = linear(WIDTH, GROUPS * SIZE, key=keys[1])
            self.value = linear(WIDTH, GROUPS * SIZE, key=keys[2])
            self.output = linear(HEADS * SIZE, WIDTH, key=keys[3])
            self.rope = eqx.nn.RotaryPositionalEmbedding(SIZE, theta=THETA)

        def __call__(self, x):
            length, _ = x.shape
            turn = jax.vmap(self.rope, in_axes=1, out_axes=1)
            q = turn(jax.vmap(self.query)(x).reshape(length, HEADS, SIZE))
            k = turn(jax.vmap(self.key)(x).reshape(length, GROUPS, SIZE))
            v = jax.vmap(self.value)(x).reshape(length, GROUPS, SIZE)
            q = q.reshape(length, GROUPS, HEADS // GROUPS, SIZE) / SIZE**0.5
            logits = jnp.einsum("sghd,tgd->ghst", q, k)
            mask = jnp.tril(jnp.ones((length, length), bool))
            weights = jax.nn.softmax(jnp.where(mask, logits, jnp.finfo(logits.dtype).min))
            y = jnp.einsum("ghst,tgd->sghd", weights, v)
            return jax.vmap(self.output)(y.reshape(length, HEADS * SIZE))

    class FeedForward(eqx.Module):
        w1: eqx.nn.Linear
        w2: eqx.nn.Linear
        w3: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.w1 = linear(WIDTH, HIDDEN, key=keys[0])
            self.w2 = linear(HIDDEN, WIDTH, key=keys[1])
            self.w3 = linear(WIDTH, HIDDEN, key=keys[2])

        def __call__(self, x):
            return self.w2(jax.nn.silu(self.w1(x)) * self.w3(x))

    class TransformerBlock(eqx.Module):
        attention: Attention
        feed_forward: FeedForward
        attention_norm: eqx.nn.RMSNorm
        ffn_norm: eqx.nn.RMSNorm

        def __init__(self, key):
            keys = jax.random.split(key)
            self.attention = Attention(keys[0])
            self.feed_forward = FeedForward(keys[1])
            self.attention_norm = eqx.nn.RMSNorm(WIDTH, eps=EPSILON, use_bias=False)
            self.ffn_norm = eqx.nn.RMSNorm(WIDTH, eps=EPSILON, use_bias=False)

        def __call__(self, x):
            h = x + self.attention(jax.vmap(self.attention_norm)(x))
            return h + jax.vmap(self.feed_forward)(jax.vmap(self.ffn_norm)(h))

    class Decoder(eqx.Module):
        tok_embeddings: eqx.nn.Embedding
        layers: tuple[TransformerBlock, ...]
        norm: eqx.nn.RMSNorm
        output: eqx.nn.Linear

        def __init__(self, key):
            first, last, *keys = jax.random.split(key, 2 + BLOCKS)
            self.tok_embeddings = eqx.nn.Embedding(WORDS, WIDTH, key=first)
            self.layers = tuple(map(TransformerBlock, keys))
            self.norm = eqx.nn.RMSNorm(WIDTH, eps=EPSILON, use_bias=False)
            self.output = linear(WIDTH, WORDS, key=last)

        def __call__(self, tokens):
            x = jax.vmap(self.tok_embeddings)(tokens)
            for layer in self.layers:
                x = layer(x)
            return jax.vmap(self.output)(jax.vmap(self.norm)(x))

    model = adapter("equinox").model(lambda: Decoder(jax.random.PRNGKey(0)), TOKENS, batched=True)

    def canonical(params):
        found = zip(SHAPES, equinox_weights(params), strict=True)
        return {label: leaf.T if label.endswith("kernel") else leaf for label, leaf in found}

    def build(values):
        made = [values[label].T if label.endswith("kernel") else values[label] for label in SHAPES]
        # With NumPy's arrays `eqx.nn.Embedding` works within `jax.jit` alone.
        return eqx.tree_at(equinox_weights, model.params, list(map(jnp.asarray, made)))

    return Built(model, (TOKENS,), canonical, build)


def equinox_weights(module):
    """Of the whole model, in the order of `SHAPES`."""
    found = [module.tok_embeddings]
    for block in module.layers:
        attention, ffn = block.attention, block.feed_forward
        found += [block.attention_norm, attention.query, attention.key, attention.value, attention.output]
        found += [block.ffn_norm, ffn.w1, ffn.w3, ffn.w2]
    return [layer.weight for layer in (*found, module.norm, module.output)]


def neighbours(kernel):
    """A kernel whose heads pair first half and second half, as one whose heads pair neighbours."""
    return kernel.reshape(WIDTH, -1, 2, SIZE // 2).swapaxes(2, 3).reshape(kernel.shape)


def halves(kernel):
    """The other way around."""
    return kernel.reshape(WIDTH, -1, SIZE // 2, 2).swapaxes(2, 3).reshape(kernel.shape)


def haiku():
    import haiku as hk

    def linear(width, name):
        return hk.Linear(width, with_bias=False, name=name)

    def rms_norm(x):
        return hk.RMSNorm(axis=-1, eps=EPSILON)(x)

    def rotary(x):
        """Turns neighbours: the first with the second, the third with the fourth."""
        inverse = 1.0 / (THETA ** (np.arange(0, SIZE, 2) / SIZE))
        angles = np.einsum("i,j->ij", np.arange(x.shape[1]), inverse)[:, None, :]
        sin, cos = np.sin(angles).astype(np.float32), np.cos(angles).astype(np.float32)
        even, odd = x[..., ::2], x[..., 1::2]
        return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)

    class Block(hk.Module):
        def attend(self, x):
            batch, length, width = x.shape
            v = linear(GROUPS * SIZE, "v")(x).reshape(batch, length, GROUPS, SIZE)
            k = linear(GROUPS * SIZE, "k")(x).reshape(batch, length, GROUPS, SIZE)
            q = linear(HEADS * SIZE, "q")(x).reshape(batch, length, HEADS, SIZE)
            k = rotary(k)
            q = rotary(q).reshape(batch, length, GROUPS, HEADS // GROUPS, SIZE)
            logits = jnp.einsum("btkhd,bTkd->bkhtT", q, k) * SIZE**-0.5
            bias = jnp.where(np.tri(length), 0.0, -1e10)
            weights = jax.nn.softmax(logits + bias)
            y = jnp.einsum("bkhtT,bTkd->btkhd", weights, v).reshape(batch, length, HEADS * SIZE)
            return linear(width, "o")(y)

        def __call__(self, x):
            x = x + self.attend(rms_norm(x))
            y = rms_norm(x)
            y = linear(HIDDEN, "linear_v")(y) * jax.nn.silu(linear(HIDDEN, "linear")(y))
            return x + linear(WIDTH, "linear_1")(y)

    def decoder(tokens):
        x = hk.Embed(WORDS, WIDTH, name="in_out_embed")(tokens)
        for n in range(BLOCKS):
            x = Block(name=f"layer_{n}")(x)
        return linear(WORDS, "decoder_logits")(rms_norm(x))

    names = {
        "norm1.scale": ("rms_norm", "scale"),
        "query.kernel": ("~attend/q", "w"),
        "key.kernel": ("~attend/k", "w"),
        "value.kernel": ("~attend/v", "w"),
        "out.kernel": ("~attend/o", "w"),
        "norm2.scale": ("rms_norm_1", "scale"),
        "gate.kernel": ("linear", "w"),
        "up.kernel": ("linear_v", "w"),
        "down.kernel": ("linear_1", "w"),
    }
    places = {
        "embedding": ("in_out_embed", "embeddings"),
        **{
            f"block{n}.{label}": (f"layer_{n}/{module}", leaf)
            for n in range(BLOCKS)
            for label, (module, leaf) in names.items()
        },
        "norm.scale": ("rms_norm", "scale"),
        "head.kernel": ("decoder_logits", "w"),
    }
    turned = {f"block{n}.{name}.kernel" for n in range(BLOCKS) for name in ("query", "key")}

    def canonical(params):
        found = {label: params[module][leaf] for label, (module, leaf) in places.items()}
        return {label: halves(value) if label in turned else value for label, value in found.items()}

    def build(values):
        return {
            module: {leaf: neighbours(values[label]) if label in turned else values[label]}
            for label, (module, leaf) in places.items()
        }

    return Built(adapter("haiku").model(hk.transform(decoder), TOKENS), (TOKENS,), canonical, build)


BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
