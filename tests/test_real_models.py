"""Models and trees that no one here wrote: what is reported of them, against sums and tables made otherwise."""

import collections
import importlib
import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leafreport import adapter, report

KEY = jax.random.PRNGKey(0)


def framework(name):
    """A framework's module, or the test is skipped."""
    return pytest.importorskip(name)


def f32(*shape):
    return jax.ShapeDtypeStruct(shape, np.float32)


def ints(*shape):
    return jax.ShapeDtypeStruct(shape, np.int32)


def check(r, tree):
    """Totals are those of the tree's leaves, added up here; each array once."""
    leaves = jax.tree_util.tree_leaves(tree)
    arrays = {id(leaf): leaf for leaf in leaves if hasattr(leaf, "shape") and hasattr(leaf, "dtype")}
    numbers = [a for a in arrays.values() if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key)]
    keys = [a for a in arrays.values() if jnp.issubdtype(a.dtype, jax.dtypes.prng_key)]
    assert r.leaf_count == len(leaves)
    assert r.param_count == sum(math.prod(a.shape) for a in numbers)
    assert r.nbytes == sum(math.prod(a.shape) * np.dtype(a.dtype).itemsize for a in numbers) + sum(
        math.prod(a.shape) * a.dtype.itemsize for a in keys
    )


# --- Each framework's own models ----------------------------------------------------------------------------

# How many leaves, how many parameters: known beforehand, from the layers' formulas.
LINEN = {
    "Dense": (lambda nn: nn.Dense(3), (f32(4, 6),), 2, 6 * 3 + 3),
    "RNN of LSTM": (lambda nn: nn.RNN(nn.LSTMCell(7)), (f32(4, 5, 6),), 12, 4 * (6 * 7 + 7 * 7 + 7)),
    "RNN of GRU": (lambda nn: nn.RNN(nn.GRUCell(7)), (f32(4, 5, 6),), 10, 3 * (6 * 7 + 7 * 7) + 4 * 7),
    "OptimizedLSTM": (
        lambda nn: nn.RNN(nn.OptimizedLSTMCell(7)),
        (f32(4, 5, 6),),
        12,
        4 * (6 * 7 + 7 * 7 + 7),
    ),
    "Bidirectional": (
        lambda nn: nn.Bidirectional(nn.RNN(nn.SimpleCell(7)), nn.RNN(nn.SimpleCell(7))),
        (f32(4, 5, 6),),
        6,
        2 * (6 * 7 + 7 * 7 + 7),
    ),
    "attention": (lambda nn: nn.MultiHeadDotProductAttention(2), (f32(4, 5, 6),), 8, 4 * (6 * 6 + 6)),
    "huge attention": (
        lambda nn: nn.MultiHeadDotProductAttention(64, use_bias=False),
        (f32(1, 5, 2**16),),
        4,
        4 * 2**32,
    ),
    "LayerNorm": (lambda nn: nn.LayerNorm(), (f32(4, 6),), 2, 12),
    "GroupNorm": (lambda nn: nn.GroupNorm(2), (f32(4, 6),), 2, 12),
    "RMSNorm": (lambda nn: nn.RMSNorm(), (f32(4, 6),), 1, 6),
    "BatchNorm": (lambda nn: nn.BatchNorm(use_running_average=False), (f32(4, 6),), 4, 24),
    "WeightNorm": (lambda nn: nn.WeightNorm(nn.Dense(3)), (f32(4, 6),), 3, 6 * 3 + 3 + 3),
    "ConvLSTM": (
        lambda nn: nn.RNN(nn.ConvLSTMCell(7, (3, 3))),
        (f32(2, 3, 8, 8, 6),),
        4,
        (9 * 6 + 1 + 9 * 7 + 1) * 28,
    ),
    "Conv": (
        lambda nn: nn.Conv(4, (3, 2), feature_group_count=2),
        (f32(4, 8, 8, 6),),
        2,
        3 * 2 * 3 * 4 + 4,
    ),
    "Embed": (lambda nn: nn.Embed(10, 6), (ints(4),), 1, 60),
}


def rngs(nnx):
    return nnx.Rngs(0)


