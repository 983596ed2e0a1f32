"""A causal language model: learned positions, RMS norms, no biases in attention, tanh GELU, tied logits.

Linen makes its layers in `setup`, looks its positions up in an `nn.Embed`, masks with `nn.make_causal_mask`
and gets its logits from `nn.Embed.attend`. NNX has one fused projection whose columns are head by head, in
each head query, key and value, and calls `jax.nn.dot_product_attention`. Equinox has three projections
without biases (weights are out, in), switches its norms' biases off, and works on one sequence. Haiku has one
fused projection cut in three: all heads' queries, all heads' keys, all heads' values. There are more
positions than any input here is long.
"""

import jax
import jax.numpy as jnp
import numpy as np

from architectures import Built, nested, shape
from leafreport import adapter

BATCH, LENGTH, WORDS, CONTEXT, WIDTH, HEADS, HIDDEN, BLOCKS = 4, 7, 13, 10, 12, 2, 20, 2
SIZE = WIDTH // HEADS
EPSILON = 1e-6
TOKENS = shape(BATCH, LENGTH, dtype=jnp.int32)

# Columns of query, key and value, and rows of out, are head by head.
BLOCK = {
    "norm1.scale": (WIDTH,),
    "query.kernel": (WIDTH, WIDTH),
    "key.kernel": (WIDTH, WIDTH),
    "value.kernel": (WIDTH, WIDTH),
    "out.kernel": (WIDTH, WIDTH),
    "norm2.scale": (WIDTH,),
    "up.kernel": (WIDTH, HIDDEN),
    "up.bias": (HIDDEN,),
    "down.kernel": (HIDDEN, WIDTH),
    "down.bias": (WIDTH,),
}
SHAPES = {
    "embedding": (WORDS, WIDTH),
    "positions": (CONTEXT, WIDTH),
    **{f"block{n}.{label}": sizes for n in range(BLOCKS) for label, sizes in BLOCK.items()},
    "norm.scale": (WIDTH,),
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

    class Block(nn.Module):
        def setup(self):
            self.ln_1 = nn.RMSNorm(epsilon=EPSILON)
            self.attn = nn.MultiHeadDotProductAttention(num_heads=HEADS, use_bias=False)
            self.ln_2 = nn.RMSNorm(epsilon=EPSILON)
            self.c_fc = nn.Dense(HIDDEN)
            self.c_proj = nn.Dense(WIDTH)

        def __call__(self, x, mask):
            x = x + self.attn(self.ln_1(x), mask=mask)
            return x + self.c_proj(nn.gelu(self.c_fc(self.ln_2(x)), approximate=True))

    class Decoder(nn.Module):
        def setup(self):
            self.wte = nn.Embed(WORDS, WIDTH)
            self.wpe = nn.Embed(CONTEXT, WIDTH)
            self.h = [Block() for _ in range(BLOCKS)]
            self.ln_f = nn.RMSNorm(epsilon=EPSILON)

        def __call__(self, tokens):
            mask = nn.make_causal_mask(tokens)
            x = self.wte(tokens) + self.wpe(jnp.arange(tokens.shape[-1]))
            for block in self.h:
                x = block(x, mask)
            return self.wte.attend(self.ln_f(x))

    leaves = {
        "norm1.scale": ("ln_1/scale", (WIDTH,)),
        "query.kernel": ("attn/query/kernel", (WIDTH, HEADS, SIZE)),
        "key.kernel": ("attn/key/kernel", (WIDTH, HEADS, SIZE)),
        "value.kernel": ("attn/value/kernel", (WIDTH, HEADS, SIZE)),
        "out.kernel": ("attn/out/kernel", (HEADS, SIZE, WIDTH)),
        "norm2.scale": ("ln_2/scale", (WIDTH,)),
        "up.kernel": ("c_fc/kernel", (WIDTH, HIDDEN)),
        "up.bias": ("c_fc/bias", (HIDDEN,)),
        "down.kernel": ("c_proj/kernel", (HIDDEN, WIDTH)),
        "down.bias": ("c_proj/bias", (WIDTH,)),
    }
    places = {
        "embedding": ("params/wte/embedding", (WORDS, WIDTH)),
        "positions": ("params/wpe/embedding", (CONTEXT, WIDTH)),
        **{
            f"block{n}.{label}": (f"params/h_{n}/{path}", sizes)
            for n in range(BLOCKS)
            for label, (path, sizes) in leaves.items()
        },
        "norm.scale": ("params/ln_f/scale", (WIDTH,)),
    }

    def canonical(params):
        flat = flatten_dict(params, sep="/")
        return {label: flat[path].reshape(SHAPES[label]) for label, (path, _) in places.items()}

    def build(values):
        return nested({path: values[label].reshape(sizes) for label, (path, sizes) in places.items()})

    return Built(adapter("flax").model(Decoder(), TOKENS), (TOKENS,), canonical, build)


def nnx():
    from flax import nnx

    class CausalSelfAttention(nnx.Module):
        def __init__(self, *, rngs):
            self.query_key_value = nnx.Linear(WIDTH, 3 * WIDTH, use_bias=False, rngs=rngs)
            self.dense = nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=rngs)

        def __call__(self, x):
            qkv = self.query_key_value(x).reshape(*x.shape[:2], HEADS, 3 * SIZE)
            q, k, v = jnp.split(qkv, 3, axis=-1)
            y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
            return self.dense(y.reshape(x.shape))

    class Block(nnx.Module):
        def __init__(self, *, rngs):
            self.attention_norm = nnx.RMSNorm(WIDTH, epsilon=EPSILON, rngs=rngs)
            self.attention = CausalSelfAttention(rngs=rngs)
            self.mlp_norm = nnx.RMSNorm(WIDTH, epsilon=EPSILON, rngs=rngs)
            self.mlp = nnx.Sequential(
                nnx.Linear(WIDTH, HIDDEN, rngs=rngs), nnx.gelu, nnx.Linear(HIDDEN, WIDTH, rngs=rngs)
            )

        def __call__(self, x):
            x = x + self.attention(self.attention_norm(x))
            return x + self.mlp(self.mlp_norm(x))

    class Decoder(nnx.Module):
        def __init__(self, *, rngs):
            self.token_embed = nnx.Embed(WORDS, WIDTH, rngs=rngs)
            self.pos_embed = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (CONTEXT, WIDTH)))
            self.blocks = nnx.List([Block(rngs=rngs) for _ in range(BLOCKS)])
            self.final_norm = nnx.RMSNorm(WIDTH, epsilon=EPSILON, rngs=rngs)

        def __call__(self, tokens):
            x = self.token_embed(tokens) + self.pos_embed[: tokens.shape[1]]
            for block in self.blocks:
                x = block(x)
            return self.token_embed.attend(self.final_norm(x))

    model = adapter("nnx").model(lambda: Decoder(rngs=nnx.Rngs(0)), TOKENS)

    def of_layer(p):
        qkv = p["attention"]["query_key_value"]["kernel"].reshape(WIDTH, HEADS, 3, SIZE)
        up, down = p["mlp"]["layers"][0], p["mlp"]["layers"][2]
        return {
            "norm1.scale": p["attention_norm"]["scale"],
            "query.kernel": qkv[:, :, 0].reshape(WIDTH, WIDTH),
            "key.kernel": qkv[:, :, 1].reshape(WIDTH, WIDTH),
            "value.kernel": qkv[:, :, 2].reshape(WIDTH, WIDTH),
            "out.kernel": p["attention"]["dense"]["kernel"],
            "norm2.scale": p["mlp_norm"]["scale"],
            "up.kernel": up["kernel"],
            "up.bias": up["bias"],
            "down.kernel": down["kernel"],
            "down.bias": down["bias"],
        }

    def layer(v):
        parts = [v[f"{name}.kernel"].reshape(WIDTH, HEADS, SIZE) for name in ("query", "key", "value")]
        return {
            "attention_norm": {"scale": v["norm1.scale"]},
            "attention": {
                "query_key_value": {"kernel": np.stack(parts, 2).reshape(WIDTH, 3 * WIDTH)},
                "dense": {"kernel": v["out.kernel"]},
            },
            "mlp_norm": {"scale": v["norm2.scale"]},
            "mlp": {
                "layers": {
                    0: {"kernel": v["up.kernel"], "bias": v["up.bias"]},
                    2: {"kernel": v["down.kernel"], "bias": v["down.bias"]},
                }
            },
        }

    def canonical(params):
        p = nnx.to_pure_dict(params)
        return {
            "embedding": p["token_embed"]["embedding"],
            "positions": p["pos_embed"],
            "norm.scale": p["final_norm"]["scale"],
            **numbered(of_layer(p["blocks"][n]) for n in range(BLOCKS)),
        }

    def build(values):
        state = jax.tree.map(lambda leaf: leaf, model.params)
        made = {
            "token_embed": {"embedding": values["embedding"]},
            "pos_embed": values["positions"],
            "blocks": dict(enumerate(map(layer, of_blocks(values)))),
            "final_norm": {"scale": values["norm.scale"]},
        }
        nnx.replace_by_pure_dict(state, made)
        return state

    return Built(model, (TOKENS,), canonical, build)


