import collections
import copy
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from oracle import random_tree

from leafreport import DifferenceError, LeafReport, Model, assert_same, diff, report

F32 = np.float32


def sds(*shape: int, dtype: Any = F32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def changes(found: Any) -> list[tuple[str, str, str, str]]:
    return [("/".join(c.path), c.what, c.left, c.right) for c in found]


def names(leaves: Any) -> list[str]:
    return [leaf.name for leaf in leaves]


# --- What differs -------------------------------------------------------------------------------------------


def test_diff_tells_every_difference_at_once() -> None:
    left = {"a": sds(2), "b": sds(3), "c": sds(4), "d": [sds(5), sds(6)], "e": {}, "f": 1, "g": {1: sds(7)}}
    right = {"b": sds(30), "c": sds(4, dtype=np.int32), "d": {"0": sds(5), "1": sds(6)}, "e": None, "f": "1"}
    right |= {"g": {"1": sds(7)}, "h": sds(8)}
    d = diff(left, right)
    assert str(d) == (
        "- a float32[2]\n"
        "+ h float32[8]\n"
        "~ b  shape (3,) -> (30,)\n"
        "~ c  dtype float32 -> int32\n"
        "~ d  container list -> dict\n"
        "~ e  container dict -> NoneType\n"
        "~ f  kind scalar int -> object str\n"
        "= g  keys int -> str  (by a save itself)\n"
        "different: 1 removed, 1 added, 5 changed; 7 leaves on the left, 7 on the right; 1 by a save itself"
    )


def test_diff_of_equal_trees_is_empty() -> None:
    d = diff({"w": sds(2), "b": [1, "x", None]}, {"w": sds(2), "b": [1, "x", None]})
    assert not d
    assert (d.added, d.removed, d.changed, d.renamed, d.by_save) == ((), (), (), (), ())
    assert str(d) == "same: 3 leaves on the left, 3 on the right"
    assert repr(d) == "<LeafDiff same: 3 leaves on the left, 3 on the right>"


def test_diff_of_empty_trees_is_empty() -> None:
    for tree in ({}, [], (), None):
        assert str(diff(tree, copy.copy(tree))) == "same: 0 leaves on the left, 0 on the right"


def test_diff_of_lone_leaves() -> None:
    assert not diff(sds(2), sds(2))
    assert str(diff(sds(2), sds(3)).changed[0]) == "(root)  shape (2,) -> (3,)"


def test_diff_of_leaf_and_tree_removes_and_adds() -> None:
    d = diff(sds(2), {"w": sds(2)})
    assert names(d.removed) == [""]
    assert names(d.added) == ["w"]
    assert d.changed == ()


def test_diff_of_shape_and_dtype_at_one_path_tells_both() -> None:
    d = diff({"w": sds(2)}, {"w": sds(2, 1, dtype=jnp.bfloat16)})
    assert changes(d.changed) == [("w", "dtype", "float32", "bfloat16"), ("w", "shape", "(2,)", "(2, 1)")]


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (6,), (6, 1), (2, 3, 1)])
def test_diff_of_shapes_of_one_size_differs_unless_equal(shape: tuple[int, ...]) -> None:
    assert bool(diff({"w": sds(2, 3)}, {"w": sds(*shape)})) == (shape != (2, 3))


def test_diff_of_kinds() -> None:
    left = {"a": 1.0, "b": "s", "c": np.float32, "d": True}
    right = {"a": np.zeros((), F32), "b": 1.0, "c": np.zeros((), F32), "d": 1}
    assert changes(diff(left, right).changed) == [
        ("a", "kind", "scalar float", "array float32[]"),
        ("b", "kind", "object str", "scalar float"),
        ("c", "kind", "object type", "array float32[]"),
        ("d", "dtype", "bool", "int"),
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.zeros((2, 3), F32),
        lambda: jnp.zeros((2, 3)),
        lambda: sds(2, 3),
        lambda: jax.eval_shape(lambda: jnp.zeros((2, 3))),
    ],
)
def test_diff_of_concrete_and_abstract_twins_is_empty(make: Any) -> None:
    for twin in (np.zeros((2, 3), F32), jnp.ones((2, 3)), sds(2, 3)):
        d = diff({"w": make()}, {"w": twin})
        assert not d
        assert d.by_save == ()


