"""The Equinox adapter: modules as models, their state, and what is known of their leaves."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leafreport import ModelError, adapter, report

eqx = pytest.importorskip("equinox")

X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
BATCH = jax.ShapeDtypeStruct((4, 6), np.float32)
ONE = jax.ShapeDtypeStruct((6,), np.float32)
KEY = jax.random.PRNGKey(0)


def model(module, *inputs, **options):
    return adapter("equinox").model(module, *inputs, **options)


def told(tree, **options):
    """What a report says of each leaf: role, owner, axes and how many layers it holds."""
    r = report(tree, **options)
    return {leaf.name: (leaf.role, leaf.owner, leaf.axes, leaf.stacked) for leaf in r}


def linear(inputs=6, outputs=6, **options):
    return eqx.nn.Linear(inputs, outputs, key=KEY, **options)


def close(left, right):
    np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


WEIGHT = ("params", "Linear", ("out", "in"), None)
BIAS = ("params", "Linear", ("out",), None)


class Custom(eqx.Module):
    linear: eqx.nn.Linear
    text: str
    number: int
    scale: float
    function: Callable
    array: np.ndarray
    key: jax.Array
    count: jax.Array
    nothing: None
    static: int = eqx.field(static=True)

    def __call__(self, x):
        y = self.function(self.linear(x)) * self.scale + self.array.sum().astype(np.float32)
        return y + jax.random.normal(self.key, y.shape) + self.count


def custom():
    return Custom(
        linear(), "text", 1, 2.0, jnp.tanh, np.ones(3), jax.random.key(0), jnp.ones((), jnp.int32), None, 3
    )


# --- A module and its inputs --------------------------------------------------------------------------------


def test_model_is_the_modules_own_arrays_and_call():
    """Of an MLP's eight leaves two are functions: they are in the call, not in the params."""
    module = eqx.nn.MLP(6, 3, 8, 2, key=KEY)
    made = model(module, X[0])
    assert len(jax.tree.leaves(module)) == 8
    assert told(made) == {
        f"layers/{n}/{leaf}": WEIGHT if leaf == "weight" else BIAS
        for n in range(3)
        for leaf in ("weight", "bias")
    }
    assert all(
        a is b
        for a, b in zip(
            jax.tree.leaves(made.params), jax.tree.leaves(eqx.filter(module, eqx.is_array)), strict=True
        )
    )
    np.testing.assert_array_equal(made.apply(made.params, X[0]), module(X[0]))
    close(jax.jit(made.apply)(made.params, X[0]), module(X[0]))


@pytest.mark.parametrize("inputs", [(BATCH,), (ONE,), ()], ids=["batch", "one", "none"])
def test_abstract_module_has_the_facts_of_a_concrete_one(inputs):
    """What Equinox calls an array is none that is abstract: a filter by it would leave nothing."""

    def make():
        return eqx.nn.MLP(6, 3, 8, 2, key=KEY)

    abstract = eqx.filter_eval_shape(make)
    assert not jax.tree.leaves(eqx.filter(abstract, eqx.is_array))
    expected = told(model(make(), *inputs))
    assert len(expected) == 6
    for obj in (abstract, make):
        made = model(obj, *inputs)
        assert told(made) == expected
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(made.params))


def test_factory_makes_no_array():
    made = model(lambda: linear(2**20, 2**20), jax.ShapeDtypeStruct((2**20,), np.float32))  # 4 TiB
    assert report(made).nbytes == 4 * (2**40 + 2**20)


@pytest.mark.parametrize("batched", [None, True])
def test_batch_is_mapped_over(batched):
    module = eqx.nn.MLP(6, 3, 8, 2, key=KEY)
    made = model(module, BATCH, batched=batched)
    close(made.apply(made.params, X), jax.vmap(module)(X))
    close(jax.jit(made.apply)(made.params, X), jax.vmap(module)(X))


