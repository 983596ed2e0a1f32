"""`report` of every container and every kind of leaf, against `jax.tree_util`."""

import collections
import dataclasses
import enum
import gc
import math
import subprocess
import sys
import warnings
import weakref
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax import tree_util

from leafreport import FlattenError, Model, report

# --- Containers ---------------------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = 1


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Word(str):
    __slots__ = ()

    def __str__(self):
        return "not the characters"


class Pair(NamedTuple):
    second: Any
    first: Any


class NoFields(NamedTuple):
    pass


@tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    kernel: Any
    bias: Any
    name: str = dataclasses.field(default="dense", metadata={"static": True})


@tree_util.register_pytree_node_class
class Unkeyed:
    def __init__(self, *children):
        self.children = children

    def tree_flatten(self):
        return self.children, None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


@tree_util.register_pytree_with_keys_class
class Keyed(Unkeyed):
    def tree_flatten_with_keys(self):
        return [(tree_util.DictKey(f"k{i}"), c) for i, c in enumerate(self.children)], None


@tree_util.register_pytree_with_keys_class
class Twice(Unkeyed):
    """Gives one path to all of its children."""

    def tree_flatten_with_keys(self):
        return [(tree_util.GetAttrKey("same"), c) for c in self.children], None


class OwnKey:
    def __str__(self):
        return "own key"


@tree_util.register_pytree_with_keys_class
class OddKeys(Unkeyed):
    def tree_flatten_with_keys(self):
        return [(OwnKey(), c) for c in self.children], None