def test_diff_reads_no_value() -> None:
    deleted = jnp.ones(3)
    deleted.delete()
    assert not diff({"w": deleted}, {"w": jnp.zeros(3)})


def test_diff_of_weak_types_counts_where_both_know() -> None:
    weak, strong = jnp.asarray(1.0), jnp.asarray(1.0, F32)
    assert weak.weak_type
    assert changes(diff([weak], [strong]).changed) == [("0", "weak_type", "True", "False")]
    assert not diff([weak], [np.ones((), F32)])
    assert not diff([weak], [jax.eval_shape(lambda: weak)])
    assert diff([weak], [sds()])  # a ShapeDtypeStruct says that it is not weak


# --- Keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("batch", [(), (1,), (5,), (2, 3)])
def test_diff_of_typed_and_raw_key_is_one_change(impl: str, batch: tuple[int, ...]) -> None:
    words = {"threefry2x32": 2, "rbg": 4}[impl]
    short = {"threefry2x32": "fry", "rbg": "rbg"}[impl]
    typed = jnp.broadcast_to(jax.random.key(0, impl=impl), batch)
    raw = jax.random.key_data(typed)
    assert raw.shape == (*batch, words)
    sizes = ",".join(map(str, batch))
    forms = f"typed key<{short}>[{sizes}]", f"raw uint32[{','.join(map(str, raw.shape))}]"
    for left, right, said in ((typed, raw, forms), (np.asarray(raw), typed, forms[::-1])):
        assert changes(diff({"rng": left}, {"rng": right}).changed) == [("rng", "key", *said)]


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (np.zeros(3, np.uint32), "kind"),
        (np.zeros(2, np.int32), "kind"),
        (np.zeros((1, 2), np.uint32), "kind"),
        (1, "kind"),
    ],
)
def test_diff_of_typed_key_and_what_is_not_its_raw_form_is_another_kind(other: Any, what: str) -> None:
    keys = jnp.broadcast_to(jax.random.key(0), (2,)) if np.shape(other) == (1, 2) else jax.random.key(0)
    assert [c.what for c in diff([keys], [other]).changed] == [what]


def test_diff_of_key_implementations_is_their_dtype() -> None:
    d = diff([jax.random.key(0)], [jax.random.key(0, impl="rbg")])
    assert changes(d.changed) == [("0", "dtype", "key<fry>", "key<rbg>")]


# --- Containers, and what a save does -----------------------------------------------------------------------


class Pair(NamedTuple):
    a: Any
    b: Any


class Couple(NamedTuple):
    a: Any
    b: Any


class Nothing(NamedTuple):
    pass


@jax.tree_util.register_dataclass
@dataclass
class DataA:
    a: Any
    b: Any


@jax.tree_util.register_dataclass
@dataclass
class DataB:
    a: Any
    b: Any


AB = {"a": sds(2), "b": sds(3)}

SAVED = [
    ((sds(2), sds(3)), [sds(2), sds(3)], ("container", "tuple", "list")),
    (Pair(**AB), AB, ("container", f"{__name__}.Pair", "dict")),
    (DataA(**AB), AB, ("container", f"{__name__}.DataA", "dict")),
    (collections.OrderedDict(AB), AB, ("container", "collections.OrderedDict", "dict")),
    (collections.defaultdict(list, AB), AB, ("container", "collections.defaultdict", "dict")),
    ({1: sds(2), 10: sds(3)}, {"1": sds(2), "10": sds(3)}, ("keys", "int", "str")),
    (Nothing(), None, ("container", f"{__name__}.Nothing", "NoneType")),
    (np.float32(1), np.ones((), F32), ("kind", "NumPy scalar float32", "array float32[]")),
    (np.bool_(1), jnp.ones((), bool), ("kind", "NumPy scalar bool", "array bool[]")),
    (
        jnp.bfloat16.dtype.type(1),
        jnp.ones((), jnp.bfloat16),
        ("kind", "NumPy scalar bfloat16", "array bfloat16[]"),
    ),
]


def same_by_save(live: Any, saved: Any, fact: tuple[str, str, str]) -> None:
    what, before, after = fact
    for left, right, said in ((live, saved, fact), (saved, live, (what, after, before))):
        d = diff({"x": left}, {"x": right})
        assert not d
        assert changes(d.by_save) == [("x", *said)]
        assert d.summary().startswith("same: ")
        assert d.summary().endswith("; 1 by a save itself")
        assert_same({"x": left}, {"x": right})