def test_batched_is_as_it_is_told():
    """A batch as large as the layer is wide fits either way; only who calls it knows which is meant."""
    square, module = X[[0, 1, 2, 3, 0, 1]], linear()
    by_row, as_it_is = jax.vmap(module)(square), module(square)
    assert not np.allclose(by_row, as_it_is)
    close(model(module, square, batched=True).apply(module, square), by_row)
    close(model(module, square, batched=False).apply(module, square), as_it_is)
    with pytest.raises(ModelError, match=r"^Linear can be called .* Say batched=False or batched=True\.$"):
        model(module, square)
    with pytest.raises(ModelError, match=r"^Linear cannot be traced on float32\[4,6\]: "):
        model(module, BATCH, batched=False)
    with pytest.raises(ModelError, match=r"^Linear cannot be traced on float32\[6\]: "):
        model(module, ONE, batched=True)


def test_call_that_needs_a_key_gets_one_fixed_key():
    module = eqx.nn.Sequential(
        [linear(), eqx.nn.Lambda(jax.nn.relu), linear(6, 2, use_bias=False), eqx.nn.Dropout(0.5)]
    )
    assert len(jax.tree.leaves(module)) == 6
    made = model(module, BATCH)
    assert told(made) == {"layers/0/weight": WEIGHT, "layers/0/bias": BIAS, "layers/2/weight": WEIGHT}
    y = made.apply(made.params, X)
    assert (y == 0).any()  # what dropout left out
    np.testing.assert_array_equal(made.apply(made.params, X), y)
    close(y, jax.vmap(lambda x: module(x, key=KEY))(X))
    inference = eqx.nn.inference_mode(module)
    close(model(inference, BATCH).apply(made.params, X), jax.vmap(inference)(X))


def test_options_and_python_values_stay_as_they_are():
    attention = eqx.nn.MultiheadAttention(2, 6, dropout_p=0.5, key=KEY)
    made = model(attention, X, X, X, None, inference=True)
    expected = attention(X, X, X, None, inference=True)
    np.testing.assert_array_equal(made.apply(made.params, X, X, X, None), expected)


def test_inputs_may_be_trees():
    cell = eqx.nn.LSTMCell(6, 7, key=KEY)
    zeros = np.zeros((4, 7), np.float32)
    made = model(cell, X, (zeros, zeros))
    close(made.apply(made.params, X, (zeros, zeros))[0], jax.vmap(cell)(X, (zeros, zeros))[0])


def test_leaves_that_are_no_arrays_are_left_to_the_call():
    module = custom()
    made = model(module, X[0])
    assert told(made) == {
        "linear/weight": WEIGHT,
        "linear/bias": BIAS,
        "array": ("params", "Custom", None, None),
        "key": ("rng", "Custom", None, None),
        "count": ("other", "Custom", None, None),
    }
    close(made.apply(made.params, X[0]), module(X[0]))
    assert told(module, adapter="equinox") == told(made) | dict.fromkeys(
        ("text", "number", "scale", "function"), ("static", "Custom", None, None)
    )


def test_model_leaves_the_module_as_it_was():
    module = custom()
    leaves = jax.tree.leaves(module)
    made = model(module, X[0])
    made.apply(jax.tree.map(lambda leaf: leaf, made.params), X[0])
    assert all(a is b for a, b in zip(leaves, jax.tree.leaves(module), strict=True))


# --- State --------------------------------------------------------------------------------------------------


def norm(mode):
    return eqx.nn.make_with_state(eqx.nn.BatchNorm)(6, "batch", mode=mode)


STATE = {
    "ema": ("ema_first_time_index", "ema_state_index/0", "ema_state_index/1"),
    "batch": ("batch_counter", "batch_state_index/0", "batch_state_index/1"),
}


def by_hand(module, state, x, **options):
    call = jax.vmap(lambda x: module(x, state, **options), axis_name="batch", out_axes=(0, None))
    return call(x)[0]


