"""`report` of every kind of leaf: kinds, dtypes, exact sums, and who is the same object as whom."""

import enum
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax import tree_util

from leafreport import report


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


# --- Leaves -------------------------------------------------------------------------------------------------

JAX_DTYPES = [
    "bool", "int2", "int4", "int8", "int16", "int32", "uint2", "uint4", "uint8", "uint16", "uint32",
    "float4_e2m1fn", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz",
    "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "bfloat16", "float16", "float32", "complex64",
]  # fmt: skip


@pytest.mark.parametrize("name", JAX_DTYPES)
def test_array_of_every_jax_dtype_live_and_abstract(name):
    dtype = jnp.dtype(name)
    live, abstract, numpy = (
        jnp.zeros((2, 3), dtype),
        jax.ShapeDtypeStruct((2, 3), dtype),
        np.zeros((2, 3), dtype),
    )
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