CONTAINERS = {
    "a leaf": 1.5,
    "a bare array": np.zeros((2, 3), np.float32),
    "none": None,
    "dict": {"b": 1, "a": 2},
    "dict in sorted order": {"a": 1, "b": 2},
    "dicts of one key set, inserted differently": [{"a": 1, "b": 2}, {"b": 3, "a": 4}, {"a": 5}],
    "empty dict": {},
    "dict of the empty name": {"": 1},
    "empty name beside others": {"a": {"": {"": 1}}, "": 2},
    "int keys": {10: 1, 9: 2, -1: 3},
    "bool and int keys": {True: 1, 0: 2},
    "equal keys of other types": [{1: "a"}, {1.0: "b"}, {True: "c"}],
    "float keys": {0.5: 1, math.inf: 2},
    "tuple keys": {("b", 1): 1, ("a", 2): 2},
    "bytes keys": {b"x": 1},
    "enum key": {Color.RED: 1},
    "int enum keys": {Size.LARGE: 1, Size.SMALL: 2},
    "None as a key": {None: 1},
    "str subclass keys": {Word("b"): 1, Word("a"): 2},
    "str beside its subclass": {"b": 1, Word("a"): 2},
    "slash in keys": {"conv/~/w": {"a/b": 1}, "conv": {"~": {"w": {"a": {"b": 2}}}}},
    "ordered dict": collections.OrderedDict([("b", 1), ("a", [2])]),
    "ordered dict of mixed keys": collections.OrderedDict([("b", 1), (0, 2)]),
    "defaultdict": collections.defaultdict(list, {"b": 1, "a": {}}),
    "list": [1, [2, []], 3],
    "list of twelve": list(range(12)),
    "tuple": (1, (), (2,)),
    "lists and tuples of one length": ([1, 2], (3, 4)),
    "namedtuple": Pair(second=1, first=[2, 3]),
    "namedtuple without fields": [NoFields(), NoFields()],
    "empty containers": {"a": {}, "b": [], "c": (), "d": None, "e": NoFields(), "f": collections.OrderedDict()},
    "nothing but empty": [[], {}, None],
    "dataclass": Layer(kernel=1, bias={"x": 2}),
    "dataclasses, some of None": [Layer(1, None), Layer(None, 2), Layer(None, None)],
    "registered without keys": Unkeyed(1, [2], Unkeyed()),
    "registered with keys": Keyed(1, {"a": 2}, Keyed(3)),
    "one path twice": Twice(1, Twice(2, 3), 4),
    "keys of its own": OddKeys(1, [2]),
    "deep and mixed": {"a": [Pair(Layer(1, (2, {"z": [Keyed(3)]})), None)]},
    "a dict subclass, which is a leaf": collections.Counter("aab"),
    "a set, which is a leaf": {"s": frozenset([1])},
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_report_agrees_with_tree_util_for_container(name):
    tree = CONTAINERS[name]
    found = report(tree)
    assert found.leaf_count == len(tree_util.tree_leaves(tree))
    assert found.paths == oracle.paths(tree)
    assert found.names == tuple(map("/".join, found.paths))
    assert [leaf.path for leaf in found] == list(found.paths)


def test_paths_written_out():
    tree = {"b": [1, (2,)], "a": Pair(3, Layer(4, None)), "": {7: 5}, "c": Keyed(6)}
    assert report(tree).paths == (
        ("", "7"),
        ("a", "second"),
        ("a", "first", "kernel"),
        ("b", "0"),
        ("b", "1", "0"),
        ("c", "k0"),
    )


def test_path_of_str_subclass_is_a_plain_string_of_its_characters():
    ((path,),) = report({Word("a"): 1}).paths
    assert path == "a"
    assert type(path) is str


def test_path_of_enum_key_is_its_str():
    assert report({Color.RED: 1}).paths == (("Color.RED",),)


def test_paths_of_equal_keys_of_other_types_are_their_own():
    assert report([{1: 0}, {1.0: 0}, {True: 0}]).paths == (("0", "1"), ("1", "1.0"), ("2", "True"))


def test_nodes_are_listed_with_their_types_leafless_ones_too():
    tree = {"a": [], "b": None, "c": NoFields(), "d": Layer(1, 2), "e": collections.OrderedDict(x=1), "f": (1,)}
    here = __name__
    assert [(path, node.kind, node.type, node.keys) for path, node in report(tree).nodes] == [
        ((), "dict", "dict", "str"),
        (("a",), "list", "list", ""),
        (("b",), "none", "NoneType", ""),
        (("c",), "namedtuple", f"{here}.NoFields", ""),
        (("d",), "custom", f"{here}.Layer", "attribute"),
        (("e",), "dict", "collections.OrderedDict", "str"),
        (("f",), "tuple", "tuple", "index"),
    ]


@tree_util.register_pytree_with_keys_class
class Reordered(Unkeyed):
    """Its flatten with keys gives other children, and fewer, than its flatten without."""

    def tree_flatten_with_keys(self):
        return [(tree_util.DictKey("only"), self.children[0])], None


def test_children_are_those_of_the_flatten_without_keys_when_the_two_disagree():
    tree = {"a": Reordered(1, "two", [3.0])}
    found = report(tree)
    assert found.leaf_count == len(tree_util.tree_leaves(tree)) == 3
    assert [leaf.dtype for leaf in found] == ["int", "str", "float"]
    assert found.paths == (("a", "0"), ("a", "1"), ("a", "2", "0"))


class KeysRaise(Unkeyed):
    pass


def _no_keys(_):
    raise RuntimeError("no keys today")


tree_util.register_pytree_with_keys(
    KeysRaise, _no_keys, lambda _, c: KeysRaise(*c), lambda node: (node.children, None)
)


def test_children_are_numbered_when_the_flatten_with_keys_raises():
    tree = KeysRaise(1, [2])
    assert report(tree).paths == (("0",), ("1", "0"))
    assert len(tree_util.tree_leaves(tree)) == 2


def test_dataclass_whose_field_was_set_to_another_object_keeps_its_names():
    trees = [Layer(1, 2), Layer(3, 4)]
    trees[1].__dict__["bias"] = [5, 6]
    oracle.agree(report(trees), trees)


def test_dataclass_that_changes_its_children_is_seen_to():
    @tree_util.register_pytree_with_keys_class
    @dataclasses.dataclass
    class Fickle:
        a: Any
        b: Any

        def tree_flatten_with_keys(self):
            order = ("a", "b") if self.a < self.b else ("b", "a")
            return [(tree_util.GetAttrKey(name), getattr(self, name)) for name in order], None

        def tree_flatten(self):
            return tuple(child for _, child in self.tree_flatten_with_keys()[0]), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(*children)

    tree = [Fickle(1, 2), Fickle(2, 1), Fickle(3, 4)]
    assert report(tree).paths == oracle.paths(tree)


def test_model_is_reported_by_its_params():
    params = {"w": np.zeros(3)}
    assert report(Model(params, lambda p, x: x)) == report(params)


# --- Trees of real libraries --------------------------------------------------------------------------------


def test_optax_state_agrees_with_tree_util():
    optax = pytest.importorskip("optax")
    params = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)}
    tree = optax.chain(optax.clip(1.0), optax.adam(1e-3), optax.masked(optax.sgd(0.1), {"w": True, "b": False}))
    state = tree.init(params)
    oracle.agree(report(state), state)
    assert ("namedtuple", "optax._src.base.EmptyState") in {(n.kind, n.type) for _, n in report(state).nodes}