@pytest.mark.parametrize("mode", ["ema", "batch"])
@pytest.mark.parametrize("way", ["pair", "factory", "abstract"])
def test_state_is_named_by_its_layers(mode, way):
    """Its own paths are numbers alone."""
    obj = {"pair": norm(mode), "factory": lambda: norm(mode), "abstract": eqx.filter_eval_shape(norm, mode)}[
        way
    ]
    made = model(obj, BATCH)
    assert told(made) == {
        "module/weight": ("params", "BatchNorm", ("features",), None),
        "module/bias": ("params", "BatchNorm", ("features",), None),
    } | {f"state/{name}": ("statistics", "BatchNorm", None, None) for name in STATE[mode]}
    assert report(made).roles["statistics"].leaf_count == 3
    assert (way == "pair") == isinstance(jax.tree.leaves(made.params)[0], jax.Array)


@pytest.mark.parametrize("mode", ["ema", "batch"])
@pytest.mark.parametrize("inference", [False, True])
def test_call_with_a_state_is_the_modules_own(mode, inference):
    """The module's call spends the state, which can be read no more: the model has its own."""
    module, state = norm(mode)
    _, state = jax.vmap(module, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(X * 2 + 1, state)
    made = model((module, state), BATCH, inference=inference)
    expected = by_hand(module, state, X, inference=inference)
    for _ in range(2):
        close(made.apply(made.params, X), expected)
    close(jax.jit(made.apply)(made.params, X), expected)


class Nested(eqx.Module):
    first: eqx.nn.BatchNorm
    layers: list
    spectral: eqx.nn.SpectralNorm

    def __init__(self):
        self.first = eqx.nn.BatchNorm(6, "batch", mode="batch")
        self.layers = [linear(), eqx.nn.BatchNorm(6, axis_name=("batch",), mode="ema")]
        self.spectral = eqx.nn.SpectralNorm(linear(), "weight", key=KEY)

    def __call__(self, x, state):
        x, state = self.first(x, state)
        x, state = self.layers[1](self.layers[0](x), state)
        return self.spectral(x, state)


def test_state_of_nested_layers_keeps_to_its_layer():
    module, state = eqx.nn.make_with_state(Nested)()
    made = model((module, state), BATCH)
    found = {(leaf.name.split("/")[1], leaf.owner) for leaf in report(made) if leaf.role == "statistics"}
    assert found == {
        ("first.batch_counter", "BatchNorm"),
        ("first.batch_state_index", "BatchNorm"),
        ("layers.1.ema_first_time_index", "BatchNorm"),
        ("layers.1.ema_state_index", "BatchNorm"),
        ("spectral.uv_index", "SpectralNorm"),
    }
    assert {fact.module for fact in made.facts if fact.role == "statistics"} == {
        ("first",), ("layers", "1"), ("spectral",)
    }  # fmt: skip
    close(made.apply(made.params, X), by_hand(module, state, X))
    moved = jax.tree.map(lambda leaf: leaf, made.params)
    moved["state"]["spectral.uv_index"] = jax.tree.map(
        lambda leaf: leaf[::-1], moved["state"]["spectral.uv_index"]
    )
    assert not np.allclose(
        made.apply(moved, X), made.apply(made.params, X)
    )  # the values given are the ones used


def test_layer_that_is_there_twice_may_have_one_state():
    """`make_with_state` gives each place its own; a state made directly goes by the layer."""
    layer = eqx.nn.BatchNorm(6, "batch", mode="ema")
    module = eqx.nn.Sequential([layer, layer])
    twice = eqx.nn.make_with_state(lambda: module)()
    once = eqx.nn.delete_init_state(module), eqx.nn.State(module)
    for pair, places in ((twice, (0, 1)), (once, (0,))):
        made = model(pair, BATCH)
        assert [name for name in report(made).names if name.startswith("state/")] == [
            f"state/layers.{place}.{name}" for place in places for name in STATE["ema"]
        ]
        close(made.apply(made.params, X), by_hand(*pair, X))


def test_state_alone_is_statistics():
    _, state = norm("ema")
    assert set(told(state, adapter="equinox").values()) == {("statistics", None, None, None)}
    assert len(report({"state": state, "x": 1.0}, adapter="equinox")) == 4


# --- What is told of each leaf ------------------------------------------------------------------------------


def test_vmapped_layers_are_stacked():
    """A (12, 6) bias looks like a matrix: it is twelve biases."""
    stacked = eqx.filter_vmap(lambda key: eqx.nn.Linear(6, 6, key=key))(jax.random.split(KEY, 12))
    made = model(stacked)
    assert told(made) == {
        "weight": ("params", "Linear", ("out", "in"), 12),
        "bias": ("params", "Linear", ("out",), 12),
    }
    r = report(made)
    assert (r.leaf_count, r.logical_leaf_count) == (2, 24)
    assert r["bias"].shape == (12, 6)


def test_tied_layer_has_its_leaves_twice_and_is_counted_once():
    layer = linear()
    r = report(model(eqx.nn.Sequential([layer, layer]), ONE))
    assert (r.leaf_count, r.param_count, r.repeated_nbytes) == (4, 42, 4 * 42)
    assert r["layers/1/weight"].shared_with == (("layers", "0", "weight"),)


class Shared(eqx.Module):
    shared: eqx.nn.Shared

    def __init__(self):
        embedding, head = eqx.nn.Embedding(10, 6, key=KEY), linear(6, 10, use_bias=False)
        self.shared = eqx.nn.Shared(
            (embedding, head), lambda pair: pair[1].weight, lambda pair: pair[0].weight
        )

    def __call__(self, token):
        embedding, head = self.shared()
        return head(embedding(token))


def test_shared_weight_is_one_array():
    module = Shared()
    made = model(module, jax.ShapeDtypeStruct((4,), np.int32))
    embedding = ("params", "Embedding", ("vocabulary", "features"), None)
    assert told(made) == {"shared/pytree/0/weight": embedding}
    tokens = np.arange(4)
    close(made.apply(made.params, tokens), jax.vmap(module)(tokens))
    assert told(module, adapter="equinox") == {
        "shared/pytree/0/weight": embedding,
        "shared/pytree/1/weight": ("static", "Linear", None, None),
        "shared/where": ("static", "Shared", None, None),
        "shared/get": ("static", "Shared", None, None),
    }


@pytest.mark.parametrize(
    ("make", "inputs", "expected"),
    [
        (
            lambda: linear("scalar", "scalar"),
            ((),),
            {"weight": ((1, 1), ("out", "in")), "bias": ((1,), ("out",))},
        ),
        (lambda: linear(6, 3, use_bias=False), ((6,),), {"weight": ((3, 6), ("out", "in"))}),
        (
            lambda: eqx.nn.Conv2d(4, 8, (3, 2), groups=2, key=KEY),
            ((4, 8, 8),),
            {
                "weight": ((8, 2, 3, 2), ("out", "in", "height", "width")),
                "bias": ((8, 1, 1), ("out", "height", "width")),
            },
        ),
        (
            lambda: eqx.nn.Conv1d(4, 8, 3, key=KEY),
            ((5, 4, 8),),
            {"weight": ((8, 4, 3), ("out", "in", "width")), "bias": ((8, 1), ("out", "width"))},
        ),
        (
            lambda: eqx.nn.ConvTranspose2d(4, 8, (3, 2), groups=2, use_bias=False, key=KEY),
            ((4, 8, 8),),
            {"weight": ((8, 2, 3, 2), ("out", "in", "height", "width"))},
        ),
        (
            lambda: eqx.nn.LayerNorm((3, 6)),
            ((3, 6),),
            {"weight": ((3, 6), ("features", "features")), "bias": ((3, 6), ("features", "features"))},
        ),
        (
            lambda: eqx.nn.RMSNorm(6, use_bias=False),
            ((6,),),
            {"weight": ((6,), ("features",))},
        ),
        (
            lambda: eqx.nn.GroupNorm(2, 6),
            ((6, 5),),
            {"weight": ((6,), ("features",)), "bias": ((6,), ("features",))},
        ),
        (
            lambda: eqx.nn.GRUCell(6, 7, key=KEY),
            ((6,), (7,)),
            {
                "weight_ih": ((21, 6), ("gates", "in")),
                "weight_hh": ((21, 7), ("gates", "hidden")),
                "bias": ((21,), ("gates",)),
                "bias_n": ((7,), ("hidden",)),
            },
        ),
        (lambda: eqx.nn.PReLU(), ((6,),), {"negative_slope": ((), None)}),
        (lambda: eqx.nn.RotaryPositionalEmbedding(6), ((4, 6),), {}),
    ],
    ids=[
        "scalar",
        "no bias",
        "grouped",
        "conv1d",
        "transposed",
        "layer",
        "rms",
        "group",
        "gru",
        "prelu",
        "rotary",
    ],
)
def test_layers_tell_their_axes(make, inputs, expected):
    module = make()
    made = model(module, *(jax.ShapeDtypeStruct(shape, np.float32) for shape in inputs))
    r = report(made)
    assert {leaf.name: (leaf.shape, leaf.axes) for leaf in r} == expected
    assert {(leaf.owner, leaf.role, leaf.stacked) for leaf in r} <= {(type(module).__name__, "params", None)}


def test_modules_are_where_the_layers_stand():
    made = model(eqx.nn.Sequential([linear() for _ in range(12)]))
    assert [fact.module for fact in made.facts[::2]] == [("layers", str(n)) for n in range(12)]


# --- What it refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (eqx.nn.Linear, r"^the equinox adapter takes an eqx\.Module, .* this is the class Linear\.$"),
        (None, r"this is a NoneType\.$"),
        ((linear(), 3), r"this is a tuple\.$"),
        ((3, norm("ema")[1]), r"this is a tuple\.$"),
        (lambda: 3, r"^the equinox adapter takes an eqx\.Module, "),
        (lambda x: x, r"^function cannot be traced without inputs: TypeError: "),
        (linear(), r"^Linear cannot be traced on float32\[7\]: TypeError: .*\(6,\) and \(7,\)"),
        (eqx.nn.Identity, r"this is the class Identity\.$"),
        (custom().linear.weight, r"this is a ArrayImpl\.$"),
    ],
    ids=[
        "class",
        "none",
        "no state",
        "no module",
        "gives neither",
        "wants inputs",
        "misfit",
        "identity",
        "array",
    ],
)
def test_what_cannot_be_a_model_is_told(obj, message):
    with pytest.raises(ModelError, match=message) as caught:
        model(obj, jax.ShapeDtypeStruct((7,), np.float32))
    assert "\n" not in str(caught.value)


