"""What `report` does not do, and the trees it refuses."""

import gc
import subprocess
import sys
import weakref

import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax import tree_util

from leafreport import FlattenError, report

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


def test_tree_is_let_go_at_once_and_not_when_the_collector_comes_by():
    array = np.zeros(3)
    dead = weakref.ref(array)
    tree = {"a": {"b": array}, "c": [(array,)]}
    gc.disable()
    try:
        found = report(tree)
        del array, tree
        assert dead() is None
    finally:
        gc.enable()
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


@pytest.mark.parametrize(
    ("more", "initialised"), [("", "False"), ('tree["live"] = jax.numpy.zeros(3)', "True")]
)
def test_no_backend_is_initialised_and_the_check_sees_one_that_is(more, initialised):
    code = NO_BACKEND.replace("{more}", more)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (f"{initialised}\n", 0), done.stderr


# --- Errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [0, 1, 2, 70, 200])
def test_dict_of_mixed_keys_is_an_error_that_names_the_path(levels):
    tree = oracle.nested(levels, {"ok": 1, "bad": {1: 1, "a": 2}}, lambda t: {"in": t})
    with pytest.raises(
        FlattenError, match=r"cannot flatten the dict at .*bad: .*keys of type int, str"
    ) as caught:
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
    with pytest.raises(
        FlattenError, match=r"x/1: its own flatten function raised OSError: disk on fire"
    ) as caught:
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
    with pytest.raises(FlattenError, match=r"the tree contains itself: .* is the same object as"):
        report(CYCLES[name])


def test_cycle_error_names_both_ends():
    with pytest.raises(
        FlattenError, match=r"contains itself: x/1/y is the same object as x, so it has no end"
    ):
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
        "import leafreport, test_flatten_limits, oracle\n"
        "for tree in [test_flatten_limits.Endless()] * 3 + [oracle.nested(300, test_flatten_limits.Raises())] * 9:\n"
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
