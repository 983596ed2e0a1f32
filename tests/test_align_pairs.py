"""Leaves of two models paired by what they do: proved by carrying random values over and running both."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leafreport import Model, adapter, align

HEADS, LENGTH, WIDTH, WORDS = 2, 5, 8, 11


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def proved(left, right, *inputs):
    """Every leaf in use is paired, by dataflow alone, nothing differs, and the two compute the same."""
    found = align(left, right, inputs)
    assert found.ok, str(found)
    assert {pair.basis for pair in found.pairs} == {"dataflow"}
    assert found.opaque == ()
    assert found.verify().max_rel_difference < 1e-5
    return found


def rows(found):
    """What is paired, as text: names and layouts."""
    return {(str(pair.left), str(pair.right), pair.layout) for pair in found.pairs}


# --- Dense stacks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["nnx", "equinox", "haiku"])
def test_square_dense_stack(other):
    for module in ("flax", other.replace("nnx", "flax")):
        pytest.importorskip(module)
    x = shape(4, WIDTH)
    left, right = (adapter(name).dense_stack(0, x, 12, abstract=True) for name in ("flax", other))
    found = proved(left, right, x)
    weight = {"nnx": "layers/{}/kernel/value", "equinox": "layers/{}/weight", "haiku": "linear{}/w"}[other]
    for n in range(12):
        suffix = n if other != "haiku" else f"_{n}" if n else ""
        layout = "transpose" if other == "equinox" else "identity"
        assert (f"params/Dense_{n}/kernel", weight.format(suffix), layout) in rows(found)


# --- Models written in plain JAX ----------------------------------------------------------------------------


def norm(x, scale, shift):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-6) * scale + shift


def fast_norm(x, scale, shift):
    mean = x.mean(-1, keepdims=True)
    variance = (x * x).mean(-1, keepdims=True) - mean * mean
    return (x - mean) * (jax.lax.rsqrt(variance + 1e-6) * scale) + shift


def split_heads(x):
    return x.reshape(*x.shape[:-1], HEADS, -1).swapaxes(-2, -3)


def attention(q, k, v):
    scores = jax.nn.softmax(q @ k.swapaxes(-1, -2) / np.sqrt(WIDTH // HEADS), -1)
    mixed = (scores @ v).swapaxes(-2, -3)
    return mixed.reshape(*mixed.shape[:-2], WIDTH)


def separate(p, x):
    for b in p["blocks"]:
        h = norm(x, b["s1"], b["t1"])
        q, k, v = (split_heads(h @ b[n] + b[f"{n}b"]) for n in "qkv")
        x = x + attention(q, k, v) @ b["o"] + b["ob"]
        x = x + jax.nn.gelu(norm(x, b["s2"], b["t2"]) @ b["u"] + b["ub"]) @ b["d"] + b["db"]
    return norm(x, p["s"], p["t"])


def fused(p, x):
    for b in p["blocks"]:
        qkv = b["qkv"] @ fast_norm(x, b["s1"], b["t1"]).swapaxes(-1, -2) + b["qkvb"][:, None]
        q, k, v = (split_heads(part) for part in jnp.split(qkv.swapaxes(-1, -2), 3, -1))
        x = (attention(q, k, v) @ b["o"].T + b["ob"]) + x
        h = fast_norm(x, b["s2"], b["t2"])
        inner = jnp.einsum("btd,du->btu", h, b["u"]) + b["ub"]
        x = (jnp.tensordot(jax.nn.gelu(inner), b["d"], 1) + b["db"]) + x
    return fast_norm(x, p["s"], p["t"])


def block(*, is_fused):
    d, u = WIDTH, 4 * WIDTH
    common = {
        **{n: shape(d) for n in ("s1", "t1", "s2", "t2", "ob", "db")},
        "o": shape(d, d),
        "u": shape(d, u),
        "ub": shape(u),
        "d": shape(u, d),
    }
    if is_fused:
        return common | {"qkv": shape(3 * d, d), "qkvb": shape(3 * d)}
    return common | {n: shape(d, d) for n in "qkv"} | {f"{n}b": shape(d) for n in "qkv"}


def transformer(layers, *, is_fused=False):
    params = {
        "blocks": [block(is_fused=is_fused) for _ in range(layers)],
        "s": shape(WIDTH),
        "t": shape(WIDTH),
    }
    return Model(params, fused if is_fused else separate)


def test_fused_projections_against_separate_ones():
    left, right = transformer(3), transformer(3, is_fused=True)
    found = rows(proved(left, right, shape(2, LENGTH, WIDTH)))
    for i, n in enumerate("qkv"):
        part = f"[{i * WIDTH}:{(i + 1) * WIDTH}"
        assert (f"blocks/1/{n}", f"blocks/1/qkv{part}, :]", f"transpose, concat {part}, :]") in found
        assert (f"blocks/1/{n}b", f"blocks/1/qkvb{part}]", f"concat {part}]") in found


def test_stacked_layers_against_separate_ones():
    left = transformer(4)
    stacked = jax.tree.map(lambda leaf: shape(4, *leaf.shape), block(is_fused=False))

    def scanned(p, x):
        def step(x, layer):
            h = norm(x, layer["s1"], layer["t1"])
            q, k, v = (split_heads(h @ layer[n] + layer[f"{n}b"]) for n in "qkv")
            x = x + attention(q, k, v) @ layer["o"] + layer["ob"]
            h = norm(x, layer["s2"], layer["t2"])
            return x + jax.nn.gelu(h @ layer["u"] + layer["ub"]) @ layer["d"] + layer["db"], None

        x, _ = jax.lax.scan(step, x, p["blocks"])
        return norm(x, p["s"], p["t"])

    right = Model({"blocks": stacked, "s": shape(WIDTH), "t": shape(WIDTH)}, scanned)
    found = proved(left, right, shape(2, LENGTH, WIDTH))
    assert len(found.pairs) == 4 * 16 + 2
    assert ("blocks/2/o", "blocks/o[2, :, :]", "concat [2, :, :]") in rows(found)


def test_leaves_no_result_depends_on_are_no_part_of_it():
    x = shape(4, WIDTH)
    left = Model({"w": shape(WIDTH, WIDTH), "old": shape(3)}, lambda p, x: x @ p["w"])
    right = Model({"w": shape(WIDTH, WIDTH)}, lambda p, x: x @ p["w"].T)
    found = proved(left, right, x)
    assert rows(found) == {("w", "w", "transpose")}
    assert (found.unused_left, found.unused_right) == ((("old",),), ())


def test_up_and_down_are_not_taken_for_each_other():
    """The shapes of the one's up are those of the other's down."""
    x = shape(4, WIDTH)
    up, down = shape(WIDTH, 3 * WIDTH), shape(3 * WIDTH, WIDTH)
    left = Model({"a": up, "b": down}, lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"])
    right = Model({"a": up, "b": down}, lambda p, x: jnp.tanh(x @ p["b"].T) @ p["a"].T)
    assert rows(proved(left, right, x)) == {("a", "b", "transpose"), ("b", "a", "transpose")}


def test_gates_in_another_order():
    x = shape(4, 3)

    def cell(order):
        def run(p, x):
            h = c = jnp.zeros((4, WIDTH))
            for _ in range(2):
                parts = dict(zip(order, jnp.split(x @ p["i"] + h @ p["h"] + p["b"], 4, -1), strict=True))
                c = jax.nn.sigmoid(parts["f"]) * c + jax.nn.sigmoid(parts["i"]) * jnp.tanh(parts["g"])
                h = jax.nn.sigmoid(parts["o"]) * jnp.tanh(c)
            return h

        params = {"i": shape(3, 4 * WIDTH), "h": shape(WIDTH, 4 * WIDTH), "b": shape(4 * WIDTH)}
        return Model(params, run)

    found = proved(cell("ifgo"), cell("igfo"), x)
    shifts = {p.left.where: p.right.where for p in found.pairs if p.left_path == ("b",)}
    assert shifts == {"[0:8]": "[0:8]", "[8:16]": "[16:24]", "[16:24]": "[8:16]", "[24:32]": "[24:32]"}


# --- Models that differ -------------------------------------------------------------------------------------


def test_dropped_residual_leaves_the_rest_matched():
    def run(p, x, *, drop):
        for n, (w, b) in enumerate(zip(p["w"], p["b"], strict=True)):
            y = jnp.tanh(x @ w + b)
            x = y if n == drop else x + y
        return x

    params = {"w": [shape(WIDTH, WIDTH)] * 6, "b": [shape(WIDTH)] * 6}
    left = Model(params, lambda p, x: run(p, x, drop=-1))
    right = Model(params, lambda p, x: run(p, x, drop=3))
    found = align(left, right, shape(4, WIDTH))
    assert (found.only_left, found.only_right) == ((), ())
    assert {(p.left_path, p.right_path) for p in found.pairs} == {
        ((name, str(n)), (name, str(n))) for name in "wb" for n in range(6)
    }
    assert [difference.what for difference in found.differences] == ["term"]
    assert not found.ambiguous


def test_extra_layer_stays_alone():
    def run(p, x):
        for w in p:
            x = jnp.tanh(x @ w)
        return x

    left = Model([shape(WIDTH, WIDTH)] * 4, run)
    right = Model([shape(WIDTH, WIDTH)] * 5, run)
    found = align(left, right, shape(4, WIDTH))
    assert not found.ok
    assert (
        len({p.right_path for p in found.pairs})
        == len({p.left_path for p in found.pairs})
        == len(found.pairs)
    )
    assert len(found.pairs) + len(found.only_right) == 5
    assert len(found.pairs) + len(found.only_left) == 4
    assert found.ambiguous  # which of the five is the one more, no program tells


# --- Scrambles with a known answer --------------------------------------------------------------------------


def scrambled(model, seed):
    """The same function of renamed, reordered, transposed, reshaped and fused leaves; and who is whose."""
    rng = random.Random(seed)
    leaves, structure = jax.tree.flatten(model.params)
    order = rng.sample(range(len(leaves)), len(leaves))
    stored, undo = {}, {}
    for place, n in enumerate(order):
        leaf = leaves[n]
        axes = rng.sample(range(len(leaf.shape)), len(leaf.shape))
        turned = tuple(leaf.shape[a] for a in axes)
        kept = turned
        if rng.random() < 0.3:
            kept = (int(np.prod(turned)),)
        elif len(turned) == 1 and turned[0] % 2 == 0 and rng.random() < 0.5:
            kept = (turned[0] // 2, 2)
        name = f"{rng.choice('abc')}{place}"
        stored[name] = shape(*kept)
        undo[n] = (name, turned, tuple(int(a) for a in np.argsort(axes)))

    def apply(params, x):
        own = [
            params[name].reshape(turned).transpose(back)
            for name, turned, back in (undo[n] for n in range(len(leaves)))
        ]
        return model.apply(structure.unflatten(own), x)

    paths = jax.tree_util.tree_leaves_with_path(model.params)
    steps = [tuple(str(getattr(key, "key", getattr(key, "idx", None))) for key in path) for path, _ in paths]
    return Model(stored, apply), {steps[n]: (undo[n][0],) for n in range(len(leaves))}


@pytest.mark.parametrize("seed", range(25))
def test_scramble_is_undone(seed):
    left = transformer(1 + seed % 3, is_fused=bool(seed % 2))
    right, truth = scrambled(left, seed)
    found = proved(left, right, shape(2, LENGTH, WIDTH))
    assert {p.left_path: p.right_path for p in found.pairs} == truth