def test_failed_call_does_not_spend_the_state():
    module, state = norm("ema")
    with pytest.raises(ModelError, match=r"^BatchNorm cannot be traced on float32\[4,6\], 1: "):
        model((module, state), BATCH, 1)
    assert len(jax.tree.leaves(state)) == 3
    close(
        model((module, state), BATCH).apply(model((module, state), BATCH).params, X),
        by_hand(module, state, X),
    )


def test_state_of_an_optimizer_is_not_what_is_trained():
    optax = pytest.importorskip("optax")
    arrays = eqx.filter(linear(), eqx.is_array)
    both = {"model": linear(), "optimizer": optax.adam(1e-3).init(arrays)}
    roles = report(both, adapter="equinox").roles
    assert (roles["params"].leaf_count, roles["other"].leaf_count) == (2, 5)
    history = report(optax.lbfgs(memory_size=5).init(arrays), adapter="equinox")
    assert {leaf.stacked for leaf in history} == {None}


def test_axes_are_told_only_where_the_sizes_are_the_layers():
    square = eqx.nn.Linear(8, 8, key=KEY)
    for shape in ((4, 2, 8), (16, 2, 2, 8), (8, 4, 2)):
        changed = eqx.tree_at(lambda layer: layer.weight, square, np.zeros(shape))
        leaf = report(changed, adapter="equinox")["weight"]
        assert (leaf.owner, leaf.axes, leaf.stacked) == ("Linear", None, None)


def test_subclass_with_a_call_of_its_own_tells_no_axes():
    class Turned(eqx.nn.Linear):
        def __call__(self, x):
            return x @ self.weight

    leaf = report(Turned(6, 6, key=KEY), adapter="equinox")["weight"]
    assert (leaf.owner, leaf.axes) == ("Turned", None)
