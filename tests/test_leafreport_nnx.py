"""The NNX adapter: modules as models, and what is known of their variables."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leafreport import ModelError, adapter, report

nnx = pytest.importorskip("flax.nnx")
optax = pytest.importorskip("optax")

X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
ABSTRACT = jax.ShapeDtypeStruct((4, 6), np.float32)


def model(module, *inputs, **options):
    return adapter("nnx").model(module, *inputs, **options)


def told(tree, **options):
    """What a report says of each leaf: role, owner, axes and how many layers it holds."""
    r = report(tree, **options)
    return {leaf.name: (leaf.role, leaf.owner, leaf.axes, leaf.stacked) for leaf in r}


def held(module):
    """What a module holds, as values that can be compared."""
    leaves = jax.tree.leaves(nnx.state(module))
    return [
        np.asarray(
            jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        )
        for leaf in leaves
    ]


def same(left, right):
    return len(left) == len(right) and all(map(np.array_equal, left, right))


KERNEL = ("params", "Linear", ("in", "out"), None)
BIAS = ("params", "Linear", ("out",), None)


def linear(inputs=6, outputs=6, **options):
    return nnx.Linear(inputs, outputs, rngs=nnx.Rngs(0), **options)


class Everything(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(6, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.rngs = rngs
        self.text, self.number = "text", 1.5

    def __call__(self, x):
        return self.dropout(self.norm(self.linear(x)))


EVERYTHING = {
    "dropout/rngs/count/value": ("rng", "Dropout", None, None),
    "dropout/rngs/key/value": ("rng", "Dropout", None, None),
    "linear/bias/value": BIAS,
    "linear/kernel/value": KERNEL,
    "norm/bias/value": ("params", "BatchNorm", ("features",), None),
    "norm/mean/value": ("statistics", "BatchNorm", ("features",), None),
    "norm/scale/value": ("params", "BatchNorm", ("features",), None),
    "norm/var/value": ("statistics", "BatchNorm", ("features",), None),
    "rngs/default/count/value": ("rng", "Everything", None, None),
    "rngs/default/key/value": ("rng", "Everything", None, None),
}


def everything():
    return Everything(nnx.Rngs(0))


# --- A module and its inputs --------------------------------------------------------------------------------


def test_model_is_the_modules_own_state_and_call():
    module = nnx.Sequential(linear(6, 8), nnx.relu, linear(8, 3))
    made = model(module, X)
    assert same(list(map(np.asarray, jax.tree.leaves(made.params))), held(module))
    np.testing.assert_array_equal(made.apply(made.params, X), module(X))
    np.testing.assert_allclose(jax.jit(made.apply)(made.params, X), module(X), rtol=1e-5, atol=1e-6)
    assert told(made) == {
        "layers/0/bias/value": BIAS,
        "layers/0/kernel/value": KERNEL,
        "layers/2/bias/value": BIAS,
        "layers/2/kernel/value": KERNEL,
    }


@pytest.mark.parametrize(
    "made",
    [
        lambda: model(everything(), X),
        lambda: model(everything(), ABSTRACT),
        lambda: model(everything()),
        lambda: model(everything, ABSTRACT),
        lambda: model(nnx.eval_shape(everything), ABSTRACT),
    ],
    ids=["module", "abstract input", "no input", "factory", "abstract module"],
)
def test_roles_are_those_of_the_variables(made):
    """Of ten leaves four are parameters: a count of all leaves is not a count of these."""
    made = made()
    assert told(made) == EVERYTHING
    assert report(made).roles["params"].leaf_count == 4
    assert len(jax.tree.leaves(made.params)) == 10


def test_factory_makes_no_array():
    def big():
        return nnx.Linear(2**20, 2**20, rngs=nnx.Rngs(0))  # 4 TiB

    made = model(big, jax.ShapeDtypeStruct((1, 2**20), np.float32))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(made.params))
    assert report(made).nbytes == 4 * (2**40 + 2**20)


def test_what_a_call_updates_is_dropped():
    """BatchNorm would move its means, and Dropout count its draws."""
    module = everything()
    before = held(module)
    made = model(module, X)
    y = made.apply(made.params, X)
    np.testing.assert_array_equal(made.apply(made.params, X), y)
    np.testing.assert_allclose(jax.jit(made.apply)(made.params, X), y, rtol=1e-5, atol=1e-5)
    assert same(held(module), before)
    np.testing.assert_array_equal(y, module(X))
    assert not same(held(module), before)  # the module's own call does update it


def test_params_are_not_the_modules_own_variables():
    """Training the module afterwards leaves the model as it was built."""
    module = linear()
    made = model(module, X)
    kernel = np.array(made.params["kernel"][...])
    module.kernel[...] = jnp.zeros((6, 6))
    assert (made.params["kernel"][...] == kernel).all()
    assert (module.kernel[...] == 0).all()


@pytest.mark.parametrize("deterministic", [True, False])
def test_options_stay_as_they_are(deterministic):
    made = model(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), X, deterministic=deterministic)
    y = made.apply(made.params, X)
    assert bool((y == X).all()) == deterministic


def test_python_values_among_the_inputs_stay_as_they_are():
    class Switched(nnx.Module):
        def __init__(self):
            self.linear = linear()

        def __call__(self, x, mode, mask):
            return self.linear(x) if mode == "on" and mask is None else x

    made = model(Switched(), X, "on", None)
    np.testing.assert_array_equal(made.apply(made.params, X, "on", None), linear()(X))
    np.testing.assert_array_equal(made.apply(made.params, X, "off", None), X)


def test_call_may_give_what_is_no_array():
    class Named(nnx.Module):
        def __init__(self):
            self.linear = linear()

        def __call__(self, x):
            return {"y": self.linear(x), "name": "text"}

    made = model(Named(), X)
    assert made.apply(made.params, X)["name"] == "text"


# --- What is told of each leaf ------------------------------------------------------------------------------


class Shared(nnx.Module):
    def __init__(self):
        self.z = linear()
        self.a = self.z

    def __call__(self, x):
        return self.a(self.z(x))


class Tied(nnx.Module):
    def __init__(self):
        self.a, self.b = linear(), linear()
        self.b.kernel = self.a.kernel

    def __call__(self, x):
        return self.b(self.a(x))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Shared, {"a/bias/value": BIAS, "a/kernel/value": KERNEL}),
        (Tied, {"a/bias/value": BIAS, "a/kernel/value": KERNEL, "b/bias/value": BIAS}),
    ],
)
def test_shared_variables_are_there_once(module, expected):
    made = model(module(), X)
    assert told(made) == expected
    assert report(made).param_count == sum(36 if "kernel" in name else 6 for name in expected)
    np.testing.assert_array_equal(made.apply(made.params, X), module()(X))


def test_tied_variable_has_a_layer_that_knows_its_axes():
    class Head(nnx.Module):
        def __init__(self):
            self.aaa = nnx.Param(jnp.ones((6, 6)))
            self.linear = linear(use_bias=False)
            self.linear.kernel = self.aaa

    assert told(model(Head())) == {"aaa/value": KERNEL}


@nnx.split_rngs(splits=12)
@nnx.vmap
def twelve(rngs):
    return nnx.Linear(6, 6, rngs=rngs)


class Scanned(nnx.Module):
    def __init__(self):
        self.layers = twelve(nnx.Rngs(0))

    def __call__(self, x):
        scan = nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return scan(x, self.layers)


@pytest.mark.parametrize("obj", [Scanned(), lambda: Scanned()], ids=["module", "factory"])
def test_vmapped_layers_are_stacked(obj):
    """A (12, 6) bias looks like a matrix: it is twelve biases."""
    made = model(obj, ABSTRACT)
    assert told(made) == {
        "layers/bias/value": ("params", "Linear", ("out",), 12),
        "layers/kernel/value": ("params", "Linear", ("in", "out"), 12),
    }
    r = report(made)
    assert (r.leaf_count, r.logical_leaf_count) == (2, 24)
    assert r["layers/bias/value"].shape == (12, 6)


def test_scan_over_stacked_layers_is_called_as_it_is():
    module = Scanned()
    made = model(module, X)
    np.testing.assert_array_equal(made.apply(made.params, X), module(X))


def test_partitioned_variables_need_no_mesh():
    """Made directly they ask for a mesh; made by a function they are traced without one."""
    init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("in", "out"))

    def make():
        return nnx.Linear(6, 6, kernel_init=init, rngs=nnx.Rngs(0))

    with pytest.raises(ValueError, match="mesh"):
        make()
    assert told(model(make, ABSTRACT)) == {"bias/value": BIAS, "kernel/value": KERNEL}
    with pytest.raises(ValueError, match="mesh"):  # the setting is as it was
        make()


def test_list_of_modules_is_told_in_the_frameworks_words():
    class Old(nnx.Module):
        def __init__(self):
            self.layers = [linear()]

    with pytest.raises(ValueError, match="'layers'"):
        Old()
    try:
        made = model(lambda: Old())
    except ModelError as error:
        assert re.search(r"^function cannot be traced .*ValueError: .*'list'.* 'layers' .*data", str(error))  # noqa: PT017  # older versions take the list where nothing is concrete
    else:
        assert set(told(made)) == {"layers/0/bias/value", "layers/0/kernel/value"}


class Plain(nnx.Module, pytree=False):
    def __init__(self):
        self.layers = [linear(), linear()]

    def __call__(self, x):
        return self.layers[1](self.layers[0](x))


def test_module_that_is_no_pytree_is_known_too():
    made = model(Plain(), X)
    assert told(made) == {
        f"layers/{n}/{leaf}/value": KERNEL if leaf == "kernel" else BIAS
        for n in (0, 1)
        for leaf in ("bias", "kernel")
    }
    np.testing.assert_array_equal(made.apply(made.params, X), Plain()(X))


class Own(nnx.Module):
    def __init__(self):
        self.param = nnx.Param(jnp.ones(3))
        self.cache = nnx.Cache(jnp.ones(3))
        self.variable = nnx.Variable(jnp.ones((), jnp.int32))
        self.embed = nnx.Embed(10, 6, rngs=nnx.Rngs(0))


class MyLinear(nnx.Linear):
    """A layer that someone derived."""


def conv(kind, size, **options):
    return getattr(nnx, kind)(6, 5, size, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            Own,
            {
                "cache/value": ("other", "Own", None, None),
                "embed/embedding/value": ("params", "Embed", ("vocabulary", "features"), None),
                "param/value": ("params", "Own", None, None),
                "variable/value": ("other", "Own", None, None),
            },
        ),
        (
            lambda: MyLinear(6, 3, use_bias=False, rngs=nnx.Rngs(0)),
            {"kernel/value": ("params", "MyLinear", ("in", "out"), None)},
        ),
        (
            lambda: nnx.LoRALinear(6, 3, lora_rank=2, use_bias=False, rngs=nnx.Rngs(0)),
            {
                "kernel/value": ("params", "LoRALinear", ("in", "out"), None),
                "lora/lora_a/value": ("params", "LoRA", None, None),
                "lora/lora_b/value": ("params", "LoRA", None, None),
            },
        ),
        (
            lambda: nnx.LoRA(6, 2, 3, base_module=linear(6, 3), rngs=nnx.Rngs(0)),
            {
                "base_module/bias/value": BIAS,
                "base_module/kernel/value": KERNEL,
                "lora_a/value": ("params", "LoRA", None, None),
                "lora_b/value": ("params", "LoRA", None, None),
            },
        ),
        (
            lambda: conv("ConvTranspose", (3, 2), transpose_kernel=True),
            {
                "bias/value": ("params", "ConvTranspose", ("out",), None),
                "kernel/value": ("params", "ConvTranspose", ("height", "width", "out", "in"), None),
            },
        ),
        (
            lambda: conv("Conv", (3,), use_bias=False),
            {"kernel/value": ("params", "Conv", ("width", "in", "out"), None)},
        ),
        (
            lambda: nnx.LinearGeneral((8, 6), (2, 5), axis=(-2, -1), rngs=nnx.Rngs(0)),
            {
                "bias/value": ("params", "LinearGeneral", ("out", "out"), None),
                "kernel/value": ("params", "LinearGeneral", ("in", "in", "out", "out"), None),
            },
        ),
        (
            lambda: nnx.GroupNorm(6, num_groups=2, use_bias=False, rngs=nnx.Rngs(0)),
            {"scale/value": ("params", "GroupNorm", ("features",), None)},
        ),
        (
            lambda: nnx.RMSNorm(6, rngs=nnx.Rngs(0)),
            {"scale/value": ("params", "RMSNorm", ("features",), None)},
        ),
    ],
    ids=["own", "derived", "LoRALinear", "LoRA", "transposed", "conv1d", "general", "group", "rms"],
)
def test_layers_tell_their_axes(make, expected):
    assert told(model(make())) == told(make(), adapter="nnx") == expected


def test_modules_are_where_the_layers_stand():
    made = model(nnx.Sequential(*(linear() for _ in range(12))))
    assert [fact.module for fact in made.facts[::2]] == [("layers", str(n)) for n in range(12)]


@pytest.mark.parametrize(
    ("options", "dtype"), [({"param_dtype": jnp.bfloat16}, "bfloat16"), ({"dtype": jnp.bfloat16}, "float32")]
)
def test_dtype_of_params_is_not_that_of_the_computation(options, dtype):
    assert {leaf.dtype for leaf in report(model(linear(**options), ABSTRACT))} == {dtype}


# --- A tree alone -------------------------------------------------------------------------------------------


def test_module_alone_is_described_as_its_model():
    assert told(everything(), adapter="nnx") == EVERYTHING


def test_state_alone_has_roles_and_no_owners():
    """A state knows the class of each variable, and not of the layer."""
    found = told(nnx.state(everything()), adapter="nnx")
    assert {name: role for name, (role, *_) in found.items()} == {
        name: role for name, (role, *_) in EVERYTHING.items()
    }
    assert {fact[1:] for fact in found.values()} == {(None, None, None)}


def test_optimizer_beside_its_module_takes_no_role_from_it():
    module = everything()
    optimizer = nnx.Optimizer(module, optax.adam(1e-3), wrt=nnx.Param)
    found = told({"model": module, "optimizer": optimizer}, adapter="nnx")
    assert {name: fact for name, fact in found.items() if name.startswith("model/")} == {
        f"model/{name}": fact for name, fact in EVERYTHING.items()
    }
    rest = {name: role for name, (role, *_) in found.items() if name.startswith("optimizer/")}
    assert len(rest) == 1 + 1 + 2 * 4  # the step, Adam's count, and two moments of four parameters
    assert set(rest.values()) == {"other"}


def test_variable_of_several_leaves_has_a_fact_for_each():
    tree = {"a": nnx.Param({"x": jnp.ones(3), "y": 1.0}), "b": nnx.BatchStat(jnp.ones(2))}
    assert [role for role, *_ in told(tree, adapter="nnx").values()] == ["params", "static", "statistics"]


# --- What it refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (nnx.Linear, r"^the nnx adapter takes an nnx\.Module, .* this is the class Linear\.$"),
        (None, r"this is a NoneType\.$"),
        ({}, r"this is a dict\.$"),
        (lambda: 3, r"^the function gave a \w+, and no nnx\.Module\.$"),
        (lambda x: x, r"^function cannot be traced without inputs: TypeError: "),
        (
            linear(),
            r"^Linear cannot be traced on float32\[4,7\]: TypeError: .*\(7,\) and \(6,\)",
        ),
    ],
    ids=["class", "none", "dict", "gives no module", "wants inputs", "misfit"],
)
def test_what_cannot_be_a_model_is_told(obj, message):
    with pytest.raises(ModelError, match=message) as caught:
        model(obj, jax.ShapeDtypeStruct((4, 7), np.float32))
    assert "\n" not in str(caught.value)


def test_failed_call_leaves_the_module_as_it_was():
    module = everything()
    before = held(module), dict(vars(module))
    with pytest.raises(ModelError, match=r"^Everything cannot be traced on float32\[4,7\]: "):
        model(module, np.ones((4, 7), np.float32))
    assert same(held(module), before[0])
    assert dict(vars(module)) == before[1]
    model(module, X)
    assert same(held(module), before[0])


def test_module_that_holds_itself_is_a_model_all_the_same():
    class Child(nnx.Module):
        def __init__(self, parent):
            self.parent = parent

    class Parent(nnx.Module):
        def __init__(self):
            self.layer = linear()
            self.child = Child(self)

        def __call__(self, x):
            return self.layer(x)

    assert {fact[1] for fact in told(model(Parent(), ABSTRACT)).values()} == {"Linear"}