@pytest.mark.parametrize(("live", "saved", "fact"), SAVED)
def test_diff_of_what_a_save_does_is_told_apart(live: Any, saved: Any, fact: tuple[str, str, str]) -> None:
    same_by_save(live, saved, fact)


def test_diff_of_flax_classes_and_what_a_save_makes_of_them_is_told_apart() -> None:
    flax = pytest.importorskip("flax")

    @flax.struct.dataclass
    class Struct:
        a: Any
        b: Any

    frozen = flax.core.freeze(AB)
    same_by_save(frozen, AB, ("container", "flax.core.frozen_dict.FrozenDict", "dict"))
    same_by_save(Struct(**AB), AB, ("container", f"{__name__}.{Struct.__qualname__}", "dict"))
    assert diff(frozen, Struct(**AB))


def test_diff_of_equinox_module_and_what_a_save_makes_of_it_is_told_apart() -> None:
    eqx = pytest.importorskip("equinox")

    class Module(eqx.Module):
        a: Any
        b: Any

    same_by_save(Module(**AB), AB, ("container", f"{__name__}.{Module.__qualname__}", "dict"))
    assert diff(Module(**AB), DataA(**AB))


DIFFERENT = [
    (AB, list(AB.values())),
    (AB, tuple(AB.values())),
    (Pair(**AB), tuple(AB.values())),
    (Pair(**AB), list(AB.values())),
    (Pair(**AB), Couple(**AB)),
    (Pair(**AB), DataA(**AB)),
    (DataA(**AB), DataB(**AB)),
    ({}, None),
    ({}, []),
    ((), None),
    ([], None),
    (Nothing(), []),
    ({1: sds(2)}, {(1,): sds(2)}),
]


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
def test_diff_of_other_containers_differs(left: Any, right: Any) -> None:
    for one, other in ((left, right), (right, left)):
        d = diff({"x": one}, {"x": other})
        assert d
        assert d.by_save == ()
        with pytest.raises(DifferenceError, match="the trees differ"):
            assert_same({"x": one}, {"x": other})


def test_diff_of_containers_names_each_node_that_differs() -> None:
    left, right = {"x": [AB, (1, 2)]}, {"x": {"0": tuple(AB.values()), "1": [1, 2]}}
    d = diff(left, right)
    assert changes(d.changed) == [
        ("x", "container", "list", "dict"),
        ("x/0", "container", "dict", "tuple"),
    ]
    assert changes(d.by_save) == [("x/1", "container", "tuple", "list")]
    assert names(d.removed) == ["x/0/a", "x/0/b"]
    assert names(d.added) == ["x/0/0", "x/0/1"]


def test_diff_of_optimizer_state_and_its_saved_form_is_same() -> None:
    optax = pytest.importorskip("optax")
    params = {"w": np.zeros((2, 3), F32), "b": np.zeros(3, F32)}
    state = optax.adam(1e-3).init(params)
    # What Orbax gives back without a target: written out by hand.
    saved = [{"count": state[0].count, "mu": dict(state[0].mu), "nu": dict(state[0].nu)}, None]
    d = diff(state, saved)
    assert not d
    assert changes(d.by_save) == [
        ("", "container", "tuple", "list"),
        ("0", "container", "optax._src.transform.ScaleByAdamState", "dict"),
        ("1", "container", "optax._src.base.EmptyState", "NoneType"),
    ]


@pytest.mark.parametrize(("empty", "name"), [({}, "dict"), ([], "list"), ((), "tuple"), (None, "NoneType")])
def test_diff_of_lone_empty_container_differs(empty: Any, name: str) -> None:
    full = {"w": sds(2), "x": empty}
    bare = {"w": sds(2)}
    assert changes(diff(full, bare).changed) == [("x", "container", name, "absent")]
    assert changes(diff(bare, full).changed) == [("x", "container", "absent", name)]


def test_diff_of_nested_empty_containers_tells_the_outermost() -> None:
    d = diff({"x": {"y": [{}, None]}}, {})
    assert changes(d.changed) == [("x", "container", "dict", "absent")]