def equinox():
    import equinox as eqx

    class Attention(eqx.Module):
        wq: eqx.nn.Linear
        wk: eqx.nn.Linear
        wv: eqx.nn.Linear
        wo: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, 4)
            self.wq, self.wk, self.wv, self.wo = (
                eqx.nn.Linear(WIDTH, WIDTH, use_bias=False, key=k) for k in keys
            )

        def __call__(self, x):
            length, _ = x.shape
            q, k, v = (
                jax.vmap(layer)(x).reshape(length, HEADS, SIZE).transpose(1, 0, 2)
                for layer in (self.wq, self.wk, self.wv)
            )
            scores = q @ k.transpose(0, 2, 1) / jnp.sqrt(SIZE)
            causal = jnp.tril(jnp.ones((length, length), dtype=bool))
            weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)
            return jax.vmap(self.wo)((weights @ v).transpose(1, 0, 2).reshape(length, WIDTH))

    class Block(eqx.Module):
        norm1: eqx.nn.RMSNorm
        norm2: eqx.nn.RMSNorm
        attention: Attention
        mlp: eqx.nn.MLP

        def __init__(self, key):
            attention_key, mlp_key = jax.random.split(key)
            self.norm1 = eqx.nn.RMSNorm(WIDTH, eps=EPSILON, use_bias=False)
            self.norm2 = eqx.nn.RMSNorm(WIDTH, eps=EPSILON, use_bias=False)
            self.attention = Attention(attention_key)
            self.mlp = eqx.nn.MLP(WIDTH, WIDTH, HIDDEN, depth=1, activation=jax.nn.gelu, key=mlp_key)

        def __call__(self, x):
            x = x + self.attention(jax.vmap(self.norm1)(x))
            return x + jax.vmap(self.mlp)(jax.vmap(self.norm2)(x))

    class Decoder(eqx.Module):
        embedding: eqx.nn.Embedding
        positions: jax.Array
        blocks: list[Block]
        norm: eqx.nn.RMSNorm

        def __init__(self, key):
            embedding_key, positions_key, *keys = jax.random.split(key, 2 + BLOCKS)
            self.embedding = eqx.nn.Embedding(WORDS, WIDTH, key=embedding_key)
            self.positions = 0.02 * jax.random.normal(positions_key, (CONTEXT, WIDTH))
            self.blocks = [Block(k) for k in keys]
            self.norm = eqx.nn.RMSNorm(WIDTH, eps=EPSILON, use_bias=False)

        def __call__(self, tokens):
            x = jax.vmap(self.embedding)(tokens) + self.positions[: tokens.shape[0]]
            for block in self.blocks:
                x = block(x)
            return jax.vmap(self.norm)(x) @ self.embedding.weight.T

    model = adapter("equinox").model(lambda: Decoder(jax.random.PRNGKey(0)), TOKENS, batched=True)

    def where(module):
        """In the order of `SHAPES`."""
        found = [module.embedding.weight, module.positions]
        for block in module.blocks:
            attention, (up, down) = block.attention, block.mlp.layers
            found += [block.norm1.weight, attention.wq.weight, attention.wk.weight, attention.wv.weight]
            found += [attention.wo.weight, block.norm2.weight, up.weight, up.bias, down.weight, down.bias]
        return [*found, module.norm.weight]

    def canonical(params):
        found = zip(SHAPES, where(params), strict=True)
        return {label: leaf.T if label.endswith("kernel") else leaf for label, leaf in found}

    def build(values):
        made = [values[label].T if label.endswith("kernel") else values[label] for label in SHAPES]
        # With NumPy's arrays `eqx.nn.Embedding` works within `jax.jit` alone.
        return eqx.tree_at(where, model.params, list(map(jnp.asarray, made)))

    return Built(model, (TOKENS,), canonical, build)


