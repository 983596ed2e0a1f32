"""The stack of Dense layers, which every backend builds: one set of promises, held for each."""

import gc
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leafreport import adapter, assert_same, leaf_count, report

# Where each framework comes from, what its kernel and bias are called, and whether a kernel is (out, in).
IMPORTED = {"flax": "flax", "nnx": "flax", "equinox": "equinox", "haiku": "haiku"}
KERNEL = {"flax": "kernel", "nnx": "kernel", "equinox": "weight", "haiku": "w"}
BIAS = {"flax": "bias", "nnx": "bias", "equinox": "bias", "haiku": "b"}
OUT_FIRST = {"equinox"}


@pytest.fixture(params=IMPORTED)
def backend(request):
    pytest.importorskip(IMPORTED[request.param])
    return request.param


def build(backend, layers, *, seed=0, width=6, rows=4, abstract=False, dtype=np.float32):
    sample = jax.ShapeDtypeStruct((rows, width), dtype)
    return adapter(backend).dense_stack(seed, sample, layers, abstract=abstract)


def arrays(tree):
    return jax.tree_util.tree_leaves(tree)


# --- The same stack, written by hand ------------------------------------------------------------------------


def flax_by_hand(key, width, layers):
    import flax.linen as nn

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(layers):
                x = nn.Dense(width)(x)
            return x

    return Stack().init(key, jnp.ones((2, width)))


def nnx_by_hand(key, width, layers):
    from flax import nnx

    class Stack(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(layers)])

    return nnx.state(Stack(nnx.Rngs(key)), nnx.Param)


def equinox_by_hand(key, width, layers):
    import equinox as eqx

    return [eqx.nn.Linear(width, width, key=each) for each in jax.random.split(key, layers)]


def haiku_by_hand(key, width, layers):
    import haiku as hk

    def forward(x):
        for _ in range(layers):
            x = hk.Linear(width)(x)
        return x

    return hk.transform(forward).init(key, jnp.ones((2, width)))


BY_HAND = {
    "flax": flax_by_hand,
    "nnx": nnx_by_hand,
    "equinox": equinox_by_hand,
    "haiku": haiku_by_hand,
}


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_values_equal_those_of_the_stack_written_by_hand(backend, seed):
    by_hand = arrays(BY_HAND[backend](jax.random.PRNGKey(seed), 6, 12))
    built = arrays(build(backend, 12, seed=seed).params)
    assert len(built) == len(by_hand) == 24
    for ours, theirs in zip(built, by_hand, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert (ours == theirs).all()


def test_seeds_give_different_values(backend):
    zero, one = (build(backend, 2, seed=seed) for seed in (0, 1))
    kernels = [(a, b) for a, b in zip(arrays(zero.params), arrays(one.params), strict=True) if a.ndim == 2]
    assert len(kernels) == 2
    assert not any((a == b).any() for a, b in kernels)


def test_layers_of_one_stack_have_different_values(backend):
    """A list of one layer, N times, would be one layer N times."""
    kernels = [leaf for leaf in arrays(build(backend, 12).params) if leaf.ndim == 2]
    assert len({np.asarray(kernel).tobytes() for kernel in kernels}) == 12


def test_one_seed_gives_every_framework_its_own_values():
    """What a seed gives is a framework's own affair: values are never compared across two by their seed."""
    for name in IMPORTED.values():
        pytest.importorskip(name)
    firsts = {}
    for name in IMPORTED:
        model = build(name, 1)
        (kernel,) = (np.asarray(leaf) for leaf in arrays(model.params) if leaf.ndim == 2)
        firsts[name] = np.sort(kernel.ravel()).tobytes()  # whichever way round it is
    assert len(set(firsts.values())) == 4


# --- Counts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [0, 1, 2, 11, 12, 100])
def test_leaf_count_is_twice_the_layers(backend, layers):
    counted = leaf_count(0.0, np.ones((4, 8), np.float32), float(layers), backend=backend)
    assert counted.shape == (1,)
    assert counted.dtype == jnp.float32
    assert counted.tolist() == [2.0 * layers]


@pytest.mark.parametrize("layers", [0, 1, 2, 11, 12])
def test_totals_are_those_of_the_layers(backend, layers):
    model = build(backend, layers, width=5)
    r = report(model)
    assert r.leaf_count == r.logical_leaf_count == len(arrays(model.params)) == 2 * layers
    assert r.param_count == sum(leaf.size for leaf in arrays(model.params)) == layers * (5 * 5 + 5)
    assert r.nbytes == sum(leaf.nbytes for leaf in arrays(model.params)) == 4 * r.param_count


@pytest.mark.parametrize("layers", [0, 1, 3, 12])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int32])
def test_abstract_equals_concrete(backend, layers, dtype):
    concrete = build(backend, layers, dtype=dtype)
    abstract = build(backend, layers, dtype=dtype, abstract=True)
    assert jax.tree.structure(concrete.params) == jax.tree.structure(abstract.params)
    assert_same(concrete, abstract)
    assert list(concrete.facts) == list(abstract.facts)
    for real, traced in zip(arrays(concrete.params), arrays(abstract.params), strict=True):
        assert isinstance(real, jax.Array)
        assert isinstance(traced, jax.ShapeDtypeStruct)
        assert (real.shape, real.dtype) == (traced.shape, traced.dtype)


# --- Facts --------------------------------------------------------------------------------------------------


