"""Values carried over from one model's params to another's, and both run on one input."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from plain_models import MODELS, fused_transformer, shape, transformer

from leafreport import AlignmentError, Model, align

X = shape(2, 4)


def dense(p, x):
    return jnp.tanh(x @ p["kernel"] + p["bias"])


def turned(p, x):
    return jnp.tanh(x @ p["weight"].T + p["shift"])


def pair(dtype=jnp.float32):
    left = Model({"kernel": shape(4, 3, dtype=dtype), "bias": shape(3, dtype=dtype)}, dense)
    right = Model({"weight": shape(3, 4, dtype=dtype), "shift": shape(3, dtype=dtype)}, turned)
    return align(left, right, shape(2, 4, dtype=dtype))


def values(tree, dtype=None, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(dtype or leaf.dtype), tree)


def bits(array):
    return np.asarray(array).tobytes()


# --- convert ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.int32])
def test_every_bit_is_carried_over(dtype):
    with jax.enable_x64(True):
        found = pair(dtype)
        own = values(found.left.params, dtype)
        own["kernel"].reshape(-1).view(np.uint8)[:] = np.random.default_rng(1).integers(
            0, 256, own["kernel"].nbytes
        )
        made = found.convert(own)
    assert bits(made["weight"]) == bits(np.ascontiguousarray(own["kernel"].T))
    assert bits(made["shift"]) == bits(own["bias"])
    assert made["weight"].dtype == dtype


def test_float64_is_kept_where_jax_has_no_float64():
    found = pair()
    own = values(found.left.params, np.float64)
    made = found.convert(own, right_params={"weight": np.zeros((3, 4)), "shift": np.zeros(3)})
    assert made["weight"].dtype == np.float64
    assert bits(made["weight"]) == bits(np.ascontiguousarray(own["kernel"].T))


def test_a_tree_like_the_right_one_is_given():
    found = pair()
    made = found.convert(values(found.left.params))
    assert jax.tree.structure(made) == jax.tree.structure(found.right.params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(made))
    arrays = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), found.right.params)
    made = found.convert(values(found.left.params), right_params=arrays)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(made))
    assert not arrays["weight"].any()  # what is given is not written into


def test_values_go_where_the_right_ones_lie():
    device = jax.devices()[0]
    found = pair()
    own = jax.device_put(jax.tree.map(jnp.zeros_like, values(found.right.params)), device)
    made = found.convert(values(found.left.params), right_params=own)
    assert made["weight"].sharding == own["weight"].sharding


def test_there_and_back_is_what_it_was():
    left, inputs = transformer()
    right, _ = fused_transformer()
    own = values(left.params)
    over = align(left, right, inputs).convert(own)
    back = align(right, left, inputs).convert(over)
    assert jax.tree.map(bits, back) == jax.tree.map(bits, own)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_carried_over_to_itself_computes_the_same(name):
    model, inputs = MODELS[name]()
    found = align(model, model, inputs)
    own = values(model.params)
    assert jax.tree.map(bits, found.convert(own)) == jax.tree.map(bits, own)
    assert found.verify(own).max_abs_difference == 0


def test_a_narrower_dtype_takes_what_it_can_hold():
    found = pair()
    whole = jax.tree.map(lambda leaf: np.round(leaf * 4), values(found.left.params))
    narrow = {"weight": np.zeros((3, 4), np.float16), "shift": np.zeros(3, np.float16)}
    made = found.convert(whole, right_params=narrow)
    np.testing.assert_array_equal(made["weight"], whole["kernel"].T)
    with pytest.raises(
        AlignmentError,
        match=r"(kernel|bias) is float32 and (weight|shift) is float16: .* of \d+ values would",
    ):
        found.convert(values(found.left.params), right_params=narrow)


def test_not_a_number_and_infinities_are_values_like_any_other():
    found = pair()
    own = values(found.left.params)
    own["bias"][:] = np.nan, np.inf, -np.inf
    wide = {"weight": np.zeros((3, 4), np.float64), "shift": np.zeros(3, np.float64)}
    np.testing.assert_array_equal(found.convert(own, right_params=wide)["shift"], own["bias"])


def test_what_has_no_partner_stays_and_is_listed():
    left = Model({"w": shape(4, 3)}, lambda p, x: x @ p["w"])
    right = Model(
        {
            "w": shape(3, 4),
            "b": shape(3),
            "spare": shape(7),
            "rng": jax.eval_shape(lambda: jax.random.key(0)),
        },
        lambda p, x: x @ p["w"].T + p["b"],
    )
    found = align(left, right, X)
    assert found.only_right == (("b",),)
    assert set(found.unused_right) == {("spare",), ("rng",)}
    assert set(found.kept) == {("b",), ("spare",), ("rng",)}
    own = values(left.params)
    with pytest.raises(AlignmentError, match="uses b, which nothing on the left is and which has no values"):
        found.convert(own)
    given = {
        "w": np.zeros((3, 4), np.float32),
        "b": np.ones(3, np.float32),
        "spare": np.full(7, 2.0),
        "rng": jax.random.key(3),
    }
    made = found.convert(own, right_params=given)
    np.testing.assert_array_equal(made["w"], own["w"].T)
    assert made["b"] is given["b"]
    assert made["spare"] is given["spare"]
    assert (jax.random.key_data(made["rng"]) == jax.random.key_data(given["rng"])).all()


def symmetric():
    model = Model(
        {"a": shape(4, 4), "b": shape(4, 4)}, lambda p, x: jnp.tanh(x @ p["a"]) + jnp.tanh(x @ p["b"])
    )
    return align(model, model, X)


def test_what_is_open_is_refused_until_it_is_chosen():
    found = symmetric()
    own = values(found.left.params)
    for act in (found.convert, found.verify):
        with pytest.raises(
            AlignmentError,
            match=r"a could be a, b; 1 more pair is open\. Say which by align\(\.\.\., mapping",
        ):
            act(own)
        with pytest.raises(AlignmentError, match="choose is 'all'"):
            act(own, choose="all")
    np.testing.assert_array_equal(found.convert(own, choose="listed")["a"], own["a"])
    assert found.verify(own, choose="listed").ok


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (None, "left_params must be given"),
        ({"kernel": np.zeros((4, 3))}, "left_params has 1 leaf, the model 2"),
        (
            {"kernel": np.zeros((3, 4)), "bias": np.zeros(3)},
            r"kernel has shape \(3, 4\), the model's has \(4, 3\)",
        ),
    ],
)
def test_another_tree_is_refused(wrong, said):
    with pytest.raises(AlignmentError, match=said):
        pair().convert(wrong)


def test_abstract_values_are_refused():
    found = pair()
    with pytest.raises(
        AlignmentError, match="no values to convert: the left model's bias, kernel are abstract"
    ):
        found.convert(found.left.params)


def test_one_array_under_two_paths_stays_one():
    table = shape(7, 4)

    def tied(p, ids):
        return p["in"][ids] @ p["out"].T

    one = Model({"table": table}, lambda p, ids: p["table"][ids] @ p["table"].T)
    array = jnp.zeros((7, 4))
    two = Model({"in": array, "out": array}, tied)
    found = align(one, two, shape(3, dtype=jnp.int32))
    assert found.ok, str(found)
    made = found.convert(values(one.params))
    assert made["in"] is made["out"]
    assert found.kept == ()


def test_leaves_without_elements_and_of_no_axes():
    def call(p, x):
        return (x @ p["none"]).sum() * p["scale"] + x

    one = Model({"none": shape(4, 0), "scale": shape()}, call)
    other = Model({"s": shape(1), "n": shape(0, 4)}, lambda p, x: (x @ p["n"].T).sum() * p["s"][0] + x)
    found = align(one, other, X)
    assert found.ok, str(found)
    made = found.convert({"none": np.zeros((4, 0), np.float32), "scale": np.float32(3)})
    assert made["s"].tolist() == [3]
    assert made["n"].shape == (0, 4)


# --- verify -------------------------------------------------------------------------------------------------


def test_values_are_drawn_where_there_are_none():
    found = pair()
    result = found.verify()
    assert result.ok
    assert bool(result)
    assert result.max_rel_difference <= 1e-6
    assert result.parts_at is None
    assert str(result).startswith("outputs agree: at most ")
    assert found.verify(seed=1) != found.verify(seed=2) or found.verify(seed=1).max_abs_difference == 0


def test_inputs_are_taken_as_given_or_drawn_among_the_rows_they_index():
    seen = []

    def call(p, ids, mask):
        jax.debug.callback(lambda i, m: seen.append((np.asarray(i), np.asarray(m))), ids, mask)
        return jnp.where(mask[..., None], p["e"][ids], 0)

    model = Model({"e": shape(5, 3)}, call)
    inputs = shape(4, 6, dtype=jnp.int32), shape(4, 6, dtype=jnp.bool_)
    found = align(model, model, inputs)
    assert found.verify().ok
    assert all(ids.min() >= 0 and ids.max() < 5 for ids, _ in seen)
    assert len({bool(m) for m in seen[0][1].reshape(-1)}) == 2
    seen.clear()
    own = np.full((4, 6), 4, np.int32), np.ones((4, 6), bool)
    assert found.verify(x=own).ok
    assert all((ids == 4).all() for ids, _ in seen)


def test_half_precision_is_compared_with_the_highest_precision_of_products():
    found = pair(jnp.bfloat16)
    assert found.verify().max_abs_difference == 0


def test_right_params_of_ones_own_are_compared_and_what_differs_is_listed():
    found = pair()
    own = values(found.left.params)
    right = jax.tree.map(np.array, found.convert(own))
    assert found.verify(own, right_params=right).values == ()
    right["shift"][1] += 1
    result = found.verify(own, right_params=right)
    assert not result.ok
    assert result.values == (("shift",),)
    assert "not the left values carried over: shift" in str(result)
    assert result.parts_at[0].after == ("bias",)
    assert result.parts_at[1].after == ("shift",)


def test_a_tolerance_can_be_given():
    found = pair()
    own = values(found.left.params)
    right = jax.tree.map(lambda leaf: np.asarray(leaf) * (1 + 1e-4), found.convert(own))
    assert not found.verify(own, right_params=right)
    assert found.verify(own, right_params=right, rtol=1e-2)


def test_inputs_of_another_layout_are_laid_out():
    kernel = {"k": shape(3, 3, 2, 5)}

    def last(p, x):
        return jax.lax.conv_general_dilated(
            x, p["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def first(p, x):
        return jax.lax.conv_general_dilated(
            x, p["k"], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
        )

    found = align(
        Model(kernel, last),
        Model({"k": shape(5, 2, 3, 3)}, first),
        shape(2, 6, 7, 2),
        x_right=shape(2, 2, 6, 7),
    )
    assert found.ok, str(found)
    assert found.verify().max_abs_difference == 0
    image = np.random.default_rng(0).normal(size=(2, 6, 7, 2)).astype(np.float32)
    assert found.verify(x=image, x_right=image.transpose(0, 3, 1, 2)).ok
    assert not found.verify(x=image, x_right=np.zeros((2, 2, 6, 7), np.float32))


def test_nothing_can_be_run_without_programs():
    found = align({"a": shape(3)}, {"a": shape(3)})
    with pytest.raises(AlignmentError, match=r"aligned without an input\. Give it: align\(left, right, x\)"):
        found.verify()


def test_two_formulas_of_one_cell_are_told_apart_and_why():
    """A GRU that resets before the product, and one that resets after it, hold other functions."""
    keys = ("ir", "iz", "in", "hr", "hz", "hn")
    params = {key: shape(4, 4) for key in keys} | {"b": shape(4)}

    def gru(*, after):
        def call(p, xs):
            def step(h, x):
                r = jax.nn.sigmoid(x @ p["ir"] + h @ p["hr"])
                z = jax.nn.sigmoid(x @ p["iz"] + h @ p["hz"])
                new = r * (h @ p["hn"]) if after else (r * h) @ p["hn"]
                n = jnp.tanh(x @ p["in"] + new + p["b"])
                h = (1 - z) * n + z * h
                return h, h

            return jax.lax.scan(step, jnp.zeros((2, 4)), xs)[1]

        return Model(params, call)

    found = align(gru(after=True), gru(after=False), shape(5, 2, 4))
    assert not found.ok
    assert any("hn" in str(difference) for difference in found.differences)
    assert all(p.left_path == p.right_path for p in found.pairs), str(found)
