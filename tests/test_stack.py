import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import TOY, install

from leafreport import AdapterError, FrameworkMissingError, LeafReportError, StackError, leaf_count

X = jax.ShapeDtypeStruct((4, 8), np.float32)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A backend that needs no framework, with one leaf a layer; gives its name."""
    folder = tmp_path_factory.mktemp("toy")
    install(
        folder, "toy-stack", {"toy-stack": "toy_stack:adapter"}, modules={"toy_stack": TOY.format(name="t")}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield "toy-stack"


def check(counted, leaves):
    assert isinstance(counted, jax.Array)
    assert (counted.shape, counted.dtype, counted.weak_type) == ((1,), jnp.float32, False)
    assert counted.tolist() == [float(leaves)]


# --- The count ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [0, 1, 3, 12, 100, 1000, 0.0, 1.0, 3.0, 12.0, 100.0])
def test_leaf_count_is_two_a_layer(layers):
    pytest.importorskip("flax")
    check(leaf_count(0.0, X, layers), 2 * layers)


def test_leaf_count_of_concrete_input():
    pytest.importorskip("flax")
    assert str(leaf_count(0.0, jnp.ones((4, 8)), 4)) == "[8.]"


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        (0.9, 0),
        (1.0, 1),
        (1.1, 1),
        (2.7, 2),
        (-0.5, 0),  # cast first, then checked
        (-0.0, 0),
        (True, 1),
        (np.float32(2.7), 2),
        (np.float64(2.7), 2),
        (np.int64(2), 2),
        (np.array(2.7), 2),
        (np.array(2), 2),
        (jnp.float32(2.7), 2),
        (jnp.int32(2), 2),
        (jnp.bfloat16(2), 2),
    ],
)
def test_leaf_count_casts_num_layers(given, layers, toy):
    check(leaf_count(0.0, X, given, backend=toy), layers)


@pytest.mark.parametrize(
    "x",
    [
        jax.ShapeDtypeStruct((4, 8), np.float32),
        np.ones((4, 8)),
        np.ones((4, 8), np.int32),
        jnp.ones((4, 8), jnp.bfloat16),
        jnp.ones((4, 8), jnp.float16),
        jnp.ones((4, 8), bool),
        jnp.ones((4, 8), jnp.uint8),
        np.ones((0, 8), np.float32),
        np.ones((4, 1), np.float32),
    ],
    ids=lambda x: f"{type(x).__name__}-{x.dtype}-{x.shape}",
)
def test_leaf_count_takes_any_sample(x):
    pytest.importorskip("flax")
    check(leaf_count(0.0, x, 3), 6)


def test_leaf_count_reads_no_value_of_the_sample():
    pytest.importorskip("flax")
    gone = jnp.ones((4, 8))
    gone.delete()
    check(leaf_count(0.0, gone, 3), 6)


def test_leaf_count_inside_a_trace(toy):
    def traced(x):
        return leaf_count(0.0, x, 3, backend=toy)

    check(jax.jit(traced)(jnp.ones((4, 8))), 3)


def test_leaf_count_counts_what_was_built(tmp_path, monkeypatch):
    """A backend that adds one parameter more is counted with it: no formula knows."""
    pytest.importorskip("flax")
    code = """
import leafreport
from leafreport_flax import FlaxAdapter

class Odd(FlaxAdapter):
    name = "odd-stack"

    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        built = super().dense_stack(seed, x, num_layers, abstract=abstract)
        extra = built.params["params"]["Dense_0"]["bias"]
        return leafreport.Model({**built.params, "extra": extra}, built.apply)

adapter = Odd()
"""
    install(tmp_path, "odd-stack", {"odd-stack": "odd_stack:adapter"}, modules={"odd_stack": code})
    monkeypatch.syspath_prepend(tmp_path)
    for layers in (1, 2, 7):
        check(leaf_count(0.0, X, layers, backend="odd-stack"), 2 * layers + 1)


@pytest.mark.parametrize(
    "seed", [0, 1, 2**32 - 1, 0.0, 0.9, -0.9, float(2**32 - 1), np.uint32(5), jnp.int32(5)]
)
def test_leaf_count_takes_every_seed_that_does_not_wrap(seed, toy):
    pytest.importorskip("flax")
    check(leaf_count(seed, X, 1), 2)
    check(leaf_count(seed, X, 1, backend=toy), 1)


# --- What is refused ----------------------------------------------------------------------------------------

FINITE = "it must be a finite number"
NUMBER = "give a number, which is cast to int"


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (-1, "num_layers is -1: a stack has 0 layers or more"),
        (-1.0, "num_layers is -1: a stack has 0 layers or more"),
        (-1.9, "num_layers is -1: a stack has 0 layers or more"),
        (-(10**30), "num_layers is -1000000000000000000000000000000: "),
        (float("nan"), f"num_layers is nan: {FINITE}"),
        (float("inf"), f"num_layers is inf: {FINITE}"),
        (-float("inf"), f"num_layers is -inf: {FINITE}"),
        (jnp.float32("nan"), f"num_layers is nan: {FINITE}"),
        ("3", f"num_layers is a str: {NUMBER}"),
        (b"3", f"num_layers is a bytes: {NUMBER}"),
        (None, f"num_layers is a NoneType: {NUMBER}"),
        (3j, f"num_layers is a complex: {NUMBER}"),
        ([3], f"num_layers is a list: {NUMBER}"),
    ],
)
def test_leaf_count_refuses_num_layers(layers, said, toy):
    with pytest.raises(StackError, match=r"^num_layers is ") as caught:
        leaf_count(0.0, X, layers, backend=toy)
    assert str(caught.value).startswith(said)
    assert isinstance(caught.value, ValueError)


WRAP = "jax.random.PRNGKey would wrap it to another seed without a word. Give one from 0 to 4294967295."


@pytest.mark.parametrize(
    ("seed", "said"),
    [
        (-1, f"seed is -1: {WRAP}"),
        (2**32, f"seed is 4294967296: {WRAP}"),
        (2**32 + 1, f"seed is 4294967297: {WRAP}"),
        (1e300, f"seed is {int(1e300)}: {WRAP}"),
        (float("nan"), f"seed is nan: {FINITE}."),
        (float("inf"), f"seed is inf: {FINITE}."),
        ("0", f"seed is a str: {NUMBER}."),
        (jax.random.key(0), "seed is a PRNGKeyArray: "),
        (jax.random.PRNGKey(0), "seed is a ArrayImpl: "),
    ],
    ids=range(9),
)
def test_leaf_count_refuses_seed(seed, said, toy):
    with pytest.raises(StackError, match=r"^seed is ") as caught:
        leaf_count(seed, X, 1, backend=toy)
    assert str(caught.value).startswith(said)


def test_seeds_that_are_refused_do_wrap():
    """Why they are refused: JAX gives another seed's key."""
    key = jax.random.PRNGKey
    assert (key(2**32) == key(0)).all()
    assert (key(-1) == key(2**32 - 1)).all()
    assert not (key(2**32 - 1) == key(0)).all()