def test_flax_linen_variables_struct_and_train_state_agree_with_tree_util():
    pytest.importorskip("flax")
    optax = pytest.importorskip("optax")
    from flax import linen, struct
    from flax.core import FrozenDict
    from flax.training.train_state import TrainState

    @struct.dataclass
    class Stats:
        mean: Any
        name: str = struct.field(pytree_node=False)

    dense = linen.Dense(4)
    variables = dense.init(jax.random.key(0), jnp.ones((1, 2)))
    state = TrainState.create(apply_fn=dense.apply, params=variables["params"], tx=optax.adam(0.1))
    for tree in (variables, FrozenDict(variables), Stats(mean=jnp.zeros(2), name="s"), state):
        oracle.agree(report(tree), tree)
    assert report(FrozenDict(variables)).names == ("params/bias", "params/kernel")
    assert report(variables).param_count == 2 * 4 + 4


def test_nnx_module_and_state_agree_with_tree_util():
    pytest.importorskip("flax")
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(3)])
            self.norm = nnx.BatchNorm(2, rngs=rngs)

    model = Net(nnx.Rngs(0))
    state = nnx.state(model)
    for tree in (state, nnx.to_pure_dict(state)):
        oracle.agree(report(tree), tree)
    assert report(model).leaf_count == len(tree_util.tree_leaves(model))
    # 3 kernels of 2x2, 3 biases; scale, bias, mean and var of the norm.
    assert report(nnx.state(model, nnx.Param, nnx.BatchStat)).param_count == 3 * (4 + 2) + 4 * 2


def test_equinox_module_agrees_with_tree_util():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 3, 4, 2, key=jax.random.key(0))
    oracle.agree(report(model), model)
    # Weights and biases of 2->4, 4->4, 4->3; the activations are leaves of kind object.
    assert report(model).param_count == (8 + 4) + (16 + 4) + (12 + 3)
    assert {leaf.kind for leaf in report(model)} == {"array", "object"}
    filtered = eqx.filter(model, eqx.is_array)
    oracle.agree(report(filtered), filtered)


def test_haiku_params_keep_their_slashes():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hk = pytest.importorskip("haiku")
    net = hk.transform(lambda x: hk.nets.MLP([3, 2])(x))
    params = net.init(jax.random.key(0), jnp.ones((1, 2)))
    found = report(params)
    oracle.agree(found, params)
    assert found.paths == (
        ("mlp/~/linear_0", "b"),
        ("mlp/~/linear_0", "w"),
        ("mlp/~/linear_1", "b"),
        ("mlp/~/linear_1", "w"),
    )


# --- Leaves -------------------------------------------------------------------------------------------------

JAX_DTYPES = [
    "bool", "int2", "int4", "int8", "int16", "int32", "uint2", "uint4", "uint8", "uint16", "uint32",
    "float4_e2m1fn", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz",
    "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "bfloat16", "float16", "float32", "complex64",
]  # fmt: skip


@pytest.mark.parametrize("name", JAX_DTYPES)
def test_array_of_every_jax_dtype_live_and_abstract(name):
    dtype = jnp.dtype(name)
    live, abstract, numpy = jnp.zeros((2, 3), dtype), jax.ShapeDtypeStruct((2, 3), dtype), np.zeros((2, 3), dtype)
    for leaf in report([live, abstract, numpy]):
        assert (leaf.kind, leaf.dtype, leaf.shape, leaf.size) == ("array", name, (2, 3), 6)
        assert leaf.nbytes == 6 * dtype.itemsize == numpy.nbytes == live.nbytes