NNX = {
    "Linear": (lambda nnx: nnx.Linear(6, 3, rngs=rngs(nnx)), (f32(4, 6),), 2, 21),
    "LSTM": (lambda nnx: nnx.LSTMCell(6, 7, rngs=rngs(nnx)), None, 12, 4 * (6 * 7 + 7 * 7 + 7)),
    "GRU": (lambda nnx: nnx.GRUCell(6, 7, rngs=rngs(nnx)), None, 3, 3 * (6 * 7 + 7 * 7 + 7)),
    "attention": (
        lambda nnx: nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs(nnx)),
        (f32(4, 5, 6),),
        8,
        4 * (6 * 6 + 6),
    ),
    "LayerNorm": (lambda nnx: nnx.LayerNorm(6, rngs=rngs(nnx)), (f32(4, 6),), 2, 12),
    "BatchNorm": (lambda nnx: nnx.BatchNorm(6, rngs=rngs(nnx)), (f32(4, 6),), 4, 24),
    "Conv": (lambda nnx: nnx.Conv(6, 5, (3, 2), rngs=rngs(nnx)), (f32(4, 8, 8, 6),), 2, 6 * 6 * 5 + 5),
    "Embed": (lambda nnx: nnx.Embed(10, 6, rngs=rngs(nnx)), (ints(4),), 1, 60),
    "huge Linear": (
        lambda nnx: nnx.Linear(2**16, 2**16, rngs=rngs(nnx)),
        (f32(1, 2**16),),
        2,
        2**32 + 2**16,
    ),
}

EQUINOX = {
    "MLP": (lambda nn: nn.MLP(6, 3, 8, 2, key=KEY), (f32(6),), 6, 6 * 8 + 8 + 8 * 8 + 8 + 8 * 3 + 3),
    "huge MLP": (
        lambda nn: nn.MLP(2**16, 2**16, 2**16, 2, use_bias=False, use_final_bias=False, key=KEY),
        (f32(2**16),),
        3,
        3 * 2**32,
    ),
    "attention": (lambda nn: nn.MultiheadAttention(2, 6, key=KEY), (f32(5, 6),) * 3, 4, 4 * 36),
    "LSTM": (lambda nn: nn.LSTMCell(6, 7, key=KEY), (f32(6), (f32(7), f32(7))), 3, 28 * (6 + 7 + 1)),
    "GRU": (lambda nn: nn.GRUCell(6, 7, key=KEY), (f32(6), f32(7)), 4, 21 * (6 + 7 + 1) + 7),
    "LayerNorm": (lambda nn: nn.LayerNorm(6), (f32(6),), 2, 12),
    "RMSNorm": (lambda nn: nn.RMSNorm(6), (f32(6),), 2, 12),
    "GroupNorm": (lambda nn: nn.GroupNorm(2, 6), (f32(6, 5),), 2, 12),
    "Conv": (lambda nn: nn.Conv2d(6, 4, (3, 2), groups=2, key=KEY), (f32(6, 8, 8),), 2, 4 * 3 * 6 + 4),
    "Embedding": (lambda nn: nn.Embedding(10, 6, key=KEY), (ints(4),), 1, 60),
    "WeightNorm": (lambda nn: nn.WeightNorm(nn.Linear(6, 3, key=KEY)), (f32(6),), 3, 21 + 3),
    "PReLU": (lambda nn: nn.PReLU(), (f32(6),), 1, 1),
    "pooling": (lambda nn: nn.MaxPool2d(2), (f32(3, 8, 8),), 0, 0),
}