def test_diff_of_empty_containers_under_a_leaf_or_beside_leaves_is_told_by_those() -> None:
    assert str(diff({"x": {"y": {}}}, {"x": 1})).splitlines()[:-1] == ["+ x int"]
    assert str(diff({"x": {"y": {}, "z": 1}}, {})).splitlines()[:-1] == ["- x/z int"]


@pytest.mark.parametrize("kind", [np.memmap, np.recarray])
def test_diff_of_array_subclass_is_no_numpy_scalar(kind: Any, tmp_path: Any) -> None:
    array = {
        np.memmap: lambda: np.memmap(tmp_path / "m", F32, "w+", shape=(2, 3)),
        np.recarray: lambda: np.zeros((2, 3), F32).view(np.recarray),
    }[kind]()
    assert isinstance(array, kind)
    d = diff([array], [np.zeros((2, 3), F32)])
    assert (bool(d), d.by_save) == (False, ())


# --- Renamed ------------------------------------------------------------------------------------------------


def layer(width: int) -> dict[str, Any]:
    return {"bias": sds(width), "kernel": sds(width, width)}


def test_diff_of_moved_subtree_is_one_rename() -> None:
    left = {"enc": {"a": layer(2), "b": layer(3)}, "head": layer(4)}
    right = {"encoder": {"a": layer(2), "b": layer(3)}, "head": layer(4)}
    d = diff(left, right)
    assert d
    assert str(d) == (
        "> enc -> encoder  4 leaves\ndifferent: 1 renamed; 6 leaves on the left, 6 on the right"
    )
    assert d.renamed[0].left == ("enc",)
    assert d.renamed[0].right == ("encoder",)
    assert d.renamed[0].leaf_count == 4


def test_diff_of_subtree_moved_deeper_is_one_rename() -> None:
    d = diff({"head": layer(4), "n": 1}, {"m": {"head": layer(4), "x": 2}, "n": 1})
    assert [str(move) for move in d.renamed] == ["head -> m/head  2 leaves"]
    assert names(d.added) == ["m/x"]
    assert d.removed == ()


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_diff_of_ambiguous_subtrees_stays_added_and_removed(copies: int) -> None:
    left = {f"a{i}": layer(2) for i in range(copies)}
    right = {f"b{i}": layer(2) for i in range(copies)}
    d = diff(left, right)
    assert len(d.renamed) == (1 if copies == 1 else 0)
    assert len(d.removed) == len(d.added) == (0 if copies == 1 else 2 * copies)


def test_diff_of_ambiguous_parts_in_a_whole_that_is_not_is_one_rename() -> None:
    d = diff({"a": {"x": layer(2), "y": layer(2)}}, {"b": {"x": layer(2), "y": layer(2)}})
    assert [str(move) for move in d.renamed] == ["a -> b  4 leaves"]


def test_diff_of_copied_subtree_is_added() -> None:
    d = diff({"a": layer(2)}, {"a": layer(2), "b": layer(2)})
    assert d.renamed == ()
    assert names(d.added) == ["b/bias", "b/kernel"]


@pytest.mark.parametrize(
    ("right", "moved"),
    [({"x": {"w": sds(2)}}, ["w -> x/w  1 leaf"]), ({"v": sds(2)}, []), ({"x": {"v": sds(2)}}, [])],
)
def test_diff_of_lone_leaf_is_moved_only_with_its_last_step(right: Any, moved: list[str]) -> None:
    d = diff({"w": sds(2)}, right)
    assert list(map(str, d.renamed)) == moved
    assert len(d.removed) == len(d.added) == 1 - len(moved)


@pytest.mark.parametrize(
    "other", [{"bias": sds(2), "kernel": sds(2, 3)}, Pair(sds(2), sds(2, 2)), {"bias": sds(2)}, {"b": sds(2)}]
)
def test_diff_of_moved_and_changed_subtree_is_no_rename(other: Any) -> None:
    d = diff({"a": layer(2)}, {"b": other})
    assert [move for move in d.renamed if move.left == ("a",)] == []


def test_diff_of_moved_empty_container_is_no_rename() -> None:
    d = diff({"a": {"x": {}}}, {"b": {"x": {}}})
    assert d.renamed == ()
    assert changes(d.changed) == [("a", "container", "dict", "absent"), ("b", "container", "absent", "dict")]


