"""Two models that are nearly the same function: what they do otherwise is said, with both values and places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aligned import differing, twice
from plain_models import shape

from leafreport import Model, align

WIDTH, LENGTH = 8, 6
X = shape(2, LENGTH, WIDTH)
SQUARE = shape(WIDTH, WIDTH)
TWO = {"w": SQUARE, "v": SQUARE}
ATTENTION = dict.fromkeys("qkvo", SQUARE)
CONV = {"k": shape(3, 3, 4, 6), "d": shape(6, 2)}
IMAGE = shape(2, 12, 12, 4)


def between(done):
    """Two layers with something done in between."""
    return lambda p, x: done(x @ p["w"]) @ p["v"]


def layer_norm(epsilon):
    def done(y):
        centred = y - y.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + epsilon)

    return done


def rms_norm(epsilon):
    return lambda y: y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + epsilon)


def grouped(count):
    return lambda y: layer_norm(1e-6)(y.reshape(*y.shape[:-1], count, -1)).reshape(y.shape)


def attention(*, heads=2, scaled=True, mask=None, axis=-1, dtype=None, keep=None):
    def call(p, x):
        q, k, v = ((x @ p[n]).reshape(*x.shape[:2], heads, -1) for n in "qkv")
        if dtype is not None:
            q, k = q.astype(dtype), k.astype(dtype)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(x.dtype)
        if scaled:
            scores = scores / np.sqrt(WIDTH // heads)
        if mask is not None:
            scores = jnp.where(mask(np.ones((LENGTH, LENGTH), bool)), scores, -1e9)
        weights = jax.nn.softmax(scores, axis)
        if keep is not None:
            weights = jnp.where(
                jax.random.bernoulli(jax.random.key(0), keep, weights.shape), weights / keep, 0
            )
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape) @ p["o"]

    return call


def conv(*, strides=(1, 1), padding="SAME", dilation=(1, 1), groups=1):
    def call(p, x):
        y = jax.lax.conv_general_dilated(
            x,
            p["k"],
            strides,
            padding,
            rhs_dilation=dilation,
            feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jax.nn.relu(y).max((1, 2)) @ p["d"]

    return call


def pooled(size):
    def call(p, x):
        y = jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, size, size, 1), (1, 2, 2, 1), "VALID")
        return y.max((1, 2)) @ p["d"]

    return call


def looped(times):
    return lambda p, x: jax.lax.fori_loop(0, times, lambda _, y: jnp.tanh(y @ p["w"]), x) @ p["v"]


def recurrent(*, reverse=False, first=jnp.zeros):
    def call(p, x):
        def step(state, now):
            return jnp.tanh(state @ p["w"] + now @ p["v"]), None

        return jax.lax.scan(step, first((2, WIDTH)), x.swapaxes(0, 1), reverse=reverse)[0]

    return call


CASES = {
    "activation": (TWO, X, between(jnp.tanh), between(jax.nn.relu), "activation", "tanh", "relu"),
    "activation missing": (
        TWO,
        X,
        between(jax.nn.silu),
        between(lambda y: y),
        "activation",
        "silu",
        "nothing",
    ),
    "activation, nearly": (
        *(TWO, X, between(jax.nn.gelu), between(lambda y: jax.nn.gelu(y, approximate=False))),
        *("activation", "gelu (tanh approximation)", "gelu"),
    ),
    "epsilon": (TWO, X, between(layer_norm(1e-5)), between(layer_norm(1e-6)), "epsilon", "1e-05", "1e-06"),
    "norm": (
        *(TWO, X, between(layer_norm(1e-6)), between(rms_norm(1e-6))),
        *("norm", "layer norm over 8, epsilon 1e-06", "rms norm over 8, epsilon 1e-06"),
    ),
    "groups of a norm": (
        *(TWO, X, between(grouped(2)), between(grouped(4))),
        *("axes", "layer norm over 4, epsilon 1e-06", "layer norm over 2, epsilon 1e-06"),
    ),
    "scale": (TWO, X, between(lambda y: y * 0.5), between(lambda y: y), "scale", "times 0.5", "nothing"),
    "constant": (
        *(TWO, X, between(lambda y: jnp.tanh(y) + 0.5), between(jnp.tanh)),
        *("constant", "plus 0.5", "nothing"),
    ),
    "scores unscaled": (
        *(ATTENTION, X, attention(), attention(scaled=False)),
        *("scale", "times 0.5", "nothing"),
    ),
    "mask": (ATTENTION, X, attention(), attention(mask=np.tril), "mask", "nothing", "causal mask"),
    "mask turned": (
        *(ATTENTION, X, attention(mask=np.tril), attention(mask=np.triu)),
        *("mask", "causal, one way round", "causal, the other way round"),
    ),
    "heads": (
        *(ATTENTION, X, attention(scaled=False), attention(heads=4, scaled=False)),
        *("axes", "contracts axis 1 of q (4)", "contracts axis 1 of q (2)"),
    ),
    "softmax along queries": (
        *(ATTENTION, X, attention(), attention(axis=-2)),
        "axes",
        "the product at q has no axis that is summed over later",
        "the product at q has an axis that is summed over at once",
    ),
    "scores in another dtype": (
        *(ATTENTION, X, attention(), attention(dtype=jnp.bfloat16)),
        *("dtype", "float32", "bfloat16"),
    ),
    "dropout left on": (
        *(ATTENTION, X, attention(), attention(keep=0.9)),
        *("dropout", "nothing", "times 1.11111, select_n random numbers, 0.9 of them true"),
    ),
    "dropout rate": (
        *(ATTENTION, X, attention(keep=0.75), attention(keep=0.9)),
        "dropout",
        "times 1.33333, select_n random numbers, 0.75 of them true",
        "times 1.11111, select_n random numbers, 0.9 of them true",
    ),
    "padding": (
        *(CONV, IMAGE, conv(), conv(padding="VALID")),
        *("padding", "((1, 1), (1, 1))", "((0, 0), (0, 0))"),
    ),
    "strides": (CONV, IMAGE, conv(), conv(strides=(2, 2)), "strides", "(1, 1)", "(2, 2)"),
    "dilation": (CONV, IMAGE, conv(), conv(dilation=(2, 2)), "dilation", "(1, 1)", "(2, 2)"),
    "window": (
        *({"d": shape(4, 2)}, IMAGE, pooled(2), pooled(3)),
        "window",
        "window_max 2 by 2 x 2 by 2, max over 36",
        "window_max 3 by 2 x 3 by 2, max over 25",
    ),
    "residual": (
        *(TWO, X, lambda p, x: x + between(jnp.tanh)(p, x), between(jnp.tanh)),
        *("term", "adds input 0", "nothing"),
    ),
    "loop": (TWO, X, looped(3), looped(4), "steps", "3 steps", "4 steps"),
    "direction": (TWO, X, recurrent(), recurrent(reverse=True), "function", "nothing", "rev"),
    "first state": (
        *(TWO, X, recurrent(), recurrent(first=jnp.ones)),
        *("function", "constant 0", "constant 1"),
    ),
    "flip": (TWO, X, between(lambda y: y[:, ::-1]), between(lambda y: y), "function", "rev", "nothing"),
    "results": (
        *(TWO, X, between(jnp.tanh), lambda p, x: (between(jnp.tanh)(p, x), x)),
        *("results", "1 result", "2 results"),
    ),
    "rounding": (
        *(TWO, X, between(lambda y: y.astype(jnp.bfloat16).astype(jnp.float32)), between(lambda y: y)),
        *("dtype", "rounds to bfloat16", "rounds to nothing"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_differs_is_said(name):
    params, x, one, other, what, left, right = CASES[name]
    found = align(Model(params, one), Model(params, other), x)
    assert not found.ok
    assert (what, left, right) in differing(found), str(found)
    assert {pair.left_path for pair in found.pairs} == {(key,) for key in params}
    assert all(pair.left_path == pair.right_path for pair in found.pairs)


@pytest.mark.parametrize("name", CASES)
def test_and_the_other_way_round(name):
    params, x, one, other, what, left, right = CASES[name]
    found = align(Model(params, other), Model(params, one), x)
    mirrored = {(d.what, d.right, d.left) for d in found.differences}
    if what != "mask" or "one way" not in left:
        assert (what, left, right) in mirrored, str(found)
    assert not found.ok


@pytest.mark.parametrize("name", sorted(CASES))
def test_neither_differs_from_itself(name):
    params, x, one, other, *_ = CASES[name]
    for call in (one, other):
        found = align(Model(params, call), Model(params, call), x)
        assert found.ok, str(found)
        assert found.verify().max_abs_difference == 0


def test_one_epsilon_of_many_is_said_at_its_place():
    def call(epsilons):
        def run(p, x):
            for w, epsilon in zip(p["w"], epsilons, strict=True):
                x = x + layer_norm(epsilon)(x) @ w
            return x

        return run

    params = {"w": [SQUARE] * 4}
    found = align(Model(params, call([1e-6] * 4)), Model(params, call([1e-6, 1e-6, 1e-5, 1e-6])), X)
    (difference,) = found.differences
    assert (difference.what, difference.left, difference.right) == ("epsilon", "1e-06", "1e-05")
    assert difference.left_place.after == ("w", "1")
    assert difference.left_place.before == ("w", "2")
    assert difference.left_place.code.startswith("test_align_differences.py:")
    assert [str(pair.right) for pair in found.pairs] == ["w/0", "w/1", "w/2", "w/3"]


def turned(text):
    """A model of one product, whose axes are turned before something is done along one of them."""
    return lambda p, x: jnp.einsum(text, x, p["w"])


SAME_SIZES = {
    "an axis is summed over": (lambda y: y.sum(1), lambda y: y.sum(2)),
    "a running sum": (lambda y: jnp.cumsum(y, 1), lambda y: jnp.cumsum(y, 2)),
    "a sort": (lambda y: jnp.sort(y, 1), lambda y: jnp.sort(y, 2)),
    "a maximum": (lambda y: y - y.max(1, keepdims=True), lambda y: y - y.max(2, keepdims=True)),
    "two axes of the result": (lambda y: y, lambda y: y.swapaxes(1, 2)),
    "the first place": (lambda y: y[:, 0], lambda y: y[:, :, 0]),
    "first and last place": (lambda y: y[:, 0], lambda y: y[:, -1]),
    "every second place": (lambda y: y[:, ::2], lambda y: y[:, 1::2]),
    "a roll": (lambda y: jnp.roll(y, 1, 1), lambda y: jnp.roll(y, 1, 2)),
    "how far a roll goes": (lambda y: jnp.roll(y, 1, 1), lambda y: jnp.roll(y, 2, 1)),
    "order of places": (
        lambda y: y,
        lambda y: y.reshape(2, 2, 4, 8).swapaxes(1, 2).reshape(2, 8, 8),
    ),
    "repeats": (lambda y: jnp.tile(y[:, :4], (1, 2, 1)), lambda y: jnp.repeat(y[:, :4], 2, 1)),
    "a constant along one axis": (
        lambda y: y + np.arange(8.0, dtype=np.float32),
        lambda y: y + np.arange(8.0, dtype=np.float32)[:, None],
    ),
    "a constant table": (
        lambda y: y @ np.triu(np.ones((8, 8), np.float32)),
        lambda y: y @ np.tril(np.ones((8, 8), np.float32)),
    ),
}


@pytest.mark.parametrize("name", SAME_SIZES)
def test_another_axis_of_the_same_size_is_no_agreement(name):
    one, other = SAME_SIZES[name]
    found = align(
        *(Model({"w": SQUARE}, lambda p, x, d=done: d(jnp.tanh(x @ p["w"]))) for done in (one, other)),
        shape(2, WIDTH, WIDTH),
    )
    assert found.differences or found.only_left, str(found)
    assert not found.ok


def test_channels_in_another_order_are_put_in_order_where_they_are_used_next():
    """What lies between two layers may be in any order: the second one's rows go with it."""

    def shuffled(y):
        return y.reshape(*y.shape[:-1], 2, 4).swapaxes(-1, -2).reshape(y.shape)

    found = align(Model(TWO, between(jnp.tanh)), Model(TWO, between(lambda y: shuffled(jnp.tanh(y)))), X)
    assert found.ok, str(found)
    layouts = {str(pair.left): pair.layout for pair in found.pairs}
    assert layouts["v"] == "reshape (2, 4, 8), transpose (1, 0, 2), reshape (8, 8)"
    assert found.verify().ok


