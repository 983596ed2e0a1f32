"""Random pytrees against `jax.tree_util`: counts, sizes, bytes, paths, round trips and sums of parts."""

import collections
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import tree_util

from leafreport import LeafReport, diff, report


class Pair(NamedTuple):
    left: Any
    right: Any


@tree_util.register_pytree_with_keys_class
class Box:
    def __init__(self, children, names):
        self.children, self.names = tuple(children), tuple(names)

    def tree_flatten_with_keys(self):
        return [
            (tree_util.GetAttrKey(n), c) for n, c in zip(self.names, self.children, strict=True)
        ], self.names

    def tree_flatten(self):
        return self.children, self.names

    @classmethod
    def tree_unflatten(cls, names, children):
        return cls(children, names)


DTYPES = [
    np.float32,
    jnp.bfloat16,
    np.int8,
    np.bool_,
    np.complex64,
    jnp.float8_e4m3fn,
    jnp.int4,
    np.dtype(">i2"),
]
# A few arrays, drawn again and again: they are what is shared.
SHARED = [
    np.zeros((2, 3), np.float32),
    np.zeros((0,), np.int8),
    jnp.ones(5),
    jax.random.key(1),
    np.float32(2),
]
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=6)
NAMES = st.one_of(st.sampled_from(["kernel", "bias", "l_2", "l_10", "l_01", "", "a/b"]), ANY_TEXT)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 7]), max_size=4).map(tuple)
LARGE = st.lists(st.sampled_from([0, 1, 2**20, 2**40, 2**63]), max_size=4).map(tuple)
LEAVES = st.one_of(
    st.builds(np.zeros, SHAPES, st.sampled_from(DTYPES)),
    st.builds(jax.ShapeDtypeStruct, st.one_of(SHAPES, LARGE), st.sampled_from(DTYPES)),
    st.sampled_from(SHARED),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.sampled_from(["text", len, np.float32, ..., 1j]),
)


def containers(inner):
    children = st.lists(inner, max_size=4)
    return st.one_of(
        children,
        children.map(tuple),
        st.dictionaries(NAMES, inner, max_size=4),
        st.dictionaries(st.integers(-20, 20), inner, max_size=4),
        st.dictionaries(st.tuples(st.integers(0, 3), NAMES), inner, max_size=3),
        st.dictionaries(NAMES, inner, max_size=3).map(collections.OrderedDict),
        st.dictionaries(NAMES, inner, max_size=3).map(lambda d: collections.defaultdict(list, d)),
        st.builds(Pair, inner, inner),
        st.lists(st.tuples(NAMES, inner), max_size=3).map(
            lambda kv: Box([v for _, v in kv], [k for k, _ in kv])
        ),
        # The same subtree twice.
        inner.map(lambda tree: [tree, {"again": tree}]),
        # Siblings that fold.
        st.tuples(st.integers(2, 12), inner).map(lambda p: {f"l_{i}": p[1] for i in range(p[0])}),
    )


TREES = st.recursive(st.one_of(LEAVES, st.none()), containers, max_leaves=12)
LIGHT = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(LIGHT, max_examples=1000)
@given(TREES)
def test_report_agrees_with_tree_util(tree):
    oracle.agree(report(tree), tree)


@settings(LIGHT, max_examples=500)
@given(TREES)
def test_saved_report_comes_back_equal_and_nothing_differs(tree):
    found = report(tree)
    again = LeafReport.from_json(found.to_json())
    assert again == found
    assert hash(again) == hash(found)
    assert list(again) == list(found)
    assert not diff(found, again)
    assert not diff(again, found)
    assert report(tree) == found


@settings(LIGHT, max_examples=500)
@given(TREES, st.integers(0, 4))
def test_parts_add_up(tree, depth):
    found = report(tree)
    whole = oracle.sums(tree_util.tree_leaves(tree))
    groups = found.group(depth)
    assert oracle.Sums(*(sum(getattr(g, f) for g in groups) for f in oracle.Sums._fields)) == whole
    for rows in (found.fold(), found.fold(depth=depth), found._rows(fold=False)):
        assert tuple(getattr(rows[0], field) for field in oracle.Sums._fields) == whole
    assert sum(row.leaf_count for row in found._rows(fold=False) if row.spec is not None) == whole.leaf_count
    assert sum(row.nbytes for row in found._rows(fold=False) if row.spec is not None) == whole.nbytes


@settings(LIGHT, max_examples=300)
@given(TREES)
def test_columns_say_what_the_leaves_say(tree):
    found = report(tree)
    columns = found.columns()
    assert columns["path"].tolist() == list(found.paths)
    for field in ("name", "kind", "dtype", "shape", "size", "nbytes", "device_nbytes"):
        assert columns[field].tolist() == [getattr(leaf, field) for leaf in found]


@settings(LIGHT, max_examples=300)
@given(TREES, st.integers(0, 6))
def test_every_form_is_one_line_a_row_and_can_be_encoded(tree, most):
    found = report(tree)
    for text in (
        found.to_text(), found.to_text(fold=True), found.to_text(depth=1, max_rows=most), found.to_markdown(),
        found.to_csv(), found.to_tree(fold=False), found.to_html(), repr(found),
    ):  # fmt: skip
        assert text.encode().decode() == text
        assert all(char == "\n" or char.isprintable() or ord(char) > 0x7F for char in text)
    extra = 1 + (len(found.device_nbytes) > 1)
    assert len(found.to_text().split("\n")) == 1 + found.leaf_count + extra + 1
    assert len(found.to_csv().split("\n")) == 1 + found.leaf_count + 1


@settings(LIGHT, max_examples=300)
@given(TREES)
def test_shared_with_is_symmetric_and_means_one_object(tree):
    found = report(tree)
    leaves = tree_util.tree_leaves(tree)
    stored = [oracle.is_array(x) and not isinstance(x, jax.ShapeDtypeStruct) for x in leaves]
    for number, leaf in enumerate(found):
        same = [i for i, x in enumerate(leaves) if i != number and x is leaves[number] and stored[number]]
        assert leaf.shared_with == tuple(found.paths[i] for i in same)


@settings(LIGHT, max_examples=200)
@given(TREES)
def test_nodes_are_those_that_jax_opens(tree):
    expected = []

    def visit(node, path):
        if node is None or tree_util.default_registry.is_node(type(node)):
            expected.append(path)
            children, _ = (
                tree_util.default_registry.flatten_one_level(node) if node is not None else ((), None)
            )
            children = list(children)
            for i, child in enumerate(children):
                visit(child, (*path, i))

    visit(tree, ())
    assert len(report(tree).nodes) == len(expected)
    assert [len(path) for path, _ in report(tree).nodes] == list(map(len, expected))
