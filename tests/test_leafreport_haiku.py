"""The Haiku adapter: transformed functions as models, and what is known of their leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leafreport import ModelError, adapter, report

hk = pytest.importorskip("haiku")

X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
ABSTRACT = jax.ShapeDtypeStruct((4, 6), np.float32)
KEY = jax.random.PRNGKey(0)


def model(transformed, *inputs, **options):
    return adapter("haiku").model(transformed, *inputs, **options)


def told(tree, **options):
    """What a report says of each leaf: role, owner, axes and how many layers it holds."""
    r = report(tree, **options)
    return {leaf.name: (leaf.role, leaf.owner, leaf.axes, leaf.stacked) for leaf in r}


def orders(made):
    """The layers of a model in the order in which they are called."""
    found = {"/".join(fact.module): fact.order for fact in made.facts}
    return sorted(found, key=found.__getitem__)


def equal(left, right):
    return jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), left, right))


def close(left, right):
    np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


WEIGHT = ("params", "Linear", ("in", "out"), None)
BIAS = ("params", "Linear", ("out",), None)


def linears(*names, stacked=None):
    """What is told of linear layers of these names."""
    told = {"w": (*WEIGHT[:3], stacked), "b": (*BIAS[:3], stacked)}
    return {f"{name}/{leaf}": fact for name in names for leaf, fact in told.items()}


def mlp(x):
    return hk.nets.MLP([8, 3])(x)


def normed(x, is_training=True):
    return hk.BatchNorm(True, True, 0.9)(hk.Linear(6)(x), is_training)


def dropped(x, rate=0.5):
    return hk.dropout(hk.next_rng_key(), rate, hk.Linear(6)(x)) if rate else hk.Linear(6)(x)


# --- A function and its inputs ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("way", ["transform", "without_apply_rng"])
def test_model_is_the_functions_own_init_and_apply(seed, way):
    transformed = hk.transform(mlp)
    by_hand = transformed.init(jax.random.PRNGKey(seed), X)
    made = model(transformed if way == "transform" else hk.without_apply_rng(transformed), X, seed=seed)
    assert equal(made.params, by_hand)
    expected = transformed.apply(by_hand, None, X)
    np.testing.assert_array_equal(made.apply(made.params, X), expected)
    close(jax.jit(made.apply)(made.params, X), expected)
    assert told(made) == linears("mlp/~/linear_0", "mlp/~/linear_1")


@pytest.mark.parametrize("function", [mlp, normed])
def test_abstract_inputs_give_abstract_params_and_the_same_facts(function):
    transformed = hk.transform_with_state(function)
    concrete, abstract = model(transformed, X), model(transformed, ABSTRACT)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract.params))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(concrete.params))
    assert concrete.facts == abstract.facts
    assert told(concrete) == told(abstract)


@pytest.mark.parametrize("rng", [True, False])
def test_state_is_beside_the_params(rng):
    """Its leaves are no parameters: six of ten, each (1, 6)."""
    transformed = hk.transform_with_state(normed)
    made = model(transformed if rng else hk.without_apply_rng(transformed), X)
    ema = ("statistics", "ExponentialMovingAverage", None, None)
    assert told(made) == {
        "params/batch_norm/offset": ("params", "BatchNorm", ("features", "features"), None),
        "params/batch_norm/scale": ("params", "BatchNorm", ("features", "features"), None),
        **{f"params/{name}": fact for name, fact in linears("linear").items()},
        **{
            f"state/batch_norm/~/{statistic}_ema/{leaf}": ema
            for statistic in ("mean", "var")
            for leaf in ("average", "counter", "hidden")
        },
    }
    r = report(made)
    assert r["params/batch_norm/offset"].shape == (1, 6)
    assert {role: sums.leaf_count for role, sums in r.roles.items()} == {"params": 4, "statistics": 6}
    params, state = transformed.init(KEY, X)
    np.testing.assert_array_equal(made.apply(made.params, X), transformed.apply(params, state, KEY, X)[0])
    close(jax.jit(made.apply)(made.params, X), made.apply(made.params, X))


def test_call_in_another_mode_than_init_takes_params():
    """A new BatchNorm cannot begin with is_training=False: Haiku says so itself."""
    transformed = hk.transform_with_state(normed)
    with pytest.raises(ValueError, match="perhaps set an init function"):
        transformed.init(KEY, X, is_training=False)
    with pytest.raises(ModelError, match="perhaps set an init function"):
        model(transformed, X, is_training=False)
    params, state = transformed.init(KEY, X)
    _, state = transformed.apply(params, state, None, X * 2 + 1)
    made = model(transformed, X, params={"params": params, "state": state}, is_training=False)
    assert told(made) == told(model(transformed, X))
    expected, _ = transformed.apply(params, state, None, X, is_training=False)
    np.testing.assert_array_equal(made.apply(made.params, X), expected)


@pytest.mark.parametrize("inputs", [(X,), (ABSTRACT,)], ids=["concrete", "abstract"])
def test_model_takes_params_and_changes_none(inputs):
    transformed = hk.transform(mlp)
    params = jax.tree.map(lambda leaf: leaf + 1, transformed.init(KEY, X))
    kept = jax.tree.map(np.array, params)
    made = model(transformed, *inputs, params=params)
    assert made.params is params
    np.testing.assert_array_equal(made.apply(params, X), transformed.apply(params, None, X))
    assert equal(params, kept)
    assert told(made) == linears("mlp/~/linear_0", "mlp/~/linear_1")


@pytest.mark.parametrize("rate", [0.5, None])
def test_options_stay_as_they_are_and_draws_are_repeatable(rate):
    made = model(hk.transform(dropped), X, rate=rate)
    y = made.apply(made.params, X)
    assert bool((y == 0).any()) == (rate is not None)
    np.testing.assert_array_equal(made.apply(made.params, X), y)
    close(jax.jit(made.apply)(made.params, X), y)
    np.testing.assert_array_equal(y, hk.transform(dropped).apply(made.params, KEY, X, rate=rate))


def test_python_values_among_the_inputs_stay_as_they_are():
    made = model(hk.transform(dropped), X, None)
    np.testing.assert_array_equal(
        made.apply(made.params, X, None), hk.transform(dropped).apply(made.params, KEY, X, None)
    )
    made = model(hk.transform_with_state(normed), ABSTRACT, True)
    assert len(told(made)) == 10


# --- What is told of each leaf ------------------------------------------------------------------------------


def outer_first(x):
    return hk.Linear(6)(hk.Linear(24)(x))


def constructed_first(x):
    z, a = hk.Linear(6, name="z"), hk.Linear(6, name="a")
    return z(a(x))


def called_again(x):
    z, a = hk.Linear(6, name="z"), hk.Linear(6, name="a")
    return z(a(z(x)))


def twelve(x):
    for _ in range(12):
        x = hk.Linear(6)(x)
    return x


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (outer_first, ["linear_1", "linear"]),  # names follow what is constructed first
        (constructed_first, ["a", "z"]),
        (called_again, ["z", "a"]),  # the first call counts
        (twelve, ["linear", *(f"linear_{n}" for n in range(1, 12))]),
    ],
)
def test_order_is_that_of_the_calls(function, expected):
    """Neither the order of the names nor that of the flattened dict, which a trace sorts."""
    made = model(hk.transform(function), ABSTRACT)
    assert orders(made) == expected
    assert [path[0] for path in report(made).paths[::2]] == sorted(expected)


def test_stack_is_called_as_haiku_calls_it():
    made = adapter("haiku").dense_stack(0, ABSTRACT, 12, abstract=True)
    assert orders(made) == orders(model(hk.transform(twelve), ABSTRACT))
    assert told(made) == told(model(hk.transform(twelve), ABSTRACT))


class Nested(hk.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner = hk.Linear(6), hk.nets.MLP([6])

    def __call__(self, x):
        scale = hk.get_parameter("scale", (6,), init=jnp.ones)
        return hk.Linear(6)(self.inner(self.first(x))) * scale


def test_names_with_slashes_are_one_step_of_the_path():
    made = model(hk.transform(lambda x: Nested()(x)), ABSTRACT)
    assert told(made) == linears("nested/linear", "nested/~/linear", "nested/~/mlp/~/linear_0") | {
        "nested/scale": ("params", "Nested", None, None)
    }
    assert report(made).paths[-1] == ("nested/~/mlp/~/linear_0", "w")
    assert made.facts[-1].module == ("nested", "~", "mlp", "~", "linear_0")


def bare(x):
    return x * hk.get_parameter("w", (6,), init=jnp.ones) + hk.get_state("c", (), init=jnp.zeros)


def test_what_no_module_holds_has_no_owner():
    made = model(hk.transform_with_state(bare), ABSTRACT)
    assert told(made) == {
        "params/~/w": ("params", None, None, None),
        "state/~/c": ("statistics", None, None, None),
    }


def layered(x):
    return hk.experimental.layer_stack(12)(lambda x: hk.Linear(6)(x))(x)


def mapped_and_lifted(x):
    inner = hk.transform(lambda x: hk.Linear(6)(x))
    keys = jax.random.split(hk.next_rng_key(), 12) if hk.running_init() else jnp.zeros((12, 2), jnp.uint32)
    params = hk.lift(jax.vmap(inner.init, in_axes=(0, None)), name="mapped")(keys, x)
    return jax.vmap(inner.apply, in_axes=(0, None, None))(params, None, x)


@pytest.mark.parametrize(
    ("function", "place"),
    [(layered, "__layer_stack_no_per_layer/linear"), (mapped_and_lifted, "mapped/linear")],
)
@pytest.mark.parametrize("given", [False, True])
def test_stacked_layers_are_counted(function, place, given):
    """A (12, 6) bias looks like a matrix: it is twelve biases."""
    transformed = hk.transform(function)
    made = model(transformed, X, params=transformed.init(KEY, X) if given else None)
    assert told(made) == linears(place, stacked=12)
    r = report(made)
    assert (r.leaf_count, r.logical_leaf_count) == (2, 24)
    assert r.leaves[0].shape == (12, 6)
    np.testing.assert_array_equal(made.apply(made.params, X), transformed.apply(made.params, KEY, X))


def lifted(x):
    inner = hk.transform(lambda x: hk.Linear(6)(hk.nets.MLP([6])(x)))
    params = hk.lift(inner.init, name="lifted")(hk.next_rng_key() if hk.running_init() else None, x)
    return hk.Linear(6, name="linear")(inner.apply(params, None, x))


@pytest.mark.parametrize("given", [False, True])
def test_lifted_functions_have_their_place(given):
    transformed = hk.transform(lifted)
    made = model(transformed, X, params=transformed.init(KEY, X) if given else None)
    assert told(made) == linears("linear", "lifted/linear", "lifted/mlp/~/linear_0")
    np.testing.assert_array_equal(made.apply(made.params, X), transformed.apply(made.params, KEY, X))
    assert orders(made) == ["lifted/mlp/~/linear_0", "lifted/linear", "linear"]


def test_transparently_lifted_functions_keep_their_names():
    def function(x):
        inner = hk.transform(mlp)
        params = hk.transparent_lift(inner.init)(hk.next_rng_key() if hk.running_init() else None, x)
        return inner.apply(params, None, x)

    assert told(model(hk.transform(function), X)) == linears("mlp/~/linear_0", "mlp/~/linear_1")


def test_reused_module_is_one():
    def function(x):
        layer = hk.Linear(6)
        return layer(layer(x))

    made = model(hk.transform(function), X)
    assert told(made) == linears("linear")
    assert report(made).logical_leaf_count == 2


class MyLinear(hk.Linear):
    """A layer that someone derived."""


NORM = ("features",)


@pytest.mark.parametrize(
    ("function", "shape", "expected"),
    [
        (lambda x: MyLinear(3, with_bias=False)(x), (4, 6), {"my_linear/w": ("MyLinear", ("in", "out"))}),
        (
            lambda x: hk.Conv2D(5, (3, 2))(x),
            (4, 8, 8, 6),
            {"conv2_d/b": ("Conv2D", ("out",)), "conv2_d/w": ("Conv2D", ("height", "width", "in", "out"))},
        ),
        (
            lambda x: hk.Conv2DTranspose(5, (3, 2), with_bias=False)(x),
            (4, 8, 8, 6),
            {"conv2_d_transpose/w": ("Conv2DTranspose", ("height", "width", "out", "in"))},
        ),
        (
            lambda x: hk.Conv1D(5, 3, with_bias=False)(x),
            (4, 8, 6),
            {"conv1_d/w": ("Conv1D", ("width", "in", "out"))},
        ),
        (
            lambda x: hk.LayerNorm(-1, True, True)(x),
            (4, 6),
            {"layer_norm/offset": ("LayerNorm", NORM), "layer_norm/scale": ("LayerNorm", NORM)},
        ),
        (lambda x: hk.RMSNorm(-1)(x), (4, 6), {"rms_norm/scale": ("RMSNorm", NORM)}),
        (
            lambda x: hk.GRU(7)(x, jnp.zeros((4, 7)))[0],
            (4, 6),
            {"gru/b": ("GRU", None), "gru/w_h": ("GRU", None), "gru/w_i": ("GRU", None)},
        ),
        (
            lambda x: hk.Embed(10, 6)(x.astype(int)),
            (4,),
            {"embed/embeddings": ("Embed", ("vocabulary", "features"))},
        ),
        (
            lambda x: hk.remat(hk.Linear(3, with_bias=False))(x),
            (4, 6),
            {"linear/w": ("Linear", ("in", "out"))},
        ),
    ],
    ids=["derived", "conv", "transposed", "conv1d", "layer", "rms", "gru", "embed", "remat"],
)
def test_layers_tell_their_axes(function, shape, expected):
    made = model(hk.transform(function), jax.ShapeDtypeStruct(shape, np.float32))
    assert told(made) == {name: ("params", *fact, None) for name, fact in expected.items()}


# --- A tree alone -------------------------------------------------------------------------------------------


def test_trees_alone_have_roles_where_they_name_their_parts():
    params, state = hk.transform_with_state(normed).init(KEY, X)
    named = told({"params": params, "state": state, "key": jax.random.key(0), "steps": 3}, adapter="haiku")
    assert [fact[0] for fact in named.values()] == ["rng", *["params"] * 4, *["statistics"] * 6, "static"]
    assert {fact[1:] for fact in named.values()} == {(None, None, None)}
    assert {fact[0] for fact in told(params, adapter="haiku").values()} == {None}


# --- What it refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "found"),
    [
        (hk.Linear, "the class Linear"),
        (mlp, "a function"),
        (None, "a NoneType"),
        (hk.multi_transform(lambda: (mlp, (mlp,))), "a MultiTransformed"),
    ],
    ids=["class", "function", "none", "multi"],
)
def test_what_is_no_transformed_function_is_refused(obj, found):
    message = (
        rf"^the haiku adapter takes what hk\.transform or hk\.transform_with_state gives; this is {found}\.$"
    )
    with pytest.raises(ModelError, match=message):
        model(obj, X)


def broken(x):
    raise RuntimeError(f"two\nlines on {x.shape} after {hk.Linear(3)(x).shape}")


@pytest.mark.parametrize(
    ("function", "inputs", "options", "message"),
    [
        (mlp, (), {}, r"^Transformed cannot be traced without inputs: TypeError: "),
        (mlp, (X, 1), {}, r"^Transformed cannot be traced on float32\[4,6\], 1: TypeError: "),
        (mlp, (X,), {"nope": 1}, r"unexpected keyword argument 'nope'"),
        (mlp, (X,), {"params": {}}, r"ValueError: .*parameter.*must be created as part of `init`"),
        (broken, (X,), {}, r": RuntimeError: two lines on \(4, 6\) after \(4, 3\)\. Give the inputs"),
    ],
    ids=["none", "too many", "option", "no params", "broken"],
)
def test_what_cannot_be_traced_is_told_and_leaves_nothing_behind(function, inputs, options, message):
    before = dict(vars(hk.Module)), dict(vars(hk.Linear))
    with pytest.raises(ModelError, match=message) as caught:
        model(hk.transform(function), *inputs, **options)
    assert "\n" not in str(caught.value)
    assert (dict(vars(hk.Module)), dict(vars(hk.Linear))) == before
    with pytest.raises(ValueError, match=r"hk\.transform"):  # no transform is under way
        hk.next_rng_key()
    assert told(model(hk.transform(twelve), X)) == told(model(hk.transform(twelve), ABSTRACT))