HAIKU = {  # the trainable parameters of ResNet-18 and -50 and of MobileNet are those of the papers' tables
    "MLP": (lambda hk, x: hk.nets.MLP([8, 3])(x), f32(4, 6), 4, 6 * 8 + 8 + 8 * 3 + 3),
    "ResNet18": (lambda hk, x: hk.nets.ResNet18(1000)(x, True), f32(2, 64, 64, 3), 62, 11_689_512),
    "ResNet50": (lambda hk, x: hk.nets.ResNet50(1000)(x, True), f32(2, 64, 64, 3), 161, 25_557_032),
    "MobileNetV1": (
        lambda hk, x: hk.nets.MobileNetV1(num_classes=1000)(x, True),
        f32(2, 64, 64, 3),
        83,
        4_231_976,
    ),
    "VectorQuantizer": (lambda hk, x: hk.nets.VectorQuantizer(6, 10, 0.2)(x, True), f32(4, 6), 1, 60),
    "VectorQuantizerEMA": (
        lambda hk, x: hk.nets.VectorQuantizerEMA(6, 10, 0.2, 0.9)(x, True),
        f32(4, 6),
        0,
        0,
    ),
    "attention": (
        lambda hk, x: hk.MultiHeadAttention(2, 3, w_init=hk.initializers.VarianceScaling())(x, x, x),
        f32(4, 5, 6),
        8,
        4 * (6 * 6 + 6),
    ),
    "LSTM": (
        lambda hk, x: hk.LSTM(7)(x, hk.LSTM(7).initial_state(4))[0],
        f32(4, 6),
        2,
        (6 + 7) * 28 + 28,
    ),
    "BatchNorm": (lambda hk, x: hk.BatchNorm(True, True, 0.9)(x, True), f32(4, 6), 2, 12),
}


@pytest.mark.parametrize("name", LINEN)
def test_linen(name):
    nn = framework("flax.linen")
    make, inputs, leaves, params = LINEN[name]
    made = adapter("flax").model(make(nn), *inputs)
    r = report(made)
    check(r, made.params)
    assert (r.leaf_count, r.param_count) == (leaves, params)
    assert {leaf.owner is None for leaf in r} == {False}
    check_roles(r)


@pytest.mark.parametrize("name", NNX)
def test_nnx(name):
    nnx = framework("flax.nnx")
    make, inputs, leaves, params = NNX[name]
    made = adapter("nnx").model(lambda: make(nnx), *inputs or ())
    r = report(made)
    check(r, made.params)
    trained = [leaf for leaf in r if leaf.role != "rng"]
    assert (len(trained), sum(leaf.size for leaf in trained)) == (leaves, params)
    assert {leaf.owner is None for leaf in r} == {False}
    check_roles(r)


@pytest.mark.parametrize("name", EQUINOX)
def test_equinox(name):
    eqx = framework("equinox")
    make, inputs, leaves, params = EQUINOX[name]
    made = adapter("equinox").model(lambda: make(eqx.nn), *inputs)
    r = report(made)
    check(r, made.params)
    assert (r.leaf_count, r.param_count) == (leaves, params)
    assert {leaf.owner is None for leaf in r} <= {False}
    check_roles(r)


@pytest.mark.parametrize("name", HAIKU)
def test_haiku(name):
    hk = framework("haiku")
    function, x, leaves, params = HAIKU[name]
    made = adapter("haiku").model(hk.transform_with_state(lambda x: function(hk, x)), x)
    r = report(made)
    check(r, made.params)
    trained = r.select(role="params")
    assert (trained.leaf_count, trained.param_count) == (leaves, params)
    assert trained.leaf_count == len(jax.tree.leaves(made.params["params"]))
    assert {leaf.owner is None for leaf in r} == {False}
    check_roles(r)


def check_roles(r):
    """Roles part a report, and nothing is stacked here."""
    assert sum(sums.leaf_count for sums in r.roles.values()) == r.leaf_count == r.logical_leaf_count
    assert sum(sums.param_count for sums in r.roles.values()) == r.param_count
    assert sum(sums.nbytes for sums in r.roles.values()) == r.nbytes


def test_models_are_abstract_where_their_inputs_are():
    hk = framework("haiku")
    made = adapter("haiku").model(
        hk.transform_with_state(lambda x: hk.nets.ResNet200(1000)(x, True)), f32(1, 64, 64, 3)
    )
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(made.params))
    y = jax.eval_shape(made.apply, made.params, f32(1, 64, 64, 3))
    assert y.shape == (1, 1000)
    assert report(made).select(role="params").param_count == 64_673_832


# --- The frameworks' own tables -----------------------------------------------------------------------------


def total(table):
    """What a table of Flax says is the total."""
    (said,) = re.findall(r"Total Parameters: ([\d,]+)", re.sub(r"\x1b\[[\d;]*m", "", table))
    return int(said.replace(",", ""))