# --- One path twice -----------------------------------------------------------------------------------------


class Twice:
    """A keyed class that gives its two children one path."""

    def __init__(self, *values: Any) -> None:
        self.values = values


jax.tree_util.register_pytree_with_keys(
    Twice,
    lambda t: ([(jax.tree_util.GetAttrKey("v"), v) for v in t.values], None),
    lambda _, values: Twice(*values),
)


def test_diff_of_one_path_twice_matches_by_occurrence() -> None:
    assert not diff(Twice(sds(2), sds(3)), Twice(sds(2), sds(3)))
    swapped = diff(Twice(sds(2), sds(3)), Twice(sds(3), sds(2)))
    assert changes(swapped.changed) == [("v", "shape", "(2,)", "(3,)"), ("v", "shape", "(3,)", "(2,)")]
    # Of another structure, so that paths are looked for.
    d = diff([Twice(sds(2), sds(3))], [Twice(sds(2), sds(4), sds(5)), 1])
    assert changes(d.changed) == [("0/v", "shape", "(3,)", "(4,)")]
    assert [str(leaf) for leaf in d.added] == ["0/v float32[5]", "1 int"]


# --- Sharding -----------------------------------------------------------------------------------------------


def test_diff_of_shardings() -> None:
    devices = jax.devices()
    assert len(devices) == 8
    mesh = Mesh(np.array(devices).reshape(4, 2), ("x", "y"))
    array = jnp.zeros((8, 4))
    rows, whole = NamedSharding(mesh, P("x")), NamedSharding(mesh, P())
    split, copied = jax.device_put(array, rows), jax.device_put(array, whole)
    mesh_text = "over x:4,y:2"
    assert changes(diff([split], [copied]).changed) == [
        ("0", "sharding", f"P(x,None) {mesh_text}", f"P(None,None) {mesh_text}")
    ]
    assert changes(diff([split], [array]).changed) == [
        ("0", "sharding", f"P(x,None) {mesh_text}", "one device")
    ]
    assert not diff([split], [jax.device_put(array, NamedSharding(mesh, P("x", None)))])


def test_diff_of_sharding_and_no_known_one_is_same() -> None:
    mesh = Mesh(np.array(jax.devices()), ("x",))
    split = jax.device_put(jnp.zeros((8, 4)), NamedSharding(mesh, P("x")))
    for unknown in (sds(8, 4), np.zeros((8, 4), F32)):
        assert not diff([split], [unknown])
    abstract = jax.ShapeDtypeStruct((8, 4), F32, sharding=NamedSharding(AbstractMesh((8,), ("x",)), P("x")))
    assert not diff([split], [abstract])
    other = jax.ShapeDtypeStruct(
        (8, 4), F32, sharding=NamedSharding(AbstractMesh((8,), ("x",)), P(None, "x"))
    )
    assert [c.what for c in diff([split], [other]).changed] == ["sharding"]


# --- Inputs and outputs -------------------------------------------------------------------------------------


def test_diff_takes_trees_models_and_reports_mixed() -> None:
    tree = {"params": layer(2)}
    forms = [
        tree,
        report(tree),
        LeafReport.from_json(report(tree).to_json()),
        Model(tree, lambda _, x: x),
        jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree),
    ]
    for left in forms:
        for right in forms:
            assert not diff(left, right)
        assert diff(left, {"params": layer(3)})


def test_diff_of_saved_reports_equals_that_of_live_ones() -> None:
    left = {"a": (1, np.float32(2)), "b": layer(2), "c": jax.random.key(0), "d": {}}
    right = {"a": [1, jnp.ones(())], "x": layer(2), "c": np.zeros(2, np.uint32), "d": None, "e": "s"}
    live = diff(left, right)
    saved = diff(*(LeafReport.from_json(report(tree).to_json()) for tree in (left, right)))
    assert live == saved
    assert str(live) == str(saved)
    assert live.to_json() == saved.to_json()


def test_diff_equality_is_of_the_differences() -> None:
    one = diff({"a": sds(1)}, {"a": sds(2)})
    assert one == diff({"a": sds(1), "b": 1}, {"a": sds(2), "b": 1})  # how much is the same is left out
    assert one != diff({"a": sds(1)}, {"a": sds(3)})
    assert hash(one) == hash(diff({"a": sds(1)}, {"a": sds(2)}))


