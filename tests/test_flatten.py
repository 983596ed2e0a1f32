"""`report` of every container, against `jax.tree_util`."""

import collections
import dataclasses
import enum
import math
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax import tree_util

from leafreport import Model, report

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
    "empty containers": {
        "a": {},
        "b": [],
        "c": (),
        "d": None,
        "e": NoFields(),
        "f": collections.OrderedDict(),
    },
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
    tree = {
        "a": [],
        "b": None,
        "c": NoFields(),
        "d": Layer(1, 2),
        "e": collections.OrderedDict(x=1),
        "f": (1,),
    }
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
    assert report(Model(params, lambda _, x: x)) == report(params)


# --- Trees of real libraries --------------------------------------------------------------------------------


def test_optax_state_agrees_with_tree_util():
    optax = pytest.importorskip("optax")
    params = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)}
    tree = optax.chain(
        optax.clip(1.0), optax.adam(1e-3), optax.masked(optax.sgd(0.1), {"w": True, "b": False})
    )
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