@pytest.mark.parametrize("name", ["int64", "uint64", "float64", "complex128"])
def test_array_of_64_bit_dtype(name):
    leaf = report(np.zeros((2, 3), name)).leaves[0]
    assert (leaf.dtype, leaf.nbytes) == (name, 6 * np.dtype(name).itemsize)


@pytest.mark.parametrize(
    ("array", "dtype", "nbytes"),
    [
        (np.zeros(3, ">f4"), ">f4", 12),
        (np.zeros(3, "U5"), "<U5", 60),
        (np.zeros(3, "S5"), "|S5", 15),
        (np.zeros(2, [("a", "i4"), ("b", "f8")]), "[('a', '<i4'), ('b', '<f8')]", 24),
        (np.empty(2, object), "object", 16),
        (np.zeros(2, "M8[s]"), "datetime64[s]", 16),
        (np.zeros(2, jax.dtypes.float0), "float0", 0),
        (np.zeros((0, 5), np.int16), "int16", 0),
        (np.zeros((), np.int16), "int16", 2),
        (np.int16(3), "int16", 2),
        (np.float64(3), "float64", 8),
        (np.str_("abc"), "<U3", 12),
        (np.zeros((3, 3), np.int16)[::2, :1], "int16", 4),
        (np.ma.masked_array([1, 2], dtype=np.int8), "int8", 2),
        (jnp.zeros(()), "float32", 4),
        (jnp.zeros((4, 0, 2)), "float32", 0),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_unusual_array(array, dtype, nbytes):
    leaf = report(array).leaves[0]
    assert (leaf.kind, leaf.dtype, leaf.shape) == ("array", dtype, array.shape)
    assert leaf.nbytes == nbytes == array.nbytes
    assert leaf.size == array.size == report([array]).param_count


@pytest.mark.parametrize(("impl", "words"), [("threefry2x32", 2), ("rbg", 4), ("unsafe_rbg", 4)])
def test_typed_key_and_batch_of_keys(impl, words):
    key = jax.random.key(0, impl=impl)
    found = report({"one": key, "many": jax.random.split(key, 6).reshape(2, 3)})
    assert [leaf.kind for leaf in found] == ["key", "key"]
    assert found[("one",)].shape == ()
    assert found[("many",)].shape == (2, 3)
    assert found[("one",)].nbytes == words * 4 == jax.random.key_data(key).nbytes
    assert found[("many",)].nbytes == 6 * words * 4
    assert found[("one",)].dtype == str(key.dtype)
    assert found.param_count == 0
    assert found.nbytes == 7 * words * 4


def test_raw_key_is_an_array():
    leaf = report(jax.random.PRNGKey(0)).leaves[0]
    assert (leaf.kind, leaf.dtype, leaf.shape) == ("array", "uint32", (2,))


def test_abstract_key_from_eval_shape_is_a_key():
    leaf = report(jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 3))).leaves[0]
    assert (leaf.kind, leaf.dtype, leaf.shape, leaf.nbytes) == ("key", "key<fry>", (3,), 24)


@pytest.mark.parametrize("value", [True, 0, -1, 2**100, 1.5, math.nan, 2j, Size.SMALL])
def test_python_number_is_a_scalar_without_size(value):
    leaf = report([value]).leaves[0]
    assert (leaf.kind, leaf.dtype, leaf.shape) == ("scalar", type(value).__name__, None)
    assert (leaf.size, leaf.nbytes, leaf.device_nbytes, leaf.sharding) == (None, None, None, None)


class RaisingShape:
    @property
    def shape(self):
        raise RuntimeError("not now")


class AnyAttribute:
    def __getattr__(self, name):
        return self


class TextShape:
    shape = "(2, 3)"
    dtype = np.dtype("float32")


class ListShape:
    shape = [2, 3]  # noqa: RUF012
    dtype = np.dtype("float32")


class UnsizedShape:
    shape = (2, None)
    dtype = np.dtype("float32")