def test_diff_does_not_change() -> None:
    with pytest.raises(AttributeError, match="cannot assign to field"):
        diff(1, 1).added = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("most", "lines"),
    [
        (None, ["- a int", "- b int", "- c int"]),
        (4, ["- a int", "- b int", "- c int"]),
        (3, ["- a int", "- b int", "- c int"]),
        (2, ["- a int", "- b int", "... 1 more not shown; the counts have all"]),
        (0, ["... 3 more not shown; the counts have all"]),
    ],
)
def test_diff_text_leaves_out_lines_past_the_most(most: int | None, lines: list[str]) -> None:
    d = diff({"a": 1, "b": 2, "c": 3}, {})
    summary = "different: 3 removed; 3 leaves on the left, 0 on the right"
    assert d.to_text(max_rows=most).splitlines() == [*lines, summary]


def test_diff_json_holds_everything() -> None:
    left = {"a": sds(2), "b": sds(3), "m": layer(2), "t": (1,)}
    right = {"b": sds(4), "c": "s", "n": layer(2), "t": [1]}
    d = diff(left, right)
    assert json.loads(d.to_json()) == {
        "schema": "leafreport-diff/1",
        "different": True,
        "left_count": 5,
        "right_count": 5,
        "removed": [{"path": ["a"], "kind": "array", "shape": [2], "dtype": "float32", "nbytes": 8}],
        "added": [{"path": ["c"], "kind": "object", "shape": None, "dtype": "str", "nbytes": None}],
        "changed": [{"path": ["b"], "what": "shape", "left": "(3,)", "right": "(4,)"}],
        "renamed": [{"left": ["m"], "right": ["n"], "leaf_count": 2}],
        "by_save": [{"path": ["t"], "what": "container", "left": "tuple", "right": "list"}],
    }
    assert json.loads(diff(1, 1).to_json())["different"] is False