@pytest.mark.parametrize("x64", ["0", "1"])
def test_leaf_count_takes_larger_seeds_where_jax_does(x64, tmp_path):
    install(
        tmp_path, "toy-x64", {"toy-x64": "toy_x64:adapter"}, modules={"toy_x64": TOY.format(name="toy-x64")}
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import numpy, jax, leafreport\nx = numpy.ones((4, 8))\n"
        "for seed in (0, 2**32 - 1, 2**32, 2**63 - 1, 2**63, -1):\n"
        "    try:\n        print(leafreport.leaf_count(seed, x, 2, backend='toy-x64').dtype, end=' ')\n"
        "        jax.random.PRNGKey(seed)\n"
        "    except leafreport.StackError as error:\n        print('refused', end=' ')\n"
    )
    environment = {
        "JAX_ENABLE_X64": x64,
        "JAX_PLATFORMS": "cpu",
        "PATH": "",
        "PYTHONPATH": ":".join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    most = 4 if x64 == "1" else 2
    assert done.stdout.split() == ["float32"] * most + ["refused"] * (6 - most)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.ones(()), r"x has shape \(\), of rank 0: a sample is 2-D, \(N, D\)"),
        (np.ones(8), r"x has shape \(8,\), of rank 1: a sample is 2-D, \(N, D\)"),
        (np.ones((2, 4, 8)), r"x has shape \(2, 4, 8\), of rank 3: a sample is 2-D, \(N, D\)"),
        (
            np.ones((4, 0)),
            r"x has shape \(4, 0\): D = x\.shape\[-1\] is the layers' width and must be above 0\.",
        ),
        ([[1.0, 2.0]], r"x is a list: give an array of shape \(N, D\), or a jax\.ShapeDtypeStruct\."),
        ((4, 8), r"x is a tuple: give an array of shape \(N, D\)"),
        (None, r"x is a NoneType: give an array of shape \(N, D\)"),
        (np.float32, r"x is a type: give an array of shape \(N, D\)"),
    ],
    ids=range(8),
)
def test_leaf_count_refuses_sample(x, said, toy):
    with pytest.raises(StackError, match=f"^{said}"):
        leaf_count(0.0, x, 1, backend=toy)


def test_leaf_count_of_unknown_backend_names_the_known_ones():
    with pytest.raises(AdapterError, match=r"^no backend is called 'pytorch'\. Known: .*\bflax\b"):
        leaf_count(0.0, X, 1, backend="pytorch")


# Refuses flax as an interpreter without it does; the rest of the way is the real one.
BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "flax":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

if blocked:
    sys.meta_path.insert(0, Block())
import numpy, leafreport
try:
    print(leafreport.leaf_count(0.0, numpy.ones((4, 8)), 3))
except leafreport.FrameworkMissingError as error:
    print(isinstance(error, ImportError), error)
"""


def test_leaf_count_without_the_framework_gives_the_line_that_installs_it():
    def run(blocked):
        command = [sys.executable, "-c", f"blocked = {blocked}\n{BLOCK}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert run(True) == (
        "True the backend 'flax' needs flax, which cannot be imported (No module named 'flax'). "
        "Install it: pip install 'leafreport[flax]'\n"
    )
    pytest.importorskip("flax")
    assert run(False) == "[6.]\n"


def test_leaf_count_without_an_outsiders_framework_names_it(tmp_path, monkeypatch):
    code = TOY.format(name="toy7").replace("import jax", "import toy7_framework")
    install(tmp_path, "toy-7", {"toy7": "toy7:adapter"}, modules={"toy7": code})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FrameworkMissingError, match=r"^the backend 'toy7' needs toy7_framework, ") as caught:
        leaf_count(0.0, X, 1, backend="toy7")
    assert str(caught.value).endswith("Install it: pip install 'toy7_framework'")
    assert isinstance(caught.value, LeafReportError)
