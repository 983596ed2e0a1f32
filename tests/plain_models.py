"""Models written in plain JAX, each with the inputs of its call; their params are abstract."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from leafreport import Model

HEADS, LENGTH, WIDTH, WORDS = 2, 5, 8, 11


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


# --- Parts --------------------------------------------------------------------------------------------------


def norm(x, scale, shift):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-6) * scale + shift


def fast_norm(x, scale, shift):
    mean = x.mean(-1, keepdims=True)
    variance = (x * x).mean(-1, keepdims=True) - mean * mean
    return (x - mean) * (jax.lax.rsqrt(variance + 1e-6) * scale) + shift


def split_heads(x):
    return x.reshape(*x.shape[:-1], HEADS, -1).swapaxes(-2, -3)


def attention(q, k, v, mask=None):
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(WIDTH // HEADS)
    if mask is not None:
        scores = jnp.where(mask, scores, -1e9)
    mixed = (jax.nn.softmax(scores, -1) @ v).swapaxes(-2, -3)
    return mixed.reshape(*mixed.shape[:-2], WIDTH)


# --- Models -------------------------------------------------------------------------------------------------


def mlp():
    def call(p, x):
        return jax.nn.relu(x @ p["a"] + p["ab"]) @ p["c"] + p["cb"]

    params = {"a": shape(6, 10), "ab": shape(10), "c": shape(10, 4), "cb": shape(4)}
    return Model(params, call), (shape(3, 6),)


def square(layers=4):
    """Layers that are all of one shape."""

    def call(p, x):
        return functools.reduce(
            lambda x, wb: jnp.tanh(x @ wb[0] + wb[1]), zip(p["w"], p["b"], strict=True), x
        )

    return Model({"w": [shape(6, 6)] * layers, "b": [shape(6)] * layers}, call), (shape(3, 6),)


def cnn():
    layout = ("NHWC", "HWIO", "NHWC")

    def call(p, x):
        y = jax.lax.conv_general_dilated(x, p["k"], (1, 1), "SAME", dimension_numbers=layout) + p["kb"]
        y = jax.nn.relu((y - p["m"]) * jax.lax.rsqrt(p["v"] + 1e-5) * p["s"] + p["t"])
        y = jax.lax.conv_general_dilated(y, p["k2"], (2, 2), "VALID", dimension_numbers=layout)
        return y.mean((1, 2)) @ p["d"] + p["db"]

    params = {
        "k": shape(3, 3, 4, 6),
        **{name: shape(6) for name in ("kb", "m", "v", "s", "t")},
        "k2": shape(3, 3, 6, 8),
        "d": shape(8, 5),
        "db": shape(5),
    }
    return Model(params, call), (shape(2, 9, 9, 4),)


def lstm(order="ifgo"):
    def call(p, x):
        def step(carry, now):
            h, c = carry
            z = now @ p["i"] + h @ p["h"] + p["b"]
            gates = dict(zip(order, jnp.split(z, 4, -1), strict=True))
            c = jax.nn.sigmoid(gates["f"]) * c + jax.nn.sigmoid(gates["i"]) * jnp.tanh(gates["g"])
            h = jax.nn.sigmoid(gates["o"]) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros((x.shape[0], 4))
        (h, _), _ = jax.lax.scan(step, (zeros, zeros), x.swapaxes(0, 1))
        return h @ p["d"]

    params = {"i": shape(3, 16), "h": shape(4, 16), "b": shape(16), "d": shape(4, 5)}
    return Model(params, call), (shape(2, 7, 3),)


def decoder(layers=2):
    """A causal decoder with a tied table."""

    def call(p, ids):
        x = p["e"][ids] + p["pos"][: ids.shape[1]]
        mask = jnp.tril(jnp.ones((ids.shape[1],) * 2, bool))
        for b in p["blocks"]:
            h = fast_norm(x, b["s1"], b["t1"])
            x = x + attention(*(split_heads(h @ b[n]) for n in "qkv"), mask) @ b["o"]
            h = fast_norm(x, b["s2"], b["t2"])
            x = x + (jax.nn.silu(h @ b["g"]) * (h @ b["u"])) @ b["d"]
        return fast_norm(x, p["s"], p["t"]) @ p["e"].T

    def one():
        return {
            **{n: shape(WIDTH) for n in ("s1", "t1", "s2", "t2")},
            **{n: shape(WIDTH, WIDTH) for n in "qkvo"},
            "g": shape(WIDTH, 12),
            "u": shape(WIDTH, 12),
            "d": shape(12, WIDTH),
        }

    params = {
        "e": shape(WORDS, WIDTH),
        "pos": shape(LENGTH, WIDTH),
        "blocks": [one() for _ in range(layers)],
        "s": shape(WIDTH),
        "t": shape(WIDTH),
    }
    return Model(params, call), (shape(2, LENGTH, dtype=jnp.int32),)


def _separate(p, x):
    for b in p["blocks"]:
        h = norm(x, b["s1"], b["t1"])
        q, k, v = (split_heads(h @ b[n] + b[f"{n}b"]) for n in "qkv")
        x = x + attention(q, k, v) @ b["o"] + b["ob"]
        x = x + jax.nn.gelu(norm(x, b["s2"], b["t2"]) @ b["u"] + b["ub"]) @ b["d"] + b["db"]
    return norm(x, p["s"], p["t"])


def _fused(p, x):
    for b in p["blocks"]:
        qkv = b["qkv"] @ fast_norm(x, b["s1"], b["t1"]).swapaxes(-1, -2) + b["qkvb"][:, None]
        q, k, v = (split_heads(part) for part in jnp.split(qkv.swapaxes(-1, -2), 3, -1))
        x = (attention(q, k, v) @ b["o"].T + b["ob"]) + x
        h = fast_norm(x, b["s2"], b["t2"])
        inner = jnp.einsum("btd,du->btu", h, b["u"]) + b["ub"]
        x = (jnp.tensordot(jax.nn.gelu(inner), b["d"], 1) + b["db"]) + x
    return fast_norm(x, p["s"], p["t"])


def block(*, fused):
    """A transformer block's params; with fused projections, they are stored (out, in)."""
    d, u = WIDTH, 4 * WIDTH
    common = {
        **{n: shape(d) for n in ("s1", "t1", "s2", "t2", "ob", "db")},
        "o": shape(d, d),
        "u": shape(d, u),
        "ub": shape(u),
        "d": shape(u, d),
    }
    if fused:
        return common | {"qkv": shape(3 * d, d), "qkvb": shape(3 * d)}
    return common | {n: shape(d, d) for n in "qkv"} | {f"{n}b": shape(d) for n in "qkv"}


def transformer(layers=2, *, fused=False):
    params = {"blocks": [block(fused=fused) for _ in range(layers)], "s": shape(WIDTH), "t": shape(WIDTH)}
    return Model(params, _fused if fused else _separate), (shape(2, LENGTH, WIDTH),)


def fused_transformer():
    return transformer(fused=True)


MODELS = {made.__name__: made for made in (mlp, square, cnn, lstm, decoder, transformer, fused_transformer)}