@pytest.mark.parametrize("name", [name for name in LINEN if "huge" not in name])
def test_linen_tabulates_the_same_total(name):
    nn = framework("flax.linen")
    make, inputs, _, params = LINEN[name]
    x = [np.zeros(x.shape, x.dtype) for x in inputs]
    table = make(nn).tabulate(KEY, *x, console_kwargs={"width": 400})
    assert total(table) == report(adapter("flax").model(make(nn), *inputs)).param_count == params


@pytest.mark.parametrize("name", ["Linear", "attention", "LayerNorm", "BatchNorm", "Conv", "Embed"])
def test_nnx_tabulates_the_same_total(name):
    nnx = framework("flax.nnx")
    make, inputs, _, params = NNX[name]
    x = [np.zeros(x.shape, x.dtype) for x in inputs]
    table = nnx.tabulate(make(nnx), *x, console_kwargs={"width": 400})
    r = report(adapter("nnx").model(make(nnx), *inputs))
    keys = sum(leaf.kind == "key" for leaf in r)  # Flax counts a key as one parameter
    assert total(table) == r.param_count + keys
    assert r.roles["params"].param_count + sum(leaf.size for leaf in r if leaf.role == "statistics") == params


@pytest.mark.parametrize("name", ["MLP", "ResNet18", "MobileNetV1", "VectorQuantizerEMA", "BatchNorm"])
def test_haiku_summarizes_the_same_totals(name):
    hk = framework("haiku")
    function, x, _, params = HAIKU[name]
    transformed = hk.transform_with_state(lambda x: function(hk, x))
    top = hk.experimental.eval_summary(transformed)(x)[0].module_details
    r = report(adapter("haiku").model(transformed, x))
    for role, part in (("params", top.params), ("statistics", top.state)):
        chosen = r.select(role=role)
        assert chosen.leaf_count == len(part)
        assert chosen.param_count == sum(math.prod(spec.shape) for spec in part.values())
        names = {leaf.name.partition("/")[2]: leaf.shape for leaf in chosen}
        assert names == {name: tuple(spec.shape) for name, spec in part.items()}
    assert sum(math.prod(spec.shape) for spec in top.params.values()) == params


# --- States -------------------------------------------------------------------------------------------------

PARAMS = {"a": {"w": jnp.ones((200, 300)), "b": jnp.ones(300)}, "c": jnp.ones((300, 7), jnp.bfloat16)}
LABELS = {"a": "adam", "c": "sgd"}


OPTIMIZERS = {
    "adam": lambda optax: optax.adam(1e-3),
    "adafactor": lambda optax: optax.adafactor(1e-3),
    "lamb": lambda optax: optax.lamb(1e-3),
    "lion": lambda optax: optax.lion(1e-3),
    "chain": lambda optax: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3), optax.ema(0.9)),
    "multi_transform": lambda optax: optax.multi_transform(
        {"adam": optax.adam(1e-3), "sgd": optax.sgd(1e-3, momentum=0.9)}, LABELS
    ),
    "masked": lambda optax: optax.masked(optax.adam(1e-3), {"a": True, "c": False}),
    "injected": lambda optax: optax.inject_hyperparams(optax.adam)(1e-3),
    "multi_steps": lambda optax: optax.MultiSteps(optax.adam(1e-3), 4),
    "nothing": lambda optax: optax.set_to_zero(),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("backend", [None, "flax", "nnx", "equinox", "haiku"])
def test_optimizer_states(name, backend):
    optax = framework("optax")
    if backend is not None:
        framework(backend if backend != "nnx" else "flax")
    state = OPTIMIZERS[name](optax).init(PARAMS)
    check(report(state, adapter=backend), state)
    abstract = jax.eval_shape(OPTIMIZERS[name](optax).init, PARAMS)
    check(report(abstract, adapter=backend), abstract)


def test_adam_keeps_two_copies():
    optax = framework("optax")
    r = report(optax.adam(1e-3).init(PARAMS))
    assert r.param_count == 2 * report(PARAMS).param_count + 1
    assert r.nbytes == 2 * report(PARAMS).nbytes + 4


def test_train_state():
    optax = framework("optax")
    framework("flax")
    from flax.training.train_state import TrainState

    state = TrainState.create(apply_fn=None, params=PARAMS, tx=optax.adam(1e-3))
    r = report(state, adapter="flax")
    check(r, state)
    assert r.roles["params"].param_count == 200 * 300 + 300 + 300 * 7
    assert r.roles["other"].param_count == 2 * r.roles["params"].param_count + 1


