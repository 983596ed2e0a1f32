"""The Flax adapter: Linen modules as models, and what is known of their leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leafreport import ModelError, adapter, report

nn = pytest.importorskip("flax.linen")
optax = pytest.importorskip("optax")

X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
ABSTRACT = jax.ShapeDtypeStruct((4, 6), np.float32)
KEY = jax.random.PRNGKey(0)


def model(module, *inputs, **options):
    return adapter("flax").model(module, *inputs, **options)


def told(tree):
    """What a report says of each leaf: role, owner, axes and how many layers it holds."""
    r = report(tree)
    return {leaf.name: (leaf.role, leaf.owner, leaf.axes, leaf.stacked) for leaf in r}


def orders(made):
    """The layers of a model in the order in which they are called, by the last step of their path."""
    found = {fact.module[-1]: fact.order for fact in made.facts if fact.module}
    return sorted(found, key=found.__getitem__)


def equal(left, right):
    return jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), left, right))


KERNEL = ("params", "Dense", ("in", "out"), None)
BIAS = ("params", "Dense", ("out",), None)


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(8)(x)))


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        return nn.Dropout(0.5, deterministic=not train)(x)


class Reused(nn.Module):
    def setup(self):
        self.layer = nn.Dense(6)

    def __call__(self, x):
        return self.layer(self.layer(x))


class Body(nn.Module):
    kernel_init: object = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x, _):
        return nn.Dense(6, kernel_init=self.kernel_init)(x), None


class Scanned(nn.Module):
    kernel_init: object = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        scan = nn.scan(
            Body,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=12,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scan(self.kernel_init)(x, None)[0]


Mapped = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=0)


# --- The stack ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [0, 1, 2, 11])
def test_stack_is_called_as_linen_calls_it(layers):
    made = adapter("flax").dense_stack(0, ABSTRACT, layers, abstract=True)
    assert told(made) == {f"params/Dense_{n}/bias": BIAS for n in range(layers)} | {
        f"params/Dense_{n}/kernel": KERNEL for n in range(layers)
    }
    assert orders(made) == [f"Dense_{n}" for n in range(layers)]  # by name, 10 would come before 2


def test_one_instance_in_a_list_is_one_layer():
    """The trap on the way: a list of one Dense, N times, is a single layer with two leaves."""
    shared = model(nn.Sequential([nn.Dense(6)] * 5), ABSTRACT)
    apart = model(nn.Sequential([nn.Dense(6) for _ in range(5)]), ABSTRACT)
    assert len(told(shared)) == len(jax.tree.leaves(shared.params)) == 2
    assert len(told(apart)) == len(jax.tree.leaves(apart.params)) == 10


def test_seed_gives_compact_and_setup_their_own_values():
    """Linen draws by path: a stack written in setup has other values than one written inline."""
    inline = model(nn.Sequential([nn.Dense(6)]), X).params["params"]["layers_0"]["kernel"]
    compact = adapter("flax").dense_stack(0, ABSTRACT, 1).params["params"]["Dense_0"]["kernel"]
    assert inline.shape == compact.shape
    assert not (inline == compact).any()


# --- A module and its inputs --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 3])
def test_model_is_the_modules_own_init_and_apply(seed):
    made = model(Mlp(), X, seed=seed)
    by_hand = Mlp().init(jax.random.PRNGKey(seed), X)
    assert jax.tree.structure(made.params) == jax.tree.structure(by_hand)
    assert equal(made.params, by_hand)
    expected = Mlp().apply(by_hand, X)
    np.testing.assert_array_equal(made.apply(made.params, X), expected)
    np.testing.assert_allclose(jax.jit(made.apply)(made.params, X), expected, rtol=1e-5, atol=1e-6)
    assert told(made) == {
        "params/Dense_0/bias": BIAS,
        "params/Dense_0/kernel": KERNEL,
        "params/Dense_1/bias": BIAS,
        "params/Dense_1/kernel": KERNEL,
    }


def test_abstract_inputs_give_abstract_params_and_the_same_facts():
    concrete, abstract = model(Normed(), X), model(Normed(), ABSTRACT)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract.params))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(concrete.params))
    assert concrete.facts == abstract.facts
    assert told(concrete) == told(abstract)


def test_model_of_a_bound_module_keeps_its_variables():
    variables = Normed().init(KEY, X)
    bound = Normed().bind(variables)
    made = model(bound, ABSTRACT, train=False)
    assert equal(made.params, variables)
    assert bound.scope is not None
    np.testing.assert_array_equal(made.apply(made.params, X), Normed().apply(variables, X, train=False))


def test_model_of_a_bound_submodule_has_its_part():
    variables = Reused().init(KEY, X)
    made = model(Reused().bind(variables).layer, X)
    assert told(made) == {"params/bias": BIAS, "params/kernel": KERNEL}
    assert equal(made.params["params"], variables["params"]["layer"])


def test_model_takes_params_and_changes_none():
    params = jax.tree.map(lambda leaf: leaf + 1, Mlp().init(KEY, X))
    kept = jax.tree.map(np.array, params)
    made = model(Mlp(), ABSTRACT, params=params)
    assert made.params is params
    np.testing.assert_array_equal(made.apply(params, X), Mlp().apply(params, X))
    assert equal(params, kept)


def test_frozen_params_have_the_facts_of_plain_ones():
    """The two are different trees, and their paths are the same: facts go by path."""
    from flax.core import freeze

    plain = Mlp().init(KEY, X)
    frozen = freeze(plain)
    assert jax.tree.structure(frozen) != jax.tree.structure(plain)
    assert told(model(Mlp(), X, params=frozen)) == told(model(Mlp(), X, params=plain))
    assert [leaf.role for leaf in report(frozen, adapter="flax")] == ["params"] * 4


class TwoWays(nn.Module):
    """Makes a head that only training calls, and is never made for evaluation."""

    @nn.compact
    def __call__(self, x, train=True):
        if self.is_initializing() and not train:
            raise RuntimeError("made for training")
        y = nn.Dense(6, name="body")(x)
        return nn.Dense(3, name="head")(y) if train and self.is_initializing() else y


@pytest.mark.parametrize(
    ("options", "owners"), [({}, ["Dense"] * 4), ({"train": False}, ["Dense"] * 2 + [None] * 2)]
)
def test_given_params_are_known_by_their_making_or_by_the_call(options, owners):
    """The head's leaves are seen where it is made; where it cannot be, the call still tells of the body's."""
    params = TwoWays().init(KEY, X)
    made = model(TwoWays(), X, params=params, **options)
    assert report(made).names == (
        "params/body/bias",
        "params/body/kernel",
        "params/head/bias",
        "params/head/kernel",
    )
    assert [leaf.owner for leaf in report(made)] == owners
    np.testing.assert_array_equal(made.apply(params, X), TwoWays().apply(params, X, **options))


def test_params_that_do_not_fit_are_told():
    params = {"params": {"kernel": jnp.ones((7, 3)), "bias": jnp.ones(3)}}
    with pytest.raises(ModelError, match=r"^Dense cannot be traced on .*kernel.*\(6, 3\).*\(7, 3\)"):
        model(nn.Dense(3), X, params=params)


@pytest.mark.parametrize("way", ["option", "position"])
@pytest.mark.parametrize("train", [True, False])
def test_python_values_stay_as_they_are(way, train):
    """A traced True could not choose a branch."""
    made = model(Normed(), X, train) if way == "position" else model(Normed(), X, train=train)
    inputs = (X, train) if way == "position" else (X,)
    y = made.apply(made.params, *inputs)
    assert bool((y == 0).any()) == train  # what dropout left out
    if not train:
        np.testing.assert_array_equal(y, Normed().apply(made.params, X, train=False))


def test_none_among_the_inputs_stays_as_it_is():
    x = jax.ShapeDtypeStruct((4, 5, 6), np.float32)
    attention = nn.MultiHeadDotProductAttention(2)
    assert told(model(attention, x, None)) == told(model(attention, x))


def test_options_may_hold_arrays():
    mask = jnp.tril(jnp.ones((5, 5), bool))
    x = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    attention = nn.MultiHeadDotProductAttention(2)
    made = model(attention, x, mask=mask)
    np.testing.assert_array_equal(made.apply(made.params, x), attention.apply(made.params, x, mask=mask))


def test_method_names_another_call():
    embed = nn.Embed(10, 6)
    made = model(embed, X, method="attend")
    assert told(made) == {"params/embedding": ("params", "Embed", ("vocabulary", "features"), None)}
    np.testing.assert_array_equal(made.apply(made.params, X), embed.apply(made.params, X, method="attend"))


def test_calls_in_training_are_repeatable_and_change_nothing():
    """Dropout draws from one fixed key; the running means it would update are dropped."""
    made = model(Normed(), X)
    kept = jax.tree.map(np.array, made.params)
    y = made.apply(made.params, X)
    np.testing.assert_array_equal(made.apply(made.params, X), y)
    np.testing.assert_allclose(jax.jit(made.apply)(made.params, X), y, rtol=1e-5, atol=1e-5)
    assert equal(made.params, kept)


# --- What is told of each leaf ------------------------------------------------------------------------------


def test_roles_are_those_of_the_collections():
    features = ("features",)
    assert told(model(Normed(), ABSTRACT)) == {
        "batch_stats/BatchNorm_0/mean": ("statistics", "BatchNorm", features, None),
        "batch_stats/BatchNorm_0/var": ("statistics", "BatchNorm", features, None),
        "params/BatchNorm_0/bias": ("params", "BatchNorm", features, None),
        "params/BatchNorm_0/scale": ("params", "BatchNorm", features, None),
        "params/Dense_0/bias": BIAS,
        "params/Dense_0/kernel": KERNEL,
    }


class OuterFirst(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(6)(nn.Dense(24)(x))


class Listed(nn.Module):
    def setup(self):
        self.z = nn.Dense(6)
        self.a = nn.Dense(6)

    def __call__(self, x):
        return self.z(self.a(x))


class Again(Listed):
    def __call__(self, x):
        return self.z(self.a(self.z(x)))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (OuterFirst(), ["Dense_1", "Dense_0"]),  # names follow what is constructed first
        (Listed(), ["a", "z"]),
        (Again(), ["z", "a"]),  # the first call counts
        (nn.Sequential([nn.Dense(6) for _ in range(12)]), [f"layers_{n}" for n in range(12)]),
    ],
    ids=["outer", "setup", "again", "twelve"],
)
def test_order_is_that_of_the_calls(module, expected):
    """Neither the order of the names nor that of the flattened dict, which a trace sorts."""
    made = model(module, ABSTRACT)
    assert orders(made) == expected
    assert [path[1] for path in report(made).paths[::2]] == sorted(expected)


def test_module_is_where_the_layer_stands():
    made = model(nn.Sequential([Mlp(), nn.relu, Mlp()]), ABSTRACT)
    assert {fact.module for fact in made.facts} == {
        (f"layers_{n}", f"Dense_{m}") for n in (0, 2) for m in (0, 1)
    }


@pytest.mark.parametrize("module", [Reused(), Scanned(), Mlp()], ids=["reused", "scanned", "mlp"])
def test_logical_leaves_are_those_of_the_layers(module):
    """A layer that is called twice is one; twelve that a scan stacks are twelve."""
    made = model(module, ABSTRACT)
    expected = {"Reused": (2, 2), "Scanned": (2, 24), "Mlp": (4, 4)}[type(module).__name__]
    r = report(made)
    assert (r.leaf_count, r.logical_leaf_count) == expected


def test_scan_stacks_layers():
    """A (12, 6) bias looks like a matrix: it is twelve biases."""
    made = model(Scanned(), X)
    assert told(made) == {
        "params/ScanBody_0/Dense_0/bias": ("params", "Dense", ("out",), 12),
        "params/ScanBody_0/Dense_0/kernel": ("params", "Dense", ("in", "out"), 12),
    }
    assert report(made)["params/ScanBody_0/Dense_0/bias"].shape == (12, 6)
    np.testing.assert_array_equal(made.apply(made.params, X), Scanned().apply(made.params, X))


@pytest.mark.parametrize(("around", "place"), [(False, "params"), (True, "params/layers_0")])
def test_vmap_stacks_layers_of_the_class_it_maps(around, place):
    x = np.ones((12, 4, 6), np.float32)
    made = model(nn.Sequential([Mapped(6)]) if around else Mapped(6), x)
    assert told(made) == {
        f"{place}/bias": ("params", "Dense", ("out",), 12),
        f"{place}/kernel": ("params", "Dense", ("in", "out"), 12),
    }
    assert made.apply(made.params, x).shape == (12, 4, 6)


@pytest.mark.parametrize("partition", ["with_partitioning", "with_logical_partitioning"])
def test_boxes_are_one_step_of_the_path_and_no_layer_of_their_own(partition):
    init = getattr(nn, partition)(nn.initializers.lecun_normal(), ("in", "out"))
    made = model(nn.Sequential([nn.Dense(6, kernel_init=init)]), X)
    assert told(made) == {"params/layers_0/bias": BIAS, "params/layers_0/kernel/value": KERNEL}
    y = nn.Dense(6).apply({"params": nn.meta.unbox(made.params)["params"]["layers_0"]}, X)
    np.testing.assert_array_equal(made.apply(made.params, X), y)
    scanned = model(Scanned(init), ABSTRACT)
    assert told(scanned)["params/ScanBody_0/Dense_0/kernel/value"] == ("params", "Dense", ("in", "out"), 12)


@pytest.mark.parametrize(
    ("options", "dtype"), [({"param_dtype": jnp.bfloat16}, "bfloat16"), ({"dtype": jnp.bfloat16}, "float32")]
)
def test_dtype_of_params_is_not_that_of_the_computation(options, dtype):
    assert {leaf.dtype for leaf in report(model(nn.Dense(3, **options), ABSTRACT))} == {dtype}


class Own(nn.Module):
    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (6,))
        key = self.variable("streams", "key", lambda: jax.random.key(0))
        count = self.variable("counts", "calls", lambda: jnp.zeros((), jnp.int32))
        return x * scale + jax.random.normal(key.value, x.shape) + count.value


class SharedScope(nn.Module):
    def setup(self):
        self.layer = nn.Dense(3, use_bias=False)
        nn.share_scope(self, self.layer)

    def __call__(self, x):
        return self.layer(x)


class MyDense(nn.Dense):
    """A layer that someone derived."""


@pytest.mark.parametrize(
    ("module", "x", "expected"),
    [
        (
            Own(),
            (4, 6),
            {
                "counts/calls": ("other", "Own", None, None),
                "params/scale": ("params", "Own", None, None),
                "streams/key": ("rng", "Own", None, None),
            },
        ),
        (
            MyDense(3, use_bias=False),
            (4, 6),
            {"params/kernel": ("params", "MyDense", ("in", "out"), None)},
        ),
        (nn.remat(nn.Dense)(3, use_bias=False), (4, 6), {"params/kernel": KERNEL}),
        (SharedScope(), (4, 6), {"params/kernel": KERNEL}),
        (
            nn.ConvTranspose(5, (3, 2), transpose_kernel=True),
            (4, 8, 8, 6),
            {
                "params/bias": ("params", "ConvTranspose", ("out",), None),
                "params/kernel": ("params", "ConvTranspose", ("height", "width", "out", "in"), None),
            },
        ),
        (
            nn.Conv(5, (3,)),
            (4, 8, 6),
            {
                "params/bias": ("params", "Conv", ("out",), None),
                "params/kernel": ("params", "Conv", ("width", "in", "out"), None),
            },
        ),
        (
            nn.DenseGeneral((2, 5), axis=(-2, -1)),
            (4, 8, 6),
            {
                "params/bias": ("params", "DenseGeneral", ("out", "out"), None),
                "params/kernel": ("params", "DenseGeneral", ("in", "in", "out", "out"), None),
            },
        ),
        (
            nn.DenseGeneral(5, batch_dims=(0,)),
            (4, 8, 6),
            {
                "params/bias": ("params", "DenseGeneral", None, None),
                "params/kernel": ("params", "DenseGeneral", None, None),
            },
        ),
    ],
    ids=["own", "derived", "remat", "scope", "transposed", "conv1d", "general", "batched"],
)
def test_layers_tell_their_axes(module, x, expected):
    assert told(model(module, jax.ShapeDtypeStruct(x, np.float32))) == expected


# --- A tree alone -------------------------------------------------------------------------------------------


def test_variables_alone_have_roles_and_no_owners():
    """Arrays do not tell the class of the layer they came from."""
    r = report(Normed().init(KEY, X), adapter="flax")
    assert [leaf.role for leaf in r] == ["statistics"] * 2 + ["params"] * 4
    assert {(leaf.owner, leaf.axes, leaf.stacked) for leaf in r} == {(None, None, None)}


def test_params_without_their_collection_have_no_role():
    assert {leaf.role for leaf in report(Mlp().init(KEY, X)["params"], adapter="flax")} == {None}


def test_train_state_has_the_roles_of_its_fields():
    from flax.training.train_state import TrainState

    class WithStats(TrainState):
        batch_stats: object = None

    variables = Normed().init(KEY, X)
    state = WithStats.create(apply_fn=Normed().apply, tx=optax.adam(1e-3), **variables)
    r = report(state, adapter="flax")
    assert {
        field: {leaf.role for leaf in r if leaf.path[0] == field} for field in ("params", "batch_stats")
    } == {
        "params": {"params"},
        "batch_stats": {"statistics"},
    }
    assert r["step"].role == "static"  # a Python number until the first update
    assert r["opt_state/0/mu/Dense_0/kernel"].role == "other"
    assert r.roles["params"].param_count == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


# --- What it refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "found"),
    [(nn.Dense, "the class Dense"), ("Dense", "a str"), (None, "a NoneType"), ({"params": {}}, "a dict")],
    ids=["class", "str", "none", "dict"],
)
def test_what_is_no_module_is_refused(obj, found):
    message = rf"^the flax adapter takes a Linen module, such as nn\.Dense\(8\); this is {found}\.$"
    with pytest.raises(ModelError, match=message):
        model(obj, X)


class Broken(nn.Module):
    @nn.compact
    def __call__(self, x):
        raise RuntimeError(f"two\nlines on {x.shape}")


@pytest.mark.parametrize(
    ("module", "inputs", "message"),
    [
        (nn.Dense(3), (), r"^Dense cannot be traced without inputs: TypeError: "),
        (Broken(), (X, 1), r"^Broken cannot be traced on float32\[4,6\], 1: TypeError: "),
        (Broken(), (X,), r": RuntimeError: two lines on \(4, 6\)\. Give the inputs its call takes"),
    ],
    ids=["none", "too many", "broken"],
)
def test_what_cannot_be_traced_is_told_and_leaves_nothing_behind(module, inputs, message):
    before = dict(vars(nn.Module)), dict(vars(type(module)))
    with pytest.raises(ModelError, match=message) as caught:
        model(module, *inputs)
    assert "\n" not in str(caught.value)
    assert (dict(vars(nn.Module)), dict(vars(type(module)))) == before
    assert told(model(nn.Dense(3), X)) == {"params/bias": BIAS, "params/kernel": KERNEL}


def test_model_leaves_the_module_as_it_was():
    module = Mlp()
    before = dict(vars(module))
    model(module, X)
    assert dict(vars(module)) == before
    assert module.scope is None


def test_layer_stored_otherwise_than_it_is_used_tells_no_axes():
    class Turned(nn.Module):
        @nn.compact
        def __call__(self, x):
            def turn(variables):
                return jax.tree.map(lambda leaf: leaf.T if leaf.ndim == 2 else leaf, variables)

            return nn.map_variables(nn.Dense, "params", turn, turn, init=True)(3)(x)

    (kernel,) = [leaf for leaf in report(adapter("flax").model(Turned(), X)) if leaf.path[-1] == "kernel"]
    assert (kernel.owner, kernel.shape, kernel.axes, kernel.stacked) == ("Dense", (3, 6), None, None)


def test_subclass_with_a_call_of_its_own_tells_no_axes():
    class Own(nn.Dense):
        @nn.compact
        def __call__(self, x):
            return x @ self.param("kernel", self.kernel_init, (self.features, x.shape[-1])).T

    (kernel,) = report(adapter("flax").model(Own(3), X)).leaves
    assert (kernel.owner, kernel.axes) == ("Own", None)


def test_python_values_within_an_input_stay_as_they_are():
    class Switch(nn.Module):
        @nn.compact
        def __call__(self, batch):
            return nn.Dense(3)(batch["x"]) if batch["train"] else None

    assert len(report(adapter("flax").model(Switch(), {"x": X, "train": True}))) == 2