def test_values_that_are_forgotten_to_be_transposed_are_found_at_their_place():
    """The mapping is right and the values are not: a square kernel was put in as it was."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) for _ in range(4)]

    def call(p, x):
        for w in p["w"]:
            x = jnp.tanh(x @ w)
        return x

    def turned_call(p, x):
        for w in p["w"]:
            x = jnp.tanh(x @ w.T)
        return x

    left = Model({"w": weights}, call)
    found = align(left, Model({"w": [SQUARE] * 4}, turned_call), X)
    assert found.ok
    good = [w.T for w in weights]
    assert found.verify(right_params={"w": good}).ok
    wrong = found.verify(right_params={"w": [*good[:2], weights[2], good[3]]})
    assert not wrong.ok
    assert wrong.values == (("w", "2"),)
    assert wrong.parts_at is not None
    assert [place.before for place in wrong.parts_at] == [("w", "2")] * 2


def test_a_difference_that_the_outputs_show_is_found_at_its_place():
    params = {"w": [SQUARE] * 4}

    def call(acts):
        def run(p, x):
            for w, act in zip(p["w"], acts, strict=True):
                x = act(x @ w)
            return x

        return run

    found = align(
        Model(params, call([jnp.tanh] * 4)),
        Model(params, call([jnp.tanh, jax.nn.relu, jnp.tanh, jnp.tanh])),
        X,
    )
    assert differing(found) == {("activation", "tanh", "relu"): 1}
    result = found.verify()
    assert not result
    assert "they part first at" in str(result)
    assert result.parts_at[0].before == ("w", "2")


def test_rows_of_a_table_are_taken_by_the_same_index():
    table = {"e": shape(11, 4), "w": shape(4, 3)}

    def call(index):
        return lambda p, i: p["e"][index(i)] @ p["w"]

    ids = shape(2, 5, dtype=jnp.int32)
    plain = Model(table, call(lambda i: i))
    assert align(plain, Model(table, call(lambda i: jnp.clip(i, 0, 10))), ids).ok
    moved = align(plain, Model(table, call(lambda i: jnp.maximum(i - 1, 0))), ids)
    assert not moved.ok


def test_what_is_written_otherwise_and_computes_the_same_is_no_difference():
    keep = 0.75

    def dropped(p, x):
        y = x @ p["w"]
        mask = jax.random.bernoulli(jax.random.key(3), keep, y.shape)
        return jnp.where(mask, y / keep, 0) @ p["v"]

    def multiplied(p, x):
        y = x @ p["w"]
        mask = jax.random.bernoulli(jax.random.key(7), 1 - keep, y.shape)
        return (y * (1 - mask) * (1 / keep)) @ p["v"]

    assert align(Model(TWO, dropped), Model(TWO, multiplied), X).ok

    kernel = {"k": shape(3, 3, 4, 6), "d": shape(6, 2)}

    def padded(p, x):
        return conv(padding="VALID")(p, jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))

    assert align(Model(kernel, conv(padding=((1, 1), (1, 1)))), Model(kernel, padded), IMAGE).ok


def test_a_norm_of_a_product_in_one_pass_or_in_two():
    def fast(y):
        mean = y.mean(-1, keepdims=True)
        return (y - mean) * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) - mean * mean + 1e-5)

    def gated(normed):
        return lambda p, x: normed((x @ p["w"]) * jax.nn.sigmoid(x @ p["v"]))

    assert align(Model(TWO, gated(layer_norm(1e-5))), Model(TWO, gated(fast)), X).ok
    other = align(Model(TWO, gated(layer_norm(1e-3))), Model(TWO, gated(fast)), X)
    assert differing(other) == {("epsilon", "0.001", "1e-05"): 1}


def test_sums_that_begin_with_nought():
    def call(start):
        return lambda p, x: sum((jnp.tanh(x @ p[key]) for key in "wv"), start=start)

    found = align(
        Model(TWO, call(0)), Model(TWO, lambda p, x: jnp.tanh(x @ p["w"]) + jnp.tanh(x @ p["v"])), X
    )
    assert not found.differences
    assert not found.only_left


def test_what_leads_to_no_result_is_not_looked_at():
    def call(p, x):
        jnp.zeros_like(x[:, 0] @ p["v"])
        jax.debug.print("{}", x)
        return jnp.tanh(x @ p["w"])

    found = align(Model(TWO, call), Model(TWO, lambda p, x: jnp.tanh(x @ p["w"])), X)
    assert found.ok
    assert found.opaque == ()
    assert found.unused_left == (("v",),)


def test_one_projection_of_several_is_cut_where_it_is_rotated():
    """Keys are rotated by halves and values are not, though both are in one leaf."""
    heads, size = 2, 6

    def rotated(y):
        a, b = jnp.split(y, 2, -1)
        angle = np.arange(LENGTH, dtype=np.float32)[:, None, None]
        return jnp.concatenate(
            [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1
        )

    def attend(q, k, v, o):
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", rotated(q), rotated(k)), -1)
        return jnp.einsum("bqhd,hdo->bqo", jnp.einsum("bhqk,bkhd->bqhd", weights, v), o)

    def separate(p, x):
        return attend(*(jnp.einsum("btd,dhk->bthk", x, p[n]) for n in "qkv"), p["o"])

    def joined(p, x):
        k, v = jnp.einsum("btd,ndhk->nbthk", x, p["kv"])
        return attend(jnp.einsum("btd,dhk->bthk", x, p["q"]), k, v, p["o"])

    one, out = shape(WIDTH, heads, size), shape(heads, size, WIDTH)
    left = Model({"q": one, "k": one, "v": one, "o": out}, separate)
    right = Model({"q": one, "kv": shape(2, WIDTH, heads, size), "o": out}, joined)
    for found in (align(left, right, X), align(right, left, X)):
        assert found.ok, str(found)
        assert found.verify().ok
    assert ("kv[1, :, :, :]", "v") in {(str(p.left), str(p.right)) for p in found.pairs}


def test_a_scale_is_never_taken_for_a_shift():
    params = [dict.fromkeys(("b", "g"), shape(WIDTH)) | {"w": SQUARE} for _ in range(3)]

    def call(scaled):
        def run(p, x):
            for own in p:
                y = jax.nn.gelu(x @ own["w"] + own["b"])
                x = x + (own["g"] * y if scaled else y)
            return x

        return run

    bare = [{key: own[key] for key in "wb"} for own in params]
    found = align(Model(params, call(True)), Model(bare, call(False)), X)
    assert {(pair.left_path[-1], pair.right_path[-1]) for pair in found.pairs} == {("w", "w"), ("b", "b")}
    assert all(path[-1] == "g" for path in found.only_left)


MASKED = {
    "where": lambda a, m: jnp.where(m, a, -1e9),
    "where, turned round": lambda a, m: jnp.where(~m, jnp.finfo(a.dtype).min, a),
    "where, infinite": lambda a, m: jnp.where(m, a, -jnp.inf),
    "added": lambda a, m: a + jnp.where(m, 0.0, -1e10),
    "added, times a number": lambda a, m: a + (1.0 - m.astype(a.dtype)) * -1e9,
    "as a number first": lambda a, m: jnp.where(m.astype(jnp.float32) != 0, a, -1e9),
}


@pytest.mark.parametrize("name", MASKED)
def test_a_mask_that_comes_with_the_input_is_one_however_it_is_put_to_use(name):
    def model(masked):
        def call(p, x, keep):
            q, k, v = (x @ p[n] for n in "qkv")
            return jax.nn.softmax(masked(q @ k.swapaxes(1, 2), keep[:, None]), -1) @ v @ p["o"]

        return Model(ATTENTION, call)

    inputs = X, shape(2, LENGTH, dtype=jnp.bool_)
    found = align(model(MASKED["where"]), model(MASKED[name]), inputs)
    assert found.ok, str(found)
    other = align(model(MASKED[name]), model(lambda a, m: jnp.where(m, -1e9, a)), inputs)
    assert not other.ok


PICKED = {
    "rows in order": (lambda y: y[:, :5], lambda y: y[:, jnp.arange(5)]),
    "rows in order, mapped": (
        lambda y: y[:, :5],
        lambda y: jax.vmap(lambda n: jax.lax.dynamic_index_in_dim(y, n, 1, keepdims=False), 0, 1)(
            jnp.arange(5)
        ),
    ),
    "rows turned round": (
        lambda y: jnp.concatenate([y[:, 4:], y[:, :4]], 1),
        lambda y: y[:, np.roll(np.arange(6), 2)],
    ),
    "rows repeated": (lambda y: jnp.repeat(y, 2, 1), lambda y: y[:, jnp.arange(12) // 2]),
    "rows resized": (lambda y: jnp.repeat(y, 3, 1), lambda y: jax.image.resize(y, (2, 18, WIDTH), "nearest")),
}


@pytest.mark.parametrize("name", PICKED)
def test_what_is_gathered_at_known_places_is_what_is_cut_out_there(name):
    found = align(*(Model(TWO, between(done)) for done in PICKED[name]), X)
    assert found.ok, str(found)
    assert found.verify().max_abs_difference == 0


def test_a_margin_is_padding_wherever_it_is_given():
    kernel = {"k": shape(3, 4, 6), "l": shape(3, 4, 6)}

    def conv1d(x, k, padding):
        return jax.lax.conv_general_dilated(x, k, (1,), padding, dimension_numbers=("NWC", "WIO", "NWC"))

    def own(p, x):
        return conv1d(x, p["k"], [(2, 0)]) * jax.nn.sigmoid(conv1d(x, p["l"], [(2, 0)]))

    def before(p, x):
        x = jnp.pad(x[0], ((2, 0), (0, 0)))[None]  # a view of what has a margin has it too
        return conv1d(x, p["k"], "VALID") * jax.nn.sigmoid(conv1d(x, p["l"], "VALID"))

    found = align(Model(kernel, own), Model(kernel, before), shape(1, 7, 4))
    assert found.ok, str(found)
    assert found.verify().ok


def test_an_axis_that_a_leaf_has_twice():
    """The rows and the columns of a recurrent kernel are the same units, divided alike."""

    def call(divided):
        def run(p, x):
            def step(h, now):
                h = jnp.tanh(now @ p["w"] + h @ p["v"])
                return h, h

            out = jax.lax.scan(step, jnp.zeros((2, WIDTH)), x.swapaxes(0, 1))[1]
            return out.reshape(*out.shape[:-1], 2, 4).reshape(out.shape) if divided else out

        return run

    found = align(Model(TWO, call(True)), Model({"w": SQUARE, "v": SQUARE}, call(False)), X)
    assert found.ok, str(found)
    assert twice(found) == []


def test_what_is_neither_kept_nor_contracted_alike_is_no_pair():
    one = Model({"e": shape(11, 8), "o": shape(8, 11)}, lambda p, i: p["e"][i] @ p["o"])
    other = Model(
        {"o": shape(11, 8), "c": shape(8, 8)}, lambda p, i: jax.nn.one_hot(i, 8) @ p["c"] @ p["o"].T @ p["o"]
    )
    found = align(one, other, shape(3, dtype=jnp.int32))
    assert not found.ok
    assert twice(found) == []
    assert all(pair.left.whole and pair.right.whole for pair in found.pairs)
