"""`LeafReport`: rows, paths, sums of parts, columns, and the language's own protocols."""

import copy
import pickle

import jax
import numpy as np
import oracle
import pytest
from jax import tree_util

from leafreport import Leaf, LeafReport, PathError, report

TREE = {
    "Dense_10": {"kernel": np.zeros((2, 3), np.float32), "bias": np.zeros(3, np.float32)},
    "Dense_2": {"kernel": np.zeros((3, 2), np.int8), "bias": None},
    "step": 7,
}


@pytest.fixture
def found():
    return report(TREE)


def test_leaf_written_out():
    assert report({"a": [np.zeros((2, 3), np.float32)]}).leaves[0] == Leaf(
        path=("a", "0"),
        shape=(2, 3),
        dtype="float32",
        kind="array",
        size=6,
        nbytes=24,
        type="numpy.ndarray",
    )


def test_leaf_names_itself(found):
    assert [str(leaf) for leaf in found] == [
        "Dense_10/bias float32[3]",
        "Dense_10/kernel float32[2,3]",
        "Dense_2/kernel int8[3,2]",
        "step int",
    ]


def test_leaves_are_a_sequence(found):
    leaves = found.leaves
    assert len(leaves) == 4
    assert leaves[-1] == leaves[3] == list(found)[3]
    assert leaves[1:3] == tuple(found)[1:3]
    assert repr(leaves) == "<4 leaves>"
    for outside in (4, -5):
        with pytest.raises(IndexError, match="range"):
            leaves[outside]


def test_leaves_keep_flatten_order_and_text_is_in_natural_order(found):
    assert found.names == ("Dense_10/bias", "Dense_10/kernel", "Dense_2/kernel", "step")
    shown = [line.split()[0] for line in found.to_text().splitlines()[1:5]]
    assert shown == ["Dense_2/kernel", "Dense_10/bias", "Dense_10/kernel", "step"]


def test_leaf_by_path_and_by_name(found):
    assert found[("Dense_2", "kernel")] == found["Dense_2/kernel"] == found.leaves[2]
    assert found[["step"]].kind == "scalar"