def haiku():
    import haiku as hk

    def rms_norm(name):
        return hk.RMSNorm(axis=-1, eps=EPSILON, name=name)

    class CausalAttention(hk.Module):
        def __call__(self, x):
            batch, length, width = x.shape
            qkv = hk.Linear(3 * width, with_bias=False, name="qkv")(x)
            q, k, v = (part.reshape(batch, length, HEADS, SIZE) for part in jnp.split(qkv, 3, axis=-1))
            logits = jnp.einsum("bthd,bThd->bhtT", q, k) / np.sqrt(SIZE)
            mask = np.tril(np.ones((length, length)))
            logits = jnp.where(mask, logits, -1e30)
            y = jnp.einsum("bhtT,bThd->bthd", jax.nn.softmax(logits), v)
            return hk.Linear(width, with_bias=False, name="projection")(y.reshape(batch, length, width))

    class Decoder(hk.Module):
        def __call__(self, tokens):
            embed = hk.Embed(vocab_size=WORDS, embed_dim=WIDTH)
            positions = hk.get_parameter(
                "pos_embs", [CONTEXT, WIDTH], init=hk.initializers.TruncatedNormal(0.02)
            )
            x = embed(tokens) + positions[: tokens.shape[1]]
            for n in range(BLOCKS):
                x = x + CausalAttention(name=f"h{n}_attn")(rms_norm(f"h{n}_ln_1")(x))
                mlp = hk.nets.MLP([HIDDEN, WIDTH], activation=jax.nn.gelu, name=f"h{n}_mlp")
                x = x + mlp(rms_norm(f"h{n}_ln_2")(x))
            return rms_norm("ln_f")(x) @ embed.embeddings.T

    model = adapter("haiku").model(hk.transform(lambda tokens: Decoder()(tokens)), TOKENS)

    def of_layer(p, n):
        above = f"decoder/h{n}"
        query, key, value = np.split(p[f"{above}_attn/qkv"]["w"], 3, 1)
        up, down = p[f"{above}_mlp/~/linear_0"], p[f"{above}_mlp/~/linear_1"]
        return {
            "norm1.scale": p[f"{above}_ln_1"]["scale"],
            "query.kernel": query,
            "key.kernel": key,
            "value.kernel": value,
            "out.kernel": p[f"{above}_attn/projection"]["w"],
            "norm2.scale": p[f"{above}_ln_2"]["scale"],
            "up.kernel": up["w"],
            "up.bias": up["b"],
            "down.kernel": down["w"],
            "down.bias": down["b"],
        }

    def layer(v, n):
        above = f"decoder/h{n}"
        qkv = np.concatenate([v["query.kernel"], v["key.kernel"], v["value.kernel"]], 1)
        return {
            f"{above}_ln_1": {"scale": v["norm1.scale"]},
            f"{above}_attn/qkv": {"w": qkv},
            f"{above}_attn/projection": {"w": v["out.kernel"]},
            f"{above}_ln_2": {"scale": v["norm2.scale"]},
            f"{above}_mlp/~/linear_0": {"w": v["up.kernel"], "b": v["up.bias"]},
            f"{above}_mlp/~/linear_1": {"w": v["down.kernel"], "b": v["down.bias"]},
        }

    def canonical(params):
        return {
            "embedding": params["decoder/embed"]["embeddings"],
            "positions": params["decoder"]["pos_embs"],
            "norm.scale": params["decoder/ln_f"]["scale"],
            **numbered(of_layer(params, n) for n in range(BLOCKS)),
        }

    def build(values):
        made = {
            "decoder": {"pos_embs": values["positions"]},
            "decoder/embed": {"embeddings": values["embedding"]},
            "decoder/ln_f": {"scale": values["norm.scale"]},
        }
        for n, v in enumerate(of_blocks(values)):
            made |= layer(v, n)
        return made

    return Built(model, (TOKENS,), canonical, build)


BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