HOSTILE = [
    "<script>",
    "\x1b[31mred\x1b[0m",
    "[red]",
    "a\nb",
    "\udc80",
    "",
    ".",
    "..",
    "a/b",
    "\u202e",
    "x" * 10_000,
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_diff_escapes_hostile_names(name: str) -> None:
    shown = {
        "\x1b[31mred\x1b[0m": "\\x1b[31mred\\x1b[0m",
        "a\nb": "a\\nb",
        "\udc80": "\\udc80",
        "": '""',
        "\u202e": "\\u202e",
    }.get(name, name)
    d = diff({name: 1, "s": {name: sds(2)}}, {"s": {name: sds(3)}})
    assert d.to_text() == (
        f"- {shown} int\n"
        f"~ s/{shown}  shape (2,) -> (3,)\n"
        "different: 1 removed, 1 changed; 2 leaves on the left, 1 on the right\n"
    )
    moved = diff({name: layer(2)}, {"x": layer(2)})
    assert moved.to_text().splitlines()[0] == f"> {shown} -> x  2 leaves"
    document = d.to_json()
    assert document.isascii()
    assert "\x1b" not in document
    assert json.loads(document)["removed"][0]["path"] == [name]


def test_assert_same_lists_every_difference() -> None:
    left = {f"w{i}": sds(2) for i in range(300)}
    right = {f"w{i}": sds(3) for i in range(300)}
    with pytest.raises(DifferenceError, match=r"^the trees differ\n~ w0  shape") as caught:
        assert_same(left, right)
    lines = str(caught.value).splitlines()
    assert sorted(lines[1:-1]) == sorted(f"~ w{i}  shape (2,) -> (3,)" for i in range(300))
    assert lines[-1] == "different: 300 changed; 300 leaves on the left, 300 on the right"
    assert isinstance(caught.value, AssertionError)


def test_assert_same_of_same_trees_gives_none() -> None:
    assert assert_same({"a": sds(2)}, {"a": np.ones(2, F32)}) is None


def _modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*[name for name in ('jax', 'jaxlib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_diff_of_saved_reports_imports_no_jax_and_of_a_tree_does(tmp_path: Any) -> None:
    for name, width in (("a", 2), ("b", 3)):
        (tmp_path / f"{name}.json").write_text(report(layer(width)).to_json())
    read = (
        "from pathlib import Path\nfrom leafreport import LeafReport, diff\n"
        f"a, b = [LeafReport.from_json(Path({str(tmp_path)!r}) / f'{{n}}.json') for n in 'ab']\n"
    )
    check = "assert len(d.changed) == 2, d\n"
    assert _modules_after(f"{read}d = diff(a, b)\n{check}str(d), d.to_json()") == set()
    assert _modules_after(f"{read}d = diff(a, {{'bias': 1, 'kernel': 1}})\n{check}") == {"jax", "jaxlib"}


# --- Random trees -------------------------------------------------------------------------------------------

leaves = st.one_of(
    st.builds(sds, st.integers(0, 3), st.integers(0, 3)),
    st.builds(lambda n: sds(n, dtype=np.int8), st.integers(0, 3)),
    st.sampled_from([1, 1.5, "s", True, np.float32(1), len]),
    st.builds(lambda n: np.zeros(n, F32), st.integers(0, 3)),
)
keys = st.sampled_from(["a", "b", "kernel", "Dense_0", "Dense_10", "", "a/b", "0"])
trees = st.recursive(
    leaves | st.none(),
    lambda child: st.one_of(
        st.dictionaries(keys, child, max_size=4),
        st.dictionaries(st.integers(0, 3), child, max_size=3),
        st.lists(child, max_size=3),
        st.lists(child, max_size=3).map(tuple),
        st.tuples(child, child).map(lambda pair: Pair(*pair)),
        st.tuples(child, child).map(lambda pair: DataA(*pair)),
        st.tuples(child, child).map(lambda pair: Twice(*pair)),
    ),
    max_leaves=12,
)


def test_diff_of_thousands_of_trees_with_themselves_is_empty() -> None:
    for seed in range(2000):
        tree = random_tree(seed)
        again = report(tree)
        found = diff(report(tree), again)
        assert (bool(found), found.by_save) == (False, ()), seed
        assert found.left_count == found.right_count == len(jax.tree_util.tree_leaves(tree))


@settings(max_examples=300, deadline=None)
@given(trees)
def test_diff_of_random_tree_with_itself_is_empty(tree: Any) -> None:
    r = report(tree)
    found = diff(r, r)
    assert not found
    assert found.by_save == ()
    assert not diff(tree, jax.tree.map(lambda leaf: leaf, tree))


def _mirrored(found: Any) -> tuple[Any, ...]:
    def swap(facts: Any) -> set[Any]:
        return {(c.path, c.what, c.right, c.left) for c in facts}

    moves = {(m.right, m.left, m.leaf_count) for m in found.renamed}
    return set(found.removed), set(found.added), swap(found.changed), moves, swap(found.by_save)


def _facts(found: Any) -> tuple[Any, ...]:
    def plain(facts: Any) -> set[Any]:
        return {(c.path, c.what, c.left, c.right) for c in facts}

    moves = {(m.left, m.right, m.leaf_count) for m in found.renamed}
    return set(found.added), set(found.removed), plain(found.changed), moves, plain(found.by_save)


@settings(max_examples=400, deadline=None)
@given(trees, trees)
def test_diff_of_random_trees_is_mirrored_when_sides_swap(left: Any, right: Any) -> None:
    assert _mirrored(diff(left, right)) == _facts(diff(right, left))


def _oracle(left: Any, right: Any) -> tuple[set[Any], set[Any], set[Any]]:
    """Added, removed and changed leaves from JAX's own flatten with paths, counted in plain dicts."""

    def table(tree: Any) -> dict[Any, Any]:
        seen: collections.Counter[Any] = collections.Counter()
        out = {}
        for keypath, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            steps = tuple(jax.tree_util.keystr((key,), simple=True) for key in keypath)
            out[steps, seen[steps]] = leaf
            seen[steps] += 1
        return out

    def told(leaf: Any) -> Any:
        if hasattr(leaf, "dtype"):
            return "array", str(leaf.dtype), leaf.shape
        return type(leaf).__name__, None, None

    a, b = table(left), table(right)
    changed = {
        path for (path, nth), leaf in a.items() if (path, nth) in b and told(leaf) != told(b[path, nth])
    }
    return {p for p, _ in b.keys() - a.keys()}, {p for p, _ in a.keys() - b.keys()}, changed


# Twice and Pair are left out: a namedtuple's fields all bear the first one's name in JAX 0.10.2's paths, and
# an occurrence of a node in the middle of a path is not seen from the leaves alone.
plain_trees = st.recursive(
    leaves | st.none(),
    lambda child: st.one_of(
        st.dictionaries(keys, child, max_size=4),
        st.lists(child, max_size=3),
        st.lists(child, max_size=3).map(tuple),
        st.tuples(child, child).map(lambda pair: DataA(*pair)),
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(plain_trees, plain_trees)
def test_diff_of_random_trees_agrees_with_jax_paths(left: Any, right: Any) -> None:
    found = diff(left, right)
    added, removed, changed = _oracle(left, right)
    went = {path for move in found.renamed for path in removed if path[: len(move.left)] == move.left}
    came = {path for move in found.renamed for path in added if path[: len(move.right)] == move.right}
    assert len(went) == len(came) == sum(move.leaf_count for move in found.renamed)
    assert {leaf.path for leaf in found.added} == added - came
    assert {leaf.path for leaf in found.removed} == removed - went
    leaf_facts = {"shape", "dtype", "kind", "key", "sharding", "weak_type"}
    assert {c.path for c in found.changed if c.what in leaf_facts} == changed


class _Grown:
    """A random tree of nested dicts, every leaf of a shape of its own, and edits whose outcome is known."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.made = 0
        self.tree = {f"k{i}": self.grown(3) for i in range(self.random.randint(2, 4))}

    def leaf(self) -> jax.ShapeDtypeStruct:
        self.made += 1
        return sds(self.made, 7)

    def grown(self, deepest: int) -> Any:
        if deepest == 0 or self.random.random() < 0.3:
            return self.leaf()
        return {f"k{i}": self.grown(deepest - 1) for i in range(self.random.randint(1, 3))}

    def edited(self) -> tuple[Any, dict[str, set[Any]]]:
        """An edited copy, each top-level part edited at most once, and what a diff has to say."""
        tree = copy.deepcopy(self.tree)
        truth: dict[str, set[Any]] = {"added": set(), "removed": set(), "changed": set(), "renamed": set()}
        for top in list(tree):
            owner, path = tree, (top,)
            while isinstance(owner[path[-1]], dict) and self.random.random() < 0.7:
                owner = owner[path[-1]]
                path = (*path, self.random.choice(list(owner)))
            found = owner[path[-1]]
            match self.random.choice(["keep", "add", "remove", "reshape", "recast", "rename"]):
                case "add":
                    owner[f"new_{top}"] = self.leaf()
                    truth["added"].add((*path[:-1], f"new_{top}"))
                case "remove" if len(owner) > 1:  # an empty dict left behind is a difference of its own
                    del owner[path[-1]]
                    truth["removed"] |= set(_leaf_paths(found, path))
                case "reshape" if not isinstance(found, dict):
                    owner[path[-1]] = self.leaf()
                    truth["changed"].add((path, "shape"))
                case "recast" if not isinstance(found, dict):
                    owner[path[-1]] = sds(*found.shape, dtype=np.int16)
                    truth["changed"].add((path, "dtype"))
                case "rename" if isinstance(found, dict):
                    owner[f"moved_{top}"] = owner.pop(path[-1])
                    moved = (*path[:-1], f"moved_{top}")
                    truth["renamed"].add((path, moved, len(_leaf_paths(found, path))))
        return tree, truth


def _leaf_paths(tree: Any, at: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not isinstance(tree, dict):
        return [at]
    return [path for name, child in tree.items() for path in _leaf_paths(child, (*at, name))]


def test_diff_of_random_edits_tells_exactly_those() -> None:
    seen: collections.Counter[str] = collections.Counter()
    for seed in range(400):
        grown = _Grown(seed)
        edited, truth = grown.edited()
        found = diff(grown.tree, edited)
        assert {leaf.path for leaf in found.added} == truth["added"], seed
        assert {leaf.path for leaf in found.removed} == truth["removed"], seed
        assert {(c.path, c.what) for c in found.changed} == truth["changed"], seed
        assert {(m.left, m.right, m.leaf_count) for m in found.renamed} == truth["renamed"], seed
        assert bool(found) == any(truth.values())
        seen.update(kind for kind, what in truth.items() for _ in what)
    assert min(seen[kind] for kind in ("added", "removed", "changed", "renamed")) > 50