def test_every_leaf_is_known(backend):
    model = build(backend, 12)
    r = report(model)
    axes = ("out", "in") if backend in OUT_FIRST else ("in", "out")
    expected = {KERNEL[backend]: axes, BIAS[backend]: ("out",)}
    assert {leaf.role for leaf in r} == {"params"}
    assert {leaf.owner for leaf in r} == {"Dense" if backend == "flax" else "Linear"}
    for leaf in r:
        (name,) = expected.keys() & set(leaf.path)
        assert leaf.axes == expected[name]
        assert leaf.stacked is None
    assert r.roles["params"].leaf_count == 24


def test_modules_are_those_of_the_paths(backend):
    """Twelve layers: by name, the tenth would come before the second."""
    model = build(backend, 12)
    by_module = {}
    for fact in model.facts:
        by_module.setdefault(fact.module, []).append(fact)
    assert len(by_module) == 12
    assert all(len(facts) == 2 for facts in by_module.values())
    for path, fact in zip(report(model).paths, model.facts, strict=True):
        start = path.index(fact.module[0])
        assert path[start : start + len(fact.module)] == fact.module
        number = "".join(c for c in fact.module[-1] if c.isdecimal()) or "0"
        assert fact.order in (None, int(number))  # called in the order in which they are numbered
    assert {fact.order is None for fact in model.facts} == {backend in ("nnx", "equinox")}


# --- The function -------------------------------------------------------------------------------------------


def forward(backend, params, x):
    """The stack by NumPy, in float64, each layer found by its place in the model."""
    layers = {}
    for leaf, array in zip(report(params), arrays(params), strict=True):
        name = KERNEL[backend] if KERNEL[backend] in leaf.path else BIAS[backend]
        step = leaf.path[leaf.path.index(name) - 1]
        number = int("".join(c for c in step if c.isdecimal()) or 0)
        layers.setdefault(number, {})[name] = np.asarray(array, np.float64)
    y = x.astype(np.float64)
    for number in range(len(layers)):
        kernel = layers[number][KERNEL[backend]]
        y = y @ (kernel.T if backend in OUT_FIRST else kernel) + layers[number][BIAS[backend]]
    return y


@pytest.mark.parametrize("layers", [0, 1, 12])
def test_apply_equals_a_forward_pass_in_numpy(backend, layers):
    model = build(backend, layers, seed=3)
    noise = np.random.default_rng(1)
    params = jax.tree.map(  # biases are zeros otherwise
        lambda leaf: leaf + jnp.asarray(noise.normal(size=leaf.shape) / 10, leaf.dtype), model.params
    )
    x = noise.normal(size=(4, 6)).astype(np.float32)
    y = forward(backend, params, x)
    assert y.shape == (4, 6)
    np.testing.assert_allclose(model.apply(params, x), y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.jit(model.apply)(params, x), y, rtol=1e-4, atol=1e-5)


def test_apply_of_an_abstract_stack_takes_concrete_params(backend):
    concrete, abstract = build(backend, 3), build(backend, 3, abstract=True)
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    assert (abstract.apply(concrete.params, x) == concrete.apply(concrete.params, x)).all()
    shape = jax.eval_shape(abstract.apply, abstract.params, x)
    assert (shape.shape, shape.dtype) == ((4, 6), jnp.float32)


def test_apply_is_differentiable_in_the_params(backend):
    model = build(backend, 2)
    grads = jax.grad(lambda params: model.apply(params, jnp.ones((4, 6))).sum())(model.params)
    assert jax.tree.structure(grads) == jax.tree.structure(model.params)
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in arrays(grads))


# --- Memory -------------------------------------------------------------------------------------------------


def live(make):
    """How many more arrays live once something is made, and is still held."""
    gc.collect()  # what other tests left must not go meanwhile
    before = len(jax.live_arrays())
    held = make()
    return len(jax.live_arrays()) - before, held


def test_abstract_makes_no_array_and_concrete_does(backend):
    build(backend, 1, abstract=True)  # what a framework makes once, when it is first used, is not counted
    assert live(lambda: build(backend, 3, abstract=True))[0] == 0
    assert live(lambda: build(backend, 3))[0] >= 6


# 300 layers of width 8,192: 75 GiB of parameters. What a process needs at most, from its start, is what Linux says of
# its memory map; getrusage would begin with what the process that started it had needed.
MEMORY = """
import sys

import jax, numpy, leafreport

def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024

backend, width, layers, abstract = sys.argv[1], *map(int, sys.argv[2:])
leafreport.leaf_count(0, jax.ShapeDtypeStruct((4, 8), numpy.float32), 1, backend=backend)
before = peak()
x = jax.ShapeDtypeStruct((4, width), numpy.float32)
model = leafreport.adapter(backend).dense_stack(0, x, layers, abstract=bool(abstract))
r = leafreport.report(model)
print(r.leaf_count, r.nbytes, peak() - before)
"""


def measured(backend, width, layers, *, abstract):
    command = [sys.executable, "-c", MEMORY, backend, str(width), str(layers), str(int(abstract))]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    leaves, nbytes, grown = map(int, done.stdout.split())
    assert leaves == 2 * layers
    assert nbytes == 4 * layers * (width * width + width)
    return nbytes, grown


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
def test_abstract_stack_of_75_gib_takes_mib(backend):
    nbytes, grown = measured(backend, 8192, 300, abstract=True)
    assert nbytes > 74 * 2**30
    assert grown < 250 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
def test_concrete_stack_takes_what_it_is():
    """The twin: what is measured does grow where arrays are made."""
    pytest.importorskip("flax")
    nbytes, grown = measured("flax", 4096, 2, abstract=False)
    assert grown > nbytes // 2  # some of it takes the room that the import had left