class Unhashable:
    __hash__ = None


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ("text", "str"),
        (b"bytes", "bytes"),
        (len, "builtin_function_or_method"),
        (lambda: 0, "function"),
        (np.float32, "type"),
        (np.ndarray, "type"),
        (np.dtype("float32"), "Float32DType"),
        (object(), "object"),
        (slice(1), "slice"),
        (math, "module"),
        (RaisingShape(), "RaisingShape"),
        (AnyAttribute(), "AnyAttribute"),
        (TextShape(), "TextShape"),
        (ListShape(), "ListShape"),
        (UnsizedShape(), "UnsizedShape"),
        (Unhashable(), "Unhashable"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_object_is_named_by_its_type(value, dtype):
    leaf = report([value]).leaves[0]
    assert (leaf.kind, leaf.dtype, leaf.shape, leaf.size, leaf.nbytes) == ("object", dtype, None, None, None)


def test_leaf_of_symbolic_shape_is_an_object():
    leaf = report(jax.ShapeDtypeStruct(jax.export.symbolic_shape("batch, 3"), np.float32)).leaves[0]
    assert (leaf.kind, leaf.dtype, leaf.shape) == ("object", "ShapeDtypeStruct", None)


class Duck:
    """Someone else's array: it has what an array has, and no more."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, dtype

    def __array__(self):
        raise AssertionError("values were read")


class OwnDtype:
    itemsize = 3

    def __str__(self):
        return "float24"


class Torchlike(tuple):
    __slots__ = ()


@pytest.mark.parametrize(
    ("duck", "dtype", "nbytes"),
    [
        (Duck((2, 3), np.dtype("float32")), "float32", 24),
        (Duck((2, 3), np.float32), "float32", 24),
        (Duck(Torchlike((2, np.int64(3))), OwnDtype()), "float24", 18),
        (Duck((2, 3), "text"), "text", None),
    ],
)
def test_duck_array_is_an_array_and_its_values_are_not_read(duck, dtype, nbytes):
    leaf = report([duck]).leaves[0]
    assert (leaf.kind, leaf.dtype, leaf.shape, leaf.size, leaf.nbytes) == ("array", dtype, (2, 3), 6, nbytes)
    assert type(leaf.shape) is tuple
    assert all(type(dim) is int for dim in leaf.shape)


def test_abstract_values_of_jax_are_arrays():
    leaf = report(jax.core.ShapedArray((2, 3), jnp.bfloat16)).leaves[0]
    assert (leaf.kind, leaf.dtype, leaf.nbytes) == ("array", "bfloat16", 12)


def test_deleted_array_is_reported():
    array = jnp.zeros((2, 3))
    array.delete()
    leaf = report([array]).leaves[0]
    assert (leaf.kind, leaf.dtype, leaf.shape, leaf.nbytes) == ("array", "float32", (2, 3), 24)


def test_donated_array_is_reported():
    array = jnp.zeros((2, 3))
    jax.jit(lambda x: x + 1, donate_argnums=0)(array)
    assert array.is_deleted()
    assert report({"a": array, "b": jnp.zeros(2)}).nbytes == 24 + 8


def test_tracers_are_arrays_and_nothing_is_traced():
    seen = []

    def step(x, key):
        seen.append(report({"x": x, "again": x, "key": key, "n": 1}))
        return x * 2

    jaxpr = jax.make_jaxpr(jax.jit(step))(jnp.zeros((2, 3)), jax.random.key(0))
    assert [(leaf.kind, leaf.shape) for leaf in seen[0]] == [
        ("array", (2, 3)),
        ("key", ()),
        ("scalar", None),
        ("array", (2, 3)),
    ]
    assert seen[0].nbytes == 24 + 8
    assert [str(eqn.primitive) for eqn in jaxpr.jaxpr.eqns[0].params["jaxpr"].eqns] == ["mul"]


def test_tracers_under_vmap_and_grad_have_the_shape_the_function_sees():
    seen = []

    def loss(x):
        seen.append(report([x]).leaves[0])
        return x.sum()

    jax.vmap(jax.grad(loss))(jnp.zeros((5, 3)))
    assert [(leaf.kind, leaf.shape, leaf.dtype) for leaf in seen] == [("array", (3,), "float32")]


def test_weak_type_is_known_where_jax_has_one():
    weak, strong = jnp.asarray(1.0), jnp.zeros(())
    found = report([weak, strong, np.zeros(()), jax.eval_shape(lambda: jnp.asarray(1.0)), 1.0])
    assert weak.weak_type
    assert [leaf.weak_type for leaf in found] == [True, False, None, True, None]


# --- Exact sums ---------------------------------------------------------------------------------------------


def test_sums_are_exact_beyond_64_bits():
    big = jax.ShapeDtypeStruct((2**40, 2**40), np.float32)
    found = report({"a": big, "b": big, "c": jax.ShapeDtypeStruct((3,), np.int8)})
    assert found.param_count == 2**81 + 3
    assert found.nbytes == 2**83 + 3
    assert found[("a",)].size == 2**80
    assert sum(group.nbytes for group in found.group()) == 2**83 + 3
    assert found.select("[ac]").param_count == 2**80 + 3
    assert found.columns()["size"].tolist() == [2**80, 2**80, 3]
    assert "2,417,851,639,229,258,349,412,355 params" in found.to_text()


@pytest.mark.parametrize("dim", [2**62 - 1, 2**62, 2**62 + 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64])
def test_sums_around_64_bits(dim):
    one = jax.ShapeDtypeStruct((dim,), np.int8)
    found = report([one, [one, one]])
    assert (found.param_count, found.nbytes) == (3 * dim, 3 * dim)
    assert [group.nbytes for group in found.group()] == [dim, 2 * dim]
    assert found.columns()["nbytes"].tolist() == [dim] * 3


# --- Sharing ------------------------------------------------------------------------------------------------


def test_shared_arrays_are_counted_once():
    array, other = np.zeros((2, 3), np.float32), jnp.zeros(5)
    tree = {"a": array, "b": {"c": array, "d": other}, "e": [other, array]}
    found = report(tree)
    assert (found.param_count, found.nbytes, found.repeated_nbytes) == (11, 44, 24 + 24 + 20)
    oracle.agree(found, tree)
    assert found["a"].shared_with == (("b", "c"), ("e", "1"))
    assert found["e/1"].shared_with == (("a",), ("b", "c"))
    assert found["b/d"].shared_with == (("e", "0"),)


def test_equal_arrays_that_are_two_objects_are_not_shared():
    found = report([np.zeros(3), np.zeros(3), jnp.zeros(3), jnp.zeros(3)])
    assert found.repeated_nbytes == 0
    assert [leaf.shared_with for leaf in found] == [()] * 4


def test_typed_key_can_be_shared():
    key = jax.random.key(0)
    found = report([key, key])
    assert (found.nbytes, found.repeated_nbytes) == (8, 8)


def test_leaves_without_storage_are_never_shared():
    abstract, text = jax.ShapeDtypeStruct((2,), np.float32), "text"
    found = report([abstract, abstract, 1, 1, text, text, len, len])
    assert (found.param_count, found.nbytes, found.repeated_nbytes) == (4, 16, 0)
    assert {leaf.shared_with for leaf in found} == {()}


def test_shared_subtree_shares_each_of_its_leaves():
    block = {"w": np.zeros(4, np.int8), "b": np.zeros(2, np.int8)}
    found = report([block, block, block])
    assert (found.leaf_count, found.nbytes, found.repeated_nbytes) == (6, 6, 12)
    assert found["2/w"].shared_with == (("0", "w"), ("1", "w"))


class Fresh:
    """Makes its children anew at each flatten."""


tree_util.register_pytree_node(
    Fresh, lambda _: ([np.zeros(4, np.int8) for _ in range(50)], None), lambda *_: Fresh()
)


def test_leaves_made_by_a_flatten_are_not_falsely_shared():
    found = report([Fresh() for _ in range(20)])
    assert (found.leaf_count, found.nbytes, found.repeated_nbytes) == (1000, 4000, 0)


def test_sharing_within_a_selection_is_that_of_the_selected():
    array = np.zeros(3, np.int8)
    found = report({"a": array, "b": array, "c": array})
    assert found.select("[bc]")["c"].shared_with == (("b",),)
    assert found.select("c")["c"].shared_with == ()
    assert (found.select("[bc]").nbytes, found.select("[bc]").repeated_nbytes) == (3, 3)
    assert (found.select("c").nbytes, found.select("c").repeated_nbytes) == (3, 0)


def test_group_counts_a_shared_array_in_the_first_of_them():
    array = np.zeros(3, np.int8)
    groups = report({"b": array, "a": {"x": array, "y": array}}).group()
    assert [(g.name, g.nbytes, g.repeated_nbytes) for g in groups] == [("a", 3, 3), ("b", 0, 3)]


# --- What is not done ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: np.zeros(3), lambda: jnp.zeros(3)], ids=["numpy", "jax"])
def test_report_keeps_no_array_alive(make):
    array = make()
    found = report({"a": array, "b": [array]})
    found.to_text(), found.to_json(), list(found)
    dead = weakref.ref(array)
    del array
    gc.collect()
    assert dead() is None
    assert found.leaf_count == 2


def test_kept_array_is_seen_to_be_alive():
    array = np.zeros(3)
    kept, alive = [array], weakref.ref(array)
    del array
    gc.collect()
    assert alive() is kept[0]


def test_report_changes_nothing():
    array = np.arange(6.0).reshape(2, 3)
    tree = {"b": [array, None], "a": {"z": 1, "y": 2}}
    report(tree).to_text()
    assert list(tree) == ["b", "a"]
    assert list(tree["a"]) == ["z", "y"]
    assert tree["b"][0] is array
    assert array.flags.writeable
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_garbage_collector_is_left_on():
    states = []
    gc.callbacks.append(watch := lambda *_: states.append(gc.isenabled()))
    try:
        found = report([[i, [i]] for i in range(20_000)])
    finally:
        gc.callbacks.remove(watch)
    assert found.leaf_count == 40_000
    assert gc.isenabled()
    assert all(states)


NO_BACKEND = """
import jax, numpy as np, leafreport
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec as P
mesh = AbstractMesh((4, 2), ("x", "y"))
split = NamedSharding(mesh, P("x"))
tree = {
    "abstract": jax.ShapeDtypeStruct((8, 8), np.float32),
    "split": jax.ShapeDtypeStruct((8, 8), np.float32, sharding=split),
    "numpy": np.zeros(3), "scalar": 1, "text": "t", "none": None, "numpy scalar": np.float32(1),
}
{more}
found = leafreport.report(tree)
found.to_text(), found.to_json(), found.to_tree(), found.to_html(), found.device_nbytes
leafreport.LeafReport.from_json(found.to_json())
from jax._src import xla_bridge
print(xla_bridge.backends_are_initialized())
"""


@pytest.mark.parametrize(("more", "initialised"), [("", "False"), ('tree["live"] = jax.numpy.zeros(3)', "True")])
def test_no_backend_is_initialised_and_the_check_sees_one_that_is(more, initialised):
    code = NO_BACKEND.replace("{more}", more)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (f"{initialised}\n", 0), done.stderr


# --- Errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [0, 1, 2, 70, 200])
def test_dict_of_mixed_keys_is_an_error_that_names_the_path(levels):
    tree = oracle.nested(levels, {"ok": 1, "bad": {1: 1, "a": 2}}, lambda t: {"in": t})
    with pytest.raises(FlattenError, match=r"cannot flatten the dict at .*bad: .*keys of type int, str") as caught:
        report(tree)
    if levels == 2:
        assert str(caught.value) == (
            "cannot flatten the dict at in/in/bad: JAX sorts dict keys, and keys of type int, str cannot be "
            "compared with one another. Use keys of one type, or str(key)."
        )


def test_root_dict_of_mixed_keys_is_an_error():
    with pytest.raises(FlattenError, match=r"cannot flatten the dict at \(root\)"):
        report({1: 1, "a": 2})


def test_dict_of_mixed_keys_beside_a_shared_subtree_is_an_error_that_names_the_path():
    shared = {"w": 1}
    with pytest.raises(FlattenError, match="cannot flatten the dict at c/d"):
        report({"a": shared, "b": shared, "c": {"d": {1: 1, "a": 2}}})


class Raises:
    pass


def _raise(_):
    raise OSError("disk on fire")


tree_util.register_pytree_node(Raises, _raise, lambda *_: Raises())


@pytest.mark.parametrize("levels", [0, 1, 100])
def test_flatten_function_that_raises_is_an_error_that_names_path_and_cause(levels):
    tree = oracle.nested(levels, {"x": [1, Raises()]})
    with pytest.raises(FlattenError, match=r"x/1: its own flatten function raised OSError: disk on fire") as caught:
        report(tree)
    assert isinstance(caught.value.__cause__, Exception)


def _cycles():
    yield "list", (one := [])
    one.append(one)
    yield "dict", (two := {"a": {"b": {}}})
    two["a"]["b"]["c"] = two
    yield "inner", (three := {"x": [1]})
    three["x"].append({"y": three["x"]})
    yield "twice", (four := [])
    four += [four, four]


CYCLES = dict(_cycles())


@pytest.mark.parametrize("name", CYCLES)
def test_tree_that_contains_itself_is_an_error(name):
    with pytest.raises(FlattenError, match="the tree contains itself: .* is the same object as"):
        report(CYCLES[name])


def test_cycle_error_names_both_ends():
    with pytest.raises(FlattenError, match=r"contains itself: x/1/y is the same object as x, so it has no end"):
        report(CYCLES["inner"])


def test_same_node_at_two_places_is_no_cycle():
    inner = [1]
    tree = {"a": inner, "b": {"c": inner, "d": [inner]}}
    oracle.agree(report(tree), tree)


class Endless:
    """Every flatten makes another one."""


tree_util.register_pytree_node(Endless, lambda _: ((Endless(),), None), lambda *_: Endless())


def test_tree_made_without_end_is_an_error_and_leaves_the_interpreter_whole():
    code = (
        f"import sys; sys.path.insert(0, {str(oracle.__file__.rpartition('/')[0])!r})\n"
        "import leafreport, test_flatten, oracle\n"
        "for tree in [test_flatten.Endless()] * 3 + [oracle.nested(300, test_flatten.Raises())] * 9:\n"
        "    try:\n"
        "        leafreport.report(tree)\n"
        "    except leafreport.FlattenError as error:\n"
        "        message = str(error)\n"
        "    else:\n"
        "        raise SystemExit('no error')\n"
        "    print(message)\n"
        "def depth(n):\n"
        "    try:\n"
        "        return depth(n + 1)\n"
        "    except RecursionError:\n"
        "        return n\n"
        "assert depth(0) > 900\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 12
    assert all("levels deep" in line for line in lines[:3])
    assert all("disk on fire" in line for line in lines[3:])


class MakesMixed:
    """Its flatten makes, each time anew, what JAX cannot flatten."""


tree_util.register_pytree_node(MakesMixed, lambda _: (({1: 1, "a": 2},), None), lambda *_: MakesMixed())


def test_path_of_a_node_that_is_made_anew_is_named():
    with pytest.raises(FlattenError, match="cannot flatten the dict at x/1/0: JAX sorts"):
        report({"x": [1, MakesMixed()]})


def test_error_beside_a_tree_made_without_end_is_found():
    with pytest.raises(FlattenError, match="cannot flatten the dict at 1: JAX sorts"):
        report([Endless(), {1: 1, "a": 2}])


# --- Awkward corners of the language ------------------------------------------------------------------------


def test_dict_key_whose_str_raises_leaves_the_leaves_counted():
    class Mute:
        def __str__(self):
            raise ValueError("silent")

        __repr__ = __str__

    tree = {Mute(): [1, 2]}
    assert report(tree).leaf_count == len(tree_util.tree_leaves(tree)) == 2


def test_containers_that_lie_about_their_class_are_read_as_jax_reads_them():
    class Liar:
        @property
        def __class__(self):
            return dict

    tree = [Liar(), {"a": Liar()}]
    assert report(tree).leaf_count == len(tree_util.tree_leaves(tree)) == 2