def test_leaf_by_the_path_of_the_root():
    assert report(5)[()].kind == "scalar"
    assert report(5)[""].path == ()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "Dense_2/kernal",
            r"no leaf is at Dense_2/kernal: the report has 4 leaves. Did you mean Dense_2/kernel",
        ),
        (("Dense_2", "none"), r"no leaf is at Dense_2/none"),
        (
            "Dense_10",
            r'Dense_10 is no leaf but a subtree of 2 leaves. Take its leaves with select\("Dense_10/\*\*"\)',
        ),
        ((), r"\(root\) is no leaf but a subtree of 4 leaves"),
        (("Dense_2", "bias"), r"no leaf is at Dense_2/bias"),
        ("step/", r"no leaf is at step/"),
        (("step", "x"), r"no leaf is at step/x"),
        (("Dense_2", 0), r"\('Dense_2', 0\) is no path: a path's steps are strings"),
        (0, r"0 is no path: .*For a leaf by its number use leaves\[number\]"),
        ("\x1b[31m", r"no leaf is at \\x1b\[31m"),
        ("x" * 100_000, r"no leaf is at xxx"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_path_without_a_leaf_is_an_error_that_says_why(found, path, message):
    with pytest.raises(PathError, match=message):
        found[path]


def test_name_of_two_paths_is_ambiguous_and_each_path_is_not():
    found = report({"a/b": 1, "a": {"b": 2.0}})
    assert found[("a/b",)].dtype == "int"
    assert found[("a", "b")].dtype == "float"
    with pytest.raises(
        PathError, match=r"2 leaves are at a/b: leaves\[0\] \('a', 'b'\), leaves\[1\] \('a/b',\)"
    ):
        found["a/b"]


@tree_util.register_pytree_with_keys_class
class Twice:
    def __init__(self, *children):
        self.children = children

    def tree_flatten_with_keys(self):
        return [(tree_util.GetAttrKey("same"), child) for child in self.children], None

    def tree_flatten(self):
        return self.children, None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def test_path_given_twice_is_ambiguous():
    found = report({"a": Twice(1, 2.0)})
    with pytest.raises(
        PathError, match=r"2 leaves are at a/same: leaves\[0\], leaves\[1\]. Ask for one by its number"
    ):
        found[("a", "same")]
    assert [leaf.dtype for leaf in found.leaves] == ["int", "float"]


def test_report_does_not_change(found):
    with pytest.raises(AttributeError, match="a LeafReport does not change: cannot set 'leaf_count'"):
        found.leaf_count = 3
    with pytest.raises(AttributeError, match="cannot set 'note'"):
        found.note = "mine"
    with pytest.raises(ValueError, match="read-only"):
        found._columns.code[0] = 0


def test_changing_a_column_changes_no_report(found):
    before = found.to_json()
    for column in found.columns().values():
        column[:] = column[::-1].copy()
    assert found.to_json() == before


@pytest.mark.parametrize("again", [lambda r: pickle.loads(pickle.dumps(r)), copy.copy, copy.deepcopy])  # noqa: S301
def test_copy_is_equal(found, again):
    assert again(found) == found
    assert again(found).to_text() == found.to_text()


def test_equality_and_hash(found):
    same = report({**TREE})
    assert same == found
    assert hash(same) == hash(found)
    assert found != report({**TREE, "step": 7.0})
    assert found != "text"
    assert report([1]) != report((1,))
    assert report({"a": 1}) != report({"b": 1})
    assert report([np.zeros(2), np.zeros(2)]) != report([np.zeros(2)] * 2)
    assert report([[1], 2]) != report([1, [2]])
    assert report({"a": np.zeros(2)}) != report({"a": jax.ShapeDtypeStruct((2,), np.float64)})


def test_equality_does_not_depend_on_how_tables_are_numbered():
    parts = {"a": np.zeros(2), "b": 1, "c": [np.zeros(3)]}
    whole = report({"left": {"z": np.zeros(9), "y": {"x": 1.0}}, "right": parts})
    assert whole.select("right/**") == report({"right": parts})
    assert report({"right": parts}) == whole.select("right/**")
    assert whole.select("right/[ab]") != report({"right": parts})


def test_repr_is_one_line(found):
    assert repr(found) == "<LeafReport: 4 leaves, 15 params, 42 B>"
    assert str(found) == found.to_text().rstrip("\n")


# --- Groups -------------------------------------------------------------------------------------------------


def test_groups_written_out(found):
    assert [(g.name, g.leaf_count, g.param_count, g.nbytes) for g in found.group()] == [
        ("Dense_2", 1, 6, 6),
        ("Dense_10", 2, 9, 36),
        ("step", 1, 0, 0),
    ]
    assert [g.path for g in found.group(2)] == [
        ("Dense_2", "kernel"),
        ("Dense_10", "bias"),
        ("Dense_10", "kernel"),
        ("step",),
    ]


@pytest.mark.parametrize("depth", range(8))
@pytest.mark.parametrize("seed", range(10))
def test_groups_add_up_at_any_depth(seed, depth):
    tree = oracle.random_tree(seed, depth=6)
    found = report(tree)
    groups = found.group(depth)
    added = oracle.Sums(*(sum(getattr(g, field) for g in groups) for field in oracle.Sums._fields))
    assert added == oracle.sums_of(found) == oracle.sums(tree_util.tree_leaves(tree))
    assert all(len(g.path) <= depth for g in groups)


def test_group_of_a_negative_depth_is_refused(found):
    assert len(found.group(0)) == 1
    with pytest.raises(ValueError, match="a depth counts steps from the root and is 0 or more, not -1"):
        found.group(-1)


@pytest.mark.parametrize("method", ["to_text", "to_markdown", "to_csv", "to_tree", "to_html", "fold"])
def test_negative_depth_is_refused_everywhere(found, method):
    with pytest.raises(ValueError, match="a depth counts steps"):
        getattr(found, method)(depth=-1)


@pytest.mark.parametrize("method", ["to_text", "to_markdown", "to_csv", "to_tree"])
def test_negative_max_rows_is_refused_everywhere(found, method):
    with pytest.raises(ValueError, match="max_rows counts rows and is 0 or more, not -1"):
        getattr(found, method)(max_rows=-1)


@pytest.mark.parametrize("method", ["to_text", "to_markdown", "to_csv"])
def test_unknown_sort_is_refused(found, method):
    with pytest.raises(
        ValueError, match=r"sort is one of path, bytes, params, not 'byte'. Did you mean bytes\?"
    ):
        getattr(found, method)(sort="byte")


# --- Columns ------------------------------------------------------------------------------------------------


def test_columns_written_out(found):
    columns = found.columns()
    assert {name: column.tolist() for name, column in columns.items()} == {
        "path": [("Dense_10", "bias"), ("Dense_10", "kernel"), ("Dense_2", "kernel"), ("step",)],
        "name": ["Dense_10/bias", "Dense_10/kernel", "Dense_2/kernel", "step"],
        "kind": ["array", "array", "array", "scalar"],
        "dtype": ["float32", "float32", "int8", "int"],
        "shape": [(3,), (2, 3), (3, 2), None],
        "size": [3, 6, 6, None],
        "nbytes": [12, 24, 6, None],
        "device_nbytes": [None] * 4,
        "sharding": [None] * 4,
        "role": [None] * 4,
        "owner": [None] * 4,
        "stacked": [None] * 4,
    }
    assert {len(column) for column in columns.values()} == {4}
    assert {column.ndim for column in columns.values()} == {1}


def test_columns_are_int64_where_every_leaf_has_a_number(found):
    assert found.columns()["size"].dtype == object
    arrays = found.select(exclude="step").columns()
    assert arrays["size"].dtype == arrays["nbytes"].dtype == np.int64
    assert arrays["device_nbytes"].dtype == object


@pytest.mark.parametrize("tree", [{}, None, []])
def test_columns_of_no_leaves(tree):
    columns = report(tree).columns()
    assert [column.shape for column in columns.values()] == [(0,)] * 12


def test_columns_of_paths_of_one_length_stay_tuples():
    columns = report({"a": {"x": np.zeros((2, 2))}, "b": {"y": np.zeros((2, 2))}}).columns()
    assert columns["path"].tolist() == [("a", "x"), ("b", "y")]
    assert columns["shape"].tolist() == [(2, 2), (2, 2)]


# --- Empty reports ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", [{}, None, [], (), {"a": {"b": []}}])
def test_report_without_leaves(tree):
    found = report(tree)
    assert oracle.sums_of(found) == (0, 0, 0, 0)
    assert (found.paths, found.names, list(found), found.group()) == ((), (), [], ())
    assert found.to_text().splitlines()[-1] == "total  0 leaves, 0 params, 0 B"
    assert found.to_csv().count("\n") == 1
    assert "0 leaves" in found.to_html()
    assert found.to_tree()
    assert found.select("**").leaf_count == 0
    assert LeafReport.from_json(found.to_json()) == found
    assert (found.device_nbytes, found.replicated_nbytes) == ({}, 0)