# --- Any tree at all ----------------------------------------------------------------------------------------

BACKENDS = ("flax", "nnx", "equinox", "haiku")


@jax.tree_util.register_pytree_with_keys_class
class Sequence:
    """Its keys say where its children are, and it has none of the ways to get at them."""

    key = staticmethod(jax.tree_util.SequenceKey)

    def __init__(self, *children):
        self.children = children

    def tree_flatten_with_keys(self):
        return [(self.key(i), child) for i, child in enumerate(self.children)], None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


@jax.tree_util.register_pytree_with_keys_class
class Refusing(Sequence):
    def __getitem__(self, key):
        raise RuntimeError("never")


@jax.tree_util.register_pytree_with_keys_class
class Keyed(Sequence):
    @staticmethod
    def key(i):
        return jax.tree_util.DictKey((i, "step"))


@jax.tree_util.register_pytree_with_keys_class
class Attributed(Sequence):
    @property
    def child(self):
        return 1 / 0

    @staticmethod
    def key(_):
        return jax.tree_util.GetAttrKey("child")


@jax.tree_util.register_pytree_with_keys_class
class Unhashable(Sequence):
    @staticmethod
    def key(i):
        return collections.UserList([i])


class Pair(NamedTuple):
    x: object
    y: object


def modules():
    """What the installed frameworks make that can lie in a tree."""
    found = []
    for name in ("flax.linen", "flax.nnx", "equinox", "haiku"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if name == "flax.linen":
            found += [module.Dense(3), module.Partitioned(jnp.ones(3), names=("x",))]
            found += [module.FrozenDict({"params": {"w": jnp.ones(2)}})]
        elif name == "flax.nnx":
            linear = module.Linear(2, 3, rngs=module.Rngs(0))
            found += [linear, module.state(linear), module.Rngs(0), module.List([linear, linear])]
            found += [
                module.Param({"a": 1.0}),
                module.to_pure_dict(module.state(linear)),
                module.split(linear),
            ]
        elif name == "equinox":
            found += [
                module.nn.MLP(2, 3, 4, 1, key=KEY),
                module.nn.State(module.nn.BatchNorm(2, "b", mode="ema")),
            ]
        else:
            found += [module.transform(abs), module.initializers.Constant(1.0)]
    return found


LEAVES = [None, 1, 2.5, True, "text", object(), np.float32(3), np.ones(2), jnp.ones((2, 3)), f32(2), KEY]
LEAVES += [jax.random.key(0), jax.eval_shape(jax.random.key, 0), (), {}, [], *modules()]
NAMES = st.sampled_from(["params", "state", "batch_stats", "value", "0", "²", "\u0661", "a/b", ""])


def containers(children):
    lists = st.lists(children, max_size=3)
    return st.one_of(
        lists,
        lists.map(tuple),
        st.dictionaries(NAMES, children, max_size=3),
        st.dictionaries(st.integers(-2, 12), children, max_size=3),
        st.tuples(children, children).map(lambda pair: Pair(*pair)),
        lists.map(lambda held: collections.OrderedDict(enumerate(held))),
        *(lists.map(lambda held, kind=kind: kind(*held)) for kind in (Sequence, Refusing, Keyed)),
        children.map(Attributed),
        children.map(Unhashable),
    )


# By number: Hypothesis would write out the leaves themselves, and some refuse.
TREES = st.recursive(st.integers(0, len(LEAVES) - 1).map(lambda n: LEAVES[n]), containers, max_leaves=8)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=150, deadline=None)
@given(tree=TREES)
def test_any_tree_has_one_fact_for_each_leaf(backend, tree):
    framework({"nnx": "flax"}.get(backend, backend))
    leaves = jax.tree_util.tree_leaves(tree)
    facts = adapter(backend).describe(tree)
    assert len(facts) == len(leaves)
    for fact, leaf in zip(facts, leaves, strict=True):
        is_array = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
        assert (fact.role == "static") == (not is_array)
    r = report(tree, adapter=backend)
    assert [leaf.role for leaf in r] == [fact.role for fact in facts]
    assert r.nbytes == report(tree).nbytes
    assert r.paths == report(tree).paths
